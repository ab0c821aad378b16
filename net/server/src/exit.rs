//! Exit codes, the same for every sub-command.

use std::process::ExitCode;

/// How a sub-command ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Exit {
    /// Done.
    Ok = 0,
    /// It failed.
    Failure = 1,
    /// Flags, settings or a file make no sense.
    Usage = 2,
    /// An address or a data directory is in use.
    Conflict = 6,
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit as u8)
    }
}

/// Why a sub-command failed, in words for people, and with which code it ends.
#[derive(Debug, thiserror::Error)]
#[error("{reason}")]
pub(crate) struct Failure {
    /// The exit code.
    pub(crate) exit: Exit,
    /// The words.
    pub(crate) reason: String,
}

impl Failure {
    pub(crate) fn new(reason: impl ToString) -> Self {
        Self { exit: Exit::Failure, reason: reason.to_string() }
    }

    pub(crate) fn usage(reason: impl ToString) -> Self {
        Self { exit: Exit::Usage, reason: reason.to_string() }
    }

    pub(crate) fn conflict(reason: impl ToString) -> Self {
        Self { exit: Exit::Conflict, reason: reason.to_string() }
    }
}
