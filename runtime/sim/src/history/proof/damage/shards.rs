//! Changes to what replicas told.

use barrage_model::{LogIndex, NodeId, Term};

use super::{Damage, Events};
use crate::history::proof::rng::Rng;
use crate::history::{Event, Note, Sight, StateHash, What};

impl Damage {
    pub(super) fn in_replicas(self, events: &mut Events, rng: &mut Rng) -> Option<()> {
        let sights: Vec<(usize, NodeId, Sight)> = (0..events.len())
            .filter_map(|at| match &events[at].what {
                What::Note(Note::Replica { node, saw, .. }) => Some((at, *node, *saw)),
                _ => None,
            })
            .collect();
        let told = |index: LogIndex, state: bool| {
            let same = |(_, _, saw): &&(usize, NodeId, Sight)| match saw {
                Sight::Applied { index: other, .. } => state && *other == index,
                Sight::Committed { index: other, .. } => !state && *other == index,
                _ => false,
            };
            sights.iter().filter(same).count()
        };
        // What each node told before, by place.
        let terms = |node: NodeId, end: usize| {
            let mine = sights.iter().filter(move |(at, other, _)| *at < end && *other == node);
            mine.filter_map(|(_, _, saw)| match saw {
                Sight::Voted { term, vote: Some(vote) } => Some((*term, *vote)),
                _ => None,
            })
        };
        let mut places = Vec::new();
        for (at, node, saw) in &sights {
            let changed = match (self, *saw) {
                (Self::TwoLeaders, Sight::Led { .. }) => Some(*saw),
                (Self::ForgetTerm, Sight::Voted { vote, .. }) => terms(*node, *at)
                    .next_back()
                    .filter(|(term, _)| term.0 > 0)
                    .map(|(term, _)| Sight::Voted { term: Term(term.0 - 1), vote }),
                (Self::ChangeVote, Sight::Voted { term, vote: Some(vote) }) => {
                    let is_again =
                        terms(*node, *at).next_back().is_some_and(|(last, _)| last == term);
                    let vote = Some(NodeId(vote.0 % 3 + 1));
                    is_again.then_some(Sight::Voted { term, vote })
                }
                (Self::ChangeState, Sight::Applied { index, state }) if told(index, true) > 1 => {
                    Some(Sight::Applied { index, state: StateHash(state.0 ^ 1) })
                }
                (Self::ChangeCommitted, Sight::Committed { index, term, chain })
                    if told(index, false) > 1 =>
                {
                    Some(Sight::Committed { index, term, chain: StateHash(chain.0 ^ 1) })
                }
                (Self::LowerCommitted, Sight::Committed { index, term, chain }) if index.0 > 1 => {
                    let before =
                        sights.iter().rev().find(|(other, who, _)| other < at && who == node);
                    let is_living = before.is_some_and(|(_, _, saw)| {
                        matches!(saw, Sight::Applied { index: known, .. } if *known >= index)
                    });
                    is_living.then_some(Sight::Committed {
                        index: LogIndex(index.0 - 1),
                        term,
                        chain,
                    })
                }
                (Self::LoseQuorum, Sight::Holds { index, chain }) => {
                    Some(Sight::Holds { index, chain: StateHash(!chain.0) })
                }
                _ => None,
            };
            places.extend(changed.map(|changed| (*at, changed)));
        }
        let (at, changed) = *rng.pick(&places)?;
        let change = |event: &mut Event, to: Sight| {
            if let What::Note(Note::Replica { saw, .. }) = &mut event.what {
                *saw = to;
            }
        };
        match self {
            Self::TwoLeaders => {
                let mut twin = events[at].clone();
                if let What::Note(Note::Replica { node, .. }) = &mut twin.what {
                    node.0 = node.0 % 3 + 1;
                }
                events.insert(at + 1, twin);
            }
            Self::LoseQuorum => {
                places.iter().for_each(|(at, changed)| change(&mut events[*at], *changed));
            }
            _ => change(&mut events[at], changed),
        }
        Some(())
    }
}
