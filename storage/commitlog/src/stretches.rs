//! What is the same for many indexes of the log in a row: a term, the segment they lie in. One
//! item where it changes.
//!
//! Invariant: starts rise, and neighbours differ.

use std::collections::VecDeque;

/// A value for each index of a range, held once for each stretch of equal ones.
#[derive(Debug)]
pub(crate) struct Stretches<T> {
    items: VecDeque<(u64, T)>,
}

impl<T> Default for Stretches<T> {
    fn default() -> Self {
        Self { items: VecDeque::new() }
    }
}

impl<T: Copy + PartialEq> Stretches<T> {
    /// From `index` on, behind all others, it is `value`.
    pub(crate) fn push(&mut self, index: u64, value: T) {
        let last = self.items.back();
        assert!(last.is_none_or(|(start, _)| *start <= index), "indexes are told in order");
        if last.is_none_or(|(_, last)| *last != value) {
            self.items.push_back((index, value));
        }
    }

    /// The value at `index`; that of the last stretch behind the end.
    pub(crate) fn at(&self, index: u64) -> Option<T> {
        let count = self.items.partition_point(|(start, _)| *start <= index);
        self.items.get(count.checked_sub(1)?).map(|(_, value)| *value)
    }

    /// Removes what was told of `end` and behind it.
    pub(crate) fn truncate(&mut self, end: u64) {
        while self.items.back().is_some_and(|(start, _)| *start >= end) {
            self.items.pop_back();
        }
    }

    /// Removes what was told of indexes before `begin`.
    pub(crate) fn begin_at(&mut self, begin: u64) {
        while self.items.get(1).is_some_and(|(start, _)| *start <= begin) {
            self.items.pop_front();
        }
        if let Some((start, _)) = self.items.front_mut() {
            *start = (*start).max(begin);
        }
    }

    /// Starts and values, oldest first.
    pub(crate) fn iter(&self) -> impl DoubleEndedIterator<Item = (u64, T)> {
        self.items.iter().copied()
    }

    pub(crate) fn clear(&mut self) {
        self.items.clear();
    }

    pub(crate) fn count(&self) -> usize {
        self.items.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_for_each_index() {
        let mut stretches = Stretches::default();
        for (index, value) in [(3, 'a'), (4, 'a'), (5, 'b'), (9, 'c')] {
            stretches.push(index, value);
        }
        assert_eq!(stretches.iter().collect::<Vec<_>>(), [(3, 'a'), (5, 'b'), (9, 'c')]);
        for (index, value) in [(2, None), (3, Some('a')), (4, Some('a')), (8, Some('b'))] {
            assert_eq!(stretches.at(index), value, "{index}");
        }
        stretches.begin_at(6);
        assert_eq!(stretches.iter().collect::<Vec<_>>(), [(6, 'b'), (9, 'c')]);
        stretches.truncate(9);
        assert_eq!(stretches.at(100), Some('b'));
        stretches.truncate(6);
        assert_eq!(stretches.count(), 0);
    }
}
