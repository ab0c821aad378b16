//! Which node is where, and what the cluster said of itself.
//!
//! Owns: ids given at joins, the newest description, and the rules that descriptions must keep:
//! an id is given to one node, a term has one leader. Must never: be asked by the code under test.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;

use barrage_model::{NodeId, ShardId, Term};
use barrage_wire::{ClusterDescription, ShardDescription};

use crate::workload::Witness;

/// See the module.
pub(super) struct Register {
    witness: Rc<Witness>,
    places: usize,
    /// Which node runs, or ran, at a place.
    nodes: RefCell<BTreeMap<usize, NodeId>>,
    births: RefCell<BTreeMap<u128, NodeId>>,
    leaders: RefCell<BTreeMap<(ShardId, Term), NodeId>>,
    voters: RefCell<BTreeMap<ShardId, BTreeSet<NodeId>>>,
    newest: RefCell<Option<Rc<ClusterDescription>>>,
    pub(super) lead_changes: Cell<u64>,
    pub(super) member_changes: Cell<u64>,
}

impl Register {
    pub(super) fn new(witness: &Rc<Witness>, places: usize) -> Self {
        Self {
            witness: Rc::clone(witness),
            places,
            nodes: RefCell::default(),
            births: RefCell::default(),
            leaders: RefCell::default(),
            voters: RefCell::default(),
            newest: RefCell::default(),
            lead_changes: Cell::new(0),
            member_changes: Cell::new(0),
        }
    }

    pub(super) fn witness(&self) -> Rc<Witness> {
        Rc::clone(&self.witness)
    }

    pub(super) fn places(&self) -> impl Iterator<Item = usize> + use<> {
        0..self.places
    }

    /// A node was let in.
    pub(super) fn joined(&self, birth: u128, node: NodeId) {
        let mut births = self.births.borrow_mut();
        let other = births.iter().find(|(known, id)| **id == node && **known != birth);
        if node == NodeId(1) || other.is_some() {
            self.witness.object(format!("{node} was let in twice, as two different nodes"));
        }
        if births.insert(birth, node).is_some_and(|before| before != node) {
            self.witness.object(format!("{node} was let in as another node before"));
        }
    }

    /// The node that runs at a place.
    pub(super) fn is_at(&self, place: usize, node: NodeId) {
        self.nodes.borrow_mut().insert(place, node);
    }

    /// Nobody is there any more.
    pub(super) fn left(&self, place: usize) {
        self.nodes.borrow_mut().remove(&place);
    }

    pub(super) fn node_at(&self, place: usize) -> Option<NodeId> {
        self.nodes.borrow().get(&place).copied()
    }

    pub(super) fn place_of(&self, node: NodeId) -> Option<usize> {
        let nodes = self.nodes.borrow();
        nodes.iter().find(|(_, known)| **known == node).map(|(place, _)| *place)
    }

    pub(super) fn newest(&self) -> Option<Rc<ClusterDescription>> {
        self.newest.borrow().clone()
    }

    /// A node has described the cluster.
    pub(super) fn saw(&self, description: ClusterDescription) {
        for shard in &description.shards {
            self.saw_shard(shard);
        }
        *self.newest.borrow_mut() = Some(Rc::new(description));
    }

    fn saw_shard(&self, row: &ShardDescription) {
        let Some(leader) = row.leader else { return };
        let mut leaders = self.leaders.borrow_mut();
        let key = (row.shard, row.term);
        match leaders.get(&key) {
            Some(known) if *known != leader => self.witness.object(format!(
                "two leaders of shard {} in term {}: {known} and {leader}",
                row.shard, row.term
            )),
            Some(_) => {}
            None => {
                let others = (row.shard, Term(0))..(ShardId(row.shard.0 + 1), Term(0));
                if leaders.range(others).any(|(_, known)| *known != leader) {
                    self.lead_changes.set(self.lead_changes.get() + 1);
                }
                leaders.insert(key, leader);
            }
        }
        let voters: BTreeSet<NodeId> = row.voters.iter().copied().collect();
        let before = self.voters.borrow_mut().insert(row.shard, voters.clone());
        if before.is_some_and(|before| before != voters) {
            self.member_changes.set(self.member_changes.get() + 1);
        }
    }
}

/// Every shard is held by who is to hold it, and by nobody else.
pub(super) fn is_at_rest(description: &ClusterDescription) -> bool {
    let all: BTreeSet<NodeId> = description.nodes.iter().map(|node| node.node).collect();
    description.healthy
        && description.nodes.iter().all(|node| node.present && !node.leaving)
        && description.shards.iter().all(|shard| {
            let set = |nodes: &[NodeId]| nodes.iter().copied().collect::<BTreeSet<_>>();
            let (assigned, voters) = (set(&shard.assigned), set(&shard.voters));
            let watches = shard.shard == ShardId(0);
            let learners = set(&shard.learners);
            let right = if watches {
                all.difference(&assigned).copied().collect::<BTreeSet<_>>() == learners
            } else {
                learners.is_empty()
            };
            assigned == voters && right && shard.leader == shard.assigned.first().copied()
        })
}
