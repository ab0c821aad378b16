//! How often a copy that was whole is made anew, from its peers.
//!
//! Owns: counting that. Must never: be asked by the code under test.

use std::cell::{Cell, RefCell};
use std::collections::BTreeSet;

use barrage_model::{NodeId, ShardId};
use barrage_wire::ClusterDescription;

use super::folders;
use super::process::Node;

/// See the module.
#[derive(Default)]
pub(super) struct Seeding {
    voted: RefCell<BTreeSet<(NodeId, ShardId)>>,
    under_way: RefCell<BTreeSet<(NodeId, ShardId)>>,
    /// Copies for a node that had none.
    pub(super) first: Cell<u64>,
    /// Copies of a node that held the shard before.
    pub(super) anew: Cell<u64>,
}

impl Seeding {
    /// Looks at the folders of a node.
    pub(super) fn look(&self, node: &Node, id: NodeId, newest: &ClusterDescription) {
        let disk = node.disk();
        for row in newest.shards.iter().filter(|row| row.shard != ShardId(0)) {
            let own = (id, row.shard);
            if !folders::is_incomplete(&disk, row.shard) {
                self.under_way.borrow_mut().remove(&own);
                if row.voters.contains(&id) {
                    self.voted.borrow_mut().insert(own);
                }
                continue;
            }
            // What was moved away stays incomplete until it comes back.
            if row.assigned.contains(&id) && self.under_way.borrow_mut().insert(own) {
                let count = match self.voted.borrow().contains(&own) {
                    true => &self.anew,
                    false => &self.first,
                };
                count.set(count.get() + 1);
            }
        }
    }
}
