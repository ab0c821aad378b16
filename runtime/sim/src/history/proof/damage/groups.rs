//! Changes to what groups stored, took and settled, and to where readers stand.

use std::collections::BTreeMap;
use std::time::Duration;

use barrage_model::Offset;

use super::{Damage, Events};
use crate::history::proof::known::{Facts, call_of, out_mut, taken_of};
use crate::history::proof::rng::Rng;
use crate::history::{
    Answer, Call, Note, Operation, Place, ReadFrom, SeenRecord, Settlement, Taken, What,
};

impl Damage {
    pub(super) fn in_group(self, events: &mut Events, facts: &Facts, rng: &mut Rng) -> Option<()> {
        match self {
            Self::LowerStoredOffset => {
                // A question that was asked after another was told as much.
                let mut told: Option<(usize, Offset)> = None;
                let mut places = Vec::new();
                for (at, event) in events.iter().enumerate() {
                    match &event.what {
                        What::Invoke { operation: Operation::Reset { .. }, .. } => break,
                        What::Ok { call, answer: Answer::Committed { offset } } => {
                            let begun = facts.begun[call];
                            let is_later = told.is_some_and(|(done, _)| done < begun);
                            if is_later && told.is_some_and(|(_, low)| low.0 > 0) {
                                places.push(at);
                            }
                            if let (None, Some(offset)) = (told, offset) {
                                told = Some((at, *offset));
                            }
                        }
                        _ => {}
                    }
                }
                let at = *rng.pick(&places)?;
                let What::Ok { answer: Answer::Committed { offset }, .. } = &mut events[at].what
                else {
                    return None;
                };
                *offset = told.map(|(_, low)| Offset(low.0 - 1));
            }
            _ => {
                let mut newest = 0;
                let mut places = Vec::new();
                let mut newest_at_begin = BTreeMap::new();
                for (at, event) in events.iter().enumerate() {
                    match &event.what {
                        What::Ok { answer: Answer::Joined { generation }, .. } => {
                            newest = newest.max(*generation);
                        }
                        What::Invoke { call, operation: Operation::Commit(commit), .. } => {
                            // Of the group in which all members meet.
                            let is_old = commit.group.as_str() == "s"
                                && commit.generation.is_some_and(|old| old < newest);
                            newest_at_begin.insert(*call, is_old);
                        }
                        What::Fail { call, .. } if newest_at_begin.get(call) == Some(&true) => {
                            places.push((at, *call));
                        }
                        _ => {}
                    }
                }
                let (at, call) = *rng.pick(&places)?;
                events[at].what = What::Ok { call, answer: Answer::Done };
            }
        }
        Some(())
    }

    pub(super) fn in_queue(self, events: &mut Events, facts: &Facts, rng: &mut Rng) -> Option<()> {
        match self {
            Self::DeliverAfterAck => {
                let mut acked = Vec::new();
                for (at, event) in events.iter().enumerate() {
                    let What::Ok { call, .. } = &event.what else { continue };
                    if let Some(Operation::Settle(settle)) = facts.calls.get(call)
                        && settle.how == Settlement::Ack
                    {
                        acked.push((at, settle.fingerprint, settle.count));
                    }
                }
                let (at, fingerprint, count) = *rng.pick(&acked)?;
                // Some later take shows it once more.
                let later = (at..events.len()).find(|later| match &events[*later].what {
                    What::Ok { call, answer: Answer::Taken(_) } => facts.begun[call] > at,
                    _ => false,
                })?;
                let What::Ok { answer: Answer::Taken(taken), .. } = &mut events[later].what else {
                    return None;
                };
                let (partition, offset) = (None, None);
                taken.push(Taken { fingerprint, count: count + 1, partition, offset });
            }
            Self::AcceptOldReceipt => {
                let places: Vec<(usize, Call)> = (0..events.len())
                    .filter_map(|at| match &events[at].what {
                        What::Fail { call, .. } => Some((at, *call)),
                        _ => None,
                    })
                    .filter(|(_, call)| facts.is_old_receipt(events, call))
                    .collect();
                let (at, call) = *rng.pick(&places)?;
                events[at].what = What::Ok { call, answer: Answer::Done };
            }
            Self::DeliverEarly => {
                let again = facts.delivered_again(events);
                let (first, _) = *rng.pick(&again)?;
                let hour = Duration::from_secs(3600);
                let call = call_of(&events[first])?;
                for event in events {
                    if let What::Invoke { call: other, operation: Operation::Take(take), .. } =
                        &mut event.what
                        && *other == call
                    {
                        take.visibility = hour;
                    }
                }
            }
            Self::DeliverCountTwice => {
                let again = facts.delivered_again(events);
                let (first, second) = *rng.pick(&again)?;
                let (earlier, later) = (taken_of(&events[first])?, taken_of(&events[second])?);
                let same =
                    |one: &&Taken| later.iter().any(|other| other.fingerprint == one.fingerprint);
                let one = *earlier.iter().find(same)?;
                let What::Ok { answer: Answer::Taken(taken), .. } = &mut events[second].what else {
                    return None;
                };
                let it = taken.iter_mut().find(|other| other.fingerprint == one.fingerprint)?;
                it.count = one.count;
            }
            _ => return swap_key(events, facts, rng),
        }
        Some(())
    }
}

/// A reader that goes on is shown its last record again.
pub(super) fn jump_back(events: &mut Events, facts: &Facts, rng: &mut Rng) -> Option<()> {
    let mut stands: BTreeMap<(String, Place), SeenRecord> = BTreeMap::new();
    let mut places = Vec::new();
    for (at, event) in events.iter().enumerate() {
        match &event.what {
            What::Note(Note::Seek { client, place }) => {
                stands.remove(&(client.to_string(), place.clone()));
            }
            What::Ok { call, answer: Answer::Read(out) } => {
                let Some(Operation::Read(ReadFrom { place, from: None })) = facts.calls.get(call)
                else {
                    continue;
                };
                let reader = (facts.client[call].clone(), place.clone());
                if let Some(last) = stands.get(&reader) {
                    places.push((at, *last));
                }
                if let Some(last) = out.records.last() {
                    stands.insert(reader, *last);
                }
            }
            _ => {}
        }
    }
    let (at, again) = *rng.pick(&places)?;
    out_mut(&mut events[at])?.records.insert(0, again);
    Some(())
}

/// Two first deliveries of one key change places.
fn swap_key(events: &mut Events, facts: &Facts, rng: &mut Rng) -> Option<()> {
    let mut firsts: BTreeMap<_, Vec<(usize, usize)>> = BTreeMap::new();
    for (at, event) in events.iter().enumerate() {
        for (place, taken) in taken_of(event).unwrap_or_default().iter().enumerate() {
            let key = facts.records.get(&taken.fingerprint)?.keys.get(&taken.fingerprint)?;
            if taken.count == 1 {
                firsts.entry(*key).or_default().push((at, place));
            }
        }
    }
    let is_after =
        |one: usize, two: usize| call_of(&events[two]).is_some_and(|call| facts.begun[&call] > one);
    // Both delivered once, and the later one sent before the earlier one was delivered.
    let is_plain = |(one, two): ((usize, usize), (usize, usize))| {
        let (early, late) = (taken_of(&events[one.0])?[one.1], taken_of(&events[two.0])?[two.1]);
        let all = || events.iter().filter_map(taken_of).flatten();
        let count = |it| all().filter(|taken| taken.fingerprint == it).count();
        let sent = facts.begun[facts.records.get(&late.fingerprint)?.calls.first()?];
        let is_single = count(early.fingerprint) == 1 && count(late.fingerprint) == 1;
        (is_single && sent < one.0 && is_after(one.0, two.0)).then_some([one, two])
    };
    let pairs: Vec<[(usize, usize); 2]> = (firsts.values())
        .flat_map(|first| first.windows(2).map(|pair| (pair[0], pair[1])))
        .filter_map(is_plain)
        .collect();
    let [one, two] = *rng.pick(&pairs)?;
    let (early, late) = (taken_of(&events[one.0])?[one.1], taken_of(&events[two.0])?[two.1]);
    for ((at, place), it) in [(one, late), (two, early)] {
        if let What::Ok { answer: Answer::Taken(taken), .. } = &mut events[at].what {
            taken[place] = it;
        }
    }
    Some(())
}
