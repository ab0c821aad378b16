//! How far a group has read each partition: an offset, and what its member wants kept beside it.
//!
//! Owns: stored offsets, in any partition of any topic.
//! Must never: go back, but by [`Offsets::set`]; judge who may store; know whether a topic exists.
//! Invariants: no more than [`OFFSETS_MAX`] offsets and [`METADATA_BYTES_TOTAL_MAX`] of metadata. A
//! clone shares the partitions of each topic until they change; a change after it copies those of
//! one topic.

use std::collections::BTreeMap;
use std::rc::Rc;

use barrage_model::limits::PARTITIONS_PER_TOPIC_MAX;
use barrage_model::{Offset, PartitionId, PartitionKey, TopicId};
use barrage_world::planted;

use super::refused::NotStored;

/// Most partitions that a group stores offsets of: all that a cluster has.
pub(crate) const OFFSETS_MAX: usize = barrage_cluster::catalog::PARTITIONS_MAX as usize;
/// Longest metadata beside an offset.
pub(crate) const METADATA_BYTES_MAX: usize = 4 * 1_024;
/// Most metadata of a group.
pub(crate) const METADATA_BYTES_TOTAL_MAX: usize = 16 << 20;
/// No record has ever been counted up to here.
pub(crate) const OFFSET_MAX: Offset = Offset(1 << 62);

const _: () = assert!(PARTITIONS_PER_TOPIC_MAX as usize <= OFFSETS_MAX);

/// The epoch of the leader that a record was read from, as its batch says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct LeaderEpoch(pub(crate) u32);

/// What is stored of a partition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Stored {
    /// The next record to read.
    pub(crate) offset: Offset,
    pub(crate) leader_epoch: Option<LeaderEpoch>,
    /// The member's own; empty where there is none.
    pub(crate) metadata: Rc<str>,
    /// When it was stored last.
    pub(crate) stored_ms: u64,
}

/// What a member wants stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Commit {
    pub(crate) key: PartitionKey,
    pub(crate) offset: Offset,
    pub(crate) leader_epoch: Option<LeaderEpoch>,
    pub(crate) metadata: String,
}

type Partitions = BTreeMap<PartitionId, Stored>;

/// See the module.
#[derive(Clone, Debug, Default)]
pub(crate) struct Offsets {
    topics: BTreeMap<TopicId, Rc<Partitions>>,
    // What follows is derived.
    count: usize,
    metadata_size: usize,
    /// No offset was stored before this; says where to look, never what expires.
    oldest_ms: Option<u64>,
}

impl PartialEq for Offsets {
    fn eq(&self, other: &Self) -> bool {
        self.topics == other.topics
    }
}

impl Eq for Offsets {}

impl Offsets {
    /// What a checkpoint kept, if it is within the bounds.
    pub(crate) fn restore(stored: impl Iterator<Item = (PartitionKey, Stored)>) -> Option<Self> {
        let mut offsets = Self::default();
        for (key, stored) in stored {
            let fits = stored.offset <= OFFSET_MAX && stored.metadata.len() <= METADATA_BYTES_MAX;
            if !fits || offsets.at(key).is_some() || offsets.check_room(key, &stored).is_err() {
                return None;
            }
            offsets.put(key, stored);
        }
        Some(offsets)
    }

    pub(crate) fn at(&self, key: PartitionKey) -> Option<&Stored> {
        self.topics.get(&key.topic)?.get(&key.partition)
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (PartitionKey, &Stored)> {
        self.topics.iter().flat_map(|(topic, partitions)| {
            let key = |partition| PartitionKey { topic: *topic, partition };
            partitions.iter().map(move |(partition, stored)| (key(*partition), stored))
        })
    }

    /// Topics with stored offsets: whoever knows which exist looks for those that do not.
    pub(crate) fn topics(&self) -> impl Iterator<Item = TopicId> {
        self.topics.keys().copied()
    }

    pub(crate) fn len(&self) -> usize {
        self.count
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// Stores an offset that is not before the one stored.
    pub(crate) fn commit(&mut self, commit: &Commit, now_ms: u64) -> Result<(), NotStored> {
        let Commit { key, offset, leader_epoch, metadata } = commit;
        if metadata.len() > METADATA_BYTES_MAX {
            return Err(NotStored::MetadataTooLong);
        }
        if let Some(stored) = self.at(*key).map(|stored| stored.offset)
            && *offset < stored
            // Wrong when planted: a commit that comes late takes the group back.
            && !planted("broker-stored-offset-falls")
        {
            return Err(NotStored::Behind { stored });
        }
        let (offset, leader_epoch) = (*offset, *leader_epoch);
        let metadata = metadata.as_str().into();
        self.store(*key, Stored { offset, leader_epoch, metadata, stored_ms: now_ms })
    }

    /// Stores an offset, wherever the group was before.
    pub(crate) fn set(
        &mut self,
        key: PartitionKey,
        offset: Offset,
        now_ms: u64,
    ) -> Result<(), NotStored> {
        let metadata = Rc::default();
        // Wrong when planted: nothing is read again.
        let stays = self.at(key).filter(|_| planted("broker-reset-never-goes-back"));
        let offset = stays.map_or(offset, |stored| offset.max(stored.offset));
        self.store(key, Stored { offset, leader_epoch: None, metadata, stored_ms: now_ms })
    }

    /// A topic is gone; answers how many offsets went with it.
    pub(crate) fn remove_topic(&mut self, topic: TopicId) -> usize {
        let Some(gone) = self.topics.remove(&topic) else { return 0 };
        self.count -= gone.len();
        self.metadata_size -= gone.values().map(|stored| stored.metadata.len()).sum::<usize>();
        gone.len()
    }

    /// Lets go of what was stored at `until_ms` or before; answers how much that was. Cost: that of
    /// all offsets, if there may be such.
    pub(crate) fn expire(&mut self, until_ms: u64) -> usize {
        if self.oldest_ms.is_none_or(|oldest_ms| oldest_ms > until_ms) {
            return 0;
        }
        let mut gone = 0;
        for partitions in self.topics.values_mut() {
            let is_over = |stored: &Stored| stored.stored_ms <= until_ms;
            if !partitions.values().any(is_over) {
                continue;
            }
            let partitions = Rc::make_mut(partitions);
            for (_, stored) in partitions.extract_if(.., |_, stored| is_over(stored)) {
                gone += 1;
                self.metadata_size -= stored.metadata.len();
            }
        }
        self.topics.retain(|_, partitions| !partitions.is_empty());
        self.count -= gone;
        self.oldest_ms = self.iter().map(|(_, stored)| stored.stored_ms).min();
        gone
    }

    /// No offset was stored before this, if there are any.
    pub(crate) fn oldest_ms(&self) -> Option<u64> {
        self.oldest_ms.filter(|_| self.count > 0)
    }

    fn store(&mut self, key: PartitionKey, stored: Stored) -> Result<(), NotStored> {
        if stored.offset > OFFSET_MAX {
            return Err(NotStored::OutOfRange);
        }
        self.check_room(key, &stored)?;
        self.put(key, stored);
        Ok(())
    }

    fn check_room(&self, key: PartitionKey, stored: &Stored) -> Result<(), NotStored> {
        let (count, metadata_size) = match self.at(key) {
            Some(before) => (self.count, self.metadata_size - before.metadata.len()),
            None => (self.count + 1, self.metadata_size),
        };
        let fits = metadata_size + stored.metadata.len() <= METADATA_BYTES_TOTAL_MAX;
        if count <= OFFSETS_MAX && fits { Ok(()) } else { Err(NotStored::Full) }
    }

    fn put(&mut self, key: PartitionKey, stored: Stored) {
        let oldest_ms = self.oldest_ms.filter(|_| self.count > 0);
        self.oldest_ms = Some(oldest_ms.unwrap_or(u64::MAX).min(stored.stored_ms));
        self.metadata_size += stored.metadata.len();
        let partitions = Rc::make_mut(self.topics.entry(key.topic).or_default());
        match partitions.insert(key.partition, stored) {
            Some(before) => self.metadata_size -= before.metadata.len(),
            None => self.count += 1,
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests fail by panicking")]

    use super::*;

    fn key(topic: u64, partition: u32) -> PartitionKey {
        PartitionKey { topic: TopicId(topic), partition: PartitionId(partition) }
    }

    fn commit(key: PartitionKey, offset: u64, metadata_size: usize) -> Commit {
        let metadata = "m".repeat(metadata_size);
        Commit { key, offset: Offset(offset), leader_epoch: Some(LeaderEpoch(3)), metadata }
    }

    fn restored(offsets: &Offsets) -> Option<Offsets> {
        Offsets::restore(offsets.iter().map(|(key, stored)| (key, stored.clone())))
    }

    #[test]
    fn an_offset_never_falls_but_by_a_reset() {
        let mut offsets = Offsets::default();
        let behind = |stored| Err(NotStored::Behind { stored: Offset(stored) });
        for (offset, metadata_size, want, after) in [
            (10, 5, Ok(()), 10),
            (9, 0, behind(10), 10),
            (10, 4, Ok(()), 10),
            (12, METADATA_BYTES_MAX, Ok(()), 12),
            (13, METADATA_BYTES_MAX + 1, Err(NotStored::MetadataTooLong), 12),
            (OFFSET_MAX.0 + 1, 0, Err(NotStored::OutOfRange), 12),
            (0, 0, behind(12), 12),
        ] {
            assert_eq!(offsets.commit(&commit(key(1, 0), offset, metadata_size), 7), want);
            assert_eq!(offsets.at(key(1, 0)).unwrap().offset, Offset(after));
        }
        assert_eq!(offsets.metadata_size, METADATA_BYTES_MAX);
        assert_eq!(offsets.set(key(1, 0), Offset(OFFSET_MAX.0 + 1), 8), Err(NotStored::OutOfRange));
        assert_eq!(offsets.set(key(1, 0), Offset(2), 8), Ok(()));
        let stored = offsets.at(key(1, 0)).unwrap();
        assert_eq!((stored.offset, stored.leader_epoch, stored.stored_ms), (Offset(2), None, 8));
        assert_eq!((offsets.metadata_size, offsets.len()), (0, 1));
    }

    #[test]
    fn what_is_old_expires_and_a_topic_goes_with_its_offsets() {
        let mut offsets = Offsets::default();
        for (topic, partition, now_ms) in [(1, 0, 100), (1, 1, 200), (2, 0, 150), (3, 0, 90)] {
            assert_eq!(offsets.commit(&commit(key(topic, partition), 1, 10), now_ms), Ok(()));
        }
        assert_eq!(offsets.commit(&commit(key(3, 0), 2, 10), 300), Ok(()));
        let kept = offsets.clone();
        assert_eq!(offsets.oldest_ms(), Some(90), "where to look, at the earliest");
        assert_eq!(
            (offsets.expire(89), offsets.expire(99), offsets.oldest_ms()),
            (0, 0, Some(100))
        );
        assert_eq!((offsets.expire(150), offsets.oldest_ms()), (2, Some(200)));
        assert!(offsets.topics().eq([1, 3].map(TopicId)));
        assert_eq!(restored(&offsets).as_ref(), Some(&offsets));
        assert_eq!((offsets.remove_topic(TopicId(3)), offsets.remove_topic(TopicId(3))), (1, 0));
        assert_eq!((offsets.len(), offsets.metadata_size), (1, 10));
        assert_eq!((offsets.expire(200), offsets.is_empty()), (1, true));
        assert_eq!((offsets.oldest_ms(), offsets.metadata_size), (None, 0));
        assert_eq!((kept.len(), kept.at(key(2, 0)).unwrap().offset), (4, Offset(1)));
    }

    #[test]
    fn offsets_and_metadata_are_bounded() {
        let mut offsets = Offsets::default();
        let fit = (METADATA_BYTES_TOTAL_MAX / METADATA_BYTES_MAX) as u32;
        for number in 0..fit {
            let long = commit(key(1, number), 0, METADATA_BYTES_MAX);
            assert_eq!(offsets.commit(&long, 0), Ok(()));
        }
        assert_eq!(offsets.commit(&commit(key(1, fit), 0, 1), 0), Err(NotStored::Full));
        assert_eq!(offsets.commit(&commit(key(1, 0), 0, METADATA_BYTES_MAX), 0), Ok(()));
        for number in fit..OFFSETS_MAX as u32 {
            assert_eq!(offsets.commit(&commit(key(1, number), 0, 0), 0), Ok(()));
        }
        assert_eq!(offsets.set(key(2, 0), Offset(0), 0), Err(NotStored::Full));
        assert_eq!(offsets.commit(&commit(key(1, 1), 5, 0), 0), Ok(()));
        assert_eq!(restored(&offsets).as_ref(), Some(&offsets));
    }

    #[test]
    fn what_is_out_of_bounds_is_not_restored() {
        let metadata: Rc<str> = "".into();
        let good = Stored { offset: Offset(1), leader_epoch: None, metadata, stored_ms: 0 };
        let check = |stored: Vec<Stored>| {
            let stored = stored.into_iter().map(|stored| (key(1, 0), stored));
            assert_eq!(Offsets::restore(stored), None);
        };
        check(vec![good.clone(), good.clone()]);
        check(vec![Stored { offset: Offset(u64::MAX), ..good.clone() }]);
        let metadata = "m".repeat(METADATA_BYTES_MAX + 1).into();
        check(vec![Stored { metadata, ..good }]);
    }
}
