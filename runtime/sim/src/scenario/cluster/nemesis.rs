//! What goes wrong, and what operators order meanwhile.
//!
//! Owns: carrying out one act after the other, counting what really happened, bringing processes
//! back. Must never: break what the promises rest on: of every shard a majority of the copies
//! keeps what it has flushed.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;
use std::time::Duration;

use barrage_model::NodeId;
use barrage_world as world;
use barrage_world::sim::{self, Fault, Host, Injection, LinkOptions, Network, Operation, Rng};

use super::plan::{Act, Plan};
use super::process::{DISK_BYTES, Node, host};
use super::register::Register;
use crate::workload::{Context, Disturbance, between, milliseconds, pick};

const PAUSE_MS_MAX: u64 = 5_000;
const FULL_MS_MAX: u64 = 3_000;
const STALL_MS_MAX: u64 = 2_500;
/// How long a disk is slow, and how long each of its flushes takes then.
const SLOW_MS_MAX: u64 = 6_000;
const SLOW_FLUSH_MS_MAX: u64 = 80;
/// How long a node is away: long enough for its peers to let go of what it lacks.
const AWAY_MS_MIN: u64 = 3_000;
const AWAY_MS_MAX: u64 = 10_000;
/// A process of a node that was removed is started again after this.
const REMOVED_PAUSE: Duration = milliseconds(500);
/// How far a clock is set from the truth, at most.
const JUMP_MS_MAX: u64 = 2 * 3_600_000;
const CLOCK_RATE_PPM_MAX: u64 = 50_000;
/// Processes that end by themselves without a reason are not started for ever.
const ENDS_WELL_MAX: u64 = 3;
/// The nodes and what is done to them.
pub(super) struct Nemesis {
    pub(super) plan: Rc<Plan>,
    pub(super) nodes: Vec<Node>,
    pub(super) register: Rc<Register>,
    pub(super) context: Rc<Context>,
    /// Where clients live.
    pub(super) clients: Vec<Host>,
    /// Where operators live.
    pub(super) operators: Host,
    pub(super) random: RefCell<Rng>,
    pub(super) fired: RefCell<BTreeMap<&'static str, u64>>,
    /// The next process comes at once.
    pub(super) is_healed: Cell<bool>,
    /// Operators who are at something that takes long.
    pub(super) moves: Cell<u64>,
    /// Some node was emptied or replaced.
    pub(super) has_moved: Cell<bool>,
    /// The only place whose copies may be damaged or lost.
    pub(super) damaged: Cell<Option<usize>>,
    /// Topics that were ordered while something happened to whoever made them.
    pub(super) strikes: Cell<u64>,
    pub(super) ended_well: Cell<u64>,
}

impl Nemesis {
    /// Acts for as long as the plan says.
    pub(super) async fn run(self: &Rc<Self>) {
        self.context.witness.disturbances.begin(Disturbance::Network);
        let end = world::Instant::now() + self.plan.faults_for;
        while world::Instant::now() < end {
            let wait = between(&mut self.random(), &self.plan.pause_between_acts);
            world::sleep(wait).await;
            let act = *pick(&mut self.random(), &self.plan.acts);
            if self.act(act) {
                tracing::info!(act = act.name(), at = ?world::Instant::now(), "fault");
                self.count(act.name());
            }
        }
    }

    pub(super) fn random(&self) -> std::cell::RefMut<'_, Rng> {
        self.random.borrow_mut()
    }

    pub(super) fn count(&self, name: &'static str) {
        *self.fired.borrow_mut().entry(name).or_default() += 1;
    }

    pub(super) fn begin(&self, disturbance: Disturbance) {
        self.context.witness.disturbances.begin(disturbance);
    }

    pub(super) fn node(&self, place: usize) -> Option<&Node> {
        self.nodes.get(place)
    }

    /// Places where a process runs that nobody stops.
    fn running(&self) -> Vec<usize> {
        let runs = |node: &&Node| node.is_running() && !node.is_stopping();
        self.nodes.iter().filter(runs).map(|node| node.place).collect()
    }

    pub(super) fn a_running_one(&self) -> Option<&Node> {
        let running = self.running();
        let drawn = (!running.is_empty()).then(|| *pick(&mut self.random(), &running))?;
        self.node(drawn)
    }

    /// Where some shard is said to be led.
    fn a_leading_one(&self) -> Option<&Node> {
        let newest = self.register.newest()?;
        let leaders: Vec<NodeId> = newest.shards.iter().filter_map(|shard| shard.leader).collect();
        let drawn = (!leaders.is_empty()).then(|| *pick(&mut self.random(), &leaders))?;
        self.node(self.register.place_of(drawn)?).filter(|node| node.is_running())
    }

    fn act(self: &Rc<Self>, act: Act) -> bool {
        match act {
            Act::Kill | Act::KillLeader | Act::Away | Act::PowerLoss | Act::Stop | Act::Pause => {
                let node = match act {
                    Act::KillLeader => self.a_leading_one(),
                    _ => self.a_running_one(),
                };
                node.filter(|node| !node.is_stopping()).is_some_and(|node| self.end(act, node))
            }
            Act::KillAll | Act::PowerLossOfAll => {
                for place in self.running() {
                    let Some(node) = self.node(place) else { continue };
                    match act {
                        Act::KillAll => node.kill(),
                        _ => node.power_off(&mut self.random()),
                    }
                }
                true
            }
            Act::RollingRestart => self.roll(),
            Act::CutOneWay
            | Act::Halves
            | Act::Isolate
            | Act::IsolateLeader
            | Act::Bridge
            | Act::CutClients => self.cut(act),
            Act::SlowLink | Act::LossyLink => self.weaken(act),
            Act::HealNetwork => {
                self.heal_network();
                true
            }
            Act::ClockJump | Act::ClockRate => self.bend_clock(act),
            Act::FlushError
            | Act::WriteError
            | Act::ReadError
            | Act::DiskStall
            | Act::SlowDisk
            | Act::DiskFull => self.break_disk(act),
            Act::Damage => self.damage(),
            Act::Strike => self.strike(),
            Act::Transfer | Act::Balance | Act::Copies => self.order(act),
            Act::Swap => self.swap(),
            Act::Replace => self.replace(),
        }
    }

    fn end(self: &Rc<Self>, act: Act, node: &Node) -> bool {
        match act {
            Act::Kill | Act::KillLeader => node.kill(),
            Act::Away => {
                let away = milliseconds(self.random().between(AWAY_MS_MIN, AWAY_MS_MAX));
                node.away_until.set(Some(world::Instant::now() + away));
                node.kill();
            }
            Act::PowerLoss => node.power_off(&mut self.random()),
            Act::Stop => {
                if !node.is_serving() {
                    return false;
                }
                let (nemesis, place) = (Rc::clone(self), node.place);
                drop(world::spawn(async move { nemesis.stop(place).await }));
            }
            _ => {
                let Some(machine) = node.machine() else { return false };
                machine.pause();
                self.later(PAUSE_MS_MAX, move |_| machine.resume());
            }
        }
        true
    }

    async fn stop(&self, place: usize) {
        let Some(node) = self.node(place) else { return };
        if !node.stop().await {
            self.context.witness.object("liveness: a node that was told to stop goes on");
        }
    }

    /// One node after the other, as for a new version.
    fn roll(self: &Rc<Self>) -> bool {
        let nemesis = Rc::clone(self);
        drop(world::spawn(async move {
            for place in 0..nemesis.nodes.len() {
                if nemesis.is_healed.get() {
                    return;
                }
                let Some(node) = nemesis.node(place) else { return };
                if node.is_serving() && !node.is_stopping() {
                    nemesis.stop(place).await;
                    let pause = milliseconds(nemesis.random().between(100, 2_000));
                    world::sleep(pause).await;
                }
            }
        }));
        true
    }

    /// Does something after a while, on the driver's own machine.
    pub(super) fn later(
        self: &Rc<Self>,
        milliseconds_max: u64,
        what: impl FnOnce(&Rc<Self>) + 'static,
    ) {
        let wait = milliseconds(self.random().between(10, milliseconds_max));
        let nemesis = Rc::clone(self);
        drop(world::spawn(async move {
            world::sleep(wait).await;
            what(&nemesis);
        }));
    }

    /// Brings processes back that have ended, each after a while; objects when one ended by itself
    /// without a reason in its disk.
    pub(super) async fn supervise(self: Rc<Self>) {
        let mut back_at: BTreeMap<usize, world::Instant> = BTreeMap::new();
        while self.ended_well.get() < ENDS_WELL_MAX {
            world::sleep(milliseconds(5)).await;
            for node in &self.nodes {
                if !node.is_wanted.get() || node.is_running() || node.is_stopping() {
                    back_at.remove(&node.place);
                    continue;
                }
                self.judge_end(node);
                let now = world::Instant::now();
                let wait = between(&mut self.random(), &self.plan.down_for);
                let due = *back_at.entry(node.place).or_insert(now + wait);
                let healed = self.is_healed.get();
                let away = node.away_until.get().is_some_and(|until| now < until);
                if (now >= due || healed) && (!away || (healed && self.moves.get() == 0)) {
                    back_at.remove(&node.place);
                    tracing::info!(place = node.place, at = ?now, "start");
                    node.start();
                }
            }
        }
    }

    fn judge_end(&self, node: &Node) {
        let Some(reason) = node.take_failure() else { return };
        // Its operator is at it, and will find it gone.
        if reason.contains("was removed from the cluster") && self.moves.get() > 0 {
            self.count("ended-as-removed");
            // It would end at once, again and again, until its operator takes it away.
            node.away_until.set(Some(world::Instant::now() + REMOVED_PAUSE));
            return;
        }
        if node.is_disk_faulty.get() {
            self.count("process-ended-by-disk");
            return;
        }
        if node.was_full.get() && reason.contains("cannot allocate") {
            self.count("start-refused-by-full-disk");
            return;
        }
        let place = node.place;
        let text =
            format!("the node of place {place} ended by itself, its disk was well: {reason}");
        self.context.witness.object(text);
        self.ended_well.set(self.ended_well.get() + 1);
    }

    fn hosts(&self) -> Vec<Host> {
        let used = self.nodes.iter().filter(|node| node.is_wanted.get());
        used.map(|node| host(node.place)).collect()
    }

    fn cut(&self, act: Act) -> bool {
        let network = Network::current();
        let mut hosts = self.hosts();
        if hosts.len() < 2 {
            return false;
        }
        let leader = self.a_leading_one().map(|node| host(node.place));
        let first = match (act, leader) {
            (Act::IsolateLeader, Some(leader)) => leader,
            (Act::IsolateLeader, None) => return false,
            _ => *pick(&mut self.random(), &hosts),
        };
        hosts.retain(|host| *host != first);
        let second = *pick(&mut self.random(), &hosts);
        let rest: Vec<Host> = hosts.iter().copied().filter(|host| *host != second).collect();
        match act {
            Act::CutOneWay => network.cut(first, second),
            Act::CutClients => network.partition(&[&[first], &self.clients]),
            // Clients reach the one that is alone, or only the others.
            Act::Isolate | Act::IsolateLeader => {
                network.partition(&[&[first], &hosts]);
                let alone_one_in = if act == Act::IsolateLeader { 4 } else { 2 };
                if self.random().one_in(alone_one_in) {
                    network.partition(&[&[first], &self.clients]);
                }
            }
            Act::Halves => network.partition(&[&[first, second], &rest]),
            // `second` sees both sides, which do not see each other.
            _ => network.partition(&[&[first, second], &hosts]),
        }
        true
    }

    fn weaken(&self, act: Act) -> bool {
        let network = Network::current();
        let mut all = self.hosts();
        all.extend(&self.clients);
        let first = *pick(&mut self.random(), &self.hosts());
        let second = *pick(&mut self.random(), &all);
        if first == second {
            return false;
        }
        let mut link = self.plan.link.clone();
        if act == Act::SlowLink {
            let slow = milliseconds(self.random().between(20, 300));
            link.latency = slow / 2..=slow;
            link.bytes_per_second = Some(self.random().between(50_000, 1_000_000));
        } else {
            link.loss_ppm = self.random().between(50_000, 300_000) as u32;
        }
        network.set_link(first, second, link.clone());
        if self.random().one_in(2) {
            network.set_link(second, first, link);
        }
        true
    }

    /// Links are again as the plan has them.
    fn heal_network(&self) {
        let network = Network::current();
        network.heal_all();
        let healed = self.is_healed.get();
        network.set_all(if healed { LinkOptions::default() } else { self.plan.link.clone() });
    }

    fn bend_clock(&self, act: Act) -> bool {
        let Some(node) = self.a_running_one() else { return false };
        let Some(machine) = node.machine() else { return false };
        if act == Act::ClockJump {
            let ahead_ms = self.random().between(0, 2 * JUMP_MS_MAX) as i64 - JUMP_MS_MAX as i64;
            // Most jumps are small: what is near the truth meets other edges.
            let ahead_ms = if self.random().one_in(3) { ahead_ms } else { ahead_ms / 1_000 };
            self.context.witness.clock_ahead(ahead_ms);
            node.clock_ahead_ms.set(ahead_ms);
            machine.set_unix_offset_ms(ahead_ms);
        } else {
            self.context.witness.clocks_differ();
            let rate_ppm = self.random().between(0, 2 * CLOCK_RATE_PPM_MAX) as i64;
            machine.set_clock_rate_ppm(rate_ppm - CLOCK_RATE_PPM_MAX as i64);
        }
        true
    }

    fn break_disk(self: &Rc<Self>, act: Act) -> bool {
        let Some(node) = self.a_running_one() else { return false };
        let disk = node.disk();
        let skip = self.random().below(30);
        let inject = |operation, fault| disk.inject(Injection::next(operation, fault).after(skip));
        match act {
            Act::FlushError => inject(Operation::Flush, Fault::EIO),
            Act::WriteError => {
                let torn = self.random().one_in(2);
                inject(Operation::Write, if torn { Fault::TORN } else { Fault::EIO });
            }
            Act::ReadError => inject(Operation::Read, Fault::EIO),
            Act::DiskStall => {
                let stall = milliseconds(self.random().between(20, STALL_MS_MAX));
                let operation = *pick(&mut self.random(), &[Operation::Flush, Operation::Write]);
                inject(operation, Fault::Stall(stall));
                return true;
            }
            Act::SlowDisk => {
                let slow = milliseconds(self.random().between(2, SLOW_FLUSH_MS_MAX));
                disk.inject(Injection::always(Operation::Flush, Fault::Stall(slow)));
                self.later(SLOW_MS_MAX, move |_| disk.clear_faults());
                return true;
            }
            _ => {
                // It may be full already.
                disk.set_capacity_bytes(DISK_BYTES);
                let taken = DISK_BYTES - disk.free_bytes();
                disk.set_capacity_bytes(taken + self.random().below(300_000));
                node.was_full.set(true);
                self.begin(Disturbance::Full);
                self.later(FULL_MS_MAX, move |_| disk.set_capacity_bytes(DISK_BYTES));
                return true;
            }
        }
        node.is_disk_faulty.set(true);
        self.begin(Disturbance::Disk);
        true
    }

    /// No more faults, from here on.
    pub(super) fn heal(&self) {
        self.is_healed.set(true);
        sim::calm_buggify();
        self.heal_network();
        for node in &self.nodes {
            let disk = node.disk();
            disk.clear_faults();
            disk.set_capacity_bytes(DISK_BYTES);
            if let Some(machine) = node.machine() {
                machine.resume();
                machine.set_clock_rate_ppm(0);
            }
            // What is delayed would come when whoever leads says so: hours later.
            if self.plan.delays.is_some() {
                node.clock_ahead_ms.set(0);
                node.machine().into_iter().for_each(|machine| machine.set_unix_offset_ms(0));
            }
        }
    }

    /// What has happened, by name.
    pub(super) fn faults(&self) -> BTreeMap<&'static str, u64> {
        self.fired.borrow().clone()
    }

    /// The nodes that are to be members.
    pub(super) fn wanted(&self) -> BTreeSet<NodeId> {
        let wanted = self.nodes.iter().filter(|node| node.is_wanted.get());
        wanted.filter_map(|node| self.register.node_at(node.place)).collect()
    }
}
