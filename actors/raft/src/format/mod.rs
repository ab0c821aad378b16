//! Bytes of this crate that outlive a process: membership entries and the checkpoint's envelope.
//!
//! Owns: both encodings, their versions and checks. rkyv inside, a small envelope outside:
//!
//! ```text
//! 0        1        2          4          8           12
//! | kind   | version| zero u16 | length u32| crc32c u32| body (length bytes) |
//! ```
//!
//! Integers are little-endian. The CRC covers bytes [0, 8) and the body.
//! Body of a membership: rkyv of `MembershipV1`.
//! Body of a checkpoint: `u32` length of the head, rkyv of `CheckpointHeadV1`, the machine's parts,
//! each behind its `u32` length. On the disk a checkpoint without parts comes first, and each part
//! of the machine stands for itself.
//!
//! Messages between replicas use the same envelope, see [`rpc`], and so does the file of a
//! replica that is not whole, see [`marker`].
//!
//! Must never: read a field before the CRC has been checked.

pub(crate) mod marker;
pub(crate) mod rpc;

use std::collections::{BTreeMap, BTreeSet};

use rkyv::rancor;

use crate::vocabulary::{CommittedLeaderId, Membership, RaftLogId, StoredMembership};

const KIND_MEMBERSHIP: u8 = 1;
/// 2 was one whose machine was not in parts.
const KIND_CHECKPOINT: u8 = 6;
const VERSION: u8 = 1;
const ENVELOPE_SIZE: usize = 12;
const CRC_POSITION: usize = 8;
const LENGTH_SIZE: usize = 4;

/// Bytes that are not what this crate wrote.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum FormatError {
    /// Shorter or longer than the envelope says.
    #[error("wrong length: {actual} bytes, expected {expected}")]
    Length {
        /// What the envelope says, envelope included.
        expected: usize,
        /// What is there.
        actual: usize,
    },
    /// Not the kind of record asked for.
    #[error("unknown kind {0}")]
    Kind(u8),
    /// Written by a version this one does not read.
    #[error("unknown version {0}")]
    Version(u8),
    /// The CRC does not match.
    #[error("checksum mismatch")]
    Checksum,
    /// The CRC matches but the body makes no sense.
    #[error("malformed body")]
    Body,
    /// Whole, but meant for another replica.
    #[error("meant for another replica")]
    Elsewhere,
    /// Too large for the length field.
    #[error("too large to encode: {0} bytes")]
    TooLarge(usize),
}

#[derive(rkyv::Archive, rkyv::Serialize, rkyv::Deserialize)]
struct MembershipV1 {
    /// One set of voters, or two while the configuration changes; each ascending.
    voters: Vec<Vec<u64>>,
    /// All nodes, learners included; ascending.
    nodes: Vec<u64>,
}

#[derive(rkyv::Archive, rkyv::Serialize, rkyv::Deserialize)]
struct CheckpointHeadV1 {
    /// Term and index of the entry that set the membership.
    membership_id: Option<(u64, u64)>,
    membership: MembershipV1,
}

pub(crate) fn encode_membership(membership: &Membership) -> Result<Vec<u8>, FormatError> {
    let body = rkyv::to_bytes::<rancor::Error>(&from_membership(membership))
        .map_err(|_| FormatError::Body)?;
    seal(KIND_MEMBERSHIP, &[&body])
}

pub(crate) fn decode_membership(bytes: &[u8]) -> Result<Membership, FormatError> {
    let body = open(KIND_MEMBERSHIP, bytes)?;
    let stored =
        rkyv::from_bytes::<MembershipV1, rancor::Error>(body).map_err(|_| FormatError::Body)?;
    to_membership(stored)
}

/// The whole checkpoint: what the group remembers, then what the machine does.
pub(crate) fn encode_checkpoint(
    membership: &StoredMembership,
    parts: &[Vec<u8>],
) -> Result<Vec<u8>, FormatError> {
    let head = CheckpointHeadV1 {
        membership_id: membership.log_id().as_ref().map(|id| (id.leader_id.term, id.index)),
        membership: from_membership(membership.membership()),
    };
    let head = rkyv::to_bytes::<rancor::Error>(&head).map_err(|_| FormatError::Body)?;
    let head_length = u32::try_from(head.len()).map_err(|_| FormatError::TooLarge(head.len()))?;
    let mut framed = Vec::new();
    for part in parts {
        let length = u32::try_from(part.len()).map_err(|_| FormatError::TooLarge(part.len()))?;
        framed.extend_from_slice(&length.to_le_bytes());
        framed.extend_from_slice(part);
    }
    seal(KIND_CHECKPOINT, &[&head_length.to_le_bytes(), &head, &framed])
}

/// What stands behind its length, and the rest.
fn split_framed(bytes: &[u8]) -> Result<(&[u8], &[u8]), FormatError> {
    let (length, rest) = bytes.split_first_chunk::<LENGTH_SIZE>().ok_or(FormatError::Body)?;
    let length = usize::try_from(u32::from_le_bytes(*length)).map_err(|_| FormatError::Body)?;
    rest.split_at_checked(length).ok_or(FormatError::Body)
}

/// What the group remembers, and the machine's parts, which are borrowed.
pub(crate) fn decode_checkpoint(
    bytes: &[u8],
) -> Result<(StoredMembership, Vec<&[u8]>), FormatError> {
    let body = open(KIND_CHECKPOINT, bytes)?;
    let (head, mut rest) = split_framed(body)?;
    let mut parts = Vec::new();
    while !rest.is_empty() {
        let (part, behind) = split_framed(rest)?;
        parts.push(part);
        rest = behind;
    }
    let head =
        rkyv::from_bytes::<CheckpointHeadV1, rancor::Error>(head).map_err(|_| FormatError::Body)?;
    let id = head
        .membership_id
        .map(|(term, index)| RaftLogId::new(CommittedLeaderId::from(term), index));
    Ok((StoredMembership::new(id, to_membership(head.membership)?), parts))
}

fn from_membership(membership: &Membership) -> MembershipV1 {
    let voters = membership.get_joint_config().iter();
    MembershipV1 {
        voters: voters.map(|set| set.iter().copied().collect()).collect(),
        nodes: membership.nodes().map(|(id, _)| *id).collect(),
    }
}

fn to_membership(stored: MembershipV1) -> Result<Membership, FormatError> {
    if stored.voters.is_empty() && stored.nodes.is_empty() {
        return Ok(Membership::default());
    }
    let voters: Vec<BTreeSet<u64>> =
        stored.voters.into_iter().map(|set| set.into_iter().collect()).collect();
    let nodes: BTreeMap<u64, openraft::EmptyNode> =
        stored.nodes.into_iter().map(|id| (id, openraft::EmptyNode::new())).collect();
    Membership::new(voters, nodes).map_err(|_| FormatError::Body)
}

fn seal(kind: u8, parts: &[&[u8]]) -> Result<Vec<u8>, FormatError> {
    let length: usize = parts.iter().map(|part| part.len()).sum();
    let length_field = u32::try_from(length).map_err(|_| FormatError::TooLarge(length))?;
    let mut bytes = Vec::with_capacity(ENVELOPE_SIZE + length);
    bytes.extend_from_slice(&[kind, VERSION, 0, 0]);
    bytes.extend_from_slice(&length_field.to_le_bytes());
    let mut crc = crc32c::crc32c(&bytes);
    for part in parts {
        crc = crc32c::crc32c_append(crc, part);
    }
    bytes.extend_from_slice(&crc.to_le_bytes());
    for part in parts {
        bytes.extend_from_slice(part);
    }
    assert_eq!(bytes.len(), ENVELOPE_SIZE + length);
    Ok(bytes)
}

/// The body of an envelope behind which nothing follows.
fn open(kind: u8, bytes: &[u8]) -> Result<&[u8], FormatError> {
    let (body, rest) = open_front(kind, bytes)?;
    if rest.is_empty() {
        return Ok(body);
    }
    Err(FormatError::Length { expected: bytes.len() - rest.len(), actual: bytes.len() })
}

/// The body of the envelope at the front, and what follows it: that has checksums of its own.
fn open_front(kind: u8, bytes: &[u8]) -> Result<(&[u8], &[u8]), FormatError> {
    let too_short = FormatError::Length { expected: ENVELOPE_SIZE, actual: bytes.len() };
    let (envelope, body) = bytes.split_first_chunk::<ENVELOPE_SIZE>().ok_or(too_short)?;
    let [kind_read, version, _, _, l0, l1, l2, l3, c0, c1, c2, c3] = *envelope;
    let length =
        usize::try_from(u32::from_le_bytes([l0, l1, l2, l3])).map_err(|_| FormatError::Body)?;
    let Some((body, rest)) = body.split_at_checked(length) else {
        let expected = ENVELOPE_SIZE.saturating_add(length);
        return Err(FormatError::Length { expected, actual: bytes.len() });
    };
    let (covered, _) = envelope.split_at(CRC_POSITION);
    let crc = crc32c::crc32c_append(crc32c::crc32c(covered), body);
    if crc != u32::from_le_bytes([c0, c1, c2, c3]) {
        return Err(FormatError::Checksum);
    }
    if kind_read != kind {
        return Err(FormatError::Kind(kind_read));
    }
    if version != VERSION {
        return Err(FormatError::Version(version));
    }
    Ok((body, rest))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests fail by panicking")]

    use super::*;

    fn membership() -> Membership {
        Membership::new_with_defaults(vec![BTreeSet::from([1, 2]), BTreeSet::from([2, 3])], [7])
    }

    fn stored() -> StoredMembership {
        let id = RaftLogId::new(CommittedLeaderId::from(3), 9);
        StoredMembership::new(Some(id), membership())
    }

    /// Every flipped bit and every cut must be refused.
    fn check_corruption(bytes: &[u8], decodes: impl Fn(&[u8]) -> bool) {
        assert!(decodes(bytes));
        for position in 0..bytes.len() {
            for bit in 0..8 {
                let mut damaged = bytes.to_vec();
                damaged[position] ^= 1 << bit;
                assert!(!decodes(&damaged), "bit {bit} of byte {position} went unnoticed");
            }
            assert!(!decodes(&bytes[..position]), "cut at {position} went unnoticed");
        }
        assert!(!decodes(&vec![0; bytes.len()]));
    }

    #[test]
    fn membership_round_trip_and_corruption() {
        let bytes = encode_membership(&membership()).unwrap();
        assert_eq!(decode_membership(&bytes).unwrap(), membership());
        check_corruption(&bytes, |bytes| decode_membership(bytes).is_ok());
    }

    #[test]
    fn checkpoint_round_trip_and_corruption() {
        let bytes = encode_checkpoint(&stored(), &[b"machine".to_vec(), Vec::new()]).unwrap();
        let (membership, parts) = decode_checkpoint(&bytes).unwrap();
        assert_eq!(membership, stored());
        assert_eq!(parts, [&b"machine"[..], b""]);
        check_corruption(&bytes, |bytes| decode_checkpoint(bytes).is_ok());
    }

    fn hex(bytes: &[u8]) -> String {
        bytes.iter().map(|byte| format!("{byte:02x}")).collect()
    }

    #[test]
    fn golden_bytes() {
        let bytes = encode_membership(&membership()).unwrap();
        assert_eq!(hex(&bytes), GOLDEN_MEMBERSHIP, "the format changed: raise the version");
        let bytes = encode_checkpoint(&stored(), &[b"machine".to_vec()]).unwrap();
        assert_eq!(hex(&bytes), GOLDEN_CHECKPOINT, "the format changed: raise the version");
    }

    const GOLDEN_MEMBERSHIP: &str = "\
        01010000600000008b21df9401000000000000000200000000000000020000000000000003000000\
        00000000e0ffffff02000000e8ffffff020000000100000000000000020000000000000003000000\
        000000000700000000000000d0ffffff02000000d8ffffff04000000";
    const GOLDEN_CHECKPOINT: &str = "\
        060100008000000046c3365571000000010000000000000002000000000000000200000000000000\
        0300000000000000e0ffffff02000000e8ffffff0200000001000000000000000200000000000000\
        030000000000000007000000000000000103000000000000000900000000000000bfffffff020000\
        00c7ffffff04000000070000006d616368696e65";

    #[test]
    fn kinds_are_not_confused() {
        let bytes = encode_membership(&membership()).unwrap();
        assert_eq!(decode_checkpoint(&bytes).unwrap_err(), FormatError::Kind(KIND_MEMBERSHIP));
    }

    #[test]
    fn empty_checkpoint_round_trip() {
        let bytes = encode_checkpoint(&StoredMembership::default(), &[]).unwrap();
        let (membership, parts) = decode_checkpoint(&bytes).unwrap();
        assert_eq!(membership, StoredMembership::default());
        assert!(parts.is_empty());
    }
}
