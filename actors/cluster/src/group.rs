//! A consumer group as the catalog holds it: settings, and where it begins.
//!
//! Owns: the shape of a group. Must never: know what was leased or acked; the shards of its topic
//! know that.

use barrage_model::{GroupId, GroupName, PartitionId, QueueSettings};

/// A queue group of a topic.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Group {
    /// Never used again.
    pub id: GroupId,
    /// Its name, its own among the groups of the topic.
    pub name: GroupName,
    /// What it does with records.
    pub settings: QueueSettings,
    /// Partitions below this one begin where they ended when the group was made; the others, which
    /// came later, and all where this is 0, at their start.
    pub from_end: u32,
    /// Catalog revision of the last change.
    pub revision: u64,
    /// Log time of its creation in milliseconds since 1970.
    pub created_ms: i64,
}

impl Group {
    /// Whether a partition begins at its end.
    #[must_use]
    pub fn begins_at_end(&self, partition: PartitionId) -> bool {
        partition.0 < self.from_end
    }
}
