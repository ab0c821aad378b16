//! Stopping, and what is found on the disk afterwards.

use std::fs;
use std::path::PathBuf;

use serde_json::Value;

use crate::node::{Home, Node, barrage, numbers};

fn verify(home: &Home) -> (Option<i32>, Value) {
    let output = barrage(&["verify", home.data().to_str().unwrap(), "-o", "json"]);
    (output.status.code(), serde_json::from_slice(&output.stdout).unwrap())
}

#[test]
fn a_stopped_node_is_clean_and_a_changed_byte_is_found() {
    let home = Home::new();
    let node = Node::start(&home, &["--cores", "1"]);
    node.run(&["topic", "create", "numbers"]);
    node.feed(&["produce", "numbers"], numbers(1, 20_000).as_bytes());
    assert_eq!(node.stop(), Some(0));
    let (code, report) = verify(&home);
    assert_eq!(code, Some(0), "{report}");
    let partition = &report["partitions"][0];
    assert_eq!(partition["first_offset"], 0, "{report}");
    assert_eq!(partition["next_offset"], 20_000, "{report}");
    let segments = report["segments"].as_array().unwrap();
    let written = |segment: &&Value| segment["data_end"].as_u64() > segment["data_start"].as_u64();
    let segment =
        segments.iter().filter(written).max_by_key(|segment| segment["data_end"].as_u64());
    let segment = segment.unwrap();
    let path = PathBuf::from(segment["path"].as_str().unwrap());
    let (start, end) = (&segment["data_start"], &segment["data_end"]);
    let middle = usize::try_from((start.as_u64().unwrap() + end.as_u64().unwrap()) / 2).unwrap();
    let mut bytes = fs::read(&path).unwrap();
    bytes[middle] ^= 1;
    fs::write(&path, &bytes).unwrap();
    let (code, report) = verify(&home);
    assert_eq!(code, Some(1), "{report}");
    assert_eq!(report["damage"][0]["path"].as_str().unwrap(), path.to_str().unwrap());
}

#[test]
fn a_node_stops_while_consumers_wait() {
    let home = Home::new();
    let node = Node::start(&home, &["--cores", "2"]);
    node.run(&["topic", "create", "numbers", "--partitions", "2"]);
    let mut waiting = node.client(&["consume", "numbers", "--from", "end"]).spawn().unwrap();
    std::thread::sleep(std::time::Duration::from_millis(300));
    assert_eq!(node.stop(), Some(0));
    waiting.kill().unwrap();
    waiting.wait().unwrap();
}
