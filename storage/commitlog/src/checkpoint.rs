//! Checkpoint files: the state machine at one log id, beside the segments.
//!
//! The newest two are kept; a damaged one is passed over for the one before it, as long as the
//! log still reaches back to that.

use crate::format::checkpoint::{self as format, Checkpoint};
use barrage_model::{LogIndex, ShardId};
use barrage_world::fs;
use std::io;
use std::path::Path;

const SUFFIX: &str = ".ckp";
/// Checkpoints kept.
const KEPT: usize = 2;

/// Writes a checkpoint and removes the ones it replaces. Durable when it returns.
pub(crate) async fn write(dir: &Path, shard: ShardId, checkpoint: &Checkpoint) -> io::Result<()> {
    let path = dir.join(format!("{:020}{SUFFIX}", checkpoint.id.index.0));
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

async fn names(dir: &Path) -> io::Result<Vec<String>> {
    let mut names = fs::list(dir).await?;
    names.retain(|name| name.ends_with(SUFFIX));
    names.sort_unstable();
    Ok(names)
}
