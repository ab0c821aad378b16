//! Which entries are where: what the receiving node of three knows about all copies.
//!
//! Owns: counting copies, the order of answers, how far a copy may lag. Pure: no I/O, no clock.
//! Must never: let an entry be answered that fewer than [`QUORUM`] copies hold, or before an
//! earlier one.
//! Invariants: numbers count up from 0 and wrap; an entry leaves when every copy holds it and its
//! reply was taken; a copy's lag is the bytes of the entries it does not hold.
//!
//! ```text
//!          first            answered              first + len
//! gone ... | held by quorum | under way ......... | next entry
//!            reply taken      reply kept
//! ```

use std::collections::VecDeque;

use crate::args::NODES_MAX;

/// How many copies there are: the receiving node's own and two others.
pub(super) const COPIES: usize = NODES_MAX;
/// How many must hold an entry before it is answered.
pub(super) const QUORUM: usize = COPIES / 2 + 1;
const _: () = assert!(2 * QUORUM > COPIES, "two quorums share a copy");

/// Bytes a copy may lack before nothing more is taken in: twice what a producer of large batches
/// has under way, so that only a copy that falls behind is ever waited for.
pub(super) const LAG_BYTES_MAX: u64 = 32 << 20;
/// Entries under way, however small: more than any load has in flight.
pub(super) const ENTRIES_MAX: usize = 8192;

/// One of the copies; the receiving node's own is [`CopyIndex::OWN`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct CopyIndex(pub usize);

/// Number of an entry, as told to the other nodes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Number(pub u32);

/// A copy was said to hold an entry that is not under way there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct NotUnderWay;

/// All entries under way, with what is to be said when a quorum holds them.
#[derive(Debug)]
pub(super) struct Ledger<R> {
    first: u32,
    entries: VecDeque<Entry<R>>,
    /// How many of `entries`, from the first, have had their reply taken.
    answered: usize,
    lag_bytes: [u64; COPIES],
}

#[derive(Debug)]
struct Entry<R> {
    bytes: u64,
    held: [bool; COPIES],
    reply: Option<R>,
}

impl CopyIndex {
    /// The receiving node's own copy.
    pub(super) const OWN: Self = Self(0);
}

impl<R> Entry<R> {
    fn copies(&self) -> usize {
        self.held.iter().filter(|held| **held).count()
    }
}

impl<R> Ledger<R> {
    /// Nothing under way.
    pub(super) const fn new() -> Self {
        Self { first: 0, entries: VecDeque::new(), answered: 0, lag_bytes: [0; COPIES] }
    }

    /// Whether another entry may be taken in: no copy lags too far.
    pub(super) fn has_room(&self) -> bool {
        let lag_bytes = self.lag_bytes.iter().copied().max().unwrap_or(0);
        lag_bytes < LAG_BYTES_MAX && self.entries.len() < ENTRIES_MAX
    }

    /// Takes in an entry that no copy holds yet.
    pub(super) fn enter(&mut self, bytes: usize, reply: R) -> Number {
        assert!(self.has_room(), "the caller waits for room");
        let bytes = bytes as u64;
        for lag_bytes in &mut self.lag_bytes {
            *lag_bytes += bytes;
        }
        // Below ENTRIES_MAX, asserted above.
        let number = self.first.wrapping_add(self.entries.len() as u32);
        self.entries.push_back(Entry { bytes, held: [false; COPIES], reply: Some(reply) });
        Number(number)
    }

    /// A copy holds an entry durably.
    pub(super) fn handle_held(
        &mut self,
        copy: CopyIndex,
        number: Number,
    ) -> Result<(), NotUnderWay> {
        let index = number.0.wrapping_sub(self.first) as usize;
        let entry = self.entries.get_mut(index).ok_or(NotUnderWay)?;
        let held = entry.held.get_mut(copy.0).ok_or(NotUnderWay)?;
        if std::mem::replace(held, true) {
            return Err(NotUnderWay);
        }
        if let Some(lag_bytes) = self.lag_bytes.get_mut(copy.0) {
            *lag_bytes -= entry.bytes;
        }
        Ok(())
    }

    /// The next reply that a quorum stands behind, in the order of the entries.
    pub(super) fn poll_reply(&mut self) -> Option<R> {
        let entry = self.entries.get_mut(self.answered);
        let entry = entry.filter(|entry| entry.copies() >= QUORUM);
        let reply = entry.and_then(|entry| entry.reply.take());
        self.answered += usize::from(reply.is_some());
        self.forget();
        reply
    }

    /// Lets go of what every copy holds and was answered.
    fn forget(&mut self) {
        while self.answered > 0 && self.entries.front().is_some_and(|e| e.copies() == COPIES) {
            self.entries.pop_front();
            self.first = self.first.wrapping_add(1);
            self.answered -= 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALL: [CopyIndex; COPIES] = [CopyIndex(0), CopyIndex(1), CopyIndex(2)];

    const NONE: [u32; 0] = [];

    fn replies(ledger: &mut Ledger<u32>) -> Vec<u32> {
        std::iter::from_fn(|| ledger.poll_reply()).collect()
    }

    #[test]
    fn two_of_three_answer_whichever_they_are() {
        for first in ALL {
            for second in ALL {
                let mut ledger = Ledger::new();
                let number = ledger.enter(10, 7);
                assert_eq!(replies(&mut ledger), NONE);
                assert_eq!(ledger.handle_held(first, number), Ok(()));
                assert_eq!(replies(&mut ledger), NONE, "one copy is none");
                let again = ledger.handle_held(second, number);
                if first == second {
                    assert_eq!(again, Err(NotUnderWay), "a copy counts once");
                    assert_eq!(replies(&mut ledger), NONE);
                } else {
                    assert_eq!(replies(&mut ledger), [7]);
                    assert_eq!(replies(&mut ledger), NONE, "a reply is given once");
                }
            }
        }
    }

    #[test]
    fn answers_keep_the_order_of_the_entries() {
        let mut ledger = Ledger::new();
        let numbers: Vec<Number> = (0..4).map(|reply| ledger.enter(1, reply)).collect();
        for number in [3, 1, 2] {
            for copy in [CopyIndex(1), CopyIndex(2)] {
                ledger.handle_held(copy, numbers[number]).unwrap();
            }
            assert_eq!(replies(&mut ledger), NONE);
        }
        ledger.handle_held(CopyIndex::OWN, numbers[0]).unwrap();
        ledger.handle_held(CopyIndex(2), numbers[0]).unwrap();
        assert_eq!(replies(&mut ledger), [0, 1, 2, 3]);
    }

    #[test]
    fn a_copy_that_lags_too_far_holds_everything_up() {
        for slow in ALL {
            let mut ledger = Ledger::new();
            let bytes = 1 << 20;
            let mut numbers = Vec::new();
            while ledger.has_room() {
                let number = ledger.enter(bytes, 0);
                numbers.push(number);
                for copy in ALL.into_iter().filter(|copy| *copy != slow) {
                    ledger.handle_held(copy, number).unwrap();
                }
            }
            assert_eq!(numbers.len() as u64 * bytes as u64, LAG_BYTES_MAX);
            assert_eq!(replies(&mut ledger).len(), numbers.len(), "the quorum is answered");
            ledger.handle_held(slow, numbers[0]).unwrap();
            assert!(ledger.has_room());
        }
    }

    #[test]
    fn entries_under_way_are_bounded_and_numbers_wrap() {
        let mut ledger = Ledger::new();
        ledger.first = u32::MAX - 1;
        let mut numbers = Vec::new();
        while ledger.has_room() {
            numbers.push(ledger.enter(1, 0));
        }
        assert_eq!(numbers.len(), ENTRIES_MAX);
        assert_eq!(numbers[2], Number(0));
        for copy in ALL {
            for number in &numbers {
                assert_eq!(ledger.handle_held(copy, *number), Ok(()));
            }
        }
        assert_eq!(replies(&mut ledger).len(), ENTRIES_MAX);
        assert!(ledger.entries.is_empty());
        assert_eq!(ledger.lag_bytes, [0; COPIES]);
        assert_eq!(ledger.handle_held(ALL[1], numbers[0]), Err(NotUnderWay));
    }
}
