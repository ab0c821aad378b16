//! The catalog as bytes: everything that cannot be derived, in key order, version 1.
//!
//! Owns: the stored form of a catalog. Must never: store a hash map or anything derived.
//! Invariants: equal catalogs give equal bytes; what is read back is equal to what was stored.

use std::sync::Arc;

use barrage_model::{NodeId, Offset, Retention, ShardId, TopicId, TopicName};
use rkyv::{Archive, Deserialize, Serialize};

use crate::catalog::{Catalog, Parts};
use crate::format::{self, FormatError, Kind};
use crate::topic::{Partition, Span, Topic};

const VERSION: u8 = 1;

#[derive(Archive, Serialize, Deserialize)]
struct CatalogV1 {
    revision: u64,
    cluster: String,
    shards: u32,
    nodes: Vec<u64>,
    topics: Vec<TopicV1>,
    closing: Vec<(u64, u64)>,
    next_topic: u64,
    next_producer: i64,
}

#[derive(Archive, Serialize, Deserialize)]
struct TopicV1 {
    id: u64,
    name: String,
    partitions: Vec<Vec<(u64, u32)>>,
    retention_time_ms: Option<u64>,
    retention_bytes: Option<u64>,
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
        nodes: parts.nodes.iter().map(|node| node.0).collect(),
        topics: parts.topics.iter().map(|topic| store(topic)).collect(),
        closing: parts.closing.iter().map(|(topic, revision)| (topic.0, *revision)).collect(),
        next_topic: parts.next_topic,
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
    let topics: Result<Vec<_>, _> = stored.topics.into_iter().map(load).collect();
    Catalog::from_parts(Parts {
        revision: stored.revision,
        cluster: stored.cluster,
        shards: stored.shards,
        nodes: stored.nodes.into_iter().map(NodeId).collect(),
        topics: topics?.into_iter().map(Arc::new).collect(),
        closing: stored.closing.into_iter().map(|(topic, at)| (TopicId(topic), at)).collect(),
        next_topic: stored.next_topic,
        next_producer: stored.next_producer,
    })
    .ok_or(FormatError::Content)
}

fn store(topic: &Topic) -> TopicV1 {
    let spans = |partition: &Partition| {
        partition.spans.iter().map(|span| (span.first_offset.0, span.shard.0)).collect()
    };
    TopicV1 {
        id: topic.id.0,
        name: topic.name.to_string(),
        partitions: topic.partitions.iter().map(spans).collect(),
        retention_time_ms: topic.retention.time_ms,
        retention_bytes: topic.retention.bytes,
        revision: topic.revision,
        created_ms: topic.created_ms,
    }
}

fn load(stored: TopicV1) -> Result<Topic, FormatError> {
    let span = |(offset, shard)| Span { first_offset: Offset(offset), shard: ShardId(shard) };
    let partition = |spans: Vec<_>| Partition { spans: spans.into_iter().map(span).collect() };
    Ok(Topic {
        id: TopicId(stored.id),
        name: TopicName::parse(&stored.name).map_err(|_| FormatError::Content)?,
        partitions: stored.partitions.into_iter().map(partition).collect(),
        retention: Retention { time_ms: stored.retention_time_ms, bytes: stored.retention_bytes },
        revision: stored.revision,
        created_ms: stored.created_ms,
    })
}
