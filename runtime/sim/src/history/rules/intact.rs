//! I3: what is read is what was sent, byte for byte, and stands where it was sent to.
//!
//! Demands: the fingerprint of every record that is read is that of a message sent to this topic
//! and, where the sender chose one, this partition. A dead-letter topic may hold what its queue
//! group gave up. A record whose fingerprint nobody sent is altered when a message is known to
//! stand at its offset; otherwise it is one from nowhere (I2). A batch stands whole: its records
//! side by side, in order. An acknowledgement names the partition that was asked for.

use barrage_model::Offset;

use super::agreement::Sighting;
use super::appended::Standing;
use super::phantom;
use crate::history::facts::{Facts, Told};
use crate::history::ledger::{Batch, MessageId, PartitionId, ReadId, TopicId};
use crate::history::name::{Fingerprint, Nanos};
use crate::history::slots::Slot;
use crate::history::verdict::{Report, Rule};

/// A record in an answer.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Shown {
    pub(crate) at: Nanos,
    pub(crate) read: ReadId,
    pub(crate) topic: TopicId,
    /// Where it stands, if told.
    pub(crate) place: Option<(PartitionId, Offset)>,
    pub(crate) fingerprint: Fingerprint,
    /// The answer belongs to the final reading.
    pub(crate) is_final: bool,
}

impl Shown {
    /// Takes note of a record that was shown to a reader; the message it is, if it is one.
    pub(crate) fn of(&self, facts: &mut Facts, report: &mut Report) -> Option<MessageId> {
        facts.counters.records_read += 1;
        let Some(message) = facts.ledger.find(self.fingerprint) else {
            self.stranger(facts, report);
            return None;
        };
        facts.counters.records_compared += 1;
        let sent_to = facts.ledger.batch_of(message).topic;
        let is_home = facts.may_stand(sent_to, self.topic) && self.is_wanted_here(facts, message);
        if !is_home {
            report.add(Rule::I3, self.at, || {
                let (told, place) = self.tell(facts);
                format!("{told} read {place}: {} does not belong there", facts.tell(message))
            });
        }
        if let Some((partition, offset)) = self.place {
            let (at, told) = (self.at, Told::Reader(self.read));
            let sighting = Sighting { at, told, partition, offset };
            sighting.of(facts, report, message);
        }
        let row = facts.ledger.message_mut(message);
        let is_new = row.first_read.is_none();
        row.first_read.get_or_insert(self.read);
        row.is_drained |= self.is_final && is_home;
        facts.counters.records_seen += u64::from(is_new);
        Some(message)
    }

    /// A dead-letter topic has partitions of its own.
    fn is_wanted_here(&self, facts: &Facts, message: MessageId) -> bool {
        let batch = facts.ledger.batch_of(message);
        let Some((partition, _)) = self.place else { return true };
        batch.topic != self.topic || batch.wanted.is_none_or(|wanted| wanted == partition)
    }

    /// Nobody sent this record.
    fn stranger(&self, facts: &mut Facts, report: &mut Report) {
        let slot = self.place.map(|(partition, offset)| {
            let slots = &mut facts.partition_mut(partition).slots;
            let known = slots.at(offset);
            if known == Slot::Unknown {
                slots.learn(offset, Slot::Foreign);
            }
            known
        });
        let known = match slot {
            Some(Slot::Message(message)) => facts.tell(message),
            Some(Slot::Control) => "a control record".to_owned(),
            Some(Slot::Unknown) | None => return phantom::stranger(facts, report, self),
            // Reported when it was first seen.
            Some(Slot::Foreign) => return,
        };
        report.add(Rule::I3, self.at, || {
            let ((told, place), found) = (self.tell(facts), self.fingerprint);
            format!("{told} read {place}: it says {found}, but there stands {known}")
        });
    }

    /// Who read it, and where.
    pub(crate) fn tell(&self, facts: &Facts) -> (String, String) {
        let place = match self.place {
            Some((partition, offset)) => facts.tell_offset(partition, offset),
            None => facts.topic_name(self.topic).to_owned(),
        };
        (facts.tell_read(self.read), place)
    }
}

/// A message stands in its log: its batch must stand around it.
pub(crate) fn whole(facts: &Facts, report: &mut Report, standing: &Standing) {
    let (message, offset) = (standing.message, standing.offset);
    let batch = facts.ledger.batch_of(message);
    let place = batch.place_of(message);
    let slots = &facts.partition(standing.partition).slots;
    let is_torn = |step: i64, has_neighbour: bool| {
        let neighbour = offset
            .0
            .checked_add_signed(step)
            .map_or(Slot::Unknown, |offset| slots.at(Offset(offset)));
        let wanted = message.0.checked_add_signed(step as i32).map(MessageId);
        has_neighbour && neighbour != Slot::Unknown && Some(neighbour) != wanted.map(Slot::Message)
    };
    if is_torn(-1, place > 0) || is_torn(1, place + 1 < batch.count) {
        report.add(Rule::I3, standing.now, || {
            let place = facts.tell_offset(standing.partition, offset);
            format!("{place}: {} stands apart from the rest of its batch", facts.tell(message))
        });
    }
}

/// A sender was told a partition; false when it is not the one it wanted.
pub(crate) fn acknowledged(
    facts: &Facts,
    report: &mut Report,
    at: Nanos,
    batch: &Batch,
    told: PartitionId,
) -> bool {
    let is_wanted = batch.wanted.is_none_or(|wanted| wanted == told);
    if !is_wanted {
        report.add(Rule::I3, at, || {
            let (place, record) = (facts.tell_place(told), facts.tell(batch.first));
            format!("{} was acknowledged in {place}: {record}", facts.client_name(batch.sender))
        });
    }
    is_wanted
}

#[cfg(test)]
mod tests {
    use crate::history::script::check;
    use crate::history::verdict::Rule::{I2, I3};

    #[test]
    fn nothing_is_altered_or_misrouted() {
        check(&[
            ("read as sent", "p send a -> 0; c read 0 -> 0:a", &[]),
            ("the broker chose the partition", "p send t/- a -> 1@0; c read t/1 0 -> 0:a", &[]),
            (
                "given up into the dead-letter topic",
                "p send a -> 0; dead g t dlq; c read dlq/0 0 -> 0:a",
                &[],
            ),
            ("altered after the ack", "p send a -> 0; c read 0 -> 0:x", &[I3]),
            (
                "altered between two readings",
                "1= p send a; c read 0 -> 0:a; d read 0 -> 0:x; 1 ?",
                &[I3],
            ),
            ("altered before anybody knew its place", "1= p send a; c read 0 -> 0:x; 1 ?", &[I2]),
            ("a control record altered", "c read 0 -> 0:!; d read 0 -> 0:x", &[I3]),
            ("another topic", "p send a -> 0; c read u/0 0 -> 0:a", &[I3]),
            ("another partition", "p send a -> 0; c read t/1 0 -> 0:a", &[I3]),
            ("a batch, seen in part", "1= p send a b c; c read 5 -> 5:b; 1 ?", &[]),
            (
                "a batch sent twice",
                "p send a b -> ?; p send a b -> ?; c read 0 -> 0:a 1:b 2:a 3:b",
                &[],
            ),
            (
                "a batch with another's record between",
                "1= p send a b; 2= q send z; c read 0 -> 0:a 1:z 2:b; 1 ?; 2 ?",
                &[I3, I3],
            ),
            ("half a batch", "1= p send a b; 2= q send z; c read 0 -> 0:a 1:z; 1 ?; 2 ?", &[I3]),
            ("acknowledged elsewhere", "p send t/0 a -> 1@0", &[I3]),
            (
                "the dead-letter topic of another",
                "p send a -> 0; dead g u dlq; c read dlq/0 0 -> 0:a",
                &[I3],
            ),
            ("a queue delivers another's record", "p send u/0 a -> 0; c take g 30 -> a*1", &[I3]),
        ]);
    }
}
