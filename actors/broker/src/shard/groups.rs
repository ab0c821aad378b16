//! The groups of a shard: of queue groups, for each partition and group of its topic, a backlog;
//! of stream groups those that it coordinates, see `streams`.
//!
//! The leader does not decide about them before it proposes: a command says what is wanted, and
//! apply says what came of it, on every replica alike. So nothing in flight has to be foreseen, and
//! the answers of many consumers share an entry.
//!
//! Owns: the backlogs, the lease clock, the digest. Must never: read a clock; touch payload; fail
//! on a committed command.
//! Invariants: the lease clock never falls, and stands still while nobody leads: a leader counts
//! on from where it found it, by its own monotone clock. So no lease is shorter than granted,
//! whatever happens to the clocks of the nodes.

use std::collections::BTreeMap;
use std::ops::Range;

use barrage_model::group::Order;
use barrage_model::{GroupId, Offset, PartitionKey, ProducerId, Sequence};
use barrage_world::planted;
use crc32c::crc32c_append;

use super::decide::State;
use super::streams::{self, StreamOp, StreamOutcome, Streams};
use crate::api::claim::{Claim, ClaimRefusal};
use crate::api::delay::DelayError;
use crate::api::queue::ReceiptError;
use crate::queue::backlog::{Backlog, Leased, Policy, Receipt, Want};
use crate::queue::delays::Delays;
use crate::queue::departures::{Numbering, Position};
use crate::queue::selection::Selection;

/// Records that one lease hands out, at most.
pub(crate) const LEASE_MAX: u32 = 10_000;

/// The lease clock's milliseconds are cut off: a lease may begin almost one later than it says.
pub(crate) const ROUNDING_MS: u64 = 1;

/// A group in a partition.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Slot {
    pub(crate) key: PartitionKey,
    pub(crate) group: GroupId,
}

/// What a shard needs to know about a group from the catalog.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct GroupConfig {
    pub(crate) policy: Policy,
    /// Catalog revision the settings come from.
    pub(crate) revision: u64,
}

/// A group that is to be there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct OpenGroup {
    pub(crate) slot: Slot,
    pub(crate) config: GroupConfig,
    /// Where it is new: it begins at the partition's end, not at its start.
    pub(crate) at_end: bool,
}

/// One group in one partition.
#[derive(Clone, Debug)]
pub(crate) struct QueueGroup {
    pub(crate) config: GroupConfig,
    pub(crate) backlog: Backlog,
}

/// Something that is wanted of a group in a partition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Op {
    pub(crate) slot: Slot,
    pub(crate) what: What,
}

/// See [`Op`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum What {
    /// Hand out records.
    Lease { count_max: u32, visibility_ms: u64 },
    /// Hand out records that came back, and those that the group's filter lets through; settle
    /// those ahead that it does not. `found` was found by the settings of this revision, and holds
    /// as long as they do.
    LeaseWanted { count_max: u32, visibility_ms: u64, revision: u64, found: Selection },
    /// Hand out these records. They were chosen when the group had been rewound so often: since
    /// another rewind what comes before them may be to be delivered again. `from` was the first
    /// that was never leased; how much work it is goes by that.
    LeaseChosen { visibility_ms: u64, rewinds: u32, from: Offset, chosen: Vec<Offset> },
    /// They are done.
    Ack(Vec<Receipt>),
    /// They are given back, each for a delay or that of the policy.
    Nack(Vec<(Receipt, Option<u64>)>),
    /// They are wanted for longer: so long from now on.
    Extend(Vec<(Receipt, u64)>),
    /// They were leased and never handed out.
    Release(Vec<Receipt>),
    /// They were leased, and are too old to be handed out.
    Expire(Vec<Receipt>),
    /// Time passes in these chunks of the window.
    PassTime(Vec<u64>),
    /// The oldest of those that are dying go on their way to the dead-letter topic.
    Depart { count_max: u32 },
    /// Of those that are dying these are nowhere any more.
    GiveUp(Vec<Offset>),
    /// Those on their way are numbered anew, if they are still there where that was decided.
    Renumber { from: Position, to: Numbering },
    /// The first of those on their way lie in the dead-letter topic.
    Arrived { producer: ProducerId, first: Sequence, count: u32 },
    /// Everything from here on is to be delivered again.
    Rewind { to: Offset },
    /// Everything before is done with.
    Skip { to: Offset },
    /// Nobody is to have these delayed records of the partition; the group is none.
    Cancel(Vec<Offset>),
    /// They wait until these times instead.
    Reschedule(Vec<(Offset, u64)>),
    /// A producer wants to hold the partition; the group is none.
    Claim(Box<Claim>),
}

/// What came of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    Leased(Vec<Leased>),
    /// Per receipt.
    Settled(Vec<Result<(), ReceiptError>>),
    /// Per delayed record.
    Changed(Vec<Result<(), DelayError>>),
    Claimed(Result<(), ClaimRefusal>),
    Done,
    /// The group is not open in that partition.
    UnknownGroup,
}

/// Everything about groups that a data shard keeps.
#[derive(Clone, Debug, Default)]
pub(crate) struct Groups {
    pub(crate) slots: BTreeMap<Slot, QueueGroup>,
    pub(crate) streams: Streams,
    /// What is not in its partition yet; of those that ever had any.
    pub(crate) delays: BTreeMap<PartitionKey, Delays>,
    /// The lease clock, in milliseconds.
    pub(crate) clock_ms: u64,
    /// Hash of every operation and what came of it: two replicas that differ in it once differ for
    /// ever, and comparing them costs nothing.
    pub(crate) digest: u32,
}

impl Groups {
    /// Opens groups; one that is open takes over newer settings. Where a partition is not open,
    /// nothing is.
    pub(crate) fn open(&mut self, state: &State, wanted: &[OpenGroup]) {
        for OpenGroup { slot, config, at_end } in wanted {
            let Some(partition) = state.partitions.get(&slot.key) else { continue };
            let start = match at_end {
                true => partition.next_offset,
                false => partition.start_offset,
            };
            let new = || QueueGroup::new(config.clone(), Backlog::new(start));
            let found = self.slots.entry(*slot).or_insert_with(new);
            if config.revision > found.config.revision {
                let mut backlog = std::mem::replace(&mut found.backlog, Backlog::new(start));
                if found.config.policy.buries && !config.policy.buries {
                    backlog.raise();
                }
                *found = QueueGroup::new(config.clone(), backlog);
            }
        }
    }

    /// Closes groups.
    pub(crate) fn close(&mut self, slots: &[Slot]) {
        slots.iter().for_each(|slot| drop(self.slots.remove(slot)));
    }

    /// Before which record of a partition every queue group is done with all of them; none where
    /// there is no group.
    pub(crate) fn done_before(&self, key: PartitionKey) -> Option<Offset> {
        // Wrong when planted: what was handed out once counts as done.
        if planted("broker-leased-record-let-go") {
            return self.of(key).map(|(_, group)| group.backlog.fresh()).min();
        }
        self.of(key).map(|(_, group)| group.backlog.start()).min()
    }

    /// How many of these records of a partition the group is not done with that has most of them
    /// before it; none where there is no group.
    pub(crate) fn unsettled_in(&self, key: PartitionKey, range: Range<Offset>) -> Option<u64> {
        let all = range.end.0.saturating_sub(range.start.0);
        let left = |(_, group): (&Slot, &QueueGroup)| {
            let mut done = group.backlog.settled_in(range.clone());
            // Wrong when planted: a record goes before it is in the dead-letter topic.
            if planted("broker-dying-record-reclaimed") {
                done += group.backlog.counts(range.end).dying;
            }
            all.saturating_sub(done)
        };
        self.of(key).map(left).max()
    }

    /// A partition is closed, and its groups with it.
    pub(crate) fn close_partition(&mut self, key: PartitionKey) {
        let slots: Vec<Slot> = self.of(key).map(|(slot, _)| *slot).collect();
        self.close(&slots);
        self.delays.remove(&key);
    }

    /// Delayed records of a partition were stored, the first of them as `first`.
    pub(crate) fn wait(&mut self, key: PartitionKey, first: Offset, dues_ms: &[u64]) {
        let digest = crc32c_append(self.digest, &first.0.to_le_bytes());
        let fold = |digest, due_ms: &u64| crc32c_append(digest, &due_ms.to_le_bytes());
        self.digest = dues_ms.iter().fold(digest, fold);
        self.delays.entry(key).or_insert_with(|| Delays::new(first)).wait(first, dues_ms);
    }

    /// How many delayed records of a partition wait.
    pub(crate) fn delayed(&self, key: PartitionKey) -> u64 {
        self.delays.get(&key).map_or(0, Delays::waiting)
    }

    /// Whether delayed records wait, and are due.
    pub(crate) fn may_release(&self, key: PartitionKey, ids: &[Offset], now_ms: u64) -> bool {
        self.delays.get(&key).is_some_and(|delays| delays.may_release(ids, now_ms))
    }

    /// They are in their partition now.
    pub(crate) fn release(&mut self, key: PartitionKey, ids: &[Offset]) {
        let fold = |digest, id: &Offset| crc32c_append(digest, &id.0.to_le_bytes());
        self.digest = ids.iter().fold(self.digest, fold);
        if let Some(delays) = self.delays.get_mut(&key) {
            delays.release(ids);
        }
    }

    fn change_delays(&mut self, op: &Op) -> Outcome {
        let Some(delays) = self.delays.get_mut(&op.slot.key) else {
            return Outcome::UnknownGroup;
        };
        let results: Vec<_> = match &op.what {
            What::Cancel(ids) => ids.iter().map(|id| delays.cancel(*id)).collect(),
            What::Reschedule(all) => {
                all.iter().map(|(id, due_ms)| delays.reschedule(*id, *due_ms)).collect()
            }
            _ => Vec::new(),
        };
        Outcome::Changed(results)
    }

    /// Takes note of what came of a claim.
    pub(crate) fn claimed(&mut self, slot: Slot, result: Result<(), ClaimRefusal>) -> Outcome {
        let outcome = Outcome::Claimed(result);
        self.digest = digest(self.digest, slot, &outcome);
        outcome
    }

    /// A partition starts here now: what lay before is done with.
    pub(crate) fn start_at(&mut self, key: PartitionKey, start: Offset) {
        let groups = self.slots.range_mut(range_of(key));
        groups.for_each(|(_, group)| group.backlog.skip_to(start));
    }

    /// The groups of a partition.
    pub(crate) fn of(&self, key: PartitionKey) -> impl Iterator<Item = (&Slot, &QueueGroup)> {
        self.slots.range(range_of(key))
    }

    /// The lease clock moves on.
    pub(crate) fn pass_to(&mut self, now_ms: u64) {
        self.clock_ms = self.clock_ms.max(now_ms);
    }

    /// Does what is wanted of a stream group.
    pub(crate) fn apply_stream(&mut self, op: &StreamOp) -> StreamOutcome {
        let outcome = self.streams.apply(op, self.clock_ms);
        self.digest = streams::digest(self.digest, op.group, &outcome);
        outcome
    }

    /// Does what is wanted of a queue group.
    pub(crate) fn apply(&mut self, state: &State, log_time_ms: i64, op: &Op) -> Outcome {
        if let What::Cancel(_) | What::Reschedule(_) = op.what {
            let outcome = self.change_delays(op);
            self.digest = digest(self.digest, op.slot, &outcome);
            return outcome;
        }
        let now_ms = self.clock_ms;
        let bounds = state.partitions.get(&op.slot.key).map(|p| (p.start_offset, p.next_offset));
        let (Some(group), Some(bounds)) = (self.slots.get_mut(&op.slot), bounds) else {
            return Outcome::UnknownGroup;
        };
        let outcome = group.apply(&op.what, bounds, now_ms, log_time_ms);
        self.digest = digest(self.digest, op.slot, &outcome);
        if let What::LeaseWanted { .. } | What::LeaseChosen { .. } = op.what {
            // What was settled or passed over beside the leases.
            let fresh = group.backlog.fresh().0.to_le_bytes();
            self.digest = crc32c_append(self.digest, &fresh);
        }
        outcome
    }
}

impl QueueGroup {
    /// A group of these settings.
    pub(crate) fn new(config: GroupConfig, mut backlog: Backlog) -> Self {
        backlog.set_ordered(config.policy.order == Order::Key);
        Self { config, backlog }
    }

    fn apply(
        &mut self,
        what: &What,
        (start, end): (Offset, Offset),
        now_ms: u64,
        log_time_ms: i64,
    ) -> Outcome {
        let Self { config: GroupConfig { policy, revision: own }, backlog } = self;
        let want = |count_max: u32, visibility_ms: u64| {
            let count_max = usize::try_from(count_max.min(LEASE_MAX)).unwrap_or(0);
            let log_time_ms = u64::try_from(log_time_ms).unwrap_or(0);
            let visibility_ms = visibility_ms.saturating_add(ROUNDING_MS);
            Want { now_ms, log_time_ms, end, count_max, visibility_ms }
        };
        match what {
            What::Lease { count_max, visibility_ms } => {
                // By an order that was changed meanwhile nobody has chosen.
                let count_max = if policy.order == Order::Key { 0 } else { *count_max };
                Outcome::Leased(backlog.lease(&want(count_max, *visibility_ms)))
            }
            What::LeaseWanted { count_max, visibility_ms, revision, found } => {
                let count_max = if policy.order == Order::Key { 0 } else { *count_max };
                let want = want(count_max, *visibility_ms);
                Outcome::Leased(match revision == own {
                    true => backlog.lease_wanted(&want, found),
                    // The filter may be another one by now: what came back was wanted once.
                    false => backlog.lease_wanted(&want, &Selection::empty(backlog.fresh())),
                })
            }
            What::LeaseChosen { visibility_ms, rewinds, from: _, chosen } => {
                let is_theirs = policy.order == Order::Key && backlog.rewinds() == *rewinds;
                let chosen = if is_theirs { chosen.as_slice() } else { &[] };
                Outcome::Leased(backlog.lease_chosen(&want(LEASE_MAX, *visibility_ms), chosen))
            }
            What::Ack(_) | What::Nack(_) | What::Extend(_) | What::Release(_) | What::Expire(_) => {
                Outcome::Settled(settle(backlog, policy, what, now_ms))
            }
            What::PassTime(chunks) => {
                // Wrong when planted: a lease ends a second before its time.
                let early_ms = if planted("broker-lease-ends-early") { 1_000 } else { 0 };
                backlog.pass_time(chunks, now_ms.saturating_add(early_ms), policy);
                Outcome::Done
            }
            What::Depart { .. }
            | What::GiveUp(_)
            | What::Renumber { .. }
            | What::Arrived { .. } => {
                bury(backlog, what);
                Outcome::Done
            }
            What::Rewind { to } => {
                backlog.rewind((*to).max(start));
                Outcome::Done
            }
            What::Skip { to } => {
                backlog.skip_to((*to).min(end));
                Outcome::Done
            }
            What::Cancel(_) | What::Reschedule(_) | What::Claim(_) => {
                unreachable!("delayed records and producers are of no group")
            }
        }
    }
}

/// A step on the way of dead letters.
fn bury(backlog: &mut Backlog, what: &What) {
    match what {
        What::Depart { count_max } => backlog.depart(usize::try_from(*count_max).unwrap_or(0)),
        What::GiveUp(lost) => backlog.give_up(lost),
        What::Renumber { from, to } => backlog.renumber(*from, *to),
        What::Arrived { producer, first, count } => {
            backlog.arrived(*producer, *first, usize::try_from(*count).unwrap_or(0));
        }
        _ => unreachable!("only what leads to a dead-letter topic"),
    }
}

/// What becomes of leases; an answer for each.
fn settle(
    backlog: &mut Backlog,
    policy: &Policy,
    what: &What,
    now_ms: u64,
) -> Vec<Result<(), ReceiptError>> {
    match what {
        What::Ack(receipts) => {
            let ack = |receipt: &Receipt| backlog.ack(*receipt, now_ms);
            receipts.iter().map(ack).collect()
        }
        What::Nack(receipts) => {
            let nack = |(receipt, delay_ms): &(Receipt, Option<u64>)| {
                // Wrong when planted: whoever gives a record back for a while gets it again.
                let at_once = planted("broker-delay-forgotten").then_some(0);
                backlog.nack(*receipt, at_once.or(*delay_ms), now_ms, policy)
            };
            receipts.iter().map(nack).collect()
        }
        What::Extend(receipts) => {
            let extend = |(receipt, visibility_ms): &(Receipt, u64)| {
                if planted("broker-extension-forgotten") {
                    // Wrong: the consumer takes its time, and somebody else has the record.
                    return Ok(());
                }
                backlog.extend(*receipt, visibility_ms.saturating_add(ROUNDING_MS), now_ms)
            };
            receipts.iter().map(extend).collect()
        }
        What::Release(receipts) => {
            let release = |receipt: &Receipt| match planted("broker-unsent-record-settled") {
                // Wrong: what did not fit into an answer counts as done.
                true => backlog.ack(*receipt, now_ms),
                false => backlog.release(*receipt, now_ms),
            };
            receipts.iter().map(release).collect()
        }
        What::Expire(receipts) => {
            // Wrong when planted: what is too old is gone, though there is a dead-letter topic.
            let buries = policy.buries && !planted("broker-old-records-gone");
            let expire = |receipt: &Receipt| backlog.expire(*receipt, now_ms, buries);
            receipts.iter().map(expire).collect()
        }
        _ => Vec::new(),
    }
}

fn range_of(key: PartitionKey) -> std::ops::RangeInclusive<Slot> {
    Slot { key, group: GroupId(0) }..=Slot { key, group: GroupId(u64::MAX) }
}

fn digest(before: u32, slot: Slot, outcome: &Outcome) -> u32 {
    let digest = crc32c_append(before, &slot.group.0.to_le_bytes());
    match outcome {
        Outcome::Leased(leased) => leased.iter().fold(digest, |digest, one| {
            let digest = crc32c_append(digest, &one.receipt.offset.0.to_le_bytes());
            crc32c_append(digest, &one.until_ms.to_le_bytes())
        }),
        Outcome::Settled(results) => results
            .iter()
            .fold(digest, |digest, one| crc32c_append(digest, &[u8::from(one.is_ok())])),
        Outcome::Changed(results) => results
            .iter()
            .fold(digest, |digest, one| crc32c_append(digest, &[u8::from(one.is_ok())])),
        Outcome::Claimed(result) => crc32c_append(digest, &[u8::from(result.is_ok())]),
        Outcome::Done | Outcome::UnknownGroup => digest,
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::panic, reason = "tests fail by panicking")]
    #![allow(clippy::indexing_slicing, reason = "tests fail by panicking")]

    use super::super::decide::BatchRow;
    use super::super::partition::PartitionConfig;
    use super::*;
    use barrage_model::{PartitionId, Retention, TopicId, TopicOrder};

    fn slot(partition: u32, group: u64) -> Slot {
        let key = PartitionKey { topic: TopicId(1), partition: PartitionId(partition) };
        Slot { key, group: GroupId(group) }
    }

    fn open(slot: Slot, revision: u64, at_end: bool) -> OpenGroup {
        OpenGroup { slot, config: GroupConfig { policy: Policy::default(), revision }, at_end }
    }

    fn state() -> State {
        let mut state = State::default();
        for partition in 0..2 {
            let key = slot(partition, 1).key;
            state.open(
                key,
                PartitionConfig {
                    retention: Retention::DEFAULT,
                    order: TopicOrder::Partition,
                    revision: 1,
                },
            );
            state.accept(key, &BatchRow { record_count: 10, producer: None }, 0);
        }
        state
    }

    fn lease(groups: &mut Groups, state: &State, slot: Slot, count_max: u32) -> Vec<Leased> {
        let what = What::Lease { count_max, visibility_ms: 30_000 };
        match groups.apply(state, 77, &Op { slot, what }) {
            Outcome::Leased(leased) => leased,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn groups_of_a_partition_know_nothing_of_each_other() {
        let (mut groups, mut state) = (Groups::default(), state());
        let (one, two) = (slot(0, 1), slot(0, 2));
        groups.open(&state, &[open(one, 1, false), open(two, 1, true), open(slot(9, 1), 1, false)]);
        assert_eq!(groups.slots.len(), 2);
        let first = lease(&mut groups, &state, one, 3);
        assert_eq!((first.len(), first[0].first_ms), (3, 77));
        assert_eq!(lease(&mut groups, &state, two, 3), []);
        state.accept(one.key, &BatchRow { record_count: 1, producer: None }, 0);
        assert_eq!(lease(&mut groups, &state, two, 3)[0].receipt.offset, Offset(10));
        let acked =
            groups.apply(&state, 0, &Op { slot: two, what: What::Ack(vec![first[0].receipt]) });
        assert_eq!(acked, Outcome::Settled(vec![Err(ReceiptError::Settled)]));
        groups.start_at(one.key, Offset(2));
        let receipts = first.iter().map(|leased| leased.receipt).collect();
        let acked = groups.apply(&state, 0, &Op { slot: one, what: What::Ack(receipts) });
        let gone = || Err(ReceiptError::Settled);
        assert_eq!(acked, Outcome::Settled(vec![gone(), gone(), Ok(())]));
        groups.close_partition(one.key);
        let unknown = groups.apply(&state, 0, &Op { slot: one, what: What::Ack(Vec::new()) });
        assert_eq!((unknown, groups.slots.len()), (Outcome::UnknownGroup, 0));
    }

    /// A filter that was changed meanwhile may let other records through.
    #[test]
    fn what_was_found_by_other_settings_does_not_count() {
        let (mut groups, state) = (Groups::default(), state());
        groups.open(&state, &[open(slot(0, 1), 3, false)]);
        let mut found = Selection::empty(Offset(0));
        found.pass(4);
        found.want(1);
        let mut lease = |revision| {
            let (count_max, visibility_ms, found) = (9, 30_000, found.clone());
            let what = What::LeaseWanted { count_max, visibility_ms, revision, found };
            let before = groups.digest;
            let outcome = groups.apply(&state, 0, &Op { slot: slot(0, 1), what });
            let Outcome::Leased(leased) = outcome else { panic!("{outcome:?}") };
            assert_ne!(groups.digest, before);
            let offsets: Vec<u64> = leased.iter().map(|one| one.receipt.offset.0).collect();
            (offsets, groups.slots[&slot(0, 1)].backlog.start().0)
        };
        assert_eq!(lease(2), (vec![], 0));
        assert_eq!(lease(4), (vec![], 0));
        assert_eq!(lease(3), (vec![4], 4));
        assert_eq!(lease(3), (vec![], 4), "once");
    }

    fn choose(groups: &mut Groups, state: &State, rewinds: u32, chosen: &[u64]) -> Vec<u64> {
        let chosen = chosen.iter().copied().map(Offset).collect();
        let from = Offset(0);
        let what = What::LeaseChosen { visibility_ms: 30_000, rewinds, from, chosen };
        match groups.apply(state, 0, &Op { slot: slot(0, 1), what }) {
            Outcome::Leased(leased) => leased.iter().map(|one| one.receipt.offset.0).collect(),
            other => panic!("{other:?}"),
        }
    }

    /// What was chosen before a rewind may come after what is to be delivered again.
    #[test]
    fn an_ordered_group_leases_what_was_chosen_and_nothing_else() {
        let (mut groups, state) = (Groups::default(), state());
        let mut ordered = open(slot(0, 1), 1, false);
        ordered.config.policy.order = Order::Key;
        groups.open(&state, &[ordered]);
        assert_eq!(lease(&mut groups, &state, slot(0, 1), 3), [], "nobody has chosen");
        assert_eq!(choose(&mut groups, &state, 0, &[2, 5]), [2, 5]);
        let some = choose(&mut groups, &state, 0, &[1, 2, 4, 99]);
        assert_eq!(some, [1, 4], "2 is leased, 99 is not there");
        let what = What::Rewind { to: Offset(3) };
        assert_eq!(groups.apply(&state, 0, &Op { slot: slot(0, 1), what }), Outcome::Done);
        let none: [u64; 0] = [];
        assert_eq!(choose(&mut groups, &state, 0, &[7]), none, "chosen before the rewind");
        assert_eq!(choose(&mut groups, &state, 1, &[3, 7]), [3, 7]);
        assert_eq!(groups.slots[&slot(0, 1)].backlog.fresh(), Offset(8));
    }

    #[test]
    fn settings_go_by_revision() {
        let (mut groups, state) = (Groups::default(), state());
        let mut newer = open(slot(0, 1), 3, false);
        newer.config.policy.deliveries_max = Some(5);
        for wanted in [open(slot(0, 1), 2, false), newer.clone(), open(slot(0, 1), 2, false)] {
            groups.open(&state, &[wanted]);
        }
        assert_eq!(groups.slots[&slot(0, 1)].config, newer.config);
    }

    #[test]
    fn the_lease_clock_never_falls_and_skips_and_rewinds_are_bounded() {
        let (mut groups, state) = (Groups::default(), state());
        groups.open(&state, &[open(slot(0, 1), 1, false)]);
        groups.pass_to(500);
        groups.pass_to(400);
        assert_eq!(lease(&mut groups, &state, slot(0, 1), 1)[0].until_ms, 30_501);
        let skip = What::Skip { to: Offset(99) };
        assert_eq!(groups.apply(&state, 0, &Op { slot: slot(0, 1), what: skip }), Outcome::Done);
        assert_eq!(groups.slots[&slot(0, 1)].backlog.start(), Offset(10));
    }
}
