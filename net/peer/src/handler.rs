//! Who answers the requests of other nodes: the seam to the groups of this core.

use std::future::Future;
use std::pin::Pin;

use barrage_model::{NodeId, ShardId};
use bytes::Bytes;

use crate::frame::Refusal;

/// The answer to a request, some time.
pub type Reply = Pin<Box<dyn Future<Output = Result<Bytes, Refusal>>>>;

/// Answers requests for the shards of this core.
pub trait Handler: 'static {
    /// Takes a request up. Requests of one connection come in the order they were sent, and each
    /// reply is polled once before the next request comes; then they go on side by side. A reply
    /// that takes longer than its request is of use is dropped.
    fn handle(&self, shard: ShardId, from: NodeId, request: Bytes) -> Reply;
}
