//! One process's life: a start on what the last one left, steps by chance, an end.
//!
//! Owns the caller's side of the log's contract: it keeps the rules that Raft and the broker keep
//! (cuts off nothing committed, applies in order, purges below a durable checkpoint), so that what
//! then goes wrong is the log's fault.

use std::cell::Cell;
use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::Duration;

use barrage_commitlog::{Checkpoint, CommitLog, Floor, OpenError, Pace, Ticket, Vote};
use barrage_model::{LogId, LogIndex, NodeId, Offset, Term};
use barrage_world::sim::Disk;
use barrage_world::{Instant, fs, sleep, spawn, timeout};

use super::bench::{Bench, Stored, key};
use super::ledger::{Asked, Found, Short};
use super::machine::{Effect, Machine};
use super::payload;
use super::plan::{DIR, DiskFault, End, LifePlan, SHARD, Step};
use super::reading;

/// A log that is whole answers within this time; a stall is shorter.
const ANSWER_TIME_MAX: Duration = Duration::from_secs(120);
/// Bytes of a part of a checkpoint: a state has several.
const PART_BYTES: usize = 100;

/// A life that runs.
pub(super) struct Life {
    pub(super) bench: Rc<Bench>,
    pub(super) plan: LifePlan,
    pub(super) log: CommitLog,
    /// Tickets that have not resolved.
    waiting: Rc<Cell<u64>>,
    /// Nobody is served before everything below this index, applied by an earlier life, is applied
    /// again: index files may be of a later state than the checkpoint, without what it deleted.
    serves_from: Cell<u64>,
    checkpointing: Rc<Cell<bool>>,
    retaining: Rc<Cell<bool>>,
    /// Something rots that is in no other place: a read may say so.
    pub(super) rotten: Cell<bool>,
}

/// What became of a start.
pub(super) enum Start {
    Running(Rc<Life>),
    /// Refused for what the disk answered or the damage it has; says why.
    Refused(OpenError),
}

/// The newest checkpoint and its state.
async fn read_checkpoint(dir: &Path) -> io::Result<(Option<Checkpoint>, Vec<u8>)> {
    let found = CommitLog::read_checkpoint(dir, SHARD).await?;
    let mut state = Vec::new();
    if let Some(found) = &found {
        let mut parts = found.parts().await?;
        while let Some(part) = parts.next().await? {
            state.extend_from_slice(&part);
        }
    }
    Ok((found, state))
}

/// Starts on what lies on the disk and judges it. `damaged` when damage was done on purpose.
pub(super) async fn start(bench: &Rc<Bench>, plan: LifePlan, damaged: bool) -> Start {
    let dir = PathBuf::from(DIR);
    let doubtful = damaged || plan.may_fail();
    let (checkpoint, state) = match read_checkpoint(&dir).await {
        Ok(found) => found,
        Err(source) => {
            let error = OpenError::Io { action: "read the checkpoint of", path: dir, source };
            return Start::Refused(error);
        }
    };
    let applied = checkpoint.as_ref().map(|found| found.id);
    bench.judge_checkpoint(applied.map(|id| (id, state.as_slice())), doubtful);
    let opened = CommitLog::open(dir, plan.options.clone(), checkpoint).await;
    let (log, report) = match opened {
        Ok(opened) => opened,
        Err(error) => return Start::Refused(error),
    };
    tracing::info!("opened at checkpoint {applied:?}: {report:?}");
    let state = applied.and_then(|_| Machine::decode(&state));
    *bench.machine.borrow_mut() = state.unwrap_or_default();
    let life = Life {
        bench: Rc::clone(bench),
        plan,
        log,
        waiting: Rc::default(),
        serves_from: Cell::default(),
        checkpointing: Rc::default(),
        retaining: Rc::default(),
        rotten: Cell::default(),
    };
    if let Err(error) = life.judge_start().await {
        return Start::Refused(error);
    }
    Start::Running(Rc::new(life))
}

/// Lives as planned on `disk`.
pub(super) async fn live(bench: Rc<Bench>, plan: LifePlan, disk: Disk) {
    let full = plan.fault == Some(DiskFault::Full);
    let (may_fail, lying) = (plan.may_fail(), plan.lying);
    let life = match start(&bench, plan, false).await {
        Start::Running(life) => life,
        Start::Refused(error) => {
            // What a disk cannot read now is no damage.
            let excused = match error {
                OpenError::Damaged(_) => lying,
                _ => may_fail,
            };
            if excused {
                tracing::info!("refused: {error}");
            } else {
                bench.violation(format!("refused: {error}"));
            }
            return;
        }
    };
    let read = |_| {
        let reader = Rc::clone(&life);
        spawn(async move { reading::read_at_random(&reader).await })
    };
    let reads: Vec<_> = (0..bench.plan.readers).map(read).collect();
    for number in 0..life.plan.steps {
        if full && number == life.plan.steps / 3 {
            disk.set_capacity_bytes(0);
        } else if full && number == life.plan.steps * 2 / 3 {
            disk.set_capacity_bytes(u64::MAX);
        }
        if bench.failed() || life.log.poisoned().is_some() {
            break;
        }
        life.step().await;
    }
    disk.set_capacity_bytes(u64::MAX);
    drop(reads);
    life.judge_poison();
    if life.plan.end == End::Close {
        life.close().await;
    }
}

impl Life {
    /// Judges what is there after the start, and applies what was applied before.
    async fn judge_start(&self) -> Result<(), OpenError> {
        let bench = &self.bench;
        let found = self.found().await?;
        let hard = self.log.hard_state();
        bench.judge_found(&found, hard.committed);
        let partitions = bench.machine.borrow().partitions.clone();
        self.log.keep_only(|known| partitions.contains_key(&known.partition.0));
        for (partition, extent) in &partitions {
            self.log.set_start(key(*partition), Offset(extent.start));
        }
        // A vote that was found binds; so does an entry's term.
        let next = {
            let ledger = bench.ledger.borrow();
            let voted = ledger.latest().vote().map_or(0, |vote| vote.term.0);
            let last = ledger.latest().last().map_or(0, |last| last.term.0);
            bench.term.set(bench.term.get().max(voted).max(last));
            ledger.latest().next_index()
        };
        // Only a disk that lied has lost what was committed.
        let next = bench.committed_next.get().min(next);
        self.serves_from.set(next);
        self.apply_to(next).await;
        Ok(())
    }

    async fn found(&self) -> Result<Found, OpenError> {
        let first = self.log.first_log_id().map_or(0, |id| id.index.0);
        let entries = self.log.read_whole_entries(first..u64::MAX, usize::MAX).await;
        let entries = entries.map_err(|error| match error {
            barrage_commitlog::ReadError::Damaged(damage) => OpenError::Damaged(damage),
            error => {
                let source = io::Error::other(error.to_string());
                OpenError::Io { action: "read", path: DIR.into(), source }
            }
        })?;
        let hard = self.log.hard_state();
        Ok(Found { entries, vote: hard.vote, floor: hard.floor })
    }

    /// Whether readers are let in.
    pub(super) fn serves(&self) -> bool {
        self.bench.machine.borrow().next_index() >= self.serves_from.get()
    }

    async fn step(self: &Rc<Self>) {
        let bench = &self.bench;
        let step = bench.draw(|random| bench.plan.weights.draw(random));
        match step {
            Step::Append => self.append(),
            Step::Vote => self.vote(),
            Step::Truncate => self.truncate(),
            Step::Apply => {
                let from = bench.committed_next.get();
                let most = bench.ledger.borrow().durable_next(from);
                let to = bench.draw(|random| random.between(from, most));
                self.apply_to(to).await;
            }
            Step::Checkpoint => self.checkpoint(),
            Step::Floor => match self.plan.options.floor {
                Floor::Checkpoint => self.floor(),
                Floor::Records => self.released_floor().await,
            },
            Step::Retain => self.retain(),
            Step::Rewrite => self.rewrite(),
            Step::Read => reading::read_once(self).await,
            Step::Settle => self.settle().await,
            Step::Rest => {
                let rest = bench.draw(|random| random.between(1, 200));
                sleep(Duration::from_millis(rest)).await;
            }
        }
        let pause = bench.draw(|random| if random.one_in(3) { random.below(3_000) } else { 0 });
        if pause > 0 {
            sleep(Duration::from_micros(pause)).await;
        }
    }

    fn append(&self) {
        // A broker takes no records while the disk is full.
        if self.log.is_full() {
            return;
        }
        let bench = &self.bench;
        let count = bench.draw(|random| random.between(1, bench.plan.entries_max));
        let sent = payload::entries(bench, count, self.log.entry_bytes_max());
        let mut number = 0;
        for sent in &sent {
            number = bench.ledger.borrow_mut().ask(Asked::Append(Rc::clone(sent)));
        }
        let entries = sent.iter().map(|sent| sent.entry.clone()).collect();
        self.watch(number, self.log.append(entries));
    }

    fn vote(&self) {
        let bench = &self.bench;
        bench.term.set(bench.term.get() + bench.draw(|random| random.below(2)));
        let (node, committed) = bench.draw(|random| (NodeId(random.below(3)), random.one_in(2)));
        let vote = Vote { term: Term(bench.term.get()), node, committed };
        let number = bench.ledger.borrow_mut().ask(Asked::Vote(vote));
        self.watch(number, self.log.save_vote(vote));
    }

    /// A new leader cuts off what it does not have: nothing that is committed.
    fn truncate(&self) {
        let bench = &self.bench;
        let mut ledger = bench.ledger.borrow_mut();
        let latest = ledger.latest();
        let (committed, next) = (bench.committed_next.get(), latest.next_index());
        if next <= committed {
            return;
        }
        let keep = bench.draw(|random| random.between(committed, next - 1));
        let last = match keep.checked_sub(1) {
            Some(last) => latest.entry(last).map(|sent| sent.entry.id).or(latest.floor()),
            None => None,
        };
        bench.term.set(bench.term.get() + 1);
        let number = ledger.ask(Asked::Truncate(last));
        drop(ledger);
        self.watch(number, self.log.truncate_after(last));
    }

    /// Entries below `next` are committed; applies all of them.
    async fn apply_to(&self, next: u64) {
        let bench = &self.bench;
        bench.committed_next.set(bench.committed_next.get().max(next));
        let from = bench.machine.borrow().next_index();
        if next <= from {
            return;
        }
        if let Some(sent) = bench.ledger.borrow().latest().entry(next - 1) {
            self.log.set_committed(sent.entry.id);
        }
        let entries = match self.log.read_entries(from..next, usize::MAX).await {
            Ok(entries) => entries,
            Err(error) => return self.read_failed("entries to apply", &error),
        };
        if entries.len() as u64 != next - from {
            let found = entries.len();
            bench.violation(format!("asked for entries {from}..{next}, found {found}"));
            return;
        }
        for entry in entries {
            let id = entry.id;
            let effects = bench.machine.borrow_mut().apply(&entry);
            for effect in effects {
                self.carry_out(effect, id);
            }
            self.log.set_applied(id);
        }
    }

    fn carry_out(&self, effect: Effect, id: LogId) {
        match effect {
            Effect::Index { run } => {
                self.log.index_run(id.index, run);
                self.store(id.index, run);
            }
            Effect::Refuse { run } => self.log.refuse_run(id.index, run),
            Effect::Start { partition, offset } => self.log.set_start(key(partition), offset),
            Effect::Forget { partition } => self.log.forget(key(partition)),
        }
        // At once, while somebody still reads there.
        let lets_go = matches!(effect, Effect::Start { .. } | Effect::Forget { .. });
        if lets_go && self.bench.draw(|random| random.one_in(2)) {
            self.retain();
        }
    }

    /// Remembers the records of an accepted run, as they must be read from now on.
    fn store(&self, index: LogIndex, run: usize) {
        let bench = &self.bench;
        let ledger = bench.ledger.borrow();
        let Some(sent) = ledger.latest().entry(index.0) else { return };
        let Some(run) = sent.entry.runs.get(run) else { return };
        let mut batches = run.batches.iter().peekable();
        while let Some(batch) = batches.next() {
            let next = batches.peek().map_or(run.next_offset(), |next| next.base_offset);
            let stored = Stored {
                bytes: payload::stamped(batch),
                next_offset: next.0,
                log_time_ms: sent.entry.log_time_ms,
            };
            let place = (run.key.partition.0, batch.base_offset.0);
            let before = bench.stored.borrow_mut().insert(place, Rc::new(stored));
            if before.is_some_and(|before| before.bytes != payload::stamped(batch)) {
                drop(ledger);
                bench.violation(format!("apply decided differently at {place:?}"));
                return;
            }
        }
    }

    fn checkpoint(&self) {
        let bench = Rc::clone(&self.bench);
        let machine = bench.machine.borrow();
        let Some(id) = machine.applied() else { return };
        if self.checkpointing.replace(true) {
            return;
        }
        let state = machine.encode();
        drop(machine);
        bench.checkpoint_begun(id, state.clone());
        let (log, running) = (self.log.clone(), Rc::clone(&self.checkpointing));
        let believed = !self.plan.lying;
        drop(spawn(async move {
            let parts: Vec<_> = state.chunks(PART_BYTES).map(<[u8]>::to_vec).collect();
            if log.write_checkpoint(id, parts).await.is_ok() && believed {
                bench.checkpoint_promised(id);
            }
            running.set(false);
        }));
    }

    /// Purges as Raft does: nothing that a durable checkpoint does not cover.
    fn floor(&self) {
        let bench = &self.bench;
        let mut ledger = bench.ledger.borrow_mut();
        let Some(checkpoint) = bench.checkpoint() else { return };
        let first = ledger.latest().first_index();
        if checkpoint.index.0 < first {
            return;
        }
        let index = bench.draw(|random| random.between(first, checkpoint.index.0));
        let Some(floor) = ledger.latest().entry(index).map(|sent| sent.entry.id) else { return };
        let number = ledger.ask(Asked::Floor(floor));
        drop(ledger);
        self.raise_floor(number, floor);
    }

    /// Lets the floor follow the records, as far as they were let go.
    async fn released_floor(&self) {
        let Ok(Some(floor)) = self.log.released_floor(LogIndex(u64::MAX)).await else { return };
        let bench = &self.bench;
        let mut ledger = bench.ledger.borrow_mut();
        let known = ledger.latest().entry(floor.index.0).map(|sent| sent.entry.id);
        if known != Some(floor) {
            drop(ledger);
            let floor = Short(floor);
            bench.violation(format!("the floor may go to {floor}, where {known:?} is"));
            return;
        }
        let number = ledger.ask(Asked::Floor(floor));
        drop(ledger);
        self.raise_floor(number, floor);
    }

    fn raise_floor(&self, number: u64, floor: LogId) {
        self.watch(number, self.log.set_floor(floor));
        // At once, while the floor is on its way to the disk.
        if number.is_multiple_of(2) {
            self.retain();
        }
    }

    fn retain(&self) {
        if self.retaining.replace(true) {
            return;
        }
        let (log, running) = (self.log.clone(), Rc::clone(&self.retaining));
        drop(spawn(async move {
            // What could not be dropped now goes the next time.
            log.retain().await.ok();
            running.set(false);
        }));
    }

    /// Sealed segments are written again without what lies before the partitions' starts.
    fn rewrite(self: &Rc<Self>) {
        let life = Rc::clone(self);
        let mut pace = Pace::new(1 << self.bench.draw(|random| random.between(20, 30)));
        drop(spawn(async move {
            let all = |_, range: Range<Offset>| range.end.0 - range.start.0;
            loop {
                match life.log.rewrite(&all, &mut pace).await {
                    Ok(Some(_)) => life.bench.outcome.borrow_mut().fault("rewritten", 1),
                    Ok(None) => return,
                    Err(error) => return life.read_failed("a segment to rewrite", &error),
                }
            }
        }));
    }

    /// Waits for a ticket beside the steps: promises come when they come.
    fn watch(&self, number: u64, ticket: Ticket) {
        let (bench, waiting) = (Rc::clone(&self.bench), Rc::clone(&self.waiting));
        waiting.set(waiting.get() + 1);
        let may_fail = self.plan.may_fail();
        drop(spawn(async move {
            match ticket.await {
                Ok(()) => {
                    bench.ledger.borrow_mut().promise(number);
                    bench.outcome.borrow_mut().commits += 1;
                }
                Err(error) if may_fail => tracing::info!("request {number}: {error}"),
                Err(error) => bench.violation(format!("request {number} failed: {error}")),
            }
            waiting.set(waiting.get() - 1);
        }));
    }

    /// Waits until all that was asked is answered.
    async fn settle(&self) {
        let mut deadline = Instant::now() + ANSWER_TIME_MAX;
        let mut waiting = self.waiting.get();
        while self.waiting.get() > 0 {
            // Behind a disk that stands still again and again all of them may take long (seed
            // 704183): one after the other must be answered.
            if self.waiting.get() < waiting {
                waiting = self.waiting.get();
                deadline = Instant::now() + ANSWER_TIME_MAX;
            }
            // A full disk answers when there is space again, which is not now.
            if self.log.is_full() || self.log.poisoned().is_some() {
                return;
            }
            if Instant::now() > deadline {
                self.bench.violation(format!("{waiting} requests are not answered"));
                return;
            }
            sleep(Duration::from_millis(1)).await;
        }
    }

    async fn close(&self) {
        self.settle().await;
        if timeout(ANSWER_TIME_MAX, self.log.close()).await.is_err() {
            self.bench.violation("the log does not close");
        }
    }

    fn judge_poison(&self) {
        let excused = self.plan.lying || self.plan.fault.is_some_and(DiskFault::may_poison);
        if let Some(reason) = self.log.poisoned()
            && !excused
        {
            self.bench.violation(format!("poisoned on a disk that is well: {reason}"));
        }
    }

    /// A read has no answer: that needs a reason.
    pub(super) fn read_failed(&self, what: &str, error: &barrage_commitlog::ReadError) {
        if self.plan.may_fail() || self.rotten.get() {
            tracing::info!("{what}: {error}");
        } else {
            self.bench.violation(format!("cannot read {what}: {error}"));
        }
    }
}

/// Makes the folders of a data directory, durable.
pub(super) async fn prepare() {
    fs::create_dir_all("/data/shards").await.ok();
    for dir in ["/", "/data"] {
        fs::sync_dir(dir).await.ok();
    }
}
