//! Starting a core: identity and catalog on the first one, then every core's own shards.
//!
//! ```text
//!   first core: lock, identity -> shard 0 -> found cluster -> tell all cores -> own shards
//!   others:     wait for the catalog                                       -> own shards
//! ```
//!
//! Owns: that order and the shares of the memory budget.
//! Must never: serve a shard whose log refuses to open; the node does not start then, and says
//! where.
//! Invariants: a core's shards are `shard % cores == core`; shard 0 is on the first core.

use std::io;
use std::path::PathBuf;
use std::rc::Rc;

use barrage_commitlog::Options;
use barrage_model::ShardId;
use barrage_world::{fs, spawn};
use thiserror::Error;

use crate::admin::CATALOG_CORE;
use crate::api::AdminError;
use crate::catalog_shard::CatalogShard;
use crate::core::Core;
use crate::identity::{self, Identity, SHARDS_DIR};
use crate::options::BrokerOptions;
use crate::router::{CoreLinks, Router};
use crate::shard::Shard;
use crate::shard::handle::ShardOptions;

const CATALOG_SHARD: ShardId = ShardId(0);
/// The catalog's log is small: commands of a few hundred bytes.
const CATALOG_SEGMENT_BYTES: u64 = 16 << 20;
const CATALOG_CACHE_BYTES: usize = 1 << 20;
const CACHE_BYTES_MAX: usize = 1 << 30;
/// What the queue counts beside the bytes of its batches, with room to spare.
const WAITING_OVERHEAD_BYTES: usize = 4 << 20;

/// Why a core could not start.
#[derive(Debug, Error)]
pub enum StartError {
    /// The file system refused.
    #[error("cannot {action} {}: {source}", path.display())]
    Io {
        /// What was tried.
        action: &'static str,
        /// On which path.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// Another process holds the data directory.
    #[error("{} is in use by another process", path.display())]
    InUse {
        /// The data directory.
        path: PathBuf,
    },
    /// There is data, but no identity.
    #[error(
        "{} is missing although there is data; restore it from a copy of this node's directory",
        path.display()
    )]
    IdentityMissing {
        /// The missing file.
        path: PathBuf,
    },
    /// The identity cannot be read.
    #[error("{} cannot be read: {reason}", path.display())]
    Identity {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// The data belongs to another cluster.
    #[error("the data is of cluster {found}, the node of cluster {expected}")]
    OtherCluster {
        /// The node's cluster.
        expected: String,
        /// The cluster in the catalog.
        found: String,
    },
    /// A shard does not open.
    #[error("shard {shard}: {source}")]
    Shard {
        /// The shard.
        shard: ShardId,
        /// Why.
        source: barrage_raft::OpenError,
    },
    /// The cluster could not be founded.
    #[error("the catalog refuses: {0}")]
    Catalog(AdminError),
    /// The links are not those of a core of this node.
    #[error("links for {links} cores, options for {options}")]
    Links {
        /// Cores the links connect.
        links: usize,
        /// Cores in the options.
        options: u16,
    },
    /// The first core has ended before it could say what the catalog is.
    #[error("the first core did not start")]
    NoCatalog,
}

/// Starts this core.
pub(crate) async fn start(
    options: BrokerOptions,
    mut links: CoreLinks,
) -> Result<Rc<Core>, StartError> {
    if links.cores() != usize::from(options.cores) {
        return Err(StartError::Links { links: links.cores(), options: options.cores });
    }
    let receivers = links.take_receivers();
    let core = Rc::new(Core::new(links.core(), options, Router::new(&links), links.hold()));
    for (from, mailbox) in receivers {
        drop(spawn(Rc::clone(&core).receive(from, mailbox)));
    }
    if core.id == CATALOG_CORE {
        open_catalog(&core).await?;
    } else {
        let mut catalog = core.catalog_watch();
        let founded = catalog.wait_for(|catalog| catalog.shards() > 0).await;
        founded.map_err(|_| StartError::NoCatalog)?;
        prepare(&core).await?;
        let identity = identity::read(&core.options.data_dir).await?;
        drop(core.identity.set(identity));
    }
    open_shards(&core).await?;
    drop(spawn(Rc::clone(&core).keep_agreeing()));
    Ok(core)
}

/// Direct I/O must be probed on every executor before its first file is opened.
async fn prepare(core: &Core) -> Result<(), StartError> {
    let dir = &core.options.data_dir;
    let failed = |source| StartError::Io { action: "do direct I/O in", path: dir.clone(), source };
    barrage_world::prepare_directory(dir).await.map_err(failed)
}

async fn open_catalog(core: &Rc<Core>) -> Result<(), StartError> {
    let (identity, lock) = identity::found(&core.options.data_dir).await?;
    core.keep_lock(lock);
    prepare(core).await?;
    let dir = shard_dir(core, CATALOG_SHARD).await?;
    let mut log = Options::new(CATALOG_SHARD);
    log.segment_bytes = core.options.segment_bytes.min(CATALOG_SEGMENT_BYTES);
    log.cache_bytes = CATALOG_CACHE_BYTES;
    let checkpoint_bytes = *core.options.checkpoint_bytes.end();
    let opened = CatalogShard::open(identity.node, dir, log, checkpoint_bytes).await;
    let shard = opened.map_err(|source| StartError::Shard { shard: CATALOG_SHARD, source })?;
    let watched = shard.clone();
    drop(core.catalog_shard.set(shard));
    core.found(&identity.cluster, identity.node).await.map_err(StartError::Catalog)?;
    let found = watched.catalog().cluster().to_owned();
    let Identity { cluster: expected, .. } = identity.clone();
    if found != expected {
        return Err(StartError::OtherCluster { expected, found });
    }
    drop(core.identity.set(identity));
    let failing = Rc::clone(core);
    drop(spawn(async move {
        let reason = watched.failed().await;
        failing.fail(format!("catalog: {reason}"));
    }));
    let telling = Rc::clone(core);
    drop(spawn(async move {
        telling.publish().await;
        telling.finish_deletions().await;
    }));
    // This core takes its copy now; the task above tells the others.
    core.set_catalog(std::sync::Arc::new(
        core.catalog_shard.get().map(CatalogShard::catalog).unwrap_or_default(),
    ));
    Ok(())
}

async fn open_shards(core: &Rc<Core>) -> Result<(), StartError> {
    let own: Vec<ShardId> = (1..=core.catalog().shards())
        .map(ShardId)
        .filter(|shard| core.core_of(*shard) == core.id)
        .collect();
    let count = own.len();
    for id in own {
        let node = core.identity.get().map(|identity| identity.node).unwrap_or_default();
        let options = ShardOptions {
            node,
            dir: shard_dir(core, id).await?,
            log: log_options(&core.options, id, count),
            checkpoint_bytes: checkpoint_bytes(&core.options),
            waiting_bytes_max: waiting_bytes_max(&core.options),
        };
        let opened = Shard::open(options).await;
        let shard = opened.map_err(|source| StartError::Shard { shard: id, source })?;
        core.add_shard(shard);
    }
    Ok(())
}

/// Every request of the node may wait for the same shard: the receivers' budget, which makes
/// clients slow down, fills before the queue, which refuses.
fn waiting_bytes_max(options: &BrokerOptions) -> usize {
    let request_bytes = usize::try_from(options.request_bytes).unwrap_or(usize::MAX);
    request_bytes.saturating_add(WAITING_OVERHEAD_BYTES)
}

fn log_options(options: &BrokerOptions, shard: ShardId, shards_of_core: usize) -> Options {
    let mut log = Options::new(shard);
    log.segment_bytes = options.segment_bytes;
    log.pool_segments = options.pool_segments;
    let shards = u64::try_from(shards_of_core.max(1)).unwrap_or(1);
    let cache_bytes = options.cache_bytes / u64::from(options.cores) / shards;
    let cache_bytes = usize::try_from(cache_bytes).unwrap_or(usize::MAX);
    let cache_bytes_min = options.shard_cache_bytes_min.min(CACHE_BYTES_MAX);
    log.cache_bytes = cache_bytes.clamp(cache_bytes_min, CACHE_BYTES_MAX);
    log
}

fn checkpoint_bytes(options: &BrokerOptions) -> u64 {
    let (least, most) = options.checkpoint_bytes.clone().into_inner();
    (options.segment_bytes / 2).max(least).min(most)
}

async fn shard_dir(core: &Core, shard: ShardId) -> Result<PathBuf, StartError> {
    let dir = core.options.data_dir.join(SHARDS_DIR).join(shard.to_string());
    let failed = |source| StartError::Io { action: "create", path: dir.clone(), source };
    fs::create_dir_all(&dir).await.map_err(failed)?;
    // The shard's log makes its own folder's name durable; the name of the folder around all
    // shards is this one's to keep.
    fs::sync_dir(&core.options.data_dir).await.map_err(failed)?;
    Ok(dir)
}
