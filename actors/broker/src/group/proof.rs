//! Whole courses of groups, with answers that are lost and requests that come late or twice.
//!
//! The clients here do what a careful one does: they read what they were told to read until they
//! have been told otherwise and were done with it, and stop by their own clock when they have heard
//! nothing for a session. A request outlives one restart of its sender at most, and a topic that is
//! gone is not asked for any more: gateways see to both.

#![allow(clippy::unwrap_used, reason = "tests fail by panicking")]
#![allow(clippy::indexing_slicing, reason = "tests fail by panicking")]

use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;

use barrage_model::{Offset, PartitionKey, TopicId};

use super::assignment::{Assignor, keys};
use super::generation::Generation;
use super::handover::{Beat, Subscription, Told, TopicSize};
use super::name::MemberId;
use super::offsets::Commit;
use super::rebalance::Joined;
use super::refused::{NotStored, Refused};
use super::roster::{Caller, SESSION_MS_DEFAULT, Timeouts};
use super::script::{caller, candidacy};
use super::stream::{Committer, Policy, Standing, StreamGroup};
use crate::queue::dice::Dice;

const POLICY: Policy = Policy { first_meeting_ms: 500, offsets_retention_ms: None };

#[derive(Clone, Debug)]
enum Request {
    Join(Caller, Subscription),
    Beat(Caller, Beat),
    Leave(Caller),
    Commit(Caller, Generation, Commit),
}

impl Request {
    fn sender(&self) -> &Caller {
        match self {
            Self::Join(caller, _)
            | Self::Beat(caller, _)
            | Self::Leave(caller)
            | Self::Commit(caller, _, _) => caller,
        }
    }
}

/// A reader of a native group.
#[derive(Debug)]
struct Client {
    caller: Caller,
    /// Who had its place before.
    before: Option<Caller>,
    topics: BTreeSet<TopicId>,
    heard_ms: u64,
    /// Once its join was answered.
    generation: Option<Generation>,
    own: BTreeSet<PartitionKey>,
    /// What it reads: its own, and what it was not done with yet.
    reads: BTreeSet<PartitionKey>,
}

struct World {
    dice: Dice,
    group: StreamGroup,
    now_ms: u64,
    assignor: Assignor,
    is_uniform: bool,
    sizes: BTreeMap<TopicId, u32>,
    clients: Vec<Client>,
    named: u64,
    sent: Vec<Request>,
    /// The generation that each member was told last, whether it heard that or not.
    told: BTreeMap<MemberId, Generation>,
    stored: BTreeMap<PartitionKey, u64>,
    commits: u64,
}

impl World {
    fn new(seed: u64) -> Self {
        let mut dice = Dice::new(seed);
        let all = [Assignor::Sticky, Assignor::Range, Assignor::RoundRobin];
        let assignor = all[dice.below(3) as usize];
        let is_uniform = dice.below(2) == 0;
        let topics = 1 + dice.below(3);
        let sizes = (0..topics).map(|topic| (TopicId(topic), 1 + dice.below(8) as u32)).collect();
        Self {
            dice,
            group: StreamGroup::new(0),
            now_ms: 0,
            assignor,
            is_uniform,
            sizes,
            clients: Vec::new(),
            named: 0,
            sent: Vec::new(),
            told: BTreeMap::new(),
            stored: BTreeMap::new(),
            commits: 0,
        }
    }

    fn chance(&mut self, one_in: u64) -> bool {
        self.dice.below(one_in) == 0
    }

    fn subscription(&self, topics: &BTreeSet<TopicId>) -> Subscription {
        let size = |topic: &TopicId| {
            let partitions = self.sizes.get(topic).copied()?;
            Some(TopicSize { topic: *topic, partitions })
        };
        Subscription { topics: topics.iter().filter_map(size).collect(), assignor: self.assignor }
    }

    fn some_topics(&mut self) -> BTreeSet<TopicId> {
        let all: Vec<TopicId> = self.sizes.keys().copied().collect();
        let is_uniform = self.is_uniform;
        all.into_iter().filter(|_| is_uniform || self.dice.below(3) > 0).collect()
    }

    fn new_client(&mut self, instance: Option<&str>) -> Client {
        self.named += 1;
        let name = format!("{}-{}@{}", self.dice.below(7), self.named, instance.unwrap_or(""));
        Client {
            caller: caller(&name),
            before: None,
            topics: self.some_topics(),
            heard_ms: self.now_ms,
            generation: None,
            own: BTreeSet::new(),
            reads: BTreeSet::new(),
        }
    }

    /// What the group makes of a request; held against what may be made of it.
    fn apply(&mut self, request: &Request) -> Result<Option<Told>, Refused> {
        let now_ms = self.now_ms;
        let told = match request {
            Request::Join(caller, subscription) => {
                let topics = subscription.topics.iter().map(|size| size.topic).collect();
                let subscription = self.subscription(&topics);
                self.group.join(caller, Timeouts::default(), &subscription, now_ms)
            }
            Request::Beat(caller, beat) => self.group.heartbeat(caller, beat, now_ms),
            Request::Leave(caller) => return self.group.leave(caller, now_ms).map(|()| None),
            Request::Commit(caller, generation, commit) => {
                return self.apply_commit(caller, *generation, commit).map(|()| None);
            }
        }?;
        self.told.insert(request.sender().member.clone(), told.generation);
        Ok(Some(told))
    }

    fn apply_commit(
        &mut self,
        caller: &Caller,
        generation: Generation,
        commit: &Commit,
    ) -> Result<(), Refused> {
        let is_member = self.group.share(&caller.member).is_some();
        let is_newest = self.told.get(&caller.member) == Some(&generation);
        let is_owner = self.group.owner(commit.key) == Some(&caller.member);
        let stored = self.stored.get(&commit.key).copied();
        let committer = Committer::Member { caller: caller.clone(), generation };
        let results = self.group.commit(&committer, std::slice::from_ref(commit), self.now_ms);
        assert_eq!(results.is_ok(), is_member && is_newest, "{caller:?} {generation:?}");
        let want = match stored {
            _ if !is_owner => Err(NotStored::NotOwner),
            Some(stored) if commit.offset.0 < stored => {
                Err(NotStored::Behind { stored: Offset(stored) })
            }
            _ => Ok(()),
        };
        assert_eq!(results?, [want]);
        if want.is_ok() {
            self.commits += 1;
            self.stored.insert(commit.key, commit.offset.0);
        }
        Ok(())
    }

    /// Sends a request; it may come again later. Whether its answer is heard is another matter.
    fn send(&mut self, request: Request) -> Result<Option<Told>, Refused> {
        let answer = self.apply(&request);
        self.sent.push(request);
        if self.sent.len() > 60 {
            self.sent.remove(0);
        }
        answer
    }

    fn hear(&mut self, at: usize, answer: Result<Option<Told>, Refused>) {
        let client = &mut self.clients[at];
        match answer {
            Ok(Some(told)) => {
                client.generation = Some(told.generation);
                client.heard_ms = self.now_ms;
                client.own = told.own.iter().collect();
                client.reads.extend(told.own.iter());
            }
            Ok(None) => {}
            Err(Refused::UnknownMember | Refused::Fenced) => drop(self.clients.remove(at)),
            Err(refused) => unreachable!("a careful client is never told: {refused}"),
        }
    }

    /// A heartbeat, or the join that is not answered yet.
    fn beat(&mut self, at: usize) -> Result<Option<Told>, Refused> {
        let client = &self.clients[at];
        let caller = client.caller.clone();
        let request = match client.generation {
            None => Request::Join(caller, self.subscription(&client.topics)),
            Some(generation) => {
                let held = Some(client.reads.iter().copied().collect());
                Request::Beat(caller, Beat { generation, held, subscription: None })
            }
        };
        self.send(request)
    }

    fn change_topics(&mut self, at: usize) {
        let topics = self.some_topics();
        let client = &self.clients[at];
        let Some(generation) = client.generation else { return };
        let subscription = Some(self.subscription(&topics));
        let beat = Beat { generation, held: None, subscription };
        let request = Request::Beat(client.caller.clone(), beat);
        // Not sent twice: what a member reads is not told apart within a generation.
        match self.apply(&request) {
            Err(Refused::StaleGeneration) => {}
            answer => {
                self.clients[at].topics = topics;
                self.hear(at, answer);
            }
        }
    }

    fn commit(&mut self, at: usize) {
        let client = &self.clients[at];
        let Some(generation) = client.generation else { return };
        let (topic, size) = self.sizes.iter().next_back().unwrap();
        let any = keys(*topic, *size).last().unwrap();
        let key = client.reads.iter().nth(self.dice.below(9) as usize).copied().unwrap_or(any);
        let offset = Offset(self.dice.below(self.now_ms / 100 + 1));
        let commit = Commit { key, offset, leader_epoch: None, metadata: String::new() };
        let request = Request::Commit(client.caller.clone(), generation, commit);
        let answer = self.send(request);
        if answer != Err(Refused::StaleGeneration) {
            self.hear(at, answer);
        }
    }

    fn pass_time(&mut self) {
        let (passed, now_ms) = (self.group.pass_time(&POLICY, self.now_ms), self.now_ms);
        self.clients.retain(|client| {
            let is_over = now_ms - client.heard_ms >= SESSION_MS_DEFAULT;
            !is_over && !passed.members.contains(&client.caller.member)
        });
    }

    fn restart(&mut self, at: usize) {
        let Some(instance) = self.clients[at].caller.instance.clone() else { return };
        let before = self.clients.remove(at);
        self.sent.retain(|request| before.before.as_ref() != Some(request.sender()));
        let mut client = self.new_client(Some(instance.0.as_str()));
        client.before = Some(before.caller);
        self.clients.push(client);
    }

    fn step(&mut self) {
        self.now_ms += self.dice.below(1_500);
        let at = match self.clients.len() {
            0 => None,
            count => Some(self.dice.below(count as u64) as usize),
        };
        match (self.dice.below(40), at) {
            (0..=2, _) if self.clients.len() < 9 => {
                let name = format!("place {}", self.named);
                let instance = self.chance(3).then_some(name.as_str());
                let client = self.new_client(instance);
                self.clients.push(client);
            }
            (3, Some(at)) => {
                let client = self.clients.remove(at);
                let _ = self.send(Request::Leave(client.caller));
            }
            (4..=20, Some(at)) => {
                let client = &mut self.clients[at];
                if self.dice.below(3) > 0 {
                    client.reads = client.own.clone();
                }
                let answer = self.beat(at);
                if !self.chance(5) {
                    self.hear(at, answer);
                }
            }
            (21..=25, _) if !self.sent.is_empty() => {
                let late = self.dice.below(self.sent.len() as u64) as usize;
                let _ = self.apply(&self.sent[late].clone());
            }
            (26..=32, Some(at)) => self.commit(at),
            (33, Some(at)) => self.restart(at),
            (34, Some(at)) if !self.is_uniform => self.change_topics(at),
            (35, _) => {
                let topic = TopicId(self.dice.below(4));
                if let Some(partitions) = self.sizes.get_mut(&topic).filter(|size| **size < 12) {
                    *partitions += 1;
                    let size = TopicSize { topic, partitions: *partitions };
                    self.group.resize(&[size], self.now_ms);
                }
            }
            (36, _) if !self.is_uniform && self.sizes.len() > 1 && self.chance(5) => {
                let (topic, _) = self.sizes.pop_first().unwrap();
                self.group.remove_topic(topic, self.now_ms);
                self.stored.retain(|key, _| key.topic != topic);
                let is_of = |request: &Request| {
                    let Request::Commit(_, _, commit) = request else { return false };
                    commit.key.topic == topic
                };
                self.sent.retain(|request| !is_of(request));
                self.clients.iter_mut().for_each(|c| c.reads.retain(|key| key.topic != topic));
                self.clients.iter_mut().for_each(|c| c.own.retain(|key| key.topic != topic));
            }
            (37, _) => self.reset(),
            _ => self.pass_time(),
        }
    }

    fn reset(&mut self) {
        let first = |topic: &TopicId| keys(*topic, 1).next().unwrap();
        let offset = Offset(self.now_ms % 7);
        let to: Vec<_> = self.sizes.keys().map(|topic| (first(topic), offset)).collect();
        let is_empty = self.group.standing() == Standing::Empty;
        let answer = self.group.reset(&to, self.now_ms);
        assert_eq!(answer.is_ok(), is_empty);
        if is_empty {
            self.stored.extend(to.iter().map(|(key, offset)| (*key, offset.0)));
        }
    }

    fn check(&self, context: &str) {
        let mut readers: BTreeMap<PartitionKey, &MemberId> = BTreeMap::new();
        for client in &self.clients {
            let member = &client.caller.member;
            for key in &client.reads {
                let other = readers.insert(*key, member);
                assert_eq!(other, None, "{context}: {key} is read by {member:?} as well");
            }
        }
        let stored = self.group.offsets().iter().map(|(key, stored)| (key, stored.offset.0));
        assert!(stored.eq(self.stored.iter().map(|(key, offset)| (*key, *offset))), "{context}");
    }

    fn check_round_trip(&mut self) {
        let restored = StreamGroup::restore(self.group.save()).unwrap();
        assert_eq!(restored, self.group);
        self.group = restored;
    }

    /// Everybody does its part, nothing is lost and nobody comes: all partitions are read.
    fn settle(&mut self, context: &str) {
        for _ in 0..40 {
            self.now_ms += 2_000;
            self.pass_time();
            // Who is told to go is taken out of the list.
            for at in (0..self.clients.len()).rev() {
                self.clients[at].reads = self.clients[at].own.clone();
                let answer = self.beat(at);
                self.hear(at, answer);
            }
            self.check(context);
        }
        let settled = if self.clients.is_empty() { Standing::Empty } else { Standing::Stable };
        assert_eq!(self.group.standing(), settled, "{context}");
        let read: BTreeSet<TopicId> = self.clients.iter().flat_map(|c| c.topics.clone()).collect();
        let all: BTreeSet<PartitionKey> = self
            .sizes
            .iter()
            .filter(|(topic, _)| read.contains(topic))
            .flat_map(|(topic, size)| keys(*topic, *size))
            .collect();
        let given: BTreeSet<PartitionKey> =
            self.clients.iter().flat_map(|client| client.reads.clone()).collect();
        assert_eq!(given, all, "{context}");
        for client in &self.clients {
            assert!(client.reads.iter().all(|key| client.topics.contains(&key.topic)), "{context}");
        }
        let loads = || self.clients.iter().map(|client| client.reads.len());
        let spread = loads().max().unwrap_or(0) - loads().min().unwrap_or(0);
        let most = if self.assignor == Assignor::Range { self.sizes.len() } else { 1 };
        assert!(!self.is_uniform || spread <= most, "{context}: {spread}");
    }
}

#[test]
fn no_partition_has_two_readers_and_in_the_end_each_has_one() {
    let (mut commits, mut generations) = (0, 0);
    for seed in 0..400 {
        let mut world = World::new(seed);
        for step in 0..600 {
            world.step();
            world.check(&format!("seed {seed} step {step}"));
            if step % 40 == 0 {
                world.check_round_trip();
            }
            if step % 300 == 299 {
                world.settle(&format!("seed {seed} settled at {step}"));
            }
        }
        commits += world.commits;
        generations += world.group.generation().0;
    }
    assert!(commits > 5_000 && generations > 5_000, "{commits} {generations}");
}

/// Equal commands make equal groups, with whatever was restored in between.
#[test]
fn equal_courses_make_equal_groups() {
    for seed in 0..20 {
        let (mut one, mut other) = (World::new(seed), World::new(seed));
        for step in 0..300 {
            one.step();
            other.step();
            if step % 7 == 0 {
                other.check_round_trip();
            }
            assert_eq!(one.group, other.group, "seed {seed} step {step}");
            let due_ms = [&one, &other].map(|world| world.group.next_due_ms(&POLICY));
            assert_eq!(due_ms[0], due_ms[1], "seed {seed} step {step}");
        }
    }
}

/// A member of a classic group: where it stands between two of its requests.
#[derive(Clone, Debug, PartialEq)]
enum At {
    Away,
    Meeting,
    Over(Joined),
    Waiting(Joined),
    Assigned(Generation),
}

struct ClassicWorld {
    dice: Dice,
    group: StreamGroup,
    now_ms: u64,
    clients: Vec<(Caller, At)>,
    named: u64,
    /// What the leader of each generation brought.
    brought: BTreeMap<u32, BTreeMap<MemberId, Rc<[u8]>>>,
    assigned: u64,
}

impl ClassicWorld {
    fn act(&mut self, at: usize) {
        let (caller, before) = self.clients[at].clone();
        let group = &mut self.group;
        let next = match before {
            At::Away => {
                let candidacy = candidacy("said", &["one", "two"]);
                let timeouts = Timeouts::default();
                let joined =
                    group.join_classic(&caller, timeouts, &candidacy, &POLICY, self.now_ms);
                joined.map(|joined| joined.map_or(At::Meeting, At::Over))
            }
            At::Meeting => group.joined(&caller).map(|joined| joined.map_or(At::Meeting, At::Over)),
            At::Over(joined) => self.sync(&caller, joined),
            At::Waiting(joined) => {
                let synced = group.synced(&caller, joined.generation);
                self.take(&caller, joined, synced)
            }
            At::Assigned(generation) => group
                .heartbeat_classic(&caller, generation, self.now_ms)
                .map(|()| At::Assigned(generation)),
        };
        match next {
            Ok(next) => self.clients[at].1 = next,
            Err(Refused::Fenced) => drop(self.clients.remove(at)),
            Err(Refused::UnknownMember | Refused::Rebalancing | Refused::StaleGeneration) => {
                self.clients[at].1 = At::Away;
            }
            Err(refused) => unreachable!("nobody did anything for this: {refused}"),
        }
    }

    fn sync(&mut self, caller: &Caller, joined: Joined) -> Result<At, Refused> {
        let generation = joined.generation;
        let share = |(id, _, said): &(MemberId, _, Rc<[u8]>)| {
            assert!(said.starts_with(b"said:"));
            (id.clone(), Rc::from(format!("{generation:?} {id:?}").as_bytes()))
        };
        let shares: Vec<(MemberId, Rc<[u8]>)> = joined.members.iter().map(share).collect();
        assert_eq!(joined.leader == caller.member, !shares.is_empty());
        let synced = self.group.sync(caller, generation, &shares, self.now_ms);
        if let (Ok(Some(_)), false) = (&synced, shares.is_empty()) {
            self.brought.entry(generation.0).or_insert_with(|| shares.into_iter().collect());
        }
        self.take(caller, joined, synced)
    }

    fn take(
        &mut self,
        caller: &Caller,
        joined: Joined,
        synced: Result<Option<Rc<[u8]>>, Refused>,
    ) -> Result<At, Refused> {
        let Some(assignment) = synced? else { return Ok(At::Waiting(joined)) };
        let brought = &self.brought[&joined.generation.0];
        // Whoever took a place finds what was meant for the one before it.
        let is_own = brought.get(&caller.member) == Some(&assignment);
        assert!(
            is_own || (caller.instance.is_some() && brought.values().any(|b| *b == assignment))
        );
        self.assigned += 1;
        Ok(At::Assigned(joined.generation))
    }

    fn step(&mut self) {
        self.now_ms += self.dice.below(2_000);
        let count = self.clients.len() as u64;
        match self.dice.below(30) {
            0 if count < 8 => {
                self.named += 1;
                let place = match self.dice.below(3) {
                    0 => format!("place {}", self.named),
                    _ => String::new(),
                };
                self.clients.push((caller(&format!("{}@{place}", self.named)), At::Away));
            }
            1 if count > 0 => {
                let (caller, _) = self.clients.remove(self.dice.below(count) as usize);
                let _ = self.group.leave(&caller, self.now_ms);
            }
            2 if count > 0 => {
                // Started anew; who has no place is forgotten by and by.
                let (before, _) = self.clients.remove(self.dice.below(count) as usize);
                self.named += 1;
                let place = before.instance.as_ref().map_or("", |place| place.0.as_str());
                self.clients.push((caller(&format!("{}@{place}", self.named)), At::Away));
            }
            3..=5 => drop(self.group.pass_time(&POLICY, self.now_ms)),
            _ if count > 0 => {
                let at = self.dice.below(count) as usize;
                self.act(at);
            }
            _ => {}
        }
    }
}

#[test]
fn classic_members_agree_on_every_generation() {
    let mut assigned = 0;
    for seed in 0..300 {
        let mut world = ClassicWorld {
            dice: Dice::new(seed),
            group: StreamGroup::new(0),
            now_ms: 0,
            clients: Vec::new(),
            named: 0,
            brought: BTreeMap::new(),
            assigned: 0,
        };
        let mut generation = 0;
        for step in 0..800 {
            world.step();
            let now = world.group.generation().0;
            assert!(now >= generation, "seed {seed} step {step}");
            generation = now;
            if step % 50 == 0 {
                let restored = StreamGroup::restore(world.group.save()).unwrap();
                assert_eq!(restored, world.group);
                world.group = restored;
            }
        }
        for _ in 0..400 {
            world.now_ms += 2_000;
            world.group.pass_time(&POLICY, world.now_ms);
            (0..world.clients.len()).rev().for_each(|at| world.act(at));
        }
        let is_stable = |(_, at): &(Caller, At)| *at == At::Assigned(world.group.generation());
        assert!(world.clients.iter().all(is_stable), "seed {seed}: {:?}", world.clients);
        assert_eq!(world.group.members().count(), world.clients.len(), "seed {seed}");
        assigned += world.assigned;
    }
    assert!(assigned > 5_000, "{assigned}");
}
