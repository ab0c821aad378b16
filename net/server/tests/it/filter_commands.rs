//! Filters of queue groups from the command line: set, shown, changed, refused.

use serde_json::Value;

use crate::node::{Home, Node, words};

fn text(output: Vec<u8>) -> String {
    String::from_utf8(output).unwrap()
}

fn json(node: &Node, args: &[&str]) -> Value {
    serde_json::from_slice(&node.run(args)).unwrap()
}

/// What a group is given until there is nothing more, sorted.
fn consumed(node: &Node, group: &str) -> Vec<String> {
    let printed = text(node.run(&["consume", "stock", "--group", group, "--exit"]));
    let mut values: Vec<String> = printed.lines().map(str::to_owned).collect();
    values.sort_unstable();
    values
}

#[test]
fn groups_get_what_their_filters_let_through() {
    let home = Home::new();
    let node = Node::start(&home, &["--cores", "2"]);
    node.run(&["topic", "create", "stock", "--partitions", "3"]);
    let create = |group: &str, filter: &str| {
        node.run(&["group", "create", "stock", group, "--filter", filter]);
    };
    create("tags", "tags: sold || new");
    create("keys", "keys:stock.*.new");
    create("headers", "headers:price > 10");
    create("all", "*");
    let produce = |value: &str, flags: &[&str]| {
        node.feed(&[&["produce", "stock"], flags].concat(), format!("{value}\n").as_bytes());
    };
    produce("apple", &["--tag", "new", "--routing-key", "stock.apple.new"]);
    produce("pear", &["--tag", "old", "--tag", "sold", "--header", "price=10"]);
    produce("plum", &["--header", "price=10.5", "--compression", "zstd"]);
    produce("fig", &["--routing-key", "stock.fig.old", "--header", "price=dear"]);
    produce("nut", &[]);
    assert_eq!(consumed(&node, "tags"), ["apple", "pear"]);
    assert_eq!(consumed(&node, "keys"), ["apple"]);
    assert_eq!(consumed(&node, "headers"), ["plum"]);
    assert_eq!(consumed(&node, "all"), ["apple", "fig", "nut", "pear", "plum"]);

    let listed = json(&node, &["group", "ls", "stock", "-o", "json"]);
    let filters: Vec<&str> =
        listed.as_array().unwrap().iter().map(|group| group["filter"].as_str().unwrap()).collect();
    assert_eq!(filters, ["*", "headers:price > 10", "keys:stock.*.new", "tags:new || sold"]);
    let described =
        text(node.client(&["group", "describe", "stock", "tags"]).output().unwrap().stderr);
    assert!(described.contains("filter tags:new || sold"), "{described}");
    node.run(&["group", "alter", "stock", "tags", "--filter", "headers:price IS NULL"]);
    let described = json(&node, &["group", "describe", "stock", "tags", "-o", "json"]);
    assert_eq!(described["filter"], "headers:price IS NULL");
    assert_eq!((&described["visible"], &described["leased"]), (&0.into(), &0.into()));
    node.run(&["queue", "rewind", "stock", "tags", "--to", "start"]);
    assert_eq!(consumed(&node, "tags"), ["apple", "nut"]);
    // What is not named stays.
    node.run(&["group", "alter", "stock", "tags", "--visibility", "5s"]);
    node.run(&["group", "alter", "stock", "headers", "--filter", "*"]);
    let listed = json(&node, &["group", "ls", "stock", "-o", "json"]);
    assert_eq!(
        (&listed[1]["filter"], &listed[3]["filter"]),
        (&"*".into(), &"headers:price IS NULL".into())
    );

    for (filter, want) in [
        (
            "headers:price >",
            "filter: expression: expected a value or a header, found the end at byte 7",
        ),
        ("price > 10", "filter: a filter is * or begins with tags:, keys: or headers:"),
    ] {
        for args in [["group", "create", "stock", "bad"], ["group", "alter", "stock", "tags"]] {
            let refused = node.client(&args).args(["--filter", filter]).output().unwrap();
            assert_eq!(refused.status.code(), Some(2), "{}", words(&refused));
            assert!(words(&refused).contains(want), "{}", words(&refused));
        }
    }
    let now = json(&node, &["group", "ls", "stock", "-o", "json"]);
    assert_eq!(now, listed);
    let stream = ["group", "create", "stock", "s", "--kind", "stream", "--filter", "tags:a"];
    let stream = node.client(&stream).output().unwrap();
    assert_eq!(stream.status.code(), Some(2), "{}", words(&stream));
    assert_eq!(node.stop(), Some(0));
}
