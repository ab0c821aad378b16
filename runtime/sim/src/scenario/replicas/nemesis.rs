//! What goes wrong, and what operators order meanwhile.
//!
//! Owns: carrying out one act after the other, and counting what really happened. Must never:
//! break what the promises rest on (a majority's disks that keep what they flushed).

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;
use std::time::Duration;

use barrage_model::NodeId;
use barrage_raft::Role;
use barrage_world as world;
use barrage_world::sim::{Fault, Host, Injection, LinkOptions, Machine, Network, Operation, Rng};

use super::links::host;
use super::plan::{Act, pick};
use super::replica::{Context, DISK_BYTES, Replica};

/// A process that was ended comes back after at most this long.
const DOWN_MS_MAX: u64 = 3_000;
const PAUSE_MS_MAX: u64 = 4_000;
const DEAF_MS_MAX: u64 = 300;
/// An election that a slow disk does not hold up is over within these looks.
const ELECTION_LOOKS: u64 = 400;
const ELECTION_LOOK_EVERY: Duration = Duration::from_millis(6);

/// The replicas and what is done to them.
pub(super) struct Nemesis {
    pub(super) replicas: Rc<Vec<Replica>>,
    pub(super) context: Context,
    pub(super) random: RefCell<Rng>,
    /// The faults are over.
    pub(super) healed: Cell<bool>,
    pub(super) fired: RefCell<BTreeMap<&'static str, u64>>,
}

impl Nemesis {
    /// Acts for as long as the plan says.
    pub(super) async fn run(self: Rc<Self>) {
        let plan = Rc::clone(&self.context.plan);
        let end = world::Instant::now() + plan.faults_for;
        while world::Instant::now() < end {
            let wait = super::plan::between(&mut self.random(), &plan.pause_between_acts);
            world::sleep(wait).await;
            let act = *pick(&mut self.random(), &plan.acts);
            self.act(act).await;
        }
    }

    fn random(&self) -> std::cell::RefMut<'_, Rng> {
        self.random.borrow_mut()
    }

    fn below(&self, bound: u64) -> u64 {
        self.random().below(bound)
    }

    fn tell(what: &str) {
        tracing::info!(at = ?world::Instant::now(), "nemesis: {what}");
    }

    fn count(&self, name: &'static str) {
        *self.fired.borrow_mut().entry(name).or_default() += 1;
    }

    async fn act(self: &Rc<Self>, act: Act) {
        let Some(replica) = self.replicas.get(self.below(self.replicas.len() as u64) as usize)
        else {
            return;
        };
        let done = match act {
            Act::Kill | Act::PowerLoss | Act::PowerLossOfAll | Act::Pause => {
                self.end_or_pause(act, replica)
            }
            Act::CutOneWay | Act::Partition | Act::Bridge | Act::Isolate => self.cut(act),
            Act::SlowLink | Act::LossyLink => self.weaken(act),
            Act::HealNetwork => {
                self.heal_network();
                true
            }
            Act::ClockJump | Act::ClockRate => self.bend_clock(act, replica),
            Act::FlushError | Act::WriteError | Act::ReadError | Act::DiskStall | Act::DiskFull => {
                self.break_disk(act, replica)
            }
            Act::Transfer | Act::Checkpoint | Act::SwapVoter => self.order(act),
            Act::LeaveBehind => self.leave_behind(),
            Act::SlowElection => self.slow_election(),
        };
        if done {
            self.count(act.name());
            Self::tell(&format!("{} (drew node {})", act.name(), replica.node));
        }
    }

    fn end_or_pause(self: &Rc<Self>, act: Act, replica: &Replica) -> bool {
        if act != Act::PowerLossOfAll && !replica.is_running() {
            return false;
        }
        match act {
            Act::Kill => replica.kill(),
            Act::PowerLoss => replica.power_off(&mut self.random()),
            Act::Pause => {
                replica.set_paused(true);
                self.later(PAUSE_MS_MAX, replica.node, |replica, _| replica.set_paused(false));
                return true;
            }
            _ => {
                for replica in self.replicas.iter() {
                    if replica.is_running() {
                        replica.power_off(&mut self.random());
                    }
                }
            }
        }
        true
    }

    /// Does something to a replica after a while, on the driver's own machine.
    fn later(
        self: &Rc<Self>,
        milliseconds_max: u64,
        node: NodeId,
        what: impl FnOnce(&Replica, &Self) + 'static,
    ) {
        let wait = Duration::from_millis(self.random().between(10, milliseconds_max));
        let nemesis = Rc::clone(self);
        drop(world::spawn(async move {
            world::sleep(wait).await;
            if let Some(replica) = nemesis.replicas.iter().find(|replica| replica.node == node) {
                what(replica, &nemesis);
            }
        }));
    }

    /// Brings processes back that have ended, each after a while; says why those ended that did so
    /// by themselves without a reason in their disk.
    pub(super) async fn supervise(self: Rc<Self>) {
        let mut back_at: BTreeMap<NodeId, world::Instant> = BTreeMap::new();
        loop {
            world::sleep(Duration::from_millis(10)).await;
            for replica in self.replicas.iter() {
                if replica.starts.get() == 0 || replica.is_running() {
                    continue;
                }
                self.judge_end(replica);
                let now = world::Instant::now();
                let wait = Duration::from_millis(self.random().between(1, DOWN_MS_MAX));
                let due = *back_at.entry(replica.node).or_insert(now + wait);
                if now >= due {
                    back_at.remove(&replica.node);
                    Self::tell(&format!("start {}", replica.node));
                    replica.start(&self.context);
                }
            }
        }
    }

    fn judge_end(&self, replica: &Replica) {
        let witness = &self.context.witness;
        for reason in [witness.take_not_opened(replica.node), witness.take_failure(replica.node)] {
            let Some(reason) = reason else { continue };
            Self::tell(&format!("{} ended: {reason}", replica.node));
            if replica.disk_faulty.get() {
                self.count("process-ended-by-disk");
            } else {
                let node = replica.node;
                witness.object(format!("{node} ended and its disk was well: {reason}"));
            }
        }
    }

    fn hosts(&self) -> Vec<Host> {
        self.replicas.iter().map(|replica| host(replica.node)).collect()
    }

    fn cut(&self, act: Act) -> bool {
        let network = Network::current();
        let mut hosts = self.hosts();
        let first = hosts.remove(self.below(hosts.len() as u64) as usize);
        let second = *pick(&mut self.random(), &hosts);
        let rest: Vec<Host> = hosts.iter().copied().filter(|host| *host != second).collect();
        match act {
            Act::CutOneWay => network.cut(first, second),
            Act::Isolate => network.partition(&[&[first], &hosts]),
            Act::Partition => network.partition(&[&[first, second], &rest]),
            // `second` sees both sides, which do not see each other.
            _ => {
                let left = [first, second];
                network.partition(&[&left, &hosts]);
            }
        }
        true
    }

    fn weaken(&self, act: Act) -> bool {
        let network = Network::current();
        let mut hosts = self.hosts();
        let first = hosts.remove(self.below(hosts.len() as u64) as usize);
        let second = *pick(&mut self.random(), &hosts);
        let mut link = self.context.plan.link.clone();
        if act == Act::SlowLink {
            let slow = Duration::from_millis(self.random().between(50, 400));
            link.latency = slow / 2..=slow;
            link.bytes_per_second = Some(self.random().between(20_000, 1_000_000));
        } else {
            link.loss_ppm = self.random().between(100_000, 500_000) as u32;
            link.duplicate_ppm = self.random().below(200_000) as u32;
        }
        network.set_link(first, second, link);
        true
    }

    /// Links are again as the plan has them.
    pub(super) fn heal_network(&self) {
        let network = Network::current();
        network.heal_all();
        if self.healed.get() {
            // What was to end later, ends after the faults are over: all links are well.
            network.set_all(LinkOptions::default());
            return;
        }
        let hosts = self.hosts();
        for from in &hosts {
            for to in &hosts {
                if from != to {
                    network.set_link(*from, *to, self.context.plan.link.clone());
                }
            }
        }
    }

    fn bend_clock(&self, act: Act, replica: &Replica) -> bool {
        let Some(machine) = replica.machine() else { return false };
        if act == Act::ClockJump {
            let hours = self.random().between(0, 4) as i64 - 2;
            machine.set_unix_offset_ms(hours * 3_600_000);
        } else {
            machine.set_clock_rate_ppm(self.random().between(0, 100_000) as i64 - 50_000);
        }
        true
    }

    fn break_disk(self: &Rc<Self>, act: Act, replica: &Replica) -> bool {
        if !replica.is_running() {
            return false;
        }
        let disk = replica.disk.borrow().clone();
        let skip = self.below(20);
        let inject = |operation, fault| disk.inject(Injection::next(operation, fault).after(skip));
        match act {
            Act::FlushError => inject(Operation::Flush, Fault::EIO),
            Act::WriteError => inject(Operation::Write, Fault::EIO),
            Act::ReadError => inject(Operation::Read, Fault::EIO),
            Act::DiskStall => {
                let stall = Duration::from_millis(self.random().between(50, 3_000));
                inject(Operation::Flush, Fault::Stall(stall));
                return true;
            }
            _ => {
                // It may be full already.
                disk.set_capacity_bytes(DISK_BYTES);
                let taken = DISK_BYTES - disk.free_bytes();
                disk.set_capacity_bytes(taken + self.below(300_000));
                self.later(PAUSE_MS_MAX, replica.node, |replica, _| {
                    replica.disk.borrow().set_capacity_bytes(DISK_BYTES);
                });
            }
        }
        replica.disk_faulty.set(true);
        true
    }

    /// Orders go to the replica that leads, and are carried out on its machine.
    fn order(self: &Rc<Self>, act: Act) -> bool {
        let running: Vec<&Replica> =
            self.replicas.iter().filter(|replica| replica.group().is_some()).collect();
        if running.is_empty() {
            return false;
        }
        if act == Act::Checkpoint {
            let replica = *pick(&mut self.random(), &running);
            return take_checkpoint(replica);
        }
        let Some(leader) = self.leader() else { return false };
        let (Some(group), Some(machine)) = (leader.group(), leader.machine()) else {
            return false;
        };
        let status = group.status();
        if act == Act::Transfer {
            let to = *pick(&mut self.random(), &status.voters.iter().copied().collect::<Vec<_>>());
            drop(machine.spawn(async move { drop(group.transfer_leadership(to).await) }));
            return to != status.node;
        }
        self.swap_voter(group, &machine, &status.voters)
    }

    fn leader(&self) -> Option<&Replica> {
        let leads =
            |replica: &&Replica| replica.group().is_some_and(|group| group.leader_term().is_some());
        self.replicas.iter().find(leads)
    }

    /// Cuts a replica off from the others; clients reach it still.
    fn isolate(&self, node: NodeId) {
        let left = host(node);
        let rest: Vec<Host> = self.hosts().into_iter().filter(|host| *host != left).collect();
        Network::current().partition(&[&[left], &rest]);
    }

    /// A leader hears nothing of the others, who take what it still sends; then it loses them, and
    /// they go on and let go of what it misses. When it is back it cannot know what became of its
    /// proposals.
    fn leave_behind(self: &Rc<Self>) -> bool {
        let Some(leader) = self.leader() else { return false };
        let left = leader.node;
        for other in self.hosts().into_iter().filter(|other| *other != host(left)) {
            Network::current().cut(other, host(left));
        }
        let nemesis = Rc::clone(self);
        drop(world::spawn(async move {
            let deaf = Duration::from_millis(nemesis.random().between(10, DEAF_MS_MAX));
            world::sleep(deaf).await;
            nemesis.isolate(left);
            // The log goes up to the checkpoint before the newest one.
            for _ in 0..2 {
                let wait = Duration::from_millis(nemesis.random().between(1_000, 2_500));
                world::sleep(wait).await;
                for replica in nemesis.replicas.iter().filter(|replica| replica.node != left) {
                    take_checkpoint(replica);
                }
            }
            nemesis.heal_network();
        }));
        true
    }

    /// Disks are slow while somebody is elected, and then the power goes: a term that was said
    /// before it was on the disk is forgotten.
    fn slow_election(self: &Rc<Self>) -> bool {
        let Some(leader) = self.leader() else { return false };
        let old = leader.group().map(|group| group.status().term);
        for replica in self.replicas.iter().filter(|replica| replica.node != leader.node) {
            let stall = Duration::from_millis(self.random().between(1_000, 3_000));
            let disk = replica.disk.borrow();
            disk.inject(Injection::next(Operation::Flush, Fault::Stall(stall)));
        }
        self.isolate(leader.node);
        let nemesis = Rc::clone(self);
        drop(world::spawn(async move {
            let newly = |replica: &&Replica| {
                let status = replica.group().map(|group| group.status());
                status.is_some_and(|status| status.role == Role::Leader && Some(status.term) > old)
            };
            for _ in 0..ELECTION_LOOKS {
                world::sleep(ELECTION_LOOK_EVERY).await;
                if let Some(elected) = nemesis.replicas.iter().find(newly) {
                    // The witness has seen it by then, too.
                    world::sleep(ELECTION_LOOK_EVERY).await;
                    elected.power_off(&mut nemesis.random());
                    break;
                }
            }
            nemesis.heal_network();
        }));
        true
    }

    /// One that does not vote becomes a learner and then takes the place of a voter.
    fn swap_voter(
        self: &Rc<Self>,
        group: barrage_raft::Group<super::ledger::Ledger>,
        machine: &Machine,
        voters: &BTreeSet<NodeId>,
    ) -> bool {
        let others = self.replicas.iter().map(|replica| replica.node);
        let others: Vec<NodeId> = others.filter(|node| !voters.contains(node)).collect();
        if others.is_empty() || voters.is_empty() {
            return false;
        }
        let joins = *pick(&mut self.random(), &others);
        let voters: Vec<NodeId> = voters.iter().copied().collect();
        let leaves = *pick(&mut self.random(), &voters);
        let nemesis = Rc::clone(self);
        drop(machine.spawn(async move {
            if group.add_learner(joins).await.is_err() {
                return;
            }
            nemesis.count("learner-added");
            let target: BTreeSet<NodeId> =
                voters.into_iter().filter(|node| *node != leaves).chain([joins]).collect();
            if group.change_voters(&target).await.is_ok() {
                nemesis.count("learner-became-voter");
            }
        }));
        true
    }
}

fn take_checkpoint(replica: &Replica) -> bool {
    let (Some(group), Some(machine)) = (replica.group(), replica.machine()) else {
        return false;
    };
    drop(machine.spawn(async move { drop(group.take_checkpoint().await) }));
    true
}
