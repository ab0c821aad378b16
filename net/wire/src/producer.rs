//! Producers: InitProducer gives an id under which repeated batches are recognised, its request is
//! empty; ProducerClaim makes it the one that writes to a topic whose order is global.

use barrage_model::{PartitionKey, ProducerEpoch, ProducerId};
use bytes::BytesMut;

use crate::field::{DecodeError, Field, Reader, fields};

/// A fresh id; sequences start at 0 in every partition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InitProducerReply {
    /// The id.
    pub producer: ProducerId,
    /// Its epoch.
    pub epoch: ProducerEpoch,
}
fields!(InitProducerReply { producer, epoch });

/// What a claim is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClaimKind {
    /// To be the one that writes; not while another one is.
    Hold,
    /// To be the one that writes; another one is over.
    TakeOver,
    /// To be so no longer.
    Release,
    /// To go on being so.
    Keep,
}

impl Field for ClaimKind {
    fn put(&self, out: &mut BytesMut) {
        match self {
            Self::Hold => 0_u8.put(out),
            Self::TakeOver => 1_u8.put(out),
            Self::Release => 2_u8.put(out),
            Self::Keep => 3_u8.put(out),
        }
    }

    fn take(reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
        match reader.take::<u8>()? {
            0 => Ok(Self::Hold),
            1 => Ok(Self::TakeOver),
            2 => Ok(Self::Release),
            3 => Ok(Self::Keep),
            value => Err(DecodeError::BadTag { what: "claim", value: u32::from(value) }),
        }
    }

    fn size_min() -> usize {
        1
    }
}

/// Claims a topic whose order is global for a producer. The reply is empty: from then on nobody
/// else's batches are taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ProducerClaim {
    /// The topic's only partition.
    pub key: PartitionKey,
    /// Whose batches are to count.
    pub producer: ProducerId,
    /// What it is for.
    pub kind: ClaimKind,
    /// Not claiming for so many milliseconds, it may be replaced, writing or not: 6,000 to
    /// 1,800,000.
    pub session_ms: u32,
}
fields!(ProducerClaim { key, producer, kind, session_ms });
