//! The cluster with a queue group, and records that are delayed, cancelled and moved.
//!
//! Owns: who delays and who changes, and that in the end nothing waits. Must never: let anything
//! in.

use barrage_world as world;
use barrage_world::sim::Rng;

use super::plan::Plan;
use super::{FINISH_WITHIN, Run, run_as};
use crate::runner::{FaultGate, Gates, Outcome};
use crate::scenario::Scenario;
use crate::workload::{Counts, Topic, clear_delays, keep_changing, pick};

/// The scenario.
pub(in crate::scenario) const SCENARIO: Scenario = Scenario {
    name: "delays",
    about: "a cluster with a queue group and delayed records that are cancelled and moved",
    turns: 1,
    run,
    gates: Gates {
        mean_commits_min: 100,
        mean_records_compared_min: 1_000,
        faults: &[
            FaultGate { kind: "lead-changed", once_in_seeds: 2 },
            FaultGate { kind: "delayed", once_in_seeds: 2 },
            FaultGate { kind: "delay-kept", once_in_seeds: 2 },
            FaultGate { kind: "cancelled", once_in_seeds: 2 },
            FaultGate { kind: "moved", once_in_seeds: 2 },
            FaultGate { kind: "change-refused", once_in_seeds: 4 },
        ],
        ..Gates::OPEN
    },
};

fn run(seed: u64) -> Outcome {
    run_as(seed, Plan::draw_delays)
}

/// Who delays, and who changes what waits.
#[derive(Clone, Debug)]
pub(super) struct DelaysPlan {
    /// One batch in so many is delayed.
    pub(super) one_in: u64,
    pub(super) changers: usize,
}

impl DelaysPlan {
    pub(super) fn draw(random: &mut Rng) -> Self {
        Self { one_in: *pick(random, &[1, 2, 6]), changers: random.between(1, 3) as usize }
    }
}

impl Run {
    pub(super) fn start_changers(&self) -> Vec<world::JoinHandle<()>> {
        let changers = self.plan.delays.as_ref().map_or(0, |delays| delays.changers);
        (0..changers).map(|_| self.on_client(keep_changing)).collect()
    }

    /// Everything that waits comes, or is cancelled.
    pub(super) async fn clear_delays(&self, topics: &[Topic]) -> Result<(), String> {
        if self.plan.delays.is_none() {
            return Ok(());
        }
        let topics = topics.to_vec();
        let cleared = self.on_client(|client| clear_delays(client, topics, FINISH_WITHIN));
        cleared.await.unwrap_or_else(|| Err("whoever looks at what waits ended".to_owned()))
    }
}

/// What the gates of the scenario ask for.
pub(super) fn count(outcome: &mut Outcome, counts: &Counts, compared: u64) {
    outcome.fault("delayed", counts.delayed);
    outcome.fault("delay-kept", compared);
    outcome.fault("cancelled", counts.cancelled);
    outcome.fault("moved", counts.moved);
    outcome.fault("change-refused", counts.change_refused);
}
