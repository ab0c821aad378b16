//! Stream groups: heartbeat, leave, commit, offsets, reset, describe; each asked of the group's
//! coordinator. Any node says who that is: it answers `NotLeader` with a hint.

use barrage_model::{GroupId, Offset, PartitionId, PartitionKey, TopicId};
use bytes::BytesMut;

use crate::field::{DecodeError, Field, Reader, fields};

/// A member of a stream group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StreamMember {
    /// Its id, 1 to 256 bytes, drawn once by whoever joins; empty with a join, and the coordinator
    /// draws one. Who draws its own may send its join again.
    pub id: String,
    /// The place it keeps from one run to the next: 1 to 256 bytes.
    pub instance: Option<String>,
}
fields!(StreamMember { id, instance });

/// How partitions are shared out.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Assignor {
    /// Even, with as few moves as can be.
    #[default]
    Sticky,
    /// Neighbours go together, topic by topic.
    Range,
    /// One after the other.
    RoundRobin,
}

impl Field for Assignor {
    fn put(&self, out: &mut BytesMut) {
        let code: u8 = match self {
            Self::Sticky => 0,
            Self::Range => 1,
            Self::RoundRobin => 2,
        };
        code.put(out);
    }

    fn take(reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
        match reader.take::<u8>()? {
            0 => Ok(Self::Sticky),
            1 => Ok(Self::Range),
            2 => Ok(Self::RoundRobin),
            value => Err(DecodeError::BadTag { what: "assignor", value: u32::from(value) }),
        }
    }

    fn size_min() -> usize {
        1
    }
}

/// What a member reads.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StreamReads {
    /// Topics of the group; none means all that it has now.
    pub topics: Vec<TopicId>,
    /// How it wants partitions shared out; the majority decides.
    pub assignor: Assignor,
}
fields!(StreamReads { topics, assignor });

/// What a member says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StreamBeat {
    /// It becomes a member.
    Join {
        /// What it reads.
        reads: StreamReads,
        /// Not heard of for so many milliseconds it is gone; 0 takes the default of 45 s.
        session_ms: u64,
        /// So many milliseconds it may take to give partitions up; 0 takes the default of 5 min.
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

impl Field for StreamBeat {
    fn put(&self, out: &mut BytesMut) {
        match self {
            Self::Join { reads, session_ms, rebalance_ms } => {
                0_u8.put(out);
                reads.put(out);
                session_ms.put(out);
                rebalance_ms.put(out);
            }
            Self::Stay { generation, held, reads } => {
                1_u8.put(out);
                generation.put(out);
                held.put(out);
                reads.put(out);
            }
        }
    }

    fn take(reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
        match reader.take::<u8>()? {
            0 => {
                let reads = reader.take()?;
                let (session_ms, rebalance_ms) = (reader.take()?, reader.take()?);
                Ok(Self::Join { reads, session_ms, rebalance_ms })
            }
            1 => {
                let generation = reader.take()?;
                let (held, reads) = (reader.take()?, reader.take()?);
                Ok(Self::Stay { generation, held, reads })
            }
            value => Err(DecodeError::BadTag { what: "beat", value: u32::from(value) }),
        }
    }

    fn size_min() -> usize {
        1
    }
}

/// A heartbeat; the first one makes a member.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StreamHeartbeat {
    /// Which group.
    pub group: GroupId,
    /// Who speaks.
    pub member: StreamMember,
    /// What it says.
    pub beat: StreamBeat,
}
fields!(StreamHeartbeat { group, member, beat });

/// What a member is told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StreamHeartbeatReply {
    /// Its id.
    pub member: String,
    /// It bears this in what it says next.
    pub generation: u32,
    /// What it may read: this and nothing else.
    pub own: Vec<PartitionKey>,
    /// What it stops reading: it may still commit it, then a heartbeat says what it holds, without
    /// it.
    pub give_up: Vec<PartitionKey>,
    /// When it should be heard of next, in milliseconds.
    pub interval_ms: u32,
}
fields!(StreamHeartbeatReply { member, generation, own, give_up, interval_ms });

/// A member goes. The reply is empty.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StreamLeave {
    /// Which group.
    pub group: GroupId,
    /// Who goes.
    pub member: StreamMember,
}
fields!(StreamLeave { group, member });

/// How far a partition has been read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StreamOffset {
    /// Which partition.
    pub key: PartitionKey,
    /// The next record to read.
    pub offset: Offset,
    /// The epoch of the leader that the last record was read from, if it is told.
    pub leader_epoch: Option<u32>,
    /// The member's own: 4 KiB at most.
    pub metadata: String,
}
fields!(StreamOffset { key, offset, leader_epoch, metadata });

/// Who stores offsets: a member in a generation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StreamCommitter {
    /// Who.
    pub member: StreamMember,
    /// The generation that it was told last.
    pub generation: u32,
}
fields!(StreamCommitter { member, generation });

/// Store offsets. Answered for each when it is durable; may be sent again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StreamCommit {
    /// Which group.
    pub group: GroupId,
    /// `None` for somebody who is no member, while the group has none.
    pub committer: Option<StreamCommitter>,
    /// What is stored, 1,000 at most.
    pub offsets: Vec<StreamOffset>,
}
fields!(StreamCommit { group, committer, offsets });

/// What became of one offset.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stored {
    /// It is stored.
    Done,
    /// The partition is not the member's.
    NotOwner,
    /// The group is further; only a reset goes back.
    Behind {
        /// What is stored, and stays.
        stored: Offset,
    },
    /// The group does not read this partition.
    UnknownPartition,
    /// No record can have this offset.
    OutOfRange,
    /// The metadata is too long.
    MetadataTooLong,
    /// The group stores no more.
    Full,
}

impl Field for Stored {
    fn put(&self, out: &mut BytesMut) {
        let code: u8 = match self {
            Self::Done => 0,
            Self::NotOwner => 1,
            Self::Behind { .. } => 2,
            Self::UnknownPartition => 3,
            Self::OutOfRange => 4,
            Self::MetadataTooLong => 5,
            Self::Full => 6,
        };
        code.put(out);
        if let Self::Behind { stored } = self {
            stored.put(out);
        }
    }

    fn take(reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
        match reader.take::<u8>()? {
            0 => Ok(Self::Done),
            1 => Ok(Self::NotOwner),
            2 => Ok(Self::Behind { stored: reader.take()? }),
            3 => Ok(Self::UnknownPartition),
            4 => Ok(Self::OutOfRange),
            5 => Ok(Self::MetadataTooLong),
            6 => Ok(Self::Full),
            value => Err(DecodeError::BadTag { what: "result", value: u32::from(value) }),
        }
    }

    fn size_min() -> usize {
        1
    }
}

/// What became of each, in the order of the request. Of a reset, too.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StreamStoredReply {
    /// One per offset.
    pub results: Vec<Stored>,
}
fields!(StreamStoredReply { results });

/// Ask for stored offsets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StreamOffsets {
    /// Which group.
    pub group: GroupId,
    /// Which partitions, 1,000 at most.
    pub keys: Vec<PartitionKey>,
}
fields!(StreamOffsets { group, keys });

/// They; partitions without one are left out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StreamOffsetsReply {
    /// In the order of the request.
    pub offsets: Vec<StreamOffset>,
}
fields!(StreamOffsetsReply { offsets });

/// Where a group goes on in a partition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ResetTo {
    /// Which partition.
    pub key: PartitionKey,
    /// The next record to read.
    pub offset: Offset,
}
fields!(ResetTo { key, offset });

/// Set offsets, back or forth, while the group has no members. Answered with a
/// [`StreamStoredReply`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StreamReset {
    /// Which group.
    pub group: GroupId,
    /// Where it goes on, 1,000 partitions at most.
    pub to: Vec<ResetTo>,
}
fields!(StreamReset { group, to });

/// A group, as far as it concerns one of its topics.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StreamDescribe {
    /// Which group.
    pub group: GroupId,
    /// Which topic.
    pub topic: TopicId,
}
fields!(StreamDescribe { group, topic });

/// How a group stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// Nobody is in it.
    Empty,
    /// Partitions are to be shared out.
    Assigning,
    /// Partitions move.
    Reconciling,
    /// Members of the Kafka protocol meet.
    Joining,
    /// One of them shares partitions out.
    Syncing,
    /// Everybody has what it is to have.
    Stable,
}

impl Standing {
    /// In words.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Empty => "empty",
            Self::Assigning => "assigning",
            Self::Reconciling => "reconciling",
            Self::Joining => "joining",
            Self::Syncing => "syncing",
            Self::Stable => "stable",
        }
    }
}

impl Field for Standing {
    fn put(&self, out: &mut BytesMut) {
        let code: u8 = match self {
            Self::Empty => 0,
            Self::Assigning => 1,
            Self::Reconciling => 2,
            Self::Joining => 3,
            Self::Syncing => 4,
            Self::Stable => 5,
        };
        code.put(out);
    }

    fn take(reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
        match reader.take::<u8>()? {
            0 => Ok(Self::Empty),
            1 => Ok(Self::Assigning),
            2 => Ok(Self::Reconciling),
            3 => Ok(Self::Joining),
            4 => Ok(Self::Syncing),
            5 => Ok(Self::Stable),
            value => Err(DecodeError::BadTag { what: "standing", value: u32::from(value) }),
        }
    }

    fn size_min() -> usize {
        1
    }
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
fields!(StreamMemberDescription { member, generation, own, give_up });

/// An offset of a topic's partition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PartitionOffset {
    /// Which partition.
    pub partition: PartitionId,
    /// The next record to read.
    pub offset: Offset,
}
fields!(PartitionOffset { partition, offset });

/// The group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StreamDescription {
    /// The number of the last assignment.
    pub generation: u32,
    /// How it stands.
    pub standing: Standing,
    /// Its members, by id.
    pub members: Vec<StreamMemberDescription>,
    /// What is stored of the topic's partitions.
    pub offsets: Vec<PartitionOffset>,
}
fields!(StreamDescription { generation, standing, members, offsets });
