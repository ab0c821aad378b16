//! A record batch: the walk over stored batches, the check at the door, the records, and the two
//! ways in which its header is changed in place.
//!
//! Checked: a batch that was stamped or given another producer is still whole and holds the same
//! records; its records can be built again. More memory than the rule gives is held only where
//! records are opened: that is bounded by the limits handed in, which are tight here.

use barrage_model::batch::{
    BatchBuilder, BatchHeader, BatchView, Compression, DecompressionLimits, HEADER_SIZE, NewRecord,
    Record, Records, batches, records, set_producer, stamp,
};
use barrage_model::{Offset, ProducerEpoch, ProducerId, Sequence};

use super::sample;
use crate::meter::aside;
use crate::repair;
use crate::target::{LARGE_BYTES, Seed, Target, Verdict};

pub(super) const TARGET: Target =
    Target { name: "batch", input_bytes_max: 16 * 1024, run, memory_extra, seeds, large };

const LIMITS: DecompressionLimits =
    DecompressionLimits { bytes_max: 256 * 1024, ratio_max: 8, bytes_floor: 16 * 1024 };

/// What opening may hold, if the batch says that it is compressed.
fn memory_extra(input: &[u8]) -> usize {
    let code = input.get(22).map_or(0, |attributes| attributes & 7);
    let compression = Compression::from_code(code).unwrap_or_default();
    super::compression::opening_bytes_max(compression, input.len(), &LIMITS)
}

fn run(input: &[u8]) -> Verdict {
    for batch in batches(input).flatten() {
        // It may refuse; it may not do more.
        let _ = BatchView::check(batch);
    }
    let whole = aside(|| {
        let mut bytes = input.to_vec();
        repair::batch(&mut bytes);
        bytes
    });
    let Ok(view) = BatchView::check(&whole) else { return Verdict::Refused };
    assert_eq!(view.bytes(), whole);
    assert_eq!(view.payload().len() + HEADER_SIZE, whole.len());
    let opened = view.records(&LIMITS);
    let taken = opened.as_ref().is_ok_and(is_whole);
    aside(|| {
        change_header(&whole, opened.as_ref().ok());
        if taken && let Ok(opened) = &opened {
            build_again(view.header(), opened);
        }
    });
    Verdict::from(taken)
}

/// Walks over all records and their headers.
fn is_whole(opened: &Records<'_>) -> bool {
    let mut count = 0;
    for record in opened {
        let Ok(record) = record else {
            assert!(count < opened.count(), "a fault behind the last record");
            return false;
        };
        assert_eq!(record.headers.iter().count(), record.headers.len());
        count += 1;
    }
    assert_eq!(count, opened.count(), "as many records as the header says");
    true
}

/// Stamping and another producer change the header alone.
fn change_header(whole: &[u8], opened: Option<&Records<'_>>) {
    let mut changed = whole.to_vec();
    stamp(&mut changed, Offset(0), 7);
    let producer = (ProducerId(1 << 40), ProducerEpoch(3), Sequence(9));
    let set = set_producer(&mut changed, producer.0, producer.1, producer.2);
    assert_eq!(set, Ok(()), "a whole batch takes another producer");
    let view = BatchView::check(&changed);
    let header = view.map(|view| *view.header());
    assert!(
        header.is_ok_and(|header| {
            (header.producer_id, header.producer_epoch, header.base_sequence) == producer
                && (header.base_offset, header.leader_epoch) == (Offset(0), 7)
        }),
        "a changed header is not whole: {header:?}"
    );
    let again = records(&changed, &LIMITS);
    assert_eq!(again.is_ok(), opened.is_some(), "the records of a changed batch");
    if let (Ok(again), Some(opened)) = (&again, opened) {
        let same = |(left, right): (Result<Record<'_>, _>, Result<Record<'_>, _>)| {
            left.map(without_offset) == right.map(without_offset)
        };
        assert!(again.iter().zip(opened).all(same), "the records of a changed batch");
    }
}

/// The batch's offset is stamped; the records' follow it.
fn without_offset(record: Record<'_>) -> Record<'_> {
    Record { offset: Offset(0), ..record }
}

/// What was read is what a builder takes, unless it is what only other clients send: a header
/// without a value, or a time that counts from elsewhere.
fn build_again(header: &BatchHeader, opened: &Records<'_>) {
    let mut builder = BatchBuilder::new(Compression::None, header.base_timestamp);
    for record in opened.iter().flatten() {
        let mut pairs = Vec::new();
        for pair in record.headers {
            let Some(value) = pair.value else { return };
            pairs.push((pair.key, value));
        }
        let (key, value, timestamp_ms) = (record.key, record.value, record.timestamp_ms);
        if builder.push(&NewRecord { key, value, headers: &pairs, timestamp_ms }).is_err() {
            return;
        }
    }
    let built = builder.finish();
    let again = built.as_deref().map(|bytes| records(bytes, &LIMITS));
    assert!(matches!(again, Ok(Ok(_))), "what was built cannot be read: {again:?}");
    if let Ok(Ok(again)) = &again {
        let (again, opened) = (again.iter().flatten(), opened.iter().flatten());
        assert!(again.map(without_offset).eq(opened.map(without_offset)), "other records");
    }
}

/// A few records, not compressed.
pub(super) fn plain() -> Vec<u8> {
    sample::batch(Compression::None, 3)
}

fn seeds() -> Vec<Seed> {
    let mut seeds: Vec<Seed> = Compression::ALL
        .into_iter()
        .map(|compression| (compression.to_string(), sample::batch(compression, 40)))
        .collect();
    let mut idempotent = plain();
    let set = set_producer(&mut idempotent, ProducerId(7), ProducerEpoch(1), Sequence(30));
    assert_eq!(set, Ok(()), "a sample batch takes a producer");
    stamp(&mut idempotent, Offset(90), 4);
    seeds.push(("idempotent".to_owned(), idempotent));
    seeds.push(("one".to_owned(), sample::batch(Compression::None, 1)));
    seeds
}

/// Many small records, so that every byte of the payload is one of a record's own fields.
fn large() -> Vec<Seed> {
    let mut builder = BatchBuilder::new(Compression::None, 0);
    while builder.len_estimate() < LARGE_BYTES {
        let pushed = builder.push(&NewRecord::default());
        assert_eq!(pushed, Ok(()), "an empty record fits");
    }
    vec![("empty-records".to_owned(), builder.finish().unwrap_or_default())]
}
