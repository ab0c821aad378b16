//! One entry in the making: batches that waited, decided on the projected state and grouped by
//! partition.
//!
//! ```text
//! waiting:  A B A C A   --offsets stamped, rows beside-->   run A [A A A]  run B [B]  run C [C]
//! ```
//!
//! Owns: grouping and stamping. Must never: copy payload, read a clock.
//! Invariants: batches of one partition lie in the order they came, with consecutive offsets; every
//! waiter stands at the offset its batch was stamped with.
//!
//! `R` is the way back to who asked; the tests use a number.

use std::collections::BTreeMap;

use barrage_commitlog::{Batch, Run};
use barrage_model::limits::RECORDS_PER_BATCH_MAX;
use barrage_model::{Offset, PartitionKey};
use barrage_world::Instant;

use super::decide::{self, BatchRow, State};
use super::producers::{Decision, Refusal};
use crate::api::ProduceError;
use crate::api::delay::Delay;
use crate::command::{Command, DelayedRuns};
use crate::door::{CheckedBatch, When};
use crate::queue::delays::DELAYED_MAX;

/// Batches in one entry, at most.
pub(crate) const BATCHES_MAX: usize = 4096;
/// An instant that is over by so little is taken for now: clocks of clients differ.
pub(crate) const OVER_MS: u64 = 5_000;
/// What a batch costs in an entry besides its bytes: its row and its share of the headers.
pub(crate) const BATCH_OVERHEAD: usize = 128;

// A run counts its records in 32 bits.
const _: () = assert!(BATCHES_MAX as u64 * RECORDS_PER_BATCH_MAX as u64 <= u32::MAX as u64);

/// A batch that waits to be proposed.
pub(crate) struct WaitingBatch<R> {
    pub(crate) key: PartitionKey,
    pub(crate) batch: CheckedBatch,
    pub(crate) deadline: Instant,
    pub(crate) reply: R,
}

/// Who waits for a batch in an entry; `None` once answered.
pub(crate) struct Waiter<R> {
    pub(crate) base_offset: Offset,
    pub(crate) deadline: Instant,
    pub(crate) reply: Option<R>,
}

/// The waiters of one run.
pub(crate) struct RunWaiters<R> {
    pub(crate) key: PartitionKey,
    pub(crate) base_offset: Offset,
    pub(crate) next_offset: Offset,
    pub(crate) record_count: u32,
    pub(crate) byte_len: u32,
    /// In offset order, followed by those who sent a duplicate.
    pub(crate) waiters: Vec<Waiter<R>>,
}

/// An entry in the making.
pub(crate) struct Building<R> {
    log_time_ms: i64,
    /// What the leader's clock says: delays go by it. The log's may be ahead for long, after a
    /// leader whose clock was.
    clock_ms: u64,
    leader_epoch: i32,
    runs: Vec<Run>,
    rows: Vec<Vec<BatchRow>>,
    /// Until when the records of a run wait, and which that have waited are in a run.
    dues_ms: BTreeMap<usize, Vec<u64>>,
    released: BTreeMap<usize, Vec<Offset>>,
    waiters: Vec<RunWaiters<R>>,
    by_key: BTreeMap<PartitionKey, usize>,
    bytes: usize,
    batches: usize,
}

/// What became of a batch that was offered to an entry.
pub(crate) enum Taken<R> {
    /// It is part of the entry.
    In,
    /// It was accepted before, at this offset: maybe in this entry, maybe in one in flight.
    Duplicate { key: PartitionKey, waiter: Waiter<R> },
    /// It is refused.
    Refused { reply: R, error: ProduceError },
}

/// A finished entry.
pub(crate) struct Built<R> {
    pub(crate) command: Vec<u8>,
    pub(crate) runs: Vec<Run>,
    pub(crate) waiters: Vec<RunWaiters<R>>,
}

impl<R> Building<R> {
    /// An empty entry at this log time, and this time by the leader's clock, to be proposed in the
    /// term `leader_epoch`.
    pub(crate) fn new(log_time_ms: i64, clock_ms: i64, leader_epoch: i32) -> Self {
        Self {
            log_time_ms,
            clock_ms: u64::try_from(clock_ms).unwrap_or(0),
            leader_epoch,
            runs: Vec::new(),
            rows: Vec::new(),
            dues_ms: BTreeMap::new(),
            released: BTreeMap::new(),
            waiters: Vec::new(),
            by_key: BTreeMap::new(),
            bytes: 0,
            batches: 0,
        }
    }

    /// True while nothing has been taken.
    pub(crate) fn is_empty(&self) -> bool {
        self.batches == 0
    }

    /// True if a batch of this size still fits; the first one always does.
    pub(crate) fn has_room(&self, size: usize, bytes_max: usize) -> bool {
        let fits = self.bytes.saturating_add(size).saturating_add(BATCH_OVERHEAD) <= bytes_max;
        self.is_empty() || (fits && self.batches < BATCHES_MAX)
    }

    /// Decides a batch on the projected state and takes it in if it is accepted. `delayed` is asked
    /// how many delayed records wait in its partition.
    ///
    /// What is told for good has to be applied: of what is under way nobody knows yet whether it
    /// comes to be. A refusal that goes by that is `Retry`; until then, too, a batch older than the
    /// window is not known to be stored.
    pub(crate) fn offer(
        &mut self,
        (projected, applied): (&mut State, &State),
        offered: WaitingBatch<R>,
        delayed: impl FnOnce(PartitionKey) -> u64,
    ) -> Taken<R> {
        let WaitingBatch { key, batch, deadline, reply } = offered;
        let waiter = |base_offset, reply| Waiter { base_offset, deadline, reply: Some(reply) };
        let place = match &batch.when {
            When::Later(_) => key.delay_store(),
            _ => key,
        };
        match projected.decide(place, &batch.row, self.log_time_ms) {
            Decision::Refuse(refusal) => {
                let stands = applied.decide(place, &batch.row, self.log_time_ms)
                    == Decision::Refuse(refusal);
                let error = if stands { refusal.into() } else { ProduceError::Retry };
                Taken::Refused { reply, error }
            }
            Decision::Duplicate(base) => {
                let (key, base) = decide::remembered_at(key, base);
                Taken::Duplicate { key, waiter: waiter(base, reply) }
            }
            Decision::Accept => {
                // One that is repeated is none of this: it was judged when it first came.
                if let When::Later(later) = &batch.when
                    && let Err(refusal) =
                        self.judge(&later.delay, batch.row.record_count, delayed(key))
                {
                    return Taken::Refused { reply, error: refusal.into() };
                }
                let base = projected.accept(place, &batch.row, self.log_time_ms);
                self.push(place, batch, waiter(base, reply));
                Taken::In
            }
        }
    }

    /// Whether so many more may wait, and until then.
    fn judge(&self, delay: &Delay, count: u32, waiting: u64) -> Result<(), Refusal> {
        if waiting.saturating_add(u64::from(count)) > DELAYED_MAX {
            return Err(Refusal::DelayedFull { waiting });
        }
        let now_ms = self.clock_ms;
        let Delay::At(times_ms) = delay else { return Ok(()) };
        match times_ms.iter().min() {
            Some(due_ms) if due_ms.saturating_add(OVER_MS) < now_ms => {
                Err(Refusal::DelayIsOver { due_ms: *due_ms, now_ms })
            }
            _ => Ok(()),
        }
    }

    /// Until when each of the records of a batch waits.
    fn dues_ms(&self, delay: &Delay, count: u32) -> Vec<u64> {
        let count = usize::try_from(count).unwrap_or(0);
        let dues = |times_ms: &[u64], base_ms: u64| {
            let due_ms = |time_ms: &u64| base_ms.saturating_add(*time_ms);
            match times_ms {
                [one] => vec![due_ms(one); count],
                all => all.iter().map(due_ms).collect(),
            }
        };
        match delay {
            Delay::At(times_ms) => dues(times_ms, 0),
            Delay::After(times_ms) => dues(times_ms, self.clock_ms),
        }
    }

    fn push(&mut self, key: PartitionKey, batch: CheckedBatch, waiter: Waiter<R>) {
        let base_offset = waiter.base_offset;
        // Runs are decided one after the other, and both kinds of batches are of one sequence: what
        // comes after one of the other kind comes in a run behind it.
        if key.is_delay_store() {
            self.by_key.remove(&key.owner());
        } else if !self.dues_ms.is_empty() {
            self.by_key.remove(&key.delay_store());
        }
        let number = *self.by_key.entry(key).or_insert(self.runs.len());
        if number == self.runs.len() {
            self.runs.push(Run {
                key,
                base_offset,
                record_count: 0,
                max_timestamp: i64::MIN,
                byte_len: 0,
                batches: Vec::new(),
                gone: None,
            });
            self.rows.push(Vec::new());
            self.waiters.push(RunWaiters {
                key,
                base_offset,
                next_offset: base_offset,
                record_count: 0,
                byte_len: 0,
                waiters: Vec::new(),
            });
        }
        let parts =
            (self.runs.get_mut(number), self.rows.get_mut(number), self.waiters.get_mut(number));
        let (Some(run), Some(rows), Some(waiters)) = parts else { return };
        assert!(run.next_offset() == base_offset, "batches of a run lie end to end");
        let (size, cost) = (batch.bytes.len(), batch.size());
        run.record_count += batch.row.record_count;
        run.byte_len = run.byte_len.saturating_add(u32::try_from(size).unwrap_or(u32::MAX));
        run.max_timestamp = run.max_timestamp.max(batch.max_timestamp);
        let CheckedBatch { bytes, row, crc, when, .. } = batch;
        let record_count = row.record_count;
        run.batches.push(Batch { bytes, base_offset, leader_epoch: self.leader_epoch, crc });
        rows.push(row);
        waiters.next_offset = run.next_offset();
        waiters.record_count = run.record_count;
        waiters.byte_len = run.byte_len;
        waiters.waiters.push(waiter);
        self.bytes += cost + BATCH_OVERHEAD;
        self.batches += 1;
        match when {
            When::Now => {}
            When::Later(later) => {
                let dues_ms = self.dues_ms(&later.delay, record_count);
                self.dues_ms.entry(number).or_default().extend(dues_ms);
            }
            When::Due(ids) => self.released.entry(number).or_default().extend(ids),
        }
    }

    /// The entry's waiters, to hang a duplicate on.
    pub(crate) fn waiters_mut(&mut self) -> &mut [RunWaiters<R>] {
        &mut self.waiters
    }

    /// Ends the entry.
    pub(crate) fn finish(self, projected: &mut State) -> Built<R> {
        assert!(!self.is_empty(), "only an entry with batches is proposed");
        projected.end_entry(self.log_time_ms);
        let count = |rows: &Vec<_>| u32::try_from(rows.len()).unwrap_or(u32::MAX);
        let batch_counts = self.rows.iter().map(count).collect();
        let rows = self.rows.into_iter().flatten().collect();
        let command = if self.dues_ms.is_empty() && self.released.is_empty() {
            Command::Produce { batch_counts, rows }
        } else {
            let dues_ms = self.dues_ms.into_values().flatten().collect();
            let released = self.released.into_iter();
            let released = released
                .map(|(run, mut ids)| {
                    ids.sort_unstable();
                    (u32::try_from(run).unwrap_or(u32::MAX), ids)
                })
                .collect();
            let clock_ms = self.clock_ms;
            let runs = DelayedRuns { batch_counts, rows, dues_ms, released, clock_ms };
            Command::ProduceDelayed(Box::new(runs))
        };
        let command = command.encode();
        Built { command, runs: self.runs, waiters: self.waiters }
    }
}

/// Hangs a duplicate on the batch it repeats; gives it back if that is not among these runs.
pub(crate) fn attach<R>(
    runs: &mut [RunWaiters<R>],
    key: PartitionKey,
    waiter: Waiter<R>,
) -> Option<Waiter<R>> {
    let holds = |run: &&mut RunWaiters<R>| {
        run.key == key && (run.base_offset..run.next_offset).contains(&waiter.base_offset)
    };
    match runs.iter_mut().find(holds) {
        Some(run) => {
            run.waiters.push(waiter);
            None
        }
        None => Some(waiter),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests fail by panicking")]
    #![allow(clippy::indexing_slicing, reason = "tests fail by panicking")]

    use super::super::groups::Groups;
    use super::super::machine;
    use super::super::partition::PartitionConfig;
    use super::super::producers::ProducerStamp;
    use super::*;
    use crate::door::Later;
    use barrage_model::{
        PartitionId, ProducerEpoch, ProducerId, Retention, Sequence, TopicId, TopicOrder,
    };
    use bytes::Bytes;

    fn key(partition: u32) -> PartitionKey {
        PartitionKey { topic: TopicId(1), partition: PartitionId(partition) }
    }

    fn batch(
        partition: u32,
        records: u32,
        producer: Option<(i64, i32)>,
        reply: u32,
    ) -> WaitingBatch<u32> {
        let stamp = |(id, sequence)| ProducerStamp {
            id: ProducerId(id),
            epoch: ProducerEpoch(0),
            sequence: Sequence(sequence),
        };
        let row = BatchRow { record_count: records, producer: producer.map(stamp) };
        let bytes = Bytes::from(vec![0; 100]);
        let batch = CheckedBatch {
            bytes,
            row,
            max_timestamp: i64::from(reply),
            crc: reply,
            when: When::Now,
        };
        WaitingBatch { key: key(partition), batch, deadline: Instant(0), reply }
    }

    fn none(_: PartitionKey) -> u64 {
        0
    }

    fn open() -> State {
        let mut state = State::default();
        let config = PartitionConfig {
            retention: Retention::DEFAULT,
            order: TopicOrder::Partition,
            revision: 1,
        };
        (0..3).for_each(|number| state.open(key(number), config));
        state
    }

    #[test]
    fn batches_are_grouped_stamped_and_applied_alike() {
        let mut real = open();
        let mut projected = real.clone();
        let mut building = Building::new(50, 50, 3);
        let table = [(0, 2, None), (1, 1, Some((7, 0))), (0, 3, None), (2, 1, None), (0, 1, None)];
        for (number, (partition, records, producer)) in (0..).zip(table) {
            let taken = building.offer(
                (&mut projected, &open()),
                batch(partition, records, producer, number),
                none,
            );
            assert!(matches!(taken, Taken::In));
        }
        let Built { command, runs, waiters } = building.finish(&mut projected);
        let stamps = |run: &Run| {
            let bases: Vec<_> = run.batches.iter().map(|batch| batch.base_offset.0).collect();
            (run.key.partition.0, run.record_count, run.byte_len, run.max_timestamp, bases)
        };
        let stamped: Vec<_> = runs.iter().map(stamps).collect();
        let wanted =
            [(0, 6, 300, 4, vec![0, 2, 5]), (1, 1, 100, 1, vec![0]), (2, 1, 100, 3, vec![0])];
        assert_eq!(stamped, wanted);
        let replies: Vec<_> =
            waiters[0].waiters.iter().map(|waiter| waiter.reply.unwrap()).collect();
        assert_eq!(replies, [0, 2, 4]);

        let mut effects = Vec::new();
        let replicated = (&mut real, &mut Groups::default());
        let reply = machine::apply(replicated, 50, &command, &runs, &mut effects);
        assert_eq!(reply, machine::Reply::Produced(vec![true; 3]));
        assert_eq!(real, projected);
    }

    /// What is delayed is of one sequence with what is not: runs lie in that order.
    #[test]
    fn delayed_batches_among_others_are_applied_as_they_were_foreseen() {
        let mut real = open();
        let mut projected = real.clone();
        let mut building = Building::new(50, 50, 3);
        for sequence in 0..6 {
            let mut one = batch(0, 1, Some((7, sequence)), 0);
            if sequence % 2 == 1 {
                let later = Later { delay: Delay::After(vec![10]), largest: 100 };
                one.batch.when = When::Later(Box::new(later));
            }
            assert!(matches!(building.offer((&mut projected, &open()), one, none), Taken::In));
        }
        let Built { command, runs, .. } = building.finish(&mut projected);
        let mut groups = Groups::default();
        let replicated = (&mut real, &mut groups);
        let reply = machine::apply(replicated, 50, &command, &runs, &mut Vec::new());
        assert_eq!(reply, machine::Reply::Produced(vec![true; runs.len()]));
        assert_eq!(real, projected);
        assert_eq!(groups.delayed(key(0)), 3);
    }

    /// After a leader whose clock was hours ahead the log's clock stands still for hours.
    #[test]
    fn delays_go_by_the_leaders_clock() {
        let mut projected = open();
        let mut building = Building::new(3_600_000, 1_000, 3);
        for delay in [Delay::After(vec![10]), Delay::At(vec![1_020])] {
            let mut one = batch(0, 1, None, 0);
            let later = Later { delay, largest: 100 };
            one.batch.when = When::Later(Box::new(later));
            assert!(matches!(building.offer((&mut projected, &open()), one, none), Taken::In));
        }
        assert_eq!(building.dues_ms[&0], [1_010, 1_020]);
    }

    #[test]
    fn a_duplicate_of_what_is_under_way_waits_for_it() {
        let mut projected = open();
        let mut building = Building::new(50, 50, 3);
        building.offer((&mut projected, &open()), batch(0, 4, None, 0), none);
        building.offer((&mut projected, &open()), batch(0, 2, Some((7, 0)), 1), none);
        let again = building.offer((&mut projected, &open()), batch(0, 2, Some((7, 0)), 2), none);
        let Taken::Duplicate { key, waiter } = again else { unreachable!("a duplicate") };
        assert_eq!(waiter.base_offset, Offset(4));
        assert!(attach(building.waiters_mut(), key, waiter).is_none());
        let built = building.finish(&mut projected);
        let at: Vec<_> =
            built.waiters[0].waiters.iter().map(|waiter| waiter.base_offset.0).collect();
        assert_eq!(at, [0, 4, 4]);
        let elsewhere = Waiter { base_offset: Offset(6), deadline: Instant(0), reply: Some(3) };
        let mut waiters = built.waiters;
        assert!(attach(&mut waiters, key, elsewhere).is_some());
    }

    #[test]
    fn refusals_take_no_room() {
        let mut projected = open();
        let mut building = Building::new(50, 50, 3);
        let refused = building.offer((&mut projected, &open()), batch(9, 1, None, 0), none);
        assert!(matches!(
            refused,
            Taken::Refused { reply: 0, error: ProduceError::UnknownPartition }
        ));
        let refused = building.offer((&mut projected, &open()), batch(0, 1, Some((7, 5)), 1), none);
        assert!(matches!(
            refused,
            Taken::Refused { reply: 1, error: ProduceError::UnknownProducer }
        ));
        assert!(building.is_empty());
        assert_eq!(projected, open());
    }

    #[test]
    fn what_is_under_way_refuses_nothing_for_good() {
        let mut projected = open();
        let offer = |projected: &mut State, applied: &State, sequence| {
            let offered = batch(0, 1, Some((7, sequence)), 0);
            Building::new(50, 50, 3).offer((projected, applied), offered, none)
        };
        for sequence in 0..8 {
            assert!(matches!(offer(&mut projected, &open(), sequence), Taken::In));
        }
        for sequence in [0, 9] {
            let taken = offer(&mut projected, &open(), sequence);
            assert!(matches!(taken, Taken::Refused { error: ProduceError::Retry, .. }));
        }
        let applied = projected.clone();
        let error = |taken| match taken {
            Taken::Refused { error, .. } => error,
            Taken::In | Taken::Duplicate { .. } => unreachable!("it is refused"),
        };
        let old = error(offer(&mut projected, &applied, 0));
        assert!(matches!(old, ProduceError::DuplicateOutOfWindow));
        let gap = error(offer(&mut projected, &applied, 9));
        assert!(matches!(gap, ProduceError::OutOfOrderSequence { expected: 8, got: 9 }));
    }

    #[test]
    fn the_first_batch_always_fits() {
        let mut building = Building::new(50, 50, 3);
        assert!(building.has_room(1 << 30, 1000));
        building.offer((&mut open(), &open()), batch(0, 1, None, 0), none);
        assert!(building.has_room(100, 2 * (100 + BATCH_OVERHEAD)));
        assert!(!building.has_room(101, 2 * (100 + BATCH_OVERHEAD)));
    }
}
