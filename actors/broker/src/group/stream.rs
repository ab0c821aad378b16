//! A consumer group of kind `stream`: the one value a home shard keeps of it.
//!
//! Owns: the order of things in a command: who calls, whether it is late, what changes, what is due
//! because of it, the answer. Everything else is the business of the parts.
//! Must never: hold a reply back. Who has to wait is told so, and whoever carries the request looks
//! again after each command of the group: [`StreamGroup::joined`], [`StreamGroup::synced`].
//! Invariants: the group works a way exactly while it has members, all of them its; a generation is
//! borne by one assignment. Heartbeats are commands, as sessions live in the state; one that
//! [`StreamGroup::is_quiet`] knows needs none.

use std::rc::Rc;

use barrage_model::{Offset, PartitionKey, TopicId};
use barrage_world::planted;

use super::generation::Generation;
use super::handover::{Beat, Handover, Knows, Share, Subscription, Told, TopicSize};
use super::name::{InstanceName, MemberId};
use super::offsets::{Commit, Offsets, Stored};
use super::rebalance::{Arrival, Candidacy, Joined, Rebalance, Seat, Stage};
use super::refused::{NotStored, Refused};
use super::roster::{Caller, Entrance, Member, Newcomer, Roster, Timeouts};

/// What is set for a group, outside of its state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Policy {
    /// How long the first meeting of a classic group waits for more members.
    pub(crate) first_meeting_ms: u64,
    /// How long offsets are kept once the group has no members; `None` means for ever.
    pub(crate) offsets_retention_ms: Option<u64>,
}

impl Default for Policy {
    fn default() -> Self {
        let week_ms = 7 * 24 * 60 * 60 * 1_000;
        Self { first_meeting_ms: 3_000, offsets_retention_ms: Some(week_ms) }
    }
}

/// Who stores offsets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Committer {
    Member {
        caller: Caller,
        generation: Generation,
    },
    /// Somebody who reads without being a member.
    Nobody,
}

/// What happened because time passed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Passed {
    /// Members that are gone.
    pub(crate) members: Vec<MemberId>,
    /// Offsets that are kept no longer.
    pub(crate) offsets: usize,
}

/// How a group stands, for those who look at it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// Nobody is in it.
    Empty,
    /// Native: partitions are to be shared out.
    Assigning,
    /// Native: partitions move.
    Reconciling,
    /// Classic: members meet.
    Joining,
    /// Classic: the leader is at work.
    Syncing,
    /// Everybody has what it is to have.
    Stable,
}

/// How a group works.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Way {
    /// Since when, and when partitions were shared out last: who comes and goes again and again
    /// does not make that more frequent.
    Empty {
        since_ms: u64,
        assigned_ms: Option<u64>,
    },
    Native(Handover),
    Classic(Rebalance),
}

/// See the module.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct StreamGroup {
    pub(super) generation: Generation,
    pub(super) roster: Roster,
    pub(super) way: Way,
    pub(super) offsets: Offsets,
}

/// What is common to both ways.
impl StreamGroup {
    /// A group of nobody.
    pub(crate) fn new(now_ms: u64) -> Self {
        Self {
            generation: Generation::NONE,
            roster: Roster::default(),
            way: Way::Empty { since_ms: now_ms, assigned_ms: None },
            offsets: Offsets::default(),
        }
    }

    /// A member goes.
    pub(crate) fn leave(&mut self, caller: &Caller, now_ms: u64) -> Result<(), Refused> {
        self.roster.check(caller)?;
        self.remove(&caller.member, now_ms);
        self.go_on(now_ms);
        Ok(())
    }

    /// Somebody clears the place of an instance.
    pub(crate) fn evict(&mut self, instance: &InstanceName, now_ms: u64) -> Result<(), Refused> {
        let member = self.roster.instance(instance).cloned().ok_or(Refused::UnknownMember)?;
        self.remove(&member, now_ms);
        self.go_on(now_ms);
        Ok(())
    }

    /// Stores offsets, each for itself.
    pub(crate) fn commit(
        &mut self,
        committer: &Committer,
        commits: &[Commit],
        now_ms: u64,
    ) -> Result<Vec<Result<(), NotStored>>, Refused> {
        let held = match (committer, &self.way) {
            (Committer::Nobody, Way::Empty { .. }) => None,
            (Committer::Nobody, _) => return Err(Refused::HasMembers),
            (Committer::Member { caller, generation }, way) => {
                self.roster.check(caller)?;
                let held = match way {
                    Way::Empty { .. } => return Err(Refused::UnknownMember),
                    Way::Native(handover) => {
                        Some(handover.held(&caller.member, *generation)?.clone())
                    }
                    Way::Classic(rebalance) => {
                        fence(*generation, self.generation)?;
                        // Nobody has read anything in this generation yet.
                        if let Stage::Syncing { .. } = rebalance.stage() {
                            return Err(Refused::Rebalancing);
                        }
                        None
                    }
                };
                self.roster.renew_if_running(&caller.member, now_ms);
                held
            }
        };
        let store = |commit: &Commit| match &held {
            // Wrong when planted: what a member let go it still moves.
            Some(held) if !held.contains(commit.key) && !planted("broker-foreign-commit-taken") => {
                Err(NotStored::NotOwner)
            }
            _ => self.offsets.commit(commit, now_ms),
        };
        Ok(commits.iter().map(store).collect())
    }

    /// Sets offsets, back or forth, while there are no members: one would go on from where it is,
    /// and store that.
    pub(crate) fn reset(
        &mut self,
        to: &[(PartitionKey, Offset)],
        now_ms: u64,
    ) -> Result<Vec<Result<(), NotStored>>, Refused> {
        let Way::Empty { .. } = self.way else { return Err(Refused::HasMembers) };
        let set = |(key, offset): &(PartitionKey, Offset)| self.offsets.set(*key, *offset, now_ms);
        Ok(to.iter().map(set).collect())
    }

    /// A topic is gone, and its offsets with it; answers how many.
    pub(crate) fn remove_topic(&mut self, topic: TopicId, now_ms: u64) -> usize {
        if let Way::Native(handover) = &mut self.way {
            handover.remove_topic(topic);
        }
        self.go_on(now_ms);
        self.offsets.remove_topic(topic)
    }

    /// Lets time pass: sessions end, members that hold others up are gone, offsets expire.
    pub(crate) fn pass_time(&mut self, policy: &Policy, now_ms: u64) -> Passed {
        let mut members = self.roster.over(now_ms);
        match &self.way {
            Way::Empty { .. } => {}
            Way::Native(handover) => members.extend(handover.overdue(now_ms)),
            Way::Classic(rebalance) => members.extend(rebalance.unsynced(&self.roster, now_ms)),
        }
        members.sort_unstable();
        members.dedup();
        for member in &members {
            self.remove(member, now_ms);
        }
        if let Way::Classic(rebalance) = &mut self.way {
            rebalance.give_up_waiting(&self.roster, now_ms);
        }
        self.go_on(now_ms);
        let until_ms = self.expiry(policy, |retention_ms| now_ms.checked_sub(retention_ms));
        let offsets = match (until_ms, &self.way) {
            (Some(until_ms), Way::Empty { since_ms, .. }) if *since_ms <= until_ms => {
                self.offsets.expire(until_ms)
            }
            _ => 0,
        };
        Passed { members, offsets }
    }

    /// When it is worth to let time pass. It may be too early for offsets, never too late.
    pub(crate) fn next_due_ms(&self, policy: &Policy) -> Option<u64> {
        let way_ms = match &self.way {
            Way::Native(handover) => handover.next_due_ms(),
            Way::Classic(rebalance) => rebalance.next_due_ms(),
            Way::Empty { since_ms, .. } => self.expiry(policy, |retention_ms| {
                let oldest_ms = self.offsets.oldest_ms()?;
                Some(oldest_ms.max(*since_ms).saturating_add(retention_ms))
            }),
        };
        [way_ms, self.roster.next_due_ms()].into_iter().flatten().min()
    }

    /// Whether a heartbeat that brings nothing new may be answered without a command: nothing would
    /// change but the session, and almost all of that is still to come. A member that hears nothing
    /// more keeps its partitions for two thirds of a session from then on, and must be done with
    /// them before that is over here.
    pub(crate) fn is_quiet(&self, caller: &Caller, generation: Generation, now_ms: u64) -> bool {
        let Ok(member) = self.roster.check(caller) else { return false };
        let left_ms = member.deadline_ms.map_or(0, |at| at.saturating_sub(now_ms));
        let is_fresh = left_ms > member.timeouts.session_ms / 6 * 5;
        is_fresh
            && generation == self.generation
            && match &self.way {
                Way::Empty { .. } => false,
                Way::Native(handover) => {
                    let share = handover.share(&caller.member);
                    share.is_some_and(|share| share.is_settled(generation))
                }
                Way::Classic(rebalance) => matches!(rebalance.stage(), Stage::Stable { .. }),
            }
    }

    /// Whether nothing would be lost with the group.
    pub(crate) fn is_void(&self) -> bool {
        self.roster.is_empty() && self.offsets.is_empty()
    }

    pub(crate) fn generation(&self) -> Generation {
        self.generation
    }

    pub(crate) fn standing(&self) -> Standing {
        match &self.way {
            Way::Empty { .. } => Standing::Empty,
            Way::Native(handover) if handover.assignment_due_ms().is_some() => Standing::Assigning,
            Way::Native(handover) => match handover.is_settled(self.generation) {
                true => Standing::Stable,
                false => Standing::Reconciling,
            },
            Way::Classic(rebalance) => match rebalance.stage() {
                Stage::Joining { .. } => Standing::Joining,
                Stage::Syncing { .. } => Standing::Syncing,
                Stage::Stable { .. } => Standing::Stable,
            },
        }
    }

    pub(crate) fn members(&self) -> impl Iterator<Item = (&MemberId, &Member)> {
        self.roster.iter()
    }

    pub(crate) fn member(&self, id: &MemberId) -> Option<&Member> {
        self.roster.member(id)
    }

    /// What is stored of a partition.
    pub(crate) fn offset(&self, key: PartitionKey) -> Option<&Stored> {
        self.offsets.at(key)
    }

    pub(crate) fn offsets(&self) -> &Offsets {
        &self.offsets
    }

    fn expiry(&self, policy: &Policy, at: impl Fn(u64) -> Option<u64>) -> Option<u64> {
        policy.offsets_retention_ms.and_then(at)
    }

    /// A member is gone. Afterwards [`Self::go_on`] is due.
    fn remove(&mut self, id: &MemberId, now_ms: u64) {
        self.roster.remove(id);
        match &mut self.way {
            Way::Empty { .. } => {}
            Way::Native(handover) => handover.remove(id),
            Way::Classic(rebalance) => rebalance.remove(id, &self.roster, now_ms),
        }
        self.empty_if_alone(now_ms);
    }

    /// Does what has become due.
    fn go_on(&mut self, now_ms: u64) {
        match &mut self.way {
            Way::Empty { .. } => {}
            Way::Native(handover) => {
                if handover.assignment_due_ms().is_some_and(|due_ms| due_ms <= now_ms) {
                    self.generation = self.generation.following();
                    handover.assign(&self.roster, now_ms);
                }
            }
            Way::Classic(rebalance) => {
                rebalance.go_on(&mut self.roster, &mut self.generation, now_ms);
            }
        }
        self.empty_if_alone(now_ms);
    }

    fn empty_if_alone(&mut self, now_ms: u64) {
        if !self.roster.is_empty() {
            return;
        }
        let assigned_ms = match &self.way {
            Way::Empty { .. } => return,
            Way::Native(handover) => handover.plan().assigned_ms,
            Way::Classic(_) => None,
        };
        self.way = Way::Empty { since_ms: now_ms, assigned_ms };
    }
}

/// The native way.
impl StreamGroup {
    /// Somebody becomes a member. Said again it changes nothing, so that a late repetition takes
    /// back nothing either: what a member reads changes by heartbeats.
    pub(crate) fn join(
        &mut self,
        caller: &Caller,
        timeouts: Timeouts,
        subscription: &Subscription,
        now_ms: u64,
    ) -> Result<Told, Refused> {
        let entrance = self.roster.entrance(caller)?;
        let replaces = match (&entrance, &self.way) {
            (_, Way::Classic(_)) => return Err(Refused::OtherWay),
            (Entrance::Known, _) => {
                self.roster.renew(&caller.member, now_ms);
                return self.tell(&caller.member, Knows::AllButLast, now_ms);
            }
            (Entrance::New, _) => None,
            (Entrance::Replaces(old), _) => Some(old),
        };
        let mut fresh = None;
        let handover = match &mut self.way {
            Way::Native(handover) => handover,
            Way::Empty { assigned_ms, .. } => fresh.insert(Handover::after(*assigned_ms)),
            Way::Classic(_) => return Err(Refused::OtherWay),
        };
        handover.check_room(subscription)?;
        let carried_size = subscription.size();
        self.roster.enter(&Newcomer { caller, replaces, timeouts, carried_size }, now_ms)?;
        if let Some(old) = replaces {
            handover.replace(old, &caller.member);
        }
        handover.subscribe(&caller.member, subscription, self.generation);
        if let Some(handover) = fresh {
            self.way = Way::Native(handover);
        }
        self.tell(&caller.member, Knows::All, now_ms)
    }

    /// A member is there, says what it has, and hears what it is to have.
    pub(crate) fn heartbeat(
        &mut self,
        caller: &Caller,
        beat: &Beat,
        now_ms: u64,
    ) -> Result<Told, Refused> {
        let member = self.roster.check(caller)?;
        let more_by_ms = now_ms.saturating_add(member.timeouts.rebalance_ms);
        let Way::Native(handover) = &mut self.way else { return Err(Refused::OtherWay) };
        let knows = handover.knows(&caller.member, beat.generation)?;
        if let Some(subscription) = &beat.subscription {
            if knows != Knows::All {
                return Err(Refused::StaleGeneration);
            }
            handover.check_room(subscription)?;
            self.roster.carry(&caller.member, subscription.size())?;
            handover.subscribe(&caller.member, subscription, self.generation);
        }
        if let (Some(held), Knows::All) = (&beat.held, knows) {
            handover.report(&caller.member, held, more_by_ms);
        }
        // Wrong when planted: who is heard of all the time is gone when its first session is over.
        if !planted("broker-session-not-renewed") {
            self.roster.renew(&caller.member, now_ms);
        }
        self.tell(&caller.member, knows, now_ms)
    }

    /// Topics have more partitions.
    pub(crate) fn resize(&mut self, topics: &[TopicSize], now_ms: u64) {
        if let Way::Native(handover) = &mut self.way {
            handover.resize(topics);
        }
        self.go_on(now_ms);
    }

    /// The part of a member.
    pub(crate) fn share(&self, id: &MemberId) -> Option<&Share> {
        let Way::Native(handover) = &self.way else { return None };
        handover.share(id)
    }

    /// Whether a member has what it is to have, and nothing is about to change that.
    pub(crate) fn is_at_rest(&self, id: &MemberId) -> bool {
        let Way::Native(handover) = &self.way else { return false };
        let is_settled = |share: &Share| share.is_settled(self.generation);
        handover.assignment_due_ms().is_none() && handover.share(id).is_some_and(is_settled)
    }

    /// Who holds a partition.
    pub(crate) fn owner(&self, key: PartitionKey) -> Option<&MemberId> {
        let Way::Native(handover) = &self.way else { return None };
        handover.owner(key)
    }

    fn tell(&mut self, id: &MemberId, knows: Knows, now_ms: u64) -> Result<Told, Refused> {
        self.go_on(now_ms);
        let rebalance_ms = self.roster.member(id).map_or(0, |member| member.timeouts.rebalance_ms);
        let Way::Native(handover) = &mut self.way else { return Err(Refused::OtherWay) };
        handover.ask_back(id, now_ms.saturating_add(rebalance_ms));
        if knows == Knows::All {
            handover.advance(id, self.generation);
        }
        handover.grant(id, self.generation);
        handover.told(id)
    }
}

/// The classic way.
impl StreamGroup {
    /// Somebody comes to the meeting of the members, or calls one. `None` means that it waits for
    /// the others.
    pub(crate) fn join_classic(
        &mut self,
        caller: &Caller,
        timeouts: Timeouts,
        candidacy: &Candidacy,
        policy: &Policy,
        now_ms: u64,
    ) -> Result<Option<Joined>, Refused> {
        let entrance = self.roster.entrance(caller)?;
        let (replaces, arrival) = match &entrance {
            Entrance::Known => (None, Arrival::Again),
            Entrance::New => (None, Arrival::New),
            Entrance::Replaces(old) => (Some(old), Arrival::Instead),
        };
        let first_until_ms = now_ms.saturating_add(policy.first_meeting_ms);
        let mut fresh = None;
        let rebalance = match &mut self.way {
            Way::Native(_) => return Err(Refused::OtherWay),
            Way::Classic(rebalance) => rebalance,
            Way::Empty { .. } => {
                fresh.insert(Rebalance::first(candidacy.kind.clone(), now_ms, first_until_ms))
            }
        };
        rebalance.check(replaces.unwrap_or(&caller.member), candidacy)?;
        let carried_size = candidacy.size();
        match arrival {
            Arrival::Again => self.roster.carry(&caller.member, carried_size)?,
            Arrival::New | Arrival::Instead => {
                let newcomer = Newcomer { caller, replaces, timeouts, carried_size };
                self.roster.enter(&newcomer, now_ms)?;
            }
        }
        if let Some(old) = replaces {
            rebalance.replace(old, &caller.member);
        }
        rebalance.join(&caller.member, candidacy, arrival, &mut self.roster, now_ms);
        if arrival == Arrival::New {
            rebalance.prolong(first_until_ms, &self.roster);
        }
        if let Some(rebalance) = fresh {
            self.way = Way::Classic(rebalance);
        }
        self.go_on(now_ms);
        self.joined(caller)
    }

    /// What the meeting came to, for one who waits for it.
    pub(crate) fn joined(&self, caller: &Caller) -> Result<Option<Joined>, Refused> {
        self.roster.check(caller)?;
        let Way::Classic(rebalance) = &self.way else { return Err(Refused::OtherWay) };
        rebalance.joined(&caller.member, &self.roster, self.generation)
    }

    /// A member comes for its assignment; the leader brings those of all. `None` means that it
    /// waits for the leader.
    pub(crate) fn sync(
        &mut self,
        caller: &Caller,
        generation: Generation,
        assignments: &[(MemberId, Rc<[u8]>)],
        now_ms: u64,
    ) -> Result<Option<Rc<[u8]>>, Refused> {
        self.roster.check(caller)?;
        let Way::Classic(rebalance) = &mut self.way else { return Err(Refused::OtherWay) };
        fence(generation, self.generation)?;
        rebalance.sync(&caller.member, assignments)?;
        self.roster.renew(&caller.member, now_ms);
        rebalance.synced(&caller.member)
    }

    /// The assignment of this generation, for one who waits for it.
    pub(crate) fn synced(
        &self,
        caller: &Caller,
        generation: Generation,
    ) -> Result<Option<Rc<[u8]>>, Refused> {
        self.roster.check(caller)?;
        let Way::Classic(rebalance) = &self.way else { return Err(Refused::OtherWay) };
        fence(generation, self.generation)?;
        rebalance.synced(&caller.member)
    }

    /// A member is there; it is told to come if there is a meeting.
    pub(crate) fn heartbeat_classic(
        &mut self,
        caller: &Caller,
        generation: Generation,
        now_ms: u64,
    ) -> Result<(), Refused> {
        self.roster.check(caller)?;
        let Way::Classic(rebalance) = &self.way else { return Err(Refused::OtherWay) };
        fence(generation, self.generation)?;
        self.roster.renew_if_running(&caller.member, now_ms);
        match rebalance.stage() {
            Stage::Joining { .. } => Err(Refused::Rebalancing),
            Stage::Syncing { .. } | Stage::Stable { .. } => Ok(()),
        }
    }

    /// The part of a member.
    pub(crate) fn seat(&self, id: &MemberId) -> Option<&Seat> {
        let Way::Classic(rebalance) = &self.way else { return None };
        rebalance.seat(id)
    }
}

fn fence(generation: Generation, current: Generation) -> Result<(), Refused> {
    if generation == current { Ok(()) } else { Err(Refused::StaleGeneration) }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests fail by panicking")]

    use super::super::script::{Script, caller, key};
    use super::*;

    const BEHIND: fn(u64) -> Result<(), NotStored> =
        |stored| Err(NotStored::Behind { stored: Offset(stored) });

    /// A native group: `a` has 100 and 101, is told to give up 102 and 103; `b` waits for those.
    fn native() -> Script {
        let mut script = Script::new();
        assert!(script.join("a", &[(1, 4)]).is_ok());
        assert!(script.join("b", &[(1, 4)]).is_ok());
        script.pass(1_000);
        assert!(script.beat("a", 1, &[]).is_ok());
        assert!(script.beat("b", 1, &[]).is_ok());
        script
    }

    #[test]
    fn a_member_commits_what_it_holds_in_its_generation() {
        let mut script = native();
        let stale = Err(Refused::StaleGeneration);
        for (who, generation, offsets, want) in [
            ("a", 2, &[(100, 7), (102, 5), (104, 1)][..], {
                Ok(vec![Ok(()), Ok(()), Err(NotStored::NotOwner)])
            }),
            ("a", 2, &[(100, 6), (101, 1)], Ok(vec![BEHIND(7), Ok(())])),
            ("a", 1, &[(100, 8)], stale.clone()),
            ("a", 3, &[(100, 8)], stale),
            ("b", 2, &[(102, 9)], Ok(vec![Err(NotStored::NotOwner)])),
            ("c", 2, &[(100, 8)], Err(Refused::UnknownMember)),
            ("a@i", 2, &[(100, 8)], Err(Refused::Fenced)),
            ("", 0, &[(100, 8)], Err(Refused::HasMembers)),
            ("a", 2, &[], Ok(vec![])),
        ] {
            assert_eq!(script.commit(who, generation, offsets), want, "{who} {generation}");
        }
        assert_eq!(
            [100, 101, 102, 104].map(|at| script.offset(at)),
            [Some(7), Some(1), Some(5), None]
        );
        // Handed over, it is the other one's to commit.
        assert!(script.beat("a", 2, &[100, 101]).is_ok());
        assert!(script.beat("b", 2, &[]).is_ok());
        assert_eq!(script.commit("a", 2, &[(102, 6)]), Ok(vec![Err(NotStored::NotOwner)]));
        assert_eq!(script.commit("b", 2, &[(102, 6)]), Ok(vec![Ok(())]));
        script.check_round_trip();
    }

    #[test]
    fn nobody_commits_and_resets_where_nobody_is() {
        let mut script = Script::new();
        assert_eq!(script.commit("", 0, &[(100, 7), (100, 6)]), Ok(vec![Ok(()), BEHIND(7)]));
        let back = [(key(100), Offset(3)), (key(101), Offset(u64::MAX))];
        let want = vec![Ok(()), Err(NotStored::OutOfRange)];
        assert_eq!(script.group.reset(&back, 5), Ok(want));
        assert_eq!(script.offset(100), Some(3));
        assert!(script.meet("a", &["p"]).unwrap().is_some());
        assert_eq!(script.group.reset(&back, 5), Err(Refused::HasMembers));
        assert_eq!(script.commit("", 0, &[(100, 9)]), Err(Refused::HasMembers));
        assert_eq!(script.commit("a", 1, &[(100, 9)]), Err(Refused::Rebalancing));
        assert!(script.sync("a", 1, &[]).is_ok());
        assert_eq!(script.commit("a", 1, &[(100, 9), (700, 1)]), Ok(vec![Ok(()), Ok(())]));
        assert_eq!(script.commit("a", 2, &[(100, 10)]), Err(Refused::StaleGeneration));
        assert_eq!(script.leave("a"), Ok(()));
        assert_eq!(script.commit("a", 1, &[(100, 10)]), Err(Refused::UnknownMember));
        assert_eq!(script.group.reset(&back[..1], 5), Ok(vec![Ok(())]));
        assert_eq!(script.group.remove_topic(TopicId(7), 5), 1);
        assert!(script.group.offsets().topics().eq([TopicId(1)]));
    }

    /// What is committed while the members meet belongs to the assignment before.
    #[test]
    fn a_commit_of_the_last_generation_counts_until_the_meeting_ends() {
        let mut script = Script::new();
        assert!(script.meet("a", &["p"]).unwrap().is_some());
        assert!(script.sync("a", 1, &[]).is_ok());
        assert_eq!(script.meet("b", &["p"]), Ok(None));
        assert_eq!(script.commit("a", 1, &[(100, 4)]), Ok(vec![Ok(())]));
        assert!(script.meet("a", &["p"]).unwrap().is_some());
        assert_eq!(script.commit("a", 1, &[(100, 5)]), Err(Refused::StaleGeneration));
    }

    #[test]
    fn offsets_of_a_group_without_members_expire() {
        let mut script = Script::new();
        assert_eq!(script.next_due_ms(), None);
        assert_eq!(script.commit("", 0, &[(100, 1)]), Ok(vec![Ok(())]));
        assert_eq!(script.next_due_ms(), Some(100_000));
        script.now_ms = 20_000;
        assert!(script.join("a", &[(1, 1)]).is_ok());
        assert_eq!(script.commit("a", 1, &[(100, 2)]), Ok(vec![Ok(())]));
        script.now_ms = 60_000;
        assert_eq!(script.leave("a"), Ok(()));
        assert_eq!(script.commit("", 0, &[(200, 2)]), Ok(vec![Ok(())]));
        assert_eq!(script.next_due_ms(), Some(160_000), "from when the last member left");
        script.now_ms = 70_000;
        assert_eq!(script.commit("", 0, &[(200, 3)]), Ok(vec![Ok(())]));
        assert_eq!(script.pass(89_999).offsets, 0);
        assert_eq!(script.pass(1).offsets, 1);
        assert_eq!((script.offset(100), script.offset(200)), (None, Some(3)));
        let for_ever = Policy { offsets_retention_ms: None, ..script.policy };
        assert_eq!(script.group.next_due_ms(&for_ever), None);
        assert_eq!(script.group.pass_time(&for_ever, u64::MAX), Passed::default());
        assert_eq!(script.pass(9_999).offsets, 0);
        assert_eq!((script.pass(1).offsets, script.group.is_void()), (1, true));
    }

    #[test]
    fn a_quiet_heartbeat_needs_no_command() {
        let mut script = native();
        let quiet = |script: &Script, who: &str, generation, now_ms| {
            script.group.is_quiet(&caller(who), Generation(generation), now_ms)
        };
        assert!(!quiet(&script, "a", 2, 1_000), "it has to give up something");
        assert!(script.beat("a", 2, &[100, 101]).is_ok());
        assert!(!quiet(&script, "b", 2, 1_000), "it is to be given something");
        assert!(script.beat("b", 2, &[]).is_ok());
        for (who, generation, now_ms, want) in [
            ("b", 2, 1_000, true),
            ("b", 1, 1_000, false),
            ("c", 2, 1_000, false),
            ("b", 2, 8_499, true),
            ("b", 2, 8_500, false),
            ("b", 2, 99_000, false),
        ] {
            assert_eq!(
                quiet(&script, who, generation, now_ms),
                want,
                "{who} {generation} {now_ms}"
            );
        }
        let mut script = Script::new();
        assert!(script.meet("a", &["p"]).unwrap().is_some());
        assert!(!quiet(&script, "a", 1, 0));
        assert!(script.sync("a", 1, &[]).is_ok());
        assert!(quiet(&script, "a", 1, 0));
    }

    #[test]
    fn each_way_is_for_its_own() {
        let mut script = native();
        assert_eq!(script.meet("c", &["p"]), Err(Refused::OtherWay));
        assert_eq!(script.beat_classic("a", 2), Err(Refused::OtherWay));
        assert_eq!(script.sync("a", 2, &[]), Err(Refused::OtherWay));
        let a = caller("a");
        assert_eq!(script.group.joined(&a), Err(Refused::OtherWay));
        assert_eq!(script.group.synced(&a, Generation(2)), Err(Refused::OtherWay));
        let mut script = Script::new();
        assert!(script.meet("a", &["p"]).unwrap().is_some());
        assert_eq!(script.join("b", &[(1, 1)]), Err(Refused::OtherWay));
        assert_eq!(script.beat("a", 1, &[]), Err(Refused::OtherWay));
        assert_eq!((script.group.share(&a.member), script.group.owner(key(100))), (None, None));
        assert_eq!(script.leave("a"), Ok(()));
        assert_eq!(script.join("b", &[(1, 1)]), Ok((2, vec![100], vec![])), "once it is empty");
    }
}
