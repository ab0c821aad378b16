//! What a log counts about itself.

use hdrhistogram::Histogram;
use std::time::Duration;

/// Longest flush told apart from longer ones, in microseconds.
const FLUSH_US_MAX: u64 = 60_000_000;

/// Counters since the log was opened.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LogStats {
    /// Entries written.
    pub entries: u64,
    /// Records written.
    pub records: u64,
    /// Bytes written, headers and padding included.
    pub bytes: u64,
    /// Successful flushes (fdatasync).
    pub flushes: u64,
    /// Median duration of a flush, in microseconds.
    pub flush_p50_us: u64,
    /// 99th percentile of the duration of a flush, in microseconds.
    pub flush_p99_us: u64,
    /// Entries waiting to be written or flushed.
    pub entries_in_flight: u64,
    /// Segment files, the active one included.
    pub segments: u64,
    /// Bytes of their files.
    pub disk_bytes: u64,
    /// Bytes of log in the cache.
    pub cache_bytes: u64,
    /// Reads answered from the cache.
    pub cache_hits: u64,
    /// Reads that went to the disk.
    pub cache_misses: u64,
    /// Bytes of index held in memory.
    pub index_bytes: u64,
    /// Entries whose places are held in memory.
    pub slots: u64,
    /// Bytes held in memory to find entries.
    pub slot_bytes: u64,
}

/// What is counted on the way.
#[derive(Debug)]
pub(crate) struct Counters {
    pub(crate) entries: u64,
    pub(crate) records: u64,
    pub(crate) bytes: u64,
    pub(crate) flushes: u64,
    flush_us: Option<Histogram<u32>>,
}

impl Counters {
    pub(crate) fn new() -> Self {
        // Two digits are enough to page on; none only if the bounds above were wrong.
        let flush_us = Histogram::new_with_bounds(1, FLUSH_US_MAX, 2).ok();
        Self { entries: 0, records: 0, bytes: 0, flushes: 0, flush_us }
    }

    pub(crate) fn flushed(&mut self, took: Duration) {
        self.flushes += 1;
        if let Some(histogram) = &mut self.flush_us {
            let took = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
            histogram.saturating_record(took.clamp(1, FLUSH_US_MAX));
        }
    }

    pub(crate) fn flush_quantile_us(&self, quantile: f64) -> u64 {
        self.flush_us.as_ref().map_or(0, |h| h.value_at_quantile(quantile))
    }
}
