//! Stream groups from the command line: made, consumed, described, reset, removed.

use std::io::Read;
use std::process::Stdio;
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::node::{Home, Node, numbers, words};

fn text(output: Vec<u8>) -> String {
    String::from_utf8(output).unwrap()
}

fn described(node: &Node, topic: &str) -> Value {
    let args = ["group", "describe", topic, "billing", "-o", "json"];
    serde_json::from_slice(&node.run(&args)).unwrap()
}

fn consume(node: &Node, more: &[&str]) -> Vec<u32> {
    let args = ["consume", "orders", "--group", "billing", "--exit"];
    let printed = text(node.run(&[&args[..], more].concat()));
    let mut values: Vec<u32> = printed.lines().map(|line| line.parse().unwrap()).collect();
    values.sort_unstable();
    values
}

#[test]
fn a_group_is_made_consumed_reset_and_removed() {
    let home = Home::new();
    let node = Node::start(&home, &["--cores", "1"]);
    node.run(&["topic", "create", "orders", "--partitions", "2"]);
    node.run(&["topic", "create", "returns"]);
    node.feed(&["produce", "orders"], numbers(1, 20).as_bytes());
    let create = ["group", "create", "orders", "billing", "--kind", "stream"];
    let wrong = node.client(&create).args(["--visibility", "5s"]).output().unwrap();
    assert_eq!(wrong.status.code(), Some(2), "{}", words(&wrong));
    node.run(&create);
    let again = node.client(&create).output().unwrap();
    assert_eq!(again.status.code(), Some(6), "{}", words(&again));
    node.run(&["group", "create", "returns", "billing", "--kind", "stream", "--from", "end"]);
    let listed = text(node.run(&["group", "ls", "orders"]));
    assert!(listed.contains("billing  stream"), "{listed}");

    let all: Vec<u32> = (1..=20).collect();
    assert_eq!(described(&node, "orders")["lag"], 20);
    let first = consume(&node, &["-n", "7"]);
    assert_eq!((first.len(), described(&node, "orders")["lag"].as_u64()), (7, Some(13)));
    let mut values = [first, consume(&node, &[])].concat();
    values.sort_unstable();
    assert_eq!(values, all, "each once");
    assert!(consume(&node, &[]).is_empty());
    let group = described(&node, "orders");
    assert_eq!((&group["lag"], &group["standing"]), (&0.into(), &"empty".into()));
    assert_eq!(group["topics"], serde_json::json!(["orders", "returns"]));

    let reset = ["group", "reset", "orders", "billing", "--to"];
    let beyond = node.client(&reset).arg("1000").output().unwrap();
    assert!(!beyond.status.success(), "{}", words(&beyond));
    node.run(&[&reset[..], &["start"]].concat());
    assert_eq!(consume(&node, &[]), all);
    node.run(&[&reset[..], &["@-1h"]].concat());
    assert_eq!(described(&node, "orders")["lag"], 20);
    node.run(&[&reset[..], &["end"]].concat());
    assert!(consume(&node, &[]).is_empty());

    node.run(&["group", "rm", "orders", "billing"]);
    let gone = node.client(&["consume", "orders", "--group", "billing"]).output().unwrap();
    assert_eq!(gone.status.code(), Some(3), "{}", words(&gone));
    assert_eq!(described(&node, "returns")["topics"], serde_json::json!(["returns"]));
    assert_eq!(node.stop(), Some(0));
}

/// While somebody reads, the group is not reset, and whoever describes it sees who reads; a member
/// that is interrupted leaves at once.
#[test]
fn a_member_is_seen_and_leaves_when_it_is_interrupted() {
    let home = Home::new();
    let node = Node::start(&home, &["--cores", "1"]);
    node.run(&["topic", "create", "orders", "--partitions", "2"]);
    node.run(&["group", "create", "orders", "billing", "--kind", "stream"]);
    let mut command = node.client(&["consume", "orders", "--group", "billing"]);
    let mut member = command.stdout(Stdio::piped()).spawn().unwrap();
    node.feed(&["produce", "orders"], b"hello\n");
    let mut line = [0; 6];
    member.stdout.as_mut().unwrap().read_exact(&mut line).unwrap();
    assert_eq!(&line, b"hello\n");
    let group = described(&node, "orders");
    assert_eq!(group["members"][0]["partitions"], serde_json::json!([0, 1]));
    let reset = node.client(&["group", "reset", "orders", "billing", "--to", "start"]).output();
    let reset = reset.unwrap();
    assert_eq!(reset.status.code(), Some(6), "{}", words(&reset));
    assert!(words(&reset).contains("Stop its members"), "{}", words(&reset));
    let pid = member.id().to_string();
    let interrupted = std::process::Command::new("kill").args(["-INT", &pid]).status().unwrap();
    assert!(interrupted.success());
    let began = Instant::now();
    assert!(member.wait().unwrap().success());
    assert!(began.elapsed() < Duration::from_secs(30));
    let group = described(&node, "orders");
    assert_eq!((&group["standing"], &group["lag"]), (&"empty".into(), &0.into()));
    assert_eq!(node.stop(), Some(0));
}
