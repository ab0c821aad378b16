//! Axes of a plot: where a value lies, and what is written beside it.
//!
//! Owns: round ticks, even steps of powers of ten, and the axis of nines. Must never: place
//! anything outside of `[0, 1]`.
//! Invariants: a larger value never lies lower.

/// What a value is printed as.
pub(crate) type Print = fn(f64) -> String;

/// An axis, from 0 at its beginning to 1 at its end.
#[derive(Clone, Debug)]
pub(crate) struct Axis {
    scale: Scale,
    low: f64,
    high: f64,
    pub ticks: Vec<Tick>,
}

/// A line across the plot, with a label or without.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Tick {
    pub place: f64,
    pub text: Option<String>,
}

#[derive(Clone, Copy, Debug)]
enum Scale {
    Even,
    /// Powers of ten are as far apart as each other.
    Powers,
    /// 90 %, 99 %, 99.9 % are.
    Nines,
}

/// Labels of an even axis, about.
const TICKS: f64 = 5.0;
/// An axis of powers covers at least this factor, so that noise looks like noise.
const POWERS_SPAN_MIN: f64 = 10.0;
/// With more powers than this only those are labelled, else 2 and 5 times them too.
const POWERS_LABELLED_MAX: f64 = 2.5;
/// Room for the largest value behind the last nine, in nines.
const BEHIND_NINES: f64 = 0.12;

impl Axis {
    /// From 0 to a round value at or above `high`.
    pub(crate) fn even(high: f64, print: Print) -> Self {
        Self::even_in(&[1.0], high, print)
    }

    /// The same, round in the largest of these units that fits.
    pub(crate) fn even_in(units: &[f64], high: f64, print: Print) -> Self {
        let high = if high > 0.0 { high } else { 1.0 };
        let fits = units.iter().filter(|unit| **unit <= high).copied();
        let unit = fits.fold(1.0, f64::max);
        let step = round_step(high / unit / TICKS) * unit;
        let count = (high / step).ceil() as u32;
        let high = step * f64::from(count);
        let mut axis = Self { scale: Scale::Even, low: 0.0, high, ticks: Vec::new() };
        for number in 0..=count {
            let value = step * f64::from(number);
            let text = if number == 0 { "0".to_owned() } else { print(value) };
            axis.tick(value, Some(text));
        }
        axis
    }

    /// Exactly from `low` to `high`, with round ticks in between.
    pub(crate) fn exact(low: f64, high: f64, print: Print) -> Self {
        let high = if high > low { high } else { low + 1.0 };
        let step = round_step((high - low) / TICKS);
        let mut axis = Self { scale: Scale::Even, low, high, ticks: Vec::new() };
        let mut number = (low / step).ceil();
        while number * step <= high {
            // Adding nought makes a negative one positive.
            let value = number * step + 0.0;
            axis.tick(value, Some(print(value)));
            number += 1.0;
        }
        axis
    }

    /// Over the powers of ten that hold both, which are above 0.
    pub(crate) fn powers(low: f64, high: f64, print: Print) -> Self {
        let low = low.max(f64::MIN_POSITIVE);
        let high = high.max(low * POWERS_SPAN_MIN);
        let (low, high) = (round_down(low), round_up(high));
        let few = (high / low).log10() <= POWERS_LABELLED_MAX;
        let mut axis = Self { scale: Scale::Powers, low, high, ticks: Vec::new() };
        let first = low.log10().floor() as i32;
        let last = high.log10().ceil() as i32;
        for power in first..=last {
            for factor in 1..10 {
                let value = f64::from(factor) * 10_f64.powi(power);
                if value < low * 0.999 || value > high * 1.001 {
                    continue;
                }
                let labelled = factor == 1 || few && matches!(factor, 2 | 5);
                axis.tick(value, labelled.then(|| print(value)));
            }
        }
        axis
    }

    /// From 0 % over 90, 99 and so on to the last per cent that is known; 100 % lies at its end.
    pub(crate) fn nines(last_per_cent: f64) -> Self {
        let high = nines(last_per_cent).max(1.0) + BEHIND_NINES;
        let mut axis = Self { scale: Scale::Nines, low: 0.0, high, ticks: Vec::new() };
        axis.tick(0.0, Some("0 %".to_owned()));
        axis.tick(50.0, Some("50 %".to_owned()));
        let mut count = 1;
        while f64::from(count) <= high {
            let decimals = usize::try_from(count - 2).unwrap_or(0);
            let per_cent = 100.0 - 100.0 * 0.1_f64.powi(count);
            axis.tick(per_cent, Some(format!("{per_cent:.decimals$} %")));
            count += 1;
        }
        axis
    }

    /// Where a value lies; one beyond an end lies at that end.
    pub(crate) fn place(&self, value: f64) -> f64 {
        let of = |value: f64| match self.scale {
            Scale::Even => value,
            Scale::Powers => value.max(self.low).log10(),
            Scale::Nines => nines(value).min(self.high),
        };
        let (low, high) = match self.scale {
            Scale::Nines => (self.low, self.high),
            _ => (of(self.low), of(self.high)),
        };
        ((of(value) - low) / (high - low)).clamp(0.0, 1.0)
    }

    fn tick(&mut self, value: f64, text: Option<String>) {
        self.ticks.push(Tick { place: self.place(value), text });
    }
}

/// How many nines a percentage has: 90 is 1, 99 is 2; 100 is more than any.
fn nines(per_cent: f64) -> f64 {
    -(1.0 - per_cent / 100.0).max(f64::MIN_POSITIVE).log10()
}

/// The next of 1, 2 and 5 times a power of ten.
fn round_step(step: f64) -> f64 {
    let power = 10_f64.powf(step.log10().floor());
    let factor = [1.0, 2.0, 5.0].into_iter().find(|factor| factor * power >= step * 0.999);
    factor.unwrap_or(10.0) * power
}

/// The largest of 1, 2 and 5 times a power of ten that is not above it.
fn round_down(value: f64) -> f64 {
    let power = 10_f64.powf(value.log10().floor());
    let factor = [5.0, 2.0].into_iter().find(|factor| factor * power <= value * 1.001);
    factor.unwrap_or(1.0) * power
}

/// The smallest of 1, 2 and 5 times a power of ten that is not below it.
fn round_up(value: f64) -> f64 {
    round_step(value)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::page::number;

    fn labels(axis: &Axis) -> Vec<&str> {
        axis.ticks.iter().filter_map(|tick| tick.text.as_deref()).collect()
    }

    #[test]
    fn ticks_are_round_and_lie_within() {
        let even = |high| Axis::even(high, number::count);
        assert_eq!(labels(&even(9.3)), ["0", "2", "4", "6", "8", "10"]);
        assert_eq!(labels(&even(17_400_000.0)), ["0", "5 M", "10 M", "15 M", "20 M"]);
        assert_eq!(labels(&even(0.0)), ["0", "0.2", "0.4", "0.6", "0.8", "1"]);
        let disk = |high| Axis::even_in(&[1.0, 1024.0], high, number::mib_per_s);
        assert_eq!(labels(&disk(1_700.0)), ["0", "512 MiB/s", "1 GiB/s", "1.5 GiB/s", "2 GiB/s"]);
        assert_eq!(labels(&disk(15.0)), ["0", "5 MiB/s", "10 MiB/s", "15 MiB/s"]);
        let exact = Axis::exact(-1.0, 12.0, number::seconds);
        assert_eq!(labels(&exact), ["0 s", "5 s", "10 s"]);
        let narrow = Axis::powers(300.0, 900.0, number::micros);
        assert_eq!(labels(&narrow), ["200 us", "500 us", "1 ms", "2 ms", "5 ms"]);
        let wide = Axis::powers(3.0, 2e6, number::micros);
        assert_eq!(labels(&wide), ["10 us", "100 us", "1 ms", "10 ms", "100 ms", "1 s"]);
        for axis in [even(9.3), exact, narrow, wide, Axis::nines(99.95)] {
            assert!(axis.ticks.iter().all(|tick| (0.0..=1.0).contains(&tick.place)), "{axis:?}");
        }
    }

    #[test]
    fn nines_are_as_far_apart_as_each_other() {
        let axis = Axis::nines(99.95);
        assert_eq!(labels(&axis), ["0 %", "50 %", "90 %", "99 %", "99.9 %"]);
        let nine = axis.place(99.0) - axis.place(90.0);
        assert!((axis.place(99.9) - axis.place(99.0) - nine).abs() < 1e-9);
        assert!(axis.place(99.95) < 1.0);
        assert_eq!((axis.place(0.0), axis.place(100.0)), (0.0, 1.0));
        // So few that no nine is known.
        assert_eq!(labels(&Axis::nines(0.0)), ["0 %", "50 %", "90 %"]);
    }

    #[test]
    fn a_larger_value_never_lies_lower() {
        let axes = [
            Axis::even(100.0, number::plain),
            Axis::powers(1.0, 100.0, number::plain),
            Axis::nines(99.999),
        ];
        for axis in axes {
            let places: Vec<f64> = (0..=200).map(|n| axis.place(f64::from(n) / 2.0)).collect();
            assert!(places.windows(2).all(|pair| pair[0] <= pair[1]), "{axis:?}");
        }
    }
}
