//! The catalog itself: state, and what each command does to it.
//!
//! ```text
//! (no topic) --CreateTopic--> topic --DeleteTopic--> closing --ForgetTopic--> (gone)
//!                              ^  |AlterTopic
//!                              +--+
//! ```
//!
//! Owns: topics by id and name, queue and stream groups, placement, node and producer ids.
//! Must never: delete because something is absent; a topic goes through `closing` by a command, and
//! a shard closes only partitions whose topic stands there.
//! Invariants: `names` and `topics` mirror each other; the revision grows with every change; ids
//! only grow.

mod groups;
mod streams;

use std::collections::BTreeMap;
use std::sync::Arc;

use barrage_model::group::SettingsError;
use barrage_model::limits::{GROUPS_PER_TOPIC_MAX, PARTITIONS_PER_TOPIC_MAX};
use barrage_model::{
    GroupId, NodeId, Priorities, ProducerId, Retention, ShardId, TopicId, TopicName, TopicOrder,
};
use thiserror::Error;

use crate::command::Command;
use crate::format::{FormatError, checkpoint};
use crate::group::Groups;
use crate::node::{Birth, NodeError, Nodes, Presence};
use crate::placement;
use crate::stream::{STREAMS_MAX, Streams, TOPICS_PER_STREAM_MAX};
use crate::topic::{Partition, Topic};

pub use groups::GROUPS_MAX;

/// Data shards of a cluster, at most: tens are usual, one per core of the cluster is the default.
pub const SHARDS_MAX: u32 = 16 * 1024;
/// Topics of a cluster, at most.
pub const TOPICS_MAX: usize = 50_000;
/// Partitions of a cluster, at most.
pub const PARTITIONS_MAX: u64 = 200_000;
/// Producer ids in one block, at most.
pub const PRODUCERS_PER_BLOCK_MAX: u32 = 1_000_000;

/// Nodes, topics, placement. Cloning shares the topics.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Catalog {
    revision: u64,
    cluster: String,
    shards: u32,
    nodes: Nodes,
    topics: BTreeMap<TopicId, Arc<Topic>>,
    names: BTreeMap<TopicName, TopicId>,
    closing: BTreeMap<TopicId, u64>,
    streams: Streams,
    next_topic: u64,
    next_group: u64,
    next_producer: i64,
}

/// The catalog taken apart for its checkpoint.
pub(crate) struct Parts {
    pub(crate) revision: u64,
    pub(crate) cluster: String,
    pub(crate) shards: u32,
    pub(crate) nodes: Nodes,
    pub(crate) topics: Vec<Arc<Topic>>,
    pub(crate) closing: BTreeMap<TopicId, u64>,
    pub(crate) streams: Streams,
    pub(crate) next_topic: u64,
    pub(crate) next_group: u64,
    pub(crate) next_producer: i64,
}

/// What a command answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reply {
    /// Done; the catalog's revision now.
    Done {
        /// The revision.
        revision: u64,
    },
    /// The topic made or changed.
    Topic(Arc<Topic>),
    /// A block of producer ids, `first..first + count`.
    Producers {
        /// The first one.
        first: ProducerId,
        /// How many.
        count: u32,
    },
    /// The node's id.
    Node(NodeId),
    /// Nothing was changed.
    Refused(CatalogError),
}

/// Why a command changed nothing.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum CatalogError {
    /// The name is taken.
    #[error("topic exists")]
    TopicExists,
    /// No topic of this name.
    #[error("unknown topic")]
    UnknownTopic,
    /// The topic has a group of this name.
    #[error("group exists")]
    GroupExists,
    /// The topic has no group of this name.
    #[error("unknown group")]
    UnknownGroup,
    /// A stream group has no settings.
    #[error("the group is of kind stream: it has no settings to change")]
    NotQueue,
    /// As many stream groups as there may be.
    #[error(
        "a stream group has at most {TOPICS_PER_STREAM_MAX} topics, and the cluster {STREAMS_MAX} \
         groups, each counted for every topic"
    )]
    StreamsFull,
    /// Settings of a group.
    #[error(transparent)]
    Settings(#[from] SettingsError),
    /// As many groups as there may be.
    #[error(
        "a topic has at most {GROUPS_PER_TOPIC_MAX} groups, and the cluster {GROUPS_MAX}, each \
         counted for every partition, and again for every 400 bytes of its filter"
    )]
    GroupsFull,
    /// The number of partitions is not possible.
    #[error("a topic has 1 to {PARTITIONS_PER_TOPIC_MAX} partitions, not {asked}")]
    PartitionCount {
        /// How many were asked for.
        asked: u32,
    },
    /// A level without a partition.
    #[error(
        "a topic of {levels} priorities has at least as many partitions, not {partitions}: each is \
         kept apart"
    )]
    Priorities {
        /// How many levels were asked for.
        levels: u8,
        /// How many partitions.
        partitions: u32,
    },
    /// Dead letters come from everywhere.
    #[error(
        "a topic whose order is global takes no dead letters: one producer at a time writes it"
    )]
    GlobalDeadLetters,
    /// More than one order.
    #[error("a topic whose order is global has one partition, not {partitions}")]
    GlobalOrder {
        /// How many were asked for.
        partitions: u32,
    },
    /// The number of partitions can only grow.
    #[error("the number of partitions can only grow: it is {current}, not {asked}")]
    PartitionsShrink {
        /// How many there are.
        current: u32,
        /// How many were asked for.
        asked: u32,
    },
    /// The cluster holds as many topics or partitions as it may.
    #[error("the cluster holds at most {TOPICS_MAX} topics and {PARTITIONS_MAX} partitions")]
    Full,
    /// More data shards than a cluster may have.
    #[error("a cluster has at most {SHARDS_MAX} data shards, not {asked}")]
    ShardCount {
        /// How many were asked for.
        asked: u32,
    },
    /// The cluster is not founded: it has no shard to place a partition on.
    #[error("the cluster has no data shards")]
    NoShards,
    /// A command about nodes.
    #[error(transparent)]
    Node(#[from] NodeError),
    /// The command's bytes are not one this build knows.
    #[error("unreadable command: {0}")]
    Unreadable(#[from] FormatError),
}

impl Catalog {
    /// An empty catalog.
    pub fn new() -> Self {
        Self::default()
    }

    /// Grows with every change.
    pub fn revision(&self) -> u64 {
        self.revision
    }

    /// Identity of the cluster; empty before it is founded.
    pub fn cluster(&self) -> &str {
        &self.cluster
    }

    /// How many data shards there are: 1..=shards.
    pub fn shards(&self) -> u32 {
        self.shards
    }

    /// The nodes that belong to the cluster, and what they hold.
    pub fn nodes(&self) -> &Nodes {
        &self.nodes
    }

    /// The newest topic that was ever made.
    pub fn newest_topic(&self) -> TopicId {
        TopicId(self.next_topic)
    }

    /// The newest group that was ever made.
    pub fn newest_group(&self) -> GroupId {
        GroupId(self.next_group)
    }

    /// A topic by id.
    pub fn topic(&self, id: TopicId) -> Option<&Arc<Topic>> {
        self.topics.get(&id)
    }

    /// A topic by name.
    pub fn topic_named(&self, name: &TopicName) -> Option<&Arc<Topic>> {
        self.names.get(name).and_then(|id| self.topics.get(id))
    }

    /// All topics, by name.
    pub fn topics(&self) -> impl Iterator<Item = &Arc<Topic>> {
        self.names.values().filter_map(|id| self.topics.get(id))
    }

    /// The stream groups.
    pub fn streams(&self) -> &Streams {
        &self.streams
    }

    /// Deleted topics whose partitions may still be open somewhere, with the revision of their
    /// deletion.
    pub fn closing(&self) -> impl Iterator<Item = (TopicId, u64)> {
        self.closing.iter().map(|(topic, revision)| (*topic, *revision))
    }

    /// True for a topic whose partitions are to be closed.
    pub fn is_closing(&self, topic: TopicId) -> bool {
        self.closing.contains_key(&topic)
    }

    /// Applies a command's bytes. Total: what cannot be done or read is an answer.
    pub fn apply_bytes(&mut self, command: &[u8], log_time_ms: i64) -> Reply {
        match Command::decode(command) {
            Ok(command) => self.apply(command, log_time_ms),
            Err(error) => Reply::Refused(error.into()),
        }
    }

    /// Applies a command.
    pub fn apply(&mut self, command: Command, log_time_ms: i64) -> Reply {
        let outcome = match command {
            Command::Found { cluster, shards } => self.found(cluster, shards),
            Command::RegisterNode { node } => {
                let shards = (0..=self.shards).map(ShardId);
                self.changed(|nodes| nodes.found(node, shards))
            }
            Command::CreateTopic { name, partitions, retention, priorities, order } => {
                self.create(name, partitions, (retention, priorities, order), log_time_ms)
            }
            Command::AlterTopic { name, partitions, retention } => {
                self.alter(&name, partitions, retention)
            }
            Command::DeleteTopic { name } => self.delete(&name),
            Command::CreateGroup { topic, name, settings, at_end } => {
                self.create_group(&topic, name, settings, at_end, log_time_ms)
            }
            Command::AlterGroup { topic, name, settings } => {
                self.alter_group(&topic, &name, settings)
            }
            Command::DeleteGroup { topic, name } => self.delete_group(&topic, &name),
            Command::CreateStream { topic, name } => self.create_stream(&topic, name, log_time_ms),
            Command::ForgetTopic { topic } => Ok(self.forget(topic)),
            Command::AllocateProducers { count } => Ok(self.allocate(count)),
            Command::Join { birth, presence } => self.join(birth, presence),
            Command::Announce { node, presence } => self.changed(|n| n.announce(node, presence)),
            Command::Leave { node } => self.changed(|nodes| nodes.set_leaving(node, true)),
            Command::Stay { node } => self.changed(|nodes| nodes.set_leaving(node, false)),
            Command::Remove { node } => self.changed(|nodes| nodes.remove(node).map(|()| true)),
            Command::Assign { shards } => self.changed(|nodes| nodes.assign(shards)),
            Command::SetCopies { wanted } => self.changed(|nodes| nodes.set_copies(wanted)),
            Command::RaiseLevel { level } => self.changed(|nodes| nodes.raise_level(level)),
        };
        outcome.unwrap_or_else(Reply::Refused)
    }

    /// The catalog as bytes.
    pub fn checkpoint(&self) -> Vec<u8> {
        checkpoint::encode(self)
    }

    /// The catalog in `bytes`.
    pub fn restore(bytes: &[u8]) -> Result<Self, FormatError> {
        checkpoint::decode(bytes)
    }

    fn found(&mut self, cluster: String, shards: u32) -> Result<Reply, CatalogError> {
        if shards > SHARDS_MAX {
            return Err(CatalogError::ShardCount { asked: shards });
        }
        if self.shards == 0 && shards > 0 {
            self.cluster = cluster;
            self.shards = shards;
            self.revision += 1;
        }
        Ok(Reply::Done { revision: self.revision })
    }

    fn join(&mut self, birth: Birth, presence: Presence) -> Result<Reply, CatalogError> {
        let before = self.nodes.clone();
        let node = self.nodes.join(birth, presence)?;
        self.revision += u64::from(self.nodes != before);
        Ok(Reply::Node(node))
    }

    /// Makes a change to the nodes; the revision grows when it was one.
    fn changed(
        &mut self,
        change: impl FnOnce(&mut Nodes) -> Result<bool, NodeError>,
    ) -> Result<Reply, CatalogError> {
        self.revision += u64::from(change(&mut self.nodes)?);
        Ok(Reply::Done { revision: self.revision })
    }

    fn create(
        &mut self,
        name: TopicName,
        partitions: u32,
        (retention, priorities, order): (Retention, Priorities, TopicOrder),
        log_time_ms: i64,
    ) -> Result<Reply, CatalogError> {
        if self.names.contains_key(&name) {
            return Err(CatalogError::TopicExists);
        }
        self.check_count(partitions, partitions)?;
        let levels = priorities.levels();
        if u32::from(levels) > partitions {
            return Err(CatalogError::Priorities { levels, partitions });
        }
        if !order.allows(partitions) {
            return Err(CatalogError::GlobalOrder { partitions });
        }
        if self.topics.len() >= TOPICS_MAX {
            return Err(CatalogError::Full);
        }
        let id = TopicId(self.next_topic + 1);
        let partitions = self.place(partitions, id.0)?;
        self.next_topic = id.0;
        self.revision += 1;
        let revision = self.revision;
        let topic = Topic {
            id,
            name: name.clone(),
            partitions,
            retention,
            priorities,
            order,
            groups: Groups::default(),
            revision,
            created_ms: log_time_ms,
        };
        Ok(self.put(topic))
    }

    fn alter(
        &mut self,
        name: &TopicName,
        partitions: Option<u32>,
        retention: Option<Retention>,
    ) -> Result<Reply, CatalogError> {
        let mut topic = Topic::clone(self.topic_named(name).ok_or(CatalogError::UnknownTopic)?);
        let current = u32::try_from(topic.partitions.len()).unwrap_or(u32::MAX);
        if let Some(asked) = partitions {
            let more = asked
                .checked_sub(current)
                .ok_or(CatalogError::PartitionsShrink { current, asked })?;
            self.check_count(asked, more)?;
            if !topic.order.allows(asked) {
                return Err(CatalogError::GlobalOrder { partitions: asked });
            }
            self.check_groups(u64::from(more) * topic.groups.weight())?;
            topic.partitions.extend(self.place(more, topic.id.0 + u64::from(current))?);
        }
        topic.retention = retention.unwrap_or(topic.retention);
        self.revision += 1;
        topic.revision = self.revision;
        Ok(self.put(topic))
    }

    fn delete(&mut self, name: &TopicName) -> Result<Reply, CatalogError> {
        let id = self.names.remove(name).ok_or(CatalogError::UnknownTopic)?;
        self.revision += 1;
        self.closing.insert(id, self.revision);
        self.streams.remove_topic(id, self.revision);
        let topic = self.topics.remove(&id).ok_or(CatalogError::UnknownTopic)?;
        Ok(Reply::Topic(topic))
    }

    fn forget(&mut self, topic: TopicId) -> Reply {
        if self.closing.remove(&topic).is_some() {
            self.revision += 1;
        }
        Reply::Done { revision: self.revision }
    }

    fn allocate(&mut self, count: u32) -> Reply {
        let count = count.clamp(1, PRODUCERS_PER_BLOCK_MAX);
        let first = ProducerId(self.next_producer);
        self.next_producer = self.next_producer.saturating_add(i64::from(count));
        Reply::Producers { first, count }
    }

    fn put(&mut self, topic: Topic) -> Reply {
        assert!(!topic.partitions.is_empty(), "a topic has at least one partition");
        let topic = Arc::new(topic);
        self.names.insert(topic.name.clone(), topic.id);
        self.topics.insert(topic.id, Arc::clone(&topic));
        Reply::Topic(topic)
    }

    fn check_count(&self, total: u32, more: u32) -> Result<(), CatalogError> {
        if total == 0 || total > PARTITIONS_PER_TOPIC_MAX {
            return Err(CatalogError::PartitionCount { asked: total });
        }
        let held: u64 = self.loads().iter().sum();
        if held + u64::from(more) > PARTITIONS_MAX { Err(CatalogError::Full) } else { Ok(()) }
    }

    fn place(&self, count: u32, start: u64) -> Result<Vec<Partition>, CatalogError> {
        if self.shards == 0 {
            return Err(CatalogError::NoShards);
        }
        let placed = placement::spread(&self.loads(), count, start);
        Ok(placed.into_iter().map(Partition::on).collect())
    }

    /// Partitions per data shard, shard 1 first.
    fn loads(&self) -> Vec<u64> {
        let mut loads = vec![0; usize::try_from(self.shards).unwrap_or(0)];
        for shard in
            self.topics.values().flat_map(|topic| topic.partitions.iter().map(Partition::shard))
        {
            if let Some(load) = slot(shard).and_then(|slot| loads.get_mut(slot)) {
                *load += 1;
            }
        }
        loads
    }

    pub(crate) fn parts(&self) -> Parts {
        Parts {
            revision: self.revision,
            cluster: self.cluster.clone(),
            shards: self.shards,
            nodes: self.nodes.clone(),
            topics: self.topics.values().cloned().collect(),
            closing: self.closing.clone(),
            streams: self.streams.clone(),
            next_topic: self.next_topic,
            next_group: self.next_group,
            next_producer: self.next_producer,
        }
    }

    /// The catalog of these parts, unless they are not what a catalog may be.
    pub(crate) fn from_parts(parts: Parts) -> Option<Self> {
        let names = parts.topics.iter().map(|topic| (topic.name.clone(), topic.id)).collect();
        let count = parts.topics.len();
        let catalog = Self {
            revision: parts.revision,
            cluster: parts.cluster,
            shards: parts.shards,
            nodes: parts.nodes,
            topics: parts.topics.into_iter().map(|topic| (topic.id, topic)).collect(),
            names,
            closing: parts.closing,
            streams: parts.streams,
            next_topic: parts.next_topic,
            next_group: parts.next_group,
            next_producer: parts.next_producer,
        };
        let is_distinct = catalog.topics.len() == count && catalog.names.len() == count;
        (is_distinct && catalog.is_sound()).then_some(catalog)
    }

    /// What holds in every catalog that commands have made.
    fn is_sound(&self) -> bool {
        let counted = |number: u64| number <= COUNTER_MAX;
        let is_known = |id: &TopicId| (1..=self.next_topic).contains(&id.0);
        let held: usize = self.topics.values().map(|topic| topic.partitions.len()).sum();
        self.shards <= SHARDS_MAX
            && self.nodes.is_sound(self.shards)
            && counted(self.revision)
            && counted(self.next_topic)
            && counted(self.next_group)
            && self.groups_are_sound()
            && self.streams_are_sound()
            && self.next_producer >= 0
            && self.topics.len() <= TOPICS_MAX
            && held as u64 <= PARTITIONS_MAX
            && self.topics.keys().chain(self.closing.keys()).all(is_known)
            && self.closing.keys().all(|id| !self.topics.contains_key(id))
            && self.topics.values().all(|topic| topic.is_sound())
    }
}

/// No revision or id has ever been counted up to here; one that is larger was not counted.
const COUNTER_MAX: u64 = 1 << 62;

/// Position of a data shard among the data shards.
fn slot(shard: ShardId) -> Option<usize> {
    usize::try_from(shard.0.checked_sub(1)?).ok()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests fail by panicking")]
    #![allow(clippy::panic, reason = "tests fail by panicking")]
    #![allow(clippy::indexing_slicing, reason = "tests fail by panicking")]

    use super::*;
    use barrage_model::{GroupName, QueueSettings};

    fn name(text: &str) -> TopicName {
        TopicName::parse(text).unwrap()
    }

    fn founded() -> Catalog {
        let mut catalog = Catalog::new();
        catalog.apply(Command::Found { cluster: "one".to_owned(), shards: 2 }, 0);
        catalog
    }

    fn create(catalog: &mut Catalog, text: &str, partitions: u32) -> Reply {
        let retention = Retention::default();
        catalog.apply(
            Command::CreateTopic {
                name: name(text),
                partitions,
                retention,
                priorities: Priorities::NONE,
                order: TopicOrder::Partition,
            },
            50,
        )
    }

    fn topic(reply: Reply) -> Arc<Topic> {
        match reply {
            Reply::Topic(topic) => topic,
            other => panic!("not a topic: {other:?}"),
        }
    }

    fn shards(topic: &Topic) -> Vec<u32> {
        topic.partitions.iter().map(|partition| partition.shard().0).collect()
    }

    #[test]
    fn the_first_founding_wins() {
        let mut catalog = founded();
        catalog.apply(Command::Found { cluster: "two".to_owned(), shards: 9 }, 0);
        assert_eq!((catalog.cluster(), catalog.shards()), ("one", 2));
    }

    #[test]
    fn a_cluster_of_absurd_size_is_not_founded() {
        // Every creation counts the partitions of every shard: 4 billion counters of 8 bytes.
        let mut catalog = Catalog::new();
        let found = |shards| Command::Found { cluster: "one".to_owned(), shards };
        let refused = Reply::Refused(CatalogError::ShardCount { asked: u32::MAX });
        assert_eq!(catalog.apply(found(u32::MAX), 0), refused);
        assert_eq!(catalog, Catalog::new());
        catalog.apply(found(SHARDS_MAX), 0);
        assert_eq!(topic(create(&mut catalog, "a", 1)).id, TopicId(1));
    }

    #[test]
    fn a_topic_of_global_order_has_one_partition_and_takes_no_dead_letters() {
        let mut catalog = founded();
        let make = |partitions| Command::CreateTopic {
            name: name("ledger"),
            partitions,
            retention: Retention::default(),
            priorities: Priorities::NONE,
            order: TopicOrder::Global,
        };
        let refused = |partitions| Reply::Refused(CatalogError::GlobalOrder { partitions });
        assert_eq!(catalog.apply(make(2), 50), refused(2));
        assert_eq!(topic(catalog.apply(make(1), 50)).order, TopicOrder::Global);
        let alter =
            Command::AlterTopic { name: name("ledger"), partitions: Some(2), retention: None };
        assert_eq!(catalog.apply(alter, 50), refused(2));
        create(&mut catalog, "a", 1);
        let group = Command::CreateGroup {
            topic: name("a"),
            name: GroupName::parse("workers").unwrap(),
            settings: QueueSettings {
                dead_letter: Some(name("ledger")),
                deliveries_max: Some(3),
                ..QueueSettings::default()
            },
            at_end: false,
        };
        assert_eq!(catalog.apply(group, 50), Reply::Refused(CatalogError::GlobalDeadLetters));
        let again = Catalog::restore(&catalog.checkpoint()).unwrap();
        assert_eq!(again, catalog);
    }

    #[test]
    fn topics_are_made_changed_and_deleted() {
        let mut catalog = founded();
        let made = topic(create(&mut catalog, "a", 4));
        assert_eq!((made.id, made.created_ms), (TopicId(1), 50));
        assert_eq!(shards(&made), [2, 1, 2, 1]);
        assert_eq!(create(&mut catalog, "a", 1), Reply::Refused(CatalogError::TopicExists));

        let alter =
            |partitions, retention| Command::AlterTopic { name: name("a"), partitions, retention };
        let grown = topic(catalog.apply(alter(Some(5), None), 0));
        assert_eq!((grown.partitions.len(), grown.retention), (5, Retention::default()));
        assert_eq!(&grown.partitions[..4], &made.partitions[..]);
        assert!(grown.revision > made.revision);
        assert_eq!(
            catalog.apply(alter(Some(1), None), 0),
            Reply::Refused(CatalogError::PartitionsShrink { current: 5, asked: 1 })
        );

        let gone = topic(catalog.apply(Command::DeleteTopic { name: name("a") }, 0));
        assert!(catalog.topic(gone.id).is_none());
        assert!(catalog.is_closing(gone.id));
        catalog.apply(Command::ForgetTopic { topic: gone.id }, 0);
        assert!(!catalog.is_closing(gone.id));
        assert_eq!(topic(create(&mut catalog, "a", 1)).id, TopicId(2));
    }

    #[test]
    fn impossible_requests_are_refused_and_change_nothing() {
        let mut catalog = founded();
        let before = catalog.clone();
        assert_eq!(
            create(&mut catalog, "a", 0),
            Reply::Refused(CatalogError::PartitionCount { asked: 0 })
        );
        assert_eq!(
            create(&mut catalog, "a", u32::MAX),
            Reply::Refused(CatalogError::PartitionCount { asked: u32::MAX })
        );
        let missing = Command::DeleteTopic { name: name("x") };
        assert_eq!(catalog.apply(missing, 0), Reply::Refused(CatalogError::UnknownTopic));
        let unreadable = catalog.apply_bytes(b"nonsense", 0);
        assert_eq!(unreadable, Reply::Refused(CatalogError::Unreadable(FormatError::Length)));
        assert_eq!(create(&mut Catalog::new(), "a", 1), Reply::Refused(CatalogError::NoShards));
        assert_eq!(catalog, before);
    }

    #[test]
    fn producer_blocks_never_overlap() {
        let mut catalog = founded();
        let block = |first, count| Reply::Producers { first: ProducerId(first), count };
        assert_eq!(catalog.apply(Command::AllocateProducers { count: 10 }, 0), block(0, 10));
        assert_eq!(catalog.apply(Command::AllocateProducers { count: 0 }, 0), block(10, 1));
        assert_eq!(catalog.apply(Command::AllocateProducers { count: 5 }, 0), block(11, 5));
    }

    #[test]
    fn a_checkpoint_of_what_no_command_makes_is_refused() {
        let mut catalog = founded();
        create(&mut catalog, "a", 3);
        let check = |name: &str, change: &dyn Fn(&mut Catalog, &mut Topic)| {
            let mut changed = catalog.clone();
            let mut topic = Topic::clone(&changed.topics[&TopicId(1)]);
            change(&mut changed, &mut topic);
            changed.topics.insert(topic.id, Arc::new(topic));
            let restored = Catalog::restore(&changed.checkpoint());
            assert_eq!(restored, Err(FormatError::Content), "{name}");
        };
        check("shards", &|catalog, _| catalog.shards = SHARDS_MAX + 1);
        check("revision", &|catalog, _| catalog.revision = u64::MAX);
        check("topic ids used up", &|catalog, _| catalog.next_topic = u64::MAX);
        check("a topic that was not made", &|_, topic| topic.id = TopicId(2));
        check("a closing topic that is there", &|catalog, _| {
            catalog.closing.insert(TopicId(1), 1);
        });
        check("two topics of a name", &|catalog, topic| {
            catalog.next_topic = 2;
            topic.id = TopicId(2);
        });
        check("no partition", &|_, topic| topic.partitions.clear());
        check("a partition nowhere", &|_, topic| topic.partitions[0].spans.clear());
        check("spans in disorder", &|_, topic| {
            let span = topic.partitions[0].spans[0];
            topic.partitions[0].spans.push(span);
        });
        check("producer ids", &|catalog, _| catalog.next_producer = -1);
    }

    #[test]
    fn a_checkpoint_restores_an_equal_catalog() {
        let mut catalog = founded();
        catalog.apply(Command::RegisterNode { node: NodeId(1) }, 0);
        let presence = Presence { peer: "b:1".to_owned(), client: "b:2".to_owned(), level: 1 };
        let join = Command::Join { birth: Birth(5), presence };
        assert_eq!(catalog.apply(join, 0), Reply::Node(NodeId(2)));
        let shards = vec![(ShardId(1), vec![NodeId(2)])];
        assert_eq!(catalog.apply(Command::Assign { shards }, 0), Reply::Done { revision: 4 });
        create(&mut catalog, "a", 3);
        create(&mut catalog, "b", 1);
        catalog.apply(Command::DeleteTopic { name: name("a") }, 0);
        catalog.apply(Command::AllocateProducers { count: 10 }, 0);
        let bytes = catalog.checkpoint();
        assert_eq!(Catalog::restore(&bytes).unwrap(), catalog);
        for at in 0..bytes.len() {
            let mut broken = bytes.clone();
            broken[at] ^= 1;
            assert!(Catalog::restore(&broken).is_err());
        }
    }
}
