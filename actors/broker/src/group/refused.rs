//! Why a group says no.
//!
//! Owns: the answers, one per cause. Must never: name a protocol; a gateway has its own codes.
//! Invariants: what is refused as a whole has changed nothing but, at most, a session's end.

use barrage_model::Offset;

/// Why a group does not do what it is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Refused {
    /// It never joined, left, or its session is over: it stops and joins again, with nothing.
    #[error("the group does not know this member")]
    UnknownMember,
    /// It stops for good: somebody came under the name of its instance.
    #[error("another member has the place of this instance")]
    Fenced,
    /// It is late: what it wants to do belongs to an assignment that is over.
    #[error("this is not the generation of the member")]
    StaleGeneration,
    /// Classic: the members meet anew; it joins again, under the same id.
    #[error("the members of the group meet anew")]
    Rebalancing,
    /// A classic member and a native one cannot be in one group.
    #[error("the group works the other way")]
    OtherWay,
    /// Classic: the member knows none of the protocols that all others know.
    #[error("no protocol is known to all members")]
    NoCommonProtocol,
    /// Only a group without members is changed from outside.
    #[error("the group has members")]
    HasMembers,
    /// Members, names or partitions beyond what a group may have.
    #[error("the group is full")]
    Full,
    /// Too many topics or protocols, a protocol twice, or too many bytes of assignments.
    #[error("this is more than a member may bring")]
    TooLarge,
}

/// Why the offset of one partition is not stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum NotStored {
    /// The partition is not the member's.
    #[error("another member or none has the partition")]
    NotOwner,
    /// Only a reset goes back.
    #[error("the group is already at offset {stored}")]
    Behind {
        /// What is stored, and stays.
        stored: Offset,
    },
    /// The group does not read this partition.
    #[error("the group does not read this partition")]
    UnknownPartition,
    /// No record can have this offset.
    #[error("no record can have this offset")]
    OutOfRange,
    /// The metadata beside the offset is too long.
    #[error("the metadata is too long")]
    MetadataTooLong,
    /// More partitions or metadata than a group may store.
    #[error("the group stores no more offsets")]
    Full,
}
