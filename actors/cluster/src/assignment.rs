//! Which nodes hold a copy of each shard: a pure function of the nodes and what they hold now.
//!
//! ```text
//!   keep what may stay -> fill up to the copies wanted -> even out, a few moves at a time
//!                                                      -> who leads: the first of each list
//! ```
//!
//! Owns: the rule. Must never: look at anything but its arguments; put two copies of a shard on one
//! node; take a copy from a node because it is down.
//! Invariants: every list has an odd number of nodes, the largest that target and members allow,
//! except where too few nodes can be reached to add one; equal input, equal answer.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use barrage_model::{NodeId, ShardId};

/// A node, as far as copies are concerned.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Member {
    /// The node.
    pub node: NodeId,
    /// It may be given new copies: it was heard of lately.
    pub present: bool,
    /// It is to be emptied.
    pub leaving: bool,
}

/// The nodes that hold each shard; the first one is to lead it.
pub type Assignment = BTreeMap<ShardId, Vec<NodeId>>;

/// What to assign.
#[derive(Clone, Copy, Debug)]
pub struct Request<'a> {
    /// The data shards, and that of the catalog.
    pub shards: &'a [ShardId],
    /// All nodes of the cluster.
    pub members: &'a [Member],
    /// Copies wanted of each shard: 1, 3 or 5.
    pub copies_wanted: usize,
    /// Copies that may change their node for the sake of balance, at most. What is missing, and
    /// what must leave a node, is not counted.
    pub moves_max: usize,
}

/// Copies that a cluster of `member_count` nodes keeps: the largest odd number that both allow, for
/// an even number of voters bears no more failures than one less.
#[must_use]
pub fn copies(copies_wanted: usize, member_count: usize) -> usize {
    let most = copies_wanted.min(member_count).max(1);
    if most.is_multiple_of(2) { most - 1 } else { most }
}

/// The assignment that follows `current`.
#[must_use]
pub fn assign(current: &Assignment, request: &Request<'_>) -> Assignment {
    let mut work = Work::new(current, request);
    for shard in request.shards {
        work.fill(*shard);
    }
    work.even_out(request.moves_max);
    work.choose_leaders();
    work.assignment
}

/// An assignment under way.
struct Work {
    assignment: Assignment,
    /// Copies that each staying node holds.
    loads: BTreeMap<NodeId, usize>,
    present: BTreeSet<NodeId>,
    copies: usize,
}

impl Work {
    fn new(current: &Assignment, request: &Request<'_>) -> Self {
        let staying = || request.members.iter().filter(|member| !member.leaving);
        let copies = copies(request.copies_wanted, staying().count());
        let mut loads: BTreeMap<NodeId, usize> = staying().map(|member| (member.node, 0)).collect();
        let mut assignment = Assignment::new();
        for shard in request.shards {
            let mut kept = Vec::new();
            for node in current.get(shard).into_iter().flatten() {
                // What leaves is replaced below, and what is not known any more is gone.
                if let Some(load) = loads.get_mut(node)
                    && !kept.contains(node)
                {
                    kept.push(*node);
                    *load += 1;
                }
            }
            assignment.insert(*shard, kept);
        }
        let present = staying().filter(|member| member.present).map(|member| member.node);
        Self { assignment, loads, present: present.collect(), copies }
    }

    fn holders(&self, shard: ShardId) -> &[NodeId] {
        self.assignment.get(&shard).map_or(&[], Vec::as_slice)
    }

    fn load(&self, node: NodeId) -> usize {
        self.loads.get(&node).copied().unwrap_or(0)
    }

    fn add(&mut self, shard: ShardId, node: NodeId) {
        self.assignment.entry(shard).or_default().push(node);
        *self.loads.entry(node).or_default() += 1;
    }

    fn remove(&mut self, shard: ShardId, node: NodeId) {
        self.assignment.entry(shard).or_default().retain(|holder| *holder != node);
        *self.loads.entry(node).or_default() -= 1;
    }

    /// Gives a shard as many copies as it is to have.
    fn fill(&mut self, shard: ShardId) {
        while self.holders(shard).len() > self.copies {
            // The last of the most loaded: the first of a list leads.
            let holders = self.holders(shard).iter().enumerate().skip(1);
            let most = holders.max_by_key(|(at, node)| (self.load(**node), *at));
            let Some((_, node)) = most.map(|(at, node)| (at, *node)) else { return };
            self.remove(shard, node);
        }
        while self.holders(shard).len() < self.copies {
            let Some(node) = self.least_loaded_without(shard) else { break };
            self.add(shard, node);
        }
    }

    fn least_loaded_without(&self, shard: ShardId) -> Option<NodeId> {
        let free = self.present.iter().filter(|node| !self.holders(shard).contains(node));
        free.min_by_key(|node| (self.load(**node), **node)).copied()
    }

    /// Moves copies from the most loaded nodes to the least loaded ones.
    fn even_out(&mut self, moves_max: usize) {
        for _ in 0..moves_max {
            let Some((shard, from, to)) = self.best_move() else { return };
            self.remove(shard, from);
            self.add(shard, to);
        }
    }

    /// A copy whose move makes the loads more even.
    fn best_move(&self) -> Option<(ShardId, NodeId, NodeId)> {
        let to = *self.present.iter().min_by_key(|node| (self.load(**node), **node))?;
        let mut donors: Vec<NodeId> = self.loads.keys().copied().collect();
        donors.sort_by_key(|node| (std::cmp::Reverse(self.load(*node)), *node));
        let worth = |from: &NodeId| self.load(*from) > self.load(to) + 1;
        donors.into_iter().take_while(worth).find_map(|from| {
            let gives = |(_, holders): &(&ShardId, &Vec<NodeId>)| {
                holders.contains(&from) && !holders.contains(&to)
            };
            self.assignment.iter().find(gives).map(|(shard, _)| (*shard, from, to))
        })
    }

    /// Puts the leader of each shard first, so that nodes lead about equally many. Who leads now
    /// goes on where that is as good.
    fn choose_leaders(&mut self) {
        let mut led: BTreeMap<NodeId, usize> = self.loads.keys().map(|node| (*node, 0)).collect();
        for holders in self.assignment.values() {
            if let Some(leader) = holders.first() {
                *led.entry(*leader).or_default() += 1;
            }
        }
        // Each round makes the leads more even, so there are at most as many as shards.
        for _ in 0..self.assignment.len() {
            let Some(path) = self.path_of_leads(&led) else { return };
            for (shard, to) in path {
                let holders = self.assignment.entry(shard).or_default();
                let Some(at) = holders.iter().position(|node| *node == to) else { continue };
                let from = holders.first().copied().unwrap_or(to);
                holders.swap(0, at);
                *led.entry(from).or_default() -= 1;
                *led.entry(to).or_default() += 1;
            }
        }
    }

    /// Leads that, handed on one after the other, take one from a node that leads most and give one
    /// to a node that leads at least two less: a breadth-first search, so the shortest such chain.
    fn path_of_leads(&self, led: &BTreeMap<NodeId, usize>) -> Option<Vec<(ShardId, NodeId)>> {
        let count = |node: &NodeId| led.get(node).copied().unwrap_or(0);
        let most = led.values().copied().max()?;
        let mut came: BTreeMap<NodeId, (NodeId, ShardId)> = BTreeMap::new();
        let mut waiting: VecDeque<NodeId> =
            led.keys().copied().filter(|node| count(node) == most).collect();
        while let Some(from) = waiting.pop_front() {
            if count(&from) + 1 < most {
                let mut path = Vec::new();
                let mut node = from;
                while let Some((before, shard)) = came.get(&node).copied() {
                    path.push((shard, node));
                    node = before;
                }
                path.reverse();
                return Some(path);
            }
            for (shard, holders) in &self.assignment {
                if holders.first() != Some(&from) {
                    continue;
                }
                for to in holders.iter().skip(1).filter(|node| self.present.contains(node)) {
                    if count(to) < most && !came.contains_key(to) {
                        came.insert(*to, (from, *shard));
                        waiting.push_back(*to);
                    }
                }
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::indexing_slicing, reason = "tests fail by panicking")]

    use super::*;

    fn members(count: u64) -> Vec<Member> {
        let member = |node| Member { node: NodeId(node), present: true, leaving: false };
        (1..=count).map(member).collect()
    }

    fn shards(count: u32) -> Vec<ShardId> {
        (0..count).map(ShardId).collect()
    }

    fn request<'a>(shards: &'a [ShardId], members: &'a [Member], moves_max: usize) -> Request<'a> {
        Request { shards, members, copies_wanted: 3, moves_max }
    }

    fn loads(assignment: &Assignment) -> BTreeMap<NodeId, (usize, usize)> {
        let mut loads: BTreeMap<NodeId, (usize, usize)> = BTreeMap::new();
        for holders in assignment.values() {
            for (at, node) in holders.iter().enumerate() {
                let (held, led) = loads.entry(*node).or_default();
                *held += 1;
                *led += usize::from(at == 0);
            }
        }
        loads
    }

    fn spread<T: Ord + Copy>(values: impl Iterator<Item = T>) -> (T, T) {
        let values: Vec<T> = values.collect();
        (*values.iter().min().unwrap_or(&values[0]), *values.iter().max().unwrap_or(&values[0]))
    }

    /// What must hold whatever was asked.
    fn check(assignment: &Assignment, request: &Request<'_>) {
        assert_eq!(assignment.len(), request.shards.len());
        for (shard, holders) in assignment {
            let different: BTreeSet<_> = holders.iter().collect();
            assert_eq!(different.len(), holders.len(), "{shard}: two copies on one node");
            for node in holders {
                let member = request.members.iter().find(|member| member.node == *node);
                assert!(member.is_some_and(|member| !member.leaving), "{shard} is on {node}");
            }
        }
    }

    #[test]
    fn copies_are_odd() {
        let table = [(3, 1, 1), (3, 2, 1), (3, 3, 3), (3, 9, 3), (5, 4, 3), (5, 5, 5), (1, 3, 1)];
        for (wanted, members, expected) in table {
            assert_eq!(copies(wanted, members), expected, "{wanted} of {members}");
        }
    }

    #[test]
    fn copies_and_leads_are_even_and_stay() {
        for nodes in 1..=9 {
            for count in [1, 2, 7, 16, 48] {
                let (shards, members) = (shards(count), members(nodes));
                let request = request(&shards, &members, 1_000);
                let assignment = assign(&Assignment::new(), &request);
                check(&assignment, &request);
                let wanted = copies(3, members.len());
                assert!(assignment.values().all(|holders| holders.len() == wanted));
                let loads = loads(&assignment);
                if loads.len() == members.len() {
                    let (least, most) = spread(loads.values().map(|(held, _)| *held));
                    assert!(most - least <= 1, "{nodes} nodes, {count} shards: {loads:?}");
                    let (least, most) = spread(loads.values().map(|(_, led)| *led));
                    assert!(most - least <= 1, "{nodes} nodes, {count} shards: {loads:?}");
                }
                assert_eq!(assign(&assignment, &request), assignment, "it changes by itself");
            }
        }
    }

    #[test]
    fn a_cluster_grows_node_by_node() {
        let shards = shards(12);
        let mut assignment = Assignment::new();
        for nodes in 1..=6 {
            let members = members(nodes);
            let request = request(&shards, &members, 1_000);
            assignment = assign(&assignment, &request);
            check(&assignment, &request);
            let (least, most) = spread(loads(&assignment).values().map(|(held, _)| *held));
            // Two nodes keep one copy each: an even number of voters helps nobody.
            assert!(most - least <= 1, "{nodes}: {assignment:?}");
        }
    }

    #[test]
    fn balance_moves_no_more_than_it_may() {
        let (shards, four) = (shards(16), members(4));
        let before = assign(&Assignment::new(), &request(&shards, &four[..3], 0));
        let after = assign(&before, &request(&shards, &four, 2));
        let given = after.values().filter(|holders| holders.contains(&NodeId(4))).count();
        assert_eq!(given, 2);
        let changed = shards.iter().filter(|shard| {
            let set = |of: &Assignment| of[*shard].iter().copied().collect::<BTreeSet<_>>();
            set(&before) != set(&after)
        });
        assert_eq!(changed.count(), 2);
    }

    #[test]
    fn a_node_that_is_down_keeps_its_copies_and_gets_none() {
        let (shards, mut members) = (shards(8), members(3));
        let before = assign(&Assignment::new(), &request(&shards, &members, 100));
        members[2].present = false;
        let request = request(&shards, &members, 100);
        let after = assign(&before, &request);
        for shard in &shards {
            assert!(after[shard].contains(&NodeId(3)), "{shard} lost a copy");
        }
        let fresh = assign(&Assignment::new(), &request);
        assert!(fresh.values().all(|holders| !holders.contains(&NodeId(3))));
    }

    #[test]
    fn a_leaving_node_is_emptied_and_a_smaller_cluster_keeps_what_it_can() {
        let (shards, mut five) = (shards(20), members(5));
        let before = assign(&Assignment::new(), &request(&shards, &five, 100));
        five[1].leaving = true;
        let four = request(&shards, &five, 100);
        let after = assign(&before, &four);
        check(&after, &four);
        assert!(after.values().all(|holders| holders.len() == 3));
        // Nothing else moved but for balance: what did not touch the node is as it was.
        five[2].leaving = true;
        five[3].leaving = true;
        let two = request(&shards, &five, 100);
        let last = assign(&after, &two);
        check(&last, &two);
        assert!(last.values().all(|holders| holders.len() == 1));
    }
}
