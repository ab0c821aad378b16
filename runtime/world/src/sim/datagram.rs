//! Datagrams: packets between hosts that may be lost, come twice, late or altered.
//!
//! Owns the ports and their inboxes. Invariants: a port of a host has one endpoint; an inbox is
//! bounded, what finds it full is lost; what a dead process bound is free again.

use std::cell::RefCell;
use std::collections::{BTreeMap, VecDeque};
use std::fmt;
use std::future::poll_fn;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

use bytes::Bytes;

use super::host::Host;
use super::machine::Machine;
use super::network::{Arrival, Damage, Network};

/// A port for datagrams on the host of the machine that bound it. Free again when dropped, and
/// when the machine's process ends.
pub struct Endpoint {
    network: Network,
    inbox: Rc<Inbox>,
}

/// A datagram, as it arrived.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Packet {
    /// Where it was sent from.
    pub from: (Host, u16),
    /// What it carries.
    pub bytes: Bytes,
}

struct Inbox {
    owner: Machine,
    port: u16,
    queue: RefCell<Queue>,
}

#[derive(Default)]
struct Queue {
    packets: VecDeque<Packet>,
    waiting: Vec<Waker>,
}

/// Which ports are bound.
#[derive(Default)]
pub(super) struct Inboxes {
    bound: BTreeMap<(Host, u16), Rc<Inbox>>,
}

impl Endpoint {
    /// Binds `port` on the host of the current machine.
    ///
    /// # Panics
    /// When a process that lives has bound it.
    #[must_use]
    pub fn bind(port: u16) -> Self {
        let (network, owner) = (Network::current(), Machine::current());
        let address = (owner.host(), port);
        let inbox = Rc::new(Inbox { owner, port, queue: RefCell::default() });
        network.inboxes(|inboxes| {
            let before = inboxes.bound.insert(address, Rc::clone(&inbox));
            assert!(
                before.is_none_or(|before| before.owner.is_killed()),
                "port {port} of {:?} is bound already",
                address.0
            );
        });
        Self { network, inbox }
    }

    /// Where others reach it.
    #[must_use]
    pub fn address(&self) -> (Host, u16) {
        self.inbox.address()
    }

    /// Sends a datagram. Nobody learns whether it arrives.
    pub fn send(&self, to: (Host, u16), bytes: Bytes) {
        if self.inbox.owner.is_killed() {
            return;
        }
        let (network, from) = (self.network.clone(), self.address());
        let size = bytes.len();
        let arrive = move |damage: Option<Damage>| {
            let bytes = damage.map_or_else(|| bytes.clone(), |damage| damage.altered(&bytes));
            network.inboxes(|inboxes| inboxes.receive(to, Packet { from, bytes }))
        };
        self.network.carry(from.0, to.0, size, arrive);
    }

    /// The next datagram. A dropped future has taken none.
    pub async fn recv(&self) -> Packet {
        poll_fn(|context| self.inbox.queue.borrow_mut().poll(context)).await
    }

    /// The next datagram, if one has arrived.
    #[must_use]
    pub fn try_recv(&self) -> Option<Packet> {
        self.inbox.queue.borrow_mut().packets.pop_front()
    }
}

impl Drop for Endpoint {
    fn drop(&mut self) {
        self.network.inboxes(|inboxes| inboxes.close(&self.inbox));
    }
}

impl fmt::Debug for Endpoint {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "Endpoint{:?}", self.address())
    }
}

impl Inbox {
    fn address(&self) -> (Host, u16) {
        (self.owner.host(), self.port)
    }
}

impl Queue {
    fn poll(&mut self, context: &Context<'_>) -> Poll<Packet> {
        if let Some(packet) = self.packets.pop_front() {
            return Poll::Ready(packet);
        }
        if !self.waiting.iter().any(|waker| waker.will_wake(context.waker())) {
            self.waiting.push(context.waker().clone());
        }
        Poll::Pending
    }
}

impl Inboxes {
    fn receive(&self, to: (Host, u16), packet: Packet) -> Arrival {
        let Some(inbox) = self.bound.get(&to).filter(|inbox| !inbox.owner.is_killed()) else {
            return Arrival::Dropped;
        };
        let mut queue = inbox.queue.borrow_mut();
        if queue.packets.len() >= PACKETS_MAX {
            return Arrival::Dropped;
        }
        queue.packets.push_back(packet);
        for waker in queue.waiting.drain(..) {
            waker.wake();
        }
        Arrival::Taken
    }

    /// The inbox may have gone already, and another have taken its place.
    fn close(&mut self, inbox: &Rc<Inbox>) {
        let address = inbox.address();
        if self.bound.get(&address).is_some_and(|bound| Rc::ptr_eq(bound, inbox)) {
            self.bound.remove(&address);
        }
    }

    /// Frees what a process had bound.
    pub(super) fn close_all(&mut self, machine: &Machine) {
        self.bound.retain(|_, bound| !bound.owner.is_same_process(machine));
    }
}

/// Datagrams that wait for one endpoint, as in a socket's buffer.
const PACKETS_MAX: usize = 1024;
