//! The commands that change the catalog, and their bytes.
//!
//! Owns: the command enum and its rkyv form, version 1, inside the envelope of `format`.
//! Must never: let a serialized type be a domain type; what is stored is converted at this border.
//! Invariants: variants of `CommandV1` are only ever appended, and none is larger than the largest
//! before it; a golden test holds the layout still.

use barrage_model::group::Order;
use barrage_model::{
    GroupName, NodeId, Priorities, QueueSettings, Retention, ShardId, TopicId, TopicName,
    TopicOrder,
};
use rkyv::{Archive, Deserialize, Serialize};

use crate::format::backoff::BackoffV1;
use crate::format::retention::RetentionV1;
use crate::format::{self, FormatError, Kind};
use crate::node::{Birth, Presence};

const VERSION: u8 = 3;

/// A change of the catalog.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Command {
    /// Names the cluster and fixes the number of data shards; the first one wins.
    Found {
        /// Identity of the cluster.
        cluster: String,
        /// How many data shards it has: 1..=shards.
        shards: u32,
    },
    /// The node that founds the cluster: it holds every shard.
    RegisterNode {
        /// The node.
        node: NodeId,
    },
    /// Makes a topic.
    CreateTopic {
        /// Its name.
        name: TopicName,
        /// How many partitions.
        partitions: u32,
        /// How long records are kept.
        retention: Retention,
        /// Its levels; not more than partitions.
        priorities: Priorities,
        /// Who may write.
        order: TopicOrder,
    },
    /// Changes a topic; `None` leaves a setting.
    AlterTopic {
        /// Its name.
        name: TopicName,
        /// A larger number of partitions.
        partitions: Option<u32>,
        /// How long records are kept.
        retention: Option<Retention>,
    },
    /// Deletes a topic: its name is free at once, its partitions are closed by their shards.
    DeleteTopic {
        /// Its name.
        name: TopicName,
    },
    /// Makes a queue group of a topic.
    CreateGroup {
        /// The topic's name.
        topic: TopicName,
        /// The group's name.
        name: GroupName,
        /// What it does with records.
        settings: QueueSettings,
        /// It begins at the end of the partitions there are, not at their start.
        at_end: bool,
    },
    /// Changes a group.
    AlterGroup {
        /// The topic's name.
        topic: TopicName,
        /// The group's name.
        name: GroupName,
        /// All of its settings.
        settings: QueueSettings,
    },
    /// Deletes a queue group, with what it has leased and acked; or takes the topic out of a stream
    /// group, which is gone with its last one.
    DeleteGroup {
        /// The topic's name.
        topic: TopicName,
        /// The group's name.
        name: GroupName,
    },
    /// Makes a stream group of a topic, or takes the topic into the stream group of this name.
    CreateStream {
        /// The topic's name.
        topic: TopicName,
        /// The group's name.
        name: GroupName,
    },
    /// Every shard has closed the partitions of a deleted topic.
    ForgetTopic {
        /// The topic.
        topic: TopicId,
    },
    /// Gives out a block of producer ids.
    AllocateProducers {
        /// How many.
        count: u32,
    },
    /// A node becomes a member; asked again it is told the same id.
    Join {
        /// What tells it from others.
        birth: Birth,
        /// How to reach it.
        presence: Presence,
    },
    /// A member tells how it is reached now.
    Announce {
        /// The member.
        node: NodeId,
        /// How to reach it.
        presence: Presence,
    },
    /// A member is to be emptied.
    Leave {
        /// The member.
        node: NodeId,
    },
    /// A member is not to be emptied after all.
    Stay {
        /// The member.
        node: NodeId,
    },
    /// A member that holds nothing is forgotten, for ever.
    Remove {
        /// The member.
        node: NodeId,
    },
    /// These nodes hold these shards from now on; the first of each is to lead it.
    Assign {
        /// Shard and holders.
        shards: Vec<(ShardId, Vec<NodeId>)>,
    },
    /// This many copies are kept of every shard.
    SetCopies {
        /// 1, 3 or 5.
        wanted: u8,
    },
    /// Everything up to this format level may be written from now on.
    RaiseLevel {
        /// The level.
        level: u32,
    },
}

#[derive(Archive, Serialize, Deserialize)]
struct PresenceV1 {
    peer: String,
    client: String,
    level: u32,
}

/// How a group's settings are stored, here and in checkpoints.
#[derive(Archive, Serialize, Deserialize)]
pub(crate) struct SettingsV1 {
    visibility_ms: u64,
    deliveries_max: Option<u16>,
    max_age_ms: Option<u64>,
    dead_letter: Option<String>,
    backoff: BackoffV1,
    filter: Option<String>,
    by_key: bool,
}

/// What a topic is like.
#[derive(Archive, Serialize, Deserialize)]
struct ShapeV1 {
    retention: RetentionV1,
    priorities: u8,
    is_global: bool,
}

#[derive(Archive, Serialize, Deserialize)]
enum CommandV1 {
    Found { cluster: String, shards: u32 },
    RegisterNode { node: u64 },
    CreateTopic { name: String, partitions: u32, shape: Box<ShapeV1> },
    AlterTopic { name: String, partitions: Option<u32>, retention: Option<Box<RetentionV1>> },
    DeleteTopic { name: String },
    ForgetTopic { topic: u64 },
    AllocateProducers { count: u32 },
    Join { birth: u128, presence: PresenceV1 },
    Announce { node: u64, presence: PresenceV1 },
    Leave { node: u64 },
    Stay { node: u64 },
    Remove { node: u64 },
    Assign { shards: Vec<(u32, Vec<u64>)> },
    SetCopies { wanted: u8 },
    RaiseLevel { level: u32 },
    CreateGroup { topic: String, name: String, settings: Box<SettingsV1>, at_end: bool },
    AlterGroup { topic: String, name: String, settings: Box<SettingsV1> },
    DeleteGroup { topic: String, name: String },
    CreateStream { topic: String, name: String },
}

/// A command's root lies at the end of its bytes: a larger one would move, and no older command
/// could be read. So what a new variant has beyond this goes into a box or a list.
const _: () = assert!(size_of::<ArchivedCommandV1>() == 37);

impl From<QueueSettings> for SettingsV1 {
    fn from(settings: QueueSettings) -> Self {
        Self {
            visibility_ms: settings.visibility_ms,
            deliveries_max: settings.deliveries_max,
            max_age_ms: settings.max_age_ms,
            dead_letter: settings.dead_letter.map(|topic| topic.to_string()),
            backoff: settings.backoff.into(),
            filter: settings.filter,
            by_key: settings.order == Order::Key,
        }
    }
}

impl TryFrom<SettingsV1> for QueueSettings {
    type Error = FormatError;

    fn try_from(stored: SettingsV1) -> Result<Self, FormatError> {
        let dead_letter = stored.dead_letter.as_deref().map(TopicName::parse).transpose();
        Ok(Self {
            visibility_ms: stored.visibility_ms,
            deliveries_max: stored.deliveries_max,
            max_age_ms: stored.max_age_ms,
            dead_letter: dead_letter.map_err(|_| FormatError::Content)?,
            backoff: stored.backoff.into(),
            filter: stored.filter,
            order: if stored.by_key { Order::Key } else { Order::None },
        })
    }
}

impl From<Presence> for PresenceV1 {
    fn from(presence: Presence) -> Self {
        let Presence { peer, client, level } = presence;
        Self { peer, client, level }
    }
}

impl From<PresenceV1> for Presence {
    fn from(stored: PresenceV1) -> Self {
        let PresenceV1 { peer, client, level } = stored;
        Self { peer, client, level }
    }
}

impl Command {
    /// The command as bytes.
    pub fn encode(&self) -> Vec<u8> {
        let stored = match self.clone() {
            Self::Found { cluster, shards } => CommandV1::Found { cluster, shards },
            Self::RegisterNode { node } => CommandV1::RegisterNode { node: node.0 },
            Self::CreateTopic { name, partitions, retention, priorities, order } => {
                CommandV1::CreateTopic {
                    name: name.to_string(),
                    partitions,
                    shape: Box::new(ShapeV1 {
                        retention: retention.into(),
                        priorities: priorities.levels(),
                        is_global: order.is_global(),
                    }),
                }
            }
            Self::AlterTopic { name, partitions, retention } => CommandV1::AlterTopic {
                name: name.to_string(),
                partitions,
                retention: retention.map(|retention| Box::new(retention.into())),
            },
            Self::DeleteTopic { name } => CommandV1::DeleteTopic { name: name.to_string() },
            Self::ForgetTopic { topic } => CommandV1::ForgetTopic { topic: topic.0 },
            Self::AllocateProducers { count } => CommandV1::AllocateProducers { count },
            Self::Join { birth, presence } => {
                CommandV1::Join { birth: birth.0, presence: presence.into() }
            }
            Self::Announce { node, presence } => {
                CommandV1::Announce { node: node.0, presence: presence.into() }
            }
            Self::Leave { node } => CommandV1::Leave { node: node.0 },
            Self::Stay { node } => CommandV1::Stay { node: node.0 },
            Self::Remove { node } => CommandV1::Remove { node: node.0 },
            Self::Assign { shards } => {
                let ids = |nodes: Vec<NodeId>| nodes.into_iter().map(|node| node.0).collect();
                let shards = shards.into_iter().map(|(shard, nodes)| (shard.0, ids(nodes)));
                CommandV1::Assign { shards: shards.collect() }
            }
            Self::SetCopies { wanted } => CommandV1::SetCopies { wanted },
            Self::RaiseLevel { level } => CommandV1::RaiseLevel { level },
            Self::CreateGroup { topic, name, settings, at_end } => CommandV1::CreateGroup {
                topic: topic.to_string(),
                name: name.to_string(),
                settings: Box::new(settings.into()),
                at_end,
            },
            Self::AlterGroup { topic, name, settings } => CommandV1::AlterGroup {
                topic: topic.to_string(),
                name: name.to_string(),
                settings: Box::new(settings.into()),
            },
            Self::DeleteGroup { topic, name } => {
                CommandV1::DeleteGroup { topic: topic.to_string(), name: name.to_string() }
            }
            Self::CreateStream { topic, name } => {
                CommandV1::CreateStream { topic: topic.to_string(), name: name.to_string() }
            }
        };
        format::seal(Kind::CatalogCommand, VERSION, &stored)
    }

    /// The command in `bytes`.
    pub fn decode(bytes: &[u8]) -> Result<Self, FormatError> {
        let (version, payload) = format::open(Kind::CatalogCommand, bytes)?;
        if version != VERSION {
            return Err(FormatError::Version { found: version });
        }
        let topic_name = |name: String| TopicName::parse(&name).map_err(|_| FormatError::Content);
        let group_name = |name: String| GroupName::parse(&name).map_err(|_| FormatError::Content);
        Ok(match format::decode::<CommandV1>(payload)? {
            CommandV1::Found { cluster, shards } => Self::Found { cluster, shards },
            CommandV1::RegisterNode { node } => Self::RegisterNode { node: NodeId(node) },
            CommandV1::CreateTopic { name, partitions, shape } => {
                let ShapeV1 { retention, priorities, is_global } = *shape;
                Self::CreateTopic {
                    name: topic_name(name)?,
                    partitions,
                    retention: retention.into(),
                    order: TopicOrder::of(is_global),
                    priorities: Priorities::new(priorities).ok_or(FormatError::Content)?,
                }
            }
            CommandV1::AlterTopic { name, partitions, retention } => Self::AlterTopic {
                name: topic_name(name)?,
                partitions,
                retention: retention.map(|retention| (*retention).into()),
            },
            CommandV1::DeleteTopic { name } => Self::DeleteTopic { name: topic_name(name)? },
            CommandV1::ForgetTopic { topic } => Self::ForgetTopic { topic: TopicId(topic) },
            CommandV1::AllocateProducers { count } => Self::AllocateProducers { count },
            CommandV1::Join { birth, presence } => {
                Self::Join { birth: Birth(birth), presence: presence.into() }
            }
            CommandV1::Announce { node, presence } => {
                Self::Announce { node: NodeId(node), presence: presence.into() }
            }
            CommandV1::Leave { node } => Self::Leave { node: NodeId(node) },
            CommandV1::Stay { node } => Self::Stay { node: NodeId(node) },
            CommandV1::Remove { node } => Self::Remove { node: NodeId(node) },
            CommandV1::Assign { shards } => {
                let nodes = |ids: Vec<u64>| ids.into_iter().map(NodeId).collect();
                let shards = shards.into_iter().map(|(shard, ids)| (ShardId(shard), nodes(ids)));
                Self::Assign { shards: shards.collect() }
            }
            CommandV1::SetCopies { wanted } => Self::SetCopies { wanted },
            CommandV1::RaiseLevel { level } => Self::RaiseLevel { level },
            CommandV1::CreateGroup { topic, name, settings, at_end } => Self::CreateGroup {
                topic: topic_name(topic)?,
                name: group_name(name)?,
                settings: (*settings).try_into()?,
                at_end,
            },
            CommandV1::AlterGroup { topic, name, settings } => Self::AlterGroup {
                topic: topic_name(topic)?,
                name: group_name(name)?,
                settings: (*settings).try_into()?,
            },
            CommandV1::DeleteGroup { topic, name } => {
                Self::DeleteGroup { topic: topic_name(topic)?, name: group_name(name)? }
            }
            CommandV1::CreateStream { topic, name } => {
                Self::CreateStream { topic: topic_name(topic)?, name: group_name(name)? }
            }
        })
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests fail by panicking")]
    #![allow(clippy::indexing_slicing, reason = "tests fail by panicking")]

    use super::*;
    use barrage_model::Backoff;

    fn name(text: &str) -> TopicName {
        TopicName::parse(text).unwrap()
    }

    fn presence() -> Presence {
        Presence { peer: "a:7500".to_owned(), client: "a:7400".to_owned(), level: 1 }
    }

    fn settings(backoff: Backoff) -> QueueSettings {
        QueueSettings {
            visibility_ms: 5_000,
            deliveries_max: Some(16),
            max_age_ms: Some(7),
            dead_letter: Some(name("dead")),
            backoff,
            filter: Some("tags:new || sold".to_owned()),
            order: Order::None,
        }
    }

    fn all() -> Vec<Command> {
        vec![
            Command::Found { cluster: "c".repeat(32), shards: 2 },
            Command::RegisterNode { node: NodeId(1) },
            Command::CreateTopic {
                name: name("orders"),
                partitions: 4,
                retention: Retention { time_ms: Some(1), ..Retention::UNLIMITED },
                priorities: Priorities::new(3).unwrap_or_default(),
                order: TopicOrder::Global,
            },
            Command::AlterTopic {
                name: name("orders"),
                partitions: Some(8),
                retention: Some(Retention::UNLIMITED),
            },
            Command::DeleteTopic { name: name("orders") },
            Command::ForgetTopic { topic: TopicId(9) },
            Command::AllocateProducers { count: 1000 },
            Command::Join { birth: Birth(u128::MAX - 1), presence: presence() },
            Command::Announce { node: NodeId(2), presence: presence() },
            Command::Leave { node: NodeId(2) },
            Command::Stay { node: NodeId(2) },
            Command::Remove { node: NodeId(2) },
            Command::Assign { shards: vec![(ShardId(1), vec![NodeId(3), NodeId(1), NodeId(2)])] },
            Command::SetCopies { wanted: 5 },
            Command::RaiseLevel { level: 2 },
            Command::CreateGroup {
                topic: name("orders"),
                name: GroupName::parse("pay").unwrap(),
                settings: settings(Backoff::rocketmq()),
                at_end: true,
            },
            Command::AlterGroup {
                topic: name("orders"),
                name: GroupName::parse("pay").unwrap(),
                settings: settings(Backoff::Exponential { first_ms: 1, ms_max: 9 }),
            },
            Command::DeleteGroup { topic: name("orders"), name: GroupName::parse("pay").unwrap() },
            Command::CreateStream { topic: name("orders"), name: GroupName::parse("pay").unwrap() },
        ]
    }

    #[test]
    fn every_command_survives_the_round_trip() {
        for command in all() {
            assert_eq!(Command::decode(&command.encode()).unwrap(), command);
        }
    }

    #[test]
    fn golden_bytes() {
        let bytes = Command::ForgetTopic { topic: TopicId(0x0102) }.encode();
        assert_eq!(&bytes[..4], &[1, 3, 0, 0]);
        // Tag 5, then the fields of the variant; the rest of the largest variant's room is zero.
        assert_eq!(&bytes[12..21], &[5, 2, 1, 0, 0, 0, 0, 0, 0]);
        assert!(bytes[21..].iter().all(|byte| *byte == 0));
    }

    #[test]
    fn corrupt_bytes_are_errors() {
        for command in all() {
            let bytes = command.encode();
            for at in 0..bytes.len() {
                let mut broken = bytes.clone();
                broken[at] ^= 0x40;
                assert!(Command::decode(&broken).is_err());
                assert!(Command::decode(&bytes[..at]).is_err());
            }
        }
    }

    #[test]
    fn a_bad_name_or_version_is_refused() {
        let stored = CommandV1::DeleteTopic { name: "a/b".to_owned() };
        let bytes = format::seal(Kind::CatalogCommand, VERSION, &stored);
        assert_eq!(Command::decode(&bytes), Err(FormatError::Content));
        let bytes = format::seal(Kind::CatalogCommand, VERSION + 1, &stored);
        assert_eq!(Command::decode(&bytes), Err(FormatError::Version { found: VERSION + 1 }));
    }
}
