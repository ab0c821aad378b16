//! One side of a stream: what TCP does, as far as a program can see it.
//!
//! Owns what was written and not acknowledged, what has arrived and was not read, and when to send
//! again. Pure: segments, time and chance come in as arguments; `poll_transmit` says what to send.
//!
//! ```text
//!   Connecting --Opened--> Open --both ends, or a reset, or no answer for 15 s--> Over
//!   Accepting --any but Open-^
//!
//!   write -> bytes [acked, sent, end) ~~Data{at}~~> ahead, then ready -> read
//!                   ^-------------Ack{acked, window_end}-------------/
//! ```
//!
//! Invariants: what is read is what was written, once and in order; neither side holds more than
//! its buffers; the end of the stream takes the position after its last byte.

use std::io::ErrorKind;

use bytes::Bytes;

use super::receiving::Receiving;
use super::rng::Rng;
use super::sending::Sending;

/// What goes over the wire between two sides.
#[derive(Clone, Debug)]
pub(super) struct Segment {
    pub(super) kind: Kind,
    /// Everything before this position has arrived.
    pub(super) acked: u64,
    /// There is room up to this position.
    pub(super) window_end: u64,
}

#[derive(Clone, Debug)]
pub(super) enum Kind {
    /// From who connects.
    Open,
    /// The answer to it.
    Opened,
    /// Bytes from a position on, and whether the stream ends behind them.
    Data {
        at: u64,
        bytes: Bytes,
        last: bool,
    },
    Ack,
    /// Asks for an Ack.
    Probe,
    Reset,
}

impl Segment {
    pub(super) const RESET: Self = Self { kind: Kind::Reset, acked: 0, window_end: 0 };

    pub(super) fn size(&self) -> usize {
        match &self.kind {
            Kind::Data { bytes, .. } => HEADER_SIZE + bytes.len(),
            _ => HEADER_SIZE,
        }
    }

    /// Whether it is sent again until something comes back.
    pub(super) fn wants_answer(&self) -> bool {
        !matches!(self.kind, Kind::Ack | Kind::Reset)
    }
}

/// How much one side holds, and sends at once.
#[derive(Clone, Copy, Debug)]
pub(super) struct Limits {
    pub(super) send_bytes: usize,
    pub(super) receive_bytes: usize,
    pub(super) segment_bytes: usize,
}

impl Limits {
    /// Mostly as a system has them; sometimes small, so that writers wait and reads are short.
    pub(super) fn draw(random: &mut Rng) -> Self {
        let mut buffer = || match random.below(4) {
            0 => random.between(2 << 10, 16 << 10) as usize,
            _ => 128 << 10,
        };
        let (send_bytes, receive_bytes) = (buffer(), buffer());
        let segment_bytes = match random.below(8) {
            0 => 64,
            1 | 2 => 1_460,
            _ => 16 << 10,
        };
        Self { send_bytes, receive_bytes, segment_bytes }
    }
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Phase {
    Connecting,
    Accepting,
    Open,
    Over(ErrorKind),
}

pub(super) struct Connection {
    phase: Phase,
    limits: Limits,
    sending: Sending,
    receiving: Receiving,
    /// What is to be sent at once.
    due: Due,
    retry: Retry,
    keepalive: Keepalive,
    /// When the program let go of it.
    closed_ns: Option<u64>,
    failure_is_new: bool,
}

#[derive(Default)]
struct Due {
    open: bool,
    resend: bool,
    probe: bool,
    ack: bool,
    reset: bool,
}

/// Waiting for an answer.
#[derive(Default)]
struct Retry {
    /// Since when nothing has come through; None while nothing is waited for.
    since_ns: Option<u64>,
    /// When an answer to what was sent last may be expected.
    answer_ns: u64,
    due_ns: Option<u64>,
    count: u32,
}

#[derive(Default)]
struct Keepalive {
    idle_ns: Option<u64>,
    heard_ns: u64,
    probe_count: u32,
}

impl Connection {
    pub(super) fn connect(limits: Limits, now_ns: u64) -> Self {
        Self::new(Phase::Connecting, limits, 0, now_ns)
    }

    /// The answer to a segment that opens one.
    pub(super) fn accept(limits: Limits, opening: &Segment, now_ns: u64) -> Self {
        Self::new(Phase::Accepting, limits, opening.window_end, now_ns)
    }

    fn new(phase: Phase, limits: Limits, window_end: u64, now_ns: u64) -> Self {
        Self {
            phase,
            limits,
            sending: Sending::new(window_end),
            receiving: Receiving::new(limits.receive_bytes),
            due: Due { open: true, ..Due::default() },
            retry: Retry::default(),
            keepalive: Keepalive { heard_ns: now_ns, ..Keepalive::default() },
            closed_ns: None,
            failure_is_new: false,
        }
    }

    pub(super) fn is_connecting(&self) -> bool {
        self.phase == Phase::Connecting
    }

    pub(super) fn is_accepting(&self) -> bool {
        self.phase == Phase::Accepting
    }

    pub(super) fn is_closed(&self) -> bool {
        self.closed_ns.is_some()
    }

    pub(super) fn failure(&self) -> Option<ErrorKind> {
        match self.phase {
            Phase::Over(kind) => Some(kind),
            _ => None,
        }
    }

    /// Why it failed, said once.
    pub(super) fn take_failure(&mut self) -> Option<ErrorKind> {
        std::mem::take(&mut self.failure_is_new).then(|| self.failure()).flatten()
    }

    /// Whether a read would answer: bytes, the end, or an error.
    pub(super) fn is_readable(&self) -> bool {
        self.receiving.is_readable() || self.failure().is_some()
    }

    pub(super) fn has_unread(&self) -> bool {
        self.receiving.has_bytes()
    }

    /// Whether a write would answer.
    pub(super) fn is_writable(&self) -> bool {
        self.room() > 0 || self.sending.is_ended() || self.failure().is_some()
    }

    fn room(&self) -> usize {
        match self.phase {
            Phase::Open => self.limits.send_bytes - self.sending.held().min(self.limits.send_bytes),
            _ => 0,
        }
    }

    /// Takes some of `bytes`; 0 when there is no room now.
    pub(super) fn write(&mut self, bytes: &[u8]) -> Result<usize, ErrorKind> {
        if self.sending.is_ended() {
            return Err(ErrorKind::BrokenPipe);
        }
        if let Some(kind) = self.failure() {
            // The first write tells what happened.
            self.sending.end();
            return Err(kind);
        }
        let taken = bytes.get(..self.room()).unwrap_or(bytes);
        self.sending.push(taken);
        Ok(taken.len())
    }

    /// At most `max` bytes; none at the end. Only when it is readable.
    pub(super) fn read(&mut self, max: usize) -> Result<Bytes, ErrorKind> {
        match self.failure() {
            Some(kind) if !self.receiving.is_readable() => Err(kind),
            _ => {
                let bytes = self.receiving.read(max);
                self.due.ack |= self.receiving.window_opened();
                Ok(bytes)
            }
        }
    }

    pub(super) fn shut_write(&mut self) -> Result<(), ErrorKind> {
        self.check_connected()?;
        self.sending.end();
        Ok(())
    }

    pub(super) fn shut_read(&mut self) -> Result<(), ErrorKind> {
        self.check_connected()?;
        self.receiving.shut();
        Ok(())
    }

    fn check_connected(&self) -> Result<(), ErrorKind> {
        match self.phase {
            Phase::Open => Ok(()),
            _ => Err(ErrorKind::NotConnected),
        }
    }

    pub(super) fn set_keepalive(&mut self, idle_ns: u64) {
        self.keepalive.idle_ns = Some(idle_ns);
    }

    /// The program lets go of it: what it wrote still goes out. With unread bytes, and before it
    /// was open, it is a reset.
    pub(super) fn close(&mut self, now_ns: u64) {
        if self.has_unread() || self.phase != Phase::Open {
            self.abort(now_ns);
        } else {
            self.sending.end();
            self.closed_ns = Some(now_ns);
        }
    }

    /// Ends it at once, and tells the other side.
    pub(super) fn abort(&mut self, now_ns: u64) {
        self.closed_ns = Some(now_ns);
        if self.failure().is_none() {
            self.due.reset = self.phase != Phase::Connecting;
            self.phase = Phase::Over(ErrorKind::ConnectionAborted);
        }
    }

    fn fail(&mut self, kind: ErrorKind) {
        if self.phase == Phase::Accepting {
            // No program knows of it.
            self.closed_ns = Some(self.keepalive.heard_ns);
        }
        self.failure_is_new = self.phase != Phase::Accepting;
        self.phase = Phase::Over(kind);
        self.sending.clear();
    }

    /// Takes a segment that has arrived.
    pub(super) fn handle_segment(&mut self, segment: Segment, now_ns: u64) {
        if self.failure().is_some() || (self.is_finished() && matches!(segment.kind, Kind::Reset)) {
            return;
        }
        self.keepalive.heard_ns = now_ns;
        self.keepalive.probe_count = 0;
        match (segment.kind, self.phase) {
            (Kind::Reset, Phase::Connecting) => return self.fail(ErrorKind::ConnectionRefused),
            (Kind::Reset, _) => return self.fail(ErrorKind::ConnectionReset),
            (Kind::Open, Phase::Accepting) => {
                self.due.open = true;
                return;
            }
            (Kind::Opened, Phase::Connecting) => {
                self.opened();
                self.due.ack = true;
            }
            (Kind::Data { at, bytes, last }, Phase::Accepting | Phase::Open) => {
                self.opened();
                self.due.ack = true;
                let is_news = self.receiving.take(at, bytes, last);
                if is_news && self.is_closed() {
                    // Nobody will read it: the other side should know.
                    return self.abort(now_ns);
                }
            }
            (Kind::Ack, Phase::Accepting | Phase::Open) => self.opened(),
            (Kind::Probe, Phase::Accepting | Phase::Open) => {
                self.opened();
                self.due.ack = true;
            }
            (Kind::Open | Kind::Opened, _) => self.due.ack = true,
            (_, Phase::Connecting | Phase::Over(_)) => return,
        }
        self.acknowledged(segment.acked, segment.window_end, now_ns);
    }

    fn opened(&mut self) {
        if self.phase != Phase::Open {
            self.phase = Phase::Open;
            self.retry = Retry::default();
        }
    }

    fn acknowledged(&mut self, acked: u64, window_end: u64, now_ns: u64) {
        let has_room = self.sending.widen(window_end);
        let is_progress = self.sending.acknowledge(acked);
        if !self.sending.is_outstanding() {
            // An answer to a probe is all there is to wait for.
            self.retry.since_ns = None;
            if is_progress || has_room || !self.sending.is_blocked() {
                self.retry.due_ns = None;
                self.retry.count = 0;
            }
        } else if is_progress {
            self.retry.count = 0;
            self.retry.since_ns = Some(now_ns);
            self.retry.due_ns = Some(self.retry.answer_ns.max(now_ns) + RETRY_NS);
            self.due.resend |= self.sending.is_recovering();
        }
    }

    /// The next segment to send now, if any.
    pub(super) fn poll_transmit(
        &mut self,
        segment_max: usize,
        random: &mut Rng,
    ) -> Option<Segment> {
        let kind = self.next_kind(segment_max, random)?;
        self.due.ack = false;
        let (acked, window_end) = self.receiving.advertise();
        Some(Segment { kind, acked, window_end })
    }

    fn next_kind(&mut self, segment_max: usize, random: &mut Rng) -> Option<Kind> {
        let due = |flag: &mut bool| std::mem::take(flag);
        match self.phase {
            Phase::Over(_) => due(&mut self.due.reset).then_some(Kind::Reset),
            Phase::Connecting => due(&mut self.due.open).then_some(Kind::Open),
            Phase::Accepting => due(&mut self.due.open).then_some(Kind::Opened),
            Phase::Open => {
                let segment_bytes = self.limits.segment_bytes.min(segment_max).max(1);
                let mut size = || random.between(1, segment_bytes as u64) as usize;
                if due(&mut self.due.resend)
                    && let Some(data) = self.sending.resend(&mut size)
                {
                    return Some(data);
                }
                let data = self.sending.next(&mut size);
                data.or_else(|| due(&mut self.due.probe).then_some(Kind::Probe))
                    .or_else(|| due(&mut self.due.ack).then_some(Kind::Ack))
            }
        }
    }

    /// Something that wants an answer was sent; when nothing is lost it comes at `answer_ns`.
    pub(super) fn handle_sent(&mut self, now_ns: u64, answer_ns: u64) {
        if self.phase == Phase::Open && !self.sending.is_waiting() {
            // The probe of an idle connection, which has intervals of its own.
            return;
        }
        let retry = &mut self.retry;
        retry.since_ns.get_or_insert(now_ns);
        retry.answer_ns = retry.answer_ns.max(answer_ns);
        let first_ns = if self.phase == Phase::Open { RETRY_NS } else { RETRY_OPEN_NS };
        let backoff_ns = (first_ns << retry.count.min(RETRY_DOUBLINGS_MAX)).min(RETRY_NS_MAX);
        // What is sent behind it does not put off when the oldest is sent again (RFC 6298, 5.1).
        retry.due_ns.get_or_insert(retry.answer_ns + backoff_ns);
    }

    /// When to call `handle_timeout`, after everything was sent.
    pub(super) fn deadline_ns(&mut self, now_ns: u64) -> Option<u64> {
        if let Phase::Over(_) = self.phase {
            return None;
        }
        if self.phase == Phase::Open && self.sending.is_blocked() && self.retry.due_ns.is_none() {
            self.retry.due_ns = Some(now_ns + RETRY_NS);
        }
        let give_up_ns = self.give_up_ns();
        let retry_ns = self.retry.due_ns.map(|at| give_up_ns.map_or(at, |end| end.min(at)));
        [retry_ns, self.keepalive_ns(), self.forget_ns()].into_iter().flatten().min()
    }

    fn give_up_ns(&self) -> Option<u64> {
        let since_ns = self.retry.since_ns?;
        Some((since_ns + GIVE_UP_NS).max(self.retry.answer_ns))
    }

    fn keepalive_ns(&self) -> Option<u64> {
        let is_idle = self.phase == Phase::Open && self.retry.due_ns.is_none();
        let idle_ns = self.keepalive.idle_ns.filter(|_| is_idle && !self.is_closed())?;
        let probes_ns = KEEPALIVE_INTERVAL_NS * u64::from(self.keepalive.probe_count);
        Some(self.keepalive.heard_ns.saturating_add(idle_ns) + probes_ns)
    }

    /// When a closed one is not needed any more to answer what is still under way.
    fn forget_ns(&self) -> Option<u64> {
        let closed_ns = self.closed_ns?;
        if self.is_finished() {
            return Some(self.keepalive.heard_ns.max(closed_ns) + GIVE_UP_NS);
        }
        self.sending.is_end_acked().then_some(closed_ns + HALF_CLOSED_NS)
    }

    fn is_finished(&self) -> bool {
        self.sending.is_end_acked() && self.receiving.is_at_end()
    }

    /// Whether nobody needs it any more.
    pub(super) fn is_gone(&self, now_ns: u64) -> bool {
        let is_over = self.failure().is_some() && !self.due.reset;
        self.is_closed() && (is_over || self.forget_ns().is_some_and(|at_ns| at_ns <= now_ns))
    }

    /// Its deadline has come.
    pub(super) fn handle_timeout(&mut self, now_ns: u64) {
        if self.failure().is_some() {
            return;
        }
        if self.retry.due_ns.is_some() && self.give_up_ns().is_some_and(|at_ns| at_ns <= now_ns) {
            return self.fail(ErrorKind::TimedOut);
        }
        if self.retry.due_ns.is_some_and(|at_ns| at_ns <= now_ns) {
            self.retry.count += 1;
            self.retry.due_ns = None;
            match self.phase {
                Phase::Open if self.sending.is_outstanding() => {
                    self.sending.recover();
                    self.due.resend = true;
                }
                Phase::Open => self.due.probe = self.sending.is_blocked(),
                _ => self.due.open = true,
            }
        } else if self.keepalive_ns().is_some_and(|at_ns| at_ns <= now_ns) {
            if self.keepalive.probe_count >= KEEPALIVE_PROBES_MAX {
                return self.fail(ErrorKind::TimedOut);
            }
            self.keepalive.probe_count += 1;
            self.due.probe = true;
        }
    }
}

const HEADER_SIZE: usize = 40;
const SECOND_NS: u64 = 1_000_000_000;
/// The first wait for an acknowledgement, beyond the time it takes on a good link.
const RETRY_NS: u64 = SECOND_NS / 5;
/// The same, for a connection that is being made.
const RETRY_OPEN_NS: u64 = SECOND_NS;
const RETRY_NS_MAX: u64 = 5 * SECOND_NS;
const RETRY_DOUBLINGS_MAX: u32 = 8;
/// Nothing came through for this long: the connection is over.
const GIVE_UP_NS: u64 = 15 * SECOND_NS;
/// A closed connection waits this long for the other side to close too.
const HALF_CLOSED_NS: u64 = 60 * SECOND_NS;
const KEEPALIVE_INTERVAL_NS: u64 = 75 * SECOND_NS;
const KEEPALIVE_PROBES_MAX: u32 = 9;
