//! A consumer: goes through the partitions of a topic from the start, the end or a time, and
//! tells the history what it saw.
//!
//! Owns: its positions, and what a fetch may be answered. Must never: skip a record without the
//! server having said that it is gone.

use std::collections::BTreeMap;
use std::ops::RangeInclusive;
use std::time::Duration;

use barrage_model::{Offset, PartitionKey};
use barrage_wire::{
    At, ErrorCode, ErrorReply, FetchReply, FetchRequest, Hint, ListOffsetRequest, Request, Response,
};
use barrage_world::sim::Rng;
use barrage_world::{Instant, sleep};

use super::batch;
use super::client::{Client, Refusal, Topic};
use super::draw::{between, milliseconds, pick};
use super::witness::Bounds;
use crate::history::ReadOut;

const PAUSE_AFTER_REFUSAL: Duration = milliseconds(10);
/// Until somebody leads, or is known to.
const PAUSE_WITHOUT_LEADER: Duration = milliseconds(30);
/// A reader that has gone through everything begins anew, once in so many fetches at the end.
const ANEW_ONE_IN: u64 = 20;
/// Fetches of the final reading that bring nothing, before it is given up.
const EMPTY_FETCHES_MAX: u64 = 200;

/// How a consumer goes through a partition.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Reading {
    Start,
    End,
    Time,
}

/// One consumer.
#[derive(Clone, Debug)]
pub(crate) struct ConsumerPlan {
    pub(crate) reading: Reading,
    pub(crate) bytes_max: u32,
    pub(crate) bytes_min: u32,
    pub(crate) wait_ms: u32,
    pub(crate) think_time: RangeInclusive<Duration>,
}

impl ConsumerPlan {
    pub(crate) fn draw(random: &mut Rng) -> Self {
        let reading = [Reading::Start, Reading::Start, Reading::End, Reading::Time];
        Self {
            reading: *pick(random, &reading),
            bytes_max: *pick(random, &[1, 2_000, 40_000, 1 << 20]),
            bytes_min: *pick(random, &[0, 1, 5_000]),
            wait_ms: *pick(random, &[0, 50, 1_000]),
            think_time: milliseconds(1)..=milliseconds(random.between(10, 300)),
        }
    }
}

/// What to fetch.
#[derive(Clone, Copy, Debug)]
pub(super) struct Wanted {
    pub(super) key: PartitionKey,
    pub(super) offset: u64,
    pub(super) bytes_max: u32,
    pub(super) bytes_min: u32,
    pub(super) wait_ms: u32,
}

/// What came of it.
pub(super) enum Fetched {
    /// The position to go on from, and where the partition ended.
    Next { offset: u64, high_watermark: u64 },
    /// Nothing is known.
    Nothing,
    /// The partition is gone.
    Gone,
}

/// See the module.
pub(crate) struct Consumer {
    client: Client,
    plan: ConsumerPlan,
}

impl Consumer {
    pub(crate) fn new(client: Client, plan: ConsumerPlan) -> Self {
        Self { client, plan }
    }

    /// Reads until it is told to stop, or the topic goes.
    pub(crate) async fn run(mut self, topic: &Topic) -> Client {
        let mut positions: BTreeMap<u32, u64> = BTreeMap::new();
        while !self.client.is_stopped() {
            let partition = self.client.random.below(u64::from(topic.partitions)) as u32;
            let key = topic.key(partition);
            let offset = match positions.get(&partition) {
                Some(offset) => *offset,
                None => match self.begin(key).await {
                    Some(offset) => offset,
                    None => continue,
                },
            };
            let ConsumerPlan { bytes_max, bytes_min, wait_ms, .. } = self.plan;
            let wanted = Wanted { key, offset, bytes_max, bytes_min, wait_ms };
            match fetch(&mut self.client, wanted).await {
                Fetched::Next { offset, high_watermark } => {
                    if high_watermark == u64::MAX && self.client.context.follows {
                        sleep(PAUSE_WITHOUT_LEADER).await;
                    }
                    let anew = offset == high_watermark && self.client.random.one_in(ANEW_ONE_IN);
                    positions.insert(partition, offset);
                    if anew {
                        positions.remove(&partition);
                    }
                }
                Fetched::Nothing => {
                    // What the server does not tell is not assumed.
                    positions.remove(&partition);
                    sleep(PAUSE_AFTER_REFUSAL).await;
                }
                Fetched::Gone => break,
            }
            sleep(between(&mut self.client.random, &self.plan.think_time)).await;
        }
        self.client.hang_up();
        self.client
    }

    /// Where to begin in a partition.
    async fn begin(&mut self, key: PartitionKey) -> Option<u64> {
        let at = match self.plan.reading {
            Reading::Start => At::Start,
            Reading::End => At::End,
            Reading::Time => {
                let drawn = self.client.random.next_u64();
                let around = self.client.random.between(0, 20) as i64 - 10;
                let known = self.client.context.witness.a_log_time(key, drawn);
                known.map_or(At::Start, |time_ms| At::Time(time_ms + around))
            }
        };
        list_offset(&mut self.client, key, at).await
    }
}

/// Asks for an offset, and looks whether the answer can be.
pub(crate) async fn list_offset(client: &mut Client, key: PartitionKey, at: At) -> Option<u64> {
    let witness = client.witness();
    let (before, asked_at) = (witness.bounds(key), Instant::now());
    let request = Request::ListOffset(ListOffsetRequest { key, at });
    let asked = client.ask_leader(key, &request, Duration::ZERO, |response| match response {
        Response::ListOffset(reply) => Some(*reply),
        _ => None,
    });
    match asked.await {
        Ok(reply) => {
            let (start, high_watermark) = (reply.start_offset.0, reply.high_watermark.0);
            let (told, offset) = (Bounds { start, high_watermark }, reply.offset.0);
            witness.saw_bounds(key, told, before);
            let right = match at {
                At::Start => offset == start,
                At::End => offset == high_watermark,
                At::Time(time_ms) => {
                    witness.saw_offset_of_time(key, time_ms, offset, told, before);
                    (start..=high_watermark).contains(&offset)
                }
            };
            if !right {
                witness.object(format!("{key}: {offset} is not {at:?} of {told:?}"));
            }
            Some(offset)
        }
        Err(Refusal::Lost) => None,
        Err(Refusal::Error(error)) => {
            judge(client, key, &error, asked_at, "list an offset of");
            sleep(PAUSE_AFTER_REFUSAL).await;
            None
        }
    }
}

/// Fetches once and tells the history.
pub(super) async fn fetch(client: &mut Client, wanted: Wanted) -> Fetched {
    let Wanted { key, offset, bytes_max, bytes_min, wait_ms } = wanted;
    let witness = client.witness();
    let before = witness.bounds(key);
    let asked_at = Instant::now();
    let call = witness.read(&client.name, key, offset);
    let request = FetchRequest { key, offset: Offset(offset), bytes_max, bytes_min, wait_ms };
    let wait = Duration::from_millis(u64::from(wait_ms));
    let request = Request::Fetch(request);
    let asked = client.ask_leader(key, &request, wait, |response| match response {
        Response::Fetch(FetchReply { high_watermark, start_offset, batches }) => {
            let told = Bounds { start: start_offset.0, high_watermark: high_watermark.0 };
            Some((told, batches.to_vec()))
        }
        _ => None,
    });
    match asked.await {
        Ok((told, batches)) => {
            // Beside records the end may be that of a leader that has a successor already.
            let before = if batches.is_empty() { before } else { Bounds::default() };
            witness.saw_bounds(key, told, before);
            match read(client, wanted, told, &batches) {
                Ok((out, next)) => {
                    witness.was_read(call, out);
                    Fetched::Next { offset: next, high_watermark: told.high_watermark }
                }
                Err(reason) => {
                    witness.object(format!("I3: {key} at {offset}: {reason}"));
                    witness.info(call, &reason);
                    Fetched::Nothing
                }
            }
        }
        Err(Refusal::Lost) => {
            witness.info(call, "the connection is lost");
            Fetched::Next { offset, high_watermark: u64::MAX }
        }
        Err(Refusal::Error(error)) => {
            witness.fail(call, error.code.name());
            refused(client, key, offset, &error, asked_at, before)
        }
    }
}

/// Opens what came, and looks whether a fetch may answer that.
fn read(
    client: &Client,
    wanted: Wanted,
    told: Bounds,
    batches: &[u8],
) -> Result<(ReadOut, u64), String> {
    let opened = batch::open(batches)?;
    let offset = wanted.offset;
    let next = batch::end(&opened).map_or(offset, |end| end.0);
    if next > told.high_watermark {
        return Err(format!("records up to {next} behind the high watermark {told:?}"));
    }
    if let Some(first) = opened.first()
        && !(first.base..first.base + first.count).contains(&offset)
        && !(first.base > offset && client.context.witness.keeps_until_acked(wanted.key.topic))
    {
        return Err(format!("the first batch begins at {} and holds {}", first.base, first.count));
    }
    let size = batches.len() as u64;
    if opened.len() > 1 && size > u64::from(wanted.bytes_max) {
        return Err(format!("{size} bytes, {} were asked for", wanted.bytes_max));
    }
    for batch in &opened {
        client.context.witness.saw_batch(wanted.key, batch.base, batch.count, batch.bytes);
    }
    let records = opened.into_iter().flat_map(|batch| batch.records);
    let records = records.filter(|record| record.offset.0 >= offset).collect();
    let (start, end) = (Some(Offset(told.start)), Some(Offset(told.high_watermark)));
    Ok((ReadOut { start, end, records }, next))
}

fn refused(
    client: &Client,
    key: PartitionKey,
    offset: u64,
    error: &ErrorReply,
    asked_at: Instant,
    before: Bounds,
) -> Fetched {
    let witness = &client.context.witness;
    if let (ErrorCode::OffsetOutOfRange, Hint::Offsets { start, high_watermark }) =
        (error.code, &error.hint)
    {
        let told = Bounds { start: start.0, high_watermark: high_watermark.0 };
        witness.saw_bounds(key, told, before);
        if (told.start..=told.high_watermark).contains(&offset) {
            witness.object(format!("{key}: {offset} is said to be out of range, of {told:?}"));
        }
        if offset > told.high_watermark {
            witness.object(format!("I1: {key} was read up to {offset} and is {told:?} now"));
        }
        return Fetched::Next { offset: told.start, high_watermark: told.high_watermark };
    }
    judge(client, key, error, asked_at, "fetch from");
    match error.code {
        ErrorCode::UnknownPartition if !witness.may_be_unknown(key) => Fetched::Nothing,
        ErrorCode::UnknownPartition => Fetched::Gone,
        // Somebody else goes on from there.
        ErrorCode::NotLeader if client.context.follows => {
            Fetched::Next { offset, high_watermark: u64::MAX }
        }
        _ => Fetched::Nothing,
    }
}

fn judge(client: &Client, key: PartitionKey, error: &ErrorReply, asked_at: Instant, what: &str) {
    let unknown = error.code == ErrorCode::UnknownPartition;
    if !(unknown && client.context.witness.may_be_unknown(key)) {
        client.judge(error, asked_at, &format!("{what} {key}"));
    }
}

/// Reads everything a partition holds; answers how many records that were, or nothing if it did
/// not come to the end.
pub(crate) async fn read_all(client: &mut Client, key: PartitionKey) -> Option<u64> {
    let mut offset = loop {
        match list_offset(client, key, At::Start).await {
            Some(offset) => break offset,
            None => sleep(PAUSE_AFTER_REFUSAL).await,
        }
    };
    let (mut count, mut empty) = (0, 0);
    while empty < EMPTY_FETCHES_MAX {
        let wanted = Wanted { key, offset, bytes_max: 1 << 20, bytes_min: 1, wait_ms: 0 };
        match fetch(client, wanted).await {
            Fetched::Next { offset: next, high_watermark } => {
                if high_watermark == u64::MAX && client.context.follows {
                    sleep(PAUSE_WITHOUT_LEADER).await;
                }
                empty = if next > offset { 0 } else { empty + 1 };
                count += next - offset.min(next);
                offset = next;
                if offset == high_watermark {
                    return Some(count);
                }
            }
            Fetched::Nothing => {
                empty += 1;
                sleep(PAUSE_AFTER_REFUSAL).await;
            }
            Fetched::Gone => return None,
        }
    }
    None
}
