//! Whether a replica's folder holds all that it must, and making it so.
//!
//! Owns: the broker's side of that; the copying is the raft crate's.

use std::path::Path;

use barrage_model::ShardId;
use barrage_world::fs;

use super::Shard;
use crate::start::StartError;

impl Shard {
    /// Whether a folder holds no replica, or one that is still being made.
    pub(crate) async fn is_incomplete(dir: &Path) -> Result<bool, StartError> {
        Self::is_unknown(dir).await
    }

    /// Whether nothing of the shard was ever here.
    pub(crate) async fn is_unknown(dir: &Path) -> Result<bool, StartError> {
        let failed = |source| StartError::Io { action: "look into", path: dir.into(), source };
        if !fs::exists(dir).await.map_err(failed)? {
            return Ok(true);
        }
        Ok(fs::list(dir).await.map_err(failed)?.is_empty())
    }

    /// Removes a closed replica.
    pub(crate) async fn dismantle(dir: &Path, _id: ShardId) -> Result<(), StartError> {
        let failed = |source| StartError::Io { action: "remove", path: dir.into(), source };
        for name in fs::list(dir).await.map_err(failed)? {
            fs::remove(&dir.join(name)).await.map_err(failed)?;
        }
        Ok(())
    }
}
