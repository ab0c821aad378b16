//! `kill -9` while producing: everything acknowledged is there afterwards, once, where it was said
//! to be. `CRASH_CYCLES` in the environment makes it longer.

use std::collections::BTreeMap;
use std::fs;
use std::io::Write;
use std::process::Stdio;
use std::thread;
use std::time::Duration;

use crate::node::{Home, Node, barrage, words};

const CYCLES: u32 = 5;
const LINES_PER_CYCLE: u32 = 600_000;

/// Produces lines that no other cycle has, kills the node meanwhile, returns what was acknowledged
/// as (partition, offset) -> line.
fn cycle(home: &Home, node: Node, cycle: u32, run_ms: u64) -> BTreeMap<(u32, u64), String> {
    let receipts = home.path(&format!("receipts-{cycle}"));
    let mut produce = node.client(&["produce", "numbers", "--timeout", "1s"]);
    produce.arg("--receipts").arg(&receipts);
    produce.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null());
    let mut produce = produce.spawn().unwrap();
    let mut stdin = produce.stdin.take().unwrap();
    let writer = thread::spawn(move || {
        for line in 1..=LINES_PER_CYCLE {
            // Fails when the client has given up, as it must.
            if writeln!(stdin, "{cycle}-{line}").is_err() {
                break;
            }
        }
    });
    thread::sleep(Duration::from_millis(run_ms));
    node.kill();
    drop(produce.wait());
    drop(writer.join());
    let text = fs::read_to_string(&receipts).unwrap();
    let mut acknowledged = BTreeMap::new();
    for receipt in text.lines() {
        let fields: Vec<&str> = receipt.split_whitespace().collect();
        // The client may have been in the middle of its last line.
        let [partition, offset, line] = fields[..] else { continue };
        let place = (partition.parse().unwrap(), offset.parse().unwrap());
        acknowledged.insert(place, format!("{cycle}-{line}"));
    }
    acknowledged
}

#[test]
fn what_was_acknowledged_survives_a_kill() {
    let cycles = std::env::var("CRASH_CYCLES").map_or(CYCLES, |text| text.parse().unwrap());
    let home = Home::new();
    let mut node = Node::start(&home, &["--cores", "2"]);
    node.run(&["topic", "create", "numbers", "--partitions", "4"]);
    let mut acknowledged = BTreeMap::new();
    for at in 0..cycles {
        let run_ms = 150 + u64::from(at * 197 % 700);
        let more = cycle(&home, node, at, run_ms);
        for (place, line) in more {
            let before = acknowledged.insert(place, line);
            assert_eq!(before, None, "offset {place:?} was acknowledged twice");
        }
        node = Node::start(&home, &["--cores", if at % 2 == 0 { "1" } else { "2" }]);
    }
    assert!(!acknowledged.is_empty(), "nothing was acknowledged in any cycle");
    let consume = ["consume", "numbers", "--from", "start", "--exit", "--format", "%p %o %v\\n"];
    let text = String::from_utf8(node.run(&consume)).unwrap();
    let mut found = BTreeMap::new();
    let mut lines = BTreeMap::new();
    for row in text.lines() {
        let fields: Vec<&str> = row.split(' ').collect();
        let place: (u32, u64) = (fields[0].parse().unwrap(), fields[1].parse().unwrap());
        found.insert(place, fields[2].to_owned());
        let twice = lines.insert(fields[2].to_owned(), place);
        assert_eq!(twice, None, "{} is there twice", fields[2]);
    }
    for (place, line) in &acknowledged {
        assert_eq!(found.get(place), Some(line), "at {place:?}");
    }
    assert_eq!(node.stop(), Some(0));
    let verified = barrage(&["verify", home.data().to_str().unwrap()]);
    assert!(verified.status.success(), "{}{}", words(&verified), stdout(&verified));
}

fn stdout(output: &std::process::Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}
