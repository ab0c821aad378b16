//! One connection: its state machine, its requests under way, its end.
//!
//! ```text
//! accepted --Hello--> open --client ends / error / timeout / stop--> ending --> closed
//!     |                                                                 ^
//!     +----anything else, or nothing in time----------------------------+
//!
//! ending: no more requests are taken, waiting fetches are let go, replies under way are
//!         written, a farewell if there is one; then the socket is closed.
//! ```
//! One task reads ([`Session::run`]), one writes while there is something to write
//! (`crate::write`), one runs per request. The sweep of the gateway watches the clock. Requests
//! hold a [`Permit`]; when a connection or the core has too much under way, its task stops reading
//! and TCP slows the client.

mod produce;

use std::cell::{Cell, RefCell};
use std::future::{Future, poll_fn};
use std::net::Shutdown;
use std::pin::pin;
use std::rc::Rc;
use std::task::Poll;
use std::time::Duration;

use barrage_broker::FetchedBytes;
use barrage_wire::{
    Correlation, ErrorCode, ErrorReply, FetchReply, FetchRequest, Frame, FrameHeader, Hello,
    HelloReply, Opcode, QueueReceive, QueueReceiveReply, Request, Response,
};
use barrage_world::channel::Event;
use barrage_world::net::Stream;
use barrage_world::{Instant, spawn, timeout};
use bytes::BytesMut;

use crate::budget::{Budget, Permit};
use crate::close::CloseReason;
use crate::error;
use crate::gateway::Shared;
use crate::inbox::{Inbox, is_large};
use crate::outbox::Outbox;
use crate::queue::{self, GroupRequest};
use crate::stream::StreamRequest;
use crate::timing::Timing;
use crate::translate::{self, Administration};
use crate::write;

/// Batches up to this size are copied out of the chunk they were received in, so that one small
/// batch does not hold a whole chunk while it is under way.
const BATCH_SIZE_COPIED: usize = 1024;
/// How long a closing connection may take to deliver its last replies.
const FLUSH_TIMEOUT: Duration = Duration::from_secs(5);
/// How long the rest of what a refused client sends is read away, so that it sees the farewell
/// before the reset.
const LINGER: Duration = Duration::from_millis(500);
/// How long the simulator may hold a reply back.
const REPLY_DELAY: Duration = Duration::from_millis(30);

/// A connection of this core.
pub(crate) struct Session {
    pub(crate) stream: Stream,
    pub(crate) outbox: RefCell<Outbox>,
    pub(crate) is_writing: Cell<bool>,
    pub(crate) write_began: Cell<Option<Instant>>,
    /// Told whenever the writer ends.
    pub(crate) flushed: Event,
    shared: Rc<Shared>,
    budget: Rc<Budget>,
    /// Told whenever a request under way ends.
    ended: Event,
    /// Told when the session ends: waiting fetches let go.
    ending: Event,
    is_ending: Cell<bool>,
    close_reason: RefCell<Option<CloseReason>>,
    opened: Instant,
    active: Cell<Instant>,
    is_open: Cell<bool>,
    frame_began: Cell<Option<(Instant, u64)>>,
}

impl Session {
    pub(crate) fn new(stream: Stream, shared: Rc<Shared>) -> Rc<Self> {
        let now = Instant::now();
        let options = &shared.options;
        let budget = Budget::new(
            u64::from(options.in_flight_requests_max),
            u64::from(options.in_flight_bytes_max),
        );
        Rc::new(Self {
            stream,
            outbox: RefCell::default(),
            is_writing: Cell::new(false),
            write_began: Cell::new(None),
            flushed: Event::new(),
            shared,
            budget,
            ended: Event::new(),
            ending: Event::new(),
            is_ending: Cell::new(false),
            close_reason: RefCell::new(None),
            opened: now,
            active: Cell::new(now),
            is_open: Cell::new(false),
            frame_began: Cell::new(None),
        })
    }

    /// Serves the connection to its end and returns why it ended.
    pub(crate) async fn run(self: &Rc<Self>) -> CloseReason {
        let mut inbox = Inbox::new(FRAME_BYTES_MAX_BEFORE_HANDSHAKE);
        let ended = self.receive(&mut inbox).await;
        let reason = ended.err().unwrap_or(CloseReason::Client);
        self.begin_end();
        let farewell = reason.farewell();
        if let Some(error) = &farewell {
            let (opcode, correlation) = farewell_address(&reason, &mut inbox);
            self.reply(correlation, &Response::Error { opcode, error: error.clone() });
        }
        let _late = timeout(FLUSH_TIMEOUT, self.finished()).await;
        if farewell.is_some() {
            self.linger().await;
        }
        let reason = self.close_reason.take().unwrap_or(reason);
        self.close(CloseReason::Client);
        reason
    }

    async fn receive(self: &Rc<Self>, inbox: &mut Inbox) -> Result<(), CloseReason> {
        let Some((frame, permit)) = self.next_frame(inbox).await? else { return Ok(()) };
        self.greet(&frame)?;
        drop(permit);
        inbox.set_length_max(self.shared.options.frame_bytes_max);
        self.is_open.set(true);
        while let Some((frame, permit)) = self.next_frame(inbox).await? {
            self.take_up(frame, permit)?;
        }
        Ok(())
    }

    /// The next whole frame with its share of the budgets; `None` when the client has ended.
    async fn next_frame(&self, inbox: &mut Inbox) -> Result<Option<(Frame, Permit)>, CloseReason> {
        let mut permit = None;
        loop {
            if let Some(frame) = inbox.next_frame()? {
                self.frame_began.set(None);
                let size = frame.header.frame_size() as u64;
                let permit = permit.take().unwrap_or_else(|| self.permit(size));
                return Ok(Some((frame, permit)));
            }
            let large = inbox.header()?.filter(is_large);
            let claimed = large.map_or(0, |header| header.frame_size() as u64);
            if permit.is_none() {
                self.admitted(claimed).await;
            }
            if permit.is_none() && large.is_some() {
                // Charged before it is reserved: what a client claims is memory from here on.
                permit = Some(self.permit(claimed));
            }
            if self.read(inbox).await? == 0 {
                return match inbox.is_within_frame() {
                    true => Err(CloseReason::Truncated),
                    false => Ok(None),
                };
            }
            if self.is_ending.get() {
                return Err(CloseReason::Stopping);
            }
        }
    }

    fn permit(&self, bytes: u64) -> Permit {
        Permit::take(&self.budget, &self.shared.received, bytes)
    }

    /// Waits until this connection and this core have room for `bytes` more.
    async fn admitted(&self, bytes: u64) {
        while !self.budget.admits(bytes) || !self.shared.received.admits(bytes) {
            self.frame_began.set(None);
            self.budget.admitted(bytes).await;
            self.shared.received.admitted(bytes).await;
            self.active.set(Instant::now());
        }
    }

    async fn read(&self, inbox: &mut Inbox) -> Result<usize, CloseReason> {
        if inbox.is_within_frame() {
            if self.frame_began.get().is_none() {
                let size = inbox.header()?.map_or(0, |header| header.frame_size() as u64);
                self.frame_began.set(Some((Instant::now(), size)));
            }
        } else {
            inbox.release();
            self.stream.readable().await?;
        }
        let buffer = inbox.buffer()?;
        let room = buffer.capacity() - buffer.len();
        let count = self.stream.read_buf(buffer).await?;
        inbox.received(count, room);
        self.active.set(Instant::now());
        Ok(count)
    }

    /// The handshake.
    fn greet(self: &Rc<Self>, frame: &Frame) -> Result<(), CloseReason> {
        if frame.header.opcode != Opcode::Hello.request_code() {
            return Err(CloseReason::NoHello { opcode: frame.header.opcode });
        }
        let request = Request::decode(&frame.header, &frame.body).map_err(CloseReason::BadHello)?;
        let Request::Hello(hello) = request else {
            return Err(CloseReason::NoHello { opcode: frame.header.opcode });
        };
        if hello.client_name.len() > Hello::CLIENT_NAME_BYTES_MAX {
            return Err(CloseReason::ClientName { size: hello.client_name.len() });
        }
        let Some(version) = hello.version_agreed() else {
            let (version_min, version_max) = (hello.version_min, hello.version_max);
            return Err(CloseReason::Version { version_min, version_max });
        };
        let peer = self.stream.peer_addr();
        tracing::debug!(%peer, client = hello.client_name, "session open");
        self.reply(
            frame.header.correlation,
            &Response::Hello(HelloReply {
                version,
                node: self.shared.broker.node(),
                core: self.shared.broker.core(),
                limits: self.shared.options.session_limits(),
                server_name: self.shared.options.server_name.clone(),
            }),
        );
        Ok(())
    }

    /// Starts a request. Whatever is wrong with it alone is answered; an error here ends the
    /// connection.
    fn take_up(self: &Rc<Self>, frame: Frame, permit: Permit) -> Result<(), CloseReason> {
        let Frame { header, body } = frame;
        let correlation = header.correlation;
        let request = match Request::decode(&header, &body) {
            Ok(request) => request,
            Err(error) => {
                self.refuse(&header, ErrorReply::new(error.code(), error.to_string()));
                return Ok(());
            }
        };
        if self.shared.is_stopping.get() {
            let error = ErrorReply::new(ErrorCode::ShuttingDown, "the server is stopping");
            self.refuse(&header, error);
            return Ok(());
        }
        let (group, stream) = (Administration::Group, Administration::Stream);
        let request = match request {
            Request::Hello(_) => return Err(CloseReason::HelloTwice),
            Request::Ping => {
                self.reply(correlation, &Response::Ping);
                return Ok(());
            }
            Request::Produce(request) => {
                self.produce(correlation, &request, &body, permit);
                return Ok(());
            }
            Request::ProduceDelayed(request) => {
                self.produce_delayed(correlation, request, &body, permit);
                return Ok(());
            }
            Request::Fetch(request) => {
                self.fetch(correlation, request, permit);
                return Ok(());
            }
            Request::Metadata(request) => Administration::Metadata(request),
            Request::Stats => Administration::Stats,
            Request::InitProducer => Administration::InitProducer,
            Request::DelayChange(request) => group(GroupRequest::DelayChange(request)),
            Request::DelayList(request) => group(GroupRequest::DelayList(request)),
            Request::ProducerClaim(request) => Administration::ProducerClaim(request),
            Request::ListOffset(request) => Administration::ListOffset(request),
            Request::TopicCreate(request) => Administration::TopicCreate(request),
            Request::TopicAlter(request) => Administration::TopicAlter(request),
            Request::TopicDelete(request) => Administration::TopicDelete(request),
            Request::TopicList => Administration::TopicList,
            Request::TopicDescribe(request) => Administration::TopicDescribe(request),
            Request::ClusterDescribe => Administration::ClusterDescribe,
            Request::ClusterChange(change) => Administration::ClusterChange(change),
            Request::QueueReceive(request) => {
                self.receive_leases(correlation, request, permit);
                return Ok(());
            }
            Request::GroupCreate(request) => group(GroupRequest::Create(request)),
            Request::GroupAlter(request) => group(GroupRequest::Alter(request)),
            Request::GroupDelete(request) => group(GroupRequest::Delete(request)),
            Request::GroupList(request) => group(GroupRequest::List(request)),
            Request::QueueSettle(request) => group(GroupRequest::Settle(request)),
            Request::QueuePeek(request) => group(GroupRequest::Peek(request)),
            Request::QueueSeek(request) => group(GroupRequest::Seek(request)),
            Request::QueueCounts(request) => group(GroupRequest::Counts(request)),
            Request::StreamHeartbeat(request) => stream(StreamRequest::Heartbeat(request)),
            Request::StreamLeave(request) => stream(StreamRequest::Leave(request)),
            Request::StreamCommit(request) => stream(StreamRequest::Commit(request)),
            Request::StreamOffsets(request) => stream(StreamRequest::Offsets(request)),
            Request::StreamReset(request) => stream(StreamRequest::Reset(request)),
            Request::StreamDescribe(request) => stream(StreamRequest::Describe(request)),
        };
        self.administer(header.opcode, correlation, request, permit);
        Ok(())
    }

    fn refuse(self: &Rc<Self>, header: &FrameHeader, error: ErrorReply) {
        self.reply(header.correlation, &Response::Error { opcode: header.opcode, error });
    }

    fn fetch(self: &Rc<Self>, correlation: Correlation, request: FetchRequest, permit: Permit) {
        let request = translate::fetch_request(&request, Instant::now());
        let session = Rc::clone(self);
        let task = async move {
            let work = async {
                session.shared.backlog.below_limit().await;
                session.shared.broker.fetch(request).await
            };
            let fetched = session.until_end(work).await;
            drop(permit);
            let error = match fetched {
                Some(Ok(fetched)) => {
                    let head = FetchReply {
                        high_watermark: fetched.high_watermark,
                        start_offset: fetched.start_offset,
                        batches: &[],
                    };
                    session.answer_fetch(correlation, &head, fetched.batches);
                    return;
                }
                Some(Err(error)) => error::fetch(&error),
                None => ErrorReply::new(ErrorCode::ShuttingDown, "the connection is ending"),
            };
            let opcode = Opcode::Fetch.request_code();
            session.answer(correlation, &Response::Error { opcode, error });
        };
        drop(spawn(task));
    }

    fn receive_leases(
        self: &Rc<Self>,
        correlation: Correlation,
        request: QueueReceive,
        permit: Permit,
    ) {
        let request = queue::receive_request(&request, Instant::now());
        let session = Rc::clone(self);
        let task = async move {
            let work = async {
                session.shared.backlog.below_limit().await;
                session.shared.broker.receive(request).await
            };
            let received = session.until_end(work).await;
            drop(permit);
            let error = match received {
                Some(Ok(received)) => {
                    let head = queue::received(&received);
                    session.answer_received(correlation, &head, received.batches);
                    return;
                }
                Some(Err(error)) => error::queue(&error),
                None => ErrorReply::new(ErrorCode::ShuttingDown, "the connection is ending"),
            };
            let opcode = Opcode::QueueReceive.request_code();
            session.answer(correlation, &Response::Error { opcode, error });
        };
        drop(spawn(task));
    }

    fn administer(
        self: &Rc<Self>,
        opcode: u16,
        correlation: Correlation,
        request: Administration,
        permit: Permit,
    ) {
        let session = Rc::clone(self);
        let task = async move {
            let shared = &session.shared;
            let deadline = translate::deadline(0, Instant::now(), &shared.options);
            let done = translate::administer(&shared.broker, request, deadline, &shared.facts);
            let response = match done.await {
                Ok(response) => response,
                Err(error) => Response::Error { opcode, error },
            };
            drop(permit);
            session.answer(correlation, &response);
        };
        drop(spawn(task));
    }

    /// Runs `work` until it is done or the session ends.
    async fn until_end<T>(&self, work: impl Future<Output = T>) -> Option<T> {
        let mut ending = self.ending.listen();
        if self.is_ending.get() || self.shared.is_stopping.get() {
            return None;
        }
        let mut work = pin!(work);
        poll_fn(|context| {
            if let Poll::Ready(done) = work.as_mut().poll(context) {
                return Poll::Ready(Some(done));
            }
            pin!(&mut ending).poll(context).map(|()| None)
        })
        .await
    }

    /// Replies to a request that was under way.
    fn answer(self: &Rc<Self>, correlation: Correlation, response: &Response<'_>) {
        self.active.set(Instant::now());
        self.reply(correlation, response);
        self.ended.notify_all();
    }

    fn answer_fetch(
        self: &Rc<Self>,
        correlation: Correlation,
        head: &FetchReply<'_>,
        batches: Vec<FetchedBytes>,
    ) {
        self.active.set(Instant::now());
        if self.close_reason.borrow().is_none() {
            let size = self.outbox.borrow_mut().push_fetched(correlation, head, batches);
            self.shared.backlog.grow(size as u64);
            write::kick(self);
        }
        self.ended.notify_all();
    }

    fn answer_received(
        self: &Rc<Self>,
        correlation: Correlation,
        head: &QueueReceiveReply<'_>,
        batches: Vec<FetchedBytes>,
    ) {
        self.active.set(Instant::now());
        if self.close_reason.borrow().is_none() {
            let size = self.outbox.borrow_mut().push_received(correlation, head, batches);
            self.shared.backlog.grow(size as u64);
            write::kick(self);
        }
        self.ended.notify_all();
    }

    /// Puts a reply into the outbox and sees that it is written.
    fn reply(self: &Rc<Self>, correlation: Correlation, response: &Response<'_>) {
        // After a close nobody reads.
        if self.close_reason.borrow().is_some() {
            return;
        }
        let size = self.outbox.borrow_mut().push(correlation, response);
        self.shared.backlog.grow(size as u64);
        write::kick(self);
    }

    /// Told by the writer.
    pub(crate) fn replies_written(&self, bytes: u64) {
        self.shared.backlog.shrink(bytes);
    }

    /// Takes no more requests and lets waiting fetches go.
    fn begin_end(&self) {
        self.is_ending.set(true);
        self.release_fetches();
    }

    /// Lets waiting fetches go: they are answered with an error.
    pub(crate) fn release_fetches(&self) {
        self.ending.notify_all();
    }

    /// Whether nothing is under way and everything is written.
    pub(crate) fn is_finished(&self) -> bool {
        self.budget.is_empty() && self.outbox.borrow().is_empty() && !self.is_writing.get()
    }

    /// Waits until nothing is under way and everything is written.
    async fn finished(&self) {
        while !self.is_finished() {
            let (ended, flushed) = (self.ended.listen(), self.flushed.listen());
            if self.is_finished() {
                return;
            }
            let (mut ended, mut flushed) = (pin!(ended), pin!(flushed));
            poll_fn(|context| {
                let ended = ended.as_mut().poll(context).is_ready();
                let flushed = flushed.as_mut().poll(context).is_ready();
                if ended || flushed { Poll::Ready(()) } else { Poll::Pending }
            })
            .await;
        }
    }

    /// Reads away what the client still sends after a farewell.
    async fn linger(&self) {
        drop(self.stream.shutdown(Shutdown::Write));
        let drained = async {
            let mut scratch = BytesMut::with_capacity(4096);
            while let Ok(1..) = self.stream.read_buf(&mut scratch).await {
                scratch.clear();
            }
        };
        let _late = timeout(LINGER, drained).await;
    }

    /// Closes the socket at once; both halves notice. The first reason is the one that is told.
    pub(crate) fn close(&self, reason: CloseReason) {
        if self.close_reason.borrow().is_some() {
            return;
        }
        *self.close_reason.borrow_mut() = Some(reason);
        self.begin_end();
        let unwritten = self.outbox.borrow_mut().clear();
        self.shared.backlog.shrink(unwritten as u64);
        // Fails only when the other side was faster.
        drop(self.stream.shutdown(Shutdown::Both));
    }

    /// What the clock needs to know.
    pub(crate) fn timing(&self) -> Timing {
        Timing {
            opened: self.opened,
            active: self.active.get(),
            is_open: self.is_open.get(),
            frame: self.frame_began.get(),
            write: self.write_began.get(),
            is_busy: !self.is_finished(),
        }
    }
}

/// Which request a farewell answers. A frame whose length is refused is the one at the front, and
/// its header may not be here; every other reason is about the frame taken last.
fn farewell_address(reason: &CloseReason, inbox: &mut Inbox) -> (u16, Correlation) {
    let header = match reason {
        CloseReason::Frame(_) => inbox.front_header(),
        _ => inbox.last_header(),
    };
    header.map_or((0, Correlation(0)), |header| (header.opcode, header.correlation))
}

const FRAME_BYTES_MAX_BEFORE_HANDSHAKE: u32 =
    barrage_model::limits::FRAME_BYTES_MAX_BEFORE_HANDSHAKE as u32;
