//! From the wire's words to the broker's and back. Names are checked here; everything else the
//! broker checks, because other gateways need the same checks.

use std::time::Duration;

use barrage_broker as broker;
use barrage_broker::Broker;
use barrage_model::{CoreId, Priorities, TopicName, TopicOrder};
use barrage_wire as wire;
use barrage_wire::{ErrorCode, ErrorReply, Response};
use barrage_world::Instant;
use bytes::Bytes;

use crate::cluster;
use crate::error;
use crate::options::Options;
use crate::queue::{self, GroupRequest};
use crate::stream::{self, StreamRequest};

/// A request that is answered from the catalog or by a whole node, not by one partition.
pub(crate) enum Administration {
    Metadata(wire::MetadataRequest),
    Stats,
    InitProducer,
    ProducerClaim(wire::ProducerClaim),
    ListOffset(wire::ListOffsetRequest),
    TopicCreate(wire::TopicCreate),
    TopicAlter(wire::TopicAlter),
    TopicDelete(wire::TopicDelete),
    TopicList,
    TopicDescribe(wire::TopicDescribe),
    ClusterDescribe,
    ClusterChange(wire::ClusterChange),
    Group(GroupRequest),
    Stream(StreamRequest),
}

/// How many partitions a topic gets that names no number.
const PARTITIONS_DEFAULT: u32 = 1;

pub(crate) fn produce_request(
    request: &wire::ProduceRequest<'_>,
    batch: Bytes,
    deadline: Instant,
) -> broker::ProduceRequest {
    let acks = acks(request.acks);
    broker::ProduceRequest { key: request.key, batch, delay: None, acks, deadline }
}

pub(crate) fn acks(acks: wire::Acks) -> broker::Acks {
    match acks {
        wire::Acks::Quorum => broker::Acks::Quorum,
        wire::Acks::All => broker::Acks::All,
    }
}

pub(crate) fn fetch_request(request: &wire::FetchRequest, now: Instant) -> broker::FetchRequest {
    let wait = Duration::from_millis(u64::from(request.wait_ms)).min(Options::REQUEST_TIMEOUT_MAX);
    let bytes_max = (request.bytes_max as usize).min(Options::FETCH_BYTES_MAX);
    broker::FetchRequest {
        key: request.key,
        offset: request.offset,
        bytes_max,
        // More than can be returned would never be there.
        bytes_min: (request.bytes_min as usize).min(bytes_max),
        wait_until: now + wait,
    }
}

/// The deadline of a request that asks for `timeout_ms`; 0 takes the default.
pub(crate) fn deadline(timeout_ms: u32, now: Instant, options: &Options) -> Instant {
    let timeout = match timeout_ms {
        0 => options.request_timeout,
        asked => Duration::from_millis(u64::from(asked)).min(Options::REQUEST_TIMEOUT_MAX),
    };
    now + timeout
}

/// Carries out a request; every error becomes an error reply for the request's `opcode`.
pub(crate) async fn administer(
    broker: &Broker,
    request: Administration,
    deadline: Instant,
    node: &NodeFacts,
) -> Result<Response<'static>, ErrorReply> {
    match request {
        Administration::Metadata(request) => metadata(broker, &request),
        Administration::Stats => stats(broker, deadline, node).await,
        Administration::InitProducer => init_producer(broker, deadline).await,
        Administration::ProducerClaim(request) => {
            broker.claim(claim(&request)).await.map_err(|e| error::claim(&e))?;
            Ok(Response::ProducerClaim)
        }
        Administration::ListOffset(request) => list_offset(broker, &request, deadline).await,
        Administration::TopicCreate(request) => {
            let (name, retention) = (topic_name(&request.name)?, request.retention);
            let priorities = Priorities::new(request.priorities).ok_or_else(|| {
                let most = Priorities::LEVELS_MAX;
                let asked = request.priorities;
                let reason = format!("a topic has 1 to {most} levels of priority, not {asked}");
                ErrorReply::new(ErrorCode::InvalidArgument, reason)
            })?;
            let order = request.order;
            let partitions = match request.partitions {
                0 if order.is_global() => 1,
                0 => PARTITIONS_DEFAULT.max(u32::from(priorities.levels())),
                asked => asked,
            };
            let spec = broker::TopicSpec { name, partitions, retention, priorities, order };
            let topic = broker.create_topic(spec, deadline).await.map_err(|e| error::admin(&e))?;
            Ok(Response::TopicCreate(summary(&topic)))
        }
        Administration::TopicAlter(request) => {
            let (partitions, retention) = (request.partitions, request.retention);
            let change = broker::TopicChange { partitions, retention };
            let name = topic_name(&request.name)?;
            let altered = broker.alter_topic(name, change, deadline).await;
            Ok(Response::TopicAlter(summary(&altered.map_err(|e| error::admin(&e))?)))
        }
        Administration::TopicDelete(request) => {
            let name = topic_name(&request.name)?;
            broker.delete_topic(name, deadline).await.map_err(|e| error::admin(&e))?;
            Ok(Response::TopicDelete)
        }
        Administration::TopicList => {
            let topics = broker.list_topics().iter().map(summary).collect();
            Ok(Response::TopicList(wire::TopicListReply { topics }))
        }
        Administration::TopicDescribe(request) => {
            let name = topic_name(&request.name)?;
            let topic =
                broker.describe_topic(name, deadline).await.map_err(|e| error::admin(&e))?;
            Ok(Response::TopicDescribe(description(&topic)))
        }
        Administration::Group(request) => queue::answer(broker, request, deadline).await,
        Administration::Stream(request) => stream::answer(broker, request).await,
        Administration::ClusterDescribe => {
            Ok(Response::ClusterDescribe(cluster::description(broker.describe_cluster())))
        }
        Administration::ClusterChange(change) => {
            let changed = broker.change_cluster(cluster::change(change), deadline).await;
            let changed = cluster::changed(changed.map_err(|e| error::admin(&e))?);
            Ok(Response::ClusterChange(changed))
        }
    }
}

/// What `Stats` tells about the node beside the broker's figures.
pub(crate) struct NodeFacts {
    pub(crate) version: String,
    pub(crate) started: Instant,
}

pub(crate) fn topic_name(name: &str) -> Result<TopicName, ErrorReply> {
    TopicName::parse(name).map_err(|error| {
        ErrorReply::new(ErrorCode::InvalidArgument, format!("topic name: {error}"))
    })
}

fn metadata(
    broker: &Broker,
    request: &wire::MetadataRequest,
) -> Result<Response<'static>, ErrorReply> {
    let names =
        request.topics.iter().map(|name| topic_name(name)).collect::<Result<Vec<_>, _>>()?;
    let known = match names.is_empty() {
        true => broker.metadata(None),
        false => broker.metadata(Some(&names)),
    };
    let topics = match names.is_empty() {
        true => known.topics.iter().map(topic_routes).collect(),
        false => names.iter().map(|name| topic_routes_of(name, &known)).collect(),
    };
    let nodes = cluster::addresses(broker.describe_cluster());
    Ok(Response::Metadata(wire::MetadataReply { cluster: known.cluster, topics, nodes }))
}

/// The row of one name asked for: its routes, or that it is unknown.
fn topic_routes_of(name: &TopicName, known: &broker::Metadata) -> wire::TopicRoutes {
    let found = known.topics.iter().find(|topic| topic.topic.name == *name);
    found.map_or_else(
        || wire::TopicRoutes {
            name: name.to_string(),
            error: ErrorCode::UnknownTopic.number(),
            topic: barrage_model::TopicId(0),
            priorities: Priorities::NONE.levels(),
            order: TopicOrder::Partition,
            partitions: Vec::new(),
        },
        topic_routes,
    )
}

async fn init_producer(
    broker: &Broker,
    deadline: Instant,
) -> Result<Response<'static>, ErrorReply> {
    let identity = broker.init_producer(deadline).await.map_err(|e| error::admin(&e))?;
    let reply = wire::InitProducerReply { producer: identity.id, epoch: identity.epoch };
    Ok(Response::InitProducer(reply))
}

fn claim(request: &wire::ProducerClaim) -> broker::ClaimRequest {
    let wire::ProducerClaim { key, producer, kind, session_ms } = *request;
    let kind = match kind {
        wire::ClaimKind::Hold => broker::ClaimKind::Hold,
        wire::ClaimKind::TakeOver => broker::ClaimKind::TakeOver,
        wire::ClaimKind::Release => broker::ClaimKind::Release,
        wire::ClaimKind::Keep => broker::ClaimKind::Keep,
    };
    let claim = broker::Claim { producer, kind, session_ms };
    broker::ClaimRequest { key, claim }
}

fn topic_routes(topic: &broker::TopicMetadata) -> wire::TopicRoutes {
    wire::TopicRoutes {
        name: topic.topic.name.to_string(),
        error: 0,
        topic: topic.topic.id,
        priorities: topic.topic.priorities.levels(),
        order: topic.topic.order,
        partitions: topic.partitions.iter().map(route).collect(),
    }
}

fn route(partition: &broker::PartitionInfo) -> wire::PartitionRoute {
    wire::PartitionRoute {
        partition: partition.partition,
        shard: partition.shard,
        node: partition.leader.node,
        core: partition.leader.core,
        address: partition.leader.address.clone(),
    }
}

fn summary(topic: &broker::TopicInfo) -> wire::TopicSummary {
    wire::TopicSummary {
        name: topic.name.to_string(),
        topic: topic.id,
        partitions: topic.partitions,
        retention: topic.retention,
        priorities: topic.priorities.levels(),
        order: topic.order,
        created_ms: topic.created_ms,
    }
}

fn description(topic: &broker::TopicDescription) -> wire::TopicDescription {
    let partition = |partition: &broker::PartitionDescription| wire::PartitionDescription {
        route: route(&partition.info),
        start_offset: partition.start_offset,
        high_watermark: partition.high_watermark,
        bytes: partition.bytes,
    };
    wire::TopicDescription {
        summary: summary(&topic.topic),
        partitions: topic.partitions.iter().map(partition).collect(),
    }
}

async fn list_offset(
    broker: &Broker,
    request: &wire::ListOffsetRequest,
    deadline: Instant,
) -> Result<Response<'static>, ErrorReply> {
    let at = match request.at {
        wire::At::Start => broker::At::Start,
        wire::At::End => broker::At::End,
        wire::At::Time(milliseconds) => broker::At::Time(milliseconds),
    };
    let listed = broker.list_offset(request.key, at, deadline).await;
    let listed = listed.map_err(|e| error::fetch(&e))?;
    Ok(Response::ListOffset(wire::ListOffsetReply {
        offset: listed.offset,
        start_offset: listed.start_offset,
        high_watermark: listed.high_watermark,
    }))
}

async fn stats(
    broker: &Broker,
    deadline: Instant,
    node: &NodeFacts,
) -> Result<Response<'static>, ErrorReply> {
    let cores = broker.stats(deadline).await.map_err(|e| error::admin(&e))?;
    let shards = cores
        .iter()
        .flat_map(|core| core.shards.iter().map(|shard| shard_stats(core.core, shard)))
        .collect();
    let uptime = u64::try_from(node.started.elapsed().as_millis()).unwrap_or(u64::MAX);
    Ok(Response::Stats(wire::StatsReply {
        node: broker.node(),
        version: node.version.clone(),
        uptime_ms: uptime,
        cores: cores.iter().map(core_stats).collect(),
        shards,
    }))
}

fn core_stats(core: &broker::CoreStats) -> wire::CoreStats {
    wire::CoreStats {
        core: core.core,
        connections: u32::try_from(core.connections).unwrap_or(u32::MAX),
        mailbox_depth: core.mailbox_depth,
        memory_bytes: core.memory_bytes,
        memory_bytes_max: core.memory_budget_bytes,
    }
}

fn shard_stats(core: CoreId, shard: &broker::ShardStats) -> wire::ShardStats {
    wire::ShardStats {
        shard: shard.shard,
        core,
        partitions: u32::try_from(shard.partitions).unwrap_or(u32::MAX),
        records: shard.records,
        bytes: shard.bytes,
        flushes: shard.flushes,
        flush_p50_us: shard.flush_p50_us,
        flush_p99_us: shard.flush_p99_us,
        entries_in_flight: shard.entries_in_flight,
        cache_bytes: shard.cache_bytes,
        cache_hits: shard.cache_hits,
        cache_misses: shard.cache_misses,
        disk_bytes: shard.disk_bytes,
        batches_waiting: shard.batches_waiting,
        bytes_waiting: shard.bytes_waiting,
    }
}

#[cfg(test)]
mod tests {
    use barrage_model::{Offset, PartitionId, PartitionKey, TopicId};

    use super::*;

    #[test]
    fn what_a_fetch_asks_for_is_bounded() {
        let key = PartitionKey { topic: TopicId(1), partition: PartitionId(0) };
        let (offset, all) = (Offset(0), u32::MAX);
        let asked =
            wire::FetchRequest { key, offset, bytes_max: all, bytes_min: all, wait_ms: all };
        let request = fetch_request(&asked, Instant(0));
        assert_eq!(request.bytes_max, Options::FETCH_BYTES_MAX);
        assert_eq!(request.bytes_min, Options::FETCH_BYTES_MAX);
        assert_eq!(request.wait_until, Instant(0) + Options::REQUEST_TIMEOUT_MAX);
    }

    #[test]
    fn a_deadline_has_a_default_and_a_limit() {
        let options = Options::default();
        let check = |timeout_ms, expected| {
            assert_eq!(deadline(timeout_ms, Instant(0), &options), Instant(0) + expected);
        };
        check(0, options.request_timeout);
        check(5, Duration::from_millis(5));
        check(u32::MAX, Options::REQUEST_TIMEOUT_MAX);
    }

    #[test]
    fn a_bad_name_is_the_callers_fault() {
        assert!(topic_name("orders").is_ok());
        assert_eq!(topic_name("a b").unwrap_err().code, ErrorCode::InvalidArgument);
        assert_eq!(topic_name("").unwrap_err().code, ErrorCode::InvalidArgument);
    }
}
