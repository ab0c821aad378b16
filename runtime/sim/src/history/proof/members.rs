//! A stream group in memory that does everything right, and its members: partitions are handed over
//! one by one, answers come late or never, members leave and come again under another name.

use std::collections::BTreeSet;
use std::time::Duration;

use barrage_model::Offset;

use super::broker::place;
use super::rng::Rng;
use crate::history::{
    Answer, Call, CommitOffset, History, MemberBeat, Name, Nanos, Operation, Place, Told,
};

const PARTITIONS: u32 = 3;
const MEMBERS: usize = 3;
/// Long enough for nobody to be gone.
const LASTS: Duration = Duration::from_secs(600);

/// A member as the group knows it.
struct Share {
    name: Name,
    generation: u32,
    held: BTreeSet<u32>,
    own: BTreeSet<u32>,
}

#[derive(Default)]
struct Group {
    generation: u32,
    shares: Vec<Share>,
}

/// A call of a member.
struct Asked {
    call: Call,
    operation: Operation,
    result: Option<Answer>,
}

/// A member as it knows itself.
struct Member {
    name: Name,
    generation: Option<u32>,
    held: BTreeSet<u32>,
    give_up: BTreeSet<u32>,
    asked: Option<Asked>,
}

/// See the module.
pub(super) struct Members {
    group: Group,
    members: Vec<Member>,
    born: u32,
    offset: u64,
}

fn places(numbers: &BTreeSet<u32>) -> Vec<Place> {
    numbers.iter().map(|number| place("v", *number)).collect()
}

fn numbers(places: &[Place]) -> BTreeSet<u32> {
    places.iter().map(|place| place.partition.0).collect()
}

impl Group {
    /// Which partitions are to be whose: by turns, in the order in which members came.
    fn target(&self, at: usize) -> BTreeSet<u32> {
        let count = self.shares.len();
        (0..PARTITIONS).filter(|number| *number as usize % count == at).collect()
    }

    fn beat(&mut self, name: &Name, beat: &MemberBeat) -> Option<Answer> {
        if beat.generation.is_none() {
            self.generation += 1;
            let (generation, empty) = (self.generation, BTreeSet::new());
            let (held, own) = (empty.clone(), empty);
            self.shares.push(Share { name: name.clone(), generation, held, own });
        }
        let at = self.shares.iter().position(|share| share.name == *name)?;
        let target = self.target(at);
        let others = self.shares.iter().filter(|share| share.name != *name);
        let taken: BTreeSet<u32> = others.flat_map(|share| share.held.iter().copied()).collect();
        let generation = self.generation;
        let share = self.shares.get_mut(at)?;
        if beat.generation == Some(share.generation) {
            let reported = numbers(&beat.held);
            let own = share.own.clone();
            share.held.retain(|number| own.contains(number) || reported.contains(number));
        }
        if share.generation != generation {
            share.generation = generation;
            share.own = share.held.intersection(&target).copied().collect();
        }
        let free: Vec<u32> = target.difference(&taken).copied().collect();
        share.held.extend(&free);
        share.own.extend(&free);
        let give_up: BTreeSet<u32> = share.held.difference(&share.own).copied().collect();
        let (own, give_up) = (places(&share.own), places(&give_up));
        Some(Answer::Told(Told { generation, own, give_up }))
    }

    fn apply(&mut self, name: &Name, operation: &Operation) -> Option<Answer> {
        match operation {
            Operation::Beat(beat) => self.beat(name, beat),
            Operation::Leave { .. } => {
                self.shares.retain(|share| share.name != *name);
                self.generation += 1;
                Some(Answer::Done)
            }
            Operation::Commit(commit) => {
                let share = self.shares.iter().find(|share| share.name == *name)?;
                let is_its = share.held.contains(&commit.place.partition.0)
                    && commit.generation == Some(share.generation);
                is_its.then_some(Answer::Done)
            }
            _ => None,
        }
    }
}

impl Member {
    fn new(number: u32) -> Self {
        let name = Name::from(format!("m{number}"));
        let (held, give_up) = (BTreeSet::new(), BTreeSet::new());
        Self { name, generation: None, held, give_up, asked: None }
    }
}

impl Members {
    pub(super) fn new() -> Self {
        let members = (0..MEMBERS as u32).map(Member::new).collect();
        Self { group: Group::default(), members, born: MEMBERS as u32, offset: 0 }
    }

    /// Some member goes on.
    pub(super) fn step(&mut self, rng: &mut Rng, history: &mut History, at: Nanos) {
        let chosen = rng.below(self.members.len());
        let offset = self.offset;
        let Some(member) = self.members.get_mut(chosen) else { return };
        match member.asked.take() {
            None => {
                let operation = wish(member, rng, offset);
                self.offset += 1;
                let call = history.invoke(at, &member.name, operation.clone());
                member.asked = Some(Asked { call, operation, result: None });
            }
            Some(Asked { call, operation, result: None }) => {
                match self.group.apply(&member.name, &operation) {
                    Some(answer) => {
                        member.asked = Some(Asked { call, operation, result: Some(answer) });
                    }
                    None => history.fail(at, call, "refused"),
                }
            }
            Some(Asked { call, operation, result: Some(answer) }) => {
                let is_over = matches!(operation, Operation::Leave { .. });
                if rng.one_in(15) {
                    history.info(at, call, "lost");
                } else {
                    learn(member, &answer);
                    history.ok(at, call, answer);
                }
                // Who joined and does not know leaves, too: nobody would hear of it again.
                let is_lost = member.generation.is_none();
                if is_over || is_lost {
                    self.group.shares.retain(|share| share.name != member.name);
                    self.group.generation += 1;
                    *member = Member::new(self.born);
                    self.born += 1;
                }
            }
        }
    }
}

/// What a member asks for next.
fn wish(member: &mut Member, rng: &mut Rng, offset: u64) -> Operation {
    let group = Name::from("m");
    let held: Vec<u32> = member.held.iter().copied().collect();
    match (member.generation, rng.below(12)) {
        (Some(_), 0) if rng.one_in(3) => Operation::Leave { group },
        (Some(generation), 1..=4) if !held.is_empty() => {
            let place = place("v", held[rng.below(held.len())]);
            let (generation, offset) = (Some(generation), Offset(offset));
            Operation::Commit(CommitOffset { group, generation, place, offset })
        }
        (generation, _) => {
            let give_up = std::mem::take(&mut member.give_up);
            member.held.retain(|number| !give_up.contains(number));
            let (held, instance) = (places(&member.held), None);
            Operation::Beat(MemberBeat { group, generation, held, instance, lasts: LASTS })
        }
    }
}

fn learn(member: &mut Member, answer: &Answer) {
    if let Answer::Told(told) = answer {
        member.generation = Some(told.generation);
        member.give_up = numbers(&told.give_up);
        member.held = numbers(&told.own).union(&member.give_up).copied().collect();
    }
}
