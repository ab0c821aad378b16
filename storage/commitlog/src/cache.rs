//! Log bytes in memory: what was just written, and windows that were just read.
//!
//! Slices are refcounted, so what a reader holds outlives its place here. Bounded in bytes; the
//! oldest goes first. Tail and windows have separate budgets: a cold reader never evicts the tail.

use barrage_world::Slice;
use std::collections::{BTreeMap, VecDeque};

/// Part of the budget that belongs to windows read from disk.
const WINDOW_SHARE: usize = 4;

/// Cached log bytes by log position.
#[derive(Debug)]
pub(crate) struct Cache {
    tail: Pieces,
    /// The tail's budget while nothing is lent.
    tail_bytes_max: usize,
    windows: Pieces,
    pub(crate) hits: u64,
    pub(crate) misses: u64,
}

#[derive(Debug)]
struct Pieces {
    by_position: BTreeMap<u64, Slice>,
    order: VecDeque<u64>,
    bytes: usize,
    bytes_max: usize,
}

impl Cache {
    pub(crate) fn new(bytes_max: usize) -> Self {
        let windows = bytes_max / WINDOW_SHARE;
        Self {
            tail: Pieces::new(bytes_max - windows),
            tail_bytes_max: bytes_max - windows,
            windows: Pieces::new(windows),
            hits: 0,
            misses: 0,
        }
    }

    /// Gives up to `bytes_max` of the tail's budget, half of it at most, to whoever keeps the same
    /// records in another form; all of it comes back with 0. Answers how much.
    pub(crate) fn lend(&mut self, bytes_max: usize) -> usize {
        let lent = bytes_max.min(self.tail_bytes_max / 2);
        self.tail.bytes_max = self.tail_bytes_max - lent;
        self.tail.evict();
        lent
    }

    /// Keeps a group that is being written.
    pub(crate) fn wrote(&mut self, position: u64, bytes: Slice) {
        self.tail.insert(position, bytes);
    }

    /// Keeps a window that was read.
    pub(crate) fn read(&mut self, position: u64, bytes: Slice) {
        self.windows.insert(position, bytes);
    }

    /// The bytes `[position, position + len)` if they are here. The flag says whether they come
    /// from this process's own write (and need no check).
    pub(crate) fn find(&mut self, position: u64, len: usize) -> Option<(Slice, bool)> {
        if let Some(slice) = self.tail.find(position, len) {
            self.hits += 1;
            return Some((slice, true));
        }
        let found = self.windows.find(position, len);
        match found {
            Some(_) => self.hits += 1,
            None => self.misses += 1,
        }
        found.map(|slice| (slice, false))
    }

    /// As [`Self::find`] in what this process wrote, without a trace.
    pub(crate) fn peek_tail(&self, position: u64, len: usize) -> Option<Slice> {
        self.tail.find(position, len)
    }

    pub(crate) fn bytes(&self) -> usize {
        self.tail.bytes + self.windows.bytes
    }
}

impl Pieces {
    fn new(bytes_max: usize) -> Self {
        Self { by_position: BTreeMap::new(), order: VecDeque::new(), bytes: 0, bytes_max }
    }

    fn insert(&mut self, position: u64, bytes: Slice) {
        self.bytes += bytes.len();
        match self.by_position.insert(position, bytes) {
            Some(old) => self.bytes -= old.len(),
            None => self.order.push_back(position),
        }
        self.evict();
    }

    fn evict(&mut self) {
        while self.bytes > self.bytes_max {
            let Some(oldest) = self.order.pop_front() else { break };
            if let Some(old) = self.by_position.remove(&oldest) {
                self.bytes -= old.len();
            }
        }
    }

    fn find(&self, position: u64, len: usize) -> Option<Slice> {
        let (start, slice) = self.by_position.range(..=position).next_back()?;
        let skip = usize::try_from(position - start).ok()?;
        let end = skip.checked_add(len)?;
        (end <= slice.len()).then(|| slice.slice(skip..end))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_lent_is_missing_until_it_comes_back() {
        let mut cache = Cache::new(4000);
        let write = |cache: &mut Cache| {
            for n in 0..10u64 {
                cache.wrote(n * 1000, Slice::from(vec![n as u8; 1000]));
            }
            cache.bytes()
        };
        assert_eq!(write(&mut cache), 3000);
        assert_eq!(cache.lend(500), 500);
        assert_eq!(cache.bytes(), 2000);
        assert_eq!(cache.lend(usize::MAX), 1500);
        assert_eq!(write(&mut cache), 1000);
        assert_eq!(cache.lend(0), 0);
        assert_eq!(write(&mut cache), 3000);
    }

    #[test]
    fn bounded_and_exact() {
        let mut cache = Cache::new(4000);
        for n in 0..10u64 {
            cache.wrote(n * 1000, Slice::from(vec![n as u8; 1000]));
        }
        assert_eq!(cache.bytes(), 3000);
        assert!(cache.find(0, 1).is_none());
        let (slice, own) = cache.find(9500, 500).unwrap();
        assert!(own);
        assert_eq!(&slice[..], &[9u8; 500][..]);
        assert!(cache.find(9500, 501).is_none());
        cache.read(0, Slice::from(vec![7; 800]));
        assert_eq!(cache.find(10, 5).map(|(s, own)| (s.len(), own)), Some((5, false)));
        assert!(cache.find(9000, 1000).is_some(), "a window never evicts the tail");
    }
}
