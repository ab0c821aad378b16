//! Many requests at once on one connection: order, bounds, and readers that do not read.

use std::time::{Duration, Instant};

use barrage_model::Offset;
use barrage_wire::{Acks, Correlation, FetchRequest, ProduceRequest, Request, Response};
use bytes::BytesMut;

use crate::node::{Home, Node};
use crate::peer::{Peer, batch};

#[test]
fn pipelined_batches_are_appended_in_the_order_they_were_sent() {
    const COUNT: u32 = 5000;
    let home = Home::new();
    let node = Node::start(&home, &["--cores", "2", "--set", "limits.in_flight_requests=64"]);
    node.run(&["topic", "create", "numbers"]);
    let mut peer = Peer::greeted(&node);
    let key = peer.key("numbers");
    let mut bytes = BytesMut::new();
    for number in 0..COUNT {
        let batch = batch(&number.to_le_bytes());
        let request = ProduceRequest { key, acks: Acks::Quorum, timeout_ms: 0, batch: &batch };
        Request::Produce(request).encode(Correlation(number), &mut bytes);
    }
    peer.send(&bytes);
    for _ in 0..COUNT {
        let frame = peer.reply().unwrap();
        let reply = Response::decode(&frame.header, &frame.body).unwrap();
        let Response::Produce(produced) = reply else { panic!("{reply:?}") };
        assert_eq!(produced.base_offset, Offset(u64::from(frame.header.correlation.0)));
    }
}

#[test]
fn frames_up_to_the_limit_pass_however_they_arrive() {
    let home = Home::new();
    let node = Node::start(&home, &["--cores", "1"]);
    node.run(&["topic", "create", "numbers"]);
    let mut peer = Peer::greeted(&node);
    let key = peer.key("numbers");
    for (number, size) in [1, 200, 40_000, 1 << 20, 3 << 20].into_iter().enumerate() {
        let batch = batch(&vec![7; size]);
        let request = ProduceRequest { key, acks: Acks::All, timeout_ms: 0, batch: &batch };
        let mut bytes = BytesMut::new();
        Request::Produce(request).encode(Correlation(1), &mut bytes);
        // In pieces that meet no boundary of ours.
        for piece in bytes.chunks(99_991) {
            peer.send(piece);
        }
        let frame = peer.reply().unwrap();
        assert_eq!(frame.header.detail, 0, "{frame:?}");
        let fetch = FetchRequest {
            key,
            offset: Offset(number as u64),
            bytes_max: 1,
            bytes_min: 1,
            wait_ms: 1000,
        };
        peer.request(2, &Request::Fetch(fetch));
        let frame = peer.reply().unwrap();
        let reply = Response::decode(&frame.header, &frame.body).unwrap();
        let Response::Fetch(fetched) = reply else { panic!("{reply:?}") };
        // The client's bytes come back, but for what the server stamps.
        assert!(fetched.batches[16..] == batch[16..], "batch {number} differs");
    }
}

#[test]
fn who_does_not_read_is_closed_and_nobody_else_notices() {
    let home = Home::new();
    let node = Node::start(&home, &["--cores", "1", "--set", "limits.write_timeout=1s"]);
    node.run(&["topic", "create", "numbers"]);
    let mut peer = Peer::greeted(&node);
    let key = peer.key("numbers");
    let batch = batch(&vec![7; 4 << 20]);
    let request = ProduceRequest { key, acks: Acks::Quorum, timeout_ms: 0, batch: &batch };
    peer.request(1, &Request::Produce(request));
    assert_eq!(peer.reply().unwrap().header.detail, 0);
    let mut deaf = Peer::greeted(&node);
    for number in 0..100 {
        let (offset, bytes_max) = (Offset(0), u32::MAX);
        let fetch = FetchRequest { key, offset, bytes_max, bytes_min: 0, wait_ms: 0 };
        deaf.request(number, &Request::Fetch(fetch));
    }
    let began = Instant::now();
    while !node.log().contains("replies were not taken in time") {
        peer.request(5, &Request::Ping);
        assert_eq!(peer.reply().unwrap().header.correlation, Correlation(5));
        assert!(began.elapsed() < Duration::from_secs(10), "{}", node.log());
    }
    assert!(node.memory() < 400 << 20, "{} bytes in use", node.memory());
}
