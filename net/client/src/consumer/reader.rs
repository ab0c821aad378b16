//! The task that keeps one partition's batches coming: fetch, check, pass on, again.
//!
//! Owns: the partition's cursor. Must never: pass on a batch that was not checked, or give up
//! while a server may come back within the reconnect timeout.

use std::sync::Arc;
use std::time::Duration;

use barrage_wire::{ErrorCode, ErrorReply, FetchReply, FetchRequest, Hint, Request, Response};
use bytes::Bytes;
use tokio::sync::{Semaphore, mpsc};
use tokio::time::Instant;

use super::cursor::{Cursor, FetchedBatch};
use crate::connection::decode;
use crate::error::ClientError;
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
#[derive(Debug, Default)]
struct Trouble {
    since: Option<Instant>,
    pause: Duration,
    damaged: u32,
}

impl Reader {
    /// Runs until the partition is finished, failed, or the consumer is gone.
    pub(crate) async fn run(mut self) {
        let mut trouble = Trouble::default();
        loop {
            if self.cursor.is_finished() {
                drop(self.messages.send(Message::Finished).await);
                return;
            }
            let fetched = self.fetch().await;
            match fetched.and_then(|batches| self.cursor.handle_fetched(&batches)) {
                Ok(batches) => {
                    trouble = Trouble::default();
                    if batches.is_empty() {
                        continue;
                    }
                    if self.messages.send(Message::Batches(batches)).await.is_err() {
                        return;
                    }
                }
                Err(error) => {
                    if let Err(error) = self.handle_error(error, &mut trouble).await {
                        drop(self.messages.send(Message::Failed(error)).await);
                        return;
                    }
                }
            }
        }
    }

    /// One Fetch; the bytes of its batches.
    async fn fetch(&self) -> Result<Bytes, ClientError> {
        let _permit = self.permits.acquire().await.map_err(|_| ClientError::Closed)?;
        let partition = self.cursor.partition();
        let connection = match self.routes.live(partition) {
            Some(connection) => connection,
            None => self.routes.connect(partition).await?,
        };
        let request = Request::Fetch(FetchRequest {
            key: self.routes.key(partition),
            offset: self.cursor.offset(),
            bytes_max: self.options.bytes_max,
            bytes_min: 1,
            wait_ms: u32::try_from(self.options.wait.as_millis()).unwrap_or(u32::MAX),
        });
        let frame = connection.ask_for(&request, self.options.wait).await?;
        match decode("the server", &frame)? {
            Response::Fetch(_) => Ok(frame.body.slice(FetchReply::BATCHES_AT..)),
            _ => Err(ClientError::Protocol {
                server: "the server".to_owned(),
                cause: "an answer to another question".to_owned(),
            }),
        }
    }

    /// Waits, looks for the leader, or moves on, as the error asks; an error ends the reader.
    async fn handle_error(
        &mut self,
        error: ClientError,
        trouble: &mut Trouble,
    ) -> Result<(), ClientError> {
        if let ClientError::Refused(ErrorReply {
            code: ErrorCode::OffsetOutOfRange,
            hint: Hint::Offsets { start, .. },
            ..
        }) = error
            && self.cursor.handle_out_of_range(start)
        {
            return Ok(());
        }
        let partition = self.cursor.partition();
        self.routes.handle_error(partition, &error);
        let moved = matches!(
            error.code(),
            Some(ErrorCode::NotLeader | ErrorCode::UnknownTopic | ErrorCode::UnknownPartition)
        );
        let damaged = matches!(error, ClientError::Batch(_));
        trouble.damaged += u32::from(damaged);
        let since = *trouble.since.get_or_insert_with(Instant::now);
        let hopeless = !(error.is_retriable() || moved || damaged);
        let late = since.elapsed() >= self.options.reconnect_timeout;
        if hopeless || late || trouble.damaged >= DAMAGED_ATTEMPTS_MAX {
            return Err(error);
        }
        if moved && let Err(error) = self.routes.refresh().await {
            // Gone for good, or nobody there to ask: the latter is tried again.
            if !error.is_retriable() {
                return Err(error);
            }
        }
        trouble.pause = (trouble.pause * 2).clamp(PAUSE_MIN, PAUSE_MAX);
        tokio::time::sleep(error.retry_after().unwrap_or(trouble.pause)).await;
        Ok(())
    }
}
