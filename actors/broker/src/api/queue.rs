//! What is asked of queue groups, and what they answer.

use barrage_model::{GroupId, GroupName, Offset, PartitionKey, QueueSettings, TopicName};
use barrage_world::Instant;
use thiserror::Error;

use super::{ErrorClass, FetchError, FetchedBytes, Leader};

/// A group as the catalog knows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GroupInfo {
    /// Its name.
    pub name: GroupName,
    /// Its id, never used again after it is deleted.
    pub id: GroupId,
    /// What it is.
    pub kind: GroupKind,
    /// Log time of its creation in milliseconds since 1970.
    pub created_ms: i64,
}

/// How the readers of a group share work.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum GroupKind {
    /// Each record is leased, then settled alone.
    Queue(QueueSettings),
    /// Each partition is read by one member, and an offset is stored for it.
    Stream {
        /// All of its topics.
        topics: Vec<TopicName>,
    },
}

impl GroupInfo {
    /// What a queue group does with records.
    pub fn settings(&self) -> Option<&QueueSettings> {
        match &self.kind {
            GroupKind::Queue(settings) => Some(settings),
            GroupKind::Stream { .. } => None,
        }
    }
}

/// A queue group to be made.
#[derive(Clone, Debug)]
pub struct GroupSpec {
    /// Its name.
    pub name: GroupName,
    /// What it does with records.
    pub settings: QueueSettings,
    /// It begins at the end of the partitions, not at their start.
    pub at_end: bool,
}

/// Lease records of one partition; waits for them if there are none.
#[derive(Clone, Debug)]
pub struct ReceiveRequest {
    /// The partition.
    pub key: PartitionKey,
    /// The group.
    pub group: GroupId,
    /// How many records at most; 0 only waits until one could be had.
    pub count_max: u32,
    /// How many bytes of batches at most; one batch is always returned.
    pub bytes_max: usize,
    /// How long the records are leased, in milliseconds; the group's settings say so for `None`.
    pub visibility_ms: Option<u64>,
    /// Until when to wait for the first record.
    pub wait_until: Instant,
}

/// A lease that was granted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lease {
    /// The record.
    pub offset: Offset,
    /// With the offset its receipt: which lease it is.
    pub tag: u32,
    /// Times the record was delivered, this one counted.
    pub deliveries: u16,
    /// When it was first delivered, milliseconds since 1970.
    pub first_ms: u64,
    /// How long the lease lasts from now on, in milliseconds.
    pub left_ms: u64,
}

/// Records that were leased.
#[derive(Clone, Debug, Default)]
pub struct Received {
    /// The leases, by offset.
    pub leases: Vec<Lease>,
    /// Whole batches that hold these records, beside others; in offset order.
    pub batches: Vec<FetchedBytes>,
    /// Whether more could be had at once; without a lease, that the records looked at so far are
    /// not what the group's filter lets through, and that there are more.
    pub more: bool,
}

/// What becomes of a leased record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Settlement {
    /// It is done.
    Ack,
    /// It is given back, for a delay in milliseconds or that of the group's settings.
    Nack {
        /// The delay.
        delay_ms: Option<u64>,
    },
    /// It is wanted for so many milliseconds from now on.
    Extend {
        /// How long.
        visibility_ms: u64,
    },
    /// Nobody has looked at it: it is given back as if it had not been delivered.
    Release,
}

/// Settles leases of one partition, all alike.
#[derive(Clone, Debug)]
pub struct SettleRequest {
    /// The partition.
    pub key: PartitionKey,
    /// The group.
    pub group: GroupId,
    /// Offset and tag of each.
    pub receipts: Vec<(Offset, u32)>,
    /// What becomes of them.
    pub settlement: Settlement,
}

/// Why a receipt does nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum ReceiptError {
    /// The record is done, by this receipt or another, or is no longer kept.
    #[error("the record is settled")]
    Settled,
    /// Its lease is over, or was given back.
    #[error("the record is not leased any more")]
    NotLeased,
    /// Somebody else has it now.
    #[error("the record was leased again since")]
    Stale,
    /// Nobody has ever leased it.
    #[error("the record was never leased")]
    NeverLeased,
}

/// Moves what a group has before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Seek {
    /// Everything from this offset on is delivered again, settled or not.
    Rewind(Offset),
    /// Everything before this offset is done with.
    Skip(Offset),
}

/// How many records of a partition wait for what.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct QueueCounts {
    /// The oldest record that is not done with.
    pub start: Offset,
    /// May be leased now. Where the group has a filter this is an upper bound: of those that were
    /// never leased nobody may have looked which are wanted.
    pub visible: u64,
    /// Leased to somebody.
    pub leased: u64,
    /// Given back, and not due yet.
    pub delayed: u64,
    /// On their way to the dead-letter topic.
    pub dying: u64,
}

/// Why a request to a queue group was not carried out.
#[derive(Clone, Debug, Error)]
pub enum QueueError {
    /// No such topic or partition (or not open yet).
    #[error("unknown topic or partition")]
    UnknownPartition,
    /// No such group (or not open yet in that partition).
    #[error("unknown group")]
    UnknownGroup,
    /// The shard is led elsewhere.
    #[error("this node does not lead the partition")]
    NotLeader {
        /// Where it is led, if known.
        hint: Option<Leader>,
    },
    /// The request makes no sense.
    #[error("{reason}")]
    Invalid {
        /// What is wrong with it.
        reason: String,
    },
    /// A delayed record was to be moved to an instant that is over.
    #[error("{due_ms} is over: it is {now_ms} (milliseconds since 1970); move it to now instead")]
    DelayIsOver {
        /// The instant, milliseconds since 1970.
        due_ms: u64,
        /// What time it is.
        now_ms: u64,
    },
    /// Records were leased and cannot be read; they come back when their leases are over.
    #[error(transparent)]
    Read(FetchError),
    /// Too much waits for that shard or core.
    #[error("queue full")]
    QueueFull,
    /// The disk has no room.
    #[error("disk full")]
    DiskFull,
    /// Whether it was carried out is not known.
    #[error("timed out, outcome unknown")]
    Timeout,
    /// The shard's log has failed; the process is about to exit.
    #[error("the shard has failed")]
    Poisoned,
    /// The node is shutting down.
    #[error("shutting down")]
    ShuttingDown,
}

impl QueueError {
    /// What the caller should do about it.
    pub fn class(&self) -> ErrorClass {
        match self {
            Self::Invalid { .. } | Self::DelayIsOver { .. } => ErrorClass::Caller,
            Self::UnknownPartition | Self::UnknownGroup | Self::NotLeader { .. } => {
                ErrorClass::NotHere
            }
            Self::Read(error) => error.class(),
            Self::QueueFull | Self::DiskFull | Self::Timeout | Self::ShuttingDown => {
                ErrorClass::Retry
            }
            Self::Poisoned => ErrorClass::Fatal,
        }
    }
}

impl From<FetchError> for QueueError {
    fn from(error: FetchError) -> Self {
        match error {
            FetchError::UnknownPartition => Self::UnknownPartition,
            FetchError::NotLeader { hint } => Self::NotLeader { hint },
            FetchError::QueueFull => Self::QueueFull,
            FetchError::ShuttingDown => Self::ShuttingDown,
            other => Self::Read(other),
        }
    }
}
