//! The same data is served by another number of cores, and every core answers for all of them.

use crate::node::{Home, Node, numbers};

fn consumed(node: &Node) -> Vec<u32> {
    let bytes = node.run(&["consume", "numbers", "--from", "start", "--exit"]);
    let mut values: Vec<u32> =
        String::from_utf8(bytes).unwrap().lines().map(|line| line.parse().unwrap()).collect();
    values.sort_unstable();
    values
}

#[test]
fn another_count_of_cores_serves_the_same_data() {
    let home = Home::new();
    let node = Node::start(&home, &["--cores", "2"]);
    assert_eq!(node.ready()["cores"].as_array().unwrap().len(), 2);
    node.run(&["topic", "create", "numbers", "--partitions", "4"]);
    node.feed(&["produce", "numbers"], numbers(1, 1000).as_bytes());
    assert_eq!(node.stop(), Some(0));
    let node = Node::start(&home, &["--cores", "1"]);
    assert!(consumed(&node).into_iter().eq(1..=1000), "one core serves something else");
    node.feed(&["produce", "numbers"], numbers(1001, 2000).as_bytes());
    node.kill();
    let node = Node::start(&home, &["--cores", "2"]);
    assert!(consumed(&node).into_iter().eq(1..=2000), "two cores serve something else");
}

#[test]
fn without_core_ports_everything_goes_over_the_shared_address() {
    let home = Home::new();
    let node = Node::start(&home, &["--cores", "2", "--core-ports", "off"]);
    assert_eq!(node.ready()["cores"].as_array().unwrap().len(), 0);
    node.run(&["topic", "create", "numbers", "--partitions", "4"]);
    node.feed(&["produce", "numbers"], numbers(1, 1000).as_bytes());
    assert!(consumed(&node).into_iter().eq(1..=1000), "the set differs");
}
