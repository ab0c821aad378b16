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

/// What goes next.
pub(super) struct Built {
    /// The first of the list, which are gone: retention has dropped them before they could be
    /// moved, or every group was done with them once (see `shard::reclaim`).
    pub(super) gone: Vec<Offset>,
    /// A batch of those behind them, and how many these are; none when all of the list is gone.
    pub(super) letters: Option<(Bytes, usize)>,
}

/// There is no batch, though something is to go.
pub(super) struct Unreadable;

/// The stored batch that holds a record.
enum Found {
    Batch(Slice),
    /// Records from this one on and before that one are gone.
    GoneBefore(Offset),
}

/// The next batch. Built of the same list it is the same, while nothing of that is gone.
pub(super) async fn build(
    shard: &Shard,
    slot: Slot,
    address: &Address,
    departed: &Departed,
    producer: ProducerId,
) -> Result<Built, Unreadable> {
    let mut letters = Letters { builder: None, count: 0, size: 0, is_full: false };
    let mut gone = Vec::new();
    let list = departed.list.iter();
    let mut list = list.map(|dead| Origin { slot, address, dead: *dead }).collect::<VecDeque<_>>();
    while let Some(first) = list.front().filter(|_| !letters.is_full) {
        let at = first.dead.offset;
        match read_one(shard, slot.key, at).await? {
            Found::Batch(batch) => letters.add_from(&batch, &mut list)?,
            // What was put into the batch before goes first; then this one is met again.
            Found::GoneBefore(_) if letters.count > 0 => break,
            Found::GoneBefore(before) => {
                while let Some(origin) =
                    list.pop_front_if(|origin| (at..before).contains(&origin.dead.offset))
                {
                    gone.push(origin.dead.offset);
                }
            }
        }
    }
    if letters.count == 0 {
        return Ok(Built { gone, letters: None });
    }
    let mut bytes = letters.finish()?;
    let first = departed.first.wrapping_advance(u32::try_from(gone.len()).unwrap_or(0));
    batch::set_producer(&mut bytes, producer, ProducerEpoch(0), first).map_err(|_| Unreadable)?;
    // Wrong when planted: a batch that is sent again is another one.
    if planted("broker-dead-letters-unnumbered") {
        let none = (ProducerId::NONE, ProducerEpoch::NONE, Sequence::NONE);
        batch::set_producer(&mut bytes, none.0, none.1, none.2).map_err(|_| Unreadable)?;
    }
    Ok(Built { gone, letters: Some((Bytes::from(bytes), letters.count)) })
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
    fn add_from(
        &mut self,
        batch: &[u8],
        list: &mut VecDeque<Origin<'_>>,
    ) -> Result<(), Unreadable> {
        let view = BatchView::check(batch).map_err(|_| Unreadable)?;
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
    ) -> Result<bool, Unreadable> {
        let Self { builder, count, size, .. } = self;
        *size += record.map_or(0, size_of);
        if *count >= RECORDS_PER_BATCH || (*count > 0 && *size > BYTES_PER_BATCH) {
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
            Err(_) => return Err(Unreadable),
        }
        Ok(true)
    }

    fn finish(&mut self) -> Result<Vec<u8>, Unreadable> {
        let builder = self.builder.take().ok_or(Unreadable)?;
        builder.finish().map_err(|_| Unreadable)
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

/// Looks for the batch that holds a record.
async fn read_one(shard: &Shard, key: PartitionKey, offset: Offset) -> Result<Found, Unreadable> {
    let start = shard.group().with_machine(|machine| {
        let partition = machine.state().partitions.get(&key);
        partition.map_or(Offset(u64::MAX), |partition| partition.start_offset)
    });
    if start > offset {
        return Ok(Found::GoneBefore(start));
    }
    let read = shard.group().log().read_batches(key, offset, READ_BYTES).await;
    let slice = read.ok().and_then(|slices| slices.into_iter().next());
    let slice = slice.ok_or(Unreadable)?;
    let header = BatchHeader::peek(&slice).map_err(|_| Unreadable)?;
    if header.base_offset > offset {
        return Ok(Found::GoneBefore(header.base_offset));
    }
    Ok(Found::Batch(slice.slice(0..header.batch_len_total.min(slice.len()))))
}
