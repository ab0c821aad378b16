//! Offline verification of a stopped node's shards: every byte that was written is read.
//!
//! Uses the scanner and the judgement of recovery and changes nothing.

use crate::error::{Damage, OpenError};
use crate::format::segment::{self as segment_format, DATA_START};
use crate::format::{BLOCK_BYTES, entry as entry_format, group};
use crate::options::Options;
use crate::recovery::open_segment;
use crate::scan::{Group, Scanner};
use crate::segment::{self, Segment};
use barrage_model::batch::{BatchHeader, BatchView};
use barrage_model::{Offset, PartitionKey, ShardId};
use barrage_world::{File, fs};
use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::rc::Rc;

/// One segment file as found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VerifiedSegment {
    /// The file.
    pub path: PathBuf,
    /// The shard it belongs to.
    pub shard: ShardId,
    /// Whether a later segment follows it.
    pub sealed: bool,
    /// First byte of the file that is checked.
    pub data_start: u64,
    /// Byte behind the last one that is checked: the end of what was written.
    pub data_end: u64,
}

/// One partition as found in the segments of one shard.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct VerifiedPartition {
    /// The partition.
    pub key: PartitionKey,
    /// Offset of the oldest record found.
    pub first_offset: Offset,
    /// Offset behind the newest record found.
    pub next_offset: Offset,
}

/// What verification found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct VerifyReport {
    /// All segments, by shard and age.
    pub segments: Vec<VerifiedSegment>,
    /// All partitions.
    pub partitions: Vec<VerifiedPartition>,
    /// Every place where bytes are not what was written.
    pub damage: Vec<Damage>,
}

/// Verifies every shard under `data_dir/shards`, or the one shard whose folder `data_dir` is.
pub async fn verify(data_dir: &Path) -> Result<VerifyReport, OpenError> {
    let failed = |source| OpenError::Io { action: "list", path: data_dir.to_owned(), source };
    let mut report = VerifyReport::default();
    let shards = data_dir.join("shards");
    if !fs::exists(&shards).await.map_err(failed)? {
        let source = io::ErrorKind::NotFound.into();
        return Err(OpenError::Io { action: "find", path: shards, source });
    }
    let mut numbers: Vec<u32> =
        fs::list(&shards).await.map_err(failed)?.iter().filter_map(|n| n.parse().ok()).collect();
    numbers.sort_unstable();
    for number in numbers {
        verify_shard(&shards.join(number.to_string()), ShardId(number), &mut report).await?;
    }
    Ok(report)
}

async fn verify_shard(
    dir: &Path,
    shard: ShardId,
    report: &mut VerifyReport,
) -> Result<(), OpenError> {
    let failed = |source| OpenError::Io { action: "list", path: dir.to_owned(), source };
    let options = Options::new(shard);
    let names = fs::list(dir).await.map_err(failed)?;
    let mut numbers: Vec<u64> = names.iter().filter_map(|n| segment::number_of(n)).collect();
    numbers.sort_unstable();
    let mut segments = Vec::new();
    for number in numbers {
        check_headers(dir, number, report).await?;
        match open_segment(dir, number, &options).await {
            Ok(segment) => segments.push(Rc::new(segment)),
            Err(OpenError::Damaged(damage)) => report.damage.push(damage),
            Err(error) => return Err(error),
        }
    }
    let mut partitions = BTreeMap::new();
    for (at, segment) in segments.iter().enumerate() {
        let limit = segments.get(at + 1).map(|next| segment.limit(next)).transpose();
        let limit = limit.unwrap_or_else(|damage| {
            report.damage.push(damage);
            Some(segment.capacity_end())
        });
        let sealed = limit.is_some();
        let end = verify_segment(segment, limit, &mut partitions, report).await?;
        report.segments.push(VerifiedSegment {
            path: segment.path.clone(),
            shard,
            sealed,
            data_start: 0,
            data_end: segment.file_position(end),
        });
    }
    report.partitions.extend(partitions.into_values());
    Ok(())
}

/// Both copies of the header must be whole; recovery needs only one.
async fn check_headers(
    dir: &Path,
    number: u64,
    report: &mut VerifyReport,
) -> Result<(), OpenError> {
    let path = segment::path_of(dir, number);
    let failed = |source| OpenError::Io { action: "read", path: path.clone(), source };
    let file = File::open(&path).await.map_err(failed)?;
    let blocks = file.read_at(0, DATA_START as usize).await.map_err(failed)?;
    for (copy, block) in blocks.chunks(BLOCK_BYTES).enumerate() {
        if let Err(error) = segment_format::decode(block) {
            let position = (copy * BLOCK_BYTES) as u64;
            let reason = format!("segment header: {error}");
            report.damage.push(Damage { path: path.clone(), position, reason });
        }
    }
    Ok(())
}

/// Reads one segment to its end; gives the log position behind the last group.
async fn verify_segment(
    segment: &Rc<Segment>,
    limit: Option<u64>,
    partitions: &mut BTreeMap<PartitionKey, VerifiedPartition>,
    report: &mut VerifyReport,
) -> Result<u64, OpenError> {
    let mut scanner = Scanner::new(segment.clone(), limit);
    let mut at = segment.header.position;
    let reason = loop {
        match scanner.group(at).await? {
            Ok(group) => {
                verify_group(segment, &group, partitions, report);
                at = group.end();
            }
            Err(reason) => break reason,
        }
    };
    if limit == Some(at) {
        return Ok(at);
    }
    let mark = match limit {
        Some(limit) => limit,
        None => scanner.probe(at).await?.mark,
    };
    if at < mark {
        report.damage.push(segment.format_damage(at, reason));
        return Ok(mark.max(at));
    }
    Ok(at)
}

fn verify_group(
    segment: &Segment,
    group: &Group,
    partitions: &mut BTreeMap<PartitionKey, VerifiedPartition>,
    report: &mut VerifyReport,
) {
    let mut at = group::HEADER_BYTES;
    let end = at + group.header.entries_len as usize;
    while at < end {
        let position = group.position + at as u64;
        let bytes = group.bytes.get(at..end).unwrap_or_default();
        let header = match entry_format::decode_header(bytes, segment.header.shard) {
            Ok(header) => header,
            Err(error) => {
                report.damage.push(segment.format_damage(position, error));
                return;
            }
        };
        if let Err(reason) = verify_entry(&header, bytes, partitions) {
            report.damage.push(segment.damage(position, reason));
        }
        at += header.len();
    }
}

fn verify_entry(
    header: &entry_format::Header,
    bytes: &[u8],
    partitions: &mut BTreeMap<PartitionKey, VerifiedPartition>,
) -> Result<(), String> {
    entry_format::decode(bytes, header.shard).map_err(|error| error.to_string())?;
    let runs = entry_format::decode_runs(header, bytes).map_err(|error| error.to_string())?;
    for (run, start) in runs.into_iter().filter(|(run, _)| run.gone.is_none()) {
        let payload = bytes.get(start..start + run.byte_len as usize).unwrap_or_default();
        verify_batches(payload).map_err(|error| format!("{:?}: {error}", run.key))?;
        let found = partitions.entry(run.key).or_insert(VerifiedPartition {
            key: run.key,
            first_offset: run.base_offset,
            next_offset: run.base_offset,
        });
        found.next_offset = found.next_offset.max(run.next_offset());
    }
    Ok(())
}

fn verify_batches(payload: &[u8]) -> Result<(), barrage_model::batch::BatchError> {
    let mut at = 0;
    while let Some(rest) = payload.get(at..).filter(|rest| !rest.is_empty()) {
        let len = BatchHeader::peek(rest)?.batch_len_total;
        BatchView::check(rest.get(..len).unwrap_or(rest))?;
        at += len;
    }
    Ok(())
}
