//! What is known to stand at each offset of a partition: four bytes per offset, in pages.
//!
//! Owns: a sparse table from offset to message. Must never: allocate by a claimed length; an
//! offset costs at most one page, however large it is.
//! Invariants: what is known is never forgotten or replaced.

use std::collections::BTreeMap;
use std::ops::Range;

use barrage_model::Offset;

use super::ledger::MessageId;

/// Offsets per page: 1 KiB.
const PAGE: u64 = 256;

/// What stands at an offset.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Slot {
    /// Nobody has seen it.
    Unknown,
    /// A control record.
    Control,
    /// A record that nobody sent; it was reported when it was read.
    Foreign,
    /// A message.
    Message(MessageId),
}

const UNKNOWN: u32 = u32::MAX;
const CONTROL: u32 = u32::MAX - 1;
const FOREIGN: u32 = u32::MAX - 2;

/// More messages than this have no number left.
pub(crate) const MESSAGES_MAX: u32 = u32::MAX - 3;

/// The table of one partition.
#[derive(Debug, Default)]
pub(crate) struct Slots {
    pages: BTreeMap<u64, Box<[u32]>>,
}

impl Slots {
    /// What stands at an offset.
    pub(crate) fn at(&self, offset: Offset) -> Slot {
        let page = self.pages.get(&(offset.0 / PAGE));
        page.and_then(|page| page.get((offset.0 % PAGE) as usize)).map_or(Slot::Unknown, decode)
    }

    /// Takes note of what stands at an offset that was unknown.
    pub(crate) fn learn(&mut self, offset: Offset, slot: Slot) {
        let fresh = || vec![UNKNOWN; PAGE as usize].into_boxed_slice();
        let page = self.pages.entry(offset.0 / PAGE).or_insert_with(fresh);
        if let Some(cell) = page.get_mut((offset.0 % PAGE) as usize) {
            assert!(*cell == UNKNOWN, "what is known is never replaced");
            *cell = encode(slot);
        }
    }

    /// What is known of a range, in order of offset.
    pub(crate) fn known(&self, range: Range<Offset>) -> impl Iterator<Item = (Offset, Slot)> {
        let (start, end) = (range.start.0, range.end.0.max(range.start.0));
        // The last page may begin below the end, hence it is looked into.
        let pages = self.pages.range(start / PAGE..=end / PAGE);
        let cells = pages.flat_map(|(page, cells)| {
            (0..PAGE).map(move |place| page * PAGE + place).zip(cells.iter())
        });
        let inside = cells.filter(move |(offset, _)| (start..end).contains(offset));
        inside
            .map(|(offset, cell)| (Offset(offset), decode(cell)))
            .filter(|(_, slot)| *slot != Slot::Unknown)
    }

    /// Everything that is known, in order of offset.
    pub(crate) fn all(&self) -> impl Iterator<Item = (Offset, Slot)> {
        self.known(Offset(0)..Offset(u64::MAX))
    }
}

fn encode(slot: Slot) -> u32 {
    match slot {
        Slot::Unknown => UNKNOWN,
        Slot::Control => CONTROL,
        Slot::Foreign => FOREIGN,
        Slot::Message(id) => id.0,
    }
}

fn decode(cell: &u32) -> Slot {
    match *cell {
        UNKNOWN => Slot::Unknown,
        CONTROL => Slot::Control,
        FOREIGN => Slot::Foreign,
        number => Slot::Message(MessageId(number)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_slots_come_back_in_order() {
        let mut slots = Slots::default();
        let far = u64::MAX - 1;
        let table = [
            (PAGE + 1, Slot::Message(MessageId(7))),
            (0, Slot::Control),
            (far, Slot::Foreign),
            (PAGE - 1, Slot::Message(MessageId(0))),
        ];
        for (offset, slot) in table {
            assert_eq!(slots.at(Offset(offset)), Slot::Unknown);
            slots.learn(Offset(offset), slot);
            assert_eq!(slots.at(Offset(offset)), slot);
        }
        let offsets = |range: Range<u64>| -> Vec<u64> {
            let range = Offset(range.start)..Offset(range.end);
            slots.known(range).map(|(offset, _)| offset.0).collect()
        };
        assert_eq!(offsets(0..u64::MAX), [0, PAGE - 1, PAGE + 1, far]);
        assert_eq!(offsets(1..PAGE + 1), [PAGE - 1]);
        assert_eq!(offsets(1..PAGE + 2), [PAGE - 1, PAGE + 1]);
        assert!(offsets(5..5).is_empty());
        let backwards = Range { start: 9, end: 5 };
        assert!(offsets(backwards).is_empty());
        assert_eq!(slots.all().count(), 4);
        assert_eq!(slots.pages.len(), 3, "a page per neighbourhood, not per distance");
    }

    #[test]
    #[should_panic(expected = "never replaced")]
    fn what_is_known_stays() {
        let mut slots = Slots::default();
        slots.learn(Offset(1), Slot::Control);
        slots.learn(Offset(1), Slot::Foreign);
    }
}
