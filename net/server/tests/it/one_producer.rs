//! A topic whose order is global: one producer writes, a second is refused, waits or takes over.

use std::fs;
use std::time::Duration;

use barrage_client::{
    Client, ClientOptions, Delivery, DeliveryError, Producer, ProducerOptions, Record, Rival,
};
use barrage_wire::ErrorCode;
use serde_json::Value;

use crate::node::{Home, Node, words};

const SESSION: Duration = Duration::from_secs(6);

async fn open(client: &Client, rival: Rival) -> Result<Producer, Option<ErrorCode>> {
    let options = ProducerOptions { rival, session: SESSION, ..ProducerOptions::default() };
    client.producer("ledger", options).await.map_err(|error| error.code())
}

async fn send(producer: &Producer, value: &str) -> Result<Delivery, Option<ErrorCode>> {
    let record = Record { value: Some(value.as_bytes()), ..Record::default() };
    producer.send(record).await.map_err(|error| error.code())
}

/// Sends and waits; the code it was refused with.
async fn write(producer: &Producer, value: &str) -> Result<(), Option<ErrorCode>> {
    match send(producer, value).await?.wait().await {
        Ok(_) => Ok(()),
        Err(DeliveryError::Failed(error) | DeliveryError::Unknown(error)) => Err(error.code()),
        Err(_) => Err(None),
    }
}

fn values(node: &Node) -> Vec<String> {
    let text = String::from_utf8(node.run(&["consume", "ledger", "--from", "start", "--exit"]));
    text.unwrap().lines().map(str::to_owned).collect()
}

#[test]
fn one_producer_at_a_time_writes_what_has_one_order() {
    let home = Home::new();
    let node = Node::start(&home, &["--cores", "2"]);
    node.run(&["topic", "create", "ledger", "--order", "global"]);
    let topic: Value =
        serde_json::from_slice(&node.run(&["topic", "describe", "ledger", "-o", "json"])).unwrap();
    assert_eq!(
        (&topic["order"], topic["partitions"].as_array().unwrap().len()),
        (&"global".into(), 1)
    );
    for args in [
        &["topic", "create", "wide", "--order", "global", "--partitions", "2"][..],
        &["topic", "alter", "ledger", "--partitions", "2"],
    ] {
        let refused = node.client(args).output().unwrap();
        assert_eq!(refused.status.code(), Some(2), "{}", words(&refused));
        assert!(words(&refused).contains("has one partition, not 2"), "{}", words(&refused));
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let mut expected = runtime.block_on(story(&node));
    assert_eq!(values(&node), expected);

    // By hand: while nobody holds it, and after kill -9 of who did.
    node.feed(&["produce", "ledger"], b"by hand\n");
    node.feed(&["produce", "ledger"], b"again\n");
    expected.extend(["by hand".to_owned(), "again".to_owned()]);
    let line = home.path("line");
    fs::write(&line, "late\n").unwrap();
    let line = line.to_str().unwrap();
    let late = ["produce", "ledger", "--delay", "1s", "--file", line];
    let late = node.client(&late).output().unwrap();
    assert_ne!(late.status.code(), Some(0), "{}", words(&late));
    assert!(words(&late).contains("records are not delayed"), "{}", words(&late));
    let held = runtime.block_on(async {
        let client = Client::connect(ClientOptions::server(node.address())).await.unwrap();
        open(&client, Rival::Refuse).await.unwrap()
    });
    node.kill();
    let node = Node::start(&home, &["--cores", "2"]);
    let refused = node.client(&["produce", "ledger"]).output().unwrap();
    assert_eq!(refused.status.code(), Some(6), "{}", words(&refused));
    assert!(words(&refused).contains("another producer holds the topic"), "{}", words(&refused));
    drop(held);
    node.feed(&["produce", "ledger", "--stand-by"], b"stood by\n");
    expected.push("stood by".to_owned());
    assert_eq!(values(&node), expected);
    assert_eq!(node.stop(), Some(0));
}

async fn story(node: &Node) -> Vec<String> {
    let client = || async { Client::connect(ClientOptions::server(node.address())).await.unwrap() };
    let (one, other) = (client().await, client().await);
    let first = open(&one, Rival::Refuse).await.unwrap();
    write(&first, "first 1").await.unwrap();
    assert_eq!(open(&other, Rival::Refuse).await.err(), Some(Some(ErrorCode::ProducerHeld)));

    // Its heartbeats keep it, also when it writes nothing for longer than a session.
    tokio::time::sleep(SESSION + SESSION / 3).await;
    assert_eq!(open(&other, Rival::Refuse).await.err(), Some(Some(ErrorCode::ProducerHeld)));
    write(&first, "first 2").await.unwrap();

    // Who stands by comes when the first is closed, not before.
    let (second, ()) = tokio::join!(open(&other, Rival::Wait), async {
        tokio::time::sleep(Duration::from_millis(1_500)).await;
        write(&first, "first 3").await.unwrap();
        first.close().await;
    });
    let second = second.unwrap();
    write(&second, "second 1").await.unwrap();

    // Who takes over ends the second: what that sends afterwards is refused, whatever it believes.
    let third = open(&one, Rival::TakeOver).await.unwrap();
    assert_eq!(write(&second, "second 2").await, Err(Some(ErrorCode::ProducerFenced)));
    write(&third, "third 1").await.unwrap();
    assert_eq!(write(&second, "second 3").await, Err(Some(ErrorCode::ProducerFenced)));
    second.close().await;
    write(&third, "third 2").await.unwrap();

    // Who is not closed holds it until its session is over.
    drop(third);
    assert_eq!(open(&other, Rival::Refuse).await.err(), Some(Some(ErrorCode::ProducerHeld)));
    let fourth = open(&other, Rival::Wait).await.unwrap();
    write(&fourth, "fourth 1").await.unwrap();
    fourth.close().await;
    let written = ["first 1", "first 2", "first 3", "second 1", "third 1", "third 2", "fourth 1"];
    written.map(str::to_owned).to_vec()
}
