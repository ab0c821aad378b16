//! How busy each core was: a row of tinted fields for each.
//!
//! Owns: that drawing. Must never: show more cores than can be told apart.

use super::axis::Axis;
use super::markup::Element;
use super::number;
use super::plot::{MARGIN_BOTTOM, MARGIN_LEFT, across, drawing, figure, labels_across};
use crate::sampler::CoreUsage;

/// One row: a core with what it is for.
pub(crate) struct Row<'a> {
    pub usage: &'a CoreUsage,
    pub role: &'static str,
}

const TOP: f64 = 6.0;
/// A row with the gap below it; many cores have lower ones.
const ROW: f64 = 22.0;
const ROW_MIN: f64 = 6.0;
const GAP: f64 = 2.0;
const HEIGHT_MAX: f64 = 190.0;
/// Rows lower than this have no room for a name.
const NAMED_MIN: f64 = 12.0;
/// More than this are not drawn: their rows would run into one another.
pub(crate) const ROWS_MAX: usize = 64;

/// The figure; `time` is the axis of all plots beside it.
pub(crate) fn cores(rows: &[Row<'_>], time: &Axis) -> Element {
    let rows = rows.get(..ROWS_MAX.min(rows.len())).unwrap_or_default();
    let row = (HEIGHT_MAX / rows.len().max(1) as f64).clamp(ROW_MIN, ROW);
    let height = TOP + row * rows.len() as f64 + MARGIN_BOTTOM;
    let mut svg = drawing(height, "how busy each core was");
    for (index, core) in rows.iter().enumerate() {
        let y = TOP + row * index as f64;
        let name = format!("{} {}", core.usage.core, core.role);
        if row >= NAMED_MIN {
            let label = Element::new("text").class("label end").at("x", MARGIN_LEFT - 7.0);
            svg = svg.and(label.at("y", y + row / 2.0 + 2.5).text(name.trim_end()));
        }
        let mut before = f64::MIN;
        for point in &core.usage.points {
            // A field reaches from the sample before to this one.
            let left = across(time.place(before.max(point.at_s - longest(core.usage))));
            let right = across(time.place(point.at_s));
            before = point.at_s;
            let busy = number::per_cent(point.busy);
            let title = format!("core {}, {}: {busy}", core.usage.core, number::seconds(before));
            let field = Element::new("rect").class("busy").at("x", left).at("y", y);
            let field = field.at("width", (right - left).max(0.0)).at("height", row - GAP);
            let field = field.with("fill-opacity", format!("{:.2}", point.busy.clamp(0.02, 1.0)));
            svg = svg.and(field.and(Element::new("title").text(title)));
        }
    }
    let svg = svg.all(labels_across(time, height));
    figure("Cores", "busy with anything, from 0 (pale) to 100 %").and(svg)
}

/// The usual time between two samples.
fn longest(usage: &CoreUsage) -> f64 {
    let pairs = usage.points.iter().zip(usage.points.iter().skip(1));
    pairs.map(|(before, after)| after.at_s - before.at_s).fold(1.0, f64::max)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sampler::CorePoint;

    #[test]
    fn a_field_reaches_from_one_sample_to_the_next() {
        let points = vec![CorePoint { at_s: 1.0, busy: 0.5 }, CorePoint { at_s: 2.0, busy: 7.0 }];
        let usage = CoreUsage { core: 3, points };
        let time = Axis::exact(0.0, 4.0, number::seconds);
        let text = cores(&[Row { usage: &usage, role: "server" }], &time).to_string();
        let parsed = roxmltree::Document::parse(&text).unwrap();
        let rects = parsed.descendants().filter(|node| node.tag_name().name() == "rect");
        let of = |node: roxmltree::Node<'_, '_>, name| node.attribute(name).unwrap().to_owned();
        let seen: Vec<_> = rects
            .map(|node| (of(node, "x"), of(node, "width"), of(node, "fill-opacity")))
            .collect();
        let field = |x: &str, opacity: &str| (x.to_owned(), "121".to_owned(), opacity.to_owned());
        assert_eq!(seen, [field("62", "0.50"), field("183", "1.00")]);
        assert!(text.contains("3 server"));
    }

    #[test]
    fn many_cores_fit() {
        let usage = |core| CoreUsage { core, points: vec![CorePoint { at_s: 1.0, busy: 1.0 }] };
        let all: Vec<CoreUsage> = (0..256).map(usage).collect();
        let rows: Vec<Row<'_>> = all.iter().map(|usage| Row { usage, role: "" }).collect();
        let text = cores(&rows, &Axis::exact(0.0, 2.0, number::seconds)).to_string();
        assert_eq!(text.matches("<rect").count(), ROWS_MAX);
    }
}
