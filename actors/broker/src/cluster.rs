//! What operators ask about the cluster and change in it: plain data, as in `api`.
//!
//! Owns: those types, and what healthy means. Must never: name a protocol.

use std::collections::BTreeSet;

use barrage_cluster::Catalog;
use barrage_cluster::beacon::{Board, Replica};
use barrage_cluster::node::{Birth, Presence};
use barrage_model::{NodeId, ShardId, Term};

use crate::beacons::now_ms;

/// A change of the cluster that an operator, or a joining node, asks for.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum ClusterChange {
    /// A node becomes a member; asked again with the same birth it is told the same id.
    Join {
        /// What tells it from others.
        birth: Birth,
        /// How to reach it.
        presence: Presence,
    },
    /// All copies leave the node, then it is forgotten.
    Decommission {
        /// The node.
        node: NodeId,
    },
    /// The node is not to be emptied after all.
    Recommission {
        /// The node.
        node: NodeId,
    },
    /// The node leads the shard from now on; it must hold a copy.
    Transfer {
        /// The shard.
        shard: ShardId,
        /// The node.
        to: NodeId,
    },
    /// Copies and leads are spread evenly over the nodes.
    Balance,
    /// So many copies are kept of every shard.
    SetCopies {
        /// 1, 3 or 5.
        copies: u8,
    },
}

/// What a change led to.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ClusterChanged {
    /// Of a join: the id of the new member. Else the node that carried the change out.
    pub node: NodeId,
    /// The cluster's identity.
    pub cluster: String,
    /// How many shards are held by other nodes, or led by another one, from now on.
    pub shards: u32,
}

/// A member as the node that answers sees it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct NodeDescription {
    /// Its id.
    pub node: NodeId,
    /// Where other nodes reach it.
    pub peer: String,
    /// Where clients reach it.
    pub client: String,
    /// It was heard of lately.
    pub present: bool,
    /// It is being emptied.
    pub leaving: bool,
    /// The newest format level that its build knows.
    pub level: u32,
    /// Cores that serve; 0 while nothing was heard of it.
    pub cores: u16,
    /// Shards it is to hold a copy of, the catalog's among them.
    pub copies: u32,
    /// Shards it leads.
    pub leads: u32,
}

/// A shard as the node that answers sees it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ShardDescription {
    /// The shard; 0 is the catalog's.
    pub shard: ShardId,
    /// Who leads it, if anybody was heard to.
    pub leader: Option<NodeId>,
    /// The term it leads in.
    pub term: Term,
    /// Who is to hold it; the first is to lead.
    pub assigned: Vec<NodeId>,
    /// Who votes.
    pub voters: BTreeSet<NodeId>,
    /// Who votes is being changed: until that is done, one of them may be all there is of those who
    /// voted before.
    pub changing: bool,
    /// Who receives it without a vote.
    pub learners: BTreeSet<NodeId>,
    /// Voters that have all but the newest entries, and are not damaged.
    pub in_sync: BTreeSet<NodeId>,
}

/// The cluster as the node that answers sees it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ClusterDescription {
    /// Its identity.
    pub cluster: String,
    /// The node that answers.
    pub node: NodeId,
    /// Nothing newer than this format level is written.
    pub level: u32,
    /// Copies that are to be kept of every shard.
    pub copies_wanted: u8,
    /// Its members.
    pub nodes: Vec<NodeDescription>,
    /// Its shards.
    pub shards: Vec<ShardDescription>,
}

impl ClusterDescription {
    /// What `node` knows.
    pub(crate) fn of(node: NodeId, catalog: &Catalog, board: &Board) -> Self {
        let (now_ms, members) = (now_ms(), catalog.nodes());
        let describe = |(shard, assigned): (&ShardId, &Vec<NodeId>)| {
            let nobody = Replica::default();
            let row = board.leading(*shard, now_ms).map_or(&nobody, |(_, row)| row);
            // A damaged copy is about to be made anew: it is none that others may rely on.
            let counts =
                |node: &&NodeId| row.voters.contains(node) && !board.is_damaged(**node, *shard);
            ShardDescription {
                shard: *shard,
                leader: board.leading(*shard, now_ms).map(|(node, _)| node),
                term: row.term,
                assigned: assigned.clone(),
                voters: row.voters.clone(),
                changing: row.changing,
                learners: row.learners.clone(),
                in_sync: row.in_sync.iter().filter(counts).copied().collect(),
            }
        };
        let shards: Vec<ShardDescription> = members.assignment().iter().map(describe).collect();
        let count = |is: &dyn Fn(&ShardDescription) -> bool| {
            u32::try_from(shards.iter().filter(|shard| is(shard)).count()).unwrap_or(u32::MAX)
        };
        let nodes = members.members().map(|member| NodeDescription {
            node: member.id,
            peer: board.peer_address(member).to_owned(),
            client: member.presence.client.clone(),
            present: board.is_present(member.id, now_ms),
            leaving: member.leaving,
            level: member.presence.level,
            cores: board
                .beacon(member.id)
                .map_or(0, |beacon| u16::try_from(beacon.core_addresses.len()).unwrap_or(u16::MAX)),
            copies: count(&|shard| shard.assigned.contains(&member.id)),
            leads: count(&|shard| shard.leader == Some(member.id)),
        });
        Self {
            cluster: catalog.cluster().to_owned(),
            node,
            level: members.level(),
            copies_wanted: members.copies_wanted(),
            nodes: nodes.collect(),
            shards,
        }
    }

    /// Every shard has a leader and as many copies in sync as are wanted.
    #[must_use]
    pub fn is_healthy(&self) -> bool {
        self.under_replicated().next().is_none()
            && self.shards.iter().all(|shard| shard.leader.is_some())
    }

    /// Shards with fewer copies in sync than are wanted, or of which it is just being changed who
    /// votes: none of them may lose a node yet.
    pub fn under_replicated(&self) -> impl Iterator<Item = ShardId> {
        let wanted = usize::from(self.copies_wanted);
        let short = move |shard: &&ShardDescription| shard.in_sync.len() < wanted || shard.changing;
        self.shards.iter().filter(short).map(|shard| shard.shard)
    }
}
