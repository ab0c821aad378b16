//! Dead letters as batches: records of a partition, each with headers that say where it comes from.
//!
//! Owns: what a letter looks like, and how many go together. Must never: let a record that cannot
//! be read hold back the others.
//! Invariants: of the same list and the same log the same batch is built, whoever does it.

use std::collections::VecDeque;

use barrage_model::batch::{
    self, BatchBuilder, BatchError, BatchHeader, BatchView, Compression, DecompressionLimits,
    NewRecord, Record,
};
use barrage_model::{
    GroupName, Offset, PartitionKey, ProducerEpoch, ProducerId, Sequence, TopicName, headers,
};
use barrage_world::{Slice, planted};
use bytes::Bytes;

use super::{Dead, Departed};
use crate::shard::Shard;
use crate::shard::groups::Slot;

/// Records in one batch, and bytes of them, at most (one always goes). Few, because an entry of the
/// topic's log must hold it, however small its segments are (`queue` seed 38).
const RECORDS_PER_BATCH: usize = 64;
const BYTES_PER_BATCH: usize = 16 << 10;
/// The header that says how long the record was wanted.
const TTL_WAS: &[u8] = b"dead-letter-ttl-ms";
/// A batch read from the log.
const READ_BYTES: usize = 1;

/// Where the dead letters of a slot go, and what is said of where they come from.
pub(super) struct Address {
    pub(super) key: PartitionKey,
    pub(super) topic: TopicName,
    pub(super) group: GroupName,
}

/// Why there is no batch.
pub(super) enum Unbuilt {
    /// Records from the first on and before the other are gone: retention has dropped them before
    /// they could be moved, or every group was done with them once (see `shard::reclaim`).
    Gone(Offset, Offset),
    Unreadable,
}

/// The next batch, and how many records are in it. Built of the same list it is the same.
pub(super) async fn build(
    shard: &Shard,
    slot: Slot,
    address: &Address,
    departed: &Departed,
    producer: ProducerId,
) -> Result<(Bytes, usize), Unbuilt> {
    let mut letters = Letters { builder: None, count: 0, size: 0, is_full: false };
    let list = departed.list.iter().take(RECORDS_PER_BATCH);
    let mut list = list.map(|dead| Origin { slot, address, dead: *dead }).collect::<VecDeque<_>>();
    while let Some(first) = list.front().filter(|_| !letters.is_full) {
        let batch = match read_one(shard, slot.key, first.dead.offset).await {
            Ok(batch) => batch,
            // What was put into the batch before goes first; then this one is met again.
            Err(Unbuilt::Gone(..)) if letters.count > 0 => break,
            Err(error) => return Err(error),
        };
        letters.add_from(&batch, &mut list)?;
    }
    let mut bytes = letters.finish()?;
    batch::set_producer(&mut bytes, producer, ProducerEpoch(0), departed.first)
        .map_err(|_| Unbuilt::Unreadable)?;
    // Wrong when planted: a batch that is sent again is another one.
    if planted("broker-dead-letters-unnumbered") {
        let none = (ProducerId::NONE, ProducerEpoch::NONE, Sequence::NONE);
        batch::set_producer(&mut bytes, none.0, none.1, none.2).map_err(|_| Unbuilt::Unreadable)?;
    }
    Ok((Bytes::from(bytes), letters.count))
}

/// A batch of letters that is being built.
struct Letters {
    builder: Option<BatchBuilder>,
    count: usize,
    size: usize,
    is_full: bool,
}

impl Letters {
    /// Adds those at the front of the list that lie in a stored batch, in its order: it is opened
    /// once for all of them. The first of the list does.
    fn add_from(&mut self, batch: &[u8], list: &mut VecDeque<Origin<'_>>) -> Result<(), Unbuilt> {
        let view = BatchView::check(batch).map_err(|_| Unbuilt::Unreadable)?;
        let (end, timestamp_ms) = (view.header().next_offset(), view.base_timestamp());
        let opened = view.records(&DecompressionLimits::default()).ok();
        let mut records = opened.iter().flatten().filter_map(Result::ok).peekable();
        let mut before = None;
        while let Some(origin) = list.front() {
            let at = origin.dead.offset;
            if before.is_some_and(|before| at >= end || at <= before) {
                return Ok(());
            }
            while records.next_if(|record| record.offset < at).is_some() {}
            let record = records.next_if(|record| record.offset == at);
            if !self.add(record.as_ref(), timestamp_ms, origin)? {
                self.is_full = true;
                return Ok(());
            }
            before = Some(at);
            list.pop_front();
        }
        Ok(())
    }

    /// Adds a letter; false where it has no room beside the others.
    fn add(
        &mut self,
        record: Option<&Record<'_>>,
        timestamp_ms: i64,
        origin: &Origin<'_>,
    ) -> Result<bool, Unbuilt> {
        let Self { builder, count, size, .. } = self;
        *size += record.map_or(0, size_of);
        if *count > 0 && *size > BYTES_PER_BATCH {
            return Ok(false);
        }
        let builder = builder.get_or_insert_with(|| {
            let first_ms = record.map_or(timestamp_ms, |record| record.timestamp_ms);
            BatchBuilder::new(Compression::None, first_ms)
        });
        let pushed = match record {
            Some(record) => push(builder, record, origin),
            None => push_stand_in(builder, timestamp_ms, origin),
        };
        // One that fits into no batch at all is told of; beside others, it goes with the next.
        let pushed = match pushed {
            Err(_) if *count == 0 => push_stand_in(builder, timestamp_ms, origin),
            pushed => pushed,
        };
        match pushed {
            Ok(()) => *count += 1,
            Err(_) if *count > 0 => return Ok(false),
            Err(_) => return Err(Unbuilt::Unreadable),
        }
        Ok(true)
    }

    fn finish(&mut self) -> Result<Vec<u8>, Unbuilt> {
        let builder = self.builder.take().ok_or(Unbuilt::Unreadable)?;
        builder.finish().map_err(|_| Unbuilt::Unreadable)
    }
}

fn size_of(record: &Record<'_>) -> usize {
    let length = |bytes: Option<&[u8]>| bytes.map_or(0, <[u8]>::len);
    let headers = record.headers.iter().map(|header| header.key.len() + length(header.value));
    length(record.key) + length(record.value) + headers.sum::<usize>()
}

/// Where a letter comes from.
struct Origin<'a> {
    slot: Slot,
    address: &'a Address,
    dead: Dead,
}

impl Origin<'_> {
    /// Hands over the headers that tell it.
    fn tell<T>(&self, read: impl FnOnce(&[(&[u8], &[u8])]) -> T) -> T {
        let partition = self.slot.key.partition.to_string();
        let Dead { offset, deliveries, is_too_old } = self.dead;
        let (offset, deliveries) = (offset.to_string(), deliveries.to_string());
        let reason: &[u8] = if is_too_old { b"expired" } else { b"deliveries" };
        read(&[
            (b"dead-letter-topic", self.address.topic.as_str().as_bytes()),
            (b"dead-letter-group", self.address.group.as_str().as_bytes()),
            (b"dead-letter-partition", partition.as_bytes()),
            (b"dead-letter-offset", offset.as_bytes()),
            (b"dead-letter-deliveries", deliveries.as_bytes()),
            (b"dead-letter-reason", reason),
        ])
    }
}

/// Adds a record with what is to be known of where it comes from; without that where it has no room
/// for more headers.
fn push(
    builder: &mut BatchBuilder,
    record: &Record<'_>,
    origin: &Origin<'_>,
) -> Result<(), BatchError> {
    // A letter does not die of the time that its record had.
    let is_ttl = |key: &[u8]| key == headers::TTL_MS.as_bytes();
    let name = |key| if is_ttl(key) { TTL_WAS } else { key };
    let own = record.headers.iter();
    let own = own.map(|header| (name(header.key), header.value.unwrap_or_default()));
    let own: Vec<(&[u8], &[u8])> = own.collect();
    let Record { key, value, timestamp_ms, .. } = *record;
    let told = origin.tell(|told| {
        let headers = &[&own, told].concat();
        builder.push(&NewRecord { key, value, headers, timestamp_ms })
    });
    told.or_else(|_| builder.push(&NewRecord { key, value, headers: &own, timestamp_ms }))
}

/// Adds a record that stands for one which cannot be moved: nobody can read it, or it fits into no
/// batch. It lies in its topic as long as retention keeps it there, and the headers say where.
fn push_stand_in(
    builder: &mut BatchBuilder,
    timestamp_ms: i64,
    origin: &Origin<'_>,
) -> Result<(), BatchError> {
    let why: (&[u8], &[u8]) = (b"dead-letter-error", b"the record cannot be read or moved");
    let value: Option<&[u8]> = Some(b"");
    origin.tell(|told| {
        let headers = &[told, &[why]].concat();
        builder.push(&NewRecord { key: None, value, headers, timestamp_ms })
    })
}

/// The stored batch that holds a record.
async fn read_one(shard: &Shard, key: PartitionKey, offset: Offset) -> Result<Slice, Unbuilt> {
    let start = shard.group().with_machine(|machine| {
        let partition = machine.state().partitions.get(&key);
        partition.map_or(Offset(u64::MAX), |partition| partition.start_offset)
    });
    if start > offset {
        return Err(Unbuilt::Gone(offset, start));
    }
    let read = shard.group().log().read_batches(key, offset, READ_BYTES).await;
    let slice = read.ok().and_then(|slices| slices.into_iter().next());
    let slice = slice.ok_or(Unbuilt::Unreadable)?;
    let header = BatchHeader::peek(&slice).map_err(|_| Unbuilt::Unreadable)?;
    if header.base_offset > offset {
        return Err(Unbuilt::Gone(offset, header.base_offset));
    }
    Ok(slice.slice(0..header.batch_len_total.min(slice.len())))
}
