//! The servers of one measurement: one, or three that hold copies of each other.
//!
//! Owns: the order in which they start and end, and the wait until three nodes are whole.
//! Must never: let a measurement begin before every node holds its copies.
//! Invariants: the first server is the one that clients talk to first; it starts first among
//! nodes, which join it, and last among bare servers, which it connects to.

use std::fs::{self, File};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use serde_json::Value;

use crate::affinity::CoreList;
use crate::args::Plan;
use crate::child::{Child, Folder, POLL_EVERY};
use crate::sampler::{LOAD, Sampler, Samples};

/// Running servers.
#[derive(Debug)]
pub(crate) struct Cluster {
    first: Child,
    others: Vec<Child>,
    /// Looks at servers and, if this process loads them, at it.
    sampler: Option<Sampler>,
}

/// How long three nodes may take to find each other and copy what there is.
const WHOLE_TIMEOUT: Duration = Duration::from_secs(60);
/// Pause between two questions; each is a process of its own.
const ASK_EVERY: Duration = Duration::from_millis(200);
/// The system chooses the port.
const ANY_PORT: &str = "127.0.0.1:0";

impl Cluster {
    /// Starts the yardstick's servers: the others first, so that the first can connect to them.
    pub(crate) fn start_bare(plan: &Plan, folder: &Folder) -> Result<Self> {
        let (first, rest) = plan.node_cores.split_first().context("a plan without nodes")?;
        let mut others = Vec::new();
        for (index, cores) in rest.iter().enumerate() {
            others.push(start_bare(plan, folder, index + 1, cores, &[])?);
        }
        let forward: Vec<SocketAddr> = others.iter().map(|other| other.address).collect();
        let first = start_bare(plan, folder, 0, first, &forward)?;
        let mut cluster = Self { first, others, sampler: None };
        let mut processes = cluster.processes("bare");
        processes.push(this_process());
        cluster.sampler = Some(Sampler::start(processes));
        Ok(cluster)
    }

    /// Starts nodes on the data in `folder`, which may be there already if it is one node's.
    pub(crate) fn start_nodes(plan: &Plan, folder: &Folder) -> Result<Self> {
        let first = Child::start("node-0", node_command(plan, folder.path(), 0, None), folder)?;
        let mut cluster = Self { first, others: Vec::new(), sampler: None };
        for index in 1..plan.node_cores.len() {
            let command = node_command(plan, folder.path(), index, Some(cluster.address()));
            cluster.others.push(Child::start(&format!("node-{index}"), command, folder)?);
        }
        if !cluster.others.is_empty() {
            cluster.await_whole(plan, folder)?;
        }
        let mut processes = cluster.processes("node");
        if plan.workload.is_none() {
            processes.push(this_process());
        }
        cluster.sampler = Some(Sampler::start(processes));
        Ok(cluster)
    }

    /// Where clients begin.
    pub(crate) const fn address(&self) -> SocketAddr {
        self.first.address
    }

    /// The servers' processes.
    pub(crate) fn pids(&self) -> Vec<u32> {
        std::iter::once(&self.first).chain(&self.others).map(Child::pid).collect()
    }

    /// Asks every server to end, and waits until all have; an exit other than 0 is an error. What
    /// they took until then.
    pub(crate) fn stop(self) -> Result<Samples> {
        let samples = self.sampler.map(Sampler::stop).unwrap_or_default();
        let mut children = self.others;
        children.push(self.first);
        for child in &children {
            child.terminate()?;
        }
        children.into_iter().try_for_each(Child::await_end)?;
        Ok(samples)
    }

    /// Ends yardstick servers, which hold nothing that is worth a gentle end. What they took.
    pub(crate) fn end_bare(self) -> Samples {
        self.sampler.map(Sampler::stop).unwrap_or_default()
    }

    /// Looks at others beside the servers, from now on.
    pub(crate) fn watch(&self, processes: Vec<(String, u32)>) {
        if let Some(sampler) = &self.sampler {
            sampler.watch(processes);
        }
    }

    /// Names and processes of all servers.
    fn processes(&self, name: &str) -> Vec<(String, u32)> {
        let servers = std::iter::once(&self.first).chain(&self.others).enumerate();
        servers.map(|(index, server)| (format!("{name}-{index}"), server.pid())).collect()
    }

    /// Fails when a server has ended.
    pub(crate) fn check_alive(&mut self) -> Result<()> {
        self.first.check_alive()?;
        self.others.iter_mut().try_for_each(Child::check_alive)
    }

    /// Asks until the cluster says that it is whole.
    fn await_whole(&mut self, plan: &Plan, folder: &Folder) -> Result<()> {
        let deadline = Instant::now() + WHOLE_TIMEOUT;
        let mut said = String::new();
        loop {
            let answer = ask_status(&plan.binary, self.address(), folder, deadline)?;
            if is_healthy(&answer) {
                return Ok(());
            }
            // One that was cut off by the deadline says nothing; the one before says why.
            if !answer.trim().is_empty() {
                said = answer;
            }
            self.check_alive()?;
            if Instant::now() >= deadline {
                bail!(
                    "{} nodes are no whole cluster after {WHOLE_TIMEOUT:?}; `cluster status` said \
                     last:\n{}{}",
                    self.others.len() + 1,
                    said.trim(),
                    self.log_tails(),
                );
            }
            std::thread::sleep(ASK_EVERY);
        }
    }
    /// The last lines of each server that wrote any.
    fn log_tails(&self) -> String {
        let children = std::iter::once(&self.first).chain(&self.others);
        let tails = children.map(Child::log_tail).filter(|tail| !tail.is_empty());
        tails.map(|tail| format!("\n{tail}")).collect()
    }
}

/// This process, which loads the servers.
fn this_process() -> (String, u32) {
    (LOAD.to_owned(), std::process::id())
}

fn start_bare(
    plan: &Plan,
    folder: &Folder,
    index: usize,
    cores: &CoreList,
    forward: &[SocketAddr],
) -> Result<Child> {
    let name = format!("bare-{index}");
    let data = folder.path().join(&name);
    fs::create_dir_all(&data)?;
    let mut command = Command::new(&plan.binary);
    command.args(["bench", "bare-server", "--data"]).arg(data);
    command.arg("--server-cores").arg(cores.to_string());
    for address in forward {
        command.arg("--forward").arg(address.to_string());
    }
    Child::start(&name, command, folder)
}

/// Where the node of this index keeps its data.
pub(crate) fn node_folder(folder: &Path, index: usize) -> PathBuf {
    folder.join(format!("node-{index}"))
}

/// Starts the node of this index, alone or as one of several: the first is joined by the others.
fn node_command(plan: &Plan, data: &Path, index: usize, join: Option<SocketAddr>) -> Command {
    let mut command = Command::new(&plan.binary);
    command.args(["start", "--listen", ANY_PORT, "--data"]);
    command.arg(node_folder(data, index));
    if let Some(cores) = plan.node_cores.get(index) {
        command.arg("--cores").arg(cores.flag());
    }
    if plan.node_cores.len() > 1 {
        command.args(["--peer-listen", ANY_PORT]);
    }
    if let Some(first) = join {
        command.arg("--join").arg(first.to_string());
    }
    for setting in &plan.settings {
        command.arg("--set").arg(setting);
    }
    command
}

/// What `cluster status` says, on either stream; it is ended when it takes too long.
fn ask_status(
    binary: &Path,
    address: SocketAddr,
    folder: &Folder,
    deadline: Instant,
) -> Result<String> {
    let path = folder.path().join("status.json");
    let file = File::create(&path)?;
    let mut command = Command::new(binary);
    command.args(["cluster", "status", "-o", "json", "--server"]).arg(address.to_string());
    command.stdin(Stdio::null()).stdout(file.try_clone()?).stderr(file);
    let mut process = command.spawn().with_context(|| format!("cannot start {command:?}"))?;
    let ended = loop {
        match process.try_wait() {
            Ok(None) if Instant::now() < deadline => std::thread::sleep(POLL_EVERY),
            ended => break ended,
        }
    };
    if !matches!(ended, Ok(Some(_))) {
        // It has just ended, or is of no more use.
        drop(process.kill());
        drop(process.wait());
    }
    ended?;
    Ok(fs::read_to_string(&path)?)
}

/// Whether a cluster's status says that nothing is amiss.
fn is_healthy(status: &str) -> bool {
    let status = serde_json::from_str::<Value>(status).ok();
    status.and_then(|status| status.get("healthy")?.as_bool()).unwrap_or(false)
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;
    use crate::args::BenchArgs;

    #[derive(Parser)]
    struct Bench {
        #[command(flatten)]
        args: BenchArgs,
    }

    #[test]
    fn nodes_are_started_apart_and_join_the_first() {
        let check = |flags: &str, index: usize, join: Option<&str>, expected: &str| {
            let words = std::iter::once("bench").chain(flags.split_whitespace());
            let plan = Plan::new(&Bench::parse_from(words).args).unwrap();
            let join = join.map(|address| address.parse().unwrap());
            let command = node_command(&plan, Path::new("/d"), index, join);
            let words: Vec<_> = command.get_args().map(|word| word.to_str().unwrap()).collect();
            assert_eq!(words.join(" "), expected, "{flags}");
        };
        let one = "produce --server-cores 0-1 --set a=b";
        let three = "produce --nodes 3 --server-cores 0-1 --set a=b";
        let start = "start --listen 127.0.0.1:0 --data";
        let peers = "--peer-listen 127.0.0.1:0";
        let join = "--join 127.0.0.1:7";
        check(one, 0, None, &format!("{start} /d/node-0 --cores 0-0,1-1 --set a=b"));
        check(three, 0, None, &format!("{start} /d/node-0 --cores 0-0 {peers} --set a=b"));
        let first = Some("127.0.0.1:7");
        check(three, 1, first, &format!("{start} /d/node-1 --cores 1-1 {peers} {join} --set a=b"));
        check(three, 2, first, &format!("{start} /d/node-2 --cores 0-0 {peers} {join} --set a=b"));
    }

    #[test]
    fn only_a_status_that_says_so_is_healthy() {
        let check = |text: &str, healthy: bool| assert_eq!(is_healthy(text), healthy, "{text}");
        check(r#"{"nodes":[],"healthy":true}"#, true);
        check(r#"{"healthy":false}"#, false);
        check(r#"{"healthy":"true"}"#, false);
        check(r#"{"nodes":[]}"#, false);
        check("barrage: cannot connect", false);
        check("", false);
    }
}
