//! Fetch: read batches of one partition, waiting for them if asked. The batches stand last in the
//! reply, as they lie on disk: the first one contains the offset, it need not begin there.

use barrage_model::{Offset, PartitionKey};
use bytes::BytesMut;

use crate::field::{DecodeError, Field, Reader, fields};
use crate::frame::{Correlation, FrameHeader};
use crate::opcode::Opcode;

/// Read from `offset` on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FetchRequest {
    /// Which partition.
    pub key: PartitionKey,
    /// First offset wanted.
    pub offset: Offset,
    /// At most this many bytes of batches, except that one whole batch always fits.
    pub bytes_max: u32,
    /// Answer when this many bytes are there ...
    pub bytes_min: u32,
    /// ... or when so many milliseconds have passed. 0 answers at once.
    pub wait_ms: u32,
}
fields!(FetchRequest { key, offset, bytes_max, bytes_min, wait_ms });

/// What there is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FetchReply<'a> {
    /// One past the last readable offset. Certain when no batches came; beside batches it may be
    /// that of a leader that does not know of its successor yet, but never below their end.
    pub high_watermark: Offset,
    /// First offset there is.
    pub start_offset: Offset,
    /// Whole batches v2, one after the other; empty when nothing came in time.
    pub batches: &'a [u8],
}

impl<'a> FetchReply<'a> {
    /// Where the batches begin in the body.
    pub const BATCHES_AT: usize = 16;

    /// Reads the body of a Fetch reply.
    pub fn decode(body: &'a [u8]) -> Result<Self, DecodeError> {
        let mut reader = Reader::new(body);
        let (high_watermark, start_offset) = (reader.take()?, reader.take()?);
        Ok(Self { high_watermark, start_offset, batches: reader.rest() })
    }

    /// Appends frame header and fixed fields; `batches_size` bytes must follow on the connection.
    /// For servers that gather their writes instead of copying batches; `batches` is not read.
    pub fn encode_head(&self, correlation: Correlation, batches_size: usize, out: &mut BytesMut) {
        let size = Self::BATCHES_AT + batches_size;
        FrameHeader::new(Opcode::Fetch.reply_code(), 0, correlation, size).encode(out);
        self.high_watermark.put(out);
        self.start_offset.put(out);
    }
}
