//! The flusher: builds groups, keeps writes and one flush in flight, resolves tickets.
//!
//! One task per log owns all writing. It is woken by one event and asks [`State::next_step`].

use crate::crc::Running;
use crate::entry::Entry;
use crate::error::LogError;
use crate::format::entry as entry_format;
use crate::format::group::{self, Place as GroupPlace};
use crate::index::RunPlace;
use crate::log::Shared;
use crate::segment::Segment;
use crate::slots::{Known, Place};
use crate::state::{GroupPlan, Op, Plan, State, Step};
use barrage_model::LogIndex;
use barrage_world::channel::oneshot;
use barrage_world::{Buffer, Instant, Slice, buggify, planted, sleep, spawn, timeout};
use std::io;
use std::ops::Range;
use std::rc::Rc;
use std::time::Duration;

/// How late a flush is in the mood for that.
const SYNC_LATE: Duration = Duration::from_millis(100);
/// ENOSPC: the one failure of a write that is waited out.
pub(crate) const NO_SPACE: i32 = 28;
/// How long to wait before a full disk is tried again.
pub(crate) const FULL_RETRY: Duration = Duration::from_millis(500);

/// Runs until the log is closed or poisoned.
pub(crate) async fn run(log: Rc<Shared>) {
    loop {
        let listener = log.wake.listen();
        let step = log.state.borrow_mut().next_step();
        match step {
            Step::Write(plan) => start_write(&log, plan),
            Step::Sync(to) => drop(spawn(sync(log.clone(), to))),
            Step::Roll => crate::roll::roll(&log).await,
            Step::Wait => {
                if finished(&log) {
                    break;
                }
                if log.state.borrow().wants_mark() {
                    let idle = log.state.borrow().options.idle_mark_after;
                    let closing = log.state.borrow().closing;
                    let early = buggify("commitlog-mark-early", 4);
                    if closing || early || timeout(idle, listener).await.is_err() {
                        log.mark();
                    }
                } else {
                    listener.await;
                }
            }
        }
    }
    log.state.borrow_mut().closed = true;
    log.closed.notify_all();
}

fn finished(log: &Shared) -> bool {
    let state = log.state.borrow();
    state.poisoned.is_some() || (state.closing && state.is_done() && !state.wants_mark())
}

/// Builds the groups in one buffer and sends it on its way.
fn start_write(log: &Rc<Shared>, plan: Plan) {
    let mut state = log.state.borrow_mut();
    let len = plan.groups.iter().map(|g| group::encoded_len(g.entries_len)).sum();
    let mut buffer = Buffer::new(len);
    let start = state.write_at;
    let mut at = 0;
    let mut holds_bytes = false;
    for plan in &plan.groups {
        let end = at + group::encoded_len(plan.entries_len);
        let Some(out) = buffer.get_mut(at..end) else {
            panic!("groups are planned to fill their buffer");
        };
        build_group(&mut state, plan, start + at as u64, out);
        holds_bytes |= !plan.bare;
        at = end;
    }
    let slice = buffer.freeze();
    state.counters.bytes += len as u64;
    // Readable at once: the tail cache serves it while it is on its way to the disk.
    state.cache.wrote(start, slice.clone());
    let segment = state.active().clone();
    let durable = state.started(slice.clone(), holds_bytes, plan.done);
    drop(state);
    let at = segment.file_position(start);
    let zeros = segment.ahead.borrow_mut().writes(&(at..at + len as u64));
    drop(spawn(write(log.clone(), segment.clone(), slice, start, durable)));
    if let Some(zeros) = zeros {
        drop(spawn(zero(log.clone(), segment, zeros)));
    }
}

/// Writes zeros ahead of the log. Nobody waits for them but what is to lie there.
async fn zero(log: Rc<Shared>, segment: Rc<Segment>, range: Range<u64>) {
    let mut zeros = Buffer::new((range.end - range.start) as usize);
    zeros.fill(0);
    if let Err(error) = segment.file.write_at(&zeros.freeze(), range.start).await {
        // What is to lie there meets the same disk, and counts.
        tracing::debug!(path = %segment.path.display(), %error, "no zeros ahead of the log");
    }
    segment.ahead.borrow_mut().zeroed();
    log.wake.notify_one();
}

fn build_group(state: &mut State, plan: &GroupPlan, position: u64, out: &mut [u8]) {
    if let Some(truncate) = plan.truncate {
        state.cut(truncate);
    }
    let mut at = group::HEADER_BYTES;
    let mut crc = Running::default();
    for entry in &plan.entries {
        let Some(room) = out.get_mut(at..) else {
            panic!("entries are planned to fit their group");
        };
        let (len, entry_crc) = build_entry(state, entry, position + at as u64, room);
        let written = out.get(at..at + len).unwrap_or_default();
        crc.known(written, entry_crc.value());
        at += len;
    }
    state.group_number += 1;
    let segment = &state.active().header;
    let place =
        GroupPlace { shard: segment.shard, segment: segment.number, salt: segment.salt, position };
    let header = group::Header {
        number: state.group_number,
        synced_to: match planted("commitlog-mark-ahead-of-sync") {
            // Wrong: a torn tail behind it is taken for damage.
            true => position,
            false => state.synced_to(),
        },
        len: out.len() as u32,
        entries_len: plan.entries_len as u32,
        entry_count: plan.entries.len() as u32,
        previous_crc: state.previous_crc,
        hard: plan.hard,
        truncate: plan.truncate,
    };
    state.previous_crc = group::seal(&header, &place, out, crc.value());
}

/// Encodes one entry, gives it its place and indexes the runs that waited for it.
fn build_entry(
    state: &mut State,
    entry: &Rc<Entry>,
    position: u64,
    out: &mut [u8],
) -> (usize, Running) {
    let (len, header_hash, crc) =
        entry_format::encode(entry, state.options.shard, state.previous_hash, out);
    state.previous_hash = header_hash;
    let segment = state.active().clone();
    segment.holds(entry.id.index.0);
    let place = Place { position, len: len as u32, segment: segment.number(), header_hash };
    for run in state.slots.place(entry, place) {
        index_run(state, entry.id.index, run);
    }
    state.counters.entries += 1;
    state.counters.records += entry.runs.iter().map(|r| u64::from(r.record_count)).sum::<u64>();
    (len, crc)
}

/// Adds an accepted run to the index, now or when its entry has a place.
pub(crate) fn index_run(state: &mut State, index: LogIndex, run: usize) {
    let (entry, place) = match state.slots.at(index.0) {
        Some(Known::Entry(entry, place)) => (entry, place),
        Some(_) => panic!("an entry stays in memory until it is applied: {index:?}"),
        None => panic!("apply accepts runs of entries above the floor, not {index:?}"),
    };
    let Some(place) = place else {
        state.slots.wait_for_place(index.0, run);
        return;
    };
    let Some(accepted) = entry.runs.get(run) else {
        panic!("entry {index:?} has no run {run}");
    };
    if accepted.gone.is_some() {
        // A leader that has let them go sent the entry: who reads here has applied why.
        return;
    }
    let before = entry.runs.iter().take(run).filter(|run| run.gone.is_none());
    let before: u64 = before.map(|run| u64::from(run.byte_len)).sum();
    let position = place.position + entry_format::payload_start(&entry) as u64 + before;
    let run_place = RunPlace::new(accepted, position, entry.log_time_ms);
    state.index.add(place.segment, accepted.key, run_place);
}

/// Carries one write to the end. Only the blocks of groups that nobody was told about are
/// written again when the disk was full: none of them is acknowledged.
async fn write(log: Rc<Shared>, segment: Rc<Segment>, slice: Slice, start: u64, durable: bool) {
    let mut stalled = false;
    loop {
        let at = segment.file_position(start);
        match put(&segment, &slice, at, durable).await {
            Ok(written) if written == slice.len() => break,
            Ok(written) => {
                tracing::warn!(written, wanted = slice.len(), "short write to the log, repeated");
            }
            Err(error) if error.raw_os_error() == Some(NO_SPACE) => {
                log.state.borrow_mut().stall(&mut stalled);
                sleep(FULL_RETRY).await;
            }
            Err(error) => {
                log.poison(format!("write to {}: {error}", segment.path.display()));
                return;
            }
        }
        if log.gives_up_on_full_disk() {
            return;
        }
    }
    if stalled {
        log.state.borrow_mut().stalled_writes -= 1;
        log.housekeeping.notify_one();
    }
    log.state.borrow_mut().wrote(start);
    log.wake.notify_one();
}

/// One write to the file.
async fn put(segment: &Segment, slice: &Slice, at: u64, durable: bool) -> io::Result<usize> {
    // Wrong when planted: what was written is taken for durable.
    if !durable || planted("commitlog-ack-before-flush") {
        return segment.file.write_at(slice, at).await;
    }
    let written = segment.file.write_durable_at(slice, at).await;
    match written {
        // Wrong: the flush says yes, and the data is gone.
        Err(_) if planted("commitlog-flush-tried-again") => {
            segment.file.sync_data().await.map(|()| slice.len())
        }
        written => written,
    }
}

/// One flush. It covers writes that were complete before it was issued, and nothing else.
async fn sync(log: Rc<Shared>, to: u64) {
    if buggify("commitlog-sync-late", 8) {
        // Less than an election: three disks at once would end every lead.
        sleep(SYNC_LATE).await;
    }
    let file = log.state.borrow().active().clone();
    let begin = Instant::now();
    // A failed flush says so once; the next one would report success without the data
    // (fsyncgate). So the first failure is final.
    let mut flushed = match planted("commitlog-ack-before-flush") {
        // Wrong: what was written is taken for durable.
        true => Ok(()),
        false => file.file.sync_data().await,
    };
    if flushed.is_err() && planted("commitlog-flush-tried-again") {
        // Wrong: the second one says yes, and the data is gone.
        flushed = file.file.sync_data().await;
    }
    if let Err(error) = flushed {
        log.poison(format!("fdatasync of {}: {error}", file.path.display()));
        return;
    }
    let mut state = log.state.borrow_mut();
    if state.poisoned.is_some() {
        return;
    }
    state.counters.flushed(begin.elapsed());
    state.flushed(to);
    drop(state);
    log.wake.notify_one();
}

impl Shared {
    /// An empty group; when it is durable, everything before it is.
    pub(crate) fn mark_ticket(&self) -> oneshot::Receiver<Result<(), LogError>> {
        let (sender, receiver) = oneshot::channel();
        self.state.borrow_mut().queue(Op::Mark, Some(sender));
        self.wake.notify_one();
        self.refuse_if_over();
        receiver
    }

    /// Asks for an empty group.
    pub(crate) fn mark(&self) {
        self.state.borrow_mut().queue(Op::Mark, None);
        self.wake.notify_one();
    }

    /// Whether waiting for space must end: the log is poisoned, or closing on a full disk. What was
    /// not written was never acknowledged.
    pub(crate) fn gives_up_on_full_disk(&self) -> bool {
        let closing = self.state.borrow().closing;
        if closing {
            self.poison("closed while the disk was full".to_owned());
        }
        closing || self.state.borrow().poisoned.is_some()
    }

    /// Stops everything for good and says why.
    pub(crate) fn poison(&self, reason: String) {
        tracing::error!(shard = self.shard.0, reason, "log poisoned");
        self.state.borrow_mut().poison(reason);
        self.wake.notify_one();
        self.poisoned.notify_all();
    }
}
