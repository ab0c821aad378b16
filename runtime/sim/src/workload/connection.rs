//! A client's connection: frames of the native protocol over a simulated stream.
//!
//! Owns: the handshake, pairing replies with requests, and what may be said of a connection:
//! that it is lost, or that an answer is overdue. Must never: lose a reply, or take one that
//! answers nothing without an objection.
//!
//! One task writes to a connection at a time: its owner. What arrives is read at once, whatever
//! the owner does, so that a server that waits for its replies to be taken goes on.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::net::{Shutdown, SocketAddr};
use std::rc::Rc;
use std::time::Duration;

use barrage_wire::{
    Correlation, ErrorCode, Frame, FrameDecoder, Hello, HelloReply, Request, Response,
};
use barrage_world::channel::oneshot;
use barrage_world::net::Stream;
use barrage_world::{Instant, spawn, timeout};
use bytes::BytesMut;

use super::draw::milliseconds;
use super::witness::Witness;

/// How long a connection may take to be made.
const CONNECT_WITHIN: Duration = milliseconds(2_000);
/// What a client gives the server beyond the time that a request names: for what waits before it,
/// the way there and back.
const GRACE: Duration = milliseconds(20_000);
const FRAME_BYTES_MAX: u32 = 32 << 20;
const READ_BYTES: usize = 16 * 1024;

/// The connection is over; what was under way may have taken effect.
#[derive(PartialEq, Eq, Debug)]
pub(crate) struct Lost;

/// A connection that has shaken hands.
pub(crate) struct Connection {
    stream: Stream,
    witness: Rc<Witness>,
    waiting: RefCell<BTreeMap<u32, oneshot::Sender<Frame>>>,
    correlation_next: Cell<u32>,
    lost: Cell<bool>,
    /// Its owner does not keep to the protocol: what comes back answers nothing in particular.
    pub(crate) odd: Cell<bool>,
    /// Where it leads.
    pub(crate) address: SocketAddr,
    /// Names it among all of the run.
    pub(crate) number: u32,
    pub(crate) hello: RefCell<Option<HelloReply>>,
}

/// A request under way.
pub(crate) struct Waiting {
    receiver: oneshot::Receiver<Frame>,
    sent_at: Instant,
}

impl Connection {
    /// Connects and shakes hands.
    pub(crate) async fn open(
        address: SocketAddr,
        name: &str,
        witness: &Rc<Witness>,
    ) -> Result<Rc<Self>, Lost> {
        tracing::debug!(client = name, %address, "connects");
        let connecting = timeout(CONNECT_WITHIN, Stream::connect(address)).await;
        let Ok(Ok(stream)) = connecting else { return Err(Lost) };
        witness.count(|counts| counts.connections += 1);
        let number = witness.counts.borrow().connections;
        let connection = Rc::new(Self {
            stream,
            witness: Rc::clone(witness),
            waiting: RefCell::default(),
            correlation_next: Cell::new(0),
            lost: Cell::new(false),
            odd: Cell::new(false),
            address,
            number: u32::try_from(number).unwrap_or(u32::MAX),
            hello: RefCell::new(None),
        });
        drop(spawn(Rc::clone(&connection).receive()));
        let greeted = connection.call(&Request::Hello(Hello::new(name)), CONNECT_WITHIN).await;
        let frame = greeted.inspect_err(|_| connection.close())?;
        match Response::decode(&frame.header, &frame.body) {
            Ok(Response::Hello(hello)) => {
                connection.hello.replace(Some(hello));
                Ok(connection)
            }
            Ok(Response::Error { error, .. }) => {
                if error.code != ErrorCode::TooManyConnections {
                    witness.object(format!("a good Hello was refused: {error:?}"));
                }
                connection.close();
                Err(Lost)
            }
            other => {
                witness.object(format!("Hello was answered by {other:?}"));
                connection.close();
                Err(Lost)
            }
        }
    }

    pub(crate) fn is_lost(&self) -> bool {
        self.lost.get()
    }

    /// Ends the connection; whoever waits is told that it is lost.
    pub(crate) fn close(&self) {
        if self.lost.replace(true) {
            return;
        }
        drop(self.stream.shutdown(Shutdown::Both));
        let waiting = self.waiting.take();
        drop(waiting);
    }

    /// Sends a request. The owner alone calls this, one call at a time.
    pub(crate) async fn start(&self, request: &Request<'_>) -> Result<Waiting, Lost> {
        if self.is_lost() {
            return Err(Lost);
        }
        let number = self.correlation_next.get();
        self.correlation_next.set(number + 1);
        let (sender, receiver) = oneshot::channel();
        self.waiting.borrow_mut().insert(number, sender);
        let mut bytes = BytesMut::new();
        request.encode(Correlation(number), &mut bytes);
        let sent_at = Instant::now();
        self.write(&bytes).await?;
        Ok(Waiting { receiver, sent_at })
    }

    /// Sends bytes as they are.
    pub(crate) async fn write(&self, bytes: &[u8]) -> Result<(), Lost> {
        match self.stream.write_all(bytes).await {
            Ok(()) => Ok(()),
            Err(_) => {
                self.close();
                Err(Lost)
            }
        }
    }

    /// Sends a request and waits for its answer, which is due `within` this time.
    pub(crate) async fn call(
        &self,
        request: &Request<'_>,
        within: Duration,
    ) -> Result<Frame, Lost> {
        let waiting = self.start(request).await?;
        self.answer(waiting, within, &format!("{:?}", request.opcode())).await
    }

    /// Waits for an answer that is due `within` this time. While all is well, one that does not
    /// come is an objection; else the connection is given up.
    pub(crate) async fn answer(
        &self,
        waiting: Waiting,
        within: Duration,
        what: &str,
    ) -> Result<Frame, Lost> {
        let Waiting { receiver, sent_at } = waiting;
        match timeout(within + GRACE, receiver).await {
            Ok(Ok(frame)) => Ok(frame),
            Ok(Err(_)) => Err(Lost),
            Err(_) => {
                self.overdue(sent_at, what);
                Err(Lost)
            }
        }
    }

    /// An answer did not come: an objection if nothing explains it.
    pub(crate) fn overdue(&self, sent_at: Instant, what: &str) {
        if !self.is_lost() && self.witness.disturbances.calm_since(sent_at) {
            let late = sent_at.elapsed();
            self.witness.object(format!(
                "liveness: no answer to {what} after {late:?}, all is well and connection {} up",
                self.number
            ));
        }
        self.close();
    }

    async fn receive(self: Rc<Self>) {
        let mut decoder = FrameDecoder::new(FRAME_BYTES_MAX);
        while !self.is_lost() {
            decoder.buffer().reserve(READ_BYTES);
            match self.stream.read_buf(decoder.buffer()).await {
                Ok(1..) => {}
                Ok(0) | Err(_) => break,
            }
            loop {
                match decoder.next_frame() {
                    Ok(None) => break,
                    Ok(Some(frame)) => self.take(frame),
                    Err(error) => {
                        self.witness.object(format!("a broken frame from the server: {error}"));
                        self.close();
                        return;
                    }
                }
            }
        }
        self.close();
    }

    fn take(&self, frame: Frame) {
        let waiting = self.waiting.borrow_mut().remove(&frame.header.correlation.0);
        match waiting {
            Some(waiting) => drop(waiting.send(frame)),
            // Its caller has gone with the connection.
            None if self.is_lost() || self.odd.get() => {}
            None => self.witness.object(format!(
                "an answer to a request that nobody sent, or a second one: {:?}",
                frame.header
            )),
        }
    }
}

impl Waiting {
    /// The answer, when it comes.
    pub(crate) async fn frame(self) -> Result<Frame, Lost> {
        self.receiver.await.map_err(|_| Lost)
    }
}
