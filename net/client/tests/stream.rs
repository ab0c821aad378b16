//! Members of a stream group against a small coordinator in memory that is slow, silent, forgetful,
//! or leads nothing.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use barrage_client::stream::StreamConsumer;
use barrage_client::{Client, ClientOptions, From, StreamOptions};
use barrage_model::batch::{BatchBuilder, Compression, NewRecord, stamp};
use barrage_model::{
    CoreId, GroupId, NodeId, Offset, PartitionId, PartitionKey, ShardId, TopicId, TopicOrder,
};
use barrage_wire::{
    ErrorCode, ErrorReply, FetchReply, FrameDecoder, GroupKind, GroupListReply, GroupSummary,
    HelloReply, ListOffsetReply, MetadataReply, PartitionRoute, Request, Response, SessionLimits,
    Standing, Stored, StreamDescription, StreamHeartbeatReply, StreamOffset, StreamOffsetsReply,
    StreamStoredReply, TopicRoutes,
};
use bytes::BytesMut;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::timeout;

const LIMITS: SessionLimits = SessionLimits {
    frame_bytes_max: 16 << 20,
    batch_bytes_max: 8 << 20,
    in_flight_requests_max: 64,
    in_flight_bytes_max: 64 << 20,
    idle_timeout_ms: 60_000,
};
const TOPIC: TopicId = TopicId(7);
/// As long as anything may take on a busy machine.
const LONG: Duration = Duration::from_secs(20);
const MOMENT: Duration = Duration::from_millis(50);

/// How it is, and what it saw.
#[derive(Debug, Default)]
struct State {
    partitions: u32,
    /// What is stored, by partition.
    stored: BTreeMap<u32, u64>,
    start: u64,
    end: u64,
    /// Partitions that nobody leads.
    unled: BTreeSet<u32>,
    /// Requests by the names of their types: these are not answered.
    silent: BTreeSet<&'static str>,
    /// These are answered so.
    refused: BTreeMap<&'static str, ErrorCode>,
    /// These are answered so late.
    slow: BTreeMap<&'static str, Duration>,
    /// What was asked, in order.
    asked: Vec<&'static str>,
}

struct Server {
    address: String,
    node: u64,
    state: Mutex<State>,
}

fn name_of(request: &Request<'_>) -> &'static str {
    match request {
        Request::ListOffset(_) => "offset",
        Request::Fetch(_) => "fetch",
        Request::StreamHeartbeat(_) => "beat",
        Request::StreamLeave(_) => "leave",
        Request::StreamCommit(_) => "commit",
        Request::StreamOffsets(_) => "stored",
        Request::StreamDescribe(_) => "describe",
        _ => "other",
    }
}

fn key(partition: u32) -> PartitionKey {
    PartitionKey { topic: TOPIC, partition: PartitionId(partition) }
}

impl Server {
    async fn start(node: u64, state: State) -> Arc<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let server = Arc::new(Self { address, node, state: Mutex::new(state) });
        let accepting = Arc::clone(&server);
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(Arc::clone(&accepting).serve(stream));
            }
        });
        server
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    fn count(&self, name: &str) -> usize {
        self.state().asked.iter().filter(|asked| **asked == name).count()
    }

    async fn serve(self: Arc<Self>, mut stream: TcpStream) {
        let mut decoder = FrameDecoder::new(LIMITS.frame_bytes_max);
        loop {
            while let Some(frame) = decoder.next_frame().unwrap() {
                let request = Request::decode(&frame.header, &frame.body).unwrap();
                let name = name_of(&request);
                self.state().asked.push(name);
                let slow = self.state().slow.get(name).copied();
                tokio::time::sleep(slow.unwrap_or_default()).await;
                if self.state().silent.contains(name) {
                    continue;
                }
                let mut out = BytesMut::new();
                if let Request::Fetch(fetch) = &request
                    && let Ok(batches) = self.fetch(fetch.key, fetch.offset)
                {
                    if batches.is_empty() {
                        tokio::time::sleep(MOMENT).await;
                    }
                    let (start_offset, high_watermark) = self.bounds();
                    let reply = FetchReply { high_watermark, start_offset, batches: &batches };
                    Response::Fetch(reply).encode(frame.header.correlation, &mut out);
                } else {
                    let answer = self.answer(&request).unwrap_or_else(|code| Response::Error {
                        opcode: frame.header.opcode,
                        error: ErrorReply::new(code, "not here"),
                    });
                    answer.encode(frame.header.correlation, &mut out);
                }
                if stream.write_all(&out).await.is_err() {
                    return;
                }
            }
            if stream.read_buf(decoder.buffer()).await.unwrap_or(0) == 0 {
                return;
            }
        }
    }

    fn bounds(&self) -> (Offset, Offset) {
        let state = self.state();
        (Offset(state.start), Offset(state.end))
    }

    fn fetch(&self, key: PartitionKey, offset: Offset) -> Result<Vec<u8>, ErrorCode> {
        self.check("fetch", Some(key))?;
        if offset >= self.bounds().1 {
            return Ok(Vec::new());
        }
        let mut builder = BatchBuilder::new(Compression::None, 0);
        builder.push(&NewRecord { value: Some(b"one"), ..NewRecord::default() }).unwrap();
        let mut bytes = builder.finish().unwrap();
        stamp(&mut bytes, offset, 1);
        Ok(bytes)
    }

    fn check(&self, name: &str, key: Option<PartitionKey>) -> Result<(), ErrorCode> {
        let state = self.state();
        if key.is_some_and(|key| state.unled.contains(&key.partition.0)) {
            return Err(ErrorCode::NotLeader);
        }
        state.refused.get(name).map_or(Ok(()), |code| Err(*code))
    }

    fn answer(&self, request: &Request<'_>) -> Result<Response<'static>, ErrorCode> {
        let key_of = match request {
            Request::ListOffset(asked) => Some(asked.key),
            Request::Fetch(asked) => Some(asked.key),
            _ => None,
        };
        self.check(name_of(request), key_of)?;
        let (start_offset, high_watermark) = self.bounds();
        let mut state = self.state();
        Ok(match request {
            Request::Hello(_) => Response::Hello(HelloReply {
                version: 1,
                node: NodeId(self.node),
                core: CoreId(0),
                limits: LIMITS,
                server_name: "in memory".to_owned(),
            }),
            Request::Metadata(_) => Response::Metadata(self.metadata(state.partitions)),
            Request::GroupList(_) => {
                let (name, group) = ("billing".to_owned(), GroupId(9));
                let kind = GroupKind::Stream { topics: vec!["orders".to_owned()] };
                let summary = GroupSummary { name, group, kind, created_ms: 0 };
                let (topic, partitions) = (TOPIC, state.partitions);
                Response::GroupList(GroupListReply { topic, partitions, groups: vec![summary] })
            }
            Request::ListOffset(asked) => {
                let is_start = asked.at == barrage_wire::At::Start;
                let offset = if is_start { start_offset } else { high_watermark };
                Response::ListOffset(ListOffsetReply { offset, start_offset, high_watermark })
            }
            Request::StreamHeartbeat(asked) => Response::StreamHeartbeat(StreamHeartbeatReply {
                member: asked.member.id.clone(),
                generation: 1,
                own: (0..state.partitions).map(key).collect(),
                give_up: Vec::new(),
                interval_ms: 100,
            }),
            Request::StreamLeave(_) => Response::StreamLeave,
            Request::StreamCommit(commit) => {
                for row in &commit.offsets {
                    state.stored.insert(row.key.partition.0, row.offset.0);
                }
                let results = vec![Stored::Done; commit.offsets.len()];
                Response::StreamCommit(StreamStoredReply { results })
            }
            Request::StreamOffsets(asked) => {
                let row = |key: &PartitionKey| {
                    let offset = Offset(*state.stored.get(&key.partition.0)?);
                    let (leader_epoch, metadata) = (None, String::new());
                    Some(StreamOffset { key: *key, offset, leader_epoch, metadata })
                };
                let offsets = asked.keys.iter().filter_map(row).collect();
                Response::StreamOffsets(StreamOffsetsReply { offsets })
            }
            Request::StreamDescribe(_) => Response::StreamDescribe(StreamDescription {
                standing: Standing::Stable,
                generation: 1,
                members: Vec::new(),
                offsets: Vec::new(),
            }),
            other => panic!("the tests do not ask {other:?}"),
        })
    }

    fn metadata(&self, partitions: u32) -> MetadataReply {
        let route = |partition| PartitionRoute {
            partition: PartitionId(partition),
            shard: ShardId(1),
            node: NodeId(self.node),
            core: CoreId(0),
            address: self.address.clone(),
        };
        let row = TopicRoutes {
            name: "orders".to_owned(),
            error: 0,
            topic: TOPIC,
            priorities: 1,
            order: TopicOrder::Partition,
            partitions: (0..partitions).map(route).collect(),
        };
        MetadataReply { cluster: String::new(), topics: vec![row], nodes: Vec::new() }
    }
}

async fn connect(servers: &[&Server]) -> Client {
    let servers = servers.iter().map(|server| server.address.clone()).collect();
    let request_timeout = Duration::from_secs(5);
    let options = ClientOptions { servers, request_timeout, ..ClientOptions::default() };
    Client::connect(options).await.unwrap()
}

async fn open(server: &Server, options: StreamOptions) -> StreamConsumer {
    connect(&[server]).await.stream(&["orders"], "billing", options).await.unwrap()
}

/// A partition whose leader is gone keeps no other one waiting, whatever their order.
#[tokio::test]
async fn partitions_begin_each_for_itself() {
    let stored = BTreeMap::from([(1, 0)]);
    let unled = BTreeSet::from([0]);
    let state = State { partitions: 3, end: 1, stored, unled, ..State::default() };
    let server = Server::start(1, state).await;
    let mut member = open(&server, StreamOptions::default()).await;
    let mut read = BTreeSet::new();
    for _ in 0..2 {
        let record = timeout(LONG, member.next()).await.unwrap().unwrap();
        read.insert(record.record.partition.0);
    }
    assert_eq!(read, BTreeSet::from([1, 2]));
    server.state().unled.clear();
    let record = timeout(LONG, member.next()).await.unwrap().unwrap();
    assert_eq!(record.record.partition, PartitionId(0));
}

/// A group that begins at the end begins there, whoever reads on: that place is stored before what
/// comes behind it is read. All of a partition that is added later is behind the end there was.
#[tokio::test]
async fn the_end_is_stored_before_it_is_read_on_from() {
    let refused = BTreeMap::from([("commit", ErrorCode::StaleGeneration)]);
    let state = State { partitions: 1, start: 2, end: 5, refused, ..State::default() };
    let server = Server::start(1, state).await;
    let options = || StreamOptions { from: From::End, commit_every: None, ..Default::default() };
    let mut member = open(&server, options()).await;
    assert!(timeout(MOMENT, member.next()).await.is_err());
    assert_eq!(server.count("fetch"), 0, "nobody knows yet where the group begins");
    server.state().refused.clear();
    while server.count("fetch") == 0 {
        assert!(timeout(MOMENT, member.next()).await.is_err(), "there is nothing behind the end");
    }
    assert_eq!(server.state().stored, BTreeMap::from([(0, 5)]));
    drop(member);
    server.state().end = 6;
    let mut next = open(&server, options()).await;
    assert_eq!(timeout(LONG, next.next()).await.unwrap().unwrap().record.offset, Offset(5));
    server.state().partitions = 2;
    let added = timeout(LONG, next.next()).await.unwrap().unwrap().record;
    assert_eq!((added.partition, added.offset), (PartitionId(1), Offset(2)));
}

/// A partition whose server was away for too long is read on where it was, by who still has it.
#[tokio::test]
async fn what_could_not_be_read_is_read_on() {
    let stored = BTreeMap::from([(0, 0)]);
    let server =
        Server::start(1, State { partitions: 1, end: 1, stored, ..State::default() }).await;
    let reconnect_timeout = MOMENT;
    let mut member =
        open(&server, StreamOptions { reconnect_timeout, ..StreamOptions::default() }).await;
    assert_eq!(timeout(LONG, member.next()).await.unwrap().unwrap().record.offset, Offset(0));
    server.state().unled.insert(0);
    for _ in 0..2 {
        let told = timeout(LONG, member.next()).await.unwrap().unwrap_err();
        assert_eq!(told.code(), Some(ErrorCode::NotLeader));
    }
    server.state().unled.clear();
    server.state().end = 2;
    let record = loop {
        // More may have been told meanwhile.
        if let Ok(record) = timeout(LONG, member.next()).await.unwrap() {
            break record;
        }
    };
    assert_eq!(record.record.offset, Offset(1));
}

/// A partition that can never be read on fails its member: it must not look as if it were read.
#[tokio::test]
async fn what_can_never_be_read_fails_the_member() {
    let refused = BTreeMap::from([("fetch", ErrorCode::InvalidArgument)]);
    let stored = BTreeMap::from([(0, 0)]);
    let state = State { partitions: 1, end: 1, stored, refused, ..State::default() };
    let server = Server::start(1, state).await;
    let mut member = open(&server, StreamOptions::default()).await;
    for _ in 0..3 {
        let told = timeout(LONG, member.next()).await.unwrap().unwrap_err();
        assert_eq!(told.code(), Some(ErrorCode::InvalidArgument));
    }
}

/// Before a member knows what is its own it has not read all of it.
#[tokio::test]
async fn lag_is_of_what_the_member_has_by_then() {
    let stored = BTreeMap::from([(0, 0)]);
    let slow = BTreeMap::from([("beat", 10 * MOMENT)]);
    let state = State { partitions: 1, end: 5, stored, slow, ..State::default() };
    let server = Server::start(1, state).await;
    let mut member = open(&server, StreamOptions::default()).await;
    // The join is under way.
    tokio::time::sleep(MOMENT).await;
    assert_ne!(member.lag().await.unwrap(), Some(0));
    for _ in 0..5 {
        timeout(LONG, member.next()).await.unwrap().unwrap();
    }
    assert_eq!(member.lag().await.unwrap(), Some(0));
}

/// Records that retention dropped before they were read are nothing to wait for.
#[tokio::test]
async fn lag_is_of_what_there_is() {
    let stored = BTreeMap::from([(0, 5), (1, 9)]);
    let state = State { partitions: 2, start: 8, end: 10, stored, ..State::default() };
    let server = Server::start(1, state).await;
    let member = open(&server, StreamOptions::default()).await;
    let lag = async || loop {
        if let Some(lag) = member.lag().await.unwrap() {
            break lag;
        }
        tokio::time::sleep(MOMENT).await;
    };
    assert_eq!(timeout(LONG, lag()).await.unwrap(), 2 + 1);
    server.state().start = 10;
    assert_eq!(timeout(LONG, lag()).await.unwrap(), 0);
}

/// Whoever may have come says that it goes, and goes but once.
#[tokio::test]
async fn a_member_leaves_that_was_not_told_that_it_came() {
    let silent = BTreeSet::from(["beat"]);
    let server = Server::start(1, State { partitions: 1, silent, ..State::default() }).await;
    let member = open(&server, StreamOptions::default()).await;
    while server.count("beat") == 0 {
        tokio::time::sleep(MOMENT).await;
    }
    // The answer to an earlier leave was lost.
    server.state().refused.insert("leave", ErrorCode::UnknownMember);
    // Less than the request timeout: nobody is waited for.
    timeout(60 * MOMENT, member.close()).await.unwrap().unwrap();
    assert_eq!(server.count("leave"), 1);
}

#[tokio::test]
async fn a_member_that_leaves_says_first_what_is_not_stored() {
    let stored = BTreeMap::from([(0, 0)]);
    let server =
        Server::start(1, State { partitions: 1, end: 1, stored, ..State::default() }).await;
    let mut member = open(&server, StreamOptions::default()).await;
    timeout(LONG, member.next()).await.unwrap().unwrap();
    let refused = [("commit", ErrorCode::InvalidArgument), ("leave", ErrorCode::ProducerFenced)];
    server.state().refused = refused.into();
    let told = timeout(LONG, member.close()).await.unwrap().unwrap_err();
    assert_eq!((told.code(), server.count("leave")), (Some(ErrorCode::InvalidArgument), 1));
}

/// A node that was away may not know a group: that nobody knows it is what counts.
#[tokio::test]
async fn a_group_is_unknown_when_nobody_knows_it() {
    let unknown = || {
        let names = ["beat", "stored", "commit", "leave", "describe"];
        names.map(|name| (name, ErrorCode::UnknownGroup)).into()
    };
    let stored = BTreeMap::from([(0, 0)]);
    let knowing = State { partitions: 1, end: 1, stored, ..State::default() };
    let knowing = Server::start(1, knowing).await;
    let state = State { partitions: 1, end: 1, refused: unknown(), ..State::default() };
    let away = Server::start(2, state).await;
    let client = connect(&[&away, &knowing]).await;
    let open = || client.stream(&["orders"], "billing", StreamOptions::default());
    let mut member = open().await.unwrap();
    timeout(LONG, member.next()).await.unwrap().unwrap();
    assert!(away.count("beat") > 0 && knowing.count("beat") > 0);
    timeout(LONG, member.close()).await.unwrap().unwrap();
    assert_eq!(knowing.state().stored, BTreeMap::from([(0, 1)]));
    let mut member = open().await.unwrap();
    knowing.state().refused = unknown();
    let told = timeout(LONG, member.next()).await.unwrap().unwrap_err();
    assert_eq!(told.code(), Some(ErrorCode::UnknownGroup));
}

/// While nothing is heard of the group a member stops reading before others begin, and reads on
/// when it is heard again.
#[tokio::test]
async fn a_member_that_is_cut_off_lets_go_in_time() {
    let session = Duration::from_secs(3);
    let stored = BTreeMap::from([(0, 0)]);
    let server =
        Server::start(1, State { partitions: 1, end: 1, stored, ..State::default() }).await;
    let options = StreamOptions { session, commit_every: None, ..StreamOptions::default() };
    let mut member = open(&server, options).await;
    timeout(LONG, member.next()).await.unwrap().unwrap();
    server.state().silent.insert("beat");
    let is_cut_off = async {
        while !member.partitions().is_empty() {
            tokio::time::sleep(MOMENT).await;
        }
    };
    timeout(session, is_cut_off).await.unwrap();
    // It may be another's by now.
    let late = member.commit().await.unwrap_err();
    assert_eq!(late.code(), Some(ErrorCode::UnknownMember));
    assert_eq!(server.state().stored, BTreeMap::from([(0, 0)]));
    server.state().silent.clear();
    let again = timeout(LONG, member.next()).await.unwrap().unwrap();
    assert_eq!(again.record.offset, Offset(0), "it was not stored");
    member.commit().await.unwrap();
    assert_eq!(server.state().stored, BTreeMap::from([(0, 1)]));
}

/// A commit that hangs keeps no heartbeat from being sent.
#[tokio::test]
async fn a_commit_that_hangs_cuts_nobody_off() {
    let session = Duration::from_secs(6);
    let stored = BTreeMap::from([(0, 0)]);
    let silent = BTreeSet::from(["commit"]);
    let state = State { partitions: 1, end: 1, stored, silent, ..State::default() };
    let server = Server::start(1, state).await;
    let options = StreamOptions { session, commit_every: Some(MOMENT), ..StreamOptions::default() };
    let mut member = open(&server, options).await;
    timeout(LONG, member.next()).await.unwrap().unwrap();
    let beat_count = server.count("beat");
    // The program is done with it, and waits for more.
    assert!(timeout(session, member.next()).await.is_err());
    assert!(server.count("commit") > 1 && server.count("beat") > beat_count + 1);
    assert_eq!(member.partitions().len(), 1);
}
