//! One plot: lines over an axis, as a figure of a page.
//!
//! Owns: the drawing. Must never: name a colour; the style sheet has them, one set for light and
//! one for dark. Invariants: everything lies within the view box.
//!
//! ```text
//!   title                    (caption)
//!   -- name  -- name         (legend)
//!   50 ms |........|.....    MARGIN_LEFT beside it for labels
//!   10 ms |   ___--|-__      rules and marks are dashed
//!    0 us |---_____|___
//!         0 s     5 s        MARGIN_BOTTOM below it
//! ```

use super::axis::{Axis, Print};
use super::markup::{Element, Place};

/// What is drawn.
#[derive(Clone, Debug)]
pub(crate) struct Plot {
    pub title: String,
    /// What the vertical axis counts.
    pub unit: &'static str,
    pub across: Axis,
    pub up: Axis,
    pub lines: Vec<Line>,
    pub rules: Vec<Rule>,
    pub marks: Vec<Rule>,
    /// Of what is below the pointer.
    pub print: (Print, Print),
}

/// One line, with gaps where a value is missing.
#[derive(Clone, Debug)]
pub(crate) struct Line {
    pub name: String,
    pub ink: Ink,
    pub points: Vec<(f64, Option<f64>)>,
}

/// How a line is drawn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Ink {
    /// Which of the style sheet's colours.
    pub hue: usize,
    pub stroke: Stroke,
}

/// Told apart without colour, too.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stroke {
    /// A line over a tinted area.
    Area,
    Solid,
    Dashed,
    Dotted,
}

/// A line across the whole plot: at a height, or at a point in time.
#[derive(Clone, Debug)]
pub(crate) struct Rule {
    pub at: f64,
    pub text: String,
}

pub(crate) const WIDTH: f64 = 560.0;
const HEIGHT: f64 = 236.0;
pub(crate) const MARGIN_LEFT: f64 = 62.0;
pub(crate) const MARGIN_RIGHT: f64 = 14.0;
const MARGIN_TOP: f64 = 12.0;
pub(crate) const MARGIN_BOTTOM: f64 = 26.0;
/// Labels of two ticks that are nearer than this would touch.
const LABELS_APART: f64 = 42.0;
/// Labels stand so far from their axis.
const LABEL_GAP: f64 = 7.0;
/// Labels of marks take turns in so many rows.
const MARK_ROWS: usize = 3;
const MARK_ROW: f64 = 13.0;
/// More points than this are not shown one by one.
const DOTS_MAX: usize = 40;
const DOT: f64 = 2.4;
/// A dot that is not seen, but answers to the pointer.
const TARGET: f64 = 6.0;
const TARGETS_MAX: usize = 150;
/// As many colours as the style sheet has.
pub(crate) const HUES: usize = 6;

impl Ink {
    /// The class of the style sheet.
    fn class(self) -> String {
        let hue = self.hue % HUES;
        let stroke = match self.stroke {
            Stroke::Area | Stroke::Solid => "",
            Stroke::Dashed => " dashed",
            Stroke::Dotted => " dotted",
        };
        format!("line h{hue}{stroke}")
    }
}

impl Plot {
    /// The figure.
    pub(crate) fn figure(&self) -> Element {
        let legend = Element::new("ul").class("legend").all(self.lines.iter().map(Line::key));
        figure(&self.title, self.unit).and(legend).and(self.drawing())
    }

    fn drawing(&self) -> Element {
        let names: Vec<&str> = self.lines.iter().map(|line| line.name.as_str()).collect();
        drawing(HEIGHT, &format!("{}: {}", self.title, names.join(", ")))
            .all(self.grid())
            .all(self.rules.iter().flat_map(|rule| self.rule(rule)))
            .all(self.marks.iter().enumerate().flat_map(|(number, mark)| self.mark(number, mark)))
            .all(self.lines.iter().filter(|line| line.ink.stroke == Stroke::Area).flat_map(
                |line| self.segments(line).map(|segment| area(&segment, line.ink.hue % HUES)),
            ))
            .all(self.lines.iter().flat_map(|line| {
                let class = line.ink.class();
                self.segments(line).map(move |segment| polyline(&segment).class(&class))
            }))
            .all(self.lines.iter().flat_map(|line| self.dots(line)))
    }

    fn grid(&self) -> Vec<Element> {
        let mut elements = Vec::new();
        for tick in &self.up.ticks {
            let y = height(tick.place);
            let class = if tick.text.is_some() { "grid" } else { "grid minor" };
            elements.push(line((MARGIN_LEFT, y), (WIDTH - MARGIN_RIGHT, y)).class(class));
            if let Some(text) = &tick.text {
                let label = Element::new("text").class("label end");
                elements.push(label.at("x", MARGIN_LEFT - LABEL_GAP).at("y", y + 3.5).text(text));
            }
        }
        elements.extend(labels_across(&self.across, HEIGHT));
        elements
    }

    fn rule(&self, rule: &Rule) -> [Element; 2] {
        let y = height(self.up.place(rule.at));
        let label = Element::new("text").class("label rule-text end");
        [
            line((MARGIN_LEFT, y), (WIDTH - MARGIN_RIGHT, y)).class("rule"),
            label.at("x", WIDTH - MARGIN_RIGHT - 4.0).at("y", y - 4.0).text(&rule.text),
        ]
    }

    fn mark(&self, number: usize, mark: &Rule) -> [Element; 2] {
        let place = self.across.place(mark.at);
        let x = across(place);
        // Beside its line, on the side where there is room.
        let (class, gap) = if place > 0.7 { ("end", -4.0) } else { ("", 4.0) };
        // Neighbours stand below each other.
        let y = MARGIN_TOP + 9.0 + MARK_ROW * (number % MARK_ROWS) as f64;
        let label = Element::new("text").class(format!("label rule-text {class}").trim_end());
        [
            line((x, MARGIN_TOP), (x, HEIGHT - MARGIN_BOTTOM)).class("rule"),
            label.at("x", x + gap).at("y", y).text(&mark.text),
        ]
    }

    /// The places of a line's points, divided where one is missing.
    fn segments(&self, line: &Line) -> impl Iterator<Item = Vec<(f64, f64)>> {
        let place = |(x, y): &(f64, Option<f64>)| {
            y.map(|y| (across(self.across.place(*x)), height(self.up.place(y))))
        };
        let places: Vec<Option<(f64, f64)>> = line.points.iter().map(place).collect();
        let parts: Vec<Vec<(f64, f64)>> = places
            .split(Option::is_none)
            .map(|part| part.iter().flatten().copied().collect())
            .filter(|part: &Vec<_>| !part.is_empty())
            .collect();
        parts.into_iter()
    }

    fn dots(&self, line: &Line) -> Vec<Element> {
        if line.points.len() > TARGETS_MAX {
            return Vec::new();
        }
        let seen = line.points.len() <= DOTS_MAX;
        let dot = |(x, y): &(f64, Option<f64>)| {
            let y = (*y)?;
            let (print_x, print_y) = self.print;
            let title = format!("{}, {}: {}", line.name, print_x(*x), print_y(y));
            let circle = |radius, class: String| {
                let circle = Element::new("circle").class(class).at("r", radius);
                circle.at("cx", across(self.across.place(*x))).at("cy", height(self.up.place(y)))
            };
            let target = circle(TARGET, "target".to_owned());
            let target = target.and(Element::new("title").text(title));
            let visible = circle(DOT, format!("dot h{}", line.ink.hue % HUES));
            Some(Element::new("g").all(seen.then_some(visible)).and(target))
        };
        line.points.iter().filter_map(dot).collect()
    }
}

impl Line {
    /// Its entry in the legend.
    fn key(&self) -> Element {
        let sample = Element::new("svg").class("key").with("viewBox", "0 0 22 8");
        let sample = sample.with("aria-hidden", "true");
        let sample = sample.and(line((1.0, 4.0), (21.0, 4.0)).class(self.ink.class()));
        Element::new("li").and(sample).text(&self.name)
    }
}

/// A figure with its caption.
pub(crate) fn figure(title: &str, unit: &str) -> Element {
    let caption = Element::new("figcaption").text(title);
    Element::new("figure").and(caption.and(Element::new("span").text(unit)))
}

/// An empty drawing as wide as all others.
pub(crate) fn drawing(height: f64, about: &str) -> Element {
    let svg = Element::new("svg").with("xmlns", "http://www.w3.org/2000/svg").class("plot");
    let svg = svg.with("viewBox", format!("0 0 {} {}", Place(WIDTH), Place(height)));
    svg.with("role", "img").with("aria-label", about)
}

/// Ticks and labels below a drawing.
pub(crate) fn labels_across(axis: &Axis, height: f64) -> Vec<Element> {
    let mut elements = Vec::new();
    let mut free_from = f64::MIN;
    for tick in &axis.ticks {
        let x = across(tick.place);
        let bottom = height - MARGIN_BOTTOM;
        elements.push(line((x, bottom), (x, bottom + 4.0)).class("grid"));
        if let Some(text) = tick.text.as_ref().filter(|_| x >= free_from) {
            free_from = x + LABELS_APART;
            // The last one would stand out of the drawing.
            let (class, x) = match x > WIDTH - MARGIN_RIGHT - LABELS_APART / 2.0 {
                true => ("label end", WIDTH - 1.0),
                false => ("label middle", x),
            };
            let label = Element::new("text").class(class);
            elements.push(label.at("x", x).at("y", height - LABEL_GAP).text(text));
        }
    }
    elements
}

/// Where a place of an axis lies in the drawing.
pub(crate) fn across(place: f64) -> f64 {
    MARGIN_LEFT + place * (WIDTH - MARGIN_LEFT - MARGIN_RIGHT)
}

fn height(place: f64) -> f64 {
    HEIGHT - MARGIN_BOTTOM - place * (HEIGHT - MARGIN_BOTTOM - MARGIN_TOP)
}

fn line(from: (f64, f64), to: (f64, f64)) -> Element {
    Element::new("line").at("x1", from.0).at("y1", from.1).at("x2", to.0).at("y2", to.1)
}

fn polyline(points: &[(f64, f64)]) -> Element {
    let place = |(x, y): &(f64, f64)| format!("{},{}", Place(*x), Place(*y));
    let places: Vec<String> = points.iter().map(place).collect();
    Element::new("polyline").with("points", places.join(" "))
}

/// What lies below a line.
fn area(points: &[(f64, f64)], hue: usize) -> Element {
    let bottom = height(0.0);
    let ends = (points.first(), points.last());
    let mut closed = points.to_vec();
    if let (Some((first, _)), Some((last, _))) = ends {
        closed.extend([(*last, bottom), (*first, bottom)]);
    }
    let place = |(x, y): &(f64, f64)| format!("{},{}", Place(*x), Place(*y));
    let places: Vec<String> = closed.iter().map(place).collect();
    let polygon = Element::new("polygon").class(format!("area h{hue}"));
    polygon.with("points", places.join(" "))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::page::number;

    fn plot(points: Vec<(f64, Option<f64>)>) -> Plot {
        let ink = Ink { hue: 7, stroke: Stroke::Area };
        Plot {
            title: "throughput".into(),
            unit: "records/s",
            across: Axis::exact(0.0, 4.0, number::seconds),
            up: Axis::even(10.0, number::count),
            lines: vec![Line { name: "a < b".into(), ink, points }],
            rules: vec![Rule { at: 8.0, text: "bare".into() }],
            marks: vec![Rule { at: 1.0, text: "drained".into() }],
            print: (number::seconds, number::count),
        }
    }

    #[test]
    fn a_line_has_a_gap_where_a_value_is_missing() {
        let points = vec![(0.5, Some(2.0)), (1.5, None), (2.5, Some(20.0)), (3.5, Some(0.0))];
        let text = plot(points).figure().to_string();
        let parsed = roxmltree::Document::parse(&text).unwrap();
        let svg = "http://www.w3.org/2000/svg";
        let lines: Vec<&str> = parsed
            .descendants()
            .filter(|node| node.has_tag_name((svg, "polyline")))
            .filter_map(|node| node.attribute("points"))
            .collect();
        // Above the axis is at its end.
        assert_eq!(lines, ["122.5,170.4", "364.5,12 485.5,210"]);
        let titles = parsed.descendants().filter(|node| node.has_tag_name((svg, "title")));
        let titles: Vec<_> = titles.filter_map(|node| node.text()).collect();
        assert_eq!(titles, ["a < b, 0.5 s: 2", "a < b, 2.5 s: 20", "a < b, 3.5 s: 0"]);
    }

    #[test]
    fn a_long_line_has_no_dots() {
        let many = (0..1_000).map(|n| (f64::from(n) / 250.0, Some(1.0))).collect();
        assert!(!plot(many).figure().to_string().contains("<circle"));
    }
}
