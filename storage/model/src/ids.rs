//! Newtyped ids, offsets, indexes and terms.
//!
//! Owns: one type per meaning, so that two integers of different meaning cannot be exchanged.
//! Must never do: convert one id into another without a visible expression.
//! Invariants: `Offset` and `LogIndex` are 0-based positions; `LogId` orders by term, then index.

use std::fmt;

/// Defines a newtype over an integer with the traits every id has.
macro_rules! id {
    ($(#[$doc:meta])* $name:ident($inner:ty)) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
        #[repr(transparent)]
        pub struct $name(pub $inner);

        impl fmt::Display for $name {
            fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(&self.0, formatter)
            }
        }

        impl From<$inner> for $name {
            fn from(value: $inner) -> Self {
                Self(value)
            }
        }

        impl std::str::FromStr for $name {
            type Err = std::num::ParseIntError;

            fn from_str(text: &str) -> Result<Self, Self::Err> {
                text.parse().map(Self)
            }
        }
    };
}

id! {
    /// One broker process.
    NodeId(u64)
}
id! {
    /// A set of partitions replicated by one Raft group. Shard 0 is the catalog.
    ShardId(u32)
}
id! {
    /// One pinned thread with its own executor, counted from 0 within its node.
    CoreId(u16)
}
id! {
    /// A topic, never reused after the topic is deleted.
    TopicId(u64)
}
id! {
    /// A consumer group of a topic, never reused after the group is deleted.
    GroupId(u64)
}
id! {
    /// A partition's 0-based index within its topic.
    PartitionId(u32)
}
id! {
    /// Dense 0-based position of a record in its partition.
    Offset(u64)
}
id! {
    /// The number of an election in a shard.
    Term(u64)
}
id! {
    /// Position of an entry in a shard's Raft log.
    LogIndex(u64)
}
id! {
    /// An idempotent producer; -1 when the producer is not idempotent.
    ProducerId(i64)
}
id! {
    /// Generation of a producer id; -1 when the producer is not idempotent.
    ProducerEpoch(i16)
}
id! {
    /// A producer's own number of the first record of a batch; wraps at `i32::MAX` to 0.
    Sequence(i32)
}

impl Offset {
    /// The offset `count` records further on, or `None` past the end of all offsets.
    #[must_use]
    pub const fn checked_add(self, count: u64) -> Option<Self> {
        match self.0.checked_add(count) {
            Some(sum) => Some(Self(sum)),
            None => None,
        }
    }
}

impl ProducerId {
    /// The mark of a batch without idempotence.
    pub const NONE: Self = Self(-1);

    /// Whether the batch comes from an idempotent producer.
    #[must_use]
    pub const fn is_some(self) -> bool {
        self.0 >= 0
    }
}

impl ProducerEpoch {
    /// The mark of a batch without idempotence.
    pub const NONE: Self = Self(-1);
}

impl Sequence {
    /// The mark of a batch without idempotence.
    pub const NONE: Self = Self(-1);

    /// The sequence `count` records further on; after `i32::MAX` comes 0, as Kafka counts.
    #[must_use]
    pub const fn wrapping_advance(self, count: u32) -> Self {
        const MODULUS: i64 = i32::MAX as i64 + 1;
        let sum = (self.0 as i64 + count as i64).rem_euclid(MODULUS);
        Self(sum as i32)
    }
}

/// A partition of a topic, anywhere in the cluster.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PartitionKey {
    /// The topic.
    pub topic: TopicId,
    /// The partition's index within the topic.
    pub partition: PartitionId,
}

impl PartitionKey {
    /// No partition has so large a number.
    const DELAY_STORE: u32 = 1 << 31;

    /// Under which name the log keeps the partition's delayed records.
    #[must_use]
    pub const fn delay_store(self) -> Self {
        let partition = PartitionId(self.partition.0 | Self::DELAY_STORE);
        Self { topic: self.topic, partition }
    }

    /// Whether this names the delayed records of a partition.
    #[must_use]
    pub const fn is_delay_store(self) -> bool {
        self.partition.0 & Self::DELAY_STORE != 0
    }

    /// The partition, whether this names it or its delayed records.
    #[must_use]
    pub const fn owner(self) -> Self {
        let partition = PartitionId(self.partition.0 & !Self::DELAY_STORE);
        Self { topic: self.topic, partition }
    }
}

const _: () = assert!(crate::limits::PARTITIONS_PER_TOPIC_MAX < PartitionKey::DELAY_STORE);

impl fmt::Display for PartitionKey {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}/{}", self.topic, self.partition)
    }
}

/// An entry of a shard's log: its term and its position. Orders by term, then by index.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LogId {
    /// The term in which the entry was proposed.
    pub term: Term,
    /// The entry's position.
    pub index: LogIndex,
}

impl fmt::Display for LogId {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}-{}", self.term, self.index)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn log_id_orders_by_term_then_index() {
        let id = |term, index| LogId { term: Term(term), index: LogIndex(index) };
        assert!(id(1, 9) < id(2, 0));
        assert!(id(2, 0) < id(2, 1));
    }

    #[test]
    fn ids_print_and_parse_as_their_number() {
        assert_eq!(Offset(42).to_string(), "42");
        assert_eq!("42".parse(), Ok(Offset(42)));
        assert!("x".parse::<Offset>().is_err());
        assert_eq!(
            PartitionKey { topic: TopicId(7), partition: PartitionId(3) }.to_string(),
            "7/3"
        );
    }

    #[test]
    fn sequence_wraps_to_zero() {
        assert_eq!(Sequence(5).wrapping_advance(3), Sequence(8));
        assert_eq!(Sequence(i32::MAX).wrapping_advance(1), Sequence(0));
        assert_eq!(Sequence(i32::MAX - 1).wrapping_advance(5), Sequence(3));
    }

    #[test]
    fn offset_addition_is_checked() {
        assert_eq!(Offset(1).checked_add(2), Some(Offset(3)));
        assert_eq!(Offset(u64::MAX).checked_add(1), None);
    }
}
