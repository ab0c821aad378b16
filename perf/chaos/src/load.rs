//! The clients that go on whatever happens: producers and readers, on a thread of their own.
//!
//! Owns: their tasks and what went wrong with them. Must never: keep a record's bytes; go faster
//! than the rate. Invariants: every record differs from all others; a producer sends its records to
//! one partition in the order of its counter.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use anyhow::Context;
use barrage_client::{
    Client, ClientError, ClientOptions, ConsumerOptions, ErrorKind, Outcome, Producer,
    ProducerOptions, Record, Report,
};
use barrage_model::{Offset, PartitionId};
use barrage_sim::history::{Call, Fingerprint, Key, Name, SentRecord};
use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep};

use crate::reading;
use crate::recorder::{Ended, Recorder};

/// How often a producer sends.
const TICK: Duration = Duration::from_millis(10);
/// Before a client that could not begin tries again.
const RETRY_PAUSE: Duration = Duration::from_millis(200);
/// How long a reader's queue may be idle before it looks whether the run is over.
const LOOK_EVERY: Duration = Duration::from_millis(200);
/// Bytes of records without an outcome, per producer.
const BUFFER_SIZE_BYTES_MAX: usize = 8 << 20;

/// What the load is.
#[derive(Clone, Debug)]
pub(crate) struct Plan {
    pub(crate) servers: Vec<String>,
    pub(crate) topic: String,
    pub(crate) partitions: u32,
    pub(crate) producers: u32,
    pub(crate) readers: u32,
    /// Records per second, of all producers together.
    pub(crate) rate: u32,
    /// Bytes of a value.
    pub(crate) payload: usize,
}

/// What the tasks share.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) plan: Plan,
    pub(crate) recorder: Arc<Recorder>,
    is_over: AtomicBool,
    troubles: Mutex<Vec<String>>,
}

/// The running load.
#[derive(Debug)]
pub(crate) struct Load {
    shared: Arc<Shared>,
    thread: JoinHandle<()>,
}

impl Load {
    /// Starts it.
    pub(crate) fn start(plan: Plan, recorder: &Arc<Recorder>) -> anyhow::Result<Self> {
        let shared = Arc::new(Shared {
            plan,
            recorder: Arc::clone(recorder),
            is_over: AtomicBool::new(false),
            troubles: Mutex::new(Vec::new()),
        });
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let inside = Arc::clone(&shared);
        let thread = thread::Builder::new()
            .name("load".to_owned())
            .spawn(move || runtime.block_on(run(inside)))
            .context("start the load")?;
        Ok(Self { shared, thread })
    }

    /// Asks it to end; returns when every record sent has its outcome, with what clients met that
    /// no fault excuses.
    pub(crate) fn finish(self) -> Vec<String> {
        self.shared.is_over.store(true, Ordering::Release);
        if self.thread.join().is_err() {
            self.shared.trouble("the load panicked".to_owned());
        }
        self.shared.troubles()
    }
}

impl Shared {
    pub(crate) fn is_over(&self) -> bool {
        self.is_over.load(Ordering::Acquire)
    }

    fn trouble(&self, words: String) {
        self.troubles.lock().unwrap_or_else(PoisonError::into_inner).push(words);
    }

    fn troubles(&self) -> Vec<String> {
        std::mem::take(&mut *self.troubles.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// A client of its own, as soon as somebody answers; none when the run is over before.
    async fn connect(&self, name: &str) -> Option<Client> {
        while !self.is_over() {
            let options = ClientOptions {
                servers: self.plan.servers.clone(),
                client_name: format!("chaos {name}"),
                connect_timeout: Duration::from_secs(1),
                ..ClientOptions::default()
            };
            match Client::connect(options).await {
                Ok(client) => return Some(client),
                Err(_) => sleep(RETRY_PAUSE).await,
            }
        }
        None
    }
}

async fn run(shared: Arc<Shared>) {
    let mut tasks = JoinSet::new();
    for number in 0..shared.plan.producers {
        tasks.spawn(produce(Arc::clone(&shared), number));
    }
    for number in 0..shared.plan.readers {
        tasks.spawn(follow(Arc::clone(&shared), number));
    }
    while let Some(ended) = tasks.join_next().await {
        if let Err(error) = ended {
            shared.trouble(format!("a client panicked: {error}"));
        }
    }
}

/// One idempotent producer with a key of its own.
async fn produce(shared: Arc<Shared>, number: u32) {
    let name = format!("producer-{number}");
    let Some(producer) = open(&shared, &name).await else { return };
    let (client, key) = (Name::from(name.as_str()), format!("key-{number}"));
    let mut ticks = interval(TICK);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let began = Instant::now();
    let mut count = 0_u64;
    while !shared.is_over() {
        ticks.tick().await;
        let due = began.elapsed().as_millis() as u64 * u64::from(shared.plan.rate)
            / u64::from(shared.plan.producers)
            / 1_000;
        // What was missed while the buffer was full is not made up for.
        count = count.max(due.saturating_sub(u64::from(shared.plan.rate)));
        while count < due && !shared.is_over() {
            let partition = PartitionId((count % u64::from(shared.plan.partitions)) as u32);
            let value = value(number, count, shared.plan.payload);
            let record = SentRecord {
                fingerprint: Fingerprint::of(Some(key.as_bytes()), Some(&value)),
                key: Some(Key::of(key.as_bytes())),
            };
            let call = shared.recorder.send(&client, number, partition, record);
            let record = Record {
                partition: Some(partition),
                key: Some(key.as_bytes()),
                value: Some(&value),
                token: call.0,
                ..Record::default()
            };
            if let Err(error) = producer.send(record).await {
                shared.recorder.sent(call, Ended::Fail(error.to_string()));
                shared.trouble(format!("{name} could not send: {error}"));
                return;
            }
            count += 1;
        }
    }
    producer.close().await;
}

async fn open(shared: &Arc<Shared>, name: &str) -> Option<Producer> {
    let client = shared.connect(name).await?;
    loop {
        let recorder = Arc::clone(&shared.recorder);
        let on_report = Box::new(move |report: &Report<'_>| handle_report(&recorder, report));
        let options = ProducerOptions {
            buffer_bytes_max: BUFFER_SIZE_BYTES_MAX,
            ..ProducerOptions::default()
        };
        match Producer::with_reports(&client, &shared.plan.topic, options, on_report).await {
            Ok(producer) => return Some(producer),
            Err(_) if shared.is_over() => return None,
            Err(_) => sleep(RETRY_PAUSE).await,
        }
    }
}

fn handle_report(recorder: &Recorder, report: &Report<'_>) {
    for (at, token) in (0_u64..).zip(report.tokens) {
        let ended = match report.outcome {
            Outcome::Acked { base_offset } => Ended::Ok(Some(Offset(base_offset.0 + at))),
            // Durable on a majority, at an offset that nobody remembers.
            Outcome::Stored { .. } => Ended::Ok(None),
            Outcome::Failed { error } => Ended::Fail(error.to_string()),
            Outcome::Unknown { error } => Ended::Info(error.to_string()),
        };
        recorder.sent(Call(*token), ended);
    }
}

/// A value that nobody else sends.
fn value(producer: u32, count: u64, size: usize) -> Vec<u8> {
    let mut value = format!("{producer} {count} ").into_bytes();
    let seed = Fingerprint::of(None, Some(&value)).0.to_le_bytes();
    let filler = seed.iter().copied().cycle();
    let missing = size.saturating_sub(value.len());
    value.extend(filler.take(missing));
    value
}

/// A reader of every partition, from its start on; a new one when one had to give up.
async fn follow(shared: Arc<Shared>, number: u32) {
    for life in 0_u32.. {
        let name = format!("reader-{number}.{life}");
        let Some(client) = shared.connect(&name).await else { return };
        let consumer = client.consumer(&shared.plan.topic, ConsumerOptions::default()).await;
        let Ok(mut consumer) = consumer else {
            sleep(RETRY_PAUSE).await;
            if shared.is_over() {
                return;
            }
            continue;
        };
        let who = Name::from(name.as_str());
        loop {
            if shared.is_over() {
                return;
            }
            let Ok(next) = tokio::time::timeout(LOOK_EVERY, consumer.next_batch()).await else {
                continue;
            };
            let error = match next {
                Ok(Some(batch)) => reading::record(&shared.recorder, &who, &batch).err(),
                Ok(None) => return,
                Err(error) => Some(error),
            };
            let Some(error) = error else { continue };
            if !is_excused(&error) {
                shared.trouble(format!("{name} was shown what cannot be: {error}"));
            }
            break;
        }
    }
}

/// Whether a reader may be told so while nodes come and go.
pub(crate) fn is_excused(error: &ClientError) -> bool {
    error.kind() == ErrorKind::Unreachable || error.is_retriable()
}
