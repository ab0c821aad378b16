//! The same connections on a real machine: a node that talks to two others on the loopback
//! address, over glommio and real sockets.

#![cfg(not(sim))]
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests fail by panicking")]

use std::net::{Ipv4Addr, SocketAddr};
use std::rc::Rc;
use std::time::Duration;

use barrage_model::{NodeId, ShardId};
use barrage_peer::{
    Acceptor, Book, ClusterId, Contact, Handler, Identity, Links, Load, Options, Refusal, Reply,
};
use barrage_raft::{Call, PeerError, Peers, Urgency};
use barrage_world as world;
use barrage_world::net::Listener;
use bytes::Bytes;

const NOWHERE: ShardId = ShardId(99);
const SLOW: ShardId = ShardId(98);

fn identity(node: u64) -> Identity {
    Identity { cluster: ClusterId(7), node: NodeId(node) }
}

/// Answers with what it was asked.
struct Echo;

impl Handler for Echo {
    fn handle(&self, shard: ShardId, _from: NodeId, request: Bytes) -> Reply {
        Box::pin(async move {
            if shard == SLOW {
                world::sleep(Duration::from_secs(60)).await;
            }
            world::yield_now().await;
            if shard == NOWHERE { Err(Refusal::UnknownShard) } else { Ok(request) }
        })
    }
}

/// Starts a node of `cores` cores, all on this thread; where it is contacted.
fn start(node: u64, cores: usize) -> (SocketAddr, Vec<Acceptor>) {
    let bind = || Listener::bind_exclusive(SocketAddr::from((Ipv4Addr::LOCALHOST, 0))).unwrap();
    let own: Vec<_> = (0..cores).map(|_| bind()).collect();
    let ports = own.iter().map(|listener| listener.local_addr().port()).collect();
    let (contact, first) = (Contact::new(ports).unwrap(), bind());
    let acceptors = own.iter().map(|listener| {
        let options = Options::default();
        let acceptor = Acceptor::new(identity(node), contact.clone(), Rc::new(Echo), options);
        acceptor.serve(listener.on_core().unwrap());
        acceptor.serve(first.on_core().unwrap());
        acceptor
    });
    (first.local_addr(), acceptors.collect())
}

async fn ask(links: &Links, shard: ShardId, size: usize) -> Result<(), PeerError> {
    let urgency = if size < 1000 { Urgency::Urgent } else { Urgency::Bulk };
    let deadline_in = Duration::from_secs(if shard == SLOW { 1 } else { 30 });
    let request = Bytes::from(vec![size as u8; size]);
    let sent = request.clone().into();
    let call = Call { to: NodeId(2), shard, urgency, deadline_in, request: sent };
    let answer = links.call(call).await?;
    assert!(answer == request, "the answer to another call");
    Ok(())
}

async fn drained(acceptors: Vec<Acceptor>) {
    for acceptor in acceptors {
        acceptor.drain(world::Instant::now() + Duration::from_secs(5)).await;
    }
}

#[test]
fn calls_between_real_sockets() {
    world::run_local(async {
        let (address, acceptors) = start(2, 3);
        let book = Book::new();
        let links = Links::new(identity(1), book.clone(), Options::default());
        assert!(matches!(ask(&links, ShardId(1), 1).await, Err(PeerError::Unreachable(..))));
        book.set(NodeId(2), address);
        let mut asked = Vec::new();
        for round in 0..300_usize {
            let size = match round % 10 {
                0 => 1 + round * 8_000,
                1 => 100_000,
                _ => round,
            };
            let (links, shard) = (links.clone(), ShardId(round as u32 % 7));
            asked.push(world::spawn(async move { ask(&links, shard, size).await }));
        }
        for answer in asked {
            assert_eq!(answer.await.unwrap(), Ok(()));
        }
        assert_eq!(links.connections(), 6);
        assert!(matches!(ask(&links, NOWHERE, 1).await, Err(PeerError::Unreachable(..))));
        let late = PeerError::TimedOut(NodeId(2), Duration::from_secs(1));
        assert_eq!(ask(&links, SLOW, 1).await, Err(late));
        assert_eq!(links.load(), Load::default());
        // It goes away, and comes back elsewhere with another number of cores.
        drained(acceptors).await;
        assert!(ask(&links, ShardId(1), 1).await.is_err());
        let (address, acceptors) = start(2, 2);
        book.set(NodeId(2), address);
        let began = world::Instant::now();
        while ask(&links, ShardId(1), 1).await.is_err() {
            assert!(began.elapsed() < Duration::from_secs(30), "it is not found again");
            world::sleep(Duration::from_millis(20)).await;
        }
        assert_eq!(ask(&links, ShardId(1), 2_000_000).await, Ok(()));
        links.close();
        drained(acceptors).await;
    });
}

/// An address where nobody accepts: connecting is given up in time, again and again.
#[test]
fn a_connect_that_takes_too_long_is_given_up() {
    world::run_local(async {
        let (silent, book) = (std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)), Book::new());
        book.set(NodeId(2), silent.as_ref().unwrap().local_addr().unwrap());
        let connect_timeout = Duration::from_millis(50);
        let options = Options { connect_timeout, ..Options::default() };
        let links = Links::new(identity(1), book, options);
        for _ in 0..20 {
            assert!(matches!(ask(&links, ShardId(1), 1).await, Err(PeerError::Unreachable(..))));
            world::sleep(Duration::from_millis(20)).await;
        }
        links.close();
    });
}
