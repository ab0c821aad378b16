//! Logs of several clients as one: what they did together in the time that all of them cover.
//!
//! Owns: that time, the sum of rates and of histograms. Must never: count an interval that one of
//! the logs does not cover whole, or take the mean of percentiles.
//! Invariants: a rate is the sum of what each log comes to per second of its own intervals.

use std::collections::BTreeMap;
use std::path::PathBuf;

use anyhow::{Context as _, Result, ensure};
use hdrhistogram::Histogram;

use crate::hlog::{Log, Logged};
use crate::meter::{MIB, Reading};
use crate::timeline::{Point, Track, curve};

/// What several logs come to.
#[derive(Clone, Debug)]
pub(crate) struct Merged {
    /// By tag.
    pub readings: BTreeMap<String, Reading>,
    pub tracks: Vec<Track>,
    /// The time that all logs cover, in seconds since 1970.
    pub start_s: f64,
    pub end_s: f64,
    /// Records that were counted, by tag.
    pub records: BTreeMap<String, u64>,
}

/// Times in logs are exact to a millisecond; two such roundings may add up.
const ROUNDING_S: f64 = 0.002;

/// Counts in a time: of one log, or of several together.
#[derive(Clone, Debug)]
struct Sum {
    records_per_s: f64,
    mib_per_s: f64,
    latencies: Histogram<u64>,
}

/// Reads logs and merges them.
pub(crate) fn files(paths: &[PathBuf]) -> Result<(Vec<Log>, Merged)> {
    let logs = paths.iter().map(|path| Log::read(path)).collect::<Result<Vec<_>>>()?;
    let merged = merge(&logs)?;
    Ok((logs, merged))
}

/// Merges logs, of which there is at least one.
pub(crate) fn merge(logs: &[Log]) -> Result<Merged> {
    let first = logs.first().context("there is no log to merge")?;
    let (mut start, mut end) = (first, first);
    for log in logs {
        start = if log.span_s().0 > start.span_s().0 { log } else { start };
        end = if log.span_s().1 < end.span_s().1 { log } else { end };
    }
    let (start_s, end_s) = (start.span_s().0, end.span_s().1);
    ensure!(
        start_s < end_s,
        "the logs share no time: {} ends before {} begins; merge logs of one run",
        end.name,
        start.name,
    );
    let mut merged = Merged {
        readings: BTreeMap::new(),
        tracks: Vec::new(),
        start_s,
        end_s,
        records: BTreeMap::new(),
    };
    let mut tags: Vec<&String> = logs.iter().flat_map(|log| log.tracks.keys()).collect();
    tags.sort_unstable();
    tags.dedup();
    // What is sent comes before what comes of it.
    tags.sort_by_key(|tag| tag.as_str() != PUBLISH);
    for tag in tags {
        let mut sum = Sum::new();
        for log in logs.iter().filter(|log| log.tracks.contains_key(tag)) {
            let counted_s = sum.add(log, tag, (start_s, end_s));
            ensure!(
                counted_s > 0.0,
                "{} has no whole interval of {tag} in the time that all logs cover, {:.1} s",
                log.name,
                end_s - start_s,
            );
        }
        merged.readings.insert(tag.clone(), sum.read());
        merged.records.insert(tag.clone(), sum.latencies.len());
        let track = merged.track(tag, logs);
        merged.tracks.push(track);
    }
    Ok(merged)
}

/// What logs have of a tag in a part of their time; nothing if no whole interval lies in it.
pub(crate) fn between(logs: &[Log], tag: &str, span_s: (f64, f64)) -> Option<Reading> {
    let mut sum = Sum::new();
    for log in logs {
        sum.add(log, tag, span_s);
    }
    (!sum.latencies.is_empty()).then(|| sum.read())
}

/// The tag of what producers do.
pub(crate) const PUBLISH: &str = "publish";
/// The tag of what consumers see.
pub(crate) const END_TO_END: &str = "end-to-end";

impl Merged {
    /// A tag over the common time, in steps as long as the longest interval. Intervals of several
    /// machines do not begin together: each counts in a step by the part that lies in it, and its
    /// latencies where its middle lies.
    fn track(&self, tag: &str, logs: &[Log]) -> Track {
        let all = || {
            let of = |log| Log::track(log, tag).iter().map(move |logged| (logged, log));
            logs.iter().flat_map(of)
        };
        let step_s = all().map(|(logged, _)| logged.length_s).fold(ROUNDING_S, f64::max);
        let count = ((self.end_s - self.start_s) / step_s - ROUNDING_S).ceil().max(1.0) as u32;
        let mut latencies = crate::intervals::wide();
        let mut points = Vec::new();
        for index in 0..count {
            let from_s = self.start_s + step_s * f64::from(index);
            let to_s = self.end_s.min(from_s + step_s);
            let length_s = (to_s - from_s).max(ROUNDING_S);
            let mut sum = Sum::new();
            for (logged, log) in all() {
                let (starts_s, ends_s) = (logged.start_s, logged.start_s + logged.length_s);
                let inside_s = (ends_s.min(to_s) - starts_s.max(from_s)).max(0.0);
                let records = logged.latencies.len() as f64 * inside_s / logged.length_s;
                sum.records_per_s += records / length_s;
                sum.mib_per_s += records / length_s * log.record_size() as f64 / MIB;
                let middle_s = starts_s.midpoint(ends_s);
                if (from_s..to_s).contains(&middle_s) {
                    sum.add_latencies(logged);
                }
            }
            latencies_add(&mut latencies, &sum.latencies);
            points.push(Point { at_s: from_s - self.start_s, length_s, reading: sum.read() });
        }
        Track { name: tag.to_owned(), points, percentiles: curve(&latencies) }
    }
}

impl Sum {
    fn new() -> Self {
        Self { records_per_s: 0.0, mib_per_s: 0.0, latencies: crate::intervals::wide() }
    }

    /// Adds what a log has of a tag in a part of its time, whole intervals alone; how many seconds
    /// those are.
    fn add(&mut self, log: &Log, tag: &str, (from_s, to_s): (f64, f64)) -> f64 {
        let whole = |logged: &&Logged| {
            let ends_s = logged.start_s + logged.length_s;
            logged.start_s >= from_s - ROUNDING_S && ends_s <= to_s + ROUNDING_S
        };
        let (mut records, mut seconds) = (0, 0.0);
        for logged in log.track(tag).iter().filter(whole) {
            records += logged.latencies.len();
            seconds += logged.length_s;
            self.add_latencies(logged);
        }
        if seconds > 0.0 {
            let records_per_s = records as f64 / seconds;
            self.records_per_s += records_per_s;
            self.mib_per_s += records_per_s * log.record_size() as f64 / MIB;
        }
        seconds
    }

    fn add_latencies(&mut self, logged: &Logged) {
        latencies_add(&mut self.latencies, &logged.latencies);
    }

    fn read(&self) -> Reading {
        let latencies = Reading::new(0, 0, 1.0, &self.latencies);
        Reading { records_per_s: self.records_per_s, mib_per_s: self.mib_per_s, ..latencies }
    }
}

fn latencies_add(sum: &mut Histogram<u64>, more: &Histogram<u64>) {
    let added = sum.add(more);
    assert!(added.is_ok(), "a histogram grows as far as it must");
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hlog::About;
    use crate::machine::Machine;

    /// A log whose every interval has so many records of one latency.
    fn log(name: &str, start_s: f64, intervals: &[(u64, u64)], record_size: usize) -> Log {
        let machine = Machine::read(std::path::Path::new("."));
        let (client, workload, commit) = (name.to_owned(), "w".to_owned(), "c".to_owned());
        let logged = |(index, (count, us)): (u32, &(u64, u64))| {
            let mut latencies = Histogram::new(3).unwrap();
            latencies.record_n(*us, *count).unwrap();
            Logged { start_s: start_s + f64::from(index), length_s: 1.0, latencies }
        };
        let intervals = (0..).zip(intervals).map(logged).collect();
        Log {
            name: name.to_owned(),
            about: Some(About { client, workload, record_size, commit, machine }),
            tracks: BTreeMap::from([(PUBLISH.to_owned(), intervals)]),
        }
    }

    #[test]
    fn rates_add_up_in_the_time_that_all_cover() {
        // The second begins half a second later and ends a second and a half later.
        let one = log("one", 100.0, &[(1_000, 100), (1_000, 100), (1_000, 100)], 1 << 20);
        let two = log("two", 100.5, &[(10, 5_000), (20, 5_000), (30, 5_000), (40, 5_000)], 1 << 19);
        let merged = merge(&[one, two]).unwrap();
        assert_eq!((merged.start_s, merged.end_s), (100.5, 103.0));
        let reading = merged.readings[PUBLISH];
        // Whole intervals only: two of the first, two of the second.
        assert_eq!(reading.records_per_s, 1_000.0 + 15.0);
        assert_eq!(reading.mib_per_s, 1_000.0 + 7.5);
        assert_eq!(merged.records[PUBLISH], 2_030);
        // Percentiles are those of all records together, not a mean.
        assert_eq!(reading.p50_us, 100);
        assert!((4_999..=5_010).contains(&reading.max_us), "{}", reading.max_us);
        let rates: Vec<f64> =
            merged.tracks[0].points.iter().map(|point| point.reading.records_per_s).collect();
        assert_eq!(rates, [1_010.0, 1_020.0, 1_030.0]);
    }

    #[test]
    fn logs_of_one_run_are_whole() {
        let all = [(5, 10), (6, 10), (7, 10)];
        let logs = [log("a", 7.0, &all, 1), log("b", 7.0, &all, 1), log("c", 7.001, &all, 1)];
        let merged = merge(&logs).unwrap();
        assert_eq!(merged.records[PUBLISH], 54);
        assert_eq!(merged.readings[PUBLISH].records_per_s, 18.0);
        let rates = merged.tracks[0].points.iter().map(|point| point.reading.records_per_s);
        let rates: Vec<f64> = rates.map(f64::round).collect();
        assert_eq!(rates, [15.0, 18.0, 21.0]);
    }

    #[test]
    fn logs_of_two_runs_are_refused() {
        let one = log("one.hlog", 100.0, &[(1, 1)], 1);
        let two = log("two.hlog", 300.0, &[(1, 1)], 1);
        let error = merge(&[one, two]).unwrap_err().to_string();
        assert!(error.contains("one.hlog ends before two.hlog begins"), "{error}");
        assert!(merge(&[]).is_err());
    }
}
