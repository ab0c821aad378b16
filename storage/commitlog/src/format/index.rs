//! A sealed segment's index file: where each partition's runs lie. Derived from the log; dropped
//! and rebuilt on any doubt (rule T-3).
//!
//! ```text
//!  0 u64 magic "BRGIDX01"                 32 u64 end of the segment's data (log position)
//!  8 u32 CRC32C of [12, end of directory) 40 u64 last entry index in the segment, + 1; 0: none
//! 12 u32 format version                   48 u32 partitions
//! 16 u32 shard                            52 u32 reserved
//! 20 u32 reserved                         56 u64 segment's salt
//! 24 u64 segment number                   64 directory, then the runs of each partition
//! directory row, 72 bytes: u64 topic | u32 partition | u32 runs | u64 first offset
//!   | u64 next offset | i64 first log time | i64 last log time | u64 bytes
//!   | u64 file position of the runs | u32 CRC32C of the runs | u32 reserved
//! run, 40 bytes: u64 base offset | u64 log position | u32 records | u32 bytes | i64 log time
//!   | i64 max timestamp
//! ```

use super::{Fields, FormatError, Writer, part, round_up_to_block};
use crate::index::{RunPlace, Stored};
use barrage_model::{Offset, PartitionId, PartitionKey, ShardId, TopicId};

const MAGIC: u64 = u64::from_le_bytes(*b"BRGIDX01");
const VERSION: u32 = 1;
const HEADER_BYTES: usize = 64;
const ROW_BYTES: usize = 72;
/// Bytes of one run in the file.
pub(crate) const RUN_BYTES: usize = 40;
/// Most rows a reader accepts: bounds what it allocates.
const ROWS_MAX: usize = 1_000_000;

/// What an index file covers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Cover {
    pub(crate) shard: ShardId,
    pub(crate) segment: u64,
    pub(crate) salt: u64,
    pub(crate) end: u64,
    /// Index after the segment's last entry; 0 when it holds none.
    pub(crate) next_index: u64,
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

/// Writes the whole file; gives the bytes (whole blocks) and where each partition's runs lie.
pub(crate) fn encode(cover: &Cover, partitions: &[(Row, Vec<RunPlace>)]) -> (Vec<u8>, Vec<Stored>) {
    let head_len = HEADER_BYTES + partitions.len() * ROW_BYTES;
    let run_count: usize = partitions.iter().map(|(_, runs)| runs.len()).sum();
    let mut out = vec![0; round_up_to_block(head_len + run_count * RUN_BYTES)];
    let (head, body) = out.split_at_mut(head_len);
    let mut runs_writer = Writer::new(body);
    let mut rows = Writer::new(head);
    rows.u64(MAGIC);
    rows.u32(0);
    rows.u32(VERSION);
    rows.u32(cover.shard.0);
    rows.u32(0);
    rows.u64(cover.segment);
    rows.u64(cover.end);
    rows.u64(cover.next_index);
    rows.u32(partitions.len() as u32);
    rows.u32(0);
    rows.u64(cover.salt);
    assert_eq!(rows.position(), HEADER_BYTES);
    let mut stored = Vec::with_capacity(partitions.len());
    for (row, runs) in partitions {
        let start = head_len + runs_writer.position();
        let mut block = vec![0; runs.len() * RUN_BYTES];
        let mut writer = Writer::new(&mut block);
        for run in runs {
            encode_run(run, &mut writer);
        }
        let crc = crc32c::crc32c(&block);
        runs_writer.put(&block);
        let place = Stored { start: start as u64, count: runs.len() as u32, crc };
        encode_row(row, &place, &mut rows);
        stored.push(place);
    }
    let crc = crc32c::crc32c(head.get(12..).unwrap_or_default());
    if let Some(slot) = head.get_mut(8..12) {
        slot.copy_from_slice(&crc.to_le_bytes());
    }
    (out, stored)
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

/// Reads header and directory from the head of the file.
pub(crate) fn decode(file: &[u8]) -> Result<(Cover, Vec<Row>), FormatError> {
    let mut fields = Fields::new(file);
    if fields.u64()? != MAGIC {
        return Err(FormatError::Magic);
    }
    let claimed = fields.u32()?;
    let version = fields.u32()?;
    if version != VERSION {
        return Err(FormatError::Version(version));
    }
    let shard = ShardId(fields.u32()?);
    fields.u32()?;
    let (segment, end, next_index) = (fields.u64()?, fields.u64()?, fields.u64()?);
    let count = fields.u32()? as usize;
    fields.u32()?;
    let salt = fields.u64()?;
    if count > ROWS_MAX {
        return Err(FormatError::Field("partitions"));
    }
    let covered = part(file, 12, HEADER_BYTES + count * ROW_BYTES)?;
    if crc32c::crc32c(covered) != claimed {
        return Err(FormatError::Checksum);
    }
    let mut rows = Vec::with_capacity(count);
    let mut start = HEADER_BYTES + count * ROW_BYTES;
    for _ in 0..count {
        let row = decode_row(&mut fields)?;
        // The runs lie one behind the other: so all of them are read in one pass over the file.
        if row.stored.start != start as u64 {
            return Err(FormatError::Field("place of the runs"));
        }
        start += row.stored.count as usize * RUN_BYTES;
        rows.push(row);
    }
    Ok((Cover { shard, segment, salt, end, next_index }, rows))
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

    fn sample() -> (Cover, Vec<(Row, Vec<RunPlace>)>) {
        let cover = Cover { shard: ShardId(1), segment: 2, salt: 3, end: 8192, next_index: 4 };
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
        (cover, vec![(row, vec![run])])
    }

    #[test]
    fn golden_bytes_and_round_trip() {
        let (cover, partitions) = sample();
        let (bytes, stored) = encode(&cover, &partitions);
        let hex: String = bytes.iter().take(176).map(|b| format!("{b:02x}")).collect();
        assert_eq!(hex, GOLDEN, "the index format changed: raise the version");
        let (back, rows) = decode(&bytes).unwrap();
        assert_eq!(back, cover);
        assert_eq!(rows[0].stored, stored[0]);
        let start = stored[0].start as usize;
        assert_eq!(decode_runs(&bytes[start..], &stored[0]).unwrap(), partitions[0].1);
    }
    const GOLDEN: &str = concat!(
        "4252474944583031f42bfd6d01000000010000000000000002000000000000000020000000000000",
        "04000000000000000100000000000000030000000000000005000000000000000600000001000000",
        "0a000000000000000c00000000000000070000000000000007000000000000006300000000000000",
        "88000000000000004dec0351000000000a00000000000000e1100000000000000200000063000000",
        "07000000000000000800000000000000",
    );

    #[test]
    fn damage_is_found() {
        let (cover, partitions) = sample();
        let (bytes, stored) = encode(&cover, &partitions);
        let start = stored[0].start as usize;
        for at in 0..start + RUN_BYTES {
            let mut bad = bytes.clone();
            bad[at] ^= 1;
            let read =
                decode(&bad).and_then(|(_, rows)| decode_runs(&bad[start..], &rows[0].stored));
            assert!(read.is_err(), "a flip at {at} went unseen");
        }
    }
}
