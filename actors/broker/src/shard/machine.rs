//! The replicated state machine of a data shard.
//!
//! [`apply`] is pure: state, log time and command in, state, reply and effects out.
//! [`ShardMachine`] is the thin shell around it that Raft drives: it carries the effects out at
//! once, on this replica's own index and waiting readers, which are no part of the replicated
//! state.
//!
//! Must never: read a clock, fail on a committed command, touch payload.
//! Invariants: equal entries give equal states and replies; an effect follows only from an accepted
//! change.

use barrage_cluster::format::FormatError;
use barrage_commitlog::{CommitLog, Run};
use barrage_model::group::Order;
use barrage_model::{GroupId, Offset, PartitionKey};
use barrage_raft::{Applied, Machine, Parts, RestoreError, UnknownCommand};
use barrage_world::channel::Event;
use barrage_world::{planted, unix_time_ms};

use super::alarms::Alarms;
use super::decide::{BatchRow, RunStamp, State};
use super::groups::{Groups, Op, OpenGroup, Outcome, Slot, What};
use super::order::Orders;
use super::readers::Readers;
use super::releases::Releases;
use super::streams::StreamOutcome;
use crate::command::{Command, DelayedRuns};
use crate::format::Restoring;
use crate::{fingerprint, format};

/// What a command answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Reply {
    /// For each run whether it counts; one that does not is to be repeated.
    Produced(Vec<bool>),
    /// What came of each operation on a group.
    Queue(Vec<Outcome>),
    /// What came of each operation on a stream group.
    Streams(Vec<StreamOutcome>),
    /// Done.
    Done,
    /// The command cannot be read; nothing was changed.
    Unreadable(FormatError),
}

/// What follows from an apply on this replica.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Effect {
    /// Run number `run` of the entry counts: make it readable.
    Readable { run: usize, key: PartitionKey },
    /// The partition starts here now.
    Starts { key: PartitionKey, start: Offset },
    /// The partition is closed.
    Closed { key: PartitionKey },
    /// Records of a group wait for other times now.
    Touched { slot: Slot },
    /// Records of a group that is ordered by key were settled, or may be had again.
    Freed { slot: Slot },
    /// Delayed records of a partition wait for other times now.
    TouchedDelays { key: PartitionKey },
    /// A stream group waits for another time now.
    TouchedStream { group: GroupId },
    /// Records of a partition may be leased again.
    Visible { key: PartitionKey },
    /// At this index the leader's state had this hash.
    Compare { index: u64, hash: u64 },
}

/// Applies one command to the state.
pub(crate) fn apply(
    (state, groups): (&mut State, &mut Groups),
    log_time_ms: i64,
    command: &[u8],
    runs: &[Run],
    effects: &mut Vec<Effect>,
) -> Reply {
    let reply = match Command::decode(command) {
        Ok(Command::Queue { now_ms, ops }) => {
            groups.pass_to(now_ms);
            Reply::Queue(
                ops.iter().map(|op| operate(groups, state, log_time_ms, op, effects)).collect(),
            )
        }
        Ok(Command::Streams { now_ms, ops }) => {
            groups.pass_to(now_ms);
            effects.extend(ops.iter().map(|op| Effect::TouchedStream { group: op.group }));
            Reply::Streams(ops.iter().map(|op| groups.apply_stream(op)).collect())
        }
        Ok(Command::OpenStreams { streams }) => {
            groups.streams.open(&streams, groups.clock_ms);
            effects.extend(streams.iter().map(|open| Effect::TouchedStream { group: open.group }));
            Reply::Done
        }
        Ok(Command::CloseStreams { groups: closed }) => {
            groups.streams.close(&closed);
            effects.extend(closed.iter().map(|group| Effect::TouchedStream { group: *group }));
            Reply::Done
        }
        Ok(Command::Produce { batch_counts, rows }) => {
            let runs = Runs { runs, batch_counts: &batch_counts, rows: &rows };
            let take = |state: &mut State, run: &NumberedRun, rows: &[BatchRow]| {
                !run.stamp.key.is_delay_store() && state.apply_run(run.stamp, rows, log_time_ms)
            };
            Reply::Produced(produce(state, &runs, effects, take))
        }
        Ok(Command::ProduceDelayed(delayed)) => {
            Reply::Produced(produce_delayed((state, groups), log_time_ms, &delayed, runs, effects))
        }
        Ok(command) => {
            let before = effects.len();
            control(state, &command, effects);
            let caused = effects.get(before..).unwrap_or_default();
            control_groups(groups, state, &command, caused);
            if let Command::OpenGroups { groups } = &command {
                // By another filter what nobody wanted may be wanted.
                let visible = |open: &OpenGroup| Effect::Visible { key: open.slot.key };
                effects.extend(groups.iter().map(visible));
            }
            Reply::Done
        }
        Err(error) => Reply::Unreadable(error),
    };
    state.end_entry(log_time_ms);
    reply
}

fn operate(
    groups: &mut Groups,
    state: &mut State,
    log_time_ms: i64,
    op: &Op,
    effects: &mut Vec<Effect>,
) -> Outcome {
    if let What::Claim(claim) = &op.what {
        // Here, and only here, it is decided who may write: what an earlier holder has under way
        // behind this entry is refused when its turn comes.
        return match state.claim(op.slot.key, **claim, (log_time_ms, groups.clock_ms)) {
            Some(result) => groups.claimed(op.slot, result),
            None => Outcome::UnknownGroup,
        };
    }
    let outcome = groups.apply(state, log_time_ms, op);
    let group = groups.slots.get(&op.slot);
    if group.is_some_and(|group| group.config.policy.order == Order::Key) {
        effects.push(Effect::Freed { slot: op.slot });
    }
    match &op.what {
        What::Lease { .. }
        | What::LeaseWanted { .. }
        | What::LeaseChosen { .. }
        | What::Extend(_) => {
            effects.push(Effect::Touched { slot: op.slot });
        }
        // What is skipped holds up nothing any more, where the order is by key.
        What::Skip { .. } => effects.push(Effect::Visible { key: op.slot.key }),
        What::Nack(_)
        | What::PassTime(_)
        | What::Release(_)
        | What::Expire(_)
        | What::Rewind { .. } => {
            effects.push(Effect::Touched { slot: op.slot });
            effects.push(Effect::Visible { key: op.slot.key });
        }
        What::Cancel(_) | What::Reschedule(_) => touch_delays(groups, state, op.slot.key, effects),
        What::Ack(_)
        | What::Depart { .. }
        | What::GiveUp(_)
        | What::Renumber { .. }
        | What::Arrived { .. }
        | What::Claim(_) => {}
    }
    outcome
}

/// What a command of the partitions does to their groups: the real ones only, the leader does not
/// foresee them.
fn control_groups(groups: &mut Groups, state: &State, command: &Command, caused: &[Effect]) {
    match command {
        Command::OpenGroups { groups: wanted } => groups.open(state, wanted),
        Command::CloseGroups { slots } => groups.close(slots),
        _ => {}
    }
    for effect in caused {
        match effect {
            Effect::Starts { key, start } => groups.start_at(*key, *start),
            Effect::Closed { key } => groups.close_partition(*key),
            _ => {}
        }
    }
}

/// Other times are waited for, and perhaps the oldest delayed record is another one now: what lies
/// before it is kept no more.
fn touch_delays(groups: &Groups, state: &mut State, key: PartitionKey, effects: &mut Vec<Effect>) {
    let Some(delays) = groups.delays.get(&key) else { return };
    effects.push(Effect::TouchedDelays { key });
    let start = delays.start();
    if state.advance_delay_start(key, start) {
        effects.push(Effect::Starts { key: key.delay_store(), start });
    }
}

fn produce_delayed(
    (state, groups): (&mut State, &mut Groups),
    log_time_ms: i64,
    delayed: &DelayedRuns,
    runs: &[Run],
    effects: &mut Vec<Effect>,
) -> Vec<bool> {
    let DelayedRuns { batch_counts, rows, dues_ms, released, clock_ms } = delayed;
    let mut dues_ms = dues_ms.as_slice();
    let mut touched = Vec::new();
    let take = |state: &mut State, run: &NumberedRun, rows: &[BatchRow]| {
        let key = run.stamp.key;
        if key.is_delay_store() {
            let count = usize::try_from(run.record_count).unwrap_or(usize::MAX);
            let Some((own, others)) = dues_ms.split_at_checked(count) else { return false };
            dues_ms = others;
            let counts = state.apply_run(run.stamp, rows, log_time_ms);
            if counts {
                groups.wait(key.owner(), run.stamp.base_offset, own);
                touched.push(key.owner());
            }
            return counts;
        }
        let number = u32::try_from(run.number).unwrap_or(u32::MAX);
        let found = released.binary_search_by_key(&number, |(number, _)| *number).ok();
        let ids = found.and_then(|at| released.get(at)).map_or(&[][..], |(_, ids)| ids);
        // All or none: what is not waiting any more, or not yet due, is not let in.
        if !ids.is_empty() && !groups.may_release(key, ids, *clock_ms) {
            return false;
        }
        let counts = state.apply_run(run.stamp, rows, log_time_ms);
        if counts && !ids.is_empty() {
            groups.release(key, ids);
            touched.push(key);
        }
        counts
    };
    let all = Runs { runs, batch_counts, rows };
    let accepted = produce(state, &all, effects, take);
    touched.into_iter().for_each(|key| touch_delays(groups, state, key, effects));
    accepted
}

/// The runs of an entry with what its command says of them.
struct Runs<'a> {
    runs: &'a [Run],
    batch_counts: &'a [u32],
    rows: &'a [BatchRow],
}

struct NumberedRun {
    number: usize,
    stamp: RunStamp,
    record_count: u32,
}

fn produce(
    state: &mut State,
    all: &Runs<'_>,
    effects: &mut Vec<Effect>,
    mut take: impl FnMut(&mut State, &NumberedRun, &[BatchRow]) -> bool,
) -> Vec<bool> {
    let Runs { runs, batch_counts, rows } = *all;
    let mut rest = rows;
    let mut accepted = Vec::with_capacity(runs.len());
    for (number, run) in runs.iter().enumerate() {
        let count = batch_counts.get(number).copied().unwrap_or(0);
        let count = usize::try_from(count).unwrap_or(usize::MAX).min(rest.len());
        let (own, others) = rest.split_at(count);
        rest = others;
        let stamp = RunStamp { key: run.key, base_offset: run.base_offset };
        let records: u64 = own.iter().map(|row| u64::from(row.record_count)).sum();
        let numbered = NumberedRun { number, stamp, record_count: run.record_count };
        let counts = records == u64::from(run.record_count) && take(state, &numbered, own);
        if counts {
            effects.push(Effect::Readable { run: number, key: run.key });
        }
        accepted.push(counts);
    }
    accepted
}

/// The commands that carry no records; the leader also makes them on its projected state.
pub(crate) fn control(state: &mut State, command: &Command, effects: &mut Vec<Effect>) {
    match command {
        Command::Produce { .. }
        | Command::ProduceDelayed(_)
        | Command::OpenGroups { .. }
        | Command::CloseGroups { .. }
        | Command::Queue { .. }
        | Command::OpenStreams { .. }
        | Command::CloseStreams { .. }
        | Command::Streams { .. } => {}
        Command::Open { partitions } => {
            partitions.iter().for_each(|(key, config)| state.open(*key, *config));
        }
        Command::Configure { partitions } => {
            partitions.iter().for_each(|(key, config)| state.configure(*key, *config));
        }
        Command::Close { partitions } => {
            let closed = partitions.iter().filter(|key| state.close(**key));
            effects.extend(closed.map(|key| Effect::Closed { key: *key }));
        }
        Command::Follow { revision } => {
            state.catalog_revision = state.catalog_revision.max(*revision);
        }
        Command::Compare { index, hash } => {
            effects.push(Effect::Compare { index: *index, hash: *hash });
        }
        Command::AdvanceStart { starts } => {
            for (key, start) in starts {
                if state.advance_start(*key, *start) {
                    let start = state.partitions.get(key).map_or(*start, |p| p.start_offset);
                    effects.push(Effect::Starts { key: *key, start });
                }
            }
        }
    }
}

/// Who is told on this replica of what was applied.
#[derive(Clone, Default)]
pub(crate) struct Told {
    pub(crate) readers: Readers,
    pub(crate) alarms: Alarms,
    pub(crate) orders: Orders,
    pub(crate) releases: Releases,
}

/// The state with what this replica hangs on it.
pub(crate) struct ShardMachine {
    state: State,
    groups: Groups,
    /// What has come of a checkpoint so far.
    restoring: Restoring,
    readers: Readers,
    alarms: Alarms,
    orders: Orders,
    releases: Releases,
    log: Option<CommitLog>,
    effects: Vec<Effect>,
    /// What the state was when it was last compared: index and hash.
    mark: Option<(u64, u64)>,
    /// How this state differs from the leader's.
    difference: Option<String>,
    damaged: Event,
}

impl ShardMachine {
    /// An empty machine that wakes these readers.
    pub(crate) fn new(told: Told, damaged: Event) -> Self {
        let Told { readers, alarms, orders, releases } = told;
        Self {
            state: State::default(),
            groups: Groups::default(),
            restoring: Restoring::default(),
            readers,
            alarms,
            orders,
            releases,
            log: None,
            effects: Vec::new(),
            mark: None,
            difference: None,
            damaged,
        }
    }

    /// The applied groups.
    pub(crate) fn groups(&self) -> &Groups {
        &self.groups
    }

    /// The hash of the replicated state, at a cost that does not grow with what groups hold.
    pub(crate) fn hash(&self) -> u64 {
        let groups = u64::from(self.groups.digest) << 16 ^ self.groups.clock_ms;
        fingerprint::hash_parts(format::parts(&self.state, &Groups::default())) ^ groups
    }

    /// The applied state.
    pub(crate) fn state(&self) -> &State {
        &self.state
    }

    /// What the state was when it was last compared: index and hash.
    pub(crate) fn mark(&self) -> Option<(u64, u64)> {
        self.mark
    }

    /// How this state differs from the leader's, once that is known.
    pub(crate) fn difference(&self) -> Option<String> {
        self.difference.clone()
    }

    /// Every replica takes the hash of its state at the same entry; the leader tells its own with
    /// the next comparison, and whoever has another one is not a replica of the same log.
    fn compare(&mut self, at: u64, index: u64, hash: u64) {
        if let Some((marked, own)) = self.mark
            && marked == index
            && own != hash
        {
            let what = format!("state {own:016x} at index {index}, the leader's is {hash:016x}");
            tracing::error!(what, "replicas differ");
            self.difference = Some(what);
            self.damaged.notify_all();
        }
        self.mark = Some((at, self.hash()));
    }

    /// Every run that did not become readable is refused for good: after a restart the log finds
    /// runs by itself and cannot know.
    fn refuse_others(&self, entry: &Applied<'_>, effects: &[Effect]) {
        let Some(log) = &self.log else { return };
        let accepted = |number: usize| {
            let same = |effect: &Effect| {
                let Effect::Readable { run, .. } = effect else { return false };
                *run == number
            };
            effects.iter().any(same)
        };
        // Nearly always all are accepted, in order; then nothing is searched.
        let readable = |effect: &&Effect| {
            let Effect::Readable { .. } = effect else { return false };
            true
        };
        if effects.iter().filter(readable).count() == entry.runs.len() {
            return;
        }
        for number in (0..entry.runs.len()).filter(|number| !accepted(*number)) {
            log.refuse_run(entry.id.index, number);
        }
    }

    /// Tells those who look after times and orders; false where nothing of that has changed.
    fn note(&mut self, effect: Effect) -> bool {
        match effect {
            Effect::Touched { slot } => {
                if let Some(group) = self.groups.slots.get_mut(&slot) {
                    self.alarms.note(slot, group.backlog.noted());
                    if group.backlog.is_anybody_dying() {
                        self.alarms.note_dying(slot);
                    }
                }
            }
            Effect::Freed { slot } => {
                if let Some(group) = self.groups.slots.get_mut(&slot) {
                    let freed = group.backlog.take_freed();
                    if self.orders.note(slot, &group.backlog, freed) {
                        self.readers.wake(slot.key);
                    }
                }
            }
            Effect::TouchedDelays { key } => {
                if let Some(delays) = self.groups.delays.get_mut(&key) {
                    let waiting = delays.waiting();
                    self.releases.note(key, delays.noted(), waiting);
                }
            }
            Effect::TouchedStream { group } => {
                self.alarms.note_stream(group, self.groups.streams.next_due_ms(group));
            }
            Effect::Readable { .. }
            | Effect::Starts { .. }
            | Effect::Closed { .. }
            | Effect::Visible { .. }
            | Effect::Compare { .. } => return false,
        }
        true
    }

    /// Tells the log where partitions start; it only knows which segments hold what.
    fn restate_starts(&self) {
        let Some(log) = &self.log else { return };
        // A topic deleted before the checkpoint must not come back from the segments.
        log.keep_only(|key| self.state.partitions.contains_key(&key.owner()));
        for (key, partition) in &self.state.partitions {
            log.set_start(*key, partition.start_offset);
            if partition.delay_next > Offset(0) {
                log.set_start(key.delay_store(), partition.delay_start);
            }
        }
    }
}

impl Machine for ShardMachine {
    type Reply = Reply;

    fn attach(&mut self, log: &CommitLog) {
        self.log = Some(log.clone());
        self.restate_starts();
    }

    fn apply(&mut self, entry: &Applied<'_>) -> Result<Reply, UnknownCommand> {
        let Applied { id, log_time_ms, command, runs } = entry;
        let mut effects = std::mem::take(&mut self.effects);
        // Wrong when planted: every replica makes something else of the same entries.
        let log_time_ms = match planted("broker-apply-takes-its-own-time") {
            true => unix_time_ms(),
            false => *log_time_ms,
        };
        let replicated = (&mut self.state, &mut self.groups);
        let reply = apply(replicated, log_time_ms, command, runs, &mut effects);
        if let Reply::Unreadable(error) = &reply {
            return Err(UnknownCommand(error.to_string()));
        }
        self.refuse_others(entry, &effects);
        for effect in effects.drain(..) {
            if let Effect::Compare { index, hash } = effect {
                self.compare(id.index.0, index, hash);
                continue;
            }
            if self.note(effect) {
                continue;
            }
            match (effect, &self.log) {
                (Effect::Visible { key }, _) => self.readers.wake(key),
                (Effect::Readable { run, key }, Some(log)) => {
                    log.index_run(id.index, run);
                    self.readers.wake(key);
                }
                (Effect::Starts { key, start }, Some(log)) => {
                    log.set_start(key, start);
                    self.readers.wake(key);
                }
                (Effect::Closed { key }, Some(log)) => {
                    log.forget(key);
                    log.forget(key.delay_store());
                    self.releases.forget(key);
                    self.readers.forget(key);
                }
                (
                    Effect::Compare { .. }
                    | Effect::Touched { .. }
                    | Effect::Freed { .. }
                    | Effect::TouchedDelays { .. }
                    | Effect::TouchedStream { .. },
                    Some(_),
                )
                | (_, None) => {}
            }
        }
        self.effects = effects;
        Ok(reply)
    }

    fn checkpoint(&self) -> Parts {
        Parts::new(format::parts(&self.state, &self.groups))
    }

    fn begin_restore(&mut self) {
        self.restoring = Restoring::default();
    }

    fn restore(&mut self, part: &[u8]) -> Result<(), RestoreError> {
        self.restoring.take(part).map_err(|error| RestoreError(error.to_string()))
    }

    fn end_restore(&mut self) -> Result<(), RestoreError> {
        let restored = std::mem::take(&mut self.restoring).end();
        (self.state, self.groups) = restored.map_err(|error| RestoreError(error.to_string()))?;
        self.orders.clear();
        self.releases.clear();
        self.restate_starts();
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests fail by panicking")]
    #![allow(clippy::indexing_slicing, reason = "tests fail by panicking")]

    use super::super::partition::PartitionConfig;
    use super::*;
    use barrage_model::{PartitionId, Retention, TopicId, TopicOrder};

    fn key(partition: u32) -> PartitionKey {
        PartitionKey { topic: TopicId(1), partition: PartitionId(partition) }
    }

    fn run(partition: u32, base: u64, record_count: u32) -> Run {
        Run {
            key: key(partition),
            base_offset: Offset(base),
            record_count,
            max_timestamp: 0,
            byte_len: 100,
            batches: Vec::new(),
            gone: None,
        }
    }

    fn produce_command(batch_counts: &[u32], records: &[u32]) -> Vec<u8> {
        let row = |record_count: &u32| BatchRow { record_count: *record_count, producer: None };
        let rows = records.iter().map(row).collect();
        Command::Produce { batch_counts: batch_counts.to_vec(), rows }.encode()
    }

    fn check(state: &mut State, command: &[u8], runs: &[Run], reply: Reply, wanted: &[Effect]) {
        let mut effects = Vec::new();
        let mut groups = Groups::default();
        assert_eq!(apply((state, &mut groups), 7, command, runs, &mut effects), reply);
        assert_eq!(effects, wanted);
    }

    #[test]
    fn the_life_of_a_shard() {
        let mut state = State::default();
        let config = PartitionConfig {
            retention: Retention::DEFAULT,
            order: TopicOrder::Partition,
            revision: 1,
        };
        let open = Command::Open { partitions: vec![(key(0), config), (key(1), config)] };
        check(&mut state, &open.encode(), &[], Reply::Done, &[]);

        // Run 1 bears a stale stamp, run 2 belongs to no open partition.
        let command = produce_command(&[2, 1, 1], &[3, 2, 1, 1]);
        let runs = [run(0, 0, 5), run(1, 4, 1), run(2, 0, 1)];
        let reply = Reply::Produced(vec![true, false, false]);
        check(&mut state, &command, &runs, reply, &[Effect::Readable { run: 0, key: key(0) }]);

        let starts =
            Command::AdvanceStart { starts: vec![(key(0), Offset(9)), (key(1), Offset(0))] };
        let wanted = [Effect::Starts { key: key(0), start: Offset(5) }];
        check(&mut state, &starts.encode(), &[], Reply::Done, &wanted);

        let close = Command::Close { partitions: vec![key(0), key(9)] }.encode();
        check(&mut state, &close, &[], Reply::Done, &[Effect::Closed { key: key(0) }]);
        assert_eq!(state.partitions.len(), 1);
        assert_eq!(state.log_time_ms, 7);
    }

    #[test]
    fn delayed_records_come_when_they_are_due_and_once() {
        let mut state = State::default();
        let mut groups = Groups::default();
        let config = PartitionConfig {
            retention: Retention::DEFAULT,
            order: TopicOrder::Partition,
            revision: 1,
        };
        state.open(key(0), config);
        // The log's clock is hours ahead, after a leader whose clock was.
        let mut apply_at = |clock_ms: u64, delayed: DelayedRuns, run: Run| {
            let (log_time_ms, delayed) = (9_000_000, DelayedRuns { clock_ms, ..delayed });
            let command = Command::ProduceDelayed(Box::new(delayed)).encode();
            let mut effects = Vec::new();
            let replicated = (&mut state, &mut groups);
            let reply = apply(replicated, log_time_ms, &command, &[run], &mut effects);
            (reply == Reply::Produced(vec![true]), effects)
        };
        let rows = |record_count| vec![BatchRow { record_count, producer: None }];
        let store = key(0).delay_store();
        let stored = |dues_ms: &[u64]| DelayedRuns {
            batch_counts: vec![1],
            rows: rows(2),
            dues_ms: dues_ms.to_vec(),
            ..DelayedRuns::default()
        };
        let in_store = || Run { key: store, ..run(0, 0, 2) };
        assert!(!apply_at(7, stored(&[50]), in_store()).0, "a time is missing");
        let (counts, effects) = apply_at(7, stored(&[50, 60]), in_store());
        assert!(counts);
        let touched = Effect::TouchedDelays { key: key(0) };
        assert_eq!(effects, [Effect::Readable { run: 0, key: store }, touched]);

        let due = |ids: &[u64]| DelayedRuns {
            batch_counts: vec![1],
            rows: rows(ids.len() as u32),
            released: vec![(0, ids.iter().copied().map(Offset).collect())],
            ..DelayedRuns::default()
        };
        assert!(!apply_at(49, due(&[0]), run(0, 0, 1)).0, "early");
        assert!(!apply_at(50, due(&[0, 1]), run(0, 0, 2)).0, "one is early");
        assert!(!apply_at(50, due(&[0]), run(0, 3, 1)).0, "a stale stamp");
        let (counts, effects) = apply_at(50, due(&[0]), run(0, 0, 1));
        assert!(counts);
        let starts = Effect::Starts { key: store, start: Offset(1) };
        assert_eq!(effects, [Effect::Readable { run: 0, key: key(0) }, touched, starts]);
        assert!(!apply_at(99, due(&[0]), run(0, 1, 1)).0, "again");
        assert!(apply_at(99, due(&[1]), run(0, 1, 1)).0);
        assert_eq!(groups.delayed(key(0)), 0);
        let partition = &state.partitions[&key(0)];
        assert_eq!((partition.next_offset, partition.delay_start), (Offset(2), Offset(2)));

        let close = Command::Close { partitions: vec![key(0)] }.encode();
        apply((&mut state, &mut groups), 9_000_000, &close, &[], &mut Vec::new());
        assert!(groups.delays.is_empty());
    }

    #[test]
    fn commands_that_do_not_fit_change_nothing() {
        let mut state = State::default();
        let config = PartitionConfig {
            retention: Retention::DEFAULT,
            order: TopicOrder::Partition,
            revision: 1,
        };
        state.open(key(0), config);
        state.end_entry(7);
        let before = state.clone();
        // Fewer rows than the run has records, no rows at all, more runs than counts.
        let none = Reply::Produced(vec![false]);
        check(&mut state, &produce_command(&[1], &[2]), &[run(0, 0, 3)], none.clone(), &[]);
        check(&mut state, &produce_command(&[9], &[]), &[run(0, 0, 0)], none.clone(), &[]);
        check(&mut state, &produce_command(&[], &[3]), &[run(0, 0, 3)], none, &[]);
        let unreadable = Reply::Unreadable(FormatError::Length);
        check(&mut state, b"x", &[run(0, 0, 3)], unreadable, &[]);
        assert_eq!(state, before);
    }
}
