//! Golden frames: the bytes of every message, as other languages must make them. A test that
//! fails here means that the protocol changed: that takes a new version, never a new golden frame.
//!
//! Each frame is also cut at every length, and has every byte changed: decoders must answer.

use barrage_model::group::Order;
use barrage_model::{
    CoreId, GroupId, NodeId, Offset, PartitionId, PartitionKey, ProducerEpoch, ProducerId,
    Retention, ShardId, Term, TopicId, TopicOrder,
};
use bytes::BytesMut;

use crate::{
    Acks, Assignor, At, ClaimKind, ClusterChange, ClusterChanged, ClusterDescription, ClusterJoin,
    CoreStats, Correlation, Delay, DelayChange, DelayChangeReply, DelayChanged, DelayList,
    DelayListReply, DelayedFate, DelayedRecord, ErrorCode, ErrorReply, FetchReply, FetchRequest,
    FrameDecoder, FrameHeader, GroupAlter, GroupCreate, GroupDelete, GroupKind, GroupList,
    GroupListReply, GroupSettings, GroupSummary, Hello, HelloReply, Hint, InitProducerReply, Lease,
    ListOffsetReply, ListOffsetRequest, MetadataReply, MetadataRequest, NewGroup, NodeAddress,
    NodeDescription, OPCODES, Opcode, PartitionDescription, PartitionOffset, PartitionRoute,
    ProduceDelayed, ProduceReply, ProduceRequest, ProducerClaim, QueueCounts, QueueCountsReply,
    QueuePeek, QueuePeekReply, QueueReceive, QueueReceiveReply, QueueSeek, QueueSettle,
    QueueSettleReply, Receipt, Request, ResetTo, Response, Seek, SessionLimits, Settled,
    Settlement, ShardDescription, ShardStats, Standing, StatsReply, Stored, StreamBeat,
    StreamCommit, StreamCommitter, StreamDescribe, StreamDescription, StreamHeartbeat,
    StreamHeartbeatReply, StreamLeave, StreamMember, StreamMemberDescription, StreamOffset,
    StreamOffsets, StreamOffsetsReply, StreamReads, StreamReset, StreamStoredReply, TopicAlter,
    TopicCreate, TopicDelete, TopicDescribe, TopicDescription, TopicListReply, TopicRoutes,
    TopicSummary,
};

const KEY: PartitionKey = PartitionKey { topic: TopicId(5), partition: PartitionId(3) };
const CORRELATION: Correlation = Correlation(0x0a0b_0c0d);

fn route() -> PartitionRoute {
    PartitionRoute {
        partition: PartitionId(3),
        shard: ShardId(2),
        node: NodeId(1),
        core: CoreId(1),
        address: "h:1".to_owned(),
    }
}

fn summary() -> TopicSummary {
    TopicSummary {
        name: "t".to_owned(),
        topic: TopicId(5),
        partitions: 4,
        retention: Retention { time_ms: Some(9), ..Retention::UNLIMITED },
        priorities: 3,
        order: TopicOrder::Global,
        created_ms: 8,
    }
}

fn requests() -> Vec<Request<'static>> {
    vec![
        Request::Hello(Hello::new("me")),
        Request::Ping,
        Request::Metadata(MetadataRequest { topics: vec!["t".to_owned()] }),
        Request::Stats,
        Request::Produce(ProduceRequest {
            key: KEY,
            acks: Acks::Quorum,
            timeout_ms: 1000,
            batch: b"batch",
        }),
        Request::Fetch(FetchRequest {
            key: KEY,
            offset: Offset(7),
            bytes_max: 4096,
            bytes_min: 1,
            wait_ms: 500,
        }),
        Request::ListOffset(ListOffsetRequest { key: KEY, at: At::Time(-2) }),
        Request::InitProducer,
        Request::ProduceDelayed(ProduceDelayed {
            key: KEY,
            acks: Acks::All,
            timeout_ms: 1000,
            delay: Delay::After(vec![5, 6]),
            batch: b"batch",
        }),
        Request::ProduceDelayed(ProduceDelayed {
            key: KEY,
            acks: Acks::Quorum,
            timeout_ms: 0,
            delay: Delay::At(vec![7]),
            batch: b"batch",
        }),
        Request::DelayChange(DelayChange {
            key: KEY,
            fate: DelayedFate::Cancel,
            ids: vec![Offset(1), Offset(2)],
        }),
        Request::DelayChange(DelayChange {
            key: KEY,
            fate: DelayedFate::MoveTo(9),
            ids: vec![Offset(1)],
        }),
        Request::DelayChange(DelayChange {
            key: KEY,
            fate: DelayedFate::Postpone(10),
            ids: vec![],
        }),
        Request::DelayList(DelayList { key: KEY, count_max: 3 }),
        Request::ProducerClaim(ProducerClaim {
            key: KEY,
            producer: ProducerId(77),
            kind: ClaimKind::Hold,
            session_ms: 10_000,
        }),
        Request::ProducerClaim(ProducerClaim {
            key: KEY,
            producer: ProducerId(77),
            kind: ClaimKind::TakeOver,
            session_ms: 10_000,
        }),
        Request::ProducerClaim(ProducerClaim {
            key: KEY,
            producer: ProducerId(77),
            kind: ClaimKind::Release,
            session_ms: 10_000,
        }),
        Request::ProducerClaim(ProducerClaim {
            key: KEY,
            producer: ProducerId(77),
            kind: ClaimKind::Keep,
            session_ms: 10_000,
        }),
        Request::TopicCreate(TopicCreate {
            name: "t".to_owned(),
            partitions: 4,
            retention: Some(Retention { time_ms: Some(9), ..Retention::UNLIMITED }),
            priorities: 3,
            order: TopicOrder::Global,
        }),
        Request::TopicAlter(TopicAlter {
            name: "t".to_owned(),
            partitions: Some(8),
            retention: None,
        }),
        Request::TopicDelete(TopicDelete { name: "t".to_owned() }),
        Request::TopicList,
        Request::TopicDescribe(TopicDescribe { name: "t".to_owned() }),
        Request::ClusterDescribe,
    ]
    .into_iter()
    .chain(cluster_changes().map(Request::ClusterChange))
    .chain(group_requests())
    .chain(stream_requests())
    .collect()
}

fn group_settings() -> GroupSettings {
    GroupSettings {
        visibility_ms: 30_000,
        deliveries_max: Some(16),
        max_age_ms: Some(7),
        dead_letter: Some("d".to_owned()),
        backoff: "10s".to_owned(),
        filter: Some("tags:a".to_owned()),
        order: Order::Key,
    }
}

fn group_requests() -> Vec<Request<'static>> {
    let (topic, name) = ("t".to_owned(), "g".to_owned());
    let (settings, group) = (group_settings(), GroupId(6));
    let settle = |settlement| {
        let receipts = vec![Receipt { offset: Offset(7), tag: 8 }];
        Request::QueueSettle(QueueSettle { key: KEY, group, settlement, receipts })
    };
    vec![
        Request::GroupCreate(GroupCreate {
            topic: topic.clone(),
            name: name.clone(),
            kind: NewGroup::Queue { settings: settings.clone(), at_end: true },
        }),
        Request::GroupCreate(GroupCreate {
            topic: topic.clone(),
            name: name.clone(),
            kind: NewGroup::Stream,
        }),
        Request::GroupAlter(GroupAlter { topic: topic.clone(), name: name.clone(), settings }),
        Request::GroupDelete(GroupDelete { topic: topic.clone(), name }),
        Request::GroupList(GroupList { topic }),
        Request::QueueReceive(QueueReceive {
            key: KEY,
            group,
            count_max: 10,
            bytes_max: 4096,
            visibility_ms: Some(5_000),
            wait_ms: 500,
        }),
        settle(Settlement::Ack),
        settle(Settlement::Nack { delay_ms: Some(9) }),
        settle(Settlement::Extend { visibility_ms: 9 }),
        settle(Settlement::Release),
        Request::QueuePeek(QueuePeek { key: KEY, group, count_max: 10 }),
        Request::QueueSeek(QueueSeek { key: KEY, group, to: Seek::Rewind(Offset(7)) }),
        Request::QueueSeek(QueueSeek { key: KEY, group, to: Seek::Skip(Offset(7)) }),
        Request::QueueCounts(QueueCounts { key: KEY, group }),
    ]
}

fn stream_member() -> StreamMember {
    StreamMember { id: "m".to_owned(), instance: Some("i".to_owned()) }
}

fn stream_offset() -> StreamOffset {
    let metadata = "x".to_owned();
    StreamOffset { key: KEY, offset: Offset(7), leader_epoch: Some(2), metadata }
}

fn stream_requests() -> Vec<Request<'static>> {
    let group = GroupId(6);
    let beat =
        |beat| Request::StreamHeartbeat(StreamHeartbeat { group, member: stream_member(), beat });
    let reads = StreamReads { topics: vec![TopicId(5)], assignor: Assignor::Range };
    let committer = StreamCommitter { member: stream_member(), generation: 4 };
    vec![
        beat(StreamBeat::Join { reads: reads.clone(), session_ms: 45_000, rebalance_ms: 300_000 }),
        beat(StreamBeat::Stay { generation: 4, held: Some(vec![KEY]), reads: Some(reads) }),
        Request::StreamLeave(StreamLeave { group, member: stream_member() }),
        Request::StreamCommit(StreamCommit {
            group,
            committer: Some(committer),
            offsets: vec![stream_offset()],
        }),
        Request::StreamOffsets(StreamOffsets { group, keys: vec![KEY] }),
        Request::StreamReset(StreamReset {
            group,
            to: vec![ResetTo { key: KEY, offset: Offset(7) }],
        }),
        Request::StreamDescribe(StreamDescribe { group, topic: TopicId(5) }),
    ]
}

fn stream_responses() -> Vec<Response<'static>> {
    let results = vec![
        Stored::Done,
        Stored::NotOwner,
        Stored::Behind { stored: Offset(9) },
        Stored::UnknownPartition,
        Stored::OutOfRange,
        Stored::MetadataTooLong,
        Stored::Full,
    ];
    vec![
        Response::StreamHeartbeat(StreamHeartbeatReply {
            member: "m".to_owned(),
            generation: 4,
            own: vec![KEY],
            give_up: vec![KEY],
            interval_ms: 3_000,
        }),
        Response::StreamLeave,
        Response::StreamCommit(StreamStoredReply { results }),
        Response::StreamOffsets(StreamOffsetsReply { offsets: vec![stream_offset()] }),
        Response::StreamReset(StreamStoredReply { results: vec![Stored::Done] }),
        Response::StreamDescribe(StreamDescription {
            generation: 4,
            standing: Standing::Reconciling,
            members: vec![StreamMemberDescription {
                member: stream_member(),
                generation: 3,
                own: vec![PartitionId(3)],
                give_up: vec![PartitionId(1)],
            }],
            offsets: vec![PartitionOffset { partition: PartitionId(3), offset: Offset(7) }],
        }),
    ]
}

fn cluster_changes() -> [ClusterChange; 6] {
    [
        ClusterChange::Join(ClusterJoin {
            birth: 0x0102_0304_0506_0708_090a_0b0c_0d0e_0f10,
            peer: "p:1".to_owned(),
            client: "h:1".to_owned(),
            level: 1,
        }),
        ClusterChange::Decommission { node: NodeId(2) },
        ClusterChange::Recommission { node: NodeId(2) },
        ClusterChange::Transfer { shard: ShardId(3), to: NodeId(2) },
        ClusterChange::Balance,
        ClusterChange::SetCopies { copies: 3 },
    ]
}

fn cluster() -> ClusterDescription {
    ClusterDescription {
        cluster: "c".to_owned(),
        node: NodeId(1),
        level: 1,
        copies_wanted: 3,
        healthy: false,
        nodes: vec![NodeDescription {
            node: NodeId(2),
            peer: "p:1".to_owned(),
            client: "h:1".to_owned(),
            present: true,
            leaving: false,
            level: 1,
            cores: 4,
            copies: 5,
            leads: 2,
        }],
        shards: vec![ShardDescription {
            shard: ShardId(3),
            leader: Some(NodeId(2)),
            term: Term(6),
            under_replicated: true,
            assigned: vec![NodeId(2), NodeId(1)],
            voters: vec![NodeId(1), NodeId(2)],
            learners: vec![NodeId(4)],
            in_sync: vec![NodeId(2)],
        }],
    }
}

fn responses() -> Vec<Response<'static>> {
    vec![
        Response::Hello(HelloReply {
            version: 1,
            node: NodeId(1),
            core: CoreId(2),
            limits: SessionLimits {
                frame_bytes_max: 16 << 20,
                batch_bytes_max: 8 << 20,
                in_flight_requests_max: 1024,
                in_flight_bytes_max: 32 << 20,
                idle_timeout_ms: 600_000,
            },
            server_name: "barrage".to_owned(),
        }),
        Response::Ping,
        Response::Metadata(MetadataReply {
            cluster: "c".to_owned(),
            topics: vec![TopicRoutes {
                name: "t".to_owned(),
                error: 0,
                topic: TopicId(5),
                priorities: 3,
                order: TopicOrder::Global,
                partitions: vec![route()],
            }],
            nodes: vec![NodeAddress { node: NodeId(2), address: "h:2".to_owned() }],
        }),
        Response::Stats(StatsReply {
            node: NodeId(1),
            version: "0".to_owned(),
            uptime_ms: 2,
            cores: vec![CoreStats { core: CoreId(1), ..CoreStats::default() }],
            shards: vec![ShardStats { shard: ShardId(1), records: 3, ..ShardStats::default() }],
        }),
        Response::Produce(ProduceReply { base_offset: Offset(7), log_time_ms: 8 }),
        Response::Fetch(FetchReply {
            high_watermark: Offset(9),
            start_offset: Offset(1),
            batches: b"batches",
        }),
        Response::ListOffset(ListOffsetReply {
            offset: Offset(7),
            start_offset: Offset(1),
            high_watermark: Offset(9),
        }),
        Response::InitProducer(InitProducerReply {
            producer: ProducerId(77),
            epoch: ProducerEpoch(0),
        }),
        Response::ProduceDelayed(ProduceReply { base_offset: Offset(7), log_time_ms: 8 }),
        Response::DelayChange(DelayChangeReply {
            results: vec![DelayChanged::Done, DelayChanged::Gone, DelayChanged::Unknown],
        }),
        Response::DelayList(DelayListReply {
            count: 9,
            oldest: vec![DelayedRecord { id: Offset(1), due_ms: 2 }],
        }),
        Response::ProducerClaim,
        Response::TopicCreate(summary()),
        Response::TopicAlter(summary()),
        Response::TopicDelete,
        Response::TopicList(TopicListReply { topics: vec![summary()] }),
        Response::TopicDescribe(TopicDescription {
            summary: summary(),
            partitions: vec![PartitionDescription {
                route: route(),
                start_offset: Offset(1),
                high_watermark: Offset(9),
                bytes: 100,
            }],
        }),
        Response::ClusterDescribe(cluster()),
        Response::ClusterChange(ClusterChanged {
            node: NodeId(2),
            cluster: "c".to_owned(),
            shards: 4,
        }),
    ]
    .into_iter()
    .chain(group_responses())
    .chain(stream_responses())
    .collect()
}

fn group_responses() -> Vec<Response<'static>> {
    let summary = |kind| {
        let (name, group) = ("g".to_owned(), GroupId(6));
        GroupSummary { name, group, kind, created_ms: 8 }
    };
    let queue = || summary(GroupKind::Queue(group_settings()));
    let stream = summary(GroupKind::Stream { topics: vec!["t".to_owned()] });
    let lease = Lease { offset: Offset(7), tag: 8, deliveries: 2, first_ms: 9, left_ms: 5_000 };
    vec![
        Response::GroupCreate(queue()),
        Response::GroupAlter(queue()),
        Response::GroupDelete,
        Response::GroupList(GroupListReply {
            topic: TopicId(5),
            partitions: 4,
            groups: vec![queue(), stream],
        }),
        Response::QueueReceive(QueueReceiveReply {
            more: true,
            leases: vec![lease],
            batches: b"batches",
        }),
        Response::QueueSettle(QueueSettleReply {
            results: vec![
                Settled::Done,
                Settled::AlreadySettled,
                Settled::NotLeased,
                Settled::Stale,
                Settled::NeverLeased,
            ],
        }),
        Response::QueuePeek(QueuePeekReply { offsets: vec![Offset(7), Offset(9)] }),
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

fn errors() -> Vec<Response<'static>> {
    let hints = [
        Hint::None,
        Hint::Leader { node: NodeId(1), core: CoreId(2), address: "h:1".to_owned() },
        Hint::Offsets { start: Offset(1), high_watermark: Offset(9) },
        Hint::RetryAfter { milliseconds: 100 },
        Hint::Copies { have: 1, want: 3 },
    ];
    let error = |hint| Response::Error {
        opcode: Opcode::Produce.request_code(),
        error: ErrorReply::with_hint(ErrorCode::NotLeader, "no", hint),
    };
    hints.map(error).into()
}

fn encode_request(request: &Request<'_>) -> BytesMut {
    let mut out = BytesMut::new();
    request.encode(CORRELATION, &mut out);
    out
}

fn encode_response(response: &Response<'_>) -> BytesMut {
    let mut out = BytesMut::new();
    response.encode(CORRELATION, &mut out);
    out
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// One line per frame: its name, then its bytes.
fn listing() -> String {
    let mut lines = String::new();
    for request in requests() {
        lines += &format!("request {:?} {}\n", request.opcode(), hex(&encode_request(&request)));
    }
    for response in responses().iter().chain(&errors()) {
        let name = Opcode::from_reply(response.reply_code()).unwrap();
        let kind = match response {
            Response::Error { .. } => "error",
            _ => "reply",
        };
        lines += &format!("{kind} {name:?} {}\n", hex(&encode_response(response)));
    }
    lines
}

#[test]
fn frames_have_these_bytes() {
    let golden = include_str!("golden.txt");
    for (made, golden) in listing().lines().zip(golden.lines()) {
        assert_eq!(made, golden);
    }
    assert_eq!(listing(), golden, "the whole listing is on the left, for a new message");
}

#[test]
fn every_message_is_among_the_golden_frames() {
    for opcode in OPCODES {
        assert!(requests().iter().any(|request| request.opcode() == opcode), "{opcode:?}");
        let code = opcode.reply_code();
        assert!(responses().iter().any(|response| response.reply_code() == code), "{opcode:?}");
    }
}

#[test]
fn messages_come_back_from_their_bytes() {
    for request in requests() {
        let bytes = encode_request(&request);
        let (header, body) = split(&bytes);
        assert_eq!(Request::decode(&header, body), Ok(request));
    }
    for response in responses().into_iter().chain(errors()) {
        let bytes = encode_response(&response);
        let (header, body) = split(&bytes);
        assert_eq!(Response::decode(&header, body), Ok(response));
    }
}

fn split(frame: &[u8]) -> (FrameHeader, &[u8]) {
    let header = FrameHeader::parse(frame).unwrap();
    assert_eq!(header.check(u32::MAX), Ok(()));
    assert_eq!(header.frame_size(), frame.len());
    assert_eq!(header.correlation, CORRELATION);
    (header, &frame[FrameHeader::SIZE..])
}

#[test]
fn a_cut_body_is_an_error() {
    let raw_tail = |opcode| match opcode {
        Opcode::Produce => ProduceRequest::BATCH_AT,
        Opcode::Fetch => FetchReply::BATCHES_AT,
        _ => usize::MAX,
    };
    for request in requests() {
        let bytes = encode_request(&request);
        let (header, body) = split(&bytes);
        let end = match request {
            Request::Produce(_) => raw_tail(request.opcode()),
            Request::ProduceDelayed(ref produce) => body.len() - produce.batch.len(),
            _ => body.len(),
        };
        for cut in 0..end {
            assert!(Request::decode(&header, &body[..cut]).is_err(), "{request:?} cut at {cut}");
        }
    }
    for response in responses().iter().chain(&errors()) {
        let bytes = encode_response(response);
        let (header, body) = split(&bytes);
        let end = match response {
            Response::Fetch(_) => raw_tail(Opcode::Fetch),
            Response::QueueReceive(reply) => body.len() - reply.batches.len(),
            _ => body.len(),
        };
        for cut in 0..end {
            assert!(Response::decode(&header, &body[..cut]).is_err(), "{response:?} cut at {cut}");
        }
    }
}

#[test]
fn a_longer_body_is_an_error() {
    for request in requests() {
        if let Request::Produce(_) | Request::ProduceDelayed(_) = request {
            continue;
        }
        let mut bytes = encode_request(&request);
        bytes.extend_from_slice(&[0]);
        let header = FrameHeader::parse(&bytes).unwrap();
        assert!(Request::decode(&header, &bytes[FrameHeader::SIZE..]).is_err(), "{request:?}");
    }
}

/// Every byte of every frame takes every value: decoders answer, and never with more than they got.
#[test]
fn changed_bytes_are_answered() {
    let mut decoded: u32 = 0;
    let frames = requests()
        .iter()
        .map(encode_request)
        .chain(responses().iter().chain(&errors()).map(encode_response))
        .collect::<Vec<_>>();
    for frame in frames {
        for at in 0..frame.len() {
            for value in 0..=u8::MAX {
                let mut bytes = frame.clone();
                bytes[at] = value;
                decoded += decode_all(&bytes);
            }
        }
    }
    assert!(decoded > 0, "no changed frame decoded: the test feeds them wrongly");
}

fn decode_all(bytes: &[u8]) -> u32 {
    let mut decoder = FrameDecoder::new(4096);
    decoder.push(bytes);
    let mut decoded = 0;
    while let Ok(Some(frame)) = decoder.next_frame() {
        decoded += u32::from(Request::decode(&frame.header, &frame.body).is_ok());
        decoded += u32::from(Response::decode(&frame.header, &frame.body).is_ok());
    }
    decoded
}

/// Bytes without any meaning: no panic, no endless loop.
#[test]
fn noise_is_answered() {
    let mut state: u64 = 0x9e37_79b9_7f4a_7c15;
    for _ in 0..20_000 {
        let mut noise = Vec::new();
        for _ in 0..64 {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            noise.push(state.to_le_bytes()[0]);
        }
        decode_all(&noise);
        for opcode in OPCODES {
            let code = opcode.request_code();
            let request = FrameHeader::new(code, Opcode::VERSION, CORRELATION, noise.len());
            drop(Request::decode(&request, &noise));
            let reply = FrameHeader::new(opcode.reply_code(), 0, CORRELATION, noise.len());
            drop(Response::decode(&reply, &noise));
        }
    }
}

#[test]
fn the_readme_shows_the_golden_frames() {
    let readme = include_str!("../README.md");
    for line in include_str!("golden.txt").lines() {
        assert!(readme.contains(line), "README lacks: {line}");
    }
}
