//! The sending half of one side of a stream.
//!
//! Owns the bytes from the first that is not acknowledged to the last that was written. Pure.
//!
//! ```text
//!   acked ......... sent ............ end [end + 1 with the end of the stream]
//!     | outstanding  |  to be sent     |     up to window_end the other side has room
//! ```
//!
//! Invariants: acked <= sent <= end + 1; nothing beyond `window_end` is sent, but for the end.

use bytes::{Buf, Bytes, BytesMut};

use super::connection::Kind;

pub(super) struct Sending {
    bytes: BytesMut,
    acked: u64,
    sent: u64,
    window_end: u64,
    ended: bool,
    end_acked: bool,
    /// What was sent before this point may have been lost.
    recover_until: u64,
}

impl Sending {
    pub(super) fn new(window_end: u64) -> Self {
        Self {
            bytes: BytesMut::new(),
            acked: 0,
            sent: 0,
            window_end,
            ended: false,
            end_acked: false,
            recover_until: 0,
        }
    }

    fn end_at(&self) -> u64 {
        self.acked + self.bytes.len() as u64
    }

    /// Bytes written and not acknowledged.
    pub(super) fn held(&self) -> usize {
        self.bytes.len()
    }

    pub(super) fn push(&mut self, bytes: &[u8]) {
        assert!(!self.ended, "nothing is written behind the end");
        self.bytes.extend_from_slice(bytes);
    }

    /// Nothing more will be written.
    pub(super) fn end(&mut self) {
        self.ended = true;
    }

    pub(super) fn is_ended(&self) -> bool {
        self.ended
    }

    pub(super) fn is_end_acked(&self) -> bool {
        self.end_acked
    }

    /// The connection is over: nothing will be sent any more.
    pub(super) fn clear(&mut self) {
        self.bytes.clear();
        self.sent = self.acked;
    }

    /// Whether something was sent that is not acknowledged.
    pub(super) fn is_outstanding(&self) -> bool {
        !self.end_acked && self.sent > self.acked
    }

    /// Whether the other side's lack of room is all that keeps bytes back.
    pub(super) fn is_blocked(&self) -> bool {
        !self.is_outstanding() && self.sent < self.end_at() && self.sent >= self.window_end
    }

    /// Whether there is anything that the other side must answer.
    pub(super) fn is_waiting(&self) -> bool {
        self.is_outstanding() || self.is_blocked()
    }

    /// What was sent is taken for lost.
    pub(super) fn recover(&mut self) {
        self.recover_until = self.sent;
    }

    pub(super) fn is_recovering(&self) -> bool {
        self.acked < self.recover_until
    }

    /// The other side has room up to `window_end`; whether that is news.
    pub(super) fn widen(&mut self, window_end: u64) -> bool {
        let is_news = window_end > self.window_end;
        self.window_end = self.window_end.max(window_end);
        is_news
    }

    /// Everything before `acked` has arrived; whether that is news.
    pub(super) fn acknowledge(&mut self, acked: u64) -> bool {
        assert!(acked <= self.sent, "acknowledged {acked}, sent {}", self.sent);
        if self.end_acked || acked <= self.acked {
            return false;
        }
        self.end_acked = self.ended && acked > self.end_at();
        let count = acked.min(self.end_at()) - self.acked;
        self.bytes.advance(count as usize);
        self.acked += count;
        true
    }

    /// The first segment that is not acknowledged, again.
    pub(super) fn resend(&mut self, size: &mut impl FnMut() -> usize) -> Option<Kind> {
        if !self.is_outstanding() {
            return None;
        }
        let end = self.sent.min(self.end_at());
        let count = (end - self.acked).min(size() as u64);
        let last = self.sent > self.end_at() && self.acked + count == self.end_at();
        Some(Kind::Data { at: self.acked, bytes: self.copy(self.acked, count), last })
    }

    /// The next segment that was not sent yet, as far as there is room for it.
    pub(super) fn next(&mut self, size: &mut impl FnMut() -> usize) -> Option<Kind> {
        let (at, end) = (self.sent, self.end_at());
        if at > end {
            return None;
        }
        let room = end.min(self.window_end).saturating_sub(at);
        let count = if room > 0 { room.min(size() as u64) } else { 0 };
        let last = self.ended && at + count == end;
        if count == 0 && !last {
            return None;
        }
        self.sent = at + count + u64::from(last);
        Some(Kind::Data { at, bytes: self.copy(at, count), last })
    }

    fn copy(&self, at: u64, count: u64) -> Bytes {
        let start = (at - self.acked) as usize;
        let range = start..start + count as usize;
        match self.bytes.get(range) {
            Some(bytes) => Bytes::copy_from_slice(bytes),
            None => unreachable!("what is sent was written"),
        }
    }
}
