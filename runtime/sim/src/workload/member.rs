//! A member of a stream group: says that it is there, reads what it is told to, commits, lets go;
//! and errs: it falls silent and comes back, leaves, commits too late, too low or what is not its.
//!
//! ```text
//!   a life: joins under an id of its own -> heartbeats, reads, commits -> leaves, is gone, falls
//!           silent for ever (its ghost commits once more), or for a while
//! ```
//!
//! Owns: positions, and what a member may be answered. Must never: read on from anything but what
//! is stored, or the start where nothing is; commit behind what it has read.

mod mistakes;

use std::collections::BTreeMap;
use std::ops::RangeInclusive;
use std::time::Duration;

use barrage_model::{Offset, PartitionKey};
use barrage_wire::{
    At, ErrorCode, Request, Response, Stored, StreamBeat, StreamCommit, StreamCommitter,
    StreamHeartbeat, StreamHeartbeatReply, StreamLeave, StreamMember, StreamOffset, StreamReads,
};
use barrage_world::sim::Rng;
use barrage_world::{Instant, sleep};

use super::client::{Client, Refusal};
use super::company::Company;
use super::consumer::{Fetched, Wanted, fetch, list_offset};
use super::draw::{between, milliseconds, pick};
use super::witness::Beat;
use crate::history::{Call, Name};

const PAUSE: Duration = milliseconds(50);
/// A heartbeat that was not answered is said again after this.
const BEAT_AGAIN: Duration = milliseconds(100);

/// One client of a stream group.
#[derive(Clone, Debug)]
pub(crate) struct MemberPlan {
    /// It keeps its place from one life to the next.
    pub(crate) has_instance: bool,
    pub(crate) bytes_max: u32,
    pub(crate) wait_ms: u32,
    pub(crate) think_time: RangeInclusive<Duration>,
    pub(crate) commit_one_in: u64,
    /// It takes its time with what it is to give up: once in so many turns it lets go.
    pub(crate) let_go_one_in: u64,
    /// What it should not do, or need not, once in so many turns each.
    pub(crate) err_one_in: u64,
}

impl MemberPlan {
    pub(crate) fn draw(random: &mut Rng) -> Self {
        Self {
            has_instance: random.one_in(3),
            bytes_max: *pick(random, &[1, 2_000, 40_000]),
            wait_ms: *pick(random, &[0, 50, 400]),
            think_time: milliseconds(1)..=milliseconds(random.between(20, 150)),
            commit_one_in: *pick(random, &[1, 3, 10]),
            let_go_one_in: *pick(random, &[1, 1, 5, 40]),
            err_one_in: *pick(random, &[40, 100, 400]),
        }
    }

    /// Reads everything, and does nothing wrong.
    fn last() -> Self {
        Self {
            has_instance: false,
            bytes_max: 1 << 20,
            wait_ms: 0,
            think_time: milliseconds(1)..=milliseconds(1),
            commit_one_in: 1,
            let_go_one_in: 1,
            err_one_in: u64::MAX,
        }
    }
}

/// A partition that a member has.
#[derive(Clone, Copy, Default, Debug)]
struct Part {
    /// The next offset to read; none until it is known where to begin.
    position: Option<u64>,
    committed: Option<u64>,
    is_given_up: bool,
    /// It was read up to its end.
    is_at_end: bool,
}

/// As which member a client is there.
#[derive(Clone, Debug)]
struct Life {
    id: String,
    generation: Option<u32>,
    /// The one before.
    former: Option<u32>,
    parts: BTreeMap<PartitionKey, Part>,
    /// What it had, and how far it read that.
    had: BTreeMap<PartitionKey, u64>,
    due: Instant,
}

/// What became of a commit.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Committed {
    /// Every offset has its answer.
    Answered,
    Refused(Option<ErrorCode>),
}

/// See the module.
pub(crate) struct Member {
    client: Client,
    /// The client's, whoever it is there as.
    name: Name,
    company: Company,
    plan: MemberPlan,
    lives: u64,
    life: Life,
    /// A former life that has not said its last word.
    ghost: Option<Life>,
}

impl Member {
    pub(crate) fn new(client: Client, company: Company, plan: MemberPlan) -> Self {
        company.enlist();
        Self::within(client, company, plan)
    }

    fn within(client: Client, company: Company, plan: MemberPlan) -> Self {
        let name = client.name.clone();
        let life = Life::new(&name, 0);
        let mut member = Self { client, name, company, plan, lives: 0, life, ghost: None };
        member.be_born();
        member
    }

    /// Is a member until it is told to stop.
    pub(crate) async fn run(mut self) {
        while !self.client.is_stopped() {
            if self.company.is_closed() {
                self.leave().await;
                while self.company.is_closed() && !self.client.is_stopped() {
                    sleep(PAUSE).await;
                }
                continue;
            }
            self.turn().await;
            if !self.company.is_calm() {
                self.err().await;
            }
            sleep(between(&mut self.client.random, &self.plan.think_time)).await;
        }
        if self.client.random.one_in(2) {
            self.leave().await;
        }
        self.client.hang_up();
    }

    /// What a member does again and again.
    async fn turn(&mut self) {
        if Instant::now() >= self.life.due {
            self.beat().await;
        }
        self.let_go().await;
        self.open().await;
        self.read().await;
        if self.client.random.one_in(self.plan.commit_one_in) {
            self.commit().await;
        }
    }

    /// Comes as the only member, reads everything to its end, commits and leaves; answers up to
    /// where that is in all partitions together.
    pub(crate) async fn finish(
        client: Client,
        company: Company,
        within: Duration,
    ) -> Result<u64, String> {
        let mut member = Self::within(client, company.clone(), MemberPlan::last());
        let (keys, deadline) = (company.keys(), Instant::now() + within);
        let is_done = |life: &Life| {
            let done = |part: &Part| part.is_at_end && part.committed == part.position;
            keys.iter().all(|key| life.parts.get(key).is_some_and(done))
        };
        while !is_done(&member.life) {
            if Instant::now() > deadline {
                let life = &member.life;
                return Err(format!("liveness: the last member has not read everything: {life:?}"));
            }
            member.turn().await;
            sleep(PAUSE / 5).await;
        }
        let ends: BTreeMap<PartitionKey, u64> = (member.life.parts.iter())
            .filter_map(|(key, part)| Some((*key, part.position?)))
            .collect();
        member.leave().await;
        // As anybody may ask who is no member: what was acknowledged is there.
        while company.stored(&mut member.client, &keys).await.is_none() {
            if Instant::now() > deadline {
                return Err("liveness: nobody tells what is stored".to_owned());
            }
            sleep(PAUSE).await;
        }
        member.client.hang_up();
        Ok(ends.values().sum())
    }

    /// Is somebody else from here on.
    fn be_born(&mut self) {
        self.company.went(&self.life.id);
        self.lives += 1;
        self.life = Life::new(&self.name, self.lives);
        // The history knows members, not those who come as one after the other.
        self.client.name = Name::from(self.life.id.as_str());
    }

    fn instance(&self) -> Option<String> {
        self.plan.has_instance.then(|| self.name.as_str().to_owned())
    }

    fn speaker(&self, life: &Life) -> StreamMember {
        StreamMember { id: life.id.clone(), instance: self.instance() }
    }

    async fn beat(&mut self) {
        let (witness, plan) = (self.client.witness(), &self.company.plan);
        let held: Vec<PartitionKey> = self.life.parts.keys().copied().collect();
        let generation = self.life.generation;
        let beat = match generation {
            None => StreamBeat::Join {
                reads: StreamReads {
                    topics: self.company.topics.iter().map(|topic| topic.id).collect(),
                    assignor: plan.assignor,
                },
                session_ms: plan.session_ms,
                rebalance_ms: plan.rebalance_ms,
            },
            Some(generation) => {
                StreamBeat::Stay { generation, held: Some(held.clone()), reads: None }
            }
        };
        // A heartbeat that brings nothing new may leave a third of the session as it is.
        let lasts = milliseconds((plan.session_ms / 3 * 2).min(plan.rebalance_ms));
        let instance = self.instance();
        let said = Beat { generation, held: &held, instance: instance.as_deref(), lasts };
        let call = witness.beat(&self.client.name, plan.name, said);
        let (group, member) = (self.company.id, self.speaker(&self.life));
        let request = Request::StreamHeartbeat(StreamHeartbeat { group, member, beat });
        let asked_at = Instant::now();
        self.life.due = asked_at + BEAT_AGAIN;
        let asked = self.client.ask_coordinator(group, &request, |response| match response {
            Response::StreamHeartbeat(reply) => Some(reply.clone()),
            _ => None,
        });
        match asked.await {
            Ok(told) => {
                tracing::debug!(member = %self.life.id, ?asked_at, ?told, "told");
                witness.told(call, &told);
                self.life.due = asked_at + milliseconds(u64::from(told.interval_ms));
                self.hear(&told);
            }
            Err(refusal) => self.unheard(call, &refusal, asked_at),
        }
    }

    fn unheard(&mut self, call: Call, refusal: &Refusal, asked_at: Instant) {
        let witness = self.client.witness();
        tracing::debug!(member = %self.life.id, ?asked_at, ?refusal, "unheard");
        match refusal.code() {
            Some(ErrorCode::UnknownMember) => {
                witness.is_no_member(call);
                self.be_born();
            }
            Some(ErrorCode::MemberFenced) => {
                witness.refused(call, refusal.code());
                self.be_born();
            }
            Some(ErrorCode::StaleGeneration) => {
                // It missed what it was told, and joins as the one it is.
                witness.refused(call, refusal.code());
                self.life.generation = None;
            }
            _ => {
                self.company.refused(&self.client, vec![call], refusal, asked_at, "be heard in");
            }
        }
    }

    /// Goes by what it was told.
    fn hear(&mut self, told: &StreamHeartbeatReply) {
        let witness = self.client.witness();
        let is_wrong =
            told.member != self.life.id || told.own.iter().any(|key| told.give_up.contains(key));
        if is_wrong {
            witness.object(format!("{} was told {told:?}", self.life.id));
        }
        self.company.came(&self.life.id);
        let life = &mut self.life;
        if life.generation != Some(told.generation) {
            life.former = life.generation.or(life.former);
            life.generation = Some(told.generation);
            let in_trouble = !witness.disturbances.calm_since(Instant::now());
            witness.count_stream(|counts| {
                counts.generations += 1;
                counts.generations_in_trouble += u64::from(in_trouble);
            });
        }
        let Life { parts, had, .. } = life;
        parts.retain(|key, part| {
            let has = told.own.contains(key) || told.give_up.contains(key);
            if !has {
                had.insert(*key, part.position.unwrap_or(0));
            }
            has
        });
        for key in &told.give_up {
            let part = parts.entry(*key).or_default();
            if !std::mem::replace(&mut part.is_given_up, true) {
                witness.count_stream(|counts| counts.given_up += 1);
            }
        }
        for key in &told.own {
            if parts.get(key).is_some_and(|part| part.is_given_up) {
                // Given back before it was let go: it is read on from what is stored.
                parts.remove(key);
            }
            parts.entry(*key).or_default();
        }
    }

    /// Lets go of what it is to give up, with a last commit.
    async fn let_go(&mut self) {
        let is_given_up = |part: &Part| part.is_given_up;
        let lets_go = self.company.is_calm() || self.client.random.one_in(self.plan.let_go_one_in);
        if !lets_go || !self.life.parts.values().any(is_given_up) {
            return;
        }
        self.commit().await;
        let Life { parts, had, due, .. } = &mut self.life;
        parts.retain(|key, part| {
            if part.is_given_up {
                had.insert(*key, part.position.unwrap_or(0));
            }
            !part.is_given_up
        });
        *due = Instant::now();
    }

    /// Finds out where to begin with what is new.
    async fn open(&mut self) {
        let is_new = |part: &Part| part.position.is_none() && !part.is_given_up;
        let new = self.life.parts.iter().filter(|(_, part)| is_new(part));
        let keys: Vec<PartitionKey> = new.map(|(key, _)| *key).collect();
        if keys.is_empty() {
            return;
        }
        let Some(stored) = self.company.stored(&mut self.client, &keys).await else { return };
        // One at a time is asked for its start: it has to be heard of in between.
        let mut is_asked = false;
        for key in keys {
            let committed = stored.get(&key).copied();
            let position = match committed {
                Some(offset) => Some(offset),
                None if std::mem::replace(&mut is_asked, true) => continue,
                None => list_offset(&mut self.client, key, At::Start).await,
            };
            if let Some(part) = self.life.parts.get_mut(&key) {
                (part.position, part.committed) = (position, committed);
            }
        }
    }

    /// Reads on in one of its partitions.
    async fn read(&mut self) {
        let readable = self.life.parts.iter().filter(|(_, part)| !part.is_given_up);
        let readable: Vec<(PartitionKey, u64)> =
            readable.filter_map(|(key, part)| Some((*key, part.position?))).collect();
        if readable.is_empty() {
            return;
        }
        let (key, offset) = *pick(&mut self.client.random, &readable);
        let MemberPlan { bytes_max, wait_ms, .. } = self.plan;
        let wanted = Wanted { key, offset, bytes_max, bytes_min: 1, wait_ms };
        match fetch(&mut self.client, wanted).await {
            Fetched::Next { offset: next, high_watermark } => {
                if high_watermark == u64::MAX {
                    sleep(PAUSE).await;
                }
                if let Some(part) = self.life.parts.get_mut(&key) {
                    part.position = Some(next);
                    part.is_at_end = next == high_watermark;
                }
            }
            Fetched::Nothing | Fetched::Gone => sleep(PAUSE).await,
        }
    }

    /// Commits what it has read.
    async fn commit(&mut self) {
        let new = |(key, part): (&PartitionKey, &Part)| {
            let position = part.position.filter(|position| part.committed != Some(*position))?;
            Some((*key, position))
        };
        let offsets: Vec<(PartitionKey, u64)> = self.life.parts.iter().filter_map(new).collect();
        let Some(generation) = self.life.generation.filter(|_| !offsets.is_empty()) else { return };
        let life = self.life.clone();
        match self.store(&life, generation, &offsets).await {
            Committed::Refused(Some(ErrorCode::StaleGeneration)) => self.life.due = Instant::now(),
            Committed::Refused(Some(ErrorCode::UnknownMember | ErrorCode::MemberFenced)) => {
                self.be_born();
            }
            Committed::Refused(_) => {}
            Committed::Answered => {
                for (key, offset) in offsets {
                    if let Some(part) = self.life.parts.get_mut(&key) {
                        part.committed = Some(offset);
                    }
                }
            }
        }
    }

    /// Stores offsets as one of its lives.
    async fn store(
        &mut self,
        life: &Life,
        generation: u32,
        offsets: &[(PartitionKey, u64)],
    ) -> Committed {
        let (witness, group) = (self.client.witness(), self.company.plan.name);
        let name = Name::from(life.id.as_str());
        let begin =
            |one: &(PartitionKey, u64)| witness.commit(&name, group, Some(generation), *one);
        let calls: Vec<Call> = offsets.iter().map(begin).collect();
        let committer = Some(StreamCommitter { member: self.speaker(life), generation });
        let row = |(key, offset): &(PartitionKey, u64)| {
            let (leader_epoch, metadata) = (None, String::new());
            StreamOffset { key: *key, offset: Offset(*offset), leader_epoch, metadata }
        };
        let (group, offsets_of) = (self.company.id, offsets.iter().map(row).collect());
        let commit = StreamCommit { group, committer, offsets: offsets_of };
        let asked_at = Instant::now();
        let request = Request::StreamCommit(commit);
        let asked = self.client.ask_coordinator(group, &request, |response| match response {
            Response::StreamCommit(reply) => Some(reply.results.clone()),
            _ => None,
        });
        let asked = asked.await;
        if let Ok(results) = &asked
            && results.len() != calls.len()
        {
            witness.object(format!("{} results of {} commits", results.len(), calls.len()));
        }
        match asked {
            Ok(results) => {
                for ((call, result), (key, offset)) in calls.into_iter().zip(results).zip(offsets) {
                    self.stored(call, result, *key, *offset);
                }
                Committed::Answered
            }
            Err(refusal) => {
                let code = refusal.code();
                match code {
                    Some(
                        ErrorCode::StaleGeneration
                        | ErrorCode::UnknownMember
                        | ErrorCode::MemberFenced,
                    ) => {
                        witness.count_stream(|counts| match code {
                            Some(ErrorCode::StaleGeneration) => counts.stale_refused += 1,
                            _ => counts.late_refused += 1,
                        });
                        calls.into_iter().for_each(|call| witness.refused(call, code));
                    }
                    _ => self.company.refused(&self.client, calls, &refusal, asked_at, "commit to"),
                }
                Committed::Refused(code)
            }
        }
    }

    /// What became of one offset.
    fn stored(&self, call: Call, result: Stored, key: PartitionKey, offset: u64) {
        let witness = self.client.witness();
        match result {
            Stored::Done => {
                witness.count_stream(|counts| counts.stored += 1);
                return witness.done(call);
            }
            Stored::NotOwner => witness.count_stream(|counts| counts.foreign_refused += 1),
            Stored::Behind { stored } if stored.0 > offset => {
                witness.count_stream(|counts| counts.lower_refused += 1);
            }
            other => {
                witness
                    .object(format!("{offset} of {key} was committed and answered by {other:?}"));
            }
        }
        witness.fail(call, "not stored");
    }

    /// Leaves the group, if it may be in it.
    async fn leave(&mut self) {
        if self.life.generation.is_some() {
            if self.client.random.one_in(2) {
                self.commit().await;
            }
            let (witness, group) = (self.client.witness(), self.company.id);
            let call = witness.leave(&self.client.name, self.company.plan.name);
            let member = self.speaker(&self.life);
            let request = Request::StreamLeave(StreamLeave { group, member });
            let asked_at = Instant::now();
            let asked = self.client.ask_coordinator(group, &request, |response| {
                matches!(response, Response::StreamLeave).then_some(())
            });
            match asked.await {
                Ok(()) => {
                    witness.count_stream(|counts| counts.left += 1);
                    witness.done(call);
                }
                Err(refusal) => match refusal.code() {
                    Some(ErrorCode::UnknownMember | ErrorCode::MemberFenced) => {
                        witness.refused(call, refusal.code());
                    }
                    _ => {
                        self.company.refused(&self.client, vec![call], &refusal, asked_at, "leave")
                    }
                },
            }
        }
        self.be_born();
    }
}

impl Life {
    fn new(client: &Name, number: u64) -> Self {
        Self {
            id: format!("{client}.{number}"),
            generation: None,
            former: None,
            parts: BTreeMap::new(),
            had: BTreeMap::new(),
            due: Instant::now(),
        }
    }
}
