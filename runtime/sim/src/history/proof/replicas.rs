//! Three replicas of a shard that do everything right, as far as a history sees them.

use barrage_model::{LogIndex, NodeId, Term};

use super::rng::Rng;
use crate::history::{Name, Note, Sight, StateHash};

#[derive(Clone, Copy, Default)]
struct Node {
    term: u64,
    vote: Option<u64>,
    /// Length of its log, and how far it knows of the commit and has applied.
    held: u64,
    committed: u64,
    applied: u64,
}

pub(super) struct Replicas {
    shard: Name,
    nodes: [Node; 3],
    leader: Option<usize>,
    /// The term of each committed entry, from index 1.
    entries: Vec<u64>,
}

impl Replicas {
    pub(super) fn new() -> Self {
        Self { shard: "s1".into(), nodes: [Node::default(); 3], leader: None, entries: Vec::new() }
    }

    fn chain(index: u64, term: u64) -> StateHash {
        StateHash(index.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ term)
    }

    fn note(&self, node: usize, saw: Sight) -> Note {
        Note::Replica { shard: self.shard.clone(), node: NodeId(node as u64 + 1), saw }
    }

    fn committed(&self) -> u64 {
        self.entries.len() as u64
    }

    pub(super) fn voters(&self) -> Note {
        Note::Voters { shard: self.shard.clone(), voters: (1..=3).map(NodeId).collect() }
    }

    /// Something happens, and something is seen of it.
    pub(super) fn step(&mut self, rng: &mut Rng) -> Vec<Note> {
        let node = rng.below(3);
        match rng.below(8) {
            0 => self.elect(node),
            1 => {
                let row = &mut self.nodes[node];
                (row.committed, row.applied) = (row.committed / 2, row.applied / 2);
                if self.leader == Some(node) {
                    self.leader = None;
                }
                vec![self.note(node, Sight::Started), self.vote(node)]
            }
            2..=4 => self.append(rng),
            _ => self.look(node),
        }
    }

    fn vote(&self, node: usize) -> Note {
        let row = self.nodes[node];
        let vote = row.vote.map(NodeId);
        self.note(node, Sight::Voted { term: Term(row.term), vote })
    }

    fn elect(&mut self, candidate: usize) -> Vec<Note> {
        if self.nodes[candidate].held < self.committed() {
            return Vec::new();
        }
        let term = self.nodes.iter().map(|node| node.term).max().unwrap_or_default() + 1;
        let mut notes = Vec::new();
        for node in [candidate, (candidate + 1) % 3] {
            (self.nodes[node].term, self.nodes[node].vote) = (term, Some(candidate as u64 + 1));
            notes.push(self.vote(node));
        }
        self.leader = Some(candidate);
        notes.push(self.note(candidate, Sight::Led { term: Term(term) }));
        notes
    }

    fn append(&mut self, rng: &mut Rng) -> Vec<Note> {
        let Some(leader) = self.leader else { return Vec::new() };
        self.entries.push(self.nodes[leader].term);
        let committed = self.committed();
        for node in [leader, (leader + 1 + rng.below(2)) % 3] {
            self.nodes[node].held = committed;
        }
        Vec::new()
    }

    /// A node tells where it stands.
    fn look(&mut self, node: usize) -> Vec<Note> {
        let row = &mut self.nodes[node];
        row.committed = row.held;
        row.applied = row.held;
        let Some(term) = self.entries.get(row.held.wrapping_sub(1) as usize) else {
            return Vec::new();
        };
        let (index, term) = (LogIndex(row.held), *term);
        let state = StateHash(!row.held);
        vec![
            self.note(
                node,
                Sight::Committed { index, term: Term(term), chain: Self::chain(index.0, term) },
            ),
            self.note(node, Sight::Applied { index, state }),
        ]
    }

    /// Everybody tells what it holds of the last entry.
    pub(super) fn finish(&mut self) -> Vec<Note> {
        let mut notes: Vec<Note> = (0..3).flat_map(|node| self.look(node)).collect();
        let committed = self.committed();
        let Some(term) = self.entries.last().copied() else { return notes };
        for node in (0..3).filter(|node| self.nodes[*node].held == committed) {
            let (index, chain) = (LogIndex(committed), Self::chain(committed, term));
            notes.push(self.note(node, Sight::Holds { index, chain }));
        }
        notes
    }
}
