//! The file that is to take a segment's place: what is left of each group, gathered into few.
//!
//! Owns: which entries stand together in a group, and what of each is written. Must never: leave
//! out an entry, or change what its header says.

use super::{Pace, path_of};
use crate::HardState;
use crate::entry::Entry;
use crate::error::{OpenError, ReadError};
use crate::format::entry as entry_format;
use crate::format::group::{self, Truncate};
use crate::format::segment::{self as segment_format, DATA_START, Header, Original};
use crate::format::{BLOCK_BYTES, FormatError};
use crate::log::Shared;
use crate::mend;
use crate::scan::{Group, Scanner};
use crate::segment::Segment;
use crate::writer::NO_SPACE;
use barrage_world::{Buffer, File, fs, planted, random_u64};
use bytes::Bytes;
use std::io;
use std::rc::Rc;

/// Bytes of entries in one group, but for an entry that is larger.
const GROUP_BYTES: usize = 1024 * 1024;

/// Writes the new file; durable when it returns, under a name of its own. `None` when it would be
/// more than half of the old one, or the log is closing.
pub(super) async fn write(
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
    // The log goes first: what it needs next must be there still.
    let room = most + log.state.borrow().options.segment_bytes;
    if fs::free_space(&log.dir).await.map_err(failed)? < room {
        return Err(failed(io::Error::from_raw_os_error(NO_SPACE)));
    }
    let file = File::create(&path, most).await.map_err(failed)?;
    let header = Header {
        salt: random_u64(),
        position,
        file_bytes: most,
        original: Some(Original { start: old.log_start(), end }),
        ..old.header
    };
    let (group, chain) = (Gathered::default(), (0, 0));
    let mut writer = Writer { header, file, at: 0, group, chain, kept: 0 };
    let mut scanner = Scanner::new(old.clone(), old.end());
    let (mut at, end) = (old.header.position, old.end().unwrap_or(0));
    while at < end {
        if log.is_over() || !log.state.borrow().is_current(old) {
            return Ok(None);
        }
        let group = scanner.group(at).await.map_err(OpenError::into_read_error)?;
        let group = group.map_err(|error| old.format_damage(at, error))?;
        let before = writer.at;
        let taken = writer.take(&group, wanted).await.map_err(failed)?;
        pace.spend(group.end() - at + 2 * (writer.at - before)).await;
        match taken {
            Ok(true) => at = group.end(),
            Ok(false) => return Ok(None),
            Err(error) => return Err(old.format_damage(at, error).into()),
        }
    }
    if writer.kept != wanted.len() {
        // What an index file says is never trusted over the log.
        let (kept, wanted) = (writer.kept, wanted.len());
        let path = old.index_path();
        tracing::warn!(path = %path.display(), kept, wanted, "runs are not where they should be");
        mend::write_again(log, old).await?;
        return Ok(None);
    }
    let Some(written) = writer.finish().await.map_err(failed)? else { return Ok(None) };
    let (header, file) = written;
    let new = Segment::new(header, old.path.clone(), file);
    new.holds_as_indexed(old.held());
    new.seal(new.capacity_end());
    Ok(Some(Rc::new(new)))
}

/// An entry as it is written again.
struct Thinned {
    entry: Entry,
    /// Hash of the header before it.
    previous: u64,
    /// Hash of its own header.
    own: u64,
}

/// Entries that go into one group.
#[derive(Default)]
struct Gathered {
    entries: Vec<Thinned>,
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
    /// Runs that were wanted and are here.
    kept: usize,
}

impl Writer {
    /// Takes what is left of a group; false when there is no room.
    async fn take(
        &mut self,
        group: &Group,
        wanted: &[u64],
    ) -> io::Result<Result<bool, FormatError>> {
        let entries = match entries(group, &self.header, wanted) {
            Ok((entries, kept)) => {
                self.kept += kept;
                entries
            }
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
            let len = entry_format::encoded_len(&entry.entry);
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
        for Thinned { entry, previous, own } in &gathered.entries {
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

/// The entries of a group, without the runs that are not wanted; and how many runs of those that
/// are wanted were among them.
fn entries(
    group: &Group,
    header: &Header,
    wanted: &[u64],
) -> Result<(Vec<Thinned>, usize), FormatError> {
    let mut kept = 0;
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
            if run.gone.is_some() || run.byte_len == 0 {
                continue;
            }
            if wanted.binary_search(&position).is_ok() {
                kept += 1;
            } else {
                run.gone = Some(head.body_crc);
                run.batches.clear();
            }
        }
        entries.push(Thinned { entry, previous: head.previous_hash, own });
        at += head.len();
    }
    Ok((entries, kept))
}
