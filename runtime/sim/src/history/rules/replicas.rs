//! I13: the replicas of a shard agree, and remember.
//!
//! Demands: at most one leader per term; a node's term does not fall and its vote in a term does
//! not change, whatever happens to its process; commit and applied index do not fall while the
//! process lives; what was applied is known to be committed in the end; the entry at a committed
//! index (its term, and the hash over the log up to it) is the same for everybody who ever tells
//! it, and so is the state's hash at an applied index; after the mark of the end the highest
//! committed entry is held by a majority of the last voters.
//!
//! Owns: what was seen of each shard. Cost: about sixty bytes per index at which anybody looked.

use std::collections::BTreeMap;

use barrage_model::{LogIndex, NodeId, Term};

use crate::history::event::Sight;
use crate::history::facts::Names;
use crate::history::name::{Name, Nanos, StateHash};
use crate::history::verdict::{Counters, Report, Rule};

/// Something that was seen, where and when.
#[derive(Clone, Copy, Debug)]
struct Witnessed<T> {
    what: T,
    node: NodeId,
    at: Nanos,
}

/// What one node told of itself.
#[derive(Debug, Default)]
struct Node {
    term: Term,
    /// In `term`.
    vote: Option<NodeId>,
    committed: LogIndex,
    applied: LogIndex,
    /// At the end: the entries it holds.
    holds: BTreeMap<LogIndex, StateHash>,
}

#[derive(Debug, Default)]
struct Shard {
    nodes: BTreeMap<NodeId, Node>,
    leaders: BTreeMap<Term, Witnessed<()>>,
    /// By index: the entry's term and the hash up to it.
    committed: BTreeMap<LogIndex, Witnessed<(Term, StateHash)>>,
    states: BTreeMap<LogIndex, Witnessed<StateHash>>,
    voters: Vec<NodeId>,
}

/// Every shard's replicas.
#[derive(Debug, Default)]
pub(crate) struct Replicas {
    names: Names,
    shards: BTreeMap<u32, Shard>,
}

/// One sight, with what is needed to judge and to tell it.
struct Judge<'a> {
    report: &'a mut Report,
    name: &'a str,
    node: NodeId,
    at: Nanos,
    compared: &'a mut u64,
}

impl Replicas {
    pub(crate) fn voters(&mut self, shard: &Name, voters: &[NodeId]) {
        let shard = self.names.number(shard);
        let shard = self.shards.entry(shard).or_default();
        shard.voters = voters.to_vec();
        shard.voters.sort_unstable();
        shard.voters.dedup();
    }

    pub(crate) fn saw(
        &mut self,
        counters: &mut Counters,
        report: &mut Report,
        (shard, node, at): (&Name, NodeId, Nanos),
        sight: &Sight,
    ) {
        counters.replica_sights += 1;
        let number = self.names.number(shard);
        let row = self.shards.entry(number).or_default();
        let compared = &mut counters.replica_compared;
        let mut judge = Judge { report, name: shard.as_str(), node, at, compared };
        match *sight {
            Sight::Started => row.started(node),
            Sight::Voted { term, vote } => row.voted(&mut judge, term, vote),
            Sight::Led { term } => row.led(&mut judge, term),
            Sight::Committed { index, term, chain } => {
                row.committed(&mut judge, index, (term, chain));
            }
            Sight::Applied { index, state } => row.applied(&mut judge, index, state),
            Sight::Holds { index, chain } => {
                row.nodes.entry(node).or_default().holds.insert(index, chain);
            }
        }
    }

    /// Judges what is held at the end.
    pub(crate) fn finish(
        &self,
        counters: &mut Counters,
        report: &mut Report,
        now: Nanos,
        is_draining: bool,
    ) {
        for (number, shard) in &self.shards {
            let name = self.names.name(*number);
            let Some((index, known)) = shard.committed.last_key_value() else { continue };
            counters.entries_committed = counters.entries_committed.saturating_add(index.0);
            if is_draining {
                shard.ahead(report, now, name, *index);
            }
            if is_draining && !shard.voters.is_empty() {
                counters.quorums_counted += 1;
                shard.quorum(report, now, name, (*index, known));
            }
        }
    }
}

impl Shard {
    fn started(&mut self, node: NodeId) {
        let node = self.nodes.entry(node).or_default();
        (node.committed, node.applied) = (LogIndex(0), LogIndex(0));
        node.holds.clear();
    }

    fn voted(&mut self, judge: &mut Judge<'_>, term: Term, vote: Option<NodeId>) {
        let node = self.nodes.entry(judge.node).or_default();
        *judge.compared += u64::from(node.term > Term(0));
        if term < node.term {
            let before = node.term;
            judge.object(|| format!("its term fell from {before} to {term}"));
            return;
        }
        let before = node.vote.filter(|_| term == node.term);
        node.vote = vote.or(before);
        node.term = term;
        if let (Some(before), Some(vote)) = (before, vote)
            && before != vote
        {
            judge.object(|| {
                format!("its vote in term {term} was for node {before} and is for node {vote}")
            });
        }
    }

    fn led(&mut self, judge: &mut Judge<'_>, term: Term) {
        let fresh = Witnessed { what: (), node: judge.node, at: judge.at };
        let leader = *self.leaders.entry(term).or_insert(fresh);
        *judge.compared += 1;
        if leader.node != judge.node {
            let (other, at) = (leader.node, leader.at);
            judge.object(|| format!("it leads in term {term}, as node {other} did at {at}"));
        }
    }

    fn committed(&mut self, judge: &mut Judge<'_>, index: LogIndex, entry: (Term, StateHash)) {
        let node = self.nodes.entry(judge.node).or_default();
        let before = node.committed;
        node.committed = before.max(index);
        if index < before {
            judge.object(|| format!("its commit index fell from {before} to {index}"));
        }
        let fresh = Witnessed { what: entry, node: judge.node, at: judge.at };
        let known = *self.committed.entry(index).or_insert(fresh);
        *judge.compared += u64::from((known.node, known.at) != (judge.node, judge.at));
        if known.what != entry {
            let tell = |(term, chain): (Term, StateHash)| format!("term {term}, chain {chain}");
            judge.object(|| {
                let (now, then) = (tell(entry), tell(known.what));
                let (other, at) = (known.node, known.at);
                format!("committed entry {index} is {now}; node {other} had {then} at {at}")
            });
        }
        self.terms_ascend(judge, index, entry.0);
    }

    /// Terms do not fall along the log.
    fn terms_ascend(&self, judge: &mut Judge<'_>, index: LogIndex, term: Term) {
        let below = self.committed.range(..index).next_back();
        if let Some((lower, known)) = below.filter(|(_, known)| known.what.0 > term) {
            let before = known.what.0;
            judge.object(|| {
                format!("committed entry {index} is of term {term}, entry {lower} of term {before}")
            });
        }
    }

    fn applied(&mut self, judge: &mut Judge<'_>, index: LogIndex, state: StateHash) {
        let node = self.nodes.entry(judge.node).or_default();
        let before = node.applied;
        node.applied = before.max(index);
        if index < before {
            judge.object(|| format!("its applied index fell from {before} to {index}"));
        }
        let fresh = Witnessed { what: state, node: judge.node, at: judge.at };
        let known = *self.states.entry(index).or_insert(fresh);
        *judge.compared += u64::from((known.node, known.at) != (judge.node, judge.at));
        if known.what != state {
            judge.object(|| {
                let (then, other, at) = (known.what, known.node, known.at);
                format!("its state after entry {index} is {state}; node {other} had {then} at {at}")
            });
        }
    }

    /// At the end everything that was applied is known to be committed.
    fn ahead(&self, report: &mut Report, now: Nanos, name: &str, committed: LogIndex) {
        let Some((index, known)) = self.states.last_key_value() else { return };
        if *index > committed {
            report.add(Rule::I13, now, || {
                let (node, at) = (known.node, known.at);
                format!(
                    "shard {name}, node {node}: it applied entry {index} at {at}, but nothing \
                     beyond {committed} was committed"
                )
            });
        }
    }

    fn quorum(
        &self,
        report: &mut Report,
        now: Nanos,
        name: &str,
        (index, known): (LogIndex, &Witnessed<(Term, StateHash)>),
    ) {
        let chain = known.what.1;
        let holds = |node: &&NodeId| {
            let node = self.nodes.get(node);
            node.is_some_and(|node| node.holds.get(&index) == Some(&chain))
        };
        let holders: Vec<NodeId> = self.voters.iter().filter(holds).copied().collect();
        if holders.len() <= self.voters.len() / 2 {
            report.add(Rule::I13, now, || {
                let (held, voters) = (tell_nodes(&holders), tell_nodes(&self.voters));
                format!(
                    "shard {name}: entry {index}, committed on node {} at {}, is held by [{held}] \
                     of the voters [{voters}]: no majority",
                    known.node, known.at,
                )
            });
        }
    }
}

impl Judge<'_> {
    fn object(&mut self, what: impl FnOnce() -> String) {
        let (name, node) = (self.name, self.node);
        self.report.add(Rule::I13, self.at, || format!("shard {name}, node {node}: {}", what()));
    }
}

fn tell_nodes(nodes: &[NodeId]) -> String {
    let nodes: Vec<String> = nodes.iter().map(ToString::to_string).collect();
    nodes.join(", ")
}

#[cfg(test)]
mod tests {
    use crate::history::script::check;
    use crate::history::verdict::Rule::I13;

    #[test]
    fn one_leader_per_term() {
        check(&[
            ("one after the other", "n1 leads 1; n2 leads 2; n1 leads 3; n1 leads 3", &[]),
            ("an old one tells late", "n1 leads 1; n2 leads 2; n1 leads 1", &[]),
            ("another shard", "n1 leads 1; n2 s2 leads 1", &[]),
            ("two", "n1 leads 1; n2 leads 1", &[I13]),
            ("two, restarted", "n1 leads 4; n1 starts; n3 leads 4", &[I13]),
        ]);
    }

    #[test]
    fn a_vote_outlives_the_process() {
        check(&[
            (
                "terms grow",
                "n1 votes 1 1; n1 votes 2 2; n1 starts; n1 votes 2 2; n1 votes 3 -",
                &[],
            ),
            ("a term, then a vote in it", "n1 votes 2 -; n1 votes 2 3; n1 votes 2 3", &[]),
            ("each node for itself", "n1 votes 5 1; n2 votes 1 2", &[]),
            ("a term forgotten", "n1 votes 3 1; n1 starts; n1 votes 2 1", &[I13]),
            ("a vote changed", "n1 votes 3 1; n1 votes 3 2", &[I13]),
            ("a vote changed across a restart", "n1 votes 3 1; n1 starts; n1 votes 3 2", &[I13]),
            (
                "a vote changed, with silence between",
                "n1 votes 3 1; n1 votes 3 -; n1 votes 3 2",
                &[I13],
            ),
        ]);
    }

    #[test]
    fn what_is_committed_stays() {
        check(&[
            ("equal everywhere", "n1 commits 5 t1 a5; n2 commits 5 t1 a5; n1 commits 9 t2 a9", &[]),
            ("a restart tells less", "n1 commits 9 t1 a9; n1 starts; n1 commits 5 t1 a5", &[]),
            ("indexes that nobody compared", "n1 commits 5 t1 a5; n2 commits 6 t1 b6", &[]),
            ("another chain", "n1 commits 5 t1 a5; n2 commits 5 t1 b5", &[I13]),
            ("another term", "n1 commits 5 t1 a5; n2 commits 5 t2 a5", &[I13]),
            ("changed on one node", "n1 commits 5 t1 a5; n1 starts; n1 commits 5 t1 b5", &[I13]),
            ("the index falls", "n1 commits 9 t1 a9; n1 commits 5 t1 a5", &[I13]),
            ("terms fall along the log", "n1 commits 5 t3 a5; n2 commits 6 t2 a6", &[I13]),
        ]);
    }

    #[test]
    fn equal_index_equal_state() {
        let committed = "n1 commits 9 t1 a9";
        let stories = [
            ("equal", "n1 applies 5 55; n2 applies 5 55; n3 applies 9 99", &[][..]),
            ("a restart begins lower", "n1 applies 5 55; n1 starts; n1 applies 3 33", &[]),
            ("another state", "n1 applies 5 55; n2 applies 5 56", &[I13]),
            (
                "another state after a restart",
                "n1 applies 5 55; n1 starts; n1 applies 5 56",
                &[I13],
            ),
            ("the index falls", "n1 applies 5 55; n1 applies 4 44", &[I13]),
            ("not yet told to be committed", "n1 applies 10 aa", &[]),
            ("told later", "n1 applies 10 aa; n1 commits 10 t1 aa; drain", &[]),
            ("never committed", "n1 applies 10 aa; drain", &[I13]),
        ];
        for (what, end, want) in stories {
            check(&[(what, &format!("{committed}; {end}"), want)]);
        }
    }

    #[test]
    fn a_majority_holds_what_is_committed() {
        let run = "voters 1 2 3; n1 commits 5 t1 a5; n1 commits 9 t1 a9; drain";
        let stories = [
            ("everybody", "n1 holds 9 a9; n2 holds 9 a9; n3 holds 9 a9", &[][..]),
            ("two of three", "n1 holds 9 a9; n3 holds 9 a9", &[]),
            ("more than asked for", "n2 holds 5 a5; n2 holds 9 a9; n3 holds 9 a9", &[]),
            ("one", "n1 holds 9 a9", &[I13]),
            ("nobody looked", "", &[I13]),
            ("an older entry", "n1 holds 9 a9; n2 holds 5 a5", &[I13]),
            ("another log", "n1 holds 9 a9; n2 holds 9 b9", &[I13]),
            ("somebody without a vote", "n1 holds 9 a9; n4 holds 9 a9", &[I13]),
            ("the voters changed", "n1 holds 9 a9; n2 holds 9 a9; voters 3 4 5", &[I13]),
            ("lost again", "n1 holds 9 a9; n2 holds 9 a9; n2 starts", &[I13]),
        ];
        for (what, end, want) in stories {
            check(&[(what, &format!("{run}; {end}"), want)]);
        }
        check(&[("not at the end", "voters 1 2 3; n1 commits 9 t1 a9; n1 holds 9 a9", &[])]);
    }
}
