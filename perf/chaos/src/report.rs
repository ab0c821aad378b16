//! What a run found, for people and for programs.
//!
//! Owns: the figures of each kind of fault. Must never: call a run good that compared nothing.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use barrage_sim::history::Verdict;
use serde::Serialize;

use crate::args::Output;
use crate::fault::Fault;

/// One fault and the recovery from it.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Cycle {
    pub(crate) number: u32,
    pub(crate) fault: Fault,
    /// To whom, and what came of it.
    pub(crate) what: String,
    /// When it began, since the run began.
    pub(crate) at_ms: u64,
    /// From the fault to the first record that was sent after it and acknowledged, on the slowest
    /// of the partitions concerned.
    pub(crate) unavailable_ms: u64,
    /// The longest time without an acknowledgement on any of them, until all was served again.
    pub(crate) silence_ms: u64,
    /// From the end of the fault until every partition took records.
    pub(crate) recovered_ms: u64,
    /// From then until every node said that all is well.
    pub(crate) healthy_ms: u64,
}

/// See the module.
#[derive(Debug, Default, Serialize)]
pub(crate) struct Report {
    pub(crate) seed: u64,
    pub(crate) nodes: usize,
    pub(crate) seconds: u64,
    pub(crate) cycles: Vec<Cycle>,
    /// Faults that this machine does not allow, and why.
    pub(crate) skipped: Vec<String>,
    /// What went wrong beside the history.
    pub(crate) troubles: Vec<String>,
    /// Cores that slept and were not woken.
    pub(crate) asleep: Vec<String>,
    /// Nodes that refused damaged data.
    pub(crate) refusals: Vec<String>,
    /// Records of each final reading.
    pub(crate) readings: BTreeMap<String, u64>,
    pub(crate) verdict: Verdict,
    /// Where data, logs and history are.
    pub(crate) kept: Option<String>,
}

/// Figures over the cycles of one kind, in milliseconds.
#[derive(Clone, Copy, Debug, Serialize)]
struct Figures {
    median: u64,
    p99: u64,
    max: u64,
}

impl Report {
    /// Nothing was found, and something was looked at.
    pub(crate) fn is_clean(&self) -> bool {
        let has_looked = self.verdict.counters.records_compared > 0;
        let is_quiet = self.troubles.is_empty() && self.asleep.is_empty();
        has_looked && is_quiet && self.verdict.is_clean()
    }

    pub(crate) fn print(&self, output: Output) -> String {
        match output {
            Output::Text => self.text(),
            Output::Json => {
                let json = serde_json::to_string_pretty(self);
                json.unwrap_or_else(|error| error.to_string()) + "\n"
            }
        }
    }

    fn text(&self) -> String {
        let mut text = String::new();
        match self.write(&mut text) {
            Ok(()) => text,
            Err(error) => error.to_string(),
        }
    }

    fn write(&self, out: &mut String) -> std::fmt::Result {
        let (seed, nodes, seconds) = (self.seed, self.nodes, self.seconds);
        let count = self.cycles.len();
        writeln!(out, "{count} cycles in {seconds} s, {nodes} nodes, seed {seed}")?;
        writeln!(
            out,
            "{:12} {:>6}  {:>24}  {:>24}  {:>24}",
            "fault", "cycles", "unavailable ms", "longest silence ms", "healthy after ms"
        )?;
        let mut kinds: BTreeMap<Fault, Vec<&Cycle>> = BTreeMap::new();
        for cycle in &self.cycles {
            kinds.entry(cycle.fault).or_default().push(cycle);
        }
        for (fault, cycles) in kinds {
            let over = |which: fn(&Cycle) -> u64| {
                let Figures { median, p99, max } =
                    figures(cycles.iter().map(|cycle| which(cycle)).collect());
                format!("{median}/{p99}/{max}")
            };
            writeln!(
                out,
                "{:12} {:>6}  {:>24}  {:>24}  {:>24}",
                fault.name(),
                cycles.len(),
                over(|cycle| cycle.unavailable_ms),
                over(|cycle| cycle.silence_ms),
                over(|cycle| cycle.recovered_ms + cycle.healthy_ms),
            )?;
        }
        writeln!(out, "(median/p99/max)")?;
        for words in &self.skipped {
            writeln!(out, "skipped: {words}")?;
        }
        for words in &self.refusals {
            writeln!(out, "refused damaged data: {words}")?;
        }
        for words in &self.asleep {
            writeln!(out, "a core sleeps: {words}")?;
        }
        for words in &self.troubles {
            writeln!(out, "FAILED: {words}")?;
        }
        for (who, count) in &self.readings {
            writeln!(out, "{who} read {count} records")?;
        }
        writeln!(out, "{}", self.verdict)?;
        if let Some(kept) = &self.kept {
            writeln!(out, "kept: {kept}; again: cargo xtask chaos --seed {seed} ...")?;
        }
        writeln!(out, "{}", if self.is_clean() { "all is well" } else { "FAILED" })
    }
}

fn figures(mut values: Vec<u64>) -> Figures {
    values.sort_unstable();
    let at = |hundredths: usize| {
        let rank = (values.len() * hundredths).div_ceil(100).max(1);
        values.get(rank - 1).copied().unwrap_or_default()
    };
    Figures { median: at(50), p99: at(99), max: at(100) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_are_ranks() {
        let Figures { median, p99, max } = figures((1..=100).rev().collect());
        assert_eq!((median, p99, max), (50, 99, 100));
        let Figures { median, p99, max } = figures(vec![7]);
        assert_eq!((median, p99, max), (7, 7, 7));
        let Figures { median, p99, max } = figures(vec![]);
        assert_eq!((median, p99, max), (0, 0, 0));
    }

    #[test]
    fn a_run_that_compared_nothing_is_not_clean() {
        assert!(!Report::default().is_clean());
    }
}
