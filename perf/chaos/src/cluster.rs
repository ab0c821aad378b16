//! The nodes of a run and what they say of themselves.
//!
//! Owns: their processes, links and disks; all are gone when it is dropped.
//! Must never: believe one node where several can be asked.

use std::fs;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use barrage_model::{NodeId, ShardId};
use barrage_wire::ClusterDescription;

use crate::args::{self, Args};
use crate::asleep;
use crate::control::Control;
use crate::disk::Disk;
use crate::network::Network;
use crate::node::{Node, Start};

const LOOK_EVERY: Duration = Duration::from_millis(100);
/// Between the client and the peer ports on loopback.
const PEER_PORTS_AFTER: u16 = 100;

/// See the module. The nodes stand first: they end before their links and disks go.
#[derive(Debug)]
pub(crate) struct Cluster {
    pub(crate) nodes: Vec<Node>,
    pub(crate) network: Option<Network>,
    pub(crate) control: Control,
}

impl Cluster {
    /// Starts the nodes and waits until all is well.
    pub(crate) fn start(
        args: &Args,
        home: &Path,
        network: Option<Network>,
        with_disks: bool,
    ) -> anyhow::Result<Self> {
        let binary = args.node_binary()?;
        let mut nodes = Vec::new();
        for index in 0..args.nodes {
            let home = home.join(format!("node-{index}"));
            fs::create_dir_all(&home).with_context(|| home.display().to_string())?;
            let disk = if with_disks { Some(Disk::new(&home)?) } else { None };
            let start = start(args, index, &binary, network.as_ref());
            nodes.push(Node::new(index, home, disk, start));
        }
        let mut cluster = Self { nodes, network, control: Control::new()? };
        for index in 0..args.nodes {
            let join = cluster.others(index);
            let node = cluster.node(index)?;
            if index > 0 {
                node.join = join;
            }
            node.spawn()?;
            node.await_ready()?;
        }
        cluster.await_healthy(args.whole_timeout())?;
        Ok(cluster)
    }

    pub(crate) fn node(&mut self, index: usize) -> anyhow::Result<&mut Node> {
        self.nodes.get_mut(index).context("no such node")
    }

    /// The client addresses of all nodes.
    pub(crate) fn servers(&self) -> Vec<String> {
        self.nodes.iter().map(Node::address).collect()
    }

    /// The client addresses of all nodes but one.
    pub(crate) fn others(&self, index: usize) -> Vec<String> {
        let others = self.nodes.iter().filter(|node| node.index != index);
        others.map(Node::address).collect()
    }

    pub(crate) fn index_of(&self, id: NodeId) -> Option<usize> {
        self.nodes.iter().find(|node| node.id == id).map(|node| node.index)
    }

    /// What each node that answers says of the cluster.
    pub(crate) fn views(&self) -> Vec<ClusterDescription> {
        let answering = self.nodes.iter().filter(|node| node.answers());
        let views = answering.filter_map(|node| {
            let view = self.control.describe(&node.address())?;
            (view.node == node.id).then_some(view)
        });
        views.collect()
    }

    /// Who leads a shard, as those say who know of the newest term.
    pub(crate) fn leader(&self, shard: ShardId) -> Option<NodeId> {
        let views = self.views();
        let rows = views.iter().flat_map(|view| &view.shards).filter(|row| row.shard == shard);
        rows.filter(|row| row.leader.is_some()).max_by_key(|row| row.term)?.leader
    }

    /// The shards that a node leads, the catalog's among them.
    pub(crate) fn led_by(&self, id: NodeId) -> Vec<ShardId> {
        let views = self.views();
        let Some(view) = views.first() else { return Vec::new() };
        let led = view.shards.iter().filter(|row| row.leader == Some(id));
        led.map(|row| row.shard).collect()
    }

    /// Waits until every node says that all is well, and who leads.
    pub(crate) fn await_healthy(&mut self, limit: Duration) -> anyhow::Result<Duration> {
        let began = Instant::now();
        loop {
            let views = self.views();
            let is_whole = |view: &ClusterDescription| {
                let members = view.nodes.len() == self.nodes.len();
                view.healthy && members && view.nodes.iter().all(|row| row.present)
            };
            if views.len() == self.nodes.len() && views.iter().all(is_whole) {
                return Ok(began.elapsed());
            }
            self.check_processes()?;
            if began.elapsed() > limit {
                bail!("not healthy after {limit:?}: {}", self.in_words(&views));
            }
            thread::sleep(LOOK_EVERY);
        }
    }

    /// Nobody ended on its own.
    pub(crate) fn check_processes(&mut self) -> anyhow::Result<()> {
        for node in &mut self.nodes {
            if let Some(status) = node.ended()? {
                bail!("{} ended on its own: {status}\n{}", node.words(), node.log_tail());
            }
        }
        Ok(())
    }

    /// The executors that make no progress, and the nodes they are of.
    pub(crate) fn asleep(&self) -> Vec<(usize, String)> {
        let mut asleep = Vec::new();
        for node in self.nodes.iter().filter(|node| node.answers()) {
            let Some(pid) = node.pid() else { continue };
            let threads = asleep::threads(pid);
            if !threads.is_empty() {
                asleep.push((node.index, format!("{}: {}", node.words(), threads.join(", "))));
            }
        }
        asleep
    }

    /// Takes every fault back that can be: links, pauses, dead processes.
    pub(crate) fn heal(&mut self) -> anyhow::Result<()> {
        if let Some(network) = &self.network {
            network.heal();
        }
        for node in &mut self.nodes {
            if node.is_paused {
                node.go_on()?;
            }
            if node.ended()?.is_some() || node.pid().is_none() {
                node.spawn()?;
                node.await_ready()?;
            }
        }
        Ok(())
    }

    fn in_words(&self, views: &[ClusterDescription]) -> String {
        let mut words = Vec::new();
        for node in &self.nodes {
            let Some(view) = views.iter().find(|view| view.node == node.id) else {
                words.push(format!("{} does not answer", node.words()));
                continue;
            };
            let absent: Vec<_> = view.nodes.iter().filter(|row| !row.present).collect();
            let absent: Vec<_> = absent.iter().map(|row| row.node.to_string()).collect();
            let mut sick = Vec::new();
            for row in &view.shards {
                if row.under_replicated || row.leader.is_none() {
                    sick.push(format!(
                        "shard {} leader {:?} term {} voters {:?} learners {:?} in sync {:?}",
                        row.shard.0,
                        row.leader.map(|id| id.0),
                        row.term.0,
                        ids(&row.voters),
                        ids(&row.learners),
                        ids(&row.in_sync),
                    ));
                }
            }
            words.push(format!(
                "{} says healthy={}, {} members, absent [{}], {}",
                node.words(),
                view.healthy,
                view.nodes.len(),
                absent.join(","),
                if sick.is_empty() { "all shards well".to_owned() } else { sick.join("; ") },
            ));
        }
        words.join("\n  ")
    }
}

fn ids(nodes: &[NodeId]) -> Vec<u64> {
    nodes.iter().map(|id| id.0).collect()
}

fn start(args: &Args, index: usize, binary: &Path, network: Option<&Network>) -> Start {
    let step = u16::try_from(index).unwrap_or_default();
    // In a namespace of its own every node has all ports.
    let step = if network.is_some() { 0 } else { step };
    let loopback = || "127.0.0.1".to_owned();
    Start {
        binary: PathBuf::from(binary),
        namespace: network.map(|network| network.namespace(index)),
        host: network.map_or_else(loopback, |network| network.address(index)),
        port: args.port + step,
        peer_port: args.port + PEER_PORTS_AFTER + step,
        shards: args.shards,
        memory: args.memory.clone(),
        settings: args.settings.clone(),
    }
}

/// Links that can be cut, where they are wanted and can be had; else why not.
pub(crate) fn network(args: &Args) -> anyhow::Result<(Option<Network>, Option<String>)> {
    if args.network == args::Network::Loopback {
        return Ok((None, Some("the nodes share a loopback address".to_owned())));
    }
    match Network::new(args.nodes) {
        Ok(network) => Ok((Some(network), None)),
        Err(error) if args.network == args::Network::Netns => Err(error),
        Err(error) => Ok((None, Some(format!("no network namespaces here: {error:#}")))),
    }
}
