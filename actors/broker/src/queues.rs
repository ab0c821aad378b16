//! Queue groups as a gateway sees them: made and changed through the catalog, served by the shard
//! of each partition, here or on another core of this node.
//!
//! Owns: the way of a request to its shard. Must never: decide what a group does with a record.

use std::sync::Arc;

use barrage_cluster::Catalog;
use barrage_cluster::group::Group;
use barrage_cluster::stream::Stream;
use barrage_model::group::SettingsError;
use barrage_model::limits::FILTER_BYTES_MAX;
use barrage_model::{GroupId, GroupName, Offset, PartitionKey, QueueSettings, TopicId, TopicName};
use barrage_world::Instant;

use crate::api::queue::{
    GroupInfo, GroupKind, GroupSpec, QueueCounts, QueueError, ReceiptError, ReceiveRequest,
    Received, Seek, SettleRequest,
};
use crate::api::{AdminError, FetchedBytes, TopicInfo};
use crate::broker::{Broker, info};
use crate::core::Core;
use crate::message::{Admin, AdminReply, Reply, Request};
use crate::queue::filter::to_be_stored;
use crate::shard::groups::Slot;
use crate::shard::receive::Handed;

impl Broker {
    /// Makes a queue group; answers when every partition of the topic has it.
    pub async fn create_group(
        &self,
        topic: TopicName,
        mut spec: GroupSpec,
        deadline: Instant,
    ) -> Result<GroupInfo, AdminError> {
        let name = spec.name.clone();
        spec.settings = readable(spec.settings)?;
        self.change_group(Admin::CreateGroup { topic, spec }, &name, deadline).await
    }

    /// Changes a group; answers when every partition goes by it.
    pub async fn alter_group(
        &self,
        topic: TopicName,
        name: GroupName,
        settings: QueueSettings,
        deadline: Instant,
    ) -> Result<GroupInfo, AdminError> {
        let settings = readable(settings)?;
        let admin = Admin::AlterGroup { topic, name: name.clone(), settings };
        self.change_group(admin, &name, deadline).await
    }

    /// Deletes a queue group and what it has leased and settled; answers when no partition has it.
    /// Takes a topic out of a stream group, with the offsets of it; with its last topic the group
    /// is gone.
    pub async fn delete_group(
        &self,
        topic: TopicName,
        name: GroupName,
        deadline: Instant,
    ) -> Result<(), AdminError> {
        self.administer(Admin::DeleteGroup { topic, name }, deadline).await.map(drop)
    }

    pub(crate) async fn change_group(
        &self,
        admin: Admin,
        name: &GroupName,
        deadline: Instant,
    ) -> Result<GroupInfo, AdminError> {
        match self.administer(admin, deadline).await? {
            AdminReply::Topic(topic) => {
                let queue = topic.groups.get(name).map(group_info);
                let stream = || self.stream_info(topic.id, name);
                // Deleted already by somebody else.
                queue.or_else(stream).ok_or(AdminError::UnknownGroup)
            }
            _ => Err(AdminError::NotLeader),
        }
    }

    /// The groups of a topic, by name: a look into this core's copy of the catalog.
    pub fn list_groups(&self, topic: &TopicName) -> Option<(TopicInfo, Vec<GroupInfo>)> {
        let catalog = self.core.catalog();
        let topic = catalog.topic_named(topic)?;
        let mut groups: Vec<GroupInfo> = topic.groups.iter().map(group_info).collect();
        let streams = catalog.streams().of(topic.id);
        groups.extend(streams.map(|stream| stream_info(&catalog, stream)));
        groups.sort_by(|one, other| one.name.cmp(&other.name));
        Some((info(topic), groups))
    }

    fn stream_info(&self, topic: TopicId, name: &GroupName) -> Option<GroupInfo> {
        let catalog = self.core.catalog();
        let stream = catalog.streams().of_topic_named(topic, name)?;
        Some(stream_info(&catalog, stream))
    }

    /// Leases records of one partition; waits until `wait_until` for the first one. Dropping the
    /// future does not take leases back: they end by their time.
    pub async fn receive(&self, request: ReceiveRequest) -> Result<Received, QueueError> {
        let key = request.key;
        let visibility_ms = match request.visibility_ms {
            Some(visibility_ms) => visibility_ms,
            None => self.core.visibility_ms(key, request.group)?,
        };
        let (core, _) = self.core.place(key).ok_or(QueueError::UnknownPartition)?;
        let received = if core == self.core.id {
            self.core.receive_here(&request, visibility_ms).await.map(|handed| Received {
                leases: handed.leases,
                batches: handed.batches.into_iter().map(FetchedBytes::Local).collect(),
                more: handed.more,
            })
        } else {
            match self.ask(core, Request::Receive { request, visibility_ms }).await {
                Some(Reply::Receive(crossed)) => crossed.map(|crossed| Received {
                    leases: crossed.leases,
                    batches: crossed.batches.into_iter().map(FetchedBytes::Crossed).collect(),
                    more: crossed.more,
                }),
                _ => Err(QueueError::QueueFull),
            }
        };
        received.map_err(|error| self.queue_hint(key, error))
    }

    /// Settles leases of one partition; answers for each receipt. What is answered with `Ok` is
    /// durable.
    pub async fn settle(
        &self,
        request: SettleRequest,
    ) -> Result<Vec<Result<(), ReceiptError>>, QueueError> {
        let key = request.key;
        let (core, _) = self.core.place(key).ok_or(QueueError::UnknownPartition)?;
        let settled = if core == self.core.id {
            self.core.settle_here(request).await
        } else {
            match self.ask(core, Request::Settle(request)).await {
                Some(Reply::Settle(settled)) => settled,
                _ => Err(QueueError::QueueFull),
            }
        };
        settled.map_err(|error| self.queue_hint(key, error))
    }

    /// Moves what a group has before it in one partition.
    pub async fn seek(
        &self,
        key: PartitionKey,
        group: GroupId,
        seek: Seek,
    ) -> Result<(), QueueError> {
        let slot = Slot { key, group };
        let (core, _) = self.core.place(key).ok_or(QueueError::UnknownPartition)?;
        let sought = if core == self.core.id {
            self.core.seek_here(slot, seek).await
        } else {
            match self.ask(core, Request::Seek { slot, seek }).await {
                Some(Reply::Seek(sought)) => sought,
                _ => Err(QueueError::QueueFull),
            }
        };
        sought.map_err(|error| self.queue_hint(key, error))
    }

    /// Offsets of records that could be leased now, the oldest first; nothing is leased. A filter
    /// is not asked: who looks at a queue sees what is not settled.
    pub async fn peek(
        &self,
        key: PartitionKey,
        group: GroupId,
        count_max: usize,
    ) -> Result<Vec<Offset>, QueueError> {
        let slot = Slot { key, group };
        let (core, _) = self.core.place(key).ok_or(QueueError::UnknownPartition)?;
        let peeked = if core == self.core.id {
            self.core.peek_here(slot, count_max)
        } else {
            match self.ask(core, Request::Peek { slot, count_max }).await {
                Some(Reply::Peek(peeked)) => peeked,
                _ => Err(QueueError::QueueFull),
            }
        };
        peeked.map_err(|error| self.queue_hint(key, error))
    }

    /// How many records of one partition wait for what.
    pub async fn counts(
        &self,
        key: PartitionKey,
        group: GroupId,
    ) -> Result<QueueCounts, QueueError> {
        let slot = Slot { key, group };
        let (core, _) = self.core.place(key).ok_or(QueueError::UnknownPartition)?;
        let counts = if core == self.core.id {
            self.core.counts_here(slot).await
        } else {
            match self.ask(core, Request::Counts { slot }).await {
                Some(Reply::Counts(counts)) => counts,
                _ => Err(QueueError::QueueFull),
            }
        };
        counts.map_err(|error| self.queue_hint(key, error))
    }

    pub(crate) fn queue_hint(&self, key: PartitionKey, error: QueueError) -> QueueError {
        match error {
            QueueError::NotLeader { hint: None } => {
                QueueError::NotLeader { hint: self.core.hint(key) }
            }
            other => other,
        }
    }
}

impl Core {
    fn visibility_ms(&self, key: PartitionKey, group: GroupId) -> Result<u64, QueueError> {
        let catalog = self.catalog();
        let topic = catalog.topic(key.topic).ok_or(QueueError::UnknownPartition)?;
        let group = topic.group(group).ok_or(QueueError::UnknownGroup)?;
        Ok(group.settings.visibility_ms)
    }

    pub(crate) async fn receive_here(
        &self,
        request: &ReceiveRequest,
        visibility_ms: u64,
    ) -> Result<Handed, QueueError> {
        self.shard(request.key)?.receive(request, visibility_ms).await
    }

    pub(crate) async fn settle_here(
        &self,
        request: SettleRequest,
    ) -> Result<Vec<Result<(), ReceiptError>>, QueueError> {
        self.shard(request.key)?.settle(request).await
    }

    pub(crate) async fn seek_here(&self, slot: Slot, seek: Seek) -> Result<(), QueueError> {
        self.shard(slot.key)?.seek(slot, seek).await
    }

    pub(crate) fn peek_here(
        &self,
        slot: Slot,
        count_max: usize,
    ) -> Result<Vec<Offset>, QueueError> {
        self.shard(slot.key)?.peek(slot, count_max)
    }

    pub(crate) async fn counts_here(&self, slot: Slot) -> Result<QueueCounts, QueueError> {
        self.shard(slot.key)?.counts(slot).await
    }
}

/// The settings with their filter as it is stored; refused where it cannot be read. Everything else
/// the catalog judges.
fn readable(settings: QueueSettings) -> Result<QueueSettings, AdminError> {
    let Some(line) = &settings.filter else { return Ok(settings) };
    let invalid = |reason| AdminError::Invalid { reason };
    if line.len() > FILTER_BYTES_MAX {
        return Err(invalid(SettingsError::Filter { bytes: line.len() }.to_string()));
    }
    let filter = to_be_stored(line).map_err(|error| invalid(format!("filter: {error}")))?;
    Ok(QueueSettings { filter, ..settings })
}

fn group_info(group: &Arc<Group>) -> GroupInfo {
    GroupInfo {
        name: group.name.clone(),
        id: group.id,
        kind: GroupKind::Queue(group.settings.clone()),
        created_ms: group.created_ms,
    }
}

fn stream_info(catalog: &Catalog, stream: &Stream) -> GroupInfo {
    let topics = stream.topics.iter().filter_map(|topic| catalog.topic(*topic));
    GroupInfo {
        name: stream.name.clone(),
        id: stream.id,
        kind: GroupKind::Stream { topics: topics.map(|topic| topic.name.clone()).collect() },
        created_ms: stream.created_ms,
    }
}
