//! Where new partitions go: a pure function of how many partitions each shard holds.
//!
//! Owns: the rule. Must never: look at anything but its arguments.
//! Invariants: the loads after placing differ by at most one more than they had to; equal input,
//! equal answer.

use barrage_model::ShardId;

/// Shards for `count` new partitions: each goes to the least loaded shard, ties to the first one at
/// or after `start` (so that single-partition topics do not all begin on the first shard).
///
/// `loads` is the number of partitions per data shard: shard 1 first. Returns nothing if there is
/// no shard.
pub fn spread(loads: &[u64], count: u32, start: u64) -> Vec<ShardId> {
    let shards = loads.len();
    if shards == 0 {
        return Vec::new();
    }
    // The order in which ties are broken is fixed once, so one heap of (load, turn) decides
    // everything.
    let first = usize::try_from(start % shards as u64).unwrap_or(0);
    let turns = (0..shards).map(|turn| (first + turn) % shards);
    let mut heap: std::collections::BinaryHeap<_> = turns
        .enumerate()
        .filter_map(|(turn, shard)| Some(std::cmp::Reverse((*loads.get(shard)?, turn, shard))))
        .collect();
    let mut placed = Vec::new();
    for _ in 0..count {
        let Some(std::cmp::Reverse((load, turn, shard))) = heap.pop() else { break };
        heap.push(std::cmp::Reverse((load + 1, turn, shard)));
        placed.push(ShardId(u32::try_from(shard).unwrap_or(0) + 1));
    }
    placed
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(loads: &[u64], count: u32, start: u64, want: &[u32]) {
        let want: Vec<_> = want.iter().copied().map(ShardId).collect();
        assert_eq!(spread(loads, count, start), want, "{loads:?} {count} {start}");
    }

    #[test]
    fn least_loaded_first_ties_by_turn() {
        check(&[0, 0], 4, 0, &[1, 2, 1, 2]);
        check(&[0, 0], 3, 1, &[2, 1, 2]);
        check(&[5, 0, 0], 4, 0, &[2, 3, 2, 3]);
        check(&[0, 0, 0], 1, 5, &[3]);
        check(&[7], 3, 9, &[1, 1, 1]);
        check(&[], 3, 0, &[]);
        check(&[0, 0], 0, 0, &[]);
    }
}
