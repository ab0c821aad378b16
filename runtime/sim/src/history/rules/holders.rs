//! I10: where one producer at a time holds a partition, nobody else's records stand in it.
//!
//! Demands, of a partition that anybody claimed: whose record stands in it has claimed it; behind a
//! record of another producer none of it stands any more; none of it stands that was first sent
//! when another producer had been told that it holds the partition, and its own claims were over
//! before that one's began; no claim that does not take over was granted while another producer
//! surely held the partition; and nobody is granted it again after another producer was. A claim
//! without an answer may have taken effect, and may yet.
//!
//! Owns: who claimed what, and when. Cost: about 60 bytes for each claim.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use barrage_model::ProducerId;

use crate::history::event::{Claim, Claiming};
use crate::history::facts::Facts;
use crate::history::ledger::PartitionId;
use crate::history::name::{Call, Nanos};
use crate::history::slots::Slot;
use crate::history::verdict::{Report, Rule};

/// A claim that took effect, or may have.
#[derive(Clone, Copy, Debug)]
struct Claimed {
    producer: ProducerId,
    how: Claiming,
    lasts: Duration,
    begun: Nanos,
    /// When it was said that it took effect; it may at any time where nothing was said.
    granted: Option<Nanos>,
}

impl Claimed {
    fn holds(&self) -> bool {
        self.how != Claiming::Release
    }

    /// Whether it surely took effect before that instant.
    fn is_before(&self, instant: Nanos) -> bool {
        self.granted.is_some_and(|granted| granted < instant)
    }
}

/// A claim that was asked for.
#[derive(Clone, Copy, Debug)]
pub(crate) struct OpenClaim {
    call: Call,
    partition: PartitionId,
}

/// See the module.
#[derive(Debug, Default)]
pub(crate) struct Holders {
    claims: BTreeMap<PartitionId, BTreeMap<Call, Claimed>>,
    /// What brokers' clocks may be ahead.
    ahead: Duration,
}

impl Holders {
    /// Brokers' clocks may be ahead by so much.
    pub(crate) fn ahead(&mut self, by: Duration) {
        self.ahead = self.ahead.max(by);
    }

    /// Somebody begins to claim a partition.
    pub(crate) fn claim(
        &mut self,
        (call, begun): (Call, Nanos),
        partition: PartitionId,
        claim: &Claim,
    ) -> OpenClaim {
        let Claim { producer, how, lasts, .. } = *claim;
        let claimed = Claimed { producer, how, lasts, begun, granted: None };
        self.claims.entry(partition).or_default().insert(call, claimed);
        OpenClaim { call, partition }
    }

    /// The claim took effect.
    pub(crate) fn granted(&mut self, open: OpenClaim, now: Nanos) {
        let claims = self.claims.get_mut(&open.partition);
        if let Some(claimed) = claims.and_then(|claims| claims.get_mut(&open.call)) {
            claimed.granted = Some(now);
        }
    }

    /// It did not.
    pub(crate) fn refused(&mut self, open: OpenClaim) {
        if let Some(claims) = self.claims.get_mut(&open.partition) {
            claims.remove(&open.call);
        }
    }

    /// Judges everything.
    pub(crate) fn finish(&self, facts: &mut Facts, report: &mut Report, now: Nanos) {
        for (partition, claims) in &self.claims {
            let claims: Vec<Claimed> = claims.values().copied().collect();
            facts.counters.claims_compared += claims.len() as u64;
            self.side_by_side(facts, report, *partition, &claims);
            returned(facts, report, *partition, &claims);
            standing(facts, report, now, (*partition, &claims));
        }
    }

    /// Two that were told that they hold the partition at one time.
    fn side_by_side(
        &self,
        facts: &Facts,
        report: &mut Report,
        partition: PartitionId,
        claims: &[Claimed],
    ) {
        for second in claims.iter().filter(|second| second.how == Claiming::Hold) {
            let Some(granted) = second.granted else { continue };
            let surely = |first: &&Claimed| {
                let passed = granted.0.saturating_sub(first.begun.0);
                let passed = Duration::from_nanos(passed).saturating_add(self.ahead * 2);
                let between = |other: &Claimed| {
                    let is_own = other.producer == first.producer && other.holds();
                    let is_second =
                        other.producer == second.producer && other.begun == second.begun;
                    !is_own && !is_second && other.begun < granted && !other.is_before(first.begun)
                };
                first.producer != second.producer
                    && first.holds()
                    && first.is_before(second.begun)
                    && passed < first.lasts
                    && !claims.iter().any(between)
            };
            if let Some(first) = claims.iter().find(surely) {
                report.add(Rule::I10, granted, || {
                    let place = facts.tell_place(partition);
                    let (one, other) = (first.producer, second.producer);
                    format!("{place}: producer {other} was let in while producer {one} held it")
                });
            }
        }
    }
}

/// Who had it, lost it to another, and has it again.
fn returned(facts: &Facts, report: &mut Report, partition: PartitionId, claims: &[Claimed]) {
    for again in claims.iter().filter(|again| again.holds()) {
        let Some(granted) = again.granted else { continue };
        let own = |it: &&Claimed| it.producer == again.producer && it.holds();
        let between = |other: &&Claimed| {
            other.producer != again.producer && other.holds() && other.is_before(again.begun)
        };
        let had_before =
            |other: &&Claimed| claims.iter().filter(own).any(|it| it.is_before(other.begun));
        if let Some(other) = claims.iter().filter(between).find(had_before) {
            report.add(Rule::I10, granted, || {
                let place = facts.tell_place(partition);
                let (one, other) = (again.producer, other.producer);
                format!("{place}: producer {one} was let in again, behind producer {other}")
            });
        }
    }
}

/// Whose records stand behind others.
fn standing(
    facts: &Facts,
    report: &mut Report,
    now: Nanos,
    (partition, claims): (PartitionId, &[Claimed]),
) {
    let mut over: BTreeSet<ProducerId> = BTreeSet::new();
    let mut newest: Option<ProducerId> = None;
    for (_, slot) in facts.partition(partition).slots.all() {
        let Slot::Message(message) = slot else { continue };
        let batch = facts.ledger.batch_of(message);
        let producer = batch.stamp().map(|stamp| stamp.producer);
        let own = || claims.iter().filter(|it| Some(it.producer) == producer && it.holds());
        let mut object = |why: &str| {
            report.add(Rule::I10, now, || {
                format!("{}: {} {why}", facts.tell_place(partition), facts.tell(message))
            });
        };
        let Some(producer) = producer.filter(|_| own().next().is_some()) else {
            object("is of nobody who claimed it");
            continue;
        };
        let others =
            |it: &&Claimed| it.producer != producer && it.holds() && it.is_before(batch.sent);
        let lost_to = |other: &&Claimed| own().all(|own| own.is_before(other.begun));
        if over.contains(&producer) {
            object("stands behind those of a producer that came after it");
        } else if let Some(other) = claims.iter().filter(others).find(lost_to) {
            object(&format!("was sent when producer {} held it", other.producer));
        }
        if newest != Some(producer) {
            over.extend(newest);
            newest = Some(producer);
        }
    }
}

#[cfg(test)]
mod tests {
    use crate::history::script::check;
    use crate::history::verdict::Rule::I10;

    #[test]
    fn one_producer_at_a_time() {
        let first = "p claim hold 7 60 -> ok; p send #7.0.0 a -> 0";
        let table = [
            ("alone", format!("{first}; p send #7.0.1 b -> 1; c read 0 -> 0:a 1:b"), &[][..]),
            ("nobody claimed", "p send #7.0.0 a -> 0; c read 0 -> 0:a".to_owned(), &[]),
            (
                "taken over",
                format!(
                    "{first}; q claim take 8 60 -> ok; q send #8.0.0 b -> 1; c read 0 -> 0:a 1:b"
                ),
                &[],
            ),
            (
                "without a claim",
                format!("{first}; q send #8.0.0 b -> 1; c read 0 -> 0:a 1:b"),
                &[I10],
            ),
            (
                "behind its successor",
                format!(
                    "{first}; 1= p send #7.0.1 c; q claim take 8 60 -> ok; \
                     q send #8.0.0 b -> 1; 1 -> 2; c read 0 -> 0:a 1:b 2:c"
                ),
                &[I10],
            ),
            (
                "sent when it was over",
                format!(
                    "{first}; q claim take 8 60 -> ok; p send #7.0.1 b -> 1; c read 0 -> 0:a 1:b"
                ),
                &[I10],
            ),
            (
                "sent before it was over",
                format!(
                    "{first}; 1= p send #7.0.1 b; q claim take 8 60 -> ok; 1 -> 1; \
                     c read 0 -> 0:a 1:b"
                ),
                &[],
            ),
            (
                "the claim may have come late",
                format!(
                    "{first}; q claim take 8 60 -> ?; p send #7.0.1 b -> 1; c read 0 -> 0:a 1:b"
                ),
                &[],
            ),
            ("let in beside it", format!("{first}; q claim hold 8 60 -> ok"), &[I10]),
            ("its time was over", format!("{first}; wait 70; q claim hold 8 60 -> ok"), &[]),
            ("clocks differ", format!("ahead 40; {first}; q claim hold 8 60 -> ok"), &[]),
            ("refused", format!("{first}; q claim hold 8 60 -> fail"), &[]),
            (
                "given up",
                format!("{first}; p claim release 7 60 -> ok; q claim hold 8 60 -> ok"),
                &[],
            ),
            (
                "perhaps given up",
                format!("{first}; p claim release 7 60 -> ?; q claim hold 8 60 -> ok"),
                &[],
            ),
            (
                "back again",
                format!(
                    "{first}; q claim take 8 60 -> ok; q claim release 8 60 -> ok; \
                     p claim keep 7 60 -> ok"
                ),
                &[I10],
            ),
            (
                "perhaps never gone",
                format!("{first}; q claim take 8 60 -> ?; p claim keep 7 60 -> ok"),
                &[],
            ),
            (
                "kept by another claim",
                format!("{first}; p claim hold 7 60 -> ok; q claim hold 8 60 -> ok"),
                &[I10],
            ),
        ];
        for (what, story, want) in table {
            check(&[(what, &story, want)]);
        }
    }
}
