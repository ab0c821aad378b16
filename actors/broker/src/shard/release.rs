//! Delayed records that come due: the leader lets them into their partitions.
//!
//! ```text
//!   apply: waits until ...  --> noted --a moment ahead--> read, opened --> ready
//!   ready, and it is time   --> one batch per partition, proposed like a producer's
//!   apply: it counts only if all of its records wait still, and are due
//! ```
//!
//! A record is written once more when it is due, as one of the partition's: it lies then where its
//! neighbours do, is read with them, and is kept as long as they are. What was stored before can
//! go.
//!
//! Owns: reading ahead and proposing. Must never: let a record in but by the log.
//! Invariants: who is cancelled or moved meanwhile is found out by apply, and stays where that
//! says.

use std::time::Duration;

use barrage_model::batch::{BatchView, DecompressionLimits};
use barrage_model::{Offset, PartitionKey, Term};
use barrage_world::channel::oneshot;
use barrage_world::{Instant, Slice, planted, sleep, unix_time_ms, yield_if_needed, yield_now};
use bytes::Bytes;

use super::Shard;
use super::entry::{BATCH_OVERHEAD, WaitingBatch};
use super::handle::first_of;
use super::releases::Ready;
use crate::api::{Acks, FetchError, ProduceError};
use crate::door::{CheckedBatch, When};
use crate::reply::{ProduceReply, Way};

/// Bytes of a batch that lets records in, at most; one record always goes.
const BYTES_PER_BATCH: usize = 512 << 10;
/// When records could not be read or let in (a full disk, a full buffer), the next attempt.
const RETRY: Duration = Duration::from_millis(200);
/// Until when a batch has to be in.
const WITHIN: Duration = Duration::from_secs(30);
/// So many batches are opened without a pause while nothing of them is due.
const READS_IN_A_ROW: u64 = 8;
/// Between two warnings of records that cannot be read.
const WARN_EVERY: Duration = Duration::from_secs(10);
/// After so long what was refused because of something before it is tried again.
const AGAIN_MS: u64 = 10;
/// How long to sleep while nothing is due: a clock that is set ahead is seen then.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// Records that are on their way into a partition.
struct Leaving {
    key: PartitionKey,
    ids: Vec<Offset>,
    answer: oneshot::Receiver<crate::reply::ProduceResult>,
}

impl Shard {
    /// While this node leads, finds out who is due soon, and reads that; until the shard closes.
    pub(crate) async fn read_delayed(self) {
        let (mut watched, mut warned): (Option<Term>, Option<Instant>) = (None, None);
        let mut in_a_row = 0_u64;
        while !self.inner.is_closing() && !self.inner.group.is_over() {
            let lead_changed = self.inner.group.lead_changed();
            let term = self.inner.group.leader_term();
            if term != watched {
                self.inner.releases.turn(term.map(|_| clock_ms()));
                watched = term;
                if term.is_some() {
                    self.note_all_delayed().await;
                }
                continue;
            }
            if term.is_none() {
                lead_changed.await;
                continue;
            }
            let releases = &self.inner.releases;
            let noted = releases.noted();
            if releases.is_set_back(clock_ms()) {
                releases.turn(Some(clock_ms()));
                self.note_all_delayed().await;
                continue;
            }
            if let Some(key) = releases.take_stale() {
                self.note_delayed_of(key).await;
                continue;
            }
            let now_ms = self.look_ms();
            let has_more = self.inner.group.with_machine(|machine| {
                let delays = &machine.groups().delays;
                releases.look_ahead(now_ms, |key, id| delays.get(&key)?.due_ms(id))
            });
            if let Some((key, due_ms, id)) = releases.next_unread() {
                self.read_one(key, (due_ms, id), &mut warned).await;
                // Batches that were stored together are read together: a thousand of them in a row
                // would hold up those that are due, and what the disk has to tell of them.
                in_a_row += 1;
                match in_a_row.is_multiple_of(READS_IN_A_ROW) && due_ms > self.look_ms() {
                    true => sleep(Duration::from_millis(1)).await,
                    false => yield_now().await,
                }
                continue;
            }
            if has_more {
                yield_if_needed().await;
                // Those before them have to be let in first, unless there is nothing at all.
                first_of(noted, sleep(Duration::from_millis(1))).await;
                continue;
            }
            let next_ms = releases.next_look_ms();
            let left = next_ms.map(|at| Duration::from_millis(at.saturating_sub(now_ms).max(1)));
            let left = left.map_or(LOOK_EVERY, |left| left.min(LOOK_EVERY));
            first_of(first_of(noted, lead_changed), sleep(left)).await;
        }
    }

    /// Notes who waits already, in slices: behind another leader there may be millions.
    async fn note_all_delayed(&self) {
        // Wrong when planted: a new leader lets nobody in who waited when it began.
        if planted("broker-delayed-records-never-due") {
            return;
        }
        let keys = self
            .inner
            .group
            .with_machine(|machine| machine.groups().delays.keys().copied().collect::<Vec<_>>());
        for key in keys {
            self.note_delayed_of(key).await;
        }
    }

    async fn note_delayed_of(&self, key: PartitionKey) {
        let mut from = Some(0);
        while let Some(chunk) = from {
            let (dues, next, waiting) = self.inner.group.with_machine(|machine| {
                let Some(delays) = machine.groups().delays.get(&key) else {
                    return (Vec::new(), None, 0);
                };
                let (dues, next) = delays.dues_from(chunk);
                (dues, next, delays.waiting())
            });
            self.inner.releases.note(key, dues, waiting);
            from = next;
            yield_if_needed().await;
        }
    }

    /// Reads the batch that a record was stored in, and keeps all of it that is due soon.
    async fn read_one(
        &self,
        key: PartitionKey,
        (due_ms, id): (u64, Offset),
        warned: &mut Option<Instant>,
    ) {
        let releases = &self.inner.releases;
        let waits = || {
            self.inner.group.with_machine(|machine| {
                let delays = machine.groups().delays.get(&key);
                delays.and_then(|delays| delays.due_ms(id)) == Some(due_ms)
            })
        };
        if !waits() {
            return releases.put_off(key, (due_ms, id), None);
        }
        let era = releases.era();
        let read = self.read_placed(key.delay_store(), id..Offset(id.0 + 1), 1).await;
        if releases.era() != era {
            return;
        }
        let found = read.map(|batches| batches.first().is_some_and(|batch| self.keep(key, batch)));
        let is_kept = match found {
            Ok(is_kept) => is_kept,
            Err(FetchError::NotLeader { .. } | FetchError::ShuttingDown) => false,
            Err(error) => {
                if warned.is_none_or(|at| at.elapsed() > WARN_EVERY) {
                    *warned = Some(Instant::now());
                    tracing::warn!(%key, %id, %error, "a delayed record cannot be read yet");
                }
                false
            }
        };
        if !waits() {
            return releases.put_off(key, (due_ms, id), None);
        }
        // What was moved meanwhile has another timer.
        let is_ready = !releases.is_unread(key, &(due_ms, id));
        if !(is_kept && is_ready) {
            let retry_ms = self.look_ms().saturating_add(RETRY.as_millis() as u64);
            releases.put_off(key, (due_ms, id), Some(retry_ms));
        }
    }

    /// Keeps the records of a batch that are due soon; false if it cannot be opened.
    fn keep(&self, key: PartitionKey, batch: &Slice) -> bool {
        let until_ms = self.inner.releases.kept_until_ms(self.look_ms());
        let Ok(view) = BatchView::check(batch) else { return false };
        let Ok(records) = view.records(&DecompressionLimits::default()) else { return false };
        let (base_offset, expires) = (view.base_offset(), view.header().expires());
        self.inner.group.with_machine(|machine| {
            let Some(delays) = machine.groups().delays.get(&key) else { return };
            // Those that wait still, beside all that are in it.
            let mut waiting = delays.from(base_offset).peekable();
            for record in records.iter().map_while(Result::ok) {
                while waiting.next_if(|(at, _)| *at < record.offset).is_some() {}
                let Some((at, due_ms)) = waiting.peek().copied() else { break };
                if at > record.offset || due_ms > until_ms {
                    continue;
                }
                let ready = Ready {
                    timestamp_ms: record.timestamp_ms,
                    expires,
                    content: record.content.as_bytes().into(),
                };
                self.inner.releases.put(key, (due_ms, record.offset), ready);
            }
        });
        self.inner.releases.has_read();
        true
    }

    /// Lets those in whose time has come and that were read; until the shard closes.
    pub(crate) async fn release_delayed(self) {
        let releases = &self.inner.releases;
        while !self.inner.is_closing() && !self.inner.group.is_over() {
            let read = releases.was_read();
            let now_ms = clock_ms();
            // Wrong when planted: with apply, which takes them so early, they come a second early.
            let early_ms = if planted("broker-delayed-record-early") { 1_000 } else { 0 };
            let now_ms = now_ms + early_ms;
            // However small segments are: an entry must hold it.
            let bytes_max = self.inner.entry_bytes_max().saturating_sub(BATCH_OVERHEAD);
            let due = self.inner.group.with_machine(|machine| {
                let delays = &machine.groups().delays;
                let due_ms = |key, id| delays.get(&key)?.due_ms(id);
                releases.take_due(now_ms, bytes_max.min(BYTES_PER_BATCH), due_ms)
            });
            if !due.is_empty() {
                self.let_in(due).await;
                continue;
            }
            let left = releases.first_ready_ms();
            let left = left.map(|at| Duration::from_millis(at.saturating_sub(now_ms).max(1)));
            first_of(read, sleep(left.map_or(LOOK_EVERY, |left| left.min(LOOK_EVERY)))).await;
        }
    }

    async fn let_in(&self, due: Vec<(PartitionKey, Vec<Offset>, Vec<u8>)>) {
        let era = self.inner.releases.era();
        // All share an entry, and that of whoever produces meanwhile.
        let leaving: Vec<Leaving> =
            due.into_iter().map(|(key, ids, bytes)| self.submit_due(key, ids, bytes)).collect();
        let mut has_failed = false;
        for Leaving { key, ids, answer } in leaving {
            let failed = match answer.await {
                Ok(Ok(_)) => false,
                // Somebody was cancelled or moved meanwhile, or something before it failed.
                Ok(Err(ProduceError::Retry)) => true,
                other => {
                    has_failed = true;
                    tracing::debug!(%key, ?other, "delayed records could not be let in");
                    true
                }
            };
            if self.inner.releases.era() == era {
                let retry_ms = failed.then(|| self.look_ms().saturating_add(AGAIN_MS));
                self.inner.releases.left(key, &ids, retry_ms);
            }
        }
        if has_failed {
            sleep(RETRY).await;
        }
    }

    fn look_ms(&self) -> u64 {
        self.inner.releases.look_ms(clock_ms())
    }

    fn submit_due(&self, key: PartitionKey, ids: Vec<Offset>, bytes: Vec<u8>) -> Leaving {
        let Ok(batch) = CheckedBatch::check(Bytes::from(bytes)) else {
            unreachable!("what was built here is a batch");
        };
        let when = When::Due(ids.clone().into_boxed_slice());
        let batch = CheckedBatch { when, ..batch };
        let (sender, answer) = oneshot::channel();
        let reply = ProduceReply { way: Way::Here(sender), acks: Acks::Quorum };
        self.submit(WaitingBatch { key, batch, deadline: Instant::now() + WITHIN, reply });
        Leaving { key, ids, answer }
    }
}

/// This node's clock, which delays go by while it leads; the log's may be hours ahead, after a
/// leader whose clock was.
pub(super) fn clock_ms() -> u64 {
    u64::try_from(unix_time_ms()).unwrap_or(0)
}
