//! What a producer asks of a topic whose order is global, and what it is answered.

use barrage_model::{PartitionKey, ProducerId};
use thiserror::Error;

use super::queue::QueueError;

/// What a claim is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClaimKind {
    /// To be the one that writes; not while another one is.
    Hold,
    /// To go on being the one that writes.
    Keep,
    /// To be the one that writes; another one is over.
    TakeOver,
    /// To be so no longer.
    Release,
}

/// A claim of a producer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Claim {
    /// Whose batches are to count.
    pub producer: ProducerId,
    /// What it is for.
    pub kind: ClaimKind,
    /// Not claiming for so long, whether it writes or not, it may be replaced.
    pub session_ms: u32,
}

/// A claim for a partition.
#[derive(Clone, Copy, Debug)]
pub struct ClaimRequest {
    /// The topic's only partition.
    pub key: PartitionKey,
    /// What is claimed.
    pub claim: Claim,
}

/// Why a claim is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum ClaimRefusal {
    /// Another producer holds the topic.
    #[error("another producer holds the topic; if it stays silent, for {left_ms} ms more")]
    Held {
        /// What is left of its session.
        left_ms: u64,
    },
    /// The producer does not hold the topic, and never will again: it gave the topic up, or another
    /// one has taken it.
    #[error("this producer does not hold the topic any more")]
    Lost,
    /// Anybody may write.
    #[error("the order of the topic is not global: anybody may write")]
    NotGlobal,
    /// As many producers as a shard knows have been active within the last minutes.
    #[error("too many active producers on this shard")]
    ProducersFull,
}

/// Why a claim fails.
#[derive(Clone, Debug, Error)]
pub enum ClaimError {
    /// By who holds the topic.
    #[error(transparent)]
    Refused(#[from] ClaimRefusal),
    /// It did not come so far.
    #[error(transparent)]
    Shard(#[from] QueueError),
}
