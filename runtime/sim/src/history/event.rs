//! What can happen in a history.
//!
//! ```text
//!            +-- Ok    it took effect, and this was the answer
//!   Invoke --+-- Fail  it certainly took no effect, and never will
//!            +-- Info  nobody knows; it may still take effect later. No completion means the same.
//!
//!   Note     an observation that is no answer to a call
//! ```
//!
//! Owns: the vocabulary, and with it the lines of a history file. Every word is here because a
//! rule reads it. Must never: hold a record's bytes, or anything that only one protocol has.
//!
//! Invariants: events stand in the order in which they happened, by one clock; an `Invoke` stands
//! before everything that the call caused, its completion after it.

use std::time::Duration;

use barrage_model::{
    LogIndex, NodeId, Offset, PartitionId, ProducerEpoch, ProducerId, Sequence, Term,
};
use serde::{Deserialize, Serialize};

use super::name::{Call, Fingerprint, Key, Name, Nanos, StateHash, plain};

/// Something that happened.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Event {
    /// When.
    pub at: Nanos,
    /// What.
    pub what: What,
}

/// The kinds of events.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum What {
    /// A client begins a call.
    Invoke {
        /// The call.
        call: Call,
        /// Who.
        client: Name,
        /// What is asked for.
        operation: Operation,
    },
    /// The call was answered.
    Ok {
        /// The call.
        call: Call,
        /// What came back.
        answer: Answer,
    },
    /// The call was refused and took no effect.
    Fail {
        /// The call.
        call: Call,
        /// The error, for the reader of a report.
        reason: Name,
    },
    /// The call ended and its effect is unknown.
    Info {
        /// The call.
        call: Call,
        /// The error, for the reader of a report.
        reason: Name,
    },
    /// An observation.
    Note(Note),
}

/// What a client asks for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Operation {
    /// Append records.
    Send(SendBatch),
    /// Read a partition.
    Read(ReadFrom),
    /// Become a member of a group.
    Join {
        /// The group.
        group: Name,
    },
    /// Store a group's offset.
    Commit(CommitOffset),
    /// Ask for a group's stored offset.
    Committed {
        /// The group.
        group: Name,
        /// Where.
        place: Place,
    },
    /// Set a group's offset to any value, by an administrator's command.
    Reset {
        /// The group.
        group: Name,
        /// Where.
        place: Place,
        /// The value.
        #[serde(with = "plain")]
        offset: Offset,
    },
    /// Lease records of a topic through a queue group.
    Take(TakeLease),
    /// Say what becomes of a leased record.
    Settle(SettleLease),
    /// Say that a member of a stream group is there, and hear what it is to read.
    Beat(MemberBeat),
    /// Be a member of a stream group no more.
    Leave {
        /// The group.
        group: Name,
    },
    /// Cancel or move a delayed record that waits.
    Delay(ChangeDelay),
    /// Be the one producer of a partition, or be it no more.
    Claim(Claim),
}

/// What came back.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Answer {
    /// To a send: the records are durable.
    Sent(SentAt),
    /// To a read.
    Read(ReadOut),
    /// To a join: the generation the member belongs to.
    Joined {
        /// The generation.
        generation: u32,
    },
    /// To the question for a stored offset; none when nothing is stored.
    Committed {
        /// The offset.
        #[serde(with = "plain::option")]
        offset: Option<Offset>,
    },
    /// To a take: what was leased.
    Taken(Vec<Taken>),
    /// To a commit, a reset, a settlement, a leave, a change of a delay or a claim: done.
    Done,
    /// To a heartbeat: what the member has.
    Told(Told),
    /// To a heartbeat: the group does not know the member.
    NoMember,
}

/// A partition of a topic. A topic made again under the same name needs another name here.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Place {
    /// The topic.
    pub topic: Name,
    /// The partition.
    #[serde(with = "plain")]
    pub partition: PartitionId,
}

impl Place {
    /// A partition of a topic.
    #[must_use]
    pub fn new(topic: &Name, partition: PartitionId) -> Self {
        Self { topic: topic.clone(), partition }
    }
}

/// Append records to one partition: all of them side by side, or none.
///
/// Sending again is the same send: the same records, the same identity, a call of its own. A
/// message that goes out under another identity needs another value, hence another fingerprint.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SendBatch {
    /// The topic.
    pub topic: Name,
    /// The partition; none when the broker chooses.
    #[serde(with = "plain::option")]
    pub partition: Option<PartitionId>,
    /// What the broker recognises a repetition by.
    pub identity: Identity,
    /// The client's connection, where the protocol keeps the order of what one connection sends
    /// to one partition.
    pub connection: Option<u32>,
    /// The records, at least one.
    pub records: Vec<SentRecord>,
    /// From when on each of them may be had, by the clock of this history; none of it where all may
    /// be had at once. It counts when it is sent for the first time.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub dues: Vec<Nanos>,
}

/// How often a send may end up in the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Identity {
    /// Once, however often it is sent: it carries an idempotent producer's numbers.
    Stamped(Stamp),
    /// At most as often as there are calls.
    Once,
    /// Any number of times: the client's library repeats it on its own.
    Repeating,
}

/// An idempotent producer's numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Stamp {
    /// The producer.
    #[serde(with = "plain")]
    pub producer: ProducerId,
    /// Its generation.
    #[serde(with = "plain")]
    pub epoch: ProducerEpoch,
    /// The number of the first record within the partition.
    #[serde(with = "plain")]
    pub sequence: Sequence,
}

/// A record on its way in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "(Fingerprint, Option<Key>)", into = "(Fingerprint, Option<Key>)")]
pub struct SentRecord {
    /// What it says.
    pub fingerprint: Fingerprint,
    /// Its key, if any.
    pub key: Option<Key>,
}

impl From<(Fingerprint, Option<Key>)> for SentRecord {
    fn from((fingerprint, key): (Fingerprint, Option<Key>)) -> Self {
        Self { fingerprint, key }
    }
}

impl From<SentRecord> for (Fingerprint, Option<Key>) {
    fn from(record: SentRecord) -> Self {
        (record.fingerprint, record.key)
    }
}

/// Where records were appended, as far as the protocol tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SentAt {
    /// The partition.
    #[serde(with = "plain::option")]
    pub partition: Option<PartitionId>,
    /// Offset of the first record.
    #[serde(with = "plain::option")]
    pub base: Option<Offset>,
}

/// Read records of one partition.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ReadFrom {
    /// Where.
    pub place: Place,
    /// The first offset wanted; none means to go on where this client's last such read ended.
    #[serde(with = "plain::option")]
    pub from: Option<Offset>,
}

/// What was read: everything from the offset asked for up to the last record here.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ReadOut {
    /// The first offset there is, if told.
    #[serde(with = "plain::option")]
    pub start: Option<Offset>,
    /// The high watermark, if told.
    #[serde(with = "plain::option")]
    pub end: Option<Offset>,
    /// The records; none below the offset asked for.
    pub records: Vec<SeenRecord>,
}

/// A record on its way out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "(u64, Option<Fingerprint>)", into = "(u64, Option<Fingerprint>)")]
pub struct SeenRecord {
    /// Where it stands.
    pub offset: Offset,
    /// What it says; none for a control record, which the broker wrote itself.
    pub fingerprint: Option<Fingerprint>,
}

impl From<(u64, Option<Fingerprint>)> for SeenRecord {
    fn from((offset, fingerprint): (u64, Option<Fingerprint>)) -> Self {
        Self { offset: Offset(offset), fingerprint }
    }
}

impl From<SeenRecord> for (u64, Option<Fingerprint>) {
    fn from(record: SeenRecord) -> Self {
        (record.offset.0, record.fingerprint)
    }
}

/// Store a group's offset.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CommitOffset {
    /// The group.
    pub group: Name,
    /// The member's generation; none for a reader that is no member.
    pub generation: Option<u32>,
    /// Where.
    pub place: Place,
    /// The first offset not yet done.
    #[serde(with = "plain")]
    pub offset: Offset,
}

/// A heartbeat of a member, the first of which makes it one. The client's name is the member's id:
/// who comes back as another member has another name. It asks for one thing at a time.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MemberBeat {
    /// The group.
    pub group: Name,
    /// The generation that it was told last; none when it joins.
    pub generation: Option<u32>,
    /// What it has: it has let go of everything else.
    pub held: Vec<Place>,
    /// Whoever joins under the same one takes its place, with all that it has.
    pub instance: Option<Name>,
    /// While it is heard of, and gives up in time what it is to, it is a member for so long after
    /// each heartbeat, at least.
    pub lasts: Duration,
}

/// What a member was told.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Told {
    /// The assignment that it knows by this.
    pub generation: u32,
    /// What it may read.
    pub own: Vec<Place>,
    /// What it is to let go of, and has until then.
    pub give_up: Vec<Place>,
}

/// Lease records of a topic through a queue group.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TakeLease {
    /// The group.
    pub group: Name,
    /// The topic.
    pub topic: Name,
    /// How long nobody else may have them.
    pub visibility: Duration,
}

/// A leased record. Its fingerprint and count together stand for the protocol's receipt.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Taken {
    /// What it says.
    pub fingerprint: Fingerprint,
    /// How often it was leased through this group, this time included.
    pub count: u32,
    /// The partition, if told.
    #[serde(with = "plain::option")]
    pub partition: Option<PartitionId>,
    /// The offset, if told.
    #[serde(with = "plain::option")]
    pub offset: Option<Offset>,
}

/// Say what becomes of a leased record.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SettleLease {
    /// The group.
    pub group: Name,
    /// The record.
    pub fingerprint: Fingerprint,
    /// The delivery count of the lease meant.
    pub count: u32,
    /// What becomes of it.
    pub how: Settlement,
}

/// The end of a lease, or its new length.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Settlement {
    /// Done: never deliver it again.
    Ack,
    /// Give it back after a delay.
    Nack {
        /// The delay.
        delay: Duration,
    },
    /// Let the lease end so long from now.
    Extend {
        /// The new length.
        visibility: Duration,
    },
    /// Give it back at once, as if it had not been delivered.
    Release,
}

/// Cancel or move a delayed record that waits. Where it does not wait any more that is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ChangeDelay {
    /// The record.
    pub fingerprint: Fingerprint,
    /// From when on it may be had instead; none cancels it.
    pub to: Option<Nanos>,
}

/// Be the one producer of a partition, or be it no more. While another one is, that is refused.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Claim {
    /// Where.
    pub place: Place,
    /// Whose records are to count.
    #[serde(with = "plain")]
    pub producer: ProducerId,
    /// What is claimed.
    pub how: Claiming,
    /// How long nobody else may have it who does not take it over.
    pub lasts: Duration,
}

/// What a claim is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Claiming {
    /// To be it.
    Hold,
    /// To go on being it.
    Keep,
    /// To be it, whoever is.
    TakeOver,
    /// To be it no more.
    Release,
}

/// What was observed without being asked for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Note {
    /// Retention may have removed what stands below.
    Trim {
        /// Where.
        place: Place,
        /// The first offset that must be kept.
        #[serde(with = "plain")]
        start: Offset,
    },
    /// A client goes on elsewhere (restart, rebalance): its reads without an offset begin anew.
    Seek {
        /// Who.
        client: Name,
        /// Where.
        place: Place,
    },
    /// Faults are healed and every send is over. Reads and takes from here on are the final
    /// reading: together they must show everything that was acknowledged.
    Drain,
    /// Records of a topic that a queue group gives up go to another topic.
    DeadLetters {
        /// The group.
        group: Name,
        /// The topic it takes from.
        topic: Name,
        /// Where they go.
        into: Name,
        /// None is given up that was sent less long ago.
        #[serde(default)]
        not_before: Duration,
        /// The group is given none that came longer ago; any for zero.
        #[serde(default)]
        wanted_for: Duration,
    },
    /// Members of a stream group read every record of a topic.
    Reads {
        /// The group.
        group: Name,
        /// The topic.
        topic: Name,
        /// How many partitions it has.
        partitions: u32,
    },
    /// A stream group has come to rest: nobody comes or goes, and everybody is heard of, until it
    /// is stirred.
    Calm {
        /// The group.
        group: Name,
    },
    /// Members of a stream group may come and go again.
    Stirred {
        /// The group.
        group: Name,
    },
    /// A queue group delivers the records of one key in order.
    Keyed {
        /// The group.
        group: Name,
    },
    /// Records of a topic are kept until a queue group is done with them: then they may go, also
    /// from between others.
    KeptUntilDone {
        /// The group.
        group: Name,
        /// The topic.
        topic: Name,
    },
    /// Brokers' clocks may be ahead of that of this history, or of one another, by so much.
    Ahead {
        /// The most.
        by: Duration,
    },
    /// Something seen at a replica of a shard.
    Replica {
        /// The shard.
        shard: Name,
        /// The node.
        #[serde(with = "plain")]
        node: NodeId,
        /// What.
        saw: Sight,
    },
    /// The voters of a shard from now on.
    Voters {
        /// The shard.
        shard: Name,
        /// The nodes.
        #[serde(with = "plain::list")]
        voters: Vec<NodeId>,
    },
}

/// What was seen at a replica.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Sight {
    /// Its process started: what was only in memory begins anew.
    Started,
    /// Its term and the vote it gave in it. Both outlive a restart.
    Voted {
        /// The newest term it knows.
        #[serde(with = "plain")]
        term: Term,
        /// Whom it voted for; none where that is not told.
        #[serde(with = "plain::option")]
        vote: Option<NodeId>,
    },
    /// It leads.
    Led {
        /// The term.
        #[serde(with = "plain")]
        term: Term,
    },
    /// It knows that the log is committed up to here.
    Committed {
        /// The last committed entry.
        #[serde(with = "plain")]
        index: LogIndex,
        /// The entry's term.
        #[serde(with = "plain")]
        term: Term,
        /// The hash over the log up to and with the entry.
        chain: StateHash,
    },
    /// Its state machine stands here.
    Applied {
        /// The last applied entry.
        #[serde(with = "plain")]
        index: LogIndex,
        /// The hash of the state.
        state: StateHash,
    },
    /// At the end: this entry is in its log, or covered by its checkpoint.
    Holds {
        /// The entry.
        #[serde(with = "plain")]
        index: LogIndex,
        /// The hash over the log up to and with the entry.
        chain: StateHash,
    },
}
