//! What a node tells when it serves: lines on stdout, and the ready file for programs.

use std::path::Path;

use barrage_model::NodeId;
use barrage_world::{fs, run_local};
use serde::Serialize;

use crate::address::Addresses;

/// The ready file, as JSON.
#[derive(Debug, Serialize)]
pub(crate) struct Ready {
    /// The node's id.
    node: u64,
    /// The process.
    pid: u32,
    /// The address that every core accepts.
    listen: String,
    /// Where other nodes reach it.
    peer: String,
    /// Each core's own address; absent when they are off.
    cores: Vec<ReadyCore>,
}

#[derive(Debug, Serialize)]
struct ReadyCore {
    core: usize,
    address: String,
}

impl Ready {
    pub(crate) fn new(node: NodeId, addresses: &Addresses) -> Self {
        let own = addresses.advertised(addresses.cores.len()).into_iter().enumerate();
        Self {
            node: node.0,
            pid: std::process::id(),
            listen: addresses.listen(),
            peer: addresses.peer(),
            cores: own.map(|(core, address)| ReadyCore { core, address }).collect(),
        }
    }

    /// For people.
    pub(crate) fn lines(&self) -> String {
        let mut lines = format!("node {} listens on {}\n", self.node, self.listen);
        lines += &format!("other nodes reach it at {}\n", self.peer);
        for core in &self.cores {
            lines += &format!("core {} listens on {}\n", core.core, core.address);
        }
        lines
    }

    /// Writes the file; it appears whole or not at all.
    pub(crate) fn write(&self, path: &Path) -> Result<(), String> {
        let json = serde_json::to_vec_pretty(self).map_err(|error| error.to_string())?;
        run_local(fs::write_atomic(path, &json))
            .map_err(|error| format!("cannot write {}: {error}", path.display()))
    }
}
