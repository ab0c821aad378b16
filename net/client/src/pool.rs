//! The connections of one client, one per address, dialled when needed, and the servers it knows:
//! those it was given and those that metadata named since.
//!
//! Must never: dial one address twice at the same time, dial one that just failed without a rest,
//! or hand out a connection that has ended.
//!
//! A dial runs in a task of its own: who waits for it may leave, and finds the connection later.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use barrage_model::NodeId;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::connection::Connection;
use crate::error::{ClientError, Stage};
use crate::options::ClientOptions;
use crate::pause::Pause;

/// A server that is silent for this long while it is dialled is not waited for alone.
const STAGGER: Duration = Duration::from_millis(300);
/// First rest of an address that could not be dialled.
const REST_MIN: Duration = Duration::from_millis(50);
/// Longest rest: a node that is back is noticed within about this time.
const REST_MAX: Duration = Duration::from_secs(1);
/// Servers learned of, at most: as many as a cluster has nodes.
const LEARNED_MAX: usize = 1000;
/// Addresses remembered; beyond it those without a connection are forgotten.
const SLOTS_MAX: usize = 4096;

/// See the module.
#[derive(Debug)]
pub(crate) struct Pool {
    options: ClientOptions,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    slots: HashMap<String, Arc<Slot>>,
    /// Where clients reach the cluster's nodes, as metadata said last.
    learned: Vec<String>,
    /// The server that was of use last.
    preferred: Option<String>,
}

/// How a dial ended; `None` while it runs.
type Dialled = Option<Result<Connection, ClientError>>;

/// One address.
#[derive(Debug)]
struct Slot {
    place: Mutex<Place>,
}

#[derive(Debug)]
struct Place {
    connection: Option<Connection>,
    dialling: Option<watch::Receiver<Dialled>>,
    /// Not dialled before this time, with what went wrong.
    rest: Option<(Instant, ClientError)>,
    pause: Pause,
}

impl Slot {
    fn new() -> Self {
        let pause = Pause::new(REST_MIN, REST_MAX);
        Self { place: Mutex::new(Place { connection: None, dialling: None, rest: None, pause }) }
    }

    fn place(&self) -> MutexGuard<'_, Place> {
        self.place.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn live(&self) -> Option<Connection> {
        self.place().connection.clone().filter(Connection::is_live)
    }

    fn is_in_use(&self) -> bool {
        let place = self.place();
        place.dialling.is_some() || place.connection.as_ref().is_some_and(Connection::is_live)
    }

    /// The connection, the dial that is under way (begun here if need be), or why not now.
    fn begin(
        self: &Arc<Self>,
        address: &str,
        options: &ClientOptions,
    ) -> Result<watch::Receiver<Dialled>, ClientError> {
        let mut place = self.place();
        if let Some(connection) = place.connection.clone().filter(Connection::is_live) {
            return Ok(watch::channel(Some(Ok(connection))).1);
        }
        if let Some(dialling) = &place.dialling {
            return Ok(dialling.clone());
        }
        if let Some((until, error)) = &place.rest
            && Instant::now() < *until
        {
            return Err(error.clone());
        }
        let (sender, receiver) = watch::channel(None);
        place.dialling = Some(receiver.clone());
        let (slot, address, options) = (Arc::clone(self), address.to_owned(), options.clone());
        tokio::spawn(async move {
            let result = Connection::dial(&address, &options).await;
            slot.handle_dialled(&result);
            sender.send_replace(Some(result));
        });
        Ok(receiver)
    }

    fn handle_dialled(&self, result: &Result<Connection, ClientError>) {
        let mut place = self.place();
        place.dialling = None;
        match result {
            Ok(connection) => {
                place.connection = Some(connection.clone());
                place.rest = None;
                place.pause.reset();
            }
            Err(error) => {
                let until = Instant::now() + place.pause.next();
                place.rest = Some((until, error.clone()));
            }
        }
    }
}

impl Pool {
    pub(crate) fn new(options: ClientOptions) -> Self {
        Self { options, state: Mutex::default() }
    }

    pub(crate) const fn options(&self) -> &ClientOptions {
        &self.options
    }

    /// The connection to `address`, if there is one.
    pub(crate) fn live(&self, address: &str) -> Option<Connection> {
        let slot = self.state().slots.get(address).cloned();
        slot.and_then(|slot| slot.live())
    }

    /// A connection to any server, if there is one.
    pub(crate) fn live_any(&self) -> Option<Connection> {
        self.servers().iter().find_map(|server| self.live(server))
    }

    /// The connection to `address`, dialled if there is none.
    pub(crate) async fn get(&self, address: &str) -> Result<Connection, ClientError> {
        wait(address, self.begin(address)?).await
    }

    /// As `get`, but waits no longer than `patience`. The dial goes on.
    pub(crate) async fn get_within(
        &self,
        address: &str,
        patience: Duration,
    ) -> Result<Connection, ClientError> {
        let cause = format!("no answer within {patience:?} yet");
        let server = address.to_owned();
        let silent = ClientError::Unreachable { server, stage: Stage::Connect, cause };
        tokio::time::timeout(patience, self.get(address)).await.unwrap_or(Err(silent))
    }

    /// Dials `address` unless it rests; nobody waits for it.
    pub(crate) fn nudge(&self, address: &str) {
        drop(self.begin(address));
    }

    /// A connection to any server but those in `except`, and its address. A silent server costs
    /// little: the next one is dialled beside it. A node has several addresses, its own and one per
    /// core: whoever is to be passed over is passed over by all of them.
    pub(crate) async fn any(&self, except: &[String]) -> Result<(String, Connection), ClientError> {
        let mut servers = self.servers();
        let nodes: Vec<_> = except.iter().filter_map(|server| self.node_of(server)).collect();
        let is_excepted = |server: &String| {
            except.contains(server) || self.node_of(server).is_some_and(|id| nodes.contains(&id))
        };
        servers.retain(|server| !is_excepted(server));
        for server in &servers {
            if let Some(connection) = self.live(server) {
                return Ok((server.clone(), connection));
            }
        }
        let mut last = ClientError::Closed;
        let mut dials = JoinSet::new();
        let mut servers = servers.into_iter();
        loop {
            match servers.next().map(|server| (self.begin(&server), server)) {
                Some((Ok(dial), server)) => {
                    dials.spawn(async move { (wait(&server, dial).await, server) });
                }
                Some((Err(error), _)) => {
                    last = error;
                    continue;
                }
                None if dials.is_empty() => return Err(last),
                None => {}
            }
            let more = servers.len() > 0;
            tokio::select! {
                Some(done) = dials.join_next() => match done {
                    Ok((Ok(connection), server)) => {
                        self.prefer(&server);
                        return Ok((server, connection));
                    }
                    Ok((Err(error), _)) => last = error,
                    Err(_) => {}
                },
                () = tokio::time::sleep(STAGGER), if more => {}
            }
        }
    }

    /// The node that was last met at `address`.
    fn node_of(&self, address: &str) -> Option<NodeId> {
        let slot = self.state().slots.get(address).cloned()?;
        let place = slot.place();
        place.connection.as_ref().map(|connection| connection.hello().node)
    }

    /// Ask this server first from now on.
    pub(crate) fn prefer(&self, server: &str) {
        self.state().preferred = Some(server.to_owned());
    }

    /// The servers of the cluster, as metadata tells them: these are known beside the given ones.
    pub(crate) fn learn(&self, servers: impl Iterator<Item = String>) {
        let learned: Vec<_> = servers.take(LEARNED_MAX).collect();
        // A server that knows none has nothing to say about it.
        if !learned.is_empty() {
            self.state().learned = learned;
        }
    }

    /// All servers known, the preferred one first.
    pub(crate) fn servers(&self) -> Vec<String> {
        let state = self.state();
        let mut servers = Vec::new();
        let known = state.preferred.iter().chain(&self.options.servers).chain(&state.learned);
        for server in known {
            if !servers.contains(server) {
                servers.push(server.clone());
            }
        }
        servers
    }

    fn begin(&self, address: &str) -> Result<watch::Receiver<Dialled>, ClientError> {
        let slot = {
            let mut state = self.state();
            if state.slots.len() >= SLOTS_MAX {
                state.slots.retain(|_, slot| slot.is_in_use());
            }
            let slot = state.slots.entry(address.to_owned());
            Arc::clone(slot.or_insert_with(|| Arc::new(Slot::new())))
        };
        slot.begin(address, &self.options)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

async fn wait(
    address: &str,
    mut dial: watch::Receiver<Dialled>,
) -> Result<Connection, ClientError> {
    let ended = dial.wait_for(Option::is_some).await.ok().and_then(|dialled| dialled.clone());
    ended.unwrap_or_else(|| {
        let (server, cause) = (address.to_owned(), "the dial was given up".to_owned());
        Err(ClientError::Unreachable { server, stage: Stage::Connect, cause })
    })
}
