//! I10: what was sent again stands once.
//!
//! Demands, of the logs as they are known at the end: a stamped record stands once, however often
//! it was sent; an unstamped one at most as often as it was sent and not refused, unless its
//! client's library repeats on its own; no two records carry the same producer, epoch and
//! sequence; behind a record of an epoch there is none of a lower epoch of that producer.
//!
//! A producer that the broker has forgotten (by age) must take a new id before it begins at 0.

use std::collections::BTreeMap;

use barrage_model::Offset;

use super::appended::{Newest, Standing};
use crate::history::facts::Facts;
use crate::history::ledger::{MessageId, MessageSet, PartitionId};
use crate::history::slots::Slot;
use crate::history::verdict::{Report, Rule};

/// How often each message stands in the log.
#[derive(Debug)]
pub(crate) struct Copies {
    once: MessageSet,
    /// Those that stand more than once.
    more: BTreeMap<MessageId, u32>,
}

impl Copies {
    pub(crate) fn new(facts: &Facts) -> Self {
        let once = MessageSet::new(facts.ledger.message_count());
        Self { once, more: BTreeMap::new() }
    }

    /// Counts a copy and judges it; true when it is the first.
    pub(crate) fn is_first(
        &mut self,
        facts: &Facts,
        report: &mut Report,
        standing: &Standing,
    ) -> bool {
        if self.once.insert(standing.message) {
            return true;
        }
        let count = self.more.entry(standing.message).or_insert(1);
        *count += 1;
        let copies_max = facts.ledger.batch_of(standing.message).copies_max();
        if *count > copies_max {
            report.add(Rule::I10, standing.now, || {
                let place = facts.tell_offset(standing.partition, standing.offset);
                let before = match first_place(facts, standing.message) {
                    Some((partition, offset)) => facts.tell_offset(partition, offset),
                    None => "elsewhere".to_owned(),
                };
                format!("{place} repeats {before}: {}", facts.tell(standing.message))
            });
        }
        false
    }
}

fn first_place(facts: &Facts, message: MessageId) -> Option<(PartitionId, Offset)> {
    let batch = facts.ledger.batch_of(message);
    facts.partitions().filter(|(id, _)| facts.belongs(batch, *id)).find_map(|(id, partition)| {
        let mut all = partition.slots.all();
        all.find(|(_, slot)| *slot == Slot::Message(message)).map(|(offset, _)| (id, offset))
    })
}

/// A record stands behind one of a higher epoch of its producer.
pub(crate) fn fenced(facts: &Facts, report: &mut Report, standing: &Standing, newest: &Newest) {
    report.add(Rule::I10, standing.now, || {
        let place = facts.tell_offset(standing.partition, standing.offset);
        let (fence, late) = (facts.tell(newest.message), facts.tell(standing.message));
        format!("{place}: {late} stands behind {fence}, which fenced it at epoch {}", newest.epoch)
    });
}

/// Two records carry the same numbers of a producer.
pub(crate) fn twice(facts: &Facts, report: &mut Report, standing: &Standing, twin: MessageId) {
    report.add(Rule::I10, standing.now, || {
        let place = facts.tell_offset(standing.partition, standing.offset);
        let (late, twin) = (facts.tell(standing.message), facts.tell(twin));
        format!("{place}: {late} was accepted although its sequence was used by {twin}")
    });
}

#[cfg(test)]
mod tests {
    use crate::history::script::check;
    use crate::history::verdict::Rule::{I2, I6, I10};

    #[test]
    fn what_is_sent_again_stands_once() {
        check(&[
            (
                "sent again, one copy",
                "p send #7.0.0 a -> ?; p send #7.0.0 a -> 0; c read 0 -> 0:a",
                &[],
            ),
            ("sequences of two producers", "p send #7.0.0 a -> 0; p send #8.0.0 b -> 1", &[]),
            (
                "a sequence used again after a refusal",
                "p send #7.0.0 a -> fail; p send #7.0.0 b -> 0",
                &[],
            ),
            ("a higher epoch uses it again", "p send #7.0.0 a -> 0; p send #7.1.0 b -> 1", &[]),
            (
                "unstamped, sent twice, stands twice",
                "p send a -> ?; p send a -> ?; c read 0 -> 0:a 1:a",
                &[],
            ),
            ("the library repeats", "p send + a -> ok; c read 0 -> 0:a 1:a 2:a", &[]),
            (
                "the old epoch before the new",
                "1= p send #7.0.0 a; p send #7.1.0 b -> 1; 1 -> 0",
                &[],
            ),
            (
                "a stamped record twice",
                "p send #7.0.0 a -> ?; p send #7.0.0 a -> ?; c read 0 -> 0:a 1:a",
                &[I10],
            ),
            ("two acks, two places", "p send #7.0.0 a -> 0; p send #7.0.0 a -> 1", &[I10]),
            (
                "three times is two too many",
                "p send #7.0.0 a -> 0; c read 0 -> 0:a 1:a 2:a",
                &[I10, I10],
            ),
            ("unstamped, sent once, stands twice", "p send a -> ?; c read 0 -> 0:a 1:a", &[I10]),
            (
                "unstamped, one of two refused",
                "p send a -> 0; p send a -> fail; c read 0 -> 0:a 1:a",
                &[I10],
            ),
            (
                "twice in two partitions",
                "p send t/- a -> ?; c read t/0 0 -> 0:a; c read t/1 0 -> 0:a",
                &[I10],
            ),
            (
                "a whole batch twice",
                "p send #7.0.0 a b -> 0; c read 0 -> 0:a 1:b 2:a 3:b",
                &[I10, I10],
            ),
            (
                "two records, one sequence",
                "p send #7.0.0 a -> ?; p send #7.0.0 b -> 1; c read 0 -> 0:a 1:b",
                &[I10],
            ),
            (
                "two records, one sequence, others between",
                "p send #7.0.0 a -> 0; p send #7.0.1 b -> 1; p send #7.0.2 c -> 2; \
                 p send #7.0.1 d -> 3",
                &[I10],
            ),
            ("a fenced epoch appends", "p send #7.1.0 a -> 0; p send #7.0.0 b -> 1", &[I10]),
            (
                "a fenced epoch appends late",
                "1= p send #7.0.0 a; p send #7.1.0 b -> 0; 1 ?; c read 0 -> 0:b 1:a",
                &[I10],
            ),
            ("refused and twice in the log", "p send a -> fail; c read 0 -> 0:a 1:a", &[I2, I10]),
            (
                "twice and out of order",
                "1= p send #7.0.0 a; p send #7.0.1 b -> 0; 1 ?; c read 0 -> 0:b 1:a 2:a",
                &[I6, I6, I10],
            ),
        ]);
    }
}
