//! I6: what is sent in order is read in order.
//!
//! Demands, of each partition's log: the sequences of one producer's epoch ascend, without a gap
//! where every offset is known, from 0 where the log is known from its beginning; the records that
//! one connection sent once each stand in the order in which they were sent. Of a reader that goes
//! on where it was: it is not shown what it has passed. Of a queue group that keeps the order of
//! keys: a record is not delivered for the first time after a later one of its key was.
//!
//! Between sends of one client that are neither stamped nor on one connection only the order in
//! real time holds (I5).

use std::collections::BTreeMap;

use barrage_model::{Offset, Sequence};

use super::appended::{Newest, Standing};
use super::offsets::Answered;
use crate::history::facts::Facts;
use crate::history::ledger::{ClientId, MessageId};
use crate::history::verdict::{Report, Rule};

/// A producer's record comes before one that was sent earlier.
pub(crate) fn behind(
    facts: &Facts,
    report: &mut Report,
    standing: &Standing,
    newest: Option<Newest>,
) {
    report.add(Rule::I6, standing.now, || {
        let after = newest.map_or_else(String::new, |newest| facts.tell(newest.message));
        format!("{} stands after {after}", tell(facts, standing))
    });
}

/// Records of a producer are missing in the log although later ones stand there.
pub(crate) fn gap(
    facts: &Facts,
    report: &mut Report,
    standing: &Standing,
    expected: Sequence,
    newest: Option<Newest>,
) {
    report.add(Rule::I6, standing.now, || {
        let after = match newest {
            Some(newest) => format!("after {}", facts.tell(newest.message)),
            None => "as its producer's first".to_owned(),
        };
        format!("{} stands {after}: sequence {expected} was next", tell(facts, standing))
    });
}

/// A reader that goes on where it was is shown what lies behind.
pub(crate) fn jumped_back(
    facts: &Facts,
    report: &mut Report,
    answered: &Answered<'_>,
    position: Offset,
    offset: Offset,
) {
    report.add(Rule::I6, answered.at, || {
        let (place, told) = (facts.tell_place(answered.partition), facts.tell_read(answered.read));
        format!("{told} went on in {place} at {position} and was shown {offset}")
    });
}

fn tell(facts: &Facts, standing: &Standing) -> String {
    let place = facts.tell_offset(standing.partition, standing.offset);
    format!("{place}: {}", facts.tell(standing.message))
}

/// The newest record of each connection in a partition's log.
#[derive(Debug, Default)]
pub(crate) struct Lanes(BTreeMap<(ClientId, u32), MessageId>);

impl Lanes {
    /// Judges a record that stands here once.
    pub(crate) fn step(&mut self, facts: &Facts, report: &mut Report, standing: &Standing) {
        let batch = facts.ledger.batch_of(standing.message);
        // Who sends again may do so on another connection.
        let Some(connection) = batch.connection.filter(|_| batch.attempts == 1) else { return };
        let newest = self.0.entry((batch.sender, connection)).or_insert(standing.message);
        if *newest > standing.message {
            report.add(Rule::I6, standing.now, || {
                let after = facts.tell(*newest);
                let here = tell(facts, standing);
                format!("{here} stands after {after}, sent later on the same connection")
            });
        }
        *newest = (*newest).max(standing.message);
    }
}

#[cfg(test)]
mod tests {
    use crate::history::script::check;
    use crate::history::verdict::Rule::{I1, I5, I6};

    #[test]
    fn a_producers_records_keep_their_order() {
        check(&[
            ("in order", "p send #7.0.0 a b -> 0; p send #7.0.2 c -> 2", &[]),
            (
                "in order, overlapping",
                "1= p send #7.0.0 a; 2= p send #7.0.1 b; 2 -> 1; 1 -> 0",
                &[],
            ),
            (
                "two producers mixed",
                "p send #7.0.0 a -> 0; q send #8.0.0 b -> 1; p send #7.0.1 c -> 2",
                &[],
            ),
            ("sequences wrap", "p send #7.0.2147483647 a -> 5; p send #7.0.0 b -> 6", &[]),
            ("a new epoch begins at 0", "p send #7.0.0 a b -> 0; p send #7.1.0 c -> 2", &[]),
            ("a gap that nobody looked into", "p send #7.0.0 a -> 0; p send #7.0.5 b -> 5", &[]),
            ("the beginning is not known", "p send #7.0.5 b -> 5", &[]),
            (
                "each partition counts for itself",
                "p send #7.0.0 a -> 0; p send t/1 #7.0.0 b -> 0",
                &[],
            ),
            (
                "swapped while in flight",
                "1= p send #7.0.0 a; 2= p send #7.0.1 b; 1 -> 1; 2 -> 0",
                &[I6, I6],
            ),
            (
                "swapped, seen by a reader only",
                "q send z -> 0; 1= p send #7.0.0 a; 2= p send #7.0.1 b; 1 ?; 2 ?; \
                 c read 0 -> 0:z 1:b 2:a",
                &[I6, I6],
            ),
            ("a sequence is skipped", "p send #7.0.0 a -> 0; p send #7.0.2 b -> 1", &[I6]),
            ("the first is not 0", "p send #7.0.1 b -> 0", &[I6]),
            ("the first of an epoch is not 0", "p send #7.0.0 a -> 0; p send #7.1.1 b -> 1", &[I6]),
            (
                "a lost batch, and the next accepted",
                "p send #7.0.0 a -> ?; p send #7.0.1 b -> 0; drain; c read 0 -> 0:b",
                &[I6],
            ),
        ]);
    }

    #[test]
    fn a_connection_keeps_its_order() {
        check(&[
            ("in order", "1= p send ~1 a; 2= p send ~1 b; 2 -> 1; 1 -> 0", &[]),
            ("two connections", "1= p send ~1 a; 2= p send ~2 b; 2 -> 0; 1 -> 1", &[]),
            ("two clients", "1= p send ~1 a; 2= q send ~1 b; 2 -> 0; 1 -> 1", &[]),
            ("two partitions", "1= p send ~1 a; 2= p send t/1 ~1 b; 2 -> 0; 1 -> 7", &[]),
            ("sent again", "p send ~1 a -> ?; p send ~1 b -> 0; p send ~1 a -> 1", &[]),
            ("swapped", "1= p send ~1 a; 2= p send ~1 b; 2 -> 0; 1 -> 1", &[I6]),
            (
                "swapped, outcome unknown",
                "1= p send ~1 a; 2= p send ~1 b; 1 ?; 2 -> 0; c read 0 -> 0:b 1:a",
                &[I6],
            ),
            ("swapped within a batch", "1= p send ~1 a b; c read 0 -> 0:b 1:a; 1 ?", &[I5, I6]),
        ]);
    }

    #[test]
    fn a_reader_does_not_jump_back() {
        check(&[
            ("goes on", "p send a b c -> 0; c read * -> 0:a; c read * -> 1:b 2:c", &[]),
            (
                "reads with an offset do not count",
                "p send a b -> 0; c read * -> 0:a; c read 0 -> 0:a; c read * -> 1:b",
                &[],
            ),
            ("another reader", "p send a b -> 0; c read * -> 0:a 1:b; d read * -> 0:a", &[]),
            ("after a seek", "p send a b -> 0; c read * -> 0:a 1:b; seek c; c read * -> 0:a", &[]),
            ("began late", "p send a b -> 0; c read * -> 1:b", &[]),
            ("the same again", "p send a b -> 0; c read * -> 0:a; c read * -> 0:a 1:b", &[I6]),
            ("far back", "p send a b c -> 0; c read * -> 0:a 1:b 2:c; c read * -> 0:a 1:b", &[I6]),
            ("seek of another", "p send a -> 0; c read * -> 0:a; seek d; c read * -> 0:a", &[I6]),
            ("ahead", "p send a b c -> 0; c read * -> 0:a; c read * -> 2:c", &[I1]),
        ]);
    }
}
