//! Producers in an open loop: batches are due at fixed times, whatever comes back.
//!
//! Owns: the schedule. Must never: measure from when a batch was sent; a server that stalls would
//! hide the wait of all that was due meanwhile.
//! Invariants: batch `n` of a producer is due `n` intervals after the start, so its answer alone
//! says when it was due.
//!
//! One thread per client core serves all its producers and never sleeps: a timer's lateness would
//! be counted as the server's.

use std::collections::VecDeque;
use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use barrage_wire::TopicRoutes;
use bytes::BytesMut;

use crate::affinity;
use crate::args::Plan;
use crate::batches::Batches;
use crate::client::dues::{Dues, Spacing};
use crate::dialect::{Dialect, Targets};
use crate::lane::ANSWER_TIMEOUT;
use crate::meter::{Meter, Window};
use crate::produce;

/// One producer's connection.
struct Open {
    stream: TcpStream,
    dialect: Dialect,
    targets: Targets,
    batches: Batches,
    interval: Duration,
    /// Between the records of a batch, if each counts from when it was due itself: the last of
    /// them when the batch was.
    spacing: Option<Spacing>,
    /// When batch 0 is due.
    epoch: Instant,
    sent: u64,
    /// Due times of what is under way, by correlation; the first is the oldest sent.
    due: VecDeque<(u32, Instant)>,
    out: BytesMut,
    input: BytesMut,
}

const INPUT_BYTES: usize = 16 << 10;
/// Bytes that may wait for a socket that takes none; beyond, sending is late and counts as such.
const OUT_BYTES_MAX: usize = 16 << 20;

/// Offers the plan's rate to the bare server.
pub(crate) fn run_bare(plan: &Plan, address: SocketAddr) -> Result<Meter> {
    let connect = || Ok((TcpStream::connect(address)?, Dialect::Bare, Targets::bare()));
    let lanes = (0..plan.producers).map(|_| connect()).collect::<Result<Vec<_>>>()?;
    run(plan, lanes, plan.bare_duration)
}

/// Offers the plan's rate to a node.
pub(crate) fn run_node(plan: &Plan, routes: &TopicRoutes) -> Result<Meter> {
    let mut lanes = Vec::new();
    for index in 0..plan.producers {
        for (address, keys) in produce::partitions_of(index, plan.producers, routes)? {
            let (stream, targets, _) = produce::connect(address, keys, 1)?;
            lanes.push((stream, Dialect::Native, targets));
        }
    }
    run(plan, lanes, plan.duration)
}

fn run(
    plan: &Plan,
    lanes: Vec<(TcpStream, Dialect, Targets)>,
    duration: Duration,
) -> Result<Meter> {
    let batches = produce::batches(plan, plan.batch)?;
    let of_lane = plan.rate as f64 / lanes.len() as f64;
    let interval = Duration::from_secs_f64(f64::from(batches.records()) / of_lane);
    let window = Window::after(plan.warm_up, duration);
    let epoch = Instant::now();
    let lane_count = u32::try_from(lanes.len())?;
    let spacing = plan.workload.is_some().then(|| Spacing::of_rate(of_lane));
    let mut by_core: Vec<Vec<Open>> = Vec::new();
    by_core.resize_with(plan.client_cores.count(), Vec::new);
    for (index, (stream, dialect, targets)) in (0_u32..).zip(lanes) {
        stream.set_nodelay(true)?;
        stream.set_nonblocking(true)?;
        let open = Open {
            stream,
            dialect,
            targets,
            batches: batches.clone(),
            interval,
            spacing,
            // Lanes take turns within an interval instead of sending all at once.
            epoch: epoch + interval * index / lane_count,
            sent: 0,
            due: VecDeque::new(),
            out: BytesMut::new(),
            input: BytesMut::new(),
        };
        let core = index as usize % by_core.len();
        by_core.get_mut(core).context("no core")?.push(open);
    }
    let runs = by_core.into_iter().enumerate();
    let runs = runs.map(|(core, lanes)| {
        let core = plan.client_cores.nth(core);
        move || run_core(core, lanes, window)
    });
    produce::run_all(runs.collect(), window)
}

/// Serves all lanes of a core until the window has ended and all is answered.
fn run_core(core: usize, mut lanes: Vec<Open>, window: Window) -> Result<Meter> {
    affinity::pin(core).with_context(|| format!("cannot run on core {core}"))?;
    let mut meter = Meter::new(window);
    loop {
        let now = Instant::now();
        if now >= window.end && lanes.iter().all(|lane| lane.due.is_empty()) {
            return Ok(meter);
        }
        ensure!(now < window.end + ANSWER_TIMEOUT, "no answer within {ANSWER_TIMEOUT:?}");
        for lane in &mut lanes {
            if now < window.end {
                lane.send_due(now)?;
            }
            lane.flush()?;
            lane.receive(&mut meter)?;
        }
        std::hint::spin_loop();
    }
}

impl Open {
    fn send_due(&mut self, now: Instant) -> Result<()> {
        loop {
            let offset = self.interval.as_secs_f64() * self.sent as f64;
            let due = self.epoch + Duration::from_secs_f64(offset);
            if now < due || self.out.len() > OUT_BYTES_MAX {
                return Ok(());
            }
            let correlation = self.sent as u32;
            let (key, stamp) = self.targets.next(self.batches.records());
            let batch = self.batches.next(stamp, false)?;
            self.dialect.encode_head(correlation, key, batch, &mut self.out)?;
            self.out.extend_from_slice(batch);
            self.due.push_back((correlation, due));
            self.sent += 1;
        }
    }

    fn flush(&mut self) -> Result<()> {
        while !self.out.is_empty() {
            match self.stream.write(&self.out) {
                Ok(0) => bail!("the server closed the connection"),
                Ok(count) => drop(self.out.split_to(count)),
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
                Err(error) => return Err(error).context("cannot send"),
            }
        }
        Ok(())
    }

    fn count(&self, due: Instant, now: Instant, meter: &mut Meter) {
        let (count, bytes) = (self.batches.records(), self.batches.value_bytes());
        match self.spacing {
            None => meter.ended(due, now, u64::from(count), bytes),
            Some(spacing) => {
                let waited = spacing.times(u64::from(count.saturating_sub(1)));
                let first = due.checked_sub(waited).unwrap_or(due);
                let dues = Dues::Even { first, spacing, count };
                dues.ended(now, bytes / u64::from(count.max(1)), meter);
            }
        }
    }

    fn receive(&mut self, meter: &mut Meter) -> Result<()> {
        let kept = self.input.len();
        self.input.resize(kept + INPUT_BYTES, 0);
        let received = self.stream.read(self.input.get_mut(kept..).context("input")?);
        let count = match received {
            Ok(0) => bail!("the server closed the connection"),
            Ok(count) => count,
            Err(error) if error.kind() == ErrorKind::WouldBlock => 0,
            Err(error) => return Err(error).context("no answer"),
        };
        self.input.truncate(kept + count);
        let now = Instant::now();
        while let Some(correlation) = self.dialect.next_answer(&mut self.input)? {
            // Answers come nearly in order: the search ends within a few steps.
            let place = self.due.iter().position(|(sent, _)| *sent == correlation);
            let due = place.and_then(|place| self.due.remove(place));
            let (_, due) = due.context("an answer to nothing sent")?;
            self.count(due, now, meter);
        }
        Ok(())
    }
}
