//! Connections that do nothing: they cost little and go when their time is over.

use std::io::Read;
use std::net::TcpStream;
use std::time::{Duration, Instant};

use crate::node::{Home, Node, numbers};

const CONNECTIONS: usize = 400;
/// What a silent connection may cost the node, in bytes.
const CONNECTION_BYTES_MAX: u64 = 16 * 1024;

#[test]
fn silent_connections_cost_little_and_are_closed() {
    let home = Home::new();
    let node = Node::start(&home, &["--cores", "1"]);
    node.run(&["topic", "create", "numbers"]);
    let before = node.memory();
    let began = Instant::now();
    let mut silent: Vec<TcpStream> =
        (0..CONNECTIONS).map(|_| TcpStream::connect(node.address()).unwrap()).collect();
    let lines = numbers(1, 1000);
    node.feed(&["produce", "numbers"], lines.as_bytes());
    let cost = node.memory().saturating_sub(before);
    // The produce itself warms pools up; that is no cost of the connections.
    let allowed = CONNECTION_BYTES_MAX * CONNECTIONS as u64 + (32 << 20);
    assert!(cost < allowed, "{CONNECTIONS} silent connections cost {cost} bytes");
    for stream in &mut silent {
        stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        let mut byte = [0];
        let closed = stream.read(&mut byte).map_or(true, |count| count == 0);
        assert!(closed, "a silent connection got a byte");
    }
    let waited = began.elapsed();
    assert!(waited >= Duration::from_secs(4), "closed before the handshake's time was over");
    assert!(waited < Duration::from_secs(15), "closed only after {waited:?}");
    node.await_log("no handshake in time");
}

#[test]
fn the_idle_timeout_can_be_set() {
    let home = Home::new();
    let node = Node::start(&home, &["--cores", "1", "--set", "limits.handshake_timeout=500ms"]);
    let mut silent = TcpStream::connect(node.address()).unwrap();
    silent.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    let mut byte = [0];
    assert_eq!(silent.read(&mut byte).unwrap(), 0);
}
