//! What the leader of a group does next, so that its members become the ones assigned.
//!
//! ```text
//!   assigned, not a member --AddLearner--> learner --caught up--> ChangeVoters --> voter
//!   voter, not assigned  --ChangeVoters (with its successor)--> gone
//!   all are as assigned, the first is another --Transfer--> it leads
//! ```
//!
//! Owns: the order of these steps. Must never: take a voter away before its successor has caught
//! up; make an even number of voters out of an odd one; count a node that is down as a reason.
//! Invariants: one step at a time, each one right whatever became of the one before; a group whose
//! members are as assigned has no next step.

use std::collections::BTreeSet;

use barrage_model::NodeId;

/// A group as its leader sees it.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct View {
    /// The leader.
    pub leader: NodeId,
    /// Its voters; of both configurations while they change.
    pub voters: BTreeSet<NodeId>,
    /// Those that receive entries and do not vote.
    pub learners: BTreeSet<NodeId>,
    /// Members that have all but the newest entries, and every record they must have.
    pub caught_up: BTreeSet<NodeId>,
    /// A change of members is not committed yet.
    pub changing: bool,
    /// A change was left half-way, perhaps by a leader before this one: where it leads to.
    pub half_changed: Option<BTreeSet<NodeId>>,
}

/// A step.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Change {
    /// This node receives the log from now on.
    AddLearner(NodeId),
    /// These vote from now on, and nobody else.
    ChangeVoters(BTreeSet<NodeId>),
    /// This learner leaves: it is not assigned any more.
    RemoveLearner(NodeId),
    /// This voter leads from now on.
    Transfer(NodeId),
}

/// The next step of a group that is to be held by `assigned`, the first of which is to lead;
/// `watchers` receive the log as well and never vote (of the catalog: all other nodes).
#[must_use]
pub fn next(assigned: &[NodeId], watchers: &BTreeSet<NodeId>, view: &View) -> Option<Change> {
    if view.changing || assigned.is_empty() {
        return None;
    }
    // Until it is finished both sets of voters count, and nothing else may change.
    if let Some(voters) = &view.half_changed {
        return Some(Change::ChangeVoters(voters.clone()));
    }
    let wanted: BTreeSet<NodeId> = assigned.iter().copied().collect();
    let is_member = |node: &NodeId| view.voters.contains(node) || view.learners.contains(node);
    if let Some(node) = assigned.iter().chain(watchers).find(|node| !is_member(node)) {
        return Some(Change::AddLearner(*node));
    }
    if let Some(voters) = next_voters(assigned, &wanted, view) {
        // A leader that leaves hands over first: then nobody waits for an election.
        if !voters.contains(&view.leader)
            && let Some(to) = successor(assigned, view)
        {
            return Some(Change::Transfer(to));
        }
        return Some(Change::ChangeVoters(voters));
    }
    let idle = |node: &&NodeId| !wanted.contains(*node) && !watchers.contains(*node);
    if let Some(node) = view.learners.iter().find(idle) {
        return Some(Change::RemoveLearner(*node));
    }
    let first = *assigned.first()?;
    let may_lead = view.voters.contains(&first) && view.caught_up.contains(&first);
    (view.voters == wanted && view.leader != first && may_lead).then_some(Change::Transfer(first))
}

/// The voters to change to: those assigned that vote or have caught up, as many as make an odd
/// number, if that is a step forward.
fn next_voters(
    assigned: &[NodeId],
    wanted: &BTreeSet<NodeId>,
    view: &View,
) -> Option<BTreeSet<NodeId>> {
    if view.voters == *wanted {
        return None;
    }
    let votes = |node: &&NodeId| view.voters.contains(*node);
    let ready = |node: &&NodeId| !votes(node) && view.caught_up.contains(*node);
    let mut next: Vec<NodeId> = assigned.iter().filter(votes).copied().collect();
    next.extend(assigned.iter().filter(ready));
    let all = next.len() == wanted.len();
    if !all && next.len().is_multiple_of(2) {
        // The last one waits for another.
        next.pop();
    }
    let next: BTreeSet<NodeId> = next.into_iter().collect();
    // Fewer copies are a step only when that is what is assigned.
    let forward = all || next.len() > view.voters.len();
    // Without a majority that has the log nothing would ever be committed again (`queue` seed 49: a
    // group became one copy, which was just being made anew).
    let able = next.intersection(&view.caught_up).count() > next.len() / 2;
    (forward && able && next != view.voters).then_some(next)
}

/// Who leads when the leader is to leave.
fn successor(assigned: &[NodeId], view: &View) -> Option<NodeId> {
    let able = |node: &&NodeId| view.voters.contains(*node) && view.caught_up.contains(*node);
    assigned.iter().find(able).copied().filter(|node| *node != view.leader)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::indexing_slicing, reason = "tests fail by panicking")]

    use super::*;

    const NOBODY: BTreeSet<NodeId> = BTreeSet::new();

    fn set(nodes: &[u64]) -> BTreeSet<NodeId> {
        nodes.iter().copied().map(NodeId).collect()
    }

    fn list(nodes: &[u64]) -> Vec<NodeId> {
        nodes.iter().copied().map(NodeId).collect()
    }

    fn view(leader: u64, voters: &[u64], learners: &[u64], caught_up: &[u64]) -> View {
        View {
            leader: NodeId(leader),
            voters: set(voters),
            learners: set(learners),
            caught_up: set(caught_up),
            changing: false,
            half_changed: None,
        }
    }

    /// The simulated cluster, seed 110: the leader that grew a group to three voters ended between
    /// the two steps of the change, and no later leader ever changed that group's members again.
    #[test]
    fn what_a_former_leader_left_half_way_is_finished() {
        let left = View { half_changed: Some(set(&[1, 2, 3])), ..view(2, &[1, 2, 3], &[], &[2]) };
        let finish = Some(Change::ChangeVoters(set(&[1, 2, 3])));
        assert_eq!(next(&list(&[1, 2, 3]), &NOBODY, &left), finish);
        // Also when somebody else is to hold it by now, and before anything else.
        assert_eq!(next(&list(&[4, 5, 6]), &NOBODY, &left), finish);
    }

    #[test]
    fn one_step_after_the_other() {
        let table = [
            // As assigned.
            (list(&[1]), view(1, &[1], &[], &[1]), None),
            (list(&[1, 2, 3]), view(1, &[1, 2, 3], &[], &[1, 2, 3]), None),
            // Growing: learners one by one, then all at once.
            (list(&[1, 2, 3]), view(1, &[1], &[], &[1]), Some(Change::AddLearner(NodeId(2)))),
            (list(&[1, 2, 3]), view(1, &[1], &[2], &[1]), Some(Change::AddLearner(NodeId(3)))),
            (list(&[1, 2, 3]), view(1, &[1], &[2, 3], &[1, 2]), None),
            (
                list(&[1, 2, 3]),
                view(1, &[1], &[2, 3], &[1, 2, 3]),
                Some(Change::ChangeVoters(set(&[1, 2, 3]))),
            ),
            // Five are assigned, two are ready: three for now.
            (
                list(&[1, 2, 3, 4, 5]),
                view(1, &[1], &[2, 3, 4, 5], &[1, 2, 3]),
                Some(Change::ChangeVoters(set(&[1, 2, 3]))),
            ),
            (list(&[1, 2, 3, 4, 5]), view(1, &[1, 2, 3], &[4, 5], &[1, 2, 3, 4]), None),
            // A voter is replaced once its successor is there, and not before.
            (list(&[1, 2, 4]), view(1, &[1, 2, 3], &[4], &[1, 2, 3]), None),
            (
                list(&[1, 2, 4]),
                view(1, &[1, 2, 3], &[4], &[1, 2, 4]),
                Some(Change::ChangeVoters(set(&[1, 2, 4]))),
            ),
            // The leader that leaves hands over first.
            (
                list(&[2, 3, 4]),
                view(1, &[1, 2, 3], &[4], &[1, 3, 4]),
                Some(Change::Transfer(NodeId(3))),
            ),
            // What is not assigned any more goes.
            (list(&[1]), view(1, &[1], &[7], &[1]), Some(Change::RemoveLearner(NodeId(7)))),
            (
                list(&[1]),
                view(1, &[1, 2, 3], &[], &[1, 2, 3]),
                Some(Change::ChangeVoters(set(&[1]))),
            ),
            // One that is being made anew cannot hold it alone, nor with others like it.
            (list(&[1]), view(2, &[1, 2, 3], &[], &[2, 3]), None),
            (list(&[1, 3, 4]), view(2, &[1, 2, 3], &[4], &[2, 4]), None),
            (
                list(&[1, 2, 4]),
                view(2, &[1, 2, 3], &[4], &[2, 4]),
                Some(Change::ChangeVoters(set(&[1, 2, 4]))),
            ),
            // The first one leads, when it can.
            (
                list(&[2, 1, 3]),
                view(1, &[1, 2, 3], &[], &[1, 2, 3]),
                Some(Change::Transfer(NodeId(2))),
            ),
            (list(&[2, 1, 3]), view(1, &[1, 2, 3], &[], &[1, 3]), None),
        ];
        for (assigned, view, expected) in table {
            assert_eq!(next(&assigned, &NOBODY, &view), expected, "{assigned:?} {view:?}");
        }
    }

    #[test]
    fn watchers_are_learners_and_stay() {
        let watchers = set(&[4, 5]);
        let check = |view: &View, expected: Option<Change>| {
            assert_eq!(next(&list(&[1, 2, 3]), &watchers, view), expected, "{view:?}");
        };
        let three = [1, 2, 3];
        check(&view(1, &three, &[], &three), Some(Change::AddLearner(NodeId(4))));
        check(&view(1, &three, &[4, 5], &three), None);
        check(&view(1, &three, &[4, 5, 6], &three), Some(Change::RemoveLearner(NodeId(6))));
    }

    #[test]
    fn nothing_while_a_change_is_under_way() {
        let view = View { changing: true, ..view(1, &[1], &[], &[1]) };
        assert_eq!(next(&list(&[1, 2, 3]), &NOBODY, &view), None);
    }

    /// Every group of up to three of five nodes, whoever is caught up, comes to what is assigned
    /// once all are, without ever having fewer voters than the smaller of both, or an even number.
    #[test]
    fn every_way_leads_to_the_assignment() {
        let nodes = [1, 2, 3, 4, 5];
        let groups: Vec<Vec<u64>> = (1_u32..32)
            .map(|bits| nodes.iter().copied().filter(|node| bits >> (node - 1) & 1 > 0).collect())
            .filter(|group: &Vec<u64>| group.len() % 2 == 1)
            .collect();
        let mut steps = 0;
        for from in &groups {
            for to in &groups {
                let assigned = list(to);
                let mut view = view(from[0], from, &[], from);
                while let Some(change) = next(&assigned, &NOBODY, &view) {
                    steps += 1;
                    match change {
                        Change::AddLearner(node) => {
                            assert!(view.learners.insert(node));
                            // It catches up some time later.
                            let then = next(&assigned, &NOBODY, &view);
                            assert_ne!(then, Some(Change::AddLearner(node)));
                            view.caught_up.insert(node);
                        }
                        Change::ChangeVoters(voters) => {
                            assert!(voters.len() % 2 == 1, "{from:?} to {to:?}: {voters:?}");
                            assert!(voters.len() >= from.len().min(to.len()));
                            assert!(voters.is_subset(&view.caught_up));
                            view.learners.retain(|node| !voters.contains(node));
                            if !voters.contains(&view.leader) {
                                view.leader = *voters.first().unwrap_or(&view.leader);
                            }
                            view.voters = voters;
                        }
                        Change::RemoveLearner(node) => assert!(view.learners.remove(&node)),
                        Change::Transfer(node) => {
                            assert!(view.voters.contains(&node) && view.leader != node);
                            view.leader = node;
                        }
                    }
                    assert!(steps < 100_000, "{from:?} to {to:?} does not end");
                }
                assert_eq!(view.voters, set(to), "{from:?} to {to:?}");
                assert_eq!(view.leader, assigned[0]);
                assert!(view.learners.is_empty());
            }
        }
        assert!(steps > 600, "only {steps} steps");
    }
}
