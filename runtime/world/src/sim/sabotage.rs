//! What a run does to the code under test from inside: planted bugs, and moods (`buggify`).
//!
//! Owns: the bug that is switched on by name, and which of the `buggify` points are awake in
//! this run. Must never: draw from the scheduler's numbers, nor change anything in a build
//! without `--cfg sim`, where both questions are answered by a constant.
//!
//! A planted bug is wrong code on purpose, there to show that the scenarios find it. A mood is
//! right code taken by an unusual way: a flush earlier than needed, a queue that says it is full.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet};

use super::executor;
use super::journal;
use super::rng::{Rng, mix};

/// One point in this many is awake in a run.
const AWAKE_ONE_IN: u64 = 4;

thread_local! {
    static PLANTED: RefCell<Option<String>> = const { RefCell::new(None) };
    static REACHED: RefCell<BTreeSet<&'static str>> = const { RefCell::new(BTreeSet::new()) };
    static MOODS_ENABLED: Cell<bool> = const { Cell::new(false) };
    static FIRED: RefCell<BTreeMap<&'static str, u64>> = const { RefCell::new(BTreeMap::new()) };
}

/// Switches on one planted bug, or none, for the runs that follow on this thread.
pub fn plant(name: Option<&str>) {
    PLANTED.with_borrow_mut(|planted| *planted = name.map(str::to_owned));
    REACHED.with_borrow_mut(BTreeSet::clear);
}

/// Whether the line that carries the planted bug was reached since [`plant`]: a bank entry whose
/// name no code knows would else look like one that is hard to find.
#[must_use]
pub fn planted_was_reached() -> bool {
    PLANTED.with_borrow(|planted| {
        let name = planted.as_deref();
        name.is_some_and(|name| REACHED.with_borrow(|reached| reached.contains(name)))
    })
}

/// Lets the `buggify` points of the runs that follow on this thread fire, or keeps them asleep.
pub fn set_buggify(enabled: bool) {
    MOODS_ENABLED.set(enabled);
    FIRED.with_borrow_mut(BTreeMap::clear);
}

/// Puts the `buggify` points to sleep for what is left of a run; what fired stays counted.
pub fn calm_buggify() {
    MOODS_ENABLED.set(false);
}

/// How often each `buggify` point fired since [`set_buggify`].
#[must_use]
pub fn buggified() -> BTreeMap<&'static str, u64> {
    FIRED.with_borrow(Clone::clone)
}

pub(crate) fn is_planted(name: &'static str) -> bool {
    let planted = PLANTED.with_borrow(|planted| planted.as_deref() == Some(name));
    if planted && REACHED.with_borrow_mut(|reached| reached.insert(name)) {
        journal::note(|| format!("planted bug reached: {name}"));
    }
    planted
}

pub(crate) fn buggify(name: &'static str, one_in: u64) -> bool {
    if !MOODS_ENABLED.get() {
        return false;
    }
    let Some(world) = executor::try_world() else { return false };
    // Awake or not follows from the seed and the name alone, so that a point added elsewhere does
    // not change which ones are awake.
    let of_name = name.bytes().fold(0, |sum, byte| mix(sum ^ u64::from(byte)));
    if !Rng::new(world.seed() ^ of_name).one_in(AWAKE_ONE_IN) {
        return false;
    }
    let fires = world.mood_random(|random| random.one_in(one_in));
    if fires {
        FIRED.with_borrow_mut(|fired| *fired.entry(name).or_default() += 1);
        journal::note(|| format!("mood: {name}"));
    }
    fires
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::super::{run, trace_hash};
    use super::*;
    use crate::{planted, sleep};

    /// Asks a point a thousand times; how often it fired, and the trace of the run.
    fn ask(seed: u64, name: &'static str, enabled: bool) -> (u64, u64) {
        set_buggify(enabled);
        let fired = run(seed, async {
            let mut fired = 0;
            for _ in 0..1_000 {
                fired += u64::from(crate::buggify(name, 10));
                sleep(Duration::from_nanos(1)).await;
            }
            fired
        });
        assert_eq!(buggified().get(name).copied().unwrap_or_default(), fired);
        set_buggify(false);
        assert!(buggified().is_empty());
        (fired, trace_hash())
    }

    #[test]
    fn one_planted_bug_is_on_and_tells_whether_it_was_reached() {
        assert!(!planted("world-one"));
        plant(Some("world-one"));
        assert!(!planted_was_reached());
        assert!(!planted("world-two"));
        assert!(!planted_was_reached());
        assert!(planted("world-one"));
        assert!(planted_was_reached());
        plant(Some("world-two"));
        assert!(!planted_was_reached(), "it belongs to the one before");
        assert!(!planted("world-one"));
        plant(None);
        assert!(!planted("world-two"));
        assert!(!planted_was_reached());
    }

    #[test]
    fn a_point_is_awake_in_a_quarter_of_the_runs_and_fires_by_its_period() {
        let mut awake_count = 0;
        for seed in 0..400 {
            let (fired, trace) = ask(seed, "point", true);
            assert_eq!((fired, trace), ask(seed, "point", true), "seed {seed}");
            if fired > 0 {
                assert!((50..150).contains(&fired), "seed {seed}: {fired} of 1,000");
                awake_count += 1;
            }
        }
        assert!((70..130).contains(&awake_count), "{awake_count} of 400");
    }

    #[test]
    fn points_wake_apart() {
        let awake =
            |name| -> Vec<bool> { (0..64).map(|seed| ask(seed, name, true).0 > 0).collect() };
        assert_ne!(awake("one"), awake("two"));
    }

    #[test]
    fn moods_are_asleep_unless_asked_for_and_leave_the_schedule_alone() {
        for seed in 0..20 {
            let ((asleep, without), (_, with)) =
                (ask(seed, "point", false), ask(seed, "point", true));
            assert_eq!(asleep, 0);
            assert_eq!(with, without, "seed {seed}");
        }
        set_buggify(true);
        assert!(!crate::buggify("point", 1), "there is no run to have a mood");
        set_buggify(false);
    }
}
