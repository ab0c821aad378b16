//! The plots of a run: what it did on the left, what that took of the machine on the right.
//!
//! Owns: which plots there are, and what is drawn in each. Must never: smooth, or leave out what
//! was counted. Invariants: all plots over time have the same time axis.

use super::axis::{Axis, Print};
use super::heat::{self, Row};
use super::markup::Element;
use super::number;
use super::plot::{Ink, Line, Plot, Rule, Stroke};
use crate::meter::Reading;
use crate::sampler::{ProcessPoint, ProcessUsage};
use crate::timeline::{Percentile, Point, Timeline, Track};

/// What the plots are of.
pub(crate) struct Charts<'a> {
    pub timeline: &'a Timeline,
    /// What the same run's yardstick came to: its name and records per second.
    pub bare: Option<(&'a str, f64)>,
    /// What a core is for.
    pub role: &'a dyn Fn(usize) -> &'static str,
}

/// A yardstick beyond so many times what was done is told, not drawn: the rest would be a line at
/// the bottom.
const BARE_DRAWN_MAX: f64 = 2.5;
/// Of amounts in MiB, the unit of large ones; no process keeps so many cores busy.
const MIB_PER_GIB: f64 = 1024.0;
/// The colour of what others are compared with.
const HUE_BARE: usize = 4;
/// Less than this of a disk is not drawn.
const DISK_MIB_PER_S_MIN: f64 = 0.05;

impl Charts<'_> {
    /// What was done, and beside it what that took if it is known.
    pub(crate) fn columns(&self) -> Vec<Element> {
        let tracks = &self.timeline.tracks;
        let mut load = vec![self.throughput()];
        load.extend(tracks.iter().map(|track| self.latency(track)));
        load.extend(self.percentiles());
        let usage = &self.timeline.usage;
        let machine = [self.cpu(), self.disk(), self.cores(), self.memory()];
        let machine: Vec<Element> = match usage.processes.is_empty() {
            true => Vec::new(),
            false => machine.into_iter().flatten().collect(),
        };
        let columns = [load, machine].into_iter().filter(|figures| !figures.is_empty());
        columns.map(|figures| Element::new("div").all(figures)).collect()
    }

    /// From the beginning of the first interval to the end of the last.
    fn time(&self) -> Axis {
        let points = || self.timeline.tracks.iter().flat_map(|track| &track.points);
        let low = points().map(|point| point.at_s).fold(0.0, f64::min);
        let high = points().map(|point| point.at_s + point.length_s).fold(low, f64::max);
        Axis::exact(low, high, number::seconds)
    }

    fn marks(&self) -> Vec<Rule> {
        let marks = self.timeline.marks.iter();
        marks.map(|mark| Rule { at: mark.at_s, text: mark.text.clone() }).collect()
    }

    fn over_time(&self, title: &str, unit: &'static str, up: Axis, lines: Vec<Line>) -> Plot {
        Plot {
            title: title.to_owned(),
            unit,
            across: self.time(),
            up,
            lines,
            rules: Vec::new(),
            marks: self.marks(),
            print: (number::seconds, number::plain),
        }
    }

    fn throughput(&self) -> Element {
        let lines: Vec<Line> = (0..)
            .zip(&self.timeline.tracks)
            .map(|(hue, track)| {
                let rate = |reading: &Reading| Some(reading.records_per_s);
                // One that lies upon another must not hide it.
                let stroke = if hue == 0 { Stroke::Area } else { Stroke::Dashed };
                of_track(&track.name, track, Ink { hue, stroke }, rate)
            })
            .collect();
        let most = largest(&lines);
        let bare = self.bare.filter(|(_, bare)| *bare <= most * BARE_DRAWN_MAX);
        let high = bare.map_or(most, |(_, bare)| most.max(bare));
        let up = Axis::even(high, number::count);
        let mut plot = self.over_time("Throughput", "records per second", up, lines);
        plot.print.1 = number::count;
        let text = |name: &str, bare| format!("{name}: {}", number::count(bare));
        plot.rules.extend(bare.map(|(name, at)| Rule { at, text: text(name, at) }));
        plot.figure()
    }

    fn latency(&self, track: &Track) -> Element {
        let line = |name: &str, hue, stroke, of: fn(&Reading) -> u64| {
            // An interval in which nothing ended has no latency.
            let value = move |reading: &Reading| match of(reading) {
                0 => None,
                us => Some(us as f64),
            };
            of_track(name, track, Ink { hue, stroke }, value)
        };
        let lines = vec![
            line("p50", 0, Stroke::Solid, |reading| reading.p50_us),
            line("p99", 1, Stroke::Solid, |reading| reading.p99_us),
            line("max", 5, Stroke::Dotted, |reading| reading.max_us),
        ];
        let up = Axis::powers(smallest(&lines), largest(&lines), number::micros);
        let title = format!("Latency: {}", track.name);
        let mut plot = self.over_time(&title, "of each interval", up, lines);
        plot.print.1 = number::micros;
        plot.figure()
    }

    /// The latency that so many per cent stayed below, of the whole run.
    fn percentiles(&self) -> Option<Element> {
        let known = |track: &&Track| !track.percentiles.is_empty();
        let mut last = 0.0_f64;
        let mut curve = |name: &str, percentiles: &[Percentile], ink| {
            let before_last = percentiles.iter().rev().nth(1);
            last = before_last.map_or(last, |point| point.percent.max(last));
            let points = percentiles.iter();
            let points = points.map(|point| (point.percent, Some(point.us as f64))).collect();
            Line { name: name.to_owned(), ink, points }
        };
        let mut lines = Vec::new();
        for (hue, track) in self.timeline.tracks.iter().filter(known).enumerate() {
            let ink = Ink { hue, stroke: Stroke::Solid };
            lines.push(curve(&track.name, &track.percentiles, ink));
        }
        if let (Some((name, _)), false) = (self.bare, self.timeline.bare.is_empty()) {
            let ink = Ink { hue: HUE_BARE, stroke: Stroke::Dashed };
            lines.push(curve(name, &self.timeline.bare, ink));
        }
        let (low, high) = (smallest(&lines), largest(&lines));
        let plot = Plot {
            title: "Latency by percentile".to_owned(),
            unit: "of the whole run, on an axis of nines",
            across: Axis::nines(last),
            up: Axis::powers(low, high, number::micros),
            lines,
            rules: Vec::new(),
            marks: Vec::new(),
            print: (|per_cent| format!("{per_cent:.4} %"), number::micros),
        };
        (!plot.lines.is_empty()).then(|| plot.figure())
    }

    fn cpu(&self) -> Option<Element> {
        let cpu = |point: &ProcessPoint| point.cpu_cores;
        let lines = self.of_processes(Stroke::Solid, "", cpu, 0.0);
        self.of_machine("Processor", "cores kept busy", lines, number::plain)
    }

    fn disk(&self) -> Option<Element> {
        let (written, read) = (
            |point: &ProcessPoint| point.written_mib_per_s,
            |point: &ProcessPoint| point.read_mib_per_s,
        );
        let mut lines = self.of_processes(Stroke::Solid, " writes", written, DISK_MIB_PER_S_MIN);
        lines.extend(self.of_processes(Stroke::Dashed, " reads", read, DISK_MIB_PER_S_MIN));
        self.of_machine("Disk", "of each process", lines, number::mib_per_s)
    }

    fn memory(&self) -> Option<Element> {
        let memory = |point: &ProcessPoint| point.memory_mib;
        let lines = self.of_processes(Stroke::Solid, "", memory, 0.0);
        self.of_machine("Memory", "resident", lines, number::mib)
    }

    fn cores(&self) -> Option<Element> {
        let cores = &self.timeline.usage.cores;
        let row = |usage| Row { usage, role: (self.role)(usage.core) };
        let mut rows: Vec<Row<'_>> = cores.iter().map(row).collect();
        if rows.len() > heat::ROWS_MAX {
            rows.retain(|row| !row.role.is_empty());
        }
        (!rows.is_empty()).then(|| heat::cores(&rows, &self.time()))
    }

    /// A line for each process that ever takes as much as `least`.
    fn of_processes(
        &self,
        stroke: Stroke,
        name: &str,
        of: fn(&ProcessPoint) -> f64,
        least: f64,
    ) -> Vec<Line> {
        let line = |(hue, process): (usize, &ProcessUsage)| {
            let points: Vec<_> =
                process.points.iter().map(|point| (point.at_s, Some(of(point)))).collect();
            let name = format!("{}{name}", process.name);
            Line { name, ink: Ink { hue, stroke }, points }
        };
        let lines = self.timeline.usage.processes.iter().enumerate().map(line);
        lines.filter(|line| largest(std::slice::from_ref(line)) >= least).collect()
    }

    fn of_machine(
        &self,
        title: &str,
        unit: &'static str,
        lines: Vec<Line>,
        print: Print,
    ) -> Option<Element> {
        if lines.is_empty() {
            return None;
        }
        let up = Axis::even_in(&[1.0, MIB_PER_GIB], largest(&lines), print);
        let mut plot = self.over_time(title, unit, up, lines);
        plot.print.1 = print;
        Some(plot.figure())
    }
}

/// A line through the middle of every interval.
fn of_track(name: &str, track: &Track, ink: Ink, value: impl Fn(&Reading) -> Option<f64>) -> Line {
    let middle = |point: &Point| point.at_s + point.length_s / 2.0;
    let points = track.points.iter().map(|point| (middle(point), value(&point.reading)));
    Line { name: name.to_owned(), ink, points: points.collect() }
}

fn values(lines: &[Line]) -> impl Iterator<Item = f64> + '_ {
    lines.iter().flat_map(|line| line.points.iter().filter_map(|(_, value)| *value))
}

fn largest(lines: &[Line]) -> f64 {
    values(lines).fold(0.0, f64::max)
}

/// The smallest above 0; 1 if there is none.
fn smallest(lines: &[Line]) -> f64 {
    let smallest = values(lines).filter(|value| *value > 0.0).fold(f64::INFINITY, f64::min);
    if smallest.is_finite() { smallest } else { 1.0 }
}
