//! Queue groups: leases, dead letters and what a power cut leaves of them.

use barrage_broker::{
    AdminError, GroupInfo, GroupSpec, Lease, QueueCounts, QueueError, ReceiptError, ReceiveRequest,
    Received, Seek, SettleRequest, Settlement, TopicChange,
};
use barrage_model::batch::HEADER_SIZE;
use barrage_model::{Backoff, GroupId, GroupName, QueueSettings};

use super::*;

pub(super) fn settings(deliveries_max: Option<u16>) -> QueueSettings {
    QueueSettings {
        visibility_ms: 5_000,
        deliveries_max,
        dead_letter: deliveries_max.map(|_| TopicName::parse("dead").unwrap()),
        backoff: Backoff::Fixed(2_000),
        filter: None,
        ..QueueSettings::default()
    }
}

pub(super) fn group_name() -> GroupName {
    GroupName::parse("workers").unwrap()
}

pub(super) async fn create_group(
    broker: &Broker,
    topic: &TopicInfo,
    settings: QueueSettings,
) -> Result<GroupInfo, AdminError> {
    let spec = GroupSpec { name: group_name(), settings, at_end: false };
    broker.create_group(topic.name.clone(), spec, soon()).await
}

/// A topic of one partition with so many records, each its own batch, and a group.
async fn filled(broker: &Broker, settings: QueueSettings, count: u32) -> (PartitionKey, GroupId) {
    let topic = create(broker, "orders", 1).await;
    let key = PartitionKey { topic: topic.id, partition: PartitionId(0) };
    let group = create_group(broker, &topic, settings).await.unwrap();
    for number in 0..count {
        produce(broker, key, batch(&number.to_string())).await.unwrap();
    }
    (key, group.id)
}

pub(super) async fn receive(
    broker: &Broker,
    (key, group): (PartitionKey, GroupId),
    count_max: u32,
    wait: Duration,
) -> Received {
    let wait_until = Instant::now() + wait;
    let bytes_max = 1 << 20;
    let request =
        ReceiveRequest { key, group, count_max, bytes_max, visibility_ms: None, wait_until };
    broker.receive(request).await.unwrap()
}

/// Offsets and delivery counts; every record must be in the batches.
pub(super) fn leased(received: &Received) -> Vec<(u64, u16)> {
    let mut there = Vec::new();
    for piece in &received.batches {
        for bytes in batches(piece.as_ref()) {
            let view = BatchView::check(bytes.unwrap()).unwrap();
            there.extend((0..u64::from(view.record_count())).map(|at| view.base_offset().0 + at));
        }
    }
    assert!(received.leases.iter().all(|lease| there.contains(&lease.offset.0)));
    received.leases.iter().map(|lease| (lease.offset.0, lease.deliveries)).collect()
}

pub(super) async fn settle(
    broker: &Broker,
    (key, group): (PartitionKey, GroupId),
    leases: &[Lease],
    settlement: Settlement,
) -> Vec<Result<(), ReceiptError>> {
    let receipts = leases.iter().map(|lease| (lease.offset, lease.tag)).collect();
    broker.settle(SettleRequest { key, group, receipts, settlement }).await.unwrap()
}

pub(super) const NOW: Duration = Duration::ZERO;
pub(super) const ACK: Settlement = Settlement::Ack;

/// What was acked stays so, what was leased comes back when its lease is over and not before: the
/// time for which nobody led does not count.
#[test]
fn leases_and_acks_survive_a_power_cut() {
    for cores in [1, 2] {
        let disk = Disk::default();
        let (slot, first) = run_on(3, &disk, async move {
            let brokers = start(cores).await;
            let slot = filled(&brokers[0], settings(None), 6).await;
            let received = receive(&brokers[0], slot, 4, NOW).await;
            assert_eq!(leased(&received), [(0, 1), (1, 1), (2, 1), (3, 1)]);
            assert!(received.more);
            assert!(received.leases.iter().all(|lease| lease.left_ms <= 5_000));
            let acked = settle(&brokers[0], slot, &received.leases[..2], ACK).await;
            assert_eq!(acked, [Ok(()), Ok(())]);
            (slot, received.leases)
        });
        let rebooted = Disk::boot(disk.crash_as(CrashStyle::KeepNone, |_| 0));
        run_on(4, &rebooted, async move {
            let brokers = start(cores).await;
            let early = receive(&brokers[0], slot, 9, NOW).await;
            assert_eq!(leased(&early), [(4, 1), (5, 1)]);
            let extend = Settlement::Extend { visibility_ms: 60_000 };
            settle(&brokers[0], slot, &early.leases, extend).await;
            let late = receive(&brokers[0], slot, 9, Duration::from_secs(10)).await;
            assert_eq!(leased(&late), [(2, 2), (3, 2)]);
            let old = settle(&brokers[0], slot, &first[1..4], ACK).await;
            let stale = Err(ReceiptError::Stale);
            assert_eq!(old, [Err(ReceiptError::Settled), stale, stale]);
            assert_eq!(settle(&brokers[0], slot, &late.leases, ACK).await, [Ok(()), Ok(())]);
            let counts = brokers[0].counts(slot.0, slot.1).await.unwrap();
            let wanted = QueueCounts { start: Offset(4), leased: 2, ..QueueCounts::default() };
            assert_eq!(counts, wanted);
        });
    }
}

#[test]
fn a_receive_waits_for_records_and_for_what_comes_back() {
    run_on(5, &Disk::default(), async move {
        let brokers = start(2).await;
        let slot = filled(&brokers[0], settings(None), 0).await;
        let waiting = Instant::now();
        assert_eq!(leased(&receive(&brokers[0], slot, 1, Duration::from_secs(3)).await), []);
        assert!(waiting.elapsed() >= Duration::from_secs(3));
        let broker = brokers[1].clone();
        let waits = spawn(async move { receive(&broker, slot, 5, Duration::from_secs(60)).await });
        sleep(Duration::from_secs(1)).await;
        produce(&brokers[0], slot.0, batch("one")).await.unwrap();
        let one = waits.await.unwrap();
        assert_eq!(leased(&one), [(0, 1)]);
        let given_back = Instant::now();
        let nack = Settlement::Nack { delay_ms: None };
        assert_eq!(settle(&brokers[0], slot, &one.leases, nack).await, [Ok(())]);
        let again = receive(&brokers[0], slot, 5, Duration::from_secs(60)).await;
        assert_eq!(leased(&again), [(0, 2)]);
        let passed = given_back.elapsed();
        assert!(passed >= Duration::from_secs(2), "{passed:?}");
        assert!(passed < Duration::from_millis(2_300), "{passed:?}");
        // Longer than the lease, and it is still held then.
        let extend = Settlement::Extend { visibility_ms: 60_000 };
        assert_eq!(settle(&brokers[1], slot, &again.leases, extend).await, [Ok(())]);
        assert_eq!(leased(&receive(&brokers[0], slot, 5, Duration::from_secs(30)).await), []);
        assert_eq!(settle(&brokers[1], slot, &again.leases, ACK).await, [Ok(())]);
    });
}

/// The dead-letter topic is missing at first; the node loses power while it is filled. Every record
/// lies there once, and nobody waited for it.
#[test]
fn dead_letters_arrive_once() {
    let disk = Disk::default();
    let slot = run_on(6, &disk, async move {
        let brokers = start(2).await;
        let slot = filled(&brokers[0], settings(Some(1)), 150).await;
        let received = receive(&brokers[0], slot, 150, NOW).await;
        let nack = Settlement::Nack { delay_ms: Some(0) };
        assert!(settle(&brokers[0], slot, &received.leases, nack).await.iter().all(Result::is_ok));
        sleep(Duration::from_secs(2)).await;
        let counts = brokers[0].counts(slot.0, slot.1).await.unwrap();
        assert_eq!((counts.dying, counts.visible), (150, 0));
        produce(&brokers[0], slot.0, batch("lives")).await.unwrap();
        let lives = receive(&brokers[1], slot, 9, NOW).await;
        assert_eq!(leased(&lives), [(150, 1)]);
        assert_eq!(settle(&brokers[1], slot, &lives.leases, ACK).await, [Ok(())]);
        let dead = create(&brokers[0], "dead", 1).await;
        let dead = PartitionKey { topic: dead.id, partition: PartitionId(0) };
        while values(&brokers[0], dead).await.len() < 64 {
            sleep(Duration::from_millis(1)).await;
        }
        slot
    });
    let rebooted = Disk::boot(disk.crash_as(CrashStyle::KeepNone, |_| 0));
    run_on(7, &rebooted, async move {
        let brokers = start(2).await;
        sleep(Duration::from_secs(5)).await;
        let dead = brokers[0].topic(&TopicName::parse("dead").unwrap()).unwrap();
        let dead = PartitionKey { topic: dead.id, partition: PartitionId(0) };
        let found = values(&brokers[0], dead).await;
        let wanted: Vec<String> = (0..150).map(|number: u32| number.to_string()).collect();
        assert_eq!(found, wanted);
        let counts = brokers[0].counts(slot.0, slot.1).await.unwrap();
        assert_eq!((counts.dying, counts.start), (0, Offset(151)));
    });
}

/// Letters on their way go where the first of them went, although the topic has grown meanwhile;
/// when it is deleted those that have not arrived go to the one that is made in its place.
#[test]
fn dead_letters_go_on_where_they_began() {
    const COUNT: usize = 300;
    for is_deleted in [false, true] {
        run_on(8, &Disk::default(), async move {
            let brokers = start(2).await;
            let broker = &brokers[0];
            let topic = create(broker, "orders", 4).await;
            let key = PartitionKey { topic: topic.id, partition: PartitionId(3) };
            let group = create_group(broker, &topic, settings(Some(1))).await.unwrap();
            let (dead, slot) = (create(broker, "dead", 2).await, (key, group.id));
            let die = async |count: usize| {
                // In one batch: they go on their way together.
                let mut builder = BatchBuilder::new(Compression::None, 1000);
                for number in 0..count {
                    let (value, timestamp_ms) = (number.to_string(), 1000);
                    let value = Some(value.as_bytes());
                    builder
                        .push(&NewRecord { value, timestamp_ms, ..NewRecord::default() })
                        .unwrap();
                }
                produce(broker, key, Bytes::from(builder.finish().unwrap())).await.unwrap();
                let received = receive(broker, slot, 1_000, NOW).await;
                assert_eq!(received.leases.len(), count);
                settle(broker, slot, &received.leases, Settlement::Nack { delay_ms: Some(0) }).await
            };
            die(COUNT).await;
            let into = |topic: &TopicInfo, partition| {
                let partition = PartitionId(partition);
                values(broker, PartitionKey { topic: topic.id, partition })
            };
            while into(&dead, 1).await.len() < 64 {
                sleep(Duration::from_millis(1)).await;
            }
            let (name, early) = (dead.name.clone(), into(&dead, 1).await.len());
            assert!(early < COUNT, "some are on their way");
            if is_deleted {
                broker.delete_topic(name, soon()).await.unwrap();
                let dead = create(broker, "dead", 4).await;
                sleep(Duration::from_secs(2)).await;
                let late = into(&dead, 3).await;
                let wanted: Vec<String> = (0..COUNT).map(|number| number.to_string()).collect();
                assert!(wanted.ends_with(&late) && late.len() + 64 <= COUNT, "{}", late.len());
            } else {
                let change = TopicChange { partitions: Some(4), retention: None };
                broker.alter_topic(name, change, soon()).await.unwrap();
                sleep(Duration::from_secs(2)).await;
                assert_eq!(into(&dead, 1).await.len(), COUNT);
                die(2).await;
                sleep(Duration::from_secs(2)).await;
                assert_eq!(into(&dead, 1).await.len(), COUNT, "all of the list had arrived");
                assert_eq!(into(&dead, 3).await, ["0", "1"]);
            }
            let counts = broker.counts(slot.0, slot.1).await.unwrap();
            assert_eq!(counts.dying, 0);
        });
    }
}

/// A batch whose producer wrote nonsense under a right CRC: nobody can read the record, and those
/// that die behind it must not wait for it. What lies in the topic says where it is.
#[test]
fn an_unreadable_record_holds_no_dead_letter_back() {
    run_on(10, &Disk::default(), async move {
        let brokers = start(1).await;
        let broker = &brokers[0];
        let dead = create(broker, "dead", 1).await;
        let slot = filled(broker, settings(Some(1)), 1).await;
        let mut nonsense = batch("nonsense").to_vec();
        nonsense[HEADER_SIZE..].fill(0xff);
        let crc = crc32c::crc32c(&nonsense[21..]);
        nonsense[17..21].copy_from_slice(&crc.to_be_bytes());
        produce(broker, slot.0, Bytes::from(nonsense)).await.unwrap();
        produce(broker, slot.0, batch("behind")).await.unwrap();
        let received = receive(broker, slot, 9, NOW).await;
        assert_eq!(leased(&received), [(0, 1), (1, 1), (2, 1)]);
        let nack = Settlement::Nack { delay_ms: Some(0) };
        settle(broker, slot, &received.leases, nack).await;
        sleep(Duration::from_secs(2)).await;
        let dead = PartitionKey { topic: dead.id, partition: PartitionId(0) };
        assert_eq!(values(broker, dead).await, ["0", "", "behind"]);
        let counts = broker.counts(slot.0, slot.1).await.unwrap();
        assert_eq!((counts.dying, counts.start), (0, Offset(3)));
    });
}

/// Batches of all sizes, and answers that have no room for the next one: what did not fit is given
/// back at once, and not kept until the lease is over.
#[test]
fn nothing_is_leased_that_was_not_sent() {
    run_on(9, &Disk::default(), async move {
        let brokers = start(1).await;
        let broker = &brokers[0];
        let (key, group) = filled(broker, settings(None), 0).await;
        for size in 0..30 {
            produce(broker, key, batch(&"x".repeat(size % 7 * 400))).await.unwrap();
        }
        let mut next = 0;
        while next < 30 {
            let request = ReceiveRequest {
                key,
                group,
                count_max: 10,
                bytes_max: 3_000,
                visibility_ms: Some(60_000),
                wait_until: Instant::now(),
            };
            let received = broker.receive(request).await.unwrap();
            let offsets: Vec<u64> = leased(&received).iter().map(|(offset, _)| *offset).collect();
            let end = next + offsets.len() as u64;
            assert_eq!(offsets, (next..end).collect::<Vec<_>>());
            next = end;
            sleep(Duration::from_millis(100)).await;
            let counts = broker.counts(key, group).await.unwrap();
            assert_eq!((counts.leased, counts.visible), (next, 30 - next));
        }
    });
}

#[test]
fn what_is_wrong_with_a_request_is_told() {
    run_on(8, &Disk::default(), async move {
        let brokers = start(1).await;
        let broker = &brokers[0];
        let slot = filled(broker, settings(None), 3).await;
        let topic = TopicName::parse("orders").unwrap();
        let again = GroupSpec { name: group_name(), settings: settings(None), at_end: true };
        let again = broker.create_group(topic.clone(), again, soon()).await;
        assert_eq!(again, Err(AdminError::GroupExists));
        let ask = |group, visibility_ms| ReceiveRequest {
            key: slot.0,
            group,
            count_max: 1,
            bytes_max: 1,
            visibility_ms,
            wait_until: Instant::now(),
        };
        let short = broker.receive(ask(slot.1, Some(999))).await;
        assert!(matches!(short, Err(QueueError::Invalid { .. })), "{short:?}");
        let unknown = broker.receive(ask(GroupId(9), None)).await;
        assert!(matches!(unknown, Err(QueueError::UnknownGroup)), "{unknown:?}");
        let forged = Lease { offset: Offset(2), tag: 7, deliveries: 1, first_ms: 0, left_ms: 0 };
        let refused = settle(broker, slot, &[forged], ACK).await;
        assert_eq!(refused, [Err(ReceiptError::NeverLeased)]);

        assert_eq!(broker.peek(slot.0, slot.1, 9).await.unwrap(), [0, 1, 2].map(Offset));
        broker.seek(slot.0, slot.1, Seek::Skip(Offset(99))).await.unwrap();
        assert_eq!(leased(&receive(broker, slot, 9, NOW).await), []);
        broker.seek(slot.0, slot.1, Seek::Rewind(Offset(1))).await.unwrap();
        assert_eq!(leased(&receive(broker, slot, 9, NOW).await), [(1, 1), (2, 1)]);

        broker.delete_group(topic.clone(), group_name(), soon()).await.unwrap();
        let gone = broker.receive(ask(slot.1, Some(5_000))).await;
        assert!(matches!(gone, Err(QueueError::UnknownGroup)), "{gone:?}");
        let (_, groups) = broker.list_groups(&topic).unwrap();
        assert_eq!(groups, []);
    });
}
