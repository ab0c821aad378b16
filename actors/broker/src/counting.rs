//! The hot pieces of this crate for `perf/counts`, which counts their instructions; no part of its
//! interface.
//!
//! Owns: a data shard in memory, as its leader foresees it and as a replica applies it, without
//! Raft, log and clock. Must never: do what the product does by itself; each piece is a call of it.

use barrage_commitlog::Run;
use barrage_model::{
    GroupId, LogId, LogIndex, PartitionId, PartitionKey, Retention, Term, TopicId, TopicOrder,
};
use barrage_raft::{Applied, Machine as _};
use barrage_world::Instant;
use barrage_world::channel::Event;
use bytes::Bytes;

use crate::api::ProduceError;
use crate::command::Command;
use crate::door::CheckedBatch;
use crate::queue::backlog::{Policy, Receipt};
use crate::shard::decide::State;
use crate::shard::entry::{Building, Built, Taken, WaitingBatch};
use crate::shard::groups::{GroupConfig, Op, OpenGroup, Outcome, Slot, What};
use crate::shard::machine::{Reply, ShardMachine, Told};
use crate::shard::partition::PartitionConfig;

/// The log time of everything: who leads stamps it, and nothing here waits for it to pass.
const LOG_TIME_MS: i64 = 1_700_000_000_000;
const TERM: Term = Term(1);
const TOPIC: TopicId = TopicId(1);
const GROUP: GroupId = GroupId(1);
const VISIBILITY_MS: u64 = 30_000;

/// A batch that has passed the door.
#[derive(Clone, Debug)]
pub struct Batch(CheckedBatch);

impl Batch {
    /// The check at the door.
    pub fn check(bytes: Bytes) -> Result<Self, ProduceError> {
        CheckedBatch::check(bytes).map(Self)
    }
}

/// A produce entry as the leader proposes it.
#[derive(Debug)]
pub struct Proposal {
    command: Vec<u8>,
    /// The batches by partition.
    pub runs: Vec<Run>,
}

/// Leases that are open.
#[derive(Debug)]
pub struct Receipts(Vec<Receipt>);

impl Receipts {
    /// How many.
    #[must_use]
    pub fn count(&self) -> usize {
        self.0.len()
    }
}

/// A data shard: what its leader has foreseen, and the machine that applies.
pub struct Shard {
    projected: State,
    machine: ShardMachine,
    next: LogIndex,
    now: Instant,
}

/// A partition of the one topic.
#[must_use]
pub fn partition(number: u32) -> PartitionKey {
    PartitionKey { topic: TOPIC, partition: PartitionId(number) }
}

impl Shard {
    /// A shard of so many partitions, each of which has one queue group.
    #[must_use]
    pub fn new(partitions: u32) -> Self {
        let machine = ShardMachine::new(Told::default(), Event::new());
        let projected = State::default();
        let mut shard = Self { projected, machine, next: LogIndex(1), now: Instant::now() };
        let config = PartitionConfig {
            retention: Retention::UNLIMITED,
            order: TopicOrder::Partition,
            revision: 1,
        };
        let all = (0..partitions).map(partition);
        shard.apply_command(&Command::Open { partitions: all.map(|key| (key, config)).collect() });
        let open = |number| OpenGroup {
            slot: slot(number),
            config: GroupConfig { policy: Policy::default(), revision: 1 },
            at_end: false,
        };
        shard.apply_command(&Command::OpenGroups { groups: (0..partitions).map(open).collect() });
        shard.projected = shard.machine.state().clone();
        shard
    }

    /// Makes one entry of these batches: each is decided on the foreseen state and stamped, then
    /// the command is encoded. None if one of them was not taken.
    pub fn propose(&mut self, batches: Vec<(PartitionKey, Batch)>) -> Option<Proposal> {
        let mut building = Building::new(LOG_TIME_MS, LOG_TIME_MS, 1);
        for (key, Batch(batch)) in batches {
            let waiting = WaitingBatch { key, batch, deadline: self.now, reply: () };
            let states = (&mut self.projected, self.machine.state());
            let Taken::In = building.offer(states, waiting, |_| 0) else { return None };
        }
        let Built { command, runs, waiters: _ } = building.finish(&mut self.projected);
        Some(Proposal { command, runs })
    }

    /// Applies an entry as every replica does; true if all of its runs count.
    pub fn apply(&mut self, proposal: &Proposal) -> bool {
        let reply = self.commit(&proposal.command, &proposal.runs);
        reply.is_some_and(|reply| match reply {
            Reply::Produced(accepted) => accepted.iter().all(|counts| *counts),
            _ => false,
        })
    }

    /// The group of a partition leases so many records: a command is encoded and applied.
    pub fn lease(&mut self, number: u32, count_max: u32) -> Option<Receipts> {
        let what = What::Lease { count_max, visibility_ms: VISIBILITY_MS };
        match self.operate(number, what)? {
            Outcome::Leased(leased) => {
                Some(Receipts(leased.into_iter().map(|one| one.receipt).collect()))
            }
            _ => None,
        }
    }

    /// They are acked: a command is encoded and applied. True if all of them took effect.
    pub fn ack(&mut self, number: u32, Receipts(receipts): Receipts) -> bool {
        match self.operate(number, What::Ack(receipts)) {
            Some(Outcome::Settled(results)) => results.iter().all(Result::is_ok),
            _ => false,
        }
    }

    fn operate(&mut self, number: u32, what: What) -> Option<Outcome> {
        let ops = vec![Op { slot: slot(number), what }];
        match self.apply_command(&Command::Queue { now_ms: 1, ops })? {
            Reply::Queue(mut outcomes) => outcomes.pop(),
            _ => None,
        }
    }

    fn apply_command(&mut self, command: &Command) -> Option<Reply> {
        self.commit(&command.encode(), &[])
    }

    fn commit(&mut self, command: &[u8], runs: &[Run]) -> Option<Reply> {
        let id = LogId { term: TERM, index: self.next };
        self.next = LogIndex(self.next.0 + 1);
        self.machine.apply(&Applied { id, log_time_ms: LOG_TIME_MS, command, runs }).ok()
    }
}

fn slot(number: u32) -> Slot {
    Slot { key: partition(number), group: GROUP }
}
