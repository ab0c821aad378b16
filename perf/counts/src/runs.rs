//! The index by offset: a run is added, a run is found.

use anyhow::{Result, ensure};
use barrage_broker::counting::partition;
use barrage_commitlog::Run;
use barrage_commitlog::counting::Index;
use barrage_model::Offset;

use crate::Task;

/// Runs of an operation.
const RUNS: u32 = 64;
/// Partitions that they are of, in turn.
const PARTITIONS: u32 = 100;
/// Runs that each of them has in a segment.
const RUNS_PER_SEGMENT: u32 = 100;
/// Segments of the index that is searched.
const SEGMENTS: u32 = 10;
const RECORDS_PER_RUN: u32 = 10;
/// The next number to look up is so many further, modulo all: no two in a row are neighbours.
const STRIDE: u32 = 40_503;

/// An operation is 64 runs, as an entry of 64 partitions has them.
pub(crate) fn append(task: Task) -> Result<()> {
    let mut index = Index::default();
    let runs: Vec<Run> = (0..task.prepared * RUNS).map(run).collect();
    for (number, run) in (0..task.done * RUNS).zip(&runs) {
        add(&mut index, number, run);
    }
    if let Some(last) = task.done.checked_sub(1) {
        find(&index, last * RUNS)?;
    }
    Ok(())
}

/// An operation is 64 searches, each for a record in the middle of a run.
pub(crate) fn look_up(task: Task) -> Result<()> {
    let mut index = Index::default();
    let all = PARTITIONS * RUNS_PER_SEGMENT * SEGMENTS;
    (0..all).for_each(|number| add(&mut index, number, &run(number)));
    let mut number = 0;
    for _ in 0..task.done * RUNS {
        number = (number + STRIDE) % all;
        find(&index, number)?;
    }
    Ok(())
}

fn add(index: &mut Index, number: u32, run: &Run) {
    let segment = u64::from(number / PARTITIONS / RUNS_PER_SEGMENT);
    index.add(segment, position(number), run, 7);
}

fn find(index: &Index, number: u32) -> Result<()> {
    let within = Offset(base(number).0 + u64::from(RECORDS_PER_RUN) / 2);
    let found = index.find(partition(number % PARTITIONS), within);
    ensure!(found.is_some_and(|(_, at)| at == position(number)), "run {number} is not found");
    Ok(())
}

/// Run number `number` of all, one for each partition in turn.
fn run(number: u32) -> Run {
    Run {
        key: partition(number % PARTITIONS),
        base_offset: base(number),
        record_count: RECORDS_PER_RUN,
        max_timestamp: 0,
        byte_len: 1_000,
        batches: Vec::new(),
        gone: None,
    }
}

fn base(number: u32) -> Offset {
    Offset(u64::from(number / PARTITIONS * RECORDS_PER_RUN))
}

fn position(number: u32) -> u64 {
    u64::from(number) * 4_096
}
