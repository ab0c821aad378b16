//! What a cluster at rest is asked: whether every node knows what was just ordered, whether a lead
//! goes straight where it is sent, whether the copies of a shard are the same.
//!
//! Owns: those questions. Must never: ask while anything else goes on that would excuse an answer.

use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::Duration;

use barrage_broker::Fingerprint;
use barrage_model::{NodeId, Retention, ShardId, Term, TopicOrder};
use barrage_wire::{ClusterChange, MetadataRequest, Request, Response, TopicCreate};
use barrage_world as world;
use barrage_world::sim::{LinkOptions, Network};

use super::operator::{change_once, next_holder};
use super::process::{host, shared_address};
use super::register::Register;
use super::{LOOK_EVERY, LOOK_WITHIN, Run, TRANSFER_WITHIN};
use crate::workload::{Connection, milliseconds, pick};

/// Topics that are made and asked for at once.
const TOPICS: u64 = 3;
/// How far one node is from the others meanwhile: what it is not waited for, it does not know yet.
const FAR: Duration = milliseconds(90);
const MADE_WITHIN: Duration = milliseconds(10_000);
/// Until every copy has applied what is committed.
const EQUAL_WITHIN: Duration = milliseconds(10_000);
/// Of all leads that are sent elsewhere, one in so many may take more than one election.
const ELECTIONS_SLACK: u64 = 4;

/// Elections that moving leads took.
#[derive(Clone, Copy, Default, Debug)]
pub(super) struct Moved {
    leads: u64,
    elections: u64,
}

impl Run {
    /// A topic whose making was answered is known wherever it is asked for.
    pub(super) async fn known_everywhere(&self) {
        let places: Vec<usize> = self.nemesis.nodes.iter().map(|node| node.place).collect();
        for number in 0..TOPICS {
            let wanted = |place: &&usize| {
                self.nemesis.node(**place).is_some_and(|node| node.is_wanted.get())
            };
            let serving: Vec<usize> = places.iter().filter(wanted).copied().collect();
            let door = *pick(&mut self.random.borrow_mut(), &serving);
            let far = *pick(&mut self.random.borrow_mut(), &serving);
            let (machine, operator) = self.nemesis.operator();
            let (witness, name) = (self.context.witness.clone(), format!("known-{number}"));
            let (near, slow) = (
                LinkOptions::default(),
                LinkOptions { latency: FAR..=FAR, ..LinkOptions::default() },
            );
            let network = Network::current();
            let set = |link: &LinkOptions| {
                for other in serving.iter().filter(|other| **other != far) {
                    network.set_link(host(*other), host(far), link.clone());
                }
            };
            set(&slow);
            machine.spawn(make_and_ask(name, door, serving.clone(), witness)).await;
            set(&near);
            drop(operator);
        }
    }

    /// Every copy of a shard that has applied the same entries has the same state.
    pub(super) async fn copies_are_equal(&self) -> Result<(), String> {
        let unequal = std::cell::RefCell::new(String::new());
        let equal = async {
            loop {
                let told = self.fingerprints().await;
                match differing(&told) {
                    None => return,
                    Some(Difference::States(what)) => self.context.witness.object(what),
                    Some(Difference::Progress(what)) => drop(unequal.replace(what)),
                }
                world::sleep(LOOK_EVERY).await;
            }
        };
        let in_time = world::timeout(EQUAL_WITHIN, equal).await.is_ok();
        let unequal = unequal.take();
        let violated = !self.context.witness.violations().is_empty();
        match in_time || violated {
            true => Ok(()),
            false => Err(format!("liveness: copies do not come to the same entry: {unequal}")),
        }
    }

    async fn fingerprints(&self) -> BTreeMap<ShardId, Vec<(usize, Fingerprint)>> {
        let mut by_shard: BTreeMap<ShardId, Vec<(usize, Fingerprint)>> = BTreeMap::new();
        for node in self.nemesis.nodes.iter().filter(|node| node.is_wanted.get()) {
            for (shard, told) in node.fingerprints().await {
                by_shard.entry(shard).or_default().push((node.place, told));
            }
        }
        by_shard
    }

    /// Every lead goes to the next holder, who reads from its own copy.
    pub(super) async fn hand_on(&self, moved: &mut Moved) -> Result<(), String> {
        let Some(newest) = self.register.newest() else { return Ok(()) };
        let orders: Vec<(ShardId, NodeId)> = newest
            .shards
            .iter()
            .filter_map(|row| Some((row.shard, next_holder(&newest, row.shard)?)))
            .collect();
        // One that has arrived may be led elsewhere before the next is ordered: where that is even.
        let arrived = watch(Rc::clone(&self.register), orders.clone());
        let sending = async {
            for (shard, to) in &orders {
                let (machine, mut operator) = self.nemesis.operator();
                let change = ClusterChange::Transfer { shard: *shard, to: *to };
                let ordered = machine.spawn(async move {
                    while !change_once(&mut operator, change.clone()).await {
                        world::sleep(LOOK_EVERY).await;
                    }
                    operator.hang_up();
                });
                ordered.await;
            }
            arrived.await.unwrap_or_default()
        };
        let Ok(arrived) = world::timeout(TRANSFER_WITHIN, sending).await else {
            let state = self.state();
            return Err(format!("liveness: leads do not go where ordered: {orders:?}; {state}"));
        };
        for (shard, term) in arrived {
            let before = newest.shards.iter().find(|row| row.shard == shard);
            moved.leads += 1;
            moved.elections += term.0.saturating_sub(before.map_or(0, |row| row.term.0));
        }
        Ok(())
    }

    /// A lead that is sent elsewhere goes there by one election: writers wait for that long.
    pub(super) fn judge_moves(&self, moved: Moved) {
        let Moved { leads, elections } = moved;
        tracing::info!(leads, elections, "leads were sent elsewhere");
        if elections > leads + leads / ELECTIONS_SLACK + 1 {
            self.context.witness.object(format!(
                "liveness: {leads} leads were sent elsewhere at rest, and it took {elections} \
                 elections"
            ));
        }
    }
}

/// Looks until every lead was seen where it is ordered; answers the terms in which it was.
fn watch(
    register: Rc<Register>,
    orders: Vec<(ShardId, NodeId)>,
) -> world::JoinHandle<BTreeMap<ShardId, Term>> {
    world::spawn(async move {
        let mut arrived = BTreeMap::new();
        while arrived.len() < orders.len() {
            let newest = register.newest();
            for row in newest.iter().flat_map(|newest| &newest.shards) {
                let is_there = |(shard, to)| row.shard == shard && row.leader == Some(to);
                if orders.iter().copied().any(is_there) {
                    arrived.entry(row.shard).or_insert(row.term);
                }
            }
            world::sleep(LOOK_EVERY / 2).await;
        }
        arrived
    })
}

/// Makes a topic over one node, and asks all of them for it once that was answered.
async fn make_and_ask(
    name: String,
    door: usize,
    serving: Vec<usize>,
    witness: Rc<crate::workload::Witness>,
) {
    let mut connections = Vec::new();
    for place in &serving {
        let opened = Connection::open(shared_address(*place), "auditor", &witness).await;
        connections.extend(opened.ok().map(|connection| (*place, connection)));
    }
    let maker = connections.iter().find(|(place, _)| *place == door);
    let Some((_, maker)) = maker else { return };
    let topic = TopicCreate {
        name: name.clone(),
        partitions: 1,
        priorities: 1,
        order: TopicOrder::Partition,
        retention: Some(Retention::UNLIMITED),
    };
    let made = maker.call(&Request::TopicCreate(topic), MADE_WITHIN).await;
    let made = made.is_ok_and(|frame| {
        let response = Response::decode(&frame.header, &frame.body);
        matches!(response, Ok(Response::TopicCreate(_)))
    });
    let request = Request::Metadata(MetadataRequest { topics: vec![name.clone()] });
    for (place, connection) in connections.iter().filter(|_| made) {
        let Ok(frame) = connection.call(&request, LOOK_WITHIN).await else { continue };
        if let Ok(Response::Metadata(reply)) = Response::decode(&frame.header, &frame.body)
            && reply.topics.iter().any(|row| row.error != 0)
        {
            witness.object(format!(
                "{name} was made over place {door}, and place {place} does not know it"
            ));
        }
    }
    connections.iter().for_each(|(_, connection)| connection.close());
}

/// How copies differ.
enum Difference {
    /// They have not applied the same entries yet.
    Progress(String),
    States(String),
}

fn differing(told: &BTreeMap<ShardId, Vec<(usize, Fingerprint)>>) -> Option<Difference> {
    for (shard, copies) in told {
        for (place, copy) in copies {
            for (other, second) in copies.iter().filter(|(other, _)| other > place) {
                let what = format!("shard {shard}: place {place} {copy:?}, {other} {second:?}");
                if copy.applied != second.applied {
                    return Some(Difference::Progress(what));
                }
                if copy.state != second.state {
                    return Some(Difference::States(format!("copies differ: {what}")));
                }
            }
        }
    }
    None
}
