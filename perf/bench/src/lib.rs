//! `barrage bench`: measures a node on this machine, beside what the machine allows.
//!
//! Owns: the load generator, the yardstick ("bare": receive, CRC, direct write, fdatasync, answer,
//! without a broker), the scenarios and the report.
//! Must never: run in the process it measures; both servers are processes of their own, on cores of
//! their own. Invariants: every figure is printed with machine, commit, durability and the bare
//! figure of the same run.

#![cfg_attr(
    test,
    allow(
        clippy::unwrap_used,
        clippy::expect_used,
        clippy::indexing_slicing,
        clippy::float_cmp,
        reason = "tests stop at what they do not expect"
    )
)]
#![expect(clippy::disallowed_methods, reason = "outside of the broker: it measures real time")]

mod affinity;
mod args;
mod bare;
mod batches;
mod child;
mod client;
mod clients;
mod cluster;
mod consume;
mod delay;
mod dialect;
mod hlog;
mod intervals;
mod lane;
mod latency;
mod machine;
mod merge;
mod merge_report;
mod meter;
#[cfg(test)]
mod mock;
mod page;
mod produce;
mod queue;
mod reader;
mod report;
mod run;
mod sampler;
mod session;
#[cfg(test)]
mod tests;
mod timeline;
mod worker;
mod workload;

use std::io::{self, Write as _};
use std::path::Path;
use std::process::ExitCode;

use anyhow::{Context as _, Result};

pub use crate::affinity::{BadCoreList, CoreList};
use crate::args::Plan;
pub use crate::args::{BenchArgs, Output, Scenario};

/// Exit code for bad input, as for every sub-command.
const EXIT_USAGE: u8 = 2;

/// Runs a scenario and prints its report on stdout, or why there is none on stderr. Exit code 0
/// when it was measured, 1 when something failed, 2 when the flags make no sense.
#[must_use]
pub fn run(args: &BenchArgs) -> ExitCode {
    let plan = match Plan::new(args) {
        Ok(plan) => plan,
        Err(reason) => {
            eprintln!("barrage bench: {reason}");
            return ExitCode::from(EXIT_USAGE);
        }
    };
    let done = match plan.scenario {
        Scenario::BareServer => bare_server(args, &plan),
        Scenario::Client => load(args),
        Scenario::Merge => merge_logs(args),
        _ => measure(&plan, args),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("barrage bench: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn bare_server(args: &BenchArgs, plan: &Plan) -> Result<()> {
    let ready_file = args.ready_file.as_deref().context("bare-server needs --ready-file")?;
    let cores = plan.node_cores.first().context("a plan without nodes")?;
    let (data, others) = (plan.data.as_path(), args.forward.as_slice());
    bare::serve(&bare::Serving { cores, data, ready_file, others })
}

fn load(args: &BenchArgs) -> Result<()> {
    client::run(args.load.task.as_deref().context("a client needs --task")?)
}

fn merge_logs(args: &BenchArgs) -> Result<()> {
    let report = merge_report::MergeReport::of(&args.files)?;
    if let Some(file) = &args.report {
        write_page(file, &report.page())?;
    }
    print(&match args.output {
        Output::Table => report.table(),
        Output::Json => report.json()?,
    })
}

fn measure(plan: &Plan, args: &BenchArgs) -> Result<()> {
    if plan.node_cores.iter().any(|cores| cores.overlaps(&plan.client_cores)) {
        eprintln!("barrage bench: server and client share cores; figures are lower for it");
    }
    let report = run::run(plan)?;
    if let Some(file) = &args.report {
        write_page(file, &page::html(&report))?;
    }
    print(&match args.output {
        Output::Table => report.table(),
        Output::Json => report.json()?,
    })
}

fn write_page(file: &Path, page: &str) -> Result<()> {
    let written = std::fs::write(file, page);
    written.with_context(|| format!("cannot write the report {}", file.display()))
}

fn print(text: &str) -> Result<()> {
    let mut stdout = io::stdout().lock();
    writeln!(stdout, "{text}").context("cannot print")
}
