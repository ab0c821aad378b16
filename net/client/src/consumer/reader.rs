//! The task that keeps one partition's batches coming: fetch, check, pass on, again.
//!
//! Owns: the partition's cursor. Must never: pass on a batch that was not checked, or give up
//! while a server may come back within the reconnect timeout.

use std::sync::Arc;
use std::time::Duration;

use barrage_wire::{
    ErrorCode, ErrorReply, FetchReply, FetchRequest, Frame, Hint, Request, Response,
};
use bytes::Bytes;
use tokio::sync::{Semaphore, mpsc};
use tokio::time::Instant;

use super::cursor::{Cursor, FetchedBatch};
use crate::connection::{Connection, decode};
use crate::error::ClientError;
use crate::pause::Pause;
use crate::route::Routes;

/// What a reader tells its consumer.
#[derive(Debug)]
pub(crate) enum Message {
    /// Batches of one partition, in order.
    Batches(Vec<FetchedBatch>),
    /// The partition was read up to where it was to be read.
    Finished,
    /// The partition cannot be read on.
    Failed(ClientError),
}

/// How a reader fetches.
#[derive(Clone, Copy, Debug)]
pub(crate) struct FetchOptions {
    pub(crate) bytes_max: u32,
    pub(crate) wait: Duration,
    pub(crate) reconnect_timeout: Duration,
}

const PAUSE_MIN: Duration = Duration::from_millis(20);
const PAUSE_MAX: Duration = Duration::from_secs(1);
/// Damage may have happened on the way: worth a few more looks.
const DAMAGED_ATTEMPTS_MAX: u32 = 3;
/// When a leader is this late, other nodes are asked whether it still leads.
const IMPATIENCE: Duration = Duration::from_secs(1);
/// A new leader knows what is committed only when its first own entry is: for this long an end
/// before our offset is no reason to give up.
const BEHIND_TIMEOUT: Duration = Duration::from_secs(10);
/// After so long without a record another node is asked whether the leader still leads: one that
/// lost touch with the others would answer for ever that there is nothing new.
const IDLE_CHECK: Duration = Duration::from_secs(5);

/// See the module.
pub(crate) struct Reader {
    pub(crate) routes: Arc<Routes>,
    pub(crate) cursor: Cursor,
    pub(crate) options: FetchOptions,
    /// Bounds the fetches that one consumer holds open at a server.
    pub(crate) permits: Arc<Semaphore>,
    pub(crate) messages: mpsc::Sender<Message>,
}

/// How long things have gone wrong.
#[derive(Debug)]
struct Trouble {
    since: Option<Instant>,
    pause: Pause,
    damaged: u32,
}

impl Trouble {
    const fn none() -> Self {
        Self { since: None, pause: Pause::new(PAUSE_MIN, PAUSE_MAX), damaged: 0 }
    }
}

/// A Fetch that failed, and the server that was asked, if one could be.
struct Failure {
    server: Option<String>,
    error: ClientError,
}

impl Reader {
    /// Runs until the partition is finished, failed, or the consumer is gone.
    pub(crate) async fn run(mut self) {
        let mut trouble = Trouble::none();
        let mut idle_since = Instant::now();
        loop {
            if self.cursor.is_finished() {
                drop(self.messages.send(Message::Finished).await);
                return;
            }
            match self.fetch().await {
                Ok((batches, server)) => {
                    trouble = Trouble::none();
                    if batches.is_empty() {
                        if idle_since.elapsed() >= IDLE_CHECK {
                            idle_since = Instant::now();
                            // Whoever is gone shows at the next fetch.
                            drop(self.routes.refresh(Some(&server)).await);
                        }
                        continue;
                    }
                    idle_since = Instant::now();
                    if self.messages.send(Message::Batches(batches)).await.is_err() {
                        return;
                    }
                }
                Err(failure) => {
                    if let Err(error) = self.handle_failure(failure, &mut trouble).await {
                        drop(self.messages.send(Message::Failed(error)).await);
                        return;
                    }
                }
            }
        }
    }

    /// One Fetch: its batches, checked, and who sent them.
    async fn fetch(&mut self) -> Result<(Vec<FetchedBatch>, String), Failure> {
        let nowhere = |error| Failure { server: None, error };
        let partition = self.cursor.partition();
        let permit = self.permits.acquire().await.map_err(|_| nowhere(ClientError::Closed))?;
        let connection = match self.routes.live(partition) {
            Some(connection) => connection,
            None => self.routes.connect(partition).await.map_err(nowhere)?,
        };
        let request = Request::Fetch(FetchRequest {
            key: self.routes.key(partition),
            offset: self.cursor.offset(),
            bytes_max: self.options.bytes_max,
            bytes_min: 1,
            wait_ms: u32::try_from(self.options.wait.as_millis()).unwrap_or(u32::MAX),
        });
        let answer = self.ask(&connection, &request).await;
        drop(permit);
        let server = connection.server().to_owned();
        let fetched = answer.and_then(|frame| batches_of(&server, &frame));
        match fetched.and_then(|bytes| self.cursor.handle_fetched(&bytes)) {
            Ok(batches) => Ok((batches, server)),
            Err(error) => Err(Failure { server: Some(server), error }),
        }
    }

    /// The answer; or, while there is none, that another node leads by now.
    async fn ask(
        &self,
        connection: &Connection,
        request: &Request<'_>,
    ) -> Result<Frame, ClientError> {
        let mut answer = std::pin::pin!(connection.ask_for(request, self.options.wait));
        loop {
            tokio::select! {
                answer = &mut answer => return answer,
                () = tokio::time::sleep(self.options.wait + IMPATIENCE) => {}
            }
            let server = connection.server().to_owned();
            if self.routes.client().pool().servers().len() < 2 {
                continue;
            }
            // Whoever is gone shows at the next fetch.
            drop(self.routes.refresh(Some(&server)).await);
            if self.routes.is_led_elsewhere(self.cursor.partition(), connection) {
                let cause = "led elsewhere now".to_owned();
                return Err(ClientError::Disconnected { server, cause });
            }
        }
    }

    /// Waits, looks for the leader, or moves on, as the error asks; an error ends the reader.
    async fn handle_failure(
        &mut self,
        failure: Failure,
        trouble: &mut Trouble,
    ) -> Result<(), ClientError> {
        let Failure { server, error } = failure;
        let mut patience = self.options.reconnect_timeout;
        let mut behind = false;
        if let ClientError::Refused(ErrorReply {
            code: ErrorCode::OffsetOutOfRange,
            hint: Hint::Offsets { start, .. },
            ..
        }) = error
        {
            if self.cursor.handle_out_of_range(start) {
                return Ok(());
            }
            behind = true;
            patience = patience.min(BEHIND_TIMEOUT);
        }
        let moved = server.as_ref().is_some_and(|server| {
            self.routes.handle_error(self.cursor.partition(), server, &error)
        });
        let damaged = matches!(error, ClientError::Batch(_));
        trouble.damaged += u32::from(damaged);
        let since = *trouble.since.get_or_insert_with(Instant::now);
        let hopeless = !(error.is_retriable() || moved || behind || damaged);
        let late = since.elapsed() >= patience;
        if hopeless || late || trouble.damaged >= DAMAGED_ATTEMPTS_MAX {
            return Err(error);
        }
        if (moved || behind)
            && let Err(error) = self.routes.refresh(server.as_deref()).await
        {
            // Gone for good, or nobody there to ask: the latter is tried again.
            if !error.is_retriable() {
                return Err(error);
            }
        }
        tokio::time::sleep(error.retry_after().unwrap_or_else(|| trouble.pause.next())).await;
        Ok(())
    }
}

/// The bytes of a Fetch reply's batches.
fn batches_of(server: &str, frame: &Frame) -> Result<Bytes, ClientError> {
    match decode(server, frame)? {
        Response::Fetch(_) => Ok(frame.body.slice(FetchReply::BATCHES_AT..)),
        _ => Err(ClientError::Protocol {
            server: server.to_owned(),
            cause: "an answer to another question".to_owned(),
        }),
    }
}
