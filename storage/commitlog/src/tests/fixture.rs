//! Entries and checks that all tests of the log share.

use crate::{Batch, Checkpoint, CommitLog, Entry, EntryKind, Options, Run};
use barrage_model::batch::{BatchBuilder, BatchView, Compression, NewRecord};
use barrage_model::{LogId, LogIndex, Offset, PartitionId, PartitionKey, ShardId, Term, TopicId};
use bytes::Bytes;
use std::path::Path;
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

/// An entry with one record at `offset` of partition 0.
pub(super) fn entry(term: u64, index: u64, offset: u64, value: &[u8]) -> Entry {
    let batch = batch(offset, value);
    let run = Run {
        key: key(0),
        base_offset: Offset(offset),
        record_count: 1,
        max_timestamp: 1_000,
        byte_len: batch.bytes.len() as u32,
        batches: vec![batch],
        gone: None,
    };
    Entry { runs: vec![run], ..blank(term, index) }
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
