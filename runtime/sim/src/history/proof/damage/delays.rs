//! Changes to what was delayed.

use std::collections::BTreeSet;

use super::{Damage, Events};
use crate::history::proof::known::Facts;
use crate::history::proof::rng::Rng;
use crate::history::{Answer, ChangeDelay, Fingerprint, Nanos, Operation, What};

/// Longer than a history goes on.
const LONG: u64 = 1_000_000_000_000;

impl Damage {
    pub(super) fn in_delays(self, events: &mut Events, facts: &Facts, rng: &mut Rng) -> Option<()> {
        match self {
            Self::ComeEarly => {
                let changed: BTreeSet<Fingerprint> =
                    changes(facts).map(|it| it.fingerprint).collect();
                let mut places = Vec::new();
                for (at, event) in events.iter().enumerate() {
                    let What::Invoke { operation: Operation::Send(batch), .. } = &event.what else {
                        continue;
                    };
                    let is_plain =
                        |it: &Fingerprint| facts.seen.contains(it) && !changed.contains(it);
                    let records = batch.records.iter().zip(0..batch.dues.len());
                    let plain = records.filter(|(record, _)| is_plain(&record.fingerprint));
                    places.extend(plain.map(|(_, place)| (at, place)));
                }
                let (at, place) = *rng.pick(&places)?;
                let What::Invoke { operation: Operation::Send(batch), .. } = &mut events[at].what
                else {
                    return None;
                };
                batch.dues[place] = Nanos(batch.dues[place].0 + LONG);
            }
            // It had come before, and that was said.
            _ => {
                let mut places = Vec::new();
                for (at, event) in events.iter().enumerate() {
                    let What::Fail { call, .. } = &event.what else { continue };
                    if let Some(Operation::Delay(change)) = facts.calls.get(call)
                        && change.to.is_none()
                        && facts.seen.contains(&change.fingerprint)
                    {
                        places.push((at, *call));
                    }
                }
                let (at, call) = *rng.pick(&places)?;
                events[at].what = What::Ok { call, answer: Answer::Done };
            }
        }
        Some(())
    }
}

fn changes(facts: &Facts) -> impl Iterator<Item = &ChangeDelay> {
    facts.calls.values().filter_map(|operation| match operation {
        Operation::Delay(change) => Some(change),
        _ => None,
    })
}
