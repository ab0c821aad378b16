//! The door: a batch is checked once, on the core where it arrives, and travels on with what was
//! learned.
//!
//! Owns: the one pass over the payload a produce costs (the CRC), and the facts taken out of the
//! header.
//! Must never: open the records, unless they are to wait. Invariants: a [`CheckedBatch`] is one
//! whole batch with a correct CRC.

use barrage_model::Offset;
use barrage_model::batch::{BatchView, DecompressionLimits, HEADER_SIZE};
use barrage_model::limits::BATCH_BYTES_MAX;
use bytes::Bytes;

use crate::api::ProduceError;
use crate::api::delay::Delay;
use crate::shard::decide::BatchRow;
use crate::shard::producers::ProducerStamp;

/// Bit 4 of a batch's attributes: part of a transaction.
const TRANSACTIONAL: i16 = 1 << 4;
/// Bit 5 of a batch's attributes: written by a broker, not by a client.
const CONTROL: i16 = 1 << 5;

/// Records of a delayed batch, at most: their times lie beside them, in the same entry.
pub(crate) const DELAYED_RECORDS_MAX: u32 = 64 << 10;

/// What a record takes in a batch of its own, beside key, value and headers, at most.
const BATCH_OF_ONE: usize = HEADER_SIZE + 32;

/// From when on the records of a batch are to be had.
#[derive(Clone, Debug, Default)]
pub(crate) enum When {
    /// At once.
    #[default]
    Now,
    /// Later.
    Later(Box<Later>),
    /// They have waited as these, ascending, and are due.
    Due(Box<[Offset]>),
}

/// What a batch of delayed records says beside them.
#[derive(Clone, Debug)]
pub(crate) struct Later {
    /// One time for all of them, or one for each.
    pub(crate) delay: Delay,
    /// What the largest of them takes in a batch of its own.
    pub(crate) largest: usize,
}

/// A batch whose envelope is right.
#[derive(Clone, Debug)]
pub(crate) struct CheckedBatch {
    pub(crate) bytes: Bytes,
    pub(crate) row: BatchRow,
    pub(crate) max_timestamp: i64,
    pub(crate) crc: u32,
    pub(crate) when: When,
}

impl CheckedBatch {
    /// Checks the envelope of a client's batch.
    pub(crate) fn check(bytes: Bytes) -> Result<Self, ProduceError> {
        let size = bytes.len();
        if size > BATCH_BYTES_MAX {
            return Err(ProduceError::TooLarge { size, limit: BATCH_BYTES_MAX });
        }
        let view = BatchView::check(&bytes).map_err(ProduceError::BadBatch)?;
        let unsupported = |reason| Err(ProduceError::Unsupported { reason });
        if view.attributes() & CONTROL != 0 {
            return unsupported("control batches come from brokers only");
        }
        if view.attributes() & TRANSACTIONAL != 0 {
            return unsupported("transactional batches are not served");
        }
        let stamp = ProducerStamp {
            id: view.producer_id(),
            epoch: view.producer_epoch(),
            sequence: view.base_sequence(),
        };
        if stamp.id.is_some() && (stamp.epoch.0 < 0 || stamp.sequence.0 < 0) {
            return unsupported("a producer id needs an epoch and a sequence");
        }
        let producer = Some(stamp).filter(|stamp| stamp.id.is_some());
        let row = BatchRow { record_count: view.record_count(), producer };
        let (max_timestamp, crc) = (view.max_timestamp(), view.crc());
        Ok(Self { row, max_timestamp, crc, bytes, when: When::Now })
    }

    /// Its records are to be had later.
    pub(crate) fn delayed(self, delay: Option<Delay>) -> Result<Self, ProduceError> {
        let Some(delay) = delay else { return Ok(self) };
        let count = self.row.record_count;
        if count > DELAYED_RECORDS_MAX {
            return Err(ProduceError::Unsupported { reason: "a delayed batch is too large" });
        }
        if delay.len() != 1 && u32::try_from(delay.len()) != Ok(count) {
            let reason = "a delayed batch names one time, or one for each of its records";
            return Err(ProduceError::Unsupported { reason });
        }
        // It will have to be opened when the first of them is due: whoever sends what cannot be
        // read is to hear of it now.
        let view = BatchView::check(&self.bytes).map_err(ProduceError::BadBatch)?;
        let records = view.records(&DecompressionLimits::default());
        let records = records.map_err(ProduceError::BadBatch)?;
        // It may be opened once for each of them.
        if records.size() > BATCH_BYTES_MAX {
            let reason = "the records of a delayed batch are too large";
            return Err(ProduceError::Unsupported { reason });
        }
        let mut largest = 0;
        for record in &records {
            largest = largest.max(record.map_err(ProduceError::BadBatch)?.content.len());
        }
        let largest = largest.saturating_add(BATCH_OF_ONE);
        if largest > BATCH_BYTES_MAX {
            return Err(ProduceError::TooLarge { size: largest, limit: BATCH_BYTES_MAX });
        }
        Ok(Self { when: When::Later(Box::new(Later { delay, largest })), ..self })
    }

    /// The most that it takes in an entry, now or later.
    pub(crate) fn size_max(&self) -> usize {
        match &self.when {
            When::Later(later) => self.size().max(later.largest),
            When::Now | When::Due(_) => self.size(),
        }
    }

    /// Bytes that it takes in an entry, but for what every batch takes.
    pub(crate) fn size(&self) -> usize {
        let times = match &self.when {
            When::Now => 0,
            When::Later(_) => usize::try_from(self.row.record_count).unwrap_or(usize::MAX),
            When::Due(ids) => ids.len(),
        };
        self.bytes.len().saturating_add(times.saturating_mul(size_of::<u64>()))
    }
}
