//! Retention: the leader asks its log what has expired and proposes new starts; apply carries them
//! out.
//!
//! Owns: the periodic task. Must never: drop a record on its own; only a committed `AdvanceStart`
//! does.
//! Invariants: a clock that jumps takes about as many segments as are begun meanwhile, or one a
//! tick, and never the active one as long as others are there; what is too large goes at once.

use std::time::Duration;

use barrage_commitlog::Expiry;

use barrage_model::{Offset, PartitionKey, Retention};
use barrage_world::{Instant, buggify, planted, sleep, unix_time_ms};

use super::Shard;
use crate::command::Command;

/// So many segments begun since the last look ask for the next one before its time.
const SEGMENTS_PER_LOOK: u64 = 4;
/// How often that is asked: the longest that a producer runs ahead of what retention promises.
const PACE_LOOK: Duration = Duration::from_secs(1);

/// When to look, and how much may go by age then: retention keeps pace with what is written.
struct Pace {
    tick: Duration,
    looked: Instant,
    active_segment: u64,
}

impl Pace {
    /// How many segments of a partition may go by age, if it is time to look.
    fn look(&mut self, now: Instant, active_segment: u64) -> Option<usize> {
        let begun = active_segment.saturating_sub(self.active_segment);
        if now - self.looked < self.tick && begun < SEGMENTS_PER_LOOK {
            return None;
        }
        (self.looked, self.active_segment) = (now, active_segment);
        // Twice what came: what lies behind from a time without a leader goes, too.
        Some(usize::try_from(begun.saturating_mul(2)).unwrap_or(usize::MAX).max(1))
    }
}

impl Shard {
    /// Looks at retention every `tick`, and more often under load, until the shard closes.
    pub(crate) async fn keep_retention(self, tick: Duration) {
        let active_segment = self.inner.group.log().active_segment();
        let mut pace = Pace { tick, looked: Instant::now(), active_segment };
        loop {
            sleep(tick.min(PACE_LOOK)).await;
            if self.inner.is_closing() || self.inner.group.failure().is_some() {
                return;
            }
            let active_segment = self.inner.group.log().active_segment();
            if let Some(old_max) = pace.look(Instant::now(), active_segment) {
                self.retain_once(old_max).await;
            }
        }
    }

    /// One look; `old_max` segments of a partition may go by age.
    async fn retain_once(&self, old_max: usize) {
        if buggify("broker-checkpoint-forced", 4)
            && let Err(error) = self.inner.group.take_checkpoint().await
        {
            tracing::warn!(shard = %self.id(), %error, "no checkpoint");
        }
        let starts = self.expired(old_max);
        let due = !starts.is_empty() && self.inner.group.leader_term().is_some();
        if due && let Err(error) = self.command(Command::AdvanceStart { starts }).await {
            tracing::warn!(shard = %self.id(), %error, "retention could not be proposed");
            return;
        }
        if let Err(error) = self.inner.group.retain().await {
            tracing::warn!(shard = %self.id(), %error, "expired segments could not be dropped");
        }
    }

    fn expired(&self, old_segments_max: usize) -> Vec<(PartitionKey, Offset)> {
        let log = self.inner.group.log();
        self.inner.group.with_machine(|machine| {
            let state = machine.state();
            let now_ms = state.log_time_ms.max(unix_time_ms());
            let expired = |key: &PartitionKey, retention: &Retention| {
                let age_ms = retention.time_ms.map(|ms| i64::try_from(ms).unwrap_or(i64::MAX));
                let before_ms = age_ms.map(|age_ms| now_ms.saturating_sub(age_ms));
                let done = retention.until_acked.then(|| machine.groups().done_before(*key));
                let (bytes_max, done) = (retention.bytes, done.flatten());
                log.expired_offset(*key, &Expiry { before_ms, old_segments_max, bytes_max, done })
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_pace_is_that_of_the_writers() {
        let tick = Duration::from_secs(10);
        let start = Instant::default();
        let second = |n| start + Duration::from_secs(n);
        let mut pace = Pace { tick, looked: start, active_segment: 5 };
        assert_eq!(pace.look(second(1), 8), None);
        assert_eq!(pace.look(second(2), 9), Some(8));
        assert_eq!(pace.look(second(3), 9), None);
        assert_eq!(pace.look(second(12), 9), Some(1));
        assert_eq!(pace.look(second(22), 10), Some(2));
    }
}
