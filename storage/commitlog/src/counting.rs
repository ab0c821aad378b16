//! The hot pieces of the log for `perf/counts`, which counts their instructions; no part of the
//! log's interface.
//!
//! Owns: what stands around a piece in the product, without files. Must never: do what the product
//! does by itself; each piece is the function that the writer or a reader calls.

use barrage_model::{Offset, PartitionKey, ShardId};

use crate::entry::{Entry, Run};
use crate::format::entry as entry_format;
use crate::index::{self, RunPlace, Runs};

/// Writes entries one after the other into the same buffer.
#[derive(Debug)]
pub struct Encoder {
    shard: ShardId,
    previous_hash: u64,
    buffer: Vec<u8>,
}

impl Encoder {
    /// With a buffer for entries as long as this one.
    #[must_use]
    pub fn new(shard: ShardId, longest: &Entry) -> Self {
        let buffer = vec![0; entry_format::encoded_len(longest)];
        Self { shard, previous_hash: 0, buffer }
    }

    /// Encodes an entry behind the one before; gives its length and the CRC of all of it.
    pub fn encode(&mut self, entry: &Entry) -> (usize, u32) {
        let (len, hash, crc) =
            entry_format::encode(entry, self.shard, self.previous_hash, &mut self.buffer);
        self.previous_hash = hash;
        (len, crc.value())
    }
}

/// Where runs lie, all of them in memory.
#[derive(Debug, Default)]
pub struct Index(index::Index);

impl Index {
    /// Adds a run that apply has accepted, whose batches begin at log position `position`.
    pub fn add(&mut self, segment: u64, position: u64, run: &Run, log_time_ms: i64) {
        self.0.add(segment, run.key, RunPlace::new(run, position, log_time_ms));
    }

    /// Segment and log position of the run that holds `offset`, as a reader finds them.
    #[must_use]
    pub fn find(&self, key: PartitionKey, offset: Offset) -> Option<(u64, u64)> {
        let span = self.0.partition(key)?.span_at(offset)?;
        let Runs::Memory(runs) = &span.runs else { return None };
        let run = runs.get(index::find(runs, offset))?;
        Some((span.segment, run.position))
    }
}
