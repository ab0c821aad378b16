//! One group's view of one partition: which records may be had, who has which, what is done.
//!
//! ```text
//!                lease                        ack
//!   fresh ------------------> leased -----------------> settled
//!   (from `fresh` on)          ^   |  nack with delay
//!                              |   +----------------> delayed --due--+
//!                              |   |  nack, lease over               |
//!                              +---+-------------> visible <---------+
//!     not wanted: settled          |  leased too often
//!                                  +-----------------> dying --buried--> settled
//! ```
//!
//! Owns: every transition, and the counts. `now_ms` is the shard's lease clock: it stands still
//! while nobody leads, so no lease is shorter than granted whatever the clocks of two leaders say.
//! Must never: hand out a record that is leased, delayed or settled; give up a record that has no
//! dead-letter topic to go to; decide by anything that is not in a checkpoint.
//! Invariants: the oldest visible record is leased first; a receipt is good for one lease, until
//! its time is over. The cost of a command is that of the records or chunks it names; a rewind or a
//! skip costs that of the marks it passes.

use std::collections::BTreeSet;
use std::ops::Range;
use std::rc::Rc;

use barrage_model::backoff::DELAY_MS_MAX;
use barrage_model::group::{Order, VISIBILITY_MS_MAX, VISIBILITY_MS_MIN};
use barrage_model::{Backoff, Offset, ProducerId, Sequence};
use barrage_world::planted;

mod expired;
mod ordered;

use super::departures::{DEPARTING_MAX, Departures, Numbering, Position};
use super::filter::StoredFilter;
use super::selection::Selection;
use super::window::{CHUNK, Mark, SavedChunk, State, Window};
use crate::api::queue::ReceiptError;

/// Chunks that one command lets time pass in: about 65,000 records at most.
pub(crate) const DUE_MAX: usize = 64;

/// Records of a partition that a group may have leased or given back and not settled: each is 32
/// bytes of every replica's memory. Who has so many is leased no more.
pub(crate) const MARKS_MAX: u64 = 10_000_000;

/// Records from the first that was never leased on, that a group which is ordered by key passes
/// over at once; and those that are not settled and that its leader looks at.
pub(crate) const AHEAD_MAX: u64 = 20_000;

/// What a group wants, and what it wants done with records that come back.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Policy {
    /// After so many deliveries a record goes to the dead-letter topic; `None` means never.
    pub(crate) deliveries_max: Option<u16>,
    /// Records of this age are not delivered any more. Asked by the leader, who names those that
    /// are: who is too old is in the log.
    pub(crate) max_age_ms: Option<u64>,
    /// Whether there is a dead-letter topic for those to go to.
    pub(crate) buries: bool,
    /// Wait before the next delivery, where the consumer names none.
    pub(crate) backoff: Backoff,
    /// Which records it wants; all of them without. Asked by the leader alone, for records that
    /// were never leased: what it says is in the log.
    pub(crate) filter: Option<Rc<StoredFilter>>,
    /// In which order. Asked by the leader, too: which records it has chosen is in the log.
    pub(crate) order: Order,
}

/// Says that a record was leased, and which lease it was.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Receipt {
    pub(crate) offset: Offset,
    pub(crate) tag: u32,
}

/// A record handed out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Leased {
    pub(crate) receipt: Receipt,
    /// Times it was leased, this one counted.
    pub(crate) deliveries: u16,
    /// When it was first leased.
    pub(crate) first_ms: u64,
    /// When this lease is over.
    pub(crate) until_ms: u64,
}

/// Records by what they wait for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Counts {
    /// May be leased now; what was never leased may have to be looked at first.
    pub(crate) visible: u64,
    pub(crate) leased: u64,
    pub(crate) delayed: u64,
    /// On their way to the dead-letter topic, or waiting to go there.
    pub(crate) dying: u64,
}

/// See the module.
#[derive(Clone, Debug)]
pub(crate) struct Backlog {
    window: Window,
    /// The first record that was never leased.
    fresh: Offset,
    next_tag: u32,
    /// How often it was rewound: what was chosen before does not count any more.
    rewinds: u32,
    departures: Departures,
    // What follows is derived.
    visible: BTreeSet<Offset>,
    /// Dying, and not departing yet.
    dying: BTreeSet<Offset>,
    leased: u64,
    delayed: u64,
    /// Whether it is noted what is freed.
    is_ordered: bool,
    /// What was settled, or may be had again, since it was asked for.
    freed: Vec<Offset>,
    /// So was everything from some record on.
    is_rewound: bool,
    /// What fell due at other times since it was asked for: where a leader's timers are to look.
    noted: Vec<(Offset, u64)>,
}

/// What a checkpoint keeps of a backlog.
#[derive(Clone, Debug)]
pub(crate) struct Saved {
    pub(crate) window: Window,
    pub(crate) fresh: Offset,
    pub(crate) next_tag: u32,
    pub(crate) rewinds: u32,
    pub(crate) departures: Departures,
}

impl Backlog {
    /// Everything from `start` on is fresh.
    pub(crate) fn new(start: Offset) -> Self {
        Self {
            window: Window::new(start),
            fresh: start,
            next_tag: 0,
            rewinds: 0,
            departures: Departures::default(),
            visible: BTreeSet::new(),
            dying: BTreeSet::new(),
            leased: 0,
            delayed: 0,
            is_ordered: false,
            freed: Vec::new(),
            is_rewound: false,
            noted: Vec::new(),
        }
    }

    /// One that a checkpoint kept, without its chunks, unless no backlog was ever so.
    pub(crate) fn begin_restore(
        start: Offset,
        fresh: Offset,
        (next_tag, rewinds): (u32, u32),
        departures: Departures,
    ) -> Option<Self> {
        let is_sound = start <= fresh && departures.list.len() <= DEPARTING_MAX;
        is_sound.then(|| Self { next_tag, rewinds, departures, fresh, ..Self::new(start) })
    }

    /// The next of its chunks, unless no backlog ever had it there.
    pub(crate) fn restore(&mut self, chunk: SavedChunk) -> Option<()> {
        let number = chunk.number;
        self.window.push(chunk)?;
        let marks: Vec<_> = self.marks_of(number).collect();
        for (at, mark) in marks {
            self.enter(at, mark);
        }
        self.noted.clear();
        self.freed.clear();
        (self.window.end() <= self.fresh).then_some(())
    }

    /// What a checkpoint keeps. Cheap: it shares chunks.
    pub(crate) fn save(&self) -> Saved {
        let Self { window, fresh, next_tag, rewinds, departures, .. } = self;
        let (window, departures) = (window.clone(), departures.clone());
        let (fresh, next_tag, rewinds) = (*fresh, *next_tag, *rewinds);
        Saved { window, fresh, next_tag, rewinds, departures }
    }

    /// Records that have got another time to wait for since this was asked, and that time; of
    /// neighbours with one time only the first.
    pub(crate) fn noted(&mut self) -> impl Iterator<Item = (Offset, u64)> {
        self.noted.drain(..)
    }

    /// Hands out records before `end`, the oldest first.
    pub(crate) fn lease(&mut self, want: &Want) -> Vec<Leased> {
        let mut leased = Vec::new();
        let count_max = want.count_max.min(self.room());
        while leased.len() < count_max {
            let (at, known) = match self.visible.first().copied() {
                Some(at) if at < want.end => {
                    self.visible.remove(&at);
                    (at, self.window.mark(at))
                }
                None if self.fresh < want.end => {
                    let at = self.fresh;
                    self.fresh = Offset(at.0 + 1);
                    (at, None)
                }
                _ => break,
            };
            leased.push(self.hand_out(at, known, want));
        }
        leased
    }

    /// Hands out what is visible, then what is wanted of the records that were never leased, as
    /// far as they were looked at; settles those of them that are not wanted. Nothing of them is
    /// touched if the first that was never leased is another one by now.
    pub(crate) fn lease_wanted(&mut self, want: &Want, found: &Selection) -> Vec<Leased> {
        let mut leased = Vec::new();
        let count_max = want.count_max.min(self.room());
        while leased.len() < count_max
            && let Some(at) = self.visible.first().copied().filter(|at| *at < want.end)
        {
            self.visible.remove(&at);
            leased.push(self.hand_out(at, self.window.mark(at), want));
        }
        if found.from() > self.fresh {
            return leased;
        }
        for range in found.wanted() {
            let end = range.end.min(want.end);
            self.settle_fresh_before(range.start.min(end));
            while self.fresh < end {
                if leased.len() >= count_max {
                    return leased;
                }
                let at = self.fresh;
                self.fresh = Offset(at.0 + 1);
                leased.push(self.hand_out(at, None, want));
            }
        }
        self.settle_fresh_before(found.end().min(want.end));
        leased
    }

    fn settle_fresh_before(&mut self, to: Offset) {
        if self.fresh < to {
            self.window.settle_range(self.fresh..to);
            self.fresh = to;
        }
    }

    /// How many more records may be leased or given back.
    pub(crate) fn room(&self) -> usize {
        let room = MARKS_MAX.saturating_sub(self.marks());
        usize::try_from(room).unwrap_or(usize::MAX)
    }

    /// Records before `end` that may be leased now and were leased before.
    pub(crate) fn visible_again(&self, end: Offset) -> usize {
        match self.visible.last() {
            Some(last) if *last < end => self.visible.len(),
            _ => self.visible.range(..end).count(),
        }
    }

    /// Records that are marked.
    fn marks(&self) -> u64 {
        let others = self.visible.len() + self.dying.len() + self.departures.list.len();
        self.leased + self.delayed + others as u64
    }

    fn hand_out(&mut self, at: Offset, known: Option<Mark>, want: &Want) -> Leased {
        let known = known.filter(|mark| mark.deliveries > 0);
        let (before, first_ms) =
            known.map_or((0, want.log_time_ms), |mark| (mark.deliveries, mark.first_ms));
        let mark = Mark {
            state: State::Leased,
            // Wrong when planted: a record fails for ever and nobody sees it.
            deliveries: match planted("broker-deliveries-not-counted") {
                true => 1,
                false => before.saturating_add(1),
            },
            tag: self.next_tag,
            first_ms,
            until_ms: until(want.now_ms, want.visibility_ms),
        };
        self.next_tag = self.next_tag.wrapping_add(1);
        self.window.set_mark(at, mark);
        self.enter(at, mark);
        let Mark { deliveries, tag, until_ms, .. } = mark;
        Leased { receipt: Receipt { offset: at, tag }, deliveries, first_ms, until_ms }
    }

    /// A consumer is done with a record.
    pub(crate) fn ack(&mut self, receipt: Receipt, now_ms: u64) -> Result<(), ReceiptError> {
        let mark = self.held(receipt, now_ms)?;
        self.leave(receipt.offset, mark);
        self.settle(receipt.offset);
        Ok(())
    }

    /// A consumer gives a record back, for a delay or that of the policy.
    pub(crate) fn nack(
        &mut self,
        receipt: Receipt,
        delay_ms: Option<u64>,
        now_ms: u64,
        policy: &Policy,
    ) -> Result<(), ReceiptError> {
        let mark = self.held(receipt, now_ms)?;
        self.leave(receipt.offset, mark);
        let delay_ms = delay_ms.unwrap_or_else(|| policy.backoff.after(mark.deliveries));
        let visible_ms = now_ms.saturating_add(delay_ms.min(DELAY_MS_MAX));
        self.give_back(receipt.offset, mark, visible_ms, now_ms, policy);
        Ok(())
    }

    /// A record was leased and never handed out: as if it had not been leased.
    pub(crate) fn release(&mut self, receipt: Receipt, now_ms: u64) -> Result<(), ReceiptError> {
        let mark = self.held(receipt, now_ms)?;
        self.leave(receipt.offset, mark);
        let deliveries = mark.deliveries.saturating_sub(1);
        let mark = Mark { state: State::Visible, deliveries, until_ms: now_ms, ..mark };
        self.window.set_mark(receipt.offset, mark);
        self.enter(receipt.offset, mark);
        Ok(())
    }

    /// A consumer wants a record for so long from now on.
    pub(crate) fn extend(
        &mut self,
        receipt: Receipt,
        visibility_ms: u64,
        now_ms: u64,
    ) -> Result<(), ReceiptError> {
        let mark = self.held(receipt, now_ms)?;
        self.leave(receipt.offset, mark);
        let mark = Mark { until_ms: until(now_ms, visibility_ms), ..mark };
        self.window.set_mark(receipt.offset, mark);
        self.enter(receipt.offset, mark);
        Ok(())
    }

    /// Lets time pass in some chunks of the window: their leases and delays that are over end.
    pub(crate) fn pass_time(&mut self, chunks: &[u64], now_ms: u64, policy: &Policy) {
        let mut due = Vec::new();
        for number in chunks.iter().take(DUE_MAX) {
            let marks = self.marks_of(*number);
            due.extend(marks.filter(|(_, mark)| waits(mark) && mark.until_ms <= now_ms));
            for (at, mark) in due.drain(..) {
                self.leave(at, mark);
                self.give_back(at, mark, now_ms, now_ms, policy);
            }
        }
    }

    /// When the next record of a chunk falls due.
    pub(crate) fn next_due(&self, chunk: u64) -> Option<(Offset, u64)> {
        let waiting = self.marks_of(chunk).filter(|(_, mark)| waits(mark));
        waiting.map(|(at, mark)| (at, mark.until_ms)).min_by_key(|(_, until_ms)| *until_ms)
    }

    /// The next times of chunks from `chunk` on, of some; and where to go on.
    pub(crate) fn dues_from(&self, chunk: u64) -> (Vec<(Offset, u64)>, Option<u64>) {
        let mut numbers = self.window.numbers_from(chunk);
        let some: Vec<u64> = numbers.by_ref().take(DUE_MAX).collect();
        let dues = some.iter().filter_map(|number| self.next_due(*number)).collect();
        (dues, numbers.next())
    }

    fn marks_of(&self, chunk: u64) -> impl Iterator<Item = (Offset, Mark)> {
        let end = chunk.saturating_add(1).saturating_mul(CHUNK);
        let marks = self.window.marks_from(Offset(chunk.saturating_mul(CHUNK)));
        marks.take_while(move |(at, _)| at.0 < end)
    }

    /// The oldest records that are to go to the dead-letter topic go on their way, once all that
    /// went before have arrived: who travels in one batch depends on the list, and must be the same
    /// whoever sends it.
    pub(crate) fn depart(&mut self, count_max: usize) {
        if !self.departures.list.is_empty() {
            return;
        }
        for _ in 0..count_max.min(self.departures.room()) {
            let Some(at) = self.dying.pop_first() else { return };
            self.departures.list.push_back(at);
        }
    }

    /// Those on their way, and as whose batches they go.
    pub(crate) fn departures(&self) -> &Departures {
        &self.departures
    }

    /// Whether any is on its way to the dead-letter topic, or waits to go.
    pub(crate) fn is_anybody_dying(&self) -> bool {
        !self.dying.is_empty() || !self.departures.list.is_empty()
    }

    /// Times a record was delivered, if it is marked.
    pub(crate) fn deliveries(&self, at: Offset) -> Option<u16> {
        self.window.mark(at).map(|mark| mark.deliveries)
    }

    /// The oldest that are to go to the dead-letter topic and are not on their way.
    pub(crate) fn dying(&self) -> impl Iterator<Item = Offset> {
        self.dying.iter().copied()
    }

    /// Records that are nowhere any more are no dead letters, unless they are on their way.
    pub(crate) fn give_up(&mut self, lost: &[Offset]) {
        for at in lost {
            if self.dying.remove(at) {
                self.settle(*at);
            }
        }
    }

    /// Those on their way are numbered anew, if they are still where that was decided.
    pub(crate) fn renumber(&mut self, from: Position, to: Numbering) {
        self.departures.renumber(from, to);
    }

    /// The first of those on their way lie in the dead-letter topic.
    pub(crate) fn arrived(&mut self, producer: ProducerId, first: Sequence, count: usize) {
        for at in self.departures.arrived(producer, first, count) {
            // One that was rewound meanwhile is to be delivered again, whatever lies there; unless
            // it died of that, too.
            let mark = self.window.mark(at);
            if mark.is_some_and(|mark| mark.state == State::Dying) {
                self.settle(at);
            }
        }
    }

    /// Records that may be leased now, the oldest first, without leasing them.
    pub(crate) fn peek(&self, end: Offset) -> impl Iterator<Item = Offset> {
        self.visible.iter().copied().chain((self.fresh.0..end.0).map(Offset))
    }

    /// Everything from `to` on is fresh again, what is settled and what is leased, too.
    pub(crate) fn rewind(&mut self, to: Offset) {
        if to >= self.fresh {
            return;
        }
        let Self { window, leased, delayed, .. } = self;
        window.forget_from(to, |mark| uncount(mark, leased, delayed));
        self.visible.split_off(&to);
        self.dying.split_off(&to);
        self.fresh = to;
        self.rewinds = self.rewinds.wrapping_add(1);
        self.is_rewound = self.is_ordered;
    }

    /// Everything before `to` is done with: the backlog is cleared, or its records are gone.
    pub(crate) fn skip_to(&mut self, to: Offset) {
        let Self { window, leased, delayed, .. } = self;
        window.settle_before(to, |mark| uncount(mark, leased, delayed));
        self.visible = self.visible.split_off(&to);
        self.dying = self.dying.split_off(&to);
        self.fresh = self.fresh.max(to);
    }

    /// How many records wait for what, of those before `end`.
    pub(crate) fn counts(&self, end: Offset) -> Counts {
        Counts {
            visible: self.visible.len() as u64 + end.0.saturating_sub(self.fresh.0),
            leased: self.leased,
            delayed: self.delayed,
            dying: (self.dying.len() + self.departures.list.len()) as u64,
        }
    }

    /// Whether a record before `end` may be leased now.
    pub(crate) fn is_anything_visible(&self, end: Offset) -> bool {
        self.visible.first().is_some_and(|at| *at < end) || self.fresh < end
    }

    /// The first record that was never leased.
    pub(crate) fn fresh(&self) -> Offset {
        self.fresh
    }

    /// The oldest record that is not done with.
    pub(crate) fn start(&self) -> Offset {
        self.window.start()
    }

    /// How many of these the group is done with.
    pub(crate) fn settled_in(&self, range: Range<Offset>) -> u64 {
        self.window.settled_in(range)
    }

    /// The mark of a record that this receipt holds.
    fn held(&self, receipt: Receipt, now_ms: u64) -> Result<Mark, ReceiptError> {
        let Receipt { offset, tag } = receipt;
        match self.window.mark(offset) {
            // Wrong when planted: whoever had the record once decides for who has it now.
            Some(mark)
                if mark.state == State::Leased
                    && mark.tag != tag
                    && !planted("broker-old-receipt-taken") =>
            {
                Err(ReceiptError::Stale)
            }
            // The leader may not have taken note yet that the time is over.
            Some(mark) if mark.state == State::Leased && mark.until_ms > now_ms => Ok(mark),
            Some(_) => Err(ReceiptError::NotLeased),
            None if self.window.is_settled(offset) => Err(ReceiptError::Settled),
            None => Err(ReceiptError::NeverLeased),
        }
    }

    /// Nobody has a record any more: it may be had at `visible_ms`, unless it was leased too often.
    fn give_back(&mut self, at: Offset, mark: Mark, visible_ms: u64, now_ms: u64, policy: &Policy) {
        let was_leased = mark.state == State::Leased;
        let spent = policy.deliveries_max.is_some_and(|most| mark.deliveries >= most);
        let state = match was_leased && spent {
            true => State::Dying,
            false if visible_ms <= now_ms => State::Visible,
            false => State::Delayed,
        };
        let mark = Mark { state, until_ms: visible_ms, ..mark };
        self.window.set_mark(at, mark);
        self.enter(at, mark);
    }

    /// Counts a record where its mark says it is.
    fn enter(&mut self, at: Offset, mark: Mark) {
        match mark.state {
            State::Leased => self.leased += 1,
            State::Delayed => self.delayed += 1,
            State::Visible => {
                self.visible.insert(at);
                self.note_freed(at);
            }
            // One that is on its way already goes once: it is settled when it arrives.
            State::Dying if self.departures.list.contains(&at) => {}
            State::Dying => drop(self.dying.insert(at)),
        }
        if waits(&mark) {
            let same = |(last, until_ms): &(Offset, u64)| {
                last.0 / CHUNK == at.0 / CHUNK && *until_ms == mark.until_ms
            };
            if !self.noted.last().is_some_and(same) {
                self.noted.push((at, mark.until_ms));
            }
        }
    }

    /// Undoes [`Self::enter`].
    fn leave(&mut self, at: Offset, mark: Mark) {
        match mark.state {
            State::Leased => self.leased -= 1,
            State::Delayed => self.delayed -= 1,
            State::Visible => drop(self.visible.remove(&at)),
            State::Dying => drop(self.dying.remove(&at)),
        }
    }
}

/// What a consumer asks for.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Want {
    pub(crate) now_ms: u64,
    /// Milliseconds since 1970, for people.
    pub(crate) log_time_ms: u64,
    /// Where the partition ends.
    pub(crate) end: Offset,
    pub(crate) count_max: usize,
    pub(crate) visibility_ms: u64,
}

/// When a lease is over. Who asks for one out of range is refused before; apply must not depend on
/// that.
fn until(now_ms: u64, visibility_ms: u64) -> u64 {
    now_ms.saturating_add(visibility_ms.clamp(VISIBILITY_MS_MIN, VISIBILITY_MS_MAX))
}

/// Whether a record waits for time to pass.
fn waits(mark: &Mark) -> bool {
    matches!(mark.state, State::Leased | State::Delayed)
}

fn uncount(mark: Mark, leased: &mut u64, delayed: &mut u64) {
    match mark.state {
        State::Leased => *leased -= 1,
        State::Delayed => *delayed -= 1,
        State::Visible | State::Dying => {}
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests fail by panicking")]
    #![allow(clippy::indexing_slicing, reason = "tests fail by panicking")]

    use std::collections::BTreeMap;

    use barrage_model::{PartitionId, PartitionKey, TopicId};

    use super::super::dice::Dice;
    use super::*;

    /// What a checkpoint makes of it.
    fn restored(backlog: &Backlog) -> Backlog {
        let Saved { window, fresh, next_tag, rewinds, departures } = backlog.save();
        let mut again =
            Backlog::begin_restore(window.start(), fresh, (next_tag, rewinds), departures).unwrap();
        assert!(window.chunks_from(0).all(|chunk| again.restore(chunk).is_some()));
        again
    }

    fn policy(deliveries_max: Option<u16>) -> Policy {
        let (max_age_ms, buries) = (None, deliveries_max.is_some());
        let (backoff, filter, order) = (Backoff::Fixed(500), None, Order::None);
        Policy { deliveries_max, max_age_ms, buries, backoff, filter, order }
    }

    fn want(now_ms: u64, count_max: usize, end: u64) -> Want {
        Want { now_ms, log_time_ms: now_ms, end: Offset(end), count_max, visibility_ms: 30_000 }
    }

    fn offsets(leased: &[Leased]) -> Vec<u64> {
        leased.iter().map(|one| one.receipt.offset.0).collect()
    }

    /// Whoever departs goes as producer 1.
    fn number(backlog: &mut Backlog) {
        let into = PartitionKey { topic: TopicId(9), partition: PartitionId(0) };
        let to = Numbering { producer: ProducerId(1), into };
        backlog.renumber(backlog.departures().position(), to);
    }

    /// All that are dying go the whole way; answers which.
    fn bury_all(backlog: &mut Backlog) -> Vec<Offset> {
        number(backlog);
        backlog.depart(usize::MAX);
        let all: Vec<Offset> = backlog.departures().list.iter().copied().collect();
        backlog.arrived(ProducerId(1), Sequence(0), all.len());
        all
    }

    /// What is on its way stays so, whatever happens to the backlog, and is settled once.
    #[test]
    fn a_record_on_its_way_arrives() {
        let once = policy(Some(1));
        let mut backlog = Backlog::new(Offset(0));
        for one in backlog.lease(&want(0, 3, 3)) {
            assert_eq!(backlog.nack(one.receipt, None, 1, &once), Ok(()));
        }
        number(&mut backlog);
        backlog.depart(2);
        assert_eq!(backlog.counts(Offset(3)).dying, 3);
        let mut backlog = restored(&backlog);
        assert_eq!(backlog.departures().list, [Offset(0), Offset(1)]);
        backlog.rewind(Offset(1));
        backlog.arrived(ProducerId(1), Sequence(0), 2);
        assert_eq!((backlog.start(), backlog.counts(Offset(3)).visible), (Offset(1), 2));
        assert_eq!(offsets(&backlog.lease(&want(5, 9, 3))), [1, 2]);
    }

    /// A record on its way is rewound, leased and dies again; a replica that was restored from a
    /// checkpoint meanwhile must come to the same as one that was not.
    #[test]
    fn what_dies_again_on_its_way_is_alike_live_and_restored() {
        let once = policy(Some(1));
        let mut live = Backlog::new(Offset(0));
        let nack_all = |backlog: &mut Backlog| {
            for one in backlog.lease(&want(0, 9, 2)) {
                assert_eq!(backlog.nack(one.receipt, None, 1, &once), Ok(()));
            }
        };
        nack_all(&mut live);
        number(&mut live);
        live.depart(1);
        live.rewind(Offset(0));
        nack_all(&mut live);
        let mut restored = restored(&live);
        for backlog in [&mut live, &mut restored] {
            backlog.arrived(ProducerId(1), Sequence(0), 1);
            backlog.depart(9);
            assert_eq!(backlog.departures().list, [Offset(1)]);
            backlog.arrived(ProducerId(1), Sequence(1), 1);
            assert_eq!((backlog.start(), backlog.is_anybody_dying()), (Offset(2), false));
        }
    }

    #[test]
    fn a_lease_that_was_never_handed_out_does_not_count() {
        let mut backlog = Backlog::new(Offset(0));
        let one = backlog.lease(&want(5, 1, 9))[0];
        assert_eq!(backlog.release(one.receipt, 6), Ok(()));
        assert_eq!(backlog.ack(one.receipt, 6), Err(ReceiptError::NotLeased));
        let two = backlog.lease(&want(7, 1, 9))[0];
        assert_eq!((two.receipt.offset, two.deliveries, two.first_ms), (Offset(0), 1, 7));
    }

    #[test]
    fn records_are_leased_in_order_and_done_one_by_one() {
        let mut backlog = Backlog::new(Offset(5));
        let first = backlog.lease(&want(0, 3, 10));
        assert_eq!(offsets(&first), [5, 6, 7]);
        assert_eq!(offsets(&backlog.lease(&want(0, 9, 10))), [8, 9]);
        assert!(backlog.lease(&want(0, 9, 10)).is_empty());
        assert_eq!(backlog.ack(first[1].receipt, 10), Ok(()));
        assert_eq!(backlog.start(), Offset(5));
        assert_eq!(backlog.ack(first[0].receipt, 10), Ok(()));
        assert_eq!(backlog.start(), Offset(7));
        assert_eq!(backlog.ack(first[0].receipt, 10), Err(ReceiptError::Settled));
        let counts = Counts { visible: 2, leased: 3, ..Counts::default() };
        assert_eq!(backlog.counts(Offset(12)), counts);
    }

    #[test]
    fn a_receipt_is_good_for_one_lease_and_its_time() {
        let mut backlog = Backlog::new(Offset(0));
        let all = policy(None);
        let old = backlog.lease(&want(0, 1, 9))[0];
        assert_eq!((old.deliveries, old.first_ms, old.until_ms), (1, 0, 30_000));
        assert_eq!(backlog.ack(old.receipt, 30_000), Err(ReceiptError::NotLeased), "it is over");
        assert_eq!(backlog.extend(old.receipt, 1, 30_000), Err(ReceiptError::NotLeased));
        backlog.pass_time(&[0], 29_999, &all);
        assert_eq!(backlog.counts(Offset(9)).leased, 1, "not a millisecond early");
        backlog.pass_time(&[0], 30_000, &all);
        assert_eq!(backlog.ack(old.receipt, 30_000), Err(ReceiptError::NotLeased));
        let new = backlog.lease(&want(31_000, 1, 9))[0];
        assert_eq!((new.deliveries, new.first_ms, new.receipt.offset), (2, 0, Offset(0)));
        assert_eq!(backlog.ack(old.receipt, 31_000), Err(ReceiptError::Stale));
        assert_eq!(backlog.extend(new.receipt, 60_000, 40_000), Ok(()));
        backlog.pass_time(&[0], 99_999, &all);
        assert_eq!(backlog.next_due(0), Some((Offset(0), 100_000)));
        assert_eq!(backlog.ack(new.receipt, 99_999), Ok(()));
        let forged = Receipt { offset: Offset(7), tag: 0 };
        assert_eq!(backlog.ack(forged, 0), Err(ReceiptError::NeverLeased));
    }

    #[test]
    fn what_is_given_back_waits_and_what_came_too_often_dies() {
        let mut backlog = Backlog::new(Offset(0));
        let twice = policy(Some(2));
        let one = backlog.lease(&want(0, 1, 1))[0];
        assert_eq!(backlog.nack(one.receipt, None, 100, &twice), Ok(()));
        assert_eq!(backlog.counts(Offset(1)).delayed, 1);
        backlog.pass_time(&[0], 599, &twice);
        assert!(backlog.lease(&want(599, 1, 1)).is_empty());
        backlog.pass_time(&[0], 600, &twice);
        let two = backlog.lease(&want(600, 1, 1))[0];
        assert_eq!(two.deliveries, 2);
        assert_eq!(backlog.nack(two.receipt, Some(0), 700, &twice), Ok(()));
        assert!(backlog.is_anybody_dying());
        assert!(backlog.lease(&want(9_999, 1, 1)).is_empty());
        bury_all(&mut backlog);
        assert_eq!((backlog.start(), backlog.counts(Offset(1))), (Offset(1), Counts::default()));
    }

    #[test]
    fn what_is_too_old_dies_or_is_done() {
        let mut backlog = Backlog::new(Offset(0));
        let leased = backlog.lease(&want(0, 3, 9));
        assert_eq!(backlog.expire(leased[0].receipt, 30_000, true), Err(ReceiptError::NotLeased));
        assert_eq!(backlog.expire(leased[0].receipt, 5, true), Ok(()));
        assert_eq!(backlog.expire(leased[1].receipt, 5, false), Ok(()));
        assert_eq!(backlog.nack(leased[2].receipt, None, 5, &policy(Some(1))), Ok(()));
        let backlog = restored(&backlog);
        let told = |at| (backlog.deliveries(Offset(at)), backlog.is_too_old(Offset(at)));
        assert_eq!(told(0), (Some(0), true), "nobody got it");
        assert_eq!(told(2), (Some(1), false));
        assert_eq!((backlog.start(), backlog.counts(Offset(3)).dying), (Offset(0), 2));
        assert_eq!(
            (backlog.visible_before(Offset(3), 9), backlog.visible_before(Offset(9), 4)),
            (0, 4)
        );
    }

    #[test]
    fn without_a_dead_letter_topic_who_is_dying_comes_back_or_is_done() {
        let mut backlog = Backlog::new(Offset(0));
        let leased = backlog.lease(&want(0, 4, 4));
        for one in [0, 2] {
            assert_eq!(backlog.expire(leased[one].receipt, 5, true), Ok(()));
            let spent = backlog.nack(leased[one + 1].receipt, None, 5, &policy(Some(1)));
            assert_eq!(spent, Ok(()));
        }
        number(&mut backlog);
        backlog.depart(2);
        backlog.raise();
        let mut backlog = restored(&backlog);
        assert!(!backlog.is_anybody_dying());
        assert_eq!(backlog.departures().numbering, None);
        assert_eq!(
            (backlog.start(), offsets(&backlog.lease(&want(9, 9, 4)))),
            (Offset(1), vec![1, 3])
        );
        backlog.arrived(ProducerId(1), Sequence(0), 2);
        assert_eq!(backlog.counts(Offset(4)).leased, 2, "one that arrived after all comes twice");
    }

    /// Looked at and found: `(count, wanted)` from `from` on.
    fn found(from: u64, runs: &[(u64, bool)]) -> Selection {
        let mut found = Selection::empty(Offset(from));
        for (count, is_wanted) in runs {
            match is_wanted {
                true => found.want(*count),
                false => found.pass(*count),
            }
        }
        found
    }

    #[test]
    fn what_is_wanted_is_leased_and_the_rest_is_settled() {
        let mut backlog = Backlog::new(Offset(5));
        let looked = found(5, &[(3, false), (2, true), (1, false), (1, true), (4, false)]);
        let leased = backlog.lease_wanted(&want(0, 9, 100), &looked);
        assert_eq!(offsets(&leased), [8, 9, 11]);
        assert_eq!((backlog.start(), backlog.fresh()), (Offset(8), Offset(16)));
        let counts = Counts { visible: 84, leased: 3, ..Counts::default() };
        assert_eq!(backlog.counts(Offset(100)), counts);
        assert_eq!(backlog.ack(leased[0].receipt, 1), Ok(()));
        assert_eq!(backlog.nack(leased[1].receipt, Some(0), 1, &policy(None)), Ok(()));
        assert_eq!(backlog.ack(leased[2].receipt, 1), Ok(()));
        // One that comes again is leased first, whatever is found behind it.
        let again = backlog.lease_wanted(&want(2, 2, 100), &found(16, &[(9, false), (3, true)]));
        assert_eq!(offsets(&again), [9, 25]);
        assert_eq!((again[0].deliveries, backlog.fresh()), (2, Offset(26)), "no room for more");
        let stored = restored(&backlog);
        assert_eq!((stored.start(), stored.fresh()), (Offset(9), Offset(26)));
    }

    /// Between look and apply others lease, a group is rewound, the partition's start moves.
    #[test]
    fn what_was_found_elsewhere_changes_nothing() {
        let looked = found(10, &[(2, true), (2, false), (2, true)]);
        for (fresh, want_offsets, now_fresh) in [
            (8, vec![], 8),
            (10, vec![10, 11, 14, 15], 16),
            (11, vec![11, 14, 15], 16),
            (13, vec![14, 15], 16),
            (16, vec![], 16),
            (20, vec![], 20),
        ] {
            let mut backlog = Backlog::new(Offset(fresh));
            let leased = backlog.lease_wanted(&want(0, 9, 100), &looked);
            assert_eq!(offsets(&leased), want_offsets, "{fresh}");
            assert_eq!(backlog.fresh(), Offset(now_fresh), "{fresh}");
        }
        let mut backlog = Backlog::new(Offset(10));
        let leased = backlog.lease_wanted(&want(0, 9, 11), &looked);
        assert_eq!((offsets(&leased), backlog.fresh()), (vec![10], Offset(11)), "it ends there");
    }

    #[test]
    fn rewound_records_are_fresh_and_skipped_ones_are_done() {
        let mut backlog = Backlog::new(Offset(0));
        let first = backlog.lease(&want(0, 10, 20));
        for one in &first[..6] {
            assert_eq!(backlog.ack(one.receipt, 1), Ok(()));
        }
        backlog.rewind(Offset(3));
        assert_eq!(backlog.counts(Offset(20)), Counts { visible: 17, ..Counts::default() });
        assert_eq!(backlog.ack(first[7].receipt, 2), Err(ReceiptError::NeverLeased));
        let again = backlog.lease(&want(5, 2, 20));
        assert_eq!(offsets(&again), [3, 4]);
        assert_eq!(backlog.ack(first[3].receipt, 6), Err(ReceiptError::Stale));
        assert!(backlog.peek(Offset(7)).eq([5, 6].map(Offset)));
        backlog.skip_to(Offset(18));
        assert_eq!(backlog.ack(again[0].receipt, 6), Err(ReceiptError::Settled));
        assert_eq!(backlog.counts(Offset(20)), Counts { visible: 2, ..Counts::default() });
    }

    /// What the books of a careful clerk say, record by record.
    #[derive(Clone, Copy, Debug, PartialEq)]
    enum Entry {
        Held { receipt: Receipt, deliveries: u16, until_ms: u64 },
        Waits { deliveries: u16, until_ms: u64 },
        Visible { deliveries: u16 },
        Dying,
        Done,
    }

    /// Beside a clerk; and a backlog restored from a checkpoint goes on like the one before.
    #[test]
    fn it_does_what_a_clerk_does() {
        let mut dice = Dice::new(3);
        let mut random = |below| dice.below(below);
        let policy = policy(Some(4));
        let mut backlog = Backlog::new(Offset(0));
        let mut clerk: BTreeMap<u64, Entry> = BTreeMap::new();
        let mut receipts: Vec<Receipt> = Vec::new();
        let (mut now_ms, mut end, mut fresh) = (0, 0, 0);
        for step in 0..40_000 {
            now_ms += random(400);
            end += random(6);
            match random(10) {
                0..=3 => {
                    let count_max = random(8) as usize;
                    let leased = backlog.lease(&want(now_ms, count_max, end));
                    for one in leased {
                        let offset = one.receipt.offset.0;
                        let visible =
                            clerk.iter().find(|(_, e)| matches!(e, Entry::Visible { .. }));
                        let (at, before) = match visible {
                            Some((at, Entry::Visible { deliveries })) => (*at, *deliveries),
                            _ => {
                                fresh += 1;
                                (fresh - 1, 0)
                            }
                        };
                        assert_eq!((offset, one.deliveries), (at, before + 1), "step {step}");
                        let Leased { receipt, deliveries, until_ms, .. } = one;
                        clerk.insert(at, Entry::Held { receipt, deliveries, until_ms });
                        receipts.push(receipt);
                    }
                }
                4..=7 if !receipts.is_empty() => {
                    let receipt = receipts[random(receipts.len() as u64) as usize];
                    let held = match clerk.get(&receipt.offset.0) {
                        Some(Entry::Held { receipt: other, deliveries, until_ms })
                            if *other == receipt && *until_ms > now_ms =>
                        {
                            Some(*deliveries)
                        }
                        _ => None,
                    };
                    let (done, entry) = match random(5) {
                        0 => (backlog.ack(receipt, now_ms), Entry::Done),
                        1 => match random(2) == 0 {
                            true => (backlog.expire(receipt, now_ms, true), Entry::Dying),
                            false => (backlog.expire(receipt, now_ms, false), Entry::Done),
                        },
                        2 | 3 => {
                            let delay_ms = random(2_000);
                            let deliveries = held.unwrap_or(0);
                            let entry = match (deliveries >= 4, delay_ms) {
                                (true, _) => Entry::Dying,
                                (false, 0) => Entry::Visible { deliveries },
                                (false, _) => {
                                    Entry::Waits { deliveries, until_ms: now_ms + delay_ms }
                                }
                            };
                            (backlog.nack(receipt, Some(delay_ms), now_ms, &policy), entry)
                        }
                        _ => {
                            let (deliveries, until_ms) = (held.unwrap_or(0), now_ms + 5_000);
                            let entry = Entry::Held { receipt, deliveries, until_ms };
                            (backlog.extend(receipt, 5_000, now_ms), entry)
                        }
                    };
                    assert_eq!(done.is_ok(), held.is_some(), "step {step}: {done:?}");
                    if done.is_ok() {
                        clerk.insert(receipt.offset.0, entry);
                    }
                }
                8 => {
                    let chunks: Vec<u64> = (0..=end / CHUNK).collect();
                    backlog.pass_time(&chunks, now_ms, &policy);
                    for entry in clerk.values_mut() {
                        match *entry {
                            Entry::Held { deliveries, until_ms, .. } if until_ms <= now_ms => {
                                *entry = match deliveries >= 4 {
                                    true => Entry::Dying,
                                    false => Entry::Visible { deliveries },
                                };
                            }
                            Entry::Waits { deliveries, until_ms } if until_ms <= now_ms => {
                                *entry = Entry::Visible { deliveries };
                            }
                            _ => {}
                        }
                    }
                }
                _ => {
                    for at in bury_all(&mut backlog) {
                        assert_eq!(clerk.insert(at.0, Entry::Done), Some(Entry::Dying));
                    }
                }
            }
            if step % 500 == 0 {
                let count =
                    |is: fn(&Entry) -> bool| clerk.values().filter(|e| is(e)).count() as u64;
                let counts = Counts {
                    visible: count(|e| matches!(e, Entry::Visible { .. })) + end - fresh,
                    leased: count(|e| matches!(e, Entry::Held { .. })),
                    delayed: count(|e| matches!(e, Entry::Waits { .. })),
                    dying: count(|e| matches!(e, Entry::Dying)),
                };
                assert_eq!(backlog.counts(Offset(end)), counts, "step {step}");
                let open =
                    clerk.iter().find(|(_, e)| **e != Entry::Done).map_or(fresh, |(at, _)| *at);
                assert_eq!(backlog.start(), Offset(open), "step {step}");
                backlog = restored(&backlog);
                clerk.retain(|at, _| *at >= open);
                receipts.retain(|receipt| receipt.offset.0 + 50 >= open);
            }
        }
        assert!(fresh > 10_000, "{fresh}");
    }
}
