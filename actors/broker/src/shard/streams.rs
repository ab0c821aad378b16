//! The stream groups of a shard: those that the catalog has given it to coordinate.
//!
//! As for queue groups the leader foresees nothing: a command says what is wanted, and apply says
//! what came of it, on every replica alike. Sessions go by the lease clock of the shard.
//!
//! Owns: the groups, and which topics of which size each of them reads, as the catalog says.
//! Must never: read a clock; fail on a committed command; take a topic's size from a member.
//! Invariants: a group reads and stores nothing outside of its topics; what a member asks for is
//! cut to them when it is applied, however old the catalog was that it asked by.

use std::collections::BTreeMap;
use std::rc::Rc;

use barrage_model::{GroupId, Offset, PartitionKey, TopicId};
use crc32c::crc32c_append;

use crate::group::assignment::Assignor;
use crate::group::generation::Generation;
use crate::group::handover::{Beat, Subscription, Told, TopicSize};
use crate::group::offsets::Commit;
use crate::group::refused::{NotStored, Refused};
use crate::group::roster::{Caller, Timeouts};
use crate::group::stream::{Committer, Policy, StreamGroup};

/// A group is made and removed by name: its offsets stay as long as it does.
pub(crate) const POLICY: Policy = Policy { first_meeting_ms: 3_000, offsets_retention_ms: None };

/// What a shard needs to know about a group from the catalog.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct StreamConfig {
    /// What it may read, ascending by topic.
    pub(crate) topics: Vec<TopicSize>,
    /// Revision of the catalog that says so.
    pub(crate) revision: u64,
}

/// A group that is to be there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct OpenStream {
    pub(crate) group: GroupId,
    pub(crate) config: StreamConfig,
}

/// One group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Stream {
    pub(crate) config: StreamConfig,
    pub(crate) state: StreamGroup,
}

/// What a member wants to read, and how it wants that shared out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Reads {
    pub(crate) topics: Vec<TopicId>,
    pub(crate) assignor: Assignor,
}

/// Something that is wanted of a group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct StreamOp {
    pub(crate) group: GroupId,
    pub(crate) what: StreamWhat,
}

/// See [`StreamOp`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum StreamWhat {
    /// Somebody becomes a member.
    Join { caller: Caller, timeouts: Timeouts, reads: Reads },
    /// A member is there, and says what it has.
    Beat {
        caller: Caller,
        generation: Generation,
        held: Option<Vec<PartitionKey>>,
        reads: Option<Reads>,
    },
    /// A member goes.
    Leave { caller: Caller },
    /// So far it has been read.
    Commit { committer: Committer, commits: Vec<Commit> },
    /// It goes on from there, back or forth.
    Reset { to: Vec<(PartitionKey, Offset)> },
    /// Sessions end, what is due is done.
    PassTime,
}

impl StreamOp {
    /// About how many bytes it takes in an entry.
    pub(crate) fn size(&self) -> usize {
        const OP: usize = 64;
        const KEY: usize = 16;
        const COMMIT: usize = 48;
        let caller = |caller: &Caller| {
            let instance = caller.instance.as_ref().map_or(0, |instance| instance.0.size());
            caller.member.0.size() + instance
        };
        let topics = |reads: &Reads| reads.topics.len() * size_of::<u64>();
        OP + match &self.what {
            StreamWhat::Join { caller: who, reads, .. } => caller(who) + topics(reads),
            StreamWhat::Beat { caller: who, held, reads, .. } => {
                let held = held.as_ref().map_or(0, |held| held.len() * KEY);
                caller(who) + held + reads.as_ref().map_or(0, topics)
            }
            StreamWhat::Leave { caller: who } => caller(who),
            StreamWhat::Commit { committer, commits } => {
                let who = match committer {
                    Committer::Member { caller: who, .. } => caller(who),
                    Committer::Nobody => 0,
                };
                let size = |commit: &Commit| COMMIT + commit.metadata.len();
                who + commits.iter().map(size).sum::<usize>()
            }
            StreamWhat::Reset { to } => to.len() * 2 * KEY,
            StreamWhat::PassTime => 0,
        }
    }
}

/// What came of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum StreamOutcome {
    Told(Told),
    /// Per offset.
    Stored(Vec<Result<(), NotStored>>),
    Done,
    Refused(Refused),
    /// The group is not open on this shard.
    UnknownGroup,
}

/// All of them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Streams {
    /// Shared with checkpoints that are being written; copied when it changes meanwhile.
    pub(crate) groups: BTreeMap<GroupId, Rc<Stream>>,
}

impl Streams {
    /// Opens groups; one that is open takes over newer topics and sizes, and forgets what it had
    /// stored of topics that are not its any more.
    pub(crate) fn open(&mut self, wanted: &[OpenStream], now_ms: u64) {
        for OpenStream { group, config } in wanted {
            let found = self.groups.entry(*group).or_insert_with(|| {
                let state = StreamGroup::new(now_ms);
                Rc::new(Stream { config: config.clone(), state })
            });
            if config.revision <= found.config.revision {
                continue;
            }
            let found = Rc::make_mut(found);
            let before = std::mem::replace(&mut found.config, config.clone());
            for TopicSize { topic, .. } in before.topics {
                if found.config.size(topic).is_none() {
                    found.state.remove_topic(topic, now_ms);
                }
            }
            found.state.resize(&config.topics, now_ms);
        }
    }

    /// Closes groups.
    pub(crate) fn close(&mut self, groups: &[GroupId]) {
        groups.iter().for_each(|group| drop(self.groups.remove(group)));
    }

    /// Does what is wanted.
    pub(crate) fn apply(&mut self, op: &StreamOp, now_ms: u64) -> StreamOutcome {
        match self.groups.get_mut(&op.group) {
            Some(group) => Rc::make_mut(group).apply(&op.what, now_ms),
            None => StreamOutcome::UnknownGroup,
        }
    }

    /// When it is worth to let time pass for a group.
    pub(crate) fn next_due_ms(&self, group: GroupId) -> Option<u64> {
        self.groups.get(&group)?.state.next_due_ms(&POLICY)
    }
}

impl StreamConfig {
    /// How many partitions a topic has, if it is the group's.
    pub(crate) fn size(&self, topic: TopicId) -> Option<u32> {
        let at = self.topics.binary_search_by_key(&topic, |size| size.topic).ok()?;
        self.topics.get(at).map(|size| size.partitions)
    }

    /// Whether there are topics, and none of them is the group's: to whoever reads them there is no
    /// such group.
    fn knows_none(&self, topics: &[TopicId]) -> bool {
        !topics.is_empty() && topics.iter().all(|topic| self.size(*topic).is_none())
    }

    fn has(&self, key: PartitionKey) -> bool {
        self.size(key.topic).is_some_and(|partitions| key.partition.0 < partitions)
    }

    fn subscription(&self, reads: &Reads) -> Subscription {
        let size = |topic: &TopicId| {
            let partitions = self.size(*topic)?;
            Some(TopicSize { topic: *topic, partitions })
        };
        let topics = reads.topics.iter().filter_map(size).collect();
        Subscription { topics, assignor: reads.assignor }
    }
}

/// Whether all topics that a member reads have left the group.
fn reads_nothing(config: &StreamConfig, state: &StreamGroup, caller: &Caller) -> bool {
    state.share(&caller.member).is_some_and(|share| config.knows_none(&share.topics))
}

impl Stream {
    /// Whether all topics that a member reads have left the group.
    pub(crate) fn has_nothing_for(&self, caller: &Caller) -> bool {
        reads_nothing(&self.config, &self.state, caller)
    }

    fn apply(&mut self, what: &StreamWhat, now_ms: u64) -> StreamOutcome {
        let Self { config, state } = self;
        match what {
            StreamWhat::Join { reads, .. } if config.knows_none(&reads.topics) => {
                StreamOutcome::UnknownGroup
            }
            StreamWhat::Beat { caller, reads: None, .. }
                if reads_nothing(config, state, caller) =>
            {
                StreamOutcome::UnknownGroup
            }
            StreamWhat::Join { caller, timeouts, reads } => {
                told(state.join(caller, *timeouts, &config.subscription(reads), now_ms))
            }
            StreamWhat::Beat { caller, generation, held, reads } => {
                let subscription = reads.as_ref().map(|reads| config.subscription(reads));
                let (generation, held) = (*generation, held.clone());
                told(state.heartbeat(caller, &Beat { generation, held, subscription }, now_ms))
            }
            StreamWhat::Leave { caller } => match state.leave(caller, now_ms) {
                Ok(()) => StreamOutcome::Done,
                Err(refused) => StreamOutcome::Refused(refused),
            },
            StreamWhat::Commit { committer, commits } => {
                let known: Vec<Commit> =
                    commits.iter().filter(|commit| config.has(commit.key)).cloned().collect();
                let results = state.commit(committer, &known, now_ms);
                stored(results, commits.iter().map(|commit| config.has(commit.key)))
            }
            StreamWhat::Reset { to } => {
                let known: Vec<_> =
                    to.iter().filter(|(key, _)| config.has(*key)).copied().collect();
                let results = state.reset(&known, now_ms);
                stored(results, to.iter().map(|(key, _)| config.has(*key)))
            }
            StreamWhat::PassTime => {
                state.pass_time(&POLICY, now_ms);
                StreamOutcome::Done
            }
        }
    }
}

fn told(told: Result<Told, Refused>) -> StreamOutcome {
    told.map_or_else(StreamOutcome::Refused, StreamOutcome::Told)
}

/// The results of what is known, in their places among all.
fn stored(
    results: Result<Vec<Result<(), NotStored>>, Refused>,
    is_known: impl Iterator<Item = bool>,
) -> StreamOutcome {
    let mut results = match results {
        Ok(results) => results.into_iter(),
        Err(refused) => return StreamOutcome::Refused(refused),
    };
    let unknown = || Err(NotStored::UnknownPartition);
    let mut result = |is_known| match is_known {
        true => results.next().unwrap_or_else(unknown),
        false => unknown(),
    };
    StreamOutcome::Stored(is_known.map(&mut result).collect())
}

/// Goes on with a hash: two replicas that differ in what came of something have another one.
pub(crate) fn digest(before: u32, group: GroupId, outcome: &StreamOutcome) -> u32 {
    let digest = crc32c_append(before, &group.0.to_le_bytes());
    let keys = |digest, keys: &[PartitionKey]| {
        keys.iter().fold(digest, |digest, key| {
            let digest = crc32c_append(digest, &key.topic.0.to_le_bytes());
            crc32c_append(digest, &key.partition.0.to_le_bytes())
        })
    };
    match outcome {
        StreamOutcome::Told(told) => {
            let digest = crc32c_append(digest, &told.generation.0.to_le_bytes());
            keys(keys(digest, told.own.as_slice()), told.give_up.as_slice())
        }
        StreamOutcome::Stored(results) => results
            .iter()
            .fold(digest, |digest, one| crc32c_append(digest, &[u8::from(one.is_ok())])),
        StreamOutcome::Refused(_) => crc32c_append(digest, &[0xff]),
        StreamOutcome::Done | StreamOutcome::UnknownGroup => digest,
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests fail by panicking")]
    #![allow(clippy::panic, reason = "tests fail by panicking")]
    #![allow(clippy::indexing_slicing, reason = "tests fail by panicking")]

    use barrage_model::PartitionId;

    use super::*;
    use crate::group::name::{MemberId, Name};

    const GROUP: GroupId = GroupId(5);

    fn config(topics: &[(u64, u32)], revision: u64) -> StreamConfig {
        let size = |(topic, partitions): &(u64, u32)| TopicSize {
            topic: TopicId(*topic),
            partitions: *partitions,
        };
        StreamConfig { topics: topics.iter().map(size).collect(), revision }
    }

    fn open(streams: &mut Streams, topics: &[(u64, u32)], revision: u64, now_ms: u64) {
        streams.open(&[OpenStream { group: GROUP, config: config(topics, revision) }], now_ms);
    }

    fn caller() -> Caller {
        Caller { member: MemberId(Name::new("m").unwrap()), instance: None }
    }

    fn apply(streams: &mut Streams, what: StreamWhat, now_ms: u64) -> StreamOutcome {
        streams.apply(&StreamOp { group: GROUP, what }, now_ms)
    }

    fn join(streams: &mut Streams, topics: &[u64]) -> Vec<(u64, u32)> {
        let reads = Reads {
            topics: topics.iter().copied().map(TopicId).collect(),
            assignor: Assignor::Sticky,
        };
        let timeouts = Timeouts::default();
        own(apply(streams, StreamWhat::Join { caller: caller(), timeouts, reads }, 0))
    }

    fn beat(streams: &mut Streams, generation: u32, now_ms: u64) -> StreamOutcome {
        let (held, reads) = (None, None);
        let generation = Generation(generation);
        apply(streams, StreamWhat::Beat { caller: caller(), generation, held, reads }, now_ms)
    }

    fn own(outcome: StreamOutcome) -> Vec<(u64, u32)> {
        let StreamOutcome::Told(told) = outcome else { panic!("{outcome:?}") };
        told.own.iter().map(|key| (key.topic.0, key.partition.0)).collect()
    }

    fn key(topic: u64, partition: u32) -> PartitionKey {
        PartitionKey { topic: TopicId(topic), partition: PartitionId(partition) }
    }

    #[test]
    fn a_topic_that_leaves_the_group_and_comes_back_is_read_again() {
        let mut streams = Streams::default();
        open(&mut streams, &[(1, 1), (2, 1)], 3, 0);
        assert_eq!(join(&mut streams, &[1, 2]), [(1, 0), (2, 0)]);
        open(&mut streams, &[(1, 1)], 4, 5_000);
        assert_eq!(own(beat(&mut streams, 1, 5_000)), [(1, 0)]);
        open(&mut streams, &[(1, 1), (2, 1)], 5, 10_000);
        assert_eq!(own(beat(&mut streams, 2, 10_000)), [(1, 0), (2, 0)]);
        // Who reads nothing of what is left is told so: it would wait for ever.
        open(&mut streams, &[(9, 1)], 6, 15_000);
        assert_eq!(beat(&mut streams, 3, 15_000), StreamOutcome::UnknownGroup);
        assert!(streams.groups[&GROUP].has_nothing_for(&caller()));
        let other = Caller { member: MemberId(Name::new("n").unwrap()), instance: None };
        let reads = Reads { topics: vec![TopicId(2)], assignor: Assignor::Sticky };
        let late = StreamWhat::Join { caller: other, timeouts: Timeouts::default(), reads };
        assert_eq!(apply(&mut streams, late, 15_000), StreamOutcome::UnknownGroup);
    }

    #[test]
    fn the_catalog_says_what_is_read() {
        let mut streams = Streams::default();
        assert_eq!(beat(&mut streams, 0, 0), StreamOutcome::UnknownGroup);
        open(&mut streams, &[(1, 2), (2, 1)], 3, 0);
        assert_eq!(join(&mut streams, &[1, 2, 9]), [(1, 0), (1, 1), (2, 0)]);
        // An older catalog takes nothing back, a newer one takes and gives.
        open(&mut streams, &[(1, 2)], 2, 0);
        open(&mut streams, &[(1, 3)], 4, 0);
        assert_eq!(streams.next_due_ms(GROUP), Some(1_000));
        assert_eq!(apply(&mut streams, StreamWhat::PassTime, 1_000), StreamOutcome::Done);
        assert_eq!(own(beat(&mut streams, 1, 1_000)), [(1, 0), (1, 1), (1, 2)]);
        streams.close(&[GROUP]);
        assert_eq!(beat(&mut streams, 2, 1_000), StreamOutcome::UnknownGroup);
    }

    #[test]
    fn nothing_is_stored_outside_of_the_topics() {
        let mut streams = Streams::default();
        open(&mut streams, &[(1, 2)], 3, 0);
        let at = |key, offset| (key, Offset(offset));
        let to = vec![at(key(1, 2), 5), at(key(1, 1), 6), at(key(2, 0), 7), at(key(1, 0), 8)];
        let unknown = || Err(NotStored::UnknownPartition);
        let want = StreamOutcome::Stored(vec![unknown(), Ok(()), unknown(), Ok(())]);
        assert_eq!(apply(&mut streams, StreamWhat::Reset { to: to.clone() }, 0), want);
        let commit = |(key, offset): (PartitionKey, Offset)| Commit {
            key,
            offset,
            leader_epoch: None,
            metadata: String::new(),
        };
        let commits: Vec<Commit> = to.iter().copied().map(commit).collect();
        let committer = Committer::Nobody;
        assert_eq!(apply(&mut streams, StreamWhat::Commit { committer, commits }, 0), want);
        let offsets = |streams: &Streams| {
            let stored = streams.groups[&GROUP].state.offsets().iter();
            stored.map(|(key, stored)| (key, stored.offset)).collect::<Vec<_>>()
        };
        assert_eq!(offsets(&streams), [at(key(1, 0), 8), at(key(1, 1), 6)]);
        open(&mut streams, &[(2, 1)], 4, 0);
        assert_eq!(offsets(&streams), []);
    }

    #[test]
    fn replicas_that_differ_have_other_hashes() {
        let told = |own: &[PartitionKey], generation| {
            StreamOutcome::Told(Told {
                generation: Generation(generation),
                own: own.iter().copied().collect(),
                give_up: [].into_iter().collect(),
            })
        };
        let all = [
            told(&[key(1, 0)], 1),
            told(&[key(1, 1)], 1),
            told(&[key(1, 0)], 2),
            StreamOutcome::Stored(vec![Ok(())]),
            StreamOutcome::Stored(vec![Err(NotStored::NotOwner)]),
            StreamOutcome::Refused(Refused::HasMembers),
            StreamOutcome::Done,
        ];
        let mut hashes: Vec<u32> = all.iter().map(|one| digest(7, GROUP, one)).collect();
        hashes.sort_unstable();
        hashes.dedup();
        assert_eq!(hashes.len(), all.len());
    }
}
