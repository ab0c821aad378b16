//! A state machine over the log: partitions that grow, lose their beginning and go.
//!
//! Owns what apply decides. Pure: the same entries give the same decisions in every life.

use std::collections::{BTreeMap, BTreeSet};

use barrage_commitlog::Entry;
use barrage_model::{LogId, LogIndex, Offset, Term};
use serde::{Deserialize, Serialize};

/// What an entry's command says.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(super) enum Command {
    /// Nothing but its runs.
    Produce,
    /// Records of the partition below the offset are not read any more.
    Start { partition: u32, offset: u64 },
    /// The partition goes, for good.
    Delete { partition: u32 },
}

/// What apply does to the log.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Effect {
    Index { run: usize },
    Refuse { run: usize },
    Start { partition: u32, offset: Offset },
    Forget { partition: u32 },
}

/// The offsets of a partition.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug, Serialize, Deserialize)]
pub(super) struct Extent {
    /// What is below is gone for readers.
    pub(super) start: u64,
    pub(super) next: u64,
}

/// The state after some entry.
#[derive(Clone, PartialEq, Eq, Default, Debug, Serialize, Deserialize)]
pub(super) struct Machine {
    pub(super) partitions: BTreeMap<u32, Extent>,
    deleted: BTreeSet<u32>,
    /// Term and index of the newest entry applied.
    applied: Option<(u64, u64)>,
}

impl Machine {
    pub(super) fn applied(&self) -> Option<LogId> {
        self.applied.map(|(term, index)| LogId { term: Term(term), index: LogIndex(index) })
    }

    pub(super) fn next_index(&self) -> u64 {
        self.applied.map_or(0, |(_, index)| index + 1)
    }

    pub(super) fn is_deleted(&self, partition: u32) -> bool {
        self.deleted.contains(&partition)
    }

    /// The offset that the next record of a partition gets.
    pub(super) fn next_offset(&self, partition: u32) -> u64 {
        self.partitions.get(&partition).map_or(0, |extent| extent.next)
    }

    /// Takes in the next entry; says what is to be done to the log.
    pub(super) fn apply(&mut self, entry: &Entry) -> Vec<Effect> {
        assert_eq!(entry.id.index.0, self.next_index(), "entries are applied in order");
        self.applied = Some((entry.id.term.0, entry.id.index.0));
        let mut effects = Vec::new();
        for (run, placed) in entry.runs.iter().enumerate() {
            let partition = placed.key.partition.0;
            let fits = placed.base_offset.0 == self.next_offset(partition);
            if fits && !self.is_deleted(partition) {
                self.partitions.entry(partition).or_default().next = placed.next_offset().0;
                effects.push(Effect::Index { run });
            } else {
                effects.push(Effect::Refuse { run });
            }
        }
        match serde_json::from_slice(&entry.command) {
            Ok(Command::Start { partition, offset }) => {
                if let Some(extent) = self.partitions.get_mut(&partition) {
                    extent.start = extent.start.max(offset.min(extent.next));
                    effects.push(Effect::Start { partition, offset: Offset(extent.start) });
                }
            }
            Ok(Command::Delete { partition }) => {
                self.deleted.insert(partition);
                self.partitions.remove(&partition);
                effects.push(Effect::Forget { partition });
            }
            Ok(Command::Produce) | Err(_) => {}
        }
        effects
    }

    /// The bytes of a checkpoint.
    pub(super) fn encode(&self) -> Vec<u8> {
        serde_json::to_vec(self).unwrap_or_default()
    }

    pub(super) fn decode(bytes: &[u8]) -> Option<Self> {
        serde_json::from_slice(bytes).ok()
    }
}
