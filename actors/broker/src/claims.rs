//! Claims of producers as a gateway sees them: on the core of the partition's shard, here or
//! elsewhere on this node.
//!
//! Owns: the way of a claim to its shard. Must never: decide who holds a partition.

use crate::api::claim::{ClaimError, ClaimRequest};
use crate::api::queue::QueueError;
use crate::broker::Broker;
use crate::core::Core;
use crate::message::{Reply, Request};

impl Broker {
    /// A producer wants to be the one that writes to a topic whose order is global, or not to be it
    /// any more. Once that is answered, nobody else's batches are taken any more.
    pub async fn claim(&self, request: ClaimRequest) -> Result<(), ClaimError> {
        let key = request.key;
        let (core, _) = self.core.place(key).ok_or(QueueError::UnknownPartition)?;
        let claimed = if core == self.core.id {
            self.core.claim_here(request).await
        } else {
            match self.ask(core, Request::Claim(request)).await {
                Some(Reply::Claim(claimed)) => claimed,
                _ => Err(QueueError::QueueFull.into()),
            }
        };
        claimed.map_err(|error| match error {
            ClaimError::Shard(error) => ClaimError::Shard(self.queue_hint(key, error)),
            ClaimError::Refused(refusal) => ClaimError::Refused(refusal),
        })
    }
}

impl Core {
    pub(crate) async fn claim_here(&self, request: ClaimRequest) -> Result<(), ClaimError> {
        self.shard(request.key).map_err(QueueError::from)?.claim(request).await
    }
}
