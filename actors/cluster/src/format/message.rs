//! Messages between nodes as bytes, in the envelope of the module above, version 1.
//!
//! Owns: their stored form, and how they are told from the messages of Raft groups by their first
//! byte. Must never: hand out a beacon with more rows or nodes than a cluster can have.
//! Invariants: variants are only ever appended, and none is larger than the largest before it.

use std::collections::BTreeSet;

use barrage_model::{
    NodeId, Offset, PartitionId, PartitionKey, ProducerId, Sequence, ShardId, Term, TopicId,
};
use bytes::Bytes;
use rkyv::{Archive, Deserialize, Serialize};

use super::{FormatError, Kind, decode, open, seal};
use crate::beacon::{Beacon, Replica};
use crate::message::{Answer, Appended, Bounds, Message, Outcome};

const VERSION: u8 = 1;

#[derive(Archive, Serialize, Deserialize)]
struct ReplicaV1 {
    shard: u32,
    term: u64,
    leads: bool,
    leader: Option<u64>,
    voters: Vec<u64>,
    learners: Vec<u64>,
    in_sync: Vec<u64>,
    agreed: u64,
    seeding: Option<u64>,
    damaged: bool,
    changing: bool,
}

#[derive(Archive, Serialize, Deserialize)]
struct BeaconV1 {
    node: u64,
    life: u64,
    number: u64,
    peer_address: String,
    core_addresses: Vec<String>,
    revision: u64,
    replicas: Vec<ReplicaV1>,
    lives: Vec<(u64, u64)>,
}

#[derive(Archive, Serialize, Deserialize)]
enum MessageV1 {
    Beacon(Box<BeaconV1>),
    Propose(Vec<u8>),
    Describe(Vec<(u64, u32)>),
    Append(Box<AppendV1>),
}

#[derive(Archive, Serialize, Deserialize)]
struct AppendV1 {
    topic: u64,
    partition: u32,
    batch: Vec<u8>,
}

#[derive(Archive, Serialize, Deserialize)]
enum OutcomeV1 {
    Done,
    Topic(u64),
    Producers { first: i64, count: u32 },
    Node(u64),
}

#[derive(Archive, Serialize, Deserialize)]
enum AnswerV1 {
    Heard,
    Proposed {
        revision: u64,
        outcome: OutcomeV1,
    },
    Described(Vec<Option<(u64, u64, u64)>>),
    Refused {
        code: u8,
        reason: String,
    },
    /// 0 stored, 1 of a producer that is not known, anything else not now.
    Appended(u8),
    /// Out of sequence: the one that is expected.
    Expected(i32),
}

/// The roots lie at the end of the bytes: larger ones would move, and an older node's messages
/// could not be read. What a new variant has beyond this goes into a box or a list.
const _: () = assert!(size_of::<ArchivedMessageV1>() == 9);
const _: () = assert!(size_of::<ArchivedAnswerV1>() == 22);

/// Whether bytes are a message between nodes, and not one between the replicas of a shard.
#[must_use]
pub fn is_message(bytes: &[u8]) -> bool {
    bytes.first() == Some(&(Kind::Message as u8))
}

impl Message {
    /// The message as bytes.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let stored = match self {
            Self::Beacon(beacon) => MessageV1::Beacon(Box::new(store_beacon(beacon))),
            Self::Propose(command) => MessageV1::Propose(command.to_vec()),
            Self::Describe(keys) => {
                MessageV1::Describe(keys.iter().map(|key| (key.topic.0, key.partition.0)).collect())
            }
            Self::Append { key, batch } => MessageV1::Append(Box::new(AppendV1 {
                topic: key.topic.0,
                partition: key.partition.0,
                batch: batch.to_vec(),
            })),
        };
        seal(Kind::Message, VERSION, &stored)
    }

    /// The message in `bytes`.
    ///
    /// # Errors
    /// When they are not what [`Message::encode`] makes.
    pub fn decode(bytes: &[u8]) -> Result<Self, FormatError> {
        let (version, payload) = open(Kind::Message, bytes)?;
        if version != VERSION {
            return Err(FormatError::Version { found: version });
        }
        Ok(match decode::<MessageV1>(payload)? {
            MessageV1::Beacon(beacon) => Self::Beacon(load_beacon(*beacon)),
            MessageV1::Propose(command) => Self::Propose(Bytes::from(command)),
            MessageV1::Describe(keys) => {
                let key = |(topic, number)| PartitionKey {
                    topic: TopicId(topic),
                    partition: PartitionId(number),
                };
                Self::Describe(keys.into_iter().map(key).collect())
            }
            MessageV1::Append(append) => {
                let AppendV1 { topic, partition, batch } = *append;
                let (topic, partition) = (TopicId(topic), PartitionId(partition));
                Self::Append { key: PartitionKey { topic, partition }, batch: Bytes::from(batch) }
            }
        })
    }
}

impl Answer {
    /// The answer as bytes.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let stored = match self {
            Self::Heard => AnswerV1::Heard,
            Self::Proposed { revision, outcome } => AnswerV1::Proposed {
                revision: *revision,
                outcome: match outcome {
                    Outcome::Done => OutcomeV1::Done,
                    Outcome::Topic(topic) => OutcomeV1::Topic(topic.0),
                    Outcome::Producers { first, count } => {
                        OutcomeV1::Producers { first: first.0, count: *count }
                    }
                    Outcome::Node(node) => OutcomeV1::Node(node.0),
                },
            },
            Self::Described(all) => {
                let store = |bounds: &Bounds| {
                    (bounds.start_offset.0, bounds.high_watermark.0, bounds.bytes)
                };
                AnswerV1::Described(all.iter().map(|found| found.as_ref().map(store)).collect())
            }
            Self::Appended(appended) => match appended {
                Appended::Stored => AnswerV1::Appended(0),
                Appended::OutOfSequence { expected: None } => AnswerV1::Appended(1),
                Appended::OutOfSequence { expected: Some(next) } => AnswerV1::Expected(next.0),
                Appended::NotNow => AnswerV1::Appended(2),
            },
            Self::Refused { code, reason } => {
                AnswerV1::Refused { code: *code, reason: reason.clone() }
            }
        };
        seal(Kind::Answer, VERSION, &stored)
    }

    /// The answer in `bytes`.
    ///
    /// # Errors
    /// When they are not what [`Answer::encode`] makes.
    pub fn decode(bytes: &[u8]) -> Result<Self, FormatError> {
        let (version, payload) = open(Kind::Answer, bytes)?;
        if version != VERSION {
            return Err(FormatError::Version { found: version });
        }
        Ok(match decode::<AnswerV1>(payload)? {
            AnswerV1::Heard => Self::Heard,
            AnswerV1::Proposed { revision, outcome } => Self::Proposed {
                revision,
                outcome: match outcome {
                    OutcomeV1::Done => Outcome::Done,
                    OutcomeV1::Topic(topic) => Outcome::Topic(TopicId(topic)),
                    OutcomeV1::Producers { first, count } => {
                        Outcome::Producers { first: ProducerId(first), count }
                    }
                    OutcomeV1::Node(node) => Outcome::Node(NodeId(node)),
                },
            },
            AnswerV1::Described(all) => {
                let load = |(start, end, bytes)| Bounds {
                    start_offset: Offset(start),
                    high_watermark: Offset(end),
                    bytes,
                };
                Self::Described(all.into_iter().map(|found| found.map(load)).collect())
            }
            AnswerV1::Refused { code, reason } => Self::Refused { code, reason },
            AnswerV1::Appended(code) => Self::Appended(match code {
                0 => Appended::Stored,
                1 => Appended::OutOfSequence { expected: None },
                _ => Appended::NotNow,
            }),
            AnswerV1::Expected(next) => {
                Self::Appended(Appended::OutOfSequence { expected: Some(Sequence(next)) })
            }
        })
    }
}

fn store_nodes(nodes: &BTreeSet<NodeId>) -> Vec<u64> {
    nodes.iter().map(|node| node.0).collect()
}

fn load_nodes(nodes: Vec<u64>) -> BTreeSet<NodeId> {
    nodes.into_iter().map(NodeId).collect()
}

fn store_beacon(beacon: &Beacon) -> BeaconV1 {
    let replica = |replica: &Replica| ReplicaV1 {
        shard: replica.shard.0,
        term: replica.term.0,
        leads: replica.leads,
        leader: replica.leader.map(|node| node.0),
        voters: store_nodes(&replica.voters),
        learners: store_nodes(&replica.learners),
        in_sync: store_nodes(&replica.in_sync),
        agreed: replica.agreed,
        seeding: replica.seeding,
        damaged: replica.damaged,
        changing: replica.changing,
    };
    BeaconV1 {
        node: beacon.node.0,
        life: beacon.life,
        number: beacon.number,
        peer_address: beacon.peer_address.clone(),
        core_addresses: beacon.core_addresses.clone(),
        revision: beacon.revision,
        replicas: beacon.replicas.iter().map(replica).collect(),
        lives: beacon.lives.iter().map(|(node, life)| (node.0, *life)).collect(),
    }
}

fn load_beacon(stored: BeaconV1) -> Beacon {
    let replica = |stored: ReplicaV1| Replica {
        shard: ShardId(stored.shard),
        term: Term(stored.term),
        leads: stored.leads,
        leader: stored.leader.map(NodeId),
        voters: load_nodes(stored.voters),
        learners: load_nodes(stored.learners),
        in_sync: load_nodes(stored.in_sync),
        agreed: stored.agreed,
        seeding: stored.seeding,
        damaged: stored.damaged,
        changing: stored.changing,
    };
    Beacon {
        node: NodeId(stored.node),
        life: stored.life,
        number: stored.number,
        peer_address: stored.peer_address,
        core_addresses: stored.core_addresses,
        revision: stored.revision,
        replicas: stored.replicas.into_iter().map(replica).collect(),
        lives: stored.lives.into_iter().map(|(node, life)| (NodeId(node), life)).collect(),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests fail by panicking")]
    #![allow(clippy::indexing_slicing, reason = "tests fail by panicking")]

    use super::*;

    fn messages() -> Vec<Message> {
        let node = |id| NodeId(id);
        let replica = Replica {
            shard: ShardId(3),
            term: Term(9),
            leads: true,
            leader: Some(node(2)),
            voters: BTreeSet::from([node(1), node(2), node(3)]),
            learners: BTreeSet::from([node(4)]),
            in_sync: BTreeSet::from([node(2)]),
            agreed: 77,
            seeding: Some(5),
            damaged: true,
            changing: true,
        };
        let beacon = Beacon {
            node: node(2),
            life: 1,
            number: 2,
            peer_address: "p:1".to_owned(),
            core_addresses: vec!["h:1".to_owned(), String::new()],
            revision: 8,
            replicas: vec![replica, Replica::default()],
            lives: [(node(1), 7), (node(3), 9)].into(),
        };
        let key = PartitionKey { topic: TopicId(1), partition: PartitionId(2) };
        vec![
            Message::Beacon(beacon),
            Message::Propose(Bytes::from_static(b"command")),
            Message::Describe(vec![key, key]),
            Message::Append { key, batch: Bytes::from_static(b"batch") },
        ]
    }

    fn answers() -> Vec<Answer> {
        let bounds = Bounds { start_offset: Offset(1), high_watermark: Offset(2), bytes: 3 };
        let proposed = |outcome| Answer::Proposed { revision: 4, outcome };
        vec![
            Answer::Heard,
            proposed(Outcome::Done),
            proposed(Outcome::Topic(TopicId(5))),
            proposed(Outcome::Producers { first: ProducerId(6), count: 7 }),
            proposed(Outcome::Node(NodeId(8))),
            Answer::Described(vec![None, Some(bounds)]),
            Answer::Refused { code: 3, reason: "why".to_owned() },
            Answer::Appended(Appended::Stored),
            Answer::Appended(Appended::OutOfSequence { expected: None }),
            Answer::Appended(Appended::OutOfSequence { expected: Some(Sequence(-7)) }),
            Answer::Appended(Appended::NotNow),
        ]
    }

    #[test]
    fn everything_survives_the_round_trip() {
        for message in messages() {
            let bytes = message.encode();
            assert!(is_message(&bytes));
            assert_eq!(Message::decode(&bytes).unwrap(), message);
            assert!(Answer::decode(&bytes).is_err());
        }
        for answer in answers() {
            assert_eq!(Answer::decode(&answer.encode()).unwrap(), answer);
        }
    }

    #[test]
    fn golden_bytes() {
        let message = Message::Propose(Bytes::from_static(b"abc")).encode();
        assert_eq!(&message[..8], &[32, 1, 0, 0, 12, 0, 0, 0]);
        assert_eq!(&message[12..], b"abc\x01\xfc\xff\xff\xff\x03\0\0\0");
        let answer = Answer::Refused { code: 3, reason: "why".to_owned() }.encode();
        assert_eq!(&answer[..8], &[33, 1, 0, 0, 22, 0, 0, 0]);
    }

    #[test]
    fn corrupt_bytes_are_errors() {
        let all = messages().iter().map(Message::encode).collect::<Vec<_>>();
        for bytes in all {
            for at in 0..bytes.len() {
                let mut broken = bytes.clone();
                broken[at] ^= 0x10;
                assert!(Message::decode(&broken).is_err());
                assert!(Message::decode(&bytes[..at]).is_err());
            }
        }
        for bytes in answers().iter().map(Answer::encode) {
            for at in 0..bytes.len() {
                let mut broken = bytes.clone();
                broken[at] ^= 0x10;
                assert!(Answer::decode(&broken).is_err());
                assert!(Answer::decode(&bytes[..at]).is_err());
            }
        }
    }
}
