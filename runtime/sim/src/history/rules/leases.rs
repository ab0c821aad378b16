//! I9: a lease is exclusive until it ends, and every record of a queue ends in one place.
//!
//! Demands, of each group: a record is not delivered again before the lease of its earlier
//! delivery can have ended; a later delivery has a higher count, and no count is given out twice
//! but that of a delivery that may have been released.
//! At the end each acknowledged record of a topic from which the group took was acked, or was
//! delivered in the final reading, or is shown by it as the group's dead letter, once; what was
//! acked or is dead is nowhere else.
//!
//! A lease begins when the take begins at the earliest, and nothing is demanded beyond its
//! length from then on; a nack or extension that may have taken effect counts as if it had,
//! where that makes the lease shorter.
//!
//! Owns: the deliveries of each record in each group. Cost: about forty bytes per delivery and a
//! hundred per record taken.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use barrage_model::Offset;

use super::deletion;
use crate::history::event::{SettleLease, Settlement};
use crate::history::facts::{Facts, Moment};
use crate::history::ledger::{GroupId, MessageId, MessageSet, PartitionId, TopicId};
use crate::history::name::Nanos;
use crate::history::verdict::{Report, Rule};

/// A take that is being answered.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Take {
    pub(crate) group: GroupId,
    pub(crate) topic: TopicId,
    pub(crate) visibility: Duration,
    pub(crate) begun: Moment,
    pub(crate) begun_at: Nanos,
}

/// One delivery.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Given {
    pub(crate) count: u32,
    /// The take began.
    pub(crate) begun: Moment,
    /// The take was answered.
    pub(crate) done: Moment,
    pub(crate) at: Nanos,
    /// Nobody else may have it before.
    ends: Nanos,
    /// It may have been given back.
    is_nacked: bool,
    /// And then does not count.
    is_released: bool,
}

/// An ack that was accepted.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Acked {
    pub(crate) moment: Moment,
    pub(crate) at: Nanos,
}

/// An ack, nack or extension on its way.
#[derive(Clone, Copy, Debug)]
pub(crate) struct OpenSettlement {
    group: GroupId,
    message: MessageId,
    pub(crate) count: u32,
    pub(crate) how: Settlement,
    pub(crate) begun: Moment,
    begun_at: Nanos,
    /// When it was accepted.
    pub(crate) at: Nanos,
}

/// A dead letter as it was first read.
#[derive(Clone, Copy, Debug)]
struct Dead {
    moment: Moment,
    place: (PartitionId, Offset),
    is_twice: bool,
    /// The final reading showed it.
    is_drained: bool,
}

/// A record in a group.
#[derive(Debug, Default)]
pub(crate) struct Track {
    /// By count.
    pub(crate) given: Vec<Given>,
    pub(crate) acked: Option<Acked>,
    /// Acks that may take effect.
    acks_possible: u32,
    is_drained: bool,
    dead: Option<Dead>,
}

/// So late it may be found out that a record is too old.
const FOUND_OUT_WITHIN: Duration = Duration::from_secs(1);

fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

/// Every group's records.
#[derive(Debug)]
pub(crate) struct Leases {
    tracks: BTreeMap<(GroupId, MessageId), Track>,
    /// Who took from which topic.
    takers: BTreeSet<(GroupId, TopicId)>,
    /// The groups whose dead letters go to a topic (first) from another (second).
    dead_letters: BTreeMap<(TopicId, TopicId), BTreeSet<GroupId>>,
    /// Which groups give no record up that is younger, and are given none that is older (any for
    /// 0), nanoseconds.
    ages: BTreeMap<GroupId, (u64, u64)>,
    /// What brokers' clocks may be ahead, nanoseconds.
    ahead: u64,
    /// How much earlier than promised a lease may end.
    early_ppm: u32,
}

impl Leases {
    pub(crate) fn new(early_ppm: u32) -> Self {
        Self {
            tracks: BTreeMap::new(),
            takers: BTreeSet::new(),
            dead_letters: BTreeMap::new(),
            ages: BTreeMap::new(),
            ahead: 0,
            early_ppm,
        }
    }

    pub(crate) fn dead_letters_of(
        &mut self,
        group: GroupId,
        (topic, into): (TopicId, TopicId),
        (not_before, wanted_for): (Duration, Duration),
    ) {
        self.dead_letters.entry((into, topic)).or_default().insert(group);
        self.ages.insert(group, (nanos(not_before), nanos(wanted_for)));
    }

    /// Brokers' clocks may be ahead by so much.
    pub(crate) fn ahead(&mut self, by: Duration) {
        self.ahead = self.ahead.max(nanos(by));
    }

    /// A group begins to take from a topic.
    pub(crate) fn takes(&mut self, group: GroupId, topic: TopicId) {
        self.takers.insert((group, topic));
    }

    /// A record was delivered. True when it is the first delivery that is known.
    pub(crate) fn deliver(
        &mut self,
        facts: &mut Facts,
        report: &mut Report,
        take: &Take,
        message: MessageId,
        given: (u32, Moment, Nanos),
    ) -> bool {
        let (count, done, at) = given;
        let ends = self.promised(take.begun_at, take.visibility);
        let (is_nacked, is_released) = (false, false);
        let given = Given { count, begun: take.begun, done, at, ends, is_nacked, is_released };
        let track = self.tracks.entry((take.group, message)).or_default();
        track.is_drained |= facts.is_final(take.begun);
        facts.counters.leases_compared += u64::from(!track.given.is_empty());
        let tell = || tell(facts, take.group, message);
        deletion::delivered(report, track, &given, tell);
        track.exclusive(report, &given, tell);
        if let Some(dead) = track.dead.filter(|dead| dead.moment < take.begun) {
            report.add(Rule::I9, at, || {
                let place = facts.tell_offset(dead.place.0, dead.place.1);
                format!("{} was delivered (count {count}) but is a dead letter at {place}", tell())
            });
        }
        // Of one that is delayed nobody here knows when it came.
        let wanted_for = self.ages.get(&take.group).map_or(0, |(_, wanted_for)| *wanted_for);
        let batch = facts.ledger.batch_of(message);
        let came = batch.acknowledged.filter(|_| wanted_for > 0 && !batch.is_delayed);
        let latest = wanted_for.saturating_add(self.ahead).saturating_add(nanos(FOUND_OUT_WITHIN));
        if let Some(came) = came.filter(|it| it.at.0.saturating_add(latest) < take.begun_at.0) {
            report.add(Rule::I9, at, || {
                format!("{} came by {} and was delivered when it was too old", tell(), came.at)
            });
        }
        let place = track.given.partition_point(|known| known.count <= count);
        track.given.insert(place, given);
        track.given.len() == 1
    }

    /// A record was read in a topic that takes dead letters.
    pub(crate) fn dead_letter(
        &mut self,
        facts: &Facts,
        report: &mut Report,
        message: MessageId,
        place: (PartitionId, Offset),
        (moment, at, is_final): (Moment, Nanos, bool),
    ) {
        let into = facts.partition(place.0).topic;
        let from = facts.ledger.batch_of(message).topic;
        let Some(groups) = self.dead_letters.get(&(into, from)) else { return };
        // Where several groups share the topic nobody can say whose letter it is.
        let (Some(group), 1) = (groups.first(), groups.len()) else { return };
        let track = self.tracks.entry((*group, message)).or_default();
        let sent = facts.ledger.batch_of(message).sent;
        let not_before = self.ages.get(group).map_or(0, |(not_before, _)| *not_before);
        if at.0.saturating_add(self.ahead) < sent.0.saturating_add(not_before) {
            report.add(Rule::I9, at, || {
                let record = tell(facts, *group, message);
                format!("{record} was sent at {sent} and is a dead letter before its time")
            });
        }
        let fresh = Dead { moment, place, is_twice: false, is_drained: false };
        let dead = track.dead.get_or_insert(fresh);
        dead.is_drained |= is_final;
        if dead.place != place && !dead.is_twice {
            dead.is_twice = true;
            report.add(Rule::I9, at, || {
                let (first, second) = (
                    facts.tell_offset(dead.place.0, dead.place.1),
                    facts.tell_offset(place.0, place.1),
                );
                format!(
                    "{} is a dead letter twice, at {first} and {second}",
                    tell(facts, *group, message)
                )
            });
        }
    }

    /// Somebody begins to settle.
    pub(crate) fn settle(
        &mut self,
        group: GroupId,
        message: MessageId,
        settle: &SettleLease,
        begun: (Moment, Nanos),
    ) -> OpenSettlement {
        let (count, how) = (settle.count, settle.how);
        let (begun, begun_at) = begun;
        let track = self.tracks.entry((group, message)).or_default();
        let sooner = match how {
            Settlement::Ack => {
                track.acks_possible += 1;
                None
            }
            Settlement::Nack { delay } => Some((delay, true)),
            Settlement::Release => Some((Duration::ZERO, true)),
            Settlement::Extend { visibility } => Some((visibility, false)),
        };
        if let Some((length, is_nacked)) = sooner {
            let ends = promised(begun_at, length, self.early_ppm);
            for given in track.given.iter_mut().filter(|given| given.count == count) {
                given.ends = given.ends.min(ends);
                given.is_nacked |= is_nacked;
                given.is_released |= how == Settlement::Release;
            }
        }
        OpenSettlement { group, message, count, how, begun, begun_at, at: begun_at }
    }

    /// A settlement was accepted.
    pub(crate) fn settled(
        &mut self,
        facts: &Facts,
        report: &mut Report,
        open: &OpenSettlement,
        now: (Moment, Nanos),
    ) {
        let open = OpenSettlement { at: now.1, ..*open };
        let track = self.tracks.entry((open.group, open.message)).or_default();
        deletion::settled(report, track, &open, || tell(facts, open.group, open.message));
        match open.how {
            Settlement::Ack => {
                track.acked.get_or_insert(Acked { moment: now.0, at: now.1 });
            }
            Settlement::Extend { visibility } => {
                let ends = promised(open.begun_at, visibility, self.early_ppm);
                let held = |given: &&mut Given| given.count == open.count && !given.is_nacked;
                for given in track.given.iter_mut().filter(held) {
                    given.ends = ends;
                }
            }
            Settlement::Nack { .. } | Settlement::Release => {}
        }
    }

    /// A settlement was refused.
    pub(crate) fn refused(&mut self, open: &OpenSettlement) {
        let track = self.tracks.entry((open.group, open.message)).or_default();
        if open.how == Settlement::Ack {
            track.acks_possible = track.acks_possible.saturating_sub(1);
        }
    }

    /// Whether a record is leased for certain: nobody may have settled it, or given it back.
    pub(crate) fn holds(&self, group: GroupId, message: MessageId, at: Nanos) -> bool {
        let Some(track) = self.tracks.get(&(group, message)) else { return false };
        let is_open = track.acked.is_none() && track.acks_possible == 0 && track.dead.is_none();
        let last = track.given.last();
        is_open && last.is_some_and(|given| !given.is_nacked && at < given.ends)
    }

    /// Whether a group is done with a record for all that is known now: somebody has begun to ack
    /// it, or it was seen among the dead letters.
    pub(crate) fn is_done(&self, group: GroupId, message: MessageId) -> bool {
        let track = self.tracks.get(&(group, message));
        track.is_some_and(|track| track.acks_possible > 0 || track.dead.is_some())
    }

    /// Whether a record was seen among the dead letters of a group.
    pub(crate) fn is_dead(&self, group: GroupId, message: MessageId) -> bool {
        self.tracks.get(&(group, message)).is_some_and(|track| track.dead.is_some())
    }

    /// Whether a group sends records elsewhere that it gives up.
    pub(crate) fn gives_up(&self, group: GroupId) -> bool {
        self.ages.contains_key(&group)
    }

    /// The messages that some group has acked, or may have.
    pub(crate) fn done(&self, facts: &Facts) -> MessageSet {
        let mut done = MessageSet::new(facts.ledger.message_count());
        for ((_, message), track) in &self.tracks {
            if track.acks_possible > 0 {
                done.insert(*message);
            }
        }
        done
    }

    /// Judges where each record ended.
    pub(crate) fn finish(
        &self,
        facts: &Facts,
        report: &mut Report,
        now: Nanos,
        expired: &MessageSet,
    ) {
        for ((group, message), track) in &self.tracks {
            if let (Some(acked), Some(dead)) = (track.acked, track.dead) {
                report.add(Rule::I9, now, || {
                    let place = facts.tell_offset(dead.place.0, dead.place.1);
                    let record = tell(facts, *group, *message);
                    format!("{record} was acked at {} and is a dead letter at {place}", acked.at)
                });
            }
        }
        if facts.drain.is_none() {
            return;
        }
        for (group, topic) in &self.takers {
            let sent = facts
                .ledger
                .batches()
                .filter(|batch| batch.acknowledged.is_some() && batch.topic == *topic);
            for message in sent.flat_map(|batch| batch.messages()) {
                let track = self.tracks.get(&(*group, message));
                let is_somewhere = track.is_some_and(Track::is_somewhere);
                if !is_somewhere && !expired.contains(message) {
                    report.add(Rule::I9, now, || {
                        let record = tell(facts, *group, message);
                        format!("{record} is in no place: not acked, not delivered, no dead letter")
                    });
                }
            }
        }
    }

    fn promised(&self, from: Nanos, length: Duration) -> Nanos {
        promised(from, length, self.early_ppm)
    }
}

impl Track {
    fn is_somewhere(&self) -> bool {
        self.acks_possible > 0 || self.is_drained || self.dead.is_some_and(|dead| dead.is_drained)
    }

    /// Judges a delivery against those that are known.
    fn exclusive(&self, report: &mut Report, given: &Given, tell: impl Fn() -> String) {
        let count = given.count;
        let next = self.given.partition_point(|known| known.count < count);
        let (lower, others) = self.given.split_at(next);
        let early = |report: &mut Report, held: &Given, other: &Given| {
            if other.at < held.ends {
                report.add(Rule::I9, given.at, || {
                    let (first, second) = (held.count, other.count);
                    let (at, ends) = (other.at, held.ends);
                    let record = tell();
                    format!(
                        "{record}: count {second} was delivered by {at}, but the lease of count \
                         {first} holds until {ends}"
                    )
                });
            }
        };
        if let Some(held) = lower.last() {
            early(report, held, given);
        }
        if let Some(other) =
            others.iter().find(|other| other.count > count && other.done > given.begun)
        {
            early(report, given, other);
        }
        for other in others {
            let (other_count, at) = (other.count, other.at);
            if other_count == count && other.is_released {
                early(report, other, given);
            } else if other_count == count || other.done < given.begun {
                report.add(Rule::I9, given.at, || {
                    format!(
                        "{} was delivered with count {count} after count {other_count} at {at}",
                        tell()
                    )
                });
            }
        }
    }
}

/// When a lease or session of this length ends at the earliest.
pub(crate) fn promised(from: Nanos, length: Duration, early_ppm: u32) -> Nanos {
    const MILLION: u128 = 1_000_000;
    let kept = MILLION.saturating_sub(u128::from(early_ppm));
    let length = length.as_nanos().saturating_mul(kept) / MILLION;
    Nanos(from.0.saturating_add(u64::try_from(length).unwrap_or(u64::MAX)))
}

fn tell(facts: &Facts, group: GroupId, message: MessageId) -> String {
    format!("group {}: {}", facts.group_name(group), facts.tell(message))
}

#[cfg(test)]
mod tests {
    use crate::history::script::check;
    use crate::history::verdict::Rule::{I1, I8, I9};

    #[test]
    fn a_lease_is_exclusive() {
        check(&[
            (
                "after the lease",
                "p send a -> 0; c take g 30 -> a*1; wait 30; d take g 30 -> a*2",
                &[],
            ),
            (
                "after a nack",
                "p send a -> 0; c take g 30 -> a*1; c nack g a*1 0 -> ok; d take g 30 -> a*2",
                &[],
            ),
            (
                "after a nack with delay",
                "p send a -> 0; c take g 30 -> a*1; c nack g a*1 10 -> ok; wait 10; \
                 d take g 30 -> a*2",
                &[],
            ),
            (
                "after a nack that may have happened",
                "p send a -> 0; c take g 30 -> a*1; c nack g a*1 0 -> ?; d take g 30 -> a*2",
                &[],
            ),
            (
                "after an extension",
                "p send a -> 0; c take g 30 -> a*1; c extend g a*1 60 -> ok; wait 61; \
                 d take g 30 -> a*2",
                &[],
            ),
            (
                "after a shortened lease",
                "p send a -> 0; c take g 30 -> a*1; c extend g a*1 5 -> ok; wait 6; \
                 d take g 30 -> a*2",
                &[],
            ),
            (
                "after a release, which does not count",
                "p send a -> 0; c take g 30 -> a*1; c release g a*1 -> ok; d take g 30 -> a*1; \
                 d release g a*1 -> ?; c take g 30 -> a*1",
                &[],
            ),
            (
                "a release that may not have happened",
                "p send a -> 0; c take g 30 -> a*1; c release g a*1 -> ?; wait 30; \
                 d take g 30 -> a*2",
                &[],
            ),
            (
                "one that was released to two",
                "p send a -> 0; c take g 30 -> a*1; c release g a*1 -> ok; d take g 30 -> a*1; \
                 wait 5; c take g 30 -> a*1",
                &[I9],
            ),
            (
                "an answer was lost",
                "p send a -> 0; c take g 30 -> ?; wait 30; d take g 30 -> a*2",
                &[],
            ),
            ("two groups at once", "p send a -> 0; c take g 30 -> a*1; d take h 30 -> a*1", &[]),
            (
                "answers overtake each other",
                "p send a -> 0; 1= c take g 5; wait 9; d take g 5 -> a*2; 1 -> a*1",
                &[],
            ),
            ("too early", "p send a -> 0; c take g 30 -> a*1; wait 10; d take g 30 -> a*2", &[I9]),
            (
                "before the delay",
                "p send a -> 0; c take g 30 -> a*1; c nack g a*1 20 -> ok; wait 5; \
                 d take g 30 -> a*2",
                &[I9],
            ),
            (
                "before the extension ends",
                "p send a -> 0; c take g 30 -> a*1; c extend g a*1 60 -> ok; wait 40; \
                 d take g 30 -> a*2",
                &[I9],
            ),
            (
                "too early, told late",
                "p send a -> 0; 1= c take g 30; d take g 30 -> a*2; 1 -> a*1",
                &[I9],
            ),
            (
                "one count for two, at once",
                "p send a -> 0; 1= c take g 5; d take g 5 -> a*1; 1 -> a*1",
                &[I9],
            ),
            (
                "the lease before counts, whenever it was told",
                "p send a -> 0; 1= c take g 5; wait 9; d take g 30 -> a*2; 1 -> a*1; wait 10; \
                 c take g 5 -> a*3",
                &[I9],
            ),
            (
                "an old receipt shortens nothing",
                "p send a -> 0; c take g 5 -> a*1; wait 9; d take g 30 -> a*2; \
                 c nack g a*1 0 -> fail; c take g 5 -> a*3",
                &[I9],
            ),
            (
                "one count for two",
                "p send a -> 0; c take g 5 -> a*1; wait 9; d take g 5 -> a*1",
                &[I9],
            ),
            (
                "the count falls",
                "p send a -> 0; c take g 5 -> a*3; wait 9; d take g 5 -> a*2",
                &[I9],
            ),
        ]);
    }

    #[test]
    fn every_record_ends_in_one_place() {
        check(&[
            (
                "acked",
                "p send a -> 0; c take g 5 -> a*1; c ack g a*1 -> ok; drain; c take g 5 ->",
                &[],
            ),
            (
                "ack unknown, gone",
                "p send a -> 0; c take g 5 -> a*1; c ack g a*1 -> ?; drain; c take g 5 ->",
                &[],
            ),
            ("still in the queue", "p send a -> 0; drain; c take g 5 -> a*1", &[]),
            (
                "dead",
                "p send a -> 0; dead g t dlq; c take g 5 -> a*1; drain; c take g 5 ->; \
                 c read dlq/0 0 -> 0:a",
                &[],
            ),
            (
                "dead, read twice",
                "p send a -> 0; dead g t dlq; c take g 5 -> a*1; drain; c read dlq/0 0 -> 0:a; \
                 d read dlq/0 0 -> 0:a",
                &[],
            ),
            (
                "a dead letter expired",
                "p send a -> 0; dead g t dlq; c take g 5 -> a*1; d read dlq/0 0 -> 0:a; \
                 trim dlq/0 1; drain; c read 0 -> 0:a",
                &[],
            ),
            (
                "expired",
                "p send a b -> 0; trim 1; c take g 5 -> b*1; c ack g b*1 -> ok; drain",
                &[],
            ),
            (
                "a group that took nothing from it",
                "p send u/0 a -> 0; c take g 5 ->; drain; c read u/0 0 -> 0:a",
                &[],
            ),
            (
                "in no place",
                "p send a b -> 0; c take g 5 -> a*1; c ack g a*1 -> ok; drain; c take g 5 ->; \
                 c read 0 -> 0:a 1:b",
                &[I9],
            ),
            (
                "delivered once and forgotten",
                "p send a -> 0; c take g 5 -> a*1; drain; c take g 5 ->; c read 0 -> 0:a",
                &[I9],
            ),
            (
                "a dead letter that is gone",
                "p send a -> 0; dead g t dlq; c take g 5 -> a*1; d read dlq/0 0 -> 0:a; drain; \
                 c read 0 -> 0:a",
                &[I9],
            ),
            (
                "a refused ack removed it",
                "p send a -> 0; c take g 5 -> a*1; c ack g a*1 -> fail; drain; c take g 5 ->",
                &[I1, I9],
            ),
            (
                "acked and dead",
                "p send a -> 0; dead g t dlq; c take g 5 -> a*1; c ack g a*1 -> ok; \
                 c read dlq/0 0 -> 0:a",
                &[I9],
            ),
            (
                "dead in its time",
                "p send a -> 0; dead g t dlq 5; wait 5; c read dlq/0 0 -> 0:a",
                &[],
            ),
            (
                "delivered while it is wanted",
                "p send a -> 0; dead g t dlq 5; wait 5; c take g 5 -> a*1",
                &[],
            ),
            (
                "delivered too late",
                "p send a -> 0; dead g t dlq 5; wait 7; c take g 5 -> a*1",
                &[I9],
            ),
            ("dead too soon", "p send a -> 0; dead g t dlq 5; c read dlq/0 0 -> 0:a", &[I9]),
            (
                "dead soon, by a clock that is ahead",
                "ahead 5; p send a -> 0; dead g t dlq 5; c read dlq/0 0 -> 0:a",
                &[],
            ),
            ("dead twice", "p send a -> 0; dead g t dlq; c read dlq/0 0 -> 0:a 1:a", &[I9]),
            (
                "dead and delivered",
                "p send a -> 0; dead g t dlq; c read dlq/0 0 -> 0:a; c take g 5 -> a*1",
                &[I9],
            ),
            (
                "acked in one group, lost for another",
                "p send a -> 0; c take g 5 -> a*1; c ack g a*1 -> ok; d take h 5 ->; drain; \
                 d take h 5 ->",
                &[I9],
            ),
            (
                "acked and in the queue",
                "p send a -> 0; c take g 5 -> a*1; c ack g a*1 -> ok; drain; wait 9; \
                 c take g 5 -> a*2",
                &[I8],
            ),
        ]);
    }
}
