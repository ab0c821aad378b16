//! The clock of one simulated machine: how it follows the true time of the run.
//!
//! Owns offset and rate. Invariants: the monotonic clock never goes back, also when its rate
//! changes; at `true_ns(t)` it shows `t` or just after.
//!
//! ```text
//!   local = base local + (true - base true) x (1,000,000 + rate) / 1,000,000
//! ```

use std::cell::Cell;

/// The wall clock at the start of every run: 2026-01-01 00:00 UTC.
const UNIX_START_MS: i64 = 1_767_225_600_000;
const NANOSECONDS_PER_MILLISECOND: u64 = 1_000_000;
const MILLION: i64 = 1_000_000;

#[derive(Default)]
pub(super) struct Clock {
    base_true_ns: Cell<u64>,
    base_local_ns: Cell<u64>,
    rate_ppm: Cell<i64>,
    unix_offset_ms: Cell<i64>,
}

impl Clock {
    /// What the monotonic clock shows at a point of the true time.
    pub(super) fn local_ns(&self, true_ns: u64) -> u64 {
        let passed = true_ns.saturating_sub(self.base_true_ns.get());
        self.base_local_ns.get().saturating_add(scaled(passed, self.speed(), MILLION))
    }

    /// The first point of the true time at which the monotonic clock shows `local_ns` or more.
    pub(super) fn true_ns(&self, local_ns: u64) -> u64 {
        let wanted = local_ns.saturating_sub(self.base_local_ns.get());
        let passed = match self.rate_ppm.get() {
            0 => wanted,
            _ => scaled(wanted, MILLION, self.speed()).saturating_add(1),
        };
        self.base_true_ns.get().saturating_add(passed)
    }

    /// What the wall clock shows.
    pub(super) fn unix_ms(&self, true_ns: u64) -> i64 {
        let running_ms = self.local_ns(true_ns) / NANOSECONDS_PER_MILLISECOND;
        let running_ms = i64::try_from(running_ms).unwrap_or(i64::MAX);
        UNIX_START_MS.saturating_add(running_ms).saturating_add(self.unix_offset_ms.get())
    }

    pub(super) fn set_unix_offset_ms(&self, offset_ms: i64) {
        self.unix_offset_ms.set(offset_ms);
    }

    /// From `true_ns` on the clock is fast (or slow) by this much.
    pub(super) fn set_rate_ppm(&self, true_ns: u64, rate_ppm: i64) {
        assert!(rate_ppm > -MILLION, "a clock does not stand still");
        assert!(rate_ppm <= MILLION, "a clock runs at most twice as fast");
        let local_ns = self.local_ns(true_ns);
        self.base_local_ns.set(local_ns);
        self.base_true_ns.set(true_ns);
        self.rate_ppm.set(rate_ppm);
    }

    fn speed(&self) -> i64 {
        MILLION + self.rate_ppm.get()
    }
}

fn scaled(duration_ns: u64, numerator: i64, denominator: i64) -> u64 {
    if numerator == denominator {
        return duration_ns;
    }
    assert!(numerator > 0, "time goes forward");
    assert!(denominator > 0, "time goes forward");
    let product = u128::from(duration_ns) * u128::from(numerator.unsigned_abs());
    u64::try_from(product / u128::from(denominator.unsigned_abs())).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::super::rng::Rng;
    use super::*;

    #[test]
    fn a_fast_clock_gains_and_a_slow_one_loses() {
        for (rate_ppm, expected_ns) in
            [(0, 1_000_000_000), (50_000, 1_050_000_000), (-50_000, 950_000_000)]
        {
            let clock = Clock::default();
            clock.set_rate_ppm(5, rate_ppm);
            assert_eq!(clock.local_ns(5 + 1_000_000_000) - 5, expected_ns);
        }
    }

    /// Of any order of magnitude.
    fn some_time(random: &mut Rng) -> u64 {
        let bits = random.below(40);
        random.below(1 << bits)
    }

    #[test]
    fn it_never_goes_back_and_inverts() {
        let mut random = Rng::new(4);
        let clock = Clock::default();
        let (mut true_ns, mut local_ns) = (0, 0);
        for _ in 0..2_000 {
            true_ns += some_time(&mut random);
            if random.one_in(3) {
                let rate_ppm = random.between(0, 1_999_999) as i64 - 999_999;
                clock.set_rate_ppm(true_ns, rate_ppm);
            }
            let now = clock.local_ns(true_ns);
            assert!(now >= local_ns);
            local_ns = now;
            let deadline = local_ns + some_time(&mut random);
            let due = clock.true_ns(deadline);
            assert!(clock.local_ns(due) >= deadline);
            // Not late by more than what two nanoseconds of true time show.
            assert!(clock.local_ns(due.saturating_sub(2)) <= deadline);
        }
    }

    #[test]
    fn the_wall_clock_follows_its_rate_and_jumps_by_its_offset() {
        let clock = Clock::default();
        let second_ns = 1_000_000_000;
        assert_eq!(clock.unix_ms(second_ns) - clock.unix_ms(0), 1_000);
        clock.set_rate_ppm(0, 100_000);
        assert_eq!(clock.unix_ms(second_ns) - clock.unix_ms(0), 1_100);
        let before = clock.unix_ms(second_ns);
        clock.set_unix_offset_ms(-3_600_000);
        assert_eq!(clock.unix_ms(second_ns), before - 3_600_000);
    }
}
