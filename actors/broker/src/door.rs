//! The door: a batch is checked once, on the core where it arrives, and travels on with what was
//! learned.
//!
//! Owns: the one pass over the payload a produce costs (the CRC), and the facts taken out of the
//! header.
//! Must never: open the records. Invariants: a [`CheckedBatch`] is one whole batch with a correct
//! CRC.

use barrage_model::batch::BatchView;
use barrage_model::limits::BATCH_BYTES_MAX;
use bytes::Bytes;

use crate::api::ProduceError;
use crate::shard::decide::BatchRow;
use crate::shard::producers::ProducerStamp;

/// Bit 4 of a batch's attributes: part of a transaction.
const TRANSACTIONAL: i16 = 1 << 4;
/// Bit 5 of a batch's attributes: written by a broker, not by a client.
const CONTROL: i16 = 1 << 5;

/// A batch whose envelope is right.
#[derive(Clone, Debug)]
pub(crate) struct CheckedBatch {
    pub(crate) bytes: Bytes,
    pub(crate) row: BatchRow,
    pub(crate) max_timestamp: i64,
    pub(crate) crc: u32,
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
        Ok(Self { row, max_timestamp, crc, bytes })
    }
}
