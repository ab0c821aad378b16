//! An index file that was lost or has rotted is written again from its segment, while the log runs.
//!
//! Owns: what of a segment is part of the log, told from the segment and the little that memory
//! knows of it. Must never: take what apply refused, or what was cut off, for part of the log.

use crate::error::{OpenError, ReadError};
use crate::format::entry as entry_format;
use crate::format::group::{self, Truncate};
use crate::format::index::{Contents, Entries, Row};
use crate::format::table::Row as EntryRow;
use crate::index::{Index, RunPlace, Runs};
use crate::log::Shared;
use crate::options::Floor;
use crate::scan::{Group, Scanner};
use crate::seal::{self, Encoded};
use crate::segment::Segment;
use barrage_model::{LogId, PartitionKey};
use barrage_world::{fs, yield_if_needed};
use std::collections::BTreeMap;
use std::rc::Rc;

/// One entry of the segment.
pub(crate) struct Found {
    id: LogId,
    row: EntryRow,
    runs: Vec<(PartitionKey, RunPlace)>,
}

/// Writes the index file of a sealed segment anew. One at a time: who waited finds it whole.
///
/// # Errors
/// `Damaged` names a place in the segment: then the log is damaged, not the index.
pub(crate) async fn write_again(log: &Rc<Shared>, segment: &Rc<Segment>) -> Result<(), ReadError> {
    let before = segment.mended();
    let _one = log.mending.lock().await;
    if segment.mended() != before || !log.state.borrow().is_current(segment) {
        return Ok(());
    }
    let entries = scan(log, segment).await?;
    let contents = contents(log, segment, &entries, partitions)?;
    let index = Encoded::of(&contents);
    let path = segment.index_path();
    let failed = |source| ReadError::Io { path: path.clone(), source };
    fs::write_atomic(&path, &index.bytes).await.map_err(failed)?;
    segment.is_mended();
    log.places.borrow_mut().forget(segment);
    log.loaded.borrow_mut().forget(segment);
    if seal::put_to_use(log, segment, index) {
        return Ok(());
    }
    fs::remove(&path).await.map_err(failed)
}

/// The entries in the segment, but for those that a record in it has cut off.
pub(crate) async fn scan(log: &Rc<Shared>, segment: &Rc<Segment>) -> Result<Vec<Found>, ReadError> {
    let mut scanner = Scanner::new(Rc::clone(segment), segment.end());
    let (mut at, end) = (segment.header.position, segment.end().unwrap_or(0));
    let mut found = Vec::new();
    while at < end {
        yield_if_needed().await;
        let group = scanner.group(at).await.map_err(OpenError::into_read_error)?;
        let group = group.map_err(|error| segment.format_damage(at, error))?;
        let next = match group.header.truncate {
            None => u64::MAX,
            Some(Truncate::All) => 0,
            Some(Truncate::After(last)) => last.index.0 + 1,
        };
        let kept = found.partition_point(|found: &Found| found.id.index.0 < next);
        found.truncate(kept);
        add_entries(log, segment, &group, &mut found)?;
        at = group.end();
    }
    Ok(found)
}

fn add_entries(
    log: &Shared,
    segment: &Segment,
    group: &Group,
    found: &mut Vec<Found>,
) -> Result<(), ReadError> {
    let mut at = group::HEADER_BYTES;
    let end = at + group.header.entries_len as usize;
    while at < end {
        let position = group.position + at as u64;
        let damaged = |error| segment.format_damage(position, error);
        let bytes = group.bytes.get(at..end).unwrap_or_default();
        let header = entry_format::decode_header(bytes, log.shard).map_err(damaged)?;
        let len = header.len();
        let hash = entry_format::header_hash(entry_format::head(bytes));
        let runs = entry_format::decode_runs(&header, bytes).map_err(damaged)?;
        let refused = &log.state.borrow().refused;
        let accepted = runs
            .iter()
            .enumerate()
            .filter(|(_, (run, _))| run.gone.is_none())
            .filter(|(number, _)| !refused.contains(&(header.id.index.0, *number as u32)));
        let runs = accepted.map(|(_, (run, start))| {
            (run.key, RunPlace::new(run, position + *start as u64, header.log_time_ms))
        });
        found.push(Found {
            id: header.id,
            row: seal::entry_row(segment, position, len as u32, hash),
            runs: runs.collect(),
        });
        at += len;
    }
    Ok(())
}

/// What was found of the runs of a segment, and what memory knows of them, as they go to its file.
pub(crate) type JoinRuns =
    fn(&Index, &Index, &Segment) -> Result<Vec<(Row, Vec<RunPlace>)>, ReadError>;

/// What the file must hold: exactly the entries that memory knows, and what `join` makes of runs.
pub(crate) fn contents(
    log: &Shared,
    segment: &Segment,
    found: &[Found],
    join: JoinRuns,
) -> Result<Contents, ReadError> {
    let state = log.state.borrow();
    let indexes = state.slots.indexes_in(segment.number());
    let floor_next = state.slots.floor().map_or(0, |floor| floor.index.0 + 1);
    let kept = |entry: &&Found| entry.id.index.0 < segment.kept_index();
    let found = || found.iter().filter(kept);
    let listed: Vec<&Found> = found().filter(|entry| indexes.contains(&entry.id.index.0)).collect();
    let expected = indexes.clone().map(|index| state.slots.id_at(index));
    if !listed.iter().map(|entry| Some(entry.id)).eq(expected) {
        let reason = format!("it does not hold the entries {indexes:?}");
        return Err(segment.damage(segment.header.position, reason).into());
    }
    // As recovery does: what was refused up to the floor may be forgotten.
    let readable = |index: u64| state.options.floor == Floor::Checkpoint || index >= floor_next;
    let mut index = Index::default();
    for entry in found().filter(|entry| readable(entry.id.index.0)) {
        for (key, run) in &entry.runs {
            index.add(segment.number(), *key, *run);
        }
    }
    let partitions = join(&index, &state.index, segment)?;
    Ok(Contents {
        cover: seal::cover(&state, segment),
        held: segment.held(),
        entries: Entries {
            first: indexes.start,
            rows: listed.iter().map(|entry| entry.row).collect(),
            terms: state.slots.terms_in(indexes),
        },
        partitions: Some(partitions).filter(|_| !state.incomplete),
    })
}

/// The runs of every partition that memory knows in this segment.
fn partitions(
    found: &Index,
    known: &Index,
    segment: &Segment,
) -> Result<Vec<(Row, Vec<RunPlace>)>, ReadError> {
    let mut partitions = Vec::new();
    let mut spans: BTreeMap<_, _> = found.spans_of(segment.number()).into_iter().collect();
    for (key, span) in known.spans_of(segment.number()) {
        let same = spans.remove(&key).filter(|found| {
            (found.first, found.next, found.bytes) == (span.first, span.next, span.bytes)
        });
        let Some(Runs::Memory(runs)) = same.map(|same| same.runs) else {
            let reason = format!("it does not hold the records of {key:?} that it held");
            return Err(segment.damage(segment.header.position, reason).into());
        };
        partitions.push((seal::row(key, &span), runs.as_ref().clone()));
    }
    Ok(partitions)
}
