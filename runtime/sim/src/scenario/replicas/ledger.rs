//! The state machine of the scenario: it counts, per client, and carries a hash of all it saw.
//!
//! Owns: the command's bytes, the state and its checkpoint. What it applied it tells the
//! `Witness`, which compares the replicas at every index.
//!
//! Must never: depend on anything but the commands.

use std::collections::BTreeMap;
use std::rc::Rc;

use barrage_commitlog::CommitLog;
use barrage_model::{NodeId, Term};
use barrage_raft::{Applied, Machine, Parts, RestoreError, UnknownCommand};
use xxhash_rust::xxh3::xxh3_64_with_seed;

use super::witness::Witness;

/// A client's next record. The record itself travels beside it, as a run of the client's own
/// partition, at the offset that is its sequence number.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Command {
    pub(super) client: u32,
    pub(super) sequence: u64,
    /// The term it was proposed in: it may be committed in no other.
    pub(super) term: Term,
}

const COMMAND_BYTES: usize = 20;
const ENTRY_BYTES: usize = 12;

impl Command {
    pub(super) fn encode(self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(COMMAND_BYTES);
        bytes.extend_from_slice(&self.client.to_le_bytes());
        bytes.extend_from_slice(&self.sequence.to_le_bytes());
        bytes.extend_from_slice(&self.term.0.to_le_bytes());
        bytes
    }

    fn decode(bytes: &[u8]) -> Option<Self> {
        let (client, rest) = bytes.split_first_chunk::<4>()?;
        let (sequence, rest) = rest.split_first_chunk::<8>()?;
        let (term, rest) = rest.split_first_chunk::<8>()?;
        rest.is_empty().then_some(Self {
            client: u32::from_le_bytes(*client),
            sequence: u64::from_le_bytes(*sequence),
            term: Term(u64::from_le_bytes(*term)),
        })
    }
}

/// What became of a command.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Verdict {
    /// It was the next one of its client.
    Accepted,
    /// It had been accepted before.
    Duplicate,
    /// One before it is missing.
    Gap,
}

/// The state.
pub(super) struct Ledger {
    node: NodeId,
    witness: Rc<Witness>,
    log: Option<CommitLog>,
    last_index: u64,
    hash: u64,
    next: BTreeMap<u32, u64>,
}

impl Ledger {
    pub(super) fn new(node: NodeId, witness: Rc<Witness>) -> Self {
        Self { node, witness, log: None, last_index: 0, hash: 1, next: BTreeMap::new() }
    }

    /// The sequence number that `client` has to use next.
    pub(super) fn next(&self, client: u32) -> u64 {
        self.next.get(&client).copied().unwrap_or(0)
    }

    /// Index and hash of everything applied.
    pub(super) fn position(&self) -> (u64, u64) {
        (self.last_index, self.hash)
    }

    fn decide(&mut self, command: Command) -> Verdict {
        let next = self.next.entry(command.client).or_default();
        match command.sequence.cmp(next) {
            std::cmp::Ordering::Equal => {
                *next += 1;
                Verdict::Accepted
            }
            std::cmp::Ordering::Less => Verdict::Duplicate,
            std::cmp::Ordering::Greater => Verdict::Gap,
        }
    }
}

impl Machine for Ledger {
    type Reply = Verdict;

    fn attach(&mut self, log: &CommitLog) {
        self.log = Some(log.clone());
    }

    fn apply(&mut self, entry: &Applied<'_>) -> Result<Verdict, UnknownCommand> {
        let index = entry.id.index;
        assert!(index.0 > self.last_index, "applied twice or out of order");
        let Some(command) = Command::decode(entry.command) else {
            panic!("a command that nobody proposed was committed at {index}");
        };
        assert_eq!(command.term, entry.id.term, "committed in another term than proposed");
        let verdict = self.decide(command);
        if let Some(log) = &self.log {
            match verdict {
                Verdict::Accepted => log.index_run(index, 0),
                Verdict::Duplicate | Verdict::Gap => log.refuse_run(index, 0),
            }
        }
        self.last_index = index.0;
        self.hash = xxh3_64_with_seed(entry.command, self.hash ^ index.0);
        self.witness.applied(self.node, entry.id, self.hash);
        Ok(verdict)
    }

    fn checkpoint(&self) -> Parts {
        let mut bytes = self.last_index.to_le_bytes().to_vec();
        bytes.extend_from_slice(&self.hash.to_le_bytes());
        for (client, next) in &self.next {
            bytes.extend_from_slice(&client.to_le_bytes());
            bytes.extend_from_slice(&next.to_le_bytes());
        }
        Parts::one(bytes)
    }

    fn restore(&mut self, bytes: &[u8]) -> Result<(), RestoreError> {
        let damaged = || RestoreError("not a ledger".to_owned());
        let (index, rest) = bytes.split_first_chunk::<8>().ok_or_else(damaged)?;
        let (hash, rest) = rest.split_first_chunk::<8>().ok_or_else(damaged)?;
        let mut next = BTreeMap::new();
        for entry in rest.chunks(ENTRY_BYTES) {
            let (client, sequence) = entry.split_first_chunk::<4>().ok_or_else(damaged)?;
            let sequence = sequence.first_chunk::<8>().ok_or_else(damaged)?;
            next.insert(u32::from_le_bytes(*client), u64::from_le_bytes(*sequence));
        }
        (self.last_index, self.hash) = (u64::from_le_bytes(*index), u64::from_le_bytes(*hash));
        self.next = next;
        if self.log.is_some() {
            // The log is open: this one came from a peer.
            self.witness.given_checkpoint(self.node);
        }
        self.witness.restored(self.node, self.last_index, self.hash);
        Ok(())
    }
}
