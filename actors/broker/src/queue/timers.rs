//! When a leader looks again at the leases and delays of a backlog: one timer for many records.
//!
//! Owns: which chunks of the window have something that falls due, and about when. It is the
//! leader's own, in no checkpoint: what it says is only where to look, apply decides by the marks.
//! So two replicas that keep different timers come to the same state.
//! Must never: let what is due wait longer than [`GRID_MS`] and the work of a turn.
//! Invariants: for every chunk the times in the wheel are known, each once. Cost: 32 bytes per
//! chunk and time; what is settled early leaves its chunk's timer behind, one per 1,024 records.

use std::collections::BTreeMap;

use barrage_model::Offset;

use super::backlog::DUE_MAX;
use super::wheel::Wheel;
use super::window::CHUNK;

/// Leases end at most so much later than they may: records of a chunk share their timers.
const GRID_MS: u64 = 32;

/// See the module.
#[derive(Debug)]
pub(crate) struct Timers {
    now_ms: u64,
    wheel: Wheel,
    /// Times in the wheel by chunk, the earliest last.
    set: BTreeMap<u64, Vec<u64>>,
}

impl Timers {
    pub(crate) fn new(now_ms: u64) -> Self {
        Self { now_ms, wheel: Wheel::new(now_ms), set: BTreeMap::new() }
    }

    /// A record falls due at `until_ms`.
    pub(crate) fn note(&mut self, at: Offset, until_ms: u64) {
        let chunk = at.0 / CHUNK;
        let due_ms = until_ms.div_ceil(GRID_MS).saturating_mul(GRID_MS);
        let set = self.set.entry(chunk).or_default();
        // Where it is looked earlier, the time of the next look is known again then.
        if set.last().is_none_or(|earliest| due_ms < *earliest) {
            set.push(due_ms);
            self.wheel.insert(chunk, due_ms);
        }
    }

    /// Chunks to look at now, at most [`DUE_MAX`], ascending. Afterwards whatever is left in them
    /// is to be noted again.
    pub(crate) fn due(&mut self, now_ms: u64) -> Vec<u64> {
        // A clock that went back must not take a timer for one that is still to come.
        self.now_ms = self.now_ms.max(now_ms);
        let now_ms = self.now_ms;
        let mut due = Vec::new();
        let set = &mut self.set;
        self.wheel.advance(now_ms, DUE_MAX, |chunk| {
            let Some(times) = set.get_mut(&chunk) else { return };
            while times.pop_if(|time| *time <= now_ms).is_some() {}
            if times.is_empty() {
                set.remove(&chunk);
            }
            due.push(chunk);
        });
        due.sort_unstable();
        due.dedup();
        due
    }

    /// When it is worth looking again.
    pub(crate) fn next_ms(&self) -> Option<u64> {
        self.wheel.next_ms()
    }

    /// Timers kept.
    pub(crate) fn len(&self) -> usize {
        self.wheel.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_of_a_chunk_share_a_timer() {
        let mut timers = Timers::new(0);
        (0..2_048).for_each(|at| timers.note(Offset(at), 30_000));
        assert_eq!(timers.len(), 2);
        assert!(timers.due(29_999).is_empty());
        assert_eq!(timers.due(30_016), [0, 1]);
        assert_eq!((timers.len(), timers.next_ms()), (0, None));
    }

    /// A long lease beside short ones: its timer is there once, however often the chunk is visited.
    #[test]
    fn a_time_is_kept_once() {
        let mut timers = Timers::new(0);
        let late = 43_200_000;
        timers.note(Offset(7), late);
        for round in 0..1_000 {
            let soon = (round + 1) * 1_000;
            timers.note(Offset(8), soon);
            let due = timers.due(soon + GRID_MS);
            assert_eq!(due, [0], "round {round}");
            timers.note(Offset(7), late);
            assert_eq!(timers.len(), 1, "round {round}");
        }
        assert_eq!(timers.due(late), [0]);
    }
}
