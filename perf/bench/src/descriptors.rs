//! How many files and sockets a process may have open: one for each connection, on both sides.
//!
//! Owns: raising this process's limit to what it is allowed. Must never: let a measurement begin
//! that would run out. A server raises its own; what it is allowed comes from this process.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// What each process has open beside the connections: files of the log, its ring, its load.
pub(crate) const RESERVE: u64 = 256;

/// Raises the limit, and says why `connections` do not fit it.
pub(crate) fn allow(connections: u64) -> Result<(), String> {
    raise();
    check(connections, getrlimit(Resource::Nofile).current)
}

/// Raises the limit of this process, and so of those that it starts.
pub(crate) fn raise() {
    let limit = getrlimit(Resource::Nofile);
    if limit.current != limit.maximum {
        // Where that is refused there is what there is: who needs more says so.
        let _ = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, ..limit });
    }
}

/// No limit is `None`.
fn check(connections: u64, limit: Option<u64>) -> Result<(), String> {
    let Some(limit) = limit else { return Ok(()) };
    let most = limit.saturating_sub(RESERVE);
    if connections <= most {
        return Ok(());
    }
    Err(format!(
        "--connections {connections}: a process here may have {limit} files open, {most} \
         connections beside its own; ask for fewer, or raise the hard limit (ulimit -Hn) as root"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn connections_must_fit_the_limit() {
        assert_eq!(check(u64::MAX, None), Ok(()));
        assert_eq!(check(744, Some(1000)), Ok(()));
        let refused = check(745, Some(1000)).unwrap_err();
        assert!(refused.contains("1000 files open, 744 connections"), "{refused}");
        assert!(check(1, Some(10)).is_err());
    }

    #[test]
    fn the_soft_limit_is_raised() {
        allow(1).unwrap();
        let limit = getrlimit(Resource::Nofile);
        assert_eq!(limit.current, limit.maximum);
    }
}
