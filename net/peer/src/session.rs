//! One connection of another node: reads requests, has them answered, writes the answers.
//!
//! One task reads, one writes while there is something to write, and one runs for every request
//! that is not answered at once.
//!
//! ```text
//!   read --frame--> take up --> reply ready at its first poll --> outbox --> write
//!     ^                     `-> a task of its own, until `within` --^          |
//!     '------------- waits while too many bytes are held <---------------------'
//! ```
//! Bytes are held from the frame's arrival (a large one: from its announcement) until its answer
//! is written. Invariants: every request is answered or refused once, or its connection is closed;
//! what one connection holds never makes another one wait.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::future::poll_fn;
use std::io;
use std::net::Shutdown;
use std::rc::Rc;
use std::task::Poll;
use std::time::Duration;

use barrage_world::channel::Event;
use barrage_world::net::Stream;
use barrage_world::{Instant, spawn, timeout, yield_now};
use bytes::Bytes;

use crate::accept::Shared;
use crate::batch::Batch;
use crate::frame::{FrameError, Header, Kind, Refusal};
use crate::handler::Reply;
use crate::inbox::{Frame, Inbox, is_large};
use crate::options::Options;

/// What a request or an answer counts for beside its bytes: tasks and queue slots are not free.
const FRAME_BYTES_EXTRA: u64 = 1024;

/// A connection from another node.
pub(crate) struct Session {
    pub(crate) stream: Stream,
    shared: Rc<Shared>,
    outbox: RefCell<VecDeque<(Header, Bytes)>>,
    is_writing: Cell<bool>,
    is_within_frame: Cell<bool>,
    is_waiting_for_room: Cell<bool>,
    held_bytes: Cell<u64>,
    /// Told when fewer bytes are held, and at the end.
    released: Event,
    /// When bytes last came or went.
    moved: Cell<Instant>,
    reason: RefCell<Option<SessionEnd>>,
}

/// Why a connection ends.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SessionEnd {
    #[error("the other side has ended it")]
    Ended,
    #[error("it ended within a frame")]
    Truncated,
    #[error("{0}")]
    Io(#[from] io::Error),
    #[error("{0}")]
    Frame(#[from] FrameError),
    #[error("{0:?} is nothing that is sent here")]
    Strange(Kind),
    #[error("nothing moved for too long")]
    Stalled,
    #[error("idle for too long")]
    Idle,
    #[error("this node is stopping")]
    Stopping,
}

impl SessionEnd {
    /// Whether an operator should see it.
    pub(crate) const fn is_odd(&self) -> bool {
        matches!(self, Self::Frame(_) | Self::Strange(_) | Self::Stalled)
    }
}

impl Session {
    pub(crate) fn new(stream: Stream, shared: Rc<Shared>) -> Rc<Self> {
        Rc::new(Self {
            stream,
            shared,
            outbox: RefCell::default(),
            is_writing: Cell::new(false),
            is_within_frame: Cell::new(false),
            is_waiting_for_room: Cell::new(false),
            held_bytes: Cell::new(0),
            released: Event::new(),
            moved: Cell::new(Instant::now()),
            reason: RefCell::new(None),
        })
    }

    /// Serves the connection to its end, and says why it ended.
    pub(crate) async fn run(self: &Rc<Self>) -> SessionEnd {
        let mut inbox = Inbox::new(self.shared.options.body_bytes_max);
        let ended = self.receive(&mut inbox).await;
        self.close(ended.err().unwrap_or(SessionEnd::Ended));
        self.reason.take().unwrap_or(SessionEnd::Ended)
    }

    /// Closes the connection; its tasks notice. The first reason counts.
    pub(crate) fn close(&self, reason: SessionEnd) {
        self.reason.borrow_mut().get_or_insert(reason);
        self.outbox.borrow_mut().clear();
        self.released.notify_all();
        // Fails only when the other side was faster.
        drop(self.stream.shutdown(Shutdown::Both));
    }

    /// Bytes of requests and answers that are here.
    pub(crate) fn held_bytes(&self) -> u64 {
        self.held_bytes.get()
    }

    /// Whether every request is answered and every answer written.
    pub(crate) fn is_finished(&self) -> bool {
        self.is_closed() || self.held_bytes.get() == 0
    }

    /// Why the connection should be closed now, if so.
    pub(crate) fn verdict(&self, now: Instant, options: &Options) -> Option<SessionEnd> {
        let silent = now.saturating_duration_since(self.moved.get());
        let is_reading = self.is_within_frame.get() && !self.is_waiting_for_room.get();
        if (is_reading || self.is_writing.get()) && silent > options.stall_timeout {
            return Some(SessionEnd::Stalled);
        }
        let is_idle = self.held_bytes.get() == 0 && silent > options.idle_timeout;
        is_idle.then_some(SessionEnd::Idle)
    }

    fn is_closed(&self) -> bool {
        self.reason.borrow().is_some()
    }

    async fn receive(self: &Rc<Self>, inbox: &mut Inbox) -> Result<(), SessionEnd> {
        // Bytes of the frame at the front that are counted already.
        let mut counted = 0;
        loop {
            while let Some(frame) = inbox.next_frame()? {
                let size = held_size(&frame.header);
                self.hold(size - std::mem::take(&mut counted));
                self.take_up(frame).await?;
            }
            self.is_within_frame.set(inbox.is_within_frame());
            let large = inbox.header()?.filter(is_large);
            if let Some(header) = large.filter(|_| counted == 0) {
                // Counted before it is reserved: what is announced is memory from here on.
                self.has_room(held_size(&header)).await;
                counted = held_size(&header);
                self.hold(counted);
            } else if counted == 0 {
                self.has_room(0).await;
            }
            if self.is_closed() {
                return Err(SessionEnd::Ended);
            }
            if self.read(inbox).await? == 0 {
                return match inbox.is_within_frame() {
                    true => Err(SessionEnd::Truncated),
                    false => Ok(()),
                };
            }
        }
    }

    async fn read(&self, inbox: &mut Inbox) -> Result<usize, SessionEnd> {
        if !inbox.is_within_frame() {
            inbox.release();
            self.stream.readable().await?;
        }
        let buffer = inbox.buffer()?;
        let room = buffer.capacity() - buffer.len();
        let count = self.stream.read_buf(buffer).await?;
        inbox.received(count, room);
        self.moved.set(Instant::now());
        Ok(count)
    }

    /// Waits until `bytes` more may be held here; more than that alone is let through.
    async fn has_room(&self, bytes: u64) {
        let options = &self.shared.options;
        while !self.is_closed() {
            let held = self.held_bytes.get();
            let fits = held.saturating_add(bytes) <= options.serving_bytes_max;
            if held == 0 || fits {
                break;
            }
            self.is_waiting_for_room.set(true);
            self.released.listen().await;
            self.moved.set(Instant::now());
        }
        self.is_waiting_for_room.set(false);
    }

    fn hold(&self, bytes: u64) {
        self.held_bytes.set(self.held_bytes.get() + bytes);
    }

    fn release(&self, bytes: u64) {
        assert!(self.held_bytes.get() >= bytes, "more bytes released than were held");
        self.held_bytes.set(self.held_bytes.get() - bytes);
        self.released.notify_all();
    }

    async fn take_up(self: &Rc<Self>, frame: Frame) -> Result<(), SessionEnd> {
        let Frame { header, body } = frame;
        if let Some(refusal) = self.refusal(&header) {
            self.answer(&header, Err(refusal));
            return Ok(());
        }
        match header.kind {
            Kind::Contact => self.push(&header, Kind::ContactAnswer, self.shared.contact.encode()),
            Kind::Request => self.handle(header, body).await,
            other => return Err(SessionEnd::Strange(other)),
        }
        Ok(())
    }

    fn refusal(&self, header: &Header) -> Option<Refusal> {
        let (shared, is_request) = (&self.shared, header.kind == Kind::Request);
        if header.cluster != shared.me.cluster {
            return Some(Refusal::WrongCluster);
        }
        if header.to != shared.me.node {
            return Some(Refusal::WrongNode);
        }
        (is_request && shared.is_stopping.get()).then_some(Refusal::Stopping)
    }

    async fn handle(self: &Rc<Self>, header: Header, body: Bytes) {
        let mut reply = self.shared.handler.handle(header.shard, header.from, body);
        // Here, and not in the task: requests are begun in the order they came.
        let polled = poll_fn(|context| Poll::Ready(reply.as_mut().poll(context))).await;
        if let Poll::Ready(outcome) = polled {
            self.answer(&header, outcome);
            return;
        }
        let session = Rc::clone(self);
        drop(spawn(async move { session.finish(header, reply).await }));
    }

    async fn finish(self: &Rc<Self>, header: Header, reply: Reply) {
        let within = Duration::from_millis(u64::from(header.within_ms));
        let outcome = timeout(within, reply).await.unwrap_or(Err(Refusal::TooLate));
        self.answer(&header, outcome);
    }

    fn answer(self: &Rc<Self>, request: &Header, outcome: Result<Bytes, Refusal>) {
        match outcome {
            Ok(body) if body.len() <= self.shared.options.body_bytes_max as usize => {
                self.push(request, Kind::Answer, body);
            }
            Ok(body) => {
                let size = body.len();
                tracing::error!(shard = %request.shard, size, "an answer is too large");
                self.push(request, Kind::Refused(Refusal::Damaged), Bytes::new());
            }
            Err(refusal) => self.push(request, Kind::Refused(refusal), Bytes::new()),
        }
    }

    /// Queues the answer in place of its request, and sees that it is written.
    fn push(self: &Rc<Self>, request: &Header, kind: Kind, body: Bytes) {
        let header = Header {
            shard: request.shard,
            // Bounded by whoever made it.
            body_size: u32::try_from(body.len()).unwrap_or(u32::MAX),
            ..Header::new(kind, self.shared.me, request.from, request.number)
        };
        self.hold(held_size(&header));
        self.release(held_size(request));
        if self.is_closed() {
            self.release(held_size(&header));
            return;
        }
        self.outbox.borrow_mut().push_back((header, body));
        if !self.is_writing.replace(true) {
            self.moved.set(Instant::now());
            let session = Rc::clone(self);
            drop(spawn(async move { session.write().await }));
        }
    }

    /// Writes what waits: all that the tasks which are ready now push leaves together.
    async fn write(&self) {
        // A new task runs at once, inside of its spawner; those that are ready come first.
        yield_now().await;
        while !self.is_closed() {
            let (mut batch, mut size) = (Batch::default(), 0);
            while !batch.is_full()
                && let Some((header, body)) = self.outbox.borrow_mut().pop_front()
            {
                size += held_size(&header);
                batch.push(&header, body.into());
            }
            if batch.is_empty() {
                break;
            }
            for write in batch.writes() {
                if let Err(error) = self.stream.write_vectored_all(&write).await {
                    self.close(SessionEnd::Io(error));
                    break;
                }
                self.moved.set(Instant::now());
            }
            self.release(size);
        }
        self.is_writing.set(false);
    }
}

/// What a frame counts for while it is held.
const fn held_size(header: &Header) -> u64 {
    header.frame_size() as u64 + FRAME_BYTES_EXTRA
}
