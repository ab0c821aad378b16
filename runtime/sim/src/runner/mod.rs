//! Runs scenarios: one seed with its log, or many with a verdict.
//!
//! Owns what lies around a run: threads, panics, sums, gates, reports. Must never reach into a
//! run; a scenario is a function from a seed to an outcome.
//!
//! ```text
//!   seeds.txt, seed range -> sweep -> threads: once(scenario, seed) -> totals -> gates -> report
//!   one seed ----------------> replay: once(scenario, seed) with its log ------> verdict
//!   planted bugs ------------> hunt: once(scenario, 1, 2, 3 ...) until found --> table
//! ```

mod gates;
mod hunt;
mod kept;
mod once;
mod outcome;
mod progress;
mod replay;
mod report;
mod sweep;
mod totals;

use std::num::NonZeroUsize;
use std::thread;

pub use gates::{FaultGate, Gates};
pub use outcome::Outcome;
pub use report::Format;

use crate::bank::{self, Bug};
use crate::scenario::{self, Scenario};

/// What to run.
#[derive(Clone, Debug)]
pub struct Request {
    /// One scenario by name; else all of them.
    pub scenario: Option<String>,
    /// One seed, with its log; else a sweep.
    pub seed: Option<u64>,
    /// The first seed of a sweep.
    pub from: u64,
    /// How many seeds a sweep has.
    pub seeds: u64,
    /// How many of them are run twice.
    pub twice: u64,
    /// Threads; else one per core.
    pub jobs: Option<NonZeroUsize>,
    /// The name of a planted bug to switch on.
    pub planted: Option<String>,
    /// How the report is printed.
    pub format: Format,
}

/// What was printed, and whether all is well.
#[derive(Clone, Debug)]
pub struct Verdict {
    /// The report, ready to print.
    pub report: String,
    /// Whether nothing was found.
    pub clean: bool,
}

/// Replays one seed, or sweeps.
///
/// # Errors
/// When the request names no scenario or bug there is, or a thread cannot be started.
pub fn run(request: &Request) -> anyhow::Result<Verdict> {
    let scenarios = scenarios(request.scenario.as_deref())?;
    if let Some(name) = &request.planted {
        bug(name)?;
    }
    match request.seed {
        Some(seed) => replay_each(&scenarios, seed, request),
        None => sweep(scenarios, request),
    }
}

fn replay_each(
    scenarios: &[&'static Scenario],
    seed: u64,
    request: &Request,
) -> anyhow::Result<Verdict> {
    let mut verdict = Verdict { report: String::new(), clean: true };
    for scenario in scenarios {
        let run = replay::replay(scenario, seed, request.planted.as_deref())?;
        let mut violations = run.outcome.violations.clone();
        if violations.is_empty() {
            let Outcome { commits, records_compared, .. } = run.outcome;
            violations = scenario.gates.judge_seed(commits, records_compared);
        }
        verdict.clean &= violations.is_empty();
        verdict.report +=
            &replay::verdict(&run, &violations, request.planted.as_deref(), request.format);
    }
    Ok(verdict)
}

fn sweep(scenarios: Vec<&'static Scenario>, request: &Request) -> anyhow::Result<Verdict> {
    let mut kept = kept::all()?;
    kept.retain(|kept| scenarios.iter().any(|scenario| scenario.name == kept.scenario.name));
    let sweep = sweep::Sweep {
        scenarios,
        kept,
        from: request.from,
        seeds: request.seeds,
        twice: request.twice,
        jobs: jobs(request.jobs),
        planted: request.planted.clone(),
    };
    let totals = sweep.run()?;
    let report = report::of_sweep(&totals, request.format, request.planted.as_deref());
    Ok(Verdict { report, clean: totals.violations == 0 })
}

/// Looks for planted bugs: one by name, or all of them.
///
/// # Errors
/// When there is no such bug, or a thread cannot be started.
pub fn hunt(
    name: Option<&str>,
    seeds_max: u64,
    jobs_wanted: Option<NonZeroUsize>,
    format: Format,
) -> anyhow::Result<Verdict> {
    let bugs: Vec<&'static Bug> = match name {
        Some(name) => vec![bug(name)?],
        None => bank::BUGS.iter().collect(),
    };
    let hunts = hunt::hunt(&bugs, seeds_max, jobs(jobs_wanted))?;
    let clean = hunts.iter().all(hunt::Hunt::found);
    Ok(Verdict { report: hunt::report(&hunts, format), clean })
}

fn scenarios(name: Option<&str>) -> anyhow::Result<Vec<&'static Scenario>> {
    let Some(name) = name else { return Ok(scenario::ALL.iter().collect()) };
    match scenario::find(name) {
        Some(scenario) => Ok(vec![scenario]),
        None => {
            let names: Vec<&str> = scenario::ALL.iter().map(|scenario| scenario.name).collect();
            anyhow::bail!("no scenario is called {name:?}; there are: {}", names.join(", "))
        }
    }
}

fn bug(name: &str) -> anyhow::Result<&'static Bug> {
    bank::find(name).ok_or_else(|| {
        let names: Vec<&str> = bank::BUGS.iter().map(|bug| bug.name).collect();
        anyhow::anyhow!("no planted bug is called {name:?}; there are: {}", names.join(", "))
    })
}

fn jobs(wanted: Option<NonZeroUsize>) -> usize {
    wanted.or_else(|| thread::available_parallelism().ok()).map_or(1, NonZeroUsize::get)
}
