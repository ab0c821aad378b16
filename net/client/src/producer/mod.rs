//! The producer: batches records, sends them once, tells what became of them.
//!
//! ```text
//!  send() -> core (batches, lanes)  <- driver task -> connections
//!  flush()      shared, one lock          |
//!  Delivery <---------------------------- outcomes
//! ```
//! `core` and `lane` decide without I/O; `driver` carries out. The lock is held for one record or
//! one decision, never across an await.

mod claim;
mod core;
mod delivery;
mod driver;
mod lane;
mod partitioner;

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use barrage_model::PartitionId;
use barrage_model::batch::NewRecord;
use tokio::sync::Notify;
use tokio::time::Instant;

use self::claim::Hold;
use self::core::{Core, CoreOptions, New, Pushed};
use self::delivery::Waiters;
pub use self::delivery::{Delivery, DeliveryError, OnReport, Receipt, Report};
use self::driver::Driver;
pub use self::lane::Outcome;
use self::lane::{Identity, LaneLimits};
use crate::client::Client;
use crate::delay::Delay;
use crate::error::ClientError;
use crate::options::ProducerOptions;
use crate::pause::about;
use crate::route::Routes;

/// A record to send; borrowed, copied once into its batch.
#[derive(Clone, Copy, Debug, Default)]
pub struct Record<'a> {
    /// Where to; `None` leaves it to key or turn.
    pub partition: Option<PartitionId>,
    /// How urgent it is, for consumers of queue groups: 0 to the topic's highest level, which
    /// is that of all above it. A `partition` has a level of its own.
    pub priority: u8,
    /// Records with the same key keep their order, each level by itself.
    pub key: Option<&'a [u8]>,
    /// The payload; `None` is a tombstone.
    pub value: Option<&'a [u8]>,
    /// Names and values for applications; of [`barrage_model::headers`] the broker takes note.
    pub headers: &'a [(&'a [u8], &'a [u8])],
    /// Milliseconds since 1970; `None` means now.
    pub timestamp_ms: Option<i64>,
    /// It comes into its partition only then; at once without. Its [`Receipt`] names an id then,
    /// not an offset, by which it can be cancelled.
    pub delay: Option<Delay>,
    /// Comes back in the [`Report`].
    pub token: u64,
}

/// Sends records to one topic. Dropped without [`Producer::close`], what has no outcome yet is
/// abandoned and counts as unknown.
#[derive(Debug)]
pub struct Producer {
    shared: Arc<Shared>,
    task: tokio::task::JoinHandle<()>,
    /// Keeps the topic, where its order is global.
    keeper: Option<tokio::task::JoinHandle<()>>,
}

/// What senders and driver share.
#[derive(Debug)]
pub(crate) struct Shared {
    core: Mutex<Core<Waiters>>,
    routes: Routes,
    /// Where the order of the topic is global.
    hold: Option<Hold>,
    started: Instant,
    /// The driver has something to do.
    wake: Notify,
    /// Room was made, or batches got their outcome.
    space: Notify,
    closing: AtomicBool,
}

impl Producer {
    pub(crate) async fn open(
        client: &Client,
        topic: &str,
        options: ProducerOptions,
    ) -> Result<Self, ClientError> {
        Self::open_with(client, topic, options, None).await
    }

    /// As [`Client::producer`], with a function that is called with every batch's outcome.
    ///
    /// # Errors
    /// The topic is unknown, an option makes no sense, or no server answers.
    pub async fn with_reports(
        client: &Client,
        topic: &str,
        options: ProducerOptions,
        on_report: OnReport,
    ) -> Result<Self, ClientError> {
        Self::open_with(client, topic, options, Some(on_report)).await
    }

    async fn open_with(
        client: &Client,
        topic: &str,
        options: ProducerOptions,
        on_report: Option<OnReport>,
    ) -> Result<Self, ClientError> {
        options.check()?;
        let routes = Routes::resolve(client, topic).await?;
        let mut hold = None;
        let mut identity = None;
        if routes.order().is_global() {
            let (held, under) = Hold::take(&routes, options.rival, options.session).await?;
            hold = Some(held);
            identity = Some(Identity { id: under.producer, epoch: under.epoch });
        }
        let core_options = CoreOptions {
            compression: options.compression,
            batch_bytes: options.batch_bytes,
            linger: options.linger,
            buffer_bytes_max: options.buffer_bytes_max,
            lane: LaneLimits {
                in_flight_max: options.in_flight_max,
                delivery_timeout: options.delivery_timeout,
                // Producers that lost the same leader do not come to the next one in step.
                retry_pause_min: about(options.retry_pause_min),
                retry_pause_max: options.retry_pause_max,
            },
        };
        let mut core = Core::new(core_options, routes.partition_count(), routes.priorities());
        identity.into_iter().for_each(|identity| core.handle_identity(identity));
        let shared = Arc::new(Shared {
            core: Mutex::new(core),
            routes,
            hold,
            started: Instant::now(),
            wake: Notify::new(),
            space: Notify::new(),
            closing: AtomicBool::new(false),
        });
        let driver = Driver::new(Arc::clone(&shared), options.acks, on_report);
        let task = tokio::spawn(driver.run());
        let keeper = shared.hold.is_some().then(|| tokio::spawn(keep(Arc::clone(&shared))));
        Ok(Self { shared, task, keeper })
    }

    /// How many partitions the topic has.
    #[must_use]
    pub fn partition_count(&self) -> u32 {
        self.shared.routes.partition_count()
    }

    /// Takes a record into a batch; waits only while the buffer is full. Cancel-safe: a dropped
    /// call took the record or did not, never half.
    ///
    /// # Errors
    /// The record is too large, its partition does not exist, or the topic is gone. What happens
    /// to a record that was taken is told by the [`Delivery`].
    pub async fn send(&self, record: Record<'_>) -> Result<Delivery, ClientError> {
        let timestamp_ms = record.timestamp_ms.unwrap_or_else(unix_time_ms);
        let Record { partition, priority, key, value, headers, delay, token, .. } = record;
        if let Some(Delay::Until(due_ms)) = delay {
            check_due(due_ms)?;
        }
        let record = NewRecord { key, value, headers, timestamp_ms };
        let new = New { record, delay, priority };
        loop {
            if let Some(delivery) = self.try_send(partition, &new, token)? {
                return Ok(delivery);
            }
            // Registered before the second look, so that room made in between is not missed.
            let space = self.shared.space.notified();
            let mut space = std::pin::pin!(space);
            space.as_mut().enable();
            if let Some(delivery) = self.try_send(partition, &new, token)? {
                return Ok(delivery);
            }
            space.await;
        }
    }

    fn try_send(
        &self,
        partition: Option<PartitionId>,
        record: &New<'_>,
        token: u64,
    ) -> Result<Option<Delivery>, ClientError> {
        let now = self.shared.now();
        let mut core = self.shared.core();
        match core.push(now, partition, record, token)? {
            Pushed::Full => {
                // Half-filled batches must not keep the room they take until they linger out.
                core.flush(now);
                drop(core);
                self.shared.wake.notify_one();
                Ok(None)
            }
            Pushed::Buffered { partition, index, handle, wake } => {
                drop(core);
                if wake {
                    self.shared.wake.notify_one();
                }
                Ok(Some(Delivery { ticket: handle, partition, index }))
            }
        }
    }

    /// Sends what waits and returns when every record sent so far has its outcome.
    pub async fn flush(&self) {
        loop {
            let space = self.shared.space.notified();
            let mut space = std::pin::pin!(space);
            space.as_mut().enable();
            {
                let mut core = self.shared.core();
                core.flush(self.shared.now());
                if core.is_idle() && !core.has_completed() {
                    return;
                }
            }
            self.shared.wake.notify_one();
            space.await;
        }
    }

    /// Flushes and ends the producer: afterwards every report has been made, and another producer
    /// may have the topic where its order is global.
    pub async fn close(mut self) {
        self.flush().await;
        self.shared.closing.store(true, Ordering::Release);
        self.shared.wake.notify_one();
        // An error here means that the runtime is going down.
        drop((&mut self.task).await);
        if let Some(hold) = &self.shared.hold {
            if let Some(keeper) = self.keeper.take() {
                keeper.abort();
                drop(keeper.await);
            }
            hold.release(&self.shared.routes).await;
        }
    }
}

impl Drop for Producer {
    fn drop(&mut self) {
        self.task.abort();
        self.keeper.iter().for_each(|keeper| keeper.abort());
    }
}

impl Shared {
    fn core(&self) -> MutexGuard<'_, Core<Waiters>> {
        self.core.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Time since the producer was opened: the core's clock.
    fn now(&self) -> Duration {
        self.started.elapsed()
    }

    fn is_finished(&self) -> bool {
        self.closing.load(Ordering::Acquire) && self.core().is_idle()
    }
}

/// Keeps the topic as long as it can; then nothing is written any more.
async fn keep(shared: Arc<Shared>) {
    let Some(hold) = &shared.hold else { return };
    let error = hold.keep(&shared.routes).await;
    shared.core().handle_ended(shared.now(), &error);
    shared.wake.notify_one();
}

/// A time that is long over is a mistake; the servers say so of whole batches, this of one record.
fn check_due(due_ms: u64) -> Result<(), ClientError> {
    const OVER: u64 = 5_000;
    let now_ms = u64::try_from(unix_time_ms()).unwrap_or(0);
    match due_ms.saturating_add(OVER) < now_ms {
        true => Err(ClientError::DelayIsOver { due_ms, now_ms }),
        false => Ok(()),
    }
}

fn unix_time_ms() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
}
