//! I8: what was acked is not delivered again, and an old receipt settles nothing.
//!
//! Demands: a take that begins after an ack was answered does not show that record to the group;
//! an ack, nack or extension is refused when the record was leased again, and that was known,
//! before it was sent.

use super::leases::{Given, OpenSettlement, Track};
use crate::history::event::Settlement;
use crate::history::verdict::{Report, Rule};

/// A record was delivered.
pub(crate) fn delivered(
    report: &mut Report,
    track: &Track,
    given: &Given,
    tell: impl Fn() -> String,
) {
    let Some(acked) = track.acked.filter(|acked| acked.moment < given.begun) else { return };
    report.add(Rule::I8, given.at, || {
        let (count, at) = (given.count, acked.at);
        format!("{} was delivered again (count {count}) after it was acked at {at}", tell())
    });
}

/// A lease was settled.
pub(crate) fn settled(
    report: &mut Report,
    track: &Track,
    open: &OpenSettlement,
    tell: impl Fn() -> String,
) {
    let newer = |given: &&Given| given.count > open.count && given.done < open.begun;
    let Some(newer) = track.given.iter().find(newer) else { return };
    report.add(Rule::I8, open.at, || {
        let verb = match open.how {
            Settlement::Ack => "ack",
            Settlement::Nack { .. } => "nack",
            Settlement::Extend { .. } => "extend",
            Settlement::Release => "release",
        };
        let (old, new, at) = (open.count, newer.count, newer.at);
        let record = tell();
        format!(
            "{record}: {verb} with the receipt of count {old} was accepted after count {new} was \
             delivered at {at}"
        )
    });
}

#[cfg(test)]
mod tests {
    use crate::history::script::check;
    use crate::history::verdict::Rule::I8;

    #[test]
    fn an_ack_holds() {
        check(&[
            (
                "acked once",
                "p send a -> 0; c take g 5 -> a*1; c ack g a*1 -> ok; c take g 5 ->",
                &[],
            ),
            (
                "each group for itself",
                "p send a -> 0; c take g 5 -> a*1; c ack g a*1 -> ok; d take h 5 -> a*1",
                &[],
            ),
            (
                "an unknown ack",
                "p send a -> 0; c take g 5 -> a*1; c ack g a*1 -> ?; wait 9; c take g 5 -> a*2",
                &[],
            ),
            (
                "a take that began before",
                "p send a -> 0; c take g 5 -> a*1; wait 9; 1= d take g 5; c ack g a*1 -> ok; \
                 1 -> a*2",
                &[],
            ),
            (
                "acked twice",
                "p send a -> 0; c take g 5 -> a*1; c ack g a*1 -> ok; c ack g a*1 -> ok",
                &[],
            ),
            (
                "delivered again",
                "p send a -> 0; c take g 5 -> a*1; c ack g a*1 -> ok; wait 9; c take g 5 -> a*2",
                &[I8],
            ),
            (
                "one of two delivered again",
                "p send a b -> 0; c take g 5 -> a*1 b*1; c ack g a*1 -> ok; wait 9; \
                 d take g 5 -> a*2 b*2",
                &[I8],
            ),
        ]);
    }

    #[test]
    fn an_old_receipt_settles_nothing() {
        let again = "p send a -> 0; c take g 5 -> a*1; wait 9; d take g 5 -> a*2";
        let stories = [
            ("refused", "c ack g a*1 -> fail", &[][..]),
            ("the new receipt", "d ack g a*2 -> ok", &[]),
            ("unknown", "c ack g a*1 -> ?", &[]),
            ("old ack", "c ack g a*1 -> ok", &[I8]),
            ("old nack", "c nack g a*1 0 -> ok", &[I8]),
            ("old extension", "c extend g a*1 5 -> ok", &[I8]),
        ];
        for (what, end, want) in stories {
            check(&[(what, &format!("{again}; {end}"), want)]);
        }
        check(&[(
            "sent before the second delivery was known",
            "p send a -> 0; c take g 5 -> a*1; wait 9; 1= d take g 5; 2= c ack g a*1; 1 -> a*2; \
             2 -> ok",
            &[],
        )]);
    }
}
