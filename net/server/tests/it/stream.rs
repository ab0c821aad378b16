//! Stream groups through the SDK: shared by members that come and go, committed, fenced, reset.

use std::collections::BTreeSet;
use std::time::Duration;

use barrage_client::stream::{GroupState, StreamConsumer};
use barrage_client::{
    Client, ClientError, ClientOptions, ErrorKind, From, ProducerOptions, QueueOptions, Record,
    StreamOptions,
};
use barrage_model::{Offset, QueueSettings};
use barrage_wire::{ErrorCode, Standing};
use tokio::time::timeout;

use crate::node::{Home, Node};

const MOMENT: Duration = Duration::from_millis(200);
/// As long as anything may take on a busy machine.
const LONG: Duration = Duration::from_secs(60);

fn with_node(cores: &str, story: impl AsyncFnOnce(Client)) {
    let home = Home::new();
    let node = Node::start(&home, &["--cores", cores]);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        story(Client::connect(ClientOptions::server(node.address())).await.unwrap()).await;
    });
    assert_eq!(node.stop(), Some(0));
}

fn options() -> StreamOptions {
    let (session, commit_every) = (Duration::from_secs(6), Some(MOMENT));
    StreamOptions { session, commit_every, ..StreamOptions::default() }
}

async fn open(client: &Client, topics: &[&str]) -> StreamConsumer {
    client.stream(topics, "billing", options()).await.unwrap()
}

async fn produce(client: &Client, topic: &str, values: std::ops::Range<u32>) {
    let producer = client.producer(topic, ProducerOptions::default()).await.unwrap();
    for value in values {
        let (key, value) = ((value % 64).to_string(), value.to_string());
        let (key, value) = (Some(key.as_bytes()), Some(value.as_bytes()));
        producer.send(Record { key, value, ..Record::default() }).await.unwrap();
    }
    producer.close().await;
}

/// Reads for a moment; answers whether anything came.
async fn read(consumer: &mut StreamConsumer, values: &mut Vec<u32>) -> bool {
    match timeout(MOMENT, consumer.next()).await {
        Err(_) => false,
        Ok(record) => {
            let value = record.unwrap().record.value.unwrap();
            values.push(std::str::from_utf8(&value).unwrap().parse().unwrap());
            true
        }
    }
}

/// Lets all members read until `is_enough`; what they read is in `values`.
async fn read_until(
    members: &mut [&mut StreamConsumer],
    values: &mut Vec<u32>,
    is_enough: impl Fn(&[&mut StreamConsumer], &[u32]) -> bool,
) {
    let reading = async {
        while !is_enough(members, values) {
            for member in members.iter_mut() {
                while read(member, values).await {}
            }
        }
    };
    timeout(LONG, reading).await.expect("it takes too long");
}

fn has_all(values: &[u32], wanted: std::ops::Range<u32>) -> bool {
    let values: BTreeSet<u32> = values.iter().copied().collect();
    wanted.into_iter().all(|value| values.contains(&value))
}

async fn describe(client: &Client, topic: &str) -> GroupState {
    client.stream_group(topic, "billing").await.unwrap().describe().await.unwrap()
}

fn lag(state: &GroupState) -> u64 {
    state.partitions.iter().map(|partition| partition.lag).sum()
}

/// Two members share the partitions; what one that leaves had the other has, and what one that is
/// dropped had somebody has once its session is over. Nothing is skipped, and where everything was
/// committed before nothing comes twice.
#[test]
fn members_come_and_go_and_nothing_is_skipped() {
    with_node("2", async |client| {
        client.create_topic("orders", 4, None).await.unwrap();
        client.create_stream_group("orders", "billing").await.unwrap();
        produce(&client, "orders", 0..200).await;
        let mut values = Vec::new();
        let mut one = open(&client, &["orders"]).await;
        read_until(&mut [&mut one], &mut values, |_, values| has_all(values, 0..200)).await;
        assert_eq!((values.len(), one.partitions().len()), (200, 4));

        let mut two = open(&client, &["orders"]).await;
        read_until(&mut [&mut one, &mut two], &mut values, |members, _| {
            members.iter().all(|member| member.partitions().len() == 2)
        })
        .await;
        produce(&client, "orders", 200..400).await;
        read_until(&mut [&mut one, &mut two], &mut values, |_, v| has_all(v, 0..400)).await;
        assert_eq!(values.len(), 400, "what was given up was committed before");
        let state = describe(&client, "orders").await;
        assert_eq!((state.standing, state.members.len()), (Standing::Stable, 2));
        assert!(state.partitions.iter().all(|partition| partition.member.is_some()));

        two.close().await.unwrap();
        produce(&client, "orders", 400..600).await;
        read_until(&mut [&mut one], &mut values, |_, values| has_all(values, 0..600)).await;
        assert_eq!(values.len(), 600);
        one.commit().await.unwrap();
        drop(one);
        produce(&client, "orders", 600..800).await;
        let mut three = open(&client, &["orders"]).await;
        read_until(&mut [&mut three], &mut values, |_, values| has_all(values, 0..800)).await;
        assert_eq!(values.len(), 800, "all was committed before it was dropped");
        three.close().await.unwrap();
        let state = describe(&client, "orders").await;
        assert_eq!((lag(&state), state.standing, state.members.len()), (0, Standing::Empty, 0));
    });
}

/// Who comes under the name of an instance takes its partitions over at once, and the one before is
/// told so: it commits nothing any more.
#[test]
fn an_instance_takes_over_and_fences() {
    with_node("1", async |client| {
        client.create_topic("orders", 2, None).await.unwrap();
        client.create_stream_group("orders", "billing").await.unwrap();
        produce(&client, "orders", 0..10).await;
        let named = || StreamOptions { instance: Some("a".to_owned()), ..options() };
        let by_hand = || StreamOptions { commit_every: None, ..named() };
        let mut old = client.stream(&["orders"], "billing", by_hand()).await.unwrap();
        let mut values = Vec::new();
        read_until(&mut [&mut old], &mut values, |_, values| has_all(values, 0..10)).await;
        let mut new = client.stream(&["orders"], "billing", by_hand()).await.unwrap();
        let mut again = Vec::new();
        read_until(&mut [&mut new], &mut again, |_, values| has_all(values, 0..10)).await;
        assert_eq!(again.len(), 10, "nothing was committed");
        let late = old.commit().await.unwrap_err();
        assert_eq!(late.code(), Some(ErrorCode::MemberFenced));
        let told = timeout(LONG, old.next()).await.expect("it is told").unwrap_err();
        assert_eq!(
            (told.code(), told.kind()),
            (Some(ErrorCode::MemberFenced), { ErrorKind::Conflict })
        );
        assert_eq!(lag(&describe(&client, "orders").await), 10);
        new.commit().await.unwrap();
        assert_eq!(lag(&describe(&client, "orders").await), 0);
        new.close().await.unwrap();
    });
}

#[test]
fn a_group_is_of_several_topics_and_reset_while_it_is_empty() {
    with_node("2", async |client| {
        for (topic, partitions) in [("orders", 2), ("returns", 1)] {
            client.create_topic(topic, partitions, None).await.unwrap();
        }
        let made = client.create_stream_group("orders", "billing").await.unwrap();
        let alone = client.stream(&["orders", "returns"], "billing", options()).await;
        assert_eq!(alone.unwrap_err().code(), Some(ErrorCode::UnknownGroup));
        let wider = client.create_stream_group("returns", "billing").await.unwrap();
        assert_eq!(wider.group, made.group);
        produce(&client, "orders", 0..10).await;
        produce(&client, "returns", 10..20).await;
        let mut values = Vec::new();
        let mut member = open(&client, &["orders", "returns"]).await;
        read_until(&mut [&mut member], &mut values, |_, values| has_all(values, 0..20)).await;
        let mut group = client.stream_group("orders", "billing").await.unwrap();
        let busy = group.reset(From::Start).await.unwrap_err();
        assert_eq!(busy.code(), Some(ErrorCode::GroupHasMembers));
        assert_eq!(member.lag().await.unwrap(), Some(0));
        member.close().await.unwrap();

        let beyond = group.reset(From::Offset(Offset(1_000))).await.unwrap_err();
        assert_eq!(beyond.code(), Some(ErrorCode::OffsetOutOfRange));
        assert_eq!(lag(&describe(&client, "orders").await), 0, "nothing changed");
        group.reset(From::Start).await.unwrap();
        assert_eq!(lag(&describe(&client, "orders").await), 10);
        assert_eq!(lag(&describe(&client, "returns").await), 0, "only of its topic");
        let mut again = Vec::new();
        let mut member = open(&client, &["orders", "returns"]).await;
        read_until(&mut [&mut member], &mut again, |_, values| has_all(values, 0..10)).await;
        assert_eq!(again.len(), 10);

        // More partitions are read, too, and a topic that is gone is not.
        client.alter_topic("orders", Some(4), None).await.unwrap();
        produce(&client, "orders", 20..120).await;
        read_until(&mut [&mut member], &mut again, |_, values| has_all(values, 20..120)).await;
        member.close().await.unwrap();
        client.delete_topic("returns").await.unwrap();
        let of = client.list_groups("orders").await.unwrap();
        assert_eq!((of.len(), of[0].group), (1, made.group));
        client.delete_group("orders", "billing").await.unwrap();
        let gone = group.describe().await.unwrap_err();
        assert_eq!(gone.kind(), ErrorKind::NotFound);
    });
}

#[test]
fn kinds_are_told_apart() {
    with_node("1", async |client| {
        client.create_topic("orders", 1, None).await.unwrap();
        let settings = QueueSettings::default();
        client.create_stream_group("orders", "billing").await.unwrap();
        let made = client.create_group("orders", "billing", &settings, Default::default()).await;
        assert_eq!(made.unwrap_err().code(), Some(ErrorCode::GroupExists));
        let altered = client.alter_group("orders", "billing", &settings).await;
        assert_eq!(altered.unwrap_err().code(), Some(ErrorCode::InvalidArgument));
        let queue = client.queue("orders", "billing", QueueOptions::default()).await;
        assert_eq!(queue.unwrap_err().code(), Some(ErrorCode::InvalidArgument));
        client.create_group("orders", "packing", &settings, Default::default()).await.unwrap();
        let stream = client.stream(&["orders"], "packing", options()).await;
        assert_eq!(stream.unwrap_err().code(), Some(ErrorCode::InvalidArgument));
        let ended = StreamOptions { from: From::End, ..options() };
        produce(&client, "orders", 0..5).await;
        let mut member = client.stream(&["orders"], "billing", ended).await.unwrap();
        let mut values = Vec::new();
        while member.partitions().is_empty()
            || describe(&client, "orders").await.partitions[0].committed.is_none()
        {
            assert!(!read(&mut member, &mut values).await, "it begins at the end");
        }
        produce(&client, "orders", 5..10).await;
        read_until(&mut [&mut member], &mut values, |_, values| has_all(values, 5..10)).await;
        assert_eq!(values.len(), 5);
        let nobody: Result<_, ClientError> = client.stream(&[], "billing", options()).await;
        assert_eq!(nobody.unwrap_err().kind(), ErrorKind::Usage);
    });
}
