//! Delayed records that come due: the leader lets them into their partitions.
//!
//! ```text
//!   apply: waits until ...  --> wheel --a second ahead--> unread --read, opened--> ready
//!   ready, and it is time   --> one batch per partition, proposed like a producer's
//!   apply: it counts only if all of its records wait still, and are due
//! ```
//!
//! A record is written once more when it is due, as one of the partition's: it lies then where its
//! neighbours do, is read with them, and is kept as long as they are. What was stored before can
//! go.
//!
//! Owns: whose time comes when, and what was read ahead. It is the leader's own, in no checkpoint.
//! Must never: let anything out by itself.
//! Invariants: on a leader each record that waits is in the wheel, unread, ready or on its way; who
//! is cancelled or moved meanwhile is found out by apply, and stays where that says. The cost of a
//! turn is bounded, whatever waits.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;
use std::time::Duration;

use barrage_model::batch::{BatchBuilder, BatchView, Compression, Content, DecompressionLimits};
use barrage_model::{Offset, PartitionKey, Term};
use barrage_world::channel::{Event, oneshot};
use barrage_world::{Instant, Slice, planted, sleep, unix_time_ms, yield_if_needed};
use bytes::Bytes;

use super::Shard;
use super::entry::{BATCH_OVERHEAD, WaitingBatch};
use super::handle::first_of;
use crate::api::{Acks, FetchError, ProduceError};
use crate::door::{CheckedBatch, When};
use crate::queue::wheel::Wheel;
use crate::reply::{ProduceReply, Way};

/// How long before its time a record is read.
const AHEAD_MS: u64 = 1_000;
/// Records of a partition that are looked after at a time, of those that are due soon.
const SOON_MAX: usize = 64 << 10;
/// Timers looked at in one turn.
const MOVES_PER_TURN: usize = 4 << 10;
/// Bytes read ahead, of all partitions of a shard together.
const READY_BYTES_MAX: usize = 32 << 20;
/// What a record that was read costs beside its bytes.
const READY_OVERHEAD: usize = 96;
/// Records in a batch that lets them in, and bytes of them, at most; one always goes.
const RECORDS_PER_BATCH: usize = 4 << 10;
const BYTES_PER_BATCH: usize = 512 << 10;
/// Partitions that records are let into at once.
const PARTITIONS_AT_ONCE: usize = 256;
/// When records could not be read or let in (a full disk, a full buffer), the next attempt.
const RETRY: Duration = Duration::from_millis(200);
/// Until when a batch has to be in.
const WITHIN: Duration = Duration::from_secs(30);
/// A clock that is set back by more than this makes all timers begin anew; by less, they stay ahead
/// of it for so long.
const SET_BACK_MS: u64 = 200;
/// Between two warnings of records that cannot be read.
const WARN_EVERY: Duration = Duration::from_secs(10);
/// After so long what was refused because of something before it is tried again.
const AGAIN_MS: u64 = 10;
/// How long to sleep while nothing is due: a clock that is set ahead is seen then.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// When each record is due; clones are the same.
#[derive(Clone, Default)]
pub(crate) struct Releases {
    inner: Rc<Inner>,
}

#[derive(Default)]
struct Inner {
    /// Whether anybody looks: on a follower nothing is noted.
    is_on: Cell<bool>,
    /// Raised when all of it is forgotten.
    era: Cell<u64>,
    /// Up to when was looked, in milliseconds since 1970: timers do not go back.
    looked_ms: Cell<u64>,
    partitions: RefCell<BTreeMap<PartitionKey, Pending>>,
    ready_bytes: Cell<usize>,
    warned: Cell<Option<Instant>>,
    /// Something waits for another time, or room was made.
    noted: Event,
    /// Something was read.
    read: Event,
}

/// What waits in one partition.
#[derive(Default)]
struct Pending {
    wheel: Wheel,
    /// Due soon, and to be read.
    unread: BTreeSet<(u64, Offset)>,
    /// The same of those that could not be read before: whoever can be read goes first.
    again: BTreeSet<(u64, Offset)>,
    failed: BTreeSet<Offset>,
    ready: BTreeMap<(u64, Offset), Ready>,
    /// On their way into the partition.
    leaving: BTreeSet<Offset>,
}

/// A record that was read.
struct Ready {
    timestamp_ms: i64,
    /// Key, value and headers, as they are encoded.
    content: Box<[u8]>,
}

/// Records that are on their way into a partition.
struct Leaving {
    key: PartitionKey,
    ids: Vec<Offset>,
    answer: oneshot::Receiver<crate::reply::ProduceResult>,
}

impl Releases {
    /// Records of a partition wait for these times now.
    pub(crate) fn note(&self, key: PartitionKey, dues: Vec<(Offset, u64)>) {
        if !self.inner.is_on.get() || dues.is_empty() {
            return;
        }
        let mut partitions = self.inner.partitions.borrow_mut();
        let wheel = || Wheel::new(self.inner.looked_ms.get());
        let pending = || Pending { wheel: wheel(), ..Pending::default() };
        let pending = partitions.entry(key).or_insert_with(pending);
        let before = pending.wheel.next_ms();
        dues.into_iter().for_each(|(id, due_ms)| pending.wheel.insert(id.0, due_ms));
        if pending.wheel.next_ms().is_some_and(|now| before.is_none_or(|before| now < before)) {
            self.inner.noted.notify_all();
        }
    }

    /// Nothing of what was noted or read holds any more.
    pub(crate) fn clear(&self) {
        self.inner.era.set(self.inner.era.get() + 1);
        self.inner.partitions.borrow_mut().clear();
        self.inner.ready_bytes.set(0);
    }

    /// The time that timers go by: it does not go back, so that who was noted before the clock was
    /// set back is looked after. Not to release by: apply goes by the leader's clock.
    fn look_ms(&self, clock_ms: u64) -> u64 {
        let look_ms = clock_ms.max(self.inner.looked_ms.get());
        self.inner.looked_ms.set(look_ms);
        look_ms
    }

    /// Whether the clock was set back so far that what is due now would wait behind what is not.
    fn is_set_back(&self, clock_ms: u64) -> bool {
        clock_ms.saturating_add(SET_BACK_MS) < self.inner.looked_ms.get()
    }

    /// Begins anew at this time, or stops.
    fn turn(&self, now_ms: Option<u64>) {
        let is_on = now_ms.is_some();
        self.clear();
        self.inner.looked_ms.set(now_ms.unwrap_or(0));
        self.inner.is_on.set(is_on);
        self.inner.read.notify_all();
    }

    /// Looks which records are due soon; `due_ms` says until when one waits, if it does. Answers
    /// whether there may be more.
    fn look_ahead(
        &self,
        now_ms: u64,
        due_ms: impl Fn(PartitionKey, Offset) -> Option<u64>,
    ) -> bool {
        let soon_ms = now_ms.saturating_add(AHEAD_MS);
        let mut has_more = false;
        let mut moves = MOVES_PER_TURN;
        let mut partitions = self.inner.partitions.borrow_mut();
        partitions.retain(|_, pending| !pending.is_empty());
        for (key, pending) in partitions.iter_mut() {
            let Pending { wheel, unread, again, failed, ready, leaving } = pending;
            let room = SOON_MAX.saturating_sub(unread.len() + ready.len());
            let moves_max = moves.min(room);
            if moves_max == 0 {
                continue;
            }
            let mut seen = 0;
            wheel.advance(soon_ms, moves_max, |id| {
                seen += 1;
                let id = Offset(id);
                // One that was moved has another timer; one that is gone needs none.
                let Some(due_ms) = due_ms(*key, id).filter(|due_ms| *due_ms <= soon_ms) else {
                    return;
                };
                if !leaving.contains(&id) && !ready.contains_key(&(due_ms, id)) {
                    let of = if failed.contains(&id) { &mut *again } else { &mut *unread };
                    of.insert((due_ms, id));
                }
            });
            moves -= seen.min(moves);
            has_more |= wheel.next_ms().is_some_and(|next_ms| next_ms <= soon_ms);
        }
        has_more
    }

    /// The record that is to be read next, if there is room for it.
    fn next_unread(&self) -> Option<(PartitionKey, u64, Offset)> {
        let partitions = self.inner.partitions.borrow();
        let first_of = |of: fn(&Pending) -> &BTreeSet<(u64, Offset)>| {
            let first = partitions.iter().filter_map(|(key, pending)| {
                let (due_ms, id) = of(pending).first()?;
                Some((*key, *due_ms, *id))
            });
            first.min_by_key(|(_, due_ms, _)| *due_ms)
        };
        let first = first_of(|it| &it.unread).or_else(|| first_of(|it| &it.again))?;
        (self.inner.ready_bytes.get() < READY_BYTES_MAX).then_some(first)
    }

    /// One of the records that were read.
    fn put(&self, key: PartitionKey, at: (u64, Offset), ready: Ready) {
        let mut partitions = self.inner.partitions.borrow_mut();
        let Some(pending) = partitions.get_mut(&key) else { return };
        pending.found(&at);
        if pending.leaving.contains(&at.1) {
            return;
        }
        let size = ready.size();
        if pending.ready.insert(at, ready).is_none() {
            self.inner.ready_bytes.set(self.inner.ready_bytes.get() + size);
        }
    }

    /// It cannot be read now, or is gone.
    fn put_off(&self, key: PartitionKey, (due_ms, id): (u64, Offset), retry_ms: Option<u64>) {
        let mut partitions = self.inner.partitions.borrow_mut();
        let Some(pending) = partitions.get_mut(&key) else { return };
        pending.found(&(due_ms, id));
        if let Some(retry_ms) = retry_ms {
            if pending.failed.len() < SOON_MAX {
                pending.failed.insert(id);
            }
            pending.wheel.insert(id.0, retry_ms.saturating_add(AHEAD_MS));
        }
    }

    /// When the first of those that were read is due.
    fn first_ready_ms(&self) -> Option<u64> {
        let partitions = self.inner.partitions.borrow();
        let first = partitions.values().filter_map(|pending| pending.ready.first_key_value());
        first.map(|((due_ms, _), _)| *due_ms).min()
    }

    /// When it is worth to look ahead again.
    fn next_look_ms(&self) -> Option<u64> {
        let partitions = self.inner.partitions.borrow();
        let next = partitions.values().filter_map(|pending| pending.wheel.next_ms()).min();
        next.map(|next_ms| next_ms.saturating_sub(AHEAD_MS))
    }

    /// A batch for each partition that has records which were read and are due.
    fn take_due(
        &self,
        now_ms: u64,
        bytes_max: usize,
        due_ms: impl Fn(PartitionKey, Offset) -> Option<u64>,
    ) -> Vec<(PartitionKey, Vec<Offset>, Vec<u8>)> {
        let mut batches = Vec::new();
        let mut freed = 0;
        for (key, pending) in self.inner.partitions.borrow_mut().iter_mut() {
            if batches.len() >= PARTITIONS_AT_ONCE {
                break;
            }
            // One batch of a partition at a time.
            if !pending.leaving.is_empty() {
                continue;
            }
            let waits = |at: &(u64, Offset)| due_ms(*key, at.1) == Some(at.0);
            let taken = pending.take_due(now_ms, bytes_max, waits, &mut freed);
            if let Some((bytes, mut ids)) = taken {
                ids.sort_unstable();
                pending.leaving.extend(ids.iter().copied());
                batches.push((*key, ids, bytes));
            }
        }
        self.inner.ready_bytes.set(self.inner.ready_bytes.get().saturating_sub(freed));
        if freed > 0 {
            self.inner.noted.notify_all();
        }
        batches
    }

    /// They are in, or could not be let in and are tried again then.
    fn left(&self, key: PartitionKey, ids: &[Offset], retry_ms: Option<u64>) {
        let mut partitions = self.inner.partitions.borrow_mut();
        let Some(pending) = partitions.get_mut(&key) else { return };
        pending.leaving.clear();
        if let Some(retry_ms) = retry_ms {
            let retry_ms = retry_ms.saturating_add(AHEAD_MS);
            ids.iter().for_each(|id| pending.wheel.insert(id.0, retry_ms));
            self.inner.noted.notify_all();
        }
        if pending.is_empty() {
            partitions.remove(&key);
        }
    }
}

impl Pending {
    fn is_empty(&self) -> bool {
        let Self { wheel, unread, again, ready, leaving, failed: _ } = self;
        let is_read = unread.is_empty() && again.is_empty();
        wheel.len() == 0 && is_read && ready.is_empty() && leaving.is_empty()
    }

    /// Nobody has to read this one any more.
    fn found(&mut self, at: &(u64, Offset)) {
        self.unread.remove(at);
        self.again.remove(at);
        self.failed.remove(&at.1);
    }

    fn is_unread(&self, at: &(u64, Offset)) -> bool {
        self.unread.contains(at) || self.again.contains(at)
    }

    /// Those that are due, the earliest first, as one batch.
    fn take_due(
        &mut self,
        now_ms: u64,
        bytes_max: usize,
        waits: impl Fn(&(u64, Offset)) -> bool,
        freed: &mut usize,
    ) -> Option<(Vec<u8>, Vec<Offset>)> {
        let mut ids = Vec::new();
        let mut builder: Option<BatchBuilder> = None;
        while ids.len() < RECORDS_PER_BATCH {
            let Some(first) = self.ready.first_entry().filter(|it| it.key().0 <= now_ms) else {
                break;
            };
            // One that was cancelled or moved since it was read would hold up all the others.
            if !waits(first.key()) {
                *freed += first.remove().size();
                continue;
            }
            let Ready { timestamp_ms, content } = first.get();
            let builder =
                builder.get_or_insert_with(|| BatchBuilder::new(Compression::None, *timestamp_ms));
            let id_bytes = (ids.len() + 1) * size_of::<Offset>();
            let size = builder.len_estimate() + content.len() + READY_OVERHEAD + id_bytes;
            if !ids.is_empty() && size > bytes_max {
                break;
            }
            let content = Content::of_decoded(content);
            if builder.push_content(*timestamp_ms, content).is_err() {
                // Another one's time lies too far from this one's: it goes alone. One that is alone
                // always fits, as was seen when it came.
                assert!(!ids.is_empty(), "a record fits into a batch of its own");
                break;
            }
            let ((_, id), ready) = first.remove_entry();
            *freed += ready.size();
            ids.push(id);
        }
        let built = builder.filter(|_| !ids.is_empty())?.finish();
        let Ok(bytes) = built else { unreachable!("a batch that holds records, as they are") };
        Some((bytes, ids))
    }
}

impl Ready {
    fn size(&self) -> usize {
        self.content.len() + READY_OVERHEAD
    }
}

impl Shard {
    /// While this node leads, finds out who is due soon, and reads that; until the shard closes.
    pub(crate) async fn read_delayed(self) {
        let mut watched: Option<Term> = None;
        while !self.inner.is_closing() && !self.inner.group.is_over() {
            let lead_changed = self.inner.group.lead_changed();
            let term = self.inner.group.leader_term();
            if term != watched {
                self.inner.releases.turn(term.map(|_| clock_ms()));
                watched = term;
                if term.is_some() {
                    self.note_all_delayed().await;
                }
                continue;
            }
            if term.is_none() {
                lead_changed.await;
                continue;
            }
            let releases = &self.inner.releases;
            let noted = releases.inner.noted.listen();
            if releases.is_set_back(clock_ms()) {
                releases.turn(Some(clock_ms()));
                self.note_all_delayed().await;
                continue;
            }
            let now_ms = self.look_ms();
            let has_more = self.inner.group.with_machine(|machine| {
                let delays = &machine.groups().delays;
                releases.look_ahead(now_ms, |key, id| delays.get(&key)?.due_ms(id))
            });
            if let Some((key, due_ms, id)) = releases.next_unread() {
                self.read_one(key, (due_ms, id)).await;
                yield_if_needed().await;
                continue;
            }
            if has_more {
                yield_if_needed().await;
                // Those before them have to be let in first, unless there is nothing at all.
                first_of(noted, sleep(Duration::from_millis(1))).await;
                continue;
            }
            let next_ms = releases.next_look_ms();
            let left = next_ms.map(|at| Duration::from_millis(at.saturating_sub(now_ms).max(1)));
            let left = left.map_or(LOOK_EVERY, |left| left.min(LOOK_EVERY));
            first_of(first_of(noted, lead_changed), sleep(left)).await;
        }
    }

    /// Notes who waits already, in slices: behind another leader there may be millions.
    async fn note_all_delayed(&self) {
        // Wrong when planted: a new leader lets nobody in who waited when it began.
        if planted("broker-delayed-records-never-due") {
            return;
        }
        let keys = self
            .inner
            .group
            .with_machine(|machine| machine.groups().delays.keys().copied().collect::<Vec<_>>());
        for key in keys {
            let mut from = Some(0);
            while let Some(chunk) = from {
                let (dues, next) = self.inner.group.with_machine(|machine| {
                    let delays = machine.groups().delays.get(&key);
                    delays.map_or((Vec::new(), None), |delays| delays.dues_from(chunk))
                });
                self.inner.releases.note(key, dues);
                from = next;
                yield_if_needed().await;
            }
        }
    }

    /// Reads the batch that a record was stored in, and keeps all of it that is due soon.
    async fn read_one(&self, key: PartitionKey, (due_ms, id): (u64, Offset)) {
        let releases = &self.inner.releases;
        let waits = || {
            self.inner.group.with_machine(|machine| {
                let delays = machine.groups().delays.get(&key);
                delays.and_then(|delays| delays.due_ms(id)) == Some(due_ms)
            })
        };
        if !waits() {
            return releases.put_off(key, (due_ms, id), None);
        }
        let era = releases.inner.era.get();
        let read = self.read_placed(key.delay_store(), id, 1).await;
        if releases.inner.era.get() != era {
            return;
        }
        let found = read.map(|batches| batches.first().is_some_and(|batch| self.keep(key, batch)));
        let is_kept = match found {
            Ok(is_kept) => is_kept,
            Err(FetchError::NotLeader { .. } | FetchError::ShuttingDown) => false,
            Err(error) => {
                if releases.inner.warned.get().is_none_or(|at| at.elapsed() > WARN_EVERY) {
                    releases.inner.warned.set(Some(Instant::now()));
                    tracing::warn!(%key, %id, %error, "a delayed record cannot be read yet");
                }
                false
            }
        };
        if !waits() {
            return releases.put_off(key, (due_ms, id), None);
        }
        // What was moved meanwhile has another timer.
        let partitions = releases.inner.partitions.borrow();
        let is_ready = partitions.get(&key).is_some_and(|it| !it.is_unread(&(due_ms, id)));
        drop(partitions);
        if !(is_kept && is_ready) {
            let retry_ms = self.look_ms().saturating_add(RETRY.as_millis() as u64);
            releases.put_off(key, (due_ms, id), Some(retry_ms));
        }
    }

    /// Keeps the records of a batch that are due soon; false if it cannot be opened.
    fn keep(&self, key: PartitionKey, batch: &Slice) -> bool {
        let soon_ms = self.look_ms().saturating_add(AHEAD_MS);
        let opened =
            BatchView::check(batch).and_then(|view| view.records(&DecompressionLimits::default()));
        let Ok(records) = opened else { return false };
        self.inner.group.with_machine(|machine| {
            let Some(delays) = machine.groups().delays.get(&key) else { return };
            for record in records.iter().map_while(Result::ok) {
                let due_ms = delays.due_ms(record.offset).filter(|due_ms| *due_ms <= soon_ms);
                let Some(due_ms) = due_ms else { continue };
                let ready = Ready {
                    timestamp_ms: record.timestamp_ms,
                    content: record.content.as_bytes().into(),
                };
                self.inner.releases.put(key, (due_ms, record.offset), ready);
            }
        });
        self.inner.releases.inner.read.notify_all();
        true
    }

    /// Lets those in whose time has come and that were read; until the shard closes.
    pub(crate) async fn release_delayed(self) {
        let releases = &self.inner.releases;
        while !self.inner.is_closing() && !self.inner.group.is_over() {
            let read = releases.inner.read.listen();
            let now_ms = clock_ms();
            // Wrong when planted: with apply, which takes them so early, they come a second early.
            let early_ms = if planted("broker-delayed-record-early") { 1_000 } else { 0 };
            let now_ms = now_ms + early_ms;
            // However small segments are: an entry must hold it.
            let bytes_max = self.inner.entry_bytes_max().saturating_sub(BATCH_OVERHEAD);
            let due = self.inner.group.with_machine(|machine| {
                let delays = &machine.groups().delays;
                let due_ms = |key, id| delays.get(&key)?.due_ms(id);
                releases.take_due(now_ms, bytes_max.min(BYTES_PER_BATCH), due_ms)
            });
            if !due.is_empty() {
                self.let_in(due).await;
                continue;
            }
            let left = releases.first_ready_ms();
            let left = left.map(|at| Duration::from_millis(at.saturating_sub(now_ms).max(1)));
            first_of(read, sleep(left.map_or(LOOK_EVERY, |left| left.min(LOOK_EVERY)))).await;
        }
    }

    async fn let_in(&self, due: Vec<(PartitionKey, Vec<Offset>, Vec<u8>)>) {
        let era = self.inner.releases.inner.era.get();
        // All share an entry, and that of whoever produces meanwhile.
        let leaving: Vec<Leaving> =
            due.into_iter().map(|(key, ids, bytes)| self.submit_due(key, ids, bytes)).collect();
        let mut has_failed = false;
        for Leaving { key, ids, answer } in leaving {
            let failed = match answer.await {
                Ok(Ok(_)) => false,
                // Somebody was cancelled or moved meanwhile, or something before it failed.
                Ok(Err(ProduceError::Retry)) => true,
                other => {
                    has_failed = true;
                    tracing::debug!(%key, ?other, "delayed records could not be let in");
                    true
                }
            };
            if self.inner.releases.inner.era.get() == era {
                let retry_ms = failed.then(|| self.look_ms().saturating_add(AGAIN_MS));
                self.inner.releases.left(key, &ids, retry_ms);
            }
        }
        if has_failed {
            sleep(RETRY).await;
        }
    }

    fn look_ms(&self) -> u64 {
        self.inner.releases.look_ms(clock_ms())
    }

    fn submit_due(&self, key: PartitionKey, ids: Vec<Offset>, bytes: Vec<u8>) -> Leaving {
        let Ok(batch) = CheckedBatch::check(Bytes::from(bytes)) else {
            unreachable!("what was built here is a batch");
        };
        let when = When::Due(ids.clone().into_boxed_slice());
        let batch = CheckedBatch { when, ..batch };
        let (sender, answer) = oneshot::channel();
        let reply = ProduceReply { way: Way::Here(sender), acks: Acks::Quorum };
        self.submit(WaitingBatch { key, batch, deadline: Instant::now() + WITHIN, reply });
        Leaving { key, ids, answer }
    }
}

/// This node's clock, which delays go by while it leads; the log's may be hours ahead, after a
/// leader whose clock was.
pub(super) fn clock_ms() -> u64 {
    u64::try_from(unix_time_ms()).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use barrage_model::{PartitionId, TopicId};

    use super::*;

    const KEY: PartitionKey = PartitionKey { topic: TopicId(1), partition: PartitionId(0) };
    const NOW_MS: u64 = 1_000_000;

    fn on() -> Releases {
        let releases = Releases::default();
        releases.turn(Some(NOW_MS));
        assert!(!releases.look_ahead(releases.look_ms(NOW_MS), |_, _| None));
        releases
    }

    #[test]
    fn a_clock_that_was_set_back_strands_nobody() {
        let releases = on();
        let clock_ms = NOW_MS - 150;
        assert!(!releases.is_set_back(clock_ms));
        let due_ms = clock_ms + 50;
        releases.note(KEY, vec![(Offset(7), due_ms)]);
        releases.look_ahead(releases.look_ms(clock_ms), |_, _| Some(due_ms));
        assert_eq!(releases.next_unread(), Some((KEY, due_ms, Offset(7))));
        assert!(releases.is_set_back(NOW_MS - 6_000), "then all begin anew");
        releases.turn(Some(NOW_MS - 6_000));
        assert!(!releases.is_set_back(NOW_MS - 6_000));
    }

    #[test]
    fn who_cannot_be_read_holds_up_nobody() {
        let releases = on();
        let due_ms = |_, id: Offset| Some(NOW_MS + id.0);
        let note = |id: u64| releases.note(KEY, vec![(Offset(id), NOW_MS + id)]);
        (1..4).for_each(note);
        let look = |now_ms| releases.look_ahead(releases.look_ms(now_ms), due_ms);
        look(NOW_MS);
        let next = || releases.next_unread().map(|(_, _, id)| id.0);
        for id in [1, 2] {
            assert_eq!(next(), Some(id));
            releases.put_off(KEY, (NOW_MS + id, Offset(id)), Some(NOW_MS + 5));
        }
        assert_eq!(next(), Some(3));
        look(NOW_MS + 10);
        assert_eq!(next(), Some(3), "it can be read, as far as is known");
        releases.put_off(KEY, (NOW_MS + 3, Offset(3)), None);
        assert_eq!(next(), Some(1));
    }

    #[test]
    fn who_was_cancelled_or_moved_holds_up_nobody() {
        let releases = on();
        let dues_ms = [(0, 10), (1, 20), (2, 30)].map(|(id, due_ms)| (Offset(id), due_ms));
        releases.note(KEY, dues_ms.to_vec());
        // An empty record: no key, no value, no headers.
        let ready = || Ready { timestamp_ms: 5, content: Box::from([1_u8, 1, 0]) };
        dues_ms.iter().for_each(|(id, due_ms)| releases.put(KEY, (*due_ms, *id), ready()));
        // The first was cancelled, the second moved.
        let due_ms = |_, id: Offset| [None, Some(99), Some(30)].get(id.0 as usize).copied()?;
        assert!(releases.take_due(9, 1 << 20, due_ms).is_empty(), "early");
        let taken = releases.take_due(50, 1 << 20, due_ms);
        let ids: Vec<_> = taken.iter().map(|(key, ids, _)| (*key, ids.clone())).collect();
        assert_eq!(ids, [(KEY, vec![Offset(2)])]);
        assert_eq!(releases.inner.ready_bytes.get(), 0);
        assert!(releases.take_due(50, 1 << 20, due_ms).is_empty(), "one batch at a time");
    }
}
