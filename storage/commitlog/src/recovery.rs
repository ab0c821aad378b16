//! Opening a log: find the segments, replay their groups, judge the end (rule T-1).
//!
//! A break below the sync mark is damage to bytes that may be acknowledged: the shard is refused
//! and the place is named. A break at or above the mark is a torn tail: it was never
//! acknowledged, is copied aside and left behind by starting a new segment. So a block that once
//! was written is never written again in the same life of its file.

use crate::checkpoint::Checkpoint;
use crate::error::OpenError;
use crate::format::BLOCK_BYTES;
use crate::format::segment::{self as segment_format, DATA_START, Header};
use crate::options::Options;
use crate::quarantine;
use crate::replay::{IndexFiles, Replay};
use crate::rewrite;
use crate::roll;
use crate::scan::Tail;
use crate::segment::{self, Segment};
use crate::spares::Spares;
use crate::state::State;
use barrage_model::LogId;
use barrage_world::{File, fs, planted, random_u64};
use std::collections::BTreeSet;
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
    pub(crate) fn applied_next(&self) -> u64 {
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
) -> Result<(State, Spares, RecoveryReport), OpenError> {
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
    let spare = if torn.is_some() { pool.take_any() } else { None };
    let mut state = finish(dir, state, segments, clean_end, torn.is_some(), spare).await?;
    state.applied_next = opening.applied_next();
    assert_eq!(state.incomplete, matches!(opening, Opening::Incomplete));
    Ok((state, pool, report))
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
    let mut replay = Replay::new(options, opening, segments, index_files);
    let (clean_end, torn) = replay.segments(segments, &mut report).await?;
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
        if segment.header.original.is_some() {
            state.rewritten_to = state.rewritten_to.max(segment.capacity_end());
        }
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
        original: None,
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
) -> Result<(Vec<Rc<Segment>>, Spares), OpenError> {
    let failed = |source| OpenError::Io { action: "list", path: dir.to_owned(), source };
    let mut numbers = Vec::new();
    let mut pool = Spares::default();
    for name in fs::list(dir).await.map_err(failed)? {
        if let Some(number) = segment::number_of(&name) {
            numbers.push(number);
        } else if rewrite::is_rewrite_name(&name) {
            // A crash came before it took its segment's place.
            fs::remove(&dir.join(name)).await.ok();
        } else if roll::is_pool_name(&name) {
            // What a pool file holds is unknown after a crash; its space is what counts.
            let path = dir.join(name);
            let usable = make_usable(&path, options.segment_bytes).await.unwrap_or(false);
            if usable && pool.len() < options.pool_segments {
                pool.put_used(path);
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
    if let Some(last) = segments.last().filter(|last| last.header.original.is_some()) {
        let reason = format!("segment {}, which was there when it was rewritten, is gone", {
            last.number() + 1
        });
        return Err(last.damage(last.header.position, reason).into());
    }
    remove_needless_indexes(dir, &segments).await.map_err(failed)?;
    Ok((segments, pool))
}

/// Index files of segments that are gone, or of what a segment was before it was rewritten.
async fn remove_needless_indexes(dir: &Path, segments: &[Rc<Segment>]) -> io::Result<()> {
    let needed: BTreeSet<PathBuf> = segments.iter().map(|segment| segment.index_path()).collect();
    for name in fs::list(dir).await? {
        let path = dir.join(&name);
        let is_index = name.ends_with(".idx") && !needed.contains(&path);
        if is_index || name.ends_with(".idx.tmp") {
            fs::remove(&path).await.ok();
        }
    }
    Ok(())
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
    let first_position = segments.first().map_or(0, |segment| segment.log_start());
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
