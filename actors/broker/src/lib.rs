//! The data plane, free of protocols: produce, fetch, topics, producers.
//!
//! The pure core is `shard/`: a replicated state machine of partitions and producers whose one
//! decision function serves the leader (on projected state) and apply (on real state). Around it
//! lies a thin shell per core: shards, mailboxes to the other cores, a copy of the catalog. A
//! gateway sees [`Broker`] alone.
//!
//! Must never: name a protocol, a file or a socket.

mod admin;
mod api;
mod broker;
mod catalog_shard;
mod cluster;
mod command;
mod core;
mod door;
mod format;
#[doc(hidden)]
pub mod fuzzing;
mod identity;
mod message;
mod options;
mod reply;
mod router;
mod shard;
mod start;

pub use barrage_cluster::node::{Birth, Presence};

pub use api::{
    Acks, AdminError, At, CoreStats, ErrorClass, FetchError, FetchRequest, Fetched, FetchedBytes,
    Leader, ListedOffset, Metadata, PartitionDescription, PartitionInfo, ProduceError,
    ProduceRequest, Produced, ProducerIdentity, ShardStats, TopicChange, TopicDescription,
    TopicInfo, TopicMetadata, TopicSpec,
};
pub use broker::{Broker, StartError};
pub use cluster::{
    ClusterChange, ClusterChanged, ClusterDescription, NodeDescription, ShardDescription,
};
pub use options::BrokerOptions;
pub use router::CoreLinks;
