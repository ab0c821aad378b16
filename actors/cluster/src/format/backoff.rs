//! A back-off as it is stored: in commands and checkpoints of the catalog and of the shards.

use barrage_model::Backoff;
use rkyv::{Archive, Deserialize, Serialize};

/// See [`Backoff`].
#[derive(Archive, Serialize, Deserialize)]
pub enum BackoffV1 {
    /// Always the same, in milliseconds.
    Fixed(u64),
    /// Twice as long each time.
    Exponential {
        /// After the first delivery, in milliseconds.
        first_ms: u64,
        /// Never longer.
        ms_max: u64,
    },
    /// One by one.
    Levels(Vec<u64>),
}

impl From<Backoff> for BackoffV1 {
    fn from(backoff: Backoff) -> Self {
        match backoff {
            Backoff::Fixed(delay_ms) => Self::Fixed(delay_ms),
            Backoff::Exponential { first_ms, ms_max } => Self::Exponential { first_ms, ms_max },
            Backoff::Levels(levels) => Self::Levels(levels),
        }
    }
}

impl From<BackoffV1> for Backoff {
    fn from(stored: BackoffV1) -> Self {
        match stored {
            BackoffV1::Fixed(delay_ms) => Self::Fixed(delay_ms),
            BackoffV1::Exponential { first_ms, ms_max } => Self::Exponential { first_ms, ms_max },
            BackoffV1::Levels(levels) => Self::Levels(levels),
        }
    }
}
