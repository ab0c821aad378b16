//! Why the log cannot do what it was asked.

use std::path::PathBuf;
use std::rc::Rc;
use thiserror::Error;

/// Bytes that must be there are not what was written.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("{} is damaged at byte {position}: {reason}", path.display())]
pub struct Damage {
    /// The file.
    pub path: PathBuf,
    /// Byte in the file where the damage was met.
    pub position: u64,
    /// What was found there.
    pub reason: String,
}

/// Why a log cannot be opened. The shard must not vote or serve.
#[derive(Debug, Error)]
pub enum OpenError {
    /// Bytes that may be acknowledged are damaged: never taken for the end of the log.
    #[error("{0}; restore the file from a copy, or move the shard's folder away to lose it")]
    Damaged(#[from] Damage),
    /// The disk or the file system refused.
    #[error("cannot {action} {}: {source}", path.display())]
    Io {
        /// What was tried.
        action: &'static str,
        /// On which file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// A segment is whole blocks.
    #[error("segment size of {segment_bytes} bytes is not a multiple of 4096")]
    SegmentUnaligned {
        /// What was asked for.
        segment_bytes: u64,
    },
    /// Options that cannot work.
    #[error("segment size of {segment_bytes} bytes is too large; at most {most} can be")]
    SegmentTooLarge {
        /// What was asked for.
        segment_bytes: u64,
        /// What can be.
        most: u64,
    },
    /// Options that cannot work.
    #[error("segment size of {segment_bytes} bytes is too small; at least {least} are needed")]
    SegmentTooSmall {
        /// What was asked for.
        segment_bytes: u64,
        /// What is needed.
        least: u64,
    },
}

/// Why nothing more is made durable.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum LogError {
    /// A write or flush failed. Unknown state: nothing is retried, the node must stop.
    #[error("the log is poisoned: {0}")]
    Poisoned(Rc<str>),
    /// The log was closed.
    #[error("the log is closed")]
    Closed,
}

/// Why a read has no answer.
#[derive(Debug, Error)]
pub enum ReadError {
    /// The bytes on the medium are not what was written; they are never handed out.
    #[error(transparent)]
    Damaged(#[from] Damage),
    /// The disk refused.
    #[error("cannot read {}: {source}", path.display())]
    Io {
        /// On which file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// Not in the log: below the floor, dropped, or never written.
    #[error("{what} is not in the log")]
    NotFound {
        /// What was asked for.
        what: String,
    },
}

impl OpenError {
    /// What a scan of an open log met.
    pub(crate) fn into_read_error(self) -> ReadError {
        match self {
            Self::Damaged(damage) => ReadError::Damaged(damage),
            Self::Io { path, source, .. } => ReadError::Io { path, source },
            // Options are checked when a log is opened.
            other => ReadError::NotFound { what: other.to_string() },
        }
    }
}
