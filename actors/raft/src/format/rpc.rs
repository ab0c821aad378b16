//! Messages between replicas: what a leader or candidate asks, what a peer answers.
//!
//! Owns: their bytes, inside the envelope of the module above.
//!
//! ```text
//! request:  rkyv of RequestV1;  behind the envelope, an append: per entry u32 length, bytes of the
//!           log, which carry checksums;  a checkpoint: its bytes, an envelope of their own
//! answer:   rkyv of AnswerV1; seeded entries: per entry u32 length, bytes of the log
//! ```
//! So payload is passed over once by whoever receives it, and by its sender not at all.
//!
//! Must never: trust a count or a length before it is compared with what is there; pass on a
//! message for another node or shard, or one that breaks what openraft takes for granted (entries
//! without holes, none newer than the sender's term, a checkpoint within the sender's term).

use barrage_commitlog::{Entry, Pieces};
use barrage_model::{LogId, LogIndex, NodeId, ShardId, Term};
use barrage_world::planted;
use bytes::Bytes;
use openraft::raft::{
    AppendEntriesRequest, AppendEntriesResponse, TransferLeaderError, TransferLeaderRequest,
    VoteRequest, VoteResponse,
};
use rkyv::rancor;

use super::{FormatError, LENGTH_SIZE, open, open_front, seal};
use crate::vocabulary::{
    CommittedLeaderId, Meta, RaftEntry, RaftLogId, RaftVote, Types, from_raft_entry, to_raft_entry,
};

const KIND_REQUEST: u8 = 3;
const KIND_ANSWER: u8 = 4;

/// A request, as the peer sees it.
pub(crate) enum Request {
    Append(AppendEntriesRequest<Types>),
    Vote(VoteRequest<Types>),
    PreVote(VoteRequest<Types>),
    Transfer(TransferLeaderRequest<Types>),
    Checkpoint {
        vote: RaftVote,
        meta: Meta,
        bytes: Bytes,
    },
    /// What is asked for while a replica is copied. `vote` is that of the plan it goes by; where a
    /// plan is asked for, the newest one that the replica gave.
    Seed {
        vote: RaftVote,
        ask: SeedAsk,
    },
}

/// What a replica asks for that is being copied.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum SeedAsk {
    /// What there is to copy behind the last entry that is here already. The number tells that
    /// entry from any other; 0 when it is not known.
    Plan { previous: Option<(LogId, u64)> },
    /// Entries of the range.
    Entries { start: LogIndex, end: LogIndex },
    /// A part of the checkpoint file at an index, or of the newest one.
    Checkpoint { index: Option<LogIndex>, position: u64 },
    /// Entries of the range that the peer knows to be committed, whoever leads.
    Committed { start: LogIndex, end: LogIndex },
}

/// A peer's answer.
#[derive(Debug)]
pub(crate) enum Answer {
    Append(AppendEntriesResponse<Types>),
    Vote(VoteResponse<Types>),
    Transfer(Result<(), TransferLeaderError<Types>>),
    Checkpoint(RaftVote),
    /// The peer cannot answer: its group has stopped, or the request is not for it.
    Refused(String),
    SeedPlan(SeedPlan),
    /// Entries as they lie in the log, each behind its length.
    SeedEntries(Bytes),
    SeedCheckpoint(SeedPiece),
    /// The peer does not lead; the node that does, as far as it knows.
    SeedElsewhere(Option<NodeId>),
    /// What was asked for is not there any more: a new plan is needed.
    SeedGone,
    /// What was asked for is damaged there, or was not given by a peer that does not lead.
    SeedDamaged,
}

/// What a leader has to give, at one moment in which it led for certain.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct SeedPlan {
    /// Its vote: the term it leads in.
    pub(crate) vote: RaftVote,
    /// Its log begins behind this.
    pub(crate) floor: Option<LogId>,
    /// Its last entry, committed or not.
    pub(crate) last: Option<LogId>,
    pub(crate) committed: Option<LogId>,
    /// Whether the entry that was named is in its log, and the pieces follow it. Else they start at
    /// the first entry there is.
    pub(crate) follows: bool,
    /// The first entry of the first piece.
    pub(crate) start: LogIndex,
    /// Where each piece ends.
    pub(crate) ends: Vec<LogIndex>,
}

/// A part of a checkpoint file.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct SeedPiece {
    /// `None` when the source never took a checkpoint.
    pub(crate) index: Option<LogIndex>,
    /// Bytes of the whole file.
    pub(crate) size: u64,
    /// The source's floor when the file was there already: what the file knows as refused is all
    /// that was refused behind this.
    pub(crate) floor: Option<LogId>,
    pub(crate) bytes: Bytes,
}

/// Between whom a request travels.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Route {
    pub(crate) shard: ShardId,
    pub(crate) from: NodeId,
    pub(crate) to: NodeId,
}

type IdV1 = (u64, u64);

#[derive(Clone, Copy, rkyv::Archive, rkyv::Serialize, rkyv::Deserialize)]
struct VoteV1 {
    term: u64,
    node: u64,
    committed: bool,
}

#[derive(rkyv::Archive, rkyv::Serialize, rkyv::Deserialize)]
struct RequestV1 {
    shard: u32,
    from: u64,
    to: u64,
    vote: VoteV1,
    body: RequestBodyV1,
}

#[derive(rkyv::Archive, rkyv::Serialize, rkyv::Deserialize)]
enum RequestBodyV1 {
    Append { previous: Option<IdV1>, commit: Option<IdV1>, count: u32 },
    Vote { last: Option<IdV1>, transfer: bool },
    PreVote { last: Option<IdV1>, transfer: bool },
    Transfer { last: Option<IdV1>, target: u64 },
    Checkpoint { last: Option<IdV1> },
    SeedPlan { previous: Option<(IdV1, u64)> },
    SeedEntries { start: u64, end: u64 },
    SeedCheckpoint { index: Option<u64>, position: u64 },
    SeedCommitted { start: u64, end: u64 },
}

#[derive(rkyv::Archive, rkyv::Serialize, rkyv::Deserialize)]
enum AnswerV1 {
    Appended,
    AppendedUpTo(Option<IdV1>),
    Conflict,
    HigherVote(VoteV1),
    Vote { vote: VoteV1, granted: bool, last: Option<IdV1> },
    Transferred,
    VoteChanged { expected: VoteV1, actual: VoteV1 },
    NotFlushed { expected: Option<IdV1>, actual: Option<IdV1> },
    Checkpoint(VoteV1),
    Refused(String),
    // Behind a pointer: a larger variant would change the bytes of all of them.
    SeedPlan(Box<SeedPlanV1>),
    SeedEntries(Vec<u8>),
    SeedCheckpoint(Box<SeedPieceV1>),
    SeedElsewhere(Option<u64>),
    SeedGone,
    SeedDamaged,
}

#[derive(rkyv::Archive, rkyv::Serialize, rkyv::Deserialize)]
struct SeedPlanV1 {
    vote: VoteV1,
    floor: Option<IdV1>,
    last: Option<IdV1>,
    committed: Option<IdV1>,
    follows: bool,
    start: u64,
    ends: Vec<u64>,
}

#[derive(rkyv::Archive, rkyv::Serialize, rkyv::Deserialize)]
struct SeedPieceV1 {
    index: Option<u64>,
    size: u64,
    floor: Option<IdV1>,
    bytes: Vec<u8>,
}

pub(crate) fn encode_request(route: Route, request: &Request) -> Result<Pieces, FormatError> {
    let (vote, body, tail) = match request {
        Request::Append(append) => {
            let body = RequestBodyV1::Append {
                previous: from_id(append.prev_log_id.as_ref()),
                commit: from_id(append.leader_commit.as_ref()),
                count: u32::try_from(append.entries.len())
                    .map_err(|_| FormatError::TooLarge(append.entries.len()))?,
            };
            (append.vote, body, encode_entries(route.shard, &append.entries)?)
        }
        Request::Vote(vote) => {
            let last = from_id(vote.last_log_id.as_ref());
            let body = RequestBodyV1::Vote { last, transfer: vote.leadership_transfer };
            (vote.vote, body, Pieces::default())
        }
        Request::PreVote(vote) => {
            let last = from_id(vote.last_log_id.as_ref());
            let body = RequestBodyV1::PreVote { last, transfer: vote.leadership_transfer };
            (vote.vote, body, Pieces::default())
        }
        Request::Transfer(transfer) => {
            // All replicas are told; only one of them is to lead.
            let target = *transfer.to_node_id();
            let body = RequestBodyV1::Transfer { last: from_id(transfer.last_log_id()), target };
            (*transfer.from_leader(), body, Pieces::default())
        }
        Request::Checkpoint { vote, meta, bytes } => {
            let body = RequestBodyV1::Checkpoint { last: from_id(meta.last_log_id.as_ref()) };
            (*vote, body, Pieces::from(bytes.clone()))
        }
        Request::Seed { vote, ask } => (*vote, from_seed_ask(ask), Pieces::default()),
    };
    let head = RequestV1 {
        shard: route.shard.0,
        from: route.from.0,
        to: route.to.0,
        vote: from_vote(&vote),
        body,
    };
    let head = rkyv::to_bytes::<rancor::Error>(&head).map_err(|_| FormatError::Body)?;
    let mut request = Pieces::default();
    request.copy(&seal(KIND_REQUEST, &[&head])?);
    request.append(tail);
    Ok(request)
}

/// The request, and who sent it. One for another replica is refused.
pub(crate) fn decode_request(
    bytes: &Bytes,
    shard: ShardId,
    to: NodeId,
) -> Result<(NodeId, Request), FormatError> {
    let (head, tail) = open_front(KIND_REQUEST, bytes)?;
    let head = rkyv::from_bytes::<RequestV1, rancor::Error>(head).map_err(|_| FormatError::Body)?;
    // Wrong when planted: a vote of another node is counted.
    let ours = head.to == to.0 || planted("raft-misrouted-request-accepted");
    if head.shard != shard.0 || !ours {
        return Err(FormatError::Elsewhere);
    }
    let vote = to_vote(head.vote);
    let tail = bytes.slice_ref(tail);
    let has_tail =
        matches!(head.body, RequestBodyV1::Append { .. } | RequestBodyV1::Checkpoint { .. });
    if !has_tail && !tail.is_empty() {
        return Err(FormatError::Body);
    }
    let request = match head.body {
        RequestBodyV1::Append { previous, commit, count } => {
            let previous = to_id(previous);
            let entries = decode_entries(shard, &tail, count)?;
            check_entries(&vote, previous.as_ref(), &entries)?;
            Request::Append(AppendEntriesRequest {
                vote,
                prev_log_id: previous,
                entries,
                leader_commit: to_id(commit),
            })
        }
        RequestBodyV1::Vote { last, transfer } => Request::Vote(to_ask(vote, last, transfer)),
        RequestBodyV1::PreVote { last, transfer } => Request::PreVote(to_ask(vote, last, transfer)),
        RequestBodyV1::Transfer { last, target } => {
            // Wrong when planted: everybody who is told stands for election.
            let target = if planted("raft-transfer-to-everybody") { to.0 } else { target };
            Request::Transfer(TransferLeaderRequest::new(vote, target, to_id(last)))
        }
        RequestBodyV1::Checkpoint { last } => {
            let last_log_id = to_id(last);
            if last_log_id.is_none_or(|last| last.leader_id.term > vote.leader_id.term) {
                return Err(FormatError::Body);
            }
            let (last_membership, _) = super::decode_checkpoint(&tail)?;
            Request::Checkpoint { vote, meta: Meta { last_log_id, last_membership }, bytes: tail }
        }
        RequestBodyV1::SeedPlan { previous } => {
            let previous = previous.map(|(id, fingerprint)| (to_log_id(id), fingerprint));
            Request::Seed { vote, ask: SeedAsk::Plan { previous } }
        }
        RequestBodyV1::SeedEntries { start, end } => {
            let (start, end) = to_range(start, end)?;
            Request::Seed { vote, ask: SeedAsk::Entries { start, end } }
        }
        RequestBodyV1::SeedCommitted { start, end } => {
            let (start, end) = to_range(start, end)?;
            Request::Seed { vote, ask: SeedAsk::Committed { start, end } }
        }
        RequestBodyV1::SeedCheckpoint { index, position } => {
            let index = index.map(LogIndex);
            Request::Seed { vote, ask: SeedAsk::Checkpoint { index, position } }
        }
    };
    Ok((NodeId(head.from), request))
}

pub(crate) fn encode_answer(answer: &Answer) -> Result<Bytes, FormatError> {
    let stored = match answer {
        Answer::Append(AppendEntriesResponse::Success) => AnswerV1::Appended,
        Answer::Append(AppendEntriesResponse::PartialSuccess(upto)) => {
            AnswerV1::AppendedUpTo(from_id(upto.as_ref()))
        }
        Answer::Append(AppendEntriesResponse::Conflict) => AnswerV1::Conflict,
        Answer::Append(AppendEntriesResponse::HigherVote(vote)) => {
            AnswerV1::HigherVote(from_vote(vote))
        }
        Answer::Vote(vote) => AnswerV1::Vote {
            vote: from_vote(&vote.vote),
            granted: vote.vote_granted,
            last: from_id(vote.last_log_id.as_ref()),
        },
        Answer::Transfer(Ok(())) => AnswerV1::Transferred,
        Answer::Transfer(Err(TransferLeaderError::VoteChanged { expected, actual })) => {
            AnswerV1::VoteChanged { expected: from_vote(expected), actual: from_vote(actual) }
        }
        Answer::Transfer(Err(TransferLeaderError::LogNotFlushed { expected, actual })) => {
            let (expected, actual) = (from_id(expected.as_ref()), from_id(actual.as_ref()));
            AnswerV1::NotFlushed { expected, actual }
        }
        Answer::Checkpoint(vote) => AnswerV1::Checkpoint(from_vote(vote)),
        Answer::Refused(reason) => AnswerV1::Refused(reason.clone()),
        Answer::SeedPlan(plan) => AnswerV1::SeedPlan(Box::new(from_plan(plan))),
        Answer::SeedEntries(bytes) => AnswerV1::SeedEntries(bytes.to_vec()),
        Answer::SeedCheckpoint(piece) => AnswerV1::SeedCheckpoint(Box::new(SeedPieceV1 {
            index: piece.index.map(|index| index.0),
            size: piece.size,
            floor: piece.floor.map(from_log_id),
            bytes: piece.bytes.to_vec(),
        })),
        Answer::SeedElsewhere(leader) => AnswerV1::SeedElsewhere(leader.map(|leader| leader.0)),
        Answer::SeedGone => AnswerV1::SeedGone,
        Answer::SeedDamaged => AnswerV1::SeedDamaged,
    };
    let body = rkyv::to_bytes::<rancor::Error>(&stored).map_err(|_| FormatError::Body)?;
    seal(KIND_ANSWER, &[&body]).map(Bytes::from)
}

pub(crate) fn decode_answer(bytes: &[u8]) -> Result<Answer, FormatError> {
    let body = open(KIND_ANSWER, bytes)?;
    let stored =
        rkyv::from_bytes::<AnswerV1, rancor::Error>(body).map_err(|_| FormatError::Body)?;
    Ok(match stored {
        AnswerV1::Appended => Answer::Append(AppendEntriesResponse::Success),
        AnswerV1::AppendedUpTo(upto) => {
            Answer::Append(AppendEntriesResponse::PartialSuccess(to_id(upto)))
        }
        AnswerV1::Conflict => Answer::Append(AppendEntriesResponse::Conflict),
        AnswerV1::HigherVote(vote) => {
            Answer::Append(AppendEntriesResponse::HigherVote(to_vote(vote)))
        }
        AnswerV1::Vote { vote, granted, last } => {
            Answer::Vote(VoteResponse::new(to_vote(vote), to_id(last), granted))
        }
        AnswerV1::Transferred => Answer::Transfer(Ok(())),
        AnswerV1::VoteChanged { expected, actual } => {
            let (expected, actual) = (to_vote(expected), to_vote(actual));
            Answer::Transfer(Err(TransferLeaderError::VoteChanged { expected, actual }))
        }
        AnswerV1::NotFlushed { expected, actual } => {
            let (expected, actual) = (to_id(expected), to_id(actual));
            Answer::Transfer(Err(TransferLeaderError::LogNotFlushed { expected, actual }))
        }
        AnswerV1::Checkpoint(vote) => Answer::Checkpoint(to_vote(vote)),
        AnswerV1::Refused(reason) => Answer::Refused(reason),
        AnswerV1::SeedPlan(plan) => Answer::SeedPlan(to_plan(*plan)?),
        AnswerV1::SeedEntries(bytes) => Answer::SeedEntries(Bytes::from(bytes)),
        AnswerV1::SeedCheckpoint(piece) => Answer::SeedCheckpoint(SeedPiece {
            index: piece.index.map(LogIndex),
            size: piece.size,
            floor: piece.floor.map(to_log_id),
            bytes: Bytes::from(piece.bytes),
        }),
        AnswerV1::SeedElsewhere(leader) => Answer::SeedElsewhere(leader.map(NodeId)),
        AnswerV1::SeedGone => Answer::SeedGone,
        AnswerV1::SeedDamaged => Answer::SeedDamaged,
    })
}

/// A range that is not empty.
fn to_range(start: u64, end: u64) -> Result<(LogIndex, LogIndex), FormatError> {
    if start < end { Ok((LogIndex(start), LogIndex(end))) } else { Err(FormatError::Body) }
}

fn from_seed_ask(ask: &SeedAsk) -> RequestBodyV1 {
    match *ask {
        SeedAsk::Plan { previous } => {
            let previous = previous.map(|(id, fingerprint)| (from_log_id(id), fingerprint));
            RequestBodyV1::SeedPlan { previous }
        }
        SeedAsk::Entries { start, end } => {
            RequestBodyV1::SeedEntries { start: start.0, end: end.0 }
        }
        SeedAsk::Committed { start, end } => {
            RequestBodyV1::SeedCommitted { start: start.0, end: end.0 }
        }
        SeedAsk::Checkpoint { index, position } => {
            RequestBodyV1::SeedCheckpoint { index: index.map(|index| index.0), position }
        }
    }
}

fn from_plan(plan: &SeedPlan) -> SeedPlanV1 {
    SeedPlanV1 {
        vote: from_vote(&plan.vote),
        floor: plan.floor.map(from_log_id),
        last: plan.last.map(from_log_id),
        committed: plan.committed.map(from_log_id),
        follows: plan.follows,
        start: plan.start.0,
        ends: plan.ends.iter().map(|end| end.0).collect(),
    }
}

/// Pieces must lie one behind the other and end with the log at the latest.
fn to_plan(plan: SeedPlanV1) -> Result<SeedPlan, FormatError> {
    let end = plan.last.map_or(0, |(_, index)| index.saturating_add(1));
    let mut start = plan.start;
    for next in &plan.ends {
        if *next <= start || *next > end {
            return Err(FormatError::Body);
        }
        start = *next;
    }
    if !plan.vote.committed || plan.last.is_some_and(|(term, _)| term > plan.vote.term) {
        return Err(FormatError::Body);
    }
    Ok(SeedPlan {
        vote: to_vote(plan.vote),
        floor: plan.floor.map(to_log_id),
        last: plan.last.map(to_log_id),
        committed: plan.committed.map(to_log_id),
        follows: plan.follows,
        start: LogIndex(plan.start),
        ends: plan.ends.into_iter().map(LogIndex).collect(),
    })
}

fn encode_entries(shard: ShardId, entries: &[RaftEntry]) -> Result<Pieces, FormatError> {
    let mut pieces = Pieces::default();
    for entry in entries {
        let entry = from_raft_entry(entry.clone())?;
        let length = entry.encoded_len();
        let length = u32::try_from(length).map_err(|_| FormatError::TooLarge(length))?;
        pieces.copy(&length.to_le_bytes());
        entry.encode_into(shard, &mut pieces);
    }
    Ok(pieces)
}

fn decode_entries(
    shard: ShardId,
    bytes: &Bytes,
    count: u32,
) -> Result<Vec<RaftEntry>, FormatError> {
    // Grows with what is there: the count alone reserves nothing.
    let mut entries = Vec::new();
    let mut at = 0;
    for _ in 0..count {
        let rest = bytes.get(at..).ok_or(FormatError::Body)?;
        let (length, rest) = rest.split_first_chunk::<LENGTH_SIZE>().ok_or(FormatError::Body)?;
        let length = usize::try_from(u32::from_le_bytes(*length)).map_err(|_| FormatError::Body)?;
        if length > rest.len() {
            return Err(FormatError::Body);
        }
        let start = at + LENGTH_SIZE;
        let entry = Entry::decode(&bytes.slice(start..start + length), shard);
        entries.push(to_raft_entry(entry.map_err(|_| FormatError::Body)?)?);
        at = start + length;
    }
    if at != bytes.len() {
        return Err(FormatError::Body);
    }
    Ok(entries)
}

/// What openraft takes for granted: the entries follow `previous` without a hole, their terms
/// never fall, and none is newer than the term of the leader that sends them.
fn check_entries(
    vote: &RaftVote,
    previous: Option<&RaftLogId>,
    entries: &[RaftEntry],
) -> Result<(), FormatError> {
    let mut next = previous.map_or(0, |previous| previous.index.saturating_add(1));
    let mut term = previous.map_or(0, |previous| previous.leader_id.term);
    for entry in entries {
        let id = entry.log_id;
        if id.index != next || id.leader_id.term < term || id.leader_id.term > vote.leader_id.term {
            return Err(FormatError::Body);
        }
        (next, term) = (next.saturating_add(1), id.leader_id.term);
    }
    Ok(())
}

fn to_ask(vote: RaftVote, last: Option<IdV1>, transfer: bool) -> VoteRequest<Types> {
    let mut ask = VoteRequest::new(vote, to_id(last));
    ask.leadership_transfer = transfer;
    ask
}

fn from_id(id: Option<&RaftLogId>) -> Option<IdV1> {
    id.map(|id| (id.leader_id.term, id.index))
}

fn to_id(id: Option<IdV1>) -> Option<RaftLogId> {
    id.map(|(term, index)| RaftLogId::new(CommittedLeaderId::from(term), index))
}

fn from_log_id(id: LogId) -> IdV1 {
    (id.term.0, id.index.0)
}

fn to_log_id((term, index): IdV1) -> LogId {
    LogId { term: Term(term), index: LogIndex(index) }
}

fn from_vote(vote: &RaftVote) -> VoteV1 {
    VoteV1 { term: vote.leader_id.term, node: vote.leader_id.voted_for, committed: vote.committed }
}

fn to_vote(vote: VoteV1) -> RaftVote {
    if vote.committed {
        RaftVote::new_committed(vote.term, vote.node)
    } else {
        RaftVote::new(vote.term, vote.node)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests fail by panicking")]

    use super::*;
    use crate::vocabulary::{LeaderId, RaftPayload};

    const ROUTE: Route = Route { shard: ShardId(3), from: NodeId(1), to: NodeId(2) };

    fn id(term: u64, index: u64) -> RaftLogId {
        RaftLogId::new(CommittedLeaderId::from(term), index)
    }

    fn append(previous: Option<RaftLogId>, ids: &[RaftLogId]) -> Request {
        let entry = |id: &RaftLogId| RaftEntry { log_id: *id, payload: RaftPayload::Blank };
        Request::Append(AppendEntriesRequest {
            vote: RaftVote::new_committed(4, 1),
            prev_log_id: previous,
            entries: ids.iter().map(entry).collect(),
            leader_commit: Some(id(3, 5)),
        })
    }

    fn requests() -> Vec<Request> {
        let vote = || VoteRequest::new(RaftVote::new(4, 1), Some(id(3, 6)));
        let membership = crate::vocabulary::StoredMembership::default();
        let checkpoint =
            super::super::encode_checkpoint(&membership, &[b"machine".to_vec()]).unwrap();
        vec![
            append(Some(id(3, 6)), &[id(3, 7), id(4, 8)]),
            append(None, &[]),
            Request::Vote(vote()),
            Request::PreVote(VoteRequest { leadership_transfer: true, ..vote() }),
            Request::Transfer(TransferLeaderRequest::new(RaftVote::new_committed(4, 1), 9, None)),
            Request::Checkpoint {
                vote: RaftVote::new_committed(4, 1),
                meta: Meta { last_log_id: Some(id(4, 9)), last_membership: membership },
                bytes: Bytes::from(checkpoint),
            },
            seed(SeedAsk::Plan { previous: None }),
            seed(SeedAsk::Plan { previous: Some((to_log_id((3, 6)), 77)) }),
            seed(SeedAsk::Entries { start: LogIndex(4), end: LogIndex(9) }),
            seed(SeedAsk::Checkpoint { index: Some(LogIndex(5)), position: 1 << 20 }),
            seed(SeedAsk::Committed { start: LogIndex(4), end: LogIndex(9) }),
        ]
    }

    fn seed(ask: SeedAsk) -> Request {
        Request::Seed { vote: RaftVote::new_committed(4, 1), ask }
    }

    fn plan() -> SeedPlan {
        SeedPlan {
            vote: RaftVote::new_committed(4, 1),
            floor: Some(to_log_id((1, 2))),
            last: Some(to_log_id((4, 9))),
            committed: Some(to_log_id((4, 8))),
            follows: true,
            start: LogIndex(3),
            ends: vec![LogIndex(5), LogIndex(10)],
        }
    }

    fn answers() -> Vec<Answer> {
        let (expected, actual) = (RaftVote::new(4, 1), RaftVote::new_committed(5, 2));
        let not_flushed =
            TransferLeaderError::LogNotFlushed { expected: Some(id(3, 4)), actual: None };
        vec![
            Answer::Append(AppendEntriesResponse::Success),
            Answer::Append(AppendEntriesResponse::PartialSuccess(Some(id(3, 7)))),
            Answer::Append(AppendEntriesResponse::Conflict),
            Answer::Append(AppendEntriesResponse::HigherVote(RaftVote::new(9, 2))),
            Answer::Vote(VoteResponse::new(RaftVote::new(4, 1), Some(id(3, 6)), true)),
            Answer::Transfer(Ok(())),
            Answer::Transfer(Err(TransferLeaderError::VoteChanged { expected, actual })),
            Answer::Transfer(Err(not_flushed)),
            Answer::Checkpoint(RaftVote::new(4, 1)),
            Answer::Refused("closing".to_owned()),
            Answer::SeedPlan(plan()),
            Answer::SeedEntries(Bytes::from_static(b"entries")),
            Answer::SeedDamaged,
            Answer::SeedCheckpoint(SeedPiece {
                index: Some(LogIndex(7)),
                size: 9_000,
                floor: None,
                bytes: Bytes::from_static(b"piece"),
            }),
            Answer::SeedElsewhere(Some(NodeId(3))),
            Answer::SeedGone,
        ]
    }

    fn encoded(route: Route, request: &Request) -> Result<Bytes, FormatError> {
        encode_request(route, request).map(Pieces::into_bytes)
    }

    fn decode(bytes: &Bytes) -> Result<(NodeId, Request), FormatError> {
        decode_request(bytes, ROUTE.shard, ROUTE.to)
    }

    #[test]
    fn requests_come_back_as_they_went() {
        for request in requests() {
            let bytes = encoded(ROUTE, &request).unwrap();
            let (from, back) = decode(&bytes).unwrap();
            assert_eq!(from, ROUTE.from);
            assert_eq!(encoded(ROUTE, &back).unwrap(), bytes);
        }
    }

    #[test]
    fn answers_come_back_as_they_went() {
        for answer in answers() {
            let bytes = encode_answer(&answer).unwrap();
            assert_eq!(format!("{:?}", decode_answer(&bytes).unwrap()), format!("{answer:?}"));
        }
    }

    #[test]
    fn another_replica_refuses() {
        let bytes = encoded(ROUTE, &append(None, &[])).unwrap();
        for (shard, to) in [(ShardId(4), ROUTE.to), (ROUTE.shard, NodeId(3))] {
            let refused = decode_request(&bytes, shard, to).map(|(from, _)| from);
            assert_eq!(refused, Err(FormatError::Elsewhere));
        }
    }

    #[test]
    fn every_flipped_bit_and_every_cut_is_refused() {
        for request in requests() {
            let bytes = encoded(ROUTE, &request).unwrap();
            for position in 0..bytes.len() {
                let mut damaged = bytes.to_vec();
                damaged[position] ^= 1 << (position % 8);
                assert!(decode(&Bytes::from(damaged)).is_err(), "byte {position} went unnoticed");
                assert!(decode(&bytes.slice(..position)).is_err(), "cut at {position}");
            }
        }
        for answer in answers() {
            let bytes = encode_answer(&answer).unwrap();
            for position in 0..bytes.len() {
                let mut damaged = bytes.to_vec();
                damaged[position] ^= 1 << (position % 8);
                assert!(decode_answer(&damaged).is_err(), "byte {position} went unnoticed");
            }
        }
    }

    #[test]
    fn entries_that_no_leader_sends_are_refused() {
        let cases = [
            ("a hole", append(Some(id(3, 6)), &[id(3, 8)])),
            ("a repeated index", append(Some(id(3, 6)), &[id(3, 7), id(3, 7)])),
            ("a falling term", append(Some(id(3, 6)), &[id(2, 7)])),
            ("a term from the future", append(Some(id(3, 6)), &[id(5, 7)])),
            ("no beginning", append(None, &[id(3, 1)])),
        ];
        for (what, request) in cases {
            let bytes = encoded(ROUTE, &request).unwrap();
            assert!(decode(&bytes).is_err(), "{what} was accepted");
        }
    }

    #[test]
    fn plans_that_no_leader_sends_are_refused() {
        let cases = [
            ("a vote that won nothing", SeedPlan { vote: RaftVote::new(4, 1), ..plan() }),
            ("an empty piece", SeedPlan { ends: vec![LogIndex(3)], ..plan() }),
            ("pieces out of order", SeedPlan { ends: vec![LogIndex(6), LogIndex(5)], ..plan() }),
            ("more than there is", SeedPlan { ends: vec![LogIndex(11)], ..plan() }),
            ("a term from the future", SeedPlan { last: Some(to_log_id((5, 9))), ..plan() }),
        ];
        for (what, plan) in cases {
            let bytes = encode_answer(&Answer::SeedPlan(plan)).unwrap();
            assert!(decode_answer(&bytes).is_err(), "{what} was accepted");
        }
    }

    #[test]
    fn the_vote_keeps_all_of_itself() {
        for vote in [RaftVote::new(7, 3), RaftVote::new_committed(7, 3)] {
            let back = to_vote(from_vote(&vote));
            assert_eq!(back, vote);
            assert_eq!(back.leader_id(), &LeaderId { term: 7, voted_for: 3 });
        }
    }

    fn hex(bytes: &[u8]) -> String {
        bytes.iter().map(|byte| format!("{byte:02x}")).collect()
    }

    #[test]
    fn golden_bytes() {
        let request = Request::Vote(VoteRequest::new(RaftVote::new(4, 1), Some(id(3, 6))));
        let bytes = encoded(ROUTE, &request).unwrap();
        assert_eq!(hex(&bytes), GOLDEN_VOTE, "the format changed: raise the version");
        let bytes = encoded(ROUTE, &append(Some(id(3, 6)), &[id(4, 7)])).unwrap();
        assert_eq!(hex(&bytes), GOLDEN_APPEND, "the format changed: raise the version");
        let ask = SeedAsk::Plan { previous: Some((to_log_id((3, 6)), 77)) };
        let bytes = encoded(ROUTE, &seed(ask)).unwrap();
        assert_eq!(hex(&bytes), GOLDEN_SEED, "the format changed: raise the version");
        let bytes = encode_answer(&Answer::SeedPlan(plan())).unwrap();
        assert_eq!(hex(&bytes), GOLDEN_PLAN, "the format changed: raise the version");
        let bytes = encode_answer(&answers()[4]).unwrap();
        assert_eq!(hex(&bytes), GOLDEN_ANSWER, "the format changed: raise the version");
    }

    const GOLDEN_VOTE: &str = "\
        030100004c000000989c18c203000000010000000000000002000000000000000400000000000000\
        01000000000000000001010300000000000000060000000000000000000000000000000000000000\
        0000000000000000";
    const GOLDEN_APPEND: &str = "\
        030100004c000000afc31b4203000000010000000000000002000000000000000400000000000000\
        01000000000000000100010300000000000000060000000000000001030000000000000005000000\
        0000000001000000500000004252453143227fe40000000000000000010001000000000000000000\
        03000000040000000000000007000000000000000000000000000000000000000000000000000000\
        000000000000000000000000";
    const GOLDEN_SEED: &str = "\
        030100004c0000002909fb8103000000010000000000000002000000000000000400000000000000\
        0100000000000000010501030000000000000006000000000000004d000000000000000000000000\
        0000000000000000";
    const GOLDEN_PLAN: &str = "\
        0401000089000000c406a09d05000000000000000a00000000000000040000000000000001000000\
        00000000010101000000000000000200000000000000010400000000000000090000000000000001\
        04000000000000000800000000000000010300000000000000a3ffffff020000000aaaffffff0000\
        0000000000000000000000000000000000000000000000000000000000";
    const GOLDEN_ANSWER: &str = "\
        0401000024000000ec3b782604040000000000000001000000000000000001010300000000000000\
        0600000000000000";
}
