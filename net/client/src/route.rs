//! Where the partitions of one topic live, and the connections to them.
//!
//! Owns: the last metadata of the topic. An address that cannot be reached from here (a container's
//! inner address, say) is replaced by the server the client was given: any core accepts any
//! request and forwards it. Must never: change the topic's id under a producer or consumer.

use std::sync::{Mutex, MutexGuard, PoisonError};

use barrage_model::{PartitionId, PartitionKey, TopicId};
use barrage_wire::{ErrorCode, ErrorReply, Hint};

use crate::client::Client;
use crate::connection::Connection;
use crate::error::ClientError;

/// See the module.
#[derive(Debug)]
pub(crate) struct Routes {
    client: Client,
    name: String,
    topic: TopicId,
    partition_count: u32,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// By partition.
    addresses: Vec<String>,
    /// Addresses that failed while another server answered.
    avoided: Vec<String>,
}

/// Bound on remembered bad addresses; a cluster announces a few dozen.
const AVOIDED_MAX: usize = 1024;

impl Routes {
    /// Asks for the topic's metadata.
    pub(crate) async fn resolve(client: &Client, name: &str) -> Result<Self, ClientError> {
        let (topic, addresses) = ask(client, name).await?;
        let partition_count = u32::try_from(addresses.len()).unwrap_or(u32::MAX);
        let state = Mutex::new(State { addresses, avoided: Vec::new() });
        Ok(Self { client: client.clone(), name: name.to_owned(), topic, partition_count, state })
    }

    pub(crate) const fn client(&self) -> &Client {
        &self.client
    }

    pub(crate) const fn partition_count(&self) -> u32 {
        self.partition_count
    }

    pub(crate) const fn key(&self, partition: PartitionId) -> PartitionKey {
        PartitionKey { topic: self.topic, partition }
    }

    /// A connection that leads to the partition, if there is one now.
    pub(crate) fn live(&self, partition: PartitionId) -> Option<Connection> {
        match self.address(partition) {
            Some(address) => self.client.pool().live(&address),
            None => {
                let servers = &self.client.pool().options().servers;
                servers.iter().find_map(|server| self.client.pool().live(server))
            }
        }
    }

    /// A connection that leads to the partition, dialled if need be.
    pub(crate) async fn connect(&self, partition: PartitionId) -> Result<Connection, ClientError> {
        let pool = self.client.pool();
        let Some(address) = self.address(partition) else {
            return pool.any().await.map(|(_, connection)| connection);
        };
        let direct = match pool.get(&address).await {
            Ok(connection) => return Ok(connection),
            Err(error) => error,
        };
        // The node restarted with other ports, or its address means nothing here.
        let Ok((_, fallback)) = pool.any().await else { return Err(direct) };
        self.refresh().await?;
        match self.address(partition) {
            Some(fresh) if fresh != address => pool.get(&fresh).await,
            _ => {
                self.avoid(address);
                Ok(fallback)
            }
        }
    }

    /// Asks for the topic's metadata again.
    pub(crate) async fn refresh(&self) -> Result<(), ClientError> {
        let (topic, addresses) = ask(&self.client, &self.name).await?;
        if topic != self.topic {
            return Err(ClientError::TopicReplaced { topic: self.name.clone() });
        }
        self.state().addresses = addresses;
        Ok(())
    }

    /// A server said where the partition's leader is.
    pub(crate) fn handle_error(&self, partition: PartitionId, error: &ClientError) {
        let ClientError::Refused(ErrorReply { hint: Hint::Leader { address, .. }, .. }) = error
        else {
            return;
        };
        if let Some(place) = self.state().addresses.get_mut(partition.0 as usize) {
            place.clone_from(address);
        }
    }

    fn address(&self, partition: PartitionId) -> Option<String> {
        let state = self.state();
        let address = state.addresses.get(partition.0 as usize)?;
        let usable = !address.is_empty() && !state.avoided.contains(address);
        usable.then(|| address.clone())
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

async fn ask(client: &Client, name: &str) -> Result<(TopicId, Vec<String>), ClientError> {
    let reply = client.metadata(&[name]).await?;
    let unknown = || {
        let message = format!("topic {name} does not exist");
        ClientError::Refused(ErrorReply::new(ErrorCode::UnknownTopic, message))
    };
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
    let dialled = client.pool().options().servers.first().map_or("", String::as_str);
    let addresses = row.partitions.into_iter().map(|route| as_seen_from(dialled, route.address));
    Ok((row.topic, addresses.collect()))
}

/// A server that listens everywhere announces `0.0.0.0`: for us it is the host that we dialled.
fn as_seen_from(dialled: &str, address: String) -> String {
    let host = dialled.rsplit_once(':').map_or(dialled, |(host, _)| host);
    match address.rsplit_once(':') {
        Some(("0.0.0.0" | "[::]", port)) => format!("{host}:{port}"),
        _ => address,
    }
}

#[cfg(test)]
mod tests {
    use super::as_seen_from;

    #[test]
    fn unspecified_hosts_become_the_host_that_was_dialled() {
        let table = [
            ("db1:7400", "0.0.0.0:7401", "db1:7401"),
            ("[::1]:7400", "[::]:7401", "[::1]:7401"),
            ("db1:7400", "10.0.0.7:7401", "10.0.0.7:7401"),
            ("db1:7400", "", ""),
        ];
        for (dialled, address, expected) in table {
            assert_eq!(as_seen_from(dialled, address.to_owned()), expected);
        }
    }
}
