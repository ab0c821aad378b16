//! When the node and the way to it were undisturbed: only then may a client insist on an answer.
//!
//! Owns: which disturbances last at the moment, and since when there was none. Must never: call a
//! time calm in which something was wrong.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet};

use barrage_world::Instant;

/// Something that keeps answers from coming in time.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) enum Disturbance {
    /// No process serves.
    Down,
    Paused,
    Network,
    /// A fault was injected that has perhaps not fired yet.
    Disk,
    /// An operation of the disk takes long, or will.
    Stall,
    Full,
}

/// See the module.
#[derive(Default)]
pub(crate) struct Disturbances {
    lasting: RefCell<BTreeSet<Disturbance>>,
    /// When each kind was last over.
    over: RefCell<BTreeMap<Disturbance, Instant>>,
    calm_since: Cell<Option<Instant>>,
}

impl Disturbances {
    pub(crate) fn begin(&self, disturbance: Disturbance) {
        self.lasting.borrow_mut().insert(disturbance);
        self.calm_since.set(None);
    }

    pub(crate) fn end(&self, disturbance: Disturbance) {
        let mut lasting = self.lasting.borrow_mut();
        if lasting.remove(&disturbance) {
            self.over.borrow_mut().insert(disturbance, Instant::now());
        }
        if lasting.is_empty() && self.calm_since.get().is_none() {
            self.calm_since.set(Some(Instant::now()));
        }
    }

    pub(crate) fn lasts(&self, disturbance: Disturbance) -> bool {
        self.lasting.borrow().contains(&disturbance)
    }

    /// Whether there was such a disturbance at any time from `since` until now.
    pub(crate) fn was(&self, disturbance: Disturbance, since: Instant) -> bool {
        let over = self.over.borrow().get(&disturbance).copied();
        self.lasts(disturbance) || over.is_some_and(|over| over >= since)
    }

    /// Whether all was well from `since` until now.
    pub(crate) fn calm_since(&self, since: Instant) -> bool {
        self.calm_since.get().is_some_and(|calm| calm <= since)
    }

    /// Whether a process that was asked at `since` may say that it stops or has failed.
    pub(crate) fn may_end(&self, since: Instant) -> bool {
        self.was(Disturbance::Down, since) || self.was(Disturbance::Disk, since)
    }
}
