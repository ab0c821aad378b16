//! The sockets of all hosts: connections, listeners, and the segments between them.
//!
//! Owns which connection and which listener is where, and the timer of each connection. Must never
//! decide what TCP does; `connection` does. Invariants: a socket outlives its process as long as
//! its system has power and something is left to send; a segment for a socket that is gone is
//! answered by a reset, if there is a system to answer.
//!
//! ```text
//!   Stream --> Socket --poll_transmit--> carry ~~link~~> arrive --> Socket --> Stream
//!                |  ^--- timer                              | no such socket
//!                +--> gone                                  +--> listener? accept : reset
//! ```

use std::collections::BTreeMap;
use std::io;
use std::task::{Context, Waker};
use std::time::Duration;

use super::connection::{Connection, Kind, Limits, Segment};
use super::executor::{self, Due, TimerKey};
use super::host::Host;
use super::journal::note;
use super::listening::Listening;
use super::machine::Machine;
use super::network::{Arrival, Damage, Event, Network};

/// A port of a host.
pub(super) type Address = (Host, u16);

/// Names one side of a connection.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) struct SocketKey {
    number: u64,
    side: Side,
}

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
enum Side {
    Client,
    Server,
}

impl SocketKey {
    fn other(self) -> Self {
        let side = match self.side {
            Side::Client => Side::Server,
            Side::Server => Side::Client,
        };
        Self { number: self.number, side }
    }
}

/// From one side to the other.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Path {
    pub(super) from: Address,
    pub(super) to: Address,
    /// Whether it was called by the loopback address.
    pub(super) loopback: bool,
}

impl Path {
    fn back(self) -> Self {
        Self { from: self.to, to: self.from, loopback: self.loopback }
    }
}

/// One side of a connection, at its host.
pub(super) struct Socket {
    pub(super) connection: Connection,
    pub(super) path: Path,
    owner: Machine,
    timer: Option<TimerKey>,
    readers: Vec<Waker>,
    writers: Vec<Waker>,
}

#[derive(Default)]
pub(super) struct Sockets {
    sockets: BTreeMap<SocketKey, Socket>,
    pub(super) listeners: BTreeMap<Address, Listening>,
    connection_count: u64,
    ports: BTreeMap<Host, u16>,
}

impl Sockets {
    /// A port that no listener has, as a system gives them.
    pub(super) fn free_port(&mut self, host: Host) -> u16 {
        let last = self.ports.entry(host).or_insert(PORT_LAST);
        for _ in PORT_FIRST..=PORT_LAST {
            *last = if *last == PORT_LAST { PORT_FIRST } else { *last + 1 };
            if !self.listeners.contains_key(&(host, *last)) {
                return *last;
            }
        }
        panic!("every port of {host:?} is listened on");
    }

    pub(super) fn socket(&self, key: SocketKey) -> Option<&Socket> {
        self.sockets.get(&key)
    }

    fn add(&mut self, key: SocketKey, path: Path, owner: Machine, connection: Connection) {
        let (readers, writers) = (Vec::new(), Vec::new());
        let socket = Socket { connection, path, owner, timer: None, readers, writers };
        let before = self.sockets.insert(key, socket);
        assert!(before.is_none(), "a socket is made once");
    }

    fn remove(&mut self, key: SocketKey) {
        let timer = self.sockets.remove(&key).and_then(|socket| socket.timer);
        if let Some(timer) = timer {
            executor::world().timer_remove(timer);
        }
    }
}

impl Socket {
    pub(super) fn wait_readable(&mut self, context: &Context<'_>) {
        add_waker(&mut self.readers, context);
    }

    pub(super) fn wait_writable(&mut self, context: &Context<'_>) {
        add_waker(&mut self.writers, context);
    }

    fn wake(&mut self) {
        let is_connected = !self.connection.is_connecting();
        if is_connected && self.connection.is_readable() {
            self.readers.drain(..).for_each(Waker::wake);
        }
        if is_connected && self.connection.is_writable() {
            self.writers.drain(..).for_each(Waker::wake);
        }
    }
}

impl Network {
    /// Begins to connect the caller's machine to `to`.
    pub(super) fn connect(&self, to: Address, loopback: bool) -> SocketKey {
        let owner = Machine::current();
        let now_ns = executor::world().now_ns();
        let limits = self.random(Limits::draw);
        self.sockets(|sockets| {
            sockets.connection_count += 1;
            let key = SocketKey { number: sockets.connection_count, side: Side::Client };
            let from = (owner.host(), sockets.free_port(owner.host()));
            let path = Path { from, to, loopback };
            sockets.add(key, path, owner, Connection::connect(limits, now_ns));
            self.settle(sockets, key);
            key
        })
    }

    /// Lets the program do something with its socket, and then the socket what follows. None when
    /// the socket is of an earlier run, or its machine has no power any more.
    pub(super) fn use_socket<T>(
        &self,
        key: SocketKey,
        act: impl FnOnce(&mut Socket) -> T,
    ) -> Option<T> {
        if !self.is_current() {
            return None;
        }
        self.sockets(|sockets| {
            let socket = sockets.sockets.get_mut(&key)?;
            let output = act(socket);
            self.settle(sockets, key);
            Some(output)
        })
    }

    /// The program lets go of its socket. When its process was killed the system has done that.
    pub(super) fn close_socket(&self, key: SocketKey) {
        self.use_socket(key, |socket| {
            if !socket.owner.is_killed() {
                socket.connection.close(executor::world().now_ns());
            }
        });
    }

    /// A process was killed: its system closes its sockets, or resets them. Without power nobody
    /// says anything.
    pub(super) fn end_sockets(&self, machine: &Machine) {
        let now_ns = executor::world().now_ns();
        self.sockets(|sockets| {
            sockets.listeners.retain(|_, listening| !listening.owner.is_same_process(machine));
            let all = sockets.sockets.iter();
            let its = all.filter(|(_, socket)| socket.owner.is_same_process(machine));
            let keys: Vec<SocketKey> = its.map(|(key, _)| *key).collect();
            for key in keys {
                if !machine.has_power() {
                    sockets.remove(key);
                    continue;
                }
                let Some(socket) = sockets.sockets.get_mut(&key) else { continue };
                if !socket.connection.is_closed() {
                    let is_reset = self.random(|random| random.one_in(2));
                    match is_reset {
                        true => socket.connection.abort(now_ns),
                        false => socket.connection.close(now_ns),
                    }
                }
                self.settle(sockets, key);
            }
        });
    }

    /// Does what a socket has to do now: sends, sets its timer, wakes, goes.
    pub(super) fn settle(&self, sockets: &mut Sockets, key: SocketKey) {
        let Some(socket) = sockets.sockets.get_mut(&key) else { return };
        let now_ns = executor::world().now_ns();
        self.transmit(socket, key, now_ns);
        if let Some(kind) = socket.connection.take_failure() {
            self.tell_failure(socket.path, kind);
        }
        socket.wake();
        if socket.connection.is_gone(now_ns) {
            sockets.remove(key);
            return;
        }
        let deadline_ns = socket.connection.deadline_ns(now_ns);
        // A timer that comes too early only looks again.
        if let Some(at_ns) = deadline_ns
            && socket.timer.is_none_or(|timer| at_ns < timer.0)
        {
            let world = executor::world();
            if let Some(timer) = socket.timer {
                world.timer_remove(timer);
            }
            let network = self.clone();
            let call = move |_| network.socket_timer(key);
            socket.timer = Some(world.timer_add(at_ns.max(now_ns + 1), Due::Call(Box::new(call))));
        }
    }

    fn transmit(&self, socket: &mut Socket, key: SocketKey, now_ns: u64) {
        let (from, to) = (socket.path.from.0, socket.path.to.0);
        loop {
            let segment_max = self.segment_bytes_max(from, to);
            let connection = &mut socket.connection;
            let segment = self.random(|random| connection.poll_transmit(segment_max, random));
            let Some(segment) = segment else { return };
            let wants_answer = segment.wants_answer();
            let arrival_ns = self.send_segment(key.other(), socket.path, segment);
            if wants_answer {
                let back_ns = self.round_trip_ns_max(from, to);
                socket.connection.handle_sent(now_ns, arrival_ns.saturating_add(back_ns));
            }
        }
    }

    fn send_segment(&self, to: SocketKey, path: Path, segment: Segment) -> u64 {
        let network = self.clone();
        let size = segment.size();
        self.carry(path.from.0, path.to.0, size, move |damage| {
            let mut segment = segment.clone();
            if let Some(damage) = damage
                && !network.passes_damaged(path, &mut segment, damage)
            {
                return Arrival::Dropped;
            }
            network.arrive(to, path, segment)
        })
    }

    /// A checksum finds the damage, unless the link is so bad that it does not.
    fn passes_damaged(&self, path: Path, segment: &mut Segment, damage: Damage) -> bool {
        match &mut segment.kind {
            Kind::Data { bytes, .. } if self.link(path.from.0, path.to.0).corrupt_streams => {
                *bytes = damage.altered(bytes);
                true
            }
            _ => false,
        }
    }

    fn arrive(&self, key: SocketKey, path: Path, segment: Segment) -> Arrival {
        if !self.is_up(path.to.0) {
            return Arrival::Dropped;
        }
        let now_ns = executor::world().now_ns();
        self.sockets(|sockets| {
            if let Some(socket) = sockets.sockets.get_mut(&key)
                && socket.owner.has_power()
            {
                let was_accepting = socket.connection.is_accepting();
                socket.connection.handle_segment(segment, now_ns);
                let is_accepting = socket.connection.is_accepting();
                if was_accepting && !is_accepting && !socket.connection.is_closed() {
                    self.established(sockets, key);
                }
                self.settle(sockets, key);
                return Arrival::Taken;
            }
            // Left by a machine that lost its power.
            sockets.remove(key);
            match segment.kind {
                Kind::Reset => Arrival::Taken,
                Kind::Open => self.arrive_open(sockets, key, path, &segment),
                _ => {
                    self.send_segment(key.other(), path.back(), Segment::RESET);
                    Arrival::Taken
                }
            }
        })
    }

    fn arrive_open(
        &self,
        sockets: &mut Sockets,
        key: SocketKey,
        path: Path,
        opening: &Segment,
    ) -> Arrival {
        let listening = sockets.listeners.get(&path.to);
        let listening = listening.filter(|it| it.hears(path.loopback) && it.owner.has_power());
        let Some(listening) = listening.filter(|it| !it.owner.is_killed()) else {
            self.send_segment(key.other(), path.back(), Segment::RESET);
            return Arrival::Taken;
        };
        if listening.is_full() {
            return Arrival::Dropped;
        }
        let owner = listening.owner.clone();
        let limits = self.random(Limits::draw);
        let connection = Connection::accept(limits, opening, executor::world().now_ns());
        sockets.add(key, path.back(), owner, connection);
        self.settle(sockets, key);
        Arrival::Taken
    }

    /// The other side knows of the connection: it can be accepted.
    fn established(&self, sockets: &mut Sockets, key: SocketKey) {
        let Some(address) = sockets.socket(key).map(|socket| socket.path.from) else { return };
        match sockets.listeners.get_mut(&address) {
            Some(listening) => listening.push(key),
            None => self.drop_unaccepted(sockets, key),
        }
    }

    /// Nobody will accept it any more.
    pub(super) fn drop_unaccepted(&self, sockets: &mut Sockets, key: SocketKey) {
        if let Some(socket) = sockets.sockets.get_mut(&key) {
            socket.connection.abort(executor::world().now_ns());
        }
        self.settle(sockets, key);
    }

    fn socket_timer(&self, key: SocketKey) {
        let now_ns = executor::world().now_ns();
        self.sockets(|sockets| {
            let Some(socket) = sockets.sockets.get_mut(&key) else { return };
            socket.timer = None;
            if !socket.owner.has_power() {
                sockets.remove(key);
                return;
            }
            if socket.connection.deadline_ns(now_ns).is_some_and(|at_ns| at_ns <= now_ns) {
                socket.connection.handle_timeout(now_ns);
            }
            self.settle(sockets, key);
        });
    }

    fn tell_failure(&self, path: Path, kind: io::ErrorKind) {
        self.count(|counters| match kind {
            io::ErrorKind::ConnectionRefused => counters.refused += 1,
            _ => counters.resets += 1,
        });
        self.record(Event::Failure, path.from.0, path.to.0, kind as u64);
        note(|| format!("network: the connection {:?} to {:?}: {kind}", path.from, path.to));
    }

    /// What a segment may hold so that a slow link is not busy with it for long.
    fn segment_bytes_max(&self, from: Host, to: Host) -> usize {
        let bytes_per_second = self.bytes_per_second(from, to);
        bytes_per_second.map_or(usize::MAX, |rate| (rate / SEGMENTS_PER_SECOND_MIN) as usize)
    }
}

impl Socket {
    pub(super) fn set_keepalive(&mut self, idle: Duration) {
        let idle_ns = u64::try_from(idle.as_nanos()).unwrap_or(u64::MAX);
        self.connection.set_keepalive(idle_ns);
    }
}

pub(super) fn add_waker(wakers: &mut Vec<Waker>, context: &Context<'_>) {
    if !wakers.iter().any(|waker| waker.will_wake(context.waker())) {
        wakers.push(context.waker().clone());
    }
}

/// The ports that a system gives away.
const PORT_FIRST: u16 = 32_768;
const PORT_LAST: u16 = 60_999;
const SEGMENTS_PER_SECOND_MIN: u64 = 4;
