//! What the state of a replica comes to, so that the copies of a shard can be compared.
//!
//! Owns: that figure. Must never: depend on anything but the state that an entry left: two copies
//! that have applied the same entries have the same one.

use barrage_model::{LogIndex, ShardId};
use barrage_raft::Machine;
use crc32c::crc32c_append;

use crate::broker::Broker;
use crate::core::CATALOG_SHARD;

/// A replica's state behind an entry.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Fingerprint {
    /// The shard.
    pub shard: ShardId,
    /// The last entry that was applied, if any was.
    pub applied: Option<LogIndex>,
    /// The hash of the state then.
    pub state: u64,
}

impl Broker {
    /// The states of the replicas that are open on this core.
    pub fn fingerprints(&self) -> Vec<Fingerprint> {
        let shards = self.core.shards();
        let own = shards.iter().map(|shard| {
            let state = shard.group().with_machine(hash);
            let applied = shard.group().applied().map(|id| id.index);
            Fingerprint { shard: shard.id(), applied, state }
        });
        let catalog = self.core.catalog_shard.get().map(|catalog| {
            let state = catalog.group().with_machine(hash);
            let applied = catalog.group().applied().map(|id| id.index);
            Fingerprint { shard: CATALOG_SHARD, applied, state }
        });
        own.chain(catalog).collect()
    }
}

/// The hash of a machine's state.
pub(crate) fn hash<M: Machine>(machine: &M) -> u64 {
    hash_parts(machine.checkpoint())
}

/// The hash of a state in parts.
pub(crate) fn hash_parts(parts: impl Iterator<Item = Vec<u8>>) -> u64 {
    let (low, high) = parts.fold((0, 0), |(low, high), part| {
        let (front, back) = part.split_at(part.len() / 2);
        (crc32c_append(low, front), crc32c_append(high, back))
    });
    u64::from(low) << 32 | u64::from(high)
}
