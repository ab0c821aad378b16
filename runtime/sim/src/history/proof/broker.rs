//! A broker in memory that does everything right.
//!
//! Topics `t` (two partitions), `u` and `q`; `dlq` takes the dead letters of queue group `g`,
//! which takes from `q` and keeps the order of keys; `q` keeps its records until `g` is done with
//! them. What is sent to `d` is delayed. One producer at a time holds `o`.

use std::collections::{BTreeMap, BTreeSet};

use barrage_model::{Offset, PartitionId, Sequence};

use super::rng::Rng;
use crate::history::{
    Answer, ChangeDelay, Claim, Claiming, CommitOffset, Fingerprint, Identity, Key, Nanos,
    Operation, Place, ReadFrom, ReadOut, SeenRecord, SendBatch, SentAt, SentRecord, SettleLease,
    Settlement, Stamp, TakeLease, Taken,
};

/// A record is given up when it would be delivered more often.
const DELIVERIES_MAX: u32 = 3;
/// Records per answer.
const ANSWER_MAX: usize = 12;

/// The broker refused; it did nothing.
#[derive(Debug)]
pub(super) struct Refused;

#[derive(Default)]
pub(super) struct Log {
    pub(super) start: u64,
    /// None is a control record.
    pub(super) records: Vec<Option<SentRecord>>,
    /// Offsets whose records are not there any more.
    gone: BTreeSet<u64>,
    producers: BTreeMap<i64, Producer>,
    holder: Option<i64>,
}

#[derive(Default)]
struct Producer {
    epoch: i16,
    next: Sequence,
    /// First sequence, base offset.
    batches: BTreeMap<i32, u64>,
}

#[derive(Default)]
struct Leased {
    count: u32,
    until: Nanos,
    is_over: bool,
}

#[derive(Default)]
pub(super) struct Broker {
    pub(super) logs: BTreeMap<Place, Log>,
    pub(super) generation: u32,
    committed: BTreeMap<Place, Offset>,
    /// By offset in `q`.
    queue: BTreeMap<usize, Leased>,
    /// Records that are to come to `d`, and when.
    waiting: BTreeMap<Fingerprint, (Nanos, SentRecord)>,
}

pub(super) fn place(topic: &str, partition: u32) -> Place {
    Place { topic: topic.into(), partition: PartitionId(partition) }
}

impl Log {
    pub(super) fn end(&self) -> u64 {
        self.records.len() as u64
    }

    fn append(&mut self, records: &[SentRecord], rng: &mut Rng) -> u64 {
        if rng.one_in(12) {
            self.records.push(None);
        }
        let base = self.end();
        self.records.extend(records.iter().copied().map(Some));
        base
    }

    fn append_stamped(
        &mut self,
        stamp: Stamp,
        records: &[SentRecord],
        is_held: bool,
        rng: &mut Rng,
    ) -> Result<u64, Refused> {
        if is_held && self.holder != Some(stamp.producer.0) {
            return Err(Refused);
        }
        let producer = self.producers.entry(stamp.producer.0).or_default();
        if stamp.epoch.0 < producer.epoch {
            return Err(Refused);
        }
        if stamp.epoch.0 > producer.epoch {
            *producer = Producer { epoch: stamp.epoch.0, ..Producer::default() };
        }
        if let Some(base) = producer.batches.get(&stamp.sequence.0) {
            return Ok(*base);
        }
        if stamp.sequence != producer.next {
            return Err(Refused);
        }
        producer.next = stamp.sequence.wrapping_advance(records.len() as u32);
        let base = self.append(records, rng);
        if let Some(producer) = self.producers.get_mut(&stamp.producer.0) {
            producer.batches.insert(stamp.sequence.0, base);
        }
        Ok(base)
    }

    fn claim(&mut self, claim: &Claim) -> Result<Answer, Refused> {
        let producer = claim.producer.0;
        let is_own = self.holder == Some(producer);
        let lost = !is_own && self.producers.contains_key(&producer);
        match claim.how {
            Claiming::Release if is_own => self.holder = None,
            Claiming::Release => {}
            Claiming::Keep if !is_own => return Err(Refused),
            Claiming::Hold if lost || (self.holder.is_some() && !is_own) => return Err(Refused),
            Claiming::TakeOver if lost => return Err(Refused),
            Claiming::Hold | Claiming::Keep | Claiming::TakeOver => {
                self.holder = Some(producer);
                self.producers.entry(producer).or_default();
            }
        }
        Ok(Answer::Done)
    }

    fn read(&self, from: u64) -> Result<Answer, Refused> {
        if from < self.start || from > self.end() {
            return Err(Refused);
        }
        let there = (from..).zip(&self.records[from as usize..]);
        let there = there.filter(|(offset, _)| !self.gone.contains(offset));
        let records = there.take(ANSWER_MAX);
        let records = records.map(|(offset, record)| SeenRecord {
            offset: Offset(offset),
            fingerprint: record.map(|record| record.fingerprint),
        });
        let (start, end) = (Some(Offset(self.start)), Some(Offset(self.end())));
        Ok(Answer::Read(ReadOut { start, end, records: records.collect() }))
    }
}

impl Broker {
    pub(super) fn log(&mut self, place: &Place) -> &mut Log {
        self.logs.entry(place.clone()).or_default()
    }

    /// Carries out an operation, at once. `position` is where a reader goes on.
    pub(super) fn apply(
        &mut self,
        operation: &Operation,
        position: u64,
        now: Nanos,
        rng: &mut Rng,
    ) -> Result<Answer, Refused> {
        self.let_in(now, rng);
        match operation {
            Operation::Send(batch) if !batch.dues.is_empty() => self.delay(batch, rng),
            Operation::Delay(change) => self.change(change),
            Operation::Claim(claim) => self.log(&claim.place).claim(claim),
            Operation::Send(batch) => self.send(batch, rng),
            Operation::Read(ReadFrom { place, from }) => {
                let log = self.log(place);
                log.read(from.map_or(position.max(log.start), |offset| offset.0))
            }
            Operation::Join { .. } => {
                self.generation += 1;
                Ok(Answer::Joined { generation: self.generation })
            }
            Operation::Commit(CommitOffset { generation, place, offset, .. }) => {
                if generation.is_some_and(|generation| generation < self.generation) {
                    return Err(Refused);
                }
                let stored = self.committed.entry(place.clone()).or_insert(*offset);
                *stored = (*stored).max(*offset);
                Ok(Answer::Done)
            }
            Operation::Committed { place, .. } => {
                Ok(Answer::Committed { offset: self.committed.get(place).copied() })
            }
            Operation::Reset { place, offset, .. } => {
                self.committed.insert(place.clone(), *offset);
                Ok(Answer::Done)
            }
            Operation::Take(take) => Ok(Answer::Taken(self.take(take, now, rng))),
            Operation::Settle(settle) => self.settle(settle, now),
            // Members of stream groups have a group of their own.
            Operation::Beat(_) | Operation::Leave { .. } => Err(Refused),
        }
    }

    fn delay(&mut self, batch: &SendBatch, rng: &mut Rng) -> Result<Answer, Refused> {
        if rng.one_in(8) {
            return Err(Refused);
        }
        for (record, due) in batch.records.iter().zip(&batch.dues) {
            self.waiting.insert(record.fingerprint, (*due, *record));
        }
        Ok(Answer::Sent(SentAt { partition: batch.partition, base: None }))
    }

    fn change(&mut self, change: &ChangeDelay) -> Result<Answer, Refused> {
        let (_, record) = self.waiting.remove(&change.fingerprint).ok_or(Refused)?;
        if let Some(due) = change.to {
            self.waiting.insert(change.fingerprint, (due, record));
        }
        Ok(Answer::Done)
    }

    /// What is due comes.
    pub(super) fn let_in(&mut self, now: Nanos, rng: &mut Rng) {
        let mut due: Vec<_> =
            self.waiting.values().filter(|(due, _)| *due <= now).copied().collect();
        due.sort_unstable_by_key(|(due, _)| *due);
        for (_, record) in due {
            self.waiting.remove(&record.fingerprint);
            self.log(&place("d", 0)).append(&[record], rng);
        }
    }

    fn send(&mut self, batch: &SendBatch, rng: &mut Rng) -> Result<Answer, Refused> {
        let number = batch.partition.unwrap_or_else(|| PartitionId(rng.below(2) as u32));
        let log = self.log(&Place { topic: batch.topic.clone(), partition: number });
        let base = match batch.identity {
            Identity::Stamped(stamp) => {
                log.append_stamped(stamp, &batch.records, batch.topic.as_str() == "o", rng)?
            }
            Identity::Once if rng.one_in(8) => return Err(Refused),
            Identity::Once | Identity::Repeating => log.append(&batch.records, rng),
        };
        if batch.identity == Identity::Repeating && rng.one_in(3) {
            log.append(&batch.records, rng);
        }
        let base = (!rng.one_in(10)).then_some(Offset(base));
        Ok(Answer::Sent(SentAt { partition: Some(number), base }))
    }

    fn take(&mut self, take: &TakeLease, now: Nanos, rng: &mut Rng) -> Vec<Taken> {
        let (queue, dead) = (place("q", 0), place("dlq", 0));
        let records: Vec<_> = self.log(&queue).records.iter().copied().enumerate().collect();
        let mut blocked: Vec<Key> = Vec::new();
        let mut taken = Vec::new();
        for (offset, record) in records {
            let Some(SentRecord { fingerprint, key }) = record else { continue };
            let leased = self.queue.entry(offset).or_default();
            if leased.is_over || key.is_some_and(|key| blocked.contains(&key)) {
                continue;
            }
            blocked.extend(key);
            if now < leased.until || taken.len() == 3 {
                continue;
            }
            if leased.count == DELIVERIES_MAX {
                leased.is_over = true;
                self.log(&dead).append(&[SentRecord { fingerprint, key }], rng);
                blocked.pop();
                continue;
            }
            leased.count += 1;
            leased.until = Nanos(now.0 + take.visibility.as_nanos() as u64);
            let count = leased.count;
            let (partition, offset) = (Some(PartitionId(0)), Some(Offset(offset as u64)));
            taken.push(Taken { fingerprint, count, partition, offset });
        }
        taken
    }

    fn settle(&mut self, settle: &SettleLease, now: Nanos) -> Result<Answer, Refused> {
        let is_it = |record: &Option<SentRecord>| {
            record.is_some_and(|record| record.fingerprint == settle.fingerprint)
        };
        let offset = self.log(&place("q", 0)).records.iter().position(is_it).ok_or(Refused)?;
        let leased = self.queue.entry(offset).or_default();
        if leased.is_over || leased.count != settle.count || now >= leased.until {
            return Err(Refused);
        }
        match settle.how {
            Settlement::Ack => leased.is_over = true,
            Settlement::Release => {
                leased.until = now;
                leased.count -= 1;
            }
            Settlement::Nack { delay: length } | Settlement::Extend { visibility: length } => {
                leased.until = Nanos(now.0 + length.as_nanos() as u64);
            }
        }
        Ok(Answer::Done)
    }

    /// Some of what the queue group is done with goes from the topic; answers how far it goes from
    /// the beginning.
    pub(super) fn reclaim(&mut self, rng: &mut Rng) -> u64 {
        let done = self.queue.iter().filter(|(_, leased)| leased.is_over);
        let done: BTreeSet<u64> = done.map(|(offset, _)| *offset as u64).collect();
        let log = self.log(&place("q", 0));
        let end = log.end();
        log.gone.extend(done.iter().filter(|offset| **offset + 1 < end && !rng.one_in(3)));
        let is_done = |at: &u64| done.contains(at) || log.records[*at as usize].is_none();
        let start = (log.start..end).find(|at| !is_done(at)).unwrap_or(end);
        if rng.one_in(3) {
            log.start = start;
        }
        log.start
    }

    /// Whether nothing is left in the queue.
    pub(super) fn is_queue_empty(&mut self) -> bool {
        let count = self.log(&place("q", 0)).records.iter().flatten().count();
        self.queue.values().filter(|leased| leased.is_over).count() == count
    }
}
