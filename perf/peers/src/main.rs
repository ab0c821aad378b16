//! `barrage-peers`: Barrage beside other brokers, on the same cores, in the same shape of load.
//!
//! Owns: starting brokers that can be installed from Debian, loading them through their usual
//! client libraries, and the table of ratios.
//! Must never: be part of the product's build; leave a server or its data behind; touch a broker
//! that somebody else started.
//! Invariants: one subject is measured at a time; every figure stands with its durability, its
//! version and the machine.

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

mod alternate;
mod args;
mod barrage;
mod compare;
mod cores;
mod folder;
mod installed;
mod load;
mod measure;
mod nats;
mod process;
mod rabbitmq;
mod redis;
mod report;
mod scenario;
mod statistics;
mod subject;
mod usage;

use std::process::ExitCode;

use anyhow::{Context as _, Result};
use clap::Parser as _;
use tokio::runtime::{Builder, Runtime};
use tokio::signal::unix::{SignalKind, signal};

use crate::args::{Args, Output, Plan};
use crate::cores::CoreList;
use crate::report::{Report, Verdict};

/// Every peer that is there was measured.
const EXIT_MEASURED: u8 = 0;
/// Barrage, or a measurement of some peer, failed.
const EXIT_FAILED: u8 = 1;
/// As clap's own.
const EXIT_USAGE: u8 = 2;
/// No peer could be measured.
const EXIT_NONE_PRESENT: u8 = 3;
/// As a shell tells of SIGINT.
const EXIT_INTERRUPTED: u8 = 130;

fn main() -> ExitCode {
    let args = Args::parse();
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let plan = match Plan::new(&args, cores) {
        Ok(plan) => plan,
        Err(error) => {
            eprintln!("error: {error:#}");
            return EXIT_USAGE.into();
        }
    };
    let all = CoreList::range(0, cores);
    if plan.server_cores.overlaps(&plan.client_cores) {
        eprintln!("server and client share cores: the figures tell little");
    }
    let ended = runtime(&plan).and_then(|runtime| runtime.block_on(run(&plan, &all)));
    match ended {
        Ok(Some(report)) => print(&plan, &report),
        Ok(None) => EXIT_INTERRUPTED.into(),
        Err(error) => {
            eprintln!("error: {error:#}");
            EXIT_FAILED.into()
        }
    }
}

/// A runtime whose threads, and this one, run on the cores of the load.
fn runtime(plan: &Plan) -> Result<Runtime> {
    let cores = plan.client_cores.clone();
    cores.pin().with_context(|| format!("cannot run on cores {cores}"))?;
    // Threads inherit the cores of the one that starts them.
    let threads = cores.count();
    Ok(Builder::new_multi_thread().worker_threads(threads).enable_all().build()?)
}

/// Compares until it is done or interrupted. Dropping the comparison ends what it started.
async fn run(plan: &Plan, all: &CoreList) -> Result<Option<Report>> {
    let (mut interrupt, mut terminate) =
        (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
    tokio::select! {
        report = compare::run(plan, all) => report.map(Some),
        _ = interrupt.recv() => Ok(None),
        _ = terminate.recv() => Ok(None),
    }
}

#[expect(clippy::print_stdout, reason = "the report is what it is asked for")]
fn print(plan: &Plan, report: &Report) -> ExitCode {
    match plan.output {
        Output::Table => println!("{}", report.table()),
        Output::Json => match report.json() {
            Ok(json) => println!("{json}"),
            Err(error) => {
                eprintln!("error: {error}");
                return EXIT_FAILED.into();
            }
        },
    }
    match report.verdict() {
        Verdict::Measured => EXIT_MEASURED.into(),
        Verdict::SomeFailed => EXIT_FAILED.into(),
        Verdict::NonePresent => EXIT_NONE_PRESENT.into(),
    }
}
