//! When the records of a batch were due, and how that stands in the batch.
//!
//! Owns: the stamp in a record's first bytes. Must never: change a batch's size, or read a large
//! batch to correct its CRC.
//! Invariants: of a batch whose records are evenly apart the first record is stamped, of any other
//! each one. A stamp is nanoseconds since 1970, little-endian.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use barrage_model::batch::{BatchView, DecompressionLimits, HEADER_SIZE};
use barrage_model::crc;
use serde::{Deserialize, Serialize};

use super::clock::Clock;
use crate::meter::Meter;

/// When the records of a batch were due.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Dues {
    /// One after the other; all at once if nothing is between them.
    Even { first: Instant, spacing: Spacing, count: u32 },
    /// Each at its own time.
    Each(Vec<Instant>),
}

/// The time between two records of a producer, exact enough that a day of them does not drift.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Spacing {
    picos: u64,
}

const PICOS_PER_SECOND: f64 = 1e12;
const PICOS_PER_NANO: u128 = 1_000;

impl Spacing {
    /// So many records a second.
    pub(crate) fn of_rate(per_s: f64) -> Self {
        assert!(per_s > 0.0, "a rate is above 0");
        Self { picos: ((PICOS_PER_SECOND / per_s) as u64).max(1) }
    }

    /// Nothing is between records.
    pub(crate) const fn is_none(self) -> bool {
        self.picos == 0
    }

    /// The time that so many take.
    pub(crate) fn times(self, count: u64) -> Duration {
        let nanos = u128::from(self.picos) * u128::from(count) / PICOS_PER_NANO;
        Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX))
    }
}

/// Bytes of a stamp.
pub(crate) const STAMP: usize = 8;
/// What stands where a stamp will, in a batch that was just built.
pub(crate) const PLACE: [u8; STAMP] = *b"\xB4due-at\xB4";
/// Bytes before those that the CRC covers, and where it stands itself: the public batch format.
const CRC_START: usize = 21;
const CRC_AT: usize = 17;
/// A batch below this is read again for its CRC: that is cheaper than to correct it.
const READ_AGAIN_MAX: usize = 8 << 10;

impl Dues {
    /// How many records there are.
    pub(crate) fn count(&self) -> u32 {
        match self {
            Self::Even { count, .. } => *count,
            Self::Each(dues) => u32::try_from(dues.len()).unwrap_or(u32::MAX),
        }
    }

    /// All of them ended now.
    pub(crate) fn ended(&self, now: Instant, record_size: u64, meter: &mut Meter) {
        let count = self.count();
        meter.came(now, u64::from(count), u64::from(count) * record_size);
        let Some(interval) = meter.at(now) else { return };
        match self {
            Self::Even { first, spacing, .. } if spacing.is_none() => {
                interval.count(now.saturating_duration_since(*first), count);
            }
            Self::Even { first, spacing, count } => {
                for number in 0..u64::from(*count) {
                    let due = *first + spacing.times(number);
                    interval.count(now.saturating_duration_since(due), 1);
                }
            }
            Self::Each(dues) => {
                for due in dues {
                    interval.count(now.saturating_duration_since(*due), 1);
                }
            }
        }
    }

    /// Those of a batch that has come, whose bytes it checks. With a `spacing` between records the
    /// first one is asked, without any each of them.
    pub(crate) fn read(batch: &[u8], spacing: Option<Spacing>, clock: &Clock) -> Result<Self> {
        let view = BatchView::check(batch).context("a damaged batch")?;
        let records = view.records(&DecompressionLimits::default())?;
        let mut dues = records.iter().map(|record| {
            let value = record.context("a damaged record")?.value.unwrap_or_default();
            let stamp = value.first_chunk::<STAMP>().context("a record without its due time")?;
            Ok(clock.instant(Duration::from_nanos(u64::from_le_bytes(*stamp))))
        });
        match spacing {
            Some(spacing) => {
                let first = dues.next().context("a batch without records")??;
                Ok(Self::Even { first, spacing, count: view.record_count() })
            }
            None => Ok(Self::Each(dues.collect::<Result<_>>()?)),
        }
    }
}

/// The stamp of a moment.
pub(crate) fn stamp(due: Instant, clock: &Clock) -> [u8; STAMP] {
    let nanos = u64::try_from(clock.since_1970(due).as_nanos()).unwrap_or(u64::MAX);
    nanos.to_le_bytes()
}

/// Where the first record's stamp goes in a batch whose values begin with [`PLACE`].
pub(crate) fn place(batch: &[u8]) -> Result<usize> {
    let records = batch.get(HEADER_SIZE..).context("a batch is at least its header")?;
    let found = records.windows(STAMP).position(|window| window == PLACE);
    Ok(HEADER_SIZE + found.context("a batch has no place for a due time")?)
}

/// Writes a stamp at that place; the batch's CRC is right afterwards if it was right before.
pub(crate) fn write(batch: &mut [u8], place: usize, stamp: [u8; STAMP]) -> Result<()> {
    let size = batch.len();
    let slot = batch.get_mut(place..place + STAMP).context("a stamp lies within its batch")?;
    let before = crc32c::crc32c(slot);
    slot.copy_from_slice(&stamp);
    let after = crc32c::crc32c(slot);
    let covered = batch.get(CRC_START..).context("a batch is at least its header")?;
    let corrected = if size <= READ_AGAIN_MAX {
        crc32c::crc32c(covered)
    } else {
        // The CRC is linear: what the bytes before and behind add to it stays the same.
        let stored = batch.get(CRC_AT..CRC_START).and_then(|crc| crc.first_chunk());
        let stored = u32::from_be_bytes(*stored.context("a batch has a CRC")?);
        stored ^ crc::combine(before ^ after, 0, size - place - STAMP)
    };
    let slot = batch.get_mut(CRC_AT..CRC_START).context("a batch has a CRC")?;
    slot.copy_from_slice(&corrected.to_be_bytes());
    ensure!(place >= HEADER_SIZE, "a stamp lies in a record");
    Ok(())
}

#[cfg(test)]
mod tests {
    use barrage_model::batch::{BatchBuilder, Compression, NewRecord};

    use super::*;
    use crate::meter::Window;

    fn batch(records: u32, stamps: Option<&[[u8; STAMP]]>) -> Vec<u8> {
        let mut builder = BatchBuilder::new(Compression::None, 1);
        for number in 0..records {
            let mut value = vec![number as u8; 100];
            let stamp = stamps.map_or(PLACE, |stamps| stamps[number as usize]);
            value[..STAMP].copy_from_slice(&stamp);
            let value = Some(value.as_slice());
            builder.push(&NewRecord { value, timestamp_ms: 1, ..NewRecord::default() }).unwrap();
        }
        builder.finish().unwrap()
    }

    #[test]
    fn a_stamp_comes_back_and_the_batch_stays_valid() {
        let clock = Clock::now();
        let spacing = Spacing::of_rate(50_000.0);
        // One that is read again for its CRC, and one whose CRC is corrected.
        for records in [1, 1_000] {
            let mut bytes = batch(records, None);
            let at = place(&bytes).unwrap();
            for ms in [1, 2_500] {
                let first = Instant::now() + Duration::from_millis(ms);
                write(&mut bytes, at, stamp(first, &clock)).unwrap();
                let expected = Dues::Even { first, spacing, count: records };
                assert_eq!(Dues::read(&bytes, Some(spacing), &clock).unwrap(), expected);
            }
        }
        let mut damaged = batch(1_000, None);
        damaged[5_000] ^= 1;
        assert!(Dues::read(&damaged, Some(spacing), &clock).is_err());
    }

    #[test]
    fn a_rate_does_not_drift() {
        for rate in [1.0, 333.0, 7e6, 13e6] {
            let day = Spacing::of_rate(rate).times((rate * 86_400.0) as u64).as_secs_f64();
            assert!((day - 86_400.0).abs() < 1.0, "{rate}: {day}");
        }
    }

    #[test]
    fn each_record_may_have_its_own() {
        let clock = Clock::now();
        let dues: Vec<Instant> = (0..10).map(|n| Instant::now() + Duration::from_secs(n)).collect();
        let stamps: Vec<_> = dues.iter().map(|due| stamp(*due, &clock)).collect();
        let read = Dues::read(&batch(10, Some(&stamps)), None, &clock).unwrap();
        assert_eq!(read, Dues::Each(dues));
        assert_eq!(read.count(), 10);
    }

    #[test]
    fn every_record_counts_with_its_own_latency() {
        let start = Instant::now() + Duration::from_secs(1);
        let ms = Duration::from_millis;
        let latencies = |dues: &Dues, now| {
            let mut meter = Meter::new(Window { start, end: start + ms(1_000) });
            dues.ended(now, 100, &mut meter);
            let reading = meter.read();
            (meter.latencies().len(), reading.records_per_s, reading.p50_us, reading.max_us)
        };
        let now = start + ms(100);
        let even = |spacing| Dues::Even { first: now - ms(10), spacing, count: 11 };
        let (count, rate, p50, max) = latencies(&even(Spacing::of_rate(1_000.0)), now);
        assert_eq!((count, rate), (11, 11.0));
        assert!(p50.abs_diff(5_000) < 10 && max.abs_diff(10_000) < 10, "{p50} {max}");
        let (count, _, p50, _) = latencies(&even(Spacing::default()), now);
        assert!(count == 11 && p50.abs_diff(10_000) < 10, "{p50}");
        let each = Dues::Each(vec![now - ms(3), now - ms(4), now]);
        let (count, _, p50, max) = latencies(&each, now);
        assert!(count == 3 && p50.abs_diff(3_000) < 5 && max.abs_diff(4_000) < 5, "{p50} {max}");
        assert_eq!(latencies(&each, start + ms(1_000)).0, 0, "outside of the window");
    }
}
