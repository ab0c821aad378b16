//! What several targets make their seeds of: a batch, an entry.

use barrage_commitlog::{Batch, Entry, EntryKind, Run};
use barrage_model::batch::{BatchBuilder, BatchView, Compression, NewRecord};
use barrage_model::{LogId, Offset, PartitionId, PartitionKey, TopicId};
use bytes::Bytes;

/// A batch of so many records.
pub(super) fn batch(compression: Compression, count: i64) -> Vec<u8> {
    let mut builder = BatchBuilder::new(compression, 1_700_000_000_000);
    for number in 0..count {
        let headers: &[(&[u8], &[u8])] = &[(b"trace", b"42"), (b"", b"")];
        let record = NewRecord {
            key: (number % 2 == 0).then_some(b"key"),
            value: (number % 3 != 1).then_some(b"a value that is worth compressing"),
            headers: if number % 4 == 0 { headers } else { &[] },
            timestamp_ms: 1_700_000_000_000 + number * 1000,
        };
        let pushed = builder.push(&record);
        assert_eq!(pushed, Ok(()), "a sample record fits");
    }
    builder.finish().unwrap_or_default()
}

/// An entry with a command and two runs, of five and two records.
pub(super) fn entry(id: LogId) -> Entry {
    let base = Offset(id.index.0 * 5);
    Entry {
        id,
        kind: EntryKind::Command,
        log_time_ms: 1_700_000_000_000,
        command: Bytes::from_static(b"put"),
        runs: vec![run(0, base, &[1, 4]), run(1, base, &[2])],
    }
}

fn run(partition: u32, base: Offset, counts: &[i64]) -> Run {
    let mut base_offset = base;
    let mut batches = Vec::new();
    for count in counts {
        let bytes = Bytes::from(batch(Compression::None, *count));
        let crc = BatchView::check(&bytes).map_or(0, |view| view.crc());
        batches.push(Batch { bytes, base_offset, leader_epoch: 3, crc });
        base_offset = Offset(base_offset.0 + count.unsigned_abs());
    }
    Run {
        key: PartitionKey { topic: TopicId(1), partition: PartitionId(partition) },
        base_offset: base,
        record_count: counts.iter().sum::<i64>() as u32,
        max_timestamp: 5,
        byte_len: batches.iter().map(|batch| batch.bytes.len() as u32).sum(),
        batches,
        gone: None,
    }
}
