//! Stats: counters of a node, per core and shard, since it started unless said otherwise. The
//! request is empty. Rows grow at their end: an old client steps over fields it does not know.

use barrage_model::{CoreId, NodeId, ShardId};

use crate::field::fields;

/// One core.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CoreStats {
    /// The core.
    pub core: CoreId,
    /// Connections open now.
    pub connections: u32,
    /// Messages waiting in its mailboxes now.
    pub mailbox_depth: u64,
    /// Memory of the process in bytes: the same on every core.
    pub memory_bytes: u64,
    /// The memory budget of the process in bytes.
    pub memory_bytes_max: u64,
}
fields!(CoreStats { core, connections, mailbox_depth, memory_bytes, memory_bytes_max });

/// One shard.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ShardStats {
    /// The shard.
    pub shard: ShardId,
    /// The core it lives on.
    pub core: CoreId,
    /// Partitions it carries now.
    pub partitions: u32,
    /// Records appended.
    pub records: u64,
    /// Bytes of batches appended.
    pub bytes: u64,
    /// Flushes (write and fdatasync) done.
    pub flushes: u64,
    /// Median flush, in microseconds.
    pub flush_p50_us: u64,
    /// 99th percentile of flushes, in microseconds.
    pub flush_p99_us: u64,
    /// Entries proposed and not yet applied, now.
    pub entries_in_flight: u64,
    /// Bytes of the tail cache now.
    pub cache_bytes: u64,
    /// Reads served from the cache.
    pub cache_hits: u64,
    /// Reads that went to disk.
    pub cache_misses: u64,
    /// Bytes of log on disk now.
    pub disk_bytes: u64,
    /// Batches waiting to be proposed, now.
    pub batches_waiting: u64,
    /// Bytes waiting to be proposed, now.
    pub bytes_waiting: u64,
}
fields!(ShardStats {
    shard,
    core,
    partitions,
    records,
    bytes,
    flushes,
    flush_p50_us,
    flush_p99_us,
    entries_in_flight,
    cache_bytes,
    cache_hits,
    cache_misses,
    disk_bytes,
    batches_waiting,
    bytes_waiting,
});

/// A node.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct StatsReply {
    /// The node.
    pub node: NodeId,
    /// Its software version.
    pub version: String,
    /// Milliseconds since it started.
    pub uptime_ms: u64,
    /// Its cores.
    pub cores: Vec<CoreStats>,
    /// Its shards.
    pub shards: Vec<ShardStats>,
}
fields!(StatsReply { node, version, uptime_ms, cores, shards });
