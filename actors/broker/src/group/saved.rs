//! What a checkpoint keeps of a group: plain parts, nothing derived.
//!
//! Owns: taking a group apart and putting it together. The bytes are the business of the
//! checkpoint's format.
//! Must never: put together what no commands could have made, as far as bounds tell.
//! Invariants: equal groups are saved as equal parts, and what is restored is equal to what was
//! saved.

use barrage_model::PartitionKey;

use super::generation::Generation;
use super::handover::{Handover, Plan, Share};
use super::name::MemberId;
use super::offsets::{Offsets, Stored};
use super::rebalance::{Meeting, Rebalance, Seat};
use super::roster::{Member, Roster};
use super::stream::{StreamGroup, Way};

/// See the module.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Saved {
    pub(crate) generation: Generation,
    pub(crate) members: Members,
    pub(crate) offsets: Vec<(PartitionKey, Stored)>,
}

/// The members with their parts, by the way the group works; ascending by id.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Members {
    Nobody { since_ms: u64, assigned_ms: Option<u64> },
    Native { members: Vec<(MemberId, Member, Share)>, plan: Plan },
    Classic { members: Vec<(MemberId, Member, Seat)>, meeting: Meeting },
}

/// The parts are none of a group.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the parts of the group are out of their bounds")]
pub(crate) struct OutOfBounds;

impl StreamGroup {
    /// What a checkpoint keeps. Cost: that of members and offsets; what they share is shared.
    pub(crate) fn save(&self) -> Saved {
        let members = match &self.way {
            Way::Empty { since_ms, assigned_ms } => {
                Members::Nobody { since_ms: *since_ms, assigned_ms: *assigned_ms }
            }
            Way::Native(handover) => Members::Native {
                members: self.parts(|id| handover.share(id).cloned()),
                plan: handover.plan(),
            },
            Way::Classic(rebalance) => Members::Classic {
                members: self.parts(|id| rebalance.seat(id).cloned()),
                meeting: rebalance.meeting(),
            },
        };
        let offsets = self.offsets.iter().map(|(key, stored)| (key, stored.clone())).collect();
        Saved { generation: self.generation, members, offsets }
    }

    /// What a checkpoint kept.
    pub(crate) fn restore(saved: Saved) -> Result<Self, OutOfBounds> {
        let Saved { generation, members, offsets } = saved;
        if generation.0 > Generation::MAX.0 {
            return Err(OutOfBounds);
        }
        let (roster, way) = match members {
            Members::Nobody { since_ms, assigned_ms } => {
                (Some(Roster::default()), Some(Way::Empty { since_ms, assigned_ms }))
            }
            Members::Native { members, plan } => {
                let (roster, shares) = split(members);
                (roster, Handover::restore(shares, plan).map(Way::Native))
            }
            Members::Classic { members, meeting } => {
                let (roster, seats) = split(members);
                // Only a roster's ids are known to be each once.
                let rebalance = roster.as_ref().and_then(|_| Rebalance::restore(seats, meeting));
                (roster, rebalance.map(Way::Classic))
            }
        };
        let roster = roster.ok_or(OutOfBounds)?;
        let way = way.ok_or(OutOfBounds)?;
        // Without members a group works no way at all.
        if roster.is_empty() != matches!(way, Way::Empty { .. }) {
            return Err(OutOfBounds);
        }
        let offsets = Offsets::restore(offsets.into_iter()).ok_or(OutOfBounds)?;
        Ok(Self { generation, roster, way, offsets })
    }

    fn parts<P>(&self, part: impl Fn(&MemberId) -> Option<P>) -> Vec<(MemberId, Member, P)> {
        let members = self.roster.iter();
        let parts: Vec<_> = members
            .filter_map(|(id, member)| Some((id.clone(), member.clone(), part(id)?)))
            .collect();
        assert_eq!(parts.len(), self.roster.len(), "every member has its part");
        parts
    }
}

fn split<P>(members: Vec<(MemberId, Member, P)>) -> (Option<Roster>, Vec<(MemberId, P)>) {
    let mut parts = Vec::with_capacity(members.len());
    let members = members.into_iter().map(|(id, member, part)| {
        parts.push((id.clone(), part));
        (id, member)
    });
    let roster = Roster::restore(members);
    (roster, parts)
}

#[cfg(test)]
mod tests {
    use barrage_model::limits::PARTITIONS_PER_TOPIC_MAX;

    use super::super::handover::TOPICS_PER_MEMBER_MAX;
    use super::super::name::ProtocolName;
    use super::super::partition_set::PartitionSet;
    use super::super::rebalance::{PROTOCOLS_MAX, Protocol, Stage};
    use super::super::script::{Script, caller, key, sizes};
    use super::*;

    fn native() -> Script {
        let mut script = Script::new();
        assert_eq!(script.commit("", 0, &[(100, 5)]), Ok(vec![Ok(())]));
        assert!(script.join("a@i", &[(1, 4)]).is_ok());
        assert!(script.join("b", &[(1, 4), (2, 1)]).is_ok());
        script.pass(1_000);
        assert!(script.beat("a@i", 1, &[]).is_ok());
        assert!(script.beat("a@i", 2, &[100]).is_ok());
        assert!(script.beat("b", 1, &[]).is_ok());
        script
    }

    fn classic() -> Script {
        let mut script = Script::new();
        assert!(script.meet("a", &["p", "q"]).is_ok());
        assert_eq!(script.meet("b", &["q"]), Ok(None));
        assert!(script.meet("a", &["p", "q"]).is_ok());
        assert!(script.sync("a", 2, &[("a", "1"), ("b", "2")]).is_ok());
        script
    }

    #[test]
    fn groups_survive_the_round_trip() {
        Script::new().check_round_trip();
        native().check_round_trip();
        classic().check_round_trip();
    }

    /// One that was restored goes on as the one before.
    #[test]
    fn a_restored_group_goes_on() {
        let mut one = native();
        let group = StreamGroup::restore(one.check_round_trip());
        let mut other = native();
        other.group = group.unwrap_or_else(|_| StreamGroup::new(0));
        for script in [&mut one, &mut other] {
            assert!(script.beat("b", 2, &[]).is_ok());
            assert_eq!(script.commit("b", 2, &[(200, 3)]), Ok(vec![Ok(())]));
            script.pass(46_000);
        }
        assert_eq!(one.group, other.group);
        assert_eq!(one.next_due_ms(), other.next_due_ms());
    }

    fn check_native(change: impl Fn(&mut Vec<(MemberId, Member, Share)>, &mut Plan)) {
        let mut saved = native().check_round_trip();
        let Members::Native { members, plan } = &mut saved.members else {
            unreachable!("it is native")
        };
        change(members, plan);
        assert_eq!(StreamGroup::restore(saved), Err(OutOfBounds));
    }

    fn check_classic(change: impl Fn(&mut Vec<(MemberId, Member, Seat)>, &mut Meeting)) {
        let mut saved = classic().check_round_trip();
        let Members::Classic { members, meeting } = &mut saved.members else {
            unreachable!("it is classic")
        };
        change(members, meeting);
        assert_eq!(StreamGroup::restore(saved), Err(OutOfBounds));
    }

    #[test]
    fn parts_of_no_native_group_are_refused() {
        let keys = |codes: &[u64]| codes.iter().copied().map(key).collect::<PartitionSet>();
        let topics = |count: usize| (0..count as u64).map(barrage_model::TopicId).collect();
        check_native(|members, _| members.clear());
        check_native(|members, _| members.extend_from_within(..1));
        check_native(|members, _| members.iter_mut().for_each(|m| m.2.held = keys(&[100, 101])));
        check_native(|members, _| members.iter_mut().for_each(|m| m.2.own = keys(&[999])));
        check_native(|members, _| members.iter_mut().for_each(|m| m.2.target = keys(&[100])));
        check_native(|members, _| members.iter_mut().for_each(|m| m.1.carried_size = usize::MAX));
        check_native(|members, _| {
            members.iter_mut().for_each(|m| m.2.topics = topics(TOPICS_PER_MEMBER_MAX + 1));
        });
        check_native(|members, _| {
            members.iter_mut().for_each(|m| m.2.topics = topics(2).iter().rev().copied().collect());
        });
        check_native(|_, plan| plan.sizes = sizes(&[(1, PARTITIONS_PER_TOPIC_MAX + 1)]));
        check_native(|_, plan| {
            plan.sizes = (0..21).flat_map(|t| sizes(&[(t, PARTITIONS_PER_TOPIC_MAX)])).collect();
        });
    }

    #[test]
    fn parts_of_no_classic_group_are_refused() {
        check_classic(|members, _| members.clear());
        check_classic(|members, _| members.extend_from_within(..1));
        check_classic(|_, meeting| meeting.agreement = None);
        check_classic(|_, meeting| {
            let gone = caller("gone").member;
            meeting.agreement.iter_mut().for_each(|agreement| agreement.leader = gone.clone());
        });
        check_classic(|members, meeting| {
            // Nothing is known to both any more, though they only meet.
            let until_ms = 9;
            meeting.stage = Stage::Joining { since_ms: 0, until_ms, is_first: true };
            members.iter_mut().take(1).for_each(|m| m.2.protocols = [].into());
        });
        check_classic(|_, meeting| {
            let unknown = ProtocolName(meeting.kind.clone());
            meeting.agreement.iter_mut().for_each(|a| a.protocol = unknown.clone());
        });
        check_classic(|members, _| {
            for (_, _, seat) in members {
                let one = seat.protocols.last().cloned();
                let many: Vec<Protocol> =
                    std::iter::repeat_n(one, PROTOCOLS_MAX + 1).flatten().collect();
                seat.protocols = many.into();
            }
        });
    }

    #[test]
    fn what_is_common_is_checked_too() {
        let check = |change: &dyn Fn(&mut Saved)| {
            let mut saved = native().check_round_trip();
            change(&mut saved);
            assert_eq!(StreamGroup::restore(saved), Err(OutOfBounds));
        };
        check(&|saved| saved.generation = Generation(u32::MAX));
        check(&|saved| saved.offsets.extend_from_within(..));
    }
}
