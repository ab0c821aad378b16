//! The native protocol's codec: bytes to types and back, documented byte by byte in `README.md`.
//!
//! Pure: no I/O, no clock, no task. Must never allocate what a peer merely claims: every length is
//! checked against the bytes that are really there. Invariant: `decode(encode(x)) == x`, and every
//! decoder is total: any input gives a value or an error.
//!
//! Layers, from the wire up: `frame` cuts the stream, `field` reads and writes single values,
//! one file per message says which fields it has, [`Request`] and [`Response`] gather them.

#![cfg_attr(test, allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests"))]

mod cluster;
mod delay;
mod error;
mod fetch;
mod field;
mod frame;
mod group;
mod hello;
mod metadata;
mod offset;
mod opcode;
mod produce;
mod producer;
mod queue;
mod request;
mod response;
mod stats;
mod stream;
mod topic;

pub use cluster::{
    ClusterChange, ClusterChanged, ClusterDescription, ClusterJoin, NodeDescription,
    ShardDescription,
};
pub use delay::{
    Delay, DelayChange, DelayChangeReply, DelayChanged, DelayList, DelayListReply, DelayedFate,
    DelayedRecord, ProduceDelayed,
};
pub use error::{ErrorCode, ErrorReply, Hint};
pub use fetch::{FetchReply, FetchRequest};
pub use field::DecodeError;
pub use frame::{Correlation, Frame, FrameDecoder, FrameError, FrameHeader};
pub use group::{
    GroupAlter, GroupCreate, GroupDelete, GroupKind, GroupList, GroupListReply, GroupSettings,
    GroupSummary, NewGroup,
};
pub use hello::{
    HELLO_MAGIC, Hello, HelloReply, PROTOCOL_VERSION_MAX, PROTOCOL_VERSION_MIN, SessionLimits,
};
pub use metadata::{MetadataReply, MetadataRequest, NodeAddress, PartitionRoute, TopicRoutes};
pub use offset::{At, ListOffsetReply, ListOffsetRequest};
pub use opcode::{OPCODES, Opcode};
pub use produce::{Acks, ProduceReply, ProduceRequest};
pub use producer::{ClaimKind, InitProducerReply, ProducerClaim};
pub use queue::{
    Lease, QueueCounts, QueueCountsReply, QueuePeek, QueuePeekReply, QueueReceive,
    QueueReceiveReply, QueueSeek, QueueSettle, QueueSettleReply, Receipt, Seek, Settled,
    Settlement,
};
pub use request::{Request, RequestError};
pub use response::Response;
pub use stats::{CoreStats, ShardStats, StatsReply};
pub use stream::{
    Assignor, PartitionOffset, ResetTo, Standing, Stored, StreamBeat, StreamCommit,
    StreamCommitter, StreamDescribe, StreamDescription, StreamHeartbeat, StreamHeartbeatReply,
    StreamLeave, StreamMember, StreamMemberDescription, StreamOffset, StreamOffsets,
    StreamOffsetsReply, StreamReads, StreamReset, StreamStoredReply,
};
pub use topic::{
    PartitionDescription, TopicAlter, TopicCreate, TopicDelete, TopicDescribe, TopicDescription,
    TopicListReply, TopicSummary,
};

#[cfg(test)]
mod golden;
