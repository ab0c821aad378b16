//! A backlog whose leader chooses the records that are leased, one by one.
//!
//! Owns: leasing those it has chosen; telling it what may be chosen next. Must never: know why.

use barrage_model::Offset;

use super::{AHEAD_MAX, Backlog, Leased, Want};
use crate::queue::window::{Mark, State};

impl Backlog {
    /// Hands out these records, as far as they may be had. Records that were never leased and lie
    /// before one of them are visible from then on.
    pub(crate) fn lease_chosen(&mut self, want: &Want, chosen: &[Offset]) -> Vec<Leased> {
        let mut leased = Vec::new();
        for at in chosen.iter().copied().filter(|at| *at < want.end).take(want.count_max) {
            if at < self.fresh {
                if self.room() > 0 && self.visible.remove(&at) {
                    leased.push(self.hand_out(at, self.window.mark(at), want));
                }
                continue;
            }
            let passed = at.0 - self.fresh.0;
            if passed >= AHEAD_MAX || passed >= self.room() as u64 {
                break;
            }
            while self.fresh < at {
                let (state, until_ms) = (State::Visible, want.now_ms);
                let mark = Mark { state, deliveries: 0, tag: 0, first_ms: 0, until_ms };
                self.window.set_mark(self.fresh, mark);
                self.enter(self.fresh, mark);
                self.fresh = Offset(self.fresh.0 + 1);
            }
            self.fresh = Offset(at.0 + 1);
            leased.push(self.hand_out(at, None, want));
        }
        leased
    }

    /// How often it was rewound.
    pub(crate) fn rewinds(&self) -> u32 {
        self.rewinds
    }

    /// The first record from `at` on that is not done with.
    pub(crate) fn next_unsettled(&self, at: Offset) -> Offset {
        self.window.next_unsettled(at)
    }

    /// Whether a record is done with.
    pub(crate) fn is_settled(&self, at: Offset) -> bool {
        self.window.is_settled(at)
    }

    /// Whether a record may be leased now, as far as the group has it before it.
    pub(crate) fn may_be_had(&self, at: Offset) -> bool {
        at >= self.fresh || self.visible.contains(&at)
    }

    /// From now on it is noted, or not, what is freed.
    pub(crate) fn set_ordered(&mut self, is_ordered: bool) {
        self.is_ordered = is_ordered;
        self.freed.clear();
    }

    /// What was settled one by one, or may be had again, since this was asked; `None` when that
    /// is all from some record on. What lies before [`Self::start`] is settled, too.
    pub(crate) fn take_freed(&mut self) -> Option<Vec<Offset>> {
        let freed = std::mem::take(&mut self.freed);
        (!std::mem::take(&mut self.is_rewound)).then_some(freed)
    }

    pub(super) fn settle(&mut self, at: Offset) {
        self.window.settle(at);
        self.note_freed(at);
    }

    pub(super) fn note_freed(&mut self, at: Offset) {
        if self.is_ordered {
            self.freed.push(at);
        }
    }
}
