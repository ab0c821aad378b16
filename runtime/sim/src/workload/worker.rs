//! A worker of a queue group: leases records, and acks them, gives them back, keeps them for longer
//! or forgets them; tells the history what it was given and what became of it.
//!
//! Owns: what a receive and a settlement may be answered. Must never: settle what it was not given.

use std::mem;
use std::ops::RangeInclusive;
use std::time::Duration;

use barrage_model::group::Order;
use barrage_model::{GroupId, Offset, PartitionKey};
use barrage_wire::{
    ErrorCode, GroupCreate, GroupList, GroupSettings, Lease, NewGroup, QueueCounts,
    QueueCountsReply, QueueReceive, QueueReceiveReply, QueueSettle, Receipt, Request, Response,
    Settled, Settlement as Fate,
};
use barrage_world::sim::Rng;
use barrage_world::{Instant, sleep};

use super::batch;
use super::client::{Client, Refusal, Topic};
use super::draw::{between, milliseconds, pick};
use crate::history::{Call, Fingerprint, Settlement, Taken};

const PAUSE: Duration = milliseconds(15);
/// Until somebody leads, or is known to.
const PAUSE_WITHOUT_LEADER: Duration = milliseconds(30);
/// How long the last reading leases records, in milliseconds: nothing comes back meanwhile.
const LAST_VISIBILITY_MS: u64 = 600_000;
/// So long after a lease has ended somebody else has the record, often.
const LATE: Duration = milliseconds(300);
/// Between two looks whether anything is left.
const LOOK_EVERY: Duration = milliseconds(200);

/// A queue group that is to be there.
#[derive(Clone, Debug)]
pub(crate) struct GroupPlan {
    pub(crate) name: &'static str,
    pub(crate) deliveries_max: Option<u16>,
    pub(crate) max_age_ms: Option<u64>,
    /// Its topic's.
    pub(crate) ttl_ms: Option<u64>,
    pub(crate) dead_letter: &'static str,
    pub(crate) backoff: &'static str,
    /// One that lets everything through: what it does to a record must not show.
    pub(crate) filter: Option<&'static str>,
    pub(crate) order: Order,
}

impl GroupPlan {
    /// Whether there are dead letters.
    fn gives_up(&self) -> bool {
        self.deliveries_max.is_some() || self.age_max_ms().is_some()
    }

    /// How old a record is at most that is delivered, in milliseconds.
    fn age_max_ms(&self) -> Option<u64> {
        self.max_age_ms.into_iter().chain(self.ttl_ms).min()
    }

    /// The same; any for zero.
    pub(crate) fn wanted_for(&self) -> Duration {
        Duration::from_millis(self.age_max_ms().unwrap_or(0))
    }

    /// How old a dead letter is at least.
    pub(crate) fn gives_up_after(&self) -> Duration {
        let by_age = self.age_max_ms().filter(|_| self.deliveries_max.is_none());
        Duration::from_millis(by_age.unwrap_or(0))
    }
}

/// A queue group of a topic.
#[derive(Clone, Debug)]
pub(crate) struct Group {
    pub(crate) name: &'static str,
    pub(crate) id: GroupId,
    pub(crate) topic: Topic,
}

/// One worker.
#[derive(Clone, Debug)]
pub(crate) struct WorkerPlan {
    pub(crate) count_max: u32,
    pub(crate) bytes_max: u32,
    pub(crate) visibility_ms: u64,
    pub(crate) wait_ms: u32,
    pub(crate) think_time: RangeInclusive<Duration>,
}

impl WorkerPlan {
    pub(crate) fn draw(random: &mut Rng) -> Self {
        Self {
            count_max: *pick(random, &[1, 5, 50, 500]),
            bytes_max: *pick(random, &[1, 20_000, 1 << 20]),
            visibility_ms: *pick(random, &[1_000, 2_500, 6_000]),
            wait_ms: *pick(random, &[0, 50, 1_000]),
            think_time: milliseconds(1)..=milliseconds(random.between(10, 400)),
        }
    }
}

/// Makes a group, however often that has to be tried.
pub(crate) async fn create_group(client: &mut Client, topic: &Topic, plan: &GroupPlan) -> Group {
    let settings = GroupSettings {
        visibility_ms: 30_000,
        deliveries_max: plan.deliveries_max,
        max_age_ms: plan.max_age_ms,
        dead_letter: plan.gives_up().then(|| plan.dead_letter.to_owned()),
        backoff: plan.backoff.to_owned(),
        filter: plan.filter.map(str::to_owned),
        order: plan.order,
    };
    let kind = NewGroup::Queue { settings, at_end: false };
    let id = make_group(client, topic, plan.name, kind).await;
    Group { name: plan.name, id, topic: topic.clone() }
}

/// Makes a group of either kind.
pub(super) async fn make_group(
    client: &mut Client,
    topic: &Topic,
    name: &str,
    kind: NewGroup,
) -> GroupId {
    let of = topic.name.clone();
    let request = Request::GroupCreate(GroupCreate { topic: of, name: name.to_owned(), kind });
    let mut unknown = false;
    loop {
        let asked_at = Instant::now();
        let made = client.ask(&request, Duration::ZERO, |response| match response {
            Response::GroupCreate(summary) => Some(summary.group),
            _ => None,
        });
        match made.await {
            Ok(id) => return id,
            Err(refusal) => match refusal.code() {
                Some(ErrorCode::GroupExists) if unknown => break,
                code => {
                    unknown |= code.is_none_or(ErrorCode::is_outcome_unknown);
                    if let Refusal::Error(error) = refusal {
                        client.judge(&error, asked_at, &format!("create group {name}"));
                    }
                }
            },
        }
        sleep(PAUSE).await;
    }
    let request = Request::GroupList(GroupList { topic: topic.name.clone() });
    loop {
        let may = |code| code == ErrorCode::UnknownTopic;
        let listed = client.insist(&request, may, |response| match response {
            Response::GroupList(reply) => Some(reply.groups.clone()),
            _ => None,
        });
        if let Some(group) = listed.await.into_iter().find(|group| group.name == name) {
            return group.group;
        }
        client.hang_up();
        sleep(PAUSE).await;
    }
}

/// A record that was given.
struct Given {
    key: PartitionKey,
    receipt: Receipt,
    taken: Taken,
}

/// See the module.
pub(crate) struct Worker {
    client: Client,
    group: Group,
    /// Acked when their leases are over and somebody else may have them.
    late: Vec<Given>,
    late_from: Instant,
}

impl Worker {
    pub(crate) fn new(client: Client, group: Group) -> Self {
        Self { client, group, late: Vec::new(), late_from: Instant::now() }
    }

    /// Works until it is told to stop.
    pub(crate) async fn run(mut self, plan: WorkerPlan) {
        while !self.client.is_stopped() {
            let partition = self.client.random.below(u64::from(self.group.topic.partitions)) as u32;
            let given = self.receive(partition, &plan).await;
            sleep(between(&mut self.client.random, &plan.think_time)).await;
            self.settle_all(given, &plan).await;
            if Instant::now() >= self.late_from {
                let late = mem::take(&mut self.late);
                self.settle(late, Fate::Ack).await;
            }
        }
        self.client.hang_up();
    }

    /// Receives and acks until nothing is left in any partition; false when that never comes.
    pub(crate) async fn finish(mut self, within: Duration) -> Result<u64, String> {
        let plan = WorkerPlan {
            count_max: 1_000,
            bytes_max: 1 << 20,
            visibility_ms: LAST_VISIBILITY_MS,
            wait_ms: 0,
            think_time: PAUSE..=PAUSE,
        };
        let (deadline, mut count) = (Instant::now() + within, 0);
        for partition in 0..self.group.topic.partitions {
            loop {
                let given = self.receive(partition, &plan).await;
                let is_empty = given.is_empty();
                count += given.len() as u64;
                self.settle(given, Fate::Ack).await;
                let left = self.counts(partition).await;
                let none = |left: &QueueCountsReply| {
                    left.visible + left.leased + left.delayed + left.dying == 0
                };
                if left.as_ref().is_some_and(none) {
                    break;
                }
                if Instant::now() > deadline {
                    self.client.hang_up();
                    return Err(format!("liveness: partition {partition} still holds {left:?}"));
                }
                if is_empty {
                    sleep(LOOK_EVERY).await;
                }
            }
        }
        self.client.hang_up();
        Ok(count)
    }

    async fn counts(&mut self, partition: u32) -> Option<QueueCountsReply> {
        let key = self.group.topic.key(partition);
        let request = Request::QueueCounts(QueueCounts { key, group: self.group.id });
        let asked =
            self.client.ask_leader(key, &request, Duration::ZERO, |response| match response {
                Response::QueueCounts(counts) => Some(*counts),
                _ => None,
            });
        asked.await.ok()
    }

    /// Leases records once.
    async fn receive(&mut self, partition: u32, plan: &WorkerPlan) -> Vec<Given> {
        let key = self.group.topic.key(partition);
        let visibility = Duration::from_millis(plan.visibility_ms);
        let witness = self.client.witness();
        let call = witness.take(&self.client.name, self.group.name, key, visibility);
        let request = Request::QueueReceive(QueueReceive {
            key,
            group: self.group.id,
            count_max: plan.count_max,
            bytes_max: plan.bytes_max,
            visibility_ms: Some(plan.visibility_ms),
            wait_ms: plan.wait_ms,
        });
        let asked_at = Instant::now();
        let wait = Duration::from_millis(u64::from(plan.wait_ms));
        let asked = self.client.ask_leader(key, &request, wait, |response| match response {
            Response::QueueReceive(QueueReceiveReply { leases, batches, .. }) => {
                Some((leases.clone(), batches.to_vec()))
            }
            _ => None,
        });
        match asked.await {
            Ok((leases, batches)) => match open(key, &leases, &batches, plan.count_max) {
                Ok(given) => {
                    witness.taken(call, given.iter().map(|one| one.taken).collect());
                    given
                }
                Err(reason) => {
                    witness.object(format!("I9: {key}: {reason}"));
                    witness.info(call, &reason);
                    Vec::new()
                }
            },
            Err(refusal) => {
                self.refused(call, key, refusal, asked_at, "receive from").await;
                Vec::new()
            }
        }
    }

    /// Does with what was given what workers do.
    async fn settle_all(&mut self, mut given: Vec<Given>, plan: &WorkerPlan) {
        while !given.is_empty() {
            let count = self.client.random.between(1, given.len() as u64) as usize;
            let rest = given.split_off(count);
            let fate = match self.client.random.below(20) {
                0..=12 => Fate::Ack,
                13 => Fate::Release,
                14 | 15 => Fate::Nack { delay_ms: None },
                16 => Fate::Nack { delay_ms: Some(self.client.random.between(0, 3_000)) },
                17 => Fate::Extend { visibility_ms: self.client.random.between(1_000, 4_000) },
                // They come back when their time is over: forgotten, or remembered too late.
                late => {
                    if late == 19 {
                        self.late = given;
                        let lease = Duration::from_millis(plan.visibility_ms);
                        self.late_from = Instant::now() + lease + LATE;
                    }
                    given = rest;
                    continue;
                }
            };
            self.settle(given, fate).await;
            given = rest;
        }
    }

    async fn settle(&mut self, given: Vec<Given>, fate: Fate) {
        let Some(first) = given.first() else { return };
        let (key, witness) = (first.key, self.client.witness());
        let how = match fate {
            Fate::Ack => Settlement::Ack,
            // The back-off of the group is never shorter than that.
            Fate::Nack { delay_ms } => {
                Settlement::Nack { delay: Duration::from_millis(delay_ms.unwrap_or(0)) }
            }
            Fate::Extend { visibility_ms } => {
                Settlement::Extend { visibility: Duration::from_millis(visibility_ms) }
            }
            Fate::Release => Settlement::Release,
        };
        let (client, group) = (&self.client.name, self.group.name);
        let calls: Vec<Call> =
            given.iter().map(|one| witness.settle(client, group, &one.taken, how)).collect();
        let receipts = given.iter().map(|one| one.receipt).collect();
        let (group, settlement) = (self.group.id, fate);
        let request = Request::QueueSettle(QueueSettle { key, group, settlement, receipts });
        let asked_at = Instant::now();
        let asked =
            self.client.ask_leader(key, &request, Duration::ZERO, |response| match response {
                Response::QueueSettle(reply) => Some(reply.results.clone()),
                _ => None,
            });
        match asked.await {
            Ok(results) if results.len() == calls.len() => {
                for (call, result) in calls.into_iter().zip(results) {
                    match result {
                        Settled::Done => witness.settled(call),
                        Settled::NeverLeased => {
                            witness.object(format!("{key}: what was leased is said not to be"));
                            witness.fail(call, "never leased");
                        }
                        other => witness.fail(call, &format!("{other:?}")),
                    }
                }
            }
            Ok(results) => {
                witness.object(format!("{key}: {} results", results.len()));
                calls.into_iter().for_each(|call| witness.info(call, "no result"));
            }
            Err(refusal) => {
                let mut calls = calls.into_iter();
                let first = calls.next();
                let code = refusal.code();
                for call in calls {
                    witness.refused(call, code);
                }
                if let Some(call) = first {
                    self.refused(call, key, refusal, asked_at, "settle in").await;
                }
            }
        }
    }

    async fn refused(
        &mut self,
        call: Call,
        key: PartitionKey,
        refusal: Refusal,
        asked_at: Instant,
        what: &str,
    ) {
        self.client.context.witness.refused(call, refusal.code());
        if let Refusal::Error(error) = refusal {
            self.client.judge(&error, asked_at, &format!("{what} {key}"));
            sleep(PAUSE_WITHOUT_LEADER).await;
        }
    }
}

/// The records that the leases name; each must be in the batches.
fn open(
    key: PartitionKey,
    leases: &[Lease],
    batches: &[u8],
    count_max: u32,
) -> Result<Vec<Given>, String> {
    if leases.len() > count_max as usize {
        return Err(format!("{} leases, {count_max} were asked for", leases.len()));
    }
    let opened = batch::open(batches)?;
    let fingerprint = |offset: Offset| -> Option<Fingerprint> {
        let batch = opened
            .iter()
            .find(|batch| (batch.base..batch.base + batch.count).contains(&offset.0))?;
        batch.records.iter().find(|record| record.offset == offset)?.fingerprint
    };
    let given = |lease: &Lease| {
        let fingerprint = fingerprint(lease.offset)
            .ok_or_else(|| format!("the lease of {} came without its record", lease.offset))?;
        let (count, partition) = (u32::from(lease.deliveries), Some(key.partition));
        let taken = Taken { fingerprint, count, partition, offset: Some(lease.offset) };
        let receipt = Receipt { offset: lease.offset, tag: lease.tag };
        Ok(Given { key, receipt, taken })
    };
    leases.iter().map(given).collect()
}
