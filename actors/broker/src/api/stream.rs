//! What is asked of stream groups, and what they answer.
//!
//! A group is asked at its coordinator: whoever leads the shard that the catalog has given it.

use barrage_model::{GroupId, Offset, PartitionId, PartitionKey, TopicId};
use thiserror::Error;

use super::queue::QueueError;
use super::{ErrorClass, Leader};
use crate::group::refused::{NotStored, Refused};

pub use crate::group::assignment::Assignor;
pub use crate::group::stream::Standing;

/// Offsets that one request stores, sets or asks for, at most.
pub const OFFSETS_PER_REQUEST_MAX: usize = 1_000;

/// Who speaks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StreamMember {
    /// Its id: 1 to 256 bytes, never another one's. Who joins without one is given one; who chooses
    /// its own may say that it joins twice, and is one member all the same.
    pub id: String,
    /// The place that it keeps from one run to the next: 1 to 256 bytes.
    pub instance: Option<String>,
}

/// What a member wants to read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StreamReads {
    /// Topics of the group; none means all it has now.
    pub topics: Vec<TopicId>,
    /// How it wants partitions shared out; the majority of the members decides.
    pub assignor: Assignor,
}

/// What a member says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StreamBeat {
    /// It becomes a member.
    Join {
        /// What it reads.
        reads: StreamReads,
        /// Not heard of for so long it is gone; 0 takes the default.
        session_ms: u64,
        /// So long it may take to give partitions up; 0 takes the default.
        rebalance_ms: u64,
    },
    /// It is there.
    Stay {
        /// The generation that it was told last.
        generation: u32,
        /// The partitions that it has, all of them; `None` says nothing about that.
        held: Option<Vec<PartitionKey>>,
        /// What it reads from now on, if that changes.
        reads: Option<StreamReads>,
    },
}

/// A heartbeat, the first of which makes a member.
#[derive(Clone, Debug)]
pub struct HeartbeatRequest {
    /// The group.
    pub group: GroupId,
    /// Who speaks.
    pub member: StreamMember,
    /// What it says.
    pub beat: StreamBeat,
}

/// What a member is told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Heartbeat {
    /// Its id.
    pub member: String,
    /// It bears this in what it says next.
    pub generation: u32,
    /// What it may read: this and nothing else.
    pub own: Vec<PartitionKey>,
    /// What it stops reading: it may still commit it, then says that it has it no more.
    pub give_up: Vec<PartitionKey>,
    /// When it should be heard of next, in milliseconds.
    pub interval_ms: u32,
}

/// How far a partition has been read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StreamOffset {
    /// The partition.
    pub key: PartitionKey,
    /// The next record to read.
    pub offset: Offset,
    /// The epoch of the leader that the last record was read from, if it is told.
    pub leader_epoch: Option<u32>,
    /// The member's own: 4 KiB at most.
    pub metadata: String,
}

/// Stores offsets, each for itself.
#[derive(Clone, Debug)]
pub struct CommitRequest {
    /// The group.
    pub group: GroupId,
    /// The member and its generation; `None` for somebody who reads without being a member, while
    /// there are none.
    pub committer: Option<(StreamMember, u32)>,
    /// What is stored.
    pub offsets: Vec<StreamOffset>,
}

/// Why the offset of one partition is not stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum CommitError {
    /// The partition is not the member's.
    #[error("the partition is not this member's")]
    NotOwner,
    /// Only a reset goes back.
    #[error("the group is already at offset {stored}")]
    Behind {
        /// What is stored, and stays.
        stored: Offset,
    },
    /// The group does not read this partition.
    #[error("the group does not read this partition")]
    UnknownPartition,
    /// No record can have this offset.
    #[error("no record can have this offset")]
    OutOfRange,
    /// The metadata beside the offset is too long.
    #[error("the metadata is too long: at most 4 KiB")]
    MetadataTooLong,
    /// More partitions or metadata than a group may store.
    #[error("the group stores no more offsets")]
    Full,
}

/// A group with one of its topics.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StreamDescription {
    /// The number of the last assignment.
    pub generation: u32,
    /// How it stands.
    pub standing: Standing,
    /// Its members, by id.
    pub members: Vec<StreamMemberDescription>,
    /// What is stored of the topic's partitions.
    pub offsets: Vec<(PartitionId, Offset)>,
}

/// A member with its partitions of one topic.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StreamMemberDescription {
    /// Who it is.
    pub member: StreamMember,
    /// The last assignment that it knows.
    pub generation: u32,
    /// What it reads.
    pub own: Vec<PartitionId>,
    /// What it is to give up, and has not yet.
    pub give_up: Vec<PartitionId>,
}

/// Why a request to a stream group was not carried out.
#[derive(Clone, Debug, Error)]
pub enum StreamError {
    /// No such stream group (or not open yet).
    #[error("unknown group")]
    UnknownGroup,
    /// The group is not of this topic.
    #[error("the group is not of topic {topic}")]
    UnknownTopic {
        /// Which one.
        topic: TopicId,
    },
    /// The group is coordinated elsewhere.
    #[error("this node does not coordinate the group")]
    NotLeader {
        /// Where it is, if known.
        hint: Option<Leader>,
    },
    /// It never joined, left, or its session is over.
    #[error("the group does not know this member")]
    UnknownMember,
    /// Somebody came under the name of its instance.
    #[error("another member has the place of this instance")]
    Fenced,
    /// What it says belongs to an assignment that is over.
    #[error("this is not the generation of the member")]
    StaleGeneration,
    /// Only a group without members is changed from outside.
    #[error("the group has members")]
    HasMembers,
    /// Its members speak a protocol in which they share partitions out by themselves.
    #[error("the group has members of another protocol")]
    OtherProtocol,
    /// Members, names or partitions beyond what a group may have.
    #[error("the group is full")]
    Full,
    /// The request makes no sense.
    #[error("{reason}")]
    Invalid {
        /// What is wrong with it.
        reason: String,
    },
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

impl StreamError {
    /// What the caller should do about it.
    pub fn class(&self) -> ErrorClass {
        match self {
            Self::UnknownMember
            | Self::Fenced
            | Self::StaleGeneration
            | Self::HasMembers
            | Self::OtherProtocol
            | Self::Full
            | Self::Invalid { .. } => ErrorClass::Caller,
            Self::UnknownGroup | Self::UnknownTopic { .. } | Self::NotLeader { .. } => {
                ErrorClass::NotHere
            }
            Self::QueueFull | Self::DiskFull | Self::Timeout | Self::ShuttingDown => {
                ErrorClass::Retry
            }
            Self::Poisoned => ErrorClass::Fatal,
        }
    }
}

impl From<Refused> for StreamError {
    fn from(refused: Refused) -> Self {
        match refused {
            Refused::UnknownMember => Self::UnknownMember,
            Refused::Fenced => Self::Fenced,
            Refused::StaleGeneration | Refused::Rebalancing => Self::StaleGeneration,
            Refused::OtherWay | Refused::NoCommonProtocol => Self::OtherProtocol,
            Refused::HasMembers => Self::HasMembers,
            Refused::Full => Self::Full,
            Refused::TooLarge => Self::Invalid { reason: refused.to_string() },
        }
    }
}

/// What operations on groups of both kinds may meet.
impl From<QueueError> for StreamError {
    fn from(error: QueueError) -> Self {
        match error {
            QueueError::UnknownPartition | QueueError::UnknownGroup => Self::UnknownGroup,
            QueueError::NotLeader { hint } => Self::NotLeader { hint },
            QueueError::Invalid { reason } => Self::Invalid { reason },
            QueueError::Read(_) | QueueError::DelayIsOver { .. } => {
                Self::Invalid { reason: error.to_string() }
            }
            QueueError::QueueFull => Self::QueueFull,
            QueueError::DiskFull => Self::DiskFull,
            QueueError::Timeout => Self::Timeout,
            QueueError::Poisoned => Self::Poisoned,
            QueueError::ShuttingDown => Self::ShuttingDown,
        }
    }
}

impl From<NotStored> for CommitError {
    fn from(refused: NotStored) -> Self {
        match refused {
            NotStored::NotOwner => Self::NotOwner,
            NotStored::Behind { stored } => Self::Behind { stored },
            NotStored::UnknownPartition => Self::UnknownPartition,
            NotStored::OutOfRange => Self::OutOfRange,
            NotStored::MetadataTooLong => Self::MetadataTooLong,
            NotStored::Full => Self::Full,
        }
    }
}
