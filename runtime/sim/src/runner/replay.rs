//! One seed again, with everything it says.
//!
//! Owns the log of a replay: what the world did and what the code under test said, line by line,
//! with the true time of the run. Invariant: the log changes nothing; the trace is that of the
//! sweep.

use std::fmt::Write as _;
use std::io::{self, Write};
use std::thread;

use barrage_world::sim;
use tracing_subscriber::EnvFilter;

use super::once::{Run, run_once};
use super::report::{Format, commit, replay_command};
use super::sweep::STACK_BYTES;
use crate::scenario::Scenario;

/// What the log of a replay shows unless `RUST_LOG` says otherwise: openraft would speak of every
/// heartbeat.
const LOG_FILTER: &str = "debug,openraft=error";

/// Runs one seed, then prints its log on stderr.
pub(crate) fn replay(
    scenario: &'static Scenario,
    seed: u64,
    planted: Option<&str>,
) -> anyhow::Result<Run> {
    let planted = planted.map(str::to_owned);
    let work = move || {
        let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| LOG_FILTER.into());
        let subscriber = tracing_subscriber::fmt()
            .with_env_filter(filter)
            .without_time()
            .with_ansi(false)
            .with_writer(|| Line)
            .finish();
        sim::keep_journal(true);
        let run = tracing::subscriber::with_default(subscriber, || {
            run_once(scenario, seed, planted.as_deref())
        });
        print_journal();
        run
    };
    let worker = thread::Builder::new().stack_size(STACK_BYTES).spawn(work)?;
    worker.join().map_err(|_| anyhow::anyhow!("the thread of the run panicked"))
}

/// A line of the product's own log, on its way to the journal.
struct Line;

impl Write for Line {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        sim::note(|| String::from_utf8_lossy(line).trim().to_owned());
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn print_journal() {
    let mut out = io::stderr().lock();
    for (at, line) in sim::take_journal() {
        // The log is for reading; when nobody reads it the verdict still counts.
        writeln!(out, "{:>12.6}  {line}", at.as_secs_f64()).ok();
    }
    sim::keep_journal(false);
}

/// The verdict of a replay.
pub(crate) fn verdict(
    run: &Run,
    violations: &[String],
    planted: Option<&str>,
    format: Format,
) -> String {
    let Run { scenario, seed, outcome, .. } = run;
    if format == Format::Json {
        let line = serde_json::json!({
            "scenario": scenario.name,
            "seed": seed,
            "planted": planted,
            "commit": commit(),
            "violations": violations,
            "outcome": outcome,
        });
        return format!("{line}\n");
    }
    let mut out = String::new();
    if !outcome.note.is_empty() {
        writeln!(out, "drawn: {}", outcome.note).ok();
    }
    for (kind, count) in outcome.faults.iter().chain(&outcome.moods) {
        writeln!(out, "fired: {kind} {count}").ok();
    }
    if let Some(name) = planted {
        let reached = if run.planted_reached { "reached" } else { "never reached" };
        writeln!(out, "planted: {name}, {reached}").ok();
    }
    for violation in violations {
        writeln!(out, "VIOLATION {violation}").ok();
    }
    writeln!(
        out,
        "{} seed {seed}: {} violations, {} commits, {} records compared, {} ms, trace {:016x}, \
         commit {}",
        scenario.name,
        violations.len(),
        outcome.commits,
        outcome.records_compared,
        outcome.virtual_ms,
        outcome.trace_hash,
        commit(),
    )
    .ok();
    writeln!(out, "again: {}", replay_command(scenario.name, *seed, planted)).ok();
    out
}
