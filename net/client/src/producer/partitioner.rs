//! Which partition a record goes to.
//!
//! Owns: the hash of keys and the turn of records without one. A key always lands where Kafka's
//! default partitioner would put it, so both kinds of clients agree on one topic; of a topic with
//! priorities it does so within the partitions of its level, which Kafka does not know. Records
//! without a key fill one batch after the other, partition by partition: large batches, even load.
//! Must never: depend on time or on anything that differs between two runs.

use barrage_model::{PartitionId, Priorities};

/// The partitions of a topic, and the turns of records without a key.
#[derive(Debug)]
pub(crate) struct Partitioner {
    partitions: u32,
    priorities: Priorities,
    /// By level: which of its partitions is next.
    turns: [u32; Priorities::LEVELS_MAX as usize],
}

impl Partitioner {
    /// For a topic of so many partitions, at least one of each level.
    pub(crate) fn new(partitions: u32, priorities: Priorities) -> Self {
        let levels = u32::from(priorities.levels());
        assert!(partitions >= levels, "a topic has at least one partition of each level");
        Self { partitions, priorities, turns: Default::default() }
    }

    /// The partition for a record of a level; one above the highest is of that.
    pub(crate) fn choose(&self, key: Option<&[u8]>, level: u8) -> PartitionId {
        let level = level.min(self.priorities.levels() - 1);
        let count = self.priorities.count(level, self.partitions);
        let at = match key {
            Some(key) => murmur2(key).cast_unsigned() % MURMUR_SIGN,
            None => self.turns.get(usize::from(level)).copied().unwrap_or(0),
        };
        self.priorities.partition(level, at % count)
    }

    /// A batch of `partition` was sealed: records without a key go on to the next one of its level.
    pub(crate) fn handle_sealed(&mut self, partition: PartitionId) {
        let level = self.priorities.of(partition);
        let count = self.priorities.count(level, self.partitions);
        let Some(turn) = self.turns.get_mut(usize::from(level)) else { return };
        if self.priorities.partition(level, *turn) == partition {
            *turn = (*turn + 1) % count;
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
        let mut partitioner = Partitioner::new(4, Priorities::NONE);
        let keyed = partitioner.choose(Some(b"foobar"), 0);
        assert_eq!(keyed.0, (-790_332_482_i32 & 0x7fff_ffff).cast_unsigned() % 4);
        let mut seen = Vec::new();
        for _ in 0..5 {
            let partition = partitioner.choose(None, 0);
            assert_eq!(partitioner.choose(None, 0), partition, "stays until the batch is sealed");
            assert_eq!(partitioner.choose(Some(b"foobar"), 0), keyed);
            seen.push(partition.0);
            partitioner.handle_sealed(partition);
        }
        assert_eq!(seen, [0, 1, 2, 3, 0]);
    }

    #[test]
    fn a_level_keeps_to_its_partitions() {
        let mut partitioner = Partitioner::new(7, Priorities::new(3).unwrap());
        let mut turns = |level, count: usize| -> Vec<u32> {
            let turn = |_| {
                let partition = partitioner.choose(None, level);
                partitioner.handle_sealed(partition);
                partition.0
            };
            (0..count).map(turn).collect()
        };
        assert_eq!(turns(0, 4), [0, 3, 6, 0]);
        assert_eq!(turns(2, 3), [2, 5, 2]);
        assert_eq!(turns(9, 1), [5], "above the highest");
        assert_eq!(turns(1, 1), [1], "each has a turn of its own");
        let keyed: Vec<u32> = (0..3).map(|l| partitioner.choose(Some(b"foobar"), l).0).collect();
        assert_eq!(keyed.iter().map(|p| p % 3).collect::<Vec<_>>(), [0, 1, 2]);
    }

    #[test]
    fn a_sealed_batch_of_another_partition_does_not_take_the_turn() {
        let mut partitioner = Partitioner::new(4, Priorities::NONE);
        partitioner.handle_sealed(PartitionId(3));
        assert_eq!(partitioner.choose(None, 0), PartitionId(0));
    }
}
