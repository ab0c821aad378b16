//! When the leases and delays of a shard's queue groups fall due, and the sessions of its stream
//! groups: the leader's own, in no checkpoint.
//!
//! ```text
//!   comes to lead: looks through all marks once, in slices -> notes
//!   apply: another time to wait for                        -> notes
//!   time comes: chunks of windows and stream groups that are due
//!                                           -> `PassTime` in the log -> apply ends what is over
//! ```
//!
//! Owns: the timers, and the task that proposes. Must never: end a lease itself.
//! Invariants: on a leader every mark that waits has a timer that is not later than it may end by
//! more than the timers' grid, or its chunk is just being looked at.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;
use std::time::Duration;

use barrage_model::{GroupId, Offset, Term};
use barrage_world::channel::Event;
use barrage_world::channel::event::Listener;
use barrage_world::{planted, sleep, yield_if_needed};

use super::Shard;
use super::groups::{Op, Slot, What};
use super::handle::first_of;
use super::streams::{StreamOp, StreamWhat};
use crate::queue::timers::Timers;

/// Slots whose time is passed at once.
const SLOTS_AT_ONCE: usize = 256;
/// When time could not be passed (a full disk, a full buffer), the next attempt.
const RETRY: Duration = Duration::from_millis(500);
/// While anything waits, the log knows the lease clock at least so often.
const CLOCK_EVERY: Duration = Duration::from_secs(5);
/// How long to sleep while nothing is due.
const NEVER: Duration = Duration::from_secs(3_600);

/// The timers, shared by the machine and the task; clones are the same ones.
#[derive(Clone, Default)]
pub(crate) struct Alarms {
    inner: Rc<Inner>,
}

#[derive(Default)]
struct Inner {
    /// Whether anybody looks: on a follower nothing is noted.
    is_on: Cell<bool>,
    slots: RefCell<BTreeMap<Slot, Timers>>,
    /// When it is worth to let time pass for a stream group, and for which first.
    stream_dues: RefCell<BTreeMap<GroupId, u64>>,
    streams: RefCell<BTreeSet<(u64, GroupId)>>,
    /// Where records are on their way to a dead-letter topic, or wait to go there.
    dying: RefCell<BTreeSet<Slot>>,
    somebody_dies: Event,
    /// There is an earlier time than before.
    earlier: Event,
}

impl Alarms {
    /// Records of a slot wait for other times now.
    pub(crate) fn note(&self, slot: Slot, notes: impl Iterator<Item = (Offset, u64)>) {
        if !self.inner.is_on.get() {
            return notes.for_each(drop);
        }
        let mut notes = notes.peekable();
        if notes.peek().is_none() {
            return;
        }
        let mut slots = self.inner.slots.borrow_mut();
        let timers = slots.entry(slot).or_insert_with(|| Timers::new(0));
        let before = timers.next_ms();
        notes.for_each(|(at, until_ms)| timers.note(at, until_ms));
        if timers.next_ms().is_some_and(|now| before.is_none_or(|before| now < before)) {
            self.inner.earlier.notify_all();
        }
    }

    /// A stream group waits for this time now, or for none.
    pub(crate) fn note_stream(&self, group: GroupId, due_ms: Option<u64>) {
        if !self.inner.is_on.get() {
            return;
        }
        let mut streams = self.inner.streams.borrow_mut();
        let before = match due_ms {
            Some(due_ms) => self.inner.stream_dues.borrow_mut().insert(group, due_ms),
            None => self.inner.stream_dues.borrow_mut().remove(&group),
        };
        if let Some(before_ms) = before {
            streams.remove(&(before_ms, group));
        }
        let first_ms = streams.first().map(|(first_ms, _)| *first_ms);
        streams.extend(due_ms.map(|due_ms| (due_ms, group)));
        if due_ms.is_some_and(|due_ms| first_ms.is_none_or(|first_ms| due_ms < first_ms)) {
            self.inner.earlier.notify_all();
        }
    }

    /// The stream groups that are due, some at most.
    fn due_streams(&self, now_ms: u64) -> Vec<GroupId> {
        let streams = self.inner.streams.borrow();
        let due = streams.iter().take_while(|(due_ms, _)| *due_ms <= now_ms);
        due.take(SLOTS_AT_ONCE).map(|(_, group)| *group).collect()
    }

    /// When a stream group is due first.
    fn next_stream(&self) -> Option<(GroupId, u64)> {
        self.inner.streams.borrow().first().map(|(due_ms, group)| (*group, *due_ms))
    }

    /// Records of a slot are to go to its dead-letter topic.
    pub(crate) fn note_dying(&self, slot: Slot) {
        if self.inner.is_on.get() && self.inner.dying.borrow_mut().insert(slot) {
            self.inner.somebody_dies.notify_all();
        }
    }

    /// Where records are to go to a dead-letter topic; whoever asks looks after them.
    pub(crate) fn take_dying(&self) -> BTreeSet<Slot> {
        self.inner.dying.take()
    }

    /// Told when [`Self::take_dying`] has something.
    pub(crate) fn somebody_dies(&self) -> Listener {
        self.inner.somebody_dies.listen()
    }

    fn turn(&self, is_on: bool) {
        self.inner.is_on.set(is_on);
        self.inner.slots.borrow_mut().clear();
        self.inner.dying.borrow_mut().clear();
        self.inner.stream_dues.borrow_mut().clear();
        self.inner.streams.borrow_mut().clear();
    }

    /// What is due, some slots at most.
    fn due(&self, now_ms: u64) -> Vec<(Slot, Vec<u64>)> {
        let mut slots = self.inner.slots.borrow_mut();
        let due = |(slot, timers): (&Slot, &mut Timers)| {
            let chunks = timers.due(now_ms);
            (!chunks.is_empty()).then_some((*slot, chunks))
        };
        let due: Vec<_> = slots.iter_mut().filter_map(due).take(SLOTS_AT_ONCE).collect();
        slots.retain(|_, timers| timers.len() > 0);
        due
    }

    /// Where something falls due first, and when.
    fn next(&self) -> Option<(Slot, u64)> {
        let slots = self.inner.slots.borrow();
        let next = slots.iter().filter_map(|(slot, timers)| Some((*slot, timers.next_ms()?)));
        next.min_by_key(|(_, next_ms)| *next_ms)
    }
}

impl Shard {
    /// While this node leads, ends the leases and delays that are over; until the shard closes.
    pub(crate) async fn keep_time(self) {
        let mut watched: Option<Term> = None;
        while !self.inner.is_closing() && !self.inner.group.is_over() {
            let lead_changed = self.inner.group.lead_changed();
            let term = self.inner.group.leader_term();
            if term != watched {
                self.inner.alarms.turn(term.is_some());
                self.inner.orders.clear();
                watched = term;
                if term.is_some() {
                    self.note_all().await;
                }
                continue;
            }
            if term.is_none() {
                lead_changed.await;
                continue;
            }
            let earlier = self.inner.alarms.inner.earlier.listen();
            let now_ms = self.inner.lease_now_ms();
            // Wrong when planted: what was leased and never acked stays away for ever.
            let due = match planted("broker-leases-never-end") {
                true => Vec::new(),
                false => self.inner.alarms.due(now_ms),
            };
            // Wrong when planted: what a member had that died is nobody's for ever.
            let due_streams = match planted("broker-sessions-never-end") {
                true => Vec::new(),
                false => self.inner.alarms.due_streams(now_ms),
            };
            if !due.is_empty() || !due_streams.is_empty() {
                let streams = self.pass_stream_time(due_streams);
                self.pass_time(due).await;
                streams.await;
                continue;
            }
            let next = self.inner.alarms.next();
            let next_stream = self.inner.alarms.next_stream();
            self.keep_clock(next, next_stream, now_ms).await;
            let next_ms = [next.map(|(_, at)| at), next_stream.map(|(_, at)| at)];
            let left = match next_ms.into_iter().flatten().min() {
                None => NEVER,
                Some(at) => {
                    Duration::from_millis(at.saturating_sub(now_ms).max(1)).min(CLOCK_EVERY)
                }
            };
            first_of(first_of(earlier, lead_changed), sleep(left)).await;
        }
    }

    /// Sees that the lease clock in the log is not far behind: the next leader goes on from there,
    /// and what waits would wait so much longer.
    async fn keep_clock(
        &self,
        next: Option<(Slot, u64)>,
        next_stream: Option<(GroupId, u64)>,
        now_ms: u64,
    ) {
        let applied_ms = self.inner.group.with_machine(|machine| machine.groups().clock_ms);
        if Duration::from_millis(now_ms.saturating_sub(applied_ms)) < CLOCK_EVERY {
            return;
        }
        // That it cannot be told now is no harm; it is told later.
        if let Some((slot, _)) = next {
            drop(self.submit_op(Op { slot, what: What::PassTime(Vec::new()) }).await);
        } else if let Some((group, _)) = next_stream {
            drop(self.submit_stream_op(StreamOp { group, what: StreamWhat::PassTime }).await);
        }
    }

    /// Notes what waits already, in slices: behind another leader there may be millions.
    async fn note_all(&self) {
        let slots = self
            .inner
            .group
            .with_machine(|machine| machine.groups().slots.keys().copied().collect::<Vec<_>>());
        for slot in slots {
            let has_dying = self.inner.group.with_machine(|machine| {
                let group = machine.groups().slots.get(&slot);
                group.is_some_and(|group| group.backlog.is_anybody_dying())
            });
            if has_dying {
                self.inner.alarms.note_dying(slot);
            }
            let mut from = Some(0);
            while let Some(chunk) = from {
                let (notes, next) = self.inner.group.with_machine(|machine| {
                    let group = machine.groups().slots.get(&slot);
                    group.map_or((Vec::new(), None), |group| group.backlog.dues_from(chunk))
                });
                self.inner.alarms.note(slot, notes.into_iter());
                from = next;
                yield_if_needed().await;
            }
        }
        self.note_all_streams().await;
    }

    async fn note_all_streams(&self) {
        let groups = self.inner.group.with_machine(|machine| {
            machine.groups().streams.groups.keys().copied().collect::<Vec<_>>()
        });
        for group in groups {
            self.note_stream(group, 0);
            yield_if_needed().await;
        }
    }

    fn note_stream(&self, group: GroupId, not_before_ms: u64) {
        let due_ms =
            self.inner.group.with_machine(|machine| machine.groups().streams.next_due_ms(group));
        self.inner.alarms.note_stream(group, due_ms.map(|due_ms| due_ms.max(not_before_ms)));
    }

    /// Lets time pass for stream groups: all are submitted at once, and share an entry.
    fn pass_stream_time(&self, due: Vec<GroupId>) -> impl Future<Output = ()> {
        let submit = |group: GroupId| {
            let what = StreamWhat::PassTime;
            (group, self.submit_stream_op(StreamOp { group, what }))
        };
        let submitted: Vec<_> = due.into_iter().map(submit).collect();
        async move {
            for (group, answer) in submitted {
                let is_passed = answer.await.is_ok();
                // What is due still is looked at again after a pause, if it could not be passed.
                let retry_ms = match is_passed {
                    true => 0,
                    false => self.inner.lease_now_ms() + RETRY.as_millis() as u64,
                };
                self.note_stream(group, retry_ms);
            }
        }
    }

    async fn pass_time(&self, due: Vec<(Slot, Vec<u64>)>) {
        let submit = |(slot, chunks): (Slot, Vec<u64>)| {
            let answer = self.submit_op(Op { slot, what: What::PassTime(chunks.clone()) });
            (slot, chunks, answer)
        };
        // All share an entry.
        let submitted: Vec<_> = due.into_iter().map(submit).collect();
        let mut has_failed = false;
        for (slot, chunks, answer) in submitted {
            let failed = answer.await.is_err();
            has_failed |= failed;
            let now_ms = self.inner.lease_now_ms();
            let notes: Vec<_> = self.inner.group.with_machine(|machine| {
                let group = machine.groups().slots.get(&slot);
                let left = chunks.iter().filter_map(|chunk| group?.backlog.next_due(*chunk));
                left.collect()
            });
            // What is due still was not passed: it is looked at again after a pause.
            let retry_ms = if failed { now_ms + RETRY.as_millis() as u64 } else { 0 };
            let notes = notes.into_iter().map(|(at, until_ms)| (at, until_ms.max(retry_ms)));
            self.inner.alarms.note(slot, notes);
        }
        if has_failed {
            sleep(RETRY).await;
        }
    }
}
