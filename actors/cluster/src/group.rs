//! A consumer group as the catalog holds it: settings, and where it begins.
//!
//! Owns: the shape of a group. Must never: know what was leased or acked; the shards of its topic
//! know that.

use std::collections::BTreeMap;
use std::sync::Arc;

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
    /// What it costs the shards of its topic for each partition, in groups without a filter.
    #[must_use]
    pub fn weight(&self) -> u64 {
        weight(&self.settings)
    }

    /// Whether a partition begins at its end.
    #[must_use]
    pub fn begins_at_end(&self, partition: PartitionId) -> bool {
        partition.0 < self.from_end
    }
}

/// What a shard keeps of a group without a filter for each partition, in bytes, about.
const GROUP_BYTES: u64 = 400;

/// What a group with these settings costs: see [`Group::weight`].
pub(crate) fn weight(settings: &QueueSettings) -> u64 {
    let filter_bytes = settings.filter.as_ref().map_or(0, String::len) as u64;
    1 + filter_bytes.div_ceil(GROUP_BYTES)
}

/// The groups of a topic, by name. There may be very many topics, and most have none: that costs a
/// pointer.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Groups(Option<Arc<BTreeMap<GroupName, Arc<Group>>>>);

impl Groups {
    /// A group by its name.
    pub fn get(&self, name: &GroupName) -> Option<&Arc<Group>> {
        self.0.as_ref()?.get(name)
    }

    /// All of them, by name.
    pub fn iter(&self) -> impl Iterator<Item = &Arc<Group>> {
        self.0.iter().flat_map(|groups| groups.values())
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.0.as_ref().map_or(0, |groups| groups.len())
    }

    /// What they cost together: see [`Group::weight`].
    pub fn weight(&self) -> u64 {
        self.iter().map(|group| group.weight()).sum()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_none()
    }

    pub(crate) fn insert(&mut self, group: Group) {
        let groups = Arc::make_mut(self.0.get_or_insert_default());
        groups.insert(group.name.clone(), Arc::new(group));
    }

    pub(crate) fn remove(&mut self, name: &GroupName) -> Option<Arc<Group>> {
        let groups = Arc::make_mut(self.0.as_mut()?);
        let removed = groups.remove(name);
        if groups.is_empty() {
            self.0 = None;
        }
        removed
    }
}
