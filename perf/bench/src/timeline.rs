//! A run over time: what was done in each second, and what that took of the machine.
//!
//! Owns: tracks (one for each kind of thing that is counted), the processes beside them, and the
//! form both have for programs.
//! Must never: count anything itself. Invariants: all times count from the start of the window that
//! the first track was counted in; before it they are negative.

use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use serde::Serialize;

use crate::intervals::{Interval, total};
use crate::meter::{Meter, Reading};
use crate::sampler::{Samples, Usage};

/// What a report shows over time.
#[derive(Clone, Debug, Default, Serialize)]
pub(crate) struct Timeline {
    pub tracks: Vec<Track>,
    /// The curve of the yardstick's latencies.
    pub bare: Vec<Percentile>,
    #[serde(flatten)]
    pub usage: Usage,
    pub marks: Vec<Mark>,
}

/// What was counted of one kind.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Track {
    pub name: String,
    pub points: Vec<Point>,
    /// The curve of all its latencies.
    pub percentiles: Vec<Percentile>,
}

/// One interval.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Point {
    /// Its beginning.
    pub at_s: f64,
    pub length_s: f64,
    #[serde(flatten)]
    pub reading: Reading,
}

/// So many per cent took at most so long.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub(crate) struct Percentile {
    pub percent: f64,
    pub us: u64,
}

/// Something that happened on the way.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Mark {
    pub at_s: f64,
    pub text: String,
}

/// Steps of the curve between one nine and the next.
const STEPS: u32 = 20;
/// As many nines as the largest histograms can tell.
const NINES_MAX: i32 = 9;

impl Timeline {
    /// Of what the first meter counted, and of what a run took meanwhile.
    pub(crate) fn new(meters: &[(&str, &Meter)], samples: &Samples) -> Self {
        let Some((_, first)) = meters.first() else { return Self::default() };
        let (start, end) = (first.window().start, first.window().end);
        let tracks = meters.iter().map(|(name, meter)| Track::of(name, meter, start)).collect();
        let usage = samples.between(start, end);
        Self { tracks, bare: Vec::new(), usage, marks: Vec::new() }
    }
}

impl Track {
    /// What a meter counted; times count from `zero`.
    fn of(name: &str, meter: &Meter, zero: Instant) -> Self {
        let window = meter.window();
        let before_s = signed_seconds(window.start, zero);
        let point = |(begins, length, interval): (Duration, Duration, &Interval)| {
            let length_s = length.as_secs_f64();
            let latencies = total(std::iter::once(&interval.latencies));
            let reading = Reading::new(interval.records, interval.bytes, length_s, &latencies);
            Point { at_s: before_s + begins.as_secs_f64(), length_s, reading }
        };
        let intervals = (0..).map_while(|index| meter.interval(index));
        Self {
            name: name.to_owned(),
            points: intervals.map(point).collect(),
            percentiles: curve(&meter.latencies()),
        }
    }
}

/// How long `at` is after `zero`.
pub(crate) fn signed_seconds(at: Instant, zero: Instant) -> f64 {
    match at.checked_duration_since(zero) {
        Some(after) => after.as_secs_f64(),
        None => -(zero - at).as_secs_f64(),
    }
}

/// The curve of what was counted, as far as the count carries it: with a thousand latencies it ends
/// at 99.9 %. Its steps are even on an axis of nines; the last point is the largest latency.
pub(crate) fn curve(latencies: &Histogram<u64>) -> Vec<Percentile> {
    let mut points = Vec::new();
    if latencies.is_empty() {
        return points;
    }
    let step = |number: i32| {
        // So many nines: 0 is 0 %, 1 is 90 %, 2 is 99 %.
        let nines = f64::from(number) / f64::from(STEPS);
        100.0 - 100.0 * 10_f64.powf(-nines)
    };
    let nines_max = (latencies.len() as f64).log10().min(f64::from(NINES_MAX));
    let last = (nines_max * f64::from(STEPS)).floor() as i32;
    for percent in (0..=last).map(step) {
        points.push(Percentile { percent, us: latencies.value_at_percentile(percent) });
    }
    points.push(Percentile { percent: 100.0, us: latencies.max() });
    points
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::meter::Window;

    #[test]
    fn a_track_says_what_each_second_came_to() {
        let start = Instant::now() + Duration::from_secs(5);
        let window = Window { start, end: start + Duration::from_millis(2_500) };
        let mut meter = Meter::new(window);
        for ms in [0, 999, 1_000, 2_000, 2_499] {
            let now = start + Duration::from_millis(ms);
            meter.ended(now - Duration::from_millis(1), now, 10, 1 << 20);
        }
        let timeline = Timeline::new(&[("produce", &meter)], &Samples::default());
        let track = &timeline.tracks[0];
        let seen: Vec<(f64, f64, f64)> = track
            .points
            .iter()
            .map(|point| (point.at_s, point.length_s, point.reading.records_per_s))
            .collect();
        // The last is half as long, and holds two.
        assert_eq!(seen, [(0.0, 1.0, 20.0), (1.0, 1.0, 10.0), (2.0, 0.5, 40.0)]);
        assert_eq!(track.points[0].reading.mib_per_s, 2.0);
        let later = Track::of("later", &meter, start - Duration::from_secs(2));
        assert_eq!(later.points[0].at_s, 2.0);
    }

    #[test]
    fn a_curve_goes_as_far_as_its_count_carries_it() {
        let mut latencies = Histogram::new(3).unwrap();
        for us in 1..=1_000 {
            latencies.record(us).unwrap();
        }
        let curve = curve(&latencies);
        let first = curve.first().unwrap();
        assert_eq!((first.percent, first.us), (0.0, 1));
        let last: Vec<_> = curve.iter().rev().take(2).collect();
        assert_eq!((last[0].percent, last[0].us), (100.0, 1_000));
        assert!((last[1].percent - 99.9).abs() < 1e-9, "{last:?}");
        assert!(last[1].us >= 999, "{last:?}");
        let rises = curve.windows(2).all(|pair| pair[0].us <= pair[1].us);
        assert!(rises && curve.windows(2).all(|pair| pair[0].percent < pair[1].percent));
        assert_eq!(super::curve(&Histogram::new(3).unwrap()), []);
    }
}
