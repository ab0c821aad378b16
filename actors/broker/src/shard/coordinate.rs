//! Coordinating stream groups: what members ask of the leader of their group's shard.
//!
//! ```text
//!   heartbeat: nothing new, session fresh --> answered from the applied state, no entry
//!              anything else              --> an operation in the log, shared with others'
//!   look:      somebody else leads? (asked of a majority) --> answered from the applied state
//! ```
//!
//! Owns: what a request may bring, and what it becomes. Must never: answer what is stored while
//! somebody else may lead; take more than its bounds.
//! Invariants: what is answered to a change is applied, hence durable.

use barrage_model::{GroupId, Offset, PartitionId, PartitionKey, TopicId};
use barrage_world::{planted, random_u64};

use super::Shard;
use super::streams::{Reads, Stream, StreamOp, StreamOutcome, StreamWhat};
use crate::api::FetchError;
use crate::api::queue::QueueError;
use crate::api::stream::{
    CommitError, CommitRequest, Heartbeat, HeartbeatRequest, OFFSETS_PER_REQUEST_MAX, StreamBeat,
    StreamDescription, StreamError, StreamMember, StreamMemberDescription, StreamOffset,
    StreamReads,
};
use crate::group::generation::Generation;
use crate::group::handover::Told;
use crate::group::name::{InstanceName, MemberId, NAME_BYTES_MAX, Name};
use crate::group::offsets::{Commit, LeaderEpoch};
use crate::group::partition_set::PartitionSet;
use crate::group::roster::{
    Caller, REBALANCE_MS_DEFAULT, REBALANCE_MS_MAX, REBALANCE_MS_MIN, SESSION_MS_DEFAULT,
    SESSION_MS_MAX, SESSION_MS_MIN, Timeouts,
};
use crate::group::stream::Committer;
use crate::message::{StreamAnswer, StreamRequest};

/// Bytes of one operation, at most: also small segments take it.
const OP_BYTES_MAX: usize = 4 << 20;
/// How often a member is heard of that has what it is to have.
const INTERVAL_MS_MAX: u64 = 3_000;
/// How often one is heard of that waits for partitions, or is to give some up.
const INTERVAL_MS_BUSY: u64 = 500;
/// Heartbeats in the time of a session, at least: some may be lost on their way.
const BEATS_PER_SESSION: u64 = 10;

const _: () = assert!(SESSION_MS_MIN / BEATS_PER_SESSION >= INTERVAL_MS_BUSY);

impl Shard {
    /// Does what is asked of a stream group.
    pub(crate) async fn coordinate(
        &self,
        request: StreamRequest,
    ) -> Result<StreamAnswer, StreamError> {
        match request {
            StreamRequest::Heartbeat(request) => {
                self.heartbeat(request).await.map(StreamAnswer::Heartbeat)
            }
            StreamRequest::Leave { group, member } => {
                let what = StreamWhat::Leave { caller: caller(&member)? };
                self.operate(group, what).await.map(|_| StreamAnswer::Done)
            }
            StreamRequest::Commit(request) => self.commit(request).await.map(StreamAnswer::Stored),
            StreamRequest::Reset { group, to } => {
                check_count(to.len())?;
                if planted("broker-reset-not-awaited") {
                    // Wrong: what is said to be reset perhaps never will be.
                    let done = to.iter().map(|_| Ok(())).collect();
                    let op = StreamOp { group, what: StreamWhat::Reset { to } };
                    drop(barrage_world::spawn(self.submit_stream_op(op)));
                    return Ok(StreamAnswer::Stored(done));
                }
                let stored = self.operate(group, StreamWhat::Reset { to }).await?;
                Ok(StreamAnswer::Stored(results(stored)))
            }
            StreamRequest::Offsets { group, keys } => {
                check_count(keys.len())?;
                self.look(group, |stream| StreamAnswer::Offsets(offsets(stream, &keys))).await
            }
            StreamRequest::Describe { group, topic } => {
                let described = |stream: &Stream| StreamAnswer::Described(describe(stream, topic));
                self.look(group, described).await
            }
        }
    }

    async fn heartbeat(&self, request: HeartbeatRequest) -> Result<Heartbeat, StreamError> {
        let HeartbeatRequest { group, mut member, beat } = request;
        let is_joining = matches!(beat, StreamBeat::Join { .. });
        if is_joining && member.id.is_empty() {
            member.id = format!("{:016x}{:016x}", random_u64(), random_u64());
        }
        let caller = caller(&member)?;
        let quiet = match &beat {
            StreamBeat::Stay { generation, reads: None, .. } => {
                self.quiet(group, &caller, Generation(*generation))?
            }
            _ => None,
        };
        let told = match quiet {
            Some(told) => told,
            None => {
                let what = self.beat(group, caller.clone(), beat)?;
                match self.operate(group, what).await? {
                    StreamOutcome::Told(told) => told,
                    // Only a heartbeat is told.
                    _ => return Err(StreamError::UnknownGroup),
                }
            }
        };
        let interval_ms = self.interval_ms(group, &caller);
        Ok(Heartbeat {
            member: member.id,
            generation: told.generation.0,
            own: told.own.as_slice().to_vec(),
            give_up: told.give_up.as_slice().to_vec(),
            interval_ms: u32::try_from(interval_ms).unwrap_or(u32::MAX),
        })
    }

    fn beat(
        &self,
        group: GroupId,
        caller: Caller,
        beat: StreamBeat,
    ) -> Result<StreamWhat, StreamError> {
        match beat {
            StreamBeat::Join { reads, session_ms, rebalance_ms } => {
                let timeouts = timeouts(session_ms, rebalance_ms)?;
                let reads = self.reads(group, reads)?;
                Ok(StreamWhat::Join { caller, timeouts, reads })
            }
            StreamBeat::Stay { generation, held, reads } => {
                let reads = reads.map(|reads| self.reads(group, reads)).transpose()?;
                let generation = Generation(generation);
                Ok(StreamWhat::Beat { caller, generation, held, reads })
            }
        }
    }

    /// What a member is to read: all topics of its group where it names none.
    fn reads(&self, group: GroupId, reads: StreamReads) -> Result<Reads, StreamError> {
        let StreamReads { mut topics, assignor } = reads;
        self.with_stream(group, |stream| {
            let has = |topic: &&TopicId| stream.config.size(**topic).is_some();
            match topics.iter().find(|topic| !has(topic)) {
                Some(topic) => Err(StreamError::UnknownTopic { topic: *topic }),
                None => {
                    if topics.is_empty() {
                        topics = stream.config.topics.iter().map(|size| size.topic).collect();
                    }
                    Ok(Reads { topics, assignor })
                }
            }
        })?
    }

    /// The answer to a heartbeat that needs no entry.
    fn quiet(
        &self,
        group: GroupId,
        caller: &Caller,
        generation: Generation,
    ) -> Result<Option<Told>, StreamError> {
        let now_ms = self.inner.lease_now_ms();
        self.with_stream(group, |stream| {
            if stream.has_nothing_for(caller) || !stream.state.is_quiet(caller, generation, now_ms)
            {
                return None;
            }
            let own = stream.state.share(&caller.member)?.own.clone();
            Some(Told { generation, own, give_up: PartitionSet::default() })
        })
    }

    fn interval_ms(&self, group: GroupId, caller: &Caller) -> u64 {
        let found = self.with_stream(group, |stream| {
            let member = stream.state.member(&caller.member)?;
            let rest_ms = member.timeouts.session_ms / BEATS_PER_SESSION;
            let is_at_rest = stream.state.is_at_rest(&caller.member);
            Some(if is_at_rest { rest_ms.min(INTERVAL_MS_MAX) } else { INTERVAL_MS_BUSY })
        });
        found.ok().flatten().unwrap_or(INTERVAL_MS_BUSY)
    }

    async fn commit(
        &self,
        request: CommitRequest,
    ) -> Result<Vec<Result<(), CommitError>>, StreamError> {
        check_count(request.offsets.len())?;
        let committer = match &request.committer {
            None => Committer::Nobody,
            Some((member, generation)) => {
                Committer::Member { caller: caller(member)?, generation: Generation(*generation) }
            }
        };
        let commit = |stored: StreamOffset| Commit {
            key: stored.key,
            offset: stored.offset,
            leader_epoch: stored.leader_epoch.map(LeaderEpoch),
            metadata: stored.metadata,
        };
        let commits = request.offsets.into_iter().map(commit).collect();
        let stored = self.operate(request.group, StreamWhat::Commit { committer, commits }).await?;
        Ok(results(stored))
    }

    /// An operation in the log; what came of it, if the group did it.
    async fn operate(
        &self,
        group: GroupId,
        what: StreamWhat,
    ) -> Result<StreamOutcome, StreamError> {
        let op = StreamOp { group, what };
        let size = op.size();
        if size > OP_BYTES_MAX {
            let reason = format!("the request takes {size} bytes, at most {OP_BYTES_MAX}");
            return Err(StreamError::Invalid { reason });
        }
        match self.submit_stream_op(op).await? {
            StreamOutcome::Refused(refused) => Err(refused.into()),
            StreamOutcome::UnknownGroup => Err(StreamError::UnknownGroup),
            outcome => Ok(outcome),
        }
    }

    /// What is applied, told only by one who leads.
    async fn look<T>(
        &self,
        group: GroupId,
        look: impl FnOnce(&Stream) -> T,
    ) -> Result<T, StreamError> {
        self.confirm().await.map_err(QueueError::from)?;
        self.with_stream(group, look)
    }

    fn with_stream<T>(
        &self,
        group: GroupId,
        look: impl FnOnce(&Stream) -> T,
    ) -> Result<T, StreamError> {
        if self.inner.is_closing() {
            return Err(QueueError::from(FetchError::ShuttingDown).into());
        }
        // Wrong when planted: who leads no more tells members that they have what others have.
        if !self.inner.group.leads_for_sure() && !planted("broker-heard-by-anybody") {
            return Err(StreamError::NotLeader { hint: None });
        }
        self.inner.group.with_machine(|machine| {
            let stream = machine.groups().streams.groups.get(&group);
            stream.map(|stream| look(stream)).ok_or(StreamError::UnknownGroup)
        })
    }
}

fn caller(member: &StreamMember) -> Result<Caller, StreamError> {
    let name = |text: &str| {
        Name::new(text).ok_or_else(|| StreamError::Invalid {
            reason: format!("names of members and instances have 1 to {NAME_BYTES_MAX} bytes"),
        })
    };
    let instance = member.instance.as_deref().map(name).transpose()?;
    Ok(Caller { member: MemberId(name(&member.id)?), instance: instance.map(InstanceName) })
}

fn timeouts(session_ms: u64, rebalance_ms: u64) -> Result<Timeouts, StreamError> {
    let or = |asked, default| if asked == 0 { default } else { asked };
    let timeouts = Timeouts {
        session_ms: or(session_ms, SESSION_MS_DEFAULT),
        rebalance_ms: or(rebalance_ms, REBALANCE_MS_DEFAULT),
    };
    if timeouts.is_allowed() {
        return Ok(timeouts);
    }
    Err(StreamError::Invalid {
        reason: format!(
            "a session lasts {SESSION_MS_MIN} to {SESSION_MS_MAX} ms and a rebalance \
             {REBALANCE_MS_MIN} to {REBALANCE_MS_MAX} ms"
        ),
    })
}

fn check_count(count: usize) -> Result<(), StreamError> {
    if count <= OFFSETS_PER_REQUEST_MAX {
        return Ok(());
    }
    let reason = format!("{count} partitions in a request, at most {OFFSETS_PER_REQUEST_MAX}");
    Err(StreamError::Invalid { reason })
}

fn results(outcome: StreamOutcome) -> Vec<Result<(), CommitError>> {
    let StreamOutcome::Stored(results) = outcome else { return Vec::new() };
    results.into_iter().map(|result| result.map_err(CommitError::from)).collect()
}

fn offsets(stream: &Stream, keys: &[PartitionKey]) -> Vec<StreamOffset> {
    let found = |key: &PartitionKey| {
        let stored = stream.state.offset(*key)?;
        Some(StreamOffset {
            key: *key,
            offset: stored.offset,
            leader_epoch: stored.leader_epoch.map(|epoch| epoch.0),
            metadata: stored.metadata.to_string(),
        })
    };
    keys.iter().filter_map(found).collect()
}

fn describe(stream: &Stream, topic: TopicId) -> StreamDescription {
    let state = &stream.state;
    let of_topic = |keys: &PartitionSet| -> Vec<PartitionId> {
        keys.iter().filter(|key| key.topic == topic).map(|key| key.partition).collect()
    };
    let members = state.members().map(|(id, member)| {
        let share = state.share(id);
        let give_up = share.map(|share| share.held.without(&share.own));
        StreamMemberDescription {
            member: StreamMember {
                id: id.0.as_str().to_owned(),
                instance: member.instance.as_ref().map(|name| name.0.as_str().to_owned()),
            },
            generation: share.map_or(state.generation(), |share| share.generation).0,
            own: share.map(|share| of_topic(&share.own)).unwrap_or_default(),
            give_up: give_up.as_ref().map(of_topic).unwrap_or_default(),
        }
    });
    let offset = |(key, stored): (PartitionKey, &crate::group::offsets::Stored)| {
        (key.topic == topic).then_some((key.partition, stored.offset))
    };
    let offsets: Vec<(PartitionId, Offset)> = state.offsets().iter().filter_map(offset).collect();
    StreamDescription {
        generation: state.generation().0,
        standing: state.standing(),
        members: members.collect(),
        offsets,
    }
}
