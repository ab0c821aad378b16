//! Points inside production code that only the simulator reaches: planted bugs and moods.
//!
//! Owns the two questions that code may ask. Without `--cfg sim` both are answered by a constant
//! `false`, and the branch is compiled out. See `sim::{plant, set_buggify}`.
//!
//! Must never be asked for anything that the real world needs.

/// Whether this planted bug is switched on: wrong code on purpose, kept to show that the
/// simulator finds it. Every name stands in the bug bank of `runtime/sim`.
#[inline(always)]
#[must_use]
pub fn planted(name: &'static str) -> bool {
    #[cfg(sim)]
    {
        crate::sim::is_planted(name)
    }
    #[cfg(not(sim))]
    {
        let _ = name;
        false
    }
}

/// Whether to take the unusual way here: true about once in `one_in` calls, in the quarter of the
/// simulated runs in which this point is awake. Both ways must be correct.
#[inline(always)]
#[must_use]
pub fn buggify(name: &'static str, one_in: u64) -> bool {
    #[cfg(sim)]
    {
        crate::sim::buggify(name, one_in)
    }
    #[cfg(not(sim))]
    {
        let _ = (name, one_in);
        false
    }
}
