//! Priorities: what is urgent is had first, however much lies before it.

use serde_json::Value;

use crate::node::{Home, Node, numbers, words};

#[test]
fn the_urgent_come_first() {
    let home = Home::new();
    let node = Node::start(&home, &["--cores", "2"]);
    node.run(&["topic", "create", "jobs", "--partitions", "7", "--priorities", "3"]);
    node.run(&["group", "create", "jobs", "workers"]);
    let produce = |priority: &str, first, last| {
        node.feed(&["produce", "jobs", "--priority", priority], numbers(first, last).as_bytes());
    };
    let consume = |count: &str| -> Vec<u32> {
        let text = node.run(&["consume", "jobs", "--group", "workers", "--exit", "-n", count]);
        let text = String::from_utf8(text).unwrap();
        text.lines().map(|line| line.parse().unwrap()).collect()
    };
    produce("0", 1, 2_000);
    produce("2", 3_001, 3_100);
    produce("1", 2_001, 2_100);
    // Keys keep to the level as well; what is above the highest is of that.
    let keyed = ["produce", "jobs", "--priority", "9", "--key-separator", ":"];
    node.feed(&keyed, b"a:3101\nb:3102\nc:3103\nd:3104\n");
    let levels: Vec<u32> = consume("304").iter().map(|value| value / 1_000).collect();
    let counted = |level| levels.iter().filter(|it| **it == level).count();
    assert_eq!(counted(3), 104);
    assert!(levels.is_sorted_by(|before, after| before >= after), "{levels:?}");
    // What comes later is not behind what waits.
    produce("2", 3_201, 3_210);
    let next = consume("10");
    assert!(next.iter().all(|value| *value > 3_200), "{next:?}");
    assert_eq!(consume("2000").len(), 1_900);

    let topic: Value =
        serde_json::from_slice(&node.run(&["topic", "describe", "jobs", "-o", "json"])).unwrap();
    assert_eq!(topic["priorities"], 3);
    // By default a level has one partition.
    node.run(&["topic", "create", "wide", "--priorities", "10"]);
    let args = ["topic", "create", "narrow", "--partitions", "2", "--priorities", "3"];
    let refused = node.client(&args).output().unwrap();
    assert_eq!(refused.status.code(), Some(2), "{}", words(&refused));
    assert!(words(&refused).contains("3 priorities"), "{}", words(&refused));
    assert_eq!(node.stop(), Some(0));
}
