//! The opcodes: which request a frame carries. Numbers are for ever; a retired one is not reused.

/// Set in the opcode of a reply: `reply = request | REPLY_BIT`.
pub(crate) const REPLY_BIT: u16 = 0x8000;

/// What a frame asks for. The low 15 bits of the frame's opcode field.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u16)]
pub enum Opcode {
    /// Handshake: the first frame of a connection, and only the first.
    Hello = 1,
    /// Nothing: shows that the peer is alive.
    Ping = 2,
    /// Topics, partitions and where their leaders listen.
    Metadata = 3,
    /// Counters per core and shard.
    Stats = 4,
    /// Append one batch to one partition.
    Produce = 16,
    /// Read batches of one partition.
    Fetch = 17,
    /// An offset by position or time.
    ListOffset = 18,
    /// A producer id for idempotent appends.
    InitProducer = 19,
    /// Store one batch until its records are due.
    ProduceDelayed = 20,
    /// Cancel or move delayed records.
    DelayChange = 21,
    /// The delayed records of a partition.
    DelayList = 22,
    /// To be the one producer of a topic whose order is global.
    ProducerClaim = 23,
    /// Make a topic.
    TopicCreate = 32,
    /// Change a topic.
    TopicAlter = 33,
    /// Remove a topic and its records.
    TopicDelete = 34,
    /// All topics.
    TopicList = 35,
    /// One topic with the state of its partitions.
    TopicDescribe = 36,
    /// Members, shards, and how they are.
    ClusterDescribe = 48,
    /// Change who is a member, or who holds and leads what.
    ClusterChange = 49,
    /// Make a group of a topic.
    GroupCreate = 64,
    /// Change a group.
    GroupAlter = 65,
    /// Remove a group.
    GroupDelete = 66,
    /// The groups of a topic.
    GroupList = 67,
    /// Lease records of one partition.
    QueueReceive = 80,
    /// Settle leases.
    QueueSettle = 81,
    /// What could be leased, without leasing it.
    QueuePeek = 82,
    /// Move what a group has before it.
    QueueSeek = 83,
    /// How many records wait for what.
    QueueCounts = 84,
    /// A member comes to a stream group, or is there.
    StreamHeartbeat = 96,
    /// A member goes.
    StreamLeave = 97,
    /// Store offsets.
    StreamCommit = 98,
    /// Stored offsets.
    StreamOffsets = 99,
    /// Set offsets, back or forth.
    StreamReset = 100,
    /// Members and offsets of a stream group.
    StreamDescribe = 101,
}

/// Every opcode, in order of its number.
pub const OPCODES: [Opcode; 34] = [
    Opcode::Hello,
    Opcode::Ping,
    Opcode::Metadata,
    Opcode::Stats,
    Opcode::Produce,
    Opcode::Fetch,
    Opcode::ListOffset,
    Opcode::InitProducer,
    Opcode::ProduceDelayed,
    Opcode::DelayChange,
    Opcode::DelayList,
    Opcode::ProducerClaim,
    Opcode::TopicCreate,
    Opcode::TopicAlter,
    Opcode::TopicDelete,
    Opcode::TopicList,
    Opcode::TopicDescribe,
    Opcode::ClusterDescribe,
    Opcode::ClusterChange,
    Opcode::GroupCreate,
    Opcode::GroupAlter,
    Opcode::GroupDelete,
    Opcode::GroupList,
    Opcode::QueueReceive,
    Opcode::QueueSettle,
    Opcode::QueuePeek,
    Opcode::QueueSeek,
    Opcode::QueueCounts,
    Opcode::StreamHeartbeat,
    Opcode::StreamLeave,
    Opcode::StreamCommit,
    Opcode::StreamOffsets,
    Opcode::StreamReset,
    Opcode::StreamDescribe,
];

impl Opcode {
    /// The version of this request that this build speaks.
    pub const VERSION: u16 = 1;

    /// The opcode of a request frame, or `None` for a number this build does not know.
    #[must_use]
    pub fn from_request(code: u16) -> Option<Self> {
        OPCODES.into_iter().find(|opcode| opcode.request_code() == code)
    }

    /// The opcode of a reply frame, or `None` when it is none.
    #[must_use]
    pub fn from_reply(code: u16) -> Option<Self> {
        if code & REPLY_BIT == 0 {
            return None;
        }
        Self::from_request(code & !REPLY_BIT)
    }

    /// The number a request frame carries.
    #[must_use]
    pub const fn request_code(self) -> u16 {
        self as u16
    }

    /// The number a reply frame carries.
    #[must_use]
    pub const fn reply_code(self) -> u16 {
        self as u16 | REPLY_BIT
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_opcode_comes_back_from_its_number() {
        for opcode in OPCODES {
            assert_eq!(Opcode::from_request(opcode.request_code()), Some(opcode));
            assert_eq!(Opcode::from_reply(opcode.reply_code()), Some(opcode));
            assert_eq!(Opcode::from_request(opcode.reply_code()), None);
        }
        assert_eq!(Opcode::from_request(0), None);
        assert_eq!(Opcode::from_request(0x7fff), None);
    }
}
