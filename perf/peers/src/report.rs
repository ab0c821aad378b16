//! What a comparison comes to, for people and for programs.
//!
//! Owns: the report, its two forms and its verdict. Must never: print a figure without the machine,
//! the versions, the durability and the shape of the load it belongs to.

use std::collections::BTreeMap;
use std::fmt;

use anyhow::Result;
use comfy_table::Table;
use comfy_table::presets::UTF8_FULL_CONDENSED;
use serde::Serialize;

use crate::args::Plan;
use crate::barrage::{About, Machine};
use crate::load::Reading;
use crate::scenario::{Scenario, Shape};
use crate::statistics::Summary;
use crate::subject::{Peer, Subject};

/// The readings of each subject, in the order of the rounds.
pub(crate) type Results = BTreeMap<Subject, Vec<Reading>>;

/// The report; its JSON keys are part of the command's interface.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Report {
    /// None where nothing could be measured.
    pub(crate) machine: Option<Machine>,
    /// That of Barrage.
    pub(crate) commit: Option<String>,
    /// Those of the peers, as they tell them.
    pub(crate) versions: BTreeMap<Peer, String>,
    pub(crate) server_cores: String,
    pub(crate) client_cores: String,
    pub(crate) rounds: usize,
    pub(crate) duration_s: f64,
    pub(crate) scenarios: Vec<Comparison>,
    pub(crate) missing: Vec<Absence>,
}

/// One scenario.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Comparison {
    pub(crate) scenario: Scenario,
    pub(crate) load: Shape,
    /// Barrage first.
    pub(crate) subjects: Vec<Line>,
}

/// One subject of a scenario.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(crate) struct Line {
    pub(crate) name: String,
    /// What an answer means.
    pub(crate) durability: String,
    pub(crate) records_per_s: Summary,
    /// Each round's, in order.
    pub(crate) rounds: Vec<f64>,
    /// Of a request, the median of the rounds in which one ended.
    pub(crate) p50_us: Option<f64>,
    pub(crate) p99_us: Option<f64>,
    /// Cores that were busy; none where it is not known.
    pub(crate) server_busy: Option<f64>,
    pub(crate) client_busy: Option<f64>,
    /// How many times as much Barrage does; none for itself.
    pub(crate) ratio: Option<Summary>,
}

/// A peer that was not measured, or not to the end.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Absence {
    pub(crate) subject: String,
    /// Why, and what mends it.
    pub(crate) cause: String,
    /// Whether it was there, and a measurement of it failed.
    pub(crate) failed: bool,
}

/// What the exit code tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// Every peer that is there was measured.
    Measured,
    /// A measurement of some peer failed.
    SomeFailed,
    /// No peer could be measured.
    NonePresent,
}

impl Report {
    /// Puts readings and circumstances together.
    pub(crate) fn new(
        plan: &Plan,
        about: Option<About>,
        versions: BTreeMap<Peer, String>,
        results: &BTreeMap<Scenario, Results>,
        missing: Vec<Absence>,
    ) -> Result<Self> {
        let durability = about.as_ref().map(|about| about.durability.clone());
        let mut scenarios = Vec::new();
        for (scenario, readings) in results {
            let subjects = lines(readings, &durability.clone().unwrap_or_default());
            scenarios.push(Comparison {
                scenario: *scenario,
                load: plan.shape(*scenario)?,
                subjects,
            });
        }
        Ok(Self {
            machine: about.as_ref().map(|about| about.machine.clone()),
            commit: about.map(|about| about.commit),
            versions,
            server_cores: plan.server_cores.to_string(),
            client_cores: plan.client_cores.to_string(),
            rounds: plan.rounds,
            duration_s: plan.duration.as_secs_f64(),
            scenarios,
            missing,
        })
    }

    /// The report as JSON.
    pub(crate) fn json(&self) -> serde_json::Result<String> {
        serde_json::to_string_pretty(self)
    }

    /// What the exit code tells.
    pub(crate) fn verdict(&self) -> Verdict {
        let of_peers = |it: &Comparison| it.subjects.iter().any(|line| line.ratio.is_some());
        if !self.scenarios.iter().any(of_peers) {
            Verdict::NonePresent
        } else if self.missing.iter().any(|absence| absence.failed) {
            Verdict::SomeFailed
        } else {
            Verdict::Measured
        }
    }

    /// The report as tables.
    pub(crate) fn table(&self) -> String {
        let mut text = String::new();
        for comparison in &self.scenarios {
            text.push_str(&format!("{}: {}\n", comparison.scenario.name(), comparison.load));
            text.push_str(&format!("{}\n\n", comparison.table()));
        }
        for absence in &self.missing {
            text.push_str(&format!("{absence}\n"));
        }
        text.push_str(&self.about().to_string());
        text
    }

    fn about(&self) -> Table {
        let versions = self.versions.iter();
        let versions: Vec<String> =
            versions.map(|(peer, version)| format!("{} {version}", peer.package())).collect();
        let rounds = format!("{} of {} s, in alternation", self.rounds, self.duration_s);
        let cores = format!("server {}; client {}", self.server_cores, self.client_cores);
        let mut table = Table::new();
        table.load_style(UTF8_FULL_CONDENSED);
        table.add_row(["rounds", &rounds]);
        table.add_row(["cores", &cores]);
        table.add_row(["versions", &versions.join(", ")]);
        if let Some(machine) = &self.machine {
            table.add_row(["machine", &machine.to_string()]);
        }
        if let Some(commit) = &self.commit {
            table.add_row(["commit", commit]);
        }
        table
    }
}

impl Comparison {
    fn table(&self) -> Table {
        let mut table = Table::new();
        table.load_style(UTF8_FULL_CONDENSED);
        table.set_header([
            "",
            "answers when",
            "records/s",
            "min .. max",
            "p50 ms",
            "p99 ms",
            "busy cores:\nserver, client",
            "barrage / it",
        ]);
        for line in &self.subjects {
            table.add_row(line.cells());
        }
        table
    }
}

impl Line {
    fn cells(&self) -> [String; 8] {
        let Summary { median, min, max } = self.records_per_s;
        let milliseconds =
            |us: Option<f64>| us.map_or_else(|| "-".to_owned(), |us| format!("{:.1}", us / 1e3));
        let busy = match (self.server_busy, self.client_busy) {
            (Some(server), Some(client)) => format!("{server:.2}, {client:.2}"),
            _ => "-".to_owned(),
        };
        let ratio = self.ratio.map_or_else(String::new, |ratio| {
            format!("{} ({} .. {})", short(ratio.median), short(ratio.min), short(ratio.max))
        });
        [
            self.name.clone(),
            self.durability.clone(),
            thousands(median),
            format!("{} .. {}", thousands(min), thousands(max)),
            milliseconds(self.p50_us),
            milliseconds(self.p99_us),
            busy,
            ratio,
        ]
    }
}

impl fmt::Display for Absence {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "not measured: {}: {}", self.subject, self.cause)
    }
}

impl fmt::Display for Machine {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { cpu, cores, memory_mib, kernel, filesystem } = self;
        write!(formatter, "{cpu}, {cores} cores, {memory_mib} MiB, Linux {kernel}, {filesystem}")
    }
}

/// A line for each subject; Barrage's comes first, by the order of subjects.
fn lines(results: &Results, durability: &str) -> Vec<Line> {
    let rates = |readings: &[Reading]| -> Vec<f64> {
        readings.iter().map(|reading| reading.records_per_s).collect()
    };
    let ours = results.get(&Subject::Barrage).map_or_else(Vec::new, |ours| rates(ours));
    let line = |(subject, readings): (&Subject, &Vec<Reading>)| {
        let rounds = rates(readings);
        let median = |figure: fn(&Reading) -> Option<f64>| {
            let figures: Vec<f64> = readings.iter().filter_map(figure).collect();
            Summary::of(&figures).map(|summary| summary.median)
        };
        let (durability, ratio) = match subject {
            Subject::Barrage => (durability, None),
            Subject::Peer(peer, durability) => {
                (peer.promise(*durability), Summary::ratio(&ours, &rounds))
            }
        };
        Some(Line {
            name: subject.to_string(),
            durability: durability.to_owned(),
            records_per_s: Summary::of(&rounds)?,
            p50_us: median(|reading| reading.p50_us.map(|us| us as f64)),
            p99_us: median(|reading| reading.p99_us.map(|us| us as f64)),
            server_busy: median(|reading| reading.server_busy),
            client_busy: median(|reading| reading.client_busy),
            ratio,
            rounds,
        })
    };
    results.iter().filter_map(line).collect()
}

/// `1234567.8` as `1,234,568`.
fn thousands(number: f64) -> String {
    let digits = format!("{number:.0}");
    let mut text = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// A ratio with about three digits.
fn short(ratio: f64) -> String {
    match ratio {
        large if large >= 100.0 => thousands(large),
        middle if middle >= 10.0 => format!("{middle:.1}"),
        small => format!("{small:.2}"),
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::*;
    use crate::args::Args;
    use crate::subject::Durability;

    fn reading(records_per_s: f64, p50_us: Option<u64>) -> Reading {
        let (server_busy, client_busy) = (Some(0.98), Some(0.5));
        Reading { records_per_s, p50_us, p99_us: p50_us, server_busy, client_busy }
    }

    fn report(results: Results, missing: Vec<Absence>) -> Report {
        let plan = Plan::new(&Args::parse_from(["barrage-peers"]), 2).unwrap();
        let results = BTreeMap::from([(Scenario::Produce, results)]);
        let machine = Machine {
            cpu: "EPYC".to_owned(),
            cores: 2,
            memory_mib: 24_000,
            kernel: "6.18".to_owned(),
            filesystem: "ext4".to_owned(),
        };
        let (durability, commit) = ("fdatasync before ack".to_owned(), "abcdef".to_owned());
        let about = Some(About { durability, commit, machine });
        let versions = BTreeMap::from([(Peer::Redis, "7.0.15".to_owned())]);
        Report::new(&plan, about, versions, &results, missing).unwrap()
    }

    fn both() -> Results {
        let redis = Subject::Peer(Peer::Redis, Durability::Strict);
        let theirs = vec![reading(500_000.0, Some(2_000)), reading(1_000_000.0, None)];
        let ours = vec![reading(8e6, Some(900)), reading(9e6, Some(1_100))];
        Results::from([(redis, theirs), (Subject::Barrage, ours)])
    }

    #[test]
    fn lines_are_medians_and_barrage_stands_first() {
        let report = report(both(), Vec::new());
        let [ours, redis] = &report.scenarios[0].subjects[..] else { panic!("two lines") };
        assert_eq!((ours.name.as_str(), ours.ratio), ("barrage", None));
        assert_eq!(ours.durability, "fdatasync before ack");
        assert_eq!((ours.records_per_s.median, ours.p50_us), (8.5e6, Some(1_000.0)));
        assert_eq!(redis.name, "redis, strict");
        assert_eq!(redis.rounds, [500_000.0, 1_000_000.0]);
        assert_eq!(redis.p50_us, Some(2_000.0), "of the round in which a request ended");
        let want = Summary { median: 8.5e6 / 750_000.0, min: 9.0, max: 16.0 };
        assert_eq!(redis.ratio, Some(want));
    }

    #[test]
    fn tables_name_all_that_a_figure_depends_on() {
        let cause = "not installed: apt-get install -y nats-server".to_owned();
        let nats = Absence { subject: "nats".to_owned(), cause, failed: false };
        let text = report(both(), vec![nats]).table();
        for part in [
            "redis-server 7.0.15",
            "EPYC, 2 cores, 24000 MiB, Linux 6.18, ext4",
            "abcdef",
            "appendfsync always",
            "fdatasync before ack",
            "1000 in a request; 4 requests under way on each connection, connections: 8",
            "8,500,000",
            "500,000 .. 1,000,000",
            "11.3 (9.00 .. 16.0)",
            "0.98, 0.50",
            "server 0; client 1",
            "not measured: nats: not installed: apt-get install -y nats-server",
        ] {
            assert!(text.contains(part), "{part} in\n{text}");
        }
    }

    #[test]
    fn the_verdict_tells_what_was_measured() {
        let check = |results: Results, failed: &[bool], want: Verdict| {
            let absence = |failed: &bool| {
                let (subject, cause) = ("nats".to_owned(), "gone".to_owned());
                Absence { subject, cause, failed: *failed }
            };
            let missing = failed.iter().map(absence).collect();
            assert_eq!(report(results, missing).verdict(), want, "{failed:?}");
        };
        let mut alone = both();
        alone.retain(|subject, _| *subject == Subject::Barrage);
        check(both(), &[], Verdict::Measured);
        check(both(), &[false], Verdict::Measured);
        check(both(), &[false, true], Verdict::SomeFailed);
        check(alone, &[true], Verdict::NonePresent);
        check(Results::new(), &[false], Verdict::NonePresent);
    }

    #[test]
    fn programs_read_the_same() {
        let json = report(both(), Vec::new()).json().unwrap();
        let value: serde_json::Value = serde_json::from_str(&json).unwrap();
        assert_eq!(value["scenarios"][0]["scenario"], "produce");
        assert_eq!(value["scenarios"][0]["load"]["batch_records"], 1000);
        assert_eq!(value["scenarios"][0]["subjects"][1]["records_per_s"]["median"], 750_000.0);
        assert_eq!(value["versions"]["redis"], "7.0.15");
        assert_eq!(value["machine"]["kernel"], "6.18");
    }
}
