//! What outlives the lives of one log: requests, records, checkpoints, verdict.
//!
//! Owns everything the judgement is made of. Must never be asked by the log under test.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::rc::Rc;

use barrage_model::{LogId, PartitionId, PartitionKey, TopicId};
use barrage_world::sim::Rng;

use super::ledger::{Found, Ledger, Short};
use super::machine::Machine;
use super::plan::Plan;
use crate::runner::Outcome;

/// A batch that apply accepted, as it must be read back.
#[derive(Debug)]
pub(super) struct Stored {
    /// Stamped.
    pub(super) bytes: Vec<u8>,
    pub(super) next_offset: u64,
    pub(super) log_time_ms: i64,
}

/// A checkpoint that was written, wholly or not.
#[derive(Debug)]
struct Written {
    id: LogId,
    state: Vec<u8>,
    promised: bool,
}

/// What outlives the lives.
pub(super) struct Bench {
    pub(super) plan: Plan,
    pub(super) ledger: RefCell<Ledger>,
    /// The state of the life that runs, or of the last one.
    pub(super) machine: RefCell<Machine>,
    /// Accepted batches by partition and base offset.
    pub(super) stored: RefCell<BTreeMap<(u32, u64), Rc<Stored>>>,
    checkpoints: RefCell<Vec<Written>>,
    /// Raft has said that entries below this index are committed.
    pub(super) committed_next: Cell<u64>,
    pub(super) term: Cell<u64>,
    pub(super) log_time_ms: Cell<i64>,
    /// Partitions that were begun.
    pub(super) partitions_begun: Cell<u32>,
    /// Tells one payload from every other.
    pub(super) payloads: Cell<u64>,
    pub(super) random: RefCell<Rng>,
    pub(super) outcome: RefCell<Outcome>,
}

impl Bench {
    pub(super) fn new(plan: Plan, random: Rng) -> Self {
        let partitions_begun = Cell::new(plan.partitions);
        Self {
            plan,
            ledger: RefCell::default(),
            machine: RefCell::default(),
            stored: RefCell::default(),
            checkpoints: RefCell::default(),
            committed_next: Cell::new(0),
            term: Cell::new(1),
            log_time_ms: Cell::new(1_000_000),
            partitions_begun,
            payloads: Cell::new(0),
            random: RefCell::new(random),
            outcome: RefCell::default(),
        }
    }

    pub(super) fn violation(&self, what: impl Into<String>) {
        let what = what.into();
        tracing::error!("violation: {what}");
        self.outcome.borrow_mut().violation(what);
    }

    pub(super) fn failed(&self) -> bool {
        !self.outcome.borrow().violations.is_empty()
    }

    pub(super) fn compared(&self, count: u64) {
        self.outcome.borrow_mut().records_compared += count;
    }

    /// Draws from the generator that all lives share.
    pub(super) fn draw<T>(&self, draw: impl FnOnce(&mut Rng) -> T) -> T {
        draw(&mut self.random.borrow_mut())
    }

    pub(super) fn checkpoint_begun(&self, id: LogId, state: Vec<u8>) {
        self.checkpoints.borrow_mut().push(Written { id, state, promised: false });
    }

    pub(super) fn checkpoint_promised(&self, id: LogId) {
        for written in self.checkpoints.borrow_mut().iter_mut().filter(|c| c.id == id) {
            written.promised = true;
        }
    }

    /// The newest checkpoint that is durable.
    pub(super) fn checkpoint(&self) -> Option<LogId> {
        let checkpoints = self.checkpoints.borrow();
        checkpoints.iter().filter(|c| c.promised).map(|c| c.id).max()
    }

    /// Judges the checkpoint that a start found; `damaged` when an older one may stand for it.
    pub(super) fn judge_checkpoint(&self, found: Option<(LogId, &[u8])>, damaged: bool) {
        let promised = self.checkpoint();
        let id = found.map(|(id, _)| id);
        if id < promised && !damaged {
            let ids = (id.map(Short), promised.map(Short));
            self.violation(format!("the newest checkpoint is lost: found {ids:?}"));
        }
        if let Some((id, state)) = found {
            let checkpoints = self.checkpoints.borrow();
            let known = checkpoints.iter().any(|c| c.id == id && c.state == state);
            drop(checkpoints);
            if !known {
                self.violation(format!("checkpoint {} is none that was written", Short(id)));
            }
            self.compared(1);
        }
    }

    /// Judges what a start found in the log.
    pub(super) fn judge_found(&self, found: &Found, committed: Option<LogId>) {
        let settled = self.ledger.borrow_mut().settle(found);
        if let Err(difference) = settled {
            self.violation(difference);
        }
        self.compared(found.entries.len() as u64);
        let told = self.committed_next.get();
        if committed.is_some_and(|committed| committed.index.0 >= told) {
            let committed = committed.map(Short);
            self.violation(format!("found {committed:?} committed, was told up to {told}"));
        }
    }
}

pub(super) fn key(partition: u32) -> PartitionKey {
    PartitionKey { topic: TopicId(1), partition: PartitionId(partition) }
}
