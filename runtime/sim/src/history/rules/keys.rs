//! I6 for queue groups that keep the order of keys.
//!
//! Demands: no record is delivered for the first time by a take that began when a later record of
//! its key, in the same partition, was known to be delivered to the group.
//!
//! Owns: how far each key was delivered. Cost: about forty bytes per first delivery of a record
//! with a key, in such groups alone.

use std::collections::{BTreeMap, BTreeSet};

use barrage_model::Offset;

use super::leases::Take;
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

/// How far each key was delivered.
#[derive(Debug, Default)]
pub(crate) struct Keys {
    groups: BTreeSet<GroupId>,
    /// Ascending in moment and in offset.
    reached: BTreeMap<(GroupId, PartitionId, Key), Vec<Reached>>,
}

impl Keys {
    pub(crate) fn keyed(&mut self, group: GroupId) {
        self.groups.insert(group);
    }

    /// A record was delivered to its group for the first time.
    pub(crate) fn delivered(
        &mut self,
        facts: &Facts,
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
            ("in order", "c take g 5 -> 0:a*1; d take g 5 -> 1:b*1 2:c*1", &[][..]),
            ("other keys overtake", "c take g 5 -> 2:c*1; d take g 5 -> 0:a*1", &[]),
            ("without a key", "c take g 5 -> 3:d*1; d take g 5 -> 0:a*1", &[]),
            ("a group that promises nothing", "c take h 5 -> 1:b*1; d take h 5 -> 0:a*1", &[]),
            (
                "delivered again",
                "c take g 5 -> 0:a*1; d take g 5 -> 1:b*1; wait 9; c take g 5 -> 0:a*2",
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
             d take g 5 -> 1:b*1",
            &[I6],
        )]);
    }
}
