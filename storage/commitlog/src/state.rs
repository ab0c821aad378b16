//! The log's state, and the decision what to do next. Synchronous: the flusher carries it out.
//!
//! ```text
//! append, vote, truncate, floor -> queue -> plan (groups) -> write -> written_to
//!                                                      fdatasync -> synced_to -> tickets
//! ```
//!
//! Invariants: `synced_to <= written_to <= write_at`; tickets resolve in the order they were
//! given; a group's `synced_to` was true when the group was built.

use crate::cache::Cache;
use crate::entry::{Entry, HardState, Vote};
use crate::error::LogError;
use crate::format::group::{self, Truncate};
use crate::format::segment::REWRITTEN_START;
use crate::format::{BLOCK_BYTES, entry as entry_format};
use crate::index::Index;
use crate::options::Options;
use crate::segment::Segment;
use crate::slots::Slots;
use crate::stats::Counters;
use barrage_model::LogId;
use barrage_world::Slice;
use barrage_world::channel::oneshot;
use barrage_world::{buggify, planted};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::rc::Rc;

/// Writes smaller than this go one at a time, so that what arrives meanwhile shares the next one.
pub(crate) const SMALL_WRITE_BYTES: u64 = 128 * 1024;

/// Of those that are durable by themselves so many: the disk has one while the next is gathered.
const SMALL_WRITES_MAX: usize = 2;

/// Resolves a ticket.
pub(crate) type Done = oneshot::Sender<Result<(), LogError>>;

/// Something to make durable.
#[derive(Debug)]
pub(crate) enum Op {
    Append(Rc<Entry>),
    Vote(Vote),
    Floor(LogId),
    Truncate(Truncate),
    /// An empty group, so that the sync mark passes what was written before.
    Mark,
}

/// One group to write: what it holds and restates.
#[derive(Debug)]
pub(crate) struct GroupPlan {
    pub(crate) entries: Vec<Rc<Entry>>,
    pub(crate) entries_len: usize,
    pub(crate) truncate: Option<Truncate>,
    pub(crate) hard: HardState,
    /// Holds nothing new: it only carries the mark.
    pub(crate) bare: bool,
}

impl GroupPlan {
    fn len(&self) -> usize {
        group::encoded_len(self.entries_len)
    }
}

/// Groups that go to the disk in one write.
#[derive(Debug, Default)]
pub(crate) struct Plan {
    pub(crate) groups: Vec<GroupPlan>,
    pub(crate) done: Vec<Done>,
}

/// A write on its way.
#[derive(Debug)]
struct InFlight {
    start: u64,
    end: u64,
    /// What is written. The cache may have let go of it, and the disk does not have it yet.
    bytes: Slice,
    /// Durable when it is written; everything before it is durable by then, or such a write too.
    durable: bool,
    written: bool,
}

/// What the flusher does next.
#[derive(Debug)]
pub(crate) enum Step {
    Write(Plan),
    Sync(u64),
    Roll,
    Wait,
}

/// Everything a shard's log knows.
#[derive(Debug)]
pub(crate) struct State {
    pub(crate) options: Options,
    pub(crate) hard: HardState,
    pub(crate) slots: Slots,
    pub(crate) segments: BTreeMap<u64, Rc<Segment>>,
    pub(crate) index: Index,
    pub(crate) cache: Cache,
    pub(crate) counters: Counters,
    pub(crate) poisoned: Option<Rc<str>>,
    pub(crate) full: bool,
    pub(crate) closing: bool,
    pub(crate) closed: bool,
    /// Nothing prepares files in the background any more.
    pub(crate) housekeeping_over: bool,
    /// Next index apply has not seen.
    pub(crate) applied_next: u64,
    /// The log is being copied: nothing is applied, and no run is known.
    pub(crate) incomplete: bool,
    /// Runs that apply refused, by index and place in the entry. Kept by checkpoints, because the
    /// log itself does not tell.
    pub(crate) refused: BTreeSet<(u64, u32)>,
    /// Sealed segments without an index file, oldest first.
    pub(crate) unindexed: VecDeque<Rc<Segment>>,
    /// Behind the last position in a rewritten segment.
    pub(crate) rewritten_to: u64,
    /// The last index file could not be written: the next one waits for a while.
    pub(crate) index_rests: bool,
    /// Writes that wait for space.
    pub(crate) stalled_writes: usize,
    /// Hard state as of the last planned group.
    written_hard: HardState,
    queue: VecDeque<(Op, Option<Done>)>,
    waiting: VecDeque<(u64, Done)>,
    in_flight: VecDeque<InFlight>,
    pub(crate) write_at: u64,
    written_to: u64,
    synced_to: u64,
    syncing: bool,
    /// The newest group's own mark does not cover the newest bytes yet.
    unmarked: bool,
    pub(crate) group_number: u64,
    pub(crate) previous_crc: u32,
    pub(crate) previous_hash: u64,
}

impl State {
    /// The state of a log whose newest group ends at `end`; everything before it is synced.
    pub(crate) fn new(options: Options, hard: HardState, end: u64) -> Self {
        let cache = Cache::new(options.cache_bytes);
        Self {
            options,
            hard,
            slots: Slots::default(),
            segments: BTreeMap::new(),
            index: Index::default(),
            cache,
            counters: Counters::new(),
            poisoned: None,
            full: false,
            closing: false,
            closed: false,
            housekeeping_over: false,
            applied_next: 0,
            incomplete: false,
            refused: BTreeSet::new(),
            unindexed: VecDeque::new(),
            rewritten_to: REWRITTEN_START,
            index_rests: false,
            stalled_writes: 0,
            written_hard: hard,
            queue: VecDeque::new(),
            waiting: VecDeque::new(),
            in_flight: VecDeque::new(),
            write_at: end,
            written_to: end,
            synced_to: end,
            syncing: false,
            unmarked: false,
            group_number: 0,
            previous_crc: 0,
            previous_hash: 0,
        }
    }

    /// The same knowledge, ready to write at `end`.
    pub(crate) fn reopened(self, end: u64) -> Self {
        Self {
            written_hard: self.hard,
            write_at: end,
            written_to: end,
            synced_to: end,
            unmarked: true,
            ..self
        }
    }

    pub(crate) fn active(&self) -> &Rc<Segment> {
        let Some((_, active)) = self.segments.last_key_value() else {
            panic!("an open log has an active segment");
        };
        active
    }

    pub(crate) fn synced_to(&self) -> u64 {
        self.synced_to
    }

    pub(crate) fn entries_in_flight(&self) -> usize {
        self.waiting.len() + self.queue.len()
    }

    /// Queues an operation. The ticket resolves when it is durable.
    pub(crate) fn queue(&mut self, op: Op, done: Option<Done>) {
        if let Op::Append(entry) = &op {
            let len = entry_format::encoded_len(entry);
            let most = self.options.entry_bytes_max();
            assert!(len <= most, "an entry of {len} bytes cannot fit a segment ({most})");
        }
        self.queue.push_back((op, done));
    }

    /// The next thing to do.
    pub(crate) fn next_step(&mut self) -> Step {
        if !self.syncing && self.written_to > self.synced_to {
            self.syncing = true;
            return Step::Sync(self.written_to);
        }
        if self.queue.is_empty() || !self.may_write() {
            return Step::Wait;
        }
        let plan = self.plan();
        if plan.groups.is_empty() {
            // The next operation does not fit the segment. Roll when all of it is on the medium:
            // the next segment's header vouches for everything before it.
            return if self.is_synced() && self.zeros_limit().is_none() {
                Step::Roll
            } else {
                Step::Wait
            };
        }
        Step::Write(plan)
    }

    fn is_synced(&self) -> bool {
        self.in_flight.is_empty() && self.synced_to == self.write_at
    }

    /// Everything asked for is durable.
    pub(crate) fn is_idle(&self) -> bool {
        self.queue.is_empty() && self.is_synced()
    }

    /// Idle, and nothing is on its way to the disk.
    pub(crate) fn is_done(&self) -> bool {
        self.is_idle() && self.zeros_limit().is_none()
    }

    /// Idle, but the last bytes are not below any group's mark yet.
    pub(crate) fn wants_mark(&self) -> bool {
        self.is_idle() && self.unmarked && self.poisoned.is_none()
    }

    fn may_write(&self) -> bool {
        if self.poisoned.is_some()
            || self.write_at - self.synced_to > self.options.unsynced_bytes_max
        {
            return false;
        }
        let small =
            |write: &&InFlight| !write.written && write.end - write.start < SMALL_WRITE_BYTES;
        let unfinished = self.in_flight.iter().filter(|write| !write.written).count();
        let small_max = if self.may_write_durably() { SMALL_WRITES_MAX } else { 1 };
        unfinished < self.options.writes_max
            && self.in_flight.iter().filter(small).count() < small_max
    }

    /// Whether a write that is durable by itself says so of all before it: that is durable, or is
    /// such a write too, and they are counted in their order.
    fn may_write_durably(&self) -> bool {
        planted("commitlog-durable-before-its-forerunner")
            || (self.written_to == self.synced_to
                && self.in_flight.iter().all(|write| write.durable))
    }

    /// Where zeros are on their way, in the active segment.
    fn zeros_limit(&self) -> Option<u64> {
        self.active().ahead.borrow().limit()
    }

    /// What may be written to the active segment now.
    fn room(&self) -> usize {
        let active = self.active();
        let end = active.capacity_end();
        let limit = self.zeros_limit().map_or(end, |limit| active.log_position(limit));
        usize::try_from(limit - self.write_at).unwrap_or(0)
    }

    /// Takes from the queue what fits one write and the segment.
    fn plan(&mut self) -> Plan {
        let begun = self.write_at > self.active().header.position;
        let room = match begun && buggify("commitlog-roll-early", 40) {
            true => 0,
            false => self.room(),
        };
        let mut plan = Plan::default();
        let entries_max = self.options.segment_entries_max.max(1);
        let entries_room = entries_max.saturating_sub(self.active().entry_count());
        let mut entries = 0;
        let mut sealed_len = 0;
        let mut open: Option<GroupPlan> = None;
        while let Some((op, _)) = self.queue.front() {
            let open_len = open.as_ref().map_or(0, |group| group.entries_len);
            let closed_len = open.as_ref().map_or(0, GroupPlan::len);
            let (closes, added, needed) = match op {
                Op::Append(entry) => {
                    let added = entry_format::encoded_len(entry);
                    (false, added, group::encoded_len(open_len + added))
                }
                // A vote is written twice, in groups of its own.
                Op::Vote(_) => (true, 0, closed_len + 2 * BLOCK_BYTES),
                Op::Truncate(_) => (true, 0, closed_len + BLOCK_BYTES),
                Op::Floor(_) | Op::Mark => (false, 0, group::encoded_len(open_len)),
            };
            if sealed_len + needed > room {
                break;
            }
            let is_entry = matches!(op, Op::Append(_));
            if is_entry && entries >= entries_room {
                break;
            }
            entries += u64::from(is_entry);
            let gathered = sealed_len + open_len;
            if gathered > 0 && gathered + added > self.options.group_bytes_target {
                break;
            }
            if closes && let Some(group) = open.take() {
                sealed_len += group.len();
                plan.groups.push(group);
            }
            let Some((op, done)) = self.queue.pop_front() else { break };
            plan.done.extend(done);
            sealed_len += self.add_to_plan(op, &mut open, &mut plan);
            if buggify("commitlog-one-request-a-write", 2) {
                break;
            }
        }
        plan.groups.extend(open);
        if let Some(last) = plan.groups.last() {
            self.written_hard = last.hard;
        }
        plan
    }

    /// Adds one operation; gives the bytes of groups that it completed by itself.
    fn add_to_plan(&mut self, op: Op, open: &mut Option<GroupPlan>, plan: &mut Plan) -> usize {
        match op {
            Op::Append(entry) => {
                let group = open.get_or_insert_with(|| self.empty_group());
                group.entries_len += entry_format::encoded_len(&entry);
                group.entries.push(entry);
                group.bare = false;
                0
            }
            Op::Vote(vote) => {
                // Wrong when planted: the vote is acknowledged and written nowhere.
                if !planted("commitlog-vote-not-saved") {
                    self.written_hard.vote = Some(vote);
                }
                plan.groups.extend([self.empty_group(), self.empty_group()]);
                2 * BLOCK_BYTES
            }
            Op::Truncate(truncate) => {
                // Wrong when planted: what was cut off comes back.
                let truncate = Some(truncate).filter(|_| !planted("commitlog-truncate-lost"));
                *open = Some(GroupPlan { truncate, ..self.empty_group() });
                0
            }
            Op::Floor(floor) => {
                let floor = self.written_hard.floor.max(Some(floor)).unwrap_or(floor);
                self.written_hard.floor = Some(floor);
                let group = open.get_or_insert_with(|| self.empty_group());
                group.hard.floor = Some(floor);
                group.bare = false;
                0
            }
            Op::Mark => {
                let mark = || GroupPlan { bare: true, ..self.empty_group() };
                open.get_or_insert_with(mark);
                0
            }
        }
    }

    fn empty_group(&mut self) -> GroupPlan {
        // The committed position is a hint that only ever grows; restating it costs nothing. It
        // may name an entry that is still queued, so only what is on the medium may carry it.
        if let Some(committed) = self.hard.committed
            && !self.slots.waits_for_place(committed.index.0)
        {
            self.written_hard.committed = Some(committed);
        }
        GroupPlan {
            entries: Vec::new(),
            entries_len: 0,
            truncate: None,
            hard: self.written_hard,
            bare: false,
        }
    }

    /// A write of `bytes` at the end is on its way; the tickets in it resolve with it. Answers
    /// whether it has to be durable when it is complete.
    pub(crate) fn started(&mut self, bytes: Slice, holds_bytes: bool, done: Vec<Done>) -> bool {
        let (start, end) = (self.write_at, self.write_at + bytes.len() as u64);
        let durable = end - start < SMALL_WRITE_BYTES
            && self.may_write_durably()
            && !buggify("commitlog-written-then-flushed", 2);
        self.write_at = end;
        self.in_flight.push_back(InFlight { start, end, bytes, durable, written: false });
        self.waiting.extend(done.into_iter().map(|done| (end, done)));
        // A bare group is a mark only for what was synced when it was built.
        self.unmarked = holds_bytes || self.synced_to < start;
        durable
    }

    /// The bytes `[position, position + len)` if they are on their way to the disk.
    pub(crate) fn in_flight(&self, position: u64, len: usize) -> Option<Slice> {
        let holds = |write: &&InFlight| write.start <= position && position < write.end;
        let write = self.in_flight.iter().find(holds)?;
        let skip = usize::try_from(position - write.start).ok()?;
        Some(write.bytes.slice(skip..skip.checked_add(len)?))
    }

    /// A write found the disk full; it waits, and new records are refused meanwhile.
    pub(crate) fn stall(&mut self, stalled: &mut bool) {
        self.full = true;
        if !*stalled {
            *stalled = true;
            self.stalled_writes += 1;
        }
    }

    /// The write that began at `start` is complete.
    pub(crate) fn wrote(&mut self, start: u64) {
        for write in &mut self.in_flight {
            if write.start == start {
                write.written = true;
            }
        }
        while let Some(write) = self.in_flight.front().filter(|write| write.written) {
            let (end, durable) = (write.end, write.durable);
            self.written_to = end;
            self.in_flight.pop_front();
            if durable {
                // Durability: the disk answers such a write when it is on the medium, and those
                // before it left this row before it, see `may_write_durably`.
                self.synced(end);
            }
        }
    }

    /// A flush that was begun when everything up to `to` was written has returned.
    pub(crate) fn flushed(&mut self, to: u64) {
        self.syncing = false;
        self.synced(to);
    }

    /// Everything up to `to` is on the medium.
    fn synced(&mut self, to: u64) {
        assert!(to >= self.synced_to, "the sync mark never falls");
        assert!(to <= self.written_to, "only complete writes are covered by a flush");
        self.synced_to = to;
        while self.waiting.front().is_some_and(|(end, _)| *end <= to) {
            if let Some((_, done)) = self.waiting.pop_front() {
                // Durability: the flush that covers this write has returned, see above.
                done.send(Ok(())).ok();
            }
        }
    }

    /// Nothing more will be acknowledged. The first reason stands.
    pub(crate) fn poison(&mut self, reason: String) {
        let reason: Rc<str> = self.poisoned.take().unwrap_or_else(|| reason.into());
        let error = LogError::Poisoned(reason.clone());
        self.poisoned = Some(reason);
        let waiting = self.waiting.drain(..).map(|(_, done)| done);
        let queued = self.queue.drain(..).filter_map(|(_, done)| done);
        for done in waiting.chain(queued) {
            done.send(Err(error.clone())).ok();
        }
    }

    /// A new segment begins; the old one is complete.
    pub(crate) fn rolled(&mut self, segment: Rc<Segment>) {
        assert!(self.is_synced(), "a segment is left only when all of it is synced");
        assert_eq!(segment.header.position, self.write_at, "segments follow without a gap");
        if let Some((_, old)) = self.segments.last_key_value() {
            old.seal(self.write_at);
            self.unindexed.push_back(old.clone());
        }
        // The header of the new segment vouches for everything before it.
        self.unmarked = false;
        self.previous_crc = 0;
        self.segments.insert(segment.number(), segment);
    }

    /// A truncation has its place in the log: what it cuts off is no part of it any more, and what
    /// comes next follows what it leaves.
    pub(crate) fn cut(&mut self, truncate: Truncate) {
        let (next, hash) = match truncate {
            Truncate::All => (0, 0),
            Truncate::After(last) => (last.index.0 + 1, self.slots.hash_of(last.index.0)),
        };
        self.previous_hash = hash;
        for segment in self.segments.values() {
            segment.cut(next);
        }
    }

    /// Whether the segment is part of the log as it is: neither gone nor rewritten.
    pub(crate) fn is_current(&self, segment: &Rc<Segment>) -> bool {
        self.segments.get(&segment.number()).is_some_and(|current| Rc::ptr_eq(current, segment))
    }

    pub(crate) fn written_hard(&self) -> HardState {
        self.written_hard
    }
}
