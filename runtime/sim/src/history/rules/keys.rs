//! I6 for queue groups that keep the order of keys.
//!
//! Demands: no record is delivered for the first time by a take that began when a later record of
//! its key, in the same partition, was known to be delivered to the group; none while an earlier
//! one of its key is leased for certain.
//!
//! Owns: how far each key was delivered. Cost: about forty bytes per first delivery of a record
//! with a key, in such groups alone.

use std::collections::{BTreeMap, BTreeSet};

use barrage_model::Offset;

use super::leases::{Leases, Take};
use crate::history::facts::{Facts, Moment};
use crate::history::ledger::{GroupId, MessageId, PartitionId};
use crate::history::name::{Key, Nanos};
use crate::history::verdict::{Report, Rule};

/// A first delivery beyond all earlier ones of its key.
#[derive(Clone, Copy, Debug)]
struct Reached {
    done: Moment,
    offset: Offset,
    message: MessageId,
}

/// A record that was delivered while an earlier one of its key was leased.
#[derive(Clone, Copy, Debug)]
struct Beside {
    group: GroupId,
    partition: PartitionId,
    earlier: (Offset, MessageId),
    later: MessageId,
    at: Nanos,
}

/// How far each key was delivered.
#[derive(Debug, Default)]
pub(crate) struct Keys {
    groups: BTreeSet<GroupId>,
    /// Ascending in moment and in offset.
    reached: BTreeMap<(GroupId, PartitionId, Key), Vec<Reached>>,
    beside: Vec<Beside>,
}

impl Keys {
    pub(crate) fn keyed(&mut self, group: GroupId) {
        self.groups.insert(group);
    }

    /// Judges what was delivered beside a lease, now that it is known what retention has taken.
    pub(crate) fn finish(&self, facts: &Facts, report: &mut Report) {
        let still_there =
            |beside: &&Beside| facts.partition(beside.partition).trim <= beside.earlier.0;
        for Beside { group, partition, earlier, later, at } in
            self.beside.iter().filter(still_there)
        {
            report.add(Rule::I6, *at, || {
                let early = facts.tell_offset(*partition, earlier.0);
                let (group, late) = (facts.group_name(*group), facts.tell(*later));
                format!("group {group}: {late} was delivered while {early} was leased")
            });
        }
    }

    /// A record was delivered to its group for the first time.
    pub(crate) fn delivered(
        &mut self,
        (facts, leases): (&Facts, &Leases),
        report: &mut Report,
        take: &Take,
        message: MessageId,
        (partition, offset, done, at): (PartitionId, Offset, Moment, Nanos),
    ) {
        let Some(key) = facts.ledger.message(message).key() else { return };
        if !self.groups.contains(&take.group) {
            return;
        }
        let reached = self.reached.entry((take.group, partition, key)).or_default();
        let before = reached.partition_point(|reached| reached.done < take.begun);
        let newest = before.checked_sub(1).and_then(|newest| reached.get(newest));
        if let Some(newest) = newest.filter(|newest| newest.offset > offset) {
            report.add(Rule::I6, at, || {
                let (place, group) =
                    (facts.tell_offset(partition, offset), facts.group_name(take.group));
                let (late, early) = (facts.tell(message), facts.tell(newest.message));
                format!("group {group}: {place}, {late}, was first delivered after {early}")
            });
        }
        let earlier = reached.partition_point(|reached| reached.offset < offset);
        let earlier = earlier.checked_sub(1).and_then(|earlier| reached.get(earlier));
        let is_held = |earlier: &&Reached| leases.holds(take.group, earlier.message, at);
        if let Some(earlier) = earlier.filter(is_held) {
            let (group, earlier) = (take.group, (earlier.offset, earlier.message));
            self.beside.push(Beside { group, partition, earlier, later: message, at });
        }
        if reached.last().is_none_or(|last| last.offset < offset) {
            reached.push(Reached { done, offset, message });
        }
    }
}

#[cfg(test)]
mod tests {
    use crate::history::script::check;
    use crate::history::verdict::Rule::I6;

    #[test]
    fn a_key_is_delivered_in_order() {
        let run = "keyed g; p send a@k b@k c@m d -> 0";
        let stories = [
            (
                "in order",
                "c take g 5 -> 0:a*1; c ack g a*1 -> ok; d take g 5 -> 1:b*1 2:c*1",
                &[][..],
            ),
            (
                "an ack that may have happened",
                "c take g 5 -> 0:a*1; c ack g a*1 -> ?; d take g 5 -> 1:b*1",
                &[],
            ),
            ("side by side", "c take g 5 -> 0:a*1; d take g 5 -> 1:b*1", &[I6]),
            ("by one member", "c take g 5 -> 0:a*1 1:b*1", &[I6]),
            (
                "given back",
                "c take g 5 -> 0:a*1; c nack g a*1 0 -> ok; c take g 5 -> 0:a*2; \
                 d take g 5 -> 1:b*1",
                &[I6],
            ),
            ("other keys overtake", "c take g 5 -> 2:c*1; d take g 5 -> 0:a*1", &[]),
            ("without a key", "c take g 5 -> 3:d*1; d take g 5 -> 0:a*1", &[]),
            ("a group that promises nothing", "c take h 5 -> 1:b*1; d take h 5 -> 0:a*1", &[]),
            (
                "delivered again",
                "c take g 5 -> 0:a*1; wait 9; d take g 5 -> 0:a*2; d ack g a*2 -> ok; \
                 c take g 5 -> 1:b*1",
                &[],
            ),
            ("takes that overlap", "1= c take g 5; d take g 5 -> 1:b*1; 1 -> 0:a*1", &[]),
            ("later first", "c take g 5 -> 1:b*1; d take g 5 -> 0:a*1", &[I6]),
            ("later first, to one member", "c take g 5 -> 1:b*1; c take g 5 -> 0:a*1", &[I6]),
        ];
        for (what, end, want) in stories {
            check(&[(what, &format!("{run}; {end}"), want)]);
        }
        check(&[(
            "the furthest counts, not the last",
            "keyed g; p send a@k b@k c@k -> 0; 1= c take g 5; d take g 5 -> 2:c*1; 1 -> 0:a*1; \
             c ack g a*1 -> ok; d take g 5 -> 1:b*1",
            &[I6],
        )]);
    }
}
