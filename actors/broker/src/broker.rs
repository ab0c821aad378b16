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

use barrage_cluster::{Catalog, Topic};
use barrage_model::{
    CoreId, NodeId, PartitionId, PartitionKey, ProducerEpoch, ProducerId, ShardId, TopicName,
};
use barrage_world::channel::oneshot;
use barrage_world::{Instant, planted, timeout};

use crate::admin::CATALOG_CORE;
use crate::api::{
    AdminError, At, CoreStats, FetchError, FetchRequest, Fetched, FetchedBytes, Leader,
    ListedOffset, Metadata, PartitionDescription, PartitionInfo, ProduceError, ProduceRequest,
    Produced, ProducerIdentity, TopicChange, TopicDescription, TopicInfo, TopicMetadata, TopicSpec,
};
use crate::cluster::{ClusterChange, ClusterChanged, ClusterDescription};
use crate::core::Core;
use crate::door::CheckedBatch;
use crate::message::{Admin, AdminReply, Bounds, Reply, Request};
use crate::options::BrokerOptions;
use crate::reply::{ProduceReply, ProduceResult};
use crate::router::CoreLinks;

pub use crate::start::StartError;

/// Producer ids fetched from the catalog at a time.
const PRODUCERS_PER_BLOCK: u32 = 1000;

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
    /// The mailboxes between `cores` cores, one [`CoreLinks`] per core in order.
    pub fn mesh(cores: u16) -> Vec<CoreLinks> {
        CoreLinks::mesh(cores)
    }

    /// Opens what this core carries and starts serving it. Every core of the node calls it once
    /// with the same options and its own links; it returns when this core is ready. The first core
    /// also opens the catalog.
    pub async fn start(options: BrokerOptions, links: CoreLinks) -> Result<Self, StartError> {
        crate::start::start(options, links).await.map(|core| Self { core })
    }

    /// The node's id, from its data directory.
    pub fn node(&self) -> NodeId {
        self.core.identity.get().map_or(NodeId(0), |identity| identity.node)
    }

    /// The cluster's identity.
    pub fn cluster(&self) -> String {
        self.core.identity.get().map_or_else(String::new, |identity| identity.cluster.clone())
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
        let answer = self.take_up(request);
        async move {
            match answer {
                Answer::Now(error) => Err(error),
                Answer::Here(receiver) => receiver.await.unwrap_or(Err(ProduceError::ShuttingDown)),
                Answer::There(receiver) => match receiver.await {
                    Ok(Reply::Produce(result)) => result,
                    _ => Err(ProduceError::ShuttingDown),
                },
            }
        }
    }

    fn take_up(&self, request: ProduceRequest) -> Answer {
        // With one voter a majority is every voter, so both kinds of acks mean the same flush.
        let ProduceRequest { mut key, batch, acks: _, deadline } = request;
        if planted("broker-wrong-partition") {
            // Wrong: records lie where nobody looks for them.
            key.partition = PartitionId(key.partition.0 & !1);
        }
        let Some((core, _)) = self.core.place(key) else {
            return Answer::Now(ProduceError::UnknownPartition);
        };
        let batch = match CheckedBatch::check(batch) {
            Ok(batch) => batch,
            Err(error) => return Answer::Now(error),
        };
        if core == self.core.id {
            let (sender, receiver) = oneshot::channel();
            self.core.produce_here(key, batch, deadline, ProduceReply::Here(sender));
            return Answer::Here(receiver);
        }
        match self.core.router.request(core, Request::Produce { key, batch, deadline }) {
            Ok(receiver) => Answer::There(receiver),
            Err(_) => Answer::Now(ProduceError::QueueFull),
        }
    }

    /// Reads batches from an offset on; waits until `wait_until` for `bytes_min` bytes.
    /// Cancel-safe.
    pub async fn fetch(&self, request: FetchRequest) -> Result<Fetched, FetchError> {
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
        self.change_topic(Admin::Delete { name }, deadline).await.map(drop)
    }

    async fn change_topic(&self, admin: Admin, deadline: Instant) -> Result<TopicInfo, AdminError> {
        match self.administer(admin, deadline).await? {
            AdminReply::Topic(topic) => Ok(info(&topic)),
            AdminReply::Producers { .. } => Err(AdminError::NotLeader),
        }
    }

    /// Asks the catalog's core, here or there. The change goes on when the deadline passes.
    async fn administer(&self, admin: Admin, deadline: Instant) -> Result<AdminReply, AdminError> {
        let asked = async {
            if self.core.id == CATALOG_CORE {
                let core = Rc::clone(&self.core);
                let running = barrage_world::spawn(async move { core.administer(admin).await });
                return running.await.unwrap_or(Err(AdminError::ShuttingDown));
            }
            match self.ask(CATALOG_CORE, Request::Admin(admin)).await {
                Some(Reply::Admin(result)) => result,
                _ => Err(AdminError::QueueFull),
            }
        };
        timeout(deadline - Instant::now(), asked).await.unwrap_or(Err(AdminError::Timeout))
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
        let catalog = self.core.catalog();
        let topic = catalog.topic_named(&name).ok_or(AdminError::UnknownTopic)?;
        let mut by_core: BTreeMap<CoreId, Vec<PartitionKey>> = BTreeMap::new();
        for (key, shard) in topic.places() {
            by_core.entry(self.core.core_of(shard)).or_default().push(key);
        }
        let mut bounds: BTreeMap<PartitionKey, Bounds> = BTreeMap::new();
        for (core, keys) in by_core {
            let asked = timeout(deadline - Instant::now(), self.describe_on(core, keys.clone()));
            let found = asked.await.unwrap_or(Err(AdminError::Timeout))?;
            let known = keys.into_iter().zip(found);
            bounds.extend(known.filter_map(|(key, bounds)| Some((key, bounds?))));
        }
        let describe = |(key, shard): (PartitionKey, ShardId)| {
            // Not open any more: the topic is just being deleted.
            let bounds = bounds.get(&key).ok_or(AdminError::UnknownTopic)?;
            Ok(PartitionDescription {
                info: self.partition_info(key.partition, shard),
                start_offset: bounds.start_offset,
                high_watermark: bounds.high_watermark,
                bytes: bounds.bytes,
            })
        };
        let partitions: Result<Vec<_>, AdminError> = topic.places().map(describe).collect();
        Ok(TopicDescription { topic: info(topic), partitions: partitions? })
    }

    async fn describe_on(
        &self,
        core: CoreId,
        keys: Vec<PartitionKey>,
    ) -> Result<Vec<Option<Bounds>>, AdminError> {
        if core == self.core.id {
            return Ok(self.core.describe_here(&keys));
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
        Metadata {
            cluster: self.cluster(),
            leaders: (0..self.core.options.cores).map(|core| self.leader(CoreId(core))).collect(),
            topics: found.into_iter().map(|topic| self.topic_metadata(topic)).collect(),
            unknown,
        }
    }

    /// Name, number of partitions and id of a topic, if it exists: a look into this core's copy of
    /// the catalog.
    pub fn topic(&self, name: &TopicName) -> Option<TopicInfo> {
        self.core.catalog().topic_named(name).map(|topic| info(topic))
    }

    fn topic_metadata(&self, topic: &Topic) -> TopicMetadata {
        let place =
            |(key, shard): (PartitionKey, ShardId)| self.partition_info(key.partition, shard);
        TopicMetadata { topic: info(topic), partitions: topic.places().map(place).collect() }
    }

    fn partition_info(&self, partition: PartitionId, shard: ShardId) -> PartitionInfo {
        PartitionInfo { partition, shard, leader: self.leader(self.core.core_of(shard)) }
    }

    fn leader(&self, core: CoreId) -> Leader {
        let address = self.core.options.core_addresses.get(usize::from(core.0));
        Leader { node: self.node(), core, address: address.cloned().unwrap_or_default() }
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
        let _ = (change, deadline);
        Err(AdminError::NotLeader)
    }

    /// The cluster as this core knows it.
    pub fn describe_cluster(&self) -> ClusterDescription {
        ClusterDescription {
            cluster: self.cluster(),
            node: self.node(),
            level: self.core.catalog().nodes().level(),
            copies_wanted: self.core.catalog().nodes().copies_wanted(),
            nodes: Vec::new(),
            shards: Vec::new(),
        }
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
        loop {
            let listener = self.core.failed.listen();
            if let Some(reason) = self.core.failure.borrow().clone() {
                return reason;
            }
            listener.await;
        }
    }

    /// Stops taking requests, lets what is under way finish (until the deadline), writes
    /// checkpoints and closes the logs of this core. Every core calls it.
    pub async fn shutdown(&self, deadline: Instant) {
        for shard in self.core.shards() {
            shard.shutdown(deadline).await;
        }
        if let Some(catalog) = self.core.catalog_shard.get() {
            catalog.shutdown().await;
        }
        self.core.release_lock();
    }

    async fn ask(&self, core: CoreId, request: Request) -> Option<Reply> {
        let answer = self.core.router.request(core, request).ok()?;
        answer.await.ok()
    }
}

fn info(topic: &Topic) -> TopicInfo {
    TopicInfo {
        name: topic.name.clone(),
        id: topic.id,
        partitions: u32::try_from(topic.partitions.len()).unwrap_or(u32::MAX),
        retention: topic.retention,
        created_ms: topic.created_ms,
    }
}

// The catalog's copy is shared between cores by reference count and never changed in place.
const fn assert_crosses<T: Send + Sync>() {}
const _: () = assert_crosses::<Arc<Catalog>>();
