//! A process that loads servers: one of several of a run, or of several machines.
//!
//! Owns: its threads, and talking to who started it. Must never: begin before it is told, or
//! outlive who waits for it.
//! Invariants: what it did is in its log before it says that it is done.

mod clock;
mod consumer;
pub(crate) mod dues;
mod engine;
mod link;
mod producer;
mod signals;
mod source;
mod stock;
pub(crate) mod task;

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, BufRead as _, Write as _};
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::{Duration, SystemTime};

use anyhow::{Context as _, Result, anyhow, bail};
use barrage_model::{PartitionId, PartitionKey, TopicId};

use crate::affinity::CoreList;
use crate::client::clock::Clock;
use crate::client::consumer::{Consumer, Wish};
use crate::client::engine::{Did, Engine};
use crate::client::producer::Producer;
use crate::client::signals::Signals;
use crate::client::stock::Stock;
use crate::client::task::{Task, Topic, Totals, Word};
use crate::hlog;
use crate::merge::{END_TO_END, PUBLISH};
use crate::workload::keys::{KeySet, Keys};

/// How often the threads are looked at.
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// Does a task; orders come on stdin, words go to stdout.
pub(crate) fn run(file: &Path) -> Result<()> {
    let text = fs::read_to_string(file)?;
    let task: Task = serde_json::from_str(&text).context("a task that cannot be read")?;
    let cores: CoreList = task.cores.parse()?;
    let signals = Arc::new(Signals::new(Clock::now(), cores.count()));
    let engines = engines(&task, &cores, &signals)?;
    let threads: Vec<_> = engines
        .into_iter()
        .map(|engine| {
            thread::Builder::new().name(format!("load-{}", engine.number)).spawn(|| engine.run())
        })
        .collect::<Result<_, _>>()?;
    say(Word::Ready)?;
    let orders = Arc::clone(&signals);
    thread::Builder::new().name("orders".to_owned()).spawn(move || listen(&orders))?;
    let watched = watch(&task, &signals, &threads);
    if watched.is_err() {
        signals.give_up();
    }
    let dids = join(threads)?;
    watched?;
    let totals = finish(&task, &signals, dids)?;
    say(Word::Done(totals))
}

/// Says a word to who started this process.
fn say(word: Word) -> Result<()> {
    let mut line = serde_json::to_string(&word)?;
    line.push('\n');
    let mut stdout = io::stdout().lock();
    stdout.write_all(line.as_bytes())?;
    stdout.flush().context("nobody listens")
}

/// Takes orders until nobody gives any more.
fn listen(signals: &Signals) {
    for line in io::stdin().lock().lines() {
        match line.ok().and_then(|line| serde_json::from_str(&line).ok()) {
            Some(order) => signals.take(order),
            None => break,
        }
    }
    signals.give_up();
}

/// Says what threads have come to, until all have ended.
fn watch(task: &Task, signals: &Signals, threads: &[JoinHandle<Result<Did>>]) -> Result<()> {
    let mut built = task.backlog.is_none();
    let mut caught_up = task.backlog.is_none();
    let mut produced = false;
    while threads.iter().any(|thread| !thread.is_finished()) {
        // One that ends before the others have produced has failed.
        if !produced && threads.iter().any(JoinHandle::is_finished) {
            signals.give_up();
        }
        if let Some(backlog) = &task.backlog {
            if !built && signals.published() >= backlog.records && signals.start().is_some() {
                built = true;
                say(Word::Built)?;
            }
            let resumed = signals.resume().is_some_and(|at| at <= std::time::Instant::now());
            if !caught_up && resumed && signals.behind() <= backlog.rest {
                caught_up = true;
                say(Word::CaughtUp)?;
            }
        }
        if !produced && signals.all_produced() {
            produced = true;
            say(Word::Produced)?;
        }
        thread::sleep(LOOK_EVERY);
    }
    Ok(())
}

/// What each thread did; the first error is told, and not that others were given up for it.
fn join(threads: Vec<JoinHandle<Result<Did>>>) -> Result<Vec<Did>> {
    let mut dids = Vec::new();
    let mut errors = Vec::new();
    for thread in threads {
        match thread.join() {
            Ok(Ok(did)) => dids.push(did),
            Ok(Err(error)) => errors.push(error),
            Err(_) => errors.push(anyhow!("a load thread panicked")),
        }
    }
    errors.sort_by_key(|error| error.to_string() == "given up");
    match errors.into_iter().next() {
        Some(error) => Err(error),
        None => Ok(dids),
    }
}

/// Adds up what the threads did, and writes the log.
fn finish(task: &Task, signals: &Signals, dids: Vec<Did>) -> Result<Totals> {
    let mut dids = dids.into_iter();
    let Some(mut sum) = dids.next() else { bail!("a client without threads") };
    for did in dids {
        sum.publish.add(&did.publish);
        sum.consume.add(&did.consume);
        sum.totals.add(&did.totals);
    }
    sum.publish.complete();
    sum.consume.complete();
    let start = signals.clock().since_1970(sum.publish.window().start);
    let mut meters = vec![(PUBLISH, &sum.publish), (END_TO_END, &sum.consume)];
    meters.retain(|(name, _)| match *name {
        PUBLISH => !task.producers.is_empty(),
        _ => !task.consumers.is_empty(),
    });
    hlog::write(&task.log, &task.about, SystemTime::UNIX_EPOCH + start, &meters)?;
    Ok(sum.totals)
}

/// Connects everything, and deals it out to a thread for each core.
fn engines(task: &Task, cores: &CoreList, signals: &Arc<Signals>) -> Result<Vec<Engine>> {
    let values = task.sending.payload.values(task.sending.record_size).map_err(|e| anyhow!(e))?;
    let timestamp_ms = source::now_ms()?;
    let keyed = task.sending.keys != Keys::None;
    let partitions = task.topics.first().map_or(0, |topic| topic.leaders.len());
    let keys = keyed.then(|| KeySet::new(partitions));
    let mut engines = Vec::new();
    for number in 0..cores.count() {
        engines.push(Engine {
            number,
            core: cores.nth(number),
            signals: Arc::clone(signals),
            producers: Vec::new(),
            consumers: Vec::new(),
            stock: Stock::make(values.clone(), keys.clone(), task.sending.batch, timestamp_ms)?,
            sending: task.sending.clone(),
            warm_up: task.warm_up,
            pauses: task.backlog.is_some(),
        });
    }
    let batch_size = engines.first().map_or(0, |engine| engine.stock.size());
    let count = engines.len();
    for (index, producer) in task.producers.iter().enumerate() {
        let topic = task.topics.get(producer.topic).context("no such topic")?;
        let connected =
            Producer::connect(producer.number, &topic.keys(), &task.sending, batch_size)?;
        let engine = engines.get_mut(index % count).context("no thread")?;
        engine.producers.push(connected);
    }
    let wish = Wish {
        fetch_bytes: task.fetch_bytes,
        record_size: task.sending.record_size as u64,
        spacing: (!keyed).then_some(task.sending.spacing),
    };
    let mut index = 0;
    for consumer in &task.consumers {
        let topic = task.topics.get(consumer.topic).context("no such topic")?;
        for (address, keys) in topic.by_leader(&consumer.partitions) {
            for connected in Consumer::connect(address, &keys, wish)? {
                let engine = engines.get_mut(index % count).context("no thread")?;
                engine.consumers.push(connected);
                index += 1;
            }
        }
    }
    Ok(engines)
}

impl Topic {
    /// Its partitions, each with who leads it.
    fn keys(&self) -> Vec<(PartitionKey, SocketAddr)> {
        let topic = TopicId(self.id);
        let key = |(partition, address): (u32, &SocketAddr)| {
            (PartitionKey { topic, partition: PartitionId(partition) }, *address)
        };
        (0..).zip(&self.leaders).map(key).collect()
    }

    /// Some of its partitions, by who leads them.
    fn by_leader(&self, partitions: &[u32]) -> BTreeMap<SocketAddr, Vec<PartitionKey>> {
        let mut by_leader: BTreeMap<SocketAddr, Vec<PartitionKey>> = BTreeMap::new();
        for (key, address) in self.keys() {
            if partitions.contains(&key.partition.0) {
                by_leader.entry(address).or_default().push(key);
            }
        }
        by_leader
    }
}

#[cfg(test)]
mod tests;
