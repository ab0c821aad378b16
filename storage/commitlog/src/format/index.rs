//! A sealed segment's index file: where each partition's runs lie, and each entry. Derived from the
//! log; dropped and rebuilt on any doubt (rule T-3).
//!
//! ```text
//!  0 u64 magic "BRGIDX01"                  64 u64 index behind the last entry that stayed
//!  8 u32 CRC32C of [12, end of head)       72 u64 index of the table's first entry
//! 12 u32 format version                    80 u32 entries in the table
//! 16 u32 shard                             84 u32 terms
//! 20 u32 partitions                        88 u64 header hash of the table's last entry
//! 24 u64 segment number                    96 u64 hash before the next segment, as it states
//! 32 u64 segment's salt                   104 u64 first group of the next segment, as it states
//! 40 u64 end of the data (log position)   112 u32 flags: 1 the runs are known
//! 48 u64 smallest entry index             116 u32 reserved
//! 56 u64 last entry index + 1; 0: none    120 head: directory, terms
//!
//! file   header | directory | terms | runs of each partition | zeros | entry table, whole blocks
//!
//! directory row, 72 bytes: u64 topic | u32 partition | u32 runs | u64 first offset
//!   | u64 next offset | i64 first log time | i64 last log time | u64 bytes
//!   | u64 file position of the runs | u32 CRC32C of the runs | u32 reserved
//! term, 16 bytes: u64 first entry index | u64 term
//! run, 40 bytes: u64 base offset | u64 log position | u32 records | u32 bytes | i64 log time
//!   | i64 max timestamp
//! ```
//!
//! The table (`table.rs`) holds the entries of the segment that were above the floor when the file
//! was written, but for those that a record in a later segment has cut off.

use super::table::{self, Row as EntryRow};
use super::{Fields, FormatError, Writer, part, round_up_to_block};
use crate::index::{RunPlace, Stored};
use barrage_model::{Offset, PartitionId, PartitionKey, ShardId, Term, TopicId};
use std::ops::Range;

const MAGIC: u64 = u64::from_le_bytes(*b"BRGIDX01");
const VERSION: u32 = 2;
const HEADER_BYTES: usize = 120;
const ROW_BYTES: usize = 72;
const TERM_BYTES: usize = 16;
/// Bytes of one run in the file.
pub(crate) const RUN_BYTES: usize = 40;
/// Most rows, and most terms, a reader accepts: bounds what it allocates.
const ROWS_MAX: usize = 1_000_000;
/// Flag: the file tells of every partition that has runs in the segment.
const RUNS_KNOWN: u32 = 1;

/// Which bytes of the log an index file is of: to be compared with what the log's headers say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Cover {
    pub(crate) shard: ShardId,
    pub(crate) segment: u64,
    pub(crate) salt: u64,
    pub(crate) end: u64,
    /// Hash of the last entry's header, as the header of the next segment states it.
    pub(crate) next_hash: u64,
    /// Number of the first group of the next segment.
    pub(crate) next_group: u64,
}

/// Indexes of the entries in a segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Held {
    /// Smallest index.
    pub(crate) low: u64,
    /// Index after the last entry; 0 when there is none.
    pub(crate) next: u64,
    /// Index after the last entry that no later record has cut off.
    pub(crate) kept: u64,
}

/// The entries of a segment that are part of the log.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Entries {
    pub(crate) first: u64,
    pub(crate) rows: Vec<EntryRow>,
    /// Where terms begin, the first with the first entry.
    pub(crate) terms: Vec<(u64, Term)>,
}

/// Where the table lies in the file, and what is known of it without reading it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Table {
    pub(crate) first: u64,
    pub(crate) count: u32,
    pub(crate) terms: Vec<(u64, Term)>,
    pub(crate) last_hash: u64,
    /// Byte in the file.
    pub(crate) start: u64,
}

/// One partition in the directory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Row {
    pub(crate) key: PartitionKey,
    pub(crate) first: Offset,
    pub(crate) next: Offset,
    pub(crate) first_time_ms: i64,
    pub(crate) last_time_ms: i64,
    pub(crate) bytes: u64,
    pub(crate) stored: Stored,
}

/// What an index file is made of.
#[derive(Clone, Debug)]
pub(crate) struct Contents {
    pub(crate) cover: Cover,
    pub(crate) held: Held,
    pub(crate) entries: Entries,
    /// None when they are not known: the log is a copy that is not whole yet.
    pub(crate) partitions: Option<Vec<(Row, Vec<RunPlace>)>>,
}

/// What the head of an index file tells.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Head {
    pub(crate) cover: Cover,
    pub(crate) held: Held,
    pub(crate) table: Table,
    pub(crate) partitions: Option<Vec<Row>>,
}

impl Table {
    /// Index after the last entry.
    pub(crate) fn next(&self) -> u64 {
        self.first + u64::from(self.count)
    }
}

/// What was written: the bytes (whole blocks), where each partition's runs lie, where the table.
pub(crate) struct Encoded {
    pub(crate) bytes: Vec<u8>,
    pub(crate) stored: Vec<Stored>,
    pub(crate) table_start: u64,
}

/// Writes the whole file.
pub(crate) fn encode(contents: &Contents) -> Encoded {
    let Contents { cover, held, entries, partitions } = contents;
    let known = partitions.is_some();
    let partitions = partitions.as_deref().unwrap_or_default();
    let head_len = HEADER_BYTES + partitions.len() * ROW_BYTES + entries.terms.len() * TERM_BYTES;
    let run_count: usize = partitions.iter().map(|(_, runs)| runs.len()).sum();
    let table_start = round_up_to_block(head_len + run_count * RUN_BYTES);
    let mut out = vec![0; table_start + table::encoded_len(entries.rows.len())];
    let (before, table) = out.split_at_mut(table_start);
    table::encode(cover.salt, entries.first, &entries.rows, table);
    let (head, body) = before.split_at_mut(head_len);
    let mut writer = Writer::new(head);
    writer.u64(MAGIC);
    writer.u32(0);
    writer.u32(VERSION);
    writer.u32(cover.shard.0);
    writer.u32(partitions.len() as u32);
    for field in [cover.segment, cover.salt, cover.end, held.low, held.next, held.kept] {
        writer.u64(field);
    }
    writer.u64(entries.first);
    writer.u32(entries.rows.len() as u32);
    writer.u32(entries.terms.len() as u32);
    writer.u64(entries.rows.last().map_or(0, |row| row.header_hash));
    writer.u64(cover.next_hash);
    writer.u64(cover.next_group);
    writer.u32(if known { RUNS_KNOWN } else { 0 });
    writer.u32(0);
    assert_eq!(writer.position(), HEADER_BYTES);
    let mut runs_writer = Writer::new(body);
    let mut stored = Vec::with_capacity(partitions.len());
    for (row, runs) in partitions {
        let start = head_len + runs_writer.position();
        let mut block = vec![0; runs.len() * RUN_BYTES];
        let mut run_writer = Writer::new(&mut block);
        for run in runs {
            encode_run(run, &mut run_writer);
        }
        let crc = crc32c::crc32c(&block);
        runs_writer.put(&block);
        let place = Stored { start: start as u64, count: runs.len() as u32, crc };
        encode_row(row, &place, &mut writer);
        stored.push(place);
    }
    for (first, term) in &entries.terms {
        writer.u64(*first);
        writer.u64(term.0);
    }
    let crc = crc32c::crc32c(head.get(12..).unwrap_or_default());
    if let Some(slot) = head.get_mut(8..12) {
        slot.copy_from_slice(&crc.to_le_bytes());
    }
    Encoded { bytes: out, stored, table_start: table_start as u64 }
}

fn encode_row(row: &Row, stored: &Stored, writer: &mut Writer<'_>) {
    writer.u64(row.key.topic.0);
    writer.u32(row.key.partition.0);
    writer.u32(stored.count);
    writer.u64(row.first.0);
    writer.u64(row.next.0);
    writer.i64(row.first_time_ms);
    writer.i64(row.last_time_ms);
    writer.u64(row.bytes);
    writer.u64(stored.start);
    writer.u32(stored.crc);
    writer.u32(0);
}

fn encode_run(run: &RunPlace, writer: &mut Writer<'_>) {
    writer.u64(run.base_offset.0);
    writer.u64(run.position);
    writer.u32(run.record_count);
    writer.u32(run.byte_len);
    writer.i64(run.log_time_ms);
    writer.i64(run.max_timestamp);
}

/// Bytes of the head, as the first block of the file says. Nothing is checked yet.
pub(crate) fn head_len(block: &[u8]) -> Result<usize, FormatError> {
    let count = |at| -> Result<usize, FormatError> {
        let count = Fields::new(part(block, at, HEADER_BYTES)?).u32()? as usize;
        if count <= ROWS_MAX { Ok(count) } else { Err(FormatError::Field("rows")) }
    };
    Ok(HEADER_BYTES + count(20)? * ROW_BYTES + count(84)? * TERM_BYTES)
}

/// Reads the head of the file; more of the file may follow it.
pub(crate) fn decode(file: &[u8]) -> Result<Head, FormatError> {
    let mut fields = Fields::new(file);
    if fields.u64()? != MAGIC {
        return Err(FormatError::Magic);
    }
    let claimed = fields.u32()?;
    let version = fields.u32()?;
    if version != VERSION {
        return Err(FormatError::Version(version));
    }
    let head_len = head_len(file)?;
    if crc32c::crc32c(part(file, 12, head_len)?) != claimed {
        return Err(FormatError::Checksum);
    }
    let (shard, partition_count) = (ShardId(fields.u32()?), fields.u32()?);
    let (segment, salt, end) = (fields.u64()?, fields.u64()?, fields.count("end")?);
    let (low, next) = (fields.u64()?, fields.count("next entry")?);
    let kept = fields.count("entries kept")?;
    let (first, count) = (fields.count("first entry")?, fields.u32()?);
    let (term_count, last_hash) = (fields.u32()?, fields.u64()?);
    let (next_hash, next_group) = (fields.u64()?, fields.u64()?);
    let known = fields.u32()? & RUNS_KNOWN != 0;
    fields.u32()?;
    if !known && partition_count > 0 {
        return Err(FormatError::Field("partitions"));
    }
    let mut rows = Vec::with_capacity(partition_count as usize);
    let mut start = head_len;
    for _ in 0..partition_count {
        let row = decode_row(&mut fields)?;
        // The runs lie one behind the other.
        if row.stored.start != start as u64 {
            return Err(FormatError::Field("place of the runs"));
        }
        start += row.stored.count as usize * RUN_BYTES;
        rows.push(row);
    }
    let table_next = first + u64::from(count);
    let terms = decode_terms(&mut fields, term_count, first..table_next)?;
    if count > 0 && table_next != kept {
        return Err(FormatError::Field("entries"));
    }
    let start = round_up_to_block(start) as u64;
    Ok(Head {
        cover: Cover { shard, segment, salt, end, next_hash, next_group },
        held: Held { low, next, kept },
        table: Table { first, count, terms, last_hash, start },
        partitions: known.then_some(rows),
    })
}

/// Reads where terms begin: in order, the first with the first entry.
fn decode_terms(
    fields: &mut Fields<'_>,
    count: u32,
    entries: Range<u64>,
) -> Result<Vec<(u64, Term)>, FormatError> {
    let mut terms: Vec<(u64, Term)> = Vec::with_capacity(count as usize);
    for _ in 0..count {
        let (first, term) = (fields.u64()?, Term(fields.count("term")?));
        let fits = match terms.last() {
            None => first == entries.start,
            Some((before, older)) => *before < first && *older < term,
        };
        if !fits || !entries.contains(&first) {
            return Err(FormatError::Field("terms"));
        }
        terms.push((first, term));
    }
    if terms.is_empty() != entries.is_empty() {
        return Err(FormatError::Field("terms"));
    }
    Ok(terms)
}

fn decode_row(fields: &mut Fields<'_>) -> Result<Row, FormatError> {
    let topic = TopicId(fields.u64()?);
    let partition = PartitionId(fields.u32()?);
    let count = fields.u32()?;
    let (first, next) = (Offset(fields.u64()?), Offset(fields.u64()?));
    let (first_time_ms, last_time_ms) = (fields.i64()?, fields.i64()?);
    let bytes = fields.u64()?;
    let start = fields.u64()?;
    let crc = fields.u32()?;
    fields.u32()?;
    let key = PartitionKey { topic, partition };
    let stored = Stored { start, count, crc };
    Ok(Row { key, first, next, first_time_ms, last_time_ms, bytes, stored })
}

/// Reads the runs of a row of this file.
pub(crate) fn runs_of(file: &[u8], row: &Row) -> Result<Vec<RunPlace>, FormatError> {
    let start = usize::try_from(row.stored.start).map_err(|_| FormatError::Short)?;
    decode_runs(part(file, start, file.len())?, &row.stored)
}

/// Reads one partition's runs.
pub(crate) fn decode_runs(bytes: &[u8], stored: &Stored) -> Result<Vec<RunPlace>, FormatError> {
    let bytes = part(bytes, 0, stored.count as usize * RUN_BYTES)?;
    if crc32c::crc32c(bytes) != stored.crc {
        return Err(FormatError::Checksum);
    }
    let mut fields = Fields::new(bytes);
    (0..stored.count)
        .map(|_| {
            Ok(RunPlace {
                base_offset: Offset(fields.u64()?),
                position: fields.u64()?,
                record_count: fields.u32()?,
                byte_len: fields.u32()?,
                log_time_ms: fields.i64()?,
                max_timestamp: fields.i64()?,
            })
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> Contents {
        let cover = Cover {
            shard: ShardId(1),
            segment: 2,
            salt: 3,
            end: 8192,
            next_hash: 11,
            next_group: 12,
        };
        let key = PartitionKey { topic: TopicId(5), partition: PartitionId(6) };
        let run = RunPlace {
            base_offset: Offset(10),
            position: 4321,
            record_count: 2,
            byte_len: 99,
            log_time_ms: 7,
            max_timestamp: 8,
        };
        let row = Row {
            key,
            first: Offset(10),
            next: Offset(12),
            first_time_ms: 7,
            last_time_ms: 7,
            bytes: 99,
            stored: Stored { start: 0, count: 0, crc: 0 },
        };
        let entry = |number: u32| EntryRow {
            offset: number * 128,
            len: 128,
            header_hash: u64::from(number) + 1,
        };
        let entries = Entries {
            first: 20,
            rows: (0..300).map(entry).collect(),
            terms: vec![(20, Term(4)), (25, Term(7))],
        };
        let held = Held { low: 18, next: 325, kept: 320 };
        Contents { cover, held, entries, partitions: Some(vec![(row, vec![run])]) }
    }

    #[test]
    fn golden_bytes_and_round_trip() {
        let contents = sample();
        let Encoded { bytes, stored, table_start } = encode(&contents);
        let hex: String = bytes.iter().take(264).map(|b| format!("{b:02x}")).collect();
        assert_eq!(hex, GOLDEN, "the index format changed: raise the version");
        let head = decode(&bytes).unwrap();
        assert_eq!((head.cover, head.held), (contents.cover, contents.held));
        assert_eq!(head.partitions.as_ref().unwrap()[0].stored, stored[0]);
        let start = stored[0].start as usize;
        let runs = decode_runs(&bytes[start..], &stored[0]).unwrap();
        assert_eq!(runs, contents.partitions.as_ref().unwrap()[0].1);
        assert_eq!(head.table.start, table_start);
        assert_eq!((head.table.next(), head.table.last_hash), (320, 300));
        assert_eq!(head.table.terms, contents.entries.terms);
        let second = &bytes[table_start as usize + super::super::BLOCK_BYTES..];
        let rows = table::decode(3, 20 + 255, second).unwrap();
        assert_eq!(rows, contents.entries.rows[255..]);
        assert_eq!(head_len(&bytes).unwrap(), 120 + 72 + 2 * 16);
        assert_eq!(decode(&bytes[..head_len(&bytes).unwrap()]).unwrap(), head);
    }
    const GOLDEN: &str = concat!(
        "4252474944583031ad476f1402000000010000000100000002000000000000000300000000000000",
        "00200000000000001200000000000000450100000000000040010000000000001400000000000000",
        "2c010000020000002c010000000000000b000000000000000c000000000000000100000000000000",
        "050000000000000006000000010000000a000000000000000c000000000000000700000000000000",
        "07000000000000006300000000000000e0000000000000004dec0351000000001400000000000000",
        "0400000000000000190000000000000007000000000000000a00000000000000e110000000000000",
        "020000006300000007000000000000000800000000000000",
    );

    #[test]
    fn runs_that_are_not_known_are_not_none() {
        let unknown = Contents { partitions: None, ..sample() };
        assert_eq!(decode(&encode(&unknown).bytes).unwrap().partitions, None);
        let none = Contents { partitions: Some(Vec::new()), ..sample() };
        assert_eq!(decode(&encode(&none).bytes).unwrap().partitions, Some(Vec::new()));
    }

    #[test]
    fn damage_is_found() {
        let Encoded { bytes, stored, .. } = encode(&sample());
        let start = stored[0].start as usize;
        for at in 0..start + RUN_BYTES {
            let mut bad = bytes.clone();
            bad[at] ^= 1;
            let read = decode(&bad).and_then(|head| {
                let rows = head.partitions.unwrap_or_default();
                let row = rows.first().ok_or(FormatError::Short)?;
                decode_runs(&bad[start..], &row.stored)
            });
            assert!(read.is_err(), "a flip at {at} went unseen");
        }
    }

    #[test]
    fn a_file_of_the_first_version_is_refused() {
        let mut old = encode(&sample()).bytes;
        old[12] = 1;
        assert_eq!(decode(&old), Err(FormatError::Version(1)));
    }

    #[test]
    fn terms_lie_inside_the_table_and_rise() {
        let wrong: [&[(u64, Term)]; 5] = [
            &[],
            &[(21, Term(4))],
            &[(20, Term(4)), (25, Term(4))],
            &[(20, Term(4)), (20, Term(5))],
            &[(20, Term(4)), (320, Term(5))],
        ];
        for terms in wrong {
            let mut contents = sample();
            contents.entries.terms = terms.to_vec();
            let read = decode(&encode(&contents).bytes);
            assert_eq!(read, Err(FormatError::Field("terms")), "{terms:?}");
        }
    }
}
