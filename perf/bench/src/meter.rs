//! Counting what was done in a window of time.
//!
//! Owns: the window, what one thread counted in it second by second, and the sum of several.
//! Must never: count what ended outside the window.

use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use serde::Serialize;

use crate::intervals::{Interval, Intervals, total};

/// The time in which things count: `[start, end)`.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Window {
    pub start: Instant,
    pub end: Instant,
}

/// What one thread did, or several together.
#[derive(Clone, Debug)]
pub(crate) struct Meter {
    window: Window,
    intervals: Intervals,
    records_all: u64,
}

/// What a meter read, per second and in microseconds.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub(crate) struct Reading {
    pub records_per_s: f64,
    pub mib_per_s: f64,
    pub p50_us: u64,
    pub p99_us: u64,
    pub p999_us: u64,
    pub max_us: u64,
}

pub(crate) const MIB: f64 = 1_048_576.0;
/// An interval that was cut shorter than this has counted for so long.
const INTERVAL_MIN: Duration = Duration::from_millis(1);

impl Window {
    /// A window of `length` that opens after `delay`.
    pub(crate) fn after(delay: Duration, length: Duration) -> Self {
        let start = Instant::now() + delay;
        Self { start, end: start + length }
    }

    /// Whether what ends now counts.
    pub(crate) fn holds(&self, now: Instant) -> bool {
        now >= self.start && now < self.end
    }

    pub(crate) fn seconds(&self) -> f64 {
        (self.end - self.start).as_secs_f64()
    }
}

impl Meter {
    /// Nothing counted yet.
    pub(crate) fn new(window: Window) -> Self {
        assert!(window.start < window.end, "a window has a length");
        Self { window, intervals: Intervals::new(), records_all: 0 }
    }

    /// Something began (or was due) at `began` and ended now.
    pub(crate) fn ended(&mut self, began: Instant, now: Instant, records: u64, bytes: u64) {
        self.came(now, records, bytes);
        self.took(began, now);
    }

    /// Counts what was done now, without how long it took.
    pub(crate) fn came(&mut self, now: Instant, records: u64, bytes: u64) {
        self.records_all += records;
        if let Some(interval) = self.at(now) {
            interval.records += records;
            interval.bytes += bytes;
        }
    }

    /// Counts how long something took that began at `began` and ended now.
    pub(crate) fn took(&mut self, began: Instant, now: Instant) {
        if let Some(interval) = self.at(now) {
            interval.count(now - began, 1);
        }
    }

    /// All records, also those outside the window.
    pub(crate) const fn records_all(&self) -> u64 {
        self.records_all
    }

    /// The interval of something that ended now; none outside of the window.
    pub(crate) fn at(&mut self, now: Instant) -> Option<&mut Interval> {
        self.window.holds(now).then(|| self.intervals.at(now - self.window.start))
    }

    /// Ends the window before its time: everything there was is done.
    pub(crate) fn close(&mut self, now: Instant) {
        let earliest = self.window.start + Duration::from_millis(1);
        self.window.end = self.window.end.min(now.max(earliest));
    }

    /// Has intervals up to the window's end, also where nothing ended at last: who adds up logs
    /// takes the time that has none for one that was not measured.
    pub(crate) fn complete(&mut self) {
        let length = self.window.end - self.window.start;
        self.intervals.at(length.saturating_sub(Duration::from_nanos(1)));
    }

    /// Adds what another thread counted; the longer window stands for both.
    pub(crate) fn add(&mut self, other: &Self) {
        if other.window.start < self.window.start {
            let later = std::mem::replace(self, other.clone());
            return self.add(&later);
        }
        self.intervals.add(&other.intervals, other.window.start - self.window.start);
        self.window.end = self.window.end.max(other.window.end);
        self.records_all += other.records_all;
    }

    /// The time in which it counted.
    pub(crate) const fn window(&self) -> Window {
        self.window
    }

    /// What it counted, from the window's start on.
    pub(crate) const fn intervals(&self) -> &Intervals {
        &self.intervals
    }

    /// One of them: when it began after the window's start, how long it is, what it counted.
    pub(crate) fn interval(&self, index: usize) -> Option<(Duration, Duration, &Interval)> {
        let interval = self.intervals.list().get(index)?;
        let begins = self.intervals.length() * u32::try_from(index).ok()?;
        // The last one ends with the window.
        let rest = (self.window.end - self.window.start).saturating_sub(begins);
        Some((begins, self.intervals.length().min(rest).max(INTERVAL_MIN), interval))
    }

    /// All latencies, in microseconds.
    pub(crate) fn latencies(&self) -> Histogram<u64> {
        total(self.intervals.list().iter().map(|interval| &interval.latencies))
    }

    /// What it comes to.
    pub(crate) fn read(&self) -> Reading {
        let list = self.intervals.list();
        let records = list.iter().map(|interval| interval.records).sum();
        let bytes = list.iter().map(|interval| interval.bytes).sum();
        Reading::new(records, bytes, self.window.seconds(), &self.latencies())
    }
}

impl Reading {
    /// So much in so many seconds.
    pub(crate) fn new(records: u64, bytes: u64, seconds: f64, latencies: &Histogram<u64>) -> Self {
        assert!(seconds > 0.0, "a rate needs time");
        Self {
            records_per_s: records as f64 / seconds,
            mib_per_s: bytes as f64 / seconds / MIB,
            p50_us: latencies.value_at_quantile(0.5),
            p99_us: latencies.value_at_quantile(0.99),
            p999_us: latencies.value_at_quantile(0.999),
            max_us: latencies.max(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_ends_in_the_window_counts() {
        let start = Instant::now() + Duration::from_secs(10);
        let window = Window { start, end: start + Duration::from_secs(2) };
        let mut meter = Meter::new(window);
        let at = |ms: u64| start + Duration::from_millis(ms);
        meter.ended(start, start - Duration::from_millis(1), 1, 1);
        meter.ended(start, at(100), 10, 1 << 20);
        meter.ended(at(100), at(1999), 10, 1 << 20);
        meter.ended(start, at(2000), 1, 1);
        let mut sum = Meter::new(window);
        sum.add(&meter);
        let reading = sum.read();
        assert_eq!(reading.records_per_s, 10.0);
        assert_eq!(reading.mib_per_s, 1.0);
        assert!((99_000..=101_000).contains(&reading.p50_us), "{}", reading.p50_us);
        assert!(reading.max_us >= 1_890_000);
    }

    #[test]
    fn a_stall_at_the_end_has_its_intervals() {
        let start = Instant::now();
        let mut meter = Meter::new(Window { start, end: start + Duration::from_millis(3_500) });
        meter.ended(start, start + Duration::from_millis(5), 1, 1);
        meter.complete();
        let lengths = (0..).map_while(|index| meter.interval(index)).map(|(_, length, _)| length);
        let lengths: Vec<u64> = lengths.map(|length| length.as_millis() as u64).collect();
        assert_eq!(lengths, [1_000, 1_000, 1_000, 500]);
    }

    #[test]
    fn a_closed_window_is_as_long_as_the_work() {
        let window = Window::after(Duration::ZERO, Duration::from_secs(100));
        let mut meter = Meter::new(window);
        meter.ended(window.start, window.start, 50, 0);
        meter.close(window.start + Duration::from_millis(500));
        assert_eq!(meter.read().records_per_s, 100.0);
    }
}
