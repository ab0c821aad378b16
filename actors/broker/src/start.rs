//! Starting a core: the catalog on the first one, then every core's own shards.
//!
//! ```text
//!   first core: shard 0 -> found the cluster, or wait to be found -> tell all cores -> own shards
//!   others:     wait for the catalog                                             -> own shards
//! ```
//!
//! Owns: that order and the shares of the memory budget.
//! Must never: serve a shard whose log refuses to open; the node does not start then, and says
//! where.
//! Invariants: a core's shards are `shard % cores == core`; shard 0 is on the first core.

use std::io;
use std::path::PathBuf;
use std::pin::pin;
use std::rc::Rc;

use barrage_commitlog::Options;
use barrage_model::{NodeId, ShardId};
use barrage_raft::{Content, Folder};
use barrage_world::{fs, planted, spawn};
use futures_util::future::{Either, select};
use thiserror::Error;

use crate::api::AdminError;
use crate::catalog_shard::{CatalogOptions, CatalogShard};
use crate::core::{CATALOG_CORE, CATALOG_SHARD, Core};
use crate::home::{FOUNDER, SHARDS_DIR};
use crate::options::BrokerOptions;

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
    /// The node has asked to join a cluster and was not let in yet.
    #[error(
        "{} is the directory of a node that joins a cluster; start it with --join HOST:PORT",
        path.display()
    )]
    NotJoined {
        /// The data directory.
        path: PathBuf,
    },
    /// The catalog's log is gone, those of other shards are there.
    #[error(
        "{} is missing although other shards are there; restore it from a copy of this node's \
         directory, or start an empty node with --join in its place",
        path.display()
    )]
    CatalogMissing {
        /// The missing folder.
        path: PathBuf,
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
    /// The cluster goes on without this node.
    #[error(
        "node {node} was removed from the cluster; an empty directory and --join make it a new one"
    )]
    Removed {
        /// The node.
        node: NodeId,
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
    /// Something broke for good before the core could serve.
    #[error("{0}")]
    Failed(String),
    /// The first core has ended before it could say what the catalog is.
    #[error("the first core did not start")]
    NoCatalog,
}

/// Opens what this core carries; answers when it serves.
pub(crate) async fn open(core: &Rc<Core>) -> Result<(), StartError> {
    drop(spawn(Rc::clone(core).keep_reporting()));
    if core.id == CATALOG_CORE {
        open_catalog(core).await?;
    } else {
        prepare(core).await?;
    }
    // It may take long until others let a node in. A catalog that dies meanwhile, of a disk that
    // refuses, hears of nobody any more.
    let (opened, failed) = (pin!(open_shards(core)), pin!(core.failed()));
    match select(opened, failed).await {
        Either::Left((opened, _)) => opened,
        Either::Right((reason, _)) => Err(StartError::Failed(reason)),
    }
}

/// Opens the data shards, once the node is a member.
async fn open_shards(core: &Rc<Core>) -> Result<(), StartError> {
    let node = core.node();
    let mut catalog = core.catalog_watch();
    // A node that joins waits here until the catalog's leader has found it.
    let decided = catalog.wait_for(|catalog| {
        catalog.nodes().get(node).is_some() || catalog.nodes().was_removed(node)
    });
    decided.await.map_err(|_| StartError::NoCatalog)?;
    if core.catalog().nodes().was_removed(node) {
        return Err(StartError::Removed { node });
    }
    core.open_shards().await?;
    drop(spawn(Rc::clone(core).keep_replicas()));
    Ok(())
}

/// Direct I/O must be probed on every executor before its first file is opened.
async fn prepare(core: &Core) -> Result<(), StartError> {
    let dir = &core.options.data_dir;
    let failed = |source| StartError::Io { action: "do direct I/O in", path: dir.clone(), source };
    barrage_world::prepare_directory(dir).await.map_err(failed)
}

async fn open_catalog(core: &Rc<Core>) -> Result<(), StartError> {
    prepare(core).await?;
    let path = shard_path(&core.options, CATALOG_SHARD);
    let mut log = Options::new(CATALOG_SHARD);
    log.segment_bytes = core.options.segment_bytes.min(CATALOG_SEGMENT_BYTES);
    log.cache_bytes = CATALOG_CACHE_BYTES;
    let folder = Folder { dir: path.clone(), log: log.clone() };
    let content = folder.content().await.map_err(|source| StartError::Io {
        action: "look into",
        path: path.clone(),
        source,
    })?;
    let is_new = content == Content::Empty;
    let founding = core.node() == FOUNDER && is_new;
    if is_new && has_data_shards(&core.options).await? {
        return Err(StartError::CatalogMissing { path });
    }
    make_shard_dir(&core.options, CATALOG_SHARD).await?;
    let options = CatalogOptions {
        node: core.node(),
        dir: path,
        log,
        checkpoint_bytes: *core.options.checkpoint_bytes.end(),
        timing: core.options.timing.clone(),
        peers: Rc::clone(&core.peers),
    };
    let opened = CatalogShard::open(options, founding).await;
    let shard = opened.map_err(|source| StartError::Shard { shard: CATALOG_SHARD, source })?;
    let watched = shard.clone();
    drop(core.catalog_shard.set(shard));
    // A crash may have come between the group and the first commands. A cluster that has members
    // is founded, although the founder may have left it.
    let founder = watched.catalog().nodes().get(FOUNDER).is_some();
    // Wrong when planted: a founder that was removed asks for its cluster anew.
    let is_founded = match planted("broker-founder-founds-again") {
        true => founder,
        false => watched.catalog().nodes().members().next().is_some(),
    };
    if core.node() == FOUNDER && !is_founded {
        core.found().await.map_err(StartError::Catalog)?;
    }
    let found = watched.catalog().cluster().to_owned();
    let expected = core.identity.cluster.clone();
    if !found.is_empty() && found != expected {
        return Err(StartError::OtherCluster { expected, found });
    }
    let failing = Rc::clone(core);
    let failed = watched.clone();
    drop(spawn(async move {
        let reason = failed.failed().await;
        failing.fail(format!("catalog: {reason}"));
    }));
    let failing = Rc::clone(core);
    let damaged = watched.group().clone();
    drop(spawn(async move {
        // It cannot give what others lack, and would keep the lead: without it one of them leads.
        let damage = damaged.damaged().await;
        failing.fail(format!("catalog: {damage}"));
    }));
    core.set_catalog(std::sync::Arc::new(watched.catalog()));
    drop(spawn(Rc::clone(core).keep_members(watched.group().clone())));
    drop(spawn(Rc::clone(core).keep_telling_leads(watched.group().clone())));
    drop(spawn(Rc::clone(core).keep_publishing(watched)));
    drop(spawn(Rc::clone(core).keep_beacons()));
    drop(spawn(Rc::clone(core).keep_presence()));
    drop(spawn(Rc::clone(core).keep_planning()));
    Ok(())
}

/// Whether any data shard lies in the data directory.
async fn has_data_shards(options: &BrokerOptions) -> Result<bool, StartError> {
    let dir = options.data_dir.join(SHARDS_DIR);
    let failed = |source| StartError::Io { action: "look into", path: dir.clone(), source };
    if !fs::exists(&dir).await.map_err(&failed)? {
        return Ok(false);
    }
    let names = fs::list(&dir).await.map_err(&failed)?;
    Ok(names.iter().any(|name| *name != CATALOG_SHARD.to_string()))
}

/// Every request of the node may wait for the same shard: the receivers' budget, which makes
/// clients slow down, fills before the queue, which refuses.
pub(crate) fn waiting_bytes_max(options: &BrokerOptions) -> usize {
    let request_bytes = usize::try_from(options.request_bytes).unwrap_or(usize::MAX);
    request_bytes.saturating_add(WAITING_OVERHEAD_BYTES)
}

pub(crate) fn log_options(
    options: &BrokerOptions,
    shard: ShardId,
    shards_of_core: usize,
) -> Options {
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

pub(crate) fn checkpoint_bytes(options: &BrokerOptions) -> u64 {
    let (least, most) = options.checkpoint_bytes.clone().into_inner();
    (options.segment_bytes / 2).max(least).min(most)
}

/// Where a shard lies.
pub(crate) fn shard_path(options: &BrokerOptions, shard: ShardId) -> PathBuf {
    options.data_dir.join(SHARDS_DIR).join(shard.to_string())
}

/// Makes the place where a shard lies, if it is missing.
pub(crate) async fn make_shard_dir(
    options: &BrokerOptions,
    shard: ShardId,
) -> Result<(), StartError> {
    let dir = shard_path(options, shard);
    let failed = |source| StartError::Io { action: "create", path: dir.clone(), source };
    fs::create_dir_all(&dir).await.map_err(failed)?;
    // The shard's log makes its own folder's name durable; the name of the folder around all
    // shards is this one's to keep.
    fs::sync_dir(&options.data_dir).await.map_err(failed)
}
