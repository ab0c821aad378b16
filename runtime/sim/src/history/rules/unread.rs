//! I1: the members of a stream group read every record.
//!
//! Demands, of each topic that a group reads: at the end every acknowledged record was in some
//! answer to a member, unless retention may have removed it or a reset may have passed over it. As
//! a member goes on from what is stored, that holds only if nothing is stored that was not read.
//!
//! Owns: which offsets each group has read. Cost: thirty bytes per run of offsets.

use std::collections::{BTreeMap, BTreeSet};

use barrage_model::Offset;

use super::commits::Cursor;
use crate::history::facts::Facts;
use crate::history::ledger::{ClientId, GroupId, MessageSet, PartitionId, TopicId};
use crate::history::name::Nanos;
use crate::history::verdict::{Report, Rule};

/// Offsets that were read: runs by their starts, with their ends; none touch.
#[derive(Debug, Default)]
struct Runs(BTreeMap<u64, u64>);

impl Runs {
    fn add(&mut self, mut start: u64, mut end: u64) {
        let touches = |(first, last): (&u64, &u64)| (*last >= start).then_some((*first, *last));
        if let Some((first, last)) = self.0.range(..=start).next_back().and_then(touches) {
            (start, end) = (first, end.max(last));
        }
        while let Some((first, last)) = self.0.range(start..=end).next().map(|(a, b)| (*a, *b)) {
            end = end.max(last);
            self.0.remove(&first);
        }
        self.0.insert(start, end);
    }

    fn has(&self, offset: u64) -> bool {
        self.0.range(..=offset).next_back().is_some_and(|(_, end)| offset < *end)
    }
}

/// See the module.
#[derive(Debug, Default)]
pub(crate) struct Unread {
    topics: BTreeSet<(GroupId, TopicId)>,
    /// The group of each member.
    members: BTreeMap<ClientId, GroupId>,
    read: BTreeMap<Cursor, Runs>,
    /// Resets may have passed over everything below.
    reset: BTreeMap<Cursor, Offset>,
}

impl Unread {
    /// A group reads a topic.
    pub(crate) fn reads(&mut self, group: GroupId, topic: TopicId) {
        self.topics.insert((group, topic));
    }

    /// A client is a member of a group.
    pub(crate) fn member(&mut self, group: GroupId, client: ClientId) {
        self.members.insert(client, group);
    }

    /// A client was shown everything in `[from, next)`.
    pub(crate) fn read(
        &mut self,
        client: ClientId,
        partition: PartitionId,
        from: Offset,
        next: Offset,
    ) {
        if let Some(group) = self.members.get(&client).filter(|_| from < next) {
            self.read.entry((*group, partition)).or_default().add(from.0, next.0);
        }
    }

    /// A reset begins: what lies before need not be read any more.
    pub(crate) fn resets(&mut self, cursor: Cursor, to: Offset) {
        let reset = self.reset.entry(cursor).or_insert(to);
        *reset = (*reset).max(to);
    }

    /// Compares what was acknowledged with what was read.
    pub(crate) fn finish(
        &self,
        facts: &mut Facts,
        report: &mut Report,
        now: Nanos,
        expired: &MessageSet,
    ) {
        if facts.drain.is_none() {
            return;
        }
        let mut reached = 0;
        for (group, topic) in &self.topics {
            for batch in facts.ledger.batches().filter(|batch| batch.topic == *topic) {
                let place = batch.acknowledged.and_then(|acknowledged| acknowledged.place);
                let Some((partition, base)) = place else { continue };
                let cursor = (*group, partition);
                let from = self.reset.get(&cursor).copied().unwrap_or_default();
                let runs = self.read.get(&cursor);
                for (message, offset) in batch.messages().zip(base.0..) {
                    if runs.is_some_and(|runs| runs.has(offset)) {
                        reached += 1;
                    } else if offset >= from.0 && !expired.contains(message) {
                        report.add(Rule::I1, now, || {
                            let (group, record) = (facts.group_name(*group), facts.tell(message));
                            format!("no member of group {group} has read {record}")
                        });
                    }
                }
            }
        }
        facts.counters.records_reached = reached;
    }
}

#[cfg(test)]
mod tests {
    use super::Runs;
    use crate::history::script::check;
    use crate::history::verdict::Rule::I1;

    #[test]
    fn runs_grow_together() {
        let mut runs = Runs::default();
        for (start, end) in [(5, 7), (9, 12), (0, 2), (7, 9), (3, 3), (11, 20), (2, 3)] {
            runs.add(start, end);
        }
        assert_eq!(runs.0.into_iter().collect::<Vec<_>>(), [(0, 3), (5, 20)]);
    }

    #[test]
    fn every_record_is_read_by_the_group() {
        let sent = "reads g t 2; p send a b c -> 0; m beat g -> 1: 0; ";
        let end = "; drain; c read 0 -> 0:a 1:b 2:c";
        for (what, text, want) in [
            ("by one", "m read 0 -> 0:a 1:b 2:c", &[][..]),
            ("by several", "m read 0 -> 0:a 1:b; n beat g -> 2:; n read 2 -> 2:c", &[]),
            ("after a reset", "a reset g 1 -> ok; m read 1 -> 1:b 2:c", &[]),
            ("not the last", "m read 0 -> 0:a 1:b", &[I1]),
            ("not the one between", "m read 0 -> 0:a; m read 2 -> 2:c", &[I1]),
            ("only by others", "c read 0 -> 0:a 1:b 2:c", &[I1, I1, I1]),
            ("a reset forth and what is behind", "a reset g 2 -> ok", &[I1]),
        ] {
            check(&[(what, &format!("{sent}{text}{end}"), want)]);
        }
        check(&[
            ("retention", "reads g t 1; p send a -> 0; trim 1; drain; c read 1 -> | 1 1", &[]),
            ("no end, no demand", "reads g t 1; p send a -> 0", &[]),
        ]);
    }
}
