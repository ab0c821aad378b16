//! The machine of the replicas: records of one partition, some of them refused.

use std::collections::BTreeMap;

use barrage_commitlog::{Batch, CommitLog, Run};
use barrage_model::batch::{BatchBuilder, BatchView, Compression, NewRecord};
use barrage_model::{LogIndex, Offset, PartitionId, PartitionKey, TopicId};
use barrage_raft::{Applied, Machine, Parts, Proposal, RestoreError, UnknownCommand};
use bytes::Bytes;

/// The only partition.
pub(crate) const KEY: PartitionKey = PartitionKey { topic: TopicId(1), partition: PartitionId(0) };

/// Keeps the offsets; the records stay in the log.
#[derive(Default)]
pub(crate) struct Shelf {
    log: Option<CommitLog>,
    pub(crate) next: u64,
    pub(crate) start: u64,
    pub(crate) refused: u64,
    /// Index of the entry that stored each offset, for the tests to compare.
    pub(crate) stored: BTreeMap<u64, u64>,
}

impl Machine for Shelf {
    /// Whether the batch was stored.
    type Reply = bool;

    fn attach(&mut self, log: &CommitLog) {
        self.log = Some(log.clone());
        log.set_start(KEY, Offset(self.start));
    }

    fn apply(&mut self, entry: &Applied<'_>) -> Result<bool, UnknownCommand> {
        let log = self.log.as_ref().unwrap();
        if let Ok(start) = entry.command.try_into().map(u64::from_le_bytes) {
            self.start = start;
            log.set_start(KEY, Offset(start));
            self.stored.retain(|offset, _| *offset >= start);
            return Ok(true);
        }
        let run = &entry.runs[0];
        if run.base_offset.0 != self.next {
            self.refused += 1;
            log.refuse_run(LogIndex(entry.id.index.0), 0);
            return Ok(false);
        }
        log.index_run(LogIndex(entry.id.index.0), 0);
        self.stored.insert(self.next, entry.id.index.0);
        self.next += 1;
        Ok(true)
    }

    fn checkpoint(&self) -> Parts {
        let mut fields = vec![self.next, self.start, self.refused];
        fields.extend(self.stored.iter().flat_map(|(offset, index)| [*offset, *index]));
        Parts::one(fields.into_iter().flat_map(u64::to_le_bytes).collect())
    }

    fn restore(&mut self, bytes: &[u8]) -> Result<(), RestoreError> {
        let fields: Vec<u64> = bytes
            .chunks_exact(8)
            .map(|field| u64::from_le_bytes(field.try_into().unwrap()))
            .collect();
        (self.next, self.start, self.refused) = (fields[0], fields[1], fields[2]);
        self.stored = fields[3..].chunks_exact(2).map(|pair| (pair[0], pair[1])).collect();
        if let Some(log) = &self.log {
            log.set_start(KEY, Offset(self.start));
        }
        Ok(())
    }
}

/// The value of the record at an offset; long enough that logs roll.
pub(crate) fn value(offset: u64) -> Vec<u8> {
    let mut value = format!("record {offset} ").into_bytes();
    value.resize(2_000 + usize::try_from(offset * 37 % 3_000).unwrap(), b'.');
    value
}

/// A record stamped with `offset`.
pub(crate) fn record(offset: u64, value: &[u8]) -> Proposal {
    let mut builder = BatchBuilder::new(Compression::None, 1_000);
    let record = NewRecord { key: None, value: Some(value), headers: &[], timestamp_ms: 1_000 };
    builder.push(&record).unwrap();
    let bytes = Bytes::from(builder.finish().unwrap());
    let crc = BatchView::check(&bytes).unwrap().header().crc;
    let byte_len = u32::try_from(bytes.len()).unwrap();
    let batch = Batch { bytes, base_offset: Offset(offset), leader_epoch: 1, crc };
    let run = Run {
        key: KEY,
        base_offset: Offset(offset),
        record_count: 1,
        max_timestamp: 1_000,
        byte_len,
        batches: vec![batch],
        gone: None,
    };
    Proposal { command: Bytes::from_static(b"store"), runs: vec![run], log_time_ms: 42 }
}

/// Lets go of everything before an offset.
pub(crate) fn advance(start: u64) -> Proposal {
    let command = Bytes::copy_from_slice(&start.to_le_bytes());
    Proposal { command, runs: Vec::new(), log_time_ms: 42 }
}

/// The value at `offset` as a consumer would get it.
pub(crate) async fn value_at(log: &CommitLog, offset: u64) -> Option<Vec<u8>> {
    let slices = log.read_batches(KEY, Offset(offset), 1).await.unwrap();
    let view = BatchView::check(slices.first()?).unwrap();
    if view.header().base_offset != Offset(offset) {
        return None;
    }
    let records = view.records(&Default::default()).unwrap();
    let record = records.iter().next().unwrap().unwrap();
    record.value.map(<[u8]>::to_vec)
}
