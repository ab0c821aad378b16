//! The report of a sweep: in words, or as one JSON object.
//!
//! Owns the lines that are printed. Invariant: a failure names scenario, seed and commit, and the
//! command that replays it; the last line is the summary.

use std::collections::BTreeMap;
use std::fmt::Write;

use serde::Serialize;

use super::totals::{Failure, Sum, Totals};

/// How a report is printed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Format {
    /// In words.
    Text,
    /// One JSON object on one line.
    Json,
}

/// The commit that was built, as the caller says it.
pub(crate) fn commit() -> String {
    std::env::var("BARRAGE_COMMIT").unwrap_or_else(|_| "unknown".to_owned())
}

/// The command that replays a seed.
pub(crate) fn replay_command(scenario: &str, seed: u64, planted: Option<&str>) -> String {
    let planted = planted.map(|name| format!(" --planted {name}")).unwrap_or_default();
    format!("cargo xtask sim --scenario {scenario} --seed {seed}{planted}")
}

/// The whole report.
pub(crate) fn of_sweep(totals: &Totals, format: Format, planted: Option<&str>) -> String {
    match format {
        Format::Text => text(totals, planted),
        Format::Json => json(totals, planted),
    }
}

fn text(totals: &Totals, planted: Option<&str>) -> String {
    let mut out = String::new();
    for failure in &totals.failures {
        out.push_str(&failure_text(failure, planted));
    }
    let told = totals.failures.len() as u64;
    if totals.failed_seeds > told {
        writeln!(out, "{} more seeds failed", totals.failed_seeds - told).ok();
    }
    for gate in &totals.closed_gates {
        writeln!(out, "FAILED {gate}; commit {}", commit()).ok();
    }
    for (name, sum) in &totals.sums {
        let faults = counts(&sum.faults);
        writeln!(out, "{name}: {} seeds; faults: {faults}", sum.seeds).ok();
        if !sum.moods.is_empty() {
            writeln!(out, "{name}: moods: {}", counts(&sum.moods)).ok();
        }
    }
    writeln!(out, "{}", summary(totals)).ok();
    out
}

fn failure_text(failure: &Failure, planted: Option<&str>) -> String {
    let Failure { scenario, seed, violations, note } = failure;
    let mut out = format!("FAILED scenario {scenario}, seed {seed}, commit {}\n", commit());
    for violation in violations {
        writeln!(out, "  {violation}").ok();
    }
    if !note.is_empty() {
        writeln!(out, "  drawn: {note}").ok();
    }
    writeln!(out, "  replay: {}", replay_command(scenario, *seed, planted)).ok();
    out
}

fn counts(counts: &BTreeMap<&'static str, u64>) -> String {
    if counts.is_empty() {
        return "none".to_owned();
    }
    let words: Vec<String> = counts.iter().map(|(kind, count)| format!("{kind} {count}")).collect();
    words.join(", ")
}

fn summary(totals: &Totals) -> String {
    let all = Figures::of(totals);
    format!(
        "{} seeds, {} violations, {} commits, {} records compared, {} faults fired, \
         {} seeds run twice, {} s of virtual time in {:.1} s, commit {}",
        all.seeds,
        all.violations,
        all.commits,
        all.records_compared,
        all.faults,
        all.seeds_run_twice,
        all.virtual_ms / 1_000,
        all.seconds,
        commit(),
    )
}

/// The figures of the summary.
#[derive(Serialize)]
struct Figures {
    seeds: u64,
    violations: u64,
    commits: u64,
    records_compared: u64,
    faults: u64,
    seeds_run_twice: u64,
    virtual_ms: u64,
    seconds: f64,
    commit: String,
}

impl Figures {
    fn of(totals: &Totals) -> Self {
        let sum = |figure: fn(&Sum) -> u64| totals.sums.values().map(figure).sum();
        Self {
            seeds: sum(|sum| sum.seeds),
            violations: totals.violations,
            commits: sum(|sum| sum.commits),
            records_compared: sum(|sum| sum.records_compared),
            faults: sum(|sum| sum.faults.values().sum()),
            seeds_run_twice: totals.seeds_run_twice,
            virtual_ms: sum(|sum| sum.virtual_ms),
            seconds: totals.elapsed().as_secs_f64(),
            commit: commit(),
        }
    }
}

#[derive(Serialize)]
struct Document<'a> {
    #[serde(flatten)]
    figures: Figures,
    planted: Option<&'a str>,
    scenarios: &'a BTreeMap<&'static str, Sum>,
    closed_gates: &'a [String],
    failed_seeds: u64,
    failures: &'a [Failure],
}

fn json(totals: &Totals, planted: Option<&str>) -> String {
    let document = Document {
        figures: Figures::of(totals),
        planted,
        scenarios: &totals.sums,
        closed_gates: &totals.closed_gates,
        failed_seeds: totals.failed_seeds,
        failures: &totals.failures,
    };
    match serde_json::to_string(&document) {
        Ok(line) => line + "\n",
        Err(error) => format!("{{\"error\":\"{error}\"}}\n"),
    }
}
