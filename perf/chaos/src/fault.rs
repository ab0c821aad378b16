//! The faults: their names, and what each needs of the machine.
//!
//! Owns: the list. Must never: apply one; `nemesis` does.

use serde::Serialize;

/// What is done to the cluster in one cycle.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, clap::ValueEnum, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Fault {
    /// `kill -9` of any node
    Kill,
    /// `kill -9` of a node that leads a shard
    KillLeader,
    /// `kill -9` of all nodes at once
    KillAll,
    /// SIGSTOP and SIGCONT of a leader
    Stop,
    /// Cut links: a leader or a node alone, one way or both
    Partition,
    /// A slow link of one node
    Slow,
    /// Another node is told to lead a shard
    Transfer,
    /// SIGTERM and start of every node in turn
    Rolling,
    /// No room on a node's disk
    DiskFull,
    /// Flipped bits in the data of a node that is down
    Bitflip,
    /// A node and its data are lost, an empty one takes its place
    Replace,
}

/// What a fault cannot do without.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Need {
    /// Nothing but processes.
    Nothing,
    /// Links that can be cut.
    Links,
    /// A file system for each node.
    Disks,
    /// Somebody else who holds the data.
    Copies,
}

impl Fault {
    pub(crate) const fn need(self) -> Need {
        match self {
            Self::Partition | Self::Slow => Need::Links,
            Self::DiskFull => Need::Disks,
            Self::Bitflip | Self::Replace | Self::Transfer => Need::Copies,
            Self::Kill | Self::KillLeader | Self::KillAll | Self::Stop | Self::Rolling => {
                Need::Nothing
            }
        }
    }

    /// As on the command line.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Kill => "kill",
            Self::KillLeader => "kill-leader",
            Self::KillAll => "kill-all",
            Self::Stop => "stop",
            Self::Partition => "partition",
            Self::Slow => "slow",
            Self::Transfer => "transfer",
            Self::Rolling => "rolling",
            Self::DiskFull => "disk-full",
            Self::Bitflip => "bitflip",
            Self::Replace => "replace",
        }
    }
}
