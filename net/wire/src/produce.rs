//! Produce: append one batch to one partition. The batch is last in the body and is not opened, so
//! that a server passes it on in the memory it was received in.

use barrage_model::{Offset, PartitionKey};
use bytes::BytesMut;

use crate::field::{DecodeError, Field, Reader, fields};
use crate::frame::{Correlation, FrameHeader};
use crate::opcode::Opcode;

/// When the server says yes. There is no choice below "on disk on a majority".
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Acks {
    /// After a majority of replicas flushed the batch.
    #[default]
    Quorum,
    /// After every replica flushed it, or `NotOnAll` at the deadline.
    All,
}

impl Field for Acks {
    fn put(&self, out: &mut BytesMut) {
        match self {
            Self::Quorum => 1_u8.put(out),
            Self::All => 2_u8.put(out),
        }
    }

    fn take(reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
        match reader.take::<u8>()? {
            1 => Ok(Self::Quorum),
            2 => Ok(Self::All),
            value => Err(DecodeError::BadTag { what: "acks", value: u32::from(value) }),
        }
    }

    fn size_min() -> usize {
        1
    }
}

/// Append `batch`, a whole record batch v2, to `key`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ProduceRequest<'a> {
    /// Where to.
    pub key: PartitionKey,
    /// When to answer.
    pub acks: Acks,
    /// Deadline from arrival, in milliseconds; 0 takes the server's default.
    pub timeout_ms: u32,
    /// The batch, unchecked.
    pub batch: &'a [u8],
}

impl<'a> ProduceRequest<'a> {
    /// Where the batch begins in the body.
    pub const BATCH_AT: usize = 17;

    /// Reads the body of a Produce frame.
    pub fn decode(body: &'a [u8]) -> Result<Self, DecodeError> {
        let mut reader = Reader::new(body);
        let (key, acks, timeout_ms) = (reader.take()?, reader.take()?, reader.take()?);
        Ok(Self { key, acks, timeout_ms, batch: reader.rest() })
    }

    /// Appends frame header and fixed fields; the batch's bytes must follow on the connection.
    /// For senders that gather their writes instead of copying batches.
    pub fn encode_head(&self, correlation: Correlation, out: &mut BytesMut) {
        let size = Self::BATCH_AT + self.batch.len();
        let code = Opcode::Produce.request_code();
        FrameHeader::new(code, Opcode::VERSION, correlation, size).encode(out);
        self.key.put(out);
        self.acks.put(out);
        self.timeout_ms.put(out);
    }
}

/// The batch is appended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ProduceReply {
    /// Offset of the batch's first record.
    pub base_offset: Offset,
    /// The log time of the batch, milliseconds since 1970.
    pub log_time_ms: i64,
}
fields!(ProduceReply { base_offset, log_time_ms });
