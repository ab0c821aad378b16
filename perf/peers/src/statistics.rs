//! What several rounds come to.
//!
//! Owns: medians and ratios. Must never: see where a figure comes from.
//! Invariants: `min <= median <= max`.

use serde::Serialize;

/// A figure over all rounds.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub(crate) struct Summary {
    pub(crate) median: f64,
    pub(crate) min: f64,
    pub(crate) max: f64,
}

impl Summary {
    /// Of at least one figure; the median of an even number is the mean of the middle two.
    pub(crate) fn of(figures: &[f64]) -> Option<Self> {
        let mut sorted = figures.to_vec();
        sorted.sort_by(f64::total_cmp);
        let (min, max) = (*sorted.first()?, *sorted.last()?);
        let upper = *sorted.get(sorted.len() / 2)?;
        let lower = *sorted.get((sorted.len() - 1) / 2)?;
        Some(Self { median: f64::midpoint(lower, upper), min, max })
    }

    /// `ours / theirs`: the ratio of the medians, between the least and the largest ratio of a
    /// round. Both lists are in the order of the rounds.
    pub(crate) fn ratio(ours: &[f64], theirs: &[f64]) -> Option<Self> {
        let rounds: Vec<f64> = ours.iter().zip(theirs).map(|(our, their)| our / their).collect();
        let (each, our, their) = (Self::of(&rounds)?, Self::of(ours)?, Self::of(theirs)?);
        // With an even number of rounds the ratio of medians may lie outside of the rounds' own.
        let median = (our.median / their.median).clamp(each.min, each.max);
        Some(Self { median, ..each })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn summary(median: f64, min: f64, max: f64) -> Option<Summary> {
        Some(Summary { median, min, max })
    }

    #[test]
    fn medians_are_of_the_middle() {
        let check = |figures: &[f64], want| assert_eq!(Summary::of(figures), want, "{figures:?}");
        check(&[], None);
        check(&[3.0], summary(3.0, 3.0, 3.0));
        check(&[9.0, 1.0, 2.0], summary(2.0, 1.0, 9.0));
        check(&[4.0, 1.0, 2.0, 8.0], summary(3.0, 1.0, 8.0));
    }

    #[test]
    fn ratios_are_of_the_medians_and_bounded_by_the_rounds() {
        let check = |ours: &[f64], theirs: &[f64], want| {
            assert_eq!(Summary::ratio(ours, theirs), want, "{ours:?} / {theirs:?}");
        };
        check(&[10.0, 12.0, 14.0], &[5.0, 4.0, 7.0], summary(2.4, 2.0, 3.0));
        check(&[8.0], &[4.0], summary(2.0, 2.0, 2.0));
        check(&[], &[1.0], None);
        check(&[1.0, 1.0], &[], None);
    }
}
