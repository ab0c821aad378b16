//! Counting what was done in a window of time.
//!
//! Owns: the window, the counters and latencies of one thread, and their sum.
//! Must never: count what ended outside the window.

use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use serde::Serialize;

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
    records: u64,
    bytes: u64,
    /// Microseconds.
    latencies: Histogram<u64>,
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

/// Longest latency told apart from longer ones: an hour.
const LATENCY_US_MAX: u64 = 3_600_000_000;
const MIB: f64 = 1_048_576.0;

impl Window {
    /// A window of `length` that opens after `delay`.
    pub(crate) fn after(delay: Duration, length: Duration) -> Self {
        let start = Instant::now() + delay;
        Self { start, end: start + length }
    }

    fn seconds(&self) -> f64 {
        (self.end - self.start).as_secs_f64()
    }
}

impl Meter {
    /// Nothing counted yet.
    pub(crate) fn new(window: Window) -> Self {
        assert!(window.start < window.end, "a window has a length");
        // Three digits from 1 us to an hour are always a valid range; `new` cannot refuse them.
        let latencies = Histogram::new_with_bounds(1, LATENCY_US_MAX, 3)
            .unwrap_or_else(|error| unreachable!("the bounds are constant: {error:?}"));
        Self { window, records: 0, bytes: 0, latencies }
    }

    /// Something began (or was due) at `began` and ended now.
    pub(crate) fn ended(&mut self, began: Instant, now: Instant, records: u64, bytes: u64) {
        if now < self.window.start || now >= self.window.end {
            return;
        }
        let micros = u64::try_from((now - began).as_micros()).unwrap_or(LATENCY_US_MAX);
        self.latencies.saturating_record(micros.clamp(1, LATENCY_US_MAX));
        self.records += records;
        self.bytes += bytes;
    }

    /// Ends the window before its time: everything there was is done.
    pub(crate) fn close(&mut self, now: Instant) {
        let earliest = self.window.start + Duration::from_millis(1);
        self.window.end = self.window.end.min(now.max(earliest));
    }

    /// Adds what another thread counted; the longer window stands for both.
    pub(crate) fn add(&mut self, other: &Self) {
        self.window.start = self.window.start.min(other.window.start);
        self.window.end = self.window.end.max(other.window.end);
        self.records += other.records;
        self.bytes += other.bytes;
        self.latencies += &other.latencies;
    }

    /// What it comes to.
    pub(crate) fn read(&self) -> Reading {
        let seconds = self.window.seconds();
        Reading {
            records_per_s: self.records as f64 / seconds,
            mib_per_s: self.bytes as f64 / seconds / MIB,
            p50_us: self.latencies.value_at_quantile(0.5),
            p99_us: self.latencies.value_at_quantile(0.99),
            p999_us: self.latencies.value_at_quantile(0.999),
            max_us: self.latencies.max(),
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
    fn a_closed_window_is_as_long_as_the_work() {
        let window = Window::after(Duration::ZERO, Duration::from_secs(100));
        let mut meter = Meter::new(window);
        meter.ended(window.start, window.start, 50, 0);
        meter.close(window.start + Duration::from_millis(500));
        assert_eq!(meter.read().records_per_s, 100.0);
    }
}
