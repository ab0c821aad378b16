//! Links that can be cut: every node in a network namespace, all on one bridge.
//!
//! ```text
//!   namespace 0         namespace 1         namespace 2
//!   10.x.y.1            10.x.y.2            10.x.y.3
//!       |                   |                   |
//!   ----+-------------------+-------------------+---- bridge, 10.x.y.254: the clients
//! ```
//! A cut from A to B is a wrong hardware address for B in A's neighbour table: packets go out and
//! nobody takes them, with no error that anybody could see. Clients still reach both.
//!
//! Owns: the namespaces, the bridge, the cuts. Must never: touch what it did not make.

use crate::shell::{shell, try_shell};

/// Nobody has this address.
const NOWHERE: &str = "02:00:00:00:00:ff";
/// The bridge's own host.
const CLIENTS: u8 = 254;

/// Namespaces of one run; dropping it removes them.
#[derive(Debug)]
pub(crate) struct Network {
    /// In every name, so that runs do not meet.
    tag: u32,
    prefix: String,
    nodes: usize,
}

impl Network {
    /// Makes them.
    pub(crate) fn new(nodes: usize) -> anyhow::Result<Self> {
        let tag = std::process::id();
        let prefix = format!("10.{}.{}", 200 + tag % 50, tag / 50 % 250);
        let network = Self { tag, prefix, nodes };
        let bridge = network.bridge();
        shell("ip", &["link", "add", &bridge, "type", "bridge"])?;
        let address = format!("{}.{CLIENTS}/24", network.prefix);
        shell("ip", &["addr", "add", &address, "dev", &bridge])?;
        shell("ip", &["link", "set", &bridge, "up"])?;
        for node in 0..nodes {
            network.add(node)?;
        }
        Ok(network)
    }

    fn add(&self, node: usize) -> anyhow::Result<()> {
        let (space, outer, bridge) = (self.namespace(node), self.outer(node), self.bridge());
        shell("ip", &["netns", "add", &space])?;
        shell("ip", &["-n", &space, "link", "set", "lo", "up"])?;
        let pair = ["link", "add", &outer, "type", "veth", "peer", "name", "eth0", "netns", &space];
        shell("ip", &pair)?;
        shell("ip", &["link", "set", &outer, "master", &bridge, "up"])?;
        let address = format!("{}/24", self.address(node));
        shell("ip", &["-n", &space, "addr", "add", &address, "dev", "eth0"])?;
        shell("ip", &["-n", &space, "link", "set", "eth0", "up"])?;
        Ok(())
    }

    /// Packets of `from` no longer reach `to`.
    pub(crate) fn cut(&self, from: usize, to: usize) -> anyhow::Result<()> {
        let (space, address) = (self.namespace(from), self.address(to));
        let wrong = ["lladdr", NOWHERE, "dev", "eth0", "nud", "permanent"];
        let command = [&["-n", &space, "neigh", "replace", &address], &wrong[..]].concat();
        shell("ip", &command).map(drop)
    }

    /// All cuts and brakes are taken back.
    pub(crate) fn heal(&self) {
        for from in 0..self.nodes {
            let space = self.namespace(from);
            for to in (0..self.nodes).filter(|to| *to != from) {
                try_shell("ip", &["-n", &space, "neigh", "del", &self.address(to), "dev", "eth0"]);
            }
            let brake = ["netns", "exec", &space, "tc", "qdisc", "del", "dev", "eth0", "root"];
            try_shell("ip", &brake);
        }
    }

    /// What `node` sends goes out at no more than this rate.
    pub(crate) fn slow(&self, node: usize, rate: &str) -> anyhow::Result<()> {
        let space = self.namespace(node);
        let into = ["netns", "exec", &space, "tc", "qdisc", "replace", "dev", "eth0", "root"];
        let brake = ["tbf", "rate", rate, "burst", "16kb", "latency", "400ms"];
        shell("ip", &[&into[..], &brake[..]].concat()).map(drop)
    }

    pub(crate) fn namespace(&self, node: usize) -> String {
        format!("barrage-chaos-{}-{node}", self.tag)
    }

    pub(crate) fn address(&self, node: usize) -> String {
        format!("{}.{}", self.prefix, node + 1)
    }

    fn bridge(&self) -> String {
        format!("bc{}", self.tag)
    }

    fn outer(&self, node: usize) -> String {
        format!("bc{}n{node}", self.tag)
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        for node in 0..self.nodes {
            try_shell("ip", &["link", "del", &self.outer(node)]);
            try_shell("ip", &["netns", "del", &self.namespace(node)]);
        }
        try_shell("ip", &["link", "del", &self.bridge()]);
    }
}
