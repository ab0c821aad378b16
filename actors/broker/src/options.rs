//! How a node's broker is set up: plain data, given once at start, with the defaults in one place.

use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::time::Duration;

use barrage_model::Retention;
use barrage_raft::Timing;

/// Settings of a node's broker; the same value is given to every core.
#[derive(Clone, Debug)]
pub struct BrokerOptions {
    /// Where the node keeps its data.
    pub data_dir: PathBuf,
    /// How many cores serve (at least 1).
    pub cores: u16,
    /// `host:port` that reaches each core, by core; the shared address where core ports are off.
    pub core_addresses: Vec<String>,
    /// `host:port` where other nodes reach this one first; empty where there are none.
    pub peer_address: String,
    /// `host:port` where clients reach this node.
    pub client_address: String,
    /// Data shards of a cluster that this node founds; 0 takes one per core.
    pub shards: u32,
    /// How fast groups notice, elect and replicate; the same on all nodes.
    pub timing: Timing,
    /// The memory budget of the process in bytes, for the figures.
    pub memory_bytes: u64,
    /// The part of it for log bytes in memory, over all cores.
    pub cache_bytes: u64,
    /// What a shard gets of that at least, however many share it, in bytes.
    pub shard_cache_bytes_min: usize,
    /// The part of it for requests without an answer, over all cores. The receivers hold to it;
    /// beyond it, and a little more, a shard's proposals answer `QueueFull`.
    pub request_bytes: u64,
    /// Size of one log segment in bytes.
    pub segment_bytes: u64,
    /// How many segments are prepared ahead per shard.
    pub pool_segments: usize,
    /// A checkpoint of a shard becomes due after so many applied bytes, at least and at most; in
    /// between after half a segment.
    pub checkpoint_bytes: RangeInclusive<u64>,
    /// Retention of a topic that does not name its own.
    pub retention: Retention,
    /// How often retention is looked at.
    pub retention_tick: Duration,
}

impl BrokerOptions {
    /// Settings for `cores` cores over `data_dir`, everything else by default.
    pub fn new(data_dir: PathBuf, cores: u16) -> Self {
        assert!(cores > 0, "a node has at least one core");
        Self {
            data_dir,
            cores,
            core_addresses: vec![String::new(); usize::from(cores)],
            peer_address: String::new(),
            client_address: String::new(),
            shards: 0,
            timing: Timing::default(),
            memory_bytes: 1 << 30,
            cache_bytes: 256 << 20,
            shard_cache_bytes_min: 4 << 20,
            request_bytes: 128 << 20,
            segment_bytes: 256 << 20,
            pool_segments: 2,
            checkpoint_bytes: 1 << 20..=256 << 20,
            retention: Retention::default(),
            retention_tick: Duration::from_secs(10),
        }
    }
}
