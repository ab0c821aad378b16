//! What a shard's log may use.

use crate::format::{BLOCK_BYTES, segment::DATA_START};
use barrage_model::ShardId;
use std::time::Duration;

/// What the floor of Raft's log follows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Floor {
    /// The checkpoints: a checkpoint is the whole truth about the entries before it. Records below
    /// the floor stay readable until retention lets them go.
    #[default]
    Checkpoint,
    /// Retention: records live in the log only, so an entry stays as long as its records do, and a
    /// replica that was away is caught up by entries. Nothing at or below the floor is read.
    Records,
}

/// Settings of one shard's log. Sizes in bytes.
#[derive(Clone, Debug)]
pub struct Options {
    /// The shard; stands in every header and entry.
    pub shard: ShardId,
    /// What the floor follows. A log keeps to one of them for all of its life.
    pub floor: Floor,
    /// Bytes of a segment file, a multiple of 4096. An entry must fit into one.
    pub segment_bytes: u64,
    /// Entries of a segment, at most; the next one goes to a new segment. Where they lie is held in
    /// memory until the segment is sealed, applied and indexed: 32 bytes for each.
    pub segment_entries_max: u64,
    /// Segments prepared ahead. At least one is the reserve that keeps votes and floors writable
    /// when the disk is full.
    pub pool_segments: usize,
    /// Bytes written and not yet synced, at most: what a crash may leave torn.
    pub unsynced_bytes_max: u64,
    /// Bytes of entries that one flush group gathers before it is written.
    pub group_bytes_target: usize,
    /// Large writes in flight at once.
    pub writes_max: usize,
    /// Bytes of recently written and recently read log kept in memory.
    pub cache_bytes: usize,
    /// After this long without a write the log writes one empty group, so that the sync mark
    /// passes the last acknowledged byte.
    pub idle_mark_after: Duration,
}

impl Options {
    /// Defaults for a shard.
    pub fn new(shard: ShardId) -> Self {
        Self {
            shard,
            floor: Floor::default(),
            segment_bytes: 256 * 1024 * 1024,
            segment_entries_max: 512 * 1024,
            pool_segments: 1,
            unsynced_bytes_max: 32 * 1024 * 1024,
            group_bytes_target: 2 * 1024 * 1024,
            writes_max: 8,
            cache_bytes: 64 * 1024 * 1024,
            idle_mark_after: Duration::from_millis(50),
        }
    }

    /// The smallest segment that can hold its header and one group of one block, twice.
    pub(crate) const SEGMENT_BYTES_MIN: u64 = DATA_START + 4 * BLOCK_BYTES as u64;

    /// The largest segment: positions in it are counted in 32 bits.
    pub(crate) const SEGMENT_BYTES_MAX: u64 = 1 << 32;

    /// Bytes the entries of one group may take, at most.
    pub fn entry_bytes_max(&self) -> usize {
        (self.segment_bytes - DATA_START) as usize - BLOCK_BYTES
    }
}
