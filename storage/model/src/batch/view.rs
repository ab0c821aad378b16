//! A batch whose envelope has been checked, borrowed; and a walk over adjacent batches.
//!
//! Owns: the check at the leader's door, all that a broker ever asks of a batch.
//! Must never do: open the payload (except when asked for records), copy it, or pass over it twice.
//! Invariants: a [`BatchView`] exists only for bytes that are exactly one valid envelope.

use super::header::CRC_START;
use super::records::{DecompressionLimits, Records};
use super::{BatchError, BatchHeader, Compression, HEADER_SIZE};
use crate::ids::{Offset, ProducerEpoch, ProducerId, Sequence};

/// The smallest record: six one-byte fields behind a one-byte length.
const RECORD_SIZE_MIN: usize = 7;

/// One whole batch whose envelope is right.
#[derive(Clone, Copy, Debug)]
pub struct BatchView<'a> {
    bytes: &'a [u8],
    header: BatchHeader,
    compression: Compression,
}

impl<'a> BatchView<'a> {
    /// Checks the envelope of a batch: exact length, version, CRC32C, bounds, dense offsets,
    /// known compression, supported attributes, complete producer fields.
    ///
    /// One pass over the bytes, for the CRC. The cheap checks come first.
    pub fn check(bytes: &'a [u8]) -> Result<Self, BatchError> {
        let header = BatchHeader::peek(bytes)?;
        let size = bytes.len();
        if header.batch_len_total != size {
            return Err(BatchError::Length { claimed: header.batch_len_total as i64, size });
        }
        let compression = header.compression()?;
        check_fields(&header, compression)?;
        let covered = bytes.get(CRC_START..).unwrap_or_default();
        let computed = crc32c::crc32c(covered);
        if computed != header.crc {
            return Err(BatchError::Crc { stored: header.crc, computed });
        }
        Ok(Self { bytes, header, compression })
    }

    /// All bytes of the batch.
    #[must_use]
    pub const fn bytes(&self) -> &'a [u8] {
        self.bytes
    }

    /// All header fields.
    #[must_use]
    pub const fn header(&self) -> &BatchHeader {
        &self.header
    }

    /// The records as they are stored, compressed or not.
    #[must_use]
    pub fn payload(&self) -> &'a [u8] {
        self.bytes.get(HEADER_SIZE..).unwrap_or_default()
    }

    /// Opens the records, within `limits`.
    pub fn records(&self, limits: &DecompressionLimits) -> Result<Records<'a>, BatchError> {
        Records::open(self.header, self.compression, self.payload(), limits)
    }

    /// Offset of the first record.
    #[must_use]
    pub const fn base_offset(&self) -> Offset {
        self.header.base_offset
    }

    /// Size of the whole batch in bytes.
    #[must_use]
    pub const fn batch_len_total(&self) -> usize {
        self.header.batch_len_total
    }

    /// The leader's term when the batch was stamped.
    #[must_use]
    pub const fn leader_epoch(&self) -> i32 {
        self.header.leader_epoch
    }

    /// The CRC32C, which has been checked.
    #[must_use]
    pub const fn crc(&self) -> u32 {
        self.header.crc
    }

    /// The attributes field.
    #[must_use]
    pub const fn attributes(&self) -> i16 {
        self.header.attributes
    }

    /// How the records are compressed.
    #[must_use]
    pub const fn compression(&self) -> Compression {
        self.compression
    }

    /// The last record's offset less the first's.
    #[must_use]
    pub const fn last_offset_delta(&self) -> i32 {
        self.header.last_offset_delta
    }

    /// Timestamp that records count from.
    #[must_use]
    pub const fn base_timestamp(&self) -> i64 {
        self.header.base_timestamp
    }

    /// Largest timestamp of a record.
    #[must_use]
    pub const fn max_timestamp(&self) -> i64 {
        self.header.max_timestamp
    }

    /// The idempotent producer, or -1.
    #[must_use]
    pub const fn producer_id(&self) -> ProducerId {
        self.header.producer_id
    }

    /// The generation of the producer id, or -1.
    #[must_use]
    pub const fn producer_epoch(&self) -> ProducerEpoch {
        self.header.producer_epoch
    }

    /// The producer's number of the first record, or -1.
    #[must_use]
    pub const fn base_sequence(&self) -> Sequence {
        self.header.base_sequence
    }

    /// How many records there are.
    #[must_use]
    pub const fn record_count(&self) -> u32 {
        self.header.record_count
    }
}

/// Checks what the header alone can tell.
fn check_fields(header: &BatchHeader, compression: Compression) -> Result<(), BatchError> {
    // The count is within the limit, far below `i32::MAX`.
    let count = header.record_count as i32;
    let last_offset_delta = header.last_offset_delta;
    if last_offset_delta != count - 1 {
        return Err(BatchError::OffsetDelta { count, last_offset_delta });
    }
    // A control batch is written by brokers alone, a transactional one needs a transaction, and
    // what a later version means by the other bits must not be stored as if it were plain.
    if header.other_attributes() != 0 {
        return Err(BatchError::Attributes { attributes: header.attributes });
    }
    let payload_size = header.batch_len_total - HEADER_SIZE;
    let payload_size_min = match compression {
        Compression::None => (count as usize).saturating_mul(RECORD_SIZE_MIN),
        _ => 1,
    };
    if payload_size < payload_size_min {
        return Err(BatchError::RecordCount { count });
    }
    let complete = header.producer_epoch.0 >= 0 && header.base_sequence.0 >= 0;
    if header.producer_id.is_some() && !complete {
        return Err(BatchError::Producer { id: header.producer_id.0 });
    }
    Ok(())
}

/// Walks over adjacent batches, as a fetch returns them. Each item is the bytes of one batch,
/// unchecked but for its length; a batch that is cut off is an error and ends the walk.
#[must_use]
pub const fn batches(bytes: &[u8]) -> Batches<'_> {
    Batches { rest: bytes }
}

/// See [`batches`].
#[derive(Clone, Debug)]
pub struct Batches<'a> {
    rest: &'a [u8],
}

impl<'a> Iterator for Batches<'a> {
    type Item = Result<&'a [u8], BatchError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.rest.is_empty() {
            return None;
        }
        let bytes = std::mem::take(&mut self.rest);
        let needed = match BatchHeader::peek(bytes) {
            Ok(header) => header.batch_len_total,
            Err(error) => return Some(Err(error)),
        };
        let Some((batch, rest)) = bytes.split_at_checked(needed) else {
            return Some(Err(BatchError::Truncated { size: bytes.len(), needed }));
        };
        self.rest = rest;
        Some(Ok(batch))
    }
}

impl std::iter::FusedIterator for Batches<'_> {}
