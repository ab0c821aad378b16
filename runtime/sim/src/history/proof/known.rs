//! What a history says, by place, so that a change can be put where it shows.

use std::collections::{BTreeMap, BTreeSet};

use barrage_model::Offset;

use crate::history::{
    Answer, Call, Event, Fingerprint, Identity, Key, Note, Operation, Place, ReadOut, SendBatch,
    Settlement, Taken, What,
};

/// A batch as the history knows it.
#[derive(Clone)]
pub(super) struct Known {
    pub(super) first: Fingerprint,
    pub(super) identity: Identity,
    pub(super) is_stamped: bool,
    pub(super) connection: Option<u32>,
    pub(super) calls: Vec<Call>,
    pub(super) keys: BTreeMap<Fingerprint, Key>,
}

/// What is needed to find a place for a change.
pub(super) struct Facts {
    pub(super) drain: Option<usize>,
    pub(super) calls: BTreeMap<Call, Operation>,
    pub(super) begun: BTreeMap<Call, usize>,
    pub(super) client: BTreeMap<Call, String>,
    pub(super) records: BTreeMap<Fingerprint, Known>,
    /// By fingerprint: where it was acknowledged.
    pub(super) acknowledged: BTreeMap<Fingerprint, (Place, Offset)>,
    /// Where the final reading showed it, for those that stand once.
    pub(super) standing: BTreeMap<Fingerprint, (Place, Offset)>,
    pub(super) seen: BTreeSet<Fingerprint>,
    /// Answers with records of the final reading.
    pub(super) finals: Vec<usize>,
    pub(super) trimmed: BTreeSet<Place>,
}

impl Facts {
    pub(super) fn of(events: &[Event]) -> Self {
        let mut facts = Self {
            drain: None,
            calls: BTreeMap::new(),
            begun: BTreeMap::new(),
            client: BTreeMap::new(),
            records: BTreeMap::new(),
            acknowledged: BTreeMap::new(),
            standing: BTreeMap::new(),
            seen: BTreeSet::new(),
            finals: Vec::new(),
            trimmed: BTreeSet::new(),
        };
        let mut twice = BTreeSet::new();
        for (at, event) in events.iter().enumerate() {
            match &event.what {
                What::Invoke { call, client, operation } => {
                    facts.calls.insert(*call, operation.clone());
                    facts.begun.insert(*call, at);
                    facts.client.insert(*call, client.to_string());
                    if let Operation::Send(batch) = operation {
                        facts.send(*call, batch);
                    }
                }
                What::Ok { call, answer } => facts.answer(at, *call, answer, &mut twice),
                What::Note(Note::Drain) => facts.drain = Some(at),
                What::Note(Note::Trim { place, .. }) => drop(facts.trimmed.insert(place.clone())),
                _ => {}
            }
        }
        facts.standing.retain(|it, _| !twice.contains(it));
        facts
    }

    pub(super) fn send(&mut self, call: Call, batch: &SendBatch) {
        for record in &batch.records {
            let keys = batch.records.iter().filter_map(|it| Some((it.fingerprint, it.key?)));
            let known = self.records.entry(record.fingerprint).or_insert_with(|| Known {
                first: batch.records[0].fingerprint,
                identity: batch.identity,
                is_stamped: matches!(batch.identity, Identity::Stamped(_)),
                connection: batch.connection,
                calls: Vec::new(),
                keys: keys.collect(),
            });
            known.calls.push(call);
        }
    }

    pub(super) fn answer(
        &mut self,
        at: usize,
        call: Call,
        answer: &Answer,
        twice: &mut BTreeSet<Fingerprint>,
    ) {
        match (self.calls.get(&call), answer) {
            (Some(Operation::Send(batch)), Answer::Sent(sent)) => {
                let (Some(partition), Some(base)) = (sent.partition, sent.base) else { return };
                let place = Place { topic: batch.topic.clone(), partition };
                for (record, offset) in batch.records.iter().zip(base.0..) {
                    let standing = (place.clone(), Offset(offset));
                    self.acknowledged.insert(record.fingerprint, standing);
                }
            }
            (Some(Operation::Read(read)), Answer::Read(out)) => {
                let found = out.records.iter().filter_map(|it| Some((it.fingerprint?, it.offset)));
                for (it, offset) in found {
                    self.seen.insert(it);
                    if self.drain.is_some() && read.place.topic.as_str() != "dlq" {
                        let before = self.standing.insert(it, (read.place.clone(), offset));
                        before.is_some().then(|| twice.insert(it));
                    }
                }
                if self.drain.is_some() && !out.records.is_empty() {
                    self.finals.push(at);
                }
            }
            _ => {}
        }
    }

    pub(super) fn read_of(&self, events: &[Event], at: usize) -> Option<&Place> {
        match self.calls.get(&call_of(events.get(at)?)?)? {
            Operation::Read(read) => Some(&read.place),
            _ => None,
        }
    }

    /// Whether somebody tried to ack it.
    pub(super) fn is_acked(&self, it: Fingerprint) -> bool {
        self.calls.values().any(|operation| match operation {
            Operation::Settle(settle) => settle.how == Settlement::Ack && settle.fingerprint == it,
            _ => false,
        })
    }

    pub(super) fn topic_of(&self, events: &[Event], at: usize) -> Option<&str> {
        self.read_of(events, at).map(|place| place.topic.as_str())
    }

    pub(super) fn out<'a>(&self, events: &'a [Event], at: usize) -> Option<&'a ReadOut> {
        match &events.get(at)?.what {
            What::Ok { answer: Answer::Read(out), .. } => Some(out),
            _ => None,
        }
    }

    /// Whether no later answer of the final reading shows the same partition.
    pub(super) fn is_last_reading(&self, events: &[Event], at: usize) -> bool {
        let place = self.read_of(events, at);
        self.finals.iter().all(|other| *other <= at || self.read_of(events, *other) != place)
    }

    /// Whether retention left a partition alone.
    pub(super) fn is_whole(&self, place: &Place) -> bool {
        !self.trimmed.contains(place)
    }

    /// Whether a refused settlement carried a receipt that was known to be old.
    pub(super) fn is_old_receipt(&self, events: &[Event], call: &Call) -> bool {
        let Some(Operation::Settle(settle)) = self.calls.get(call) else { return false };
        let before = &events[..self.begun[call]];
        before
            .iter()
            .filter_map(taken_of)
            .flatten()
            .any(|taken| taken.fingerprint == settle.fingerprint && taken.count > settle.count)
    }

    /// Pairs of takes of which the later one began after the earlier one ended and shows a record
    /// again that was not given back in between.
    pub(super) fn delivered_again(&self, events: &[Event]) -> Vec<(usize, usize)> {
        let settled: BTreeSet<Fingerprint> = (self.calls.values())
            .filter_map(|operation| match operation {
                Operation::Settle(settle) if settle.how != Settlement::Ack => {
                    Some(settle.fingerprint)
                }
                _ => None,
            })
            .collect();
        let mut last: BTreeMap<Fingerprint, usize> = BTreeMap::new();
        let mut pairs = Vec::new();
        for (at, event) in events.iter().enumerate() {
            for taken in taken_of(event).unwrap_or_default() {
                let earlier = last.insert(taken.fingerprint, at);
                let begun = call_of(event).map(|call| self.begun[&call]);
                if let Some(earlier) = earlier.filter(|earlier| Some(*earlier) < begun)
                    && !settled.contains(&taken.fingerprint)
                {
                    pairs.push((earlier, at));
                }
            }
        }
        pairs
    }
}

pub(super) fn call_of(event: &Event) -> Option<Call> {
    match &event.what {
        What::Ok { call, .. } => Some(*call),
        _ => None,
    }
}

pub(super) fn taken_of(event: &Event) -> Option<&[Taken]> {
    match &event.what {
        What::Ok { answer: Answer::Taken(taken), .. } => Some(taken),
        _ => None,
    }
}

pub(super) fn out_mut(event: &mut Event) -> Option<&mut ReadOut> {
    match &mut event.what {
        What::Ok { answer: Answer::Read(out), .. } => Some(out),
        _ => None,
    }
}
