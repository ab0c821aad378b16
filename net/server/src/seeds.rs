//! Where the others are, asked from the addresses that a node was told to join by: a member that
//! comes back knows where they were when it went, which may be nowhere by now.
//!
//! ```text
//! first core: too few heard? --wanted--> thread: ask each address --found--> first core: the book
//! ```
//! Owns: the thread that asks, and what it found until the first core takes it.
//! Must never: count for more than what a node tells of itself; run on a core, where looking up a
//! name would block.

use std::mem;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::thread;
use std::time::Duration;

use barrage_broker::Broker;
use barrage_client::{Client, ClientError, ClientOptions};
use barrage_world::{sleep, spawn};

use crate::config::Config;
use crate::exit::Failure;
use crate::peers::Members;

/// How often the first core looks whether it hears enough of the others, and the thread whether it
/// is to ask. A node that starts is heard of within a beacon's interval: it asks after that.
const LOOK_INTERVAL: Duration = Duration::from_secs(2);
/// For one address: the others wait behind it.
const ASK_TIMEOUT: Duration = Duration::from_secs(2);

/// What the two of them share.
#[derive(Default)]
pub(crate) struct Seeds {
    wanted: AtomicBool,
    found: Mutex<Members>,
}

impl Seeds {
    /// Starts the thread, which lives as long as somebody holds what is returned. Without an
    /// address to ask there is none.
    #[expect(clippy::disallowed_methods, reason = "asking waits: not on a core")]
    pub(crate) fn start(config: &Config, cluster: &str) -> Result<Arc<Self>, Failure> {
        let seeds = Arc::new(Self::default());
        if config.join.is_empty() {
            return Ok(seeds);
        }
        let (servers, cluster) = (config.join.clone(), cluster.to_owned());
        let shared = Arc::downgrade(&seeds);
        let keep = move || {
            while let Some(wanted) = is_wanted(&shared) {
                if wanted {
                    hand_over(&shared, ask_all(&servers, &cluster));
                }
                thread::sleep(LOOK_INTERVAL);
            }
        };
        let started = thread::Builder::new().name("seeds".to_owned()).spawn(keep);
        started.map(|_| seeds).map_err(Failure::new)
    }

    /// On the first core: has the thread ask while fewer than a majority of the members is heard,
    /// and tells the broker what it found, for ever.
    pub(crate) fn heed(self: Arc<Self>, broker: &Broker) {
        let broker = broker.clone();
        drop(spawn(async move {
            loop {
                sleep(LOOK_INTERVAL).await;
                self.wanted.store(!broker.hears_majority(), Ordering::Relaxed);
                let found = self.found.lock().unwrap_or_else(PoisonError::into_inner);
                for (node, address) in mem::take(&mut *{ found }) {
                    broker.hear_where(node, address);
                }
            }
        }));
    }
}

/// `None` when the node has ended.
fn is_wanted(seeds: &Weak<Seeds>) -> Option<bool> {
    seeds.upgrade().map(|seeds| seeds.wanted.load(Ordering::Relaxed))
}

fn hand_over(seeds: &Weak<Seeds>, found: Members) {
    if let Some(seeds) = seeds.upgrade() {
        seeds.found.lock().unwrap_or_else(PoisonError::into_inner).extend(found);
    }
}

/// Asks one address after the other. The runtime ends with it, and with it every connection.
fn ask_all(servers: &[String], cluster: &str) -> Members {
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            tracing::warn!(%error, "nobody can be asked where the others are");
            return Members::new();
        }
    };
    let mut all = Members::new();
    for server in servers {
        match runtime.block_on(ask(server, cluster)) {
            Ok(found) => all.extend(found),
            Err(error) => tracing::debug!(server, %error, "no word of the others"),
        }
    }
    all
}

/// Whom the node at an address hears lately, itself among them. An address may belong to another
/// cluster by now: that knows nothing.
async fn ask(server: &str, cluster: &str) -> Result<Members, ClientError> {
    let options = ClientOptions {
        client_name: concat!("barrage node ", env!("CARGO_PKG_VERSION")).to_owned(),
        connect_timeout: ASK_TIMEOUT,
        request_timeout: ASK_TIMEOUT,
        ..ClientOptions::server(server)
    };
    let known = Client::connect(options).await?.describe_cluster().await?;
    let is_ours = known.cluster == cluster;
    let here = known.nodes.into_iter().filter(|node| is_ours && node.present);
    Ok(here.map(|node| (node.node, node.peer)).collect())
}
