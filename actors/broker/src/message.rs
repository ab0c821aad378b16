//! What crosses from one core to another: owned values only, no borrowed and no refcounted-here
//! bytes.
//!
//! Owns: the messages between the cores of one node. They live in memory only and have no bytes
//! format.
//! Must never: carry a `Slice`; bytes that cross were copied once into `Bytes`.
//! Invariants: every request is answered exactly once, with the id it came with.

use std::sync::Arc;

use barrage_cluster::{Catalog, Topic};
use barrage_model::{Offset, PartitionKey, ProducerId, TopicName};
use barrage_world::Instant;
use bytes::Bytes;

use crate::api::{
    AdminError, At, CoreStats, FetchError, FetchRequest, ListedOffset, ProduceError, Produced,
    TopicChange, TopicSpec,
};
use crate::door::CheckedBatch;

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
    Stats,
    /// To the catalog's core.
    Admin(Admin),
    /// From the catalog's core: the catalog has changed; answer when this core's shards agree with
    /// it.
    Catalog(Arc<Catalog>),
}

/// A request to the catalog.
#[derive(Debug)]
pub(crate) enum Admin {
    Create(TopicSpec),
    Alter { name: TopicName, change: TopicChange },
    Delete { name: TopicName },
    AllocateProducers { count: u32 },
}

/// The answers.
#[derive(Debug)]
pub(crate) enum Reply {
    Produce(Result<Produced, ProduceError>),
    Fetch(Result<Crossed, FetchError>),
    ListOffset(Result<ListedOffset, FetchError>),
    Describe(Vec<Option<Bounds>>),
    Stats(CoreStats),
    Admin(Result<AdminReply, AdminError>),
    Agreed,
}

/// What the catalog answered.
#[derive(Debug)]
pub(crate) enum AdminReply {
    Topic(Arc<Topic>),
    Producers { first: ProducerId, count: u32 },
}

/// A fetch's result on its way to another core.
#[derive(Debug)]
pub(crate) struct Crossed {
    pub(crate) high_watermark: Offset,
    pub(crate) start_offset: Offset,
    pub(crate) batches: Vec<Bytes>,
}

/// Where a partition begins and ends, and how much it holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Bounds {
    pub(crate) start_offset: Offset,
    pub(crate) high_watermark: Offset,
    pub(crate) bytes: u64,
}
