//! The stored form of stream groups in a shard's checkpoint.
//!
//! Owns: the rkyv form, version 1, of a group's parts. What the parts make up, and within which
//! bounds, is checked by the group itself.
//! Invariants: variants are only ever appended.

use std::rc::Rc;

use barrage_model::{GroupId, Offset, TopicId};
use barrage_world::planted;
use rkyv::{Archive, Deserialize, Serialize};

use crate::command::streams::{
    StreamConfigV1, load_assignor, load_config, load_key, store_assignor, store_config, store_key,
};
use crate::group::generation::Generation;
use crate::group::handover::{Plan, Share, TopicSize};
use crate::group::name::{InstanceName, MemberId, Name, ProtocolName};
use crate::group::offsets::{LeaderEpoch, Stored};
use crate::group::partition_set::PartitionSet;
use crate::group::rebalance::{Agreement, Meeting, Progress, Protocol, Seat, Stage};
use crate::group::roster::{Member, Timeouts};
use crate::group::saved::{Members, Saved};
use crate::group::stream::StreamGroup;
use crate::shard::streams::Stream;

#[derive(Archive, Serialize, Deserialize)]
pub(super) struct StreamV1 {
    group: u64,
    config: StreamConfigV1,
    generation: u32,
    members: MembersV1,
    offsets: Vec<OffsetV1>,
}

#[derive(Archive, Serialize, Deserialize)]
enum MembersV1 {
    Nobody { since_ms: u64, assigned_ms: Option<u64> },
    Native { members: Vec<(MemberV1, ShareV1)>, plan: PlanV1 },
    Classic { members: Vec<(MemberV1, SeatV1)>, meeting: MeetingV1 },
}

#[derive(Archive, Serialize, Deserialize)]
struct MemberV1 {
    id: String,
    instance: Option<String>,
    replaced: Option<String>,
    session_ms: u64,
    rebalance_ms: u64,
    deadline_ms: Option<u64>,
    carried_size: u64,
}

type Keys = Vec<(u64, u32)>;

#[derive(Archive, Serialize, Deserialize)]
struct ShareV1 {
    topics: Vec<u64>,
    assignor: u8,
    generation: u32,
    previous: u32,
    held: Keys,
    own: Keys,
    target: Keys,
    give_up_by_ms: Option<u64>,
}

#[derive(Archive, Serialize, Deserialize)]
struct PlanV1 {
    sizes: Keys,
    is_pending: bool,
    assigned_ms: Option<u64>,
}

/// Progress: 0 absent, 1 joined, 2 synced.
#[derive(Archive, Serialize, Deserialize)]
struct SeatV1 {
    protocols: Vec<(String, Vec<u8>)>,
    progress: u8,
    assignment: Vec<u8>,
}

#[derive(Archive, Serialize, Deserialize)]
struct MeetingV1 {
    kind: String,
    stage: StageV1,
    /// Leader and protocol.
    agreement: Option<(String, String)>,
}

#[derive(Archive, Serialize, Deserialize)]
enum StageV1 {
    Joining { since_ms: u64, until_ms: u64, is_first: bool },
    Syncing { until_ms: u64 },
    Stable { sync_by_ms: Option<u64> },
}

#[derive(Archive, Serialize, Deserialize)]
struct OffsetV1 {
    key: (u64, u32),
    offset: u64,
    leader_epoch: Option<u32>,
    metadata: String,
    stored_ms: u64,
}

pub(super) fn store(group: GroupId, stream: &Stream) -> StreamV1 {
    let Saved { generation, members, offsets } = stream.state.save();
    let members = match members {
        Members::Nobody { since_ms, assigned_ms } => MembersV1::Nobody { since_ms, assigned_ms },
        Members::Native { members, plan } => {
            let store = |(id, member, share)| (store_member(&id, &member), store_share(&share));
            let members = members.into_iter().map(store).collect();
            MembersV1::Native { members, plan: store_plan(&plan) }
        }
        Members::Classic { members, meeting } => {
            let store = |(id, member, seat)| (store_member(&id, &member), store_seat(&seat));
            let members = members.into_iter().map(store).collect();
            MembersV1::Classic { members, meeting: store_meeting(meeting) }
        }
    };
    let offset = |(key, stored): &(_, Stored)| OffsetV1 {
        key: store_key(key),
        offset: stored.offset.0,
        leader_epoch: stored.leader_epoch.map(|epoch| epoch.0),
        metadata: stored.metadata.to_string(),
        stored_ms: stored.stored_ms,
    };
    StreamV1 {
        group: group.0,
        config: store_config(&stream.config),
        generation: match planted("broker-generation-not-in-checkpoint") {
            // Wrong: after a restart generations are given out that were given out before.
            true => 0,
            false => generation.0,
        },
        members,
        offsets: match planted("broker-offsets-not-in-checkpoint") {
            // Wrong: after a restart the group has read nothing.
            true => Vec::new(),
            false => offsets.iter().map(offset).collect(),
        },
    }
}

/// The group, unless it is none that commands could have made.
pub(super) fn load(stored: StreamV1) -> Option<(GroupId, Stream)> {
    let members = match stored.members {
        MembersV1::Nobody { since_ms, assigned_ms } => Members::Nobody { since_ms, assigned_ms },
        MembersV1::Native { members, plan } => {
            let load = |(member, share)| {
                let (id, member) = load_member(member)?;
                Some((id, member, load_share(share)?))
            };
            let members: Option<Vec<_>> = members.into_iter().map(load).collect();
            Members::Native { members: members?, plan: load_plan(plan) }
        }
        MembersV1::Classic { members, meeting } => {
            let load = |(member, seat)| {
                let (id, member) = load_member(member)?;
                Some((id, member, load_seat(seat)?))
            };
            let members: Option<Vec<_>> = members.into_iter().map(load).collect();
            Members::Classic { members: members?, meeting: load_meeting(meeting)? }
        }
    };
    let offset = |stored: OffsetV1| {
        let kept = Stored {
            offset: Offset(stored.offset),
            leader_epoch: stored.leader_epoch.map(LeaderEpoch),
            metadata: stored.metadata.into(),
            stored_ms: stored.stored_ms,
        };
        (load_key(stored.key), kept)
    };
    let offsets = stored.offsets.into_iter().map(offset).collect();
    let generation = Generation(stored.generation);
    let state = StreamGroup::restore(Saved { generation, members, offsets }).ok()?;
    Some((GroupId(stored.group), Stream { config: load_config(stored.config), state }))
}

fn store_member(id: &MemberId, member: &Member) -> MemberV1 {
    MemberV1 {
        id: text(&id.0),
        instance: member.instance.as_ref().map(|instance| text(&instance.0)),
        replaced: member.replaced.as_ref().map(|replaced| text(&replaced.0)),
        session_ms: member.timeouts.session_ms,
        rebalance_ms: member.timeouts.rebalance_ms,
        deadline_ms: member.deadline_ms,
        carried_size: member.carried_size as u64,
    }
}

fn load_member(stored: MemberV1) -> Option<(MemberId, Member)> {
    let named = |name: Option<String>| match name {
        Some(name) => Name::new(&name).map(Some),
        None => Some(None),
    };
    let MemberV1 { session_ms, rebalance_ms, deadline_ms, .. } = stored;
    let member = Member {
        instance: named(stored.instance)?.map(InstanceName),
        replaced: named(stored.replaced)?.map(MemberId),
        timeouts: Timeouts { session_ms, rebalance_ms },
        deadline_ms,
        carried_size: usize::try_from(stored.carried_size).ok()?,
    };
    Some((MemberId(Name::new(&stored.id)?), member))
}

fn store_share(share: &Share) -> ShareV1 {
    ShareV1 {
        topics: share.topics.iter().map(|topic| topic.0).collect(),
        assignor: store_assignor(share.assignor),
        generation: share.generation.0,
        previous: share.previous.0,
        held: store_keys(&share.held),
        own: store_keys(&share.own),
        target: store_keys(&share.target),
        give_up_by_ms: share.give_up_by_ms,
    }
}

fn load_share(stored: ShareV1) -> Option<Share> {
    Some(Share {
        topics: stored.topics.into_iter().map(TopicId).collect(),
        assignor: load_assignor(stored.assignor)?,
        generation: Generation(stored.generation),
        previous: Generation(stored.previous),
        held: load_keys(stored.held),
        own: load_keys(stored.own),
        target: load_keys(stored.target),
        give_up_by_ms: stored.give_up_by_ms,
    })
}

fn store_plan(plan: &Plan) -> PlanV1 {
    let sizes = plan.sizes.iter().map(|size| (size.topic.0, size.partitions)).collect();
    PlanV1 { sizes, is_pending: plan.is_pending, assigned_ms: plan.assigned_ms }
}

fn load_plan(stored: PlanV1) -> Plan {
    let size = |(topic, partitions)| TopicSize { topic: TopicId(topic), partitions };
    let sizes = stored.sizes.into_iter().map(size).collect();
    Plan { sizes, is_pending: stored.is_pending, assigned_ms: stored.assigned_ms }
}

fn store_seat(seat: &Seat) -> SeatV1 {
    let protocol = |protocol: &Protocol| (text(&protocol.name.0), protocol.metadata.to_vec());
    SeatV1 {
        protocols: seat.protocols.iter().map(protocol).collect(),
        progress: match seat.progress {
            Progress::Absent => 0,
            Progress::Joined => 1,
            Progress::Synced => 2,
        },
        assignment: seat.assignment.to_vec(),
    }
}

fn load_seat(stored: SeatV1) -> Option<Seat> {
    let protocol = |(name, metadata): (String, Vec<u8>)| {
        let name = ProtocolName(Name::new(&name)?);
        Some(Protocol { name, metadata: metadata.into() })
    };
    let protocols: Option<Rc<[_]>> = stored.protocols.into_iter().map(protocol).collect();
    let progress = match stored.progress {
        0 => Progress::Absent,
        1 => Progress::Joined,
        2 => Progress::Synced,
        _ => return None,
    };
    Some(Seat { protocols: protocols?, progress, assignment: stored.assignment.into() })
}

fn store_meeting(meeting: Meeting) -> MeetingV1 {
    let stage = match meeting.stage {
        Stage::Joining { since_ms, until_ms, is_first } => {
            StageV1::Joining { since_ms, until_ms, is_first }
        }
        Stage::Syncing { until_ms } => StageV1::Syncing { until_ms },
        Stage::Stable { sync_by_ms } => StageV1::Stable { sync_by_ms },
    };
    let agreement = |agreement: Agreement| (text(&agreement.leader.0), text(&agreement.protocol.0));
    MeetingV1 { kind: text(&meeting.kind), stage, agreement: meeting.agreement.map(agreement) }
}

fn load_meeting(stored: MeetingV1) -> Option<Meeting> {
    let stage = match stored.stage {
        StageV1::Joining { since_ms, until_ms, is_first } => {
            Stage::Joining { since_ms, until_ms, is_first }
        }
        StageV1::Syncing { until_ms } => Stage::Syncing { until_ms },
        StageV1::Stable { sync_by_ms } => Stage::Stable { sync_by_ms },
    };
    let agreement = match stored.agreement {
        Some((leader, protocol)) => Some(Agreement {
            leader: MemberId(Name::new(&leader)?),
            protocol: ProtocolName(Name::new(&protocol)?),
        }),
        None => None,
    };
    Some(Meeting { kind: Name::new(&stored.kind)?, stage, agreement })
}

fn text(name: &Name) -> String {
    name.as_str().to_owned()
}

fn store_keys(keys: &PartitionSet) -> Keys {
    keys.as_slice().iter().map(store_key).collect()
}

fn load_keys(stored: Keys) -> PartitionSet {
    stored.into_iter().map(load_key).collect()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests fail by panicking")]

    use super::*;
    use crate::group::rebalance::Candidacy;
    use crate::group::roster::Caller;
    use crate::shard::streams::{POLICY, StreamConfig, Streams};

    fn name(text: &str) -> Name {
        Name::new(text).unwrap()
    }

    /// One of every way.
    fn streams() -> Streams {
        let mut streams = crate::fuzzing::sample_streams();
        let mut classic = StreamGroup::new(5);
        let protocols = vec![Protocol { name: ProtocolName(name("p")), metadata: [1, 2].into() }];
        let candidacy = Candidacy { kind: name("consumer"), protocols };
        for member in ["one", "two"] {
            let instance = Some(InstanceName(name(member)));
            let caller = Caller { member: MemberId(name(member)), instance };
            let timeouts = Timeouts::default();
            let joined = classic.join_classic(&caller, timeouts, &candidacy, &POLICY, 9);
            assert_eq!(joined, Ok(None));
        }
        classic.pass_time(&POLICY, 10_000);
        let config = StreamConfig { topics: Vec::new(), revision: 1 };
        let stream = Stream { config: config.clone(), state: classic };
        streams.groups.insert(GroupId(77), Rc::new(stream));
        let state = StreamGroup::new(8);
        streams.groups.insert(GroupId(78), Rc::new(Stream { config, state }));
        streams
    }

    #[test]
    fn groups_survive_the_round_trip() {
        for (group, stream) in &streams().groups {
            assert_eq!(load(store(*group, stream)), Some((*group, Stream::clone(stream))));
        }
    }

    #[test]
    fn what_is_no_group_is_refused() {
        let check = |change: &dyn Fn(&mut Vec<StreamV1>)| {
            let streams = streams();
            let stored = streams.groups.iter().map(|(group, stream)| store(*group, stream));
            let mut stored: Vec<_> = stored.collect();
            change(&mut stored);
            assert!(stored.into_iter().any(|stream| load(stream).is_none()));
        };
        check(&|stored| stored.iter_mut().for_each(|stream| stream.generation = u32::MAX));
        let members = |stored: &mut Vec<StreamV1>, change: &dyn Fn(&mut MemberV1, &mut ShareV1)| {
            for stream in stored {
                if let MembersV1::Native { members, .. } = &mut stream.members {
                    members.iter_mut().for_each(|(member, share)| change(member, share));
                }
            }
        };
        check(&|stored| members(stored, &|member, _| member.id.clear()));
        check(&|stored| members(stored, &|member, _| member.session_ms = 0));
        check(&|stored| members(stored, &|_, share| share.assignor = 3));
        check(&|stored| {
            for stream in stored {
                if let MembersV1::Classic { members, .. } = &mut stream.members {
                    members.iter_mut().for_each(|(_, seat)| seat.progress = 3);
                }
            }
        });
    }
}
