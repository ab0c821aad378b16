//! The broker on real files: two cores' worth of shards on one executor, through the public handle
//! only.

#![cfg(not(sim))]
#![allow(clippy::unwrap_used, reason = "tests fail by panicking")]
#![allow(clippy::indexing_slicing, reason = "tests fail by panicking")]
#![allow(clippy::panic, reason = "tests fail by panicking")]

use std::path::Path;
use std::time::Duration;

use barrage_broker::{
    Acks, AdminError, At, Broker, BrokerOptions, FetchError, FetchRequest, Fetched, Home,
    ProduceError, ProduceRequest, Produced, TopicChange, TopicInfo, TopicSpec,
};
use barrage_model::batch::{
    BatchBuilder, BatchView, Compression, NewRecord, batches, set_producer,
};
use barrage_model::{
    Offset, PartitionId, PartitionKey, Priorities, ProducerEpoch, ProducerId, Retention, Sequence,
    TopicName, TopicOrder,
};
use barrage_world::{Instant, run_local, spawn, unix_time_ms, yield_now};
use bytes::Bytes;

const MIB: u64 = 1 << 20;

fn soon() -> Instant {
    Instant::now() + Duration::from_secs(20)
}

fn name(text: &str) -> TopicName {
    TopicName::parse(text).unwrap()
}

/// All cores of a node, on this one executor.
async fn start(dir: &Path, cores: u16, change: impl Fn(&mut BrokerOptions)) -> Vec<Broker> {
    let mut options = BrokerOptions::new(dir.to_path_buf(), cores);
    options.segment_bytes = 16 * MIB;
    options.pool_segments = 1;
    options.core_addresses = (0..cores).map(|core| format!("127.0.0.1:{core}")).collect();
    change(&mut options);
    let home = Home::open(&options.data_dir).await.unwrap();
    let starting: Vec<_> = Broker::mesh(cores, home)
        .into_iter()
        .map(|links| spawn(Broker::start(options.clone(), links)))
        .collect();
    let mut brokers = Vec::new();
    for core in starting {
        brokers.push(core.await.unwrap().unwrap());
    }
    brokers
}

async fn stop(brokers: Vec<Broker>) {
    for broker in &brokers {
        broker.shutdown(soon()).await;
    }
}

async fn create(broker: &Broker, text: &str, partitions: u32) -> TopicInfo {
    let spec = TopicSpec {
        name: name(text),
        partitions,
        retention: None,
        priorities: Priorities::NONE,
        order: TopicOrder::Partition,
    };
    broker.create_topic(spec, soon()).await.unwrap()
}

fn key(topic: &TopicInfo, partition: u32) -> PartitionKey {
    PartitionKey { topic: topic.id, partition: PartitionId(partition) }
}

fn batch(values: &[&str]) -> Vec<u8> {
    let mut builder = BatchBuilder::new(Compression::None, 1000);
    for value in values {
        let value = Some(value.as_bytes());
        builder.push(&NewRecord { key: None, value, headers: &[], timestamp_ms: 1000 }).unwrap();
    }
    builder.finish().unwrap()
}

fn from(mut bytes: Vec<u8>, id: ProducerId, epoch: i16, sequence: i32) -> Vec<u8> {
    set_producer(&mut bytes, id, ProducerEpoch(epoch), Sequence(sequence)).unwrap();
    bytes
}

fn request(key: PartitionKey, bytes: Vec<u8>) -> ProduceRequest {
    let batch = Bytes::from(bytes);
    ProduceRequest { key, batch, delay: None, acks: Acks::Quorum, deadline: soon() }
}

async fn produce(
    broker: &Broker,
    key: PartitionKey,
    bytes: Vec<u8>,
) -> Result<Produced, ProduceError> {
    broker.produce(request(key, bytes)).await
}

async fn fetch(broker: &Broker, key: PartitionKey, offset: u64) -> Result<Fetched, FetchError> {
    let wait_until = Instant::now();
    let offset = Offset(offset);
    broker.fetch(FetchRequest { key, offset, bytes_max: 1 << 20, bytes_min: 1, wait_until }).await
}

/// (base offset, records) of every batch; each must pass its CRC.
fn found(fetched: &Fetched) -> Vec<(u64, u32)> {
    let mut all = Vec::new();
    for bytes in &fetched.batches {
        for batch in batches(bytes.as_ref()) {
            let view = BatchView::check(batch.unwrap()).unwrap();
            all.push((view.base_offset().0, view.record_count()));
        }
    }
    all
}

fn with_dir<F: Future<Output = ()>>(test: impl FnOnce(std::path::PathBuf) -> F) {
    let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    run_local(test(dir.path().to_path_buf()));
}

#[test]
fn records_go_in_and_come_out_on_any_core_and_after_a_restart() {
    with_dir(|dir| async move {
        let brokers = start(&dir, 2, |_| {}).await;
        let topic = create(&brokers[1], "orders", 4).await;
        let twice = TopicSpec {
            name: name("orders"),
            partitions: 1,
            retention: None,
            priorities: Priorities::NONE,
            order: TopicOrder::Partition,
        };
        assert_eq!(brokers[0].create_topic(twice, soon()).await, Err(AdminError::TopicExists));
        for broker in &brokers {
            for partition in 0..4 {
                let produced =
                    produce(broker, key(&topic, partition), batch(&["a", "b", "c"])).await.unwrap();
                assert_eq!(produced.base_offset, Offset(3 * u64::from(broker.core().0)));
            }
        }
        check_all(&brokers, &topic).await;
        let described = brokers[0].describe_topic(name("orders"), soon()).await.unwrap();
        let cores: Vec<_> = described.partitions.iter().map(|p| p.info.leader.core.0).collect();
        assert_eq!(cores.iter().filter(|core| **core == 0).count(), 2);
        assert!(described.partitions.iter().all(|p| p.high_watermark == Offset(6) && p.bytes > 0));
        let metadata = brokers[1].metadata(Some(&[name("orders"), name("none")]));
        assert_eq!(metadata.unknown, [name("none")]);
        assert_eq!(metadata.topics[0].partitions.len(), 4);
        let stats = brokers[1].stats(soon()).await.unwrap();
        let records: u64 = stats.iter().flat_map(|core| &core.shards).map(|s| s.records).sum();
        assert_eq!((stats.len(), records), (2, 24));
        stop(brokers).await;

        // One core, then three: the data does not care.
        for cores in [1, 3] {
            let brokers = start(&dir, cores, |_| {}).await;
            check_all(&brokers, &topic).await;
            stop(brokers).await;
        }
    });
}

async fn check_all(brokers: &[Broker], topic: &TopicInfo) {
    for broker in brokers {
        assert_eq!(broker.list_topics(), std::slice::from_ref(topic));
        for partition in 0..topic.partitions {
            let key = key(topic, partition);
            let all = fetch(broker, key, 0).await.unwrap();
            assert_eq!(found(&all), [(0, 3), (3, 3)]);
            assert_eq!(all.high_watermark, Offset(6));
            assert_eq!(found(&fetch(broker, key, 4).await.unwrap()), [(3, 3)]);
            assert_eq!(found(&fetch(broker, key, 6).await.unwrap()), []);
            let beyond = fetch(broker, key, 7).await.unwrap_err();
            let FetchError::OffsetOutOfRange { start, high_watermark } = beyond else {
                panic!("not out of range: {beyond}")
            };
            assert_eq!((start, high_watermark), (Offset(0), Offset(6)));
        }
    }
}

#[test]
fn an_idempotent_producer_is_appended_once_and_in_order() {
    with_dir(|dir| async move {
        let brokers = start(&dir, 2, |_| {}).await;
        let topic = create(&brokers[0], "t", 2).await;
        let id = brokers[1].init_producer(soon()).await.unwrap().id;
        assert_ne!(id, brokers[0].init_producer(soon()).await.unwrap().id);
        for (broker, partition) in [(&brokers[0], 0), (&brokers[1], 0)] {
            let key = key(&topic, partition);
            let base = if broker.core().0 == 0 { 0 } else { 8 };
            let epoch = broker.core().0 as i16;
            let send = |sequence| request(key, from(batch(&["x", "y"]), id, epoch, sequence));
            // All under way at once, each twice: the second waits for the first.
            let pending: Vec<_> = [0, 2, 0, 2, 4, 4, 6]
                .into_iter()
                .map(|sequence| broker.produce(send(sequence)))
                .collect();
            let mut offsets = Vec::new();
            for pending in pending {
                offsets.push(pending.await.unwrap().base_offset.0 - base);
            }
            assert_eq!(offsets, [0, 2, 0, 2, 4, 4, 6]);
            assert_eq!(broker.produce(send(2)).await.unwrap().base_offset, Offset(base + 2));
            let gap = broker.produce(send(10)).await.unwrap_err();
            assert!(matches!(gap, ProduceError::OutOfOrderSequence { expected: 8, got: 10 }));
        }
        let fenced = produce(&brokers[0], key(&topic, 0), from(batch(&["z"]), id, 0, 8)).await;
        assert!(matches!(fenced, Err(ProduceError::Fenced { epoch: 1 })));
        let unknown = produce(&brokers[0], key(&topic, 1), from(batch(&["z"]), id, 1, 8)).await;
        assert!(matches!(unknown, Err(ProduceError::UnknownProducer)));
        stop(brokers).await;

        // What a producer has sent is remembered over a restart.
        let brokers = start(&dir, 1, |_| {}).await;
        let again = from(batch(&["x", "y"]), id, 1, 6);
        let again = produce(&brokers[0], key(&topic, 0), again).await.unwrap();
        assert_eq!(again.base_offset, Offset(14));
        let next = ProducerId(id.0);
        assert_ne!(brokers[0].init_producer(soon()).await.unwrap().id, next);
        stop(brokers).await;
    });
}

#[test]
fn bad_requests_get_typed_errors() {
    with_dir(|dir| async move {
        let brokers = start(&dir, 2, |_| {}).await;
        let topic = create(&brokers[0], "t", 1).await;
        for broker in &brokers {
            let mut damaged = batch(&["a"]);
            *damaged.last_mut().unwrap() ^= 1;
            let bad = produce(broker, key(&topic, 0), damaged).await;
            assert!(matches!(bad, Err(ProduceError::BadBatch(_))));
            let unknown = produce(broker, key(&topic, 9), batch(&["a"])).await;
            assert!(matches!(unknown, Err(ProduceError::UnknownPartition)));
            let unknown = fetch(broker, key(&topic, 9), 0).await;
            assert!(matches!(unknown, Err(FetchError::UnknownPartition)));
            let mut late = request(key(&topic, 0), batch(&["a"]));
            late.deadline = Instant(1);
            assert!(matches!(broker.produce(late).await, Err(ProduceError::Expired)));
            let missing = broker.describe_topic(name("none"), soon()).await;
            assert_eq!(missing, Err(AdminError::UnknownTopic));
        }
        let used = Home::open(&dir).await;
        assert!(used.err().unwrap().to_string().contains("in use"));
        stop(brokers).await;
    });
}

#[test]
fn a_waiting_fetch_is_woken_by_its_partition() {
    with_dir(|dir| async move {
        let brokers = start(&dir, 2, |_| {}).await;
        let topic = create(&brokers[0], "t", 2).await;
        for (reader, writer) in [(0, 0), (0, 1), (1, 0)] {
            for partition in 0..2 {
                let key = key(&topic, partition);
                let listed = brokers[reader].list_offset(key, At::End, soon()).await.unwrap();
                let fetch = FetchRequest {
                    key,
                    offset: listed.offset,
                    bytes_max: 1000,
                    bytes_min: 1,
                    wait_until: soon(),
                };
                let broker = brokers[reader].clone();
                let waiting = spawn(async move { broker.fetch(fetch).await });
                yield_now().await;
                let written = produce(&brokers[writer], key, batch(&["news"])).await.unwrap();
                let news = waiting.await.unwrap().unwrap();
                assert_eq!(found(&news), [(written.base_offset.0, 1)]);
            }
        }
        stop(brokers).await;
    });
}

#[test]
fn offsets_are_found_by_time() {
    with_dir(|dir| async move {
        let brokers = start(&dir, 1, |_| {}).await;
        let topic = create(&brokers[0], "t", 1).await;
        let key = key(&topic, 0);
        let before = unix_time_ms();
        let first = produce(&brokers[0], key, batch(&["a"])).await.unwrap();
        barrage_world::sleep(Duration::from_millis(30)).await;
        let second = produce(&brokers[0], key, batch(&["b"])).await.unwrap();
        let table = [
            (At::Start, 0),
            (At::End, 2),
            (At::Time(before - 1), 0),
            (At::Time(first.log_time_ms), 0),
            (At::Time(first.log_time_ms + 1), 1),
            (At::Time(second.log_time_ms + 1), 2),
        ];
        for (at, want) in table {
            let listed = brokers[0].list_offset(key, at, soon()).await.unwrap();
            assert_eq!(listed.offset, Offset(want), "{at:?}");
        }
        stop(brokers).await;
    });
}

#[test]
fn topics_grow_change_and_go() {
    with_dir(|dir| async move {
        let brokers = start(&dir, 2, |_| {}).await;
        let topic = create(&brokers[0], "t", 1).await;
        produce(&brokers[0], key(&topic, 0), batch(&["a"])).await.unwrap();
        let retention = Some(Retention::UNLIMITED);
        let change = TopicChange { partitions: Some(3), retention };
        let grown = brokers[1].alter_topic(name("t"), change, soon()).await.unwrap();
        assert_eq!((grown.partitions, grown.retention), (3, Retention::UNLIMITED));
        for partition in 0..3 {
            produce(&brokers[0], key(&topic, partition), batch(&["b"])).await.unwrap();
        }
        brokers[1].delete_topic(name("t"), soon()).await.unwrap();
        let gone = produce(&brokers[0], key(&topic, 0), batch(&["c"])).await;
        assert!(matches!(gone, Err(ProduceError::UnknownPartition)));
        let fresh = create(&brokers[0], "t", 1).await;
        assert_ne!(fresh.id, topic.id);
        let empty = fetch(&brokers[1], key(&fresh, 0), 0).await.unwrap();
        assert_eq!(empty.high_watermark, Offset(0));
        stop(brokers).await;
    });
}

#[test]
fn retention_by_size_moves_the_start() {
    with_dir(|dir| async move {
        let small = |options: &mut BrokerOptions| {
            options.segment_bytes = 2 * MIB;
            options.retention = Retention { bytes: Some(3 * MIB), ..Retention::UNLIMITED };
            options.retention_tick = Duration::from_millis(20);
        };
        let brokers = start(&dir, 1, small).await;
        let topic = create(&brokers[0], "t", 1).await;
        let key = key(&topic, 0);
        let value = "x".repeat(100_000);
        for _ in 0..100 {
            produce(&brokers[0], key, batch(&[&value])).await.unwrap();
        }
        let mut start = Offset(0);
        for _ in 0..200 {
            barrage_world::sleep(Duration::from_millis(20)).await;
            let described = brokers[0].describe_topic(name("t"), soon()).await.unwrap();
            start = described.partitions[0].start_offset;
            if described.partitions[0].bytes < 5 * MIB {
                break;
            }
        }
        assert!(start > Offset(40), "start is {start}");
        let below = fetch(&brokers[0], key, start.0 - 1).await;
        assert!(matches!(below, Err(FetchError::OffsetOutOfRange { .. })));
        let kept = fetch(&brokers[0], key, start.0).await.unwrap();
        assert_eq!(found(&kept)[0].0, start.0);
        stop(brokers).await;
        let brokers = crate::start(&dir, 1, small).await;
        let kept = fetch(&brokers[0], key, start.0).await.unwrap();
        assert_eq!(found(&kept)[0].0, start.0);
        stop(brokers).await;
    });
}

/// A partition of 10 GiB was let go of 256 MiB every ten seconds: producers were faster, and the
/// disk became full.
#[test]
fn retention_by_size_keeps_pace() {
    with_dir(|dir| async move {
        let small = |options: &mut BrokerOptions| {
            options.segment_bytes = 2 * MIB;
            options.retention = Retention { bytes: Some(3 * MIB), ..Retention::UNLIMITED };
            options.retention_tick = Duration::from_secs(3600);
        };
        let brokers = start(&dir, 1, small).await;
        let topic = create(&brokers[0], "t", 1).await;
        let value = "x".repeat(100_000);
        for _ in 0..300 {
            produce(&brokers[0], key(&topic, 0), batch(&[&value])).await.unwrap();
        }
        let mut bytes = u64::MAX;
        for _ in 0..1000 {
            barrage_world::sleep(Duration::from_millis(20)).await;
            let described = brokers[0].describe_topic(name("t"), soon()).await.unwrap();
            bytes = described.partitions[0].bytes;
            if bytes < 12 * MIB {
                break;
            }
        }
        assert!(bytes < 12 * MIB, "{bytes} bytes are kept of 30 MB");
        stop(brokers).await;
    });
}

#[test]
fn many_producers_share_entries() {
    with_dir(|dir| async move {
        let brokers = start(&dir, 1, |_| {}).await;
        let topic = create(&brokers[0], "t", 8).await;
        let began = Instant::now();
        let mut last = 0;
        for _ in 0..20 {
            let pending: Vec<_> = (0..200)
                .map(|number| brokers[0].produce(request(key(&topic, number % 8), batch(&["a"]))))
                .collect();
            for pending in pending {
                last = last.max(pending.await.unwrap().base_offset.0);
            }
        }
        assert_eq!(last, 499);
        let stats = brokers[0].stats(soon()).await.unwrap();
        let shard = &stats[0].shards[0];
        assert_eq!(shard.records, 4000);
        assert!(shard.flushes < 2000, "{} flushes in {:?}", shard.flushes, began.elapsed());
        stop(brokers).await;
    });
}
