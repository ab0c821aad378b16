//! Push: records come as they become visible, as long as there is credit.
//!
//! ```text
//!  task: receives --> records, each with a credit --> next --> the program
//!         ^                                                      |
//!         +---- credit, when a delivery is settled or dropped ---+
//! ```
//!
//! Owns: the credit, and what was leased until the program takes it.
//! Must never: lease more than there is credit for; keep what nobody will take.
//! Invariant: credits are as many as were given, in the semaphore or with a delivery.

use std::ops::Deref;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot};
use tokio::task::JoinHandle;

use super::{Queue, Receipt, Received, SettleError};
use crate::error::ClientError;

/// How long one receive waits: the end of a subscription waits for it.
const WAIT: Duration = Duration::from_secs(1);
/// After an error that may pass.
const PAUSE: Duration = Duration::from_millis(100);
/// Deliveries that wait to be taken, at most, whatever the credit: the rest waits for them.
const WAITING_MAX: usize = 1_000;

/// Records of a queue group, as they become visible. When it ends, by [`Subscription::close`] or
/// dropped, what nobody took is given back, and that delivery of it does not count.
#[derive(Debug)]
pub struct Subscription {
    queue: Arc<Queue>,
    /// None when it has ended.
    open: Option<Open>,
    task: Option<JoinHandle<()>>,
}

type Deliveries = mpsc::Receiver<Result<Delivery, ClientError>>;

#[derive(Debug)]
struct Open {
    deliveries: Deliveries,
    /// Takes them back when it ends.
    ended: oneshot::Sender<Deliveries>,
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
    /// A lease runs from when its record was sent, and one that ends before the record is taken
    /// counts as a delivery: give no more credit than is worked off within a lease. With
    /// priorities, what is urgent comes behind what was sent before it: give little credit.
    ///
    /// # Panics
    /// Without credit nothing would ever come; outside of a tokio runtime nothing would run it.
    #[must_use]
    pub fn subscribe(self: &Arc<Self>, credit: u32, visibility: Option<Duration>) -> Subscription {
        assert!(credit > 0, "a subscription has credit");
        let credit = (credit as usize).min(Semaphore::MAX_PERMITS);
        let (sender, deliveries) = mpsc::channel(credit.min(WAITING_MAX));
        let (ended, left) = oneshot::channel();
        let credit = Arc::new(Semaphore::new(credit));
        let feed = Feed { queue: Arc::clone(self), credit, visibility, sender, unsent: Vec::new() };
        let task = Some(tokio::spawn(feed.run(left)));
        Subscription { queue: Arc::clone(self), open: Some(Open { deliveries, ended }), task }
    }
}

impl Subscription {
    /// The next record; waits for it. `None` after an error that will not pass. One whose lease was
    /// over before anybody took it is passed over: it comes again.
    ///
    /// Cancel-safe.
    pub async fn next(&mut self) -> Option<Result<Delivery, ClientError>> {
        loop {
            match self.open.as_mut()?.deliveries.recv().await? {
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

    /// Ends it, and waits until what nobody took is given back; deliveries in the program's hands
    /// stay leased. Takes as long as a receive that is under way: about a second, or up to the
    /// request timeout while the leader of a partition is away.
    pub async fn close(mut self) {
        self.end();
        if let Some(task) = self.task.take() {
            // It panicked, or its runtime ends: what is leased comes back when its time is over.
            drop(task.await);
        }
    }

    fn end(&mut self) {
        if let Some(Open { mut deliveries, ended }) = self.open.take() {
            // From here on the task finds nobody to send to; it takes back what it has sent.
            deliveries.close();
            drop(ended.send(deliveries));
        }
    }
}

impl Drop for Subscription {
    fn drop(&mut self) {
        self.end();
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
    /// Leased when there was nobody left to send it to.
    unsent: Vec<Receipt>,
}

impl Feed {
    async fn run(mut self, left: oneshot::Receiver<Deliveries>) {
        while let Some(credit) = self.take_credit().await {
            let count_max = credit.num_permits();
            // Not cut short: what it has leased would be away until its time is over.
            let received = self.queue.receive(count_max, WAIT, self.visibility).await;
            let goes_on = match received {
                Ok(received) => self.hand_out(received, credit).await,
                Err(error) => self.tell(error, credit).await,
            };
            if !goes_on {
                break;
            }
        }
        // After an error that does not pass the program may still take what was sent before.
        let Self { queue, sender, mut unsent, .. } = self;
        drop(sender);
        if let Ok(mut left) = left.await {
            while let Some(delivery) = left.recv().await {
                unsent.extend(delivery.ok().map(|delivery| delivery.receipt));
            }
        }
        if !unsent.is_empty() {
            // What cannot be given back comes back when its lease is over.
            drop(queue.release(&unsent).await);
        }
    }

    /// Whether somebody wants more.
    async fn hand_out(
        &mut self,
        received: Vec<Received>,
        mut credit: OwnedSemaphorePermit,
    ) -> bool {
        for received in received {
            let receipt = received.receipt;
            // A server that sends more than was asked for gets it back.
            let Some(one) = credit.split(1) else {
                self.unsent.push(receipt);
                continue;
            };
            if self.sender.send(Ok(Delivery { received, _credit: one })).await.is_err() {
                self.unsent.push(receipt);
            }
        }
        !self.sender.is_closed()
    }

    /// Whether it may pass, and somebody waits for that.
    async fn tell(&self, error: ClientError, credit: OwnedSemaphorePermit) -> bool {
        drop(credit);
        let may_pass = error.is_retriable();
        let is_told = self.sender.send(Err(error)).await.is_ok();
        if may_pass && is_told {
            tokio::time::sleep(PAUSE).await;
        }
        may_pass && is_told
    }

    /// All the credit that is free, once there is any; none when nobody wants more.
    async fn take_credit(&self) -> Option<OwnedSemaphorePermit> {
        let mut credit = tokio::select! {
            biased;
            () = self.sender.closed() => return None,
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
