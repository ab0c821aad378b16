//! Looking at a queue group without leasing, and moving what it has before it.

use std::future::Future;
use std::sync::Arc;

use barrage_model::{Offset, PartitionId};
use barrage_wire::{
    At, ErrorCode, FetchReply, FetchRequest, ListOffsetReply, QueueCounts, QueueCountsReply,
    QueuePeek, QueueSeek, Request, Response, Seek,
};
use tokio::task::JoinSet;

use super::record::{Record, pick};
use super::{Queue, Shared};
use crate::consumer::check_range;
use crate::error::ClientError;
use crate::options::From;

/// Bytes of one fetch of records that are next to each other.
const FETCH_BYTES: u32 = 1024 * 1024;

/// How many records wait for what.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// May be leased now.
    pub visible: u64,
    /// Leased to somebody.
    pub leased: u64,
    /// Given back, and not due yet.
    pub delayed: u64,
    /// On their way to the dead-letter topic.
    pub dying: u64,
    /// The same by partition.
    pub partitions: Vec<PartitionCounts>,
}

/// See [`Counts`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PartitionCounts {
    /// Which partition.
    pub partition: PartitionId,
    /// The oldest record that is not done with.
    pub start: Offset,
    /// May be leased now.
    pub visible: u64,
    /// Leased to somebody.
    pub leased: u64,
    /// Given back, and not due yet.
    pub delayed: u64,
    /// On their way to the dead-letter topic.
    pub dying: u64,
}

impl Queue {
    /// At most `count_max` records that could be leased now, the oldest of each partition first.
    ///
    /// # Errors
    /// A partition cannot be asked within the request timeout; topic or group were deleted; a batch
    /// is damaged.
    pub async fn peek(&self, count_max: usize) -> Result<Vec<Record>, ClientError> {
        let mut records = Vec::new();
        for partition in self.shared.partitions() {
            let missing = count_max.saturating_sub(records.len());
            if missing == 0 {
                break;
            }
            records.extend(self.shared.peek(partition, missing).await?);
        }
        Ok(records)
    }

    /// Everything that is there now is done with, leased or not.
    ///
    /// # Errors
    /// A partition cannot be asked within the request timeout: others may be purged already. Topic
    /// or group were deleted.
    pub async fn purge(&self) -> Result<(), ClientError> {
        let purge = |shared: Arc<Shared>, partition| async move {
            let end = shared.routes.list_offset(partition, At::End).await?.offset;
            shared.seek(partition, Seek::Skip(end)).await
        };
        self.everywhere(purge).await.map(drop)
    }

    /// Everything from `to` on is delivered again, settled or not; its delivery counts begin anew.
    /// Nothing before it changes: from the end on there is nothing to deliver again.
    ///
    /// # Errors
    /// A partition has no such offset: then nothing changed. A partition cannot be asked within the
    /// request timeout: others may be rewound already. Topic or group were deleted.
    pub async fn rewind(&self, to: From) -> Result<(), ClientError> {
        let resolve = move |shared: Arc<Shared>, partition| async move {
            let at = match to {
                From::Start => At::Start,
                From::End | From::Offset(_) => At::End,
                From::Time(milliseconds) => At::Time(milliseconds),
            };
            let found = shared.routes.list_offset(partition, at).await?;
            let ListOffsetReply { offset, start_offset, high_watermark } = found;
            match to {
                From::Offset(wanted) => {
                    check_range(partition, wanted, start_offset, high_watermark)
                }
                _ => Ok(offset),
            }
        };
        let offsets = Arc::new(self.everywhere(resolve).await?);
        let rewind = |shared: Arc<Shared>, partition: PartitionId| {
            let to = offsets.get(partition.0 as usize).copied();
            async move {
                match to {
                    Some(to) => shared.seek(partition, Seek::Rewind(to)).await,
                    None => Err(ClientError::Closed),
                }
            }
        };
        self.everywhere(rewind).await.map(drop)
    }

    /// How many records wait for what, by partition and in total.
    ///
    /// # Errors
    /// A partition cannot be asked within the request timeout; topic or group were deleted.
    pub async fn counts(&self) -> Result<Counts, ClientError> {
        let counts = |shared: Arc<Shared>, partition| async move { shared.counts(partition).await };
        let partitions = self.everywhere(counts).await?;
        let total = |count: fn(&PartitionCounts) -> u64| partitions.iter().map(count).sum();
        Ok(Counts {
            visible: total(|one| one.visible),
            leased: total(|one| one.leased),
            delayed: total(|one| one.delayed),
            dying: total(|one| one.dying),
            partitions,
        })
    }

    /// Does something with every partition, with all at once; the results are by partition.
    async fn everywhere<T, F>(
        &self,
        work: impl Fn(Arc<Shared>, PartitionId) -> F,
    ) -> Result<Vec<T>, ClientError>
    where
        T: Send + 'static,
        F: Future<Output = Result<T, ClientError>> + Send + 'static,
    {
        let mut tasks = JoinSet::new();
        for partition in self.shared.partitions() {
            let future = work(Arc::clone(&self.shared), partition);
            tasks.spawn(async move { future.await.map(|done| (partition, done)) });
        }
        let mut results = Vec::with_capacity(tasks.len());
        while let Some(done) = tasks.join_next().await {
            results.push(done.map_err(|_| ClientError::Closed)??);
        }
        results.sort_unstable_by_key(|(partition, _)| *partition);
        Ok(results.into_iter().map(|(_, done)| done).collect())
    }
}

impl Shared {
    async fn seek(&self, partition: PartitionId, to: Seek) -> Result<(), ClientError> {
        let (key, group) = (self.routes.key(partition), self.group);
        let request = |_| Request::QueueSeek(QueueSeek { key, group, to });
        let answer = self.ask(partition, request).await?;
        match answer.decode()? {
            Response::QueueSeek => Ok(()),
            _ => Err(answer.wrong()),
        }
    }

    async fn counts(&self, partition: PartitionId) -> Result<PartitionCounts, ClientError> {
        let (key, group) = (self.routes.key(partition), self.group);
        let request = |_| Request::QueueCounts(QueueCounts { key, group });
        let answer = self.ask(partition, request).await?;
        match answer.decode()? {
            Response::QueueCounts(counts) => {
                let QueueCountsReply { start, visible, leased, delayed, dying } = counts;
                Ok(PartitionCounts { partition, start, visible, leased, delayed, dying })
            }
            _ => Err(answer.wrong()),
        }
    }

    async fn peek(&self, partition: PartitionId, count: usize) -> Result<Vec<Record>, ClientError> {
        let (key, group) = (self.routes.key(partition), self.group);
        let count_max = u32::try_from(count).unwrap_or(u32::MAX);
        let request = |_| Request::QueuePeek(QueuePeek { key, group, count_max });
        let answer = self.ask(partition, request).await?;
        let Response::QueuePeek(reply) = answer.decode()? else { return Err(answer.wrong()) };
        let mut offsets = reply.offsets;
        offsets.sort_unstable();
        offsets.truncate(count);
        let mut records: Vec<Record> = Vec::with_capacity(offsets.len());
        let mut rest = offsets.as_slice();
        while let Some((first, behind)) = rest.split_first() {
            let has_neighbour = behind.first().is_some_and(|next| next.0 == first.0 + 1);
            let found = self.read(partition, rest, if has_neighbour { FETCH_BYTES } else { 1 });
            let found = found.await?;
            let last = found.last().map(|record| record.offset);
            records.extend(found);
            // One that is not there any more is passed over.
            let next = last.map_or(*first, |last| last.max(*first));
            rest = rest.split_at(rest.partition_point(|offset| *offset <= next)).1;
        }
        Ok(records)
    }

    /// Those of the records that one fetch from the first of them on brings.
    async fn read(
        &self,
        partition: PartitionId,
        offsets: &[Offset],
        bytes_max: u32,
    ) -> Result<Vec<Record>, ClientError> {
        let Some(offset) = offsets.first().copied() else { return Ok(Vec::new()) };
        let key = self.routes.key(partition);
        let request = |wait_ms| {
            Request::Fetch(FetchRequest { key, offset, bytes_max, bytes_min: 0, wait_ms })
        };
        let answer = match self.ask(partition, request).await {
            Ok(answer) => answer,
            // Retention has passed it meanwhile.
            Err(error) if error.code() == Some(ErrorCode::OffsetOutOfRange) => {
                return Ok(Vec::new());
            }
            Err(error) => return Err(error),
        };
        match answer.decode()? {
            Response::Fetch(FetchReply { batches, .. }) => Ok(pick(partition, batches, offsets)?),
            _ => Err(answer.wrong()),
        }
    }
}
