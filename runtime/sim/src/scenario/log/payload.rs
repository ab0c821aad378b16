//! Makes the entries that are appended: runs of batches, each with values of its own.
//!
//! Owns how a leader stamps: every run gets the offset that follows what is applied and what is
//! still on its way, and now and then one that is near it, which apply must refuse.

use barrage_commitlog::{Batch, Entry, EntryKind, Run};
use barrage_model::batch::{BatchBuilder, BatchError, BatchView, Compression, NewRecord, stamp};
use barrage_model::{LogId, LogIndex, Offset, Term};
use barrage_world::sim::Rng;
use bytes::Bytes;

use super::bench::{Bench, key};
use super::ledger::Sent;
use super::machine::{Command, Machine};
use super::plan::SHARD;

/// The next entries, at most `count`, each of at most `bytes_max` bytes.
pub(super) fn entries(bench: &Bench, count: u64, bytes_max: usize) -> Vec<std::rc::Rc<Sent>> {
    let ledger = bench.ledger.borrow();
    // What the state will be when all that is in the log is applied.
    let mut projected = bench.machine.borrow().clone();
    for sent in ledger.latest().entries() {
        if sent.entry.id.index.0 >= projected.next_index() {
            projected.apply(&sent.entry);
        }
    }
    let next = ledger.latest().next_index();
    drop(ledger);
    let mut sent = Vec::new();
    for index in next..next + count {
        let id = LogId { term: Term(bench.term.get()), index: LogIndex(index) };
        let entry = entry(bench, &projected, id, bytes_max);
        projected.apply(&entry);
        sent.push(Sent::new(entry));
    }
    sent
}

fn entry(bench: &Bench, projected: &Machine, id: LogId, bytes_max: usize) -> Entry {
    let time_ms = bench.log_time_ms.get() + bench.draw(|random| random.below(20)) as i64;
    bench.log_time_ms.set(time_ms);
    let blank = bench.draw(|random| random.one_in(10));
    let command = if blank { Bytes::new() } else { command(bench, projected) };
    let kind = if blank { EntryKind::Blank } else { EntryKind::Command };
    let mut entry = Entry { id, kind, log_time_ms: time_ms, command, runs: Vec::new() };
    let runs = if blank { 0 } else { bench.draw(|random| random.below(4)) };
    for _ in 0..runs {
        let partition = partition(bench);
        if entry.runs.iter().any(|run| run.key == key(partition)) {
            continue;
        }
        let base = projected.next_offset(partition);
        let (wrong, ahead) = bench.draw(|random| (random.one_in(16), random.below(8)));
        let base = if wrong { (base + ahead).saturating_sub(OFF_BY_MAX) } else { base };
        let run = run(bench, partition, base, id.term);
        entry.runs.push(run);
        if entry.encode(SHARD).len() > bytes_max {
            entry.runs.pop();
        }
    }
    entry
}

/// How far behind the right offset a wrong one is at most.
const OFF_BY_MAX: u64 = 3;

fn command(bench: &Bench, projected: &Machine) -> Bytes {
    let chosen = bench.draw(|random| random.below(12));
    let partition = partition(bench);
    let command = match (chosen, projected.partitions.get(&partition)) {
        (0, Some(_)) => {
            // Another takes its place, so that there is always one to send to.
            bench.partitions_begun.set(bench.partitions_begun.get() + 1);
            Command::Delete { partition }
        }
        (1..=3, Some(extent)) => {
            let offset = bench.draw(|random| random.between(extent.start, extent.next));
            Command::Start { partition, offset }
        }
        _ => Command::Produce,
    };
    Bytes::from(serde_json::to_vec(&command).unwrap_or_default())
}

/// One of the partitions that are sent to.
fn partition(bench: &Bench) -> u32 {
    let (begun, count) = (bench.partitions_begun.get(), bench.plan.partitions);
    begun - 1 - bench.draw(|random| random.below(u64::from(count))) as u32
}

fn run(bench: &Bench, partition: u32, base: u64, term: Term) -> Run {
    let count = bench.draw(|random| random.between(1, 3));
    let mut batches = Vec::new();
    let mut next = base;
    for _ in 0..count {
        let batch = match batch(bench, Offset(next), term) {
            Ok((batch, records)) => {
                next += u64::from(records);
                batch
            }
            Err(error) => panic!("the builder refuses its own batch: {error}"),
        };
        batches.push(batch);
    }
    Run {
        key: key(partition),
        base_offset: Offset(base),
        record_count: (next - base) as u32,
        max_timestamp: 1_000,
        byte_len: batches.iter().map(|batch| batch.bytes.len() as u32).sum(),
        batches,
        gone: None,
    }
}

/// A batch of a few records whose values stand nowhere else.
fn batch(bench: &Bench, base: Offset, term: Term) -> Result<(Batch, u32), BatchError> {
    let payload = bench.payloads.get() + 1;
    bench.payloads.set(payload);
    let mut builder = BatchBuilder::new(Compression::None, 1_000);
    let records = bench.draw(|random| random.between(1, 4)) as u32;
    for record in 0..records {
        let value = value(bench, payload, record);
        let record =
            NewRecord { key: None, value: Some(&value), headers: &[], timestamp_ms: 1_000 };
        builder.push(&record)?;
    }
    let mut bytes = builder.finish()?;
    let crc = BatchView::check(&bytes)?.header().crc;
    let leader_epoch = term.0 as i32;
    // What is stored is stamped; what the producer sent is not.
    stamp(&mut bytes, Offset(0), -1);
    Ok((Batch { bytes: Bytes::from(bytes), base_offset: base, leader_epoch, crc }, records))
}

fn value(bench: &Bench, payload: u64, record: u32) -> Vec<u8> {
    let mut value = format!("{payload}.{record}").into_bytes();
    let len = bench.draw(|random: &mut Rng| {
        let bytes = &bench.plan.value_bytes;
        // Most values are small, whatever the largest are.
        if random.one_in(4) { random.between(*bytes.start(), *bytes.end()) } else { 10 }
    });
    value.resize(value.len().max(len as usize), b'.');
    value
}

/// The batch as it lies in the log.
pub(super) fn stamped(batch: &Batch) -> Vec<u8> {
    let mut bytes = batch.bytes.to_vec();
    stamp(&mut bytes, batch.base_offset, batch.leader_epoch);
    bytes
}
