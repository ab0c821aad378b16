//! The words of openraft and ours, side by side: the type configuration and the conversions.
//!
//! Owns: `Types`, short names for openraft's projections, and the mapping of log ids, votes and
//! entries. Converting an entry moves it: payload bytes are never copied here.
//!
//! Must never: hold state or do I/O.

use barrage_commitlog as commitlog;
use barrage_model::{LogIndex, NodeId, Term};
use bytes::Bytes;
use openraft::impls::leader_id_std;
use openraft::storage::{Snapshot as RaftSnapshot, SnapshotMeta};
use openraft::vote::RaftLeaderId;

use crate::format;
use crate::machine::Reply;
use crate::proposal::{Proposal, ReplySender};
use crate::runtime::WorldRuntime;

/// What openraft is instantiated with. Replies are erased, so that openraft is compiled once.
#[derive(Debug, Clone, Copy, Default, Eq, PartialEq, Ord, PartialOrd)]
pub(crate) struct Types;

impl openraft::RaftTypeConfig for Types {
    type D = Proposal;
    type R = Reply;
    type NodeId = u64;
    type Node = openraft::EmptyNode;
    type Term = u64;
    type LeaderId = LeaderId;
    type Vote = RaftVote;
    type Payload = RaftPayload;
    type Entry = RaftEntry;
    type AsyncRuntime = WorldRuntime;
    type Responder<T: 'static> = ReplySender<T>;
    type Batch<T: 'static> = openraft::impls::InlineBatch<T>;
    type ErrorSource = openraft::impls::BoxedErrorSource;
}

pub(crate) type LeaderId = leader_id_std::LeaderId<u64, u64>;
pub(crate) type CommittedLeaderId = <LeaderId as RaftLeaderId>::Committed;
pub(crate) type RaftLogId = openraft::LogId<CommittedLeaderId>;
pub(crate) type RaftVote = openraft::Vote<LeaderId>;
pub(crate) type RaftPayload = openraft::EntryPayload<Proposal, u64, openraft::EmptyNode>;
pub(crate) type RaftEntry = openraft::Entry<CommittedLeaderId, RaftPayload>;
pub(crate) type Membership = openraft::Membership<u64, openraft::EmptyNode>;
pub(crate) type StoredMembership =
    openraft::StoredMembership<CommittedLeaderId, u64, openraft::EmptyNode>;
pub(crate) type Meta = SnapshotMeta<CommittedLeaderId, u64, openraft::EmptyNode>;
pub(crate) type Snapshot = RaftSnapshot<CommittedLeaderId, u64, openraft::EmptyNode, Bytes>;

/// Entries that openraft itself writes carry no time of their own: on every replica they must be
/// the same bytes, and openraft gives them no field for it.
const NO_LOG_TIME_MS: i64 = 0;

pub(crate) fn to_raft_log_id(id: barrage_model::LogId) -> RaftLogId {
    RaftLogId::new(CommittedLeaderId::from(id.term.0), id.index.0)
}

pub(crate) fn from_raft_log_id(id: &RaftLogId) -> barrage_model::LogId {
    barrage_model::LogId { term: Term(id.leader_id.term), index: LogIndex(id.index) }
}

pub(crate) fn to_raft_vote(vote: commitlog::Vote) -> RaftVote {
    if vote.committed {
        RaftVote::new_committed(vote.term.0, vote.node.0)
    } else {
        RaftVote::new(vote.term.0, vote.node.0)
    }
}

pub(crate) fn from_raft_vote(vote: &RaftVote) -> commitlog::Vote {
    commitlog::Vote {
        term: Term(vote.leader_id.term),
        node: NodeId(vote.leader_id.voted_for),
        committed: vote.committed,
    }
}

pub(crate) fn to_raft_entry(entry: commitlog::Entry) -> Result<RaftEntry, format::FormatError> {
    let payload = match entry.kind {
        commitlog::EntryKind::Blank => RaftPayload::Blank,
        commitlog::EntryKind::Command => RaftPayload::Normal(Proposal {
            command: entry.command,
            runs: entry.runs,
            log_time_ms: entry.log_time_ms,
        }),
        commitlog::EntryKind::Membership => {
            RaftPayload::Membership(format::decode_membership(&entry.command)?)
        }
    };
    Ok(RaftEntry { log_id: to_raft_log_id(entry.id), payload })
}

pub(crate) fn from_raft_entry(entry: RaftEntry) -> Result<commitlog::Entry, format::FormatError> {
    let id = from_raft_log_id(&entry.log_id);
    let (kind, proposal) = match entry.payload {
        RaftPayload::Normal(proposal) => (commitlog::EntryKind::Command, proposal),
        RaftPayload::Blank => (commitlog::EntryKind::Blank, internal(Bytes::new())),
        RaftPayload::Membership(membership) => (
            commitlog::EntryKind::Membership,
            internal(Bytes::from(format::encode_membership(&membership)?)),
        ),
    };
    Ok(commitlog::Entry {
        id,
        kind,
        log_time_ms: proposal.log_time_ms,
        command: proposal.command,
        runs: proposal.runs,
    })
}

fn internal(command: Bytes) -> Proposal {
    Proposal { command, runs: Vec::new(), log_time_ms: NO_LOG_TIME_MS }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests fail by panicking")]

    use std::collections::BTreeSet;

    use super::*;

    fn check(payload: RaftPayload) {
        let log_id = RaftLogId::new(CommittedLeaderId::from(3), 7);
        let entry = RaftEntry { log_id, payload };
        let stored = from_raft_entry(entry.clone()).unwrap();
        let back = to_raft_entry(stored.clone()).unwrap();
        assert_eq!(back.log_id, entry.log_id);
        let again = from_raft_entry(back).unwrap();
        assert_eq!(again.kind, stored.kind);
        assert_eq!(again.log_time_ms, stored.log_time_ms);
        assert_eq!(again.command, stored.command);
        assert_eq!(again.runs.len(), stored.runs.len());
    }

    #[test]
    fn entries_survive_the_round_trip() {
        check(RaftPayload::Blank);
        check(RaftPayload::Normal(Proposal {
            command: Bytes::from_static(b"command"),
            runs: Vec::new(),
            log_time_ms: 5,
        }));
        let voters = vec![BTreeSet::from([1, 2, 3]), BTreeSet::from([3, 4])];
        check(RaftPayload::Membership(Membership::new_with_defaults(voters, [9])));
        check(RaftPayload::Membership(Membership::default()));
    }

    #[test]
    fn votes_survive_the_round_trip() {
        for vote in [RaftVote::new(4, 2), RaftVote::new_committed(4, 2)] {
            assert_eq!(to_raft_vote(from_raft_vote(&vote)), vote);
        }
    }
}
