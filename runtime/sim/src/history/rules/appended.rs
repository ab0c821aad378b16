//! The log of each partition as it is known at the end, walked once from its beginning: what the
//! rules about order (I6) and about repetitions (I10) look at.
//!
//! ```text
//!   sequence of a producer's record, after its newest one so far
//!     epoch lower            -> Fenced                              I10
//!     the next one           -> fine
//!     ahead                  -> Gap, if every offset since is known  I6
//!     behind                 -> stands twice: I10; otherwise Back    I6
//! ```
//!
//! Owns: the walk and a producer's place in it. Must never: take an offset that nobody saw for
//! one where nothing stands.

use std::collections::{BTreeMap, BTreeSet};

use barrage_model::{Offset, ProducerEpoch, ProducerId, Sequence};

use super::{dedup, intact, order};
use crate::history::event::Stamp;
use crate::history::facts::Facts;
use crate::history::ledger::{Batch, MessageId, PartitionId};
use crate::history::name::Nanos;
use crate::history::slots::Slot;
use crate::history::verdict::{Report, Rule};

/// A message where it stands.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Standing {
    pub(crate) now: Nanos,
    pub(crate) partition: PartitionId,
    pub(crate) offset: Offset,
    pub(crate) message: MessageId,
}

/// The newest record of a producer so far.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Newest {
    pub(crate) epoch: ProducerEpoch,
    pub(crate) sequence: Sequence,
    pub(crate) message: MessageId,
    /// How many holes there were before it.
    holes: u64,
}

/// How often a text looks for the first record of a repeated sequence.
const SEARCHES_MAX: u32 = 32;

/// Walks over every partition.
pub(crate) fn finish(facts: &Facts, report: &mut Report, now: Nanos) {
    let mut copies = dedup::Copies::new(facts);
    let mut searches_left = SEARCHES_MAX;
    let delaying = delaying(facts);
    for (id, _) in facts.partitions() {
        let mut walk = Walk {
            facts,
            delaying: &delaying,
            producers: BTreeMap::new(),
            lanes: order::Lanes::default(),
            holes: 0,
            searches_left: &mut searches_left,
        };
        walk.partition(report, &mut copies, now, id);
    }
}

/// Producers of which some records come later, out of their sequence: others seem to lack them.
fn delaying(facts: &Facts) -> BTreeSet<ProducerId> {
    let delayed = facts.ledger.batches().filter(|batch| batch.is_delayed);
    delayed.filter_map(Batch::stamp).map(|stamp| stamp.producer).collect()
}

struct Walk<'a> {
    facts: &'a Facts,
    delaying: &'a BTreeSet<ProducerId>,
    producers: BTreeMap<ProducerId, Newest>,
    lanes: order::Lanes,
    /// Stretches of offsets that nobody saw, so far.
    holes: u64,
    searches_left: &'a mut u32,
}

impl Walk<'_> {
    fn partition(
        &mut self,
        report: &mut Report,
        copies: &mut dedup::Copies,
        now: Nanos,
        id: PartitionId,
    ) {
        let facts = self.facts;
        let mut next = Offset(0);
        for (offset, slot) in facts.partition(id).slots.all() {
            self.holes += u64::from(offset != next || slot == Slot::Foreign);
            next = Offset(offset.0.saturating_add(1));
            let Slot::Message(message) = slot else { continue };
            let batch = facts.ledger.batch_of(message);
            if !facts.belongs(batch, id) {
                continue;
            }
            let standing = Standing { now, partition: id, offset, message };
            // Each of its records comes in its own time.
            if batch.is_delayed {
                copies.is_first(facts, report, &standing);
                continue;
            }
            intact::whole(facts, report, &standing);
            if copies.is_first(facts, report, &standing) {
                self.lanes.step(facts, report, &standing);
                self.step(report, &standing);
            }
        }
    }

    fn step(&mut self, report: &mut Report, standing: &Standing) {
        let batch = self.facts.ledger.batch_of(standing.message);
        let Some(Stamp { producer, epoch, sequence }) = batch.stamp() else { return };
        let sequence = sequence.wrapping_advance(batch.place_of(standing.message));
        let newest = self.producers.get(&producer).copied();
        let (is_same_epoch, is_known) = match newest {
            Some(newest) if epoch < newest.epoch => {
                return dedup::fenced(self.facts, report, standing, &newest);
            }
            Some(newest) => (epoch == newest.epoch, newest.holes == self.holes),
            None => (false, self.holes == 0),
        };
        let expected = match newest.filter(|_| is_same_epoch) {
            Some(newest) => newest.sequence.wrapping_advance(1),
            None => Sequence(0),
        };
        if is_same_epoch && is_behind(sequence, expected) {
            return self.behind(report, standing, newest);
        }
        if is_known && sequence != expected && !self.delaying.contains(&producer) {
            order::gap(self.facts, report, standing, expected, newest);
        }
        let (holes, message) = (self.holes, standing.message);
        self.producers.insert(producer, Newest { epoch, sequence, message, holes });
    }

    /// Either the same sequence stands twice, or the order is broken.
    fn behind(&mut self, report: &mut Report, standing: &Standing, newest: Option<Newest>) {
        let is_told = report.has_room(Rule::I6) || report.has_room(Rule::I10);
        let twin = if is_told && *self.searches_left > 0 {
            *self.searches_left -= 1;
            self.twin(standing)
        } else {
            None
        };
        match twin {
            Some(twin) => dedup::twice(self.facts, report, standing, twin),
            None => order::behind(self.facts, report, standing, newest),
        }
    }

    /// An earlier record under the same numbers.
    fn twin(&self, standing: &Standing) -> Option<MessageId> {
        let numbers = |message: MessageId| {
            let batch = self.facts.ledger.batch_of(message);
            batch.stamp().map(|stamp| {
                let place = batch.place_of(message);
                (stamp.producer, stamp.epoch, stamp.sequence.wrapping_advance(place))
            })
        };
        let wanted = numbers(standing.message);
        let slots = &self.facts.partition(standing.partition).slots;
        slots.known(Offset(0)..standing.offset).find_map(|(_, slot)| match slot {
            Slot::Message(other) if numbers(other) == wanted => Some(other),
            _ => None,
        })
    }
}

/// Whether `sequence` comes before `expected` on the circle, the shorter way round.
fn is_behind(sequence: Sequence, expected: Sequence) -> bool {
    const MODULUS: i64 = i32::MAX as i64 + 1;
    let distance = (i64::from(expected.0) - i64::from(sequence.0)).rem_euclid(MODULUS);
    distance > 0 && distance < MODULUS / 2
}
