//! Wrong flags, settings and circumstances: a clear word and the right exit code.

use std::fs;
use std::net::TcpListener;

use crate::node::{Home, Node, barrage, words};

fn check(args: &[&str], exit: i32, expected: &str) {
    let output = barrage(args);
    assert_eq!(output.status.code(), Some(exit), "{args:?}: {}", words(&output));
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(said.contains(expected), "{args:?}: `{said}` does not contain `{expected}`");
}

#[test]
fn wrong_flags_are_usage_errors() {
    let home = Home::new();
    let data = home.data();
    let data = data.to_str().unwrap();
    check(&["start", "--no-such-flag"], 2, "--no-such-flag");
    check(&["start", "--data", data, "--set", "storage.segment_sise=1"], 2, "storage.segment_size");
    check(&["start", "--data", data, "--set", "storage"], 2, "KEY=VALUE");
    check(&["start", "--data", data, "--cores", "0"], 2, "--cores");
    check(&["start", "--data", data, "--cores", "9999"], 2, "--cores");
    check(&["start", "--data", data, "--listen", "nowhere"], 2, "HOST:PORT");
    check(&["start", "--data", data, "--listen", "0.0.0.0:0"], 2, "--insecure");
    check(&["start", "--data", data, "--memory", "lots"], 2, "--memory");
    check(&["verify", data], 1, data);
}

#[test]
fn a_wrong_setting_is_told_with_file_and_line() {
    let home = Home::new();
    let file = home.path("barrage.toml");
    fs::write(&file, "listen = \"127.0.0.1:0\"\n\n[storage]\nsegment_sise = \"1GiB\"\n").unwrap();
    let file = file.to_str().unwrap();
    check(&["start", "--config", file], 2, &format!("{file}:4: unknown key"));
    check(&["start", "--config", "/no/such/file.toml"], 2, "/no/such/file.toml");
}

#[test]
fn what_is_in_use_is_a_conflict() {
    let home = Home::new();
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let data = home.data();
    let data = data.to_str().unwrap();
    check(&["start", "--data", data, "--listen", &address], 6, "is in use");
    let port = taken.local_addr().unwrap().port().to_string();
    let free = ["start", "--data", data, "--listen", "127.0.0.1:0"];
    check(&[&free[..], &["--core-ports", &port]].concat(), 6, "is in use");
    let node = Node::start(&home, &["--cores", "1"]);
    check(&free, 6, "is in use");
    check(&["verify", data], 6, "is in use");
    // The first one is not touched by any of this.
    node.run(&["topic", "create", "still-there"]);
}

#[test]
fn an_unreachable_server_has_its_own_code() {
    let output = barrage(&["topic", "ls", "--server", "127.0.0.1:1"]);
    assert_eq!(output.status.code(), Some(5), "{}", words(&output));
}

#[test]
fn doctor_tells_every_check() {
    let home = Home::new();
    let output = barrage(&["doctor", "--data", home.data().to_str().unwrap()]);
    assert!(output.status.success(), "{}", words(&output));
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(said.contains("io_uring"), "{said}");
}
