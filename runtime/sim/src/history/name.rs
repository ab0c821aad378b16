//! Names, points in time and fingerprints: what events are made of beside the ids of the model.
//!
//! Owns: how these stand in a history file. Must never: depend on a run's clock or randomness.
//! Invariants: a fingerprint says the same on every machine and in every language.

use std::fmt;
use std::sync::Arc;

use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use xxhash_rust::xxh3::Xxh3Default;

/// The name of a client, topic, group or shard; a copy costs no allocation.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Name(Arc<str>);

impl Name {
    /// The text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl From<&str> for Name {
    fn from(text: &str) -> Self {
        Self(text.into())
    }
}

impl From<String> for Name {
    fn from(text: String) -> Self {
        Self(text.into())
    }
}

impl fmt::Display for Name {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0)
    }
}

impl Serialize for Name {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for Name {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer).map(Self::from)
    }
}

/// A point of the history's own clock, in nanoseconds. One clock per history.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Nanos(pub u64);

impl fmt::Display for Nanos {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        const SECOND: u64 = 1_000_000_000;
        write!(formatter, "{}.{:06}s", self.0 / SECOND, self.0 % SECOND / 1_000)
    }
}

/// One call of a client; its completion carries the same number. Never used twice in a history.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Call(pub u64);

impl fmt::Display for Call {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, formatter)
    }
}

/// What a record says, in 64 bits. It is the record's identity: a workload must make every
/// message different from all others of the history, for example by a counter in its value.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Fingerprint(pub u64);

/// A record's key, as its hash.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Key(pub u64);

impl Fingerprint {
    /// Of a record's key and value: XXH3-64 over, for each of them, the length as eight bytes
    /// little-endian (`u64::MAX` where there is none) and the bytes.
    #[must_use]
    pub fn of(key: Option<&[u8]>, value: Option<&[u8]>) -> Self {
        let mut hash = Xxh3Default::new();
        for part in [key, value] {
            let length = part.map_or(u64::MAX, |bytes| bytes.len() as u64);
            hash.update(&length.to_le_bytes());
            hash.update(part.unwrap_or_default());
        }
        Self(hash.digest())
    }
}

impl Key {
    /// XXH3-64 of the key's bytes.
    #[must_use]
    pub fn of(key: &[u8]) -> Self {
        Self(xxhash_rust::xxh3::xxh3_64(key))
    }
}

/// Gives a 64-bit newtype its text: 16 hexadecimal digits, since not every language keeps 64 bits
/// of a JSON number.
macro_rules! hexadecimal {
    ($name:ident) => {
        impl fmt::Display for $name {
            fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(formatter, "{:016x}", self.0)
            }
        }

        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let text = std::borrow::Cow::<'de, str>::deserialize(deserializer)?;
                let is_hex = text.len() == 16 && text.bytes().all(|byte| byte.is_ascii_hexdigit());
                let number = u64::from_str_radix(&text, 16).ok().filter(|_| is_hex);
                number.map(Self).ok_or_else(|| D::Error::custom("not 16 hexadecimal digits"))
            }
        }
    };
}

hexadecimal!(Fingerprint);
hexadecimal!(Key);
hexadecimal!(StateHash);

/// The hash of a state or of a log's prefix, whatever function the product uses for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct StateHash(pub u64);

/// Ids of the model as the numbers they are, for `#[serde(with)]`.
pub(crate) mod plain {
    use barrage_model::{
        LogIndex, NodeId, Offset, PartitionId, ProducerEpoch, ProducerId, Sequence, Term,
    };
    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    /// A newtype and its number.
    pub(crate) trait Plain: Copy {
        type Number: Serialize + for<'de> Deserialize<'de>;
        fn number(self) -> Self::Number;
        fn of(number: Self::Number) -> Self;
    }

    macro_rules! plain {
        ($($name:ident($number:ty))*) => {$(
            impl Plain for $name {
                type Number = $number;

                fn number(self) -> $number {
                    self.0
                }

                fn of(number: $number) -> Self {
                    Self(number)
                }
            }
        )*};
    }

    plain! {
        LogIndex(u64) NodeId(u64) Offset(u64) PartitionId(u32) ProducerEpoch(i16) ProducerId(i64)
        Sequence(i32) Term(u64)
    }

    pub(crate) fn serialize<T: Plain, S: Serializer>(id: &T, to: S) -> Result<S::Ok, S::Error> {
        id.number().serialize(to)
    }

    pub(crate) fn deserialize<'de, T: Plain, D>(from: D) -> Result<T, D::Error>
    where
        D: Deserializer<'de>,
    {
        T::Number::deserialize(from).map(T::of)
    }

    /// The same for one that may be missing.
    pub(crate) mod option {
        use super::{Deserialize, Deserializer, Plain, Serialize, Serializer};

        pub(crate) fn serialize<T, S>(id: &Option<T>, to: S) -> Result<S::Ok, S::Error>
        where
            T: Plain,
            S: Serializer,
        {
            id.map(Plain::number).serialize(to)
        }

        pub(crate) fn deserialize<'de, T, D>(from: D) -> Result<Option<T>, D::Error>
        where
            T: Plain,
            D: Deserializer<'de>,
        {
            Ok(Option::<T::Number>::deserialize(from)?.map(T::of))
        }
    }

    /// The same for several.
    pub(crate) mod list {
        use super::{Deserialize, Deserializer, Plain, Serializer};

        pub(crate) fn serialize<T, S>(ids: &[T], to: S) -> Result<S::Ok, S::Error>
        where
            T: Plain,
            S: Serializer,
        {
            to.collect_seq(ids.iter().map(|id| id.number()))
        }

        pub(crate) fn deserialize<'de, T, D>(from: D) -> Result<Vec<T>, D::Error>
        where
            T: Plain,
            D: Deserializer<'de>,
        {
            Ok(Vec::<T::Number>::deserialize(from)?.into_iter().map(T::of).collect())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fingerprint_tells_key_from_value_and_nothing_from_empty() {
        let parts = [
            (None, None),
            (None, Some(&b""[..])),
            (Some(&b""[..]), None),
            (Some(&b""[..]), Some(&b""[..])),
            (Some(&b"ab"[..]), Some(&b"c"[..])),
            (Some(&b"a"[..]), Some(&b"bc"[..])),
            (None, Some(&b"abc"[..])),
        ];
        let mut all: Vec<_> =
            parts.iter().map(|(key, value)| Fingerprint::of(*key, *value)).collect();
        all.sort_unstable();
        all.dedup();
        assert_eq!(all.len(), parts.len());
    }

    #[test]
    fn a_fingerprint_is_the_same_for_ever() {
        assert_eq!(Fingerprint::of(Some(b"k"), Some(b"value")).to_string(), "88cc233889531e2b");
        assert_eq!(Key::of(b"k").to_string(), "a921e3704fda881d");
    }

    #[test]
    fn hexadecimal_text_is_strict() {
        let table = [
            ("\"00000000000000ff\"", Some(255)),
            ("\"ff\"", None),
            ("\"+0000000000000ff\"", None),
            ("\"00000000000000fg\"", None),
            ("255", None),
        ];
        for (text, want) in table {
            let got = serde_json::from_str::<Fingerprint>(text).ok();
            assert_eq!(got, want.map(Fingerprint), "{text}");
        }
    }

    #[test]
    fn times_print_with_microseconds() {
        assert_eq!(Nanos(61_000_234_999).to_string(), "61.000234s");
    }
}
