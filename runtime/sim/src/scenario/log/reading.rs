//! Reads of the log, compared with what was appended.
//!
//! Owns what a reader may expect: from the start of a partition to its end every record is there,
//! in order, byte for byte; nothing is there behind the end. A read may fail only for a fault of
//! the disk, and never gives other bytes.

use std::ops::Range;
use std::rc::Rc;
use std::time::Duration;

use barrage_commitlog::{Entry, ReadError};
use barrage_model::Offset;
use barrage_model::batch::{BatchHeader, BatchView};
use barrage_world::{Slice, sleep};
use bytes::Bytes;

use super::bench::key;
use super::ledger::Sent;
use super::life::Life;
use super::machine::Extent;
use super::plan::SHARD;

/// Reads beside the life's own steps, until it is dropped.
pub(super) async fn read_at_random(life: &Rc<Life>) {
    loop {
        let pause = life.bench.draw(|random| random.between(100, 20_000));
        sleep(Duration::from_micros(pause)).await;
        read_once(life).await;
    }
}

/// One read by offset, or one of entries.
pub(super) async fn read_once(life: &Life) {
    let bench = &life.bench;
    match bench.draw(|random| random.below(5)) {
        0 => read_entries(life).await,
        4 => read_raw(life).await,
        1 => read_time(life).await,
        _ => {
            let partitions = bench.machine.borrow().partitions.clone();
            if partitions.is_empty() {
                return;
            }
            let at = bench.draw(|random| random.below(partitions.len() as u64)) as usize;
            let Some((partition, extent)) = partitions.into_iter().nth(at) else { return };
            let (offset, bytes_max) = bench.draw(|random| {
                // The oldest records are those that go next, perhaps under the reader.
                let next = if random.one_in(3) { extent.start } else { extent.next };
                (random.between(extent.start, next), random.below(20_000) as usize)
            });
            read_offset(life, partition, offset, bytes_max).await;
        }
    }
}

/// Reads every partition from its start to its end. Gives how many batches there are.
pub(super) async fn survey(life: &Life) -> u64 {
    let partitions = life.bench.machine.borrow().partitions.clone();
    let mut batches = 0;
    for (partition, extent) in partitions {
        let mut offset = extent.start;
        while offset < extent.next {
            let bytes_max = life.bench.draw(|random| random.below(10_000) as usize);
            match read_offset(life, partition, offset, bytes_max).await {
                Some((next, count)) if next > offset => {
                    offset = next;
                    batches += count;
                }
                // What went wrong is told.
                _ => break,
            }
        }
        read_offset(life, partition, extent.next, 1).await;
    }
    batches
}

/// Reads from an offset on. Gives the offset behind the last batch, and how many there were.
async fn read_offset(
    life: &Life,
    partition: u32,
    offset: u64,
    bytes_max: usize,
) -> Option<(u64, u64)> {
    let bench = &life.bench;
    if !life.serves() {
        return None;
    }
    let read = life.log.read_batches(key(partition), Offset(offset), bytes_max).await;
    let extent = bench.machine.borrow().partitions.get(&partition).copied();
    let Some(extent) = extent.filter(|extent| extent.start <= offset) else {
        // It has lost its beginning, or has gone, meanwhile.
        judge_gone(life, partition, offset, read);
        return None;
    };
    let slices = match read {
        Ok(slices) => slices,
        Err(error) => {
            life.read_failed(&format!("partition {partition} at {offset}"), &error);
            return None;
        }
    };
    match compare(life, partition, offset, extent, &slices) {
        Ok((next, count)) => {
            bench.compared(count);
            Some((next, count))
        }
        Err(what) => {
            bench.violation(format!("partition {partition} at {offset}: {what}"));
            None
        }
    }
}

/// What went while it was read may be there or not, but must not be anything else.
fn judge_gone(life: &Life, partition: u32, offset: u64, read: Result<Vec<Slice>, ReadError>) {
    let what = format!("partition {partition} at {offset}, which goes");
    match read {
        Ok(slices) => {
            if let Err(error) = batches(life, partition, &slices) {
                life.bench.violation(format!("{what}: {error}"));
            }
        }
        Err(error @ ReadError::Damaged(_)) => life.read_failed(&what, &error),
        Err(_) => {}
    }
}

/// The offsets of the batches that were read, each from its first to behind its last; all of them
/// are as they were stored.
fn batches(life: &Life, partition: u32, slices: &[Slice]) -> Result<Vec<(u64, u64)>, String> {
    let mut found = Vec::new();
    for slice in slices {
        let mut rest: &[u8] = slice;
        while !rest.is_empty() {
            let header = BatchHeader::peek(rest).map_err(|error| error.to_string())?;
            let (batch, behind) = rest
                .split_at_checked(header.batch_len_total)
                .ok_or_else(|| "a batch is cut".to_owned())?;
            BatchView::check(batch).map_err(|error| error.to_string())?;
            let base = header.base_offset.0;
            let stored = life.bench.stored.borrow().get(&(partition, base)).cloned();
            let stored = stored.ok_or_else(|| format!("nobody stored a batch at {base}"))?;
            if !is_same(&stored.bytes, batch, life) {
                return Err(format!("the batch at {base} has other bytes"));
            }
            found.push((base, stored.next_offset));
            rest = behind;
        }
    }
    Ok(found)
}

/// On a disk that rots the leader's epoch may be another one: no checksum that a read can check
/// covers it.
fn is_same(stored: &[u8], batch: &[u8], life: &Life) -> bool {
    let apart = |bytes: &[u8]| {
        let (before, rest) = bytes.split_at(LEADER_EPOCH.start.min(bytes.len()));
        let epoch_bytes = LEADER_EPOCH.len().min(rest.len());
        (before.to_vec(), rest.get(epoch_bytes..).map(<[u8]>::to_vec))
    };
    let rots = life.plan.lying || life.rotten.get();
    stored == batch || (rots && apart(stored) == apart(batch))
}

/// Where the leader's epoch stands in a batch.
const LEADER_EPOCH: Range<usize> = 12..16;

/// Compares what was read at `offset` with what is stored there.
fn compare(
    life: &Life,
    partition: u32,
    offset: u64,
    extent: Extent,
    slices: &[Slice],
) -> Result<(u64, u64), String> {
    let mut next = offset;
    let mut count = 0;
    for (base, behind) in batches(life, partition, slices)? {
        let follows = if count == 0 { base <= offset } else { base == next };
        if !follows || behind <= offset {
            return Err(format!("the batch at {base} does not follow {next}"));
        }
        next = behind;
        count += 1;
    }
    if count == 0 && offset < extent.next {
        return Err(format!("nothing is there; the partition is {extent:?}"));
    }
    if next > extent.next {
        return Err(format!("read up to {next}; the partition is {extent:?}"));
    }
    Ok((next, count))
}

/// Reads entries as Raft does, with payload or without.
async fn read_entries(life: &Life) {
    let bench = &life.bench;
    let (first, next) = {
        let ledger = bench.ledger.borrow();
        (ledger.latest().first_index(), ledger.latest().next_index())
    };
    if next <= first {
        return;
    }
    let (from, bytes_max, whole) = bench.draw(|random| {
        (random.between(first, next - 1), random.below(20_000) as usize, random.one_in(2))
    });
    let before: Vec<_> = {
        let ledger = bench.ledger.borrow();
        (from..next).filter_map(|index| ledger.latest().entry(index).cloned()).collect()
    };
    let read = if whole {
        life.log.read_whole_entries(from..next, bytes_max).await
    } else {
        life.log.read_entries(from..next, bytes_max).await
    };
    let ledger = bench.ledger.borrow();
    // What was cut off or purged meanwhile may be read or not.
    let stands = |index: u64, sent: &Rc<_>| {
        ledger.latest().entry(index).is_some_and(|now| Rc::ptr_eq(now, sent))
    };
    let steady = before.iter().zip(from..).all(|(sent, index)| stands(index, sent));
    drop(ledger);
    let entries = match read {
        Ok(entries) => entries,
        Err(ReadError::NotFound { .. }) if !steady => return,
        Err(error) => return life.read_failed("entries", &error),
    };
    if !steady {
        return;
    }
    if entries.is_empty() {
        bench.violation(format!("entries {from}..{next} are not there"));
    }
    for (entry, sent) in entries.iter().zip(&before) {
        let equal = if whole {
            sent.is(entry)
        } else {
            entry.id == sent.entry.id && entry.command == sent.entry.command
        };
        if !equal {
            bench.violation(format!("entry {:?} was read otherwise than sent", sent.entry.id));
        }
    }
    bench.compared(entries.len() as u64);
}

/// Reads entries as one replica gives them to another: a piece of the log as it lies there.
async fn read_raw(life: &Life) {
    let bench = &life.bench;
    let (first, next) = {
        let ledger = bench.ledger.borrow();
        (ledger.latest().first_index(), ledger.latest().next_index())
    };
    if next <= first {
        return;
    }
    let (from, bytes) =
        bench.draw(|random| (random.between(first, next - 1), random.between(1, 40_000) as usize));
    let ends = match life.log.piece_ends(from..next, bytes, 1).await {
        Ok(ends) => ends,
        Err(error) => return life.read_failed("the lengths of entries", &error),
    };
    let Some(end) = ends.first().map(|end| end.0) else { return };
    let read = match life.log.read_raw_entries(from..end).await {
        Ok(read) => read,
        Err(ReadError::NotFound { .. }) => return,
        Err(error) => return life.read_failed("entries as they lie there", &error),
    };
    // What was cut off or purged meanwhile may be there or not.
    let ledger = bench.ledger.borrow();
    let latest = ledger.latest();
    let (Some(read), true) = (read, end <= latest.next_index()) else { return };
    let mut rest = Bytes::from(read);
    for index in from..end {
        let Some(sent) = latest.entry(index) else { return };
        let len = rest.split_to(4.min(rest.len()));
        let len = len.first_chunk().map_or(0, |len| u32::from_le_bytes(*len) as usize);
        let raw = rest.split_to(len.min(rest.len()));
        let read = Entry::decode_raw(&raw, SHARD).map(|(entry, _)| entry);
        let known = life.log.log_id_at(sent.entry.id.index);
        let same = match &read {
            Ok(entry) if entry.id == sent.entry.id => sent.is(entry),
            // Cut off while it was read.
            Ok(entry) => known != Some(entry.id),
            Err(_) => false,
        };
        if !same || known != Some(sent.entry.id) {
            let what = format!("entry {:?} lies there as {read:?}, {known:?}", sent.entry.id);
            drop(ledger);
            return bench.violation(what);
        }
    }
    bench.compared(end - from);
}

/// Reads every entry, a few at a time, with payload.
pub(super) async fn entries(life: &Life) {
    let bench = &life.bench;
    let sent: Vec<_> = bench.ledger.borrow().latest().entries().cloned().collect();
    let mut rest = sent.as_slice();
    while let Some(first) = rest.first() {
        let from = first.entry.id.index.0;
        let read = life.log.read_whole_entries(from..from + rest.len() as u64, 20_000).await;
        let read = match read {
            Ok(read) => read,
            Err(error) => {
                life.read_failed("all entries", &error);
                // What lies behind it is looked at.
                rest = rest.get(1..).unwrap_or_default();
                continue;
            }
        };
        let same = |(read, sent): (&Entry, &Rc<Sent>)| sent.is(read);
        if read.is_empty() || !read.iter().zip(rest).all(same) {
            return bench.violation(format!("entries from {from} on are not those sent"));
        }
        bench.compared(read.len() as u64);
        rest = rest.get(read.len()..).unwrap_or_default();
    }
}

/// Asks for the first record at or after some time.
async fn read_time(life: &Life) {
    let bench = &life.bench;
    if !life.serves() {
        return;
    }
    let Some((partition, before)) =
        bench.machine.borrow().partitions.iter().next().map(|(p, e)| (*p, *e))
    else {
        return;
    };
    let now_ms = bench.log_time_ms.get();
    let time_ms = bench.draw(|random| now_ms - random.below(2_000) as i64);
    let answer = match life.log.offset_at_time(key(partition), time_ms).await {
        Ok(answer) => answer.map(|offset| offset.0),
        Err(error) => return life.read_failed("an offset by time", &error),
    };
    let after = bench.machine.borrow().partitions.get(&partition).copied();
    if after != Some(before) {
        return;
    }
    let stored = bench.stored.borrow();
    let of_partition = stored.range((partition, 0)..(partition + 1, 0));
    let mut late = of_partition
        // What an earlier life had applied, and this one has not yet, is not there.
        .filter(|((_, base), _)| *base < before.next)
        .filter(|(_, stored)| stored.log_time_ms >= time_ms && stored.next_offset > before.start)
        .map(|((_, base), _)| *base);
    let expected = late.next();
    // What lies below the start may be found as long as it is there.
    let below = answer.is_some_and(|answer| {
        let found = stored.get(&(partition, answer));
        answer < before.start && found.is_some_and(|found| found.log_time_ms >= time_ms)
    });
    drop(stored);
    if answer != expected && !below {
        let what = format!("time {time_ms} in partition {partition}: {answer:?}, not {expected:?}");
        bench.violation(what);
    }
    bench.compared(1);
}

/// The bytes that each partition is said to have.
pub(super) fn sizes(life: &Life) -> Vec<(u32, u64)> {
    let machine = life.bench.machine.borrow();
    let size = |partition: &u32| (*partition, life.log.partition_bytes(key(*partition)));
    machine.partitions.keys().map(size).collect()
}
