//! The checker against a broker that is correct, and against its histories after one thing in
//! them was changed.
//!
//! Owns: the two properties. A correct history is accepted; a changed one is objected to, by the
//! rule that the change is about.

mod broker;
mod damage;
mod known;
mod members;
mod replicas;
mod rng;
mod run;

use proptest::prelude::*;

use self::damage::Damage;
use self::rng::Rng;
use super::{History, Options};

/// Every damage must have been tried so often; most histories have a place for each.
const TRIED_MIN: u32 = 25;
/// Seeds to find that many places.
const SEEDS: u64 = 250;

fn history(seed: u64) -> History {
    run::run(&mut Rng::new(seed))
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 200,
        // The seed is in the message.
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    #[test]
    fn a_correct_history_is_accepted(seed in any::<u64>()) {
        let verdict = history(seed).check(&Options::default());
        prop_assert!(verdict.is_clean(), "seed {}\n{}", seed, verdict);
    }
}

#[test]
fn a_correct_history_is_not_an_empty_one() {
    let mut least = None;
    for seed in 0..50 {
        let verdict = history(seed).check(&Options::default());
        assert!(verdict.is_clean(), "seed {seed}\n{verdict}");
        let counters = verdict.counters;
        let row = [
            counters.records_acknowledged,
            counters.records_unknown,
            counters.records_compared,
            counters.records_drained,
            counters.offsets_compared,
            counters.shares_compared,
            counters.leases_compared,
            counters.delays_compared,
            counters.claims_compared,
            counters.replica_compared,
            counters.quorums_counted,
            counters.sends_failed,
            counters.records_expired,
            counters.records_gone,
        ];
        let sums = least.get_or_insert([0; 14]);
        for (sum, one) in sums.iter_mut().zip(row) {
            *sum += one;
        }
        assert_eq!(counters.drains, 1);
        assert!(counters.records_acknowledged > 50, "seed {seed}: {verdict}");
        assert!(counters.records_drained > 20, "seed {seed}: {verdict}");
    }
    assert!(least.is_some_and(|sums| sums.iter().all(|sum| *sum >= 50)), "{least:?}");
}

#[test]
fn a_changed_history_is_objected_to() {
    let mut wrong = Vec::new();
    for damage in Damage::ALL {
        let mut tried = 0;
        for seed in 0..SEEDS {
            let events = history(seed).events().to_vec();
            let mut rng = Rng::new(seed ^ 0xda3a_6e00);
            let Some(changed) = damage.apply(&events, &mut rng) else { continue };
            assert!(changed != events, "{damage:?} changed nothing, seed {seed}");
            tried += 1;
            let verdict = changed.into_iter().collect::<History>().check(&Options::default());
            let broken: Vec<_> = verdict.broken().collect();
            if !damage.rules().iter().any(|rule| broken.contains(rule)) {
                wrong.push(format!("{damage:?}, seed {seed}: {broken:?}\n{verdict}"));
            }
            if tried == TRIED_MIN {
                break;
            }
        }
        if tried < TRIED_MIN {
            wrong.push(format!("{damage:?} found {tried} places in {SEEDS} histories"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n\n"));
}
