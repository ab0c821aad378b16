//! Opens a batch and walks over its records, borrowed.
//!
//! Owns: bounded decompression and the decoding of records.
//! Must never do: believe a length before it is bounded; allocate per record.
//! Invariants: yields exactly the header's count of records, or an error and then nothing;
//! a record's headers have been walked over before the record is handed out.

use std::borrow::Cow;

use super::{BatchError, BatchHeader, BatchView, Compression, RecordFault, varint};
use crate::headers;
use crate::ids::Offset;
use crate::limits::{
    DECOMPRESSED_BYTES_FLOOR, DECOMPRESSED_BYTES_MAX, DECOMPRESSION_RATIO_MAX,
    HEADERS_PER_RECORD_MAX,
};

/// How much a compressed payload may grow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DecompressionLimits {
    /// Most bytes, whatever the ratio.
    pub bytes_max: usize,
    /// Most bytes per compressed byte, above the floor.
    pub ratio_max: usize,
    /// What a batch may always open to, as far as `bytes_max` allows.
    pub bytes_floor: usize,
}

impl Default for DecompressionLimits {
    fn default() -> Self {
        Self {
            bytes_max: DECOMPRESSED_BYTES_MAX,
            ratio_max: DECOMPRESSION_RATIO_MAX,
            bytes_floor: DECOMPRESSED_BYTES_FLOOR,
        }
    }
}

impl DecompressionLimits {
    /// Most bytes that a payload of `compressed_size` may open to.
    #[must_use]
    pub fn limit(&self, compressed_size: usize) -> usize {
        compressed_size.saturating_mul(self.ratio_max).max(self.bytes_floor).min(self.bytes_max)
    }
}

/// Checks the envelope of `bytes`, CRC included, and opens its records.
pub fn records<'a>(
    bytes: &'a [u8],
    limits: &DecompressionLimits,
) -> Result<Records<'a>, BatchError> {
    BatchView::check(bytes)?.records(limits)
}

/// The records of a batch: borrowed from it, or in a buffer of their own when it was compressed.
#[derive(Clone, Debug)]
pub struct Records<'a> {
    header: BatchHeader,
    payload: Cow<'a, [u8]>,
}

impl<'a> Records<'a> {
    pub(super) fn open(
        header: BatchHeader,
        compression: Compression,
        payload: &'a [u8],
        limits: &DecompressionLimits,
    ) -> Result<Self, BatchError> {
        let payload = match compression {
            Compression::None => Cow::Borrowed(payload),
            _ => Cow::Owned(compression.decompress(payload, limits.limit(payload.len()))?),
        };
        Ok(Self { header, payload })
    }

    /// Walks over the records in order of offset.
    #[must_use]
    pub fn iter(&self) -> RecordsIter<'_> {
        RecordsIter { header: &self.header, rest: &self.payload, index: 0, failed: false }
    }

    /// How many records the header claims; the walk yields as many or fails.
    #[must_use]
    pub const fn count(&self) -> u32 {
        self.header.record_count
    }

    /// Bytes of the records when opened.
    #[must_use]
    pub fn size(&self) -> usize {
        self.payload.len()
    }
}

impl<'a> IntoIterator for &'a Records<'_> {
    type Item = Result<Record<'a>, BatchError>;
    type IntoIter = RecordsIter<'a>;

    fn into_iter(self) -> RecordsIter<'a> {
        self.iter()
    }
}

/// One record of a batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Record<'a> {
    /// The record's offset: the batch's base offset and the record's place in it.
    pub offset: Offset,
    /// Milliseconds since 1970.
    pub timestamp_ms: i64,
    /// The key, if any.
    pub key: Option<&'a [u8]>,
    /// The value; none is a tombstone.
    pub value: Option<&'a [u8]>,
    /// The headers, decoded when walked over.
    pub headers: Headers<'a>,
    /// Key, value and headers as they are encoded.
    pub content: Content<'a>,
}

impl Record<'_> {
    /// How long the record is wanted, in milliseconds from when it came into its partition; for
    /// ever if it does not say, or says nothing that is a number.
    #[must_use]
    pub fn ttl_ms(&self) -> Option<u64> {
        let own = |header: &Header<'_>| header.key == headers::TTL_MS.as_bytes();
        let told = self.headers.iter().filter(own).last()?.value?;
        std::str::from_utf8(told).ok()?.parse().ok()
    }
}

/// Key, value and headers of a record that was decoded, as they are encoded in any batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Content<'a>(pub(super) &'a [u8]);

impl<'a> Content<'a> {
    /// What [`Self::as_bytes`] gave of a record that was decoded.
    #[must_use]
    pub const fn of_decoded(bytes: &'a [u8]) -> Self {
        Self(bytes)
    }

    /// The bytes, to be kept longer than the batch.
    #[must_use]
    pub const fn as_bytes(&self) -> &'a [u8] {
        self.0
    }

    /// How many bytes they take.
    #[must_use]
    pub const fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there is nothing; never so.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// A header of a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header<'a> {
    /// The header's key.
    pub key: &'a [u8],
    /// The header's value, if any.
    pub value: Option<&'a [u8]>,
}

/// The headers of a record, still encoded.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Headers<'a> {
    bytes: &'a [u8],
    count: u32,
}

impl<'a> Headers<'a> {
    /// Walks over the headers in order.
    #[must_use]
    pub const fn iter(&self) -> HeadersIter<'a> {
        HeadersIter { rest: self.bytes, left: self.count }
    }

    /// How many headers there are.
    #[must_use]
    pub const fn len(&self) -> usize {
        self.count as usize
    }

    /// Whether there are none.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.count == 0
    }
}

impl<'a> IntoIterator for Headers<'a> {
    type Item = Header<'a>;
    type IntoIter = HeadersIter<'a>;

    fn into_iter(self) -> HeadersIter<'a> {
        self.iter()
    }
}

/// Walks over a record's headers.
#[derive(Clone, Debug)]
pub struct HeadersIter<'a> {
    rest: &'a [u8],
    left: u32,
}

impl<'a> Iterator for HeadersIter<'a> {
    type Item = Header<'a>;

    fn next(&mut self) -> Option<Header<'a>> {
        self.left = self.left.checked_sub(1)?;
        // The same bytes were decoded once before the record was handed out.
        take_header(&mut self.rest).ok()
    }
}

/// Walks over a batch's records.
#[derive(Clone, Debug)]
pub struct RecordsIter<'a> {
    header: &'a BatchHeader,
    rest: &'a [u8],
    index: u32,
    failed: bool,
}

impl<'a> Iterator for RecordsIter<'a> {
    type Item = Result<Record<'a>, BatchError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.failed || self.index == self.header.record_count {
            return None;
        }
        let result = self.take_record();
        match &result {
            Ok(_) => self.index += 1,
            Err(_) => self.failed = true,
        }
        let index = self.index;
        Some(result.map_err(|fault| BatchError::Record { index, fault }))
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        (0, Some((self.header.record_count - self.index) as usize))
    }
}

impl std::iter::FusedIterator for RecordsIter<'_> {}

impl<'a> RecordsIter<'a> {
    fn take_record(&mut self) -> Result<Record<'a>, RecordFault> {
        let size = varint::take_i32(&mut self.rest).ok_or(RecordFault::Varint)?;
        let size = usize::try_from(size).map_err(|_| RecordFault::Length)?;
        let (body, rest) = self.rest.split_at_checked(size).ok_or(RecordFault::Length)?;
        self.rest = rest;
        let record = decode_record(body, self.header, self.index)?;
        let is_last = self.index + 1 == self.header.record_count;
        if is_last && !self.rest.is_empty() {
            return Err(RecordFault::LeftOver);
        }
        Ok(record)
    }
}

fn decode_record<'a>(
    body: &'a [u8],
    batch: &BatchHeader,
    index: u32,
) -> Result<Record<'a>, RecordFault> {
    let mut rest = body;
    // The attributes of a record have no meaning yet in any version.
    let (_attributes, tail) = rest.split_first().ok_or(RecordFault::Length)?;
    rest = tail;
    let timestamp_delta = varint::take_i64(&mut rest).ok_or(RecordFault::Varint)?;
    let offset_delta = varint::take_i32(&mut rest).ok_or(RecordFault::Varint)?;
    if i64::from(offset_delta) != i64::from(index) {
        return Err(RecordFault::OffsetDelta);
    }
    let own_time = batch.base_timestamp.checked_add(timestamp_delta);
    let timestamp_ms = match batch.is_log_append_time() {
        true => batch.max_timestamp,
        false => own_time.ok_or(RecordFault::Timestamp)?,
    };
    let content = Content(rest);
    let key = take_bytes(&mut rest)?;
    let value = take_bytes(&mut rest)?;
    let headers = take_headers(&mut rest)?;
    if !rest.is_empty() {
        return Err(RecordFault::LeftOver);
    }
    let offset = batch.base_offset.checked_add(u64::from(index));
    let offset = offset.ok_or(RecordFault::OffsetDelta)?;
    Ok(Record { offset, timestamp_ms, key, value, headers, content })
}

/// Walks over the headers once, so that what is handed out is known to decode.
fn take_headers<'a>(rest: &mut &'a [u8]) -> Result<Headers<'a>, RecordFault> {
    let count = varint::take_i32(rest).ok_or(RecordFault::Varint)?;
    let count = u32::try_from(count).map_err(|_| RecordFault::Length)?;
    if count > HEADERS_PER_RECORD_MAX {
        return Err(RecordFault::Length);
    }
    let bytes = *rest;
    for _ in 0..count {
        take_header(rest)?;
    }
    Ok(Headers { bytes, count })
}

fn take_header<'a>(rest: &mut &'a [u8]) -> Result<Header<'a>, RecordFault> {
    let key = take_bytes(rest)?.ok_or(RecordFault::Length)?;
    let value = take_bytes(rest)?;
    Ok(Header { key, value })
}

/// Takes a length and that many bytes; -1 is none.
fn take_bytes<'a>(rest: &mut &'a [u8]) -> Result<Option<&'a [u8]>, RecordFault> {
    const ABSENT: i32 = -1;
    let size = varint::take_i32(rest).ok_or(RecordFault::Varint)?;
    if size == ABSENT {
        return Ok(None);
    }
    let size = usize::try_from(size).map_err(|_| RecordFault::Length)?;
    let (bytes, tail) = rest.split_at_checked(size).ok_or(RecordFault::Length)?;
    *rest = tail;
    Ok(Some(bytes))
}
