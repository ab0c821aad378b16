//! Looking at a stream group from outside, and moving it.
//!
//! Must never: set an offset that its partition does not have.

use std::sync::Arc;

use barrage_model::{GroupId, Offset, PartitionId, PartitionKey, TopicId};
use barrage_wire::{
    At, ErrorCode, ErrorReply, ListOffsetReply, Standing, Stored, StreamMemberDescription,
};
use tokio::task::JoinSet;

use super::coordinator::Coordinator;
use super::place_of;
use crate::client::Client;
use crate::consumer::check_range;
use crate::error::ClientError;
use crate::options::From;
use crate::route::Routes;

/// A stream group of one topic.
#[derive(Debug)]
pub struct StreamGroup {
    coordinator: Coordinator,
    routes: Arc<Routes>,
    topic: TopicId,
}

/// How a group stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GroupState {
    /// In a word.
    pub standing: Standing,
    /// The number of the last assignment.
    pub generation: u32,
    /// Its members, by id.
    pub members: Vec<GroupMember>,
    /// The topic's partitions, by number.
    pub partitions: Vec<GroupPartition>,
}

/// A member of a group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GroupMember {
    /// Its id.
    pub id: String,
    /// The place that it keeps.
    pub instance: Option<String>,
    /// The last assignment that it knows.
    pub generation: u32,
    /// What it reads of the topic.
    pub partitions: Vec<PartitionId>,
    /// What it is to give up, and has not yet.
    pub giving_up: Vec<PartitionId>,
}

/// A partition as a group reads it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GroupPartition {
    /// Which one.
    pub partition: PartitionId,
    /// The next record to read, if anything is stored.
    pub committed: Option<Offset>,
    /// The first record there is.
    pub start: Offset,
    /// One past the last record there is.
    pub end: Offset,
    /// Records that are not read; where nothing is stored all that there are.
    pub lag: u64,
    /// The id of the member that has it.
    pub member: Option<String>,
}

impl StreamGroup {
    pub(super) async fn open(
        client: &Client,
        topic: &str,
        name: &str,
    ) -> Result<Self, ClientError> {
        let coordinator = Coordinator::find(client, &[topic], name).await?;
        let routes = Arc::new(Routes::resolve(client, topic).await?);
        let topic = routes.key(PartitionId(0)).topic;
        Ok(Self { coordinator, routes, topic })
    }

    /// Its id.
    #[must_use]
    pub const fn id(&self) -> GroupId {
        self.coordinator.group()
    }

    /// Members, offsets and lag.
    ///
    /// # Errors
    /// Somebody who must be asked does not answer; topic or group were deleted.
    pub async fn describe(&mut self) -> Result<GroupState, ClientError> {
        let found = self.coordinator.describe(self.topic).await?;
        let owner = |partition: PartitionId| {
            let has = |member: &&StreamMemberDescription| {
                member.own.contains(&partition) || member.give_up.contains(&partition)
            };
            found.members.iter().find(has).map(|member| member.member.id.clone())
        };
        let mut partitions = Vec::new();
        for (partition, bounds) in self.everywhere(At::End).await? {
            let row = found.offsets.iter().find(|row| row.partition == partition);
            let committed = row.map(|row| row.offset);
            let (start, end) = (bounds.start_offset, bounds.high_watermark);
            let from = committed.unwrap_or(start).max(start);
            let (lag, member) = (end.0.saturating_sub(from.0), owner(partition));
            partitions.push(GroupPartition { partition, committed, start, end, lag, member });
        }
        let member = |one: StreamMemberDescription| GroupMember {
            id: one.member.id,
            instance: one.member.instance,
            generation: one.generation,
            partitions: one.own,
            giving_up: one.give_up,
        };
        Ok(GroupState {
            standing: found.standing,
            generation: found.generation,
            members: found.members.into_iter().map(member).collect(),
            partitions,
        })
    }

    /// The group goes on from `to`, in every partition of the topic, while it has no members.
    ///
    /// # Errors
    /// It has members, or a partition has no such offset: then nothing changed. Somebody who must
    /// be asked does not answer; topic or group were deleted.
    pub async fn reset(&mut self, to: From) -> Result<(), ClientError> {
        let mut offsets: Vec<(PartitionKey, Offset)> = Vec::new();
        for (partition, bounds) in self.everywhere(place_of(to)).await? {
            let ListOffsetReply { offset, start_offset, high_watermark } = bounds;
            let offset = match to {
                From::Offset(wanted) => {
                    check_range(partition, wanted, start_offset, high_watermark)?
                }
                _ => offset,
            };
            offsets.push((self.routes.key(partition), offset));
        }
        let results = self.coordinator.reset(&offsets).await?;
        match offsets.iter().zip(results).find(|(_, result)| *result != Stored::Done) {
            None => Ok(()),
            Some(((key, offset), why)) => {
                let message = format!("partition {} at {offset}: {why:?}", key.partition);
                Err(ClientError::Refused(ErrorReply::new(ErrorCode::OffsetOutOfRange, message)))
            }
        }
    }

    /// A place in every partition, by number.
    async fn everywhere(&self, at: At) -> Result<Vec<(PartitionId, ListOffsetReply)>, ClientError> {
        let mut tasks = JoinSet::new();
        for partition in (0..self.routes.partition_count()).map(PartitionId) {
            let routes = Arc::clone(&self.routes);
            tasks.spawn(async move { (partition, routes.list_offset(partition, at).await) });
        }
        let mut found = Vec::new();
        while let Some(done) = tasks.join_next().await {
            let (partition, offset) = done.map_err(|_| ClientError::Closed)?;
            found.push((partition, offset?));
        }
        found.sort_unstable_by_key(|(partition, _)| *partition);
        Ok(found)
    }
}
