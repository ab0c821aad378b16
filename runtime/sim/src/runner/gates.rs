//! Gates against empty runs: a sweep that did nothing has not shown anything.
//!
//! Owns what a scenario must at least have done, seed by seed and over a sweep. Must never be
//! lowered to make a sweep pass without a word why the runs became emptier.

use std::collections::BTreeMap;

/// What runs of a scenario must at least have done.
#[derive(Clone, Copy, Debug)]
pub struct Gates {
    /// Each seed: least acknowledged operations.
    pub seed_commits_min: u64,
    /// Each seed: least records compared.
    pub seed_records_compared_min: u64,
    /// Over a sweep: least acknowledged operations per seed on average.
    pub mean_commits_min: u64,
    /// Over a sweep: least records compared per seed on average.
    pub mean_records_compared_min: u64,
    /// Over a sweep: faults that must have fired.
    pub faults: &'static [FaultGate],
}

/// A kind of fault that a sweep must have seen.
#[derive(Clone, Copy, Debug)]
pub struct FaultGate {
    /// The kind, as the outcome counts it.
    pub kind: &'static str,
    /// It must fire in one of so many seeds: choose several times what is seen, so that luck
    /// does not close the gate. A shorter sweep asks for nothing.
    pub once_in_seeds: u64,
}

/// What a sweep of one scenario has done, as far as gates ask.
#[derive(Clone, Default, Debug)]
pub(crate) struct Done {
    pub(crate) seeds: u64,
    pub(crate) commits: u64,
    pub(crate) records_compared: u64,
    /// In how many seeds each kind of fault fired.
    pub(crate) seeds_with_fault: BTreeMap<&'static str, u64>,
}

impl Gates {
    /// No demands: for a scenario that is being written.
    pub const OPEN: Self = Self {
        seed_commits_min: 0,
        seed_records_compared_min: 0,
        mean_commits_min: 0,
        mean_records_compared_min: 0,
        faults: &[],
    };

    /// What one seed did too little of.
    pub(crate) fn judge_seed(&self, commits: u64, records_compared: u64) -> Vec<String> {
        let mut closed = Vec::new();
        at_least(&mut closed, "commits in one seed", commits, self.seed_commits_min);
        let least = self.seed_records_compared_min;
        at_least(&mut closed, "records compared in one seed", records_compared, least);
        closed
    }

    /// What a sweep did too little of.
    pub(crate) fn judge_sweep(&self, done: &Done) -> Vec<String> {
        let mut closed = Vec::new();
        if done.seeds == 0 {
            closed.push("no seed was run".to_owned());
            return closed;
        }
        let commits = done.commits / done.seeds;
        at_least(&mut closed, "commits per seed", commits, self.mean_commits_min);
        let compared = done.records_compared / done.seeds;
        at_least(
            &mut closed,
            "records compared per seed",
            compared,
            self.mean_records_compared_min,
        );
        for gate in self.faults {
            let seen = done.seeds_with_fault.get(gate.kind).copied().unwrap_or(0);
            let least = done.seeds / gate.once_in_seeds;
            at_least(&mut closed, &format!("seeds with {}", gate.kind), seen, least);
        }
        closed
    }
}

fn at_least(closed: &mut Vec<String>, what: &str, seen: u64, least: u64) {
    if seen < least {
        closed.push(format!("gate: {what}: {seen}, at least {least} are wanted"));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GATES: Gates = Gates {
        seed_commits_min: 1,
        seed_records_compared_min: 2,
        mean_commits_min: 10,
        mean_records_compared_min: 20,
        faults: &[FaultGate { kind: "kill", once_in_seeds: 4 }],
    };

    fn done(seeds: u64, commits: u64, records_compared: u64, kills: u64) -> Done {
        let seeds_with_fault = BTreeMap::from([("kill", kills)]);
        Done { seeds, commits, records_compared, seeds_with_fault }
    }

    #[test]
    fn an_empty_sweep_is_no_sweep() {
        assert_eq!(Gates::OPEN.judge_sweep(&Done::default()).len(), 1);
    }

    #[test]
    fn every_gate_closes_below_its_least() {
        for (done, closed) in [
            (done(8, 80, 160, 2), 0),
            (done(8, 79, 160, 2), 1),
            (done(8, 80, 159, 2), 1),
            (done(8, 80, 160, 1), 1),
            (done(3, 30, 60, 0), 0),
            (done(8, 0, 0, 0), 3),
        ] {
            assert_eq!(GATES.judge_sweep(&done).len(), closed, "{done:?}");
        }
        assert_eq!(GATES.judge_seed(1, 2).len(), 0);
        assert_eq!(GATES.judge_seed(0, 1).len(), 2);
    }
}
