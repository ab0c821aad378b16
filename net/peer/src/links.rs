//! A core's connections to the other nodes: what its groups call their peers through.
//!
//! Must never: answer a call with the answer to another one; keep a call beyond its deadline.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::future::{Future, ready};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::Duration;

use barrage_model::NodeId;
use barrage_raft::{Answer, Call, PeerError, Peers};
use bytes::Bytes;

use crate::book::Book;
use crate::identity::Identity;
use crate::options::Options;
use crate::peer::Peer;
use crate::traffic::{CallError, CallId, Load};

/// The connections of this core to all other nodes. Clones are handles to the same ones.
#[derive(Clone)]
pub struct Links {
    inner: Rc<Inner>,
}

struct Inner {
    me: Identity,
    book: Book,
    options: Options,
    peers: RefCell<BTreeMap<NodeId, Rc<Peer>>>,
    is_closed: Cell<bool>,
}

impl Links {
    /// No connection yet: they are made when there is something to say.
    #[must_use]
    pub fn new(me: Identity, book: Book, options: Options) -> Self {
        let (peers, is_closed) = (RefCell::default(), Cell::new(false));
        Self { inner: Rc::new(Inner { me, book, options, peers, is_closed }) }
    }

    /// Calls and bytes on their way to all nodes.
    #[must_use]
    pub fn load(&self) -> Load {
        self.inner.peers.borrow().values().map(|peer| peer.load()).sum()
    }

    /// Connections open now.
    #[must_use]
    pub fn connections(&self) -> usize {
        self.inner.peers.borrow().values().map(|peer| peer.connections()).sum()
    }

    /// Ends all calls, with `Unreachable`, and closes all connections. None is made any more.
    pub fn close(&self) {
        self.inner.is_closed.set(true);
        let peers = std::mem::take(&mut *self.inner.peers.borrow_mut());
        peers.into_values().for_each(|peer| peer.close());
    }

    fn begin(&self, call: Call) -> Result<Waiting, CallError> {
        let inner = &self.inner;
        let down = |reason: &str| CallError::Down(reason.to_owned());
        if inner.is_closed.get() {
            return Err(down("this node is stopping"));
        }
        let (size, size_max) = (call.request.len(), inner.options.body_bytes_max as usize);
        if size > size_max {
            return Err(CallError::Down(format!("{size} bytes are above the limit of {size_max}")));
        }
        let peer = inner.peer(call.to).ok_or_else(|| down("its address is not known"))?;
        let deadline_in = call.deadline_in;
        let id = peer.call(call)?;
        Ok(Waiting { peer, id, deadline_in, is_done: false })
    }
}

impl Inner {
    fn peer(&self, node: NodeId) -> Option<Rc<Peer>> {
        if let Some(peer) = self.peers.borrow().get(&node) {
            return Some(Rc::clone(peer));
        }
        self.book.address(node)?;
        let peer = Peer::new(self.me, node, self.book.clone(), self.options.clone());
        self.peers.borrow_mut().insert(node, Rc::clone(&peer));
        Some(peer)
    }
}

impl Peers for Links {
    fn call(&self, call: Call) -> Answer {
        let (to, deadline_in) = (call.to, call.deadline_in);
        match self.begin(call) {
            Ok(waiting) => Box::pin(waiting),
            Err(error) => Box::pin(ready(Err(peer_error(error, to, deadline_in)))),
        }
    }
}

/// A call under way. Dropped, it is not sent if it was not yet, and its room is free.
struct Waiting {
    peer: Rc<Peer>,
    id: CallId,
    deadline_in: Duration,
    is_done: bool,
}

impl Future for Waiting {
    type Output = Result<Bytes, PeerError>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let Poll::Ready(outcome) = self.peer.poll(self.id, context) else { return Poll::Pending };
        self.is_done = true;
        let (to, deadline_in) = (self.peer.node(), self.deadline_in);
        Poll::Ready(outcome.map_err(|error| peer_error(error, to, deadline_in)))
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        if !self.is_done {
            self.peer.cancel(self.id);
        }
    }
}

fn peer_error(error: CallError, to: NodeId, deadline_in: Duration) -> PeerError {
    match error {
        CallError::TimedOut => PeerError::TimedOut(to, deadline_in),
        other => PeerError::Unreachable(to, other.to_string()),
    }
}
