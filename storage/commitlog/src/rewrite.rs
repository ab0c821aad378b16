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

use crate::error::{OpenError, ReadError};
use crate::format::entry as entry_format;
use crate::format::group::{self, Truncate};
use crate::format::index::Row;
use crate::format::segment::{self as segment_format, DATA_START, Header, Original};
use crate::format::{BLOCK_BYTES, FormatError};
use crate::index::{Index, Partition, RunPlace, Runs, Span};
use crate::log::{CommitLog, Shared};
use crate::read;
use crate::roll;
use crate::scan::{Group, Scanner};
use crate::seal::{self, Encoded};
use crate::segment::Segment;
use crate::writer::NO_SPACE;
use crate::{HardState, mend};
use barrage_model::{Offset, PartitionKey};
use barrage_world::{
    Buffer, File, Instant, fs, planted, random_u64, sleep, yield_if_needed, yield_now,
};
use bytes::Bytes;
use std::collections::BTreeMap;
use std::io;
use std::ops::{Bound, Range};
use std::path::PathBuf;
use std::rc::Rc;
use std::time::Duration;

/// Ending of a file that is to take a segment's place.
const SUFFIX: &str = ".rewrite";
/// Bytes of entries in one group, but for an entry that is larger.
const GROUP_BYTES: usize = 1024 * 1024;
/// Partitions looked at without a pause.
const PARTITIONS_AT_ONCE: usize = 1_000;
/// While segments are dropped, how long until the next look.
const RETAIN_PAUSE: Duration = Duration::from_millis(5);
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
    /// So many bytes a second, read and written, at most.
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
                Ok(None) if !log.is_over() => log.note_kept(&segment, estimate),
                Err(ReadError::Io { source, .. }) if source.raw_os_error() == Some(NO_SPACE) => {
                    // It frees space later, when there is some.
                    return Ok(None);
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
    kept.retain(|of, _| state.segments.values().any(|it| it.identity() == *of));
    let mut least: Option<(Rc<Segment>, u64)> = None;
    // The oldest of which nothing is wanted are dropped.
    let rest = state.segments.iter().skip_while(|(number, _)| !bytes.contains_key(number));
    for (number, segment) in rest {
        let bytes = bytes.get(number).copied().unwrap_or(0);
        let size = segment.header.file_bytes;
        let is_new =
            kept.get(&segment.identity()).is_none_or(|before| bytes + size / AGAIN_PART <= *before);
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
            let mut last = None;
            for (key, partition) in state.index.partitions_from(from).take(PARTITIONS_AT_ONCE) {
                add_wanted(&mut bytes, key, partition, wanted);
                last = Some(key);
            }
            last
        };
        let Some(last) = last else { return bytes };
        from = Bound::Excluded(last);
        yield_now().await;
    }
}

fn add_wanted(
    bytes: &mut BTreeMap<u64, u64>,
    key: PartitionKey,
    partition: &Partition,
    wanted: Wanted<'_>,
) {
    for span in partition.live() {
        let records = u128::from(span.next.0 - span.first.0).max(1);
        let kept = u128::from(wanted(key, span.first.max(partition.start())..span.next));
        let part = u128::from(span.bytes) * kept.min(records) / records;
        *bytes.entry(span.segment).or_default() += u64::try_from(part).unwrap_or(span.bytes);
    }
}

impl Shared {
    fn note_kept(&self, segment: &Segment, bytes: u64) {
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
    let Some(new) = write(log, old, &runs, pace).await? else { return Ok(None) };
    // Nobody writes the old one's index file from here on.
    let _one = log.mending.lock().await;
    // Durability: what is here is read back from the disk, checksums and all, before the only other
    // copy on this replica goes.
    let found = mend::scan(log, &new).await?;
    let contents = mend::contents(log, &new, &found, still_known)?;
    let rows: Vec<Row> = contents.partitions.iter().flatten().map(|(row, _)| *row).collect();
    let index = Encoded::of(&contents);
    let index_path = new.index_path();
    let failed = |path: PathBuf| move |source| ReadError::Io { path, source };
    fs::write_atomic(&index_path, &index.bytes).await.map_err(failed(index_path.clone()))?;
    while log.retaining.replace(true) {
        sleep(RETAIN_PAUSE).await;
    }
    let taken = take_place(log, old, &new, index, rows).await;
    log.retaining.set(false);
    let needless = if matches!(taken, Ok(true)) { old.index_path() } else { index_path };
    fs::remove(&needless).await.ok();
    if !taken.map_err(failed(new.path.clone()))? {
        return Ok(None);
    }
    log.places.borrow_mut().forget(old);
    log.loaded.borrow_mut().forget(old);
    let (before, after) = (old.header.file_bytes, new.header.file_bytes);
    Ok(Some(Rewritten { segment: new.number(), before, after }))
}

/// Gives the new file the old one's name; false when that has gone meanwhile.
async fn take_place(
    log: &Rc<Shared>,
    old: &Rc<Segment>,
    new: &Rc<Segment>,
    index: Encoded,
    rows: Vec<Row>,
) -> io::Result<bool> {
    if log.is_over() || !log.state.borrow().is_current(old) {
        return Ok(false);
    }
    // Durability: all of the new file is on the medium. Until the folder is synced a crash may
    // leave either of them under this name, and nothing is taken away that the old one needs.
    fs::rename(&path_of(log, new), &new.path).await?;
    roll::sync_names(log).await?;
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
    let spans = log.state.borrow().index.spans_of(segment.number());
    let mut positions = Vec::new();
    for (key, span) in spans {
        let start = log.state.borrow().index.partition(key).map_or(Offset(0), Partition::start);
        let runs = match &span.runs {
            _ if span.next <= start => continue,
            Runs::Memory(runs) => runs.as_ref().clone(),
            Runs::File(stored) => {
                let path = segment.index_path();
                match read::read_runs(segment, *stored).await {
                    Ok(runs) => runs,
                    // Written again by whoever reads a record; this comes back later.
                    Err(source) => return Err(ReadError::Io { path, source }),
                }
            }
        };
        let is_wanted = |run: &&RunPlace| {
            let range = run.base_offset.max(start)..run.next_offset();
            range.start < range.end && wanted(key, range) > 0
                // Wrong when planted: records that are still promised go.
                && !(planted("commitlog-wanted-run-left-out") && run.base_offset.0 % 4 == 1)
        };
        positions.extend(runs.iter().filter(is_wanted).map(|run| run.position));
        yield_if_needed().await;
    }
    positions.sort_unstable();
    Ok(positions)
}

/// Writes the new file; durable when it returns, under a name of its own. `None` when it would be
/// more than half of the old one, or the log is closing.
async fn write(
    log: &Rc<Shared>,
    old: &Rc<Segment>,
    wanted: &[u64],
    pace: &mut Pace,
) -> Result<Option<Rc<Segment>>, ReadError> {
    let path = path_of(log, old);
    let failed = |source| ReadError::Io { path: path.clone(), source };
    let most = old.header.file_bytes / 2 / BLOCK_BYTES as u64 * BLOCK_BYTES as u64;
    let (Some(end), true) = (old.log_end(), most > DATA_START) else { return Ok(None) };
    let position = {
        let mut state = log.state.borrow_mut();
        let position = state.rewritten_to;
        state.rewritten_to += most;
        position
    };
    fs::remove(&path).await.ok();
    let file = File::create(&path, most).await.map_err(failed)?;
    let header = Header {
        salt: random_u64(),
        position,
        file_bytes: most,
        original: Some(Original { start: old.log_start(), end }),
        ..old.header
    };
    let mut writer = Writer { header, file, at: 0, group: Gathered::default(), chain: (0, 0) };
    let mut scanner = Scanner::new(old.clone(), old.end());
    let (mut at, end) = (old.header.position, old.end().unwrap_or(0));
    while at < end {
        if log.is_over() || !log.state.borrow().is_current(old) {
            return Ok(None);
        }
        let group = scanner.group(at).await.map_err(OpenError::into_read_error)?;
        let group = group.map_err(|error| old.format_damage(at, error))?;
        pace.spend(group.end() - at).await;
        let taken = writer.take(&group, wanted).await.map_err(failed)?;
        match taken {
            Ok(true) => at = group.end(),
            Ok(false) => return Ok(None),
            Err(error) => return Err(old.format_damage(at, error).into()),
        }
    }
    let Some(written) = writer.finish().await.map_err(failed)? else { return Ok(None) };
    let (header, file) = written;
    let new = Segment::new(header, old.path.clone(), file);
    new.holds_as_indexed(old.held());
    new.seal(new.capacity_end());
    Ok(Some(Rc::new(new)))
}

/// Entries that go into one group.
#[derive(Default)]
struct Gathered {
    /// Each with the hash before it and its own.
    entries: Vec<(crate::Entry, u64, u64)>,
    len: usize,
    hard: HardState,
    truncate: Option<Truncate>,
    begun: bool,
}

/// The file that is written.
struct Writer {
    header: Header,
    file: File,
    /// Bytes behind the header.
    at: u64,
    group: Gathered,
    /// Groups written, and the CRC of the last.
    chain: (u64, u32),
}

impl Writer {
    /// Takes what is left of a group; false when there is no room.
    async fn take(
        &mut self,
        group: &Group,
        wanted: &[u64],
    ) -> io::Result<Result<bool, FormatError>> {
        let entries = match entries(group, &self.header, wanted) {
            Ok(entries) => entries,
            Err(error) => return Ok(Err(error)),
        };
        let hard = group.header.hard;
        let same =
            |gathered: &HardState| (gathered.vote, gathered.floor) == (hard.vote, hard.floor);
        // A truncation is of what came before it, and a floor or a vote stands where it stood.
        let joins = group.header.truncate.is_none() && same(&self.group.hard);
        if self.group.begun && !joins && !self.flush().await? {
            return Ok(Ok(false));
        }
        if !self.group.begun {
            self.group.truncate = group.header.truncate;
        }
        (self.group.hard, self.group.begun) = (hard, true);
        for entry in entries {
            let len = entry_format::encoded_len(&entry.0);
            if self.group.len > 0 && self.group.len + len > GROUP_BYTES {
                if !self.flush().await? {
                    return Ok(Ok(false));
                }
                (self.group.hard, self.group.begun) = (hard, true);
            }
            self.group.len += len;
            self.group.entries.push(entry);
        }
        Ok(Ok(true))
    }

    /// Writes the group that was gathered; false when there is no room.
    async fn flush(&mut self) -> io::Result<bool> {
        let gathered = std::mem::take(&mut self.group);
        let len = group::encoded_len(gathered.len);
        if DATA_START + self.at + len as u64 > self.header.file_bytes {
            return Ok(false);
        }
        let mut buffer = Buffer::new(len);
        let mut at = group::HEADER_BYTES;
        let mut crc = crate::crc::Running::default();
        for (entry, previous, own) in &gathered.entries {
            let room = buffer.get_mut(at..).unwrap_or_default();
            let (len, hash, entry_crc) =
                entry_format::encode(entry, self.header.shard, *previous, room);
            assert_eq!(hash, *own, "it is the same entry: {:?}", entry.id);
            crc.known(room.get(..len).unwrap_or_default(), entry_crc.value());
            at += len;
        }
        let Header { shard, number: segment, salt, .. } = self.header;
        let position = self.header.position + self.at;
        let header = group::Header {
            number: self.header.first_group + self.chain.0,
            // All that it stands for was on the medium long ago.
            synced_to: self.header.original.map_or(0, |original| original.start),
            len: len as u32,
            entries_len: gathered.len as u32,
            entry_count: gathered.entries.len() as u32,
            previous_crc: self.chain.1,
            hard: gathered.hard,
            truncate: gathered.truncate,
        };
        let place = group::Place { shard, segment, salt, position };
        let crc = group::seal(&header, &place, &mut buffer, crc.value());
        self.chain = (self.chain.0 + 1, crc);
        self.put(buffer, DATA_START + self.at).await?;
        self.at += len as u64;
        Ok(true)
    }

    async fn put(&self, buffer: Buffer, at: u64) -> io::Result<()> {
        let slice = buffer.freeze();
        let written = self.file.write_at(&slice, at).await?;
        match written == slice.len() {
            true => Ok(()),
            false => Err(io::Error::from_raw_os_error(NO_SPACE)),
        }
    }

    /// Writes what is left and the header; `None` when there is no room.
    async fn finish(mut self) -> io::Result<Option<(Header, File)>> {
        if self.group.begun && !self.flush().await? {
            return Ok(None);
        }
        self.header.file_bytes = DATA_START + self.at;
        let mut block = Buffer::new(DATA_START as usize);
        for copy in block.chunks_mut(BLOCK_BYTES) {
            segment_format::encode(&self.header, copy);
        }
        self.put(block, 0).await?;
        self.file.set_len(self.header.file_bytes).await?;
        // Wrong when planted: it takes the place of the other while it is in a cache.
        if !planted("commitlog-rewritten-not-flushed") {
            self.file.sync_data().await?;
        }
        Ok(Some((self.header, self.file)))
    }
}

/// The entries of a group, without the runs that are not wanted; each with the hash of the header
/// before it and its own.
fn entries(
    group: &Group,
    header: &Header,
    wanted: &[u64],
) -> Result<Vec<(crate::Entry, u64, u64)>, FormatError> {
    let mut at = group::HEADER_BYTES;
    let end = at + group.header.entries_len as usize;
    let mut entries = Vec::new();
    while at < end {
        let rest = group.bytes.get(at..end).unwrap_or_default();
        let head = entry_format::decode_header(rest, header.shard)?;
        let bytes = rest.get(..head.len()).ok_or(FormatError::Short)?;
        let own = entry_format::header_hash(entry_format::head(bytes));
        let mut entry = entry_format::decode_whole(&Bytes::copy_from_slice(bytes), header.shard)?;
        let starts = entry_format::decode_runs(&head, bytes)?;
        for (run, (_, start)) in entry.runs.iter_mut().zip(starts) {
            let position = group.position + (at + start) as u64;
            if run.gone.is_none() && run.byte_len > 0 && wanted.binary_search(&position).is_err() {
                run.gone = Some(head.body_crc);
                run.batches.clear();
            }
        }
        entries.push((entry, head.previous_hash, own));
        at += head.len();
    }
    Ok(entries)
}
