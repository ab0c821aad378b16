//! Fuzz targets for everything that reads bytes from outside: network, disk, peers, people.
//!
//! Owns: the targets as plain functions, the limits they are judged by, the corpora. cargo-fuzz
//! drives them from `fuzz/`; `cargo test` replays what was kept, and changes it a little.
//!
//! Must never: be part of a release. Invariants: a target is total; its seeds are taken; its
//! limits are those of every other target unless its file says why not.

pub mod corpus;
pub mod meter;
pub mod mutation;
mod repair;
pub mod target;
mod targets;

pub use target::{Target, Verdict};
pub use targets::{NAMES, NAMES_SIMULATED, TARGETS};

/// Feeds an input to a target, as a fuzzer does.
///
/// # Panics
/// When the target's parser breaks a promise, or there is no target of this name.
pub fn judge(name: &str, input: &[u8]) {
    let target = TARGETS.iter().find(|target| target.name == name);
    assert!(target.is_some(), "no target {name}");
    if let Some(target) = target {
        let (_verdict, figures) = target.judge(input);
        corpus::note(target, input, figures);
    }
}
