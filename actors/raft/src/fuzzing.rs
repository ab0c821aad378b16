//! The parsers of this crate, for the fuzz targets; no part of its interface.
//!
//! Each type is one structure, read by the code that reads it in production. What was read can be
//! written and read again.

use std::collections::BTreeSet;

use barrage_commitlog::{Entry, EntryKind, Pieces};
use barrage_model::{LogId, LogIndex, NodeId, ShardId, Term};
use bytes::Bytes;
use openraft::raft::{AppendEntriesRequest, AppendEntriesResponse, VoteRequest, VoteResponse};

use crate::format;
use crate::format::rpc::{self, Answer, Request, Route, SeedAsk};
use crate::vocabulary::{
    CommittedLeaderId, Membership, Meta, RaftEntry, RaftLogId, RaftVote, StoredMembership,
    to_raft_entry,
};

/// A membership entry.
#[derive(Debug, PartialEq, Eq)]
pub struct Voters(Membership);

impl Voters {
    /// Reads the whole entry's command.
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        format::decode_membership(bytes).ok().map(Self)
    }

    /// The command's bytes.
    pub fn encode(&self) -> Option<Vec<u8>> {
        format::encode_membership(&self.0).ok()
    }
}

/// A checkpoint's head; the machine's part is opaque here.
#[derive(Debug, PartialEq, Eq)]
pub struct Checkpoint<'a> {
    membership: StoredMembership,
    parts: Vec<&'a [u8]>,
}

impl<'a> Checkpoint<'a> {
    /// Reads the whole checkpoint.
    pub fn decode(bytes: &'a [u8]) -> Option<Self> {
        let (membership, parts) = format::decode_checkpoint(bytes).ok()?;
        Some(Self { membership, parts })
    }

    /// The whole checkpoint.
    pub fn encode(&self) -> Option<Vec<u8>> {
        let parts: Vec<Vec<u8>> = self.parts.iter().map(|part| part.to_vec()).collect();
        format::encode_checkpoint(&self.membership, &parts).ok()
    }
}

/// A message between replicas.
pub struct Message {
    kind: MessageKind,
}

enum MessageKind {
    Request(Route, Request),
    Answer(Answer),
}

impl Message {
    /// Reads a request to this replica, or an answer.
    pub fn decode(bytes: &Bytes, shard: ShardId, to: NodeId) -> Option<Self> {
        let kind = match rpc::decode_request(bytes, shard, to) {
            Ok((from, request)) => MessageKind::Request(Route { shard, from, to }, request),
            Err(_) => MessageKind::Answer(rpc::decode_answer(bytes).ok()?),
        };
        Some(Self { kind })
    }

    /// The message's bytes.
    pub fn encode(&self) -> Option<Bytes> {
        match &self.kind {
            MessageKind::Request(route, request) => {
                rpc::encode_request(*route, request).ok().map(Pieces::into_bytes)
            }
            MessageKind::Answer(answer) => rpc::encode_answer(answer).ok(),
        }
    }
}

/// The shard of [`messages`].
pub const SHARD: ShardId = ShardId(3);
/// To whom the requests of [`messages`] go.
pub const TO: NodeId = NodeId(2);
const FROM: NodeId = NodeId(1);

fn id(term: u64, index: u64) -> RaftLogId {
    RaftLogId::new(CommittedLeaderId::from(term), index)
}

fn changing() -> Membership {
    Membership::new_with_defaults(vec![BTreeSet::from([1, 2]), BTreeSet::from([2, 3])], [7])
}

/// Memberships: none, three voters, one that changes, with a learner.
pub fn memberships() -> Vec<Voters> {
    let three = Membership::new_with_defaults(vec![BTreeSet::from([1, 2, 3])], []);
    [Membership::default(), three, changing()].map(Voters).into()
}

/// A membership of so many voters and learners.
pub fn membership_of(voters: u64, learners: u64) -> Voters {
    let voters = vec![(0..voters).collect()];
    Voters(Membership::new_with_defaults(voters, 1 << 40..(1 << 40) + learners))
}

/// Checkpoints: an empty one, and one of `machine`.
pub fn checkpoints(machine: &[u8]) -> Vec<Checkpoint<'_>> {
    let membership = StoredMembership::new(Some(id(3, 9)), changing());
    let empty = Checkpoint { membership: StoredMembership::default(), parts: Vec::new() };
    vec![empty, Checkpoint { membership, parts: vec![machine, &[]] }]
}

/// One message of every kind; the append carries `command` and what stands beside it.
pub fn messages(command: Entry) -> Vec<Message> {
    let leader = RaftVote::new_committed(4, FROM.0);
    let at = |index| LogId { term: Term(4), index: LogIndex(index) };
    let entries = [Entry { id: at(7), ..command }, membership_entry(at(8))];
    let entries: Vec<RaftEntry> =
        entries.into_iter().filter_map(|entry| to_raft_entry(entry).ok()).collect();
    let append = |previous, entries| {
        let leader_commit = Some(id(3, 5));
        let prev_log_id = previous;
        Request::Append(AppendEntriesRequest { vote: leader, prev_log_id, entries, leader_commit })
    };
    let vote = || VoteRequest::new(RaftVote::new(4, FROM.0), Some(id(3, 6)));
    let membership = StoredMembership::new(Some(id(3, 9)), changing());
    let checkpoint = format::encode_checkpoint(&membership, &[b"machine".to_vec()]);
    let checkpoint = checkpoint.unwrap_or_default();
    let meta = Meta { last_log_id: Some(id(4, 9)), last_membership: membership };
    let requests = [
        append(None, Vec::new()),
        append(Some(id(3, 6)), entries),
        Request::Vote(vote()),
        Request::PreVote(vote()),
        Request::Transfer(openraft::raft::TransferLeaderRequest::new(leader, TO.0, None)),
        Request::Checkpoint { vote: leader, meta, bytes: Bytes::from(checkpoint) },
        Request::Seed { vote: leader, ask: SeedAsk::Plan { previous: None } },
        Request::Seed {
            vote: leader,
            ask: SeedAsk::Entries { start: LogIndex(4), end: LogIndex(9) },
        },
        Request::Seed {
            vote: leader,
            ask: SeedAsk::Committed { start: LogIndex(4), end: LogIndex(9) },
        },
    ];
    let answers = [
        Answer::Append(AppendEntriesResponse::Success),
        Answer::Append(AppendEntriesResponse::PartialSuccess(Some(id(3, 7)))),
        Answer::Append(AppendEntriesResponse::Conflict),
        Answer::Append(AppendEntriesResponse::HigherVote(leader)),
        Answer::Vote(VoteResponse::new(leader, Some(id(3, 6)), true)),
        Answer::Transfer(Ok(())),
        Answer::Checkpoint(leader),
        Answer::Refused("closing".to_owned()),
        Answer::SeedElsewhere(Some(TO)),
        Answer::SeedEntries(Bytes::from_static(b"entries")),
        Answer::SeedDamaged,
    ];
    let route = Route { shard: SHARD, from: FROM, to: TO };
    let requests = requests.map(|request| MessageKind::Request(route, request));
    let answers = answers.map(MessageKind::Answer);
    requests.into_iter().chain(answers).map(|kind| Message { kind }).collect()
}

/// An append of `count` entries like this one.
pub fn append_of(command: Entry, count: u64) -> Message {
    let leader = RaftVote::new_committed(4, FROM.0);
    let entry = |index| {
        let id = LogId { term: Term(4), index: LogIndex(index) };
        to_raft_entry(Entry { id, ..command.clone() }).ok()
    };
    let request = Request::Append(AppendEntriesRequest {
        vote: leader,
        prev_log_id: None,
        entries: (0..count).filter_map(entry).collect(),
        leader_commit: None,
    });
    Message { kind: MessageKind::Request(Route { shard: SHARD, from: FROM, to: TO }, request) }
}

fn membership_entry(id: LogId) -> Entry {
    let command = Bytes::from(format::encode_membership(&changing()).unwrap_or_default());
    Entry { id, kind: EntryKind::Membership, log_time_ms: 0, command, runs: Vec::new() }
}
