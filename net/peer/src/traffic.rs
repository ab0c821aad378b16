//! The calls to one peer, from the moment they are made until they are answered. Pure: times come
//! in as arguments, bytes leave as batches.
//!
//! ```text
//!   admit --> queued on a way --take--> sent --answer, refusal--> ended --poll--> gone
//!                  |                      |                          ^
//!                  +----------------------+-- deadline, lost --------+
//!                  +----------------------+-- cancel --------------------------> gone
//! ```
//! A way is a connection to one core of the peer, urgent or bulk; while the peer's cores are not
//! known, a way without a core where calls wait.
//!
//! Invariants: a call ends once; its bytes count on its way until then, and its body is held until
//! it is sent; a way owes one answer for every frame sent on it, whether or not the call still
//! waits; an answer that is not owed ends the connection, so no answer goes to another call.

use std::collections::{BTreeMap, VecDeque};
use std::iter::Sum;
use std::task::{Poll, Waker};
use std::time::Duration;

use barrage_model::{CoreId, NodeId, ShardId};
use barrage_raft::{Pieces, Urgency};
use barrage_world::{Instant, planted};
use bytes::Bytes;

use crate::batch::Batch;
use crate::frame::{Header, Kind, Refusal};
use crate::identity::Identity;
use crate::inbox::Frame;
use crate::options::Options;

/// Which connection a call takes.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) struct Way {
    /// Not known before the first contact.
    pub(crate) core: Option<CoreId>,
    pub(crate) urgency: Urgency,
}

/// Names a call to the peer; never used again.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) struct CallId(u64);

/// A call to be made.
pub(crate) struct Message {
    pub(crate) shard: ShardId,
    pub(crate) body: Pieces,
    pub(crate) deadline_in: Duration,
}

/// How a call ends without an answer.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub(crate) enum CallError {
    #[error("{0} bytes of calls wait already")]
    Full(u64),
    #[error("{0} calls wait already")]
    Crowded(usize),
    #[error("{0}")]
    Refused(Refusal),
    #[error("{0}")]
    Down(String),
    #[error("no answer in time")]
    TimedOut,
}

/// What the other side must not say: the connection cannot be trusted any more.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub(crate) enum Strange {
    #[error("an answer to nothing")]
    NotAsked,
    #[error("an answer for another shard")]
    OtherShard,
    #[error("an answer of another node")]
    OtherNode,
    #[error("not an answer")]
    NotAnAnswer,
}

/// A way whose oldest answer is long overdue, and nothing moves there.
pub(crate) type Overdue = Vec<Way>;

struct Call {
    shard: ShardId,
    way: Way,
    /// Empty as soon as it is sent.
    body: Pieces,
    frame_size: u64,
    deadline: Instant,
    phase: Phase,
    waker: Option<Waker>,
}

enum Phase {
    Queued,
    Sent,
    Ended(Result<Bytes, CallError>),
}

/// What is on one way.
struct Line {
    queue: VecDeque<CallId>,
    queued_bytes: u64,
    in_flight: usize,
    in_flight_bytes: u64,
    /// Answers that are missing, oldest first, with their deadlines.
    owed: VecDeque<(CallId, Instant)>,
    /// When bytes last went or came.
    moved: Instant,
}

/// Bytes and calls on all ways to a peer.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub struct Load {
    /// Calls that wait to be sent.
    pub queued: usize,
    /// Their frames, in bytes.
    pub queued_bytes: u64,
    /// Calls sent and not answered.
    pub in_flight: usize,
    /// Their frames, in bytes.
    pub in_flight_bytes: u64,
}

impl Sum for Load {
    fn sum<I: Iterator<Item = Self>>(loads: I) -> Self {
        loads.fold(Self::default(), |sum, load| Self {
            queued: sum.queued + load.queued,
            queued_bytes: sum.queued_bytes + load.queued_bytes,
            in_flight: sum.in_flight + load.in_flight,
            in_flight_bytes: sum.in_flight_bytes + load.in_flight_bytes,
        })
    }
}

/// All calls to one peer.
pub(crate) struct Traffic {
    me: Identity,
    peer: NodeId,
    calls: BTreeMap<CallId, Call>,
    lines: BTreeMap<Way, Line>,
    next: u64,
    /// Those whose calls have ended. Woken by the owner when nothing is borrowed any more.
    woken: Vec<Waker>,
    options: Options,
}

impl Traffic {
    pub(crate) fn new(me: Identity, peer: NodeId, options: Options) -> Self {
        let (calls, lines) = (BTreeMap::new(), BTreeMap::new());
        Self { me, peer, calls, lines, next: 0, woken: Vec::new(), options }
    }

    /// Who is to be woken.
    pub(crate) fn take_woken(&mut self) -> Vec<Waker> {
        std::mem::take(&mut self.woken)
    }

    /// Takes a call up on a way. Calls of one way leave in the order they were taken up.
    pub(crate) fn admit(
        &mut self,
        way: Way,
        message: Message,
        now: Instant,
    ) -> Result<CallId, CallError> {
        let Message { shard, body, deadline_in } = message;
        let frame_size = (Header::SIZE + body.len()) as u64;
        let line = self.lines.entry(way).or_insert_with(|| Line::new(now));
        line.check_room(frame_size, &self.options)?;
        let id = CallId(self.next);
        self.next += 1;
        line.push(id, frame_size);
        let deadline = now + deadline_in;
        let phase = Phase::Queued;
        let call = Call { shard, way, body, frame_size, deadline, phase, waker: None };
        self.calls.insert(id, call);
        Ok(id)
    }

    /// The cores of the peer are known: calls that waited for that go on. Answers their ways.
    pub(crate) fn assign(&mut self, core_of: impl Fn(ShardId) -> CoreId, now: Instant) -> Vec<Way> {
        let mut ways = Vec::new();
        for urgency in [Urgency::Urgent, Urgency::Bulk] {
            let waiting = self.lines.remove(&Way { core: None, urgency });
            for id in waiting.map_or_else(VecDeque::new, |line| line.queue) {
                let Some(call) = self.calls.get_mut(&id) else { continue };
                call.way = Way { core: Some(core_of(call.shard)), urgency };
                let line = self.lines.entry(call.way).or_insert_with(|| Line::new(now));
                line.push(id, call.frame_size);
                if !ways.contains(&call.way) {
                    ways.push(call.way);
                }
            }
        }
        ways
    }

    /// Moves what may leave now into `batch`: these frames count as sent.
    pub(crate) fn take(&mut self, way: Way, batch: &mut Batch, now: Instant) {
        let Some(line) = self.lines.get_mut(&way) else { return };
        while !batch.is_full()
            && let Some(id) = line.queue.front().copied()
            && let Some(call) = self.calls.get_mut(&id)
            && line.may_fly(call.frame_size, &self.options)
        {
            line.fly(id, call, now);
            let body = std::mem::take(&mut call.body);
            let left = call.deadline.saturating_duration_since(now);
            let header = Header {
                shard: call.shard,
                // Bounded when the call was made.
                body_size: u32::try_from(body.len()).unwrap_or(u32::MAX),
                // Rounded up: the call ends by its own deadline, not by that of the other side.
                within_ms: u32::try_from(left.as_millis() + 1).unwrap_or(u32::MAX),
                ..Header::new(Kind::Request, self.me, self.peer, id.0)
            };
            batch.push(&header, body);
        }
    }

    /// Whether calls wait on this way, sendable now or not.
    pub(crate) fn has_queued(&self, way: Way) -> bool {
        self.lines.get(&way).is_some_and(|line| !line.queue.is_empty())
    }

    /// Whether this way owes the answer to `number`.
    pub(crate) fn check_owed(&self, way: Way, number: u64) -> Result<(), Strange> {
        let line = self.lines.get(&way).ok_or(Strange::NotAsked)?;
        let at = line.owed.binary_search_by_key(&CallId(number), |(id, _)| *id);
        at.map(drop).map_err(|_| Strange::NotAsked)
    }

    /// A frame came on a way. Answers the refusal, if it is one.
    pub(crate) fn handle_frame(
        &mut self,
        way: Way,
        frame: Frame,
    ) -> Result<Option<Refusal>, Strange> {
        let Frame { header, body } = frame;
        let outcome = match header.kind {
            Kind::Answer => Ok(body),
            Kind::Refused(refusal) => Err(refusal),
            Kind::Contact | Kind::ContactAnswer | Kind::Request => {
                return Err(Strange::NotAnAnswer);
            }
        };
        let sender = Identity { cluster: header.cluster, node: header.from };
        let expected = Identity { node: self.peer, ..self.me };
        if outcome.is_ok() && (sender != expected || header.to != self.me.node) {
            return Err(Strange::OtherNode);
        }
        let id = CallId(header.number);
        let line = self.lines.get_mut(&way).ok_or(Strange::NotAsked)?;
        let at = line.owed.binary_search_by_key(&id, |(id, _)| *id);
        line.owed.remove(at.map_err(|_| Strange::NotAsked)?);
        let refusal = outcome.as_ref().err().copied();
        let id = match planted("peer-answer-to-another-call") {
            // Wrong: whoever has waited longest is told what somebody else has asked.
            true => self.oldest_of(header.shard).unwrap_or(id),
            false => id,
        };
        if let Some(call) = self.calls.get_mut(&id)
            && !call.is_ended()
        {
            if call.shard != header.shard {
                return Err(Strange::OtherShard);
            }
            self.end(id, outcome.map_err(CallError::Refused));
        }
        Ok(refusal)
    }

    fn oldest_of(&self, shard: ShardId) -> Option<CallId> {
        let waits = |(_, call): &(&CallId, &Call)| call.shard == shard && !call.is_ended();
        self.calls.iter().find(waits).map(|(id, _)| *id)
    }

    /// Bytes went or came on a way.
    pub(crate) fn handle_moved(&mut self, way: Way, now: Instant) {
        if let Some(line) = self.lines.get_mut(&way) {
            line.moved = now;
        }
    }

    /// A way is gone, or there is none: all its calls end.
    pub(crate) fn handle_lost(&mut self, way: Way, error: &CallError) {
        if self.lines.remove(&way).is_none() {
            return;
        }
        let of_way = |(_, call): &(&CallId, &Call)| call.way == way && !call.is_ended();
        let ids: Vec<CallId> = self.calls.iter().filter(of_way).map(|(id, _)| *id).collect();
        for id in ids {
            self.end(id, Err(error.clone()));
        }
    }

    /// Ends what is late. Answers the ways where an answer is long overdue, and when to look again.
    pub(crate) fn handle_time(&mut self, now: Instant) -> (Overdue, Option<Instant>) {
        let is_late = |call: &Call| !call.is_ended() && call.deadline <= now;
        let late = self.calls.iter().filter(|(_, call)| is_late(call));
        let late: Vec<CallId> = late.map(|(id, _)| *id).collect();
        for id in late {
            self.end(id, Err(CallError::TimedOut));
        }
        let overdue_max = self.options.overdue_max;
        let overdue_at = |line: &Line| line.overdue_at(overdue_max);
        let is_overdue = |(_, line): &(&Way, &Line)| overdue_at(line).is_some_and(|at| at <= now);
        let overdue: Vec<Way> = self.lines.iter().filter(is_overdue).map(|(way, _)| *way).collect();
        let deadlines = self.calls.values().filter(|call| !call.is_ended());
        let deadlines = deadlines.map(|call| call.deadline);
        let overdues = self.lines.values().filter_map(overdue_at).filter(|at| *at > now);
        let next = deadlines.chain(overdues).min();
        (overdue, next)
    }

    /// The outcome of a call, once; its slot is free then.
    pub(crate) fn poll(&mut self, id: CallId, waker: &Waker) -> Poll<Result<Bytes, CallError>> {
        let Some(call) = self.calls.get_mut(&id) else {
            return Poll::Ready(Err(CallError::Down("the outcome was taken before".to_owned())));
        };
        if !call.is_ended() {
            call.waker = Some(waker.clone());
            return Poll::Pending;
        }
        match self.calls.remove(&id).map(|call| call.phase) {
            Some(Phase::Ended(outcome)) => Poll::Ready(outcome),
            _ => Poll::Pending,
        }
    }

    /// Nobody waits for this call any more: it is not sent if it was not yet. Answers its way.
    pub(crate) fn cancel(&mut self, id: CallId) -> Option<Way> {
        let mut call = self.calls.remove(&id)?;
        call.waker = None;
        if !call.is_ended() {
            leave(&mut self.lines, id, &call);
        }
        Some(call.way)
    }

    pub(crate) fn load(&self) -> Load {
        let mut load = Load::default();
        for line in self.lines.values() {
            load.queued += line.queue.len();
            load.queued_bytes += line.queued_bytes;
            load.in_flight += line.in_flight;
            load.in_flight_bytes += line.in_flight_bytes;
        }
        load
    }

    fn end(&mut self, id: CallId, outcome: Result<Bytes, CallError>) {
        let Some(call) = self.calls.get_mut(&id) else { return };
        assert!(!call.is_ended(), "a call ends once");
        leave(&mut self.lines, id, call);
        call.body = Pieces::default();
        call.phase = Phase::Ended(outcome);
        self.woken.extend(call.waker.take());
    }

    #[cfg(test)]
    fn check_invariants(&self) {
        for (way, line) in &self.lines {
            let of_way = || self.calls.values().filter(|call| call.way == *way);
            let queued = || of_way().filter(|call| matches!(call.phase, Phase::Queued));
            let sent = || of_way().filter(|call| matches!(call.phase, Phase::Sent));
            assert_eq!(line.queue.len(), queued().count());
            assert_eq!(line.queued_bytes, queued().map(|call| call.frame_size).sum::<u64>());
            assert_eq!(line.in_flight, sent().count());
            assert_eq!(line.in_flight_bytes, sent().map(|call| call.frame_size).sum::<u64>());
            assert!(line.owed.iter().is_sorted());
            assert!(line.owed.len() >= line.in_flight);
        }
    }
}

/// Takes a call that has not ended off its way.
fn leave(lines: &mut BTreeMap<Way, Line>, id: CallId, call: &Call) {
    let Some(line) = lines.get_mut(&call.way) else { return };
    match call.phase {
        Phase::Queued => {
            if let Ok(at) = line.queue.binary_search(&id) {
                line.queue.remove(at);
                line.queued_bytes -= call.frame_size;
            }
        }
        Phase::Sent => {
            line.in_flight -= 1;
            line.in_flight_bytes -= call.frame_size;
        }
        Phase::Ended(_) => {}
    }
}

impl Call {
    const fn is_ended(&self) -> bool {
        matches!(self.phase, Phase::Ended(_))
    }
}

impl Line {
    const fn new(now: Instant) -> Self {
        Self {
            queue: VecDeque::new(),
            queued_bytes: 0,
            in_flight: 0,
            in_flight_bytes: 0,
            owed: VecDeque::new(),
            moved: now,
        }
    }

    fn check_room(&self, frame_size: u64, options: &Options) -> Result<(), CallError> {
        let calls = self.queue.len() + self.owed.len();
        if calls >= options.calls_max {
            return Err(CallError::Crowded(calls));
        }
        let bytes = self.queued_bytes;
        if !self.queue.is_empty() && bytes + frame_size > options.queued_bytes_max {
            return Err(CallError::Full(bytes));
        }
        Ok(())
    }

    fn push(&mut self, id: CallId, frame_size: u64) {
        assert!(self.queue.back() < Some(&id), "calls leave in the order they were made");
        self.queue.push_back(id);
        self.queued_bytes += frame_size;
    }

    const fn may_fly(&self, frame_size: u64, options: &Options) -> bool {
        self.in_flight == 0 || self.in_flight_bytes + frame_size <= options.in_flight_bytes_max
    }

    fn fly(&mut self, id: CallId, call: &mut Call, now: Instant) {
        assert!(matches!(call.phase, Phase::Queued), "a call is sent once");
        call.phase = Phase::Sent;
        self.queue.pop_front();
        self.queued_bytes -= call.frame_size;
        self.in_flight += 1;
        self.in_flight_bytes += call.frame_size;
        if self.owed.is_empty() {
            // Nothing was awaited before: the time without traffic says nothing.
            self.moved = now;
        }
        self.owed.push_back((id, call.deadline));
    }

    /// The oldest answer decides: one that takes long (a checkpoint) excuses those behind it.
    fn overdue_at(&self, overdue_max: Duration) -> Option<Instant> {
        self.owed.front().map(|(_, deadline)| (*deadline).max(self.moved) + overdue_max)
    }
}

#[cfg(test)]
mod tests;
