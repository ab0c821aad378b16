//! Clients of the replicas, and the door they knock at.
//!
//! Owns: the clients' datagrams, what a replica answers, and what a client makes of the answer:
//! done, certainly not done, or unknown. Must never: take an unknown outcome for a failure; send
//! other bytes under a number that may be taken.
//!
//! ```text
//! request  | u32 CRC | u64 number | u32 client | u64 sequence | u8 0 read, 1 write | payload |
//! answer   | u32 CRC | u64 number | u8 code | u64 value |
//! ```

use std::cell::Cell;
use std::rc::Rc;
use std::time::Duration;

use barrage_commitlog::{Batch, Run};
use barrage_model::batch::{BatchBuilder, BatchView, Compression, NewRecord};
use barrage_model::{NodeId, Offset, PartitionId, PartitionKey, Term, TopicId};
use barrage_raft::{Group, Proposal, ProposeError};
use barrage_world as world;
use barrage_world::sim::{Endpoint, Host, Rng};
use bytes::{BufMut, Bytes, BytesMut};

use super::ledger::{Command, Ledger, Verdict};
use super::links::host;
use super::plan::{Plan, between, pick};
use super::witness::{Promise, Witness};

const PORT: u16 = 9_100;
/// Clients live on hosts behind those of the nodes.
const FIRST_CLIENT_HOST: u16 = 100;
/// How long a client waits for an answer: one waits until a leader that was cut off is back, others
/// go on meanwhile.
const PATIENCE: [Duration; 3] =
    [Duration::from_millis(700), Duration::from_millis(700), Duration::from_secs(10)];
const RETRY_AFTER: Duration = Duration::from_millis(20);
const READ_ONE_IN: u64 = 10;
/// A number that certainly nothing was stored under is used for another record now and then.
const CHANGE_ONE_IN: u64 = 2;
const TIMESTAMP_MS: i64 = 1_000;
/// Longer than an election takes.
pub(super) const AGAIN_AFTER_MAX: Duration = Duration::from_secs(2);

/// What a replica answers.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Code {
    /// Stored now, or before; the value is the term that it was at the latest stored in.
    Done,
    /// The value is the next sequence number.
    Next,
    /// Certainly not stored; the value is the node to ask, or zero.
    NotHere,
    /// Certainly not stored.
    Refused,
    /// It may be stored, or be stored later.
    Unknown,
    /// One before it is missing.
    Gap,
}

const CODES: [Code; 6] =
    [Code::Done, Code::Next, Code::NotHere, Code::Refused, Code::Unknown, Code::Gap];

struct Request {
    number: u64,
    client: u32,
    sequence: u64,
    write: bool,
    payload: Bytes,
}

/// The partition that a client's records go to.
pub(super) fn partition(client: u32) -> PartitionKey {
    PartitionKey { topic: TopicId(1), partition: PartitionId(client) }
}

/// Where a replica answers clients.
pub(super) struct Desk {
    pub(super) node: NodeId,
    pub(super) group: Group<Ledger>,
    pub(super) witness: Rc<Witness>,
    pub(super) plan: Rc<Plan>,
}

/// Answers clients, for as long as the process.
pub(super) async fn serve(desk: Desk) {
    let endpoint = Rc::new(Endpoint::bind(PORT));
    let desk = Rc::new(desk);
    loop {
        let packet = endpoint.recv().await;
        let Some(request) = decode_request(&packet.bytes) else { continue };
        let (desk, endpoint) = (Rc::clone(&desk), Rc::clone(&endpoint));
        drop(world::spawn(async move {
            let number = request.number;
            let (code, value) = desk.answer(request).await;
            endpoint.send(packet.from, encode_answer(number, code, value));
        }));
    }
}

impl Desk {
    async fn answer(&self, request: Request) -> (Code, u64) {
        let Self { node, group, witness, .. } = self;
        let leader = group.status().leader.map_or(0, |leader| leader.0);
        let Some(term) = group.leader_term() else { return (Code::NotHere, leader) };
        witness.leads(*node, term);
        if !request.write {
            return match group.read_barrier().await {
                Ok(()) => (Code::Next, group.with_machine(|ledger| ledger.next(request.client))),
                Err(_) => (Code::Refused, 0),
            };
        }
        let proposal = proposal(&request, term);
        let committed = group.propose(proposal.clone(), term).await;
        let stored = match committed.map(|committed| committed.reply) {
            Ok(Verdict::Accepted) => (Code::Done, term.0),
            Ok(Verdict::Duplicate) => {
                witness.saw_duplicate();
                (Code::Done, term.0)
            }
            Ok(Verdict::Gap) => return (Code::Gap, 0),
            Err(ProposeError::NotLeader) => return (Code::NotHere, leader),
            Err(ProposeError::Full | ProposeError::TooLarge | ProposeError::DiskFull) => {
                return (Code::Refused, 0);
            }
            Err(ProposeError::Lost | ProposeError::Stopped) => return (Code::Unknown, 0),
        };
        self.propose_again(proposal, term);
        stored
    }

    /// A stamp is as old as the batch it was put on: a leader may have lost its term and won
    /// another one until it proposes.
    fn propose_again(&self, proposal: Proposal, term: Term) {
        let drawn = world::random_u64();
        if !drawn.is_multiple_of(self.plan.again_one_in) {
            return;
        }
        self.witness.proposed_again();
        let group = self.group.clone();
        let wait_ns = (drawn >> 32) % (AGAIN_AFTER_MAX.as_nanos() as u64);
        drop(world::spawn(async move {
            world::sleep(Duration::from_nanos(wait_ns)).await;
            drop(group.propose(proposal, term).await);
        }));
    }
}

fn proposal(request: &Request, term: Term) -> Proposal {
    let command = Command { client: request.client, sequence: request.sequence, term };
    let offset = Offset(request.sequence);
    let bytes = batch(&request.payload);
    let crc = match BatchView::check(&bytes) {
        Ok(view) => view.header().crc,
        Err(error) => unreachable!("a batch just built: {error}"),
    };
    let byte_len = u32::try_from(bytes.len()).unwrap_or(u32::MAX);
    let leader_epoch = i32::try_from(term.0).unwrap_or(i32::MAX);
    let run = Run {
        key: partition(request.client),
        base_offset: offset,
        record_count: 1,
        max_timestamp: TIMESTAMP_MS,
        byte_len,
        batches: vec![Batch { bytes, base_offset: offset, leader_epoch, crc }],
        gone: None,
    };
    Proposal { command: Bytes::from(command.encode()), runs: vec![run], log_time_ms: TIMESTAMP_MS }
}

fn batch(value: &[u8]) -> Bytes {
    let mut builder = BatchBuilder::new(Compression::None, TIMESTAMP_MS);
    let record =
        NewRecord { key: None, value: Some(value), headers: &[], timestamp_ms: TIMESTAMP_MS };
    let built = builder.push(&record).and_then(|()| builder.finish());
    match built {
        Ok(bytes) => Bytes::from(bytes),
        Err(error) => unreachable!("one record fits a batch: {error}"),
    }
}

/// A client: one record after the other, each until it is promised.
pub(super) struct Client {
    number: u32,
    nodes: u64,
    plan: Rc<Plan>,
    witness: Rc<Witness>,
    random: Rng,
    endpoint: Endpoint,
    patience: Duration,
    requests: u64,
    leader: u64,
}

/// The host that client `number` lives on.
pub(super) fn client_host(number: u32) -> Host {
    Host(FIRST_CLIENT_HOST + u16::try_from(number).unwrap_or(u16::MAX - FIRST_CLIENT_HOST))
}

impl Client {
    /// Runs on the client's own machine.
    pub(super) fn new(
        number: u32,
        nodes: u64,
        plan: Rc<Plan>,
        witness: Rc<Witness>,
        mut random: Rng,
    ) -> Self {
        let endpoint = Endpoint::bind(PORT);
        let patience = *pick(&mut random, &PATIENCE);
        Self { number, nodes, plan, witness, random, endpoint, patience, requests: 0, leader: 0 }
    }

    /// Sends records until told to stop, then ends what it has begun.
    pub(super) async fn run(mut self, stop: Rc<Cell<bool>>) {
        let mut sequence = 0;
        while !stop.get() {
            if self.random.one_in(READ_ONE_IN) {
                self.read().await;
            }
            self.write(sequence).await;
            sequence += 1;
            world::sleep(between(&mut self.random, &self.plan.think_time)).await;
        }
    }

    async fn read(&mut self) {
        // Of anyone: who is promised records by a new leader, and who still asks the old one, are
        // rarely the same.
        let client = self.random.below(u64::from(self.plan.clients)) as u32;
        let leader = self.leader;
        if self.random.one_in(2) {
            self.leader = 0;
        }
        let promised = self.witness.promised_to(client);
        let request =
            Request { number: 0, client, sequence: 0, write: false, payload: Bytes::new() };
        if let Some((Code::Next, next)) = self.ask(request).await {
            self.witness.read(client, promised, next);
        }
        self.leader = leader;
    }

    async fn write(&mut self, sequence: u64) {
        let mut payload = self.payload();
        // Once an outcome was unknown the number may be taken: these bytes and no others.
        let mut certain = true;
        loop {
            let client = self.number;
            let request =
                Request { number: 0, client, sequence, write: true, payload: payload.clone() };
            match self.ask(request).await {
                Some((Code::Done, term)) => {
                    let promise = Promise { payload: payload.to_vec(), term: Term(term) };
                    self.witness.promised(self.number, sequence, promise);
                    return;
                }
                Some((Code::Gap, _)) => {
                    let number = self.number;
                    self.witness.object(format!(
                        "I1: client {number} sends number {sequence}, all before it were promised, \
                         and a replica misses one"
                    ));
                    return;
                }
                // A node that names itself does not know better.
                Some((Code::NotHere, leader)) if leader == self.leader => self.leader = 0,
                Some((Code::NotHere, leader)) => self.leader = leader,
                Some((Code::Refused, _)) => {}
                Some((Code::Unknown | Code::Next, _)) | None => {
                    certain = false;
                    self.leader = 0;
                }
            }
            if certain && self.random.one_in(CHANGE_ONE_IN) {
                payload = self.payload();
            }
            world::sleep(RETRY_AFTER).await;
        }
    }

    fn payload(&mut self) -> Bytes {
        let (least, most) = (*self.plan.payload_bytes.start(), *self.plan.payload_bytes.end());
        let len = self.random.between(least, most);
        let first = self.random.next_u64();
        (0..len).map(|position| (first.rotate_left((position % 61) as u32)) as u8).collect()
    }

    /// Asks the node that is thought to lead, or any.
    async fn ask(&mut self, request: Request) -> Option<(Code, u64)> {
        let node = match self.leader {
            0 => 1 + self.random.below(self.nodes),
            leader => leader,
        };
        self.requests += 1;
        let number = self.requests;
        let request = Request { number, ..request };
        self.endpoint.send((host(NodeId(node)), PORT), encode_request(&request));
        let answered = async {
            loop {
                let packet = self.endpoint.recv().await;
                match decode_answer(&packet.bytes) {
                    Some((of, code, value)) if of == number => return (code, value),
                    // The answer to an earlier request, late, or damaged on the way.
                    Some(_) | None => {}
                }
            }
        };
        world::timeout(self.patience, answered).await.ok()
    }
}

fn encode_request(request: &Request) -> Bytes {
    let mut body = BytesMut::with_capacity(21 + request.payload.len());
    body.put_u64_le(request.number);
    body.put_u32_le(request.client);
    body.put_u64_le(request.sequence);
    body.put_u8(u8::from(request.write));
    body.put_slice(&request.payload);
    seal(&body)
}

fn decode_request(packet: &Bytes) -> Option<Request> {
    let rest = unseal(packet)?;
    let (number, rest) = rest.split_first_chunk::<8>()?;
    let (client, rest) = rest.split_first_chunk::<4>()?;
    let (sequence, rest) = rest.split_first_chunk::<8>()?;
    let (write, payload) = rest.split_first()?;
    Some(Request {
        number: u64::from_le_bytes(*number),
        client: u32::from_le_bytes(*client),
        sequence: u64::from_le_bytes(*sequence),
        write: *write == 1,
        payload: packet.slice_ref(payload),
    })
}

fn encode_answer(number: u64, code: Code, value: u64) -> Bytes {
    let mut body = BytesMut::new();
    body.put_u64_le(number);
    let code = CODES.iter().position(|known| *known == code).unwrap_or(usize::MAX);
    body.put_u8(u8::try_from(code).unwrap_or(u8::MAX));
    body.put_u64_le(value);
    seal(&body)
}

fn decode_answer(packet: &Bytes) -> Option<(u64, Code, u64)> {
    let rest = unseal(packet)?;
    let (number, rest) = rest.split_first_chunk::<8>()?;
    let (code, rest) = rest.split_first()?;
    let value = rest.first_chunk::<8>()?;
    let code = *CODES.get(usize::from(*code))?;
    Some((u64::from_le_bytes(*number), code, u64::from_le_bytes(*value)))
}

fn seal(body: &[u8]) -> Bytes {
    let mut packet = BytesMut::with_capacity(4 + body.len());
    packet.put_u32_le(crc32c::crc32c(body));
    packet.put_slice(body);
    packet.freeze()
}

fn unseal(packet: &[u8]) -> Option<&[u8]> {
    let (crc, rest) = packet.split_first_chunk::<4>()?;
    (crc32c::crc32c(rest) == u32::from_le_bytes(*crc)).then_some(rest)
}
