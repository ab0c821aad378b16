//! A node of the cluster: a machine with a disk, and the process that runs on it, put together as
//! the real one is: per core a broker, a native gateway, the connections to and from other nodes.
//!
//! Owns: starting, stopping, killing, wiping and cutting the power of it; asking to be let in.
//! Must never: let anything of a dead process live on but its disk.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;
use std::time::Duration;

use barrage_broker::{
    Arrival, Broker, BrokerOptions, CoreLinks, Fingerprint, Home, Newcomer, PeerRefusal,
};
use barrage_cluster::node::LEVEL;
use barrage_model::{NodeId, ShardId};
use barrage_native::{Gateway, Options};
use barrage_peer::{Acceptor, Book, ClusterId, Contact, Handler, Identity, Links, Refusal, Reply};
use barrage_wire::{ClusterChange, ClusterJoin, Request, Response};
use barrage_world::channel::{mpsc, watch};
use barrage_world::net::{Listener, ListenerHandle};
use barrage_world::sim::{Disk, DiskOptions, Host, Machine, Rng};
use barrage_world::{Instant, sleep, spawn, timeout};
use bytes::Bytes;

use super::plan::Plan;
use super::register::Register;
use crate::workload::{Connection, milliseconds};

/// Where nodes keep their data.
pub(super) const DATA_DIR: &str = "/node/data";
/// The address that every core accepts; each core's own follow.
const PORT: u16 = 7_400;
/// The same for other nodes.
const PEER_PORT: u16 = 7_600;
/// Everything fits, until a fault makes the disk smaller.
pub(super) const DISK_BYTES: u64 = 1 << 30;
/// How long requests under way get when the node stops.
const DRAIN_WITHIN: Duration = milliseconds(1_000);
/// How long closing the logs may take after the drain.
const SHUT_DOWN_WITHIN: Duration = milliseconds(20_000);
/// Between two attempts to join, and how long one may take.
const JOIN_PAUSE: Duration = milliseconds(300);
const JOIN_WITHIN: Duration = milliseconds(3_000);
const TOLD_MAX: usize = 64;

/// The machine of a place.
pub(super) fn host(place: usize) -> Host {
    Host(1 + u16::try_from(place).unwrap_or(u16::MAX - 1))
}

fn address(place: usize, port: u16) -> SocketAddr {
    SocketAddr::new(IpAddr::V4(host(place).ip()), port)
}

/// Where clients reach the node of a place.
pub(super) fn shared_address(place: usize) -> SocketAddr {
    address(place, PORT)
}

/// What a core is told.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
enum Step {
    Start,
    Serve,
    Drain(Instant),
    /// The core with this number, and all above it, close their logs.
    ShutDown(u16, Instant),
}

/// What a core tells.
enum Told {
    Done,
    Failed(String),
}

/// One life of the node.
struct Life {
    machine: Machine,
    cores: u16,
    steps: watch::Sender<Step>,
    /// Why it ended by itself.
    failure: RefCell<Option<String>>,
    serving: Cell<bool>,
    /// Bumped to have every core tell the states of its replicas.
    looks: watch::Sender<u64>,
    fingerprints: RefCell<BTreeMap<ShardId, Fingerprint>>,
}

/// A place where a node may be. It outlives the processes, and the nodes.
pub(super) struct Node {
    pub(super) place: usize,
    cores: u16,
    plan: Rc<Plan>,
    register: Rc<Register>,
    disk: RefCell<Disk>,
    life: RefCell<Option<Rc<Life>>>,
    stopping: Cell<bool>,
    /// It founds the cluster; all others join.
    founds: Cell<bool>,
    /// A process is to run here.
    pub(super) is_wanted: Cell<bool>,
    pub(super) starts: Cell<u64>,
    /// A fault of the disk was injected since the process began: it may end by itself.
    pub(super) is_disk_faulty: Cell<bool>,
    /// The disk was small since the process began.
    pub(super) was_full: Cell<bool>,
    /// How far its wall clock is ahead, also of the processes to come.
    pub(super) clock_ahead_ms: Cell<i64>,
    /// No process comes before.
    pub(super) away_until: Cell<Option<Instant>>,
}

fn fresh_disk() -> Disk {
    Disk::new(DiskOptions { capacity_bytes: DISK_BYTES, ..DiskOptions::default() })
}

impl Node {
    pub(super) fn new(place: usize, plan: &Rc<Plan>, register: &Rc<Register>) -> Self {
        Self {
            place,
            cores: plan.cores.get(place).copied().unwrap_or(1),
            plan: Rc::clone(plan),
            register: Rc::clone(register),
            disk: RefCell::new(fresh_disk()),
            life: RefCell::new(None),
            stopping: Cell::new(false),
            founds: Cell::new(place == 0),
            is_wanted: Cell::new(false),
            starts: Cell::new(0),
            is_disk_faulty: Cell::new(false),
            was_full: Cell::new(false),
            clock_ahead_ms: Cell::new(0),
            away_until: Cell::new(None),
        }
    }

    pub(super) fn disk(&self) -> Disk {
        self.disk.borrow().clone()
    }

    fn life(&self) -> Option<Rc<Life>> {
        self.life.borrow().clone().filter(|life| !life.machine.is_killed())
    }

    pub(super) fn machine(&self) -> Option<Machine> {
        self.life().map(|life| life.machine.clone())
    }

    pub(super) fn is_running(&self) -> bool {
        self.life().is_some()
    }

    /// Whether an orderly stop is under way.
    pub(super) fn is_stopping(&self) -> bool {
        self.stopping.get()
    }

    /// Whether it accepts connections.
    pub(super) fn is_serving(&self) -> bool {
        self.life().is_some_and(|life| life.serving.get())
    }

    /// The states of the replicas here, as every core tells them within a moment.
    pub(super) async fn fingerprints(&self) -> BTreeMap<ShardId, Fingerprint> {
        let Some(life) = self.life() else { return BTreeMap::new() };
        life.fingerprints.borrow_mut().clear();
        let next = *life.looks.borrow() + 1;
        life.looks.send_replace(next);
        sleep(milliseconds(2)).await;
        life.fingerprints.take()
    }

    /// Why the last process ended by itself, told once.
    pub(super) fn take_failure(&self) -> Option<String> {
        self.life.borrow().as_ref().and_then(|life| life.failure.take())
    }

    /// Starts a process on the disk as it is.
    pub(super) fn start(&self) {
        assert!(!self.is_running(), "one process per machine");
        let disk = self.disk();
        disk.clear_faults();
        disk.set_capacity_bytes(DISK_BYTES);
        self.is_disk_faulty.set(false);
        self.was_full.set(false);
        self.is_wanted.set(true);
        self.starts.set(self.starts.get() + 1);
        let machine = Machine::at(host(self.place), &disk);
        machine.set_unix_offset_ms(self.clock_ahead_ms.get());
        let (steps, _) = watch::channel(Step::Start);
        let life = Rc::new(Life {
            machine: machine.clone(),
            cores: self.cores,
            steps,
            failure: RefCell::new(None),
            serving: Cell::new(false),
            looks: watch::channel(0).0,
            fingerprints: RefCell::default(),
        });
        *self.life.borrow_mut() = Some(Rc::clone(&life));
        let process = Process {
            place: self.place,
            founds: self.founds.get(),
            life,
            plan: Rc::clone(&self.plan),
            register: Rc::clone(&self.register),
        };
        drop(machine.spawn(async move {
            if let Err(reason) = process.run().await {
                tracing::info!(place = process.place, reason, "the node ends by itself");
                *process.life.failure.borrow_mut() = Some(reason);
            }
            // As the real process does: one core that cannot go on ends all.
            Machine::current().kill();
        }));
    }

    /// Ends the process at once; what it wrote stays with the kernel.
    pub(super) fn kill(&self) {
        if let Some(life) = self.life() {
            life.machine.kill();
        }
    }

    /// Takes the power: the disk keeps what a power loss leaves of it.
    pub(super) fn power_off(&self, random: &mut Rng) {
        if let Some(life) = self.life() {
            life.machine.power_off();
        }
        let image = self.disk.borrow().crash(random);
        *self.disk.borrow_mut() = Disk::boot(image);
    }

    /// Nothing is left of the node: who starts here next is another one.
    pub(super) fn wipe(&self) {
        self.kill();
        self.register.left(self.place);
        self.founds.set(false);
        *self.disk.borrow_mut() = fresh_disk();
    }

    /// Stops it as an operator does; answers when the process has ended, and whether in time.
    pub(super) async fn stop(&self) -> bool {
        let Some(life) = self.life().filter(|life| life.serving.get()) else { return true };
        self.stopping.set(true);
        life.steps.send_replace(Step::Drain(Instant::now() + DRAIN_WITHIN));
        let ended = async {
            while !life.machine.is_killed() {
                sleep(milliseconds(5)).await;
            }
        };
        let in_time = timeout(DRAIN_WITHIN + 3 * SHUT_DOWN_WITHIN, ended).await.is_ok();
        let excused = self.is_disk_faulty.get() || life.machine.is_paused();
        if !life.machine.is_killed() {
            life.machine.kill();
        }
        self.stopping.set(false);
        in_time || excused
    }
}

/// The process: the first thread of the real one, which watches over the cores.
struct Process {
    place: usize,
    founds: bool,
    life: Rc<Life>,
    plan: Rc<Plan>,
    register: Rc<Register>,
}

impl Process {
    async fn run(&self) -> Result<(), String> {
        let (life, cores) = (&self.life, self.life.cores);
        let bound = |port| {
            let bound = Listener::bind_exclusive(address(self.place, port));
            bound.map_err(|error| error.to_string())
        };
        let own = |first: u16| -> Result<Vec<ListenerHandle>, String> {
            (0..cores).map(|core| bound(first + 1 + core)).collect()
        };
        let (shared, own_clients) = (bound(PORT)?, own(PORT)?);
        let (peer_shared, own_peers) = (bound(PEER_PORT)?, own(PEER_PORT)?);
        let home = self.enter().await?;
        self.register.is_at(self.place, home.node());
        let cluster = home.cluster().parse::<ClusterId>().map_err(|error| error.to_string())?;
        let me = Identity { cluster, node: home.node() };
        let ports = (0..cores).map(|core| PEER_PORT + 1 + core).collect();
        let contact = Contact::new(ports).map_err(|error| error.to_string())?;
        let (told, mut heard) = mpsc::bounded(TOLD_MAX);
        let book = Book::new();
        let broker = self.broker_options();
        for (links, core) in Broker::mesh(cores, home).into_iter().zip(0_u16..) {
            let seat = Seat {
                core,
                links,
                broker: broker.clone(),
                native: self.plan.native.clone(),
                clients: [Some(shared.clone()), own_clients.get(usize::from(core)).cloned()],
                peers: [Some(peer_shared.clone()), own_peers.get(usize::from(core)).cloned()],
                me,
                book: book.clone(),
                contact: contact.clone(),
                steps: life.steps.subscribe(),
                told: told.clone(),
                life: Rc::clone(life),
            };
            drop(life.machine.core(core, cores).spawn(seat.run()));
        }
        all_done(&mut heard, cores).await?;
        drop((shared, own_clients, peer_shared, own_peers));
        life.steps.send_replace(Step::Serve);
        all_done(&mut heard, cores).await?;
        life.serving.set(true);
        // Each further step is the operator's.
        all_done(&mut heard, cores).await?;
        life.serving.set(false);
        let deadline = Instant::now() + SHUT_DOWN_WITHIN;
        life.steps.send_replace(Step::ShutDown(1, deadline));
        all_done(&mut heard, cores - 1).await?;
        life.steps.send_replace(Step::ShutDown(0, deadline));
        all_done(&mut heard, 1).await
    }

    fn broker_options(&self) -> BrokerOptions {
        let cores = self.life.cores;
        let own = (0..cores).map(|core| address(self.place, PORT + 1 + core).to_string());
        BrokerOptions {
            cores,
            core_addresses: own.collect(),
            peer_address: address(self.place, PEER_PORT).to_string(),
            client_address: shared_address(self.place).to_string(),
            ..self.plan.broker.clone()
        }
    }

    /// The data directory of a member, of the founder, or of one that asks to be let in.
    async fn enter(&self) -> Result<Home, String> {
        let dir = &self.plan.broker.data_dir;
        if self.founds {
            return Home::open(dir).await.map_err(|error| error.to_string());
        }
        match Home::to_join(dir).await.map_err(|error| error.to_string())? {
            Arrival::Member(home) => Ok(home),
            Arrival::Newcomer(newcomer) => self.join(newcomer).await,
        }
    }

    /// Asks one node after the other.
    async fn join(&self, newcomer: Newcomer) -> Result<Home, String> {
        let birth = newcomer.birth().0;
        let request = Request::ClusterChange(ClusterChange::Join(ClusterJoin {
            birth,
            peer: address(self.place, PEER_PORT).to_string(),
            client: shared_address(self.place).to_string(),
            level: LEVEL,
        }));
        let others: Vec<usize> = self.register.places().filter(|it| *it != self.place).collect();
        for place in others.iter().cycle() {
            match timeout(JOIN_WITHIN, self.ask(*place, &request)).await {
                Ok(Ok(Some((node, cluster)))) => {
                    self.register.joined(birth, node);
                    if birth.is_multiple_of(2) {
                        // As if that answer had been lost: asked again it is the same node.
                        let again = timeout(JOIN_WITHIN, self.ask(*place, &request)).await;
                        if let Ok(Ok(Some((node, _)))) = again {
                            self.register.joined(birth, node);
                        }
                    }
                    let settled = newcomer.settle(node, cluster).await;
                    return settled.map_err(|error| error.to_string());
                }
                Ok(Err(refused)) => return Err(refused),
                Ok(Ok(None)) | Err(_) => sleep(JOIN_PAUSE).await,
            }
        }
        Err("nobody to ask".to_owned())
    }

    /// The node's id and the cluster; `None` when it is worth trying again.
    async fn ask(
        &self,
        place: usize,
        request: &Request<'_>,
    ) -> Result<Option<(NodeId, String)>, String> {
        let witness = self.register.witness();
        let opened = Connection::open(shared_address(place), "newcomer", &witness).await;
        let Ok(connection) = opened else { return Ok(None) };
        let answer = connection.call(request, JOIN_WITHIN).await;
        connection.close();
        let Ok(frame) = answer else { return Ok(None) };
        match Response::decode(&frame.header, &frame.body) {
            Ok(Response::ClusterChange(changed)) => Ok(Some((changed.node, changed.cluster))),
            Ok(Response::Error { error, .. }) if error.code.is_retriable() => Ok(None),
            other => Err(format!("the cluster does not let it in: {other:?}")),
        }
    }
}

/// Waits until so many cores have done their step.
async fn all_done(heard: &mut mpsc::Receiver<Told>, count: u16) -> Result<(), String> {
    let mut left = count;
    while left > 0 {
        match heard.recv().await {
            Some(Told::Done) => left -= 1,
            Some(Told::Failed(reason)) => return Err(reason),
            None => return Err("every core has ended".to_owned()),
        }
    }
    Ok(())
}

/// What one core owns.
struct Seat {
    core: u16,
    links: CoreLinks,
    broker: BrokerOptions,
    native: Options,
    /// The shared address and the core's own.
    clients: [Option<ListenerHandle>; 2],
    peers: [Option<ListenerHandle>; 2],
    me: Identity,
    book: Book,
    contact: Contact,
    steps: watch::Receiver<Step>,
    told: mpsc::Sender<Told>,
    life: Rc<Life>,
}

impl Seat {
    /// The whole life of one core.
    async fn run(self) {
        let (core, told) = (self.core, self.told.clone());
        if let Err(reason) = self.serve().await {
            tell(&told, Told::Failed(format!("core {core}: {reason}")));
        }
    }

    async fn serve(self) -> Result<(), String> {
        let Self { core, links, broker, native, clients, peers, me, book, contact, .. } = self;
        let (mut steps, told, life) = (self.steps, self.told, self.life);
        let options = barrage_peer::Options::default();
        let connections = Links::new(me, book.clone(), options.clone());
        let broker = Broker::new(broker, links, Rc::new(connections.clone()));
        let broker = broker.map_err(|error| error.to_string())?;
        let acceptor = Acceptor::new(me, contact, Rc::new(ToBroker(broker.clone())), options);
        // Before the broker is open: a node that joins is found by the others.
        for handle in peers.into_iter().flatten() {
            acceptor.serve(handle.on_core().map_err(|error| error.to_string())?);
        }
        if core == 0 {
            drop(spawn(keep_book(broker.clone(), book)));
        }
        broker.open().await.map_err(|error| error.to_string())?;
        report_failure(&broker, &told);
        drop(spawn(keep_telling(broker.clone(), life)));
        let gateway = Gateway::new(broker.clone(), native);
        tell(&told, Told::Done);
        let mut listeners = Some(clients);
        let mut done = Step::Start;
        loop {
            let step = *steps.borrow_and_update();
            match step {
                _ if step == done => {}
                Step::Start => {}
                Step::Serve => {
                    for handle in listeners.take().into_iter().flatten().flatten() {
                        gateway.serve(handle.on_core().map_err(|error| error.to_string())?);
                    }
                    tell(&told, Told::Done);
                }
                Step::Drain(deadline) => {
                    broker.hand_over(deadline).await;
                    gateway.drain(deadline).await;
                    tell(&told, Told::Done);
                }
                Step::ShutDown(first, deadline) if core >= first => {
                    broker.shutdown(deadline).await;
                    acceptor.drain(Instant::now()).await;
                    connections.close();
                    tell(&told, Told::Done);
                    return Ok(());
                }
                Step::ShutDown(..) => {}
            }
            done = step;
            if *steps.borrow() == step && steps.changed().await.is_err() {
                return Err("the watching thread has ended".to_owned());
            }
        }
    }
}

/// Hands the requests of other nodes to the broker of their core.
struct ToBroker(Broker);

impl Handler for ToBroker {
    fn handle(&self, shard: ShardId, from: NodeId, request: Bytes) -> Reply {
        let answer = self.0.answer_peer(shard, from, request);
        Box::pin(async move {
            answer.await.map_err(|refusal| match refusal {
                PeerRefusal::UnknownShard => Refusal::UnknownShard,
                PeerRefusal::Damaged => Refusal::Damaged,
            })
        })
    }
}

/// Keeps the addresses of the nodes as the catalog holds them, for ever.
async fn keep_book(broker: Broker, book: Book) {
    let mut members = Vec::<(NodeId, String)>::new();
    loop {
        let newer = broker.members(&members).await;
        let gone = members.iter().map(|(node, _)| *node);
        let gone = gone.filter(|node| newer.iter().all(|(other, _)| other != node));
        gone.for_each(|node| book.remove(node));
        members = newer;
        for (node, address) in &members {
            if let Ok(address) = address.parse() {
                book.set(*node, address);
            }
        }
    }
}

/// Tells the states of the replicas of this core whenever somebody asks.
async fn keep_telling(broker: Broker, life: Rc<Life>) {
    let mut looks = life.looks.subscribe();
    while looks.changed().await.is_ok() {
        let own = broker.fingerprints().into_iter().map(|own| (own.shard, own));
        life.fingerprints.borrow_mut().extend(own);
    }
}

/// Tells when a shard of this core has failed for good.
fn report_failure(broker: &Broker, told: &mpsc::Sender<Told>) {
    let (broker, told) = (broker.clone(), told.clone());
    drop(spawn(async move {
        let reason = broker.failed().await;
        tell(&told, Told::Failed(reason));
    }));
}

/// Nobody listens only when the process ends anyway.
fn tell(told: &mpsc::Sender<Told>, message: Told) {
    drop(told.try_send(message));
}
