//! Where nodes are found: the address of each for the first contact.
//!
//! Owns: that table, shared by all cores and changed while they run. It is read when a connection
//! is made, never for a message, so a lock does.
//!
//! Must never: be held across an await.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use barrage_model::NodeId;

/// The addresses of the nodes. Clones are handles to the same book, also on other cores.
#[derive(Clone, Default, Debug)]
pub struct Book {
    addresses: Arc<Mutex<BTreeMap<NodeId, SocketAddr>>>,
}

impl Book {
    /// An empty book.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Sets where a node is found. Connections that work stay; those made from now on go there.
    pub fn set(&self, node: NodeId, address: SocketAddr) {
        self.lock().insert(node, address);
    }

    /// Forgets a node. Connections that work stay.
    pub fn remove(&self, node: NodeId) {
        self.lock().remove(&node);
    }

    /// Where a node is found.
    #[must_use]
    pub fn address(&self, node: NodeId) -> Option<SocketAddr> {
        self.lock().get(&node).copied()
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<NodeId, SocketAddr>> {
        self.addresses.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
