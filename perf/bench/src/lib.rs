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
mod connections;
mod consume;
mod cost;
mod delay;
mod descriptors;
mod dialect;
mod figures;
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
mod partitions;
mod pipe;
mod produce;
mod progress;
mod queue;
mod reader;
mod report;
mod run;
mod sampler;
mod search;
mod session;
#[cfg(test)]
mod tests;
mod timeline;
mod trail;
mod worker;
mod workload;
mod yardstick;

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
    let plan = match Plan::new(args).and_then(allowed) {
        Ok(plan) => plan,
        Err(reason) => {
            eprintln!("barrage bench: {reason}");
            return ExitCode::from(EXIT_USAGE);
        }
    };
    let done = match plan.scenario {
        Scenario::BareServer => bare_server(args, &plan),
        Scenario::BareSender => bare_sender(args, &plan),
        Scenario::BareScan => bare_scan(&plan),
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

/// A plan that this process has the means for.
fn allowed(plan: Plan) -> Result<Plan, String> {
    match plan.scenario {
        Scenario::Connections => descriptors::allow(plan.connections as u64)?,
        // Each producer and each consumer has a connection.
        Scenario::Run => descriptors::raise(),
        _ => {}
    }
    Ok(plan)
}

fn bare_server(args: &BenchArgs, plan: &Plan) -> Result<()> {
    let (data, others) = (plan.data.clone(), args.forward.clone());
    serve_bare(args, plan, bare::Role::Store { data, others })
}

fn bare_sender(args: &BenchArgs, plan: &Plan) -> Result<()> {
    serve_bare(args, plan, bare::Role::Send(yardstick::pieces(plan)?))
}

fn serve_bare(args: &BenchArgs, plan: &Plan, role: bare::Role) -> Result<()> {
    let ready_file = args.ready_file.as_deref().context("a bare server needs --ready-file")?;
    let cores = plan.node_cores.first().context("a plan without nodes")?;
    bare::serve(bare::Serving { cores, ready_file, role })
}

fn bare_scan(plan: &Plan) -> Result<()> {
    let cores = plan.node_cores.first().context("a plan without nodes")?;
    let scanned = bare::scan::scan(cores, &plan.data, plan.fill_bytes)?;
    let text = serde_json::to_string(&scanned)?;
    writeln!(io::stdout().lock(), "{text}").context("cannot print")
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
