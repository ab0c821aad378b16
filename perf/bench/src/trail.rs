//! When batches were sent, told by who sends them to who reads them: end-to-end latency.
//!
//! Owns: the notes between both. Must never: cost a request more than a look at its number.
//! Invariants: both sides agree by a batch's sequence alone whether it is noted, at most one in
//! [`RECORDS_PER_NOTE`] records; a note is taken once.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

use anyhow::{Context as _, Result, ensure};
use barrage_model::{PartitionKey, ProducerId, Sequence};

/// Notes of each partition.
#[derive(Debug)]
pub(crate) struct Trail {
    partitions: BTreeMap<PartitionKey, Mutex<Notes>>,
}

type Notes = BTreeMap<(ProducerId, Sequence), Instant>;

/// So few that noting costs nothing where every record is a batch of its own.
const RECORDS_PER_NOTE: u32 = 100;
/// Batches of a partition that are noted and not read yet: far more than a reader that keeps up
/// leaves.
const NOTES_MAX: usize = 1 << 20;

impl Trail {
    /// Of these partitions.
    pub(crate) fn new(keys: impl Iterator<Item = PartitionKey>) -> Self {
        Self { partitions: keys.map(|key| (key, Mutex::default())).collect() }
    }

    /// Notes that a batch is sent.
    pub(crate) fn sent(&self, key: PartitionKey, batch: Numbered, now: Instant) -> Result<()> {
        if !batch.is_noted() {
            return Ok(());
        }
        let mut notes = self.notes(key)?.lock().unwrap_or_else(PoisonError::into_inner);
        ensure!(notes.len() < NOTES_MAX, "the reader of {key} falls behind without end");
        notes.insert((batch.producer, batch.sequence), now);
        Ok(())
    }

    /// When a batch that has come was sent, if that was noted.
    pub(crate) fn took(&self, key: PartitionKey, batch: Numbered) -> Result<Option<Instant>> {
        if !batch.is_noted() {
            return Ok(None);
        }
        let mut notes = self.notes(key)?.lock().unwrap_or_else(PoisonError::into_inner);
        let sent = notes.remove(&(batch.producer, batch.sequence));
        Ok(Some(sent.with_context(|| format!("{key}: a batch came that nobody sent"))?))
    }

    fn notes(&self, key: PartitionKey) -> Result<&Mutex<Notes>> {
        self.partitions.get(&key).with_context(|| format!("{key} is nobody's"))
    }
}

/// Which batch of whom.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Numbered {
    pub producer: ProducerId,
    pub sequence: Sequence,
    pub records: u32,
}

impl Numbered {
    fn is_noted(self) -> bool {
        let records = self.records.max(1);
        let number = self.sequence.0.unsigned_abs() / records;
        number.is_multiple_of((RECORDS_PER_NOTE / records).max(1))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_noted_is_taken_once() {
        let key = PartitionKey::default();
        let trail = Trail::new(std::iter::once(key));
        let batch = |sequence, records| Numbered {
            producer: ProducerId(3),
            sequence: Sequence(sequence),
            records,
        };
        let now = Instant::now();
        // Large batches are all noted, of small ones a part: by both sides the same.
        for (records, expected) in [(1000, 50), (1, 1), (10, 5)] {
            let mut taken = 0;
            for number in 0..50 {
                let sequence = number * i32::try_from(records).unwrap();
                trail.sent(key, batch(sequence, records), now).unwrap();
                let took = trail.took(key, batch(sequence, records)).unwrap();
                assert!(took.is_none_or(|then| then == now));
                taken += u32::from(took.is_some());
            }
            assert_eq!(taken, expected, "{records} records");
        }
        assert!(trail.took(key, batch(0, 1000)).is_err(), "taken twice");
    }
}
