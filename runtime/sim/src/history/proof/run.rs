//! Clients of the broker in memory: calls overlap, answers are lost, what was given up takes
//! effect later, producers are fenced, retention goes on.

use std::collections::BTreeMap;
use std::time::Duration;

use barrage_model::{Offset, ProducerEpoch, ProducerId, Sequence};

use super::broker::{Broker, Refused, place};
use super::members::Members;
use super::replicas::Replicas;
use super::rng::Rng;
use crate::history::{
    Answer, Call, ChangeDelay, Claim, Claiming, CommitOffset, Fingerprint, History, Identity, Key,
    Name, Nanos, Note, Operation, Place, ReadFrom, SendBatch, SentRecord, SettleLease, Settlement,
    Stamp, TakeLease, Taken,
};

const STEPS: usize = 900;
const PENDING_MAX: usize = 10;
const VISIBILITY: Duration = Duration::from_millis(40);

/// A call that was sent.
struct Pending {
    call: Call,
    client: usize,
    operation: Operation,
    result: Option<Result<Answer, Refused>>,
    /// The client has given up; the call may still take effect.
    is_abandoned: bool,
}

/// An idempotent producer in one partition.
#[derive(Default)]
struct Lane {
    next: Sequence,
    /// To be sent again.
    again: Vec<SendBatch>,
}

#[derive(Default)]
struct Client {
    name: Option<Name>,
    epoch: i16,
    lanes: BTreeMap<Place, Lane>,
    /// Where it reads on.
    positions: BTreeMap<Place, u64>,
    generation: Option<u32>,
    receipts: Vec<Taken>,
    /// The id under which it holds `o`, or did.
    held: Option<ProducerId>,
}

struct Run<'a> {
    rng: &'a mut Rng,
    history: History,
    now: Nanos,
    broker: Broker,
    clients: Vec<Client>,
    pending: Vec<Pending>,
    messages: u64,
    delayed: Vec<Fingerprint>,
    /// Ids given out to those who claim.
    producers: i64,
}

/// A history.
pub(super) fn run(rng: &mut Rng) -> History {
    let client =
        |number: usize| Client { name: Some(format!("c{number}").into()), ..Client::default() };
    let mut run = Run {
        rng,
        history: History::new(),
        now: Nanos(0),
        broker: Broker::default(),
        clients: (0..5).map(client).collect(),
        pending: Vec::new(),
        messages: 0,
        delayed: Vec::new(),
        producers: 100,
    };
    let (mut replicas, mut members) = (Replicas::new(), Members::new());
    run.note(replicas.voters());
    let (not_before, wanted_for) = (Duration::ZERO, Duration::ZERO);
    let (group, topic, into) = ("g".into(), "q".into(), "dlq".into());
    run.note(Note::DeadLetters { group, topic, into, not_before, wanted_for });
    run.note(Note::Keyed { group: "g".into() });
    run.note(Note::KeptUntilDone { group: "g".into(), topic: "q".into() });
    for _ in 0..STEPS {
        run.step();
        if run.rng.one_in(6) {
            replicas.step(run.rng).into_iter().for_each(|note| run.note(note));
        }
        if run.rng.one_in(3) {
            let at = run.tick();
            members.step(run.rng, &mut run.history, at);
        }
    }
    run.drain();
    replicas.finish().into_iter().for_each(|note| run.note(note));
    run.history
}

impl Run<'_> {
    fn tick(&mut self) -> Nanos {
        self.now.0 += 1 + self.rng.below(2_000_000) as u64;
        self.now
    }

    fn note(&mut self, note: Note) {
        let at = self.tick();
        self.history.note(at, note);
    }

    fn step(&mut self) {
        match self.rng.below(20) {
            0..=7 if self.pending.len() < PENDING_MAX => self.begin(),
            0..=14 => self.effect(),
            15..=17 => self.complete(),
            18 if self.rng.one_in(3) => self.abandon(),
            18 => self.claim(),
            19 if self.rng.one_in(20) => self.trim(),
            19 if self.rng.one_in(3) => self.reclaim(),
            _ => {}
        }
    }

    fn begin(&mut self) {
        let client = self.rng.below(self.clients.len());
        let operation = match self.rng.below(15) {
            0..=4 => self.send(client),
            5 | 6 => self.read(client),
            7 | 8 => self.group(client),
            9 | 10 => {
                let (group, topic) = ("g".into(), "q".into());
                Some(Operation::Take(TakeLease { group, topic, visibility: VISIBILITY }))
            }
            11 | 12 => self.settle(client),
            13 => Some(self.send_delayed()),
            _ => self.change_delay(),
        };
        if let Some(operation) = operation {
            self.invoke(client, operation);
        }
    }

    fn invoke(&mut self, client: usize, operation: Operation) {
        let at = self.tick();
        let name = self.clients[client].name.clone().unwrap();
        let call = self.history.invoke(at, &name, operation.clone());
        self.pending.push(Pending { call, client, operation, result: None, is_abandoned: false });
    }

    /// Claims are mostly made one at a time, and answered.
    fn claim(&mut self) {
        let client = self.rng.below(2);
        let how = match self.rng.below(8) {
            0 | 1 => Claiming::TakeOver,
            2 => Claiming::Release,
            3 => Claiming::Keep,
            _ => Claiming::Hold,
        };
        let held = self.clients[client].held.filter(|_| how != Claiming::TakeOver);
        let is_own = matches!(how, Claiming::Release | Claiming::Keep);
        let producer = match held.filter(|_| self.rng.one_in(2) || is_own) {
            Some(held) => held,
            None => {
                self.producers += 1;
                ProducerId(self.producers)
            }
        };
        let lasts = Duration::from_secs(3_600);
        let claim = Claim { place: place("o", 0), producer, how, lasts };
        self.invoke(client, Operation::Claim(claim));
        if !self.rng.one_in(10) {
            let newest = self.pending.len() - 1;
            self.effect_of(newest);
            self.complete_of(newest);
        }
    }

    fn records(&mut self, has_key: bool) -> Vec<SentRecord> {
        let count = 1 + self.rng.below(3);
        let mut records = Vec::new();
        for _ in 0..count {
            self.messages += 1;
            let fingerprint = Fingerprint::of(None, Some(&self.messages.to_le_bytes()));
            let key = has_key.then(|| Key(1 + self.rng.below(3) as u64));
            records.push(SentRecord { fingerprint, key });
        }
        records
    }

    fn send(&mut self, client: usize) -> Option<Operation> {
        let holds = client < 2 && self.clients[client].held.is_some();
        let topics: &[&str] =
            if holds { &["t", "u", "q", "o", "o"] } else { &["t", "t", "u", "q"] };
        let topic = *self.rng.pick(topics)?;
        let partition = if topic == "t" { self.rng.below(2) as u32 } else { 0 };
        let there = place(topic, partition);
        let records = self.records(topic == "q");
        let (mut identity, mut connection) = (Identity::Once, None);
        let mut wanted = Some(there.partition);
        match client {
            0 | 1 => return Some(Operation::Send(self.send_stamped(client, there, records))),
            2 => connection = Some(self.rng.below(2) as u32),
            3 if topic == "t" => wanted = None,
            4 if topic != "q" => identity = Identity::Repeating,
            _ => {}
        }
        let topic = there.topic;
        let batch =
            SendBatch { topic, partition: wanted, identity, connection, records, dues: Vec::new() };
        Some(Operation::Send(batch))
    }

    fn due(&mut self) -> Nanos {
        Nanos(self.now.0 + self.rng.below(200_000_000) as u64)
    }

    fn send_delayed(&mut self) -> Operation {
        let Place { topic, partition } = place("d", 0);
        let records = self.records(false);
        self.delayed.extend(records.iter().map(|record| record.fingerprint));
        let dues = records.iter().map(|_| self.due()).collect();
        let (partition, identity) = (Some(partition), Identity::Once);
        let batch = SendBatch { topic, partition, identity, connection: None, records, dues };
        Operation::Send(batch)
    }

    fn change_delay(&mut self) -> Option<Operation> {
        let newest = self.delayed.len().saturating_sub(8);
        let fingerprint = *self.rng.pick(&self.delayed[newest..])?;
        let due = self.due();
        let to = (!self.rng.one_in(3)).then_some(due);
        Some(Operation::Delay(ChangeDelay { fingerprint, to }))
    }

    fn send_stamped(&mut self, number: usize, there: Place, records: Vec<SentRecord>) -> SendBatch {
        let client = &mut self.clients[number];
        if self.rng.one_in(40) {
            client.epoch += 1;
            client.lanes.retain(|place, _| place.topic.as_str() == "o");
        }
        let mut producer = ProducerId(number as i64);
        let mut epoch = ProducerEpoch(client.epoch);
        if let Some(held) = client.held.filter(|_| there.topic.as_str() == "o") {
            (producer, epoch) = (held, ProducerEpoch(0));
        }
        let lane = client.lanes.entry(there.clone()).or_default();
        if !lane.again.is_empty() {
            return lane.again.remove(0);
        }
        let sequence = lane.next;
        lane.next = sequence.wrapping_advance(records.len() as u32);
        let identity = Identity::Stamped(Stamp { producer, epoch, sequence });
        let Place { topic, partition } = there;
        SendBatch {
            topic,
            partition: Some(partition),
            identity,
            connection: None,
            records,
            dues: Vec::new(),
        }
    }

    fn read(&mut self, client: usize) -> Option<Operation> {
        let places: Vec<Place> = self.broker.logs.keys().cloned().collect();
        let place = self.rng.pick(&places)?.clone();
        let log = self.broker.log(&place);
        let from = if self.rng.one_in(2) {
            Some(Offset(self.rng.below(log.end() as usize + 1) as u64))
        } else {
            // A reader that goes on waits for its answer.
            let is_open = self.pending.iter().any(|pending| {
                let open = Operation::Read(ReadFrom { place: place.clone(), from: None });
                pending.client == client && pending.operation == open
            });
            if is_open {
                return None;
            }
            None
        };
        Some(Operation::Read(ReadFrom { place, from }))
    }

    fn group(&mut self, client: usize) -> Option<Operation> {
        let (group, place) = (Name::from("s"), place("u", 0));
        let offset = Offset(self.rng.below(50) as u64);
        Some(match self.rng.below(8) {
            0 => Operation::Join { group },
            1 if self.rng.one_in(3) => Operation::Reset { group, place, offset },
            2..=4 => {
                let generation = self.clients[client].generation;
                Operation::Commit(CommitOffset { group, generation, place, offset })
            }
            _ => Operation::Committed { group, place },
        })
    }

    fn settle(&mut self, client: usize) -> Option<Operation> {
        let receipts = &mut self.clients[client].receipts;
        if receipts.is_empty() {
            return None;
        }
        let receipt = receipts.remove(self.rng.below(receipts.len()));
        let how = match self.rng.below(5) {
            0 => Settlement::Nack { delay: Duration::from_millis(self.rng.below(20) as u64) },
            1 => {
                receipts.push(receipt);
                Settlement::Extend { visibility: VISIBILITY }
            }
            2 => Settlement::Release,
            _ => Settlement::Ack,
        };
        let Taken { fingerprint, count, .. } = receipt;
        Some(Operation::Settle(SettleLease { group: "g".into(), fingerprint, count, how }))
    }

    /// Some call takes effect.
    fn effect(&mut self) {
        if self.pending.is_empty() {
            return;
        }
        let mut chosen = self.rng.below(self.pending.len());
        // What one connection sends takes effect in order.
        if let Operation::Send(SendBatch { connection: Some(lane), .. }) =
            &self.pending[chosen].operation
        {
            let same = |pending: &Pending| match &pending.operation {
                Operation::Send(batch) => {
                    batch.connection == Some(*lane)
                        && pending.client == self.pending[chosen].client
                        && pending.result.is_none()
                }
                _ => false,
            };
            chosen = self.pending.iter().position(same).unwrap_or(chosen);
        }
        self.effect_of(chosen);
    }

    fn effect_of(&mut self, chosen: usize) {
        let now = self.tick();
        let pending = &mut self.pending[chosen];
        if pending.result.is_some() {
            return;
        }
        let position = match &pending.operation {
            Operation::Read(read) => {
                self.clients[pending.client].positions.get(&read.place).copied()
            }
            _ => None,
        };
        let position = position.unwrap_or_default();
        let result = self.broker.apply(&pending.operation, position, now, self.rng);
        pending.result = Some(result);
        if pending.is_abandoned {
            self.pending.remove(chosen);
        }
    }

    /// Some call is answered, or its answer is lost.
    fn complete(&mut self) {
        let done: Vec<usize> =
            (0..self.pending.len()).filter(|place| self.pending[*place].result.is_some()).collect();
        let Some(chosen) = self.rng.pick(&done).copied() else { return };
        self.complete_of(chosen);
    }

    fn complete_of(&mut self, chosen: usize) {
        let Pending { call, client, operation, result, .. } = self.pending.remove(chosen);
        let at = self.tick();
        if self.rng.one_in(10) {
            self.history.info(at, call, "lost");
            self.send_again(client, operation);
            return;
        }
        match result.unwrap() {
            Ok(answer) => {
                self.learn(client, &operation, &answer);
                self.history.ok(at, call, answer);
            }
            Err(Refused) => {
                self.history.fail(at, call, "refused");
                if let Operation::Read(ReadFrom { place, from: None }) = &operation {
                    self.seek(client, place.clone());
                }
                self.send_again(client, operation);
            }
        }
    }

    fn seek(&mut self, client: usize, place: Place) {
        let client = &mut self.clients[client];
        client.positions.remove(&place);
        let client = client.name.clone().unwrap();
        self.note(Note::Seek { client, place });
    }

    fn learn(&mut self, client: usize, operation: &Operation, answer: &Answer) {
        let client = &mut self.clients[client];
        match (operation, answer) {
            (Operation::Read(ReadFrom { place, from: None }), Answer::Read(out)) => {
                if let Some(last) = out.records.last() {
                    client.positions.insert(place.clone(), last.offset.0 + 1);
                }
            }
            (_, Answer::Joined { generation }) => client.generation = Some(*generation),
            (_, Answer::Taken(taken)) => client.receipts.extend(taken),
            // The answer to an older claim may come late.
            (Operation::Claim(claim), Answer::Done)
                if claim.how != Claiming::Release && client.held < Some(claim.producer) =>
            {
                client.lanes.remove(&claim.place);
                client.held = Some(claim.producer);
            }
            _ => {}
        }
    }

    /// An idempotent producer does not give up, unless it has a new epoch.
    fn send_again(&mut self, number: usize, operation: Operation) {
        let Operation::Send(batch) = operation else { return };
        let Identity::Stamped(stamp) = batch.identity else { return };
        let client = &mut self.clients[number];
        let is_held = batch.topic.as_str() == "o";
        let goes_on = match is_held {
            true => client.held == Some(stamp.producer),
            false => stamp.epoch.0 == client.epoch,
        };
        if goes_on {
            let there = Place { topic: batch.topic.clone(), partition: batch.partition.unwrap() };
            let again = &mut client.lanes.entry(there).or_default().again;
            again.push(batch);
        }
    }

    /// A client gives up on a call that has not taken effect.
    fn abandon(&mut self) {
        let open: Vec<usize> = (0..self.pending.len())
            .filter(|place| {
                let pending = &self.pending[*place];
                pending.result.is_none() && !pending.is_abandoned
            })
            .collect();
        let Some(chosen) = self.rng.pick(&open).copied() else { return };
        let at = self.tick();
        self.pending[chosen].is_abandoned = true;
        let (call, client) = (self.pending[chosen].call, self.pending[chosen].client);
        let operation = self.pending[chosen].operation.clone();
        self.history.info(at, call, "timeout");
        self.send_again(client, operation);
        if self.rng.one_in(2) {
            self.pending.remove(chosen);
        }
    }

    fn trim(&mut self) {
        let there = place(["t", "u"][self.rng.below(2)], 0);
        let log = self.broker.log(&there);
        let range = (log.end() - log.start) as usize;
        let start = log.start + self.rng.below(range / 3 + 1) as u64;
        self.note(Note::Trim { place: there.clone(), start: Offset(start) });
        self.broker.log(&there).start = start;
    }

    fn reclaim(&mut self) {
        let start = Offset(self.broker.reclaim(self.rng));
        self.note(Note::Trim { place: place("q", 0), start });
    }

    /// Every call ends, and everything is read.
    fn drain(&mut self) {
        while let Some(pending) = self.pending.pop() {
            if !pending.is_abandoned {
                let at = self.tick();
                self.history.info(at, pending.call, "over");
            }
        }
        self.note(Note::Drain);
        self.now.0 += 1_000_000_000;
        self.broker.let_in(self.now, self.rng);
        while !self.broker.is_queue_empty() {
            let (group, topic) = ("g".into(), "q".into());
            let take = Operation::Take(TakeLease { group, topic, visibility: VISIBILITY });
            self.finally(take);
            while let Some(receipt) = self.clients[0].receipts.pop() {
                let Taken { fingerprint, count, .. } = receipt;
                let (group, how) = ("g".into(), Settlement::Ack);
                let settle = SettleLease { group, fingerprint, count, how };
                self.finally(Operation::Settle(settle));
            }
            self.now.0 += 1_000_000_000;
        }
        let places: Vec<Place> = self.broker.logs.keys().cloned().collect();
        for place in places {
            let mut next = self.broker.log(&place).start;
            while next < self.broker.log(&place).end() {
                let from = Some(Offset(next));
                self.finally(Operation::Read(ReadFrom { place: place.clone(), from }));
                next += 12;
            }
        }
    }

    /// A call of the final reading.
    fn finally(&mut self, operation: Operation) {
        let (at, name) = (self.tick(), self.clients[0].name.clone().unwrap());
        let call = self.history.invoke(at, &name, operation.clone());
        let now = self.tick();
        let answer = self.broker.apply(&operation, 0, now, self.rng);
        let at = self.tick();
        match answer {
            Ok(answer) => {
                self.learn(0, &operation, &answer);
                self.history.ok(at, call, answer);
            }
            Err(Refused) => self.history.fail(at, call, "refused"),
        }
    }
}
