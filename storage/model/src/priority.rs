//! Priorities: how many levels a topic has, and which of its partitions are of which.
//!
//! A level is a class of partitions: those whose numbers leave the same remainder. So what is
//! urgent lies apart from what is not, in every protocol and with no state of its own, and a
//! consumer that asks the highest class first never looks at what is behind it.
//!
//! ```text
//!   4 levels, 10 partitions     level 3: 3 7    level 2: 2 6    level 1: 1 5 9    level 0: 0 4 8
//! ```
//! Must never: change for a topic that has records; they would be of another level.

use crate::PartitionId;

/// How many levels a topic has: 1 is none.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Priorities(u8);

impl Priorities {
    /// All records are alike.
    pub const NONE: Self = Self(1);
    /// Most levels: 0 to 9.
    pub const LEVELS_MAX: u8 = 10;

    /// So many levels; `None` for zero or more than [`Priorities::LEVELS_MAX`].
    #[must_use]
    pub const fn new(levels: u8) -> Option<Self> {
        match levels {
            1..=Self::LEVELS_MAX => Some(Self(levels)),
            _ => None,
        }
    }

    /// How many.
    #[must_use]
    pub const fn levels(self) -> u8 {
        self.0
    }

    /// The level of a partition.
    #[must_use]
    pub const fn of(self, partition: PartitionId) -> u8 {
        // Below 10.
        (partition.0 % self.0 as u32) as u8
    }

    /// How many of a topic's `partitions` are of a level; what is above the highest is of that.
    #[must_use]
    pub const fn count(self, level: u8, partitions: u32) -> u32 {
        let levels = self.0 as u32;
        partitions.saturating_sub(self.clamp(level)).div_ceil(levels)
    }

    /// The partition that is number `at` of those of a level.
    #[must_use]
    pub const fn partition(self, level: u8, at: u32) -> PartitionId {
        PartitionId(at * self.0 as u32 + self.clamp(level))
    }

    const fn clamp(self, level: u8) -> u32 {
        if level < self.0 { level as u32 } else { self.0 as u32 - 1 }
    }
}

impl Default for Priorities {
    fn default() -> Self {
        Self::NONE
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_partition_is_of_one_level() {
        for levels in 1..=Priorities::LEVELS_MAX {
            let priorities = Priorities(levels);
            for partitions in u32::from(levels)..40 {
                let mut seen = Vec::new();
                for level in 0..levels {
                    for at in 0..priorities.count(level, partitions) {
                        let partition = priorities.partition(level, at);
                        assert_eq!(priorities.of(partition), level);
                        seen.push(partition.0);
                    }
                }
                seen.sort_unstable();
                assert_eq!(seen, (0..partitions).collect::<Vec<_>>(), "{levels} levels");
            }
        }
    }

    #[test]
    fn what_is_above_the_highest_level_is_of_that() {
        let four = Priorities(4);
        assert_eq!(four.count(9, 10), four.count(3, 10));
        assert_eq!(four.partition(9, 1), PartitionId(7));
        assert_eq!(four.count(3, 3), 0, "a topic has at least as many partitions as levels");
        assert_eq!(Priorities::new(0), None);
        assert_eq!(Priorities::new(11), None);
    }
}
