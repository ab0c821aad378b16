//! Who is in a group: members, their sessions, the places that instances keep.
//!
//! ```text
//!   enter --> session runs --renew--> ... --its time passes--> over: the group removes the member
//!                   |  hold (it waits for others, and is not heard meanwhile)
//!                   +-------> held --renew--> session runs
//! ```
//!
//! Owns: deadlines of sessions, names and their bytes. Whether a session is over is decided when
//! time passes by a command; a heartbeat that comes before that still counts.
//! Must never: know what a member reads, or which way its group works.
//! Invariants: an instance is the place of one member; no more than [`MEMBERS_MAX`] members and
//! [`CARRIED_BYTES_MAX`] bytes.

use std::collections::{BTreeMap, BTreeSet};

use super::name::{InstanceName, MemberId, Name};
use super::refused::Refused;

/// Most members of a group.
pub(crate) const MEMBERS_MAX: usize = 10_000;
/// Most bytes of names, subscriptions and metadata that the members of a group bring.
pub(crate) const CARRIED_BYTES_MAX: usize = 16 << 20;
/// Sessions that one command lets end.
pub(crate) const OVER_MAX: usize = 1_024;
/// Shortest and longest session, and the one that is meant where none is named.
pub(crate) const SESSION_MS_MIN: u64 = 6_000;
pub(crate) const SESSION_MS_MAX: u64 = 30 * 60 * 1_000;
pub(crate) const SESSION_MS_DEFAULT: u64 = 45_000;
/// Shortest and longest time for what a rebalance asks of a member.
pub(crate) const REBALANCE_MS_MIN: u64 = 1_000;
pub(crate) const REBALANCE_MS_MAX: u64 = 12 * 60 * 60 * 1_000;
pub(crate) const REBALANCE_MS_DEFAULT: u64 = 5 * 60 * 1_000;

const _: () = assert!(SESSION_MS_MIN < SESSION_MS_DEFAULT && SESSION_MS_DEFAULT < SESSION_MS_MAX);
const _: () = assert!(MEMBERS_MAX * 1_024 < CARRIED_BYTES_MAX, "all may come with ids and names");

/// How long a group waits for a member.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Timeouts {
    /// A member not heard of for so long is gone.
    pub(crate) session_ms: u64,
    /// A member that does not do for so long what a rebalance asks of it is gone, too.
    pub(crate) rebalance_ms: u64,
}

impl Default for Timeouts {
    fn default() -> Self {
        Self { session_ms: SESSION_MS_DEFAULT, rebalance_ms: REBALANCE_MS_DEFAULT }
    }
}

impl Timeouts {
    /// Whether a member may ask for this.
    pub(crate) fn is_allowed(self) -> bool {
        self == self.clamped()
    }

    /// Who asks for what is not allowed is refused before; apply must not depend on that.
    fn clamped(self) -> Self {
        Self {
            session_ms: self.session_ms.clamp(SESSION_MS_MIN, SESSION_MS_MAX),
            rebalance_ms: self.rebalance_ms.clamp(REBALANCE_MS_MIN, REBALANCE_MS_MAX),
        }
    }
}

/// Who speaks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Caller {
    pub(crate) member: MemberId,
    /// The place it has or wants.
    pub(crate) instance: Option<InstanceName>,
}

/// How somebody comes to a group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Entrance {
    /// It is in: this is said again.
    Known,
    New,
    /// It takes the place of this member, which is gone from then on.
    Replaces(MemberId),
}

/// A member, as far as both ways of a group know it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Member {
    pub(crate) instance: Option<InstanceName>,
    /// Whose place it took; a late request of that one must not take it back.
    pub(crate) replaced: Option<MemberId>,
    pub(crate) timeouts: Timeouts,
    /// When its session is over; `None` while it waits for others.
    pub(crate) deadline_ms: Option<u64>,
    /// Bytes that it brought beside its names.
    pub(crate) carried_size: usize,
}

impl Member {
    fn size(&self, id: &MemberId) -> usize {
        let instance = self.instance.as_ref().map_or(0, |instance| instance.0.size());
        let replaced = self.replaced.as_ref().map_or(0, |replaced| replaced.0.size());
        id.0.size() + instance + replaced + self.carried_size
    }
}

/// See the module.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Roster {
    members: BTreeMap<MemberId, Member>,
    // What follows is derived from the members.
    instances: BTreeMap<InstanceName, MemberId>,
    deadlines: BTreeSet<(u64, MemberId)>,
    size: usize,
}

impl Roster {
    /// What a checkpoint kept, if it is within the bounds.
    pub(crate) fn restore(members: impl Iterator<Item = (MemberId, Member)>) -> Option<Self> {
        let mut roster = Self::default();
        for (id, member) in members {
            let takes_place = member.instance.as_ref().is_some_and(|i| roster.has_instance(i));
            if roster.members.contains_key(&id) || takes_place || !member.timeouts.is_allowed() {
                return None;
            }
            // Checked before it is added up: what is read may name any size.
            let room = CARRIED_BYTES_MAX.checked_sub(roster.size)?;
            if member.carried_size > room {
                return None;
            }
            roster.put(id, member);
        }
        let is_bounded = roster.members.len() <= MEMBERS_MAX && roster.size <= CARRIED_BYTES_MAX;
        is_bounded.then_some(roster)
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (&MemberId, &Member)> {
        self.members.iter()
    }

    pub(crate) fn member(&self, id: &MemberId) -> Option<&Member> {
        self.members.get(id)
    }

    pub(crate) fn len(&self) -> usize {
        self.members.len()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.members.is_empty()
    }

    /// Who has the place of an instance.
    pub(crate) fn instance(&self, name: &InstanceName) -> Option<&MemberId> {
        self.instances.get(name)
    }

    fn has_instance(&self, name: &InstanceName) -> bool {
        self.instances.contains_key(name)
    }

    /// What members are ordered by when partitions are shared out: whoever takes over a place comes
    /// where the one before it came.
    pub(crate) fn label<'a>(&'a self, id: &'a MemberId) -> &'a Name {
        let instance = self.members.get(id).and_then(|member| member.instance.as_ref());
        instance.map_or(&id.0, |instance| &instance.0)
    }

    /// The longest time that a member takes for a rebalance.
    pub(crate) fn rebalance_ms_longest(&self) -> u64 {
        let members = self.members.values();
        members.map(|m| m.timeouts.rebalance_ms).max().unwrap_or(REBALANCE_MS_MIN)
    }

    /// How the caller would come in.
    pub(crate) fn entrance(&self, caller: &Caller) -> Result<Entrance, Refused> {
        if self.members.contains_key(&caller.member) {
            return self.check(caller).map(|_| Entrance::Known);
        }
        let Some(holder) = caller.instance.as_ref().and_then(|name| self.instances.get(name))
        else {
            return Ok(Entrance::New);
        };
        let replaced = self.members.get(holder).and_then(|member| member.replaced.as_ref());
        match replaced == Some(&caller.member) {
            true => Err(Refused::Fenced),
            false => Ok(Entrance::Replaces(holder.clone())),
        }
    }

    /// The member who calls, unless it is gone.
    pub(crate) fn check(&self, caller: &Caller) -> Result<&Member, Refused> {
        match (self.members.get(&caller.member), &caller.instance) {
            (Some(member), instance) if member.instance == *instance => Ok(member),
            (Some(_), _) => Err(Refused::Fenced),
            (None, Some(name)) if self.has_instance(name) => Err(Refused::Fenced),
            (None, _) => Err(Refused::UnknownMember),
        }
    }

    /// Lets a new member in, or gives it the place of the one it replaces.
    pub(crate) fn enter(&mut self, newcomer: &Newcomer<'_>, now_ms: u64) -> Result<(), Refused> {
        let Newcomer { caller, replaces, timeouts, carried_size } = *newcomer;
        assert!(!self.members.contains_key(&caller.member), "a member enters once");
        let timeouts = timeouts.clamped();
        let member = Member {
            instance: caller.instance.clone(),
            replaced: replaces.cloned(),
            timeouts,
            deadline_ms: Some(now_ms.saturating_add(timeouts.session_ms)),
            carried_size,
        };
        let freed = replaces.and_then(|old| self.members.get(old).map(|member| member.size(old)));
        let size = (self.size - freed.unwrap_or(0)).saturating_add(member.size(&caller.member));
        let count = self.members.len() - usize::from(freed.is_some());
        if count >= MEMBERS_MAX || size > CARRIED_BYTES_MAX {
            return Err(Refused::Full);
        }
        if let Some(old) = replaces {
            self.remove(old);
        }
        self.put(caller.member.clone(), member);
        assert_eq!(self.size, size, "as it was checked");
        Ok(())
    }

    /// A member brings more or less than before.
    pub(crate) fn carry(&mut self, id: &MemberId, carried_size: usize) -> Result<(), Refused> {
        let Some(member) = self.members.get_mut(id) else { return Err(Refused::UnknownMember) };
        let size = (self.size - member.carried_size).saturating_add(carried_size);
        if size > CARRIED_BYTES_MAX {
            return Err(Refused::Full);
        }
        (self.size, member.carried_size) = (size, carried_size);
        Ok(())
    }

    /// A member is gone.
    pub(crate) fn remove(&mut self, id: &MemberId) {
        let Some(member) = self.members.remove(id) else { return };
        self.size -= member.size(id);
        if let Some(deadline_ms) = member.deadline_ms {
            self.deadlines.remove(&(deadline_ms, id.clone()));
        }
        if let Some(instance) = &member.instance {
            self.instances.remove(instance);
        }
    }

    /// A member was heard of.
    pub(crate) fn renew(&mut self, id: &MemberId, now_ms: u64) {
        let Some(member) = self.members.get(id) else { return };
        self.set_deadline(id, Some(now_ms.saturating_add(member.timeouts.session_ms)));
    }

    /// As [`Self::renew`], unless the member waits for others.
    pub(crate) fn renew_if_running(&mut self, id: &MemberId, now_ms: u64) {
        if self.members.get(id).is_some_and(|member| member.deadline_ms.is_some()) {
            self.renew(id, now_ms);
        }
    }

    /// A member waits for others: nothing is heard of it until it is renewed.
    pub(crate) fn hold(&mut self, id: &MemberId) {
        self.set_deadline(id, None);
    }

    fn set_deadline(&mut self, id: &MemberId, deadline_ms: Option<u64>) {
        let Some(member) = self.members.get_mut(id) else { return };
        let before = std::mem::replace(&mut member.deadline_ms, deadline_ms);
        if before == deadline_ms {
            return;
        }
        if let Some(before) = before {
            self.deadlines.remove(&(before, id.clone()));
        }
        self.deadlines.extend(deadline_ms.map(|deadline_ms| (deadline_ms, id.clone())));
    }

    /// Members whose sessions are over, at most [`OVER_MAX`].
    pub(crate) fn over(&self, now_ms: u64) -> Vec<MemberId> {
        let over = self.deadlines.iter().take_while(|(deadline_ms, _)| *deadline_ms <= now_ms);
        over.take(OVER_MAX).map(|(_, id)| id.clone()).collect()
    }

    /// When the next session is over.
    pub(crate) fn next_due_ms(&self) -> Option<u64> {
        self.deadlines.first().map(|(deadline_ms, _)| *deadline_ms)
    }

    fn put(&mut self, id: MemberId, member: Member) {
        self.size += member.size(&id);
        self.deadlines.extend(member.deadline_ms.map(|deadline_ms| (deadline_ms, id.clone())));
        self.instances.extend(member.instance.clone().map(|instance| (instance, id.clone())));
        self.members.insert(id, member);
    }
}

/// Somebody who comes in.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Newcomer<'a> {
    pub(crate) caller: &'a Caller,
    pub(crate) replaces: Option<&'a MemberId>,
    pub(crate) timeouts: Timeouts,
    pub(crate) carried_size: usize,
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests fail by panicking")]

    use super::*;

    fn caller(member: &str, instance: &str) -> Caller {
        let instance = Name::new(instance).map(InstanceName);
        Caller { member: MemberId(Name::new(member).unwrap()), instance }
    }

    fn enter(roster: &mut Roster, caller: &Caller, now_ms: u64) -> Result<(), Refused> {
        let entrance = roster.entrance(caller)?;
        let replaces = match &entrance {
            Entrance::Known => return Ok(()),
            Entrance::New => None,
            Entrance::Replaces(old) => Some(old),
        };
        let timeouts = Timeouts::default();
        roster.enter(&Newcomer { caller, replaces, timeouts, carried_size: 10 }, now_ms)
    }

    #[test]
    fn timeouts_have_bounds() {
        for (session_ms, rebalance_ms, is_allowed) in [
            (SESSION_MS_MIN, REBALANCE_MS_MIN, true),
            (SESSION_MS_MAX, REBALANCE_MS_MAX, true),
            (SESSION_MS_MIN - 1, REBALANCE_MS_MIN, false),
            (SESSION_MS_MAX + 1, REBALANCE_MS_MIN, false),
            (SESSION_MS_MIN, REBALANCE_MS_MIN - 1, false),
            (SESSION_MS_MIN, u64::MAX, false),
        ] {
            let timeouts = Timeouts { session_ms, rebalance_ms };
            assert_eq!(timeouts.is_allowed(), is_allowed, "{timeouts:?}");
            assert!(timeouts.clamped().is_allowed());
        }
    }

    #[test]
    fn a_session_ends_when_nothing_is_heard() {
        let mut roster = Roster::default();
        let (one, two) = (caller("1", ""), caller("2", ""));
        assert_eq!(enter(&mut roster, &one, 0), Ok(()));
        assert_eq!(enter(&mut roster, &two, 5_000), Ok(()));
        assert_eq!(roster.next_due_ms(), Some(45_000));
        assert!(roster.over(44_999).is_empty());
        assert_eq!(roster.over(45_000), std::slice::from_ref(&one.member));
        roster.renew(&one.member, 40_000);
        assert_eq!(roster.over(50_000), std::slice::from_ref(&two.member));
        roster.hold(&two.member);
        assert!(roster.over(84_999).is_empty(), "it waits for others");
        roster.renew(&two.member, 60_000);
        assert_eq!(roster.over(u64::MAX), [one.member.clone(), two.member.clone()]);
        roster.remove(&one.member);
        assert_eq!(roster.check(&one).err(), Some(Refused::UnknownMember));
        roster.remove(&two.member);
        assert_eq!(roster, Roster::default());
    }

    #[test]
    fn an_instance_keeps_its_place() {
        let mut roster = Roster::default();
        let (old, new, other) = (caller("old", "i"), caller("new", "i"), caller("other", ""));
        assert_eq!(enter(&mut roster, &old, 0), Ok(()));
        assert_eq!(roster.entrance(&old), Ok(Entrance::Known));
        assert_eq!(roster.entrance(&new), Ok(Entrance::Replaces(old.member.clone())));
        assert_eq!(enter(&mut roster, &new, 0), Ok(()));
        assert_eq!((roster.len(), roster.instance(&InstanceName(Name::new("i").unwrap()))), {
            (1, Some(&new.member))
        });
        assert_eq!(roster.label(&new.member).as_str(), "i");
        // The one before is fenced, whatever of it is still on its way.
        assert_eq!(roster.check(&old).err(), Some(Refused::Fenced));
        assert_eq!(roster.entrance(&old), Err(Refused::Fenced));
        assert_eq!(roster.check(&caller("new", "j")).err(), Some(Refused::Fenced));
        assert_eq!(roster.check(&other).err(), Some(Refused::UnknownMember));
        assert_eq!(roster.entrance(&other), Ok(Entrance::New));
        assert!(roster.check(&new).is_ok());
    }

    #[test]
    fn members_and_bytes_are_bounded() {
        let mut roster = Roster::default();
        let first = caller("first", "i");
        assert_eq!(enter(&mut roster, &first, 0), Ok(()));
        let used = roster.size;
        assert_eq!(roster.carry(&first.member, CARRIED_BYTES_MAX), Err(Refused::Full));
        assert_eq!(roster.carry(&first.member, CARRIED_BYTES_MAX - used + 10), Ok(()));
        assert_eq!(enter(&mut roster, &caller("x", ""), 0), Err(Refused::Full));
        assert_eq!(roster.carry(&first.member, 10), Ok(()));
        for number in 1..MEMBERS_MAX {
            assert_eq!(enter(&mut roster, &caller(&number.to_string(), ""), 0), Ok(()));
        }
        assert_eq!(enter(&mut roster, &caller("one more", ""), 0), Err(Refused::Full));
        assert_eq!(enter(&mut roster, &caller("again", "i"), 0), Ok(()), "as many as before");
        let members = roster.iter().map(|(id, member)| (id.clone(), member.clone()));
        assert_eq!(Roster::restore(members).as_ref(), Some(&roster));
    }

    #[test]
    fn what_is_out_of_bounds_is_not_restored() {
        let mut roster = Roster::default();
        assert_eq!(enter(&mut roster, &caller("1", "i"), 0), Ok(()));
        let (id, member) = roster.iter().next().unwrap();
        let (id, member) = (id.clone(), member.clone());
        let check = |members: Vec<(MemberId, Member)>| {
            assert_eq!(Roster::restore(members.into_iter()), None);
        };
        let other = MemberId(Name::new("2").unwrap());
        check(vec![(id.clone(), member.clone()), (id.clone(), member.clone())]);
        check(vec![(id.clone(), member.clone()), (other, member.clone())]);
        check(vec![(id.clone(), Member { carried_size: usize::MAX, ..member.clone() })]);
        check(vec![(id.clone(), Member { carried_size: CARRIED_BYTES_MAX, ..member.clone() })]);
        let timeouts = Timeouts { session_ms: 1, rebalance_ms: 1 };
        check(vec![(id, Member { timeouts, ..member })]);
    }
}
