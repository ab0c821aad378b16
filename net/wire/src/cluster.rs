//! The cluster: its members, who holds and leads which shard, and what operators change about it.
//! Whether it is healthy is the server's judgement and travels as a flag: nobody judges twice.

use barrage_model::{NodeId, ShardId, Term};
use bytes::BytesMut;

use crate::field::{DecodeError, Field, Reader, fields};

/// What is to change. Asked again, a change that was made answers as before.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ClusterChange {
    /// A node becomes a member.
    Join(ClusterJoin),
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

/// Who joins.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClusterJoin {
    /// Drawn once by the node: with the same one it is told the same id again.
    pub birth: u128,
    /// Where other nodes reach it, `HOST:PORT`.
    pub peer: String,
    /// Where clients reach it, `HOST:PORT`.
    pub client: String,
    /// The newest format level that its build knows.
    pub level: u32,
}
fields!(ClusterJoin { birth, peer, client, level });

impl Field for ClusterChange {
    fn put(&self, out: &mut BytesMut) {
        match self {
            Self::Join(join) => {
                1_u8.put(out);
                join.put(out);
            }
            Self::Decommission { node } => {
                2_u8.put(out);
                node.put(out);
            }
            Self::Recommission { node } => {
                3_u8.put(out);
                node.put(out);
            }
            Self::Transfer { shard, to } => {
                4_u8.put(out);
                shard.put(out);
                to.put(out);
            }
            Self::Balance => 5_u8.put(out),
            Self::SetCopies { copies } => {
                6_u8.put(out);
                copies.put(out);
            }
        }
    }

    fn take(reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
        match reader.take::<u8>()? {
            1 => Ok(Self::Join(reader.take()?)),
            2 => Ok(Self::Decommission { node: reader.take()? }),
            3 => Ok(Self::Recommission { node: reader.take()? }),
            4 => Ok(Self::Transfer { shard: reader.take()?, to: reader.take()? }),
            5 => Ok(Self::Balance),
            6 => Ok(Self::SetCopies { copies: reader.take()? }),
            value => Err(DecodeError::BadTag { what: "cluster change", value: u32::from(value) }),
        }
    }

    fn size_min() -> usize {
        1
    }
}

/// What a change led to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClusterChanged {
    /// Of a join: the id of the new member. Else the node that carried the change out.
    pub node: NodeId,
    /// The cluster's identity.
    pub cluster: String,
    /// How many shards are held by other nodes, or led by another one, from now on.
    pub shards: u32,
}
fields!(ClusterChanged { node, cluster, shards });

/// A member as the node that answers sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
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
    /// Shards it is to hold a copy of.
    pub copies: u32,
    /// Shards it leads.
    pub leads: u32,
}
fields!(NodeDescription { node, peer, client, present, leaving, level, cores, copies, leads });

/// A shard as the node that answers sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ShardDescription {
    /// The shard; 0 is the catalog's.
    pub shard: ShardId,
    /// Who leads it, if anybody was heard to.
    pub leader: Option<NodeId>,
    /// The term it leads in.
    pub term: Term,
    /// Fewer copies are in sync than are wanted.
    pub under_replicated: bool,
    /// Who is to hold it; the first is to lead.
    pub assigned: Vec<NodeId>,
    /// Who votes, by id.
    pub voters: Vec<NodeId>,
    /// Who receives it without a vote, by id.
    pub learners: Vec<NodeId>,
    /// Voters that have all but the newest entries, by id.
    pub in_sync: Vec<NodeId>,
}
fields!(ShardDescription {
    shard,
    leader,
    term,
    under_replicated,
    assigned,
    voters,
    learners,
    in_sync,
});

/// The cluster as the node that answers sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClusterDescription {
    /// Its identity.
    pub cluster: String,
    /// The node that answers.
    pub node: NodeId,
    /// Nothing newer than this format level is written.
    pub level: u32,
    /// Copies that are to be kept of every shard.
    pub copies_wanted: u8,
    /// Every shard has a leader and as many copies in sync as are wanted.
    pub healthy: bool,
    /// Its members, by id.
    pub nodes: Vec<NodeDescription>,
    /// Its shards, by id.
    pub shards: Vec<ShardDescription>,
}
fields!(ClusterDescription { cluster, node, level, copies_wanted, healthy, nodes, shards });
