//! The connections of other nodes to this core: accepts them, watches them, lets them end.
//!
//! Must never: let one node take what others need; log what anybody can cause without end.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::future::{Future, poll_fn};
use std::pin::pin;
use std::rc::Rc;
use std::task::Poll;
use std::time::Duration;

use barrage_world::channel::Event;
use barrage_world::net::{Listener, Stream};
use barrage_world::{Instant, sleep, spawn};

use crate::contact::Contact;
use crate::handler::Handler;
use crate::identity::Identity;
use crate::options::Options;
use crate::session::{Session, SessionEnd};

/// How often all connections are looked at.
const SWEEP_INTERVAL: Duration = Duration::from_millis(500);
/// How often a drain looks whether everything has ended.
const DRAIN_INTERVAL: Duration = Duration::from_millis(5);
/// Log lines about odd connections in one sweep interval; the rest are counted.
const ODD_LINES_MAX: u32 = 10;

/// What the connections of a core share.
pub(crate) struct Shared {
    pub(crate) me: Identity,
    pub(crate) contact: Contact,
    pub(crate) handler: Rc<dyn Handler>,
    pub(crate) options: Options,
    pub(crate) is_stopping: Cell<bool>,
}

/// Serves other nodes on this core. Clones are handles to the same one.
#[derive(Clone)]
pub struct Acceptor {
    inner: Rc<Inner>,
}

struct Inner {
    shared: Rc<Shared>,
    sessions: RefCell<BTreeMap<u64, Rc<Session>>>,
    session_next: Cell<u64>,
    stop: Event,
    odd_lines: Cell<u32>,
}

impl Acceptor {
    /// Tells `contact` to whoever asks and hands requests to `handler`; serves no address yet.
    #[must_use]
    pub fn new(me: Identity, contact: Contact, handler: Rc<dyn Handler>, options: Options) -> Self {
        let shared = Shared { me, contact, handler, options, is_stopping: Cell::new(false) };
        let inner = Rc::new(Inner {
            shared: Rc::new(shared),
            sessions: RefCell::default(),
            session_next: Cell::new(0),
            stop: Event::new(),
            odd_lines: Cell::new(0),
        });
        let weak = Rc::downgrade(&inner);
        drop(spawn(async move {
            loop {
                sleep(SWEEP_INTERVAL).await;
                let Some(inner) = weak.upgrade() else { break };
                inner.sweep(Instant::now());
            }
        }));
        Self { inner }
    }

    /// Accepts connections of `listener` until [`Acceptor::drain`]: this core's own port, and its
    /// share of the port of first contact.
    pub fn serve(&self, listener: Listener) {
        let inner = Rc::clone(&self.inner);
        drop(spawn(async move { inner.accept(listener).await }));
    }

    /// Connections open now.
    #[must_use]
    pub fn connections(&self) -> usize {
        self.inner.sessions.borrow().len()
    }

    /// Bytes of requests and answers that are here, over all connections.
    #[must_use]
    pub fn held_bytes(&self) -> u64 {
        self.inner.sessions.borrow().values().map(|session| session.held_bytes()).sum()
    }

    /// Stops accepting and refuses requests from now on, lets those under way end until
    /// `deadline`, then closes every connection.
    pub async fn drain(&self, deadline: Instant) {
        let inner = &self.inner;
        inner.shared.is_stopping.set(true);
        inner.stop.notify_all();
        while !inner.is_finished() && Instant::now() < deadline {
            sleep(DRAIN_INTERVAL).await;
        }
        let sessions: Vec<_> = inner.sessions.borrow().values().map(Rc::clone).collect();
        for session in sessions {
            session.close(SessionEnd::Stopping);
        }
    }
}

impl Inner {
    fn is_finished(&self) -> bool {
        self.sessions.borrow().values().all(|session| session.is_finished())
    }

    async fn accept(self: &Rc<Self>, listener: Listener) {
        loop {
            let stop = self.stop.listen();
            if self.shared.is_stopping.get() {
                return;
            }
            let (mut stop, mut accept) = (pin!(stop), pin!(listener.accept()));
            let accepted = poll_fn(|context| {
                if stop.as_mut().poll(context).is_ready() {
                    return Poll::Ready(None);
                }
                accept.as_mut().poll(context).map(Some)
            });
            match accepted.await {
                None => return,
                Some(Ok((stream, _))) => self.open(stream),
                Some(Err(error)) => {
                    tracing::warn!(address = %listener.local_addr(), %error, "cannot accept");
                    // Out of something: give the closing connections time to return it.
                    sleep(SWEEP_INTERVAL).await;
                }
            }
        }
    }

    fn open(self: &Rc<Self>, stream: Stream) {
        let peer = stream.peer_addr();
        if self.sessions.borrow().len() >= self.shared.options.connections_max {
            self.odd(&stream, "turned away: too many connections");
            return;
        }
        // Answers are gathered before they are written: waiting for more gains nothing.
        drop(stream.set_nodelay(true));
        drop(stream.set_keepalive(self.shared.options.keepalive));
        let id = self.session_next.replace(self.session_next.get() + 1);
        let session = Session::new(stream, Rc::clone(&self.shared));
        self.sessions.borrow_mut().insert(id, Rc::clone(&session));
        let inner = Rc::clone(self);
        drop(spawn(async move {
            let reason = session.run().await;
            if reason.is_odd() {
                inner.odd(&session.stream, &reason.to_string());
            } else {
                tracing::debug!(%peer, %reason, "connection of a node closed");
            }
            inner.sessions.borrow_mut().remove(&id);
        }));
    }

    /// One line about a connection that did not behave; many at once are only counted.
    fn odd(&self, stream: &Stream, reason: &str) {
        let lines = self.odd_lines.get();
        self.odd_lines.set(lines.saturating_add(1));
        if lines < ODD_LINES_MAX {
            tracing::warn!(peer = %stream.peer_addr(), reason, "connection of a node closed");
        }
    }

    /// Closes what took too long.
    fn sweep(&self, now: Instant) {
        let hidden = self.odd_lines.replace(0).saturating_sub(ODD_LINES_MAX);
        if hidden > 0 {
            tracing::warn!(hidden, "more connections were closed for such reasons");
        }
        for session in self.sessions.borrow().values() {
            if let Some(reason) = session.verdict(now, &self.shared.options) {
                session.close(reason);
            }
        }
    }
}
