//! A node's data directory: who the node is, and the lock that keeps a second process out.
//!
//! ```text
//! node.json: {"format":1,"node":1,"cluster":"<32 hex digits>","birth":"<32 hex digits>"}
//!
//!   empty directory --Home::open-----> node 1 of a new cluster
//!                   --Home::to_join--> Newcomer (node 0: not a member yet; its birth is kept)
//!                                        --settle(node, cluster)--> member
//! ```
//!
//! Owns: that file and `LOCK`. Must never: make a new identity beside existing data.
//! Invariants: the identity is durable before the first log is; a newer format is refused; a
//! newcomer that asks twice asks with the same birth, so it becomes one member.

use std::io;
use std::path::{Path, PathBuf};

use barrage_cluster::node::Birth;
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
pub(crate) const FOUNDER: NodeId = NodeId(1);
/// Stands for a node that is no member yet.
const NEWCOMER: NodeId = NodeId(0);

/// A node's identity.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Identity {
    pub(crate) node: NodeId,
    pub(crate) cluster: String,
    pub(crate) birth: Birth,
}

#[derive(Serialize, Deserialize)]
struct Stored {
    format: u32,
    node: u64,
    cluster: String,
    /// Absent in what a node alone has written before nodes could join.
    #[serde(default)]
    birth: Option<String>,
}

/// The data directory of a member, locked until this is dropped.
#[derive(Debug)]
pub struct Home {
    identity: Identity,
    _lock: DirLock,
}

/// What a node that is to join finds in its data directory.
#[derive(Debug)]
pub enum Arrival {
    /// It has joined before.
    Member(Home),
    /// It must ask to be let in.
    Newcomer(Newcomer),
}

/// The data directory of a node that is no member yet, locked until this is dropped.
#[derive(Debug)]
pub struct Newcomer {
    dir: PathBuf,
    birth: Birth,
    lock: DirLock,
}

impl Home {
    /// Opens a node's data directory; founds a cluster in an empty one.
    ///
    /// # Errors
    /// When it is in use, cannot be written, or is damaged, or is that of a node that has not
    /// joined yet.
    pub async fn open(dir: &Path) -> Result<Self, StartError> {
        let lock = lock(dir).await?;
        let identity = match known(dir).await? {
            Some(identity) if identity.node == NEWCOMER => {
                return Err(StartError::NotJoined { path: dir.to_path_buf() });
            }
            Some(identity) => identity,
            None => {
                let cluster = format!("{:016x}{:016x}", random_u64(), random_u64());
                let identity = Identity { node: FOUNDER, cluster, birth: Birth::default() };
                write(dir, &identity).await?;
                identity
            }
        };
        Ok(Self { identity, _lock: lock })
    }

    /// Opens the data directory of a node that joins a cluster.
    ///
    /// # Errors
    /// As [`Home::open`].
    pub async fn to_join(dir: &Path) -> Result<Arrival, StartError> {
        let lock = lock(dir).await?;
        let birth = match known(dir).await? {
            Some(identity) if identity.node == NEWCOMER => identity.birth,
            Some(identity) => {
                let home = Self { identity, _lock: lock };
                return Ok(Arrival::Member(home));
            }
            None => {
                let high = u128::from(random_u64()) << 64;
                // Never the founder's, which is 0.
                let birth = Birth((high | u128::from(random_u64())).max(1));
                let identity = Identity { node: NEWCOMER, cluster: String::new(), birth };
                write(dir, &identity).await?;
                birth
            }
        };
        Ok(Arrival::Newcomer(Newcomer { dir: dir.to_path_buf(), birth, lock }))
    }

    /// The node.
    #[must_use]
    pub fn node(&self) -> NodeId {
        self.identity.node
    }

    /// The cluster it belongs to: 32 hex digits.
    #[must_use]
    pub fn cluster(&self) -> &str {
        &self.identity.cluster
    }

    pub(crate) fn identity(&self) -> &Identity {
        &self.identity
    }
}

impl Newcomer {
    /// What it asks to be let in with.
    #[must_use]
    pub fn birth(&self) -> Birth {
        self.birth
    }

    /// It was let in.
    ///
    /// # Errors
    /// When the identity cannot be written.
    pub async fn settle(self, node: NodeId, cluster: String) -> Result<Home, StartError> {
        let identity = Identity { node, cluster, birth: self.birth };
        write(&self.dir, &identity).await?;
        Ok(Home { identity, _lock: self.lock })
    }
}

fn failed(action: &'static str, dir: &Path) -> impl Fn(io::Error) -> StartError + use<> {
    let path = dir.to_path_buf();
    move |source| StartError::Io { action, path: path.clone(), source }
}

/// Makes the directory and locks it.
async fn lock(dir: &Path) -> Result<DirLock, StartError> {
    fs::create_dir_all(dir).await.map_err(failed("create", dir))?;
    fs::lock_dir(dir).await.map_err(|source| match source.kind() {
        io::ErrorKind::WouldBlock => StartError::InUse { path: dir.to_path_buf() },
        _ => failed("lock", dir)(source),
    })
}

/// The identity in a directory; `None` in an empty one.
async fn known(dir: &Path) -> Result<Option<Identity>, StartError> {
    if fs::exists(dir.join(FILE)).await.map_err(failed("look into", dir))? {
        // Durability: it is written when the names above are durable, see below. A start on data
        // that is there waits for no directory, which on a busy disk may take a minute.
        return read(dir).await.map(Some);
    }
    keep_name(dir).await.map_err(failed("keep the name of", dir))?;
    if fs::exists(dir.join(SHARDS_DIR)).await.map_err(failed("look into", dir))? {
        return Err(StartError::IdentityMissing { path: dir.join(FILE) });
    }
    Ok(None)
}

async fn write(dir: &Path, identity: &Identity) -> Result<(), StartError> {
    let Identity { node, cluster, birth } = identity;
    let (cluster, birth) = (cluster.clone(), Some(format!("{:032x}", birth.0)));
    let stored = Stored { format: FORMAT, node: node.0, cluster, birth };
    let bytes = serde_json::to_vec(&stored).map_err(|error| failed("write", dir)(error.into()))?;
    fs::write_atomic(dir.join(FILE), &bytes).await.map_err(failed("write", dir))
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

async fn read(dir: &Path) -> Result<Identity, StartError> {
    let path = dir.join(FILE);
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
    let birth = stored.birth.as_deref().unwrap_or("0");
    let birth = u128::from_str_radix(birth, 16).map_err(|error| format!("birth: {error}"));
    let Stored { node, cluster, .. } = stored;
    // A newcomer is in no cluster yet.
    if !cluster.is_empty() {
        u128::from_str_radix(&cluster, 16).map_err(|error| format!("cluster: {error}"))?;
    }
    Ok(Identity { node: NodeId(node), cluster, birth: Birth(birth?) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn golden_and_damaged_files() {
        let golden = br#"{"format":1,"node":1,"cluster":"00ff","birth":"0a"}"#;
        let (node, cluster) = (NodeId(1), "00ff".to_owned());
        assert_eq!(parse(golden), Ok(Identity { node, cluster, birth: Birth(10) }));
        let before = br#"{"format":1,"node":1,"cluster":"00ff"}"#;
        assert_eq!(parse(before).map(|identity| identity.birth), Ok(Birth::default()));
        assert!(parse(br#"{"format":2,"node":1,"cluster":"00ff","birth":"0a"}"#).is_err());
        assert!(parse(br#"{"format":1,"node":1,"cluster":"00ff","birth":"x"}"#).is_err());
        assert!(parse(br#"{"format":1,"node":1,"cluster":"00gf","birth":"0a"}"#).is_err());
        for len in 0..golden.len() {
            assert!(parse(golden.get(..len).unwrap_or_default()).is_err());
        }
    }
}
