//! Consumer groups: create, alter, delete, list.

use barrage_model::group::Order;
use barrage_model::{GroupId, TopicId};
use bytes::BytesMut;

use crate::field::{DecodeError, Field, Reader, fields};

/// What a queue group does with records.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GroupSettings {
    /// How long a record is leased where the consumer does not say, in milliseconds.
    pub visibility_ms: u64,
    /// After so many deliveries a record goes to the dead-letter topic; `None` means never.
    pub deliveries_max: Option<u16>,
    /// Records that came into their partition so many milliseconds ago are not delivered any more;
    /// `None` means that they always are.
    pub max_age_ms: Option<u64>,
    /// Where records go that were delivered too often or are too old: a topic's name.
    pub dead_letter: Option<String>,
    /// Wait before the next delivery: `10s`, `1s..5m` (doubling), `10s,30s,1m` or `rocketmq`.
    pub backoff: String,
    /// Which records it wants: `tags:new || sold`, `keys:stock.*.new` or `headers:price > 10`; all
    /// for `None`.
    pub filter: Option<String>,
    /// In which order its consumers get them; not beside a filter.
    pub order: Order,
}
fields!(GroupSettings {
    visibility_ms,
    deliveries_max,
    max_age_ms,
    dead_letter,
    backoff,
    filter,
    order
});

impl Field for Order {
    fn put(&self, out: &mut BytesMut) {
        match self {
            Self::None => 0_u8.put(out),
            Self::Key => 1_u8.put(out),
        }
    }

    fn take(reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
        match reader.take::<u8>()? {
            0 => Ok(Self::None),
            1 => Ok(Self::Key),
            value => Err(DecodeError::BadTag { what: "order", value: u32::from(value) }),
        }
    }

    fn size_min() -> usize {
        1
    }
}

/// How the readers of a new group share work.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NewGroup {
    /// Each record is leased, then settled alone.
    Queue {
        /// What the group does with records.
        settings: GroupSettings,
        /// It begins at the end of the partitions, not at their start.
        at_end: bool,
    },
    /// Each partition is read by one member, and an offset is stored for it. A group of this name
    /// on another topic becomes one of this topic, too.
    Stream,
}

impl Field for NewGroup {
    fn put(&self, out: &mut BytesMut) {
        match self {
            Self::Queue { settings, at_end } => {
                0_u8.put(out);
                settings.put(out);
                at_end.put(out);
            }
            Self::Stream => 1_u8.put(out),
        }
    }

    fn take(reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
        match reader.take::<u8>()? {
            0 => Ok(Self::Queue { settings: reader.take()?, at_end: reader.take()? }),
            1 => Ok(Self::Stream),
            value => Err(DecodeError::BadTag { what: "kind", value: u32::from(value) }),
        }
    }

    fn size_min() -> usize {
        1
    }
}

/// How the readers of a group share work.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum GroupKind {
    /// Each record is leased, then settled alone.
    Queue(GroupSettings),
    /// Each partition is read by one member, and an offset is stored for it.
    Stream {
        /// The names of all topics of the group.
        topics: Vec<String>,
    },
}

impl Field for GroupKind {
    fn put(&self, out: &mut BytesMut) {
        match self {
            Self::Queue(settings) => {
                0_u8.put(out);
                settings.put(out);
            }
            Self::Stream { topics } => {
                1_u8.put(out);
                topics.put(out);
            }
        }
    }

    fn take(reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
        match reader.take::<u8>()? {
            0 => Ok(Self::Queue(reader.take()?)),
            1 => Ok(Self::Stream { topics: reader.take()? }),
            value => Err(DecodeError::BadTag { what: "kind", value: u32::from(value) }),
        }
    }

    fn size_min() -> usize {
        1
    }
}

/// Make a group. Answered with a [`GroupSummary`] when every partition of a queue group has it, and
/// when a stream group has its coordinator.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GroupCreate {
    /// The topic's name.
    pub topic: String,
    /// The group's name: 1 to 249 of `[a-zA-Z0-9._~+%|:@-]`.
    pub name: String,
    /// What it shall be.
    pub kind: NewGroup,
}
fields!(GroupCreate { topic, name, kind });

/// Change a queue group. Answered with a [`GroupSummary`].
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

/// Remove a queue group, and what it has leased and settled; or take the topic out of a stream
/// group, which is gone with its last one. The reply is empty.
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
    /// What it is.
    pub kind: GroupKind,
    /// When it was made, milliseconds since 1970.
    pub created_ms: i64,
}
fields!(GroupSummary { name, group, kind, created_ms });

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
