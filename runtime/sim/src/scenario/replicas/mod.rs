//! Five replicas of one shard, all of them voters or three, and then two that wait for their turn:
//! the real log, the real group, openraft, over links that lose, repeat, delay and damage what
//! they carry.
//!
//! Owns: the course of a run (form, load under faults, heal, converge, cut all power, converge
//! again) and the last judgement: every promised record is on every member, in place, byte for
//! byte; members that applied the same are the same; the group serves again after the faults.
//!
//! Must never: judge by what a replica says of itself alone. This scenario judges openraft, too.

mod client;
mod ledger;
mod links;
mod nemesis;
mod plan;
mod replica;
mod witness;

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;
use std::time::Duration;

use barrage_model::batch::BatchView;
use barrage_model::{NodeId, Offset};
use barrage_raft::Group;
use barrage_world as world;
use barrage_world::sim::{self, Disk, Machine, Network, Rng};

use super::Scenario;
use crate::runner::{FaultGate, Gates, Outcome};

use self::client::{AGAIN_AFTER_MAX, Client, client_host, partition};
use self::ledger::Ledger;
use self::nemesis::Nemesis;
use self::plan::Plan;
use self::replica::{Context, DISK_BYTES, Replica};
use self::witness::Witness;

/// Replicas that exist, voters or not.
const REPLICAS: u64 = 5;
/// From the end of the faults until every member must have everything, in virtual time.
const CONVERGE_WITHIN: Duration = Duration::from_secs(90);
/// From the first start until somebody must lead.
const FORM_WITHIN: Duration = Duration::from_secs(60);
const READ_BYTES: usize = 64 * 1024;

/// The scenario.
pub(super) const SCENARIO: Scenario = Scenario {
    name: "replicas",
    about: "replicas of one shard over bad links, with the real log and openraft",
    turns: 3,
    run,
    gates: Gates {
        seed_commits_min: 1,
        seed_records_compared_min: 3,
        mean_commits_min: 200,
        mean_records_compared_min: 1_000,
        faults: &[
            FaultGate { kind: "kill", once_in_seeds: 8 },
            FaultGate { kind: "power-loss", once_in_seeds: 8 },
            FaultGate { kind: "power-loss-of-all", once_in_seeds: 50 },
            FaultGate { kind: "partition", once_in_seeds: 10 },
            FaultGate { kind: "datagrams-cut", once_in_seeds: 4 },
            FaultGate { kind: "datagrams-corrupted", once_in_seeds: 10 },
            FaultGate { kind: "learner-became-voter", once_in_seeds: 20 },
            FaultGate { kind: "checkpoint-installed", once_in_seeds: 50 },
            FaultGate { kind: "process-ended-by-disk", once_in_seeds: 50 },
            FaultGate { kind: "leave-behind", once_in_seeds: 10 },
            FaultGate { kind: "slow-election", once_in_seeds: 10 },
            FaultGate { kind: "proposed-again", once_in_seeds: 4 },
        ],
    },
};

fn run(seed: u64) -> Outcome {
    let mut random = Rng::new(seed);
    let plan = Rc::new(Plan::draw(&mut random));
    tracing::info!(?plan, "drawn");
    sim::set_buggify(plan.buggify);
    let driver = Disk::default();
    let mut outcome = sim::run_on(seed, &driver, course(plan, random));
    outcome.world_ended();
    outcome
}

async fn course(plan: Rc<Plan>, mut random: Rng) -> Outcome {
    let began = world::Instant::now();
    let witness = Rc::new(Witness::default());
    let context = Context { plan: Rc::clone(&plan), witness: Rc::clone(&witness), nodes: REPLICAS };
    let replicas: Rc<Vec<Replica>> =
        Rc::new((1..=REPLICAS).map(|node| Replica::new(NodeId(node))).collect());
    let nemesis = Rc::new(Nemesis {
        replicas: Rc::clone(&replicas),
        context: context.clone(),
        random: RefCell::new(random.fork()),
        healed: Cell::new(false),
        fired: RefCell::default(),
    });
    nemesis.heal_network();
    for replica in replicas.iter() {
        replica.start(&context);
    }
    let mut compared = 0;
    if let Err(violation) = form(&replicas, plan.voters).await {
        witness.object(violation);
    } else {
        drop(world::spawn(Rc::clone(&nemesis).supervise()));
        let stop = Rc::new(Cell::new(false));
        let clients = start_clients(&plan, &witness, &mut random, &stop);
        Rc::clone(&nemesis).run().await;
        compared = settle(&nemesis, &stop, clients, &mut random).await;
    }
    compared += witness.judge();
    let counts = witness.counts();
    let mut outcome = Outcome {
        violations: witness.violations(),
        commits: counts.commits,
        records_compared: compared,
        faults: nemesis.fired.borrow().clone(),
        virtual_ms: (world::Instant::now() - began).as_millis() as u64,
        note: format!(
            "{} promises, {} terms, {} checkpoints restored, {} duplicates, {} reads, index {}; \
             {:?}",
            counts.promises,
            counts.terms,
            counts.restored,
            counts.duplicates,
            counts.reads,
            counts.highest,
            plan.acts.iter().collect::<BTreeSet<_>>()
        ),
        ..Outcome::default()
    };
    outcome.fault("checkpoint-installed", counts.installed);
    outcome.fault("proposed-again", counts.proposed_again);
    collect_faults(&replicas, &mut outcome);
    outcome
}

/// The first replica forms the group of the first `count`.
async fn form(replicas: &[Replica], count: u64) -> Result<(), String> {
    let voters: BTreeSet<NodeId> = (1..=count).map(NodeId).collect();
    let formed = async {
        loop {
            world::sleep(Duration::from_millis(10)).await;
            let Some(first) = replicas.first() else { continue };
            let (Some(group), Some(machine)) = (first.group(), first.machine()) else { continue };
            if group.is_formed().await == Ok(false) {
                let voters = voters.clone();
                drop(machine.spawn(async move { group.form(&voters).await }).await);
            }
            if leader(replicas).is_some() {
                return;
            }
        }
    };
    let waited = world::timeout(FORM_WITHIN, formed).await;
    waited.map_err(|_| format!("liveness: nobody leads {FORM_WITHIN:?} after the start"))
}

fn leader(replicas: &[Replica]) -> Option<Group<Ledger>> {
    let groups = replicas.iter().filter_map(Replica::group);
    groups
        .filter_map(|group| group.leader_term().map(|term| (term, group)))
        .max_by_key(|(term, _)| *term)
        .map(|(_, group)| group)
}

fn start_clients(
    plan: &Rc<Plan>,
    witness: &Rc<Witness>,
    random: &mut Rng,
    stop: &Rc<Cell<bool>>,
) -> Vec<world::JoinHandle<()>> {
    (0..plan.clients)
        .map(|number| {
            let machine = Machine::at(client_host(number), &Disk::default());
            let (plan, witness) = (Rc::clone(plan), Rc::clone(witness));
            let (random, stop) = (random.fork(), Rc::clone(stop));
            machine.spawn(async move {
                Client::new(number, REPLICAS, plan, witness, random).run(stop).await;
            })
        })
        .collect()
}

/// No more faults: everything comes back, and then everything must be there, twice. Answers how
/// many records were compared.
async fn settle(
    nemesis: &Rc<Nemesis>,
    stop: &Rc<Cell<bool>>,
    clients: Vec<world::JoinHandle<()>>,
    random: &mut Rng,
) -> u64 {
    let witness = &nemesis.context.witness;
    heal(nemesis);
    stop.set(true);
    let served = async {
        for client in clients {
            client.await;
        }
    };
    if world::timeout(CONVERGE_WITHIN, served).await.is_err() {
        let states = describe(&nemesis.replicas);
        witness.object(format!("liveness: clients still wait after the faults; {states}"));
        return 0;
    }
    // What is proposed again would be applied by one and not yet by another.
    world::sleep(AGAIN_AFTER_MAX).await;
    let mut compared = 0;
    for round in ["after the faults", "after a power loss of all"] {
        if world::timeout(CONVERGE_WITHIN, converged(&nemesis.replicas)).await.is_err() {
            let states = describe(&nemesis.replicas);
            witness.object(format!("liveness: not converged {round}; {states}"));
            return compared;
        }
        compared += judge(nemesis, round).await;
        for replica in nemesis.replicas.iter().filter(|replica| replica.is_running()) {
            replica.power_off(random);
        }
    }
    compared
}

fn heal(nemesis: &Nemesis) {
    // A rare way taken half of the time is slow, and what is slow is not stuck.
    sim::calm_buggify();
    nemesis.healed.set(true);
    nemesis.heal_network();
    for replica in nemesis.replicas.iter() {
        let disk = replica.disk.borrow();
        disk.clear_faults();
        disk.set_capacity_bytes(DISK_BYTES);
        replica.set_paused(false);
        if let Some(machine) = replica.machine() {
            machine.set_clock_rate_ppm(0);
        }
    }
}

/// Waits until the members all run and have applied what the leader has.
async fn converged(replicas: &[Replica]) {
    loop {
        world::sleep(Duration::from_millis(50)).await;
        let Some(leader) = leader(replicas) else { continue };
        let status = leader.status();
        let Some(applied) = status.applied else { continue };
        if status.last_index != Some(applied.index) {
            continue;
        }
        let members = status.voters.union(&status.learners);
        let there = |node: &NodeId| {
            let replica = replicas.iter().find(|replica| replica.node == *node);
            let group = replica.and_then(Replica::group);
            group.is_some_and(|group| group.status().applied == Some(applied))
        };
        if members.into_iter().all(there) {
            return;
        }
    }
}

/// Every promise is kept, on every member. Answers how many records were compared.
async fn judge(nemesis: &Nemesis, round: &'static str) -> u64 {
    let witness = &nemesis.context.witness;
    let Some(leader) = leader(&nemesis.replicas) else { return 0 };
    let status = leader.status();
    let position = leader.with_machine(Ledger::position);
    let mut compared = 0;
    let mut stand = BTreeMap::new();
    for node in status.voters.union(&status.learners) {
        let replica = nemesis.replicas.iter().find(|replica| replica.node == *node);
        let Some(replica) = replica else { continue };
        let (Some(group), Some(machine)) = (replica.group(), replica.machine()) else { continue };
        let own = group.with_machine(Ledger::position);
        if status.voters.contains(node) {
            stand.insert(*node, own);
        }
        if own != position {
            witness
                .object(format!("I13: {node} is at {own:?}, the leader at {position:?}, {round}"));
        }
        // On the replica's own machine: its disk is read.
        let check = check_records(group, *node, Rc::clone(witness), round);
        compared += machine.spawn(check).await.unwrap_or(0);
    }
    witness.ended(&stand);
    compared
}

async fn check_records(
    group: Group<Ledger>,
    node: NodeId,
    witness: Rc<Witness>,
    round: &'static str,
) -> u64 {
    let mut compared = 0;
    // A majority may have committed, and this replica applied, what waits for its own disk still:
    // it is found by offset as soon as it is written.
    if world::timeout(CONVERGE_WITHIN, group.log().append(Vec::new())).await.is_err() {
        witness.object(format!("liveness: {node} does not write what it has, {round}"));
        return compared;
    }
    let promises = witness.promises();
    let clients: BTreeSet<u32> = promises.keys().map(|(client, _)| *client).collect();
    for client in clients {
        let next = group.with_machine(|ledger| ledger.next(client));
        let promised = witness.promised_to(client);
        if next < promised {
            witness.object(format!(
                "I1: {node} has {next} of the {promised} records promised to {client}, {round}"
            ));
            continue;
        }
        let stored = match records(&group, client).await {
            Ok(stored) => stored,
            Err(error) => {
                witness.object(format!("I3: {node} cannot read client {client}: {error}, {round}"));
                continue;
            }
        };
        // A replica that was given a checkpoint has no records from before it.
        let first = stored.keys().next().copied().unwrap_or(promised);
        if first > 0 && !witness.was_given_checkpoint(node) {
            witness.object(format!("I1: {node} begins at {first} for client {client}, {round}"));
        }
        for ((_, sequence), promise) in promises.range((client, first)..(client, promised)) {
            match stored.get(sequence) {
                Some(value) if *value == promise.payload => compared += 1,
                Some(_) => witness.object(format!(
                    "I3: {node} holds other bytes than promised at {client}/{sequence}, {round}"
                )),
                // It came with a checkpoint; the records are fetched from peers apart from it.
                None if witness.was_given_checkpoint(node) => {}
                None => witness.object(format!(
                    "I1: {node} lost record {client}/{sequence}, which was promised, {round}"
                )),
            }
        }
    }
    compared
}

/// All records of a client's partition, by offset.
async fn records(group: &Group<Ledger>, client: u32) -> Result<BTreeMap<u64, Vec<u8>>, String> {
    let mut stored = BTreeMap::new();
    let mut offset = Offset(0);
    loop {
        let slices = group.log().read_batches(partition(client), offset, READ_BYTES).await;
        let slices = slices.map_err(|error| error.to_string())?;
        let before = offset;
        for slice in slices {
            let mut rest: &[u8] = &slice;
            while !rest.is_empty() {
                let view = BatchView::check(rest).map_err(|error| error.to_string())?;
                let header = *view.header();
                let decoded = view.records(&Default::default()).map_err(|e| e.to_string())?;
                for record in &decoded {
                    let record = record.map_err(|error| error.to_string())?;
                    let value = record.value.unwrap_or_default().to_vec();
                    stored.insert(header.base_offset.0, value);
                }
                offset = header.next_offset();
                rest = rest.get(header.batch_len_total..).unwrap_or_default();
            }
        }
        if offset == before {
            return Ok(stored);
        }
    }
}

fn describe(replicas: &[Replica]) -> String {
    let states = replicas.iter().map(|replica| match replica.group() {
        None => format!("{}: down", replica.node),
        Some(group) => {
            let status = group.status();
            format!(
                "{}: {:?} term {} leader {:?} last {:?} applied {:?} voters {:?}",
                replica.node,
                status.role,
                status.term,
                status.leader,
                status.last_index,
                status.applied,
                status.voters
            )
        }
    });
    states.collect::<Vec<_>>().join("; ")
}

fn collect_faults(replicas: &[Replica], outcome: &mut Outcome) {
    let network = Network::current().counters();
    outcome.fault("datagrams-lost", network.lost);
    outcome.fault("datagrams-duplicated", network.duplicated);
    outcome.fault("datagrams-reordered", network.reordered);
    outcome.fault("datagrams-corrupted", network.corrupted);
    outcome.fault("datagrams-cut", network.cut);
    for replica in replicas {
        let counters = replica.disk.borrow().counters();
        let errors = counters.flush_errors + counters.write_errors + counters.read_errors;
        outcome.fault("disk-errors", errors);
        outcome.fault("disk-stalls", counters.stalls);
        outcome.fault("disk-no-space", counters.no_space);
    }
}
