//! What nodes ask each other beside the messages of their Raft groups.
//!
//! Owns: requests and answers, free of bytes; those are in `format::message`.
//! Must never: carry what only a committed command may decide.

use barrage_model::{NodeId, Offset, PartitionKey, ProducerId, Sequence, TopicId};
use bytes::Bytes;

use crate::beacon::Beacon;

/// A question from one node to another.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Message {
    /// What the sender tells about itself.
    Beacon(Beacon),
    /// A command for the catalog, for the node that leads it: bytes of `Command`.
    Propose(Bytes),
    /// Where these partitions begin and end; for the node that leads them, all of one shard.
    Describe(Vec<PartitionKey>),
    /// A batch for a partition, for the node that leads it: what moves on its own between topics.
    Append {
        /// The partition.
        key: PartitionKey,
        /// One whole batch of an idempotent producer.
        batch: Bytes,
    },
}

/// What became of an [`Message::Append`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Appended {
    /// The batch lies in the partition, once.
    Stored,
    /// The partition misses what came before, or has more than that: it expects this sequence. None
    /// where it does not know the producer.
    OutOfSequence {
        /// The next one.
        expected: Option<Sequence>,
    },
    /// Not now, or not here; it may have been stored.
    NotNow,
}

/// Where a partition begins and ends, and how much it holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bounds {
    /// First offset held.
    pub start_offset: Offset,
    /// Exclusive end of what may be read.
    pub high_watermark: Offset,
    /// Bytes held.
    pub bytes: u64,
}

/// What a command led to, as the node that asked for it needs to know.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Outcome {
    /// Done.
    Done,
    /// The topic made or changed.
    Topic(TopicId),
    /// A block of producer ids.
    Producers {
        /// The first.
        first: ProducerId,
        /// How many.
        count: u32,
    },
    /// The node that joined.
    Node(NodeId),
}

/// An answer.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Answer {
    /// The beacon was heard.
    Heard,
    /// The command is committed and applied.
    Proposed {
        /// The catalog's revision after it, at least.
        revision: u64,
        /// What it led to.
        outcome: Outcome,
    },
    /// Per partition asked for; `None` for one that is not led there.
    Described(Vec<Option<Bounds>>),
    /// What became of a batch.
    Appended(Appended),
    /// There is no outcome: a code that the sender knows, which also says whether the command may
    /// be carried out yet, and why.
    Refused {
        /// Which kind of refusal.
        code: u8,
        /// In words, where the code alone does not say it.
        reason: String,
    },
}
