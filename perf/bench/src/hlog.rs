//! Logs of latency histograms, one for each interval: HdrHistogram's interval log, version 2.
//!
//! Owns: how such a file is written and read, and the one comment of our own in it.
//! Must never: need that comment; a log that another tool wrote is read as well.
//! Invariants: latencies are microseconds, and each counts once for every record that had it.
//!
//! ```text
//! #barrage: {"client":"client-0","record_size":100,...}       ours, a comment to others
//! #[StartTime: 1790000000.000 (seconds since epoch)]
//! #[BaseTime: 1790000000.000 (seconds since epoch)]            times count from here
//! Tag=publish,0.000,1.000,12.345,HISTFAAAA...                  start, length, largest, histogram
//! ```

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::time::{Duration, SystemTime};

use anyhow::{Context as _, Result, anyhow, bail, ensure};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use hdrhistogram::Histogram;
use hdrhistogram::serialization::interval_log::{
    IntervalLogIterator, IntervalLogWriterBuilder, LogEntry, Tag,
};
use hdrhistogram::serialization::{Deserializer, V2DeflateSerializer};
use serde::{Deserialize, Serialize};

use crate::machine::Machine;
use crate::meter::Meter;

/// Who wrote a log, and of what.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct About {
    pub client: String,
    pub workload: String,
    pub record_size: usize,
    pub commit: String,
    pub machine: Machine,
}

/// A log that was read.
#[derive(Clone, Debug)]
pub(crate) struct Log {
    /// The file, for messages.
    pub name: String,
    /// Nothing in a log of another tool.
    pub about: Option<About>,
    /// By tag, in the order of the file.
    pub tracks: BTreeMap<String, Vec<Logged>>,
}

/// One interval of a log.
#[derive(Clone, Debug)]
pub(crate) struct Logged {
    /// Seconds since 1970.
    pub start_s: f64,
    pub length_s: f64,
    pub latencies: Histogram<u64>,
}

/// What goes before our own comment.
const ABOUT: &str = "barrage: ";
/// The name of intervals without a tag.
const UNTAGGED: &str = "latency";
/// The largest latency of each line is told in milliseconds, as other tools do.
const MICROS_PER_MILLI: f64 = 1_000.0;
/// Times are told in milliseconds: what has no length was no longer than that.
const LENGTH_MIN_S: f64 = 0.001;
/// A log of a day is a few megabytes.
const LOG_BYTES_MAX: u64 = 1 << 30;

/// Writes what meters of one window counted, each under its tag.
pub(crate) fn write(
    path: &Path,
    about: &About,
    start: SystemTime,
    meters: &[(&str, &Meter)],
) -> Result<()> {
    let mut out = Vec::new();
    // Readers of other languages know the compressed form alone.
    let mut serializer = V2DeflateSerializer::new();
    let mut log = IntervalLogWriterBuilder::new()
        .add_comment(&format!("{ABOUT}{}", serde_json::to_string(about)?))
        .with_start_time(start)
        .with_base_time(start)
        .with_max_value_divisor(MICROS_PER_MILLI)
        .begin_log_with(&mut out, &mut serializer)?;
    let count = meters.iter().map(|(_, meter)| meter.intervals().list().len()).max().unwrap_or(0);
    for index in 0..count {
        for (name, meter) in meters {
            let tag = Tag::new(name).with_context(|| format!("{name:?} is no tag"))?;
            let Some((start, length, interval)) = meter.interval(index) else { continue };
            log.write_histogram(&interval.latencies, start, length, Some(tag))
                .map_err(|error| anyhow!("{error}"))?;
        }
    }
    fs::write(path, out).with_context(|| format!("cannot write the log {}", path.display()))
}

impl Log {
    /// Reads a file.
    pub(crate) fn read(path: &Path) -> Result<Self> {
        let name = path.display().to_string();
        let about = || format!("cannot read the log {name}");
        let size = fs::metadata(path).with_context(about)?.len();
        ensure!(size <= LOG_BYTES_MAX, "{name} has {size} bytes; no log is so large");
        let bytes = fs::read(path).with_context(about)?;
        Self::parse(name.clone(), &bytes).with_context(|| format!("{name} is no interval log"))
    }

    fn parse(name: String, bytes: &[u8]) -> Result<Self> {
        let text = std::str::from_utf8(bytes).context("it is no text")?;
        let ours = text.lines().find_map(|line| line.strip_prefix('#')?.strip_prefix(ABOUT));
        let about = ours.map(serde_json::from_str).transpose().context("a damaged first line")?;
        let (mut log, mut base) = (Self { name, about, tracks: BTreeMap::new() }, Duration::ZERO);
        let mut deserializer = Deserializer::new();
        for entry in IntervalLogIterator::new(bytes) {
            match entry.map_err(|error| anyhow!("{error:?}"))? {
                LogEntry::BaseTime(time) => base = time,
                LogEntry::StartTime(_) => {}
                LogEntry::Interval(interval) => {
                    let encoded = STANDARD.decode(interval.encoded_histogram());
                    let encoded = encoded.context("a histogram is no base64")?;
                    let latencies = deserializer.deserialize(&mut encoded.as_slice());
                    let latencies = latencies.map_err(|error| anyhow!("a histogram: {error}"))?;
                    let tag = interval.tag().map_or(UNTAGGED, |tag| tag.as_str()).to_owned();
                    log.tracks.entry(tag).or_default().push(Logged {
                        start_s: (base + interval.start_timestamp()).as_secs_f64(),
                        length_s: interval.duration().as_secs_f64().max(LENGTH_MIN_S),
                        latencies,
                    });
                }
            }
        }
        if log.tracks.is_empty() {
            bail!("it has no interval");
        }
        Ok(log)
    }

    /// Bytes of a record's value; 0 if the log does not say.
    pub(crate) fn record_size(&self) -> usize {
        self.about.as_ref().map_or(0, |about| about.record_size)
    }

    /// The intervals of a tag; none if it does not have it.
    pub(crate) fn track(&self, tag: &str) -> &[Logged] {
        self.tracks.get(tag).map_or(&[], Vec::as_slice)
    }

    /// From the beginning of its first interval to the end of its last, in seconds since 1970.
    pub(crate) fn span_s(&self) -> (f64, f64) {
        let all = || self.tracks.values().flatten();
        let start = all().map(|logged| logged.start_s).fold(f64::INFINITY, f64::min);
        let end = all().map(|logged| logged.start_s + logged.length_s).fold(start, f64::max);
        (start, end)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;
    use crate::meter::Window;

    fn about() -> About {
        let machine = Machine::read(Path::new("."));
        let (client, workload) = ("client-0".to_owned(), "one\ntwo".to_owned());
        About { client, workload, record_size: 100, commit: "abc".to_owned(), machine }
    }

    #[test]
    fn what_is_written_is_read() {
        let start = Instant::now();
        let mut meter = Meter::new(Window { start, end: start + Duration::from_millis(2_250) });
        for ms in [0, 10, 1_500, 2_100] {
            let now = start + Duration::from_millis(ms);
            meter.ended(now.checked_sub(Duration::from_micros(777)).unwrap(), now, 1, 100);
        }
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.hlog");
        let since_1970 = Duration::from_millis(1_790_000_000_125);
        let began = SystemTime::UNIX_EPOCH + since_1970;
        write(&path, &about(), began, &[("publish", &meter), ("end-to-end", &meter)]).unwrap();
        let text = fs::read_to_string(&path).unwrap();
        // How a compressed histogram begins in every language.
        assert_eq!(text.matches(",HISTFAAA").count(), 6, "{text}");
        let log = Log::read(&path).unwrap();
        assert_eq!(log.about, Some(about()));
        assert_eq!(log.tracks.keys().collect::<Vec<_>>(), ["end-to-end", "publish"]);
        let publish = &log.tracks["publish"];
        let seen: Vec<(u64, f64)> =
            publish.iter().map(|logged| (logged.latencies.len(), logged.length_s)).collect();
        // The last interval ended with the window.
        assert_eq!(seen, [(2, 1.0), (1, 1.0), (1, 0.25)]);
        assert_eq!(publish[0].latencies.value_at_quantile(0.5), 777);
        let (from, to) = log.span_s();
        assert!((from - since_1970.as_secs_f64()).abs() < 0.002, "{from}");
        assert!((to - from - 2.25).abs() < 0.002, "{to}");
    }

    #[test]
    fn a_log_of_another_tool_is_read_and_anything_else_is_not() {
        let mut histogram = Histogram::<u64>::new(3).unwrap();
        histogram.record(42).unwrap();
        let mut bytes = Vec::new();
        let mut serializer = V2DeflateSerializer::new();
        IntervalLogWriterBuilder::new()
            .begin_log_with(&mut bytes, &mut serializer)
            .unwrap()
            .write_histogram(&histogram, Duration::from_secs(7), Duration::from_secs(1), None)
            .unwrap();
        let log = Log::parse("other".to_owned(), &bytes).unwrap();
        assert_eq!(log.about, None);
        assert_eq!(log.tracks[UNTAGGED][0].latencies.max(), 42);
        assert_eq!(log.span_s(), (7.0, 8.0));
        for bad in ["", "hello\n", "0.1,1.0,2.0,AAAA\n", "#barrage: {\n0.1,1.0,2.0,AAAA\n"] {
            assert!(Log::parse("bad".to_owned(), bad.as_bytes()).is_err(), "{bad:?}");
        }
    }
}
