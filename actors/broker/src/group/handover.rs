//! The native way: the group gives partitions to members, and takes them back one by one.
//!
//! ```text
//!                    the group assigns: generation + 1                (target)
//!   of a member:     its next heartbeat takes it to that generation   (own = held and target)
//!                      +-- what is held and no longer own: it is told to give it up
//!                      |       its report, in this generation, does not name it: held no more
//!                      +-- what is target and nobody's: held and own, at any heartbeat
//!
//!   of a partition:  nobody's --grant--> held, own --assigned anew--> held, told to give up
//!                       ^                    |  member gone                  |
//!                       +--------------------+-------------------------------+  report, or gone
//! ```
//!
//! Owns: who holds which partition, who is to hold it, and what each member was told.
//! Must never: give a partition that is held; take word of a member that speaks of an older
//! generation: it may have been given a partition again since.
//! Invariants: a partition is held by at most one member; own is within held; within a generation
//! the own of a member only grows, so a report of that generation that leaves out what was to be
//! given up is true whenever it comes. A member is taken on by one generation at a time, and only
//! once it has shown that it knows the one before.

use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;

use barrage_model::limits::PARTITIONS_PER_TOPIC_MAX;
use barrage_model::{PartitionKey, TopicId};
use barrage_world::planted;

use super::assignment::{self, Assignor, Candidate, Sizes};
use super::generation::Generation;
use super::name::MemberId;
use super::partition_set::PartitionSet;
use super::refused::Refused;
use super::roster::{OVER_MAX, Roster};

/// Most topics that a member reads.
pub(crate) const TOPICS_PER_MEMBER_MAX: usize = 256;
/// Most partitions of all topics that a group reads: all that a cluster has.
pub(crate) const PARTITIONS_MAX: u64 = barrage_cluster::catalog::PARTITIONS_MAX;
/// Shortest time between two assignments. Members that come and go together cause one, and one of
/// the largest group does not take the core from others more than once in this time.
pub(crate) const ASSIGNMENT_INTERVAL_MS: u64 = 1_000;

/// A topic with as many partitions as it has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct TopicSize {
    pub(crate) topic: TopicId,
    pub(crate) partitions: u32,
}

/// What a member reads.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Subscription {
    pub(crate) topics: Vec<TopicSize>,
    /// How it wants partitions shared out; the majority decides.
    pub(crate) assignor: Assignor,
}

impl Subscription {
    /// Bytes that it costs to keep.
    pub(crate) fn size(&self) -> usize {
        self.topics.len() * size_of::<TopicId>()
    }
}

/// What a member says with a heartbeat.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Beat {
    pub(crate) generation: Generation,
    /// The partitions that it has, all of them; `None` says nothing about that.
    pub(crate) held: Option<Vec<PartitionKey>>,
    /// What it reads from now on, if that changes.
    pub(crate) subscription: Option<Subscription>,
}

/// What a member is told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Told {
    /// It bears this in what it says next.
    pub(crate) generation: Generation,
    /// What it may read: this and nothing else.
    pub(crate) own: PartitionSet,
    /// What it stops reading: it may still commit, then it reports without it.
    pub(crate) give_up: PartitionSet,
}

/// What a member has shown to know.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Knows {
    /// What it was told last.
    All,
    /// What it was told before that: the last answer did not reach it, or this comes late.
    AllButLast,
}

/// The part of a member.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Share {
    /// Topics that it reads, ascending.
    pub(crate) topics: Rc<[TopicId]>,
    pub(crate) assignor: Assignor,
    /// What it was told last, and before that.
    pub(crate) generation: Generation,
    pub(crate) previous: Generation,
    /// Nobody else may have these.
    pub(crate) held: PartitionSet,
    /// What it was told to read.
    pub(crate) own: PartitionSet,
    /// What it is to have by the group's last assignment.
    pub(crate) target: PartitionSet,
    /// By then it has given up something of what it has too much, or it is gone; none while it was
    /// not heard of since that is so.
    pub(crate) give_up_by_ms: Option<u64>,
}

/// See the module.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Handover {
    shares: BTreeMap<MemberId, Share>,
    sizes: Sizes,
    /// Something has changed since the last assignment.
    is_pending: bool,
    assigned_ms: Option<u64>,
    // What follows is derived from the shares.
    owners: Rc<BTreeMap<PartitionKey, MemberId>>,
    deadlines: BTreeSet<(u64, MemberId)>,
}

/// What a checkpoint keeps beside the shares.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Plan {
    pub(crate) sizes: Vec<TopicSize>,
    pub(crate) is_pending: bool,
    pub(crate) assigned_ms: Option<u64>,
}

impl Handover {
    /// Of a group that was empty, and shared its partitions out before at `assigned_ms`.
    pub(crate) fn after(assigned_ms: Option<u64>) -> Self {
        Self { assigned_ms, ..Self::default() }
    }

    /// What a checkpoint kept, if it is within the bounds.
    pub(crate) fn restore(shares: Vec<(MemberId, Share)>, plan: Plan) -> Option<Self> {
        let mut handover =
            Self { is_pending: plan.is_pending, assigned_ms: plan.assigned_ms, ..Self::default() };
        let sizes = plan.sizes.iter().map(|size| (size.topic, size.partitions));
        handover.sizes = sizes.collect();
        let is_bounded = |size: &TopicSize| size.partitions <= PARTITIONS_PER_TOPIC_MAX;
        if !plan.sizes.iter().all(is_bounded) || handover.partitions() > PARTITIONS_MAX {
            return None;
        }
        let (owners, mut targets) = (Rc::make_mut(&mut handover.owners), BTreeSet::new());
        for (id, share) in shares {
            let is_sound = share.topics.is_sorted_by(|one, next| one < next)
                && share.topics.len() <= TOPICS_PER_MEMBER_MAX
                && share.own.is_within(&share.held)
                && share.held.iter().all(|key| owners.insert(key, id.clone()).is_none())
                && share.target.iter().all(|key| targets.insert(key));
            if !is_sound {
                return None;
            }
            handover.deadlines.extend(share.give_up_by_ms.map(|by_ms| (by_ms, id.clone())));
            handover.shares.insert(id, share);
        }
        Some(handover)
    }

    /// What a checkpoint keeps beside the shares.
    pub(crate) fn plan(&self) -> Plan {
        let size = |(topic, partitions): (&TopicId, &u32)| TopicSize {
            topic: *topic,
            partitions: *partitions,
        };
        let sizes = self.sizes.iter().map(size).collect();
        Plan { sizes, is_pending: self.is_pending, assigned_ms: self.assigned_ms }
    }

    pub(crate) fn share(&self, id: &MemberId) -> Option<&Share> {
        self.shares.get(id)
    }

    /// Who holds a partition.
    pub(crate) fn owner(&self, key: PartitionKey) -> Option<&MemberId> {
        self.owners.get(&key)
    }

    /// Whether everybody has what it is to have, and knows so.
    pub(crate) fn is_settled(&self, generation: Generation) -> bool {
        !self.is_pending && self.shares.values().all(|share| share.is_settled(generation))
    }

    /// Whether the group may read this as well.
    pub(crate) fn check_room(&self, subscription: &Subscription) -> Result<(), Refused> {
        if subscription.topics.len() > TOPICS_PER_MEMBER_MAX {
            return Err(Refused::TooLarge);
        }
        let mut added = Sizes::new();
        for TopicSize { topic, partitions } in &subscription.topics {
            let known = self.sizes.get(topic).copied().unwrap_or(0);
            let more = partitions.min(&PARTITIONS_PER_TOPIC_MAX).saturating_sub(known);
            let most = added.entry(*topic).or_default();
            *most = more.max(*most);
        }
        let added: u64 = added.values().map(|more| u64::from(*more)).sum();
        if self.partitions() + added > PARTITIONS_MAX { Err(Refused::Full) } else { Ok(()) }
    }

    /// A member comes, with nothing, or reads something else from now on.
    pub(crate) fn subscribe(
        &mut self,
        id: &MemberId,
        subscription: &Subscription,
        generation: Generation,
    ) {
        for TopicSize { topic, partitions } in &subscription.topics {
            let size = self.sizes.entry(*topic).or_default();
            let partitions = *partitions.min(&PARTITIONS_PER_TOPIC_MAX);
            self.is_pending |= partitions > *size;
            *size = partitions.max(*size);
        }
        let topics: BTreeSet<TopicId> = subscription.topics.iter().map(|s| s.topic).collect();
        let topics: Rc<[TopicId]> = topics.into_iter().collect();
        let assignor = subscription.assignor;
        match self.shares.get_mut(id) {
            // Who takes a place, and reads what the one before it read, disturbs nobody.
            Some(share) if share.topics == topics && share.assignor == assignor => {}
            Some(share) => {
                (share.topics, share.assignor) = (topics, assignor);
                self.is_pending = true;
            }
            None => {
                let share = Share { topics, assignor, ..Share::new(generation) };
                self.shares.insert(id.clone(), share);
                self.is_pending = true;
            }
        }
    }

    /// A member takes the place of another one, with all that one had.
    pub(crate) fn replace(&mut self, old: &MemberId, new: &MemberId) {
        let Some(share) = self.shares.remove(old) else { return };
        let owners = Rc::make_mut(&mut self.owners);
        owners.extend(share.held.iter().map(|key| (key, new.clone())));
        if let Some(by_ms) = share.give_up_by_ms {
            self.deadlines.remove(&(by_ms, old.clone()));
            self.deadlines.insert((by_ms, new.clone()));
        }
        self.shares.insert(new.clone(), share);
    }

    /// A member is gone: what it held is nobody's.
    pub(crate) fn remove(&mut self, id: &MemberId) {
        let Some(share) = self.shares.remove(id) else { return };
        self.disown(&share.held);
        if let Some(by_ms) = share.give_up_by_ms {
            self.deadlines.remove(&(by_ms, id.clone()));
        }
        // Wrong when planted: what a member had that is gone waits until another one comes.
        self.is_pending |= !planted("broker-share-of-the-gone-waits");
    }

    /// Topics have more partitions, or are there again for those who read them. A size never falls,
    /// so old news changes nothing.
    pub(crate) fn resize(&mut self, topics: &[TopicSize]) {
        let mut room = PARTITIONS_MAX.saturating_sub(self.partitions());
        let are_known = topics.iter().all(|size| self.sizes.contains_key(&size.topic));
        let shares = self.shares.values().filter(|_| !are_known);
        let read: BTreeSet<TopicId> =
            shares.flat_map(|share| share.topics.iter().copied()).collect();
        for TopicSize { topic, partitions } in topics {
            if read.contains(topic) {
                self.sizes.entry(*topic).or_insert(0);
            }
            let Some(size) = self.sizes.get_mut(topic) else { continue };
            let more = u64::from(partitions.min(&PARTITIONS_PER_TOPIC_MAX).saturating_sub(*size));
            if more > 0 && more <= room {
                *size += more as u32;
                room -= more;
                self.is_pending = true;
            }
        }
    }

    /// A topic is gone.
    pub(crate) fn remove_topic(&mut self, topic: TopicId) {
        self.is_pending |= self.sizes.remove(&topic).is_some();
    }

    /// What a member knows that speaks of a generation.
    pub(crate) fn knows(&self, id: &MemberId, generation: Generation) -> Result<Knows, Refused> {
        match self.shares.get(id) {
            None => Err(Refused::UnknownMember),
            Some(share) if share.generation == generation => Ok(Knows::All),
            Some(share) if share.previous == generation => Ok(Knows::AllButLast),
            Some(_) => Err(Refused::StaleGeneration),
        }
    }

    /// The partitions that a member may commit in this generation.
    pub(crate) fn held(
        &self,
        id: &MemberId,
        generation: Generation,
    ) -> Result<&PartitionSet, Refused> {
        match self.shares.get(id) {
            None => Err(Refused::UnknownMember),
            // Wrong when planted: what was read by an assignment that is over is stored.
            Some(share)
                if share.generation == generation || planted("broker-stale-commit-taken") =>
            {
                Ok(&share.held)
            }
            Some(_) => Err(Refused::StaleGeneration),
        }
    }

    /// A member that knows all it was told has these partitions: what it was told to give up and
    /// does not name is nobody's. It may take until `more_by_ms` for the rest.
    pub(crate) fn report(&mut self, id: &MemberId, held: &[PartitionKey], more_by_ms: u64) {
        let Some(share) = self.shares.get_mut(id) else { return };
        if share.held.len() == share.own.len() {
            return;
        }
        let reported: PartitionSet = held.iter().copied().collect();
        let gone = share.held.without(&share.own).without(&reported);
        if gone.is_empty() {
            return;
        }
        share.held = share.held.without(&gone);
        let is_done = share.held.is_within(&share.target);
        self.disown(&gone);
        self.set_deadline(id, (!is_done).then_some(more_by_ms));
    }

    /// Takes a member that knows all it was told to the group's generation.
    pub(crate) fn advance(&mut self, id: &MemberId, generation: Generation) {
        let Some(share) = self.shares.get_mut(id) else { return };
        if share.generation != generation {
            share.previous = std::mem::replace(&mut share.generation, generation);
            share.own = share.held.shared_with(&share.target);
        }
    }

    /// Gives a member what it is to have and nobody has.
    pub(crate) fn grant(&mut self, id: &MemberId, generation: Generation) {
        let Some(share) = self.shares.get_mut(id) else { return };
        if share.generation != generation || share.own.len() == share.target.len() {
            return;
        }
        let is_free = |key: &PartitionKey| !self.owners.contains_key(key);
        let free: PartitionSet = share.target.iter().filter(is_free).collect();
        if free.is_empty() {
            return;
        }
        share.held = share.held.with(&free);
        share.own = share.own.with(&free);
        let owners = Rc::make_mut(&mut self.owners);
        owners.extend(free.iter().map(|key| (key, id.clone())));
    }

    /// What a member is told.
    pub(crate) fn told(&self, id: &MemberId) -> Result<Told, Refused> {
        let share = self.shares.get(id).ok_or(Refused::UnknownMember)?;
        let give_up = match share.held.len() == share.own.len() {
            true => PartitionSet::default(),
            false => share.held.without(&share.own),
        };
        Ok(Told { generation: share.generation, own: share.own.clone(), give_up })
    }

    /// When the partitions are to be shared out anew; a first assignment is due at once.
    pub(crate) fn assignment_due_ms(&self) -> Option<u64> {
        let earliest = |at: u64| at.saturating_add(ASSIGNMENT_INTERVAL_MS);
        self.is_pending.then(|| self.assigned_ms.map_or(0, earliest))
    }

    /// Shares the partitions out anew. Members learn of it with their heartbeats, in a generation
    /// that this is the first to bear.
    pub(crate) fn assign(&mut self, roster: &Roster, now_ms: u64) {
        (self.is_pending, self.assigned_ms) = (false, Some(now_ms));
        let read: BTreeSet<TopicId> =
            self.shares.values().flat_map(|share| share.topics.iter().copied()).collect();
        self.sizes.retain(|topic, _| read.contains(topic));

        let mut order: Vec<(&MemberId, &Share)> = self.shares.iter().collect();
        order.sort_by_key(|(id, _)| (roster.label(id), *id));
        let candidates: Vec<Candidate<'_>> = order
            .iter()
            .map(|(_, share)| Candidate { topics: &share.topics, had: share.target.as_slice() })
            .collect();
        let assignor = assignment::elect(order.iter().map(|(_, share)| share.assignor));
        let lists = assignment::assign(assignor, &candidates, &self.sizes);
        assert_eq!(lists.len(), order.len(), "a list for each");

        let ids: Vec<MemberId> = order.into_iter().map(|(id, _)| id.clone()).collect();
        for (id, list) in ids.iter().zip(lists) {
            self.aim(id, list.into_iter().collect());
        }
    }

    fn aim(&mut self, id: &MemberId, target: PartitionSet) {
        let Some(share) = self.shares.get_mut(id) else { return };
        if share.target != target {
            share.target = target;
        }
        if planted("broker-partition-given-before-let-go") {
            // Wrong: who had it reads on, and does not know.
            let gone = share.held.without(&share.target);
            share.held = share.held.shared_with(&share.target);
            share.own = share.own.shared_with(&share.target);
            self.disown(&gone);
            return self.set_deadline(id, None);
        }
        // Who is already late gets no more time by a further change.
        let is_done = share.held.is_within(&share.target);
        let deadline = share.give_up_by_ms.filter(|_| !is_done);
        self.set_deadline(id, deadline);
    }

    /// A member is heard of, and told what it is to give up, if anything: from now on it has until
    /// `by_ms` for that. What is in the log may be old when it is applied, and meanwhile the member
    /// was told that all is as before: so its time does not begin with the assignment.
    pub(crate) fn ask_back(&mut self, id: &MemberId, by_ms: u64) {
        let Some(share) = self.shares.get(id) else { return };
        if share.give_up_by_ms.is_none() && !share.held.is_within(&share.target) {
            self.set_deadline(id, Some(by_ms));
        }
    }

    /// Members that have not given up in time what they were to, at most [`OVER_MAX`].
    pub(crate) fn overdue(&self, now_ms: u64) -> Vec<MemberId> {
        let overdue = self.deadlines.iter().take_while(|(by_ms, _)| *by_ms <= now_ms);
        overdue.take(OVER_MAX).map(|(_, id)| id.clone()).collect()
    }

    /// When there is something to do without a member that calls.
    pub(crate) fn next_due_ms(&self) -> Option<u64> {
        let deadline_ms = self.deadlines.first().map(|(by_ms, _)| *by_ms);
        [deadline_ms, self.assignment_due_ms()].into_iter().flatten().min()
    }

    fn partitions(&self) -> u64 {
        self.sizes.values().map(|partitions| u64::from(*partitions)).sum()
    }

    fn disown(&mut self, keys: &PartitionSet) {
        if keys.is_empty() {
            return;
        }
        let owners = Rc::make_mut(&mut self.owners);
        for key in keys.iter() {
            let owner = owners.remove(&key);
            assert!(owner.is_some(), "what is held has an owner");
        }
    }

    fn set_deadline(&mut self, id: &MemberId, by_ms: Option<u64>) {
        let Some(share) = self.shares.get_mut(id) else { return };
        if let Some(before) = std::mem::replace(&mut share.give_up_by_ms, by_ms) {
            self.deadlines.remove(&(before, id.clone()));
        }
        self.deadlines.extend(by_ms.map(|by_ms| (by_ms, id.clone())));
    }
}

impl Share {
    fn new(generation: Generation) -> Self {
        Self {
            topics: Rc::default(),
            assignor: Assignor::default(),
            generation,
            previous: generation,
            held: PartitionSet::default(),
            own: PartitionSet::default(),
            target: PartitionSet::default(),
            give_up_by_ms: None,
        }
    }

    /// Whether the member has what it is to have, and knows so.
    pub(crate) fn is_settled(&self, generation: Generation) -> bool {
        let is_even = self.held.len() == self.own.len() && self.own.len() == self.target.len();
        self.generation == generation && is_even
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests fail by panicking")]

    use super::super::roster::REBALANCE_MS_DEFAULT;
    use super::super::saved::Members;
    use super::super::script::{Script, caller, key, sizes, subscription};
    use super::super::stream::Standing;
    use super::*;

    const FOUR: &[(u64, u32)] = &[(1, 4)];

    /// `a` and `b`, before `a` knows that there is another one.
    fn two() -> Script {
        let mut script = Script::new();
        assert_eq!(script.join("a", FOUR), Ok((1, vec![100, 101, 102, 103], vec![])));
        script.now_ms = 100;
        assert_eq!(script.join("b", FOUR), Ok((1, vec![], vec![])));
        assert_eq!(script.group.standing(), Standing::Assigning);
        assert_eq!(script.next_due_ms(), Some(ASSIGNMENT_INTERVAL_MS));
        script.pass(900);
        assert_eq!(script.group.generation(), Generation(2));
        script
    }

    /// As [`two`], once all is handed over.
    fn two_settled() -> Script {
        let mut script = two();
        let all: &[u64] = &[100, 101, 102, 103];
        for (who, generation, held, want) in [
            ("b", 1, &[][..], (2, vec![], vec![])),
            ("a", 1, all, (2, vec![100, 101], vec![102, 103])),
            ("b", 2, &[], (2, vec![], vec![])),
            ("a", 2, all, (2, vec![100, 101], vec![102, 103])),
            ("a", 2, &[100, 101, 103], (2, vec![100, 101], vec![103])),
            ("b", 2, &[], (2, vec![102], vec![])),
            ("a", 2, &[100, 101], (2, vec![100, 101], vec![])),
            ("b", 2, &[102], (2, vec![102, 103], vec![])),
        ] {
            assert_eq!(script.beat(who, generation, held), Ok(want), "{who} {generation} {held:?}");
            script.check_round_trip();
        }
        assert_eq!(script.group.standing(), Standing::Stable);
        script
    }

    #[test]
    fn a_partition_is_given_up_before_it_is_given() {
        let script = two_settled();
        assert_eq!(script.group.owner(key(103)), Some(&caller("b").member));
        assert_eq!(script.next_due_ms(), Some(46_000), "only sessions are left to look at");
    }

    /// What was said before an answer was heard says nothing about what it told.
    #[test]
    fn late_words_release_nothing() {
        let mut script = two();
        let told = (2, vec![100, 101], vec![102, 103]);
        assert_eq!(script.beat("a", 1, &[]), Ok(told.clone()), "its first, sent before it had any");
        assert_eq!(script.beat("a", 1, &[]), Ok(told), "the same once more");
        assert_eq!(script.beat("b", 1, &[]), Ok((2, vec![], vec![])));
        assert_eq!(script.beat("b", 2, &[]), Ok((2, vec![], vec![])));
        assert_eq!(script.beat("a", 2, &[100, 101]), Ok((2, vec![100, 101], vec![])));
        assert_eq!(script.beat("b", 2, &[]), Ok((2, vec![102, 103], vec![])));
        assert_eq!(script.beat("a", 0, &[]), Err(Refused::StaleGeneration));
        assert_eq!(script.beat("a", 3, &[]), Err(Refused::StaleGeneration));
        assert_eq!(script.beat("c", 2, &[]), Err(Refused::UnknownMember));
        // To join again takes nothing back and gives nothing up.
        assert_eq!(script.join("a", &[(1, 4), (2, 9)]), Ok((2, vec![100, 101], vec![])));
        assert_eq!(script.group.standing(), Standing::Stable);
    }

    /// Who is told of a generation but speaks of the one before is told again, and not taken on.
    #[test]
    fn a_member_is_taken_on_by_one_generation_at_a_time() {
        let mut script = two();
        assert_eq!(script.beat("a", 1, &[]).map(|told| told.0), Ok(2));
        script.now_ms = 5_000;
        assert_eq!(script.join("c", FOUR).map(|told| told.0), Ok(3));
        assert_eq!(script.beat("a", 1, &[]).map(|told| told.0), Ok(2));
        assert_eq!(script.beat("a", 2, &[]).map(|told| told.0), Ok(3));
        assert_eq!(script.beat("a", 1, &[]).map(|told| told.0), Err(Refused::StaleGeneration));
    }

    #[test]
    fn who_gives_nothing_up_in_time_is_gone() {
        let mut script = two();
        let held: &[u64] = &[100, 101, 102, 103];
        assert!(script.beat("a", 1, held).is_ok());
        let until_ms = 1_000 + REBALANCE_MS_DEFAULT;
        while script.now_ms + 40_000 < until_ms {
            assert_eq!(script.pass(40_000).members, []);
            let generation = script.group.share(&caller("a").member).unwrap().generation.0;
            assert!(script.beat("a", generation, held).is_ok());
            let generation = script.group.share(&caller("b").member).unwrap().generation.0;
            assert!(script.beat("b", generation, &[]).is_ok());
        }
        assert_eq!(script.next_due_ms(), Some(until_ms));
        assert_eq!(script.pass(until_ms - 1 - script.now_ms).members, []);
        assert_eq!(script.pass(1).members, [caller("a").member]);
        assert_eq!(script.beat("a", 2, held), Err(Refused::UnknownMember));
        assert_eq!(script.beat("b", 2, &[]), Ok((3, vec![100, 101, 102, 103], vec![])));
    }

    /// It may have been told that all is as before until then: an assignment in the log is applied
    /// when a majority has it, and that may take long.
    #[test]
    fn nobody_is_late_who_was_not_asked() {
        let mut script = two();
        let by_ms =
            |script: &Script| script.group.share(&caller("a").member).unwrap().give_up_by_ms;
        assert_eq!(script.pass(40_000).members, []);
        assert_eq!(by_ms(&script), None);
        assert!(script.beat("a", 1, &[100, 101, 102, 103]).is_ok());
        assert_eq!(by_ms(&script), Some(41_000 + REBALANCE_MS_DEFAULT));
        assert_eq!(script.pass(10_000).members, [caller("b").member], "it was not heard of");
        assert_eq!(by_ms(&script), None, "all is its own again");
    }

    #[test]
    fn who_gives_up_something_has_time_for_the_rest() {
        let mut script = two();
        assert_eq!(script.beat("a", 1, &[]), Ok((2, vec![100, 101], vec![102, 103])));
        script.now_ms = 40_000;
        assert!(script.beat("a", 2, &[100, 101, 102]).is_ok());
        let by_ms = script.group.share(&caller("a").member).unwrap().give_up_by_ms;
        assert_eq!(by_ms, Some(40_000 + REBALANCE_MS_DEFAULT));
        assert!(script.beat("a", 2, &[100]).is_ok());
        assert_eq!(script.group.share(&caller("a").member).unwrap().give_up_by_ms, None);
    }

    #[test]
    fn what_a_member_held_is_free_when_it_is_gone() {
        for by_time in [false, true] {
            let mut script = two_settled();
            if by_time {
                script.now_ms = 40_000;
                assert!(script.beat("b", 2, &[102, 103]).is_ok());
                assert_eq!(script.pass(6_000).members, [caller("a").member]);
            } else {
                script.now_ms = 3_000;
                assert_eq!(script.leave("a"), Ok(()));
                assert_eq!(script.leave("a"), Err(Refused::UnknownMember));
            }
            let all = vec![100, 101, 102, 103];
            assert_eq!(script.beat("b", 2, &[102, 103]), Ok((3, all, vec![])));
            assert_eq!(script.leave("b"), Ok(()));
            assert_eq!(script.group.standing(), Standing::Empty);
            assert!(script.group.is_void());
            // Who comes and goes does not make assignments more frequent.
            assert_eq!(script.join("c", FOUR), Ok((3, vec![], vec![])));
            script.check_round_trip();
            script.pass(1_000);
            let told = script.beat("c", 3, &[]).map(|told| told.0);
            assert_eq!(told, Ok(4), "it goes on counting");
        }
    }

    #[test]
    fn an_instance_that_comes_back_disturbs_nobody() {
        let mut script = Script::new();
        assert!(script.join("a1@a", FOUR).is_ok());
        assert!(script.join("b", FOUR).is_ok());
        script.pass(1_000);
        assert!(script.beat("a1@a", 1, &[]).is_ok());
        assert!(script.beat("a1@a", 2, &[]).is_ok());
        assert!(script.beat("b", 1, &[]).is_ok());
        assert_eq!(script.group.standing(), Standing::Stable);
        assert_eq!(script.join("a2@a", FOUR), Ok((2, vec![100, 101], vec![])));
        assert_eq!(script.group.standing(), Standing::Stable);
        assert_eq!(script.group.owner(key(100)), Some(&caller("a2").member));
        assert_eq!(script.beat("a1@a", 2, &[]), Err(Refused::Fenced));
        assert_eq!(script.join("a1@a", FOUR), Err(Refused::Fenced), "a late repetition");
        assert_eq!(script.commit("a1@a", 2, &[(100, 5)]), Err(Refused::Fenced));
        assert_eq!(script.commit("a2@a", 2, &[(100, 5)]), Ok(vec![Ok(())]));
        let evicted = caller("a2@a").instance.unwrap();
        assert_eq!(script.group.evict(&evicted, 1_000), Ok(()));
        assert_eq!(script.group.evict(&evicted, 1_000), Err(Refused::UnknownMember));
        script.check_round_trip();
    }

    #[test]
    fn topics_grow_go_and_are_left() {
        let mut script = Script::new();
        assert!(script.join("a", &[(1, 2), (2, 2)]).is_ok());
        script.now_ms = 5_000;
        script.group.resize(&sizes(&[(1, 3), (2, 1), (9, 9)]), 5_000);
        assert_eq!(script.beat("a", 1, &[]), Ok((2, vec![100, 101, 102, 200, 201], vec![])));
        script.now_ms = 10_000;
        assert_eq!(script.group.remove_topic(TopicId(2), 10_000), 0);
        assert_eq!(script.beat("a", 2, &[]), Ok((3, vec![100, 101, 102], vec![200, 201])));
        script.now_ms = 15_000;
        let subscription = Some(subscription(&[(3, 1)]));
        let beat = Beat { generation: Generation(3), held: Some(Vec::new()), subscription };
        let late = Beat { generation: Generation(2), ..beat.clone() };
        let a = caller("a");
        assert_eq!(script.group.heartbeat(&a, &late, 15_000), Err(Refused::StaleGeneration));
        assert!(script.group.heartbeat(&a, &beat, 15_000).is_ok());
        assert_eq!(script.beat("a", 4, &[]), Ok((4, vec![300], vec![])));
        let Members::Native { plan, .. } = script.check_round_trip().members else {
            unreachable!("it is native")
        };
        assert_eq!(plan.sizes, sizes(&[(3, 1)]), "what nobody reads is forgotten");
    }

    #[test]
    fn what_a_group_reads_is_bounded() {
        let mut script = Script::new();
        let topics = |count: u64, size| -> Vec<(u64, u32)> {
            (0..count).map(|topic| (topic, size)).collect()
        };
        let most = TOPICS_PER_MEMBER_MAX as u64;
        assert_eq!(script.join("a", &topics(most + 1, 1)), Err(Refused::TooLarge));
        let fit = PARTITIONS_MAX / u64::from(PARTITIONS_PER_TOPIC_MAX);
        let beyond = topics(fit + 1, PARTITIONS_PER_TOPIC_MAX);
        assert_eq!(script.join("a", &beyond), Err(Refused::Full));
        assert_eq!(script.group.standing(), Standing::Empty);
        let told = script.join("a", &topics(fit, u32::MAX)).unwrap();
        assert_eq!(told.1.len() as u64, PARTITIONS_MAX);
        assert_eq!(script.join("b", &[(fit, 1)]), Err(Refused::Full));
        assert!(script.join("b", &[(0, 1)]).is_ok());
    }
}
