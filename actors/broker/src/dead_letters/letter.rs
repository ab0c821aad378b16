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
/// Batches that are looked for before records go on their way: as many letters as go at once.
const LOOKS_MAX: usize = RECORDS_PER_BATCH;

/// What letters say when they stand for a record.
const UNREADABLE: &str = "the record cannot be read or moved";
const GONE: &str = "the record is gone: retention took it before it could be moved";

/// What is said of where the letters of a slot come from.
pub(super) struct Origins {
    pub(super) slot: Slot,
    pub(super) topic: TopicName,
    pub(super) group: GroupName,
}

/// There is no batch, though something is to go.
pub(super) struct Unreadable;

/// The stored batch that holds a record.
enum Found {
    Batch(Slice),
    /// Records from this one on and before that one are gone: retention has dropped them before
    /// they could be moved, or every group was done with them once (see `shard::reclaim`).
    GoneBefore {
        offset: Offset,
        log_time_ms: i64,
    },
}

/// What is found of those that are to go on their way.
pub(super) struct Looked {
    /// The first of them, which are gone.
    pub(super) gone: Vec<Offset>,
    /// How many of the first are there, if none of them is gone.
    pub(super) there: usize,
}

/// Looks whether the first of these, ascending, are there, so many as some reads tell.
pub(super) async fn look(
    shard: &Shard,
    key: PartitionKey,
    dying: Vec<Offset>,
) -> Result<Looked, Unreadable> {
    let mut looked = Looked { gone: Vec::new(), there: 0 };
    let mut dying = dying.into_iter().peekable();
    for _ in 0..LOOKS_MAX {
        let Some(at) = dying.peek().copied() else { break };
        match read_one(shard, key, at).await {
            Ok(Found::Batch(batch)) if looked.gone.is_empty() => {
                let header = BatchHeader::peek(&batch).map_err(|_| Unreadable)?;
                dying.next();
                looked.there += 1;
                while dying.next_if(|at| *at < header.next_offset()).is_some() {
                    looked.there += 1;
                }
            }
            Ok(Found::GoneBefore { offset, .. }) if looked.there == 0 => {
                while let Some(gone) = dying.next_if(|at| *at < offset) {
                    looked.gone.push(gone);
                }
            }
            Err(error) if looked.there == 0 && looked.gone.is_empty() => return Err(error),
            _ => break,
        }
    }
    Ok(looked)
}

/// The next batch, and how many letters are in it. Of the same list and the same log it is the
/// same.
pub(super) async fn build(
    shard: &Shard,
    origins: &Origins,
    departed: &Departed,
    producer: ProducerId,
) -> Result<(Bytes, usize), Unreadable> {
    let mut letters = Letters { builder: None, count: 0, size: 0, is_full: false };
    let list = departed.list.iter();
    let mut list = list.map(|dead| Origin { of: origins, dead: *dead }).collect::<VecDeque<_>>();
    while let Some(first) = list.front().filter(|_| !letters.is_full) {
        match read_one(shard, origins.slot.key, first.dead.offset).await? {
            Found::Batch(batch) => letters.add_from(&batch, &mut list)?,
            Found::GoneBefore { offset, log_time_ms } => {
                letters.add_gone(offset, log_time_ms, &mut list)?;
            }
        }
    }
    let mut bytes = letters.finish()?;
    let (_, first) = departed.position;
    batch::set_producer(&mut bytes, producer, ProducerEpoch(0), first).map_err(|_| Unreadable)?;
    // Wrong when planted: a batch that is sent again is another one.
    if planted("broker-dead-letters-unnumbered") {
        let none = (ProducerId::NONE, ProducerEpoch::NONE, Sequence::NONE);
        batch::set_producer(&mut bytes, none.0, none.1, none.2).map_err(|_| Unreadable)?;
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
            let letter = record.as_ref().map_or(Letter::Unreadable, Letter::Record);
            if !self.add(&letter, timestamp_ms, origin)? {
                self.is_full = true;
                return Ok(());
            }
            before = Some(at);
            list.pop_front();
        }
        Ok(())
    }

    /// Adds letters that tell of records at the front of the list, which are gone.
    fn add_gone(
        &mut self,
        before: Offset,
        log_time_ms: i64,
        list: &mut VecDeque<Origin<'_>>,
    ) -> Result<(), Unreadable> {
        let mut from = Offset(0);
        while let Some(origin) =
            list.front().filter(|origin| (from..before).contains(&origin.dead.offset))
        {
            if !self.add(&Letter::Gone, log_time_ms, origin)? {
                self.is_full = true;
                return Ok(());
            }
            from = origin.dead.offset;
            list.pop_front();
        }
        Ok(())
    }

    /// Adds a letter; false where it has no room beside the others.
    fn add(
        &mut self,
        letter: &Letter<'_>,
        timestamp_ms: i64,
        origin: &Origin<'_>,
    ) -> Result<bool, Unreadable> {
        let Self { builder, count, size, .. } = self;
        let record = letter.record();
        *size += record.map_or(0, size_of);
        if *count >= RECORDS_PER_BATCH || (*count > 0 && *size > BYTES_PER_BATCH) {
            return Ok(false);
        }
        let builder = builder.get_or_insert_with(|| {
            let first_ms = record.map_or(timestamp_ms, |record| record.timestamp_ms);
            BatchBuilder::new(Compression::None, first_ms)
        });
        let pushed = match letter {
            Letter::Record(record) => push(builder, record, origin),
            Letter::Unreadable => push_stand_in(builder, timestamp_ms, origin, UNREADABLE),
            Letter::Gone => push_stand_in(builder, timestamp_ms, origin, GONE),
        };
        // One that fits into no batch at all is told of; beside others, it goes with the next.
        let pushed = match pushed {
            Err(_) if *count == 0 => push_stand_in(builder, timestamp_ms, origin, UNREADABLE),
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

/// What a letter is of.
enum Letter<'a> {
    Record(&'a Record<'a>),
    Unreadable,
    Gone,
}

impl<'a> Letter<'a> {
    const fn record(&self) -> Option<&'a Record<'a>> {
        match self {
            Self::Record(record) => Some(record),
            Self::Unreadable | Self::Gone => None,
        }
    }
}

/// Where a letter comes from.
struct Origin<'a> {
    of: &'a Origins,
    dead: Dead,
}

impl Origin<'_> {
    /// Hands over the headers that tell it.
    fn tell<T>(&self, read: impl FnOnce(&[(&[u8], &[u8])]) -> T) -> T {
        let partition = self.of.slot.key.partition.to_string();
        let Dead { offset, deliveries, is_too_old } = self.dead;
        let (offset, deliveries) = (offset.to_string(), deliveries.to_string());
        let reason: &[u8] = if is_too_old { b"expired" } else { b"deliveries" };
        read(&[
            (b"dead-letter-topic", self.of.topic.as_str().as_bytes()),
            (b"dead-letter-group", self.of.group.as_str().as_bytes()),
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

/// Adds a record that stands for one which cannot be moved. The headers say why, and where it lies
/// as long as retention keeps it there.
fn push_stand_in(
    builder: &mut BatchBuilder,
    timestamp_ms: i64,
    origin: &Origin<'_>,
    error: &str,
) -> Result<(), BatchError> {
    let why: (&[u8], &[u8]) = (b"dead-letter-error", error.as_bytes());
    let value: Option<&[u8]> = Some(b"");
    origin.tell(|told| {
        let headers = &[told, &[why]].concat();
        builder.push(&NewRecord { key: None, value, headers, timestamp_ms })
    })
}

/// Looks for the batch that holds a record.
async fn read_one(shard: &Shard, key: PartitionKey, offset: Offset) -> Result<Found, Unreadable> {
    let (start, log_time_ms) = shard.group().with_machine(|machine| {
        let partition = machine.state().partitions.get(&key);
        let start = partition.map_or(Offset(u64::MAX), |partition| partition.start_offset);
        (start, machine.state().log_time_ms)
    });
    if start > offset {
        return Ok(Found::GoneBefore { offset: start, log_time_ms });
    }
    let read = shard.group().log().read_batches(key, offset, READ_BYTES).await;
    let slice = read.ok().and_then(|slices| slices.into_iter().next());
    let slice = slice.ok_or(Unreadable)?;
    let header = BatchHeader::peek(&slice).map_err(|_| Unreadable)?;
    if header.base_offset > offset {
        return Ok(Found::GoneBefore { offset: header.base_offset, log_time_ms });
    }
    Ok(Found::Batch(slice.slice(0..header.batch_len_total.min(slice.len()))))
}
