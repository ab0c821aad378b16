//! The producer without its I/O: records in, batches out, outcomes back.
//!
//! Owns: the batches being filled, one lane per partition, and the memory budget.
//! Must never: do I/O, block, or read a clock (`now` is the time since the producer opened).
//!
//! ```text
//!  push -> [ open batch ] -- full, linger over, flush --> [ lane ] -> poll_transmit -> wire
//!             per partition                                  ^  \---> poll_completed -> caller
//!                                                            handle_reply
//! ```
//! Invariant: `buffered_bytes` is what open and sealed batches hold; it never passes
//! `buffer_bytes_max` by more than one record.

use std::collections::VecDeque;
use std::time::Duration;

use barrage_model::batch::{BatchBuilder, Compression, NewRecord};
use barrage_model::{PartitionId, Priorities};
use barrage_wire as wire;

use super::lane::{
    BatchNumber, Completed, Identity, Lane, LaneLimits, Outcome, Reply, Sealed, Transmission,
};
use super::partitioner::Partitioner;
use crate::delay::{self, Delay};
use crate::error::ClientError;

/// The bounds a producer core keeps.
#[derive(Clone, Copy, Debug)]
pub(crate) struct CoreOptions {
    pub(crate) compression: Compression,
    /// A batch is sealed before it grows past this, before compression.
    pub(crate) batch_bytes: usize,
    /// A batch is sealed when its first record has waited this long.
    pub(crate) linger: Duration,
    /// What may be held before `push` says full.
    pub(crate) buffer_bytes_max: usize,
    pub(crate) lane: LaneLimits,
}

/// Who waits for the records of one batch.
pub(crate) trait Waiting: Default {
    /// What one record adds.
    type Token;
    /// What its sender gets to wait with.
    type Handle;
    /// A record with this token was added.
    fn add(&mut self, token: Self::Token) -> Self::Handle;
}

/// A batch of delayed records takes so much, at most.
const DELAYED_BATCH_BYTES: usize = 64 << 10;

/// A record, and from when on it is to be had.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct New<'a> {
    pub(crate) record: NewRecord<'a>,
    pub(crate) delay: Option<Delay>,
    pub(crate) priority: u8,
}

/// Where a record went.
#[derive(Debug)]
pub(crate) enum Pushed<H> {
    /// It is record number `index` of a batch of this partition. `wake` when that gives the
    /// driver something new to do or to time.
    Buffered { partition: PartitionId, index: u32, handle: H, wake: bool },
    /// The budget is used up: try again after `poll_completed` gave something.
    Full,
}

#[derive(Debug)]
struct OpenBatch<W> {
    builder: BatchBuilder,
    created: Duration,
    /// From when on each of its records is to be had, if not at once.
    delay: Option<wire::Delay>,
    waiting: W,
}

/// See the module.
#[derive(Debug)]
pub(crate) struct Core<W: Waiting> {
    options: CoreOptions,
    partitioner: Partitioner,
    open: Vec<Option<OpenBatch<W>>>,
    open_count: usize,
    lanes: Vec<Lane<W>>,
    completed: VecDeque<Completed<W>>,
    buffered_bytes: usize,
    /// Why nothing can be written any more.
    ended: Option<ClientError>,
}

impl<W: Waiting> Core<W> {
    /// A producer for a topic of `partitions` partitions.
    pub(crate) fn new(options: CoreOptions, partitions: u32, priorities: Priorities) -> Self {
        assert!(options.batch_bytes > 0, "batches that hold nothing");
        Self {
            options,
            partitioner: Partitioner::new(partitions, priorities),
            open: (0..partitions).map(|_| None).collect(),
            open_count: 0,
            lanes: (0..partitions).map(|p| Lane::new(PartitionId(p), options.lane)).collect(),
            completed: VecDeque::new(),
            buffered_bytes: 0,
            ended: None,
        }
    }

    /// How many partitions there are.
    pub(crate) fn partition_count(&self) -> u32 {
        u32::try_from(self.lanes.len()).unwrap_or(u32::MAX)
    }

    /// True when `push` of a record of `size` bytes would say `Full`.
    pub(crate) fn is_full(&self, size: usize) -> bool {
        self.buffered_bytes > 0 && self.buffered_bytes + size > self.options.buffer_bytes_max
    }

    /// Adds a record to the open batch of its partition (chosen here unless given).
    pub(crate) fn push(
        &mut self,
        now: Duration,
        partition: Option<PartitionId>,
        new: &New<'_>,
        token: W::Token,
    ) -> Result<Pushed<W::Handle>, ClientError> {
        if let Some(error) = &self.ended {
            return Err(error.clone());
        }
        let New { record, delay, priority } = new;
        let size = record_size(record);
        if self.is_full(size) {
            return Ok(Pushed::Full);
        }
        let partitions = self.partition_count();
        let mut target =
            partition.unwrap_or_else(|| self.partitioner.choose(record.key, *priority));
        if target.0 >= partitions {
            return Err(ClientError::NoSuchPartition { partition: target, partitions });
        }
        let overflows = self.open_batch_has_no_room(target, size, *delay);
        if overflows {
            self.seal(now, target);
            // Sealing passes the turn on: a record without a key goes with it.
            target = partition.unwrap_or_else(|| self.partitioner.choose(record.key, *priority));
            // There, another one may be open, and of another kind.
            if self.open_batch_has_no_room(target, size, *delay) {
                self.seal(now, target);
            }
        }
        let partition = target;
        let mut batch = match self.open.get_mut(partition.0 as usize).and_then(Option::take) {
            Some(batch) => batch,
            None => self.start_batch(now, record.timestamp_ms, *delay),
        };
        let index = batch.builder.count();
        let before = batch.builder.len_estimate();
        if let Err(error) = batch.builder.push(record) {
            self.put_back(partition, batch);
            return Err(error.into());
        }
        if let (Some(delay), Some(times)) = (delay, &mut batch.delay)
            && index > 0
        {
            let is_of_a_kind = delay.add_to(times);
            assert!(is_of_a_kind, "a batch holds delays of one kind");
        }
        let handle = batch.waiting.add(token);
        let after = batch.builder.len_estimate();
        self.buffered_bytes += after - before;
        self.put_back(partition, batch);
        let full = after >= self.batch_bytes(*delay);
        if full {
            self.seal(now, partition);
        }
        Ok(Pushed::Buffered { partition, index, handle, wake: overflows || full || index == 0 })
    }

    /// Seals every open batch, full or not.
    pub(crate) fn flush(&mut self, now: Duration) {
        for index in 0..self.partition_count() {
            self.seal(now, PartitionId(index));
        }
    }

    /// Nothing is held: every record has its outcome (some may wait in `poll_completed`).
    pub(crate) fn is_idle(&self) -> bool {
        self.open_count == 0 && self.lanes.iter().all(Lane::is_idle)
    }

    /// True when some lane cannot go on without `handle_identity`.
    pub(crate) fn wants_identity(&self) -> bool {
        self.lanes.iter().any(Lane::wants_identity)
    }

    /// A fresh producer id: every lane that has none takes it, each counting its own sequences.
    pub(crate) fn handle_identity(&mut self, identity: Identity) {
        for lane in &mut self.lanes {
            lane.handle_identity(identity);
        }
    }

    /// Seals what has lingered and gives up what is too old.
    pub(crate) fn handle_time(&mut self, now: Duration) {
        if self.open_count > 0 {
            for index in 0..self.partition_count() {
                let open = self.open.get(index as usize).and_then(Option::as_ref);
                if open.is_some_and(|batch| now >= batch.created + self.options.linger) {
                    self.seal(now, PartitionId(index));
                }
            }
        }
        for lane in &mut self.lanes {
            while let Some(completed) = lane.poll_expired(now) {
                self.buffered_bytes = self.buffered_bytes.saturating_sub(completed.size_bytes);
                self.completed.push_back(completed);
            }
        }
    }

    /// The partitions that have something to send at `now`.
    pub(crate) fn ready(&self, now: Duration) -> Vec<PartitionId> {
        (0_u32..)
            .zip(&self.lanes)
            .filter(|(_, lane)| lane.is_ready(now))
            .map(|(index, _)| PartitionId(index))
            .collect()
    }

    /// The next batch of `partition` to put on the wire now.
    pub(crate) fn poll_transmit(
        &mut self,
        now: Duration,
        partition: PartitionId,
    ) -> Option<Transmission> {
        self.lanes.get_mut(partition.0 as usize)?.poll_transmit(now)
    }

    /// The end of a transmission: exactly one per transmission.
    pub(crate) fn handle_reply(
        &mut self,
        now: Duration,
        partition: PartitionId,
        number: BatchNumber,
        reply: Reply,
    ) {
        let lane = self.lanes.get_mut(partition.0 as usize);
        if let Some(completed) = lane.and_then(|lane| lane.handle_reply(now, number, reply)) {
            self.buffered_bytes = self.buffered_bytes.saturating_sub(completed.size_bytes);
            self.completed.push_back(completed);
        }
    }

    /// Why `partition` cannot be reached now; told to whoever waits if it stays so.
    pub(crate) fn handle_unreachable(&mut self, partition: PartitionId, error: &ClientError) {
        if let Some(lane) = self.lanes.get_mut(partition.0 as usize) {
            lane.note_error(error);
        }
    }

    /// Why no producer id can be had now.
    pub(crate) fn handle_identity_refused(&mut self, error: &ClientError) {
        for lane in self.lanes.iter_mut().filter(|lane| lane.wants_identity()) {
            lane.note_error(error);
        }
    }

    /// The topic is gone: everything gets its outcome now, and `push` says why from now on.
    pub(crate) fn handle_ended(&mut self, now: Duration, error: &ClientError) {
        self.flush(now);
        self.ended = Some(error.clone());
        for lane in &mut self.lanes {
            while let Some(completed) = lane.poll_abandoned(now, error.clone()) {
                self.buffered_bytes = self.buffered_bytes.saturating_sub(completed.size_bytes);
                self.completed.push_back(completed);
            }
        }
    }

    /// Some outcome waits in `poll_completed`.
    pub(crate) fn has_completed(&self) -> bool {
        !self.completed.is_empty()
    }

    /// The next batch that has its outcome.
    pub(crate) fn poll_completed(&mut self) -> Option<Completed<W>> {
        self.completed.pop_front()
    }

    /// When `handle_time` or `poll_transmit` next has something to do by time alone.
    pub(crate) fn deadline(&self, now: Duration) -> Option<Duration> {
        let linger = self.options.linger;
        let open = self.open.iter().flatten().map(|batch| batch.created + linger).min();
        let open = if self.open_count == 0 { None } else { open };
        let lanes = self.lanes.iter().filter_map(|lane| lane.deadline(now)).min();
        [open, lanes].into_iter().flatten().min()
    }

    fn start_batch(
        &mut self,
        now: Duration,
        timestamp_ms: i64,
        delay: Option<Delay>,
    ) -> OpenBatch<W> {
        // Room for all it will hold, unless so many partitions share the budget.
        let share = self.options.buffer_bytes_max / self.lanes.len();
        let capacity = self.batch_bytes(delay).min(share);
        let compression = self.options.compression;
        self.open_count += 1;
        OpenBatch {
            builder: BatchBuilder::with_capacity(compression, timestamp_ms, capacity),
            created: now,
            delay: delay.map(Delay::begin),
            waiting: W::default(),
        }
    }

    /// Returns a batch to its place; one that still has no record is forgotten.
    fn put_back(&mut self, partition: PartitionId, batch: OpenBatch<W>) {
        if batch.builder.is_empty() {
            self.open_count -= 1;
        } else if let Some(slot) = self.open.get_mut(partition.0 as usize) {
            *slot = Some(batch);
        }
    }

    fn open_batch_has_no_room(
        &self,
        partition: PartitionId,
        size: usize,
        delay: Option<Delay>,
    ) -> bool {
        let open = self.open.get(partition.0 as usize).and_then(Option::as_ref);
        open.is_some_and(|batch| {
            let goes_with = matches!(
                (&batch.delay, delay),
                (None, None)
                    | (Some(wire::Delay::At(_)), Some(Delay::Until(_)))
                    | (Some(wire::Delay::After(_)), Some(Delay::For(_)))
            );
            !goes_with || batch.builder.len_estimate() + size > self.batch_bytes(delay)
        })
    }

    /// How large a batch becomes. A delayed one is opened again for each of its records that is due
    /// at another time.
    fn batch_bytes(&self, delay: Option<Delay>) -> usize {
        match delay {
            None => self.options.batch_bytes,
            Some(_) => self.options.batch_bytes.min(DELAYED_BATCH_BYTES),
        }
    }

    fn seal(&mut self, now: Duration, partition: PartitionId) {
        let index = partition.0 as usize;
        let Some(batch) = self.open.get_mut(index).and_then(Option::take) else { return };
        self.open_count -= 1;
        self.partitioner.handle_sealed(partition);
        let record_count = batch.builder.count();
        let estimate = batch.builder.len_estimate();
        assert!(record_count > 0, "an open batch holds a record");
        match batch.builder.finish() {
            Ok(bytes) => {
                // From here on the budget counts the real size, which compression made smaller.
                self.buffered_bytes = (self.buffered_bytes + bytes.len()).saturating_sub(estimate);
                let created = batch.created;
                let (waiting, delay) = (batch.waiting, batch.delay.map(delay::finished));
                let sealed = Sealed { bytes, record_count, created, delay, waiting };
                if let Some(lane) = self.lanes.get_mut(index) {
                    lane.enqueue(sealed);
                }
            }
            Err(error) => {
                self.buffered_bytes = self.buffered_bytes.saturating_sub(estimate);
                self.completed.push_back(Completed {
                    partition,
                    record_count,
                    size_bytes: 0,
                    created: batch.created,
                    at: now,
                    outcome: Outcome::Failed { error: error.into() },
                    waiting: batch.waiting,
                });
            }
        }
    }
}

/// Bytes a record takes in a batch, at most: lengths and deltas are varints of five bytes or less.
fn record_size(record: &NewRecord<'_>) -> usize {
    const OVERHEAD: usize = 32;
    const OVERHEAD_PER_HEADER: usize = 10;
    let headers: usize =
        record.headers.iter().map(|(k, v)| k.len() + v.len() + OVERHEAD_PER_HEADER).sum();
    record.key.map_or(0, <[u8]>::len) + record.value.map_or(0, <[u8]>::len) + headers + OVERHEAD
}

#[cfg(test)]
mod tests {
    use super::*;
    use barrage_model::{Offset, ProducerEpoch, ProducerId};

    const START: Duration = Duration::ZERO;
    const MS: Duration = Duration::from_millis(1);

    #[derive(Debug, Default)]
    struct Tokens(Vec<u64>);

    impl Waiting for Tokens {
        type Token = u64;
        type Handle = ();

        fn add(&mut self, token: u64) {
            self.0.push(token);
        }
    }

    fn core(batch_bytes: usize, partitions: u32) -> Core<Tokens> {
        let lane = LaneLimits {
            in_flight_max: 5,
            delivery_timeout: 1000 * MS,
            retry_pause_min: 10 * MS,
            retry_pause_max: 100 * MS,
        };
        let options = CoreOptions {
            compression: Compression::None,
            batch_bytes,
            linger: 5 * MS,
            buffer_bytes_max: 4 * batch_bytes,
            lane,
        };
        Core::new(options, partitions, Priorities::NONE)
    }

    fn push(core: &mut Core<Tokens>, now: Duration, key: Option<&str>, token: u64) -> String {
        let key = key.map(str::as_bytes);
        let record = NewRecord { key, value: Some(&[b'x'; 100]), ..NewRecord::default() };
        match core.push(now, None, &New { record, ..New::default() }, token) {
            Ok(Pushed::Buffered { partition, index, wake, .. }) => {
                format!("p{partition} #{index}{}", if wake { " wake" } else { "" })
            }
            Ok(Pushed::Full) => "full".to_owned(),
            Err(error) => error.to_string(),
        }
    }

    fn ack_all(core: &mut Core<Tokens>, now: Duration) -> Vec<Vec<u64>> {
        core.handle_identity(Identity { id: ProducerId(1), epoch: ProducerEpoch(0) });
        for partition in core.ready(now) {
            while let Some(sent) = core.poll_transmit(now, partition) {
                let reply = Reply::Acked { base_offset: Offset(0) };
                core.handle_reply(now, partition, sent.number, reply);
            }
        }
        std::iter::from_fn(|| core.poll_completed()).map(|done| done.waiting.0).collect()
    }

    #[test]
    fn records_without_a_key_fill_batch_after_batch_around_the_partitions() {
        // A batch of 430 bytes holds three records of about 110.
        let mut core = core(430, 2);
        let told: Vec<_> = (0..7).map(|n| push(&mut core, START, None, n)).collect();
        let expected =
            ["p0 #0 wake", "p0 #1", "p0 #2", "p1 #0 wake", "p1 #1", "p1 #2", "p0 #0 wake"];
        assert_eq!(told, expected);
        core.flush(START);
        let tokens = ack_all(&mut core, START);
        assert_eq!(tokens, [vec![0, 1, 2], vec![6], vec![3, 4, 5]]);
        assert!(core.is_idle());
    }

    #[test]
    fn records_of_other_delays_are_never_in_one_batch() {
        let mut core = core(10_000, 2);
        let record = NewRecord { value: Some(b"x"), ..NewRecord::default() };
        let delays = [None, Some(Delay::For(MS)), Some(Delay::Until(7))];
        for turn in 0..60 {
            let delay = delays[turn % 7 % 3];
            let partition = (turn % 2 == 0).then_some(PartitionId((turn % 4 / 2) as u32));
            core.push(START, partition, &New { record, delay, ..New::default() }, turn as u64)
                .unwrap();
        }
        core.flush(START);
        core.handle_identity(Identity { id: ProducerId(1), epoch: ProducerEpoch(0) });
        let mut count = 0;
        while !core.is_idle() {
            for partition in core.ready(START) {
                while let Some(sent) = core.poll_transmit(START, partition) {
                    let times = match sent.delay {
                        None => None,
                        Some(wire::Delay::At(times) | wire::Delay::After(times)) => Some(times),
                    };
                    let reply = Reply::Acked { base_offset: Offset(0) };
                    core.handle_reply(START, partition, sent.number, reply);
                    let done = core.poll_completed().unwrap();
                    let of = |token: &u64| delays[*token as usize % 7 % 3];
                    let first = of(&done.waiting.0[0]);
                    assert!(done.waiting.0.iter().all(|token| of(token) == first));
                    assert_eq!(first.is_some(), times.is_some());
                    assert!(times.is_none_or(|times| times.len() == 1), "all are the same");
                    count += done.waiting.0.len();
                }
            }
        }
        assert_eq!(count, 60);
    }

    #[test]
    fn a_batch_leaves_when_its_linger_is_over() {
        let mut core = core(10_000, 1);
        push(&mut core, START, None, 1);
        assert_eq!(core.deadline(START), Some(5 * MS));
        core.handle_time(4 * MS);
        assert!(ack_all(&mut core, 4 * MS).is_empty());
        core.handle_time(5 * MS);
        assert_eq!(ack_all(&mut core, 5 * MS), [vec![1]]);
        assert_eq!(core.deadline(5 * MS), None);
    }

    #[test]
    fn the_budget_says_full_and_is_given_back() {
        let mut core = core(400, 1);
        let mut taken = 0;
        while push(&mut core, START, None, taken) != "full" {
            taken += 1;
            assert!(taken < 100, "the budget is 1600 bytes");
        }
        assert!(taken >= 10, "took {taken}");
        core.flush(START);
        assert_eq!(ack_all(&mut core, START).concat().len() as u64, taken);
        assert_eq!(core.buffered_bytes, 0);
        assert_eq!(push(&mut core, START, None, 0), "p0 #0 wake");
    }

    #[test]
    fn keys_choose_the_partition_and_refusals_leave_nothing() {
        let mut core = core(10_000, 4);
        let first = push(&mut core, START, Some("a"), 1);
        let second = push(&mut core, START, Some("a"), 2);
        assert_eq!(first.get(..2), second.get(..2), "one key, one partition");
        let huge = vec![0; barrage_model::limits::RECORD_BYTES_MAX + 1];
        let record = NewRecord { value: Some(&huge), ..NewRecord::default() };
        core.flush(START);
        assert_eq!(ack_all(&mut core, START).concat(), [1, 2]);
        assert!(core.push(START, None, &New { record, ..New::default() }, 3).is_err());
        let missing = core.push(START, Some(PartitionId(4)), &New::default(), 4);
        assert!(matches!(missing, Err(ClientError::NoSuchPartition { .. })));
        assert!(core.is_idle());
    }

    #[test]
    fn when_the_topic_is_gone_everything_fails_and_nothing_more_is_taken() {
        let mut core = core(10_000, 1);
        push(&mut core, START, None, 1);
        let error = ClientError::TopicReplaced { topic: "t".to_owned() };
        core.handle_ended(MS, &error);
        let done = core.poll_completed().unwrap();
        assert!(matches!(done.outcome, Outcome::Failed { .. }));
        assert!(push(&mut core, MS, None, 2).contains("deleted"));
        assert!(core.is_idle());
    }
}
