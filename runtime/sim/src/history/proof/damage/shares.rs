//! Changes to what members of stream groups were told.

use std::collections::BTreeMap;

use super::{Damage, Events};
use crate::history::proof::known::Facts;
use crate::history::proof::rng::Rng;
use crate::history::{Answer, MemberBeat, Operation, Place, What};

/// An answer to a heartbeat.
#[derive(Clone)]
struct Heard {
    at: usize,
    begun: usize,
    member: String,
    has: Vec<Place>,
    /// It was sent in the generation that it was answered in, and nothing is to be given up.
    is_even: bool,
    /// It named all of what it has.
    is_named: bool,
}

fn heard(events: &Events, facts: &Facts) -> Vec<Heard> {
    let one = |(at, event): (usize, &crate::history::Event)| {
        let What::Ok { call, answer: Answer::Told(told) } = &event.what else { return None };
        let Some(Operation::Beat(MemberBeat { generation, held, .. })) = facts.calls.get(call)
        else {
            return None;
        };
        let has: Vec<Place> = told.own.iter().chain(&told.give_up).cloned().collect();
        let is_even = *generation == Some(told.generation) && told.give_up.is_empty();
        let is_named = generation.is_some() && has.iter().all(|place| held.contains(place));
        let (begun, member) = (facts.begun[call], facts.client[call].clone());
        Some(Heard { at, begun, member, has, is_even, is_named })
    };
    events.iter().enumerate().filter_map(one).collect()
}

impl Damage {
    pub(super) fn in_shares(self, events: &mut Events, facts: &Facts, rng: &mut Rng) -> Option<()> {
        let all = heard(events, facts);
        // Answers to the same member, one after the other, nothing let go in between.
        let mut last: BTreeMap<&str, &Heard> = BTreeMap::new();
        let mut pairs: Vec<(Heard, Heard)> = Vec::new();
        for one in &all {
            if let Some(before) = last.insert(&one.member, one)
                && one.is_named
                && before.at < one.begun
            {
                pairs.push((before.clone(), one.clone()));
            }
        }
        match self {
            Self::GiveWhatIsHeld => {
                let mut places = Vec::new();
                for (before, after) in &pairs {
                    let between = |it: &&Heard| it.begun > before.at && it.at < after.begun;
                    for other in all.iter().filter(between) {
                        let shared = before.has.iter().find(|place| after.has.contains(*place));
                        if let (Some(place), true) = (shared, other.member != after.member) {
                            places.push((other.at, place.clone()));
                        }
                    }
                }
                let (at, place) = rng.pick(&places)?.clone();
                let What::Ok { answer: Answer::Told(told), .. } = &mut events[at].what else {
                    return None;
                };
                told.own.push(place);
            }
            _ => {
                let even: Vec<usize> = (pairs.iter())
                    .filter(|(before, _)| before.is_even)
                    .map(|(_, after)| after.at)
                    .collect();
                let at = *rng.pick(&even)?;
                if let What::Ok { answer, .. } = &mut events[at].what {
                    *answer = Answer::NoMember;
                }
            }
        }
        Some(())
    }
}
