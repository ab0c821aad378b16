//! Golden bytes, corruption and round trips of the whole batch format, through its boundary.
//!
//! Owns: the proof that the format is Kafka's. The golden bytes were made by kafka-python 3.0.12
//! (`DefaultRecordBatchBuilder`), an implementation that shares nothing with this one.

use proptest::prelude::*;

use super::*;
use crate::headers;
use crate::ids::{Offset, ProducerEpoch, ProducerId, Sequence};
use crate::limits::{BATCH_BYTES_MAX, RECORD_BYTES_MAX, RECORDS_PER_BATCH_MAX};

const BASE_TIMESTAMP: i64 = 1_700_000_000_000;

const GOLDEN_NONE: &str = "\
    0000000000000000000000d00000000002dbad81740000000000020000018bcfe568000000018bcfe568\
    05ffffffffffffffffffffffffffff000000039202000000066b6579f00176616c75652076616c756520\
    76616c75652076616c75652076616c75652076616c75652076616c75652076616c75652076616c756520\
    76616c75652076616c75652076616c75652076616c75652076616c75652076616c75652076616c756520\
    76616c75652076616c75652076616c75652076616c7565200402680231026e0018000a02010c7365636f\
    6e64000c001304000100";

const GOLDEN_GZIP: &str = "\
    0000000000000000000000740000000002370d38ea0001000000020000018bcfe568000000018bcfe568\
    05ffffffffffffffffffffffffffff000000031f8b0800f909016b02ff9bc4c4c0c0c0969d5af981b12c\
    31a7345581fe240b53069321531e8304031713234f716a727e5e0a030f83300b032303004038c85b9f00\
    0000";

const GOLDEN_SNAPPY: &str = "\
    00000000000000000000007c00000000022cdc94250002000000020000018bcfe568000000018bcfe568\
    05ffffffffffffffffffffffffffff0000000382534e41505059000000000100000001000000379f0140\
    9202000000066b6579f00176616c756520fe0600c606006c0402680231026e0018000a02010c7365636f\
    6e64000c001304000100";

const GOLDEN_LZ4: &str = "\
    00000000000000000000007c0000000002f0ac1cbf0003000000020000018bcfe568000000018bcfe568\
    05ffffffffffffffffffffffffffff0000000304224d1868409f000000000000007634000000ff029202\
    000000066b6579f00176616c75652006005ff00d0402680231026e0018000a02010c7365636f6e64000c\
    00130400010000000000";

const GOLDEN_ZSTD: &str = "\
    00000000000000000000006f0000000002e370a9e60004000000020000018bcfe568000000018bcfe568\
    05ffffffffffffffffffffffffffff0000000328b52ffd209fad0100d4029202000000066b6579f00176\
    616c7565200402680231026e0018000a02010c7365636f6e64000c00130400010001005fd2b204";

const GOLDEN_PRODUCER: &str = "\
    0000000000000000000000440000000002cdc0f9c40000000000000000018bcfe568000000018bcfe568\
    00010203040506070800070000002a0000000124000000066b65790a76616c75650202680231";

/// What a record reads back as.
type Owned = (i64, Option<Vec<u8>>, Option<Vec<u8>>, Vec<(Vec<u8>, Vec<u8>)>);

fn unhex(text: &str) -> Vec<u8> {
    let digits: Vec<u8> = text.chars().map(|c| c.to_digit(16).unwrap() as u8).collect();
    digits.chunks(2).map(|pair| pair[0] << 4 | pair[1]).collect()
}

fn golden_records() -> Vec<Owned> {
    let headers = vec![(b"h".to_vec(), b"1".to_vec()), (b"n".to_vec(), vec![])];
    vec![
        (BASE_TIMESTAMP, Some(b"key".to_vec()), Some(b"value ".repeat(20)), headers),
        (BASE_TIMESTAMP + 5, None, Some(b"second".to_vec()), vec![]),
        (BASE_TIMESTAMP - 10, Some(vec![]), None, vec![]),
    ]
}

fn build(compression: Compression, records: &[Owned]) -> Vec<u8> {
    let mut builder = BatchBuilder::new(compression, BASE_TIMESTAMP);
    for (timestamp_ms, key, value, headers) in records {
        let headers: Vec<_> = headers.iter().map(|(k, v)| (k.as_slice(), v.as_slice())).collect();
        let record = NewRecord {
            key: key.as_deref(),
            value: value.as_deref(),
            headers: &headers,
            timestamp_ms: *timestamp_ms,
        };
        builder.push(&record).unwrap();
    }
    assert_eq!(builder.count() as usize, records.len());
    let estimate = builder.len_estimate();
    let bytes = builder.finish().unwrap();
    assert!(bytes.len() <= estimate);
    bytes
}

fn read(bytes: &[u8]) -> Result<Vec<Owned>, BatchError> {
    let opened = records(bytes, &DecompressionLimits::default())?;
    opened
        .iter()
        .map(|record| {
            let record = record?;
            let owned = |bytes: &[u8]| bytes.to_vec();
            let headers = record.headers.iter();
            let headers = headers.map(|h| (owned(h.key), owned(h.value.unwrap_or_default())));
            let headers = headers.collect();
            Ok((record.timestamp_ms, record.key.map(owned), record.value.map(owned), headers))
        })
        .collect()
}

/// Recomputes the CRC, so that a test reaches the checks behind it.
fn reseal(bytes: &mut [u8]) {
    let crc = crc32c::crc32c(&bytes[21..]);
    bytes[17..21].copy_from_slice(&crc.to_be_bytes());
}

#[test]
fn golden_bytes_are_built() {
    let mut bytes = build(Compression::None, &golden_records());
    stamp(&mut bytes, Offset(0), 0);
    assert_eq!(bytes, unhex(GOLDEN_NONE));
}

#[test]
fn golden_bytes_of_every_compression_are_read() {
    let table = [
        (Compression::None, GOLDEN_NONE),
        (Compression::Gzip, GOLDEN_GZIP),
        (Compression::Snappy, GOLDEN_SNAPPY),
        (Compression::Lz4, GOLDEN_LZ4),
        (Compression::Zstd, GOLDEN_ZSTD),
    ];
    for (compression, golden) in table {
        let bytes = unhex(golden);
        let view = BatchView::check(&bytes).unwrap();
        assert_eq!(view.compression(), compression);
        assert_eq!(view.record_count(), 3);
        assert_eq!(view.max_timestamp(), BASE_TIMESTAMP + 5);
        assert_eq!(view.producer_id(), ProducerId::NONE);
        assert_eq!(read(&bytes), Ok(golden_records()), "{compression}");
    }
}

#[test]
fn golden_producer_fields_are_written_and_the_crc_corrected() {
    let record = (
        BASE_TIMESTAMP,
        Some(b"key".to_vec()),
        Some(b"value".to_vec()),
        vec![(b"h".to_vec(), b"1".to_vec())],
    );
    let mut bytes = build(Compression::None, &[record]);
    stamp(&mut bytes, Offset(0), 0);
    let (id, epoch, sequence) = (ProducerId(0x0102_0304_0506_0708), ProducerEpoch(7), Sequence(42));
    set_producer(&mut bytes, id, epoch, sequence).unwrap();
    assert_eq!(bytes, unhex(GOLDEN_PRODUCER));
    let view = BatchView::check(&bytes).unwrap();
    assert_eq!((view.producer_id(), view.producer_epoch()), (id, epoch));
    assert_eq!(view.base_sequence(), sequence);
}

#[test]
fn a_stamp_changes_offsets_and_no_crc() {
    let mut bytes = build(Compression::Zstd, &golden_records());
    let crc = BatchView::check(&bytes).unwrap().crc();
    assert_eq!(BatchView::check(&bytes).unwrap().leader_epoch(), -1);
    stamp(&mut bytes, Offset(1 << 40), 9);
    let view = BatchView::check(&bytes).unwrap();
    assert_eq!((view.base_offset(), view.leader_epoch(), view.crc()), (Offset(1 << 40), 9, crc));
    assert_eq!(view.header().next_offset(), Offset((1 << 40) + 3));
    let opened = view.records(&DecompressionLimits::default()).unwrap();
    let offsets: Vec<_> =
        opened.iter().map(|record| record.unwrap().offset.0 - (1 << 40)).collect();
    assert_eq!(offsets, [0, 1, 2]);
}

#[test]
fn every_flipped_bit_is_found_or_harmless() {
    for compression in Compression::ALL {
        let clean = build(compression, &golden_records());
        for bit in 0..clean.len() * 8 {
            let mut bytes = clean.clone();
            bytes[bit / 8] ^= 1 << (bit % 8);
            let outside_crc = bit / 8 < 8 || (12..16).contains(&(bit / 8));
            match BatchView::check(&bytes) {
                // What a leader stamps is protected by the log's CRC instead.
                Ok(_) => assert!(outside_crc, "{compression}: bit {bit} was not noticed"),
                Err(_) => assert!(!outside_crc, "{compression}: bit {bit}"),
            }
        }
    }
}

#[test]
fn every_cut_is_found() {
    let clean = build(Compression::Lz4, &golden_records());
    for size in 0..clean.len() {
        assert!(BatchView::check(&clean[..size]).is_err(), "{size}");
    }
    let mut long = clean.clone();
    long.push(0);
    let claimed = clean.len() as i64;
    let want = BatchError::Length { claimed, size: clean.len() + 1 };
    assert_eq!(BatchView::check(&long).unwrap_err(), want);
}

/// Overwrites bytes of a good batch, corrects the CRC and expects `want`.
fn refuse(at: usize, value: &[u8], want: BatchError) {
    let mut bytes = build(Compression::None, &golden_records());
    bytes[at..at + value.len()].copy_from_slice(value);
    reseal(&mut bytes);
    assert_eq!(BatchView::check(&bytes).unwrap_err(), want);
}

#[test]
fn a_batch_says_whether_its_records_are_wanted_for_a_while_only() {
    let ttl = |value: &[u8]| (headers::TTL_MS.as_bytes().to_vec(), value.to_vec());
    let record = |headers| (BASE_TIMESTAMP, None, None, headers);
    let plain = build(Compression::None, &[record(vec![(b"ttl".to_vec(), b"5".to_vec())])]);
    assert!(!BatchView::check(&plain).unwrap().header().expires());
    let told = [
        vec![ttl(b"1500")],
        vec![ttl(b"1"), ttl(b"20")],
        vec![],
        vec![ttl(b"-1")],
        vec![ttl(&[0xff])],
        vec![ttl(b"99999999999999999999")],
    ];
    for compression in [Compression::None, Compression::Lz4] {
        let bytes = build(compression, &told.clone().map(record));
        let view = BatchView::check(&bytes).unwrap();
        assert!(view.header().expires());
        assert_eq!(view.header().compression(), Ok(view.compression()));
        let opened = view.records(&DecompressionLimits::default()).unwrap();
        let ttls: Vec<_> = opened.iter().map(|record| record.unwrap().ttl_ms()).collect();
        assert_eq!(ttls, [Some(1500), Some(20), None, None, None, None]);
    }
    let mut copied = BatchBuilder::new(Compression::None, BASE_TIMESTAMP);
    copied.push(&NewRecord::default()).unwrap();
    copied.set_expires();
    assert!(BatchHeader::peek(&copied.finish().unwrap()).unwrap().expires());
}

#[test]
fn wrong_fields_say_what_is_wrong() {
    let size = build(Compression::None, &golden_records()).len();
    let count = RECORDS_PER_BATCH_MAX as i32 + 1;
    refuse(8, &(-1_i32).to_be_bytes(), BatchError::Length { claimed: 11, size });
    refuse(8, &i32::MIN.to_be_bytes(), BatchError::Length { claimed: i32::MIN as i64 + 12, size });
    refuse(8, &1_i32.to_be_bytes(), BatchError::Length { claimed: 13, size });
    let huge = BatchError::TooLarge { size: i32::MAX as usize + 12 };
    refuse(8, &i32::MAX.to_be_bytes(), huge);
    refuse(16, &[1], BatchError::Magic { magic: 1 });
    refuse(21, &[0, 5], BatchError::UnknownCompression { code: 5 });
    refuse(21, &[0, 0x20], BatchError::Attributes { attributes: 0x20 });
    refuse(21, &[0x80, 0], BatchError::Attributes { attributes: i16::MIN });
    refuse(57, &0_i32.to_be_bytes(), BatchError::Empty);
    refuse(57, &(-1_i32).to_be_bytes(), BatchError::RecordCount { count: -1 });
    refuse(57, &count.to_be_bytes(), BatchError::RecordCount { count });
    let deltas = BatchError::OffsetDelta { count: 4, last_offset_delta: 2 };
    refuse(57, &4_i32.to_be_bytes(), deltas);
    refuse(43, &7_i64.to_be_bytes(), BatchError::Producer { id: 7 });
}

#[test]
fn more_records_than_bytes_can_hold_are_refused() {
    let mut bytes = build(Compression::None, &golden_records());
    bytes[23..27].copy_from_slice(&99_999_i32.to_be_bytes());
    bytes[57..61].copy_from_slice(&100_000_i32.to_be_bytes());
    reseal(&mut bytes);
    let want = BatchError::RecordCount { count: 100_000 };
    assert_eq!(BatchView::check(&bytes).unwrap_err(), want);
}

#[test]
fn a_claimed_count_that_the_records_do_not_have_is_found() {
    for (count, fault) in [(2_i32, RecordFault::LeftOver), (4, RecordFault::Varint)] {
        let mut bytes = build(Compression::Zstd, &golden_records());
        bytes[23..27].copy_from_slice(&(count - 1).to_be_bytes());
        bytes[57..61].copy_from_slice(&count.to_be_bytes());
        reseal(&mut bytes);
        let index = count as u32 - 1;
        assert_eq!(read(&bytes), Err(BatchError::Record { index, fault }));
    }
}

#[test]
fn opening_is_bounded() {
    let record = (BASE_TIMESTAMP, None, Some(vec![0; 1 << 20]), vec![]);
    for compression in Compression::ALL.into_iter().skip(1) {
        let bytes = build(compression, std::slice::from_ref(&record));
        assert!(bytes.len() < 100_000, "{compression}");
        let limit = 1000;
        let limits = DecompressionLimits { bytes_max: limit, ..DecompressionLimits::default() };
        let result = records(&bytes, &limits).map(|_| ());
        assert_eq!(result, Err(BatchError::DecompressedTooLarge { limit }), "{compression}");
        assert_eq!(read(&bytes), Ok(vec![record.clone()]), "{compression}");
    }
}

#[test]
fn a_full_batch_of_equal_bytes_is_readable() {
    // Compresses by far more than the ratio allows; the floor lets it through.
    let record = (BASE_TIMESTAMP, None, Some(vec![7; RECORD_BYTES_MAX - 100]), vec![]);
    let records = vec![record.clone(), record];
    let bytes = build(Compression::Zstd, &records);
    assert_eq!(read(&bytes), Ok(records));
}

#[test]
fn the_builder_refuses_and_stays_usable() {
    let mut builder = BatchBuilder::new(Compression::None, BASE_TIMESTAMP);
    let large = vec![0; RECORD_BYTES_MAX + 1];
    let at = |value| NewRecord { value: Some(value), timestamp_ms: 0, ..NewRecord::default() };
    let size = large.len();
    assert_eq!(builder.push(&at(&large)), Err(BatchError::RecordTooLarge { size }));
    builder.push(&at(&large[2..])).unwrap();
    let before = builder.len_estimate();
    assert_eq!(
        builder.push(&at(&large[1..])),
        Err(BatchError::TooLarge { size: before + RECORD_BYTES_MAX + 18 })
    );
    assert_eq!(builder.len_estimate(), before);
    let many = vec![(&b"h"[..], &b"v"[..]); 1_001];
    let record = NewRecord { headers: &many, ..NewRecord::default() };
    assert_eq!(builder.push(&record), Err(BatchError::TooManyHeaders { count: 1_001 }));
    let timestamp_ms = i64::MIN;
    let record = NewRecord { timestamp_ms, ..NewRecord::default() };
    assert_eq!(builder.push(&record), Err(BatchError::Timestamp { timestamp_ms }));
    assert_eq!(builder.count(), 1);
    let bytes = builder.finish().unwrap();
    assert!(bytes.len() <= BATCH_BYTES_MAX);
    BatchView::check(&bytes).unwrap();
    let empty = BatchBuilder::new(Compression::None, 0);
    assert_eq!(empty.finish(), Err(BatchError::Empty));
}

#[test]
fn what_does_not_compress_stays_plain() {
    let noise: Vec<u8> =
        (0..200_u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 13) as u8).collect();
    for compression in Compression::ALL {
        let records = vec![(BASE_TIMESTAMP, None, Some(noise.clone()), vec![])];
        let bytes = build(compression, &records);
        assert_eq!(BatchView::check(&bytes).unwrap().compression(), Compression::None);
        assert_eq!(read(&bytes), Ok(records));
    }
}

#[test]
fn adjacent_batches_are_walked_over() {
    let one = build(Compression::None, &golden_records());
    let two = build(Compression::Gzip, &golden_records());
    let mut run = [one.clone(), two.clone()].concat();
    let walked: Result<Vec<_>, _> = batches(&run).collect();
    assert_eq!(walked, Ok(vec![one.as_slice(), two.as_slice()]));

    run.truncate(run.len() - 1);
    let mut walk = batches(&run);
    assert_eq!(walk.next(), Some(Ok(one.as_slice())));
    let (size, needed) = (two.len() - 1, two.len());
    assert_eq!(walk.next(), Some(Err(BatchError::Truncated { size, needed })));
    assert_eq!(walk.next(), None);
}

#[test]
fn log_append_time_replaces_the_records_own() {
    let mut bytes = build(Compression::None, &golden_records());
    bytes[22] |= 0b1000;
    reseal(&mut bytes);
    let times: Vec<_> = read(&bytes).unwrap().iter().map(|record| record.0).collect();
    assert_eq!(times, [BASE_TIMESTAMP + 5; 3]);
}

fn any_bytes(size: usize) -> impl Strategy<Value = Vec<u8>> {
    prop::collection::vec(any::<u8>(), 0..size)
}

fn any_record() -> impl Strategy<Value = Owned> {
    let time = -1_000_000_000_000_i64..1_000_000_000_000;
    let headers = prop::collection::vec((any_bytes(20), any_bytes(20)), 0..4);
    (time, prop::option::of(any_bytes(40)), prop::option::of(any_bytes(300)), headers)
}

fn any_compression() -> impl Strategy<Value = Compression> {
    prop::sample::select(Compression::ALL.to_vec())
}

proptest! {
    #[test]
    fn what_is_built_reads_back(
        compression in any_compression(),
        records in prop::collection::vec(any_record(), 1..50),
        producer in (0..i64::MAX, 0..i16::MAX, 0..i32::MAX),
    ) {
        let mut bytes = build(compression, &records);
        let id = ProducerId(producer.0);
        set_producer(&mut bytes, id, ProducerEpoch(producer.1), Sequence(producer.2)).unwrap();
        let view = BatchView::check(&bytes).unwrap();
        prop_assert_eq!(view.producer_id(), id);
        prop_assert_eq!(Some(view.max_timestamp()), records.iter().map(|record| record.0).max());
        prop_assert_eq!(read(&bytes), Ok(records));
    }

    #[test]
    fn garbage_never_panics(
        compression in any_compression(),
        records in prop::collection::vec(any_record(), 1..5),
        garbage in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..8),
    ) {
        let mut bytes = build(compression, &records);
        for (place, value) in garbage {
            // The head up to the CRC stays, so that the checks behind it are reached.
            let at = 21 + place.index(bytes.len() - 21);
            bytes[at] = value;
        }
        reseal(&mut bytes);
        // The answer may be records or an error; what counts is that there is one.
        drop(read(&bytes));
    }

    #[test]
    fn any_bytes_are_answered(bytes in any_bytes(200)) {
        prop_assert!(BatchView::check(&bytes).is_err());
        prop_assert!(batches(&bytes).count() <= 1);
    }
}
