//! One partition's batches on their way out: the ordering rules of the idempotent producer.
//!
//! Owns: the sealed batches of one partition from sealing to their outcome, their sequences and
//! the identity (producer id, epoch) they are stamped with.
//! Must never: do I/O, read a clock (time is an argument), or let a later batch overtake.
//!
//! ```text
//!  seal -> queue: [ stamped, in flight ][ stamped, to be sent again ][ not stamped yet ]
//!            front ^ oldest                                             newest ^
//! ```
//! Invariants
//! - Stamps are given in queue order, at the first transmission, without gaps; the stamped
//!   batches are a prefix of the queue.
//! - A batch that must be sent again keeps its stamp. Before it goes out everything in flight is
//!   answered (`Draining`), so batches always leave in queue order.
//! - A batch is `uncertain` once an attempt may have been written without our being told. An
//!   uncertain batch never gets another stamp unless a gap before it proves it was refused.
//! - A stamped batch that is given up leaves a gap in the sequences, and a server may forget a
//!   producer: the lane then resets, which means that it settles what is uncertain under the old
//!   identity and goes on with another one from sequence 0.
//! - An attempt that was given up may still arrive: a server that was stopped reads it when it goes
//!   on, long after another one leads. The other identity is therefore the next epoch of the same
//!   producer: from its first batch on, the servers refuse whatever comes late. And where a gap
//!   may still be filled that way, a refusal of what follows it proves nothing.
//! - No batch is sent while one more than `in_flight_max` before it is not settled: the server
//!   must still remember the oldest when it is repeated.

use std::collections::VecDeque;
use std::time::Duration;

use barrage_model::batch::{self, BatchError};
use barrage_model::{Offset, PartitionId, ProducerEpoch, ProducerId, Sequence};
use barrage_wire::Delay;
use bytes::Bytes;

use crate::error::ClientError;

/// Retries with the same short pause, before pauses double.
const STEADY_RETRIES: u32 = 4;

/// Who a batch says it is from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Identity {
    pub(crate) id: ProducerId,
    pub(crate) epoch: ProducerEpoch,
}

impl Identity {
    /// The one that replaces this one, unless epochs are used up.
    fn next_epoch(self) -> Option<Self> {
        let epoch = self.epoch.0.checked_add(1)?;
        Some(Self { epoch: ProducerEpoch(epoch), ..self })
    }
}

/// What a batch is stamped with at its first transmission.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Stamp {
    pub(crate) identity: Identity,
    pub(crate) base_sequence: Sequence,
}

/// Names a batch within its lane; never reused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct BatchNumber(pub(crate) u64);

/// A sealed batch, before it has a stamp.
#[derive(Debug)]
pub(crate) struct Sealed<T> {
    /// The whole batch, as built.
    pub(crate) bytes: Vec<u8>,
    /// How many records it holds.
    pub(crate) record_count: u32,
    /// When its first record came.
    pub(crate) created: Duration,
    /// From when on its records are to be had, if not at once.
    pub(crate) delay: Option<Delay>,
    /// Who waits for the outcome.
    pub(crate) waiting: T,
}

/// A batch to put on the wire now. The driver owes exactly one `handle_reply` for it.
#[derive(Clone, Debug)]
pub(crate) struct Transmission {
    pub(crate) partition: PartitionId,
    pub(crate) number: BatchNumber,
    pub(crate) bytes: Bytes,
    pub(crate) delay: Option<Delay>,
}

/// How an attempt ended.
#[derive(Clone, Debug)]
pub(crate) enum Reply {
    /// Written, or written before: the offset of the first record.
    Acked { base_offset: Offset },
    /// Not now. `certain` means that this attempt surely wrote nothing.
    Retry { certain: bool, after: Option<Duration>, error: ClientError },
    /// The server expected another sequence; this attempt wrote nothing.
    OutOfOrder { error: ClientError },
    /// The server does not know the producer any more; this attempt wrote nothing.
    UnknownProducer { error: ClientError },
    /// Refused for good. `certain` means that this attempt surely wrote nothing.
    Rejected { certain: bool, error: ClientError },
    /// Written, though not as was asked or not known where; the sequences go on.
    Forgotten { error: ClientError },
}

/// What became of a batch.
#[derive(Clone, Debug)]
pub enum Outcome {
    /// Durable: the offset of the batch's first record.
    Acked {
        /// Offset of the first record; the others follow without gaps.
        base_offset: Offset,
    },
    /// Durable on a majority, but with less than was asked: not on every replica in time, or at an
    /// offset that nobody remembers. Not to be sent again.
    Stored {
        /// What is missing.
        error: ClientError,
    },
    /// Surely not written.
    Failed {
        /// Why.
        error: ClientError,
    },
    /// Written or not: no answer came in time.
    Unknown {
        /// The last thing that was heard.
        error: ClientError,
    },
}

/// A batch that is done, with its outcome.
#[derive(Debug)]
pub(crate) struct Completed<T> {
    pub(crate) partition: PartitionId,
    pub(crate) record_count: u32,
    pub(crate) size_bytes: usize,
    pub(crate) created: Duration,
    pub(crate) at: Duration,
    pub(crate) outcome: Outcome,
    pub(crate) waiting: T,
}

/// The bounds a lane keeps.
#[derive(Clone, Copy, Debug)]
pub(crate) struct LaneLimits {
    /// Batches in flight at once; the server remembers five per producer and partition.
    pub(crate) in_flight_max: usize,
    /// From a batch's first record until it is given up.
    pub(crate) delivery_timeout: Duration,
    /// Pause before sending again; doubles after a few of them, up to `retry_pause_max`.
    pub(crate) retry_pause_min: Duration,
    /// Longest pause before sending again.
    pub(crate) retry_pause_max: Duration,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// Batches leave as they come.
    Sending,
    /// Something must be sent again: nothing leaves until nothing is in flight.
    Draining,
}

/// Why the stamped batches need another identity.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Reset {
    /// No need.
    None,
    /// A batch was given up that surely was not written. The server knows the producer and refuses
    /// whatever follows the gap, so a refusal proves that a batch was never written.
    Gap,
    /// A batch was given up that may still be written, and what follows it after it.
    GapOpen,
    /// The server forgot the producer: its refusals prove nothing about earlier attempts.
    Forgotten,
}

#[derive(Debug)]
struct Pending<T> {
    number: BatchNumber,
    bytes: Body,
    size_bytes: usize,
    record_count: u32,
    created: Duration,
    delay: Option<Delay>,
    stamp: Option<Stamp>,
    in_flight: bool,
    uncertain: bool,
    error: Option<ClientError>,
    waiting: T,
}

/// The bytes of a batch: as built, or as sent under a stamp.
#[derive(Debug)]
enum Body {
    Built(Vec<u8>),
    Stamped(Bytes, Stamp),
}

/// The sealed batches of one partition.
#[derive(Debug)]
pub(crate) struct Lane<T> {
    partition: PartitionId,
    limits: LaneLimits,
    queue: VecDeque<Pending<T>>,
    phase: Phase,
    reset: Reset,
    identity: Option<Identity>,
    sequence_next: Sequence,
    number_next: BatchNumber,
    in_flight_count: usize,
    retry_at: Duration,
    retry_count: u32,
}

impl<T> Lane<T> {
    /// An empty lane.
    pub(crate) fn new(partition: PartitionId, limits: LaneLimits) -> Self {
        assert!(limits.in_flight_max > 0, "a lane that may send nothing");
        Self {
            partition,
            limits,
            queue: VecDeque::new(),
            phase: Phase::Sending,
            reset: Reset::None,
            identity: None,
            sequence_next: Sequence(0),
            number_next: BatchNumber(0),
            in_flight_count: 0,
            retry_at: Duration::ZERO,
            retry_count: 0,
        }
    }

    /// Nothing waits for an outcome.
    pub(crate) fn is_idle(&self) -> bool {
        self.queue.is_empty()
    }

    /// Takes a sealed batch; it is sent after everything already here.
    pub(crate) fn enqueue(&mut self, sealed: Sealed<T>) {
        assert!(sealed.record_count > 0, "an empty batch was sealed");
        let number = self.number_next;
        self.number_next = BatchNumber(number.0 + 1);
        self.queue.push_back(Pending {
            number,
            size_bytes: sealed.bytes.len(),
            bytes: Body::Built(sealed.bytes),
            record_count: sealed.record_count,
            created: sealed.created,
            delay: sealed.delay,
            stamp: None,
            in_flight: false,
            uncertain: false,
            error: None,
            waiting: sealed.waiting,
        });
    }

    /// True when the next step needs `handle_identity`.
    pub(crate) fn wants_identity(&self) -> bool {
        self.identity.is_none() && !self.queue.is_empty()
    }

    /// A producer id of this lane's own use: sequences start at 0.
    pub(crate) fn handle_identity(&mut self, identity: Identity) {
        if self.identity.is_none() {
            self.identity = Some(identity);
            self.sequence_next = Sequence(0);
        }
    }

    /// True when `poll_transmit` at `now` may give something: spares looking for a connection.
    pub(crate) fn is_ready(&self, now: Duration) -> bool {
        !self.queue.is_empty()
            && self.identity.is_some()
            && now >= self.retry_at
            && self.in_flight_count < self.limits.in_flight_max
            && (self.in_flight_count == 0
                || (self.phase == Phase::Sending && self.reset == Reset::None))
    }

    /// The next batch to send now.
    pub(crate) fn poll_transmit(&mut self, now: Duration) -> Option<Transmission> {
        if !self.is_ready(now) {
            return None;
        }
        if self.in_flight_count == 0 {
            self.phase = Phase::Sending;
            if self.reset != Reset::None && !self.advance_reset() {
                return None;
            }
        }
        let identity = self.identity?;
        let oldest = self.queue.front()?.number;
        let next = self.queue.iter_mut().find(|pending| !pending.in_flight)?;
        if next.number.0 - oldest.0 >= self.limits.in_flight_max as u64 {
            return None;
        }
        if next.stamp.is_none() {
            if self.reset != Reset::None {
                return None;
            }
            next.stamp = Some(Stamp { identity, base_sequence: self.sequence_next });
            self.sequence_next = self.sequence_next.wrapping_advance(next.record_count);
        }
        // Only a batch that is none cannot be stamped, and this one was just built: not sent, it
        // expires with the error.
        let bytes = match next.stamped_bytes() {
            Ok(bytes) => bytes,
            Err(error) => {
                next.error = Some(error.into());
                return None;
            }
        };
        next.in_flight = true;
        self.in_flight_count += 1;
        let (number, delay) = (next.number, next.delay.clone());
        let transmission = Transmission { partition: self.partition, number, bytes, delay };
        self.invariants();
        Some(transmission)
    }

    /// An attempt ended. Replies to batches given up meanwhile only free their place in flight.
    pub(crate) fn handle_reply(
        &mut self,
        now: Duration,
        number: BatchNumber,
        reply: Reply,
    ) -> Option<Completed<T>> {
        assert!(self.in_flight_count > 0, "a reply without a transmission");
        self.in_flight_count -= 1;
        let position = self.queue.iter().position(|pending| pending.number == number)?;
        let pending = self.queue.get_mut(position)?;
        assert!(pending.in_flight, "one transmission, one reply");
        pending.in_flight = false;
        let completed = match reply {
            Reply::Acked { base_offset } => {
                self.retry_count = 0;
                self.take(now, position, Outcome::Acked { base_offset })
            }
            Reply::Retry { certain, after, error } => {
                pending.uncertain |= !certain;
                pending.error = Some(error);
                self.send_again(now, after);
                None
            }
            // What came before is not settled yet: its repetition tells.
            Reply::OutOfOrder { error } | Reply::UnknownProducer { error } if position > 0 => {
                pending.error = Some(error);
                self.phase = Phase::Draining;
                None
            }
            Reply::OutOfOrder { error } if self.reset == Reset::Gap => {
                pending.error = Some(error);
                pending.uncertain = false;
                None
            }
            Reply::OutOfOrder { error } if self.reset == Reset::GapOpen => {
                if pending.uncertain {
                    self.give_up(now, position, Outcome::Unknown { error })
                } else {
                    pending.error = Some(error);
                    None
                }
            }
            Reply::OutOfOrder { error } | Reply::UnknownProducer { error } => {
                self.reset = Reset::Forgotten;
                if pending.uncertain {
                    self.give_up(now, position, Outcome::Unknown { error })
                } else {
                    pending.error = Some(error);
                    self.send_again(now, None);
                    None
                }
            }
            Reply::Rejected { certain, error } if pending.uncertain || !certain => {
                self.give_up(now, position, Outcome::Unknown { error })
            }
            Reply::Rejected { error, .. } => self.give_up(now, position, Outcome::Failed { error }),
            Reply::Forgotten { error } => self.take(now, position, Outcome::Stored { error }),
        };
        self.invariants();
        completed
    }

    /// Gives up the oldest batch when its time is over; call until `None`.
    pub(crate) fn poll_expired(&mut self, now: Duration) -> Option<Completed<T>> {
        let front = self.queue.front()?;
        if now < front.created + self.limits.delivery_timeout {
            return None;
        }
        let error = front.error.clone().unwrap_or(ClientError::DeliveryTimeout);
        self.poll_abandoned(now, error)
    }

    /// Gives up the oldest batch, whatever its time; call until `None`.
    pub(crate) fn poll_abandoned(
        &mut self,
        now: Duration,
        error: ClientError,
    ) -> Option<Completed<T>> {
        let front = self.queue.front()?;
        let outcome = if front.in_flight || front.uncertain {
            Outcome::Unknown { error }
        } else {
            Outcome::Failed { error }
        };
        self.give_up(now, 0, outcome)
    }

    /// Remembers why nothing can be sent now, for the outcome of batches that expire.
    pub(crate) fn note_error(&mut self, error: &ClientError) {
        for pending in self.queue.iter_mut().filter(|pending| !pending.in_flight) {
            pending.error = Some(error.clone());
        }
    }

    /// When `poll_expired` or `poll_transmit` next has something to do by time alone.
    pub(crate) fn deadline(&self, now: Duration) -> Option<Duration> {
        let expiry = self.queue.front()?.created + self.limits.delivery_timeout;
        let retry = Some(self.retry_at).filter(|at| *at > now);
        Some(retry.map_or(expiry, |at| at.min(expiry)))
    }

    fn send_again(&mut self, now: Duration, after: Option<Duration>) {
        // Several batches of one round fail together: they share one pause.
        if now >= self.retry_at {
            // A planned change of leader takes some 40 ms: who doubles his pauses meanwhile comes
            // back long after it is over.
            let doublings = self.retry_count.saturating_sub(STEADY_RETRIES).min(16);
            let pause = self.limits.retry_pause_min.saturating_mul(1 << doublings);
            self.retry_at = now + after.unwrap_or(pause).min(self.limits.retry_pause_max);
            self.retry_count = self.retry_count.saturating_add(1);
        }
        self.phase = Phase::Draining;
    }

    fn give_up(&mut self, now: Duration, at: usize, outcome: Outcome) -> Option<Completed<T>> {
        let gap = match outcome {
            Outcome::Unknown { .. } => Reset::GapOpen,
            _ => Reset::Gap,
        };
        let is_stamped = self.queue.get(at)?.stamp.is_some();
        if is_stamped && self.reset != Reset::Forgotten && self.reset != Reset::GapOpen {
            self.reset = gap;
        }
        self.take(now, at, outcome)
    }

    fn take(&mut self, now: Duration, at: usize, outcome: Outcome) -> Option<Completed<T>> {
        let pending = self.queue.remove(at)?;
        Some(Completed {
            partition: self.partition,
            record_count: pending.record_count,
            size_bytes: pending.size_bytes,
            created: pending.created,
            at: now,
            outcome,
            waiting: pending.waiting,
        })
    }

    /// One step of a reset while nothing is in flight. True when there is something to send under
    /// the old identity: the uncertain batches at the front, which must be settled first.
    fn advance_reset(&mut self) -> bool {
        assert_eq!(self.in_flight_count, 0, "a reset waits for what is in flight");
        // The server refuses what follows a batch it refused, so from the first batch that surely
        // was not written on, nothing was written.
        let settled = self
            .queue
            .iter()
            .position(|pending| pending.stamp.is_none() || !pending.uncertain)
            .unwrap_or(self.queue.len());
        for pending in self.queue.iter_mut().skip(settled) {
            pending.stamp = None;
            pending.uncertain = false;
        }
        if settled > 0 {
            return true;
        }
        self.reset = Reset::None;
        self.identity = self.identity.and_then(Identity::next_epoch);
        self.sequence_next = Sequence(0);
        self.identity.is_some()
    }

    fn invariants(&self) {
        debug_assert!(
            self.queue.iter().is_sorted_by_key(|pending| pending.stamp.is_none()),
            "stamped batches are a prefix"
        );
        debug_assert!(
            self.queue.iter().filter(|pending| pending.in_flight).count() <= self.in_flight_count,
            "what is in flight is counted"
        );
    }
}

impl<T> Pending<T> {
    /// The batch with its stamp in place. Patching is cheap: the CRC is combined, not recomputed.
    fn stamped_bytes(&mut self) -> Result<Bytes, BatchError> {
        assert!(self.stamp.is_some(), "a batch is stamped before it is sent");
        let Some(stamp) = self.stamp else { return Ok(Bytes::new()) };
        let mut bytes = match &mut self.bytes {
            Body::Stamped(bytes, as_sent) if *as_sent == stamp => return Ok(bytes.clone()),
            // Copied only when an earlier attempt still holds the bytes, after a reset.
            Body::Stamped(bytes, _) => Vec::from(std::mem::take(bytes)),
            Body::Built(bytes) => std::mem::take(bytes),
        };
        let Identity { id, epoch } = stamp.identity;
        batch::set_producer(&mut bytes, id, epoch, stamp.base_sequence)?;
        let bytes = Bytes::from(bytes);
        self.bytes = Body::Stamped(bytes.clone(), stamp);
        Ok(bytes)
    }
}

#[cfg(test)]
mod tests;
