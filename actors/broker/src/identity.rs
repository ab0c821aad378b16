//! Who this node is: `node.json` in the data directory, and the lock that keeps a second process
//! out.
//!
//! ```text
//! {"format":1,"node":1,"cluster":"<32 hex digits>"}
//! ```
//!
//! Owns: that file and `LOCK`. Must never: make a new identity beside existing data.
//! Invariants: the identity is durable before the first log is; a newer format is refused.

use std::io;
use std::path::Path;

use barrage_model::NodeId;
use barrage_world::fs::{self, DirLock};
use barrage_world::random_u64;
use serde::{Deserialize, Serialize};

use crate::broker::StartError;

const FORMAT: u32 = 1;
const FILE: &str = "node.json";
/// The folder of the shards.
pub(crate) const SHARDS_DIR: &str = "shards";
/// The node that founds a cluster; further ones get their ids from the catalog.
const FOUNDER: u64 = 1;

/// A node's identity.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Identity {
    pub(crate) node: NodeId,
    pub(crate) cluster: String,
}

#[derive(Serialize, Deserialize)]
struct Stored {
    format: u32,
    node: u64,
    cluster: String,
}

/// Locks the data directory and reads the identity in it, or makes one in an empty directory.
pub(crate) async fn found(data_dir: &Path) -> Result<(Identity, DirLock), StartError> {
    let failed =
        |action| move |source| StartError::Io { action, path: data_dir.to_path_buf(), source };
    fs::create_dir_all(data_dir).await.map_err(failed("create"))?;
    let lock = fs::lock_dir(data_dir).await.map_err(|source| match source.kind() {
        io::ErrorKind::WouldBlock => StartError::InUse { path: data_dir.to_path_buf() },
        _ => failed("lock")(source),
    })?;
    if fs::exists(data_dir.join(FILE)).await.map_err(failed("look into"))? {
        // Durability: it is written when the names above are durable, see below. A start on data
        // that is there waits for no directory, which on a busy disk may take a minute.
        return Ok((read(data_dir).await?, lock));
    }
    keep_name(data_dir).await.map_err(failed("keep the name of"))?;
    if fs::exists(data_dir.join(SHARDS_DIR)).await.map_err(failed("look into"))? {
        return Err(StartError::IdentityMissing { path: data_dir.join(FILE) });
    }
    let cluster = format!("{:016x}{:016x}", random_u64(), random_u64());
    let stored = Stored { format: FORMAT, node: FOUNDER, cluster: cluster.clone() };
    let bytes = serde_json::to_vec(&stored).map_err(|error| failed("write")(error.into()))?;
    fs::write_atomic(data_dir.join(FILE), &bytes).await.map_err(failed("write"))?;
    Ok((Identity { node: NodeId(FOUNDER), cluster }, lock))
}

/// Makes a directory's own name durable, and those of all above it: without them a power cut takes
/// everything that is in it. A start before this one may have made any of them and not come so far.
async fn keep_name(dir: &Path) -> io::Result<()> {
    for parent in dir.ancestors().skip(1) {
        let parent = if parent.as_os_str().is_empty() { Path::new(".") } else { parent };
        match fs::sync_dir(parent).await {
            // What this user may not even look into it has not made.
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {}
            other => other?,
        }
    }
    Ok(())
}

/// Reads the identity that is there.
pub(crate) async fn read(data_dir: &Path) -> Result<Identity, StartError> {
    let path = data_dir.join(FILE);
    let bytes = fs::read(&path).await;
    let bytes =
        bytes.map_err(|source| StartError::Io { action: "read", path: path.clone(), source })?;
    parse(&bytes).map_err(|reason| StartError::Identity { path, reason })
}

pub(crate) fn parse(bytes: &[u8]) -> Result<Identity, String> {
    let stored: Stored = serde_json::from_slice(bytes).map_err(|error| error.to_string())?;
    if stored.format != FORMAT {
        return Err(format!("format {} is not known to this build", stored.format));
    }
    Ok(Identity { node: NodeId(stored.node), cluster: stored.cluster })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn golden_and_damaged_files() {
        let golden = br#"{"format":1,"node":1,"cluster":"00ff"}"#;
        let identity = Identity { node: NodeId(1), cluster: "00ff".to_owned() };
        assert_eq!(parse(golden), Ok(identity));
        assert!(parse(br#"{"format":2,"node":1,"cluster":"00ff"}"#).is_err());
        for len in 0..golden.len() {
            assert!(parse(golden.get(..len).unwrap_or_default()).is_err());
        }
    }
}
