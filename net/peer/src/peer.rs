//! One peer: where it is, its calls and the lanes to its cores.
//!
//! ```text
//!   call --contact known?--yes--> lane of (core of the shard, urgency) --> connection
//!            |no                                ^
//!            v                                  |
//!          wait --> ask the address in the book-+
//! ```
//! One task watches the deadlines of all calls, and lives only while there are any.
//!
//! Invariants: a lane connects only to what was asked since the last failure; another contact than
//! before retires all lanes.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::future::{Future, poll_fn};
use std::net::SocketAddr;
use std::pin::pin;
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::Duration;

use barrage_model::{CoreId, NodeId};
use barrage_raft::{Call, Urgency};
use barrage_world::channel::{Event, Mutex};
use barrage_world::{Instant, random_u64, sleep, sleep_until, spawn, timeout};
use bytes::Bytes;

use crate::ask::ask;
use crate::batch::Batch;
use crate::book::Book;
use crate::contact::Contact;
use crate::frame::Refusal;
use crate::identity::Identity;
use crate::inbox::Frame;
use crate::lane::Lane;
use crate::options::Options;
use crate::reach::{Reach, Verdict};
use crate::traffic::{CallError, CallId, Load, Message, Strange, Traffic, Way};

/// A peer that refuses shards is asked for its cores at most this often.
const RECHECK_INTERVAL: Duration = Duration::from_secs(1);

/// A node to which calls are made.
pub(crate) struct Peer {
    me: Identity,
    node: NodeId,
    book: Book,
    options: Options,
    traffic: RefCell<Traffic>,
    lanes: RefCell<BTreeMap<Way, Rc<Lane>>>,
    found: RefCell<Option<Found>>,
    /// What was found may be outdated.
    is_suspect: Cell<bool>,
    finder: RefCell<Reach>,
    trouble: RefCell<String>,
    /// Held while the contact is asked.
    asking: Mutex<()>,
    ask_count: Cell<u64>,
    /// The outcome of the last time.
    asked: RefCell<Result<(), String>>,
    asked_at: Cell<Instant>,
    /// When the clock looks next; `None` while it does not run.
    clock_at: Cell<Option<Instant>>,
    sooner: Event,
    is_closed: Cell<bool>,
}

#[derive(Clone, PartialEq, Eq)]
struct Found {
    address: SocketAddr,
    contact: Contact,
}

impl Peer {
    pub(crate) fn new(me: Identity, node: NodeId, book: Book, options: Options) -> Rc<Self> {
        Rc::new(Self {
            me,
            node,
            book,
            traffic: RefCell::new(Traffic::new(me, node, options.clone())),
            lanes: RefCell::default(),
            found: RefCell::default(),
            is_suspect: Cell::new(false),
            finder: RefCell::new(Reach::new(&options)),
            options,
            trouble: RefCell::default(),
            asking: Mutex::new(()),
            ask_count: Cell::new(0),
            asked: RefCell::new(Ok(())),
            asked_at: Cell::new(Instant(0)),
            clock_at: Cell::new(None),
            sooner: Event::new(),
            is_closed: Cell::new(false),
        })
    }

    pub(crate) const fn node(&self) -> NodeId {
        self.node
    }

    pub(crate) const fn options(&self) -> &Options {
        &self.options
    }

    pub(crate) const fn is_suspect(&self) -> bool {
        self.is_suspect.get()
    }

    /// What was found may be outdated: the next connection asks first.
    pub(crate) fn suspect(&self) {
        self.is_suspect.set(true);
    }

    /// Takes a call up: it is queued when this returns, in the order of the calls.
    pub(crate) fn call(self: &Rc<Self>, call: Call) -> Result<CallId, CallError> {
        let Call { shard, urgency, deadline_in, request, .. } = call;
        let core = self.found.borrow().as_ref().map(|found| found.contact.core_of(shard));
        let way = Way { core, urgency };
        let lane = core.map(|_| self.lane(way));
        match &lane {
            Some(lane) => lane.prepare(self)?,
            None => self.prepare_to_find()?,
        }
        let now = Instant::now();
        let message = Message { shard, body: request, deadline_in };
        let id = self.with_traffic(|traffic| traffic.admit(way, message, now))?;
        if let Some(lane) = lane {
            lane.kick(self);
        }
        self.watch(now + deadline_in);
        Ok(id)
    }

    /// The outcome of a call.
    pub(crate) fn poll(&self, id: CallId, context: &Context<'_>) -> Poll<Result<Bytes, CallError>> {
        self.with_traffic(|traffic| traffic.poll(id, context.waker()))
    }

    /// Nobody waits for the call any more.
    pub(crate) fn cancel(&self, id: CallId) {
        let way = self.with_traffic(|traffic| traffic.cancel(id));
        let lane = way.and_then(|way| self.lanes.borrow().get(&way).cloned());
        if let Some(lane) = lane {
            lane.relieve();
        }
    }

    pub(crate) fn load(&self) -> Load {
        self.traffic.borrow().load()
    }

    pub(crate) fn connections(&self) -> usize {
        self.lanes.borrow().values().filter(|lane| lane.is_connected()).count()
    }

    /// Ends all calls and closes all connections.
    pub(crate) fn close(&self) {
        self.is_closed.set(true);
        self.retire_lanes("this node is stopping");
        self.fail_waiting("this node is stopping");
    }

    fn lane(&self, way: Way) -> Rc<Lane> {
        let mut lanes = self.lanes.borrow_mut();
        let lane = lanes.entry(way).or_insert_with(|| Lane::new(way, Reach::new(&self.options)));
        Rc::clone(lane)
    }

    fn prepare_to_find(self: &Rc<Self>) -> Result<(), CallError> {
        let verdict = self.finder.borrow_mut().handle_call();
        match verdict {
            Verdict::Queue => Ok(()),
            Verdict::QueueAndTry => {
                let peer = Rc::clone(self);
                drop(spawn(async move { peer.find().await }));
                Ok(())
            }
            Verdict::Refuse => Err(CallError::Down(self.trouble.borrow().clone())),
        }
    }

    /// Asks until the peer is found, or nobody looks for it any more.
    async fn find(self: &Rc<Self>) {
        loop {
            let Err(reason) = self.ask().await else {
                let mut finder = self.finder.borrow_mut();
                finder.handle_connected();
                finder.handle_answer();
                finder.handle_done();
                return;
            };
            if self.is_closed.get() {
                return;
            }
            *self.trouble.borrow_mut() = reason.clone();
            let rest = self.finder.borrow_mut().handle_failure(random_u64());
            self.fail_waiting(&reason);
            sleep(rest).await;
            if self.is_closed.get() || !self.finder.borrow_mut().handle_rested() {
                return;
            }
        }
    }

    /// Asks the peer for its cores. Who wants to know while it is asked shares the outcome, a
    /// failure too: else a dead peer would be asked by one lane after the other.
    pub(crate) async fn ask(self: &Rc<Self>) -> Result<(), String> {
        let before = self.ask_count.get();
        let _one = self.asking.lock().await;
        if self.ask_count.get() == before {
            let outcome = self.ask_now().await;
            self.ask_count.set(before + 1);
            *self.asked.borrow_mut() = outcome;
        }
        self.asked.borrow().clone()
    }

    async fn ask_now(self: &Rc<Self>) -> Result<(), String> {
        let address = self.book.address(self.node).ok_or("its address is not known")?;
        let within = self.options.connect_timeout;
        let contact = match timeout(within, ask(address, self.me, self.node)).await {
            Ok(Ok(contact)) => contact,
            Ok(Err(error)) => return Err(format!("no contact at {address}: {error}")),
            Err(_) => return Err(format!("no contact at {address}: no answer in time")),
        };
        if self.is_closed.get() {
            return Err("this node is stopping".to_owned());
        }
        self.asked_at.set(Instant::now());
        self.is_suspect.set(false);
        self.adopt(Found { address, contact });
        Ok(())
    }

    fn adopt(self: &Rc<Self>, found: Found) {
        if self.found.borrow().as_ref() == Some(&found) {
            return;
        }
        let cores = found.contact.core_count();
        tracing::info!(peer = %self.node, address = %found.address, cores, "peer found");
        self.retire_lanes("the peer is found elsewhere");
        let contact = found.contact.clone();
        *self.found.borrow_mut() = Some(found);
        let now = Instant::now();
        let core_of = |shard| contact.core_of(shard);
        let ways = self.with_traffic(|traffic| traffic.assign(core_of, now));
        for way in ways {
            // A new lane always may be tried.
            drop(self.lane(way).prepare(self));
        }
    }

    fn retire_lanes(&self, reason: &str) {
        let lanes = std::mem::take(&mut *self.lanes.borrow_mut());
        for (way, lane) in lanes {
            lane.retire();
            self.handle_lost(way, CallError::Down(reason.to_owned()));
        }
    }

    fn fail_waiting(&self, reason: &str) {
        for urgency in [Urgency::Urgent, Urgency::Bulk] {
            self.handle_lost(Way { core: None, urgency }, CallError::Down(reason.to_owned()));
        }
    }

    /// Where a core of the peer is reached.
    pub(crate) fn core_address(&self, core: CoreId) -> Option<SocketAddr> {
        let found = self.found.borrow();
        let found = found.as_ref()?;
        Some(SocketAddr::new(found.address.ip(), found.contact.port(core)?))
    }

    pub(crate) fn take(&self, way: Way, batch: &mut Batch) {
        self.with_traffic(|traffic| traffic.take(way, batch, Instant::now()));
    }

    pub(crate) fn has_queued(&self, way: Way) -> bool {
        self.traffic.borrow().has_queued(way)
    }

    pub(crate) fn handle_moved(&self, way: Way) {
        self.with_traffic(|traffic| traffic.handle_moved(way, Instant::now()));
    }

    pub(crate) fn handle_lost(&self, way: Way, error: CallError) {
        self.with_traffic(|traffic| traffic.handle_lost(way, &error));
    }

    pub(crate) fn check_owed(&self, way: Way, number: u64) -> Result<(), Strange> {
        self.traffic.borrow().check_owed(way, number)
    }

    pub(crate) fn handle_frame(
        self: &Rc<Self>,
        way: Way,
        frame: Frame,
    ) -> Result<Option<Refusal>, Strange> {
        let refusal = self.with_traffic(|traffic| traffic.handle_frame(way, frame))?;
        if refusal == Some(Refusal::UnknownShard) {
            self.recheck();
        }
        Ok(refusal)
    }

    /// The shard is not where it was looked for: perhaps the peer has other cores now.
    fn recheck(self: &Rc<Self>) {
        let now = Instant::now();
        if now < self.asked_at.get() + RECHECK_INTERVAL {
            return;
        }
        self.asked_at.set(now);
        let peer = Rc::clone(self);
        drop(spawn(async move {
            if let Err(reason) = peer.ask().await {
                tracing::debug!(peer = %peer.node, %reason, "cannot ask for the cores");
            }
        }));
    }

    /// Makes sure that the clock looks at `deadline`.
    fn watch(self: &Rc<Self>, deadline: Instant) {
        match self.clock_at.get() {
            Some(at) if at <= deadline => {}
            Some(_) => self.sooner.notify_all(),
            None => {
                self.clock_at.set(Some(deadline));
                let peer = Rc::clone(self);
                drop(spawn(async move { peer.run_clock().await }));
            }
        }
    }

    async fn run_clock(&self) {
        loop {
            let now = Instant::now();
            let (overdue, next) = self.with_traffic(|traffic| traffic.handle_time(now));
            for (way, lane) in &*self.lanes.borrow() {
                lane.relieve();
                if overdue.contains(way) {
                    lane.handle_overdue();
                }
            }
            self.clock_at.set(next);
            let Some(next) = next else { return };
            let (mut sooner, mut due) = (pin!(self.sooner.listen()), pin!(sleep_until(next)));
            poll_fn(|context| match sooner.as_mut().poll(context) {
                Poll::Ready(()) => Poll::Ready(()),
                Poll::Pending => due.as_mut().poll(context),
            })
            .await;
        }
    }

    /// Wakes whose calls have ended when the traffic is not borrowed any more: a task may end, and
    /// drop its calls, within its own wake-up.
    fn with_traffic<T>(&self, act: impl FnOnce(&mut Traffic) -> T) -> T {
        let (output, woken) = {
            let mut traffic = self.traffic.borrow_mut();
            let output = act(&mut traffic);
            (output, traffic.take_woken())
        };
        woken.into_iter().for_each(std::task::Waker::wake);
        output
    }
}
