//! How long a record waits before it is delivered again.
//!
//! Owns: the delay after each delivery that failed. Must never: answer more than [`DELAY_MS_MAX`].

/// Longest wait: that of the longest lease.
pub(crate) const DELAY_MS_MAX: u64 = 12 * 60 * 60 * 1000;
/// Levels of a table, at most.
pub(crate) const LEVELS_MAX: usize = 64;

/// Delays of redelivery.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Backoff {
    /// Always the same, in milliseconds.
    Fixed(u64),
    /// Twice as long each time.
    Exponential {
        /// After the first delivery, in milliseconds.
        first_ms: u64,
        /// Never longer.
        ms_max: u64,
    },
    /// One by one, the last for all behind it; none means no wait.
    Levels(Vec<u64>),
}

impl Backoff {
    /// The delays that `RocketMQ` consumers know: 16 of them, 10 s to 2 h (its levels 3 to 18).
    pub(crate) fn rocketmq() -> Self {
        let seconds =
            [10, 30, 60, 120, 180, 240, 300, 360, 420, 480, 540, 600, 1_200, 1_800, 3_600, 7_200];
        Self::Levels(seconds.map(|seconds| seconds * 1_000).to_vec())
    }

    /// The wait after so many deliveries, in milliseconds.
    pub(crate) fn after(&self, deliveries: u16) -> u64 {
        let failed = u32::from(deliveries.saturating_sub(1));
        let delay_ms = match self {
            Self::Fixed(delay_ms) => *delay_ms,
            Self::Exponential { first_ms, ms_max } => {
                let factor = 1_u64.checked_shl(failed).unwrap_or(u64::MAX);
                first_ms.saturating_mul(factor).min(*ms_max)
            }
            Self::Levels(levels) => {
                let level = levels.get(failed as usize).or(levels.last());
                level.copied().unwrap_or(0)
            }
        };
        delay_ms.min(DELAY_MS_MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn delays() {
        let after = |backoff: &Backoff| [1, 2, 3, 16, 17, u16::MAX].map(|n| backoff.after(n));
        assert_eq!(after(&Backoff::Fixed(5)), [5; 6]);
        let doubling = Backoff::Exponential { first_ms: 1_000, ms_max: 60_000 };
        assert_eq!(after(&doubling), [1_000, 2_000, 4_000, 60_000, 60_000, 60_000]);
        let levels = [10_000, 30_000, 60_000, 7_200_000, 7_200_000, 7_200_000];
        assert_eq!(after(&Backoff::rocketmq()), levels);
        assert_eq!(after(&Backoff::Levels(Vec::new())), [0; 6]);
        assert_eq!(Backoff::Fixed(u64::MAX).after(1), DELAY_MS_MAX);
        let endless = Backoff::Exponential { first_ms: u64::MAX, ms_max: u64::MAX };
        assert_eq!(endless.after(70), DELAY_MS_MAX);
        assert_eq!(Backoff::Fixed(1).after(0), 1);
    }
}
