//! The cluster's words: from the wire's to the broker's and back.
//!
//! Must never: judge. What is healthy is the broker's to say.

use std::collections::BTreeSet;

use barrage_broker as broker;
use barrage_broker::{Birth, Presence};
use barrage_model::ShardId;
use barrage_wire as wire;

pub(crate) fn change(change: wire::ClusterChange) -> broker::ClusterChange {
    match change {
        wire::ClusterChange::Join(join) => broker::ClusterChange::Join {
            birth: Birth(join.birth),
            presence: Presence { peer: join.peer, client: join.client, level: join.level },
        },
        wire::ClusterChange::Decommission { node } => broker::ClusterChange::Decommission { node },
        wire::ClusterChange::Recommission { node } => broker::ClusterChange::Recommission { node },
        wire::ClusterChange::Transfer { shard, to } => {
            broker::ClusterChange::Transfer { shard, to }
        }
        wire::ClusterChange::Balance => broker::ClusterChange::Balance,
        wire::ClusterChange::SetCopies { copies } => broker::ClusterChange::SetCopies { copies },
    }
}

pub(crate) fn changed(changed: broker::ClusterChanged) -> wire::ClusterChanged {
    let broker::ClusterChanged { node, cluster, shards } = changed;
    wire::ClusterChanged { node, cluster, shards }
}

pub(crate) fn description(known: broker::ClusterDescription) -> wire::ClusterDescription {
    let healthy = known.is_healthy();
    let under_replicated: BTreeSet<_> = known.under_replicated().collect();
    let broker::ClusterDescription { cluster, node, level, copies_wanted, nodes, shards } = known;
    let nodes = nodes.into_iter().map(node_description).collect();
    let shards = shards.into_iter().map(|row| shard_description(row, &under_replicated)).collect();
    wire::ClusterDescription { cluster, node, level, copies_wanted, healthy, nodes, shards }
}

/// Where clients reach the nodes, those that were heard of lately first.
pub(crate) fn addresses(known: broker::ClusterDescription) -> Vec<wire::NodeAddress> {
    let reachable = known.nodes.into_iter().filter(|node| !node.client.is_empty());
    let (present, absent): (Vec<_>, Vec<_>) = reachable.partition(|node| node.present);
    let address =
        |row: broker::NodeDescription| wire::NodeAddress { node: row.node, address: row.client };
    present.into_iter().chain(absent).map(address).collect()
}

fn node_description(row: broker::NodeDescription) -> wire::NodeDescription {
    wire::NodeDescription {
        node: row.node,
        peer: row.peer,
        client: row.client,
        present: row.present,
        leaving: row.leaving,
        level: row.level,
        cores: row.cores,
        copies: row.copies,
        leads: row.leads,
    }
}

fn shard_description(
    row: broker::ShardDescription,
    under_replicated: &BTreeSet<ShardId>,
) -> wire::ShardDescription {
    wire::ShardDescription {
        shard: row.shard,
        leader: row.leader,
        term: row.term,
        under_replicated: under_replicated.contains(&row.shard),
        assigned: row.assigned,
        voters: row.voters.into_iter().collect(),
        learners: row.learners.into_iter().collect(),
        in_sync: row.in_sync.into_iter().collect(),
    }
}

#[cfg(test)]
mod tests {
    use barrage_model::{NodeId, Term};

    use super::*;

    fn node(node: u64, present: bool, client: &str) -> broker::NodeDescription {
        broker::NodeDescription {
            node: NodeId(node),
            peer: String::new(),
            client: client.to_owned(),
            present,
            leaving: false,
            level: 1,
            cores: 1,
            copies: 1,
            leads: 1,
        }
    }

    fn shard(shard: u32, leader: Option<u64>, in_sync: &[u64]) -> broker::ShardDescription {
        let in_sync: BTreeSet<_> = in_sync.iter().copied().map(NodeId).collect();
        broker::ShardDescription {
            shard: ShardId(shard),
            leader: leader.map(NodeId),
            term: Term(1),
            assigned: in_sync.iter().copied().collect(),
            voters: in_sync.clone(),
            changing: false,
            learners: BTreeSet::new(),
            in_sync,
        }
    }

    fn cluster(shards: Vec<broker::ShardDescription>) -> broker::ClusterDescription {
        let nodes = vec![node(1, false, "a:1"), node(2, true, "b:1"), node(3, true, "")];
        let (cluster, node, level, copies_wanted) = ("c".to_owned(), NodeId(1), 1, 3);
        broker::ClusterDescription { cluster, node, level, copies_wanted, nodes, shards }
    }

    #[test]
    fn the_brokers_judgement_travels() {
        let full = shard(1, Some(2), &[1, 2, 3]);
        let told = |shards| {
            let told = description(cluster(shards));
            let short = told.shards.iter().filter(|shard| shard.under_replicated);
            (told.healthy, short.map(|shard| shard.shard.0).collect::<Vec<_>>())
        };
        assert_eq!(told(vec![full.clone()]), (true, vec![]));
        assert_eq!(told(vec![full.clone(), shard(4, Some(1), &[1, 2])]), (false, vec![4]));
        let changing = broker::ShardDescription { changing: true, ..full.clone() };
        assert_eq!(told(vec![changing]), (false, vec![1]));
        assert_eq!(told(vec![full, shard(4, None, &[1, 2, 3])]), (false, vec![]));
    }

    #[test]
    fn clients_are_told_whom_to_ask_best_first() {
        let told = addresses(cluster(Vec::new()));
        let told: Vec<_> = told.iter().map(|row| (row.node.0, row.address.as_str())).collect();
        assert_eq!(told, [(2, "b:1"), (1, "a:1")]);
    }
}
