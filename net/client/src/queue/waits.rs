//! Waiting for records, on all partitions at once, without leasing any.
//!
//! A wait that found nothing in time goes on for the next receive: a server is never asked by one
//! queue to wait for one partition twice, however often programs receive.
//!
//! Owns: who is waited for. Must never: let a wait go on for which nobody receives.
//! Invariant: no news is lost: who receives listens first, looks then, and sees to it last that
//! everybody is waited for.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use barrage_model::PartitionId;
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;

use super::Shared;
use super::gather::WAIT_MAX;
use crate::leader::Terms;

/// How long a server is asked to wait when partitions must take turns.
const WAIT_WHEN_CROWDED: Duration = Duration::from_millis(20);
/// After a wait that failed: the round that follows meets the error, and tells it.
const TROUBLE_PAUSE: Duration = Duration::from_millis(100);

/// See the module.
#[derive(Debug)]
pub(super) struct Waits {
    /// Who has got something last.
    news: watch::Sender<Option<PartitionId>>,
    /// By partition.
    is_waiting: Mutex<Vec<bool>>,
    /// Bounds what one queue holds open at a server.
    permits: Semaphore,
    wait: Duration,
}

impl Waits {
    pub(super) fn new(partition_count: u32, in_flight_max: u32) -> Self {
        // Waits of many partitions share a connection, and the server bounds what it holds.
        let permits = usize::try_from(in_flight_max / 2).unwrap_or(1);
        let permits = permits.clamp(1, Semaphore::MAX_PERMITS);
        let is_waiting = vec![false; partition_count as usize];
        let wait = if is_waiting.len() > permits { WAIT_WHEN_CROWDED } else { WAIT_MAX };
        let (news, _) = watch::channel(None);
        let permits = Semaphore::new(permits);
        Self { news, is_waiting: Mutex::new(is_waiting), permits, wait }
    }

    /// Tells of what comes from here on; while one of these lives, waits go on.
    pub(super) fn news(&self) -> watch::Receiver<Option<PartitionId>> {
        self.news.subscribe()
    }

    fn is_waiting(&self) -> MutexGuard<'_, Vec<bool>> {
        self.is_waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Shared {
    /// Sees to it that every partition is waited for, by a task.
    pub(super) fn watch(self: &Arc<Self>, tasks: &mut JoinSet<()>) {
        while tasks.try_join_next().is_some() {}
        for (partition, is_waiting) in self.partitions().zip(self.waits.is_waiting().iter_mut()) {
            if !std::mem::replace(is_waiting, true) {
                let shared = Arc::clone(self);
                tasks.spawn(async move { while !shared.wait_once(partition).await {} });
            }
        }
    }

    /// Waits for one partition; true when that is over.
    async fn wait_once(&self, partition: PartitionId) -> bool {
        let terms = Terms { wait: self.waits.wait, patience: self.patience() };
        let permit = self.waits.permits.acquire().await;
        let has_some = self.has_some(partition, terms).await;
        drop(permit);
        if has_some.is_err() {
            tokio::time::sleep(TROUBLE_PAUSE).await;
        }
        let is_news = !matches!(has_some, Ok(false));
        {
            let mut is_waiting = self.waits.is_waiting();
            // Counted under the lock: who comes later finds that nobody waits, and sees to it.
            if !is_news && self.waits.news.receiver_count() > 0 {
                return false;
            }
            if let Some(is_waiting) = is_waiting.get_mut(partition.0 as usize) {
                *is_waiting = false;
            }
        }
        if is_news {
            self.waits.news.send_replace(Some(partition));
        }
        true
    }
}
