//! In which order a topic's records stand, and with it who may write: many, or one at a time.
//!
//! Owns: the two kinds and their names. Must never: know who writes; the partition's shard does.

use std::fmt;
use std::str::FromStr;

/// In which order a topic's records stand. Fixed when the topic is made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum TopicOrder {
    /// By partition; anybody writes.
    #[default]
    Partition,
    /// One order of all: one partition, which one producer at a time holds and writes, and nothing
    /// in it is delayed.
    Global,
}

impl TopicOrder {
    /// The order that is global, or the other one.
    #[must_use]
    pub const fn of(is_global: bool) -> Self {
        if is_global { Self::Global } else { Self::Partition }
    }

    /// Whether one producer at a time writes.
    #[must_use]
    pub const fn is_global(self) -> bool {
        matches!(self, Self::Global)
    }

    /// Whether a topic of so many partitions can have this order.
    #[must_use]
    pub const fn allows(self, partitions: u32) -> bool {
        match self {
            Self::Partition => true,
            Self::Global => partitions == 1,
        }
    }
}

impl fmt::Display for TopicOrder {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.pad(match self {
            Self::Partition => "partition",
            Self::Global => "global",
        })
    }
}

impl FromStr for TopicOrder {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let known = [Self::Partition, Self::Global];
        let found = known.into_iter().find(|order| order.to_string() == text);
        found.ok_or_else(|| "an order is partition or global".to_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_come_back_and_a_global_order_has_one_partition() {
        for order in [TopicOrder::Partition, TopicOrder::Global] {
            assert_eq!(order.to_string().parse(), Ok(order));
        }
        assert!("globally".parse::<TopicOrder>().is_err());
        assert!(TopicOrder::Global.allows(1) && !TopicOrder::Global.allows(2));
        assert!(TopicOrder::Partition.allows(2));
    }
}
