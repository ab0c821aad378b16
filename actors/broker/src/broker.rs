//! The broker of one core: the only thing a gateway talks to.
//!
//! A [`Broker`] finds the shard of a request in the catalog and asks it, here or by one mailbox hop
//! to the core that carries it. It never opens a batch beyond the envelope check at the door, and
//! knows no protocol.
//!
//! Requests are taken up in the order of the calls: `produce` hands its batch on before it returns,
//! so two calls for one partition are appended in call order, whatever order their futures are
//! awaited in. Dropping a returned future does not take the request back.

use std::collections::BTreeMap;
use std::future::Future;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use barrage_cluster::message::{Answer as NodeAnswer, Bounds, Message};
use barrage_cluster::{Catalog, Topic};
use barrage_model::{
    CoreId, NodeId, PartitionId, PartitionKey, ProducerEpoch, ProducerId, ShardId, TopicName,
};
use barrage_raft::{NoPeers, Peers};
use barrage_world::channel::oneshot;
use barrage_world::{Instant, planted, sleep, spawn, timeout};
use bytes::Bytes;

use crate::api::{
    AdminError, At, CoreStats, FetchError, FetchRequest, Fetched, FetchedBytes, Leader,
    ListedOffset, Metadata, PartitionDescription, PartitionInfo, ProduceError, ProduceRequest,
    Produced, ProducerIdentity, TopicChange, TopicDescription, TopicInfo, TopicMetadata, TopicSpec,
};
use crate::cluster::{ClusterChange, ClusterChanged, ClusterDescription};
use crate::core::{CATALOG_CORE, Core};
use crate::door::CheckedBatch;
use crate::home::Home;
use crate::message::{Admin, AdminReply, Reply, Request};
use crate::nodes::PeerRefusal;
use crate::options::BrokerOptions;
use crate::reply::{ProduceReply, ProduceResult, Way};
use crate::router::{CoreLinks, Router};

pub use crate::start::StartError;

/// Producer ids fetched from the catalog at a time.
const PRODUCERS_PER_BLOCK: u32 = 1000;
/// While a partition cannot be described it is tried again after this.
const DESCRIBE_RETRY: Duration = Duration::from_millis(20);
/// How long another node may take to tell the bounds of partitions.
const DESCRIBE_DEADLINE: Duration = Duration::from_secs(5);
/// How long handing over leads may take.
const HAND_OVER_TIMEOUT: Duration = Duration::from_secs(1);
/// How much later than a deadline the first core's own word of it may come.
const DEADLINE_GRACE: Duration = Duration::from_millis(200);

/// Handle of one core's broker; clones are the same broker.
#[derive(Clone)]
pub struct Broker {
    pub(crate) core: Rc<Core>,
}

/// How the answer to a produce arrives.
enum Answer {
    Now(ProduceError),
    Here(oneshot::Receiver<ProduceResult>),
    There(oneshot::Receiver<Reply>),
}

impl Broker {
    /// The mailboxes between `cores` cores, one [`CoreLinks`] per core in order, and the node's
    /// data directory.
    pub fn mesh(cores: u16, home: Home) -> Vec<CoreLinks> {
        CoreLinks::mesh(cores, home)
    }

    /// A core that carries nothing yet. `peers` leads to the other nodes. Every core of the node
    /// makes its own with the same options and its own links.
    pub fn new(
        options: BrokerOptions,
        mut links: CoreLinks,
        peers: Rc<dyn Peers>,
    ) -> Result<Self, StartError> {
        if links.cores() != usize::from(options.cores) {
            return Err(StartError::Links { links: links.cores(), options: options.cores });
        }
        let receivers = links.take_receivers();
        let router = Router::new(&links);
        let (home, control) = (links.home(), links.take_control());
        let core = Rc::new(Core::new(links.core(), options, router, home, peers, control));
        for (from, mailbox) in receivers {
            drop(spawn(Rc::clone(&core).receive(from, mailbox)));
        }
        Ok(Self { core })
    }

    /// Opens what this core carries and starts serving it; answers when this core is ready.
    /// Meanwhile [`Broker::answer_peer`] must be at work: a node that joins waits to be found. The
    /// first core also opens the catalog.
    pub async fn open(&self) -> Result<(), StartError> {
        crate::start::open(&self.core).await
    }

    /// [`Broker::new`] and [`Broker::open`] of a node that has no peers.
    pub async fn start(options: BrokerOptions, links: CoreLinks) -> Result<Self, StartError> {
        let broker = Self::new(options, links, Rc::new(NoPeers))?;
        broker.open().await?;
        Ok(broker)
    }

    /// The node's id, from its data directory.
    pub fn node(&self) -> NodeId {
        self.core.node()
    }

    /// The cluster's identity.
    pub fn cluster(&self) -> String {
        self.core.identity.cluster.clone()
    }

    /// Answers another node's request for a shard of this core. Requests of one node are handed
    /// over in the order they came.
    pub fn answer_peer(
        &self,
        shard: ShardId,
        from: NodeId,
        request: Bytes,
    ) -> impl Future<Output = Result<Bytes, PeerRefusal>> + 'static {
        Rc::clone(&self.core).answer_peer(shard, from, request)
    }

    /// This core.
    pub fn core(&self) -> CoreId {
        self.core.id
    }

    /// Appends one batch. The request is taken up before this returns; the future only waits for
    /// the answer.
    pub fn produce(
        &self,
        request: ProduceRequest,
    ) -> impl Future<Output = Result<Produced, ProduceError>> + 'static {
        let (core, key) = (Rc::clone(&self.core), request.key);
        let answer = self.take_up(request);
        async move {
            let result = match answer {
                Answer::Now(error) => Err(error),
                Answer::Here(receiver) => receiver.await.unwrap_or(Err(ProduceError::ShuttingDown)),
                Answer::There(receiver) => match receiver.await {
                    Ok(Reply::Produce(result)) => result,
                    _ => Err(ProduceError::ShuttingDown),
                },
            };
            match result {
                Err(ProduceError::NotLeader { hint: None }) => {
                    Err(ProduceError::NotLeader { hint: core.hint(key) })
                }
                other => other,
            }
        }
    }

    fn take_up(&self, request: ProduceRequest) -> Answer {
        let ProduceRequest { mut key, batch, delay, acks, deadline } = request;
        if planted("broker-wrong-partition") {
            // Wrong: records lie where nobody looks for them.
            key.partition = PartitionId(key.partition.0 & !1);
        }
        let Some((core, _)) = self.core.place(key) else {
            return Answer::Now(ProduceError::UnknownPartition);
        };
        let checked = CheckedBatch::check(batch).and_then(|batch| batch.delayed(delay));
        let batch = match checked {
            Ok(batch) => batch,
            Err(error) => return Answer::Now(error),
        };
        if core == self.core.id {
            let (sender, receiver) = oneshot::channel();
            let reply = ProduceReply { way: Way::Here(sender), acks };
            self.core.produce_here(key, batch, deadline, reply);
            return Answer::Here(receiver);
        }
        match self.core.router.request(core, Request::Produce { key, batch, acks, deadline }) {
            Ok(receiver) => Answer::There(receiver),
            Err(_) => Answer::Now(ProduceError::QueueFull),
        }
    }

    /// Reads batches from an offset on; waits until `wait_until` for `bytes_min` bytes.
    /// Cancel-safe.
    pub async fn fetch(&self, request: FetchRequest) -> Result<Fetched, FetchError> {
        let key = request.key;
        self.fetch_anywhere(request).await.map_err(|error| self.with_hint(key, error))
    }

    fn with_hint(&self, key: PartitionKey, error: FetchError) -> FetchError {
        match error {
            FetchError::NotLeader { hint: None } => {
                FetchError::NotLeader { hint: self.core.hint(key) }
            }
            other => other,
        }
    }

    async fn fetch_anywhere(&self, request: FetchRequest) -> Result<Fetched, FetchError> {
        let (core, _) = self.core.place(request.key).ok_or(FetchError::UnknownPartition)?;
        if core == self.core.id {
            let found = self.core.shard(request.key)?.fetch(&request).await?;
            return Ok(Fetched {
                high_watermark: found.bounds.high_watermark,
                start_offset: found.bounds.start_offset,
                batches: found.batches.into_iter().map(FetchedBytes::Local).collect(),
            });
        }
        match self.ask(core, Request::Fetch(request)).await {
            Some(Reply::Fetch(crossed)) => crossed.map(|crossed| Fetched {
                high_watermark: crossed.high_watermark,
                start_offset: crossed.start_offset,
                batches: crossed.batches.into_iter().map(FetchedBytes::Crossed).collect(),
            }),
            _ => Err(FetchError::QueueFull),
        }
    }

    /// Finds an offset by meaning.
    pub async fn list_offset(
        &self,
        key: PartitionKey,
        at: At,
        deadline: Instant,
    ) -> Result<ListedOffset, FetchError> {
        let listed = self.list_offset_anywhere(key, at, deadline).await;
        listed.map_err(|error| self.with_hint(key, error))
    }

    async fn list_offset_anywhere(
        &self,
        key: PartitionKey,
        at: At,
        deadline: Instant,
    ) -> Result<ListedOffset, FetchError> {
        let (core, _) = self.core.place(key).ok_or(FetchError::UnknownPartition)?;
        if core == self.core.id {
            return self.core.shard(key)?.list_offset(key, at).await;
        }
        let asked =
            timeout(deadline - Instant::now(), self.ask(core, Request::ListOffset { key, at }));
        match asked.await {
            Ok(Some(Reply::ListOffset(listed))) => listed,
            _ => Err(FetchError::QueueFull),
        }
    }

    /// Makes a topic; answers when every partition is open on its shard and every core knows the
    /// topic.
    pub async fn create_topic(
        &self,
        spec: TopicSpec,
        deadline: Instant,
    ) -> Result<TopicInfo, AdminError> {
        self.change_topic(Admin::Create(spec), deadline).await
    }

    /// Changes a topic; answers when every partition goes by it.
    pub async fn alter_topic(
        &self,
        name: TopicName,
        change: TopicChange,
        deadline: Instant,
    ) -> Result<TopicInfo, AdminError> {
        self.change_topic(Admin::Alter { name, change }, deadline).await
    }

    /// Deletes a topic; answers when every partition is closed.
    pub async fn delete_topic(&self, name: TopicName, deadline: Instant) -> Result<(), AdminError> {
        self.administer(Admin::Delete { name }, deadline).await.map(drop)
    }

    async fn change_topic(&self, admin: Admin, deadline: Instant) -> Result<TopicInfo, AdminError> {
        match self.administer(admin, deadline).await? {
            AdminReply::Topic(topic) => Ok(info(&topic)),
            _ => Err(AdminError::NotLeader),
        }
    }

    /// Asks the first core, here or there. The change goes on when the deadline passes.
    pub(crate) async fn administer(
        &self,
        admin: Admin,
        deadline: Instant,
    ) -> Result<AdminReply, AdminError> {
        let asked = async {
            if self.core.id == CATALOG_CORE {
                let core = Rc::clone(&self.core);
                let running = spawn(async move { core.administer(admin, deadline).await });
                return running.await.unwrap_or(Err(AdminError::ShuttingDown));
            }
            let request = Request::Admin { admin, deadline };
            let Ok(answer) = self.core.router.request(CATALOG_CORE, request) else {
                return Err(AdminError::QueueFull);
            };
            match answer.await {
                Ok(Reply::Admin(result)) => result,
                // That core has ended, perhaps after it had carried the change out.
                _ => Err(AdminError::ShuttingDown),
            }
        };
        // The first core knows better why it takes so long, and says so just before.
        let patience = deadline - Instant::now() + DEADLINE_GRACE;
        timeout(patience, asked).await.unwrap_or(Err(AdminError::Timeout))
    }

    /// All topics, by name.
    pub fn list_topics(&self) -> Vec<TopicInfo> {
        self.core.catalog().topics().map(|topic| info(topic)).collect()
    }

    /// A topic with the bounds and size of its partitions.
    pub async fn describe_topic(
        &self,
        name: TopicName,
        deadline: Instant,
    ) -> Result<TopicDescription, AdminError> {
        loop {
            // A partition may not be open yet, or its leader is just changing.
            match self.describe_once(&name, deadline).await {
                Err(AdminError::NotLeader | AdminError::Timeout) if Instant::now() < deadline => {
                    sleep(DESCRIBE_RETRY).await;
                }
                Err(AdminError::NotLeader) => return Err(AdminError::Timeout),
                other => return other,
            }
        }
    }

    async fn describe_once(
        &self,
        name: &TopicName,
        deadline: Instant,
    ) -> Result<TopicDescription, AdminError> {
        let catalog = self.core.catalog();
        let topic = catalog.topic_named(name).ok_or(AdminError::UnknownTopic)?;
        let mut by_shard: BTreeMap<ShardId, Vec<PartitionKey>> = BTreeMap::new();
        for (key, shard) in topic.places() {
            by_shard.entry(shard).or_default().push(key);
        }
        let mut bounds: BTreeMap<PartitionKey, Bounds> = BTreeMap::new();
        for (shard, keys) in by_shard {
            let asked =
                timeout(deadline - Instant::now(), self.describe_shard(shard, keys.clone()));
            let found = asked.await.unwrap_or(Err(AdminError::Timeout))?;
            let known = keys.into_iter().zip(found);
            bounds.extend(known.filter_map(|(key, bounds)| Some((key, bounds?))));
        }
        let leaders = self.leaders();
        let describe = |(key, shard): (PartitionKey, ShardId)| {
            let bounds = bounds.get(&key).ok_or(AdminError::NotLeader)?;
            Ok(PartitionDescription {
                info: partition_info(key.partition, shard, &leaders),
                start_offset: bounds.start_offset,
                high_watermark: bounds.high_watermark,
                bytes: bounds.bytes,
            })
        };
        let partitions: Result<Vec<_>, AdminError> = topic.places().map(describe).collect();
        Ok(TopicDescription { topic: info(topic), partitions: partitions? })
    }

    /// Bounds of partitions of one shard, from whoever leads it.
    async fn describe_shard(
        &self,
        shard: ShardId,
        keys: Vec<PartitionKey>,
    ) -> Result<Vec<Option<Bounds>>, AdminError> {
        let leader = self.core.leading_node(shard).ok_or(AdminError::NotLeader)?;
        if leader != self.node() {
            let message = Bytes::from(Message::Describe(keys).encode());
            return match self.core.ask_node(leader, shard, DESCRIBE_DEADLINE, message).await? {
                NodeAnswer::Described(found) => Ok(found),
                _ => Err(AdminError::NotLeader),
            };
        }
        let core = self.core.core_of(shard);
        if core == self.core.id {
            return Ok(self.core.describe_here(&keys).await);
        }
        match self.ask(core, Request::Describe { keys }).await {
            Some(Reply::Describe(found)) => Ok(found),
            _ => Err(AdminError::QueueFull),
        }
    }

    /// Where the partitions of these topics are; all topics for `None`. Answered from this core's
    /// copy of the catalog.
    pub fn metadata(&self, topics: Option<&[TopicName]>) -> Metadata {
        let catalog = self.core.catalog();
        let mut unknown = Vec::new();
        let found: Vec<&Arc<Topic>> = match topics {
            None => catalog.topics().collect(),
            Some(names) => {
                let find = |name: &TopicName| {
                    let topic = catalog.topic_named(name);
                    if topic.is_none() {
                        unknown.push(name.clone());
                    }
                    topic
                };
                names.iter().filter_map(find).collect()
            }
        };
        let leaders = self.leaders();
        Metadata {
            cluster: self.cluster(),
            leaders: self.cores(),
            topics: found.into_iter().map(|topic| topic_metadata(topic, &leaders)).collect(),
            unknown,
        }
    }

    /// Name, number of partitions and id of a topic, if it exists: a look into this core's copy of
    /// the catalog.
    pub fn topic(&self, name: &TopicName) -> Option<TopicInfo> {
        self.core.catalog().topic_named(name).map(|topic| info(topic))
    }

    /// Who leads each shard, as far as it is known here.
    fn leaders(&self) -> BTreeMap<ShardId, Leader> {
        let shards = (1..=self.core.catalog().shards()).map(ShardId);
        shards.filter_map(|shard| Some((shard, self.core.leader_of(shard)?))).collect()
    }

    /// Every core of every node that was heard of, and how it is reached.
    fn cores(&self) -> Vec<Leader> {
        let leader = |node| {
            move |(core, address): (u16, &String)| Leader {
                node,
                core: CoreId(core),
                address: address.clone(),
            }
        };
        let own = (0_u16..).zip(&self.core.options.core_addresses).map(leader(self.node()));
        let mut cores: Vec<Leader> = own.collect();
        let board = Arc::clone(&self.core.board.borrow());
        for node in self.core.other_nodes() {
            let Some(beacon) = board.beacon(node) else { continue };
            cores.extend((0_u16..).zip(&beacon.core_addresses).map(leader(node)));
        }
        cores
    }

    /// A fresh producer id with epoch 0.
    pub async fn init_producer(&self, deadline: Instant) -> Result<ProducerIdentity, AdminError> {
        let mut block = self.core.producers.lock().await;
        // Wrong when planted: every process gives out the same ids again.
        if block.left == 0 && !planted("broker-producer-id-given-twice") {
            let admin = Admin::AllocateProducers { count: PRODUCERS_PER_BLOCK };
            let AdminReply::Producers { first, count } = self.administer(admin, deadline).await?
            else {
                return Err(AdminError::NotLeader);
            };
            block.next = first;
            block.left = count;
        }
        let id = block.next;
        block.next = ProducerId(id.0.saturating_add(1));
        block.left = block.left.saturating_sub(1);
        Ok(ProducerIdentity { id, epoch: ProducerEpoch(0) })
    }

    /// Changes the cluster; answers when the change is committed. What it leads to (copies that
    /// move) goes on afterwards.
    pub async fn change_cluster(
        &self,
        change: ClusterChange,
        deadline: Instant,
    ) -> Result<ClusterChanged, AdminError> {
        match self.administer(Admin::Cluster(change), deadline).await? {
            AdminReply::Cluster(changed) => Ok(changed),
            _ => Err(AdminError::NotLeader),
        }
    }

    /// The cluster as this core knows it.
    pub fn describe_cluster(&self) -> ClusterDescription {
        ClusterDescription::of(self.node(), &self.core.catalog(), &self.core.board.borrow())
    }

    /// Figures of every core, by core.
    pub async fn stats(&self, deadline: Instant) -> Result<Vec<CoreStats>, AdminError> {
        let mut all = vec![self.core.stats_here()];
        for core in self.core.router.others() {
            let asked = timeout(deadline - Instant::now(), self.ask(core, Request::Stats));
            match asked.await {
                Ok(Some(Reply::Stats(stats))) => all.push(stats),
                Ok(_) => return Err(AdminError::QueueFull),
                Err(_) => return Err(AdminError::Timeout),
            }
        }
        all.sort_by_key(|stats| stats.core);
        Ok(all)
    }

    /// Tells the broker how many connections this core's gateways hold, for [`Broker::stats`].
    pub fn set_connections(&self, connections: u64) {
        self.core.connections.set(connections);
    }

    /// Resolves when a shard of this core has failed for good, with the reason; the process must
    /// then exit.
    pub async fn failed(&self) -> String {
        self.core.failed().await
    }

    /// Hands the leads of this core's shards to other nodes, where there are any that can take
    /// them; gives up at the deadline, or when nobody takes one within a second.
    pub async fn hand_over(&self, deadline: Instant) {
        let within = (deadline - Instant::now()).min(HAND_OVER_TIMEOUT);
        timeout(within, self.core.hand_over()).await.ok();
    }

    /// Stops taking requests, lets what is under way finish (until the deadline), writes
    /// checkpoints and closes the logs of this core. Every core calls it.
    pub async fn shutdown(&self, deadline: Instant) {
        self.core.is_closing.set(true);
        for shard in self.core.shards() {
            shard.shutdown(deadline).await;
        }
        if let Some(catalog) = self.core.catalog_shard.get() {
            catalog.shutdown().await;
        }
        self.core.leave_home();
    }

    pub(crate) async fn ask(&self, core: CoreId, request: Request) -> Option<Reply> {
        let answer = self.core.router.request(core, request).ok()?;
        answer.await.ok()
    }
}

fn topic_metadata(topic: &Topic, leaders: &BTreeMap<ShardId, Leader>) -> TopicMetadata {
    let place =
        |(key, shard): (PartitionKey, ShardId)| partition_info(key.partition, shard, leaders);
    TopicMetadata { topic: info(topic), partitions: topic.places().map(place).collect() }
}

/// A partition whose leader is not known has node 0 and no address: it is asked for again.
fn partition_info(
    partition: PartitionId,
    shard: ShardId,
    leaders: &BTreeMap<ShardId, Leader>,
) -> PartitionInfo {
    let unknown = || Leader { node: NodeId(0), core: CoreId(0), address: String::new() };
    PartitionInfo { partition, shard, leader: leaders.get(&shard).cloned().unwrap_or_else(unknown) }
}

pub(crate) fn info(topic: &Topic) -> TopicInfo {
    TopicInfo {
        name: topic.name.clone(),
        id: topic.id,
        partitions: u32::try_from(topic.partitions.len()).unwrap_or(u32::MAX),
        retention: topic.retention,
        priorities: topic.priorities,
        order: topic.order,
        created_ms: topic.created_ms,
    }
}

// The catalog's copy is shared between cores by reference count and never changed in place.
const fn assert_crosses<T: Send + Sync>() {}
const _: () = assert_crosses::<Arc<Catalog>>();
