//! The mailboxes between this core and the others, and the requests that wait for an answer.
//!
//! ```text
//!   core A: request(id 7) --mailbox A->B--> core B: does it --mailbox B->A--> core A: answers id 7
//! ```
//!
//! Owns: one mailbox per ordered pair of cores, ids, what is outstanding.
//! Must never: block, or refuse an answer. Requests are bounded per pair, and a mailbox holds the
//! requests of one side and the answers to the other's, so an answer always has room.
//! Invariants: every request is answered once; order is kept per pair.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::sync::Arc;

use barrage_model::CoreId;
use barrage_world::buggify;
use barrage_world::channel::oneshot;
use barrage_world::mailbox::{MailboxReceiver, MailboxSender, Outbox, mailbox};

use crate::control::ControlLink;
use crate::home::Home;
use crate::message::{Message, Reply, Request, RequestId};

/// Requests of clients to one other core without an answer yet, at most.
const REQUESTS_MAX: usize = 4096;
/// The node's own requests (catalog, figures) have room beside them.
const REQUESTS_OWN_MAX: usize = 64;
/// Bytes of batches on the way to one other core, at most. One batch always goes.
const BYTES_MAX: usize = 64 << 20;
/// Requests one way, answers the other.
const MAILBOX_MESSAGES: usize = 2 * (REQUESTS_MAX + REQUESTS_OWN_MAX);

/// One core's ends of the mailboxes between the broker's cores; moved to its core before it starts.
#[derive(Debug)]
pub struct CoreLinks {
    pub(crate) core: CoreId,
    /// By core; `None` for itself.
    senders: Vec<Option<MailboxSender<Message>>>,
    receivers: Vec<(CoreId, MailboxReceiver<Message>)>,
    /// Held by every core: the lock goes when the last one has closed its shards.
    home: Arc<Home>,
    control: Option<ControlLink>,
}

impl CoreLinks {
    /// The mailboxes between `cores` cores, one set of ends per core, in order.
    pub(crate) fn mesh(cores: u16, home: Home) -> Vec<Self> {
        let home = Arc::new(home);
        let empty = |core| Self {
            core: CoreId(core),
            senders: Vec::new(),
            receivers: Vec::new(),
            home: Arc::clone(&home),
            control: None,
        };
        let mut links: Vec<_> = (0..cores).map(empty).collect();
        for from in 0..cores {
            for to in 0..cores {
                let ends = (from != to).then(|| mailbox(MAILBOX_MESSAGES));
                let (sender, receiver) = ends.unzip();
                if let Some(link) = links.get_mut(usize::from(from)) {
                    link.senders.push(sender);
                }
                if let (Some(link), Some(receiver)) = (links.get_mut(usize::from(to)), receiver) {
                    link.receivers.push((CoreId(from), receiver));
                }
            }
        }
        links
    }

    /// The core these ends belong to.
    pub fn core(&self) -> CoreId {
        self.core
    }

    /// Lets the control plane decide what is to be planned; of use on the first core.
    #[must_use]
    pub fn controlled_by(mut self, link: ControlLink) -> Self {
        self.control = Some(link);
        self
    }

    pub(crate) fn take_control(&mut self) -> Option<ControlLink> {
        self.control.take()
    }

    /// How many cores there are.
    pub(crate) fn cores(&self) -> usize {
        self.senders.len()
    }

    /// The node's data directory.
    pub(crate) fn home(&self) -> Arc<Home> {
        Arc::clone(&self.home)
    }

    pub(crate) fn take_receivers(&mut self) -> Vec<(CoreId, MailboxReceiver<Message>)> {
        std::mem::take(&mut self.receivers)
    }
}

/// The way to one other core.
#[derive(Clone)]
pub(crate) struct Link {
    outbox: Outbox<Message>,
}

impl Link {
    /// Sends an answer. There is room for it by construction.
    pub(crate) fn answer(&self, message: Message) {
        if self.outbox.post(message).is_err() {
            tracing::error!("an answer to another core found its mailbox full or gone");
        }
    }
}

/// No more may be sent to that core now.
#[derive(Debug)]
pub(crate) struct Full;

struct Peer {
    link: Link,
    requests: Cell<usize>,
    bytes: Cell<usize>,
}

struct Pending {
    core: CoreId,
    bytes: usize,
    sender: oneshot::Sender<Reply>,
}

/// What this core has asked the others.
pub(crate) struct Router {
    peers: Vec<Option<Peer>>,
    next: Cell<u64>,
    pending: RefCell<BTreeMap<RequestId, Pending>>,
}

impl Router {
    pub(crate) fn new(links: &CoreLinks) -> Self {
        let peer = |sender: &MailboxSender<Message>| Peer {
            link: Link { outbox: sender.outbox() },
            requests: Cell::new(0),
            bytes: Cell::new(0),
        };
        Self {
            peers: links.senders.iter().map(|sender| sender.as_ref().map(peer)).collect(),
            next: Cell::new(0),
            pending: RefCell::new(BTreeMap::new()),
        }
    }

    /// The other cores.
    pub(crate) fn others(&self) -> impl Iterator<Item = CoreId> {
        let with_link = self.peers.iter().zip(0_u16..).filter(|(peer, _)| peer.is_some());
        with_link.map(|(_, core)| CoreId(core))
    }

    /// The way to another core.
    pub(crate) fn link(&self, core: CoreId) -> Option<Link> {
        self.peer(core).map(|peer| peer.link.clone())
    }

    /// Requests without an answer.
    pub(crate) fn depth(&self) -> usize {
        self.pending.borrow().len()
    }

    /// Sends a request; the answer comes through the receiver. Dropping that does not take it back.
    pub(crate) fn request(
        &self,
        core: CoreId,
        request: Request,
    ) -> Result<oneshot::Receiver<Reply>, Full> {
        let peer = self.peer(core).ok_or(Full)?;
        let own = matches!(
            request,
            Request::Catalog(_)
                | Request::Board(_)
                | Request::Report { .. }
                | Request::Stats
                | Request::Admin { .. }
        );
        let most = if own { REQUESTS_MAX + REQUESTS_OWN_MAX } else { REQUESTS_MAX };
        let bytes = match &request {
            Request::Produce { batch, .. } => batch.bytes.len(),
            _ => 0,
        };
        if buggify("broker-mailbox-full", 30) {
            return Err(Full);
        }
        let first = peer.bytes.get() == 0;
        if peer.requests.get() >= most || (!first && peer.bytes.get() + bytes > BYTES_MAX) {
            return Err(Full);
        }
        let id = RequestId(self.next.replace(self.next.get() + 1));
        peer.link.outbox.post(Message::Request { id, request }).map_err(|_| Full)?;
        peer.requests.set(peer.requests.get() + 1);
        peer.bytes.set(peer.bytes.get() + bytes);
        let (sender, receiver) = oneshot::channel();
        self.pending.borrow_mut().insert(id, Pending { core, bytes, sender });
        Ok(receiver)
    }

    /// An answer has come.
    pub(crate) fn answered(&self, id: RequestId, reply: Reply) {
        let Some(pending) = self.pending.borrow_mut().remove(&id) else {
            tracing::error!(?id, "an answer to a request that nobody sent");
            return;
        };
        if let Some(peer) = self.peer(pending.core) {
            peer.requests.set(peer.requests.get().saturating_sub(1));
            peer.bytes.set(peer.bytes.get().saturating_sub(pending.bytes));
        }
        drop(pending.sender.send(reply));
    }

    fn peer(&self, core: CoreId) -> Option<&Peer> {
        self.peers.get(usize::from(core.0)).and_then(Option::as_ref)
    }
}
