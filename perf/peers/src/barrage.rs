//! Barrage's own figures, by its own load generator.
//!
//! Owns: the command line of `barrage bench`, and reading what it tells.
//! Must never: load Barrage in another shape than its peers.

use std::fs;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use serde::{Deserialize, Serialize};

use crate::args::Plan;
use crate::cores::CoreList;
use crate::folder::Folder;
use crate::load::Reading;
use crate::measure::WARM_UP;
use crate::process::Process;
use crate::scenario::{Scenario, Shape};

/// What it tells of a run.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Told {
    pub(crate) reading: Reading,
    pub(crate) about: About,
}

/// What it tells of itself and of the machine.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
pub(crate) struct About {
    pub(crate) durability: String,
    pub(crate) commit: String,
    pub(crate) machine: Machine,
}

/// The machine, as `barrage bench` reads it.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
pub(crate) struct Machine {
    pub(crate) cpu: String,
    pub(crate) cores: usize,
    pub(crate) memory_mib: u64,
    pub(crate) kernel: String,
    pub(crate) filesystem: String,
}

/// The keys of `barrage bench -o json` that are read.
#[derive(Debug, Deserialize)]
struct Report {
    records_per_s: f64,
    p50_us: u64,
    p99_us: u64,
    #[serde(flatten)]
    about: About,
}

/// The bare loop is not compared here; this is as short as it can be.
const BARE_DURATION: &str = "0.1";
/// Starting, filling and ending, beside what is measured.
const OVERHEAD: Duration = Duration::from_secs(120);
/// More than a core leases and acks in a second, so that a queue does not run dry.
const QUEUE_RECORDS_PER_S_MAX: f64 = 3e6;
/// What a batch adds to a record.
const RECORD_OVERHEAD_BYTES: usize = 16;

/// Measures once.
pub(crate) async fn measure(plan: &Plan, scenario: Scenario, all: &CoreList) -> Result<Told> {
    let folder = Folder::make(&plan.data)?;
    let mut command = Command::new(&plan.barrage);
    command.args(arguments(plan, scenario, &plan.shape(scenario)?));
    command.arg("--data").arg(folder.path());
    // It pins its server and its load itself.
    let mut process = Process::start("barrage", command, all, folder.path())?;
    let status = process.end(plan.duration + OVERHEAD).await?;
    ensure!(status.success(), "barrage bench ended with {status}:\n{}", process.log_tail());
    let text = fs::read_to_string(folder.path().join("barrage.out"))?;
    told(&text).context("cannot read what barrage bench tells")
}

fn arguments(plan: &Plan, scenario: Scenario, shape: &Shape) -> Vec<String> {
    let Shape { record_size, batch_records, connections, in_flight } = shape;
    let mut flags = vec![
        ("--record-size", record_size.to_string()),
        ("--producers", connections.to_string()),
        ("--duration", plan.duration.as_secs_f64().to_string()),
        ("--bare-duration", BARE_DURATION.to_owned()),
        ("--server-cores", plan.server_cores.to_string()),
        ("--client-cores", plan.client_cores.to_string()),
        ("-o", "json".to_owned()),
    ];
    let name = match scenario {
        Scenario::Produce | Scenario::ProduceSingle => {
            flags.push(("--batch-records", batch_records.to_string()));
            flags.push(("--in-flight", in_flight.to_string()));
            "produce"
        }
        Scenario::Queue => {
            let records = (plan.duration + WARM_UP).as_secs_f64() * QUEUE_RECORDS_PER_S_MAX;
            let fill_bytes = records as u64 * (record_size + RECORD_OVERHEAD_BYTES) as u64;
            flags.push(("--lease-records", batch_records.to_string()));
            flags.push(("--leases", in_flight.to_string()));
            flags.push(("--fill", fill_bytes.to_string()));
            "queue"
        }
    };
    let flags = flags.into_iter().flat_map(|(flag, value)| [flag.to_owned(), value]);
    ["bench".to_owned(), name.to_owned()].into_iter().chain(flags).collect()
}

fn told(text: &str) -> Result<Told> {
    let report: Report = serde_json::from_str(text)?;
    ensure!(report.records_per_s > 0.0, "no record was acknowledged");
    let reading = Reading {
        records_per_s: report.records_per_s,
        p50_us: Some(report.p50_us),
        p99_us: Some(report.p99_us),
        server_busy: None,
        client_busy: None,
    };
    Ok(Told { reading, about: report.about })
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::*;
    use crate::args::Args;

    #[test]
    fn it_is_loaded_in_the_shape_of_the_peers() {
        let check = |scenario: Scenario, want: &[&str]| {
            let args = Args::parse_from(["barrage-peers", "--duration", "3"]);
            let plan = Plan::new(&args, 2).unwrap();
            let line = arguments(&plan, scenario, &plan.shape(scenario).unwrap()).join(" ");
            for part in want {
                assert!(line.contains(part), "{part} in {line}");
            }
        };
        let common = "--duration 3 --bare-duration 0.1 --server-cores 0 --client-cores 1 -o json";
        let load = ["--producers 8", "--batch-records 1000", "--in-flight 4"];
        check(Scenario::Produce, &["bench produce --record-size 100", common]);
        check(Scenario::Produce, &load);
        check(Scenario::ProduceSingle, &["--producers 1", "--batch-records 1 --in-flight 64"]);
        check(Scenario::Queue, &["bench queue", "--producers 1", common]);
        check(Scenario::Queue, &["--lease-records 1000 --leases 4 --fill 1392000000"]);
    }

    #[test]
    fn what_it_tells_is_read() {
        let text = r#"{"scenario": "produce", "records_per_s": 5.5, "p50_us": 7, "p99_us": 9,
            "durability": "fdatasync", "commit": "abc", "ratio_to_bare": 0.5, "machine":
            {"cpu": "c", "cores": 2, "memory_mib": 4, "kernel": "6", "filesystem": "ext4"}}"#;
        let found = told(text).unwrap();
        assert_eq!(found.reading.records_per_s, 5.5);
        assert_eq!((found.reading.p50_us, found.reading.p99_us), (Some(7), Some(9)));
        assert_eq!((found.about.machine.cores, found.about.commit.as_str()), (2, "abc"));
        assert!(told(&text.replace("5.5", "0")).is_err(), "nothing was acknowledged");
        assert!(told("").is_err());
    }
}
