//! What can go wrong for a user of the client, in one enum, with what to do about it.
//!
//! Owns: the errors and their sorting into kinds. Must never: hide which server or stage failed.

use std::time::Duration;

use barrage_model::batch::BatchError;
use barrage_model::{Offset, PartitionId};
use barrage_wire::{ErrorCode, ErrorReply, Hint};

/// Where reaching a server failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Stage {
    /// The host name gave no address.
    #[error("resolve the name")]
    Resolve,
    /// No TCP connection.
    #[error("connect")]
    Connect,
    /// Connected, but the peer did not shake hands.
    #[error("handshake")]
    Handshake,
}

/// Any failure of the client. Cheap to clone: one batch's error is told to many records.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ClientError {
    /// No connection to a server.
    #[error("cannot reach {server}: {stage}: {cause}")]
    Unreachable {
        /// `HOST:PORT`.
        server: String,
        /// What failed.
        stage: Stage,
        /// The system's words.
        cause: String,
    },
    /// A connection ended while an answer was awaited.
    #[error("connection to {server} was lost: {cause}")]
    Disconnected {
        /// `HOST:PORT`.
        server: String,
        /// The system's words.
        cause: String,
    },
    /// The server took too long to answer one request.
    #[error("{server} did not answer within {limit:?}")]
    RequestTimeout {
        /// `HOST:PORT`.
        server: String,
        /// How long was waited.
        limit: Duration,
    },
    /// The server said no.
    #[error("{0}")]
    Refused(ErrorReply),
    /// The server sent something that is no answer.
    #[error("{server} broke the protocol: {cause}")]
    Protocol {
        /// `HOST:PORT`.
        server: String,
        /// What it sent.
        cause: String,
    },
    /// The topic was deleted and made again: offsets and sequences mean something else now.
    #[error("topic {topic} was deleted and made again")]
    TopicReplaced {
        /// Its name.
        topic: String,
    },
    /// The topic has no such partition.
    #[error("partition {partition} does not exist: the topic has {partitions}")]
    NoSuchPartition {
        /// The one asked for.
        partition: PartitionId,
        /// How many there are, from 0 on.
        partitions: u32,
    },
    /// Bytes that are not a sound batch: built wrong, or damaged on disk or on the way.
    #[error("batch: {0}")]
    Batch(#[from] BatchError),
    /// A server sent batches that do not continue where the last ones ended.
    #[error("partition {partition}: expected offset {expected}, the server sent {found}")]
    OffsetGap {
        /// The partition.
        partition: PartitionId,
        /// Where reading had to go on.
        expected: Offset,
        /// Where the batch begins.
        found: Offset,
    },
    /// The time for delivery is over and nothing was ever heard.
    #[error("no server took the batch before the delivery timeout")]
    DeliveryTimeout,
    /// The producer or consumer was closed.
    #[error("closed")]
    Closed,
    /// A record is to be had from an instant on that is over.
    #[error("the record is delayed until {due_ms}, and it is {now_ms} (milliseconds since 1970)")]
    DelayIsOver {
        /// Until when it was to wait.
        due_ms: u64,
        /// What time it is here.
        now_ms: u64,
    },
    /// An option that makes no sense.
    #[error("option {name}: {problem}")]
    InvalidOption {
        /// The field.
        name: &'static str,
        /// What is wrong with it.
        problem: String,
    },
}

/// What a caller can do about an error.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ErrorKind {
    /// The thing named does not exist.
    NotFound,
    /// It exists already, or someone else owns it.
    Conflict,
    /// No server answers, or none that may do it.
    Unreachable,
    /// The call itself was wrong.
    Usage,
    /// Anything else.
    Other,
}

impl ClientError {
    /// What a caller can do about it.
    #[must_use]
    pub const fn kind(&self) -> ErrorKind {
        match self {
            Self::Unreachable { .. } | Self::Disconnected { .. } | Self::RequestTimeout { .. } => {
                ErrorKind::Unreachable
            }
            Self::NoSuchPartition { .. } => ErrorKind::NotFound,
            Self::InvalidOption { .. } | Self::DelayIsOver { .. } => ErrorKind::Usage,
            Self::TopicReplaced { .. } => ErrorKind::Conflict,
            Self::Refused(reply) => match reply.code {
                ErrorCode::UnknownTopic | ErrorCode::UnknownPartition | ErrorCode::UnknownGroup => {
                    ErrorKind::NotFound
                }
                ErrorCode::TopicExists
                | ErrorCode::GroupExists
                | ErrorCode::ProducerFenced
                | ErrorCode::ProducerHeld
                | ErrorCode::MemberFenced
                | ErrorCode::GroupHasMembers
                | ErrorCode::OtherProtocol => ErrorKind::Conflict,
                ErrorCode::InvalidArgument | ErrorCode::DelayIsOver => ErrorKind::Usage,
                ErrorCode::ShuttingDown | ErrorCode::NotLeader => ErrorKind::Unreachable,
                _ => ErrorKind::Other,
            },
            _ => ErrorKind::Other,
        }
    }

    /// The server's code, when a server said no.
    #[must_use]
    pub const fn code(&self) -> Option<ErrorCode> {
        match self {
            Self::Refused(reply) => Some(reply.code),
            _ => None,
        }
    }

    /// What to do about it, when a server said no.
    #[must_use]
    pub const fn fix(&self) -> Option<&'static str> {
        match self {
            Self::Refused(reply) => Some(reply.code.fix()),
            _ => None,
        }
    }

    /// How long the server asks to wait before the next attempt.
    pub(crate) fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::Refused(ErrorReply { hint: Hint::RetryAfter { milliseconds }, .. }) => {
                Some(Duration::from_millis(u64::from(*milliseconds)))
            }
            _ => None,
        }
    }

    /// The request surely took no effect and may be sent again.
    pub(crate) const fn is_surely_without_effect(&self) -> bool {
        match self {
            Self::Unreachable { .. } => true,
            Self::Refused(reply) => matches!(
                reply.code,
                ErrorCode::Retry
                    | ErrorCode::QueueFull
                    | ErrorCode::QuotaExceeded
                    | ErrorCode::DiskFull
                    | ErrorCode::TooManyConnections
            ),
            _ => false,
        }
    }

    /// The request was surely not carried out, whether it changes something or not: it was refused
    /// at the door, or never left.
    pub(crate) const fn is_refused_untouched(&self) -> bool {
        match self {
            Self::Refused(reply) if matches!(reply.code, ErrorCode::NotLeader) => true,
            _ => self.is_surely_without_effect(),
        }
    }

    /// Another server may do better.
    pub(crate) const fn is_of_this_server(&self) -> bool {
        match self {
            Self::Refused(reply) => matches!(
                reply.code,
                ErrorCode::NotLeader
                    | ErrorCode::ShuttingDown
                    | ErrorCode::StorageFailed
                    | ErrorCode::TooManyConnections
                    | ErrorCode::Timeout
            ),
            _ => true,
        }
    }

    /// Another attempt, perhaps over another connection, may succeed.
    #[must_use]
    pub const fn is_retriable(&self) -> bool {
        match self {
            Self::Unreachable { .. } | Self::Disconnected { .. } | Self::RequestTimeout { .. } => {
                true
            }
            Self::Refused(reply) => reply.code.is_retriable(),
            _ => false,
        }
    }
}
