//! Where the runs of each partition lie: offset to log position.
//!
//! Only what apply accepted is here. Runs of segments without an index file are held in memory;
//! those of sealed segments are known by their span and read from the index file when wanted.

mod partition;

pub(crate) use partition::{Partition, Runs, Span};

use crate::entry::Run;
use barrage_model::{Offset, PartitionKey};
use std::collections::BTreeMap;
use std::ops::Bound;
use std::rc::Rc;

/// Where one run lies, and what a search needs to know of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct RunPlace {
    pub(crate) base_offset: Offset,
    /// Log position of the first batch.
    pub(crate) position: u64,
    pub(crate) record_count: u32,
    pub(crate) byte_len: u32,
    pub(crate) log_time_ms: i64,
    pub(crate) max_timestamp: i64,
}

/// Where a partition's runs lie inside an index file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Stored {
    pub(crate) start: u64,
    pub(crate) count: u32,
    pub(crate) crc: u32,
}

impl RunPlace {
    /// Of a run whose batches begin at log position `position`.
    pub(crate) fn new(run: &Run, position: u64, log_time_ms: i64) -> Self {
        Self {
            base_offset: run.base_offset,
            position,
            record_count: run.record_count,
            byte_len: run.byte_len,
            log_time_ms,
            max_timestamp: run.max_timestamp,
        }
    }

    pub(crate) fn next_offset(&self) -> Offset {
        Offset(self.base_offset.0.saturating_add(u64::from(self.record_count)))
    }
}

/// All partitions of a shard.
#[derive(Debug, Default)]
pub(crate) struct Index {
    partitions: BTreeMap<PartitionKey, Partition>,
}

impl Index {
    pub(crate) fn partition(&self, key: PartitionKey) -> Option<&Partition> {
        self.partitions.get(&key)
    }

    /// Adds a run; one that is there already is left alone, so that apply may repeat itself.
    pub(crate) fn add(&mut self, segment: u64, key: PartitionKey, run: RunPlace) {
        self.partitions.entry(key).or_default().add(segment, run);
    }

    /// Adds what an index file says of one partition.
    pub(crate) fn add_span(&mut self, key: PartitionKey, span: Span) {
        self.partitions.entry(key).or_default().add_span(span);
    }

    pub(crate) fn set_start(&mut self, key: PartitionKey, start: Offset) {
        self.partitions.entry(key).or_default().set_start(start);
    }

    /// Forgets every partition that is not known any more.
    pub(crate) fn keep_only(&mut self, known: impl Fn(PartitionKey) -> bool) {
        self.partitions.retain(|key, _| known(*key));
    }

    pub(crate) fn forget(&mut self, key: PartitionKey) {
        self.partitions.remove(&key);
    }

    /// Whether nobody may read anything in the segment any more.
    pub(crate) fn is_released(&self, segment: u64) -> bool {
        self.partitions.values().all(|partition| partition.is_released(segment))
    }

    /// Drops the spans of a segment that is going away.
    pub(crate) fn drop_segment(&mut self, segment: u64) {
        for partition in self.partitions.values_mut() {
            partition.drop_segment(segment);
        }
    }

    /// A segment was rewritten: it holds these spans, and nothing else any more.
    pub(crate) fn rewritten(&mut self, segment: u64, mut spans: BTreeMap<PartitionKey, Span>) {
        for (key, partition) in &mut self.partitions {
            partition.rewritten(segment, spans.remove(key));
        }
    }

    /// The partitions from `from` on.
    pub(crate) fn partitions_from(
        &self,
        from: Bound<PartitionKey>,
    ) -> impl Iterator<Item = (PartitionKey, &Partition)> {
        self.partitions.range((from, Bound::Unbounded)).map(|(key, partition)| (*key, partition))
    }

    /// The spans of a segment.
    pub(crate) fn spans_of(&self, segment: u64) -> Vec<(PartitionKey, Span)> {
        let of = |(key, partition): (&PartitionKey, &Partition)| {
            partition.span_of(segment).map(|span| (*key, span.clone()))
        };
        self.partitions.iter().filter_map(of).collect()
    }

    /// Lets the runs of one span go from memory: they are in the index file now.
    pub(crate) fn store(&mut self, key: PartitionKey, segment: u64, stored: Stored) {
        if let Some(partition) = self.partitions.get_mut(&key) {
            partition.store(segment, stored);
        }
    }

    /// Bytes held in memory for runs.
    pub(crate) fn memory_bytes(&self) -> usize {
        self.partitions.values().map(Partition::memory_bytes).sum()
    }
}

/// The position in `runs` of the run that holds `offset`, or of the first one after it.
pub(crate) fn find(runs: &[RunPlace], offset: Offset) -> usize {
    runs.partition_point(|run| run.next_offset() <= offset)
}

/// Runs shared between the index and readers.
pub(crate) type SharedRuns = Rc<Vec<RunPlace>>;
