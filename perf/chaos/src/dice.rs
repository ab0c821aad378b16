//! Random choices that follow from a seed.
//!
//! Owns: a SplitMix64 generator. It is not for secrets, and good enough to pick faults.
//! Must never: read a clock.

use std::ops::Range;

/// See the module.
#[derive(Clone, Debug)]
pub(crate) struct Dice {
    state: u64,
}

impl Dice {
    pub(crate) const fn new(seed: u64) -> Self {
        Self { state: seed }
    }

    /// A number of the range, which must not be empty.
    pub(crate) fn between(&mut self, range: Range<u64>) -> u64 {
        assert!(range.start < range.end, "an empty range");
        // The bias of the remainder is far below what anybody could see here.
        range.start + self.next() % (range.end - range.start)
    }

    /// An index below `count`; 0 when there is nothing to choose from.
    pub(crate) fn index(&mut self, count: usize) -> usize {
        self.between(0..(count as u64).max(1)) as usize
    }

    /// True so often out of a hundred times.
    pub(crate) fn percent(&mut self, often: u64) -> bool {
        self.between(0..100) < often
    }

    pub(crate) fn choose<T: Copy>(&mut self, items: &[T]) -> Option<T> {
        let index = self.index(items.len());
        items.get(index).copied()
    }

    pub(crate) fn shuffle<T>(&mut self, items: &mut [T]) {
        for last in (1..items.len()).rev() {
            let other = self.index(last + 1);
            items.swap(last, other);
        }
    }

    fn next(&mut self) -> u64 {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.state;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_seed_gives_the_same_choices() {
        let roll = |seed| {
            let mut dice = Dice::new(seed);
            let mut deck: Vec<u32> = (0..20).collect();
            dice.shuffle(&mut deck);
            (deck, dice.between(5..500))
        };
        assert_eq!(roll(7), roll(7));
        assert_ne!(roll(7), roll(8));
        let mut deck = roll(7).0;
        deck.sort_unstable();
        assert_eq!(deck, (0..20).collect::<Vec<_>>(), "nothing is lost when it is shuffled");
    }
}
