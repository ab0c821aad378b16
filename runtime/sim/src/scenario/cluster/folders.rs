//! What lies on a node's disk, seen from beside it.
//!
//! Owns: where replicas keep their files. Must never: change a file, nor count as an operation of
//! the disk.

use std::path::{Path, PathBuf};

use barrage_model::ShardId;
use barrage_world::sim::Disk;

use super::process::DATA_DIR;

/// The folder of a replica.
fn folder(shard: ShardId) -> PathBuf {
    Path::new(DATA_DIR).join("shards").join(shard.to_string())
}

/// The segments of a replica's log with their lengths, the oldest first.
pub(super) fn segments(disk: &Disk, shard: ShardId) -> Vec<(PathBuf, u64)> {
    let folder = folder(shard);
    let mut files = disk.snapshot().files();
    files.retain(|(path, _)| path.parent() == Some(&folder) && is_segment(path));
    files.sort();
    files
}

fn is_segment(path: &Path) -> bool {
    let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    name.ends_with(".log") && !name.starts_with("pool-")
}

/// Whether a replica is being copied.
pub(super) fn is_incomplete(disk: &Disk, shard: ShardId) -> bool {
    disk.len_raw(folder(shard).join("incomplete")).is_ok()
}

/// How many damaged logs were set aside.
pub(super) fn set_aside(disk: &Disk) -> usize {
    let files = disk.snapshot().files();
    let parts = files.iter().filter(|(path, _)| is_segment(path)).filter_map(|(path, _)| {
        let aside = path.parent()?;
        (aside.parent()?.file_name()? == "quarantine").then_some(aside)
    });
    parts.collect::<std::collections::BTreeSet<_>>().len()
}

/// Whether any log of a disk that lost its power holds these bytes.
pub(super) fn holds(disk: &Disk, bytes: &[u8]) -> bool {
    let mut files = disk.snapshot().files();
    files.retain(|(path, _)| is_segment(path));
    // What is new lies in the newest.
    files.sort_by(|(one, _), (other, _)| other.file_name().cmp(&one.file_name()));
    files.iter().any(|(path, len)| {
        disk.read_raw(path, 0, *len).is_ok_and(|read| {
            let first = bytes.first().copied().unwrap_or_default();
            let starts = read.iter().enumerate().filter(|(_, byte)| **byte == first);
            starts.map(|(at, _)| at).any(|at| read.get(at..at + bytes.len()) == Some(bytes))
        })
    })
}
