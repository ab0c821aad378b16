//! Checkpoint files: the state machine at one log id, beside the segments.
//!
//! The newest two are kept; a damaged one is passed over for the one before it, as long as the
//! log still reaches back to that.

use crate::copy::CheckpointPiece;
use crate::format::checkpoint::{self as format, Checkpoint};
use crate::format::{BLOCK_BYTES, round_up_to_block};
use barrage_model::{LogIndex, ShardId};
use barrage_world::{File, fs};
use std::io;
use std::path::Path;

const SUFFIX: &str = ".ckp";
/// Checkpoints kept.
const KEPT: usize = 2;

/// Writes a checkpoint and removes the ones it replaces. Durable when it returns.
pub(crate) async fn write(dir: &Path, shard: ShardId, checkpoint: &Checkpoint) -> io::Result<()> {
    let path = dir.join(name_of(checkpoint.id.index));
    fs::write_atomic(&path, &format::encode(shard, checkpoint)).await?;
    for name in names(dir).await?.into_iter().rev().skip(KEPT) {
        fs::remove(&dir.join(name)).await?;
    }
    Ok(())
}

/// The newest whole checkpoint in the folder.
pub(crate) async fn read(dir: &Path, shard: ShardId) -> io::Result<Option<Checkpoint>> {
    for name in names(dir).await?.into_iter().rev() {
        let path = dir.join(name);
        match format::decode(&fs::read(&path).await?, shard) {
            Ok(found) => return Ok(Some(found)),
            Err(error) => {
                tracing::warn!(path = %path.display(), %error, "checkpoint passed over");
            }
        }
    }
    Ok(None)
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

/// Writes a file that came from another replica, as it is, and removes all others.
pub(crate) async fn adopt(dir: &Path, index: LogIndex, bytes: &[u8]) -> io::Result<()> {
    let name = name_of(index);
    fs::write_atomic(&dir.join(&name), bytes).await?;
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
