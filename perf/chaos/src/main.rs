//! `cargo xtask chaos`: a real cluster under real faults, judged by the history checker.
//!
//! Starts processes of the product's own binary, loads them with its own client, kills, stops,
//! cuts, fills and damages them, and lets the checker say whether every promise was kept.
//!
//! ```text
//!   nemesis --faults--> nodes (processes, each in a network namespace where that can be had)
//!      |                  ^
//!      |                  | producers, readers        events
//!      +--- marks --> recorder <------------------- load
//!                        |
//!                        +--> history file, checker --> verdict, report
//! ```
//!
//! Owns the exit code: 0 all is well, 1 something was found, 2 wrong usage.
//! Must never: end or touch a process that it did not start.

#![cfg_attr(test, allow(clippy::unwrap_used, reason = "tests"))]
#![expect(
    clippy::disallowed_methods,
    reason = "outside of the broker: real processes, real clocks"
)]
#![expect(clippy::print_stdout, reason = "a command line tool prints its report")]

mod args;
mod asleep;
mod cluster;
mod control;
mod damage;
mod dice;
mod disk;
mod fault;
mod load;
mod meter;
mod nemesis;
mod network;
mod node;
mod reading;
mod recorder;
mod report;
mod run;
mod shell;

use std::process::ExitCode;

use clap::Parser;

use crate::args::Args;

fn main() -> ExitCode {
    let args = Args::parse();
    match run::run(&args) {
        Ok(report) => {
            print!("{}", report.print(args.output));
            if report.is_clean() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
        }
        Err(error) => {
            eprintln!("chaos: {error:#}");
            ExitCode::from(2)
        }
    }
}
