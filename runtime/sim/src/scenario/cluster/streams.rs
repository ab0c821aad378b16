//! The cluster with a stream group and its members.
//!
//! Owns: when members start, when the group has to be at rest, and that somebody reads everything
//! at the end. Must never: tell members what to read.

use std::time::Duration;

use barrage_world as world;
use barrage_world::sim::Rng;

use super::plan::Plan;
use super::{FINISH_WITHIN, Run, run_as};
use crate::runner::{FaultGate, Gates, Outcome};
use crate::scenario::Scenario;
use crate::workload::{
    Company, CompanyPlan, Member, MemberPlan, StreamCounts, come_to_rest, keep_resetting,
    milliseconds,
};

/// The scenario.
pub(in crate::scenario) const SCENARIO: Scenario = Scenario {
    name: "streams",
    about: "a cluster with a stream group: members that come, go, err; shares, offsets, resets",
    turns: 1,
    run,
    gates: Gates {
        mean_commits_min: 100,
        mean_records_compared_min: 1_000,
        faults: &[
            FaultGate { kind: "lead-changed", once_in_seeds: 2 },
            FaultGate { kind: "shared-out-in-trouble", once_in_seeds: 2 },
            FaultGate { kind: "handed-over", once_in_seeds: 2 },
            FaultGate { kind: "partition-given-up", once_in_seeds: 4 },
            FaultGate { kind: "member-expired", once_in_seeds: 8 },
            FaultGate { kind: "member-left", once_in_seeds: 4 },
            FaultGate { kind: "stale-commit-refused", once_in_seeds: 8 },
            FaultGate { kind: "foreign-commit-refused", once_in_seeds: 40 },
            FaultGate { kind: "late-commit-refused", once_in_seeds: 20 },
            FaultGate { kind: "lower-commit-refused", once_in_seeds: 8 },
            FaultGate { kind: "reset", once_in_seeds: 8 },
            FaultGate { kind: "reset-refused", once_in_seeds: 8 },
        ],
        ..Gates::OPEN
    },
};

/// How long the group may take to come to rest: sessions of those that are gone, and what the slow
/// are given.
const CALM_WITHIN: Duration = milliseconds(90_000);

fn run(seed: u64) -> Outcome {
    run_as(seed, Plan::draw_streams)
}

/// A stream group of all topics, and its members.
#[derive(Clone, Debug)]
pub(super) struct StreamsPlan {
    pub(super) company: CompanyPlan,
    pub(super) members: Vec<MemberPlan>,
}

impl StreamsPlan {
    pub(super) fn draw(random: &mut Rng) -> Self {
        let members = (0..random.between(1, 5)).map(|_| MemberPlan::draw(random)).collect();
        Self { company: CompanyPlan::draw(random), members }
    }

    /// How many clients it takes: members, whoever resets, looks, and reads at the end.
    pub(super) fn clients(&self) -> usize {
        self.members.len() + 3
    }
}

impl Run {
    pub(super) fn start_members(&self, company: Option<&Company>) -> Vec<world::JoinHandle<()>> {
        let (Some(company), Some(streams)) = (company, &self.plan.streams) else {
            return Vec::new();
        };
        let start = |plan: &MemberPlan| {
            let (plan, company) = (plan.clone(), company.clone());
            self.on_client(|client| Member::new(client, company, plan).run())
        };
        let mut clients: Vec<_> = streams.members.iter().map(start).collect();
        let company = company.clone();
        clients.push(self.on_client(|client| keep_resetting(client, company)));
        clients
    }

    /// Everything is assigned, and stays as it is while nobody comes or goes.
    pub(super) async fn come_to_rest(&self, company: &Company) -> Result<(), String> {
        let company = company.clone();
        let rested = self.on_client(|client| come_to_rest(client, company, CALM_WITHIN));
        rested.await.unwrap_or_else(|| Err("who looks at the group ended".to_owned()))
    }

    /// One more member reads what the group has left.
    pub(super) async fn read_out(&self, company: Company) -> Result<u64, String> {
        let read = self.on_client(|client| Member::finish(client, company, FINISH_WITHIN));
        read.await.unwrap_or_else(|| Err("the last member ended".to_owned()))
    }
}

/// What the gates of the scenario ask for.
pub(super) fn count(outcome: &mut Outcome, counts: &StreamCounts) {
    for (kind, count) in [
        ("partition-given-up", counts.given_up),
        ("shared-out", counts.generations),
        ("shared-out-in-trouble", counts.generations_in_trouble),
        ("member-expired", counts.expired),
        ("member-left", counts.left),
        ("offset-stored", counts.stored),
        ("stale-commit-refused", counts.stale_refused),
        ("foreign-commit-refused", counts.foreign_refused),
        ("late-commit-refused", counts.late_refused),
        ("lower-commit-refused", counts.lower_refused),
        ("coordinator-silent", counts.unknown),
        ("reset", counts.resets),
        ("reset-refused", counts.resets_refused),
    ] {
        outcome.fault(kind, count);
    }
}
