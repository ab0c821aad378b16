//! A group at a time, in few words, for tests.

#![allow(clippy::unwrap_used, reason = "tests fail by panicking")]

use std::rc::Rc;

use barrage_model::{Offset, PartitionId, PartitionKey, TopicId};

use super::assignment::Assignor;
use super::generation::Generation;
use super::handover::{Beat, Subscription, Told, TopicSize};
use super::name::{InstanceName, MemberId, Name, ProtocolName};
use super::offsets::Commit;
use super::rebalance::{Candidacy, Joined, Protocol};
use super::refused::{NotStored, Refused};
use super::roster::{Caller, Timeouts};
use super::saved::Saved;
use super::stream::{Committer, Passed, Policy, StreamGroup};

/// Generation, own and what to give up, as [`code`] has it.
pub(super) type Answer = (u32, Vec<u64>, Vec<u64>);

/// See the module.
pub(super) struct Script {
    pub(super) group: StreamGroup,
    pub(super) now_ms: u64,
    pub(super) policy: Policy,
}

/// A member, and after an `@` its instance.
pub(super) fn caller(who: &str) -> Caller {
    let (member, instance) = who.split_once('@').unwrap_or((who, ""));
    let instance = Name::new(instance).map(InstanceName);
    Caller { member: MemberId(Name::new(member).unwrap()), instance }
}

/// Partition 3 of topic 1 is 103.
pub(super) fn key(code: u64) -> PartitionKey {
    let partition = PartitionId((code % 100) as u32);
    PartitionKey { topic: TopicId(code / 100), partition }
}

fn code(key: PartitionKey) -> u64 {
    key.topic.0 * 100 + u64::from(key.partition.0)
}

/// Topics with as many partitions.
pub(super) fn sizes(topics: &[(u64, u32)]) -> Vec<TopicSize> {
    let size = |(topic, partitions): &(u64, u32)| TopicSize {
        topic: TopicId(*topic),
        partitions: *partitions,
    };
    topics.iter().map(size).collect()
}

pub(super) fn subscription(topics: &[(u64, u32)]) -> Subscription {
    Subscription { topics: sizes(topics), assignor: Assignor::Sticky }
}

pub(super) fn candidacy(who: &str, protocols: &[&str]) -> Candidacy {
    let protocol = |name: &&str| Protocol {
        name: ProtocolName(Name::new(name).unwrap()),
        metadata: format!("{who}:{name}").into_bytes().into(),
    };
    let protocols = protocols.iter().map(protocol).collect();
    Candidacy { kind: Name::new("consumer").unwrap(), protocols }
}

impl Script {
    pub(super) fn new() -> Self {
        let group = StreamGroup::new(0);
        let policy = Policy { first_meeting_ms: 0, offsets_retention_ms: Some(100_000) };
        Self { group, now_ms: 0, policy }
    }

    pub(super) fn join(&mut self, who: &str, topics: &[(u64, u32)]) -> Result<Answer, Refused> {
        let (caller, topics) = (caller(who), subscription(topics));
        let told = self.group.join(&caller, Timeouts::default(), &topics, self.now_ms);
        told.map(|told| answer(&told))
    }

    /// A heartbeat that names what the member has.
    pub(super) fn beat(
        &mut self,
        who: &str,
        generation: u32,
        held: &[u64],
    ) -> Result<Answer, Refused> {
        let held = Some(held.iter().copied().map(key).collect());
        let beat = Beat { generation: Generation(generation), held, subscription: None };
        self.group.heartbeat(&caller(who), &beat, self.now_ms).map(|told| answer(&told))
    }

    pub(super) fn leave(&mut self, who: &str) -> Result<(), Refused> {
        self.group.leave(&caller(who), self.now_ms)
    }

    pub(super) fn pass(&mut self, ms: u64) -> Passed {
        self.now_ms += ms;
        self.group.pass_time(&self.policy, self.now_ms)
    }

    pub(super) fn next_due_ms(&self) -> Option<u64> {
        self.group.next_due_ms(&self.policy)
    }

    /// Commits by a member in a generation, or by nobody where it has no name.
    pub(super) fn commit(
        &mut self,
        who: &str,
        generation: u32,
        offsets: &[(u64, u64)],
    ) -> Result<Vec<Result<(), NotStored>>, Refused> {
        let commit = |(at, offset): &(u64, u64)| Commit {
            key: key(*at),
            offset: Offset(*offset),
            leader_epoch: None,
            metadata: String::new(),
        };
        let commits: Vec<Commit> = offsets.iter().map(commit).collect();
        let committer = match who {
            "" => Committer::Nobody,
            who => Committer::Member { caller: caller(who), generation: Generation(generation) },
        };
        self.group.commit(&committer, &commits, self.now_ms)
    }

    pub(super) fn offset(&self, at: u64) -> Option<u64> {
        self.group.offset(key(at)).map(|stored| stored.offset.0)
    }

    pub(super) fn meet(
        &mut self,
        who: &str,
        protocols: &[&str],
    ) -> Result<Option<Joined>, Refused> {
        let candidacy = candidacy(who.split_once('@').map_or(who, |(_, name)| name), protocols);
        let (caller, timeouts) = (caller(who), Timeouts::default());
        self.group.join_classic(&caller, timeouts, &candidacy, &self.policy, self.now_ms)
    }

    pub(super) fn sync(
        &mut self,
        who: &str,
        generation: u32,
        assignments: &[(&str, &str)],
    ) -> Result<Option<Rc<[u8]>>, Refused> {
        let bytes = |bytes: &str| Rc::from(bytes.as_bytes());
        let assignments: Vec<_> =
            assignments.iter().map(|(who, what)| (caller(who).member, bytes(what))).collect();
        self.group.sync(&caller(who), Generation(generation), &assignments, self.now_ms)
    }

    pub(super) fn beat_classic(&mut self, who: &str, generation: u32) -> Result<(), Refused> {
        self.group.heartbeat_classic(&caller(who), Generation(generation), self.now_ms)
    }

    /// What is saved and restored is the same group.
    pub(super) fn check_round_trip(&self) -> Saved {
        let saved = self.group.save();
        let restored = StreamGroup::restore(saved.clone()).unwrap();
        assert_eq!(restored, self.group);
        assert_eq!(restored.save(), saved);
        saved
    }
}

pub(super) fn answer(told: &Told) -> Answer {
    let codes = |keys: &[PartitionKey]| keys.iter().copied().map(code).collect();
    (told.generation.0, codes(told.own.as_slice()), codes(told.give_up.as_slice()))
}
