//! Producers that want the same topic, whose order is global: they claim it, write for a while, go
//! with or without a word, take it over from each other, and go on writing when they have lost it.
//!
//! Owns: who claims when, and what each of them writes. Must never: use an id again that lost the
//! topic, except to show that it is refused.

use std::cell::Cell;
use std::rc::Rc;
use std::time::Duration;

use barrage_model::{PartitionKey, ProducerEpoch, ProducerId, Sequence};
use barrage_wire::{Acks, ClaimKind, ErrorCode, ProduceRequest, ProducerClaim, Request, Response};
use barrage_world::sim::Rng;
use barrage_world::{Instant, sleep};

use super::batch::{Made, Size};
use super::client::{Client, Refusal, Topic};
use super::draw::{between, milliseconds, pick};
use super::witness::Sent;
use crate::history::{Call, Claiming, Identity, SendBatch, Stamp};

/// The longest session: longer than any run.
const LONG_SESSION_MS: u32 = 30 * 60 * 1_000;
const RETRY_AFTER: Duration = milliseconds(15);
const SIZE: Size = Size { records_max: 6, value_bytes_max: 200 };
const TIMEOUT_MS: u32 = 2_000;
/// What is tried after the topic is lost.
const HAUNTS: u64 = 2;

/// How one of them behaves.
#[derive(Clone, Debug)]
pub(crate) struct RivalPlan {
    session_ms: u32,
    /// Takes over, once in so many claims.
    take_over_one_in: u64,
    batches_max: u64,
    /// Between two batches: now and then longer than a session.
    pause_ms_max: u64,
    /// Says that it goes, once in so many.
    release_one_in: u64,
}

impl RivalPlan {
    /// A few of them; their sessions are all short, or never over.
    pub(crate) fn draw_some(random: &mut Rng) -> Vec<Self> {
        let session_ms = *pick(random, &[6_000, LONG_SESSION_MS]);
        let draw = |random: &mut Rng| Self {
            session_ms,
            take_over_one_in: *pick(random, &[2, 4]),
            batches_max: *pick(random, &[1, 5, 30]),
            pause_ms_max: *pick(random, &[10, 100, 1_000]),
            release_one_in: *pick(random, &[1, 2, 5]),
        };
        (0..random.between(2, 3)).map(|_| draw(random)).collect()
    }
}

/// What all of them know together: whether anybody else may have the topic.
#[derive(Default)]
pub(crate) struct Contest {
    /// Claims that were begun.
    begun: Cell<u64>,
    /// Claims that may yet take effect.
    open: Cell<u64>,
}

/// One of them.
pub(crate) struct Rival {
    client: Client,
    plan: RivalPlan,
    key: PartitionKey,
    contest: Rc<Contest>,
}

impl Contest {
    /// A claim is begun; its number.
    fn begin(&self) -> u64 {
        self.open.set(self.open.get() + 1);
        self.begun.set(self.begun.get() + 1);
        self.begun.get()
    }

    /// A claim is over: it took effect, or never will.
    fn end(&self) {
        self.open.set(self.open.get() - 1);
    }

    /// Whether no claim was begun behind this one, and none may take effect.
    fn is_last(&self, number: u64) -> bool {
        self.begun.get() == number && self.open.get() == 0
    }
}

/// Whoever has been told that it holds the topic.
struct Tenure {
    producer: ProducerId,
    next: Sequence,
    /// Nobody else can have it as long as its claim of this number is the last.
    sure: Option<u64>,
    is_over: bool,
}

impl Rival {
    pub(crate) fn new(
        client: Client,
        plan: RivalPlan,
        topic: &Topic,
        contest: &Rc<Contest>,
    ) -> Self {
        Self { client, plan, key: topic.key(0), contest: Rc::clone(contest) }
    }

    /// Claims and writes until it is told to stop.
    pub(crate) async fn run(mut self) {
        while !self.client.is_stopped() {
            let producer = self.identify().await;
            let one_in = self.plan.take_over_one_in;
            let kind = match self.client.random.one_in(one_in) {
                true => ClaimKind::TakeOver,
                false => ClaimKind::Hold,
            };
            let (number, granted) = self.claim(producer, kind).await;
            if granted == Some(true) {
                self.write(producer, number).await;
            }
            let pause = milliseconds(1)..=milliseconds(300);
            sleep(between(&mut self.client.random, &pause)).await;
        }
        self.client.hang_up();
    }

    async fn identify(&mut self) -> ProducerId {
        let told = |response: &Response<'_>| match response {
            Response::InitProducer(reply) => Some(reply.producer),
            _ => None,
        };
        let given = self.client.insist(&Request::InitProducer, |_| false, told).await;
        self.client.witness().producer_id(given);
        given
    }

    /// Claims once; the number of the claim, and whether it was granted, if that was told.
    async fn claim(&mut self, producer: ProducerId, kind: ClaimKind) -> (u64, Option<bool>) {
        let (witness, contest) = (self.client.witness(), Rc::clone(&self.contest));
        let how = match kind {
            ClaimKind::Hold => Claiming::Hold,
            ClaimKind::TakeOver => Claiming::TakeOver,
            ClaimKind::Release => Claiming::Release,
            ClaimKind::Keep => Claiming::Keep,
        };
        let (key, session_ms) = (self.key, self.plan.session_ms);
        let lasts = Duration::from_millis(u64::from(session_ms));
        let call = witness.claim(&self.client.name, key, (producer, how, lasts));
        let number = contest.begin();
        let claim = ProducerClaim { key, producer, kind, session_ms };
        let request = Request::ProducerClaim(claim);
        let asked_at = Instant::now();
        let asked = self.client.ask_leader(key, &request, Duration::ZERO, |response| {
            matches!(response, Response::ProducerClaim).then_some(())
        });
        let refusal = match asked.await {
            Ok(()) => {
                contest.end();
                witness.done(call);
                witness.count(|counts| counts.claimed += 1);
                return (number, Some(true));
            }
            Err(refusal) => refusal,
        };
        let code = refusal.code();
        witness.refused(call, code);
        if code.is_none_or(ErrorCode::is_outcome_unknown) {
            return (number, None);
        }
        contest.end();
        if code == Some(ErrorCode::ProducerHeld) {
            witness.count(|counts| counts.claims_refused += 1);
        }
        self.judge(&refusal, asked_at, "claim");
        (number, Some(false))
    }

    /// Writes for a while, and goes.
    async fn write(&mut self, producer: ProducerId, claim: u64) {
        let is_long = self.plan.session_ms == LONG_SESSION_MS;
        let sure = (is_long && self.contest.is_last(claim)).then_some(claim);
        let mut tenure = Tenure { producer, next: Sequence(0), sure, is_over: false };
        if self.client.random.one_in(4) {
            // Others may have it before the first record comes.
            let pause = milliseconds(100)..=milliseconds(8_000);
            sleep(between(&mut self.client.random, &pause)).await;
        }
        for _ in 0..self.client.random.between(1, self.plan.batches_max) {
            if self.client.is_stopped() || tenure.is_over {
                break;
            }
            self.send(&mut tenure).await;
            let pause = milliseconds(0)..=milliseconds(self.plan.pause_ms_max);
            sleep(between(&mut self.client.random, &pause)).await;
            if self.client.random.one_in(8) {
                let (number, _) = self.claim(producer, ClaimKind::Keep).await;
                // Its own claim lets nobody else in.
                let own = |sure| if sure + 1 == number { number } else { sure };
                tenure.sure = tenure.sure.map(own);
            }
        }
        if tenure.is_over {
            // What it had in hand when it lost the topic.
            for _ in 0..self.client.random.between(0, HAUNTS) {
                self.send(&mut tenure).await;
            }
            if self.client.random.one_in(2) {
                let kinds = [ClaimKind::Keep, ClaimKind::Hold, ClaimKind::TakeOver];
                let kind = *pick(&mut self.client.random, &kinds);
                self.claim(producer, kind).await;
            }
        } else if self.client.random.one_in(self.plan.release_one_in) {
            self.claim(producer, ClaimKind::Release).await;
        }
    }

    /// Sends a batch until it is stored, or refused for good.
    async fn send(&mut self, tenure: &mut Tenure) {
        let stamp =
            Stamp { producer: tenure.producer, epoch: ProducerEpoch(0), sequence: tenure.next };
        let made = self.client.context.factory.make(&mut self.client.random, SIZE, Some(stamp));
        while !self.client.is_stopped() {
            let (call, asked_at) = (self.invoke(&made, stamp), Instant::now());
            let request = Request::Produce(ProduceRequest {
                key: self.key,
                acks: Acks::Quorum,
                timeout_ms: TIMEOUT_MS,
                batch: &made.bytes,
            });
            let wait = Duration::from_millis(u64::from(TIMEOUT_MS));
            let asked =
                self.client.ask_leader(self.key, &request, wait, |response| match response {
                    Response::Produce(reply) => Some((reply.base_offset.0, reply.log_time_ms)),
                    _ => None,
                });
            let asked = asked.await;
            let witness = self.client.witness();
            match asked {
                Ok((base, log_time_ms)) => {
                    let (count, bytes) = (made.records.len() as u64, made.bytes.len() as u64);
                    witness.sent(call, self.key, Sent { base, count, bytes, log_time_ms });
                    tenure.next = tenure.next.wrapping_advance(made.records.len() as u32);
                    return;
                }
                Err(refusal) if refusal.code() == Some(ErrorCode::ProducerFenced) => {
                    witness.refused(call, refusal.code());
                    witness.count(|counts| counts.fenced += 1);
                    if tenure.sure.is_some_and(|sure| self.contest.is_last(sure)) {
                        let producer = tenure.producer;
                        witness.object(format!("I10: {producer} holds {}, refused", self.key));
                    }
                    tenure.is_over = true;
                    return;
                }
                Err(refusal) => {
                    witness.refused(call, refusal.code());
                    self.judge(&refusal, asked_at, "write to what it holds");
                }
            }
            sleep(RETRY_AFTER).await;
        }
    }

    fn invoke(&self, made: &Made, stamp: Stamp) -> Call {
        let records = made.records.clone();
        let bytes = made.bytes.len() as u64;
        self.client.context.witness.send(&self.client.name, self.key, bytes, |place| SendBatch {
            topic: place.topic,
            partition: Some(place.partition),
            identity: Identity::Stamped(stamp),
            connection: None,
            records,
            dues: Vec::new(),
        })
    }

    fn judge(&self, refusal: &Refusal, asked_at: Instant, what: &str) {
        let Refusal::Error(error) = refusal else { return };
        let may = match error.code {
            ErrorCode::ProducerHeld | ErrorCode::ProducerFenced => true,
            ErrorCode::UnknownPartition | ErrorCode::UnknownTopic => {
                self.client.witness().may_be_unknown(self.key)
            }
            _ => false,
        };
        if !may {
            self.client.judge(error, asked_at, what);
        }
    }
}
