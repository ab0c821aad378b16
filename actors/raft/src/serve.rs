//! A replica's answers to its peers.
//!
//! Owns: what happens to a request that another replica of the group sent.
//!
//! Must never: answer a request meant for another replica; hand openraft what it would panic over.

use barrage_commitlog::Floor;
use barrage_model::NodeId;
use barrage_world::{self as world, planted};
use bytes::Bytes;
use openraft::raft::{AppendEntriesRequest, AppendEntriesResponse};

use crate::format::FormatError;
use crate::format::rpc::{self, Answer, Request};
use crate::group::{Core, Group};
use crate::machine::Machine;
use crate::vocabulary::{Meta, RaftPayload, RaftVote, Snapshot, Types};

/// Why a request gets no answer at all: it is damaged, or not for this replica. The sender finds
/// out by its deadline.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("request refused: {0}")]
pub struct HandleError(#[from] FormatError);

impl<M: Machine> Group<M> {
    /// Answers a peer: the bytes that `Peers::call` gave to the transport there. Requests of one
    /// peer are handed over in the order they came, and may wait for the disk side by side.
    ///
    /// # Errors
    /// When the bytes are damaged or meant for another replica.
    pub async fn handle(&self, request: Bytes) -> Result<Bytes, HandleError> {
        let (from, request) = rpc::decode_request(&request, self.core.shard, self.core.node)?;
        let answer = match self.core.refusal() {
            Some(error) => Answer::Refused(error.to_string()),
            None => self.core.answer(from, request).await,
        };
        Ok(rpc::encode_answer(&answer)?)
    }
}

impl Core {
    async fn answer(&self, from: NodeId, request: Request) -> Answer {
        let answered = match request {
            Request::Append(append) => return self.append(append).await,
            Request::Vote(vote) => self.raft.vote(vote).await.map(Answer::Vote),
            Request::PreVote(vote) => self.raft.pre_vote(vote).await.map(Answer::Vote),
            Request::Transfer(transfer) => {
                return match self.raft.handle_transfer_leader(transfer).await {
                    Ok(answer) => Answer::Transfer(answer),
                    Err(fatal) => Answer::Refused(fatal.to_string()),
                };
            }
            Request::Checkpoint { vote, meta, bytes } => {
                return self.install(vote, meta, bytes).await;
            }
            Request::Seed { vote, ask } => return self.give(from, vote, ask).await,
        };
        answered.unwrap_or_else(|error| Answer::Refused(error.to_string()))
    }

    async fn append(&self, append: AppendEntriesRequest<Types>) -> Answer {
        let most = self.log.entry_bytes_max() as u64;
        let too_large = |payload: &RaftPayload| match payload {
            RaftPayload::Normal(proposal) => proposal.entry_bytes_max() > most,
            RaftPayload::Blank | RaftPayload::Membership(_) => false,
        };
        if append.entries.iter().any(|entry| too_large(&entry.payload)) {
            let reason = "an entry is larger than a segment of this replica's log";
            return Answer::Refused(reason.to_owned());
        }
        if planted("raft-append-answered-early") && !append.entries.is_empty() {
            // Wrong: the leader counts a copy that is not there yet.
            let raft = self.raft.clone();
            drop(world::spawn(async move { drop(raft.append_entries(append).await) }));
            return Answer::Append(AppendEntriesResponse::Success);
        }
        match self.raft.append_entries(append).await {
            Ok(answer) => Answer::Append(answer),
            Err(error) => Answer::Refused(error.to_string()),
        }
    }

    /// Takes in a checkpoint, unless the log holds the entry that it ends with: then all that is in
    /// it is here already, and committed, and the log goes on. Besides, openraft asserts when a
    /// checkpoint ends before what the same leader has appended here (seen with alpha.37; a
    /// leader that knows too little of a follower sends one).
    async fn install(&self, vote: RaftVote, meta: Meta, bytes: Bytes) -> Answer {
        let goes_on = AppendEntriesRequest {
            vote,
            prev_log_id: meta.last_log_id,
            entries: Vec::new(),
            leader_commit: meta.last_log_id,
        };
        match self.raft.append_entries(goes_on).await {
            Ok(AppendEntriesResponse::Conflict) => {}
            Ok(AppendEntriesResponse::HigherVote(higher)) => return Answer::Checkpoint(higher),
            Ok(_) => return Answer::Checkpoint(vote),
            Err(error) => return Answer::Refused(error.to_string()),
        }
        if self.floor == Floor::Records {
            // The log ends before the leader's begins. With the checkpoint alone this replica would
            // miss the records in between for ever, and nobody would know.
            self.falls_behind();
            return Answer::Refused(
                "the records before this checkpoint are missing here".to_owned(),
            );
        }
        let snapshot = Snapshot { meta, snapshot: bytes };
        match self.raft.install_full_snapshot(vote, snapshot).await {
            Ok(response) => Answer::Checkpoint(response.vote),
            Err(fatal) => Answer::Refused(fatal.to_string()),
        }
    }
}
