//! One partition's reading position, without I/O: checks what was fetched and moves on.
//!
//! Owns: the next offset wanted. Must never: hand out a record twice, out of order, or unchecked.
//! Invariant: what is handed out continues exactly at `offset`, unless the records between were
//! dropped by retention, which is told as `skipped`.

use barrage_model::batch::{BatchView, DecompressionLimits, Records, batches};
use barrage_model::{Offset, PartitionId};
use bytes::Bytes;

use crate::error::ClientError;

/// A checked batch of one partition.
#[derive(Clone, Debug)]
pub struct FetchedBatch {
    /// The partition.
    pub partition: PartitionId,
    /// First offset wanted of it: a batch may begin before.
    pub first: Offset,
    /// One past the last offset wanted of it.
    pub end: Offset,
    /// Records that retention dropped before they were read, just before this batch.
    pub skipped: u64,
    /// The whole batch v2, as the producer sent it, with base offset and leader epoch stamped.
    pub bytes: Bytes,
}

impl FetchedBatch {
    /// How many records of it are wanted.
    #[must_use]
    pub const fn record_count(&self) -> u64 {
        self.end.0 - self.first.0
    }

    /// Opens the batch. Records outside `[first, end)` are not wanted: see [`Self::wants`].
    ///
    /// # Errors
    /// The bytes are damaged, or open to more than a batch may hold.
    pub fn records(&self) -> Result<Records<'_>, ClientError> {
        let limits = DecompressionLimits::default();
        Ok(barrage_model::batch::records(&self.bytes, &limits)?)
    }

    /// Whether a record of this batch is to be handed out.
    #[must_use]
    pub fn wants(&self, offset: Offset) -> bool {
        (self.first..self.end).contains(&offset)
    }
}

/// See the module.
#[derive(Clone, Debug)]
pub(crate) struct Cursor {
    partition: PartitionId,
    offset: Offset,
    until: Option<Offset>,
    skipped: u64,
}

impl Cursor {
    /// Reads `[offset, until)`.
    pub(crate) const fn new(partition: PartitionId, offset: Offset, until: Option<Offset>) -> Self {
        Self { partition, offset, until, skipped: 0 }
    }

    pub(crate) const fn partition(&self) -> PartitionId {
        self.partition
    }

    /// The next offset wanted.
    pub(crate) const fn offset(&self) -> Offset {
        self.offset
    }

    pub(crate) fn is_finished(&self) -> bool {
        self.until.is_some_and(|until| self.offset >= until)
    }

    /// Checks the batches of a Fetch reply and moves behind them. On an error nothing moved.
    pub(crate) fn handle_fetched(
        &mut self,
        fetched: &Bytes,
    ) -> Result<Vec<FetchedBatch>, ClientError> {
        let mut offset = self.offset;
        let mut skipped = self.skipped;
        let mut wanted = Vec::new();
        for bytes in batches(fetched) {
            let bytes = bytes?;
            let header = *BatchView::check(bytes)?.header();
            let next = header.next_offset();
            if next <= offset {
                continue;
            }
            // Only the first batch may begin before what is wanted.
            if header.base_offset < offset && !wanted.is_empty() {
                let (expected, found) = (offset, header.base_offset);
                return Err(ClientError::OffsetGap { partition: self.partition, expected, found });
            }
            // What every queue group was done with may be gone from between, where the topic keeps
            // records until then.
            skipped += header.base_offset.0.saturating_sub(offset.0);
            offset = offset.max(header.base_offset);
            let end = self.until.map_or(next, |until| next.min(until));
            if end > offset {
                wanted.push(FetchedBatch {
                    partition: self.partition,
                    first: offset,
                    end,
                    skipped: std::mem::take(&mut skipped),
                    bytes: fetched.slice_ref(bytes),
                });
            }
            offset = next;
        }
        self.offset = offset;
        self.skipped = skipped;
        Ok(wanted)
    }

    /// The offset is not there. Below the start, retention was faster than we: go on from there.
    /// Above the end, something is wrong: false.
    pub(crate) fn handle_out_of_range(&mut self, start: Offset) -> bool {
        if start <= self.offset {
            return false;
        }
        self.skipped += start.0 - self.offset.0;
        self.offset = start;
        true
    }
}

#[cfg(test)]
mod tests {
    use barrage_model::batch::{BatchBuilder, Compression, NewRecord, stamp};

    use super::*;

    fn batch(base: u64, count: u64) -> Vec<u8> {
        let mut builder = BatchBuilder::new(Compression::None, 0);
        for n in 0..count {
            let value = (base + n).to_string();
            let record = NewRecord { value: Some(value.as_bytes()), ..NewRecord::default() };
            builder.push(&record).unwrap();
        }
        let mut bytes = builder.finish().unwrap();
        stamp(&mut bytes, Offset(base), 1);
        bytes
    }

    fn read(cursor: &mut Cursor, parts: &[Vec<u8>]) -> Result<Vec<String>, ClientError> {
        let mut values = Vec::new();
        for batch in cursor.handle_fetched(&Bytes::from(parts.concat()))? {
            let records = batch.records()?;
            for record in &records {
                let record = record?;
                if batch.wants(record.offset) {
                    values.push(String::from_utf8_lossy(record.value.unwrap()).into_owned());
                }
            }
        }
        Ok(values)
    }

    fn check(from: u64, until: Option<u64>, parts: &[(u64, u64)], expected: &[u64], next: u64) {
        let mut cursor = Cursor::new(PartitionId(0), Offset(from), until.map(Offset));
        let parts: Vec<_> = parts.iter().map(|&(base, count)| batch(base, count)).collect();
        let expected: Vec<_> = expected.iter().map(u64::to_string).collect();
        assert_eq!(read(&mut cursor, &parts).unwrap(), expected);
        assert_eq!(cursor.offset(), Offset(next));
    }

    #[test]
    fn reads_exactly_what_is_wanted() {
        check(0, None, &[(0, 3), (3, 2)], &[0, 1, 2, 3, 4], 5);
        check(1, None, &[(0, 3)], &[1, 2], 3);
        check(1, Some(2), &[(0, 3), (3, 1)], &[1], 4);
        check(5, None, &[], &[], 5);
        check(5, None, &[(0, 5), (5, 1)], &[5], 6);
        check(0, Some(0), &[(0, 1)], &[], 1);
    }

    #[test]
    fn an_overlap_and_damage_are_errors_and_move_nothing() {
        let mut damaged = batch(0, 2);
        *damaged.last_mut().unwrap() ^= 1;
        let cut = batch(0, 2)[..70].to_vec();
        let table = [
            ("overlap", vec![batch(0, 2), batch(1, 2)]),
            ("damage", vec![damaged]),
            ("cut off", vec![cut]),
        ];
        for (name, parts) in table {
            let mut cursor = Cursor::new(PartitionId(0), Offset(0), None);
            assert!(read(&mut cursor, &parts).is_err(), "{name}");
            assert_eq!(cursor.offset(), Offset(0), "{name}");
        }
    }

    #[test]
    fn what_is_gone_from_between_is_counted() {
        let mut cursor = Cursor::new(PartitionId(0), Offset(0), Some(Offset(8)));
        let fetched = Bytes::from([batch(1, 1), batch(2, 1), batch(5, 2), batch(9, 1)].concat());
        let batches = cursor.handle_fetched(&fetched).unwrap();
        let seen: Vec<_> = batches.iter().map(|b| (b.first.0, b.end.0, b.skipped)).collect();
        assert_eq!(seen, [(1, 2, 1), (2, 3, 0), (5, 7, 2)]);
        assert!(cursor.is_finished());
    }

    #[test]
    fn retention_skips_forward_and_says_so_once() {
        let mut cursor = Cursor::new(PartitionId(0), Offset(2), None);
        assert!(cursor.handle_out_of_range(Offset(5)));
        assert!(!cursor.handle_out_of_range(Offset(5)), "the end was passed, not the start");
        let fetched = Bytes::from([batch(5, 1), batch(6, 1)].concat());
        let batches = cursor.handle_fetched(&fetched).unwrap();
        assert_eq!(batches.iter().map(|b| b.skipped).collect::<Vec<_>>(), [3, 0]);
    }

    #[test]
    fn finished_when_the_end_is_reached() {
        assert!(Cursor::new(PartitionId(0), Offset(3), Some(Offset(3))).is_finished());
        assert!(!Cursor::new(PartitionId(0), Offset(2), Some(Offset(3))).is_finished());
        assert!(!Cursor::new(PartitionId(0), Offset(2), None).is_finished());
    }
}
