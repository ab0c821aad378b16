//! Records on their way to the dead-letter topic, and the numbers they travel under.
//!
//! ```text
//!   dying --depart--> listed: sent one by one, as batches of an idempotent producer whose first
//!                     sequence belongs to the front of the list --arrived--> settled
//! ```
//!
//! Owns: the list, and which producer it is sent as. Numbers are replicated, so the next leader
//! sends what the last one may have sent already under the same number: the dead-letter topic knows
//! it for a duplicate, and a record lies there once.
//! Must never: give a number to another record while the numbering holds.
//! Invariants: the list is in the order of departure; sequences are dense. What is taken out of the
//! backlog meanwhile (a rewind, a purge) stays listed: it has left.

use std::collections::{BTreeSet, VecDeque};

use barrage_model::{Offset, ProducerId, Sequence};

/// Records on their way at a time, at most.
pub(crate) const DEPARTING_MAX: usize = 1_000;

/// See the module.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Departures {
    /// Whose batches they travel as.
    pub(crate) producer: Option<ProducerId>,
    /// The sequence of the first one.
    pub(crate) first: Sequence,
    /// In the order of departure.
    pub(crate) list: VecDeque<Offset>,
}

impl Departures {
    /// Numbers anew, as another producer; what is lost (its bytes are gone) leaves the list.
    pub(crate) fn renumber(&mut self, producer: ProducerId, lost: &[Offset]) {
        let lost: BTreeSet<&Offset> = lost.iter().collect();
        self.list.retain(|at| !lost.contains(at));
        self.producer = Some(producer);
        self.first = Sequence(0);
    }

    /// The first `count` have arrived, if this numbering still holds; answers which.
    pub(crate) fn arrived(
        &mut self,
        producer: ProducerId,
        first: Sequence,
        count: usize,
    ) -> Vec<Offset> {
        if self.producer != Some(producer) || self.first != first {
            return Vec::new();
        }
        let count = count.min(self.list.len());
        // The list is bounded, and so is a count of it.
        self.first = first.wrapping_advance(u32::try_from(count).unwrap_or(0));
        self.list.drain(..count).collect()
    }

    /// Nobody is on his way any more. Who goes next is numbered anew: some may have arrived.
    pub(crate) fn call_off(&mut self) -> VecDeque<Offset> {
        self.producer = None;
        std::mem::take(&mut self.list)
    }

    /// Room for so many more.
    pub(crate) fn room(&self) -> usize {
        DEPARTING_MAX.saturating_sub(self.list.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_hold_until_they_are_given_anew() {
        let (one, two) = (ProducerId(1), ProducerId(2));
        let mut departures = Departures::default();
        departures.renumber(one, &[]);
        departures.list.extend([5, 3, 9, 4].map(Offset));
        assert_eq!(departures.arrived(one, Sequence(1), 2), []);
        assert_eq!(departures.arrived(two, Sequence(0), 2), []);
        assert_eq!(departures.arrived(one, Sequence(0), 2), [5, 3].map(Offset));
        assert_eq!(departures.arrived(one, Sequence(0), 2), [], "told twice");
        departures.renumber(two, &[Offset(9)]);
        assert_eq!(departures.arrived(one, Sequence(2), 1), []);
        assert_eq!(departures.arrived(two, Sequence(0), 7), [Offset(4)]);
        assert_eq!((departures.first, departures.room()), (Sequence(1), DEPARTING_MAX));
    }
}
