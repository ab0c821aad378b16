//! Which partition a record goes to.
//!
//! Owns: the hash of keys and the turn of records without one. A key always lands where Kafka's
//! default partitioner would put it, so both kinds of clients agree on one topic. Records without
//! a key fill one batch after the other, partition by partition: large batches, even load.
//! Must never: depend on time or on anything that differs between two runs.

use barrage_model::PartitionId;

/// The turn of records without a key.
#[derive(Debug, Default)]
pub(crate) struct Partitioner {
    turn: u32,
}

impl Partitioner {
    /// The partition for a record; `partitions` must not be zero.
    pub(crate) fn choose(&self, key: Option<&[u8]>, partitions: u32) -> PartitionId {
        assert!(partitions > 0, "a topic has at least one partition");
        match key {
            Some(key) => PartitionId(murmur2(key).cast_unsigned() % MURMUR_SIGN % partitions),
            None => PartitionId(self.turn % partitions),
        }
    }

    /// A batch of `partition` was sealed: records without a key go on to the next partition.
    pub(crate) fn handle_sealed(&mut self, partition: PartitionId, partitions: u32) {
        if self.turn % partitions == partition.0 {
            self.turn = (partition.0 + 1) % partitions;
        }
    }
}

/// Kafka clears the sign bit: `hash & 0x7fff_ffff`, which is a remainder by this.
const MURMUR_SIGN: u32 = 0x8000_0000;

/// The 32-bit murmur2 hash with Kafka's seed.
pub(crate) fn murmur2(data: &[u8]) -> i32 {
    const SEED: u32 = 0x9747_b28c;
    const MIX: u32 = 0x5bd1_e995;
    const SHIFT: u32 = 24;
    let length = u32::try_from(data.len()).unwrap_or(u32::MAX);
    let mut hash = SEED ^ length;
    let (words, tail) = data.as_chunks::<4>();
    for word in words {
        let mut k = u32::from_le_bytes(*word).wrapping_mul(MIX);
        k ^= k >> SHIFT;
        hash = hash.wrapping_mul(MIX) ^ k.wrapping_mul(MIX);
    }
    if !tail.is_empty() {
        for (index, byte) in tail.iter().enumerate() {
            hash ^= u32::from(*byte) << (8 * index);
        }
        hash = hash.wrapping_mul(MIX);
    }
    hash ^= hash >> 13;
    hash = hash.wrapping_mul(MIX);
    hash ^= hash >> 15;
    hash.cast_signed()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn murmur2_gives_kafkas_published_values() {
        let table: &[(&[u8], i32)] = &[
            (b"21", -973_932_308),
            (b"foobar", -790_332_482),
            (b"a-little-bit-long-string", -985_981_536),
            (b"a-little-bit-longer-string", -1_486_304_829),
            (b"lkjh234lh9fiuh90y23oiuhsafujhadof229phr9h19h89h8", -58_897_971),
            (b"abc", 479_470_107),
        ];
        for (data, expected) in table {
            assert_eq!(murmur2(data), *expected, "hash of {}", data.escape_ascii());
        }
    }

    #[test]
    fn keys_stay_and_the_rest_takes_turns() {
        let mut partitioner = Partitioner::default();
        let keyed = partitioner.choose(Some(b"foobar"), 4);
        assert_eq!(keyed.0, (-790_332_482_i32 & 0x7fff_ffff).cast_unsigned() % 4);
        let mut seen = Vec::new();
        for _ in 0..5 {
            let partition = partitioner.choose(None, 4);
            assert_eq!(partitioner.choose(None, 4), partition, "stays until the batch is sealed");
            assert_eq!(partitioner.choose(Some(b"foobar"), 4), keyed);
            seen.push(partition.0);
            partitioner.handle_sealed(partition, 4);
        }
        assert_eq!(seen, [0, 1, 2, 3, 0]);
    }

    #[test]
    fn a_sealed_batch_of_another_partition_does_not_take_the_turn() {
        let mut partitioner = Partitioner::default();
        partitioner.handle_sealed(PartitionId(3), 4);
        assert_eq!(partitioner.choose(None, 4), PartitionId(0));
    }
}
