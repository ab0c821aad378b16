//! Delayed records: ProduceDelayed stores one batch whose records come into their partition later;
//! DelayChange cancels or moves those that wait, DelayList lists them. A record that waits has an
//! id, and gets its offset when it is due.

use barrage_model::{Offset, PartitionKey};
use bytes::{BufMut, BytesMut};

use crate::field::{DecodeError, Field, Reader, fields};
use crate::frame::{Correlation, FrameHeader};
use crate::opcode::Opcode;
use crate::produce::Acks;

/// From when on the records of a batch are to be had: one time for all, or one for each.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Delay {
    /// From this instant on, in milliseconds since 1970, by the clock of the partition's leader.
    At(Vec<u64>),
    /// After so many milliseconds, counted from when the leader takes the batch up.
    After(Vec<u64>),
}

impl Field for Delay {
    fn put(&self, out: &mut BytesMut) {
        match self {
            Self::At(times) => {
                1_u8.put(out);
                times.put(out);
            }
            Self::After(times) => {
                2_u8.put(out);
                times.put(out);
            }
        }
    }

    fn take(reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
        match reader.take::<u8>()? {
            1 => Ok(Self::At(reader.take()?)),
            2 => Ok(Self::After(reader.take()?)),
            value => Err(DecodeError::BadTag { what: "delay", value: u32::from(value) }),
        }
    }

    fn size_min() -> usize {
        1 + Vec::<u64>::size_min()
    }
}

/// Store `batch`, a whole record batch v2 of at most 65,536 records, until it is time to append
/// its records to `key`. Answered by a `ProduceReply` with the id of the first one in place of its
/// offset; the others follow without gaps.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProduceDelayed<'a> {
    /// Where to.
    pub key: PartitionKey,
    /// When to answer.
    pub acks: Acks,
    /// Deadline from arrival, in milliseconds; 0 takes the server's default.
    pub timeout_ms: u32,
    /// When.
    pub delay: Delay,
    /// The batch, unchecked.
    pub batch: &'a [u8],
}

impl<'a> ProduceDelayed<'a> {
    /// Reads the body of a ProduceDelayed frame.
    ///
    /// # Errors
    /// The bytes are none.
    pub fn decode(body: &'a [u8]) -> Result<Self, DecodeError> {
        let mut reader = Reader::new(body);
        let (key, acks, timeout_ms) = (reader.take()?, reader.take()?, reader.take()?);
        Ok(Self { key, acks, timeout_ms, delay: reader.take()?, batch: reader.rest() })
    }

    /// Appends frame header and fields; the batch's bytes must follow on the connection. For
    /// senders that gather their writes instead of copying batches.
    pub fn encode_head(&self, correlation: Correlation, out: &mut BytesMut) {
        let mut fields = BytesMut::new();
        self.key.put(&mut fields);
        self.acks.put(&mut fields);
        self.timeout_ms.put(&mut fields);
        self.delay.put(&mut fields);
        let code = Opcode::ProduceDelayed.request_code();
        let size = fields.len() + self.batch.len();
        FrameHeader::new(code, Opcode::VERSION, correlation, size).encode(out);
        out.put_slice(&fields);
    }
}

/// What becomes of records that wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DelayedFate {
    /// Nobody gets them.
    Cancel,
    /// They wait until this instant instead, in milliseconds since 1970.
    MoveTo(u64),
    /// They wait for so many milliseconds from now on instead.
    Postpone(u64),
}

impl Field for DelayedFate {
    fn put(&self, out: &mut BytesMut) {
        match self {
            Self::Cancel => 0_u8.put(out),
            Self::MoveTo(due_ms) => {
                1_u8.put(out);
                due_ms.put(out);
            }
            Self::Postpone(by_ms) => {
                2_u8.put(out);
                by_ms.put(out);
            }
        }
    }

    fn take(reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
        match reader.take::<u8>()? {
            0 => Ok(Self::Cancel),
            1 => Ok(Self::MoveTo(reader.take()?)),
            2 => Ok(Self::Postpone(reader.take()?)),
            value => Err(DecodeError::BadTag { what: "fate", value: u32::from(value) }),
        }
    }

    fn size_min() -> usize {
        1
    }
}

/// Change delayed records of one partition, all alike. Answered for each when it is durable.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DelayChange {
    /// Which partition they are to come to.
    pub key: PartitionKey,
    /// What becomes of them.
    pub fate: DelayedFate,
    /// Which ones.
    pub ids: Vec<Offset>,
}
fields!(DelayChange { key, fate, ids });

/// What came of one of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DelayChanged {
    /// As was asked.
    Done,
    /// It does not wait any more: it was let into the partition, or cancelled.
    Gone,
    /// There never was one of this id.
    Unknown,
}

impl Field for DelayChanged {
    fn put(&self, out: &mut BytesMut) {
        let tag: u8 = match self {
            Self::Done => 0,
            Self::Gone => 1,
            Self::Unknown => 2,
        };
        tag.put(out);
    }

    fn take(reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
        match reader.take::<u8>()? {
            0 => Ok(Self::Done),
            1 => Ok(Self::Gone),
            2 => Ok(Self::Unknown),
            value => Err(DecodeError::BadTag { what: "change", value: u32::from(value) }),
        }
    }

    fn size_min() -> usize {
        1
    }
}

/// What came of each.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DelayChangeReply {
    /// In the order of the ids.
    pub results: Vec<DelayChanged>,
}
fields!(DelayChangeReply { results });

/// List delayed records of one partition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DelayList {
    /// Which partition they are to come to.
    pub key: PartitionKey,
    /// At most this many; the server may list fewer.
    pub count_max: u32,
}
fields!(DelayList { key, count_max });

/// A record that waits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DelayedRecord {
    /// Its id.
    pub id: Offset,
    /// Until when it waits, milliseconds since 1970.
    pub due_ms: u64,
}
fields!(DelayedRecord { id, due_ms });

/// What waits.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DelayListReply {
    /// How many records.
    pub count: u64,
    /// Some of them, the oldest ones first.
    pub oldest: Vec<DelayedRecord>,
}
fields!(DelayListReply { count, oldest });
