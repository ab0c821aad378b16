//! The broker in the simulated world: what a power cut must leave, and answers that must come.
//!
//! Each test is a story that a scenario found; it stays here as the shortest way to it.

#![cfg(sim)]
#![allow(clippy::unwrap_used, reason = "tests fail by panicking")]
#![allow(clippy::indexing_slicing, reason = "tests fail by panicking")]
#![allow(clippy::panic, reason = "tests fail by panicking")]

mod expiry;
mod filters;
mod queues;
mod reclaim;
mod streams;

use std::time::Duration;

use barrage_broker::{
    Acks, Broker, BrokerOptions, FetchRequest, Home, ProduceError, ProduceRequest, Produced,
    TopicInfo, TopicSpec,
};
use barrage_model::batch::{
    BatchBuilder, BatchView, Compression, NewRecord, batches, set_producer,
};
use barrage_model::{
    Offset, PartitionId, PartitionKey, Priorities, ProducerEpoch, ProducerId, Retention, Sequence,
    ShardId, TopicName, TopicOrder,
};
use barrage_world::sim::{CrashStyle, Disk, Fault, Injection, Operation, run_on};
use barrage_world::{Instant, sleep, spawn, timeout};
use bytes::Bytes;

const KIB: u64 = 1024;

fn soon() -> Instant {
    Instant::now() + Duration::from_secs(5)
}

async fn start(cores: u16) -> Vec<Broker> {
    let options = BrokerOptions {
        segment_bytes: 256 * KIB,
        core_addresses: vec!["10.0.0.0:1".to_owned(); usize::from(cores)],
        ..BrokerOptions::new("/some/where/data".into(), cores)
    };
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

async fn create(broker: &Broker, name: &str, partitions: u32) -> TopicInfo {
    let name = TopicName::parse(name).unwrap();
    let spec = TopicSpec {
        name,
        partitions,
        retention: Some(Retention::UNLIMITED),
        priorities: Priorities::NONE,
        order: TopicOrder::Partition,
    };
    broker.create_topic(spec, soon()).await.unwrap()
}

fn batch(value: &str) -> Bytes {
    let mut builder = BatchBuilder::new(Compression::None, 1000);
    let value = Some(value.as_bytes());
    builder.push(&NewRecord { value, timestamp_ms: 1000, ..NewRecord::default() }).unwrap();
    Bytes::from(builder.finish().unwrap())
}

fn produce(
    broker: &Broker,
    key: PartitionKey,
    batch: Bytes,
) -> impl Future<Output = Result<Produced, ProduceError>> + 'static {
    broker.produce(ProduceRequest { key, batch, delay: None, acks: Acks::Quorum, deadline: soon() })
}

/// The values of a partition.
async fn values(broker: &Broker, key: PartitionKey) -> Vec<String> {
    let (offset, wait_until) = (Offset(0), Instant::now());
    let request = FetchRequest { key, offset, bytes_max: 1 << 20, bytes_min: 1, wait_until };
    let fetched = broker.fetch(request).await.unwrap();
    let mut values = Vec::new();
    for piece in &fetched.batches {
        for bytes in batches(piece.as_ref()) {
            let view = BatchView::check(bytes.unwrap()).unwrap();
            for record in &view.records(&Default::default()).unwrap() {
                let value = record.unwrap().value.unwrap().to_vec();
                values.push(String::from_utf8(value).unwrap());
            }
        }
    }
    values
}

fn stamped(value: &str, sequence: i32) -> Bytes {
    let mut bytes = batch(value).to_vec();
    set_producer(&mut bytes, ProducerId(7), ProducerEpoch(0), Sequence(sequence)).unwrap();
    Bytes::from(bytes)
}

/// A node is started for the first time and acknowledges records; then the power goes. The names
/// of the data directory and of the folder around its shards had never been made durable: what
/// was flushed lay in files that nobody could find any more, and the next start founded a new,
/// empty cluster. Found as `node` seed 1. Every name above the logs is synced before they are
/// written.
#[test]
fn a_first_start_survives_a_power_cut() {
    for cores in [1, 2] {
        let disk = Disk::default();
        let (info, cluster) = run_on(7, &disk, async move {
            let brokers = start(cores).await;
            let topic = create(&brokers[0], "orders", 2).await;
            for partition in 0..2 {
                let key = PartitionKey { topic: topic.id, partition: PartitionId(partition) };
                produce(&brokers[0], key, batch("kept")).await.unwrap();
            }
            (topic, brokers[0].cluster())
        });
        let rebooted = Disk::boot(disk.crash_as(CrashStyle::KeepNone, |_| 0));
        run_on(8, &rebooted, async move {
            let brokers = start(cores).await;
            assert_eq!(brokers[0].cluster(), cluster);
            assert_eq!(brokers[0].list_topics(), [info.clone()]);
            for partition in 0..2 {
                let key = PartitionKey { topic: info.id, partition: PartitionId(partition) };
                assert_eq!(values(&brokers[0], key).await, ["kept"]);
            }
        });
    }
}

/// A client lost its connection while its batch was on the way to the disk, connected again and
/// repeated the batch; meanwhile a topic was made, so that a command of the broker's own stood in
/// flight behind the batch. The search for the batch that is repeated dropped the waiting client at
/// the first command it met: it was told that the node stops, and over another core nothing at all.
/// Found as `node` seed 7. Commands are passed over.
#[test]
fn a_repeated_batch_is_answered_although_a_command_is_in_flight_behind_the_first() {
    for core in [0, 1] {
        let disk = Disk::default();
        let slow = disk.clone();
        run_on(7, &disk, async move {
            let brokers = start(2).await;
            let topic = create(&brokers[0], "orders", 2).await;
            let places = brokers[0].metadata(None).topics.remove(0).partitions;
            let place = places.iter().find(|place| place.shard == ShardId(1)).unwrap();
            assert_eq!(place.leader.core, brokers[1].core());
            let key = PartitionKey { topic: topic.id, partition: place.partition };
            // The log has marked its end: the next flush is that of the batch.
            sleep(Duration::from_millis(300)).await;
            let stall = Fault::Stall(Duration::from_secs(1));
            let injection = Injection::next(Operation::Flush, stall);
            slow.inject(injection.at("/some/where/data/shards/1"));
            let first = spawn(produce(&brokers[1], key, stamped("once", 0)));
            let other = brokers[0].clone();
            let command = spawn(async move { create(&other, "others", 2).await });
            sleep(Duration::from_millis(500)).await;
            let again = produce(&brokers[core], key, stamped("once", 0));
            let again = timeout(Duration::from_secs(10), again).await.unwrap().unwrap();
            assert_eq!(again.base_offset, first.await.unwrap().unwrap().base_offset);
            command.await.unwrap();
            assert_eq!(values(&brokers[1], key).await, ["once"]);
        });
    }
}
