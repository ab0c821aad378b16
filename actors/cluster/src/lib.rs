//! The catalog: nodes, topics and the placement of partitions on shards, as a pure state machine.
//!
//! Owns: what a cluster consists of, the commands that change it, their bytes.
//! Must never: do I/O, read a clock, draw randomness, depend on the order of a hash map.
//! Invariants: every replica that has applied the same commands holds an equal catalog; a topic id
//! and a producer id are never given out twice; a topic disappears only by a committed command.

pub mod assignment;
pub mod beacon;
pub mod catalog;
pub mod change;
pub mod command;
pub mod format;
pub mod group;
pub mod message;
pub mod node;
pub mod placement;
pub mod plan;
pub mod stream;
pub mod topic;

pub use catalog::{Catalog, CatalogError, Reply};
pub use command::Command;
pub use topic::{Partition, Span, Topic};
