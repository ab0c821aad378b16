//! Batches made beforehand, for records without keys: sent again and again under new stamps.
//!
//! Owns: batches that are not under way. Must never: hand out one that is still being written.
//! Invariants: all have as many records, evenly apart.

use anyhow::{Context as _, Result, ensure};
use barrage_model::batch::{BatchBuilder, BatchView, Compression, NewRecord};
use barrage_model::limits::BATCH_BYTES_MAX;

use super::dues::{self, PLACE, STAMP};
use crate::args::BatchShape;
use crate::batches::RECORD_OVERHEAD_MAX;

/// Batches of one thread.
#[derive(Debug)]
pub(crate) struct Stock {
    ready: Vec<Vec<u8>>,
    /// What another one is made from when all are under way.
    sample: Vec<u8>,
    records: u32,
    /// Where the first record's due time goes.
    pub place: usize,
}

/// So much is kept ready, so that a batch is not always the one in the processor's nearest cache.
const READY_BYTES: usize = 8 << 20;
const READY_MAX: usize = 16;
const RECORDS_MAX: u32 = 1_000_000;

impl Stock {
    /// Makes it from values that take turns.
    pub(crate) fn make(values: &[Vec<u8>], shape: BatchShape, timestamp_ms: i64) -> Result<Self> {
        let mut turn = values.iter().cycle();
        let mut make = || build(&mut turn, shape, timestamp_ms);
        let sample = make()?;
        let size = sample.len();
        ensure!(size <= BATCH_BYTES_MAX, "a batch would be {size} bytes; give a smaller one");
        let records = BatchView::check(&sample).context("own batch is bad")?.record_count();
        let count = (READY_BYTES / size).clamp(1, READY_MAX);
        let ready = (0..count).map(|_| make()).collect::<Result<Vec<_>>>()?;
        Ok(Self { place: dues::place(&sample)?, ready, sample, records })
    }

    /// Records of a batch.
    pub(crate) const fn records(&self) -> u32 {
        self.records
    }

    /// Bytes of a batch.
    pub(crate) const fn size(&self) -> usize {
        self.sample.len()
    }

    /// Takes one.
    pub(crate) fn take(&mut self) -> Vec<u8> {
        self.ready.pop().unwrap_or_else(|| self.sample.clone())
    }

    /// Puts one back that is out; behind the others, so that all take turns.
    pub(crate) fn put(&mut self, batch: Vec<u8>) {
        // Another connection's batch may have been made for keyed records.
        if batch.len() == self.sample.len() && self.ready.len() < READY_MAX {
            self.ready.insert(0, batch);
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
    use super::*;

    #[test]
    fn batches_have_a_shape_and_come_back_in_turn() {
        let values = [vec![1; 100], vec![2; 100]];
        let mut stock = Stock::make(&values, BatchShape::Records(10), 1).unwrap();
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
        let bytes = Stock::make(&values, BatchShape::Bytes(64 << 10), 1).unwrap();
        assert!(bytes.sample.len() <= 64 << 10 && bytes.records() > 500);
        // A batch holds a record, however small it should be.
        assert_eq!(Stock::make(&values, BatchShape::Bytes(1), 1).unwrap().records(), 1);
    }
}
