//! Sealed segments of which less than half is wanted any more are written again without the rest,
//! so that the disk gets back what old neighbours of young records take.
//!
//! ```text
//!   a segment of the log     entry  entry  entry  entry      every entry stays, with its command:
//!                            [####] [####] [####] [####]     Raft may ask for it. What nobody may
//!   the same, rewritten      [#   ] [#   ] [####] [#   ]     read goes: its batches
//! ```
//!
//! Each replica does this for itself. The new file is written beside the old one, read back, and
//! takes its name when all of it is on the medium: a crash leaves the one or the other, and either
//! is whole. Who reads the old one goes on reading it. Its positions mean nothing in the new one,
//! which has positions of its own, so nothing that is cached is mistaken.
//!
//! Owns: which segment is worth it, what goes into the new file, the change of files.
//!
//! Must never: leave out an entry, or a batch that the index knows and somebody wants; touch the
//! active segment, or one that apply has not seen to its end.

mod file;

use crate::blocks;
use crate::error::ReadError;
use crate::format::index::Row;
use crate::index::{Index, Partition, RunPlace, Runs, Span};
use crate::log::{CommitLog, Shared};
use crate::mend;
use crate::read;
use crate::roll;
use crate::seal::{self, Encoded};
use crate::segment::Segment;
use crate::writer::NO_SPACE;
use barrage_model::{Offset, PartitionKey};
use barrage_world::{Instant, fs, planted, sleep, yield_if_needed, yield_now};
use std::collections::BTreeMap;
use std::io;
use std::ops::{Bound, Range};
use std::path::PathBuf;
use std::rc::Rc;
use std::time::Duration;

/// Ending of a file that is to take a segment's place.
const SUFFIX: &str = ".rewrite";
/// Spans of partitions, or runs of one, looked at without a pause: about a tenth of a millisecond.
const AT_ONCE: usize = 1_000;
/// While segments are dropped, how long until the next look.
const RETAIN_PAUSE: Duration = Duration::from_millis(5);
/// How long a rewritten file is kept whole for those who read it, and how often they are counted.
const READ_LOOKS_MAX: u32 = 50;
const READ_LOOK_EVERY: Duration = Duration::from_millis(100);
/// A segment that was not worth it is looked at again when a sixteenth more of it may go.
const AGAIN_PART: u64 = 16;

/// How many of these records of a partition somebody wants. Asked of what lies at or behind the
/// partition's start only: what lies before it nobody does.
pub type Wanted<'a> = &'a dyn Fn(PartitionKey, Range<Offset>) -> u64;

/// A segment that was rewritten.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rewritten {
    /// Its number.
    pub segment: u64,
    /// Bytes of its file before.
    pub before: u64,
    /// Bytes of its file now.
    pub after: u64,
}

/// How fast segments are rewritten.
#[derive(Debug)]
pub struct Pace {
    bytes_per_s: u64,
    begun: Instant,
    spent: u64,
}

impl Pace {
    /// So many bytes a second, read, written and read back, at most.
    #[must_use]
    pub fn new(bytes_per_s: u64) -> Self {
        assert!(bytes_per_s > 0, "something has to go on");
        Self { bytes_per_s, begun: Instant::now(), spent: 0 }
    }

    /// Waits until the bytes are no more than the pace allows.
    async fn spend(&mut self, bytes: u64) {
        self.spent += bytes;
        let due = Duration::from_secs_f64(self.spent as f64 / self.bytes_per_s as f64);
        match due.checked_sub(self.begun.elapsed()) {
            Some(early) => sleep(early).await,
            None => yield_if_needed().await,
        }
        if self.begun.elapsed() > Duration::from_secs(1) {
            // What was not used is not saved up.
            (self.begun, self.spent) = (Instant::now(), 0);
        }
    }
}

/// Whether a file was to take a segment's place.
pub(crate) fn is_rewrite_name(name: &str) -> bool {
    name.ends_with(SUFFIX)
}

impl CommitLog {
    /// Rewrites the segment of which the least is wanted, when that is less than half of it. `None`
    /// when there is none: then there may be one later.
    ///
    /// # Errors
    /// `Damaged` when the segment is; else the files could not be read or written, and all is as it
    /// was.
    pub async fn rewrite(
        &self,
        wanted: Wanted<'_>,
        pace: &mut Pace,
    ) -> Result<Option<Rewritten>, ReadError> {
        let log = &self.shared;
        if log.rewriting.replace(true) {
            return Ok(None);
        }
        let _busy = Busy(log);
        while let Some((segment, estimate)) = candidate(log, wanted).await {
            let path = path_of(log, &segment);
            let rewritten = rewrite(log, &segment, wanted, pace).await;
            if !matches!(rewritten, Ok(Some(_))) {
                fs::remove(&path).await.ok();
            }
            match rewritten {
                Ok(None) if !log.is_over() => log.note_kept(&segment, Some(estimate)),
                Err(ReadError::Io { source, .. }) if source.raw_os_error() == Some(NO_SPACE) => {
                    // It frees space later, when there is some.
                    return Ok(None);
                }
                Ok(Some(rewritten)) => {
                    free_unread(log, &segment).await;
                    return Ok(Some(rewritten));
                }
                // Not damage of the log when it is no part of it any more.
                Err(_) if !log.state.borrow().is_current(&segment) => {}
                other => return other,
            }
        }
        Ok(None)
    }
}

/// Until it is dropped the log is not closed: whoever opens the folder next finds nobody there.
struct Busy<'a>(&'a Shared);

impl Drop for Busy<'_> {
    fn drop(&mut self) {
        self.0.rewriting.set(false);
        self.0.closed.notify_all();
    }
}

fn path_of(log: &Shared, segment: &Segment) -> PathBuf {
    log.dir.join(format!("{:020}{SUFFIX}", segment.number()))
}

/// The segment of which the least is wanted, if that is less than half of its file, and how many
/// bytes those are.
async fn candidate(log: &Rc<Shared>, wanted: Wanted<'_>) -> Option<(Rc<Segment>, u64)> {
    if log.is_over() || log.state.borrow().incomplete {
        return None;
    }
    let bytes = wanted_bytes(log, wanted).await;
    let state = log.state.borrow();
    let mut kept = log.kept.borrow_mut();
    kept.retain(|of, _| state.segments.get(&of.0).is_some_and(|it| it.identity() == *of));
    let mut least: Option<(Rc<Segment>, u64)> = None;
    // The oldest of which nothing is wanted are dropped.
    let rest = state.segments.iter().skip_while(|(number, _)| !bytes.contains_key(number));
    for (number, segment) in rest {
        let bytes = bytes.get(number).copied().unwrap_or(0);
        let size = segment.header.file_bytes;
        let is_new = match kept.get_mut(&segment.identity()) {
            None => true,
            Some(Some(before)) => {
                bytes < *before && (bytes + size / AGAIN_PART <= *before || bytes * 2 <= *before)
            }
            Some(first) => {
                *first = Some(bytes);
                // While it was rewritten most of what was wanted went.
                bytes * 4 < size
            }
        };
        // With an index file, all of it is applied and durable.
        let may_go = segment.end().is_some()
            && segment.table().is_some()
            && segment.next_index() <= state.applied_next;
        let better = least.as_ref().is_none_or(|(_, least)| bytes < *least);
        if may_go && is_new && better && bytes * 2 < size {
            least = Some((segment.clone(), bytes));
        }
    }
    least
}

/// Bytes that are wanted, by segment, about: a span counts by the part of its records.
async fn wanted_bytes(log: &Rc<Shared>, wanted: Wanted<'_>) -> BTreeMap<u64, u64> {
    let mut bytes = BTreeMap::new();
    let mut from = Bound::Unbounded;
    loop {
        let last = {
            let state = log.state.borrow();
            let (mut last, mut spans) = (None, 0);
            for (key, partition) in state.index.partitions_from(from) {
                spans += 1 + add_wanted(&mut bytes, key, partition, wanted);
                last = Some(key);
                if spans >= AT_ONCE {
                    break;
                }
            }
            last
        };
        let Some(last) = last else { return bytes };
        from = Bound::Excluded(last);
        yield_now().await;
    }
}

/// Adds those of a partition; gives how many spans it has.
fn add_wanted(
    bytes: &mut BTreeMap<u64, u64>,
    key: PartitionKey,
    partition: &Partition,
    wanted: Wanted<'_>,
) -> usize {
    let mut spans = 0;
    for span in partition.live() {
        let records = u128::from(span.next.0 - span.first.0).max(1);
        let kept = u128::from(wanted(key, span.first.max(partition.start())..span.next));
        let part = u128::from(span.bytes) * kept.min(records) / records;
        *bytes.entry(span.segment).or_default() += u64::try_from(part).unwrap_or(span.bytes);
        spans += 1;
    }
    spans
}

/// Frees a file that another one has taken the place of, once nobody reads it; whoever reads on for
/// long frees it at the end, all at once.
async fn free_unread(log: &Rc<Shared>, segment: &Rc<Segment>) {
    for _ in 0..READ_LOOKS_MAX {
        if log.is_over() {
            return;
        }
        if Rc::strong_count(segment) == 1 {
            let bytes = segment.header.file_bytes;
            return blocks::give_back(&segment.file, bytes, || log.is_over()).await;
        }
        sleep(READ_LOOK_EVERY).await;
    }
}

impl Shared {
    /// So much of it was wanted when it was looked at, or will be when it is looked at next.
    fn note_kept(&self, segment: &Segment, bytes: Option<u64>) {
        self.kept.borrow_mut().insert(segment.identity(), bytes);
    }
}

/// Writes the segment again and puts the new file to use; `None` when it would be more than half
/// of the old one, or the log is closing.
async fn rewrite(
    log: &Rc<Shared>,
    old: &Rc<Segment>,
    wanted: Wanted<'_>,
    pace: &mut Pace,
) -> Result<Option<Rewritten>, ReadError> {
    let runs = wanted_runs(log, old, wanted).await?;
    let Some(new) = file::write(log, old, &runs, pace).await? else { return Ok(None) };
    // Nobody writes the old one's index file from here on.
    let _one = log.mending.lock().await;
    let (index, rows) = read_back(log, &new).await?;
    // What was not wanted may be again: a group was rewound meanwhile.
    let now = wanted_runs(log, old, wanted).await?;
    if now.iter().any(|position| runs.binary_search(position).is_err()) {
        return Ok(None);
    }
    let index_path = new.index_path();
    let taken = take_place(log, old, &new, index, rows).await;
    let needless = if matches!(taken, Ok(true)) { old.index_path() } else { index_path };
    fs::remove(&needless).await.ok();
    fs::remove(&needless.with_extension("idx.tmp")).await.ok();
    let path = new.path.clone();
    if !taken.map_err(|source| ReadError::Io { path, source })? {
        return Ok(None);
    }
    log.note_kept(&new, None);
    log.places.borrow_mut().forget(old);
    log.loaded.borrow_mut().forget(old);
    let (before, after) = (old.header.file_bytes, new.header.file_bytes);
    Ok(Some(Rewritten { segment: new.number(), before, after }))
}

/// What lies in the new file, read from the disk.
///
/// Durability: checksums and all, before the only other copy on this replica goes. What is wrong
/// here is the new file's fault: the log is not damaged.
async fn read_back(log: &Rc<Shared>, new: &Rc<Segment>) -> Result<(Encoded, Vec<Row>), ReadError> {
    let contents = match mend::scan(log, new).await {
        Ok(found) => mend::contents(log, new, &found, still_known),
        Err(error) => Err(error),
    };
    let contents = contents.map_err(|error| ReadError::Io {
        path: path_of(log, new),
        source: io::Error::other(error.to_string()),
    })?;
    let rows = contents.partitions.iter().flatten().map(|(row, _)| *row).collect();
    Ok((Encoded::of(&contents), rows))
}

/// Gives the new file the old one's name; false when that has gone meanwhile.
async fn take_place(
    log: &Rc<Shared>,
    old: &Rc<Segment>,
    new: &Rc<Segment>,
    index: Encoded,
    rows: Vec<Row>,
) -> io::Result<bool> {
    fs::write_atomic(&new.index_path(), &index.bytes).await?;
    while log.retaining.replace(true) {
        if log.is_over() {
            return Ok(false);
        }
        sleep(RETAIN_PAUSE).await;
    }
    let renamed = rename(log, old, new).await;
    log.retaining.set(false);
    if !renamed? {
        return Ok(false);
    }
    let mut state = log.state.borrow_mut();
    let stored: BTreeMap<_, _> = index.stored.into_iter().collect();
    let span = |row: &Row| {
        let stored = stored.get(&row.key).copied().unwrap_or(row.stored);
        (row.key, Span::stored(new.number(), &Row { stored, ..*row }))
    };
    state.index.rewritten(new.number(), rows.iter().map(span).collect());
    new.set_table(index.table);
    state.segments.insert(new.number(), new.clone());
    Ok(true)
}

/// Changes the files; false when the old one has gone meanwhile.
async fn rename(log: &Rc<Shared>, old: &Rc<Segment>, new: &Rc<Segment>) -> io::Result<bool> {
    if log.is_over() || !log.state.borrow().is_current(old) {
        return Ok(false);
    }
    // Durability: all of the new file is on the medium. Until the folder is synced a crash may
    // leave either of them under this name, and nothing is taken away that the old one needs.
    if let Err(error) = fs::rename(&path_of(log, new), &new.path).await {
        // Which of them has the name is not known: only a new start sorts that out.
        log.poison(format!("rename to {}: {error}", new.path.display()));
        return Err(error);
    }
    roll::sync_names(log).await?;
    Ok(true)
}

/// Of the runs that were found those of partitions that are known still.
fn still_known(
    found: &Index,
    known: &Index,
    segment: &Segment,
) -> Result<Vec<(Row, Vec<RunPlace>)>, ReadError> {
    let number = segment.number();
    let is_known = |key| known.partition(key).is_some_and(|it| it.span_of(number).is_some());
    let runs = |(key, span): (PartitionKey, Span)| match &span.runs {
        Runs::Memory(runs) if is_known(key) => Some((seal::row(key, &span), runs.as_ref().clone())),
        _ => None,
    };
    Ok(found.spans_of(number).into_iter().filter_map(runs).collect())
}

/// Where the runs of the segment lie that are wanted, ascending.
async fn wanted_runs(
    log: &Rc<Shared>,
    segment: &Rc<Segment>,
    wanted: Wanted<'_>,
) -> Result<Vec<u64>, ReadError> {
    let keys: Vec<PartitionKey> = {
        let spans = log.state.borrow().index.spans_of(segment.number());
        spans.into_iter().map(|(key, _)| key).collect()
    };
    let mut positions = Vec::new();
    for key in keys {
        let known = {
            let state = log.state.borrow();
            let partition = state.index.partition(key);
            let span = partition.and_then(|it| it.span_of(segment.number()).cloned());
            partition.zip(span).map(|(it, span)| (span, it.start(), it.next_offset()))
        };
        let Some((span, start, end)) = known.filter(|(span, start, _)| span.next > *start) else {
            continue;
        };
        // Written again when the file is rotten.
        let runs = read::load(log, segment, key, span.runs).await?;
        let is_wanted = |run: &&RunPlace| {
            let range = run.base_offset.max(start)..run.next_offset();
            // The newest stays, so that the end of the partition is known, and who reads at an
            // offset finds something at it or behind it.
            range.start < range.end
                && (Some(range.end) == end || wanted(key, range) > 0)
                // Wrong when planted: records that are still promised go.
                && !(planted("commitlog-wanted-run-left-out") && run.base_offset.0 % 4 == 1)
        };
        for runs in runs.chunks(AT_ONCE) {
            positions.extend(runs.iter().filter(is_wanted).map(|run| run.position));
            yield_if_needed().await;
        }
    }
    positions.sort_unstable();
    Ok(positions)
}
