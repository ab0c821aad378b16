//! Builds a batch, record by record, straight into the bytes that will be sent.
//!
//! Owns: the encoding of records.
//! Must never do: exceed a limit that a reader enforces: what is built here is accepted there.
//! Invariants: a failed push changes nothing; offsets within the batch are 0, 1, 2, ...
//!
//! ```text
//! record: length | attributes i8 = 0 | timestamp delta | offset delta
//!         | key length (-1 none) | key | value length (-1 none) | value
//!         | header count | { key length | key | value length | value }...
//! ```
//! Lengths, deltas and counts are zigzag varints.

use super::header::{
    CRC_AT, CRC_START, HEADER_SIZE, LENGTH_AT, LENGTH_BASE, MAGIC, attributes, put,
};
use super::{BatchError, Compression, Content, varint};
use crate::headers;
use crate::ids::{ProducerEpoch, ProducerId, Sequence};
use crate::limits::{
    BATCH_BYTES_MAX, HEADERS_PER_RECORD_MAX, RECORD_BYTES_MAX, RECORDS_PER_BATCH_MAX,
};

/// A record to be appended.
#[derive(Clone, Copy, Debug, Default)]
pub struct NewRecord<'a> {
    /// The key, if any.
    pub key: Option<&'a [u8]>,
    /// The value; none is a tombstone.
    pub value: Option<&'a [u8]>,
    /// Headers as pairs of key and value.
    pub headers: &'a [(&'a [u8], &'a [u8])],
    /// Milliseconds since 1970, as the producer says.
    pub timestamp_ms: i64,
}

/// A batch under construction.
#[derive(Debug)]
pub struct BatchBuilder {
    /// A header's space, then the records, not compressed.
    bytes: Vec<u8>,
    compression: Compression,
    base_timestamp: i64,
    max_timestamp: i64,
    count: u32,
    expires: bool,
}

/// The leader epoch of a batch that no leader has stamped.
const LEADER_EPOCH_NONE: i32 = -1;
const ABSENT: i64 = -1;

impl BatchBuilder {
    /// An empty batch whose records count their time from `base_timestamp`.
    #[must_use]
    pub fn new(compression: Compression, base_timestamp: i64) -> Self {
        Self::with_capacity(compression, base_timestamp, 0)
    }

    /// As [`Self::new`], with space for records of `capacity` bytes.
    #[must_use]
    pub fn with_capacity(compression: Compression, base_timestamp: i64, capacity: usize) -> Self {
        let mut bytes = Vec::with_capacity(HEADER_SIZE + capacity.min(BATCH_BYTES_MAX));
        bytes.resize(HEADER_SIZE, 0);
        let (max_timestamp, count, expires) = (i64::MIN, 0, false);
        Self { bytes, compression, base_timestamp, max_timestamp, count, expires }
    }

    /// Some of its records may be wanted for a while only. Said by [`Self::push`] itself.
    pub fn set_expires(&mut self) {
        self.expires = true;
    }

    /// Appends a record. On error nothing has changed and the batch can still be finished.
    pub fn push(&mut self, record: &NewRecord<'_>) -> Result<(), BatchError> {
        let size = content_size(record)?;
        self.put_record(record.timestamp_ms, size, |out| {
            put_bytes(out, record.key);
            put_bytes(out, record.value);
            varint::put(out, record.headers.len() as i64);
            for (key, value) in record.headers {
                put_bytes(out, Some(key));
                put_bytes(out, Some(value));
            }
        })?;
        self.expires |= record.headers.iter().any(|(key, _)| *key == headers::TTL_MS.as_bytes());
        Ok(())
    }

    /// Appends a record of another batch as it is. On error nothing has changed and the batch can
    /// still be finished. If it may be wanted for a while only, [`Self::set_expires`] says so.
    pub fn push_content(
        &mut self,
        timestamp_ms: i64,
        content: Content<'_>,
    ) -> Result<(), BatchError> {
        self.put_record(timestamp_ms, content.len(), |out| out.extend_from_slice(content.0))
    }

    fn put_record(
        &mut self,
        timestamp_ms: i64,
        content_size: usize,
        put: impl FnOnce(&mut Vec<u8>),
    ) -> Result<(), BatchError> {
        let timestamp_delta = timestamp_ms
            .checked_sub(self.base_timestamp)
            .ok_or(BatchError::Timestamp { timestamp_ms })?;
        let offset_delta = i64::from(self.count);
        if self.count >= RECORDS_PER_BATCH_MAX {
            return Err(BatchError::RecordCount { count: self.count as i32 });
        }
        let size = 1 + varint::size(timestamp_delta) + varint::size(offset_delta) + content_size;
        let total = self.bytes.len() + varint::size(size as i64) + size;
        if total > BATCH_BYTES_MAX {
            return Err(BatchError::TooLarge { size: total });
        }
        let out = &mut self.bytes;
        varint::put(out, size as i64);
        out.push(0);
        varint::put(out, timestamp_delta);
        varint::put(out, offset_delta);
        put(out);
        assert_eq!(self.bytes.len(), total, "a record is as long as its length says");
        self.max_timestamp = self.max_timestamp.max(timestamp_ms);
        self.count += 1;
        Ok(())
    }

    /// The batch's size if it were finished now without compression: an upper bound.
    #[must_use]
    pub fn len_estimate(&self) -> usize {
        self.bytes.len()
    }

    /// How many records it has.
    #[must_use]
    pub fn count(&self) -> u32 {
        self.count
    }

    /// Whether it has no record.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// Compresses, writes the header and the CRC. The batch belongs to no producer and has base
    /// offset 0 until [`super::set_producer`] and [`super::stamp`] say otherwise.
    ///
    /// Records that compression would make larger stay uncompressed.
    pub fn finish(self) -> Result<Vec<u8>, BatchError> {
        if self.count == 0 {
            return Err(BatchError::Empty);
        }
        let fields = Fields {
            base_timestamp: self.base_timestamp,
            max_timestamp: self.max_timestamp,
            count: self.count as i32,
            expires: self.expires,
        };
        let (compression, mut bytes) = compressed(self.compression, self.bytes)?;
        write_header(&mut bytes, compression, &fields);
        Ok(bytes)
    }
}

/// What the header says beside constants and sizes.
struct Fields {
    base_timestamp: i64,
    max_timestamp: i64,
    count: i32,
    expires: bool,
}

/// Returns the batch with its payload compressed, if that makes it smaller.
fn compressed(
    compression: Compression,
    plain: Vec<u8>,
) -> Result<(Compression, Vec<u8>), BatchError> {
    if compression == Compression::None {
        return Ok((compression, plain));
    }
    let payload = plain.get(HEADER_SIZE..).unwrap_or_default();
    let mut bytes = Vec::with_capacity(HEADER_SIZE + payload.len() / 2);
    bytes.resize(HEADER_SIZE, 0);
    compression
        .compress(payload, &mut bytes)
        .map_err(|_| BatchError::Decompress { compression })?;
    if bytes.len() >= plain.len() {
        return Ok((Compression::None, plain));
    }
    Ok((compression, bytes))
}

fn write_header(bytes: &mut [u8], compression: Compression, fields: &Fields) {
    let attributes = attributes(compression, fields.expires);
    let length = (bytes.len() - LENGTH_BASE) as i32;
    put(bytes, LENGTH_AT, length.to_be_bytes());
    put(bytes, LENGTH_BASE, LEADER_EPOCH_NONE.to_be_bytes());
    put(bytes, CRC_AT - 1, MAGIC.to_be_bytes());

    let mut covered = Vec::with_capacity(HEADER_SIZE - CRC_START);
    covered.extend_from_slice(&attributes.to_be_bytes());
    covered.extend_from_slice(&(fields.count - 1).to_be_bytes());
    covered.extend_from_slice(&fields.base_timestamp.to_be_bytes());
    covered.extend_from_slice(&fields.max_timestamp.to_be_bytes());
    covered.extend_from_slice(&ProducerId::NONE.0.to_be_bytes());
    covered.extend_from_slice(&ProducerEpoch::NONE.0.to_be_bytes());
    covered.extend_from_slice(&Sequence::NONE.0.to_be_bytes());
    covered.extend_from_slice(&fields.count.to_be_bytes());
    assert_eq!(covered.len(), HEADER_SIZE - CRC_START, "the header is 61 bytes");
    if let Some(slot) = bytes.get_mut(CRC_START..HEADER_SIZE) {
        slot.copy_from_slice(&covered);
    }
    let crc = crc32c::crc32c(bytes.get(CRC_START..).unwrap_or_default());
    put(bytes, CRC_AT, crc.to_be_bytes());
}

/// The size of a record's key, value and headers, encoded. Bounds the record on the way.
fn content_size(record: &NewRecord<'_>) -> Result<usize, BatchError> {
    if record.headers.len() > HEADERS_PER_RECORD_MAX as usize {
        return Err(BatchError::TooManyHeaders { count: record.headers.len() });
    }
    let mut user_size = optional_len(record.key).saturating_add(optional_len(record.value));
    let mut size = varint::size(record.headers.len() as i64)
        + varint_len_of(record.key)
        + varint_len_of(record.value);
    for (key, value) in record.headers {
        user_size = user_size.saturating_add(key.len()).saturating_add(value.len());
        size += varint_len_of(Some(key)) + varint_len_of(Some(value));
    }
    if user_size > RECORD_BYTES_MAX {
        return Err(BatchError::RecordTooLarge { size: user_size });
    }
    Ok(size + user_size)
}

fn optional_len(bytes: Option<&[u8]>) -> usize {
    bytes.map_or(0, <[u8]>::len)
}

fn varint_len_of(bytes: Option<&[u8]>) -> usize {
    varint::size(bytes.map_or(ABSENT, |bytes| bytes.len() as i64))
}

fn put_bytes(out: &mut Vec<u8>, bytes: Option<&[u8]>) {
    varint::put(out, bytes.map_or(ABSENT, |bytes| bytes.len() as i64));
    out.extend_from_slice(bytes.unwrap_or_default());
}
