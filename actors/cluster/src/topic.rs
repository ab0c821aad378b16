//! A topic as the catalog holds it: settings, and for each partition where it lies.
//!
//! Owns: the shape of a topic. Must never: know whether a partition is open; its shard knows that.
//! Invariants: a topic has at least one partition, a partition at least one span; spans go by
//! offset.

use std::sync::Arc;

use barrage_model::limits::{GROUPS_PER_TOPIC_MAX, PARTITIONS_PER_TOPIC_MAX};
use barrage_model::{
    GroupId, Offset, PartitionId, PartitionKey, Priorities, Retention, ShardId, TopicId, TopicName,
    TopicOrder,
};

use crate::group::{Group, Groups};

/// From this offset on the partition lies on this shard.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Span {
    /// First offset on the shard.
    pub first_offset: Offset,
    /// The shard.
    pub shard: ShardId,
}

/// Where a partition lies, oldest span first: one until partitions move.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Partition {
    /// At least one.
    pub spans: Vec<Span>,
}

impl Partition {
    /// A partition that has always been on `shard`.
    pub fn on(shard: ShardId) -> Self {
        Self { spans: vec![Span { first_offset: Offset(0), shard }] }
    }

    /// The shard that takes new records.
    pub fn shard(&self) -> ShardId {
        self.spans.last().map_or(ShardId(0), |span| span.shard)
    }
}

/// A topic.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Topic {
    /// Never used again.
    pub id: TopicId,
    /// Its name.
    pub name: TopicName,
    /// Its partitions, by number.
    pub partitions: Vec<Partition>,
    /// How long records are kept.
    pub retention: Retention,
    /// Its levels; not more than it has partitions.
    pub priorities: Priorities,
    /// Who may write.
    pub order: TopicOrder,
    /// Its groups, by name.
    pub groups: Groups,
    /// Catalog revision of the last change of the topic; groups have their own.
    pub revision: u64,
    /// Log time of its creation in milliseconds since 1970.
    pub created_ms: i64,
}

impl Topic {
    /// The partitions with their keys and the shards that take their new records, by number.
    pub fn places(&self) -> impl Iterator<Item = (PartitionKey, ShardId)> {
        self.partitions.iter().zip(0_u32..).map(|(partition, number)| {
            (PartitionKey { topic: self.id, partition: PartitionId(number) }, partition.shard())
        })
    }

    /// Whether it has as many partitions as a topic may, each of them somewhere.
    pub(crate) fn is_sound(&self) -> bool {
        let count = self.partitions.len();
        (1..=PARTITIONS_PER_TOPIC_MAX as usize).contains(&count)
            && usize::from(self.priorities.levels()) <= count
            && self.order.allows(u32::try_from(count).unwrap_or(u32::MAX))
            && self.partitions.iter().all(|partition| {
                let offsets = partition.spans.iter().map(|span| span.first_offset);
                !partition.spans.is_empty() && offsets.is_sorted_by(|left, right| left < right)
            })
            && self.groups.len() <= GROUPS_PER_TOPIC_MAX
            && self.groups.iter().all(|group| group.settings.check(&self.name).is_ok())
    }

    /// A group by its id.
    pub fn group(&self, id: GroupId) -> Option<&Arc<Group>> {
        self.groups.iter().find(|group| group.id == id)
    }

    /// The shard that takes new records of a partition.
    pub fn shard_of(&self, partition: PartitionId) -> Option<ShardId> {
        self.partitions.get(usize::try_from(partition.0).ok()?).map(Partition::shard)
    }
}
