//! The words of Barrage as Rust types: ids, units, limits, retention, topics, groups, record batch.
//!
//! Owns: the meaning of every value that is shared by client, wire, log and broker.
//! Must never do: I/O, read a clock, use async, hold state. Everything here is a pure function.
//! Invariants: an id type never mixes with another; a parsed value cannot be wrong.

pub mod backoff;
pub mod batch;
pub mod crc;
pub mod group;
pub mod headers;
pub mod ids;
mod key_hash;
pub mod limits;
mod priority;
mod retention;
pub mod topic;
mod topic_order;
pub mod units;

pub use backoff::Backoff;
pub use group::{GroupName, QueueSettings};
pub use ids::{
    CoreId, GroupId, LogId, LogIndex, NodeId, Offset, PartitionId, PartitionKey, ProducerEpoch,
    ProducerId, Sequence, ShardId, Term, TopicId,
};
pub use key_hash::key_hash;
pub use limits::BLOCK_SIZE;
pub use priority::Priorities;
pub use retention::Retention;
pub use topic::TopicName;
pub use topic_order::TopicOrder;
pub use units::ByteSize;
