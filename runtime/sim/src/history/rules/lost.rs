//! I1: no acknowledged record is lost.
//!
//! Demands, during the run: whoever reads over an acknowledged offset is shown a record there.
//! After the mark of the final reading: every acknowledged record is read again, in its own topic
//! or as a dead letter, unless retention may have removed it or a queue was told that it is done.
//! A start offset that readers are told does not pass what retention may remove.

use std::ops::Range;

use barrage_model::Offset;

use super::offsets::Answered;
use crate::history::facts::Facts;
use crate::history::ledger::{Batch, MessageId, MessageSet, PartitionId};
use crate::history::name::Nanos;
use crate::history::slots::Slot;
use crate::history::verdict::{Report, Rule};

/// A read passed over these offsets. True when an acknowledged record should have stood there.
pub(crate) fn in_gap(
    facts: &Facts,
    report: &mut Report,
    answered: &Answered<'_>,
    missing: &Range<Offset>,
) -> bool {
    let lost = || {
        let known = facts.partition(answered.partition).slots.known(missing.clone());
        known
            .filter_map(|(offset, slot)| match slot {
                Slot::Message(message) => Some((offset, message)),
                Slot::Unknown | Slot::Control | Slot::Foreign => None,
            })
            .filter(|(_, message)| facts.ledger.batch_of(*message).acknowledged.is_some())
    };
    let Some((offset, message)) = lost().next() else { return false };
    report.add(Rule::I1, answered.at, || {
        let (told, place) = (facts.tell_read(answered.read), facts.tell_place(answered.partition));
        let (Range { start, end }, count) = (missing, lost().count());
        let record = facts.tell(message);
        format!(
            "{told} read {place} and was shown {end} where {start} was next: {count} acknowledged \
             are missing, the first at {offset}, {record}"
        )
    });
    true
}

/// Compares what was acknowledged with the final reading.
pub(crate) fn finish(
    facts: &mut Facts,
    report: &mut Report,
    now: Nanos,
    expired: &MessageSet,
    settled: &MessageSet,
) {
    starts(facts, report, now);
    if facts.drain.is_none() {
        return;
    }
    let (mut drained_count, mut expired_count) = (0, 0);
    for batch in facts.ledger.batches().filter(|batch| batch.acknowledged.is_some()) {
        for id in batch.messages() {
            let message = facts.ledger.message(id);
            if message.is_drained {
                drained_count += 1;
            } else if expired.contains(id) {
                expired_count += 1;
            } else if !settled.contains(id) {
                report.add(Rule::I1, now, || {
                    format!("the final reading did not show {}", facts.tell(id))
                });
            }
        }
    }
    facts.counters.records_drained = drained_count;
    facts.counters.records_expired = expired_count;
}

/// What readers were told about the start of a partition must be covered by retention.
fn starts(facts: &Facts, report: &mut Report, now: Nanos) {
    for (id, partition) in facts.partitions() {
        let Some((start, read)) = partition.start.filter(|(start, _)| *start > partition.trim)
        else {
            continue;
        };
        report.add(Rule::I1, now, || {
            let (place, trim) = (facts.tell_place(id), partition.trim);
            let told = facts.tell_read(read);
            format!(
                "{told} was told that {place} begins at {start}, but nothing from {trim} on may go"
            )
        });
    }
}

/// Messages that were seen below the mark of retention, or were not and may have been.
pub(crate) fn expired(facts: &Facts) -> MessageSet {
    let mut expired = MessageSet::new(facts.ledger.message_count());
    let by_retention = |(id, _): &(PartitionId, _)| facts.kept_for(*id).is_none();
    for (_, partition) in facts.partitions().filter(by_retention) {
        for (_, slot) in partition.slots.known(Offset(0)..partition.trim) {
            if let Slot::Message(message) = slot {
                expired.insert(message);
            }
        }
    }
    for batch in facts.ledger.batches() {
        batch.messages().filter(|id| may_be_expired(facts, batch, *id)).for_each(|id| {
            expired.insert(id);
        });
    }
    expired
}

/// Whether a message whose offset nobody knows may have been removed by retention.
fn may_be_expired(facts: &Facts, batch: &Batch, id: MessageId) -> bool {
    let is_placed = batch.acknowledged.is_none_or(|acknowledged| acknowledged.place.is_some());
    if is_placed || facts.ledger.message(id).first_read.is_some() {
        return false;
    }
    facts.partitions().any(|(partition, row)| {
        let by_retention = row.trim > Offset(0) && facts.kept_for(partition).is_none();
        by_retention && facts.belongs(batch, partition)
    })
}

#[cfg(test)]
mod tests {
    use crate::history::script::check;
    use crate::history::verdict::Rule::{I1, I3, I4, I9};

    #[test]
    fn no_acknowledged_record_is_lost() {
        check(&[
            ("read at the end", "p send a b -> 0; drain; c read 0 -> 0:a 1:b", &[]),
            (
                "read at the end by two together",
                "p send a b -> 0; drain; c read 0 -> 0:a; d read 1 -> 1:b",
                &[],
            ),
            ("acknowledged without an offset", "p send a -> ok; drain; c read 0 -> 0:a", &[]),
            ("unknown may be missing", "p send a -> 0; p send b -> ?; drain; c read 0 -> 0:a", &[]),
            ("retention removed it", "p send a b -> 0; trim 1; drain; c read 0 -> 1:b | 1 2", &[]),
            (
                "retention told afterwards",
                "p send a b -> 0; drain; c read 0 -> 1:b | 1 2; trim 1",
                &[],
            ),
            (
                "retention may have removed it wherever it stood",
                "p send a -> ok; p send b -> 1; trim 1; drain; c read 1 -> 1:b",
                &[],
            ),
            ("nothing is said about the end", "p send a b -> 0; c read 0 -> 0:a", &[]),
            ("a reader that began late", "p send a b -> 0; c read 1 -> 1:b", &[]),
            ("dead letter", "p send a -> 0; dead g t dlq; drain; c read dlq/0 0 -> 0:a", &[]),
            (
                "acked by a queue",
                "p send a -> 0; c take g 30 -> a*1; c ack g a*1 -> ok; drain",
                &[],
            ),
            (
                "a read that began before the end",
                "p send a -> 0; 1= c read 0; drain; 1 -> 0:a",
                &[I1],
            ),
            ("nobody read at the end", "p send a -> 0; c read 0 -> 0:a; drain", &[I1]),
            ("the end is missing", "p send a b -> 0; drain; c read 0 -> 0:a", &[I1]),
            ("the beginning is missing", "p send a b -> 0; drain; c read 1 -> 1:b", &[I1]),
            ("without an offset and missing", "p send a -> ok; drain; c read 0 -> ", &[I1]),
            ("read over, during the run", "p send a b c -> 0; c read 0 -> 0:a 2:c", &[I1]),
            (
                "seen once and gone",
                "p send a b -> 0; c read 0 -> 0:a 1:b; drain; c read 0 -> 0:a | 0 1",
                &[I1],
            ),
            ("altered is lost, too", "p send a -> 0; drain; c read 0 -> 0:x", &[I1, I3]),
            (
                "another in its place",
                "1= p send a; 2= q send b; 1 -> 0; 2 ?; drain; c read 0 -> 0:b",
                &[I1, I4],
            ),
            (
                "retention went too far",
                "p send a b c -> 0; trim 1; drain; c read 0 -> 2:c | 2 3",
                &[I1, I1],
            ),
            ("a start beyond retention, nothing read", "c read 0 -> | 4 4", &[I1]),
            (
                "retention of another partition",
                "p send a -> 0; trim t/1 5; drain; c read 0 -> | 0 1",
                &[I1],
            ),
            ("in another topic at the end", "p send a -> 0; drain; c read u/0 0 -> 0:a", &[I1, I3]),
            ("taken, never settled, gone", "p send a -> 0; c take g 30 -> a*1; drain", &[I1, I9]),
        ]);
    }
}
