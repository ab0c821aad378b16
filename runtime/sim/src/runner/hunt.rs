//! Looks for planted bugs: runs seeds until one shows the bug.
//!
//! Owns the search and its table. Invariants: the seeds of a bug are tried in order from 1, so
//! the number needed does not depend on the threads; a bug whose line was never reached is told
//! apart from one that hides well.

use std::fmt::Write;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, mpsc};
use std::thread;

use serde::Serialize;

use super::once::run_once;
use super::progress::Progress;
use super::report::{Format, commit, replay_command};
use super::sweep::STACK_BYTES;
use crate::bank::Bug;
use crate::scenario::{self, Scenario};

/// What came of the search for one bug in one scenario.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Hunt {
    bug: &'static str,
    scenario: &'static str,
    /// The seed that showed it, which is also how many were needed; none when all were tried.
    seed: Option<u64>,
    /// The rule it broke.
    violation: String,
    /// Whether the planted line was reached at all.
    reached: bool,
}

impl Hunt {
    /// A violation counts only when the planted line had been reached.
    pub(crate) fn found(&self) -> bool {
        self.seed.is_some() && self.reached
    }
}

/// Looks for each bug in each of its scenarios.
pub(crate) fn hunt(
    bugs: &[&'static Bug],
    seeds_max: u64,
    jobs: usize,
) -> anyhow::Result<Vec<Hunt>> {
    let mut wanted = Vec::new();
    for bug in bugs {
        for name in bug.scenarios {
            let scenario = scenario::find(name)
                .ok_or_else(|| anyhow::anyhow!("{}: no scenario {name}", bug.name))?;
            wanted.push((*bug, scenario));
        }
    }
    let count = wanted.len();
    let (wanted, next) = (Arc::new(wanted), Arc::new(AtomicUsize::new(0)));
    let (sender, receiver) = mpsc::channel();
    for _ in 0..jobs.min(count) {
        let (wanted, next, sender) = (Arc::clone(&wanted), Arc::clone(&next), sender.clone());
        let work = move || {
            loop {
                let number = next.fetch_add(1, Ordering::Relaxed);
                let Some((bug, scenario)) = wanted.get(number) else { return };
                if sender.send((number, hunt_one(bug, scenario, seeds_max))).is_err() {
                    return;
                }
            }
        };
        thread::Builder::new().stack_size(STACK_BYTES).spawn(work)?;
    }
    drop(sender);
    let mut progress = Progress::new(count as u64);
    let mut hunts = Vec::new();
    for found in receiver {
        hunts.push(found);
        progress.show(hunts.len() as u64, 0);
    }
    progress.end();
    hunts.sort_by_key(|(number, _)| *number);
    anyhow::ensure!(hunts.len() == count, "a thread of the hunt ended early");
    Ok(hunts.into_iter().map(|(_, hunt)| hunt).collect())
}

fn hunt_one(bug: &'static Bug, scenario: &'static Scenario, seeds_max: u64) -> Hunt {
    let mut reached = false;
    for seed in 1..=seeds_max {
        let run = run_once(scenario, seed, Some(bug.name));
        reached |= run.planted_reached;
        if let Some(violation) = run.outcome.violations.into_iter().next() {
            let reached = run.planted_reached;
            return Hunt {
                bug: bug.name,
                scenario: scenario.name,
                seed: Some(seed),
                violation,
                reached,
            };
        }
    }
    let violation = String::new();
    Hunt { bug: bug.name, scenario: scenario.name, seed: None, violation, reached }
}

/// The table, then the summary.
pub(crate) fn report(hunts: &[Hunt], format: Format) -> String {
    let mut needed: Vec<u64> = hunts.iter().filter_map(|hunt| hunt.seed).collect();
    needed.sort_unstable();
    let median = needed.get(needed.len() / 2).copied();
    let found = hunts.iter().filter(|hunt| hunt.found()).count();
    if format == Format::Json {
        let line = serde_json::json!({
            "hunts": hunts, "found": found, "median_seeds": median, "commit": commit(),
        });
        return format!("{line}\n");
    }
    let mut out = String::new();
    let width = |text: fn(&Hunt) -> &str| hunts.iter().map(|h| text(h).len()).max().unwrap_or(0);
    let (bug_width, scenario_width) = (width(|hunt| hunt.bug), width(|hunt| hunt.scenario));
    for hunt in hunts {
        let seeds = hunt.seed.map_or_else(|| "-".to_owned(), |seed| seed.to_string());
        let Hunt { bug, scenario, .. } = hunt;
        write!(out, "{bug:bug_width$}  {scenario:scenario_width$}  {seeds:>5}  ").ok();
        writeln!(out, "{}", said(hunt)).ok();
    }
    for hunt in hunts.iter().filter(|hunt| hunt.found()) {
        let seed = hunt.seed.unwrap_or_default();
        writeln!(out, "replay: {}", replay_command(hunt.scenario, seed, Some(hunt.bug))).ok();
    }
    let median = median.map_or_else(|| "-".to_owned(), |median| median.to_string());
    let count = hunts.len();
    writeln!(out, "{found} of {count} found, median {median} seeds, commit {}", commit()).ok();
    out
}

fn said(hunt: &Hunt) -> String {
    match (hunt.seed, hunt.reached) {
        (Some(_), true) => first_line(&hunt.violation),
        (Some(_), false) => {
            format!("NOT FOUND: violated without the planted line: {}", first_line(&hunt.violation))
        }
        (None, true) => "NOT FOUND".to_owned(),
        (None, false) => "NOT FOUND: the planted line was never reached".to_owned(),
    }
}

fn first_line(violation: &str) -> String {
    const CHARS_MAX: usize = 120;
    violation.lines().next().unwrap_or_default().chars().take(CHARS_MAX).collect()
}
