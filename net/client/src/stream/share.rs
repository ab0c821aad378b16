//! What a member has of its group, without I/O: which partitions, how far each was handed out, and
//! what of that is to be committed.
//!
//! ```text
//!   told: own ------> opening --stored offset known--> reading --handed out--> ... position
//!   told: give up --> giving up: nothing of it is handed out any more
//!                       --poll, committed--> let go: the next heartbeat does not name it
//!   member lost ----> all let go at once; nothing of it is committed any more
//! ```
//!
//! Owns: positions. Must never: hand out a record of a partition that is not the member's, or that
//! was read for the member before it lost the partition.
//! Invariants: what is committed was handed out before; every time that a partition comes it has
//! another slot.

use std::collections::{BTreeMap, BTreeSet};

use barrage_model::{Offset, PartitionKey};
use barrage_wire::{StreamBeat, StreamCommitter, StreamMember, StreamOffset, StreamReads};

/// One time that a partition is the member's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Slot(u64);

#[derive(Debug)]
struct Part {
    slot: Slot,
    is_given_up: bool,
    /// The next offset to hand out; `None` until it is known where to begin.
    position: Option<Offset>,
    /// Something was handed out that is not stored.
    is_handed_out: bool,
    /// So far the program is done.
    done: Option<Offset>,
    committed: Option<Offset>,
}

/// How a member comes.
#[derive(Clone, Debug)]
pub(super) struct Terms {
    pub(super) reads: StreamReads,
    pub(super) session_ms: u64,
    pub(super) rebalance_ms: u64,
}

/// What changed because of what the member was told.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Changed {
    pub(super) opened: Vec<(PartitionKey, Slot)>,
    pub(super) closed: Vec<Slot>,
    pub(super) must_give_up: bool,
}

/// See the module.
#[derive(Debug)]
pub(super) struct Share {
    member: StreamMember,
    terms: Terms,
    /// What it was told last; `None` before it has joined.
    generation: Option<u32>,
    /// It said that it comes: the coordinator may know it, whether that was answered or not.
    is_announced: bool,
    parts: BTreeMap<PartitionKey, Part>,
    /// So far partitions were handed out that were lost before that was stored, and not again
    /// since.
    unstored: BTreeMap<PartitionKey, Offset>,
    next_slot: u64,
}

impl Share {
    pub(super) const fn new(member: StreamMember, terms: Terms) -> Self {
        let (generation, is_announced) = (None, false);
        let parts = BTreeMap::new();
        let unstored = BTreeMap::new();
        Self { member, terms, generation, is_announced, parts, unstored, next_slot: 0 }
    }

    pub(super) fn member(&self) -> StreamMember {
        self.member.clone()
    }

    pub(super) const fn is_member(&self) -> bool {
        self.generation.is_some()
    }

    /// Whether the coordinator may know of this member.
    pub(super) const fn is_announced(&self) -> bool {
        self.is_announced
    }

    pub(super) fn committer(&self) -> Option<StreamCommitter> {
        let generation = self.generation?;
        Some(StreamCommitter { member: self.member(), generation })
    }

    /// What the next heartbeat says.
    pub(super) fn says(&mut self) -> StreamBeat {
        match self.generation {
            None => {
                self.is_announced = true;
                let Terms { reads, session_ms, rebalance_ms } = self.terms.clone();
                StreamBeat::Join { reads, session_ms, rebalance_ms }
            }
            Some(generation) => {
                let held = Some(self.parts.keys().copied().collect());
                StreamBeat::Stay { generation, held, reads: None }
            }
        }
    }

    /// A heartbeat was answered.
    pub(super) fn handle_told(
        &mut self,
        generation: u32,
        own: &[PartitionKey],
        give_up: &[PartitionKey],
    ) -> Changed {
        let mut changed = Changed::default();
        self.generation = Some(generation);
        let known: BTreeSet<_> = own.iter().chain(give_up).copied().collect();
        changed.closed = self.forget(|key, _| !known.contains(key));
        for key in give_up {
            if let Some(part) = self.parts.get_mut(key) {
                changed.must_give_up = true;
                if !std::mem::replace(&mut part.is_given_up, true) {
                    changed.closed.push(part.slot);
                }
            }
        }
        for key in own {
            // Given back before it was let go: it is read on from what is stored.
            self.forget(|other, part| other == key && part.is_given_up);
            if !self.parts.contains_key(key) {
                let slot = Slot(self.next_slot);
                self.next_slot += 1;
                let part = Part {
                    slot,
                    is_given_up: false,
                    position: None,
                    is_handed_out: false,
                    done: None,
                    committed: None,
                };
                self.parts.insert(*key, part);
                changed.opened.push((*key, slot));
            }
        }
        changed
    }

    /// The group goes on without this member: it comes as `id`, with nothing.
    pub(super) fn handle_lost(&mut self, id: String) -> Vec<Slot> {
        self.member.id = id;
        self.is_announced = false;
        self.handle_cut_off()
    }

    /// The group may go on without this member soon: it has nothing any more, and joins again as
    /// the one it is, which it may still be.
    pub(super) fn handle_cut_off(&mut self) -> Vec<Slot> {
        self.generation = None;
        self.forget(|_, _| true)
    }

    /// Forgets partitions, and notes what of them was handed out and not stored; answers their
    /// slots.
    fn forget(&mut self, which: impl Fn(&PartitionKey, &Part) -> bool) -> Vec<Slot> {
        let gone: Vec<_> = self.parts.extract_if(.., |key, part| which(key, part)).collect();
        for (key, part) in &gone {
            if let Some(position) = part.position.filter(|_| part.is_handed_out) {
                self.unstored.insert(*key, position);
            }
        }
        gone.into_iter().map(|(_, part)| part.slot).collect()
    }

    /// Whether something that was handed out was lost before it was stored, with the member or with
    /// the partition, and was not handed out again; asked once.
    pub(super) fn take_unstored(&mut self) -> bool {
        !std::mem::take(&mut self.unstored).is_empty()
    }

    /// The member joins again as the one it is: it missed what it was told.
    pub(super) const fn rejoin(&mut self) {
        self.generation = None;
    }

    /// It is known where a partition begins: at what is stored, or, where nothing is, at a place
    /// that is stored with the next commit. False if it is not the member's any more.
    pub(super) fn open(&mut self, key: PartitionKey, slot: Slot, at: Begin) -> bool {
        let Some(part) = self.part(key, slot) else { return false };
        let (Begin::Stored(offset) | Begin::Chosen(offset)) = at;
        part.position = Some(offset);
        part.done = Some(offset);
        part.committed = matches!(at, Begin::Stored(_)).then_some(offset);
        true
    }

    /// Records up to `end` are handed out; false if they must not be.
    pub(super) fn hand_out(&mut self, key: PartitionKey, slot: Slot, end: Offset) -> bool {
        let Some(part) = self.part(key, slot) else { return false };
        part.position = Some(end);
        part.is_handed_out = true;
        if self.unstored.get(&key).is_some_and(|lost| *lost <= end) {
            self.unstored.remove(&key);
        }
        true
    }

    /// Whether records of this slot may be handed out.
    pub(super) fn is_own(&self, key: PartitionKey, slot: Slot) -> bool {
        self.parts.get(&key).is_some_and(|part| part.slot == slot && !part.is_given_up)
    }

    /// The program is done with everything that was handed out.
    pub(super) fn finish(&mut self) {
        for part in self.parts.values_mut() {
            part.done = part.position;
        }
    }

    /// What is done and not committed.
    pub(super) fn to_commit(&self) -> Vec<StreamOffset> {
        let offset = |(key, part): (&PartitionKey, &Part)| {
            let offset = part.done.filter(|_| part.done != part.committed)?;
            let (leader_epoch, metadata) = (None, String::new());
            Some(StreamOffset { key: *key, offset, leader_epoch, metadata })
        };
        self.parts.iter().filter_map(offset).collect()
    }

    /// An offset is stored.
    pub(super) fn committed(&mut self, key: PartitionKey, offset: Offset) {
        if let Some(part) = self.parts.get_mut(&key) {
            part.committed = Some(offset);
            part.is_handed_out &= part.position != Some(offset);
        }
    }

    /// Lets go of what is to be given up; true if that was something.
    pub(super) fn let_go(&mut self) -> bool {
        !self.forget(|_, part| part.is_given_up).is_empty()
    }

    /// Whether something is to be given up.
    pub(super) fn must_give_up(&self) -> bool {
        self.parts.values().any(|part| part.is_given_up)
    }

    /// The partitions that are the member's, with the next offset to hand out.
    pub(super) fn positions(&self) -> Vec<(PartitionKey, Option<Offset>)> {
        let own = self.parts.iter().filter(|(_, part)| !part.is_given_up);
        own.map(|(key, part)| (*key, part.position)).collect()
    }

    fn part(&mut self, key: PartitionKey, slot: Slot) -> Option<&mut Part> {
        self.parts.get_mut(&key).filter(|part| part.slot == slot && !part.is_given_up)
    }
}

/// Where a partition is read from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Begin {
    /// What is stored.
    Stored(Offset),
    /// Nothing is stored: as the options say.
    Chosen(Offset),
}

#[cfg(test)]
mod tests {
    use barrage_model::{PartitionId, TopicId};
    use barrage_wire::Assignor;

    use super::*;

    fn key(partition: u32) -> PartitionKey {
        PartitionKey { topic: TopicId(1), partition: PartitionId(partition) }
    }

    fn share() -> Share {
        let member = StreamMember { id: "a".to_owned(), instance: None };
        let reads = StreamReads { topics: vec![TopicId(1)], assignor: Assignor::Sticky };
        Share::new(member, Terms { reads, session_ms: 1, rebalance_ms: 2 })
    }

    fn open(share: &mut Share, partition: u32, offset: u64) -> Slot {
        let told = share.handle_told(1, &[key(0), key(1)], &[]);
        let (_, slot) = told.opened[partition as usize];
        assert!(share.open(key(partition), slot, Begin::Stored(Offset(offset))));
        slot
    }

    fn commits(share: &Share) -> Vec<(u32, u64)> {
        let row = |row: StreamOffset| (row.key.partition.0, row.offset.0);
        share.to_commit().into_iter().map(row).collect()
    }

    #[test]
    fn what_was_handed_out_is_committed_once_the_program_is_done() {
        let mut share = share();
        assert!(matches!(share.says(), StreamBeat::Join { .. }));
        let slot = open(&mut share, 0, 5);
        assert_eq!(share.handle_told(1, &[key(0), key(1)], &[]), Changed::default());
        assert!(share.hand_out(key(0), slot, Offset(8)));
        assert_eq!(commits(&share), []);
        share.finish();
        assert_eq!(commits(&share), [(0, 8)]);
        share.committed(key(0), Offset(8));
        assert_eq!(commits(&share), []);
        assert_eq!(share.positions(), [(key(0), Some(Offset(8))), (key(1), None)]);
    }

    #[test]
    fn where_nothing_was_stored_the_beginning_is() {
        let mut share = share();
        let opened = share.handle_told(1, &[key(0)], &[]).opened;
        assert!(share.open(key(0), opened[0].1, Begin::Chosen(Offset(9))));
        assert_eq!(commits(&share), [(0, 9)]);
    }

    #[test]
    fn a_partition_is_committed_and_then_let_go() {
        let mut share = share();
        let slot = open(&mut share, 0, 5);
        assert!(share.hand_out(key(0), slot, Offset(8)));
        let changed = share.handle_told(2, &[key(1)], &[key(0)]);
        assert_eq!((changed.closed, changed.must_give_up), (vec![slot], true));
        assert!(!share.hand_out(key(0), slot, Offset(9)), "no more of it");
        let again = share.handle_told(2, &[key(1)], &[key(0)]);
        assert_eq!((again.closed, again.must_give_up), (vec![], true));
        share.finish();
        assert_eq!(commits(&share), [(0, 8)]);
        assert!(share.must_give_up() && share.let_go() && !share.must_give_up());
        let StreamBeat::Stay { held, .. } = share.says() else { unreachable!("it has joined") };
        assert_eq!(held, Some(vec![key(1)]));
        // It may come back, and is then another one.
        let back = share.handle_told(3, &[key(0), key(1)], &[]).opened;
        assert!(back[0].1 != slot && !share.open(key(0), slot, Begin::Stored(Offset(8))));
        assert!(!share.is_own(key(0), slot) && share.is_own(key(0), back[0].1));
    }

    /// Whoever stores by hand is told that what it was given of such a partition is not stored.
    #[test]
    fn a_partition_that_goes_with_what_is_not_stored_is_told_of() {
        type Loss = fn(&mut Share) -> bool;
        let losses: [(&str, Loss); 3] = [
            ("let go", |share| {
                share.handle_told(2, &[key(1)], &[key(0)]);
                share.let_go()
            }),
            ("taken", |share| share.handle_told(2, &[key(1)], &[]).closed.len() == 1),
            ("given back", |share| {
                share.handle_told(2, &[key(1)], &[key(0)]);
                share.handle_told(3, &[key(0), key(1)], &[]).opened.len() == 1
            }),
        ];
        for (what, lose) in losses {
            for is_stored in [false, true] {
                let mut share = share();
                let slot = open(&mut share, 0, 5);
                assert!(share.hand_out(key(0), slot, Offset(8)));
                share.finish();
                if is_stored {
                    share.committed(key(0), Offset(8));
                }
                assert!(lose(&mut share), "{what}");
                assert_eq!(share.take_unstored(), !is_stored, "{what}");
            }
        }
    }

    #[test]
    fn a_lost_member_commits_nothing_and_comes_back_with_nothing() {
        let mut share = share();
        assert!(!share.is_announced());
        share.says();
        let slot = open(&mut share, 0, 5);
        assert!(share.is_announced() && share.hand_out(key(0), slot, Offset(8)));
        share.finish();
        assert_eq!(share.handle_lost("b".to_owned()).len(), 2);
        assert!(!share.is_announced(), "nobody knows it by this id");
        assert_eq!((commits(&share), share.committer()), (vec![], None));
        assert!(!share.hand_out(key(0), slot, Offset(9)));
        assert!(
            share.take_unstored() && !share.take_unstored(),
            "what was handed out is not stored"
        );
        assert!(matches!(share.says(), StreamBeat::Join { .. }));
        assert_eq!((share.member().id.as_str(), share.is_member()), ("b", false));
        // One that only missed an answer keeps what it has.
        share.handle_told(1, &[key(0)], &[]);
        share.rejoin();
        assert_eq!(share.handle_told(1, &[key(0)], &[]), Changed::default());
        // One that is cut off has nothing, and is still the same.
        assert_eq!((share.handle_cut_off().len(), share.is_member()), (1, false));
        assert_eq!((share.positions(), share.member().id.as_str()), (vec![], "b"));
        assert_eq!(share.handle_told(1, &[key(0)], &[]).opened.len(), 1);
    }
}
