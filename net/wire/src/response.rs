//! Every reply in one enum, the error reply among them.

use bytes::{BufMut, BytesMut};

use crate::cluster::{ClusterChanged, ClusterDescription};
use crate::delay::{DelayChangeReply, DelayListReply};
use crate::error::{ErrorCode, ErrorReply};
use crate::fetch::FetchReply;
use crate::field::{DecodeError, Field, Reader};
use crate::frame::{Correlation, FrameHeader, finish_frame, start_frame};
use crate::group::{GroupListReply, GroupSummary};
use crate::hello::HelloReply;
use crate::metadata::MetadataReply;
use crate::offset::ListOffsetReply;
use crate::opcode::{Opcode, REPLY_BIT};
use crate::produce::ProduceReply;
use crate::producer::InitProducerReply;
use crate::queue::{QueueCountsReply, QueuePeekReply, QueueReceiveReply, QueueSettleReply};
use crate::stats::StatsReply;
use crate::stream::{
    StreamDescription, StreamHeartbeatReply, StreamOffsetsReply, StreamStoredReply,
};
use crate::topic::{TopicDescription, TopicListReply, TopicSummary};

/// What a server answers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Response<'a> {
    /// No. `opcode` is that of the request, also one the server does not know.
    Error {
        /// The opcode of the request it answers.
        opcode: u16,
        /// Why.
        error: ErrorReply,
    },
    /// The session is open.
    Hello(HelloReply),
    /// I am here.
    Ping,
    /// Where partitions live.
    Metadata(MetadataReply),
    /// Counters.
    Stats(StatsReply),
    /// The batch is appended.
    Produce(ProduceReply),
    /// Batches.
    Fetch(FetchReply<'a>),
    /// An offset.
    ListOffset(ListOffsetReply),
    /// A producer id.
    InitProducer(InitProducerReply),
    /// The batch is stored: the id of its first record in place of the offset.
    ProduceDelayed(ProduceReply),
    /// What came of each.
    DelayChange(DelayChangeReply),
    /// What waits.
    DelayList(DelayListReply),
    /// The claim was taken.
    ProducerClaim,
    /// The topic is made.
    TopicCreate(TopicSummary),
    /// The topic is changed.
    TopicAlter(TopicSummary),
    /// The topic is gone.
    TopicDelete,
    /// All topics.
    TopicList(TopicListReply),
    /// One topic.
    TopicDescribe(TopicDescription),
    /// The cluster.
    ClusterDescribe(ClusterDescription),
    /// The cluster is changed.
    ClusterChange(ClusterChanged),
    /// The group is made.
    GroupCreate(GroupSummary),
    /// The group is changed.
    GroupAlter(GroupSummary),
    /// The group is gone.
    GroupDelete,
    /// The groups.
    GroupList(GroupListReply),
    /// Leases and batches.
    QueueReceive(QueueReceiveReply<'a>),
    /// What became of each receipt.
    QueueSettle(QueueSettleReply),
    /// Offsets.
    QueuePeek(QueuePeekReply),
    /// It goes on from there.
    QueueSeek,
    /// The counts.
    QueueCounts(QueueCountsReply),
    /// What the member is to read.
    StreamHeartbeat(StreamHeartbeatReply),
    /// The member is gone.
    StreamLeave,
    /// What became of each offset.
    StreamCommit(StreamStoredReply),
    /// The offsets.
    StreamOffsets(StreamOffsetsReply),
    /// What became of each offset.
    StreamReset(StreamStoredReply),
    /// The group.
    StreamDescribe(StreamDescription),
}

impl<'a> Response<'a> {
    /// The opcode field of the reply's frame.
    #[must_use]
    pub const fn reply_code(&self) -> u16 {
        match self {
            Self::Error { opcode, .. } => *opcode | REPLY_BIT,
            Self::Hello(_) => Opcode::Hello.reply_code(),
            Self::Ping => Opcode::Ping.reply_code(),
            Self::Metadata(_) => Opcode::Metadata.reply_code(),
            Self::Stats(_) => Opcode::Stats.reply_code(),
            Self::Produce(_) => Opcode::Produce.reply_code(),
            Self::Fetch(_) => Opcode::Fetch.reply_code(),
            Self::ListOffset(_) => Opcode::ListOffset.reply_code(),
            Self::InitProducer(_) => Opcode::InitProducer.reply_code(),
            Self::ProduceDelayed(_) => Opcode::ProduceDelayed.reply_code(),
            Self::DelayChange(_) => Opcode::DelayChange.reply_code(),
            Self::DelayList(_) => Opcode::DelayList.reply_code(),
            Self::ProducerClaim => Opcode::ProducerClaim.reply_code(),
            Self::TopicCreate(_) => Opcode::TopicCreate.reply_code(),
            Self::TopicAlter(_) => Opcode::TopicAlter.reply_code(),
            Self::TopicDelete => Opcode::TopicDelete.reply_code(),
            Self::TopicList(_) => Opcode::TopicList.reply_code(),
            Self::TopicDescribe(_) => Opcode::TopicDescribe.reply_code(),
            Self::ClusterDescribe(_) => Opcode::ClusterDescribe.reply_code(),
            Self::ClusterChange(_) => Opcode::ClusterChange.reply_code(),
            Self::GroupCreate(_) => Opcode::GroupCreate.reply_code(),
            Self::GroupAlter(_) => Opcode::GroupAlter.reply_code(),
            Self::GroupDelete => Opcode::GroupDelete.reply_code(),
            Self::GroupList(_) => Opcode::GroupList.reply_code(),
            Self::QueueReceive(_) => Opcode::QueueReceive.reply_code(),
            Self::QueueSettle(_) => Opcode::QueueSettle.reply_code(),
            Self::QueuePeek(_) => Opcode::QueuePeek.reply_code(),
            Self::QueueSeek => Opcode::QueueSeek.reply_code(),
            Self::QueueCounts(_) => Opcode::QueueCounts.reply_code(),
            Self::StreamHeartbeat(_) => Opcode::StreamHeartbeat.reply_code(),
            Self::StreamLeave => Opcode::StreamLeave.reply_code(),
            Self::StreamCommit(_) => Opcode::StreamCommit.reply_code(),
            Self::StreamOffsets(_) => Opcode::StreamOffsets.reply_code(),
            Self::StreamReset(_) => Opcode::StreamReset.reply_code(),
            Self::StreamDescribe(_) => Opcode::StreamDescribe.reply_code(),
        }
    }

    /// Appends the whole frame.
    pub fn encode(&self, correlation: Correlation, out: &mut BytesMut) {
        let detail = match self {
            Self::Error { error, .. } => error.code.number(),
            _ => 0,
        };
        let at = start_frame(self.reply_code(), detail, correlation, out);
        match self {
            Self::Error { error, .. } => error.put(out),
            Self::Hello(body) => body.put(out),
            Self::Ping
            | Self::TopicDelete
            | Self::GroupDelete
            | Self::ProducerClaim
            | Self::QueueSeek
            | Self::StreamLeave => {}
            Self::Metadata(body) => body.put(out),
            Self::Stats(body) => body.put(out),
            Self::Produce(body) => body.put(out),
            Self::Fetch(body) => {
                body.high_watermark.put(out);
                body.start_offset.put(out);
                out.put_slice(body.batches);
            }
            Self::ListOffset(body) => body.put(out),
            Self::InitProducer(body) => body.put(out),
            Self::ProduceDelayed(body) => body.put(out),
            Self::DelayChange(body) => body.put(out),
            Self::DelayList(body) => body.put(out),
            Self::TopicCreate(body) | Self::TopicAlter(body) => body.put(out),
            Self::TopicList(body) => body.put(out),
            Self::TopicDescribe(body) => body.put(out),
            Self::ClusterDescribe(body) => body.put(out),
            Self::ClusterChange(body) => body.put(out),
            Self::GroupCreate(body) | Self::GroupAlter(body) => body.put(out),
            Self::GroupList(body) => body.put(out),
            Self::QueueReceive(body) => body.put(out),
            Self::QueueSettle(body) => body.put(out),
            Self::QueuePeek(body) => body.put(out),
            Self::QueueCounts(body) => body.put(out),
            Self::StreamHeartbeat(body) => body.put(out),
            Self::StreamCommit(body) | Self::StreamReset(body) => body.put(out),
            Self::StreamOffsets(body) => body.put(out),
            Self::StreamDescribe(body) => body.put(out),
        }
        finish_frame(at, out);
    }

    /// Reads the reply of a frame; an error reply is `Ok(Response::Error { .. })`.
    pub fn decode(header: &FrameHeader, body: &'a [u8]) -> Result<Self, DecodeError> {
        let bad_opcode =
            DecodeError::BadTag { what: "reply opcode", value: u32::from(header.opcode) };
        if header.opcode & REPLY_BIT == 0 {
            return Err(bad_opcode);
        }
        if let Some(code) = ErrorCode::from_number(header.detail) {
            let error = ErrorReply::decode(code, body)?;
            return Ok(Self::Error { opcode: header.opcode & !REPLY_BIT, error });
        }
        let opcode = Opcode::from_reply(header.opcode).ok_or(bad_opcode)?;
        Self::decode_body(opcode, body)
    }

    fn decode_body(opcode: Opcode, body: &'a [u8]) -> Result<Self, DecodeError> {
        let mut reader = Reader::new(body);
        let response = match opcode {
            Opcode::Hello => Self::Hello(reader.take()?),
            Opcode::Ping => Self::Ping,
            Opcode::Metadata => Self::Metadata(reader.take()?),
            Opcode::Stats => Self::Stats(reader.take()?),
            Opcode::Produce => Self::Produce(reader.take()?),
            Opcode::Fetch => return FetchReply::decode(body).map(Self::Fetch),
            Opcode::ListOffset => Self::ListOffset(reader.take()?),
            Opcode::InitProducer => Self::InitProducer(reader.take()?),
            Opcode::ProduceDelayed => Self::ProduceDelayed(reader.take()?),
            Opcode::DelayChange => Self::DelayChange(reader.take()?),
            Opcode::DelayList => Self::DelayList(reader.take()?),
            Opcode::ProducerClaim => Self::ProducerClaim,
            Opcode::TopicCreate => Self::TopicCreate(reader.take()?),
            Opcode::TopicAlter => Self::TopicAlter(reader.take()?),
            Opcode::TopicDelete => Self::TopicDelete,
            Opcode::TopicList => Self::TopicList(reader.take()?),
            Opcode::TopicDescribe => Self::TopicDescribe(reader.take()?),
            Opcode::ClusterDescribe => Self::ClusterDescribe(reader.take()?),
            Opcode::ClusterChange => Self::ClusterChange(reader.take()?),
            Opcode::GroupCreate => Self::GroupCreate(reader.take()?),
            Opcode::GroupAlter => Self::GroupAlter(reader.take()?),
            Opcode::GroupDelete => Self::GroupDelete,
            Opcode::GroupList => Self::GroupList(reader.take()?),
            Opcode::QueueReceive => return QueueReceiveReply::decode(body).map(Self::QueueReceive),
            Opcode::QueueSettle => Self::QueueSettle(reader.take()?),
            Opcode::QueuePeek => Self::QueuePeek(reader.take()?),
            Opcode::QueueSeek => Self::QueueSeek,
            Opcode::QueueCounts => Self::QueueCounts(reader.take()?),
            Opcode::StreamHeartbeat => Self::StreamHeartbeat(reader.take()?),
            Opcode::StreamLeave => Self::StreamLeave,
            Opcode::StreamCommit => Self::StreamCommit(reader.take()?),
            Opcode::StreamOffsets => Self::StreamOffsets(reader.take()?),
            Opcode::StreamReset => Self::StreamReset(reader.take()?),
            Opcode::StreamDescribe => Self::StreamDescribe(reader.take()?),
        };
        reader.finish()?;
        Ok(response)
    }
}
