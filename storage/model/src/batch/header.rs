//! The 61 bytes before a batch's records: parse, stamp, re-label.
//!
//! Owns: the position of every header field.
//! Must never do: touch the payload; the CRC of a re-labelled batch is found by arithmetic.
//! Invariants: [`stamp`] leaves the CRC valid because it writes outside of what the CRC covers;
//! [`set_producer`] leaves it valid because CRC32C is linear.
//!
//! ```text
//!  0       8      12      16  17    21     23     27     35     43      51     53    57    61
//!  | base  | batch| leader| 2 | CRC | attri| last | base | max  | prod. | prod.| base| count| re-
//!  | offset| len. | epoch |   | 32C | butes| delta| time | time | id    |epoch | seq.|      |cords
//!  |<--- stamped here -->|         |<------------- covered by the CRC, to the end ------------>...
//! ```

use super::{BatchError, Compression};
use crate::crc;
use crate::ids::{Offset, ProducerEpoch, ProducerId, Sequence};
use crate::limits::{BATCH_BYTES_MAX, RECORDS_PER_BATCH_MAX};

/// Bytes before the records.
pub const HEADER_SIZE: usize = 61;

pub(super) const BASE_OFFSET_AT: usize = 0;
pub(super) const LENGTH_AT: usize = 8;
pub(super) const LEADER_EPOCH_AT: usize = 12;
pub(super) const CRC_AT: usize = 17;
/// The CRC covers from here to the end.
pub(super) const CRC_START: usize = 21;
const PRODUCER_ID_AT: usize = 43;
const PRODUCER_EPOCH_AT: usize = 51;
const BASE_SEQUENCE_AT: usize = 53;

/// Bytes before those that the length field counts.
pub(super) const LENGTH_BASE: usize = LEADER_EPOCH_AT;
/// The only format version.
pub(super) const MAGIC: i8 = 2;

const COMPRESSION_MASK: i16 = 0b0111;
const LOG_APPEND_TIME: i16 = 0b1000;
/// Barrage's own, of those that Kafka leaves free.
const EXPIRES: i16 = 1 << 14;

const _: () = assert!(BASE_SEQUENCE_AT + size_of::<i32>() * 2 == HEADER_SIZE);
const _: () = assert!(LEADER_EPOCH_AT + size_of::<i32>() < CRC_START);
const _: () = assert!(CRC_AT + size_of::<u32>() == CRC_START);

/// The fields of a batch's header, as they stand in the bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BatchHeader {
    /// Offset of the first record; stamped by the leader.
    pub base_offset: Offset,
    /// Size of the whole batch in bytes, header included.
    pub batch_len_total: usize,
    /// The leader's term as it stamped the batch; -1 before.
    pub leader_epoch: i32,
    /// CRC32C of everything after this field.
    pub crc: u32,
    /// Bits 0-2 compression, 3 log append time, 4 transactional, 5 control, 14 records expire.
    pub attributes: i16,
    /// The last record's offset less the first's.
    pub last_offset_delta: i32,
    /// Timestamp that records count from, in milliseconds since 1970.
    pub base_timestamp: i64,
    /// Largest timestamp of a record.
    pub max_timestamp: i64,
    /// The idempotent producer, or -1.
    pub producer_id: ProducerId,
    /// The generation of the producer id, or -1.
    pub producer_epoch: ProducerEpoch,
    /// The producer's number of the first record, or -1.
    pub base_sequence: Sequence,
    /// How many records there are; at least one and within the limit.
    pub record_count: u32,
}

impl BatchHeader {
    /// Reads the header of the batch at the front of `bytes`, without its CRC: for walking over
    /// stored runs, whose bytes are protected by the log's own CRC. Needs [`HEADER_SIZE`] bytes.
    ///
    /// Length, magic, and record count are bounded; the payload is not looked at.
    pub fn peek(bytes: &[u8]) -> Result<Self, BatchError> {
        let mut rest = bytes;
        let fields = Fields::take(&mut rest)
            .ok_or(BatchError::Truncated { size: bytes.len(), needed: HEADER_SIZE })?;
        fields.bound(bytes.len())
    }

    /// How the records are compressed.
    pub const fn compression(&self) -> Result<Compression, BatchError> {
        Compression::from_code((self.attributes & COMPRESSION_MASK) as u8)
    }

    /// Whether every record has the batch's maximal timestamp instead of its own.
    #[must_use]
    pub const fn is_log_append_time(&self) -> bool {
        self.attributes & LOG_APPEND_TIME != 0
    }

    /// The offset after the last record. Saturates: a batch near the end of offsets is not stored.
    #[must_use]
    pub const fn next_offset(&self) -> Offset {
        Offset(self.base_offset.0.saturating_add(self.record_count as u64))
    }

    /// Whether it may have records that are wanted for a while only: who hands records out looks
    /// into such a batch, and into no other.
    #[must_use]
    pub const fn expires(&self) -> bool {
        self.attributes & EXPIRES != 0
    }

    /// The attributes that nobody knows here.
    pub(super) const fn other_attributes(&self) -> i16 {
        self.attributes & !(COMPRESSION_MASK | LOG_APPEND_TIME | EXPIRES)
    }
}

/// The attributes of a batch.
pub(super) fn attributes(compression: Compression, expires: bool) -> i16 {
    i16::from(compression.code()) | if expires { EXPIRES } else { 0 }
}

/// Writes what the leader decides, in place: base offset and leader epoch. The CRC stays valid.
///
/// # Panics
/// When `bytes` is shorter than a header, or `base_offset` is beyond `i64::MAX`.
pub fn stamp(bytes: &mut [u8], base_offset: Offset, leader_epoch: i32) {
    assert!(bytes.len() >= HEADER_SIZE, "a batch is at least its header");
    assert!(base_offset.0 <= i64::MAX as u64, "offsets are 63 bits on the wire");
    put(bytes, BASE_OFFSET_AT, base_offset.0.to_be_bytes());
    put(bytes, LEADER_EPOCH_AT, leader_epoch.to_be_bytes());
}

/// Writes the idempotent producer's fields in place and corrects the CRC without reading the
/// payload: a batch that is sent again, or replayed, costs the same whatever its size.
///
/// The CRC is right afterwards exactly if it was right before.
pub fn set_producer(
    bytes: &mut [u8],
    id: ProducerId,
    epoch: ProducerEpoch,
    base_sequence: Sequence,
) -> Result<(), BatchError> {
    let size = bytes.len();
    let truncated = BatchError::Truncated { size, needed: HEADER_SIZE };
    let header = bytes.first_chunk_mut::<HEADER_SIZE>().ok_or(truncated)?;
    let before = covered_crc(header);
    put(header, PRODUCER_ID_AT, id.0.to_be_bytes());
    put(header, PRODUCER_EPOCH_AT, epoch.0.to_be_bytes());
    put(header, BASE_SEQUENCE_AT, base_sequence.0.to_be_bytes());
    let after = covered_crc(header);

    // crc(head | payload) = shift(crc(head), payload length) ^ crc(payload): the payload's part
    // cancels out between the old and the new value.
    let change = crc::shift(before ^ after, size - HEADER_SIZE);
    let mut rest = header.as_slice();
    let stored = Fields::take(&mut rest).ok_or(truncated)?.crc;
    put(header, CRC_AT, (stored ^ change).to_be_bytes());
    Ok(())
}

/// The CRC of the part of the header that the batch's CRC covers.
fn covered_crc(header: &[u8; HEADER_SIZE]) -> u32 {
    let (_, covered) = header.split_at(CRC_START);
    crc32c::crc32c(covered)
}

/// Overwrites the bytes at `at`.
pub(super) fn put<const N: usize>(bytes: &mut [u8], at: usize, value: [u8; N]) {
    let slot = bytes.get_mut(at..at + N);
    assert!(slot.is_some(), "a header field lies within the header");
    if let Some(slot) = slot {
        slot.copy_from_slice(&value);
    }
}

/// The header as raw numbers, before anything is believed.
struct Fields {
    base_offset: i64,
    length: i32,
    leader_epoch: i32,
    magic: i8,
    crc: u32,
    attributes: i16,
    last_offset_delta: i32,
    base_timestamp: i64,
    max_timestamp: i64,
    producer_id: i64,
    producer_epoch: i16,
    base_sequence: i32,
    record_count: i32,
}

impl Fields {
    fn take(bytes: &mut &[u8]) -> Option<Self> {
        fn next<const N: usize>(bytes: &mut &[u8]) -> Option<[u8; N]> {
            let (field, rest) = bytes.split_first_chunk()?;
            *bytes = rest;
            Some(*field)
        }
        Some(Self {
            base_offset: i64::from_be_bytes(next(bytes)?),
            length: i32::from_be_bytes(next(bytes)?),
            leader_epoch: i32::from_be_bytes(next(bytes)?),
            magic: i8::from_be_bytes(next(bytes)?),
            crc: u32::from_be_bytes(next(bytes)?),
            attributes: i16::from_be_bytes(next(bytes)?),
            last_offset_delta: i32::from_be_bytes(next(bytes)?),
            base_timestamp: i64::from_be_bytes(next(bytes)?),
            max_timestamp: i64::from_be_bytes(next(bytes)?),
            producer_id: i64::from_be_bytes(next(bytes)?),
            producer_epoch: i16::from_be_bytes(next(bytes)?),
            base_sequence: i32::from_be_bytes(next(bytes)?),
            record_count: i32::from_be_bytes(next(bytes)?),
        })
    }

    /// Bounds what a walker relies on: version, length, count, offset.
    fn bound(self, size: usize) -> Result<BatchHeader, BatchError> {
        if self.magic != MAGIC {
            return Err(BatchError::Magic { magic: self.magic });
        }
        let claimed = i64::from(self.length) + LENGTH_BASE as i64;
        let total = usize::try_from(claimed).unwrap_or(0);
        if total < HEADER_SIZE {
            return Err(BatchError::Length { claimed, size });
        }
        if total > BATCH_BYTES_MAX {
            return Err(BatchError::TooLarge { size: total });
        }
        if self.record_count == 0 {
            return Err(BatchError::Empty);
        }
        let record_count = u32::try_from(self.record_count).unwrap_or(u32::MAX);
        if record_count > RECORDS_PER_BATCH_MAX {
            return Err(BatchError::RecordCount { count: self.record_count });
        }
        Ok(BatchHeader {
            // A client leaves any value here; only what a leader stamped is an offset.
            base_offset: Offset(u64::try_from(self.base_offset).unwrap_or(0)),
            batch_len_total: total,
            leader_epoch: self.leader_epoch,
            crc: self.crc,
            attributes: self.attributes,
            last_offset_delta: self.last_offset_delta,
            base_timestamp: self.base_timestamp,
            max_timestamp: self.max_timestamp,
            producer_id: ProducerId(self.producer_id),
            producer_epoch: ProducerEpoch(self.producer_epoch),
            base_sequence: Sequence(self.base_sequence),
            record_count,
        })
    }
}
