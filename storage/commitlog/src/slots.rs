//! Raft's view of the log: what lies at each index above the floor.
//!
//! ```text
//!        floor |  cold: known by index files   |  slots, one for each entry        | next
//!   -----------+-------------------------------+-----------------------------------+-----> index
//!              begin                           first
//! ```
//!
//! Cold entries are those of segments whose index file is durable and of which apply has seen
//! everything, so none of them is ever cut off. Only their terms and segments are in memory, where
//! they change; where each lies is read from the segment's index file when somebody asks.
//!
//! Memory: a slot for each entry of the active segment and of the sealed ones that still wait for
//! apply or for their index file, each of at most [`Options::segment_entries_max`] entries; for all
//! other segments two stretches, and one more for each change of the term.
//!
//! Invariants: indexes are dense; `begin` is the floor's index plus one unless a log began there;
//! nothing cold is behind what apply has seen.
//!
//! [`Options::segment_entries_max`]: crate::Options::segment_entries_max

use crate::entry::Entry;
use crate::stretches::Stretches;
use barrage_model::{LogId, LogIndex, Term};
use std::collections::{BTreeMap, VecDeque};
use std::ops::Range;
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

/// One index of the log. There are many: its term and segment stand with those of its neighbours.
#[derive(Debug)]
struct Slot {
    position: u64,
    header_hash: u64,
    /// 0 while the entry has no place.
    len: u32,
    entry: Option<Rc<Entry>>,
}

const _: () = assert!(size_of::<Slot>() == 32);

/// What is known of an index without asking the disk.
#[derive(Debug)]
pub(crate) enum Known {
    /// Its command and run table, perhaps with payload, and its place once it has one.
    Entry(Rc<Entry>, Option<Place>),
    /// Where it lies.
    Placed(Place),
    /// It lies in this segment; the index file says where.
    Cold(u64),
}

/// All entries above the floor.
#[derive(Debug, Default)]
pub(crate) struct Slots {
    begin: u64,
    first: u64,
    slots: VecDeque<Slot>,
    terms: Stretches<Term>,
    /// The segments that entries with a place lie in.
    segments: Stretches<u64>,
    /// Index after the last entry with a place.
    placed_next: u64,
    /// Hash of the header of the last cold entry.
    cold_hash: u64,
    floor: Option<LogId>,
    floor_hash: u64,
    /// Runs that apply accepted before their entry had a place.
    waiting_runs: BTreeMap<u64, Vec<usize>>,
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
    fn next(&self) -> u64 {
        self.first + self.slots.len() as u64
    }

    /// The newest entry, or the floor.
    pub(crate) fn last(&self) -> Option<LogId> {
        if self.is_empty() { self.floor } else { self.id_at(self.next() - 1) }
    }

    pub(crate) fn first(&self) -> Option<LogId> {
        self.id_at(self.begin)
    }

    /// The id of the entry at `index`.
    pub(crate) fn id_at(&self, index: u64) -> Option<LogId> {
        if !(self.begin..self.next()).contains(&index) {
            return None;
        }
        self.terms.at(index).map(|term| LogId { term, index: LogIndex(index) })
    }

    /// The last entry of each term, oldest first.
    pub(crate) fn last_of_terms(&self) -> Vec<LogId> {
        let next = self.terms.iter().skip(1).map(|(start, _)| start).chain([self.next()]);
        let last =
            |((_, term), next): ((u64, Term), u64)| LogId { term, index: LogIndex(next - 1) };
        self.terms.iter().zip(next).map(last).collect()
    }

    /// Index of the first entry, or of the one that comes next when there is none.
    pub(crate) fn first_index(&self) -> u64 {
        self.begin
    }

    /// The last entry that lies in segment `number` or in one before it.
    pub(crate) fn last_in(&self, number: u64) -> Option<LogId> {
        let later = self.segments.iter().find(|(_, segment)| *segment > number);
        let next = later.map_or(self.placed_next, |(start, _)| start);
        self.id_at(next.checked_sub(1)?)
    }

    /// The entries that lie in segment `number`.
    pub(crate) fn indexes_in(&self, number: u64) -> Range<u64> {
        let mut from = self.segments.iter().skip_while(|(_, segment)| *segment < number);
        match from.next() {
            Some((start, segment)) if segment == number => {
                start..from.next().map_or(self.placed_next, |(start, _)| start)
            }
            _ => 0..0,
        }
    }

    /// Where terms begin in `range`, the first at its start.
    pub(crate) fn terms_in(&self, range: Range<u64>) -> Vec<(u64, Term)> {
        let first = self.terms.at(range.start).filter(|_| !range.is_empty());
        let first = first.map(|term| (range.start, term));
        let later = self.terms.iter().filter(|(start, _)| *start > range.start);
        first.into_iter().chain(later.take_while(|(start, _)| *start < range.end)).collect()
    }

    /// The index the next entry must carry. With nothing known yet, any.
    pub(crate) fn next_index(&self) -> Option<u64> {
        Some(self.next()).filter(|next| *next > 0)
    }

    /// Index after the last cold entry; none when nothing is cold.
    pub(crate) fn cold_next(&self) -> Option<u64> {
        (self.begin < self.first).then_some(self.first)
    }

    /// Entries that are known one by one.
    pub(crate) fn count(&self) -> usize {
        self.slots.len()
    }

    /// Bytes of memory for them, and for what is known of the others.
    pub(crate) fn memory_bytes(&self) -> usize {
        let stretches = self.terms.count() + self.segments.count();
        self.slots.len() * size_of::<Slot>() + stretches * size_of::<(u64, u64)>()
    }

    fn slot(&self, index: u64) -> Option<&Slot> {
        self.slots.get(usize::try_from(index.checked_sub(self.first)?).ok()?)
    }

    fn slot_mut(&mut self, index: u64) -> Option<&mut Slot> {
        self.slots.get_mut(usize::try_from(index.checked_sub(self.first)?).ok()?)
    }

    /// What is known of `index`; none when it is not in the log.
    pub(crate) fn at(&self, index: u64) -> Option<Known> {
        if (self.begin..self.first).contains(&index) {
            return self.segments.at(index).map(Known::Cold);
        }
        let slot = self.slot(index)?;
        match (&slot.entry, self.place_of(index)) {
            (Some(entry), place) => Some(Known::Entry(entry.clone(), place)),
            (None, Some(place)) => Some(Known::Placed(place)),
            (None, None) => panic!("an entry without a place is in memory: index {index}"),
        }
    }

    /// Where the entry at `index` lies; none when it is cold, has no place or is not in the log.
    pub(crate) fn place_of(&self, index: u64) -> Option<Place> {
        let slot = self.slot(index).filter(|slot| slot.len > 0)?;
        let segment = self.segments.at(index)?;
        let Slot { position, len, header_hash, .. } = *slot;
        Some(Place { position, len, segment, header_hash })
    }

    /// Whether `index` is in the log and not yet on its way to the disk.
    pub(crate) fn waits_for_place(&self, index: u64) -> bool {
        self.slot(index).is_some_and(|slot| slot.len == 0)
    }

    pub(crate) fn push(&mut self, entry: &Rc<Entry>) {
        self.push_slot(entry.id, Some(entry.clone()));
        self.remember(entry.id.index.0, entry);
    }

    /// While nothing is known above the floor: the next entry carries `index`.
    pub(crate) fn begin_at(&mut self, index: u64) {
        assert!(self.is_empty(), "only an empty log may begin anywhere");
        self.begin = index;
        self.first = index;
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.begin == self.next()
    }

    /// Adds an entry found on disk.
    pub(crate) fn push_placed(&mut self, id: LogId, place: Place) {
        self.push_slot(id, None);
        self.set_place(id.index.0, place);
    }

    fn push_slot(&mut self, id: LogId, entry: Option<Rc<Entry>>) {
        let index = id.index.0;
        if self.is_empty() && self.floor.is_none() {
            self.begin_at(index);
        }
        assert_eq!(index, self.next(), "the log has no holes");
        self.terms.push(index, id.term);
        self.slots.push_back(Slot { position: 0, header_hash: 0, len: 0, entry });
    }

    fn set_place(&mut self, index: u64, place: Place) {
        let Place { position, len, segment, header_hash } = place;
        assert!(len > 0, "an entry has a header");
        if let Some(slot) = self.slot_mut(index) {
            (slot.position, slot.len, slot.header_hash) = (position, len, header_hash);
            self.segments.push(index, segment);
            self.placed_next = index + 1;
        }
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
                && slot.len > 0
                && let Some(entry) = slot.entry.as_ref().filter(|entry| !entry.runs.is_empty())
            {
                slot.entry = Some(Rc::new(entry.without_payload()));
            }
        }
    }

    /// The entry has its place; if it is still in the log its payload leaves memory, unless
    /// payload is kept. Gives the runs that waited for the place.
    pub(crate) fn place(&mut self, entry: &Rc<Entry>, place: Place) -> Vec<usize> {
        let index = entry.id.index.0;
        let Some(slot) = self.slot_mut(index) else { return Vec::new() };
        // The index may hold another entry by now: this one was truncated while it waited.
        if !slot.entry.as_ref().is_some_and(|held| Rc::ptr_eq(held, entry)) {
            return Vec::new();
        }
        self.set_place(index, place);
        if !entry.runs.is_empty() {
            let bytes = place.len as usize + WHOLE_BYTES_EXTRA;
            self.whole.push_back((index, bytes));
            self.whole_bytes += bytes;
            self.drop_payload();
        }
        self.waiting_runs.remove(&index).unwrap_or_default()
    }

    /// Notes a run that was accepted before its entry had a place.
    pub(crate) fn wait_for_place(&mut self, index: u64, run: usize) {
        self.waiting_runs.entry(index).or_default().push(run);
    }

    /// Keeps an entry that was read from disk.
    pub(crate) fn keep(&mut self, entry: &Rc<Entry>) {
        let index = entry.id.index.0;
        if self.id_at(index) == Some(entry.id)
            && let Some(slot) = self.slot_mut(index)
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
            let wanted = |slot: &Slot| slot.len == 0 || old >= self.applied_next;
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

    /// Removes everything behind `last`, or everything. What is cold goes with everything only.
    pub(crate) fn truncate_after(&mut self, last: Option<LogId>) {
        let next = last.map_or(0, |last| last.index.0 + 1);
        if last.is_none() {
            self.first = self.begin;
            self.slots.clear();
        }
        let cold_next = self.cold_next().unwrap_or(0);
        assert!(cold_next <= next, "what was applied is not cut off: {last:?}");
        let keep = usize::try_from(next.saturating_sub(self.first)).unwrap_or(usize::MAX);
        self.slots.truncate(keep);
        self.terms.truncate(self.next());
        self.segments.truncate(self.next());
        self.placed_next = self.placed_next.min(self.next());
        self.waiting_runs.split_off(&self.next());
        if self.is_empty() {
            // While it is replayed a log may begin behind what it is cut off after: the entries
            // before that went with their segments, once a later floor had let them go.
            self.begin_at(next.max(self.floor.map_or(0, |floor| floor.index.0 + 1)));
        }
    }

    /// Removes everything up to `floor`.
    pub(crate) fn set_floor(&mut self, floor: LogId) {
        if self.floor.is_some_and(|old| old.index >= floor.index) {
            return;
        }
        self.floor_hash = self.hash_of(floor.index.0);
        let (next, end) = (floor.index.0 + 1, self.next());
        let drop = usize::try_from(next.saturating_sub(self.first)).unwrap_or(usize::MAX);
        self.slots.drain(..drop.min(self.slots.len()));
        if next >= end {
            self.terms.clear();
            self.segments.clear();
        }
        // Recovery may have begun behind the floor of its time; see `begin_at`.
        self.begin = self.begin.max(next);
        self.first = self.first.max(next);
        self.terms.begin_at(self.begin);
        self.segments.begin_at(self.begin);
        self.waiting_runs = self.waiting_runs.split_off(&self.begin);
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
        if self.cold_next() == Some(index + 1) {
            return self.cold_hash;
        }
        self.place_of(index).map_or(0, |place| place.header_hash)
    }

    /// Entries before `next` are in index files: their slots leave memory.
    pub(crate) fn let_go(&mut self, next: u64) {
        let next = next.min(self.placed_next);
        let Some(count) = next.checked_sub(self.first).filter(|count| *count > 0) else { return };
        self.cold_hash = self.hash_of(next - 1);
        self.slots.drain(..usize::try_from(count).unwrap_or(usize::MAX));
        // What a burst has made of it does not stay.
        self.slots.shrink_to(self.slots.len() * 2);
        self.first = next;
    }

    /// Adds what an index file tells, behind all that is here: entries `range` lie in `segment`.
    pub(crate) fn push_cold(
        &mut self,
        segment: u64,
        range: Range<u64>,
        terms: &[(u64, Term)],
        last_hash: u64,
    ) {
        assert!(self.slots.is_empty(), "cold entries come before all others");
        if self.is_empty() {
            self.begin_at(range.start);
        }
        assert_eq!(range.start, self.first, "the log has no holes");
        let within = terms.partition_point(|(start, _)| *start <= range.start);
        for (start, term) in terms.iter().skip(within.saturating_sub(1)) {
            self.terms.push((*start).max(range.start), *term);
        }
        self.segments.push(range.start, segment);
        self.first = range.end;
        self.placed_next = range.end;
        self.cold_hash = last_hash;
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
        assert_eq!(slots.place_of(1), None);
        slots.place(&new, place);
        assert_eq!(slots.place_of(1), Some(place));
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

    fn placed(slots: &mut Slots, term: u64, index: u64, segment: u64) {
        let position = index * 100;
        let place = Place { position, len: 80, segment, header_hash: index + 1 };
        slots.push_placed(entry(term, index).id, place);
    }

    #[test]
    fn what_is_let_go_is_known_by_segment_and_term() {
        let mut slots = Slots::default();
        for (term, index, segment) in [(1, 0, 1), (1, 1, 1), (2, 2, 1), (2, 3, 2), (4, 4, 3)] {
            placed(&mut slots, term, index, segment);
        }
        slots.push(&entry(4, 5));
        slots.let_go(4);
        assert_eq!((slots.count(), slots.cold_next()), (2, Some(4)));
        assert_eq!(slots.hash_of(3), 4);
        assert_eq!(slots.hash_of(2), 0, "it is not known without the table");
        assert!(matches!(slots.at(2), Some(Known::Cold(1))));
        assert!(matches!(slots.at(3), Some(Known::Cold(2))));
        assert!(matches!(slots.at(4), Some(Known::Placed(place)) if place.segment == 3));
        assert!(matches!(slots.at(5), Some(Known::Entry(_, None))));
        assert!(slots.at(6).is_none());
        assert_eq!(slots.indexes_in(1), 0..3);
        assert_eq!(slots.indexes_in(3), 4..5);
        assert_eq!(slots.indexes_in(9), 0..0);
        assert_eq!(slots.last_in(2).map(|id| id.index.0), Some(3));
        assert_eq!(slots.last_in(7).map(|id| id.index.0), Some(4));
        assert_eq!(slots.terms_in(1..4), [(1, Term(1)), (2, Term(2))]);
        let last: Vec<_> = slots.last_of_terms().iter().map(|id| (id.term.0, id.index.0)).collect();
        assert_eq!(last, [(1, 1), (2, 3), (4, 5)]);
        // The floor moves through what is cold, and cutting off stops before it.
        slots.set_floor(entry(1, 1).id);
        assert_eq!(slots.first(), Some(entry(2, 2).id));
        slots.truncate_after(Some(entry(2, 3).id));
        assert_eq!(slots.last(), Some(entry(2, 3).id));
        slots.push(&entry(5, 4));
        slots.truncate_after(None);
        assert_eq!(slots.last(), Some(entry(1, 1).id));
        assert!(slots.is_empty());
    }

    #[test]
    fn what_index_files_tell_comes_first() {
        let mut slots = Slots::default();
        slots.set_floor(entry(1, 4).id);
        slots.push_cold(7, 5..8, &[(2, Term(0)), (3, Term(1)), (7, Term(2))], 70);
        slots.push_cold(8, 8..9, &[(8, Term(2))], 80);
        placed(&mut slots, 2, 9, 9);
        assert_eq!(slots.id_at(5).map(|id| id.term), Some(Term(1)));
        assert_eq!(slots.id_at(8).map(|id| id.term), Some(Term(2)));
        assert_eq!(slots.hash_of(8), 80);
        assert_eq!(slots.last_in(7).map(|id| id.index.0), Some(7));
        assert_eq!(slots.last(), Some(entry(2, 9).id));
        let last: Vec<_> = slots.last_of_terms().iter().map(|id| id.index.0).collect();
        assert_eq!(last, [6, 9]);
    }
}
