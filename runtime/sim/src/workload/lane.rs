//! One partition's batches of one producer: what was sent, what became of it, what goes next.
//!
//! Owns: sequences, order, and the rules by which an answer is impossible. Pure: no connection,
//! no clock. Must never: send a batch while more than the window before it are unsettled.
//!
//! ```text
//!   pending: [ acked, waiting for those before ][ sent ][ to be sent again ][ new ]
//!   refused or lost -> draining: nothing goes until every attempt is answered -> from the front
//! ```

use std::collections::{BTreeSet, VecDeque};

use barrage_model::{ProducerEpoch, ProducerId, Sequence};
use barrage_wire::Delay;
use bytes::Bytes;

use super::batch::{Later, Made};
use crate::history::{Call, SentRecord, Stamp};

/// Names one transmission among all of its producer's.
pub(crate) type AttemptId = u64;

/// Batches that a broker remembers per producer and partition.
pub(crate) const REMEMBERED: u64 = 5;

/// One transmission of a batch.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Attempt {
    pub(crate) id: AttemptId,
    pub(crate) call: Call,
    /// The last transmission of the batch before, when it went over the same connection.
    behind: Option<AttemptId>,
    /// The batch before was acknowledged when this went out.
    settled_before: bool,
}

/// A batch.
#[derive(Clone, Debug)]
pub(crate) struct Batch {
    pub(crate) number: u64,
    pub(crate) stamp: Option<Stamp>,
    pub(crate) bytes: Bytes,
    pub(crate) records: Vec<SentRecord>,
    pub(crate) later: Option<Later>,
    pub(crate) acked: Option<u64>,
    /// It goes out in its turn.
    due: bool,
    attempts: Vec<Attempt>,
    last_attempt: Option<(u32, AttemptId)>,
}

/// See the module.
#[derive(Debug, Default)]
pub(crate) struct Lane {
    pub(crate) pending: VecDeque<Batch>,
    /// Acknowledged ones that are still remembered, oldest first.
    recent: VecDeque<Batch>,
    number_next: u64,
    sequence_next: i32,
    draining: bool,
    /// Attempts that were answered with an offset.
    done: BTreeSet<AttemptId>,
    /// Attempts that may not be: one behind them was refused for want of them.
    missed: BTreeSet<AttemptId>,
}

/// What an answer says about order.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Verdict {
    Possible,
    /// The batch before it was there.
    Impossible,
}

impl Lane {
    /// Whether every batch has its outcome.
    pub(crate) fn is_settled(&self) -> bool {
        self.pending.is_empty()
    }

    /// The stamp of the next new batch.
    pub(crate) fn next_stamp(
        &self,
        identity: Option<(ProducerId, ProducerEpoch)>,
    ) -> Option<Stamp> {
        let (producer, epoch) = identity?;
        Some(Stamp { producer, epoch, sequence: Sequence(self.sequence_next) })
    }

    /// Adds a new batch: it is due.
    pub(crate) fn push(&mut self, made: Made, stamp: Option<Stamp>) {
        let count = i32::try_from(made.records.len()).unwrap_or(i32::MAX);
        self.sequence_next += count;
        let number = self.number_next;
        self.number_next += 1;
        self.pending.push_back(Batch {
            number,
            stamp,
            bytes: made.bytes,
            records: made.records,
            later: made.later,
            acked: None,
            due: true,
            attempts: Vec::new(),
            last_attempt: None,
        });
    }

    /// The next batch to go out, in order.
    pub(crate) fn due(&mut self) -> Option<u64> {
        if self.draining {
            if self.pending.iter().any(|batch| !batch.attempts.is_empty()) {
                return None;
            }
            self.draining = false;
            for batch in &mut self.pending {
                batch.due = batch.acked.is_none();
            }
        }
        self.pending.iter().find(|batch| batch.due).map(|batch| batch.number)
    }

    /// A batch that was sent, to be sent again for no reason: unanswered or just acknowledged.
    pub(crate) fn repeatable(&self, drawn: u64) -> Option<u64> {
        if self.draining {
            return None;
        }
        let sent = |batch: &&Batch| batch.last_attempt.is_some() && !batch.due;
        let all: Vec<u64> = self
            .recent
            .iter()
            .chain(&self.pending)
            .filter(sent)
            .filter(|batch| batch.stamp.is_some())
            .map(|batch| batch.number)
            .collect();
        all.get(drawn.checked_rem(all.len() as u64)? as usize).copied()
    }

    pub(crate) fn batch(&self, number: u64) -> Option<&Batch> {
        self.recent.iter().chain(&self.pending).find(|batch| batch.number == number)
    }

    fn batch_mut(&mut self, number: u64) -> Option<&mut Batch> {
        self.recent.iter_mut().chain(&mut self.pending).find(|batch| batch.number == number)
    }

    /// A batch goes out over a connection.
    pub(crate) fn sent(&mut self, number: u64, id: AttemptId, call: Call, connection: u32) {
        let before = number.checked_sub(1).and_then(|before| self.batch(before));
        // What is not among them any more was acknowledged long ago.
        let settled_before = before.is_none_or(|before| before.acked.is_some());
        let same = |(over, _): &(u32, AttemptId)| *over == connection;
        let behind = before.and_then(|it| it.last_attempt).filter(same).map(|(_, id)| id);
        if let Some(batch) = self.batch_mut(number) {
            batch.due = false;
            batch.last_attempt = Some((connection, id));
            batch.attempts.push(Attempt { id, call, behind, settled_before });
        }
    }

    /// The attempt is over; answers it with the number of its batch.
    fn end(&mut self, id: AttemptId) -> Option<(u64, Attempt)> {
        for batch in self.recent.iter_mut().chain(&mut self.pending) {
            if let Some(at) = batch.attempts.iter().position(|attempt| attempt.id == id) {
                return Some((batch.number, batch.attempts.remove(at)));
            }
        }
        None
    }

    /// Calls under way, to be given up.
    pub(crate) fn end_all(&mut self) -> Vec<Call> {
        let all = self.recent.iter_mut().chain(&mut self.pending);
        all.flat_map(|batch| std::mem::take(&mut batch.attempts)).map(|it| it.call).collect()
    }

    /// Acknowledged at `base`: the call and batch, and whether that was possible.
    pub(crate) fn acknowledged(
        &mut self,
        id: AttemptId,
        base: u64,
    ) -> Option<(Attempt, Batch, Verdict)> {
        let (number, attempt) = self.end(id)?;
        self.done.insert(id);
        while self.done.len() > DONE_MAX {
            self.done.pop_first();
        }
        let missed = self.missed.remove(&id);
        let batch = self.batch_mut(number)?;
        let moved = batch.acked.is_some_and(|before| before != base);
        batch.acked = Some(base);
        batch.due = false;
        let copy = batch.clone();
        self.settle();
        let verdict = if missed || moved { Verdict::Impossible } else { Verdict::Possible };
        Some((attempt, copy, verdict))
    }

    /// What is acknowledged, and all before it, is pending no more.
    fn settle(&mut self) {
        while self.pending.front().is_some_and(|batch| batch.acked.is_some()) {
            self.recent.extend(self.pending.pop_front());
        }
        while self.recent.len() as u64 > REMEMBERED
            && self.recent.front().is_some_and(|batch| batch.attempts.is_empty())
        {
            self.recent.pop_front();
        }
    }

    /// Refused, or its outcome unknown: everything unsettled goes again, in order.
    pub(crate) fn again(&mut self, id: AttemptId) -> Option<Attempt> {
        let (number, attempt) = self.end(id)?;
        if self.batch(number).is_some_and(|batch| batch.acked.is_none()) {
            self.draining = true;
        }
        Some(attempt)
    }

    /// Refused, as the time of some of it is over by now: those are to be had at once when it goes
    /// again, the others after what is left of theirs.
    pub(crate) fn is_over(&mut self, id: AttemptId, now_ms: u64) -> Option<Attempt> {
        let all = self.recent.iter_mut().chain(&mut self.pending);
        let mut all = all.filter(|batch| batch.attempts.iter().any(|attempt| attempt.id == id));
        if let Some(later) = all.next().and_then(|batch| batch.later.as_mut()) {
            if let Delay::At(dues_ms) = &later.delay {
                let left = dues_ms.iter().map(|due_ms| due_ms.saturating_sub(now_ms));
                later.delay = Delay::After(left.collect());
            }
        }
        self.again(id)
    }

    /// Given up: nobody sends it again.
    pub(crate) fn drop_batch(&mut self, id: AttemptId) -> Option<Attempt> {
        let (number, attempt) = self.end(id)?;
        self.leave(number);
        Some(attempt)
    }

    /// Nothing more is sent of a batch, unless an attempt of it is still under way.
    fn leave(&mut self, number: u64) {
        let left = |batch: &Batch| batch.number == number && batch.attempts.is_empty();
        self.pending.retain(|batch| batch.acked.is_some() || !left(batch));
        self.settle();
    }

    /// Refused because one before it is missing, or its producer is not known.
    pub(crate) fn missing(&mut self, id: AttemptId) -> Option<(Attempt, Verdict)> {
        let attempt = self.again(id)?;
        let there = attempt.behind.is_some_and(|behind| self.done.contains(&behind));
        if let Some(behind) = attempt.behind {
            self.missed.insert(behind);
            while self.missed.len() > DONE_MAX {
                self.missed.pop_first();
            }
        }
        let impossible = there || attempt.settled_before;
        Some((attempt, if impossible { Verdict::Impossible } else { Verdict::Possible }))
    }

    /// Refused as a duplicate that is too old to be remembered: whether that may be.
    pub(crate) fn forgotten(&mut self, id: AttemptId) -> Option<(Attempt, Verdict)> {
        let (number, attempt) = self.end(id)?;
        let far = self.number_next > number + REMEMBERED;
        // It is stored, and nobody can tell where any more.
        self.leave(number);
        Some((attempt, if far { Verdict::Possible } else { Verdict::Impossible }))
    }

    /// Begins anew, in another epoch; answers the sequence that would have been next.
    pub(crate) fn reset(&mut self) -> i32 {
        std::mem::take(self).sequence_next
    }

    /// The sequence of the next new batch.
    pub(crate) fn sequence_next(&self) -> i32 {
        self.sequence_next
    }

    /// Batches acknowledged so far in this epoch, about.
    pub(crate) fn has_acknowledged(&self) -> bool {
        !self.recent.is_empty()
    }
}

/// Attempts remembered as answered.
const DONE_MAX: usize = 64;
