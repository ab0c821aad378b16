//! A report as one page: HTML with its style sheet and SVG plots inside. It needs no script and
//! nothing from anywhere else, in a light and a dark form, and on paper.
//!
//! Owns: what the page says and in which order. Must never: name a figure without what it was
//! measured on. Invariants: the page is well-formed as XML, too.

mod axis;
mod charts;
mod facts;
mod heat;
mod markup;
mod number;
mod plot;

pub(crate) use facts::html;

use crate::meter::Reading;
use crate::page::charts::Charts;
use crate::page::markup::Element;
use crate::timeline::{Timeline, Track};

/// What a page says.
pub(crate) struct Page<'a> {
    /// What was measured.
    pub title: String,
    /// How, in a line.
    pub about: String,
    /// What it was measured on, by name.
    pub facts: Vec<(&'static str, String)>,
    pub reading: Reading,
    /// What consumers saw of it, if it was consumed meanwhile.
    pub end_to_end: Option<Reading>,
    /// Its yardstick's name and reading, from the same run.
    pub bare: Option<(&'a str, Reading)>,
    pub ratio: Option<f64>,
    /// All figures, by name.
    pub figures: Vec<(String, Reading)>,
    pub timeline: &'a Timeline,
    /// What a core is for.
    pub role: &'a dyn Fn(usize) -> &'static str,
}

const STYLE: &str = include_str!("style.css");
const HEADS: [&str; 7] = ["", "records/s", "MiB/s", "p50", "p99", "p99.9", "max"];

impl Page<'_> {
    /// The whole file.
    pub(crate) fn html(&self) -> String {
        let title = format!("barrage bench: {}", self.title);
        let viewport = "width=device-width, initial-scale=1";
        let head = Element::new("head")
            .and(Element::new("meta").with("charset", "utf-8"))
            .and(Element::new("meta").with("name", "viewport").with("content", viewport))
            .and(Element::new("title").text(&title))
            .and(Element::new("style").style(STYLE));
        let header = Element::new("header")
            .and(Element::new("h1").text(&title))
            .and(Element::new("p").text(&self.about));
        let charts = Charts {
            timeline: self.timeline,
            bare: self.bare.as_ref().map(|(name, reading)| (*name, reading.records_per_s)),
            role: self.role,
        };
        let body = Element::new("body")
            .and(header)
            .and(self.tiles())
            .and(self.facts())
            .and(Element::new("h2").text("Over time"))
            .and(Element::new("div").class("charts").all(charts.columns()))
            .and(Element::new("h2").text("All figures"))
            .and(table(&HEADS, self.figures.iter().map(|(name, reading)| row(name, reading))))
            .and(self.series())
            .and(Element::new("footer").text(NOTE));
        let html = Element::new("html").with("lang", "en").and(head).and(body);
        format!("<!DOCTYPE html>\n{html}\n")
    }

    fn tiles(&self) -> Element {
        let reading = &self.reading;
        let micros = |us: u64| number::micros(us as f64);
        let mut tiles = vec![
            tile(number::count(reading.records_per_s), "records/s"),
            tile(number::mib_per_s(reading.mib_per_s), "of values"),
        ];
        let latencies = match self.end_to_end {
            None => {
                vec![(reading.p50_us, "p50"), (reading.p99_us, "p99"), (reading.p999_us, "p99.9")]
            }
            Some(end_to_end) => vec![
                (reading.p50_us, "p50, publish"),
                (reading.p99_us, "p99, publish"),
                (end_to_end.p50_us, "p50, end to end"),
                (end_to_end.p99_us, "p99, end to end"),
            ],
        };
        tiles.extend(latencies.into_iter().map(|(us, about)| tile(micros(us), about)));
        if let (Some((name, bare)), Some(ratio)) = (&self.bare, self.ratio) {
            let beside = number::count(bare.records_per_s);
            tiles.push(tile(format!("{ratio:.3}"), &format!("of {name}, {beside} records/s")));
        }
        Element::new("ul").class("tiles").all(tiles)
    }

    fn facts(&self) -> Element {
        let fact = |(name, value): &(&'static str, String)| {
            [Element::new("dt").text(name), Element::new("dd").text(value)]
        };
        Element::new("dl").all(self.facts.iter().flat_map(fact))
    }

    /// The same as numbers, for who cannot see or hover.
    fn series(&self) -> Element {
        let summary = Element::new("summary").text("The same by interval, as a table");
        let tables = self.timeline.tracks.iter().map(series);
        Element::new("details").and(summary).all(tables)
    }
}

const NOTE: &str = "Latencies are read from HDR histograms of three digits. Time counts from the \
                    end of the warm-up. Point at a plot for its values.";

fn tile(value: String, about: &str) -> Element {
    let value = Element::new("b").text(value);
    Element::new("li").and(value).and(Element::new("span").text(about))
}

fn series(track: &Track) -> Element {
    let rows = track.points.iter().map(|point| row(&number::seconds(point.at_s), &point.reading));
    let [_, heads @ ..] = HEADS;
    let mut named = vec![track.name.as_str()];
    named.extend(heads);
    table(&named, rows)
}

fn row(name: &str, reading: &Reading) -> [String; 7] {
    let micros = |us: u64| number::micros(us as f64);
    [
        name.to_owned(),
        number::count(reading.records_per_s),
        number::plain(reading.mib_per_s),
        micros(reading.p50_us),
        micros(reading.p99_us),
        micros(reading.p999_us),
        micros(reading.max_us),
    ]
}

fn table(heads: &[&str], rows: impl Iterator<Item = [String; 7]>) -> Element {
    let cells = |name: &'static str, texts: &[&str]| {
        Element::new("tr").all(texts.iter().map(|text| Element::new(name).text(text)))
    };
    let head = Element::new("thead").and(cells("th", heads));
    let rows = rows.map(|row| cells("td", &row.each_ref().map(String::as_str)));
    let table = Element::new("table").and(head).and(Element::new("tbody").all(rows));
    Element::new("div").class("wide").and(table)
}

#[cfg(test)]
mod tests;
