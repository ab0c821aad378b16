//! What a producer sends next: whole batches, when they are due.
//!
//! Owns: the schedule, keys, and batches that fill. Must never: move a due time because it is late,
//! or make records beside [`WAITING_MAX`] batches that nobody takes.
//! Invariants: record `n` of a producer is due `n` spacings after its beginning; without spacing
//! it is due when it is made.
//!
//! Records without keys go partition by partition, a batch each. A record with a key goes to the
//! partition of its key, whose batch is sent when it is full or its first record has waited for the
//! linger time.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use barrage_model::batch::{BatchBuilder, Compression, NewRecord};

use super::clock::Clock;
use super::dues::{self, Dues, Spacing};
use super::stock::{Stock, is_full};
use super::task::Sending;
use crate::args::BatchShape;
use crate::batches::RECORD_OVERHEAD_MAX;
use crate::workload::keys::{KEY_SIZE_MAX, KeySet, Keys};

/// A producer's schedule.
#[derive(Debug)]
pub(crate) enum Source {
    Plain(Plain),
    Keyed(Box<Keyed>),
}

/// A batch to be sent.
#[derive(Debug)]
pub(crate) struct Ready {
    /// The partition's place among those of the topic.
    pub partition: usize,
    pub batch: Vec<u8>,
    pub dues: Dues,
}

/// Batches made beforehand, to partitions in turn.
#[derive(Debug)]
pub(crate) struct Plain {
    beginning: Instant,
    spacing: Spacing,
    /// Records that were sent.
    sent: u64,
    turn: usize,
    partitions: usize,
}

/// Batches made from records with keys.
#[derive(Debug)]
pub(crate) struct Keyed {
    beginning: Instant,
    spacing: Spacing,
    linger: Duration,
    shape: BatchShape,
    /// Records that were made.
    made: u64,
    keys: KeySet,
    random: bool,
    timestamp_ms: i64,
    open: Vec<Option<Open>>,
    /// Partitions whose batches were begun, with the time; the first waits longest.
    begun: VecDeque<(Instant, usize)>,
    ready: VecDeque<Ready>,
}

/// A batch that fills.
#[derive(Debug)]
struct Open {
    builder: BatchBuilder,
    dues: Vec<Instant>,
}

/// Batches that wait to be taken; no record is made beside so many.
const WAITING_MAX: usize = 64;
/// Records that are made in one turn of a producer.
const MADE_MAX: usize = 2_000;

impl Source {
    /// Of the producer of this number, which begins with the run.
    pub(crate) fn new(
        sending: &Sending,
        (number, partitions): (usize, usize),
        stock: &Stock,
        start: Instant,
    ) -> Result<Self> {
        assert!(partitions > 0, "a topic has partitions");
        let Sending { spacing, linger, batch, producers_all, .. } = sending;
        // Producers take turns within the time of a batch instead of sending all at once.
        let of_all = number as f64 / (*producers_all).max(1) as f64;
        let beginning = start + spacing.times(u64::from(stock.records())).mul_f64(of_all);
        let (spacing, linger, shape) = (*spacing, *linger, *batch);
        let Some(keys) = &stock.keys else {
            let turn = number % partitions;
            return Ok(Self::Plain(Plain { beginning, spacing, sent: 0, turn, partitions }));
        };
        let mut open = Vec::new();
        open.resize_with(partitions, || None);
        Ok(Self::Keyed(Box::new(Keyed {
            beginning,
            spacing,
            linger,
            shape,
            made: 0,
            keys: keys.from(number),
            random: sending.keys == Keys::Random,
            timestamp_ms: now_ms()?,
            open,
            begun: VecDeque::new(),
            ready: VecDeque::new(),
        })))
    }

    /// The partition of the batch that is to be sent now, if there is one: it is taken next.
    pub(crate) fn poll(
        &mut self,
        now: Instant,
        stock: &mut Stock,
        clock: &Clock,
    ) -> Result<Option<usize>> {
        match self {
            Self::Plain(plain) => Ok(plain.is_due(now, stock.records()).then_some(plain.turn)),
            Self::Keyed(keyed) => keyed.poll(now, stock, clock),
        }
    }

    /// Takes the batch that was polled.
    pub(crate) fn take(&mut self, now: Instant, stock: &mut Stock, clock: &Clock) -> Result<Ready> {
        match self {
            Self::Plain(plain) => plain.take(now, stock, clock),
            Self::Keyed(keyed) => keyed.ready.pop_front().context("no batch was polled"),
        }
    }
}

impl Plain {
    /// Whether the last record of the next batch is.
    fn is_due(&self, now: Instant, records: u32) -> bool {
        self.spacing.is_none() || self.due(self.sent + u64::from(records) - 1) <= now
    }

    fn due(&self, number: u64) -> Instant {
        self.beginning + self.spacing.times(number)
    }

    fn take(&mut self, now: Instant, stock: &mut Stock, clock: &Clock) -> Result<Ready> {
        let first = if self.spacing.is_none() { now } else { self.due(self.sent) };
        let count = stock.records();
        let mut batch = stock.take();
        dues::write(&mut batch, stock.place, dues::stamp(first, clock))?;
        let partition = self.turn;
        self.turn = (self.turn + 1) % self.partitions;
        self.sent += u64::from(count);
        Ok(Ready { partition, batch, dues: Dues::Even { first, spacing: self.spacing, count } })
    }
}

impl Keyed {
    fn poll(&mut self, now: Instant, stock: &mut Stock, clock: &Clock) -> Result<Option<usize>> {
        for _ in 0..MADE_MAX {
            // With nothing between records one batch at a time is enough.
            let enough = if self.spacing.is_none() { 1 } else { WAITING_MAX };
            let due = match self.spacing.is_none() {
                true => now,
                false => self.beginning + self.spacing.times(self.made),
            };
            if self.ready.len() >= enough || due > now {
                break;
            }
            self.make(due, stock, clock)?;
        }
        while let Some((began, partition)) = self.begun.front().copied() {
            if began + self.linger > now {
                break;
            }
            self.begun.pop_front();
            // It may have filled meanwhile, and another have begun: that one waits for its own.
            let waits = self.open.get(partition).and_then(Option::as_ref);
            if waits.is_some_and(|open| open.dues.first() == Some(&began)) {
                self.seal(partition)?;
            }
        }
        Ok(self.ready.front().map(|ready| ready.partition))
    }

    fn make(&mut self, due: Instant, stock: &mut Stock, clock: &Clock) -> Result<()> {
        let (key, partition) = match self.random {
            true => self.keys.at_nanos(clock.since_1970(Instant::now()).subsec_nanos().into()),
            false => self.keys.in_turn(),
        };
        let value = stock.value(self.made, dues::stamp(due, clock))?;
        let open = self.open.get_mut(partition).context("no such partition")?;
        if open.is_none() {
            self.begun.push_back((due, partition));
        }
        let open = open.get_or_insert_with(|| Open {
            builder: BatchBuilder::new(Compression::None, self.timestamp_ms),
            dues: Vec::new(),
        });
        let (key, value) = (Some(key.as_bytes()), Some(value));
        let record = NewRecord { key, value, headers: &[], timestamp_ms: self.timestamp_ms };
        open.builder.push(&record).context("a record does not fit its batch")?;
        open.dues.push(due);
        self.made += 1;
        let next = record.value.map_or(0, <[u8]>::len) + KEY_SIZE_MAX + RECORD_OVERHEAD_MAX;
        if is_full(&open.builder, self.shape, next) {
            self.seal(partition)?;
        }
        Ok(())
    }

    fn seal(&mut self, partition: usize) -> Result<()> {
        let open = self.open.get_mut(partition).and_then(Option::take);
        if let Some(Open { builder, dues }) = open {
            let batch = builder.finish().context("a batch cannot be built")?;
            self.ready.push_back(Ready { partition, batch, dues: Dues::Each(dues) });
        }
        Ok(())
    }
}

/// What a record says of when it was made.
pub(crate) fn now_ms() -> Result<i64> {
    let now = std::time::SystemTime::UNIX_EPOCH.elapsed().unwrap_or_default();
    i64::try_from(now.as_millis()).context("the clock is far in the future")
}
