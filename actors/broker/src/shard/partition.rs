//! One partition as its shard knows it: bounds, settings, producers. No payload.
//!
//! Owns: `[start_offset, next_offset)`, the same of its delayed records, and who has written. Must
//! never: know where records lie.
//! Invariants: `start_offset <= next_offset`, `delay_start <= delay_next`; all only grow.

use std::collections::BTreeMap;

use barrage_model::{Offset, ProducerId, Retention, TopicOrder};

use super::holder::Holder;
use super::producers::Producer;

/// What a shard needs to know about a partition from the catalog.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct PartitionConfig {
    /// How long records are kept.
    pub(crate) retention: Retention,
    /// Who may write.
    pub(crate) order: TopicOrder,
    /// Catalog revision the settings come from.
    pub(crate) revision: u64,
}

/// One open partition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Partition {
    pub(crate) start_offset: Offset,
    /// The next record's offset; what is applied is readable, so this is also the high watermark.
    pub(crate) next_offset: Offset,
    /// The oldest delayed record that may still be waiting.
    pub(crate) delay_start: Offset,
    /// The id of the next delayed record.
    pub(crate) delay_next: Offset,
    pub(crate) config: PartitionConfig,
    pub(crate) producers: BTreeMap<ProducerId, Producer>,
    /// Who may write, where the order is global.
    pub(crate) holder: Option<Holder>,
}

impl Partition {
    /// A partition that holds nothing yet.
    pub(crate) fn new(config: PartitionConfig) -> Self {
        let zero = Offset(0);
        Self {
            start_offset: zero,
            next_offset: zero,
            delay_start: zero,
            delay_next: zero,
            config,
            producers: BTreeMap::new(),
            holder: None,
        }
    }

    /// Where the next record goes, into the partition or among the delayed ones.
    pub(crate) fn next(&self, is_delayed: bool) -> Offset {
        if is_delayed { self.delay_next } else { self.next_offset }
    }

    pub(crate) fn set_next(&mut self, is_delayed: bool, next: Offset) {
        *(if is_delayed { &mut self.delay_next } else { &mut self.next_offset }) = next;
    }

    /// No delayed record before `start` waits any more; true if that is news.
    pub(crate) fn advance_delay_start(&mut self, start: Offset) -> bool {
        assert!(start <= self.delay_next, "what waits was stored");
        let moves = start > self.delay_start;
        if moves {
            self.delay_start = start;
        }
        moves
    }

    /// Moves the start on, never back and never past the end; true if it moved.
    pub(crate) fn advance_start(&mut self, start: Offset) -> bool {
        let start = start.min(self.next_offset);
        let moves = start > self.start_offset;
        if moves {
            self.start_offset = start;
        }
        assert!(self.start_offset <= self.next_offset, "a partition starts before it ends");
        moves
    }
}
