//! The gateway of one core: accepts connections, watches their clocks, lets them end in order.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::future::{Future, poll_fn};
use std::pin::pin;
use std::rc::Rc;
use std::task::Poll;
use std::time::Duration;

use barrage_broker::Broker;
use barrage_wire::{Correlation, ErrorCode, ErrorReply, Opcode, Response};
use barrage_world::channel::Event;
use barrage_world::net::{Listener, Stream};
use barrage_world::{Instant, sleep, spawn};
use bytes::BytesMut;

use crate::budget::{Backlog, Budget};
use crate::close::CloseReason;
use crate::options::Options;
use crate::session::Session;
use crate::translate::NodeFacts;

/// How often the clocks of all connections are looked at.
const SWEEP_INTERVAL: Duration = Duration::from_millis(500);
/// How often a drain looks whether everything has ended.
const DRAIN_INTERVAL: Duration = Duration::from_millis(5);
/// Log lines about odd connections in one sweep interval; the rest are counted.
const ODD_LINES_MAX: u32 = 10;

/// What the sessions of a core share.
pub(crate) struct Shared {
    pub(crate) broker: Broker,
    pub(crate) options: Options,
    pub(crate) facts: NodeFacts,
    /// Requests under way on this core.
    pub(crate) received: Rc<Budget>,
    /// Replies not yet taken.
    pub(crate) backlog: Backlog,
    pub(crate) is_stopping: Cell<bool>,
}

/// One core's native gateway; clones are handles to the same one.
#[derive(Clone)]
pub struct Gateway {
    inner: Rc<Inner>,
}

struct Inner {
    shared: Rc<Shared>,
    sessions: RefCell<BTreeMap<u64, Rc<Session>>>,
    session_next: Cell<u64>,
    stop: Event,
    odd_lines: Cell<u32>,
}

impl Gateway {
    /// A gateway to `broker` that serves no address yet.
    #[must_use]
    pub fn new(broker: Broker, options: Options) -> Self {
        let received = Budget::new(u64::MAX, options.receive_bytes_max);
        let backlog = Backlog::new(options.reply_bytes_max);
        let facts = NodeFacts { version: options.version.clone(), started: Instant::now() };
        let is_stopping = Cell::new(false);
        let shared = Shared { broker, options, facts, received, backlog, is_stopping };
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

    /// Accepts connections of `listener` until [`Gateway::drain`].
    pub fn serve(&self, listener: Listener) {
        let inner = Rc::clone(&self.inner);
        drop(spawn(async move { inner.accept(listener).await }));
    }

    /// Connections open now.
    #[must_use]
    pub fn connections(&self) -> usize {
        self.inner.sessions.borrow().len()
    }

    /// Stops accepting and taking requests, lets those under way end until `deadline`, then closes
    /// every connection. The broker must still be running.
    pub async fn drain(&self, deadline: Instant) {
        let inner = &self.inner;
        inner.shared.is_stopping.set(true);
        inner.stop.notify_all();
        inner.sessions().iter().for_each(|session| session.release_fetches());
        let unfinished = || inner.sessions().iter().any(|session| !session.is_finished());
        while unfinished() && Instant::now() < deadline {
            sleep(DRAIN_INTERVAL).await;
        }
        for session in inner.sessions() {
            session.close(CloseReason::Stopping);
        }
    }
}

impl Inner {
    /// The sessions there are now; they may end while the caller looks at them.
    fn sessions(&self) -> Vec<Rc<Session>> {
        self.sessions.borrow().values().map(Rc::clone).collect()
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
        if self.sessions.borrow().len() >= self.shared.options.connections_max {
            self.odd(&stream, "turned away: too many connections");
            drop(spawn(turn_away(stream)));
            return;
        }
        // Replies are gathered before they are written: waiting for more gains nothing.
        drop(stream.set_nodelay(true));
        let id = self.session_next.replace(self.session_next.get() + 1);
        let session = Session::new(stream, Rc::clone(&self.shared));
        self.sessions.borrow_mut().insert(id, Rc::clone(&session));
        self.report_connections();
        let inner = Rc::clone(self);
        drop(spawn(async move {
            let reason = session.run().await;
            if reason.is_odd() {
                inner.odd(&session.stream, &reason.to_string());
            } else {
                tracing::debug!(peer = %session.stream.peer_addr(), %reason, "connection closed");
            }
            inner.sessions.borrow_mut().remove(&id);
            inner.report_connections();
        }));
    }

    fn report_connections(&self) {
        self.shared.broker.set_connections(self.sessions.borrow().len() as u64);
    }

    /// One line about a connection that did not behave; many at once are only counted, so that
    /// nobody can fill the log from outside.
    fn odd(&self, stream: &Stream, reason: &str) {
        let lines = self.odd_lines.get();
        self.odd_lines.set(lines.saturating_add(1));
        if lines < ODD_LINES_MAX {
            tracing::warn!(peer = %stream.peer_addr(), reason, "connection closed");
        }
    }

    /// Closes what took too long.
    fn sweep(&self, now: Instant) {
        let hidden = self.odd_lines.replace(0).saturating_sub(ODD_LINES_MAX);
        if hidden > 0 {
            tracing::warn!(hidden, "more connections were closed for such reasons");
        }
        for session in self.sessions.borrow().values() {
            if let Some(reason) = session.timing().verdict(now, &self.shared.options) {
                session.close(reason);
            }
        }
    }
}

/// Tells a client that there is no room for it.
async fn turn_away(stream: Stream) {
    let error = ErrorReply::new(ErrorCode::TooManyConnections, "too many connections");
    let opcode = Opcode::Hello.request_code();
    let mut bytes = BytesMut::new();
    Response::Error { opcode, error }.encode(Correlation(0), &mut bytes);
    // A fresh socket has room for these few bytes; if not, the close says it too.
    drop(stream.write_all(&bytes).await);
}
