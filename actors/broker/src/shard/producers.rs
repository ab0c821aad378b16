//! Idempotence: what a partition remembers about each producer, and what it says to the next batch.
//!
//! ```text
//!   epoch lower                               -> Fenced
//!   epoch higher, sequence 0 (else OutOfOrder)            -> Accept
//!   producer unknown, sequence 0 (else UnknownProducer)   -> Accept
//!   epoch equal, sequence == expected         -> Accept
//!   epoch equal, same range as a remembered   -> Duplicate (its offset)
//!   epoch equal, range wholly before expected -> DuplicateOutOfWindow
//!   anything else                             -> OutOfOrder
//! ```
//!
//! Owns: epoch and the last [`WINDOW`] batches of a producer in one partition.
//! Must never: read a clock; time is the log time handed in.
//! Invariants: remembered batches are adjacent in sequence; the newest is
//! last.

use barrage_model::{Offset, ProducerEpoch, ProducerId, Sequence};
use barrage_world::planted;

use crate::api::ProduceError;

/// Batches remembered per producer and partition: as many as a client may have in flight.
pub(crate) const WINDOW: usize = 5;
/// A producer that has not written for this long (log time) is forgotten.
pub(crate) const EXPIRY_MS: i64 = 24 * 60 * 60 * 1000;

/// What an idempotent producer has put into a batch's header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ProducerStamp {
    pub(crate) id: ProducerId,
    pub(crate) epoch: ProducerEpoch,
    pub(crate) sequence: Sequence,
}

/// A batch that was accepted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Remembered {
    pub(crate) first: Sequence,
    pub(crate) last: Sequence,
    pub(crate) base_offset: Offset,
}

/// One producer in one partition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Producer {
    pub(crate) epoch: ProducerEpoch,
    /// Log time of its newest batch.
    pub(crate) last_ms: i64,
    batches: [Remembered; WINDOW],
    count: usize,
}

/// Why a batch is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Refusal {
    UnknownPartition,
    OutOfOrder {
        expected: Sequence,
        got: Sequence,
    },
    Fenced {
        epoch: ProducerEpoch,
    },
    /// The order is global, and another producer holds the partition, or none.
    NotHolder,
    /// The order is global: nothing is delayed.
    NoDelay,
    DuplicateOutOfWindow,
    UnknownProducer,
    ProducersFull,
    /// Of a batch of delayed records.
    DelayIsOver {
        due_ms: u64,
        now_ms: u64,
    },
    /// Of a batch of delayed records.
    DelayedFull {
        waiting: u64,
    },
}

impl From<Refusal> for ProduceError {
    fn from(refusal: Refusal) -> Self {
        match refusal {
            Refusal::UnknownPartition => Self::UnknownPartition,
            Refusal::OutOfOrder { expected, got } => {
                Self::OutOfOrderSequence { expected: expected.0, got: got.0 }
            }
            Refusal::Fenced { epoch } => Self::Fenced { epoch: epoch.0 },
            Refusal::NotHolder => Self::NotHolder,
            Refusal::NoDelay => Self::NoDelay,
            Refusal::DuplicateOutOfWindow => Self::DuplicateOutOfWindow,
            Refusal::UnknownProducer => Self::UnknownProducer,
            Refusal::ProducersFull => Self::ProducersFull,
            Refusal::DelayIsOver { due_ms, now_ms } => Self::DelayIsOver { due_ms, now_ms },
            Refusal::DelayedFull { waiting } => Self::DelayedFull { waiting },
        }
    }
}

/// What is to be done with a batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Decision {
    Accept,
    /// It was accepted before, at this offset.
    Duplicate(Offset),
    Refuse(Refusal),
}

impl Producer {
    /// A producer that has written nothing yet.
    pub(crate) fn new(epoch: ProducerEpoch, log_time_ms: i64) -> Self {
        Self { epoch, last_ms: log_time_ms, batches: [Remembered::default(); WINDOW], count: 0 }
    }

    /// The remembered batches, oldest first.
    pub(crate) fn batches(&self) -> &[Remembered] {
        self.batches.get(..self.count).unwrap_or_default()
    }

    /// True once it has been silent for so long that it counts as unknown.
    pub(crate) fn is_expired(&self, log_time_ms: i64) -> bool {
        log_time_ms.saturating_sub(self.last_ms) >= EXPIRY_MS
    }

    /// The sequence its next batch must begin with.
    pub(crate) fn expected(&self) -> Sequence {
        self.batches().last().map_or(Sequence(0), |newest| newest.last.wrapping_advance(1))
    }

    /// Takes note of an accepted batch; a higher epoch starts the window anew.
    pub(crate) fn remember(&mut self, epoch: ProducerEpoch, batch: Remembered, log_time_ms: i64) {
        assert!(epoch >= self.epoch, "an accepted epoch never falls");
        if epoch > self.epoch {
            *self = Self::new(epoch, log_time_ms);
        }
        if self.count == WINDOW {
            self.batches.rotate_left(1);
            self.count -= 1;
        }
        if let Some(slot) = self.batches.get_mut(self.count) {
            *slot = batch;
            self.count += 1;
        }
        self.last_ms = log_time_ms;
    }
}

/// What a producer's state says to a batch of `record_count` records.
pub(crate) fn decide(
    known: Option<&Producer>,
    stamp: ProducerStamp,
    record_count: u32,
    log_time_ms: i64,
) -> Decision {
    let got = stamp.sequence;
    let Some(producer) = known.filter(|producer| !producer.is_expired(log_time_ms)) else {
        let first = got == Sequence(0);
        return if first { Decision::Accept } else { Decision::Refuse(Refusal::UnknownProducer) };
    };
    // Wrong when planted: who was replaced goes on writing.
    if stamp.epoch < producer.epoch && !planted("broker-fence-not-checked") {
        return Decision::Refuse(Refusal::Fenced { epoch: producer.epoch });
    }
    let expected = if stamp.epoch > producer.epoch { Sequence(0) } else { producer.expected() };
    if got == expected {
        return Decision::Accept;
    }
    if stamp.epoch > producer.epoch {
        return Decision::Refuse(Refusal::OutOfOrder { expected, got });
    }
    let last = got.wrapping_advance(record_count.saturating_sub(1));
    let same = |batch: &&Remembered| batch.first == got && batch.last == last;
    if let Some(batch) = producer.batches().iter().find(same) {
        if planted("broker-duplicate-sequence-accepted") {
            // Wrong: what was sent twice is stored twice.
            return Decision::Accept;
        }
        return Decision::Duplicate(batch.base_offset);
    }
    if is_before(got, expected) && is_before(last, expected) {
        return Decision::Refuse(Refusal::DuplicateOutOfWindow);
    }
    Decision::Refuse(Refusal::OutOfOrder { expected, got })
}

/// True if `left` comes before `right` on the circle of sequences (the shorter way round).
fn is_before(left: Sequence, right: Sequence) -> bool {
    const MODULUS: i64 = i32::MAX as i64 + 1;
    let distance = (i64::from(right.0) - i64::from(left.0)).rem_euclid(MODULUS);
    distance > 0 && distance < MODULUS / 2
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stamp(epoch: i16, sequence: i32) -> ProducerStamp {
        ProducerStamp {
            id: ProducerId(7),
            epoch: ProducerEpoch(epoch),
            sequence: Sequence(sequence),
        }
    }

    /// A producer at epoch 1 that wrote `count` batches of ten records from sequence `start` on.
    fn producer(start: i32, count: u64) -> Producer {
        let mut producer = Producer::new(ProducerEpoch(1), 100);
        for number in 0..count {
            let first = Sequence(start).wrapping_advance(10 * number as u32);
            let last = first.wrapping_advance(9);
            let batch = Remembered { first, last, base_offset: Offset(1000 + 10 * number) };
            producer.remember(ProducerEpoch(1), batch, 100);
        }
        producer
    }

    fn out_of_order(expected: i32, got: i32) -> Decision {
        let (expected, got) = (Sequence(expected), Sequence(got));
        Decision::Refuse(Refusal::OutOfOrder { expected, got })
    }

    #[test]
    fn decisions() {
        use Decision::*;
        use Refusal::*;
        let known = producer(0, 7);
        let table = [
            ("next", stamp(1, 70), 10, Accept),
            ("newest again", stamp(1, 60), 10, Duplicate(Offset(1060))),
            ("oldest remembered", stamp(1, 20), 10, Duplicate(Offset(1020))),
            ("older than the window", stamp(1, 10), 10, Refuse(DuplicateOutOfWindow)),
            ("inside, cut differently", stamp(1, 60), 5, Refuse(DuplicateOutOfWindow)),
            ("overlaps the end", stamp(1, 65), 10, out_of_order(70, 65)),
            ("gap", stamp(1, 71), 10, out_of_order(70, 71)),
            ("old epoch", stamp(0, 70), 10, Refuse(Fenced { epoch: ProducerEpoch(1) })),
            ("new epoch from 0", stamp(2, 0), 10, Accept),
            ("new epoch elsewhere", stamp(2, 70), 10, out_of_order(0, 70)),
        ];
        for (what, stamp, count, want) in table {
            assert_eq!(decide(Some(&known), stamp, count, 200), want, "{what}");
        }
    }

    #[test]
    fn unknown_and_expired_producers_start_at_zero() {
        let unknown = Decision::Refuse(Refusal::UnknownProducer);
        assert_eq!(decide(None, stamp(0, 0), 10, 200), Decision::Accept);
        assert_eq!(decide(None, stamp(0, 5), 10, 200), unknown);
        let known = producer(0, 1);
        let late = 100 + EXPIRY_MS;
        assert_eq!(decide(Some(&known), stamp(1, 10), 10, late - 1), Decision::Accept);
        assert_eq!(decide(Some(&known), stamp(1, 10), 10, late), unknown);
        assert_eq!(decide(Some(&known), stamp(0, 0), 10, late), Decision::Accept);
    }

    #[test]
    fn sequences_wrap() {
        let start = i32::MAX - 14;
        let known = producer(start, 2);
        assert_eq!(known.expected(), Sequence(5));
        assert_eq!(decide(Some(&known), stamp(1, 5), 10, 200), Decision::Accept);
        assert_eq!(
            decide(Some(&known), stamp(1, start), 10, 200),
            Decision::Duplicate(Offset(1000))
        );
        let middle = i32::MAX - 4;
        assert_eq!(
            decide(Some(&known), stamp(1, middle), 10, 200),
            Decision::Duplicate(Offset(1010))
        );
        let older = Decision::Refuse(Refusal::DuplicateOutOfWindow);
        assert_eq!(decide(Some(&known), stamp(1, start - 10), 10, 200), older);
        assert_eq!(decide(Some(&known), stamp(1, 6), 10, 200), out_of_order(5, 6));
    }
}
