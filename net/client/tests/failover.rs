//! The client against three nodes that share one log and lose their leader: killed, stopped, cut
//! off, replaced. Every record is there once, in order, where its report says.
//!
//! The nodes are small servers in memory. One partition log stands for the replicated one: what a
//! leader writes, the others have.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]
#![expect(clippy::disallowed_types, clippy::disallowed_methods, reason = "outside of the broker")]

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use barrage_client::{Client, ClientOptions, ConsumerOptions, Outcome, Producer, ProducerOptions};
use barrage_client::{Record, Report};
use barrage_model::batch::{BatchHeader, BatchView, stamp};
use barrage_model::{
    CoreId, NodeId, Offset, PartitionId, ProducerEpoch, ProducerId, ShardId, TopicId, TopicOrder,
};
use barrage_wire::{
    At, ErrorCode, ErrorReply, FetchReply, FrameDecoder, HelloReply, Hint, InitProducerReply,
    ListOffsetReply, MetadataReply, NodeAddress, PartitionRoute, ProduceReply, Request, Response,
    SessionLimits, TopicRoutes,
};
use bytes::BytesMut;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinHandle;

const LIMITS: SessionLimits = SessionLimits {
    frame_bytes_max: 16 << 20,
    batch_bytes_max: 8 << 20,
    in_flight_requests_max: 64,
    in_flight_bytes_max: 64 << 20,
    idle_timeout_ms: 60_000,
};

/// How a node behaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mode {
    Up,
    /// As after SIGSTOP: the kernel takes connections and bytes, nobody reads them.
    Stopped,
    /// Out of touch with the others: believes that it leads, and answers no produce.
    CutOff,
}

/// A producer's epoch, and the sequences of its batches: first, next, and the offset.
type Known = (i16, Vec<(i32, i32, u64)>);

/// The log that all nodes share.
#[derive(Default)]
struct Log {
    batches: Vec<Vec<u8>>,
    next_offset: u64,
    producers: HashMap<i64, Known>,
    producer_next: i64,
    leader: Option<usize>,
    /// Whether those who do not lead tell who does.
    hints: bool,
    /// Offsets from here on a new leader does not yet know to be committed.
    committed_max: Option<u64>,
}

struct Node {
    index: usize,
    addresses: Vec<String>,
    log: Arc<Mutex<Log>>,
    mode: watch::Receiver<Mode>,
}

struct Cluster {
    addresses: Vec<String>,
    log: Arc<Mutex<Log>>,
    modes: Vec<watch::Sender<Mode>>,
    tasks: Vec<Option<JoinHandle<()>>>,
}

impl Cluster {
    async fn start() -> Self {
        let mut listeners = Vec::new();
        for _ in 0..3 {
            listeners.push(TcpListener::bind("127.0.0.1:0").await.unwrap());
        }
        let addresses: Vec<_> =
            listeners.iter().map(|listener| listener.local_addr().unwrap().to_string()).collect();
        let log = Log { leader: Some(0), hints: true, ..Log::default() };
        let mut cluster =
            Self { addresses, log: Arc::new(Mutex::new(log)), modes: vec![], tasks: vec![] };
        for listener in listeners {
            let (sender, mode) = watch::channel(Mode::Up);
            cluster.modes.push(sender);
            cluster.tasks.push(Some(cluster.serve(listener, cluster.tasks.len(), mode)));
        }
        cluster
    }

    fn serve(
        &self,
        listener: TcpListener,
        index: usize,
        mode: watch::Receiver<Mode>,
    ) -> JoinHandle<()> {
        let (addresses, log) = (self.addresses.clone(), Arc::clone(&self.log));
        let node = Arc::new(Node { index, addresses, log, mode });
        tokio::spawn(async move {
            let mut sessions = tokio::task::JoinSet::new();
            loop {
                node.runs().await;
                let Ok((stream, _)) = listener.accept().await else { return };
                sessions.spawn(Arc::clone(&node).session(stream));
            }
        })
    }

    /// The node's process ends: its connections and its port close.
    fn kill(&mut self, index: usize) {
        self.tasks[index].take().unwrap().abort();
    }

    async fn revive(&mut self, index: usize) {
        let listener = TcpListener::bind(&self.addresses[index]).await.unwrap();
        let mode = self.modes[index].subscribe();
        self.tasks[index] = Some(self.serve(listener, index, mode));
    }

    fn set(&self, index: usize, mode: Mode) {
        self.modes[index].send_replace(mode);
    }

    fn lead(&self, leader: Option<usize>) {
        self.log.lock().unwrap().leader = leader;
    }

    async fn connect(&self, servers: &[usize]) -> Client {
        let servers = servers.iter().map(|index| self.addresses[*index].clone()).collect();
        Client::connect(ClientOptions { servers, ..ClientOptions::default() }).await.unwrap()
    }
}

impl Node {
    async fn runs(&self) {
        let mut mode = self.mode.clone();
        drop(mode.wait_for(|mode| *mode != Mode::Stopped).await);
    }

    fn is_cut_off(&self) -> bool {
        *self.mode.borrow() == Mode::CutOff
    }

    async fn session(self: Arc<Self>, mut stream: TcpStream) {
        let mut decoder = FrameDecoder::new(LIMITS.frame_bytes_max);
        loop {
            self.runs().await;
            while let Some(frame) = decoder.next_frame().unwrap() {
                let request = Request::decode(&frame.header, &frame.body).unwrap();
                let mut out = BytesMut::new();
                match self.answer(&request) {
                    Some(response) => response.encode(frame.header.correlation, &mut out),
                    None => continue,
                }
                if matches!(request, Request::Fetch(_)) {
                    tokio::time::sleep(Duration::from_millis(1)).await;
                }
                self.runs().await;
                if stream.write_all(&out).await.is_err() {
                    return;
                }
            }
            if stream.read_buf(decoder.buffer()).await.unwrap_or(0) == 0 {
                return;
            }
        }
    }

    fn answer(&self, request: &Request<'_>) -> Option<Response<'static>> {
        let mut log = self.log.lock().unwrap();
        let leader = if self.is_cut_off() { Some(self.index) } else { log.leader };
        let response = match request {
            Request::Hello(_) => Response::Hello(HelloReply {
                version: 1,
                node: NodeId(self.index as u64 + 1),
                core: CoreId(0),
                limits: LIMITS,
                server_name: "in memory".to_owned(),
            }),
            Request::Metadata(_) => Response::Metadata(self.metadata(leader)),
            _ if leader != Some(self.index) => {
                let hint = leader.filter(|_| log.hints).map_or(Hint::None, |leader| Hint::Leader {
                    node: NodeId(leader as u64 + 1),
                    core: CoreId(0),
                    address: self.addresses[leader].clone(),
                });
                let error = ErrorReply::with_hint(ErrorCode::NotLeader, "elsewhere", hint);
                Response::Error { opcode: request.opcode().request_code(), error }
            }
            _ if self.is_cut_off() => return None,
            Request::InitProducer => {
                log.producer_next += 1;
                let (producer, epoch) = (ProducerId(log.producer_next), ProducerEpoch(0));
                Response::InitProducer(InitProducerReply { producer, epoch })
            }
            Request::Produce(produce) => log.produce(produce.batch),
            Request::ListOffset(list) => {
                let high_watermark = Offset(log.next_offset);
                let offset = if list.at == At::End { high_watermark } else { Offset(0) };
                let start_offset = Offset(0);
                Response::ListOffset(ListOffsetReply { offset, start_offset, high_watermark })
            }
            Request::Fetch(fetch) => log.fetch(fetch.offset),
            other => panic!("the tests do not ask {other:?}"),
        };
        Some(response)
    }

    fn metadata(&self, leader: Option<usize>) -> MetadataReply {
        let address = |index: usize| self.addresses[index].clone();
        let route = PartitionRoute {
            partition: PartitionId(0),
            shard: ShardId(1),
            node: NodeId(leader.map_or(0, |leader| leader as u64 + 1)),
            core: CoreId(0),
            address: leader.map(address).unwrap_or_default(),
        };
        let topic = TopicId(7);
        let (name, partitions) = ("t".to_owned(), vec![route]);
        let row = TopicRoutes {
            name,
            error: 0,
            topic,
            priorities: 1,
            order: TopicOrder::Partition,
            partitions,
        };
        let node = |index| NodeAddress { node: NodeId(index as u64 + 1), address: address(index) };
        MetadataReply {
            cluster: String::new(),
            topics: vec![row],
            nodes: (0..self.addresses.len()).map(node).collect(),
        }
    }
}

impl Log {
    fn produce(&mut self, batch: &[u8]) -> Response<'static> {
        let header = *BatchView::check(batch).unwrap().header();
        let refuse = |code| {
            let error = ErrorReply::new(code, "said the test");
            Response::Error { opcode: 16, error }
        };
        let (epoch, sequence) = (header.producer_epoch.0, header.base_sequence.0);
        let known = self.producers.entry(header.producer_id.0).or_insert((epoch, vec![]));
        if epoch < known.0 {
            return refuse(ErrorCode::ProducerFenced);
        }
        if epoch > known.0 {
            *known = (epoch, vec![]);
        }
        let expected = known.1.last().map_or(0, |(_, next, _)| *next);
        let found = known.1.iter().rev().take(5).find(|(first, ..)| *first == sequence);
        if let Some((_, _, offset)) = found {
            let base_offset = Offset(*offset);
            return Response::Produce(ProduceReply { base_offset, log_time_ms: 1 });
        }
        if sequence < expected {
            return refuse(ErrorCode::DuplicateSequence);
        }
        if sequence > expected {
            return refuse(ErrorCode::OutOfOrderSequence);
        }
        let base_offset = Offset(self.next_offset);
        known.1.push((sequence, sequence + header.record_count as i32, base_offset.0));
        let mut stored = batch.to_vec();
        stamp(&mut stored, base_offset, 1);
        self.next_offset += u64::from(header.record_count);
        self.batches.push(stored);
        Response::Produce(ProduceReply { base_offset, log_time_ms: 1 })
    }

    fn fetch(&self, offset: Offset) -> Response<'static> {
        let end = self.committed_max.unwrap_or(u64::MAX).min(self.next_offset);
        let (start_offset, high_watermark) = (Offset(0), Offset(end));
        if offset > high_watermark {
            let hint = Hint::Offsets { start: start_offset, high_watermark };
            let error = ErrorReply::with_hint(ErrorCode::OffsetOutOfRange, "not yet", hint);
            return Response::Error { opcode: 17, error };
        }
        let wanted = |batch: &&Vec<u8>| {
            let next = BatchHeader::peek(batch).unwrap().next_offset();
            next > offset && next <= high_watermark
        };
        let found = self.batches.iter().filter(wanted).take(3);
        let batches: &'static [u8] = found.flatten().copied().collect::<Vec<u8>>().leak();
        Response::Fetch(FetchReply { high_watermark, start_offset, batches })
    }
}

/// A producer that sends numbers, and what it was told.
struct Numbers {
    producer: Producer,
    sent: u64,
    told: Arc<Mutex<Vec<(u64, Instant)>>>,
}

impl Numbers {
    async fn open(client: &Client) -> Self {
        let told = Arc::new(Mutex::new(Vec::new()));
        let telling = Arc::clone(&told);
        let on_report = Box::new(move |report: &Report<'_>| {
            let Outcome::Acked { base_offset } = report.outcome else { panic!("{report:?}") };
            for (offset, token) in (base_offset.0..).zip(report.tokens) {
                assert_eq!(offset, *token, "one partition, one producer: in order, each once");
                telling.lock().unwrap().push((*token, Instant::now()));
            }
        });
        let options = ProducerOptions {
            batch_bytes: 300,
            linger: Duration::from_millis(1),
            delivery_timeout: Duration::from_secs(20),
            ..ProducerOptions::default()
        };
        let producer = Producer::with_reports(client, "t", options, on_report).await.unwrap();
        Self { producer, sent: 0, told }
    }

    async fn send(&mut self, count: u64) {
        for _ in 0..count {
            let value = self.sent.to_string();
            let token = self.sent;
            let record = Record { value: Some(value.as_bytes()), token, ..Record::default() };
            self.producer.send(record).await.unwrap();
            self.sent += 1;
        }
    }

    /// Sends on for a while, a few at a time.
    async fn send_for(&mut self, time: Duration) {
        let until = Instant::now() + time;
        while Instant::now() < until {
            self.send(5).await;
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    }

    /// How long after `since` the first record was acknowledged.
    async fn first_after(&mut self, since: Instant) -> Duration {
        let late = since + Duration::from_secs(15);
        loop {
            let first = self.told.lock().unwrap().iter().map(|(_, at)| *at).find(|at| *at > since);
            if let Some(first) = first {
                return first - since;
            }
            assert!(Instant::now() < late, "nothing is acknowledged any more");
            self.send_for(Duration::from_millis(10)).await;
        }
    }

    /// Everything is acknowledged and can be read, once and in order.
    async fn check(self, client: &Client) {
        self.producer.close().await;
        assert_eq!(self.told.lock().unwrap().len() as u64, self.sent);
        let options = ConsumerOptions { stop_at_end: true, ..ConsumerOptions::default() };
        let mut consumer = client.consumer("t", options).await.unwrap();
        assert_eq!(read(&mut consumer, u64::MAX).await, (0..self.sent).collect::<Vec<_>>());
    }
}

/// Reads on until the end, or until `count` records are there.
async fn read(consumer: &mut barrage_client::Consumer, count: u64) -> Vec<u64> {
    let mut numbers = Vec::new();
    while (numbers.len() as u64) < count {
        let Some(batch) = consumer.next_batch().await.unwrap() else { break };
        for record in &batch.records().unwrap() {
            let record = record.unwrap();
            if batch.wants(record.offset) {
                numbers.push(std::str::from_utf8(record.value.unwrap()).unwrap().parse().unwrap());
            }
        }
    }
    numbers
}

const RESUME_MAX: Duration = Duration::from_secs(2);

/// Loses node 0, the leader and the only server that the client was given; node 1 leads then.
async fn lose_the_leader(lose: impl FnOnce(&mut Cluster), hints: bool, outage_ms: u64) {
    let mut cluster = Cluster::start().await;
    cluster.log.lock().unwrap().hints = hints;
    let client = cluster.connect(&[0]).await;
    let mut numbers = Numbers::open(&client).await;
    numbers.send_for(Duration::from_millis(100)).await;
    lose(&mut cluster);
    cluster.lead(None);
    numbers.send_for(Duration::from_millis(outage_ms)).await;
    cluster.lead(Some(1));
    let resumed = numbers.first_after(Instant::now()).await;
    assert!(resumed < RESUME_MAX, "an outage of {outage_ms} ms, resumed after {resumed:?}");
    numbers.send_for(Duration::from_millis(100)).await;
    numbers.check(&client).await;
}

#[tokio::test]
async fn a_leader_that_is_killed_is_replaced() {
    for (hints, outage_ms) in [(true, 100), (false, 500), (true, 1500)] {
        lose_the_leader(|cluster| cluster.kill(0), hints, outage_ms).await;
    }
}

#[tokio::test]
async fn a_leader_that_is_stopped_is_replaced() {
    for (hints, outage_ms) in [(true, 100), (false, 500), (true, 1500), (true, 2600)] {
        lose_the_leader(|cluster| cluster.set(0, Mode::Stopped), hints, outage_ms).await;
    }
}

#[tokio::test]
async fn a_leader_that_lost_touch_with_the_others_is_left() {
    for outage_ms in [100, 500, 1500] {
        lose_the_leader(|cluster| cluster.set(0, Mode::CutOff), true, outage_ms).await;
    }
}

#[tokio::test]
async fn a_stopped_leader_that_goes_on_and_leads_again_repeats_nothing() {
    let cluster = Cluster::start().await;
    let client = cluster.connect(&[1, 0]).await;
    let mut numbers = Numbers::open(&client).await;
    for _ in 0..2 {
        numbers.send_for(Duration::from_millis(50)).await;
        cluster.set(0, Mode::Stopped);
        numbers.send_for(Duration::from_millis(300)).await;
        cluster.lead(Some(1));
        numbers.first_after(Instant::now()).await;
        // What was sent to it before it stopped is read now, by a leader.
        cluster.lead(Some(0));
        cluster.set(0, Mode::Up);
        numbers.send_for(Duration::from_millis(100)).await;
    }
    numbers.check(&client).await;
}

#[tokio::test]
async fn leaders_may_come_and_go() {
    let mut cluster = Cluster::start().await;
    let client = cluster.connect(&[0]).await;
    let mut numbers = Numbers::open(&client).await;
    for turn in 1..20 {
        numbers.send_for(Duration::from_millis(20)).await;
        cluster.log.lock().unwrap().hints = turn % 2 == 0;
        cluster.lead((turn % 4 != 3).then_some(turn % 3));
        match turn {
            6 => cluster.kill(2),
            9 => cluster.revive(2).await,
            _ => {}
        }
    }
    cluster.lead(Some(2));
    let resumed = numbers.first_after(Instant::now()).await;
    assert!(resumed < RESUME_MAX, "a node that came back is used: {resumed:?}");
    numbers.check(&client).await;
}

#[tokio::test]
async fn a_consumer_goes_on_at_the_new_leader() {
    let mut cluster = Cluster::start().await;
    let client = cluster.connect(&[0]).await;
    let mut numbers = Numbers::open(&client).await;
    numbers.send(500).await;
    numbers.producer.flush().await;
    let mut consumer = client.consumer("t", ConsumerOptions::default()).await.unwrap();
    assert_eq!(read(&mut consumer, 500).await, (0..500).collect::<Vec<_>>());
    cluster.kill(0);
    // The new leader does not know yet that all of it is committed.
    cluster.log.lock().unwrap().committed_max = Some(400);
    cluster.lead(Some(2));
    numbers.send(500).await;
    numbers.producer.flush().await;
    tokio::time::sleep(Duration::from_millis(300)).await;
    cluster.log.lock().unwrap().committed_max = None;
    assert_eq!(read(&mut consumer, 500).await, (500..1000).collect::<Vec<_>>());
}

#[tokio::test]
async fn a_consumer_leaves_a_leader_that_is_stopped() {
    let cluster = Cluster::start().await;
    let client = cluster.connect(&[0]).await;
    let mut consumer = client.consumer("t", ConsumerOptions::default()).await.unwrap();
    let mut numbers = Numbers::open(&client).await;
    numbers.send(100).await;
    assert_eq!(read(&mut consumer, 100).await, (0..100).collect::<Vec<_>>());
    cluster.set(0, Mode::Stopped);
    cluster.lead(Some(1));
    let stopped = Instant::now();
    let mut numbers_of_others = Numbers::open(&cluster.connect(&[2]).await).await;
    numbers_of_others.sent = 100;
    numbers_of_others.send(100).await;
    assert_eq!(read(&mut consumer, 100).await, (100..200).collect::<Vec<_>>());
    assert!(stopped.elapsed() < Duration::from_secs(4), "took {:?}", stopped.elapsed());
}

#[tokio::test]
async fn any_live_server_of_the_list_is_enough() {
    let mut cluster = Cluster::start().await;
    cluster.lead(Some(2));
    cluster.kill(0);
    cluster.set(1, Mode::Stopped);
    let started = Instant::now();
    let client = cluster.connect(&[0, 1, 2]).await;
    client.init_producer().await.unwrap();
    assert!(started.elapsed() < Duration::from_secs(1), "took {:?}", started.elapsed());
}

#[tokio::test]
async fn who_does_not_lead_is_not_the_last_to_be_asked() {
    let cluster = Cluster::start().await;
    cluster.log.lock().unwrap().hints = false;
    cluster.lead(Some(2));
    let client = cluster.connect(&[0, 1, 2]).await;
    client.init_producer().await.unwrap();
    // Nobody leads for a while: it is asked again, all around.
    cluster.lead(None);
    let log = Arc::clone(&cluster.log);
    tokio::spawn(async move {
        tokio::time::sleep(Duration::from_millis(300)).await;
        log.lock().unwrap().leader = Some(1);
    });
    client.init_producer().await.unwrap();
}
