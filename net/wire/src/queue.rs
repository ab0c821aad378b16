//! Queue groups: receive, settle, peek, seek, counts; each of one partition, asked of its leader.
//! The batches of a receive stand last in the reply, as they lie on disk: they hold the leased
//! records, beside others.

use barrage_model::{GroupId, Offset, PartitionKey};
use bytes::{BufMut, BytesMut};

use crate::field::{DecodeError, Field, Reader, fields};
use crate::frame::{Correlation, FrameHeader};
use crate::opcode::Opcode;

/// Lease records. A lease is durable before it is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct QueueReceive {
    /// Which partition.
    pub key: PartitionKey,
    /// Which group.
    pub group: GroupId,
    /// At most this many records, 10,000 at most; 0 waits until one could be had.
    pub count_max: u32,
    /// At most this many bytes of batches, except that one whole batch always fits.
    pub bytes_max: u32,
    /// How long the records are leased, in milliseconds; `None` takes the group's setting.
    pub visibility_ms: Option<u64>,
    /// How long to wait for the first record, in milliseconds. 0 answers at once.
    pub wait_ms: u32,
}
fields!(QueueReceive { key, group, count_max, bytes_max, visibility_ms, wait_ms });

/// A lease. Offset and tag are its receipt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lease {
    /// The record.
    pub offset: Offset,
    /// Which lease of the record it is.
    pub tag: u32,
    /// Times the record was delivered, this one counted.
    pub deliveries: u16,
    /// When it was first delivered, milliseconds since 1970.
    pub first_ms: u64,
    /// How long the lease lasts from now on, in milliseconds.
    pub left_ms: u64,
}
fields!(Lease { offset, tag, deliveries, first_ms, left_ms });

/// What was leased.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct QueueReceiveReply<'a> {
    /// Whether more could be had at once; without a lease, that the records looked at so far are
    /// not what the group's filter lets through: ask on.
    pub more: bool,
    /// The leases, by offset.
    pub leases: Vec<Lease>,
    /// Whole batches v2, one after the other.
    pub batches: &'a [u8],
}

impl<'a> QueueReceiveReply<'a> {
    /// Reads the body of a `QueueReceive` reply.
    ///
    /// # Errors
    /// The bytes are none.
    pub fn decode(body: &'a [u8]) -> Result<Self, DecodeError> {
        let mut reader = Reader::new(body);
        let (more, leases) = (reader.take()?, reader.take()?);
        Ok(Self { more, leases, batches: reader.rest() })
    }

    pub(crate) fn put(&self, out: &mut BytesMut) {
        self.more.put(out);
        self.leases.put(out);
        out.put_slice(self.batches);
    }

    /// Appends frame header and fields; `batches_size` bytes must follow on the connection. For
    /// servers that gather their writes instead of copying batches; `batches` is not read.
    pub fn encode_head(&self, correlation: Correlation, batches_size: usize, out: &mut BytesMut) {
        let mut fields = BytesMut::new();
        self.more.put(&mut fields);
        self.leases.put(&mut fields);
        let code = Opcode::QueueReceive.reply_code();
        FrameHeader::new(code, 0, correlation, fields.len() + batches_size).encode(out);
        out.put_slice(&fields);
    }
}

/// Which lease of which record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Receipt {
    /// The record.
    pub offset: Offset,
    /// The lease.
    pub tag: u32,
}
fields!(Receipt { offset, tag });

/// What becomes of leased records.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Settlement {
    /// They are done.
    Ack,
    /// They are given back, for so many milliseconds or as long as the group's back-off says.
    Nack {
        /// The delay.
        delay_ms: Option<u64>,
    },
    /// They are wanted for so many milliseconds from now on.
    Extend {
        /// How long.
        visibility_ms: u64,
    },
    /// Nobody has looked at them: they are given back, and this delivery does not count.
    Release,
}

impl Field for Settlement {
    fn put(&self, out: &mut BytesMut) {
        match self {
            Self::Ack => 0_u8.put(out),
            Self::Nack { delay_ms } => {
                1_u8.put(out);
                delay_ms.put(out);
            }
            Self::Extend { visibility_ms } => {
                2_u8.put(out);
                visibility_ms.put(out);
            }
            Self::Release => 3_u8.put(out),
        }
    }

    fn take(reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
        match reader.take::<u8>()? {
            0 => Ok(Self::Ack),
            1 => Ok(Self::Nack { delay_ms: reader.take()? }),
            2 => Ok(Self::Extend { visibility_ms: reader.take()? }),
            3 => Ok(Self::Release),
            value => Err(DecodeError::BadTag { what: "settlement", value: u32::from(value) }),
        }
    }

    fn size_min() -> usize {
        1
    }
}

/// Settle leases, all alike. Answered for each when it is durable.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct QueueSettle {
    /// Which partition.
    pub key: PartitionKey,
    /// Which group.
    pub group: GroupId,
    /// What becomes of them.
    pub settlement: Settlement,
    /// Which leases, 10,000 at most.
    pub receipts: Vec<Receipt>,
}
fields!(QueueSettle { key, group, settlement, receipts });

/// What became of one receipt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Settled {
    /// It took effect.
    Done,
    /// The record is done already, or no longer kept.
    AlreadySettled,
    /// Its lease is over, or was given back.
    NotLeased,
    /// Somebody else has it now.
    Stale,
    /// Nobody has ever leased it.
    NeverLeased,
}

impl Field for Settled {
    fn put(&self, out: &mut BytesMut) {
        let code: u8 = match self {
            Self::Done => 0,
            Self::AlreadySettled => 1,
            Self::NotLeased => 2,
            Self::Stale => 3,
            Self::NeverLeased => 4,
        };
        code.put(out);
    }

    fn take(reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
        match reader.take::<u8>()? {
            0 => Ok(Self::Done),
            1 => Ok(Self::AlreadySettled),
            2 => Ok(Self::NotLeased),
            3 => Ok(Self::Stale),
            4 => Ok(Self::NeverLeased),
            value => Err(DecodeError::BadTag { what: "result", value: u32::from(value) }),
        }
    }

    fn size_min() -> usize {
        1
    }
}

/// What became of each, in the order of the receipts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct QueueSettleReply {
    /// One per receipt.
    pub results: Vec<Settled>,
}
fields!(QueueSettleReply { results });

/// Offsets of records that could be leased now; nothing is leased.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct QueuePeek {
    /// Which partition.
    pub key: PartitionKey,
    /// Which group.
    pub group: GroupId,
    /// At most this many, 10,000 at most.
    pub count_max: u32,
}
fields!(QueuePeek { key, group, count_max });

/// They, the oldest first.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct QueuePeekReply {
    /// The offsets; a fetch reads them.
    pub offsets: Vec<Offset>,
}
fields!(QueuePeekReply { offsets });

/// Where a group goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Seek {
    /// Everything from this offset on is delivered again, settled or not.
    Rewind(Offset),
    /// Everything before this offset is done with.
    Skip(Offset),
}

impl Field for Seek {
    fn put(&self, out: &mut BytesMut) {
        let (tag, offset): (u8, &Offset) = match self {
            Self::Rewind(to) => (0, to),
            Self::Skip(to) => (1, to),
        };
        tag.put(out);
        offset.put(out);
    }

    fn take(reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
        match reader.take::<u8>()? {
            0 => Ok(Self::Rewind(reader.take()?)),
            1 => Ok(Self::Skip(reader.take()?)),
            value => Err(DecodeError::BadTag { what: "seek", value: u32::from(value) }),
        }
    }

    fn size_min() -> usize {
        1 + size_of::<u64>()
    }
}

/// Move what a group has before it. The reply is empty.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct QueueSeek {
    /// Which partition.
    pub key: PartitionKey,
    /// Which group.
    pub group: GroupId,
    /// Where to.
    pub to: Seek,
}
fields!(QueueSeek { key, group, to });

/// How many records wait for what.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct QueueCounts {
    /// Which partition.
    pub key: PartitionKey,
    /// Which group.
    pub group: GroupId,
}
fields!(QueueCounts { key, group });

/// They.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct QueueCountsReply {
    /// The oldest record that is not done with.
    pub start: Offset,
    /// May be leased now.
    pub visible: u64,
    /// Leased to somebody.
    pub leased: u64,
    /// Given back, and not due yet.
    pub delayed: u64,
    /// On their way to the dead-letter topic.
    pub dying: u64,
}
fields!(QueueCountsReply { start, visible, leased, delayed, dying });
