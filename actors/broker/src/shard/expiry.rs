//! Records that queue groups are not to have any more: too old for the group, or their own time is
//! over.
//!
//! ```text
//!   leased --handed out? --> young --> the consumer
//!                        --> too old --> `Expire` in the log --> dead-letter topic, or done with
//!   every second: the leader leases what is too old for its group, and expires it
//! ```
//!
//! They are leased as all others are, so a filter and an order count here, too: what a group does
//! not want is no dead letter. Age counts from when a record came into its partition, by the clock
//! of the node that leads: what a clock that was ahead has stamped lives longer, nothing shorter
//! because of it. A record's own time is looked at when it would be handed out, and only in batches
//! that say that they have such records.
//!
//! Owns: what is too old. Must never: settle a record itself; apply does, by the receipts in the
//! log.
//! Invariants: who hands records out asks here; a record may be handed out late by [`KNOWN_FOR`].

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::time::Duration;

use barrage_model::batch::{self, BatchHeader, DecompressionLimits};
use barrage_model::group::VISIBILITY_MS_DEFAULT;
use barrage_model::{Offset, PartitionKey};
use barrage_world::{Instant, Slice, planted, sleep, unix_time_ms, yield_if_needed, yield_now};

use super::Shard;
use super::groups::{Op, Slot, What};
use super::partition::PartitionConfig;
use super::sift::{Ask, Sifted};
use crate::api::queue::QueueError;
use crate::queue::backlog::{Leased, Policy, Receipt};

/// How often the leader looks for what is too old and that nobody receives.
const TICK: Duration = Duration::from_secs(1);
/// For so long it is known which is the first that is not too old: a look may read the disk.
const KNOWN_FOR: Duration = Duration::from_millis(50);
/// Partitions and ages of which that is known, at most.
const KNOWN_MAX: usize = 10_000;
/// Records that expire at once, and how often in one group of a partition before others' turn.
const AT_ONCE: usize = 4_096;
const ROUNDS_PER_TICK: usize = 64;
/// While so many are on their way to the dead-letter topic, no more are sent that nobody asks for:
/// a topic that is away costs little memory.
const DYING_MAX: u64 = 20_000;

/// Which records are too old, of partitions that were asked for lately.
#[derive(Default)]
pub(crate) struct Ages(RefCell<BTreeMap<(PartitionKey, u64), Known>>);

/// When somebody looked, when that was known, and the first record that was not too old then.
type Known = (Instant, Instant, Offset);

impl Ages {
    fn known(&self, key: PartitionKey, max_age_ms: u64) -> Option<Offset> {
        let ages = self.0.borrow();
        let (_, known, to) = ages.get(&(key, max_age_ms))?;
        (known.elapsed() < KNOWN_FOR).then_some(*to)
    }

    /// Looked at then.
    fn note(&self, key: PartitionKey, max_age_ms: u64, then: Instant, to: Offset) {
        let mut ages = self.0.borrow_mut();
        if ages.len() >= KNOWN_MAX {
            ages.clear();
        }
        let new = (then, Instant::now(), to);
        let known = ages.entry((key, max_age_ms)).or_insert(new);
        *known = (*known).max(new);
    }
}

/// What was leased, and may be handed out.
pub(super) struct Wanted {
    pub(super) leased: Vec<Leased>,
    pub(super) batches: Vec<Slice>,
}

impl Shard {
    /// While this node leads, brings away what is too old for its group; until the shard closes.
    pub(crate) async fn expire_old(self) {
        loop {
            sleep(TICK).await;
            if self.inner.is_closing() || self.inner.group.is_over() {
                return;
            }
            let is_leader = self.inner.group.leader_term().is_some();
            if !is_leader || planted("broker-old-records-handed-out") {
                continue;
            }
            for (slot, max_age_ms) in self.aging() {
                if let Err(error) = self.expire_of(slot, max_age_ms).await {
                    tracing::debug!(shard = %self.id(), %error, "old records are kept for now");
                }
            }
        }
    }

    /// Groups that have anything before them, and want it for a while only.
    fn aging(&self) -> Vec<(Slot, u64)> {
        self.inner.group.with_machine(|machine| {
            let slots = machine.groups().slots.iter();
            let aging = slots.filter_map(|(slot, group)| {
                let partition = machine.state().partitions.get(&slot.key)?;
                let max_age_ms = max_age_ms(&group.config.policy, &partition.config)?;
                let is_some = group.backlog.is_anything_visible(partition.next_offset);
                is_some.then_some((*slot, max_age_ms))
            });
            aging.collect()
        })
    }

    async fn expire_of(&self, slot: Slot, max_age_ms: u64) -> Result<(), QueueError> {
        // The others are to have their turn, too.
        for _ in 0..ROUNDS_PER_TICK {
            let to = self.too_old_before(slot.key, max_age_ms).await?;
            let count = self.inner.group.with_machine(|machine| {
                let group = machine.groups().slots.get(&slot)?;
                let is_away = group.backlog.counts(to).dying >= DYING_MAX;
                (!is_away).then(|| group.backlog.visible_before(to, AT_ONCE))
            });
            let count_max = u32::try_from(count.unwrap_or(0)).unwrap_or(0);
            if count_max == 0 {
                return Ok(());
            }
            let visibility_ms = VISIBILITY_MS_DEFAULT;
            // Only what is too old: what is young is not away for a moment because of this.
            let (before, is_last, expires) = (to, true, true);
            let ask = Ask { count_max, before, visibility_ms, is_last, expires };
            match self.lease(slot, ask).await? {
                Sifted::Leased(leased) if leased.is_empty() => return Ok(()),
                Sifted::Leased(leased) => {
                    // A rewind may have come between.
                    let (old, young) = split(leased, to);
                    self.release(slot, &young);
                    self.submit_op(expire(slot, &old)).await?;
                }
                Sifted::Again => {}
                Sifted::Found | Sifted::Nothing => return Ok(()),
            }
            yield_now().await;
        }
        Ok(())
    }

    /// The first record that is not too old for such a group.
    async fn too_old_before(
        &self,
        key: PartitionKey,
        max_age_ms: u64,
    ) -> Result<Offset, QueueError> {
        if let Some(known) = self.inner.ages.known(key, max_age_ms) {
            return Ok(known);
        }
        // Wrong when planted: what is half as old is taken for too old.
        let max_age_ms =
            if planted("broker-young-records-expire") { max_age_ms / 2 } else { max_age_ms };
        let age_ms = i64::try_from(max_age_ms).unwrap_or(i64::MAX);
        // The look may take long.
        let then = Instant::now();
        let since_ms = unix_time_ms().saturating_sub(age_ms);
        // What has no place on this disk yet is not judged: only what lies before it is known to be
        // older.
        let placed = self.inner.group.log().placed_end(key);
        let found = self.inner.group.log().offset_at_time(key, since_ms).await;
        let found = found.map_err(|error| self.read_error(error))?;
        let to = found.or(placed).unwrap_or(Offset(0));
        self.inner.ages.note(key, max_age_ms, then, to);
        Ok(to)
    }

    /// The first record that is not too old for a group; the first of all if it wants all.
    pub(super) async fn too_old_of(&self, slot: Slot) -> Result<Offset, QueueError> {
        let max_age_ms = self.inner.group.with_machine(|machine| {
            let partition = machine.state().partitions.get(&slot.key)?;
            max_age_ms(&machine.groups().slots.get(&slot)?.config.policy, &partition.config)
        });
        // Wrong when planted: nothing is ever too old.
        match max_age_ms.filter(|_| !planted("broker-old-records-handed-out")) {
            Some(max_age_ms) => self.too_old_before(slot.key, max_age_ms).await,
            None => Ok(Offset(0)),
        }
    }

    /// Of records that were leased those that are not too old for their group; the others expire.
    pub(super) async fn without_old(
        &self,
        slot: Slot,
        leased: Vec<Leased>,
    ) -> Result<Vec<Leased>, QueueError> {
        let to = match self.too_old_of(slot).await {
            Ok(to) => to,
            Err(error) => {
                self.release(slot, &leased);
                return Err(error);
            }
        };
        if to == Offset(0) {
            return Ok(leased);
        }
        let (old, young) = split(leased, to);
        self.expire_leased(slot, &old, young.is_empty()).await?;
        Ok(young)
    }

    /// Of records that were leased, and read, those whose own time is not over; the others expire.
    pub(super) async fn without_over(
        &self,
        slot: Slot,
        Wanted { leased, batches }: Wanted,
    ) -> Result<Wanted, QueueError> {
        let expires = |batch: &Slice| BatchHeader::peek(batch).is_ok_and(|it| it.expires());
        if !batches.iter().any(expires) {
            return Ok(Wanted { leased, batches });
        }
        let mut wanted = Wanted { leased: Vec::new(), batches: Vec::new() };
        let mut over = Vec::new();
        let mut rest = leased.as_slice();
        for batch in batches {
            // Whoever read it has looked at its header.
            let Ok(header) = BatchHeader::peek(&batch) else { continue };
            let end = header.next_offset();
            let (within, behind) =
                rest.split_at(rest.partition_point(|one| one.receipt.offset < end));
            rest = behind;
            let before = wanted.leased.len();
            if header.expires() {
                let time_ms = self.time_of(slot.key, header.base_offset).await;
                let time_ms = match time_ms {
                    Ok(time_ms) => time_ms,
                    Err(error) => {
                        self.release(slot, &leased);
                        return Err(error);
                    }
                };
                split_over(&batch, time_ms, within, (&mut wanted.leased, &mut over));
                yield_if_needed().await;
            } else {
                wanted.leased.extend_from_slice(within);
            }
            if wanted.leased.len() > before {
                wanted.batches.push(batch);
            }
        }
        self.expire_leased(slot, &over, wanted.leased.is_empty()).await?;
        Ok(wanted)
    }

    /// When a record came into its partition.
    async fn time_of(&self, key: PartitionKey, at: Offset) -> Result<Option<i64>, QueueError> {
        let time_ms = self.inner.group.log().time_of(key, at).await;
        Ok(time_ms.map_err(|error| self.read_error(error))?)
    }

    /// These are not handed out; if that cannot be said now, it is when their leases are over. Who
    /// has nothing else looks again: only when this is applied, and what was given back before it.
    async fn expire_leased(
        &self,
        slot: Slot,
        leased: &[Leased],
        looks_again: bool,
    ) -> Result<(), QueueError> {
        if !leased.is_empty() {
            let expired = self.submit_op(expire(slot, leased));
            if looks_again {
                expired.await?;
            }
        }
        Ok(())
    }
}

/// How old a record may be that the group is given: what the group says, and what the topic does.
fn max_age_ms(policy: &Policy, partition: &PartitionConfig) -> Option<u64> {
    policy.max_age_ms.into_iter().chain(partition.retention.ttl_ms).min()
}

fn expire(slot: Slot, leased: &[Leased]) -> Op {
    let receipts: Vec<Receipt> = leased.iter().map(|one| one.receipt).collect();
    Op { slot, what: What::Expire(receipts) }
}

/// Those before a record, and the others.
fn split(leased: Vec<Leased>, to: Offset) -> (Vec<Leased>, Vec<Leased>) {
    leased.into_iter().partition(|one| one.receipt.offset < to)
}

/// Of leased records of a batch, ascending, those that are wanted still, and those whose own time
/// is over. One that cannot be opened is handed out: whoever gets it finds out.
fn split_over(
    batch: &[u8],
    enqueued_ms: Option<i64>,
    leased: &[Leased],
    (wanted, over): (&mut Vec<Leased>, &mut Vec<Leased>),
) {
    let mut leased = leased.iter().copied().peekable();
    let opened = batch::records(batch, &DecompressionLimits::default());
    if let (Some(enqueued_ms), Ok(records)) = (enqueued_ms, opened) {
        let age_ms = u64::try_from(unix_time_ms().saturating_sub(enqueued_ms)).unwrap_or(0);
        for record in records.iter().map_while(Result::ok) {
            let Some(one) = leased.peek() else { return };
            if one.receipt.offset != record.offset {
                continue;
            }
            let is_over = record.ttl_ms().is_some_and(|ttl_ms| age_ms >= ttl_ms);
            if is_over { &mut *over } else { &mut *wanted }.extend(leased.next());
        }
    }
    wanted.extend(leased);
}
