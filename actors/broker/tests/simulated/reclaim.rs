//! Disk space that comes back: records that every group is done with, or that nobody may read, go
//! from between others that are kept.

use std::collections::{BTreeMap, BTreeSet};

use barrage_broker::{At, GroupSpec, Lease, QueueCounts, Settlement};
use barrage_model::{Backoff, GroupId, GroupName, QueueSettings, TopicOrder};
use barrage_world::sim::{Rng, set_buggify};

use super::queues::{ACK, NOW, create_group, group_name, leased, receive, settings, settle};
use super::*;

const COUNT: u64 = 400;
const MINUTE: Duration = Duration::from_secs(60);

async fn create_with(broker: &Broker, name: &str, retention: Retention) -> TopicInfo {
    let name = TopicName::parse(name).unwrap();
    let (retention, priorities) = (Some(retention), Priorities::NONE);
    let spec =
        TopicSpec { name, partitions: 1, retention, priorities, order: TopicOrder::Partition };
    broker.create_topic(spec, soon()).await.unwrap()
}

fn key_of(topic: &TopicInfo) -> PartitionKey {
    PartitionKey { topic: topic.id, partition: PartitionId(0) }
}

/// Each record large enough that a segment of the test holds about thirty.
async fn fill(broker: &Broker, key: PartitionKey) {
    for number in 0..COUNT {
        let value = format!("{number:05}{}", ".".repeat(7_000));
        produce(broker, key, batch(&value)).await.unwrap();
    }
}

async fn disk_bytes(broker: &Broker) -> u64 {
    let cores = broker.stats(soon()).await.unwrap();
    cores.iter().flat_map(|core| &core.shards).map(|shard| shard.disk_bytes).sum()
}

fn numbers(values: &[String]) -> Vec<u64> {
    values.iter().map(|value| value[..5].parse().unwrap()).collect()
}

/// All that is in the topic, by the values.
async fn left(broker: &Broker, key: PartitionKey) -> Vec<u64> {
    let mut left: Vec<u64> = Vec::new();
    let mut offset = Offset(0);
    loop {
        let wait_until = Instant::now();
        let request = FetchRequest { key, offset, bytes_max: 1 << 16, bytes_min: 1, wait_until };
        let fetched = broker.fetch(request).await.unwrap();
        if fetched.batches.iter().all(|piece| piece.as_ref().is_empty()) {
            return left;
        }
        for piece in &fetched.batches {
            for bytes in batches(piece.as_ref()) {
                let view = BatchView::check(bytes.unwrap()).unwrap();
                for record in &view.records(&Default::default()).unwrap() {
                    let record = record.unwrap();
                    offset = Offset(record.offset.0 + 1);
                    let value = record.value.unwrap().to_vec();
                    left.extend(numbers(&[String::from_utf8(value).unwrap()]));
                }
            }
        }
    }
}

/// Receives all, and acks what is not to be kept; gives the leases of that.
async fn ack_all_but(broker: &Broker, slot: (PartitionKey, GroupId), kept: &[u64]) -> Vec<Lease> {
    let (mut open, mut seen) = (Vec::new(), 0);
    while seen < COUNT {
        let received = receive(broker, slot, 100, NOW).await;
        seen += received.leases.len() as u64;
        let (keep, done): (Vec<Lease>, Vec<Lease>) =
            received.leases.into_iter().partition(|lease| kept.contains(&lease.offset.0));
        settle(broker, slot, &done, ACK).await;
        open.extend(keep);
    }
    open
}

/// One record that is not acked holds no others: they go from before and behind it. Who comes later
/// finds those that are left, and is done with the others.
#[test]
fn what_every_group_is_done_with_goes_from_between_the_others() {
    for cores in [1, 2] {
        run_on(71, &Disk::default(), async move {
            let brokers = start(cores).await;
            let broker = &brokers[0];
            let until_acked = Retention { until_acked: true, ..Retention::UNLIMITED };
            let topic = create_with(broker, "orders", until_acked).await;
            let key = key_of(&topic);
            let held = QueueSettings { visibility_ms: 3_600_000, ..settings(None) };
            let group = create_group(broker, &topic, held.clone()).await.unwrap();
            let slot = (key, group.id);
            fill(broker, key).await;
            let full = disk_bytes(broker).await;
            let kept = [3, 200];
            let open = ack_all_but(broker, slot, &kept).await;
            sleep(5 * MINUTE).await;
            let now = disk_bytes(broker).await;
            assert!(now * 2 < full, "{now} of {full} bytes");
            let there = left(broker, key).await;
            assert!(kept.iter().all(|one| there.contains(one)), "{there:?}");
            assert!((there.len() as u64) < COUNT / 2, "{there:?}");
            assert_eq!(there.last(), Some(&(COUNT - 1)), "the end stays");

            // A group that begins at the start finds what is left.
            let spec = GroupSpec {
                name: GroupName::parse("late").unwrap(),
                settings: held,
                at_end: false,
            };
            let late = broker.create_group(topic.name.clone(), spec, soon()).await.unwrap();
            let late: (PartitionKey, GroupId) = (key, late.id);
            let mut found = Vec::new();
            while found.len() < there.len() {
                let received = receive(broker, late, 100, 2 * MINUTE).await;
                assert!(!received.leases.is_empty(), "{found:?} of {there:?}");
                found.extend(leased(&received).iter().map(|(offset, _)| *offset));
            }
            found.sort_unstable();
            assert_eq!(found, there);
            let counts = broker.counts(late.0, late.1).await.unwrap();
            let leased_now = there.len() as u64;
            let wanted = QueueCounts {
                start: Offset(there[0]),
                leased: leased_now,
                ..QueueCounts::default()
            };
            assert_eq!(counts, wanted, "it is done with what is nowhere");

            // And when the last ones are acked, all of it goes.
            broker.delete_group(topic.name.clone(), late_name(), soon()).await.unwrap();
            let given_back = settle(broker, slot, &open[..1], Settlement::Release).await;
            assert_eq!(given_back, [Ok(())]);
            let again = receive(broker, slot, 9, NOW).await;
            assert_eq!(leased(&again), [(3, 1)]);
            settle(broker, slot, &again.leases, ACK).await;
            settle(broker, slot, &open[1..], ACK).await;
            sleep(5 * MINUTE).await;
            assert!(disk_bytes(broker).await * 2 < full);
            let bounds = broker.list_offset(key, At::Start, soon()).await.unwrap();
            assert_eq!(bounds.start_offset, Offset(COUNT));
        });
    }
}

fn late_name() -> GroupName {
    GroupName::parse("late").unwrap()
}

/// A group that comes when all is too old sends to its dead-letter topic what is left, and waits
/// for nothing else: also not after a power cut.
#[test]
fn what_is_nowhere_is_no_dead_letter() {
    let disk = Disk::default();
    let (late, there) = run_on(74, &disk, async move {
        let brokers = start(1).await;
        let broker = &brokers[0];
        create(broker, "dead", 1).await;
        let ttl_ms = Some(600_000);
        let retention = Retention { until_acked: true, ttl_ms, ..Retention::UNLIMITED };
        let topic = create_with(broker, "orders", retention).await;
        let key = key_of(&topic);
        let held = QueueSettings { visibility_ms: 3_600_000, ..settings(None) };
        let group = create_group(broker, &topic, held).await.unwrap();
        fill(broker, key).await;
        ack_all_but(broker, (key, group.id), &[3, 200]).await;
        sleep(11 * MINUTE).await;
        let there = left(broker, key).await;
        assert!((there.len() as u64) < COUNT / 2, "{there:?}");
        let dead_letter = Some(TopicName::parse("dead").unwrap());
        let settings = QueueSettings { dead_letter, ..settings(None) };
        let spec = GroupSpec { name: late_name(), settings, at_end: false };
        let late = broker.create_group(topic.name.clone(), spec, soon()).await.unwrap();
        sleep(5 * MINUTE).await;
        let counts = broker.counts(key, late.id).await.unwrap();
        let wanted = QueueCounts { start: Offset(COUNT), ..QueueCounts::default() };
        assert_eq!(counts, wanted);
        ((key, late.id), there)
    });
    let rebooted = Disk::boot(disk.crash_as(CrashStyle::KeepNone, |_| 0));
    run_on(75, &rebooted, async move {
        let brokers = start(1).await;
        let broker = &brokers[0];
        let counts = broker.counts(late.0, late.1).await.unwrap();
        let wanted = QueueCounts { start: Offset(COUNT), ..QueueCounts::default() };
        assert_eq!(counts, wanted);
        let dead = broker.topic(&TopicName::parse("dead").unwrap()).unwrap();
        let mut letters = left(broker, key_of(&dead)).await;
        letters.sort_unstable();
        assert_eq!(letters, there);
    });
}

/// A topic that is deleted gives its space back, though records of another one lie between.
#[test]
fn a_deleted_topic_gives_its_space_back() {
    run_on(72, &Disk::default(), async move {
        let brokers = start(1).await;
        let broker = &brokers[0];
        let stays = create(broker, "stays", 1).await;
        let goes = create(broker, "goes", 1).await;
        produce(broker, key_of(&stays), batch("00000")).await.unwrap();
        fill(broker, key_of(&goes)).await;
        produce(broker, key_of(&stays), batch("00001")).await.unwrap();
        let full = disk_bytes(broker).await;
        broker.delete_topic(goes.name.clone(), soon()).await.unwrap();
        sleep(5 * MINUTE).await;
        let now = disk_bytes(broker).await;
        assert!(now * 2 < full, "{now} of {full} bytes");
        assert_eq!(left(broker, key_of(&stays)).await, [0, 1]);
    });
}

/// A topic's time to live is that of each of its queue groups, unless they want younger ones.
#[test]
fn what_a_topic_lets_live_for_a_while_is_handed_out_no_later() {
    run_on(73, &Disk::default(), async move {
        let brokers = start(1).await;
        let broker = &brokers[0];
        let retention = Retention { ttl_ms: Some(2_000), ..Retention::UNLIMITED };
        let topic = create_with(broker, "orders", retention).await;
        let key = key_of(&topic);
        let group = create_group(broker, &topic, settings(None)).await.unwrap();
        for value in ["00000", "00001"] {
            produce(broker, key, batch(value)).await.unwrap();
        }
        assert_eq!(leased(&receive(broker, (key, group.id), 1, NOW).await), [(0, 1)]);
        sleep(Duration::from_millis(2_100)).await;
        produce(broker, key, batch("00002")).await.unwrap();
        assert_eq!(leased(&receive(broker, (key, group.id), 9, NOW).await), [(2, 1)]);
        assert_eq!(left(broker, key).await, [0, 1, 2], "who reads the log sees them still");
        assert_eq!(broker.topic(&topic.name).unwrap().retention.ttl_ms, Some(2_000));
        assert_eq!(group.name, group_name());
    });
}

/// Workers ack in no order, over power cuts, while segments are rewritten: nobody is given another
/// record than was sent, and in the end each was acked, by every group, and is gone.
#[test]
fn nothing_goes_that_somebody_has_not_acked() {
    const RECORDS: u64 = 150;
    for seed in 0..12 {
        let mut random = Rng::new(seed);
        let mut disk = Disk::default();
        let mut acked = [BTreeSet::new(), BTreeSet::new()];
        let mut sent = 0;
        for life in 0..5 {
            let is_last = life == 4;
            let mut draw = random.fork();
            let (before, mut done) = (sent, acked.clone());
            let lived = run_on(seed * 10 + life, &disk, async move {
                set_buggify(true);
                let brokers = start(1).await;
                let broker = &brokers[0];
                let slots = if life == 0 { begin(broker).await } else { known(broker) };
                let mut sent = before;
                while sent < RECORDS * (life + 1) / 5 {
                    let value = format!("{sent:05}{}", ".".repeat(7_000));
                    match produce(broker, slots[0].0, batch(&value)).await {
                        Ok(_) => sent += 1,
                        Err(ProduceError::QueueFull) => sleep(Duration::from_millis(10)).await,
                        Err(error) => panic!("{error}"),
                    }
                }
                let rounds = if is_last { 1_000 } else { 12 };
                for _ in 0..rounds {
                    for (slot, done) in slots.iter().zip(&mut done) {
                        work(broker, *slot, &mut draw, is_last, done).await;
                    }
                    if done.iter().all(|done| done.len() as u64 == sent) {
                        break;
                    }
                    sleep(Duration::from_secs(draw.below(20))).await;
                }
                for slot in &slots {
                    let counts = broker.counts(slot.0, slot.1).await.unwrap();
                    assert!(!is_last || counts.start == Offset(sent), "{counts:?}");
                }
                (sent, done)
            });
            (sent, acked) = lived;
            assert!(!is_last || acked.iter().all(|done| done.len() as u64 == RECORDS));
            disk = Disk::boot(disk.crash(&mut random));
        }
    }
}

const GROUPS: [&str; 2] = ["workers", "others"];

async fn begin(broker: &Broker) -> Vec<(PartitionKey, GroupId)> {
    let until_acked = Retention { until_acked: true, ..Retention::UNLIMITED };
    let topic = create_with(broker, "orders", until_acked).await;
    for name in GROUPS {
        let name = GroupName::parse(name).unwrap();
        let settings = QueueSettings { backoff: Backoff::Fixed(0), ..settings(None) };
        let spec = GroupSpec { name, settings, at_end: false };
        broker.create_group(topic.name.clone(), spec, soon()).await.unwrap();
    }
    known(broker)
}

fn known(broker: &Broker) -> Vec<(PartitionKey, GroupId)> {
    let topic = broker.topic(&TopicName::parse("orders").unwrap()).unwrap();
    let (_, groups) = broker.list_groups(&topic.name).unwrap();
    let slot = |name: &&str| {
        let group = groups.iter().find(|group| group.name.as_str() == *name).unwrap();
        (key_of(&topic), group.id)
    };
    GROUPS.iter().map(slot).collect()
}

/// Receives, looks at the values, and acks most.
async fn work(
    broker: &Broker,
    slot: (PartitionKey, GroupId),
    random: &mut Rng,
    acks_all: bool,
    done: &mut BTreeSet<u64>,
) {
    let received = receive(broker, slot, 1 + random.below(20) as u32, NOW).await;
    let mut values = BTreeMap::new();
    for piece in &received.batches {
        for bytes in batches(piece.as_ref()) {
            let view = BatchView::check(bytes.unwrap()).unwrap();
            for record in &view.records(&Default::default()).unwrap() {
                let record = record.unwrap();
                let value = String::from_utf8(record.value.unwrap().to_vec()).unwrap();
                values.insert(record.offset.0, numbers(&[value])[0]);
            }
        }
    }
    let (mut keep, mut ack) = (Vec::new(), Vec::new());
    for lease in &received.leases {
        assert_eq!(values.get(&lease.offset.0), Some(&lease.offset.0), "it is what was sent");
        let acks = acks_all || random.below(8) > 0;
        if acks { &mut ack } else { &mut keep }.push(lease.clone());
    }
    settle(broker, slot, &ack, ACK).await;
    done.extend(ack.iter().map(|lease| lease.offset.0));
    settle(broker, slot, &keep, Settlement::Nack { delay_ms: Some(0) }).await;
}
