//! The node: a machine with a disk, and the process that runs on it, put together as the real
//! one is: a broker and a native gateway per core, one shared address, one of each core's own.
//!
//! Owns: starting, stopping, killing and cutting the power of it. Must never: let anything of a
//! dead process live on but its disk.

use std::cell::{Cell, RefCell};
use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;
use std::time::Duration;

use barrage_broker::{Broker, BrokerOptions, CoreLinks, Home};
use barrage_native::{Gateway, Options};
use barrage_world::channel::{mpsc, watch};
use barrage_world::net::{Listener, ListenerHandle};
use barrage_world::sim::{Disk, DiskOptions, Host, Machine, Rng};
use barrage_world::{Instant, spawn, timeout};

use super::plan::Plan;
use crate::workload::{Disturbance, Witness, milliseconds};

/// The node's place on the network.
pub(super) const HOST: Host = Host(1);
/// Where the node keeps its data.
pub(super) const DATA_DIR: &str = "/node/data";
/// The address that every core accepts; each core's own follow.
const PORT: u16 = 7_400;
/// Everything fits, until a fault makes the disk smaller.
pub(super) const DISK_BYTES: u64 = 1 << 30;
/// How long requests under way get when the node stops.
const DRAIN_WITHIN: Duration = milliseconds(500);
/// How long closing the logs may take after the drain.
const SHUT_DOWN_WITHIN: Duration = milliseconds(20_000);
/// From the start of a process until it must serve.
const READY_WITHIN: Duration = milliseconds(30_000);
const TOLD_MAX: usize = 64;

/// The shared address.
pub(super) fn shared_address() -> SocketAddr {
    SocketAddr::new(IpAddr::V4(HOST.ip()), PORT)
}

fn core_address(core: u16) -> SocketAddr {
    SocketAddr::new(IpAddr::V4(HOST.ip()), PORT + 1 + core)
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
    /// It has served.
    ready: Cell<bool>,
    began: Instant,
}

/// The node. It outlives its processes.
pub(super) struct Node {
    plan: Rc<Plan>,
    witness: Rc<Witness>,
    disk: RefCell<Disk>,
    life: RefCell<Option<Rc<Life>>>,
    stopping: Cell<bool>,
    pub(super) starts: Cell<u64>,
    /// A fault of the disk was injected since the process began: it may end by itself.
    pub(super) disk_faulty: Cell<bool>,
}

impl Node {
    pub(super) fn new(plan: Rc<Plan>, witness: Rc<Witness>) -> Self {
        let disk = Disk::new(DiskOptions { capacity_bytes: DISK_BYTES, ..DiskOptions::default() });
        Self {
            plan,
            witness,
            disk: RefCell::new(disk),
            life: RefCell::new(None),
            stopping: Cell::new(false),
            starts: Cell::new(0),
            disk_faulty: Cell::new(false),
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

    /// Why the last process ended by itself, told once.
    pub(super) fn take_failure(&self) -> Option<String> {
        self.life.borrow().as_ref().and_then(|life| life.failure.take())
    }

    /// A process that is not ready in time, though nothing is wrong with its disk.
    pub(super) fn is_late(&self) -> bool {
        self.life().is_some_and(|life| {
            let calm = !self.disk_faulty.get()
                && !life.machine.is_paused()
                && !self.witness.disturbances.lasts(Disturbance::Disk);
            calm && !life.ready.get() && life.began.elapsed() > READY_WITHIN
        })
    }

    /// Starts a process on the disk as it is.
    pub(super) fn start(&self, cores: u16) {
        assert!(!self.is_running(), "one process per machine");
        let disk = self.disk();
        disk.clear_faults();
        disk.set_capacity_bytes(DISK_BYTES);
        self.disk_faulty.set(false);
        self.witness.disturbances.end(Disturbance::Disk);
        self.witness.disturbances.end(Disturbance::Full);
        self.witness.disturbances.end(Disturbance::Paused);
        self.starts.set(self.starts.get() + 1);
        let machine = Machine::at(HOST, &disk);
        let (steps, _) = watch::channel(Step::Start);
        let life = Rc::new(Life {
            machine: machine.clone(),
            cores,
            steps,
            failure: RefCell::new(None),
            serving: Cell::new(false),
            ready: Cell::new(false),
            began: Instant::now(),
        });
        *self.life.borrow_mut() = Some(Rc::clone(&life));
        let (plan, witness) = (Rc::clone(&self.plan), Rc::clone(&self.witness));
        drop(machine.spawn(async move {
            if let Err(reason) = run(&life, &plan, &witness).await {
                tracing::info!(reason, "the node ends by itself");
                *life.failure.borrow_mut() = Some(reason);
            }
            witness.disturbances.begin(Disturbance::Down);
            // As the real process does: one core that cannot go on ends all.
            Machine::current().kill();
        }));
    }

    /// Ends the process at once; what it wrote stays with the kernel.
    pub(super) fn kill(&self) {
        self.gone();
        if let Some(life) = self.life() {
            life.machine.kill();
        }
    }

    /// Takes the power: the disk keeps what a power loss leaves of it.
    pub(super) fn power_off(&self, random: &mut Rng) {
        self.gone();
        if let Some(life) = self.life() {
            life.machine.power_off();
        }
        let image = self.disk.borrow().crash(random);
        *self.disk.borrow_mut() = Disk::boot(image);
    }

    fn gone(&self) {
        self.witness.disturbances.begin(Disturbance::Down);
    }

    /// Stops it as an operator does; answers when the process has ended.
    pub(super) async fn stop(&self) {
        let Some(life) = self.life().filter(|life| life.serving.get()) else { return };
        self.stopping.set(true);
        self.witness.disturbances.begin(Disturbance::Down);
        life.steps.send_replace(Step::Drain(Instant::now() + DRAIN_WITHIN));
        let asked_at = Instant::now();
        let within = DRAIN_WITHIN + 3 * SHUT_DOWN_WITHIN;
        let ended = async {
            while !life.machine.is_killed() {
                barrage_world::sleep(milliseconds(5)).await;
            }
        };
        let late = timeout(within, ended).await.is_err();
        let excused = self.disk_faulty.get() || life.machine.is_paused();
        if late && !excused && !life.machine.is_killed() {
            let waited = asked_at.elapsed();
            self.witness.object(format!("liveness: the node was told to stop {waited:?} ago"));
        }
        if !life.machine.is_killed() {
            life.machine.kill();
        }
        self.stopping.set(false);
    }
}

/// The process: the first thread of the real one, which watches over the cores.
async fn run(life: &Rc<Life>, plan: &Rc<Plan>, witness: &Rc<Witness>) -> Result<(), String> {
    let bound = |address| Listener::bind_exclusive(address).map_err(|error| error.to_string());
    let shared = bound(shared_address())?;
    let own: Vec<ListenerHandle> =
        (0..life.cores).map(|core| bound(core_address(core))).collect::<Result<_, _>>()?;
    let addresses = (0..life.cores).map(|core| core_address(core).to_string()).collect();
    let options = plan.broker(life.cores, addresses);
    let (told, mut heard) = mpsc::bounded(TOLD_MAX);
    let home = Home::open(&options.data_dir).await.map_err(|error| error.to_string())?;
    for (links, core) in Broker::mesh(life.cores, home).into_iter().zip(0_u16..) {
        let seat = Seat {
            core,
            links,
            broker: options.clone(),
            native: plan.native.clone(),
            shared: shared.clone(),
            own: own.get(usize::from(core)).cloned(),
            steps: life.steps.subscribe(),
            told: told.clone(),
        };
        drop(life.machine.core(core, life.cores).spawn(seat.run()));
    }
    all_done(&mut heard, life.cores).await?;
    drop((shared, own));
    // An operator may be in a hurry: a process that is told to stop before it serves, stops.
    life.steps.send_replace(Step::Serve);
    all_done(&mut heard, life.cores).await?;
    life.serving.set(true);
    life.ready.set(true);
    witness.disturbances.end(Disturbance::Down);
    // Each further step is the operator's.
    all_done(&mut heard, life.cores).await?;
    life.serving.set(false);
    let deadline = Instant::now() + SHUT_DOWN_WITHIN;
    life.steps.send_replace(Step::ShutDown(1, deadline));
    all_done(&mut heard, life.cores - 1).await?;
    life.steps.send_replace(Step::ShutDown(0, deadline));
    all_done(&mut heard, 1).await
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
    shared: ListenerHandle,
    own: Option<ListenerHandle>,
    steps: watch::Receiver<Step>,
    told: mpsc::Sender<Told>,
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
        let Self { core, links, broker, native, shared, own, mut steps, told } = self;
        let broker = Broker::start(broker, links).await.map_err(|error| error.to_string())?;
        report_failure(&broker, &told);
        let gateway = Gateway::new(broker.clone(), native);
        tell(&told, Told::Done);
        let mut listeners = Some((shared, own));
        let mut done = Step::Start;
        loop {
            let step = *steps.borrow_and_update();
            match step {
                _ if step == done => {}
                Step::Start => {}
                Step::Serve => {
                    if let Some((shared, own)) = listeners.take() {
                        for handle in std::iter::once(shared).chain(own) {
                            let listener = handle.on_core().map_err(|error| error.to_string())?;
                            gateway.serve(listener);
                        }
                    }
                    tell(&told, Told::Done);
                }
                Step::Drain(deadline) => {
                    gateway.drain(deadline).await;
                    tell(&told, Told::Done);
                }
                Step::ShutDown(first, deadline) if core >= first => {
                    broker.shutdown(deadline).await;
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
