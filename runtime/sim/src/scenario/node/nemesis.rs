//! What goes wrong, and what operators order meanwhile.
//!
//! Owns: carrying out one act after the other, counting what really happened, bringing processes
//! back. Must never: break what the promises rest on (a disk that keeps what it has flushed).

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::Duration;

use barrage_world as world;
use barrage_world::sim::{self, Fault, Host, Injection, LinkOptions, Network, Operation, Rng};

use super::plan::{Act, Plan};
use super::process::{DISK_BYTES, HOST, Node};
use crate::workload::{Context, Disturbance, between, milliseconds, pick};

const PAUSE_MS_MAX: u64 = 4_000;
const FULL_MS_MAX: u64 = 3_000;
const STALL_MS_MAX: u64 = 2_500;
/// A process that ends by itself without a reason is not started for ever.
const ENDS_WELL_MAX: u64 = 3;
/// How far a clock is set from the truth, at most.
const JUMP_MS_MAX: u64 = 2 * 3_600_000;
const CLOCK_RATE_PPM_MAX: u64 = 50_000;

/// The node and what is done to it.
pub(super) struct Nemesis {
    pub(super) plan: Rc<Plan>,
    pub(super) node: Rc<Node>,
    pub(super) context: Rc<Context>,
    /// Where clients live.
    pub(super) hosts: Vec<Host>,
    pub(super) random: RefCell<Rng>,
    pub(super) fired: RefCell<BTreeMap<&'static str, u64>>,
    /// The next process comes at once.
    pub(super) healed: Cell<bool>,
    pub(super) times_full: Cell<u64>,
}

impl Nemesis {
    /// Acts for as long as the plan says.
    pub(super) async fn run(self: &Rc<Self>) {
        let plan = Rc::clone(&self.plan);
        let end = world::Instant::now() + plan.faults_for;
        while world::Instant::now() < end {
            let wait = between(&mut self.random(), &plan.pause_between_acts);
            world::sleep(wait).await;
            let act = *pick(&mut self.random(), &plan.acts);
            if self.act(act) {
                tracing::info!(act = act.name(), "fault");
                self.count(act.name());
            }
        }
    }

    fn random(&self) -> std::cell::RefMut<'_, Rng> {
        self.random.borrow_mut()
    }

    fn below(&self, bound: u64) -> u64 {
        self.random().below(bound)
    }

    fn count(&self, name: &'static str) {
        *self.fired.borrow_mut().entry(name).or_default() += 1;
    }

    fn begin(&self, disturbance: Disturbance) {
        self.context.witness.disturbances.begin(disturbance);
    }

    fn end(&self, disturbance: Disturbance) {
        self.context.witness.disturbances.end(disturbance);
    }

    fn act(self: &Rc<Self>, act: Act) -> bool {
        match act {
            Act::Kill | Act::PowerLoss | Act::Stop | Act::Pause => self.end_or_pause(act),
            Act::Cut | Act::CutOneWay | Act::SlowLink | Act::LossyLink => self.weaken(act),
            Act::HealNetwork => {
                self.heal_network();
                true
            }
            Act::ClockJump | Act::ClockRate => self.bend_clock(act),
            Act::FlushError
            | Act::WriteError
            | Act::ReadError
            | Act::NameError
            | Act::DiskStall
            | Act::DiskFull => self.break_disk(act),
        }
    }

    fn end_or_pause(self: &Rc<Self>, act: Act) -> bool {
        if !self.node.is_running() || self.node.is_stopping() {
            return false;
        }
        match act {
            Act::Kill => self.node.kill(),
            Act::PowerLoss => self.node.power_off(&mut self.random()),
            Act::Stop => {
                if !self.node.is_serving() {
                    return false;
                }
                let node = Rc::clone(&self.node);
                drop(world::spawn(async move { node.stop().await }));
            }
            _ => {
                let Some(machine) = self.node.machine() else { return false };
                self.begin(Disturbance::Paused);
                machine.pause();
                self.later(PAUSE_MS_MAX, move |nemesis| {
                    machine.resume();
                    nemesis.end(Disturbance::Paused);
                });
            }
        }
        true
    }

    /// Does something after a while, on the driver's own machine.
    fn later(self: &Rc<Self>, milliseconds_max: u64, what: impl FnOnce(&Rc<Self>) + 'static) {
        let wait = milliseconds(self.random().between(10, milliseconds_max));
        let nemesis = Rc::clone(self);
        drop(world::spawn(async move {
            world::sleep(wait).await;
            what(&nemesis);
        }));
    }

    /// Brings the process back when it has ended, after a while; objects when it ended by itself
    /// without a reason in its disk.
    pub(super) async fn supervise(self: Rc<Self>) {
        let mut cores = self.plan.cores;
        let mut ended_well = 0;
        while ended_well < ENDS_WELL_MAX {
            world::sleep(milliseconds(5)).await;
            if self.node.is_late() {
                self.context.witness.object("liveness: the node does not become ready");
                return;
            }
            if self.node.is_running() || self.node.is_stopping() {
                continue;
            }
            ended_well += u64::from(self.judge_end());
            let wait = between(&mut self.random(), &self.plan.down_for);
            if !self.healed.get() {
                world::sleep(wait).await;
            }
            if self.random().one_in(self.plan.cores_change_one_in) {
                cores = *pick(&mut self.random(), &[1, 2, 3, 4]);
            }
            tracing::info!(cores, "start");
            self.node.start(cores);
        }
    }

    /// Whether it ended by itself, and its disk gave no reason.
    fn judge_end(&self) -> bool {
        let Some(reason) = self.node.take_failure() else { return false };
        if self.node.disk_faulty.get() {
            self.count("process-ended-by-disk");
            return false;
        }
        // A log whose end is torn goes on in a fresh segment; without a spare one, and without
        // space, it cannot be opened, and says so. One that runs waits for space instead.
        let is_full = self.context.witness.disturbances.lasts(Disturbance::Full);
        if is_full && reason.contains("cannot allocate") {
            self.count("start-refused-by-full-disk");
            return false;
        }
        let text = format!("the node ended by itself and its disk was well: {reason}");
        self.context.witness.object(text);
        true
    }

    fn weaken(&self, act: Act) -> bool {
        let network = Network::current();
        let host = *pick(&mut self.random(), &self.hosts);
        let everyone = self.random().one_in(3);
        let hosts = if everyone { self.hosts.clone() } else { vec![host] };
        self.begin(Disturbance::Network);
        for host in hosts {
            match act {
                Act::Cut => network.partition(&[&[HOST], &[host]]),
                Act::CutOneWay if self.random().one_in(2) => network.cut(HOST, host),
                Act::CutOneWay => network.cut(host, HOST),
                _ => {
                    let mut link = self.plan.link.clone();
                    if act == Act::SlowLink {
                        let slow = milliseconds(self.random().between(20, 300));
                        link.latency = slow / 2..=slow;
                        link.bytes_per_second = Some(self.random().between(20_000, 1_000_000));
                    } else {
                        link.loss_ppm = self.random().between(50_000, 400_000) as u32;
                    }
                    network.set_link(HOST, host, link.clone());
                    network.set_link(host, HOST, link);
                }
            }
        }
        true
    }

    /// Links are again as the plan has them.
    pub(super) fn heal_network(&self) {
        let network = Network::current();
        network.heal_all();
        network.set_all(self.plan.link.clone());
        self.end(Disturbance::Network);
    }

    fn bend_clock(&self, act: Act) -> bool {
        let Some(machine) = self.node.machine() else { return false };
        if act == Act::ClockJump {
            let ahead_ms = self.random().between(0, 2 * JUMP_MS_MAX) as i64 - JUMP_MS_MAX as i64;
            // Most jumps are small: what is near the truth meets other edges.
            let ahead_ms = if self.random().one_in(3) { ahead_ms } else { ahead_ms / 1_000 };
            self.context.witness.clock_ahead(ahead_ms);
            machine.set_unix_offset_ms(ahead_ms);
        } else {
            let rate_ppm = self.random().between(0, 2 * CLOCK_RATE_PPM_MAX) as i64;
            machine.set_clock_rate_ppm(rate_ppm - CLOCK_RATE_PPM_MAX as i64);
        }
        true
    }

    fn break_disk(self: &Rc<Self>, act: Act) -> bool {
        let full = self.context.witness.disturbances.lasts(Disturbance::Full);
        if !self.node.is_running() || (act == Act::DiskFull && full) {
            return false;
        }
        let disk = self.node.disk();
        let skip = self.below(30);
        let inject = |operation, fault| disk.inject(Injection::next(operation, fault).after(skip));
        match act {
            Act::FlushError => inject(Operation::Flush, Fault::EIO),
            Act::WriteError => {
                let torn = self.random().one_in(2);
                inject(Operation::Write, if torn { Fault::TORN } else { Fault::EIO });
            }
            Act::ReadError => inject(Operation::Read, Fault::EIO),
            Act::NameError => {
                let names = [Operation::Create, Operation::Rename];
                inject(*pick(&mut self.random(), &names), Fault::EIO);
            }
            Act::DiskStall => {
                let stall = milliseconds(self.random().between(20, STALL_MS_MAX));
                let operation = *pick(&mut self.random(), &[Operation::Flush, Operation::Write]);
                inject(operation, Fault::Stall(stall));
                self.begin(Disturbance::Stall);
                return true;
            }
            _ => {
                self.fill_disk();
                return true;
            }
        }
        self.node.disk_faulty.set(true);
        self.begin(Disturbance::Disk);
        true
    }

    /// Nearly nothing more fits, for a while.
    fn fill_disk(self: &Rc<Self>) {
        let disk = self.node.disk();
        // It may be full already.
        disk.set_capacity_bytes(DISK_BYTES);
        let taken = DISK_BYTES - disk.free_bytes();
        disk.set_capacity_bytes(taken + self.below(300_000));
        self.begin(Disturbance::Full);
        self.times_full.set(self.times_full.get() + 1);
        let time = self.times_full.get();
        self.later(FULL_MS_MAX, move |nemesis| {
            disk.set_capacity_bytes(DISK_BYTES);
            let nemesis = Rc::clone(nemesis);
            drop(world::spawn(async move {
                // The log looks again after a while. Meanwhile the disk may be full again.
                world::sleep(SETTLE).await;
                if nemesis.times_full.get() == time {
                    nemesis.end(Disturbance::Full);
                }
            }));
        });
    }

    /// No more faults, from here on.
    pub(super) fn heal(&self) {
        self.healed.set(true);
        sim::calm_buggify();
        self.heal_network();
        Network::current().set_all(LinkOptions::default());
        let disk = self.node.disk();
        disk.clear_faults();
        disk.set_capacity_bytes(DISK_BYTES);
        self.end(Disturbance::Stall);
        if let Some(machine) = self.node.machine() {
            machine.resume();
            machine.set_clock_rate_ppm(0);
        }
        self.end(Disturbance::Paused);
    }

    /// What has happened to a disk and the network, by name.
    pub(super) fn faults(&self) -> BTreeMap<&'static str, u64> {
        self.fired.borrow().clone()
    }
}

/// Long enough for the last fault's effects to end: a log that was full looks again.
pub(super) const SETTLE: Duration = milliseconds(3_000);
