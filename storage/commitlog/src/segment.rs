//! One open segment file, and where log positions lie in it.

use crate::ahead::Ahead;
use crate::error::{Damage, ReadError};
use crate::format::index::Held;
use crate::format::segment::{DATA_START, Header};
use crate::format::{FormatError, round_up_to_block};
use barrage_world::{File, Slice};
use std::cell::{Cell, RefCell};
use std::path::{Path, PathBuf};

/// Ending of a segment file's name; the name is the segment number.
const SUFFIX: &str = ".log";

/// An open segment.
#[derive(Debug)]
pub(crate) struct Segment {
    pub(crate) header: Header,
    pub(crate) path: PathBuf,
    pub(crate) file: File,
    /// Position after the last group; none while the segment is active.
    end: Cell<Option<u64>>,
    /// Index after the last entry that lies here; 0 while there is none.
    next_index: Cell<u64>,
    /// Smallest index of an entry that lies here; the largest number while there is none.
    low_index: Cell<u64>,
    /// Index after the last entry here that no record behind it has cut off.
    kept_index: Cell<u64>,
    /// Entries that were put here, those that were cut off among them.
    entry_count: Cell<u64>,
    /// Where the table in the index file lies, once that is durable.
    table: Cell<Option<TablePlace>>,
    /// How often the index file was written again.
    mended: Cell<u64>,
    /// How far the file was written before; of use while the segment is active.
    pub(crate) ahead: RefCell<Ahead>,
}

/// Where an index file has its entry table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct TablePlace {
    /// Byte in the file.
    pub(crate) start: u64,
    /// The first entry in it.
    pub(crate) first: u64,
    /// Entries in it.
    pub(crate) count: u32,
}

impl Segment {
    pub(crate) fn new(header: Header, path: PathBuf, file: File) -> Self {
        Self {
            header,
            path,
            file,
            end: Cell::new(None),
            next_index: Cell::new(0),
            low_index: Cell::new(u64::MAX),
            kept_index: Cell::new(0),
            entry_count: Cell::new(0),
            table: Cell::new(None),
            mended: Cell::new(0),
            ahead: RefCell::new(Ahead::new(0, header.file_bytes)),
        }
    }

    /// The file's blocks before byte `written_to` were written before.
    pub(crate) fn on_written_blocks(self, written_to: u64) -> Self {
        let ahead = RefCell::new(Ahead::new(written_to, self.header.file_bytes));
        Self { ahead, ..self }
    }

    pub(crate) fn number(&self) -> u64 {
        self.header.number
    }

    /// What tells it from any other, and from what it was before it was rewritten: number, salt.
    pub(crate) fn identity(&self) -> (u64, u64) {
        (self.header.number, self.header.salt)
    }

    /// Where the part of the log that is here begins: the position of the first group, unless the
    /// segment was rewritten.
    pub(crate) fn log_start(&self) -> u64 {
        self.header.original.map_or(self.header.position, |original| original.start)
    }

    /// Where the next segment begins; none while this one is active.
    pub(crate) fn log_end(&self) -> Option<u64> {
        let end = self.end()?;
        Some(self.header.original.map_or(end, |original| original.end))
    }

    /// Position after the last byte the file can hold.
    pub(crate) fn capacity_end(&self) -> u64 {
        self.header.position + (self.header.file_bytes - DATA_START)
    }

    /// Where a position lies in the file.
    pub(crate) fn file_position(&self, position: u64) -> u64 {
        assert!(position >= self.header.position, "position lies before the segment");
        assert!(position <= self.capacity_end(), "position lies behind the segment");
        DATA_START + (position - self.header.position)
    }

    /// Which position lies at a byte of the file.
    pub(crate) fn log_position(&self, at: u64) -> u64 {
        assert!(at >= DATA_START, "the header is no part of the log");
        self.header.position + (at - DATA_START)
    }

    /// Where the segment ends because `next` begins there.
    pub(crate) fn limit(&self, next: &Self) -> Result<u64, Damage> {
        let limit = next.log_start();
        match self.header.original {
            None if (self.header.position..=self.capacity_end()).contains(&limit) => {
                return Ok(limit);
            }
            // It was written whole, and fills its file.
            Some(original) if original.end == limit => return Ok(self.capacity_end()),
            _ => {}
        }
        let reason = format!("segment {} begins at log position {limit}", next.number());
        Err(self.damage(self.header.position, reason))
    }

    pub(crate) fn end(&self) -> Option<u64> {
        self.end.get()
    }

    pub(crate) fn seal(&self, end: u64) {
        self.end.set(Some(end));
    }

    pub(crate) fn next_index(&self) -> u64 {
        self.next_index.get()
    }

    /// The entry at `index` lies here, behind the others.
    pub(crate) fn holds(&self, index: u64) {
        self.next_index.set(index + 1);
        self.kept_index.set(index + 1);
        self.low_index.set(self.low_index.get().min(index));
        self.entry_count.set(self.entry_count.get() + 1);
    }

    /// As the index file says.
    pub(crate) fn holds_as_indexed(&self, held: Held) {
        self.next_index.set(held.next);
        self.kept_index.set(held.kept);
        self.low_index.set(if held.next == 0 { u64::MAX } else { held.low });
    }

    /// A record behind all that lies here cuts off the entries from `next` on.
    pub(crate) fn cut(&self, next: u64) {
        self.kept_index.set(self.kept_index.get().min(next));
    }

    /// Nothing is known of the entries here.
    pub(crate) fn forget_entries(&self) {
        self.holds_as_indexed(Held { low: 0, next: 0, kept: 0 });
        self.entry_count.set(0);
        self.table.set(None);
    }

    /// What the index file says of the entries here.
    pub(crate) fn held(&self) -> Held {
        let low = if self.next_index() == 0 { 0 } else { self.low_index() };
        Held { low, next: self.next_index(), kept: self.kept_index.get() }
    }

    /// Index after the last entry here that is part of the log.
    pub(crate) fn kept_index(&self) -> u64 {
        self.kept_index.get()
    }

    pub(crate) fn entry_count(&self) -> u64 {
        self.entry_count.get()
    }

    pub(crate) fn table(&self) -> Option<TablePlace> {
        self.table.get()
    }

    pub(crate) fn set_table(&self, table: TablePlace) {
        self.table.set(Some(table));
    }

    pub(crate) fn mended(&self) -> u64 {
        self.mended.get()
    }

    /// The index file was written again.
    pub(crate) fn is_mended(&self) {
        self.mended.set(self.mended.get() + 1);
    }

    /// No entry below this index lies here.
    pub(crate) fn low_index(&self) -> u64 {
        self.low_index.get()
    }

    /// Path of the index file beside the segment. A rewritten one has another than it had before:
    /// who still reads the old one finds what belongs to it, or nothing.
    pub(crate) fn index_path(&self) -> PathBuf {
        match self.header.original {
            None => self.path.with_extension("idx"),
            Some(_) => self.path.with_extension(format!("{:016x}.idx", self.header.salt)),
        }
    }

    /// Reads `[position, position + len)` of the log; the window read is whole blocks and may be
    /// shorter than asked only at the end of the file.
    pub(crate) async fn read(&self, position: u64, len: usize) -> Result<Slice, ReadError> {
        let at = self.file_position(position);
        let start = at - at % crate::format::BLOCK_BYTES as u64;
        let skip = (at - start) as usize;
        let window = self.file.read_at(start, round_up_to_block(skip + len)).await;
        let window = window.map_err(|source| ReadError::Io { path: self.path.clone(), source })?;
        if window.len() < skip + len {
            return Err(self.damage(position, "the file ends early").into());
        }
        Ok(window.slice(skip..skip + len))
    }

    /// An error that names the file and the byte.
    pub(crate) fn damage(&self, position: u64, reason: impl ToString) -> Damage {
        let position = DATA_START + position.saturating_sub(self.header.position);
        Damage { path: self.path.clone(), position, reason: reason.to_string() }
    }

    pub(crate) fn format_damage(&self, position: u64, error: FormatError) -> Damage {
        self.damage(position, error)
    }
}

/// The file of a segment.
pub(crate) fn path_of(dir: &Path, number: u64) -> PathBuf {
    dir.join(format!("{number:020}{SUFFIX}"))
}

/// The number in a segment's file name.
pub(crate) fn number_of(name: &str) -> Option<u64> {
    let digits = name.strip_suffix(SUFFIX)?;
    (digits.len() == 20).then(|| digits.parse().ok()).flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_round_trip() {
        let path = path_of(Path::new("d"), 7);
        let name = path.file_name().and_then(|n| n.to_str()).unwrap();
        assert_eq!(number_of(name), Some(7));
        for bad in ["7.log", "x.log", "00000000000000000007.idx", "pool-1.free"] {
            assert_eq!(number_of(bad), None, "{bad}");
        }
    }
}
