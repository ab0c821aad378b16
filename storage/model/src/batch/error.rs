//! What can be wrong with a batch. Every fault is a value: batches come from the network and disk.
//!
//! Owns: the words for each fault. Must never do: carry payload bytes.
//! Invariants: `Copy`, so that a fault can be counted, sent and logged without cost.

use super::Compression;
use crate::limits::{
    BATCH_BYTES_MAX, HEADERS_PER_RECORD_MAX, RECORD_BYTES_MAX, RECORDS_PER_BATCH_MAX,
};

/// Why a batch is refused. Each is the caller's fault, or damage when the bytes come from disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum BatchError {
    /// Fewer bytes than the header, or than the batch's own length.
    #[error("batch is cut off: {size} bytes of {needed}")]
    Truncated {
        /// Bytes there are.
        size: usize,
        /// Bytes there must be.
        needed: usize,
    },
    /// The length field is smaller than a header or differs from the bytes given.
    #[error("batch length field says {claimed} bytes in all, there are {size}")]
    Length {
        /// What the field says, the first 12 bytes included.
        claimed: i64,
        /// Bytes there are.
        size: usize,
    },
    /// Larger than a batch may be.
    #[error("batch of {size} bytes is larger than {BATCH_BYTES_MAX}")]
    TooLarge {
        /// The size, or the part of it that was reached.
        size: usize,
    },
    /// Not format version 2.
    #[error("batch format version (magic) is {magic}, only 2 is known")]
    Magic {
        /// The version found.
        magic: i8,
    },
    /// The bytes are not those the producer sent.
    #[error("batch CRC32C is {computed:08x}, its header says {stored:08x}")]
    Crc {
        /// What the header says.
        stored: u32,
        /// What the bytes give.
        computed: u32,
    },
    /// No record.
    #[error("batch has no record")]
    Empty,
    /// The count of records is negative, above the limit, or more than the bytes can hold.
    #[error("batch claims {count} records, impossible or above {RECORDS_PER_BATCH_MAX}")]
    RecordCount {
        /// The count found.
        count: i32,
    },
    /// Offsets are not dense: the count is not the last offset delta + 1.
    #[error("batch has {count} records but its last offset delta is {last_offset_delta}")]
    OffsetDelta {
        /// The count of records.
        count: i32,
        /// The last record's offset less the first's.
        last_offset_delta: i32,
    },
    /// A compression code that nobody has defined.
    #[error("batch compression code {code} is unknown")]
    UnknownCompression {
        /// The code found.
        code: u8,
    },
    /// A transactional or control batch, or an attribute that nobody has defined.
    #[error("batch attributes {attributes:#06x} are not supported")]
    Attributes {
        /// The attributes found.
        attributes: i16,
    },
    /// A producer id without an epoch or a sequence.
    #[error("batch has producer id {id} with a negative epoch or sequence")]
    Producer {
        /// The producer id found.
        id: i64,
    },
    /// A record larger than a record may be.
    #[error("record of {size} bytes is larger than {RECORD_BYTES_MAX}")]
    RecordTooLarge {
        /// Key, value and headers together.
        size: usize,
    },
    /// A record with more headers than a record may have.
    #[error("record has {count} headers, at most {HEADERS_PER_RECORD_MAX} are allowed")]
    TooManyHeaders {
        /// The count of headers.
        count: usize,
    },
    /// A timestamp too far from the batch's base timestamp to be written.
    #[error("record timestamp {timestamp_ms} is out of range")]
    Timestamp {
        /// The record's timestamp.
        timestamp_ms: i64,
    },
    /// The payload is not what its compression code says.
    #[error("batch payload is not valid {compression}")]
    Decompress {
        /// The compression of the batch.
        compression: Compression,
    },
    /// The payload opens to more than is allowed.
    #[error("batch payload opens to more than {limit} bytes")]
    DecompressedTooLarge {
        /// The limit that was passed.
        limit: usize,
    },
    /// A record inside the batch is malformed.
    #[error("record {index} of the batch is malformed: {fault}")]
    Record {
        /// The record's 0-based index in the batch.
        index: u32,
        /// What is wrong with it.
        fault: RecordFault,
    },
}

/// What is wrong with a record inside a batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum RecordFault {
    /// A variable-length integer is cut off or too long.
    #[error("bad varint")]
    Varint,
    /// A length reaches beyond the record or the batch.
    #[error("bad length")]
    Length,
    /// Offsets within the batch are not 0, 1, 2, ...
    #[error("bad offset delta")]
    OffsetDelta,
    /// The timestamp does not fit.
    #[error("bad timestamp")]
    Timestamp,
    /// Bytes remain after the last field of a record, or after the last record.
    #[error("bytes left over")]
    LeftOver,
}
