//! A thread of a client on its core: producers and consumers in turn, none of which blocks.
//!
//! Owns: the turns, and what is counted. Must never: sleep while something is due at a time; that
//! would be counted as the server's. It gives its core to another client between turns instead.
//! Invariants: the window is the same in every thread of every client.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use mio::{Events, Interest, Poll, Token};

use super::consumer::Consumer;
use super::producer::Producer;
use super::signals::Signals;
use super::stock::Stock;
use super::task::{Sending, Totals};
use crate::affinity;
use crate::meter::{Meter, Window};

/// What a thread does.
pub(crate) struct Engine {
    pub number: usize,
    pub core: usize,
    pub signals: Arc<Signals>,
    pub producers: Vec<Producer>,
    pub consumers: Vec<Consumer>,
    pub stock: Stock,
    pub sending: Sending,
    pub warm_up: Duration,
    /// Whether consumers stop when what counts begins, until they are told to go on.
    pub pauses: bool,
}

/// What a thread did.
pub(crate) struct Did {
    pub publish: Meter,
    pub consume: Meter,
    pub totals: Totals,
}

/// The same while it does it.
struct Turns {
    engine: Engine,
    poll: Poll,
    events: Events,
    owners: Vec<Owner>,
    did: Did,
    stage: Stage,
    checked: Instant,
}

/// Whose connection it is.
#[derive(Clone, Copy, Debug)]
enum Owner {
    Producer { index: usize, lane: usize },
    Consumer { index: usize },
}

/// What consumers do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    Reading,
    Paused,
    Resumed,
    Draining { since: Instant },
}

/// A window whose end is told later.
const LONG: Duration = Duration::from_secs(2 * 86_400);
/// Pause between two looks while nothing is due at a time.
const IDLE: Duration = Duration::from_millis(5);
const EVENTS: usize = 1024;
/// How often connections are looked at for their age.
const CHECK_EVERY: Duration = Duration::from_millis(500);
/// Consumers that are behind at the end have so long to come to it.
const DRAIN_MAX: Duration = Duration::from_secs(60);

impl Engine {
    /// Waits for the start, does its work, and drains. What takes time is done before the start.
    pub(crate) fn run(mut self) -> Result<Did> {
        let core = self.core;
        affinity::pin(core).with_context(|| format!("cannot run on core {core}"))?;
        let (poll, owners) = self.register()?;
        let start = self.await_order()?;
        for producer in &mut self.producers {
            producer.start(&self.sending, &self.stock, start)?;
        }
        let begins = start + self.warm_up;
        let window = Window { start: begins, end: begins + LONG };
        let mut turns = Turns {
            engine: self,
            poll,
            events: Events::with_capacity(EVENTS),
            owners,
            did: Did {
                publish: Meter::new(window),
                consume: Meter::new(window),
                totals: Totals::default(),
            },
            stage: Stage::Reading,
            checked: start,
        };
        while Instant::now() < start {
            std::hint::spin_loop();
        }
        for consumer in &mut turns.engine.consumers {
            consumer.resume(start)?;
        }
        while turns.turn(window.start)? {}
        let mut did = turns.did;
        did.totals.published = did.publish.records_all();
        did.totals.consumed = did.consume.records_all();
        did.totals.left = turns.engine.consumers.iter().map(Consumer::left).sum();
        Ok(did)
    }

    /// Waits until it is told when all begin, which is a while ahead.
    fn await_order(&self) -> Result<Instant> {
        loop {
            if self.signals.is_given_up() {
                bail!("given up");
            }
            match self.signals.start() {
                Some(start) => return Ok(start),
                None => std::thread::sleep(IDLE),
            }
        }
    }

    fn register(&mut self) -> Result<(Poll, Vec<Owner>)> {
        let poll = Poll::new()?;
        let both = Interest::READABLE | Interest::WRITABLE;
        let mut owners = Vec::new();
        for (index, producer) in self.producers.iter_mut().enumerate() {
            for (number, lane) in producer.lanes.iter_mut().enumerate() {
                poll.registry().register(&mut lane.link.stream, Token(owners.len()), both)?;
                owners.push(Owner::Producer { index, lane: number });
            }
        }
        for (index, consumer) in self.consumers.iter_mut().enumerate() {
            poll.registry().register(&mut consumer.link.stream, Token(owners.len()), both)?;
            owners.push(Owner::Consumer { index });
        }
        Ok((poll, owners))
    }
}

impl Turns {
    /// One turn; whether there is another.
    fn turn(&mut self, counts_from: Instant) -> Result<bool> {
        let signals = Arc::clone(&self.engine.signals);
        if signals.is_given_up() {
            bail!("given up");
        }
        let now = Instant::now();
        let finish = signals.finish();
        if let Some(finish) = finish {
            self.did.publish.close(finish);
            self.did.consume.close(finish);
        }
        let sends = finish.is_none_or(|finish| now < finish);
        let mut some = false;
        if sends {
            let (stock, clock) = (&mut self.engine.stock, signals.clock());
            for producer in &mut self.engine.producers {
                some |= producer.send(now, stock, clock)?;
            }
        }
        some |= self.handle_ready(now, counts_from, &signals)?;
        self.change_stage(now, counts_from, &signals)?;
        if let Some(mine) = signals.threads.get(self.engine.number) {
            let idle = self.engine.producers.iter().all(Producer::is_idle);
            if !sends && idle {
                mine.produced.store(true, Ordering::Release);
            }
            let behind = self.engine.consumers.iter().map(Consumer::behind);
            mine.behind.store(behind.fold(0, u64::saturating_add), Ordering::Relaxed);
        }
        self.check_heard(now)?;
        self.wait(some, sends)?;
        Ok(!self.is_over(now))
    }

    /// Learns which connections are ready, or waits for one where nothing is due at a time.
    fn wait(&mut self, some: bool, sends: bool) -> Result<()> {
        let due = sends && !self.engine.sending.spacing.is_none();
        let busy = some || due && !self.engine.producers.is_empty();
        let pause = if busy { Duration::ZERO } else { IDLE };
        match self.poll.poll(&mut self.events, Some(pause)) {
            Err(error) if error.kind() != std::io::ErrorKind::Interrupted => {
                return Err(error).context("cannot wait for connections");
            }
            _ => {}
        }
        for event in &self.events {
            let owner = self.owners.get(event.token().0).context("nobody's connection")?;
            let link = match owner {
                Owner::Producer { index, lane } => {
                    let producer = self.engine.producers.get_mut(*index);
                    producer.and_then(|p| p.lanes.get_mut(*lane)).map(|lane| &mut lane.link)
                }
                Owner::Consumer { index } => {
                    self.engine.consumers.get_mut(*index).map(|consumer| &mut consumer.link)
                }
            };
            let link = link.context("nobody's connection")?;
            link.readable |= event.is_readable() || event.is_read_closed() || event.is_error();
            link.writable |= event.is_writable();
        }
        if self.events.is_empty() && !some {
            std::thread::yield_now();
        }
        Ok(())
    }

    /// Takes from every connection that has something.
    fn handle_ready(
        &mut self,
        now: Instant,
        counts_from: Instant,
        signals: &Signals,
    ) -> Result<bool> {
        let mut some = false;
        let Did { publish, consume, totals } = &mut self.did;
        for producer in &mut self.engine.producers {
            for lane in 0..producer.lanes.len() {
                if !producer.lanes.get(lane).is_some_and(|lane| lane.link.readable) {
                    continue;
                }
                let answered = producer.receive(lane, publish)?;
                some |= answered.records > 0;
                totals.batches += answered.batches;
                let mine = signals.threads.get(self.engine.number);
                if let Some(mine) = mine.filter(|_| now >= counts_from) {
                    mine.published.fetch_add(answered.records, Ordering::Relaxed);
                }
            }
        }
        for consumer in &mut self.engine.consumers {
            if consumer.link.readable {
                some |= consumer.receive(signals.clock(), consume)? > 0;
            }
            consumer.flush()?;
        }
        Ok(some)
    }

    /// Pauses, resumes and drains consumers at their time.
    fn change_stage(
        &mut self,
        now: Instant,
        counts_from: Instant,
        signals: &Signals,
    ) -> Result<()> {
        let resumed = signals.resume().is_some_and(|resume| now >= resume);
        let next = match self.stage {
            Stage::Draining { .. } => return Ok(()),
            _ if signals.drains() => Stage::Draining { since: now },
            Stage::Reading if self.engine.pauses && now >= counts_from => Stage::Paused,
            Stage::Paused if resumed => Stage::Resumed,
            same => same,
        };
        if next == self.stage {
            return Ok(());
        }
        self.stage = next;
        for consumer in &mut self.engine.consumers {
            match next {
                Stage::Paused => consumer.pause(),
                Stage::Draining { .. } => consumer.drain(now)?,
                Stage::Reading | Stage::Resumed => consumer.resume(now)?,
            }
        }
        Ok(())
    }

    fn check_heard(&mut self, now: Instant) -> Result<()> {
        if now.saturating_duration_since(self.checked) < CHECK_EVERY {
            return Ok(());
        }
        self.checked = now;
        self.engine.producers.iter().try_for_each(|producer| producer.check_heard(now))?;
        self.engine.consumers.iter_mut().try_for_each(|consumer| consumer.check_heard(now))
    }

    /// Whether everything is read, or the time for that is over.
    fn is_over(&self, now: Instant) -> bool {
        let Stage::Draining { since } = self.stage else { return false };
        let drained = self.engine.consumers.iter().all(Consumer::is_drained);
        drained || now.saturating_duration_since(since) > DRAIN_MAX
    }
}
