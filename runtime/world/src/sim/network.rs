//! The network of a run: every packet between hosts goes through here.
//!
//! Owns the links, the faults, the counters and who is at which host. Must never know what a
//! packet means: `datagram` and the streams tell what happens when one arrives. Invariants: all
//! chance comes from the network's own numbers; every packet, and what becomes of it, is in the
//! trace; nothing arrives in the call that sends it.
//!
//! ```text
//!   Endpoint (datagrams) ---+                +--> taken: delivered
//!                           +--> carry ~~ link ~~+
//!   Stream (segments) ------+                +--> nobody, no room, cut meanwhile: lost
//! ```

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::fmt;
use std::rc::Rc;

use bytes::{Bytes, BytesMut};

use super::datagram::Inboxes;
use super::executor::{self, Due};
use super::host::Host;
use super::journal::note;
use super::link::{Copy, Fate, LinkOptions, Links};
use super::machine::Machine;
use super::rng::{Rng, mix};
use super::socket::Sockets;

/// The network of one run. Cloning gives another handle; the counters outlive the run.
#[derive(Clone)]
pub struct Network {
    state: Rc<State>,
}

struct State {
    random: RefCell<Rng>,
    links: RefCell<Links>,
    counters: Cell<NetworkCounters>,
    /// The processes that began last at each host, and those that still run there.
    processes: RefCell<BTreeMap<Host, Vec<Machine>>>,
    inboxes: RefCell<Inboxes>,
    sockets: RefCell<Sockets>,
}

/// What has happened on the network of a run. Datagrams and the segments of streams count alike.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct NetworkCounters {
    /// Packets that were to be sent.
    pub sent: u64,
    /// Packets, and copies of them, that arrived and were taken.
    pub delivered: u64,
    /// Packets that the link lost, or that nobody had room for.
    pub lost: u64,
    /// Packets that the link carried twice.
    pub duplicated: u64,
    /// Packets that were held up.
    pub reordered: u64,
    /// Arrivals that were altered.
    pub corrupted: u64,
    /// Packets that met a cut link.
    pub cut: u64,
    /// Connections refused because nobody listened.
    pub refused: u64,
    /// Connections that ended by a reset, or because nothing came through for too long.
    pub resets: u64,
    /// Bytes that arrived and were taken.
    pub bytes: u64,
}

impl NetworkCounters {
    /// How often each fault fired, by name.
    #[must_use]
    pub fn faults(&self) -> [(&'static str, u64); 7] {
        [
            ("network-loss", self.lost),
            ("network-duplicate", self.duplicated),
            ("network-reorder", self.reordered),
            ("network-corrupt", self.corrupted),
            ("network-cut", self.cut),
            ("network-refused", self.refused),
            ("network-reset", self.resets),
        ]
    }
}

/// What to alter in something that arrives.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Damage(u64);

/// What the receiver says of something that arrived.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Arrival {
    Taken,
    /// Nobody is there, or has room.
    Dropped,
}

impl Network {
    /// The network of the current run.
    #[must_use]
    pub fn current() -> Self {
        executor::world().network()
    }

    pub(super) fn new(random: Rng) -> Self {
        let state = State {
            random: RefCell::new(random),
            links: RefCell::default(),
            counters: Cell::default(),
            processes: RefCell::default(),
            inboxes: RefCell::default(),
            sockets: RefCell::default(),
        };
        Self { state: Rc::new(state) }
    }

    /// How packets go from one host to another; the way back is set on its own.
    pub fn set_link(&self, from: Host, to: Host, options: LinkOptions) {
        self.record(Event::Link, from, to, 0);
        note(|| format!("network: {from:?} to {to:?}: {options:?}"));
        self.state.links.borrow_mut().change(from, to, |link| *link = options);
    }

    /// How packets go from one host to another now.
    #[must_use]
    pub fn link(&self, from: Host, to: Host) -> LinkOptions {
        self.state.links.borrow().options(from, to)
    }

    /// Sets all links between different hosts, also those not used so far.
    pub fn set_all(&self, options: LinkOptions) {
        self.record(Event::Link, Host(0), Host(0), 0);
        note(|| format!("network: all links: {options:?}"));
        self.state.links.borrow_mut().set_all(&options);
    }

    /// Cuts one direction: what is under way is lost too.
    pub fn cut(&self, from: Host, to: Host) {
        self.record(Event::Link, from, to, 1);
        note(|| format!("network: cut {from:?} to {to:?}"));
        self.state.links.borrow_mut().change(from, to, |link| link.cut = true);
    }

    /// Heals one direction.
    pub fn heal(&self, from: Host, to: Host) {
        self.record(Event::Link, from, to, 2);
        note(|| format!("network: heal {from:?} to {to:?}"));
        self.state.links.borrow_mut().change(from, to, |link| link.cut = false);
    }

    /// Heals all cuts; slow and lossy links stay as they are.
    pub fn heal_all(&self) {
        self.record(Event::Link, Host(0), Host(0), 2);
        note(|| String::from("network: heal all"));
        self.state.links.borrow_mut().heal_all();
    }

    /// Cuts, both ways, between all hosts named that are in no group together. A host in two
    /// groups is a bridge: it reaches both. What was cut before stays cut.
    pub fn partition(&self, groups: &[&[Host]]) {
        let together =
            |one, other| groups.iter().any(|group| group.contains(one) && group.contains(other));
        let hosts: Vec<Host> = groups.concat();
        for from in &hosts {
            for to in hosts.iter().filter(|to| *to != from && !together(from, to)) {
                self.cut(*from, *to);
            }
        }
    }

    /// What has happened so far.
    #[must_use]
    pub fn counters(&self) -> NetworkCounters {
        self.state.counters.get()
    }

    pub(super) fn count(&self, count: impl FnOnce(&mut NetworkCounters)) {
        let mut counters = self.state.counters.get();
        count(&mut counters);
        self.state.counters.set(counters);
    }

    pub(super) fn random<T>(&self, draw: impl FnOnce(&mut Rng) -> T) -> T {
        draw(&mut self.state.random.borrow_mut())
    }

    pub(super) fn inboxes<T>(&self, ask: impl FnOnce(&mut Inboxes) -> T) -> T {
        ask(&mut self.state.inboxes.borrow_mut())
    }

    pub(super) fn sockets<T>(&self, ask: impl FnOnce(&mut Sockets) -> T) -> T {
        ask(&mut self.state.sockets.borrow_mut())
    }

    /// Whether its run still goes on.
    pub(super) fn is_current(&self) -> bool {
        let current = executor::try_world().map(|world| world.network());
        current.is_some_and(|current| Rc::ptr_eq(&current.state, &self.state))
    }

    pub(super) fn round_trip_ns_max(&self, from: Host, to: Host) -> u64 {
        self.state.links.borrow().round_trip_ns_max(from, to)
    }

    pub(super) fn bytes_per_second(&self, from: Host, to: Host) -> Option<u64> {
        self.state.links.borrow().bytes_per_second(from, to)
    }

    /// A process has begun: its host answers from now on.
    pub(super) fn process_started(&self, machine: &Machine) {
        let mut processes = self.state.processes.borrow_mut();
        let here = processes.entry(machine.host()).or_default();
        here.retain(|before| !before.is_killed());
        here.push(machine.clone());
    }

    /// A process was killed; with power its system is left, and closes what it had open.
    pub(super) fn process_ended(&self, machine: &Machine) {
        self.inboxes(|inboxes| inboxes.close_all(machine));
        self.end_sockets(machine);
    }

    /// Whether there is a system at `host` that answers for processes that are gone.
    pub(super) fn is_up(&self, host: Host) -> bool {
        let processes = self.state.processes.borrow();
        processes.get(&host).is_some_and(|here| here.iter().any(Machine::has_power))
    }

    /// Sends a packet of `size` bytes; `arrive` runs for each copy of it that arrives. Answers
    /// when it would arrive if nothing happened to it.
    pub(super) fn carry(
        &self,
        from: Host,
        to: Host,
        size: usize,
        arrive: impl Fn(Option<Damage>) -> Arrival + Clone + 'static,
    ) -> u64 {
        let now_ns = executor::world().now_ns();
        let route = {
            let mut links = self.state.links.borrow_mut();
            self.random(|random| links.route((from, to), size, now_ns, random))
        };
        self.count(|counters| {
            counters.sent += 1;
            counters.lost += u64::from(route.fate == Fate::Lost);
            counters.cut += u64::from(route.fate == Fate::Cut);
            counters.reordered += u64::from(route.reordered);
            counters.duplicated += u64::from(route.copies.len() > 1);
        });
        let event = match route.fate {
            Fate::Carried => Event::Carried,
            Fate::Lost => Event::Lost,
            Fate::Cut => Event::Cut,
        };
        self.record(event, from, to, size as u64);
        if route.is_odd() {
            note(|| format!("network: {from:?} to {to:?}, {size} bytes: {route:?}"));
        }
        for copy in route.copies {
            self.schedule(copy, (from, to), size, arrive.clone());
        }
        route.expected_ns
    }

    fn schedule(
        &self,
        copy: Copy,
        (from, to): (Host, Host),
        size: usize,
        arrive: impl FnOnce(Option<Damage>) -> Arrival + 'static,
    ) {
        let network = self.clone();
        let arrival = move |_| {
            if network.state.links.borrow().is_cut(from, to) {
                network.count(|counters| counters.cut += 1);
                network.record(Event::Cut, from, to, size as u64);
                return;
            }
            network.count(|counters| counters.corrupted += u64::from(copy.damage.is_some()));
            let event = match arrive(copy.damage.map(Damage)) {
                Arrival::Taken => {
                    network.count(|counters| {
                        counters.delivered += 1;
                        counters.bytes += size as u64;
                    });
                    Event::Taken
                }
                Arrival::Dropped => {
                    network.count(|counters| counters.lost += 1);
                    Event::Dropped
                }
            };
            network.record(event, from, to, size as u64);
        };
        executor::world().timer_add(copy.at_ns, Due::Call(Box::new(arrival)));
    }

    /// Puts what happened into the trace.
    pub(super) fn record(&self, event: Event, from: Host, to: Host, detail: u64) {
        if let Some(world) = executor::try_world() {
            let way = u64::from(from.0) << 16 | u64::from(to.0);
            world.record(EVENT_NETWORK + event as u64, way << 32 ^ mix(detail));
        }
    }
}

impl Damage {
    /// The same bytes but for one bit, if there are any.
    pub(super) fn altered(self, bytes: &Bytes) -> Bytes {
        let mut bytes = BytesMut::from(bytes.as_ref());
        let at = self.0.checked_rem(bytes.len() as u64).and_then(|at| usize::try_from(at).ok());
        if let Some(byte) = at.and_then(|at| bytes.get_mut(at)) {
            *byte ^= 1 << (self.0 >> 61);
        }
        bytes.freeze()
    }
}

impl fmt::Debug for Network {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Network").field("counters", &self.counters()).finish()
    }
}

/// What the trace tells of the network.
#[derive(Clone, Copy, Debug)]
pub(super) enum Event {
    Link,
    Carried,
    Lost,
    Cut,
    Taken,
    Dropped,
    Failure,
}

/// The first of a block of numbers in the trace.
const EVENT_NETWORK: u64 = 100;
