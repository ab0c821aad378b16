//! The envelope around every command, checkpoint and message between nodes.
//!
//! ```text
//! 0       1        2          4            8            12
//! +-------+--------+----------+------------+------------+---------------------+
//! | type  | version| zero u16 | length u32 | crc32c u32 | length bytes (rkyv) |
//! +-------+--------+----------+------------+------------+---------------------+
//! little-endian; the CRC covers bytes [0, 8) and the payload.
//! ```
//!
//! Owns: those twelve bytes. Must never: hand out a payload whose CRC has not been checked.
//! Invariants: a type and version name one layout for ever; a changed layout takes a new version.

#[expect(missing_docs, reason = "what rkyv derives has none")]
pub mod backoff;
pub mod checkpoint;
pub mod message;
pub mod retention;

use rkyv::api::high::{HighDeserializer, HighSerializer, HighValidator};
use rkyv::bytecheck::CheckBytes;
use rkyv::rancor;
use rkyv::ser::allocator::ArenaHandle;
use rkyv::util::AlignedVec;
use rkyv::{Archive, Deserialize, Serialize};
use thiserror::Error;

/// Size of the envelope's header in bytes.
pub const HEADER_SIZE: usize = 12;

/// What an envelope holds. The numbers are on disk: never change or reuse one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Kind {
    /// A command of the catalog.
    CatalogCommand = 1,
    /// A checkpoint of the catalog.
    CatalogCheckpoint = 2,
    /// A command of a data shard.
    ShardCommand = 3,
    /// A checkpoint of a data shard.
    ShardCheckpoint = 4,
    /// A question from one node to another. No message of a Raft group begins with this number.
    Message = 32,
    /// Its answer.
    Answer = 33,
}

/// Why bytes are not the envelope that was expected.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
pub enum FormatError {
    /// Fewer or more bytes than the header says.
    #[error("wrong length")]
    Length,
    /// The checksum does not match.
    #[error("wrong checksum")]
    Checksum,
    /// Another type than expected.
    #[error("unexpected type {found}")]
    Kind {
        /// The type found.
        found: u8,
    },
    /// A version this build does not know.
    #[error("unknown version {found}")]
    Version {
        /// The version found.
        found: u8,
    },
    /// The checksum matches but the content is not valid.
    #[error("invalid content")]
    Content,
}

/// Serializes `value` into an envelope.
///
/// Serializing to memory cannot fail for the types used here; if rkyv ever says it did, the payload
/// is empty and every reader refuses it.
pub fn seal<T>(kind: Kind, version: u8, value: &T) -> Vec<u8>
where
    T: for<'a> Serialize<HighSerializer<AlignedVec, ArenaHandle<'a>, rancor::Error>>,
{
    let payload = rkyv::to_bytes::<rancor::Error>(value).unwrap_or_default();
    let length = u32::try_from(payload.len()).unwrap_or(0);
    assert!(length as usize == payload.len(), "an envelope holds less than 4 GiB");
    let mut bytes = Vec::with_capacity(HEADER_SIZE + payload.len());
    bytes.extend_from_slice(&[kind as u8, version, 0, 0]);
    bytes.extend_from_slice(&length.to_le_bytes());
    let crc = crc32c::crc32c_append(crc32c::crc32c(&bytes), &payload);
    bytes.extend_from_slice(&crc.to_le_bytes());
    bytes.extend_from_slice(&payload);
    bytes
}

/// Checks an envelope and hands out its version and payload.
pub fn open(kind: Kind, bytes: &[u8]) -> Result<(u8, &[u8]), FormatError> {
    let (header, payload) = bytes.split_at_checked(HEADER_SIZE).ok_or(FormatError::Length)?;
    let (covered, crc) = header.split_at_checked(8).ok_or(FormatError::Length)?;
    let &[found, version, zero_0, zero_1, l0, l1, l2, l3] = covered else {
        return Err(FormatError::Length);
    };
    if payload.len() != u32::from_le_bytes([l0, l1, l2, l3]) as usize {
        return Err(FormatError::Length);
    }
    let computed = crc32c::crc32c_append(crc32c::crc32c(covered), payload);
    if crc != computed.to_le_bytes().as_slice() {
        return Err(FormatError::Checksum);
    }
    if found != kind as u8 || zero_0 != 0 || zero_1 != 0 {
        return Err(FormatError::Kind { found });
    }
    Ok((version, payload))
}

/// Deserializes a payload that [`open`] has handed out, with every check rkyv has.
pub fn decode<T>(payload: &[u8]) -> Result<T, FormatError>
where
    T: Archive,
    T::Archived: for<'a> CheckBytes<HighValidator<'a, rancor::Error>>
        + Deserialize<T, HighDeserializer<rancor::Error>>,
{
    rkyv::from_bytes::<T, rancor::Error>(payload).map_err(|_| FormatError::Content)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests fail by panicking")]
    #![allow(clippy::indexing_slicing, reason = "tests fail by panicking")]

    use super::*;

    #[test]
    fn golden_envelope() {
        let bytes = seal(Kind::ShardCommand, 7, &0x0102_0304_u32);
        assert_eq!(&bytes[..8], &[3, 7, 0, 0, 4, 0, 0, 0]);
        assert_eq!(&bytes[12..], &[4, 3, 2, 1]);
        let (version, payload) = open(Kind::ShardCommand, &bytes).unwrap();
        assert_eq!((version, decode::<u32>(payload).unwrap()), (7, 0x0102_0304));
    }

    #[test]
    fn every_flipped_bit_and_cut_is_found() {
        let bytes = seal(Kind::CatalogCommand, 1, &vec![1_u64, 2, 3]);
        for at in 0..bytes.len() * 8 {
            let mut broken = bytes.clone();
            broken[at / 8] ^= 1 << (at % 8);
            assert!(open(Kind::CatalogCommand, &broken).is_err(), "bit {at}");
        }
        for len in 0..bytes.len() {
            assert!(open(Kind::CatalogCommand, &bytes[..len]).is_err(), "cut to {len}");
        }
        assert_eq!(open(Kind::ShardCommand, &bytes), Err(FormatError::Kind { found: 1 }));
    }
}
