//! The parsers of this crate, and what happens to what they have read, for the fuzz targets; no
//! part of its interface.

use std::rc::Rc;

use barrage_commitlog::Run;
use barrage_model::group::Order;
use barrage_model::{
    Backoff, GroupId, Offset, PartitionId, PartitionKey, ProducerEpoch, ProducerId, Retention,
    Sequence, TopicId, TopicOrder,
};

use crate::api::claim::{Claim, ClaimKind};
use crate::group::assignment::Assignor;
use crate::group::generation::Generation;
use crate::group::handover::TopicSize;
use crate::group::name::{InstanceName, MemberId, Name};
use crate::group::offsets::{Commit, LeaderEpoch};
use crate::group::roster::{Caller, Timeouts};
use crate::group::stream::Committer;
use crate::queue::backlog::{Policy, Receipt};
use crate::queue::departures::Numbering;
use crate::queue::filter::StoredFilter;
use crate::queue::selection::Selection;
use crate::shard::decide::{self, BatchRow};
use crate::shard::groups::{GroupConfig, Groups, Op, OpenGroup, Slot, What};
use crate::shard::machine::{self, Reply};
use crate::shard::partition::PartitionConfig;
use crate::shard::producers::ProducerStamp;
#[cfg(test)]
use crate::shard::streams::Streams;
use crate::shard::streams::{OpenStream, Reads, StreamConfig, StreamOp, StreamWhat};
use crate::{command, format, home};

/// A command of a data shard.
#[derive(Debug, PartialEq, Eq)]
pub struct Command(command::Command);

impl Command {
    /// Reads the whole command.
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        command::Command::decode(bytes).ok().map(Self)
    }

    /// The command's bytes.
    pub fn encode(&self) -> Vec<u8> {
        self.0.encode()
    }

    /// The same, with leases of few records: a lease of many is few bytes and much work, by right.
    #[must_use]
    pub fn with_small_leases(mut self) -> Self {
        if let command::Command::Queue { ops, .. } = &mut self.0 {
            for op in ops {
                if let What::Lease { count_max, .. } | What::LeaseWanted { count_max, .. } =
                    &mut op.what
                {
                    *count_max = (*count_max).min(LEASE_SMALL);
                }
            }
        }
        self
    }
}

/// See [`Command::with_small_leases`].
const LEASE_SMALL: u32 = 100;

/// Everything a data shard decides on.
#[derive(Clone, Debug, Default)]
pub struct State(decide::State, Groups);

impl PartialEq for State {
    fn eq(&self, other: &Self) -> bool {
        self.encode() == other.encode()
    }
}

impl State {
    /// Reads the parts of a whole checkpoint.
    pub fn decode(parts: &[Vec<u8>]) -> Option<Self> {
        let mut restoring = format::Restoring::default();
        parts.iter().try_for_each(|part| restoring.take(part)).ok()?;
        restoring.end().ok().map(|(state, groups)| Self(state, groups))
    }

    /// The checkpoint's parts.
    pub fn encode(&self) -> Vec<Vec<u8>> {
        format::parts(&self.0, &self.1).collect()
    }

    /// Applies a committed command as a replica does; the runs beside a produce command are made
    /// up from its rows, so that they are accepted as often as may be. True if it was understood.
    pub fn apply(&mut self, log_time_ms: i64, bytes: &[u8]) -> bool {
        let runs = self.runs_of(bytes);
        let mut effects = Vec::new();
        let replicated = (&mut self.0, &mut self.1);
        let reply = machine::apply(replicated, log_time_ms, bytes, &runs, &mut effects);
        if let Reply::Produced(accepted) = &reply {
            assert_eq!(accepted.len(), runs.len(), "every run is answered");
        }
        let producers: usize = self.0.partitions.values().map(|open| open.producers.len()).sum();
        assert_eq!(self.0.producers, producers, "producers are counted");
        !matches!(reply, Reply::Unreadable(_))
    }

    fn runs_of(&self, bytes: &[u8]) -> Vec<Run> {
        let delayed = match command::Command::decode(bytes) {
            Ok(command::Command::Produce { batch_counts, rows }) => {
                command::DelayedRuns { batch_counts, rows, ..Default::default() }
            }
            Ok(command::Command::ProduceDelayed(delayed)) => *delayed,
            _ => return Vec::new(),
        };
        let mut rest = delayed.rows.as_slice();
        let mut keys = self.0.partitions.iter().cycle();
        let mut runs = Vec::new();
        for (number, count) in (0..).zip(delayed.batch_counts) {
            let Some((key, partition)) = keys.next() else { break };
            let (own, others) = rest.split_at((count as usize).min(rest.len()));
            rest = others;
            let records: u64 = own.iter().map(|row| u64::from(row.record_count)).sum();
            // As long as times are left, what brings in nobody who waited is to wait itself.
            let waits = !delayed.dues_ms.is_empty()
                && delayed.released.iter().all(|(run, _)| *run != number);
            let (key, base_offset) = match waits {
                true => (key.delay_store(), partition.delay_next),
                false => (*key, partition.next_offset),
            };
            runs.push(Run {
                key,
                base_offset,
                record_count: u32::try_from(records).unwrap_or(u32::MAX),
                max_timestamp: 0,
                byte_len: 0,
                batches: Vec::new(),
                gone: None,
            });
        }
        runs
    }
}

/// Whether the bytes are a node's identity.
pub fn is_identity(bytes: &[u8]) -> bool {
    home::parse(bytes).is_ok()
}

/// One command of every kind, in an order in which all of them change something.
pub fn commands() -> Vec<Command> {
    let key = |number| PartitionKey { topic: TopicId(1), partition: PartitionId(number) };
    let config = |revision| PartitionConfig {
        retention: Retention::DEFAULT,
        order: TopicOrder::Partition,
        revision,
    };
    let held = |revision| PartitionConfig { order: TopicOrder::Global, ..config(revision) };
    let partitions = |revision| {
        vec![(key(0), config(revision)), (key(1), config(revision)), (key(2), held(revision))]
    };
    let stamp = |sequence| ProducerStamp {
        id: ProducerId(7),
        epoch: ProducerEpoch(1),
        sequence: Sequence(sequence),
    };
    let rows = vec![
        BatchRow { record_count: 3, producer: Some(stamp(0)) },
        BatchRow { record_count: 2, producer: Some(stamp(3)) },
        BatchRow { record_count: 1, producer: None },
    ];
    let commands = [
        command::Command::Open { partitions: partitions(1) },
        command::Command::Produce { batch_counts: vec![2, 1], rows },
        command::Command::Configure { partitions: partitions(2) },
        command::Command::AdvanceStart { starts: vec![(key(0), Offset(4)), (key(1), Offset(1))] },
        command::Command::OpenGroups { groups: groups(0) },
        command::Command::Queue { now_ms: 5, ops: leases(key(0)) },
        command::Command::Queue { now_ms: 9_000, ops: dead_letters(key(0)) },
        command::Command::CloseGroups { slots: vec![Slot { key: key(0), group: GroupId(2) }] },
        command::Command::Follow { revision: 9 },
        command::Command::OpenStreams { streams: open_streams() },
        command::Command::Streams { now_ms: 10_000, ops: stream_ops() },
        command::Command::CloseStreams { groups: vec![GroupId(6)] },
        command::Command::Compare { index: 3, hash: 7 },
        command::Command::Close { partitions: vec![key(1)] },
        command::Command::ProduceDelayed(Box::new(stored())),
        command::Command::Queue { now_ms: 10_000, ops: changes(key(0)) },
        command::Command::ProduceDelayed(Box::new(released())),
        command::Command::Queue { now_ms: 10_000, ops: claims(key(2)) },
    ];
    commands.map(Command).into()
}

/// Three records are to wait.
fn stored() -> command::DelayedRuns {
    let rows = vec![BatchRow { record_count: 3, producer: None }];
    let dues_ms = vec![8, 1 << 40, 9];
    command::DelayedRuns { batch_counts: vec![1], rows, dues_ms, clock_ms: 5, ..Default::default() }
}

/// One of them is moved and then cancelled; one that nobody knows is not.
fn changes(key: PartitionKey) -> Vec<Op> {
    let all =
        [What::Reschedule(vec![(Offset(1), 1 << 41)]), What::Cancel(vec![Offset(1), Offset(99)])];
    all.map(|what| Op { slot: Slot { key, group: GroupId(0) }, what }).into()
}

/// A producer holds a partition, keeps it, loses it; the next one gives it up.
fn claims(key: PartitionKey) -> Vec<Op> {
    let claim = |kind, id| {
        let claim = Claim { producer: ProducerId(id), kind, session_ms: 9_000 };
        let what = What::Claim(Box::new(claim));
        Op { slot: Slot { key, group: GroupId(0) }, what }
    };
    let kinds = [(ClaimKind::Hold, 8), (ClaimKind::Keep, 8), (ClaimKind::TakeOver, 9)];
    let release = claim(ClaimKind::Release, 9);
    kinds.map(|(kind, id)| claim(kind, id)).into_iter().chain([release]).collect()
}

/// Two of them come.
fn released() -> command::DelayedRuns {
    let rows = vec![BatchRow { record_count: 2, producer: None }];
    let released = vec![(0, vec![Offset(0), Offset(2)])];
    let batch_counts = vec![1];
    command::DelayedRuns { batch_counts, rows, released, clock_ms: 10, ..Default::default() }
}

/// Three groups of a partition, one for each kind of back-off.
fn groups(partition: u32) -> Vec<OpenGroup> {
    let key = PartitionKey { topic: TopicId(1), partition: PartitionId(partition) };
    let backoffs = [
        Backoff::Fixed(3),
        Backoff::rocketmq(),
        Backoff::Exponential { first_ms: 1, ms_max: 1 << 40 },
    ];
    let open = |(group, backoff)| {
        let filter = (group == 2).then(|| Rc::new(StoredFilter::new("tags:a || b".to_owned())));
        let order = if group == 3 { Order::Key } else { Order::None };
        let (deliveries_max, max_age_ms, buries) = (Some(1), Some(1_000), true);
        let policy = Policy { deliveries_max, max_age_ms, buries, backoff, filter, order };
        let config = GroupConfig { policy, revision: 1 };
        OpenGroup { slot: Slot { key, group: GroupId(group) }, config, at_end: false }
    };
    (1..).zip(backoffs).map(open).collect()
}

/// Records from an offset on were looked at: every second one is wanted.
pub(crate) fn found(from: u64) -> Selection {
    let mut found = Selection::empty(Offset(from));
    for _ in 0..2 {
        found.pass(1);
        found.want(1);
    }
    found
}

/// Records are leased and settled, in each way.
fn leases(key: PartitionKey) -> Vec<Op> {
    let (count_max, visibility_ms, found) = (5, 1_000, found(0));
    let wanted = What::LeaseWanted { count_max, visibility_ms, revision: 1, found };
    let filtered = Op { slot: Slot { key, group: GroupId(2) }, what: wanted };
    let chosen = [1, 4, 5].map(Offset).to_vec();
    let chosen = What::LeaseChosen { visibility_ms, rewinds: 0, from: Offset(0), chosen };
    let ordered = Op { slot: Slot { key, group: GroupId(3) }, what: chosen };
    let receipt = |offset, tag| Receipt { offset: Offset(offset), tag };
    let all = [
        What::Lease { count_max: 5, visibility_ms: 1_000 },
        What::Ack(vec![receipt(0, 0), receipt(9, 0)]),
        What::Nack(vec![(receipt(1, 1), None)]),
        What::Extend(vec![(receipt(2, 2), 60_000)]),
        What::Release(vec![receipt(3, 3)]),
        What::Expire(vec![receipt(3, 4)]),
    ];
    let all = all.map(|what| Op { slot: Slot { key, group: GroupId(1) }, what });
    all.into_iter().chain([filtered, ordered]).collect()
}

/// Leases end, what they were of goes to the dead letters, and all begins again.
fn dead_letters(key: PartitionKey) -> Vec<Op> {
    let producer = ProducerId(6);
    let all = [
        What::PassTime(vec![0]),
        What::Depart { count_max: 10 },
        What::GiveUp(vec![Offset(4)]),
        What::Renumber { from: (None, Sequence(0)), to: Numbering { producer, into: key } },
        What::Arrived { producer, first: Sequence(0), count: 1 },
        What::Rewind { to: Offset(1) },
        What::Skip { to: Offset(2) },
    ];
    all.map(|what| Op { slot: Slot { key, group: GroupId(1) }, what }).into()
}

/// Two stream groups of two topics.
pub(crate) fn open_streams() -> Vec<OpenStream> {
    let size = |topic, partitions| TopicSize { topic: TopicId(topic), partitions };
    let config = StreamConfig { topics: vec![size(1, 2), size(2, 3)], revision: 1 };
    let open = |group| OpenStream { group: GroupId(group), config: config.clone() };
    vec![open(5), open(6)]
}

/// Members come, read, commit, and go: every kind of operation, each of which does something.
pub(crate) fn stream_ops() -> Vec<StreamOp> {
    let instance = Name::new("place").map(InstanceName);
    let member = |name| Name::new(name).map(MemberId);
    let (Some(one), Some(two)) = (member("one"), member("two")) else { return Vec::new() };
    let one = Caller { member: one, instance: None };
    let two = Caller { member: two, instance };
    let key =
        |topic, number| PartitionKey { topic: TopicId(topic), partition: PartitionId(number) };
    let reads = |topics: &[u64]| Reads {
        topics: topics.iter().copied().map(TopicId).collect(),
        assignor: Assignor::RoundRobin,
    };
    let commit = |key, offset, metadata: &str| Commit {
        key,
        offset: Offset(offset),
        leader_epoch: Some(LeaderEpoch(2)),
        metadata: metadata.to_owned(),
    };
    let timeouts = Timeouts::default();
    let generation = Generation(1);
    let held = Some(vec![key(1, 0), key(1, 1)]);
    let (committer, everything) = (one.clone(), vec![commit(key(1, 0), 3, "m")]);
    let committer = Committer::Member { caller: committer, generation };
    let all = [
        StreamWhat::Reset { to: vec![(key(1, 0), Offset(1)), (key(2, 2), Offset(2))] },
        StreamWhat::Commit {
            committer: Committer::Nobody,
            commits: vec![commit(key(2, 0), 1, "")],
        },
        StreamWhat::Join { caller: one.clone(), timeouts, reads: reads(&[1]) },
        StreamWhat::Join { caller: two.clone(), timeouts, reads: reads(&[1, 2]) },
        StreamWhat::Commit { committer, commits: everything },
        StreamWhat::PassTime,
        StreamWhat::Beat { caller: one.clone(), generation, held, reads: Some(reads(&[1, 2])) },
        StreamWhat::Beat { caller: one.clone(), generation, held: None, reads: None },
        StreamWhat::Leave { caller: two },
    ];
    all.map(|what| StreamOp { group: GroupId(5), what }).into()
}

/// A group with members and offsets, and one without.
#[cfg(test)]
pub(crate) fn sample_streams() -> Streams {
    let mut streams = Streams::default();
    streams.open(&open_streams(), 0);
    for (op, now_ms) in stream_ops().iter().take(8).zip(0_u64..) {
        streams.apply(op, now_ms * 1_000);
    }
    streams
}

/// One command of every kind with so many rows.
pub fn commands_of(rows: u32) -> Vec<Command> {
    let key = |number| PartitionKey { topic: TopicId(1), partition: PartitionId(number) };
    let config = PartitionConfig {
        retention: Retention::UNLIMITED,
        order: TopicOrder::Partition,
        revision: 1,
    };
    let partitions: Vec<_> = (0..rows).map(|number| (key(number), config)).collect();
    let row = BatchRow { record_count: 1, producer: None };
    let batch_counts = vec![1; rows as usize];
    let commands = [
        command::Command::Produce { batch_counts, rows: vec![row; rows as usize] },
        command::Command::Open { partitions },
        command::Command::Close { partitions: (0..rows).map(key).collect() },
        command::Command::AdvanceStart {
            starts: (0..rows).map(|number| (key(number), Offset(1))).collect(),
        },
        command::Command::OpenGroups { groups: (0..rows / 4).flat_map(groups).collect() },
        command::Command::Queue {
            now_ms: 1,
            ops: (0..rows / 4).flat_map(|number| leases(key(number))).collect(),
        },
        command::Command::Queue {
            now_ms: 1,
            ops: vec![Op {
                slot: Slot { key: key(0), group: GroupId(1) },
                what: What::Ack((0..rows).map(|tag| Receipt { offset: Offset(1), tag }).collect()),
            }],
        },
    ];
    commands.map(Command).into()
}

/// A state of so many partitions, each with so many producers of one batch.
pub fn state_of(partitions: u32, producers: u32) -> State {
    let mut state = decide::State::default();
    for number in 0..partitions {
        let key = PartitionKey { topic: TopicId(1), partition: PartitionId(number) };
        state.open(
            key,
            PartitionConfig {
                retention: Retention::UNLIMITED,
                order: TopicOrder::Partition,
                revision: 1,
            },
        );
        for id in 0..producers {
            let (id, epoch) = (ProducerId(i64::from(id)), ProducerEpoch(0));
            let stamp = ProducerStamp { id, epoch, sequence: Sequence(0) };
            state.accept(key, &BatchRow { record_count: 1, producer: Some(stamp) }, 0);
        }
    }
    State(state, Groups::default())
}

/// A state of so many partitions with groups, each with so many open leases.
pub fn leased_of(partitions: u32, leases: u32) -> State {
    let mut state = state_of(partitions, 0);
    for number in 0..partitions {
        let key = PartitionKey { topic: TopicId(1), partition: PartitionId(number) };
        state.0.accept(key, &BatchRow { record_count: leases, producer: None }, 0);
        state.1.open(&state.0, &groups(number));
        let slot = Slot { key, group: GroupId(1) };
        let what = What::Lease { count_max: leases, visibility_ms: 30_000 };
        state.1.apply(&state.0, 0, &Op { slot, what });
    }
    state
}
