//! The payload of a batch under every compression, opened within limits.
//!
//! The first byte of the input chooses the compression, the next two how many records the header
//! claims, the rest is the payload. Checked: no more comes out than the limit says; a wider limit
//! gives the same. What may be held while opening is an explicit bound, see
//! [`opening_bytes_max`].

use barrage_model::batch::{
    BatchBuilder, BatchView, Compression, DecompressionLimits, HEADER_SIZE, NewRecord, Records,
};

use super::sample;
use crate::meter::aside;
use crate::mutation::Mutator;
use crate::repair;
use crate::target::{Seed, Target, Verdict};

pub(super) const TARGET: Target =
    Target { name: "compression", input_bytes_max: 8 * 1024, run, memory_extra, seeds, large };

const LIMITS: DecompressionLimits =
    DecompressionLimits { bytes_max: 128 * 1024, ratio_max: 8, bytes_floor: 16 * 1024 };

/// What may be held while a payload is opened: what comes out, and what the decoder needs.
pub(super) fn opening_bytes_max(
    compression: Compression,
    size: usize,
    limits: &DecompressionLimits,
) -> usize {
    const KIB: usize = 1024;
    let decoder = match compression {
        Compression::None => return 0,
        Compression::Gzip => 64 * KIB,
        Compression::Snappy => KIB,
        // Blocks of 8 MiB, one in and one out; or of 4 MiB, one in, two and a window out.
        Compression::Lz4 => 16 * KIB * KIB + 128 * KIB,
        // Its window lies in memory of C, which is not seen; the limit bounds it.
        Compression::Zstd => 4 * KIB,
    };
    limits.limit(size) + decoder
}

fn memory_extra(input: &[u8]) -> usize {
    opening_bytes_max(compression_of(input), input.len(), &LIMITS)
}

fn compression_of(input: &[u8]) -> Compression {
    let code = input.first().map_or(0, |byte| byte % 5);
    Compression::from_code(code).unwrap_or_default()
}

fn run(input: &[u8]) -> Verdict {
    let Some((&[_, low, high], payload)) = input.split_first_chunk() else {
        return Verdict::Refused;
    };
    let count = i32::from(u16::from_le_bytes([low, high])) + 1;
    let batch = aside(|| with_payload(compression_of(input), count, payload));
    let Ok(view) = BatchView::check(&batch) else { return Verdict::Refused };
    let opened = view.records(&LIMITS);
    let limit = LIMITS.limit(view.payload().len());
    if let Ok(opened) = &opened {
        assert!(opened.size() <= limit, "{} bytes of at most {limit}", opened.size());
    }
    let taken = opened.as_ref().is_ok_and(|opened| opened.iter().all(|record| record.is_ok()));
    aside(|| {
        let wider = view.records(&DecompressionLimits::default());
        let all = |opened: &Records<'_>| opened.iter().map(|record| record.is_ok()).collect();
        if let Ok(opened) = &opened {
            let (all, same): (Vec<_>, _) = (all(opened), wider.as_ref().map(all));
            assert_eq!(same, Ok(all), "a wider limit opens something else");
        }
    });
    Verdict::from(taken)
}

/// A batch whose envelope is right, around this payload.
fn with_payload(compression: Compression, count: i32, payload: &[u8]) -> Vec<u8> {
    let mut bytes = sample::batch(Compression::None, 1);
    bytes.truncate(HEADER_SIZE);
    bytes.extend_from_slice(payload);
    repair::put(&mut bytes, 21, &i16::from(compression.code()).to_be_bytes());
    repair::put(&mut bytes, 23, &(count - 1).to_be_bytes());
    repair::put(&mut bytes, 57, &count.to_be_bytes());
    repair::batch(&mut bytes);
    bytes
}

fn seeds() -> Vec<Seed> {
    let mut seeds = Vec::new();
    for compression in Compression::ALL {
        for count in [40, 200_u16] {
            let batch = sample::batch(compression, i64::from(count));
            let payload = batch.get(HEADER_SIZE..).unwrap_or_default();
            let [low, high] = (count - 1).to_le_bytes();
            let bytes = [&[compression.code(), low, high], payload].concat();
            seeds.push((format!("{compression}-{count}"), bytes));
        }
    }
    seeds
}

/// As much as the limits let out, of words that repeat a byte.
fn large() -> Vec<Seed> {
    let mut noise = Mutator::new(1);
    let mut word = || [noise.below(256) as u8; 4];
    let records: Vec<Vec<u8>> = (0..110).map(|_| (0..256).flat_map(|_| word()).collect()).collect();
    let of = |compression: Compression| {
        let mut builder = BatchBuilder::new(compression, 0);
        for value in &records {
            let pushed = builder.push(&NewRecord { value: Some(value), ..NewRecord::default() });
            assert_eq!(pushed, Ok(()), "a record fits");
        }
        let batch = builder.finish().unwrap_or_default();
        let payload = batch.get(HEADER_SIZE..).unwrap_or_default();
        let bytes = [&[compression.code(), records.len() as u8 - 1, 0], payload].concat();
        (compression.to_string(), bytes)
    };
    Compression::ALL.into_iter().map(of).collect()
}
