//! What crosses from one core to another: owned values only, no borrowed and no refcounted-here
//! bytes.
//!
//! Owns: the messages between the cores of one node. They live in memory only and have no bytes
//! format.
//! Must never: carry a `Slice`; bytes that cross were copied once into `Bytes`.
//! Invariants: every request is answered exactly once, with the id it came with.

use std::sync::Arc;

use barrage_cluster::beacon::{Board, Replica};
use barrage_cluster::message::Bounds;
use barrage_cluster::{Catalog, Topic};
use barrage_model::{
    GroupId, GroupName, Offset, PartitionKey, ProducerId, QueueSettings, ShardId, TopicId,
    TopicName,
};
use barrage_world::Instant;
use bytes::Bytes;

use crate::api::claim::{ClaimError, ClaimRequest};
use crate::api::delay::{DelayError, DelayRequest, Delayed};
use crate::api::queue::{
    GroupSpec, Lease, QueueCounts, QueueError, ReceiptError, ReceiveRequest, Seek, SettleRequest,
};
use crate::api::stream::{
    CommitError, CommitRequest, Heartbeat, HeartbeatRequest, StreamDescription, StreamError,
    StreamMember, StreamOffset,
};
use crate::api::{
    Acks, AdminError, At, CoreStats, FetchError, FetchRequest, ListedOffset, ProduceError,
    Produced, TopicChange, TopicSpec,
};
use crate::cluster::{ClusterChange, ClusterChanged};
use crate::door::CheckedBatch;
use crate::shard::groups::Slot;

/// Names a request among those its core has sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct RequestId(pub(crate) u64);

/// One message.
#[derive(Debug)]
pub(crate) enum Message {
    Request { id: RequestId, request: Request },
    Reply { id: RequestId, reply: Reply },
}

/// What one core asks another.
#[derive(Debug)]
pub(crate) enum Request {
    Produce {
        key: PartitionKey,
        batch: CheckedBatch,
        acks: Acks,
        deadline: Instant,
    },
    Fetch(FetchRequest),
    ListOffset {
        key: PartitionKey,
        at: At,
    },
    Describe {
        keys: Vec<PartitionKey>,
    },
    Receive {
        request: ReceiveRequest,
        visibility_ms: u64,
    },
    Settle(SettleRequest),
    Seek {
        slot: Slot,
        seek: Seek,
    },
    Counts {
        slot: Slot,
    },
    Peek {
        slot: Slot,
        count_max: usize,
    },
    ChangeDelayed(DelayRequest),
    Claim(ClaimRequest),
    Delayed {
        key: PartitionKey,
        count_max: usize,
    },
    Stream {
        shard: ShardId,
        request: StreamRequest,
    },
    Stats,
    /// To the catalog's core.
    Admin {
        admin: Admin,
        deadline: Instant,
    },
    /// From the catalog's core: the catalog has changed.
    Catalog(Arc<Catalog>),
    /// From the catalog's core: what was heard of all nodes.
    Board(Arc<Board>),
    /// To the catalog's core: the catalog this core knows, and the replicas it carries.
    Report {
        revision: u64,
        replicas: Vec<Replica>,
    },
}

/// A request to the catalog.
#[derive(Debug)]
pub(crate) enum Admin {
    Create(TopicSpec),
    Alter { name: TopicName, change: TopicChange },
    Delete { name: TopicName },
    AllocateProducers { count: u32 },
    CreateGroup { topic: TopicName, spec: GroupSpec },
    AlterGroup { topic: TopicName, name: GroupName, settings: QueueSettings },
    DeleteGroup { topic: TopicName, name: GroupName },
    CreateStream { topic: TopicName, name: GroupName },
    Cluster(ClusterChange),
}

/// The answers.
#[derive(Debug)]
pub(crate) enum Reply {
    Produce(Result<Produced, ProduceError>),
    Fetch(Result<Crossed, FetchError>),
    ListOffset(Result<ListedOffset, FetchError>),
    Describe(Vec<Option<Bounds>>),
    Receive(Result<CrossedLeases, QueueError>),
    Settle(Result<Vec<Result<(), ReceiptError>>, QueueError>),
    Seek(Result<(), QueueError>),
    Counts(Result<QueueCounts, QueueError>),
    Peek(Result<Vec<Offset>, QueueError>),
    ChangeDelayed(Result<Vec<Result<(), DelayError>>, QueueError>),
    Claim(Result<(), ClaimError>),
    Delayed(Result<Delayed, QueueError>),
    Stream(Result<StreamAnswer, StreamError>),
    Stats(CoreStats),
    Admin(Result<AdminReply, AdminError>),
    /// The catalog, the board or the report was taken.
    Taken,
}

/// What the catalog answered.
#[derive(Debug)]
pub(crate) enum AdminReply {
    Topic(Arc<Topic>),
    /// Done.
    Done,
    Cluster(ClusterChanged),
    Producers {
        first: ProducerId,
        count: u32,
    },
}

/// A request to the coordinator of a stream group.
#[derive(Debug)]
pub(crate) enum StreamRequest {
    Heartbeat(HeartbeatRequest),
    Leave { group: GroupId, member: StreamMember },
    Commit(CommitRequest),
    Offsets { group: GroupId, keys: Vec<PartitionKey> },
    Reset { group: GroupId, to: Vec<(PartitionKey, Offset)> },
    Describe { group: GroupId, topic: TopicId },
}

/// Its answers.
#[derive(Debug)]
pub(crate) enum StreamAnswer {
    Heartbeat(Heartbeat),
    Done,
    /// Per offset.
    Stored(Vec<Result<(), CommitError>>),
    Offsets(Vec<StreamOffset>),
    Described(StreamDescription),
}

/// A receive's result on its way to another core.
#[derive(Debug)]
pub(crate) struct CrossedLeases {
    pub(crate) leases: Vec<Lease>,
    pub(crate) batches: Vec<Bytes>,
    pub(crate) more: bool,
}

/// A fetch's result on its way to another core.
#[derive(Debug)]
pub(crate) struct Crossed {
    pub(crate) high_watermark: Offset,
    pub(crate) start_offset: Offset,
    pub(crate) batches: Vec<Bytes>,
}
