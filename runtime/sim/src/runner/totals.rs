//! What a sweep came to: sums, failures, closed gates.
//!
//! Owns the judgement of a sweep as a whole. Invariant: every violation of every run is counted;
//! only the words are bounded.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use serde::Serialize;

use super::gates::Done;
use super::once::Run;
use super::outcome::Outcome;
use super::sweep::{Role, Sweep};
use crate::scenario::Scenario;

/// Failed seeds told in words; more are counted.
const FAILURES_MAX: usize = 20;
/// Violations of one seed told in words; more are counted.
const VIOLATIONS_MAX: usize = 10;

/// A seed that failed.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Failure {
    pub(crate) scenario: &'static str,
    pub(crate) seed: u64,
    pub(crate) violations: Vec<String>,
    pub(crate) note: String,
}

/// The sums of one scenario.
#[derive(Clone, Default, Debug, Serialize)]
pub(crate) struct Sum {
    pub(crate) seeds: u64,
    pub(crate) commits: u64,
    pub(crate) records_compared: u64,
    pub(crate) virtual_ms: u64,
    pub(crate) faults: BTreeMap<&'static str, u64>,
    pub(crate) moods: BTreeMap<&'static str, u64>,
    #[serde(skip)]
    seeds_with_fault: BTreeMap<&'static str, u64>,
}

/// The sums of a sweep.
#[derive(Debug)]
pub(crate) struct Totals {
    began: Instant,
    scenarios: Vec<&'static Scenario>,
    pub(crate) sums: BTreeMap<&'static str, Sum>,
    /// Outcomes of the seeds that run twice, while one of the two runs is missing.
    pairs: BTreeMap<(&'static str, u64), Outcome>,
    pub(crate) seeds_run_twice: u64,
    /// Runs made, second ones included.
    pub(crate) runs: u64,
    pub(crate) violations: u64,
    pub(crate) failed_seeds: u64,
    pub(crate) failures: Vec<Failure>,
    /// Gates that the sweep as a whole did not pass; each is a violation.
    pub(crate) closed_gates: Vec<String>,
}

impl Totals {
    pub(crate) fn new(sweep: &Sweep) -> Self {
        Self {
            began: Instant::now(),
            scenarios: sweep.scenarios.clone(),
            sums: BTreeMap::new(),
            pairs: BTreeMap::new(),
            seeds_run_twice: 0,
            runs: 0,
            violations: 0,
            failed_seeds: 0,
            failures: Vec::new(),
            closed_gates: Vec::new(),
        }
    }

    pub(crate) fn elapsed(&self) -> Duration {
        self.began.elapsed()
    }

    /// Takes in a run that ended.
    pub(crate) fn add(&mut self, role: Role, run: Run) {
        self.runs += 1;
        if role != Role::Second {
            self.sum(&run);
        }
        if role != Role::Only {
            self.pair(run);
        }
    }

    fn sum(&mut self, run: &Run) {
        let Run { scenario, seed, outcome, .. } = run;
        let sum = self.sums.entry(scenario.name).or_default();
        sum.seeds += 1;
        sum.commits += outcome.commits;
        sum.records_compared += outcome.records_compared;
        sum.virtual_ms += outcome.virtual_ms;
        for (kind, count) in &outcome.faults {
            *sum.faults.entry(kind).or_default() += count;
            *sum.seeds_with_fault.entry(kind).or_default() += 1;
        }
        for (point, count) in &outcome.moods {
            *sum.moods.entry(point).or_default() += count;
        }
        let mut violations = outcome.violations.clone();
        if violations.is_empty() {
            // A run that ended early by a violation is judged by that alone.
            violations = scenario.gates.judge_seed(outcome.commits, outcome.records_compared);
        }
        self.fail(scenario.name, *seed, violations, &outcome.note);
    }

    /// Compares the two runs of a seed when the second of them is in.
    fn pair(&mut self, run: Run) {
        let key = (run.scenario.name, run.seed);
        let Some(other) = self.pairs.remove(&key) else {
            self.pairs.insert(key, run.outcome);
            return;
        };
        self.seeds_run_twice += 1;
        if other == run.outcome {
            return;
        }
        let what = if other.trace_hash == run.outcome.trace_hash {
            format!("two runs took one way and told {other:?} and {:?}", run.outcome)
        } else {
            let (one, two) = (other.trace_hash, run.outcome.trace_hash);
            format!("two runs took different ways: trace {one:016x} and {two:016x}")
        };
        self.fail(run.scenario.name, run.seed, vec![what], &run.outcome.note);
    }

    /// A run that does not end.
    pub(crate) fn stuck(&mut self, scenario: &Scenario, seed: u64, waited: Duration) {
        let what = format!("the run has not ended after {} s", waited.as_secs());
        self.fail(scenario.name, seed, vec![what], "");
    }

    fn fail(&mut self, scenario: &'static str, seed: u64, violations: Vec<String>, note: &str) {
        if violations.is_empty() {
            return;
        }
        self.violations += violations.len() as u64;
        self.failed_seeds += 1;
        if self.failures.len() < FAILURES_MAX {
            let violations = bounded(violations);
            self.failures.push(Failure { scenario, seed, violations, note: note.to_owned() });
        }
    }

    /// Judges the sweep as a whole, when all runs are in.
    pub(crate) fn judge_gates(&mut self) {
        for scenario in &self.scenarios {
            let sum = self.sums.get(scenario.name).cloned().unwrap_or_default();
            let done = Done {
                seeds: sum.seeds,
                commits: sum.commits,
                records_compared: sum.records_compared,
                seeds_with_fault: sum.seeds_with_fault,
            };
            let closed = scenario.gates.judge_sweep(&done);
            self.closed_gates
                .extend(closed.into_iter().map(|what| format!("{}: {what}", scenario.name)));
        }
        self.violations += self.closed_gates.len() as u64;
    }
}

fn bounded(mut violations: Vec<String>) -> Vec<String> {
    let more = violations.len().saturating_sub(VIOLATIONS_MAX);
    if more > 0 {
        violations.truncate(VIOLATIONS_MAX);
        violations.push(format!("and {more} more"));
    }
    violations
}
