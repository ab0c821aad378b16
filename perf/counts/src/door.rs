//! The check of a batch at the door: its envelope, and the one pass over its bytes.

use std::hint::black_box;

use anyhow::Result;
use barrage_broker::counting::Batch;
use bytes::Bytes;

use crate::Task;
use crate::batches::{self, RECORDS_64K};

/// An operation is a batch of one record.
pub(crate) fn check_one(task: Task) -> Result<()> {
    check(task, 1)
}

/// An operation is a batch of 64 KiB.
pub(crate) fn check_large(task: Task) -> Result<()> {
    check(task, RECORDS_64K)
}

fn check(task: Task, records: u32) -> Result<()> {
    let bytes = Bytes::from(batches::batch(records)?);
    for _ in 0..task.done {
        black_box(Batch::check(black_box(&bytes).clone())?);
    }
    Ok(())
}
