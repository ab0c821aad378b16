//! Queue groups through the SDK: shared by consumers, leased again, given back, dead-lettered,
//! looked at and moved.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use barrage_client::queue::{Begin, Queue, Receipt, Received, SettleError};
use barrage_client::{
    Client, ClientError, ClientOptions, ConsumerOptions, ErrorKind, From, ProducerOptions,
    QueueOptions, Record,
};
use barrage_model::{Backoff, Offset, PartitionId, QueueSettings, TopicName};
use barrage_wire::GroupKind;

use crate::node::{Home, Node};

const SECOND: Duration = Duration::from_secs(1);
/// As long as anything may take on a busy machine.
const LONG: Duration = Duration::from_secs(30);

fn with_node(cores: &str, story: impl AsyncFnOnce(Client)) {
    let home = Home::new();
    let node = Node::start(&home, &["--cores", cores]);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        story(Client::connect(ClientOptions::server(node.address())).await.unwrap()).await;
    });
    assert_eq!(node.stop(), Some(0));
}

async fn open(client: &Client, topic: &str) -> Queue {
    client.queue(topic, "workers", QueueOptions::default()).await.unwrap()
}

async fn produce(client: &Client, topic: &str, values: std::ops::Range<u32>) {
    let producer = client.producer(topic, ProducerOptions::default()).await.unwrap();
    for value in values {
        // Spread over the partitions, not in batches of one.
        let (key, value) = ((value % 16).to_string(), value.to_string());
        let (key, value) = (Some(key.as_bytes()), Some(value.as_bytes()));
        producer.send(Record { key, value, ..Record::default() }).await.unwrap();
    }
    producer.close().await;
}

fn value(received: &Received) -> u32 {
    let value = received.record.value.as_ref().unwrap();
    std::str::from_utf8(value).unwrap().parse().unwrap()
}

fn values(received: &[Received]) -> Vec<u32> {
    received.iter().map(value).collect()
}

fn receipts(received: &[Received]) -> Vec<Receipt> {
    received.iter().map(|one| one.receipt).collect()
}

async fn ack(queue: &Queue, received: &[Received]) {
    for result in queue.ack(&receipts(received)).await {
        result.unwrap();
    }
}

#[test]
fn two_consumers_share_what_four_partitions_hold() {
    with_node("2", async |client| {
        client.create_topic("orders", 4, None).await.unwrap();
        let settings = QueueSettings::default();
        client.create_group("orders", "workers", &settings, Begin::Start).await.unwrap();
        let work = async |queue: Queue| {
            let mut seen = Vec::new();
            loop {
                let received = queue.receive(64, 3 * SECOND, None).await.unwrap();
                if received.is_empty() {
                    return seen;
                }
                ack(&queue, &received).await;
                seen.extend(received.iter().map(|one| (value(one), one.record.partition.0)));
            }
        };
        let (first, second) = (open(&client, "orders").await, open(&client, "orders").await);
        // They wait already when the records come.
        let ((), first, second) =
            tokio::join!(produce(&client, "orders", 0..1_000), work(first), work(second));
        assert!(!first.is_empty(), "the first has got nothing");
        assert!(!second.is_empty(), "the second has got nothing");
        let mut all = [first, second].concat();
        all.sort_unstable();
        assert!(all.iter().map(|(value, _)| *value).eq(0..1_000), "not each once: {all:?}");
        let mut partitions: Vec<u32> = all.iter().map(|(_, partition)| *partition).collect();
        partitions.sort_unstable();
        partitions.dedup();
        assert_eq!(partitions, [0, 1, 2, 3]);
        let counts = open(&client, "orders").await.counts().await.unwrap();
        assert_eq!((counts.visible, counts.leased, counts.delayed), (0, 0, 0));
    });
}

#[test]
fn a_receive_gathers_over_partitions_and_is_woken_by_a_produce() {
    with_node("2", async |client| {
        client.create_topic("orders", 4, None).await.unwrap();
        let settings = QueueSettings::default();
        client.create_group("orders", "workers", &settings, Begin::Start).await.unwrap();
        let queue = open(&client, "orders").await;
        produce(&client, "orders", 0..100).await;
        let received = queue.receive(60, Duration::ZERO, None).await.unwrap();
        assert_eq!(received.len(), 60, "as many as are asked for, wherever they are");
        ack(&queue, &received).await;
        let rest = queue.receive(60, LONG, None).await.unwrap();
        assert_eq!(rest.len(), 40, "fewer only when there are fewer");
        ack(&queue, &rest).await;
        let began = Instant::now();
        assert!(queue.receive(1, SECOND / 2, None).await.unwrap().is_empty());
        assert!(began.elapsed() >= SECOND / 2, "came back after {:?}", began.elapsed());
        for round in 0..20 {
            let produced = async {
                tokio::time::sleep(Duration::from_millis(20)).await;
                produce(&client, "orders", round..round + 1).await;
            };
            let began = Instant::now();
            let (received, ()) = tokio::join!(queue.receive(10, LONG, None), produced);
            let received = received.unwrap();
            assert_eq!(values(&received), [round]);
            assert!(began.elapsed() < LONG / 2, "woken after {:?}", began.elapsed());
            ack(&queue, &received).await;
        }
    });
}

#[test]
fn what_is_not_acked_comes_back() {
    with_node("1", async |client| {
        client.create_topic("orders", 1, None).await.unwrap();
        let settings = QueueSettings { visibility_ms: 1_000, ..QueueSettings::default() };
        client.create_group("orders", "workers", &settings, Begin::Start).await.unwrap();
        let queue = open(&client, "orders").await;
        produce(&client, "orders", 0..3).await;
        let first = queue.receive(3, LONG, None).await.unwrap();
        assert_eq!(values(&first), [0, 1, 2]);
        assert!(first.iter().all(|one| one.deliveries == 1), "{first:?}");
        assert!(first[0].lease_end > Instant::now(), "a lease of a second is over");
        // The third is kept for longer, by a handle that was printed.
        let handle = first[2].receipt.to_string().parse::<Receipt>().unwrap();
        queue.extend(&[handle], 10 * SECOND).await.pop().unwrap().unwrap();
        let began = Instant::now();
        let mut again = queue.receive(3, LONG, None).await.unwrap();
        if again.len() < 2 {
            again.extend(queue.receive(3, LONG, None).await.unwrap());
        }
        assert_eq!(values(&again), [0, 1]);
        assert!(again.iter().all(|one| one.deliveries == 2), "{again:?}");
        assert_eq!(again[0].first_delivered_ms, first[0].first_delivered_ms);
        assert!(began.elapsed() > SECOND / 2, "came back after {:?}", began.elapsed());
        // The old receipt is worth nothing, the new one gives the record back for a while.
        let stale = queue.ack(&[first[0].receipt]).await.pop().unwrap();
        assert!(matches!(stale, Err(SettleError::Stale)), "{stale:?}");
        let given_back = Instant::now();
        let results = queue.nack(&receipts(&again[..1]), Some(2 * SECOND)).await;
        assert!(matches!(results[..], [Ok(())]), "{results:?}");
        ack(&queue, &again[1..]).await;
        let settled = queue.ack(&receipts(&again[1..])).await.pop().unwrap();
        assert!(matches!(settled, Err(SettleError::AlreadySettled)), "{settled:?}");
        let counts = queue.counts().await.unwrap();
        assert_eq!((counts.visible, counts.leased, counts.delayed), (0, 1, 1));
        let third = queue.receive(3, LONG, None).await.unwrap();
        assert_eq!((values(&third), third[0].deliveries), (vec![0], 3));
        let delay = given_back.elapsed();
        assert!(delay > 2 * SECOND - Duration::from_millis(50), "back after {delay:?}");
        // Results keep the order of the receipts.
        let nobody = "9-0-1".parse::<Receipt>().unwrap();
        let never = "0-2-77".parse::<Receipt>().unwrap();
        let results = queue.ack(&[nobody, third[0].receipt, never, handle]).await;
        let no_partition = |result: &Result<(), SettleError>| match result {
            Err(SettleError::Request(error)) => error.kind() == ErrorKind::NotFound,
            _ => false,
        };
        assert!(no_partition(&results[0]), "{results:?}");
        assert!(results[1].is_ok() && results[2].is_err() && results[3].is_ok(), "{results:?}");
    });
}

#[test]
fn what_is_delivered_too_often_goes_to_the_dead_letter_topic() {
    with_node("1", async |client| {
        client.create_topic("orders", 1, None).await.unwrap();
        client.create_topic("orders.dead", 1, None).await.unwrap();
        let settings = QueueSettings {
            deliveries_max: Some(2),
            dead_letter: Some(TopicName::parse("orders.dead").unwrap()),
            backoff: Backoff::Fixed(0),
            ..QueueSettings::default()
        };
        client.create_group("orders", "workers", &settings, Begin::Start).await.unwrap();
        let queue = open(&client, "orders").await;
        produce(&client, "orders", 0..2).await;
        for delivery in 1..=2 {
            let received = queue.receive(1, LONG, None).await.unwrap();
            assert_eq!((values(&received), received[0].deliveries), (vec![0], delivery));
            queue.nack(&receipts(&received), None).await.pop().unwrap().unwrap();
        }
        let received = queue.receive(2, LONG, None).await.unwrap();
        assert_eq!(values(&received), [1], "a dead record is not delivered");
        ack(&queue, &received).await;
        let mut consumer =
            client.consumer("orders.dead", ConsumerOptions::default()).await.unwrap();
        let batch = tokio::time::timeout(LONG, consumer.next_batch()).await.unwrap();
        let batch = batch.unwrap().unwrap();
        let records = batch.records().unwrap();
        let record = records.iter().next().unwrap().unwrap();
        assert_eq!((record.key, record.value), (Some(b"0".as_slice()), Some(b"0".as_slice())));
        let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
        let headers: BTreeMap<_, _> =
            record.headers.iter().map(|one| (text(one.key), text(one.value.unwrap()))).collect();
        let told = [
            ("dead-letter-deliveries", "2"),
            ("dead-letter-group", "workers"),
            ("dead-letter-offset", "0"),
            ("dead-letter-partition", "0"),
            ("dead-letter-reason", "deliveries"),
            ("dead-letter-topic", "orders"),
        ];
        let told = told.map(|(key, value)| (key.to_owned(), value.to_owned()));
        assert_eq!(headers, BTreeMap::from(told));
    });
}

#[test]
fn a_group_is_looked_at_purged_and_rewound() {
    with_node("2", async |client| {
        client.create_topic("orders", 3, None).await.unwrap();
        produce(&client, "orders", 0..20).await;
        let settings = QueueSettings::default();
        client.create_group("orders", "late", &settings, Begin::End).await.unwrap();
        let made = client.create_group("orders", "workers", &settings, Begin::Start).await.unwrap();
        let again = client.create_group("orders", "workers", &settings, Begin::Start).await;
        assert_eq!(again.unwrap_err().kind(), ErrorKind::Conflict);
        let groups = client.list_groups("orders").await.unwrap();
        let names: Vec<_> = groups.iter().map(|group| group.name.as_str()).collect();
        assert_eq!(names, ["late", "workers"]);
        let late = client.queue("orders", "late", QueueOptions::default()).await.unwrap();
        assert!(late.peek(10).await.unwrap().is_empty(), "it began at the end");

        let queue = open(&client, "orders").await;
        let peeked = queue.peek(100).await.unwrap();
        assert_eq!(peeked.len(), 20);
        assert_eq!(queue.peek(7).await.unwrap(), peeked[..7]);
        let received = queue.receive(8, LONG, None).await.unwrap();
        ack(&queue, &received[..3]).await;
        let counts = queue.counts().await.unwrap();
        assert_eq!((counts.visible, counts.leased), (12, 5));
        assert_eq!(counts.partitions.len(), 3);
        let by_partition: u64 = counts.partitions.iter().map(|one| one.visible).sum();
        assert_eq!(by_partition, counts.visible);
        assert_eq!(queue.peek(100).await.unwrap().len(), 12, "what is leased is not there");

        queue.purge().await.unwrap();
        let counts = queue.counts().await.unwrap();
        assert_eq!((counts.visible, counts.leased), (0, 0));
        assert!(queue.receive(1, Duration::ZERO, None).await.unwrap().is_empty());
        let late_receipt = queue.ack(&receipts(&received[3..4])).await.pop().unwrap();
        assert!(matches!(late_receipt, Err(SettleError::AlreadySettled)), "{late_receipt:?}");

        let beyond = queue.rewind(From::Offset(Offset(100))).await.unwrap_err();
        assert!(matches!(beyond, ClientError::Refused(_)), "{beyond}");
        assert_eq!(queue.counts().await.unwrap().visible, 0, "nothing changed");
        queue.rewind(From::Start).await.unwrap();
        let mut all = Vec::new();
        while all.len() < 20 {
            let received = queue.receive(100, LONG, None).await.unwrap();
            ack(&queue, &received).await;
            all.extend(values(&received));
        }
        all.sort_unstable();
        assert!(all.into_iter().eq(0..20), "not all came again");
        queue.rewind(From::Time(i64::MAX)).await.unwrap();
        assert_eq!(queue.counts().await.unwrap().visible, 0);

        let settings = QueueSettings { visibility_ms: 5_000, ..settings };
        let altered = client.alter_group("orders", "workers", &settings).await.unwrap();
        let GroupKind::Queue(settings) = altered.kind else { panic!("it is a queue group") };
        assert_eq!((altered.group, settings.visibility_ms), (made.group, 5_000));
        client.delete_group("orders", "workers").await.unwrap();
        let gone = client.queue("orders", "workers", QueueOptions::default()).await;
        assert_eq!(gone.unwrap_err().kind(), ErrorKind::NotFound);
        let gone = queue.receive(1, LONG, None).await;
        assert_eq!(gone.unwrap_err().kind(), ErrorKind::NotFound);
        let unknown = client.queue("nobody", "workers", QueueOptions::default()).await;
        assert_eq!(unknown.unwrap_err().kind(), ErrorKind::NotFound);
        assert_eq!(peeked[0].partition, PartitionId(0));
    });
}

/// Push: no more than there is credit for, more when some is settled; what nobody took is there for
/// others at once, as if it had not been delivered.
#[test]
fn a_subscription_is_sent_what_it_has_credit_for() {
    with_node("2", async |client| {
        client.create_topic("orders", 3, None).await.unwrap();
        let settings = QueueSettings::default();
        client.create_group("orders", "workers", &settings, Begin::Start).await.unwrap();
        let queue = Arc::new(open(&client, "orders").await);
        let mut pushed = queue.subscribe(4, None);
        produce(&client, "orders", 0..10).await;
        let mut held = Vec::new();
        for _ in 0..4 {
            let delivery = tokio::time::timeout(LONG, pushed.next()).await.unwrap();
            held.push(delivery.unwrap().unwrap());
        }
        assert!(tokio::time::timeout(2 * SECOND, pushed.next()).await.is_err(), "no credit");
        assert_eq!(queue.counts().await.unwrap().leased, 4, "nothing is leased without credit");
        let mut seen: Vec<_> = held.iter().map(|one| value(one)).collect();
        for result in pushed.ack(held).await {
            result.unwrap();
        }
        let next = tokio::time::timeout(LONG, pushed.next()).await.unwrap().unwrap().unwrap();
        let given_back = value(&next);
        pushed.nack(vec![next], Some(Duration::ZERO)).await.pop().unwrap().unwrap();
        // Some wait to be taken now.
        while queue.counts().await.unwrap().leased < 4 {
            tokio::time::sleep(SECOND / 10).await;
        }
        pushed.close().await;
        let mut rest = BTreeMap::new();
        while rest.len() < 6 {
            let received = queue.receive(10, LONG, None).await.unwrap();
            rest.extend(received.iter().map(|one| (value(one), one.deliveries)));
        }
        let counted: Vec<_> = rest.iter().filter(|(_, deliveries)| **deliveries > 1).collect();
        assert_eq!(counted, [(&given_back, &2)], "only what the program had counts");
        seen.extend(rest.into_keys());
        seen.sort_unstable();
        assert_eq!(seen, (0..10).collect::<Vec<_>>());
    });
}

/// What a slow program does not take in time is given back before its lease is over: it does not
/// become a dead letter that nobody has seen.
#[test]
fn what_a_subscriber_does_not_take_does_not_count() {
    with_node("1", async |client| {
        client.create_topic("orders", 1, None).await.unwrap();
        let settings = QueueSettings::default();
        client.create_group("orders", "workers", &settings, Begin::Start).await.unwrap();
        let queue = Arc::new(open(&client, "orders").await);
        produce(&client, "orders", 0..3).await;
        let mut pushed = queue.subscribe(2, Some(6 * SECOND));
        tokio::time::sleep(8 * SECOND).await;
        for _ in 0..3 {
            let delivery = tokio::time::timeout(LONG, pushed.next()).await.unwrap();
            let delivery = delivery.unwrap().unwrap();
            assert_eq!(delivery.deliveries, 1);
            pushed.ack(vec![delivery]).await.pop().unwrap().unwrap();
        }
    });
}

/// One that is dropped gives back what nobody took, and leases no more.
#[test]
fn a_subscription_that_is_dropped_lets_go() {
    with_node("2", async |client| {
        client.create_topic("orders", 1, None).await.unwrap();
        let settings = QueueSettings::default();
        client.create_group("orders", "workers", &settings, Begin::Start).await.unwrap();
        let queue = Arc::new(open(&client, "orders").await);
        produce(&client, "orders", 0..3).await;
        let pushed = queue.subscribe(2, None);
        while queue.counts().await.unwrap().leased < 2 {
            tokio::time::sleep(SECOND / 10).await;
        }
        drop(pushed);
        while queue.counts().await.unwrap().visible < 3 {
            tokio::time::sleep(SECOND / 10).await;
        }
        produce(&client, "orders", 3..5).await;
        tokio::time::sleep(SECOND).await;
        assert_eq!(queue.counts().await.unwrap().visible, 5);
    });
}
