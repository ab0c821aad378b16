//! Changes to what was sent, acknowledged and read.

use std::collections::{BTreeMap, BTreeSet};

use barrage_model::{Offset, ProducerEpoch, Sequence};

use super::{Damage, Events};
use crate::history::proof::broker::place;
use crate::history::proof::known::{Facts, Known, out_mut};
use crate::history::proof::rng::Rng;
use crate::history::{
    Answer, Call, Fingerprint, Identity, Operation, Place, ReadOut, SeenRecord, SentAt, Settlement,
    Stamp, What,
};

/// A reader finds a record gone that the queue group is not done with, and never gives up.
pub(super) fn let_go_unsettled(events: &mut Events, facts: &Facts, rng: &mut Rng) -> Option<()> {
    let (mut placed, mut acks, mut dead) = (BTreeMap::new(), BTreeMap::new(), BTreeSet::new());
    for (at, event) in events.iter().enumerate() {
        if let What::Invoke { operation: Operation::Settle(settle), .. } = &event.what
            && settle.how == Settlement::Ack
        {
            acks.entry(settle.fingerprint).or_insert(at);
        }
        if let What::Ok { call, answer: Answer::Sent(SentAt { base: Some(_), .. }) } = &event.what
            && let Some(Operation::Send(batch)) = facts.calls.get(call)
        {
            for record in &batch.records {
                placed.entry(record.fingerprint).or_insert(at);
            }
        }
        if facts.topic_of(events, at) == Some("dlq") {
            let records = &facts.out(events, at)?.records;
            dead.extend(records.iter().filter_map(|record| record.fingerprint));
        }
    }
    let mut places = Vec::new();
    let of_queue = |at: &usize| facts.topic_of(events, *at) == Some("q");
    for at in (0..events.len()).filter(of_queue) {
        let records = &facts.out(events, at)?.records;
        let between = (1..records.len().saturating_sub(1)).filter(|place| {
            records[*place].fingerprint.is_some_and(|it| {
                let is_placed = placed.get(&it).is_some_and(|placed| *placed < at);
                is_placed && !dead.contains(&it) && acks.get(&it).is_none_or(|ack| *ack > at)
            })
        });
        places.extend(between.map(|place| (at, place)));
    }
    let (at, place) = *rng.pick(&places)?;
    out_mut(&mut events[at])?.records.remove(place);
    Some(())
}

impl Damage {
    /// In the final reading of one partition.
    pub(super) fn in_reading(
        self,
        events: &mut Events,
        facts: &Facts,
        rng: &mut Rng,
    ) -> Option<()> {
        let last = |at: &usize| facts.is_last_reading(events, *at);
        let mut finals = facts.finals.clone();
        match self {
            // What a queue was told to be done may go from its topic.
            Self::DropTail | Self::DropAcknowledged => finals.retain(|at| {
                let is_log = ["t", "u"].map(Some).contains(&facts.topic_of(events, *at));
                is_log && (last(at) || matches!(self, Self::DropAcknowledged))
            }),
            Self::Duplicate | Self::Invent | Self::MoveToAnotherTopic => {
                finals.retain(last);
            }
            Self::DropDeadLetter => {
                finals.retain(|at| facts.read_of(events, *at) == Some(&place("dlq", 0)))
            }
            _ => finals.retain(|at| facts.read_of(events, *at) != Some(&place("dlq", 0))),
        }
        let at = *rng.pick(&finals)?;
        let there = facts.read_of(events, at)?.clone();
        let out = facts.out(events, at)?;
        let next = SeenRecord { offset: out.end?, fingerprint: None };
        let known = |record: &SeenRecord| {
            let standing = (there.clone(), record.offset);
            record.fingerprint.is_some_and(|it| {
                let is_single = facts.standing.contains_key(&it) || there.topic.as_str() == "dlq";
                is_single && facts.acknowledged.get(&it) == Some(&standing)
            })
        };
        let places: Vec<usize> =
            (0..out.records.len()).filter(|place| known(&out.records[*place])).collect();
        let records = facts.records.clone();
        let append = |out: &mut ReadOut, fingerprint| {
            out.records.push(SeenRecord { fingerprint: Some(fingerprint), ..next });
            out.end = out.end.map(|end| Offset(end.0 + 1));
        };
        let out = out_mut(&mut events[at])?;
        match self {
            Self::DropAcknowledged => drop(out.records.remove(*rng.pick(&places)?)),
            Self::DropTail => {
                let end = *places.last()?;
                out.records.truncate(end);
                out.end = None;
            }
            Self::Swap => {
                let first = *rng.pick(&places)?;
                let second = *places.iter().find(|place| **place != first)?;
                let fingerprint = out.records[first].fingerprint;
                out.records[first].fingerprint = out.records[second].fingerprint;
                out.records[second].fingerprint = fingerprint;
            }
            Self::Duplicate => {
                let stamped = |place: &&usize| {
                    let it = out.records[**place].fingerprint;
                    it.and_then(|it| records.get(&it)).is_some_and(|batch| batch.is_stamped)
                };
                let copy = out.records[*places.iter().find(stamped)?].fingerprint?;
                append(out, copy);
            }
            Self::Alter => {
                let it = out.records[*rng.pick(&places)?].fingerprint.as_mut()?;
                it.0 ^= 1 << rng.below(64);
            }
            Self::MoveToAnotherTopic => {
                let strangers: Vec<Fingerprint> = (facts.acknowledged.iter())
                    .filter(|(_, (other, _))| other.topic != there.topic)
                    .filter(|(_, (other, _))| {
                        (other.topic.as_str(), there.topic.as_str()) != ("q", "dlq")
                    })
                    .map(|(it, _)| *it)
                    .collect();
                append(out, *rng.pick(&strangers)?);
            }
            Self::Invent => append(out, Fingerprint(rng.below(1 << 60) as u64)),
            Self::OffsetTwice => {
                let copy = out.records.get(out.records.len().checked_sub(2)?)?.offset;
                out.records.last_mut()?.offset = copy;
            }
            Self::AboveHighWatermark => out.end = out.records.last().map(|last| last.offset),
            Self::DropDeadLetter => {
                let letters = 0..out.records.len();
                let is_letter = |at: &usize| {
                    out.records[*at].fingerprint.is_some_and(|it| {
                        facts.acknowledged.contains_key(&it) && !facts.is_acked(it)
                    })
                };
                let letter = letters.rev().find(is_letter)?;
                out.records.truncate(letter);
                out.end = None;
            }
            _ => unreachable!("not in a reading"),
        }
        Some(())
    }

    pub(super) fn in_acknowledgement(
        self,
        events: &mut Events,
        facts: &Facts,
        rng: &mut Rng,
    ) -> Option<()> {
        let drain = facts.drain?;
        let sends: Vec<usize> = (0..drain)
            .filter(|at| {
                let What::Ok { call, answer: Answer::Sent(sent) } = &events[*at].what else {
                    return false;
                };
                let Some(Operation::Send(batch)) = facts.calls.get(call) else { return false };
                let it = batch.records[0].fingerprint;
                let is_only = facts.records.get(&it).is_some_and(|known| known.calls.len() == 1);
                let is_repeating = batch.identity == Identity::Repeating;
                sent.base.is_some() && !is_repeating && is_only && facts.seen.contains(&it)
            })
            .collect();
        let at = *rng.pick(&sends)?;
        let What::Ok { call, answer: Answer::Sent(sent) } = &mut events[at].what else {
            return None;
        };
        if matches!(self, Self::RefuseWhatIsRead) {
            events[at].what = What::Fail { call: *call, reason: "refused".into() };
        } else {
            sent.base = sent.base.map(|base| Offset(base.0 + 1));
        }
        Some(())
    }

    pub(super) fn in_sends(self, events: &mut Events, facts: &Facts, rng: &mut Rng) -> Option<()> {
        // Pairs of batches of one producer (or connection) and partition, neighbours in the log.
        let mut lanes: BTreeMap<(Place, i64, i64), Vec<&Known>> = BTreeMap::new();
        for (it, (there, offset)) in &facts.standing {
            let Some(known) = facts.records.get(it).filter(|known| known.first == *it) else {
                continue;
            };
            let lane = match (known.identity, known.connection, self) {
                (_, Some(lane), Self::SwapOnConnection) if known.calls.len() == 1 => {
                    (-1, i64::from(lane))
                }
                (_, _, Self::SwapOnConnection) => continue,
                (Identity::Stamped(stamp), _, _) => (stamp.producer.0, i64::from(stamp.epoch.0)),
                _ => continue,
            };
            let key = (there.clone(), lane.0, lane.1);
            let lane = lanes.entry(key).or_default();
            let before = |known: &&Known| facts.standing[&known.first].1 < *offset;
            let at = lane.partition_point(before);
            lane.insert(at, known);
        }
        let pairs: Vec<(&Known, &Known)> = lanes
            .values()
            .flat_map(|lane| lane.windows(2).map(|pair| (pair[0], pair[1])))
            .collect();
        let (first, second) = *rng.pick(&pairs)?;
        // Where a hole lies before them nothing can be said about a gap.
        facts.is_whole(&facts.standing[&second.first].0).then_some(())?;
        match self {
            Self::SwapSequences => {
                set_identity(events, &first.calls, second.identity);
                set_identity(events, &second.calls, first.identity);
            }
            Self::RepeatSequence => set_identity(events, &second.calls, first.identity),
            Self::FencedEpoch | Self::SkipSequence => {
                let Identity::Stamped(stamp) = second.identity else { return None };
                let stamp = match self {
                    Self::SkipSequence => {
                        Stamp { sequence: Sequence(stamp.sequence.0 + 1), ..stamp }
                    }
                    _ => Stamp { epoch: ProducerEpoch(-1), ..stamp },
                };
                set_identity(events, &second.calls, Identity::Stamped(stamp));
            }
            _ => {
                // The later one is recorded as if it had been sent first.
                let begins = |call: &Call| {
                    events.iter().position(|event| {
                        matches!(&event.what, What::Invoke { call: other, .. } if other == call)
                    })
                };
                let (one, two) = (begins(&first.calls[0])?, begins(&second.calls[0])?);
                let mut moved = events.remove(two);
                moved.at = events[one].at;
                events.insert(one, moved);
            }
        }
        Some(())
    }
}

pub(super) fn set_identity(events: &mut Events, calls: &[Call], to: Identity) {
    for event in events {
        if let What::Invoke { call, operation: Operation::Send(batch), .. } = &mut event.what
            && calls.contains(call)
        {
            batch.identity = to;
        }
    }
}
