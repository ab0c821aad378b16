//! One partition's spans, one per segment that holds records of it, in order.
//!
//! Invariant: spans and the runs in them are ordered by offset and do not overlap.

use super::{RunPlace, SharedRuns, Stored};
use crate::format::index::Row;
use barrage_model::Offset;
use std::rc::Rc;

/// The runs of one span: in memory, or in the segment's index file.
#[derive(Clone, Debug)]
pub(crate) enum Runs {
    Memory(SharedRuns),
    File(Stored),
}

/// What one segment holds of the partition.
#[derive(Clone, Debug)]
pub(crate) struct Span {
    pub(crate) segment: u64,
    pub(crate) first: Offset,
    pub(crate) next: Offset,
    pub(crate) first_time_ms: i64,
    pub(crate) last_time_ms: i64,
    pub(crate) bytes: u64,
    pub(crate) runs: Runs,
}

impl Span {
    /// As an index file tells.
    pub(crate) fn stored(segment: u64, row: &Row) -> Self {
        Self {
            segment,
            first: row.first,
            next: row.next,
            first_time_ms: row.first_time_ms,
            last_time_ms: row.last_time_ms,
            bytes: row.bytes,
            runs: Runs::File(row.stored),
        }
    }
}

/// A partition of the index.
#[derive(Debug, Default)]
pub(crate) struct Partition {
    start: Offset,
    spans: Vec<Span>,
}

impl Partition {
    /// The offset after the newest record here; none while it has none.
    pub(crate) fn next_offset(&self) -> Option<Offset> {
        self.spans.last().map(|span| span.next)
    }

    /// Bytes of all batches that may still be read, by whole spans.
    pub(crate) fn bytes(&self) -> u64 {
        self.live().map(|span| span.bytes).sum()
    }

    /// Spans that hold readable records, oldest first.
    pub(crate) fn live(&self) -> impl DoubleEndedIterator<Item = &Span> {
        self.spans.iter().filter(|span| span.next > self.start)
    }

    /// The span that holds `offset`, or the first one after it.
    pub(crate) fn span_at(&self, offset: Offset) -> Option<&Span> {
        self.spans.get(self.spans.partition_point(|span| span.next <= offset))
    }

    pub(crate) fn add(&mut self, segment: u64, run: RunPlace) {
        if self.next_offset().is_some_and(|next| run.base_offset < next) {
            return;
        }
        match self.spans.last_mut() {
            Some(Span {
                segment: at, next, last_time_ms, bytes, runs: Runs::Memory(runs), ..
            }) if *at == segment => {
                *next = run.next_offset();
                *last_time_ms = run.log_time_ms;
                *bytes += u64::from(run.byte_len);
                // A reader that still holds the runs keeps the old ones; it is rare and short.
                Rc::make_mut(runs).push(run);
            }
            _ => self.spans.push(Span {
                segment,
                first: run.base_offset,
                next: run.next_offset(),
                first_time_ms: run.log_time_ms,
                last_time_ms: run.log_time_ms,
                bytes: u64::from(run.byte_len),
                runs: Runs::Memory(Rc::new(vec![run])),
            }),
        }
    }

    pub(crate) fn add_span(&mut self, span: Span) {
        if self.next_offset().is_none_or(|next| span.first >= next) {
            self.spans.push(span);
        }
    }

    pub(crate) fn set_start(&mut self, start: Offset) {
        self.start = self.start.max(start);
    }

    pub(crate) fn is_released(&self, segment: u64) -> bool {
        self.span_of(segment).is_none_or(|span| span.next <= self.start)
    }

    pub(crate) fn drop_segment(&mut self, segment: u64) {
        self.spans.retain(|span| span.segment != segment);
    }

    /// The segment holds this now, a part of what it held, or nothing.
    pub(crate) fn rewritten(&mut self, segment: u64, span: Option<Span>) {
        let at = self.spans.partition_point(|span| span.segment < segment);
        match (self.spans.get_mut(at).filter(|old| old.segment == segment), span) {
            (Some(old), Some(new)) => *old = new,
            (Some(_), None) => drop(self.spans.remove(at)),
            (None, _) => {}
        }
    }

    /// Records from here on may be read.
    pub(crate) fn start(&self) -> Offset {
        self.start
    }

    pub(crate) fn span_of(&self, segment: u64) -> Option<&Span> {
        let at = self.spans.partition_point(|span| span.segment < segment);
        self.spans.get(at).filter(|span| span.segment == segment)
    }

    pub(crate) fn store(&mut self, segment: u64, stored: Stored) {
        if let Some(span) = self.spans.iter_mut().find(|span| span.segment == segment) {
            span.runs = Runs::File(stored);
        }
    }

    pub(crate) fn memory_bytes(&self) -> usize {
        let of = |span: &Span| match &span.runs {
            Runs::Memory(runs) => runs.len() * size_of::<RunPlace>(),
            Runs::File(_) => 0,
        };
        self.spans.iter().map(of).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(base: u64, count: u32) -> RunPlace {
        RunPlace {
            base_offset: Offset(base),
            position: base * 100,
            record_count: count,
            byte_len: 10,
            log_time_ms: base as i64,
            max_timestamp: 0,
        }
    }

    #[test]
    fn repeated_runs_are_left_alone_and_offsets_are_found() {
        let mut partition = Partition::default();
        for (segment, base) in [(1, 0), (1, 5), (1, 0), (2, 10), (2, 10), (1, 5)] {
            partition.add(segment, run(base, 5));
        }
        assert_eq!(partition.next_offset(), Some(Offset(15)));
        assert_eq!(partition.bytes(), 30);
        for (offset, segment) in [(0, 1), (4, 1), (9, 1), (10, 2), (14, 2)] {
            assert_eq!(partition.span_at(Offset(offset)).map(|s| s.segment), Some(segment));
        }
        assert!(partition.span_at(Offset(15)).is_none());
        partition.set_start(Offset(10));
        assert!(partition.is_released(1));
        assert!(!partition.is_released(2));
        assert_eq!(partition.bytes(), 10);
    }
}
