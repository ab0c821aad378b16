//! I5: offsets grow, densely.
//!
//! Demands, of one answer to a read: offsets grow by one from the offset asked for; only what
//! retention removed may be missing in between, or what every group was done with; nothing stands
//! at or above the high watermark that it tells. Of a record: its offset is not below what was
//! known to be taken when it was first sent; so the records of one who waits for each
//! acknowledgement keep their order, too.

use std::ops::Range;

use barrage_model::Offset;

use super::agreement::Sighting;
use super::lost;
use crate::history::event::ReadOut;
use crate::history::facts::Facts;
use crate::history::ledger::{MessageId, PartitionId, ReadId};
use crate::history::name::Nanos;
use crate::history::verdict::{Report, Rule};

/// An answer to a read.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Answered<'a> {
    pub(crate) at: Nanos,
    pub(crate) read: ReadId,
    pub(crate) partition: PartitionId,
    pub(crate) out: &'a ReadOut,
}

impl Answered<'_> {
    /// Judges the next record's offset; `expected` is where the answer stands, if known.
    /// False when the offset is none.
    pub(crate) fn step(
        &self,
        facts: &Facts,
        report: &mut Report,
        expected: Option<Offset>,
        offset: Offset,
    ) -> bool {
        if offset.0 == u64::MAX {
            self.object(facts, report, || format!("was shown offset {offset}"));
            return false;
        }
        if self.out.end.is_some_and(|end| offset >= end) {
            self.object(facts, report, || {
                let end = self.out.end.unwrap_or_default();
                format!("was shown offset {offset} with the high watermark at {end}")
            });
        }
        match expected {
            Some(expected) if offset < expected => self.object(facts, report, || {
                format!("was shown offset {offset} where {expected} was next")
            }),
            Some(expected) if offset > expected => {
                self.gap(facts, report, expected..offset);
            }
            _ => {}
        }
        true
    }

    fn gap(&self, facts: &Facts, report: &mut Report, missing: Range<Offset>) {
        if facts.kept_for(self.partition).is_some() {
            // Who was done with it is asked elsewhere.
            return;
        }
        // A start beyond what retention may remove is found when everything is over.
        let trim = facts.partition(self.partition).trim;
        let start = missing.start.max(trim).max(self.out.start.unwrap_or_default());
        let missing = start..missing.end;
        if missing.is_empty() || lost::in_gap(facts, report, self, &missing) {
            return;
        }
        self.object(facts, report, || {
            format!("was shown offset {} where {} was next", missing.end, missing.start)
        });
    }

    fn object(&self, facts: &Facts, report: &mut Report, what: impl FnOnce() -> String) {
        report.add(Rule::I5, self.at, || {
            let (place, told) = (facts.tell_place(self.partition), facts.tell_read(self.read));
            format!("{told} read {place} and {}", what())
        });
    }
}

/// A message was found at an offset for the first time.
pub(crate) fn above_floor(facts: &Facts, report: &mut Report, seen: &Sighting, message: MessageId) {
    let batch = facts.ledger.batch_of(message);
    if batch.wanted != Some(seen.partition) {
        return;
    }
    // Delayed ones come in any order.
    let before = if batch.is_delayed { 0 } else { batch.place_of(message) };
    let floor = batch.floor.0.saturating_add(u64::from(before));
    if seen.offset.0 < floor {
        report.add(Rule::I5, seen.at, || {
            let place = facts.tell_offset(seen.partition, seen.offset);
            let (record, taken) = (facts.tell(message), batch.floor);
            let told = facts.tell_told(seen.told);
            format!(
                "{told}: {place} holds {record}, which can stand at {floor} at the earliest: \
                 everything below {taken} was taken when it was sent"
            )
        });
    }
}

#[cfg(test)]
mod tests {
    use crate::history::script::check;
    use crate::history::verdict::Rule::{I1, I5};

    #[test]
    fn offsets_grow_densely() {
        check(&[
            ("dense", "p send a b c -> 0; c read 0 -> 0:a 1:b 2:c | 0 3", &[]),
            ("from the middle", "p send a b c -> 0; c read 1 -> 1:b 2:c", &[]),
            ("an empty answer", "p send a -> 0; c read 1 -> | 0 1", &[]),
            (
                "a control record between",
                "p send a -> 0; p send b -> 2; c read 0 -> 0:a 1:! 2:b",
                &[],
            ),
            (
                "retention removed the beginning",
                "p send a b c -> 0; trim 2; c read 0 -> 2:c | 2 3",
                &[],
            ),
            (
                "sent again, found where it was",
                "p send #7.0.0 a -> ?; p send b -> 1; p send #7.0.0 a -> 0",
                &[],
            ),
            ("two at once in any order", "1= p send a; 2= q send b; 2 -> 0; 1 -> 1", &[]),
            ("a gap", "1= p send a; 2= p send b; c read 0 -> 0:a 2:b; 1 ?; 2 ?", &[I5]),
            ("a gap at the beginning", "1= p send a; c read 0 -> 1:a; 1 ?", &[I5]),
            ("a gap of an acknowledged record", "p send a b c -> 0; c read 0 -> 0:a 2:c", &[I1]),
            ("twice the same offset", "p send a -> 0; c read 0 -> 0:a 0:a", &[I5]),
            ("falling", "p send a b -> 0; c read 0 -> 0:a 1:b 0:a", &[I5]),
            ("below what was asked for", "p send a b -> 0; c read 1 -> 0:a 1:b", &[I5]),
            ("above the high watermark", "p send a b -> 0; c read 0 -> 0:a 1:b | 0 1", &[I5]),
            ("an acknowledged offset falls", "p send a -> 5; q send b -> 3", &[I5]),
            (
                "below an offset that was read",
                "1= p send a; 2= p send b; c read 1 -> 1:b; p send c -> 0; 1 ?; 2 ?",
                &[I5],
            ),
            ("below a high watermark that was told", "c read 0 -> | 0 5; p send a -> 4", &[I5]),
            (
                "found below what was taken",
                "p send a b -> 3; 1= q send c; c read 2 -> 2:c; 1 ?",
                &[I5],
            ),
            (
                "no offset at all",
                "1= p send a; c read 18446744073709551615 -> 18446744073709551615:a",
                &[I5],
            ),
        ]);
    }
}
