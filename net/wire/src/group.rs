//! Consumer groups: create, alter, delete, list.

use barrage_model::{GroupId, TopicId};

use crate::field::fields;

/// What a queue group does with records.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GroupSettings {
    /// How long a record is leased where the consumer does not say, in milliseconds.
    pub visibility_ms: u64,
    /// After so many deliveries a record goes to the dead-letter topic; `None` means never.
    pub deliveries_max: Option<u16>,
    /// Where those records go: a topic's name.
    pub dead_letter: Option<String>,
    /// Wait before the next delivery: `10s`, `1s..5m` (doubling), `10s,30s,1m` or `rocketmq`.
    pub backoff: String,
}
fields!(GroupSettings { visibility_ms, deliveries_max, dead_letter, backoff });

/// Make a queue group. Answered with a [`GroupSummary`] when every partition has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GroupCreate {
    /// The topic's name.
    pub topic: String,
    /// The group's name: 1 to 249 of `[a-zA-Z0-9._~+%|:@-]`.
    pub name: String,
    /// What it does with records.
    pub settings: GroupSettings,
    /// It begins at the end of the partitions, not at their start.
    pub at_end: bool,
}
fields!(GroupCreate { topic, name, settings, at_end });

/// Change a group. Answered with a [`GroupSummary`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GroupAlter {
    /// The topic's name.
    pub topic: String,
    /// The group's name.
    pub name: String,
    /// All of its settings.
    pub settings: GroupSettings,
}
fields!(GroupAlter { topic, name, settings });

/// Remove a group, and what it has leased and settled. The reply is empty.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GroupDelete {
    /// The topic's name.
    pub topic: String,
    /// The group's name.
    pub name: String,
}
fields!(GroupDelete { topic, name });

/// List the groups of a topic. Answered with a [`GroupListReply`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GroupList {
    /// The topic's name.
    pub topic: String,
}
fields!(GroupList { topic });

/// A group in one line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GroupSummary {
    /// Its name.
    pub name: String,
    /// Its id; a group made again under the same name has another.
    pub group: GroupId,
    /// What it does with records.
    pub settings: GroupSettings,
    /// When it was made, milliseconds since 1970.
    pub created_ms: i64,
}
fields!(GroupSummary { name, group, settings, created_ms });

/// The groups of a topic, by name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GroupListReply {
    /// The topic's id.
    pub topic: TopicId,
    /// How many partitions it has.
    pub partitions: u32,
    /// Its groups.
    pub groups: Vec<GroupSummary>,
}
fields!(GroupListReply { topic, partitions, groups });
