//! A running node: one broker and one gateway per core, and the thread that watches over them.
//!
//! ```text
//! cores start --all ready--> serve --signal--> drain --all--> shut down (first core last) --> 0
//!      |                       |                                            |
//!      +------ a core fails: say why, end the process with 1 ---------------+
//! ```
//! The watching thread is the main thread: it blocks on what cores tell, and looks at the signals
//! in between. Cores hear from it over one mailbox each.

use std::io::{self, Write};
use std::path::Path;
use std::rc::Rc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use barrage_broker::{Broker, BrokerOptions, CoreLinks, Home, control_link};
use barrage_model::NodeId;
use barrage_native::{Gateway, Options};
use barrage_peer::{Acceptor, Book, ClusterId, Contact, Identity, Links};
use barrage_world::mailbox::{MailboxReceiver, MailboxSender, mailbox};
use barrage_world::net::ListenerHandle;
use barrage_world::node::{CoreContext, CoreSet, NodeHandle, NodeOptions, memory_total};
use barrage_world::{Instant, node, spawn};
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::flag;

use crate::address::Addresses;
use crate::config::{Config, Memory};
use crate::exit::{Exit, Failure};
use crate::memory::Shares;
use crate::peers::{Members, ToBroker, keep_book};
use crate::ready::Ready;
use crate::seeds::Seeds;

/// How often the watching thread looks at the signals.
const SIGNAL_INTERVAL: Duration = Duration::from_millis(20);
/// How long closing the logs may take after the drain.
const SHUTDOWN_TIMEOUT: Duration = Duration::from_secs(30);
/// Commands that wait for one core; there are never more than the steps of a node's life.
const COMMANDS_MAX: usize = 8;

/// What a core tells the watching thread.
enum Told {
    /// It has opened its shards.
    Ready(NodeId),
    /// A step it was told to do is done.
    Done,
    /// It cannot go on.
    Failed(Failure),
}

/// What a core is told.
#[derive(Clone, Copy, Debug)]
enum Step {
    /// Accept connections.
    Serve,
    /// Take no more requests, let those under way end.
    Drain(Instant),
    /// Close the logs and end.
    ShutDown(Instant),
}

/// What every core gets.
#[derive(Clone)]
struct Setup {
    broker: BrokerOptions,
    native: Options,
    shared: ListenerHandle,
    own: Vec<ListenerHandle>,
    peers: PeerSetup,
    told: Sender<Told>,
    /// By core, taken by it when it starts.
    seats: Arc<Mutex<Vec<Option<Seat>>>>,
}

/// What every core needs to reach other nodes, and to be reached.
#[derive(Clone)]
struct PeerSetup {
    me: Identity,
    book: Book,
    members: Sender<Members>,
    seeds: Arc<Seeds>,
    contact: Contact,
    shared: ListenerHandle,
    own: Vec<ListenerHandle>,
}

/// What one core owns.
struct Seat {
    links: CoreLinks,
    steps: MailboxReceiver<Step>,
}

/// Runs the node until a signal or a failure ends it.
pub(crate) fn run(
    config: &Config,
    cores: &CoreSet,
    addresses: Addresses,
    home: Home,
    ready_file: Option<&Path>,
) -> Result<Exit, Failure> {
    let signals = Signals::register().map_err(Failure::new)?;
    let watch = Watch::start(config, cores, &addresses, home, signals)?;
    let Some(node) = watch.until_ready()? else { return Ok(Exit::Ok) };
    let ready = Ready::new(node, &addresses);
    // The handles would keep the addresses open after the last core has let them go.
    drop(addresses);
    watch.tell_all(Step::Serve)?;
    watch.all_done(Instant::now() + SHUTDOWN_TIMEOUT)?;
    if let Some(path) = ready_file {
        ready.write(path).map_err(Failure::new)?;
    }
    tracing::info!(node = node.0, cores = %cores, "serving");
    // A closed stdout is no reason not to serve.
    drop(io::stdout().write_all(ready.lines().as_bytes()));
    watch.until_signal()?;
    tracing::info!("stopping");
    watch.stop(config.limits.drain_timeout)?;
    tracing::info!("stopped");
    Ok(Exit::Ok)
}

/// The watching thread's view of the cores.
struct Watch {
    told: Receiver<Told>,
    steps: Vec<MailboxSender<Step>>,
    signals: Signals,
    handle: NodeHandle,
}

impl Watch {
    fn start(
        config: &Config,
        cores: &CoreSet,
        addresses: &Addresses,
        home: Home,
        signals: Signals,
    ) -> Result<Self, Failure> {
        let count = u16::try_from(cores.count()).map_err(Failure::usage)?;
        let (told, told_receiver) = mpsc::channel();
        let mut steps = Vec::new();
        let mut seats = Vec::new();
        let cluster = home.cluster().parse::<ClusterId>().map_err(Failure::new)?;
        let me = Identity { cluster, node: home.node() };
        let seeds = Seeds::start(config, home.cluster())?;
        let (link, port) = control_link();
        barrage_control::start(port).map_err(Failure::new)?;
        let mut link = Some(link);
        for links in Broker::mesh(count, home) {
            // The first core carries the catalog.
            let links = match link.take() {
                Some(link) => links.controlled_by(link),
                None => links,
            };
            let (sender, receiver) = mailbox(COMMANDS_MAX);
            steps.push(sender);
            seats.push(Some(Seat { links, steps: receiver }));
        }
        let budget = match config.memory {
            Memory::Quarter => memory_total() / 4,
            Memory::Bytes(bytes) => bytes,
        };
        let memory = Shares::of(budget, cores.count());
        let book = Book::new();
        let setup = Setup {
            broker: BrokerOptions {
                core_addresses: addresses.advertised(cores.count()),
                peer_address: addresses.peer(),
                client_address: addresses.listen(),
                shards: config.shards,
                memory_bytes: memory.budget,
                cache_bytes: memory.cache,
                request_bytes: memory.requests,
                segment_bytes: config.segment_size,
                pool_segments: config.pool_segments,
                retention: config.retention,
                ..BrokerOptions::new(config.data_dir.clone(), count)
            },
            native: native_options(config, cores.count(), &memory),
            shared: addresses.shared.clone(),
            own: addresses.cores.clone(),
            peers: PeerSetup {
                me,
                members: keep_book(book.clone())?,
                book,
                seeds,
                contact: Contact::new(addresses.peer_ports()).map_err(Failure::new)?,
                shared: addresses.peers.clone(),
                own: addresses.peer_cores.clone(),
            },
            told,
            seats: Arc::new(Mutex::new(seats)),
        };
        let options = NodeOptions {
            buffer_pool_bytes: usize::try_from(memory.buffers_per_core).map_err(Failure::usage)?,
            spin_before_park: config.idle_spin,
        };
        let body = move |context| run_core(context, setup.clone());
        let handle = node::start(cores, options, body).map_err(Failure::new)?;
        Ok(Self { told: told_receiver, steps, signals, handle })
    }

    /// Waits until every core has opened its shards; `None` when a signal came first. The log is
    /// made for a process that ends at any time.
    fn until_ready(&self) -> Result<Option<NodeId>, Failure> {
        let mut waiting = self.steps.len();
        let mut node = NodeId::default();
        while waiting > 0 {
            if self.signals.came() {
                return Ok(None);
            }
            if let Some(Told::Ready(id)) = self.next(SIGNAL_INTERVAL)? {
                node = id;
                waiting -= 1;
            }
        }
        Ok(Some(node))
    }

    fn until_signal(&self) -> Result<(), Failure> {
        while !self.signals.came() {
            self.next(SIGNAL_INTERVAL)?;
        }
        Ok(())
    }

    /// What a core tells next, at most after `wait`; a failure ends the node.
    fn next(&self, wait: Duration) -> Result<Option<Told>, Failure> {
        match self.told.recv_timeout(wait) {
            Ok(Told::Failed(failure)) => Err(failure),
            Ok(told) => Ok(Some(told)),
            Err(RecvTimeoutError::Timeout) => Ok(None),
            Err(RecvTimeoutError::Disconnected) => Err(Failure::new("every core has ended")),
        }
    }

    fn tell(&self, core: usize, step: Step) -> Result<(), Failure> {
        let Some(steps) = self.steps.get(core) else { return Ok(()) };
        steps.try_send(vec![step]).map_err(|_| Failure::new(format!("core {core} does not answer")))
    }

    fn tell_all(&self, step: Step) -> Result<(), Failure> {
        (0..self.steps.len()).try_for_each(|core| self.tell(core, step))
    }

    /// Waits until `count` cores have done their step.
    fn done(&self, count: usize, deadline: Instant) -> Result<(), Failure> {
        let mut waiting = count;
        while waiting > 0 {
            if Instant::now() >= deadline {
                return Err(Failure::new(format!("{waiting} cores do not answer")));
            }
            if let Some(Told::Done) = self.next(SIGNAL_INTERVAL)? {
                waiting -= 1;
            }
        }
        Ok(())
    }

    fn all_done(&self, deadline: Instant) -> Result<(), Failure> {
        self.done(self.steps.len(), deadline)
    }

    /// Drains every core before any of them closes a log: requests under way may need all of
    /// them. The first core carries the catalog and closes last.
    fn stop(self, drain_timeout: Duration) -> Result<(), Failure> {
        let deadline = Instant::now() + drain_timeout;
        self.tell_all(Step::Drain(deadline))?;
        self.all_done(deadline + SHUTDOWN_TIMEOUT)?;
        let deadline = Instant::now() + SHUTDOWN_TIMEOUT;
        (1..self.steps.len()).try_for_each(|core| self.tell(core, Step::ShutDown(deadline)))?;
        self.done(self.steps.len().saturating_sub(1), deadline)?;
        self.tell(0, Step::ShutDown(deadline))?;
        self.done(1, deadline)?;
        self.handle.join().map_err(Failure::new)
    }
}

fn native_options(config: &Config, core_count: usize, memory: &Shares) -> Options {
    let limits = &config.limits;
    let cores = core_count.max(1) as u64;
    let defaults = Options::default();
    Options {
        connections_max: (limits.connections as usize).div_ceil(core_count.max(1)),
        handshake_timeout: limits.handshake_timeout,
        idle_timeout: limits.idle_timeout,
        write_timeout: limits.write_timeout,
        request_timeout: limits.request_timeout,
        frame_bytes_max: limits.frame_size,
        in_flight_requests_max: limits.in_flight_requests,
        in_flight_bytes_max: limits.in_flight_size,
        receive_bytes_max: memory.requests / cores,
        reply_bytes_max: memory.replies / cores,
        batch_bytes_max: defaults.batch_bytes_max.min(limits.frame_size),
        ..defaults
    }
}

/// The whole life of one core.
async fn run_core(context: CoreContext, setup: Setup) {
    let told = setup.told.clone();
    if let Err(failure) = serve_core(context, setup).await {
        tell(&told, Told::Failed(failure));
        // The watching thread ends the process; ending here first would look like an orderly end.
        std::future::pending::<()>().await;
    }
}

async fn serve_core(context: CoreContext, setup: Setup) -> Result<(), Failure> {
    let core = usize::from(context.index);
    let seat = {
        let mut seats = setup.seats.lock().unwrap_or_else(PoisonError::into_inner);
        seats.get_mut(core).and_then(Option::take)
    };
    let Some(Seat { links, mut steps }) = seat else {
        return Err(Failure::new("the core was started twice"));
    };
    let PeerSetup { me, book, members, seeds, contact, shared: peer_shared, own: peer_own } =
        setup.peers;
    let peer_options = barrage_peer::Options::default();
    let peers = Links::new(me, book, peer_options.clone());
    let failed =
        |error: &dyn std::fmt::Display| Failure::new(format!("cannot start core {core}: {error}"));
    let broker = Broker::new(setup.broker, links, Rc::new(peers.clone()));
    let broker = broker.map_err(|error| failed(&error))?;
    let acceptor = Acceptor::new(me, contact, Rc::new(ToBroker(broker.clone())), peer_options);
    // Before the broker is open: a node that joins is found by the others.
    for handle in std::iter::once(&peer_shared).chain(peer_own.get(core)) {
        acceptor.serve(handle.on_core().map_err(|error| failed(&error))?);
    }
    if context.index == 0 {
        tell_members(&broker, members);
        seeds.heed(&broker);
    }
    broker.open().await.map_err(|error| failed(&error))?;
    report_failure(&broker, &setup.told);
    let gateway = Gateway::new(broker.clone(), setup.native);
    let mut listeners = Some((setup.shared, setup.own));
    tell(&setup.told, Told::Ready(broker.node()));
    while let Some(next) = steps.recv().await {
        for step in next {
            match step {
                Step::Serve => {
                    let Some((shared, own)) = listeners.take() else { continue };
                    listen(&gateway, &shared)?;
                    own.get(core).map_or(Ok(()), |own| listen(&gateway, own))?;
                }
                Step::Drain(deadline) => {
                    // Others lead before this node refuses: clients find them at once.
                    broker.hand_over(deadline).await;
                    gateway.drain(deadline).await;
                }
                Step::ShutDown(deadline) => {
                    broker.shutdown(deadline).await;
                    acceptor.drain(Instant::now()).await;
                    peers.close();
                    tell(&setup.told, Told::Done);
                    return Ok(());
                }
            }
            tell(&setup.told, Told::Done);
        }
    }
    Err(Failure::new("the watching thread has ended"))
}

fn listen(gateway: &Gateway, handle: &ListenerHandle) -> Result<(), Failure> {
    let failed = |error| Failure::new(format!("cannot accept on {handle:?}: {error}"));
    let listener = handle.on_core().map_err(failed)?;
    gateway.serve(listener);
    Ok(())
}

/// Tells the book's thread of every change of the members.
fn tell_members(broker: &Broker, book: Sender<Members>) {
    let broker = broker.clone();
    drop(spawn(async move {
        let mut seen = Vec::new();
        loop {
            let members = broker.members(&seen).await;
            seen.clone_from(&members);
            if book.send(members).is_err() {
                return;
            }
        }
    }));
}

/// Tells when a shard of this core has failed for good.
fn report_failure(broker: &Broker, told: &Sender<Told>) {
    let (broker, told) = (broker.clone(), told.clone());
    drop(spawn(async move {
        let reason = broker.failed().await;
        tracing::error!(core = broker.core().0, reason, "failed for good; the process ends");
        tell(&told, Told::Failed(Failure::new(reason)));
    }));
}

/// The watching thread is gone only when the process ends anyway.
fn tell(told: &Sender<Told>, message: Told) {
    drop(told.send(message));
}

/// Whether SIGTERM or SIGINT came. A second one ends the process at once.
struct Signals {
    came: Arc<AtomicBool>,
}

impl Signals {
    fn register() -> io::Result<Self> {
        let came = Arc::new(AtomicBool::new(false));
        for signal in [SIGTERM, SIGINT] {
            // In this order: the first signal finds the flag unset and then sets it.
            let exit_code = Exit::Failure as i32;
            flag::register_conditional_shutdown(signal, exit_code, Arc::clone(&came))?;
            flag::register(signal, Arc::clone(&came))?;
        }
        Ok(Self { came })
    }

    fn came(&self) -> bool {
        self.came.load(Ordering::Relaxed)
    }
}
