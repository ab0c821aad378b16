//! The whole client over real sockets against a small server in memory: what it is told, what it
//! reads back, and what happens when the server goes away in the middle.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]
#![expect(clippy::disallowed_types, reason = "outside of the broker")]

use std::collections::HashMap;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use barrage_client::{
    Client, ClientError, ClientOptions, ConsumerOptions, From, Outcome, Producer, ProducerOptions,
    Record,
};
use barrage_model::batch::{BatchHeader, BatchView, stamp};
use barrage_model::{
    CoreId, NodeId, Offset, PartitionId, ProducerEpoch, ProducerId, ShardId, TopicId, TopicOrder,
};
use barrage_wire::{
    At, Correlation, ErrorCode, ErrorReply, FetchReply, FrameDecoder, HelloReply, Hint,
    InitProducerReply, ListOffsetReply, MetadataReply, PartitionRoute, ProduceReply, Request,
    Response, SessionLimits, TopicRoutes,
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

/// What one partition holds: batches, and per producer where it stands.
#[derive(Default)]
struct Partition {
    batches: Vec<Vec<u8>>,
    next_offset: u64,
    producers: HashMap<i64, Vec<(i32, u64)>>,
}

/// A server in memory. Every `drop_every`-th produce ends its connection instead of answering,
/// by turns before and after writing.
struct Server {
    address: String,
    partitions: Mutex<Vec<Partition>>,
    producers: AtomicU32,
    produces: AtomicU32,
    drop_every: u32,
    start_offset: u64,
}

impl Server {
    async fn start(partitions: usize, drop_every: u32) -> Arc<Self> {
        Self::start_with(partitions, drop_every, 0).await
    }

    async fn start_with(partitions: usize, drop_every: u32, start_offset: u64) -> Arc<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let partition = || Partition { next_offset: start_offset, ..Partition::default() };
        let server = Arc::new(Self {
            address: listener.local_addr().unwrap().to_string(),
            partitions: Mutex::new((0..partitions).map(|_| partition()).collect()),
            producers: AtomicU32::new(0),
            produces: AtomicU32::new(0),
            drop_every,
            start_offset,
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
                if !self.answer(&request, frame.header.correlation, &mut out) {
                    return;
                }
                if out.is_empty() {
                    tokio::time::sleep(Duration::from_millis(5)).await;
                    let empty = self.empty_fetch(&request);
                    Response::Fetch(empty).encode(frame.header.correlation, &mut out);
                }
                stream.write_all(&out).await.unwrap();
            }
            if stream.read_buf(decoder.buffer()).await.unwrap_or(0) == 0 {
                return;
            }
        }
    }

    /// False ends the connection; nothing written means an empty fetch.
    fn answer(&self, request: &Request<'_>, id: Correlation, out: &mut BytesMut) -> bool {
        let response = match request {
            Request::Hello(_) => Response::Hello(HelloReply {
                version: 1,
                node: NodeId(1),
                core: CoreId(0),
                limits: LIMITS,
                server_name: "in memory".to_owned(),
            }),
            Request::Metadata(metadata) => Response::Metadata(self.metadata(&metadata.topics[0])),
            Request::InitProducer => {
                let producer = i64::from(self.producers.fetch_add(1, Ordering::Relaxed));
                let (producer, epoch) = (ProducerId(producer), ProducerEpoch(0));
                Response::InitProducer(InitProducerReply { producer, epoch })
            }
            Request::Produce(produce) => {
                let turn = self.produces.fetch_add(1, Ordering::Relaxed) + 1;
                let drops = self.drop_every > 0 && turn.is_multiple_of(self.drop_every);
                if drops && (turn / self.drop_every).is_multiple_of(2) {
                    return false;
                }
                let response = self.produce(produce.key.partition, produce.batch);
                if drops {
                    return false;
                }
                response
            }
            Request::ListOffset(list) => {
                let partitions = self.partitions.lock().unwrap();
                let next_offset = partitions[list.key.partition.0 as usize].next_offset;
                let (start_offset, high_watermark) =
                    (Offset(self.start_offset), Offset(next_offset));
                let offset = if list.at == At::End { high_watermark } else { start_offset };
                let reply = ListOffsetReply { offset, start_offset, high_watermark };
                Response::ListOffset(reply)
            }
            Request::Fetch(fetch) => {
                let partitions = self.partitions.lock().unwrap();
                let partition = &partitions[fetch.key.partition.0 as usize];
                if fetch.offset.0 < self.start_offset {
                    let (start, high_watermark) =
                        (Offset(self.start_offset), Offset(partition.next_offset));
                    let hint = Hint::Offsets { start, high_watermark };
                    let error = ErrorReply::with_hint(ErrorCode::OffsetOutOfRange, "gone", hint);
                    Response::Error { opcode: 17, error }.encode(id, out);
                    return true;
                }
                let wanted = |batch: &&Vec<u8>| {
                    BatchHeader::peek(batch).unwrap().next_offset() > fetch.offset
                };
                let found: Vec<_> = partition.batches.iter().filter(wanted).take(3).collect();
                let batches = found.into_iter().flatten().copied().collect::<Vec<u8>>();
                if batches.is_empty() {
                    return true;
                }
                let high_watermark = Offset(partition.next_offset);
                let start_offset = Offset(self.start_offset);
                let reply = FetchReply { high_watermark, start_offset, batches: &batches };
                Response::Fetch(reply).encode(id, out);
                return true;
            }
            other => panic!("the tests do not ask {other:?}"),
        };
        response.encode(id, out);
        true
    }

    fn empty_fetch(&self, request: &Request<'_>) -> FetchReply<'static> {
        let Request::Fetch(fetch) = request else { panic!("only fetches wait") };
        let partitions = self.partitions.lock().unwrap();
        let high_watermark = Offset(partitions[fetch.key.partition.0 as usize].next_offset);
        FetchReply { high_watermark, start_offset: Offset(self.start_offset), batches: &[] }
    }

    fn metadata(&self, name: &str) -> MetadataReply {
        let count = self.partitions.lock().unwrap().len() as u32;
        let route = |partition| PartitionRoute {
            partition: PartitionId(partition),
            shard: ShardId(1),
            node: NodeId(1),
            core: CoreId(0),
            address: self.address.clone(),
        };
        let known = name == "numbers";
        let row = TopicRoutes {
            name: name.to_owned(),
            error: if known { 0 } else { ErrorCode::UnknownTopic.number() },
            topic: TopicId(7),
            priorities: 1,
            order: TopicOrder::Partition,
            partitions: (0..count).filter(|_| known).map(route).collect(),
        };
        MetadataReply { cluster: String::new(), topics: vec![row], nodes: Vec::new() }
    }

    fn produce(&self, partition: PartitionId, batch: &[u8]) -> Response<'static> {
        let header = *BatchView::check(batch).unwrap().header();
        let mut partitions = self.partitions.lock().unwrap();
        let partition = &mut partitions[partition.0 as usize];
        let known = partition.producers.entry(header.producer_id.0).or_default();
        let sequence = header.base_sequence.0;
        let expected = known.last().map_or(0, |(_, next)| *next as i32);
        let found = known.iter().rev().take(5).find(|(first, _)| *first == sequence);
        if found.is_none() && sequence != expected {
            let error = ErrorReply::new(ErrorCode::OutOfOrderSequence, "not yet");
            return Response::Error { opcode: 16, error };
        }
        let base_offset = match found {
            Some(_) => {
                let same = |stored: &&Vec<u8>| BatchHeader::peek(stored).unwrap().crc == header.crc;
                let stored = partition.batches.iter().find(same).unwrap();
                BatchHeader::peek(stored).unwrap().base_offset
            }
            None => {
                let base_offset = Offset(partition.next_offset);
                let mut stored = batch.to_vec();
                stamp(&mut stored, base_offset, 1);
                known.push((sequence, (sequence as u64) + u64::from(header.record_count)));
                partition.next_offset += u64::from(header.record_count);
                partition.batches.push(stored);
                base_offset
            }
        };
        Response::Produce(ProduceReply { base_offset, log_time_ms: 1 })
    }
}

async fn connect(server: &Server) -> Client {
    Client::connect(ClientOptions::server(server.address.clone())).await.unwrap()
}

async fn read_all(client: &Client, options: ConsumerOptions) -> Vec<Vec<u64>> {
    let mut consumer = client.consumer("numbers", options).await.unwrap();
    let mut values: Vec<Vec<u64>> = Vec::new();
    while let Some(batch) = consumer.next_batch().await.unwrap() {
        let at = batch.partition.0 as usize;
        if values.len() <= at {
            values.resize(at + 1, Vec::new());
        }
        for record in &batch.records().unwrap() {
            let record = record.unwrap();
            if batch.wants(record.offset) {
                let text = std::str::from_utf8(record.value.unwrap()).unwrap();
                values[at].push(text.parse().unwrap());
            }
        }
    }
    values
}

/// Sends 0..count and reads it back; the reports must say where each number is.
async fn round_trip(server: &Server, count: u64) {
    let client = connect(server).await;
    let told = Arc::new(Mutex::new(HashMap::new()));
    let telling = Arc::clone(&told);
    let options = ProducerOptions {
        batch_bytes: 2_000,
        linger: Duration::from_millis(1),
        ..ProducerOptions::default()
    };
    let on_report = Box::new(move |report: &barrage_client::Report<'_>| {
        let Outcome::Acked { base_offset } = report.outcome else { panic!("{report:?}") };
        for (offset, token) in (base_offset.0..).zip(report.tokens) {
            telling.lock().unwrap().insert(*token, (report.partition.0 as usize, offset));
        }
    });
    let producer = Producer::with_reports(&client, "numbers", options, on_report).await.unwrap();
    for number in 0..count {
        let value = number.to_string();
        let record = Record { value: Some(value.as_bytes()), token: number, ..Record::default() };
        producer.send(record).await.unwrap();
    }
    producer.close().await;

    let options = ConsumerOptions { stop_at_end: true, ..ConsumerOptions::default() };
    let values = read_all(&client, options).await;
    let told = told.lock().unwrap();
    assert_eq!(told.len() as u64, count, "every record was acknowledged");
    assert_eq!(values.iter().map(Vec::len).sum::<usize>() as u64, count, "each is there once");
    for (number, (partition, offset)) in told.iter() {
        assert_eq!(values[*partition][*offset as usize], *number);
    }
    assert!(values.iter().all(|values| values.is_sorted()), "in order within each partition");
}

#[tokio::test]
async fn what_is_sent_is_read_once_in_order() {
    round_trip(&*Server::start(1, 0).await, 20_000).await;
    round_trip(&*Server::start(4, 0).await, 20_000).await;
}

#[tokio::test]
async fn lost_connections_lose_and_repeat_nothing() {
    round_trip(&*Server::start(1, 7).await, 20_000).await;
    round_trip(&*Server::start(3, 5).await, 20_000).await;
}

#[tokio::test]
async fn a_delivery_tells_partition_and_offset() {
    let server = Server::start(2, 0).await;
    let client = connect(&server).await;
    let producer = client.producer("numbers", ProducerOptions::default()).await.unwrap();
    let to = |partition| Record { partition: Some(PartitionId(partition)), ..Record::default() };
    let deliveries = [
        producer.send(to(1)).await.unwrap(),
        producer.send(to(1)).await.unwrap(),
        producer.send(to(0)).await.unwrap(),
    ];
    let mut receipts = Vec::new();
    for delivery in deliveries {
        let receipt = delivery.wait().await.unwrap();
        receipts.push((receipt.partition.0, receipt.offset.0));
    }
    assert_eq!(receipts, [(1, 0), (1, 1), (0, 0)]);
    let missing = producer.send(to(2)).await;
    assert!(matches!(missing, Err(ClientError::NoSuchPartition { .. })));
}

#[tokio::test]
async fn consuming_begins_where_it_is_told() {
    let server = Server::start_with(1, 0, 100).await;
    let client = connect(&server).await;
    let producer = client.producer("numbers", ProducerOptions::default()).await.unwrap();
    for number in 100..110_u64 {
        let value = number.to_string();
        let record = Record { value: Some(value.as_bytes()), ..Record::default() };
        producer.send(record).await.unwrap();
    }
    producer.close().await;
    let at = |from| ConsumerOptions { from, stop_at_end: true, ..ConsumerOptions::default() };
    let table: [(From, &[u64]); 3] = [
        (From::Offset(Offset(107)), &[107, 108, 109]),
        (From::Offset(Offset(110)), &[]),
        (From::End, &[]),
    ];
    for (from, expected) in table {
        assert_eq!(read_all(&client, at(from)).await.concat(), expected, "{from:?}");
    }
    for offset in [99, 111] {
        let from = From::Offset(Offset(offset));
        let error = client.consumer("numbers", at(from)).await.unwrap_err();
        assert_eq!(error.code(), Some(ErrorCode::OffsetOutOfRange), "{error}");
    }
}

#[tokio::test]
async fn errors_name_what_is_missing() {
    let server = Server::start(1, 0).await;
    let client = connect(&server).await;
    let error = client.producer("words", ProducerOptions::default()).await.unwrap_err();
    assert_eq!(error.code(), Some(ErrorCode::UnknownTopic));
    assert!(error.to_string().contains("words"), "{error}");
    let options =
        ConsumerOptions { partitions: Some(vec![PartitionId(3)]), ..ConsumerOptions::default() };
    let error = client.consumer("numbers", options).await.unwrap_err();
    assert!(matches!(error, ClientError::NoSuchPartition { .. }));
    // Port 1 is nobody's.
    let nobody = Client::connect(ClientOptions::server("127.0.0.1:1")).await.unwrap_err();
    assert!(matches!(nobody, ClientError::Unreachable { .. }));
}
