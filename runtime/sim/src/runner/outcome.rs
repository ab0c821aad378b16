//! What one run of a scenario came to.
//!
//! Owns the figures that gates and reports are made of. Invariant: a run of the same seed and
//! the same code gives an equal outcome, the trace hash included.

use std::collections::BTreeMap;

use barrage_world::sim;
use serde::Serialize;

/// The verdict and the figures of one run.
#[derive(Clone, PartialEq, Eq, Default, Debug, Serialize)]
pub struct Outcome {
    /// Every rule that was broken, each in words that name what broke it; empty when all is well.
    pub violations: Vec<String>,
    /// What was acknowledged as durable.
    pub commits: u64,
    /// Records (or entries) that were read back and compared with what was sent.
    pub records_compared: u64,
    /// Faults that fired, by kind.
    pub faults: BTreeMap<&'static str, u64>,
    /// How often each `buggify!` point fired; the runner fills it in.
    pub moods: BTreeMap<&'static str, u64>,
    /// Two runs with the same hash took the same way.
    pub trace_hash: u64,
    /// Virtual time that passed.
    pub virtual_ms: u64,
    /// What the seed drew, in a few words: for the report of a failure.
    pub note: String,
}

impl Outcome {
    /// Adds a broken rule.
    pub fn violation(&mut self, what: impl Into<String>) {
        self.violations.push(what.into());
    }

    /// Counts faults that fired.
    pub fn fault(&mut self, kind: &'static str, count: u64) {
        if count > 0 {
            *self.faults.entry(kind).or_default() += count;
        }
    }

    /// Mixes in the trace of the world that just ended on this thread. A scenario of several
    /// worlds calls this after each.
    pub fn world_ended(&mut self) {
        self.trace_hash = self.trace_hash.rotate_left(1) ^ sim::trace_hash();
    }
}
