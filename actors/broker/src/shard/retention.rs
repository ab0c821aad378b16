//! Retention: the leader asks its log what has expired and proposes new starts; apply carries them
//! out.
//!
//! Owns: the periodic task. Must never: drop a record on its own; only a committed `AdvanceStart`
//! does.
//! Invariants: at most one segment per partition and tick, never the active one, also after a clock
//! jump.

use std::time::Duration;

use barrage_model::{Offset, PartitionKey, Retention};
use barrage_world::{buggify, planted, sleep, unix_time_ms};

use super::Shard;
use crate::command::Command;

impl Shard {
    /// Looks at retention every `tick` until the shard closes.
    pub(crate) async fn keep_retention(self, tick: Duration) {
        loop {
            sleep(tick).await;
            if self.inner.is_closing() || self.inner.group.failure().is_some() {
                return;
            }
            self.retain_once().await;
        }
    }

    /// One look.
    pub(crate) async fn retain_once(&self) {
        if buggify("broker-checkpoint-forced", 4)
            && let Err(error) = self.inner.group.take_checkpoint().await
        {
            tracing::warn!(shard = %self.id(), %error, "no checkpoint");
        }
        let starts = self.expired();
        let due = !starts.is_empty() && self.inner.group.leader_term().is_some();
        if due && let Err(error) = self.command(Command::AdvanceStart { starts }).await {
            tracing::warn!(shard = %self.id(), %error, "retention could not be proposed");
            return;
        }
        if let Err(error) = self.inner.group.retain().await {
            tracing::warn!(shard = %self.id(), %error, "expired segments could not be dropped");
        }
    }

    fn expired(&self) -> Vec<(PartitionKey, Offset)> {
        let log = self.inner.group.log();
        self.inner.group.with_machine(|machine| {
            let state = machine.state();
            let now_ms = state.log_time_ms.max(unix_time_ms());
            let expired = |key: &PartitionKey, retention: &Retention| {
                let age_ms = retention.time_ms.map(|ms| i64::try_from(ms).unwrap_or(i64::MAX));
                let before_ms = age_ms.map(|age_ms| now_ms.saturating_sub(age_ms));
                let done = retention.until_acked.then(|| machine.groups().done_before(*key));
                log.expired_offset(*key, before_ms, retention.bytes, done.flatten())
            };
            let due = state.partitions.iter().filter_map(|(key, partition)| {
                let retention = partition.config.retention;
                if retention.is_unlimited() {
                    return None;
                }
                let mut start = expired(key, &retention)?;
                if planted("broker-retention-ahead-of-expiry") {
                    // Wrong: with the oldest records the young ones go, too.
                    start = partition.next_offset;
                }
                (start > partition.start_offset).then_some((*key, start))
            });
            due.collect()
        })
    }
}
