//! What a run comes to, for people and for programs.
//!
//! Owns: the report and its two forms. Must never: print a figure without what it was measured on
//! and the bare figure of the same run.

use std::collections::BTreeMap;

use comfy_table::Table;
use comfy_table::presets::UTF8_FULL_CONDENSED;
use serde::Serialize;

use crate::args::{BatchShape, Plan};
use crate::figures::{Figures, thousands};
use crate::machine::Machine;
use crate::meter::Reading;
use crate::timeline::Timeline;

/// The report; its JSON keys are part of the command's interface.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Report {
    pub scenario: String,
    #[serde(flatten)]
    pub reading: Reading,
    /// Batches, each an entry of its own.
    pub entries_per_s: f64,
    /// What the `bare` figures are of: the bare loop, or for reading loopback or the disk.
    pub yardstick: &'static str,
    pub bare_records_per_s: f64,
    pub bare_mib_per_s: f64,
    pub bare_p50_us: u64,
    pub bare_p99_us: u64,
    pub bare_p999_us: u64,
    pub ratio_to_bare: f64,
    /// What an answer means.
    pub durability: &'static str,
    pub began: String,
    pub command: String,
    pub commit: String,
    pub machine: Machine,
    pub settings: Settings,
    /// What is neither a rate nor a latency; each a key beside the others.
    #[serde(flatten)]
    pub figures: Figures,
    /// Other figures of the same run, by name.
    pub phases: BTreeMap<String, Reading>,
    /// The same over time, and what it took of the machine.
    pub series: Timeline,
}

/// How it was measured.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Settings {
    pub record_size: usize,
    pub batch_bytes: usize,
    pub batch_records: u32,
    pub producers: usize,
    pub in_flight: usize,
    pub partitions: u32,
    pub warm_up_s: f64,
    pub duration_s: f64,
    /// Servers, each with a copy of everything.
    pub nodes: usize,
    /// What a producer asks for.
    pub acks: &'static str,
    /// The first server's; those of each are in `node_cores`.
    pub server_cores: String,
    pub node_cores: Vec<String>,
    pub client_cores: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rate: Option<u64>,
}

/// The only kind of acks that is measured (`dialect`); of one node it is that node.
const ACKS: &str = "quorum";

/// What every answer waits for.
pub(crate) const fn durability(plan: &Plan) -> &'static str {
    match plan.node_cores.len() {
        1 => "fdatasync before ack, 1 copy",
        _ => "fdatasync before ack, 2 of 3 copies",
    }
}

impl Settings {
    /// Of a plan, with the batches it led to.
    pub(crate) fn new(
        plan: &Plan,
        batch_bytes: usize,
        batch_records: u32,
        in_flight: usize,
    ) -> Self {
        let node_cores: Vec<String> = plan.node_cores.iter().map(ToString::to_string).collect();
        Self {
            record_size: plan.record_size,
            batch_bytes,
            batch_records,
            producers: plan.producers,
            in_flight,
            partitions: plan.partitions,
            warm_up_s: plan.warm_up.as_secs_f64(),
            duration_s: plan.duration.as_secs_f64(),
            nodes: node_cores.len(),
            acks: ACKS,
            server_cores: node_cores.first().cloned().unwrap_or_default(),
            node_cores,
            client_cores: plan.client_cores.to_string(),
            rate: None,
        }
    }

    /// What is sent.
    pub(crate) fn records(&self) -> String {
        let Self { record_size, batch_bytes, batch_records, .. } = self;
        let rate = self.rate.map(|rate| format!(", {rate} records/s offered"));
        format!(
            "{record_size}-byte records, {batch_records} in a batch of {batch_bytes} bytes{}",
            rate.unwrap_or_default(),
        )
    }

    /// Who sends it, and for how long.
    pub(crate) fn load(&self) -> String {
        let Self { producers, in_flight, partitions, duration_s, warm_up_s, .. } = self;
        format!(
            "{producers} producer{}, {in_flight} batches in flight each, {partitions} partition{}, \
             {duration_s} s after {warm_up_s} s of warm-up",
            plural(*producers),
            plural(*partitions as usize),
        )
    }
}

impl Report {
    /// The report as JSON.
    pub(crate) fn json(&self) -> serde_json::Result<String> {
        serde_json::to_string_pretty(self)
    }

    /// The report as a table.
    pub(crate) fn table(&self) -> String {
        let mut figures = Table::new();
        figures.load_style(UTF8_FULL_CONDENSED);
        figures.set_header(["", "records/s", "MiB/s", "p50 us", "p99 us", "p99.9 us", "max us"]);
        figures.add_row(row(&self.scenario, &self.reading));
        for (name, reading) in &self.phases {
            figures.add_row(row(name, reading));
        }
        let ratio = format!("{:.3}", self.ratio_to_bare);
        let Settings { nodes, acks, node_cores, client_cores, .. } = &self.settings;
        let cores = format!("servers {}; client {client_cores}", node_cores.join(" | "));
        let nodes = format!("{nodes}, acks={acks}");
        let entries = thousands(self.entries_per_s);
        let mut about = Table::new();
        about.load_style(UTF8_FULL_CONDENSED);
        about.add_row([&format!("ratio to {}", self.yardstick), &ratio]);
        about.add_row(["entries/s", &entries]);
        for (name, figure) in self.figures.lines() {
            about.add_row([name, &figure]);
        }
        about.add_row(["nodes", &nodes]);
        about.add_row(["durability", self.durability]);
        about.add_row(["records", &self.settings.records()]);
        about.add_row(["load", &self.settings.load()]);
        about.add_row(["cores", &cores]);
        about.add_row(["machine", &self.machine.to_string()]);
        about.add_row(["commit", &self.commit]);
        format!("{figures}\n{about}")
    }
}

/// What more than one has at its end.
const fn plural(count: usize) -> &'static str {
    if count == 1 { "" } else { "s" }
}

fn row(name: &str, reading: &Reading) -> [String; 7] {
    [
        name.to_owned(),
        thousands(reading.records_per_s),
        format!("{:.1}", reading.mib_per_s),
        reading.p50_us.to_string(),
        reading.p99_us.to_string(),
        reading.p999_us.to_string(),
        reading.max_us.to_string(),
    ]
}

/// The name of a batch's shape in messages.
impl std::fmt::Display for BatchShape {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Bytes(bytes) => write!(formatter, "{bytes} bytes"),
            Self::Records(records) => write!(formatter, "{records} records"),
        }
    }
}
