//! Who gets which partition: functions of subscriptions, sizes of topics, and what everybody had.
//!
//! ```text
//!   range        of each topic a run of neighbours: equal keys of two topics meet in one member
//!   round robin  one after the other in the order of members: even, and moves much
//!   sticky       even, and moves no more than that needs
//! ```
//!
//! Owns: the three ways. Must never: depend on anything but its arguments.
//! Invariants: each partition of a topic that somebody reads goes to exactly one of its readers;
//! where all members read the same topics, two members differ by at most one partition (`range`: by
//! at most one per topic).

use std::collections::BTreeMap;

use barrage_model::{PartitionId, PartitionKey, TopicId};

use super::balance::Balance;

/// How partitions are shared out.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Assignor {
    /// Even, with as few moves as can be.
    #[default]
    Sticky,
    /// Neighbours go together, topic by topic.
    Range,
    /// One after the other.
    RoundRobin,
}

/// A member to whom partitions may go.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Candidate<'a> {
    /// Topics that it reads, ascending.
    pub(crate) topics: &'a [TopicId],
    /// Partitions that it was to have before.
    pub(crate) had: &'a [PartitionKey],
}

/// Partitions of each topic.
pub(crate) type Sizes = BTreeMap<TopicId, u32>;

/// Shares out all partitions: one list per candidate, in their order.
pub(crate) fn assign(
    assignor: Assignor,
    candidates: &[Candidate<'_>],
    sizes: &Sizes,
) -> Vec<Vec<PartitionKey>> {
    match assignor {
        Assignor::Sticky => Balance::new(candidates, sizes).settle(),
        Assignor::Range => range(candidates, sizes),
        Assignor::RoundRobin => round_robin(candidates, sizes),
    }
}

/// What most members ask for; of those that as many ask for, the first.
pub(crate) fn elect(asked: impl Iterator<Item = Assignor>) -> Assignor {
    let mut votes: BTreeMap<Assignor, usize> = BTreeMap::new();
    asked.for_each(|assignor| *votes.entry(assignor).or_default() += 1);
    // The last of equals is taken, so the first must come last.
    votes.into_iter().rev().max_by_key(|(_, count)| *count).unwrap_or_default().0
}

/// Who reads each topic that has partitions: places in the list of candidates, ascending.
pub(super) fn readers(
    candidates: &[Candidate<'_>],
    sizes: &Sizes,
) -> Vec<(TopicId, u32, Vec<usize>)> {
    let mut readers: BTreeMap<TopicId, Vec<usize>> = BTreeMap::new();
    for (at, candidate) in candidates.iter().enumerate() {
        for topic in candidate.topics.iter().filter(|topic| sizes.contains_key(topic)) {
            readers.entry(*topic).or_default().push(at);
        }
    }
    let with_size = |(topic, readers)| (topic, sizes.get(&topic).copied().unwrap_or(0), readers);
    readers.into_iter().map(with_size).collect()
}

fn range(candidates: &[Candidate<'_>], sizes: &Sizes) -> Vec<Vec<PartitionKey>> {
    let mut lists = vec![Vec::new(); candidates.len()];
    for (topic, partitions, readers) in readers(candidates, sizes) {
        let keys: Vec<PartitionKey> = keys(topic, partitions).collect();
        let (each, more) = (keys.len() / readers.len(), keys.len() % readers.len());
        let mut rest = keys.as_slice();
        for (place, reader) in readers.iter().enumerate() {
            let (own, others) = rest.split_at(each + usize::from(place < more));
            rest = others;
            if let Some(list) = lists.get_mut(*reader) {
                list.extend_from_slice(own);
            }
        }
        assert!(rest.is_empty(), "all partitions of a topic are given");
    }
    lists
}

fn round_robin(candidates: &[Candidate<'_>], sizes: &Sizes) -> Vec<Vec<PartitionKey>> {
    let mut lists = vec![Vec::new(); candidates.len()];
    let mut turn = 0;
    for (topic, partitions, readers) in readers(candidates, sizes) {
        for key in keys(topic, partitions) {
            // Whoever does not read the topic is passed over.
            let next = readers.partition_point(|reader| *reader < turn);
            let Some(reader) = readers.get(next).or(readers.first()) else { break };
            if let Some(list) = lists.get_mut(*reader) {
                list.push(key);
            }
            turn = reader + 1;
        }
    }
    lists
}

pub(super) fn keys(topic: TopicId, partitions: u32) -> impl Iterator<Item = PartitionKey> {
    (0..partitions).map(move |number| PartitionKey { topic, partition: PartitionId(number) })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::indexing_slicing, reason = "tests fail by panicking")]

    use std::collections::BTreeSet;

    use super::super::balance::checks::{moves, moves_least};
    use super::*;
    use crate::queue::dice::Dice;

    const ALL: [Assignor; 3] = [Assignor::Sticky, Assignor::Range, Assignor::RoundRobin];

    fn sizes(sizes: &[(u64, u32)]) -> Sizes {
        sizes.iter().map(|(topic, partitions)| (TopicId(*topic), *partitions)).collect()
    }

    fn check(assignor: Assignor, topics: &[&[u64]], of: &[(u64, u32)], want: &[&[(u64, u32)]]) {
        let topics: Vec<Vec<TopicId>> =
            topics.iter().map(|topics| topics.iter().copied().map(TopicId).collect()).collect();
        let candidates: Vec<Candidate<'_>> =
            topics.iter().map(|topics| Candidate { topics, had: &[] }).collect();
        let lists = assign(assignor, &candidates, &sizes(of));
        let plain = |list: &Vec<PartitionKey>| -> Vec<(u64, u32)> {
            let mut list: Vec<_> = list.iter().map(|key| (key.topic.0, key.partition.0)).collect();
            list.sort_unstable();
            list
        };
        let found: Vec<_> = lists.iter().map(plain).collect();
        let want: Vec<_> = want.iter().map(|list| list.to_vec()).collect();
        assert_eq!(found, want, "{assignor:?} {topics:?} {of:?}");
    }

    #[test]
    fn tables() {
        for assignor in ALL {
            check(assignor, &[], &[(1, 3)], &[]);
            check(assignor, &[&[]], &[(1, 3)], &[&[]]);
            check(assignor, &[&[7]], &[(1, 3)], &[&[]]);
            check(assignor, &[&[1]], &[(1, 0)], &[&[]]);
            check(assignor, &[&[1], &[1], &[1]], &[(1, 2)], &[&[(1, 0)], &[(1, 1)], &[]]);
            check(assignor, &[&[1, 2], &[]], &[(1, 1), (2, 1)], &[&[(1, 0), (2, 0)], &[]]);
        }
        let both: &[&[u64]] = &[&[1, 2], &[1, 2]];
        let three = &[(1, 3), (2, 3)];
        let want: &[&[(u64, u32)]] = &[&[(1, 0), (1, 1), (2, 0), (2, 1)], &[(1, 2), (2, 2)]];
        check(Assignor::Range, both, three, want);
        let want: &[&[(u64, u32)]] = &[&[(1, 0), (1, 2), (2, 1)], &[(1, 1), (2, 0), (2, 2)]];
        check(Assignor::RoundRobin, both, three, want);
        check(Assignor::Sticky, both, three, want);
        let want: &[&[(u64, u32)]] = &[&[(1, 0), (1, 1), (1, 2)], &[(2, 0), (2, 1)]];
        check(Assignor::RoundRobin, &[&[1], &[2]], &[(1, 3), (2, 2)], want);
        // Who reads little is served first, who reads much gets the rest.
        let want: &[&[(u64, u32)]] = &[&[(2, 0), (2, 1)], &[(1, 0), (1, 1)]];
        check(Assignor::Sticky, &[&[1, 2], &[1]], &[(1, 2), (2, 2)], want);
    }

    #[test]
    fn the_majority_chooses() {
        for (asked, want) in [
            (vec![], Assignor::Sticky),
            (vec![Assignor::Range], Assignor::Range),
            (vec![Assignor::RoundRobin, Assignor::Range], Assignor::Range),
            (vec![Assignor::RoundRobin, Assignor::Range, Assignor::RoundRobin], {
                Assignor::RoundRobin
            }),
        ] {
            assert_eq!(elect(asked.iter().copied()), want, "{asked:?}");
        }
    }

    /// Members come and go and subscribe to this and that; every assignor, again and again.
    #[test]
    fn every_partition_goes_to_one_of_its_readers() {
        let mut dice = Dice::new(17);
        for round in 0..400_u32 {
            let assignor = ALL[dice.below(3) as usize];
            let topics = 1 + dice.below(5);
            let is_uniform = dice.below(2) == 0;
            let mut of: Sizes =
                (0..topics).map(|topic| (TopicId(topic), dice.below(12) as u32)).collect();
            let mut members: Vec<(Vec<TopicId>, Vec<PartitionKey>)> = Vec::new();
            for step in 0..8 {
                if members.len() > 1 && dice.below(2) == 0 {
                    members.remove(dice.below(members.len() as u64) as usize);
                } else {
                    for _ in 0..=dice.below(3) {
                        let turn = u64::from(round) + step;
                        let reads = |topic: &u64| is_uniform || !(topic + turn).is_multiple_of(3);
                        members.push(((0..topics).filter(reads).map(TopicId).collect(), vec![]));
                    }
                }
                of.values_mut().for_each(|size| *size += u32::from(step == 5));
                let candidates: Vec<Candidate<'_>> =
                    members.iter().map(|(topics, had)| Candidate { topics, had }).collect();
                let lists = assign(assignor, &candidates, &of);
                check_complete(&candidates, &of, &lists);
                let loads = || lists.iter().map(Vec::len);
                let spread = loads().max().unwrap_or(0) - loads().min().unwrap_or(0);
                if is_uniform {
                    let most = if assignor == Assignor::Range { topics as usize } else { 1 };
                    assert!(spread <= most, "round {round}: {assignor:?} {spread}");
                }
                if assignor == Assignor::Sticky {
                    check_no_move_helps(&candidates, &lists);
                }
                if is_uniform && assignor == Assignor::Sticky {
                    assert_eq!(moves(&candidates, &lists), moves_least(&candidates, &of));
                }
                members.iter_mut().zip(lists).for_each(|(member, list)| member.1 = list);
            }
        }
    }

    fn check_no_move_helps(candidates: &[Candidate<'_>], lists: &[Vec<PartitionKey>]) {
        for from in lists {
            for (candidate, to) in candidates.iter().zip(lists) {
                let may_move = from.iter().any(|key| candidate.topics.contains(&key.topic));
                assert!(!may_move || from.len() < to.len() + 2, "{lists:?}");
            }
        }
    }

    fn check_complete(candidates: &[Candidate<'_>], of: &Sizes, lists: &[Vec<PartitionKey>]) {
        let mut given = BTreeSet::new();
        for (candidate, list) in candidates.iter().zip(lists) {
            for key in list {
                assert!(candidate.topics.contains(&key.topic), "only readers get partitions");
                assert!(given.insert(*key), "{key} is given twice");
            }
        }
        let read = |topic: &TopicId| candidates.iter().any(|c| c.topics.contains(topic));
        let all: BTreeSet<PartitionKey> = of
            .iter()
            .filter(|(topic, _)| read(topic))
            .flat_map(|(topic, size)| keys(*topic, *size))
            .collect();
        assert_eq!(given, all);
    }
}
