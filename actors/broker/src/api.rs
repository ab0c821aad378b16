//! What the broker is asked and what it answers: requests, replies and errors, free of any
//! protocol.
//!
//! Everything here is plain data that may cross cores, except [`FetchedBytes::Local`]. Gateways
//! translate these types and map each error to their protocol's code in one place. Nothing here
//! does I/O.
//!
//! Every error is one of: the caller's fault (do not repeat it as it is), retry later, not here
//! (with a hint where to go), or fatal for the shard. [`ProduceError::class`] and its siblings say
//! which.

pub(crate) mod claim;
pub(crate) mod delay;
pub(crate) mod queue;
pub(crate) mod stream;

use barrage_model::batch::BatchError;
use barrage_model::{
    CoreId, NodeId, Offset, PartitionId, PartitionKey, Priorities, ProducerEpoch, ProducerId,
    Retention, ShardId, TopicId, TopicName, TopicOrder,
};
use barrage_world::Instant;
use barrage_world::Slice;
use bytes::Bytes;
use thiserror::Error;

use self::delay::Delay;

/// How many copies must be durable before a produce is answered.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Acks {
    /// A majority of the voters has flushed the batch (the default; there is nothing weaker).
    #[default]
    Quorum,
    /// Every voter of the current configuration has flushed it.
    All,
}

/// One batch for one partition.
#[derive(Clone, Debug)]
pub struct ProduceRequest {
    /// The partition to append to.
    pub key: PartitionKey,
    /// One whole record batch v2, exactly; its base offset and leader epoch are stamped by the
    /// broker.
    pub batch: Bytes,
    /// From when on its records are to be had; at once without. What is answered then is not an
    /// offset but the id of the first one: they get their offsets when they are due.
    pub delay: Option<Delay>,
    /// When to answer.
    pub acks: Acks,
    /// Until when to answer at the latest.
    pub deadline: Instant,
}

/// A batch is durable, applied and readable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Produced {
    /// Offset of the batch's first record; the original one for a duplicate.
    pub base_offset: Offset,
    /// The log time of its entry in milliseconds since 1970; -1 for a duplicate of an older batch.
    pub log_time_ms: i64,
    /// First offset the partition still holds.
    pub start_offset: Offset,
}

/// Where a partition is led.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Leader {
    /// The node that leads the shard.
    pub node: NodeId,
    /// The core of that node that carries it.
    pub core: CoreId,
    /// `host:port` that reaches that core directly (or the shared address where core ports are
    /// off).
    pub address: String,
}

/// What a caller should do about an error.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ErrorClass {
    /// The request itself is wrong; repeating it gives the same answer.
    Caller,
    /// Repeat it later (idempotent producers with the same sequence).
    Retry,
    /// Ask another node or core; refresh metadata.
    NotHere,
    /// The shard has failed and will not serve again in this process.
    Fatal,
    /// The request took effect, with less than was asked for: not to be repeated.
    Appended,
}

/// Why a batch was not (or not certainly) appended.
#[derive(Clone, Debug, Error)]
pub enum ProduceError {
    /// No such topic or partition (or not open yet).
    #[error("unknown topic or partition")]
    UnknownPartition,
    /// The shard is led elsewhere.
    #[error("this node does not lead the partition")]
    NotLeader {
        /// Where it is led, if known.
        hint: Option<Leader>,
    },
    /// The envelope check at the door failed: length, magic, checksum, count, bounds or
    /// compression.
    #[error("bad batch: {0}")]
    BadBatch(BatchError),
    /// A well-formed batch of a kind that is not served (transactional and control batches).
    #[error("unsupported batch: {reason}")]
    Unsupported {
        /// What about it is not supported.
        reason: &'static str,
    },
    /// The batch is larger than one batch may be.
    #[error("batch of {size} bytes exceeds the limit of {limit} bytes")]
    TooLarge {
        /// Its size in bytes.
        size: usize,
        /// The largest size accepted.
        limit: usize,
    },
    /// A sequence is missing before this batch.
    #[error("out of order sequence: expected {expected}, got {got}")]
    OutOfOrderSequence {
        /// The sequence that would have been accepted.
        expected: i32,
        /// The batch's first sequence.
        got: i32,
    },
    /// A newer instance of this producer has written; this one is over.
    #[error("producer is fenced by epoch {epoch}")]
    Fenced {
        /// The newest epoch seen.
        epoch: i16,
    },
    /// The order of the topic is global, and its batches are those of the producer that holds it.
    #[error("the order of the topic is global, and this producer does not hold it")]
    NotHolder,
    /// The order of the topic is global: nothing waits beside it.
    #[error("the order of the topic is global: its records are not delayed")]
    NoDelay,
    /// The batch is older than the window that is remembered: it was appended, at an offset no
    /// longer known.
    #[error("duplicate of a batch that is older than the remembered window")]
    DuplicateOutOfWindow,
    /// The producer is not known to this partition and the batch does not begin at sequence 0:
    /// either an earlier batch of it was refused (repeat that first), or it was silent for a day
    /// and must take a new id.
    #[error("unknown producer: it must begin at sequence 0")]
    UnknownProducer,
    /// Too many producers were active on this shard within the last minutes.
    #[error("too many active producers on this shard")]
    ProducersFull,
    /// A delayed batch names an instant that is over.
    #[error("the time of a delayed record is over: {due_ms}, and it is {now_ms}")]
    DelayIsOver {
        /// The earliest of its times, milliseconds since 1970.
        due_ms: u64,
        /// What time it is.
        now_ms: u64,
    },
    /// So many delayed records wait in the partition that no more are taken.
    #[error("{waiting} delayed records wait in this partition already")]
    DelayedFull {
        /// How many.
        waiting: u64,
    },
    /// The shard's proposal buffer or the way to its core is full.
    #[error("queue full")]
    QueueFull,
    /// The disk has no room; reads go on, writes recover when space returns.
    #[error("disk full")]
    DiskFull,
    /// The shard's log has failed; the process is about to exit.
    #[error("the shard has failed")]
    Poisoned,
    /// The deadline passed before the batch was proposed: it was certainly not appended.
    #[error("deadline passed before the batch was taken up")]
    Expired,
    /// The deadline passed while the batch was under way: its outcome is unknown.
    #[error("timed out, outcome unknown")]
    Timeout,
    /// Certainly not appended because something before it failed; repeat it.
    #[error("not appended, try again")]
    Retry,
    /// The node is shutting down; a batch under way may or may not have been appended.
    #[error("shutting down")]
    ShuttingDown,
    /// The deadline of `Acks::All` passed: the batch is appended and stays, on a majority.
    #[error("appended, but on {have} of {want} copies only")]
    NotOnAll {
        /// Copies that were seen to have it.
        have: u16,
        /// Copies there are.
        want: u16,
    },
}

impl ProduceError {
    /// What the caller should do about it.
    pub fn class(&self) -> ErrorClass {
        match self {
            Self::BadBatch(_)
            | Self::Unsupported { .. }
            | Self::TooLarge { .. }
            | Self::OutOfOrderSequence { .. }
            | Self::Fenced { .. }
            | Self::NotHolder
            | Self::NoDelay
            | Self::DuplicateOutOfWindow
            | Self::UnknownProducer
            | Self::DelayIsOver { .. } => ErrorClass::Caller,
            Self::UnknownPartition | Self::NotLeader { .. } => ErrorClass::NotHere,
            Self::ProducersFull
            | Self::DelayedFull { .. }
            | Self::QueueFull
            | Self::DiskFull
            | Self::Expired
            | Self::Timeout
            | Self::Retry
            | Self::ShuttingDown => ErrorClass::Retry,
            Self::Poisoned => ErrorClass::Fatal,
            Self::NotOnAll { .. } => ErrorClass::Appended,
        }
    }

    /// True when the batch may or may not have been appended; only the producer's sequence can
    /// tell.
    pub fn outcome_unknown(&self) -> bool {
        matches!(self, Self::Timeout | Self::ShuttingDown | Self::Poisoned)
    }
}

/// Read records of one partition, waiting for new ones if there are none.
#[derive(Clone, Debug)]
pub struct FetchRequest {
    /// The partition to read.
    pub key: PartitionKey,
    /// First offset wanted; the first batch returned contains it (and may begin before it).
    pub offset: Offset,
    /// How many bytes at most; one batch is always returned whole, even if it is larger.
    pub bytes_max: usize,
    /// Answer once this many bytes are there; 0 and 1 mean as soon as there is anything.
    pub bytes_min: usize,
    /// Until when to wait for `bytes_min`; then whatever is there is the answer.
    pub wait_until: Instant,
}

/// What a fetch found.
#[derive(Clone, Debug)]
pub struct Fetched {
    /// Exclusive end of what may be read: that of this moment where no batches came. Beside batches
    /// it may be that of a leader that does not know of its successor yet.
    pub high_watermark: Offset,
    /// First offset the partition still holds.
    pub start_offset: Offset,
    /// Whole batches, adjacent, in offset order, as they lie on disk; empty if none came in time.
    pub batches: Vec<FetchedBytes>,
}

/// Bytes of whole batches.
#[derive(Clone, Debug)]
pub enum FetchedBytes {
    /// Read on this core: refcounted, never copied.
    Local(Slice),
    /// Read on another core and copied once to cross.
    Crossed(Bytes),
}

impl AsRef<[u8]> for FetchedBytes {
    fn as_ref(&self) -> &[u8] {
        match self {
            Self::Local(slice) => slice,
            Self::Crossed(bytes) => bytes,
        }
    }
}

impl FetchedBytes {
    /// Size in bytes.
    pub fn len(&self) -> usize {
        self.as_ref().len()
    }

    /// True for no bytes at all.
    pub fn is_empty(&self) -> bool {
        self.as_ref().is_empty()
    }
}

/// Why nothing could be read.
#[derive(Clone, Debug, Error)]
pub enum FetchError {
    /// No such topic or partition (or not open yet).
    #[error("unknown topic or partition")]
    UnknownPartition,
    /// The offset is below the start or beyond the high watermark.
    #[error("offset out of range [{start}, {high_watermark}]")]
    OffsetOutOfRange {
        /// First offset held.
        start: Offset,
        /// Exclusive end of what may be read (waiting exactly here is allowed).
        high_watermark: Offset,
    },
    /// The shard is led elsewhere.
    #[error("this node does not lead the partition")]
    NotLeader {
        /// Where it is led, if known.
        hint: Option<Leader>,
    },
    /// The stored bytes fail their checksum; never returned as records.
    #[error("stored records are damaged: {detail}")]
    Damaged {
        /// Where the damage is.
        detail: String,
    },
    /// The read failed.
    #[error("read failed: {detail}")]
    Io {
        /// The operating system's words.
        detail: String,
    },
    /// Too many requests wait for that core.
    #[error("queue full")]
    QueueFull,
    /// The node is shutting down.
    #[error("shutting down")]
    ShuttingDown,
}

impl FetchError {
    /// What the caller should do about it.
    pub fn class(&self) -> ErrorClass {
        match self {
            Self::OffsetOutOfRange { .. } => ErrorClass::Caller,
            Self::UnknownPartition | Self::NotLeader { .. } => ErrorClass::NotHere,
            Self::QueueFull | Self::ShuttingDown | Self::Io { .. } => ErrorClass::Retry,
            Self::Damaged { .. } => ErrorClass::Fatal,
        }
    }
}

/// A place in a partition by meaning instead of by number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum At {
    /// The first offset held.
    Start,
    /// The high watermark.
    End,
    /// The first batch whose log time is at or after this many milliseconds since 1970; the end if
    /// none.
    Time(i64),
}

/// Where a place lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ListedOffset {
    /// The offset asked for.
    pub offset: Offset,
    /// First offset held.
    pub start_offset: Offset,
    /// Exclusive end of what may be read.
    pub high_watermark: Offset,
}

/// A topic to be made.
#[derive(Clone, Debug)]
pub struct TopicSpec {
    /// Its name.
    pub name: TopicName,
    /// How many partitions, at least 1.
    pub partitions: u32,
    /// How long records are kept; `None` takes the node's default.
    pub retention: Option<Retention>,
    /// Its levels; not more than partitions.
    pub priorities: Priorities,
    /// Who may write.
    pub order: TopicOrder,
}

/// What is to change about a topic; `None` leaves it.
#[derive(Clone, Debug, Default)]
pub struct TopicChange {
    /// A larger number of partitions.
    pub partitions: Option<u32>,
    /// How long records are kept.
    pub retention: Option<Retention>,
}

/// A topic as the catalog knows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TopicInfo {
    /// Its name.
    pub name: TopicName,
    /// Its id, never used again after it is deleted.
    pub id: TopicId,
    /// How many partitions it has.
    pub partitions: u32,
    /// How long records are kept.
    pub retention: Retention,
    /// Its levels.
    pub priorities: Priorities,
    /// Who may write.
    pub order: TopicOrder,
    /// Log time of its creation in milliseconds since 1970.
    pub created_ms: i64,
}

/// Where one partition is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PartitionInfo {
    /// Its number within the topic.
    pub partition: PartitionId,
    /// The shard that holds it.
    pub shard: ShardId,
    /// Who leads that shard.
    pub leader: Leader,
}

/// A topic and where its partitions are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TopicMetadata {
    /// The topic.
    pub topic: TopicInfo,
    /// Its partitions, by number.
    pub partitions: Vec<PartitionInfo>,
}

/// Answer to a metadata request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Metadata {
    /// Identity of the cluster.
    pub cluster: String,
    /// The nodes and how to reach each of their cores.
    pub leaders: Vec<Leader>,
    /// The topics asked for that exist.
    pub topics: Vec<TopicMetadata>,
    /// The names asked for that do not exist.
    pub unknown: Vec<TopicName>,
}

/// One partition in full.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PartitionDescription {
    /// Where it is.
    pub info: PartitionInfo,
    /// First offset held.
    pub start_offset: Offset,
    /// Exclusive end of what may be read.
    pub high_watermark: Offset,
    /// Bytes held.
    pub bytes: u64,
}

/// A topic in full.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TopicDescription {
    /// The topic.
    pub topic: TopicInfo,
    /// Its partitions, by number.
    pub partitions: Vec<PartitionDescription>,
}

/// Why an administrative request was not carried out.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum AdminError {
    /// A topic of this name exists.
    #[error("topic exists")]
    TopicExists,
    /// No topic of this name exists.
    #[error("unknown topic")]
    UnknownTopic,
    /// The topic has a group of this name.
    #[error("group exists")]
    GroupExists,
    /// The topic has no group of this name.
    #[error("unknown group")]
    UnknownGroup,
    /// The request makes no sense.
    #[error("{reason}")]
    Invalid {
        /// What is wrong with it.
        reason: String,
    },
    /// A limit on topics or partitions is reached.
    #[error("{reason}")]
    LimitReached {
        /// Which one.
        reason: String,
    },
    /// The catalog is led elsewhere.
    #[error("this node does not lead the catalog")]
    NotLeader,
    /// The disk has no room.
    #[error("disk full")]
    DiskFull,
    /// Too many requests wait for the catalog's core.
    #[error("queue full")]
    QueueFull,
    /// The deadline passed; the change may still be carried out.
    #[error("timed out, the change may still be carried out")]
    Timeout,
    /// The catalog's shard has failed.
    #[error("the catalog has failed")]
    Poisoned,
    /// The node is shutting down.
    #[error("shutting down")]
    ShuttingDown,
}

impl AdminError {
    /// What the caller should do about it.
    pub fn class(&self) -> ErrorClass {
        match self {
            Self::TopicExists
            | Self::UnknownTopic
            | Self::GroupExists
            | Self::UnknownGroup
            | Self::Invalid { .. }
            | Self::LimitReached { .. } => ErrorClass::Caller,
            Self::NotLeader => ErrorClass::NotHere,
            Self::DiskFull | Self::QueueFull | Self::Timeout | Self::ShuttingDown => {
                ErrorClass::Retry
            }
            Self::Poisoned => ErrorClass::Fatal,
        }
    }
}

/// A producer's identity, allocated once per cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ProducerIdentity {
    /// Never given out twice.
    pub id: ProducerId,
    /// 0 for a fresh id.
    pub epoch: ProducerEpoch,
}

/// Figures of one shard since its core started.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ShardStats {
    /// The shard.
    pub shard: ShardId,
    /// Open partitions.
    pub partitions: u64,
    /// Records appended.
    pub records: u64,
    /// Bytes of batches appended.
    pub bytes: u64,
    /// Flushes done.
    pub flushes: u64,
    /// Median time of a flush in microseconds.
    pub flush_p50_us: u64,
    /// 99th percentile of the time of a flush in microseconds.
    pub flush_p99_us: u64,
    /// Entries proposed and not yet applied.
    pub entries_in_flight: u64,
    /// Batches waiting to be proposed.
    pub batches_waiting: u64,
    /// Bytes waiting to be proposed.
    pub bytes_waiting: u64,
    /// Bytes of the tail cache.
    pub cache_bytes: u64,
    /// Reads served from the cache.
    pub cache_hits: u64,
    /// Reads served from disk.
    pub cache_misses: u64,
    /// Bytes written to the log, headers and padding included.
    pub log_bytes_written: u64,
    /// Bytes of the log's segment files.
    pub disk_bytes: u64,
}

/// Figures of one core.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct CoreStats {
    /// The core.
    pub core: CoreId,
    /// Messages to other cores that wait for an answer.
    pub mailbox_depth: u64,
    /// Memory of the process in bytes (the same on every core).
    pub memory_bytes: u64,
    /// The memory budget of the process in bytes.
    pub memory_budget_bytes: u64,
    /// Open connections, as the gateways report them.
    pub connections: u64,
    /// Its shards.
    pub shards: Vec<ShardStats>,
}
