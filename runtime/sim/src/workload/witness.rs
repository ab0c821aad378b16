//! What was seen from outside while the node ran; it outlives the processes.
//!
//! Owns: the history that the checker judges, and what the checker does not know: bounds that
//! may only grow, what retention may take, log times, when the node was undisturbed. Must never:
//! be asked by the code under test.

mod groups;

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use barrage_model::{Offset, PartitionKey, ProducerId, Retention, TopicId};
use barrage_world::{Instant, unix_time_ms};

use super::client::Topic;
use super::disturbance::Disturbances;
use super::worker::GroupPlan;
use crate::history::{
    Answer, Call, ChangeDelay, Claim, Claiming, Fingerprint, History, Name, Nanos, Note, Operation,
    Place, ReadFrom, ReadOut, SendBatch, SentAt, SettleLease, Settlement, TakeLease, Taken,
};
pub(crate) use groups::{Beat, StreamCounts};

/// Where a partition begins and ends, as one answer told it.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub(crate) struct Bounds {
    pub(crate) start: u64,
    pub(crate) high_watermark: u64,
}

/// A batch that is in the log.
#[derive(Clone, Copy, Debug)]
struct Appended {
    next: u64,
    /// None while only readers have told of it.
    log_time_ms: Option<i64>,
    bytes: u64,
}

/// A partition, as it was seen.
#[derive(Debug, Default)]
struct Seen {
    bounds: Bounds,
    appended: BTreeMap<u64, Appended>,
    /// Bytes of batches that may be in the log, or not.
    unresolved_bytes: u64,
}

impl Seen {
    /// Bytes from an offset on, at most.
    fn kept_from(&self, start: u64) -> u64 {
        let kept: u64 = self.appended.range(start..).map(|(_, appended)| appended.bytes).sum();
        kept.saturating_add(self.unresolved_bytes)
    }
}

/// A topic that somebody was told of.
#[derive(Clone, Debug)]
struct Known {
    name: Name,
    /// Every retention it had.
    retentions: Vec<Retention>,
    /// Its partitions were open once: they may not be unknown any more.
    open: bool,
    deleting: bool,
}

impl Known {
    /// Whether a retention may take a batch of that time while so many bytes behind it are kept.
    ///
    /// Where a topic keeps records until they are done with, who was done with what is for the
    /// checker to say.
    fn may_let_go(&self, kept: u64, time_ms: Option<i64>, now_ms: i64) -> bool {
        let may = |retention: &Retention| {
            let by_time = retention.time_ms.is_some_and(|age_ms| {
                let age_ms = i64::try_from(age_ms).unwrap_or(i64::MAX);
                time_ms.is_none_or(|time_ms| time_ms < now_ms.saturating_sub(age_ms))
            });
            retention.until_acked || by_time || retention.bytes.is_some_and(|bytes| kept >= bytes)
        };
        self.retentions.iter().any(may)
    }
}

/// Sees everything, says nothing.
#[derive(Default)]
pub(crate) struct Witness {
    history: RefCell<History>,
    violations: RefCell<Vec<String>>,
    topics: RefCell<BTreeMap<TopicId, Known>>,
    places: RefCell<BTreeMap<PartitionKey, Seen>>,
    producer_ids: RefCell<BTreeSet<ProducerId>>,
    /// The node's clock was never further ahead than this.
    clock_ahead_ms: Cell<i64>,
    clock_behind_ms: Cell<i64>,
    began: Cell<Option<Instant>>,
    pub(crate) disturbances: Disturbances,
    pub(crate) counts: RefCell<Counts>,
}

/// How much there was to see.
#[derive(Clone, Copy, Default, Debug)]
pub(crate) struct Counts {
    pub(crate) acknowledged: u64,
    pub(crate) repeated: u64,
    pub(crate) fenced: u64,
    pub(crate) connections: u64,
    pub(crate) trims: u64,
    pub(crate) topics: u64,
    pub(crate) times_asked: u64,
    /// Errors that told who leads.
    pub(crate) hints: u64,
    /// Leases that were granted, and settlements that took effect.
    pub(crate) taken: u64,
    pub(crate) settled: u64,
    /// Batches of delayed records that were stored; records that were cancelled, moved, and those
    /// that did not wait any more.
    pub(crate) delayed: u64,
    pub(crate) cancelled: u64,
    pub(crate) moved: u64,
    pub(crate) change_refused: u64,
    pub(crate) hints_to_itself: u64,
    /// Claims of one-producer topics that were granted, and that found another producer there.
    pub(crate) claimed: u64,
    pub(crate) claims_refused: u64,
    pub(crate) streams: StreamCounts,
}

/// Violations kept; one is enough to fail.
const VIOLATIONS_MAX: usize = 20;
/// A lead may come and go between an answer and its hint: a few times.
const HINTS_TO_ITSELF_MAX: u64 = 5;
/// A clock is fast by at most one in so many.
const CLOCK_RATE_MAX: i64 = 20;
/// How far ahead a clock gets while it is fast, at most: faults do not go on for longer than that.
const FAST_MAX: Duration = Duration::from_secs(3);
/// Rounding of clocks.
const CLOCK_SLACK_MS: i64 = 5;

impl Witness {
    pub(crate) fn object(&self, violation: impl Into<String>) {
        let violation = violation.into();
        let mut violations = self.violations.borrow_mut();
        if violations.len() < VIOLATIONS_MAX && !violations.contains(&violation) {
            tracing::error!(violation, "objects");
            violations.push(violation);
        }
    }

    pub(crate) fn violations(&self) -> Vec<String> {
        self.violations.borrow().clone()
    }

    pub(crate) fn count(&self, count: impl FnOnce(&mut Counts)) {
        count(&mut self.counts.borrow_mut());
    }

    /// The history, to be judged.
    pub(crate) fn take_history(&self) -> History {
        self.history.take()
    }

    fn note(&self, note: Note) {
        self.history.borrow_mut().note(now(), note);
    }

    fn invoke(&self, client: &Name, operation: Operation) -> Call {
        self.history.borrow_mut().invoke(now(), client, operation)
    }

    /// The call had certainly no effect.
    pub(crate) fn fail(&self, call: Call, reason: &str) {
        self.history.borrow_mut().fail(now(), call, reason);
    }

    /// Nobody knows what became of the call.
    pub(crate) fn info(&self, call: Call, reason: &str) {
        self.history.borrow_mut().info(now(), call, reason);
    }

    /// What is read from here on is the final reading.
    pub(crate) fn drain(&self) {
        self.note(Note::Drain);
    }

    /// A topic exists, as the node says.
    pub(crate) fn topic(&self, id: TopicId, name: &str, retention: Retention) {
        let known = || Known {
            name: Name::from(format!("{name}#{}", id.0)),
            retentions: Vec::new(),
            open: false,
            deleting: false,
        };
        let mut topics = self.topics.borrow_mut();
        let topic = topics.entry(id).or_insert_with(known);
        if !topic.retentions.contains(&retention) {
            topic.retentions.push(retention);
        }
    }

    /// A topic's partitions are open, as the node says.
    pub(crate) fn topic_open(&self, id: TopicId) {
        if let Some(topic) = self.topics.borrow_mut().get_mut(&id)
            && !topic.open
        {
            topic.open = true;
            self.count(|counts| counts.topics += 1);
        }
    }

    /// Whether records of a topic may go from between others.
    pub(crate) fn keeps_until_acked(&self, id: TopicId) -> bool {
        let topics = self.topics.borrow();
        let retentions = topics.get(&id).map(|topic| topic.retentions.as_slice());
        retentions.unwrap_or_default().iter().any(|retention| retention.until_acked)
    }

    /// Somebody orders the deletion of a topic: nothing of it needs to be kept from here on.
    pub(crate) fn topic_deleting(&self, id: TopicId, partitions: u32) {
        if let Some(topic) = self.topics.borrow_mut().get_mut(&id) {
            topic.deleting = true;
        }
        for partition in (0..partitions).map(barrage_model::PartitionId) {
            let key = PartitionKey { topic: id, partition };
            self.note(Note::Trim { place: self.place(key), start: Offset(u64::MAX) });
        }
    }

    /// Whether somebody ordered the deletion of a topic.
    pub(crate) fn is_deleting(&self, id: TopicId) -> bool {
        self.topics.borrow().get(&id).is_some_and(|topic| topic.deleting)
    }

    /// Whether a partition may be unknown: it was never open for sure, or goes.
    pub(crate) fn may_be_unknown(&self, key: PartitionKey) -> bool {
        let topics = self.topics.borrow();
        topics.get(&key.topic).is_none_or(|topic| !topic.open || topic.deleting)
    }

    fn place(&self, key: PartitionKey) -> Place {
        let topics = self.topics.borrow();
        let topic = match topics.get(&key.topic) {
            Some(known) => known.name.clone(),
            None => Name::from(format!("#{}", key.topic.0)),
        };
        Place { topic, partition: key.partition }
    }

    /// A producer id was given out.
    pub(crate) fn producer_id(&self, id: ProducerId) {
        if !self.producer_ids.borrow_mut().insert(id) {
            self.object(format!("I10: producer id {} was given out twice", id.0));
        }
    }

    /// A node said that it does not lead a partition, and that it does.
    pub(crate) fn hint_to_itself(&self, key: PartitionKey) {
        self.count(|counts| counts.hints_to_itself += 1);
        if self.counts.borrow().hints_to_itself > HINTS_TO_ITSELF_MAX {
            self.object(format!("{key}: who does not lead names itself, again and again"));
        }
    }

    /// What is known of a partition's bounds: no later answer may fall behind.
    pub(crate) fn bounds(&self, key: PartitionKey) -> Bounds {
        self.places.borrow().get(&key).map(|seen| seen.bounds).unwrap_or_default()
    }

    /// An answer told a partition's bounds; `before` was known when it was asked for.
    pub(crate) fn saw_bounds(&self, key: PartitionKey, told: Bounds, before: Bounds) {
        if told.start > told.high_watermark {
            self.object(format!("I5: {key} begins at {} and ends before", told.start));
        }
        if told.high_watermark < before.high_watermark {
            self.object(format!(
                "I1: {key} ended at {} and now ends at {}",
                before.high_watermark, told.high_watermark
            ));
        }
        if told.start < before.start {
            let (was, is) = (before.start, told.start);
            self.object(format!("I5: {key} began at {was} and now begins at {is}"));
        }
        let mut places = self.places.borrow_mut();
        let seen = places.entry(key).or_default();
        seen.bounds.high_watermark = seen.bounds.high_watermark.max(told.high_watermark);
        let trims = told.start > seen.bounds.start;
        seen.bounds.start = seen.bounds.start.max(told.start);
        drop(places);
        if trims {
            self.judge_trim(key, told.start);
            self.count(|counts| counts.trims += 1);
            self.note(Note::Trim { place: self.place(key), start: Offset(told.start) });
        }
    }

    /// Whether retention may have given up everything below `start`.
    fn judge_trim(&self, key: PartitionKey, start: u64) {
        let topics = self.topics.borrow();
        let Some(topic) = topics.get(&key.topic) else { return };
        let places = self.places.borrow();
        let Some(seen) = places.get(&key) else { return };
        let kept = seen.kept_from(start);
        let youngest = seen.appended.range(..start).rev().find_map(|(_, gone)| gone.log_time_ms);
        let now_ms = self.node_clock_ms_max();
        if !topic.may_let_go(kept, youngest, now_ms) {
            self.object(format!(
                "I1: {key} gave up everything below {start}, and keeps {kept} bytes; retention is \
                 {:?}, the youngest of what is gone is of {youngest:?}, now is {now_ms} at most",
                topic.retentions
            ));
        }
    }

    /// Whether retention, or the deletion of its topic, may have taken a batch already when it is
    /// acknowledged.
    pub(crate) fn may_be_gone(&self, key: PartitionKey, base: u64, log_time_ms: i64) -> bool {
        let (topics, places) = (self.topics.borrow(), self.places.borrow());
        let kept = places.get(&key).map_or(0, |seen| seen.kept_from(base + 1));
        let time_ms = (log_time_ms >= 0).then_some(log_time_ms);
        let may = |topic: &Known| {
            topic.deleting || topic.may_let_go(kept, time_ms, self.node_clock_ms_max())
        };
        topics.get(&key.topic).is_none_or(may)
    }

    /// The latest time that the node may take it to be.
    fn node_clock_ms_max(&self) -> i64 {
        let now = Instant::now();
        let began = self.began.get().unwrap_or(now);
        let elapsed_ms = i64::try_from((now - began).as_millis()).unwrap_or(i64::MAX);
        unix_time_ms() + self.clock_ahead_ms.get() + elapsed_ms / CLOCK_RATE_MAX + CLOCK_SLACK_MS
    }

    /// The run begins.
    pub(crate) fn begin(&self) {
        self.began.set(Some(Instant::now()));
    }

    /// The node's clock is set this far ahead.
    pub(crate) fn clock_ahead(&self, milliseconds: i64) {
        self.clock_ahead_ms.set(self.clock_ahead_ms.get().max(milliseconds));
        self.clock_behind_ms.set(self.clock_behind_ms.get().max(-milliseconds));
        self.clocks_differ();
    }

    /// Clocks are ahead, or run fast, from here on.
    pub(crate) fn clocks_differ(&self) {
        let apart_ms = self.clock_ahead_ms.get() + self.clock_behind_ms.get();
        let apart_ms = u64::try_from(apart_ms).unwrap_or(0);
        self.note(Note::Ahead { by: Duration::from_millis(apart_ms) + FAST_MAX });
    }

    /// A client begins to send a batch of `bytes` bytes.
    pub(crate) fn send(
        &self,
        client: &Name,
        key: PartitionKey,
        bytes: u64,
        batch: impl FnOnce(Place) -> SendBatch,
    ) -> Call {
        self.places.borrow_mut().entry(key).or_default().unresolved_bytes += bytes;
        self.invoke(client, Operation::Send(batch(self.place(key))))
    }

    /// A batch is acknowledged: it is readable from here on.
    pub(crate) fn sent(&self, call: Call, key: PartitionKey, sent: Sent) {
        let Sent { base, count, bytes, log_time_ms } = sent;
        self.count(|counts| counts.acknowledged += 1);
        let place = self.place(key);
        let answer = SentAt { partition: Some(place.partition), base: Some(Offset(base)) };
        self.history.borrow_mut().ok(now(), call, Answer::Sent(answer));
        let next = base + count;
        let mut places = self.places.borrow_mut();
        let seen = places.entry(key).or_default();
        seen.unresolved_bytes = seen.unresolved_bytes.saturating_sub(bytes);
        seen.bounds.high_watermark = seen.bounds.high_watermark.max(next);
        // A duplicate of an older batch has no log time any more.
        let log_time_ms = Some(log_time_ms).filter(|time_ms| *time_ms >= 0);
        let appended = seen.appended.entry(base).or_insert(Appended { next, log_time_ms, bytes });
        appended.log_time_ms = appended.log_time_ms.or(log_time_ms);
        let Some(time_ms) = log_time_ms else { return };
        let before = seen.appended.range(..base).rev().find_map(|(_, it)| it.log_time_ms);
        let after = seen.appended.range(next..).find_map(|(_, it)| it.log_time_ms);
        drop(places);
        if before.is_some_and(|before| before > time_ms)
            || after.is_some_and(|after| after < time_ms)
        {
            self.object(format!(
                "log time falls in {key}: {before:?}, then {time_ms} at {base}, then {after:?}"
            ));
        }
    }

    /// A batch of delayed records is acknowledged: where they will stand, nobody knows yet.
    pub(crate) fn kept(&self, call: Call, key: PartitionKey) {
        self.count(|counts| {
            counts.acknowledged += 1;
            counts.delayed += 1;
        });
        let answer = SentAt { partition: Some(key.partition), base: None };
        self.history.borrow_mut().ok(now(), call, Answer::Sent(answer));
    }

    /// A producer claims a partition.
    pub(crate) fn claim(
        &self,
        client: &Name,
        key: PartitionKey,
        (producer, how, lasts): (ProducerId, Claiming, Duration),
    ) -> Call {
        let place = self.place(key);
        self.invoke(client, Operation::Claim(Claim { place, producer, how, lasts }))
    }

    /// Somebody begins to cancel or move a delayed record.
    pub(crate) fn change_delay(
        &self,
        client: &Name,
        fingerprint: Fingerprint,
        to: Option<Nanos>,
    ) -> Call {
        self.invoke(client, Operation::Delay(ChangeDelay { fingerprint, to }))
    }

    /// A client begins to read.
    pub(crate) fn read(&self, client: &Name, key: PartitionKey, from: u64) -> Call {
        let read = ReadFrom { place: self.place(key), from: Some(Offset(from)) };
        self.invoke(client, Operation::Read(read))
    }

    /// What it read.
    pub(crate) fn was_read(&self, call: Call, out: ReadOut) {
        self.history.borrow_mut().ok(now(), call, Answer::Read(out));
    }

    /// A worker begins to lease records of a partition.
    pub(crate) fn take(
        &self,
        client: &Name,
        group: &str,
        key: PartitionKey,
        visibility: Duration,
    ) -> Call {
        let (group, topic) = (Name::from(group), self.place(key).topic);
        self.invoke(client, Operation::Take(TakeLease { group, topic, visibility }))
    }

    /// What it was given.
    pub(crate) fn taken(&self, call: Call, taken: Vec<Taken>) {
        self.count(|counts| counts.taken += taken.len() as u64);
        self.history.borrow_mut().ok(now(), call, Answer::Taken(taken));
    }

    /// A worker begins to say what becomes of a record.
    pub(crate) fn settle(
        &self,
        client: &Name,
        group: &str,
        taken: &Taken,
        how: Settlement,
    ) -> Call {
        let (group, fingerprint, count) = (Name::from(group), taken.fingerprint, taken.count);
        self.invoke(client, Operation::Settle(SettleLease { group, fingerprint, count, how }))
    }

    /// It is so.
    pub(crate) fn settled(&self, call: Call) {
        self.count(|counts| counts.settled += 1);
        self.history.borrow_mut().ok(now(), call, Answer::Done);
    }

    /// A group keeps the order of keys.
    pub(crate) fn keyed(&self, group: &str) {
        self.note(Note::Keyed { group: Name::from(group) });
    }

    /// The records of a topic are kept until a group is done with them.
    pub(crate) fn kept_until_done(&self, group: &str, topic: &Topic) {
        let topic = self.place(topic.key(0)).topic;
        self.note(Note::KeptUntilDone { group: Name::from(group), topic });
    }

    /// Where the dead letters of a group go.
    pub(crate) fn dead_letters(&self, group: &GroupPlan, from: &Topic, into: &Topic) {
        let (topic, into) = (self.place(from.key(0)).topic, self.place(into.key(0)).topic);
        let (not_before, wanted_for) = (group.gives_up_after(), group.wanted_for());
        let group = Name::from(group.name);
        self.note(Note::DeadLetters { group, topic, into, not_before, wanted_for });
    }

    /// A reader saw a batch.
    pub(crate) fn saw_batch(&self, key: PartitionKey, base: u64, count: u64, bytes: u64) {
        let mut places = self.places.borrow_mut();
        let appended = Appended { next: base + count, log_time_ms: None, bytes };
        places.entry(key).or_default().appended.entry(base).or_insert(appended);
    }

    /// The node said that `offset` is the first at or after a time; `high_watermark` was known
    /// when it was asked.
    pub(crate) fn saw_offset_of_time(
        &self,
        key: PartitionKey,
        time_ms: i64,
        told: u64,
        bounds: Bounds,
        before: Bounds,
    ) {
        self.count(|counts| counts.times_asked += 1);
        let places = self.places.borrow();
        let Some(seen) = places.get(&key) else { return };
        let end = before.high_watermark.max(bounds.start);
        // What is gone was passed over.
        let has_gaps = self.keeps_until_acked(key.topic);
        for (base, appended) in seen.appended.range(bounds.start..end) {
            let Some(stored_ms) = appended.log_time_ms else { continue };
            let wrong = match stored_ms < time_ms {
                true => told < appended.next,
                false => told > *base && !has_gaps,
            };
            if wrong {
                self.object(format!(
                    "{key}: {told} was said to be the first of {time_ms}, but {base} is of \
                     {stored_ms}"
                ));
                return;
            }
        }
    }

    /// Some log times there are in a partition, and what is near them.
    pub(crate) fn a_log_time(&self, key: PartitionKey, drawn: u64) -> Option<i64> {
        let places = self.places.borrow();
        let seen = places.get(&key)?;
        let from = drawn.checked_rem(seen.bounds.high_watermark.max(1))?;
        seen.appended.range(from..).find_map(|(_, appended)| appended.log_time_ms)
    }
}

/// The driver's clock, which nobody bends.
fn now() -> Nanos {
    Nanos(Instant::now().0)
}

/// What an acknowledgement told.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Sent {
    pub(crate) base: u64,
    pub(crate) count: u64,
    pub(crate) bytes: u64,
    pub(crate) log_time_ms: i64,
}
