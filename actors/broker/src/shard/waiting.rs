//! What waits to be proposed to one shard, bounded in bytes and count.
//!
//! Owns: what waits (commands go first) and the proposer's waker.
//! Must never: hold more than its bounds; who does not fit gets his batch back at once.
//! Invariants: `bytes` is the sum of the batches that wait; order of arrival is kept.

use std::collections::VecDeque;
use std::task::Waker;

use barrage_raft::ProposeError;
use barrage_world::Instant;
use barrage_world::channel::oneshot;

use super::entry::{BATCH_OVERHEAD, WaitingBatch};
use super::groups::{LEASE_MAX, Op, Outcome, What};
use super::streams::{StreamOp, StreamOutcome};
use crate::api::queue::QueueError;
use crate::command::Command;
use crate::queue::backlog::AHEAD_MAX;
use crate::queue::window::CHUNK;
use crate::reply::ProduceReply;

/// Batches that may wait for one shard, whatever their size.
const BATCHES_WAITING_MAX: usize = 16 * 1024;

/// A command that carries no records.
pub(crate) struct Control {
    pub(crate) command: Command,
    pub(crate) reply: oneshot::Sender<Result<(), ProposeError>>,
}

/// Operations that may wait for one shard, and receipts in all of them together.
const OPS_WAITING_MAX: usize = 16 * 1024;
const RECEIPTS_WAITING_MAX: usize = 1 << 20;

/// An operation on a group that waits to be proposed.
pub(crate) struct WaitingOp {
    pub(crate) op: Op,
    pub(crate) reply: OpReply,
}

/// The way back to who wants it.
pub(crate) type OpReply = oneshot::Sender<Result<Outcome, QueueError>>;

/// Operations on stream groups that may wait for one shard, and bytes of all of them together.
const STREAM_OPS_WAITING_MAX: usize = 16 * 1024;
const STREAM_BYTES_WAITING_MAX: usize = 32 << 20;

/// An operation on a stream group that waits to be proposed.
pub(crate) struct WaitingStreamOp {
    pub(crate) op: StreamOp,
    pub(crate) reply: StreamOpReply,
}

/// The way back to who wants it.
pub(crate) type StreamOpReply = oneshot::Sender<Result<StreamOutcome, QueueError>>;

/// A shard's proposal buffer.
pub(crate) struct Waiting {
    controls: VecDeque<Control>,
    ops: VecDeque<WaitingOp>,
    receipts: usize,
    stream_ops: VecDeque<WaitingStreamOp>,
    stream_bytes: usize,
    batches: VecDeque<WaitingBatch<ProduceReply>>,
    bytes: usize,
    bytes_max: usize,
    waker: Option<Waker>,
    /// Bytes of batches from which on it is woken.
    wake_bytes: usize,
}

impl Waiting {
    /// An empty buffer that holds `bytes_max` bytes of batches.
    pub(crate) fn new(bytes_max: usize) -> Self {
        Self {
            controls: VecDeque::new(),
            ops: VecDeque::new(),
            receipts: 0,
            stream_ops: VecDeque::new(),
            stream_bytes: 0,
            batches: VecDeque::new(),
            bytes: 0,
            bytes_max,
            waker: None,
            wake_bytes: 0,
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
        Ok(self.wake())
    }

    /// Takes a command; whoever sends them waits for the answer, so there are few.
    pub(crate) fn push_control(&mut self, control: Control) -> Option<Waker> {
        self.controls.push_back(control);
        self.wake()
    }

    /// Takes an operation on a group, or gives it back when full.
    pub(crate) fn push_op(&mut self, op: WaitingOp) -> Result<Option<Waker>, WaitingOp> {
        let receipts = self.receipts.saturating_add(weight(&op.op));
        let fits = receipts <= RECEIPTS_WAITING_MAX && self.ops.len() < OPS_WAITING_MAX;
        if !self.ops.is_empty() && !fits {
            return Err(op);
        }
        self.receipts = receipts;
        self.ops.push_back(op);
        Ok(self.wake())
    }

    /// The next operations for one entry, that touch about so many records at most.
    pub(crate) fn pop_ops(&mut self, count_max: usize, records_max: usize) -> Vec<WaitingOp> {
        let mut taken = Vec::new();
        let mut records: usize = 0;
        while taken.len() < count_max {
            let Some(next) = self.ops.front() else { break };
            records = records.saturating_add(work(&next.op));
            if !taken.is_empty() && records > records_max {
                break;
            }
            self.receipts -= weight(&next.op);
            taken.extend(self.ops.pop_front());
        }
        taken
    }

    /// Takes an operation on a stream group, or gives it back when full.
    pub(crate) fn push_stream_op(
        &mut self,
        op: WaitingStreamOp,
    ) -> Result<Option<Waker>, WaitingStreamOp> {
        let bytes = self.stream_bytes.saturating_add(op.op.size());
        let fits =
            bytes <= STREAM_BYTES_WAITING_MAX && self.stream_ops.len() < STREAM_OPS_WAITING_MAX;
        if !self.stream_ops.is_empty() && !fits {
            return Err(op);
        }
        self.stream_bytes = bytes;
        self.stream_ops.push_back(op);
        Ok(self.wake())
    }

    /// The next operations on stream groups for one entry, of so many bytes at most.
    pub(crate) fn pop_stream_ops(
        &mut self,
        count_max: usize,
        bytes_max: usize,
    ) -> Vec<WaitingStreamOp> {
        let mut taken = Vec::new();
        let mut bytes: usize = 0;
        while taken.len() < count_max {
            let Some(next) = self.stream_ops.front() else { break };
            let size = next.op.size();
            bytes = bytes.saturating_add(size);
            if !taken.is_empty() && bytes > bytes_max {
                break;
            }
            self.stream_bytes -= size;
            taken.extend(self.stream_ops.pop_front());
        }
        taken
    }

    /// True if operations on stream groups wait.
    pub(crate) fn has_stream_ops(&self) -> bool {
        !self.stream_ops.is_empty()
    }

    /// True if operations on queue groups wait.
    pub(crate) fn has_ops(&self) -> bool {
        !self.ops.is_empty()
    }

    /// True if batches wait.
    pub(crate) fn has_batches(&self) -> bool {
        !self.batches.is_empty()
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
        if !fits(self.batches.front()?.batch.size()) {
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
    pub(crate) fn set_waker(&mut self, waker: &Waker, wake_bytes: usize) {
        self.wake_bytes = wake_bytes;
        if !self.waker.as_ref().is_some_and(|known| known.will_wake(waker)) {
            self.waker = Some(waker.clone());
        }
    }

    /// Hands out the waker, to wake the proposer for another reason.
    pub(crate) fn take_waker(&mut self) -> Option<Waker> {
        self.waker.take()
    }

    fn wake(&mut self) -> Option<Waker> {
        if self.bytes < self.wake_bytes { None } else { self.waker.take() }
    }

    /// Bytes of the batches that wait.
    pub(crate) const fn batch_bytes(&self) -> usize {
        self.bytes
    }

    /// True if nothing waits.
    pub(crate) fn is_empty(&self) -> bool {
        self.controls.is_empty()
            && self.ops.is_empty()
            && self.stream_ops.is_empty()
            && self.batches.is_empty()
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

/// Records that an operation may touch: apply does them all in one turn.
fn work(op: &Op) -> usize {
    match &op.what {
        What::Lease { count_max, .. } => (*count_max).min(LEASE_MAX) as usize,
        What::LeaseWanted { count_max, found, .. } => {
            // A word of bits for 64 that are not wanted.
            let settled = usize::try_from(found.count() / 64).unwrap_or(usize::MAX);
            settled.saturating_add((*count_max).min(LEASE_MAX) as usize + weight(op))
        }
        What::LeaseChosen { from, chosen, .. } => {
            // Those that are passed over are marked one by one.
            let passed = chosen.last().map_or(0, |last| last.0.saturating_sub(from.0));
            usize::try_from(passed.min(AHEAD_MAX)).unwrap_or(0).saturating_add(weight(op))
        }
        What::PassTime(chunks) => chunks.len().saturating_mul(CHUNK as usize),
        _ => weight(op),
    }
}

/// Receipts that an operation carries, or ranges, which are as large.
fn weight(op: &Op) -> usize {
    match &op.what {
        What::Ack(receipts) | What::Release(receipts) | What::Expire(receipts) => receipts.len(),
        What::Nack(receipts) => receipts.len(),
        What::Extend(receipts) => receipts.len(),
        What::PassTime(chunks) => chunks.len(),
        What::LeaseWanted { found, .. } => found.wanted().len(),
        What::LeaseChosen { chosen, .. } => chosen.len(),
        What::GiveUp(ids) | What::Cancel(ids) => ids.len(),
        What::Reschedule(all) => all.len(),
        What::Lease { .. }
        | What::Depart { .. }
        | What::Renumber { .. }
        | What::Arrived { .. }
        | What::Rewind { .. }
        | What::Skip { .. }
        | What::Claim(_) => 0,
    }
}

fn cost(batch: &WaitingBatch<ProduceReply>) -> usize {
    batch.batch.size() + BATCH_OVERHEAD
}
