//! Delayed records: from the command line, and while the node is killed.

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use barrage_client::{
    Change, ChangeError, Client, ClientOptions, Delay, DelayedId, ProducerOptions, Record,
};
use barrage_model::{Offset, PartitionId};
use barrage_wire::ErrorCode;
use serde_json::Value;

use crate::node::{Home, Node, words};

const RECORDS: u64 = 3_000;

fn now_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    u64::try_from(since.as_millis()).unwrap()
}

#[test]
fn records_wait_are_cancelled_moved_and_come() {
    let home = Home::new();
    let node = Node::start(&home, &["--cores", "1"]);
    node.run(&["topic", "create", "orders"]);
    let receipts = home.path("receipts");
    let receipts = receipts.to_str().unwrap();
    let delayed = ["produce", "orders", "--delay", "2s", "--receipts", receipts];
    node.feed(&delayed, b"kept\ncancelled\nmoved\n");
    node.feed(&["produce", "orders"], b"at once\n");
    let told = std::fs::read_to_string(receipts).unwrap();
    assert_eq!(told, "0 0 1\n0 1 2\n0 2 3\n", "ids, not offsets");

    let list = || -> Value {
        serde_json::from_slice(&node.run(&["delay", "ls", "orders", "-o", "json"])).unwrap()
    };
    let waiting = list();
    assert_eq!(waiting[0]["count"], 3);
    let due_ms = waiting[0]["oldest"][0]["due_ms"].as_u64().unwrap();
    assert!(due_ms <= now_ms() + 2_000 && due_ms + 5_000 > now_ms(), "{due_ms}");
    node.run(&["delay", "cancel", "orders", "0:1"]);
    node.run(&["delay", "reschedule", "orders", "0:2", "--delay", "1h"]);
    let again = node.client(&["delay", "cancel", "orders", "0:1", "0:9"]).output().unwrap();
    assert_eq!(again.status.code(), Some(1));
    let said = words(&again);
    assert!(said.contains("0:1: it does not wait any more"), "{said}");
    assert!(said.contains("0:9: there is no delayed record"), "{said}");

    let consume = ["consume", "orders", "--from", "start", "--format", "%o %v\\n"];
    let read = |more: &[&str]| {
        let args: Vec<&str> = consume.iter().chain(more).copied().collect();
        String::from_utf8(node.run(&args)).unwrap()
    };
    assert_eq!(read(&["--exit"]), "0 at once\n", "the others are not there yet");
    assert_eq!(read(&["-n", "2"]), "0 at once\n1 kept\n");
    assert!(now_ms() >= due_ms, "it came early");
    assert_eq!(list()[0]["count"], 1);
    node.run(&["delay", "reschedule", "orders", "0:2", "--delay", "100ms"]);
    assert_eq!(read(&["-n", "3"]), "0 at once\n1 kept\n2 moved\n");
    assert_eq!(list()[0]["count"], 0);

    let mut late = node.client(&["produce", "orders", "--at", "2020-01-01"]);
    late.stdin(std::process::Stdio::piped()).stderr(std::process::Stdio::piped());
    let mut late = late.spawn().unwrap();
    std::io::Write::write_all(late.stdin.as_mut().unwrap(), b"late\n").unwrap();
    let output = late.wait_with_output().unwrap();
    assert!(!output.status.success());
    assert!(words(&output).contains("is delayed until"), "{}", words(&output));
    assert_eq!(node.stop(), Some(0));
}

/// What is said to be stored, which id each record got, and when it is due.
async fn produce(node: &Node) -> BTreeMap<u64, u64> {
    let client = Client::connect(ClientOptions::server(node.address())).await.unwrap();
    client.create_topic("timers", 1, None).await.unwrap();
    let producer = client.producer("timers", ProducerOptions::default()).await.unwrap();
    let mut sent = Vec::new();
    let begun_ms = now_ms();
    for number in 0..RECORDS {
        let due_ms = begun_ms + 500 + number * 7_919 % 6_000;
        let value = number.to_string();
        let (value, delay) = (Some(value.as_bytes()), Some(Delay::Until(due_ms)));
        let delivery = producer.send(Record { value, delay, ..Record::default() }).await.unwrap();
        sent.push((number, due_ms, delivery));
    }
    producer.flush().await;
    let mut dues_ms = BTreeMap::new();
    for (number, due_ms, delivery) in sent {
        delivery.wait().await.unwrap();
        dues_ms.insert(number, due_ms);
    }
    producer.close().await;
    dues_ms
}

#[test]
fn none_is_early_lost_or_doubled_when_the_node_is_killed() {
    let home = Home::new();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let mut node = Node::start(&home, &["--cores", "1"]);
    let dues_ms = runtime.block_on(produce(&node));
    let last_ms = dues_ms.values().copied().max().unwrap();
    let consume = |node: &Node| {
        let args = ["consume", "timers", "--from", "start", "--exit", "--format", "%v\\n"];
        String::from_utf8(node.run(&args)).unwrap()
    };
    let mut looks = 0;
    loop {
        let asked_ms = now_ms();
        let came = consume(&node);
        let seen_ms = now_ms();
        let mut numbers = BTreeMap::new();
        for line in came.lines() {
            let number: u64 = line.parse().unwrap();
            assert_eq!(numbers.insert(number, ()), None, "{number} came twice");
            assert!(dues_ms[&number] <= seen_ms, "{number} came early");
        }
        // What was due a good while before is there.
        let missing = dues_ms
            .iter()
            .find(|(number, due_ms)| **due_ms + 3_000 < asked_ms && !numbers.contains_key(number));
        assert_eq!(missing, None, "it is {asked_ms}");
        if numbers.len() as u64 == RECORDS {
            break;
        }
        assert!(seen_ms < last_ms + 20_000, "only {} came", numbers.len());
        looks += 1;
        if looks % 2 == 1 && seen_ms < last_ms {
            node.kill();
            node = Node::start(&home, &["--cores", "1"]);
        }
        std::thread::sleep(Duration::from_millis(300));
    }
    assert!(looks > 3, "{looks}");
    assert_eq!(node.stop(), Some(0));
}

/// More than one request takes, and a move to an instant that is over.
#[test]
fn whoever_is_named_has_an_answer() {
    let home = Home::new();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let node = Node::start(&home, &["--cores", "1"]);
    runtime.block_on(async {
        let client = Client::connect(ClientOptions::server(node.address())).await.unwrap();
        client.create_topic("timers", 1, None).await.unwrap();
        let producer = client.producer("timers", ProducerOptions::default()).await.unwrap();
        let delay = Some(Delay::For(Duration::from_secs(3_600)));
        let record = Record { value: Some(b"waits"), delay, ..Record::default() };
        producer.send(record).await.unwrap().wait().await.unwrap();
        producer.close().await;

        let delayed = client.delayed("timers").await.unwrap();
        let id = |id| DelayedId { partition: PartitionId(0), id: Offset(id) };
        let ids: Vec<DelayedId> = (0..10_001).map(id).collect();
        let over = delayed.change(&ids[..1], Change::Reschedule(Delay::Until(1))).await;
        let Err(ChangeError::Client(error)) = &over[0] else { panic!("{over:?}") };
        assert_eq!(error.code(), Some(ErrorCode::DelayIsOver));
        let told = delayed.change(&ids, Change::Cancel).await;
        assert_eq!(told.len(), ids.len());
        assert!(told[0].is_ok(), "{:?}", told[0]);
        assert!(told[1..].iter().all(|one| matches!(one, Err(ChangeError::Unknown))));
    });
    assert_eq!(node.stop(), Some(0));
}
