//! One reply of the native protocol, as a client reads it. The header's length is made right.
//!
//! Checked: what was read can be written and read again; if nothing was stepped over, it is
//! written as the same bytes.

use barrage_model::{
    CoreId, GroupId, NodeId, Offset, PartitionId, PartitionKey, ProducerEpoch, ProducerId,
    Retention, ShardId, Term, TopicId, TopicOrder,
};
use barrage_wire::{
    ClusterChanged, ClusterDescription, CoreStats, Correlation, ErrorCode, ErrorReply, FetchReply,
    FrameHeader, GroupKind, GroupListReply, GroupSummary, HelloReply, Hint, InitProducerReply,
    Lease, ListOffsetReply, MetadataReply, NodeAddress, NodeDescription, PartitionDescription,
    PartitionOffset, PartitionRoute, ProduceReply, QueueCountsReply, QueuePeekReply,
    QueueReceiveReply, QueueSettleReply, Response, SessionLimits, Settled, ShardDescription,
    ShardStats, Standing, StatsReply, Stored, StreamDescription, StreamHeartbeatReply,
    StreamMember, StreamMemberDescription, StreamOffset, StreamOffsetsReply, StreamStoredReply,
    TopicDescription, TopicListReply, TopicRoutes, TopicSummary,
};
use bytes::BytesMut;

use crate::meter::aside;
use crate::target::{LARGE_BYTES, Seed, Target, Verdict, no_extra};

pub(super) const TARGET: Target = Target {
    name: "responses",
    input_bytes_max: 16 * 1024,
    run,
    memory_extra: no_extra,
    seeds,
    large,
};

fn run(input: &[u8]) -> Verdict {
    let Some(header) = FrameHeader::parse(input) else { return Verdict::Refused };
    let body = input.get(FrameHeader::SIZE..).unwrap_or_default();
    let header = FrameHeader::new(header.opcode, header.detail, header.correlation, body.len());
    let Ok(response) = Response::decode(&header, body) else { return Verdict::Refused };
    aside(|| {
        let mut again = BytesMut::new();
        response.encode(header.correlation, &mut again);
        let (head, rest) = again.split_at(FrameHeader::SIZE);
        let head = FrameHeader::parse(head);
        assert!(head.is_some(), "an encoded reply begins with a header");
        let same = head.map(|head| Response::decode(&head, rest));
        assert_eq!(same.as_ref(), Some(&Ok(response)), "a reply changes when it is sent again");
        assert!(rest.len() <= body.len(), "a reply grows when it is sent again");
        if rest.len() == body.len() {
            assert_eq!(rest, body, "two bodies of one length mean the same reply");
        }
    });
    Verdict::Taken
}

pub(super) fn seeds() -> Vec<Seed> {
    let batch = super::batch::plain();
    let mut responses = errors();
    responses.extend(topics());
    responses.extend(clusters());
    responses.extend(groups());
    responses.extend(queues());
    responses.extend(streams());
    responses.push(Response::QueueReceive(QueueReceiveReply {
        more: true,
        leases: vec![lease(); 3],
        batches: &batch,
    }));
    responses.extend([
        Response::Hello(hello()),
        Response::Ping,
        Response::Stats(stats()),
        Response::Produce(ProduceReply { base_offset: Offset(7), log_time_ms: 8 }),
        Response::Fetch(FetchReply {
            high_watermark: Offset(9),
            start_offset: Offset(1),
            batches: &batch,
        }),
        Response::ListOffset(ListOffsetReply {
            offset: Offset(7),
            start_offset: Offset(1),
            high_watermark: Offset(9),
        }),
        Response::InitProducer(InitProducerReply {
            producer: ProducerId(7),
            epoch: ProducerEpoch(0),
        }),
    ]);
    let encode = |(index, response): (u32, Response<'_>)| {
        let mut out = BytesMut::new();
        response.encode(Correlation(index), &mut out);
        (format!("{:04x}-{index}", response.reply_code()), out.to_vec())
    };
    (0..).zip(responses).map(encode).collect()
}

fn errors() -> Vec<Response<'static>> {
    let (node, core, address) = (NodeId(1), CoreId(2), "host:7401".to_owned());
    let hints = [
        Hint::None,
        Hint::Leader { node, core, address },
        Hint::Offsets { start: Offset(1), high_watermark: Offset(9) },
        Hint::RetryAfter { milliseconds: 5 },
        Hint::Copies { have: 2, want: 3 },
    ];
    let error = |hint| Response::Error {
        opcode: 16,
        error: ErrorReply::with_hint(ErrorCode::NotLeader, "elsewhere", hint),
    };
    hints.map(error).into()
}

fn hello() -> HelloReply {
    let limits = SessionLimits {
        frame_bytes_max: 16 << 20,
        batch_bytes_max: 8 << 20,
        in_flight_requests_max: 1024,
        in_flight_bytes_max: 32 << 20,
        idle_timeout_ms: 600_000,
    };
    let server_name = "barrage".to_owned();
    HelloReply { version: 1, node: NodeId(1), core: CoreId(2), limits, server_name }
}

fn stats() -> StatsReply {
    StatsReply {
        node: NodeId(1),
        version: "0".to_owned(),
        uptime_ms: 2,
        cores: vec![CoreStats::default(); 2],
        shards: vec![ShardStats { shard: ShardId(1), records: 3, ..ShardStats::default() }],
    }
}

fn topics() -> Vec<Response<'static>> {
    let summary = |name: &str| TopicSummary {
        name: name.to_owned(),
        topic: TopicId(5),
        partitions: 4,
        retention: Retention { time_ms: Some(9), ..Retention::UNLIMITED },
        priorities: 3,
        order: TopicOrder::Partition,
        created_ms: 8,
    };
    let route = |partition| PartitionRoute {
        partition: PartitionId(partition),
        shard: ShardId(2),
        node: NodeId(1),
        core: CoreId(1),
        address: "h:1".to_owned(),
    };
    let description = |partition| PartitionDescription {
        route: route(partition),
        start_offset: Offset(1),
        high_watermark: Offset(9),
        bytes: 3,
    };
    let routes = |name: &str, count| TopicRoutes {
        name: name.to_owned(),
        error: 0,
        topic: TopicId(5),
        priorities: 3,
        order: TopicOrder::Partition,
        partitions: (0..count).map(route).collect(),
    };
    let topics = vec![routes("a", 0), routes("b", 3)];
    let nodes = vec![NodeAddress { node: NodeId(2), address: "h:2".to_owned() }];
    vec![
        Response::Metadata(MetadataReply { cluster: "c".to_owned(), topics, nodes }),
        Response::TopicCreate(summary("a")),
        Response::TopicAlter(summary("b")),
        Response::TopicDelete,
        Response::TopicList(TopicListReply { topics: vec![summary("a"), summary("b")] }),
        Response::TopicDescribe(TopicDescription {
            summary: summary("a"),
            partitions: (0..3).map(description).collect(),
        }),
    ]
}

fn group(name: &str) -> GroupSummary {
    let kind = GroupKind::Queue(super::requests::group_settings());
    GroupSummary { name: name.to_owned(), group: GroupId(9), kind, created_ms: 8 }
}

fn stream_group(name: &str, topics: usize) -> GroupSummary {
    let kind = GroupKind::Stream { topics: vec![name.to_owned(); topics] };
    GroupSummary { kind, ..group(name) }
}

fn groups() -> [Response<'static>; 4] {
    let groups = vec![group("a"), group("b"), stream_group("c", 2)];
    [
        Response::GroupCreate(group("a")),
        Response::GroupAlter(group("b")),
        Response::GroupDelete,
        Response::GroupList(GroupListReply { topic: TopicId(5), partitions: 4, groups }),
    ]
}

fn stream_member(own: usize) -> StreamMemberDescription {
    StreamMemberDescription {
        member: StreamMember { id: "m".to_owned(), instance: None },
        generation: 3,
        own: vec![PartitionId(3); own],
        give_up: vec![PartitionId(1)],
    }
}

fn stream_offset() -> StreamOffset {
    let key = PartitionKey { topic: TopicId(5), partition: PartitionId(3) };
    let metadata = "kept".to_owned();
    StreamOffset { key, offset: Offset(7), leader_epoch: Some(2), metadata }
}

fn streams() -> [Response<'static>; 6] {
    let results = vec![
        Stored::Done,
        Stored::NotOwner,
        Stored::Behind { stored: Offset(9) },
        Stored::UnknownPartition,
        Stored::OutOfRange,
        Stored::MetadataTooLong,
        Stored::Full,
    ];
    let key = stream_offset().key;
    [
        Response::StreamHeartbeat(StreamHeartbeatReply {
            member: "m".to_owned(),
            generation: 3,
            own: vec![key, key],
            give_up: vec![key],
            interval_ms: 500,
        }),
        Response::StreamLeave,
        Response::StreamCommit(StreamStoredReply { results: results.clone() }),
        Response::StreamOffsets(StreamOffsetsReply { offsets: vec![stream_offset()] }),
        Response::StreamReset(StreamStoredReply { results }),
        Response::StreamDescribe(StreamDescription {
            generation: 3,
            standing: Standing::Stable,
            members: vec![stream_member(2), stream_member(0)],
            offsets: vec![PartitionOffset { partition: PartitionId(3), offset: Offset(7) }],
        }),
    ]
}

fn large_streams() -> [(&'static str, Response<'static>); 3] {
    let results = vec![Stored::Done; LARGE_BYTES / 5];
    let offset = StreamOffset { metadata: String::new(), ..stream_offset() };
    let offsets = vec![offset; LARGE_BYTES / 33];
    let members = vec![stream_member(0); LARGE_BYTES / 34];
    let (standing, offsets_of_none) = (Standing::Stable, Vec::new());
    let description =
        StreamDescription { generation: 3, standing, members, offsets: offsets_of_none };
    [
        ("stored", Response::StreamCommit(StreamStoredReply { results })),
        ("offsets", Response::StreamOffsets(StreamOffsetsReply { offsets })),
        ("members", Response::StreamDescribe(description)),
    ]
}

fn lease() -> Lease {
    Lease { offset: Offset(7), tag: 1, deliveries: 2, first_ms: 3, left_ms: 4 }
}

fn queues() -> [Response<'static>; 4] {
    let results = vec![
        Settled::Done,
        Settled::AlreadySettled,
        Settled::NotLeased,
        Settled::Stale,
        Settled::NeverLeased,
    ];
    [
        Response::QueueSettle(QueueSettleReply { results }),
        Response::QueuePeek(QueuePeekReply { offsets: vec![Offset(1), Offset(9)] }),
        Response::QueueSeek,
        Response::QueueCounts(QueueCountsReply {
            start: Offset(1),
            visible: 2,
            leased: 3,
            delayed: 4,
            dying: 5,
        }),
    ]
}

fn clusters() -> Vec<Response<'static>> {
    let cluster = ClusterDescription {
        nodes: vec![node("db1:7400"), node("")],
        shards: vec![shard(3), shard(0)],
        ..empty_cluster()
    };
    let changed = ClusterChanged { node: NodeId(2), cluster: "c".to_owned(), shards: 4 };
    vec![Response::ClusterDescribe(cluster), Response::ClusterChange(changed)]
}

fn empty_cluster() -> ClusterDescription {
    ClusterDescription {
        cluster: "c".to_owned(),
        node: NodeId(1),
        level: 1,
        copies_wanted: 3,
        healthy: false,
        nodes: Vec::new(),
        shards: Vec::new(),
    }
}

fn node(address: &str) -> NodeDescription {
    NodeDescription {
        node: NodeId(2),
        peer: address.to_owned(),
        client: address.to_owned(),
        present: true,
        leaving: false,
        level: 1,
        cores: 4,
        copies: 5,
        leads: 2,
    }
}

/// A shard with so many replicas; without any it has no leader either.
fn shard(replicas: u64) -> ShardDescription {
    let nodes: Vec<_> = (1..=replicas).map(NodeId).collect();
    ShardDescription {
        shard: ShardId(3),
        leader: nodes.first().copied(),
        term: Term(6),
        under_replicated: true,
        assigned: nodes.clone(),
        voters: nodes.clone(),
        learners: nodes.clone(),
        in_sync: nodes,
    }
}

/// Lists whose rows are as short as rows can be.
fn large() -> Vec<Seed> {
    let summary = TopicSummary {
        name: String::new(),
        topic: TopicId(5),
        partitions: 4,
        retention: Retention::UNLIMITED,
        priorities: 1,
        order: TopicOrder::Partition,
        created_ms: 8,
    };
    let route = PartitionRoute {
        partition: PartitionId(0),
        shard: ShardId(2),
        node: NodeId(1),
        core: CoreId(1),
        address: String::new(),
    };
    let description = PartitionDescription {
        route: route.clone(),
        start_offset: Offset(1),
        high_watermark: Offset(9),
        bytes: 3,
    };
    let (error, topic) = (0, TopicId(5));
    let routes = |partitions| {
        let (name, priorities) = (String::new(), 1);
        TopicRoutes { name, error, topic, priorities, order: TopicOrder::Partition, partitions }
    };
    let metadata =
        |topics, nodes| Response::Metadata(MetadataReply { cluster: String::new(), topics, nodes });
    let address = NodeAddress { node: NodeId(2), address: String::new() };
    let cluster = |nodes, shards| {
        Response::ClusterDescribe(ClusterDescription { nodes, shards, ..empty_cluster() })
    };
    let in_full = ShardDescription { shard: ShardId(1), ..shard(LARGE_BYTES as u64 / 48) };
    let cores = vec![CoreStats::default(); LARGE_BYTES / 34];
    let shards = vec![ShardStats::default(); LARGE_BYTES / 110];
    let topics = vec![summary.clone(); LARGE_BYTES / 34];
    let partitions = vec![description; LARGE_BYTES / 50];
    let leases = vec![lease(); LARGE_BYTES / 30];
    let leases = QueueReceiveReply { more: false, leases, batches: &[] };
    let results = vec![Settled::Done; LARGE_BYTES];
    let groups = vec![group(""); LARGE_BYTES / 50];
    let groups = GroupListReply { topic, partitions: 4, groups };
    let cases = [
        ("topics", metadata(vec![routes(Vec::new()); LARGE_BYTES / 22], Vec::new())),
        ("routes", metadata(vec![routes(vec![route; LARGE_BYTES / 26])], Vec::new())),
        ("addresses", metadata(Vec::new(), vec![address; LARGE_BYTES / 16])),
        ("nodes", cluster(vec![node(""); LARGE_BYTES / 36], Vec::new())),
        ("replicas", cluster(Vec::new(), vec![in_full])),
        ("shards-held-by-nobody", cluster(Vec::new(), vec![shard(0); LARGE_BYTES / 34])),
        ("cores", Response::Stats(StatsReply { cores, ..stats() })),
        ("shards", Response::Stats(StatsReply { shards, ..stats() })),
        ("summaries", Response::TopicList(TopicListReply { topics })),
        ("descriptions", Response::TopicDescribe(TopicDescription { summary, partitions })),
        ("leases", Response::QueueReceive(leases)),
        ("results", Response::QueueSettle(QueueSettleReply { results })),
        ("groups", Response::GroupList(groups)),
    ];
    let cases = cases.into_iter().chain(large_streams());
    let encode = |(name, response): (&str, Response<'_>)| {
        let mut out = BytesMut::new();
        response.encode(Correlation(1), &mut out);
        (name.to_owned(), out.to_vec())
    };
    cases.into_iter().map(encode).collect()
}
