//! The one decision about a batch, and the state it is made on.
//!
//! The leader calls [`State::decide`] and [`State::accept`] on the projected state (applied + in
//! flight) to stamp offsets; apply calls them through [`State::apply_run`] on the real state. Same
//! function, same log time, same answer: a run whose stamp or decision does not hold on the real
//! state is `Retry` as a whole.
//!
//! A batch of delayed records is decided like any other, in one sequence with those that are not;
//! only where it goes is another place: `key` is then the partition's delay store.
//!
//! Owns: the partitions of a shard and the bound on producers.
//! Must never: read a clock, draw randomness, fail on a committed command.
//! Invariants: `producers` counts the producers of all partitions; log time never falls.

use std::collections::BTreeMap;
use std::rc::Rc;

use barrage_model::{Offset, PartitionKey, ProducerEpoch, ProducerId};
use barrage_world::planted;

use super::holder::{self, Holder};
use super::partition::{Partition, PartitionConfig};
use super::producers::{self, Decision, EXPIRY_MS, Producer, ProducerStamp, Refusal, Remembered};
use crate::api::claim::{Claim, ClaimKind, ClaimRefusal};

/// Producers remembered by one shard, over all its partitions: about 200 bytes each.
pub(crate) const PRODUCERS_MAX: usize = 100_000;
/// When producers are short, those silent for this long (log time) make room. Longer than any
/// retry.
pub(crate) const EVICTION_MS: i64 = 10 * 60 * 1000;
/// Producers are looked through at most this often (log time).
const SWEEP_EVERY_MS: i64 = 60 * 1000;
/// Above this many the sweep evicts by [`EVICTION_MS`] instead of waiting for [`EXPIRY_MS`].
const CROWDED: usize = PRODUCERS_MAX / 8 * 7;

/// Set in the remembered offset of a batch that went into the delay store.
const DELAYED: u64 = 1 << 63;

/// Where a remembered batch lies.
pub(crate) fn remembered_at(key: PartitionKey, base_offset: Offset) -> (PartitionKey, Offset) {
    match base_offset.0 & DELAYED {
        0 => (key.owner(), base_offset),
        _ => (key.delay_store(), Offset(base_offset.0 & !DELAYED)),
    }
}

/// What a decision needs to know about a batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct BatchRow {
    pub(crate) record_count: u32,
    /// `None` for a producer that is not idempotent.
    pub(crate) producer: Option<ProducerStamp>,
}

/// A run's stamp: where its first batch is to lie.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct RunStamp {
    pub(crate) key: PartitionKey,
    pub(crate) base_offset: Offset,
}

/// Everything a data shard decides on.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct State {
    /// Shared with checkpoints that are being written; copied when it changes meanwhile.
    pub(crate) partitions: BTreeMap<PartitionKey, Rc<Partition>>,
    /// Log time of the newest entry.
    pub(crate) log_time_ms: i64,
    /// Producers of all partitions.
    pub(crate) producers: usize,
    /// No sweep before this log time.
    pub(crate) sweep_after_ms: i64,
    /// The newest catalog by which anything was closed here. What an older copy of it names may be
    /// what was closed, so it opens nothing.
    pub(crate) catalog_revision: u64,
}

impl State {
    /// What is to be done with a batch for `key` at this log time.
    pub(crate) fn decide(&self, key: PartitionKey, row: &BatchRow, log_time_ms: i64) -> Decision {
        let Some(partition) = self.partitions.get(&key.owner()) else {
            return Decision::Refuse(Refusal::UnknownPartition);
        };
        if partition.config.order.is_global() {
            // Wrong when planted: who lost the partition goes on writing.
            let holds = |holder: &Holder| row.producer.is_some_and(|by| by.id == holder.producer);
            if !partition.holder.as_ref().is_some_and(holds)
                && !planted("broker-holder-not-checked")
            {
                return Decision::Refuse(Refusal::NotHolder);
            }
            if key.is_delay_store() {
                return Decision::Refuse(Refusal::NoDelay);
            }
        }
        let Some(stamp) = row.producer else { return Decision::Accept };
        let known = partition.producers.get(&stamp.id);
        let decision = producers::decide(known, stamp, row.record_count, log_time_ms);
        if decision == Decision::Accept && known.is_none() && self.producers >= PRODUCERS_MAX {
            return Decision::Refuse(Refusal::ProducersFull);
        }
        decision
    }

    /// Appends a batch for which [`Self::decide`] has just said `Accept`; answers its base offset.
    pub(crate) fn accept(&mut self, key: PartitionKey, row: &BatchRow, log_time_ms: i64) -> Offset {
        let Some(partition) = self.partitions.get_mut(&key.owner()).map(Rc::make_mut) else {
            debug_assert!(false, "only batches for open partitions are accepted");
            return Offset(0);
        };
        let is_delayed = key.is_delay_store();
        let base_offset = partition.next(is_delayed);
        partition.set_next(is_delayed, Offset(base_offset.0 + u64::from(row.record_count)));
        if let Some(stamp) = row.producer {
            let last = stamp.sequence.wrapping_advance(row.record_count.saturating_sub(1));
            let mark = if is_delayed { DELAYED } else { 0 };
            let remembered = Offset(base_offset.0 | mark);
            let batch = Remembered { first: stamp.sequence, last, base_offset: remembered };
            let entry = partition.producers.entry(stamp.id);
            if matches!(entry, std::collections::btree_map::Entry::Vacant(_)) {
                self.producers += 1;
            }
            let producer = entry.or_insert_with(|| Producer::new(stamp.epoch, log_time_ms));
            if producer.is_expired(log_time_ms) {
                *producer = Producer::new(stamp.epoch, log_time_ms);
            }
            producer.remember(stamp.epoch, batch, log_time_ms);
        }
        base_offset
    }

    /// Ends an entry: log time moves on, and silent producers are forgotten when it is time to
    /// look.
    ///
    /// The leader does this on the projected state only for entries it proposes, as apply does on
    /// the real one, so both states sweep at the same log times.
    pub(crate) fn end_entry(&mut self, log_time_ms: i64) {
        self.log_time_ms = self.log_time_ms.max(log_time_ms);
        if self.log_time_ms < self.sweep_after_ms {
            return;
        }
        self.sweep_after_ms = self.log_time_ms.saturating_add(SWEEP_EVERY_MS);
        let keep_ms = if self.producers > CROWDED { EVICTION_MS } else { EXPIRY_MS };
        let now_ms = self.log_time_ms;
        for partition in self.partitions.values_mut() {
            // Who holds the partition is one of its producers, however long it is silent.
            let holder = partition.holder.map(|holder| holder.producer);
            let keeps = |id: &ProducerId, known: &Producer| {
                now_ms.saturating_sub(known.last_ms) < keep_ms || Some(*id) == holder
            };
            if !partition.producers.iter().all(|(id, known)| keeps(id, known)) {
                Rc::make_mut(partition).producers.retain(|id, known| keeps(id, known));
            }
        }
        self.producers = self.partitions.values().map(|p| p.producers.len()).sum();
    }

    /// Applies one run: all of its batches, or none (`false`: Retry).
    ///
    /// It is all or none because a refused batch leaves the stamps of those behind it wrong anyway,
    /// and because the index knows runs, not batches.
    pub(crate) fn apply_run(
        &mut self,
        stamp: RunStamp,
        rows: &[BatchRow],
        log_time_ms: i64,
    ) -> bool {
        let key = stamp.key.owner();
        let Some(partition) = self.partitions.get(&key) else { return false };
        let next = partition.next(stamp.key.is_delay_store());
        if next != stamp.base_offset || rows.is_empty() {
            return false;
        }
        let mut undo: Vec<(ProducerId, Option<Producer>)> = Vec::new();
        for row in rows {
            if self.decide(stamp.key, row, log_time_ms) != Decision::Accept {
                self.undo(stamp, undo);
                return false;
            }
            if let Some(ProducerStamp { id, .. }) = row.producer.filter(|_| rows.len() > 1) {
                let before = self.partitions.get(&key).and_then(|p| p.producers.get(&id));
                undo.push((id, before.cloned()));
            }
            self.accept(stamp.key, row, log_time_ms);
        }
        true
    }

    fn undo(&mut self, stamp: RunStamp, undo: Vec<(ProducerId, Option<Producer>)>) {
        let partition = self.partitions.get_mut(&stamp.key.owner()).map(Rc::make_mut);
        let Some(partition) = partition else { return };
        partition.set_next(stamp.key.is_delay_store(), stamp.base_offset);
        for (id, before) in undo.into_iter().rev() {
            match before {
                Some(producer) => {
                    partition.producers.insert(id, producer);
                }
                None => {
                    if partition.producers.remove(&id).is_some() {
                        self.producers -= 1;
                    }
                }
            }
        }
    }

    /// A producer claims a partition; `None` if that is not open. `now_ms` is what the lease clock
    /// says.
    pub(crate) fn claim(
        &mut self,
        key: PartitionKey,
        claim: Claim,
        (log_time_ms, now_ms): (i64, u64),
    ) -> Option<Result<(), ClaimRefusal>> {
        let partition = self.partitions.get_mut(&key)?;
        if !partition.config.order.is_global() {
            return Some(Err(ClaimRefusal::NotGlobal));
        }
        let decided = holder::claim(partition, claim, now_ms);
        let id = claim.producer;
        let is_new = claim.kind != ClaimKind::Release && !partition.producers.contains_key(&id);
        if decided.is_ok() && is_new && self.producers >= PRODUCERS_MAX {
            return Some(Err(ClaimRefusal::ProducersFull));
        }
        if let Ok(holder) = decided {
            let partition = Rc::make_mut(partition);
            partition.holder = holder;
            if is_new {
                partition.producers.insert(id, Producer::new(ProducerEpoch(0), log_time_ms));
                self.producers += 1;
            } else if let Some(known) = partition.producers.get_mut(&id) {
                known.last_ms = log_time_ms;
            }
        }
        Some(decided.map(drop))
    }

    /// Opens a partition, or takes over newer settings if it is open.
    pub(crate) fn open(&mut self, key: PartitionKey, config: PartitionConfig) {
        if key.is_delay_store() {
            // It is part of its partition.
            return;
        }
        let new = || Rc::new(Partition::new(config));
        let partition = self.partitions.entry(key).or_insert_with(new);
        if config.revision > partition.config.revision {
            Rc::make_mut(partition).config = config;
        }
    }

    /// Takes over newer settings of an open partition.
    pub(crate) fn configure(&mut self, key: PartitionKey, config: PartitionConfig) {
        if self.partitions.contains_key(&key) {
            self.open(key, config);
        }
    }

    /// Closes a partition; true if it was open.
    pub(crate) fn close(&mut self, key: PartitionKey) -> bool {
        let closed = self.partitions.remove(&key);
        self.producers -= closed.as_ref().map_or(0, |partition| partition.producers.len());
        closed.is_some()
    }

    /// No delayed record of a partition before `start` waits any more; true if that is news.
    pub(crate) fn advance_delay_start(&mut self, key: PartitionKey, start: Offset) -> bool {
        let Some(partition) = self.partitions.get_mut(&key) else { return false };
        partition.delay_start < start && Rc::make_mut(partition).advance_delay_start(start)
    }

    /// Moves a partition's start on; true if it moved.
    pub(crate) fn advance_start(&mut self, key: PartitionKey, start: Offset) -> bool {
        let partition = self.partitions.get_mut(&key);
        partition.is_some_and(|partition| Rc::make_mut(partition).advance_start(start))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests fail by panicking")]
    #![allow(clippy::indexing_slicing, reason = "tests fail by panicking")]

    use super::*;
    use barrage_model::{PartitionId, Retention, Sequence, TopicId, TopicOrder};

    fn key(partition: u32) -> PartitionKey {
        PartitionKey { topic: TopicId(1), partition: PartitionId(partition) }
    }

    fn config(revision: u64) -> PartitionConfig {
        PartitionConfig { retention: Retention::DEFAULT, order: TopicOrder::Partition, revision }
    }

    fn open() -> State {
        let mut state = State::default();
        state.open(key(0), config(1));
        state
    }

    fn plain(record_count: u32) -> BatchRow {
        BatchRow { record_count, producer: None }
    }

    fn row(id: i64, sequence: i32, record_count: u32) -> BatchRow {
        let stamp = ProducerStamp {
            id: ProducerId(id),
            epoch: ProducerEpoch(0),
            sequence: Sequence(sequence),
        };
        BatchRow { record_count, producer: Some(stamp) }
    }

    fn stamp(base: u64) -> RunStamp {
        RunStamp { key: key(0), base_offset: Offset(base) }
    }

    #[test]
    fn a_run_counts_only_at_the_next_offset() {
        let mut state = open();
        assert!(state.apply_run(stamp(0), &[plain(3), plain(2)], 1));
        assert!(!state.apply_run(stamp(0), &[plain(1)], 1));
        assert!(!state.apply_run(stamp(6), &[plain(1)], 1));
        assert!(!state.apply_run(stamp(5), &[], 1));
        assert!(state.apply_run(stamp(5), &[plain(1)], 1));
        let elsewhere = RunStamp { key: key(9), base_offset: Offset(0) };
        assert!(!state.apply_run(elsewhere, &[plain(1)], 1));
        assert_eq!(state.partitions[&key(0)].next_offset, Offset(6));
    }

    #[test]
    fn a_refused_run_leaves_no_trace() {
        let mut state = open();
        assert!(state.apply_run(stamp(0), &[row(1, 0, 10)], 1));
        let before = state.clone();
        let gap = [row(1, 10, 10), row(2, 0, 5), row(2, 6, 1)];
        assert!(!state.apply_run(stamp(10), &gap, 2));
        assert_eq!(state, before);
        let again = [row(3, 0, 1), row(1, 0, 10)];
        assert!(!state.apply_run(stamp(10), &again, 2));
        assert_eq!(state, before);
    }

    fn global() -> State {
        let mut state = State::default();
        state.open(key(0), PartitionConfig { order: TopicOrder::Global, ..config(1) });
        state
    }

    fn claim(kind: ClaimKind, id: i64) -> Claim {
        Claim { producer: ProducerId(id), kind, session_ms: 100 }
    }

    #[test]
    fn batches_of_the_holder_only_count() {
        let mut state = global();
        let refused = Decision::Refuse(Refusal::NotHolder);
        assert_eq!(state.decide(key(0), &row(1, 0, 1), 1), refused, "nobody holds it");
        assert_eq!(state.claim(key(0), claim(ClaimKind::Hold, 1), (1, 1)), Some(Ok(())));
        assert_eq!(state.producers, 1);
        assert!(state.apply_run(stamp(0), &[row(1, 0, 2)], 1));
        assert_eq!(state.decide(key(0), &plain(1), 1), refused);
        let late = key(0).delay_store();
        assert_eq!(state.decide(late, &row(1, 2, 1), 1), Decision::Refuse(Refusal::NoDelay));

        // A batch behind a claim of another one is refused, also one that is stored already.
        let beside = state.claim(key(0), claim(ClaimKind::Hold, 2), (1, 1));
        assert_eq!(beside, Some(Err(ClaimRefusal::Held { left_ms: 100 })));
        let holder = state.partitions[&key(0)].holder.map(|holder| holder.producer);
        assert_eq!(holder, Some(ProducerId(1)));
        assert_eq!(state.claim(key(0), claim(ClaimKind::TakeOver, 2), (1, 1)), Some(Ok(())));
        assert!(!state.apply_run(stamp(2), &[row(1, 2, 1)], 1));
        assert_eq!(state.decide(key(0), &row(1, 0, 2), 1), refused);
        // What was granted and never written to is lost as well.
        assert_eq!(state.claim(key(0), claim(ClaimKind::TakeOver, 3), (1, 1)), Some(Ok(())));
        assert_eq!(state.claim(key(0), claim(ClaimKind::Release, 3), (1, 1)), Some(Ok(())));
        let again = state.claim(key(0), claim(ClaimKind::Hold, 2), (9, 9_000));
        assert_eq!(again, Some(Err(ClaimRefusal::Lost)));
        assert_eq!(state.claim(key(9), claim(ClaimKind::Hold, 4), (9, 9)), None);
        let anybody = open().claim(key(0), claim(ClaimKind::Hold, 4), (9, 9));
        assert_eq!(anybody, Some(Err(ClaimRefusal::NotGlobal)));
    }

    #[test]
    fn projection_and_apply_agree() {
        let mut real = open();
        let mut projected = real.clone();
        for (entry, time) in [(0, 10), (1, 70_000), (2, 20)] {
            let rows = [row(1, entry * 2, 2), plain(3), row(2, entry, 1)];
            let base = projected.partitions[&key(0)].next_offset;
            for row in &rows {
                assert_eq!(projected.decide(key(0), row, time), Decision::Accept);
                projected.accept(key(0), row, time);
            }
            projected.end_entry(time);
            let stamp = RunStamp { key: key(0), base_offset: base };
            assert!(real.apply_run(stamp, &rows, time));
            real.end_entry(time);
            assert_eq!(real, projected);
        }
        assert_eq!(real.log_time_ms, 70_000);
    }

    #[test]
    fn a_duplicate_of_a_projected_batch_is_known() {
        let mut state = open();
        state.accept(key(0), &plain(4), 1);
        state.accept(key(0), &row(1, 0, 3), 1);
        assert_eq!(state.decide(key(0), &row(1, 0, 3), 1), Decision::Duplicate(Offset(4)));
    }

    #[test]
    fn delayed_batches_are_of_the_same_sequence() {
        let mut state = open();
        let store = key(0).delay_store();
        assert_eq!(state.accept(key(0), &row(1, 0, 3), 1), Offset(0));
        assert_eq!(state.decide(store, &row(1, 0, 1), 1), state.decide(key(0), &row(1, 0, 1), 1));
        assert_eq!(state.decide(store, &row(1, 3, 2), 1), Decision::Accept);
        assert_eq!(state.accept(store, &row(1, 3, 2), 1), Offset(0));
        assert_eq!(state.accept(key(0), &row(1, 5, 1), 1), Offset(3));
        let Decision::Duplicate(at) = state.decide(store, &row(1, 3, 2), 1) else {
            unreachable!("it is repeated")
        };
        assert_eq!(remembered_at(key(0), at), (store, Offset(0)));
        assert_eq!(remembered_at(store, Offset(3)), (key(0), Offset(3)));

        let before = state.clone();
        let stamp = RunStamp { key: store, base_offset: Offset(2) };
        assert!(!state.apply_run(stamp, &[row(1, 6, 1), row(1, 9, 1)], 1));
        assert_eq!(state, before, "a refused run leaves no trace");
        assert!(state.apply_run(stamp, &[row(1, 6, 1)], 1));
        assert_eq!(state.partitions[&key(0)].delay_next, Offset(3));
        assert!(state.advance_delay_start(key(0), Offset(2)));
        assert!(!state.advance_delay_start(key(0), Offset(2)));
        state.open(store, config(9));
        assert_eq!(state.partitions.len(), 1, "it is part of its partition");
    }

    #[test]
    fn silent_producers_are_forgotten() {
        let mut state = open();
        assert!(state.apply_run(stamp(0), &[row(1, 0, 1), row(2, 0, 1)], 0));
        state.end_entry(0);
        assert!(state.apply_run(stamp(2), &[row(2, 1, 1)], EXPIRY_MS - 1));
        state.end_entry(EXPIRY_MS - 1);
        assert_eq!(state.producers, 2);
        // Within a minute of the last sweep nobody looks, but the decision goes by time all the
        // same.
        let unknown = Decision::Refuse(Refusal::UnknownProducer);
        assert_eq!(state.decide(key(0), &row(1, 1, 1), EXPIRY_MS), unknown);
        state.end_entry(EXPIRY_MS + SWEEP_EVERY_MS);
        assert_eq!(state.producers, 1);
        assert!(state.close(key(0)));
        assert_eq!(state.producers, 0);
    }

    #[test]
    fn producers_are_bounded_and_make_room_when_silent() {
        let mut state = open();
        for id in 0..PRODUCERS_MAX as i64 {
            state.accept(key(0), &row(id, 0, 1), 0);
        }
        let full = Decision::Refuse(Refusal::ProducersFull);
        assert_eq!(state.decide(key(0), &row(-5, 0, 1), 1), full);
        assert_eq!(state.decide(key(0), &row(5, 1, 1), 1), Decision::Accept);
        assert_eq!(state.decide(key(0), &plain(1), 1), Decision::Accept);
        state.accept(key(0), &row(5, 1, 1), EVICTION_MS);
        state.end_entry(EVICTION_MS);
        assert_eq!(state.producers, 1);
        assert_eq!(state.decide(key(0), &row(7, 0, 1), EVICTION_MS), Decision::Accept);
    }

    #[test]
    fn settings_go_by_revision_and_starts_only_forward() {
        let mut state = open();
        let newer = PartitionConfig {
            retention: Retention::UNLIMITED,
            order: TopicOrder::Partition,
            revision: 3,
        };
        state.configure(key(0), newer);
        state.open(key(0), config(2));
        assert_eq!(state.partitions[&key(0)].config, newer);
        state.configure(key(1), newer);
        assert!(!state.partitions.contains_key(&key(1)));
        state.accept(key(0), &plain(10), 0);
        assert!(state.advance_start(key(0), Offset(4)));
        assert!(!state.advance_start(key(0), Offset(3)));
        assert!(state.advance_start(key(0), Offset(99)));
        assert_eq!(state.partitions[&key(0)].start_offset, Offset(10));
        assert!(!state.advance_start(key(1), Offset(1)));
    }
}
