//! Clients that do not keep to the protocol: garbage, halves of frames, damaged batches, frames
//! that are too long, replies that nobody takes.
//!
//! Owns: what they do, and what must come of it: nothing is stored, nobody else suffers. Must
//! never: send a whole good batch.

use std::net::Shutdown;
use std::rc::Rc;
use std::time::Duration;

use barrage_model::{Offset, PartitionKey};
use barrage_wire::{
    Acks, Correlation, ErrorCode, FetchRequest, FrameHeader, Hello, ProduceRequest, Request,
    Response,
};
use barrage_world::net::Stream;
use barrage_world::{Instant, sleep, timeout};
use bytes::{Bytes, BytesMut};

use super::process::shared_address;
use crate::history::{Call, Identity, SendBatch};
use crate::workload::{Client, Connection, Size, Topic, between, milliseconds, pick};

const WITHIN: Duration = milliseconds(3_000);
const SIZE: Size = Size { records_max: 5, value_bytes_max: 300 };
/// Fetches that a client sends without taking the answers.
const FETCHES: u64 = 40;

/// What to do next.
#[derive(Clone, Copy)]
enum Mischief {
    Garbage,
    HalfHello,
    HalfBatch,
    DamagedBatch,
    TooLong,
    UnknownOpcode,
    Deaf,
    Slow,
}

const MISCHIEFS: [Mischief; 8] = [
    Mischief::Garbage,
    Mischief::HalfHello,
    Mischief::HalfBatch,
    Mischief::DamagedBatch,
    Mischief::TooLong,
    Mischief::UnknownOpcode,
    Mischief::Deaf,
    Mischief::Slow,
];

/// Does one thing after the other.
pub(super) async fn run(mut client: Client, topics: Vec<Topic>, frame_bytes_max: u32) {
    while !client.is_stopped() {
        let pause = milliseconds(5)..=milliseconds(300);
        sleep(between(&mut client.random, &pause)).await;
        let topic = pick(&mut client.random, &topics).clone();
        let partition = client.random.below(u64::from(topic.partitions)) as u32;
        let key = topic.key(partition);
        match *pick(&mut client.random, &MISCHIEFS) {
            Mischief::Garbage => garbage(&mut client).await,
            Mischief::HalfHello => half_hello(&mut client).await,
            Mischief::HalfBatch => half_batch(&mut client, key).await,
            Mischief::DamagedBatch => damaged_batch(&mut client, key).await,
            Mischief::TooLong => too_long(&mut client, frame_bytes_max).await,
            Mischief::UnknownOpcode => unknown_opcode(&mut client).await,
            Mischief::Deaf => deaf(&mut client, key).await,
            Mischief::Slow => slow(&mut client, key).await,
        }
    }
}

async fn open(client: &Client, name: &str) -> Option<Rc<Connection>> {
    let connection = Connection::open(shared_address(), name, &client.witness()).await.ok()?;
    connection.odd.set(true);
    Some(connection)
}

async fn connect() -> Option<Stream> {
    timeout(WITHIN, Stream::connect(shared_address())).await.ok()?.ok()
}

/// Sends bytes, whatever comes of it.
async fn send(stream: &Stream, bytes: &[u8]) {
    drop(timeout(WITHIN, stream.write_all(bytes)).await);
}

async fn garbage(client: &mut Client) {
    let Some(stream) = connect().await else { return };
    let len = client.random.between(1, 400);
    let bytes: Vec<u8> = (0..len).map(|_| client.random.next_u64() as u8).collect();
    send(&stream, &bytes).await;
    linger(client, &stream).await;
}

async fn half_hello(client: &mut Client) {
    let Some(stream) = connect().await else { return };
    let mut bytes = BytesMut::new();
    Request::Hello(Hello::new("half")).encode(Correlation(0), &mut bytes);
    let half = client.random.below(bytes.len() as u64) as usize;
    send(&stream, bytes.get(..half).unwrap_or_default()).await;
    linger(client, &stream).await;
}

/// Waits a while, or goes at once, in order or not.
async fn linger(client: &mut Client, stream: &Stream) {
    sleep(milliseconds(client.random.below(1_500))).await;
    if client.random.one_in(2) {
        drop(stream.shutdown(Shutdown::Write));
        sleep(milliseconds(client.random.below(50))).await;
    }
}

/// A batch that must never be stored: the call is told to have failed.
fn doomed(client: &mut Client, key: PartitionKey) -> (Bytes, Call) {
    let made = client.context.factory.make(&mut client.random, SIZE, None);
    let records = made.records;
    let call = client.context.witness.send(&client.name, key, 0, |place| SendBatch {
        topic: place.topic,
        partition: Some(place.partition),
        identity: Identity::Once,
        connection: None,
        records,
        dues: Vec::new(),
    });
    client.context.witness.fail(call, "never sent whole");
    (made.bytes, call)
}

fn produce(key: PartitionKey, batch: &[u8]) -> BytesMut {
    let mut bytes = BytesMut::new();
    let request = ProduceRequest { key, acks: Acks::Quorum, timeout_ms: 1_000, batch };
    Request::Produce(request).encode(Correlation(77), &mut bytes);
    bytes
}

async fn half_batch(client: &mut Client, key: PartitionKey) {
    let Some(connection) = open(client, "half").await else { return };
    let (batch, _) = doomed(client, key);
    let bytes = produce(key, &batch);
    let half = client.random.below(bytes.len() as u64) as usize;
    drop(connection.write(bytes.get(..half).unwrap_or_default()).await);
    sleep(milliseconds(client.random.below(100))).await;
    connection.close();
}

/// One bit of a batch is wrong: it is refused, and the connection goes on.
async fn damaged_batch(client: &mut Client, key: PartitionKey) {
    let witness = client.witness();
    let Some(connection) = open(client, "damaged").await else { return };
    let (batch, _) = doomed(client, key);
    let mut damaged = batch.to_vec();
    // Base offset and leader epoch are the broker's: what a client writes there is nothing.
    let at = client.random.between(16, damaged.len() as u64 - 1) as usize;
    if let Some(byte) = damaged.get_mut(at) {
        *byte ^= 1 << client.random.below(8);
    }
    let request = ProduceRequest { key, acks: Acks::Quorum, timeout_ms: 1_000, batch: &damaged };
    let asked_at = Instant::now();
    if let Ok(frame) = connection.call(&Request::Produce(request), WITHIN).await {
        match Response::decode(&frame.header, &frame.body) {
            Ok(Response::Error { error, .. }) if error.code == ErrorCode::InvalidBatch => {}
            Ok(Response::Error { error, .. }) => client.judge(&error, asked_at, "damage a batch"),
            other => witness.object(format!("I3: a batch damaged at {at} in {key}: {other:?}")),
        }
    }
    connection.close();
}

async fn too_long(client: &mut Client, limit: u32) {
    let Some(connection) = open(client, "long").await else { return };
    let mut bytes = BytesMut::new();
    let length = limit + 1 + client.random.below(u64::from(u32::MAX - limit - 1)) as u32;
    FrameHeader { length, opcode: 16, detail: 1, correlation: Correlation(1) }.encode(&mut bytes);
    drop(connection.write(&bytes).await);
    sleep(milliseconds(client.random.below(1_000))).await;
    connection.close();
}

async fn unknown_opcode(client: &mut Client) {
    let Some(connection) = open(client, "odd").await else { return };
    let mut bytes = BytesMut::new();
    FrameHeader::new(999, 1, Correlation(1 << 20), 0).encode(&mut bytes);
    drop(connection.write(&bytes).await);
    sleep(milliseconds(client.random.below(100))).await;
    connection.close();
}

/// Asks for much and takes nothing.
async fn deaf(client: &mut Client, key: PartitionKey) {
    let Some(stream) = connect().await else { return };
    let mut bytes = BytesMut::new();
    Request::Hello(Hello::new("deaf")).encode(Correlation(0), &mut bytes);
    for number in 0..FETCHES {
        let request = FetchRequest {
            key,
            offset: Offset(client.context.witness.bounds(key).start),
            bytes_max: 1 << 20,
            bytes_min: 1,
            wait_ms: client.random.below(100) as u32,
        };
        Request::Fetch(request).encode(Correlation(1 + number as u32), &mut bytes);
    }
    send(&stream, &bytes).await;
    sleep(milliseconds(client.random.below(6_000))).await;
}

/// A frame that comes a byte at a time.
async fn slow(client: &mut Client, key: PartitionKey) {
    let Some(stream) = connect().await else { return };
    let mut bytes = BytesMut::new();
    Request::Hello(Hello::new("slow")).encode(Correlation(0), &mut bytes);
    let (batch, _) = doomed(client, key);
    let mut frame = produce(key, &batch);
    frame.truncate(frame.len().saturating_sub(1));
    bytes.extend_from_slice(&frame);
    let step = client.random.between(1, 40) as usize;
    for piece in bytes.chunks(step).take(100) {
        send(&stream, piece).await;
        sleep(milliseconds(client.random.below(40))).await;
    }
}
