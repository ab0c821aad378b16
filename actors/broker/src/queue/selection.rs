//! What a group wants of the records ahead of it: those that were looked at, and which of them.
//!
//! ```text
//!   from                                           end
//!    |  not wanted  | wanted | not wanted | wanted  |  not looked at
//! ```
//!
//! Pure. The leader finds it out, and the log carries it: apply leases and settles by these ranges
//! and never opens a batch.
//!
//! Owns: the ranges and their bounds. Must never: hold a range outside of what was looked at.
//! Invariants: wanted ranges are ascending, not empty, and something that is not wanted lies
//! between two of them.

use std::collections::VecDeque;
use std::ops::Range;

use barrage_model::Offset;

/// Records of one selection, at most: apply settles them in one turn.
pub(crate) const RECORDS_MAX: u64 = 64 * 1024;
/// Wanted ranges of one selection, at most: 12 KiB of an entry.
pub(crate) const RANGES_MAX: usize = 1_000;

/// See the module.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Selection {
    from: Offset,
    end: Offset,
    wanted: VecDeque<Range<Offset>>,
}

impl Selection {
    /// Nothing was looked at yet; `from` is the next record.
    pub(crate) fn empty(from: Offset) -> Self {
        Self { from, end: from, wanted: VecDeque::new() }
    }

    /// The selection of these ranges, unless nobody can have found it.
    pub(crate) fn restore(
        (from, end): (Offset, Offset),
        wanted: impl Iterator<Item = Range<Offset>>,
    ) -> Option<Self> {
        let mut selection = Self::empty(from);
        for range in wanted {
            let gap = range.start.0.checked_sub(selection.end.0)?;
            let is_first = selection.wanted.is_empty();
            if range.is_empty() || (gap == 0 && !is_first) || range.end > end {
                return None;
            }
            selection.end = range.end;
            selection.wanted.push_back(range);
        }
        let count = end.0.checked_sub(from.0)?;
        let fits = count <= RECORDS_MAX && selection.wanted.len() <= RANGES_MAX;
        (fits && selection.end <= end).then_some(Self { end, ..selection })
    }

    /// The first record that was looked at.
    pub(crate) fn from(&self) -> Offset {
        self.from
    }

    /// The first record that was not looked at.
    pub(crate) fn end(&self) -> Offset {
        self.end
    }

    /// The ranges that are wanted.
    pub(crate) fn wanted(&self) -> impl ExactSizeIterator<Item = &Range<Offset>> {
        self.wanted.iter()
    }

    /// Records that were looked at.
    pub(crate) fn count(&self) -> u64 {
        self.end.0 - self.from.0
    }

    /// Records that are wanted.
    pub(crate) fn wanted_count(&self) -> u64 {
        self.wanted.iter().map(|range| range.end.0 - range.start.0).sum()
    }

    /// Whether the first record is wanted.
    pub(crate) fn begins_wanted(&self) -> bool {
        self.wanted.front().is_some_and(|range| range.start == self.from)
    }

    /// Whether no further record may be looked at.
    pub(crate) fn is_full(&self) -> bool {
        self.count() >= RECORDS_MAX || self.wanted.len() >= RANGES_MAX
    }

    /// The next `count` records, as many as there is room for, are not wanted.
    pub(crate) fn pass(&mut self, count: u64) {
        let room = if self.is_full() { 0 } else { RECORDS_MAX - self.count() };
        self.end = Offset(self.end.0.saturating_add(count.min(room)));
    }

    /// The next `count` records, as many as there is room for, are wanted.
    pub(crate) fn want(&mut self, count: u64) {
        let start = self.end;
        self.pass(count);
        if self.end == start {
            return;
        }
        match self.wanted.back_mut() {
            Some(last) if last.end == start => last.end = self.end,
            _ => self.wanted.push_back(start..self.end),
        }
    }

    /// Takes the front off: so many wanted records at most, none of them at `to` or behind it, and
    /// what is not wanted around them.
    pub(crate) fn take(&mut self, count_max: u64, to: Offset) -> Self {
        let mut taken = Self::empty(self.from);
        let mut left = count_max;
        while let Some(range) = self.wanted.front_mut().filter(|it| left > 0 && it.start < to) {
            let end = Offset(range.end.min(to).0.min(range.start.0.saturating_add(left)));
            left -= end.0 - range.start.0;
            taken.wanted.push_back(range.start..end);
            range.start = end;
            if range.is_empty() {
                self.wanted.pop_front();
            }
        }
        taken.end = self.wanted.front().map_or(self.end, |range| range.start);
        self.from = taken.end;
        taken
    }

    /// Puts back what [`Self::take`] has just taken.
    pub(crate) fn put_back(&mut self, taken: Self) {
        assert_eq!(taken.end, self.from, "it was taken off the front");
        self.from = taken.from;
        for range in taken.wanted.into_iter().rev() {
            match self.wanted.front_mut() {
                Some(first) if first.start == range.end => first.start = range.start,
                _ => self.wanted.push_front(range),
            }
        }
    }

    /// Forgets the records before `at`.
    pub(crate) fn cut_before(&mut self, at: Offset) {
        if at >= self.end {
            *self = Self::empty(at);
            return;
        }
        self.from = self.from.max(at);
        while let Some(range) = self.wanted.front_mut().filter(|range| range.start < at) {
            range.start = at;
            if range.end <= at {
                self.wanted.pop_front();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests fail by panicking")]

    use super::super::dice::Dice;
    use super::*;

    fn selection(from: u64, runs: &[(u64, bool)]) -> Selection {
        let mut selection = Selection::empty(Offset(from));
        runs.iter().for_each(|(count, is_wanted)| push(&mut selection, *count, *is_wanted));
        selection
    }

    fn push(selection: &mut Selection, count: u64, is_wanted: bool) {
        match is_wanted {
            true => selection.want(count),
            false => selection.pass(count),
        }
    }

    fn ranges(selection: &Selection) -> Vec<(u64, u64)> {
        selection.wanted().map(|range| (range.start.0, range.end.0)).collect()
    }

    #[test]
    fn what_is_looked_at_grows_together() {
        let found = selection(5, &[(2, false), (1, true), (3, true), (1, false), (2, true)]);
        assert_eq!((found.from(), found.end(), found.count()), (Offset(5), Offset(14), 9));
        assert_eq!((ranges(&found), found.wanted_count()), (vec![(7, 11), (12, 14)], 6));
        assert!(!found.begins_wanted() && !found.is_full());
        assert!(selection(5, &[(1, true)]).begins_wanted());
    }

    #[test]
    fn the_front_is_taken_and_put_back() {
        let whole = selection(0, &[(3, false), (4, true), (2, false), (1, true), (5, false)]);
        for (count_max, to, end, want) in [
            (0, 99, 3, vec![]),
            (1, 99, 4, vec![(3, 4)]),
            (4, 99, 9, vec![(3, 7)]),
            (5, 99, 15, vec![(3, 7), (9, 10)]),
            (99, 99, 15, vec![(3, 7), (9, 10)]),
            (99, 3, 3, vec![]),
            (99, 5, 5, vec![(3, 5)]),
            (1, 5, 4, vec![(3, 4)]),
            (99, 9, 9, vec![(3, 7)]),
        ] {
            let mut rest = whole.clone();
            let taken = rest.take(count_max, Offset(to));
            assert_eq!((taken.end(), ranges(&taken)), (Offset(end), want), "{count_max}");
            assert_eq!((rest.from(), rest.end()), (Offset(end), Offset(15)));
            rest.put_back(taken);
            assert_eq!(rest, whole, "{count_max}");
        }
    }

    #[test]
    fn what_is_behind_is_forgotten() {
        let whole = selection(0, &[(2, true), (2, false), (4, true)]);
        for (at, from, want) in [
            (0, 0, vec![(0, 2), (4, 8)]),
            (1, 1, vec![(1, 2), (4, 8)]),
            (3, 3, vec![(4, 8)]),
            (6, 6, vec![(6, 8)]),
            (8, 8, vec![]),
            (20, 20, vec![]),
        ] {
            let mut cut = whole.clone();
            cut.cut_before(Offset(at));
            assert_eq!((cut.from(), ranges(&cut)), (Offset(from), want), "{at}");
        }
    }

    #[test]
    fn it_is_bounded() {
        let many = selection(0, &[(u64::MAX, false)]);
        assert_eq!((many.count(), many.is_full()), (RECORDS_MAX, true));
        let mut scattered = Selection::empty(Offset(0));
        for _ in 0..RANGES_MAX + 5 {
            scattered.pass(1);
            scattered.want(1);
        }
        assert_eq!((scattered.wanted().len(), scattered.is_full()), (RANGES_MAX, true));
    }

    #[test]
    fn what_nobody_can_have_found_is_refused() {
        let restore = |from, end, wanted: &[(u64, u64)]| {
            let ranges = wanted.iter().map(|(start, end)| Offset(*start)..Offset(*end));
            Selection::restore((Offset(from), Offset(end)), ranges)
        };
        type Case<'a> = (u64, u64, &'a [(u64, u64)]);
        let sound: [Case<'_>; 4] =
            [(3, 3, &[]), (3, 9, &[]), (3, 9, &[(3, 9)]), (3, 9, &[(3, 4), (5, 8)])];
        for (from, end, wanted) in sound {
            assert_eq!(ranges(&restore(from, end, wanted).unwrap()), wanted);
        }
        let unsound: [Case<'_>; 9] = [
            (3, 2, &[]),
            (3, 9, &[(2, 4)]),
            (3, 9, &[(8, 10)]),
            (3, 9, &[(5, 5)]),
            (3, 9, &[(6, 5)]),
            (3, 9, &[(3, 4), (4, 5)]),
            (3, 9, &[(5, 6), (3, 4)]),
            (0, RECORDS_MAX + 1, &[]),
            (u64::MAX, 0, &[]),
        ];
        for (from, end, wanted) in unsound {
            assert_eq!(restore(from, end, wanted), None, "{from} {end} {wanted:?}");
        }
        let many: Vec<_> = (0..=RANGES_MAX as u64).map(|at| (at * 2, at * 2 + 1)).collect();
        assert_eq!(restore(0, 9_999, &many), None);
    }

    /// Beside a list of what each record is.
    #[test]
    fn it_does_what_a_list_does() {
        let mut dice = Dice::new(12);
        let mut random = |below| dice.below(below);
        let (mut selection, mut list) = (Selection::empty(Offset(0)), VecDeque::new());
        for _ in 0..20_000 {
            match random(8) {
                0..=4 => {
                    let (count, is_wanted) = (random(5), random(2) == 0);
                    if !selection.is_full() {
                        push(&mut selection, count, is_wanted);
                        list.extend((0..count).map(|_| is_wanted));
                    }
                }
                5 => {
                    let at = Offset(selection.from().0 + random(4));
                    let passed = (at.0 - selection.from().0).min(list.len() as u64);
                    list.drain(..passed as usize);
                    selection.cut_before(at);
                }
                _ => {
                    let count_max = random(6);
                    let taken = selection.take(count_max, Offset(u64::MAX));
                    assert!(taken.wanted_count() <= count_max);
                    let front: Vec<bool> = list.drain(..taken.count() as usize).collect();
                    for (at, is_wanted) in (taken.from().0..).zip(front) {
                        let is_in = taken.wanted().any(|range| range.contains(&Offset(at)));
                        assert_eq!(is_in, is_wanted, "{at} of {taken:?}");
                    }
                    let wanted = taken.wanted().cloned();
                    let restored = Selection::restore((taken.from(), taken.end()), wanted);
                    assert_eq!(restored, Some(taken));
                }
            }
            assert_eq!(selection.count(), list.len() as u64);
            let wanted = list.iter().filter(|is_wanted| **is_wanted).count() as u64;
            assert_eq!(selection.wanted_count(), wanted);
        }
    }
}
