//! The words of stream groups: from the wire's to the broker's and back.
//!
//! Must never: judge; the broker does.

use barrage_broker as broker;
use barrage_broker::Broker;
use barrage_wire as wire;
use barrage_wire::{ErrorReply, Response};

use crate::error;

/// A request to the coordinator of a stream group.
pub(crate) enum StreamRequest {
    Heartbeat(wire::StreamHeartbeat),
    Leave(wire::StreamLeave),
    Commit(wire::StreamCommit),
    Offsets(wire::StreamOffsets),
    Reset(wire::StreamReset),
    Describe(wire::StreamDescribe),
}

/// Carries out a request; every error becomes an error reply.
pub(crate) async fn answer(
    broker: &Broker,
    request: StreamRequest,
) -> Result<Response<'static>, ErrorReply> {
    match request {
        StreamRequest::Heartbeat(wire::StreamHeartbeat { group, member, beat: said }) => {
            let (member, beat) = (self::member(member), beat(said));
            let request = broker::HeartbeatRequest { group, member, beat };
            let told = broker.stream_heartbeat(request).await.map_err(|e| error::stream(&e))?;
            let broker::Heartbeat { member, generation, own, give_up, interval_ms } = told;
            Ok(Response::StreamHeartbeat(wire::StreamHeartbeatReply {
                member,
                generation,
                own,
                give_up,
                interval_ms,
            }))
        }
        StreamRequest::Leave(wire::StreamLeave { group, member }) => {
            let left = broker.stream_leave(group, self::member(member)).await;
            left.map_err(|e| error::stream(&e))?;
            Ok(Response::StreamLeave)
        }
        StreamRequest::Commit(wire::StreamCommit { group, committer, offsets }) => {
            let committer = committer.map(|who| (member(who.member), who.generation));
            let offsets = offsets.into_iter().map(offset).collect();
            let request = broker::CommitRequest { group, committer, offsets };
            let results = broker.stream_commit(request).await.map_err(|e| error::stream(&e))?;
            Ok(Response::StreamCommit(stored(results)))
        }
        StreamRequest::Offsets(wire::StreamOffsets { group, keys }) => {
            let found = broker.stream_offsets(group, keys).await.map_err(|e| error::stream(&e))?;
            let offsets = found.into_iter().map(offset_reply).collect();
            Ok(Response::StreamOffsets(wire::StreamOffsetsReply { offsets }))
        }
        StreamRequest::Reset(wire::StreamReset { group, to }) => {
            let to = to.into_iter().map(|to| (to.key, to.offset)).collect();
            let results = broker.stream_reset(group, to).await.map_err(|e| error::stream(&e))?;
            Ok(Response::StreamReset(stored(results)))
        }
        StreamRequest::Describe(wire::StreamDescribe { group, topic }) => {
            let found = broker.describe_stream(group, topic).await;
            Ok(Response::StreamDescribe(description(found.map_err(|e| error::stream(&e))?)))
        }
    }
}

fn member(member: wire::StreamMember) -> broker::StreamMember {
    let wire::StreamMember { id, instance } = member;
    broker::StreamMember { id, instance }
}

fn reads(reads: wire::StreamReads) -> broker::StreamReads {
    let assignor = match reads.assignor {
        wire::Assignor::Sticky => broker::Assignor::Sticky,
        wire::Assignor::Range => broker::Assignor::Range,
        wire::Assignor::RoundRobin => broker::Assignor::RoundRobin,
    };
    broker::StreamReads { topics: reads.topics, assignor }
}

fn beat(beat: wire::StreamBeat) -> broker::StreamBeat {
    match beat {
        wire::StreamBeat::Join { reads: asked, session_ms, rebalance_ms } => {
            broker::StreamBeat::Join { reads: reads(asked), session_ms, rebalance_ms }
        }
        wire::StreamBeat::Stay { generation, held, reads: asked } => {
            broker::StreamBeat::Stay { generation, held, reads: asked.map(reads) }
        }
    }
}

fn offset(offset: wire::StreamOffset) -> broker::StreamOffset {
    let wire::StreamOffset { key, offset, leader_epoch, metadata } = offset;
    broker::StreamOffset { key, offset, leader_epoch, metadata }
}

fn offset_reply(offset: broker::StreamOffset) -> wire::StreamOffset {
    let broker::StreamOffset { key, offset, leader_epoch, metadata } = offset;
    wire::StreamOffset { key, offset, leader_epoch, metadata }
}

fn stored(results: Vec<Result<(), broker::CommitError>>) -> wire::StreamStoredReply {
    let result = |result| match result {
        Ok(()) => wire::Stored::Done,
        Err(broker::CommitError::NotOwner) => wire::Stored::NotOwner,
        Err(broker::CommitError::Behind { stored }) => wire::Stored::Behind { stored },
        Err(broker::CommitError::UnknownPartition) => wire::Stored::UnknownPartition,
        Err(broker::CommitError::OutOfRange) => wire::Stored::OutOfRange,
        Err(broker::CommitError::MetadataTooLong) => wire::Stored::MetadataTooLong,
        Err(broker::CommitError::Full) => wire::Stored::Full,
    };
    wire::StreamStoredReply { results: results.into_iter().map(result).collect() }
}

fn description(found: broker::StreamDescription) -> wire::StreamDescription {
    let member = |found: broker::StreamMemberDescription| {
        let broker::StreamMember { id, instance } = found.member;
        wire::StreamMemberDescription {
            member: wire::StreamMember { id, instance },
            generation: found.generation,
            own: found.own,
            give_up: found.give_up,
        }
    };
    let standing = match found.standing {
        broker::Standing::Empty => wire::Standing::Empty,
        broker::Standing::Assigning => wire::Standing::Assigning,
        broker::Standing::Reconciling => wire::Standing::Reconciling,
        broker::Standing::Joining => wire::Standing::Joining,
        broker::Standing::Syncing => wire::Standing::Syncing,
        broker::Standing::Stable => wire::Standing::Stable,
    };
    let offset = |(partition, offset)| wire::PartitionOffset { partition, offset };
    wire::StreamDescription {
        generation: found.generation,
        standing,
        members: found.members.into_iter().map(member).collect(),
        offsets: found.offsets.into_iter().map(offset).collect(),
    }
}
