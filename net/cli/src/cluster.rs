//! `barrage cluster`: status, nodes, shards, balance, transfer, decommission, recommission, copies.
//!
//! Must never: judge health. The server does; it is shown here and becomes the exit code.

use std::io::{self, IsTerminal};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use barrage_client::{Client, ClientError, ErrorKind};
use barrage_model::units::parse_duration;
use barrage_model::{NodeId, ShardId};
use barrage_wire::{ClusterChange, ClusterDescription, NodeDescription, ShardDescription};
use indicatif::{ProgressBar, ProgressDrawTarget};
use serde::Serialize;

use crate::exit::{UNHEALTHY, say};
use crate::output::{Output, OutputArgs, print_json, print_table};
use crate::server::ServerArgs;

/// How often a command that waits looks.
const LOOK_EVERY: Duration = Duration::from_millis(250);
/// Shards named in a sentence; more are counted.
const NAMED_MAX: usize = 8;

/// What can be asked about the cluster and changed in it.
#[derive(Debug, clap::Subcommand)]
pub enum ClusterCommand {
    /// Show whether all is well; exits with 7 when not
    Status(StatusArgs),
    /// List nodes
    Nodes(ListArgs),
    /// List shards: who leads, who holds
    Shards(ListArgs),
    /// Spread copies and leads evenly over the nodes
    Balance(BalanceArgs),
    /// Let a node lead a shard; it must hold a copy
    Transfer(TransferArgs),
    /// Move all copies off a node, then forget it
    Decommission(DecommissionArgs),
    /// Do not empty a node after all
    Recommission(RecommissionArgs),
    /// Set how many copies are kept of every shard
    Copies(CopiesArgs),
}

/// Flags of `cluster status`.
#[derive(Debug, clap::Args)]
pub struct StatusArgs {
    /// Wait so long for all to be well
    #[arg(long, value_name = "TIME", value_parser = parse_duration)]
    wait: Option<Duration>,
    #[command(flatten)]
    output: OutputArgs,
    #[command(flatten)]
    server: ServerArgs,
}

/// Flags of `cluster nodes` and `cluster shards`.
#[derive(Debug, clap::Args)]
pub struct ListArgs {
    #[command(flatten)]
    output: OutputArgs,
    #[command(flatten)]
    server: ServerArgs,
}

/// Flags of `cluster balance`.
#[derive(Debug, clap::Args)]
pub struct BalanceArgs {
    #[command(flatten)]
    server: ServerArgs,
}

/// Flags of `cluster transfer`.
#[derive(Debug, clap::Args)]
pub struct TransferArgs {
    /// Which shard; 0 is the catalog's
    #[arg(long, value_name = "S")]
    shard: ShardId,
    /// The node that leads it from now on
    #[arg(long, value_name = "N")]
    to: NodeId,
    #[command(flatten)]
    server: ServerArgs,
}

/// Flags of `cluster decommission`.
#[derive(Debug, clap::Args)]
pub struct DecommissionArgs {
    /// Which node
    node: NodeId,
    /// Wait until it is empty and forgotten, an hour unless told
    #[arg(long, value_name = "TIME", num_args = 0..=1, require_equals = true)]
    #[arg(default_missing_value = "1h", value_parser = parse_duration)]
    wait: Option<Duration>,
    #[command(flatten)]
    server: ServerArgs,
}

/// Flags of `cluster recommission`.
#[derive(Debug, clap::Args)]
pub struct RecommissionArgs {
    /// Which node
    node: NodeId,
    #[command(flatten)]
    server: ServerArgs,
}

/// Flags of `cluster copies`.
#[derive(Debug, clap::Args)]
pub struct CopiesArgs {
    /// 1, 3 or 5
    #[arg(value_parser = parse_copies)]
    copies: u8,
    #[command(flatten)]
    server: ServerArgs,
}

pub(crate) async fn run(command: ClusterCommand) -> anyhow::Result<ExitCode> {
    match command {
        ClusterCommand::Status(args) => return status(args).await,
        ClusterCommand::Nodes(args) => nodes(args).await?,
        ClusterCommand::Shards(args) => shards(args).await?,
        ClusterCommand::Balance(args) => {
            let client = args.server.connect().await?;
            let changed = client.change_cluster(ClusterChange::Balance).await?;
            say(&format!("balanced: {} to move", shards_in_words(changed.shards)));
        }
        ClusterCommand::Transfer(args) => transfer(args).await?,
        ClusterCommand::Decommission(args) => decommission(args).await?,
        ClusterCommand::Recommission(args) => {
            let client = args.server.connect().await?;
            let change = ClusterChange::Recommission { node: args.node };
            client.change_cluster(change).await.with_context(|| format!("node {}", args.node))?;
            say(&format!("node {} stays", args.node));
        }
        ClusterCommand::Copies(args) => {
            let client = args.server.connect().await?;
            let change = ClusterChange::SetCopies { copies: args.copies };
            let changed = client.change_cluster(change).await?;
            let moved = shards_in_words(changed.shards);
            say(&format!("{} copies of every shard: {moved} to move", args.copies));
        }
    }
    Ok(ExitCode::SUCCESS)
}

async fn status(args: StatusArgs) -> anyhow::Result<ExitCode> {
    let cluster = match args.wait {
        None => args.server.connect().await?.describe_cluster().await?,
        Some(time) => wait_until_healthy(&args.server, time).await?,
    };
    let status = Status::new(&cluster);
    match args.output.output {
        Output::Json => print_json(&status)?,
        Output::Table => {
            let heads = ["CLUSTER", "HEALTHY", "NODES", "SHARDS", "UNDER-REPLICATED", "LEADERLESS"];
            print_table(&heads, vec![status.cells()])?;
        }
    }
    if status.healthy {
        return Ok(ExitCode::SUCCESS);
    }
    for line in status.complaints() {
        say(&line);
    }
    Ok(ExitCode::from(UNHEALTHY))
}

/// Looks until all is well or the time is over; the last that was seen.
async fn wait_until_healthy(
    server: &ServerArgs,
    time: Duration,
) -> anyhow::Result<ClusterDescription> {
    let wait = Wait::new(time);
    loop {
        match look(server).await {
            Ok(cluster) if cluster.healthy || wait.is_over() => return Ok(cluster),
            Ok(cluster) => wait.show(Status::new(&cluster).in_words()),
            Err(error) if wait.is_over() || error.kind() != ErrorKind::Unreachable => {
                return Err(error.into());
            }
            // It is just starting, or electing: that is what is waited for.
            Err(error) => wait.show(error.to_string()),
        }
        wait.pause().await;
    }
}

/// Over a connection of its own: the server may be another one by now.
async fn look(server: &ServerArgs) -> Result<ClusterDescription, ClientError> {
    Client::connect(server.options()).await?.describe_cluster().await
}

async fn nodes(args: ListArgs) -> anyhow::Result<()> {
    let cluster = args.server.connect().await?.describe_cluster().await?;
    let rows: Vec<_> = cluster.nodes.iter().map(NodeRow::new).collect();
    match args.output.output {
        Output::Json => print_json(&rows),
        Output::Table => {
            let cells = |row: NodeRow| {
                let numbers = [row.cores.into(), row.copies, row.leads].map(|n: u32| n.to_string());
                let words = [row.node.to_string(), row.state.to_owned(), row.client, row.peer];
                words.into_iter().chain(numbers).collect()
            };
            let heads = ["NODE", "STATE", "CLIENT", "PEER", "CORES", "COPIES", "LEADS"];
            print_table(&heads, rows.into_iter().map(cells).collect())
        }
    }
}

async fn shards(args: ListArgs) -> anyhow::Result<()> {
    let cluster = args.server.connect().await?.describe_cluster().await?;
    let rows: Vec<_> = cluster.shards.iter().map(ShardRow::new).collect();
    match args.output.output {
        Output::Json => print_json(&rows),
        Output::Table => {
            let heads =
                ["SHARD", "LEADER", "TERM", "VOTERS", "IN-SYNC", "ASSIGNED", "LEARNERS", "STATE"];
            print_table(&heads, rows.iter().map(ShardRow::cells).collect())
        }
    }
}

async fn transfer(args: TransferArgs) -> anyhow::Result<()> {
    let TransferArgs { shard, to, server } = args;
    let client = server.connect().await?;
    let changed = client
        .change_cluster(ClusterChange::Transfer { shard, to })
        .await
        .with_context(|| format!("shard {shard} to node {to}"))?;
    match changed.shards {
        0 => say(&format!("node {to} leads shard {shard} already")),
        _ => say(&format!("node {to} leads shard {shard} from now on")),
    }
    Ok(())
}

async fn decommission(args: DecommissionArgs) -> anyhow::Result<()> {
    let DecommissionArgs { node, wait, server } = args;
    let client = server.connect().await?;
    let changed = client
        .change_cluster(ClusterChange::Decommission { node })
        .await
        .with_context(|| format!("node {node}"))?;
    say(&format!("node {node} is being emptied: {} to move", shards_in_words(changed.shards)));
    let Some(time) = wait else {
        say("  `barrage cluster nodes` shows how far it is; stop the node when it is gone there.");
        return Ok(());
    };
    let wait = Wait::new(time);
    loop {
        let left = match look(&server).await {
            Ok(cluster) => match cluster.nodes.iter().find(|row| row.node == node) {
                None => break,
                Some(row) => format!("{} left on node {node}", shards_in_words(row.copies)),
            },
            Err(error) if error.kind() == ErrorKind::Unreachable => error.to_string(),
            Err(error) => return Err(error.into()),
        };
        if wait.is_over() {
            bail!(
                "node {node} is not empty after {time:?}: {left}\n  It goes on by itself unless \
                 too few nodes are left to hold the copies: see `barrage cluster nodes`, and \
                 `barrage cluster recommission {node}` to keep it."
            );
        }
        wait.show(left);
        wait.pause().await;
    }
    drop(wait);
    say(&format!("node {node} is empty and forgotten: it can be stopped"));
    Ok(())
}

/// A time to wait, with a line that tells for what; on a terminal only.
struct Wait {
    until: Instant,
    line: ProgressBar,
}

impl Wait {
    fn new(time: Duration) -> Self {
        let line = ProgressBar::new_spinner();
        if io::stderr().is_terminal() {
            line.enable_steady_tick(LOOK_EVERY);
        } else {
            line.set_draw_target(ProgressDrawTarget::hidden());
        }
        Self { until: Instant::now() + time, line }
    }

    fn is_over(&self) -> bool {
        Instant::now() >= self.until
    }

    fn show(&self, words: String) {
        self.line.set_message(words);
    }

    async fn pause(&self) {
        let left = self.until.saturating_duration_since(Instant::now());
        tokio::time::sleep(left.min(LOOK_EVERY)).await;
    }
}

impl Drop for Wait {
    fn drop(&mut self) {
        self.line.finish_and_clear();
    }
}

#[derive(Serialize)]
struct Status {
    cluster: String,
    healthy: bool,
    level: u32,
    copies_wanted: u8,
    nodes: usize,
    nodes_present: usize,
    nodes_leaving: usize,
    shards: usize,
    /// Shards with fewer copies in sync than are wanted.
    under_replicated: Vec<u32>,
    /// Shards that nobody is known to lead.
    leaderless: Vec<u32>,
}

impl Status {
    fn new(cluster: &ClusterDescription) -> Self {
        let those = |which: fn(&ShardDescription) -> bool| {
            let found = cluster.shards.iter().filter(|shard| which(shard));
            found.map(|shard| shard.shard.0).collect()
        };
        Self {
            cluster: cluster.cluster.clone(),
            healthy: cluster.healthy,
            level: cluster.level,
            copies_wanted: cluster.copies_wanted,
            nodes: cluster.nodes.len(),
            nodes_present: cluster.nodes.iter().filter(|node| node.present).count(),
            nodes_leaving: cluster.nodes.iter().filter(|node| node.leaving).count(),
            shards: cluster.shards.len(),
            under_replicated: those(|shard| shard.under_replicated),
            leaderless: those(|shard| shard.leader.is_none()),
        }
    }

    fn cells(&self) -> Vec<String> {
        vec![
            self.cluster.clone(),
            if self.healthy { "yes" } else { "no" }.to_owned(),
            format!("{}/{}", self.nodes_present, self.nodes),
            self.shards.to_string(),
            self.under_replicated.len().to_string(),
            self.leaderless.len().to_string(),
        ]
    }

    fn in_words(&self) -> String {
        format!(
            "{}/{} nodes, {} of {} shards without enough copies in sync, {} without a leader",
            self.nodes_present,
            self.nodes,
            self.under_replicated.len(),
            self.shards,
            self.leaderless.len(),
        )
    }

    /// What is wrong, and what to do.
    fn complaints(&self) -> Vec<String> {
        let mut lines = Vec::new();
        if !self.leaderless.is_empty() {
            let shards = named(&self.leaderless);
            lines.push(format!("nobody leads {shards}: records for them wait"));
        }
        if !self.under_replicated.is_empty() {
            let (shards, wanted) = (named(&self.under_replicated), self.copies_wanted);
            lines.push(format!("fewer than {wanted} copies are in sync of {shards}"));
        }
        let absent = self.nodes - self.nodes_present;
        lines.push(match absent {
            0 => "  Copies are moving or catching up: `status --wait 5m` waits, `barrage cluster \
                  shards` shows how far."
                .to_owned(),
            _ => format!(
                "  {absent} of {} nodes are down: `barrage cluster nodes` shows which. Start them, \
                 or `barrage cluster decommission` what will not come back.",
                self.nodes
            ),
        });
        lines
    }
}

#[derive(Serialize)]
struct NodeRow {
    node: u64,
    state: &'static str,
    present: bool,
    leaving: bool,
    client: String,
    peer: String,
    level: u32,
    cores: u16,
    copies: u32,
    leads: u32,
}

impl NodeRow {
    fn new(node: &NodeDescription) -> Self {
        let state = match (node.present, node.leaving) {
            (true, false) => "present",
            (false, false) => "down",
            (true, true) => "leaving",
            (false, true) => "leaving, down",
        };
        Self {
            node: node.node.0,
            state,
            present: node.present,
            leaving: node.leaving,
            client: node.client.clone(),
            peer: node.peer.clone(),
            level: node.level,
            cores: node.cores,
            copies: node.copies,
            leads: node.leads,
        }
    }
}

#[derive(Serialize)]
struct ShardRow {
    shard: u32,
    leader: Option<u64>,
    term: u64,
    voters: Vec<u64>,
    in_sync: Vec<u64>,
    assigned: Vec<u64>,
    learners: Vec<u64>,
    under_replicated: bool,
}

impl ShardRow {
    fn new(shard: &ShardDescription) -> Self {
        let ids = |nodes: &[NodeId]| nodes.iter().map(|node| node.0).collect();
        Self {
            shard: shard.shard.0,
            leader: shard.leader.map(|node| node.0),
            term: shard.term.0,
            voters: ids(&shard.voters),
            in_sync: ids(&shard.in_sync),
            assigned: ids(&shard.assigned),
            learners: ids(&shard.learners),
            under_replicated: shard.under_replicated,
        }
    }

    fn cells(&self) -> Vec<String> {
        let state = match (self.leader, self.under_replicated) {
            (None, _) => "no leader",
            (Some(_), true) => "under-replicated",
            (Some(_), false) => "ok",
        };
        vec![
            self.shard.to_string(),
            self.leader.map_or_else(|| "-".to_owned(), |node| node.to_string()),
            self.term.to_string(),
            listed(&self.voters),
            listed(&self.in_sync),
            listed(&self.assigned),
            listed(&self.learners),
            state.to_owned(),
        ]
    }
}

fn listed(nodes: &[u64]) -> String {
    if nodes.is_empty() {
        return "-".to_owned();
    }
    nodes.iter().map(u64::to_string).collect::<Vec<_>>().join(",")
}

fn named(shards: &[u32]) -> String {
    let some: Vec<_> = shards.iter().take(NAMED_MAX).map(u32::to_string).collect();
    let word = if shards.len() == 1 { "shard" } else { "shards" };
    match shards.len().saturating_sub(NAMED_MAX) {
        0 => format!("{word} {}", some.join(", ")),
        more => format!("{word} {} and {more} more", some.join(", ")),
    }
}

fn shards_in_words(count: u32) -> String {
    if count == 1 { "1 shard".to_owned() } else { format!("{count} shards") }
}

fn parse_copies(text: &str) -> Result<u8, String> {
    match text {
        "1" => Ok(1),
        "3" => Ok(3),
        "5" => Ok(5),
        _ => Err("must be 1, 3 or 5: a majority of an even number is no safer".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use barrage_model::Term;

    use super::*;

    fn cluster(present: &[bool], shards: Vec<ShardDescription>) -> ClusterDescription {
        let node = |(present, node): (&bool, u64)| NodeDescription {
            node: NodeId(node),
            peer: format!("db{node}:7500"),
            client: format!("db{node}:7400"),
            present: *present,
            leaving: node == 3,
            level: 1,
            cores: 2,
            copies: 4,
            leads: 1,
        };
        let healthy = shards.iter().all(|shard| !shard.under_replicated && shard.leader.is_some());
        ClusterDescription {
            cluster: "c".to_owned(),
            node: NodeId(1),
            level: 1,
            copies_wanted: 3,
            healthy,
            nodes: present.iter().zip(1..).map(node).collect(),
            shards,
        }
    }

    fn shard(shard: u32, leader: Option<u64>, under_replicated: bool) -> ShardDescription {
        ShardDescription {
            shard: ShardId(shard),
            leader: leader.map(NodeId),
            term: Term(2),
            under_replicated,
            assigned: vec![NodeId(2), NodeId(1)],
            voters: vec![NodeId(1), NodeId(2)],
            learners: Vec::new(),
            in_sync: vec![NodeId(1)],
        }
    }

    #[test]
    fn status_counts_what_is_wrong_and_says_what_to_do() {
        let well = Status::new(&cluster(&[true; 3], vec![shard(0, Some(1), false)]));
        assert!(well.healthy);
        assert_eq!(well.cells(), ["c", "yes", "3/3", "1", "0", "0"]);
        let shards = vec![shard(0, Some(1), false), shard(1, Some(2), true), shard(2, None, true)];
        let ill = Status::new(&cluster(&[true, false, true], shards));
        assert_eq!(ill.cells(), ["c", "no", "2/3", "3", "2", "1"]);
        let complaints = ill.complaints();
        assert_eq!(complaints[0], "nobody leads shard 2: records for them wait");
        assert_eq!(complaints[1], "fewer than 3 copies are in sync of shards 1, 2");
        assert!(complaints[2].contains("1 of 3 nodes are down"), "{complaints:?}");
        let many: Vec<_> = (1..=10).collect();
        assert_eq!(named(&many), "shards 1, 2, 3, 4, 5, 6, 7, 8 and 2 more");
    }

    #[test]
    fn rows_tell_states_and_nodes() {
        let cluster = cluster(&[true, false, true, false], Vec::new());
        let states: Vec<_> = cluster.nodes.iter().map(|node| NodeRow::new(node).state).collect();
        assert_eq!(states, ["present", "down", "leaving", "down"]);
        let rows = [shard(1, Some(2), true), shard(2, None, true), shard(3, Some(1), false)];
        let cells: Vec<_> = rows.iter().map(|row| ShardRow::new(row).cells().join(" ")).collect();
        assert_eq!(cells[0], "1 2 2 1,2 1 2,1 - under-replicated");
        assert_eq!(cells[1], "2 - 2 1,2 1 2,1 - no leader");
        assert_eq!(cells[2], "3 1 2 1,2 1 2,1 - ok");
    }

    #[test]
    fn copies_are_odd_and_few() {
        for (text, fits) in [("1", true), ("3", true), ("5", true), ("2", false), ("7", false)] {
            assert_eq!(parse_copies(text).is_ok(), fits, "{text}");
        }
    }
}
