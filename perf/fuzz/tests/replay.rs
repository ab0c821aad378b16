//! Replays every kept input of every target, and a few thousand changed ones from a fixed seed.
//!
//! What fails here failed in a parser: the message names the target and the file. A changed input
//! that fails is written to `target/` so that it can be kept as a regression.

#![allow(clippy::unwrap_used, clippy::panic, reason = "tests fail by panicking")]

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};

use barrage_fuzz::mutation::Mutator;
use barrage_fuzz::{TARGETS, Target, Verdict, corpus};

/// Changed inputs per target; those that need a simulated disk take longer.
const CHANGED: u64 = if cfg!(sim) { 5_000 } else { 20_000 };

/// Feeds an input; a breach names where the input lies.
fn judge(target: &Target, input: &[u8], place: impl FnOnce() -> PathBuf) -> Verdict {
    match catch_unwind(AssertUnwindSafe(|| target.judge(input))) {
        Ok((verdict, _)) => verdict,
        Err(_) => panic!("{} breaks a promise on {}", target.name, place().display()),
    }
}

fn replay(target: &Target, folder: &Path) -> usize {
    let files = corpus::read(folder).unwrap();
    for (name, input) in &files {
        judge(target, input, || folder.join(name));
    }
    files.len()
}

#[test]
fn seeds_are_taken_and_kept() {
    for target in TARGETS {
        let folder = corpus::corpus(target.name);
        for (name, input) in (target.seeds)() {
            let place = folder.join(format!("seed-{name}"));
            assert!(input.len() <= target.input_bytes_max, "{} is too long", place.display());
            let verdict = judge(target, &input, || place.clone());
            assert_eq!(verdict, Verdict::Taken, "{} is refused", place.display());
            assert!(place.exists(), "{} is missing; see the README", place.display());
        }
    }
}

#[test]
fn large_inputs_are_taken() {
    let mut broken = Vec::new();
    for target in TARGETS {
        for (name, input) in (target.large)() {
            let verdict = catch_unwind(AssertUnwindSafe(|| target.judge(&input).0)).ok();
            if verdict != Some(Verdict::Taken) {
                broken.push((target.name, name, input.len(), verdict));
            }
        }
    }
    assert!(broken.is_empty(), "{broken:#?}");
}

#[test]
fn the_corpus_replays() {
    for target in TARGETS {
        let count = replay(target, &corpus::corpus(target.name));
        assert!(count > 0, "{} has no corpus", target.name);
    }
}

#[test]
fn regressions_replay() {
    for target in TARGETS {
        replay(target, &corpus::regressions(target.name));
    }
}

#[test]
fn changed_inputs_replay() {
    for target in TARGETS {
        let kept = corpus::read(&corpus::corpus(target.name)).unwrap();
        let inputs: Vec<Vec<u8>> = kept.into_iter().map(|(_, input)| input).collect();
        for number in 0..CHANGED {
            let input = Mutator::new(number).change(&inputs, target.input_bytes_max);
            judge(target, &input, || {
                let place = Path::new(env!("CARGO_TARGET_TMPDIR"))
                    .join(format!("{}-{number}", target.name));
                std::fs::write(&place, &input).unwrap();
                place
            });
        }
    }
}

#[test]
fn every_target_has_its_folder_and_its_binary() {
    let names = barrage_fuzz::NAMES.iter().chain(&barrage_fuzz::NAMES_SIMULATED);
    for name in names {
        assert!(corpus::corpus(name).is_dir(), "{name} has no corpus");
        let binary = corpus::home().join("fuzz/fuzz_targets").join(format!("{name}.rs"));
        assert!(binary.is_file(), "{name} has no binary");
    }
}
