//! One group's view of one partition: which records may be had, who has which, what is done.
//!
//! ```text
//!                lease                        ack
//!   fresh ------------------> leased -----------------> settled
//!   (from `fresh` on)          ^   |  nack with delay
//!                              |   +----------------> delayed --due--+
//!                              |   |  nack, lease over               |
//!                              +---+-------------> visible <---------+
//!                                  |  leased too often
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

use barrage_model::backoff::DELAY_MS_MAX;
use barrage_model::group::{VISIBILITY_MS_MAX, VISIBILITY_MS_MIN};
use barrage_model::{Backoff, Offset};

use super::window::{CHUNK, Mark, State, Window};

/// Chunks that one command lets time pass in: about 65,000 records at most.
pub(crate) const DUE_MAX: usize = 64;

/// What a group wants done with records that come back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Policy {
    /// After so many deliveries a record goes to the dead-letter topic; `None` means never.
    pub(crate) deliveries_max: Option<u16>,
    /// Wait before the next delivery, where the consumer names none.
    pub(crate) backoff: Backoff,
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

/// Why a receipt does nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Refused {
    /// The record is done, by this receipt or another, or is no longer kept.
    #[error("the record is settled")]
    Settled,
    /// Its lease is over, or was given back.
    #[error("the record is not leased any more")]
    NotLeased,
    /// Somebody else has it now.
    #[error("the record was leased again since")]
    Stale,
    /// Nobody has ever leased it.
    #[error("the record was never leased")]
    NeverLeased,
}

/// Records by what they wait for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Counts {
    /// May be leased now.
    pub(crate) visible: u64,
    pub(crate) leased: u64,
    pub(crate) delayed: u64,
    /// On their way to the dead-letter topic.
    pub(crate) dying: u64,
}

/// See the module.
#[derive(Debug)]
pub(crate) struct Backlog {
    window: Window,
    /// The first record that was never leased.
    fresh: Offset,
    next_tag: u32,
    // What follows is derived from the window's marks.
    visible: BTreeSet<Offset>,
    dying: BTreeSet<Offset>,
    leased: u64,
    delayed: u64,
}

impl Backlog {
    /// Everything from `start` on is fresh.
    pub(crate) fn new(start: Offset) -> Self {
        Self::restore(Window::new(start), start, 0)
    }

    /// What a checkpoint kept. Cost: that of all marks.
    pub(crate) fn restore(window: Window, fresh: Offset, next_tag: u32) -> Self {
        let mut backlog = Self {
            window: Window::new(fresh),
            fresh,
            next_tag,
            visible: BTreeSet::new(),
            dying: BTreeSet::new(),
            leased: 0,
            delayed: 0,
        };
        for (at, mark) in window.marks_from(Offset(0)) {
            backlog.enter(at, mark);
        }
        backlog.window = window;
        backlog
    }

    /// What a checkpoint keeps: window, first fresh record, next tag. Cheap: it shares chunks.
    pub(crate) fn save(&self) -> (Window, Offset, u32) {
        (self.window.clone(), self.fresh, self.next_tag)
    }

    /// Hands out records before `end`, the oldest first.
    pub(crate) fn lease(&mut self, want: &Want) -> Vec<Leased> {
        let mut leased = Vec::new();
        while leased.len() < want.count_max {
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

    fn hand_out(&mut self, at: Offset, known: Option<Mark>, want: &Want) -> Leased {
        let (before, first_ms) = known.map_or((0, want.now_ms), |m| (m.deliveries, m.first_ms));
        let mark = Mark {
            state: State::Leased,
            deliveries: before.saturating_add(1),
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
    pub(crate) fn ack(&mut self, receipt: Receipt, now_ms: u64) -> Result<(), Refused> {
        let mark = self.held(receipt, now_ms)?;
        self.leave(receipt.offset, mark);
        self.window.settle(receipt.offset);
        Ok(())
    }

    /// A consumer gives a record back, for a delay or that of the policy.
    pub(crate) fn nack(
        &mut self,
        receipt: Receipt,
        delay_ms: Option<u64>,
        now_ms: u64,
        policy: &Policy,
    ) -> Result<(), Refused> {
        let mark = self.held(receipt, now_ms)?;
        self.leave(receipt.offset, mark);
        let delay_ms = delay_ms.unwrap_or_else(|| policy.backoff.after(mark.deliveries));
        let visible_ms = now_ms.saturating_add(delay_ms.min(DELAY_MS_MAX));
        self.give_back(receipt.offset, mark, visible_ms, now_ms, policy);
        Ok(())
    }

    /// A consumer wants a record for so long from now on.
    pub(crate) fn extend(
        &mut self,
        receipt: Receipt,
        visibility_ms: u64,
        now_ms: u64,
    ) -> Result<(), Refused> {
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

    fn marks_of(&self, chunk: u64) -> impl Iterator<Item = (Offset, Mark)> {
        let end = chunk.saturating_add(1).saturating_mul(CHUNK);
        let marks = self.window.marks_from(Offset(chunk.saturating_mul(CHUNK)));
        marks.take_while(move |(at, _)| at.0 < end)
    }

    /// Records for the dead-letter topic, the oldest first.
    pub(crate) fn dying(&self) -> impl Iterator<Item = Offset> {
        self.dying.iter().copied()
    }

    /// A record lies in the dead-letter topic.
    pub(crate) fn bury(&mut self, at: Offset) -> Result<(), Refused> {
        match self.window.mark(at) {
            Some(mark) if mark.state == State::Dying => {
                self.leave(at, mark);
                self.window.settle(at);
                Ok(())
            }
            Some(_) => Err(Refused::Stale),
            None if self.window.is_settled(at) => Err(Refused::Settled),
            None => Err(Refused::NeverLeased),
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
            dying: self.dying.len() as u64,
        }
    }

    /// The oldest record that is not done with.
    pub(crate) fn start(&self) -> Offset {
        self.window.start()
    }

    /// The mark of a record that this receipt holds.
    fn held(&self, receipt: Receipt, now_ms: u64) -> Result<Mark, Refused> {
        let Receipt { offset, tag } = receipt;
        match self.window.mark(offset) {
            Some(mark) if mark.state == State::Leased && mark.tag != tag => Err(Refused::Stale),
            // The leader may not have taken note yet that the time is over.
            Some(mark) if mark.state == State::Leased && mark.until_ms > now_ms => Ok(mark),
            Some(_) => Err(Refused::NotLeased),
            None if self.window.is_settled(offset) => Err(Refused::Settled),
            None => Err(Refused::NeverLeased),
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
            State::Visible => drop(self.visible.insert(at)),
            State::Dying => drop(self.dying.insert(at)),
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
    #![allow(clippy::indexing_slicing, reason = "tests fail by panicking")]

    use std::collections::BTreeMap;

    use super::super::dice::Dice;
    use super::*;

    fn policy(deliveries_max: Option<u16>) -> Policy {
        Policy { deliveries_max, backoff: Backoff::Fixed(500) }
    }

    fn want(now_ms: u64, count_max: usize, end: u64) -> Want {
        Want { now_ms, end: Offset(end), count_max, visibility_ms: 30_000 }
    }

    fn offsets(leased: &[Leased]) -> Vec<u64> {
        leased.iter().map(|one| one.receipt.offset.0).collect()
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
        assert_eq!(backlog.ack(first[0].receipt, 10), Err(Refused::Settled));
        let counts = Counts { visible: 2, leased: 3, ..Counts::default() };
        assert_eq!(backlog.counts(Offset(12)), counts);
    }

    #[test]
    fn a_receipt_is_good_for_one_lease_and_its_time() {
        let mut backlog = Backlog::new(Offset(0));
        let all = policy(None);
        let old = backlog.lease(&want(0, 1, 9))[0];
        assert_eq!((old.deliveries, old.first_ms, old.until_ms), (1, 0, 30_000));
        assert_eq!(backlog.ack(old.receipt, 30_000), Err(Refused::NotLeased), "it is over");
        assert_eq!(backlog.extend(old.receipt, 1, 30_000), Err(Refused::NotLeased));
        backlog.pass_time(&[0], 29_999, &all);
        assert_eq!(backlog.counts(Offset(9)).leased, 1, "not a millisecond early");
        backlog.pass_time(&[0], 30_000, &all);
        assert_eq!(backlog.ack(old.receipt, 30_000), Err(Refused::NotLeased));
        let new = backlog.lease(&want(31_000, 1, 9))[0];
        assert_eq!((new.deliveries, new.first_ms, new.receipt.offset), (2, 0, Offset(0)));
        assert_eq!(backlog.ack(old.receipt, 31_000), Err(Refused::Stale));
        assert_eq!(backlog.extend(new.receipt, 60_000, 40_000), Ok(()));
        backlog.pass_time(&[0], 99_999, &all);
        assert_eq!(backlog.next_due(0), Some((Offset(0), 100_000)));
        assert_eq!(backlog.ack(new.receipt, 99_999), Ok(()));
        let forged = Receipt { offset: Offset(7), tag: 0 };
        assert_eq!(backlog.ack(forged, 0), Err(Refused::NeverLeased));
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
        assert!(backlog.dying().eq([Offset(0)]));
        assert!(backlog.lease(&want(9_999, 1, 1)).is_empty());
        assert_eq!(backlog.bury(Offset(0)), Ok(()));
        assert_eq!(backlog.bury(Offset(0)), Err(Refused::Settled));
        assert_eq!((backlog.start(), backlog.counts(Offset(1))), (Offset(1), Counts::default()));
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
        assert_eq!(backlog.ack(first[7].receipt, 2), Err(Refused::NeverLeased));
        let again = backlog.lease(&want(5, 2, 20));
        assert_eq!(offsets(&again), [3, 4]);
        assert_eq!(backlog.ack(first[3].receipt, 6), Err(Refused::Stale));
        assert!(backlog.peek(Offset(7)).eq([5, 6].map(Offset)));
        backlog.skip_to(Offset(18));
        assert_eq!(backlog.ack(again[0].receipt, 6), Err(Refused::Settled));
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
                    let (done, entry) = match random(3) {
                        0 => (backlog.ack(receipt, now_ms), Entry::Done),
                        1 => {
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
                    let dying: Vec<Offset> = backlog.dying().collect();
                    for at in dying {
                        assert_eq!(clerk.insert(at.0, Entry::Done), Some(Entry::Dying));
                        assert_eq!(backlog.bury(at), Ok(()));
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
                let (window, first, tag) = backlog.save();
                backlog = Backlog::restore(window, first, tag);
                clerk.retain(|at, _| *at >= open);
                receipts.retain(|receipt| receipt.offset.0 + 50 >= open);
            }
        }
        assert!(fresh > 10_000, "{fresh}");
    }
}
