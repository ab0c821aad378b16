//! The transport between the replicas: datagrams that may be lost, repeated, late or damaged.
//!
//! Owns: pairing requests and answers. The checksum covers the pairing; what is inside has its
//! own. Must never: answer one request with the answer to another.
//!
//! ```text
//! | u32 CRC32C of the rest | u8 request or answer | u64 number | bytes |
//! ```

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::rc::Rc;

use barrage_model::NodeId;
use barrage_raft::{Answer, Call, Group, PeerError, Peers};
use barrage_world as world;
use barrage_world::channel::oneshot;
use barrage_world::sim::{Endpoint, Host};
use bytes::{BufMut, Bytes, BytesMut};

use super::ledger::Ledger;

const PORT: u16 = 9_000;
const HEAD_BYTES: usize = 13;
const REQUEST: u8 = 1;
const ANSWER: u8 = 2;

/// A node's end of all its links. Cloning shares it.
#[derive(Clone)]
pub(super) struct Links {
    inner: Rc<Inner>,
}

struct Inner {
    endpoint: Endpoint,
    waiting: RefCell<BTreeMap<u64, oneshot::Sender<Bytes>>>,
    count: Cell<u64>,
    nodes: u64,
    misroute_one_in: u64,
}

impl Links {
    /// Binds the node's end; `nodes` are numbered from 1.
    pub(super) fn bind(nodes: u64, misroute_one_in: u64) -> Self {
        let inner = Inner {
            endpoint: Endpoint::bind(PORT),
            waiting: RefCell::default(),
            // Answers outlive the process that asked: its numbers are not given out again.
            count: Cell::new(world::random_u64() >> 1),
            nodes,
            misroute_one_in,
        };
        Self { inner: Rc::new(inner) }
    }

    /// Carries requests to the group and answers to their callers, for as long as the process.
    pub(super) async fn serve(self, group: Group<Ledger>) {
        loop {
            let packet = self.inner.endpoint.recv().await;
            let Some((kind, number, bytes)) = open(&packet.bytes) else { continue };
            if kind == ANSWER {
                let waiting = self.inner.waiting.borrow_mut().remove(&number);
                if let Some(waiting) = waiting {
                    waiting.send(bytes).ok();
                }
                continue;
            }
            let (links, group) = (self.clone(), group.clone());
            drop(world::spawn(async move {
                if let Ok(answer) = group.handle(bytes).await {
                    links.inner.endpoint.send(packet.from, seal(ANSWER, number, &answer));
                }
            }));
        }
    }

    fn target(&self, to: NodeId) -> Host {
        let drawn = world::random_u64();
        let misrouted = drawn.checked_rem(self.inner.misroute_one_in) == Some(0);
        let node = if misrouted { 1 + (drawn >> 32) % self.inner.nodes } else { to.0 };
        host(NodeId(node))
    }
}

impl Peers for Links {
    fn call(&self, call: Call) -> Answer {
        let links = self.clone();
        Box::pin(async move {
            let number = links.inner.count.get() + 1;
            links.inner.count.set(number);
            let (sender, receiver) = oneshot::channel();
            links.inner.waiting.borrow_mut().insert(number, sender);
            let packet = seal(REQUEST, number, &call.request.into_bytes());
            links.inner.endpoint.send((links.target(call.to), PORT), packet);
            let answer = world::timeout(call.deadline_in, receiver).await;
            links.inner.waiting.borrow_mut().remove(&number);
            match answer {
                Ok(Ok(bytes)) => Ok(bytes),
                Ok(Err(_)) | Err(_) => Err(PeerError::TimedOut(call.to, call.deadline_in)),
            }
        })
    }
}

/// Where a node lives.
pub(super) fn host(node: NodeId) -> Host {
    match u16::try_from(node.0) {
        Ok(number) => Host(number),
        Err(_) => unreachable!("a scenario has few nodes"),
    }
}

fn seal(kind: u8, number: u64, bytes: &[u8]) -> Bytes {
    let mut packet = BytesMut::with_capacity(HEAD_BYTES + bytes.len());
    packet.put_u32_le(0);
    packet.put_u8(kind);
    packet.put_u64_le(number);
    packet.put_slice(bytes);
    let crc = crc32c::crc32c(packet.get(4..).unwrap_or_default());
    if let Some(field) = packet.get_mut(..4) {
        field.copy_from_slice(&crc.to_le_bytes());
    }
    packet.freeze()
}

fn open(packet: &Bytes) -> Option<(u8, u64, Bytes)> {
    let (crc, rest) = packet.split_first_chunk::<4>()?;
    if crc32c::crc32c(rest) != u32::from_le_bytes(*crc) {
        return None;
    }
    let (kind, rest) = rest.split_first()?;
    let (number, bytes) = rest.split_first_chunk::<8>()?;
    Some((*kind, u64::from_le_bytes(*number), packet.slice_ref(bytes)))
}
