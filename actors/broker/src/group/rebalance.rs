//! The classic way: all members meet, and one of them says who gets what.
//!
//! ```text
//!             somebody comes, leaves, reads something else
//!      +-----------------------------------------------------+
//!      v                all came, or time is over            |        the leader's assignment
//!   joining ------------------------------------------> syncing ----------------> stable
//!      ^      generation + 1; a leader, a protocol           |                       |
//!      +-----------------------------------------------------+-----------------------+
//! ```
//!
//! Who has joined waits, and so does who syncs before the leader did. What they wait for is read
//! off with [`Rebalance::joined`] and [`Rebalance::synced`] after each command.
//!
//! Owns: stages, who has come, which protocol, and the leader's bytes. A group without members is
//! not here: it works no way at all.
//! Must never: read metadata or assignments; let a member that waits be thrown out by its session.
//! Invariants: some protocol is known to all; the leader of a stage behind joining has a seat; a
//! member that did not come by the end of a stage has no seat, but for one whose place an instance
//! keeps: that one stays until its session is over.

use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;

use super::generation::Generation;
use super::name::{InstanceName, MemberId, Name, ProtocolName};
use super::refused::Refused;
use super::roster::{OVER_MAX, Roster};

/// Most protocols that a member offers.
pub(crate) const PROTOCOLS_MAX: usize = 32;
/// Most bytes of the assignments of all members.
pub(crate) const ASSIGNMENTS_BYTES_MAX: usize = 8 << 20;

/// A way to assign that a member knows, and what it has to say for it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Protocol {
    pub(crate) name: ProtocolName,
    pub(crate) metadata: Rc<[u8]>,
}

/// What a member brings to a meeting.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Candidacy {
    /// What kind of client the group is of; all are of one.
    pub(crate) kind: Name,
    /// What it prefers first.
    pub(crate) protocols: Vec<Protocol>,
}

impl Candidacy {
    /// Bytes that it costs to keep.
    pub(crate) fn size(&self) -> usize {
        self.protocols.iter().map(|one| one.name.0.size() + one.metadata.len()).sum()
    }
}

/// How far a member has come in a stage.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Progress {
    Absent,
    Joined,
    Synced,
}

/// The part of a member.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Seat {
    pub(crate) protocols: Rc<[Protocol]>,
    pub(crate) progress: Progress,
    pub(crate) assignment: Rc<[u8]>,
}

/// See the module.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stage {
    /// Members come. The first meeting of a group waits for more of them though all have come.
    Joining { since_ms: u64, until_ms: u64, is_first: bool },
    /// The leader is at work.
    Syncing { until_ms: u64 },
    /// Everybody can have its assignment, and should by then.
    Stable { sync_by_ms: Option<u64> },
}

/// How a member comes to a meeting.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Arrival {
    New,
    Again,
    /// In the place of one that is gone.
    Instead,
}

/// What a meeting came to, as told to one member.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Joined {
    pub(crate) generation: Generation,
    pub(crate) kind: Name,
    pub(crate) protocol: ProtocolName,
    pub(crate) leader: MemberId,
    /// For the leader: everybody, with what they said for the protocol.
    pub(crate) members: Vec<(MemberId, Option<InstanceName>, Rc<[u8]>)>,
}

/// What all members agree on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Agreement {
    pub(crate) leader: MemberId,
    pub(crate) protocol: ProtocolName,
}

/// See the module.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Rebalance {
    kind: Name,
    seats: BTreeMap<MemberId, Seat>,
    stage: Stage,
    /// Of the last meeting; a leader that left stands here until the next one ends.
    agreement: Option<Agreement>,
    // What follows is derived from the seats.
    /// How many members know each protocol.
    known: BTreeMap<ProtocolName, usize>,
    absent: usize,
    synced: usize,
}

/// What a checkpoint keeps beside the seats.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Meeting {
    pub(crate) kind: Name,
    pub(crate) stage: Stage,
    pub(crate) agreement: Option<Agreement>,
}

impl Rebalance {
    /// The first meeting of a group, until `until_ms`.
    pub(crate) fn first(kind: Name, now_ms: u64, until_ms: u64) -> Self {
        let stage = Stage::Joining { since_ms: now_ms, until_ms, is_first: true };
        Self::of(Meeting { kind, stage, agreement: None })
    }

    fn of(meeting: Meeting) -> Self {
        let Meeting { kind, stage, agreement } = meeting;
        let (seats, known) = (BTreeMap::new(), BTreeMap::new());
        Self { kind, seats, stage, agreement, known, absent: 0, synced: 0 }
    }

    /// What a checkpoint kept, if it is within the bounds.
    pub(crate) fn restore(seats: Vec<(MemberId, Seat)>, meeting: Meeting) -> Option<Self> {
        let mut rebalance = Self::of(meeting);
        for (id, seat) in seats {
            if !are_allowed(&seat.protocols) {
                return None;
            }
            rebalance.put(id, seat);
        }
        let assigned: usize = rebalance.seats.values().map(|seat| seat.assignment.len()).sum();
        let agrees = match (&rebalance.stage, &rebalance.agreement) {
            (Stage::Joining { .. }, _) => true,
            (_, Some(agreement)) => {
                let count = rebalance.known.get(&agreement.protocol);
                rebalance.seats.contains_key(&agreement.leader)
                    && count == Some(&rebalance.seats.len())
            }
            (_, None) => false,
        };
        let is_sound = agrees && rebalance.common().next().is_some();
        (is_sound && assigned <= ASSIGNMENTS_BYTES_MAX).then_some(rebalance)
    }

    /// What a checkpoint keeps beside the seats.
    pub(crate) fn meeting(&self) -> Meeting {
        let Self { kind, stage, agreement, .. } = self;
        Meeting { kind: kind.clone(), stage: *stage, agreement: agreement.clone() }
    }

    pub(crate) fn seat(&self, id: &MemberId) -> Option<&Seat> {
        self.seats.get(id)
    }

    pub(crate) fn stage(&self) -> Stage {
        self.stage
    }

    /// Whether somebody with this candidacy may sit with the others; `own` is not one of those.
    pub(crate) fn check(&self, own: &MemberId, candidacy: &Candidacy) -> Result<(), Refused> {
        if candidacy.kind != self.kind || candidacy.protocols.is_empty() {
            return Err(Refused::NoCommonProtocol);
        }
        if !are_allowed(&candidacy.protocols) {
            return Err(Refused::TooLarge);
        }
        let before = self.seats.get(own).map(|seat| seat.protocols.as_ref());
        let others = self.seats.len() - usize::from(before.is_some());
        let is_known_to_others = |protocol: &Protocol| {
            let count = self.known.get(&protocol.name).copied().unwrap_or(0);
            let to_itself =
                before.is_some_and(|before| before.iter().any(|p| p.name == protocol.name));
            count - usize::from(to_itself) == others
        };
        match candidacy.protocols.iter().any(is_known_to_others) {
            true => Ok(()),
            false => Err(Refused::NoCommonProtocol),
        }
    }

    /// A member takes the place of another one, with its seat.
    pub(crate) fn replace(&mut self, old: &MemberId, new: &MemberId) {
        let Some(seat) = self.seats.remove(old) else { return };
        self.seats.insert(new.clone(), seat);
        if let Some(agreement) = self.agreement.as_mut().filter(|a| a.leader == *old) {
            agreement.leader = new.clone();
        }
    }

    /// A member comes to the meeting, or makes one necessary.
    pub(crate) fn join(
        &mut self,
        id: &MemberId,
        candidacy: &Candidacy,
        arrival: Arrival,
        roster: &mut Roster,
        now_ms: u64,
    ) {
        let protocols: Rc<[Protocol]> = candidacy.protocols.as_slice().into();
        let is_same = self.seats.get(id).is_some_and(|seat| seat.protocols == protocols);
        let leads = self.agreement.as_ref().is_some_and(|agreement| agreement.leader == *id);
        let is_answered = match (self.stage, arrival) {
            (Stage::Joining { .. }, _) | (_, Arrival::New) => false,
            // The leader may have assigned to the one before it.
            (Stage::Syncing { .. }, Arrival::Instead) => false,
            (Stage::Syncing { .. }, Arrival::Again) | (Stage::Stable { .. }, Arrival::Instead) => {
                is_same
            }
            // Only by coming again does a leader say that the world has changed.
            (Stage::Stable { .. }, Arrival::Again) => is_same && !leads,
        };
        if is_answered {
            // Its answer was lost, or somebody has come back to its place.
            let progress = self.seats.get(id).map_or(Progress::Absent, |seat| seat.progress);
            self.set_progress(id, progress.max(Progress::Joined));
            roster.renew(id, now_ms);
            return;
        }
        let before = self.take(id);
        let assignment = before.map_or_else(Rc::default, |seat| seat.assignment);
        self.put(id.clone(), Seat { protocols, progress: Progress::Absent, assignment });
        if !self.is_joining() {
            self.meet(roster, now_ms);
        }
        self.set_progress(id, Progress::Joined);
        roster.hold(id);
    }

    /// The first meeting lasts longer, as another member has come: until `until_ms`, but no longer
    /// than a member waits for a rebalance.
    pub(crate) fn prolong(&mut self, to_ms: u64, roster: &Roster) {
        if let Stage::Joining { since_ms, until_ms, is_first: true } = &mut self.stage {
            let latest_ms = since_ms.saturating_add(roster.rebalance_ms_longest());
            *until_ms = to_ms.min(latest_ms).max(*until_ms);
        }
    }

    /// A member is gone. Afterwards [`Self::go_on`] is due.
    pub(crate) fn remove(&mut self, id: &MemberId, roster: &Roster, now_ms: u64) {
        if self.take(id).is_some() && !self.is_joining() && !self.seats.is_empty() {
            self.meet(roster, now_ms);
        }
    }

    /// Ends the stage if that is due.
    pub(crate) fn go_on(&mut self, roster: &mut Roster, generation: &mut Generation, now_ms: u64) {
        if let Stage::Joining { until_ms, is_first, .. } = self.stage
            && (until_ms <= now_ms || (self.absent == 0 && !is_first))
        {
            self.conclude(roster, generation, now_ms);
        }
    }

    /// Members that have not come for their assignment in time, at most [`OVER_MAX`].
    pub(crate) fn unsynced(&self, roster: &Roster, now_ms: u64) -> Vec<MemberId> {
        let by_ms = match self.stage {
            Stage::Joining { .. } => None,
            Stage::Syncing { until_ms } => Some(until_ms),
            Stage::Stable { sync_by_ms } => sync_by_ms,
        };
        if by_ms.is_none_or(|by_ms| now_ms < by_ms) {
            return Vec::new();
        }
        let is_late = |(id, seat): &(&MemberId, &Seat)| {
            seat.progress != Progress::Synced && !keeps_place(roster, id)
        };
        self.seats.iter().filter(is_late).take(OVER_MAX).map(|(id, _)| id.clone()).collect()
    }

    /// Nobody is left to wait for. If it was the leader that did not come, all meet again.
    pub(crate) fn give_up_waiting(&mut self, roster: &Roster, now_ms: u64) {
        match self.stage {
            Stage::Syncing { until_ms } if until_ms <= now_ms => self.meet(roster, now_ms),
            Stage::Stable { sync_by_ms: Some(by_ms) } if by_ms <= now_ms => {
                self.stage = Stage::Stable { sync_by_ms: None };
            }
            _ => {}
        }
    }

    /// A member comes for its assignment; the leader brings all of them.
    pub(crate) fn sync(
        &mut self,
        id: &MemberId,
        assignments: &[(MemberId, Rc<[u8]>)],
    ) -> Result<(), Refused> {
        let leads = self.agreement.as_ref().is_some_and(|agreement| agreement.leader == *id);
        match self.stage {
            Stage::Joining { .. } => return Err(Refused::Rebalancing),
            Stage::Syncing { until_ms } if leads => {
                let size: usize = assignments.iter().map(|(_, bytes)| bytes.len()).sum();
                if size > ASSIGNMENTS_BYTES_MAX {
                    return Err(Refused::TooLarge);
                }
                for (member, bytes) in assignments {
                    if let Some(seat) = self.seats.get_mut(member) {
                        seat.assignment = bytes.clone();
                    }
                }
                self.stage = Stage::Stable { sync_by_ms: Some(until_ms) };
            }
            Stage::Syncing { .. } | Stage::Stable { .. } => {}
        }
        self.set_progress(id, Progress::Synced);
        if let Stage::Stable { sync_by_ms } = &mut self.stage
            && self.synced == self.seats.len()
        {
            *sync_by_ms = None;
        }
        Ok(())
    }

    /// What the meeting that a member waits for came to; `None` while it lasts.
    pub(crate) fn joined(
        &self,
        id: &MemberId,
        roster: &Roster,
        generation: Generation,
    ) -> Result<Option<Joined>, Refused> {
        let seat = self.seats.get(id).ok_or(Refused::UnknownMember)?;
        match (self.stage, seat.progress, &self.agreement) {
            (Stage::Joining { .. }, Progress::Absent, _) => Err(Refused::Rebalancing),
            (Stage::Joining { .. }, _, _) | (_, _, None) => Ok(None),
            (_, _, Some(Agreement { leader, protocol })) => {
                let said = |seat: &Seat| {
                    let said = seat.protocols.iter().find(|known| known.name == *protocol);
                    said.map_or_else(Rc::default, |known| known.metadata.clone())
                };
                let member = |(id, seat): (&MemberId, &Seat)| {
                    let instance = roster.member(id).and_then(|member| member.instance.clone());
                    (id.clone(), instance, said(seat))
                };
                let members = match leader == id {
                    true => self.seats.iter().map(member).collect(),
                    false => Vec::new(),
                };
                let (kind, protocol) = (self.kind.clone(), protocol.clone());
                Ok(Some(Joined { generation, kind, protocol, leader: leader.clone(), members }))
            }
        }
    }

    /// The assignment that a member waits for; `None` until the leader has brought it.
    pub(crate) fn synced(&self, id: &MemberId) -> Result<Option<Rc<[u8]>>, Refused> {
        let seat = self.seats.get(id).ok_or(Refused::UnknownMember)?;
        match self.stage {
            Stage::Joining { .. } => Err(Refused::Rebalancing),
            Stage::Syncing { .. } => Ok(None),
            Stage::Stable { .. } => Ok(Some(seat.assignment.clone())),
        }
    }

    /// When there is something to do without a member that calls.
    pub(crate) fn next_due_ms(&self) -> Option<u64> {
        match self.stage {
            Stage::Joining { until_ms, .. } | Stage::Syncing { until_ms } => Some(until_ms),
            Stage::Stable { sync_by_ms } => sync_by_ms,
        }
    }

    fn is_joining(&self) -> bool {
        matches!(self.stage, Stage::Joining { .. })
    }

    /// All are called together anew.
    fn meet(&mut self, roster: &Roster, now_ms: u64) {
        let until_ms = now_ms.saturating_add(roster.rebalance_ms_longest());
        self.stage = Stage::Joining { since_ms: now_ms, until_ms, is_first: false };
        self.seats.values_mut().for_each(|seat| seat.progress = Progress::Absent);
        (self.absent, self.synced) = (self.seats.len(), 0);
    }

    /// The meeting is over: whoever is not there is gone, but for those whose place is kept.
    fn conclude(&mut self, roster: &mut Roster, generation: &mut Generation, now_ms: u64) {
        let is_gone = |(id, seat): &(&MemberId, &Seat)| {
            seat.progress == Progress::Absent && !keeps_place(roster, id)
        };
        let gone: Vec<MemberId> =
            self.seats.iter().filter(is_gone).map(|(id, _)| id.clone()).collect();
        for id in gone {
            self.take(&id);
            roster.remove(&id);
        }
        let Some(leader) = self.next_leader() else {
            // Nobody is there, or only places of instances: their sessions end it.
            return self.meet(roster, now_ms);
        };
        let protocol = self.elect();
        assert!(protocol.is_some(), "who joined knows a protocol that all others know");
        self.agreement = protocol.map(|protocol| Agreement { leader, protocol });
        *generation = generation.following();
        let until_ms = now_ms.saturating_add(roster.rebalance_ms_longest());
        self.stage = Stage::Syncing { until_ms };
        for (id, seat) in &mut self.seats {
            seat.assignment = Rc::default();
            if seat.progress == Progress::Joined {
                roster.renew(id, now_ms);
            }
        }
    }

    /// The leader as before, if it is there, else the first who is.
    fn next_leader(&self) -> Option<MemberId> {
        let is_there = |id: &MemberId| {
            self.seats.get(id).is_some_and(|seat| seat.progress != Progress::Absent)
        };
        let before = self.agreement.as_ref().map(|agreement| &agreement.leader);
        let leader = before.filter(|leader| is_there(leader));
        leader.or_else(|| self.seats.keys().find(|id| is_there(id))).cloned()
    }

    /// The protocol that most members prefer among those that all know.
    fn elect(&self) -> Option<ProtocolName> {
        let common: BTreeSet<&ProtocolName> = self.common().collect();
        let mut votes: BTreeMap<&ProtocolName, usize> = BTreeMap::new();
        for seat in self.seats.values() {
            let mut preferred = seat.protocols.iter().filter(|one| common.contains(&one.name));
            if let Some(one) = preferred.next() {
                *votes.entry(&one.name).or_default() += 1;
            }
        }
        let winner = votes.into_iter().rev().max_by_key(|(_, count)| *count);
        winner.map(|(name, _)| name.clone())
    }

    /// Protocols that all members know.
    fn common(&self) -> impl Iterator<Item = &ProtocolName> {
        let known = self.known.iter().filter(|(_, count)| **count == self.seats.len());
        known.map(|(name, _)| name)
    }

    fn put(&mut self, id: MemberId, seat: Seat) {
        for one in seat.protocols.iter() {
            *self.known.entry(one.name.clone()).or_default() += 1;
        }
        self.absent += usize::from(seat.progress == Progress::Absent);
        self.synced += usize::from(seat.progress == Progress::Synced);
        let before = self.seats.insert(id, seat);
        assert!(before.is_none(), "a seat is taken before it is put anew");
    }

    fn take(&mut self, id: &MemberId) -> Option<Seat> {
        let seat = self.seats.remove(id)?;
        for one in seat.protocols.iter() {
            let Some(count) = self.known.get_mut(&one.name) else { continue };
            *count -= 1;
            if *count == 0 {
                self.known.remove(&one.name);
            }
        }
        self.absent -= usize::from(seat.progress == Progress::Absent);
        self.synced -= usize::from(seat.progress == Progress::Synced);
        Some(seat)
    }

    fn set_progress(&mut self, id: &MemberId, progress: Progress) {
        let Some(seat) = self.seats.get_mut(id) else { return };
        let before = std::mem::replace(&mut seat.progress, progress);
        self.absent -= usize::from(before == Progress::Absent);
        self.absent += usize::from(progress == Progress::Absent);
        self.synced -= usize::from(before == Progress::Synced);
        self.synced += usize::from(progress == Progress::Synced);
    }
}

/// Whether a member may offer these: not too many, and each once.
fn are_allowed(protocols: &[Protocol]) -> bool {
    let names: BTreeSet<&ProtocolName> = protocols.iter().map(|one| &one.name).collect();
    protocols.len() <= PROTOCOLS_MAX && names.len() == protocols.len()
}

fn keeps_place(roster: &Roster, id: &MemberId) -> bool {
    roster.member(id).is_some_and(|member| member.instance.is_some())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests fail by panicking")]

    use super::super::roster::{REBALANCE_MS_DEFAULT, SESSION_MS_DEFAULT};
    use super::super::script::{Script, caller, candidacy};
    use super::super::stream::{Policy, Standing};
    use super::*;

    fn bytes(text: &str) -> Option<Rc<[u8]>> {
        Some(text.as_bytes().into())
    }

    /// Leader, protocol and who is there, if the meeting is over.
    fn over(joined: Option<Joined>) -> Option<(u32, String, String, Vec<String>)> {
        let text = |name: &Name| name.as_str().to_owned();
        joined.map(|joined| {
            let said = |(_, _, said): &(_, _, Rc<[u8]>)| String::from_utf8_lossy(said).into_owned();
            let members = joined.members.iter().map(said).collect();
            (joined.generation.0, text(&joined.leader.0), text(&joined.protocol.0), members)
        })
    }

    fn outcome(script: &Script, who: &str) -> Option<(u32, String, String, Vec<String>)> {
        over(script.group.joined(&caller(who)).unwrap())
    }

    /// `a`, the leader, and `b`, in generation 2.
    fn two() -> Script {
        let mut script = Script::new();
        let alone = over(script.meet("a", &["range", "sticky"]).unwrap());
        assert_eq!(alone, Some((1, "a".into(), "range".into(), vec!["a:range".into()])));
        assert_eq!(script.meet("b", &["sticky", "other"]), Ok(None));
        assert_eq!(script.beat_classic("a", 1), Err(Refused::Rebalancing));
        assert_eq!(script.group.joined(&caller("a")), Err(Refused::Rebalancing));
        assert!(script.meet("a", &["range", "sticky"]).unwrap().is_some());
        let all = vec!["a:sticky".into(), "b:sticky".into()];
        assert_eq!(outcome(&script, "a"), Some((2, "a".into(), "sticky".into(), all)));
        assert_eq!(outcome(&script, "b"), Some((2, "a".into(), "sticky".into(), vec![])));
        assert_eq!(script.sync("b", 2, &[]), Ok(None));
        assert_eq!(script.commit("b", 2, &[(100, 1)]), Err(Refused::Rebalancing));
        script
    }

    fn two_stable() -> Script {
        let mut script = two();
        let both = [("a", "for a"), ("b", "for b"), ("x", "for nobody")];
        assert_eq!(script.sync("a", 2, &both), Ok(bytes("for a")));
        assert_eq!(script.group.synced(&caller("b"), Generation(2)), Ok(bytes("for b")));
        assert_eq!(script.group.standing(), Standing::Stable);
        assert_eq!((script.beat_classic("a", 2), script.beat_classic("b", 2)), (Ok(()), Ok(())));
        script.check_round_trip();
        script
    }

    #[test]
    fn members_meet_and_the_leader_assigns() {
        let mut script = two_stable();
        for (who, generation, want) in [
            ("b", 2, Ok(bytes("for b"))),
            ("b", 1, Err(Refused::StaleGeneration)),
            ("c", 2, Err(Refused::UnknownMember)),
        ] {
            assert_eq!(script.sync(who, generation, &[("b", "no")]), want, "{who} {generation}");
        }
        assert_eq!(script.beat_classic("b", 1), Err(Refused::StaleGeneration));
        assert_eq!(script.next_due_ms(), Some(SESSION_MS_DEFAULT));
    }

    #[test]
    fn who_says_nothing_new_calls_no_meeting() {
        for (who, protocols, is_answered) in [
            ("b", &["sticky", "other"][..], true),
            ("b", &["sticky"], false),
            ("a", &["range", "sticky"], false), // The leader.
            ("c", &["sticky"], false),
        ] {
            let mut script = two_stable();
            let joined = script.meet(who, protocols).unwrap();
            assert_eq!(joined.is_some(), is_answered, "{who}");
            let want = if is_answered { Standing::Stable } else { Standing::Joining };
            assert_eq!(script.group.standing(), want, "{who}");
            script.check_round_trip();
        }
        // The leader is still at work: whoever lost the answer hears it again.
        let mut script = two();
        assert!(script.meet("a", &["range", "sticky"]).unwrap().is_some());
        assert_eq!(script.group.standing(), Standing::Syncing);
    }

    #[test]
    fn a_protocol_that_all_know_is_needed() {
        let mut script = two_stable();
        assert_eq!(script.meet("c", &["range"]), Err(Refused::NoCommonProtocol), "unknown to b");
        assert_eq!(script.meet("c", &[]), Err(Refused::NoCommonProtocol));
        assert_eq!(script.meet("c", &["sticky", "sticky"]), Err(Refused::TooLarge));
        let names: Vec<String> = (0..=PROTOCOLS_MAX).map(|number| number.to_string()).collect();
        let mut names: Vec<&str> = names.iter().map(String::as_str).collect();
        names.push("sticky");
        assert_eq!(script.meet("c", &names), Err(Refused::TooLarge));
        assert_eq!(script.join("n", &[(1, 1)]), Err(Refused::OtherWay));
        assert_eq!(script.group.standing(), Standing::Stable);
        // Alone again, a member may change its mind.
        assert_eq!(script.leave("b"), Ok(()));
        let joined = over(script.meet("a", &["range"]).unwrap());
        assert_eq!(joined, Some((3, "a".into(), "range".into(), vec!["a:range".into()])));
        let other = Candidacy { kind: Name::new("connect").unwrap(), ..candidacy("c", &["range"]) };
        let timeouts = super::super::roster::Timeouts::default();
        let joined =
            script.group.join_classic(&caller("c"), timeouts, &other, &Policy::default(), 0);
        assert_eq!(joined, Err(Refused::NoCommonProtocol));
    }

    #[test]
    fn who_does_not_come_in_time_is_gone() {
        let mut script = two_stable();
        assert_eq!(script.meet("c", &["sticky"]), Ok(None));
        let due_ms = SESSION_MS_DEFAULT;
        assert_eq!(script.next_due_ms(), Some(due_ms), "whoever has joined has no session to end");
        // Heartbeats keep a member, but not beyond the meeting.
        let until_ms = REBALANCE_MS_DEFAULT;
        while script.now_ms + 30_000 < until_ms {
            script.pass(30_000);
            assert_eq!(script.beat_classic("a", 2), Err(Refused::Rebalancing));
        }
        assert_eq!(script.group.standing(), Standing::Joining);
        script.pass(until_ms - script.now_ms);
        assert_eq!(script.group.standing(), Standing::Syncing);
        let all = vec!["c:sticky".into()];
        assert_eq!(outcome(&script, "c"), Some((3, "c".into(), "sticky".into(), all)));
        assert_eq!(script.beat_classic("a", 2), Err(Refused::UnknownMember));
        // Its leader never brings an assignment, nor is heard of.
        let passed = script.pass(SESSION_MS_DEFAULT);
        assert_eq!(passed.members, [caller("c").member]);
        assert_eq!(script.group.standing(), Standing::Empty);
    }

    #[test]
    fn a_leader_that_does_not_lead_is_gone() {
        let mut script = two();
        for _ in 0..REBALANCE_MS_DEFAULT / 30_000 {
            assert_eq!(
                (script.beat_classic("a", 2), script.beat_classic("b", 2)),
                (Ok(()), Ok(()))
            );
            script.pass(30_000);
        }
        assert_eq!(script.beat_classic("b", 2), Err(Refused::Rebalancing));
        assert_eq!(script.beat_classic("a", 2), Err(Refused::UnknownMember));
        let all = vec!["b:sticky".into()];
        let joined = over(script.meet("b", &["sticky"]).unwrap());
        assert_eq!(joined, Some((3, "b".into(), "sticky".into(), all)));
    }

    #[test]
    fn a_member_that_leaves_calls_a_meeting() {
        let mut script = two_stable();
        assert_eq!(script.leave("a"), Ok(()));
        assert_eq!(script.beat_classic("b", 2), Err(Refused::Rebalancing));
        script.check_round_trip();
        assert_eq!(script.meet("c", &["sticky"]), Ok(None));
        // The last one that is waited for goes, too.
        assert_eq!(script.leave("b"), Ok(()));
        assert_eq!(outcome(&script, "c").map(|joined| (joined.0, joined.1)), Some((3, "c".into())));
    }

    #[test]
    fn an_instance_that_comes_back_finds_its_assignment() {
        let mut script = Script::new();
        assert!(script.meet("a1@a", &["p"]).unwrap().is_some());
        assert_eq!(script.meet("b", &["p"]), Ok(None));
        assert!(script.meet("a1@a", &["p"]).unwrap().is_some());
        assert_eq!(script.sync("a1@a", 2, &[("a1", "for a"), ("b", "for b")]), Ok(bytes("for a")));
        assert_eq!(script.sync("b", 2, &[]), Ok(bytes("for b")));
        let again = over(script.meet("a2@a", &["p"]).unwrap()).unwrap();
        assert_eq!((again.0, again.1.as_str(), again.3.len()), (2, "a2", 2));
        assert_eq!(script.sync("a2@a", 2, &[]), Ok(bytes("for a")));
        assert_eq!(script.beat_classic("a1@a", 2), Err(Refused::Fenced));
        assert_eq!(script.group.standing(), Standing::Stable);
        // Its place is kept over a meeting that it misses, until its session is over.
        assert_eq!(script.leave("b"), Ok(()));
        assert_eq!(script.meet("c", &["p"]), Ok(None));
        script.check_round_trip();
        script.now_ms = SESSION_MS_DEFAULT - 1;
        script.group.heartbeat_classic(&caller("a2@a"), Generation(2), script.now_ms).unwrap_err();
        for _ in 0..(REBALANCE_MS_DEFAULT / 40_000) {
            let _ = script.beat_classic("a2@a", 2);
            script.pass(40_000);
        }
        let members = outcome(&script, "c").map(|joined| (joined.1, joined.3.len()));
        assert_eq!(members, Some(("c".into(), 2)));
        script.check_round_trip();
    }

    #[test]
    fn the_first_meeting_waits_for_more() {
        let mut script = Script::new();
        script.policy.first_meeting_ms = 3_000;
        assert_eq!(script.meet("a", &["p"]), Ok(None));
        assert_eq!(script.next_due_ms(), Some(3_000));
        script.now_ms = 2_000;
        assert_eq!(script.meet("b", &["p"]), Ok(None));
        assert_eq!(script.next_due_ms(), Some(5_000));
        assert_eq!(script.meet("b", &["p"]), Ok(None), "said again it prolongs nothing");
        script.pass(2_999);
        assert_eq!(script.group.standing(), Standing::Joining);
        script.pass(1);
        assert_eq!(outcome(&script, "b").map(|joined| joined.0), Some(1));
        // A group that all have left before its meeting ended is empty.
        let mut script = Script::new();
        script.policy.first_meeting_ms = 3_000;
        assert_eq!(script.meet("a", &["p"]), Ok(None));
        assert_eq!(script.leave("a"), Ok(()));
        assert_eq!((script.group.standing(), script.group.is_void()), (Standing::Empty, true));
    }

    /// Whom the leader leaves out has nothing, and not what it had in the generation before.
    #[test]
    fn an_assignment_is_for_one_generation() {
        let mut script = two_stable();
        assert_eq!(script.meet("a", &["range", "sticky"]), Ok(None));
        assert!(script.meet("b", &["sticky", "other"]).unwrap().is_some());
        assert_eq!(script.sync("a", 3, &[("a", "all")]), Ok(bytes("all")));
        assert_eq!(script.sync("b", 3, &[]), Ok(bytes("")));
    }

    #[test]
    fn assignments_are_bounded() {
        let mut script = two();
        let long = "x".repeat(ASSIGNMENTS_BYTES_MAX / 2 + 1);
        assert_eq!(script.sync("a", 2, &[("a", &long), ("b", &long)]), Err(Refused::TooLarge));
        assert_eq!(script.group.standing(), Standing::Syncing);
        assert!(script.sync("a", 2, &[("a", &long)]).is_ok());
        script.check_round_trip();
    }
}
