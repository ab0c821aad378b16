//! Push: records come as they become visible, as long as there is credit.
//!
//! ```text
//!  task: receives --> shelf: leased, each with a credit --> next --> the program
//!         ^             | half of its lease is over                     |
//!         |             v                                               |
//!         +---- credit, when a delivery is given back, settled or dropped
//! ```
//!
//! Owns: the credit, and what was leased until the program takes it.
//! Must never: lease more than there is credit for; keep what nobody will take; let a delivery
//! count that nobody has seen.
//! Invariant: credits are as many as were given, in the semaphore or with a delivery.

use std::collections::{BTreeMap, VecDeque};
use std::ops::Deref;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore, watch};
use tokio::task::JoinHandle;

use super::{Queue, Receipt, Received, SettleError};
use crate::error::ClientError;

/// How long one receive waits: the end of a subscription waits for it.
const WAIT: Duration = Duration::from_secs(1);
/// After an error that may pass.
const PAUSE: Duration = Duration::from_millis(100);
/// How often it is looked for what has lain on the shelf for too long: the shortest lease is 1 s.
const LOOK_EVERY: Duration = Duration::from_millis(200);

/// Records of a queue group, as they become visible. What the program does not take is given back,
/// also when it ends, by [`Subscription::close`] or dropped, and that delivery does not count.
#[derive(Debug)]
pub struct Subscription {
    queue: Arc<Queue>,
    shelf: Arc<Shelf>,
    ended: watch::Sender<bool>,
    task: Option<JoinHandle<()>>,
}

/// A leased record, and the credit that it was given for. Dropped without being settled it gives
/// the credit back, and stays leased until its time is over.
#[derive(Debug)]
pub struct Delivery {
    received: Received,
    /// From then on it is for others: half of its lease has passed.
    stale_at: Instant,
    _credit: OwnedSemaphorePermit,
}

impl Deref for Delivery {
    type Target = Received;

    fn deref(&self) -> &Received {
        &self.received
    }
}

/// What was leased and nobody has taken.
#[derive(Debug, Default)]
struct Shelf {
    content: Mutex<Content>,
    /// For the one that takes.
    news: Notify,
}

#[derive(Debug, Default)]
struct Content {
    /// By level, as they came.
    deliveries: BTreeMap<u8, VecDeque<Delivery>>,
    /// The last one that was not told.
    error: Option<ClientError>,
    /// No more will come.
    is_over: bool,
}

impl Shelf {
    fn content(&self) -> MutexGuard<'_, Content> {
        self.content.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Content {
    /// The oldest of the highest level.
    fn take(&mut self, now: Instant) -> Option<Delivery> {
        let mut levels = self.deliveries.values_mut().rev();
        let front = |level: &mut VecDeque<Delivery>| match level.front() {
            // Too little is left of its lease: it is about to be given back.
            Some(delivery) if delivery.stale_at <= now => None,
            _ => level.pop_front(),
        };
        levels.find_map(front)
    }

    /// Those whose time on the shelf is over by `now`.
    fn stale(&mut self, now: Instant) -> Vec<Delivery> {
        let mut stale = Vec::new();
        for level in self.deliveries.values_mut() {
            let fresh = level.partition_point(|delivery| delivery.stale_at <= now);
            stale.extend(level.drain(..fresh));
        }
        stale
    }

    fn clear(&mut self) -> Vec<Delivery> {
        std::mem::take(&mut self.deliveries).into_values().flatten().collect()
    }
}

impl Queue {
    /// Has records sent as they become visible, at most `credit` of them unsettled at a time, each
    /// leased for `visibility` or as long as the group's settings say. One that the program does
    /// not take within half of that is given back. With priorities the highest level is had first
    /// of what was sent; an urgent record waits for credit as any other.
    ///
    /// # Panics
    /// Without credit nothing would ever come; outside of a tokio runtime nothing would run it.
    #[must_use]
    pub fn subscribe(self: &Arc<Self>, credit: u32, visibility: Option<Duration>) -> Subscription {
        assert!(credit > 0, "a subscription has credit");
        let credit = (credit as usize).min(Semaphore::MAX_PERMITS);
        let (ended, is_ended) = watch::channel(false);
        let shelf = Arc::new(Shelf::default());
        let feed = Feed {
            queue: Arc::clone(self),
            shelf: Arc::clone(&shelf),
            credit: Arc::new(Semaphore::new(credit)),
            visibility,
            is_ended,
        };
        let task = Some(tokio::spawn(feed.run()));
        Subscription { queue: Arc::clone(self), shelf, ended, task }
    }
}

impl Subscription {
    /// The next record; waits for it. `None` after an error that will not pass.
    ///
    /// Cancel-safe.
    pub async fn next(&mut self) -> Option<Result<Delivery, ClientError>> {
        loop {
            {
                let mut content = self.shelf.content();
                if let Some(delivery) = content.take(Instant::now()) {
                    return Some(Ok(delivery));
                }
                if let Some(error) = content.error.take() {
                    return Some(Err(error));
                }
                if content.is_over {
                    return None;
                }
            }
            // Whoever put something there meanwhile has left word.
            self.shelf.news.notified().await;
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

    /// Ends it, and waits until what nobody took is given back; deliveries in the program's hands
    /// stay leased. Takes as long as a receive that is under way: about a second, or up to the
    /// request timeout while the leader of a partition is away.
    pub async fn close(mut self) {
        self.ended.send_replace(true);
        if let Some(task) = self.task.take() {
            // It panicked, or its runtime ends: what is leased comes back when its time is over.
            drop(task.await);
        }
    }
}

impl Drop for Subscription {
    fn drop(&mut self) {
        self.ended.send_replace(true);
    }
}

fn receipts(deliveries: &[Delivery]) -> Vec<Receipt> {
    deliveries.iter().map(|delivery| delivery.receipt).collect()
}

/// The task that receives.
struct Feed {
    queue: Arc<Queue>,
    shelf: Arc<Shelf>,
    credit: Arc<Semaphore>,
    visibility: Option<Duration>,
    is_ended: watch::Receiver<bool>,
}

impl Feed {
    async fn run(self) {
        let is_done = Notify::new();
        let receive = async {
            self.receive().await;
            is_done.notify_one();
        };
        tokio::join!(receive, self.sweep(&is_done));
        let left = self.shelf.content().clear();
        self.give_back(&receipts(&left)).await;
    }

    /// Receives until nobody wants more.
    async fn receive(&self) {
        while let Some(credit) = self.take_credit().await {
            let (count_max, asked_at) = (credit.num_permits(), Instant::now());
            // Not cut short: what it has leased would be away until its time is over.
            match self.queue.receive(count_max, WAIT, self.visibility).await {
                Ok(received) => self.hand_out(received, credit, asked_at).await,
                Err(error) => {
                    drop(credit);
                    let may_pass = error.is_retriable();
                    self.shelf.content().error = Some(error);
                    self.shelf.news.notify_one();
                    if !may_pass {
                        break;
                    }
                    tokio::time::sleep(PAUSE).await;
                }
            }
        }
        self.shelf.content().is_over = true;
        self.shelf.news.notify_one();
        // After an error that does not pass the program may still take what was sent before.
        drop(self.is_ended.clone().wait_for(|is_ended| *is_ended).await);
    }

    /// Gives back what has lain on the shelf for too long. Beside receiving: a partition whose
    /// leader is away takes nothing back, and the others have records.
    async fn sweep(&self, is_done: &Notify) {
        loop {
            tokio::select! {
                () = is_done.notified() => return,
                () = tokio::time::sleep(LOOK_EVERY) => {}
            }
            let stale = self.shelf.content().stale(Instant::now());
            self.give_back(&receipts(&stale)).await;
            if !stale.is_empty() {
                // What lay behind them may be had.
                self.shelf.news.notify_one();
            }
        }
    }

    /// What cannot be given back comes back when its lease is over.
    async fn give_back(&self, receipts: &[Receipt]) {
        if !receipts.is_empty() {
            drop(self.queue.release(receipts).await);
        }
    }

    async fn hand_out(
        &self,
        received: Vec<Received>,
        mut credit: OwnedSemaphorePermit,
        asked_at: Instant,
    ) {
        let priorities = self.queue.shared.routes.priorities();
        let mut unasked = Vec::new();
        {
            let mut content = self.shelf.content();
            for received in received {
                // A server that sends more than was asked for gets it back.
                let Some(one) = credit.split(1) else {
                    unasked.push(received.receipt);
                    continue;
                };
                let half = received.lease_end.saturating_duration_since(asked_at) / 2;
                let stale_at = asked_at + half;
                let level = priorities.of(received.receipt.partition());
                let delivery = Delivery { received, stale_at, _credit: one };
                content.deliveries.entry(level).or_default().push_back(delivery);
            }
        }
        self.shelf.news.notify_one();
        self.give_back(&unasked).await;
    }

    /// All the credit that is free, once there is any; none when nobody wants more.
    async fn take_credit(&self) -> Option<OwnedSemaphorePermit> {
        let mut is_ended = self.is_ended.clone();
        let mut credit = tokio::select! {
            biased;
            // Told to, or dropped.
            _ = is_ended.wait_for(|is_ended| *is_ended) => return None,
            free = Arc::clone(&self.credit).acquire_owned() => free.ok()?,
        };
        let more = self.credit.available_permits();
        if let Ok(more) = Arc::clone(&self.credit).try_acquire_many_owned(narrow(more)) {
            credit.merge(more);
        }
        Some(credit)
    }
}

/// Credit was given as a number of this width.
fn narrow(permits: usize) -> u32 {
    u32::try_from(permits).unwrap_or(u32::MAX)
}
