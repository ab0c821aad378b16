//! One node: its process, its folder, its addresses.
//!
//! Owns: the process and its log. Must never: signal a process after it was reaped.

use std::fs;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use barrage_model::NodeId;

use crate::disk::Disk;
use crate::shell::shell;

/// How long a node may take to serve.
const START_TIMEOUT: Duration = Duration::from_secs(45);
/// How long a node may take to end after SIGTERM.
const STOP_TIMEOUT: Duration = Duration::from_secs(45);
const LOOK_EVERY: Duration = Duration::from_millis(10);
/// Lines of a log that a complaint shows.
const TAIL_LINES: usize = 15;

/// How a node is started.
#[derive(Clone, Debug)]
pub(crate) struct Start {
    pub(crate) binary: PathBuf,
    /// The network namespace, if it has one.
    pub(crate) namespace: Option<String>,
    pub(crate) host: String,
    pub(crate) port: u16,
    pub(crate) peer_port: u16,
    pub(crate) shards: u32,
    pub(crate) memory: String,
    pub(crate) settings: Vec<String>,
}

/// A node, running or not.
#[derive(Debug)]
pub(crate) struct Node {
    pub(crate) index: usize,
    /// As the cluster knows it.
    pub(crate) id: NodeId,
    home: PathBuf,
    pub(crate) disk: Option<Disk>,
    start: Start,
    /// Members that it joins by; empty for the founder.
    pub(crate) join: Vec<String>,
    child: Option<Child>,
    pub(crate) is_paused: bool,
}

impl Node {
    pub(crate) fn new(index: usize, home: PathBuf, disk: Option<Disk>, start: Start) -> Self {
        let (join, id) = (Vec::new(), NodeId(0));
        Self { index, id, home, disk, start, join, child: None, is_paused: false }
    }

    /// Where clients reach it.
    pub(crate) fn address(&self) -> String {
        format!("{}:{}", self.start.host, self.start.port)
    }

    pub(crate) fn data(&self) -> PathBuf {
        self.disk.as_ref().map_or(self.home.as_path(), Disk::root).join("data")
    }

    pub(crate) fn log_path(&self) -> PathBuf {
        self.home.join("log")
    }

    pub(crate) fn pid(&self) -> Option<u32> {
        self.child.as_ref().map(Child::id)
    }

    /// It runs and is not paused.
    pub(crate) fn answers(&self) -> bool {
        self.child.is_some() && !self.is_paused
    }

    /// Begins to start it.
    pub(crate) fn spawn(&mut self) -> anyhow::Result<()> {
        drop(fs::remove_file(self.ready_path()));
        let log = fs::File::options().create(true).append(true).open(self.log_path())?;
        let start = &self.start;
        let mut command = match &start.namespace {
            // It becomes the node: the process id stays.
            Some(namespace) => {
                let mut command = Command::new("ip");
                command.args(["netns", "exec", namespace]).arg(&start.binary);
                command
            }
            None => Command::new(&start.binary),
        };
        for (name, _) in std::env::vars().filter(|(name, _)| name.starts_with("BARRAGE_")) {
            command.env_remove(name);
        }
        command.arg("start").arg("--data").arg(self.data());
        command.arg("--ready-file").arg(self.ready_path());
        command.args(["--listen", &self.address(), "--cores", "1", "--memory", &start.memory]);
        command.args(["--peer-listen", &format!("{}:{}", start.host, start.peer_port)]);
        command.args(["--set", "storage.segment_size=16MiB"]);
        for setting in &start.settings {
            command.args(["--set", setting]);
        }
        if start.namespace.is_some() {
            command.arg("--insecure");
        }
        if self.join.is_empty() {
            command.args(["--shards", &start.shards.to_string()]);
        } else {
            command.args(["--join", &self.join.join(",")]);
        }
        // A group of its own: what the terminal sends to this program is not for the nodes.
        command.process_group(0).stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
        let child = command.spawn().with_context(|| format!("start node {}", self.index))?;
        self.child = Some(child);
        Ok(())
    }

    /// Waits until it serves.
    pub(crate) fn await_ready(&mut self) -> anyhow::Result<()> {
        let began = Instant::now();
        while !self.ready_path().exists() {
            if let Some(status) = self.ended()? {
                bail!("{} ended while it started: {status}\n{}", self.words(), self.log_tail());
            }
            if began.elapsed() > START_TIMEOUT {
                bail!("{} does not serve after {START_TIMEOUT:?}", self.words());
            }
            thread::sleep(LOOK_EVERY);
        }
        let ready: serde_json::Value = serde_json::from_slice(&fs::read(self.ready_path())?)?;
        let id = ready.get("node").and_then(serde_json::Value::as_u64);
        self.id = NodeId(id.context("the ready file tells no node")?);
        Ok(())
    }

    /// Ends it at once.
    pub(crate) fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            drop(child.kill());
            drop(child.wait());
        }
        self.is_paused = false;
    }

    /// Asks it to end; it must, with code 0.
    pub(crate) fn stop(&mut self) -> anyhow::Result<Duration> {
        let began = Instant::now();
        self.signal("-TERM")?;
        loop {
            if let Some(status) = self.ended()? {
                if !status.success() {
                    bail!("{} was asked to stop: {status}\n{}", self.words(), self.log_tail());
                }
                return Ok(began.elapsed());
            }
            if began.elapsed() > STOP_TIMEOUT {
                bail!("{} does not stop within {STOP_TIMEOUT:?}", self.words());
            }
            thread::sleep(LOOK_EVERY);
        }
    }

    pub(crate) fn pause(&mut self) -> anyhow::Result<()> {
        self.signal("-STOP")?;
        self.is_paused = true;
        Ok(())
    }

    pub(crate) fn go_on(&mut self) -> anyhow::Result<()> {
        self.is_paused = false;
        self.signal("-CONT")
    }

    /// Its data is lost.
    pub(crate) fn forget(&self) -> anyhow::Result<()> {
        fs::remove_dir_all(self.data()).with_context(|| format!("empty {}", self.words()))
    }

    /// How it ended, if it did; it is reaped then.
    pub(crate) fn ended(&mut self) -> anyhow::Result<Option<ExitStatus>> {
        let Some(child) = &mut self.child else { return Ok(None) };
        let Some(status) = child.try_wait()? else { return Ok(None) };
        self.child = None;
        Ok(Some(status))
    }

    /// The last lines of its log.
    pub(crate) fn log_tail(&self) -> String {
        let text = self.log();
        let lines: Vec<&str> = text.lines().collect();
        let tail = lines.len().saturating_sub(TAIL_LINES);
        lines.get(tail..).unwrap_or_default().join("\n")
    }

    pub(crate) fn log(&self) -> String {
        let bytes = fs::read(self.log_path()).unwrap_or_default();
        String::from_utf8_lossy(&bytes).into_owned()
    }

    /// The node in a sentence.
    pub(crate) fn words(&self) -> String {
        format!("node {} ({})", self.id, self.address())
    }

    fn ready_path(&self) -> PathBuf {
        self.home.join("ready.json")
    }

    fn signal(&self, signal: &str) -> anyhow::Result<()> {
        let pid = self.pid().with_context(|| format!("{} does not run", self.words()))?;
        shell("kill", &[signal, &pid.to_string()]).map(drop)
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        self.kill();
    }
}
