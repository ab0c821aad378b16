//! Every request in one enum: opcode and version choose the message, the message reads its fields.

use bytes::{BufMut, BytesMut};

use crate::cluster::ClusterChange;
use crate::delay::{DelayChange, DelayList, ProduceDelayed};
use crate::error::ErrorCode;
use crate::fetch::FetchRequest;
use crate::field::{DecodeError, Field, Reader};
use crate::frame::{Correlation, FrameHeader, finish_frame, start_frame};
use crate::group::{GroupAlter, GroupCreate, GroupDelete, GroupList};
use crate::hello::Hello;
use crate::metadata::MetadataRequest;
use crate::offset::ListOffsetRequest;
use crate::opcode::Opcode;
use crate::produce::ProduceRequest;
use crate::producer::ProducerClaim;
use crate::queue::{QueueCounts, QueuePeek, QueueReceive, QueueSeek, QueueSettle};
use crate::stream::{
    StreamCommit, StreamDescribe, StreamHeartbeat, StreamLeave, StreamOffsets, StreamReset,
};
use crate::topic::{TopicAlter, TopicCreate, TopicDelete, TopicDescribe};

/// What a client asks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Request<'a> {
    /// Handshake.
    Hello(Hello),
    /// Are you there.
    Ping,
    /// Where partitions live.
    Metadata(MetadataRequest),
    /// Counters.
    Stats,
    /// Append a batch.
    Produce(ProduceRequest<'a>),
    /// Read batches.
    Fetch(FetchRequest),
    /// An offset.
    ListOffset(ListOffsetRequest),
    /// A producer id.
    InitProducer,
    /// Store one batch until its records are due.
    ProduceDelayed(ProduceDelayed<'a>),
    /// Cancel or move delayed records.
    DelayChange(DelayChange),
    /// The delayed records of a partition.
    DelayList(DelayList),
    /// See [`ProducerClaim`].
    ProducerClaim(ProducerClaim),
    /// Make a topic.
    TopicCreate(TopicCreate),
    /// Change a topic.
    TopicAlter(TopicAlter),
    /// Remove a topic.
    TopicDelete(TopicDelete),
    /// All topics.
    TopicList,
    /// One topic.
    TopicDescribe(TopicDescribe),
    /// The cluster.
    ClusterDescribe,
    /// Change the cluster.
    ClusterChange(ClusterChange),
    /// Make a queue group of a topic.
    GroupCreate(GroupCreate),
    /// Change a group.
    GroupAlter(GroupAlter),
    /// Remove a group.
    GroupDelete(GroupDelete),
    /// The groups of a topic.
    GroupList(GroupList),
    /// Lease records of one partition.
    QueueReceive(QueueReceive),
    /// Settle leases.
    QueueSettle(QueueSettle),
    /// What could be leased, without leasing it.
    QueuePeek(QueuePeek),
    /// Move what a group has before it.
    QueueSeek(QueueSeek),
    /// How many records wait for what.
    QueueCounts(QueueCounts),
    /// A member comes, or is there.
    StreamHeartbeat(StreamHeartbeat),
    /// A member goes.
    StreamLeave(StreamLeave),
    /// Store offsets.
    StreamCommit(StreamCommit),
    /// Stored offsets.
    StreamOffsets(StreamOffsets),
    /// Set offsets.
    StreamReset(StreamReset),
    /// Members and offsets.
    StreamDescribe(StreamDescribe),
}

/// Why a frame is no request. The connection can go on: the frame's end is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RequestError {
    /// No such opcode.
    #[error("opcode {opcode} is unknown")]
    UnknownOpcode {
        /// What stood there.
        opcode: u16,
    },
    /// Not a version of that request that this build speaks.
    #[error("{opcode:?} has version {}, not {version}", Opcode::VERSION)]
    UnsupportedVersion {
        /// The request.
        opcode: Opcode,
        /// What stood there.
        version: u16,
    },
    /// The body is not the message.
    #[error("{opcode:?} is malformed: {error}")]
    Malformed {
        /// The request.
        opcode: Opcode,
        /// What is wrong.
        error: DecodeError,
    },
}

impl RequestError {
    /// The code to answer with.
    #[must_use]
    pub const fn code(&self) -> ErrorCode {
        match self {
            Self::UnknownOpcode { .. } => ErrorCode::UnknownOpcode,
            Self::UnsupportedVersion { .. } => ErrorCode::UnsupportedVersion,
            Self::Malformed { .. } => ErrorCode::Malformed,
        }
    }
}

impl<'a> Request<'a> {
    /// Which request this is.
    #[must_use]
    pub const fn opcode(&self) -> Opcode {
        match self {
            Self::Hello(_) => Opcode::Hello,
            Self::Ping => Opcode::Ping,
            Self::Metadata(_) => Opcode::Metadata,
            Self::Stats => Opcode::Stats,
            Self::Produce(_) => Opcode::Produce,
            Self::Fetch(_) => Opcode::Fetch,
            Self::ListOffset(_) => Opcode::ListOffset,
            Self::InitProducer => Opcode::InitProducer,
            Self::ProduceDelayed(_) => Opcode::ProduceDelayed,
            Self::DelayChange(_) => Opcode::DelayChange,
            Self::DelayList(_) => Opcode::DelayList,
            Self::ProducerClaim(_) => Opcode::ProducerClaim,
            Self::TopicCreate(_) => Opcode::TopicCreate,
            Self::TopicAlter(_) => Opcode::TopicAlter,
            Self::TopicDelete(_) => Opcode::TopicDelete,
            Self::TopicList => Opcode::TopicList,
            Self::TopicDescribe(_) => Opcode::TopicDescribe,
            Self::ClusterDescribe => Opcode::ClusterDescribe,
            Self::ClusterChange(_) => Opcode::ClusterChange,
            Self::GroupCreate(_) => Opcode::GroupCreate,
            Self::GroupAlter(_) => Opcode::GroupAlter,
            Self::GroupDelete(_) => Opcode::GroupDelete,
            Self::GroupList(_) => Opcode::GroupList,
            Self::QueueReceive(_) => Opcode::QueueReceive,
            Self::QueueSettle(_) => Opcode::QueueSettle,
            Self::QueuePeek(_) => Opcode::QueuePeek,
            Self::QueueSeek(_) => Opcode::QueueSeek,
            Self::QueueCounts(_) => Opcode::QueueCounts,
            Self::StreamHeartbeat(_) => Opcode::StreamHeartbeat,
            Self::StreamLeave(_) => Opcode::StreamLeave,
            Self::StreamCommit(_) => Opcode::StreamCommit,
            Self::StreamOffsets(_) => Opcode::StreamOffsets,
            Self::StreamReset(_) => Opcode::StreamReset,
            Self::StreamDescribe(_) => Opcode::StreamDescribe,
        }
    }

    /// Appends the whole frame.
    pub fn encode(&self, correlation: Correlation, out: &mut BytesMut) {
        if let Self::Produce(produce) = self {
            produce.encode_head(correlation, out);
            out.put_slice(produce.batch);
            return;
        }
        if let Self::ProduceDelayed(produce) = self {
            produce.encode_head(correlation, out);
            out.put_slice(produce.batch);
            return;
        }
        let at = start_frame(self.opcode().request_code(), Opcode::VERSION, correlation, out);
        match self {
            Self::Hello(body) => body.put(out),
            Self::Metadata(body) => body.put(out),
            Self::Fetch(body) => body.put(out),
            Self::ListOffset(body) => body.put(out),
            Self::DelayChange(body) => body.put(out),
            Self::DelayList(body) => body.put(out),
            Self::ProducerClaim(body) => body.put(out),
            Self::TopicCreate(body) => body.put(out),
            Self::TopicAlter(body) => body.put(out),
            Self::TopicDelete(body) => body.put(out),
            Self::TopicDescribe(body) => body.put(out),
            Self::ClusterChange(body) => body.put(out),
            Self::GroupCreate(body) => body.put(out),
            Self::GroupAlter(body) => body.put(out),
            Self::GroupDelete(body) => body.put(out),
            Self::GroupList(body) => body.put(out),
            Self::QueueReceive(body) => body.put(out),
            Self::QueueSettle(body) => body.put(out),
            Self::QueuePeek(body) => body.put(out),
            Self::QueueSeek(body) => body.put(out),
            Self::QueueCounts(body) => body.put(out),
            Self::StreamHeartbeat(body) => body.put(out),
            Self::StreamLeave(body) => body.put(out),
            Self::StreamCommit(body) => body.put(out),
            Self::StreamOffsets(body) => body.put(out),
            Self::StreamReset(body) => body.put(out),
            Self::StreamDescribe(body) => body.put(out),
            Self::Ping
            | Self::Stats
            | Self::InitProducer
            | Self::TopicList
            | Self::ClusterDescribe
            | Self::Produce(_)
            | Self::ProduceDelayed(_) => {}
        }
        finish_frame(at, out);
    }

    /// Reads the request of a frame.
    pub fn decode(header: &FrameHeader, body: &'a [u8]) -> Result<Self, RequestError> {
        let Some(opcode) = Opcode::from_request(header.opcode) else {
            return Err(RequestError::UnknownOpcode { opcode: header.opcode });
        };
        if header.detail != Opcode::VERSION {
            return Err(RequestError::UnsupportedVersion { opcode, version: header.detail });
        }
        Self::decode_body(opcode, body).map_err(|error| RequestError::Malformed { opcode, error })
    }

    fn decode_body(opcode: Opcode, body: &'a [u8]) -> Result<Self, DecodeError> {
        let mut reader = Reader::new(body);
        let request = match opcode {
            Opcode::Hello => Self::Hello(reader.take()?),
            Opcode::Ping => Self::Ping,
            Opcode::Metadata => Self::Metadata(reader.take()?),
            Opcode::Stats => Self::Stats,
            Opcode::Produce => return ProduceRequest::decode(body).map(Self::Produce),
            Opcode::Fetch => Self::Fetch(reader.take()?),
            Opcode::ListOffset => Self::ListOffset(reader.take()?),
            Opcode::InitProducer => Self::InitProducer,
            Opcode::ProduceDelayed => {
                return ProduceDelayed::decode(body).map(Self::ProduceDelayed);
            }
            Opcode::DelayChange => Self::DelayChange(reader.take()?),
            Opcode::DelayList => Self::DelayList(reader.take()?),
            Opcode::ProducerClaim => Self::ProducerClaim(reader.take()?),
            Opcode::TopicCreate => Self::TopicCreate(reader.take()?),
            Opcode::TopicAlter => Self::TopicAlter(reader.take()?),
            Opcode::TopicDelete => Self::TopicDelete(reader.take()?),
            Opcode::TopicList => Self::TopicList,
            Opcode::TopicDescribe => Self::TopicDescribe(reader.take()?),
            Opcode::ClusterDescribe => Self::ClusterDescribe,
            Opcode::ClusterChange => Self::ClusterChange(reader.take()?),
            Opcode::GroupCreate => Self::GroupCreate(reader.take()?),
            Opcode::GroupAlter => Self::GroupAlter(reader.take()?),
            Opcode::GroupDelete => Self::GroupDelete(reader.take()?),
            Opcode::GroupList => Self::GroupList(reader.take()?),
            Opcode::QueueReceive => Self::QueueReceive(reader.take()?),
            Opcode::QueueSettle => Self::QueueSettle(reader.take()?),
            Opcode::QueuePeek => Self::QueuePeek(reader.take()?),
            Opcode::QueueSeek => Self::QueueSeek(reader.take()?),
            Opcode::QueueCounts => Self::QueueCounts(reader.take()?),
            Opcode::StreamHeartbeat => Self::StreamHeartbeat(reader.take()?),
            Opcode::StreamLeave => Self::StreamLeave(reader.take()?),
            Opcode::StreamCommit => Self::StreamCommit(reader.take()?),
            Opcode::StreamOffsets => Self::StreamOffsets(reader.take()?),
            Opcode::StreamReset => Self::StreamReset(reader.take()?),
            Opcode::StreamDescribe => Self::StreamDescribe(reader.take()?),
        };
        reader.finish()?;
        Ok(request)
    }
}
