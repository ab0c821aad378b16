//! The simulated cluster: scenarios, their workload clients and the history checker.
//!
//! Owns: what a run does and what must hold afterwards. The world it runs in (clock, disk,
//! network, scheduler) is `barrage_world::sim`; the code under test is the product's own.
//!
//! Must never: touch the machine within a run; judge a run by anything but its history.

#![cfg_attr(
    test,
    allow(
        clippy::unwrap_used,
        clippy::indexing_slicing,
        reason = "a test that meets an unexpected error should fail there"
    )
)]

pub mod history;

#[cfg(sim)]
pub mod bank;
#[cfg(sim)]
#[expect(clippy::disallowed_methods, reason = "runs are made and timed outside of their worlds")]
pub mod runner;
#[cfg(sim)]
pub mod scenario;
#[cfg(sim)]
mod workload;
