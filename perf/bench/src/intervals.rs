//! What was counted in each second of a window.
//!
//! Owns: the division of a window into intervals, their counters and latencies.
//! Must never: hold more than [`INTERVALS_MAX`] of them; a long window has longer ones.
//! Invariants: interval `n` is `[n, n + 1)` lengths from the window's start; the length is a power
//! of two seconds.

use std::time::Duration;

use hdrhistogram::Histogram;

/// The intervals that something ended in, from the first of the window to the last.
#[derive(Clone, Debug)]
pub(crate) struct Intervals {
    length_s: u64,
    list: Vec<Interval>,
}

/// What ended within one of them.
#[derive(Clone, Debug)]
pub(crate) struct Interval {
    pub records: u64,
    pub bytes: u64,
    /// Microseconds. A count that does not fit stops at the largest.
    pub latencies: Histogram<u32>,
}

/// Ten minutes of seconds; twice as many seconds are as many intervals of two.
pub(crate) const INTERVALS_MAX: usize = 600;
/// Latencies are told apart to so many digits.
pub(crate) const DIGITS: u8 = 3;
/// Longest latency told apart from longer ones: an hour.
pub(crate) const LATENCY_US_MAX: u64 = 3_600_000_000;
/// What a first histogram has room for before it grows.
const LATENCY_US_FIRST: u64 = 16_384;

const _: () = assert!(INTERVALS_MAX.is_multiple_of(2), "intervals are folded in pairs");

impl Intervals {
    /// None yet; one takes a second.
    pub(crate) const fn new() -> Self {
        Self { length_s: 1, list: Vec::new() }
    }

    /// How long one is.
    pub(crate) const fn length(&self) -> Duration {
        Duration::from_secs(self.length_s)
    }

    /// From the window's start on.
    pub(crate) fn list(&self) -> &[Interval] {
        &self.list
    }

    /// The interval of what ends so long after the window's start.
    pub(crate) fn at(&mut self, since_start: Duration) -> &mut Interval {
        while self.index(since_start) >= INTERVALS_MAX {
            self.fold();
        }
        let index = self.index(since_start);
        while self.list.len() <= index {
            let high = self.list.last().map_or(LATENCY_US_FIRST, |last| last.latencies.high());
            self.list.push(Interval::new(high));
        }
        match self.list.get_mut(index) {
            Some(interval) => interval,
            None => unreachable!("the list was made long enough"),
        }
    }

    /// Adds those of a window that began `later`.
    pub(crate) fn add(&mut self, other: &Self, later: Duration) {
        while self.length_s < other.length_s {
            self.fold();
        }
        for (index, interval) in (0_u32..).zip(&other.list) {
            self.at(later + other.length() * index).add(interval);
        }
    }

    fn index(&self, since_start: Duration) -> usize {
        usize::try_from(since_start.as_secs() / self.length_s).unwrap_or(usize::MAX)
    }

    /// Makes one of every two.
    fn fold(&mut self) {
        self.length_s *= 2;
        let mut halves = std::mem::take(&mut self.list).into_iter();
        while let Some(mut first) = halves.next() {
            if let Some(second) = halves.next() {
                first.add(&second);
            }
            self.list.push(first);
        }
    }
}

impl Interval {
    fn new(high: u64) -> Self {
        Self { records: 0, bytes: 0, latencies: histogram(high) }
    }

    /// Counts a latency `times` times.
    pub(crate) fn count(&mut self, latency: Duration, times: u32) {
        let micros = u64::try_from(latency.as_micros()).unwrap_or(LATENCY_US_MAX);
        let counted = self.latencies.record_n(micros.clamp(1, LATENCY_US_MAX), times);
        assert!(counted.is_ok(), "a histogram grows as far as it must");
    }

    pub(crate) fn add(&mut self, other: &Self) {
        self.records += other.records;
        self.bytes += other.bytes;
        let added = self.latencies.add(&other.latencies);
        assert!(added.is_ok(), "a histogram grows as far as it must");
    }
}

/// An empty one, which grows beyond `high`.
pub(crate) fn histogram(high: u64) -> Histogram<u32> {
    // These digits from 1 us on are always a valid range; `new` cannot refuse them.
    let mut made = Histogram::new_with_bounds(1, high.max(2), DIGITS)
        .unwrap_or_else(|error| unreachable!("the bounds are valid: {error:?}"));
    made.auto(true);
    made
}

/// An empty one, which grows, with counts that cannot overflow.
pub(crate) fn wide() -> Histogram<u64> {
    let mut made = Histogram::new_with_bounds(1, LATENCY_US_FIRST, DIGITS)
        .unwrap_or_else(|error| unreachable!("the bounds are constant: {error:?}"));
    made.auto(true);
    made
}

/// All latencies together, with counts that cannot overflow.
pub(crate) fn total<'a>(parts: impl Iterator<Item = &'a Histogram<u32>>) -> Histogram<u64> {
    let mut sum = wide();
    for part in parts {
        for value in part.iter_recorded() {
            let counted =
                sum.record_n(value.value_iterated_to(), value.count_since_last_iteration());
            assert!(counted.is_ok(), "a histogram grows as far as it must");
        }
    }
    sum
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn s(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    #[test]
    fn a_long_window_has_longer_intervals_and_loses_nothing() {
        let mut intervals = Intervals::new();
        for second in 0..1_500 {
            let interval = intervals.at(s(second) + Duration::from_millis(500));
            interval.count(Duration::from_millis(second + 1), 2);
            (interval.records, interval.bytes) = (interval.records + 2, interval.bytes + 200);
        }
        assert_eq!(intervals.length(), s(4));
        assert_eq!(intervals.list().len(), 1_500 / 4);
        assert!(intervals.list().iter().all(|interval| interval.records == 8));
        let sum = total(intervals.list().iter().map(|interval| &interval.latencies));
        assert_eq!(sum.len(), 3_000);
        assert_eq!(intervals.list().iter().map(|interval| interval.bytes).sum::<u64>(), 300_000);
        assert!(sum.max() >= 1_499_000, "{}", sum.max());
    }

    #[test]
    fn intervals_are_added_where_they_lie() {
        let count = |seconds: &[u64]| {
            let mut intervals = Intervals::new();
            for second in seconds {
                let interval = intervals.at(s(*second));
                interval.count(Duration::from_micros(100), 1);
                interval.records += 1;
            }
            intervals
        };
        let mut sum = count(&[0, 1]);
        sum.add(&count(&[0, 2]), s(1));
        let records: Vec<u64> = sum.list().iter().map(|interval| interval.records).collect();
        assert_eq!(records, [1, 2, 0, 1]);
        // A longer one makes both longer.
        let long = count(&[0, 700]);
        sum.add(&long, Duration::ZERO);
        assert_eq!(sum.length(), s(2));
        assert_eq!(sum.list().first().unwrap().records, 4);
        assert_eq!(sum.list().len(), 351);
    }
}
