//! The seeded generator of the simulation: SplitMix64.
//!
//! Owns nothing but its state. Must never take entropy from the machine: every number follows
//! from the seed, on every platform and in every version of this repository, because a printed
//! seed has to replay the same run.

/// A small seeded generator. Not for secrets.
#[derive(Clone, Debug)]
pub struct Rng {
    state: u64,
}

impl Rng {
    /// A generator that always gives the same numbers for the same seed.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self { state: seed }
    }

    /// The next number, uniform over all of `u64`.
    pub fn next_u64(&mut self) -> u64 {
        self.state = self.state.wrapping_add(GOLDEN_GAMMA);
        mix(self.state)
    }

    /// A number in [0, bound). The bias is below 2^-32 for every bound used here.
    pub fn below(&mut self, bound: u64) -> u64 {
        assert!(bound > 0, "no number is below zero");
        ((u128::from(self.next_u64()) * u128::from(bound)) >> 64) as u64
    }

    /// A number in [low, high].
    pub fn between(&mut self, low: u64, high: u64) -> u64 {
        assert!(low <= high, "an empty range has no number");
        low.saturating_add(self.below((high - low).saturating_add(1)))
    }

    /// True once in `period` calls on average; never for a period of zero.
    pub fn one_in(&mut self, period: u64) -> bool {
        period > 0 && self.below(period) == 0
    }

    /// A generator of its own for a part of the run, so that parts do not shift each other.
    pub fn fork(&mut self) -> Self {
        Self::new(self.next_u64())
    }
}

/// Scrambles a number so that near inputs give far outputs.
pub(super) fn mix(value: u64) -> u64 {
    let value = (value ^ (value >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let value = (value ^ (value >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    value ^ (value >> 31)
}

const GOLDEN_GAMMA: u64 = 0x9e37_79b9_7f4a_7c15;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn same_seed_gives_same_numbers() {
        let (mut left, mut right) = (Rng::new(7), Rng::new(7));
        for _ in 0..100 {
            assert_eq!(left.next_u64(), right.next_u64());
        }
        assert_ne!(Rng::new(7).next_u64(), Rng::new(8).next_u64());
    }

    #[test]
    fn bounds_hold() {
        let mut rng = Rng::new(1);
        let drawn: Vec<u64> = (0..1000).map(|_| rng.between(3, 7)).collect();
        for number in 3..=7 {
            assert!(drawn.iter().filter(|other| **other == number).count() > 100);
        }
        assert!(drawn.iter().all(|number| (3..=7).contains(number)));
        assert!(!rng.one_in(0));
        assert!(rng.one_in(1));
    }
}
