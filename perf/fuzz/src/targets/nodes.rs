//! What nodes tell each other beside the messages of Raft groups: beacons, commands passed on to
//! the leader, what a partition holds; and the answers.
//!
//! The first byte of the input chooses: a message, or an answer. Checked: what was read is written
//! as something that reads the same, and is told from a message of a group.

use std::collections::BTreeSet;

use barrage_cluster::beacon::{Beacon, Board, Replica};
use barrage_cluster::format::message::is_message;
use barrage_cluster::message::{Answer, Bounds, Message, Outcome};
use barrage_model::{
    NodeId, Offset, PartitionId, PartitionKey, ProducerId, ShardId, Term, TopicId,
};
use bytes::Bytes;

use super::history;
use crate::meter::aside;
use crate::target::{LARGE_BYTES, Seed, Target, Verdict, no_extra};

pub(super) const TARGET: Target =
    Target { name: "nodes", input_bytes_max: 16 * 1024, run, memory_extra: no_extra, seeds, large };

fn run(input: &[u8]) -> Verdict {
    let Some((&kind, bytes)) = input.split_first() else { return Verdict::Refused };
    let feed = if kind % 2 == 0 { message } else { answer };
    let right = aside(|| history::repaired(bytes));
    feed(bytes);
    Verdict::from(feed(&right))
}

fn message(bytes: &[u8]) -> bool {
    let Ok(message) = Message::decode(bytes) else { return false };
    assert!(is_message(bytes), "a message would go to a group");
    aside(|| {
        assert_eq!(Message::decode(&message.encode()).as_ref(), Ok(&message));
        if let Message::Beacon(beacon) = message {
            let mut board = Board::default();
            board.hear(beacon.clone(), 5);
            board.hear(beacon, 6);
        }
    });
    true
}

fn answer(bytes: &[u8]) -> bool {
    let Ok(answer) = Answer::decode(bytes) else { return false };
    aside(|| assert_eq!(Answer::decode(&answer.encode()), Ok(answer)));
    true
}

fn replica(shard: u32) -> Replica {
    let nodes = |ids: &[u64]| ids.iter().copied().map(NodeId).collect::<BTreeSet<_>>();
    Replica {
        shard: ShardId(shard),
        term: Term(3),
        leads: true,
        leader: Some(NodeId(1)),
        voters: nodes(&[1, 2, 3]),
        learners: nodes(&[4]),
        in_sync: nodes(&[1, 2]),
        agreed: 7,
        seeding: None,
        changing: true,
        damaged: false,
    }
}

fn beacon(shards: u32) -> Message {
    Message::Beacon(Beacon {
        node: NodeId(1),
        life: 2,
        number: 3,
        peer_address: "a:7500".to_owned(),
        core_addresses: vec!["a:7400".to_owned(), "a:7401".to_owned()],
        revision: 7,
        replicas: (0..shards).map(replica).collect(),
        lives: [(NodeId(2), 5), (NodeId(3), 6)].into(),
    })
}

fn described(count: u64) -> Answer {
    let bounds =
        |start| Bounds { start_offset: Offset(start), high_watermark: Offset(9), bytes: 100 };
    Answer::Described((0..count).map(|n| (n % 2 == 0).then(|| bounds(n))).collect())
}

fn seeds() -> Vec<Seed> {
    let key = PartitionKey { topic: TopicId(1), partition: PartitionId(2) };
    let messages = [
        beacon(2),
        beacon(0),
        Message::Propose(Bytes::from_static(b"command")),
        Message::Describe(vec![key]),
    ];
    let proposed = |outcome| Answer::Proposed { revision: 7, outcome };
    let answers = [
        Answer::Heard,
        proposed(Outcome::Done),
        proposed(Outcome::Topic(TopicId(1))),
        proposed(Outcome::Producers { first: ProducerId(5), count: 1000 }),
        proposed(Outcome::Node(NodeId(4))),
        described(3),
        Answer::Refused { code: 4, reason: "not the leader".to_owned() },
    ];
    let seed = |kind: u8, name: String, bytes: &[u8]| (name, [&[kind], bytes].concat());
    let mut seeds = Vec::new();
    seeds.extend((0..).zip(messages).map(|(n, m)| seed(0, format!("message-{n}"), &m.encode())));
    seeds.extend((0..).zip(answers).map(|(n, a)| seed(1, format!("answer-{n}"), &a.encode())));
    seeds
}

/// A beacon of many shards, and an answer about many partitions.
fn large() -> Vec<Seed> {
    let beacon = beacon((LARGE_BYTES / 160) as u32).encode();
    let described = described((LARGE_BYTES / 32) as u64).encode();
    vec![
        ("beacon".to_owned(), [&[0], &beacon[..]].concat()),
        ("described".to_owned(), [&[1], &described[..]].concat()),
    ]
}
