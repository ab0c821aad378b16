//! A stream group and those around it: who is there, when all have to go, when nothing happens any
//! more; whoever resets it, and whoever looks whether it is at rest.
//!
//! Owns: what members agree on behind the broker's back. Must never: tell a member what it is to
//! read; only the broker does.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;
use std::time::Duration;

use barrage_model::{GroupId, Offset, PartitionKey};
use barrage_wire::{
    Assignor, ErrorCode, NewGroup, Request, ResetTo, Response, Standing, Stored, StreamCommit,
    StreamDescribe, StreamDescription, StreamOffset, StreamOffsets, StreamReset,
};
use barrage_world::sim::Rng;
use barrage_world::{Instant, sleep};

use super::client::{Client, Refusal, Topic};
use super::draw::{between, milliseconds, pick};
use super::worker::make_group;
use crate::history::Call;

const PAUSE: Duration = milliseconds(150);
/// How long members have to go before a reset is given up: the shortest session, and some time.
const EMPTY_WITHIN: Duration = milliseconds(9_000);
/// How long a group stays at rest, at least; and how often every member is heard of meanwhile.
const CALM_FOR: Duration = milliseconds(4_000);
const HEARD_MIN: u64 = 3;

/// A stream group that is to be there.
#[derive(Clone, Debug)]
pub(crate) struct CompanyPlan {
    pub(crate) name: &'static str,
    pub(crate) assignor: Assignor,
    pub(crate) session_ms: u64,
    pub(crate) rebalance_ms: u64,
    /// Between two resets; none are tried without it.
    pub(crate) reset_every: Option<Duration>,
}

impl CompanyPlan {
    pub(crate) fn draw(random: &mut Rng) -> Self {
        let assignors = [Assignor::Sticky, Assignor::Range, Assignor::RoundRobin];
        let reset_every = milliseconds(random.between(1_500, 7_000));
        Self {
            name: "readers",
            assignor: *pick(random, &assignors),
            session_ms: *pick(random, &[6_000, 6_000, 9_000]),
            rebalance_ms: *pick(random, &[1_000, 3_000, 60_000]),
            reset_every: random.one_in(2).then_some(reset_every),
        }
    }
}

/// A stream group, as all its clients see it.
#[derive(Clone)]
pub(crate) struct Company {
    pub(crate) plan: CompanyPlan,
    pub(crate) id: GroupId,
    pub(crate) topics: Vec<Topic>,
    shared: Rc<Shared>,
}

#[derive(Default)]
struct Shared {
    /// Everybody goes: somebody is about to reset.
    is_closed: Cell<bool>,
    /// Nobody comes, goes or errs any more.
    is_calm: Cell<bool>,
    /// How many come in all.
    wanted: Cell<usize>,
    /// Members that were told that they are, and how often since the group came to rest.
    present: RefCell<BTreeMap<String, u64>>,
}

impl Company {
    /// Makes the group of all these topics, however often that has to be tried.
    pub(crate) async fn make(client: &mut Client, topics: &[Topic], plan: &CompanyPlan) -> Self {
        let mut id = GroupId(0);
        for topic in topics {
            id = make_group(client, topic, plan.name, NewGroup::Stream).await;
            client.witness().group_reads(plan.name, topic);
        }
        Self { plan: plan.clone(), id, topics: topics.to_vec(), shared: Rc::default() }
    }

    /// All partitions that it reads.
    pub(crate) fn keys(&self) -> Vec<PartitionKey> {
        let of = |topic: &Topic| -> Vec<PartitionKey> {
            (0..topic.partitions).map(|number| topic.key(number)).collect()
        };
        self.topics.iter().flat_map(of).collect()
    }

    /// Whether members have to go for now.
    pub(super) fn is_closed(&self) -> bool {
        self.shared.is_closed.get() && !self.is_calm()
    }

    /// Whether nobody comes, goes or errs any more.
    pub(super) fn is_calm(&self) -> bool {
        self.shared.is_calm.get()
    }

    /// One more client of the group will be a member.
    pub(super) fn enlist(&self) {
        self.shared.wanted.set(self.shared.wanted.get() + 1);
    }

    /// A member was told that it is one.
    pub(super) fn came(&self, member: &str) {
        *self.shared.present.borrow_mut().entry(member.to_owned()).or_default() += 1;
    }

    /// A member is none any more, or says nothing for a while.
    pub(super) fn went(&self, member: &str) {
        self.shared.present.borrow_mut().remove(member);
    }

    fn all_are_there(&self) -> bool {
        self.shared.present.borrow().len() == self.shared.wanted.get()
    }

    fn all_were_heard(&self) -> bool {
        self.shared.present.borrow().values().all(|heard| *heard >= HEARD_MIN)
    }

    /// What is stored of these partitions; none when that cannot be told now.
    pub(super) async fn stored(
        &self,
        client: &mut Client,
        keys: &[PartitionKey],
    ) -> Option<BTreeMap<PartitionKey, u64>> {
        let (witness, name) = (client.witness(), client.name.clone());
        let ask = |key: &PartitionKey| witness.ask_stored(&name, self.plan.name, *key);
        let calls: Vec<Call> = keys.iter().map(ask).collect();
        let request = Request::StreamOffsets(StreamOffsets { group: self.id, keys: keys.to_vec() });
        let asked_at = Instant::now();
        let asked = client.ask_coordinator(self.id, &request, |response| match response {
            Response::StreamOffsets(reply) => Some(reply.offsets.clone()),
            _ => None,
        });
        match asked.await {
            Ok(found) => {
                let found: BTreeMap<PartitionKey, u64> =
                    found.into_iter().map(|row| (row.key, row.offset.0)).collect();
                for (call, key) in calls.into_iter().zip(keys) {
                    witness.stored(call, found.get(key).copied());
                }
                Some(found)
            }
            Err(refusal) => {
                self.refused(client, calls, &refusal, asked_at, "ask for offsets of");
                None
            }
        }
    }

    /// Tells the history of a refusal, and objects to one that nothing explains.
    pub(super) fn refused(
        &self,
        client: &Client,
        calls: Vec<Call>,
        refusal: &Refusal,
        asked_at: Instant,
        what: &str,
    ) {
        let witness = client.witness();
        tracing::debug!(member = %client.name, what, ?refusal, "refused");
        if refusal.code().is_none_or(ErrorCode::is_outcome_unknown) {
            witness.count_stream(|counts| counts.unknown += 1);
        }
        calls.into_iter().for_each(|call| witness.refused(call, refusal.code()));
        if let Refusal::Error(error) = refusal {
            client.judge(error, asked_at, &format!("{what} group {}", self.plan.name));
        }
    }

    async fn describe(&self, client: &mut Client, topic: &Topic) -> Option<StreamDescription> {
        let describe = StreamDescribe { group: self.id, topic: topic.id };
        let request = Request::StreamDescribe(describe);
        let asked = client.ask_coordinator(self.id, &request, |response| match response {
            Response::StreamDescribe(description) => Some(description.clone()),
            _ => None,
        });
        asked.await.ok()
    }

    /// What keeps the group from being at rest.
    async fn unrest(&self, client: &mut Client) -> Option<String> {
        if !self.all_are_there() {
            return Some(format!("not all are there: {:?}", self.shared.present.borrow()));
        }
        for topic in &self.topics {
            let Some(described) = self.describe(client, topic).await else {
                return Some("nobody describes it".to_owned());
            };
            let members = described.members.iter().map(|row| row.member.id.clone());
            let members: BTreeSet<String> = members.collect();
            let present: BTreeSet<String> = self.shared.present.borrow().keys().cloned().collect();
            if described.standing != Standing::Stable || members != present {
                return Some(format!("{described:?}; there are {present:?}"));
            }
        }
        None
    }
}

/// Lets a group come to rest in time, and looks for a while whether it stays so.
pub(crate) async fn come_to_rest(
    mut client: Client,
    company: Company,
    within: Duration,
) -> Result<(), String> {
    company.shared.is_calm.set(true);
    let deadline = Instant::now() + within;
    while let Some(unrest) = company.unrest(&mut client).await {
        if Instant::now() > deadline {
            client.hang_up();
            return Err(format!("liveness: a stream group does not come to rest: {unrest}"));
        }
        sleep(PAUSE).await;
    }
    let witness = client.witness();
    witness.group_is_calm(company.plan.name);
    company.shared.present.borrow_mut().values_mut().for_each(|heard| *heard = 0);
    let (calm_for, deadline) = (Instant::now() + CALM_FOR, Instant::now() + within);
    while Instant::now() < calm_for || !company.all_were_heard() {
        if Instant::now() > deadline {
            let present = company.shared.present.borrow();
            return Err(format!("liveness: not all members are heard of: {present:?}"));
        }
        sleep(PAUSE).await;
    }
    witness.group_is_stirred(company.plan.name);
    client.hang_up();
    Ok(())
}

/// Sends all members away now and then, and sets offsets back or forth.
pub(crate) async fn keep_resetting(mut client: Client, company: Company) {
    let Some(every) = company.plan.reset_every else { return };
    let is_over = |client: &Client| client.is_stopped() || company.is_calm();
    loop {
        let next = Instant::now() + between(&mut client.random, &(every / 2..=every));
        while Instant::now() < next && !is_over(&client) {
            sleep(PAUSE).await;
        }
        if is_over(&client) {
            break;
        }
        company.shared.is_closed.set(true);
        let until = Instant::now() + EMPTY_WITHIN;
        while Instant::now() < until && !is_over(&client) {
            if reset(&mut client, &company).await {
                break;
            }
            sleep(PAUSE).await;
        }
        company.shared.is_closed.set(false);
    }
    client.hang_up();
}

/// Sets the offsets of some partitions, once; whether that was done.
async fn reset(client: &mut Client, company: &Company) -> bool {
    let (witness, group) = (client.witness(), company.plan.name);
    let mut to: Vec<(PartitionKey, u64)> = Vec::new();
    for key in company.keys() {
        // Back, mostly: what lies before is not read again by itself.
        let end = witness.bounds(key).high_watermark;
        let most = if client.random.one_in(4) { end } else { end / 2 };
        if !client.random.one_in(3) {
            to.push((key, client.random.between(0, most)));
        }
    }
    if to.is_empty() {
        to.extend(company.keys().first().map(|key| (*key, 0)));
    }
    let name = client.name.clone();
    let calls: Vec<Call> = to.iter().map(|one| witness.reset(&name, group, *one)).collect();
    let rows = to.iter().map(|(key, offset)| ResetTo { key: *key, offset: Offset(*offset) });
    let request = Request::StreamReset(StreamReset { group: company.id, to: rows.collect() });
    let asked_at = Instant::now();
    let asked = client.ask_coordinator(company.id, &request, |response| match response {
        Response::StreamReset(reply) => Some(reply.results.clone()),
        _ => None,
    });
    match asked.await {
        Ok(results) if results.len() == calls.len() => {
            for ((call, result), (key, _)) in calls.into_iter().zip(results).zip(&to) {
                match result {
                    Stored::Done => witness.done(call),
                    other => {
                        witness.object(format!("a reset of {key} was answered by {other:?}"));
                        witness.fail(call, "not stored");
                    }
                }
            }
            witness.count_stream(|counts| counts.resets += 1);
        }
        Ok(results) => {
            witness.object(format!("{} results of {} resets", results.len(), calls.len()));
            calls.into_iter().for_each(|call| witness.info(call, "no result"));
        }
        Err(refusal) if refusal.code() == Some(ErrorCode::GroupHasMembers) => {
            witness.count_stream(|counts| counts.resets_refused += 1);
            calls.into_iter().for_each(|call| witness.refused(call, refusal.code()));
            return false;
        }
        Err(refusal) => {
            company.refused(client, calls, &refusal, asked_at, "reset");
            return false;
        }
    }
    let keys: Vec<PartitionKey> = to.iter().map(|(key, _)| *key).collect();
    let found = company.stored(client, &keys).await;
    if let Some((key, offset)) = found.and_then(|found| found.into_iter().next()) {
        commit_as_nobody(client, company, (key, offset)).await;
    }
    true
}

/// Stores an offset without being a member: where there are members that is refused.
async fn commit_as_nobody(client: &mut Client, company: &Company, one: (PartitionKey, u64)) {
    let witness = client.witness();
    let call = witness.commit(&client.name, company.plan.name, None, one);
    let (key, offset) = (one.0, Offset(one.1));
    let offsets = vec![StreamOffset { key, offset, leader_epoch: None, metadata: String::new() }];
    let commit = StreamCommit { group: company.id, committer: None, offsets };
    let asked_at = Instant::now();
    let request = Request::StreamCommit(commit);
    let asked = client.ask_coordinator(company.id, &request, |response| match response {
        Response::StreamCommit(reply) => reply.results.first().copied(),
        _ => None,
    });
    match asked.await {
        Ok(Stored::Done) => witness.done(call),
        Ok(_) => witness.fail(call, "not stored"),
        Err(refusal) if refusal.code() == Some(ErrorCode::GroupHasMembers) => {
            witness.refused(call, refusal.code());
        }
        Err(refusal) => company.refused(client, vec![call], &refusal, asked_at, "commit to"),
    }
}
