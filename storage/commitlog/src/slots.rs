//! Raft's view of the log: what lies at each index above the floor.
//!
//! Invariant: indexes are dense; the first slot's index is the floor's plus one.

use crate::entry::Entry;
use barrage_model::{LogId, LogIndex, Term};
use std::collections::VecDeque;
use std::rc::Rc;

/// Bytes of commands and run tables kept in memory for apply and replication, at most.
const RECENT_BYTES_MAX: usize = 16 * 1024 * 1024;

/// What a whole entry takes beside its bytes.
const WHOLE_BYTES_EXTRA: usize = 256;

/// Where an entry lies in the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Place {
    pub(crate) position: u64,
    pub(crate) len: u32,
    pub(crate) segment: u64,
    pub(crate) header_hash: u64,
}

/// One index of the log.
#[derive(Debug)]
pub(crate) struct Slot {
    pub(crate) term: Term,
    pub(crate) place: Option<Place>,
    pub(crate) entry: Option<Rc<Entry>>,
    /// Runs that apply accepted before the entry had a place.
    pub(crate) waiting_runs: Vec<usize>,
}

/// All slots above the floor.
#[derive(Debug, Default)]
pub(crate) struct Slots {
    first: u64,
    slots: VecDeque<Slot>,
    floor: Option<LogId>,
    floor_hash: u64,
    recent: VecDeque<(u64, usize)>,
    recent_bytes: usize,
    /// Apply has not seen this index and later ones: their entries stay in memory.
    applied_next: u64,
    /// Written entries that keep their payload, oldest first, and its bytes.
    whole: VecDeque<(u64, usize)>,
    whole_bytes: usize,
    whole_bytes_max: usize,
}

impl Slots {
    pub(crate) fn last(&self) -> Option<LogId> {
        let Some(slot) = self.slots.back() else { return self.floor };
        let index = LogIndex(self.first + self.slots.len() as u64 - 1);
        Some(LogId { term: slot.term, index })
    }

    pub(crate) fn first(&self) -> Option<LogId> {
        let slot = self.slots.front()?;
        Some(LogId { term: slot.term, index: LogIndex(self.first) })
    }

    /// Index of the first slot, or of the one that comes next when there is none.
    pub(crate) fn first_index(&self) -> u64 {
        self.first
    }

    /// The last entry that lies in segment `number` or in one before it.
    pub(crate) fn last_in(&self, number: u64) -> Option<LogId> {
        // Places are given in order, so those without one come last.
        let lies = |slot: &Slot| slot.place.is_some_and(|place| place.segment <= number);
        let count = self.slots.partition_point(lies);
        let slot = self.slots.get(count.checked_sub(1)?)?;
        Some(LogId { term: slot.term, index: LogIndex(self.first + count as u64 - 1) })
    }

    /// The index the next entry must carry. With nothing known yet, any.
    pub(crate) fn next_index(&self) -> Option<u64> {
        let next = self.first + self.slots.len() as u64;
        (next > 0).then_some(next)
    }

    pub(crate) fn slot(&self, index: u64) -> Option<&Slot> {
        self.slots.get(usize::try_from(index.checked_sub(self.first)?).ok()?)
    }

    fn slot_mut(&mut self, index: u64) -> Option<&mut Slot> {
        self.slots.get_mut(usize::try_from(index.checked_sub(self.first)?).ok()?)
    }

    pub(crate) fn push(&mut self, entry: &Rc<Entry>) {
        self.push_slot(entry.id, Some(entry.clone()), None);
        self.remember(entry.id.index.0, entry);
    }

    /// While nothing is known above the floor: the next entry carries `index`.
    pub(crate) fn begin_at(&mut self, index: u64) {
        assert!(self.slots.is_empty(), "only an empty log may begin anywhere");
        self.first = index;
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.slots.is_empty()
    }

    /// Adds an entry found on disk.
    pub(crate) fn push_placed(&mut self, id: LogId, place: Place) {
        self.push_slot(id, None, Some(place));
    }

    fn push_slot(&mut self, id: LogId, entry: Option<Rc<Entry>>, place: Option<Place>) {
        if !self.slots.is_empty() {
            assert_eq!(Some(id.index.0), self.next_index(), "the log has no holes");
        } else if self.floor.is_none() {
            self.first = id.index.0;
        } else {
            assert_eq!(id.index.0, self.first, "the log has no holes");
        }
        self.slots.push_back(Slot { term: id.term, place, entry, waiting_runs: Vec::new() });
    }

    /// Keeps the payload of the newest written entries in memory, this much of it: where copies of
    /// the log are fed from.
    pub(crate) fn keep_payload(&mut self, bytes_max: usize) {
        self.whole_bytes_max = bytes_max;
        self.drop_payload();
    }

    /// Bytes of payload kept so.
    pub(crate) fn whole_bytes(&self) -> usize {
        self.whole_bytes
    }

    fn drop_payload(&mut self) {
        while self.whole_bytes > self.whole_bytes_max {
            let Some((index, bytes)) = self.whole.pop_front() else { break };
            self.whole_bytes -= bytes;
            // The index may hold a later entry by now: while that has no place, only it has the
            // payload.
            if let Some(slot) = self.slot_mut(index)
                && slot.place.is_some()
                && let Some(entry) = slot.entry.as_ref().filter(|entry| !entry.runs.is_empty())
            {
                slot.entry = Some(Rc::new(entry.without_payload()));
            }
        }
    }

    /// The entry has its place; if it is still in the log its payload leaves memory, unless
    /// payload is kept. Gives the runs that waited for the place.
    pub(crate) fn place(&mut self, entry: &Rc<Entry>, place: Place) -> Vec<usize> {
        let Some(slot) = self.slot_mut(entry.id.index.0) else { return Vec::new() };
        // The index may hold another entry by now: this one was truncated while it waited.
        if !slot.entry.as_ref().is_some_and(|held| Rc::ptr_eq(held, entry)) {
            return Vec::new();
        }
        slot.place = Some(place);
        let waiting = std::mem::take(&mut slot.waiting_runs);
        if !entry.runs.is_empty() {
            let bytes = place.len as usize + WHOLE_BYTES_EXTRA;
            self.whole.push_back((entry.id.index.0, bytes));
            self.whole_bytes += bytes;
            self.drop_payload();
        }
        waiting
    }

    /// Notes a run that was accepted before its entry had a place.
    pub(crate) fn wait_for_place(&mut self, index: u64, run: usize) {
        if let Some(slot) = self.slot_mut(index) {
            slot.waiting_runs.push(run);
        }
    }

    /// Keeps an entry that was read from disk.
    pub(crate) fn keep(&mut self, entry: &Rc<Entry>) {
        let index = entry.id.index.0;
        if let Some(slot) = self.slot_mut(index)
            && slot.term == entry.id.term
            && slot.entry.is_none()
        {
            slot.entry = Some(entry.clone());
            self.remember(index, entry);
        }
    }

    fn remember(&mut self, index: u64, entry: &Entry) {
        let bytes = entry.command.len() + (entry.runs.len() + 1) * size_of::<crate::Run>();
        self.recent.push_back((index, bytes));
        self.recent_bytes += bytes;
        self.evict();
    }

    /// Apply has seen everything below `next`.
    pub(crate) fn set_applied(&mut self, next: u64) {
        self.applied_next = self.applied_next.max(next);
        self.evict();
    }

    /// Lets old entries go from memory, but none that apply needs or that lies nowhere else.
    fn evict(&mut self) {
        while self.recent_bytes > RECENT_BYTES_MAX {
            let Some((old, bytes)) = self.recent.front().copied() else { break };
            let wanted = |slot: &Slot| slot.place.is_none() || old >= self.applied_next;
            if self.slot(old).is_some_and(|slot| slot.entry.is_some() && wanted(slot)) {
                break;
            }
            self.recent.pop_front();
            self.recent_bytes -= bytes;
            if let Some(slot) = self.slot_mut(old) {
                slot.entry = None;
            }
        }
    }

    /// Removes everything behind `last`, or everything.
    pub(crate) fn truncate_after(&mut self, last: Option<LogId>) {
        let keep = last.map_or(0, |last| (last.index.0 + 1).saturating_sub(self.first));
        self.slots.truncate(usize::try_from(keep).unwrap_or(usize::MAX));
        if self.slots.is_empty() {
            // While it is replayed a log may begin behind what it is cut off after: the entries
            // before that went with their segments, once a later floor had let them go.
            let next = last.map_or(0, |last| last.index.0 + 1);
            self.first = next.max(self.floor.map_or(0, |floor| floor.index.0 + 1));
        }
    }

    /// Removes everything up to `floor`.
    pub(crate) fn set_floor(&mut self, floor: LogId) {
        if self.floor.is_some_and(|old| old.index >= floor.index) {
            return;
        }
        self.floor_hash = self.hash_of(floor.index.0);
        let next = floor.index.0 + 1;
        let drop = usize::try_from(next.saturating_sub(self.first)).unwrap_or(usize::MAX);
        self.slots.drain(..drop.min(self.slots.len()));
        // Recovery may have begun behind the floor of its time; see `begin_at`.
        self.first = self.first.max(next);
        self.floor = Some(floor);
    }

    pub(crate) fn floor(&self) -> Option<LogId> {
        self.floor
    }

    /// Hash of the header of the entry at `index`; 0 when not known.
    pub(crate) fn hash_of(&self, index: u64) -> u64 {
        if self.floor.is_some_and(|floor| floor.index.0 == index) {
            return self.floor_hash;
        }
        self.slot(index).and_then(|slot| slot.place).map_or(0, |place| place.header_hash)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::entry::EntryKind;
    use bytes::Bytes;

    fn entry(term: u64, index: u64) -> Rc<Entry> {
        Rc::new(Entry {
            id: LogId { term: Term(term), index: LogIndex(index) },
            kind: EntryKind::Blank,
            log_time_ms: 0,
            command: Bytes::new(),
            runs: Vec::new(),
        })
    }

    #[test]
    fn a_truncated_entry_does_not_take_the_place_of_its_successor() {
        let mut slots = Slots::default();
        let (zero, old, new) = (entry(1, 0), entry(1, 1), entry(2, 1));
        slots.push(&zero);
        slots.push(&old);
        slots.truncate_after(Some(zero.id));
        slots.push(&new);
        let place = Place { position: 0, len: 80, segment: 1, header_hash: 5 };
        slots.place(&old, place);
        assert_eq!(slots.slot(1).and_then(|s| s.place), None);
        slots.place(&new, place);
        assert_eq!(slots.slot(1).and_then(|s| s.place), Some(place));
        assert_eq!(slots.last(), Some(new.id));
    }

    #[test]
    fn the_floor_may_pass_the_end() {
        let mut slots = Slots::default();
        slots.push(&entry(1, 0));
        let floor = LogId { term: Term(3), index: LogIndex(9) };
        slots.set_floor(floor);
        assert_eq!(slots.last(), Some(floor));
        assert_eq!(slots.first(), None);
        slots.push(&entry(3, 10));
        assert_eq!(slots.first().map(|id| id.index.0), Some(10));
    }
}
