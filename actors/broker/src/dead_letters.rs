//! Records that were delivered too often, or are too old, on their way to their dead-letter topic.
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
//! Where retention took some of the list meanwhile, the same batch cannot be built again. What is
//! left goes under its own sequences, and if the topic has more already it says what it expects:
//! so many have arrived.
//!
//! Owns: what is sent, and when. Must never: give a record up; a topic that is missing or full
//! keeps them waiting, and nobody else.
//! Invariants: who travels in one batch follows from the list alone, while all of it is there.

mod letter;

use std::time::Duration;

use barrage_cluster::message::{Answer, Appended, Message};
use barrage_model::{Offset, PartitionId, PartitionKey, ProducerId, Sequence};
use barrage_world::channel::oneshot;
use barrage_world::{Instant, planted, sleep};
use bytes::Bytes;

use self::letter::{Address, Built, Unreadable, build};

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

/// When a dead-letter topic takes nothing, the next attempt.
const PAUSE: Duration = Duration::from_millis(500);
/// How long an append may take.
const APPEND_DEADLINE: Duration = Duration::from_secs(5);

/// Records on their way, as whose they go, and where.
struct Departed {
    producer: Option<ProducerId>,
    first: Sequence,
    list: Vec<Dead>,
}

/// One of them.
#[derive(Clone, Copy)]
struct Dead {
    offset: Offset,
    deliveries: u16,
    is_too_old: bool,
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
        let Built { gone, letters } = match build(shard, slot, &address, &departed, producer).await
        {
            Ok(built) => built,
            Err(Unreadable) => return Step::Pause("a record cannot be read"),
        };
        let listed = departed.list.len();
        let first = departed.first;
        let Some((batch, count)) = letters else { return self.renumber(shard, slot, gone).await };
        let arrived = |count: usize| {
            let count = u32::try_from(count).unwrap_or(0);
            step(shard, slot, What::Arrived { producer, first, count })
        };
        match self.append(address.key, batch).await {
            Appended::Stored => arrived(gone.len() + count).await,
            Appended::OutOfSequence { expected } => match arrived_by(first, listed, expected) {
                Some(count) => arrived(count).await,
                // None of them has: those that are gone are nowhere.
                None => self.renumber(shard, slot, gone).await,
            },
            // Wrong when planted: a record is given up because its topic is away.
            Appended::NotNow if planted("broker-dead-letter-not-awaited") => {
                arrived(gone.len() + count).await
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
            delay: None,
            acks: Acks::Quorum,
            deadline: Instant::now() + APPEND_DEADLINE,
        };
        match self.append_anywhere_here(request).await {
            // What is older than the window was stored.
            Ok(_) | Err(ProduceError::DuplicateOutOfWindow) => Appended::Stored,
            Err(ProduceError::OutOfOrderSequence { expected, .. }) => {
                Appended::OutOfSequence { expected: Some(Sequence(expected)) }
            }
            Err(ProduceError::UnknownProducer | ProduceError::Fenced { .. }) => {
                Appended::OutOfSequence { expected: None }
            }
            Err(_) => Appended::NotNow,
        }
    }

    /// On this core or another one of this node.
    async fn append_anywhere_here(&self, request: ProduceRequest) -> ProduceResult {
        let ProduceRequest { key, batch, delay, acks, deadline } = request;
        let (core, _) = self.place(key).ok_or(ProduceError::UnknownPartition)?;
        let batch = CheckedBatch::check(batch)?.delayed(delay)?;
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
            let dead = |at: &Offset| Dead {
                offset: *at,
                deliveries: backlog.deliveries(*at).unwrap_or(0),
                is_too_old: backlog.is_too_old(*at),
            };
            Departed {
                producer: departures.producer,
                first: departures.first,
                list: departures.list.iter().map(dead).collect(),
            }
        })
    })
}

/// How many of a list, the first of which has this sequence, lie in a topic that expects another
/// one next: none when it does not expect one of them, or what comes behind.
fn arrived_by(first: Sequence, listed: usize, expected: Option<Sequence>) -> Option<usize> {
    let expected = expected?;
    let listed = u32::try_from(listed).ok()?;
    let count = (1..=listed).find(|count| first.wrapping_advance(*count) == expected)?;
    usize::try_from(count).ok()
}

async fn step(shard: &Shard, slot: Slot, what: What) -> Step {
    match shard.submit_op(Op { slot, what }).await {
        Ok(Outcome::UnknownGroup) => Step::Done,
        Ok(_) => Step::On,
        Err(_) => Step::Pause("the shard takes nothing"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_topic_expects_tells_how_many_have_arrived() {
        for (first, listed, expected, want) in [
            (0, 9, None, None),
            (0, 9, Some(0), None),
            (0, 9, Some(4), Some(4)),
            (0, 9, Some(9), Some(9)),
            (0, 9, Some(10), None),
            (5, 9, Some(4), None),
            (i32::MAX, 9, Some(1), Some(2)),
        ] {
            let (first, expected) = (Sequence(first), expected.map(Sequence));
            assert_eq!(arrived_by(first, listed, expected), want, "{first} {expected:?}");
        }
    }
}
