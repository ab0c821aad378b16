//! What is asked about delayed records, and what is answered.

use barrage_model::{Offset, PartitionKey};
use thiserror::Error;

/// From when on the records of a batch are to be had: one time for all, or one for each.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Delay {
    /// From this instant on, in milliseconds since 1970, by the clock of the leader.
    At(Vec<u64>),
    /// After so many milliseconds, counted from when the leader takes them up.
    After(Vec<u64>),
}

impl Delay {
    /// How many times it names.
    pub fn len(&self) -> usize {
        let (Self::At(times) | Self::After(times)) = self;
        times.len()
    }

    /// Whether it names none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// What is to become of records that wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DelayChange {
    /// Nobody is to have them.
    Cancel,
    /// They wait until this instant instead, in milliseconds since 1970.
    MoveTo(u64),
    /// They wait for so many milliseconds from now on instead.
    Postpone(u64),
}

/// Changes records of one partition that wait, all alike.
#[derive(Clone, Debug)]
pub struct DelayRequest {
    /// The partition they are to come to.
    pub key: PartitionKey,
    /// Which ones: what was answered when they were stored.
    pub ids: Vec<Offset>,
    /// What is to become of them.
    pub change: DelayChange,
}

/// Why a delayed record is not changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum DelayError {
    /// It was let into the partition already, or cancelled.
    #[error("the record does not wait any more: it was released or cancelled")]
    Gone,
    /// There never was one.
    #[error("there is no delayed record of this id")]
    Unknown,
}

/// What waits in a partition.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Delayed {
    /// How many records.
    pub count: u64,
    /// Some of them, the oldest ones first: id, and the instant in milliseconds since 1970.
    pub oldest: Vec<(Offset, u64)>,
}
