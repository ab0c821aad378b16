//! Records of a queue: taken out of the batches that they lie in.
//!
//! A record is copied, once: the batch around it may be ten thousand times its size, and whoever
//! works on the record for minutes would keep all of it.
//!
//! Must never: hand out a record without a lease, or out of a batch that is damaged.

use std::time::Duration;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use barrage_model::batch::{BatchView, DecompressionLimits, batches};
use barrage_model::{Offset, PartitionId, batch};
use barrage_wire::{Lease, QueueReceiveReply};
use bytes::{Bytes, BytesMut};

use super::receipt::Receipt;
use crate::error::ClientError;

/// A record with bytes of its own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// The partition.
    pub partition: PartitionId,
    /// Its offset there.
    pub offset: Offset,
    /// Milliseconds since 1970, as the producer said.
    pub timestamp_ms: i64,
    /// The key, if any.
    pub key: Option<Bytes>,
    /// The value; none is a tombstone.
    pub value: Option<Bytes>,
    /// Keys and values of its headers.
    pub headers: Vec<(Bytes, Option<Bytes>)>,
}

impl Record {
    /// Bytes of key, value and headers.
    #[must_use]
    pub fn size(&self) -> usize {
        let size = |bytes: &Option<Bytes>| bytes.as_ref().map_or(0, Bytes::len);
        let headers = self.headers.iter().map(|(key, value)| key.len() + size(value));
        size(&self.key) + size(&self.value) + headers.sum::<usize>()
    }

    pub(crate) fn copy(partition: PartitionId, record: &batch::Record<'_>) -> Self {
        let mut buffer = BytesMut::new();
        let mut copy = |bytes: &[u8]| {
            buffer.extend_from_slice(bytes);
            buffer.split().freeze()
        };
        let key = record.key.map(&mut copy);
        let value = record.value.map(&mut copy);
        let headers = record.headers.iter();
        let headers = headers.map(|header| (copy(header.key), header.value.map(&mut copy)));
        let headers = headers.collect();
        let (offset, timestamp_ms) = (record.offset, record.timestamp_ms);
        Self { partition, offset, timestamp_ms, key, value, headers }
    }
}

/// A record and its lease.
#[derive(Clone, Debug)]
pub struct Received {
    /// The record.
    pub record: Record,
    /// Settles it.
    pub receipt: Receipt,
    /// Times it was delivered, this one counted.
    pub deliveries: u16,
    /// When it was delivered first, milliseconds since 1970.
    pub first_delivered_ms: u64,
    /// When the lease ends, counted from when its grant was heard of: settle well before.
    pub lease_end: Instant,
    /// The same by this machine's clock, milliseconds since 1970.
    pub lease_end_ms: u64,
}

/// When an answer came, by both clocks.
#[derive(Clone, Copy, Debug)]
pub(super) struct Heard {
    at: Instant,
    at_ms: u64,
}

impl Heard {
    pub(super) fn now() -> Self {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Self { at: Instant::now(), at_ms: u64::try_from(since.as_millis()).unwrap_or(u64::MAX) }
    }
}

/// Why the batches of an answer are not what they should be.
#[derive(Debug)]
pub(super) enum Unfit {
    /// A batch is damaged.
    Batch(ClientError),
    /// A record that was leased is in none of them.
    Missing(Offset),
}

impl From<batch::BatchError> for Unfit {
    fn from(error: batch::BatchError) -> Self {
        Self::Batch(error.into())
    }
}

/// The leased records of an answer.
pub(super) fn leased(
    partition: PartitionId,
    reply: &QueueReceiveReply<'_>,
    heard: Heard,
) -> Result<Vec<Received>, Unfit> {
    let mut received = Vec::with_capacity(reply.leases.len());
    let wanted: Vec<Offset> = reply.leases.iter().map(|lease| lease.offset).collect();
    let records = pick(partition, reply.batches, &wanted)?;
    let mut records = records.into_iter();
    for lease in &reply.leases {
        let record = records.next().filter(|record| record.offset == lease.offset);
        let record = record.ok_or(Unfit::Missing(lease.offset))?;
        received.push(received_of(record, lease, heard));
    }
    Ok(received)
}

fn received_of(record: Record, lease: &Lease, heard: Heard) -> Received {
    let Lease { offset, tag, deliveries, first_ms, left_ms } = *lease;
    let receipt = Receipt { partition: record.partition, offset, tag };
    // Checked: an ill server may say anything.
    let left = Duration::from_millis(left_ms);
    let lease_end = heard.at.checked_add(left).unwrap_or(heard.at);
    let lease_end_ms = heard.at_ms.saturating_add(left_ms);
    let first_delivered_ms = first_ms;
    Received { record, receipt, deliveries, first_delivered_ms, lease_end, lease_end_ms }
}

/// The records at these offsets, which ascend; those that the batches do not hold are left out.
pub(super) fn pick(
    partition: PartitionId,
    bytes: &[u8],
    wanted: &[Offset],
) -> Result<Vec<Record>, batch::BatchError> {
    let mut picked = Vec::with_capacity(wanted.len());
    let mut wanted = wanted.iter().peekable();
    for bytes in batches(bytes) {
        let view = BatchView::check(bytes?)?;
        let records = view.records(&DecompressionLimits::default())?;
        for record in &records {
            let record = record?;
            while wanted.next_if(|offset| **offset < record.offset).is_some() {}
            if wanted.next_if(|offset| **offset == record.offset).is_some() {
                picked.push(Record::copy(partition, &record));
            }
        }
    }
    Ok(picked)
}

#[cfg(test)]
mod tests {
    use barrage_model::batch::{BatchBuilder, Compression, NewRecord, stamp};

    use super::*;

    fn batch(base: u64, count: u64, compression: Compression) -> Vec<u8> {
        let mut builder = BatchBuilder::new(compression, 0);
        for n in base..base + count {
            let value = n.to_string();
            let headers: [(&[u8], &[u8]); 1] = [(b"n", value.as_bytes())];
            let key = Some(b"key".as_slice());
            let new = NewRecord {
                key,
                value: Some(value.as_bytes()),
                headers: &headers,
                timestamp_ms: 7,
            };
            builder.push(&new).unwrap();
        }
        let mut bytes = builder.finish().unwrap();
        stamp(&mut bytes, Offset(base), 1);
        bytes
    }

    fn lease(offset: u64) -> Lease {
        Lease { offset: Offset(offset), tag: 5, deliveries: 2, first_ms: 9, left_ms: 1_000 }
    }

    fn check(leases: &[u64], batches: &[Vec<u8>], expected: &str) {
        let batches = batches.concat();
        let leases = leases.iter().copied().map(lease).collect();
        let reply = QueueReceiveReply { more: false, leases, batches: &batches };
        let found = match leased(PartitionId(3), &reply, Heard::now()) {
            Ok(received) => received.iter().map(|one| one.receipt.to_string()).collect(),
            Err(Unfit::Missing(offset)) => vec![format!("no {offset}")],
            Err(Unfit::Batch(_)) => vec!["damaged".to_owned()],
        };
        assert_eq!(found.join(" "), expected);
    }

    #[test]
    fn only_what_is_leased_is_handed_out() {
        for compression in [Compression::None, Compression::Lz4] {
            let (first, second) = (batch(0, 3, compression), batch(7, 2, compression));
            let both = [first, second];
            check(&[1, 2, 8], &both, "3-1-5 3-2-5 3-8-5");
            check(&[], &both, "");
            check(&[0], &both, "3-0-5");
            check(&[1, 5, 8], &both, "no 5");
            check(&[9], &both, "no 9");
            check(&[1], &[], "no 1");
        }
    }

    #[test]
    fn damage_is_an_error_even_beside_what_is_leased() {
        let mut damaged = batch(0, 2, Compression::None);
        *damaged.last_mut().unwrap() ^= 1;
        check(&[0], &[damaged], "damaged");
        check(&[0], &[batch(0, 2, Compression::None)[..70].to_vec()], "damaged");
    }

    #[test]
    fn a_record_is_whole_and_its_lease_ends_after_it_was_heard_of() {
        let bytes = batch(4, 1, Compression::None);
        let reply = QueueReceiveReply { more: true, leases: vec![lease(4)], batches: &bytes };
        let heard = Heard::now();
        let received = leased(PartitionId(3), &reply, heard).unwrap();
        let only = &received[0];
        let wanted = Record {
            partition: PartitionId(3),
            offset: Offset(4),
            timestamp_ms: 7,
            key: Some(Bytes::from_static(b"key")),
            value: Some(Bytes::from_static(b"4")),
            headers: vec![(Bytes::from_static(b"n"), Some(Bytes::from_static(b"4")))],
        };
        assert_eq!(only.record, wanted);
        assert_eq!(only.record.size(), 6);
        assert_eq!((only.deliveries, only.first_delivered_ms), (2, 9));
        assert_eq!(only.lease_end_ms, heard.at_ms + 1_000);
        assert_eq!(only.lease_end, heard.at + Duration::from_secs(1));
    }
}
