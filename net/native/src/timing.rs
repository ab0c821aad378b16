//! When a connection has taken too long. Pure: times come in as arguments.
//!
//! One sweep a second looks at every connection instead of a timer per connection and read: ten
//! thousand idle connections then cost a walk over ten thousand small structs, and no timers.

use barrage_world::Instant;

use crate::close::CloseReason;
use crate::options::Options;

/// What a connection is doing, as far as its clock is concerned.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Timing {
    /// When it was accepted.
    pub(crate) opened: Instant,
    /// When bytes last came, or a request last ended.
    pub(crate) active: Instant,
    /// Whether the handshake is done.
    pub(crate) is_open: bool,
    /// When the frame being received began, and its size in bytes.
    pub(crate) frame: Option<(Instant, u64)>,
    /// When the write under way began.
    pub(crate) write: Option<Instant>,
    /// Whether requests are under way or replies wait.
    pub(crate) is_busy: bool,
}

impl Timing {
    /// The reason to close the connection now, if there is one.
    pub(crate) fn verdict(&self, now: Instant, options: &Options) -> Option<CloseReason> {
        let since = |then: Instant| now.saturating_duration_since(then);
        if self.write.is_some_and(|began| since(began) > options.write_timeout) {
            return Some(CloseReason::WriteTimeout);
        }
        if !self.is_open {
            let late = since(self.opened) > options.handshake_timeout;
            return late.then_some(CloseReason::HandshakeTimeout);
        }
        if let Some((began, size)) = self.frame {
            let seconds = size / Options::RECEIVE_BYTES_PER_S_MIN;
            let allowed = options.frame_timeout + std::time::Duration::from_secs(seconds);
            return (since(began) > allowed).then_some(CloseReason::FrameTimeout);
        }
        let idle = !self.is_busy && since(self.active) > options.idle_timeout;
        idle.then_some(CloseReason::Idle)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    const SECOND: u64 = 1_000_000_000;

    fn check(timing: Timing, now_s: u64, expected: Option<&str>) {
        let verdict = timing.verdict(Instant(now_s * SECOND), &Options::default());
        assert_eq!(verdict.map(|reason| reason.to_string()).as_deref(), expected);
    }

    #[test]
    fn connections_are_closed_when_they_take_too_long() {
        let start = Instant(0);
        let fresh = Timing {
            opened: start,
            active: start,
            is_open: false,
            frame: None,
            write: None,
            is_busy: false,
        };
        check(fresh, 4, None);
        check(fresh, 6, Some("no handshake in time"));
        let open = Timing { is_open: true, ..fresh };
        check(open, 599, None);
        check(open, 601, Some("idle for too long"));
        check(Timing { is_busy: true, ..open }, 10_000, None);
        let receiving = Timing { frame: Some((start, 16 << 20)), ..open };
        check(receiving, 1000, None);
        check(receiving, 1100, Some("a frame did not arrive in time"));
        check(
            Timing { frame: Some((start, 100)), ..open },
            31,
            Some("a frame did not arrive in time"),
        );
        let writing = Timing { write: Some(start), is_busy: true, ..open };
        check(writing, 29, None);
        check(writing, 31, Some("replies were not taken in time"));
        assert_eq!(Options::default().write_timeout, Duration::from_secs(30));
    }
}
