//! Which record has which key: the key distributions of the OpenMessaging Benchmark.
//!
//! Owns: the set of keys, and whose turn it is. Must never: take a key that another run would not
//! have; the set is the same in every run, and so is the order, but for the time's.
//! Invariants: a key is the whole of what decides a record's partition (`barrage_model::key_hash`).

use std::fmt::{self, Display, Formatter};
use std::sync::Arc;

use barrage_model::key_hash;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use clap::ValueEnum;
use serde::{Deserialize, Serialize};

/// How keys are given out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Serialize, Deserialize)]
pub enum Keys {
    /// Records have none; partitions take turns, batch by batch.
    #[value(name = "NO_KEY", alias = "none")]
    #[serde(rename = "NO_KEY")]
    None,
    /// 10,000 keys in turn.
    #[value(name = "KEY_ROUND_ROBIN", alias = "round-robin")]
    #[serde(rename = "KEY_ROUND_ROBIN")]
    RoundRobin,
    /// One of 10,000 keys, chosen by the clock's nanoseconds.
    #[value(name = "RANDOM_NANO", alias = "random")]
    #[serde(rename = "RANDOM_NANO")]
    Random,
}

/// Keys as many as the benchmark has, each with the partition it belongs to; copies share them.
#[derive(Clone, Debug)]
pub(crate) struct KeySet {
    keys: Arc<[(String, usize)]>,
    next: usize,
}

/// Most a key adds to its record: its bytes, and its length's.
pub(crate) const KEY_SIZE_MAX: usize = 16;
const COUNT: usize = 10_000;
/// Of each, before it is written as text.
const KEY_BYTES: usize = 7;

impl Keys {
    /// The name in workload files.
    pub(crate) fn of_name(name: &str) -> Option<Self> {
        Self::value_variants().iter().copied().find(|keys| keys.name() == name)
    }

    const fn name(self) -> &'static str {
        match self {
            Self::None => "NO_KEY",
            Self::RoundRobin => "KEY_ROUND_ROBIN",
            Self::Random => "RANDOM_NANO",
        }
    }
}

impl Display for Keys {
    fn fmt(&self, out: &mut Formatter<'_>) -> fmt::Result {
        out.write_str(self.name())
    }
}

impl KeySet {
    /// Over so many partitions.
    pub(crate) fn new(partitions: usize) -> Self {
        assert!(partitions > 0, "a topic has partitions");
        let key = |number: usize| {
            let mixed = mix(number as u64).to_le_bytes();
            let key = URL_SAFE_NO_PAD.encode(mixed.get(..KEY_BYTES).unwrap_or_default());
            let partition = key_hash(key.as_bytes()) as usize % partitions;
            (key, partition)
        };
        Self { keys: (0..COUNT).map(key).collect(), next: 0 }
    }

    /// The same for the producer of number `first`, which begins that much later in the turn.
    pub(crate) fn from(&self, first: usize) -> Self {
        Self { keys: Arc::clone(&self.keys), next: first % COUNT }
    }

    /// The key whose turn it is, and its partition.
    pub(crate) fn in_turn(&mut self) -> (&str, usize) {
        let index = self.next;
        self.next = (index + 1) % COUNT;
        self.at(index)
    }

    /// The key that so many nanoseconds choose, and its partition.
    pub(crate) fn at_nanos(&self, nanos: u64) -> (&str, usize) {
        self.at((nanos % COUNT as u64) as usize)
    }

    fn at(&self, index: usize) -> (&str, usize) {
        self.keys.get(index).map_or(("", 0), |(key, partition)| (key.as_str(), *partition))
    }
}

/// Numbers that follow one another become numbers without a pattern, each another one.
const fn mix(number: u64) -> u64 {
    let mut mixed = number.wrapping_add(1).wrapping_mul(0x9E37_79B9_7F4A_7C15);
    mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    mixed ^ (mixed >> 31)
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use super::*;

    #[test]
    fn keys_differ_and_partitions_share_them_evenly() {
        let mut set = KeySet::new(16);
        let (mut keys, mut partitions) = (BTreeSet::new(), BTreeMap::<usize, usize>::new());
        for _ in 0..COUNT {
            let (key, partition) = set.in_turn();
            assert_eq!(partition, key_hash(key.as_bytes()) as usize % 16);
            keys.insert(key.to_owned());
            *partitions.entry(partition).or_default() += 1;
        }
        assert_eq!(keys.len(), COUNT);
        assert!(keys.iter().all(|key| key.len() == 10), "seven bytes in base64");
        let (least, most) =
            (partitions.values().min().unwrap(), partitions.values().max().unwrap());
        assert!(partitions.len() == 16 && *least > 500 && *most < 750, "{partitions:?}");
    }

    #[test]
    fn turns_go_round_and_the_clock_chooses_any() {
        let mut set = KeySet::new(4).from(COUNT - 1);
        let last = set.in_turn().0.to_owned();
        let first = set.in_turn().0.to_owned();
        assert_eq!(set.at_nanos(0).0, first);
        assert_eq!(set.at_nanos(2 * COUNT as u64 - 1).0, last);
    }

    #[test]
    fn names_are_those_of_workload_files() {
        for keys in Keys::value_variants() {
            assert_eq!(Keys::of_name(&keys.to_string()), Some(*keys));
            let value = keys.to_possible_value().unwrap();
            assert_eq!(value.get_name(), keys.to_string());
            assert_eq!(serde_json::to_value(keys).unwrap(), keys.to_string());
        }
        assert_eq!(Keys::of_name("ROUND_ROBIN"), None);
    }
}
