//! Delayed records as a gateway sees them: which wait in a partition, cancelled or moved there; on
//! the core of its shard, here or elsewhere on this node. They are stored as any other batch is.
//!
//! Owns: the way of a request to its shard. Must never: decide whether a record waits.

use barrage_model::PartitionKey;

use crate::api::delay::{DelayError, DelayRequest, Delayed};
use crate::api::queue::QueueError;
use crate::broker::Broker;
use crate::core::Core;
use crate::message::{Reply, Request};

impl Broker {
    /// Cancels or moves delayed records of one partition; answers for each of them. What is
    /// answered with `Ok` is durable: who is cancelled is never let in.
    pub async fn change_delayed(
        &self,
        request: DelayRequest,
    ) -> Result<Vec<Result<(), DelayError>>, QueueError> {
        let key = request.key;
        let (core, _) = self.core.place(key).ok_or(QueueError::UnknownPartition)?;
        let changed = if core == self.core.id {
            self.core.change_delayed_here(request).await
        } else {
            match self.ask(core, Request::ChangeDelayed(request)).await {
                Some(Reply::ChangeDelayed(changed)) => changed,
                _ => Err(QueueError::QueueFull),
            }
        };
        changed.map_err(|error| self.queue_hint(key, error))
    }

    /// What waits in one partition.
    pub async fn delayed(
        &self,
        key: PartitionKey,
        count_max: usize,
    ) -> Result<Delayed, QueueError> {
        let (core, _) = self.core.place(key).ok_or(QueueError::UnknownPartition)?;
        let delayed = if core == self.core.id {
            self.core.delayed_here(key, count_max).await
        } else {
            match self.ask(core, Request::Delayed { key, count_max }).await {
                Some(Reply::Delayed(delayed)) => delayed,
                _ => Err(QueueError::QueueFull),
            }
        };
        delayed.map_err(|error| self.queue_hint(key, error))
    }
}

impl Core {
    pub(crate) async fn change_delayed_here(
        &self,
        request: DelayRequest,
    ) -> Result<Vec<Result<(), DelayError>>, QueueError> {
        self.shard(request.key)?.change_delayed(request).await
    }

    pub(crate) async fn delayed_here(
        &self,
        key: PartitionKey,
        count_max: usize,
    ) -> Result<Delayed, QueueError> {
        self.shard(key)?.delayed(key, count_max).await
    }
}
