//! Receiving: leases of all partitions, gathered into one answer.
//!
//! A round asks the partition whose turn it is for all that is wanted: with a backlog that is one
//! request. Only when it has less, all others are asked at once, without leasing, whether they have
//! any; then those who do, one after the other, for what is still missing. So nothing is leased
//! that was not asked for. Where a topic has priorities a round goes from the highest level down.
//!
//! Owns: whose turn it is. Must never: let records in hand wait for longer than [`PATIENCE`]
//! for partitions in trouble; they are asked in earnest when there is nothing else.

use std::cmp::Reverse;
use std::collections::{BTreeMap, VecDeque};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use barrage_model::PartitionId;
use barrage_wire::{QueueReceive, Request, Response};
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::record::{Heard, Received, Unfit, leased};
use super::{Shared, milliseconds};
use crate::client::PATIENCE;
use crate::error::ClientError;
use crate::leader::{self, Terms};
use crate::options::QueueOptions;
use crate::pause::random;

/// Records of one request, at most: what a server takes.
const COUNT_MAX: usize = 10_000;
/// One request waits no longer: whoever lost its lead without noticing is then found out.
pub(super) const WAIT_MAX: Duration = Duration::from_secs(5);
/// A server that looks for records which a filter lets through is asked on for so long, whether or
/// not there was a wait.
const LOOK_MAX: Duration = Duration::from_secs(30);

/// See the module.
#[derive(Debug)]
pub(super) struct Gatherer {
    shared: Arc<Shared>,
    options: QueueOptions,
    /// The partition where the next round begins, modulo their count.
    turn: AtomicU32,
    /// Those who wait for partitions; they end with the queue.
    tasks: Mutex<JoinSet<()>>,
}

/// What one receive has so far.
struct Basket {
    received: Vec<Received>,
    /// Records still missing.
    missing: usize,
    /// Bytes that it has room for.
    room: usize,
    visibility_ms: Option<u64>,
}

impl Basket {
    fn is_full(&self) -> bool {
        self.missing == 0 || self.room == 0
    }

    fn put(&mut self, received: Vec<Received>) {
        let size: usize = received.iter().map(|one| one.record.size()).sum();
        self.room = self.room.saturating_sub(size);
        self.missing = self.missing.saturating_sub(received.len());
        self.received.extend(received);
    }
}

impl Gatherer {
    pub(super) fn new(shared: Arc<Shared>, options: QueueOptions) -> Self {
        // Consumers that start together do not go around in step.
        let turn = u32::try_from(random() % u64::from(u32::MAX)).unwrap_or(0);
        let tasks = Mutex::new(JoinSet::new());
        Self { shared, options, turn: AtomicU32::new(turn), tasks }
    }

    pub(super) async fn receive(
        &self,
        count_max: usize,
        wait: Duration,
        visibility: Option<Duration>,
    ) -> Result<Vec<Received>, ClientError> {
        if count_max == 0 {
            return Ok(Vec::new());
        }
        let until = Instant::now() + wait;
        let basket = || Basket {
            received: Vec::new(),
            missing: count_max,
            room: self.options.bytes_max as usize,
            visibility_ms: visibility.map(milliseconds),
        };
        // What becomes visible from here on is news.
        let mut news = self.shared.waits.news();
        let mut first = None;
        loop {
            if self.shared.routes.partition_count() == 1 {
                let mut basket = basket();
                let wait = until.saturating_duration_since(Instant::now()).min(WAIT_MAX);
                let terms = Terms { wait, patience: self.shared.patience() };
                let taken = self.take(PartitionId(0), terms, &mut basket).await;
                if basket.received.is_empty() {
                    taken?;
                }
                // What was leased is handed out, whatever came behind it.
                if !basket.received.is_empty() || Instant::now() >= until {
                    return Ok(basket.received);
                }
                continue;
            }
            let received = self.round(first, basket()).await?;
            if !received.is_empty() || Instant::now() >= until {
                return Ok(received);
            }
            self.shared.watch(&mut self.tasks.lock().unwrap_or_else(PoisonError::into_inner));
            if tokio::time::timeout_at(until, news.changed()).await.is_err() {
                return Ok(Vec::new());
            }
            first = *news.borrow_and_update();
        }
    }

    /// Asks all partitions, the `first` one first if there is one, until the basket is full.
    async fn round(
        &self,
        first: Option<PartitionId>,
        mut basket: Basket,
    ) -> Result<Vec<Received>, ClientError> {
        let count = self.shared.routes.partition_count();
        let turn = self.turn.fetch_add(1, Ordering::Relaxed);
        let first = first.map_or(turn % count, |partition| partition.0);
        let around = (0..count).map(|step| PartitionId((first + step) % count));
        let mut next: VecDeque<PartitionId> = around.collect();
        let mut in_trouble = Vec::new();
        let mut all_asked = false;
        // The most urgent first; those of one level keep their turn.
        let priorities = self.shared.routes.priorities();
        next.make_contiguous().sort_by_key(|partition| Reverse(priorities.of(*partition)));
        let terms = Terms { wait: Duration::ZERO, patience: PATIENCE };
        while let Some(partition) = next.pop_front() {
            if let Err(error) = self.take(partition, terms, &mut basket).await {
                if !error.is_retriable() && basket.received.is_empty() {
                    return Err(error);
                }
                in_trouble.push(partition);
            }
            if basket.is_full() {
                break;
            }
            if !all_asked && !next.is_empty() {
                all_asked = true;
                next = self.with_some(next, &mut in_trouble).await;
            }
        }
        let terms = Terms { patience: self.shared.patience(), ..terms };
        for partition in in_trouble {
            // They wait for nobody who have something.
            if !basket.received.is_empty() {
                break;
            }
            self.take(partition, terms, &mut basket).await?;
        }
        Ok(basket.received)
    }

    /// Those who have something to lease, in their order.
    async fn with_some(
        &self,
        partitions: VecDeque<PartitionId>,
        in_trouble: &mut Vec<PartitionId>,
    ) -> VecDeque<PartitionId> {
        let mut tasks = JoinSet::new();
        for partition in &partitions {
            let (shared, partition) = (Arc::clone(&self.shared), *partition);
            let terms = Terms { wait: Duration::ZERO, patience: PATIENCE };
            tasks.spawn(async move { (partition, shared.has_some(partition, terms).await) });
        }
        let mut has_some = BTreeMap::new();
        // The patience of an attempt ends between two of them; this one ends in any case, or a node
        // that stands still would hold up what others have.
        let until = Instant::now() + PATIENCE;
        while let Ok(Some(done)) = tokio::time::timeout_at(until, tasks.join_next()).await {
            if let Ok((partition, Ok(some))) = done {
                has_some.insert(partition, some);
            }
        }
        let unheard = partitions.iter().filter(|partition| !has_some.contains_key(partition));
        in_trouble.extend(unheard.copied());
        partitions.into_iter().filter(|partition| has_some.get(partition) == Some(&true)).collect()
    }

    /// Leases records of one partition, as many as there are and the basket has room for.
    async fn take(
        &self,
        partition: PartitionId,
        mut terms: Terms,
        basket: &mut Basket,
    ) -> Result<(), ClientError> {
        let waits_until = Instant::now() + terms.wait;
        let gives_up = waits_until + LOOK_MAX;
        while !basket.is_full() {
            let count = basket.missing.min(COUNT_MAX);
            let count_max = u32::try_from(count).unwrap_or(u32::MAX);
            let bytes_max = u32::try_from(basket.room).unwrap_or(u32::MAX);
            let request = |wait_ms| {
                Request::QueueReceive(QueueReceive {
                    key: self.shared.routes.key(partition),
                    group: self.shared.group,
                    count_max,
                    bytes_max,
                    visibility_ms: basket.visibility_ms,
                    wait_ms,
                })
            };
            let answer = leader::ask(&self.shared.routes, partition, terms, request).await?;
            let heard = Heard::now();
            let Response::QueueReceive(reply) = answer.decode()? else {
                return Err(answer.wrong());
            };
            let received = leased(partition, &reply, heard).map_err(|unfit| match unfit {
                Unfit::Batch(error) => error,
                Unfit::Missing(offset) => {
                    answer.broken(format!("a lease of offset {offset} without its record"))
                }
            })?;
            let had_some = !received.is_empty();
            basket.put(received);
            let now = Instant::now();
            // Without records it looked at many that a filter does not let through, and not at all.
            if !reply.more || (!had_some && now >= gives_up) {
                return Ok(());
            }
            // Whoever has some waits for no more.
            terms.wait = match basket.received.is_empty() {
                true => waits_until.saturating_duration_since(now),
                false => Duration::ZERO,
            };
        }
        Ok(())
    }
}

impl Shared {
    /// Whether records of a partition could be leased, now or within the wait.
    pub(super) async fn has_some(
        &self,
        partition: PartitionId,
        terms: Terms,
    ) -> Result<bool, ClientError> {
        let request = |wait_ms| {
            Request::QueueReceive(QueueReceive {
                key: self.routes.key(partition),
                group: self.group,
                count_max: 0,
                bytes_max: 0,
                visibility_ms: None,
                wait_ms,
            })
        };
        let answer = leader::ask(&self.routes, partition, terms, request).await?;
        match answer.decode()? {
            Response::QueueReceive(reply) => Ok(reply.more),
            _ => Err(answer.wrong()),
        }
    }
}
