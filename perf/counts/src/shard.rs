//! A data shard: an entry is made by its leader and applied by a replica; records of a queue group
//! are leased and acked.

use anyhow::{Context as _, Result, ensure};
use barrage_broker::counting::{Batch, Proposal, Shard, partition};
use barrage_model::PartitionKey;
use bytes::Bytes;

use crate::Task;
use crate::batches::{self, PARTITIONS};

/// Records that are leased at once.
const LEASE_RECORDS: u32 = 100;

/// An operation is an entry of 64 batches of one record, by 16 idempotent producers for 16
/// partitions: each batch is decided and stamped, the command is encoded.
pub(crate) fn propose(task: Task) -> Result<()> {
    let mut shard = Shard::new(PARTITIONS);
    let mut entries = prepared(task)?.into_iter();
    for _ in 0..task.done {
        let batches = entries.next().context("too few are prepared")?;
        shard.propose(batches).context("a batch is not taken")?;
    }
    // What is left would be dropped in the one run and not in the other.
    std::mem::forget(entries);
    Ok(())
}

/// An operation is the apply of such an entry.
pub(crate) fn apply(task: Task) -> Result<()> {
    let mut shard = Shard::new(PARTITIONS);
    let mut proposals: Vec<Proposal> = Vec::new();
    for batches in prepared(task)? {
        proposals.push(shard.propose(batches).context("a batch is not taken")?);
    }
    for proposal in proposals.iter().take(task.done as usize) {
        ensure!(shard.apply(proposal), "a run does not count");
    }
    Ok(())
}

/// An operation is 100 records leased and acked, each by a command that is encoded and applied.
pub(crate) fn lease_and_ack(task: Task) -> Result<()> {
    let mut shard = Shard::new(1);
    let batch = Bytes::from(batches::batch(task.prepared * LEASE_RECORDS)?);
    let proposal = shard.propose(vec![(partition(0), Batch::check(batch)?)]);
    ensure!(shard.apply(&proposal.context("the batch is not taken")?), "the records are there");
    for _ in 0..task.done {
        let receipts = shard.lease(0, LEASE_RECORDS).context("nothing is leased")?;
        ensure!(receipts.count() == LEASE_RECORDS as usize, "as many as asked for");
        ensure!(shard.ack(0, receipts), "every ack takes effect");
    }
    Ok(())
}

fn prepared(task: Task) -> Result<Vec<Vec<(PartitionKey, Batch)>>> {
    (0..task.prepared).map(batches::small).collect()
}
