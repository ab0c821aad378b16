//! Receipts and leases against a small server in memory that loses answers, leads nothing, or
//! sends damage.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]

use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use barrage_client::queue::{Queue, Receipt, SettleError};
use barrage_client::{Client, ClientError, ClientOptions, QueueOptions};
use barrage_model::batch::{BatchBuilder, Compression, NewRecord};
use barrage_model::group::Order;
use barrage_model::{CoreId, GroupId, NodeId, Offset, PartitionId, ShardId, TopicId, TopicOrder};
use barrage_wire::{
    ErrorCode, ErrorReply, FrameDecoder, GroupKind, GroupListReply, GroupSettings, GroupSummary,
    HelloReply, Hint, Lease, MetadataReply, PartitionRoute, QueueReceiveReply, QueueSettleReply,
    Request, Response, SessionLimits, Settled, TopicRoutes,
};
use bytes::BytesMut;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

const LIMITS: SessionLimits = SessionLimits {
    frame_bytes_max: 16 << 20,
    batch_bytes_max: 8 << 20,
    in_flight_requests_max: 64,
    in_flight_bytes_max: 64 << 20,
    idle_timeout_ms: 60_000,
};

/// What is wrong with it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fault {
    None,
    /// Settles, and ends the connection instead of answering; every other time.
    LostAnswer,
    /// Says once that it does not lead, before it settles anything.
    LeadsNothing,
    /// Its batches are damaged.
    Damage,
    /// Nobody leads partition 1.
    OneLost,
    /// Settles nothing and does not say so; has one record for a second, and more when it was asked
    /// to settle.
    SilentSettles,
}

/// One partition with one record, leased for ever.
struct Server {
    address: String,
    partitions: u32,
    fault: Fault,
    settles: AtomicU32,
    /// Records that were leased.
    leased: AtomicU32,
    /// Partitions that were waited for, in order.
    waits: Mutex<Vec<u32>>,
    is_settled: Mutex<bool>,
}

impl Server {
    async fn start(partitions: u32, fault: Fault) -> Arc<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let server = Arc::new(Self {
            address: listener.local_addr().unwrap().to_string(),
            partitions,
            fault,
            settles: AtomicU32::new(0),
            leased: AtomicU32::new(0),
            waits: Mutex::default(),
            is_settled: Mutex::new(false),
        });
        let accepting = Arc::clone(&server);
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(Arc::clone(&accepting).serve(stream));
            }
        });
        server
    }

    async fn serve(self: Arc<Self>, mut stream: TcpStream) {
        let mut decoder = FrameDecoder::new(LIMITS.frame_bytes_max);
        loop {
            while let Some(frame) = decoder.next_frame().unwrap() {
                let request = Request::decode(&frame.header, &frame.body).unwrap();
                let mut out = BytesMut::new();
                if let Request::QueueReceive(receive) = &request
                    && receive.wait_ms > 0
                {
                    // Nothing ever comes.
                    self.waits.lock().unwrap().push(receive.key.partition.0);
                    if self.fault != Fault::SilentSettles {
                        continue;
                    }
                    tokio::time::sleep(Duration::from_millis(50)).await;
                }
                if self.fault == Fault::SilentSettles && matches!(request, Request::QueueSettle(_))
                {
                    self.settles.fetch_add(1, Ordering::Relaxed);
                    continue;
                }
                let Some(response) = self.answer(&request, frame.header.opcode) else { return };
                if let Response::QueueReceive(reply) = response {
                    let mut batches = batch();
                    if self.fault == Fault::Damage {
                        *batches.last_mut().unwrap() ^= 1;
                    }
                    let batches = if reply.leases.is_empty() { &[][..] } else { &batches };
                    let reply = QueueReceiveReply { batches, ..reply };
                    Response::QueueReceive(reply).encode(frame.header.correlation, &mut out);
                } else {
                    response.encode(frame.header.correlation, &mut out);
                }
                stream.write_all(&out).await.unwrap();
            }
            if stream.read_buf(decoder.buffer()).await.unwrap_or(0) == 0 {
                return;
            }
        }
    }

    /// None ends the connection.
    fn answer(&self, request: &Request<'_>, opcode: u16) -> Option<Response<'static>> {
        Some(match request {
            Request::Hello(_) => Response::Hello(HelloReply {
                version: 1,
                node: NodeId(1),
                core: CoreId(0),
                limits: LIMITS,
                server_name: "in memory".to_owned(),
            }),
            Request::Metadata(_) => Response::Metadata(self.metadata()),
            Request::GroupList(_) => {
                let settings = GroupSettings {
                    visibility_ms: 30_000,
                    deliveries_max: None,
                    max_age_ms: None,
                    dead_letter: None,
                    backoff: "0ms".to_owned(),
                    filter: None,
                    order: Order::None,
                };
                let (name, group) = ("workers".to_owned(), GroupId(9));
                let kind = GroupKind::Queue(settings);
                let summary = GroupSummary { name, group, kind, created_ms: 0 };
                let (topic, partitions) = (TopicId(7), self.partitions);
                Response::GroupList(GroupListReply { topic, partitions, groups: vec![summary] })
            }
            Request::QueueReceive(receive) => {
                let is_full = self.partitions == 1 || self.fault == Fault::OneLost;
                let has_some = receive.key.partition == PartitionId(0) && is_full;
                if self.fault == Fault::OneLost && !has_some {
                    let error = ErrorReply::new(ErrorCode::NotLeader, "nobody leads it");
                    return Some(Response::Error { opcode, error });
                }
                let is_silent = self.fault == Fault::SilentSettles;
                let was_asked = self.settles.load(Ordering::Relaxed) > 0;
                let is_first = self.leased.load(Ordering::Relaxed) == 0;
                let has_some = has_some && (!is_silent || was_asked || is_first);
                let more = has_some && receive.count_max == 0;
                let (offset, tag) = (Offset(0), 1);
                let left_ms = if is_silent { 1_000 } else { 30_000 };
                let lease = Lease { offset, tag, deliveries: 1, first_ms: 1, left_ms };
                let leases = if has_some && !more { vec![lease] } else { Vec::new() };
                self.leased.fetch_add(leases.len() as u32, Ordering::Relaxed);
                Response::QueueReceive(QueueReceiveReply { more, leases, batches: &[] })
            }
            Request::QueueSettle(settle) => {
                let turn = self.settles.fetch_add(1, Ordering::Relaxed);
                if self.fault == Fault::LeadsNothing && turn == 0 {
                    let (node, core, address) = (NodeId(1), CoreId(0), self.address.clone());
                    let hint = Hint::Leader { node, core, address };
                    let error = ErrorReply::with_hint(ErrorCode::NotLeader, "not here", hint);
                    return Some(Response::Error { opcode, error });
                }
                let was_settled = std::mem::replace(&mut *self.is_settled.lock().unwrap(), true);
                if self.fault == Fault::LostAnswer && turn.is_multiple_of(2) {
                    return None;
                }
                let result = if was_settled { Settled::AlreadySettled } else { Settled::Done };
                let results = vec![result; settle.receipts.len()];
                Response::QueueSettle(QueueSettleReply { results })
            }
            other => panic!("the tests do not ask {other:?}"),
        })
    }

    fn metadata(&self) -> MetadataReply {
        let route = |partition| PartitionRoute {
            partition: PartitionId(partition),
            shard: ShardId(1),
            node: NodeId(1),
            core: CoreId(0),
            address: self.address.clone(),
        };
        let row = TopicRoutes {
            name: "orders".to_owned(),
            error: 0,
            topic: TopicId(7),
            priorities: 1,
            order: TopicOrder::Partition,
            partitions: (0..self.partitions).map(route).collect(),
        };
        MetadataReply { cluster: String::new(), topics: vec![row], nodes: Vec::new() }
    }
}

fn batch() -> Vec<u8> {
    let mut builder = BatchBuilder::new(Compression::None, 0);
    builder.push(&NewRecord { value: Some(b"one"), ..NewRecord::default() }).unwrap();
    builder.finish().unwrap()
}

async fn open(server: &Server) -> Queue {
    let client = Client::connect(ClientOptions::server(server.address.clone())).await.unwrap();
    client.queue("orders", "workers", QueueOptions::default()).await.unwrap()
}

async fn ack_twice(fault: Fault) -> [Result<(), SettleError>; 2] {
    let server = Server::start(1, fault).await;
    let queue = open(&server).await;
    let received = queue.receive(1, Duration::ZERO, None).await.unwrap();
    assert_eq!(received[0].record.value.as_deref(), Some(b"one".as_slice()));
    let receipt = received[0].receipt;
    let mut results = Vec::new();
    for _ in 0..2 {
        results.extend(queue.ack(&[receipt]).await);
    }
    results.try_into().unwrap()
}

#[tokio::test]
async fn an_ack_whose_answer_was_lost_counts_as_done() {
    let results = ack_twice(Fault::None).await;
    assert!(matches!(results, [Ok(()), Err(SettleError::AlreadySettled)]), "{results:?}");
    // Each has to be sent twice: the second answer says what the first one would have.
    let results = ack_twice(Fault::LostAnswer).await;
    assert!(matches!(results, [Ok(()), Ok(())]), "{results:?}");
    // One that was refused was surely not carried out.
    let results = ack_twice(Fault::LeadsNothing).await;
    assert!(matches!(results, [Ok(()), Err(SettleError::AlreadySettled)]), "{results:?}");
}

#[tokio::test]
async fn an_extension_whose_answer_was_lost_says_what_it_is_told() {
    let server = Server::start(1, Fault::LostAnswer).await;
    let queue = open(&server).await;
    let receipt = "0-0-1".parse::<Receipt>().unwrap();
    let result = queue.extend(&[receipt], Duration::from_secs(5)).await.pop().unwrap();
    assert!(matches!(result, Err(SettleError::AlreadySettled)), "{result:?}");
}

#[tokio::test]
async fn a_damaged_batch_is_an_error() {
    let server = Server::start(1, Fault::Damage).await;
    let received = open(&server).await.receive(1, Duration::ZERO, None).await;
    assert!(matches!(received, Err(ClientError::Batch(_))), "{received:?}");
}

#[tokio::test]
async fn a_partition_without_a_leader_keeps_nobody_waiting_who_has_something() {
    let server = Server::start(2, Fault::OneLost).await;
    let queue = open(&server).await;
    // Whoever begins.
    for _ in 0..2 {
        let receive = queue.receive(2, Duration::from_secs(60), None);
        // Less than the request timeout, which the lost one would take.
        let received = tokio::time::timeout(Duration::from_secs(8), receive).await.unwrap();
        assert_eq!(received.unwrap().len(), 1);
    }
}

/// What a program did not take in time is given back to a leader that does not answer: meanwhile
/// records come.
#[tokio::test]
async fn what_cannot_be_given_back_keeps_nobody_waiting() {
    let server = Server::start(1, Fault::SilentSettles).await;
    let mut records = Arc::new(open(&server).await).subscribe(2, None);
    while server.settles.load(Ordering::Relaxed) == 0 {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    // Less than the request timeout.
    let next = tokio::time::timeout(Duration::from_secs(5), records.next()).await.unwrap();
    assert!(next.unwrap().is_ok());
}

#[tokio::test]
async fn a_server_is_asked_once_to_wait_for_a_partition() {
    let server = Server::start(4, Fault::None).await;
    let queue = open(&server).await;
    let mut rounds_after = 0;
    // Until all are asked, and then some more.
    while rounds_after < 5 {
        let received = queue.receive(1, Duration::from_millis(50), None).await.unwrap();
        assert!(received.is_empty(), "{received:?}");
        rounds_after += usize::from(server.waits.lock().unwrap().len() >= 4);
    }
    let mut waits = server.waits.lock().unwrap().clone();
    waits.sort_unstable();
    assert_eq!(waits, [0, 1, 2, 3]);
}
