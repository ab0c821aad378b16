//! One core of the broker: its shards, its copy of the catalog, and what it does for itself and for
//! others.
//!
//! ```text
//!   catalog's core --Catalog(view)--> every core: take it, make its shards agree, answer Agreed
//!   any core --Produce, Fetch, ...--> the shard's core = shard % cores: does it, answers
//! ```
//!
//! Owns: which shards live here, the catalog copy and the revision its shards agree with.
//! Must never: reach into another core; everything crosses by message.
//! Invariants: the catalog copy's revision only grows; a shard is asked only on the core that
//! carries it.

use std::cell::{Cell, OnceCell, RefCell};
use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use barrage_cluster::Catalog;
use barrage_model::{CoreId, PartitionKey, ProducerId, ShardId};
use barrage_world::channel::{Event, Mutex, watch};
use barrage_world::fs::DirLock;
use barrage_world::mailbox::MailboxReceiver;
use barrage_world::{Instant, sleep, spawn, yield_if_needed};

use crate::api::{AdminError, CoreStats, FetchError, ProduceError};
use crate::catalog_shard::CatalogShard;
use crate::door::CheckedBatch;
use crate::identity::Identity;
use crate::message::{Bounds, Crossed, Message, Reply, Request, RequestId};
use crate::options::BrokerOptions;
use crate::reply::ProduceReply;
use crate::router::{Hold, Link, Router};
use crate::shard::Shard;
use crate::shard::entry::WaitingBatch;
use crate::shard::reconcile::difference;

/// After a shard could not be made to agree with the catalog (a full disk), the next attempt.
const AGREE_RETRY: Duration = Duration::from_millis(500);

/// A block of producer ids that this core gives out.
#[derive(Debug, Default)]
pub(crate) struct ProducerBlock {
    pub(crate) next: ProducerId,
    pub(crate) left: u32,
}

/// One core.
pub(crate) struct Core {
    pub(crate) id: CoreId,
    pub(crate) options: BrokerOptions,
    pub(crate) router: Router,
    pub(crate) identity: OnceCell<Identity>,
    /// On the first core only.
    pub(crate) catalog_shard: OnceCell<CatalogShard>,
    pub(crate) producers: Mutex<ProducerBlock>,
    pub(crate) connections: Cell<u64>,
    pub(crate) failure: RefCell<Option<String>>,
    pub(crate) failed: Event,
    /// Given back when this core's shards are closed.
    hold: RefCell<Option<Hold>>,
    shards: RefCell<BTreeMap<ShardId, Shard>>,
    catalog: watch::Sender<Arc<Catalog>>,
    agreed: watch::Sender<u64>,
}

impl Core {
    pub(crate) fn new(id: CoreId, options: BrokerOptions, router: Router, hold: Hold) -> Self {
        Self {
            id,
            options,
            router,
            identity: OnceCell::new(),
            catalog_shard: OnceCell::new(),
            producers: Mutex::new(ProducerBlock::default()),
            connections: Cell::new(0),
            failure: RefCell::new(None),
            failed: Event::new(),
            hold: RefCell::new(Some(hold)),
            shards: RefCell::new(BTreeMap::new()),
            catalog: watch::channel(Arc::new(Catalog::new())).0,
            agreed: watch::channel(0).0,
        }
    }

    /// Keeps the data directory's lock, for all cores.
    pub(crate) fn keep_lock(&self, lock: DirLock) {
        if let Some(hold) = &*self.hold.borrow() {
            drop(hold.set(lock));
        }
    }

    /// This core does not touch the data directory any more.
    pub(crate) fn release_lock(&self) {
        self.hold.take();
    }

    /// The core that carries a shard.
    pub(crate) fn core_of(&self, shard: ShardId) -> CoreId {
        let core = shard.0 % u32::from(self.options.cores);
        CoreId(u16::try_from(core).unwrap_or(0))
    }

    /// This core's copy of the catalog.
    pub(crate) fn catalog(&self) -> Arc<Catalog> {
        Arc::clone(&self.catalog.borrow())
    }

    /// Follows the copy.
    pub(crate) fn catalog_watch(&self) -> watch::Receiver<Arc<Catalog>> {
        self.catalog.subscribe()
    }

    /// Takes a newer copy.
    pub(crate) fn set_catalog(&self, newer: Arc<Catalog>) {
        self.catalog.send_if_modified(|current| {
            let grows = newer.revision() > current.revision();
            if grows {
                *current = newer;
            }
            grows
        });
    }

    /// The core and shard of a partition.
    pub(crate) fn place(&self, key: PartitionKey) -> Option<(CoreId, ShardId)> {
        let catalog = self.catalog.borrow();
        let shard = catalog.topic(key.topic)?.shard_of(key.partition)?;
        Some((self.core_of(shard), shard))
    }

    /// Puts an opened shard into service.
    pub(crate) fn add_shard(self: &Rc<Self>, shard: Shard) {
        let watched = shard.clone();
        let core = Rc::clone(self);
        drop(spawn(async move {
            let reason = watched.group().failed().await;
            core.fail(format!("shard {}: {reason}", watched.id()));
        }));
        drop(spawn(shard.clone().keep_retention(self.options.retention_tick)));
        self.shards.borrow_mut().insert(shard.id(), shard);
    }

    /// The shards of this core.
    pub(crate) fn shards(&self) -> Vec<Shard> {
        self.shards.borrow().values().cloned().collect()
    }

    /// The shard of a partition, if it lives here.
    pub(crate) fn shard(&self, key: PartitionKey) -> Result<Shard, FetchError> {
        let (_, shard) = self.place(key).ok_or(FetchError::UnknownPartition)?;
        let found = self.shards.borrow().get(&shard).cloned();
        found.ok_or(FetchError::NotLeader { hint: None })
    }

    /// Something on this core has failed for good; the first reason counts.
    pub(crate) fn fail(&self, reason: String) {
        self.failure.borrow_mut().get_or_insert(reason);
        self.failed.notify_all();
    }

    /// Hands a batch to its shard on this core.
    pub(crate) fn produce_here(
        &self,
        key: PartitionKey,
        batch: CheckedBatch,
        deadline: Instant,
        reply: ProduceReply,
    ) {
        match self.shard(key) {
            Ok(shard) => shard.submit(WaitingBatch { key, batch, deadline, reply }),
            Err(FetchError::NotLeader { hint }) => {
                reply.send(Err(ProduceError::NotLeader { hint }))
            }
            Err(_) => reply.send(Err(ProduceError::UnknownPartition)),
        }
    }

    /// Bounds of partitions on this core; `None` for those it does not have.
    pub(crate) fn describe_here(&self, keys: &[PartitionKey]) -> Vec<Option<Bounds>> {
        keys.iter().map(|key| self.shard(*key).and_then(|shard| shard.bounds(*key)).ok()).collect()
    }

    /// This core's figures.
    pub(crate) fn stats_here(&self) -> CoreStats {
        CoreStats {
            core: self.id,
            mailbox_depth: self.router.depth() as u64,
            memory_bytes: barrage_world::node::memory_resident(),
            memory_budget_bytes: self.options.memory_bytes,
            connections: self.connections.get(),
            shards: self.shards().iter().map(Shard::stats).collect(),
        }
    }

    /// Makes this core's shards agree with each copy of the catalog, for ever.
    pub(crate) async fn keep_agreeing(self: Rc<Self>) {
        let mut watch = self.catalog_watch();
        loop {
            let catalog = Arc::clone(&watch.borrow_and_update());
            let done = self.agree(&catalog).await;
            if done {
                self.agreed.send_if_modified(|agreed| {
                    let grows = *agreed < catalog.revision();
                    *agreed = (*agreed).max(catalog.revision());
                    grows
                });
                if watch.changed().await.is_err() {
                    return;
                }
            } else {
                sleep(AGREE_RETRY).await;
            }
        }
    }

    async fn agree(&self, catalog: &Catalog) -> bool {
        let mut done = true;
        for shard in self.shards() {
            let state = |machine: &crate::shard::machine::ShardMachine| {
                difference(machine.state(), catalog, shard.id())
            };
            let wanted = shard.group().with_machine(state);
            for key in &wanted.orphans {
                let shard = shard.id();
                tracing::warn!(%shard, partition = %key, "unknown to the catalog, kept");
            }
            for command in wanted.commands {
                if let Err(error) = shard.command(command).await {
                    tracing::warn!(shard = %shard.id(), %error, "could not follow the catalog yet");
                    done = false;
                }
            }
        }
        done
    }

    /// Waits until this core's shards agree with this revision of the catalog.
    pub(crate) async fn agreed(&self, revision: u64) {
        // An error means the core is going down: nobody will agree any more, and nobody waits long.
        self.agreed.subscribe().wait_for(|agreed| *agreed >= revision).await.ok();
    }

    /// Receives from one other core until the mailbox ends.
    pub(crate) async fn receive(
        self: Rc<Self>,
        from: CoreId,
        mut mailbox: MailboxReceiver<Message>,
    ) {
        let Some(link) = self.router.link(from) else { return };
        while let Some(messages) = mailbox.recv().await {
            for message in messages {
                match message {
                    Message::Reply { id, reply } => self.router.answered(id, reply),
                    Message::Request { id, request } => self.serve(&link, id, request),
                }
            }
            yield_if_needed().await;
        }
    }

    /// Does what another core asks. Batches are taken up at once, in order; the rest may wait.
    fn serve(self: &Rc<Self>, link: &Link, id: RequestId, request: Request) {
        match request {
            Request::Produce { key, batch, deadline } => {
                let reply = ProduceReply::There { link: link.clone(), id };
                self.produce_here(key, batch, deadline, reply);
            }
            Request::Describe { keys } => {
                let reply = Reply::Describe(self.describe_here(&keys));
                link.answer(Message::Reply { id, reply });
            }
            Request::Stats => {
                let reply = Reply::Stats(self.stats_here());
                link.answer(Message::Reply { id, reply });
            }
            other => {
                let (core, link) = (Rc::clone(self), link.clone());
                drop(spawn(async move {
                    let reply = core.serve_slowly(other).await;
                    link.answer(Message::Reply { id, reply });
                }));
            }
        }
    }

    async fn serve_slowly(self: Rc<Self>, request: Request) -> Reply {
        match request {
            Request::Fetch(request) => {
                let found = match self.shard(request.key) {
                    Ok(shard) => shard.fetch(&request).await,
                    Err(error) => Err(error),
                };
                Reply::Fetch(found.map(|found| Crossed {
                    high_watermark: found.bounds.high_watermark,
                    start_offset: found.bounds.start_offset,
                    // The one copy of crossing cores.
                    batches: found.batches.iter().map(|slice| slice.to_bytes()).collect(),
                }))
            }
            Request::ListOffset { key, at } => Reply::ListOffset(match self.shard(key) {
                Ok(shard) => shard.list_offset(key, at).await,
                Err(error) => Err(error),
            }),
            Request::Admin(admin) => Reply::Admin(self.administer(admin).await),
            Request::Catalog(catalog) => {
                let revision = catalog.revision();
                self.set_catalog(catalog);
                self.agreed(revision).await;
                Reply::Agreed
            }
            Request::Produce { .. } | Request::Describe { .. } | Request::Stats => {
                Reply::Admin(Err(AdminError::NotLeader))
            }
        }
    }
}
