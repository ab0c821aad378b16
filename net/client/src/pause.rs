//! How long to wait before trying again: longer each time, and never the same for two clients, so
//! that those who lost one server do not come back to the next one all at once.

use std::collections::hash_map::RandomState;
use std::hash::BuildHasher;
use std::time::Duration;

/// Doublings after which a pause no longer grows, whatever its limit.
const DOUBLINGS_MAX: u32 = 16;

/// A row of pauses.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Pause {
    min: Duration,
    max: Duration,
    count: u32,
}

impl Pause {
    /// Pauses from about `min` on, up to about `max`.
    pub(crate) const fn new(min: Duration, max: Duration) -> Self {
        Self { min, max, count: 0 }
    }

    /// The next one.
    pub(crate) fn next(&mut self) -> Duration {
        let doublings = self.count.min(DOUBLINGS_MAX);
        self.count = self.count.saturating_add(1);
        spread(self.min.saturating_mul(1 << doublings).min(self.max), random())
    }

    /// It went well: the next trouble begins with a short pause.
    pub(crate) const fn reset(&mut self) {
        self.count = 0;
    }
}

/// A pause of about `pause`.
pub(crate) fn about(pause: Duration) -> Duration {
    spread(pause, random())
}

/// Between three quarters and five quarters of `pause`.
fn spread(pause: Duration, random: u64) -> Duration {
    const STEPS: u32 = 1024;
    let step = u32::try_from(random % u64::from(STEPS)).unwrap_or(0);
    pause * 3 / 4 + pause / 2 * step / STEPS
}

/// The standard library seeds every hasher anew.
pub(crate) fn random() -> u64 {
    RandomState::new().hash_one(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    #[test]
    fn pauses_grow_to_their_limit_and_begin_anew() {
        let mut pause = Pause::new(100 * MS, 400 * MS);
        for about in [100, 200, 400, 400, 400] {
            let next = pause.next();
            assert!((about * 3 / 4..=about * 5 / 4).contains(&next.as_millis()), "{next:?}");
        }
        pause.reset();
        assert!(pause.next() <= 125 * MS);
    }

    #[test]
    fn the_spread_is_a_quarter_to_both_sides() {
        assert_eq!(spread(100 * MS, 0), 75 * MS);
        assert!(spread(100 * MS, 1023) > 124 * MS);
        assert!(spread(100 * MS, 1023) < 125 * MS);
    }
}
