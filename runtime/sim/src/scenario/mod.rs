//! The scenarios: each a function from a seed to an outcome.
//!
//! Owns the registry. A scenario draws everything from its seed: configuration, workload, mix of
//! faults. Must never read a clock, a file or an environment of the machine it runs on.

pub mod cluster;
pub mod log;
pub mod node;
pub mod replicas;

use crate::runner::{Gates, Outcome};

/// A scenario.
#[derive(Clone, Copy, Debug)]
pub struct Scenario {
    /// The name it is asked for by.
    pub name: &'static str,
    /// What it does and judges, in one line.
    pub about: &'static str,
    /// How many seeds it gets of a round in which every scenario has its turns: those that cost
    /// much get few.
    pub turns: usize,
    /// Runs one seed.
    pub run: fn(u64) -> Outcome,
    /// What its runs must at least do.
    pub gates: Gates,
}

/// All scenarios.
pub const ALL: &[Scenario] = &[
    log::SCENARIO,
    replicas::SCENARIO,
    node::SCENARIO,
    cluster::SCENARIO,
    cluster::QUEUE,
    cluster::STREAMS,
    cluster::DELAYS,
];

/// The scenario of this name.
#[must_use]
pub fn find(name: &str) -> Option<&'static Scenario> {
    ALL.iter().find(|scenario| scenario.name == name)
}
