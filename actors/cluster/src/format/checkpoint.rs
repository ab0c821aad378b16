//! The catalog as bytes: everything that cannot be derived, in key order, version 3.
//!
//! Owns: the stored form of a catalog. Must never: store a hash map or anything derived.
//! Invariants: equal catalogs give equal bytes; what is read back is equal to what was stored.

use std::sync::Arc;

use barrage_model::{
    GroupId, GroupName, NodeId, Offset, Priorities, ShardId, TopicId, TopicName, TopicOrder,
};
use rkyv::{Archive, Deserialize, Serialize};

use crate::catalog::{Catalog, Parts};
use crate::command::SettingsV1;
use crate::format::retention::RetentionV1;
use crate::format::{self, FormatError, Kind};
use crate::group::{Group, Groups};
use crate::node::{Birth, Node, Nodes, Presence};
use crate::stream::{Stream, Streams};
use crate::topic::{Partition, Span, Topic};

const VERSION: u8 = 3;

#[derive(Archive, Serialize, Deserialize)]
struct CatalogV1 {
    revision: u64,
    cluster: String,
    shards: u32,
    nodes: NodesV1,
    topics: Vec<TopicV1>,
    closing: Vec<(u64, u64)>,
    streams: Vec<StreamV1>,
    next_topic: u64,
    next_group: u64,
    next_producer: i64,
}

#[derive(Archive, Serialize, Deserialize)]
struct NodesV1 {
    members: Vec<NodeV1>,
    next: u64,
    assignment: Vec<(u32, Vec<u64>)>,
    copies_wanted: u8,
    level: u32,
}

#[derive(Archive, Serialize, Deserialize)]
struct NodeV1 {
    id: u64,
    birth: u128,
    peer: String,
    client: String,
    level: u32,
    leaving: bool,
}

#[derive(Archive, Serialize, Deserialize)]
struct TopicV1 {
    id: u64,
    name: String,
    partitions: Vec<Vec<(u64, u32)>>,
    retention: RetentionV1,
    priorities: u8,
    is_global: bool,
    groups: Vec<GroupV1>,
    revision: u64,
    created_ms: i64,
}

#[derive(Archive, Serialize, Deserialize)]
struct GroupV1 {
    id: u64,
    name: String,
    settings: SettingsV1,
    from_end: u32,
    revision: u64,
    created_ms: i64,
}

#[derive(Archive, Serialize, Deserialize)]
struct StreamV1 {
    id: u64,
    name: String,
    shard: u32,
    topics: Vec<u64>,
    revision: u64,
    created_ms: i64,
}

/// The catalog as bytes.
pub fn encode(catalog: &Catalog) -> Vec<u8> {
    let parts = catalog.parts();
    let stored = CatalogV1 {
        revision: parts.revision,
        cluster: parts.cluster,
        shards: parts.shards,
        nodes: store_nodes(&parts.nodes),
        topics: parts.topics.iter().map(|topic| store(topic)).collect(),
        closing: parts.closing.iter().map(|(topic, revision)| (topic.0, *revision)).collect(),
        streams: parts.streams.iter().map(|stream| store_stream(stream)).collect(),
        next_topic: parts.next_topic,
        next_group: parts.next_group,
        next_producer: parts.next_producer,
    };
    format::seal(Kind::CatalogCheckpoint, VERSION, &stored)
}

/// The catalog in `bytes`.
pub fn decode(bytes: &[u8]) -> Result<Catalog, FormatError> {
    let (version, payload) = format::open(Kind::CatalogCheckpoint, bytes)?;
    if version != VERSION {
        return Err(FormatError::Version { found: version });
    }
    let stored = format::decode::<CatalogV1>(payload)?;
    // Each into its own memory at once: no second list of whole topics.
    let topics: Result<Vec<_>, _> =
        stored.topics.into_iter().map(|topic| load(topic).map(Arc::new)).collect();
    Catalog::from_parts(Parts {
        revision: stored.revision,
        cluster: stored.cluster,
        shards: stored.shards,
        nodes: load_nodes(stored.nodes)?,
        topics: topics?,
        closing: stored.closing.into_iter().map(|(topic, at)| (TopicId(topic), at)).collect(),
        streams: load_streams(stored.streams)?,
        next_topic: stored.next_topic,
        next_group: stored.next_group,
        next_producer: stored.next_producer,
    })
    .ok_or(FormatError::Content)
}

fn store_nodes(nodes: &Nodes) -> NodesV1 {
    let member = |node: &Node| NodeV1 {
        id: node.id.0,
        birth: node.birth.0,
        peer: node.presence.peer.clone(),
        client: node.presence.client.clone(),
        level: node.presence.level,
        leaving: node.leaving,
    };
    let ids = |holders: &Vec<NodeId>| holders.iter().map(|node| node.0).collect();
    NodesV1 {
        members: nodes.members.values().map(member).collect(),
        next: nodes.next,
        assignment: nodes.assignment.iter().map(|(shard, held)| (shard.0, ids(held))).collect(),
        copies_wanted: nodes.copies_wanted,
        level: nodes.level,
    }
}

fn load_nodes(stored: NodesV1) -> Result<Nodes, FormatError> {
    let member = |node: NodeV1| {
        let NodeV1 { id, birth, peer, client, level, leaving } = node;
        let presence = Presence { peer, client, level };
        (NodeId(id), Node { id: NodeId(id), birth: Birth(birth), presence, leaving })
    };
    let (member_count, shard_count) = (stored.members.len(), stored.assignment.len());
    let holders = |ids: Vec<u64>| ids.into_iter().map(NodeId).collect();
    let shards = stored.assignment.into_iter().map(|(shard, ids)| (ShardId(shard), holders(ids)));
    let nodes = Nodes {
        members: stored.members.into_iter().map(member).collect(),
        next: stored.next,
        assignment: shards.collect(),
        copies_wanted: stored.copies_wanted,
        level: stored.level,
    };
    let is_distinct = nodes.members.len() == member_count && nodes.assignment.len() == shard_count;
    is_distinct.then_some(nodes).ok_or(FormatError::Content)
}

fn store(topic: &Topic) -> TopicV1 {
    let spans = |partition: &Partition| {
        partition.spans.iter().map(|span| (span.first_offset.0, span.shard.0)).collect()
    };
    TopicV1 {
        id: topic.id.0,
        name: topic.name.to_string(),
        partitions: topic.partitions.iter().map(spans).collect(),
        retention: topic.retention.into(),
        priorities: topic.priorities.levels(),
        is_global: topic.order.is_global(),
        groups: topic.groups.iter().map(|group| store_group(group)).collect(),
        revision: topic.revision,
        created_ms: topic.created_ms,
    }
}

fn load(stored: TopicV1) -> Result<Topic, FormatError> {
    let span = |(offset, shard)| Span { first_offset: Offset(offset), shard: ShardId(shard) };
    let partition = |spans: Vec<_>| Partition { spans: spans.into_iter().map(span).collect() };
    let count = stored.groups.len();
    let mut groups = Groups::default();
    for group in stored.groups {
        groups.insert(load_group(group)?);
    }
    if groups.len() != count {
        return Err(FormatError::Content);
    }
    Ok(Topic {
        id: TopicId(stored.id),
        name: TopicName::parse(&stored.name).map_err(|_| FormatError::Content)?,
        partitions: stored.partitions.into_iter().map(partition).collect(),
        retention: stored.retention.into(),
        priorities: Priorities::new(stored.priorities).ok_or(FormatError::Content)?,
        order: TopicOrder::of(stored.is_global),
        groups,
        revision: stored.revision,
        created_ms: stored.created_ms,
    })
}

fn store_group(group: &Group) -> GroupV1 {
    GroupV1 {
        id: group.id.0,
        name: group.name.to_string(),
        settings: group.settings.clone().into(),
        from_end: group.from_end,
        revision: group.revision,
        created_ms: group.created_ms,
    }
}

fn load_group(stored: GroupV1) -> Result<Group, FormatError> {
    Ok(Group {
        id: GroupId(stored.id),
        name: GroupName::parse(&stored.name).map_err(|_| FormatError::Content)?,
        settings: stored.settings.try_into()?,
        from_end: stored.from_end,
        revision: stored.revision,
        created_ms: stored.created_ms,
    })
}

fn store_stream(stream: &Stream) -> StreamV1 {
    StreamV1 {
        id: stream.id.0,
        name: stream.name.to_string(),
        shard: stream.shard.0,
        topics: stream.topics.iter().map(|topic| topic.0).collect(),
        revision: stream.revision,
        created_ms: stream.created_ms,
    }
}

fn load_streams(stored: Vec<StreamV1>) -> Result<Streams, FormatError> {
    let count = stored.len();
    let mut streams = Streams::default();
    for StreamV1 { id, name, shard, topics, revision, created_ms } in stored {
        let topic_count = topics.len();
        let stream = Stream {
            id: GroupId(id),
            name: GroupName::parse(&name).map_err(|_| FormatError::Content)?,
            shard: ShardId(shard),
            topics: topics.into_iter().map(TopicId).collect(),
            revision,
            created_ms,
        };
        if stream.topics.is_empty() || stream.topics.len() != topic_count {
            return Err(FormatError::Content);
        }
        streams.put(stream);
    }
    let is_distinct = streams.len() == count && streams.name_count() == count;
    is_distinct.then_some(streams).ok_or(FormatError::Content)
}
