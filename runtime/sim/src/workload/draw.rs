//! Drawing from a seed: one of several, a time within a range.
//!
//! Must never: draw from anything but the generator it is given.

use std::ops::RangeInclusive;
use std::time::Duration;

use barrage_world::sim::Rng;

pub(crate) const fn milliseconds(count: u64) -> Duration {
    Duration::from_millis(count)
}

pub(crate) fn pick<'a, T>(random: &mut Rng, choices: &'a [T]) -> &'a T {
    let index = random.below(choices.len() as u64) as usize;
    match choices.get(index) {
        Some(choice) => choice,
        None => unreachable!("drawn below the number of choices"),
    }
}

pub(crate) fn between(random: &mut Rng, range: &RangeInclusive<Duration>) -> Duration {
    let nanoseconds = |duration: &Duration| u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX);
    Duration::from_nanos(random.between(nanoseconds(range.start()), nanoseconds(range.end())))
}
