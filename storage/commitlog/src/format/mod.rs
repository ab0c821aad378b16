//! The disk format of a shard log. Little-endian; every structure carries a magic and a CRC32C.
//!
//! ```text
//! segment file   [header][header copy][flush group][flush group]...          (4096-byte blocks)
//! flush group    [group header 128 B][entry][entry]...[zero padding]          local to a replica
//! entry          [entry header 80 B][run table][command][batches]             same on all replicas
//! ```
//!
//! Rules: a block that holds acknowledged bytes is never rewritten; a zero block never decodes;
//! a group's CRC starts from its segment's random salt, so that neither the former content of a
//! recycled file nor bytes chosen by a producer can pass for a group of this segment.

pub(crate) mod checkpoint;
pub(crate) mod entry;
pub(crate) mod group;
pub(crate) mod index;
pub(crate) mod segment;
pub(crate) mod table;

use thiserror::Error;

/// Bytes of a block: the unit of alignment of all direct I/O.
pub(crate) const BLOCK_BYTES: usize = barrage_model::BLOCK_SIZE;

/// Why bytes are not what they should be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub(crate) enum FormatError {
    /// Fewer bytes than the structure needs.
    #[error("bytes end early")]
    Short,
    /// Another structure, an empty block, or noise.
    #[error("magic does not match")]
    Magic,
    /// The checksum does not fit the bytes.
    #[error("checksum does not match")]
    Checksum,
    /// A newer or unknown version.
    #[error("unknown format version {0}")]
    Version(u32),
    /// A field outside its range, named.
    #[error("field {0} is out of range")]
    Field(&'static str),
    /// A whole structure, but of another place: another shard, segment or position.
    #[error("belongs elsewhere: {0} differs")]
    Elsewhere(&'static str),
}

/// Positions, indexes, terms, offsets and numbers of things count up from zero. What is larger was
/// not counted, and adding to what is not cannot overflow.
const COUNT_MAX: u64 = 1 << 62;

/// Rounds up to a whole number of blocks.
pub(crate) fn round_up_to_block(len: usize) -> usize {
    len.div_ceil(BLOCK_BYTES) * BLOCK_BYTES
}

/// Reads fixed-width little-endian fields; every read is bounded.
pub(crate) struct Fields<'a> {
    rest: &'a [u8],
}

impl<'a> Fields<'a> {
    pub(crate) fn new(bytes: &'a [u8]) -> Self {
        Self { rest: bytes }
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], FormatError> {
        let (head, rest) = self.rest.split_first_chunk::<N>().ok_or(FormatError::Short)?;
        self.rest = rest;
        Ok(*head)
    }

    pub(crate) fn u16(&mut self) -> Result<u16, FormatError> {
        Ok(u16::from_le_bytes(self.array()?))
    }

    pub(crate) fn u32(&mut self) -> Result<u32, FormatError> {
        Ok(u32::from_le_bytes(self.array()?))
    }

    pub(crate) fn u64(&mut self) -> Result<u64, FormatError> {
        Ok(u64::from_le_bytes(self.array()?))
    }

    /// A number that something was counted with.
    pub(crate) fn count(&mut self, name: &'static str) -> Result<u64, FormatError> {
        let count = self.u64()?;
        if count <= COUNT_MAX { Ok(count) } else { Err(FormatError::Field(name)) }
    }

    pub(crate) fn i64(&mut self) -> Result<i64, FormatError> {
        Ok(i64::from_le_bytes(self.array()?))
    }
}

/// Writes fields one after the other into a slice that is long enough by construction.
pub(crate) struct Writer<'a> {
    bytes: &'a mut [u8],
    at: usize,
}

impl<'a> Writer<'a> {
    pub(crate) fn new(bytes: &'a mut [u8]) -> Self {
        Self { bytes, at: 0 }
    }

    pub(crate) fn put(&mut self, field: &[u8]) {
        let end = self.at + field.len();
        let Some(room) = self.bytes.get_mut(self.at..end) else {
            panic!("a field of {} bytes does not fit at {}", field.len(), self.at);
        };
        room.copy_from_slice(field);
        self.at = end;
    }

    pub(crate) fn u16(&mut self, value: u16) {
        self.put(&value.to_le_bytes());
    }

    pub(crate) fn u32(&mut self, value: u32) {
        self.put(&value.to_le_bytes());
    }

    pub(crate) fn u64(&mut self, value: u64) {
        self.put(&value.to_le_bytes());
    }

    pub(crate) fn i64(&mut self, value: i64) {
        self.put(&value.to_le_bytes());
    }

    pub(crate) fn position(&self) -> usize {
        self.at
    }
}

/// The part of `bytes` in `[start, end)`, or an error when it is not there.
pub(crate) fn part(bytes: &[u8], start: usize, end: usize) -> Result<&[u8], FormatError> {
    bytes.get(start..end).ok_or(FormatError::Short)
}
