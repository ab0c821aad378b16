//! A shard's folder with any bytes in its files: read its checkpoint, open the log, read all of it,
//! write to it, open it again; verify it offline. On the simulated disk.
//!
//! ```text
//! input   file, file, ...
//! file    kind u8: 0 segment, 1 index, 2 checkpoint | blocks u8 | chunks u8 | chunk, chunk, ...
//! chunk   block u8 | length u16 | bytes: lie at that block of the file; the rest is zero
//! ```
//!
//! The input is fed twice: as it is, and with numbers, places and checksums made right. Checked: a
//! log that opens can be read and written, and holds afterwards what it held and what was written.
//! It may hold a copy of the files beyond the rule, and what an open log needs: buffers, cache, a
//! new segment.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use barrage_commitlog::{CommitLog, Entry, EntryKind, Options, verify};
use barrage_model::{LogId, LogIndex, Offset, PartitionId, PartitionKey, ShardId, Term, TopicId};
use barrage_world::sim::{Disk, run_on};
use barrage_world::{Buffer, File, fs};
use bytes::Bytes;

use crate::meter::aside;
use crate::repair;
use crate::target::{Seed, Target, Verdict};

pub(super) const TARGET: Target =
    Target { name: "log_recovery", input_bytes_max: 16 * 1024, run, memory_extra, seeds, large };

const SHARD: ShardId = ShardId(1);
const DIR: &str = "/shards/1";
const BLOCK: usize = 4096;
/// An open log and its writer: buffers, cache, the segment it goes on in.
const LOG_BYTES_MAX: usize = 512 * 1024;
/// The files lie on the disk, in a window of the scanner, and once more where they are copied.
const COPIES_MAX: usize = 4;
/// Files of an input; more are not looked at.
const FILES_MAX: usize = 6;

fn memory_extra(input: &[u8]) -> usize {
    let sizes = files(input).iter().map(|file| file.bytes.len()).sum::<usize>();
    LOG_BYTES_MAX + COPIES_MAX * sizes
}

fn run(input: &[u8]) -> Verdict {
    let (raw, right) = aside(|| {
        let raw = files(input);
        let mut right = raw.clone();
        make_right(&mut right);
        (raw, right)
    });
    feed(raw);
    Verdict::from(feed(right))
}

/// One file of the folder.
#[derive(Clone)]
struct Piece {
    kind: u8,
    bytes: Vec<u8>,
}

/// Puts the files of an input together.
fn files(mut input: &[u8]) -> Vec<Piece> {
    let mut files = Vec::new();
    while let Some((&[kind, blocks, chunks], rest)) = input.split_first_chunk() {
        if files.len() == FILES_MAX {
            break;
        }
        let mut bytes = vec![0; usize::from(blocks) * BLOCK];
        input = rest;
        for _ in 0..chunks {
            let Some((&[block, low, high], rest)) = input.split_first_chunk() else { break };
            let length = usize::from(u16::from_le_bytes([low, high])).min(rest.len());
            let (chunk, others) = rest.split_at(length);
            input = others;
            let room = bytes.iter_mut().skip(usize::from(block) * BLOCK);
            room.zip(chunk).for_each(|(byte, new)| *byte = *new);
        }
        files.push(Piece { kind: kind % 3, bytes });
    }
    files
}

/// Makes right what a reader compares before it looks further.
fn make_right(files: &mut [Piece]) {
    let mut number = 0;
    for file in files {
        match file.kind {
            0 => {
                number += 1;
                segment(&mut file.bytes, number);
            }
            1 => repair::index(&mut file.bytes),
            _ => repair::checkpoint(&mut file.bytes),
        }
    }
}

/// A segment's two headers and its groups, one after the other; see the format's own files.
fn segment(bytes: &mut [u8], number: u64) {
    let file_bytes = bytes.len() as u64;
    let Some((headers, groups)) = bytes.split_at_mut_checked(2 * BLOCK) else { return };
    for header in headers.chunks_mut(BLOCK) {
        repair::put(header, 16, &SHARD.0.to_le_bytes());
        repair::put(header, 24, &number.to_le_bytes());
        repair::put(header, 48, &file_bytes.to_le_bytes());
        repair::seal(header, 8, 12);
    }
    let (salt, position) = (repair::u64_at(headers, 32), repair::u64_at(headers, 40));
    let mut group_number = repair::u64_at(headers, 112);
    let (mut previous_crc, mut at) = (0, 0);
    while let Some(rest) = groups.get_mut(at..).filter(|rest| rest.starts_with(b"BGRP")) {
        let length = repair::u32_at(rest, 40) as usize / BLOCK * BLOCK;
        let length = length.clamp(BLOCK, rest.len());
        let Some(group) = rest.get_mut(..length) else { return };
        repair::put(group, 8, &number.to_le_bytes());
        repair::put(group, 16, &group_number.to_le_bytes());
        repair::put(group, 24, &position.wrapping_add(at as u64).to_le_bytes());
        repair::put(group, 56, &SHARD.0.to_le_bytes());
        repair::put(group, 60, &u32::to_le_bytes(previous_crc));
        let entries_end = 128 + (repair::u32_at(group, 44) as usize).min(length - 128);
        repair::put(group, 44, &((entries_end - 128) as u32).to_le_bytes());
        entries(group.get_mut(128..entries_end).unwrap_or_default());
        repair::group(group, salt);
        previous_crc = repair::u32_at(group, 4);
        group_number = group_number.wrapping_add(1);
        at += length;
    }
}

/// Entries one after the other; the hash of the one before is unknown.
fn entries(mut bytes: &mut [u8]) {
    while bytes.len() >= 80 {
        let length = 80 + (repair::u32_at(bytes, 8) as usize).min(bytes.len() - 80);
        let (own, others) = std::mem::take(&mut bytes).split_at_mut(length);
        repair::put(own, 28, &SHARD.0.to_le_bytes());
        repair::put(own, 56, &[0; 8]);
        repair::entry(own);
        bytes = others;
    }
}

fn options() -> Options {
    let segment_bytes = 40 * 1024;
    Options { segment_bytes, pool_segments: 1, cache_bytes: 16 * 1024, ..Options::new(SHARD) }
}

/// True if the log can be opened.
fn feed(files: Vec<Piece>) -> bool {
    let disk = aside(|| {
        let disk = Disk::default();
        run_on(1, &disk, write(files));
        disk
    });
    let last = run_on(2, &disk, use_log());
    let again = run_on(3, &disk, async {
        drop(verify(Path::new("/")).await);
        open().await.map(|log| log.last_log_id())
    });
    if let Some(last) = last {
        assert_eq!(again, Some(Some(last)), "what was written is not there");
    }
    last.is_some()
}

/// Writes the files as they would lie in the folder.
async fn write(files: Vec<Piece>) {
    let done = fs::create_dir_all(DIR).await;
    assert!(done.is_ok(), "{done:?}");
    let mut number = 0_u64;
    for Piece { kind, bytes } in files {
        number += u64::from(kind == 0);
        let name = match kind {
            0 => format!("{number:020}.log"),
            1 => format!("{number:020}.idx"),
            _ => format!("{:020}.ckp", repair::u64_at(&bytes, 32)),
        };
        let path = Path::new(DIR).join(name);
        if kind != 0 {
            drop(fs::write_atomic(&path, &bytes).await);
        } else if let Ok(file) = File::create(&path, bytes.len() as u64).await
            && !bytes.is_empty()
        {
            let mut buffer = Buffer::new(bytes.len());
            buffer.copy_from_slice(&bytes);
            drop(file.write_at(&buffer.freeze(), 0).await);
        }
    }
}

async fn open() -> Option<CommitLog> {
    let found = CommitLog::read_checkpoint(Path::new(DIR), SHARD).await.ok()?;
    let opened = CommitLog::open(PathBuf::from(DIR), options(), found).await;
    opened.ok().map(|(log, _)| log)
}

/// Opens the log, reads all of it, adds an entry; gives the id of that.
async fn use_log() -> Option<LogId> {
    let log = open().await?;
    let last = log.last_log_id();
    if let (Some(first), Some(last)) = (log.first_log_id(), last) {
        // Any of them may be damaged, and is told so.
        drop(log.read_entries(first.index.0..last.index.0 + 1, 1 << 20).await);
        drop(log.read_whole_entries(first.index.0..last.index.0 + 1, 1 << 20).await);
    }
    for partition in 0..3 {
        let key = PartitionKey { topic: TopicId(1), partition: PartitionId(partition) };
        drop(log.read_batches(key, Offset(0), 1 << 16).await);
        drop(log.offset_at_time(key, 0).await);
    }
    let index = last.map_or(0, |last| last.index.0 + 1);
    let id = LogId { term: last.map_or(Term(1), |last| last.term), index: LogIndex(index) };
    let entry = blank(id);
    let written = log.append(vec![entry]).await;
    assert!(written.is_ok(), "an open log takes an entry: {written:?}");
    log.close().await;
    Some(id)
}

fn blank(id: LogId) -> Entry {
    let command = Bytes::from_static(b"command");
    Entry { id, kind: EntryKind::Command, log_time_ms: 7, command, runs: Vec::new() }
}

/// A folder as an input.
fn to_input(folder: &BTreeMap<String, Vec<u8>>) -> Vec<u8> {
    let mut input = Vec::new();
    for (name, bytes) in folder {
        let kind = match name.rsplit('.').next() {
            Some("log") => 0,
            Some("idx") => 1,
            Some("ckp") => 2,
            _ => continue,
        };
        let blocks: Vec<(usize, &[u8])> = bytes
            .chunks(BLOCK)
            .map(|block| match block.iter().rposition(|byte| *byte != 0) {
                Some(last) => block.get(..=last).unwrap_or_default(),
                None => &[],
            })
            .enumerate()
            .filter(|(_, block)| !block.is_empty())
            .collect();
        input.extend([kind, bytes.len().div_ceil(BLOCK) as u8, blocks.len() as u8]);
        for (at, block) in blocks {
            input.push(at as u8);
            input.extend((block.len() as u16).to_le_bytes());
            input.extend(block);
        }
    }
    input
}

/// The folder of a log that `work` was done with.
fn folder_after<F: Future<Output = ()>>(work: impl FnOnce(CommitLog) -> F) -> Vec<u8> {
    let disk = Disk::default();
    let folder = run_on(1, &disk, async {
        let opened = open().await;
        assert!(opened.is_some(), "an empty folder opens");
        if let Some(log) = opened {
            work(log.clone()).await;
            log.close().await;
        }
        let mut folder = BTreeMap::new();
        for name in fs::list(DIR).await.unwrap_or_default() {
            let bytes = fs::read(Path::new(DIR).join(&name)).await.unwrap_or_default();
            folder.insert(name, bytes);
        }
        folder
    });
    to_input(&folder)
}

async fn append(log: &CommitLog, term: u64, index: u64) {
    let id = LogId { term: Term(term), index: LogIndex(index) };
    let done = log.append(vec![super::sample::entry(id)]).await;
    assert!(done.is_ok(), "a sample entry is written: {done:?}");
}

fn seeds() -> Vec<Seed> {
    let few = folder_after(async |log| {
        append(&log, 1, 0).await;
        append(&log, 1, 1).await;
    });
    let truncated = folder_after(async |log| {
        append(&log, 1, 0).await;
        append(&log, 1, 1).await;
        drop(log.truncate_after(Some(LogId { term: Term(1), index: LogIndex(0) })).await);
        append(&log, 2, 1).await;
    });
    let several = folder_after(async |log| {
        append(&log, 1, 0).await;
        log.index_run(LogIndex(0), 0);
        // Every group is a block, and a segment has eight of them.
        for index in 1..13 {
            let id = LogId { term: Term(1), index: LogIndex(index) };
            drop(log.append(vec![blank(id)]).await);
        }
        append(&log, 1, 13).await;
        let id = LogId { term: Term(1), index: LogIndex(13) };
        log.set_applied(id);
        drop(log.write_checkpoint(id, [b"state".to_vec()]).await);
        drop(log.set_floor(LogId { term: Term(1), index: LogIndex(9) }).await);
    });
    let cases = [("few", few), ("truncated", truncated), ("several", several)];
    cases.map(|(name, input)| (name.to_owned(), input)).into()
}

/// A folder of this target is never large.
fn large() -> Vec<Seed> {
    Vec::new()
}
