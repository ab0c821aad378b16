//! Reading the log: entries by index for Raft, batches by offset for consumers.
//!
//! Bytes come from the cache when they are there; else from the disk, a window at a time, so that
//! the next read finds them in memory. Bytes from the disk are checked before they are handed out.

use crate::entry::Entry;
use crate::error::ReadError;
use crate::format::entry as entry_format;
use crate::format::index as index_format;
use crate::format::{BLOCK_BYTES, round_up_to_block};
use crate::index::{self, Partition, RunPlace, Runs, SharedRuns, Span, Stored};
use crate::log::Shared;
use crate::mend;
use crate::places;
use crate::segment::Segment;
use crate::slots::{Known, Place};
use barrage_model::batch::{BatchHeader, BatchView};
use barrage_model::{LogId, Offset, PartitionKey, ShardId};
use barrage_world::{File, Slice, planted};
use bytes::Bytes;
use std::io;
use std::ops::Range;
use std::rc::Rc;

/// Bytes read at once when consumers read what is not in memory.
const READ_AHEAD_BYTES: usize = 1024 * 1024;

/// Entries of `range`, in order, as many as fit `bytes_max` but at least one if there are any.
/// Their runs carry no payload.
pub(crate) async fn read_entries(
    log: &Rc<Shared>,
    range: Range<u64>,
    bytes_max: usize,
) -> Result<Vec<Entry>, ReadError> {
    let mut entries = Vec::new();
    let mut bytes = 0;
    for index in range {
        let Some((id, known)) = known(log, index) else { break };
        let entry = match known {
            Known::Entry(entry, _) => entry,
            Known::Placed(place) => {
                let entry =
                    Rc::new(read_entry(log, id, &segment(log, place.segment)?, place).await?);
                log.state.borrow_mut().slots.keep(&entry);
                entry
            }
            Known::Cold(_) => match places::find_cold(log, index).await? {
                Some((segment, place)) => Rc::new(read_entry(log, id, &segment, place).await?),
                None => break,
            },
        };
        bytes += entry_format::encoded_len(&entry);
        if !entries.is_empty() && bytes > bytes_max {
            break;
        }
        entries.push(Entry::clone(&entry));
    }
    Ok(entries)
}

/// As [`read_entries`], with their payload: what a leader sends to a follower.
pub(crate) async fn read_whole_entries(
    log: &Rc<Shared>,
    range: Range<u64>,
    bytes_max: usize,
) -> Result<Vec<Entry>, ReadError> {
    let mut entries = Vec::new();
    let mut bytes = 0;
    for index in range {
        let Some((id, known)) = known(log, index) else { break };
        let place = match known {
            Known::Entry(entry, _) if entry.is_whole() => Err(entry),
            Known::Entry(_, None) => Ok(None),
            Known::Entry(_, Some(place)) | Known::Placed(place) => {
                Ok(Some((segment(log, place.segment)?, place)))
            }
            Known::Cold(_) => Ok(places::find_cold(log, index).await?),
        };
        let entry = match place {
            Err(entry) => Entry::clone(&entry),
            Ok(Some((segment, place))) => read_whole_entry(log, id, &segment, place).await?,
            // The floor has passed it between the two looks: the range ends here.
            Ok(None) => break,
        };
        bytes += entry_format::encoded_len(&entry);
        if !entries.is_empty() && bytes > bytes_max {
            break;
        }
        entries.push(entry);
    }
    Ok(entries)
}

fn known(log: &Shared, index: u64) -> Option<(LogId, Known)> {
    let state = log.state.borrow();
    state.slots.id_at(index).zip(state.slots.at(index))
}

async fn read_entry(
    log: &Rc<Shared>,
    id: LogId,
    segment: &Rc<Segment>,
    place: Place,
) -> Result<Entry, ReadError> {
    let (bytes, _) = read_ahead(log, segment, place.position, place.len as usize).await?;
    check_is_at(place, id, log.shard, &bytes, segment)?;
    let decoded = entry_format::decode(&bytes, log.shard);
    Ok(decoded.map_err(|error| segment.format_damage(place.position, error))?)
}

/// Reads an entry with its payload, which is copied once: it leaves this core's buffers.
async fn read_whole_entry(
    log: &Rc<Shared>,
    id: LogId,
    segment: &Rc<Segment>,
    place: Place,
) -> Result<Entry, ReadError> {
    let (bytes, _) = read_ahead(log, segment, place.position, place.len as usize).await?;
    check_is_at(place, id, log.shard, &bytes, segment)?;
    let decoded = entry_format::decode_whole(&Bytes::copy_from_slice(&bytes), log.shard);
    Ok(decoded.map_err(|error| segment.format_damage(place.position, error))?)
}

/// The bytes must be those of the entry that was put there: a write that went to the wrong place
/// leaves a whole entry, with its checksums right, where another one belongs.
pub(crate) fn check_is_at(
    place: Place,
    id: LogId,
    shard: ShardId,
    bytes: &[u8],
    segment: &Segment,
) -> Result<(), ReadError> {
    let head = entry_format::head(bytes);
    if entry_format::header_hash(head) == place.header_hash {
        let header = entry_format::decode_header(bytes, shard);
        let header = header.map_err(|error| segment.format_damage(place.position, error))?;
        // Where it lies may come from an index file, which is never trusted over the log.
        if header.id == id || planted("commitlog-row-of-next-entry") {
            return Ok(());
        }
    }
    Err(segment.damage(place.position, "these are not the bytes of the entry here").into())
}

fn segment(log: &Shared, number: u64) -> Result<Rc<Segment>, ReadError> {
    let found = log.state.borrow().segments.get(&number).cloned();
    found.ok_or_else(|| ReadError::NotFound { what: format!("segment {number}") })
}

/// Whole batches from the one that holds the first offset of `range` on, as far as it goes: at
/// least one if there is any, else as many as fit `bytes_max`. Empty when nothing at or after its
/// first offset is here.
pub(crate) async fn read_batches(
    log: &Rc<Shared>,
    key: PartitionKey,
    range: Range<Offset>,
    bytes_max: usize,
) -> Result<Vec<Slice>, ReadError> {
    let found = span_at(log, key, range.start).await?;
    let Some((segment, runs)) = found else { return Ok(Vec::new()) };
    let first = index::find(&runs, range.start);
    let mut pieces = Vec::new();
    let mut left = bytes_max;
    for run in runs.iter().skip(first) {
        if !pieces.is_empty() && (left == 0 || run.base_offset >= range.end) {
            break;
        }
        let len = run.byte_len as usize;
        let (bytes, own) = read_ahead(log, &segment, run.position, len).await?;
        let wanted = cut(&bytes, &range, left, pieces.is_empty());
        let wanted = wanted.map_err(|error| segment.damage(run.position, error))?;
        // Wrong when planted: what rots on the disk is handed out.
        if !own && !planted("commitlog-read-unchecked") {
            check(run, &bytes, &wanted).map_err(|error| segment.damage(run.position, error))?;
        }
        let ends_early = wanted.end < bytes.len();
        if !wanted.is_empty() {
            left = left.saturating_sub(wanted.len());
            pieces.push(bytes.slice(wanted));
        }
        if ends_early {
            break;
        }
    }
    Ok(pieces)
}

/// The part of a run that holds whole batches of the records of `offsets`, at most `bytes_max` of
/// them, but one at least when `one` is set.
fn cut(
    run: &[u8],
    offsets: &Range<Offset>,
    bytes_max: usize,
    one: bool,
) -> Result<Range<usize>, barrage_model::batch::BatchError> {
    let (mut start, mut end) = (0, 0);
    while let Some(rest) = run.get(end..).filter(|rest| !rest.is_empty()) {
        let header = BatchHeader::peek(rest)?;
        let next = end + header.batch_len_total;
        if next > run.len() {
            let (size, needed) = (rest.len(), header.batch_len_total);
            return Err(barrage_model::batch::BatchError::Truncated { size, needed });
        }
        let is_enough = next - start > bytes_max || header.base_offset >= offsets.end;
        if header.next_offset() <= offsets.start {
            start = next;
        } else if is_enough && !(one && end == start) {
            break;
        }
        end = next;
    }
    Ok(start..end)
}

/// The segment that holds `offset`, or the first record after it, with the partition's runs there.
async fn span_at(
    log: &Rc<Shared>,
    key: PartitionKey,
    offset: Offset,
) -> Result<Option<(Rc<Segment>, SharedRuns)>, ReadError> {
    span_where(log, key, |partition| partition.span_at(offset)).await
}

/// The segment of a span and the runs there, which are places in that segment: it may be rewritten
/// meanwhile, and they are read from what it was.
async fn span_where(
    log: &Rc<Shared>,
    key: PartitionKey,
    find: impl Fn(&Partition) -> Option<&Span>,
) -> Result<Option<(Rc<Segment>, SharedRuns)>, ReadError> {
    loop {
        let found = {
            let state = log.state.borrow();
            let span = state.index.partition(key).and_then(&find);
            span.map(|span| (span.segment, span.runs.clone()))
        };
        let Some((number, runs)) = found else { return Ok(None) };
        let segment = segment(log, number)?;
        match load(log, &segment, key, runs).await {
            Ok(runs) => return Ok(Some((segment, runs))),
            // Its index file went with it when it was rewritten.
            Err(_) if is_rewritten(log, &segment) => {}
            Err(error) => return Err(error),
        }
    }
}

/// Whether another file has taken the segment's place.
fn is_rewritten(log: &Shared, segment: &Rc<Segment>) -> bool {
    let state = log.state.borrow();
    state.segments.contains_key(&segment.number()) && !state.is_current(segment)
}

/// The runs of a span, from memory or from the segment's index file; one that cannot be read is
/// written again.
pub(crate) async fn load(
    log: &Rc<Shared>,
    segment: &Rc<Segment>,
    key: PartitionKey,
    runs: Runs,
) -> Result<SharedRuns, ReadError> {
    let stored = match runs {
        Runs::Memory(runs) => return Ok(runs),
        Runs::File(stored) => stored,
    };
    if let Some(runs) = log.loaded.borrow().find(segment, key) {
        return Ok(runs);
    }
    let read = match read_runs(segment, stored).await {
        Ok(runs) => runs,
        Err(error) => {
            let path = segment.index_path();
            if !log.state.borrow().is_current(segment) {
                return Err(ReadError::Io { path, source: error });
            }
            tracing::warn!(path = %path.display(), %error, "runs unreadable, rebuilt");
            mend::write_again(log, segment).await?;
            let stored = {
                let state = log.state.borrow();
                if !state.is_current(segment) {
                    return Err(ReadError::Io { path, source: io::ErrorKind::NotFound.into() });
                }
                let partition = state.index.partition(key);
                match partition.and_then(|p| p.span_of(segment.number())).map(|s| &s.runs) {
                    Some(Runs::File(stored)) => *stored,
                    // The partition has gone meanwhile.
                    _ => return Ok(SharedRuns::default()),
                }
            };
            let again = read_runs(segment, stored).await;
            again.map_err(|source| ReadError::Io { path, source })?
        }
    };
    let runs = Rc::new(read);
    log.loaded.borrow_mut().keep(segment, key, runs.clone());
    Ok(runs)
}

async fn read_runs(segment: &Segment, stored: Stored) -> io::Result<Vec<RunPlace>> {
    let file = File::open(&segment.index_path()).await?;
    let start = stored.start - stored.start % BLOCK_BYTES as u64;
    let skip = (stored.start - start) as usize;
    let len = skip + stored.count as usize * index_format::RUN_BYTES;
    let bytes = file.read_at(start, round_up_to_block(len)).await;
    file.close().await?;
    let invalid = |error| io::Error::new(io::ErrorKind::InvalidData, format!("{error}"));
    let runs = index_format::decode_runs(bytes?.get(skip..).unwrap_or_default(), &stored);
    let runs = runs.map_err(invalid)?;
    // What the runs are checked by lies in the same file.
    let data = segment.header.position..=segment.end().unwrap_or(segment.header.position);
    let inside = |run: &RunPlace| {
        let end = run.position.checked_add(u64::from(run.byte_len));
        data.contains(&run.position) && end.is_some_and(|end| data.contains(&end))
    };
    match runs.iter().all(inside) {
        true => Ok(runs),
        false => Err(io::Error::new(io::ErrorKind::InvalidData, "a run lies elsewhere")),
    }
}

/// `len` bytes of log at `position`, and whether they come from this process's own write (and need
/// no check). What is not in memory is read together with what follows it.
async fn read_ahead(
    log: &Rc<Shared>,
    segment: &Rc<Segment>,
    position: u64,
    len: usize,
) -> Result<(Slice, bool), ReadError> {
    let cached = log.state.borrow_mut().cache.find(position, len);
    if let Some(found) = cached {
        return Ok(found);
    }
    if let Some(bytes) = log.state.borrow().in_flight(position, len) {
        // A follower's entries may be committed, and read, before this disk has them.
        return Ok((bytes, true));
    }
    let end = segment.end().unwrap_or_else(|| log.state.borrow().synced_to());
    let ahead = usize::try_from(end.saturating_sub(position)).unwrap_or(0);
    let window = segment.read(position, len.max(READ_AHEAD_BYTES.min(ahead))).await?;
    log.state.borrow_mut().cache.read(position, window.clone());
    Ok((window.slice(0..len), false))
}

/// Checks a run that came from the disk: what is handed out whole, and the offsets of all that was
/// walked over. The leader stamped those outside of what a batch's own checksum covers.
fn check(run: &RunPlace, bytes: &[u8], wanted: &Range<usize>) -> Result<(), String> {
    let mut next = run.base_offset;
    let mut at = 0;
    while let Some(rest) = bytes.get(at..wanted.end).filter(|rest| !rest.is_empty()) {
        let header = BatchHeader::peek(rest).map_err(|error| error.to_string())?;
        if header.base_offset != next {
            return Err(format!("offset {} where {} belongs", header.base_offset.0, next.0));
        }
        next = header.next_offset();
        let len = header.batch_len_total;
        if at >= wanted.start {
            BatchView::check(rest.get(..len).unwrap_or(rest)).map_err(|error| error.to_string())?;
        }
        at += len;
    }
    if at == bytes.len() && next != run.next_offset() {
        return Err(format!("the run ends at offset {}, not {}", next.0, run.next_offset().0));
    }
    Ok(())
}

/// The first offset whose record was enqueued at or after `time_ms`; none when all are older.
pub(crate) async fn offset_at_time(
    log: &Rc<Shared>,
    key: PartitionKey,
    time_ms: i64,
) -> Result<Option<Offset>, ReadError> {
    fn since(partition: &Partition, time_ms: i64) -> Option<&Span> {
        partition.live().find(|span| span.last_time_ms >= time_ms)
    }
    let first = {
        let state = log.state.borrow();
        let span = state.index.partition(key).and_then(|partition| since(partition, time_ms));
        let Some(span) = span else { return Ok(None) };
        span.first
    };
    let found = span_where(log, key, |partition| since(partition, time_ms)).await?;
    let runs = found.map_or_else(SharedRuns::default, |(_, runs)| runs);
    let at = runs.partition_point(|run| run.log_time_ms < time_ms);
    // Where the runs have gone meanwhile: nothing of this segment is said to be older.
    Ok(Some(runs.get(at).map_or(first, |run| run.base_offset)))
}

/// When a record was enqueued, to the entry; none when it is not here.
pub(crate) async fn time_of(
    log: &Rc<Shared>,
    key: PartitionKey,
    offset: Offset,
) -> Result<Option<i64>, ReadError> {
    let Some((_, runs)) = span_at(log, key, offset).await? else { return Ok(None) };
    let run = runs.get(index::find(&runs, offset));
    Ok(run.filter(|run| run.base_offset <= offset).map(|run| run.log_time_ms))
}

/// Index files' runs that were read lately; bounded by count.
#[derive(Debug, Default)]
pub(crate) struct Loaded {
    recent: Vec<((u64, u64), PartitionKey, SharedRuns)>,
}

impl Loaded {
    const COUNT_MAX: usize = 64;

    fn find(&self, segment: &Segment, key: PartitionKey) -> Option<SharedRuns> {
        let right = |kept: &&((u64, u64), PartitionKey, SharedRuns)| {
            (kept.0, kept.1) == (segment.identity(), key)
        };
        self.recent.iter().find(right).map(|kept| kept.2.clone())
    }

    /// Nothing of this segment is kept any more.
    pub(crate) fn forget(&mut self, segment: &Segment) {
        self.recent.retain(|kept| kept.0 != segment.identity());
    }

    fn keep(&mut self, segment: &Segment, key: PartitionKey, runs: SharedRuns) {
        if self.recent.len() >= Self::COUNT_MAX {
            self.recent.remove(0);
        }
        self.recent.push((segment.identity(), key, runs));
    }
}
