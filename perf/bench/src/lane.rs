//! One producer's connection in a closed loop, on one thread and one core.
//!
//! Owns: keeping `in_flight` batches under way, and timing each from just before it is sent to its
//! answer. Must never: copy a large batch (it goes out from where it was made, beside its head),
//! or send past an error.
//! Invariants: a correlation is the index of a slot; a slot is taken while its batch is under way.
//!
//! Blocking reads and writes are enough: answers are a few bytes, so a server can always write
//! them while this side is still writing a batch.

use std::io::{self, IoSlice, Read as _, Write as _};
use std::net::TcpStream;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use bytes::BytesMut;

use crate::affinity;
use crate::batches::Batches;
use crate::dialect::{Dialect, Targets};
use crate::meter::{Meter, Window};
use crate::reader::Live;
use crate::trail::Numbered;

/// What is needed to run a lane.
#[derive(Debug)]
pub(crate) struct Lane {
    pub stream: TcpStream,
    pub dialect: Dialect,
    pub targets: Targets,
    pub batches: Batches,
    pub in_flight: usize,
    pub build: bool,
    /// Stop after so many batches.
    pub batches_max: Option<u64>,
    /// Who reads it meanwhile.
    pub live: Option<Arc<Live>>,
    pub core: usize,
}

struct Loop {
    lane: Lane,
    /// When the batch of this correlation was sent; `None` is free.
    slots: Vec<Option<Instant>>,
    free: Vec<u32>,
    sent: u64,
    out: BytesMut,
    input: BytesMut,
    meter: Meter,
}

/// Batches below this are gathered into one write; larger ones are not copied.
const GATHER_BATCH_MAX: usize = 16 << 10;
const GATHER_BYTES: usize = 128 << 10;
const INPUT_BYTES: usize = 64 << 10;
/// A server that answers nothing, or takes nothing in, for so long is taken for dead.
pub(crate) const ANSWER_TIMEOUT: Duration = Duration::from_secs(30);

impl Lane {
    /// Sends until the window ends or the count is reached, then awaits what is under way.
    pub(crate) fn run(self, window: Window) -> Result<Meter> {
        affinity::pin(self.core).with_context(|| format!("cannot run on core {}", self.core))?;
        self.stream.set_nodelay(true)?;
        self.stream.set_read_timeout(Some(ANSWER_TIMEOUT))?;
        self.stream.set_write_timeout(Some(ANSWER_TIMEOUT))?;
        let slots = u32::try_from(self.in_flight).context("in flight")?;
        let mut state = Loop {
            slots: vec![None; self.in_flight],
            free: (0..slots).rev().collect(),
            sent: 0,
            out: BytesMut::with_capacity(GATHER_BYTES * 2),
            input: BytesMut::with_capacity(INPUT_BYTES),
            meter: Meter::new(window),
            lane: self,
        };
        while Instant::now() < window.end && state.may_send() {
            state.send_all()?;
            state.receive()?;
        }
        while state.under_way() {
            state.receive()?;
        }
        if state.lane.batches_max.is_some() {
            state.meter.close(Instant::now());
        }
        Ok(state.meter)
    }
}

impl Loop {
    fn may_send(&self) -> bool {
        self.lane.batches_max.is_none_or(|max| self.sent < max)
    }

    fn under_way(&self) -> bool {
        self.free.len() < self.slots.len()
    }

    /// Sends a batch for every free slot.
    fn send_all(&mut self) -> Result<()> {
        while self.may_send() {
            let Some(slot) = self.free.pop() else { break };
            self.send(slot)?;
            if self.out.len() >= GATHER_BYTES {
                self.flush()?;
            }
        }
        self.flush()
    }

    fn send(&mut self, slot: u32) -> Result<()> {
        let Lane { stream, dialect, targets, batches, build, live, .. } = &mut self.lane;
        let (key, stamp) = targets.next(batches.records());
        let entry = self.slots.get_mut(slot as usize).context("no such slot")?;
        let now = Instant::now();
        *entry = Some(now);
        if let Some(live) = live {
            let (producer, sequence) = (stamp.producer, stamp.sequence);
            live.trail.sent(
                key,
                Numbered { producer, sequence, records: batches.records() },
                now,
            )?;
        }
        let batch = batches.next(stamp, *build)?;
        dialect.encode_head(slot, key, batch, &mut self.out)?;
        if batch.len() < GATHER_BATCH_MAX {
            self.out.extend_from_slice(batch);
        } else {
            write_both(stream, &self.out, batch).context("cannot send")?;
            self.out.clear();
        }
        self.sent += 1;
        Ok(())
    }

    fn flush(&mut self) -> Result<()> {
        if !self.out.is_empty() {
            self.lane.stream.write_all(&self.out).context("cannot send")?;
            self.out.clear();
        }
        Ok(())
    }

    /// Waits for answers and takes all that came.
    fn receive(&mut self) -> Result<()> {
        if !self.under_way() {
            return Ok(());
        }
        let kept = self.input.len();
        self.input.resize(kept + INPUT_BYTES, 0);
        let room = self.input.get_mut(kept..).context("input")?;
        let count = self.lane.stream.read(room).context("no answer")?;
        self.input.truncate(kept + count);
        ensure!(count > 0, "the server closed the connection");
        let now = Instant::now();
        while let Some(correlation) = self.lane.dialect.next_answer(&mut self.input)? {
            let slot = self.slots.get_mut(correlation as usize);
            let began = slot.and_then(Option::take).context("an answer to nothing sent")?;
            self.free.push(correlation);
            let batches = &self.lane.batches;
            self.meter.ended(began, now, u64::from(batches.records()), batches.value_bytes());
        }
        Ok(())
    }
}

/// Writes two pieces as if they were one, from where they lie.
fn write_both(stream: &mut TcpStream, head: &[u8], body: &[u8]) -> io::Result<()> {
    let mut written = 0;
    while written < head.len() {
        let rest = head.get(written..).unwrap_or_default();
        let count = stream.write_vectored(&[IoSlice::new(rest), IoSlice::new(body)])?;
        if count == 0 {
            return Err(io::ErrorKind::WriteZero.into());
        }
        written += count;
    }
    stream.write_all(body.get(written - head.len()..).unwrap_or_default())
}
