//! Records that were delivered too often, or are too old, on their way to their dead-letter topic.
//!
//! ```text
//!   dying --Depart--> on their way, numbered --append as an idempotent producer--> in the topic
//!                            ^ Renumber: the topic has lost count            | Arrived
//!                            +-----------------------------------------------+-> settled
//! ```
//!
//! Every step is in the shard's log, so the next leader goes on where this one was: it sends the
//! same letters under the same sequences to the same partition, and that knows them for duplicates.
//! A record lies there once, unless the topic was deleted or has forgotten the producer (silent for
//! a day, or minutes where there are very many).
//!
//! What is gone by then, because retention has taken it, is no letter. Each of those on their way
//! keeps its sequence: the letter of one that is taken later says so. So a batch may be cut
//! differently the second time; if more has arrived than it repeats, the partition says what it
//! expects.
//!
//! Owns: what is sent, and when. Must never: give a record up; a topic that is missing or full
//! keeps them waiting, and nobody else.
//! Invariants: a sequence stands for the same record until all are numbered anew, whoever sends it.

mod letter;

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::rc::Rc;
use std::time::Duration;

use barrage_cluster::message::{Answer, Appended, Message};
use barrage_model::{Offset, PartitionId, PartitionKey, Sequence};
use barrage_world::channel::{Event, oneshot};
use barrage_world::{Instant, planted, sleep, spawn};
use bytes::Bytes;

use self::letter::{Looked, Origins, Unreadable, build, look};

use crate::api::{Acks, ProduceError, ProduceRequest};
use crate::broker::Broker;
use crate::core::Core;
use crate::door::CheckedBatch;
use crate::message::{Reply, Request};
use crate::queue::departures::{DEPARTING_MAX, Departures, Numbering, Position};
use crate::reply::{ProduceReply, ProduceResult, Way};
use crate::shard::Shard;
use crate::shard::groups::{Op, Outcome, Slot, What};
use crate::shard::handle::first_of;

/// When a dead-letter topic takes nothing, the next attempt.
const PAUSE: Duration = Duration::from_millis(500);
/// Slots of a shard that are looked after at a time.
const SLOTS_AT_ONCE: usize = 64;
/// How long an append may take.
const APPEND_DEADLINE: Duration = Duration::from_secs(5);

/// The slots of a shard that have dead letters.
#[derive(Default)]
struct Burials {
    /// Those that are looked after, each by a task.
    busy: RefCell<BTreeSet<Slot>>,
    /// Those whose topic takes nothing.
    waiting: RefCell<BTreeSet<Slot>>,
    /// One task is over.
    done: Event,
}

/// Records on their way, how they are numbered, and how far they are.
struct Departed {
    numbering: Option<Numbering>,
    position: Position,
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
    /// While this node leads a shard: brings its dead letters to their topics, for ever. Those of
    /// one slot, whose topic may be away, hold up no others.
    pub(crate) async fn keep_burying(self, shard: Shard) {
        let burials = Rc::new(Burials::default());
        let mut slots = BTreeSet::new();
        while !shard.group().is_over() {
            let lead_changed = shard.group().lead_changed();
            let (somebody_dies, one_is_done) =
                (shard.alarms().somebody_dies(), burials.done.listen());
            slots.extend(shard.alarms().take_dying());
            let room = SLOTS_AT_ONCE.saturating_sub(burials.busy.borrow().len());
            let is_free = |slot: &Slot| !burials.busy.borrow().contains(slot);
            let next: Vec<Slot> = slots.iter().copied().filter(is_free).take(room).collect();
            for slot in next {
                slots.remove(&slot);
                burials.busy.borrow_mut().insert(slot);
                let (broker, burials) = (self.clone(), Rc::clone(&burials));
                drop(spawn(broker.keep_burying_of(shard.clone(), slot, burials)));
            }
            first_of(lead_changed, first_of(somebody_dies, one_is_done)).await;
        }
    }

    async fn keep_burying_of(self, shard: Shard, slot: Slot, burials: Rc<Burials>) {
        match self.bury_all(&shard, slot).await {
            None => drop(burials.waiting.borrow_mut().remove(&slot)),
            Some(why) => {
                let partition = slot.key;
                // Once for each time that they wait.
                if burials.waiting.borrow().is_empty() {
                    tracing::warn!(shard = %shard.id(), %partition, why, "dead letters wait");
                }
                tracing::debug!(shard = %shard.id(), %partition, why, "dead letters wait");
                burials.waiting.borrow_mut().insert(slot);
                sleep(PAUSE).await;
                shard.alarms().note_dying(slot);
            }
        }
        burials.busy.borrow_mut().remove(&slot);
        burials.done.notify_all();
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
        let (wanted, is_gone) = (self.wanted(slot), |into| self.is_gone(into));
        match departed.numbering {
            // Where some of them lie already the others go, too.
            Some(numbering) if !departed.list.is_empty() && !is_gone(numbering.into) => {
                self.send(shard, slot, &departed, numbering).await
            }
            Some(numbering) if departed.list.is_empty() && wanted == Some(numbering.into) => {
                match look(shard, slot.key, dying(shard, slot)).await {
                    Ok(Looked { gone, there }) if gone.is_empty() => {
                        let count_max = u32::try_from(there).unwrap_or(u32::MAX);
                        step(shard, slot, What::Depart { count_max }).await
                    }
                    Ok(Looked { gone, .. }) => step(shard, slot, What::GiveUp(gone)).await,
                    Err(Unreadable) => Step::Pause("a record cannot be read"),
                }
            }
            _ => match wanted {
                Some(into) => self.renumber(shard, slot, departed.position, into).await,
                None => Step::Pause("there is no dead-letter topic"),
            },
        }
    }

    async fn send(
        &self,
        shard: &Shard,
        slot: Slot,
        departed: &Departed,
        numbering: Numbering,
    ) -> Step {
        let Some(origins) = self.origins(slot) else {
            return Step::Pause("the group is not known here yet");
        };
        let (batch, count) = match build(shard, &origins, departed, numbering.producer).await {
            Ok(built) => built,
            Err(Unreadable) => return Step::Pause("a record cannot be read"),
        };
        let (_, first) = departed.position;
        let producer = numbering.producer;
        let arrived = |count: usize| {
            let count = u32::try_from(count).unwrap_or(0);
            step(shard, slot, What::Arrived { producer, first, count })
        };
        match self.append(numbering.into, batch).await {
            Appended::Stored => arrived(count).await,
            Appended::OutOfSequence { expected } => {
                match arrived_by(first, departed.list.len(), expected) {
                    Some(count) => arrived(count).await,
                    None => self.renumber(shard, slot, departed.position, numbering.into).await,
                }
            }
            // Wrong when planted: a record is given up because its topic is away.
            Appended::NotNow if planted("broker-dead-letter-not-awaited") => arrived(count).await,
            Appended::NotNow => Step::Pause("the dead-letter topic takes nothing"),
        }
    }

    async fn renumber(
        &self,
        shard: &Shard,
        slot: Slot,
        from: Position,
        into: PartitionKey,
    ) -> Step {
        match self.init_producer(Instant::now() + APPEND_DEADLINE).await {
            Ok(fresh) => {
                let to = Numbering { producer: fresh.id, into };
                step(shard, slot, What::Renumber { from, to }).await
            }
            Err(_) => Step::Pause("there is no producer id"),
        }
    }

    /// Where the letters of a group are to go.
    fn wanted(&self, slot: Slot) -> Option<PartitionKey> {
        let catalog = self.core.catalog();
        let group = catalog.topic(slot.key.topic)?.group(slot.group)?;
        let topic = catalog.topic_named(group.settings.dead_letter.as_ref()?)?;
        let count = u32::try_from(topic.partitions.len()).ok().filter(|count| *count > 0)?;
        let partition = PartitionId(slot.key.partition.0 % count);
        Some(PartitionKey { topic: topic.id, partition })
    }

    /// Whether a partition was deleted. One that the catalog here does not know yet was not.
    fn is_gone(&self, key: PartitionKey) -> bool {
        let catalog = self.core.catalog();
        catalog.topic(key.topic).is_none() && key.topic <= catalog.newest_topic()
    }

    fn origins(&self, slot: Slot) -> Option<Origins> {
        let catalog = self.core.catalog();
        let topic = catalog.topic(slot.key.topic)?;
        let group = topic.group(slot.group)?;
        Some(Origins { slot, topic: topic.name.clone(), group: group.name.clone() })
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
            let Departures { numbering, list, .. } = departures;
            let list = list.iter().map(dead).collect();
            Departed { numbering: *numbering, position: departures.position(), list }
        })
    })
}

/// The first that are to go on their way.
fn dying(shard: &Shard, slot: Slot) -> Vec<Offset> {
    shard.group().with_machine(|machine| {
        let group = machine.groups().slots.get(&slot);
        let dying = group.into_iter().flat_map(|group| group.backlog.dying());
        dying.take(DEPARTING_MAX).collect()
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
