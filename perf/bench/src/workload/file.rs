//! Workload files: YAML with the keys of the OpenMessaging Benchmark.
//!
//! Owns: the keys, what may stand behind each, and which are refused. Must never: pass over a key;
//! one that is unknown is named with the nearest that is not, one that cannot be honoured with the
//! reason. Invariants: what a [`File`] holds lies within the bounds told here.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use barrage_model::limits::{PARTITIONS_PER_TOPIC_MAX, RECORD_BYTES_MAX};
use serde_json::Value;
use serde_saphyr::Spanned;

use super::keys::Keys;

/// What a file says; the rest is `None`.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct File {
    pub name: Option<String>,
    pub topics: Option<u32>,
    pub partitions: Option<u32>,
    pub keys: Option<Keys>,
    pub record_size: Option<usize>,
    pub mixed: Option<bool>,
    pub mixed_random: Option<f64>,
    pub mixed_pool: Option<usize>,
    pub payload_file: Option<PathBuf>,
    pub subscriptions: Option<u32>,
    pub producers: Option<u32>,
    pub consumers: Option<u32>,
    pub rate: Option<u64>,
    pub backlog_bytes: Option<u64>,
    pub drain_ratio: Option<f64>,
    pub duration: Option<Duration>,
    pub warm_up: Option<Duration>,
}

type Set = fn(&mut File, &Value) -> Option<()>;

/// Each key with what may stand behind it, for people and for the machine.
const KEYS: [(&str, &str, Set); 17] = [
    ("name", "text", |file, value| set(&mut file.name, text(value))),
    ("topics", TOPICS, |file, value| set(&mut file.topics, count(value, 1, TOPICS_MAX))),
    ("partitionsPerTopic", "a whole number from 1 to 10000", |file, value| {
        set(&mut file.partitions, count(value, 1, PARTITIONS_PER_TOPIC_MAX))
    }),
    ("keyDistributor", "NO_KEY, KEY_ROUND_ROBIN or RANDOM_NANO", |file, value| {
        set(&mut file.keys, Keys::of_name(value.as_str()?))
    }),
    ("messageSize", "bytes, from 8 to 4194240", |file, value| {
        let size = whole(value)?.try_into().ok()?;
        set(
            &mut file.record_size,
            (RECORD_SIZE_MIN..=RECORD_SIZE_MAX).contains(&size).then_some(size),
        )
    }),
    ("useRandomizedPayloads", "true or false", |file, value| set(&mut file.mixed, value.as_bool())),
    ("randomBytesRatio", "a number from 0 to 1", |file, value| {
        set(&mut file.mixed_random, within(value, 0.0, 1.0))
    }),
    ("randomizedPayloadPoolSize", "a whole number from 1 to 100000", |file, value| {
        set(&mut file.mixed_pool, count(value, 1, POOL_MAX).map(|count| count as usize))
    }),
    ("payloadFile", "the path of a file", |file, value| {
        set(&mut file.payload_file, text(value).map(PathBuf::from))
    }),
    ("subscriptionsPerTopic", "a whole number from 0 to 100", |file, value| {
        set(&mut file.subscriptions, count(value, 0, SUBSCRIPTIONS_MAX))
    }),
    ("producersPerTopic", CLIENTS, |file, value| {
        set(&mut file.producers, count(value, 1, CLIENTS_MAX))
    }),
    ("consumerPerSubscription", "a whole number from 0 to 10000", |file, value| {
        set(&mut file.consumers, count(value, 0, CLIENTS_MAX))
    }),
    ("producerRate", "records per second of all producers, 0 for as many as go", |file, value| {
        set(&mut file.rate, whole(value))
    }),
    ("consumerBacklogSizeGB", "a number from 0 on", |file, value| {
        let bytes = within(value, 0.0, BACKLOG_GIB_MAX)? * GIB;
        set(&mut file.backlog_bytes, Some(bytes as u64))
    }),
    ("backlogDrainRatio", "a number from 0 to 1", |file, value| {
        set(&mut file.drain_ratio, within(value, 0.0, 1.0))
    }),
    ("testDurationMinutes", "minutes, more than 0 and at most a day", |file, value| {
        set(&mut file.duration, minutes(value).filter(|duration| !duration.is_zero()))
    }),
    ("warmupDurationMinutes", "minutes, at most a day", |file, value| {
        set(&mut file.warm_up, minutes(value))
    }),
];

/// Keys of relatives of the format that are not done here, and why.
const REFUSED: [(&str, &str); 13] = [
    ("acceptableBacklog", FLAT_OUT),
    ("enableAutoTuning", FLAT_OUT),
    ("producerStartRate", FLAT_OUT),
    ("producerIncrementRate", "the rate of a run is one; run it again with another --rate"),
    ("producerIncrementSeconds", "the rate of a run is one; run it again with another --rate"),
    ("producerRateList", "the rate of a run is one; run it again with another --rate"),
    ("producersPerTopicList", "every topic has as many producers"),
    ("partitionsPerTopicList", "every topic has as many partitions"),
    ("producerPauseBeforeDrain", "producers go on while a backlog is drained"),
    ("producerPauseDuringDrain", "producers go on while a backlog is drained"),
    ("messageRateReceivedForSubscription", "subscriptions of a run have no filter"),
    ("randomTopicNames", "topics are made for the run and have names of its own"),
    ("logIntervalMillis", "intervals are seconds, longer in runs of more than ten minutes"),
];

const FLAT_OUT: &str = "producerRate 0 sends as fast as answers come; nothing is searched for";
const TOPICS: &str = "a whole number from 1 to 10000";
const CLIENTS: &str = "a whole number from 1 to 10000";
pub(super) const TOPICS_MAX: u32 = 10_000;
/// Producers, and consumers, of the whole run too.
pub(super) const CLIENTS_MAX: u32 = 10_000;
pub(super) const SUBSCRIPTIONS_MAX: u32 = 100;
const POOL_MAX: u32 = 100_000;
/// When a record was due stands in its first bytes.
pub(super) const RECORD_SIZE_MIN: usize = 8;
pub(super) const RECORD_SIZE_MAX: usize = RECORD_BYTES_MAX - 64;
const BACKLOG_GIB_MAX: f64 = 1e6;
const GIB: f64 = 1_073_741_824.0;
const MINUTES_MAX: f64 = 24.0 * 60.0;
const SECONDS_PER_MINUTE: f64 = 60.0;

const _: () = assert!(PARTITIONS_PER_TOPIC_MAX == 10_000, "as the text of the key says");
const _: () = assert!(RECORD_SIZE_MAX == 4_194_240, "as the text of the key says");

impl File {
    /// Reads a file's text; what is wrong is said with its line.
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        let options = serde_saphyr::options! { with_snippet: false };
        let entries: BTreeMap<String, Spanned<Value>> =
            serde_saphyr::from_str_with_options(text, options)
                .map_err(|error| format!("it is no list of keys and values: {error}"))?;
        let mut lines: Vec<_> = entries.iter().collect();
        lines.sort_by_key(|(_, value)| value.defined.line());
        let mut file = Self::default();
        for (key, value) in lines {
            let line = value.defined.line();
            file.set(key, &value.value).map_err(|reason| format!("line {line}: {reason}"))?;
        }
        Ok(file)
    }

    fn set(&mut self, key: &str, value: &Value) -> Result<(), String> {
        if let Some((_, takes, set)) = KEYS.iter().find(|(known, ..)| *known == key) {
            let taken = set(self, value);
            return taken.ok_or_else(|| format!("{key} must be {takes}, not {value}"));
        }
        if let Some((_, reason)) = REFUSED.iter().find(|(known, _)| *known == key) {
            return Err(format!("{key} is not done here: {reason}"));
        }
        Err(format!("unknown key {key}; the nearest that is known is {}", nearest(key)))
    }
}

/// The known key that takes the fewest changes to come to, whatever the case.
fn nearest(key: &str) -> &'static str {
    let key = key.to_lowercase();
    let distance = |known: &str| strsim::damerau_levenshtein(&key, &known.to_lowercase());
    let names = KEYS.iter().map(|(known, ..)| *known);
    names.min_by_key(|known| distance(known)).unwrap_or_default()
}

/// Keeps a value if it is one.
fn set<T>(place: &mut Option<T>, value: Option<T>) -> Option<()> {
    *place = Some(value?);
    Some(())
}

fn text(value: &Value) -> Option<String> {
    value.as_str().filter(|text| !text.is_empty()).map(str::to_owned)
}

/// A whole number from 0 on, also when it is written as 1e6.
fn whole(value: &Value) -> Option<u64> {
    let rounded = || value.as_f64().filter(|number| number.fract() == 0.0 && *number >= 0.0);
    value.as_u64().or_else(|| rounded().map(|number| number as u64))
}

fn count(value: &Value, min: u32, max: u32) -> Option<u32> {
    let count = u32::try_from(whole(value)?).ok()?;
    (min..=max).contains(&count).then_some(count)
}

fn within(value: &Value, min: f64, max: f64) -> Option<f64> {
    value.as_f64().filter(|number| (min..=max).contains(number))
}

fn minutes(value: &Value) -> Option<Duration> {
    let minutes = within(value, 0.0, MINUTES_MAX)?;
    Some(Duration::from_secs_f64(minutes * SECONDS_PER_MINUTE))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_key_is_read() {
        let file = File::parse(
            "# A comment\n\
             name: \"all of it\"\n\
             topics: 2\npartitionsPerTopic: 16\nkeyDistributor: KEY_ROUND_ROBIN\n\
             messageSize: 1024\nuseRandomizedPayloads: true\nrandomBytesRatio: 0.5\n\
             randomizedPayloadPoolSize: 100\npayloadFile: payload/1kb.data\n\
             subscriptionsPerTopic: 3\nproducersPerTopic: 4\nconsumerPerSubscription: 5\n\
             producerRate: 50000\nconsumerBacklogSizeGB: 0.5\nbacklogDrainRatio: 0.9\n\
             testDurationMinutes: 1.5\nwarmupDurationMinutes: 0\n",
        );
        let expected = File {
            name: Some("all of it".to_owned()),
            topics: Some(2),
            partitions: Some(16),
            keys: Some(Keys::RoundRobin),
            record_size: Some(1024),
            mixed: Some(true),
            mixed_random: Some(0.5),
            mixed_pool: Some(100),
            payload_file: Some(PathBuf::from("payload/1kb.data")),
            subscriptions: Some(3),
            producers: Some(4),
            consumers: Some(5),
            rate: Some(50_000),
            backlog_bytes: Some(1 << 29),
            drain_ratio: Some(0.9),
            duration: Some(Duration::from_secs(90)),
            warm_up: Some(Duration::ZERO),
        };
        assert_eq!(file, Ok(expected));
        assert_eq!(File::parse("{}"), Ok(File::default()));
    }

    #[test]
    fn what_is_wrong_is_said_with_its_line() {
        let check = |text: &str, part: &str| {
            let error = File::parse(text).unwrap_err();
            assert!(error.contains(part), "{text:?}: {error}");
        };
        check("topics: 1\n\npartitionPerTopic: 1\n", "line 3: unknown key partitionPerTopic");
        check("topics: 1\n\npartitionPerTopic: 1\n", "nearest that is known is partitionsPerTopic");
        check("producerrate: 1\n", "nearest that is known is producerRate");
        check("consumersPerSubscription: 1\n", "nearest that is known is consumerPerSubscription");
        check("producerStartRate: 1\n", "producerStartRate is not done here: producerRate 0");
        check("producerRate: fast\n", "line 1: producerRate must be records per second");
        check("producerRate: -1\n", "not -1");
        check("producerRate: 1.5\n", "not 1.5");
        check("topics: 0\n", "topics must be a whole number from 1 to 10000, not 0");
        check("messageSize: 4\n", "messageSize must be bytes, from 8");
        check("keyDistributor: ROUND_ROBIN\n", "NO_KEY, KEY_ROUND_ROBIN or RANDOM_NANO");
        check("testDurationMinutes: 0\n", "more than 0");
        check("backlogDrainRatio: 1.1\n", "from 0 to 1");
        check("topics: 1\ntopics: 2\n", "duplicate");
        check("topics: [1\n", "no list of keys and values");
        check("- topics\n", "no list of keys and values");
        check("name:\n", "name must be text, not null");
    }

    #[test]
    fn no_key_is_both_known_and_refused() {
        for (refused, _) in REFUSED {
            assert!(KEYS.iter().all(|(known, ..)| *known != refused), "{refused}");
        }
    }
}
