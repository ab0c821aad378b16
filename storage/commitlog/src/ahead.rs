//! Zeros ahead of small writes, where the blocks of the active segment were never written.
//!
//! Space that is only reserved costs a small write dearly: the file system converts the blocks in
//! a work queue when the write is complete, and the next flush writes the inode as well (ext4: 260
//! beside 160 us for 4 KiB, and milliseconds when the core that takes the disk's interrupts is
//! busy; `perf/records`). A block of zeros costs that once for many. Large writes go into reserved
//! space as they are: zeros would double what the disk has to take.
//!
//! Owns: how far the blocks were written before, and which zeros come next. Must never: ask for
//! zeros where records lie, or are on their way.
//! Invariants: zeros begin behind all that was planned; one write of zeros is under way at a time,
//! and nothing is written behind its beginning until it has ended.

use crate::state::SMALL_WRITE_BYTES;
use std::ops::Range;

/// The first zeros behind a small write that found no written blocks.
const ZEROS_BYTES_MIN: u64 = 32 * 1024;
/// They double while small writes use them up. More at once would save little, and the flush beside
/// them would take longer: with 1 MiB the slowest of a hundred flushes took twice as long.
const ZEROS_BYTES_MAX: u64 = 128 * 1024;

/// How far a segment's file was written before. All are bytes in the file.
#[derive(Debug)]
pub(crate) struct Ahead {
    /// Every block before it was written once.
    written_to: u64,
    file_bytes: u64,
    next_bytes: u64,
    /// Zeros on their way.
    under_way: Option<Range<u64>>,
}

impl Ahead {
    /// A file of which the blocks before `written_to` were written once.
    pub(crate) fn new(written_to: u64, file_bytes: u64) -> Self {
        Self { written_to, file_bytes, next_bytes: ZEROS_BYTES_MIN, under_way: None }
    }

    /// Where what is written now must end, while zeros are under way.
    pub(crate) fn limit(&self) -> Option<u64> {
        self.under_way.as_ref().map(|zeros| zeros.start)
    }

    /// A write of this range begins. Answers where zeros are to be written beside it;
    /// [`Self::zeroed`] must follow when that is done.
    pub(crate) fn writes(&mut self, range: &Range<u64>) -> Option<Range<u64>> {
        assert!(
            self.limit().is_none_or(|limit| range.end <= limit),
            "zeros are on their way there"
        );
        if range.end > self.written_to {
            self.written_to = range.end;
            self.next_bytes = ZEROS_BYTES_MIN;
        }
        let is_small = range.end - range.start < SMALL_WRITE_BYTES;
        let is_short = self.written_to - range.end < self.next_bytes / 2;
        if !is_small || !is_short || self.under_way.is_some() {
            return None;
        }
        let end = self.file_bytes.min(self.written_to + self.next_bytes);
        let zeros = self.written_to..end;
        if zeros.is_empty() {
            return None;
        }
        self.written_to = end;
        self.next_bytes = ZEROS_BYTES_MAX.min(self.next_bytes * 2);
        self.under_way = Some(zeros.clone());
        Some(zeros)
    }

    /// The zeros that were under way are written, or could not be: nothing depends on them.
    pub(crate) fn zeroed(&mut self) {
        assert!(self.under_way.take().is_some(), "zeros were under way");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BLOCK: u64 = 4096;
    const FILE: u64 = 16 << 20;

    /// Writes blocks one by one from `at`, the zeros each time at once; gives what was zeroed.
    fn blocks(ahead: &mut Ahead, at: u64, count: u64) -> Vec<u64> {
        let mut zeroed = Vec::new();
        for number in 0..count {
            let start = at + number * BLOCK;
            if let Some(zeros) = ahead.writes(&(start..start + BLOCK)) {
                assert!(zeros.start >= start + BLOCK);
                assert_eq!(ahead.limit(), Some(zeros.start));
                ahead.zeroed();
                zeroed.push(zeros.end - zeros.start);
            }
        }
        zeroed
    }

    #[test]
    fn small_writes_find_zeros_that_double() {
        let mut ahead = Ahead::new(0, FILE);
        let kib: Vec<u64> =
            blocks(&mut ahead, BLOCK, 100).iter().map(|bytes| bytes / 1024).collect();
        assert_eq!(kib, [32, 64, 128, 128, 128]);
        // The first write alone went into blocks that were not written before.
        assert_eq!(ahead.written_to, 2 * BLOCK + (32 + 64 + 3 * 128) * 1024);
    }

    #[test]
    fn zeros_end_with_the_file_and_written_files_need_none() {
        let mut ahead = Ahead::new(FILE, FILE);
        assert_eq!(blocks(&mut ahead, 0, FILE / BLOCK), [0; 0]);
        let mut ahead = Ahead::new(0, FILE);
        let zeroed: u64 = blocks(&mut ahead, 0, FILE / BLOCK).iter().sum();
        assert_eq!(zeroed, FILE - BLOCK);
    }

    #[test]
    fn large_writes_ask_for_none_and_begin_the_doubling_anew() {
        let mut ahead = Ahead::new(0, FILE);
        assert_eq!(ahead.writes(&(0..SMALL_WRITE_BYTES)), None);
        assert_eq!(blocks(&mut ahead, SMALL_WRITE_BYTES, 15).len(), 3);
        let written = ahead.written_to;
        // Into the zeros: nothing changes.
        let start = SMALL_WRITE_BYTES + 15 * BLOCK;
        assert_eq!(ahead.writes(&(start..written)), None);
        assert_eq!(ahead.next_bytes, 4 * ZEROS_BYTES_MIN);
        assert_eq!(ahead.writes(&(written..written + SMALL_WRITE_BYTES)), None);
        let at = written + SMALL_WRITE_BYTES;
        assert_eq!(ahead.writes(&(at..at + BLOCK)), Some(at + BLOCK..at + BLOCK + ZEROS_BYTES_MIN));
    }

    #[test]
    fn one_write_of_zeros_at_a_time() {
        let mut ahead = Ahead::new(0, FILE);
        let first = ahead.writes(&(0..BLOCK)).unwrap();
        assert_eq!(ahead.limit(), Some(BLOCK));
        ahead.zeroed();
        assert_eq!(ahead.limit(), None);
        let low = first.end - BLOCK;
        let second = ahead.writes(&(BLOCK..low)).unwrap();
        assert_eq!(second.start, first.end);
        // While they are under way only what lies before them may be written.
        assert_eq!(ahead.writes(&(low..first.end)), None);
        assert_eq!(ahead.limit(), Some(first.end));
        ahead.zeroed();
    }

    #[test]
    #[should_panic(expected = "zeros are on their way there")]
    fn nothing_is_written_where_zeros_are_under_way() {
        let mut ahead = Ahead::new(0, FILE);
        ahead.writes(&(0..BLOCK)).unwrap();
        ahead.writes(&(BLOCK..2 * BLOCK));
    }
}
