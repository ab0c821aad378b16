//! The batches that pieces work on: fixed bytes, built once.
//!
//! Owns: their shape. Must never: draw anything at random.

use anyhow::Result;
use barrage_broker::counting::{Batch, partition};
use barrage_model::batch::{BatchBuilder, Compression, NewRecord, set_producer};
use barrage_model::{PartitionKey, ProducerEpoch, ProducerId, Sequence};
use bytes::Bytes;

/// Bytes of a record's value.
const VALUE_BYTES: usize = 100;
/// What a record adds to its batch beside its value.
const RECORD_OVERHEAD: usize = 10;
/// Records of a batch of about 64 KiB.
pub(crate) const RECORDS_64K: u32 = (64 << 10) / (VALUE_BYTES + RECORD_OVERHEAD) as u32;
/// Batches of an entry of many small ones, as they come together under load.
pub(crate) const SMALL_PER_ENTRY: u32 = 64;
/// Partitions that those are for.
pub(crate) const PARTITIONS: u32 = 16;

/// A batch of so many records.
pub(crate) fn batch(records: u32) -> Result<Vec<u8>> {
    let value: Vec<u8> = (0..VALUE_BYTES).map(|at| (at * 31 % 251) as u8).collect();
    let mut builder = BatchBuilder::new(Compression::None, 0);
    for _ in 0..records {
        let record = NewRecord { key: None, value: Some(&value), headers: &[], timestamp_ms: 0 };
        builder.push(&record)?;
    }
    Ok(builder.finish()?)
}

/// The batches of an entry: of one record, of one producer for each partition, and checked. It is
/// entry number `number` of those producers.
pub(crate) fn small(number: u32) -> Result<Vec<(PartitionKey, Batch)>> {
    let template = batch(1)?;
    let per_partition = SMALL_PER_ENTRY / PARTITIONS;
    let mut batches = Vec::with_capacity(SMALL_PER_ENTRY as usize);
    for round in 0..per_partition {
        let sequence = Sequence(i32::try_from(number * per_partition + round)?);
        for owner in 0..PARTITIONS {
            let mut bytes = template.clone();
            let producer = ProducerId(i64::from(owner));
            set_producer(&mut bytes, producer, ProducerEpoch(0), sequence)?;
            batches.push((partition(owner), Batch::check(Bytes::from(bytes))?));
        }
    }
    Ok(batches)
}
