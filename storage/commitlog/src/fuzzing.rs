//! The disk format's parsers, for the fuzz targets; no part of the log's interface.
//!
//! Each type is one structure of the format, read by the code that recovery uses. What was read
//! can be written and read again, and must be the same then.

use crate::entry::{HardState, Vote};
use crate::format::{FormatError, part};
use crate::format::{checkpoint, entry, group, index, segment, table};
use crate::index::{RunPlace, Stored};
use barrage_model::{LogId, LogIndex, NodeId, Offset, PartitionKey, ShardId, Term};
use std::collections::BTreeSet;

/// Bytes of a block: a segment's header is one, a flush group is a number of them.
pub const BLOCK_BYTES: usize = crate::format::BLOCK_BYTES;

/// A segment's header.
#[derive(Debug, PartialEq, Eq)]
pub struct Segment(segment::Header);

impl Segment {
    /// Reads one block.
    pub fn decode(block: &[u8]) -> Option<Self> {
        segment::decode(block).ok().map(Self)
    }

    /// The block.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut block = vec![0; BLOCK_BYTES];
        segment::encode(&self.0, &mut block);
        block
    }
}

/// A flush group, without the entries that lie in it.
#[derive(Debug, PartialEq, Eq)]
pub struct Group {
    header: group::Header,
    crc: u32,
}

impl Group {
    /// Reads a group that lies where it says it lies, in a segment of this salt.
    pub fn decode(bytes: &[u8], salt: u64) -> Option<Self> {
        let (header, crc) = group::decode(bytes, &claimed_place(bytes, salt).ok()?).ok()?;
        Some(Self { header, crc })
    }

    /// Whether header and padding written around the same entries give the same group.
    pub fn is_sealed_alike(&self, bytes: &[u8], salt: u64) -> bool {
        let Ok(place) = claimed_place(bytes, salt) else { return false };
        let Ok(group) = part(bytes, 0, self.header.len as usize) else { return false };
        let entries_end = group::HEADER_BYTES + self.header.entries_len as usize;
        let Ok(entries) = part(group, group::HEADER_BYTES, entries_end) else { return false };
        // A group that was not written by us may hold anything behind its entries, or a mark that
        // lies behind itself; the CRC says that we did not write it.
        let padded = group.iter().skip(entries_end).all(|byte| *byte == 0);
        if !padded || self.header.synced_to > place.position {
            return true;
        }
        let mut again = group.to_vec();
        group::seal(&self.header, &place, &mut again, crc32c::crc32c(entries));
        group::decode(&again, &place).is_ok_and(|(header, _)| header == self.header)
    }
}

/// Shard, segment and position as the group states them: the rest of the format is then reached.
fn claimed_place(bytes: &[u8], salt: u64) -> Result<group::Place, FormatError> {
    let mut fields = crate::format::Fields::new(part(bytes, 8, group::HEADER_BYTES)?);
    let (segment, _number, position) = (fields.u64()?, fields.u64()?, fields.u64()?);
    let mut fields = crate::format::Fields::new(part(bytes, 56, group::HEADER_BYTES)?);
    Ok(group::Place { shard: ShardId(fields.u32()?), segment, salt, position })
}

/// An index file with all its runs and its entry table.
#[derive(Debug, PartialEq, Eq)]
pub struct Index {
    head: index::Head,
    entries: Vec<table::Row>,
}

impl Index {
    /// Reads the head, the runs of every partition and the whole entry table.
    pub fn decode(file: &[u8]) -> Option<Self> {
        let head = index::decode(file).ok()?;
        let mut rows = head.partitions.iter().flatten();
        let runs = rows.all(|row| index::runs_of(file, row).is_ok());
        let entries = entries(file, &head)?;
        runs.then_some(Self { head, entries })
    }

    /// The whole file, its runs taken from `file`.
    #[must_use]
    pub fn encode(&self, file: &[u8]) -> Vec<u8> {
        let runs = |row: &index::Row| (*row, index::runs_of(file, row).unwrap_or_default());
        let index::Head { cover, held, table, partitions } = &self.head;
        let partitions = partitions.as_ref().map(|rows| rows.iter().map(runs).collect());
        let (first, terms) = (table.first, table.terms.clone());
        let entries = index::Entries { first, rows: self.entries.clone(), terms };
        let contents = index::Contents { cover: *cover, held: *held, entries, partitions };
        index::encode(&contents).bytes
    }
}

/// All rows of the entry table, the last of which has the hash that the head names.
fn entries(file: &[u8], head: &index::Head) -> Option<Vec<table::Row>> {
    let mut rows = Vec::new();
    let mut at = usize::try_from(head.table.start).ok()?;
    while rows.len() < head.table.count as usize {
        let block = file.get(at..at.checked_add(BLOCK_BYTES)?)?;
        let left = head.table.count as usize - rows.len();
        let read =
            table::decode(head.cover.salt, head.table.first + rows.len() as u64, block).ok()?;
        if read.len() != left.min(table::BLOCK_ROWS) {
            return None;
        }
        rows.extend(read);
        at += BLOCK_BYTES;
    }
    let last_hash = rows.last().map_or(0, |row| row.header_hash);
    (last_hash == head.table.last_hash).then_some(rows)
}

/// A checkpoint file.
#[derive(Debug, PartialEq, Eq)]
pub struct Checkpoint {
    shard: ShardId,
    head: checkpoint::Head,
    parts: Vec<Vec<u8>>,
}

impl Checkpoint {
    /// Reads the whole file of a shard.
    pub fn decode(file: &[u8], shard: ShardId) -> Option<Self> {
        let (head, parts) = checkpoint::whole::decode(file, shard).ok()?;
        Some(Self { shard, head, parts })
    }

    /// The whole file.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let parts: Vec<&[u8]> = self.parts.iter().map(Vec::as_slice).collect();
        checkpoint::whole::encode(self.shard, &self.head, &parts)
    }
}

/// Reads an entry's header and, if the bytes are there, its runs, as a scan does; gives the
/// length it claims.
pub fn scan_entry(bytes: &[u8], shard: ShardId) -> Option<usize> {
    let header = entry::decode_header(bytes, shard).ok()?;
    entry::decode_runs(&header, bytes).ok()?;
    Some(header.len())
}

/// A segment's header with everything in it.
#[must_use]
pub fn sample_segment(shard: ShardId) -> Segment {
    Segment(segment::Header {
        shard,
        number: 2,
        salt: 3,
        position: BLOCK_BYTES as u64,
        file_bytes: 16 * BLOCK_BYTES as u64,
        hard: sample_hard_state(),
        first_group: 6,
        previous_hash: 7,
        original: None,
    })
}

/// The header of a segment that was rewritten.
#[must_use]
pub fn sample_rewritten_segment(shard: ShardId) -> Segment {
    let Segment(header) = sample_segment(shard);
    let (start, end) = (BLOCK_BYTES as u64, 5 * BLOCK_BYTES as u64);
    let original = Some(segment::Original { start, end });
    Segment(segment::Header { position: segment::REWRITTEN_START, original, ..header })
}

/// A group of `entries`, which are `count`.
#[must_use]
pub fn sample_group(shard: ShardId, salt: u64, entries: &[u8], count: u32) -> Vec<u8> {
    let len = group::encoded_len(entries.len());
    let place = group::Place { shard, segment: 2, salt, position: 2 * BLOCK_BYTES as u64 };
    let header = group::Header {
        number: 6,
        synced_to: BLOCK_BYTES as u64,
        len: len as u32,
        entries_len: entries.len() as u32,
        entry_count: count,
        previous_crc: 0,
        hard: sample_hard_state(),
        truncate: Some(group::Truncate::After(log_id(5, 8))),
    };
    let mut out = vec![0; len];
    if let Some(room) = out.get_mut(group::HEADER_BYTES..group::HEADER_BYTES + entries.len()) {
        room.copy_from_slice(entries);
    }
    group::seal(&header, &place, &mut out, crc32c::crc32c(entries));
    out
}

/// An index file with `runs` runs for each of `partitions` partitions, and `entries` entries.
#[must_use]
pub fn sample_index(shard: ShardId, partitions: u32, runs: u64, entries: u32) -> Vec<u8> {
    let cover = index::Cover { shard, segment: 2, salt: 3, end: 8192, next_hash: 4, next_group: 5 };
    let kept = 3 + u64::from(entries);
    let held = index::Held { low: 2, next: kept, kept };
    let run = |number: u64| RunPlace {
        base_offset: Offset(number * 2),
        position: number * 100,
        record_count: 2,
        byte_len: 99,
        log_time_ms: 7,
        max_timestamp: 8,
    };
    let row = |partition: u32| index::Row {
        key: PartitionKey { topic: 5.into(), partition: partition.into() },
        first: Offset(0),
        next: Offset(runs * 2),
        first_time_ms: 7,
        last_time_ms: 7,
        bytes: 99 * runs,
        stored: Stored { start: 0, count: 0, crc: 0 },
    };
    let entry = |number: u32| table::Row {
        offset: number * 80,
        len: 80,
        header_hash: u64::from(number) + 1,
    };
    let terms = [(3, Term(1)), (3 + u64::from(entries / 2), Term(2))];
    let terms = terms.into_iter().take(entries.min(2) as usize).collect();
    let entries = index::Entries { first: 3, rows: (0..entries).map(entry).collect(), terms };
    let with_runs = |partition| (row(partition), (0..runs).map(run).collect());
    let partitions = Some((0..partitions).map(with_runs).collect());
    index::encode(&index::Contents { cover, held, entries, partitions }).bytes
}

/// A checkpoint file of these parts, with so many refused runs.
#[must_use]
pub fn sample_checkpoint(shard: ShardId, refused: u64, parts: &[&[u8]]) -> Vec<u8> {
    let refused: BTreeSet<(u64, u32)> = (0..refused).map(|index| (index, 5)).collect();
    let head = checkpoint::Head { id: log_id(5, 9), refused, installed: false };
    checkpoint::whole::encode(shard, &head, parts)
}

fn sample_hard_state() -> HardState {
    let vote = Vote { term: Term(5), node: NodeId(1), committed: true };
    HardState { vote: Some(vote), committed: Some(log_id(5, 9)), floor: Some(log_id(4, 2)) }
}

fn log_id(term: u64, index: u64) -> LogId {
    LogId { term: Term(term), index: LogIndex(index) }
}
