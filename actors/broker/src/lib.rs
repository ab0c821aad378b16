//! The data plane, free of protocols: produce, fetch, topics, producers.
//!
//! The pure core is `shard/`: a replicated state machine of partitions and producers whose one
//! decision function serves the leader (on projected state) and apply (on real state). Around it
//! lies a thin shell per core: shards, mailboxes to the other cores, a copy of the catalog. A
//! gateway sees [`Broker`] alone.
//!
//! Must never: name a protocol, a file or a socket.

mod admin;
mod agreement;
mod api;
mod beacons;
mod broker;
mod catalog_shard;
mod claims;
mod cluster;
mod command;
mod control;
mod core;
#[doc(hidden)]
pub mod counting;
mod dead_letters;
mod delayed;
mod door;
mod fingerprint;
mod format;
#[doc(hidden)]
pub mod fuzzing;
#[allow(dead_code, reason = "the commands of the classic way come with its gateway")]
mod group;
mod home;
mod members;
mod message;
mod nodes;
mod options;
mod queue;
mod queues;
mod refusal;
mod replicas;
mod reply;
mod router;
mod shard;
mod start;
mod streams;
mod whereabouts;

pub use barrage_cluster::node::{Birth, Presence};

pub use api::claim::{Claim, ClaimError, ClaimKind, ClaimRefusal, ClaimRequest};
pub use api::delay::{Delay, DelayChange, DelayError, DelayRequest, Delayed};
pub use api::queue::{
    GroupInfo, GroupKind, GroupSpec, Lease, QueueCounts, QueueError, ReceiptError, ReceiveRequest,
    Received, Seek, SettleRequest, Settlement,
};
pub use api::stream::{
    Assignor, CommitError, CommitRequest, Heartbeat, HeartbeatRequest, OFFSETS_PER_REQUEST_MAX,
    Standing, StreamBeat, StreamDescription, StreamError, StreamMember, StreamMemberDescription,
    StreamOffset, StreamReads,
};
pub use api::{
    Acks, AdminError, At, CoreStats, ErrorClass, FetchError, FetchRequest, Fetched, FetchedBytes,
    Leader, ListedOffset, Metadata, PartitionDescription, PartitionInfo, ProduceError,
    ProduceRequest, Produced, ProducerIdentity, ShardStats, TopicChange, TopicDescription,
    TopicInfo, TopicMetadata, TopicSpec,
};
pub use barrage_world::mailbox::MailboxSender;
pub use broker::{Broker, StartError};
pub use cluster::{
    ClusterChange, ClusterChanged, ClusterDescription, NodeDescription, ShardDescription,
};
pub use control::{ControlLink, ControlPort, Observation, Plan, control_link};
pub use fingerprint::Fingerprint;
pub use home::{Arrival, Home, Newcomer};
pub use nodes::PeerRefusal;
pub use options::BrokerOptions;
pub use router::CoreLinks;
