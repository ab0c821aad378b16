//! Records on their way to the dead-letter topic, and the numbers they travel under.
//!
//! ```text
//!   dying --depart--> listed: sent as batches of an idempotent producer to one partition, where
//!                     the first sequence belongs to the front of the list --arrived--> settled
//! ```
//!
//! Owns: the list, which producer it is sent as, and where to. Both are replicated, so the next
//! leader sends what the last one may have sent already under the same numbers to the same place:
//! that knows it for a duplicate, and a record lies there once.
//! Must never: give a number to another record, or go elsewhere, while the numbering holds.
//! Invariants: the list is in the order of departure; sequences are dense. What is taken out of the
//! backlog meanwhile (a rewind, a purge) stays listed: it has left.

use std::collections::VecDeque;

use barrage_model::{Offset, PartitionKey, ProducerId, Sequence};

/// Records on their way at a time, at most.
pub(crate) const DEPARTING_MAX: usize = 1_000;

/// Whose batches records travel as, and where to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Numbering {
    pub(crate) producer: ProducerId,
    /// A partition of a dead-letter topic.
    pub(crate) into: PartitionKey,
}

/// A numbering, if any, and the sequence that is next in it.
pub(crate) type Position = (Option<ProducerId>, Sequence);

/// See the module.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Departures {
    pub(crate) numbering: Option<Numbering>,
    /// The sequence of the first one.
    pub(crate) first: Sequence,
    /// In the order of departure.
    pub(crate) list: VecDeque<Offset>,
}

impl Departures {
    /// How far they are.
    pub(crate) fn position(&self) -> Position {
        (self.numbering.map(|numbering| numbering.producer), self.first)
    }

    /// Numbers anew, if they are where they were when that was decided: meanwhile another leader
    /// may have done so, and sent them.
    pub(crate) fn renumber(&mut self, from: Position, to: Numbering) {
        if self.position() == from {
            self.numbering = Some(to);
            self.first = Sequence(0);
        }
    }

    /// The first `count` have arrived, if this numbering still holds; answers which.
    pub(crate) fn arrived(
        &mut self,
        producer: ProducerId,
        first: Sequence,
        count: usize,
    ) -> Vec<Offset> {
        if self.position() != (Some(producer), first) {
            return Vec::new();
        }
        let count = count.min(self.list.len());
        // The list is bounded, and so is a count of it.
        self.first = first.wrapping_advance(u32::try_from(count).unwrap_or(0));
        self.list.drain(..count).collect()
    }

    /// Nobody is on his way any more. Who goes next is numbered anew: some may have arrived.
    pub(crate) fn call_off(&mut self) -> VecDeque<Offset> {
        self.numbering = None;
        std::mem::take(&mut self.list)
    }

    /// Room for so many more.
    pub(crate) fn room(&self) -> usize {
        DEPARTING_MAX.saturating_sub(self.list.len())
    }
}

#[cfg(test)]
mod tests {
    use barrage_model::{PartitionId, TopicId};

    use super::*;

    #[test]
    fn numbers_hold_until_they_are_given_anew() {
        let (one, two) = (ProducerId(1), ProducerId(2));
        let into = PartitionKey { topic: TopicId(9), partition: PartitionId(0) };
        let mut departures = Departures::default();
        departures.renumber((None, Sequence(0)), Numbering { producer: one, into });
        departures.renumber((None, Sequence(0)), Numbering { producer: two, into });
        assert_eq!(departures.position(), (Some(one), Sequence(0)), "decided by a former leader");
        departures.list.extend([5, 3, 9, 4].map(Offset));
        assert_eq!(departures.arrived(one, Sequence(1), 2), []);
        assert_eq!(departures.arrived(two, Sequence(0), 2), []);
        assert_eq!(departures.arrived(one, Sequence(0), 2), [5, 3].map(Offset));
        assert_eq!(departures.arrived(one, Sequence(0), 2), [], "told twice");
        departures.renumber((Some(one), Sequence(2)), Numbering { producer: two, into });
        assert_eq!(departures.arrived(one, Sequence(2), 1), []);
        assert_eq!(departures.arrived(two, Sequence(0), 7), [9, 4].map(Offset));
        assert_eq!((departures.first, departures.room()), (Sequence(2), DEPARTING_MAX));
    }
}
