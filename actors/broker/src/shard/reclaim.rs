//! Disk space comes back: sealed segments of which less than half is wanted any more are rewritten,
//! by each replica on its own.
//!
//! Owns: what is wanted, how fast and how often. Must never: say that a record is not wanted that a
//! reader may still ask for.

use std::ops::Range;
use std::time::Duration;

use barrage_commitlog::{Pace, ReadError};
use barrage_model::{Offset, PartitionKey};
use barrage_world::{buggify, planted, sleep};

use super::Shard;

/// How often it is looked for a segment that is worth it. A look costs a walk over the spans of all
/// partitions.
const TICK: Duration = Duration::from_secs(20);
/// How often when it is in the mood for that.
const TICK_MIN: Duration = Duration::from_millis(500);
/// Bytes of segments a second, for each shard: a sixtieth of what the disk of the reference machine
/// does, so that those who wait for a flush do not notice.
const BYTES_PER_S: u64 = 32 << 20;
/// After an error the next look waits so many ticks.
const REST_TICKS: u32 = 15;

impl Shard {
    /// Rewrites segments until the shard closes.
    pub(crate) async fn keep_reclaiming(self) {
        let mut pace = Pace::new(BYTES_PER_S);
        let mut rest = 1;
        loop {
            sleep(if buggify("broker-reclaim-early", 2) { TICK_MIN } else { TICK * rest }).await;
            if self.inner.is_closing() || self.inner.group.is_over() {
                return;
            }
            rest = 1;
            let wanted = |key, range| self.wanted(key, range);
            loop {
                match self.inner.group.log().rewrite(&wanted, &mut pace).await {
                    Ok(Some(done)) => tracing::info!(
                        shard = %self.id(),
                        segment = done.segment,
                        before = done.before,
                        after = done.after,
                        "a segment of which little was wanted is rewritten"
                    ),
                    Ok(None) => break,
                    Err(ReadError::Damaged(damage)) => {
                        tracing::error!(shard = %self.id(), %damage, "rot was found");
                        return self.found_damage(damage.to_string());
                    }
                    Err(error) => {
                        tracing::warn!(shard = %self.id(), %error, "a segment is rewritten later");
                        rest = REST_TICKS;
                        break;
                    }
                }
            }
        }
    }

    /// How many of these records somebody may ask for, about, and none only when it is none: of a
    /// partition all that retention has not let go, or those that a group is not done with where
    /// they are kept until then; of what is delayed those that wait. A record that was let in lies
    /// in its partition, too.
    fn wanted(&self, key: PartitionKey, range: Range<Offset>) -> u64 {
        if !key.is_delay_store() {
            return self.inner.group.with_machine(|machine| {
                let partition = machine.state().partitions.get(&key);
                let until_acked = partition.is_some_and(|it| it.config.retention.until_acked);
                let all = range.end.0.saturating_sub(range.start.0);
                // The log keeps the newest run it has, which another leader may replace: so does
                // this the newest that is committed, for who reads at an offset before the end.
                let is_newest = partition.is_some_and(|it| range.end >= it.next_offset);
                let left = until_acked.then(|| machine.groups().unsettled_in(key, range));
                left.flatten().map_or(all, |left| left.min(all).max(u64::from(is_newest)))
            });
        }
        // Wrong when planted: who waits longest has nothing to come.
        if planted("broker-waiting-record-reclaimed") {
            return 0;
        }
        self.inner.group.with_machine(|machine| {
            let delays = machine.groups().delays.get(&key.owner());
            delays.map_or(0, |delays| delays.waiting_in(range))
        })
    }
}
