//! One core of the broker: the replicas it carries, its copies of the catalog and of what was
//! heard of the nodes, and what it does for itself and for others.
//!
//! ```text
//!   first core --Catalog, Board--> every core: takes the copies
//!   every core --Report----------> first core: what its replicas are
//!   any core --Produce, Fetch, ...--> the shard's core = shard % cores: does it, answers
//! ```
//!
//! Owns: which replicas live here, the copies.
//! Must never: reach into another core; everything crosses by message.
//! Invariants: the catalog copy's revision only grows; a shard is asked only on the core that
//! carries it.

use std::cell::{Cell, OnceCell, RefCell};
use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::Arc;

use barrage_cluster::Catalog;
use barrage_cluster::beacon::{Board, Replica};
use barrage_cluster::message::Bounds;
use barrage_model::{CoreId, NodeId, PartitionKey, ProducerId, ShardId};
use barrage_raft::Peers;
use barrage_world::channel::{Event, Mutex, watch};
use barrage_world::mailbox::MailboxReceiver;
use barrage_world::{Instant, planted, spawn, yield_if_needed};

use crate::api::{CoreStats, FetchError, Leader, ProduceError};
use crate::catalog_shard::CatalogShard;
use crate::control::ControlLink;
use crate::door::CheckedBatch;
use crate::home::{Home, Identity};
use crate::message::{Crossed, CrossedLeases, Message, Reply, Request, RequestId};
use crate::options::BrokerOptions;
use crate::replicas::Place;
use crate::reply::{ProduceReply, Way};
use crate::router::{Link, Router};
use crate::shard::Shard;
use crate::shard::entry::WaitingBatch;

/// The catalog's shard.
pub(crate) const CATALOG_SHARD: ShardId = ShardId(0);
/// The first core: the catalog's.
pub(crate) const CATALOG_CORE: CoreId = CoreId(0);

/// A block of producer ids that this core gives out.
#[derive(Debug, Default)]
pub(crate) struct ProducerBlock {
    pub(crate) next: ProducerId,
    pub(crate) left: u32,
}

/// What another core has told the first one.
#[derive(Debug, Default)]
pub(crate) struct Report {
    pub(crate) revision: u64,
    pub(crate) replicas: Vec<Replica>,
}

/// One core.
pub(crate) struct Core {
    pub(crate) id: CoreId,
    pub(crate) options: BrokerOptions,
    pub(crate) router: Router,
    pub(crate) identity: Identity,
    pub(crate) peers: Rc<dyn Peers>,
    /// On the first core, until its planning begins: the way to the control plane, if there is one.
    pub(crate) control: Cell<Option<ControlLink>>,
    /// On the first core only.
    pub(crate) catalog_shard: OnceCell<CatalogShard>,
    pub(crate) producers: Mutex<ProducerBlock>,
    pub(crate) connections: Cell<u64>,
    pub(crate) failure: RefCell<Option<String>>,
    pub(crate) failed: Event,
    /// The node is about to stop: it leads nothing any more.
    pub(crate) is_leaving: Cell<bool>,
    pub(crate) is_closing: Cell<bool>,
    /// Given back when this core's shards are closed.
    pub(crate) home: RefCell<Option<Arc<Home>>>,
    pub(crate) places: RefCell<BTreeMap<ShardId, Place>>,
    /// On the first core: what each core has told, by core.
    pub(crate) reports: RefCell<Vec<Report>>,
    /// A replica of this core is not what it was.
    pub(crate) news: Event,
    /// On the first core: a report has come.
    pub(crate) news_for_others: Event,
    catalog: watch::Sender<Arc<Catalog>>,
    pub(crate) board: watch::Sender<Arc<Board>>,
}

impl Core {
    pub(crate) fn new(
        id: CoreId,
        options: BrokerOptions,
        router: Router,
        home: Arc<Home>,
        peers: Rc<dyn Peers>,
        control: Option<ControlLink>,
    ) -> Self {
        let reports = (0..options.cores).map(|_| Report::default()).collect();
        Self {
            id,
            options,
            router,
            identity: home.identity().clone(),
            peers,
            control: Cell::new(control),
            catalog_shard: OnceCell::new(),
            producers: Mutex::new(ProducerBlock::default()),
            connections: Cell::new(0),
            failure: RefCell::new(None),
            failed: Event::new(),
            is_leaving: Cell::new(false),
            is_closing: Cell::new(false),
            home: RefCell::new(Some(home)),
            places: RefCell::new(BTreeMap::new()),
            reports: RefCell::new(reports),
            news: Event::new(),
            news_for_others: Event::new(),
            catalog: watch::channel(Arc::new(Catalog::new())).0,
            board: watch::channel(Arc::new(Board::default())).0,
        }
    }

    /// This core does not touch the data directory any more.
    pub(crate) fn leave_home(&self) {
        self.home.take();
    }

    /// This node.
    pub(crate) fn node(&self) -> NodeId {
        self.identity.node
    }

    /// The core of this node that carries a shard.
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

    /// The core of this node and the shard of a partition.
    pub(crate) fn place(&self, key: PartitionKey) -> Option<(CoreId, ShardId)> {
        let catalog = self.catalog.borrow();
        let shard = catalog.topic(key.topic)?.shard_of(key.partition)?;
        Some((self.core_of(shard), shard))
    }

    /// The data shards that are open on this core.
    pub(crate) fn shards(&self) -> Vec<Shard> {
        self.places.borrow().values().filter_map(Place::shard).cloned().collect()
    }

    /// A data shard, if it is open on this core.
    pub(crate) fn shard_by_id(&self, shard: ShardId) -> Option<Shard> {
        self.places.borrow().get(&shard).and_then(Place::shard).cloned()
    }

    /// The shard of a partition, if it is open on this core.
    pub(crate) fn shard(&self, key: PartitionKey) -> Result<Shard, FetchError> {
        let (_, shard) = self.place(key).ok_or(FetchError::UnknownPartition)?;
        self.shard_by_id(shard).ok_or(FetchError::NotLeader { hint: None })
    }

    /// Where else a partition is led, as far as it is known here. A leader that was cut off may
    /// still take itself for one: it had better name nobody.
    pub(crate) fn hint(&self, key: PartitionKey) -> Option<Leader> {
        let (_, shard) = self.place(key)?;
        self.hint_of(shard)
    }

    /// As [`Self::hint`], for what is led beside a shard.
    pub(crate) fn hint_of(&self, shard: ShardId) -> Option<Leader> {
        // Wrong when planted: a client goes round in circles.
        let may_be_here = planted("broker-hint-to-itself");
        self.leader_of(shard).filter(|leader| leader.node != self.node() || may_be_here)
    }

    /// Something on this core has failed for good; the first reason counts.
    pub(crate) fn fail(&self, reason: String) {
        self.failure.borrow_mut().get_or_insert(reason);
        self.failed.notify_all();
    }

    /// Waits until something on this core has failed for good, and says what.
    pub(crate) async fn failed(&self) -> String {
        loop {
            let listener = self.failed.listen();
            if let Some(reason) = self.failure.borrow().clone() {
                return reason;
            }
            listener.await;
        }
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

    /// Bounds of partitions that this core leads; `None` for those that it does not.
    pub(crate) async fn describe_here(&self, keys: &[PartitionKey]) -> Vec<Option<Bounds>> {
        let mut confirmed = BTreeMap::new();
        let mut found = Vec::with_capacity(keys.len());
        for key in keys {
            let Ok(shard) = self.shard(*key) else {
                found.push(None);
                continue;
            };
            let leads = match confirmed.get(&shard.id()) {
                Some(leads) => *leads,
                None => shard.confirm().await.is_ok(),
            };
            confirmed.insert(shard.id(), leads);
            found.push(shard.bounds(*key).ok().filter(|_| leads));
        }
        found
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
                    Message::Request { id, request } => self.serve(&link, from, id, request),
                }
            }
            yield_if_needed().await;
        }
    }

    /// Does what another core asks. What needs no waiting is done at once, in order.
    fn serve(self: &Rc<Self>, link: &Link, from: CoreId, id: RequestId, request: Request) {
        let reply = match request {
            Request::Produce { key, batch, acks, deadline } => {
                let way = Way::There { link: link.clone(), id };
                return self.produce_here(key, batch, deadline, ProduceReply { way, acks });
            }
            Request::Stats => Reply::Stats(self.stats_here()),
            Request::Catalog(catalog) => {
                self.set_catalog(catalog);
                Reply::Taken
            }
            Request::Board(board) => {
                self.board.send_replace(board);
                Reply::Taken
            }
            Request::Report { revision, replicas } => {
                self.take_report(from, Report { revision, replicas });
                Reply::Taken
            }
            slow @ (Request::Fetch(_)
            | Request::Receive { .. }
            | Request::Settle(_)
            | Request::Seek { .. }
            | Request::Counts { .. }
            | Request::Peek { .. }
            | Request::ChangeDelayed(_)
            | Request::Claim(_)
            | Request::Delayed { .. }
            | Request::Stream { .. }
            | Request::ListOffset { .. }
            | Request::Describe { .. }
            | Request::Admin { .. }) => {
                let (core, link) = (Rc::clone(self), link.clone());
                drop(spawn(async move {
                    let reply = core.serve_slowly(slow).await;
                    link.answer(Message::Reply { id, reply });
                }));
                return;
            }
        };
        link.answer(Message::Reply { id, reply });
    }

    async fn serve_slowly(self: Rc<Self>, request: Request) -> Reply {
        match request {
            Request::Describe { keys } => Reply::Describe(self.describe_here(&keys).await),
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
            Request::Receive { request, visibility_ms } => {
                let handed = self.receive_here(&request, visibility_ms).await;
                Reply::Receive(handed.map(|handed| CrossedLeases {
                    leases: handed.leases,
                    // The one copy of crossing cores.
                    batches: handed.batches.iter().map(|slice| slice.to_bytes()).collect(),
                    more: handed.more,
                }))
            }
            Request::Settle(request) => Reply::Settle(self.settle_here(request).await),
            Request::Seek { slot, seek } => Reply::Seek(self.seek_here(slot, seek).await),
            Request::Counts { slot } => Reply::Counts(self.counts_here(slot).await),
            Request::Peek { slot, count_max } => Reply::Peek(self.peek_here(slot, count_max)),
            Request::ChangeDelayed(request) => {
                Reply::ChangeDelayed(self.change_delayed_here(request).await)
            }
            Request::Claim(request) => Reply::Claim(self.claim_here(request).await),
            Request::Delayed { key, count_max } => {
                Reply::Delayed(self.delayed_here(key, count_max).await)
            }
            Request::Stream { shard, request } => {
                Reply::Stream(self.coordinate_here(shard, request).await)
            }
            Request::ListOffset { key, at } => Reply::ListOffset(match self.shard(key) {
                Ok(shard) => shard.list_offset(key, at).await,
                Err(error) => Err(error),
            }),
            Request::Admin { admin, deadline } => {
                Reply::Admin(self.administer(admin, deadline).await)
            }
            // Answered at once, above.
            Request::Produce { .. }
            | Request::Stats
            | Request::Catalog(_)
            | Request::Board(_)
            | Request::Report { .. } => Reply::Taken,
        }
    }
}
