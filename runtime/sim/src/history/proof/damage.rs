//! One change to a correct history, as a bug of a broker would make it.

mod delays;
mod groups;
mod holders;
mod records;
mod shards;
mod shares;

use super::known::Facts;
use super::rng::Rng;
use crate::history::Rule::{self, History, I1, I2, I3, I4, I5, I6, I7, I8, I9, I10, I11, I13};
use crate::history::{Event, Note, What};

/// The changes.
#[derive(Clone, Copy, Debug)]
pub(super) enum Damage {
    DropAcknowledged,
    DropTail,
    DropTheFinalReading,
    ForgetRetention,
    Swap,
    Duplicate,
    Alter,
    MoveToAnotherTopic,
    Invent,
    RefuseWhatIsRead,
    ShiftAcknowledgement,
    OffsetTwice,
    AboveHighWatermark,
    SwapSequences,
    RepeatSequence,
    FencedEpoch,
    SkipSequence,
    SwapOnConnection,
    JumpBack,
    LowerStoredOffset,
    AcceptOldGeneration,
    GiveWhatIsHeld,
    ForgetMember,
    DeliverAfterAck,
    AcceptOldReceipt,
    DeliverEarly,
    DeliverCountTwice,
    DropDeadLetter,
    LetGoUnsettled,
    SwapKey,
    TwoLeaders,
    ForgetTerm,
    ChangeVote,
    ChangeState,
    ChangeCommitted,
    LowerCommitted,
    LoseQuorum,
    ComeEarly,
    ComeCancelled,
    WriteBehind,
    LetInTwo,
    AnswerTwice,
    ClockBack,
}

type Events = Vec<Event>;

impl Damage {
    pub(super) const ALL: [Self; 43] = [
        Self::DropAcknowledged,
        Self::DropTail,
        Self::DropTheFinalReading,
        Self::ForgetRetention,
        Self::Swap,
        Self::Duplicate,
        Self::Alter,
        Self::MoveToAnotherTopic,
        Self::Invent,
        Self::RefuseWhatIsRead,
        Self::ShiftAcknowledgement,
        Self::OffsetTwice,
        Self::AboveHighWatermark,
        Self::SwapSequences,
        Self::RepeatSequence,
        Self::FencedEpoch,
        Self::SkipSequence,
        Self::SwapOnConnection,
        Self::JumpBack,
        Self::LowerStoredOffset,
        Self::AcceptOldGeneration,
        Self::GiveWhatIsHeld,
        Self::ForgetMember,
        Self::DeliverAfterAck,
        Self::AcceptOldReceipt,
        Self::DeliverEarly,
        Self::DeliverCountTwice,
        Self::DropDeadLetter,
        Self::LetGoUnsettled,
        Self::SwapKey,
        Self::TwoLeaders,
        Self::ForgetTerm,
        Self::ChangeVote,
        Self::ChangeState,
        Self::ChangeCommitted,
        Self::LowerCommitted,
        Self::LoseQuorum,
        Self::ComeEarly,
        Self::ComeCancelled,
        Self::WriteBehind,
        Self::LetInTwo,
        Self::AnswerTwice,
        Self::ClockBack,
    ];

    /// The rules of which at least one must object.
    pub(super) fn rules(self) -> &'static [Rule] {
        match self {
            Self::DropAcknowledged
            | Self::DropTail
            | Self::DropTheFinalReading
            | Self::ForgetRetention
            | Self::LetGoUnsettled => &[I1],
            Self::Swap => &[I4],
            Self::Duplicate | Self::RepeatSequence | Self::FencedEpoch => &[I10],
            Self::WriteBehind | Self::LetInTwo => &[I10],
            Self::Alter | Self::MoveToAnotherTopic => &[I3],
            Self::Invent | Self::RefuseWhatIsRead => &[I2],
            Self::ShiftAcknowledgement => &[I3, I4, I10],
            Self::OffsetTwice | Self::AboveHighWatermark => &[I5],
            Self::SwapSequences | Self::SkipSequence | Self::SwapOnConnection => &[I6],
            Self::JumpBack | Self::SwapKey => &[I6],
            Self::LowerStoredOffset | Self::AcceptOldGeneration => &[I7],
            Self::GiveWhatIsHeld | Self::ForgetMember => &[I7],
            Self::DeliverAfterAck | Self::AcceptOldReceipt => &[I8],
            Self::DeliverEarly | Self::DeliverCountTwice | Self::DropDeadLetter => &[I9],
            Self::ComeEarly | Self::ComeCancelled => &[I11],
            Self::TwoLeaders
            | Self::ForgetTerm
            | Self::ChangeVote
            | Self::ChangeState
            | Self::ChangeCommitted
            | Self::LowerCommitted
            | Self::LoseQuorum => &[I13],
            Self::AnswerTwice | Self::ClockBack => &[History],
        }
    }

    /// The changed history; none where it has no place for the change.
    pub(super) fn apply(self, events: &[Event], rng: &mut Rng) -> Option<Events> {
        let mut events = events.to_vec();
        let facts = Facts::of(&events);
        match self {
            Self::DropAcknowledged
            | Self::DropTail
            | Self::Swap
            | Self::Duplicate
            | Self::Alter
            | Self::MoveToAnotherTopic
            | Self::Invent
            | Self::OffsetTwice
            | Self::AboveHighWatermark
            | Self::DropDeadLetter => self.in_reading(&mut events, &facts, rng)?,
            Self::DropTheFinalReading => {
                let drain = facts.drain?;
                events.truncate(drain + 1);
            }
            Self::ForgetRetention => {
                let is_trim = |event: &Event| match &event.what {
                    What::Note(Note::Trim { start, .. }) => start.0 > 0,
                    _ => false,
                };
                events.iter().any(is_trim).then_some(())?;
                events.retain(|event| !is_trim(event));
            }
            Self::RefuseWhatIsRead | Self::ShiftAcknowledgement => {
                self.in_acknowledgement(&mut events, &facts, rng)?;
            }
            Self::SwapSequences
            | Self::RepeatSequence
            | Self::FencedEpoch
            | Self::SkipSequence
            | Self::SwapOnConnection => self.in_sends(&mut events, &facts, rng)?,
            Self::LetGoUnsettled => records::let_go_unsettled(&mut events, &facts, rng)?,
            Self::JumpBack => groups::jump_back(&mut events, &facts, rng)?,
            Self::LowerStoredOffset | Self::AcceptOldGeneration => {
                self.in_group(&mut events, &facts, rng)?;
            }
            Self::GiveWhatIsHeld | Self::ForgetMember => {
                self.in_shares(&mut events, &facts, rng)?;
            }
            Self::DeliverAfterAck
            | Self::AcceptOldReceipt
            | Self::DeliverEarly
            | Self::DeliverCountTwice
            | Self::SwapKey => self.in_queue(&mut events, &facts, rng)?,
            Self::TwoLeaders
            | Self::ForgetTerm
            | Self::ChangeVote
            | Self::ChangeState
            | Self::ChangeCommitted
            | Self::LowerCommitted
            | Self::LoseQuorum => self.in_replicas(&mut events, rng)?,
            Self::ComeEarly | Self::ComeCancelled => self.in_delays(&mut events, &facts, rng)?,
            Self::WriteBehind => holders::write_behind(&mut events, &facts, rng)?,
            Self::LetInTwo => holders::let_in_two(&mut events, &facts, rng)?,
            Self::AnswerTwice => {
                let ends = |event: &&Event| matches!(event.what, What::Ok { .. });
                let end =
                    rng.pick(&events.iter().filter(ends).cloned().collect::<Vec<_>>())?.clone();
                let at = events.last()?.at;
                events.push(Event { at, ..end });
            }
            Self::ClockBack => {
                let at = 1 + rng.below(events.len() - 1);
                events[at].at.0 = events[at - 1].at.0 - 1;
            }
        }
        Some(events)
    }
}
