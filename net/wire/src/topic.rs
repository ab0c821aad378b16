//! Topics: create, alter, delete, list, describe.

use barrage_model::{Offset, Retention, TopicId, TopicOrder};
use bytes::BytesMut;

use crate::field::{DecodeError, Field, Reader, fields};
use crate::metadata::PartitionRoute;

impl Field for TopicOrder {
    fn put(&self, out: &mut BytesMut) {
        match self {
            Self::Partition => 0_u8.put(out),
            Self::Global => 1_u8.put(out),
        }
    }

    fn take(reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
        match reader.take::<u8>()? {
            0 => Ok(Self::Partition),
            1 => Ok(Self::Global),
            value => Err(DecodeError::BadTag { what: "topic order", value: u32::from(value) }),
        }
    }

    fn size_min() -> usize {
        1
    }
}

/// Make a topic. Answered with a [`TopicSummary`] when every partition takes records.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TopicCreate {
    /// Its name: 1 to 249 of `[a-zA-Z0-9._-]`.
    pub name: String,
    /// How many partitions; 0 takes the server's default, and 1 where the order is global.
    pub partitions: u32,
    /// How long records stay; `None` takes the server's default.
    pub retention: Option<Retention>,
    /// How many levels of priority, 1 to 10 and not more than partitions; 1 is none.
    pub priorities: u8,
    /// Who may write.
    pub order: TopicOrder,
}
fields!(TopicCreate { name, partitions, retention, priorities, order });

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
    /// Who may write.
    pub order: TopicOrder,
}
fields!(TopicSummary { name, topic, partitions, retention, created_ms, priorities, order });

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
