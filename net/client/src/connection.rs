//! One TCP connection: handshake, then many requests in flight, answers by correlation id.
//!
//! Owns: the socket's two halves, each in a task of its own, and the table of waiting calls.
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
    Acks, Correlation, Frame, FrameDecoder, Hello, HelloReply, ProduceRequest, Request, Response,
};
use bytes::{Bytes, BytesMut};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::{mpsc, oneshot};
use tokio::task::AbortHandle;

use crate::error::{ClientError, Stage};
use crate::options::ClientOptions;

/// Frames that may wait for the socket; callers bound what they have in flight far below.
const OUTGOING_MAX: usize = 4096;
/// Frames gathered into one write.
const GATHER_MAX: usize = 32;
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
    waiting: HashMap<Correlation, oneshot::Sender<Result<Frame, ClientError>>>,
    failed: Option<ClientError>,
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
        let attempt = Self::dial_unbounded(server, options);
        match tokio::time::timeout(options.connect_timeout, attempt).await {
            Ok(result) => result,
            Err(_) => {
                let cause = format!("no answer within {:?}", options.connect_timeout);
                let server = server.to_owned();
                Err(ClientError::Unreachable { server, stage: Stage::Connect, cause })
            }
        }
    }

    async fn dial_unbounded(server: &str, options: &ClientOptions) -> Result<Self, ClientError> {
        let unreachable = |stage, cause: String| ClientError::Unreachable {
            server: server.to_owned(),
            stage,
            cause,
        };
        let addresses = tokio::net::lookup_host(server)
            .await
            .map_err(|error| unreachable(Stage::Resolve, error.to_string()))?;
        let mut last = unreachable(Stage::Resolve, "the name has no address".to_owned());
        let mut stream = None;
        for address in addresses {
            match TcpStream::connect(address).await {
                Ok(connected) => {
                    stream = Some(connected);
                    break;
                }
                Err(error) => last = unreachable(Stage::Connect, error.to_string()),
            }
        }
        let Some(mut stream) = stream else { return Err(last) };
        let handshake = |error: io::Error| unreachable(Stage::Handshake, error.to_string());
        stream.set_nodelay(true).map_err(handshake)?;
        let mut out = BytesMut::new();
        Request::Hello(Hello::new(options.client_name.clone())).encode(Correlation(0), &mut out);
        stream.write_all(&out).await.map_err(handshake)?;
        let mut decoder = FrameDecoder::new(clamp(FRAME_BYTES_MAX_BEFORE_HANDSHAKE));
        let (mut read, write) = stream.into_split();
        let frame = read_frame(&mut read, &mut decoder).await.map_err(handshake)?;
        let hello = match Response::decode(&frame.header, &frame.body) {
            Ok(Response::Hello(hello)) => hello,
            Ok(Response::Error { error, .. }) => {
                return Err(unreachable(Stage::Handshake, error.to_string()));
            }
            Ok(_) => return Err(unreachable(Stage::Handshake, "not a Hello".to_owned())),
            Err(error) => return Err(unreachable(Stage::Handshake, error.to_string())),
        };
        decoder.set_length_max(clamp(FRAME_BYTES_MAX));
        Ok(Self::start_tasks(server, options, hello, (read, decoder), write))
    }

    fn start_tasks(
        server: &str,
        options: &ClientOptions,
        hello: HelloReply,
        (read, decoder): (OwnedReadHalf, FrameDecoder),
        write: OwnedWriteHalf,
    ) -> Self {
        let (outgoing, waiting) = mpsc::channel(OUTGOING_MAX);
        let inner = Arc::new(Inner {
            server: server.to_owned(),
            hello,
            request_timeout: options.request_timeout,
            outgoing,
            calls: Mutex::new(Calls { correlation_next: 1, ..Calls::default() }),
            tasks: Mutex::new(Vec::new()),
        });
        let reader = tokio::spawn(read_all(read, decoder, Arc::downgrade(&inner)));
        let writer = tokio::spawn(write_all(write, waiting, Arc::downgrade(&inner)));
        if let Ok(mut tasks) = inner.tasks.lock() {
            tasks.extend([reader.abort_handle(), writer.abort_handle()]);
        }
        Self { inner }
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
        self.start(limit, |correlation, head| {
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
        batch: Bytes,
    ) -> Result<Call, ClientError> {
        let limit = self.inner.request_timeout;
        // The server answers first; our own limit only catches a server that does not.
        let timeout_ms = u32::try_from(limit.as_millis() * 4 / 5).unwrap_or(u32::MAX);
        self.start(limit, |correlation, head| {
            let request = ProduceRequest { key, acks, timeout_ms, batch: &batch };
            request.encode_head(correlation, head);
            batch
        })
    }

    fn start(
        &self,
        limit: Duration,
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
        calls.waiting.insert(correlation, sender);
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
        let sender = self.calls().waiting.remove(&frame.header.correlation);
        // No sender: the caller is gone, or the server answered twice.
        if let Some(sender) = sender {
            drop(sender.send(Ok(frame)));
        }
    }

    /// Ends the connection: every call gets the reason.
    fn fail(&self, error: &ClientError) {
        let waiting = {
            let mut calls = self.calls();
            calls.failed.get_or_insert_with(|| error.clone());
            std::mem::take(&mut calls.waiting)
        };
        for sender in waiting.into_values() {
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
