//! The words of groups and queues: from the wire's to the broker's and back.
//!
//! Must never: judge. Names and back-offs are parsed here, everything else the broker checks.

use std::time::Duration;

use barrage_broker as broker;
use barrage_broker::{Broker, ReceiptError};
use barrage_model::{Backoff, GroupName, QueueSettings, TopicName};
use barrage_wire as wire;
use barrage_wire::{ErrorCode, ErrorReply, Response};
use barrage_world::Instant;

use crate::delay;
use crate::error;
use crate::options::Options;
use crate::translate::topic_name;

/// A request about groups, or to one, that is not a receive.
pub(crate) enum GroupRequest {
    Create(wire::GroupCreate),
    Alter(wire::GroupAlter),
    Delete(wire::GroupDelete),
    List(wire::GroupList),
    Settle(wire::QueueSettle),
    Peek(wire::QueuePeek),
    Seek(wire::QueueSeek),
    Counts(wire::QueueCounts),
    DelayChange(wire::DelayChange),
    DelayList(wire::DelayList),
}

/// Carries out a request; every error becomes an error reply.
pub(crate) async fn answer(
    broker: &Broker,
    request: GroupRequest,
    deadline: Instant,
) -> Result<Response<'static>, ErrorReply> {
    match request {
        GroupRequest::Create(request) => {
            let (topic, name) = (topic_name(&request.topic)?, group_name(&request.name)?);
            let group = match request.kind {
                wire::NewGroup::Queue { settings: asked, at_end } => {
                    let spec = broker::GroupSpec { name, settings: settings(asked)?, at_end };
                    broker.create_group(topic, spec, deadline).await
                }
                wire::NewGroup::Stream => broker.create_stream_group(topic, name, deadline).await,
            };
            Ok(Response::GroupCreate(summary(&group.map_err(|e| error::admin(&e))?)))
        }
        GroupRequest::Alter(request) => {
            let (topic, name) = (topic_name(&request.topic)?, group_name(&request.name)?);
            let group =
                broker.alter_group(topic, name, settings(request.settings)?, deadline).await;
            Ok(Response::GroupAlter(summary(&group.map_err(|e| error::admin(&e))?)))
        }
        GroupRequest::Delete(request) => {
            let (topic, name) = (topic_name(&request.topic)?, group_name(&request.name)?);
            let deleted = broker.delete_group(topic, name, deadline).await;
            deleted.map_err(|e| error::admin(&e))?;
            Ok(Response::GroupDelete)
        }
        GroupRequest::List(request) => {
            let found = broker.list_groups(&topic_name(&request.topic)?);
            let (topic, groups) =
                found.ok_or_else(|| error::admin(&broker::AdminError::UnknownTopic))?;
            Ok(Response::GroupList(wire::GroupListReply {
                topic: topic.id,
                partitions: topic.partitions,
                groups: groups.iter().map(summary).collect(),
            }))
        }
        GroupRequest::Settle(request) => {
            let results = broker.settle(settle_request(&request)).await;
            let results = results.map_err(|e| error::queue(&e))?.into_iter().map(settled);
            Ok(Response::QueueSettle(wire::QueueSettleReply { results: results.collect() }))
        }
        GroupRequest::Peek(wire::QueuePeek { key, group, count_max }) => {
            let count_max = (count_max as usize).min(Options::PEEK_COUNT_MAX);
            let offsets = broker.peek(key, group, count_max).await;
            let offsets = offsets.map_err(|e| error::queue(&e))?;
            Ok(Response::QueuePeek(wire::QueuePeekReply { offsets }))
        }
        GroupRequest::Seek(wire::QueueSeek { key, group, to }) => {
            let to = match to {
                wire::Seek::Rewind(offset) => broker::Seek::Rewind(offset),
                wire::Seek::Skip(offset) => broker::Seek::Skip(offset),
            };
            broker.seek(key, group, to).await.map_err(|e| error::queue(&e))?;
            Ok(Response::QueueSeek)
        }
        GroupRequest::Counts(wire::QueueCounts { key, group }) => {
            let counts = broker.counts(key, group).await.map_err(|e| error::queue(&e))?;
            let broker::QueueCounts { start, visible, leased, delayed, dying } = counts;
            let counts = wire::QueueCountsReply { start, visible, leased, delayed, dying };
            Ok(Response::QueueCounts(counts))
        }
        GroupRequest::DelayChange(request) => delay::change(broker, request).await,
        GroupRequest::DelayList(request) => delay::list(broker, request).await,
    }
}

pub(crate) fn receive_request(
    request: &wire::QueueReceive,
    now: Instant,
) -> broker::ReceiveRequest {
    let wait = Duration::from_millis(u64::from(request.wait_ms)).min(Options::REQUEST_TIMEOUT_MAX);
    broker::ReceiveRequest {
        key: request.key,
        group: request.group,
        count_max: request.count_max,
        bytes_max: (request.bytes_max as usize).min(Options::FETCH_BYTES_MAX),
        visibility_ms: request.visibility_ms,
        wait_until: now + wait,
    }
}

/// The head of a reply; the batches follow.
pub(crate) fn received(received: &broker::Received) -> wire::QueueReceiveReply<'static> {
    let lease = |lease: &broker::Lease| {
        let broker::Lease { offset, tag, deliveries, first_ms, left_ms } = *lease;
        wire::Lease { offset, tag, deliveries, first_ms, left_ms }
    };
    let leases = received.leases.iter().map(lease).collect();
    wire::QueueReceiveReply { more: received.more, leases, batches: &[] }
}

fn settle_request(request: &wire::QueueSettle) -> broker::SettleRequest {
    let settlement = match request.settlement {
        wire::Settlement::Ack => broker::Settlement::Ack,
        wire::Settlement::Nack { delay_ms } => broker::Settlement::Nack { delay_ms },
        wire::Settlement::Extend { visibility_ms } => broker::Settlement::Extend { visibility_ms },
        wire::Settlement::Release => broker::Settlement::Release,
    };
    let receipts = request.receipts.iter().map(|receipt| (receipt.offset, receipt.tag));
    let receipts = receipts.collect();
    broker::SettleRequest { key: request.key, group: request.group, receipts, settlement }
}

fn settled(result: Result<(), ReceiptError>) -> wire::Settled {
    match result {
        Ok(()) => wire::Settled::Done,
        Err(ReceiptError::Settled) => wire::Settled::AlreadySettled,
        Err(ReceiptError::NotLeased) => wire::Settled::NotLeased,
        Err(ReceiptError::Stale) => wire::Settled::Stale,
        Err(ReceiptError::NeverLeased) => wire::Settled::NeverLeased,
    }
}

fn group_name(name: &str) -> Result<GroupName, ErrorReply> {
    GroupName::parse(name).map_err(|error| invalid(error.to_string()))
}

fn settings(settings: wire::GroupSettings) -> Result<QueueSettings, ErrorReply> {
    let dead_letter = settings.dead_letter.as_deref().map(topic_name).transpose()?;
    let backoff = settings.backoff.parse::<Backoff>().map_err(|e| invalid(e.to_string()))?;
    Ok(QueueSettings {
        visibility_ms: settings.visibility_ms,
        deliveries_max: settings.deliveries_max,
        max_age_ms: settings.max_age_ms,
        dead_letter,
        backoff,
        filter: settings.filter,
        order: settings.order,
    })
}

fn invalid(message: String) -> ErrorReply {
    ErrorReply::new(ErrorCode::InvalidArgument, message)
}

fn summary(group: &broker::GroupInfo) -> wire::GroupSummary {
    let kind = match &group.kind {
        broker::GroupKind::Stream { topics } => {
            wire::GroupKind::Stream { topics: topics.iter().map(TopicName::to_string).collect() }
        }
        broker::GroupKind::Queue(settings) => {
            let QueueSettings { visibility_ms, deliveries_max, dead_letter, .. } = settings;
            wire::GroupKind::Queue(wire::GroupSettings {
                visibility_ms: *visibility_ms,
                deliveries_max: *deliveries_max,
                max_age_ms: settings.max_age_ms,
                dead_letter: dead_letter.as_ref().map(TopicName::to_string),
                backoff: settings.backoff.to_string(),
                filter: settings.filter.clone(),
                order: settings.order,
            })
        }
    };
    let (name, created_ms) = (group.name.to_string(), group.created_ms);
    wire::GroupSummary { name, group: group.id, kind, created_ms }
}
