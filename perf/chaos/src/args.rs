//! The command line.
//!
//! Owns: the flags, their defaults and what `--smoke` means. Must never: start anything.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, bail};

use crate::fault::Fault;

/// How the report is printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Output {
    /// For people.
    Text,
    /// One JSON document.
    Json,
}

/// Where the nodes live.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Network {
    /// Namespaces where that can be had, else loopback.
    Auto,
    /// A network namespace each; an error where that cannot be had.
    Netns,
    /// Ports of 127.0.0.1: links cannot be cut.
    Loopback,
}

/// Runs a real cluster, breaks it, and judges what clients saw.
#[derive(Debug, clap::Parser)]
#[command(name = "cargo xtask chaos")]
pub(crate) struct Args {
    /// Nodes of the cluster
    #[arg(long, default_value_t = 3)]
    pub(crate) nodes: usize,
    /// Faults to apply, one after the other
    #[arg(long)]
    pub(crate) cycles: Option<u32>,
    /// Begin no new fault after so many seconds
    #[arg(long)]
    pub(crate) secs: Option<u64>,
    /// Which faults; each is drawn once before any comes again
    #[arg(
        long,
        value_enum,
        value_delimiter = ',',
        default_value = "kill,kill-leader,kill-all,stop,partition,transfer,rolling"
    )]
    pub(crate) nemesis: Vec<Fault>,
    /// The faults and their order follow from it; drawn from the clock unless told
    #[arg(long)]
    pub(crate) seed: Option<u64>,
    /// The binary of the nodes; that beside this program unless told
    #[arg(long)]
    pub(crate) binary: Option<PathBuf>,
    /// Data shards
    #[arg(long, default_value_t = 3)]
    pub(crate) shards: u32,
    /// Partitions of the topic
    #[arg(long, default_value_t = 6)]
    pub(crate) partitions: u32,
    /// Idempotent producers, each with a connection of its own
    #[arg(long, default_value_t = 3)]
    pub(crate) producers: u32,
    /// Readers of every partition, from its start
    #[arg(long, default_value_t = 2)]
    pub(crate) readers: u32,
    /// Records per second, of all producers together
    #[arg(long, default_value_t = 600)]
    pub(crate) rate: u32,
    /// Bytes of a record's value
    #[arg(long, default_value_t = 256)]
    pub(crate) payload: usize,
    /// Memory of a node, as `barrage start` takes it
    #[arg(long, default_value = "256MiB")]
    pub(crate) memory: String,
    /// Any setting of the nodes, KEY=VALUE
    #[arg(long = "set")]
    pub(crate) settings: Vec<String>,
    /// Where the nodes live
    #[arg(long, value_enum, default_value = "auto")]
    pub(crate) network: Network,
    /// First port of the nodes
    #[arg(long, default_value_t = 17400)]
    pub(crate) port: u16,
    /// Seconds until writes must succeed after a fault was taken back
    #[arg(long, default_value_t = 60)]
    pub(crate) recover: u64,
    /// Seconds until the cluster must be healthy then
    #[arg(long, default_value_t = 120)]
    pub(crate) whole: u64,
    /// Data, logs and history go here and stay; else below target/chaos, and stay after a failure
    #[arg(long, value_name = "DIR")]
    pub(crate) keep: Option<PathBuf>,
    /// Eight cycles of the cheap faults, within a minute
    #[arg(long)]
    pub(crate) smoke: bool,
    /// How to print the report
    #[arg(short, long, value_enum, default_value = "text")]
    pub(crate) output: Output,
}

/// Cycles when neither `--cycles` nor `--secs` is told.
const CYCLES_DEFAULT: u32 = 20;
const SMOKE_CYCLES: u32 = 8;
const SMOKE_FAULTS: [Fault; 4] = [Fault::KillLeader, Fault::Stop, Fault::Transfer, Fault::Rolling];
/// More nodes than fit a subnet make no sense on one machine.
const NODES_MAX: usize = 9;

impl Args {
    /// How many cycles at most.
    pub(crate) fn cycles_max(&self) -> u32 {
        match (self.cycles, self.secs) {
            (Some(cycles), _) => cycles,
            (None, _) if self.smoke => SMOKE_CYCLES,
            (None, Some(_)) => u32::MAX,
            (None, None) => CYCLES_DEFAULT,
        }
    }

    /// The faults to draw from.
    pub(crate) fn faults(&self) -> Vec<Fault> {
        if self.smoke { SMOKE_FAULTS.to_vec() } else { self.nemesis.clone() }
    }

    /// The longest that a fault is held, in milliseconds.
    pub(crate) fn hold_ms_max(&self) -> u64 {
        if self.smoke { 2_000 } else { 8_000 }
    }

    pub(crate) fn recover_timeout(&self) -> Duration {
        Duration::from_secs(self.recover)
    }

    pub(crate) fn whole_timeout(&self) -> Duration {
        Duration::from_secs(self.whole)
    }

    /// The binary of the nodes.
    pub(crate) fn node_binary(&self) -> anyhow::Result<PathBuf> {
        let path = match &self.binary {
            Some(path) => path.clone(),
            None => std::env::current_exe().context("where am I?")?.with_file_name("barrage"),
        };
        path.canonicalize().with_context(|| {
            format!("no binary {}: `cargo build -p barrage-server` makes it", path.display())
        })
    }

    pub(crate) fn check(&self) -> anyhow::Result<()> {
        if !(1..=NODES_MAX).contains(&self.nodes) {
            bail!("--nodes: 1 to {NODES_MAX}");
        }
        if self.partitions == 0 || self.producers == 0 || self.rate == 0 {
            bail!("--partitions, --producers and --rate: at least 1");
        }
        if self.faults().is_empty() {
            bail!("--nemesis: at least one fault");
        }
        Ok(())
    }
}
