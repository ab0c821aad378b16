//! The nodes of a cluster, who of them holds which shard, and what all of them can read.
//!
//! ```text
//!   Join --> member --Leave--> leaving --(holds nothing) Remove--> gone: its id never comes back
//!              ^  |Announce: other addresses, a newer build
//!              +--+
//! ```
//!
//! Owns: nodes and their ids, the assignment of shards, the format level.
//! Must never: give an id out twice; drop a node that holds a copy; raise the level above what a
//! node can read.
//! Invariants: every assigned node is a member; the level is at most every member's own.

use std::collections::{BTreeMap, BTreeSet};

use barrage_model::{NodeId, ShardId};
use thiserror::Error;

use crate::assignment::{Assignment, copies};

/// The newest format level that this build writes and reads: of commands, checkpoints, entries and
/// what nodes tell each other.
pub const LEVEL: u32 = 1;
/// Nodes of a cluster, at most.
pub const NODES_MAX: usize = 1_000;
/// Bytes of an address, at most: a DNS name and a port.
pub const ADDRESS_BYTES_MAX: usize = 261;
/// No id was ever counted up to here.
const IDS_MAX: u64 = 1 << 62;
/// Copies of a shard, at most.
pub const COPIES_MAX: u8 = 5;

/// What makes a joining node the same one when it asks again: drawn once, kept beside its data.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct Birth(pub u128);

/// How to reach a node, and what it can read.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Presence {
    /// Where other nodes reach it first, as `host:port`.
    pub peer: String,
    /// Where clients reach it, as `host:port`.
    pub client: String,
    /// The newest format level its build knows.
    pub level: u32,
}

/// A member.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Node {
    /// Its id: never another node's.
    pub id: NodeId,
    /// What it was born with.
    pub birth: Birth,
    /// How to reach it.
    pub presence: Presence,
    /// It is to be emptied.
    pub leaving: bool,
}

/// All members and what they hold.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Nodes {
    pub(crate) members: BTreeMap<NodeId, Node>,
    pub(crate) next: u64,
    pub(crate) assignment: Assignment,
    pub(crate) copies_wanted: u8,
    pub(crate) level: u32,
}

/// Why a command about nodes changed nothing.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum NodeError {
    /// No member has this id.
    #[error("node {node} is no member of the cluster: it never was, or it was removed")]
    UnknownNode {
        /// The id.
        node: NodeId,
    },
    /// No shard has this id.
    #[error("there is no shard {shard}")]
    UnknownShard {
        /// The id.
        shard: ShardId,
    },
    /// Only the first node founds; others join.
    #[error("the cluster is founded; another node joins it")]
    Founded,
    /// As many nodes as a cluster may have.
    #[error("a cluster has at most {NODES_MAX} nodes")]
    TooManyNodes,
    /// An address that no node has.
    #[error("an address has at most {ADDRESS_BYTES_MAX} bytes")]
    AddressTooLong,
    /// The build cannot read what the cluster writes.
    #[error("the cluster writes format level {level}, this build knows {known}; start a newer one")]
    BuildTooOld {
        /// The cluster's level.
        level: u32,
        /// The node's.
        known: u32,
    },
    /// Some member cannot read that level.
    #[error("format level {level} is not known to all nodes: {known} is")]
    LevelUnknown {
        /// The level asked for.
        level: u32,
        /// The level that all know.
        known: u32,
    },
    /// Somebody has to hold what there is.
    #[error("every other node is leaving already")]
    LastNode,
    /// It is not empty.
    #[error("node {node} holds copies of {shards} shards; decommission it first")]
    NodeHolds {
        /// The node.
        node: NodeId,
        /// How many shards.
        shards: usize,
    },
    /// Not a number of copies, or twice the same node.
    #[error("shard {shard}: 1, 3 or 5 different nodes hold it, not {count}")]
    Holders {
        /// The shard.
        shard: ShardId,
        /// How many were named.
        count: usize,
    },
    /// Not a number of copies.
    #[error("1, 3 or 5 copies are kept, not {wanted}")]
    CopiesWanted {
        /// The number asked for.
        wanted: u8,
    },
}

impl Default for Nodes {
    fn default() -> Self {
        Self {
            members: BTreeMap::new(),
            next: 1,
            assignment: Assignment::new(),
            copies_wanted: 3,
            level: LEVEL,
        }
    }
}

impl Nodes {
    /// The members, by id.
    pub fn members(&self) -> impl Iterator<Item = &Node> {
        self.members.values()
    }

    /// A member.
    #[must_use]
    pub fn get(&self, node: NodeId) -> Option<&Node> {
        self.members.get(&node)
    }

    /// Whether a node was a member and is none any more: ids are given in order and never again.
    #[must_use]
    pub fn was_removed(&self, id: NodeId) -> bool {
        id.0 < self.next && !self.members.contains_key(&id)
    }

    /// Who holds which shard.
    #[must_use]
    pub fn assignment(&self) -> &Assignment {
        &self.assignment
    }

    /// Copies wanted of every shard.
    #[must_use]
    pub fn copies_wanted(&self) -> u8 {
        self.copies_wanted
    }

    /// The format level: nothing newer is written by anybody.
    #[must_use]
    pub fn level(&self) -> u32 {
        self.level
    }

    /// The level that all members know.
    #[must_use]
    pub fn level_of_all(&self) -> u32 {
        self.members.values().map(|node| node.presence.level).min().unwrap_or(self.level)
    }

    /// The node that founds the cluster: it holds all `shards`.
    /// Answers whether that is news.
    pub(crate) fn found(
        &mut self,
        id: NodeId,
        shards: impl Iterator<Item = ShardId>,
    ) -> Result<bool, NodeError> {
        if self.members.contains_key(&id) {
            return Ok(false);
        }
        if !self.members.is_empty() || id.0 >= IDS_MAX {
            return Err(NodeError::Founded);
        }
        let presence = Presence { level: self.level, ..Presence::default() };
        let node = Node { id, birth: Birth::default(), presence, leaving: false };
        self.members.insert(id, node);
        self.next = self.next.max(id.0.saturating_add(1));
        for shard in shards {
            self.assignment.entry(shard).or_insert_with(|| vec![id]);
        }
        Ok(true)
    }

    /// A node becomes a member, or is told again which one it is.
    pub(crate) fn join(&mut self, birth: Birth, presence: Presence) -> Result<NodeId, NodeError> {
        self.check(&presence)?;
        let known = |node: &&Node| birth != Birth::default() && node.birth == birth;
        if let Some(id) = self.members.values().find(known).map(|node| node.id) {
            return self.announce(id, presence).map(|_| id);
        }
        if self.members.len() >= NODES_MAX || self.next >= IDS_MAX {
            return Err(NodeError::TooManyNodes);
        }
        let id = NodeId(self.next);
        self.next += 1;
        self.members.insert(id, Node { id, birth, presence, leaving: false });
        Ok(id)
    }

    /// A member tells where it is now. Answers whether that is news.
    pub(crate) fn announce(&mut self, id: NodeId, presence: Presence) -> Result<bool, NodeError> {
        self.check(&presence)?;
        let node = self.members.get_mut(&id).ok_or(NodeError::UnknownNode { node: id })?;
        let news = node.presence != presence;
        node.presence = presence;
        Ok(news)
    }

    fn check(&self, presence: &Presence) -> Result<(), NodeError> {
        if presence.peer.len().max(presence.client.len()) > ADDRESS_BYTES_MAX {
            return Err(NodeError::AddressTooLong);
        }
        if presence.level < self.level {
            return Err(NodeError::BuildTooOld { level: self.level, known: presence.level });
        }
        Ok(())
    }

    /// A member is to be emptied, or is not after all. Answers whether that is news.
    pub(crate) fn set_leaving(&mut self, id: NodeId, leaving: bool) -> Result<bool, NodeError> {
        let others = self.members.values().any(|node| node.id != id && !node.leaving);
        let node = self.members.get_mut(&id).ok_or(NodeError::UnknownNode { node: id })?;
        if leaving && !others {
            return Err(NodeError::LastNode);
        }
        let news = node.leaving != leaving;
        node.leaving = leaving;
        Ok(news)
    }

    /// A member that holds nothing is forgotten.
    pub(crate) fn remove(&mut self, id: NodeId) -> Result<(), NodeError> {
        if !self.members.contains_key(&id) {
            return Err(NodeError::UnknownNode { node: id });
        }
        let held = self.assignment.values().filter(|holders| holders.contains(&id)).count();
        if held > 0 {
            return Err(NodeError::NodeHolds { node: id, shards: held });
        }
        self.members.remove(&id);
        Ok(())
    }

    /// Other nodes hold these shards. Answers whether that is news. All or nothing.
    pub(crate) fn assign(
        &mut self,
        shards: Vec<(ShardId, Vec<NodeId>)>,
    ) -> Result<bool, NodeError> {
        for (shard, holders) in &shards {
            if !self.assignment.contains_key(shard) {
                return Err(NodeError::UnknownShard { shard: *shard });
            }
            let different: BTreeSet<_> = holders.iter().collect();
            let count = holders.len();
            let may = count % 2 == 1 && count <= usize::from(COPIES_MAX);
            if !may || different.len() != count {
                return Err(NodeError::Holders { shard: *shard, count });
            }
            if let Some(node) = holders.iter().find(|node| !self.members.contains_key(*node)) {
                return Err(NodeError::UnknownNode { node: *node });
            }
        }
        let mut news = false;
        for (shard, holders) in shards {
            news |= self.assignment.insert(shard, holders.clone()) != Some(holders);
        }
        Ok(news)
    }

    /// How many copies there are to be. Answers whether that is news.
    pub(crate) fn set_copies(&mut self, wanted: u8) -> Result<bool, NodeError> {
        if wanted.is_multiple_of(2) || wanted > COPIES_MAX {
            return Err(NodeError::CopiesWanted { wanted });
        }
        let news = self.copies_wanted != wanted;
        self.copies_wanted = wanted;
        Ok(news)
    }

    /// Everybody may write this level from now on. Answers whether that is news.
    pub(crate) fn raise_level(&mut self, level: u32) -> Result<bool, NodeError> {
        let known = self.level_of_all();
        if level > known {
            return Err(NodeError::LevelUnknown { level, known });
        }
        let news = level > self.level;
        self.level = self.level.max(level);
        Ok(news)
    }

    /// Shards that have fewer copies assigned than this cluster can keep.
    pub fn short_of_copies(&self) -> impl Iterator<Item = ShardId> {
        let staying = self.members.values().filter(|node| !node.leaving).count();
        let wanted = copies(usize::from(self.copies_wanted), staying);
        self.assignment
            .iter()
            .filter(move |(_, holders)| holders.len() < wanted)
            .map(|(shard, _)| *shard)
    }

    /// What holds in everything that commands have made.
    pub(crate) fn is_sound(&self, shards: u32) -> bool {
        let is_member = |node: &NodeId| self.members.contains_key(node);
        let holders = self.assignment.values();
        self.members.len() <= NODES_MAX
            && self.members.keys().all(|node| node.0 < self.next)
            && self
                .members
                .iter()
                .all(|(id, node)| node.id == *id && self.level <= node.presence.level)
            && self.members.values().all(|node| self.check(&node.presence).is_ok())
            && self.next <= IDS_MAX
            && self.assignment.keys().all(|shard| shard.0 <= shards)
            && holders.flatten().all(is_member)
            && self.copies_wanted % 2 == 1
            && self.copies_wanted <= COPIES_MAX
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests fail by panicking")]

    use super::*;

    fn presence(level: u32) -> Presence {
        Presence { peer: "a:1".to_owned(), client: "a:2".to_owned(), level }
    }

    fn founded() -> Nodes {
        let mut nodes = Nodes::default();
        assert_eq!(nodes.found(NodeId(1), (0..=2).map(ShardId)), Ok(true));
        assert_eq!(nodes.found(NodeId(1), (0..=2).map(ShardId)), Ok(false));
        let second = nodes.found(NodeId(2), (0..=2).map(ShardId));
        assert_eq!(second, Err(NodeError::Founded));
        nodes
    }

    #[test]
    fn ids_are_given_once_and_a_repeated_join_gets_its_own_again() {
        let mut nodes = founded();
        assert_eq!(nodes.join(Birth(7), presence(LEVEL)), Ok(NodeId(2)));
        assert_eq!(nodes.join(Birth(8), presence(LEVEL)), Ok(NodeId(3)));
        assert_eq!(nodes.join(Birth(7), presence(LEVEL)), Ok(NodeId(2)));
        nodes.remove(NodeId(3)).unwrap();
        // It is another node now, whatever it was born with.
        assert_eq!(nodes.join(Birth(8), presence(LEVEL)), Ok(NodeId(4)));
        let gone = NodeError::UnknownNode { node: NodeId(3) };
        assert_eq!(nodes.announce(NodeId(3), presence(LEVEL)), Err(gone));
        assert!(nodes.is_sound(2));
    }

    #[test]
    fn a_node_goes_only_when_it_holds_nothing() {
        let mut nodes = founded();
        assert_eq!(nodes.set_leaving(NodeId(1), true), Err(NodeError::LastNode));
        nodes.join(Birth(7), presence(LEVEL)).unwrap();
        assert_eq!(nodes.set_leaving(NodeId(1), true), Ok(true));
        assert_eq!(nodes.set_leaving(NodeId(1), true), Ok(false));
        let holds = NodeError::NodeHolds { node: NodeId(1), shards: 3 };
        assert_eq!(nodes.remove(NodeId(1)), Err(holds));
        let all = (0..=2).map(|shard| (ShardId(shard), vec![NodeId(2)])).collect();
        assert_eq!(nodes.assign(all), Ok(true));
        assert_eq!(nodes.remove(NodeId(1)), Ok(()));
        assert!(nodes.is_sound(2));
    }

    #[test]
    fn only_odd_sets_of_members_hold_shards() {
        let mut nodes = founded();
        for birth in 2..=5 {
            nodes.join(Birth(birth), presence(LEVEL)).unwrap();
        }
        let before = nodes.clone();
        let holders = |ids: &[u64]| ids.iter().copied().map(NodeId).collect::<Vec<_>>();
        for (shard, ids) in
            [(9, &[1][..]), (1, &[]), (1, &[1, 2]), (1, &[1, 2, 2]), (1, &[1, 2, 9])]
        {
            // The first is right, and is not taken without the other.
            let shards = vec![(ShardId(2), holders(&[3])), (ShardId(shard), holders(ids))];
            assert!(nodes.assign(shards).is_err(), "{shard} {ids:?}");
            assert_eq!(nodes, before);
        }
        assert_eq!(nodes.assign(vec![(ShardId(1), holders(&[3, 1, 2]))]), Ok(true));
        assert_eq!(nodes.assign(vec![(ShardId(1), holders(&[3, 1, 2]))]), Ok(false));
        assert_eq!(nodes.short_of_copies().collect::<Vec<_>>(), [ShardId(0), ShardId(2)]);
    }

    #[test]
    fn nothing_is_written_that_a_node_cannot_read() {
        let mut nodes = founded();
        nodes.join(Birth(7), presence(LEVEL + 1)).unwrap();
        let unknown = NodeError::LevelUnknown { level: LEVEL + 1, known: LEVEL };
        assert_eq!(nodes.raise_level(LEVEL + 1), Err(unknown));
        nodes.announce(NodeId(1), presence(LEVEL + 1)).unwrap();
        assert_eq!(nodes.raise_level(LEVEL + 1), Ok(true));
        assert_eq!(nodes.raise_level(LEVEL), Ok(false));
        let old = NodeError::BuildTooOld { level: LEVEL + 1, known: LEVEL };
        assert_eq!(nodes.join(Birth(9), presence(LEVEL)), Err(old.clone()));
        assert_eq!(nodes.announce(NodeId(1), presence(LEVEL)), Err(old));
    }

    #[test]
    fn copies_are_odd() {
        let mut nodes = founded();
        for (wanted, is_right) in
            [(0, false), (1, true), (2, false), (3, true), (5, true), (7, false)]
        {
            assert_eq!(nodes.set_copies(wanted).is_ok(), is_right, "{wanted}");
        }
    }
}
