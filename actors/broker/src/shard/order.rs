//! Receiving for a group that is ordered by key: the leader looks at the keys of the records ahead,
//! and one operation in the log leases those that it has chosen.
//!
//! ```text
//!   apply: settled, given back -> `Orders::note` -> the next of its key is ready
//!   receive: ready? -- no --> look at more records
//!              | yes
//!            `LeaseChosen` in the log
//! ```
//!
//! At most `AHEAD_MAX` records that are not settled are looked at: behind so many of keys that all
//! wait nothing is found until some of them are settled.
//!
//! Owns: which records are on their way into a lease. Must never: choose by what was looked at
//! before a rewind, or before another node led.
//! Invariants: apply leases what was chosen only if no rewind came between, and only what nobody
//! has; so two records of a key are never leased at once. Keys that are kept here hear of all that
//! is freed; those that are not any more are void, and end with the receive that holds them.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::Duration;

use barrage_model::group::Order;
use barrage_model::{Offset, batch};
use barrage_world::channel::Mutex;
use barrage_world::{Instant, sleep, yield_now};

use super::Shard;
use super::fetch::PLACE_PAUSE;
use super::groups::{Op, Outcome, Slot, What};
use super::handle::Inner;
use super::sift::{Ask, Sifted};
use crate::api::queue::QueueError;
use crate::queue::backlog::Backlog;
use crate::queue::keys::{self, Keys};

/// Bytes that one look reads, at most, and at a time; one batch is always read.
const LOOK_BYTES_MAX: usize = 2 << 20;
const READ_BYTES: usize = 256 << 10;
/// How long a look keeps the core to itself; one batch is always opened.
const TURN: Duration = Duration::from_millis(5);
/// Groups in partitions for which keys are kept: 1.2 MB each, at most.
const KEPT_MAX: usize = 256;

/// The keys ahead of the ordered groups of a shard; clones are the same ones.
#[derive(Clone, Default)]
pub(crate) struct Orders(Rc<RefCell<All>>);

#[derive(Default)]
struct All {
    slots: BTreeMap<Slot, Rc<Ordered>>,
    uses: u64,
}

struct Ordered {
    /// Held by the one who looks.
    looking: Mutex<()>,
    keys: RefCell<Keys>,
    /// The group's settings that they were looked at by.
    revision: Cell<u64>,
    /// They do not hold any more.
    is_void: Cell<bool>,
    /// Larger for one that was used later.
    used: Cell<u64>,
}

impl Orders {
    fn of(&self, slot: Slot) -> Rc<Ordered> {
        let All { slots, uses } = &mut *self.0.borrow_mut();
        *uses += 1;
        if slots.len() >= KEPT_MAX && !slots.contains_key(&slot) {
            let idle = slots.iter().filter(|(_, ordered)| Rc::strong_count(ordered) == 1);
            let oldest = idle.min_by_key(|(_, ordered)| ordered.used.get()).map(|(slot, _)| *slot);
            oldest.and_then(|oldest| slots.remove(&oldest));
        }
        let new = || Ordered {
            looking: Mutex::new(()),
            keys: RefCell::new(Keys::new(&Backlog::new(Offset(0)))),
            revision: Cell::new(0),
            is_void: Cell::new(true),
            used: Cell::new(0),
        };
        let ordered = slots.entry(slot).or_insert_with(|| Rc::new(new()));
        ordered.used.set(*uses);
        Rc::clone(ordered)
    }

    fn known(&self, slot: Slot) -> Option<Rc<Ordered>> {
        self.0.borrow().slots.get(&slot).cloned()
    }

    /// Records of a group were settled, or may be had again; everything from some record on, for
    /// `None`. Answers whether somebody may find something now.
    pub(crate) fn note(&self, slot: Slot, backlog: &Backlog, freed: Option<Vec<Offset>>) -> bool {
        let Some(ordered) = self.known(slot) else { return true };
        let Some(freed) = freed else {
            ordered.is_void.set(true);
            return true;
        };
        let mut keys = ordered.keys.borrow_mut();
        let was_full = keys.is_full();
        freed.into_iter().for_each(|at| keys.note(at, backlog));
        (was_full && !keys.is_full()) || keys.ready_count() > 0
    }

    /// This node leads no more, or has just come to lead.
    pub(crate) fn clear(&self) {
        for (_, ordered) in std::mem::take(&mut self.0.borrow_mut().slots) {
            ordered.is_void.set(true);
        }
    }
}

impl Shard {
    /// Leases records of which no earlier one of the same key is unsettled, or finds out that there
    /// are none; looks so far ahead at most as one look goes.
    pub(super) async fn pick(&self, slot: Slot, ask: Ask) -> Result<Sifted, QueueError> {
        let ordered = self.inner.orders.of(slot);
        let looking = ordered.looking.lock().await;
        let end = self.bounds(slot.key)?.high_watermark;
        self.align(slot, &ordered)?;
        let wanted = usize::try_from(ask.count_max.max(1)).unwrap_or(usize::MAX);
        let (ready, scanned, is_full) = {
            let keys = ordered.keys.borrow();
            (keys.ready_count(), keys.scanned(), keys.is_full())
        };
        if ready < wanted && scanned < end && !is_full {
            self.look_at_keys(slot, &ordered, end).await?;
            if ordered.is_void.get() {
                return Ok(Sifted::Again);
            }
        }
        let (ready, is_all) = {
            let keys = ordered.keys.borrow();
            (keys.ready_count(), keys.scanned() >= end || keys.is_full())
        };
        if ready == 0 {
            return Ok(if is_all { Sifted::Nothing } else { Sifted::Again });
        }
        if ask.count_max == 0 {
            return Ok(Sifted::Found);
        }
        let choose = |keys: &mut Keys, _: &Backlog| keys.take(wanted, ask.before);
        let leasing = self.lease_chosen((slot, &ordered), ask.visibility_ms, choose)?;
        drop(looking);
        match leasing {
            Some(leasing) => leasing.await,
            None => Ok(Sifted::Nothing),
        }
    }

    /// Leases records that are too old, several of a key where nothing before them is held; looks
    /// so far ahead at most as one look goes.
    pub(super) async fn pick_old(&self, slot: Slot, ask: Ask) -> Result<Sifted, QueueError> {
        let ordered = self.inner.orders.of(slot);
        let looking = ordered.looking.lock().await;
        let end = self.bounds(slot.key)?.high_watermark.min(ask.before);
        self.align(slot, &ordered)?;
        let wanted = usize::try_from(ask.count_max).unwrap_or(usize::MAX);
        self.look_at_keys(slot, &ordered, end).await?;
        if ordered.is_void.get() {
            return Ok(Sifted::Again);
        }
        let choose =
            |keys: &mut Keys, backlog: &Backlog| keys.take_leaving(wanted, ask.before, backlog);
        let leasing = self.lease_chosen((slot, &ordered), ask.visibility_ms, choose)?;
        let is_all = {
            let keys = ordered.keys.borrow();
            keys.scanned() >= end || keys.is_full()
        };
        drop(looking);
        match leasing {
            Some(leasing) => leasing.await,
            None if is_all => Ok(Sifted::Nothing),
            None => Ok(Sifted::Again),
        }
    }

    /// Leases what is chosen, if that is anything: it is on its way when this returns.
    fn lease_chosen(
        &self,
        (slot, ordered): (Slot, &Rc<Ordered>),
        visibility_ms: u64,
        choose: impl FnOnce(&mut Keys, &Backlog) -> Vec<Offset>,
    ) -> Result<Option<impl Future<Output = Result<Sifted, QueueError>>>, QueueError> {
        let view = self.inner.group.with_machine(|machine| {
            let backlog = &machine.groups().slots.get(&slot)?.backlog;
            let has_room = backlog.room() > 0;
            let mut keys = ordered.keys.borrow_mut();
            let chosen = if has_room { choose(&mut keys, backlog) } else { Vec::new() };
            Some((backlog.fresh(), keys.rewinds(), chosen))
        });
        let (from, rewinds, chosen) = view.ok_or(QueueError::UnknownGroup)?;
        if chosen.is_empty() {
            return Ok(None);
        }
        let on_its_way = OnItsWay {
            shard: Rc::clone(&self.inner),
            slot,
            ordered: Rc::clone(ordered),
            chosen: chosen.clone(),
        };
        let what = What::LeaseChosen { visibility_ms, rewinds, from, chosen };
        let done = self.submit_op(Op { slot, what });
        Ok(Some(async move {
            let done = done.await;
            drop(on_its_way);
            match done? {
                // Others were faster, or a rewind came between.
                Outcome::Leased(leased) if leased.is_empty() => Ok(Sifted::Again),
                Outcome::Leased(leased) => Ok(Sifted::Leased(leased)),
                _ => Err(QueueError::UnknownGroup),
            }
        }))
    }

    /// Whether more could be had at once, as far as is known.
    pub(super) fn may_pick_more(&self, slot: Slot) -> Result<bool, QueueError> {
        let end = self.bounds(slot.key)?.high_watermark;
        let ordered = self.inner.orders.known(slot).filter(|ordered| !ordered.is_void.get());
        let Some(ordered) = ordered else { return Ok(true) };
        let keys = ordered.keys.borrow();
        Ok(keys.ready_count() > 0 || (keys.scanned() < end && !keys.is_full()))
    }

    /// Forgets what does not hold any more.
    fn align(&self, slot: Slot, ordered: &Ordered) -> Result<(), QueueError> {
        self.inner.group.with_machine(|machine| {
            let group = machine.groups().slots.get(&slot).ok_or(QueueError::UnknownGroup)?;
            let mut keys = ordered.keys.borrow_mut();
            let is_void = ordered.is_void.replace(false);
            if is_void || ordered.revision.replace(group.config.revision) != group.config.revision {
                ordered.revision.set(group.config.revision);
                *keys = Keys::new(&group.backlog);
            }
            keys.follow_start(&group.backlog);
            Ok(())
        })
    }

    async fn look_at_keys(
        &self,
        slot: Slot,
        ordered: &Ordered,
        end: Offset,
    ) -> Result<(), QueueError> {
        let mut left = LOOK_BYTES_MAX;
        while left > 0 {
            let (at, is_full) = self.inner.group.with_machine(|machine| {
                let mut keys = ordered.keys.borrow_mut();
                if let Some(group) = machine.groups().slots.get(&slot) {
                    keys.pass_settled(&group.backlog);
                }
                (keys.scanned(), keys.is_full())
            });
            if at >= end || is_full {
                return Ok(());
            }
            let size = READ_BYTES.min(left);
            let read = self.inner.group.log().read_batches(slot.key, at, size).await;
            let read = read.map_err(|error| self.read_error(error))?;
            if read.is_empty() {
                // Retention has passed it meanwhile, or it has no place on this disk yet: what is
                // known already may be had.
                sleep(PLACE_PAUSE).await;
                return Ok(());
            }
            if ordered.is_void.get() {
                return Ok(());
            }
            let began = Instant::now();
            let is_late = || began.elapsed() >= TURN;
            let is_whole = self.inner.group.with_machine(|machine| {
                let Some(group) = machine.groups().slots.get(&slot) else { return false };
                let mut keys = ordered.keys.borrow_mut();
                let batches = read.iter().flat_map(|slice| batch::batches(slice));
                let mut batches = batches.map_while(Result::ok);
                batches.all(|batch| {
                    keys::look(batch, &mut keys, &group.backlog, end, is_late) && !is_late()
                })
            });
            left = read.iter().fold(left, |left, slice| left.saturating_sub(slice.len()));
            if ordered.keys.borrow().scanned() == at {
                // Not even its header makes sense: whoever leases it finds out.
                self.inner.group.with_machine(|machine| {
                    if let Some(group) = machine.groups().slots.get(&slot) {
                        ordered.keys.borrow_mut().push(at, None, &group.backlog);
                    }
                });
                return Ok(());
            }
            yield_now().await;
            if !is_whole || ordered.is_void.get() {
                return Ok(());
            }
        }
        Ok(())
    }
}

/// Records on their way into a lease; what was not leased in the end may be chosen again.
struct OnItsWay {
    shard: Rc<Inner>,
    slot: Slot,
    ordered: Rc<Ordered>,
    chosen: Vec<Offset>,
}

impl Drop for OnItsWay {
    fn drop(&mut self) {
        let Self { shard, slot, ordered, chosen } = self;
        shard.group.with_machine(|machine| {
            let Some(group) = machine.groups().slots.get(slot) else { return };
            if group.config.policy.order != Order::Key {
                return;
            }
            let mut keys = ordered.keys.borrow_mut();
            chosen.iter().for_each(|at| keys.note(*at, &group.backlog));
            if keys.ready_count() > 0 && group.backlog.room() > 0 {
                // Others may have looked while these were on their way.
                shard.readers.wake(slot.key);
            }
        });
    }
}
