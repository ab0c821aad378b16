//! Operators: they make the lasting topics, let others come and go, and look at everything.
//!
//! Owns: what an answer about topics may say. Must never: give up an order half-way without the
//! history knowing.

use std::rc::Rc;
use std::time::Duration;

use barrage_model::{PartitionId, PartitionKey, Retention};
use barrage_wire::{
    ErrorCode, MetadataRequest, Request, Response, TopicAlter, TopicCreate, TopicDelete,
    TopicDescribe, TopicDescription, TopicSummary,
};
use barrage_world::sim::Rng;
use barrage_world::{Instant, JoinHandle, sleep, spawn};

use super::client::{Client, Refusal, Topic, TopicPlan};
use super::consumer::{Consumer, ConsumerPlan, Reading};
use super::draw::{between, milliseconds, pick};
use super::producer::{Producer, ProducerPlan};
use super::witness::Bounds;

const PAUSE: Duration = milliseconds(15);
/// Every topic that comes and goes is there for about so long.
const PASSING_MS_MAX: u64 = 1_500;
const PARTITIONS_MAX: u64 = 4;

/// Makes a topic, however often that has to be tried.
pub(crate) async fn create(client: &mut Client, plan: &TopicPlan) -> Topic {
    let TopicPlan { ref name, partitions, retention, order } = *plan;
    let (of, kept) = (name.to_owned(), Some(retention));
    let request = TopicCreate { name: of, partitions, retention: kept, priorities: 1, order };
    let request = Request::TopicCreate(request);
    // An order whose outcome is unknown may have been carried out.
    let mut unknown = false;
    let summary = loop {
        let asked_at = Instant::now();
        match client.ask(&request, Duration::ZERO, created).await {
            Ok(summary) => break summary,
            Err(refusal) => match refusal.code() {
                Some(ErrorCode::TopicExists) if unknown => {
                    break found(client, name).await;
                }
                code => {
                    unknown |= code.is_none_or(ErrorCode::is_outcome_unknown);
                    if let Refusal::Error(error) = refusal {
                        client.judge(&error, asked_at, &format!("create {name}"));
                    }
                }
            },
        }
        sleep(PAUSE).await;
    };
    let witness = client.witness();
    if summary.retention != retention || (!unknown && summary.partitions != partitions) {
        witness.object(format!("{name} was ordered otherwise: {summary:?}"));
    }
    witness.topic(summary.topic, name, retention);
    if !unknown {
        // The answer says that every partition is open.
        witness.topic_open(summary.topic);
    }
    Topic { name: name.to_owned(), id: summary.topic, partitions: summary.partitions }
}

fn created(response: &Response<'_>) -> Option<TopicSummary> {
    match response {
        Response::TopicCreate(summary) | Response::TopicAlter(summary) => Some(summary.clone()),
        _ => None,
    }
}

/// A topic that exists, as soon as it can be described.
async fn found(client: &mut Client, name: &str) -> TopicSummary {
    let request = Request::TopicDescribe(TopicDescribe { name: name.to_owned() });
    loop {
        // Known to the catalog, its partitions perhaps not open yet.
        let may = |code| code == ErrorCode::UnknownTopic;
        let described = client.insist(&request, may, |response| match response {
            Response::TopicDescribe(description) => Some(description.summary.clone()),
            _ => None,
        });
        let summary = described.await;
        // A node that is behind still tells of the one of this name that was deleted before.
        if !client.context.witness.is_deleting(summary.topic) {
            return summary;
        }
        client.hang_up();
        sleep(PAUSE).await;
    }
}

/// Deletes a topic; nothing of it is missed from here on.
async fn delete(client: &mut Client, topic: &Topic, partitions: u32) {
    let witness = client.witness();
    witness.topic_deleting(topic.id, partitions);
    let request = Request::TopicDelete(TopicDelete { name: topic.name.clone() });
    let mut unknown = false;
    loop {
        let asked_at = Instant::now();
        let deleted = client.ask(&request, Duration::ZERO, |response| {
            matches!(response, Response::TopicDelete).then_some(())
        });
        match deleted.await {
            Ok(()) => return,
            Err(refusal) => match refusal.code() {
                Some(ErrorCode::UnknownTopic) if unknown => return,
                Some(ErrorCode::UnknownTopic) => {
                    // Whoever leads the catalog says so, and it knows everything.
                    let text = format!("{} deleted {} once: it was gone", client.name, topic.name);
                    return witness.object(text);
                }
                code => {
                    unknown |= code.is_none_or(ErrorCode::is_outcome_unknown);
                    if let Refusal::Error(error) = refusal {
                        client.judge(&error, asked_at, &format!("delete {}", topic.name));
                    }
                }
            },
        }
        sleep(PAUSE).await;
    }
}

/// Lets topics come and go, each with a producer and a consumer of its own.
pub(crate) async fn keep_passing(mut client: Client) {
    let mut number = 0;
    while !client.is_stopped() {
        // The same few names: a topic made again is another topic. An order that is carried out
        // late may be for the one before; then the names are not used any more.
        let name = match client.open_orders.get() {
            0 => format!("passing-{}", number % 2),
            open => format!("passing-{}-{open}", number % 2),
        };
        number += 1;
        let partitions = client.random.between(1, PARTITIONS_MAX) as u32;
        let plan = TopicPlan::open(name.clone(), partitions, Retention::UNLIMITED);
        let topic = create(&mut client, &plan).await;
        let workers = start_workers(&mut client, &topic);
        let mut most = topic.partitions;
        let until = Instant::now() + milliseconds(client.random.between(50, PASSING_MS_MAX));
        while Instant::now() < until && !client.is_stopped() {
            if client.random.one_in(6) && u64::from(most) < 2 * PARTITIONS_MAX {
                most += 1;
                grow(&mut client, &name, most).await;
            }
            sleep(milliseconds(20)).await;
        }
        delete(&mut client, &topic, most).await;
        for worker in workers {
            worker.await;
        }
        sleep(milliseconds(client.random.below(200))).await;
    }
}

fn start_workers(client: &mut Client, topic: &Topic) -> Vec<JoinHandle<()>> {
    let (context, name) = (Rc::clone(&client.context), client.name.as_str().to_owned());
    let own = |what: &str, random: &mut Rng| {
        Client::new(&format!("{name}-{what}-{}", topic.id.0), &context, random.fork())
    };
    let producer = own("producer", &mut client.random);
    let consumer = own("consumer", &mut client.random);
    let plan = ProducerPlan {
        topic: None,
        idempotent: true,
        window: client.random.between(1, 5) as usize,
        records_max: 5,
        value_bytes_max: 100,
        think_time: milliseconds(1)..=milliseconds(20),
        patience: milliseconds(2_000),
        timeout_ms: 1_000,
        repeat_one_in: 20,
        fence_one_in: 100,
        hang_up_one_in: 100,
        delay_one_in: None,
    };
    let reading = ConsumerPlan {
        reading: Reading::Start,
        bytes_max: 10_000,
        bytes_min: 1,
        wait_ms: 100,
        think_time: milliseconds(1)..=milliseconds(50),
    };
    let (to, from) = (topic.clone(), topic.clone());
    vec![
        spawn(async move { drop(Producer::new(producer, plan, to).run().await) }),
        spawn(async move { drop(Consumer::new(consumer, reading).run(&from).await) }),
    ]
}

/// Orders more partitions; an unknown outcome is looked up.
async fn grow(client: &mut Client, name: &str, partitions: u32) {
    let name = name.to_owned();
    let request = TopicAlter { name, partitions: Some(partitions), retention: None };
    let request = Request::TopicAlter(request);
    let summary = client.insist(&request, |_| false, created).await;
    if summary.partitions != partitions {
        let text = format!("{partitions} partitions were ordered: {summary:?}");
        client.context.witness.object(text);
    }
}

/// Looks at everything, now and then.
pub(crate) async fn inspect(mut client: Client, topics: Vec<Topic>) {
    while !client.is_stopped() {
        let pause = milliseconds(20)..=milliseconds(300);
        sleep(between(&mut client.random, &pause)).await;
        let topic = pick(&mut client.random, &topics).clone();
        match client.random.below(6) {
            0 => stats(&mut client).await,
            1 => list(&mut client, &topics).await,
            2 => metadata(&mut client, &topic).await,
            3 => {
                let pong =
                    |response: &Response<'_>| matches!(response, Response::Ping).then_some(());
                client.insist(&Request::Ping, |_| false, pong).await;
            }
            _ => describe(&mut client, &topic).await,
        }
    }
    client.hang_up();
}

async fn describe(client: &mut Client, topic: &Topic) {
    let witness = client.witness();
    let keys: Vec<PartitionKey> = (0..topic.partitions).map(|number| topic.key(number)).collect();
    let before: Vec<Bounds> = keys.iter().map(|key| witness.bounds(*key)).collect();
    let request = Request::TopicDescribe(TopicDescribe { name: topic.name.clone() });
    let asked_at = Instant::now();
    let described = client.ask(&request, Duration::ZERO, |response| match response {
        Response::TopicDescribe(description) => Some(description.clone()),
        _ => None,
    });
    let described: TopicDescription = match described.await {
        Ok(described) => described,
        Err(Refusal::Lost) => return,
        Err(Refusal::Error(error)) => {
            // While a process ends its partitions are closed one after the other.
            let ending =
                error.code == ErrorCode::UnknownTopic && witness.disturbances.may_end(asked_at);
            if !ending {
                client.judge(&error, asked_at, &format!("describe {}", topic.name));
            }
            return;
        }
    };
    if described.summary.topic != topic.id || described.partitions.len() != keys.len() {
        witness.object(format!("{topic:?} is described as {described:?}"));
        return;
    }
    for ((key, before), partition) in keys.into_iter().zip(before).zip(described.partitions) {
        let told =
            Bounds { start: partition.start_offset.0, high_watermark: partition.high_watermark.0 };
        witness.saw_bounds(key, told, before);
    }
}

async fn stats(client: &mut Client) {
    let request = Request::Stats;
    let may = |code| code == ErrorCode::QueueFull;
    let reply = client.insist(&request, may, |response| match response {
        Response::Stats(reply) => Some((reply.cores.len(), reply.shards.len())),
        _ => None,
    });
    let (cores, shards) = reply.await;
    if cores == 0 || (shards == 0 && !client.context.follows) {
        client.context.witness.object(format!("a node of {cores} cores, {shards} shards"));
    }
}

async fn list(client: &mut Client, topics: &[Topic]) {
    let reply = client.insist(
        &Request::TopicList,
        |_| false,
        |response| match response {
            Response::TopicList(reply) => {
                Some(reply.topics.iter().map(|topic| (topic.name.clone(), topic.topic)).collect())
            }
            _ => None,
        },
    );
    let known: Vec<(String, barrage_model::TopicId)> = reply.await;
    for topic in topics {
        if !client.may_be_behind()
            && !known.iter().any(|(name, id)| *name == topic.name && *id == topic.id)
        {
            client.context.witness.object(format!("{topic:?} is not listed: {known:?}"));
        }
    }
}

async fn metadata(client: &mut Client, topic: &Topic) {
    let unknown = "nobody-made-this".to_owned();
    let topics = vec![topic.name.clone(), unknown];
    let request = Request::Metadata(MetadataRequest { topics });
    let rows = client.insist(
        &request,
        |_| false,
        |response| match response {
            Response::Metadata(reply) => Some(reply.topics.clone()),
            _ => None,
        },
    );
    let rows = rows.await;
    let known = rows.first().is_some_and(|row| row.error == 0 && row.topic == topic.id);
    let partitions = rows.first().map_or(0, |row| row.partitions.len());
    let numbered = rows.first().is_some_and(|row| {
        row.partitions.iter().zip(0_u32..).all(|(it, number)| it.partition == PartitionId(number))
    });
    let refused = rows.get(1).is_some_and(|row| row.error != 0);
    let wrong = !known || !numbered || !refused || partitions != topic.partitions as usize;
    if wrong && !client.may_be_behind() {
        client.context.witness.object(format!("{topic:?} is told as {rows:?}"));
    }
}
