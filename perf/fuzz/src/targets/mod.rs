//! The targets, one file each, and the table of them.
//!
//! A target is about one format, or one kind of text. Where a format carries a checksum the input
//! is fed twice: as it is, and with its checksums made right.

#[cfg(not(sim))]
mod batch;
#[cfg(not(sim))]
mod catalog;
#[cfg(not(sim))]
mod command_line;
#[cfg(not(sim))]
mod compression;
#[cfg(not(sim))]
mod config;
#[cfg(not(sim))]
mod frames;
#[cfg(not(sim))]
mod history;
#[cfg(not(sim))]
mod log_format;
#[cfg(sim)]
mod log_recovery;
#[cfg(not(sim))]
mod nodes;
#[cfg(not(sim))]
mod peer;
#[cfg(not(sim))]
mod raft;
#[cfg(not(sim))]
mod requests;
#[cfg(not(sim))]
mod responses;
mod sample;
#[cfg(not(sim))]
mod shard;

use crate::target::Target;

/// The targets of this build.
#[cfg(not(sim))]
pub const TARGETS: &[Target] = &[
    batch::TARGET,
    catalog::TARGET,
    command_line::TARGET,
    compression::TARGET,
    config::TARGET,
    frames::TARGET,
    log_format::TARGET,
    nodes::TARGET,
    peer::TARGET,
    raft::TARGET,
    requests::TARGET,
    responses::TARGET,
    shard::TARGET,
];

/// The targets of this build.
#[cfg(sim)]
pub const TARGETS: &[Target] = &[log_recovery::TARGET];

/// All targets that need no simulated disk.
pub const NAMES: [&str; 13] = [
    "batch",
    "catalog",
    "command_line",
    "compression",
    "config",
    "frames",
    "log_format",
    "nodes",
    "peer",
    "raft",
    "requests",
    "responses",
    "shard",
];

/// Those that do: they are built with `--cfg sim`.
pub const NAMES_SIMULATED: [&str; 1] = ["log_recovery"];
