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
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;
use std::time::Duration;

use barrage_cluster::beacon;
use barrage_model::{LogIndex, NodeId, ShardId, Term};
use barrage_raft::{Ballot, Content, Held, OpenError, Role, SeedError, Status};
use barrage_world::{Instant, planted, sleep, spawn, timeout};

use crate::beacons::now_ms;
use crate::broker::Broker;
use crate::core::Core;
use crate::home::FOUNDER;
use crate::shard::Shard;
use crate::shard::handle::{ShardOptions, first_of};
use crate::start::{self, StartError};

/// How often it is looked at whether a replica is not needed any more.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);
/// A copy goes when for so long its group has done without it.
const UNNEEDED_FOR: Duration = Duration::from_millis(2 * beacon::PRESENT_MS);
/// How long a damaged copy tells that it is, before it may go.
const CLAIM_FOR: Duration = Duration::from_secs(2);
/// How often a damaged copy that is not spare gives its lead away.
const LEAD_PAUSE: Duration = Duration::from_secs(5);
/// What may be under way when a replica is closed.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(5);

/// Why a replica is not there yet.
#[derive(Debug, thiserror::Error)]
enum BringIn {
    #[error(transparent)]
    Folder(#[from] StartError),
    #[error(transparent)]
    Copy(#[from] SeedError),
    #[error(transparent)]
    Open(#[from] OpenError),
}

impl BringIn {
    fn is_damage(&self) -> bool {
        matches!(self, Self::Open(error) if Shard::is_damage(error))
    }
}

/// Where a leader stands that has something to commit.
fn stuck_at(status: &Status) -> Option<(Term, Option<LogIndex>)> {
    let committed = status.committed.as_ref().map(|id| id.index);
    let waits = status.role == Role::Leader && status.last_index > committed;
    waits.then_some((status.term, committed))
}

async fn set_damaged_aside(options: &ShardOptions) {
    if let Err(error) = options.folder().set_damaged_aside(Held::Unknown).await {
        tracing::error!(shard = %options.log.shard, %error, "a damaged copy cannot be replaced");
    }
}

/// A replica on its way.
#[derive(Clone, Default)]
pub(crate) struct Opening {
    /// Payload bytes copied so far.
    pub(crate) bytes: Rc<Cell<u64>>,
    /// Votes for it until it is whole.
    pub(crate) ballot: Rc<Ballot>,
}

/// What stands where a replica belongs.
pub(crate) enum Place {
    /// It is being closed, or made whole.
    Opening(Opening),
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

    /// At start: opens what lies on the disk, and on a founder what is to lie there. What is not
    /// whole is made so later, while the node serves.
    pub(crate) async fn open_shards(self: &Rc<Self>) -> Result<(), StartError> {
        let catalog = self.catalog();
        let own: Vec<ShardId> = (1..=catalog.shards())
            .map(ShardId)
            .filter(|shard| self.core_of(*shard) == self.id)
            .collect();
        let count = own.len();
        for id in own {
            let options = self.shard_options(id, count);
            let holders = catalog.nodes().assignment().get(&id);
            let alone = holders.is_some_and(|holders| **holders == [self.node()]);
            // See the invariant above. What was here once left a mark behind.
            let founding = self.node() == FOUNDER && alone;
            match options.content().await? {
                Content::Whole => self.open_or_repair(options, alone).await?,
                Content::Empty if founding => {
                    let opened = Shard::open(options, true).await;
                    let shard = opened.map_err(|source| StartError::Shard { shard: id, source })?;
                    self.add_shard(shard);
                }
                Content::Empty | Content::Incomplete => {}
            }
        }
        Ok(())
    }

    /// Opens a replica. One with a damaged log is set aside and copied anew where others have it;
    /// a replica that nobody else has is not touched, and the node does not start.
    async fn open_or_repair(
        self: &Rc<Self>,
        options: ShardOptions,
        alone: bool,
    ) -> Result<(), StartError> {
        let (id, folder) = (options.log.shard, options.folder());
        let error = match Shard::open(options, false).await {
            Ok(shard) => {
                self.add_shard(shard);
                return Ok(());
            }
            Err(error) => error,
        };
        if alone || !Shard::is_damage(&error) {
            return Err(StartError::Shard { shard: id, source: error });
        }
        match folder.set_damaged_aside(Held::Unknown).await {
            Ok(path) => {
                let path = path.display();
                tracing::error!(shard = %id, %error, %path, "damaged: copied anew from its peers");
                Ok(())
            }
            Err(refused) => {
                tracing::error!(shard = %id, error = %refused, "a damaged copy cannot be replaced");
                Err(StartError::Shard { shard: id, source: error })
            }
        }
    }

    fn shard_options(&self, id: ShardId, shards_of_core: usize) -> ShardOptions {
        ShardOptions {
            node: self.node(),
            dir: start::shard_path(&self.options, id),
            log: start::log_options(&self.options, id, shards_of_core),
            checkpoint_bytes: start::checkpoint_bytes(&self.options),
            waiting_bytes_max: start::waiting_bytes_max(&self.options),
            timing: self.options.timing.clone(),
            peers: Rc::clone(&self.peers),
        }
    }

    /// Puts an opened shard into service.
    fn add_shard(self: &Rc<Self>, shard: Shard) {
        let watched = shard.clone();
        let core = Rc::clone(self);
        drop(spawn(async move {
            let reason = watched.group().failed().await;
            // This copy is made anew: see `watch_for_repair`.
            if watched.died_of_damage() {
                return;
            }
            core.fail(format!("shard {}: {reason}", watched.id()));
        }));
        drop(spawn(Rc::clone(self).watch_for_repair(shard.clone())));
        drop(spawn(shard.clone().keep_scrubbing()));
        drop(spawn(shard.clone().keep_comparing()));
        drop(spawn(shard.clone().keep_time()));
        drop(spawn(shard.clone().read_delayed()));
        drop(spawn(shard.clone().release_delayed()));
        drop(spawn(shard.clone().expire_old()));
        drop(spawn(Broker { core: Rc::clone(self) }.keep_burying(shard.clone())));
        drop(spawn(shard.clone().keep_retention(self.options.retention_tick)));
        drop(spawn(shard.clone().keep_reclaiming()));
        drop(spawn(Rc::clone(self).keep_members(shard.group().clone())));
        drop(spawn(Rc::clone(self).keep_telling_leads(shard.group().clone())));
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
                let opening = Opening::default();
                self.places.borrow_mut().insert(shard, Place::Opening(opening.clone()));
                drop(spawn(Rc::clone(&self).bring_in(shard, opening)));
            }
            // What was heard may be older than the catalog; that it goes on being so is not.
            let unneeded = self.given_up();
            since.retain(|shard, _| unneeded.contains(shard));
            for shard in unneeded {
                let first = *since.entry(shard).or_insert_with(Instant::now);
                // Dismantling another one took a while: this one may be counted again.
                if first.elapsed() >= UNNEEDED_FOR && self.given_up().contains(&shard) {
                    self.dismantle(shard).await;
                }
            }
            timeout(LOOK_INTERVAL, catalog.changed()).await.ok();
        }
    }

    /// Makes a replica whole and opens it.
    async fn bring_in(self: Rc<Self>, id: ShardId, opening: Opening) {
        let options = self.shard_options(id, self.assigned_here().len());
        let sources = || self.sources(id);
        loop {
            let opened = async {
                start::make_shard_dir(&self.options, id).await?;
                // Wrong when planted: it votes, and holds nothing of what came before.
                let is_whole = options.content().await? == Content::Whole;
                if !is_whole && !planted("broker-copy-opened-before-whole") {
                    options.make_whole(sources, &opening).await?;
                }
                Ok::<_, BringIn>(Shard::open(options.clone(), false).await?)
            };
            match opened.await {
                Ok(shard) if self.is_closing.get() => {
                    shard.group().shutdown().await;
                    return;
                }
                Ok(shard) => {
                    tracing::info!(shard = %id, bytes = opening.bytes.get(), "a copy is whole");
                    return self.add_shard(shard);
                }
                Err(error) => {
                    tracing::error!(shard = %id, %error, "a copy cannot be made, tried again");
                    if error.is_damage() && !sources().is_empty() {
                        // Damaged since it was whole, and whole where it came from.
                        set_damaged_aside(&options).await;
                    }
                    sleep(LOOK_INTERVAL * 5).await;
                }
            }
        }
    }

    /// Who may have a shard: those assigned, and those who are said to vote.
    fn sources(&self, shard: ShardId) -> Vec<NodeId> {
        let catalog = self.catalog();
        let mut nodes: Vec<NodeId> = self.leading_node(shard).into_iter().collect();
        nodes.extend(catalog.nodes().assignment().get(&shard).into_iter().flatten());
        if let Some((_, row)) = self.board.borrow().leading(shard, now_ms()) {
            nodes.extend(&row.voters);
        }
        let mut seen = BTreeSet::new();
        nodes.retain(|node| *node != self.node() && seen.insert(*node));
        nodes
    }

    /// A replica that was away for longer than its peers keep entries, or is damaged, is closed and
    /// copied anew.
    async fn watch_for_repair(self: Rc<Self>, shard: Shard) {
        let id = shard.id();
        let damage = Cell::new(None);
        let damaged = async { damage.set(Some(shard.damaged().await)) };
        first_of(shard.group().needs_seed(), damaged).await;
        let damage = damage.take();
        if damage.is_some() {
            // Everybody hears of it before anybody goes: of two that are damaged one goes first.
            sleep(CLAIM_FOR).await;
            let mut before = None;
            loop {
                if shard.died_of_damage() {
                    // It takes part in nothing any more: the others do without it already.
                    break;
                }
                if shard.group().is_over() {
                    return;
                }
                shard.group().stand_back(false);
                // Whoever is copied is copied from the leader: it must not be this one.
                timeout(CLOSE_TIMEOUT, self.hand_over_lead(shard.group())).await.ok();
                // One that nobody can take over from may lead without end and commit nothing: what
                // cannot be read here is what the others need first (`queue` seed 801330). Now and
                // then it makes room for somebody else; not for good, as it may be the only one
                // that can lead.
                let now = stuck_at(&shard.group().status());
                let is_stuck = now.is_some() && before == now;
                shard.group().stand_back(is_stuck);
                before = now.filter(|_| !is_stuck);
                // The others must do without this copy meanwhile.
                if self.board.borrow().is_spare(self.node(), id, now_ms()) {
                    break;
                }
                sleep(LEAD_PAUSE).await;
            }
        }
        if self.is_closing.get() || !self.take_out(id) {
            return;
        }
        tracing::warn!(shard = %id, ?damage, "this copy is made anew");
        shard.shutdown(Instant::now() + CLOSE_TIMEOUT).await;
        let held = shard.group().held();
        drop(shard);
        let folder = self.shard_options(id, 1).folder();
        loop {
            let set_aside = match damage {
                None => folder.mark_incomplete(held).await,
                Some(_) => folder.set_damaged_aside(held).await.map(drop),
            };
            match set_aside {
                Ok(()) => break,
                Err(_) if self.is_closing.get() => return,
                // It is closed, the others do without it: there is time until the disk has room.
                Err(error) if error.is_disk_full() => {
                    tracing::warn!(shard = %id, %error, "this copy waits for room on the disk");
                    sleep(LEAD_PAUSE).await;
                }
                Err(error) => return self.fail(format!("shard {id}: {error}")),
            }
        }
        // If it is still assigned, it is brought in with the next look.
        self.places.borrow_mut().remove(&id);
        self.news.notify_all();
    }

    /// Takes an open replica out of service. Its place stays taken until its folder is what it is
    /// to be: opened by somebody else meanwhile, two logs would write to the same files.
    fn take_out(&self, id: ShardId) -> bool {
        let mut places = self.places.borrow_mut();
        let open = places.get(&id).and_then(Place::shard).is_some();
        if open {
            places.insert(id, Place::Opening(Opening::default()));
        }
        open
    }

    /// Votes for a replica that is not whole yet.
    pub(crate) fn ballot(&self, id: ShardId) -> Option<Rc<Ballot>> {
        match self.places.borrow().get(&id)? {
            Place::Opening(opening) => Some(Rc::clone(&opening.ballot)),
            Place::Open(_) => None,
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
        // Who shuts all of them down is at this one, too.
        if self.is_closing.get() {
            return;
        }
        let Some(shard) = self.shard_by_id(id).filter(|_| self.take_out(id)) else { return };
        tracing::info!(shard = %id, "other nodes hold it now; the copy here goes");
        shard.shutdown(Instant::now() + CLOSE_TIMEOUT).await;
        drop(shard);
        if let Err(error) = self.shard_options(id, 1).folder().dismantle().await {
            tracing::warn!(shard = %id, %error, "its files could not be removed");
        }
        self.places.borrow_mut().remove(&id);
        self.news.notify_all();
    }
}
