//! One consumer's connection: a fetch under way per partition, on one thread and one core.
//!
//! Owns: positions, and checking what comes. Must never: take a record that does not follow the
//! one before, or a batch whose CRC is wrong; hold more than one answer in memory.
//! Invariants: a correlation is the index of a cursor; a cursor has at most one fetch under way, a
//! reader at most as many as its wish says, and the next one leaves before the CRCs of what came
//! are checked.

use std::collections::VecDeque;
use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use barrage_model::batch::{BatchHeader, BatchView, batches};
use barrage_model::limits::FRAME_BYTES_MAX;
use barrage_model::{Offset, PartitionKey};
use barrage_wire::{Correlation, FetchReply, FetchRequest, FrameHeader, Request, Response};
use bytes::BytesMut;

use crate::affinity;
use crate::meter::{Meter, Window};
use crate::trail::{Numbered, Trail};

/// What a reader does when it has read all there is.
#[derive(Clone, Debug)]
pub(crate) enum AtEnd {
    /// Waits for more until the producers are done and all of it is read.
    Follow(Arc<Live>),
    /// Reads the same again.
    Again,
    /// Ends.
    Stop,
}

/// What readers share with the producers whose records they follow.
#[derive(Debug)]
pub(crate) struct Live {
    /// Every batch was answered, and no more will come.
    pub done: AtomicBool,
    pub trail: Trail,
}

/// What a reader asks for.
#[derive(Clone, Debug)]
pub(crate) struct Wish {
    pub at_end: AtEnd,
    /// Bytes of an answer, at most.
    pub bytes_max: u32,
    /// Fetches under way, at most.
    pub fetches_max: usize,
    /// Of a record's value.
    pub record_size: usize,
}

/// A consumer's connection.
#[derive(Debug)]
pub(crate) struct Reader {
    stream: TcpStream,
    core: usize,
    wish: Wish,
    cursors: Vec<Cursor>,
    /// Cursors to ask for next.
    waiting: VecDeque<usize>,
    under_way: usize,
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
    /// It was sent when no more would come.
    is_last: bool,
}

const WAIT_MS: u32 = 200;
/// How long reading may go on after the last record was produced.
const DRAIN_MAX: Duration = Duration::from_secs(600);

impl Reader {
    /// Reads these partitions from their start.
    pub(crate) fn new(stream: TcpStream, core: usize, wish: Wish, keys: &[PartitionKey]) -> Self {
        let cursor = |key: &PartitionKey| Cursor {
            key: *key,
            next: Offset(0),
            high_watermark: Offset(0),
            asked: None,
            is_last: false,
        };
        let cursors = keys.iter().map(cursor).collect();
        let waiting = (0..keys.len()).collect();
        Self { stream, core, wish, cursors, waiting, under_way: 0, body: Vec::new() }
    }

    /// Reads until the window ends, or everything is read.
    pub(crate) fn run(mut self, window: Window) -> Result<Meter> {
        affinity::pin(self.core).with_context(|| format!("cannot run on core {}", self.core))?;
        let mut meter = Meter::new(window);
        self.ask_waiting()?;
        while self.under_way > 0 {
            let (index, asked) = self.receive()?;
            let now = Instant::now();
            let records = self.advance(index)?;
            if self.goes_on(index, now, window)? {
                self.waiting.push_back(index);
            }
            self.ask_waiting()?;
            let bytes = records * self.wish.record_size as u64;
            match &self.wish.at_end {
                AtEnd::Follow(live) => {
                    meter.came(now, records, bytes);
                    self.follow(live, index, now, &mut meter)?;
                }
                AtEnd::Again | AtEnd::Stop => {
                    meter.ended(asked, now, records, bytes);
                    check_batches(self.batches())?;
                }
            }
        }
        if matches!(self.wish.at_end, AtEnd::Stop) {
            meter.close(Instant::now());
        }
        Ok(meter)
    }

    /// Asks for as many of those that wait as may be under way.
    fn ask_waiting(&mut self) -> Result<()> {
        while self.under_way < self.wish.fetches_max {
            let Some(index) = self.waiting.pop_front() else { break };
            self.ask(index)?;
        }
        Ok(())
    }

    fn ask(&mut self, index: usize) -> Result<()> {
        let cursor = self.cursors.get_mut(index).context("no such cursor")?;
        let request = Request::Fetch(FetchRequest {
            key: cursor.key,
            offset: cursor.next,
            bytes_max: self.wish.bytes_max,
            bytes_min: 1,
            wait_ms: WAIT_MS,
        });
        cursor.is_last = match &self.wish.at_end {
            AtEnd::Follow(live) => live.done.load(Ordering::Acquire),
            AtEnd::Again | AtEnd::Stop => false,
        };
        let mut out = BytesMut::new();
        request.encode(Correlation(u32::try_from(index)?), &mut out);
        self.stream.write_all(&out).context("cannot ask")?;
        cursor.asked = Some(Instant::now());
        self.under_way += 1;
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
        self.under_way -= 1;
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
    fn goes_on(&mut self, index: usize, now: Instant, window: Window) -> Result<bool> {
        let Some(cursor) = self.cursors.get_mut(index) else { return Ok(false) };
        let all_read = cursor.next >= cursor.high_watermark;
        Ok(match self.wish.at_end {
            AtEnd::Follow(_) => {
                ensure!(now < window.end + DRAIN_MAX, "{}: records do not come", cursor.key);
                !(all_read && cursor.is_last)
            }
            AtEnd::Again => {
                if all_read {
                    cursor.next = Offset(0);
                }
                now < window.end
            }
            AtEnd::Stop => !all_read && now < window.end,
        })
    }

    /// Checks what came, and counts how long it was on its way.
    fn follow(&self, live: &Live, index: usize, now: Instant, meter: &mut Meter) -> Result<()> {
        let key = self.cursors.get(index).context("no such cursor")?.key;
        for batch in batches(self.batches()) {
            let batch = BatchView::check(batch?).context("a damaged batch")?;
            let (producer, sequence) = (batch.producer_id(), batch.base_sequence());
            let numbered = Numbered { producer, sequence, records: batch.record_count() };
            if let Some(sent) = live.trail.took(key, numbered)? {
                meter.took(sent, now);
            }
        }
        Ok(())
    }
}

/// What a client library does with every batch before it hands out records; how many they are.
pub(crate) fn check_batches(bytes: &[u8]) -> Result<u64> {
    let mut records = 0;
    for batch in batches(bytes) {
        let batch = BatchView::check(batch?).context("a damaged batch")?;
        records += u64::from(batch.record_count());
    }
    Ok(records)
}

/// A long poll ends well before a connection without answers is given up.
const _: () = assert!((WAIT_MS as u128) < Duration::from_secs(30).as_millis());
