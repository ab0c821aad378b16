//! Segments come and go: the pool prepared ahead, the roll to the next one, recycling.
//!
//! A pool file is whole in length and holds zeros or old groups; neither decodes under the salt
//! of the segment it becomes. Names change only after what they promise is on the medium.

use crate::blocks;
use crate::entry::HardState;
use crate::error::{LogError, OpenError};
use crate::format::segment::{DATA_START, Header};
use crate::format::{BLOCK_BYTES, segment as segment_format};
use crate::log::Shared;
use crate::segment::{self, Segment};
use crate::writer::{FULL_RETRY, NO_SPACE};
use barrage_model::{LogId, LogIndex};
use barrage_world::{Buffer, File, Instant, buggify, fs, planted, random_u64, sleep};
use std::io;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::Duration;

const POOL_PREFIX: &str = "pool-";
const POOL_SUFFIX: &str = ".free";
/// Bytes zeroed at a time while a pool file is prepared.
const ZERO_BYTES: usize = 256 * 1024;
/// The disk is left alone this long between two pieces, and as long as the log is busy.
const ZERO_PAUSE: Duration = Duration::from_millis(5);
/// How often is looked whether fewer spares will do.
const SURPLUS_LOOK: Duration = Duration::from_secs(10);

/// Whether a file name is a pool file's.
pub(crate) fn is_pool_name(name: &str) -> bool {
    name.starts_with(POOL_PREFIX) && name.ends_with(POOL_SUFFIX)
}

fn pool_path(dir: &Path) -> PathBuf {
    dir.join(format!("{POOL_PREFIX}{:016x}{POOL_SUFFIX}", random_u64()))
}

/// Leaves the full active segment for a new one. Waits while the disk is full.
pub(crate) async fn roll(log: &Rc<Shared>) {
    loop {
        match try_roll(log).await {
            Ok(()) => break,
            Err(OpenError::Io { source, .. }) if source.raw_os_error() == Some(NO_SPACE) => {
                log.state.borrow_mut().full = true;
                sleep(FULL_RETRY).await;
            }
            Err(error) => {
                log.poison(error.to_string());
                return;
            }
        }
        if log.gives_up_on_full_disk() {
            return;
        }
    }
    log.housekeeping.notify_one();
}

async fn try_roll(log: &Rc<Shared>) -> Result<(), OpenError> {
    let header = {
        let state = log.state.borrow();
        Header {
            shard: state.options.shard,
            number: state.segments.last_key_value().map_or(1, |(number, _)| number + 1),
            salt: random_u64(),
            position: state.write_at,
            file_bytes: state.options.segment_bytes,
            hard: match planted("commitlog-hard-state-lost-on-roll") {
                // Wrong: until the next group the vote stands in no segment that stays.
                true => HardState::default(),
                false => state.written_hard(),
            },
            first_group: state.group_number + 1,
            previous_hash: state.previous_hash,
            original: None,
        }
    };
    let spare = match buggify("commitlog-no-spare", 4) {
        true => None,
        false => log.pool.borrow_mut().take(Instant::now()),
    };
    let segment = create(&log.dir, spare, header).await?;
    log.state.borrow_mut().rolled(Rc::new(segment));
    Ok(())
}

/// Makes a segment from a pool file, or from a fresh one.
pub(crate) async fn create(
    dir: &Path,
    spare: Option<PathBuf>,
    header: Header,
) -> Result<Segment, OpenError> {
    let from = match spare {
        Some(path) => path,
        None => allocate(dir, header.file_bytes).await?,
    };
    let failed = |action, path: &Path| {
        let path = path.to_owned();
        move |source| OpenError::Io { action, path, source }
    };
    let file = File::open(&from).await.map_err(failed("open", &from))?;
    let mut block = Buffer::new(DATA_START as usize);
    for copy in block.chunks_mut(BLOCK_BYTES) {
        segment_format::encode(&header, copy);
    }
    let block = block.freeze();
    let written = file.write_at(&block, 0).await.map_err(failed("write", &from))?;
    if written != block.len() {
        let source = io::Error::from_raw_os_error(NO_SPACE);
        return Err(OpenError::Io { action: "write", path: from, source });
    }
    // Durability: header first, then the name, then the directory. A crash in between leaves a
    // pool file, which is never read as log.
    file.sync_data().await.map_err(failed("sync", &from))?;
    let path = segment::path_of(dir, header.number);
    fs::rename(&from, &path).await.map_err(failed("rename", &from))?;
    // Wrong when planted: the segment is a pool file again after a power loss.
    if !planted("commitlog-segment-name-not-durable") {
        fs::sync_dir(dir).await.map_err(failed("sync", dir))?;
    }
    file.close().await.map_err(failed("close", &path))?;
    let file = File::open(&path).await.map_err(failed("open", &path))?;
    Ok(Segment::new(header, path, file))
}

/// A fresh file of the right length: space is reserved, nothing is zeroed here.
async fn allocate(dir: &Path, len: u64) -> Result<PathBuf, OpenError> {
    let path = pool_path(dir);
    let failed = |source| OpenError::Io { action: "allocate", path: path.clone(), source };
    let file = match File::create(&path, len).await {
        Ok(file) => file,
        Err(source) => {
            fs::remove(&path).await.ok();
            return Err(failed(source));
        }
    };
    file.close().await.map_err(failed)?;
    Ok(path)
}

/// Keeps the pool filled and sealed segments indexed, until the log is closed.
pub(crate) async fn housekeeping(log: Rc<Shared>) {
    keep_house(&log).await;
    // Only now nothing makes files in the folder any more.
    log.state.borrow_mut().housekeeping_over = true;
    log.closed.notify_all();
}

async fn keep_house(log: &Rc<Shared>) {
    loop {
        let listener = log.housekeeping.listen();
        if log.is_over() {
            return;
        }
        crate::seal::write_indexes(log).await;
        match fill_pool(log).await {
            Ok(()) if log.state.borrow().index_rests => {
                barrage_world::timeout(FULL_RETRY, listener).await.ok();
            }
            Ok(()) if drop_surplus(log).await => {
                barrage_world::timeout(SURPLUS_LOOK, listener).await.ok();
            }
            Ok(()) => listener.await,
            Err(OpenError::Io { source, .. }) if source.raw_os_error() == Some(NO_SPACE) => {
                refuse_when_empty(log);
                barrage_world::timeout(FULL_RETRY, listener).await.ok();
            }
            Err(error) => {
                tracing::warn!(shard = log.shard.0, %error, "cannot prepare a segment ahead");
                barrage_world::timeout(FULL_RETRY, listener).await.ok();
            }
        }
    }
}

/// No spare is left and none can be made: what is left of the active segment and the reserve
/// must do for votes, floors and what was already promised.
fn refuse_when_empty(log: &Shared) {
    let mut state = log.state.borrow_mut();
    if !state.full && log.pool.borrow().is_empty() {
        tracing::warn!(shard = log.shard.0, "disk full: new records are refused");
        state.full = true;
    }
}

async fn fill_pool(log: &Rc<Shared>) -> Result<(), OpenError> {
    let (wanted, len) = {
        let state = log.state.borrow();
        (state.options.pool_segments, state.options.segment_bytes)
    };
    while log.pool.borrow().len() < wanted && !log.is_over() {
        let path = allocate(&log.dir, len).await?;
        sync_names(log).await.map_err(|source| OpenError::Io {
            action: "sync",
            path: log.dir.clone(),
            source,
        })?;
        zero_while_idle(log, &path, len).await;
        // Only now: a file in the pool may be taken at any moment, with no write on its way to it.
        log.pool.borrow_mut().put_fresh(path);
    }
    let mut state = log.state.borrow_mut();
    if state.full && state.stalled_writes == 0 {
        tracing::info!(shard = log.shard.0, "space returned: new records are taken again");
        state.full = false;
        log.wake.notify_one();
    }
    Ok(())
}

/// Gives back the spares that the log has not lately needed; true while more may follow later.
async fn drop_surplus(log: &Rc<Shared>) -> bool {
    let ready = log.state.borrow().options.pool_segments;
    while !log.is_over() {
        let surplus = log.pool.borrow_mut().surplus(ready, Instant::now());
        let Some(path) = surplus else { break };
        // A crash may bring the name back, of a file cut short: the next start makes it whole.
        match blocks::unlink(&path).await {
            Ok(file) => {
                if let Some(file) = file {
                    file.free().await;
                }
            }
            Err(error) => {
                tracing::warn!(path = %path.display(), %error, "a spare segment stays");
                log.pool.borrow_mut().put_used(path);
                break;
            }
        }
    }
    log.pool.borrow().len() > ready
}

/// Writes zeros once, so that later writes only overwrite and a flush has no metadata to write.
/// Gives way to the log: as soon as it has work the rest of the file is left as it was reserved.
async fn zero_while_idle(log: &Rc<Shared>, path: &Path, len: u64) {
    let Ok(file) = File::open(path).await else { return };
    let mut zeros = Buffer::new(ZERO_BYTES.min(len as usize));
    zeros.fill(0);
    let zeros = zeros.freeze();
    let mut at = 0;
    while at + zeros.len() as u64 <= len && log.state.borrow().is_idle() && !log.is_over() {
        if file.write_at(&zeros, at).await.is_err() {
            break;
        }
        at += zeros.len() as u64;
        sleep(ZERO_PAUSE).await;
    }
    file.close().await.ok();
}

/// Drops the oldest segments that nobody may read any more. One call at a time: names go in order,
/// or the next start would find a hole.
pub(crate) async fn retain(log: &Rc<Shared>) -> io::Result<()> {
    let floor = log.state.borrow().slots.floor();
    if releasable(log, floor).is_none() || log.retaining.replace(true) {
        return Ok(());
    }
    let _busy = Retaining(log);
    retain_below(log, floor).await
}

/// Files go; whoever closes the log waits until none is under way.
struct Retaining<'a>(&'a Rc<Shared>);

impl Drop for Retaining<'_> {
    fn drop(&mut self) {
        self.0.retaining.set(false);
        self.0.closed.notify_all();
    }
}

async fn retain_below(log: &Rc<Shared>, floor: Option<LogId>) -> io::Result<()> {
    // Durability: the log is one order, so when this group is on the medium, the floor that lets
    // the files go is too. Without it a crash would find a log that begins behind its floor.
    let marked = match planted("commitlog-segments-go-before-floor") {
        // Wrong: after a power loss the log begins behind its floor.
        true => Ok(Ok(())),
        false => log.mark_ticket().await,
    };
    match marked {
        Ok(Ok(())) => {}
        Ok(Err(error)) => return Err(io::Error::other(error.to_string())),
        Err(_) => return Err(io::Error::other(LogError::Closed.to_string())),
    }
    while let Some(segment) = releasable(log, floor).filter(|_| !log.is_over()) {
        let number = segment.number();
        {
            let mut state = log.state.borrow_mut();
            state.segments.remove(&number);
            state.unindexed.retain(|waiting| waiting.number() != number);
        }
        let has_blocks = match drop_file(log, &segment).await {
            Ok(has_blocks) => has_blocks,
            Err(error) => {
                log.state.borrow_mut().segments.insert(number, segment);
                return Err(error);
            }
        };
        {
            let mut state = log.state.borrow_mut();
            state.index.drop_segment(number);
            // Not what ended in the segment that went: after a truncation a later one begins lower.
            let first = state.slots.first().map_or(u64::MAX, |id| id.index.0);
            let low = match planted("commitlog-refused-run-forgotten") {
                // Wrong: they are behind, and are found by offset after the next restart.
                true => segment.next_index(),
                false => state.segments.values().map(|kept| kept.low_index()).min().unwrap_or(0),
            };
            state.refused = state.refused.split_off(&(low.min(first), 0));
        }
        log.housekeeping.notify_one();
        // Who still reads it frees it at the end, all at once.
        if has_blocks && Rc::strong_count(&segment) == 1 {
            let bytes = segment.header.file_bytes;
            blocks::give_back(&segment.file, bytes, || log.is_over()).await;
        }
    }
    Ok(())
}

/// Takes a segment's files away, into the pool when it may be used again; true when it has no name
/// any more, and its blocks still.
async fn drop_file(log: &Rc<Shared>, segment: &Rc<Segment>) -> io::Result<bool> {
    let (wanted, bytes) = {
        let state = log.state.borrow();
        (state.options.pool_segments, state.options.segment_bytes)
    };
    fs::remove(&segment.index_path()).await.ok();
    // Recycled only when no reader holds it: a read in flight must not see the next life.
    let recycle = segment.header.file_bytes == bytes
        && log.pool.borrow().has_room(wanted, Instant::now())
        && (Rc::strong_count(segment) == 1 || planted("commitlog-recycled-under-reader"))
        && !buggify("commitlog-not-recycled", 2);
    if !recycle {
        fs::remove(&segment.path).await?;
        sync_names(log).await?;
        return Ok(true);
    }
    let path = pool_path(&log.dir);
    fs::rename(&segment.path, &path).await?;
    sync_names(log).await?;
    log.pool.borrow_mut().put_used(path);
    Ok(false)
}

/// Makes the names in the log's folder durable. A failure is final, as that of a flush is: what
/// is seen and what would survive differ from then on, and only a new start sorts that out.
pub(crate) async fn sync_names(log: &Shared) -> io::Result<()> {
    let synced = fs::sync_dir(&log.dir).await;
    if let Err(error) = &synced {
        log.poison(format!("sync of {}: {error}", log.dir.display()));
    }
    synced
}

/// The last entry of the oldest segments that hold nothing readable, as far as `before`: where the
/// floor may go. Segments that a truncation cut short hold less than they once did.
pub(crate) fn released(log: &Shared, before: LogIndex) -> Option<LogId> {
    let state = log.state.borrow();
    let mut floor = None;
    for (number, segment) in &state.segments {
        let Some(end) = segment.log_end() else { break };
        let free = segment.next_index() <= state.applied_next
            && end <= state.synced_to()
            // Wrong when planted: a follower is not given records that are still promised.
            && (state.index.is_released(*number) || planted("raft-floor-ahead-of-retention"));
        let last = state.slots.last_in(*number);
        if !free || last.is_some_and(|last| last.index > before) {
            break;
        }
        floor = last.or(floor);
    }
    floor.filter(|floor| state.slots.floor().is_none_or(|old| old.index < floor.index))
}

/// The oldest segment, if it is sealed, below the floor and holds nothing readable. The header
/// after it restates the hard state, so no vote goes with it.
fn releasable(log: &Shared, floor: Option<LogId>) -> Option<Rc<Segment>> {
    let state = log.state.borrow();
    let (number, segment) = state.segments.first_key_value()?;
    let end = segment.log_end()?;
    let floor_next = floor.map_or(0, |floor| floor.index.0 + 1);
    let free = segment.next_index() <= floor_next
        && segment.next_index() <= state.applied_next
        && end <= state.synced_to()
        // Wrong when planted: retention has not let these records go.
        && (state.index.is_released(*number) || planted("commitlog-dropped-while-readable"));
    free.then(|| segment.clone())
}
