//! One clock for several processes of a machine, and for what stands in records.
//!
//! Owns: the relation between this process's clock and the time since 1970. Must never: look at the
//! system's time twice; a step of it would be counted as latency.

use std::time::{Duration, Instant, SystemTime};

/// Both clocks at one moment.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Clock {
    instant: Instant,
    since_1970: Duration,
}

const LOOKS: u32 = 16;

impl Clock {
    /// Looks at both now: a few times, of which the shortest look is right to less than it took.
    /// Between two looks this process may have lost its core.
    pub(crate) fn now() -> Self {
        let look = |_| {
            let before = Instant::now();
            let since_1970 = SystemTime::UNIX_EPOCH.elapsed().unwrap_or_default();
            (before.elapsed(), Self { instant: before, since_1970 })
        };
        let looks = (0..LOOKS).map(look).min_by_key(|(took, _)| *took);
        match looks {
            Some((took, clock)) => Self { instant: clock.instant + took / 2, ..clock },
            None => unreachable!("there is more than one look"),
        }
    }

    /// The moment that is so long after 1970.
    pub(crate) fn instant(&self, since_1970: Duration) -> Instant {
        match since_1970.checked_sub(self.since_1970) {
            Some(later) => self.instant + later,
            // No process runs for so long that this does not exist.
            None => {
                let earlier = self.since_1970 - since_1970;
                self.instant.checked_sub(earlier).unwrap_or(self.instant)
            }
        }
    }

    /// How long after 1970 a moment is.
    pub(crate) fn since_1970(&self, at: Instant) -> Duration {
        match at.checked_duration_since(self.instant) {
            Some(later) => self.since_1970 + later,
            None => self.since_1970.saturating_sub(self.instant - at),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_moment_comes_back() {
        let clock = Clock::now();
        for ms in [0, 1_500] {
            let later = clock.instant + Duration::from_millis(ms);
            assert_eq!(clock.instant(clock.since_1970(later)), later);
        }
        let earlier = clock.instant.checked_sub(Duration::from_millis(3)).unwrap();
        assert_eq!(clock.instant(clock.since_1970(earlier)), earlier);
    }
}
