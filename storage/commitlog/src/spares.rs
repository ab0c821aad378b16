//! Spare segment files: what the next segments are made of.
//!
//! A file whose blocks were written before costs half of a fresh one: the file system only has to
//! overwrite (`perf/records`). So segments that retention lets go become the next ones, as many as
//! the log has lately used; after a quiet minute only those are left that are always kept ready.
//!
//! Owns: which files there are, which one goes first and how many stay. Must never: touch a file.
//! Invariants: a file is in here once; at most [`SPARES_MAX`] stay, or as many as are asked for.

use barrage_world::Instant;
use std::collections::VecDeque;
use std::path::PathBuf;
use std::time::Duration;

/// Used segments kept for later ones, at most: what a burst takes between two looks at retention.
const SPARES_MAX: usize = 16;
/// A segment that was begun longer ago does not count as lately used.
const USED_FOR: Duration = Duration::from_secs(60);

/// The spares of one log.
#[derive(Debug, Default)]
pub(crate) struct Spares {
    /// Written before, every block: the fast ones. The last one that came goes first.
    used: Vec<PathBuf>,
    /// Reserved, and zeroed as far as there was time.
    fresh: Vec<PathBuf>,
    /// When the newest segments were begun, [`SPARES_MAX`] at most.
    begun: VecDeque<Instant>,
}

impl Spares {
    pub(crate) fn len(&self) -> usize {
        self.used.len() + self.fresh.len()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// A file for a segment that begins now.
    pub(crate) fn take(&mut self, now: Instant) -> Option<PathBuf> {
        self.begun.push_back(now);
        if self.begun.len() > SPARES_MAX {
            self.begun.pop_front();
        }
        self.take_any()
    }

    /// A file for whatever else needs one.
    pub(crate) fn take_any(&mut self) -> Option<PathBuf> {
        self.used.pop().or_else(|| self.fresh.pop())
    }

    /// Keeps a file whose blocks all were written once.
    pub(crate) fn put_used(&mut self, path: PathBuf) {
        self.used.push(path);
    }

    /// Keeps a file that was made for this.
    pub(crate) fn put_fresh(&mut self, path: PathBuf) {
        self.fresh.push(path);
    }

    /// Whether one more is welcome: there are not more than `ready`, or than were begun in the last
    /// minute. So a used one finds room beside fresh ones.
    pub(crate) fn has_room(&self, ready: usize, now: Instant) -> bool {
        self.len() <= self.wanted(ready, now)
    }

    fn wanted(&self, ready: usize, now: Instant) -> usize {
        let lately = |begun: &&Instant| now.saturating_duration_since(**begun) < USED_FOR;
        ready.max(self.begun.iter().filter(lately).count())
    }

    /// One that need not be kept any more.
    pub(crate) fn surplus(&mut self, ready: usize, now: Instant) -> Option<PathBuf> {
        let is_surplus = self.len() > self.wanted(ready, now) + 1;
        // The fast ones stay.
        is_surplus.then(|| self.fresh.pop().or_else(|| self.used.pop())).flatten()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn path(number: usize) -> PathBuf {
        PathBuf::from(format!("pool-{number}"))
    }

    #[test]
    fn what_was_written_goes_first_and_stays_last() {
        let now = Instant::default();
        let mut spares = Spares::default();
        spares.put_used(path(1));
        spares.put_fresh(path(2));
        spares.put_used(path(3));
        assert_eq!(spares.len(), 3);
        assert!(!spares.has_room(2, now));
        assert!(spares.has_room(3, now));
        assert_eq!(spares.surplus(2, now), None);
        assert_eq!(spares.surplus(1, now), Some(path(2)));
        assert_eq!(spares.surplus(1, now), None);
        spares.put_fresh(path(4));
        assert_eq!(spares.take(now), Some(path(3)));
        assert_eq!(spares.take(now), Some(path(1)));
        assert_eq!(spares.take(now), Some(path(4)));
        assert_eq!(spares.take(now), None);
        assert!(spares.is_empty());
    }

    #[test]
    fn as_many_are_kept_as_the_last_minute_used() {
        let start = Instant::default();
        let mut spares = Spares::default();
        assert_eq!(spares.wanted(2, start), 2);
        for _ in 0..5 {
            spares.take(start);
        }
        let second = start + USED_FOR / 2;
        for _ in 0..4 {
            spares.take(second);
        }
        assert_eq!(spares.wanted(2, second), 9);
        assert_eq!(spares.wanted(20, second), 20);
        assert_eq!(spares.wanted(2, start + USED_FOR), 4);
        assert_eq!(spares.wanted(2, second + USED_FOR), 2);
        for _ in 0..100 {
            spares.take(second);
        }
        assert_eq!(spares.wanted(2, second), SPARES_MAX);
        for number in 0..5 {
            spares.put_used(path(number));
        }
        assert_eq!(spares.surplus(2, second), None);
        assert_eq!(spares.surplus(2, second + USED_FOR), Some(path(4)));
    }
}
