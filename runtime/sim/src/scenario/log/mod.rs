//! One commit log through several lives: appends, cuts, votes, checkpoints, retention, reads, and
//! the power or the process gone at any moment.
//!
//! ```text
//!   life, end, life, end ... -> a calm life -> looked at from outside -> indexes rebuilt
//!        |                                       -> damage done to copies of it
//!        +-- by power at a disk operation, by power, by kill, by close
//! ```
//!
//! After every start: what was promised is there, in order and byte for byte; what was not is
//! there up to some request, or not at all; the vote, the floor and the checkpoint are those of
//! that moment. At rest: one damaged place is named, or costs nothing.

mod bench;
mod ledger;
mod life;
mod machine;
mod payload;
mod plan;
mod reading;
mod rot;

use std::rc::Rc;

use barrage_world::Instant;
use barrage_world::sim::{self, Disk, Rng, run_on, run_until_crash};

use super::Scenario;
use crate::runner::{FaultGate, Gates, Outcome};
use bench::Bench;
use plan::{End, LifePlan, Plan};

/// The scenario.
pub(super) const SCENARIO: Scenario = Scenario {
    name: "log",
    about: "one commit log through lives that end by power, kill or close, on a bad disk",
    turns: 3,
    run,
    gates: Gates {
        seed_commits_min: 1,
        seed_records_compared_min: 1,
        mean_commits_min: 50,
        mean_records_compared_min: 200,
        faults: &[
            FaultGate { kind: "power-loss-at-operation", once_in_seeds: 4 },
            FaultGate { kind: "power-loss", once_in_seeds: 8 },
            FaultGate { kind: "kill", once_in_seeds: 8 },
            FaultGate { kind: "damage-refused", once_in_seeds: 10 },
            FaultGate { kind: "disk-flush-error", once_in_seeds: 50 },
            FaultGate { kind: "rewritten", once_in_seeds: 4 },
        ],
    },
};

fn run(seed: u64) -> Outcome {
    let mut random = Rng::new(seed);
    let plan = Plan::draw(&mut random);
    tracing::info!("drawn: {plan:?}");
    sim::set_buggify(plan.buggify);
    let bench = Rc::new(Bench::new(plan.clone(), random.fork()));
    let mut disk = Disk::new(plan.disk.clone());
    run_on(seed, &disk, life::prepare());
    for _ in 0..plan.lives {
        let life = plan.life(&mut random);
        // What a killed process has on its way still arrives.
        let at_rest = life.end != End::Kill && !life.may_fail();
        disk = live(&bench, life, disk, &mut random);
        if bench.failed() {
            break;
        }
        if at_rest {
            rot::rebuild_indexes(&bench, random.next_u64(), &disk, &plan.calm_life(0));
        }
    }
    if !bench.failed() {
        disk = live(&bench, plan.calm_life(10), disk, &mut random);
    }
    if !bench.failed() {
        judge_at_rest(&bench, &plan, &disk, &mut random);
    }
    if !bench.failed() && plan.lying_end {
        bench.ledger.borrow_mut().doubt();
        let lying = plan.lying_life(&mut random);
        let disk = live(&bench, lying, disk, &mut random);
        let doubting = LifePlan { lying: true, end: End::Kill, ..plan.calm_life(0) };
        live(&bench, doubting, disk, &mut random);
    }
    let mut outcome = bench.outcome.take();
    outcome.note = format!("{} lives, faults {:?}", plan.lives, plan.faults);
    outcome
}

/// A log that was closed, looked at in every way.
fn judge_at_rest(bench: &Rc<Bench>, plan: &Plan, disk: &Disk, random: &mut Rng) {
    let Some(report) = rot::inspect(bench, random.next_u64(), disk) else { return };
    rot::rebuild_indexes(bench, random.next_u64(), disk, &plan.calm_life(0));
    for _ in 0..plan.damages {
        let seed = random.next_u64();
        rot::damage_and_start(bench, seed, disk, &plan.calm_life(0), &report);
    }
}

/// One life, and what it leaves.
fn live(bench: &Rc<Bench>, life: LifePlan, disk: Disk, random: &mut Rng) -> Disk {
    tracing::info!("life: {life:?}");
    let seed = random.next_u64();
    disk.set_chaos(life.chaos.clone());
    let end = life.end;
    if let End::PowerAtOperation(operations) = end {
        disk.crash_at(disk.operation_count() + operations);
    }
    let counted = disk.counters();
    // An image keeps the size of the disk that it is of.
    disk.set_capacity_bytes(u64::MAX);
    let (living, handle) = (Rc::clone(bench), disk.clone());
    let ended = run_until_crash(seed, &disk, async move {
        let began = Instant::now();
        life::live(living, life, handle).await;
        began.elapsed()
    });
    let mut outcome = bench.outcome.borrow_mut();
    outcome.world_ended();
    outcome.virtual_ms += ended.map_or(0, |lived| lived.as_millis() as u64);
    for ((kind, count), (_, before)) in disk.counters().faults().iter().zip(counted.faults()) {
        outcome.fault(kind, count - before);
    }
    match (ended, end) {
        (None, _) => {
            outcome.fault("power-loss-at-operation", 1);
            Disk::boot(disk.crash(random))
        }
        (Some(_), End::Power | End::PowerAtOperation(_)) => {
            outcome.fault("power-loss", 1);
            Disk::boot(disk.crash(random))
        }
        (Some(_), End::Kill) => {
            outcome.fault("kill", 1);
            disk.clear_faults();
            disk
        }
        (Some(_), End::Close) => {
            disk.clear_faults();
            disk
        }
    }
}
