//! openraft's network over the transport of the node.
//!
//! Owns: which message goes out how urgently and how long it may take, and what a missing or
//! strange answer means to openraft: unreachable, so that it backs off.
//!
//! Must never: take an answer of another kind for success; reorder the answers of a pipeline.
//!
//! Appends are pipelined: a few are on their way at once, answered in the order they were sent. A
//! peer that gets them in another order refuses the later ones, and the pipeline starts anew;
//! openraft must not hear of such a refusal, which it takes for a peer that lost its log.

use std::error::Error;
use std::fmt;
use std::future::Future;
use std::rc::Rc;
use std::time::Duration;

use barrage_model::{NodeId, ShardId};
use barrage_world::{self as world, planted};
use bytes::Bytes;
use futures_util::{FutureExt, Stream, StreamExt};
use openraft::base::{BoxFuture, BoxStream};
use openraft::errors::{NetworkError, RPCError, ReplicationClosed, StreamingError, Unreachable};
use openraft::network::{RPCOption, RaftNetworkFactory, RaftNetworkV2};
use openraft::raft::{
    AppendEntriesRequest, AppendEntriesResponse, SnapshotResponse, StreamAppendResult,
    TransferLeaderRequest, TransferLeaderResponse, VoteRequest, VoteResponse,
};

use crate::format::rpc::{self, Answer, Request, Route};
use crate::peers::{Call, Peers, Urgency};
use crate::rot::Rot;
use crate::timing::Timing;
use crate::vocabulary::{RaftVote, Snapshot, Types};

/// How often it is looked whether a follower has been copied.
const COPIED_PAUSE: Duration = Duration::from_millis(100);

/// Makes the client of every peer.
pub(crate) struct Network {
    pub(crate) peers: Rc<dyn Peers>,
    pub(crate) shard: ShardId,
    pub(crate) node: NodeId,
    pub(crate) timing: Timing,
    pub(crate) rot: Rc<Rot>,
}

impl RaftNetworkFactory<Types> for Network {
    type Network = Peer;

    async fn new_client(&mut self, target: u64, _node: &openraft::EmptyNode) -> Peer {
        Peer {
            peers: Rc::clone(&self.peers),
            route: Route { shard: self.shard, from: self.node, to: NodeId(target) },
            timing: self.timing.clone(),
            rot: Rc::clone(&self.rot),
        }
    }
}

/// The client of one peer. Cloning shares the transport.
#[derive(Clone)]
pub(crate) struct Peer {
    peers: Rc<dyn Peers>,
    route: Route,
    timing: Timing,
    rot: Rc<Rot>,
}

/// An answer that does not answer the question.
#[derive(Debug)]
struct Strange(String);

impl fmt::Display for Strange {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0)
    }
}

impl Error for Strange {}

impl Peer {
    async fn ask(
        &self,
        request: &Request,
        urgency: Urgency,
        deadline_in: Duration,
    ) -> Result<Answer, Unreachable<Types>> {
        let bytes =
            rpc::encode_request(self.route, request).map_err(|error| Unreachable::new(&error))?;
        let (to, shard) = (self.route.to, self.route.shard);
        let call = Call { to, shard, urgency, deadline_in, request: bytes };
        let answer = self.peers.call(call).await.map_err(|error| Unreachable::new(&error))?;
        rpc::decode_answer(&answer).map_err(|error| Unreachable::new(&error))
    }

    async fn append(
        &self,
        append: AppendEntriesRequest<Types>,
    ) -> Result<AppendEntriesResponse<Types>, Unreachable<Types>> {
        // An append that is empty, because its entries cannot be read, would be a heartbeat still.
        if self.rot.stands_back() {
            return Err(Unreachable::new(&Strange("this replica stands back".to_owned())));
        }
        let urgency = if append.entries.is_empty() { Urgency::Urgent } else { Urgency::Bulk };
        let request = Request::Append(append);
        match self.ask(&request, urgency, self.timing.append_deadline).await? {
            Answer::Append(answer) => Ok(answer),
            other => Err(strange(&other)),
        }
    }

    /// One append of a pipeline: what openraft makes of the answer, and whether all was taken.
    async fn append_in_stream(
        &self,
        append: AppendEntriesRequest<Types>,
        first: bool,
    ) -> Result<(StreamAppendResult<Types>, bool), RPCError<Types>> {
        let previous = append.prev_log_id;
        let last = append.entries.last().map(|entry| entry.log_id).or(previous);
        let answer = self.append(append).await?;
        let overtook = answer.is_conflict() && (!first || previous.is_none());
        if overtook && !planted("raft-overtaking-append-taken-for-lost-log") {
            // It has overtaken the append before it, so the peer misses what is still under way.
            // openraft would take that for a peer that lost its log, and stop for good.
            let error = Strange("an append has overtaken the one before it".to_owned());
            return Err(RPCError::Network(NetworkError::new(&error)));
        }
        let whole = match &answer {
            AppendEntriesResponse::PartialSuccess(upto) => *upto == last,
            _ => true,
        };
        Ok((answer.into_stream_result(previous, last), whole))
    }

    /// Sends a checkpoint until its last entry is in the follower's log.
    ///
    /// A follower whose records would be missing refuses it and is copied as a whole. It has to
    /// contain this checkpoint then, not the newest one: under steady load there is always a newer
    /// one than the copy, which would be refused too, and copied anew for ever.
    async fn send_checkpoint(
        &self,
        vote: RaftVote,
        snapshot: Snapshot,
    ) -> Result<SnapshotResponse<Types>, Unreachable<Types>> {
        let Snapshot { meta, snapshot: bytes } = snapshot;
        let mut is_told = false;
        loop {
            let goes_on = AppendEntriesRequest {
                vote,
                prev_log_id: meta.last_log_id,
                entries: Vec::new(),
                leader_commit: meta.last_log_id,
            };
            match self.append(goes_on).await {
                Ok(AppendEntriesResponse::HigherVote(vote)) => {
                    return Ok(SnapshotResponse::new(vote));
                }
                Ok(AppendEntriesResponse::Conflict) => {
                    let (meta, bytes) = (meta.clone(), bytes.clone());
                    let request = Request::Checkpoint { vote, meta, bytes };
                    let deadline_in = self.timing.checkpoint_deadline;
                    match self.ask(&request, Urgency::Bulk, deadline_in).await {
                        Ok(Answer::Checkpoint(vote)) => return Ok(SnapshotResponse::new(vote)),
                        Ok(Answer::Refused(_)) => is_told = true,
                        Ok(other) => return Err(strange(&other)),
                        Err(error) if !is_told => return Err(error),
                        Err(_) => {}
                    }
                }
                Ok(_) => return Ok(SnapshotResponse::new(vote)),
                Err(error) if !is_told => return Err(error),
                // It is closed while it is copied.
                Err(_) => {}
            }
            world::sleep(COPIED_PAUSE).await;
        }
    }

    async fn ask_for_vote(
        &self,
        request: Request,
        option: RPCOption,
    ) -> Result<VoteResponse<Types>, RPCError<Types>> {
        match self.ask(&request, Urgency::Urgent, option.hard_ttl()).await? {
            Answer::Vote(answer) => Ok(answer),
            other => Err(strange(&other).into()),
        }
    }
}

fn strange(answer: &Answer) -> Unreachable<Types> {
    Unreachable::new(&Strange(format!("unexpected answer: {answer:?}")))
}

impl RaftNetworkV2<Types> for Peer {
    type SnapshotData = Bytes;

    async fn append_entries(
        &mut self,
        append: AppendEntriesRequest<Types>,
        _option: RPCOption,
    ) -> Result<AppendEntriesResponse<Types>, RPCError<Types>> {
        // openraft's own limit is one heartbeat, which a slow disk exceeds without being dead.
        Ok(self.append(append).await?)
    }

    fn stream_append<'s, S>(
        &'s mut self,
        input: S,
        _option: RPCOption,
    ) -> BoxFuture<
        's,
        Result<BoxStream<'s, Result<StreamAppendResult<Types>, RPCError<Types>>>, RPCError<Types>>,
    >
    where
        S: Stream<Item = AppendEntriesRequest<Types>> + Unpin + 'static,
    {
        let peer = self.clone();
        let in_flight = self.timing.appends_in_flight_max;
        let answers = input
            .enumerate()
            .map(move |(number, append)| {
                let peer = peer.clone();
                async move { peer.append_in_stream(append, number == 0).await }
            })
            .buffered(in_flight);
        async move { Ok(end_at_failure(answers).boxed_local()) }.boxed_local()
    }

    async fn vote(
        &mut self,
        vote: VoteRequest<Types>,
        option: RPCOption,
    ) -> Result<VoteResponse<Types>, RPCError<Types>> {
        self.ask_for_vote(Request::Vote(vote), option).await
    }

    async fn pre_vote(
        &mut self,
        vote: VoteRequest<Types>,
        option: RPCOption,
    ) -> Result<VoteResponse<Types>, RPCError<Types>> {
        self.ask_for_vote(Request::PreVote(vote), option).await
    }

    async fn full_snapshot(
        &mut self,
        vote: RaftVote,
        snapshot: Snapshot,
        cancel: impl Future<Output = ReplicationClosed> + 'static,
        _option: RPCOption,
    ) -> Result<SnapshotResponse<Types>, StreamingError<Types>> {
        let sent = std::pin::pin!(self.send_checkpoint(vote, snapshot));
        let cancel = std::pin::pin!(cancel);
        match futures_util::future::select(cancel, sent).await {
            futures_util::future::Either::Left((closed, _)) => Err(closed.into()),
            futures_util::future::Either::Right((answer, _)) => Ok(answer?),
        }
    }

    async fn transfer_leader(
        &mut self,
        transfer: TransferLeaderRequest<Types>,
        option: RPCOption,
    ) -> Result<TransferLeaderResponse<Types>, RPCError<Types>> {
        let request = Request::Transfer(transfer);
        match self.ask(&request, Urgency::Urgent, option.hard_ttl()).await? {
            Answer::Transfer(answer) => Ok(answer),
            other => Err(strange(&other).into()),
        }
    }
}

/// The answers up to and with the first that is not a whole success: what was sent behind it
/// cannot have been taken.
fn end_at_failure(
    answers: impl Stream<Item = Result<(StreamAppendResult<Types>, bool), RPCError<Types>>>,
) -> impl Stream<Item = Result<StreamAppendResult<Types>, RPCError<Types>>> {
    answers.scan(false, |ended, answer| {
        let pass = if *ended {
            None
        } else {
            *ended = !matches!(&answer, Ok((Ok(_), true)));
            Some(answer.map(|(result, _)| result))
        };
        std::future::ready(pass)
    })
}
