//! I2: nothing is read that was not sent, or that was refused.
//!
//! Demands: every record that is read was sent before, and not every call that sent it failed.
//! A record whose outcome is unknown may stand or not.

use super::intact::Shown;
use crate::history::facts::Facts;
use crate::history::name::Nanos;
use crate::history::verdict::{Report, Rule};

/// A record was read that nobody has sent.
pub(crate) fn stranger(facts: &Facts, report: &mut Report, shown: &Shown) {
    report.add(Rule::I2, shown.at, || {
        let (told, place) = shown.tell(facts);
        format!("{told} read {place}: {}, which nobody had sent by then", shown.fingerprint)
    });
}

/// Looks for records that were read although every call that sent them failed.
pub(crate) fn finish(facts: &Facts, report: &mut Report, now: Nanos) {
    for batch in facts.ledger.batches().filter(|batch| !batch.is_possible()) {
        let read = |id: &_| facts.ledger.message(*id).first_read.is_some();
        for id in batch.messages().filter(read) {
            report.add(Rule::I2, now, || {
                let calls = batch.attempts;
                format!(
                    "{}: all {calls} calls that sent it failed, yet it was read",
                    facts.tell(id)
                )
            });
        }
    }
}

#[cfg(test)]
mod tests {
    use crate::history::script::check;
    use crate::history::verdict::Rule::I2;

    #[test]
    fn nothing_comes_from_nowhere() {
        check(&[
            ("unknown and read", "p send a -> ?; c read 0 -> 0:a", &[]),
            ("unknown and not read", "p send a -> ?; p send b -> 0; c read 0 -> 0:b", &[]),
            ("still open and read", "1= p send a; c read 0 -> 0:a", &[]),
            ("refused and not read", "p send a -> fail; p send b -> 0; c read 0 -> 0:b", &[]),
            ("refused, then sent again", "p send a -> fail; p send a -> 0; c read 0 -> 0:a", &[]),
            (
                "one of two calls refused",
                "1= p send a; p send a -> fail; c read 0 -> 0:a; 1 ?",
                &[],
            ),
            ("refused and read", "p send a -> fail; c read 0 -> 0:a", &[I2]),
            ("read, then refused", "1= p send a; c read 0 -> 0:a; 1 fails", &[I2]),
            (
                "refused twice and read",
                "p send a -> fail; p send a -> fail; c read 0 -> 0:a",
                &[I2],
            ),
            ("never sent", "c read 0 -> 0:a", &[I2]),
            ("sent only later", "c read 0 -> 0:a; p send a -> ?", &[I2]),
            ("delivered, never sent", "c take g 30 -> a*1", &[I2]),
        ]);
    }
}
