//! The stored form of what is wanted of stream groups.
//!
//! Owns: the rkyv form, version 1, of groups to open and of operations; names are checked when they
//! are read.
//! Invariants: as for the command itself, variants are only ever appended and do not grow.

use barrage_model::{GroupId, Offset, PartitionId, PartitionKey, TopicId};
use rkyv::{Archive, Deserialize, Serialize};

use crate::group::assignment::Assignor;
use crate::group::generation::Generation;
use crate::group::handover::TopicSize;
use crate::group::name::{InstanceName, MemberId, Name};
use crate::group::offsets::{Commit, LeaderEpoch};
use crate::group::roster::{Caller, Timeouts};
use crate::group::stream::Committer;
use crate::shard::streams::{OpenStream, Reads, StreamConfig, StreamOp, StreamWhat};

#[derive(Archive, Serialize, Deserialize)]
pub(crate) struct OpenStreamV1 {
    group: u64,
    config: StreamConfigV1,
}

/// What a group may read, here and in checkpoints.
#[derive(Archive, Serialize, Deserialize)]
pub(crate) struct StreamConfigV1 {
    topics: Vec<(u64, u32)>,
    revision: u64,
}

#[derive(Archive, Serialize, Deserialize)]
pub(crate) struct StreamOpV1 {
    group: u64,
    what: StreamWhatV1,
}

#[derive(Archive, Serialize, Deserialize)]
enum StreamWhatV1 {
    Join(Box<JoinV1>),
    Beat(Box<BeatV1>),
    Leave(Box<CallerV1>),
    Commit(Box<CommitsV1>),
    Reset(Vec<(u64, u32, u64)>),
    PassTime,
}

const _: () = assert!(size_of::<ArchivedStreamWhatV1>() == 9);

#[derive(Archive, Serialize, Deserialize)]
struct CallerV1 {
    member: String,
    instance: Option<String>,
}

/// The assignor: 0 sticky, 1 range, 2 round robin.
#[derive(Archive, Serialize, Deserialize)]
struct ReadsV1 {
    topics: Vec<u64>,
    assignor: u8,
}

#[derive(Archive, Serialize, Deserialize)]
struct JoinV1 {
    caller: CallerV1,
    session_ms: u64,
    rebalance_ms: u64,
    reads: ReadsV1,
}

#[derive(Archive, Serialize, Deserialize)]
struct BeatV1 {
    caller: CallerV1,
    generation: u32,
    held: Option<Vec<(u64, u32)>>,
    reads: Option<ReadsV1>,
}

#[derive(Archive, Serialize, Deserialize)]
struct CommitsV1 {
    /// Member and generation; `None` for somebody who is no member.
    committer: Option<(CallerV1, u32)>,
    commits: Vec<CommitV1>,
}

#[derive(Archive, Serialize, Deserialize)]
struct CommitV1 {
    topic: u64,
    partition: u32,
    offset: u64,
    leader_epoch: Option<u32>,
    metadata: String,
}

pub(super) fn store_open(wanted: &OpenStream) -> OpenStreamV1 {
    OpenStreamV1 { group: wanted.group.0, config: store_config(&wanted.config) }
}

pub(super) fn load_open(stored: OpenStreamV1) -> OpenStream {
    OpenStream { group: GroupId(stored.group), config: load_config(stored.config) }
}

pub(crate) fn store_config(config: &StreamConfig) -> StreamConfigV1 {
    let size = |size: &TopicSize| (size.topic.0, size.partitions);
    StreamConfigV1 { topics: config.topics.iter().map(size).collect(), revision: config.revision }
}

/// Sorted again: a size is found by that.
pub(crate) fn load_config(stored: StreamConfigV1) -> StreamConfig {
    let size = |(topic, partitions)| TopicSize { topic: TopicId(topic), partitions };
    let mut topics: Vec<TopicSize> = stored.topics.into_iter().map(size).collect();
    topics.sort_unstable_by_key(|size| size.topic);
    topics.dedup_by_key(|size| size.topic);
    StreamConfig { topics, revision: stored.revision }
}

pub(super) fn store_op(op: &StreamOp) -> StreamOpV1 {
    let what = match &op.what {
        StreamWhat::Join { caller, timeouts, reads } => StreamWhatV1::Join(Box::new(JoinV1 {
            caller: store_caller(caller),
            session_ms: timeouts.session_ms,
            rebalance_ms: timeouts.rebalance_ms,
            reads: store_reads(reads),
        })),
        StreamWhat::Beat { caller, generation, held, reads } => {
            StreamWhatV1::Beat(Box::new(BeatV1 {
                caller: store_caller(caller),
                generation: generation.0,
                held: held.as_ref().map(|held| held.iter().map(store_key).collect()),
                reads: reads.as_ref().map(store_reads),
            }))
        }
        StreamWhat::Leave { caller } => StreamWhatV1::Leave(Box::new(store_caller(caller))),
        StreamWhat::Commit { committer, commits } => StreamWhatV1::Commit(Box::new(CommitsV1 {
            committer: match committer {
                Committer::Nobody => None,
                Committer::Member { caller, generation } => {
                    Some((store_caller(caller), generation.0))
                }
            },
            commits: commits.iter().map(store_commit).collect(),
        })),
        StreamWhat::Reset { to } => StreamWhatV1::Reset(
            to.iter().map(|(key, to)| (key.topic.0, key.partition.0, to.0)).collect(),
        ),
        StreamWhat::PassTime => StreamWhatV1::PassTime,
    };
    StreamOpV1 { group: op.group.0, what }
}

pub(super) fn load_op(stored: StreamOpV1) -> Option<StreamOp> {
    let what = match stored.what {
        StreamWhatV1::Join(join) => {
            let JoinV1 { caller, session_ms, rebalance_ms, reads } = *join;
            let timeouts = Timeouts { session_ms, rebalance_ms };
            StreamWhat::Join { caller: load_caller(caller)?, timeouts, reads: load_reads(reads)? }
        }
        StreamWhatV1::Beat(beat) => {
            let BeatV1 { caller, generation, held, reads } = *beat;
            let reads = match reads {
                Some(reads) => Some(load_reads(reads)?),
                None => None,
            };
            StreamWhat::Beat {
                caller: load_caller(caller)?,
                generation: Generation(generation),
                held: held.map(|held| held.into_iter().map(load_key).collect()),
                reads,
            }
        }
        StreamWhatV1::Leave(caller) => StreamWhat::Leave { caller: load_caller(*caller)? },
        StreamWhatV1::Commit(all) => StreamWhat::Commit {
            committer: match all.committer {
                None => Committer::Nobody,
                Some((caller, generation)) => Committer::Member {
                    caller: load_caller(caller)?,
                    generation: Generation(generation),
                },
            },
            commits: all.commits.into_iter().map(load_commit).collect(),
        },
        StreamWhatV1::Reset(to) => StreamWhat::Reset {
            to: to
                .into_iter()
                .map(|(topic, partition, to)| (load_key((topic, partition)), Offset(to)))
                .collect(),
        },
        StreamWhatV1::PassTime => StreamWhat::PassTime,
    };
    Some(StreamOp { group: GroupId(stored.group), what })
}

fn store_caller(caller: &Caller) -> CallerV1 {
    CallerV1 {
        member: caller.member.0.as_str().to_owned(),
        instance: caller.instance.as_ref().map(|instance| instance.0.as_str().to_owned()),
    }
}

fn load_caller(stored: CallerV1) -> Option<Caller> {
    let instance = match stored.instance {
        Some(instance) => Some(InstanceName(Name::new(&instance)?)),
        None => None,
    };
    Some(Caller { member: MemberId(Name::new(&stored.member)?), instance })
}

fn store_reads(reads: &Reads) -> ReadsV1 {
    let topics = reads.topics.iter().map(|topic| topic.0).collect();
    ReadsV1 { topics, assignor: store_assignor(reads.assignor) }
}

fn load_reads(stored: ReadsV1) -> Option<Reads> {
    let topics = stored.topics.into_iter().map(TopicId).collect();
    Some(Reads { topics, assignor: load_assignor(stored.assignor)? })
}

pub(crate) fn store_assignor(assignor: Assignor) -> u8 {
    match assignor {
        Assignor::Sticky => 0,
        Assignor::Range => 1,
        Assignor::RoundRobin => 2,
    }
}

pub(crate) fn load_assignor(stored: u8) -> Option<Assignor> {
    match stored {
        0 => Some(Assignor::Sticky),
        1 => Some(Assignor::Range),
        2 => Some(Assignor::RoundRobin),
        _ => None,
    }
}

pub(crate) fn store_key(key: &PartitionKey) -> (u64, u32) {
    (key.topic.0, key.partition.0)
}

pub(crate) fn load_key((topic, partition): (u64, u32)) -> PartitionKey {
    PartitionKey { topic: TopicId(topic), partition: PartitionId(partition) }
}

fn store_commit(commit: &Commit) -> CommitV1 {
    CommitV1 {
        topic: commit.key.topic.0,
        partition: commit.key.partition.0,
        offset: commit.offset.0,
        leader_epoch: commit.leader_epoch.map(|epoch| epoch.0),
        metadata: commit.metadata.clone(),
    }
}

fn load_commit(stored: CommitV1) -> Commit {
    Commit {
        key: load_key((stored.topic, stored.partition)),
        offset: Offset(stored.offset),
        leader_epoch: stored.leader_epoch.map(LeaderEpoch),
        metadata: stored.metadata,
    }
}
