//! What was seen from outside while the replicas ran; it outlives their processes.
//!
//! Owns: the history of the replicas, which the checker judges; what clients were promised, which
//! must be on every member; and the violations found on the way. Must never: be asked by the code
//! under test.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet};

use barrage_commitlog::Vote;
use barrage_model::{LogId, LogIndex, NodeId, Term};
use barrage_world::sim;

use crate::history::{Event, History, Nanos, Note, Options, Sight, StateHash, What};

/// The one shard, as the history names it.
const SHARD: &str = "shard";

/// A record that a client was promised.
#[derive(Clone, Debug)]
pub(super) struct Promise {
    pub(super) payload: Vec<u8>,
    /// It was committed in this term, or before.
    pub(super) term: Term,
}

/// Sees everything, says nothing.
#[derive(Default)]
pub(super) struct Witness {
    history: RefCell<History>,
    applied: RefCell<BTreeSet<u64>>,
    /// The newest term that each node led.
    led: RefCell<BTreeMap<NodeId, Term>>,
    promises: RefCell<BTreeMap<(u32, u64), Promise>>,
    /// The sequence number behind the last record promised to a client in a term.
    promised_in: RefCell<BTreeMap<(u32, Term), u64>>,
    given_checkpoint: RefCell<BTreeSet<NodeId>>,
    violations: RefCell<Vec<String>>,
    not_opened: RefCell<BTreeMap<NodeId, String>>,
    failures: RefCell<Vec<(NodeId, String)>>,
    restored: Cell<u64>,
    installed: Cell<u64>,
    duplicates: Cell<u64>,
    reads: Cell<u64>,
    proposed_again: Cell<u64>,
}

/// Violations kept; one is enough to fail.
const VIOLATIONS_MAX: usize = 20;

impl Witness {
    pub(super) fn object(&self, violation: String) {
        let mut violations = self.violations.borrow_mut();
        if violations.len() < VIOLATIONS_MAX && !violations.contains(&violation) {
            violations.push(violation);
        }
    }

    pub(super) fn violations(&self) -> Vec<String> {
        self.violations.borrow().clone()
    }

    fn note(&self, note: Note) {
        self.history.borrow_mut().note(Nanos(sim::world_time_ns()), note);
    }

    /// For the rule of replicas (I13).
    fn saw(&self, node: NodeId, saw: Sight) {
        self.note(Note::Replica { shard: SHARD.into(), node, saw });
    }

    /// A process of the node begins.
    pub(super) fn started(&self, node: NodeId) {
        self.led.borrow_mut().remove(&node);
        self.saw(node, Sight::Started);
    }

    /// A replica applied a command.
    pub(super) fn applied(&self, node: NodeId, id: LogId, hash: u64) {
        self.applied.borrow_mut().insert(id.index.0);
        let hash = StateHash(hash);
        self.saw(node, Sight::Committed { index: id.index, term: id.term, chain: hash });
        self.saw(node, Sight::Applied { index: id.index, state: hash });
    }

    /// A replica took its state from a checkpoint.
    pub(super) fn restored(&self, node: NodeId, index: u64, hash: u64) {
        self.restored.set(self.restored.get() + 1);
        if index > 0 {
            self.saw(node, Sight::Applied { index: LogIndex(index), state: StateHash(hash) });
        }
        if index > 0 && !self.applied.borrow().contains(&index) {
            self.object(format!("I13: {node} restored index {index}, which nobody applied"));
        }
    }

    /// At the end: the voters, and where each of them stands.
    pub(super) fn ended(&self, stand: &BTreeMap<NodeId, (u64, u64)>) {
        self.note(Note::Voters { shard: SHARD.into(), voters: stand.keys().copied().collect() });
        for (node, (index, hash)) in stand {
            let chain = StateHash(*hash);
            self.saw(*node, Sight::Holds { index: LogIndex(*index), chain });
        }
        self.note(Note::Drain);
    }

    /// What the checker says of it all; counts what it compared.
    pub(super) fn judge(&self) -> u64 {
        let verdict = self.history.borrow().check(&Options::default());
        for violation in &verdict.violations {
            self.object(violation.to_string());
        }
        verdict.counters.replica_compared
    }

    /// A running replica was given a checkpoint by a peer.
    pub(super) fn given_checkpoint(&self, node: NodeId) {
        self.installed.set(self.installed.get() + 1);
        self.given_checkpoint.borrow_mut().insert(node);
    }

    pub(super) fn was_given_checkpoint(&self, node: NodeId) -> bool {
        self.given_checkpoint.borrow().contains(&node)
    }

    /// A replica says that it leads: it voted for itself, and said so to others.
    pub(super) fn leads(&self, node: NodeId, term: Term) {
        if self.led.borrow_mut().insert(node, term) != Some(term) {
            self.saw(node, Sight::Voted { term, vote: Some(node) });
            self.saw(node, Sight::Led { term });
        }
    }

    /// A replica says that it may propose in `term`: what was promised in a term before that was
    /// committed before the first entry of this one, and so it has applied it. `next` gives the
    /// number that the replica expects from a client.
    pub(super) fn serves(&self, node: NodeId, term: Term, next: impl Fn(u32) -> u64) {
        for ((client, before), promised) in self.promised_in.borrow().iter() {
            let has = next(*client);
            if *before < term && has < *promised {
                self.object(format!(
                    "I1: {node} leads term {term} and has {has} records of client {client}, who \
                     was promised {promised} in term {before}"
                ));
            }
        }
    }

    /// A replica came back with this vote on its disk.
    pub(super) fn came_back(&self, node: NodeId, vote: Option<Vote>) {
        if let Some(vote) = vote {
            // A committed one names the leader that it follows, whoever it voted for.
            let given = (!vote.committed || vote.node == node).then_some(vote.node);
            self.saw(node, Sight::Voted { term: vote.term, vote: given });
        }
    }

    /// A process could not open its group.
    pub(super) fn did_not_open(&self, node: NodeId, reason: String) {
        self.not_opened.borrow_mut().insert(node, reason);
    }

    /// Why the last process of `node` could not open its group, told once.
    pub(super) fn take_not_opened(&self, node: NodeId) -> Option<String> {
        self.not_opened.borrow_mut().remove(&node)
    }

    /// A process ended because its group had failed.
    pub(super) fn failed(&self, node: NodeId, reason: String) {
        self.failures.borrow_mut().push((node, reason));
    }

    /// The process of `node` that ended by itself, and why, told once.
    pub(super) fn take_failure(&self, node: NodeId) -> Option<String> {
        let mut failures = self.failures.borrow_mut();
        let found = failures.iter().position(|(failed, _)| *failed == node)?;
        Some(failures.remove(found).1)
    }

    /// A client was told that its record is stored.
    pub(super) fn promised(&self, client: u32, sequence: u64, promise: Promise) {
        self.promised_in.borrow_mut().insert((client, promise.term), sequence + 1);
        let replaced = self.promises.borrow_mut().insert((client, sequence), promise);
        assert!(replaced.is_none(), "a client goes on after a promise");
    }

    /// How many records `client` was promised: sequence numbers below this one.
    pub(super) fn promised_to(&self, client: u32) -> u64 {
        let promises = self.promises.borrow();
        let last = promises.range((client, 0)..=(client, u64::MAX)).next_back();
        last.map_or(0, |((_, sequence), _)| sequence + 1)
    }

    pub(super) fn promises(&self) -> BTreeMap<(u32, u64), Promise> {
        self.promises.borrow().clone()
    }

    /// A read that was promised to be fresh said that the client's next number is `next`.
    pub(super) fn read(&self, client: u32, promised_before: u64, next: u64) {
        self.reads.set(self.reads.get() + 1);
        if next < promised_before {
            self.object(format!(
                "I1: stale read: client {client} had been promised {promised_before} records, a \
                 leader said {next}"
            ));
        }
    }

    pub(super) fn saw_duplicate(&self) {
        self.duplicates.set(self.duplicates.get() + 1);
    }

    /// A replica will propose what it has proposed before.
    pub(super) fn proposed_again(&self) {
        self.proposed_again.set(self.proposed_again.get() + 1);
    }

    /// Terms in which somebody led.
    fn terms(&self) -> u64 {
        let history = self.history.borrow();
        let led = |event: &Event| match event.what {
            What::Note(Note::Replica { saw: Sight::Led { term }, .. }) => Some(term),
            _ => None,
        };
        history.events().iter().filter_map(led).collect::<BTreeSet<_>>().len() as u64
    }

    pub(super) fn counts(&self) -> Counts {
        Counts {
            commits: self.applied.borrow().len() as u64,
            restored: self.restored.get(),
            installed: self.installed.get(),
            duplicates: self.duplicates.get(),
            reads: self.reads.get(),
            proposed_again: self.proposed_again.get(),
            promises: self.promises.borrow().len() as u64,
            terms: self.terms(),
            highest: self.applied.borrow().last().copied().unwrap_or(0),
        }
    }
}

/// How much there was to see.
#[derive(Clone, Copy, Debug)]
pub(super) struct Counts {
    pub(super) commits: u64,
    pub(super) restored: u64,
    pub(super) installed: u64,
    pub(super) duplicates: u64,
    pub(super) reads: u64,
    pub(super) proposed_again: u64,
    pub(super) promises: u64,
    pub(super) terms: u64,
    pub(super) highest: u64,
}
