//! Many seeds on several threads.
//!
//! Owns the order of the runs and the threads that make them. A simulated world belongs to its
//! thread, so a thread runs whole seeds, one after the other, and nothing is shared but the
//! number of the next run.
//!
//! Invariants: what a run comes to does not depend on its thread nor on the runs before it, which
//! the runs made twice show; a run that takes for ever ends the sweep with its name.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use super::kept::Kept;
use super::once::{Run, run_once};
use super::progress::Progress;
use super::totals::{Failure, Totals};
use crate::scenario::Scenario;

/// What to sweep.
#[derive(Clone, Debug)]
pub(crate) struct Sweep {
    /// The scenarios, in turn.
    pub(crate) scenarios: Vec<&'static Scenario>,
    /// Seeds that failed before, run first.
    pub(crate) kept: Vec<Kept>,
    /// The first seed.
    pub(crate) from: u64,
    /// How many seeds.
    pub(crate) seeds: u64,
    /// How many of them are run twice.
    pub(crate) twice: u64,
    /// Threads.
    pub(crate) jobs: usize,
    /// A bug that is switched on in every run.
    pub(crate) planted: Option<String>,
}

/// One run to make.
#[derive(Clone, Copy, Debug)]
struct Job {
    scenario: &'static Scenario,
    seed: u64,
    role: Role,
}

/// Which of its runs a seed's run is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Role {
    /// The only one.
    Only,
    /// The first of two.
    First,
    /// The second, to compare.
    Second,
}

/// A run takes seconds; one that takes this long will not end.
const RUN_TIME_MAX: Duration = Duration::from_secs(600);
/// How often the progress is shown and the time of the runs looked at.
const LOOK_EVERY: Duration = Duration::from_millis(250);
/// Runs poll deep futures, deeper in a build that is not optimised.
pub(crate) const STACK_BYTES: usize = 64 << 20;

impl Sweep {
    /// Runs everything.
    pub(crate) fn run(&self) -> anyhow::Result<Totals> {
        let jobs = Arc::new(self.jobs());
        let next = Arc::new(AtomicUsize::new(0));
        let working = Arc::new(Working::new(self.jobs));
        let (sender, receiver) = mpsc::channel();
        for worker in 0..self.jobs {
            let (jobs, next) = (Arc::clone(&jobs), Arc::clone(&next));
            let (working, sender) = (Arc::clone(&working), sender.clone());
            let planted = self.planted.clone();
            let work = move || {
                while let Some(job) = jobs.get(next.fetch_add(1, Ordering::Relaxed)) {
                    working.begins(worker, *job);
                    let run = run_once(job.scenario, job.seed, planted.as_deref());
                    working.ended(worker);
                    if sender.send((job.role, run)).is_err() {
                        return;
                    }
                }
            };
            thread::Builder::new().stack_size(STACK_BYTES).spawn(work)?;
        }
        drop(sender);
        Ok(self.gather(&receiver, &working, jobs.len()))
    }

    /// The kept seeds, then the seeds with the scenarios in turn, the first of them once more.
    fn jobs(&self) -> Vec<Job> {
        let twice = usize::try_from(self.twice).unwrap_or(usize::MAX);
        let seeds = (0..self.seeds).map(|number| self.from.wrapping_add(number));
        let round = self.round();
        let drawn = seeds.zip(round.iter().copied().cycle());
        let runs = self.kept.iter().map(|kept| (kept.seed, kept.scenario)).chain(drawn);
        let mut jobs: Vec<Job> = runs
            .enumerate()
            .map(|(number, (seed, scenario))| {
                let role = if number < twice { Role::First } else { Role::Only };
                Job { scenario, seed, role }
            })
            .collect();
        // The second run of a seed comes after other seeds, on whichever thread is free.
        let first: Vec<Job> = jobs.iter().take(twice).copied().collect();
        jobs.extend(first.into_iter().map(|job| Job { role: Role::Second, ..job }));
        jobs
    }

    /// The scenarios in turn, each as often as it has turns.
    fn round(&self) -> Vec<&'static Scenario> {
        let turns = self.scenarios.iter().map(|scenario| scenario.turns).max().unwrap_or(0);
        let has = |turn: usize| move |scenario: &&&'static Scenario| scenario.turns > turn;
        (0..turns).flat_map(|turn| self.scenarios.iter().filter(has(turn)).copied()).collect()
    }

    fn gather(&self, receiver: &Receiver<(Role, Run)>, working: &Working, count: usize) -> Totals {
        let mut totals = Totals::new(self);
        let mut progress = Progress::new(count as u64);
        loop {
            match receiver.recv_timeout(LOOK_EVERY) {
                Ok((role, run)) => {
                    let known = totals.failures.len();
                    totals.add(role, run);
                    for Failure { scenario, seed, violations, .. } in
                        totals.failures.iter().skip(known)
                    {
                        let first = violations.first().map_or("", String::as_str);
                        progress.failed(&format!("{scenario} {seed}: {first}"));
                    }
                }
                Err(RecvTimeoutError::Disconnected) => break,
                Err(RecvTimeoutError::Timeout) => {
                    if let Some(job) = working.stuck() {
                        totals.stuck(job.scenario, job.seed, RUN_TIME_MAX);
                        break;
                    }
                }
            }
            progress.show(totals.runs, totals.violations);
        }
        progress.end();
        totals.judge_gates();
        totals
    }
}

/// What every thread is at, and since when.
struct Working {
    now: Mutex<Vec<Option<(Job, Instant)>>>,
}

impl Working {
    fn new(workers: usize) -> Self {
        Self { now: Mutex::new(vec![None; workers]) }
    }

    fn begins(&self, worker: usize, job: Job) {
        self.set(worker, Some((job, Instant::now())));
    }

    fn ended(&self, worker: usize) {
        self.set(worker, None);
    }

    fn set(&self, worker: usize, state: Option<(Job, Instant)>) {
        let mut now = self.now.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(slot) = now.get_mut(worker) {
            *slot = state;
        }
    }

    fn stuck(&self) -> Option<Job> {
        let now = self.now.lock().unwrap_or_else(PoisonError::into_inner);
        let stuck = now.iter().flatten().find(|(_, since)| since.elapsed() > RUN_TIME_MAX);
        stuck.map(|(job, _)| *job)
    }
}
