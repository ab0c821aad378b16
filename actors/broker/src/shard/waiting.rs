//! What waits to be proposed to one shard, bounded in bytes and count.
//!
//! Owns: the two queues (commands go first) and the proposer's waker.
//! Must never: hold more than its bounds; who does not fit gets his batch back at once.
//! Invariants: `bytes` is the sum of the batches that wait; order of arrival is kept.

use std::collections::VecDeque;
use std::task::Waker;

use barrage_raft::ProposeError;
use barrage_world::Instant;
use barrage_world::channel::oneshot;

use super::entry::{BATCH_OVERHEAD, WaitingBatch};
use crate::command::Command;
use crate::reply::ProduceReply;

/// Batches that may wait for one shard, whatever their size.
const BATCHES_WAITING_MAX: usize = 16 * 1024;

/// A command that carries no records.
pub(crate) struct Control {
    pub(crate) command: Command,
    pub(crate) reply: oneshot::Sender<Result<(), ProposeError>>,
}

/// A shard's proposal buffer.
pub(crate) struct Waiting {
    controls: VecDeque<Control>,
    batches: VecDeque<WaitingBatch<ProduceReply>>,
    bytes: usize,
    bytes_max: usize,
    waker: Option<Waker>,
}

impl Waiting {
    /// An empty buffer that holds `bytes_max` bytes of batches.
    pub(crate) fn new(bytes_max: usize) -> Self {
        Self {
            controls: VecDeque::new(),
            batches: VecDeque::new(),
            bytes: 0,
            bytes_max,
            waker: None,
        }
    }

    /// Takes a batch, or gives it back when full. One batch always fits into an empty one.
    #[expect(clippy::result_large_err, reason = "a refused batch goes back; a box costs every one")]
    pub(crate) fn push(
        &mut self,
        batch: WaitingBatch<ProduceReply>,
    ) -> Result<Option<Waker>, WaitingBatch<ProduceReply>> {
        let size = cost(&batch);
        let fits = self.bytes.saturating_add(size) <= self.bytes_max;
        if !self.batches.is_empty() && (!fits || self.batches.len() >= BATCHES_WAITING_MAX) {
            return Err(batch);
        }
        self.bytes += size;
        self.batches.push_back(batch);
        Ok(self.waker.take())
    }

    /// Takes a command; whoever sends them waits for the answer, so there are few.
    pub(crate) fn push_control(&mut self, control: Control) -> Option<Waker> {
        self.controls.push_back(control);
        self.waker.take()
    }

    /// The next command.
    pub(crate) fn pop_control(&mut self) -> Option<Control> {
        self.controls.pop_front()
    }

    /// The next batch if `fits` its size.
    pub(crate) fn pop_if(
        &mut self,
        fits: impl FnOnce(usize) -> bool,
    ) -> Option<WaitingBatch<ProduceReply>> {
        if !fits(self.batches.front()?.batch.bytes.len()) {
            return None;
        }
        let batch = self.batches.pop_front()?;
        self.bytes -= cost(&batch);
        Some(batch)
    }

    /// Takes out the batches whose deadline has passed.
    pub(crate) fn take_expired(&mut self, now: Instant) -> Vec<WaitingBatch<ProduceReply>> {
        if self.batches.iter().all(|batch| batch.deadline > now) {
            return Vec::new();
        }
        let mut expired = Vec::new();
        for batch in std::mem::take(&mut self.batches) {
            if batch.deadline > now {
                self.batches.push_back(batch);
            } else {
                expired.push(batch);
            }
        }
        self.bytes = self.batches.iter().map(cost).sum();
        expired
    }

    /// Remembers whom to wake when something arrives.
    pub(crate) fn set_waker(&mut self, waker: &Waker) {
        if !self.waker.as_ref().is_some_and(|known| known.will_wake(waker)) {
            self.waker = Some(waker.clone());
        }
    }

    /// Hands out the waker, to wake the proposer for another reason.
    pub(crate) fn take_waker(&mut self) -> Option<Waker> {
        self.waker.take()
    }

    /// True if nothing waits.
    pub(crate) fn is_empty(&self) -> bool {
        self.controls.is_empty() && self.batches.is_empty()
    }

    /// Batches that wait.
    pub(crate) fn batches(&self) -> usize {
        self.batches.len()
    }

    /// Bytes that wait.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }
}

fn cost(batch: &WaitingBatch<ProduceReply>) -> usize {
    batch.batch.bytes.len() + BATCH_OVERHEAD
}
