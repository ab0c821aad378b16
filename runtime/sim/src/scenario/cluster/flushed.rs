//! What was acknowledged for every voter is on every voter's disk, flushed.
//!
//! Owns: looking, in the moment of the acknowledgement, at what a power loss would leave of each
//! disk. Must never: look while it is not certain who votes.

use std::cell::Cell;
use std::rc::{Rc, Weak};

use barrage_model::PartitionKey;
use barrage_world::sim::{CrashStyle, Disk};

use super::folders;
use super::nemesis::Nemesis;

/// With so many nodes and copies every node votes in every group.
const NODES: usize = 3;
/// Looks in a run: each costs a copy of all disks.
const LOOKS_MAX: u64 = 12;
/// One acknowledgement in so many is looked at.
const LOOK_ONE_IN: u64 = 4;
/// A batch's base offset and leader epoch are the broker's; the rest is as it was sent, and begins
/// with a checksum of it.
const OWN_BYTES: std::ops::Range<usize> = 17..81;

/// See the module.
pub(super) struct Flushed {
    nemesis: Weak<Nemesis>,
    seen: Cell<u64>,
    pub(super) looks: Cell<u64>,
}

impl Flushed {
    pub(super) fn new(nemesis: &Rc<Nemesis>) -> Self {
        Self { nemesis: Rc::downgrade(nemesis), seen: Cell::new(0), looks: Cell::new(0) }
    }

    /// A batch was acknowledged as flushed by every voter. A replica that was copied anew since it
    /// was sent has nothing of what retention had taken by then.
    pub(super) fn judge(&self, key: PartitionKey, base: u64, log_time_ms: i64, batch: &[u8]) {
        let Some(nemesis) = self.nemesis.upgrade() else { return };
        self.seen.set(self.seen.get() + 1);
        let due = self.seen.get().is_multiple_of(LOOK_ONE_IN) && self.looks.get() < LOOKS_MAX;
        let Some(own) = batch.get(OWN_BYTES).filter(|_| due && all_vote(&nemesis)) else { return };
        if nemesis.context.witness.may_be_gone(key, base, log_time_ms) {
            return;
        }
        self.looks.set(self.looks.get() + 1);
        for node in nemesis.nodes.iter().filter(|node| node.is_wanted.get()) {
            let left = Disk::boot(node.disk().crash_as(CrashStyle::KeepNone, |_| 0));
            if !folders::holds(&left, own) {
                nemesis.context.witness.object(format!(
                    "a batch of {key} was said to be flushed by all, and place {} lacks it",
                    node.place
                ));
            }
        }
    }
}

/// Whether every node votes in every group, since before the batch was sent.
fn all_vote(nemesis: &Nemesis) -> bool {
    let three = nemesis.plan.nodes == NODES && !nemesis.has_moved.get();
    three && nemesis.is_whole()
}
