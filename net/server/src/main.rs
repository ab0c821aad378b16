//! The `barrage` binary: puts the parts together. Each sub-command is one file or one crate.
//!
//! Must never hold logic of its own beyond starting, stopping and choosing.

#![cfg_attr(test, allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests"))]

mod address;
mod doctor;
mod exit;
mod join;
mod log;
mod memory;
mod node;
mod peers;
mod ready;
mod seeds;
mod start;
mod verify;

use std::io::{self, Write};
use std::process::ExitCode;

use barrage_server::config;
use clap::{Parser, Subcommand};

use crate::exit::{Exit, Failure};

/// Large buffers come and go at the rate of the network: an allocator that keeps them mapped saves
/// a page fault per 4 KiB received.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Barrage: a durable, partitioned message broker, one gate per core.
#[derive(Parser)]
#[command(name = "barrage", version, propagate_version = true)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Run a node
    Start(start::StartArgs),
    /// Check whether this machine can run a node
    Doctor(doctor::DoctorArgs),
    /// Check a stopped node's data, every byte of it
    Verify(verify::VerifyArgs),
    /// Measure a node on this machine
    Bench(Box<barrage_bench::BenchArgs>),
    #[command(flatten)]
    Client(barrage_cli::ClientCommand),
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    let done = match cli.command {
        Command::Start(args) => start::run(args),
        Command::Doctor(args) => doctor::run(&args),
        Command::Verify(args) => verify::run(&args),
        Command::Bench(args) => return barrage_bench::run(&args),
        Command::Client(command) => return barrage_cli::run(command),
    };
    done.unwrap_or_else(|failure| report(&failure)).into()
}

/// Says on stderr why it failed.
fn report(failure: &Failure) -> Exit {
    // Nobody is left to tell when stderr is gone.
    drop(writeln!(io::stderr(), "barrage: {failure}"));
    failure.exit
}
