//! What was sent: batches and the messages in them, each message once however often it is sent.
//!
//! Owns: the rows of batches and messages, and the way from a fingerprint to its message.
//! Must never: judge. A send that contradicts an earlier one is handed back.
//!
//! Invariants: rows stand in the order of their first send; the messages of a batch stand side by
//! side; a fingerprint belongs to one message.
//!
//! Cost: 32 bytes and 8 to 16 of index per message, about 120 per batch.

use std::num::{NonZeroU32, NonZeroU64};

use barrage_model::Offset;

use super::event::{Identity, SendBatch, SentRecord, Stamp};
use super::index::Index;
use super::name::{Fingerprint, Key, Nanos};
use super::slots::MESSAGES_MAX;

/// A message's row.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct MessageId(pub(crate) u32);

/// A batch's row.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct BatchId(pub(crate) u32);

/// A client, by the order in which they appeared.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct ClientId(pub(crate) u32);

/// A topic, likewise.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct TopicId(pub(crate) u32);

/// A partition of any topic, likewise.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct PartitionId(pub(crate) u32);

/// A group, likewise.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct GroupId(pub(crate) u32);

/// The number of an answer that showed records.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ReadId(pub(crate) NonZeroU32);

/// One message.
#[derive(Clone, Debug)]
pub(crate) struct Message {
    pub(crate) fingerprint: Fingerprint,
    /// A key that hashes to 0 counts as none; it is only missed by the order of keys.
    key: Option<NonZeroU64>,
    pub(crate) batch: BatchId,
    /// The first answer that showed it.
    pub(crate) first_read: Option<ReadId>,
    /// Whether the final reading showed it.
    pub(crate) is_drained: bool,
}

impl Message {
    pub(crate) fn new(fingerprint: Fingerprint, key: Option<Key>, batch: BatchId) -> Self {
        let key = key.and_then(|key| NonZeroU64::new(key.0));
        Self { fingerprint, key, batch, first_read: None, is_drained: false }
    }

    pub(crate) fn key(&self) -> Option<Key> {
        self.key.map(|key| Key(key.get()))
    }
}

/// Records that were sent together, with everything that was done about them.
#[derive(Clone, Debug)]
pub(crate) struct Batch {
    pub(crate) sender: ClientId,
    pub(crate) topic: TopicId,
    /// Where the sender wanted it; none when the broker was to choose.
    pub(crate) wanted: Option<PartitionId>,
    pub(crate) identity: Identity,
    pub(crate) connection: Option<u32>,
    /// Its records come when they are due, each for itself.
    pub(crate) is_delayed: bool,
    pub(crate) first: MessageId,
    pub(crate) count: u32,
    /// Offsets below were taken when it was first sent.
    pub(crate) floor: Offset,
    /// When it was first sent.
    pub(crate) sent: Nanos,
    pub(crate) acknowledged: Option<Acknowledged>,
    pub(crate) attempts: u32,
    pub(crate) failures: u32,
}

/// The first acknowledgement of a batch.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Acknowledged {
    pub(crate) at: Nanos,
    /// Where it stands, if told.
    pub(crate) place: Option<(PartitionId, Offset)>,
}

impl Batch {
    /// Whether it may stand in the log.
    pub(crate) fn is_possible(&self) -> bool {
        self.attempts > self.failures
    }

    /// How often it may stand in the log.
    pub(crate) fn copies_max(&self) -> u32 {
        match self.identity {
            Identity::Stamped(_) => 1,
            Identity::Once => self.attempts - self.failures,
            Identity::Repeating => u32::MAX,
        }
    }

    pub(crate) fn stamp(&self) -> Option<Stamp> {
        match self.identity {
            Identity::Stamped(stamp) => Some(stamp),
            Identity::Once | Identity::Repeating => None,
        }
    }

    /// Its messages.
    pub(crate) fn messages(&self) -> impl Iterator<Item = MessageId> + use<> {
        (self.first.0..self.first.0.saturating_add(self.count)).map(MessageId)
    }

    /// A message's 0-based place in it.
    pub(crate) fn place_of(&self, message: MessageId) -> u32 {
        message.0.saturating_sub(self.first.0)
    }
}

/// Why a send cannot be believed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Contradiction {
    #[error("a send without records")]
    NoRecords,
    #[error("a stamped send must name its partition")]
    StampedWithoutPartition,
    #[error("record {0} was sent before, in another batch or under another identity")]
    Reused(Fingerprint),
    #[error("more messages or batches than can be numbered")]
    TooMany,
}

/// A send, its names resolved.
#[derive(Debug)]
pub(crate) struct Outgoing<'a> {
    pub(crate) sender: ClientId,
    pub(crate) topic: TopicId,
    pub(crate) wanted: Option<PartitionId>,
    pub(crate) floor: Offset,
    pub(crate) at: Nanos,
    pub(crate) batch: &'a SendBatch,
}

/// Everything that was sent.
#[derive(Debug)]
pub(crate) struct Ledger {
    messages: Vec<Message>,
    batches: Vec<Batch>,
    index: Index,
}

impl Ledger {
    pub(crate) fn new() -> Self {
        Self { messages: Vec::new(), batches: Vec::new(), index: Index::new() }
    }

    pub(crate) fn find(&self, fingerprint: Fingerprint) -> Option<MessageId> {
        self.index.find(fingerprint, &self.messages)
    }

    pub(crate) fn message(&self, id: MessageId) -> &Message {
        self.messages.get(id.0 as usize).unwrap_or_else(|| unreachable!("a message's own number"))
    }

    pub(crate) fn message_mut(&mut self, id: MessageId) -> &mut Message {
        let message = self.messages.get_mut(id.0 as usize);
        message.unwrap_or_else(|| unreachable!("a message's own number"))
    }

    pub(crate) fn batch(&self, id: BatchId) -> &Batch {
        self.batches.get(id.0 as usize).unwrap_or_else(|| unreachable!("a batch's own number"))
    }

    pub(crate) fn batch_mut(&mut self, id: BatchId) -> &mut Batch {
        let batch = self.batches.get_mut(id.0 as usize);
        batch.unwrap_or_else(|| unreachable!("a batch's own number"))
    }

    pub(crate) fn batch_of(&self, message: MessageId) -> &Batch {
        self.batch(self.message(message).batch)
    }

    pub(crate) fn batches(&self) -> impl Iterator<Item = &Batch> {
        self.batches.iter()
    }

    pub(crate) fn message_count(&self) -> usize {
        self.messages.len()
    }

    /// Takes note of a send: a new batch, or one more attempt of a known one.
    pub(crate) fn send(&mut self, out: &Outgoing<'_>) -> Result<BatchId, Contradiction> {
        let first = out.batch.records.first().ok_or(Contradiction::NoRecords)?;
        if matches!(out.batch.identity, Identity::Stamped(_)) && out.wanted.is_none() {
            return Err(Contradiction::StampedWithoutPartition);
        }
        match self.find(first.fingerprint) {
            Some(message) => self.send_again(message, out),
            None => self.send_new(out),
        }
    }

    /// Takes note of an acknowledgement. The first one stays, and with it the first place told.
    pub(crate) fn acknowledge(
        &mut self,
        id: BatchId,
        at: Nanos,
        place: Option<(PartitionId, Offset)>,
    ) {
        let batch = self.batch_mut(id);
        let acknowledged = batch.acknowledged.get_or_insert(Acknowledged { at, place });
        acknowledged.place = acknowledged.place.or(place);
    }

    fn send_again(
        &mut self,
        first: MessageId,
        out: &Outgoing<'_>,
    ) -> Result<BatchId, Contradiction> {
        let id = self.message(first).batch;
        let batch = self.batch(id);
        let is_same = batch.first == first
            && batch.count as usize == out.batch.records.len()
            && batch.topic == out.topic
            && batch.wanted == out.wanted
            && batch.identity == out.batch.identity;
        let mut pairs = batch.messages().zip(&out.batch.records);
        let other = pairs.find(|(known, sent)| {
            let known = self.message(*known);
            known.fingerprint != sent.fingerprint || known.key() != sent.key.filter(|k| k.0 != 0)
        });
        let suspect = match (is_same, other) {
            (true, None) => None,
            (_, Some((_, sent))) => Some(sent.fingerprint),
            (false, None) => Some(self.message(first).fingerprint),
        };
        if let Some(fingerprint) = suspect {
            return Err(Contradiction::Reused(fingerprint));
        }
        self.batch_mut(id).attempts += 1;
        Ok(id)
    }

    fn send_new(&mut self, out: &Outgoing<'_>) -> Result<BatchId, Contradiction> {
        let records = &out.batch.records;
        if let Some(known) = records.iter().find(|record| self.find(record.fingerprint).is_some()) {
            return Err(Contradiction::Reused(known.fingerprint));
        }
        let first = u32::try_from(self.messages.len()).map_err(|_| Contradiction::TooMany)?;
        let id = u32::try_from(self.batches.len()).map_err(|_| Contradiction::TooMany)?;
        let end = u32::try_from(records.len()).ok().and_then(|count| first.checked_add(count));
        if end.is_none_or(|end| end > MESSAGES_MAX) {
            return Err(Contradiction::TooMany);
        }
        let id = BatchId(id);
        self.batches.push(Batch {
            sender: out.sender,
            topic: out.topic,
            wanted: out.wanted,
            identity: out.batch.identity,
            connection: out.batch.connection,
            is_delayed: !out.batch.dues.is_empty(),
            first: MessageId(first),
            count: 0,
            floor: out.floor,
            sent: out.at,
            acknowledged: None,
            attempts: 1,
            failures: 0,
        });
        for record in records {
            self.add(id, record)?;
        }
        Ok(id)
    }

    fn add(&mut self, batch: BatchId, record: &SentRecord) -> Result<(), Contradiction> {
        // Twice in one batch.
        if self.find(record.fingerprint).is_some() {
            return Err(Contradiction::Reused(record.fingerprint));
        }
        let id = MessageId(self.messages.len() as u32);
        self.messages.push(Message::new(record.fingerprint, record.key, batch));
        self.index.insert(id, &self.messages);
        self.batch_mut(batch).count += 1;
        Ok(())
    }
}

/// A set of messages, one bit each.
#[derive(Debug)]
pub(crate) struct MessageSet(Vec<u64>);

impl MessageSet {
    pub(crate) fn new(count: usize) -> Self {
        Self(vec![0; count.div_ceil(64)])
    }

    pub(crate) fn contains(&self, id: MessageId) -> bool {
        self.0.get(id.0 as usize / 64).is_some_and(|word| word >> (id.0 % 64) & 1 == 1)
    }

    /// True when it was not in it.
    pub(crate) fn insert(&mut self, id: MessageId) -> bool {
        let is_new = !self.contains(id);
        if let Some(word) = self.0.get_mut(id.0 as usize / 64) {
            *word |= 1 << (id.0 % 64);
        }
        is_new
    }
}

#[cfg(test)]
mod tests {
    use barrage_model::{ProducerEpoch, ProducerId, Sequence};

    use super::*;
    use crate::history::name::Name;

    fn batch(identity: Identity, fingerprints: &[u64]) -> SendBatch {
        let record = |number: &u64| SentRecord { fingerprint: Fingerprint(*number), key: None };
        SendBatch {
            topic: Name::from("t"),
            partition: None,
            identity,
            connection: None,
            records: fingerprints.iter().map(record).collect(),
            dues: Vec::new(),
        }
    }

    fn send(
        ledger: &mut Ledger,
        identity: Identity,
        fingerprints: &[u64],
    ) -> Result<u32, Contradiction> {
        let out = Outgoing {
            sender: ClientId(0),
            topic: TopicId(0),
            wanted: Some(PartitionId(0)),
            floor: Offset(0),
            at: Nanos(1),
            batch: &batch(identity, fingerprints),
        };
        ledger.send(&out).map(|id| id.0)
    }

    #[test]
    fn sending_again_is_the_same_batch_and_anything_else_contradicts() {
        let stamp = |sequence| {
            Identity::Stamped(Stamp {
                producer: ProducerId(7),
                epoch: ProducerEpoch(0),
                sequence: Sequence(sequence),
            })
        };
        let reused = |number| Err(Contradiction::Reused(Fingerprint(number)));
        let table: [(Identity, &[u64], Result<u32, Contradiction>); 11] = [
            (stamp(0), &[1, 2], Ok(0)),
            (stamp(2), &[3], Ok(1)),
            (stamp(0), &[1, 2], Ok(0)),
            (stamp(0), &[1], reused(1)),
            (stamp(0), &[1, 3], reused(3)),
            (stamp(0), &[2, 1], reused(2)),
            (stamp(9), &[1, 2], reused(1)),
            (Identity::Once, &[3], reused(3)),
            (Identity::Once, &[4, 2], reused(2)),
            (Identity::Once, &[5, 5], reused(5)),
            (Identity::Once, &[], Err(Contradiction::NoRecords)),
        ];
        let mut ledger = Ledger::new();
        for (identity, fingerprints, want) in table {
            assert_eq!(send(&mut ledger, identity, fingerprints), want, "{fingerprints:?}");
        }
        assert_eq!(ledger.batch(BatchId(0)).attempts, 2);
        assert_eq!(ledger.batch(BatchId(0)).copies_max(), 1);
        assert_eq!(ledger.message_count(), 4);
        assert_eq!(ledger.find(Fingerprint(2)), Some(MessageId(1)));
    }

    #[test]
    fn a_message_and_a_batch_cost_what_the_page_says() {
        assert_eq!(size_of::<Message>(), 32);
        assert!(size_of::<Batch>() <= 128, "{}", size_of::<Batch>());
    }
}
