//! The work of the sticky assignor: who has most gives to who has least, until that helps nobody.
//!
//! ```text
//!   keep what everybody had --> deal out what is free, always to who has least
//!       --> level: from who has most of all to who has least of its fellow readers, one by one,
//!           while they differ by two or more
//! ```
//!
//! Topics with the same readers are one pool: within it any partition is as good as any other. With
//! one pool the result is even within one and no fewer moves could make it so: a move takes from
//! who must give or gives to who must get, both as long as there are both. With several pools no
//! single move makes it more even, unless [`SWEEPS_MAX`] ends the work before.
//!
//! Owns: loads, and who has what meanwhile. Must never: take a partition from its reader without
//! need. Invariants: a load is the count of partitions in a hand; each move lessens the sum of the
//! squares of all loads, so moves come to an end.

use std::collections::{BTreeMap, BTreeSet};

use barrage_model::{PartitionKey, TopicId};

use super::assignment::{Candidate, Sizes, keys, readers};

/// Rounds over all members. A second one finds work only where there are several pools.
const SWEEPS_MAX: usize = 32;

/// Which candidate, counted from 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct HandIndex(usize);

/// Which pool, counted from 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct PoolIndex(usize);

/// A member with what it has so far.
#[derive(Debug, Default)]
struct Hand {
    load: usize,
    /// Where it may get from.
    pools: Vec<PoolIndex>,
    partitions: BTreeMap<PoolIndex, Vec<PartitionKey>>,
}

/// Topics with the same readers.
#[derive(Debug, Default)]
struct Pool {
    /// Partitions that nobody has, the first last.
    free: Vec<PartitionKey>,
    /// Its readers, who has least first.
    readers: BTreeSet<(usize, HandIndex)>,
}

/// See the module.
#[derive(Debug)]
pub(super) struct Balance {
    hands: Vec<Hand>,
    pools: Vec<Pool>,
    /// Members that may have too much, who has most last.
    open: BTreeSet<(usize, HandIndex)>,
}

impl Balance {
    /// Everybody has what it had, as far as it still reads it.
    pub(super) fn new(candidates: &[Candidate<'_>], sizes: &Sizes) -> Self {
        let mut by_readers: BTreeMap<Vec<usize>, Vec<(TopicId, u32)>> = BTreeMap::new();
        for (topic, partitions, readers) in readers(candidates, sizes) {
            by_readers.entry(readers).or_default().push((topic, partitions));
        }
        // Those with the fewest readers are dealt out first: they have the least choice.
        let mut pools: Vec<_> = by_readers.into_iter().collect();
        pools.sort_by_key(|(readers, _)| readers.len());

        let mut balance = Self {
            hands: candidates.iter().map(|_| Hand::default()).collect(),
            pools: pools.iter().map(|_| Pool::default()).collect(),
            open: BTreeSet::new(),
        };
        let mut pool_of: BTreeMap<TopicId, PoolIndex> = BTreeMap::new();
        for (at, (readers, topics)) in pools.iter().enumerate() {
            pool_of.extend(topics.iter().map(|(topic, _)| (*topic, PoolIndex(at))));
            for reader in readers {
                if let Some(hand) = balance.hands.get_mut(*reader) {
                    hand.pools.push(PoolIndex(at));
                }
            }
        }
        let taken = balance.keep(candidates, sizes, &pool_of);
        for (pool, (readers, topics)) in balance.pools.iter_mut().zip(&pools) {
            let all = topics.iter().flat_map(|(topic, partitions)| keys(*topic, *partitions));
            pool.free = all.filter(|key| !taken.contains(key)).collect();
            pool.free.reverse();
            let load = |reader: &usize| balance.hands.get(*reader).map_or(0, |hand| hand.load);
            pool.readers = readers.iter().map(|r| (load(r), HandIndex(*r))).collect();
        }
        balance
    }

    /// Deals out what is free, and levels.
    pub(super) fn settle(mut self) -> Vec<Vec<PartitionKey>> {
        for at in (0..self.pools.len()).map(PoolIndex) {
            while let Some((key, to)) = self.next_free(at) {
                self.give(to, at, key);
            }
        }
        for _ in 0..SWEEPS_MAX {
            if self.sweep() == 0 {
                break;
            }
        }
        let list = |hand: Hand| hand.partitions.into_values().flatten().collect();
        self.hands.into_iter().map(list).collect()
    }

    /// Partitions that stay with who had them.
    fn keep(
        &mut self,
        candidates: &[Candidate<'_>],
        sizes: &Sizes,
        pool_of: &BTreeMap<TopicId, PoolIndex>,
    ) -> BTreeSet<PartitionKey> {
        let mut taken = BTreeSet::new();
        for (hand, candidate) in self.hands.iter_mut().zip(candidates) {
            for key in candidate.had {
                let exists = sizes.get(&key.topic).is_some_and(|size| key.partition.0 < *size);
                let reads = candidate.topics.binary_search(&key.topic).is_ok();
                let Some(pool) = pool_of.get(&key.topic).filter(|_| exists && reads) else {
                    continue;
                };
                if taken.insert(*key) {
                    hand.partitions.entry(*pool).or_default().push(*key);
                    hand.load += 1;
                }
            }
        }
        taken
    }

    fn next_free(&mut self, at: PoolIndex) -> Option<(PartitionKey, HandIndex)> {
        let pool = self.pools.get_mut(at.0)?;
        let (_, to) = pool.readers.first().copied()?;
        Some((pool.free.pop()?, to))
    }

    /// One round over all members, who has most first; answers how many partitions moved.
    fn sweep(&mut self) -> usize {
        let mut moved = 0;
        let loads = self.hands.iter().enumerate();
        self.open = loads.map(|(at, hand)| (hand.load, HandIndex(at))).collect();
        while let Some((load, from)) = self.open.last().copied() {
            match self.best_move(from) {
                Some((pool, to)) => {
                    self.shift(from, to, pool);
                    moved += 1;
                }
                None => drop(self.open.remove(&(load, from))),
            }
        }
        moved
    }

    /// Who gains most from a partition of this member, if that makes it more even.
    fn best_move(&self, from: HandIndex) -> Option<(PoolIndex, HandIndex)> {
        let hand = self.hands.get(from.0)?;
        let least = |at: &PoolIndex| {
            let (load, to) = self.pools.get(at.0)?.readers.first().copied()?;
            Some((load, to, *at))
        };
        let has_some = hand.partitions.iter().filter(|(_, keys)| !keys.is_empty());
        let (load, to, pool) = has_some.filter_map(|(at, _)| least(at)).min()?;
        (load + 2 <= hand.load).then_some((pool, to))
    }

    fn shift(&mut self, from: HandIndex, to: HandIndex, pool: PoolIndex) {
        let Some(hand) = self.hands.get_mut(from.0) else { return };
        let Some(key) = hand.partitions.get_mut(&pool).and_then(Vec::pop) else { return };
        let load = hand.load - 1;
        self.set_load(from, load);
        self.give(to, pool, key);
    }

    fn give(&mut self, to: HandIndex, pool: PoolIndex, key: PartitionKey) {
        let Some(hand) = self.hands.get_mut(to.0) else { return };
        hand.partitions.entry(pool).or_default().push(key);
        let load = hand.load + 1;
        self.set_load(to, load);
    }

    fn set_load(&mut self, at: HandIndex, load: usize) {
        let Some(hand) = self.hands.get_mut(at.0) else { return };
        let before = std::mem::replace(&mut hand.load, load);
        for pool in &hand.pools {
            if let Some(pool) = self.pools.get_mut(pool.0) {
                let was_reader = pool.readers.remove(&(before, at));
                assert!(was_reader, "loads are known by what they were");
                pool.readers.insert((load, at));
            }
        }
        if self.open.remove(&(before, at)) {
            self.open.insert((load, at));
        }
    }
}

#[cfg(test)]
pub(super) mod checks {
    //! What a test knows of moves without having made them.

    use super::*;

    /// Partitions that were somebody's and are somebody else's now.
    pub(crate) fn moves(candidates: &[Candidate<'_>], lists: &[Vec<PartitionKey>]) -> usize {
        let lost = |(candidate, list): (&Candidate<'_>, &Vec<PartitionKey>)| {
            candidate.had.iter().filter(|key| !list.contains(key)).count()
        };
        candidates.iter().zip(lists).map(lost).sum()
    }

    /// Where all read the same: what those give who have more than their share, or what those lack
    /// who have less and for whom not enough is free.
    pub(crate) fn moves_least(candidates: &[Candidate<'_>], sizes: &Sizes) -> usize {
        let total: usize = sizes.values().map(|size| *size as usize).sum();
        let share = total / candidates.len().max(1);
        let most = share + usize::from(!total.is_multiple_of(candidates.len().max(1)));
        let mut loads: Vec<usize> = candidates.iter().map(|c| c.had.len()).collect();
        let mut free = total - loads.iter().sum::<usize>();
        while free > 0
            && let Some(least) = loads.iter_mut().min()
        {
            *least += 1;
            free -= 1;
        }
        let too_much: usize = loads.iter().map(|load| load.saturating_sub(most)).sum();
        let too_little: usize = loads.iter().map(|load| share.saturating_sub(*load)).sum();
        too_much.max(too_little)
    }
}

#[cfg(test)]
mod tests {
    use super::super::assignment::{Assignor, assign};
    use super::checks::moves;
    use super::*;

    fn topics(topics: &[u64]) -> Vec<TopicId> {
        topics.iter().copied().map(TopicId).collect()
    }

    fn check(had: &[(&[u64], u64, u32)], of: &[(u64, u32)], loads: &[usize], moved: usize) {
        let sizes: Sizes = of.iter().map(|(topic, size)| (TopicId(*topic), *size)).collect();
        let mut next: BTreeMap<u64, u32> = BTreeMap::new();
        let members: Vec<(Vec<TopicId>, Vec<PartitionKey>)> = had
            .iter()
            .map(|(read, topic, count)| {
                let from = next.entry(*topic).or_default();
                let own = keys(TopicId(*topic), *from + count).skip(*from as usize).collect();
                *from += count;
                (topics(read), own)
            })
            .collect();
        let candidates: Vec<Candidate<'_>> =
            members.iter().map(|(topics, had)| Candidate { topics, had }).collect();
        let lists = assign(Assignor::Sticky, &candidates, &sizes);
        assert_eq!(lists.iter().map(Vec::len).collect::<Vec<_>>(), loads, "{had:?}");
        assert_eq!(moves(&candidates, &lists), moved, "{had:?}");
    }

    /// Each row: what members read, and of which topic they had how many; topics; loads; moves.
    #[test]
    fn no_more_moves_than_needed() {
        let one: &[u64] = &[1];
        check(&[(one, 1, 5), (one, 1, 5)], &[(1, 10)], &[5, 5], 0);
        check(&[(one, 1, 10), (one, 1, 0)], &[(1, 10)], &[5, 5], 5);
        check(&[(one, 1, 10), (one, 1, 10), (one, 1, 0)], &[(1, 20)], &[7, 7, 6], 6);
        check(&[(one, 1, 4), (one, 1, 3)], &[(1, 10)], &[5, 5], 0);
        check(&[(one, 1, 4), (one, 1, 4), (one, 1, 2)], &[(1, 10)], &[4, 3, 3], 1);
        check(&[(one, 1, 7)], &[(1, 3)], &[3], 4);
        // Two topics with the same readers are one pool.
        let two: &[u64] = &[1, 2];
        check(&[(two, 1, 6), (two, 2, 0)], &[(1, 6), (2, 6)], &[6, 6], 0);
        check(&[(two, 1, 6), (two, 2, 6), (two, 1, 0)], &[(1, 6), (2, 6)], &[4, 4, 4], 4);
        // Who reads nothing else keeps what it can get; the others make room.
        check(&[(two, 1, 4), (one, 1, 0)], &[(1, 4), (2, 4)], &[4, 4], 4);
        check(&[(two, 1, 4), (&[2], 2, 4)], &[(1, 4), (2, 4)], &[4, 4], 0);
    }

    /// As many members and partitions as there may be: it ends, and is even.
    #[test]
    fn many_members_at_once() {
        let read = topics(&[1, 2]);
        let sizes: Sizes = [(TopicId(1), 10_000), (TopicId(2), 5_001)].into();
        let all: Vec<PartitionKey> = keys(TopicId(1), 10_000).collect();
        let mut candidates = vec![Candidate { topics: &read, had: &[] }; 9_999];
        candidates.push(Candidate { topics: &read, had: &all });
        let lists = assign(Assignor::Sticky, &candidates, &sizes);
        assert!(lists.iter().all(|list| (1..=2).contains(&list.len())));
        assert_eq!(moves(&candidates, &lists), 9_998);
    }
}
