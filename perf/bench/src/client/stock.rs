//! What the producers of a thread send from: values, keys, and for records without keys batches
//! made beforehand, which are sent again and again under new stamps.
//!
//! Owns: batches that are not under way. Must never: hand out one that is still being written.
//! Invariants: all batches have as many records, evenly apart.

use std::collections::VecDeque;

use anyhow::{Context as _, Result, ensure};
use barrage_model::batch::{BatchBuilder, BatchView, Compression, NewRecord};
use barrage_model::limits::BATCH_BYTES_MAX;

use super::dues::{self, PLACE, STAMP};
use crate::args::BatchShape;
use crate::batches::RECORD_OVERHEAD_MAX;
use crate::workload::keys::{KEY_SIZE_MAX, KeySet};

/// Of one thread.
#[derive(Debug)]
pub(crate) struct Stock {
    values: Vec<Vec<u8>>,
    /// None if records have no keys.
    pub keys: Option<KeySet>,
    /// Batches that take turns.
    ready: VecDeque<Vec<u8>>,
    /// As many as there were at first.
    ready_max: usize,
    /// What another one is made from when all are under way.
    sample: Vec<u8>,
    size: usize,
    records: u32,
    /// Where the first record's due time goes.
    pub place: usize,
}

/// So much is kept ready, so that a batch is not always the one in the processor's nearest cache.
const READY_BYTES: usize = 8 << 20;
/// More only so that values have their turn.
const READY_MAX: usize = 16;
const RECORDS_MAX: u32 = 1_000_000;

impl Stock {
    /// Makes it from values that take turns.
    pub(crate) fn make(
        values: Vec<Vec<u8>>,
        keys: Option<KeySet>,
        shape: BatchShape,
        timestamp_ms: i64,
    ) -> Result<Self> {
        let mut turn = values.iter().cycle();
        let mut make = || build(&mut turn, shape, timestamp_ms);
        let sample = make()?;
        let records = BatchView::check(&sample).context("own batch is bad")?.record_count();
        let of_keys = if keys.is_some() { records as usize * KEY_SIZE_MAX } else { 0 };
        let size = match shape {
            // It holds fewer records if they have keys.
            BatchShape::Bytes(_) => sample.len(),
            BatchShape::Records(_) => sample.len() + of_keys,
        };
        ensure!(size <= BATCH_BYTES_MAX, "a batch would be {size} bytes; give a smaller one");
        // Enough that every value has its turn, if there is room for so many.
        let most = values.len().div_ceil(records.max(1) as usize).max(READY_MAX);
        let ready_max = (READY_BYTES / size).clamp(1, most);
        let ready = (0..ready_max).map(|_| make()).collect::<Result<_>>()?;
        let place = dues::place(&sample)?;
        Ok(Self { values, keys, ready, ready_max, sample, size, records, place })
    }

    /// The value whose turn this is, under a stamp.
    pub(crate) fn value(&mut self, turn: u64, stamp: [u8; STAMP]) -> Result<&[u8]> {
        let index = (turn % self.values.len().max(1) as u64) as usize;
        let value = self.values.get_mut(index).context("there is no value to send")?;
        let place = value.get_mut(..STAMP).context("a record is shorter than its due time")?;
        place.copy_from_slice(&stamp);
        Ok(value)
    }

    /// Records of a batch.
    pub(crate) const fn records(&self) -> u32 {
        self.records
    }

    /// Bytes of a batch, at most.
    pub(crate) const fn size(&self) -> usize {
        self.size
    }

    /// Takes one.
    pub(crate) fn take(&mut self) -> Vec<u8> {
        self.ready.pop_front().unwrap_or_else(|| self.sample.clone())
    }

    /// Puts one back that is out; behind the others, so that all take turns.
    pub(crate) fn put(&mut self, batch: Vec<u8>) {
        // Another connection's batch may have been made for keyed records.
        if batch.len() == self.sample.len() && self.ready.len() < self.ready_max {
            self.ready.push_back(batch);
        }
    }
}

fn build<'a>(
    values: &mut impl Iterator<Item = &'a Vec<u8>>,
    shape: BatchShape,
    timestamp_ms: i64,
) -> Result<Vec<u8>> {
    let mut builder = BatchBuilder::new(Compression::None, timestamp_ms);
    loop {
        let value = values.next().context("there is no value to send")?;
        let mut value = value.clone();
        let stamp = value.get_mut(..STAMP).context("a record is shorter than its due time")?;
        stamp.copy_from_slice(&PLACE);
        let value = Some(value.as_slice());
        let record = NewRecord { value, timestamp_ms, ..NewRecord::default() };
        builder.push(&record).context("a record does not fit its batch")?;
        let next = value.map_or(0, <[u8]>::len) + RECORD_OVERHEAD_MAX;
        if is_full(&builder, shape, next) {
            return builder.finish().context("a batch cannot be built");
        }
    }
}

/// Whether another record of `next` bytes would be one too many.
pub(crate) fn is_full(builder: &BatchBuilder, shape: BatchShape, next: usize) -> bool {
    let full = match shape {
        BatchShape::Records(count) => builder.count() >= count,
        BatchShape::Bytes(bytes) => builder.len_estimate() + next > bytes,
    };
    full || builder.count() >= RECORDS_MAX
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn batches_have_a_shape_and_come_back_in_turn() {
        let values = || vec![vec![1; 100], vec![2; 100]];
        let make = |values, shape| Stock::make(values, None, shape, 1).unwrap();
        let mut stock = make(values(), BatchShape::Records(10));
        assert_eq!(stock.records(), 10);
        let taken: Vec<_> = (0..READY_MAX + 2).map(|_| stock.take()).collect();
        for batch in &taken {
            assert_eq!(BatchView::check(batch).unwrap().record_count(), 10);
            assert_eq!(dues::place(batch).unwrap(), stock.place);
        }
        for batch in taken {
            stock.put(batch);
        }
        assert_eq!(stock.ready.len(), READY_MAX, "what was made for a moment is given up");
        stock.put(vec![0; 5]);
        assert!(stock.ready.iter().all(|batch| batch.len() > 5));
        let bytes = make(values(), BatchShape::Bytes(64 << 10));
        assert!(bytes.sample.len() <= 64 << 10 && bytes.records() > 500);
        // A batch holds a record, however small it should be.
        assert_eq!(make(values(), BatchShape::Bytes(1)).records(), 1);
    }

    #[test]
    fn every_value_has_its_turn() {
        let values: Vec<Vec<u8>> = (0..100).map(|number| vec![number; 100]).collect();
        let mut stock = Stock::make(values, None, BatchShape::Records(1), 1).unwrap();
        let mut seen = BTreeSet::new();
        for _ in 0..200 {
            let batch = stock.take();
            seen.insert(*batch.iter().rev().nth(1).unwrap());
            stock.put(batch);
        }
        assert_eq!(seen.len(), 100);
        for turn in 0..200_u64 {
            let value = stock.value(turn, [0xEE; STAMP]).unwrap();
            assert_eq!((value[0], value[STAMP]), (0xEE, (turn % 100) as u8));
        }
    }
}
