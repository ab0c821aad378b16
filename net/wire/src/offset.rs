//! ListOffset: an offset by its place in the partition or by time.

use barrage_model::{Offset, PartitionKey};
use bytes::BytesMut;

use crate::field::{DecodeError, Field, Reader, fields};

/// Which offset is meant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum At {
    /// The first there is.
    Start,
    /// The high watermark: where the next readable record will stand.
    End,
    /// The first of a record enqueued at this time or later (milliseconds since 1970); the high
    /// watermark when there is none.
    Time(i64),
}

impl Field for At {
    fn put(&self, out: &mut BytesMut) {
        match self {
            Self::Start => 0_u8.put(out),
            Self::End => 1_u8.put(out),
            Self::Time(milliseconds) => {
                2_u8.put(out);
                milliseconds.put(out);
            }
        }
    }

    fn take(reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
        match reader.take::<u8>()? {
            0 => Ok(Self::Start),
            1 => Ok(Self::End),
            2 => Ok(Self::Time(reader.take()?)),
            value => Err(DecodeError::BadTag { what: "offset position", value: u32::from(value) }),
        }
    }

    fn size_min() -> usize {
        1
    }
}

/// Which partition, which offset.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ListOffsetRequest {
    /// The partition.
    pub key: PartitionKey,
    /// The position.
    pub at: At,
}
fields!(ListOffsetRequest { key, at });

/// The offset.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ListOffsetReply {
    /// Where to fetch from.
    pub offset: Offset,
    /// First offset there is.
    pub start_offset: Offset,
    /// One past the last readable offset.
    pub high_watermark: Offset,
}
fields!(ListOffsetReply { offset, start_offset, high_watermark });
