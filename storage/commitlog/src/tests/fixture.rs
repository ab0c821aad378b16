//! Entries and checks that all tests of the log share.

use crate::{Batch, Checkpoint, CommitLog, Entry, EntryKind, Options, Run};
use barrage_model::batch::{BatchBuilder, BatchView, Compression, NewRecord};
use barrage_model::{LogId, LogIndex, Offset, PartitionId, PartitionKey, ShardId, Term, TopicId};
use barrage_world::fs;
use bytes::Bytes;
use std::path::{Path, PathBuf};
use std::time::Duration;

pub(super) const SHARD: ShardId = ShardId(1);

pub(super) fn key(partition: u32) -> PartitionKey {
    PartitionKey { topic: TopicId(1), partition: PartitionId(partition) }
}

pub(super) fn id(term: u64, index: u64) -> LogId {
    LogId { term: Term(term), index: LogIndex(index) }
}

/// What a log is opened with when its machine has applied up to `applied`: the checkpoint in the
/// folder, or one that remembers nothing else.
pub(super) async fn checkpoint_at(dir: &Path, applied: Option<LogId>) -> Option<Checkpoint> {
    let id = applied?;
    let found = CommitLog::read_checkpoint(dir, SHARD).await.unwrap();
    let bare = Checkpoint::bare(id);
    Some(found.filter(|found| found.id == id).unwrap_or(bare))
}

/// A log's folder, and what removes it.
#[cfg(not(sim))]
pub(super) fn folder() -> (tempfile::TempDir, PathBuf) {
    // Beside the target folder: a temporary folder in memory may not do direct I/O.
    let dir = tempfile::tempdir_in(env!("CARGO_MANIFEST_DIR")).unwrap();
    let path = dir.path().join("shards").join("1");
    (dir, path)
}

#[cfg(sim)]
pub(super) fn folder() -> ((), PathBuf) {
    ((), PathBuf::from("/data/shards/1"))
}

/// Opens a log whose machine has applied up to `applied`, all of term 1.
pub(super) async fn open_with(dir: &Path, options: Options, applied: Option<u64>) -> CommitLog {
    fs::create_dir_all(dir.parent().unwrap()).await.unwrap();
    #[cfg(not(sim))]
    barrage_world::prepare_directory(dir.parent().unwrap()).await.unwrap();
    let checkpoint = checkpoint_at(dir, applied.map(|index| id(1, index))).await;
    CommitLog::open(dir.to_owned(), options, checkpoint).await.unwrap().0
}

/// Tiny segments, so that every short workload rolls.
pub(super) fn options() -> Options {
    Options {
        segment_bytes: 40 * 1024,
        pool_segments: 1,
        cache_bytes: 16 * 1024,
        idle_mark_after: Duration::from_millis(50),
        ..Options::new(SHARD)
    }
}

/// A batch of one record whose value says which it is.
pub(super) fn batch(offset: u64, value: &[u8]) -> Batch {
    let mut builder = BatchBuilder::new(Compression::None, 1_000);
    let record = NewRecord { key: None, value: Some(value), headers: &[], timestamp_ms: 1_000 };
    builder.push(&record).unwrap();
    let bytes = Bytes::from(builder.finish().unwrap());
    let crc = BatchView::check(&bytes).unwrap().header().crc;
    Batch { bytes, base_offset: Offset(offset), leader_epoch: 1, crc }
}

/// A run of one record.
pub(super) fn run(partition: u32, offset: u64, value: &[u8]) -> Run {
    let batch = batch(offset, value);
    Run {
        key: key(partition),
        base_offset: Offset(offset),
        record_count: 1,
        max_timestamp: 1_000,
        byte_len: batch.bytes.len() as u32,
        batches: vec![batch],
        gone: None,
    }
}

/// An entry with one record at `offset` of partition 0.
pub(super) fn entry(term: u64, index: u64, offset: u64, value: &[u8]) -> Entry {
    Entry { runs: vec![run(0, offset, value)], ..blank(term, index) }
}

pub(super) fn blank(term: u64, index: u64) -> Entry {
    Entry {
        id: id(term, index),
        kind: EntryKind::Command,
        log_time_ms: index as i64,
        command: Bytes::from(format!("command {term}/{index}")),
        runs: Vec::new(),
    }
}

/// The value of the record at `offset` of partition 0, as a consumer would get it.
pub(super) async fn value_at(log: &CommitLog, offset: u64) -> Option<Vec<u8>> {
    let slices = log.read_batches(key(0), Offset(offset), 1).await.unwrap();
    let slice = slices.first()?;
    let view = BatchView::check(slice).unwrap();
    assert_eq!(view.header().base_offset, Offset(offset), "the stamp is the offset");
    let records = view.records(&Default::default()).unwrap();
    let record = records.iter().next().unwrap().unwrap();
    record.value.map(<[u8]>::to_vec)
}
