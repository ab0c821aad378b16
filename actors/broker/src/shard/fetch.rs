//! Reading: look, read, and if that is too little, wait for the partition's next apply.
//!
//! Owns: the waiting. Must never: return a record at or beyond the high watermark, or unchecked
//! bytes.
//! Invariants: no wake-up is lost (listen first, look afterwards); a fetch ends by its
//! `wait_until`.

use std::ops::Range;
use std::time::Duration;

use barrage_cluster::message::Bounds;
use barrage_commitlog::ReadError;
use barrage_model::{Offset, PartitionKey};
use barrage_raft::ProposeError;
use barrage_world::{Instant, Slice, buggify, planted, sleep, sleep_until};

use super::handle::{Shard, first_of};
use crate::api::{At, FetchError, FetchRequest, ListedOffset};

/// Bytes of one fetch, at most: a frame's worth.
const FETCH_BYTES_MAX: usize = 8 << 20;
/// How long a record that others have made durable may be on its way to this disk.
const PLACED_WITHIN: Duration = Duration::from_secs(5);
/// Between two looks whether it is there.
pub(super) const PLACE_PAUSE: Duration = Duration::from_millis(2);

/// What a fetch found, on the core that read it.
pub(crate) struct Found {
    pub(crate) bounds: Bounds,
    pub(crate) batches: Vec<Slice>,
}

impl Shard {
    /// Reads from an offset on.
    pub(crate) async fn fetch(&self, request: &FetchRequest) -> Result<Found, FetchError> {
        let mut bytes_max = request.bytes_max.min(FETCH_BYTES_MAX);
        if buggify("broker-fetch-of-one-batch", 3) {
            bytes_max = 1;
        }
        let bytes_min = request.bytes_min.clamp(1, bytes_max.max(1));
        let mut confirmed = false;
        loop {
            // Listening begins before looking: an apply in between is then not missed.
            let news = self.inner.readers.event(request.key).listen();
            let bounds = match self.checked_bounds(request) {
                Err(FetchError::OffsetOutOfRange { .. }) if !confirmed => {
                    self.confirm().await?;
                    confirmed = true;
                    continue;
                }
                other => other?,
            };
            let mut batches = Vec::new();
            if request.offset < bounds.high_watermark {
                let log = self.inner.group.log();
                let read = log.read_batches(request.key, request.offset, bytes_max).await;
                batches = read.map_err(|error| self.read_error(error))?;
            }
            let size: usize = batches.iter().map(|batch| batch.len()).sum();
            if size >= bytes_min || Instant::now() >= request.wait_until {
                if batches.is_empty() && !confirmed {
                    self.confirm().await?;
                    confirmed = true;
                    continue;
                }
                // Reading took time: the start may have moved past the offset, the end moved on.
                match self.checked_bounds(request) {
                    Err(FetchError::OffsetOutOfRange { .. }) if !confirmed => continue,
                    other => return Ok(Found { bounds: other?, batches }),
                }
            }
            drop(batches);
            confirmed = false;
            first_of(news, sleep_until(request.wait_until)).await;
        }
    }

    /// Makes sure that nobody else leads, so that an end told now is no end of before: who is told
    /// that nothing more is there, or that its offset is beyond the end, acts on it. Records need
    /// no such care: they are committed, whoever leads.
    pub(crate) async fn confirm(&self) -> Result<(), FetchError> {
        // Wrong when planted: a reader that was further is sent back.
        if planted("broker-end-not-confirmed") {
            return Ok(());
        }
        self.inner.group.read_barrier().await.map_err(|error| match error {
            ProposeError::Stopped => FetchError::ShuttingDown,
            _ => FetchError::NotLeader { hint: None },
        })
    }

    fn checked_bounds(&self, request: &FetchRequest) -> Result<Bounds, FetchError> {
        let bounds = self.bounds(request.key)?;
        let range = bounds.start_offset..=bounds.high_watermark;
        if range.contains(&request.offset) {
            return Ok(bounds);
        }
        let Bounds { start_offset: start, high_watermark, .. } = bounds;
        Err(FetchError::OffsetOutOfRange { start, high_watermark })
    }

    /// Finds an offset by meaning.
    pub(crate) async fn list_offset(
        &self,
        key: PartitionKey,
        at: At,
    ) -> Result<ListedOffset, FetchError> {
        self.confirm().await?;
        let before = self.bounds(key)?;
        let found = match at {
            At::Start => Some(before.start_offset),
            At::End => None,
            At::Time(time_ms) => self.first_since(key, time_ms).await?,
        };
        let Bounds { start_offset, high_watermark, .. } = self.bounds(key)?;
        let offset = found.unwrap_or(high_watermark).clamp(start_offset, high_watermark);
        Ok(ListedOffset { offset, start_offset, high_watermark })
    }

    /// The first record of a time or later. Where none is found, all must have a place on this disk
    /// first: the one that is asked for may be one of those that have none yet (`queue` 103388).
    async fn first_since(
        &self,
        key: PartitionKey,
        time_ms: i64,
    ) -> Result<Option<Offset>, FetchError> {
        let until = Instant::now() + PLACED_WITHIN;
        loop {
            let Bounds { start_offset, high_watermark, .. } = self.bounds(key)?;
            let log = self.inner.group.log();
            let is_placed = log.placed_end(key) >= Some(high_watermark);
            let found = log.offset_at_time(key, time_ms).await;
            let found = found.map_err(|error| self.read_error(error))?;
            if found.is_some() || is_placed || start_offset >= high_watermark {
                return Ok(found);
            }
            if Instant::now() >= until {
                let detail = format!("{key}, up to {high_watermark}: not on this node's disk yet");
                return Err(FetchError::Io { detail });
            }
            sleep(PLACE_PAUSE).await;
        }
    }

    /// Batches of committed records, from the first of `range` on. What a majority of the others
    /// has made durable may not have a place on this disk yet: it is waited for. Nothing when
    /// retention has passed it.
    pub(super) async fn read_placed(
        &self,
        key: PartitionKey,
        range: Range<Offset>,
        bytes_max: usize,
    ) -> Result<Vec<Slice>, FetchError> {
        let at = range.start;
        let until = Instant::now() + PLACED_WITHIN;
        loop {
            let read = self.inner.group.log().read_batches_of(key, range.clone(), bytes_max).await;
            let read = read.map_err(|error| self.read_error(error))?;
            let mut start = self.bounds(key.owner())?.start_offset;
            let mut is_wanted = true;
            if key.is_delay_store() {
                (start, is_wanted) = self.inner.group.with_machine(|machine| {
                    let partition = machine.state().partitions.get(&key.owner());
                    let delays = machine.groups().delays.get(&key.owner());
                    let start = partition.map_or(start, |partition| partition.delay_start);
                    (start, delays.is_some_and(|delays| delays.due_ms(at).is_some()))
                });
            }
            if !read.is_empty() || start > at || !is_wanted {
                return Ok(read);
            }
            if Instant::now() >= until {
                let detail = format!("{key}, offset {at}: not on this node's disk yet");
                return Err(FetchError::Io { detail });
            }
            sleep(PLACE_PAUSE).await;
        }
    }

    /// Damage is answered by another copy, where there is one: this one gives up its lead and is
    /// made anew.
    pub(super) fn read_error(&self, error: ReadError) -> FetchError {
        match error {
            ReadError::Damaged(damage) if !self.is_only_copy() => {
                tracing::error!(shard = %self.id(), %damage, "a read has met damage");
                self.found_damage(damage.to_string());
                FetchError::NotLeader { hint: None }
            }
            ReadError::Damaged(damage) => FetchError::Damaged { detail: damage.to_string() },
            other => FetchError::Io { detail: other.to_string() },
        }
    }
}
