//! Queue groups: records are leased one by one, and done when they are acked.
//!
//! ```text
//!  receive --> gather: a round over the partitions --> leases and records
//!                 ^                      | nothing
//!                 +-- some have more <-- waits: one request per partition, which leases nothing
//!
//!  ack, nack, extend --> by partition, at once --> one verdict per receipt
//! ```
//! Guarantees
//! - A record is leased to one consumer at a time, and its lease is durable before it is told.
//! - An ack that was answered stays. One whose answer was lost is sent again, and counts as done
//!   when the record turns out to be.
//! - At least once: a lease that ends without an ack, or whose grant was lost on its way, is
//!   followed by another one.
//!
//! ```no_run
//! # async fn example(client: barrage_client::Client) -> Result<(), Box<dyn std::error::Error>> {
//! use std::time::Duration;
//!
//! use barrage_client::QueueOptions;
//! use barrage_client::queue::Receipt;
//!
//! let queue = client.queue("orders", "packing", QueueOptions::default()).await?;
//! let received = queue.receive(100, Duration::from_secs(20), None).await?;
//! for one in &received {
//!     println!("{:?}, delivery {}", one.record.value, one.deliveries);
//! }
//! let receipts: Vec<Receipt> = received.iter().map(|one| one.receipt).collect();
//! for result in queue.ack(&receipts).await {
//!     result?;
//! }
//! # Ok(())
//! # }
//! ```
//!
//! Partitions that the topic got after the queue was opened are not read: open it again.

mod gather;
mod look;
mod receipt;
mod record;
mod subscription;
mod waits;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use barrage_model::{GroupId, PartitionId};
use barrage_wire::{
    ErrorCode, ErrorReply, GroupKind, GroupSummary, QueueSettle, QueueSettleReply,
    Receipt as WireReceipt, Request, Response, Settled, Settlement,
};
use tokio::task::JoinSet;

use self::gather::Gatherer;
pub use self::look::{Counts, PartitionCounts};
use self::receipt::verdict;
pub use self::receipt::{Receipt, ReceiptParseError, SettleError};
pub use self::record::{Received, Record};
pub use self::subscription::{Delivery, Subscription};
use self::waits::Waits;
use crate::client::Client;
use crate::error::ClientError;
use crate::leader::{self, Answer, Terms};
use crate::options::QueueOptions;
use crate::route::Routes;

/// Receipts in one request, at most: what a server takes.
const RECEIPTS_MAX: usize = 10_000;

/// Where a new group begins in each partition.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Begin {
    /// At the first record there is.
    #[default]
    Start,
    /// After the last record there is now.
    End,
}

/// A queue group of one topic. Its methods may be called at the same time.
#[derive(Debug)]
pub struct Queue {
    shared: Arc<Shared>,
    gatherer: Gatherer,
}

/// What the tasks of a queue share.
#[derive(Debug)]
struct Shared {
    routes: Routes,
    group: GroupId,
    waits: Waits,
}

impl Queue {
    pub(crate) async fn open(
        client: &Client,
        topic: &str,
        group: &str,
        options: QueueOptions,
    ) -> Result<Self, ClientError> {
        options.check()?;
        let routes = Routes::resolve(client, topic).await?;
        let group = find(client, &routes, topic, group).await?;
        let in_flight_max = client.server().await?.limits.in_flight_requests_max;
        let waits = Waits::new(routes.partition_count(), in_flight_max);
        let shared = Arc::new(Shared { routes, group, waits });
        Ok(Self { gatherer: Gatherer::new(Arc::clone(&shared), options), shared })
    }

    /// Leases at most `count_max` records, for `visibility` or as long as the group's settings say.
    /// Waits for the first of them for `wait`; none means that nothing came. There are fewer than
    /// asked for only when fewer are visible, when they make up
    /// [`QueueOptions::bytes_max`], or when a partition cannot be reached just now.
    ///
    /// Not cancel-safe: what was leased meanwhile comes back when its lease is over.
    ///
    /// # Errors
    /// Nothing was leased, and a partition cannot be asked within the request timeout; topic or
    /// group were deleted; a batch is damaged: its leases end by their time.
    pub async fn receive(
        &self,
        count_max: usize,
        wait: Duration,
        visibility: Option<Duration>,
    ) -> Result<Vec<Received>, ClientError> {
        self.gatherer.receive(count_max, wait, visibility).await
    }

    /// The records of these receipts are done. One result per receipt, in their order; `Ok` is
    /// durable.
    pub async fn ack(&self, receipts: &[Receipt]) -> Vec<Result<(), SettleError>> {
        self.settle(receipts, Settlement::Ack).await
    }

    /// Gives records back: they may be leased again after `delay`, or the group's back-off. One
    /// result per receipt, in their order; after an answer that was lost it may be `NotLeased` or
    /// `Stale` though they were given back.
    pub async fn nack(
        &self,
        receipts: &[Receipt],
        delay: Option<Duration>,
    ) -> Vec<Result<(), SettleError>> {
        let delay_ms = delay.map(milliseconds);
        self.settle(receipts, Settlement::Nack { delay_ms }).await
    }

    /// Gives records back that nobody has looked at: they may be leased again at once, and this
    /// delivery does not count. One result per receipt, in their order, as of [`Queue::nack`].
    pub async fn release(&self, receipts: &[Receipt]) -> Vec<Result<(), SettleError>> {
        self.settle(receipts, Settlement::Release).await
    }

    /// Keeps records for `visibility` from now on. One result per receipt, in their order.
    pub async fn extend(
        &self,
        receipts: &[Receipt],
        visibility: Duration,
    ) -> Vec<Result<(), SettleError>> {
        let visibility_ms = milliseconds(visibility);
        self.settle(receipts, Settlement::Extend { visibility_ms }).await
    }

    async fn settle(
        &self,
        receipts: &[Receipt],
        settlement: Settlement,
    ) -> Vec<Result<(), SettleError>> {
        let partitions = self.shared.routes.partition_count();
        let mut results = Vec::with_capacity(receipts.len());
        let mut places: BTreeMap<PartitionId, Vec<usize>> = BTreeMap::new();
        for (place, receipt) in receipts.iter().enumerate() {
            let partition = receipt.partition;
            if partition.0 < partitions {
                places.entry(partition).or_default().push(place);
            }
            // Said of a partition that there is until its answer takes this place.
            let error = match partition.0 < partitions {
                true => ClientError::Closed,
                false => ClientError::NoSuchPartition { partition, partitions },
            };
            results.push(Err(SettleError::Request(error)));
        }
        let mut tasks = JoinSet::new();
        for (partition, places) in places {
            let chosen = places.iter().filter_map(|place| receipts.get(*place).copied());
            let chosen: Vec<Receipt> = chosen.collect();
            let shared = Arc::clone(&self.shared);
            tasks.spawn(
                async move { (places, shared.settle_in(partition, settlement, &chosen).await) },
            );
        }
        while let Some(done) = tasks.join_next().await {
            let Ok((places, verdicts)) = done else { continue };
            for (place, verdict) in places.into_iter().zip(verdicts) {
                if let Some(result) = results.get_mut(place) {
                    *result = verdict;
                }
            }
        }
        results
    }
}

impl Shared {
    /// Settles receipts of one partition.
    async fn settle_in(
        &self,
        partition: PartitionId,
        settlement: Settlement,
        receipts: &[Receipt],
    ) -> Vec<Result<(), SettleError>> {
        let mut verdicts = Vec::with_capacity(receipts.len());
        for chunk in receipts.chunks(RECEIPTS_MAX) {
            match self.settle_chunk(partition, settlement, chunk).await {
                Ok(some) => verdicts.extend(some),
                Err(error) => {
                    let told = chunk.iter().map(|_| Err(SettleError::Request(error.clone())));
                    verdicts.extend(told);
                }
            }
        }
        verdicts
    }

    async fn settle_chunk(
        &self,
        partition: PartitionId,
        settlement: Settlement,
        receipts: &[Receipt],
    ) -> Result<Vec<Result<(), SettleError>>, ClientError> {
        let (key, group) = (self.routes.key(partition), self.group);
        let wire = |receipt: &Receipt| WireReceipt { offset: receipt.offset, tag: receipt.tag };
        let receipts: Vec<_> = receipts.iter().map(wire).collect();
        let request = |_| {
            let receipts = receipts.clone();
            Request::QueueSettle(QueueSettle { key, group, settlement, receipts })
        };
        let answer = self.ask(partition, request).await?;
        let Response::QueueSettle(QueueSettleReply { results }) = answer.decode()? else {
            return Err(answer.wrong());
        };
        if results.len() != receipts.len() {
            let cause = format!("{} results for {} receipts", results.len(), receipts.len());
            return Err(answer.broken(cause));
        }
        // Whoever acks twice because the first answer was lost has acked.
        let acked_before = answer.is_repeated && settlement == Settlement::Ack;
        let verdict = |settled| match settled {
            Settled::AlreadySettled if acked_before => Ok(()),
            settled => verdict(settled),
        };
        Ok(results.into_iter().map(verdict).collect())
    }

    /// Asks the leader of a partition, within the request timeout.
    async fn ask(
        &self,
        partition: PartitionId,
        request: impl Fn(u32) -> Request<'static>,
    ) -> Result<Answer, ClientError> {
        let terms = Terms { wait: Duration::ZERO, patience: self.patience() };
        leader::ask(&self.routes, partition, terms, request).await
    }

    fn patience(&self) -> Duration {
        self.routes.client().pool().options().request_timeout
    }

    fn partitions(&self) -> impl Iterator<Item = PartitionId> + use<> {
        (0..self.routes.partition_count()).map(PartitionId)
    }
}

/// The id of a group by its name.
async fn find(
    client: &Client,
    routes: &Routes,
    topic: &str,
    name: &str,
) -> Result<GroupId, ClientError> {
    let id = routes.key(PartitionId(0)).topic;
    let GroupSummary { group, kind, .. } = client.group(topic, name, Some(id)).await?;
    match kind {
        GroupKind::Queue(_) => Ok(group),
        GroupKind::Stream { .. } => {
            let message = format!("group {name} of {topic} is a stream group, no queue group");
            let reply = ErrorReply::new(ErrorCode::InvalidArgument, message);
            Err(ClientError::Refused(reply))
        }
    }
}

fn milliseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
