//! Metadata: which partitions there are and where their leaders listen. Any core accepts any
//! request and forwards it; a client that connects to the core named here saves the hop.

use barrage_model::{CoreId, NodeId, PartitionId, ShardId, TopicId, TopicOrder};

use crate::field::fields;

/// Which topics; none means all.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MetadataRequest {
    /// Their names.
    pub topics: Vec<String>,
}
fields!(MetadataRequest { topics });

/// Where one partition lives.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PartitionRoute {
    /// The partition.
    pub partition: PartitionId,
    /// The shard that carries it.
    pub shard: ShardId,
    /// The node that leads the shard.
    pub node: NodeId,
    /// The core of that node that owns the shard.
    pub core: CoreId,
    /// Where that core listens, `HOST:PORT`; empty while nobody is known to lead the shard.
    pub address: String,
}
fields!(PartitionRoute { partition, shard, node, core, address });

/// One topic's partitions, in order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TopicRoutes {
    /// The topic's name.
    pub name: String,
    /// 0, or the number of an error code: the topic is unknown and the rest is empty.
    pub error: u16,
    /// The topic's id, for Produce and Fetch.
    pub topic: TopicId,
    /// Its partitions.
    pub partitions: Vec<PartitionRoute>,
    /// How many levels of priority it has: a partition is of the level that its number modulo this
    /// is.
    pub priorities: u8,
    /// Who may write.
    pub order: TopicOrder,
}
fields!(TopicRoutes { name, error, topic, partitions, priorities, order });

/// Where clients reach one node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeAddress {
    /// The node.
    pub node: NodeId,
    /// `HOST:PORT`.
    pub address: String,
}
fields!(NodeAddress { node, address });

/// One row per topic asked for, in that order; by name when all were asked for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MetadataReply {
    /// Identity of the cluster.
    pub cluster: String,
    /// The topics.
    pub topics: Vec<TopicRoutes>,
    /// Whom else to ask: the cluster's nodes, those that were heard of lately first. Empty when
    /// the server knows none.
    pub nodes: Vec<NodeAddress>,
}
fields!(MetadataReply { cluster, topics, nodes });
