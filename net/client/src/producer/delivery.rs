//! What became of records, told to those who sent them.
//!
//! Owns: one ticket per batch, shared by its records; the report of a whole batch.
//! Must never: leave a waiter without an answer: a batch dropped without outcome says unknown.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use barrage_model::{Offset, PartitionId};
use tokio::sync::Notify;

use super::core::Waiting;
use super::lane::Outcome;
use crate::error::ClientError;

/// Where a record is now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Receipt {
    /// Its partition.
    pub partition: PartitionId,
    /// Its offset there.
    pub offset: Offset,
}

/// Why a record has no receipt.
#[derive(Clone, Debug, thiserror::Error)]
pub enum DeliveryError {
    /// Written and kept, but with less than was asked: do not send it again.
    #[error("written, but {0}")]
    Stored(ClientError),
    /// Surely not written.
    #[error("not written: {0}")]
    Failed(ClientError),
    /// Perhaps written: no answer came in time.
    #[error("unknown whether written: {0}")]
    Unknown(ClientError),
}

/// One batch's outcome, for programs that count rather than wait record by record.
#[derive(Debug)]
pub struct Report<'a> {
    /// The batch's partition.
    pub partition: PartitionId,
    /// How many records it held.
    pub record_count: u32,
    /// The tokens its records were sent with, in order.
    pub tokens: &'a [u64],
    /// From the first record's `send` until now.
    pub latency: Duration,
    /// What became of it.
    pub outcome: &'a Outcome,
}

/// Called with every batch's outcome, from the producer's task: be quick.
pub type OnReport = Box<dyn FnMut(&Report<'_>) + Send>;

/// A record's outcome to come. Dropping it is fine.
#[derive(Clone, Debug)]
pub struct Delivery {
    pub(crate) ticket: Arc<Ticket>,
    pub(crate) partition: PartitionId,
    pub(crate) index: u32,
}

impl Delivery {
    /// Waits until the record's fate is known, at most the delivery timeout.
    ///
    /// # Errors
    /// `Failed` when it surely was not written, `Unknown` when nobody can say, `Stored` when it was
    /// written with less than was asked.
    pub async fn wait(&self) -> Result<Receipt, DeliveryError> {
        loop {
            // Registered before looking, so that an outcome in between is not missed.
            let done = self.ticket.done.notified();
            let mut done = std::pin::pin!(done);
            done.as_mut().enable();
            if let Some(outcome) = self.ticket.outcome() {
                return self.receipt(outcome);
            }
            done.await;
        }
    }

    fn receipt(&self, outcome: Outcome) -> Result<Receipt, DeliveryError> {
        match outcome {
            Outcome::Acked { base_offset } => {
                let offset = Offset(base_offset.0 + u64::from(self.index));
                Ok(Receipt { partition: self.partition, offset })
            }
            Outcome::Stored { error } => Err(DeliveryError::Stored(error)),
            Outcome::Failed { error } => Err(DeliveryError::Failed(error)),
            Outcome::Unknown { error } => Err(DeliveryError::Unknown(error)),
        }
    }
}

/// The outcome that all records of a batch share.
#[derive(Debug, Default)]
pub(crate) struct Ticket {
    outcome: Mutex<Option<Outcome>>,
    done: Notify,
}

impl Ticket {
    fn outcome(&self) -> Option<Outcome> {
        self.outcome.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn settle(&self, outcome: &Outcome) {
        let mut place = self.outcome.lock().unwrap_or_else(PoisonError::into_inner);
        place.get_or_insert_with(|| outcome.clone());
        drop(place);
        self.done.notify_waiters();
    }
}

/// Those who wait for one batch.
#[derive(Debug, Default)]
pub(crate) struct Waiters {
    pub(crate) tokens: Vec<u64>,
    pub(crate) ticket: Arc<Ticket>,
}

impl Waiters {
    pub(crate) fn settle(&self, outcome: &Outcome) {
        self.ticket.settle(outcome);
    }
}

impl Waiting for Waiters {
    type Token = u64;
    type Handle = Arc<Ticket>;

    fn add(&mut self, token: u64) -> Arc<Ticket> {
        self.tokens.push(token);
        Arc::clone(&self.ticket)
    }
}

impl Drop for Waiters {
    fn drop(&mut self) {
        self.ticket.settle(&Outcome::Unknown { error: ClientError::Closed });
    }
}
