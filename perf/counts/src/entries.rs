//! Encoding an entry into the group that is written: stamps, the one copy, checksums.

use std::hint::black_box;

use anyhow::{Context as _, Result, ensure};
use barrage_broker::counting::{Batch, Shard, partition};
use barrage_commitlog::counting::Encoder;
use barrage_commitlog::{Entry, EntryKind, Run};
use barrage_model::{LogId, LogIndex, PartitionKey, ShardId, Term};
use bytes::Bytes;

use crate::Task;
use crate::batches::{self, PARTITIONS, RECORDS_64K};

const COMMAND_BYTES: usize = 2_000;

/// An operation is an entry of 64 batches of one record, for 16 partitions.
pub(crate) fn encode_small(task: Task) -> Result<()> {
    encode(task, batches::small(0)?)
}

/// An operation is an entry of one batch of 64 KiB.
pub(crate) fn encode_large(task: Task) -> Result<()> {
    let batch = Batch::check(Bytes::from(batches::batch(RECORDS_64K)?))?;
    encode(task, vec![(partition(0), batch)])
}

/// An entry with the runs that a leader makes of these batches.
pub(crate) fn runs_of(batches: Vec<(PartitionKey, Batch)>) -> Result<Vec<Run>> {
    let proposal = Shard::new(PARTITIONS).propose(batches);
    Ok(proposal.context("the batches are not taken")?.runs)
}

fn encode(task: Task, batches: Vec<(PartitionKey, Batch)>) -> Result<()> {
    let entry = Entry {
        id: LogId { term: Term(1), index: LogIndex(1) },
        kind: EntryKind::Command,
        log_time_ms: 0,
        command: Bytes::from(vec![1; COMMAND_BYTES]),
        runs: runs_of(batches)?,
    };
    let mut encoder = Encoder::new(ShardId(1), &entry);
    for _ in 0..task.done {
        let (len, crc) = encoder.encode(black_box(&entry));
        ensure!(len > COMMAND_BYTES && black_box(crc) != 0, "an entry was written");
    }
    Ok(())
}
