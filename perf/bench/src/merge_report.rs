//! The report of logs that were merged: of several clients, or of several machines.
//!
//! Owns: what it says, for people and for programs. Must never: name a machine that no log names.
//! Invariants: its figures are those of the time that all logs cover (`merge`).

use std::collections::BTreeMap;
use std::path::PathBuf;

use anyhow::{Context as _, Result};
use comfy_table::Table;
use comfy_table::presets::UTF8_FULL_CONDENSED;
use serde::Serialize;

use crate::hlog::{About, Log};
use crate::merge::{self, END_TO_END, PUBLISH};
use crate::meter::Reading;
use crate::page::Page;
use crate::report::figures;
use crate::timeline::Timeline;

/// The report; its JSON keys are part of the command's interface.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct MergeReport {
    pub scenario: &'static str,
    /// Of publishing, if there is such; else of the first tag.
    #[serde(flatten)]
    pub reading: Reading,
    /// The time that all logs cover.
    pub start_s: f64,
    pub duration_s: f64,
    /// By tag.
    pub phases: BTreeMap<String, Reading>,
    /// Records that were counted, by tag.
    pub records: BTreeMap<String, u64>,
    pub logs: Vec<Source>,
    pub series: Timeline,
}

/// One of the logs.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Source {
    pub file: String,
    /// From when to when it covers, in seconds since 1970.
    pub start_s: f64,
    pub end_s: f64,
    /// Nothing in a log of another tool.
    pub about: Option<About>,
}

impl MergeReport {
    /// Of these files.
    pub(crate) fn of(paths: &[PathBuf]) -> Result<Self> {
        let (logs, merged) = merge::files(paths)?;
        let first = merged.readings.get(PUBLISH).or_else(|| merged.readings.values().next());
        let reading = *first.context("the logs have nothing in common")?;
        let source = |log: Log| {
            let (start_s, end_s) = log.span_s();
            Source { file: log.name, start_s, end_s, about: log.about }
        };
        Ok(Self {
            scenario: "merge",
            reading,
            start_s: merged.start_s,
            duration_s: merged.end_s - merged.start_s,
            phases: merged.readings,
            records: merged.records,
            logs: logs.into_iter().map(source).collect(),
            series: Timeline { tracks: merged.tracks, ..Timeline::default() },
        })
    }

    /// The report as JSON.
    pub(crate) fn json(&self) -> Result<String> {
        Ok(serde_json::to_string_pretty(self)?)
    }

    /// The report as a table.
    pub(crate) fn table(&self) -> String {
        let figures = figures(self.phases.iter().map(|(name, reading)| (name.as_str(), reading)));
        let mut about = Table::new();
        about.load_style(UTF8_FULL_CONDENSED);
        for (name, value) in self.facts() {
            about.add_row([name, &value]);
        }
        format!("{figures}\n{about}")
    }

    /// The report as a page.
    pub(crate) fn page(&self) -> String {
        let figures = self.phases.iter().map(|(name, reading)| (name.clone(), *reading));
        let page = Page {
            title: "merge".to_owned(),
            about: self.about(),
            facts: self.facts(),
            reading: self.reading,
            end_to_end: self.phases.get(END_TO_END).copied(),
            bare: None,
            ratio: None,
            figures: figures.collect(),
            timeline: &self.series,
            role: &|_| "",
        };
        page.html()
    }

    fn about(&self) -> String {
        format!("{} logs, {:.1} s that all of them cover", self.logs.len(), self.duration_s)
    }

    fn facts(&self) -> Vec<(&'static str, String)> {
        let of_all = |of: &dyn Fn(&About) -> String| -> String {
            let abouts = self.logs.iter().filter_map(|log| log.about.as_ref());
            let mut values: Vec<String> = abouts.map(of).collect();
            values.sort_unstable();
            values.dedup();
            values.join("; ")
        };
        let files: Vec<&str> = self.logs.iter().map(|log| log.file.as_str()).collect();
        let facts = [
            ("merged", self.about()),
            ("logs", files.join(", ")),
            ("workloads", of_all(&|about| about.workload.clone())),
            ("machines", of_all(&|about| about.machine.to_string())),
            ("commits", of_all(&|about| about.commit.clone())),
            ("beside, same run", "none: it stands in the report of each run".to_owned()),
        ];
        facts.into_iter().filter(|(_, value)| !value.is_empty()).collect()
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant, SystemTime};

    use super::*;
    use crate::hlog;
    use crate::machine::Machine;
    use crate::meter::{Meter, Window};

    #[test]
    fn logs_of_two_machines_are_one_report() {
        let folder = tempfile::tempdir().unwrap();
        let start = Instant::now();
        let paths: Vec<PathBuf> = (0..2_u64)
            .map(|number| {
                let path = folder.path().join(format!("{number}.hlog"));
                let mut machine = Machine::read(folder.path());
                machine.cpu = format!("processor {number}");
                let about = About {
                    client: "client-0".to_owned(),
                    workload: "some".to_owned(),
                    record_size: 1 << 20,
                    commit: "abc".to_owned(),
                    machine,
                };
                let window = Window { start, end: start + Duration::from_secs(2) };
                let mut meter = Meter::new(window);
                for ms in (0..2_000).step_by(10) {
                    let now = start + Duration::from_millis(ms);
                    let began = now.checked_sub(Duration::from_millis(1 + number * 8)).unwrap();
                    meter.ended(began, now, 1, 1 << 20);
                }
                let began = SystemTime::UNIX_EPOCH + Duration::from_secs(1_790_000_000);
                hlog::write(&path, &about, began, &[("publish", &meter)]).unwrap();
                path
            })
            .collect();
        let report = MergeReport::of(&paths).unwrap();
        assert_eq!((report.reading.records_per_s, report.reading.mib_per_s), (200.0, 200.0));
        assert_eq!((report.records["publish"], report.duration_s), (400, 2.0));
        let json: serde_json::Value = serde_json::from_str(&report.json().unwrap()).unwrap();
        assert_eq!(json["logs"][1]["about"]["machine"]["cpu"], "processor 1");
        assert_eq!(json["series"]["tracks"][0]["points"].as_array().unwrap().len(), 2);
        assert!(report.table().contains("processor 0"));
        let page = report.page();
        let options = roxmltree::ParsingOptions { allow_dtd: true, ..Default::default() };
        roxmltree::Document::parse_with_options(&page, options).unwrap();
        assert!(page.contains("processor 1"));
    }
}
