//! What the catalog's leader proposes so that every shard has its copies and nodes hold and lead
//! about equally many: a pure function of the catalog and of what is known of the nodes.
//!
//! Owns: that decision. Must never: look at a clock or a socket; propose what the catalog refuses;
//! take a copy away because a node is down.
//! Invariants: a plan carried out leaves nothing to plan; few shards move at one time.

use std::collections::BTreeSet;

use barrage_model::{NodeId, ShardId};

use crate::assignment::{self, Assignment, Member, Request};
use crate::catalog::Catalog;
use crate::command::Command;

/// Shards that move for the sake of balance at one time, at most.
pub const MOVES_MAX: usize = 4;

/// What is known beside the catalog.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Sightings {
    /// Nodes that were heard of lately.
    pub present: BTreeSet<NodeId>,
    /// Nodes that some group has as a member, assigned or not.
    pub members: BTreeSet<NodeId>,
    /// Groups whose members are not the ones assigned yet.
    pub moving: BTreeSet<ShardId>,
}

/// The commands to propose now, in this order.
#[must_use]
pub fn plan(catalog: &Catalog, sightings: &Sightings) -> Vec<Command> {
    let nodes = catalog.nodes();
    let mut commands = Vec::new();
    let moves_max = MOVES_MAX.saturating_sub(sightings.moving.len());
    let (current, wanted) = assigned(catalog, sightings, moves_max);
    let changed = changed(&current, wanted);
    // Who leads is evened out when copies move anyway: what an operator has handed to another
    // node meanwhile stays there.
    if moves(&current, &changed) {
        commands.push(Command::Assign { shards: changed });
    }
    // Asked of the catalog as it is: what was only just assigned away is still held.
    let holds = |node: &NodeId| current.values().any(|holders| holders.contains(node));
    let empty = nodes
        .members()
        .filter(|node| node.leaving && !holds(&node.id) && !sightings.members.contains(&node.id));
    commands.extend(empty.map(|node| Command::Remove { node: node.id }));
    commands
}

/// The assignment with copies and leads as even as they can be at once: what an operator asks for.
#[must_use]
pub fn balance(catalog: &Catalog, sightings: &Sightings) -> Vec<(ShardId, Vec<NodeId>)> {
    let (current, wanted) = assigned(catalog, sightings, usize::MAX);
    changed(&current, wanted)
}

fn assigned(
    catalog: &Catalog,
    sightings: &Sightings,
    moves_max: usize,
) -> (Assignment, Assignment) {
    let nodes = catalog.nodes();
    let shards: Vec<ShardId> = (0..=catalog.shards()).map(ShardId).collect();
    let members: Vec<Member> = nodes
        .members()
        .map(|node| Member {
            node: node.id,
            present: sightings.present.contains(&node.id),
            leaving: node.leaving,
        })
        .collect();
    let copies_wanted = usize::from(nodes.copies_wanted());
    let request = Request { shards: &shards, members: &members, copies_wanted, moves_max };
    let current = nodes.assignment().clone();
    let wanted = assignment::assign(&current, &request);
    (current, wanted)
}

/// Shards that others are to hold. One that nobody could be found for stays as it is.
fn changed(current: &Assignment, wanted: Assignment) -> Vec<(ShardId, Vec<NodeId>)> {
    let is_new = |(shard, holders): &(ShardId, Vec<NodeId>)| {
        holders.len() % 2 == 1 && current.get(shard).is_some_and(|before| before != holders)
    };
    wanted.into_iter().filter(is_new).collect()
}

/// Whether some shard is held by other nodes, in whatever order.
fn moves(current: &Assignment, changed: &[(ShardId, Vec<NodeId>)]) -> bool {
    let set = |holders: &[NodeId]| holders.iter().copied().collect::<BTreeSet<_>>();
    changed.iter().any(|(shard, holders)| {
        current.get(shard).is_some_and(|before| set(before) != set(holders))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::catalog::Reply;
    use crate::node::{Birth, LEVEL, Presence};

    fn cluster(nodes: u64, shards: u32) -> Catalog {
        let mut catalog = Catalog::new();
        catalog.apply(Command::Found { cluster: "c".to_owned(), shards }, 0);
        catalog.apply(Command::RegisterNode { node: NodeId(1) }, 0);
        for birth in 2..=nodes {
            join(&mut catalog, birth);
        }
        catalog
    }

    fn join(catalog: &mut Catalog, birth: u64) {
        let presence = Presence { peer: "p".into(), client: "c".into(), level: LEVEL };
        let reply = catalog.apply(Command::Join { birth: Birth(birth.into()), presence }, 0);
        assert_eq!(reply, Reply::Node(NodeId(birth)));
    }

    fn all(catalog: &Catalog) -> BTreeSet<NodeId> {
        catalog.nodes().members().map(|node| node.id).collect()
    }

    /// Plans and carries out until nothing is left to plan; how many rounds it took.
    fn settle(catalog: &mut Catalog) -> usize {
        for round in 0..100 {
            let present = all(catalog);
            let holders = catalog.nodes().assignment().values().flatten().copied();
            let members = holders.collect();
            let sightings = Sightings { present, members, moving: BTreeSet::new() };
            let commands = plan(catalog, &sightings);
            if commands.is_empty() {
                return round;
            }
            for command in commands {
                let reply = catalog.apply(command.clone(), 0);
                assert!(!matches!(reply, Reply::Refused(_)), "{command:?}: {reply:?}");
            }
        }
        100
    }

    fn held(catalog: &Catalog) -> Vec<usize> {
        let nodes = catalog.nodes();
        let of = |id: NodeId| nodes.assignment().values().filter(|h| h.contains(&id)).count();
        nodes.members().map(|node| of(node.id)).collect()
    }

    #[test]
    fn a_cluster_grows_and_shrinks() {
        let mut catalog = cluster(1, 8);
        assert_eq!(settle(&mut catalog), 0);
        join(&mut catalog, 2);
        // One copy each, evened out between two nodes.
        settle(&mut catalog);
        assert!(catalog.nodes().assignment().values().all(|holders| holders.len() == 1));
        join(&mut catalog, 3);
        settle(&mut catalog);
        assert_eq!(held(&catalog), [9, 9, 9]);
        assert_eq!(catalog.nodes().short_of_copies().count(), 0);
        join(&mut catalog, 4);
        assert!(settle(&mut catalog) > 1, "all moved at once");
        let held_by = held(&catalog);
        assert!(held_by.iter().all(|held| (6..=7).contains(held)), "{held_by:?}");
        catalog.apply(Command::Leave { node: NodeId(2) }, 0);
        settle(&mut catalog);
        assert!(catalog.nodes().get(NodeId(2)).is_none(), "it is empty and goes");
        assert_eq!(held(&catalog), [9, 9, 9]);
    }

    #[test]
    fn a_node_is_not_removed_while_a_group_counts_it() {
        let mut catalog = cluster(4, 4);
        settle(&mut catalog);
        catalog.apply(Command::Leave { node: NodeId(4) }, 0);
        let present = all(&catalog);
        let sightings = Sightings { members: present.clone(), present, moving: BTreeSet::new() };
        for command in plan(&catalog, &sightings) {
            catalog.apply(command, 0);
        }
        assert!(plan(&catalog, &sightings).is_empty());
        let gone = Sightings { members: BTreeSet::from([NodeId(1)]), ..sightings };
        assert_eq!(plan(&catalog, &gone), [Command::Remove { node: NodeId(4) }]);
    }

    #[test]
    fn nothing_moves_while_enough_is_moving() {
        let mut catalog = cluster(3, 16);
        settle(&mut catalog);
        join(&mut catalog, 4);
        let moving = (0..MOVES_MAX as u32).map(ShardId).collect();
        let sightings = Sightings { present: all(&catalog), moving, ..Sightings::default() };
        assert!(plan(&catalog, &sightings).is_empty());
    }
}
