//! I1: where records are kept until queue groups are done with them, none goes before.
//!
//! Demands, of each such topic: what a reader passes over, or lies before a start that was told,
//! each of its groups was done with by then: somebody had begun to ack it, or it is seen among the
//! group's dead letters, now or later. Where a group has none, what nobody has seen cannot be gone:
//! who acks a record had it. That retention may have removed it is no excuse here.
//!
//! Owns: what went before it was seen that a group was done with it. Cost: sixty bytes for each.

use std::collections::BTreeMap;
use std::ops::Range;

use barrage_model::Offset;

use super::leases::Leases;
use crate::history::facts::Facts;
use crate::history::ledger::{GroupId, MessageId, PartitionId};
use crate::history::name::Nanos;
use crate::history::slots::Slot;
use crate::history::verdict::{Report, Rule};

/// See the module.
#[derive(Debug, Default)]
pub(crate) struct Kept {
    /// By when it was gone that is to be a dead letter.
    doubtful: BTreeMap<(GroupId, MessageId), Nanos>,
}

impl Kept {
    /// These offsets are not there any more.
    pub(crate) fn passed(
        &mut self,
        (facts, leases): (&mut Facts, &Leases),
        report: &mut Report,
        (partition, missing): (PartitionId, Range<Offset>),
        at: Nanos,
    ) {
        let Some(groups) = facts.kept_for(partition).cloned() else { return };
        let mut known: u64 = 0;
        for (_, slot) in facts.partition(partition).slots.known(missing.clone()) {
            known += 1;
            let Slot::Message(message) = slot else { continue };
            for group in groups.iter().filter(|group| !leases.is_done(**group, message)) {
                self.doubtful.entry((*group, message)).or_insert(at);
            }
        }
        facts.counters.records_gone += known;
        let length = missing.end.0.saturating_sub(missing.start.0);
        let strict = groups.iter().find(|group| !leases.gives_up(**group));
        if let Some(group) = strict.filter(|_| known < length) {
            report.add(Rule::I1, at, || {
                let (place, group) = (facts.tell_place(partition), facts.group_name(*group));
                let (Range { start, end }, unseen) = (&missing, length - known);
                format!(
                    "{place} lacks {start}..{end} where records are kept until group {group} is \
                     done with them, and nobody has seen {unseen} of these"
                )
            });
        }
    }

    /// What was gone and was never seen to be done with.
    pub(crate) fn finish(&self, (facts, leases): (&Facts, &Leases), report: &mut Report) {
        let lost =
            |((group, message), _): &(&(GroupId, MessageId), _)| !leases.is_dead(*group, *message);
        for ((group, message), at) in self.doubtful.iter().filter(lost) {
            report.add(Rule::I1, *at, || {
                let (record, group) = (facts.tell(*message), facts.group_name(*group));
                format!("{record} was gone, and group {group} was not done with it")
            });
        }
    }
}

#[cfg(test)]
mod tests {
    use crate::history::script::check;
    use crate::history::verdict::Rule::{I1, I9};

    #[test]
    fn nothing_goes_before_it_is_done_with() {
        let acked = "kept g t; p send a b c -> 0; c take g 30 -> 0:a*1 1:b*1 2:c*1; \
                     c ack g b*1 -> ok; ";
        let dead = "dead g t dlq; kept g t; p send a b c -> 0; c take g 30 -> 0:a*1; ";
        for (start, what, text, want) in [
            (acked, "what was acked, from between", "c read 0 -> 0:a 2:c | 0 3", &[][..]),
            (acked, "all is there still", "c read 0 -> 0:a 1:b 2:c | 0 3", &[]),
            (acked, "the beginning", "c ack g a*1 -> ?; trim 2; c read 2 -> 2:c | 2 3", &[]),
            (acked, "what was not acked", "c read 1 -> 2:c; d read 0 -> 1:b", &[I1]),
            (acked, "what was not acked, by a start", "trim 1", &[I1]),
            (acked, "what was acked too late", "c read 0 -> 1:b; c ack g a*1 -> ok", &[I1]),
            (acked, "what could not be acked", "c ack g a*1 -> fail; c read 0 -> 1:b", &[I1]),
            (acked, "what nobody has seen", "c read 3 -> 4:x", &[I1]),
            (acked, "what another group has not acked", "kept h t; c read 0 -> 0:a 2:c", &[I1]),
            (dead, "a dead letter", "e read dlq/0 0 -> 0:a; c read 0 -> 1:b", &[]),
            (dead, "a dead letter that shows later", "c read 0 -> 1:b; e read dlq/0 0 -> 0:a", &[]),
            (dead, "what never was one", "c read 0 -> 1:b", &[I1]),
        ] {
            let unsent = if text.contains('x') { "1= p send x; " } else { "" };
            check(&[(what, &format!("{start}{unsent}{text}"), want)]);
        }
        let done = "kept g t; p send a -> 0; c take g 30 -> 0:a*1; ";
        check(&[
            ("acked and gone at the end", &format!("{done}c ack g a*1 -> ok; drain"), &[]),
            ("retention is no excuse", &format!("{done}trim 1; drain"), &[I1, I1, I9]),
        ]);
    }
}
