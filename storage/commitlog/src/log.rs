//! The handle to a shard's log: what Raft and the broker ask of it.
//!
//! Everything here is on one core. Calls that change the log return at once with a [`Ticket`];
//! what they say is readable immediately and durable when the ticket resolves.

use crate::checkpoint::Checkpoint;
use crate::entry::{Entry, HardState, Vote};
use crate::error::{LogError, OpenError, ReadError};
use crate::format::checkpoint::Head;
use crate::format::group::Truncate;
use crate::index::Span;
use crate::options::Options;
use crate::places::Places;
use crate::read::{self, Loaded};
use crate::recovery::{self, Opening, RecoveryReport};
use crate::spares::Spares;
use crate::state::{Op, State};
use crate::stats::LogStats;
use crate::writer::{FULL_RETRY, NO_SPACE};
use crate::{checkpoint, roll, writer};
use barrage_model::{LogId, LogIndex, Offset, PartitionKey, ShardId};
use barrage_world::channel::{Mutex, event::Event, oneshot};
use barrage_world::{Slice, fs, planted, spawn, timeout};
use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::future::Future;
use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};

/// Payload kept for other replicas: what may be on its way to one of them.
const KEPT_BYTES_MAX: usize = 32 * 1024 * 1024;

/// What retention lets go of a partition. The active segment goes by time only.
#[derive(Clone, Copy, Debug, Default)]
pub struct Expiry {
    /// Segments of which every record is older, in ms since 1970.
    pub before_ms: Option<i64>,
    /// So many of those at most, because clocks jump.
    pub old_segments_max: usize,
    /// The oldest segments, while the others hold so many bytes.
    pub bytes_max: Option<u64>,
    /// Segments whose records all lie before it.
    pub done: Option<Offset>,
}

/// What the log's tasks share.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) shard: ShardId,
    pub(crate) dir: PathBuf,
    pub(crate) state: RefCell<State>,
    pub(crate) pool: RefCell<Spares>,
    pub(crate) loaded: RefCell<Loaded>,
    pub(crate) places: RefCell<Places>,
    /// Held while an index file that was lost is written again.
    pub(crate) mending: Mutex<()>,
    pub(crate) wake: Event,
    pub(crate) housekeeping: Event,
    pub(crate) poisoned: Event,
    pub(crate) closed: Event,
    /// Segments are being dropped, or one takes another's place.
    pub(crate) retaining: Cell<bool>,
    /// A segment is being rewritten: files are made in the folder.
    pub(crate) rewriting: Cell<bool>,
    /// What was wanted of segments that were not worth rewriting, by their identity.
    pub(crate) kept: RefCell<BTreeMap<(u64, u64), Option<u64>>>,
}

impl Shared {
    pub(crate) fn is_over(&self) -> bool {
        let state = self.state.borrow();
        state.closing || state.poisoned.is_some()
    }

    /// Once poisoned or closed nothing is written, so what was just queued is answered at once.
    pub(crate) fn refuse_if_over(&self) {
        let mut state = self.state.borrow_mut();
        if state.poisoned.is_some() || state.closed {
            let reason = state.poisoned.clone().unwrap_or_else(|| "the log is closed".into());
            state.poison(reason.to_string());
        }
    }
}

/// Resolves when what was asked is durable, strictly in the order it was asked. Dropping it
/// changes nothing.
#[derive(Debug)]
pub struct Ticket(oneshot::Receiver<Result<(), LogError>>);

impl Future for Ticket {
    type Output = Result<(), LogError>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        Pin::new(&mut self.0).poll(context).map(|result| result.unwrap_or(Err(LogError::Closed)))
    }
}

/// One shard's log.
#[derive(Clone, Debug)]
pub struct CommitLog {
    pub(crate) shared: Rc<Shared>,
}

impl CommitLog {
    /// Opens the log in `dir`, which is made when missing. `checkpoint` is the one that the state
    /// machine was restored from, as [`Self::read_checkpoint`] gave it: batches up to it are
    /// indexed here but for those it knows as refused, later ones by [`Self::index_run`] as they
    /// are applied.
    pub async fn open(
        dir: PathBuf,
        options: Options,
        checkpoint: Option<Checkpoint>,
    ) -> Result<(Self, RecoveryReport), OpenError> {
        Self::open_as(dir, options, Opening::Whole(checkpoint)).await
    }

    pub(crate) async fn open_as(
        dir: PathBuf,
        options: Options,
        opening: Opening,
    ) -> Result<(Self, RecoveryReport), OpenError> {
        let applied = opening.applied();
        if options.segment_bytes < Options::SEGMENT_BYTES_MIN {
            return Err(OpenError::SegmentTooSmall {
                segment_bytes: options.segment_bytes,
                least: Options::SEGMENT_BYTES_MIN,
            });
        }
        if options.segment_bytes > Options::SEGMENT_BYTES_MAX {
            return Err(OpenError::SegmentTooLarge {
                segment_bytes: options.segment_bytes,
                most: Options::SEGMENT_BYTES_MAX,
            });
        }
        let failed = |source| OpenError::Io { action: "create", path: dir.clone(), source };
        if !options.segment_bytes.is_multiple_of(crate::format::BLOCK_BYTES as u64) {
            return Err(OpenError::SegmentUnaligned { segment_bytes: options.segment_bytes });
        }
        fs::create_dir_all(&dir).await.map_err(failed)?;
        if let Some(parent) = dir.parent() {
            // The folder's own name must survive a power cut, or all that is in it is lost.
            fs::sync_dir(parent).await.map_err(failed)?;
        }
        let shard = options.shard;
        let (mut state, pool, report) = recovery::recover(&dir, options, opening).await?;
        if let Some(applied) = applied.filter(|_| report.restarted) {
            state.hard.floor = Some(applied);
            state.queue(Op::Truncate(Truncate::All), None);
            state.queue(Op::Floor(applied), None);
        }
        let shared = Rc::new(Shared {
            shard,
            dir,
            state: RefCell::new(state),
            pool: RefCell::new(pool),
            loaded: RefCell::default(),
            places: RefCell::default(),
            mending: Mutex::new(()),
            wake: Event::new(),
            housekeeping: Event::new(),
            poisoned: Event::new(),
            closed: Event::new(),
            retaining: Cell::new(false),
            rewriting: Cell::new(false),
            kept: RefCell::default(),
        });
        drop(spawn(writer::run(shared.clone())));
        drop(spawn(roll::housekeeping(shared.clone())));
        Ok((Self { shared }, report))
    }

    /// The newest checkpoint in a log's folder. Read it before [`Self::open`].
    pub async fn read_checkpoint(dir: &Path, shard: ShardId) -> io::Result<Option<Checkpoint>> {
        if !fs::exists(dir).await? {
            return Ok(None);
        }
        checkpoint::read(dir, shard).await
    }

    /// Writes a checkpoint of the state machine at `id`, whose parts are made one by one while it
    /// is written; durable when it returns.
    pub async fn write_checkpoint(
        &self,
        id: LogId,
        parts: impl IntoIterator<Item = Vec<u8>>,
    ) -> io::Result<()> {
        let refused = self.shared.state.borrow().refused.clone();
        // Durability: a majority may have committed what this disk does not have yet. A checkpoint
        // that reached further than the log would look like a log that lost its end.
        // Wrong when planted: it may claim more than the log has after a power loss.
        if !planted("commitlog-checkpoint-ahead-of-log") {
            self.all_durable().await?;
        }
        let head = Head { id, refused, installed: false };
        checkpoint::write(&self.shared.dir, self.shared.shard, &head, parts.into_iter()).await
    }

    /// Waits until everything appended so far is durable. Gives up on a full disk.
    async fn all_durable(&self) -> io::Result<()> {
        let mut durable = self.shared.mark_ticket();
        loop {
            match timeout(FULL_RETRY, &mut durable).await {
                Ok(Ok(Ok(()))) => return Ok(()),
                Ok(Ok(Err(error))) => return Err(io::Error::other(error.to_string())),
                Ok(Err(_)) => return Err(io::Error::other(LogError::Closed.to_string())),
                Err(_) if self.is_full() => return Err(io::Error::from_raw_os_error(NO_SPACE)),
                Err(_) => {}
            }
        }
    }

    /// Writes a checkpoint that a peer has sent; durable when it returns. The log may end before
    /// it: if the process ends before [`Self::set_floor`] is durable, the log begins anew behind
    /// it at the next start.
    pub async fn install_checkpoint(
        &self,
        id: LogId,
        parts: impl IntoIterator<Item = Vec<u8>>,
    ) -> io::Result<()> {
        let refused = self.shared.state.borrow().refused.clone();
        let head = Head { id, refused, installed: true };
        checkpoint::write(&self.shared.dir, self.shared.shard, &head, parts.into_iter()).await
    }

    /// The newest hard state, durable or on its way.
    pub fn hard_state(&self) -> HardState {
        self.shared.state.borrow().hard
    }

    /// The first entry above the floor.
    pub fn first_log_id(&self) -> Option<LogId> {
        self.shared.state.borrow().slots.first()
    }

    /// The newest entry, or the floor when there is none above it.
    pub fn last_log_id(&self) -> Option<LogId> {
        self.shared.state.borrow().slots.last()
    }

    /// Appends entries; their indexes must follow the last one.
    pub fn append(&self, entries: Vec<Entry>) -> Ticket {
        let mut entries = entries.into_iter().map(Rc::new).peekable();
        if entries.peek().is_none() {
            return self.queue_last(Op::Mark);
        }
        let (sender, receiver) = oneshot::channel();
        let mut sender = Some(sender);
        let mut state = self.shared.state.borrow_mut();
        while let Some(entry) = entries.next() {
            state.slots.push(&entry);
            let done = if entries.peek().is_none() { sender.take() } else { None };
            state.queue(Op::Append(entry), done);
        }
        drop(state);
        self.shared.wake.notify_one();
        self.shared.refuse_if_over();
        Ticket(receiver)
    }

    /// Makes a vote durable, in order with the entries around it.
    pub fn save_vote(&self, vote: Vote) -> Ticket {
        self.shared.state.borrow_mut().hard.vote = Some(vote);
        self.queue_last(Op::Vote(vote))
    }

    /// Removes every entry behind `last`, or every entry, by a record in the log.
    pub fn truncate_after(&self, last: Option<LogId>) -> Ticket {
        self.shared.state.borrow_mut().slots.truncate_after(last);
        self.queue_last(Op::Truncate(last.map_or(Truncate::All, Truncate::After)))
    }

    /// Raft needs nothing up to `floor` any more. Records stay readable by offset.
    pub fn set_floor(&self, floor: LogId) -> Ticket {
        let mut state = self.shared.state.borrow_mut();
        state.hard.floor = state.hard.floor.max(Some(floor));
        state.slots.set_floor(floor);
        drop(state);
        self.queue_last(Op::Floor(floor))
    }

    /// Remembers what is committed; it is restated in the next group, never flushed for itself.
    pub fn set_committed(&self, committed: LogId) {
        let mut state = self.shared.state.borrow_mut();
        state.hard.committed = state.hard.committed.max(Some(committed));
    }

    /// Everything up to `applied` has been applied and its accepted runs indexed.
    pub fn set_applied(&self, applied: LogId) {
        let mut state = self.shared.state.borrow_mut();
        state.applied_next = state.applied_next.max(applied.index.0 + 1);
        let next = state.applied_next;
        state.slots.set_applied(next);
        // Not at every apply while there is no room: housekeeping comes back by itself.
        let ready = !state.index_rests && crate::seal::next_unindexed(&state).is_some();
        drop(state);
        if ready {
            self.shared.housekeeping.notify_one();
        }
    }

    fn queue_last(&self, op: Op) -> Ticket {
        let (sender, receiver) = oneshot::channel();
        self.shared.state.borrow_mut().queue(op, Some(sender));
        self.shared.wake.notify_one();
        self.shared.refuse_if_over();
        Ticket(receiver)
    }

    /// Whether the newest entries keep their payload in memory after they were written, so that
    /// what is sent to other replicas is not read again. Part of the cache's budget goes to it.
    pub fn keep_payload(&self, keeps: bool) {
        let mut state = self.shared.state.borrow_mut();
        let bytes = state.cache.lend(if keeps { KEPT_BYTES_MAX } else { 0 });
        state.slots.keep_payload(bytes);
    }

    /// Entries of `range`, as many as fit `bytes_max`, at least one if there are any. Their runs
    /// carry no payload.
    pub async fn read_entries(
        &self,
        range: Range<u64>,
        bytes_max: usize,
    ) -> Result<Vec<Entry>, ReadError> {
        read::read_entries(&self.shared, range, bytes_max).await
    }

    /// The last entry of each term in the log, oldest first.
    pub fn last_of_terms(&self) -> Vec<LogId> {
        self.shared.state.borrow().slots.last_of_terms()
    }

    /// As [`Self::read_entries`], but with the payload of their runs: what a follower needs.
    pub async fn read_whole_entries(
        &self,
        range: Range<u64>,
        bytes_max: usize,
    ) -> Result<Vec<Entry>, ReadError> {
        read::read_whole_entries(&self.shared, range, bytes_max).await
    }

    /// Apply accepted run number `run` of entry `index`: from now on it is found by offset.
    pub fn index_run(&self, index: LogIndex, run: usize) {
        writer::index_run(&mut self.shared.state.borrow_mut(), index, run);
    }

    /// Apply refused run number `run` of entry `index`: it is never found by offset, also not after
    /// a restart. The log itself does not tell, so the next checkpoint remembers it.
    pub fn refuse_run(&self, index: LogIndex, run: usize) {
        let run = u32::try_from(run).unwrap_or(u32::MAX);
        self.shared.state.borrow_mut().refused.insert((index.0, run));
    }

    /// Forgets every partition that `known` does not know: it was deleted before the checkpoint
    /// this log was opened with.
    pub fn keep_only(&self, known: impl Fn(PartitionKey) -> bool) {
        self.shared.state.borrow_mut().index.keep_only(known);
    }

    /// Whole batches from the one that holds `offset` on, as many as fit `bytes_max`, at least
    /// one if there is any; empty when nothing at or after `offset` is here.
    pub async fn read_batches(
        &self,
        key: PartitionKey,
        offset: Offset,
        bytes_max: usize,
    ) -> Result<Vec<Slice>, ReadError> {
        self.read_batches_of(key, offset..Offset(u64::MAX), bytes_max).await
    }

    /// As [`Self::read_batches`], and no further than the batch that holds the last offset of
    /// `range`: nothing is read, and checked, that nobody wants.
    pub async fn read_batches_of(
        &self,
        key: PartitionKey,
        range: Range<Offset>,
        bytes_max: usize,
    ) -> Result<Vec<Slice>, ReadError> {
        read::read_batches(&self.shared, key, range, bytes_max).await
    }

    /// The first offset enqueued at or after `time_ms` (to the entry); none when all are older.
    pub async fn offset_at_time(
        &self,
        key: PartitionKey,
        time_ms: i64,
    ) -> Result<Option<Offset>, ReadError> {
        read::offset_at_time(&self.shared, key, time_ms).await
    }

    /// When a record was enqueued, in milliseconds since 1970 (to the entry); none when it is not
    /// here.
    pub async fn time_of(
        &self,
        key: PartitionKey,
        offset: Offset,
    ) -> Result<Option<i64>, ReadError> {
        read::time_of(&self.shared, key, offset).await
    }

    /// One past the newest record of the partition that has a place here; what others have made
    /// durable may not have one yet.
    pub fn placed_end(&self, key: PartitionKey) -> Option<Offset> {
        self.shared.state.borrow().index.partition(key)?.next_offset()
    }

    /// Bytes of the partition's batches that may still be read, by whole segments.
    pub fn partition_bytes(&self, key: PartitionKey) -> u64 {
        self.shared.state.borrow().index.partition(key).map_or(0, |p| p.bytes())
    }

    /// Records below `start` are not read any more.
    pub fn set_start(&self, key: PartitionKey, start: Offset) {
        self.shared.state.borrow_mut().index.set_start(key, start);
    }

    /// The partition is gone.
    pub fn forget(&self, key: PartitionKey) {
        self.shared.state.borrow_mut().index.forget(key);
    }

    /// Where the floor may go when it follows the records: behind the oldest segments of which
    /// nothing is wanted any more, not behind `most`, and never behind the checkpoint before the
    /// newest one, so that a damaged checkpoint costs nothing.
    pub async fn released_floor(&self, most: LogIndex) -> io::Result<Option<LogId>> {
        let before = checkpoint::previous(&self.shared.dir).await?;
        Ok(before.and_then(|before| roll::released(&self.shared, before.min(most))))
    }

    /// Drops the oldest segments of which nothing is wanted any more.
    pub async fn retain(&self) -> io::Result<()> {
        roll::retain(&self.shared).await
    }

    /// The start offset that retention asks for: behind the records of the oldest segments that it
    /// lets go, whole segments only.
    pub fn expired_offset(&self, key: PartitionKey, expiry: &Expiry) -> Option<Offset> {
        let state = self.shared.state.borrow();
        let active = state.active().number();
        let partition = state.index.partition(key)?;
        let mut bytes = partition.bytes();
        let mut start = None;
        for (count, span) in partition.live().enumerate() {
            let span: &Span = span;
            let before_ms = expiry.before_ms.filter(|_| count < expiry.old_segments_max);
            let old = before_ms.is_some_and(|before| span.last_time_ms < before);
            bytes = bytes.saturating_sub(span.bytes);
            let large = expiry.bytes_max.is_some_and(|most| bytes >= most);
            let done = expiry.done.is_some_and(|done| span.next <= done);
            if !(old || ((large || done) && span.segment != active)) {
                break;
            }
            start = Some(span.next);
        }
        start
    }

    /// The number of the segment that is written to: one more with each that is begun.
    pub fn active_segment(&self) -> u64 {
        self.shared.state.borrow().active().number()
    }

    /// Whether the disk is full: new records are to be refused; reads go on.
    pub fn is_full(&self) -> bool {
        self.shared.state.borrow().full
    }

    /// Why nothing is made durable any more, once that is so.
    pub fn poisoned(&self) -> Option<String> {
        self.shared.state.borrow().poisoned.as_ref().map(ToString::to_string)
    }

    /// Resolves when the log is poisoned.
    pub async fn wait_poisoned(&self) -> String {
        loop {
            let listener = self.shared.poisoned.listen();
            if let Some(reason) = self.poisoned() {
                return reason;
            }
            listener.await;
        }
    }

    /// Largest entry the log takes, in bytes.
    pub fn entry_bytes_max(&self) -> usize {
        self.shared.state.borrow().options.entry_bytes_max()
    }

    /// Counters since the log was opened.
    pub fn stats(&self) -> LogStats {
        let state = self.shared.state.borrow();
        LogStats {
            entries: state.counters.entries,
            records: state.counters.records,
            bytes: state.counters.bytes,
            flushes: state.counters.flushes,
            flush_p50_us: state.counters.flush_quantile_us(0.5),
            flush_p99_us: state.counters.flush_quantile_us(0.99),
            entries_in_flight: state.entries_in_flight() as u64,
            segments: state.segments.len() as u64,
            disk_bytes: state.segments.values().map(|segment| segment.header.file_bytes).sum(),
            cache_bytes: (state.cache.bytes() + state.slots.whole_bytes()) as u64,
            cache_hits: state.cache.hits,
            cache_misses: state.cache.misses,
            index_bytes: state.index.memory_bytes() as u64,
            slots: state.slots.count() as u64,
            slot_bytes: state.slots.memory_bytes() as u64,
        }
    }

    /// Makes everything durable, marks the end and stops the log's tasks.
    pub async fn close(&self) {
        self.shared.state.borrow_mut().closing = true;
        self.shared.wake.notify_one();
        self.shared.housekeeping.notify_one();
        loop {
            let listener = self.shared.closed.listen();
            let is_over = {
                let state = self.shared.state.borrow();
                let is_busy = self.shared.rewriting.get() || self.shared.retaining.get();
                state.closed && state.housekeeping_over && !is_busy
            };
            if is_over {
                return;
            }
            listener.await;
        }
    }
}
