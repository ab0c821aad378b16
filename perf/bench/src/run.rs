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
use crate::cost::Cost;
use crate::figures::Figures;
use crate::meter::{Meter, Reading, Window};
use crate::report::{Report, Settings, durability};
use crate::sampler::Samples;
use crate::session::Session;
use crate::timeline::Timeline;
use crate::workload;
use crate::yardstick::{self, Yardstick};
use crate::{
    connections, consume, delay, latency, machine, partitions, pipe, produce, queue, search,
};

/// What a scenario measured.
#[derive(Default)]
pub(crate) struct Measured {
    pub reading: Reading,
    /// Other figures on the way, by name.
    pub phases: BTreeMap<String, Reading>,
    /// What is neither a rate nor a latency.
    pub figures: Figures,
    pub timeline: Timeline,
    /// What the servers took for it.
    pub cost: Option<Cost>,
    /// What it is quoted beside; nothing of servers that run elsewhere.
    pub yardstick: Option<Yardstick>,
    /// Records offered per second, if not the plan's.
    pub rate: Option<u64>,
    /// Batches, if not all hold as many records.
    pub entries_per_s: Option<f64>,
    /// What was done from start to end, if clients told.
    pub totals: Option<Totals>,
}

impl Measured {
    /// What the first meter read, over time beside the others, and what it took of the machine.
    pub(crate) fn new(meters: &[(&'static str, &Meter)], samples: &Samples) -> Self {
        let reading = meters.first().map(|(_, meter)| meter.read()).unwrap_or_default();
        let timeline = Timeline::new(meters, samples);
        let cost = meters.first().and_then(|(_, meter)| Cost::of(samples, meter.window()));
        Self { reading, timeline, cost, ..Self::default() }
    }

    /// Quoted beside this.
    pub(crate) fn beside(mut self, yardstick: Yardstick) -> Self {
        self.yardstick = Some(yardstick);
        self
    }

    /// Other figures of the same run.
    pub(crate) fn with<const N: usize>(mut self, phases: [(&'static str, Reading); N]) -> Self {
        self.phases.extend(phases.map(|(name, reading)| (name.to_owned(), reading)));
        self
    }
}

/// The topic that is loaded.
pub(crate) const TOPIC: &str = "bench";

/// Measures what the plan says.
pub(crate) fn run(plan: &Plan) -> Result<Report> {
    let began = machine::now();
    let folder = Folder::make(&plan.data)?;
    let measured = match plan.scenario {
        Scenario::ConsumeTail => consume::tail(plan, &folder)?,
        Scenario::ConsumeCold => consume::cold(plan, &folder)?,
        Scenario::Latency if plan.p99_below.is_some() => search::run(plan, &folder)?,
        // What others' machines allow is not known here.
        Scenario::Run if plan.server.is_some() => workload::run::run(plan, &folder)?,
        _ => beside_bare(plan, &folder)?,
    };
    report(plan, &folder, began, measured)
}

/// The scenarios that stand beside the bare loop under the same load.
fn beside_bare(plan: &Plan, folder: &Folder) -> Result<Measured> {
    let (meter, samples) =
        yardstick::bare(plan, folder, is_open(plan)).context("the bare loop failed")?;
    let bare = Yardstick::of(yardstick::BARE, &meter, &samples);
    let measured = match plan.scenario {
        Scenario::Run => workload::run::run(plan, folder)?,
        Scenario::Produce => produce(plan, folder)?,
        Scenario::Pipe => pipe::run(plan, folder, &bare.reading)?,
        Scenario::Queue => queue::run(plan, folder)?,
        Scenario::Backlog => queue::backlog(plan, folder)?,
        Scenario::OpenLeases => queue::open_leases(plan, folder)?,
        Scenario::OpenDelays => delay::open(plan, folder)?,
        Scenario::Delay => delay::run(plan, folder)?,
        Scenario::Latency => latency(plan, folder)?,
        Scenario::Connections => connections::run(plan, folder)?,
        Scenario::Partitions => partitions::run(plan, folder)?,
        _ => Measured::new(&[("bare", &meter)], &samples),
    };
    Ok(measured.beside(bare))
}

fn report(plan: &Plan, folder: &Folder, began: String, mut measured: Measured) -> Result<Report> {
    let beside = measured.yardstick.take();
    let bare = beside.as_ref().map(|yardstick| yardstick.reading);
    let yardstick = beside.as_ref().map(|yardstick| yardstick.name);
    add_ratios(plan.scenario, &mut measured, bare);
    add_cost(&mut measured, beside.as_ref());
    if let (Some(yardstick), false) = (beside, plan.scenario == Scenario::Bare) {
        measured.phases.insert(yardstick.name.to_owned(), yardstick.reading);
        measured.timeline.bare = yardstick.curve;
    }
    let batches = produce::batches(plan, plan.batch)?;
    let in_flight = produce::in_flight(plan, batches.size());
    let mut settings = Settings::new(plan, batches.size(), batches.records(), in_flight);
    settings.rate = is_open(plan).then_some(measured.rate.unwrap_or(plan.rate));
    let by_batch = measured.reading.records_per_s / f64::from(batches.records().max(1));
    let name = clap::ValueEnum::to_possible_value(&plan.scenario);
    Ok(Report {
        scenario: name.map_or_else(String::new, |name| name.get_name().to_owned()),
        reading: measured.reading,
        entries_per_s: measured.entries_per_s.unwrap_or(by_batch),
        yardstick,
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
        figures: measured.figures,
        phases: measured.phases,
        series: measured.timeline,
    })
}

/// Latencies beside the yardstick's, where both are those of a batch that is produced.
fn add_ratios(scenario: Scenario, measured: &mut Measured, bare: Option<Reading>) {
    let produces = matches!(
        scenario,
        Scenario::Bare
            | Scenario::Produce
            | Scenario::Latency
            | Scenario::Connections
            | Scenario::Partitions
            | Scenario::Run
    );
    let (Some(bare), ours) = (bare, measured.reading) else { return };
    // At rates of their own, as a search finds, latencies say nothing about one another.
    if produces && measured.rate.is_none() {
        let p50 = ratio(ours.p50_us as f64, bare.p50_us as f64);
        let p99 = ratio(ours.p99_us as f64, bare.p99_us as f64);
        measured.figures.add("p50_ratio_to_bare", ("p50, ratio to bare", ""), p50);
        measured.figures.add("p99_ratio_to_bare", ("p99, ratio to bare", ""), p99);
    }
}

/// What the servers took for it, and the yardstick's for the same.
fn add_cost(measured: &mut Measured, yardstick: Option<&Yardstick>) {
    if let Some(cost) = measured.cost {
        cost.tell(&measured.reading, &mut measured.figures);
    }
    let bare = yardstick.and_then(|of| Some((of.name, of.cost?.cpu_s_per_gib(&of.reading)?)));
    if let Some((name, bare)) = bare {
        let label = match name {
            yardstick::LOOPBACK => "loopback, CPU per GiB",
            _ => "bare, CPU per GiB",
        };
        measured.figures.add("bare_server_cpu_s_per_gib", (label, "s"), bare);
    }
}

/// Whether batches are due at fixed times, whatever comes back.
const fn is_open(plan: &Plan) -> bool {
    match plan.scenario {
        Scenario::Latency
        | Scenario::Backlog
        | Scenario::OpenLeases
        | Scenario::OpenDelays
        | Scenario::Connections => true,
        Scenario::Run => plan.rate > 0,
        _ => false,
    }
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
        measured.phases.insert("produce, batches built".to_owned(), built);
    }
    Ok(measured)
}

fn latency(plan: &Plan, folder: &Folder) -> Result<Measured> {
    let cluster = Cluster::start_nodes(plan, folder)?;
    let routes = Session::connect(cluster.address())?.create_topic(TOPIC, plan.partitions)?;
    let meter = latency::run_node(plan, &routes)?;
    Ok(Measured::new(&[("produce", &meter)], &cluster.stop()?))
}

/// A quotient; 0 of nothing.
pub(crate) fn ratio(figure: f64, yardstick: f64) -> f64 {
    if yardstick > 0.0 { figure / yardstick } else { 0.0 }
}
