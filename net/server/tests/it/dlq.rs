//! Dead letters from the command line: counted, looked at, redriven by name, all, or removed.

use std::collections::BTreeSet;
use std::process::Output;

use serde_json::Value;

use crate::node::{Home, Node, numbers, words};

fn dlq(node: &Node, command: &str, more: &[&str]) -> Output {
    let args = [&["dlq", command, "orders", "workers"], more].concat();
    node.client(&args).output().unwrap()
}

fn json(output: Output) -> Value {
    assert!(output.status.success(), "{}", words(&output));
    serde_json::from_slice(&output.stdout).unwrap()
}

fn letters(node: &Node) -> [u64; 3] {
    let listing = json(dlq(node, "ls", &["-o", "json"]));
    ["letters", "held", "on_their_way"].map(|count| listing[count].as_u64().unwrap())
}

/// Leases all that is visible; the values, and the receipts.
fn receive(node: &Node) -> (BTreeSet<String>, Vec<String>) {
    let args = ["queue", "receive", "orders", "workers", "-n", "500", "--wait", "20s"];
    let received = node.run(&[&args[..], &["-o", "json"]].concat());
    let received: Vec<Value> = serde_json::from_slice(&received).unwrap();
    let text = |one: &Value, key: &str| one[key].as_str().unwrap().to_owned();
    let values = received.iter().map(|one| text(one, "value")).collect();
    (values, received.iter().map(|one| text(one, "receipt")).collect())
}

#[test]
fn dead_letters_are_redriven_and_removed() {
    let home = Home::new();
    let node = Node::start(&home, &["--cores", "1"]);
    node.run(&["topic", "create", "orders", "--partitions", "2"]);
    node.run(&["group", "create", "orders", "other"]);
    let none = node.client(&["dlq", "ls", "orders", "other"]).output().unwrap();
    assert!(words(&none).contains("has no dead-letter topic"), "{}", words(&none));
    let unknown = node.client(&["dlq", "ls", "orders", "nobody"]).output().unwrap();
    assert_eq!(unknown.status.code(), Some(3), "{}", words(&unknown));
    let create = ["group", "create", "orders", "workers", "--max-deliveries", "1"];
    node.run(&[&create[..], &["--dead-letter", "dead"]].concat());
    assert_eq!(letters(&node), [0, 0, 0]);

    node.feed(&["produce", "orders"], numbers(1, 300).as_bytes());
    let (values, receipts) = receive(&node);
    let receipts = receipts.iter().map(String::as_str);
    let nack: Vec<&str> = ["queue", "nack", "orders", "workers", "--delay", "0s"].into();
    node.run(&nack.into_iter().chain(receipts).collect::<Vec<_>>());
    while letters(&node)[0] < 300 {
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
    let peeked = json(dlq(&node, "peek", &["-n", "3", "-o", "json"]));
    assert_eq!(peeked.as_array().unwrap().len(), 3, "{peeked}");

    // Nothing is done with what was only looked at, and it can be had at once.
    let dry = json(dlq(&node, "redrive", &["--all", "--dry-run", "-o", "json"]));
    assert_eq!((&dry["chosen"], &dry["done"]), (&300.into(), &0.into()));
    assert_eq!(letters(&node), [300, 0, 0]);
    let two = json(dlq(&node, "redrive", &["0-4", "0-250", "-o", "json"]));
    assert_eq!((&two["chosen"], &two["done"]), (&2.into(), &2.into()));
    let again = dlq(&node, "redrive", &["0-4"]);
    assert_eq!(again.status.code(), Some(1), "{}", words(&again));
    assert!(words(&again).contains("0-4: not there"), "{}", words(&again));
    let from = ["--where", "dead-letter-offset=9", "--rate", "1000", "-o", "json"];
    let some = json(dlq(&node, "redrive", &from));
    let count = some["done"].as_u64().unwrap();
    assert!((1..=2).contains(&count), "{some}");
    assert_eq!(letters(&node), [298 - count, 0, 0]);
    let (redriven, _) = receive(&node);
    assert_eq!(redriven.len() as u64, count + 2);
    assert!(redriven.is_subset(&values));

    let five = json(dlq(&node, "rm", &["--all", "-n", "5", "-o", "json"]));
    assert_eq!(five["done"], 5);
    let rest = json(dlq(&node, "rm", &["--all", "-o", "json"]));
    assert_eq!(rest["done"].as_u64().unwrap(), 293 - count);
    assert_eq!(letters(&node), [0, 0, 0]);
    assert_eq!(json(dlq(&node, "peek", &["-o", "json"])), Value::Array(Vec::new()));
}
