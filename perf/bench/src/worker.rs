//! One worker's connection: records are leased, checked and acked, several leases under way.
//!
//! Owns: the turns, and checking what comes. Must never: count a record before its ack is answered;
//! take a record that was delivered before, or whose batch is damaged.
//! Invariants: a correlation is the index of a turn; each turn has one request under way, a lease
//! or the acks of one.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::time::Instant;

use anyhow::{Context as _, Result, bail, ensure};
use barrage_model::batch::{BatchHeader, BatchView};
use barrage_model::limits::FRAME_BYTES_MAX;
use barrage_model::{GroupId, Offset, PartitionKey};
use barrage_wire::{
    Correlation, FrameHeader, Lease, QueueReceive, QueueSettle, Receipt, Request, Response,
    Settled, Settlement,
};
use bytes::BytesMut;

use crate::affinity;
use crate::meter::{Meter, Window};

/// What a worker asks for.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Wish {
    pub group: GroupId,
    /// Records of a lease, at most.
    pub count_max: u32,
    /// Bytes of an answer, at most.
    pub bytes_max: u32,
    /// Leases under way for each partition.
    pub turns: usize,
    /// What is leased is acked; else it stays leased.
    pub acks: bool,
}

/// A worker's connection.
#[derive(Debug)]
pub(crate) struct Worker {
    stream: TcpStream,
    core: usize,
    wish: Wish,
    turns: Vec<Turn>,
    record_size: u64,
    body: Vec<u8>,
    out: BytesMut,
}

/// One lease, from asking for it to the answer to its acks.
#[derive(Debug)]
struct Turn {
    key: PartitionKey,
    began: Instant,
    stage: Stage,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    Leasing,
    Acking { records: u64 },
    Over,
}

impl Worker {
    /// Works on these partitions.
    pub(crate) fn new(
        stream: TcpStream,
        core: usize,
        wish: Wish,
        keys: &[PartitionKey],
        record_size: usize,
    ) -> Self {
        let turn =
            |key: &PartitionKey| Turn { key: *key, began: Instant::now(), stage: Stage::Over };
        // All partitions are asked before one is asked twice.
        let turns = (0..wish.turns).flat_map(|_| keys.iter().map(turn)).collect();
        let (record_size, body, out) = (record_size as u64, Vec::new(), BytesMut::new());
        Self { stream, core, wish, turns, record_size, body, out }
    }

    /// Works until the window ends, or there is nothing left.
    pub(crate) fn run(mut self, window: Window) -> Result<Meter> {
        affinity::pin(self.core).with_context(|| format!("cannot run on core {}", self.core))?;
        let mut meter = Meter::new(window);
        for index in 0..self.turns.len() {
            self.lease(index)?;
        }
        let mut left = self.turns.len();
        while left > 0 {
            let index = self.receive()?;
            match self.stage(index)? {
                Stage::Leasing if !self.wish.acks => {
                    let records = self.leased()?.len() as u64;
                    let now = Instant::now();
                    meter.ended(self.turn(index)?.began, now, records, records * self.record_size);
                    if records > 0 && now < window.end {
                        self.lease(index)?;
                    } else {
                        left -= 1;
                    }
                }
                Stage::Leasing => {
                    if self.ack(index)? == 0 {
                        left -= 1;
                    }
                    self.check_batches()?;
                }
                Stage::Acking { records } => {
                    let now = Instant::now();
                    meter.ended(self.turn(index)?.began, now, records, records * self.record_size);
                    if now < window.end {
                        self.lease(index)?;
                    } else {
                        left -= 1;
                    }
                }
                Stage::Over => bail!("an answer to nothing asked"),
            }
        }
        meter.close(Instant::now());
        Ok(meter)
    }

    fn turn(&mut self, index: usize) -> Result<&mut Turn> {
        self.turns.get_mut(index).context("an answer to nothing asked")
    }

    fn stage(&mut self, index: usize) -> Result<Stage> {
        Ok(self.turn(index)?.stage)
    }

    fn lease(&mut self, index: usize) -> Result<()> {
        let Wish { group, count_max, bytes_max, .. } = self.wish;
        let turn = self.turn(index)?;
        (turn.began, turn.stage) = (Instant::now(), Stage::Leasing);
        let key = turn.key;
        let (visibility_ms, wait_ms) = (None, 0);
        let lease = QueueReceive { key, group, count_max, bytes_max, visibility_ms, wait_ms };
        self.send(index, &Request::QueueReceive(lease))
    }

    /// Acks what the answer in `body` holds; how many that are.
    fn ack(&mut self, index: usize) -> Result<usize> {
        let receipts = self.leased()?;
        let count = receipts.len();
        let group = self.wish.group;
        let turn = self.turn(index)?;
        turn.stage = match count {
            0 => Stage::Over,
            _ => Stage::Acking { records: count as u64 },
        };
        if count > 0 {
            let (key, settlement) = (turn.key, Settlement::Ack);
            let acks = QueueSettle { key, group, settlement, receipts };
            self.send(index, &Request::QueueSettle(acks))?;
        }
        Ok(count)
    }

    fn send(&mut self, index: usize, request: &Request<'_>) -> Result<()> {
        self.out.clear();
        request.encode(Correlation(u32::try_from(index)?), &mut self.out);
        self.stream.write_all(&self.out).context("cannot ask")
    }

    /// Receives one answer into `body`: whose. What acks are answered is checked.
    fn receive(&mut self) -> Result<usize> {
        let mut head = [0; FrameHeader::SIZE];
        self.stream.read_exact(&mut head).context("no answer")?;
        let header = FrameHeader::parse(&head).context("a malformed answer")?;
        ensure!(header.body_size() <= FRAME_BYTES_MAX, "an oversized answer");
        self.body.resize(header.body_size(), 0);
        self.stream.read_exact(&mut self.body).context("half an answer")?;
        let index = header.correlation.0 as usize;
        let stage = self.stage(index)?;
        match (Response::decode(&header, &self.body).context("a malformed answer")?, stage) {
            (Response::QueueReceive(_), Stage::Leasing) => {}
            (Response::QueueSettle(reply), Stage::Acking { records }) => {
                ensure!(reply.results.len() as u64 == records, "an ack has no answer");
                let refused = reply.results.iter().find(|result| **result != Settled::Done);
                ensure!(refused.is_none(), "an ack is refused: {refused:?}");
            }
            (Response::Error { error, .. }, _) => bail!("the server refused: {error}"),
            (other, stage) => bail!("{stage:?} was answered by {other:?}"),
        }
        Ok(index)
    }

    fn leased(&self) -> Result<Vec<Receipt>> {
        let reply = barrage_wire::QueueReceiveReply::decode(&self.body)?;
        let mut spans = spans(reply.batches);
        let mut span = Offset(0)..Offset(0);
        let mut receipts = Vec::with_capacity(reply.leases.len());
        for Lease { offset, tag, deliveries, .. } in reply.leases {
            ensure!(deliveries == 1, "record {offset} was delivered {deliveries} times");
            while offset >= span.end {
                span = spans.next().with_context(|| format!("record {offset} did not come"))??;
            }
            ensure!(offset >= span.start, "record {offset} did not come");
            receipts.push(Receipt { offset, tag });
        }
        Ok(receipts)
    }

    /// What a client library does with every batch before it hands out records.
    fn check_batches(&self) -> Result<()> {
        let mut rest = match self.body.is_empty() {
            true => return Ok(()),
            false => barrage_wire::QueueReceiveReply::decode(&self.body)?.batches,
        };
        while !rest.is_empty() {
            let size = BatchHeader::peek(rest)?.batch_len_total;
            let (batch, after) = rest.split_at_checked(size).context("a batch is cut")?;
            BatchView::check(batch).context("a damaged batch")?;
            rest = after;
        }
        Ok(())
    }
}

/// Which offsets each batch holds.
fn spans(mut rest: &[u8]) -> impl Iterator<Item = Result<std::ops::Range<Offset>>> {
    std::iter::from_fn(move || {
        if rest.is_empty() {
            return None;
        }
        let header = BatchHeader::peek(rest);
        let size = header.as_ref().map_or(rest.len(), |header| header.batch_len_total);
        rest = rest.get(size..).unwrap_or_default();
        let span = header.map(|header| header.base_offset..header.next_offset());
        Some(span.context("a malformed batch"))
    })
}
