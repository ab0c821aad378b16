//! Peers that do not speak the protocol, or speak it wrongly: a typed error or a close, nothing
//! allocated that they claim, and nothing that anybody else notices.

use std::io::Write;
use std::net::TcpStream;

use barrage_wire::{
    Acks, Correlation, ErrorCode, FrameHeader, Hello, Opcode, ProduceRequest, Request,
};
use bytes::BytesMut;

use crate::node::{Home, Node, numbers};
use crate::peer::{Peer, batch};

fn header(length: u32, opcode: u16, version: u16) -> BytesMut {
    let mut bytes = BytesMut::new();
    let correlation = Correlation(77);
    FrameHeader { length, opcode, detail: version, correlation }.encode(&mut bytes);
    bytes
}

#[test]
fn whoever_does_not_shake_hands_is_closed() {
    let home = Home::new();
    let node = Node::start(&home, &["--cores", "1"]);
    for garbage in [
        &b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"[..],
        &[0xff; 64],
        &[0; 64],
        &header(16 << 20, 1, 1),
        &header(8 << 10, 16, 1)[..4],
    ] {
        let mut peer = Peer::connect(&node);
        peer.send(garbage);
        // A claim within the limit is waited for, until the handshake's time is over.
        while peer.reply().is_some() {}
    }
    node.await_log("connection closed");
    let mut early = Peer::connect(&node);
    early.request(1, &Request::Ping);
    assert_eq!(early.error(), ErrorCode::HandshakeRequired);
    let mut newer = Peer::connect(&node);
    let hello = Hello { version_min: 9, version_max: 9, client_name: String::new() };
    newer.request(1, &Request::Hello(hello));
    assert_eq!(newer.error(), ErrorCode::UnsupportedVersion);
    assert!(newer.reply().is_none(), "the connection goes on");
    Peer::greeted(&node);
}

#[test]
fn wrong_requests_get_typed_errors() {
    let home = Home::new();
    let node = Node::start(&home, &["--cores", "1"]);
    node.run(&["topic", "create", "numbers"]);
    let mut other = Peer::greeted(&node);
    let mut peer = Peer::greeted(&node);
    peer.send(&header(8, 999, 1));
    assert_eq!(peer.error(), ErrorCode::UnknownOpcode);
    peer.send(&header(8, Opcode::Ping.request_code(), 9));
    assert_eq!(peer.error(), ErrorCode::UnsupportedVersion);
    peer.send(&header(8, Opcode::Fetch.request_code(), 1));
    assert_eq!(peer.error(), ErrorCode::Malformed);
    let mut claim = header(12, Opcode::Metadata.request_code(), 1);
    claim.extend_from_slice(&u32::MAX.to_le_bytes());
    peer.send(&claim);
    assert_eq!(peer.error(), ErrorCode::Malformed);
    produce_wrongly(&mut peer);
    // After all this the connection still works; after an oversized claim it is closed.
    peer.request(5, &Request::Ping);
    assert_eq!(peer.reply().unwrap().header.correlation, Correlation(5));
    let before = node.memory();
    peer.send(&header(u32::MAX, Opcode::Produce.request_code(), 1));
    assert_eq!(peer.error(), ErrorCode::FrameTooLarge);
    assert!(peer.reply().is_none(), "the connection goes on");
    assert!(node.memory() < before + (8 << 20), "the claim was allocated");
    other.request(6, &Request::Ping);
    assert_eq!(other.reply().unwrap().header.correlation, Correlation(6));
}

/// A batch that is none, and one whose checksum is wrong.
fn produce_wrongly(peer: &mut Peer) {
    let key = peer.key("numbers");
    let mut damaged = batch(b"value");
    let last = damaged.len() - 1;
    damaged[last] ^= 1;
    for batch in [&b"no batch"[..], &damaged] {
        let request = ProduceRequest { key, acks: Acks::Quorum, timeout_ms: 1000, batch };
        peer.request(3, &Request::Produce(request));
        assert_eq!(peer.error(), ErrorCode::InvalidBatch);
    }
    let good = batch(b"value");
    let request = ProduceRequest { key, acks: Acks::Quorum, timeout_ms: 0, batch: &good };
    peer.request(4, &Request::Produce(request));
    let frame = peer.reply().unwrap();
    assert_eq!(frame.header.detail, 0, "{frame:?}");
}

#[test]
fn a_producer_does_not_notice_its_neighbours() {
    let home = Home::new();
    let node = Node::start(&home, &["--cores", "1"]);
    node.run(&["topic", "create", "numbers"]);
    let address = node.address();
    let noise = std::thread::spawn(move || {
        for round in 0..200_u32 {
            let mut stream = TcpStream::connect(&address).unwrap();
            let noise: Vec<u8> = (0..512_u32).map(|at| (at * 31 + round * 7) as u8).collect();
            drop(stream.write_all(&noise));
        }
    });
    let lines = numbers(1, 50_000);
    node.feed(&["produce", "numbers"], lines.as_bytes());
    noise.join().unwrap();
    let consumed = node.run(&["consume", "numbers", "--from", "start", "--exit"]);
    assert!(consumed == lines.as_bytes(), "the lines differ");
}
