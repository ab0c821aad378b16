//! Push: records come as they become visible, as long as there is credit.
//!
//! ```text
//!  receives, by a task --> records, each with a credit --> next --> the program
//!         ^                                                            |
//!         +------------- credit, when a delivery is settled or dropped +
//! ```
//!
//! Owns: the credit. Must never: lease more than there is credit for; keep what nobody will take.
//! Invariant: credits are as many as were given, in hand or with a delivery.

use std::ops::Deref;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, watch};
use tokio::task::JoinHandle;

use super::{Queue, Receipt, Received, SettleError};
use crate::error::ClientError;

/// How long one receive waits: a close waits for it.
const WAIT: Duration = Duration::from_secs(1);
/// After an error that may pass.
const PAUSE: Duration = Duration::from_millis(100);

/// Records of a queue group, as they become visible. Dropped without [`Subscription::close`], what
/// was not taken comes back when its lease is over.
#[derive(Debug)]
pub struct Subscription {
    queue: Arc<Queue>,
    deliveries: mpsc::Receiver<Result<Delivery, ClientError>>,
    stop: watch::Sender<bool>,
    task: JoinHandle<()>,
}

/// A leased record, and the credit that it was given for. Dropped without being settled it gives
/// the credit back, and stays leased until its time is over.
#[derive(Debug)]
pub struct Delivery {
    received: Received,
    _credit: OwnedSemaphorePermit,
}

impl Deref for Delivery {
    type Target = Received;

    fn deref(&self) -> &Received {
        &self.received
    }
}

impl Queue {
    /// Has records sent as they become visible, at most `credit` of them unsettled at a time, each
    /// leased for `visibility` or as long as the group's settings say.
    ///
    /// # Panics
    /// Without credit nothing would ever come.
    #[must_use]
    pub fn subscribe(self, credit: usize, visibility: Option<Duration>) -> Subscription {
        assert!(credit > 0, "a subscription has credit");
        let credit = credit.min(Semaphore::MAX_PERMITS);
        let queue = Arc::new(self);
        let (sender, deliveries) = mpsc::channel(credit.min(1_000));
        let (stop, stopped) = watch::channel(false);
        let feed = Feed {
            queue: Arc::clone(&queue),
            credit: Arc::new(Semaphore::new(credit)),
            visibility,
            sender,
            stopped,
        };
        let task = tokio::spawn(feed.run());
        Subscription { queue, deliveries, stop, task }
    }
}

impl Subscription {
    /// The next record; waits for it. `None` after an error that will not pass. One whose lease is
    /// over before anybody took it is passed over: it comes again.
    ///
    /// Cancel-safe.
    pub async fn next(&mut self) -> Option<Result<Delivery, ClientError>> {
        loop {
            match self.deliveries.recv().await? {
                Ok(delivery) if delivery.lease_end <= Instant::now() => {}
                other => return Some(other),
            }
        }
    }

    /// The records of these deliveries are done; their credit comes back. One result per delivery.
    pub async fn ack(&self, deliveries: Vec<Delivery>) -> Vec<Result<(), SettleError>> {
        self.queue.ack(&receipts(&deliveries)).await
    }

    /// Gives records back, for `delay` or the group's back-off; their credit comes back. One result
    /// per delivery.
    pub async fn nack(
        &self,
        deliveries: Vec<Delivery>,
        delay: Option<Duration>,
    ) -> Vec<Result<(), SettleError>> {
        self.queue.nack(&receipts(&deliveries), delay).await
    }

    /// The queue itself, to extend leases and to look at it.
    #[must_use]
    pub fn queue(&self) -> &Queue {
        &self.queue
    }

    /// Ends it. What was leased and nobody has taken is given back at once; deliveries in the
    /// program's hands stay leased. Takes as long as a receive that is under way: about a second.
    pub async fn close(mut self) {
        self.stop.send_replace(true);
        let mut left = Vec::new();
        while let Some(delivery) = self.deliveries.recv().await {
            left.extend(delivery.ok());
        }
        // It has let go of its end, and so has ended.
        drop(self.task.await);
        if !left.is_empty() {
            drop(self.queue.nack(&receipts(&left), Some(Duration::ZERO)).await);
        }
    }
}

fn receipts(deliveries: &[Delivery]) -> Vec<Receipt> {
    deliveries.iter().map(|delivery| delivery.receipt).collect()
}

/// The task that receives.
struct Feed {
    queue: Arc<Queue>,
    credit: Arc<Semaphore>,
    visibility: Option<Duration>,
    sender: mpsc::Sender<Result<Delivery, ClientError>>,
    stopped: watch::Receiver<bool>,
}

impl Feed {
    async fn run(mut self) {
        while let Some(mut credit) = self.take_credit().await {
            let count_max = credit.num_permits();
            // Not cut short: what it has leased would be away until its time is over.
            let received = self.queue.receive(count_max, WAIT, self.visibility).await;
            match received {
                Ok(all) => {
                    for received in all {
                        // A server that sends more than was asked for: it comes again.
                        let Some(one) = credit.split(1) else { break };
                        let delivery = Delivery { received, _credit: one };
                        if self.sender.send(Ok(delivery)).await.is_err() {
                            return;
                        }
                    }
                }
                Err(error) => {
                    drop(credit);
                    let is_over = !error.is_retriable();
                    if self.sender.send(Err(error)).await.is_err() || is_over {
                        return;
                    }
                    tokio::time::sleep(PAUSE).await;
                }
            }
        }
    }

    /// All the credit that is free, once there is any; none when nobody wants more.
    async fn take_credit(&mut self) -> Option<OwnedSemaphorePermit> {
        let free = Arc::clone(&self.credit).acquire_owned();
        let mut credit = tokio::select! {
            biased;
            // Told to, or dropped.
            _ = self.stopped.wait_for(|is_stopped| *is_stopped) => return None,
            free = free => free.ok()?,
        };
        let more = u32::try_from(self.credit.available_permits()).unwrap_or(u32::MAX);
        if more > 0
            && let Ok(more) = Arc::clone(&self.credit).try_acquire_many_owned(more)
        {
            credit.merge(more);
        }
        Some(credit)
    }
}
