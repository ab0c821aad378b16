//! Disks that rot: bits of sealed segments turn while no process looks at them.
//!
//! Owns: which copies are damaged. Must never: damage a copy while another one is away, or two
//! copies of a shard at a time: of every shard a majority stays as it was flushed.

use std::rc::Rc;

use barrage_model::ShardId;
use barrage_world as world;
use barrage_world::sim::Rng;

use super::folders;
use super::nemesis::Nemesis;
use super::process::Node;
use crate::workload::{Disturbance, milliseconds, pick};

/// Bits that turn in one segment.
const BITS_MAX: u64 = 3;
/// Until rot is found that nobody reads: every sealed byte is read within a few rounds.
const FOUND_WITHIN_MS: u64 = 60_000;
const LOOK_EVERY_MS: u64 = 500;

impl Nemesis {
    /// Whether a copy at this place may be damaged or lost beside what is damaged already.
    pub(super) fn may_lose(&self, place: usize) -> bool {
        self.damaged.get().is_none_or(|damaged| damaged == place)
    }

    /// A process ends, and what it left rots before the next one comes.
    pub(super) fn damage(self: &Rc<Self>) -> bool {
        if self.moves.get() > 0 || !self.is_whole() {
            return false;
        }
        let node = match self.damaged.get() {
            Some(place) => self.node(place).filter(|node| node.is_running()),
            None => self.a_running_one(),
        };
        let Some(node) = node.filter(|node| !node.is_stopping()) else { return false };
        let shards = self.register.newest().map_or(0, |newest| newest.shards.len() as u32);
        if shards < 2 {
            return false;
        }
        let shard = ShardId(self.random().between(1, u64::from(shards) - 1) as u32);
        if folders::is_incomplete(&node.disk(), shard) {
            return false;
        }
        node.kill();
        let turned = turn_bits(node, shard, &mut self.random());
        if turned {
            self.damaged.set(Some(node.place));
            self.begin(Disturbance::Disk);
        }
        turned
    }

    /// Waits until damage had to be found by whoever looks for it.
    pub(super) async fn wait_for_repair(&self) {
        let Some(node) = self.damaged.get().and_then(|place| self.node(place)) else { return };
        let wanted = self.fired.borrow().get("damage").copied().unwrap_or_default();
        for _ in 0..FOUND_WITHIN_MS / LOOK_EVERY_MS {
            if folders::set_aside(&node.disk()) as u64 >= wanted {
                break;
            }
            world::sleep(milliseconds(LOOK_EVERY_MS)).await;
        }
        for _ in 0..folders::set_aside(&node.disk()) {
            self.count("damage-repaired");
        }
    }
}

/// Turns bits of one sealed segment, if there is one.
fn turn_bits(node: &Node, shard: ShardId, random: &mut Rng) -> bool {
    let disk = node.disk();
    let mut segments = folders::segments(&disk, shard);
    // The newest is not sealed.
    segments.pop();
    if segments.is_empty() {
        return false;
    }
    let (path, len) = pick(random, &segments).clone();
    for _ in 0..random.between(1, BITS_MAX) {
        let (at, bit) = (random.below(len), random.below(u64::from(u8::BITS)) as u32);
        drop(disk.flip_bit(&path, at, bit));
    }
    tracing::info!(place = node.place, %shard, path = %path.display(), "rots");
    true
}
