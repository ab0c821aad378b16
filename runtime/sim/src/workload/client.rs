//! What all clients have in common: a name, a connection that is made again when it is lost, the
//! way to a topic.
//!
//! Owns: choosing an address, and asking for things one at a time. Must never: hide an answer
//! that breaks a rule.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use barrage_model::{GroupId, PartitionId, PartitionKey, Retention, TopicId, TopicOrder};
use barrage_wire::{
    ErrorCode, ErrorReply, Frame, Hint, MetadataRequest, Request, Response, TopicRoutes,
};
use barrage_world::sim::Rng;
use barrage_world::{Instant, sleep, timeout};

use super::batch::Factory;
use super::connection::{Connection, Lost};
use super::delays::Waiting;
use super::disturbance::Disturbance;
use super::draw::{milliseconds, pick};
use super::witness::Witness;
use crate::history::Name;

/// Between two attempts to connect or to ask.
const RETRY_AFTER: Duration = milliseconds(15);
/// Where no connection came about is not tried for this long if there is another address.
const SHUNNED_FOR: Duration = milliseconds(5_000);
/// How long the server takes at most for what names no time.
const ANSWER_WITHIN: Duration = milliseconds(8_000);
/// While something is wrong, a client that may turn to another node waits no longer than this.
const PATIENCE: Duration = milliseconds(3_000);
/// A node that was away may be so far behind what the others know.
const BEHIND: Duration = milliseconds(5_000);

/// Looks at a batch of a partition: its base offset, its log time in milliseconds, its bytes.
pub(crate) type OnAll = Box<dyn Fn(PartitionKey, u64, i64, &[u8])>;

/// What all clients share.
pub(crate) struct Context {
    pub(crate) witness: Rc<Witness>,
    pub(crate) factory: Factory,
    /// Delayed records of which somebody was told that they wait.
    pub(crate) waiting: Waiting,
    /// No new work is begun; what is under way is ended.
    pub(crate) stop: Cell<bool>,
    /// Where a client that was told nothing yet may turn to.
    pub(crate) doors: Vec<SocketAddr>,
    /// Addresses that the nodes have told, each core's own among them.
    pub(crate) addresses: RefCell<Vec<SocketAddr>>,
    /// Is told of every batch that was acknowledged as flushed by all, in that moment.
    pub(crate) on_all: RefCell<Option<OnAll>>,
    /// There are several nodes: a client goes to whoever leads, and some know less than others.
    pub(crate) follows: bool,
}

/// A topic that is there all the time.
#[derive(Clone, Debug)]
pub(crate) struct TopicPlan {
    pub(crate) name: String,
    pub(crate) partitions: u32,
    pub(crate) retention: Retention,
    pub(crate) order: TopicOrder,
}

impl TopicPlan {
    /// One that anybody may write to.
    pub(crate) fn open(name: String, partitions: u32, retention: Retention) -> Self {
        Self { name, partitions, retention, order: TopicOrder::Partition }
    }
}

/// A topic as the node told it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Topic {
    pub(crate) name: String,
    pub(crate) id: TopicId,
    pub(crate) partitions: u32,
}

impl Topic {
    pub(crate) fn key(&self, partition: u32) -> PartitionKey {
        PartitionKey { topic: self.id, partition: PartitionId(partition) }
    }
}

/// Why nothing was answered, or no.
#[derive(Debug)]
pub(crate) enum Refusal {
    Lost,
    Error(ErrorReply),
}

impl From<Lost> for Refusal {
    fn from(Lost: Lost) -> Self {
        Self::Lost
    }
}

impl Refusal {
    /// Whether an error's words hold these.
    pub(crate) fn says(&self, words: &str) -> bool {
        matches!(self, Self::Error(error) if error.message.contains(words))
    }

    pub(crate) fn code(&self) -> Option<ErrorCode> {
        match self {
            Self::Lost => None,
            Self::Error(error) => Some(error.code),
        }
    }
}

/// A client.
pub(crate) struct Client {
    pub(crate) name: Name,
    pub(crate) context: Rc<Context>,
    pub(crate) random: Rng,
    /// Orders whose outcome was not told: they may be carried out yet, much later.
    pub(crate) open_orders: Cell<u64>,
    connection: Option<Rc<Connection>>,
    /// Who is said to lead a partition.
    routes: BTreeMap<PartitionKey, SocketAddr>,
    /// The connections to those, by address.
    routed: BTreeMap<SocketAddr, Rc<Connection>>,
    /// Where no connection came about, and when.
    silent: BTreeMap<SocketAddr, Instant>,
}

impl Client {
    pub(crate) fn new(name: &str, context: &Rc<Context>, random: Rng) -> Self {
        let (name, context) = (Name::from(name), Rc::clone(context));
        let (routes, routed) = (BTreeMap::new(), BTreeMap::new());
        let open_orders = Cell::new(0);
        let (connection, silent) = (None, BTreeMap::new());
        Self { name, context, random, open_orders, connection, routes, routed, silent }
    }

    pub(crate) fn witness(&self) -> Rc<Witness> {
        Rc::clone(&self.context.witness)
    }

    pub(crate) fn is_stopped(&self) -> bool {
        self.context.stop.get()
    }

    /// The live connection, or a new one, as often as it takes.
    pub(crate) async fn connection(&mut self) -> Rc<Connection> {
        loop {
            if let Some(live) = self.connection.as_ref().filter(|it| !it.is_lost()) {
                return Rc::clone(live);
            }
            let address = self.address();
            match Connection::open(address, self.name.as_str(), &self.context.witness).await {
                Ok(connection) => self.connection = Some(connection),
                Err(Lost) => {
                    self.silent.insert(address, Instant::now());
                    sleep(RETRY_AFTER).await;
                }
            }
        }
    }

    /// The way to whoever is said to lead a partition; to any node while nobody is.
    pub(crate) async fn connection_to(&mut self, key: PartitionKey) -> Rc<Connection> {
        if let Some(address) = self.routes.get(&key).copied() {
            if let Some(live) = self.routed.get(&address).filter(|it| !it.is_lost()) {
                return Rc::clone(live);
            }
            let name = self.name.as_str();
            match Connection::open(address, name, &self.context.witness).await {
                Ok(connection) => {
                    self.routed.insert(address, Rc::clone(&connection));
                    return connection;
                }
                // Gone, perhaps; another node knows who leads now.
                Err(Lost) => drop(self.routes.remove(&key)),
            }
        }
        self.connection().await
    }

    /// An error may say where a partition is led, or at least that it is not led here.
    pub(crate) fn learn(&mut self, key: PartitionKey, asked: &Connection, error: &ErrorReply) {
        if !self.context.follows {
            return;
        }
        self.routes.remove(&key);
        let known = self.connection.as_ref().is_some_and(|own| own.number == asked.number);
        if known && may_be_better_elsewhere(error.code) {
            self.connection = None;
        }
        let (ErrorCode::NotLeader, Hint::Leader { address, .. }) = (error.code, &error.hint) else {
            return;
        };
        match address.parse::<SocketAddr>() {
            // Who says that it does not lead and names itself helps nobody.
            Ok(address) if address.ip() == asked.address.ip() => {
                self.context.witness.hint_to_itself(key);
            }
            Ok(address) => {
                self.context.witness.count(|counts| counts.hints += 1);
                self.routes.insert(key, address);
            }
            Err(_) => self.context.witness.object(format!("no address: {address:?}")),
        }
    }

    fn address(&mut self) -> SocketAddr {
        let told = self.context.addresses.borrow().clone();
        // A core's own port goes with the number of cores; the shared one stays.
        let all = match told.is_empty() || self.random.one_in(2) {
            true => &self.context.doors,
            false => &told,
        };
        // Waiting at the same dead door again and again takes longer than a session lasts.
        self.silent.retain(|_, since| since.elapsed() < SHUNNED_FOR);
        let is_open = |address: &&SocketAddr| !self.silent.contains_key(address);
        let open: Vec<SocketAddr> = all.iter().filter(is_open).copied().collect();
        *pick(&mut self.random, if open.is_empty() { all } else { &open })
    }

    pub(crate) fn hang_up(&mut self) {
        let routed = std::mem::take(&mut self.routed).into_values();
        for connection in routed.chain(self.connection.take()) {
            connection.close();
        }
    }

    /// Asks once; the caller reads the answer it wants out of the response.
    pub(crate) async fn ask<T>(
        &mut self,
        request: &Request<'_>,
        wait: Duration,
        read: impl FnOnce(&Response<'_>) -> Option<T>,
    ) -> Result<T, Refusal> {
        let connection = self.connection().await;
        let asked = self.ask_over(&connection, request, wait, read).await;
        if let Err(refusal) = &asked
            && refusal.code().is_none_or(ErrorCode::is_outcome_unknown)
        {
            self.open_orders.set(self.open_orders.get() + 1);
        }
        if let Err(Refusal::Error(error)) = &asked
            && self.context.follows
            && may_be_better_elsewhere(error.code)
        {
            self.connection = None;
        }
        asked
    }

    /// Asks whoever leads a partition, once.
    pub(crate) async fn ask_leader<T>(
        &mut self,
        key: PartitionKey,
        request: &Request<'_>,
        wait: Duration,
        read: impl FnOnce(&Response<'_>) -> Option<T>,
    ) -> Result<T, Refusal> {
        let connection = self.connection_to(key).await;
        let asked = self.ask_over(&connection, request, wait, read).await;
        if let Err(Refusal::Error(error)) = &asked {
            self.learn(key, &connection, error);
        }
        asked
    }

    /// Asks whoever coordinates a stream group, once.
    pub(crate) async fn ask_coordinator<T>(
        &mut self,
        group: GroupId,
        request: &Request<'_>,
        read: impl FnOnce(&Response<'_>) -> Option<T>,
    ) -> Result<T, Refusal> {
        // The way to it is found as to a partition, by a key that no partition has.
        let (topic, partition) = (TopicId(u64::MAX - group.0), PartitionId(0));
        let key = PartitionKey { topic, partition };
        let connection = self.connection_to(key).await;
        let asked = self.ask_over(&connection, request, Duration::ZERO, read).await;
        if let Err(Refusal::Error(error)) = &asked
            && may_be_better_elsewhere(error.code)
        {
            self.learn(key, &connection, error);
        }
        asked
    }

    /// Calls; a client that may turn to others does not wait for long while something is wrong.
    pub(crate) async fn call(
        &self,
        connection: &Connection,
        request: &Request<'_>,
        wait: Duration,
    ) -> Result<Frame, Lost> {
        let calling = connection.call(request, ANSWER_WITHIN + wait);
        let calm = self.context.witness.disturbances.calm_since(Instant::now());
        if calm || !self.context.follows {
            return calling.await;
        }
        match timeout(PATIENCE + wait, calling).await {
            Ok(called) => called,
            Err(_) => {
                connection.close();
                Err(Lost)
            }
        }
    }

    async fn ask_over<T>(
        &self,
        connection: &Connection,
        request: &Request<'_>,
        wait: Duration,
        read: impl FnOnce(&Response<'_>) -> Option<T>,
    ) -> Result<T, Refusal> {
        let (opcode, asked_at) = (request.opcode(), Instant::now());
        let called = self.call(connection, request, wait).await;
        let (client, took) = (&self.name, asked_at.elapsed());
        tracing::debug!(%client, ?opcode, ?took, is_lost = called.is_err(), "called");
        let frame = called?;
        match Response::decode(&frame.header, &frame.body) {
            Ok(Response::Error { error, .. }) => Err(Refusal::Error(error)),
            Ok(response) => read(&response).ok_or_else(|| {
                self.context.witness.object(format!("{opcode:?} was answered by {response:?}"));
                Refusal::Lost
            }),
            Err(error) => {
                let header = frame.header;
                let witness = &self.context.witness;
                witness.object(format!("{opcode:?}: an answer {header:?} that says {error}"));
                Err(Refusal::Lost)
            }
        }
    }

    /// Asks until there is an answer; `may` says which errors may be told.
    pub(crate) async fn insist<T>(
        &mut self,
        request: &Request<'_>,
        may: impl Fn(ErrorCode) -> bool,
        read: impl Fn(&Response<'_>) -> Option<T>,
    ) -> T {
        loop {
            let asked_at = Instant::now();
            match self.ask(request, Duration::ZERO, &read).await {
                Ok(answer) => return answer,
                Err(Refusal::Lost) => {}
                Err(Refusal::Error(error)) if may(error.code) => {}
                Err(Refusal::Error(error)) => {
                    self.judge(&error, asked_at, &format!("{:?}", request.opcode()));
                }
            }
            sleep(RETRY_AFTER).await;
        }
    }

    /// Objects to an error that nothing explains.
    pub(crate) fn judge(&self, error: &ErrorReply, asked_at: Instant, what: &str) {
        let disturbances = &self.context.witness.disturbances;
        let explained = match error.code {
            ErrorCode::QueueFull | ErrorCode::Timeout | ErrorCode::Expired | ErrorCode::Retry => {
                true
            }
            ErrorCode::DiskFull => disturbances.was(Disturbance::Full, asked_at),
            ErrorCode::ShuttingDown | ErrorCode::StorageFailed | ErrorCode::NotLeader => {
                disturbances.may_end(asked_at)
            }
            ErrorCode::ReadFailed => disturbances.was(Disturbance::Disk, asked_at),
            _ => false,
        };
        let explained = explained || self.is_of_many(error.code, asked_at);
        if !explained {
            let text = format!("{} was told to {what}: {}", self.name, error.code);
            self.context.witness.object(format!("{text}: {}", error.message));
        }
    }

    /// Whether an error is what one node of several may say: another one leads, or knows more.
    fn is_of_many(&self, code: ErrorCode, asked_at: Instant) -> bool {
        if !self.context.follows {
            return false;
        }
        let calm = self.context.witness.disturbances.calm_since(asked_at);
        match code {
            ErrorCode::NotLeader => true,
            ErrorCode::UnknownTopic | ErrorCode::UnknownPartition | ErrorCode::UnknownGroup => {
                self.may_be_behind()
            }
            ErrorCode::ShuttingDown | ErrorCode::StorageFailed | ErrorCode::NotOnAll => !calm,
            _ => false,
        }
    }

    /// Whether some node may not know yet what others have told.
    pub(crate) fn may_be_behind(&self) -> bool {
        let now = Instant::now();
        let since = Instant(now.0.saturating_sub(BEHIND.as_nanos() as u64));
        self.context.follows && !self.context.witness.disturbances.calm_since(since)
    }

    /// The topic of this name, as soon as there is one; None when there is none and never will
    /// be.
    pub(crate) async fn topic(&mut self, name: &str) -> Option<Topic> {
        let topics = vec![name.to_owned()];
        let request = Request::Metadata(MetadataRequest { topics });
        let wanted = |response: &Response<'_>| match response {
            Response::Metadata(reply) => Some(reply.topics.clone()),
            _ => None,
        };
        loop {
            let rows = self.insist(&request, |_| false, wanted).await;
            match rows.into_iter().next() {
                Some(row) if row.error == 0 => {
                    self.take_addresses(&row);
                    self.take_routes(&row);
                    let partitions = u32::try_from(row.partitions.len()).unwrap_or(u32::MAX);
                    return Some(Topic { name: row.name, id: row.topic, partitions });
                }
                _ if self.is_stopped() => return None,
                _ => sleep(RETRY_AFTER).await,
            }
        }
    }

    fn take_routes(&mut self, row: &TopicRoutes) {
        if !self.context.follows {
            return;
        }
        for partition in &row.partitions {
            let key = PartitionKey { topic: row.topic, partition: partition.partition };
            if let Ok(address) = partition.address.parse() {
                self.routes.insert(key, address);
            }
        }
    }

    fn take_addresses(&self, row: &TopicRoutes) {
        let mut known = self.context.addresses.borrow_mut();
        for partition in &row.partitions {
            match partition.address.parse() {
                // Nobody is known to lead: also while a node that is alone has just begun.
                _ if partition.address.is_empty() => {}
                Ok(address) if known.contains(&address) => {}
                Ok(address) => known.push(address),
                Err(_) => {
                    let text = format!("no address: {:?}", partition.address);
                    self.context.witness.object(text);
                }
            }
        }
    }
}

/// Whether the next attempt had better go to another node.
fn may_be_better_elsewhere(code: ErrorCode) -> bool {
    matches!(
        code,
        ErrorCode::NotLeader
            | ErrorCode::Timeout
            | ErrorCode::ShuttingDown
            | ErrorCode::StorageFailed
            | ErrorCode::UnknownTopic
            | ErrorCode::UnknownPartition
            | ErrorCode::UnknownGroup
    )
}
