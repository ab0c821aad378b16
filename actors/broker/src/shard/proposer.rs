//! The proposer: one task per shard that turns what waits into entries, a few in flight at a time.
//!
//! ```text
//!   wait --something waits, room in flight--> gather ONE entry, decide, propose --> wait
//!   wait --oldest entry applied------------> answer its batches                 --> wait
//!   wait --tick----------------------------> answer what is past its deadline   --> wait
//!   an entry failed, or the term changed: propose nothing until nothing is in flight,
//!   then take the applied state as the projection again
//! ```
//!
//! While entries are in flight more batches arrive and share the next one: the slower the disk, the
//! larger the entries (natural batching). No timer, no linger. What fills an entry of its own waits
//! for nothing: the disk has the first bytes of a burst while the others are received.
//!
//! Owns: the projected state (applied + in flight) and the entries in flight, in order.
//! Must never: touch payload; answer a batch before its entry is applied; let a stamp outlive its
//! term.
//! Invariants: while not stale, the projection is what apply will have made of everything in
//! flight.

use std::collections::VecDeque;
use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::Duration;

use barrage_commitlog::Run;
use barrage_model::{LogIndex, Offset, PartitionKey, Term};
use barrage_raft::{Committed, NotOnAll, Proposal, ProposeError, Proposed};
use barrage_world::channel::oneshot;
use barrage_world::{Instant, buggify, planted, sleep, spawn, unix_time_ms};
use bytes::Bytes;

use super::decide::State;
use super::entry::{self, Building, Built, RunWaiters, Taken, Waiter};
use super::groups::{Op, Outcome, What};
use super::handle::Inner;
use super::machine::{self, Reply};
use super::waiting::{Control, OpReply, StreamOpReply, WaitingOp, WaitingStreamOp};
use crate::api::queue::QueueError;
use crate::api::{Acks, ProduceError, Produced};
use crate::command::Command;
use crate::reply::ProduceReply;

/// Entries in flight at a time: enough to keep the disk busy while the next ones are gathered.
const ENTRIES_IN_FLIGHT_MAX: usize = 4;
/// And of those that are full.
const FULL_ENTRIES_IN_FLIGHT_MAX: usize = 16;
const _: () = assert!(ENTRIES_IN_FLIGHT_MAX <= FULL_ENTRIES_IN_FLIGHT_MAX);
/// Bytes gathered into one entry, which is full with them; a larger batch goes alone.
const ENTRY_BYTES_TARGET: usize = 1 << 20;
/// Operations on groups in one entry, at most, and records that all of them touch, about.
const OPS_PER_ENTRY: usize = 1024;
const RECORDS_PER_ENTRY: usize = 64 * 1024;
/// Bytes of operations on stream groups in one entry; a larger one goes alone.
const STREAM_BYTES_TARGET: usize = 1 << 20;
/// How often deadlines are looked at while anything waits.
const DEADLINE_TICK: Duration = Duration::from_millis(100);
/// The log time of a batch whose entry is no longer known (a duplicate of an older batch).
const LOG_TIME_UNKNOWN: i64 = -1;

/// The proposer's own state.
pub(crate) struct Proposer {
    shard: Rc<Inner>,
    projected: State,
    term: Option<Term>,
    stale: bool,
    one_at_a_time: bool,
    /// What the next entry is of, if any of that waits.
    next_turn: Turn,
    in_flight: VecDeque<InFlight>,
    tick: Option<Pin<Box<dyn Future<Output = ()>>>>,
}

struct InFlight {
    proposed: Proposed<Reply>,
    log_time_ms: i64,
    content: Content,
}

enum Content {
    Batches(Vec<RunWaiters<ProduceReply>>),
    Control(oneshot::Sender<Result<(), ProposeError>>),
    Ops(Vec<OpReply>),
    StreamOps(Vec<StreamOpReply>),
}

/// What entries are of, in turn where several wait.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Turn {
    /// Operations on queue groups.
    Ops,
    /// Operations on stream groups.
    StreamOps,
    /// Batches.
    Batches,
}

impl Turn {
    fn following(self) -> Self {
        match self {
            Self::Ops => Self::StreamOps,
            Self::StreamOps => Self::Batches,
            Self::Batches => Self::Ops,
        }
    }
}

/// Everything that can wake the proposer.
enum Wake {
    /// The oldest entry in flight has an answer.
    Applied(Result<Committed<Reply>, ProposeError>),
    /// Something waits and may be proposed.
    Waiting,
    /// Time to look at deadlines.
    Tick,
}

impl Proposer {
    pub(crate) fn new(shard: Rc<Inner>) -> Self {
        Self {
            shard,
            projected: State::default(),
            term: None,
            stale: true,
            next_turn: Turn::Ops,
            one_at_a_time: buggify("broker-one-entry-in-flight", 1),
            in_flight: VecDeque::new(),
            tick: None,
        }
    }

    /// Runs until the shard is closed and nothing is under way.
    pub(crate) async fn run(mut self) {
        loop {
            self.propose_waiting();
            self.shard.in_flight.set(self.in_flight.len());
            if self.is_idle() && self.shard.is_closing() {
                self.shard.drained.notify_all();
                return;
            }
            match self.next().await {
                Wake::Applied(result) => self.answer_oldest(result),
                Wake::Waiting => {}
                Wake::Tick => self.expire(),
            }
        }
    }

    fn is_idle(&self) -> bool {
        self.in_flight.is_empty() && self.shard.waiting.borrow().is_empty()
    }

    fn may_propose(&self) -> bool {
        self.proposes_from().is_some_and(|bytes| bytes <= self.shard.waiting.borrow().batch_bytes())
    }

    /// How many bytes must wait before the next entry is proposed; `None`: whatever waits, an entry
    /// must be applied first.
    fn proposes_from(&self) -> Option<usize> {
        let count = self.in_flight.len();
        match count {
            0 => Some(0),
            _ if self.stale || self.one_at_a_time => None,
            _ if count < ENTRIES_IN_FLIGHT_MAX => Some(0),
            _ if count < FULL_ENTRIES_IN_FLIGHT_MAX => Some(ENTRY_BYTES_TARGET),
            _ => None,
        }
    }

    async fn next(&mut self) -> Wake {
        if self.is_idle() {
            self.tick = None;
        } else if self.tick.is_none() {
            self.tick = Some(Box::pin(sleep(DEADLINE_TICK)));
        }
        poll_fn(|context| self.poll_next(context)).await
    }

    fn poll_next(&mut self, context: &mut Context<'_>) -> Poll<Wake> {
        if let Some(oldest) = self.in_flight.front_mut()
            && let Poll::Ready(result) = Pin::new(&mut oldest.proposed).poll(context)
        {
            return Poll::Ready(Wake::Applied(result));
        }
        if let Some(bytes) = self.proposes_from() {
            let mut waiting = self.shard.waiting.borrow_mut();
            let is_over = self.shard.is_closing() && self.in_flight.is_empty();
            if is_over || (!waiting.is_empty() && bytes <= waiting.batch_bytes()) {
                return Poll::Ready(Wake::Waiting);
            }
            waiting.set_waker(context.waker(), bytes);
        }
        if let Some(tick) = &mut self.tick
            && tick.as_mut().poll(context).is_ready()
        {
            self.tick = None;
            return Poll::Ready(Wake::Tick);
        }
        Poll::Pending
    }

    fn propose_waiting(&mut self) {
        while self.may_propose() && !self.shard.waiting.borrow().is_empty() {
            let term = self.shard.group.leader_term();
            if self.stale && term.is_some() {
                self.projected = self.shard.group.with_machine(|machine| machine.state().clone());
                self.term = term;
                self.stale = false;
            }
            match term {
                None => self.refuse_all(),
                Some(_) if term != self.term => self.stale = true,
                Some(term) => {
                    let control = self.shard.waiting.borrow_mut().pop_control();
                    match control {
                        Some(control) => self.propose_control(control, term),
                        None => self.propose_next(term),
                    }
                }
            }
        }
    }

    /// Nobody leads here: whatever waits must go elsewhere.
    fn refuse_all(&mut self) {
        loop {
            let control = self.shard.waiting.borrow_mut().pop_control();
            let batch = self.shard.waiting.borrow_mut().pop_if(|_| true);
            let ops = self.shard.waiting.borrow_mut().pop_ops(OPS_PER_ENTRY, usize::MAX);
            let stream_ops =
                self.shard.waiting.borrow_mut().pop_stream_ops(OPS_PER_ENTRY, usize::MAX);
            let is_empty = ops.is_empty() && stream_ops.is_empty();
            if control.is_none() && batch.is_none() && is_empty {
                return;
            }
            for WaitingStreamOp { reply, .. } in stream_ops {
                drop(reply.send(Err(QueueError::NotLeader { hint: None })));
            }
            for WaitingOp { reply, .. } in ops {
                drop(reply.send(Err(QueueError::NotLeader { hint: None })));
            }
            if let Some(control) = control {
                drop(control.reply.send(Err(ProposeError::NotLeader)));
            }
            if let Some(batch) = batch {
                batch.reply.send(Err(self.error(&ProposeError::NotLeader)));
            }
        }
    }

    fn log_time_ms(&self) -> i64 {
        if planted("broker-log-time-falls") {
            // Wrong: a clock that is set back takes the log with it.
            return unix_time_ms();
        }
        self.projected.log_time_ms.max(unix_time_ms())
    }

    fn propose_control(&mut self, control: Control, term: Term) {
        let log_time_ms = self.log_time_ms();
        machine::control(&mut self.projected, &control.command, &mut Vec::new());
        self.projected.end_entry(log_time_ms);
        let command = control.command.encode();
        self.propose(command, Vec::new(), log_time_ms, term, Content::Control(control.reply));
    }

    /// Batches and operations on groups take turns where more than one kind waits.
    fn propose_next(&mut self, term: Term) {
        let waits = |turn: &Turn| {
            let waiting = self.shard.waiting.borrow();
            match turn {
                Turn::Ops => waiting.has_ops(),
                Turn::StreamOps => waiting.has_stream_ops(),
                Turn::Batches => waiting.has_batches(),
            }
        };
        let second = self.next_turn.following();
        let turns = [self.next_turn, second, second.following()];
        let turn = turns.into_iter().find(waits).unwrap_or(Turn::Batches);
        self.next_turn = turn.following();
        match turn {
            Turn::Ops => self.propose_ops(term),
            Turn::StreamOps => self.propose_stream_ops(term),
            Turn::Batches => self.propose_batches(term),
        }
    }

    fn propose_stream_ops(&mut self, term: Term) {
        let log_time_ms = self.log_time_ms();
        let bytes_max = STREAM_BYTES_TARGET.min(self.shard.entry_bytes_max());
        let taken = self.shard.waiting.borrow_mut().pop_stream_ops(OPS_PER_ENTRY, bytes_max);
        let (ops, replies) = taken.into_iter().map(|waiting| (waiting.op, waiting.reply)).unzip();
        self.projected.end_entry(log_time_ms);
        let command = Command::Streams { now_ms: self.shard.lease_now_ms(), ops }.encode();
        self.propose(command, Vec::new(), log_time_ms, term, Content::StreamOps(replies));
    }

    fn propose_ops(&mut self, term: Term) {
        let log_time_ms = self.log_time_ms();
        let taken = self.shard.waiting.borrow_mut().pop_ops(OPS_PER_ENTRY, RECORDS_PER_ENTRY);
        let taken = if planted("broker-acks-before-commit") { answer_acks(taken) } else { taken };
        let (ops, replies): (Vec<Op>, _) =
            taken.into_iter().map(|waiting| (waiting.op, waiting.reply)).unzip();
        let now_ms = self.shard.lease_now_ms();
        for Op { slot, what } in &ops {
            if let What::Claim(claim) = what {
                // Batches behind it are judged by who holds the partition then; the answer comes
                // from apply.
                let _ = self.projected.claim(slot.key, **claim, (log_time_ms, now_ms));
            }
        }
        self.projected.end_entry(log_time_ms);
        let command = Command::Queue { now_ms, ops }.encode();
        self.propose(command, Vec::new(), log_time_ms, term, Content::Ops(replies));
    }

    fn propose_batches(&mut self, term: Term) {
        let log_time_ms = self.log_time_ms();
        let bytes_max = ENTRY_BYTES_TARGET.min(self.shard.entry_bytes_max());
        let now = Instant::now();
        let epoch = i32::try_from(term.0).unwrap_or(i32::MAX);
        let mut building = Building::new(log_time_ms, unix_time_ms(), epoch);
        loop {
            let fits = |size| building.has_room(size, bytes_max);
            let popped = self.shard.waiting.borrow_mut().pop_if(fits);
            let Some(batch) = popped else { break };
            if batch.deadline <= now {
                batch.reply.send(Err(ProduceError::Expired));
                continue;
            }
            let taken = self.shard.group.with_machine(|machine| {
                let delayed = |key| machine.groups().delayed(key);
                building.offer((&mut self.projected, machine.state()), batch, delayed)
            });
            match taken {
                Taken::In => {}
                Taken::Refused { reply, error } => self.refuse(reply, error),
                Taken::Duplicate { key, waiter } => self.duplicate(&mut building, key, waiter),
            }
            if buggify("broker-entry-of-one-batch", 2) {
                break;
            }
        }
        if building.is_empty() {
            return;
        }
        let Built { command, runs, waiters } = building.finish(&mut self.projected);
        self.propose(command, runs, log_time_ms, term, Content::Batches(waiters));
    }

    /// Who was cut off, or handed its lead over, does not know what its successor took: it may not
    /// judge. Time does not tell: a lead that is handed over is over before any lease.
    fn refuse(&self, reply: ProduceReply, error: ProduceError) {
        let shard = Rc::clone(&self.shard);
        drop(spawn(async move {
            let led = shard.group.read_barrier().await;
            reply.send(Err(led.map_or(ProduceError::NotLeader { hint: None }, |()| error)));
        }));
    }

    /// A batch that was accepted before is answered when that one is: now, if it is applied.
    fn duplicate(
        &mut self,
        building: &mut Building<ProduceReply>,
        key: PartitionKey,
        waiter: Waiter<ProduceReply>,
    ) {
        if planted("broker-duplicate-answered-early") {
            // Wrong: what is repeated counts as stored while it is still under way.
            return self.answer_duplicate(key, waiter);
        }
        let mut left = entry::attach(building.waiters_mut(), key, waiter);
        for entry in self.in_flight.iter_mut().rev() {
            let Content::Batches(runs) = &mut entry.content else { continue };
            let Some(waiter) = left else { return };
            left = entry::attach(runs, key, waiter);
        }
        if let Some(waiter) = left {
            self.answer_duplicate(key, waiter);
        }
    }

    fn answer_duplicate(&self, key: PartitionKey, waiter: Waiter<ProduceReply>) {
        let (base_offset, start_offset) = (waiter.base_offset, self.start_offset(key));
        let produced = Produced { base_offset, log_time_ms: LOG_TIME_UNKNOWN, start_offset };
        // Its own entry is applied, so it is not behind the last one that is.
        let applied = self.shard.group.applied().map_or(LogIndex(0), |id| id.index);
        self.stored(waiter, produced, applied);
    }

    fn propose(
        &mut self,
        command: Vec<u8>,
        runs: Vec<Run>,
        log_time_ms: i64,
        term: Term,
        mut content: Content,
    ) {
        if planted("broker-ack-before-commit") {
            // Wrong: the promise is given before the disk has the records.
            self.answer_at_once(&mut content, log_time_ms);
        }
        let proposal = Proposal { command: Bytes::from(command), runs, log_time_ms };
        let proposed = self.shard.group.propose(proposal, term);
        self.in_flight.push_back(InFlight { proposed, log_time_ms, content });
    }

    fn answer_at_once(&self, content: &mut Content, log_time_ms: i64) {
        let Content::Batches(runs) = content else { return };
        for run in runs {
            let start_offset = self.start_offset(run.key);
            for waiter in &mut run.waiters {
                let base_offset = waiter.base_offset;
                if let Some(reply) = waiter.reply.take() {
                    reply.send(Ok(Produced { base_offset, log_time_ms, start_offset }));
                }
            }
        }
    }

    fn answer_oldest(&mut self, result: Result<Committed<Reply>, ProposeError>) {
        let Some(InFlight { log_time_ms, content, .. }) = self.in_flight.pop_front() else {
            return;
        };
        let index = result.as_ref().ok().map(|committed| committed.index);
        match (content, result.map(|committed| committed.reply)) {
            (Content::Ops(replies), Ok(Reply::Queue(outcomes))) => {
                for (reply, outcome) in replies.into_iter().zip(outcomes) {
                    drop(reply.send(Ok(outcome)));
                }
            }
            (Content::Ops(replies), other) => {
                self.stale = true;
                let error = other.err();
                for reply in replies {
                    let error = error.as_ref().map_or(QueueError::Timeout, |e| self.op_error(e));
                    drop(reply.send(Err(error)));
                }
            }
            (Content::StreamOps(replies), Ok(Reply::Streams(outcomes))) => {
                for (reply, outcome) in replies.into_iter().zip(outcomes) {
                    drop(reply.send(Ok(outcome)));
                }
            }
            (Content::StreamOps(replies), other) => {
                self.stale = true;
                let error = other.err();
                for reply in replies {
                    let error = error.as_ref().map_or(QueueError::Timeout, |e| self.op_error(e));
                    drop(reply.send(Err(error)));
                }
            }
            (Content::Control(reply), Ok(_)) => drop(reply.send(Ok(()))),
            (Content::Control(reply), Err(error)) => {
                self.stale = true;
                drop(reply.send(Err(error)));
            }
            (Content::Batches(runs), Ok(Reply::Produced(accepted))) => {
                for (number, run) in runs.into_iter().enumerate() {
                    let counts = accepted.get(number).copied().unwrap_or(false);
                    self.answer_run(run, log_time_ms, index.filter(|_| counts));
                }
            }
            (Content::Batches(runs), other) => {
                self.stale = true;
                let error = other.err();
                for waiter in runs.into_iter().flat_map(|run| run.waiters) {
                    let error =
                        error.as_ref().map_or(ProduceError::Retry, |error| self.error(error));
                    waiter.send(Err(error));
                }
            }
        }
    }

    /// `index` is that of the entry, if the run counts.
    fn answer_run(
        &mut self,
        run: RunWaiters<ProduceReply>,
        log_time_ms: i64,
        index: Option<LogIndex>,
    ) {
        let Some(index) = index else {
            // Something before it failed, so its stamp does not hold; it was not appended.
            self.stale = true;
            run.waiters.into_iter().for_each(|waiter| waiter.send(Err(ProduceError::Retry)));
            return;
        };
        self.shard.count(run.record_count, run.byte_len);
        let start_offset = self.start_offset(run.key);
        for waiter in run.waiters {
            let base_offset = waiter.base_offset;
            self.stored(waiter, Produced { base_offset, log_time_ms, start_offset }, index);
        }
    }

    /// A batch is committed and applied, in the entry at `index` or before it: that is the answer,
    /// unless every voter shall have it.
    fn stored(&self, waiter: Waiter<ProduceReply>, produced: Produced, index: LogIndex) {
        let Waiter { reply: Some(reply), deadline, .. } = waiter else { return };
        match reply.acks {
            Acks::Quorum => reply.send(Ok(produced)),
            Acks::All => {
                let shard = Rc::clone(&self.shard);
                drop(spawn(async move {
                    let on_all = shard.group.flushed_by_all(index, deadline).await;
                    reply.send(on_all.map(|()| produced).map_err(not_on_all));
                }));
            }
        }
    }

    fn start_offset(&self, key: PartitionKey) -> Offset {
        let start = |state: &State| state.partitions.get(&key.owner()).map(|p| p.start_offset);
        self.shard.group.with_machine(|machine| start(machine.state())).unwrap_or_default()
    }

    /// Answers what is past its deadline. An entry in flight goes on all the same.
    fn expire(&mut self) {
        let now = Instant::now();
        let expired = self.shard.waiting.borrow_mut().take_expired(now);
        expired.into_iter().for_each(|batch| batch.reply.send(Err(ProduceError::Expired)));
        for entry in &mut self.in_flight {
            let Content::Batches(runs) = &mut entry.content else { continue };
            for waiter in runs.iter_mut().flat_map(|run| &mut run.waiters) {
                if waiter.deadline <= now
                    && let Some(reply) = waiter.reply.take()
                {
                    reply.send(Err(ProduceError::Timeout));
                }
            }
        }
    }

    /// Sizes are checked when a batch is taken up, so only a log with very small segments gets
    /// here.
    fn too_large(&self) -> ProduceError {
        let limit = self.shard.entry_bytes_max();
        ProduceError::TooLarge { size: limit.saturating_add(1), limit }
    }

    fn op_error(&self, error: &ProposeError) -> QueueError {
        match error {
            ProposeError::NotLeader => QueueError::NotLeader { hint: None },
            ProposeError::Full => QueueError::QueueFull,
            ProposeError::TooLarge => QueueError::Invalid {
                reason: "the request is too large for a log entry".to_owned(),
            },
            ProposeError::DiskFull => QueueError::DiskFull,
            ProposeError::Lost => QueueError::Timeout,
            ProposeError::Stopped if self.shard.group.failure().is_some() => QueueError::Poisoned,
            ProposeError::Stopped => QueueError::ShuttingDown,
        }
    }

    fn error(&self, error: &ProposeError) -> ProduceError {
        match error {
            ProposeError::NotLeader => ProduceError::NotLeader { hint: None },
            ProposeError::Full => ProduceError::QueueFull,
            ProposeError::TooLarge => self.too_large(),
            ProposeError::DiskFull => ProduceError::DiskFull,
            ProposeError::Lost => ProduceError::Timeout,
            ProposeError::Stopped if self.shard.group.failure().is_some() => ProduceError::Poisoned,
            ProposeError::Stopped => ProduceError::ShuttingDown,
        }
    }
}

/// Wrong: acks are promised before the disk has them.
fn answer_acks(taken: Vec<WaitingOp>) -> Vec<WaitingOp> {
    let answer = |waiting: WaitingOp| match &waiting.op.what {
        What::Ack(receipts) => {
            let done = Outcome::Settled(vec![Ok(()); receipts.len()]);
            drop(waiting.reply.send(Ok(done)));
            WaitingOp { op: waiting.op, reply: oneshot::channel().0 }
        }
        _ => waiting,
    };
    taken.into_iter().map(answer).collect()
}

impl Waiter<ProduceReply> {
    fn send(self, result: Result<Produced, ProduceError>) {
        if let Some(reply) = self.reply {
            reply.send(result);
        }
    }
}

fn not_on_all(NotOnAll { have, want }: NotOnAll) -> ProduceError {
    // A group has a handful of voters.
    let count = |count| u16::try_from(count).unwrap_or(u16::MAX);
    ProduceError::NotOnAll { have: count(have), want: count(want) }
}
