//! The delayed records of one partition: each waits until it is due, is let into the partition, and
//! gets its offset only then.
//!
//! ```text
//!   stored --> waits until its time --due--> released: a record of the partition like any other
//!                |   ^  |
//!                +---+  +--> cancelled
//!             rescheduled
//! ```
//!
//! A record is named by its position among the delayed ones, from when it is stored on. Its time is
//! an instant of the clock of whoever leads then, not of the lease clock: a node that stands still
//! for an hour lets it out an hour late, not two. Apply goes by what that clock
//! said, as the command tells: the log's own may be hours ahead, and whoever was moved meanwhile
//! would come at the old time.
//!
//! Owns: who waits, and until when: 32 bytes each. Must never: let a record out early, or twice.
//! Invariants: the cost of a command is that of the records it names; a clone shares chunks.

use std::ops::Range;

use barrage_model::Offset;
use barrage_world::planted;

use super::backlog::DUE_MAX;
use super::window::{CHUNK, Mark, SavedChunk, State, Window};
use crate::api::delay::DelayError;

/// Delayed records of one partition, at most.
pub(crate) const DELAYED_MAX: u64 = 10_000_000;

/// See the module.
#[derive(Clone, Debug)]
pub(crate) struct Delays {
    window: Window,
    // What follows is derived.
    waiting: u64,
    /// What waits for another time since it was asked for: where a leader's timers are to look.
    noted: Vec<(Offset, u64)>,
}

impl Delays {
    /// Nothing waits; the next one is `start`.
    pub(crate) fn new(start: Offset) -> Self {
        Self { window: Window::new(start), waiting: 0, noted: Vec::new() }
    }

    /// The next of its chunks, when it is put together again from a checkpoint, unless none was
    /// ever there.
    pub(crate) fn restore(&mut self, chunk: SavedChunk, end: Offset) -> Option<()> {
        let is_delayed = |(_, mark): &(u16, Mark)| mark.state == State::Delayed;
        if !chunk.marks.iter().all(is_delayed) {
            return None;
        }
        self.waiting += chunk.marks.len() as u64;
        self.window.push(chunk)?;
        (self.window.end() <= end && self.waiting <= DELAYED_MAX * 2).then_some(())
    }

    /// What a checkpoint keeps. Cheap: it shares chunks.
    pub(crate) fn save(&self) -> Window {
        self.window.clone()
    }

    /// Records were stored, the first of them as `first`; each waits until its time.
    pub(crate) fn wait(&mut self, first: Offset, dues_ms: &[u64]) {
        for (at, due_ms) in (first.0..).zip(dues_ms) {
            self.set(Offset(at), *due_ms);
        }
        self.waiting += dues_ms.len() as u64;
    }

    fn set(&mut self, at: Offset, due_ms: u64) {
        let mark =
            Mark { state: State::Delayed, deliveries: 0, tag: 0, first_ms: 0, until_ms: due_ms };
        self.window.set_mark(at, mark);
        self.noted.push((at, due_ms));
    }

    /// Whether all of these wait and are due; ascending.
    pub(crate) fn may_release(&self, ids: &[Offset], now_ms: u64) -> bool {
        let ascend = ids.iter().zip(ids.iter().skip(1)).all(|(one, other)| one < other);
        // Wrong when planted: with the leader, who proposes them then, they come a second early.
        let early_ms = if planted("broker-delayed-record-early") { 1_000 } else { 0 };
        let now_ms = now_ms.saturating_add(early_ms);
        ascend && ids.iter().all(|id| self.due_ms(*id).is_some_and(|due_ms| due_ms <= now_ms))
    }

    /// They are in the partition now.
    pub(crate) fn release(&mut self, ids: &[Offset]) {
        // Wrong when planted: the next leader lets them in once more.
        if planted("broker-released-record-still-waits") {
            return;
        }
        ids.iter().for_each(|id| self.end(*id));
    }

    fn end(&mut self, id: Offset) {
        self.window.settle(id);
        self.waiting -= 1;
    }

    /// Nobody is to have a record.
    pub(crate) fn cancel(&mut self, id: Offset) -> Result<(), DelayError> {
        self.find(id)?;
        // Wrong when planted: who was told that it is cancelled finds that it comes.
        if !planted("broker-cancelled-record-waits") {
            self.end(id);
        }
        Ok(())
    }

    /// A record waits until another time.
    pub(crate) fn reschedule(&mut self, id: Offset, due_ms: u64) -> Result<(), DelayError> {
        self.find(id)?;
        // Wrong when planted: the time it had before stays.
        if !planted("broker-delay-not-moved") {
            self.set(id, due_ms);
        }
        Ok(())
    }

    fn find(&self, id: Offset) -> Result<(), DelayError> {
        match self.due_ms(id) {
            Some(_) => Ok(()),
            None if self.window.is_settled(id) => Err(DelayError::Gone),
            None => Err(DelayError::Unknown),
        }
    }

    /// Until when a record waits, if it does.
    pub(crate) fn due_ms(&self, id: Offset) -> Option<u64> {
        self.window.mark(id).map(|mark| mark.until_ms)
    }

    /// How many of these wait.
    pub(crate) fn waiting_in(&self, range: Range<Offset>) -> u64 {
        self.window.marked_in(range)
    }

    /// The oldest record that waits, or where the next one goes if none does.
    pub(crate) fn start(&self) -> Offset {
        self.window.start()
    }

    /// How many wait.
    pub(crate) fn waiting(&self) -> u64 {
        self.waiting
    }

    /// The records from `from` on that wait, and until when.
    pub(crate) fn from(&self, from: Offset) -> impl Iterator<Item = (Offset, u64)> {
        self.window.marks_from(from).map(|(at, mark)| (at, mark.until_ms))
    }

    /// Those that wait for another time since this was asked, and that time.
    pub(crate) fn noted(&mut self) -> Vec<(Offset, u64)> {
        std::mem::take(&mut self.noted)
    }

    /// The times of all that wait in some chunks, from `chunk` on; and where to go on.
    pub(crate) fn dues_from(&self, chunk: u64) -> (Vec<(Offset, u64)>, Option<u64>) {
        let mut numbers = self.window.numbers_from(chunk);
        let some = numbers.by_ref().take(DUE_MAX).last();
        let end = some.map_or(0, |last| (last + 1).saturating_mul(CHUNK));
        let dues = self.from(Offset(chunk * CHUNK)).take_while(|(at, _)| at.0 < end);
        (dues.collect(), numbers.next())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ids(all: &[u64]) -> Vec<Offset> {
        all.iter().copied().map(Offset).collect()
    }

    #[test]
    fn the_life_of_delayed_records() {
        let mut delays = Delays::new(Offset(0));
        delays.wait(Offset(0), &[50, 10, 30]);
        assert_eq!(delays.noted(), [(Offset(0), 50), (Offset(1), 10), (Offset(2), 30)]);
        assert!(!delays.may_release(&ids(&[1]), 9), "early");
        assert!(!delays.may_release(&ids(&[2, 1]), 30), "out of order");
        assert!(!delays.may_release(&ids(&[1, 1]), 30), "twice");
        assert!(!delays.may_release(&ids(&[0, 1]), 30), "one is early");
        assert!(delays.may_release(&ids(&[1, 2]), 30));
        delays.release(&ids(&[1, 2]));
        assert!(!delays.may_release(&ids(&[1]), 99), "again");
        assert_eq!((delays.waiting(), delays.start()), (1, Offset(0)));
        let waiting_in = |start, end| delays.waiting_in(Offset(start)..Offset(end));
        assert_eq!((waiting_in(0, 3), waiting_in(0, 1), waiting_in(1, 3)), (1, 1, 0));

        assert_eq!(delays.cancel(Offset(1)), Err(DelayError::Gone));
        assert_eq!(delays.cancel(Offset(3)), Err(DelayError::Unknown));
        assert_eq!(delays.reschedule(Offset(2), 9), Err(DelayError::Gone));
        assert_eq!(delays.reschedule(Offset(0), 90), Ok(()));
        assert_eq!(delays.noted(), [(Offset(0), 90)]);
        assert!(!delays.may_release(&ids(&[0]), 89));
        assert_eq!(delays.cancel(Offset(0)), Ok(()));
        assert_eq!(delays.cancel(Offset(0)), Err(DelayError::Gone));
        assert_eq!((delays.waiting(), delays.start()), (0, Offset(3)));
        delays.wait(Offset(3), &[7]);
        assert_eq!(delays.due_ms(Offset(3)), Some(7));
    }

    #[test]
    fn a_new_leader_is_told_all_times_in_slices() {
        let mut delays = Delays::new(Offset(0));
        let dues: Vec<u64> = (0..200_000).map(|at| at * 7 % 1_000).collect();
        delays.wait(Offset(0), &dues);
        (0..200_000).step_by(3).for_each(|at| delays.end(Offset(at)));
        let (mut from, mut told, mut slices) = (Some(0), Vec::new(), 0);
        while let Some(chunk) = from {
            let (dues, next) = delays.dues_from(chunk);
            assert!(dues.len() <= DUE_MAX * CHUNK as usize);
            told.extend(dues);
            (from, slices) = (next, slices + 1);
        }
        assert_eq!(told.len() as u64, delays.waiting());
        assert!(told.iter().all(|(at, due_ms)| delays.due_ms(*at) == Some(*due_ms)));
        assert!(slices > 2, "{slices}");
    }
}
