//! The highest rate that keeps p99 under a bound, in an open loop.
//!
//! Owns: which rate is tried next, and when a rate is kept. Must never: name a rate that a full
//! measurement did not keep.
//! Invariants: every rate that was kept is below every rate that was not.
//!
//! ```text
//! --rate --kept--> twice as much ... --not kept--> between both ... --5 % apart--> a full
//!    |                                                     measurement: kept, or 5 % less
//!    +--not kept--> half as much ...
//! ```

use std::time::Duration;

use anyhow::{Result, bail};

use crate::args::Plan;
use crate::child::Folder;
use crate::cluster::Cluster;
use crate::latency;
use crate::meter::{Meter, Reading};
use crate::progress::Progress;
use crate::run::{Measured, TOPIC};
use crate::session::Session;
use crate::yardstick::{BARE, Yardstick};

/// How long a rate is tried, beside the second that does not count.
const PROBE: Duration = Duration::from_secs(3);
/// One stall of the machine is no reason to call a rate too high.
const TRIES: u32 = 2;
/// A rate of which less comes back is not kept up, whatever the latency of what does.
const KEPT_UP: f64 = 0.98;
/// The rate is known well enough when the lowest one too high is so many times as much.
const CLOSE: f64 = 1.05;
/// Full measurements, each of a rate 5 % below the one before.
const CONFIRMS_MAX: u32 = 10;
/// More than any machine does.
const RATE_MAX: u64 = 1_000_000_000;

/// What is known of the rates.
#[derive(Clone, Copy, Debug)]
struct Search {
    start: u64,
    kept: Option<u64>,
    too_high: Option<u64>,
}

/// A rate that was found.
struct Found {
    rate: u64,
    meter: Meter,
    /// Every rate that was tried, by name.
    probes: Vec<(String, Reading)>,
}

/// Tries rates.
struct Prober<'a, F> {
    plan: &'a Plan,
    whose: &'static str,
    bound: Duration,
    progress: &'a Progress,
    offer: F,
    probes: Vec<(String, Reading)>,
}

/// Searches the bare loop's rate, then a node's.
pub(crate) fn run(plan: &Plan, folder: &Folder) -> Result<Measured> {
    let progress = Progress::new();
    let cluster = Cluster::start_bare(plan, folder)?;
    let bare = search(plan, "bare", &progress, |plan| latency::run_bare(plan, cluster.address()))?;
    let bare = Yardstick::of(BARE, &bare.meter, &cluster.end_bare());
    let cluster = Cluster::start_nodes(plan, folder)?;
    let routes = Session::connect(cluster.address())?.create_topic(TOPIC, plan.partitions)?;
    let found = search(plan, "node", &progress, |plan| latency::run_node(plan, &routes))?;
    let mut measured = Measured::new(&[("produce", &found.meter)], &cluster.stop()?).beside(bare);
    measured.rate = Some(found.rate);
    measured.phases.extend(found.probes);
    let bound = plan.p99_below.unwrap_or_default().as_micros() as f64;
    measured.figures.add("p99_below_us", ("p99, at most", "us"), bound);
    Ok(measured)
}

/// Tries rates until one is known, then measures it in full.
fn search(
    plan: &Plan,
    whose: &'static str,
    progress: &Progress,
    offer: impl FnMut(&Plan) -> Result<Meter>,
) -> Result<Found> {
    let bound = plan.p99_below.unwrap_or_default();
    let mut prober = Prober { plan, whose, bound, progress, offer, probes: Vec::new() };
    let mut search = Search { start: plan.rate, kept: None, too_high: None };
    while let Some(rate) = search.next() {
        let kept = prober.keeps_in_some_try(rate)?;
        search.handle(rate, kept);
    }
    let Some(kept) = search.kept else {
        bail!("{whose}: not even one record a second keeps p99 below {bound:?}");
    };
    let mut rate = kept;
    for _ in 0..CONFIRMS_MAX {
        let meter = prober.offer(rate, plan.duration)?;
        if keeps(&meter.read(), rate, bound) {
            return Ok(Found { rate, meter, probes: prober.probes });
        }
        prober.note(rate, meter.read());
        rate = below(rate);
    }
    bail!(
        "{whose}: in short probes {kept} records/s keep p99 below {bound:?}, in {:?} not even \
         {rate}: something stalls the machine now and then; a longer --duration says how often",
        plan.duration,
    )
}

impl<F: FnMut(&Plan) -> Result<Meter>> Prober<'_, F> {
    /// Whether the rate is kept for a short while.
    fn keeps_in_some_try(&mut self, rate: u64) -> Result<bool> {
        for _ in 0..TRIES {
            let reading = self.offer(rate, PROBE.min(self.plan.duration))?.read();
            self.note(rate, reading);
            if keeps(&reading, rate, self.bound) {
                return Ok(true);
            }
        }
        Ok(false)
    }

    fn offer(&mut self, rate: u64, duration: Duration) -> Result<Meter> {
        self.progress.say(format!("{}: {rate} records/s", self.whose));
        (self.offer)(&Plan { rate, duration, bare_duration: duration, ..self.plan.clone() })
    }

    fn note(&mut self, rate: u64, reading: Reading) {
        let number = self.probes.len() + 1;
        self.probes.push((format!("probe {number:02}: {rate}/s"), reading));
    }
}

/// Whether so much came back, and in time.
fn keeps(reading: &Reading, rate: u64, bound: Duration) -> bool {
    let in_time = u128::from(reading.p99_us) <= bound.as_micros();
    in_time && reading.records_per_s >= rate as f64 * KEPT_UP
}

/// A rate that is lower by as much as rates need not be told apart.
fn below(rate: u64) -> u64 {
    ((rate as f64 / CLOSE) as u64).max(1)
}

impl Search {
    /// The rate to try; none when it is known well enough.
    fn next(&self) -> Option<u64> {
        match (self.kept, self.too_high) {
            (None, None) => Some(self.start),
            (Some(kept), None) => (kept < RATE_MAX).then(|| kept.saturating_mul(2).min(RATE_MAX)),
            (None, Some(too_high)) => (too_high > 1).then_some(too_high / 2),
            (Some(kept), Some(too_high)) => {
                let apart = too_high as f64 > kept as f64 * CLOSE && too_high - kept > 1;
                apart.then_some(kept + (too_high - kept) / 2)
            }
        }
    }

    /// A rate was tried.
    fn handle(&mut self, rate: u64, kept: bool) {
        assert!(self.kept.is_none_or(|kept| kept < rate), "a rate is tried above all kept ones");
        assert!(self.too_high.is_none_or(|high| rate < high), "and below all that are too high");
        let known = if kept { &mut self.kept } else { &mut self.too_high };
        *known = Some(rate);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::meter::Window;

    /// Searches a server that keeps all rates up to `limit`; what was found in how many steps.
    fn found(start: u64, limit: u64) -> (Option<u64>, u32) {
        let mut search = Search { start, kept: None, too_high: None };
        let mut steps = 0;
        while let Some(rate) = search.next() {
            search.handle(rate, rate <= limit);
            steps += 1;
        }
        (search.kept, steps)
    }

    #[test]
    fn the_rate_is_found_to_a_twentieth_from_above_and_below() {
        for limit in [1, 2, 37, 9_999, 10_000, 123_456, 7_654_321] {
            for start in [1, 10_000, 1_000_000] {
                let (rate, steps) = found(start, limit);
                let rate = rate.unwrap();
                assert!(rate <= limit && limit as f64 <= rate as f64 * CLOSE, "{rate} of {limit}");
                assert!(steps <= 32, "{steps} steps from {start} to {limit}");
            }
        }
        assert_eq!(found(10_000, 0).0, None);
        assert_eq!(found(1, u64::MAX).0, Some(RATE_MAX));
    }

    /// A second in which so many records took so long.
    fn counted(rate: u64, micros: u64) -> Meter {
        let window = Window::after(Duration::ZERO, Duration::from_secs(1));
        let mut meter = Meter::new(window);
        let took = Duration::from_micros(micros);
        meter.ended(window.start, window.start + took, rate, rate);
        meter
    }

    #[test]
    fn what_is_found_was_kept_in_full() {
        #[derive(clap::Parser)]
        struct Bench {
            #[command(flatten)]
            args: crate::args::BenchArgs,
        }
        let words = ["bench", "latency", "--p99-below", "5ms", "--duration", "7"];
        let plan = Plan::new(&<Bench as clap::Parser>::parse_from(words).args).unwrap();
        // Short probes keep a fifth more than a long measurement, and one in ten stalls.
        let mut count = 0;
        let offer = |tried: &Plan| {
            count += 1;
            let long = tried.duration == plan.duration;
            let kept = tried.rate <= if long { 50_000 } else { 60_000 } && count % 10 != 0;
            let p99_us = if kept { 4_000 } else { 6_000 };
            Ok(counted(tried.rate, p99_us))
        };
        let found = search(&plan, "node", &Progress::new(), offer).unwrap();
        assert!((45_000..=50_000).contains(&found.rate), "{}", found.rate);
        let p99_us = found.meter.read().p99_us;
        assert!((3_900..=4_100).contains(&p99_us) && found.probes.len() > 5, "{p99_us}");
        let never = |tried: &Plan| Ok(counted(tried.rate, 6_000));
        let refused = search(&plan, "node", &Progress::new(), never).err().unwrap().to_string();
        assert!(refused.contains("not even one record"), "{refused}");
    }

    #[test]
    fn a_rate_is_kept_when_all_of_it_comes_back_in_time() {
        let bound = Duration::from_millis(5);
        let reading =
            |records_per_s, p99_us| Reading { records_per_s, p99_us, ..Reading::default() };
        assert!(keeps(&reading(1_000.0, 5_000), 1_000, bound));
        assert!(keeps(&reading(985.0, 10), 1_000, bound));
        assert!(!keeps(&reading(970.0, 10), 1_000, bound));
        assert!(!keeps(&reading(1_000.0, 5_001), 1_000, bound));
    }
}
