//! Copying a log to another replica: what the source reads, and the log that is not whole yet.
//!
//! Owns: reading entries as they lie on the disk, past the tail cache; where a copy is cut into
//! pieces; opening a log that is still being copied; the newest hard state of a closed log.
//!
//! Must never: hand out an entry whose bytes are not what was written; put what a copy reads into
//! the cache, where it would displace what consumers read; index anything of an incomplete log.

use crate::Entry;
use crate::checkpoint;
use crate::checkpoint::{Checkpoint, CheckpointCopy};
use crate::entry::HardState;
use crate::error::{OpenError, ReadError};
use crate::format::entry as entry_format;
use crate::log::{CommitLog, Shared, Ticket};
use crate::options::Options;
use crate::places;
use crate::recovery;
use crate::scan::Scanner;
use crate::segment::{Segment, number_of};
use crate::slots::{Known, Place};
use barrage_model::{LogId, LogIndex, ShardId};
use barrage_world::{Slice, fs, yield_if_needed};
use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::rc::Rc;

/// Bytes read at once.
const WINDOW_BYTES: usize = 1024 * 1024;
/// Entries that one call looks at to cut pieces.
const PLAN_ENTRIES_MAX: usize = 1 << 20;

/// A part of a checkpoint file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CheckpointPiece {
    /// The entry that the file is named for.
    pub index: LogIndex,
    /// Bytes of the whole file.
    pub size: u64,
    /// The bytes from the position that was asked for.
    pub bytes: Vec<u8>,
}

/// What a source tells of an entry, beside the entry itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Link {
    /// Hash of the header before this one in the source's log; 0 when it is not known.
    pub previous: u64,
    /// Hash of this entry's header in the source's log; 0 when it is not known: what is not
    /// written yet is not linked yet.
    pub own: u64,
}

impl CommitLog {
    /// Opens a log that is still being copied. Nothing is indexed, no checkpoint is looked at, and
    /// no entry is held in memory for apply. Places stay in memory, 32 bytes an entry, until the
    /// copy is whole: the open that follows writes the index files while it reads.
    pub async fn open_incomplete(dir: PathBuf, options: Options) -> Result<Self, OpenError> {
        let (log, _) = Self::open_as(dir, options, recovery::Opening::Incomplete).await?;
        log.shared.state.borrow_mut().slots.set_applied(u64::MAX);
        Ok(log)
    }

    /// The newest hard state in the folder of a closed log: what its newest segment says. Damage
    /// anywhere else does not matter.
    ///
    /// # Errors
    /// When the newest segment is damaged: what was promised last is not known.
    pub async fn read_hard_state(dir: &Path, options: &Options) -> Result<HardState, OpenError> {
        newest_hard_state(dir, options).await
    }

    /// The first entry of an empty log will be the one behind `floor`; `hash` is that of the header
    /// before it, where the log is copied from, or 0.
    pub fn begin_behind(&self, floor: LogId, hash: u64) -> Ticket {
        {
            let mut state = self.shared.state.borrow_mut();
            assert!(state.slots.is_empty(), "only an empty log may begin anywhere");
            assert!(state.slots.floor().is_none_or(|old| old.index < floor.index));
            state.previous_hash = hash;
        }
        self.set_floor(floor)
    }

    /// The id of the entry at `index`, or of the floor when it is there.
    pub fn log_id_at(&self, index: LogIndex) -> Option<LogId> {
        let slots = &self.shared.state.borrow().slots;
        slots.id_at(index.0).or_else(|| slots.floor().filter(|floor| floor.index == index))
    }

    /// What tells the entry at `index` from any other, the same on every replica. `None` when it is
    /// not in the log.
    pub async fn fingerprint(&self, index: LogIndex) -> Result<Option<u64>, ReadError> {
        let mut reader = Raw { log: &self.shared, window: None };
        let Some(bytes) = reader.entry(index.0).await? else { return Ok(None) };
        Ok(entry_format::fingerprint(bytes.as_ref()))
    }

    /// Cuts `range` into pieces of about `piece_bytes`, at least one entry each: where each ends.
    /// Stops after `count_max` pieces, or when it has looked at enough.
    pub async fn piece_ends(
        &self,
        range: Range<u64>,
        piece_bytes: usize,
        count_max: usize,
    ) -> Result<Vec<LogIndex>, ReadError> {
        let (mut ends, mut bytes, mut next) = (Vec::new(), 0, range.start);
        for index in range.take(PLAN_ENTRIES_MAX) {
            yield_if_needed().await;
            let Some(len) = self.entry_len(index).await? else { break };
            if bytes > 0 && bytes + len > piece_bytes {
                ends.push(LogIndex(index));
                bytes = 0;
                if ends.len() == count_max {
                    return Ok(ends);
                }
            }
            bytes += len;
            next = index + 1;
        }
        if bytes > 0 {
            ends.push(LogIndex(next));
        }
        Ok(ends)
    }

    async fn entry_len(&self, index: u64) -> Result<Option<usize>, ReadError> {
        let known = self.shared.state.borrow().slots.at(index);
        Ok(match known {
            Some(Known::Placed(place) | Known::Entry(_, Some(place))) => Some(place.len as usize),
            Some(Known::Entry(entry, None)) => Some(entry_format::encoded_len(&entry)),
            Some(Known::Cold(_)) => {
                let found = places::find_cold(&self.shared, index).await?;
                found.map(|(_, place)| place.len as usize)
            }
            None => None,
        })
    }

    /// The entries of `range` as they lie in the log, each checked and behind its length (`u32`).
    /// `None` when one of them is not in the log any more.
    pub async fn read_raw_entries(&self, range: Range<u64>) -> Result<Option<Vec<u8>>, ReadError> {
        let mut reader = Raw { log: &self.shared, window: None };
        let mut out = Vec::new();
        for index in range {
            yield_if_needed().await;
            let Some(bytes) = reader.entry(index).await? else { return Ok(None) };
            let bytes = bytes.as_ref();
            out.extend_from_slice(&(bytes.len() as u32).to_le_bytes());
            out.extend_from_slice(bytes);
        }
        Ok(Some(out))
    }

    /// A part of the checkpoint file at `index`, or of the newest one. `None` when there is none.
    pub async fn read_checkpoint_piece(
        &self,
        index: Option<LogIndex>,
        position: u64,
        len_max: usize,
    ) -> io::Result<Option<CheckpointPiece>> {
        checkpoint::piece(&self.shared.dir, index, position, len_max).await
    }

    /// Begins to copy a checkpoint file of another replica, byte for byte, with what apply refused
    /// there. One at a time: what another one has left is overwritten.
    pub async fn copy_checkpoint(&self) -> io::Result<CheckpointCopy> {
        CheckpointCopy::begin(&self.shared.dir, self.shared.shard).await
    }

    /// Makes the file that was copied last the only checkpoint in the folder of a log that is being
    /// copied. Durable when it returns.
    pub async fn adopt_checkpoint(&self, copied: &Checkpoint) -> io::Result<()> {
        checkpoint::adopt(&self.shared.dir, copied).await
    }

    /// Removes every file of a log from its folder, in an order that a crash may interrupt.
    pub async fn remove_files(dir: &Path) -> io::Result<()> {
        for name in Self::file_names(dir).await? {
            fs::remove(&dir.join(name)).await?;
        }
        fs::sync_dir(dir).await
    }

    /// Names of the files of a log in `dir`: segments, index files, checkpoints, spares.
    pub async fn file_names(dir: &Path) -> io::Result<Vec<String>> {
        let mut names = fs::list(dir).await?;
        let ours = [".log", ".idx", ".ckp", ".free", ".tmp", ".rewrite"];
        names.retain(|name| ours.iter().any(|ending| name.ends_with(ending)));
        Ok(names)
    }
}

/// The hard state as of the end of the newest segment. Its header restates what came before it, so
/// no other segment is looked at.
async fn newest_hard_state(dir: &Path, options: &Options) -> Result<HardState, OpenError> {
    let failed = |source| OpenError::Io { action: "list", path: dir.to_owned(), source };
    let names = fs::list(dir).await.map_err(failed)?;
    let newest = names.iter().filter_map(|name| number_of(name)).max();
    let Some(number) = newest else { return Ok(HardState::default()) };
    let segment = Rc::new(recovery::open_segment(dir, number, options).await?);
    hard_state_at_end(&segment).await
}

/// The hard state as of the end of a segment that nothing follows.
pub(crate) async fn hard_state_at_end(segment: &Rc<Segment>) -> Result<HardState, OpenError> {
    let mut scanner = Scanner::new(segment.clone(), None);
    let (mut hard, mut at) = (segment.header.hard, segment.header.position);
    let reason = loop {
        match scanner.group(at).await? {
            Ok(group) => (hard, at) = (group.header.hard, group.end()),
            Err(reason) => break reason,
        }
    };
    let tail = scanner.probe(at).await?;
    if at >= tail.mark {
        return Ok(hard);
    }
    // Durability: every group restates the whole hard state, so the last one that is whole tells
    // what the damaged ones before it changed. A group that changes the vote is written twice, in
    // two blocks: a vote at the very end is lost to damage of both only, which looks as a torn end
    // does and is as rare as two damages at once.
    match scanner.newest_hard_state(at).await? {
        Some(hard) => Ok(hard),
        None => Err(segment.format_damage(at, reason).into()),
    }
}

impl Entry {
    /// Reads an entry as another replica's log holds it; the payload stays in `bytes`.
    ///
    /// # Errors
    /// As [`Entry::decode`].
    pub fn decode_raw(
        bytes: &bytes::Bytes,
        shard: ShardId,
    ) -> Result<(Self, Link), crate::EntryError> {
        let entry = Self::decode(bytes, shard)?;
        let link = entry_format::link(bytes).filter(|link| link.previous != 0);
        Ok((entry, link.unwrap_or(Link { previous: 0, own: 0 })))
    }
}

/// Reads entries in order, a window of the disk at a time.
struct Raw<'a> {
    log: &'a Rc<Shared>,
    /// Log position and bytes of what was read last.
    window: Option<(u64, Slice)>,
}

/// Where an entry's bytes are.
enum Bytes {
    Read(Slice),
    Built(Vec<u8>),
}

impl AsRef<[u8]> for Bytes {
    fn as_ref(&self) -> &[u8] {
        match self {
            Self::Read(slice) => slice,
            Self::Built(bytes) => bytes,
        }
    }
}

impl Raw<'_> {
    async fn entry(&mut self, index: u64) -> Result<Option<Bytes>, ReadError> {
        let (id, known) = {
            let slots = &self.log.state.borrow().slots;
            let Some(found) = slots.id_at(index).zip(slots.at(index)) else { return Ok(None) };
            found
        };
        let (segment, place) = match known {
            Known::Placed(place) | Known::Entry(_, Some(place)) => {
                let state = self.log.state.borrow();
                let Some(segment) = state.segments.get(&place.segment) else { return Ok(None) };
                (segment.clone(), place)
            }
            // Not written yet: all of it is in memory.
            Known::Entry(entry, None) => {
                return Ok(Some(Bytes::Built(entry.encode(self.log.shard))));
            }
            Known::Cold(_) => match places::find_cold(self.log, index).await? {
                Some(found) => found,
                None => return Ok(None),
            },
        };
        let len = place.len as usize;
        let own = {
            let state = self.log.state.borrow();
            let tail = state.cache.peek_tail(place.position, len);
            tail.or_else(|| state.in_flight(place.position, len))
        };
        let (bytes, own) = match own {
            Some(bytes) => (bytes, true),
            None => (self.read_disk(&segment, place).await?, false),
        };
        crate::read::check_is_at(place, id, self.log.shard, &bytes, &segment)?;
        if !own {
            // The body too: what rots here must not become another replica's truth.
            let whole = entry_format::check_body(&bytes, self.log.shard);
            whole.map_err(|error| segment.format_damage(place.position, error))?;
        }
        Ok(Some(Bytes::Read(bytes)))
    }

    async fn read_disk(&mut self, segment: &Segment, place: Place) -> Result<Slice, ReadError> {
        let len = place.len as usize;
        if let Some((start, window)) = &self.window
            && place.position >= *start
        {
            let skip = usize::try_from(place.position - start).unwrap_or(usize::MAX);
            if skip.saturating_add(len) <= window.len() {
                return Ok(window.slice(skip..skip + len));
            }
        }
        let end = segment.end().unwrap_or_else(|| self.log.state.borrow().synced_to());
        let ahead = usize::try_from(end.saturating_sub(place.position)).unwrap_or(0);
        let window = segment.read(place.position, len.max(WINDOW_BYTES.min(ahead))).await?;
        self.window = Some((place.position, window.clone()));
        Ok(window.slice(0..len))
    }
}
