//! One TCP connection: handshake, then many requests in flight, answers by correlation id.
//!
//! Owns: the socket's two halves, each in a task of its own, the table of waiting calls, and a
//! watch over a server that went silent: it may be stopped, or its host gone, without a word to
//! us. Whether it lives is asked over a second connection, because a busy server may have good
//! reasons not to read from this one.
//! Must never: retry, reorder requests, or outlive its last handle.
//!
//! Invariants: requests leave in the order of `start`; every call ends exactly once, with its
//! answer or with the reason the connection ended; after `fail` nothing is sent any more.

use std::collections::HashMap;
use std::io::{self, IoSlice};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use barrage_model::PartitionKey;
use barrage_model::limits::{FRAME_BYTES_MAX, FRAME_BYTES_MAX_BEFORE_HANDSHAKE};
use barrage_wire::{
    Acks, Correlation, Delay, Frame, FrameDecoder, Hello, HelloReply, ProduceDelayed,
    ProduceRequest, Request, Response,
};
use bytes::{Bytes, BytesMut};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::{mpsc, oneshot};
use tokio::task::AbortHandle;
use tokio::time::Instant;

use crate::error::{ClientError, Stage};
use crate::options::ClientOptions;

/// Frames that may wait for the socket; callers bound what they have in flight far below.
const OUTGOING_MAX: usize = 4096;
/// Frames gathered into one write.
const GATHER_MAX: usize = 32;
/// How often the watch looks.
const WATCH_EVERY: Duration = Duration::from_millis(250);
/// Silence while an answer is due, until somebody looks whether the server lives.
const SILENCE_MIN: Duration = Duration::from_secs(1);
/// The same when it was found alive, again and again.
const SILENCE_MAX: Duration = Duration::from_secs(8);
/// A server that does not shake hands within this time does not live.
const PROBE_TIMEOUT: Duration = Duration::from_millis(1500);
/// Room for a read when no large frame is known to come.
const READ_BYTES: usize = 64 * 1024;

/// A handle; clones share the connection.
#[derive(Clone, Debug)]
pub(crate) struct Connection {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    server: String,
    hello: HelloReply,
    request_timeout: Duration,
    outgoing: mpsc::Sender<Outgoing>,
    calls: Mutex<Calls>,
    /// When something was heard last.
    heard: Mutex<Instant>,
    tasks: Mutex<Vec<AbortHandle>>,
}

/// Head and body of a frame: a batch is not copied behind its head.
#[derive(Debug)]
struct Outgoing {
    head: Bytes,
    body: Bytes,
}

#[derive(Debug, Default)]
struct Calls {
    correlation_next: u32,
    waiting: HashMap<Correlation, Waiting>,
    failed: Option<ClientError>,
}

#[derive(Debug)]
struct Waiting {
    sender: oneshot::Sender<Result<Frame, ClientError>>,
    /// A live server may hold its answer back until then.
    due: Instant,
}

/// Both halves of a socket after the handshake.
struct Opened {
    hello: HelloReply,
    read: OwnedReadHalf,
    decoder: FrameDecoder,
    write: OwnedWriteHalf,
}

/// A request on its way. Dropping it forgets the answer.
#[derive(Debug)]
pub(crate) struct Call {
    connection: Connection,
    limit: Duration,
    answer: oneshot::Receiver<Result<Frame, ClientError>>,
}

impl Connection {
    /// Connects and shakes hands.
    pub(crate) async fn dial(server: &str, options: &ClientOptions) -> Result<Self, ClientError> {
        let opened = open(server, options, options.connect_timeout).await;
        let opened = opened.map_err(|(stage, error)| {
            let (server, cause) = (server.to_owned(), error.to_string());
            ClientError::Unreachable { server, stage, cause }
        })?;
        Ok(Self::start_tasks(server, options, opened))
    }

    fn start_tasks(server: &str, options: &ClientOptions, opened: Opened) -> Self {
        let Opened { hello, read, decoder, write } = opened;
        let (outgoing, waiting) = mpsc::channel(OUTGOING_MAX);
        let inner = Arc::new(Inner {
            server: server.to_owned(),
            hello,
            request_timeout: options.request_timeout,
            outgoing,
            calls: Mutex::new(Calls { correlation_next: 1, ..Calls::default() }),
            heard: Mutex::new(Instant::now()),
            tasks: Mutex::new(Vec::new()),
        });
        let reader = tokio::spawn(read_all(read, decoder, Arc::downgrade(&inner)));
        let writer = tokio::spawn(write_all(write, waiting, Arc::downgrade(&inner)));
        let watch = tokio::spawn(watch(options.clone(), Arc::downgrade(&inner)));
        if let Ok(mut tasks) = inner.tasks.lock() {
            tasks.extend([&reader, &writer, &watch].map(tokio::task::JoinHandle::abort_handle));
        }
        Self { inner }
    }

    /// Where it was dialled.
    pub(crate) fn server(&self) -> &str {
        &self.inner.server
    }

    /// Whether both are handles on one connection.
    pub(crate) fn is(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.inner, &other.inner)
    }

    /// What the server said of itself.
    pub(crate) fn hello(&self) -> &HelloReply {
        &self.inner.hello
    }

    /// False once it has ended: dial again.
    pub(crate) fn is_live(&self) -> bool {
        self.inner.calls().failed.is_none()
    }

    /// Sends a request and waits for its answer.
    pub(crate) async fn ask(&self, request: &Request<'_>) -> Result<Frame, ClientError> {
        self.ask_for(request, Duration::ZERO).await
    }

    /// As `ask`, for requests which the server may hold back for `patience`.
    pub(crate) async fn ask_for(
        &self,
        request: &Request<'_>,
        patience: Duration,
    ) -> Result<Frame, ClientError> {
        let limit = self.inner.request_timeout + patience;
        self.start(limit, patience, |correlation, head| {
            request.encode(correlation, head);
            Bytes::new()
        })?
        .answer()
        .await
    }

    /// Sends a batch: in the order of these calls, without copying it.
    pub(crate) fn start_produce(
        &self,
        key: PartitionKey,
        acks: Acks,
        delay: Option<Delay>,
        batch: Bytes,
    ) -> Result<Call, ClientError> {
        let limit = self.inner.request_timeout;
        // The server answers first; our own limit only catches a server that does not.
        let timeout_ms = u32::try_from(limit.as_millis() * 4 / 5).unwrap_or(u32::MAX);
        self.start(limit, Duration::ZERO, |correlation, head| {
            match delay {
                None => ProduceRequest { key, acks, timeout_ms, batch: &batch }
                    .encode_head(correlation, head),
                Some(delay) => ProduceDelayed { key, acks, timeout_ms, delay, batch: &batch }
                    .encode_head(correlation, head),
            }
            batch
        })
    }

    fn start(
        &self,
        limit: Duration,
        patience: Duration,
        encode: impl FnOnce(Correlation, &mut BytesMut) -> Bytes,
    ) -> Result<Call, ClientError> {
        let (sender, answer) = oneshot::channel();
        let mut calls = self.inner.calls();
        if let Some(error) = &calls.failed {
            return Err(error.clone());
        }
        let correlation = Correlation(calls.correlation_next);
        calls.correlation_next = calls.correlation_next.wrapping_add(1);
        let mut head = BytesMut::new();
        let body = encode(correlation, &mut head);
        let outgoing = Outgoing { head: head.freeze(), body };
        if self.inner.outgoing.try_send(outgoing).is_err() {
            let cause = "too many requests wait for the socket".to_owned();
            return Err(self.inner.disconnected(cause));
        }
        let due = Instant::now() + patience;
        calls.waiting.insert(correlation, Waiting { sender, due });
        drop(calls);
        Ok(Call { connection: self.clone(), limit, answer })
    }
}

impl Call {
    /// The answer, an error reply included. A connection that misses the limit is given up.
    pub(crate) async fn answer(self) -> Result<Frame, ClientError> {
        let inner = &self.connection.inner;
        match tokio::time::timeout(self.limit, self.answer).await {
            Ok(Ok(result)) => result,
            Ok(Err(_)) => Err(inner.disconnected("closed".to_owned())),
            Err(_) => {
                let server = inner.server.clone();
                let error = ClientError::RequestTimeout { server, limit: self.limit };
                inner.fail(&error);
                Err(error)
            }
        }
    }
}

impl Inner {
    fn calls(&self) -> MutexGuard<'_, Calls> {
        self.calls.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn disconnected(&self, cause: String) -> ClientError {
        ClientError::Disconnected { server: self.server.clone(), cause }
    }

    fn complete(&self, frame: Frame) {
        *self.heard.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now();
        let waiting = self.calls().waiting.remove(&frame.header.correlation);
        // Nobody: the caller is gone, or the server answered twice.
        if let Some(Waiting { sender, .. }) = waiting {
            drop(sender.send(Ok(frame)));
        }
    }

    /// Since when the server owes an answer and is silent.
    fn silent_since(&self) -> Option<Instant> {
        let due = self.calls().waiting.values().map(|waiting| waiting.due).min()?;
        let heard = *self.heard.lock().unwrap_or_else(PoisonError::into_inner);
        Some(due.max(heard))
    }

    /// Ends the connection: every call gets the reason.
    fn fail(&self, error: &ClientError) {
        let waiting = {
            let mut calls = self.calls();
            calls.failed.get_or_insert_with(|| error.clone());
            std::mem::take(&mut calls.waiting)
        };
        for Waiting { sender, .. } in waiting.into_values() {
            drop(sender.send(Err(error.clone())));
        }
        self.stop_tasks();
    }

    fn stop_tasks(&self) {
        let tasks = self.tasks.lock().unwrap_or_else(PoisonError::into_inner);
        for task in tasks.iter() {
            task.abort();
        }
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.stop_tasks();
    }
}

/// The answer in a frame, typed; the server's no is an error.
pub(crate) fn decode<'a>(server: &str, frame: &'a Frame) -> Result<Response<'a>, ClientError> {
    match Response::decode(&frame.header, &frame.body) {
        Ok(Response::Error { error, .. }) => Err(ClientError::Refused(error)),
        Ok(response) => Ok(response),
        Err(error) => {
            Err(ClientError::Protocol { server: server.to_owned(), cause: error.to_string() })
        }
    }
}

/// Connects and shakes hands within `limit`, which the addresses of the name share.
async fn open(
    server: &str,
    options: &ClientOptions,
    limit: Duration,
) -> Result<Opened, (Stage, io::Error)> {
    let deadline = Instant::now() + limit;
    let late = || io::Error::new(io::ErrorKind::TimedOut, format!("no answer within {limit:?}"));
    let found = tokio::time::timeout_at(deadline, tokio::net::lookup_host(server)).await;
    let found = found.unwrap_or_else(|_| Err(late()));
    let addresses: Vec<_> = found.map_err(|error| (Stage::Resolve, error))?.collect();
    let share = limit / u32::try_from(addresses.len().max(1)).unwrap_or(u32::MAX);
    let mut last = io::Error::other("the name has no address");
    for address in addresses {
        match tokio::time::timeout(share, TcpStream::connect(address)).await {
            Ok(Ok(stream)) => {
                let shaken = tokio::time::timeout_at(deadline, shake_hands(stream, options)).await;
                let shaken = shaken.unwrap_or_else(|_| Err(late()));
                return shaken.map_err(|error| (Stage::Handshake, error));
            }
            Ok(Err(error)) => last = error,
            Err(_) => last = late(),
        }
    }
    Err((Stage::Connect, last))
}

async fn shake_hands(mut stream: TcpStream, options: &ClientOptions) -> io::Result<Opened> {
    stream.set_nodelay(true)?;
    let mut out = BytesMut::new();
    Request::Hello(Hello::new(options.client_name.clone())).encode(Correlation(0), &mut out);
    stream.write_all(&out).await?;
    let mut decoder = FrameDecoder::new(clamp(FRAME_BYTES_MAX_BEFORE_HANDSHAKE));
    let (mut read, write) = stream.into_split();
    let frame = read_frame(&mut read, &mut decoder).await?;
    let hello = match Response::decode(&frame.header, &frame.body) {
        Ok(Response::Hello(hello)) => hello,
        Ok(Response::Error { error, .. }) => return Err(io::Error::other(error.to_string())),
        Ok(_) => return Err(io::Error::other("not a Hello")),
        Err(error) => return Err(io::Error::other(error.to_string())),
    };
    decoder.set_length_max(clamp(FRAME_BYTES_MAX));
    Ok(Opened { hello, read, decoder, write })
}

/// Gives the connection up when its server owes an answer, is silent, and does not shake hands on
/// a second one either.
async fn watch(options: ClientOptions, inner: Weak<Inner>) {
    let mut silence = SILENCE_MIN;
    let mut looked = Instant::now();
    loop {
        tokio::time::sleep(WATCH_EVERY).await;
        let Some((server, since)) =
            inner.upgrade().map(|inner| (inner.server.clone(), inner.silent_since()))
        else {
            return;
        };
        let Some(since) = since else {
            silence = SILENCE_MIN;
            continue;
        };
        if since.max(looked).elapsed() < silence {
            // Heard since the last look: it is alive without our asking.
            silence = if since > looked { SILENCE_MIN } else { silence };
            continue;
        }
        let probed = open(&server, &options, PROBE_TIMEOUT.min(options.connect_timeout)).await;
        let Some(inner) = inner.upgrade() else { return };
        looked = Instant::now();
        if is_alive(&probed) {
            silence = (silence * 2).min(SILENCE_MAX);
        } else if inner.silent_since() == Some(since) {
            let cause = format!("silent for {:?}, and no handshake", since.elapsed());
            return inner.fail(&inner.disconnected(cause));
        }
    }
}

/// What the attempt to shake hands tells. A refusal is an answer; a name that does not resolve
/// says nothing about the server.
fn is_alive(probed: &Result<Opened, (Stage, io::Error)>) -> bool {
    match probed {
        Ok(_) | Err((Stage::Resolve, _)) => true,
        Err((Stage::Connect, _)) => false,
        Err((Stage::Handshake, error)) => error.kind() != io::ErrorKind::TimedOut,
    }
}

async fn read_all(mut read: OwnedReadHalf, mut decoder: FrameDecoder, inner: Weak<Inner>) {
    loop {
        let result = read_frame(&mut read, &mut decoder).await;
        let Some(inner) = inner.upgrade() else { return };
        match result {
            Ok(frame) => inner.complete(frame),
            Err(error) => return inner.fail(&inner.disconnected(error.to_string())),
        }
    }
}

async fn read_frame(read: &mut OwnedReadHalf, decoder: &mut FrameDecoder) -> io::Result<Frame> {
    let invalid = |error| io::Error::new(io::ErrorKind::InvalidData, error);
    loop {
        if let Some(frame) = decoder.next_frame().map_err(invalid)? {
            return Ok(frame);
        }
        let missing = decoder.missing().map_err(invalid)?;
        decoder.buffer().reserve(missing.max(READ_BYTES));
        if read.read_buf(decoder.buffer()).await? == 0 {
            return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "closed by the server"));
        }
    }
}

async fn write_all(
    mut write: OwnedWriteHalf,
    mut waiting: mpsc::Receiver<Outgoing>,
    inner: Weak<Inner>,
) {
    let mut gathered = Vec::with_capacity(GATHER_MAX);
    while waiting.recv_many(&mut gathered, GATHER_MAX).await > 0 {
        if let Err(error) = write_gathered(&mut write, &gathered).await {
            if let Some(inner) = inner.upgrade() {
                inner.fail(&inner.disconnected(error.to_string()));
            }
            return;
        }
        gathered.clear();
    }
}

async fn write_gathered(write: &mut OwnedWriteHalf, frames: &[Outgoing]) -> io::Result<()> {
    let parts = frames.iter().flat_map(|frame| [&frame.head, &frame.body]);
    let mut slices: Vec<_> =
        parts.filter(|part| !part.is_empty()).map(|part| IoSlice::new(part)).collect();
    let mut rest = slices.as_mut_slice();
    while !rest.is_empty() {
        let written = write.write_vectored(rest).await?;
        if written == 0 {
            return Err(io::ErrorKind::WriteZero.into());
        }
        IoSlice::advance_slices(&mut rest, written);
    }
    Ok(())
}

fn clamp(bytes: usize) -> u32 {
    u32::try_from(bytes).unwrap_or(u32::MAX)
}
