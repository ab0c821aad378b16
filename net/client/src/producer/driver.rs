//! The task that carries out what the core decides: finds connections, sends, hears replies.
//!
//! Owns: which connections and requests are being waited for. Must never: decide about order,
//! retries or outcomes; that is the core's. Must never have batches of one partition on the way
//! over two connections.
//!
//! When a partition turns out to be led elsewhere, what is on the way to the old leader is not
//! waited for: those attempts count as lost, and all goes to the new one, in order and with the
//! same sequences. What the old one still says about them is not heard; what it still writes, it
//! writes once: the sequence tells.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use barrage_model::PartitionId;
use barrage_wire::{Acks, ErrorCode, ErrorReply, Frame, InitProducerReply, Response};
use tokio::sync::mpsc;

use super::Shared;
use super::delivery::{OnReport, Report};
use super::lane::{BatchNumber, Identity, Reply, Transmission};
use crate::connection::{Connection, decode};
use crate::error::ClientError;
use crate::pause::about;

/// Everything that can wake the driver besides its timer and the senders.
#[derive(Debug)]
enum Event {
    /// A transmission over the partition's connection number `round` ended.
    Reply {
        partition: PartitionId,
        round: u64,
        number: BatchNumber,
        result: Result<Frame, ClientError>,
    },
    /// A connection for this partition was looked for.
    Connected { partition: PartitionId, result: Result<(), ClientError> },
    /// A producer id was asked for.
    Identity(Result<InitProducerReply, ClientError>),
    /// The topic's metadata was asked for.
    Refreshed(Result<(), ClientError>),
}

/// Events that may wait; tasks wait to send more.
const EVENTS_MAX: usize = 1024;
/// Pause after a failed attempt to connect or ask, before the driver hears of it.
const ATTEMPT_PAUSE: Duration = Duration::from_millis(100);
/// When a leader answers nothing for this long, other nodes are asked whether it still leads.
const IMPATIENCE: Duration = Duration::from_secs(1);

/// One partition's batches on their way.
#[derive(Debug)]
struct Sending {
    connection: Connection,
    /// Counts the connections that this partition had: tells late replies from those waited for.
    round: u64,
    in_flight: Vec<BatchNumber>,
    /// Since when nothing was answered; meaningless while nothing is in flight.
    silent_since: Duration,
}

/// See the module.
pub(crate) struct Driver {
    shared: Arc<Shared>,
    acks: Acks,
    on_report: Option<OnReport>,
    events: mpsc::Receiver<Event>,
    event_sender: mpsc::Sender<Event>,
    sending: BTreeMap<PartitionId, Sending>,
    connecting: HashSet<PartitionId>,
    asking_identity: bool,
    refreshing: bool,
}

impl Driver {
    pub(crate) fn new(shared: Arc<Shared>, acks: Acks, on_report: Option<OnReport>) -> Self {
        let (event_sender, events) = mpsc::channel(EVENTS_MAX);
        Self {
            shared,
            acks,
            on_report,
            events,
            event_sender,
            sending: BTreeMap::new(),
            connecting: HashSet::new(),
            asking_identity: false,
            refreshing: false,
        }
    }

    /// Runs until the producer is closed and idle; dropping the future abandons what is left.
    pub(crate) async fn run(mut self) {
        loop {
            let deadline = self.step();
            if self.shared.is_finished() {
                return;
            }
            let far = self.shared.now() + Duration::from_secs(3600);
            let until = self.shared.started + deadline.unwrap_or(far);
            tokio::select! {
                event = self.events.recv() => self.handle_events(event),
                () = self.shared.wake.notified() => {}
                () = tokio::time::sleep_until(until) => {}
            }
        }
    }

    /// Does all that can be done now; says when time alone gives more to do.
    fn step(&mut self) -> Option<Duration> {
        let now = self.shared.now();
        let ready = {
            let mut core = self.shared.core();
            core.handle_time(now);
            core.ready(now)
        };
        for partition in ready {
            self.send_from(partition, now);
        }
        // Asked last: a lane that resets finds out while it looks for something to send.
        if !self.asking_identity && self.shared.core().wants_identity() {
            self.ask_identity();
        }
        self.report();
        let deadline = self.shared.core().deadline(now);
        [deadline, self.look_around(now)].into_iter().flatten().min()
    }

    /// Asks other nodes about leaders that are silent; says when to do so next.
    fn look_around(&mut self, now: Duration) -> Option<Duration> {
        let waiting = self.sending.values_mut().filter(|sending| !sending.in_flight.is_empty());
        let oldest = waiting.min_by_key(|sending| sending.silent_since)?;
        if now < oldest.silent_since + IMPATIENCE {
            return Some(oldest.silent_since + IMPATIENCE);
        }
        // Asked once, not again before as long a time has passed.
        let server = oldest.connection.server().to_owned();
        for sending in self.sending.values_mut() {
            sending.silent_since = sending.silent_since.max(now);
        }
        if self.shared.routes.client().pool().servers().len() > 1 {
            self.refresh(server);
        }
        Some(now + IMPATIENCE)
    }

    fn handle_events(&mut self, first: Option<Event>) {
        let mut next = first;
        while let Some(event) = next {
            self.handle(event);
            next = self.events.try_recv().ok();
        }
    }

    fn handle(&mut self, event: Event) {
        let now = self.shared.now();
        match event {
            Event::Reply { partition, round, number, result } => {
                self.handle_reply(now, partition, (round, number), result);
            }
            Event::Connected { partition, result } => {
                self.connecting.remove(&partition);
                if let Err(error) = result {
                    self.shared.core().handle_unreachable(partition, &error);
                    self.end_if_gone(&error);
                }
            }
            Event::Identity(result) => {
                self.asking_identity = false;
                let mut core = self.shared.core();
                match result {
                    Ok(InitProducerReply { producer, epoch }) => {
                        core.handle_identity(Identity { id: producer, epoch });
                    }
                    Err(error) => core.handle_identity_refused(&error),
                }
            }
            Event::Refreshed(result) => {
                self.refreshing = false;
                match result {
                    Ok(()) => self.leave_old_leaders(now),
                    Err(error) => self.end_if_gone(&error),
                }
            }
        }
    }

    fn handle_reply(
        &mut self,
        now: Duration,
        partition: PartitionId,
        (round, number): (u64, BatchNumber),
        result: Result<Frame, ClientError>,
    ) {
        let Some(sending) = self.sending.get_mut(&partition) else { return };
        if sending.round != round {
            // The core was told that this attempt is lost.
            return;
        }
        sending.in_flight.retain(|waited| *waited != number);
        sending.silent_since = now;
        let server = sending.connection.server().to_owned();
        let reply = reply_of(&server, result);
        let ask_others = error_of(&reply)
            .is_some_and(|error| self.shared.routes.handle_error(partition, &server, error));
        let failed = error_of(&reply).is_some();
        let lost = error_of(&reply)
            .filter(|error| error.code() == Some(ErrorCode::ProducerFenced))
            .filter(|_| self.shared.hold.is_some())
            .cloned();
        self.shared.core().handle_reply(now, partition, number, reply);
        if let Some(error) = lost {
            // Another producer has the topic: what waits here must not come behind its records.
            self.shared.core().handle_ended(now, &error);
        }
        if failed && self.is_led_elsewhere(partition) {
            self.leave(partition, now);
        }
        if ask_others {
            self.refresh(server);
        }
    }

    /// Puts all that may go to `partition` now on its connection, or looks for one.
    fn send_from(&mut self, partition: PartitionId, now: Duration) {
        let Some(connection) = self.shared.routes.live(partition) else {
            if self.connecting.insert(partition) {
                self.connect(partition);
            }
            return;
        };
        if !self.turn_to(partition, connection, now) {
            return;
        }
        let Some(sending) = self.sending.get_mut(&partition) else { return };
        let key = self.shared.routes.key(partition);
        loop {
            let Some(Transmission { partition, number, bytes, delay }) =
                self.shared.core().poll_transmit(now, partition)
            else {
                return;
            };
            match sending.connection.start_produce(key, self.acks, delay, bytes) {
                Ok(call) => {
                    if sending.in_flight.is_empty() {
                        sending.silent_since = now;
                    }
                    sending.in_flight.push(number);
                    let (events, round) = (self.event_sender.clone(), sending.round);
                    tokio::spawn(async move {
                        let result = call.answer().await;
                        drop(events.send(Event::Reply { partition, round, number, result }).await);
                    });
                }
                Err(error) => {
                    let reply = Reply::Retry { certain: true, after: None, error };
                    self.shared.core().handle_reply(now, partition, number, reply);
                    return;
                }
            }
        }
    }

    /// Makes `connection` the partition's; false when something was on its way over another one
    /// and now waits to be sent again.
    fn turn_to(&mut self, partition: PartitionId, connection: Connection, now: Duration) -> bool {
        let round = match self.sending.get(&partition) {
            Some(sending) if sending.connection.is(&connection) => return true,
            Some(sending) => sending.round + 1,
            None => 0,
        };
        let left = self.leave(partition, now);
        let sending = Sending { connection, round, in_flight: Vec::new(), silent_since: now };
        self.sending.insert(partition, sending);
        !left
    }

    /// Waits no longer for leaders that were replaced.
    fn leave_old_leaders(&mut self, now: Duration) {
        let partitions = self.sending.keys().copied();
        let old: Vec<_> =
            partitions.filter(|partition| self.is_led_elsewhere(*partition)).collect();
        for partition in old {
            self.leave(partition, now);
        }
    }

    /// Something of the partition is on its way to a node that does not lead it any more.
    fn is_led_elsewhere(&self, partition: PartitionId) -> bool {
        self.sending.get(&partition).is_some_and(|sending| {
            !sending.in_flight.is_empty()
                && self.shared.routes.is_led_elsewhere(partition, &sending.connection)
        })
    }

    /// What is on its way for the partition counts as lost. True when there was something.
    fn leave(&mut self, partition: PartitionId, now: Duration) -> bool {
        let Some(sending) = self.sending.get_mut(&partition) else { return false };
        sending.round += 1;
        let lost = std::mem::take(&mut sending.in_flight);
        let server = sending.connection.server().to_owned();
        let error = ClientError::Disconnected { server, cause: "led elsewhere now".to_owned() };
        let mut core = self.shared.core();
        for number in &lost {
            let error = error.clone();
            let reply = Reply::Retry { certain: false, after: None, error };
            core.handle_reply(now, partition, *number, reply);
        }
        !lost.is_empty()
    }

    fn connect(&self, partition: PartitionId) {
        let (events, shared) = (self.event_sender.clone(), Arc::clone(&self.shared));
        tokio::spawn(async move {
            let result = shared.routes.connect(partition).await.map(drop);
            pause_if_failed(&result).await;
            drop(events.send(Event::Connected { partition, result }).await);
        });
    }

    fn ask_identity(&mut self) {
        if self.shared.hold.is_some() {
            // All epochs of the id that holds the topic are used up: it goes as one that is lost.
            let words = "the id that holds the topic is used up: open another producer";
            let error = ErrorReply::new(ErrorCode::UnknownProducer, words);
            let error = ClientError::Refused(error);
            return self.shared.core().handle_ended(self.shared.now(), &error);
        }
        self.asking_identity = true;
        let (events, shared) = (self.event_sender.clone(), Arc::clone(&self.shared));
        tokio::spawn(async move {
            let result = shared.routes.client().init_producer().await;
            pause_if_failed(&result).await;
            drop(events.send(Event::Identity(result)).await);
        });
    }

    /// Asks for the metadata, another server than this if there is one.
    fn refresh(&mut self, except: String) {
        if self.refreshing {
            return;
        }
        self.refreshing = true;
        let (events, shared) = (self.event_sender.clone(), Arc::clone(&self.shared));
        tokio::spawn(async move {
            let result = shared.routes.refresh(Some(&except)).await;
            pause_if_failed(&result).await;
            drop(events.send(Event::Refreshed(result)).await);
        });
    }

    fn end_if_gone(&self, error: &ClientError) {
        let gone = error.code() == Some(ErrorCode::UnknownTopic)
            || matches!(error, ClientError::TopicReplaced { .. });
        if gone {
            self.shared.core().handle_ended(self.shared.now(), error);
        }
    }

    /// Tells everyone whose batch has its outcome.
    fn report(&mut self) {
        let mut any = false;
        loop {
            // Not held while user code runs.
            let Some(completed) = self.shared.core().poll_completed() else { break };
            any = true;
            completed.waiting.settle(&completed.outcome);
            if let Some(on_report) = &mut self.on_report {
                on_report(&Report {
                    partition: completed.partition,
                    record_count: completed.record_count,
                    tokens: &completed.waiting.tokens,
                    latency: completed.at.saturating_sub(completed.created),
                    outcome: &completed.outcome,
                });
            }
        }
        if any {
            self.shared.space.notify_waiters();
        }
    }
}

async fn pause_if_failed<T>(result: &Result<T, ClientError>) {
    if result.is_err() {
        tokio::time::sleep(about(ATTEMPT_PAUSE)).await;
    }
}

/// What the answer to a Produce means. The one place where codes become the core's words.
fn reply_of(server: &str, result: Result<Frame, ClientError>) -> Reply {
    let decoded = result.and_then(|frame| match decode(server, &frame)? {
        Response::Produce(reply) | Response::ProduceDelayed(reply) => Ok(reply),
        _ => Err(ClientError::Protocol {
            server: server.to_owned(),
            cause: "an answer to another question".to_owned(),
        }),
    });
    let error = match decoded {
        Ok(reply) => return Reply::Acked { base_offset: reply.base_offset },
        Err(error) => error,
    };
    let after = error.retry_after();
    match error.code() {
        // The connection broke, or what came over it was no answer.
        None => Reply::Retry { certain: false, after, error },
        Some(ErrorCode::OutOfOrderSequence) => Reply::OutOfOrder { error },
        Some(ErrorCode::UnknownProducer) => Reply::UnknownProducer { error },
        Some(ErrorCode::DuplicateSequence | ErrorCode::NotOnAll) => Reply::Forgotten { error },
        // Perhaps the partition is only not open yet; fresh metadata tells whether it is gone.
        Some(ErrorCode::UnknownTopic | ErrorCode::UnknownPartition) => {
            Reply::Retry { certain: true, after, error }
        }
        Some(code) if code.is_retriable() => {
            Reply::Retry { certain: error.is_surely_without_effect(), after, error }
        }
        Some(ErrorCode::Internal | ErrorCode::Unknown(_)) => {
            Reply::Rejected { certain: false, error }
        }
        Some(_) => Reply::Rejected { certain: true, error },
    }
}

fn error_of(reply: &Reply) -> Option<&ClientError> {
    match reply {
        Reply::Acked { .. } => None,
        Reply::Retry { error, .. }
        | Reply::OutOfOrder { error }
        | Reply::UnknownProducer { error }
        | Reply::Rejected { error, .. }
        | Reply::Forgotten { error } => Some(error),
    }
}
