//! The page as a whole: that it is well-formed, says what it must, and needs nothing else.

use std::time::{Duration, Instant};

use super::*;
use crate::meter::{Meter, Window};
use crate::sampler::{CorePoint, CoreUsage, ProcessPoint, ProcessUsage, Samples};
use crate::timeline::Mark;

fn timeline(seconds: u64) -> Timeline {
    let start = Instant::now();
    let meter = |slower: u64| {
        let mut meter = Meter::new(Window { start, end: start + Duration::from_secs(seconds) });
        for ms in (0..seconds * 1_000).step_by(10) {
            let now = start + Duration::from_millis(ms);
            // Nothing ends in the third second.
            if ms / 1_000 != 2 {
                let began = now.checked_sub(Duration::from_micros(200 + ms * slower)).unwrap();
                meter.ended(began, now, 100, 10_000);
            }
        }
        meter
    };
    let (publish, consume) = (meter(1), meter(3));
    let tracks = [("publish", &publish), ("end-to-end", &consume)];
    Timeline::new(&tracks, &Samples::default())
}

fn with_usage(mut timeline: Timeline) -> Timeline {
    let at = |second: u32| f64::from(second);
    let point = |second| ProcessPoint {
        at_s: at(second),
        cpu_cores: 0.8,
        written_mib_per_s: 100.0,
        read_mib_per_s: 0.0,
        memory_mib: 300.0,
    };
    let points = (1..5).map(point).collect();
    timeline.usage.processes.push(ProcessUsage { name: "node-0".into(), points });
    let points = (1..5).map(|second| CorePoint { at_s: at(second), busy: 0.9 }).collect();
    timeline.usage.cores.push(CoreUsage { core: 0, points });
    timeline.marks.push(Mark { at_s: 1.5, text: "backlog <built>".into() });
    timeline
}

fn page(timeline: &Timeline) -> String {
    let reading = timeline.tracks.first().map(|track| track.points[0].reading).unwrap_or_default();
    let page = Page {
        title: "run".into(),
        about: "1 topic & 16 partitions".into(),
        facts: vec![("kernel", "Linux 6.1 <x>".into()), ("commit", "abc".into())],
        reading,
        end_to_end: None,
        bare: Some(("bare", reading)),
        ratio: Some(0.5),
        figures: vec![("publish".into(), reading)],
        timeline,
        role: &|_| "server",
    };
    page.html()
}

fn parse(html: &str) -> roxmltree::Document<'_> {
    let options = roxmltree::ParsingOptions { allow_dtd: true, ..Default::default() };
    roxmltree::Document::parse_with_options(html, options).unwrap()
}

#[test]
fn a_page_is_well_formed_and_stands_alone() {
    let html = page(&with_usage(timeline(5)));
    let parsed = parse(&html);
    let texts = |name: &str| -> Vec<String> {
        let nodes = parsed.descendants().filter(|node| node.tag_name().name() == name);
        nodes.map(|node| node.text().unwrap_or_default().to_owned()).collect()
    };
    assert_eq!(texts("dd"), ["Linux 6.1 <x>", "abc"]);
    let captions = [
        "Throughput",
        "Latency: publish",
        "Latency: end-to-end",
        "Latency by percentile",
        "Processor",
        "Disk",
        "Cores",
        "Memory",
    ];
    assert_eq!(texts("figcaption"), captions);
    assert!(texts("text").contains(&"backlog <built>".to_owned()), "marks are drawn");
    assert!(texts("b").contains(&"0.500".to_owned()), "the ratio is told");
    // No script, nothing from elsewhere: no attribute loads anything.
    assert!(texts("script").is_empty() && texts("link").is_empty() && texts("img").is_empty());
    let loads = ["src", "href", "srcset", "data", "onload"];
    let loading = parsed.descendants().flat_map(|node| node.attributes());
    assert_eq!(loading.filter(|attribute| loads.contains(&attribute.name())).count(), 0);
    assert!(!html.contains("url(") && !html.contains("@import"));
}

#[test]
fn everything_is_drawn_inside_its_plot() {
    let html = page(&with_usage(timeline(700)));
    let parsed = parse(&html);
    let mut seen = 0;
    for line in parsed.descendants().filter(|node| node.has_attribute("points")) {
        for place in line.attribute("points").unwrap_or_default().split(' ') {
            let (x, y) = place.split_once(',').unwrap();
            let (x, y): (f64, f64) = (x.parse().unwrap(), y.parse().unwrap());
            assert!((0.0..=plot::WIDTH).contains(&x) && (0.0..=240.0).contains(&y), "{place}");
            seen += 1;
        }
    }
    assert!(seen > 1_000, "{seen}");
}

#[test]
fn a_run_without_figures_is_a_page_too() {
    let html = page(&Timeline::default());
    assert!(parse(&html).descendants().any(|node| node.tag_name().name() == "figure"));
}
