//! Delayed records that come due, as a leader looks after them.
//!
//! ```text
//!   waits until ...  --> wheel --a moment ahead--> unread --put--> ready --take_due--> leaving
//!                          ^                          |                                  |
//!                          +---- put_off, left -------+----------------------------------+
//! ```
//!
//! Owns: whose time comes when, and what was read ahead. It is the leader's own, in no checkpoint.
//! Must never: let anything out by itself, read a clock or a log.
//! Invariants: each record that waits is in the wheel, unread, ready or on its way. The cost of a
//! turn is bounded, whatever waits; so is the number of timers, however often records are moved.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;

use barrage_model::batch::{BatchBuilder, Compression, Content};
use barrage_model::{Offset, PartitionKey};
use barrage_world::channel::Event;

use crate::queue::wheel::Wheel;

/// How long before its time a record is read.
const AHEAD_MS: u64 = 300;
/// Records of a partition that are to be read, at most.
const SOON_MAX: usize = 64 << 10;
/// Timers moved in one turn.
const MOVES_PER_TURN: usize = 4 << 10;
/// Which records of a batch are kept when it is opened for one of them, beyond those that are to
/// be read: while there is much room, some, or hardly any. Each of them alone would open it again:
/// a batch of records that are due at random is opened about once in such a time, not whenever the
/// next one of it is due.
const KEPT_AHEAD_MS: [u64; 3] = [10_000, 1_500, 100];
/// Timers that begin to matter later, and are moved meanwhile: so many in one turn, of all
/// partitions together, each millisecond while there are any. Ten million are moved in a tenth of
/// the time there is.
const MOVES_AHEAD: usize = 512;
/// Bytes read ahead, of all partitions of a shard together; as many again of what is due.
const READY_BYTES_MAX: usize = 32 << 20;
/// What a record that was read costs beside its bytes.
const READY_OVERHEAD: usize = 96;
/// Records in a batch that lets them in; one always goes.
const RECORDS_PER_BATCH: usize = 4 << 10;
/// Partitions that records are let into at once.
const PARTITIONS_AT_ONCE: usize = 256;
/// A clock that is set back by more than this makes all timers begin anew; by less, they stay ahead
/// of it for so long.
const SET_BACK_MS: u64 = 200;
/// A partition may have so many timers more than twice the records that wait: who is moved or
/// cancelled leaves one behind.
const TIMERS_OVER: u64 = 4 << 10;

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
    /// Something waits for another time, or room was made.
    noted: Event,
    /// Something was read.
    read: Event,
    /// Partitions with too many timers.
    stale: RefCell<BTreeSet<PartitionKey>>,
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
pub(super) struct Ready {
    pub(super) timestamp_ms: i64,
    /// Its batch says that it may be wanted for a while only.
    pub(super) expires: bool,
    /// Key, value and headers, as they are encoded.
    pub(super) content: Box<[u8]>,
}

impl Releases {
    /// Records of a partition wait for these times now; `waiting` wait there in all.
    pub(crate) fn note(&self, key: PartitionKey, dues: Vec<(Offset, u64)>, waiting: u64) {
        if !self.inner.is_on.get() || dues.is_empty() {
            return;
        }
        let mut partitions = self.inner.partitions.borrow_mut();
        let wheel = || Wheel::new(self.inner.looked_ms.get());
        let pending = || Pending { wheel: wheel(), ..Pending::default() };
        let pending = partitions.entry(key).or_insert_with(pending);
        let before = pending.wheel.next_ms();
        dues.into_iter().for_each(|(id, due_ms)| pending.wheel.insert(id.0, due_ms));
        if pending.wheel.len() as u64 > waiting.saturating_mul(2).saturating_add(TIMERS_OVER) {
            self.inner.stale.borrow_mut().insert(key);
            self.inner.noted.notify_all();
        }
        if pending.wheel.next_ms().is_some_and(|now| before.is_none_or(|before| now < before)) {
            self.inner.noted.notify_all();
        }
    }

    /// Nothing of what was noted or read holds any more.
    pub(crate) fn clear(&self) {
        self.inner.era.set(self.inner.era.get() + 1);
        self.inner.partitions.borrow_mut().clear();
        self.inner.stale.borrow_mut().clear();
        self.inner.ready_bytes.set(0);
    }

    /// A partition is gone, with all that waited for it.
    pub(crate) fn forget(&self, key: PartitionKey) {
        let Some(pending) = self.inner.partitions.borrow_mut().remove(&key) else { return };
        let freed: usize = pending.ready.values().map(Ready::size).sum();
        self.inner.ready_bytes.set(self.inner.ready_bytes.get().saturating_sub(freed));
        self.inner.stale.borrow_mut().remove(&key);
    }

    /// A partition whose timers are to be noted anew: it has none now.
    pub(super) fn take_stale(&self) -> Option<PartitionKey> {
        let key = self.inner.stale.borrow_mut().pop_first()?;
        if let Some(pending) = self.inner.partitions.borrow_mut().get_mut(&key) {
            pending.wheel = Wheel::new(self.inner.looked_ms.get());
        }
        Some(key)
    }

    /// Until when those are due that are worth keeping of a batch that was opened.
    pub(super) fn kept_until_ms(&self, now_ms: u64) -> u64 {
        let [much, some, little] = KEPT_AHEAD_MS;
        let kept_ms = match self.inner.ready_bytes.get() {
            bytes if bytes < READY_BYTES_MAX / 2 => much,
            bytes if bytes < READY_BYTES_MAX => some,
            _ => little,
        };
        now_ms.saturating_add(AHEAD_MS + kept_ms)
    }

    /// Tells when something waits for another time, or room was made.
    pub(super) fn noted(&self) -> impl Future<Output = ()> + use<> {
        self.inner.noted.listen()
    }

    /// Tells when something was read.
    pub(super) fn was_read(&self) -> impl Future<Output = ()> + use<> {
        self.inner.read.listen()
    }

    /// Something was read.
    pub(super) fn has_read(&self) {
        self.inner.read.notify_all();
    }

    /// Another one after all was forgotten.
    pub(super) fn era(&self) -> u64 {
        self.inner.era.get()
    }

    /// Whether a record has to be read still.
    pub(super) fn is_unread(&self, key: PartitionKey, at: &(u64, Offset)) -> bool {
        self.inner.partitions.borrow().get(&key).is_some_and(|it| it.is_unread(at))
    }

    /// The time that timers go by: it does not go back, so that who was noted before the clock was
    /// set back is looked after. Not to release by: apply goes by the leader's clock.
    pub(super) fn look_ms(&self, clock_ms: u64) -> u64 {
        let look_ms = clock_ms.max(self.inner.looked_ms.get());
        self.inner.looked_ms.set(look_ms);
        look_ms
    }

    /// Whether the clock was set back so far that what is due now would wait behind what is not.
    pub(super) fn is_set_back(&self, clock_ms: u64) -> bool {
        clock_ms.saturating_add(SET_BACK_MS) < self.inner.looked_ms.get()
    }

    /// Begins anew at this time, or stops.
    pub(super) fn turn(&self, now_ms: Option<u64>) {
        let is_on = now_ms.is_some();
        self.clear();
        self.inner.looked_ms.set(now_ms.unwrap_or(0));
        self.inner.is_on.set(is_on);
        self.inner.read.notify_all();
    }

    /// Looks which records are due soon; `due_ms` says until when one waits, if it does. Answers
    /// whether there may be more.
    pub(super) fn look_ahead(
        &self,
        now_ms: u64,
        due_ms: impl Fn(PartitionKey, Offset) -> Option<u64>,
    ) -> bool {
        let soon_ms = now_ms.saturating_add(AHEAD_MS);
        let mut has_more = false;
        let (mut moves, mut ahead) = (MOVES_PER_TURN, MOVES_AHEAD);
        let mut partitions = self.inner.partitions.borrow_mut();
        partitions.retain(|_, pending| !pending.is_empty());
        for (key, pending) in partitions.iter_mut() {
            let Pending { wheel, unread, again, failed, ready, leaving } = pending;
            let room = SOON_MAX.saturating_sub(unread.len());
            let moves_max = moves.min(room);
            let left = wheel.advance(soon_ms, moves_max, |id| {
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
            moves -= moves_max - left;
            // Also where there is no room for more: what lies ahead has to become less.
            ahead = wheel.prepare(ahead);
            has_more |= room > 0 && wheel.next_ms().is_some_and(|next_ms| next_ms <= soon_ms);
        }
        has_more
    }

    /// The record that is to be read next, if there is room for it.
    pub(super) fn next_unread(&self) -> Option<(PartitionKey, u64, Offset)> {
        let partitions = self.inner.partitions.borrow();
        let first_of = |of: fn(&Pending) -> &BTreeSet<(u64, Offset)>| {
            let first = partitions.iter().filter_map(|(key, pending)| {
                let (due_ms, id) = of(pending).first()?;
                Some((*key, *due_ms, *id))
            });
            first.min_by_key(|(_, due_ms, _)| *due_ms)
        };
        let first = first_of(|it| &it.unread).or_else(|| first_of(|it| &it.again))?;
        // What is due is not held up by what was read ahead.
        let is_due = first.1 <= self.inner.looked_ms.get();
        let bytes_max = if is_due { 2 * READY_BYTES_MAX } else { READY_BYTES_MAX };
        (self.inner.ready_bytes.get() < bytes_max).then_some(first)
    }

    /// One of the records that were read.
    pub(super) fn put(&self, key: PartitionKey, at: (u64, Offset), ready: Ready) {
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
    pub(super) fn put_off(
        &self,
        key: PartitionKey,
        (due_ms, id): (u64, Offset),
        retry_ms: Option<u64>,
    ) {
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
    pub(super) fn first_ready_ms(&self) -> Option<u64> {
        let partitions = self.inner.partitions.borrow();
        let first = partitions.values().filter_map(|pending| pending.ready.first_key_value());
        first.map(|((due_ms, _), _)| *due_ms).min()
    }

    /// When it is worth to look ahead again.
    pub(super) fn next_look_ms(&self) -> Option<u64> {
        let partitions = self.inner.partitions.borrow();
        let next = partitions.values().filter_map(|pending| match pending.wheel.has_upcoming() {
            true => Some(0),
            false => pending.wheel.next_ms(),
        });
        next.min().map(|next_ms| next_ms.saturating_sub(AHEAD_MS))
    }

    /// A batch for each partition that has records which were read and are due.
    pub(super) fn take_due(
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
    pub(super) fn left(&self, key: PartitionKey, ids: &[Offset], retry_ms: Option<u64>) {
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
            let Ready { timestamp_ms, expires, content } = first.get();
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
            if *expires {
                builder.set_expires();
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

#[cfg(test)]
mod tests {
    #![allow(clippy::indexing_slicing, reason = "tests fail by panicking")]

    use barrage_model::{PartitionId, TopicId};

    use super::*;

    const KEY: PartitionKey = PartitionKey { topic: TopicId(1), partition: PartitionId(0) };
    const NOW_MS: u64 = 1_000_000;
    /// As long as slots of one of the wheel's levels.
    const SLOT_MS: u64 = 1 << 18;

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
        releases.note(KEY, vec![(Offset(7), due_ms)], 1);
        releases.look_ahead(releases.look_ms(clock_ms), |_, _| Some(due_ms));
        assert_eq!(releases.next_unread(), Some((KEY, due_ms, Offset(7))));
        assert!(releases.is_set_back(NOW_MS - 6_000), "then all begin anew");
        releases.turn(Some(NOW_MS - 6_000));
        assert!(!releases.is_set_back(NOW_MS - 6_000));
    }

    #[test]
    fn what_lies_ahead_is_prepared_in_small_turns() {
        let releases = on();
        // So far away that they are moved once more when it is half a slot before.
        let due_ms = (NOW_MS / SLOT_MS + 4) * SLOT_MS;
        let now_ms = due_ms - SLOT_MS / 2;
        let keys =
            (0..10).map(|partition| PartitionKey { partition: PartitionId(partition), ..KEY });
        for key in keys {
            let ids = (0..MOVES_AHEAD as u64).map(Offset);
            releases.note(key, ids.map(|id| (id, due_ms)).collect(), MOVES_AHEAD as u64);
        }
        let upcoming = || {
            let partitions = releases.inner.partitions.borrow();
            partitions.values().filter(|pending| pending.wheel.has_upcoming()).count()
        };
        let look = || releases.look_ahead(now_ms, |_, _| Some(due_ms));
        for turn in 1..10 {
            assert!(!look());
            let done = 10 - upcoming();
            assert!((turn - 1..=turn).contains(&done), "one partition's worth in turn {turn}");
        }
        assert!(!look() && !look());
        assert_eq!(upcoming(), 0);
    }

    #[test]
    fn who_is_not_read_yet_does_not_keep_the_rest_from_being_prepared() {
        let releases = on();
        let unread = SOON_MAX as u64;
        let late_ms = (NOW_MS / SLOT_MS + 4) * SLOT_MS;
        let now_ms = late_ms - SLOT_MS / 2;
        let due_ms = |_, id: Offset| Some(if id.0 < unread { now_ms } else { late_ms });
        let ids = |ids: std::ops::Range<u64>| {
            ids.map(|id| (Offset(id), due_ms(KEY, Offset(id)).unwrap_or(0)))
        };
        releases.note(KEY, ids(0..unread + 100).collect(), unread + 100);
        while releases.look_ahead(now_ms, due_ms) {}
        assert!(!releases.inner.partitions.borrow()[&KEY].wheel.has_upcoming());
        assert_eq!(releases.inner.partitions.borrow()[&KEY].unread.len(), SOON_MAX);
    }

    #[test]
    fn who_is_moved_again_and_again_leaves_few_timers() {
        let releases = on();
        let mut noted_anew = 0;
        for turn in 0..50_000 {
            releases.note(KEY, vec![(Offset(1), NOW_MS + 1_000_000 + turn)], 1);
            if let Some(key) = releases.take_stale() {
                noted_anew += 1;
                releases.note(key, vec![(Offset(1), NOW_MS + 1_000_000 + turn)], 1);
            }
            let timers = |pending: &Pending| pending.wheel.len() as u64;
            let timers = releases.inner.partitions.borrow().get(&KEY).map_or(0, timers);
            assert!(timers <= TIMERS_OVER + 3, "{timers}");
        }
        assert!((10..20).contains(&noted_anew), "{noted_anew}");
    }

    #[test]
    fn what_waited_for_a_partition_goes_with_it() {
        let releases = on();
        let dues_ms = vec![(Offset(0), NOW_MS), (Offset(1), NOW_MS + 1_000_000)];
        releases.note(KEY, dues_ms, 2);
        releases.put(
            KEY,
            (NOW_MS, Offset(0)),
            Ready { timestamp_ms: 5, expires: false, content: Box::from([1_u8]) },
        );
        assert!(releases.inner.ready_bytes.get() > 0);
        releases.forget(KEY);
        assert_eq!(releases.inner.ready_bytes.get(), 0);
        assert!(releases.take_due(NOW_MS, 1 << 20, |_, _| Some(NOW_MS)).is_empty());
        assert_eq!(releases.next_look_ms(), None);
    }

    #[test]
    fn who_cannot_be_read_holds_up_nobody() {
        let releases = on();
        let due_ms = |_, id: Offset| Some(NOW_MS + id.0);
        let note = |id: u64| releases.note(KEY, vec![(Offset(id), NOW_MS + id)], 3);
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
        releases.note(KEY, dues_ms.to_vec(), 3);
        // An empty record: no key, no value, no headers.
        let ready = || Ready { timestamp_ms: 5, expires: false, content: Box::from([1_u8, 1, 0]) };
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
