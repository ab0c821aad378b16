//! Where the partitions of one topic live, and the connections to them.
//!
//! Owns: the last metadata of the topic. A leader that the cluster names but that cannot be reached
//! from here (at a container's inner address, say) is replaced by any server, which takes the
//! request if the partition is its own; the leader itself is tried again and again beside that, and
//! takes over as soon as it answers.
//! Must never: change the topic's id under a producer or consumer; send to anybody while nobody is
//! known to lead.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use barrage_model::{PartitionId, PartitionKey, Priorities, TopicId, TopicOrder};
use barrage_wire::{At, ErrorCode, ErrorReply, ListOffsetReply, TopicRoutes};
use tokio::time::Instant;

use crate::client::{Client, PATIENCE, Whom, as_seen_from, leader_of};
use crate::connection::Connection;
use crate::error::ClientError;
use crate::pause::about;

/// See the module.
#[derive(Debug)]
pub(crate) struct Routes {
    client: Client,
    name: String,
    topic: TopicId,
    partition_count: u32,
    priorities: Priorities,
    order: TopicOrder,
    state: Mutex<State>,
    /// Held while metadata is asked for.
    refreshed: tokio::sync::Mutex<Refreshed>,
}

#[derive(Debug, Default)]
struct State {
    /// By partition; empty while nobody is known to lead it.
    addresses: Vec<String>,
    /// Addresses that failed while the cluster named them.
    avoided: Vec<String>,
}

/// How the last look at the metadata ended.
#[derive(Debug)]
struct Refreshed {
    at: Instant,
    failure: Option<ClientError>,
}

/// Bound on remembered bad addresses; a cluster announces a few dozen.
const AVOIDED_MAX: usize = 1024;
/// Metadata this fresh serves all who asked for it meanwhile.
const FRESH: Duration = Duration::from_millis(15);
/// A planned change of leader takes some 40 ms: where nobody is known to lead, the metadata is
/// asked for again that soon, a few times, before a caller hears of it and takes its time.
const LOOK_PAUSE: Duration = Duration::from_millis(20);
const LOOKS_MAX: u32 = 4;

impl Routes {
    /// Asks for the topic's metadata.
    pub(crate) async fn resolve(client: &Client, name: &str) -> Result<Self, ClientError> {
        let found = ask(client, name, Whom::default()).await?;
        let Found { topic, priorities, order, addresses } = found;
        let partition_count = u32::try_from(addresses.len()).unwrap_or(u32::MAX);
        let state = Mutex::new(State { addresses, avoided: Vec::new() });
        let refreshed = Refreshed { at: Instant::now(), failure: None };
        let refreshed = tokio::sync::Mutex::new(refreshed);
        let (client, name) = (client.clone(), name.to_owned());
        Ok(Self { client, name, topic, partition_count, priorities, order, state, refreshed })
    }

    pub(crate) const fn client(&self) -> &Client {
        &self.client
    }

    pub(crate) const fn partition_count(&self) -> u32 {
        self.partition_count
    }

    pub(crate) const fn priorities(&self) -> Priorities {
        self.priorities
    }

    pub(crate) const fn order(&self) -> TopicOrder {
        self.order
    }

    pub(crate) const fn key(&self, partition: PartitionId) -> PartitionKey {
        PartitionKey { topic: self.topic, partition }
    }

    /// An offset of the partition, asked of its leader if that is known.
    pub(crate) async fn list_offset(
        &self,
        partition: PartitionId,
        at: At,
    ) -> Result<ListOffsetReply, ClientError> {
        let first = Some(self.address(partition)).filter(|address| !address.is_empty());
        let whom = Whom { first, ..Whom::default() };
        self.client.list_offset_from(self.key(partition), at, whom).await
    }

    /// A connection that leads to the partition, if there is one now.
    pub(crate) fn live(&self, partition: PartitionId) -> Option<Connection> {
        let pool = self.client.pool();
        let address = self.address(partition);
        if let Some(connection) = pool.live(&address) {
            self.state().avoided.retain(|avoided| *avoided != address);
            return Some(connection);
        }
        if !self.state().avoided.contains(&address) {
            return None;
        }
        pool.nudge(&address);
        pool.live_any()
    }

    /// A connection that leads to the partition, dialled if need be.
    pub(crate) async fn connect(&self, partition: PartitionId) -> Result<Connection, ClientError> {
        let pool = self.client.pool();
        let address = self.address(partition);
        let mut unreachable = None;
        if !address.is_empty() {
            match pool.get_within(&address, PATIENCE).await {
                Ok(connection) => return Ok(connection),
                Err(error) => unreachable = Some(error),
            }
        }
        let mut looks = 0;
        let fresh = loop {
            if let Err(error) = self.refresh(Some(&address)).await {
                // What is gone is gone; if only nobody answers, the leader's silence says more.
                return Err(unreachable.filter(|_| error.is_retriable()).unwrap_or(error));
            }
            let fresh = self.address(partition);
            if !fresh.is_empty() {
                break fresh;
            }
            looks += 1;
            if looks == LOOKS_MAX {
                return Err(self.no_leader(partition));
            }
            tokio::time::sleep(about(LOOK_PAUSE)).await;
        };
        if fresh != address {
            return pool.get_within(&fresh, PATIENCE).await;
        }
        // The node is going down and nobody noticed yet, or its address means nothing here.
        let (_, fallback) = pool.any(&[]).await?;
        self.avoid(address);
        Ok(fallback)
    }

    /// Asks for the topic's metadata again; the server at `except` only if nobody else answers.
    pub(crate) async fn refresh(&self, except: Option<&str>) -> Result<(), ClientError> {
        let asked = Instant::now();
        let mut refreshed = self.refreshed.lock().await;
        // Many partitions ask at once: one look serves all, whether it found somebody or not.
        match &refreshed.failure {
            None if refreshed.at + FRESH > asked => return Ok(()),
            Some(error) if refreshed.at > asked => return Err(error.clone()),
            _ => {}
        }
        let result = self.refresh_now(except).await;
        *refreshed = Refreshed { at: Instant::now(), failure: result.clone().err() };
        result
    }

    async fn refresh_now(&self, except: Option<&str>) -> Result<(), ClientError> {
        let last = except.filter(|address| !address.is_empty()).map(str::to_owned);
        let whom = Whom { last: last.into_iter().collect(), ..Whom::default() };
        let Found { topic, addresses, .. } = ask(&self.client, &self.name, whom).await?;
        if topic < self.topic {
            // Ids only grow: that node has not heard yet that the topic was made again.
            let message = format!("a node does not know topic {} as it is now", self.name);
            return Err(ClientError::Refused(ErrorReply::new(ErrorCode::NotLeader, message)));
        }
        if topic > self.topic {
            return Err(ClientError::TopicReplaced { topic: self.name.clone() });
        }
        self.state().addresses = addresses;
        Ok(())
    }

    /// A request to `server` failed: perhaps it said where the partition's leader is. True when
    /// somebody else should be asked.
    pub(crate) fn handle_error(
        &self,
        partition: PartitionId,
        server: &str,
        error: &ClientError,
    ) -> bool {
        match leader_of(error).map(|address| as_seen_from(server, address.to_owned())) {
            Some(leader) if leader != server => {
                if let Some(place) = self.state().addresses.get_mut(partition.0 as usize) {
                    *place = leader;
                }
                false
            }
            _ => match error.code() {
                Some(ErrorCode::UnknownTopic | ErrorCode::UnknownPartition) => true,
                _ => error.is_retriable() && error.is_of_this_server(),
            },
        }
    }

    /// True when the partition is led elsewhere than where `connection` goes, as far as is known.
    pub(crate) fn is_led_elsewhere(&self, partition: PartitionId, connection: &Connection) -> bool {
        let address = self.address(partition);
        !address.is_empty()
            && address != connection.server()
            && !self.state().avoided.contains(&address)
    }

    fn no_leader(&self, partition: PartitionId) -> ClientError {
        let message = format!("nobody is known to lead partition {partition} of {}", self.name);
        ClientError::Refused(ErrorReply::new(ErrorCode::NotLeader, message))
    }

    fn address(&self, partition: PartitionId) -> String {
        self.state().addresses.get(partition.0 as usize).cloned().unwrap_or_default()
    }

    fn avoid(&self, address: String) {
        let mut state = self.state();
        if state.avoided.len() < AVOIDED_MAX && !state.avoided.contains(&address) {
            state.avoided.push(address);
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What metadata say of a topic.
struct Found {
    topic: TopicId,
    priorities: Priorities,
    order: TopicOrder,
    /// By partition.
    addresses: Vec<String>,
}

async fn ask(client: &Client, name: &str, whom: Whom) -> Result<Found, ClientError> {
    let unknown = || {
        let message = format!("topic {name} does not exist");
        ClientError::Refused(ErrorReply::new(ErrorCode::UnknownTopic, message))
    };
    let is_unknown = |row: &TopicRoutes| row.error == ErrorCode::UnknownTopic.number();
    let (mut reply, mut server) = client.metadata_from(&[name], whom).await?;
    if reply.topics.iter().any(is_unknown) && client.pool().servers().len() > 1 {
        // A node that was away may not know what the others know.
        let whom = Whom { last: vec![server], ..Whom::default() };
        (reply, server) = client.metadata_from(&[name], whom).await?;
    }
    let row = reply.topics.into_iter().next().ok_or_else(unknown)?;
    match ErrorCode::from_number(row.error) {
        None if row.partitions.is_empty() => return Err(unknown()),
        None => {}
        Some(ErrorCode::UnknownTopic) => return Err(unknown()),
        Some(code) => {
            let message = format!("topic {name}");
            return Err(ClientError::Refused(ErrorReply::new(code, message)));
        }
    }
    let priorities = Priorities::new(row.priorities);
    let is_sound = |it: &Priorities| usize::from(it.levels()) <= row.partitions.len();
    let Some(priorities) = priorities.filter(is_sound) else {
        let cause = format!("topic {name} has {} levels of priority", row.priorities);
        return Err(ClientError::Protocol { server, cause });
    };
    let addresses = row.partitions.into_iter().map(|route| as_seen_from(&server, route.address));
    let (topic, order) = (row.topic, row.order);
    Ok(Found { topic, priorities, order, addresses: addresses.collect() })
}
