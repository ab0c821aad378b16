//! What members of stream groups are told.
//!
//! Owns: how that stands in the history. Must never: judge.

use std::time::Duration;

use barrage_model::{Offset, PartitionKey};
use barrage_wire::{ErrorCode, StreamHeartbeatReply};

use super::{Witness, now};
use crate::history::{Answer, Call, CommitOffset, MemberBeat, Name, Note, Operation, Place, Told};
use crate::workload::client::Topic;

/// How much happened to members.
#[derive(Clone, Copy, Default, Debug)]
pub(crate) struct StreamCounts {
    /// Offsets that were stored, and those that were refused because they were lower.
    pub(crate) stored: u64,
    pub(crate) lower_refused: u64,
    /// Commits of a generation that was over, of partitions that others have, of members that are
    /// gone: refused.
    pub(crate) stale_refused: u64,
    pub(crate) foreign_refused: u64,
    pub(crate) late_refused: u64,
    /// Partitions that a member was to give up.
    pub(crate) given_up: u64,
    /// New generations that members were told, and those while something was wrong.
    pub(crate) generations: u64,
    pub(crate) generations_in_trouble: u64,
    /// Members that were gone when they were heard of again, and those that left.
    pub(crate) expired: u64,
    pub(crate) left: u64,
    pub(crate) resets: u64,
    pub(crate) resets_refused: u64,
    /// What nobody was answered whether it was stored.
    pub(crate) unknown: u64,
}

impl Witness {
    /// Something happened to a member.
    pub(crate) fn count_stream(&self, count: impl FnOnce(&mut StreamCounts)) {
        self.count(|counts| count(&mut counts.streams));
    }

    /// A group reads every record of a topic.
    pub(crate) fn group_reads(&self, group: &str, topic: &Topic) {
        let (group, partitions) = (Name::from(group), topic.partitions);
        let topic = self.place(topic.key(0)).topic;
        self.note(Note::Reads { group, topic, partitions });
    }

    /// Nobody comes to a group or goes from here on.
    pub(crate) fn group_is_calm(&self, group: &str) {
        self.note(Note::Calm { group: Name::from(group) });
    }

    /// Members may come and go again.
    pub(crate) fn group_is_stirred(&self, group: &str) {
        self.note(Note::Stirred { group: Name::from(group) });
    }

    /// A member begins to say that it is there.
    pub(crate) fn beat(&self, member: &Name, group: &str, beat: Beat<'_>) -> Call {
        let Beat { generation, held, instance, lasts } = beat;
        let (group, held) = (Name::from(group), self.places_of(held));
        let instance = instance.map(Name::from);
        let beat = MemberBeat { group, generation, held, instance, lasts };
        self.invoke(member, Operation::Beat(beat))
    }

    /// What it was told.
    pub(crate) fn told(&self, call: Call, told: &StreamHeartbeatReply) {
        let (own, give_up) = (self.places_of(&told.own), self.places_of(&told.give_up));
        let told = Told { generation: told.generation, own, give_up };
        self.history.borrow_mut().ok(now(), call, Answer::Told(told));
    }

    /// It was told that it is no member.
    pub(crate) fn is_no_member(&self, call: Call) {
        self.count_stream(|counts| counts.expired += 1);
        self.history.borrow_mut().ok(now(), call, Answer::NoMember);
    }

    /// A member begins to leave.
    pub(crate) fn leave(&self, member: &Name, group: &str) -> Call {
        self.invoke(member, Operation::Leave { group: Name::from(group) })
    }

    /// Somebody begins to store an offset.
    pub(crate) fn commit(
        &self,
        member: &Name,
        group: &str,
        generation: Option<u32>,
        (key, offset): (PartitionKey, u64),
    ) -> Call {
        let (group, place, offset) = (Name::from(group), self.place(key), Offset(offset));
        self.invoke(member, Operation::Commit(CommitOffset { group, generation, place, offset }))
    }

    /// Somebody begins to ask for a stored offset.
    pub(crate) fn ask_stored(&self, client: &Name, group: &str, key: PartitionKey) -> Call {
        let (group, place) = (Name::from(group), self.place(key));
        self.invoke(client, Operation::Committed { group, place })
    }

    /// It is this, or there is none.
    pub(crate) fn stored(&self, call: Call, offset: Option<u64>) {
        let offset = offset.map(Offset);
        self.history.borrow_mut().ok(now(), call, Answer::Committed { offset });
    }

    /// Somebody begins to set an offset.
    pub(crate) fn reset(
        &self,
        client: &Name,
        group: &str,
        (key, offset): (PartitionKey, u64),
    ) -> Call {
        let (group, place, offset) = (Name::from(group), self.place(key), Offset(offset));
        self.invoke(client, Operation::Reset { group, place, offset })
    }

    /// A commit, a reset or a leave took effect.
    pub(crate) fn done(&self, call: Call) {
        self.history.borrow_mut().ok(now(), call, Answer::Done);
    }

    /// A call was refused; whether it may have taken effect all the same, the code says.
    pub(crate) fn refused(&self, call: Call, code: Option<ErrorCode>) {
        match code {
            Some(code) if !code.is_outcome_unknown() => self.fail(call, code.name()),
            Some(code) => self.info(call, code.name()),
            None => self.info(call, "the connection is lost"),
        }
    }

    fn places_of(&self, keys: &[PartitionKey]) -> Vec<Place> {
        keys.iter().map(|key| self.place(*key)).collect()
    }
}

/// What a member says.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Beat<'a> {
    pub(crate) generation: Option<u32>,
    pub(crate) held: &'a [PartitionKey],
    pub(crate) instance: Option<&'a str>,
    pub(crate) lasts: Duration,
}
