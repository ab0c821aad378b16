//! The number of an assignment: a member that knows an older one is late.
//!
//! Owns: how it counts. Must never: be compared by size; after the last comes the first.
//! Invariants: it fits into 31 bits, as clients expect it. One a second lasts for 68 years.

/// See the module; 0 before the first.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Generation(pub(crate) u32);

impl Generation {
    /// Before anything was assigned.
    pub(crate) const NONE: Self = Self(0);
    /// After it comes 1.
    pub(crate) const MAX: Self = Self(i32::MAX as u32);

    /// The one after this.
    pub(crate) const fn following(self) -> Self {
        if self.0 >= Self::MAX.0 { Self(1) } else { Self(self.0 + 1) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn generations_follow_each_other() {
        for (one, next) in [(0, 1), (1, 2), (Generation::MAX.0 - 1, Generation::MAX.0)] {
            assert_eq!(Generation(one).following(), Generation(next));
        }
        assert_eq!(Generation::MAX.following(), Generation(1));
        assert_eq!(Generation(u32::MAX).following(), Generation(1), "out of its bounds");
    }
}
