//! Coming home: the data directory of a member, of a founder, or of a node that asks to be let in.
//!
//! Owns: asking a cluster to become its member, before anything else of the node runs.
//! Must never: found a cluster where one was to be joined; ask twice as two different nodes.

#![expect(clippy::disallowed_methods, reason = "no core runs yet: the main thread may wait")]

use std::time::Duration;

use barrage_broker::{Arrival, Home, Newcomer, StartError};
use barrage_client::{Client, ClientOptions};
use barrage_cluster::node::LEVEL;
use barrage_wire::{ClusterChange, ClusterJoin};
use barrage_world::run_local;

use crate::address::Addresses;
use crate::config::Config;
use crate::exit::Failure;

/// How often a cluster is asked: it may be electing, or starting itself. Each attempt takes up to
/// a request timeout.
const ATTEMPTS_MAX: u32 = 60;
/// Between two attempts.
const RETRY_PAUSE: Duration = Duration::from_millis(500);

/// Opens the data directory; joins the cluster that `config` names unless that is done.
pub(crate) fn enter(config: &Config, addresses: &Addresses) -> Result<Home, Failure> {
    if config.join.is_empty() {
        return run_local(Home::open(&config.data_dir)).map_err(failure);
    }
    match run_local(Home::to_join(&config.data_dir)).map_err(failure)? {
        Arrival::Member(home) => Ok(home),
        Arrival::Newcomer(newcomer) => join(&config.join, addresses, newcomer),
    }
}

fn failure(error: StartError) -> Failure {
    match error {
        StartError::InUse { .. } => Failure::conflict(error),
        _ => Failure::new(error),
    }
}

fn join(servers: &[String], addresses: &Addresses, newcomer: Newcomer) -> Result<Home, Failure> {
    let change = ClusterChange::Join(ClusterJoin {
        birth: newcomer.birth().0,
        peer: addresses.peer(),
        client: addresses.listen(),
        level: LEVEL,
    });
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(Failure::new)?;
    let mut attempts = 0;
    let joined = loop {
        attempts += 1;
        let asked = runtime.block_on(async {
            let servers = servers.to_vec();
            let client_name = concat!("barrage node ", env!("CARGO_PKG_VERSION")).to_owned();
            let options = ClientOptions { servers, client_name, ..ClientOptions::default() };
            Client::connect(options).await?.change_cluster(change.clone()).await
        });
        match asked {
            Ok(joined) => break joined,
            Err(error) if error.is_retriable() && attempts < ATTEMPTS_MAX => {
                tracing::info!(%error, "the cluster does not let this node in yet");
                std::thread::sleep(RETRY_PAUSE);
            }
            Err(error) => {
                let servers = servers.join(",");
                return Err(Failure::new(format!("cannot join the cluster at {servers}: {error}")));
            }
        }
    };
    tracing::info!(node = joined.node.0, cluster = joined.cluster, "joined");
    run_local(newcomer.settle(joined.node, joined.cluster)).map_err(failure)
}
