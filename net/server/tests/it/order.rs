//! Queue groups that are ordered by key: from the command line, and many consumers on a partition.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::Duration;

use barrage_client::queue::Begin;
use barrage_client::{Client, ClientOptions, ProducerOptions, QueueOptions, Record};
use barrage_model::QueueSettings;
use barrage_model::group::Order;
use serde_json::Value;
use tokio::task::LocalSet;

use crate::node::{Home, Node};

const KEYS: u32 = 40;
const RECORDS: u32 = 4_000;
const CONSUMERS: usize = 64;

/// What the consumers have in common.
struct Shared {
    /// The first record of each key whose ack is not on its way.
    next: RefCell<BTreeMap<u32, u32>>,
    /// Records that consumers took with them when they went.
    left: Cell<u32>,
    done: Cell<u32>,
}

/// Receives a few times and goes, sometimes with what it has in hand.
async fn consume(address: String, number: usize, shared: Rc<Shared>) {
    let client = Client::connect(ClientOptions::server(address)).await.unwrap();
    let mut turn = number;
    while shared.done.get() < RECORDS {
        let queue = client.queue("sales", "workers", QueueOptions::default()).await.unwrap();
        for _ in 0..3 {
            turn += 1;
            let length = Some(Duration::from_secs(if turn.is_multiple_of(7) { 1 } else { 30 }));
            let wait = Duration::from_millis(200);
            let received = queue.receive(1 + turn % 5, wait, length).await.unwrap();
            let mut receipts = Vec::new();
            for one in &received {
                let text =
                    |bytes: &[u8]| -> u32 { std::str::from_utf8(bytes).unwrap().parse().unwrap() };
                let key = text(one.record.key.as_ref().unwrap());
                let value = text(one.record.value.as_ref().unwrap());
                let next = shared.next.borrow().get(&key).copied().unwrap_or(0);
                assert_eq!(value, next, "key {key}: {} deliveries", one.deliveries);
                receipts.push((key, one.receipt));
            }
            if turn.is_multiple_of(7) {
                shared.left.set(shared.left.get() + receipts.len() as u32);
                break;
            }
            tokio::task::yield_now().await;
            for (key, _) in &receipts {
                *shared.next.borrow_mut().entry(*key).or_default() += 1;
            }
            let receipts: Vec<_> = receipts.into_iter().map(|(_, receipt)| receipt).collect();
            for result in queue.ack(&receipts).await {
                result.unwrap();
                shared.done.set(shared.done.get() + 1);
            }
        }
    }
}

#[test]
fn many_consumers_keep_the_order_of_keys_while_they_come_and_go() {
    let home = Home::new();
    let node = Node::start(&home, &["--cores", "1"]);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let tasks = LocalSet::new();
    let address = node.address().to_owned();
    let left = tasks.block_on(&runtime, async {
        let client = Client::connect(ClientOptions::server(address.clone())).await.unwrap();
        client.create_topic("sales", 1, None).await.unwrap();
        let settings = QueueSettings { order: Order::Key, ..QueueSettings::default() };
        client.create_group("sales", "workers", &settings, Begin::Start).await.unwrap();
        let (next, left, done) = Default::default();
        let shared = Rc::new(Shared { next, left, done });
        let consumers: Vec<_> = (0..CONSUMERS)
            .map(|number| {
                let consumer = consume(address.clone(), number, Rc::clone(&shared));
                tokio::task::spawn_local(consumer)
            })
            .collect();
        let producer = client.producer("sales", ProducerOptions::default()).await.unwrap();
        for number in 0..RECORDS {
            let (key, value) = (number % KEYS, number / KEYS);
            let (key, value) = (key.to_string(), value.to_string());
            let (key, value) = (Some(key.as_bytes()), Some(value.as_bytes()));
            producer.send(Record { key, value, ..Record::default() }).await.unwrap();
        }
        producer.close().await;
        for consumer in consumers {
            consumer.await.unwrap();
        }
        let next = shared.next.borrow();
        assert!(next.values().all(|count| *count == RECORDS / KEYS), "{next:?}");
        shared.left.get()
    });
    assert!(left > 50, "only {left} records were taken along");
    assert_eq!(node.stop(), Some(0));
}

#[test]
fn an_order_is_set_shown_changed_and_refused_beside_a_filter() {
    let home = Home::new();
    let node = Node::start(&home, &["--cores", "1"]);
    node.run(&["topic", "create", "sales"]);
    node.run(&["group", "create", "sales", "g", "--order", "key"]);
    let json = |args: &[&str]| -> Value { serde_json::from_slice(&node.run(args)).unwrap() };
    assert_eq!(json(&["group", "describe", "sales", "g", "-o", "json"])["order"], "key");
    node.feed(&["produce", "sales", "--key-separator", ":"], b"a:1\na:2\nb:1\na:3\n");
    let receive = |count: &str| -> Vec<(String, String)> {
        let args = ["queue", "receive", "sales", "g", "-n", count, "-o", "json"];
        let all = json(&args);
        let one = |row: &Value| {
            let text = |name: &str| row[name].as_str().unwrap().to_owned();
            (text("value"), text("receipt"))
        };
        all.as_array().unwrap().iter().map(one).collect()
    };
    let values = |all: &[(String, String)]| -> Vec<String> {
        all.iter().map(|(value, _)| value.clone()).collect()
    };
    let first = receive("10");
    assert_eq!(values(&first), ["1", "1"], "one of each key");
    assert!(receive("10").is_empty());
    node.run(&["queue", "nack", "sales", "g", &first[0].1]);
    let again = receive("10");
    assert_eq!(values(&again), ["1"], "not the one behind it");
    node.run(&["queue", "ack", "sales", "g", &again[0].1]);
    assert_eq!(values(&receive("10")), ["2"]);
    let refused = ["group", "alter", "sales", "g", "--filter", "tags:a"];
    let output = node.client(&refused).output().unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(said.contains("a filter or is ordered by key, not both"), "{said}");
    node.run(&["group", "alter", "sales", "g", "--order", "none"]);
    assert_eq!(values(&receive("10")), ["3"]);
    assert_eq!(node.stop(), Some(0));
}
