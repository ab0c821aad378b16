//! Queue groups with filters: who is given what, and what a power cut leaves of it.

use barrage_broker::{
    AdminError, GroupInfo, GroupSpec, ReceiveRequest, Received, Seek, Settlement,
};
use barrage_model::batch::HEADER_SIZE;
use barrage_model::{GroupId, GroupName, QueueSettings};

use super::queues::{ACK, NOW, create_group, group_name, leased, receive, settings, settle};
use super::*;

fn filtered(filter: &str) -> QueueSettings {
    QueueSettings { filter: Some(filter.to_owned()), ..settings(None) }
}

/// A batch with a record for each of these tags; no tag for an empty one.
fn tagged(compression: Compression, tags: &[&str]) -> Bytes {
    let mut builder = BatchBuilder::new(compression, 1000);
    for tag in tags {
        let header: &[(&[u8], &[u8])] = &[(b"tag", tag.as_bytes())];
        let headers = if tag.is_empty() { &[] } else { header };
        let value = Some(tag.as_bytes());
        let record = NewRecord { value, headers, timestamp_ms: 1000, ..NewRecord::default() };
        builder.push(&record).unwrap();
    }
    Bytes::from(builder.finish().unwrap())
}

/// A topic of one partition, and a group with a filter.
async fn open(broker: &Broker, filter: &str) -> (PartitionKey, GroupId) {
    let topic = create(broker, "orders", 1).await;
    let key = PartitionKey { topic: topic.id, partition: PartitionId(0) };
    let group = create_group(broker, &topic, filtered(filter)).await.unwrap();
    (key, group.id)
}

async fn alter(broker: &Broker, filter: Option<&str>) -> Result<GroupInfo, AdminError> {
    let topic = TopicName::parse("orders").unwrap();
    let filter = filter.map(str::to_owned);
    let settings = QueueSettings { filter, ..settings(None) };
    broker.alter_group(topic, group_name(), settings, soon()).await
}

fn offsets(received: &Received) -> Vec<u64> {
    leased(received).into_iter().map(|(offset, _)| offset).collect()
}

/// Visible, and the oldest that is not settled.
async fn standing(broker: &Broker, slot: (PartitionKey, GroupId)) -> (u64, u64) {
    let counts = broker.counts(slot.0, slot.1).await.unwrap();
    (counts.visible, counts.start.0)
}

/// Wanted and not wanted side by side, in batches of every compression, here and on the other core;
/// the power goes while some are leased. A group without a filter beside it gets all.
#[test]
fn what_is_wanted_is_leased_once_and_the_rest_is_settled() {
    for cores in [1, 2] {
        let disk = Disk::default();
        let (slot, other) = run_on(21, &disk, async move {
            let brokers = start(cores).await;
            let slot = open(&brokers[0], "tags:new || sold").await;
            let spec = GroupSpec {
                name: GroupName::parse("others").unwrap(),
                settings: settings(None),
                at_end: false,
            };
            let topic = TopicName::parse("orders").unwrap();
            let other = brokers[0].create_group(topic, spec, soon()).await.unwrap().id;
            for compression in Compression::ALL {
                let tags = ["old", "new", "", "sold", "old", "news"];
                produce(&brokers[0], slot.0, tagged(compression, &tags)).await.unwrap();
            }
            let first = receive(&brokers[0], slot, 5, NOW).await;
            assert_eq!(leased(&first), [1, 3, 7, 9, 13].map(|offset| (offset, 1)));
            assert!(first.more);
            assert_eq!(settle(&brokers[0], slot, &first.leases[..3], ACK).await, [Ok(()); 3]);
            assert_eq!(standing(&brokers[0], slot).await, (15, 9), "an upper bound");
            (slot, other)
        });
        let rebooted = Disk::boot(disk.crash_as(CrashStyle::KeepNone, |_| 0));
        run_on(22, &rebooted, async move {
            let brokers = start(cores).await;
            let broker = brokers.last().unwrap();
            let rest = receive(broker, slot, 9, NOW).await;
            assert_eq!(leased(&rest), [15, 19, 21, 25, 27].map(|offset| (offset, 1)));
            settle(broker, slot, &rest.leases, ACK).await;
            // What was leased comes back, and is looked at no more.
            let again = receive(broker, slot, 9, Duration::from_secs(10)).await;
            assert_eq!(leased(&again), [(9, 2), (13, 2)]);
            settle(broker, slot, &again.leases, ACK).await;
            assert!(offsets(&receive(broker, slot, 9, NOW).await).is_empty());
            assert_eq!(standing(broker, slot).await, (0, 30));
            let all = receive(broker, (slot.0, other), 99, NOW).await;
            assert_eq!(offsets(&all), (0..30).collect::<Vec<_>>());
            // Delivered again is what is wanted, and nothing else.
            broker.seek(slot.0, slot.1, Seek::Rewind(Offset(20))).await.unwrap();
            let rewound = receive(broker, slot, 9, NOW).await;
            assert_eq!(leased(&rewound), [(21, 1), (25, 1), (27, 1)]);
        });
    }
}

/// A stretch of 70,000 records without one that is wanted: every receive settles what it has looked
/// at and ends in time; whoever waits gets what comes behind it.
#[test]
fn a_long_stretch_that_nobody_wants_is_passed() {
    run_on(23, &Disk::default(), async move {
        let brokers = start(2).await;
        let broker = &brokers[0];
        let slot = open(broker, "tags:wanted").await;
        for number in 0..70 {
            let compression = if number % 2 == 0 { Compression::Lz4 } else { Compression::None };
            produce(broker, slot.0, tagged(compression, &[""; 1_000])).await.unwrap();
        }
        let look = |count_max| ReceiveRequest {
            key: slot.0,
            group: slot.1,
            count_max,
            bytes_max: 1 << 20,
            visibility_ms: None,
            wait_until: Instant::now(),
        };
        let mut rounds = 0;
        loop {
            // Whoever only asks whether there is one passes it, too.
            let received = broker.receive(look(rounds % 2)).await.unwrap();
            assert_eq!(received.leases, []);
            rounds += 1;
            let (visible, settled) = standing(broker, slot).await;
            assert_eq!(visible + settled, 70_000);
            assert_eq!(received.more, visible > 0);
            if !received.more {
                break;
            }
        }
        assert!((2..10).contains(&rounds), "{rounds}");
        broker.seek(slot.0, slot.1, Seek::Rewind(Offset(0))).await.unwrap();
        let (began, waiter) = (Instant::now(), brokers[1].clone());
        let waits = spawn(async move {
            let received = receive(&waiter, slot, 5, Duration::from_secs(20)).await;
            (offsets(&received), began.elapsed())
        });
        sleep(Duration::from_secs(3)).await;
        assert_eq!(standing(broker, slot).await, (0, 70_000), "passed while it waits");
        produce(broker, slot.0, tagged(Compression::Zstd, &["", "wanted"])).await.unwrap();
        let (offsets, passed) = waits.await.unwrap();
        assert_eq!(offsets, [70_001]);
        assert!(passed < Duration::from_secs(4), "{passed:?}");
    });
}

/// A few records that nobody wants cost no entry of their own while somebody waits; they are
/// settled when he goes.
#[test]
fn a_few_that_nobody_wants_wait_for_company() {
    run_on(24, &Disk::default(), async move {
        let brokers = start(1).await;
        let slot = open(&brokers[0], "tags:wanted").await;
        let waiter = brokers[0].clone();
        let waits = spawn(async move { receive(&waiter, slot, 5, Duration::from_secs(5)).await });
        for _ in 0..20 {
            sleep(Duration::from_millis(100)).await;
            produce(&brokers[0], slot.0, tagged(Compression::None, &["", "other"])).await.unwrap();
        }
        sleep(Duration::from_secs(1)).await;
        assert_eq!(standing(&brokers[0], slot).await, (40, 0));
        assert!(offsets(&waits.await.unwrap()).is_empty());
        assert_eq!(standing(&brokers[0], slot).await, (0, 40));
    });
}

/// What is leased already stays so and comes back, whatever the filter says by now; who waits is
/// given what the new one lets through.
#[test]
fn another_filter_holds_for_what_was_not_leased_yet() {
    let disk = Disk::default();
    let slot = run_on(25, &disk, async move {
        let brokers = start(2).await;
        let broker = &brokers[0];
        let slot = open(broker, "tags:a").await;
        let tags = ["a", "b", "a", "b", "a", "b"];
        produce(broker, slot.0, tagged(Compression::Gzip, &tags)).await.unwrap();
        let first = receive(broker, slot, 2, NOW).await;
        assert_eq!(offsets(&first), [0, 2]);
        let altered = alter(broker, Some("tags: b || c")).await.unwrap();
        let stored = altered.settings().and_then(|settings| settings.filter.as_deref());
        assert_eq!(stored, Some("tags:b || c"));
        // The fourth was settled beside the third, by the filter of then.
        assert_eq!(offsets(&receive(broker, slot, 9, NOW).await), [5]);
        let back = Settlement::Nack { delay_ms: Some(0) };
        assert_eq!(settle(broker, slot, &first.leases, back).await, [Ok(()); 2]);
        let again = receive(broker, slot, 9, NOW).await;
        assert_eq!(leased(&again), [(0, 2), (2, 2)]);
        settle(broker, slot, &again.leases, ACK).await;
        produce(broker, slot.0, tagged(Compression::None, &["d"])).await.unwrap();
        let waiter = brokers[1].clone();
        let waits = spawn(async move { receive(&waiter, slot, 9, Duration::from_secs(4)).await });
        sleep(Duration::from_secs(1)).await;
        alter(broker, Some("headers:tag = 'd'")).await.unwrap();
        let began = Instant::now();
        assert_eq!(offsets(&waits.await.unwrap()), [6]);
        assert!(began.elapsed() < Duration::from_secs(1), "{:?}", began.elapsed());
        slot
    });
    let rebooted = Disk::boot(disk.crash_as(CrashStyle::KeepNone, |_| 0));
    run_on(26, &rebooted, async move {
        let brokers = start(2).await;
        let broker = &brokers[0];
        produce(broker, slot.0, tagged(Compression::None, &["b", "d"])).await.unwrap();
        assert_eq!(offsets(&receive(broker, slot, 1, NOW).await), [8], "the newest one holds");
        alter(broker, None).await.unwrap();
        produce(broker, slot.0, tagged(Compression::None, &["e"])).await.unwrap();
        assert_eq!(offsets(&receive(broker, slot, 9, NOW).await), [9]);
    });
}

/// Nonsense under a right CRC: nobody can say that it is not wanted.
#[test]
fn what_nobody_can_read_is_not_hidden() {
    run_on(27, &Disk::default(), async move {
        let brokers = start(1).await;
        let broker = &brokers[0];
        let slot = open(broker, "tags:a").await;
        for compression in [Compression::None, Compression::Zstd] {
            let mut nonsense = tagged(compression, &["b", "b"]).to_vec();
            nonsense[HEADER_SIZE..].fill(0xff);
            let crc = crc32c::crc32c(&nonsense[21..]);
            nonsense[17..21].copy_from_slice(&crc.to_be_bytes());
            produce(broker, slot.0, Bytes::from(nonsense)).await.unwrap();
            produce(broker, slot.0, tagged(compression, &["b", "a"])).await.unwrap();
        }
        let received = receive(broker, slot, 9, NOW).await;
        assert_eq!(offsets(&received), [0, 1, 3, 4, 5, 7]);
    });
}

/// Many receive at once, over both cores, few records each: each is given to one of them, none is
/// left.
#[test]
fn many_consumers_share_what_is_wanted() {
    run_on(28, &Disk::default(), async move {
        let brokers = start(2).await;
        let slot = open(&brokers[0], "keys:stock.*.new").await;
        let consume = move |broker: Broker, count_max: u32| async move {
            let mut seen = Vec::new();
            loop {
                let received = receive(&broker, slot, count_max, Duration::from_secs(3)).await;
                if received.leases.is_empty() && !received.more {
                    return seen;
                }
                seen.extend(offsets(&received));
                let done = settle(&broker, slot, &received.leases, ACK).await;
                assert!(done.iter().all(Result::is_ok), "{done:?}");
            }
        };
        let broker = |number: usize| brokers[number % 2].clone();
        let consumers: Vec<_> =
            (0..8).map(|number| spawn(consume(broker(number), 1 + number as u32))).collect();
        let mut wanted = Vec::new();
        for number in 0..300_u64 {
            let key = if number % 3 == 0 { "stock.apple.new" } else { "stock.apple.old" };
            let header: (&[u8], &[u8]) = (b"routing-key", key.as_bytes());
            let mut builder = BatchBuilder::new(Compression::None, 1000);
            for _ in 0..4 {
                let headers = &[header];
                let record = NewRecord { headers, timestamp_ms: 1000, ..NewRecord::default() };
                builder.push(&record).unwrap();
            }
            let produced = produce(&brokers[0], slot.0, Bytes::from(builder.finish().unwrap()));
            let base_offset = produced.await.unwrap().base_offset.0;
            if number % 3 == 0 {
                wanted.extend(base_offset..base_offset + 4);
            }
        }
        let mut seen = Vec::new();
        for consumer in consumers {
            seen.extend(consumer.await.unwrap());
        }
        seen.sort_unstable();
        assert_eq!(seen, wanted);
        assert_eq!(standing(&brokers[0], slot).await, (0, 1_200));
    });
}

/// Nothing is stored of a filter that cannot be read.
#[test]
fn what_is_wrong_with_a_filter_is_told() {
    run_on(29, &Disk::default(), async move {
        let brokers = start(1).await;
        let broker = &brokers[0];
        let topic = create(broker, "orders", 1).await;
        let listed = || {
            let (_, groups) = broker.list_groups(&topic.name).unwrap();
            groups.into_iter().map(|group| group.settings().cloned().unwrap()).collect::<Vec<_>>()
        };
        let long = format!("headers:a = '{}'", "x".repeat(4_096));
        let table = [
            (
                "headers:price >",
                "filter: expression: expected a value or a header, found the end at byte 7",
            ),
            ("price > 10", "filter: a filter is * or begins with tags:, keys: or headers:"),
            ("tags:a || *", "filter: tags: number 1 is *, which stands alone for everything"),
            (&long, "the filter has 4110 bytes, at most 4096 are allowed"),
        ];
        for (filter, want) in table {
            let refused = create_group(broker, &topic, filtered(filter)).await;
            assert_eq!(refused, Err(AdminError::Invalid { reason: want.to_owned() }));
        }
        assert_eq!(listed(), []);
        create_group(broker, &topic, filtered("*")).await.unwrap();
        assert_eq!(listed(), [settings(None)]);
        for (filter, want) in table {
            let refused = alter(broker, Some(filter)).await;
            assert_eq!(refused, Err(AdminError::Invalid { reason: want.to_owned() }));
        }
        assert_eq!(listed(), [settings(None)]);
    });
}
