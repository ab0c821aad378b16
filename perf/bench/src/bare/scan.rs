//! What a disk gives that is read from front to back: direct reads of the log's own files.
//!
//! Owns: which files, and reading them. Must never: look at what was read, or read through the page
//! cache. Invariants: each core reads files of its own, [`READS`] pieces ahead.

use std::collections::VecDeque;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use barrage_world::node::{self, CoreContext, CoreSet, NodeOptions};
use barrage_world::{File, fatal, spawn};
use serde::{Deserialize, Serialize};

use crate::affinity::CoreList;

/// What a scan came to.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(crate) struct Scanned {
    pub bytes: u64,
    pub seconds: f64,
}

const READ_BYTES: usize = 1 << 20;
/// Reads under way on each core.
const READS: usize = 8;
/// Where a node keeps the shards' logs; shard 0 is the catalog's.
const SHARDS: &str = "shards";
const CATALOG: &str = "0";
const SEGMENT: &str = "log";

/// Reads at most `bytes_max` of the records' log below a node's folder, on each core for itself.
pub(crate) fn scan(cores: &CoreList, node: &Path, bytes_max: u64) -> Result<Scanned> {
    let files = segments(node)?;
    ensure!(!files.is_empty(), "no log in {}", node.display());
    let cores = CoreSet::parse(&cores.flag())?;
    let files = Arc::new(Mutex::new(VecDeque::from(files)));
    let left = Arc::new(AtomicU64::new(bytes_max));
    let began = Arc::new(OnceLock::new());
    let there = (files, Arc::clone(&left), Arc::clone(&began));
    let body = move |_: CoreContext| {
        let (files, left, began) = there.clone();
        async move {
            began.get_or_init(Instant::now);
            if let Err(error) = read_files(&files, &left).await {
                fatal(&format!("bare scan: {error}"));
            }
        }
    };
    node::start(&cores, NodeOptions::default(), body)?.join()?;
    // Making an executor is no part of reading.
    let took = began.get().map_or(Duration::ZERO, Instant::elapsed).max(Duration::from_millis(1));
    let bytes = bytes_max - left.load(Ordering::Relaxed);
    Ok(Scanned { bytes, seconds: took.as_secs_f64() })
}

/// The data shards' segments, in the order they were written.
fn segments(node: &Path) -> io::Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    for shard in fs::read_dir(node.join(SHARDS))? {
        let shard = shard?;
        if shard.file_name() == CATALOG {
            continue;
        }
        for file in fs::read_dir(shard.path())? {
            let path = file?.path();
            if path.extension().is_some_and(|extension| extension == SEGMENT) {
                files.push(path);
            }
        }
    }
    files.sort();
    Ok(files)
}

/// Takes files until none is left, or enough was read.
async fn read_files(files: &Mutex<VecDeque<PathBuf>>, left: &AtomicU64) -> io::Result<()> {
    loop {
        let next = files.lock().unwrap_or_else(PoisonError::into_inner).pop_front();
        let Some(path) = next else { return Ok(()) };
        read_file(&path, left).await?;
    }
}

/// Reads a file from front to back.
async fn read_file(path: &Path, left: &AtomicU64) -> io::Result<()> {
    let file = Rc::new(File::open(path).await?);
    let size = file.len().await?;
    let mut under_way = VecDeque::new();
    let mut position = 0;
    loop {
        while under_way.len() < READS && position < size && take(left) {
            let file = Rc::clone(&file);
            let there = position;
            under_way.push_back(spawn(async move { file.read_at(there, READ_BYTES).await }));
            position += READ_BYTES as u64;
        }
        let Some(read) = under_way.pop_front() else { return Ok(()) };
        match read.await {
            Some(read) => drop(read?),
            None => return Err(io::Error::other("a read ended early")),
        }
    }
}

/// Whether another piece is to be read.
fn take(left: &AtomicU64) -> bool {
    let piece = READ_BYTES as u64;
    let order = Ordering::Relaxed;
    left.fetch_update(order, order, |left| left.checked_sub(piece)).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn segments_are_the_data_shards_logs_in_order() {
        let folder = std::env::temp_dir().join(format!("barrage-scan-{}", std::process::id()));
        for file in ["shards/0/1.log", "shards/1/2.log", "shards/1/1.log", "shards/1/1.idx"] {
            let path = folder.join(file);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, b"x").unwrap();
        }
        let found = segments(&folder).unwrap();
        fs::remove_dir_all(&folder).unwrap();
        let found: Vec<_> = found.iter().map(|path| path.strip_prefix(&folder).unwrap()).collect();
        assert_eq!(found, [Path::new("shards/1/1.log"), Path::new("shards/1/2.log")]);
        let left = AtomicU64::new(READ_BYTES as u64 * 2 + 1);
        assert!(take(&left) && take(&left) && !take(&left));
    }
}
