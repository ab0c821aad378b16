//! A consumer's connection to one leader: a fetch under way for each of its partitions.
//!
//! Owns: positions, and checking what comes. Must never: take a record that does not follow the one
//! before, or a batch whose CRC is wrong.
//! Invariants: a correlation is the index of a cursor, or [`PING`]; each cursor has at most one
//! fetch under way, and the next one leaves before the CRCs of what came are checked.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use barrage_model::batch::{BatchHeader, batches};
use barrage_model::{Offset, PartitionKey};
use barrage_wire::{Correlation, FetchReply, FetchRequest, Request, Response};

use super::clock::Clock;
use super::dues::{Dues, Spacing};
use super::link::Link;
use super::signals::UNKNOWN;
use crate::meter::Meter;
use crate::session::Session;

/// One connection.
#[derive(Debug)]
pub(crate) struct Consumer {
    pub link: Link,
    cursors: Vec<Cursor>,
    wish: Wish,
    stage: Stage,
    /// Since when something is under way.
    since: Instant,
    pinged: Instant,
}

/// What it asks for, and how records say when they were due.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Wish {
    pub fetch_bytes: u32,
    pub record_size: u64,
    /// Between the records of a batch; `None` if each says so itself.
    pub spacing: Option<Spacing>,
}

/// A partition's position.
#[derive(Clone, Debug)]
struct Cursor {
    key: PartitionKey,
    next: Offset,
    high_watermark: Offset,
    asked: bool,
    /// Whether the high watermark is one of this stage.
    knows: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    Reading,
    /// Nothing is asked for.
    Paused,
    /// Nothing more is produced: a partition that was read to its end is done.
    Draining,
}

/// How long a fetch waits for records to come.
const WAIT_MS: u32 = 200;
/// A paused connection is shown to be in use so often; servers close those that are not.
const PING_EVERY: Duration = Duration::from_secs(60);
const PING: Correlation = Correlation(u32::MAX);

impl Consumer {
    /// Connects to a leader for these of its partitions; more than a connection may have under way
    /// share several.
    pub(crate) fn connect(
        address: SocketAddr,
        keys: &[PartitionKey],
        wish: Wish,
    ) -> Result<Vec<Self>> {
        let mut consumers = Vec::new();
        let mut rest = keys;
        while !rest.is_empty() {
            let session = Session::connect(address)?;
            // One is left for a ping.
            let most = (session.limits.in_flight_requests_max as usize).saturating_sub(1).max(1);
            let (keys, others) = rest.split_at(most.min(rest.len()));
            rest = others;
            let cursor = |key: &PartitionKey| Cursor {
                key: *key,
                next: Offset(0),
                high_watermark: Offset(0),
                asked: false,
                knows: false,
            };
            let now = Instant::now();
            consumers.push(Self {
                link: Link::new(session.into_stream())?,
                cursors: keys.iter().map(cursor).collect(),
                wish,
                stage: Stage::Paused,
                since: now,
                pinged: now,
            });
        }
        Ok(consumers)
    }

    /// Begins, or goes on.
    pub(crate) fn resume(&mut self, now: Instant) -> Result<()> {
        self.enter(Stage::Reading, now)
    }

    /// Asks for nothing more; what was asked for still comes.
    pub(crate) const fn pause(&mut self) {
        self.stage = Stage::Paused;
    }

    /// Reads what is left.
    pub(crate) fn drain(&mut self, now: Instant) -> Result<()> {
        self.enter(Stage::Draining, now)
    }

    fn enter(&mut self, stage: Stage, now: Instant) -> Result<()> {
        self.stage = stage;
        for index in 0..self.cursors.len() {
            let cursor = self.cursors.get_mut(index).context("no such cursor")?;
            // What is under way was asked in the stage before, and is asked again when it came.
            cursor.knows = false;
            if !cursor.asked {
                self.ask(index, now)?;
            }
        }
        self.flush()
    }

    /// Records that it is behind; [`UNKNOWN`] until every partition has told in this stage.
    pub(crate) fn behind(&self) -> u64 {
        if self.cursors.iter().any(|cursor| !cursor.knows) {
            return UNKNOWN;
        }
        self.left()
    }

    /// Records behind, as far as is known.
    pub(crate) fn left(&self) -> u64 {
        let behind = |cursor: &Cursor| cursor.high_watermark.0.saturating_sub(cursor.next.0);
        self.cursors.iter().map(behind).sum()
    }

    /// Whether it reads no more.
    pub(crate) fn is_drained(&self) -> bool {
        let done =
            |cursor: &Cursor| cursor.knows && !cursor.asked && cursor.next >= cursor.high_watermark;
        self.stage == Stage::Draining && self.cursors.iter().all(done)
    }

    fn ask(&mut self, index: usize, now: Instant) -> Result<()> {
        let idle = self.cursors.iter().all(|cursor| !cursor.asked);
        let cursor = self.cursors.get_mut(index).context("no such cursor")?;
        let request = Request::Fetch(FetchRequest {
            key: cursor.key,
            offset: cursor.next,
            bytes_max: self.wish.fetch_bytes,
            bytes_min: 1,
            wait_ms: if self.stage == Stage::Draining { 0 } else { WAIT_MS },
        });
        let correlation = Correlation(u32::try_from(index)?);
        self.link.push(|out| request.encode(correlation, out));
        cursor.asked = true;
        if idle {
            self.since = now;
        }
        Ok(())
    }

    /// Sends what was asked.
    pub(crate) fn flush(&mut self) -> Result<()> {
        // Requests are small: no batch comes back.
        self.link.flush(&mut Vec::new())
    }

    /// Takes what has come, which came when it was read; how many records that is.
    pub(crate) fn receive(&mut self, clock: &Clock, meter: &mut Meter) -> Result<u64> {
        let mut records = 0;
        let Some(now) = self.link.fill()? else { return Ok(records) };
        while let Some((header, body)) = self.link.frame() {
            if header.correlation == PING {
                self.link.pass();
                continue;
            }
            let index = header.correlation.0 as usize;
            let reply = match Response::decode(&header, body).context("a malformed answer")? {
                Response::Fetch(reply) => reply,
                Response::Error { error, .. } => bail!("the server refused a fetch: {error}"),
                other => bail!("a fetch was answered by {other:?}"),
            };
            let cursor = self.cursors.get_mut(index).context("an answer to nothing asked")?;
            let (count, asks) = cursor.advance(&reply, self.stage)?;
            records += count;
            if asks {
                self.ask(index, now)?;
                self.flush()?;
            }
            self.count(now, clock, meter)?;
            self.link.pass();
        }
        Ok(records)
    }

    /// Checks and counts the batches of the frame that is looked at.
    fn count(&self, now: Instant, clock: &Clock, meter: &mut Meter) -> Result<()> {
        let (_, body) = self.link.frame().context("the frame is looked at")?;
        for batch in batches(body.get(FetchReply::BATCHES_AT..).unwrap_or_default()) {
            let dues = Dues::read(batch?, self.wish.spacing, clock)?;
            dues.ended(now, self.wish.record_size, meter);
        }
        Ok(())
    }

    /// Keeps a paused connection, and fails if an answer is too late.
    pub(crate) fn check_heard(&mut self, now: Instant) -> Result<()> {
        if self.cursors.iter().any(|cursor| cursor.asked) {
            return self.link.check_heard(now, self.since);
        }
        if now.saturating_duration_since(self.pinged) > PING_EVERY {
            self.pinged = now;
            self.link.push(|out| Request::Ping.encode(PING, out));
            self.flush()?;
        }
        Ok(())
    }
}

impl Cursor {
    /// Moves past what came: how many records that was, and whether more is to be asked for.
    fn advance(&mut self, reply: &FetchReply<'_>, stage: Stage) -> Result<(u64, bool)> {
        ensure!(self.asked, "an answer to nothing asked");
        self.asked = false;
        let first = self.next;
        for batch in batches(reply.batches) {
            let header = BatchHeader::peek(batch?).context("a malformed batch")?;
            let at = header.base_offset;
            ensure!(at == self.next, "{}: offset {at} follows {}", self.key, self.next);
            self.next = header.next_offset();
        }
        self.high_watermark = reply.high_watermark;
        let records = self.next.0 - first.0;
        let at_end = self.next >= self.high_watermark;
        let asks = match stage {
            Stage::Reading => true,
            Stage::Paused => false,
            // What was asked before may not know the end.
            Stage::Draining => !(self.knows && at_end),
        };
        self.knows = stage != Stage::Paused;
        Ok((records, asks))
    }
}
