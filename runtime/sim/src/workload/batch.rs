//! Batches as clients make and open them: every record different from all others of the run.
//!
//! Owns: values, their number, and what the history calls them. Must never: give the same value
//! twice.

use std::cell::Cell;

use barrage_model::batch::{BatchBuilder, BatchView, Compression, NewRecord, batches};
use barrage_model::{Offset, batch::set_producer};
use barrage_wire::Delay;
use barrage_world::sim::Rng;
use bytes::Bytes;

use crate::history::{Fingerprint, Key, Nanos, SeenRecord, SentRecord, Stamp};

/// Makes batches for all clients of a run.
#[derive(Default)]
pub(crate) struct Factory {
    records: Cell<u64>,
}

/// A batch as it was built.
#[derive(Clone, Debug)]
pub(crate) struct Made {
    pub(crate) bytes: Bytes,
    pub(crate) records: Vec<SentRecord>,
    /// Until when they wait, if they do.
    pub(crate) later: Option<Later>,
}

/// From when on the records of a batch are to be had.
#[derive(Clone, Debug)]
pub(crate) struct Later {
    /// As the broker is told.
    pub(crate) delay: Delay,
    /// As the history is: one for each, by the driver's clock.
    pub(crate) dues: Vec<Nanos>,
}

/// What a batch may hold.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Size {
    pub(crate) records_max: u64,
    pub(crate) value_bytes_max: u64,
}

const COMPRESSIONS: [Compression; 5] = [
    Compression::None,
    Compression::Gzip,
    Compression::Snappy,
    Compression::Lz4,
    Compression::Zstd,
];
/// Compressors cost much, and what they make is all the same to a broker.
const COMPRESSED_ONE_IN: u64 = 8;
/// Values of a batch together: every node takes that much at a time.
const BATCH_BYTES_MAX: u64 = 24 * 1024;
const KEYS: u64 = 6;
/// The header of a dead letter that the broker wrote in place of a record.
const STAND_IN: &[u8] = b"dead-letter-error";

impl Factory {
    /// A batch of new records, stamped or not.
    pub(crate) fn make(&self, random: &mut Rng, size: Size, stamp: Option<Stamp>) -> Made {
        let compression = match random.one_in(COMPRESSED_ONE_IN) {
            true => COMPRESSIONS.get(random.below(5) as usize).copied().unwrap_or_default(),
            false => Compression::None,
        };
        let timestamp_ms = random.below(1 << 40) as i64;
        let mut builder = BatchBuilder::new(compression, timestamp_ms);
        let mut records = Vec::new();
        let mut left = BATCH_BYTES_MAX;
        for _ in 0..random.between(1, size.records_max) {
            let len = random.between(8, 8 + size.value_bytes_max);
            let Some(rest) = left.checked_sub(len) else { break };
            left = rest;
            let key = random.one_in(2).then(|| [b'k', random.below(KEYS) as u8]);
            let value = self.value(random, len);
            let key = key.as_ref().map(<[u8; 2]>::as_slice);
            let record =
                NewRecord { key, value: Some(&value), headers: &[(b"h", b"v")], timestamp_ms };
            if let Err(error) = builder.push(&record) {
                unreachable!("a record that fits: {error}");
            }
            let fingerprint = Fingerprint::of(key, Some(&value));
            records.push(SentRecord { fingerprint, key: key.map(Key::of) });
        }
        let mut bytes = match builder.finish() {
            Ok(bytes) => bytes,
            Err(error) => unreachable!("a batch that fits: {error}"),
        };
        if let Some(Stamp { producer, epoch, sequence }) = stamp
            && let Err(error) = set_producer(&mut bytes, producer, epoch, sequence)
        {
            unreachable!("a batch just built: {error}");
        }
        Made { bytes: Bytes::from(bytes), records, later: None }
    }

    /// The record's number, and bytes that compress or do not.
    fn value(&self, random: &mut Rng, len: u64) -> Vec<u8> {
        let number = self.records.get();
        self.records.set(number + 1);
        let mut value = number.to_le_bytes().to_vec();
        let filler = random.next_u64();
        let turns = if random.one_in(2) { 0 } else { 7 };
        let byte = |at: u64| filler.rotate_left((at * turns % 61) as u32) as u8;
        value.extend((8..len).map(byte));
        value
    }
}

/// A batch that a reader was given.
#[derive(Clone, Debug)]
pub(crate) struct Opened {
    pub(crate) base: u64,
    pub(crate) count: u64,
    pub(crate) bytes: u64,
    pub(crate) records: Vec<SeenRecord>,
}

/// Opens the batches of a fetch reply, every one checked.
pub(crate) fn open(bytes: &[u8]) -> Result<Vec<Opened>, String> {
    let mut opened = Vec::new();
    for batch in batches(bytes) {
        let view = BatchView::check(batch.map_err(|error| error.to_string())?);
        let view = view.map_err(|error| error.to_string())?;
        let decoded = view.records(&Default::default()).map_err(|error| error.to_string())?;
        let mut records = Vec::new();
        for record in &decoded {
            let record = record.map_err(|error| error.to_string())?;
            // A letter that stands for a record is like no record that was sent.
            let is_stand_in = record.headers.iter().any(|header| header.key == STAND_IN);
            let fingerprint = (!is_stand_in).then(|| Fingerprint::of(record.key, record.value));
            records.push(SeenRecord { offset: record.offset, fingerprint });
        }
        opened.push(Opened {
            base: view.base_offset().0,
            count: u64::from(view.record_count()),
            bytes: view.batch_len_total() as u64,
            records,
        });
    }
    Ok(opened)
}

/// The first offset behind the batches.
pub(crate) fn end(opened: &[Opened]) -> Option<Offset> {
    opened.last().map(|last| Offset(last.base + last.count))
}
