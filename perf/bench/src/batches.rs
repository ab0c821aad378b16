//! The batches a producer sends: made once, then sent again and again under new sequences.
//!
//! Owns: making them and stamping them. Must never: touch a payload byte after making it; a new
//! stamp costs a CRC combination, not a pass.
//! Invariants: all batches of one set hold as many records.

use anyhow::{Context as _, Result, ensure};
use barrage_model::batch::{self, BatchBuilder, Compression, NewRecord};
use barrage_model::{ProducerEpoch, ProducerId, Sequence};

use crate::args::BatchShape;

/// Batches that are sent in turn.
#[derive(Clone, Debug)]
pub(crate) struct Batches {
    made: Vec<Vec<u8>>,
    recipe: Recipe,
    records: u32,
    next: usize,
}

/// How a batch is built; repeated for every batch when building is measured too.
#[derive(Clone, Debug)]
pub(crate) struct Recipe {
    value: Vec<u8>,
    shape: BatchShape,
    timestamp_ms: i64,
}

/// Who sends, and the number of the first record.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Stamp {
    pub producer: ProducerId,
    pub epoch: ProducerEpoch,
    pub sequence: Sequence,
}

/// So much is kept ready, so that a batch is not always the one in the processor's nearest cache.
const READY_BYTES: usize = 8 << 20;
const READY_COUNT_MAX: usize = 16;
const RECORDS_MAX: u32 = 1_000_000;
/// Most a record adds to its batch beyond its value: lengths, deltas and flags as varints.
pub(crate) const RECORD_OVERHEAD_MAX: usize = 24;

impl Recipe {
    pub(crate) fn new(shape: BatchShape, record_size: usize, timestamp_ms: i64) -> Self {
        Self { value: noise(record_size, 0), shape, timestamp_ms }
    }

    /// Builds a batch from its records: what a client library does for every batch.
    pub(crate) fn build(&self) -> Result<Vec<u8>> {
        let mut builder =
            BatchBuilder::with_capacity(Compression::None, self.timestamp_ms, self.capacity());
        loop {
            let full = match self.shape {
                BatchShape::Records(count) => builder.count() >= count,
                BatchShape::Bytes(bytes) => {
                    let more = self.value.len() + RECORD_OVERHEAD_MAX;
                    builder.count() > 0 && builder.len_estimate() + more > bytes
                }
            };
            if full || builder.count() >= RECORDS_MAX {
                break;
            }
            builder
                .push(&NewRecord {
                    key: None,
                    value: Some(&self.value),
                    headers: &[],
                    timestamp_ms: self.timestamp_ms,
                })
                .context("a record does not fit its batch")?;
        }
        builder.finish().context("a batch cannot be built")
    }
}

impl Recipe {
    /// Space for a batch, so that building one does not grow it step by step.
    fn capacity(&self) -> usize {
        match self.shape {
            BatchShape::Bytes(bytes) => bytes,
            BatchShape::Records(count) => count as usize * (self.value.len() + RECORD_OVERHEAD_MAX),
        }
    }
}

impl Batches {
    /// Makes them.
    pub(crate) fn make(recipe: Recipe) -> Result<Self> {
        let first = recipe.build()?;
        let records = batch::BatchView::check(&first).context("own batch is bad")?.record_count();
        let size = first.len();
        ensure!(size <= barrage_model::limits::BATCH_BYTES_MAX, "a batch would be {size} bytes");
        let count = (READY_BYTES / size).clamp(1, READY_COUNT_MAX);
        Ok(Self { made: vec![first; count], recipe, records, next: 0 })
    }

    /// Bytes of one batch.
    pub(crate) fn size(&self) -> usize {
        self.made.first().map_or(0, Vec::len)
    }

    /// Records of one batch.
    pub(crate) const fn records(&self) -> u32 {
        self.records
    }

    /// Bytes of the values of one batch.
    pub(crate) const fn value_bytes(&self) -> u64 {
        self.records as u64 * self.recipe.value.len() as u64
    }

    /// The next batch, stamped; built anew if `build`.
    pub(crate) fn next(&mut self, stamp: Stamp, build: bool) -> Result<&[u8]> {
        self.next = (self.next + 1) % self.made.len();
        let slot = self.made.get_mut(self.next).context("no batch is made")?;
        if build {
            *slot = self.recipe.build()?;
        }
        batch::set_producer(slot, stamp.producer, stamp.epoch, stamp.sequence)
            .context("a batch cannot be stamped")?;
        Ok(slot)
    }
}

/// Bytes without a pattern, the same in every run; others for each number.
pub(crate) fn noise(size: usize, number: u64) -> Vec<u8> {
    let mut state = 0x9E37_79B9_7F4A_7C15_u64.wrapping_mul(2 * number + 1);
    let mut step = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()[0]
    };
    (0..size).map(|_| step()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn batches_keep_their_shape_and_stay_valid_under_every_stamp() {
        let check = |shape, record_size, records| {
            let mut batches = Batches::make(Recipe::new(shape, record_size, 1)).unwrap();
            assert_eq!(batches.records(), records, "{shape:?}");
            if let BatchShape::Bytes(bytes) = shape {
                assert!(batches.size() <= bytes);
            }
            for (number, build) in [(0, false), (1, true), (7, false)] {
                let stamp = Stamp {
                    producer: ProducerId(5),
                    epoch: ProducerEpoch(0),
                    sequence: Sequence(number),
                };
                let bytes = batches.next(stamp, build).unwrap();
                let view = batch::BatchView::check(bytes).unwrap();
                assert_eq!(view.base_sequence(), Sequence(number));
                assert_eq!(view.record_count(), records);
            }
        };
        check(BatchShape::Records(1), 100, 1);
        check(BatchShape::Records(1000), 100, 1000);
        check(BatchShape::Bytes(64 << 10), 100, 595);
    }
}
