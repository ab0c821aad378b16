//! The connections of one client, one per address, dialled when needed.
//!
//! Must never: dial one address twice at the same time, or hand out a connection that has ended.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use crate::connection::Connection;
use crate::error::ClientError;
use crate::options::ClientOptions;

/// See the module.
#[derive(Debug)]
pub(crate) struct Pool {
    options: ClientOptions,
    slots: Mutex<HashMap<String, Arc<Slot>>>,
}

#[derive(Debug, Default)]
struct Slot {
    /// Held while dialling; an asynchronous lock, because dialling takes time.
    dialling: tokio::sync::Mutex<()>,
    connection: Mutex<Option<Connection>>,
}

impl Slot {
    fn live(&self) -> Option<Connection> {
        let connection = self.connection.lock().unwrap_or_else(PoisonError::into_inner);
        connection.clone().filter(Connection::is_live)
    }
}

impl Pool {
    pub(crate) fn new(options: ClientOptions) -> Self {
        Self { options, slots: Mutex::new(HashMap::new()) }
    }

    pub(crate) const fn options(&self) -> &ClientOptions {
        &self.options
    }

    /// The connection to `address`, if there is one.
    pub(crate) fn live(&self, address: &str) -> Option<Connection> {
        let slots = self.slots.lock().unwrap_or_else(PoisonError::into_inner);
        slots.get(address).and_then(|slot| slot.live())
    }

    /// The connection to `address`, dialled if there is none.
    pub(crate) async fn get(&self, address: &str) -> Result<Connection, ClientError> {
        let slot = {
            let mut slots = self.slots.lock().unwrap_or_else(PoisonError::into_inner);
            Arc::clone(slots.entry(address.to_owned()).or_default())
        };
        if let Some(connection) = slot.live() {
            return Ok(connection);
        }
        let _dialling = slot.dialling.lock().await;
        if let Some(connection) = slot.live() {
            return Ok(connection);
        }
        let connection = Connection::dial(address, &self.options).await?;
        let mut place = slot.connection.lock().unwrap_or_else(PoisonError::into_inner);
        *place = Some(connection.clone());
        Ok(connection)
    }

    /// A connection to any of the servers the client was given, and its address.
    pub(crate) async fn any(&self) -> Result<(&str, Connection), ClientError> {
        for server in &self.options.servers {
            if let Some(connection) = self.live(server) {
                return Ok((server, connection));
            }
        }
        let mut last = ClientError::Closed;
        for server in &self.options.servers {
            match self.get(server).await {
                Ok(connection) => return Ok((server, connection)),
                Err(error) => last = error,
            }
        }
        Err(last)
    }
}
