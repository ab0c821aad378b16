//! Checkpoint files: the state machine at one log id, beside the segments.
//!
//! Owns: writing one part by part, reading it so, and which of them are kept.
//!
//! The newest two are kept; a damaged one is passed over for the one before it, as long as the
//! log still reaches back to that. A file is written under another name until it is durable, on
//! direct I/O, and neither written nor read in one go: a core has other things to do meanwhile.

use crate::blocks;
use crate::copy::CheckpointPiece;
use crate::format::checkpoint::{self as format, Chain, FRAME_BYTES, Frame, HEAD_BYTES, Head};
use crate::format::{BLOCK_BYTES, FormatError, round_up_to_block};
use barrage_model::{LogId, LogIndex, ShardId};
use barrage_world::{Buffer, File, Slice, fs, yield_if_needed};
use std::collections::BTreeSet;
use std::io;
use std::path::{Path, PathBuf};

const SUFFIX: &str = ".ckp";
/// A file that is being written.
const TEMPORARY: &str = "checkpoint.tmp";
/// Checkpoints kept.
const KEPT: usize = 2;
/// Bytes written or read at once.
const WINDOW_BYTES: usize = 256 << 10;

/// A checkpoint that is whole: all of its file was read and checked. A log is opened with the one
/// its state machine was restored from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Checkpoint {
    /// The last entry that is applied in it.
    pub id: LogId,
    /// Runs that apply refused, which the log itself does not tell.
    pub(crate) refused: BTreeSet<(u64, u32)>,
    /// It came from a peer: the log may end before it.
    pub(crate) installed: bool,
    path: PathBuf,
    shard: ShardId,
}

/// The parts of a checkpoint, in the order in which they were written.
#[derive(Debug)]
pub struct CheckpointParts {
    reading: Reading,
    chain: Chain,
}

/// A checkpoint file of another replica that is being written here.
#[derive(Debug)]
pub struct CheckpointCopy {
    writing: Writing,
    shard: ShardId,
}

/// Writes a checkpoint and removes the ones it replaces. Durable when it returns.
pub(crate) async fn write(
    dir: &Path,
    shard: ShardId,
    head: &Head,
    parts: impl Iterator<Item = Vec<u8>>,
) -> io::Result<()> {
    let mut writing = Writing::begin(dir).await?;
    match write_parts(&mut writing, shard, head, parts).await {
        Ok(()) => {}
        Err(error) => {
            writing.give_up().await;
            return Err(error);
        }
    }
    // Durability: the name appears once all that it stands for is durable.
    fs::rename(&writing.path, &dir.join(name_of(head.id.index))).await?;
    fs::sync_dir(dir).await?;
    let mut old = Vec::new();
    for name in names(dir).await?.into_iter().rev().skip(KEPT) {
        old.extend(blocks::unlink(&dir.join(name)).await?);
    }
    if old.is_empty() {
        return Ok(());
    }
    // The checkpoint is durable, whatever becomes of the names of others.
    if let Err(error) = fs::sync_dir(dir).await {
        tracing::warn!(dir = %dir.display(), %error, "names of old checkpoints may come back");
        return Ok(());
    }
    for nameless in old {
        nameless.free().await;
    }
    Ok(())
}

async fn write_parts(
    writing: &mut Writing,
    shard: ShardId,
    head: &Head,
    parts: impl Iterator<Item = Vec<u8>>,
) -> io::Result<()> {
    let (bytes, mut chain) = format::encode_head(shard, head);
    writing.put(&bytes).await?;
    for part in parts {
        writing.put(&chain.frame(&part)).await?;
        writing.put(&part).await?;
        yield_if_needed().await;
    }
    writing.put(&chain.end()).await?;
    writing.end().await
}

/// The newest whole checkpoint in the folder.
pub(crate) async fn read(dir: &Path, shard: ShardId) -> io::Result<Option<Checkpoint>> {
    for name in names(dir).await?.into_iter().rev() {
        let path = dir.join(name);
        match verify(&path, shard).await? {
            Ok(found) => return Ok(Some(found)),
            Err(error) => {
                tracing::warn!(path = %path.display(), %error, "checkpoint passed over");
            }
        }
    }
    Ok(None)
}

/// Reads a file to its end.
async fn verify(path: &Path, shard: ShardId) -> io::Result<Result<Checkpoint, FormatError>> {
    let (head, mut parts) = match open(path, shard).await? {
        Ok(opened) => opened,
        Err(error) => return Ok(Err(error)),
    };
    loop {
        match parts.read().await? {
            Ok(Some(_)) => {}
            Ok(None) => break,
            Err(error) => return Ok(Err(error)),
        }
    }
    let Head { id, refused, installed } = head;
    Ok(Ok(Checkpoint { id, refused, installed, path: path.to_owned(), shard }))
}

/// Reads the head of a file.
async fn open(
    path: &Path,
    shard: ShardId,
) -> io::Result<Result<(Head, CheckpointParts), FormatError>> {
    let mut reading = Reading::open(path).await?;
    let Some(mut bytes) = reading.take(HEAD_BYTES).await? else {
        return Ok(Err(FormatError::Short));
    };
    let rest = match format::head_len(&bytes) {
        Ok(len) => reading.take(len - HEAD_BYTES).await?,
        Err(error) => return Ok(Err(error)),
    };
    let Some(rest) = rest else { return Ok(Err(FormatError::Short)) };
    bytes.extend_from_slice(&rest);
    Ok(match format::decode_head(&bytes, shard) {
        Ok((head, chain)) => Ok((head, CheckpointParts { reading, chain })),
        Err(error) => Err(error),
    })
}

impl Checkpoint {
    /// One that remembers nothing but where it stands.
    #[cfg(test)]
    pub(crate) fn bare(id: LogId) -> Self {
        let (refused, path) = (BTreeSet::new(), PathBuf::new());
        Self { id, refused, installed: false, path, shard: ShardId(0) }
    }

    /// Reads it once more, from its first part on.
    ///
    /// # Errors
    /// The system's error, or `InvalidData` when it is not whole any more.
    pub async fn parts(&self) -> io::Result<CheckpointParts> {
        match open(&self.path, self.shard).await? {
            Ok((_, parts)) => Ok(parts),
            Err(error) => Err(invalid(error)),
        }
    }
}

impl CheckpointParts {
    /// The next part; `None` behind the last one.
    ///
    /// # Errors
    /// The system's error, or `InvalidData` when it is not whole any more.
    pub async fn next(&mut self) -> io::Result<Option<Vec<u8>>> {
        self.read().await?.map_err(invalid)
    }

    async fn read(&mut self) -> io::Result<Result<Option<Vec<u8>>, FormatError>> {
        yield_if_needed().await;
        let Some(frame) = self.reading.take(FRAME_BYTES).await? else {
            return Ok(Err(FormatError::Short));
        };
        let Some(frame) = frame.first_chunk().map(Frame::decode) else {
            return Ok(Err(FormatError::Short));
        };
        let part = self.reading.take(frame.len.unwrap_or(0)).await?;
        let Some(part) = part else { return Ok(Err(FormatError::Short)) };
        if let Err(error) = self.chain.check(frame, &part) {
            return Ok(Err(error));
        }
        if frame.len.is_some() {
            return Ok(Ok(Some(part)));
        }
        let left = usize::try_from(self.reading.left()).unwrap_or(usize::MAX);
        let padding = self.reading.take(left.min(BLOCK_BYTES)).await?;
        if padding.is_some_and(|padding| format::is_padding(&padding)) {
            return Ok(Ok(None));
        }
        Ok(Err(FormatError::Field("padding")))
    }
}

fn invalid(error: FormatError) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, error.to_string())
}

/// Where the checkpoint before the newest one stands, by its name.
pub(crate) async fn previous(dir: &Path) -> io::Result<Option<LogIndex>> {
    let names = names(dir).await?;
    let name = names.into_iter().rev().nth(1);
    let digits = name.as_deref().and_then(|name| name.strip_suffix(SUFFIX));
    Ok(digits.and_then(|digits| digits.parse().ok()).map(LogIndex))
}

/// A part of the file of the checkpoint at `index`, or of the newest one.
pub(crate) async fn piece(
    dir: &Path,
    index: Option<LogIndex>,
    position: u64,
    len_max: usize,
) -> io::Result<Option<CheckpointPiece>> {
    let names = names(dir).await?;
    let wanted = index.map_or_else(|| names.last().cloned(), |index| Some(name_of(index)));
    let Some(name) = wanted.filter(|name| names.contains(name)) else { return Ok(None) };
    let digits = name.strip_suffix(SUFFIX).and_then(|digits| digits.parse().ok());
    let index = LogIndex(digits.ok_or(io::ErrorKind::InvalidData)?);
    let file = File::open(dir.join(&name)).await?;
    let size = file.len().await?;
    let start = position - position % BLOCK_BYTES as u64;
    let skip = usize::try_from(position - start).unwrap_or(0);
    let len = usize::try_from(size.saturating_sub(position)).unwrap_or(len_max).min(len_max);
    let bytes = match len {
        0 => Vec::new(),
        _ => {
            let read = file.read_at(start, round_up_to_block(skip + len)).await?;
            read.get(skip..skip + len).ok_or(io::ErrorKind::UnexpectedEof)?.to_vec()
        }
    };
    file.close().await?;
    Ok(Some(CheckpointPiece { index, size, bytes }))
}

impl CheckpointCopy {
    pub(crate) async fn begin(dir: &Path, shard: ShardId) -> io::Result<Self> {
        Ok(Self { writing: Writing::begin(dir).await?, shard })
    }

    /// Bytes that came so far.
    #[must_use]
    pub fn size(&self) -> u64 {
        self.writing.at + self.writing.waiting.len() as u64
    }

    /// The next bytes of the file.
    ///
    /// # Errors
    /// The system's error.
    pub async fn put(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.writing.put(bytes).await
    }

    /// The file has come to its end. [`crate::CommitLog::adopt_checkpoint`] makes it the log's.
    ///
    /// # Errors
    /// The system's error, or `InvalidData` when it is not whole, or of another shard.
    pub async fn end(mut self) -> io::Result<Checkpoint> {
        self.writing.end().await?;
        verify(&self.writing.path, self.shard).await?.map_err(invalid)
    }
}

/// Makes a file that was copied the only checkpoint in the folder.
pub(crate) async fn adopt(dir: &Path, copied: &Checkpoint) -> io::Result<()> {
    let name = name_of(copied.id.index);
    fs::rename(&copied.path, &dir.join(&name)).await?;
    fs::sync_dir(dir).await?;
    for other in names(dir).await?.into_iter().filter(|other| *other != name) {
        fs::remove(&dir.join(other)).await?;
    }
    fs::sync_dir(dir).await
}

fn name_of(index: LogIndex) -> String {
    format!("{:020}{SUFFIX}", index.0)
}

async fn names(dir: &Path) -> io::Result<Vec<String>> {
    let mut names = fs::list(dir).await?;
    names.retain(|name| name.ends_with(SUFFIX));
    names.sort_unstable();
    Ok(names)
}

/// A file that is being written from its beginning to its end.
#[derive(Debug)]
struct Writing {
    file: File,
    path: PathBuf,
    /// Bytes written.
    at: u64,
    /// Bytes that do not fill a window yet.
    waiting: Vec<u8>,
}

impl Writing {
    async fn begin(dir: &Path) -> io::Result<Self> {
        let path = dir.join(TEMPORARY);
        let file = match File::create(&path, 0).await {
            // One that a crash has left, or a full disk.
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                fs::remove(&path).await?;
                File::create(&path, 0).await?
            }
            created => created?,
        };
        Ok(Self { file, path, at: 0, waiting: Vec::new() })
    }

    async fn put(&mut self, mut bytes: &[u8]) -> io::Result<()> {
        loop {
            let room = WINDOW_BYTES - self.waiting.len();
            let (now, later) = bytes.split_at(room.min(bytes.len()));
            self.waiting.extend_from_slice(now);
            bytes = later;
            if self.waiting.len() < WINDOW_BYTES {
                return Ok(());
            }
            self.flush().await?;
        }
    }

    /// Writes what waits; zeros fill the last block.
    async fn flush(&mut self) -> io::Result<()> {
        if self.waiting.is_empty() {
            return Ok(());
        }
        let mut buffer = Buffer::new(round_up_to_block(self.waiting.len()));
        let (bytes, padding) = buffer.split_at_mut(self.waiting.len());
        bytes.copy_from_slice(&self.waiting);
        padding.fill(0);
        self.waiting.clear();
        let written = self.file.write_at(&buffer.freeze(), self.at).await?;
        self.at += written as u64;
        Ok(())
    }

    /// Durable when it returns.
    async fn end(&mut self) -> io::Result<()> {
        self.flush().await?;
        self.file.sync_data().await
    }

    /// On a full disk every byte counts.
    async fn give_up(self) {
        drop(self.file.close().await);
        drop(fs::remove(&self.path).await);
    }
}

/// A file that is being read from its beginning to its end.
#[derive(Debug)]
struct Reading {
    file: File,
    size: u64,
    at: u64,
    /// What was read last, and from where.
    window: Option<(u64, Slice)>,
}

impl Reading {
    async fn open(path: &Path) -> io::Result<Self> {
        let file = File::open(path).await?;
        let size = file.len().await?;
        Ok(Self { file, size, at: 0, window: None })
    }

    fn left(&self) -> u64 {
        self.size - self.at
    }

    /// The next bytes; `None` when there are fewer. What a damaged file asks for is bounded by its
    /// size before it is allocated.
    async fn take(&mut self, len: usize) -> io::Result<Option<Vec<u8>>> {
        if len as u64 > self.left() {
            return Ok(None);
        }
        let mut bytes = Vec::with_capacity(len);
        while bytes.len() < len {
            let missing = len - bytes.len();
            if let Some((start, window)) = &self.window {
                let skip = usize::try_from(self.at - start).unwrap_or(usize::MAX);
                let here = window.get(skip..).unwrap_or_default();
                if let Some(found) =
                    here.get(..missing.min(here.len())).filter(|found| !found.is_empty())
                {
                    bytes.extend_from_slice(found);
                    self.at += found.len() as u64;
                    continue;
                }
            }
            let start = self.at - self.at % BLOCK_BYTES as u64;
            let window = self.file.read_at(start, WINDOW_BYTES).await?;
            if start + window.len() as u64 <= self.at {
                // Somebody has cut it.
                return Ok(None);
            }
            self.window = Some((start, window));
        }
        Ok(Some(bytes))
    }
}
