//! Frames between nodes: a header of 64 bytes, then the body.
//!
//! Owns: the header's bytes, and what is refused before anything is allocated. Pure.
//!
//! ```text
//!   0        4         5      6        8         24     32   40       48      52
//!   | "BPEE" | version | kind | reason | cluster | from | to | number | shard | body length
//!   |  u32   |   u8    |  u8  |  u16   |  u128   | u64  | u64|  u64   |  u32  |     u32
//!
//!   56          60               64
//!   | within ms | CRC32C of what | body ...
//!   |    u32    |   lies before  |
//! ```
//! `reason` is that of a refusal, else 0. `number` ties an answer to its request; `within ms` is
//! how long the answer to a request is of use. A header that answers carries the ids of the node
//! that answers, a refusal too: so it tells which cluster and node are there instead.
//!
//! Must never: look into a body (it has a checksum of its own), trust a length without a limit.

use barrage_model::{NodeId, ShardId};

use crate::identity::{ClusterId, Identity};

const MAGIC: u32 = u32::from_le_bytes(*b"BPEE");
const VERSION: u8 = 1;

/// What a frame is.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Kind {
    /// Asks who is there and how its cores are reached.
    Contact,
    /// Tells it.
    ContactAnswer,
    /// Bytes for a shard's replica.
    Request,
    /// What the replica answers.
    Answer,
    /// There is no answer, for this reason.
    Refused(Refusal),
}

/// Why a node does not answer a request.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, thiserror::Error)]
pub enum Refusal {
    /// The request is for a node of another cluster.
    #[error("it belongs to another cluster")]
    WrongCluster,
    /// The request is for another node.
    #[error("it is another node")]
    WrongNode,
    /// This core carries no replica of the shard.
    #[error("it carries no replica of the shard there")]
    UnknownShard,
    /// The bytes are damaged, or not what the sender meant to say.
    #[error("the request is damaged")]
    Damaged,
    /// The node is about to end.
    #[error("it is stopping")]
    Stopping,
    /// The answer was not there in time.
    #[error("it was too slow")]
    TooLate,
}

impl Refusal {
    const fn code(self) -> u16 {
        match self {
            Self::WrongCluster => 1,
            Self::WrongNode => 2,
            Self::UnknownShard => 3,
            Self::Damaged => 4,
            Self::Stopping => 5,
            Self::TooLate => 6,
        }
    }

    const fn from_code(code: u16) -> Option<Self> {
        Some(match code {
            1 => Self::WrongCluster,
            2 => Self::WrongNode,
            3 => Self::UnknownShard,
            4 => Self::Damaged,
            5 => Self::Stopping,
            6 => Self::TooLate,
            _ => return None,
        })
    }
}

impl Kind {
    const fn codes(self) -> (u8, u16) {
        match self {
            Self::Contact => (1, 0),
            Self::ContactAnswer => (2, 0),
            Self::Request => (3, 0),
            Self::Answer => (4, 0),
            Self::Refused(refusal) => (5, refusal.code()),
        }
    }

    fn from_codes(kind: u8, reason: u16) -> Result<Self, FrameError> {
        let found = match (kind, reason) {
            (1, 0) => Some(Self::Contact),
            (2, 0) => Some(Self::ContactAnswer),
            (3, 0) => Some(Self::Request),
            (4, 0) => Some(Self::Answer),
            (5, reason) => Refusal::from_code(reason).map(Self::Refused),
            _ => None,
        };
        found.ok_or(FrameError::Kind { kind, reason })
    }

    /// Whether a frame of this kind is nothing but its header.
    const fn is_bare(self) -> bool {
        matches!(self, Self::Contact | Self::Refused(_))
    }
}

/// The 64 bytes in front of every body.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Header {
    /// What the frame is.
    pub kind: Kind,
    /// The cluster of the sender.
    pub cluster: ClusterId,
    /// The sender.
    pub from: NodeId,
    /// Who it is for.
    pub to: NodeId,
    /// Which request of the connection this is, or answers.
    pub number: u64,
    /// The shard whose replicas speak; 0 where there is none.
    pub shard: ShardId,
    /// Bytes that follow.
    pub body_size: u32,
    /// How long the answer to a request is of use, in milliseconds; 0 in all others.
    pub within_ms: u32,
}

/// Why a stream of frames cannot be read on: the connection has to be closed.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum FrameError {
    /// It does not begin as a frame does: something else speaks.
    #[error("not a frame: it begins with {0:#010x}")]
    Magic(u32),
    /// A version this build does not know.
    #[error("frame version {0} is not known to this build")]
    Version(u8),
    /// The header was altered on its way.
    #[error("the checksum of a header does not fit")]
    Checksum,
    /// No such kind.
    #[error("no kind of frame: {kind} with reason {reason}")]
    Kind {
        /// The kind.
        kind: u8,
        /// The reason.
        reason: u16,
    },
    /// A body where none may be.
    #[error("a body of {0} bytes where none may be")]
    Bare(u32),
    /// A body above the limit in force.
    #[error("a body of {size} bytes is above the limit of {size_max}")]
    TooLarge {
        /// The claim.
        size: u32,
        /// The limit.
        size_max: u32,
    },
}

impl Header {
    /// Bytes of a header.
    pub const SIZE: usize = 64;
    const CHECKED_SIZE: usize = Self::SIZE - size_of::<u32>();

    /// The header of a frame from `sender` without a body.
    #[must_use]
    pub const fn new(kind: Kind, sender: Identity, to: NodeId, number: u64) -> Self {
        let (cluster, from) = (sender.cluster, sender.node);
        Self { kind, cluster, from, to, number, shard: ShardId(0), body_size: 0, within_ms: 0 }
    }

    /// The bytes.
    #[must_use]
    pub fn encode(&self) -> [u8; Self::SIZE] {
        let (kind, reason) = self.kind.codes();
        let mut bytes = [0; Self::SIZE];
        let mut rest = bytes.as_mut_slice();
        put(&mut rest, MAGIC.to_le_bytes());
        put(&mut rest, [VERSION, kind]);
        put(&mut rest, reason.to_le_bytes());
        put(&mut rest, self.cluster.0.to_le_bytes());
        put(&mut rest, self.from.0.to_le_bytes());
        put(&mut rest, self.to.0.to_le_bytes());
        put(&mut rest, self.number.to_le_bytes());
        put(&mut rest, self.shard.0.to_le_bytes());
        put(&mut rest, self.body_size.to_le_bytes());
        put(&mut rest, self.within_ms.to_le_bytes());
        assert_eq!(rest.len(), size_of::<u32>(), "the checksum comes last");
        let (checked, crc) = bytes.split_at_mut(Self::CHECKED_SIZE);
        crc.copy_from_slice(&crc32c::crc32c(checked).to_le_bytes());
        bytes
    }

    /// Reads the header at the front; `None` until its 64 bytes are there.
    ///
    /// # Errors
    /// When it is none, or announces a body of more than `body_size_max` bytes. Something that is
    /// not a frame is refused from its first bytes.
    pub fn decode(bytes: &[u8], body_size_max: u32) -> Result<Option<Self>, FrameError> {
        let mut rest = bytes;
        let Some(magic) = take(&mut rest).map(u32::from_le_bytes) else { return Ok(None) };
        if magic != MAGIC {
            return Err(FrameError::Magic(magic));
        }
        let Some(header) = bytes.first_chunk::<{ Self::SIZE }>() else { return Ok(None) };
        let (checked, crc) = header.split_at(Self::CHECKED_SIZE);
        if crc != crc32c::crc32c(checked).to_le_bytes() {
            return Err(FrameError::Checksum);
        }
        // 64 bytes are there, so none of the fields is missing.
        let [version, kind] = take(&mut rest).unwrap_or_default();
        let reason = u16::from_le_bytes(take(&mut rest).unwrap_or_default());
        if version != VERSION {
            return Err(FrameError::Version(version));
        }
        let header = Self {
            kind: Kind::from_codes(kind, reason)?,
            cluster: ClusterId(u128::from_le_bytes(take(&mut rest).unwrap_or_default())),
            from: NodeId(u64::from_le_bytes(take(&mut rest).unwrap_or_default())),
            to: NodeId(u64::from_le_bytes(take(&mut rest).unwrap_or_default())),
            number: u64::from_le_bytes(take(&mut rest).unwrap_or_default()),
            shard: ShardId(u32::from_le_bytes(take(&mut rest).unwrap_or_default())),
            body_size: u32::from_le_bytes(take(&mut rest).unwrap_or_default()),
            within_ms: u32::from_le_bytes(take(&mut rest).unwrap_or_default()),
        };
        header.check(body_size_max)?;
        Ok(Some(header))
    }

    const fn check(&self, size_max: u32) -> Result<(), FrameError> {
        let size = self.body_size;
        if self.kind.is_bare() && size > 0 {
            return Err(FrameError::Bare(size));
        }
        if size > size_max {
            return Err(FrameError::TooLarge { size, size_max });
        }
        Ok(())
    }

    /// Bytes of the whole frame.
    #[must_use]
    pub const fn frame_size(&self) -> usize {
        Self::SIZE + self.body_size as usize
    }
}

fn put<const N: usize>(rest: &mut &mut [u8], value: [u8; N]) {
    if let Some((field, behind)) = std::mem::take(rest).split_first_chunk_mut::<N>() {
        *field = value;
        *rest = behind;
    }
}

fn take<const N: usize>(rest: &mut &[u8]) -> Option<[u8; N]> {
    let (field, behind) = rest.split_first_chunk::<N>()?;
    *rest = behind;
    Some(*field)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SENDER: Identity =
        Identity { cluster: ClusterId(0x0011_2233_4455_6677_8899_aabb_ccdd_eeff), node: NodeId(3) };
    const MAX: u32 = 1 << 20;

    fn header(kind: Kind) -> Header {
        Header {
            shard: ShardId(7),
            body_size: if kind.is_bare() { 0 } else { 0x0a0b },
            within_ms: 2_000,
            ..Header::new(kind, SENDER, NodeId(0x0102_0304_0506_0708), 0x1112_1314)
        }
    }

    fn kinds() -> Vec<Kind> {
        let refusals = (1..=6).filter_map(Refusal::from_code).map(Kind::Refused);
        let plain = [Kind::Contact, Kind::ContactAnswer, Kind::Request, Kind::Answer];
        plain.into_iter().chain(refusals).collect()
    }

    #[test]
    fn golden_bytes() {
        let hex = |kind| -> String {
            header(kind).encode().iter().map(|byte| format!("{byte:02x}")).collect()
        };
        assert_eq!(hex(Kind::Request), GOLDEN_REQUEST, "the format changed: raise the version");
        let refused = hex(Kind::Refused(Refusal::UnknownShard));
        assert_eq!(refused, GOLDEN_REFUSED, "the format changed: raise the version");
    }

    const GOLDEN_REQUEST: &str = "\
        4250454501030000ffeeddccbbaa9988776655443322110003000000000000000807060504030201\
        1413121100000000070000000b0a0000d00700001575c7c6";
    const GOLDEN_REFUSED: &str = "\
        4250454501050300ffeeddccbbaa9988776655443322110003000000000000000807060504030201\
        14131211000000000700000000000000d0070000b46c540b";

    #[test]
    fn every_kind_comes_back_as_it_was() {
        assert_eq!(kinds().len(), 10);
        for kind in kinds() {
            let header = header(kind);
            assert_eq!(Header::decode(&header.encode(), MAX), Ok(Some(header)));
        }
    }

    #[test]
    fn every_flipped_bit_is_found() {
        for kind in kinds() {
            let bytes = header(kind).encode();
            for bit in 0..Header::SIZE * 8 {
                let mut damaged = bytes;
                damaged[bit / 8] ^= 1 << (bit % 8);
                let found = Header::decode(&damaged, u32::MAX);
                assert!(found.is_err(), "bit {bit} of {kind:?} went unseen: {found:?}");
            }
        }
    }

    #[test]
    fn a_part_of_a_header_is_none_yet() {
        let bytes = header(Kind::Request).encode();
        for size in 0..bytes.len() {
            assert_eq!(Header::decode(&bytes[..size], MAX), Ok(None), "{size} bytes");
        }
        let error = Header::decode(b"GET /", MAX).unwrap_err();
        assert_eq!(error, FrameError::Magic(u32::from_le_bytes(*b"GET ")));
    }

    /// Fields that no writer of ours sends, with a checksum that fits.
    #[test]
    fn what_makes_no_sense_is_refused() {
        let sealed = |at: usize, value: &[u8]| {
            let mut bytes = header(Kind::Contact).encode();
            bytes[at..at + value.len()].copy_from_slice(value);
            let crc = crc32c::crc32c(&bytes[..60]).to_le_bytes();
            bytes[60..].copy_from_slice(&crc);
            Header::decode(&bytes, MAX)
        };
        assert_eq!(sealed(4, &[2]), Err(FrameError::Version(2)));
        assert_eq!(sealed(5, &[0]), Err(FrameError::Kind { kind: 0, reason: 0 }));
        assert_eq!(sealed(5, &[6]), Err(FrameError::Kind { kind: 6, reason: 0 }));
        assert_eq!(sealed(6, &[1]), Err(FrameError::Kind { kind: 1, reason: 1 }));
        assert_eq!(sealed(5, &[5]), Err(FrameError::Kind { kind: 5, reason: 0 }));
        assert_eq!(sealed(5, &[5, 7]), Err(FrameError::Kind { kind: 5, reason: 7 }));
        assert_eq!(sealed(52, &[1]), Err(FrameError::Bare(1)));
    }

    #[test]
    fn a_body_above_the_limit_is_refused() {
        let bytes = header(Kind::Request).encode();
        let error = FrameError::TooLarge { size: 0x0a0b, size_max: 0x0a0a };
        assert_eq!(Header::decode(&bytes, 0x0a0a), Err(error));
        assert!(Header::decode(&bytes, 0x0a0b).is_ok());
    }
}
