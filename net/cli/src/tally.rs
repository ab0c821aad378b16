//! What became of the records of one `produce`: counts, latency, receipts, the summary.
//!
//! Owns: the receipts file. A receipt is written, and handed to the system, as its ack arrives:
//! whoever compares them with the log after a crash finds no ack missing that the user saw.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::time::Duration;

use barrage_client::{Outcome, Report};
use hdrhistogram::Histogram;
use serde::Serialize;

/// Longer latencies count as this: an hour.
const LATENCY_US_MAX: u64 = 3_600_000_000;
/// Different errors remembered for the summary.
const ERRORS_MAX: usize = 5;

/// See the module.
pub(crate) struct Tally {
    acked: u64,
    failed: u64,
    unknown: u64,
    stored: u64,
    latency_us: Option<Histogram<u64>>,
    receipts: Option<BufWriter<File>>,
    receipts_error: Option<io::Error>,
    errors: BTreeMap<String, u64>,
}

/// The numbers of a finished `produce`.
#[derive(Serialize)]
pub(crate) struct Summary {
    acked: u64,
    failed: u64,
    unknown: u64,
    /// Kept, but with less than was asked: not on all replicas.
    stored: u64,
    seconds: f64,
    records_per_s: f64,
    mib_per_s: f64,
    p50_us: u64,
    p99_us: u64,
    errors: BTreeMap<String, u64>,
}

impl Tally {
    pub(crate) fn new(receipts: Option<File>) -> Self {
        Self {
            acked: 0,
            failed: 0,
            unknown: 0,
            stored: 0,
            // Two digits of an hour are a few KiB; making one with sound bounds cannot fail.
            latency_us: Histogram::new_with_max(LATENCY_US_MAX, 2).ok(),
            receipts: receipts.map(BufWriter::new),
            receipts_error: None,
            errors: BTreeMap::new(),
        }
    }

    pub(crate) const fn acked(&self) -> u64 {
        self.acked
    }

    /// A batch has its outcome.
    pub(crate) fn handle_report(&mut self, report: &Report<'_>) {
        let count = u64::from(report.record_count);
        match report.outcome {
            Outcome::Acked { base_offset } => {
                self.acked += count;
                let micros = u64::try_from(report.latency.as_micros()).unwrap_or(u64::MAX);
                if let Some(histogram) = &mut self.latency_us {
                    histogram.saturating_record_n(micros, count);
                }
                self.write_receipts(report, base_offset.0);
            }
            Outcome::Stored { error } => {
                self.stored += count;
                self.remember(count, &error.to_string());
            }
            Outcome::Failed { error } => self.handle_failed(count, &error.to_string()),
            Outcome::Unknown { error } => {
                self.unknown += count;
                self.remember(count, &error.to_string());
            }
        }
    }

    /// Records that never reached a batch, or were refused.
    pub(crate) fn handle_failed(&mut self, count: u64, error: &str) {
        self.failed += count;
        self.remember(count, error);
    }

    /// The first error while writing receipts.
    pub(crate) fn take_receipts_error(&mut self) -> Option<io::Error> {
        self.receipts_error.take()
    }

    pub(crate) fn summary(&self, bytes: u64, elapsed: Duration) -> Summary {
        let seconds = elapsed.as_secs_f64();
        let quantile = |q| self.latency_us.as_ref().map_or(0, |h| h.value_at_quantile(q));
        Summary {
            acked: self.acked,
            failed: self.failed,
            unknown: self.unknown,
            stored: self.stored,
            seconds,
            records_per_s: per_second(self.acked, seconds),
            mib_per_s: per_second(bytes, seconds) / f64::from(1 << 20),
            p50_us: quantile(0.5),
            p99_us: quantile(0.99),
            errors: self.errors.clone(),
        }
    }

    fn remember(&mut self, count: u64, error: &str) {
        if self.errors.len() < ERRORS_MAX || self.errors.contains_key(error) {
            *self.errors.entry(error.to_owned()).or_default() += count;
        }
    }

    fn write_receipts(&mut self, report: &Report<'_>, base_offset: u64) {
        let Some(file) = &mut self.receipts else { return };
        let result = (base_offset..)
            .zip(report.tokens)
            .try_for_each(|(offset, line)| writeln!(file, "{} {offset} {line}", report.partition))
            .and_then(|()| file.flush());
        if let Err(error) = result {
            self.receipts_error.get_or_insert(error);
        }
    }
}

impl Summary {
    pub(crate) const fn is_complete(&self) -> bool {
        self.failed == 0 && self.unknown == 0 && self.stored == 0
    }

    /// One line, and one for each kind of error.
    pub(crate) fn in_words(&self) -> String {
        let mut counts =
            format!("acked {}, failed {}, unknown {}", self.acked, self.failed, self.unknown);
        if self.stored > 0 {
            counts.push_str(&format!(", stored with less than asked {}", self.stored));
        }
        let mut words = format!(
            "{counts} in {:.2} s: {:.0} records/s, {:.1} MiB/s, p99 {}",
            self.seconds,
            self.records_per_s,
            self.mib_per_s,
            micros_in_words(self.p99_us),
        );
        for (error, count) in &self.errors {
            words.push_str(&format!("\n  {count} x {error}"));
        }
        words
    }
}

#[expect(clippy::cast_precision_loss, reason = "a rate")]
fn per_second(count: u64, seconds: f64) -> f64 {
    if seconds > 0.0 { count as f64 / seconds } else { 0.0 }
}

#[expect(clippy::cast_precision_loss, reason = "rounded for reading")]
fn micros_in_words(micros: u64) -> String {
    match micros {
        0..1_000 => format!("{micros} us"),
        1_000..1_000_000 => format!("{:.1} ms", micros as f64 / 1e3),
        _ => format!("{:.2} s", micros as f64 / 1e6),
    }
}

#[cfg(test)]
mod tests {
    use barrage_client::ClientError;
    use barrage_model::{Offset, PartitionId};

    use super::*;

    #[test]
    fn outcomes_are_counted_and_latency_is_that_of_the_records() {
        let mut tally = Tally::new(None);
        let acked = Outcome::Acked { base_offset: Offset(0) };
        let failed = Outcome::Failed { error: ClientError::Closed };
        let unknown = Outcome::Unknown { error: ClientError::DeliveryTimeout };
        let stored = Outcome::Stored { error: ClientError::Closed };
        let table = [
            (&acked, 98, 10),
            (&acked, 2, 3_000),
            (&failed, 3, 1),
            (&unknown, 4, 1),
            (&stored, 5, 1),
        ];
        for (outcome, record_count, milliseconds) in table {
            tally.handle_report(&Report {
                partition: PartitionId(0),
                record_count,
                tokens: &[],
                latency: Duration::from_millis(milliseconds),
                outcome,
            });
        }
        let summary = tally.summary(1 << 20, Duration::from_secs(2));
        assert_eq!((summary.acked, summary.failed, summary.unknown), (100, 3, 4));
        assert_eq!(summary.stored, 5);
        assert!(!summary.is_complete());
        assert!((9_900..=10_100).contains(&summary.p50_us), "{}", summary.p50_us);
        assert!((2_900_000..=3_100_000).contains(&summary.p99_us), "{}", summary.p99_us);
        let words = summary.in_words();
        assert!(words.contains("50 records/s, 0.5 MiB/s"), "{words}");
        assert!(words.contains("8 x closed"), "{words}");
    }

    #[test]
    fn receipts_tell_partition_offset_and_line() {
        let mut file = tempfile::tempfile().unwrap();
        let mut tally = Tally::new(Some(file.try_clone().unwrap()));
        tally.handle_report(&Report {
            partition: PartitionId(3),
            record_count: 2,
            tokens: &[7, 9],
            latency: Duration::ZERO,
            outcome: &Outcome::Acked { base_offset: Offset(40) },
        });
        let mut text = String::new();
        io::Seek::rewind(&mut file).unwrap();
        io::Read::read_to_string(&mut file, &mut text).unwrap();
        assert_eq!(text, "3 40 7\n3 41 9\n");
    }
}
