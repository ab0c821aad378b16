//! One measurement from start to report: the yardstick first, then the scenario, in one folder.
//!
//! Owns: the order of things. Must never: run the yardstick beside what is measured.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context as _, Result};

use crate::args::{Plan, Scenario};
use crate::child::Folder;
use crate::client::task::Totals;
use crate::cluster::Cluster;
use crate::meter::{Meter, Reading, Window};
use crate::report::{Report, Settings, durability};
use crate::sampler::Samples;
use crate::session::Session;
use crate::timeline::{Timeline, curve};
use crate::workload::{self, share};
use crate::{consume, delay, latency, machine, produce, queue};

/// What a scenario measured.
#[derive(Default)]
pub(crate) struct Measured {
    pub reading: Reading,
    /// Other figures on the way, by name.
    pub phases: BTreeMap<&'static str, Reading>,
    pub timeline: Timeline,
    /// Batches, if not all hold as many records.
    pub entries_per_s: Option<f64>,
    /// What was done from start to end, if clients told.
    pub totals: Option<Totals>,
}

impl Measured {
    /// What the first meter read, over time beside the others, and what it took of the machine.
    pub(crate) fn new(meters: &[(&'static str, &Meter)], samples: &Samples) -> Self {
        let reading = meters.first().map(|(_, meter)| meter.read()).unwrap_or_default();
        Self { reading, timeline: Timeline::new(meters, samples), ..Self::default() }
    }

    /// Other figures of the same run.
    pub(crate) fn with<const N: usize>(mut self, phases: [(&'static str, Reading); N]) -> Self {
        self.phases.extend(phases);
        self
    }
}

/// Connections of the yardstick: more make it no faster, and each is a thread.
const BARE_PRODUCERS_MAX: usize = 64;
/// The topic that is loaded.
pub(crate) const TOPIC: &str = "bench";

/// Measures what the plan says.
pub(crate) fn run(plan: &Plan) -> Result<Report> {
    let began = machine::now();
    let folder = Folder::make(&plan.data)?;
    let yardstick = match plan.server {
        // What others' machines allow is not known here.
        Some(_) => None,
        None => Some(bare(plan, &folder).context("the bare loop failed")?),
    };
    let mut measured = match plan.scenario {
        Scenario::Run => workload::run::run(plan, &folder)?,
        Scenario::Produce => produce(plan, &folder)?,
        Scenario::ConsumeTail => consume::tail(plan, &folder)?,
        Scenario::ConsumeCold => consume::cold(plan, &folder)?,
        Scenario::Queue => queue::run(plan, &folder)?,
        Scenario::Backlog => queue::backlog(plan, &folder)?,
        Scenario::OpenLeases => queue::open_leases(plan, &folder)?,
        Scenario::OpenDelays => delay::open(plan, &folder)?,
        Scenario::Delay => delay::run(plan, &folder)?,
        Scenario::Latency => latency(plan, &folder)?,
        // The yardstick alone; what is no scenario is done before (`lib`).
        Scenario::Bare | Scenario::BareServer | Scenario::Client | Scenario::Merge => {
            let meters = yardstick.as_ref().map(|meter| ("bare", meter));
            Measured::new(meters.as_slice(), &Samples::default())
        }
    };
    let bare = yardstick.as_ref().map(Meter::read);
    if let (Some(yardstick), false) = (&yardstick, plan.scenario == Scenario::Bare) {
        measured.phases.extend(bare.map(|bare| ("bare", bare)));
        measured.timeline.bare = curve(&yardstick.latencies());
    }
    report(plan, &folder, began, measured, bare)
}

fn report(
    plan: &Plan,
    folder: &Folder,
    began: String,
    measured: Measured,
    bare: Option<Reading>,
) -> Result<Report> {
    let batches = produce::batches(plan, plan.batch)?;
    let in_flight = match &plan.workload {
        Some(workload) => share::in_flight(plan, workload, batches.size()),
        None => produce::in_flight(plan, batches.size()),
    };
    let mut settings = Settings::new(plan, batches.size(), batches.records(), in_flight);
    settings.rate = is_open(plan).then_some(plan.rate);
    let by_batch = measured.reading.records_per_s / f64::from(batches.records().max(1));
    let name = clap::ValueEnum::to_possible_value(&plan.scenario);
    Ok(Report {
        scenario: name.map_or_else(String::new, |name| name.get_name().to_owned()),
        reading: measured.reading,
        entries_per_s: measured.entries_per_s.unwrap_or(by_batch),
        bare_records_per_s: bare.map(|bare| bare.records_per_s),
        bare_mib_per_s: bare.map(|bare| bare.mib_per_s),
        bare_p50_us: bare.map(|bare| bare.p50_us),
        bare_p99_us: bare.map(|bare| bare.p99_us),
        bare_p999_us: bare.map(|bare| bare.p999_us),
        ratio_to_bare: bare.map(|bare| ratio(measured.reading.records_per_s, bare.records_per_s)),
        durability: durability(plan),
        began,
        command: machine::command(),
        commit: machine::commit(),
        machine: machine::Machine::read(folder.path()),
        settings,
        totals: measured.totals,
        phases: measured.phases,
        series: measured.timeline,
    })
}

/// Whether batches are due at fixed times, whatever comes back.
const fn is_open(plan: &Plan) -> bool {
    match plan.scenario {
        Scenario::Latency | Scenario::Backlog | Scenario::OpenLeases | Scenario::OpenDelays => true,
        Scenario::Run => plan.rate > 0,
        _ => false,
    }
}

/// The yardstick: the same load, without a broker.
fn bare(plan: &Plan, folder: &Folder) -> Result<Meter> {
    let cluster = Cluster::start_bare(plan, folder)?;
    let plan = &Plan { producers: plan.producers.min(BARE_PRODUCERS_MAX), ..plan.clone() };
    let meter = if is_open(plan) {
        latency::run_bare(plan, cluster.address())?
    } else {
        let lanes = produce::bare_lanes(plan, cluster.address())?;
        produce::run(lanes, Window::after(plan.warm_up, plan.bare_duration))?
    };
    drop(cluster);
    Ok(meter)
}

fn produce(plan: &Plan, folder: &Folder) -> Result<Measured> {
    let cluster = Cluster::start_nodes(plan, folder)?;
    let routes = Session::connect(cluster.address())?.create_topic(TOPIC, plan.partitions)?;
    let load = |build: bool, duration: Duration| -> Result<Meter> {
        let lanes = produce::node_lanes(plan, &routes, build)?;
        produce::run(lanes, Window::after(plan.warm_up, duration))
    };
    let meter = load(false, plan.duration)?;
    let built = if plan.build { Some(load(true, plan.duration)?.read()) } else { None };
    let mut measured = Measured::new(&[("produce", &meter)], &cluster.stop()?);
    if let Some(built) = built {
        measured.phases.insert("produce, batches built", built);
    }
    Ok(measured)
}

fn latency(plan: &Plan, folder: &Folder) -> Result<Measured> {
    let cluster = Cluster::start_nodes(plan, folder)?;
    let routes = Session::connect(cluster.address())?.create_topic(TOPIC, plan.partitions)?;
    let meter = latency::run_node(plan, &routes)?;
    Ok(Measured::new(&[("produce", &meter)], &cluster.stop()?))
}

fn ratio(records_per_s: f64, bare_records_per_s: f64) -> f64 {
    if bare_records_per_s > 0.0 { records_per_s / bare_records_per_s } else { 0.0 }
}
