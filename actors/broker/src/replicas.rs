//! The replicas of this core: opened as the catalog assigns them, dismantled when other nodes hold
//! the shard.
//!
//! ```text
//!   not here --assigned--> opening (made whole by a peer) --> open
//!      ^                                                       | not assigned, and its group
//!      +--------------------- dismantled <---------------------+ does not count it any more
//! ```
//!
//! Owns: which replicas are open, and the tasks beside each of them.
//! Must never: form a group that may exist elsewhere; let a replica take part that is not whole;
//! give up a copy that its group counts.
//! Invariants: a group is formed on the founder only, where nothing of the shard lies yet: before
//! the founder serves, nobody can have joined who might hold it.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::Duration;

use barrage_cluster::beacon;
use barrage_commitlog::Options;
use barrage_model::ShardId;
use barrage_world::{Instant, sleep, spawn, timeout};

use crate::beacons::now_ms;
use crate::core::Core;
use crate::home::FOUNDER;
use crate::shard::Shard;
use crate::shard::handle::ShardOptions;
use crate::start::{self, StartError};

/// How often it is looked at whether a replica is not needed any more.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);
/// A copy goes when for so long its group has done without it.
const UNNEEDED_FOR: Duration = Duration::from_millis(2 * beacon::PRESENT_MS);
/// What may be under way when a replica is closed.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(5);

/// What stands where a replica belongs.
pub(crate) enum Place {
    /// It is being made whole: payload bytes copied so far.
    Opening(Rc<Cell<u64>>),
    /// It takes part.
    Open(Shard),
}

impl Place {
    pub(crate) fn shard(&self) -> Option<&Shard> {
        match self {
            Self::Open(shard) => Some(shard),
            Self::Opening(_) => None,
        }
    }
}

impl Core {
    /// The data shards of this core that this node is to hold.
    fn assigned_here(&self) -> Vec<ShardId> {
        let catalog = self.catalog();
        let here = |shard: &ShardId| {
            *shard != crate::core::CATALOG_SHARD && self.core_of(*shard) == self.id
        };
        let assigned = catalog.nodes().assignment().iter();
        let own = assigned.filter(|(_, holders)| holders.contains(&self.node()));
        own.map(|(shard, _)| *shard).filter(here).collect()
    }

    /// At start: opens what lies on the disk, and on a founder what is to lie there.
    pub(crate) async fn open_shards(self: &Rc<Self>) -> Result<(), StartError> {
        let catalog = self.catalog();
        let own: Vec<ShardId> = (1..=catalog.shards())
            .map(ShardId)
            .filter(|shard| self.core_of(*shard) == self.id)
            .collect();
        let count = own.len();
        for shard in own {
            let dir = start::shard_path(&self.options, shard);
            let is_whole = !Shard::is_incomplete(&dir).await?;
            let holders = catalog.nodes().assignment().get(&shard);
            let alone = holders.is_some_and(|holders| **holders == [self.node()]);
            // See the invariant above. What was here once left a mark behind.
            let founding = self.node() == FOUNDER && alone && Shard::is_unknown(&dir).await?;
            if is_whole || founding {
                let shard = self.open_shard(shard, count, founding).await?;
                self.add_shard(shard);
            }
        }
        Ok(())
    }

    async fn open_shard(
        self: &Rc<Self>,
        id: ShardId,
        shards_of_core: usize,
        founding: bool,
    ) -> Result<Shard, StartError> {
        let options = self.shard_options(id, shards_of_core).await?;
        let opened = Shard::open(options, founding).await;
        opened.map_err(|source| StartError::Shard { shard: id, source })
    }

    async fn shard_options(
        &self,
        id: ShardId,
        shards_of_core: usize,
    ) -> Result<ShardOptions, StartError> {
        let log: Options = start::log_options(&self.options, id, shards_of_core);
        Ok(ShardOptions {
            node: self.node(),
            dir: start::shard_dir(&self.options, id).await?,
            log,
            checkpoint_bytes: start::checkpoint_bytes(&self.options),
            waiting_bytes_max: start::waiting_bytes_max(&self.options),
            timing: self.options.timing.clone(),
            peers: Rc::clone(&self.peers),
        })
    }

    /// Puts an opened shard into service.
    fn add_shard(self: &Rc<Self>, shard: Shard) {
        let watched = shard.clone();
        let core = Rc::clone(self);
        drop(spawn(async move {
            let reason = watched.group().failed().await;
            core.fail(format!("shard {}: {reason}", watched.id()));
        }));
        drop(spawn(shard.clone().keep_retention(self.options.retention_tick)));
        drop(spawn(Rc::clone(self).keep_members(shard.group().clone())));
        drop(spawn(Rc::clone(self).keep_agreeing(shard.clone())));
        self.places.borrow_mut().insert(shard.id(), Place::Open(shard));
        self.news.notify_all();
    }

    /// Opens what the catalog assigns to this node and closes what others hold, for ever.
    pub(crate) async fn keep_replicas(self: Rc<Self>) {
        let mut catalog = self.catalog_watch();
        let mut since: BTreeMap<ShardId, Instant> = BTreeMap::new();
        while !self.is_closing.get() {
            drop(catalog.borrow_and_update());
            for shard in self.assigned_here() {
                if self.places.borrow().contains_key(&shard) {
                    continue;
                }
                let bytes = Rc::new(Cell::new(0));
                self.places.borrow_mut().insert(shard, Place::Opening(Rc::clone(&bytes)));
                drop(spawn(Rc::clone(&self).bring_in(shard, bytes)));
            }
            // What was heard may be older than the catalog; that it goes on being so is not.
            let unneeded = self.given_up();
            since.retain(|shard, _| unneeded.contains(shard));
            for shard in unneeded {
                let first = *since.entry(shard).or_insert_with(Instant::now);
                if first.elapsed() >= UNNEEDED_FOR {
                    self.dismantle(shard).await;
                }
            }
            timeout(LOOK_INTERVAL, catalog.changed()).await.ok();
        }
    }

    /// Makes a replica whole and opens it.
    async fn bring_in(self: Rc<Self>, id: ShardId, bytes: Rc<Cell<u64>>) {
        let count = self.assigned_here().len();
        loop {
            let opened = async {
                let options = self.shard_options(id, count).await?;
                let _ = (&options, &bytes);
                self.open_shard(id, count, false).await
            };
            match opened.await {
                Ok(shard) if self.is_closing.get() => {
                    shard.group().shutdown().await;
                    return;
                }
                Ok(shard) => {
                    tracing::info!(shard = %id, bytes = bytes.get(), "a copy is whole");
                    return self.add_shard(shard);
                }
                Err(error) => {
                    tracing::error!(shard = %id, %error, "a copy cannot be made, tried again");
                    sleep(LOOK_INTERVAL * 5).await;
                }
            }
        }
    }

    /// Open replicas that this node is not to hold, and whose groups do not count on it.
    fn given_up(&self) -> Vec<ShardId> {
        let assigned = self.assigned_here();
        let board = self.board.borrow();
        let is_counted = |shard: ShardId| {
            let Some((leader, row)) = board.leading(shard, now_ms()) else { return true };
            let node = self.node();
            leader == node || row.voters.contains(&node) || row.learners.contains(&node)
        };
        let places = self.places.borrow();
        let open = places.iter().filter(|(_, place)| place.shard().is_some());
        let unassigned = open.map(|(shard, _)| *shard).filter(|shard| !assigned.contains(shard));
        unassigned.filter(|shard| !is_counted(*shard)).collect()
    }

    async fn dismantle(&self, id: ShardId) {
        let Some(Place::Open(shard)) = self.places.borrow_mut().remove(&id) else { return };
        tracing::info!(shard = %id, "other nodes hold it now; the copy here goes");
        shard.shutdown(Instant::now() + CLOSE_TIMEOUT).await;
        drop(shard);
        let dir = start::shard_path(&self.options, id);
        if let Err(error) = Shard::dismantle(&dir, id).await {
            tracing::warn!(shard = %id, %error, "its files could not be removed");
        }
        self.news.notify_all();
    }
}
