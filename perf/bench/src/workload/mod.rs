//! A workload: topics that are produced to and consumed from at once, as a file or flags say.
//!
//! Owns: what a workload is, with every default filled in. Must never: let a value of a file stand
//! where a flag says otherwise.
//! Invariants: a [`Workload`] has a producer, and consumers if it has a backlog.

pub(crate) mod file;
pub(crate) mod keys;
pub(crate) mod payload;
pub(crate) mod run;
pub(crate) mod share;

use std::path::Path;
use std::time::Duration;

use barrage_model::batch::HEADER_SIZE;

use crate::args::{BatchShape, BenchArgs};
use crate::batches::RECORD_OVERHEAD_MAX;
use crate::client::dues::Spacing;
use crate::workload::file::{CLIENTS_MAX, File, RECORD_SIZE_MAX, RECORD_SIZE_MIN};
use crate::workload::file::{SUBSCRIPTIONS_MAX, TOPICS_MAX};
use crate::workload::keys::Keys;
use crate::workload::payload::Payload;

/// What is to be done.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Workload {
    pub name: String,
    pub topics: u32,
    /// Of each topic.
    pub partitions: u32,
    /// Of each topic: each is given every record.
    pub subscriptions: u32,
    /// Of each topic.
    pub producers: u32,
    /// Of each subscription, which share its partitions.
    pub consumers: u32,
    pub keys: Keys,
    pub record_size: usize,
    pub payload: Payload,
    /// Records per second of all producers together; 0 is as many as go.
    pub rate: u64,
    /// So many lie there before consumers begin.
    pub backlog_records: u64,
    /// The part of the backlog after which it counts as drained.
    pub drain_ratio: f64,
    pub warm_up: Duration,
    pub duration: Duration,
    /// How long a record waits for others of its batch.
    pub linger: Duration,
}

pub(crate) const RECORD_SIZE_DEFAULT: usize = 100;
pub(crate) const DURATION_DEFAULT: Duration = Duration::from_secs(10);
pub(crate) const WARM_UP_DEFAULT: Duration = Duration::from_secs(1);
pub(crate) const LINGER_DEFAULT: Duration = Duration::from_millis(1);

impl Workload {
    /// What the flags say, and where they are silent the file; an error is the user's.
    pub(crate) fn new(args: &BenchArgs) -> Result<Self, String> {
        let file = match args.files.as_slice() {
            [] => File::default(),
            [path] => read(path)?,
            _ => return Err("run takes one workload file".to_owned()),
        };
        let stem = args.files.first().and_then(|path| path.file_stem());
        let stem = stem.map(|stem| stem.to_string_lossy().into_owned());
        let record_size = args.record_size.map(|size| size.as_usize()).or(file.record_size);
        let record_size = record_size.unwrap_or(RECORD_SIZE_DEFAULT);
        let in_records = |bytes: u64| bytes / record_size.max(1) as u64;
        let producers = args.producers.and_then(|producers| u32::try_from(producers).ok());
        let workload = Self {
            name: file.name.clone().or(stem).unwrap_or_else(|| "flags".to_owned()),
            topics: args.load.topics.or(file.topics).unwrap_or(1),
            partitions: args.partitions.or(file.partitions).unwrap_or(1),
            subscriptions: args.load.subscriptions.or(file.subscriptions).unwrap_or(1),
            producers: producers.or(file.producers).unwrap_or(1),
            consumers: args.load.consumers.or(file.consumers).unwrap_or(1),
            keys: args.load.keys.or(file.keys).unwrap_or(Keys::None),
            record_size,
            payload: payload(&file)?,
            rate: args.rate.or(file.rate).unwrap_or(0),
            backlog_records: args.backlog.or(file.backlog_bytes.map(in_records)).unwrap_or(0),
            drain_ratio: file.drain_ratio.unwrap_or(1.0),
            warm_up: args.warmup.or(file.warm_up).unwrap_or(WARM_UP_DEFAULT),
            duration: args.duration.or(file.duration).unwrap_or(DURATION_DEFAULT),
            linger: args.load.linger.unwrap_or(LINGER_DEFAULT),
        };
        workload.check()?;
        Ok(workload)
    }

    fn check(&self) -> Result<(), String> {
        let within = |name: &str, value: usize, min: usize, max: usize| match value {
            value if (min..=max).contains(&value) => Ok(()),
            _ => Err(format!("{name} must be from {min} to {max}, not {value}")),
        };
        let clients = CLIENTS_MAX as usize;
        let topics = self.topics as usize;
        within("--topics", topics, 1, TOPICS_MAX as usize)?;
        within("--subscriptions", self.subscriptions as usize, 0, SUBSCRIPTIONS_MAX as usize)?;
        within("--record-size", self.record_size, RECORD_SIZE_MIN, RECORD_SIZE_MAX)?;
        within("producers of all topics", topics * self.producers as usize, 1, clients)?;
        within("consumers of all topics", topics * self.readers(), 0, clients)?;
        if self.backlog_records > 0 && self.rate == 0 {
            return Err("a backlog needs a rate (producerRate, --rate): consumers would never \
                        catch up with producers that go as fast as they can"
                .to_owned());
        }
        if self.backlog_records > 0 && self.readers() == 0 {
            return Err("a backlog needs consumers to drain it".to_owned());
        }
        self.payload.values(self.record_size).map(drop)
    }

    /// Consumers of one topic.
    fn readers(&self) -> usize {
        self.subscriptions as usize * self.consumers as usize
    }

    /// Producers of all topics.
    pub(crate) const fn producers_all(&self) -> usize {
        self.topics as usize * self.producers as usize
    }

    /// Subscriptions that someone consumes.
    pub(crate) const fn subscriptions_read(&self) -> u32 {
        if self.consumers == 0 { 0 } else { self.subscriptions }
    }

    /// The time between two records of a producer; none if it sends as fast as it can.
    pub(crate) fn spacing(&self) -> Spacing {
        match self.rate {
            0 => Spacing::default(),
            rate => Spacing::of_rate(rate as f64 / self.producers_all() as f64),
        }
    }

    /// The largest batches: at a rate, what comes in the time that a record may wait for others.
    pub(crate) fn batch(&self, shape: BatchShape) -> BatchShape {
        self.batch_of(shape, 1)
    }

    /// What batches come to: records with keys fill one for each partition meanwhile. Without a
    /// rate nobody knows.
    pub(crate) fn batch_usual(&self, shape: BatchShape) -> BatchShape {
        let at_once = if self.keys == Keys::None { 1 } else { self.partitions };
        self.batch_of(shape, at_once)
    }

    /// What comes for a batch, of so many that a producer fills at once.
    fn batch_of(&self, shape: BatchShape, at_once: u32) -> BatchShape {
        if self.rate == 0 {
            return shape;
        }
        let fit = match shape {
            BatchShape::Records(records) => records,
            BatchShape::Bytes(bytes) => {
                let room = bytes.saturating_sub(HEADER_SIZE);
                (room / (self.record_size + RECORD_OVERHEAD_MAX)).max(1) as u32
            }
        };
        let of_one = self.rate as f64 / self.producers_all() as f64 / f64::from(at_once);
        let in_time = self.linger.as_secs_f64() * of_one;
        // The first record waits for the others: with it there is one more than intervals.
        BatchShape::Records((in_time.floor() as u32).saturating_add(1).min(fit))
    }
}

fn read(path: &Path) -> Result<File, String> {
    let shown = path.display();
    let text = std::fs::read_to_string(path)
        .map_err(|error| format!("cannot read the workload {shown}: {error}"))?;
    File::parse(&text).map_err(|reason| format!("{shown}: {reason}"))
}

fn payload(file: &File) -> Result<Payload, String> {
    let mixed = file.mixed.unwrap_or(false);
    let only_mixed = [
        ("randomBytesRatio", file.mixed_random.is_some()),
        ("randomizedPayloadPoolSize", file.mixed_pool.is_some()),
    ];
    if let (false, Some((key, _))) = (mixed, only_mixed.iter().find(|(_, given)| *given)) {
        return Err(format!("{key} says nothing without useRandomizedPayloads: true"));
    }
    match (mixed, &file.payload_file) {
        (true, Some(_)) => Err("useRandomizedPayloads and payloadFile exclude each other".into()),
        (true, None) => {
            let (random, pool) = (file.mixed_random.unwrap_or(0.0), file.mixed_pool.unwrap_or(1));
            Ok(Payload::Mixed { random, pool })
        }
        (false, Some(path)) => Ok(Payload::File(path.clone())),
        (false, None) => Ok(Payload::Noise),
    }
}

#[cfg(test)]
mod tests;
