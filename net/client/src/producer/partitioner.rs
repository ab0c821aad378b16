//! Which partition a record goes to.
//!
//! Owns: what a key's hash chooses, and the turn of records without one. A key always lands where
//! Kafka's default partitioner would put it, so both kinds of clients agree on one topic; of a
//! topic with priorities it does so within the partitions of its level, which Kafka does not know.
//! Records without a key fill one batch after the other, partition by partition: large batches,
//! even load.
//! Must never: depend on time or on anything that differs between two runs.

use barrage_model::{PartitionId, Priorities, key_hash};

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
            Some(key) => key_hash(key),
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

#[cfg(test)]
mod tests {
    use super::*;

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
