//! One consumer's connection: a fetch under way per partition, on one thread and one core.
//!
//! Owns: positions, and checking what comes. Must never: take a record that does not follow the
//! one before, or a batch whose CRC is wrong.
//! Invariants: a correlation is the index of a cursor; each cursor has one fetch under way, and the
//! next one leaves before the CRCs of what came are checked.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use barrage_model::batch::{BatchHeader, BatchView};
use barrage_model::limits::FRAME_BYTES_MAX;
use barrage_model::{Offset, PartitionKey};
use barrage_wire::{Correlation, FetchReply, FetchRequest, FrameHeader, Request, Response};
use bytes::BytesMut;

use crate::affinity;
use crate::meter::{Meter, Window};

/// What a reader does when it has read all there is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum AtEnd {
    /// Waits for more.
    Wait,
    /// Reads the same again.
    Again,
    /// Ends.
    Stop,
}

/// A consumer's connection.
#[derive(Debug)]
pub(crate) struct Reader {
    stream: TcpStream,
    core: usize,
    at_end: AtEnd,
    cursors: Vec<Cursor>,
    fetch_bytes: u32,
    record_size: u64,
    body: Vec<u8>,
}

/// A partition's position.
#[derive(Debug)]
struct Cursor {
    key: PartitionKey,
    next: Offset,
    high_watermark: Offset,
    /// When the fetch under way was sent.
    asked: Option<Instant>,
}

const WAIT_MS: u32 = 200;

impl Reader {
    /// Reads these partitions from their start.
    pub(crate) fn new(
        stream: TcpStream,
        core: usize,
        at_end: AtEnd,
        keys: &[PartitionKey],
        fetch_bytes: u32,
        record_size: usize,
    ) -> Self {
        let cursor = |key: &PartitionKey| Cursor {
            key: *key,
            next: Offset(0),
            high_watermark: Offset(0),
            asked: None,
        };
        let cursors = keys.iter().map(cursor).collect();
        let record_size = record_size as u64;
        Self { stream, core, at_end, cursors, fetch_bytes, record_size, body: Vec::new() }
    }

    /// Reads until the window ends, or everything is read.
    pub(crate) fn run(mut self, window: Window) -> Result<Meter> {
        affinity::pin(self.core).with_context(|| format!("cannot run on core {}", self.core))?;
        let mut meter = Meter::new(window);
        for index in 0..self.cursors.len() {
            self.ask(index)?;
        }
        while self.cursors.iter().any(|cursor| cursor.asked.is_some()) {
            let (index, asked) = self.receive()?;
            let now = Instant::now();
            let records = self.advance(index)?;
            if now < window.end && self.goes_on(index) {
                self.ask(index)?;
            }
            meter.ended(asked, now, records, records * self.record_size);
            self.check_batches()?;
        }
        if self.at_end == AtEnd::Stop {
            meter.close(Instant::now());
        }
        Ok(meter)
    }

    fn ask(&mut self, index: usize) -> Result<()> {
        let cursor = self.cursors.get_mut(index).context("no such cursor")?;
        let request = Request::Fetch(FetchRequest {
            key: cursor.key,
            offset: cursor.next,
            bytes_max: self.fetch_bytes,
            bytes_min: 1,
            wait_ms: WAIT_MS,
        });
        let mut out = BytesMut::new();
        request.encode(Correlation(u32::try_from(index)?), &mut out);
        self.stream.write_all(&out).context("cannot ask")?;
        cursor.asked = Some(Instant::now());
        Ok(())
    }

    /// Receives one answer into `body`: whose, and when it was asked for.
    fn receive(&mut self) -> Result<(usize, Instant)> {
        let mut head = [0; FrameHeader::SIZE];
        self.stream.read_exact(&mut head).context("no answer")?;
        let header = FrameHeader::parse(&head).context("a malformed answer")?;
        ensure!(header.body_size() <= FRAME_BYTES_MAX, "an oversized answer");
        if self.body.len() < header.body_size() {
            self.body.resize(header.body_size(), 0);
        }
        self.body.truncate(header.body_size());
        self.stream.read_exact(&mut self.body).context("half an answer")?;
        let index = header.correlation.0 as usize;
        let cursor = self.cursors.get_mut(index).context("an answer to nothing asked")?;
        let asked = cursor.asked.take().context("an answer to nothing asked")?;
        match Response::decode(&header, &self.body).context("a malformed answer")? {
            Response::Fetch(reply) => cursor.high_watermark = reply.high_watermark,
            Response::Error { error, .. } => bail!("the server refused a fetch: {error}"),
            other => bail!("a fetch was answered by {other:?}"),
        }
        Ok((index, asked))
    }

    fn batches(&self) -> &[u8] {
        self.body.get(FetchReply::BATCHES_AT..).unwrap_or_default()
    }

    /// Moves past what came; how many records that was.
    fn advance(&mut self, index: usize) -> Result<u64> {
        let cursor = self.cursors.get(index).context("no such cursor")?;
        let first = cursor.next;
        let mut next = first;
        let mut rest = self.batches();
        while !rest.is_empty() {
            let header = BatchHeader::peek(rest).context("a malformed batch")?;
            let follows =
                header.base_offset == next || (next == first && header.base_offset < next);
            ensure!(follows, "offset {} follows {next}", header.base_offset);
            ensure!(header.next_offset() > next, "a batch ends before offset {next}");
            next = header.next_offset();
            rest = rest.get(header.batch_len_total..).context("a batch is cut")?;
        }
        let cursor = self.cursors.get_mut(index).context("no such cursor")?;
        cursor.next = next;
        Ok(next.0 - first.0)
    }

    /// Whether there is more to ask for; goes back to the start when all is to be read again.
    fn goes_on(&mut self, index: usize) -> bool {
        let Some(cursor) = self.cursors.get_mut(index) else { return false };
        if cursor.next < cursor.high_watermark {
            return true;
        }
        if self.at_end == AtEnd::Again {
            cursor.next = Offset(0);
        }
        self.at_end != AtEnd::Stop
    }

    /// What a client library does with every batch before it hands out records.
    fn check_batches(&self) -> Result<()> {
        let mut rest = self.batches();
        while !rest.is_empty() {
            let size = BatchHeader::peek(rest)?.batch_len_total;
            let (batch, after) = rest.split_at_checked(size).context("a batch is cut")?;
            BatchView::check(batch).context("a damaged batch")?;
            rest = after;
        }
        Ok(())
    }
}

/// A long poll ends well before a connection without answers is given up.
const _: () = assert!((WAIT_MS as u128) < Duration::from_secs(30).as_millis());
