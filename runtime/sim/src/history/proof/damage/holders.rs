//! Changes to what one producer at a time may write.

use super::Events;
use super::records::set_identity;
use crate::history::proof::known::{Facts, Known};
use crate::history::proof::rng::Rng;
use crate::history::{Answer, Claiming, Identity, Operation, Stamp, What};
use barrage_model::{Offset, ProducerId};

/// What a producer wrote seems to be of one before it.
pub(super) fn write_behind(events: &mut Events, facts: &Facts, rng: &mut Rng) -> Option<()> {
    let mut held: Vec<(Offset, Stamp, &Known)> = Vec::new();
    for (fingerprint, (place, offset)) in &facts.standing {
        let Some(known) = facts.records.get(fingerprint) else { continue };
        if place.topic.as_str() == "o"
            && known.first == *fingerprint
            && let Identity::Stamped(stamp) = known.identity
        {
            held.push((*offset, stamp, known));
        }
    }
    held.sort_unstable_by_key(|(offset, _, _)| *offset);
    let producers: Vec<ProducerId> = held.iter().map(|(_, stamp, _)| stamp.producer).collect();
    let mut places = Vec::new();
    for at in 1..held.len() {
        let own = producers[at];
        let before = producers[..at].iter().find(|other| **other != own);
        if let Some(before) = before.filter(|_| producers[at - 1] == own) {
            places.push((at, *before));
        }
    }
    let (at, before) = *rng.pick(&places)?;
    let (_, stamp, known) = held[at];
    set_identity(events, &known.calls, Identity::Stamped(Stamp { producer: before, ..stamp }));
    Some(())
}

/// A claim seems to have been granted that was refused.
pub(super) fn let_in_two(events: &mut Events, facts: &Facts, rng: &mut Rng) -> Option<()> {
    let mut sure: Option<ProducerId> = None;
    let mut open = 0;
    let mut places = Vec::new();
    for (at, event) in events.iter().enumerate() {
        let claim = |call| match facts.calls.get(call) {
            Some(Operation::Claim(claim)) => Some(claim),
            _ => None,
        };
        match &event.what {
            What::Invoke { call, .. } if claim(call).is_some() => open += 1,
            What::Ok { call, .. } => {
                let Some(claim) = claim(call) else { continue };
                open -= 1;
                // Who was alone when it was granted has it until somebody else asks.
                let holds = claim.how != Claiming::Release && alone(events, facts, *call, at);
                sure = (open == 0 && holds).then_some(claim.producer);
            }
            What::Fail { call, .. } => {
                let Some(claim) = claim(call) else { continue };
                open -= 1;
                let other = sure.is_some_and(|sure| sure != claim.producer);
                if claim.how == Claiming::Hold
                    && other
                    && open == 0
                    && alone(events, facts, *call, at)
                {
                    places.push((at, *call));
                }
            }
            // It may take effect at any time from here on.
            What::Info { call, .. } if claim(call).is_some() => break,
            _ => {}
        }
    }
    let (at, call) = *rng.pick(&places)?;
    events[at].what = What::Ok { call, answer: Answer::Done };
    Some(())
}

/// Whether no other claim was under way beside this call.
fn alone(events: &Events, facts: &Facts, call: crate::history::Call, end: usize) -> bool {
    let begun = facts.begun[&call];
    let is_claim = |other| matches!(facts.calls.get(other), Some(Operation::Claim(_)));
    events[begun + 1..end].iter().all(|event| match &event.what {
        What::Invoke { call, .. }
        | What::Ok { call, .. }
        | What::Fail { call, .. }
        | What::Info { call, .. } => !is_claim(call),
        What::Note(_) => true,
    })
}
