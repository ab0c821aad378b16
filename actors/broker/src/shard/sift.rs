//! Receiving for a group with a filter: the leader looks at the records ahead, and one operation in
//! the log leases those that are wanted and settles those that are not.
//!
//! ```text
//!   settled, leased ... | on its way | looked at, kept here | not looked at
//!                     fresh        from                    end
//! ```
//!
//! A record is looked at once, however many receive and however few each of them takes; again only
//! after another filter, a rewind, or under another leader. What was leased once matched then: it
//! comes back without a look. What is not wanted is settled when there is much of it, with the next
//! lease, or when a receive ends: a quiet queue costs no entries.
//!
//! Owns: what was looked at and is in no operation yet. Must never: settle what it has not looked
//! at; decide anything: apply does, by the ranges in the operation.
//! Invariants: what is kept here is a guess that apply checks; an operation that did not do all it
//! was to do makes it void.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::Duration;

use barrage_model::{Offset, PartitionKey, batch};
use barrage_world::channel::Mutex;
use barrage_world::{Instant, sleep, yield_now};

use super::Shard;
use super::fetch::PLACE_PAUSE;
use super::groups::{Op, Outcome, Slot, What};
use super::handle::Inner;
use crate::api::queue::QueueError;
use crate::queue::backlog::Leased;
use crate::queue::filter::{self, StoredFilter};
use crate::queue::selection::Selection;
use crate::queue::window::CHUNK;

/// Bytes that one look reads, at most, and at a time; one batch is always read.
const LOOK_BYTES_MAX: usize = 2 << 20;
const READ_BYTES: usize = 256 << 10;
/// How long a look keeps the core to itself; one batch is always opened.
const TURN: Duration = Duration::from_millis(5);
/// So many records that are not wanted are settled at once, without a lease.
const SETTLE_MIN: u64 = CHUNK;
/// Groups in partitions for which looks are kept while nobody receives: each is 16 KiB at most.
const KEPT_MAX: usize = 1_000;

/// What was looked at for the groups of a shard, while this node leads it.
#[derive(Default)]
pub(crate) struct Sifters(RefCell<BTreeMap<Slot, Rc<Sifter>>>);

struct Sifter {
    ahead: Mutex<Ahead>,
    /// Operations on their way.
    in_flight: Cell<usize>,
    /// One of them has not done all that it was to do.
    is_void: Cell<bool>,
}

/// What was looked at, by the settings of this revision.
struct Ahead {
    revision: u64,
    found: Selection,
}

/// What a receive asks for.
#[derive(Clone, Copy)]
pub(super) struct Ask {
    /// None are leased for 0: whether there is one is the question.
    pub(super) count_max: u32,
    /// None from here on.
    pub(super) before: Offset,
    pub(super) visibility_ms: u64,
    /// The receive ends with this.
    pub(super) is_last: bool,
    /// Nobody is handed them: those before `before` expire.
    pub(super) expires: bool,
}

/// What came of it.
pub(super) enum Sifted {
    Leased(Vec<Leased>),
    /// There is one to lease.
    Found,
    /// Something was done, and there may be more to do.
    Again,
    /// Nothing that was looked at is wanted, and there is nothing more to look at.
    Nothing,
}

/// A group with a filter, as it stands.
struct View {
    filter: Rc<StoredFilter>,
    revision: u64,
    /// The first record that was never leased.
    fresh: Offset,
    end: Offset,
    /// Records that came back.
    visible: u64,
}

impl Sifters {
    fn of(&self, slot: Slot) -> Rc<Sifter> {
        let mut all = self.0.borrow_mut();
        if all.len() >= KEPT_MAX && !all.contains_key(&slot) {
            all.retain(|_, sifter| Rc::strong_count(sifter) > 1);
        }
        let new = || Sifter {
            ahead: Mutex::new(Ahead { revision: 0, found: Selection::empty(Offset(0)) }),
            in_flight: Cell::new(0),
            is_void: Cell::new(true),
        };
        Rc::clone(all.entry(slot).or_insert_with(|| Rc::new(new())))
    }
}

impl Sifter {
    /// Forgets what does not hold any more.
    fn align(&self, ahead: &mut Ahead, view: &View) {
        let is_void = self.is_void.replace(false);
        // A rewind, or an operation that nobody waited for.
        let is_too_far = ahead.found.from() > view.fresh && self.in_flight.get() == 0;
        if is_void || is_too_far || ahead.revision != view.revision {
            let found = Selection::empty(view.fresh);
            *ahead = Ahead { revision: view.revision, found };
        }
        ahead.found.cut_before(view.fresh);
    }
}

impl Shard {
    /// Leases what is wanted, or finds out that there is nothing; looks so far ahead at most as one
    /// look goes.
    pub(super) async fn sift(&self, slot: Slot, ask: Ask) -> Result<Sifted, QueueError> {
        let sifter = self.inner.sifters.of(slot);
        let mut ahead = sifter.ahead.lock().await;
        // Others may have been at it while this one waited for its turn.
        let Some(view) = self.view(slot, ask.before)? else { return Ok(Sifted::Again) };
        sifter.align(&mut ahead, &view);
        if ask.count_max == 0 && view.visible > 0 {
            return Ok(Sifted::Found);
        }
        let missing = u64::from(ask.count_max).saturating_sub(view.visible);
        let found = &mut ahead.found;
        let comes_again = ask.count_max > 0 && missing == 0;
        let is_enough = comes_again || found.wanted_count() >= missing.max(1);
        if !is_enough && found.end() < view.end && !found.is_full() {
            self.look_ahead(slot.key, &view.filter, found, view.end).await?;
            if sifter.is_void.get() {
                return Ok(Sifted::Again);
            }
        }
        let is_all = found.end() >= view.end;
        let taken = found.take(missing, ask.before);
        let is_found = ask.count_max == 0 && found.begins_wanted();
        let leases = view.visible > 0 || taken.wanted_count() > 0;
        // Whoever asks whether there is one comes again for it.
        let settle_min = if ask.is_last && !is_found { 1 } else { SETTLE_MIN };
        let settles = taken.count() >= settle_min;
        if !leases && !settles {
            found.put_back(taken);
            return Ok(match (is_found, is_all) {
                (true, _) => Sifted::Found,
                (false, true) => Sifted::Nothing,
                (false, false) => Sifted::Again,
            });
        }
        let on_its_way = OnItsWay::new(Rc::clone(&self.inner), slot, &sifter, taken.end());
        // The oldest are leased first: with so many, none that lies behind.
        let there = view.visible.saturating_add(taken.wanted_count());
        let count_max = ask.count_max.min(u32::try_from(there).unwrap_or(u32::MAX));
        let (visibility_ms, revision) = (ask.visibility_ms, view.revision);
        let what = What::LeaseWanted { count_max, visibility_ms, revision, found: taken };
        let done = self.submit_op(Op { slot, what });
        drop(ahead);
        let done = done.await;
        let has_room = on_its_way.has_room();
        drop(on_its_way);
        match done? {
            Outcome::Leased(leased) if !leased.is_empty() => Ok(Sifted::Leased(leased)),
            Outcome::Leased(_) if is_found => Ok(Sifted::Found),
            Outcome::Leased(_) if has_room => Ok(Sifted::Again),
            Outcome::Leased(_) => Ok(Sifted::Nothing),
            _ => Err(QueueError::UnknownGroup),
        }
    }

    /// Whether more could be had at once, as far as is known: what nobody has looked at may.
    pub(super) fn may_have_more(&self, slot: Slot) -> Result<bool, QueueError> {
        let Some(view) = self.view(slot, Offset(u64::MAX))? else { return Ok(true) };
        let sifter = self.inner.sifters.of(slot);
        let Some(mut ahead) = sifter.ahead.try_lock() else { return Ok(true) };
        sifter.align(&mut ahead, &view);
        let is_unknown = ahead.found.end() < view.end;
        Ok(view.visible > 0 || is_unknown || ahead.found.wanted_count() > 0)
    }

    /// None of a group without a filter; what lies before a record.
    fn view(&self, slot: Slot, before: Offset) -> Result<Option<View>, QueueError> {
        let end = self.bounds(slot.key)?.high_watermark.min(before);
        self.inner.group.with_machine(|machine| {
            let group = machine.groups().slots.get(&slot).ok_or(QueueError::UnknownGroup)?;
            Ok(group.config.policy.filter.as_ref().map(|filter| View {
                filter: Rc::clone(filter),
                revision: group.config.revision,
                fresh: group.backlog.fresh(),
                end,
                visible: group.backlog.visible_again(end) as u64,
            }))
        })
    }

    /// Looks at the records behind those of `found`. What cannot be opened counts as wanted, and
    /// what the disk does not give is an error, as without a filter: no record vanishes unread.
    async fn look_ahead(
        &self,
        key: PartitionKey,
        filter: &StoredFilter,
        found: &mut Selection,
        end: Offset,
    ) -> Result<(), QueueError> {
        let mut left = LOOK_BYTES_MAX;
        while left > 0 && found.end() < end && !found.is_full() {
            let at = found.end();
            let read = self.inner.group.log().read_batches(key, at, READ_BYTES.min(left)).await;
            let read = read.map_err(|error| self.read_error(error))?;
            if read.is_empty() {
                // Retention has passed it meanwhile, or it has no place on this disk yet.
                sleep(PLACE_PAUSE).await;
                return Ok(());
            }
            let began = Instant::now();
            let is_late = || began.elapsed() >= TURN;
            let mut all = read.iter().flat_map(|slice| batch::batches(slice)).map_while(Result::ok);
            let is_whole = all
                .all(|batch| filter::batch::look(batch, filter, found, end, is_late) && !is_late());
            left = read.iter().fold(left, |left, slice| left.saturating_sub(slice.len()));
            if found.end() == at {
                // Not even its header makes sense: whoever leases it finds out.
                found.want(1);
                return Ok(());
            }
            yield_now().await;
            if !is_whole {
                return Ok(());
            }
        }
        Ok(())
    }
}

/// An operation on its way; when it has arrived, or nobody waits for it any more, it is judged by
/// what is applied.
struct OnItsWay {
    shard: Rc<Inner>,
    slot: Slot,
    sifter: Rc<Sifter>,
    /// So far it was to go.
    end: Offset,
}

impl OnItsWay {
    fn new(shard: Rc<Inner>, slot: Slot, sifter: &Rc<Sifter>, end: Offset) -> Self {
        sifter.in_flight.set(sifter.in_flight.get() + 1);
        Self { shard, slot, sifter: Rc::clone(sifter), end }
    }

    /// Whether more records could be leased.
    fn has_room(&self) -> bool {
        self.shard.group.with_machine(|machine| {
            let group = machine.groups().slots.get(&self.slot);
            group.is_some_and(|group| group.backlog.room() > 0)
        })
    }
}

impl Drop for OnItsWay {
    fn drop(&mut self) {
        self.sifter.in_flight.set(self.sifter.in_flight.get() - 1);
        let fresh = self.shard.group.with_machine(|machine| {
            machine.groups().slots.get(&self.slot).map(|group| group.backlog.fresh())
        });
        if fresh.is_none_or(|fresh| fresh < self.end) {
            self.sifter.is_void.set(true);
            // Others wait because this one was on its way. Where nothing more can be leased they
            // would only find that out, again and again.
            if self.has_room() {
                self.shard.readers.wake(self.slot.key);
            }
        }
    }
}
