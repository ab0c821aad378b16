//! One request of the native protocol: header and body. The header's length is made right.
//!
//! Checked: what was read can be written and read again; if nothing was stepped over, it is
//! written as the same bytes.

use barrage_model::group::Order;
use barrage_model::{
    GroupId, NodeId, Offset, PartitionId, PartitionKey, Retention, ShardId, TopicId, TopicOrder,
};
use barrage_wire::{
    Acks, Assignor, At, ClusterChange, ClusterJoin, Correlation, FetchRequest, FrameHeader,
    GroupAlter, GroupCreate, GroupDelete, GroupList, GroupSettings, Hello, ListOffsetRequest,
    MetadataRequest, NewGroup, ProduceRequest, QueueCounts, QueuePeek, QueueReceive, QueueSeek,
    QueueSettle, Receipt, Request, ResetTo, Seek, Settlement, StreamBeat, StreamCommit,
    StreamCommitter, StreamDescribe, StreamHeartbeat, StreamLeave, StreamMember, StreamOffset,
    StreamOffsets, StreamReads, StreamReset, TopicAlter, TopicCreate, TopicDelete, TopicDescribe,
};
use bytes::BytesMut;

use crate::meter::aside;
use crate::target::{LARGE_BYTES, Seed, Target, Verdict, no_extra};

pub(super) const TARGET: Target = Target {
    name: "requests",
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
    let Ok(request) = Request::decode(&header, body) else { return Verdict::Refused };
    aside(|| {
        let mut again = BytesMut::new();
        request.encode(header.correlation, &mut again);
        let (head, rest) = again.split_at(FrameHeader::SIZE);
        let head = FrameHeader::parse(head);
        assert!(head.is_some(), "an encoded request begins with a header");
        let same = head.map(|head| Request::decode(&head, rest));
        assert_eq!(same.as_ref(), Some(&Ok(request)), "a request changes when it is sent again");
        assert!(rest.len() <= body.len(), "a request grows when it is sent again");
        if rest.len() == body.len() {
            assert_eq!(rest, body, "two bodies of one length mean the same request");
        }
    });
    Verdict::Taken
}

pub(super) fn seeds() -> Vec<Seed> {
    let key = PartitionKey { topic: TopicId(5), partition: PartitionId(3) };
    let name = || "orders".to_owned();
    let retention = Retention { time_ms: Some(9), ..Retention::UNLIMITED };
    let batch = super::batch::plain();
    let produce = ProduceRequest { key, acks: Acks::All, timeout_ms: 1000, batch: &batch };
    let (bytes_max, bytes_min, wait_ms) = (4096, 1, 500);
    let fetch = FetchRequest { key, offset: Offset(7), bytes_max, bytes_min, wait_ms };
    let topics = vec![name(), String::new(), "b".repeat(300)];
    let (partitions, unlimited) = (Some(8), Some(Retention::UNLIMITED));
    let requests = [
        Request::Hello(Hello::new("me")),
        Request::Ping,
        Request::Metadata(MetadataRequest { topics: Vec::new() }),
        Request::Metadata(MetadataRequest { topics }),
        Request::Stats,
        Request::Produce(produce),
        Request::Fetch(fetch),
        Request::ListOffset(ListOffsetRequest { key, at: At::Start }),
        Request::ListOffset(ListOffsetRequest { key, at: At::Time(-2) }),
        Request::InitProducer,
        Request::TopicCreate(TopicCreate {
            name: name(),
            partitions: 4,
            retention: Some(retention),
            priorities: 3,
            order: TopicOrder::Partition,
        }),
        Request::TopicAlter(TopicAlter { name: name(), partitions, retention: unlimited }),
        Request::TopicDelete(TopicDelete { name: name() }),
        Request::TopicList,
        Request::TopicDescribe(TopicDescribe { name: name() }),
        Request::ClusterDescribe,
    ];
    let changes = cluster_changes().map(Request::ClusterChange);
    let groups = groups().into_iter().chain(queues(key)).chain(streams(key));
    let all = requests.into_iter().chain(changes).chain(groups);
    let encode = |(index, request): (u32, Request<'_>)| {
        let mut out = BytesMut::new();
        request.encode(Correlation(index), &mut out);
        (format!("{:?}-{index}", request.opcode()), out.to_vec())
    };
    (0..).zip(all).map(encode).collect()
}

pub(super) fn group_settings() -> GroupSettings {
    GroupSettings {
        visibility_ms: 30_000,
        deliveries_max: Some(16),
        max_age_ms: Some(60_000),
        dead_letter: Some("dead".to_owned()),
        backoff: "1s..5m".to_owned(),
        filter: Some("keys:stock.# || order.*".to_owned()),
        order: Order::Key,
    }
}

fn groups() -> [Request<'static>; 5] {
    let (topic, name, settings) = ("orders".to_owned(), "pay".to_owned(), group_settings());
    [
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
    ]
}

fn queues(key: PartitionKey) -> Vec<Request<'static>> {
    let group = GroupId(9);
    let receive = |visibility_ms| QueueReceive {
        key,
        group,
        count_max: 100,
        bytes_max: 1 << 20,
        visibility_ms,
        wait_ms: 500,
    };
    let receipts = || (1..4).map(|tag| Receipt { offset: Offset(7), tag }).collect();
    let settle = |settlement| {
        Request::QueueSettle(QueueSettle { key, group, settlement, receipts: receipts() })
    };
    let seek = |to| Request::QueueSeek(QueueSeek { key, group, to });
    vec![
        Request::QueueReceive(receive(None)),
        Request::QueueReceive(receive(Some(60_000))),
        settle(Settlement::Ack),
        settle(Settlement::Nack { delay_ms: None }),
        settle(Settlement::Nack { delay_ms: Some(5) }),
        settle(Settlement::Extend { visibility_ms: 60_000 }),
        Request::QueuePeek(QueuePeek { key, group, count_max: 10 }),
        seek(Seek::Rewind(Offset(3))),
        seek(Seek::Skip(Offset(4))),
        Request::QueueCounts(QueueCounts { key, group }),
    ]
}

fn streams(key: PartitionKey) -> Vec<Request<'static>> {
    let group = GroupId(9);
    let member = |instance: Option<&str>| StreamMember {
        id: "member".to_owned(),
        instance: instance.map(str::to_owned),
    };
    let beat = |instance, beat| {
        Request::StreamHeartbeat(StreamHeartbeat { group, member: member(instance), beat })
    };
    let reads = StreamReads { topics: vec![key.topic], assignor: Assignor::RoundRobin };
    let held = Some(vec![key, key]);
    let committer = StreamCommitter { member: member(None), generation: 3 };
    let offset = |leader_epoch| StreamOffset {
        key,
        offset: Offset(7),
        leader_epoch,
        metadata: "kept".to_owned(),
    };
    let to = vec![ResetTo { key, offset: Offset(3) }];
    vec![
        beat(Some("i"), StreamBeat::Join { reads: reads.clone(), session_ms: 0, rebalance_ms: 1 }),
        beat(None, StreamBeat::Stay { generation: 3, held: None, reads: None }),
        beat(None, StreamBeat::Stay { generation: 3, held, reads: Some(reads) }),
        Request::StreamLeave(StreamLeave { group, member: member(Some("i")) }),
        Request::StreamCommit(StreamCommit {
            group,
            committer: Some(committer),
            offsets: vec![offset(None), offset(Some(2))],
        }),
        Request::StreamCommit(StreamCommit { group, committer: None, offsets: Vec::new() }),
        Request::StreamOffsets(StreamOffsets { group, keys: vec![key] }),
        Request::StreamReset(StreamReset { group, to }),
        Request::StreamDescribe(StreamDescribe { group, topic: key.topic }),
    ]
}

fn cluster_changes() -> [ClusterChange; 6] {
    let (node, shard) = (NodeId(2), ShardId(3));
    let (peer, client) = ("db2:7500".to_owned(), "db2:7400".to_owned());
    [
        ClusterChange::Join(ClusterJoin { birth: 1 << 64 | 7, peer, client, level: 1 }),
        ClusterChange::Decommission { node },
        ClusterChange::Recommission { node },
        ClusterChange::Transfer { shard, to: node },
        ClusterChange::Balance,
        ClusterChange::SetCopies { copies: 3 },
    ]
}

/// Lists whose rows are as short as rows can be.
fn large() -> Vec<Seed> {
    let key = PartitionKey { topic: TopicId(5), partition: PartitionId(3) };
    let receipts = Request::QueueSettle(QueueSettle {
        key,
        group: GroupId(9),
        settlement: Settlement::Ack,
        receipts: vec![Receipt { offset: Offset(7), tag: 1 }; LARGE_BYTES / 12],
    });
    let names = |name: &str| vec![name.to_owned(); LARGE_BYTES / (8 + name.len()) + 1];
    let request = |topics| Request::Metadata(MetadataRequest { topics });
    let encode = |(name, request): (&str, Request<'_>)| {
        let mut out = BytesMut::new();
        request.encode(Correlation(1), &mut out);
        (name.to_owned(), out.to_vec())
    };
    let cases = [
        ("empty-names", request(names(""))),
        ("short-names", request(names("orders"))),
        ("receipts", receipts),
    ];
    cases.into_iter().map(encode).collect()
}
