//! What goes in comes out: by one partition in order, by several in order per partition, with
//! every compression, and again after a restart.

use crate::node::{Home, Node, numbers};

const COUNT: u32 = 100_000;

#[test]
fn one_partition_returns_the_lines_in_order() {
    let home = Home::new();
    let node = Node::start(&home, &["--cores", "1"]);
    node.run(&["topic", "create", "numbers"]);
    let lines = numbers(1, COUNT);
    node.feed(&["produce", "numbers"], lines.as_bytes());
    let consumed = node.run(&["consume", "numbers", "--from", "start", "--exit"]);
    assert!(consumed == lines.as_bytes(), "the lines differ");
    assert_eq!(node.stop(), Some(0));
    let node = Node::start(&home, &["--cores", "1"]);
    let consumed = node.run(&["consume", "numbers", "--from", "start", "--exit"]);
    assert!(consumed == lines.as_bytes(), "the lines differ after a restart");
    let last = node.run(&["consume", "numbers", "--from", "99999", "--exit"]);
    assert_eq!(last, b"100000\n");
}

#[test]
fn several_partitions_return_the_same_set() {
    let home = Home::new();
    let node = Node::start(&home, &["--cores", "2"]);
    node.run(&["topic", "create", "numbers", "--partitions", "4"]);
    node.feed(&["produce", "numbers"], numbers(1, COUNT).as_bytes());
    let consume = ["consume", "numbers", "--from", "start", "--exit", "--format", "%p %v\\n"];
    let consumed = String::from_utf8(node.run(&consume)).unwrap();
    let mut last = [0_u32; 4];
    let mut seen = Vec::new();
    for line in consumed.lines() {
        let (partition, value) = line.split_once(' ').unwrap();
        let (partition, value): (usize, u32) = (partition.parse().unwrap(), value.parse().unwrap());
        assert!(value > last[partition], "partition {partition} is out of order at {value}");
        last[partition] = value;
        seen.push(value);
    }
    seen.sort_unstable();
    assert!(seen.into_iter().eq(1..=COUNT), "the set differs");
}

#[test]
fn every_compression_returns_the_same_bytes() {
    let home = Home::new();
    let node = Node::start(&home, &["--cores", "1"]);
    let lines: String =
        (0..20_000).map(|at| format!("line {at} {}\n", "x".repeat(at % 90))).collect();
    for compression in ["none", "gzip", "snappy", "lz4", "zstd"] {
        node.run(&["topic", "create", compression]);
        let produce = ["produce", compression, "--compression", compression];
        node.feed(&produce, lines.as_bytes());
        let consumed = node.run(&["consume", compression, "--from", "start", "--exit"]);
        assert!(consumed == lines.as_bytes(), "{compression}: the lines differ");
    }
}

#[test]
fn topics_are_listed_described_altered_and_removed() {
    let home = Home::new();
    let node = Node::start(&home, &["--cores", "1"]);
    node.run(&["topic", "create", "orders", "--partitions", "3", "--retention", "1d"]);
    let again = node.client(&["topic", "create", "orders"]).output().unwrap();
    assert_eq!(again.status.code(), Some(6), "{again:?}");
    let described = node.run(&["topic", "describe", "orders", "-o", "json"]);
    let described: serde_json::Value = serde_json::from_slice(&described).unwrap();
    assert_eq!(described["partitions"].as_array().unwrap().len(), 3, "{described}");
    node.run(&["topic", "alter", "orders", "--retention", "unlimited"]);
    let listed = String::from_utf8(node.run(&["topic", "ls"])).unwrap();
    assert!(listed.contains("orders"), "{listed}");
    assert!(listed.contains("unlimited"), "{listed}");
    node.run(&["topic", "rm", "orders"]);
    let gone = node.client(&["topic", "describe", "orders"]).output().unwrap();
    assert_eq!(gone.status.code(), Some(3), "{gone:?}");
    let consume = node.client(&["consume", "orders", "--exit"]).output().unwrap();
    assert_eq!(consume.status.code(), Some(3), "{consume:?}");
}
