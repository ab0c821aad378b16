//! Topics: create, alter, delete, list, describe.

use barrage_model::{Offset, Retention, TopicId};

use crate::field::fields;
use crate::metadata::PartitionRoute;

/// Make a topic. Answered with a [`TopicSummary`] when every partition takes records.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TopicCreate {
    /// Its name: 1 to 249 of `[a-zA-Z0-9._-]`.
    pub name: String,
    /// How many partitions; 0 takes the server's default.
    pub partitions: u32,
    /// How long records stay; `None` takes the server's default.
    pub retention: Option<Retention>,
    /// How many levels of priority, 1 to 10 and not more than partitions; 1 is none.
    pub priorities: u8,
}
fields!(TopicCreate { name, partitions, retention, priorities });

/// Change a topic. Answered with a [`TopicSummary`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TopicAlter {
    /// Which topic.
    pub name: String,
    /// More partitions than now; `None` leaves them.
    pub partitions: Option<u32>,
    /// How long records stay; `None` leaves it.
    pub retention: Option<Retention>,
}
fields!(TopicAlter { name, partitions, retention });

/// Remove a topic and its records. The reply is empty.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TopicDelete {
    /// Which topic.
    pub name: String,
}
fields!(TopicDelete { name });

/// Describe a topic. Answered with a [`TopicDescription`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TopicDescribe {
    /// Which topic.
    pub name: String,
}
fields!(TopicDescribe { name });

/// A topic in one line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TopicSummary {
    /// Its name.
    pub name: String,
    /// Its id; a topic made again under the same name has another.
    pub topic: TopicId,
    /// How many partitions.
    pub partitions: u32,
    /// How long records stay.
    pub retention: Retention,
    /// When it was made, milliseconds since 1970.
    pub created_ms: i64,
    /// How many levels of priority.
    pub priorities: u8,
}
fields!(TopicSummary { name, topic, partitions, retention, created_ms, priorities });

/// Every topic, by name.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TopicListReply {
    /// The topics.
    pub topics: Vec<TopicSummary>,
}
fields!(TopicListReply { topics });

/// One partition with its state.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PartitionDescription {
    /// Where it lives.
    pub route: PartitionRoute,
    /// First offset there is.
    pub start_offset: Offset,
    /// One past the last readable offset.
    pub high_watermark: Offset,
    /// Bytes of its batches on disk.
    pub bytes: u64,
}
fields!(PartitionDescription { route, start_offset, high_watermark, bytes });

/// A topic with its partitions, in order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TopicDescription {
    /// The topic.
    pub summary: TopicSummary,
    /// Its partitions.
    pub partitions: Vec<PartitionDescription>,
}
fields!(TopicDescription { summary, partitions });
