//! Leasing records and handing them out; settling them.
//!
//! ```text
//!   look: is anything visible? --no--> wait for an apply that touches the partition
//!     | yes
//!   Lease in the log, applied: whose they are is durable --> read the batches that hold them
//!     --> what is too old expires, see `expiry`
//!     --> what does not fit into the answer is released, as if it had not been leased
//! ```
//!
//! For a group with a filter `sift` looks at the records first, for one that is ordered by key
//! `order` does.
//!
//! Owns: the waiting, and what fits into an answer. Must never: hand out a record whose lease is
//! not committed; keep a lease that was not handed out, while it can be given back.
//! Invariants: no wake-up is lost (listen first, look afterwards); a receive ends by its
//! `wait_until` and what the log takes.

use barrage_model::batch::{self, BatchHeader};
use barrage_model::group::{Order, VISIBILITY_MS_MAX, VISIBILITY_MS_MIN};
use barrage_model::{Offset, PartitionKey};
use barrage_world::{Instant, Slice, buggify, sleep_until};

use super::Shard;
use super::expiry::Wanted;
use super::groups::{LEASE_MAX, Op, Outcome, ROUNDING_MS, Slot, What};
use super::handle::first_of;
use super::sift::{Ask, Sifted};
use crate::api::queue::{
    Lease, QueueCounts, QueueError, ReceiptError, ReceiveRequest, Seek, SettleRequest, Settlement,
};
use crate::queue::backlog::{Leased, Receipt};

/// Bytes of one answer, at most: a frame's worth.
const RECEIVE_BYTES_MAX: usize = 8 << 20;
/// How often a receive that found nothing but what is too old leases twice as much the next time;
/// one that does not wait looks no more often.
const EXPIRED_LOOKS_MAX: u32 = 10;
/// Receipts in one request, at most.
pub(crate) const RECEIPTS_MAX: usize = 10_000;

/// What a receive found, on the core that read it.
pub(crate) struct Handed {
    pub(crate) leases: Vec<Lease>,
    pub(crate) batches: Vec<Slice>,
    pub(crate) more: bool,
}

/// Whether records may be leased now.
enum Sight {
    Nothing,
    Some,
    /// Somebody must look which of them are wanted.
    Filtered,
    /// Somebody must look which of them come first of their key.
    Ordered,
}

/// What was read of leased records.
struct Read<'a> {
    batches: Vec<Slice>,
    /// Those that are in the batches.
    kept: Vec<Leased>,
    /// Those that lie nowhere, though others lie behind them.
    gone: Vec<Receipt>,
    /// Those that did not fit.
    rest: &'a [Leased],
}

impl Shard {
    /// Leases records and reads them. `visibility_ms` is that of the group where the request names
    /// none.
    pub(crate) async fn receive(
        &self,
        request: &ReceiveRequest,
        visibility_ms: u64,
    ) -> Result<Handed, QueueError> {
        check_visibility(visibility_ms)?;
        let slot = Slot { key: request.key, group: request.group };
        let nothing = |more| Handed { leases: Vec::new(), batches: Vec::new(), more };
        // How often all that was leased was too old.
        let mut looks = 0_u32;
        loop {
            // Listening begins before looking: an apply in between is then not missed.
            let news = self.inner.readers.event(request.key).listen();
            let is_last = Instant::now() >= request.wait_until;
            // Behind much that is too old, it would be found out few by few.
            let count_max = self.fitting(request).saturating_mul(1 << looks).min(LEASE_MAX);
            let before = Offset(u64::MAX);
            let ask = Ask { count_max, before, visibility_ms, is_last, expires: false };
            let leased = match self.lease(slot, ask).await? {
                Sifted::Leased(leased) => leased,
                Sifted::Found => return Ok(nothing(true)),
                Sifted::Again if !is_last => continue,
                Sifted::Again if self.knows_of_more(slot)? => return Ok(nothing(true)),
                Sifted::Again | Sifted::Nothing => Vec::new(),
            };
            // Others may have been faster.
            if !leased.is_empty() {
                match self.hand_out(slot, leased, request, looks).await? {
                    Some(handed) => return Ok(handed),
                    None if is_last && looks == EXPIRED_LOOKS_MAX => return Ok(nothing(true)),
                    None => looks = (looks + 1).min(EXPIRED_LOOKS_MAX),
                }
                continue;
            }
            if Instant::now() >= request.wait_until {
                // Nobody is told that nothing is there by one who may not know.
                self.confirm().await?;
                return Ok(nothing(false));
            }
            first_of(news, sleep_until(request.wait_until)).await;
        }
    }

    /// Leases what a group may have, in its order and as its filter says.
    pub(super) async fn lease(&self, slot: Slot, ask: Ask) -> Result<Sifted, QueueError> {
        match self.sight(slot)? {
            Sight::Nothing => Ok(Sifted::Nothing),
            Sight::Some if ask.count_max == 0 => Ok(Sifted::Found),
            Sight::Some => {
                // The oldest are leased first: who wants none behind a record asks for no more than
                // lie before it.
                let Ask { count_max, visibility_ms, .. } = ask;
                let what = What::Lease { count_max, visibility_ms };
                match self.submit_op(Op { slot, what }).await? {
                    Outcome::Leased(leased) => Ok(Sifted::Leased(leased)),
                    _ => Err(QueueError::UnknownGroup),
                }
            }
            Sight::Ordered if ask.expires => self.pick_old(slot, ask).await,
            Sight::Ordered => self.pick(slot, ask).await,
            Sight::Filtered => self.sift(slot, ask).await,
        }
    }

    fn sight(&self, slot: Slot) -> Result<Sight, QueueError> {
        let end = self.bounds(slot.key)?.high_watermark;
        self.inner.group.with_machine(|machine| {
            let group = machine.groups().slots.get(&slot).ok_or(QueueError::UnknownGroup)?;
            Ok(match group.backlog.is_anything_visible(end) {
                false => Sight::Nothing,
                true if group.config.policy.order == Order::Key => Sight::Ordered,
                true if group.config.policy.filter.is_some() => Sight::Filtered,
                true => Sight::Some,
            })
        })
    }

    /// Whether more could be had at once, as far as is known.
    fn knows_of_more(&self, slot: Slot) -> Result<bool, QueueError> {
        match self.sight(slot)? {
            Sight::Nothing => Ok(false),
            Sight::Some => Ok(true),
            Sight::Filtered => self.may_have_more(slot),
            Sight::Ordered => self.may_pick_more(slot),
        }
    }

    /// About as many records as fit: what does not fit is leased for nothing.
    fn fitting(&self, request: &ReceiveRequest) -> u32 {
        let wanted = request.count_max.min(LEASE_MAX);
        let Ok(bounds) = self.bounds(request.key) else { return wanted };
        let records = bounds.high_watermark.0.saturating_sub(bounds.start_offset.0).max(1);
        let size = (bounds.bytes / records).max(1);
        let fitting = (request.bytes_max as u64 / size).saturating_mul(2).max(1);
        wanted.min(u32::try_from(fitting).unwrap_or(u32::MAX))
    }

    /// What of it may be had still, if any. After `looks` that found nothing but what is too old,
    /// more of it is read than is asked for.
    async fn hand_out(
        &self,
        slot: Slot,
        leased: Vec<Leased>,
        request: &ReceiveRequest,
        looks: u32,
    ) -> Result<Option<Handed>, QueueError> {
        let mut leased = self.without_old(slot, leased).await?;
        if leased.is_empty() {
            return Ok(None);
        }
        leased.sort_unstable_by_key(|one| one.receipt.offset);
        let bytes_max = request.bytes_max.saturating_mul(1 << looks);
        let mut bytes_max = bytes_max.clamp(1, RECEIVE_BYTES_MAX);
        if buggify("broker-receive-of-one-batch", 4) {
            bytes_max = 1;
        }
        let read = match self.read_leased(slot.key, &leased, bytes_max).await {
            Ok(read) => read,
            Err(error) => {
                self.release(slot, &leased);
                return Err(error);
            }
        };
        let Read { batches, kept, gone, rest } = read;
        self.release(slot, rest);
        if let Err(error) = self.settle_gone(slot, gone).await {
            self.release(slot, &kept);
            return Err(error);
        }
        let was_some = !kept.is_empty();
        if !was_some && rest.is_empty() {
            return Ok(None);
        }
        let wanted = self.without_over(slot, Wanted { leased: kept, batches }).await?;
        if wanted.leased.is_empty() && was_some {
            return Ok(None);
        }
        let before = wanted.leased.len();
        let Wanted { leased: kept, batches } = match looks {
            0 => wanted,
            _ => self.cut(slot, wanted, request),
        };
        let is_cut = kept.len() < before;
        let now_ms = self.inner.lease_now_ms();
        let lease = |one: &Leased| Lease {
            offset: one.receipt.offset,
            tag: one.receipt.tag,
            deliveries: one.deliveries,
            first_ms: one.first_ms,
            left_ms: one.until_ms.saturating_sub(now_ms + ROUNDING_MS),
        };
        let more = is_cut || !rest.is_empty() || self.knows_of_more(slot).unwrap_or(false);
        Ok(Some(Handed { leases: kept.iter().map(lease).collect(), batches, more }))
    }

    /// What was asked for, of what may be handed out; the rest is given back.
    fn cut(&self, slot: Slot, mut wanted: Wanted, request: &ReceiveRequest) -> Wanted {
        let mut count = usize::try_from(request.count_max).unwrap_or(usize::MAX);
        count = count.min(wanted.leased.len());
        let (mut size, mut fitting) = (0, 0);
        for batch in &wanted.batches {
            size += batch.len();
            // Only the first may be larger than wanted.
            if fitting > 0 && size > request.bytes_max {
                break;
            }
            fitting += 1;
        }
        if let Some(next) = wanted.batches.get(fitting).and_then(|it| BatchHeader::peek(it).ok()) {
            let within = |one: &Leased| one.receipt.offset < next.base_offset;
            count = count.min(wanted.leased.partition_point(within));
        }
        self.release(slot, &wanted.leased.split_off(count));
        let last = wanted.leased.last().map(|one| one.receipt.offset);
        let is_wanted = |batch: &Slice| {
            BatchHeader::peek(batch).is_ok_and(|header| Some(header.base_offset) <= last)
        };
        wanted.batches.retain(is_wanted);
        wanted
    }

    /// Of leased records those that are nowhere any more, though they lie behind the partition's
    /// start: every group was done with them once, of a topic that keeps records until then. A
    /// group that was made later, or was rewound, is done with them, too.
    async fn settle_gone(&self, slot: Slot, gone: Vec<Receipt>) -> Result<(), QueueError> {
        if gone.is_empty() {
            return Ok(());
        }
        tracing::debug!(shard = %self.id(), key = %slot.key, count = gone.len(), "nothing there");
        // Who finds nothing else looks again: not before this is applied.
        self.submit_op(Op { slot, what: What::Ack(gone) }).await.map(drop)
    }

    /// The batches that hold these records, and what became of each. One that retention has passed
    /// meanwhile may be nowhere: its lease is settled already.
    async fn read_leased<'a>(
        &self,
        key: PartitionKey,
        leased: &'a [Leased],
        bytes_max: usize,
    ) -> Result<Read<'a>, QueueError> {
        let (mut batches, mut kept, mut gone, mut size) = (Vec::new(), Vec::new(), Vec::new(), 0);
        let mut rest = leased;
        let end = leased.last().and_then(|last| last.receipt.offset.checked_add(1));
        let end = end.unwrap_or(Offset(u64::MAX));
        'reading: while let Some((first, behind)) = rest.split_first() {
            if size >= bytes_max {
                break;
            }
            let offset = first.receipt.offset;
            // Neighbours come with one read; what lies alone is read by itself.
            let has_neighbour = behind
                .first()
                .is_some_and(|next| Some(next.receipt.offset) == offset.checked_add(1));
            let left = if has_neighbour { bytes_max - size } else { 1 };
            let read = self.read_placed(key, offset..end, left).await?;
            let before = rest.len();
            for slice in read {
                let mut at = 0;
                for batch in batch::batches(&slice) {
                    // The log has checked its own CRC over these bytes.
                    let Some(header) = batch.ok().and_then(|b| BatchHeader::peek(b).ok()) else {
                        break;
                    };
                    let range = at..at + header.batch_len_total;
                    at = range.end;
                    let end = header.next_offset();
                    // Before the batch that came lies what is nowhere any more.
                    let (nowhere, behind) = rest.split_at(
                        rest.partition_point(|one| one.receipt.offset < header.base_offset),
                    );
                    gone.extend(nowhere.iter().map(|one| one.receipt));
                    rest = behind;
                    let count = rest.partition_point(|one| one.receipt.offset < end);
                    let (within, others) = rest.split_at(count);
                    if count == 0 {
                        continue;
                    }
                    // The frame must have room for it: only the first may be larger than wanted.
                    if size > 0 && size + range.len() > bytes_max {
                        break 'reading;
                    }
                    size += range.len();
                    batches.push(slice.slice(range));
                    kept.extend_from_slice(within);
                    rest = others;
                }
            }
            // Nothing came of it: retention has passed it.
            if rest.len() == before {
                rest = behind;
            }
        }
        Ok(Read { batches, kept, gone, rest })
    }

    /// Gives leases back that nobody got; if that fails, they end by their time.
    pub(super) fn release(&self, slot: Slot, leased: &[Leased]) {
        if !leased.is_empty() {
            let receipts = leased.iter().map(|one| one.receipt).collect();
            drop(self.submit_op(Op { slot, what: What::Release(receipts) }));
        }
    }

    /// Settles leases; answers for each.
    pub(crate) async fn settle(
        &self,
        request: SettleRequest,
    ) -> Result<Vec<Result<(), ReceiptError>>, QueueError> {
        let slot = Slot { key: request.key, group: request.group };
        if request.receipts.len() > RECEIPTS_MAX {
            let reason = format!("{} receipts, at most {RECEIPTS_MAX}", request.receipts.len());
            return Err(QueueError::Invalid { reason });
        }
        self.bounds(slot.key)?;
        let receipts =
            request.receipts.iter().map(|(offset, tag)| Receipt { offset: *offset, tag: *tag });
        let what = match request.settlement {
            Settlement::Ack => What::Ack(receipts.collect()),
            Settlement::Nack { delay_ms } => {
                if delay_ms.is_some_and(|delay_ms| delay_ms > VISIBILITY_MS_MAX) {
                    let reason = "a record is given back for at most 12h".to_owned();
                    return Err(QueueError::Invalid { reason });
                }
                What::Nack(receipts.map(|receipt| (receipt, delay_ms)).collect())
            }
            Settlement::Extend { visibility_ms } => {
                check_visibility(visibility_ms)?;
                What::Extend(receipts.map(|receipt| (receipt, visibility_ms)).collect())
            }
            Settlement::Release => What::Release(receipts.collect()),
        };
        match self.submit_op(Op { slot, what }).await? {
            Outcome::Settled(results) => Ok(results),
            _ => Err(QueueError::UnknownGroup),
        }
    }

    /// Moves what a group has before it.
    pub(crate) async fn seek(&self, slot: Slot, seek: Seek) -> Result<(), QueueError> {
        self.bounds(slot.key)?;
        let what = match seek {
            // What was acked and is too old by now is no dead letter because of this.
            Seek::Rewind(to) => What::Rewind { to: to.max(self.too_old_of(slot).await?) },
            Seek::Skip(to) => What::Skip { to },
        };
        match self.submit_op(Op { slot, what }).await? {
            Outcome::UnknownGroup => Err(QueueError::UnknownGroup),
            _ => Ok(()),
        }
    }

    /// How many records of a partition wait for what.
    pub(crate) async fn counts(&self, slot: Slot) -> Result<QueueCounts, QueueError> {
        self.confirm().await?;
        let end = self.bounds(slot.key)?.high_watermark;
        self.inner.group.with_machine(|machine| {
            let group = machine.groups().slots.get(&slot).ok_or(QueueError::UnknownGroup)?;
            let counts = group.backlog.counts(end);
            Ok(QueueCounts {
                start: group.backlog.start(),
                visible: counts.visible,
                leased: counts.leased,
                delayed: counts.delayed,
                dying: counts.dying,
            })
        })
    }

    /// Offsets of records that could be leased now, the oldest first; of those that a filter would
    /// not let through, too.
    pub(crate) fn peek(&self, slot: Slot, count_max: usize) -> Result<Vec<Offset>, QueueError> {
        let end = self.bounds(slot.key)?.high_watermark;
        self.inner.group.with_machine(|machine| {
            let group = machine.groups().slots.get(&slot).ok_or(QueueError::UnknownGroup)?;
            Ok(group.backlog.peek(end).take(count_max).collect())
        })
    }
}

fn check_visibility(visibility_ms: u64) -> Result<(), QueueError> {
    if (VISIBILITY_MS_MIN..=VISIBILITY_MS_MAX).contains(&visibility_ms) {
        return Ok(());
    }
    let reason = format!("a record is leased for 1s to 12h, not for {visibility_ms} ms");
    Err(QueueError::Invalid { reason })
}
