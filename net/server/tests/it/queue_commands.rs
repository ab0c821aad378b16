//! Queue groups from the command line: made, received from, settled by printed receipts, consumed;
//! what is delivered too often lies in the dead-letter topic.

use serde_json::Value;

use crate::node::{Home, Node, numbers, words};

fn text(output: Vec<u8>) -> String {
    String::from_utf8(output).unwrap()
}

fn json(node: &Node, args: &[&str]) -> Value {
    serde_json::from_slice(&node.run(args)).unwrap()
}

fn receive(node: &Node, count: &str) -> Vec<Value> {
    let args = ["queue", "receive", "orders", "workers", "-n", count, "--wait", "20s"];
    let received = json(node, &[&args[..], &["-o", "json"]].concat());
    received.as_array().unwrap().clone()
}

fn receipt(received: &Value) -> String {
    received["receipt"].as_str().unwrap().to_owned()
}

fn described(node: &Node) -> [u64; 4] {
    let group = json(node, &["group", "describe", "orders", "workers", "-o", "json"]);
    ["visible", "leased", "delayed", "dying"].map(|count| group[count].as_u64().unwrap())
}

#[test]
fn records_are_received_settled_and_dead_lettered() {
    let home = Home::new();
    let node = Node::start(&home, &["--cores", "1"]);
    node.run(&["topic", "create", "orders"]);
    let create = ["group", "create", "orders", "workers", "--max-deliveries", "2"];
    let made = node.client(&create).args(["--dead-letter", "orders.dead"]).output().unwrap();
    assert!(made.status.success(), "{}", words(&made));
    let said = text(made.stderr);
    assert!(said.contains("created topic orders.dead"), "{said}");
    let again = node.client(&["group", "create", "orders", "workers"]).output().unwrap();
    assert_eq!(again.status.code(), Some(6), "{}", words(&again));
    let timed = node.client(&["group", "create", "orders", "s", "--from", "@-10m"]).output();
    let timed = timed.unwrap();
    assert_eq!(timed.status.code(), Some(2), "{}", words(&timed));
    assert!(words(&timed).contains("start or end"), "{}", words(&timed));

    node.feed(&["produce", "orders"], numbers(1, 5).as_bytes());
    let received = receive(&node, "3");
    let first = &received[0];
    assert_eq!(first["value"], "1");
    assert_eq!((&first["partition"], &first["offset"]), (&0.into(), &0.into()));
    assert_eq!((&first["key"], &first["delivery_count"]), (&Value::Null, &1.into()));
    assert!(first["first_delivered_ms"].as_u64().unwrap() > 0, "{first}");
    assert!(first["next_visible_time"].as_str().unwrap().ends_with('Z'), "{first}");
    assert_eq!(described(&node), [2, 3, 0, 0]);
    let [one, two, three] = [0, 1, 2].map(|at| receipt(&received[at]));
    node.run(&["queue", "extend", "orders", "workers", &two, "--visibility", "1m"]);
    node.run(&["queue", "ack", "orders", "workers", &one, &two]);
    node.run(&["queue", "nack", "orders", "workers", &three, "--delay", "0s"]);
    let peeked = text(node.run(&["queue", "peek", "orders", "workers"]));
    assert_eq!(peeked, "0-2\t3\n0-3\t4\n0-4\t5\n");
    let third = receive(&node, "1");
    assert_eq!((&third[0]["value"], &third[0]["delivery_count"]), (&"3".into(), &2.into()));
    let third = receipt(&third[0]);
    // A line for each that failed, beside one that works.
    let nack = ["queue", "nack", "orders", "workers", &three, &third, &one];
    let nack = node.client(&nack).output().unwrap();
    assert_eq!(nack.status.code(), Some(1), "{}", words(&nack));
    let said = text(nack.stderr);
    assert_eq!(said.lines().count(), 3, "{said}");
    assert!(said.contains(&format!("{three}: ")) && said.contains(&format!("{one}: ")), "{said}");
    assert!(!said.contains(&format!("{third}: ")), "{said}");

    let consume = ["consume", "orders", "--group", "workers", "--exit", "--format", "%p %o %v\\n"];
    assert_eq!(text(node.run(&[&consume[..], &["-n", "1"]].concat())), "0 3 4\n");
    assert_eq!(text(node.run(&consume)), "0 4 5\n");
    assert_eq!(text(node.run(&consume)), "");
    // It is on its way, and comes within a moment.
    let dead = ["consume", "orders.dead", "-n", "1", "--format", "%v %h\\n"];
    let dead = text(node.run(&dead));
    let told = "3 dead-letter-topic=orders,dead-letter-group=workers,dead-letter-partition=0,\
                dead-letter-offset=2,dead-letter-deliveries=2,dead-letter-reason=deliveries\n";
    assert_eq!(dead, told);
    assert_eq!(described(&node), [0, 0, 0, 0]);

    node.run(&["queue", "rewind", "orders", "workers", "--to", "3"]);
    assert_eq!(described(&node), [2, 0, 0, 0]);
    node.run(&["queue", "purge", "orders", "workers"]);
    assert_eq!(text(node.run(&["queue", "receive", "orders", "workers"])), "");
    node.run(&["group", "alter", "orders", "workers", "--no-dead-letter", "--backoff", "1s..5m"]);
    let listed = json(&node, &["group", "ls", "orders", "-o", "json"]);
    assert_eq!(listed[0]["backoff"], "1s..5m");
    assert_eq!((&listed[0]["dead_letter"], &listed[0]["kind"]), (&Value::Null, &"queue".into()));
    node.run(&["group", "rm", "orders", "workers"]);
    let gone = node.client(&["queue", "receive", "orders", "workers"]).output().unwrap();
    assert_eq!(gone.status.code(), Some(3), "{}", words(&gone));
}

#[test]
fn records_are_wanted_for_a_while_only() {
    let home = Home::new();
    let node = Node::start(&home, &["--cores", "1"]);
    node.run(&["topic", "create", "orders"]);
    let bad = ["group", "create", "orders", "old", "--max-age", "1ms"];
    let bad = node.client(&bad).output().unwrap();
    assert_eq!(bad.status.code(), Some(2), "{}", words(&bad));
    let create = ["group", "create", "orders", "old", "--dead-letter", "orders.old"];
    let made = node.client(&[&create[..], &["--max-age", "1s"]].concat()).output().unwrap();
    let said = text(made.stderr);
    assert!(said.contains("for 1s, then to orders.old"), "{said}");
    node.run(&["group", "create", "orders", "ever"]);
    node.feed(&["produce", "orders"], b"one\ntwo\n");
    let dead = ["consume", "orders.old", "-n", "2", "--format", "%v %h\\n"];
    let dead = text(node.run(&dead));
    let count = dead.matches("dead-letter-deliveries=0,dead-letter-reason=expired").count();
    assert_eq!(count, 2, "{dead}");
    node.run(&["group", "alter", "orders", "old", "--max-age", "unlimited"]);
    let listed = json(&node, &["group", "ls", "orders", "-o", "json"]);
    let max_ages: Vec<_> =
        listed.as_array().unwrap().iter().map(|row| &row["max_age_ms"]).collect();
    assert_eq!(max_ages, [&Value::Null, &Value::Null]);

    node.feed(&["produce", "orders", "--ttl", "1ms"], b"short\n");
    node.feed(&["produce", "orders", "--ttl", "1h"], b"long\n");
    let receive = |group| {
        let receive = ["queue", "receive", "orders", group, "-n", "9", "-o", "json"];
        let received = json(&node, &receive);
        let values = received.as_array().unwrap().iter().map(|row| row["value"].to_string());
        values.collect::<Vec<_>>()
    };
    assert_eq!(receive("ever"), ["\"one\"", "\"two\"", "\"long\""]);
    assert_eq!(receive("old"), ["\"long\""]);
    let letters = ["consume", "orders.old", "-n", "3", "--format", "%v %h\\n"];
    let letters = text(node.run(&letters));
    assert!(letters.contains("dead-letter-ttl-ms=1,"), "{letters}");
}
