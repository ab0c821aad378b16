//! I7: a partition of a stream group is one member's at a time, and for as long as was said.
//!
//! Demands, of each group: nobody else has a partition between two signs that a member has it who
//! did not let go in between; nor after a heartbeat that was answered, for as long as that promises
//! a member. Signs are heartbeats that are answered with the partition, and commits that are
//! accepted: so no commit of a former owner is. What a member was told that it does not have it
//! does not commit. A member is not gone before its time; the generations that it is told do not
//! fall. While nobody comes or goes, every member is told the same again and again, and every
//! partition of what the group reads is in one member's share.
//!
//! A member that asks several things at once, or whose requests take effect long after it gave them
//! up, may have what it was not told; then only what it was told counts.
//!
//! Owns: who may have what. Cost: about thirty bytes per heartbeat and partition.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::commits::Cursor;
use super::leases::promised;
use crate::history::facts::{Facts, Moment};
use crate::history::ledger::{ClientId, GroupId, PartitionId, TopicId};
use crate::history::name::{Name, Nanos};
use crate::history::verdict::{Report, Rule};

/// A heartbeat without an answer.
#[derive(Clone, Copy, Debug)]
pub(crate) struct OpenBeat {
    pub(crate) group: GroupId,
    pub(crate) client: ClientId,
    generation: Option<u32>,
    begun: Moment,
    begun_at: Nanos,
    lasts: Duration,
}

/// A heartbeat that begins.
#[derive(Debug)]
pub(crate) struct Begun<'a> {
    pub(crate) group: GroupId,
    pub(crate) client: ClientId,
    pub(crate) generation: Option<u32>,
    pub(crate) held: BTreeSet<PartitionId>,
    pub(crate) instance: Option<&'a Name>,
    pub(crate) lasts: Duration,
    pub(crate) begun: (Moment, Nanos),
}

/// What a member was told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Share {
    pub(crate) generation: u32,
    pub(crate) own: BTreeSet<PartitionId>,
    pub(crate) give_up: BTreeSet<PartitionId>,
}

/// A member, as far as it is known.
#[derive(Debug, Default)]
struct Member {
    instance: Option<Name>,
    generation: u32,
    /// It is not gone before.
    until: Option<Nanos>,
    /// What became of some heartbeat is not known.
    is_unclear: bool,
    /// What it has, by the last answer; none while it is asking.
    has: Option<BTreeSet<PartitionId>>,
}

/// Since a member was told that it has a partition, it has not let go.
#[derive(Clone, Copy, Debug)]
struct Term {
    /// The first sign of it was there.
    first: Moment,
    /// The last sign of it was asked for: others that were there before are compared.
    begun: Moment,
    /// The last sign of it was there.
    done: Moment,
    /// Nobody else has it before.
    until: Option<Nanos>,
}

/// A sign that a member had a partition at some moment.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Sign {
    pub(crate) client: ClientId,
    pub(crate) begun: Moment,
    pub(crate) done: Moment,
    pub(crate) at: Nanos,
}

/// A partition in a group.
#[derive(Debug, Default)]
struct Held {
    terms: BTreeMap<ClientId, Term>,
    /// As they were completed.
    signs: Vec<Sign>,
}

/// Nobody comes or goes.
#[derive(Debug)]
struct Calm {
    since: Moment,
    told: BTreeMap<ClientId, Share>,
}

/// Every group's shares.
#[derive(Debug, Default)]
pub(crate) struct Shares {
    members: BTreeMap<(GroupId, ClientId), Member>,
    held: BTreeMap<Cursor, Held>,
    /// What each group reads: topics and how many partitions they have.
    reads: BTreeMap<GroupId, BTreeMap<TopicId, u32>>,
    calm: BTreeMap<GroupId, Calm>,
    /// How much earlier than promised a session may end.
    early_ppm: u32,
}

impl Shares {
    pub(crate) fn new(early_ppm: u32) -> Self {
        Self { early_ppm, ..Self::default() }
    }

    /// A group reads a topic of so many partitions.
    pub(crate) fn reads(&mut self, group: GroupId, topic: TopicId, partitions: u32) {
        self.reads.entry(group).or_default().insert(topic, partitions);
    }

    /// A member begins to ask.
    pub(crate) fn beat(&mut self, begun: &Begun<'_>) -> OpenBeat {
        let Begun { group, client, generation, held, instance, lasts, begun } = begun;
        let is_joining = generation.is_none();
        if let Some(instance) = instance.filter(|_| is_joining) {
            self.replace(*group, *client, instance);
        }
        let member = self.members.entry((*group, *client)).or_default();
        member.has = None;
        member.instance = instance.cloned();
        if is_joining {
            member.until = None;
        }
        // What it does not name it lets go, and who joins may have been gone meanwhile.
        self.end_terms(*group, *client, |partition| is_joining || !held.contains(&partition));
        let (group, client, generation, lasts) = (*group, *client, *generation, *lasts);
        OpenBeat { group, client, generation, begun: begun.0, begun_at: begun.1, lasts }
    }

    /// Somebody takes the place of whoever had it.
    fn replace(&mut self, group: GroupId, client: ClientId, instance: &Name) {
        let same = |((of, id), member): (&(GroupId, ClientId), &mut Member)| {
            let is_same = *of == group && *id != client;
            if !is_same || member.instance.as_ref() != Some(instance) {
                return None;
            }
            member.until = None;
            Some(*id)
        };
        let others: Vec<ClientId> = self.members.iter_mut().filter_map(same).collect();
        for other in others {
            self.end_terms(group, other, |_| true);
        }
    }

    fn end_terms(
        &mut self,
        group: GroupId,
        client: ClientId,
        is_over: impl Fn(PartitionId) -> bool,
    ) {
        for ((_, partition), held) in self.held.range_mut(all_of(group)) {
            if is_over(*partition) {
                held.terms.remove(&client);
            }
        }
    }

    /// A member was told what it has.
    pub(crate) fn told(
        &mut self,
        facts: &mut Facts,
        report: &mut Report,
        (moment, at): (Moment, Nanos),
        open: &OpenBeat,
        share: Share,
    ) {
        let OpenBeat { group, client, .. } = *open;
        let has: BTreeSet<PartitionId> = share.own.union(&share.give_up).copied().collect();
        let member = self.members.entry((group, client)).or_default();
        let (before, generation) = (member.generation, share.generation);
        if generation < before {
            report.add(Rule::I7, at, || {
                let who = tell(facts, group, client);
                format!("{who} was told generation {generation} after {before}")
            });
        }
        // Who knows all that it was told before, and is to give nothing up, is late with nothing.
        let is_even = open.generation == Some(generation) && share.give_up.is_empty();
        let until = is_even.then(|| promised(open.begun_at, open.lasts, self.early_ppm));
        member.generation = before.max(generation);
        member.until = member.until.max(until);
        member.has = Some(has.clone());
        self.end_terms(group, client, |partition| !has.contains(&partition));
        let sign = Sign { client, begun: open.begun, done: moment, at };
        for partition in &has {
            self.shows(facts, report, (group, *partition), sign, until);
        }
        self.while_calm(facts, report, at, open, share);
    }

    /// A member was told that it is none.
    pub(crate) fn gone(&mut self, facts: &Facts, report: &mut Report, at: Nanos, open: &OpenBeat) {
        let OpenBeat { group, client, .. } = *open;
        let member = self.members.entry((group, client)).or_default();
        if let Some(until) = member.until.filter(|until| at < *until) {
            report.add(Rule::I7, at, || {
                format!(
                    "{} is gone, but was promised to be there until {until}",
                    tell(facts, group, client)
                )
            });
        }
        (member.until, member.has) = (None, Some(BTreeSet::new()));
        self.end_terms(group, client, |_| true);
        if self.calm.get(&group).is_some_and(|calm| calm.since < open.begun) {
            report.add(Rule::I7, at, || {
                format!("{} is gone while nobody comes or goes", tell(facts, group, client))
            });
        }
    }

    /// Nobody knows what became of a heartbeat.
    pub(crate) fn unclear(&mut self, open: &OpenBeat) {
        self.members.entry((open.group, open.client)).or_default().is_unclear = true;
    }

    /// A member goes.
    pub(crate) fn leaves(&mut self, group: GroupId, client: ClientId) {
        let member = self.members.entry((group, client)).or_default();
        (member.until, member.has) = (None, None);
        self.end_terms(group, client, |_| true);
    }

    /// A member is gone by its own will.
    pub(crate) fn left(&mut self, group: GroupId, client: ClientId) {
        self.members.entry((group, client)).or_default().has = Some(BTreeSet::new());
    }

    /// A commit was accepted.
    pub(crate) fn committed(
        &mut self,
        facts: &mut Facts,
        report: &mut Report,
        cursor: Cursor,
        sign: Sign,
    ) {
        let (group, partition) = cursor;
        // Somebody else's heartbeats are not known.
        let Some(member) = self.members.get(&(group, sign.client)) else { return };
        let has = member.has.as_ref().filter(|_| !member.is_unclear);
        if has.is_some_and(|has| !has.contains(&partition)) {
            report.add(Rule::I7, sign.at, || {
                let (who, place) = (tell(facts, group, sign.client), facts.tell_place(partition));
                format!("{who} committed {place}, which it was told that it does not have")
            });
            return;
        }
        self.shows(facts, report, cursor, sign, None);
    }

    /// A member had a partition: compares that with what is known of others.
    fn shows(
        &mut self,
        facts: &mut Facts,
        report: &mut Report,
        cursor: Cursor,
        sign: Sign,
        until: Option<Nanos>,
    ) {
        let held = self.held.entry(cursor).or_default();
        let is_another = |other: &&Sign| other.client != sign.client;
        facts.counters.shares_compared +=
            u64::from(held.signs.last().as_ref().is_some_and(is_another));
        let two = |report: &mut Report, other: ClientId, why: String| {
            report.add(Rule::I7, sign.at, || {
                let (group, partition) = cursor;
                let (one, other) = (tell(facts, group, sign.client), facts.client_name(other));
                format!("{one} and {other} both have {}: {why}", facts.tell_place(partition))
            });
        };
        let own = held.terms.get(&sign.client).copied();
        if let Some(term) = own {
            let later = held.signs.iter().rev().take_while(|other| other.done > term.begun);
            let between = |other: &&Sign| other.begun > term.first && other.done < sign.begun;
            if let Some(other) = later.filter(is_another).find(between) {
                two(report, other.client, format!("the latter had it at {}", other.at));
            }
        }
        let holds = |(other, term): &(&ClientId, &Term)| {
            let until = term.until.filter(|until| sign.at < *until);
            **other != sign.client && term.done < sign.begun && until.is_some()
        };
        if let Some((other, Term { until: Some(until), .. })) = held.terms.iter().find(holds) {
            two(report, *other, format!("the latter keeps it until {until}"));
        }
        held.signs.push(sign);
        let until = own.and_then(|own| own.until).max(until);
        let first = own.map_or(sign.done, |own| own.first);
        let Sign { client, begun, done, .. } = sign;
        held.terms.insert(client, Term { first, begun, done, until });
    }

    /// Nobody comes or goes from here on.
    pub(crate) fn calm(&mut self, group: GroupId, since: Moment) {
        self.calm.insert(group, Calm { since, told: BTreeMap::new() });
    }

    fn while_calm(
        &mut self,
        facts: &Facts,
        report: &mut Report,
        at: Nanos,
        open: &OpenBeat,
        share: Share,
    ) {
        let Some(calm) = self.calm.get_mut(&open.group) else { return };
        if open.begun < calm.since {
            return;
        }
        let before = calm.told.entry(open.client).or_insert_with(|| share.clone());
        if *before != share {
            report.add(Rule::I7, at, || {
                let who = tell(facts, open.group, open.client);
                format!("{who} had {before:?} and has {share:?}, but nobody came or went")
            });
        }
    }

    /// Members may come and go: up to here every partition was in one share.
    pub(crate) fn stirred(
        &mut self,
        facts: &mut Facts,
        report: &mut Report,
        at: Nanos,
        group: GroupId,
    ) {
        let Some(Calm { told, .. }) = self.calm.remove(&group) else { return };
        let topics = self.reads.get(&group).into_iter().flatten();
        let places: Vec<PartitionId> = topics
            .flat_map(|(topic, partitions)| (0..*partitions).map(move |number| (*topic, number)))
            .map(|(topic, number)| facts.place_in(topic, number))
            .collect();
        for partition in places {
            let has = |(_, share): &(&ClientId, &Share)| share.own.contains(&partition);
            let owners: Vec<ClientId> =
                told.iter().filter(has).map(|(client, _)| *client).collect();
            if owners.len() != 1 {
                report.add(Rule::I7, at, || {
                    let owners: Vec<&str> =
                        owners.iter().map(|it| facts.client_name(*it)).collect();
                    let (group, place) = (facts.group_name(group), facts.tell_place(partition));
                    format!("group {group} is at rest, and {place} is in the shares of {owners:?}")
                });
            }
        }
    }
}

fn all_of(group: GroupId) -> std::ops::RangeInclusive<Cursor> {
    (group, PartitionId(0))..=(group, PartitionId(u32::MAX))
}

fn tell(facts: &Facts, group: GroupId, client: ClientId) -> String {
    format!("{} of group {}", facts.client_name(client), facts.group_name(group))
}

#[cfg(test)]
mod tests {
    use crate::history::script::check;
    use crate::history::verdict::Rule::I7;

    #[test]
    fn a_partition_is_one_members() {
        check(&[
            (
                "handed over",
                "m beat g -> 1: 0; n beat g -> 2:; m beat g*1 0 -> 2: / 0; m commit g*2 3 -> ok; \
                 m beat g*2 -> 2:; n beat g*2 -> 2: 0; n commit g*2 4 -> ok; \
                 m commit g*2 3 -> fail",
                &[],
            ),
            (
                "after the session",
                "m beat g -> 1: 0; m beat g*1 0 -> 1: 0; wait 31; n beat g -> 2: 0; \
                 n beat g*2 0 -> 2: 0; m commit g*1 3 -> fail; m beat g*1 0 -> none",
                &[],
            ),
            (
                "back and forth, and nobody knows when",
                "m beat g -> 1: 0; 1= m beat g*1 0; n beat g -> 2: 0; 1 -> 3: 0",
                &[],
            ),
            (
                "with the place of its instance",
                "m beat g ^i -> 1: 0; m beat g*1 ^i 0 -> 1: 0; n beat g ^i -> 1: 0; \
                 n commit g*1 3 -> ok",
                &[],
            ),
            (
                "joins again with all it had",
                "m beat g -> 1: 0; m beat g*1 0 -> fail; m beat g 0 -> 2: 0; m commit g*2 3 -> ok",
                &[],
            ),
            (
                "given while another one has it",
                "m beat g -> 1: 0; m beat g*1 0 -> 1: 0; n beat g -> 2: 0",
                &[I7],
            ),
            (
                "had in between, beside a sign that proves nothing",
                "m beat g -> 1: 0; 1= n beat g; 2= m commit g*1 3; 1 -> 2: 0; 2 -> ok; \
                 m beat g*1 0 -> 2: 0",
                &[I7],
            ),
            (
                "another one had it in between",
                "m beat g -> 1: 0; n beat g -> 2: 0; m beat g*1 0 -> 2: 0",
                &[I7],
            ),
            (
                "a commit of who had it before",
                "m beat g -> 1: 0; wait 31; n beat g -> 2: 0; m commit g*1 3 -> ok",
                &[I7],
            ),
            (
                "a commit of who is to be given it",
                "m beat g -> 1: 0; n beat g -> 1:; n commit g*1 3 -> ok",
                &[I7],
            ),
            (
                "a commit of who gave it up",
                "m beat g -> 1: 0; m beat g*1 0 -> 2: / 0; m beat g*2 -> 2:; m commit g*2 3 -> ok",
                &[I7],
            ),
            (
                "a commit of who left",
                "m beat g -> 1: 0; m leave g -> ok; m commit g*1 3 -> ok",
                &[I7],
            ),
            (
                "may have been given it without knowing",
                "m beat g -> 1:; m beat g*1 -> ?; m beat g*1 -> 1:; m commit g*1 3 -> ok",
                &[],
            ),
        ]);
    }

    #[test]
    fn a_member_is_there_for_as_long_as_was_said() {
        check(&[
            (
                "silent",
                "m beat g -> 1: 0; m beat g*1 0 -> 1: 0; wait 31; m beat g*1 0 -> none",
                &[],
            ),
            (
                "left",
                "m beat g -> 1: 0; m beat g*1 0 -> 1: 0; m leave g -> ?; m beat g*1 -> none",
                &[],
            ),
            (
                "late with giving up",
                "m beat g -> 1: 0; m beat g*1 0 -> 2: / 0; wait 20; m beat g*2 0 -> none",
                &[],
            ),
            ("too early", "m beat g -> 1: 0; m beat g*1 0 -> 1: 0; m beat g*1 0 -> none", &[I7]),
            ("falls", "m beat g -> 3:; m beat g*3 -> 2:", &[I7]),
        ]);
    }

    #[test]
    fn at_rest_every_partition_is_in_one_share_that_stays() {
        let all = "reads g t 2; m beat g -> 1: 0 1; n beat g -> 2:; m beat g*1 0 1 -> 2: 0 / 1; \
                   m beat g*2 0 -> 2: 0; n beat g*2 -> 2: 1; calm g; ";
        let rest = |text: &str| format!("{all}{text}; stirred g; m beat g*2 0 -> 3: 0");
        for (what, text, want) in [
            ("stays", "m beat g*2 0 -> 2: 0; n beat g*2 1 -> 2: 1; m beat g*2 0 -> 2: 0", &[][..]),
            ("of no one", "m beat g*2 0 -> 2: 0; n beat g*2 1 -> 2:", &[I7]),
            ("not heard of", "m beat g*2 0 -> 2: 0", &[I7]),
            ("anew", "m beat g*2 0 -> 2: 0; n beat g*2 1 -> 2: 1; m beat g*2 0 -> 3: 0", &[I7]),
            ("gone", "wait 40; m beat g*2 0 -> 2: 0; n beat g*2 1 -> none", &[I7, I7]),
        ] {
            check(&[(what, &rest(text), want)]);
        }
    }
}
