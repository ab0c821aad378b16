//! A producer of a client: what its source gives, on a connection to each leader.
//!
//! Owns: sequences, and what is under way. Must never: send a batch of a partition past one before
//! it, or past an error.
//! Invariants: a correlation is the index of a slot; a slot is taken while its batch is under way.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Instant;

use anyhow::{Context as _, Result, bail};
use barrage_model::batch;
use barrage_model::{PartitionKey, ProducerEpoch, ProducerId, Sequence};
use barrage_wire::{Acks, Correlation, FrameHeader, ProduceRequest, Response};

use super::clock::Clock;
use super::dues::Dues;
use super::link::Link;
use super::source::{Ready, Source};
use super::stock::Stock;
use super::task::Sending;
use crate::meter::Meter;
use crate::produce;

/// One producer.
#[derive(Debug)]
pub(crate) struct Producer {
    pub lanes: Vec<Lane>,
    targets: Vec<Target>,
    source: Option<Source>,
    number: usize,
    record_size: u64,
    /// Whether answers decide when it sends, not the time.
    closed: bool,
}

/// Its connection to one leader.
#[derive(Debug)]
pub(crate) struct Lane {
    pub link: Link,
    producer: ProducerId,
    epoch: ProducerEpoch,
    slots: Vec<Option<Dues>>,
    free: Vec<u32>,
    /// Since when something is under way.
    since: Instant,
}

/// A partition that it writes to.
#[derive(Clone, Copy, Debug)]
struct Target {
    key: PartitionKey,
    lane: usize,
    next: Sequence,
}

/// What is counted of answers.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Answered {
    pub records: u64,
    /// Those within the meter's window.
    pub batches: u64,
}

impl Producer {
    /// Connects to the leaders of a topic's partitions; of each `keys` says who leads it.
    pub(crate) fn connect(
        number: usize,
        keys: &[(PartitionKey, SocketAddr)],
        sending: &Sending,
        batch_size: usize,
    ) -> Result<Self> {
        let mut places = BTreeMap::new();
        let mut lanes = Vec::new();
        for (key, address) in keys {
            if !places.contains_key(address) {
                places.insert(*address, lanes.len());
                lanes.push(Lane::connect(*address, *key, sending, batch_size)?);
            }
        }
        let target = |(key, address): &(PartitionKey, SocketAddr)| {
            let lane = places.get(address).copied().unwrap_or(0);
            Target { key: *key, lane, next: Sequence(0) }
        };
        let targets = keys.iter().map(target).collect();
        let record_size = sending.record_size as u64;
        let closed = sending.spacing.is_none();
        Ok(Self { lanes, targets, source: None, number, record_size, closed })
    }

    /// Begins its schedule.
    pub(crate) fn start(&mut self, sending: &Sending, stock: &Stock, at: Instant) -> Result<()> {
        let place = (self.number, self.targets.len());
        self.source = Some(Source::new(sending, place, stock, at)?);
        Ok(())
    }

    /// Sends what is due, as far as answers are not awaited first; whether there was any.
    pub(crate) fn send(&mut self, now: Instant, stock: &mut Stock, clock: &Clock) -> Result<bool> {
        let Some(source) = &mut self.source else { return Ok(false) };
        let mut some = false;
        while let Some(partition) = source.poll(now, stock, clock)? {
            let target = self.targets.get_mut(partition).context("no such partition")?;
            let lane = self.lanes.get_mut(target.lane).context("no such connection")?;
            // In a closed loop a batch begins when there is room to write it.
            let now = if self.closed { Instant::now() } else { now };
            if self.closed && !lane.link.gathers() {
                lane.flush(stock)?;
            }
            if !lane.may_send(self.closed) {
                break;
            }
            let ready = source.take(now, stock, clock)?;
            lane.send(target, ready, now, stock)?;
            some = true;
        }
        for lane in &mut self.lanes {
            lane.flush(stock)?;
        }
        Ok(some)
    }

    /// Takes the answers of one connection, which came when they were read: a turn that began
    /// before would make them earlier than they were.
    pub(crate) fn receive(&mut self, lane: usize, meter: &mut Meter) -> Result<Answered> {
        let lane = self.lanes.get_mut(lane).context("no such connection")?;
        let mut answered = Answered::default();
        let Some(now) = lane.link.fill()? else { return Ok(answered) };
        let counts = meter.window().holds(now);
        while let Some((header, body)) = lane.link.frame() {
            check_answer(&header, body)?;
            let slot = lane.slots.get_mut(header.correlation.0 as usize);
            let dues = slot.and_then(Option::take).context("an answer to nothing sent")?;
            lane.free.push(header.correlation.0);
            lane.link.pass();
            dues.ended(now, self.record_size, meter);
            answered.records += u64::from(dues.count());
            answered.batches += u64::from(counts);
        }
        Ok(answered)
    }

    /// Whether all that was sent is answered.
    pub(crate) fn is_idle(&self) -> bool {
        self.lanes.iter().all(|lane| lane.free.len() == lane.slots.len())
    }

    /// Fails if an answer is too late.
    pub(crate) fn check_heard(&self, now: Instant) -> Result<()> {
        let waiting = |lane: &&Lane| lane.free.len() < lane.slots.len();
        let mut waiting = self.lanes.iter().filter(waiting);
        waiting.try_for_each(|lane| lane.link.check_heard(now, lane.since))
    }
}

impl Lane {
    fn connect(
        address: SocketAddr,
        key: PartitionKey,
        sending: &Sending,
        batch_size: usize,
    ) -> Result<Self> {
        let (stream, targets, allowed) = produce::connect(address, vec![key], batch_size)?;
        let count = match sending.spacing.is_none() {
            true => {
                produce::check_in_flight(sending.in_flight_asked, allowed)?;
                sending.in_flight.min(allowed)
            }
            // Whatever comes back: late answers hold up nothing before the server says so.
            false => allowed,
        };
        let slots = u32::try_from(count)?;
        Ok(Self {
            link: Link::new(stream)?,
            producer: targets.producer,
            epoch: targets.epoch,
            slots: vec![None; count],
            free: (0..slots).rev().collect(),
            since: Instant::now(),
        })
    }

    fn may_send(&self, closed: bool) -> bool {
        let room = if closed { self.link.gathers() } else { self.link.has_room() };
        !self.free.is_empty() && room
    }

    fn send(
        &mut self,
        target: &mut Target,
        ready: Ready,
        now: Instant,
        stock: &mut Stock,
    ) -> Result<()> {
        if self.free.len() == self.slots.len() {
            self.since = now;
        }
        let slot = self.free.pop().context("every slot is taken")?;
        let Ready { mut batch, dues, .. } = ready;
        batch::set_producer(&mut batch, self.producer, self.epoch, target.next)
            .context("a batch cannot be stamped")?;
        target.next = target.next.wrapping_advance(dues.count());
        *self.slots.get_mut(slot as usize).context("no such slot")? = Some(dues);
        let key = target.key;
        let request = ProduceRequest { key, acks: Acks::Quorum, timeout_ms: 0, batch: &batch };
        self.link.push(|out| request.encode_head(Correlation(slot), out));
        if let Some(copied) = self.link.push_batch(batch) {
            stock.put(copied);
        }
        Ok(())
    }

    fn flush(&mut self, stock: &mut Stock) -> Result<()> {
        if self.link.is_out() {
            return Ok(());
        }
        let mut done = Vec::new();
        self.link.flush(&mut done)?;
        done.into_iter().for_each(|batch| stock.put(batch));
        Ok(())
    }
}

fn check_answer(header: &FrameHeader, body: &[u8]) -> Result<()> {
    match Response::decode(header, body).context("a malformed answer")? {
        Response::Produce(_) => Ok(()),
        Response::Error { error, .. } => bail!("the server refused a batch: {error}"),
        other => bail!("a batch was answered by {other:?}"),
    }
}
