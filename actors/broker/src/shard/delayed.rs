//! What is asked of delayed records: which wait, who is cancelled or moved.
//!
//! Owns: what a request may ask for, and what it becomes in the log. Must never: tell what waits
//! while somebody else may lead.
//! Invariants: what is answered to a change is applied, hence durable.

use barrage_model::{GroupId, Offset, PartitionKey};

use super::Shard;
use super::entry::OVER_MS;
use super::groups::{Op, Outcome, Slot, What};
use super::release::clock_ms;
use crate::api::delay::{DelayChange, DelayError, DelayRequest, Delayed};
use crate::api::queue::QueueError;

/// Records in one request, at most.
const CHANGES_MAX: usize = 10_000;
/// Records that are listed at once.
const LISTED_MAX: usize = 10_000;

impl Shard {
    /// Cancels or moves delayed records; answers for each.
    pub(crate) async fn change_delayed(
        &self,
        request: DelayRequest,
    ) -> Result<Vec<Result<(), DelayError>>, QueueError> {
        let DelayRequest { key, ids, change } = request;
        if ids.len() > CHANGES_MAX {
            let reason = format!("{} delayed records, at most {CHANGES_MAX}", ids.len());
            return Err(QueueError::Invalid { reason });
        }
        self.bounds(key)?;
        let moved = |ids: Vec<Offset>, due_ms| ids.into_iter().map(|id| (id, due_ms)).collect();
        let what = match change {
            DelayChange::Cancel => What::Cancel(ids.clone()),
            DelayChange::Postpone(by_ms) => {
                What::Reschedule(moved(ids.clone(), clock_ms().saturating_add(by_ms)))
            }
            DelayChange::MoveTo(due_ms) if due_ms.saturating_add(OVER_MS) < clock_ms() => {
                return Err(QueueError::DelayIsOver { due_ms, now_ms: clock_ms() });
            }
            DelayChange::MoveTo(due_ms) => What::Reschedule(moved(ids.clone(), due_ms)),
        };
        match self.submit_op(Op { slot: Slot { key, group: GroupId(0) }, what }).await? {
            Outcome::Changed(results) => Ok(results),
            // Nothing has ever waited in this partition.
            _ => Ok(vec![Err(DelayError::Unknown); ids.len()]),
        }
    }

    /// What waits in a partition.
    pub(crate) async fn delayed(
        &self,
        key: PartitionKey,
        count_max: usize,
    ) -> Result<Delayed, QueueError> {
        self.confirm().await?;
        self.bounds(key)?;
        Ok(self.inner.group.with_machine(|machine| {
            let Some(delays) = machine.groups().delays.get(&key) else {
                return Delayed::default();
            };
            let oldest = delays.from(Offset(0)).take(count_max.min(LISTED_MAX)).collect();
            Delayed { count: delays.waiting(), oldest }
        }))
    }
}
