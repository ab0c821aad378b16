//! The consumer: one reader task per partition, prefetching into one bounded channel.
//!
//! Order holds within a partition, not between partitions. Positions are the caller's to keep:
//! each batch tells its offsets.

mod cursor;
mod reader;

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use barrage_model::{Offset, PartitionId};
use barrage_wire::{At, ErrorCode, ErrorReply, Hint, ListOffsetReply};
use tokio::sync::{Semaphore, mpsc};
use tokio::task::JoinSet;

pub(crate) use self::cursor::Cursor;
pub use self::cursor::FetchedBatch;
pub(crate) use self::reader::{FetchOptions, Message, Reader};
use crate::client::Client;
use crate::error::ClientError;
use crate::options::{ConsumerOptions, From};
use crate::route::Routes;

/// Reads one topic. Dropping it stops its tasks.
#[derive(Debug)]
pub struct Consumer {
    messages: mpsc::Receiver<Message>,
    ready: VecDeque<FetchedBatch>,
    readers_left: usize,
    _tasks: JoinSet<()>,
}

/// How long a fetch is held back when partitions must take turns.
const WAIT_WHEN_CROWDED: Duration = Duration::from_millis(20);

impl Consumer {
    pub(crate) async fn open(
        client: &Client,
        topic: &str,
        options: ConsumerOptions,
    ) -> Result<Self, ClientError> {
        options.check()?;
        let routes = Arc::new(Routes::resolve(client, topic).await?);
        let partitions = chosen(&options, routes.partition_count())?;
        let mut cursors = Vec::with_capacity(partitions.len());
        for partition in partitions {
            cursors.push(place(&routes, partition, &options).await?);
        }
        let FetchLimits { permits, wait } =
            fetch_limits(client, cursors.len(), options.fetch_wait).await?;
        let fetch = FetchOptions {
            bytes_max: options.fetch_bytes_max,
            wait,
            reconnect_timeout: options.reconnect_timeout,
        };
        let permits = Arc::new(Semaphore::new(permits));
        let (sender, messages) = mpsc::channel(options.prefetch_max);
        let readers_left = cursors.len();
        let mut tasks = JoinSet::new();
        for cursor in cursors {
            let reader = Reader {
                routes: Arc::clone(&routes),
                cursor,
                options: fetch,
                permits: Arc::clone(&permits),
                messages: sender.clone(),
            };
            tasks.spawn(reader.run());
        }
        Ok(Self { messages, ready: VecDeque::new(), readers_left, _tasks: tasks })
    }

    /// The next batch; `None` when every partition was read up to where it was to be read.
    /// Cancel-safe.
    ///
    /// # Errors
    /// A partition cannot be read on: its server is gone for longer than the reconnect timeout,
    /// the topic was deleted, or its bytes are damaged.
    pub async fn next_batch(&mut self) -> Result<Option<FetchedBatch>, ClientError> {
        loop {
            if let Some(batch) = self.ready.pop_front() {
                return Ok(Some(batch));
            }
            if self.readers_left == 0 {
                return Ok(None);
            }
            match self.messages.recv().await {
                Some(Message::Batches(batches)) => self.ready.extend(batches),
                Some(Message::Finished) => self.readers_left -= 1,
                Some(Message::Failed(error)) => {
                    self.readers_left -= 1;
                    return Err(error);
                }
                None => return Err(ClientError::Closed),
            }
        }
    }

    /// True when `next_batch` would have to wait: a good moment to flush what was written.
    #[must_use]
    pub fn is_drained(&self) -> bool {
        self.ready.is_empty() && self.messages.is_empty()
    }
}

/// What one consumer may hold open at a server.
pub(crate) struct FetchLimits {
    pub(crate) permits: usize,
    pub(crate) wait: Duration,
}

/// Long polls of many partitions share a connection, and the server bounds what it holds.
pub(crate) async fn fetch_limits(
    client: &Client,
    partitions: usize,
    wait: Duration,
) -> Result<FetchLimits, ClientError> {
    let limit = client.server().await?.limits.in_flight_requests_max / 2;
    let permits = usize::try_from(limit).unwrap_or(1).clamp(1, Semaphore::MAX_PERMITS);
    let is_crowded = partitions > permits;
    Ok(FetchLimits { permits, wait: if is_crowded { WAIT_WHEN_CROWDED } else { wait } })
}

fn chosen(options: &ConsumerOptions, partitions: u32) -> Result<Vec<PartitionId>, ClientError> {
    let Some(wanted) = &options.partitions else {
        return Ok((0..partitions).map(PartitionId).collect());
    };
    match wanted.iter().find(|partition| partition.0 >= partitions) {
        Some(&partition) => Err(ClientError::NoSuchPartition { partition, partitions }),
        None => Ok(wanted.clone()),
    }
}

/// Where to begin and, if asked, where to stop.
async fn place(
    routes: &Routes,
    partition: PartitionId,
    options: &ConsumerOptions,
) -> Result<Cursor, ClientError> {
    let at = match options.from {
        From::Start => At::Start,
        From::End | From::Offset(_) => At::End,
        From::Time(milliseconds) => At::Time(milliseconds),
    };
    let ListOffsetReply { offset, start_offset, high_watermark } =
        routes.list_offset(partition, at).await?;
    let offset = match options.from {
        From::Offset(wanted) => check_range(partition, wanted, start_offset, high_watermark)?,
        _ => offset,
    };
    Ok(Cursor::new(partition, offset, options.stop_at_end.then_some(high_watermark)))
}

/// The offset, if the partition has it or will have it next.
pub(crate) fn check_range(
    partition: PartitionId,
    offset: Offset,
    start: Offset,
    end: Offset,
) -> Result<Offset, ClientError> {
    if (start..=end).contains(&offset) {
        return Ok(offset);
    }
    let message = format!("partition {partition} has the offsets {start} to {end}, not {offset}");
    let hint = Hint::Offsets { start, high_watermark: end };
    let reply = ErrorReply::with_hint(ErrorCode::OffsetOutOfRange, message, hint);
    Err(ClientError::Refused(reply))
}
