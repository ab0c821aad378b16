//! The other nodes: what of this core they reach, and where this node finds them.
//!
//! Owns: putting `net/peer` before the broker, and the book of addresses.
//! Must never: look up a name on a core: that blocks.

use std::net::{SocketAddr, ToSocketAddrs};
use std::sync::mpsc::{self, RecvTimeoutError, Sender};
use std::thread;
use std::time::Duration;

use barrage_broker::{Broker, PeerRefusal};
use barrage_model::{NodeId, ShardId};
use barrage_peer::{Book, Handler, Refusal, Reply};
use bytes::Bytes;

use crate::exit::Failure;

/// How often names are looked up again: a node may have moved.
const LOOK_UP_INTERVAL: Duration = Duration::from_secs(30);

/// Hands the requests of other nodes to the broker of their core.
pub(crate) struct ToBroker(pub(crate) Broker);

impl Handler for ToBroker {
    fn handle(&self, shard: ShardId, from: NodeId, request: Bytes) -> Reply {
        let answer = self.0.answer_peer(shard, from, request);
        Box::pin(async move {
            answer.await.map_err(|refusal| match refusal {
                PeerRefusal::UnknownShard => Refusal::UnknownShard,
                PeerRefusal::Damaged => Refusal::Damaged,
            })
        })
    }
}

/// Nodes and their addresses as the catalog holds them.
pub(crate) type Members = Vec<(NodeId, String)>;

/// Keeps the book on a thread of its own, until the sender is dropped.
#[expect(clippy::disallowed_methods, reason = "looking up a name blocks: not on a core")]
pub(crate) fn keep_book(book: Book) -> Result<Sender<Members>, Failure> {
    let (sender, receiver) = mpsc::channel::<Members>();
    let keep = move || {
        let mut members: Members = Vec::new();
        loop {
            match receiver.recv_timeout(LOOK_UP_INTERVAL) {
                Ok(newer) => {
                    let gone = members.iter().map(|(node, _)| *node);
                    let gone = gone.filter(|node| newer.iter().all(|(other, _)| other != node));
                    gone.for_each(|node| book.remove(node));
                    members = newer;
                }
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return,
            }
            for (node, address) in &members {
                match look_up(address) {
                    Some(found) => book.set(*node, found),
                    None if address.is_empty() => {}
                    None => tracing::warn!(%node, address, "a node's address has no meaning here"),
                }
            }
        }
    };
    let started = thread::Builder::new().name("book".to_owned()).spawn(keep);
    started.map(|_| sender).map_err(Failure::new)
}

fn look_up(address: &str) -> Option<SocketAddr> {
    address.parse().ok().or_else(|| address.to_socket_addrs().ok()?.next())
}
