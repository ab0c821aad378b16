//! Opening a log: find the segments, replay their groups, judge the end (rule T-1).
//!
//! A break below the sync mark is damage to bytes that may be acknowledged: the shard is refused
//! and the place is named. A break at or above the mark is a torn tail: it was never
//! acknowledged, is copied aside and left behind by starting a new segment. So a block that once
//! was written is never written again in the same life of its file.

use crate::error::OpenError;
use crate::format::checkpoint::Checkpoint;
use crate::format::entry as entry_format;
use crate::format::group::{self, Truncate};
use crate::format::segment::{self as segment_format, DATA_START, Header};
use crate::format::{BLOCK_BYTES, index as index_format, round_up_to_block};
use crate::index::{RunPlace, Runs, Span};
use crate::options::{Floor, Options};
use crate::quarantine;
use crate::roll;
use crate::scan::{Group, Scanner, Tail};
use crate::segment::{self, Segment, TablePlace};
use crate::slots::Place;
use crate::state::State;
use barrage_model::{LogId, PartitionKey};
use barrage_world::{File, fs, planted, random_u64};
use std::io;
use std::path::{Path, PathBuf};
use std::rc::Rc;

/// Bytes copied aside at a time.
const COPY_BYTES: usize = 1024 * 1024;

/// What a log is opened for.
pub(crate) enum Opening {
    /// To be used, with the checkpoint that the state machine was restored from.
    Whole(Option<Checkpoint>),
    /// To be filled by a copy of another replica's; the checkpoint comes last.
    Incomplete,
}

impl Opening {
    pub(crate) fn applied(&self) -> Option<LogId> {
        match self {
            Self::Whole(checkpoint) => checkpoint.as_ref().map(|found| found.id),
            Self::Incomplete => None,
        }
    }

    /// Index after what the state machine has seen.
    fn applied_next(&self) -> u64 {
        self.applied().map_or(0, |id| id.index.0 + 1)
    }
}

/// What opening found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RecoveryReport {
    /// Segments read from end to end.
    pub scanned_segments: u64,
    /// Segments known by their index file.
    pub skipped_segments: u64,
    /// Entries above the floor.
    pub entries: u64,
    /// The log began anew behind a checkpoint that a peer had sent.
    pub restarted: bool,
    /// A tail that was never acknowledged and was moved aside: the copy and its bytes.
    pub quarantined: Option<(PathBuf, u64)>,
}

/// Reads the log in `dir`; everything up to the checkpoint is indexed here, the rest by apply.
pub(crate) async fn recover(
    dir: &Path,
    options: Options,
    opening: Opening,
) -> Result<(State, Vec<PathBuf>, RecoveryReport), OpenError> {
    sync_names(dir).await?;
    let (segments, mut pool) = open_segments(dir, &options).await?;
    let trusted = replay(dir, &options, &opening, &segments, IndexFiles::Trusted).await;
    let replayed = match trusted {
        Err(OpenError::Damaged(damage)) if segments.iter().any(|s| s.table().is_some()) => {
            // What index files say is never trusted over the log (rule T-3): if what follows does
            // not fit it, they are what is doubted first.
            tracing::warn!(%damage, "index files do not fit the log, all of it is read");
            segments.iter().for_each(|segment| segment.forget_entries());
            replay(dir, &options, &opening, &segments, IndexFiles::Passed).await?
        }
        replayed => replayed?,
    };
    let Replayed { state, clean_end, torn, mark, mut report } = replayed;
    if let Some(last) = segments.last() {
        write_again(last, mark, clean_end).await?;
    }
    if let (Some(tail), Some(last)) = (torn, segments.last()) {
        report.quarantined = quarantine::set_aside(dir, last, clean_end, tail).await?;
    }
    report.entries = entries_above_floor(&state);
    let spare = if torn.is_some() { pool.pop() } else { None };
    let mut state = finish(dir, state, segments, clean_end, torn.is_some(), spare).await?;
    state.applied_next = opening.applied_next();
    Ok((state, pool, report))
}

/// Whether segments are taken from their index files.
#[derive(Clone, Copy, PartialEq, Eq)]
enum IndexFiles {
    Trusted,
    Passed,
}

/// A log that was read and judged.
struct Replayed {
    state: State,
    clean_end: u64,
    /// What lies behind a torn end.
    torn: Option<Tail>,
    mark: u64,
    report: RecoveryReport,
}

async fn replay(
    dir: &Path,
    options: &Options,
    opening: &Opening,
    segments: &[Rc<Segment>],
    index_files: IndexFiles,
) -> Result<Replayed, OpenError> {
    let mut report = RecoveryReport::default();
    let first = segments.first().map(|segment| segment.header);
    let hard = first.map_or_else(Default::default, |header| header.hard);
    let position = first.map_or(0, |header| header.position);
    let mut state = State::new(options.clone(), hard, position);
    if let Some(floor) = hard.floor {
        state.slots.set_floor(floor);
    }
    // The newest header restates the floor: whole segments below it need not be read.
    let newest = segments.last().map_or_else(Default::default, |s| s.header.hard);
    let applied_next = opening.applied_next();
    if let Opening::Whole(Some(checkpoint)) = opening {
        // From the same reading of the file as the machine's state: were it read again and found
        // damaged, what apply had refused would be served.
        state.refused = checkpoint.refused.clone();
    }
    state.slots.set_applied(applied_next);
    let mut replay = Replay {
        state,
        applied_next,
        found: Vec::new(),
        oldest: true,
        mark: position,
        index_files,
    };
    let (clean_end, torn) = replay.segments(segments, newest.floor, &mut report).await?;
    let mark = replay.mark;
    let mut state = replay.finish();
    if let Opening::Whole(Some(checkpoint)) = opening
        && checkpoint.installed
    {
        report.restarted = restart_behind(&mut state, checkpoint.id);
    }
    let damage = |reason: String| match segments.last() {
        Some(last) => last.damage(clean_end, reason),
        None => crate::Damage { path: dir.to_owned(), position: 0, reason },
    };
    reaches_back(&state, segments).map_err(damage)?;
    if let Opening::Whole(checkpoint) = opening {
        fits_checkpoint(&state, checkpoint.as_ref().map(|found| found.id)).map_err(damage)?;
    }
    Ok(Replayed { state, clean_end, torn, mark, report })
}

fn entries_above_floor(state: &State) -> u64 {
    let end = state.slots.last().map_or(0, |last| last.index.0 + 1);
    end - state.slots.first().map_or(end, |first| first.index.0)
}

/// Durability: a name that the process before this one left may not be durable yet, and what is
/// written from now on relies on it.
async fn sync_names(dir: &Path) -> Result<(), OpenError> {
    let failed = |source| OpenError::Io { action: "sync", path: dir.to_owned(), source };
    fs::sync_dir(dir).await.map_err(failed)
}

/// Makes the last segment the active one, or a new one when there is none to go on with.
async fn finish(
    dir: &Path,
    old: State,
    segments: Vec<Rc<Segment>>,
    end: u64,
    torn: bool,
    spare: Option<PathBuf>,
) -> Result<State, OpenError> {
    let mut state = old.reopened(end);
    for segment in &segments {
        state.segments.insert(segment.number(), segment.clone());
    }
    if let Some(last) = segments.last()
        && !torn
    {
        if planted("commitlog-end-not-flushed") {
            // Wrong: the next group vouches for what a power loss takes away.
            return Ok(state);
        }
        // What was read may have been acknowledged by nobody and be in a drive's cache only.
        last.file.sync_data().await.map_err(|source| OpenError::Io {
            action: "sync",
            path: last.path.clone(),
            source,
        })?;
        return Ok(state);
    }
    let header = Header {
        shard: state.options.shard,
        number: segments.last().map_or(1, |last| last.number() + 1),
        salt: random_u64(),
        position: end,
        file_bytes: state.options.segment_bytes,
        hard: state.hard,
        first_group: state.group_number + 1,
        previous_hash: state.previous_hash,
    };
    if let Some(last) = segments.last() {
        // The new header vouches for everything before it, so it must be on the medium first.
        last.file.sync_data().await.map_err(|source| OpenError::Io {
            action: "sync",
            path: last.path.clone(),
            source,
        })?;
    }
    let segment = roll::create(dir, spare, header).await?;
    state.rolled(Rc::new(segment));
    Ok(state)
}

/// Opens every segment file, oldest first, and lists the pool.
async fn open_segments(
    dir: &Path,
    options: &Options,
) -> Result<(Vec<Rc<Segment>>, Vec<PathBuf>), OpenError> {
    let failed = |source| OpenError::Io { action: "list", path: dir.to_owned(), source };
    let mut numbers = Vec::new();
    let mut pool = Vec::new();
    for name in fs::list(dir).await.map_err(failed)? {
        if let Some(number) = segment::number_of(&name) {
            numbers.push(number);
        } else if roll::is_pool_name(&name) {
            // What a pool file holds is unknown after a crash; its space is what counts.
            let path = dir.join(name);
            let usable = make_usable(&path, options.segment_bytes).await.unwrap_or(false);
            if usable && pool.len() < options.pool_segments {
                pool.push(path);
            } else {
                fs::remove(&path).await.ok();
            }
        }
    }
    numbers.sort_unstable();
    let mut segments = Vec::new();
    for number in numbers {
        segments.push(Rc::new(open_segment(dir, number, options).await?));
    }
    Ok((segments, pool))
}

/// Whether a pool file has the right length, also after a power loss.
///
/// Durability: a flush that failed before the restart may have dropped the length that is seen
/// now, and no later flush writes what looks unchanged. So it is changed, and changed back.
async fn make_usable(path: &Path, len: u64) -> io::Result<bool> {
    let file = File::open(path).await?;
    if file.len().await? != len {
        return Ok(false);
    }
    file.set_len(len - BLOCK_BYTES as u64).await?;
    file.set_len(len).await?;
    file.sync_data().await?;
    Ok(true)
}

/// Opens one segment; either copy of its header will do.
pub(crate) async fn open_segment(
    dir: &Path,
    number: u64,
    options: &Options,
) -> Result<Segment, OpenError> {
    let path = segment::path_of(dir, number);
    let failed = |source| OpenError::Io { action: "open", path: path.clone(), source };
    let damaged = |reason: String| crate::Damage { path: path.clone(), position: 0, reason };
    let file = File::open(&path).await.map_err(failed)?;
    let blocks = file.read_at(0, DATA_START as usize).await.map_err(failed)?;
    let mut copies = blocks.chunks(BLOCK_BYTES).map(segment_format::decode);
    let header = match (copies.next(), copies.next()) {
        (Some(Ok(header)), _) | (_, Some(Ok(header))) => header,
        (Some(Err(error)), _) => return Err(damaged(error.to_string()).into()),
        (None, _) => return Err(damaged("the file is empty".to_owned()).into()),
    };
    if header.number != number || header.shard != options.shard {
        return Err(damaged("the header names another segment or shard".to_owned()).into());
    }
    if file.len().await.map_err(failed)? < header.file_bytes {
        return Err(damaged("the file is shorter than its header says".to_owned()).into());
    }
    if header.file_bytes > Options::SEGMENT_BYTES_MAX {
        return Err(damaged("the file is larger than a segment can be".to_owned()).into());
    }
    Ok(Segment::new(header, path, file))
}

fn segment_follows(segment: &Segment, end: u64) -> Result<(), OpenError> {
    if segment.header.position == end {
        return Ok(());
    }
    let reason = format!("it begins at log position {}, not {end}", segment.header.position);
    Err(segment.damage(segment.header.position, reason).into())
}

/// Takes a segment from its index file when apply needs nothing in it any more, and the entries in
/// it follow those before it.
async fn load_index(
    replay: &mut Replay,
    segment: &Rc<Segment>,
    next: &Segment,
    floor: Option<LogId>,
) -> bool {
    let path = segment.index_path();
    let Ok(bytes) = read_head(&path).await else { return false };
    let head = match index_format::decode(&bytes) {
        Ok(head) => head,
        Err(error) => {
            tracing::warn!(path = %path.display(), %error, "index file damaged, rebuilt");
            return false;
        }
    };
    let index_format::Head { cover, held, table, partitions } = head;
    let Some(partitions) = partitions else { return false };
    // Wrong when planted: entries that apply needs are passed over.
    let needless =
        held.next <= replay.applied_next || planted("commitlog-index-trusted-over-log");
    let slots = &mut replay.state.slots;
    let floor_next = floor.max(slots.floor()).map_or(0, |floor| floor.index.0 + 1);
    let above = table.first.max(floor_next).min(table.next())..table.next();
    let begins_anywhere = slots.is_empty() && floor_next == 0 && segment.header.position == 0;
    let expected = match slots.next_index().filter(|_| !slots.is_empty()) {
        Some(next) => next.max(floor_next),
        None if begins_anywhere => held.low,
        None => floor_next,
    };
    let follows = match above.is_empty() {
        true => held.kept <= expected,
        false => above.start == expected && table.next() == held.kept,
    };
    if cover != crate::seal::cover_before(segment, next) || !needless || !follows {
        return false;
    }
    if let Some(floor) = floor {
        slots.set_floor(floor);
    }
    segment.holds_as_indexed(held);
    let (start, first, count) = (table.start, table.first, table.count);
    segment.set_table(TablePlace { start, first, count });
    // What was refused at or below a floor that follows the records may be forgotten; and
    // retention has let all of it go.
    let readable = replay.state.options.floor == Floor::Checkpoint || !above.is_empty();
    if !above.is_empty() {
        slots.push_cold(segment.number(), above, &table.terms, table.last_hash);
    }
    for row in partitions.into_iter().filter(|_| readable) {
        let span = Span {
            segment: segment.number(),
            first: row.first,
            next: row.next,
            first_time_ms: row.first_time_ms,
            last_time_ms: row.last_time_ms,
            bytes: row.bytes,
            runs: Runs::File(row.stored),
        };
        replay.state.index.add_span(row.key, span);
    }
    true
}

/// The head of an index file, and some of what follows it: neither the runs nor the entry table
/// is read before somebody asks.
async fn read_head(path: &Path) -> io::Result<barrage_world::Slice> {
    let file = File::open(path).await?;
    let block = file.read_at(0, BLOCK_BYTES).await?;
    let len = index_format::head_len(&block).unwrap_or(0);
    let head = match len <= BLOCK_BYTES {
        true => block,
        false => file.read_at(0, round_up_to_block(len)).await?,
    };
    file.close().await?;
    Ok(head)
}

/// Replays groups into the state.
struct Replay {
    state: State,
    applied_next: u64,
    /// Runs of applied entries, by entry index: a truncation takes back what it cuts off.
    found: Vec<(u64, u64, PartitionKey, RunPlace)>,
    /// The oldest segment is being read: what came before it is gone.
    oldest: bool,
    /// Everything before this log position is known to be on the medium.
    mark: u64,
    index_files: IndexFiles,
}

impl Replay {
    /// Replays all segments; a prefix of them by their index files. Gives where the log ends and,
    /// if its end is torn, what lies behind.
    async fn segments(
        &mut self,
        segments: &[Rc<Segment>],
        floor: Option<LogId>,
        report: &mut RecoveryReport,
    ) -> Result<(u64, Option<Tail>), OpenError> {
        let mut torn = None;
        let mut clean_end = self.mark;
        for (at, segment) in segments.iter().enumerate() {
            let next = segments.get(at + 1);
            let limit = next.map(|next| segment.limit(next)).transpose()?;
            segment_follows(segment, clean_end)?;
            self.state.segments.insert(segment.number(), segment.clone());
            if let (Some(limit), Some(next)) = (limit, next) {
                segment.seal(limit);
                self.state.unindexed.push_back(segment.clone());
                // Only a prefix is skipped: a later segment may truncate what an earlier one holds.
                let prefix = report.scanned_segments == 0;
                let trusted = prefix && self.index_files == IndexFiles::Trusted;
                if trusted && load_index(self, segment, next, floor).await {
                    report.skipped_segments += 1;
                    self.state.unindexed.pop_back();
                    self.state.hard = next.header.hard;
                    clean_end = limit;
                    continue;
                }
            }
            report.scanned_segments += 1;
            let (end, tail) = self.scan(segment, limit).await?;
            clean_end = end;
            torn = tail.filter(|tail| tail.torn);
            self.oldest = false;
        }
        Ok((clean_end, torn))
    }

    /// Replays one segment. Gives where it ends and, for the newest, what lies behind.
    async fn scan(
        &mut self,
        segment: &Rc<Segment>,
        limit: Option<u64>,
    ) -> Result<(u64, Option<Tail>), OpenError> {
        let mut scanner = Scanner::new(segment.clone(), limit);
        // Its header was written when all before it was on the medium.
        self.mark = self.mark.max(segment.header.position);
        self.state.hard = segment.header.hard;
        self.state.previous_hash = segment.header.previous_hash;
        self.state.group_number = segment.header.first_group.saturating_sub(1);
        self.state.previous_crc = 0;
        if let Some(floor) = self.state.hard.floor {
            self.state.slots.set_floor(floor);
        }
        let mut at = segment.header.position;
        let reason = loop {
            match scanner.group(at).await? {
                Ok(group) => {
                    self.group(segment, &group)?;
                    at = group.end();
                    (self.state.group_number, self.state.previous_crc) = scanner.chain();
                }
                Err(reason) => break reason,
            }
        };
        if limit == Some(at) {
            return Ok((at, None));
        }
        if limit.is_some() {
            // A later segment exists, and its header vouches for all of this one.
            return Err(segment.format_damage(at, reason).into());
        }
        let tail = scanner.probe(at).await?;
        // Wrong when planted: damage is taken for the end, and what lies behind it is lost.
        if at < tail.mark && !planted("commitlog-damage-taken-for-end") {
            return Err(segment.format_damage(at, reason).into());
        }
        Ok((at, Some(tail)))
    }

    /// Everything is read: the runs that stayed are indexed.
    fn finish(mut self) -> State {
        let readable_from = match self.state.options.floor {
            Floor::Checkpoint => 0,
            // What was refused at or below the floor may be forgotten, here and where this log was
            // copied from; and retention has let all of it go.
            Floor::Records => self.state.slots.floor().map_or(0, |floor| floor.index.0 + 1),
        };
        for (index, segment, key, run) in self.found {
            if index >= readable_from {
                self.state.index.add(segment, key, run);
            }
        }
        self.state
    }

    fn group(&mut self, segment: &Rc<Segment>, group: &Group) -> Result<(), OpenError> {
        if let Some(truncate) = group.header.truncate {
            self.truncate(segment, group, truncate)?;
        }
        if let Some(floor) = group.header.hard.floor {
            // Before the entries: after a checkpoint from a peer the floor lies behind the end of
            // the log, and the entries of this group follow the floor.
            self.state.slots.set_floor(floor);
        }
        self.mark = self.mark.max(group.header.synced_to);
        let mut at = group::HEADER_BYTES;
        let entries_end = at + group.header.entries_len as usize;
        while at < entries_end {
            at += self.entry(segment, group, at)?;
        }
        self.state.hard = group.header.hard;
        Ok(())
    }

    fn truncate(
        &mut self,
        segment: &Segment,
        group: &Group,
        truncate: Truncate,
    ) -> Result<(), OpenError> {
        match truncate {
            Truncate::All => {
                self.state.slots.truncate_after(None);
                self.found.clear();
            }
            Truncate::After(last) => {
                if self.state.slots.cold_next().is_some_and(|next| last.index.0 + 1 < next) {
                    let reason = format!("it cuts off what was applied, after {last:?}");
                    return Err(segment.damage(group.position, reason).into());
                }
                self.state.slots.truncate_after(Some(last));
                while self.found.last().is_some_and(|found| found.0 > last.index.0) {
                    self.found.pop();
                }
            }
        }
        self.state.cut(truncate);
        Ok(())
    }

    /// Takes the entry at `at` bytes into the group; gives its length.
    fn entry(
        &mut self,
        segment: &Rc<Segment>,
        group: &Group,
        at: usize,
    ) -> Result<usize, OpenError> {
        let position = group.position + at as u64;
        let entries_end = group::HEADER_BYTES + group.header.entries_len as usize;
        let bytes = group.bytes.get(at..entries_end).unwrap_or_default();
        let damaged = |reason: &dyn ToString| segment.damage(position, reason.to_string());
        let shard = self.state.options.shard;
        let header = entry_format::decode_header(bytes, shard).map_err(|e| damaged(&e))?;
        let head = bytes.get(..entry_format::HEADER_BYTES).unwrap_or_default();
        let len = entry_format::HEADER_BYTES + header.body_len as usize;
        if len > bytes.len() {
            return Err(damaged(&"the entry is longer than its group").into());
        }
        let floor_next = self.state.slots.floor().map_or(0, |floor| floor.index.0 + 1);
        let above_floor = header.id.index.0 >= floor_next;
        let next = self.state.slots.next_index();
        let begins =
            self.state.slots.is_empty() && header.id.index.0 >= self.state.slots.first_index();
        if above_floor && self.oldest && begins {
            // The floor in this segment's header is older than the one that let the segments
            // before it go; `whole` checks that the newest floor covers the gap.
            self.state.slots.begin_at(header.id.index.0);
        } else if above_floor && next.is_some_and(|next| header.id.index.0 != next) {
            let reason = format!("entry {:?} does not follow index {next:?}", header.id);
            return Err(damaged(&reason).into());
        }
        let expected = self.state.previous_hash;
        if expected != 0 && header.previous_hash != 0 && expected != header.previous_hash {
            return Err(damaged(&"the chain of entries is broken").into());
        }
        let header_hash = entry_format::header_hash(head);
        self.state.previous_hash = header_hash;
        let place = Place { position, len: len as u32, segment: segment.number(), header_hash };
        if above_floor {
            self.state.slots.push_placed(header.id, place);
        }
        segment.holds(header.id.index.0);
        if header.id.index.0 < self.applied_next {
            let runs = entry_format::decode_runs(&header, bytes).map_err(|e| damaged(&e))?;
            for (number, (run, start)) in runs.into_iter().enumerate() {
                let index = header.id.index.0;
                if self.state.refused.contains(&(index, number as u32)) {
                    continue;
                }
                let start = position + start as u64;
                let place = RunPlace::new(&run, start, header.log_time_ms);
                self.found.push((index, segment.number(), run.key, place));
            }
        }
        Ok(len)
    }
}

/// A checkpoint that came from a peer may stand behind the end of this log, or beside entries that
/// were never committed. Then the process ended before the log was told, and the log begins anew
/// behind the checkpoint. Answers whether it does; then the first group must say so, with the
/// truncation and the floor together: either alone would be misread.
fn restart_behind(state: &mut State, applied: LogId) -> bool {
    let floor_covers = state.slots.floor().is_some_and(|floor| floor.index >= applied.index);
    if floor_covers || state.slots.id_at(applied.index.0) == Some(applied) {
        return false;
    }
    state.slots.truncate_after(None);
    state.slots.set_floor(applied);
    state.previous_hash = 0;
    true
}

/// Writes the end of the log again, the same bytes in the same place, from `mark` on.
///
/// Durability: what was read there may never have reached the medium, and no flush will take it
/// there any more: one that fails drops what it covered, and the process restarts. Without this
/// the next groups would vouch for bytes that a power loss takes away. The blocks may hold
/// acknowledged bytes; written over with the same ones they cannot be torn.
async fn write_again(segment: &Rc<Segment>, mark: u64, end: u64) -> Result<(), OpenError> {
    let failed = |action| {
        let path = segment.path.clone();
        move |source| OpenError::Io { action, path, source }
    };
    let mut at = mark.max(segment.header.position);
    // Wrong when planted: what a failed flush has dropped is there until the power goes.
    while at < end && !planted("commitlog-end-not-written-again") {
        let piece = usize::try_from(end - at).unwrap_or(COPY_BYTES).min(COPY_BYTES);
        let position = segment.file_position(at);
        let bytes = segment.file.read_at(position, piece).await.map_err(failed("read"))?;
        let mut buffer = barrage_world::Buffer::new(piece);
        buffer.copy_from_slice(&bytes);
        segment.file.write_at(&buffer.freeze(), position).await.map_err(failed("write"))?;
        at += piece as u64;
    }
    Ok(())
}

/// The log must reach from its floor without a gap.
fn reaches_back(state: &State, segments: &[Rc<Segment>]) -> Result<(), String> {
    let first_position = segments.first().map_or(0, |segment| segment.header.position);
    let next = state.slots.floor().map_or(0, |floor| floor.index.0 + 1);
    let first = state.slots.first_index();
    // A log that never let a segment go may begin with any entry.
    if first > next && (first_position > 0 || state.slots.floor().is_some()) {
        return Err(format!("entries {next} to {} are missing", first - 1));
    }
    Ok(())
}

/// The log must reach to at least what the checkpoint has applied, and the floor must not lie
/// behind that: Raft would go on without what is in between.
fn fits_checkpoint(state: &State, applied: Option<LogId>) -> Result<(), String> {
    if let Some(applied) = applied
        && state.slots.last().is_none_or(|last| last.index < applied.index)
    {
        return Err(format!("the log ends before its checkpoint at {applied:?}"));
    }
    if let Some(floor) = state.slots.floor()
        && applied.is_none_or(|applied| applied.index < floor.index)
        // Wrong when planted: Raft goes on behind entries that were never applied here.
        && !planted("commitlog-checkpoint-below-floor")
    {
        return Err(format!("entries up to {floor:?} are gone, the checkpoint is at {applied:?}"));
    }
    Ok(())
}
