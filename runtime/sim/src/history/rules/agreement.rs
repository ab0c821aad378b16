//! I4: one record per offset, whoever looks: senders by their acknowledgements, readers, and
//! replicas that are read each for itself.
//!
//! Demands: what was once told to stand at an offset of a partition stands there for ever.

use barrage_model::Offset;

use super::offsets;
use crate::history::facts::{Facts, Told};
use crate::history::ledger::{MessageId, PartitionId};
use crate::history::name::Nanos;
use crate::history::slots::Slot;
use crate::history::verdict::{Report, Rule};

/// Somebody was told what stands at an offset.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Sighting {
    pub(crate) at: Nanos,
    pub(crate) told: Told,
    pub(crate) partition: PartitionId,
    pub(crate) offset: Offset,
}

impl Sighting {
    /// Takes note of a message at its offset.
    pub(crate) fn of(&self, facts: &mut Facts, report: &mut Report, message: MessageId) {
        if self.claims(facts, report, Slot::Message(message), || "another record".to_owned()) {
            offsets::above_floor(facts, report, self, message);
        }
    }

    /// Takes note of a control record.
    pub(crate) fn of_control(&self, facts: &mut Facts, report: &mut Report) {
        self.claims(facts, report, Slot::Control, || "a control record".to_owned());
    }

    /// True when the offset was free.
    fn claims(
        &self,
        facts: &mut Facts,
        report: &mut Report,
        slot: Slot,
        what: impl Fn() -> String,
    ) -> bool {
        let known = facts.partition(self.partition).slots.at(self.offset);
        if known == Slot::Unknown {
            facts.partition_mut(self.partition).slots.learn(self.offset, slot);
            return true;
        }
        if known != slot {
            report.add(Rule::I4, self.at, || {
                let place = facts.tell_offset(self.partition, self.offset);
                let now = match slot {
                    Slot::Message(message) => facts.tell(message),
                    _ => what(),
                };
                let before = match known {
                    Slot::Message(message) => facts.tell(message),
                    Slot::Control => "a control record".to_owned(),
                    Slot::Foreign | Slot::Unknown => "a record that nobody sent".to_owned(),
                };
                let told = facts.tell_told(self.told);
                format!("{told}: {place} holds {now}, but before it held {before}")
            });
        }
        false
    }
}

#[cfg(test)]
mod tests {
    use crate::history::script::check;
    use crate::history::verdict::Rule::{I1, I3, I4};

    #[test]
    fn one_record_per_offset() {
        check(&[
            ("ack and readers agree", "p send a b -> 0; c read 0 -> 0:a 1:b; d read 1 -> 1:b", &[]),
            ("an ack after the read", "1= p send a; c read 0 -> 0:a; 1 -> 0", &[]),
            ("the same offset elsewhere", "p send a -> 0; p send t/1 b -> 0", &[]),
            ("two acks at one offset", "1= p send a; 2= q send b; 1 -> 0; 2 -> 0", &[I4]),
            ("overlapping acks", "1= p send a b; 2= q send c d; 1 -> 0; 2 -> 1", &[I3, I4]),
            (
                "two readers, two records",
                "1= p send a; 2= q send b; c read 0 -> 0:a; d read 0 -> 0:b; 1 ?; 2 ?",
                &[I4],
            ),
            (
                "a reader against an ack",
                "1= p send a; 2= q send b; 1 -> 0; c read 0 -> 0:b; 2 ?",
                &[I4],
            ),
            (
                "an ack against a reader",
                "1= p send a; 2= q send b; c read 0 -> 0:b; 1 -> 0; 2 ?",
                &[I4],
            ),
            ("a record and a control record", "p send a -> 0; c read 0 -> 0:!", &[I4]),
            (
                "a replica that lags behind and then differs",
                "1= p send a; 2= p send b; n1 read 0 -> 0:a 1:b; n2 read 0 -> 0:a; \
                 n2 read 0 -> 0:b; 1 ?; 2 ?",
                &[I4],
            ),
            (
                "sent again, the same answer",
                "p send #7.0.0 a -> 0; p send #7.0.0 a -> 0; c read 0 -> 0:a",
                &[],
            ),
            (
                "lost, then another takes its place",
                "1= p send a; 2= p send b; 1 -> 0; 2 -> 0; drain; c read 0 -> 0:b",
                &[I1, I4, I4],
            ),
        ]);
    }
}
