//! Records that were delivered too often, on their way to their dead-letter topic.
//!
//! ```text
//!   dying --Depart--> on their way, numbered --append as an idempotent producer--> in the topic
//!                            ^ Renumber: the topic has lost count            | Arrived
//!                            +-----------------------------------------------+-> settled
//! ```
//!
//! Every step is in the shard's log, so the next leader goes on where this one was: it sends the
//! same batch under the same sequence, and the dead-letter topic knows it for a duplicate. A record
//! lies there once, unless the topic was made anew or has forgotten the producer (silent for a
//! day).
//!
//! Owns: what is sent, and when. Must never: give a record up; a topic that is missing or full
//! keeps them waiting, and nobody else.
//! Invariants: who travels in one batch follows from the list alone.

use std::time::Duration;

use barrage_cluster::message::{Answer, Appended, Message};
use barrage_model::batch::{
    self, BatchBuilder, BatchError, BatchHeader, BatchView, Compression, DecompressionLimits,
    NewRecord, Record,
};
use barrage_model::{
    GroupName, Offset, PartitionId, PartitionKey, ProducerEpoch, ProducerId, Sequence, TopicName,
};
use barrage_world::channel::oneshot;
use barrage_world::{Instant, Slice, planted, sleep};
use bytes::Bytes;

use crate::api::{Acks, ProduceError, ProduceRequest};
use crate::broker::Broker;
use crate::core::Core;
use crate::door::CheckedBatch;
use crate::message::{Reply, Request};
use crate::queue::departures::DEPARTING_MAX;
use crate::reply::{ProduceReply, ProduceResult, Way};
use crate::shard::Shard;
use crate::shard::groups::{Op, Outcome, Slot, What};
use crate::shard::handle::first_of;

/// Records in one batch, and bytes of them, at most (one always goes). Few, because an entry of the
/// topic's log must hold it, however small its segments are (`queue` seed 38).
const RECORDS_PER_BATCH: usize = 64;
const BYTES_PER_BATCH: usize = 16 << 10;
/// When a dead-letter topic takes nothing, the next attempt.
const PAUSE: Duration = Duration::from_millis(500);
/// How long an append may take.
const APPEND_DEADLINE: Duration = Duration::from_secs(5);
/// A batch read from the log.
const READ_BYTES: usize = 1;

/// Records on their way, as whose they go, and where.
struct Departed {
    producer: Option<ProducerId>,
    first: Sequence,
    list: Vec<(Offset, u16)>,
}

/// Where the dead letters of a slot go, and what is said of where they come from.
struct Address {
    key: PartitionKey,
    topic: TopicName,
    group: GroupName,
}

/// What became of one step.
enum Step {
    /// There may be more to do.
    On,
    /// Nobody is dying.
    Done,
    /// The topic takes nothing now.
    Pause(&'static str),
}

impl Broker {
    /// While this node leads a shard: brings its dead letters to their topics, for ever.
    pub(crate) async fn keep_burying(self, shard: Shard) {
        // Once for each time that they wait.
        let mut told = false;
        while !shard.group().is_over() {
            let (lead_changed, somebody_dies) =
                (shard.group().lead_changed(), shard.alarms().somebody_dies());
            let slots = shard.alarms().take_dying();
            if slots.is_empty() {
                first_of(lead_changed, somebody_dies).await;
                continue;
            }
            let mut waits = None;
            for slot in slots {
                if let Some(why) = self.bury_all(&shard, slot).await {
                    shard.alarms().note_dying(slot);
                    waits = Some((slot, why));
                }
            }
            if let Some((slot, why)) = waits {
                let partition = slot.key;
                if !told {
                    told = true;
                    tracing::warn!(shard = %shard.id(), %partition, why, "dead letters wait");
                }
                tracing::debug!(shard = %shard.id(), %partition, why, "dead letters wait");
                sleep(PAUSE).await;
            } else {
                told = false;
            }
        }
    }

    /// Brings all dead letters of a slot away, or says what they wait for.
    async fn bury_all(&self, shard: &Shard, slot: Slot) -> Option<&'static str> {
        loop {
            if shard.group().leader_term().is_none() || self.core.is_closing.get() {
                return None;
            }
            match self.bury(shard, slot).await {
                Step::On => {}
                Step::Done => return None,
                Step::Pause(why) => return Some(why),
            }
        }
    }

    async fn bury(&self, shard: &Shard, slot: Slot) -> Step {
        let Some(departed) = departed(shard, slot) else { return Step::Done };
        let Some(address) = self.address(slot) else {
            return Step::Pause("there is no dead-letter topic");
        };
        let Some(producer) = departed.producer else {
            return self.renumber(shard, slot, Vec::new()).await;
        };
        if departed.list.is_empty() {
            let count_max = u32::try_from(DEPARTING_MAX).unwrap_or(u32::MAX);
            return step(shard, slot, What::Depart { count_max }).await;
        }
        let (batch, count) = match build(shard, slot, &address, &departed, producer).await {
            Ok(built) => built,
            Err(Unbuilt::Gone(lost)) => return self.renumber(shard, slot, vec![lost]).await,
            Err(Unbuilt::Unreadable) => return Step::Pause("a record cannot be read"),
        };
        match self.append(address.key, batch).await {
            Appended::Stored => {
                let (first, count) = (departed.first, u32::try_from(count).unwrap_or(0));
                step(shard, slot, What::Arrived { producer, first, count }).await
            }
            Appended::OutOfSequence => self.renumber(shard, slot, Vec::new()).await,
            // Wrong when planted: a record is given up because its topic is away.
            Appended::NotNow if planted("broker-dead-letter-not-awaited") => {
                let (first, count) = (departed.first, u32::try_from(count).unwrap_or(0));
                step(shard, slot, What::Arrived { producer, first, count }).await
            }
            Appended::NotNow => Step::Pause("the dead-letter topic takes nothing"),
        }
    }

    async fn renumber(&self, shard: &Shard, slot: Slot, lost: Vec<Offset>) -> Step {
        match self.init_producer(Instant::now() + APPEND_DEADLINE).await {
            Ok(fresh) => step(shard, slot, What::Renumber { producer: fresh.id, lost }).await,
            Err(_) => Step::Pause("there is no producer id"),
        }
    }

    fn address(&self, slot: Slot) -> Option<Address> {
        let catalog = self.core.catalog();
        let source = catalog.topic(slot.key.topic)?;
        let group = source.group(slot.group)?;
        let topic = catalog.topic_named(group.settings.dead_letter.as_ref()?)?;
        let count = u32::try_from(topic.partitions.len()).ok().filter(|count| *count > 0)?;
        let partition = PartitionId(slot.key.partition.0 % count);
        Some(Address {
            key: PartitionKey { topic: topic.id, partition },
            topic: source.name.clone(),
            group: group.name.clone(),
        })
    }

    /// Appends a batch to a partition, wherever it is led.
    async fn append(&self, key: PartitionKey, batch: Bytes) -> Appended {
        let Some((_, shard)) = self.core.place(key) else { return Appended::NotNow };
        let Some(leader) = self.core.leading_node(shard) else { return Appended::NotNow };
        if leader == self.node() {
            return self.core.append_here(key, batch).await;
        }
        let message = Bytes::from(Message::Append { key, batch }.encode());
        match self.core.ask_node(leader, shard, APPEND_DEADLINE, message).await {
            Ok(Answer::Appended(appended)) => appended,
            Ok(_) | Err(_) => Appended::NotNow,
        }
    }
}

impl Core {
    /// Appends a batch that moves on its own between topics to a partition that this node leads.
    pub(crate) async fn append_here(&self, key: PartitionKey, batch: Bytes) -> Appended {
        let request = ProduceRequest {
            key,
            batch,
            acks: Acks::Quorum,
            deadline: Instant::now() + APPEND_DEADLINE,
        };
        match self.append_anywhere_here(request).await {
            // What is older than the window was stored.
            Ok(_) | Err(ProduceError::DuplicateOutOfWindow) => Appended::Stored,
            Err(
                ProduceError::OutOfOrderSequence { .. }
                | ProduceError::UnknownProducer
                | ProduceError::Fenced { .. },
            ) => Appended::OutOfSequence,
            Err(_) => Appended::NotNow,
        }
    }

    /// On this core or another one of this node.
    async fn append_anywhere_here(&self, request: ProduceRequest) -> ProduceResult {
        let ProduceRequest { key, batch, acks, deadline } = request;
        let (core, _) = self.place(key).ok_or(ProduceError::UnknownPartition)?;
        let batch = CheckedBatch::check(batch)?;
        if core == self.id {
            let (sender, receiver) = oneshot::channel();
            self.produce_here(key, batch, deadline, ProduceReply { way: Way::Here(sender), acks });
            return receiver.await.unwrap_or(Err(ProduceError::ShuttingDown));
        }
        let asked = self.router.request(core, Request::Produce { key, batch, acks, deadline });
        match asked.map_err(|_| ProduceError::QueueFull)?.await {
            Ok(Reply::Produce(result)) => result,
            _ => Err(ProduceError::ShuttingDown),
        }
    }
}

fn departed(shard: &Shard, slot: Slot) -> Option<Departed> {
    shard.group().with_machine(|machine| {
        let backlog = &machine.groups().slots.get(&slot)?.backlog;
        backlog.is_anybody_dying().then(|| {
            let departures = backlog.departures();
            let deliveries = |at: &Offset| (*at, backlog.deliveries(*at).unwrap_or(0));
            Departed {
                producer: departures.producer,
                first: departures.first,
                list: departures.list.iter().map(deliveries).collect(),
            }
        })
    })
}

async fn step(shard: &Shard, slot: Slot, what: What) -> Step {
    match shard.submit_op(Op { slot, what }).await {
        Ok(Outcome::UnknownGroup) => Step::Done,
        Ok(_) => Step::On,
        Err(_) => Step::Pause("the shard takes nothing"),
    }
}

/// Why there is no batch.
enum Unbuilt {
    /// Retention has dropped the record before it could be moved.
    Gone(Offset),
    Unreadable,
}

/// The next batch, and how many records are in it. Built of the same list it is the same.
async fn build(
    shard: &Shard,
    slot: Slot,
    address: &Address,
    departed: &Departed,
    producer: ProducerId,
) -> Result<(Bytes, usize), Unbuilt> {
    let mut builder: Option<BatchBuilder> = None;
    let (mut count, mut size) = (0, 0);
    for (offset, deliveries) in departed.list.iter().take(RECORDS_PER_BATCH) {
        let found = read_one(shard, slot.key, *offset).await;
        let batch = match found {
            Ok(batch) => batch,
            // What was put into the batch before goes first; then this one is met again.
            Err(Unbuilt::Gone(_)) if count > 0 => break,
            Err(error) => return Err(error),
        };
        let view = BatchView::check(&batch).map_err(|_| Unbuilt::Unreadable)?;
        let records = view.records(&DecompressionLimits::default());
        let records = records.map_err(|_| Unbuilt::Unreadable)?;
        let record = records.iter().filter_map(Result::ok).find(|one| one.offset == *offset);
        let record = record.ok_or(Unbuilt::Unreadable)?;
        size += size_of(&record);
        if count > 0 && size > BYTES_PER_BATCH {
            break;
        }
        let builder = builder
            .get_or_insert_with(|| BatchBuilder::new(Compression::None, record.timestamp_ms));
        match push(builder, &record, slot, address, *deliveries) {
            Ok(()) => count += 1,
            // It goes with the next one.
            Err(_) if count > 0 => break,
            Err(_) => return Err(Unbuilt::Unreadable),
        }
    }
    let mut bytes =
        builder.ok_or(Unbuilt::Unreadable)?.finish().map_err(|_| Unbuilt::Unreadable)?;
    batch::set_producer(&mut bytes, producer, ProducerEpoch(0), departed.first)
        .map_err(|_| Unbuilt::Unreadable)?;
    // Wrong when planted: a batch that is sent again is another one.
    if planted("broker-dead-letters-unnumbered") {
        let none = (ProducerId::NONE, ProducerEpoch::NONE, Sequence::NONE);
        batch::set_producer(&mut bytes, none.0, none.1, none.2).map_err(|_| Unbuilt::Unreadable)?;
    }
    Ok((Bytes::from(bytes), count))
}

fn size_of(record: &Record<'_>) -> usize {
    let length = |bytes: Option<&[u8]>| bytes.map_or(0, <[u8]>::len);
    let headers = record.headers.iter().map(|header| header.key.len() + length(header.value));
    length(record.key) + length(record.value) + headers.sum::<usize>()
}

/// Adds a record with what is to be known of where it comes from; without that where it has no room
/// for more headers.
fn push(
    builder: &mut BatchBuilder,
    record: &Record<'_>,
    slot: Slot,
    address: &Address,
    deliveries: u16,
) -> Result<(), BatchError> {
    let (partition, offset) = (slot.key.partition.to_string(), record.offset.to_string());
    let deliveries = deliveries.to_string();
    let told: [(&[u8], &[u8]); 5] = [
        (b"dead-letter-topic", address.topic.as_str().as_bytes()),
        (b"dead-letter-group", address.group.as_str().as_bytes()),
        (b"dead-letter-partition", partition.as_bytes()),
        (b"dead-letter-offset", offset.as_bytes()),
        (b"dead-letter-deliveries", deliveries.as_bytes()),
    ];
    let own = record.headers.iter().map(|header| (header.key, header.value.unwrap_or_default()));
    let own: Vec<(&[u8], &[u8])> = own.collect();
    let all: Vec<(&[u8], &[u8])> = own.iter().copied().chain(told).collect();
    let new = NewRecord {
        key: record.key,
        value: record.value,
        headers: &all,
        timestamp_ms: record.timestamp_ms,
    };
    builder.push(&new).or_else(|_| builder.push(&NewRecord { headers: &own, ..new }))
}

/// The stored batch that holds a record.
async fn read_one(shard: &Shard, key: PartitionKey, offset: Offset) -> Result<Slice, Unbuilt> {
    let is_kept = shard.group().with_machine(|machine| {
        let partition = machine.state().partitions.get(&key);
        partition.is_some_and(|partition| partition.start_offset <= offset)
    });
    if !is_kept {
        return Err(Unbuilt::Gone(offset));
    }
    let read = shard.group().log().read_batches(key, offset, READ_BYTES).await;
    let slice = read.ok().and_then(|slices| slices.into_iter().next());
    let slice = slice.ok_or(Unbuilt::Unreadable)?;
    let size = BatchHeader::peek(&slice).map_err(|_| Unbuilt::Unreadable)?.batch_len_total;
    Ok(slice.slice(0..size.min(slice.len())))
}
