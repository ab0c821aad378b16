//! Error replies: a code, what to do about it, and the facts a client needs to go on.
//!
//! The codes are the public table of the README: number, cause, fix, and whether the same request
//! may be sent again. Numbers are for ever. A code this build does not know decodes as `Unknown`,
//! so that an old client survives a newer server.

use std::fmt;

use barrage_model::{CoreId, NodeId, Offset};
use bytes::BytesMut;

use crate::field::{DecodeError, Field, Reader, fields};

/// Writes the table of codes: number, name, retriable, cause, fix.
macro_rules! codes {
    ($($number:literal $name:ident $retriable:literal $cause:literal $fix:literal)*) => {
        /// What went wrong, as the number in a reply's header.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum ErrorCode {
            $(
                #[doc = $cause]
                $name,
            )*
            /// A number this build has no name for.
            Unknown(u16),
        }

        impl ErrorCode {
            /// Every code with a name.
            pub const ALL: &'static [Self] = &[$(Self::$name),*];

            /// The number on the wire, never 0.
            #[must_use]
            pub const fn number(self) -> u16 {
                match self {
                    $(Self::$name => $number,)*
                    Self::Unknown(number) => number,
                }
            }

            /// The code of a number; 0 means no error and has none.
            #[must_use]
            pub const fn from_number(number: u16) -> Option<Self> {
                match number {
                    0 => None,
                    $($number => Some(Self::$name),)*
                    other => Some(Self::Unknown(other)),
                }
            }

            /// Whether the same request may succeed when it is sent again.
            #[must_use]
            pub const fn is_retriable(self) -> bool {
                match self {
                    $(Self::$name => $retriable,)*
                    Self::Unknown(_) => false,
                }
            }

            /// Its name, as in the README.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self {
                    $(Self::$name => stringify!($name),)*
                    Self::Unknown(_) => "Unknown",
                }
            }

            /// Why a server says it.
            #[must_use]
            pub const fn cause(self) -> &'static str {
                match self {
                    $(Self::$name => $cause,)*
                    Self::Unknown(_) => "The server is newer than this client.",
                }
            }

            /// What to do about it.
            #[must_use]
            pub const fn fix(self) -> &'static str {
                match self {
                    $(Self::$name => $fix,)*
                    Self::Unknown(_) => "Update the client.",
                }
            }
        }
    };
}

codes! {
    1 Malformed false
        "The frame's body is not the message its opcode names." "Repair the client."
    2 FrameTooLarge false
        "The frame is longer than the limit in force; the connection is closed."
        "Send at most the limit that the handshake told."
    3 UnknownOpcode false
        "The server does not know this request." "Update the server, or do without."
    4 UnsupportedVersion false
        "The server does not speak this version of the protocol or request."
        "Use a version named in the message."
    5 HandshakeRequired false
        "Another request came before Hello, or Hello came twice; the connection is closed."
        "Send Hello first, once."
    6 InvalidArgument false
        "A field holds a value that is not allowed." "The message names the field and the limit."
    16 UnknownTopic false
        "No topic has this name or id." "Create it, or ask for metadata again: it was deleted."
    17 UnknownPartition false
        "The topic has no such partition." "Ask for metadata again."
    18 TopicExists false
        "A topic of this name exists." "Use it, or choose another name."
    19 UnknownGroup false
        "The topic has no group of this name or id." "Create it; it may have been deleted."
    20 GroupExists false
        "The topic has a group of this name." "Use it, or choose another name."
    32 NotLeader true
        "This node does not lead the partition or the catalog."
        "Go where the hint says; without one ask another node where."
    33 OffsetOutOfRange false
        "The offset is below the start or above the high watermark; the hint tells both."
        "Begin again within the range."
    34 InvalidBatch false
        "The batch's envelope is wrong: length, magic, CRC, count or compression."
        "Build the batch again; a wrong CRC means it was damaged on its way."
    35 BatchTooLarge false
        "The batch is longer than the limit." "Send smaller batches."
    36 OutOfOrderSequence false
        "An idempotent producer skipped a sequence number."
        "An earlier batch was lost: send that one first, or take a new producer id."
    37 ProducerFenced false
        "A newer epoch of this producer id is at work, or the topic's order is global and this \
         producer does not hold it."
        "Stop this producer."
    38 DuplicateSequence false
        "The batch was appended long ago; its offset is no longer remembered."
        "Count it as appended."
    39 UnknownProducer false
        "The server does not know this producer id any more." "Take a new producer id."
    40 UnknownMember false
        "The group does not know the member: it never joined, left, or was silent for a session."
        "Stop reading, and join again; nothing is committed for it any more."
    41 MemberFenced false
        "Another member came under the name of this instance." "Stop this member."
    42 StaleGeneration false
        "The member speaks of an assignment that is over."
        "Send a heartbeat with the generation that it was told last, and go by its answer."
    43 GroupHasMembers false
        "Only a group without members is changed from outside."
        "Stop its members, or wait until their sessions end; barrage group describe lists them."
    44 OtherProtocol false
        "The members of the group speak the Kafka protocol, in which they share out partitions."
        "Read with that protocol, or with another group."
    45 DelayIsOver false
        "A delayed batch names an instant that is over; nothing of it is stored."
        "Send what is late without a delay; or see whether the clocks agree."
    46 ProducerHeld false
        "The topic's order is global, and another producer holds it; the message tells how long."
        "Stop that producer; or wait until its session is over, or take the topic over."
    48 QueueFull true
        "More is waiting than the server holds." "Wait a little and send again."
    49 DiskFull true
        "The disk has no room left; reads go on." "Free space or shorten retention."
    50 QuotaExceeded true
        "A configured limit is used up; the hint tells when to come back." "Wait."
    51 Timeout true
        "The deadline passed first; whether the request took effect is unknown."
        "Send again with the same producer id and sequence."
    52 NotOnAll false
        "The record is on a majority but not on every replica; it stays." "Repair the replicas."
    53 Retry true
        "Leadership moved while the request was in flight; it did not take effect." "Send again."
    54 ShuttingDown true
        "The server is stopping; whether the request took effect is unknown."
        "Connect again, here or to another node."
    55 TooManyConnections true
        "The server holds as many connections as it may." "Close some, or raise the limit."
    56 Expired true
        "The deadline passed before the request was taken up: it did not take effect."
        "Send again, with a longer deadline."
    57 LimitReached false
        "A limit on topics, partitions or producers is reached; the message names it."
        "Remove some, or raise the limit."
    64 Damaged false
        "Stored bytes do not match their checksum." "Run barrage verify; restore from a replica."
    65 StorageFailed true
        "The disk failed while writing and the node goes down; whether it took effect is unknown."
        "See the server's log."
    66 Internal false
        "The server met a state it did not expect." "Report it, with the server's log."
    67 ReadFailed true
        "The disk failed while reading." "Send again; see the server's log."
}

impl ErrorCode {
    /// Whether the request may have taken effect although it failed.
    #[must_use]
    pub const fn is_outcome_unknown(self) -> bool {
        matches!(self, Self::Timeout | Self::ShuttingDown | Self::StorageFailed)
    }
}

impl fmt::Display for ErrorCode {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unknown(number) => write!(formatter, "error {number}"),
            known => formatter.write_str(known.name()),
        }
    }
}

/// What a client needs to go on after an error.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub enum Hint {
    /// Nothing.
    #[default]
    None,
    /// Who leads the partition, as far as this node knows.
    Leader {
        /// The node.
        node: NodeId,
        /// Its core that owns the partition.
        core: CoreId,
        /// Where that core listens, `HOST:PORT`.
        address: String,
    },
    /// The offsets there are.
    Offsets {
        /// First offset.
        start: Offset,
        /// One past the last readable offset.
        high_watermark: Offset,
    },
    /// When to come back.
    RetryAfter {
        /// Milliseconds from now.
        milliseconds: u32,
    },
    /// How many replicas have the record.
    Copies {
        /// Replicas that flushed it.
        have: u16,
        /// Replicas there are.
        want: u16,
    },
}

impl Field for Hint {
    fn put(&self, out: &mut BytesMut) {
        match self {
            Self::None => 0_u8.put(out),
            Self::Leader { node, core, address } => {
                1_u8.put(out);
                node.put(out);
                core.put(out);
                address.put(out);
            }
            Self::Offsets { start, high_watermark } => {
                2_u8.put(out);
                start.put(out);
                high_watermark.put(out);
            }
            Self::RetryAfter { milliseconds } => {
                3_u8.put(out);
                milliseconds.put(out);
            }
            Self::Copies { have, want } => {
                4_u8.put(out);
                have.put(out);
                want.put(out);
            }
        }
    }

    fn take(reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
        match reader.take::<u8>()? {
            0 => Ok(Self::None),
            1 => {
                let (node, core, address) = (reader.take()?, reader.take()?, reader.take()?);
                Ok(Self::Leader { node, core, address })
            }
            2 => Ok(Self::Offsets { start: reader.take()?, high_watermark: reader.take()? }),
            3 => Ok(Self::RetryAfter { milliseconds: reader.take()? }),
            4 => Ok(Self::Copies { have: reader.take()?, want: reader.take()? }),
            value => Err(DecodeError::BadTag { what: "hint", value: u32::from(value) }),
        }
    }

    fn size_min() -> usize {
        1
    }
}

/// A reply that says no. The code stands in the frame's header, the rest is the body.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ErrorReply {
    /// What went wrong.
    pub code: ErrorCode,
    /// The same for people; at most [`ErrorReply::MESSAGE_BYTES_MAX`] bytes.
    pub message: String,
    /// What the client needs to go on.
    pub hint: Hint,
}

/// The body of an error reply.
struct ErrorBody {
    message: String,
    hint: Hint,
}
fields!(ErrorBody { message, hint });

impl ErrorReply {
    /// Longer messages are cut.
    pub const MESSAGE_BYTES_MAX: usize = 1024;

    /// An error without a hint.
    #[must_use]
    pub fn new(code: ErrorCode, message: impl Into<String>) -> Self {
        Self::with_hint(code, message, Hint::None)
    }

    /// An error with a hint.
    #[must_use]
    pub fn with_hint(code: ErrorCode, message: impl Into<String>, hint: Hint) -> Self {
        let mut message = message.into();
        let cut = message.floor_char_boundary(Self::MESSAGE_BYTES_MAX);
        message.truncate(cut);
        Self { code, message, hint }
    }

    pub(crate) fn put(&self, out: &mut BytesMut) {
        self.message.put(out);
        self.hint.put(out);
    }

    pub(crate) fn decode(code: ErrorCode, body: &[u8]) -> Result<Self, DecodeError> {
        let mut reader = Reader::new(body);
        let ErrorBody { message, hint } = reader.take()?;
        reader.finish()?;
        Ok(Self { code, message, hint })
    }
}

impl fmt::Display for ErrorReply {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}: {}", self.code, self.message)
    }
}

impl std::error::Error for ErrorReply {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_and_codes_are_one_to_one() {
        for code in ErrorCode::ALL {
            assert_eq!(ErrorCode::from_number(code.number()), Some(*code));
            assert!(!code.cause().is_empty());
            assert!(!code.fix().is_empty());
        }
        assert_eq!(ErrorCode::from_number(0), None);
        assert_eq!(ErrorCode::from_number(999), Some(ErrorCode::Unknown(999)));
    }

    #[test]
    fn long_messages_are_cut_between_characters() {
        let error = ErrorReply::new(ErrorCode::Internal, "ä".repeat(2000));
        assert_eq!(error.message.len(), ErrorReply::MESSAGE_BYTES_MAX);
        let odd = ErrorReply::new(ErrorCode::Internal, format!("x{}", "ä".repeat(2000)));
        assert_eq!(odd.message.len(), ErrorReply::MESSAGE_BYTES_MAX - 1);
    }

    #[test]
    fn the_readme_lists_every_code() {
        let readme = include_str!("../README.md");
        for code in ErrorCode::ALL {
            let retriable = if code.is_retriable() { "yes" } else { "no" };
            let row = format!(
                "| {} | {} | {} | {} | {} |",
                code.number(),
                code.name(),
                retriable,
                code.cause(),
                code.fix()
            );
            assert!(readme.contains(&row), "README lacks: {row}");
        }
    }
}
