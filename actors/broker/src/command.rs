//! The commands of a data shard, and their bytes.
//!
//! Owns: the command enum and its rkyv form, version 3, inside `barrage_cluster::format`'s
//! envelope.
//! Must never: hold payload; batches travel beside the command, in the entry's runs, in the same
//! order.
//! Invariants: variants of `CommandV1` are only ever appended, and none is larger than the largest
//! before it; a golden test holds the layout still.

pub(crate) mod streams;

use std::ops::Range;
use std::rc::Rc;

use barrage_cluster::format::backoff::BackoffV1;
use barrage_cluster::format::retention::RetentionV1;
use barrage_cluster::format::{self, FormatError, Kind};
use barrage_model::group::Order;
use barrage_model::{
    GroupId, Offset, PartitionId, PartitionKey, ProducerEpoch, ProducerId, Sequence, TopicId,
    TopicOrder,
};
use rkyv::{Archive, Deserialize, Serialize};

use crate::api::claim::{Claim, ClaimKind};
use crate::queue::backlog::{Policy, Receipt};
use crate::queue::departures::Numbering;
use crate::queue::filter::StoredFilter;
use crate::queue::selection::Selection;
use crate::shard::decide::BatchRow;
use crate::shard::groups::{GroupConfig, Op, OpenGroup, Slot, What};
use crate::shard::partition::PartitionConfig;
use crate::shard::producers::ProducerStamp;
use crate::shard::streams::{OpenStream, StreamOp};

use self::streams::{OpenStreamV1, StreamOpV1};

const VERSION: u8 = 4;

/// A change of a data shard.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Command {
    /// Appends the entry's runs.
    Produce {
        /// Batches per run, in the order of the runs.
        batch_counts: Vec<u32>,
        /// The batches of all runs, in order.
        rows: Vec<BatchRow>,
    },
    /// Appends the entry's runs, of which some are delayed records, or such as are due.
    ProduceDelayed(Box<DelayedRuns>),
    /// Opens partitions; one that is open takes over newer settings.
    Open { partitions: Vec<(PartitionKey, PartitionConfig)> },
    /// Newer settings for open partitions.
    Configure { partitions: Vec<(PartitionKey, PartitionConfig)> },
    /// Closes partitions and gives up their records.
    Close { partitions: Vec<PartitionKey> },
    /// Gives up the records below these offsets.
    AdvanceStart { starts: Vec<(PartitionKey, Offset)> },
    /// Every replica takes the hash of its state, and compares the one it took at `index`.
    Compare { index: u64, hash: u64 },
    /// Opens queue groups; one that is open takes over newer settings.
    OpenGroups { groups: Vec<OpenGroup> },
    /// Closes queue groups and forgets what they have leased and settled.
    CloseGroups { slots: Vec<Slot> },
    /// What is closed next is so in the catalog of this revision: no older one counts from here on.
    Follow { revision: u64 },
    /// The lease clock moves to `now_ms`, and groups do what is wanted of them, in order.
    Queue { now_ms: u64, ops: Vec<Op> },
    /// Opens stream groups; one that is open takes over newer topics and sizes.
    OpenStreams { streams: Vec<OpenStream> },
    /// Closes stream groups and forgets their members and offsets.
    CloseStreams { groups: Vec<GroupId> },
    /// The lease clock moves to `now_ms`, and stream groups do what is wanted of them, in order.
    Streams { now_ms: u64, ops: Vec<StreamOp> },
}

/// Runs of which some are of a delay store, or hold records from one.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct DelayedRuns {
    /// Batches per run, in the order of the runs.
    pub(crate) batch_counts: Vec<u32>,
    /// The batches of all runs, in order.
    pub(crate) rows: Vec<BatchRow>,
    /// Until when the records of the runs of delay stores wait, milliseconds since 1970, in order.
    pub(crate) dues_ms: Vec<u64>,
    /// Which delayed records a run brings into its partition, ascending; by run.
    pub(crate) released: Vec<(u32, Vec<Offset>)>,
    /// What the leader's clock said, milliseconds since 1970: what is not due by it stays.
    pub(crate) clock_ms: u64,
}

#[derive(Archive, Serialize, Deserialize)]
enum CommandV1 {
    Produce { batch_counts: Vec<u32>, rows: Vec<RowV1> },
    Open { partitions: Vec<PartitionV1> },
    Configure { partitions: Vec<PartitionV1> },
    Close { partitions: Vec<(u64, u32)> },
    AdvanceStart { starts: Vec<(u64, u32, u64)> },
    Compare { index: u64, hash: u64 },
    OpenGroups { groups: Vec<GroupV1> },
    CloseGroups { slots: Vec<(u64, u32, u64)> },
    Queue { now_ms: u64, ops: Vec<OpV1> },
    Follow { revision: u64 },
    OpenStreams { streams: Vec<OpenStreamV1> },
    CloseStreams { groups: Vec<u64> },
    Streams { now_ms: u64, ops: Vec<StreamOpV1> },
    ProduceDelayed(Box<DelayedRunsV1>),
}

#[derive(Archive, Serialize, Deserialize)]
struct DelayedRunsV1 {
    batch_counts: Vec<u32>,
    rows: Vec<RowV1>,
    dues_ms: Vec<u64>,
    released: Vec<(u32, Vec<u64>)>,
    clock_ms: u64,
}

/// A command's root lies at the end of its bytes: a larger one would move, and no older command
/// could be read. So what a new variant has beyond this goes into a box or a list.
const _: () = assert!(size_of::<ArchivedCommandV1>() == 17);

#[derive(Archive, Serialize, Deserialize)]
struct GroupV1 {
    slot: (u64, u32, u64),
    policy: PolicyV1,
    revision: u64,
    at_end: bool,
}

/// What a group wants and does with records that come back, here and in checkpoints.
#[derive(Archive, Serialize, Deserialize)]
pub(crate) struct PolicyV1 {
    deliveries_max: Option<u16>,
    max_age_ms: Option<u64>,
    buries: bool,
    backoff: BackoffV1,
    filter: Option<String>,
    by_key: bool,
}

#[derive(Archive, Serialize, Deserialize)]
struct OpV1 {
    slot: (u64, u32, u64),
    what: WhatV1,
}

/// Producers are -1 where there is none.
#[derive(Archive, Serialize, Deserialize)]
struct RenumberV1 {
    /// Producer and sequence.
    from: (i64, i32),
    producer: i64,
    into: (u64, u32),
}

/// Receipts are offset and tag.
#[derive(Archive, Serialize, Deserialize)]
enum WhatV1 {
    Lease { count_max: u32, visibility_ms: u64 },
    Ack(Vec<(u64, u32)>),
    Nack(Vec<(u64, u32, Option<u64>)>),
    Extend(Vec<(u64, u32, u64)>),
    Release(Vec<(u64, u32)>),
    PassTime(Vec<u64>),
    Depart { count_max: u32 },
    Renumber(Box<RenumberV1>),
    GiveUp(Vec<u64>),
    Arrived { producer: i64, first: i32, count: u32 },
    Rewind { to: u64 },
    Skip { to: u64 },
    LeaseWanted(Box<LeaseWantedV1>),
    LeaseChosen(Box<LeaseChosenV1>),
    Cancel(Vec<u64>),
    Reschedule(Vec<(u64, u64)>),
    Expire(Vec<(u64, u32)>),
    Claim(Box<ClaimV1>),
}

/// The kind: 0 hold, 1 take over, 2 release, 3 keep.
#[derive(Archive, Serialize, Deserialize)]
struct ClaimV1 {
    producer: i64,
    kind: u8,
    session_ms: u32,
}

/// What was looked at, `from..end`; first record and count of each range that is wanted.
#[derive(Archive, Serialize, Deserialize)]
struct LeaseWantedV1 {
    count_max: u32,
    visibility_ms: u64,
    revision: u64,
    from: u64,
    end: u64,
    wanted: Vec<(u64, u32)>,
}

#[derive(Archive, Serialize, Deserialize)]
struct LeaseChosenV1 {
    visibility_ms: u64,
    rewinds: u32,
    from: u64,
    chosen: Vec<u64>,
}

/// As for the command itself: an operation does not grow.
const _: () = assert!(size_of::<ArchivedWhatV1>() == 17);

/// Producer -1 stands for none.
#[derive(Archive, Serialize, Deserialize)]
struct RowV1 {
    record_count: u32,
    producer: i64,
    epoch: i16,
    sequence: i32,
}

#[derive(Archive, Serialize, Deserialize)]
struct PartitionV1 {
    topic: u64,
    partition: u32,
    retention: RetentionV1,
    is_global: bool,
    revision: u64,
}

impl Command {
    /// The command as bytes.
    pub(crate) fn encode(&self) -> Vec<u8> {
        let opened = |partitions: &[_]| partitions.iter().map(store_partition).collect();
        let stored = match self {
            Self::Produce { batch_counts, rows } => CommandV1::Produce {
                batch_counts: batch_counts.clone(),
                rows: rows.iter().map(store_row).collect(),
            },
            Self::ProduceDelayed(runs) => CommandV1::ProduceDelayed(Box::new(store_runs(runs))),
            Self::Open { partitions } => CommandV1::Open { partitions: opened(partitions) },
            Self::Configure { partitions } => {
                CommandV1::Configure { partitions: opened(partitions) }
            }
            Self::Close { partitions } => CommandV1::Close {
                partitions: partitions.iter().map(|key| (key.topic.0, key.partition.0)).collect(),
            },
            Self::Compare { index, hash } => CommandV1::Compare { index: *index, hash: *hash },
            Self::OpenGroups { groups } => {
                CommandV1::OpenGroups { groups: groups.iter().map(store_group).collect() }
            }
            Self::CloseGroups { slots } => {
                CommandV1::CloseGroups { slots: slots.iter().map(store_slot).collect() }
            }
            Self::Follow { revision } => CommandV1::Follow { revision: *revision },
            Self::Queue { now_ms, ops } => {
                CommandV1::Queue { now_ms: *now_ms, ops: ops.iter().map(store_op).collect() }
            }
            Self::OpenStreams { streams } => CommandV1::OpenStreams {
                streams: streams.iter().map(streams::store_open).collect(),
            },
            Self::CloseStreams { groups } => {
                CommandV1::CloseStreams { groups: groups.iter().map(|group| group.0).collect() }
            }
            Self::Streams { now_ms, ops } => {
                let ops = ops.iter().map(streams::store_op).collect();
                CommandV1::Streams { now_ms: *now_ms, ops }
            }
            Self::AdvanceStart { starts } => CommandV1::AdvanceStart {
                starts: starts
                    .iter()
                    .map(|(key, start)| (key.topic.0, key.partition.0, start.0))
                    .collect(),
            },
        };
        format::seal(Kind::ShardCommand, VERSION, &stored)
    }

    /// The command in `bytes`.
    pub(crate) fn decode(bytes: &[u8]) -> Result<Self, FormatError> {
        let (version, payload) = format::open(Kind::ShardCommand, bytes)?;
        if version != VERSION {
            return Err(FormatError::Version { found: version });
        }
        let opened = |stored: Vec<_>| stored.into_iter().map(load_partition).collect();
        Ok(match format::decode::<CommandV1>(payload)? {
            CommandV1::Produce { batch_counts, rows } => {
                Self::Produce { batch_counts, rows: rows.into_iter().map(load_row).collect() }
            }
            CommandV1::ProduceDelayed(runs) => Self::ProduceDelayed(Box::new(load_runs(*runs))),
            CommandV1::Open { partitions } => Self::Open { partitions: opened(partitions) },
            CommandV1::Configure { partitions } => {
                Self::Configure { partitions: opened(partitions) }
            }
            CommandV1::Close { partitions } => Self::Close {
                partitions: partitions
                    .into_iter()
                    .map(|(topic, number)| key(topic, number))
                    .collect(),
            },
            CommandV1::Compare { index, hash } => Self::Compare { index, hash },
            CommandV1::OpenGroups { groups } => {
                Self::OpenGroups { groups: groups.into_iter().map(load_group).collect() }
            }
            CommandV1::CloseGroups { slots } => {
                Self::CloseGroups { slots: slots.into_iter().map(load_slot).collect() }
            }
            CommandV1::Follow { revision } => Self::Follow { revision },
            CommandV1::Queue { now_ms, ops } => {
                let ops: Option<_> = ops.into_iter().map(load_op).collect();
                Self::Queue { now_ms, ops: ops.ok_or(FormatError::Content)? }
            }
            CommandV1::OpenStreams { streams } => {
                Self::OpenStreams { streams: streams.into_iter().map(streams::load_open).collect() }
            }
            CommandV1::CloseStreams { groups } => {
                Self::CloseStreams { groups: groups.into_iter().map(GroupId).collect() }
            }
            CommandV1::Streams { now_ms, ops } => {
                let ops: Option<_> = ops.into_iter().map(streams::load_op).collect();
                Self::Streams { now_ms, ops: ops.ok_or(FormatError::Content)? }
            }
            CommandV1::AdvanceStart { starts } => Self::AdvanceStart {
                starts: starts
                    .into_iter()
                    .map(|(topic, number, start)| (key(topic, number), Offset(start)))
                    .collect(),
            },
        })
    }
}

fn store_runs(runs: &DelayedRuns) -> DelayedRunsV1 {
    let ids = |ids: &[Offset]| ids.iter().map(|id| id.0).collect();
    DelayedRunsV1 {
        batch_counts: runs.batch_counts.clone(),
        rows: runs.rows.iter().map(store_row).collect(),
        dues_ms: runs.dues_ms.clone(),
        released: runs.released.iter().map(|(run, list)| (*run, ids(list))).collect(),
        clock_ms: runs.clock_ms,
    }
}

fn load_runs(stored: DelayedRunsV1) -> DelayedRuns {
    let DelayedRunsV1 { batch_counts, rows, dues_ms, released, clock_ms } = stored;
    let ids = |ids: Vec<u64>| ids.into_iter().map(Offset).collect();
    DelayedRuns {
        batch_counts,
        rows: rows.into_iter().map(load_row).collect(),
        dues_ms,
        released: released.into_iter().map(|(run, list)| (run, ids(list))).collect(),
        clock_ms,
    }
}

fn key(topic: u64, partition: u32) -> PartitionKey {
    PartitionKey { topic: TopicId(topic), partition: PartitionId(partition) }
}

fn store_slot(slot: &Slot) -> (u64, u32, u64) {
    (slot.key.topic.0, slot.key.partition.0, slot.group.0)
}

fn load_slot((topic, partition, group): (u64, u32, u64)) -> Slot {
    Slot { key: key(topic, partition), group: GroupId(group) }
}

pub(crate) fn store_policy(policy: &Policy) -> PolicyV1 {
    let Policy { deliveries_max, max_age_ms, buries, backoff, filter, order } = policy.clone();
    let filter = filter.map(|filter| filter.line().to_owned());
    let (backoff, by_key) = (backoff.into(), order == Order::Key);
    PolicyV1 { deliveries_max, max_age_ms, buries, backoff, filter, by_key }
}

pub(crate) fn load_policy(stored: PolicyV1) -> Policy {
    let PolicyV1 { deliveries_max, max_age_ms, buries, backoff, filter, by_key } = stored;
    let filter = filter.map(|line| Rc::new(StoredFilter::new(line)));
    let order = if by_key { Order::Key } else { Order::None };
    Policy { deliveries_max, max_age_ms, buries, backoff: backoff.into(), filter, order }
}

fn store_group(wanted: &OpenGroup) -> GroupV1 {
    let OpenGroup { slot, config, at_end } = wanted;
    let (slot, policy) = (store_slot(slot), store_policy(&config.policy));
    GroupV1 { slot, policy, revision: config.revision, at_end: *at_end }
}

fn load_group(stored: GroupV1) -> OpenGroup {
    let (policy, revision) = (load_policy(stored.policy), stored.revision);
    let config = GroupConfig { policy, revision };
    OpenGroup { slot: load_slot(stored.slot), config, at_end: stored.at_end }
}

fn store_op(op: &Op) -> OpV1 {
    let pair = |receipt: &Receipt| (receipt.offset.0, receipt.tag);
    let pairs = |receipts: &[Receipt]| receipts.iter().map(pair).collect();
    let what = match &op.what {
        What::Lease { count_max, visibility_ms } => {
            WhatV1::Lease { count_max: *count_max, visibility_ms: *visibility_ms }
        }
        What::LeaseWanted { count_max, visibility_ms, revision, found } => {
            let count = |range: &Range<Offset>| range.end.0 - range.start.0;
            let short = |range: &Range<Offset>| u32::try_from(count(range)).unwrap_or(u32::MAX);
            WhatV1::LeaseWanted(Box::new(LeaseWantedV1 {
                count_max: *count_max,
                visibility_ms: *visibility_ms,
                revision: *revision,
                from: found.from().0,
                end: found.end().0,
                wanted: found.wanted().map(|range| (range.start.0, short(range))).collect(),
            }))
        }
        What::LeaseChosen { visibility_ms, rewinds, from, chosen } => {
            let chosen = chosen.iter().map(|offset| offset.0).collect();
            let (visibility_ms, rewinds, from) = (*visibility_ms, *rewinds, from.0);
            WhatV1::LeaseChosen(Box::new(LeaseChosenV1 { visibility_ms, rewinds, from, chosen }))
        }
        What::Ack(receipts) => WhatV1::Ack(pairs(receipts)),
        What::Nack(receipts) => {
            let store = |(r, delay_ms): &(Receipt, Option<u64>)| (r.offset.0, r.tag, *delay_ms);
            WhatV1::Nack(receipts.iter().map(store).collect())
        }
        What::Extend(receipts) => {
            let store = |(r, visibility_ms): &(Receipt, u64)| (r.offset.0, r.tag, *visibility_ms);
            WhatV1::Extend(receipts.iter().map(store).collect())
        }
        What::Release(receipts) => WhatV1::Release(pairs(receipts)),
        What::Expire(receipts) => WhatV1::Expire(pairs(receipts)),
        What::PassTime(chunks) => WhatV1::PassTime(chunks.clone()),
        What::Depart { count_max } => WhatV1::Depart { count_max: *count_max },
        What::GiveUp(lost) => WhatV1::GiveUp(lost.iter().map(|at| at.0).collect()),
        What::Renumber { from: (before, first), to } => WhatV1::Renumber(Box::new(RenumberV1 {
            from: (before.unwrap_or(ProducerId::NONE).0, first.0),
            producer: to.producer.0,
            into: (to.into.topic.0, to.into.partition.0),
        })),
        What::Arrived { producer, first, count } => {
            WhatV1::Arrived { producer: producer.0, first: first.0, count: *count }
        }
        What::Rewind { to } => WhatV1::Rewind { to: to.0 },
        What::Skip { to } => WhatV1::Skip { to: to.0 },
        What::Claim(claim) => WhatV1::Claim(Box::new(store_claim(**claim))),
        What::Cancel(ids) => WhatV1::Cancel(ids.iter().map(|id| id.0).collect()),
        What::Reschedule(all) => {
            WhatV1::Reschedule(all.iter().map(|(id, due_ms)| (id.0, *due_ms)).collect())
        }
    };
    OpV1 { slot: store_slot(&op.slot), what }
}

/// None of what nobody can have meant: a selection that nobody can have found, no producer.
fn load_op(stored: OpV1) -> Option<Op> {
    let receipt = |offset, tag| Receipt { offset: Offset(offset), tag };
    let receipts =
        |pairs: Vec<_>| pairs.into_iter().map(|(offset, tag)| receipt(offset, tag)).collect();
    let what = match stored.what {
        WhatV1::Lease { count_max, visibility_ms } => What::Lease { count_max, visibility_ms },
        WhatV1::LeaseWanted(stored) => load_lease_wanted(*stored)?,
        WhatV1::LeaseChosen(stored) => {
            let LeaseChosenV1 { visibility_ms, rewinds, from, chosen } = *stored;
            let chosen = chosen.into_iter().map(Offset).collect();
            What::LeaseChosen { visibility_ms, rewinds, from: Offset(from), chosen }
        }
        WhatV1::Ack(pairs) => What::Ack(receipts(pairs)),
        WhatV1::Nack(all) => {
            let load = |(offset, tag, delay_ms)| (receipt(offset, tag), delay_ms);
            What::Nack(all.into_iter().map(load).collect())
        }
        WhatV1::Extend(all) => {
            let load = |(offset, tag, visibility_ms)| (receipt(offset, tag), visibility_ms);
            What::Extend(all.into_iter().map(load).collect())
        }
        WhatV1::Release(pairs) => What::Release(receipts(pairs)),
        WhatV1::Expire(pairs) => What::Expire(receipts(pairs)),
        WhatV1::Claim(claim) => What::Claim(Box::new(load_claim(&claim)?)),
        WhatV1::PassTime(chunks) => What::PassTime(chunks),
        WhatV1::Depart { count_max } => What::Depart { count_max },
        WhatV1::GiveUp(lost) => What::GiveUp(lost.into_iter().map(Offset).collect()),
        WhatV1::Renumber(stored) => {
            let RenumberV1 { from: (before, first), producer, into: (topic, partition) } = *stored;
            let some = |id| Some(ProducerId(id)).filter(|producer| producer.is_some());
            // Nobody's batches are numbered by no producer.
            let to = Numbering { producer: some(producer)?, into: key(topic, partition) };
            What::Renumber { from: (some(before), Sequence(first)), to }
        }
        WhatV1::Arrived { producer, first, count } => {
            What::Arrived { producer: ProducerId(producer), first: Sequence(first), count }
        }
        WhatV1::Rewind { to } => What::Rewind { to: Offset(to) },
        WhatV1::Skip { to } => What::Skip { to: Offset(to) },
        WhatV1::Cancel(ids) => What::Cancel(ids.into_iter().map(Offset).collect()),
        WhatV1::Reschedule(all) => {
            What::Reschedule(all.into_iter().map(|(id, due_ms)| (Offset(id), due_ms)).collect())
        }
    };
    Some(Op { slot: load_slot(stored.slot), what })
}

fn load_lease_wanted(stored: LeaseWantedV1) -> Option<What> {
    let LeaseWantedV1 { count_max, visibility_ms, revision, from, end, wanted } = stored;
    let range =
        |(first, count): (u64, u32)| Offset(first)..Offset(first.saturating_add(u64::from(count)));
    let wanted = wanted.into_iter().map(range);
    let found = Selection::restore((Offset(from), Offset(end)), wanted)?;
    Some(What::LeaseWanted { count_max, visibility_ms, revision, found })
}

fn store_row(row: &BatchRow) -> RowV1 {
    let none = ProducerStamp {
        id: ProducerId::NONE,
        epoch: ProducerEpoch::NONE,
        sequence: Sequence::NONE,
    };
    let stamp = row.producer.unwrap_or(none);
    RowV1 {
        record_count: row.record_count,
        producer: stamp.id.0,
        epoch: stamp.epoch.0,
        sequence: stamp.sequence.0,
    }
}

fn load_row(stored: RowV1) -> BatchRow {
    let stamp = ProducerStamp {
        id: ProducerId(stored.producer),
        epoch: ProducerEpoch(stored.epoch),
        sequence: Sequence(stored.sequence),
    };
    BatchRow {
        record_count: stored.record_count,
        producer: Some(stamp).filter(|stamp| stamp.id.is_some()),
    }
}

fn store_claim(claim: Claim) -> ClaimV1 {
    let Claim { producer, kind, session_ms } = claim;
    let kind = match kind {
        ClaimKind::Hold => 0,
        ClaimKind::TakeOver => 1,
        ClaimKind::Release => 2,
        ClaimKind::Keep => 3,
    };
    ClaimV1 { producer: producer.0, kind, session_ms }
}

fn load_claim(stored: &ClaimV1) -> Option<Claim> {
    let kind = match stored.kind {
        0 => ClaimKind::Hold,
        1 => ClaimKind::TakeOver,
        2 => ClaimKind::Release,
        3 => ClaimKind::Keep,
        _ => return None,
    };
    // Nobody claims anything under no id.
    let producer = Some(ProducerId(stored.producer)).filter(|producer| producer.is_some())?;
    Some(Claim { producer, kind, session_ms: stored.session_ms })
}

fn store_partition((key, config): &(PartitionKey, PartitionConfig)) -> PartitionV1 {
    PartitionV1 {
        topic: key.topic.0,
        partition: key.partition.0,
        retention: config.retention.into(),
        is_global: config.order.is_global(),
        revision: config.revision,
    }
}

fn load_partition(stored: PartitionV1) -> (PartitionKey, PartitionConfig) {
    let config = PartitionConfig {
        retention: stored.retention.into(),
        order: TopicOrder::of(stored.is_global),
        revision: stored.revision,
    };
    (key(stored.topic, stored.partition), config)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests fail by panicking")]
    #![allow(clippy::indexing_slicing, reason = "tests fail by panicking")]

    use super::*;
    use crate::fuzzing;
    use barrage_model::Backoff;
    use barrage_model::Retention;

    fn slot() -> Slot {
        Slot { key: key(1, 2), group: GroupId(3) }
    }

    fn groups() -> Vec<OpenGroup> {
        let backoffs = [
            Backoff::Fixed(3),
            Backoff::rocketmq(),
            Backoff::Exponential { first_ms: 1, ms_max: 1 << 40 },
        ];
        let open = |backoff| {
            let filter = Some(Rc::new(StoredFilter::new("tags:new || sold".to_owned())));
            let order = Order::None;
            let (deliveries_max, max_age_ms, buries) = (Some(16), Some(7), true);
            let policy = Policy { deliveries_max, max_age_ms, buries, backoff, filter, order };
            OpenGroup { slot: slot(), config: GroupConfig { policy, revision: 9 }, at_end: true }
        };
        backoffs.map(open).to_vec()
    }

    fn ops() -> Vec<Op> {
        let receipt = |offset| Receipt { offset: Offset(offset), tag: 1 << 31 };
        let all = [
            What::Lease { count_max: 100, visibility_ms: 30_000 },
            What::Ack(vec![receipt(1), receipt(1 << 60)]),
            What::Nack(vec![(receipt(2), None), (receipt(3), Some(1 << 40))]),
            What::Extend(vec![(receipt(4), 60_000)]),
            What::Release(vec![receipt(5)]),
            What::Expire(vec![receipt(6)]),
            What::PassTime(vec![0, 1 << 50]),
            What::Depart { count_max: 10 },
            What::GiveUp(vec![Offset(1), Offset(1 << 60)]),
            What::Renumber {
                from: (Some(ProducerId(5)), Sequence(4)),
                to: Numbering { producer: ProducerId(6), into: key(7, 8) },
            },
            What::Renumber {
                from: (None, Sequence(0)),
                to: Numbering { producer: ProducerId(6), into: key(7, 8) },
            },
            What::Arrived { producer: ProducerId(6), first: Sequence(8), count: 9 },
            What::Rewind { to: Offset(10) },
            What::Skip { to: Offset(11) },
            What::Cancel(vec![Offset(1), Offset(1 << 60)]),
            What::Claim(Box::new(Claim {
                producer: ProducerId(7),
                kind: ClaimKind::TakeOver,
                session_ms: 10_000,
            })),
            What::Reschedule(vec![(Offset(2), 1 << 41)]),
            What::LeaseChosen {
                visibility_ms: 30_000,
                rewinds: 2,
                from: Offset(5),
                chosen: vec![Offset(3), Offset(9)],
            },
            What::LeaseWanted {
                count_max: 100,
                visibility_ms: 30_000,
                revision: 9,
                found: fuzzing::found(12),
            },
        ];
        all.map(|what| Op { slot: slot(), what }).to_vec()
    }

    fn all() -> Vec<Command> {
        let retention = Retention { time_ms: Some(5), ..Retention::UNLIMITED };
        let partitions = vec![(
            key(1, 2),
            PartitionConfig { retention, order: TopicOrder::Global, revision: 9 },
        )];
        let producer =
            ProducerStamp { id: ProducerId(7), epoch: ProducerEpoch(1), sequence: Sequence(30) };
        vec![
            Command::Produce {
                batch_counts: vec![1, 1],
                rows: vec![
                    BatchRow { record_count: 10, producer: None },
                    BatchRow { record_count: 3, producer: Some(producer) },
                ],
            },
            Command::Open { partitions: partitions.clone() },
            Command::Configure { partitions },
            Command::Close { partitions: vec![key(1, 2), key(1, 3)] },
            Command::AdvanceStart { starts: vec![(key(1, 2), Offset(77))] },
            Command::Compare { index: 5, hash: 1 << 60 },
            Command::OpenGroups { groups: groups() },
            Command::CloseGroups { slots: vec![slot(), slot()] },
            Command::Queue { now_ms: 1 << 50, ops: ops() },
            Command::Follow { revision: 1 << 40 },
            Command::OpenStreams { streams: fuzzing::open_streams() },
            Command::CloseStreams { groups: vec![GroupId(3), GroupId(4)] },
            Command::Streams { now_ms: 1 << 50, ops: fuzzing::stream_ops() },
        ]
    }

    #[test]
    fn every_command_survives_the_round_trip() {
        for command in all() {
            assert_eq!(Command::decode(&command.encode()).unwrap(), command);
        }
    }

    #[test]
    fn golden_bytes() {
        let row = BatchRow { record_count: 258, producer: None };
        let bytes = Command::Produce { batch_counts: vec![1], rows: vec![row] }.encode();
        let golden: &[u8] = &[
            3, 4, 0, 0, 39, 0, 0, 0, // type, version, zero, length
        ];
        assert_eq!(&bytes[..8], golden);
        // The row, then the batch count, wherever rkyv puts them: both stand before the root.
        assert_eq!(&bytes[12..16], &[1, 0, 0, 0]);
        assert_eq!(&bytes[16..20], &[2, 1, 0, 0]);
        assert_eq!(&bytes[20..34], &[0xff; 14]);
        // The root: tag, then relative position and length of the counts and of the rows.
        let root: &[u8] = &[0, 233, 255, 255, 255, 1, 0, 0, 0, 229, 255, 255, 255, 1, 0, 0, 0];
        assert_eq!(&bytes[34..], root);
    }

    #[test]
    fn corrupt_bytes_are_errors() {
        for command in all() {
            let bytes = command.encode();
            for at in 0..bytes.len() {
                let mut broken = bytes.clone();
                broken[at] ^= 0x10;
                assert!(Command::decode(&broken).is_err());
                assert!(Command::decode(&bytes[..at]).is_err());
            }
        }
    }
}
