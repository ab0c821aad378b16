//! What the rules know in common: who sent what, and what stands where.
//!
//! Owns: names and their numbers, partitions with their slots, the ledger, the counters. Must
//! never: judge. Invariants: numbers are given in order of appearance; a partition's known end
//! never falls.
//!
//! Cost: four bytes per offset that anybody saw, eight bytes and a time per answer.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::num::NonZeroU32;

use barrage_model::Offset;

use super::event::Place;
use super::ledger::{Batch, ClientId, GroupId, Ledger, MessageId, PartitionId, ReadId, TopicId};
use super::name::{Name, Nanos};
use super::slots::Slots;
use super::verdict::Counters;

/// Names by number.
#[derive(Debug, Default)]
pub(crate) struct Names {
    numbers: BTreeMap<Name, u32>,
    names: Vec<Name>,
}

impl Names {
    pub(crate) fn number(&mut self, name: &Name) -> u32 {
        if let Some(number) = self.numbers.get(name) {
            return *number;
        }
        let number = self.names.len() as u32;
        self.numbers.insert(name.clone(), number);
        self.names.push(name.clone());
        number
    }

    pub(crate) fn name(&self, number: u32) -> &str {
        self.names.get(number as usize).map_or("?", Name::as_str)
    }
}

/// A partition.
#[derive(Debug)]
pub(crate) struct Partition {
    pub(crate) topic: TopicId,
    /// Its number within the topic.
    pub(crate) number: u32,
    pub(crate) slots: Slots,
    /// Everything below is taken: somebody was told so.
    pub(crate) known_end: Offset,
    /// Retention may have removed what stands below.
    pub(crate) trim: Offset,
    /// The highest start that a reader was told, and in which answer.
    pub(crate) start: Option<(Offset, ReadId)>,
}

/// Who was told something about an offset.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Told {
    /// A sender, by an acknowledgement.
    Sender(ClientId),
    /// A reader, by an answer.
    Reader(ReadId),
}

/// A position in the history: one comes before another exactly if its event does.
pub(crate) type Moment = u64;

/// An answer that showed records.
#[derive(Clone, Copy, Debug)]
struct Reading {
    by: ClientId,
    at: Nanos,
}

/// The common knowledge.
#[derive(Debug)]
pub(crate) struct Facts {
    clients: Names,
    topics: Names,
    groups: Names,
    places: BTreeMap<(TopicId, u32), PartitionId>,
    partitions: Vec<Partition>,
    readings: Vec<Reading>,
    /// Topics that take the dead letters (first) of others (second).
    dead_letters: BTreeSet<(TopicId, TopicId)>,
    /// The groups that records are kept for until they are done with.
    kept: BTreeMap<TopicId, BTreeSet<GroupId>>,
    pub(crate) ledger: Ledger,
    /// When the final reading began.
    pub(crate) drain: Option<Moment>,
    pub(crate) counters: Counters,
}

impl Facts {
    pub(crate) fn new() -> Self {
        Self {
            clients: Names::default(),
            topics: Names::default(),
            groups: Names::default(),
            places: BTreeMap::new(),
            partitions: Vec::new(),
            readings: Vec::new(),
            dead_letters: BTreeSet::new(),
            kept: BTreeMap::new(),
            ledger: Ledger::new(),
            drain: None,
            counters: Counters::default(),
        }
    }

    pub(crate) fn client(&mut self, name: &Name) -> ClientId {
        ClientId(self.clients.number(name))
    }

    pub(crate) fn topic(&mut self, name: &Name) -> TopicId {
        TopicId(self.topics.number(name))
    }

    pub(crate) fn group(&mut self, name: &Name) -> GroupId {
        GroupId(self.groups.number(name))
    }

    pub(crate) fn place(&mut self, place: &Place) -> PartitionId {
        let topic = self.topic(&place.topic);
        self.place_in(topic, place.partition.0)
    }

    pub(crate) fn place_in(&mut self, topic: TopicId, number: u32) -> PartitionId {
        let next = PartitionId(self.partitions.len() as u32);
        let id = *self.places.entry((topic, number)).or_insert(next);
        if id == next {
            let (known_end, trim) = (Offset(0), Offset(0));
            let slots = Slots::default();
            self.partitions.push(Partition { topic, number, slots, known_end, trim, start: None });
        }
        id
    }

    pub(crate) fn partition(&self, id: PartitionId) -> &Partition {
        let partition = self.partitions.get(id.0 as usize);
        partition.unwrap_or_else(|| unreachable!("a partition's own number"))
    }

    pub(crate) fn partition_mut(&mut self, id: PartitionId) -> &mut Partition {
        let partition = self.partitions.get_mut(id.0 as usize);
        partition.unwrap_or_else(|| unreachable!("a partition's own number"))
    }

    pub(crate) fn partitions(&self) -> impl Iterator<Item = (PartitionId, &Partition)> {
        (0..).map(PartitionId).zip(self.partitions.iter())
    }

    /// Somebody was told that everything below `end` is taken.
    pub(crate) fn raise_end(&mut self, id: PartitionId, end: Offset) {
        let partition = self.partition_mut(id);
        partition.known_end = partition.known_end.max(end);
    }

    /// Numbers an answer that shows records.
    pub(crate) fn reading(&mut self, by: ClientId, at: Nanos) -> ReadId {
        self.readings.push(Reading { by, at });
        // Saturates beyond four billion answers, where only texts would name a wrong one.
        let number = u32::try_from(self.readings.len()).unwrap_or(u32::MAX);
        ReadId(NonZeroU32::new(number).unwrap_or(NonZeroU32::MIN))
    }

    /// Whether a call that began then belongs to the final reading.
    pub(crate) fn is_final(&self, begun: Moment) -> bool {
        self.drain.is_some_and(|drain| drain < begun)
    }

    pub(crate) fn dead_letters_of(&mut self, topic: TopicId, into: TopicId) {
        self.dead_letters.insert((into, topic));
    }

    pub(crate) fn kept_until_done(&mut self, group: GroupId, topic: TopicId) {
        self.kept.entry(topic).or_default().insert(group);
    }

    /// The groups for which the records of a partition are kept until they are done with; none
    /// where retention goes by something else.
    pub(crate) fn kept_for(&self, id: PartitionId) -> Option<&BTreeSet<GroupId>> {
        self.kept.get(&self.partition(id).topic)
    }

    /// Whether a message sent to `sent` may stand in `found`.
    pub(crate) fn may_stand(&self, sent: TopicId, found: TopicId) -> bool {
        sent == found || self.dead_letters.contains(&(found, sent))
    }

    /// Whether a message belongs to a partition by what its sender asked for.
    pub(crate) fn belongs(&self, batch: &Batch, id: PartitionId) -> bool {
        let is_topic = batch.topic == self.partition(id).topic;
        is_topic && batch.wanted.is_none_or(|wanted| wanted == id)
    }

    pub(crate) fn client_name(&self, id: ClientId) -> &str {
        self.clients.name(id.0)
    }

    pub(crate) fn topic_name(&self, id: TopicId) -> &str {
        self.topics.name(id.0)
    }

    pub(crate) fn group_name(&self, id: GroupId) -> &str {
        self.groups.name(id.0)
    }

    /// `topic/partition`.
    pub(crate) fn tell_place(&self, id: PartitionId) -> String {
        let partition = self.partition(id);
        format!("{}/{}", self.topic_name(partition.topic), partition.number)
    }

    /// `topic/partition@offset`.
    pub(crate) fn tell_offset(&self, id: PartitionId, offset: Offset) -> String {
        format!("{}@{offset}", self.tell_place(id))
    }

    /// `c1 at 3.2s`.
    pub(crate) fn tell_read(&self, id: ReadId) -> String {
        match self.readings.get(id.0.get() as usize - 1) {
            Some(reading) => format!("{} at {}", self.client_name(reading.by), reading.at),
            None => "?".to_owned(),
        }
    }

    pub(crate) fn tell_told(&self, told: Told) -> String {
        match told {
            Told::Sender(client) => format!("{} was acknowledged", self.client_name(client)),
            Told::Reader(read) => format!("{} read", self.tell_read(read)),
        }
    }

    /// Everything that is known of a message, for somebody who must find it in the logs.
    pub(crate) fn tell(&self, id: MessageId) -> String {
        let message = self.ledger.message(id);
        let batch = self.ledger.batch(message.batch);
        let mut text = format!("record {}", message.fingerprint);
        let (sender, place) = (self.client_name(batch.sender), batch.place_of(id));
        let _ = write!(text, " ({} of {} sent by {sender}", place + 1, batch.count);
        let _ = match batch.wanted {
            Some(partition) => write!(text, " to {}", self.tell_place(partition)),
            None => write!(text, " to {}", self.topic_name(batch.topic)),
        };
        let _ = write!(text, " at {}", batch.sent);
        if let Some(stamp) = batch.stamp() {
            let (producer, epoch) = (stamp.producer, stamp.epoch);
            let sequence = stamp.sequence.wrapping_advance(place);
            let _ = write!(text, ", producer {producer} epoch {epoch} sequence {sequence}");
        }
        let _ = match (batch.acknowledged, batch.is_possible()) {
            (Some(acknowledged), _) => {
                let _ = write!(text, ", acknowledged at {}", acknowledged.at);
                match acknowledged.place {
                    Some((partition, base)) => {
                        let offset = Offset(base.0.saturating_add(u64::from(place)));
                        write!(text, " as {}", self.tell_offset(partition, offset))
                    }
                    None => write!(text, " without an offset"),
                }
            }
            (None, true) => write!(text, ", outcome unknown"),
            (None, false) => write!(text, ", refused"),
        };
        if let Some(read) = message.first_read {
            let _ = write!(text, ", first read by {}", self.tell_read(read));
        }
        text.push(')');
        text
    }
}
