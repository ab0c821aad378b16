//! A node in a few lines, for tests of the load generator: it keeps batches in memory.
//!
//! Must never: check anything the load generator should get right itself; it records what came.

use std::collections::BTreeMap;
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::thread;

use barrage_model::batch::{self, BatchHeader, BatchView, DecompressionLimits};
use barrage_model::{CoreId, NodeId, Offset, PartitionId, ProducerEpoch, ProducerId, TopicOrder};
use barrage_model::{ShardId, TopicId};
use barrage_wire::{
    FetchReply, FrameHeader, HelloReply, InitProducerReply, Lease, PartitionRoute, ProduceReply,
    QueueReceive, QueueReceiveReply, QueueSettleReply, Receipt, Request, Response, SessionLimits,
    Settled, TopicRoutes,
};
use bytes::BytesMut;

/// Batches of each partition, stamped.
type Log = Arc<Mutex<Vec<Vec<Vec<u8>>>>>;

/// What its only group has done, by partition.
type Queues = Arc<Mutex<Vec<Queue>>>;

#[derive(Clone, Debug, Default)]
pub(crate) struct Queue {
    /// The first record that was not leased.
    pub next: Offset,
    /// Receipts of acks, as they came.
    pub acked: Vec<Receipt>,
}

/// The mock and what it was sent.
pub(crate) struct Mock {
    pub address: SocketAddr,
    pub log: Log,
    pub queues: Queues,
}

impl Mock {
    /// Serves until the test process ends.
    pub(crate) fn start(partitions: usize) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let log: Log = Arc::new(Mutex::new(vec![Vec::new(); partitions]));
        let queues: Queues = Arc::new(Mutex::new(vec![Queue::default(); partitions]));
        let shared = (Arc::clone(&log), Arc::clone(&queues));
        thread::spawn(move || {
            for stream in listener.incoming() {
                let (log, queues) = shared.clone();
                thread::spawn(move || serve(stream.unwrap(), &log, &queues));
            }
        });
        Self { address, log, queues }
    }

    /// Its partitions, all at its address.
    pub(crate) fn routes(&self) -> TopicRoutes {
        let count = u32::try_from(self.log.lock().unwrap().len()).unwrap();
        let route = |number| PartitionRoute {
            partition: PartitionId(number),
            shard: ShardId(1),
            node: NodeId(1),
            core: CoreId(0),
            address: self.address.to_string(),
        };
        let partitions = (0..count).map(route).collect();
        let (name, topic) = ("bench".into(), TopicId(1));
        TopicRoutes {
            name,
            error: 0,
            topic,
            priorities: 1,
            order: TopicOrder::Partition,
            partitions,
        }
    }

    /// How many records a partition holds.
    pub(crate) fn records(&self, partition: usize) -> usize {
        end(&self.log.lock().unwrap()[partition]).0 as usize
    }

    /// The keys of a partition's records.
    pub(crate) fn keys(&self, partition: usize) -> Vec<Option<Vec<u8>>> {
        let mut keys = Vec::new();
        for bytes in &self.log.lock().unwrap()[partition] {
            let view = BatchView::check(bytes).unwrap();
            let records = view.records(&DecompressionLimits::default()).unwrap();
            keys.extend(records.iter().map(|record| record.unwrap().key.map(<[u8]>::to_vec)));
        }
        keys
    }

    /// Every producer's batches follow one another without a gap; how many there are.
    pub(crate) fn check_sequences(&self, partition: usize) -> usize {
        let mut next: BTreeMap<i64, i32> = BTreeMap::new();
        let log = self.log.lock().unwrap();
        for bytes in &log[partition] {
            let view = BatchView::check(bytes).unwrap();
            let expected = next.entry(view.producer_id().0).or_default();
            assert_eq!(view.base_sequence().0, *expected, "in partition {partition}");
            *expected += i32::try_from(view.record_count()).unwrap();
        }
        log[partition].len()
    }
}

fn serve(mut stream: TcpStream, log: &Log, queues: &Queues) {
    static PRODUCERS: Mutex<i64> = Mutex::new(0);
    let mut head = [0; FrameHeader::SIZE];
    while stream.read_exact(&mut head).is_ok() {
        let header = FrameHeader::parse(&head).unwrap();
        let mut body = vec![0; header.body_size()];
        stream.read_exact(&mut body).unwrap();
        let mut out = BytesMut::new();
        let mut batches = Vec::new();
        let response = match Request::decode(&header, &body).unwrap() {
            Request::Hello(_) => hello(),
            Request::InitProducer => {
                let mut next = PRODUCERS.lock().unwrap();
                *next += 1;
                let epoch = ProducerEpoch(0);
                Response::InitProducer(InitProducerReply { producer: ProducerId(*next), epoch })
            }
            Request::Produce(request) => {
                let mut log = log.lock().unwrap();
                let partition = &mut log[request.key.partition.0 as usize];
                let base_offset = end(partition);
                let mut bytes = request.batch.to_vec();
                batch::stamp(&mut bytes, base_offset, 1);
                partition.push(bytes);
                Response::Produce(ProduceReply { base_offset, log_time_ms: 0 })
            }
            Request::Fetch(request) => {
                let log = log.lock().unwrap();
                let partition = &log[request.key.partition.0 as usize];
                for bytes in partition {
                    let header = BatchHeader::peek(bytes).unwrap();
                    let behind = header.next_offset() <= request.offset;
                    if !behind && batches.len() < request.bytes_max as usize {
                        batches.extend_from_slice(bytes);
                    }
                }
                let high_watermark = end(partition);
                let start_offset = Offset(0);
                Response::Fetch(FetchReply { high_watermark, start_offset, batches: &batches })
            }
            Request::QueueReceive(request) => {
                let partition = request.key.partition.0 as usize;
                let queue = &mut queues.lock().unwrap()[partition];
                let leases = lease(queue, &log.lock().unwrap()[partition], &request, &mut batches);
                Response::QueueReceive(QueueReceiveReply { more: true, leases, batches: &batches })
            }
            Request::QueueSettle(request) => {
                let queue = &mut queues.lock().unwrap()[request.key.partition.0 as usize];
                let results = vec![Settled::Done; request.receipts.len()];
                queue.acked.extend(request.receipts);
                Response::QueueSettle(QueueSettleReply { results })
            }
            other => panic!("the mock does not know {other:?}"),
        };
        response.encode(header.correlation, &mut out);
        if stream.write_all(&out).is_err() {
            return;
        }
    }
}

/// The next records, and the batches that hold them.
fn lease(
    queue: &mut Queue,
    partition: &[Vec<u8>],
    request: &QueueReceive,
    batches: &mut Vec<u8>,
) -> Vec<Lease> {
    let mut leases: Vec<Lease> = Vec::new();
    for bytes in partition {
        let header = BatchHeader::peek(bytes).unwrap();
        if header.next_offset() <= queue.next || leases.len() == request.count_max as usize {
            continue;
        }
        batches.extend_from_slice(bytes);
        while queue.next < header.next_offset() && leases.len() < request.count_max as usize {
            let (offset, tag) = (queue.next, queue.next.0 as u32);
            leases.push(Lease { offset, tag, deliveries: 1, first_ms: 0, left_ms: 1 });
            queue.next = Offset(offset.0 + 1);
        }
    }
    leases
}

fn hello() -> Response<'static> {
    let limits = SessionLimits {
        frame_bytes_max: 16 << 20,
        batch_bytes_max: 8 << 20,
        in_flight_requests_max: 8,
        in_flight_bytes_max: 64 << 20,
        idle_timeout_ms: 0,
    };
    let (node, core) = (NodeId(1), CoreId(0));
    Response::Hello(HelloReply { version: 1, node, core, limits, server_name: "mock".into() })
}

fn end(partition: &[Vec<u8>]) -> Offset {
    let last = partition.last().map(|bytes| BatchHeader::peek(bytes).unwrap());
    last.map_or(Offset(0), |header| header.next_offset())
}
