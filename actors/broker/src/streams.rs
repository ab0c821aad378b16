//! Stream groups as a gateway sees them: made and removed through the catalog, coordinated by the
//! leader of the shard that it has given them, here or on another core of this node.
//!
//! Owns: the way of a request to its coordinator. Must never: decide what a group does.

use barrage_model::{GroupId, GroupName, Offset, PartitionKey, ShardId, TopicId, TopicName};
use barrage_world::Instant;

use crate::api::AdminError;
use crate::api::queue::GroupInfo;
use crate::api::stream::{
    CommitError, CommitRequest, Heartbeat, HeartbeatRequest, StreamDescription, StreamError,
    StreamMember, StreamOffset,
};
use crate::broker::Broker;
use crate::core::Core;
use crate::message::{Admin, Reply, Request, StreamAnswer, StreamRequest};

impl Broker {
    /// Makes a stream group of a topic, or takes the topic into the stream group of this name;
    /// answers when its coordinator goes by it. It reads from where its members begin, until
    /// something is stored.
    pub async fn create_stream_group(
        &self,
        topic: TopicName,
        name: GroupName,
        deadline: Instant,
    ) -> Result<GroupInfo, AdminError> {
        let admin = Admin::CreateStream { topic, name: name.clone() };
        self.change_group(admin, &name, deadline).await
    }

    /// A member comes, or is there, and hears what it is to read.
    pub async fn stream_heartbeat(
        &self,
        request: HeartbeatRequest,
    ) -> Result<Heartbeat, StreamError> {
        match self.coordinate(request.group, StreamRequest::Heartbeat(request)).await? {
            StreamAnswer::Heartbeat(heartbeat) => Ok(heartbeat),
            _ => Err(StreamError::QueueFull),
        }
    }

    /// A member goes: what it had is shared out at once.
    pub async fn stream_leave(
        &self,
        group: GroupId,
        member: StreamMember,
    ) -> Result<(), StreamError> {
        self.coordinate(group, StreamRequest::Leave { group, member }).await.map(drop)
    }

    /// Stores offsets; answers for each. What is answered with `Ok` is durable.
    pub async fn stream_commit(
        &self,
        request: CommitRequest,
    ) -> Result<Vec<Result<(), CommitError>>, StreamError> {
        match self.coordinate(request.group, StreamRequest::Commit(request)).await? {
            StreamAnswer::Stored(results) => Ok(results),
            _ => Err(StreamError::QueueFull),
        }
    }

    /// What is stored of these partitions; those without anything are left out.
    pub async fn stream_offsets(
        &self,
        group: GroupId,
        keys: Vec<PartitionKey>,
    ) -> Result<Vec<StreamOffset>, StreamError> {
        match self.coordinate(group, StreamRequest::Offsets { group, keys }).await? {
            StreamAnswer::Offsets(offsets) => Ok(offsets),
            _ => Err(StreamError::QueueFull),
        }
    }

    /// Sets offsets, back or forth, while the group has no members; answers for each.
    pub async fn stream_reset(
        &self,
        group: GroupId,
        to: Vec<(PartitionKey, Offset)>,
    ) -> Result<Vec<Result<(), CommitError>>, StreamError> {
        match self.coordinate(group, StreamRequest::Reset { group, to }).await? {
            StreamAnswer::Stored(results) => Ok(results),
            _ => Err(StreamError::QueueFull),
        }
    }

    /// A group as far as it concerns one of its topics.
    pub async fn describe_stream(
        &self,
        group: GroupId,
        topic: TopicId,
    ) -> Result<StreamDescription, StreamError> {
        match self.coordinate(group, StreamRequest::Describe { group, topic }).await? {
            StreamAnswer::Described(description) => Ok(description),
            _ => Err(StreamError::QueueFull),
        }
    }

    async fn coordinate(
        &self,
        group: GroupId,
        request: StreamRequest,
    ) -> Result<StreamAnswer, StreamError> {
        let shard = self.core.coordinator(group).ok_or(StreamError::UnknownGroup)?;
        let core = self.core.core_of(shard);
        let answered = if core == self.core.id {
            self.core.coordinate_here(shard, request).await
        } else {
            match self.ask(core, Request::Stream { shard, request }).await {
                Some(Reply::Stream(answered)) => answered,
                _ => Err(StreamError::QueueFull),
            }
        };
        answered.map_err(|error| match error {
            StreamError::NotLeader { hint: None } => {
                StreamError::NotLeader { hint: self.core.hint_of(shard) }
            }
            other => other,
        })
    }
}

impl Core {
    /// The shard whose leader coordinates a stream group.
    fn coordinator(&self, group: GroupId) -> Option<ShardId> {
        self.catalog().streams().get(group).map(|stream| stream.shard)
    }

    pub(crate) async fn coordinate_here(
        &self,
        shard: ShardId,
        request: StreamRequest,
    ) -> Result<StreamAnswer, StreamError> {
        let shard = self.shard_by_id(shard).ok_or(StreamError::NotLeader { hint: None })?;
        shard.coordinate(request).await
    }
}
