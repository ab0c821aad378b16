//! How a group reaches its other replicas: bytes out, bytes back.
//!
//! Owns: the trait that a transport implements, its error, and the transport of a group without
//! peers.
//!
//! Must never: know what the bytes mean. A request is answered by `Group::handle` of the same
//! shard on the node it is addressed to; every request names both ends and is refused elsewhere.

use std::future::Future;
use std::pin::Pin;
use std::time::Duration;

use barrage_commitlog::Pieces;
use barrage_model::{NodeId, ShardId};
use bytes::Bytes;

/// What a request must not wait behind.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Urgency {
    /// Votes and heartbeats: small, and late ones cost an election. Never behind bulk.
    Urgent,
    /// Entries and checkpoints.
    Bulk,
}

/// A request on its way to one peer.
#[derive(Clone, Debug)]
pub struct Call {
    /// The node that holds the replica.
    pub to: NodeId,
    /// The shard it replicates.
    pub shard: ShardId,
    /// What it must not wait behind.
    pub urgency: Urgency,
    /// After this long the answer is of no use any more.
    pub deadline_in: Duration,
    /// The bytes for `Group::handle`: large payload is not copied on its way to the transport.
    pub request: Pieces,
}

/// Why there is no answer. The request may have been carried out all the same.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum PeerError {
    /// The node cannot be reached at all: openraft backs off.
    #[error("{0} is unreachable: {1}")]
    Unreachable(NodeId, String),
    /// No answer within the deadline.
    #[error("{0} did not answer in {1:?}")]
    TimedOut(NodeId, Duration),
}

/// What [`Peers::call`] gives: the peer's answer.
pub type Answer = Pin<Box<dyn Future<Output = Result<Bytes, PeerError>>>>;

/// A transport between the replicas of a node's groups. It may lose, delay, repeat and reorder
/// requests and answers; what it delivers is protected by checksums of this crate.
pub trait Peers: 'static {
    /// Sends a request and waits for its answer, at most until its deadline.
    fn call(&self, call: Call) -> Answer;
}

/// The transport of a group that has no peers.
#[derive(Clone, Copy, Debug)]
pub struct NoPeers;

impl Peers for NoPeers {
    fn call(&self, call: Call) -> Answer {
        let error = PeerError::Unreachable(call.to, "this node has no peers".to_owned());
        Box::pin(std::future::ready(Err(error)))
    }
}
