//! A producer: batches for all partitions of a topic, a few of each under way, and again after
//! every refusal or loss, until each is acknowledged.
//!
//! Owns: what is sent when, and what each answer means. Must never: send other bytes under a
//! stamp that was used, or skip a stamped batch.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::ops::RangeInclusive;
use std::rc::Rc;
use std::time::Duration;

use barrage_model::{ProducerEpoch, ProducerId, Sequence};
use barrage_wire::{
    Acks, ErrorCode, ErrorReply, Frame, ProduceDelayed, ProduceRequest, Request, Response,
};
use barrage_world::channel::mpsc;
use barrage_world::sim::Rng;
use barrage_world::{Instant, spawn, timeout};
use bytes::Bytes;

use super::batch::{Later, Made, Size};
use super::client::{Client, Topic};
use super::connection::{Connection, Lost};
use super::delays::{draw_later, now_ms};
use super::draw::{between, milliseconds, pick};
use super::lane::{Attempt, AttemptId, Batch, Lane, Verdict};
use super::witness::Sent;
use crate::history::{Call, Identity, SendBatch, Stamp};

/// How long it waits for something to happen before it looks around.
const LOOK_EVERY: Duration = milliseconds(200);
const PAUSE_AFTER_REFUSAL: Duration = milliseconds(10);
/// Until somebody leads, or is known to.
const PAUSE_WITHOUT_LEADER: Duration = milliseconds(40);
const ANSWERS_MAX: usize = 4_096;
/// More than retention counts in any run.
const UNKNOWN_BYTES: u64 = 1 << 40;

/// One producer.
#[derive(Clone, Debug)]
pub(crate) struct ProducerPlan {
    /// Which of the lasting topics, by number; none for one that comes and goes.
    pub(crate) topic: Option<usize>,
    /// With a producer id, so that what is repeated is stored once.
    pub(crate) idempotent: bool,
    /// Batches of one partition without an answer.
    pub(crate) window: usize,
    pub(crate) records_max: u64,
    pub(crate) value_bytes_max: u64,
    pub(crate) think_time: RangeInclusive<Duration>,
    /// How long it waits for an answer before it gives the connection up.
    pub(crate) patience: Duration,
    /// What it asks the server to answer within.
    pub(crate) timeout_ms: u32,
    /// Sends a batch again while it is still under way, once in so many.
    pub(crate) repeat_one_in: u64,
    /// Takes a new epoch after so many batches.
    pub(crate) fence_one_in: u64,
    /// Drops its connection for no reason, once in so many batches.
    pub(crate) hang_up_one_in: u64,
    /// Delays a batch, once in so many; none at all without it.
    pub(crate) delay_one_in: Option<u64>,
}

impl ProducerPlan {
    /// A few producers, each of one of so many topics.
    pub(crate) fn draw_some(random: &mut Rng, topics: usize) -> Vec<Self> {
        let busy = random.one_in(3);
        let count = random.between(1, 5);
        (0..count).map(|_| Self::draw(random, topics, busy)).collect()
    }

    fn draw(random: &mut Rng, topics: usize, busy: bool) -> Self {
        let patient = random.one_in(2);
        let think_ms = if busy { 2 } else { *pick(random, &[5, 20, 60]) };
        Self {
            topic: Some(random.below(topics as u64) as usize),
            idempotent: !random.one_in(6),
            window: random.between(1, 5) as usize,
            records_max: *pick(random, &[1, 3, 20, 60]),
            value_bytes_max: *pick(random, &[20, 100, 400, 1_500]),
            think_time: milliseconds(0)..=milliseconds(think_ms),
            patience: milliseconds(if patient { 60_000 } else { random.between(80, 2_000) }),
            timeout_ms: random.between(100, 4_000) as u32,
            repeat_one_in: *pick(random, &[3, 20, 1_000]),
            fence_one_in: *pick(random, &[40, 400]),
            hang_up_one_in: *pick(random, &[30, 1_000]),
            delay_one_in: None,
        }
    }
}

/// The end of a transmission.
struct Ended {
    partition: u32,
    attempt: AttemptId,
    answer: Result<Frame, Lost>,
}

/// A transmission under way.
struct UnderWay {
    sent_at: Instant,
    /// The batch, when every voter is to have it.
    for_all: Option<Bytes>,
    connection: Rc<Connection>,
}

/// See the module.
pub(crate) struct Producer {
    client: Client,
    plan: ProducerPlan,
    topic: Topic,
    identity: Option<(ProducerId, ProducerEpoch)>,
    lanes: BTreeMap<u32, Lane>,
    /// By partition: the epoch that was left, and the sequence that would have been next in it.
    left: BTreeMap<u32, (ProducerEpoch, i32)>,
    ended: mpsc::Receiver<Ended>,
    ends: mpsc::Sender<Ended>,
    under_way: BTreeMap<AttemptId, UnderWay>,
    attempts: AttemptId,
    new_at: Instant,
    pause_until: Instant,
    gone: Rc<Cell<bool>>,
}

impl Producer {
    pub(crate) fn new(client: Client, plan: ProducerPlan, topic: Topic) -> Self {
        let (ends, ended) = mpsc::bounded(ANSWERS_MAX);
        let lanes = (0..topic.partitions).map(|partition| (partition, Lane::default())).collect();
        let now = Instant::now();
        Self {
            client,
            plan,
            topic,
            identity: None,
            lanes,
            left: BTreeMap::new(),
            ended,
            ends,
            under_way: BTreeMap::new(),
            attempts: 0,
            new_at: now,
            pause_until: now,
            gone: Rc::default(),
        }
    }

    /// Sends until it is told to stop, then until everything is settled. Ends early when the
    /// topic goes.
    pub(crate) async fn run(mut self) -> Client {
        loop {
            let stopped = self.client.is_stopped();
            if self.gone.get() || (stopped && self.lanes.values().all(Lane::is_settled)) {
                break;
            }
            if self.plan.idempotent && self.identity.is_none() {
                self.identify().await;
                continue;
            }
            self.fill();
            if self.send_due().await.is_ok() {
                self.misbehave().await;
            }
            self.wait().await;
            self.hang_up_if_late();
        }
        self.give_up();
        self.client
    }

    async fn identify(&mut self) {
        let given = self
            .client
            .insist(
                &Request::InitProducer,
                |_| false,
                |response| match response {
                    Response::InitProducer(reply) => Some((reply.producer, reply.epoch)),
                    _ => None,
                },
            )
            .await;
        self.client.witness().producer_id(given.0);
        self.identity = Some(given);
    }

    /// Makes new batches where there is room and it is time.
    fn fill(&mut self) {
        let now = Instant::now();
        if self.client.is_stopped() || now < self.new_at {
            return;
        }
        self.new_at = now + between(&mut self.client.random, &self.plan.think_time);
        let partition = self.client.random.below(u64::from(self.topic.partitions)) as u32;
        let few = self.client.random.between(1, self.plan.window as u64);
        for _ in 0..few {
            let Some(lane) = self.lanes.get_mut(&partition) else { return };
            if lane.pending.len() >= self.plan.window {
                return;
            }
            let stamp = lane.next_stamp(self.identity);
            let mut made = make(&mut self.client, &self.plan, stamp);
            let delays = |one_in| self.client.random.one_in(one_in);
            if self.plan.delay_one_in.is_some_and(delays) {
                made.later = Some(draw_later(&mut self.client.random, made.records.len()));
            }
            lane.push(made, stamp);
        }
    }

    async fn send_due(&mut self) -> Result<(), Lost> {
        if Instant::now() < self.pause_until {
            return Ok(());
        }
        let partitions: Vec<u32> = self.lanes.keys().copied().collect();
        for partition in partitions {
            while let Some(number) = self.lanes.get_mut(&partition).and_then(Lane::due) {
                self.send(partition, number).await?;
            }
        }
        Ok(())
    }

    /// Sends a batch to whoever leads its partition.
    async fn send(&mut self, partition: u32, number: u64) -> Result<(), Lost> {
        let connection = &self.client.connection_to(self.topic.key(partition)).await;
        let Some(lane) = self.lanes.get_mut(&partition) else { return Ok(()) };
        let Some(batch) = lane.batch(number).cloned() else { return Ok(()) };
        let call = self.invoke(connection, partition, &batch);
        self.attempts += 1;
        let attempt = self.attempts;
        if let Some(lane) = self.lanes.get_mut(&partition) {
            lane.sent(number, attempt, call, connection.number);
        }
        self.transmit(connection, partition, attempt, batch).await
    }

    fn invoke(&self, connection: &Connection, partition: u32, batch: &Batch) -> Call {
        let key = self.topic.key(partition);
        let identity = batch.stamp.map_or(Identity::Once, Identity::Stamped);
        let (connection, records) = (Some(connection.number), batch.records.clone());
        let (bytes, dues) = match &batch.later {
            None => (batch.bytes.len() as u64, Vec::new()),
            // How large they will be when they are let in, nobody knows.
            Some(later) => (UNKNOWN_BYTES, later.dues.clone()),
        };
        self.client.context.witness.send(&self.client.name, key, bytes, |place| SendBatch {
            topic: place.topic,
            partition: Some(place.partition),
            identity,
            connection,
            records,
            dues,
        })
    }

    async fn transmit(
        &mut self,
        connection: &Rc<Connection>,
        partition: u32,
        attempt: AttemptId,
        batch: Batch,
    ) -> Result<(), Lost> {
        let Batch { bytes, later, .. } = batch;
        let for_all = self.client.random.one_in(4).then(|| bytes.clone());
        let (key, timeout_ms) = (self.topic.key(partition), self.plan.timeout_ms);
        let acks = if for_all.is_some() { Acks::All } else { Acks::Quorum };
        let request = match later {
            None => Request::Produce(ProduceRequest { key, acks, timeout_ms, batch: &bytes }),
            Some(Later { delay, .. }) => {
                let delayed = ProduceDelayed { key, acks, timeout_ms, delay, batch: &bytes };
                Request::ProduceDelayed(delayed)
            }
        };
        let sent_at = Instant::now();
        let under_way = UnderWay { sent_at, for_all, connection: Rc::clone(connection) };
        self.under_way.insert(attempt, under_way);
        let started = connection.start(&request).await;
        let ends = self.ends.clone();
        match started {
            Ok(waiting) => {
                drop(spawn(async move {
                    let answer = waiting.frame().await;
                    drop(ends.send(Ended { partition, attempt, answer }).await);
                }));
                Ok(())
            }
            Err(Lost) => {
                drop(ends.send(Ended { partition, attempt, answer: Err(Lost) }).await);
                Err(Lost)
            }
        }
    }

    /// Hears what has ended, or waits for it.
    async fn wait(&mut self) {
        let now = Instant::now();
        let due = self.new_at.max(self.pause_until).max(now + milliseconds(1));
        let idle = self.under_way.is_empty() && self.client.is_stopped();
        let wait = if idle { LOOK_EVERY } else { (due - now).min(LOOK_EVERY) };
        if let Ok(Some(ended)) = timeout(wait, self.ended.recv()).await {
            self.handle(ended);
        }
        while let Ok(ended) = self.ended.try_recv() {
            self.handle(ended);
        }
    }

    fn handle(&mut self, ended: Ended) {
        let Ended { partition, attempt, answer } = ended;
        let Some(under_way) = self.under_way.remove(&attempt) else { return };
        let UnderWay { sent_at, for_all, connection } = under_way;
        let witness = self.client.witness();
        let frame = match answer {
            Ok(frame) => frame,
            Err(Lost) => return self.unknown(partition, attempt, "the connection is lost"),
        };
        match Response::decode(&frame.header, &frame.body) {
            Ok(Response::Produce(reply)) => {
                let key = self.topic.key(partition);
                if let (Some(batch), Some(look)) = (&for_all, &*self.client.context.on_all.borrow())
                {
                    look(key, reply.base_offset.0, reply.log_time_ms, batch);
                }
                self.acknowledged(partition, attempt, reply.base_offset.0, reply.log_time_ms);
            }
            Ok(Response::ProduceDelayed(reply)) => {
                self.acknowledged(partition, attempt, reply.base_offset.0, reply.log_time_ms);
            }
            Ok(Response::Error { error, .. }) => {
                self.client.learn(self.topic.key(partition), &connection, &error);
                self.refused(partition, attempt, sent_at, &error);
            }
            other => {
                witness.object(format!("Produce was answered by {other:?}"));
                self.unknown(partition, attempt, "no answer to the question");
            }
        }
    }

    fn acknowledged(&mut self, partition: u32, attempt: AttemptId, base: u64, log_time_ms: i64) {
        let witness = self.client.witness();
        let key = self.topic.key(partition);
        let Some(lane) = self.lanes.get_mut(&partition) else { return };
        let Some((Attempt { call, .. }, batch, verdict)) = lane.acknowledged(attempt, base) else {
            return;
        };
        if verdict == Verdict::Impossible {
            witness.object(format!(
                "I6: {} was told {base} in {key} for a batch that was elsewhere before, or that \
                 one behind it was refused for want of",
                self.client.name
            ));
        }
        if batch.later.is_some() {
            let fingerprints = batch.records.iter().map(|record| record.fingerprint);
            self.client.context.waiting.add(key, base, fingerprints);
            return witness.kept(call, key);
        }
        let (count, bytes) = (batch.records.len() as u64, batch.bytes.len() as u64);
        witness.sent(call, key, Sent { base, count, bytes, log_time_ms });
    }

    /// Nobody knows: the same bytes go again.
    fn unknown(&mut self, partition: u32, attempt: AttemptId, reason: &str) {
        let Some(lane) = self.lanes.get_mut(&partition) else { return };
        if let Some(Attempt { call, .. }) = lane.again(attempt) {
            self.client.context.witness.info(call, reason);
        }
    }

    fn refused(
        &mut self,
        partition: u32,
        attempt: AttemptId,
        sent_at: Instant,
        error: &ErrorReply,
    ) {
        let witness = self.client.witness();
        let key = self.topic.key(partition);
        let name = error.code.name();
        let pause = match error.code {
            ErrorCode::NotLeader => PAUSE_WITHOUT_LEADER,
            _ => PAUSE_AFTER_REFUSAL,
        };
        self.pause_until = Instant::now() + pause;
        let Some(lane) = self.lanes.get_mut(&partition) else { return };
        match error.code {
            ErrorCode::OutOfOrderSequence | ErrorCode::UnknownProducer => {
                let Some((Attempt { call, .. }, verdict)) = lane.missing(attempt) else { return };
                witness.fail(call, name);
                if verdict == Verdict::Impossible {
                    let who = &self.client.name;
                    let said = &error.message;
                    witness.object(format!(
                        "I10: {who} was told {said} in {key}, and the batch before is there"
                    ));
                }
            }
            ErrorCode::DuplicateSequence => {
                let Some((Attempt { call, .. }, verdict)) = lane.forgotten(attempt) else { return };
                witness.info(call, name);
                if verdict == Verdict::Impossible {
                    let who = &self.client.name;
                    witness.object(format!("I10: {who}: a batch of {key} is forgotten too soon"));
                }
            }
            // The one that waits longest decides, and it is tried for long.
            ErrorCode::DelayIsOver => {
                if let Some(Attempt { call, .. }) = lane.is_over(attempt, now_ms()) {
                    witness.fail(call, name);
                }
            }
            ErrorCode::UnknownPartition | ErrorCode::UnknownTopic
                if witness.may_be_unknown(key) =>
            {
                if let Some(Attempt { call, .. }) = lane.again(attempt) {
                    witness.fail(call, name);
                }
                self.gone.set(true);
            }
            code => {
                self.client.judge(error, sent_at, &format!("produce to {key}"));
                // On a majority, and it stays: asked again it is told where.
                if code.is_outcome_unknown() || code == ErrorCode::NotOnAll {
                    return self.unknown(partition, attempt, name);
                }
                let ended = match self.plan.idempotent {
                    true => lane.again(attempt),
                    false => lane.drop_batch(attempt),
                };
                if let Some(Attempt { call, .. }) = ended {
                    witness.fail(call, name);
                }
            }
        }
    }

    /// What no client should do, and some do.
    async fn misbehave(&mut self) {
        let partition = self.client.random.below(u64::from(self.topic.partitions)) as u32;
        if self.client.random.one_in(self.plan.repeat_one_in) {
            let drawn = self.client.random.next_u64();
            let lane = self.lanes.get(&partition);
            if let Some(number) = lane.and_then(|lane| lane.repeatable(drawn)) {
                self.client.context.witness.count(|counts| counts.repeated += 1);
                drop(self.send(partition, number).await);
            }
        }
        if !self.client.is_stopped() && self.client.random.one_in(self.plan.fence_one_in) {
            self.fence();
        }
        self.haunt(partition).await;
        if self.client.random.one_in(self.plan.hang_up_one_in) {
            self.client.hang_up();
        }
    }

    /// Goes on in a new epoch: what is under way in the old one may or may not be stored.
    fn fence(&mut self) {
        let Some((id, epoch)) = self.identity else { return };
        // What is under way is not waited for: it races with the new epoch.
        for (partition, lane) in &mut self.lanes {
            for call in lane.end_all() {
                self.client.context.witness.info(call, "left behind by a new epoch");
            }
            self.left.insert(*partition, (epoch, lane.reset()));
        }
        self.under_way.clear();
        self.identity = Some((id, ProducerEpoch(epoch.0 + 1)));
    }

    /// An instance of the old epoch goes on, after the new one has written: it must be refused.
    async fn haunt(&mut self, partition: u32) {
        let acknowledged = self.lanes.get(&partition).is_some_and(Lane::has_acknowledged);
        let Some((id, _)) = self.identity.filter(|_| acknowledged) else { return };
        let Some((epoch, mut sequence)) = self.left.remove(&partition) else { return };
        let current = self.lanes.get(&partition).map_or(0, Lane::sequence_next);
        if current > sequence && self.client.random.one_in(2) {
            sequence = current;
        }
        let stamp = Stamp { producer: id, epoch, sequence: Sequence(sequence) };
        let made = make(&mut self.client, &self.plan, Some(stamp));
        let mut lane = Lane::default();
        lane.push(made, Some(stamp));
        let Some(batch) = lane.batch(0).cloned() else { return };
        let connection = &self.client.connection_to(self.topic.key(partition)).await;
        let call = self.invoke(connection, partition, &batch);
        let witness = self.client.witness();
        witness.count(|counts| counts.fenced += 1);
        let request = Request::Produce(ProduceRequest {
            key: self.topic.key(partition),
            acks: Acks::Quorum,
            timeout_ms: self.plan.timeout_ms,
            batch: &batch.bytes,
        });
        let within = Duration::from_millis(u64::from(self.plan.timeout_ms));
        let Ok(frame) = self.client.call(connection, &request, within).await else {
            return witness.info(call, "the connection is lost");
        };
        match Response::decode(&frame.header, &frame.body) {
            Ok(Response::Error { error, .. }) => match error.code {
                code if code.is_outcome_unknown() => witness.info(call, code.name()),
                code => witness.fail(call, code.name()),
            },
            other => {
                let key = self.topic.key(partition);
                witness.object(format!("I10: epoch {epoch} of {id} is over in {key}: {other:?}"));
                witness.info(call, "answered as if it were not fenced");
            }
        }
    }

    /// Gives the connection up when its answers are late.
    fn hang_up_if_late(&mut self) {
        let asked = Duration::from_millis(u64::from(self.plan.timeout_ms));
        let Some(oldest) = self.under_way.values().next() else { return };
        let waited = oldest.sent_at.elapsed();
        if waited > self.plan.patience {
            oldest.connection.close();
        } else if waited > asked + GRACE {
            oldest.connection.overdue(oldest.sent_at, "Produce");
        }
    }

    /// The topic is gone, or the run ends.
    fn give_up(&mut self) {
        for lane in self.lanes.values_mut() {
            for call in lane.end_all() {
                self.client.context.witness.info(call, "given up");
            }
        }
        self.client.hang_up();
    }
}

/// What a client gives the server beyond the time that a request names.
const GRACE: Duration = milliseconds(20_000);

fn make(client: &mut Client, plan: &ProducerPlan, stamp: Option<Stamp>) -> Made {
    let size = Size { records_max: plan.records_max, value_bytes_max: plan.value_bytes_max };
    client.context.factory.make(&mut client.random, size, stamp)
}
