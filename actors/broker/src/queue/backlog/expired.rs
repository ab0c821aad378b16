//! Records of a backlog that are too old to be handed out, and what becomes of them.
//!
//! Owns: how they die. Must never: know a clock, or how old a record is: who leases it does.

use barrage_model::Offset;

use super::{Backlog, Receipt};
use crate::api::queue::ReceiptError;
use crate::queue::window::{Mark, State};

/// Instead of a time, where a record is dying because of its age.
const TOO_OLD_MS: u64 = u64::MAX;

impl Backlog {
    /// A record was leased and is not to be handed out any more: it goes to the dead-letter topic,
    /// or is done with where there is none.
    pub(crate) fn expire(
        &mut self,
        receipt: Receipt,
        now_ms: u64,
        buries: bool,
    ) -> Result<(), ReceiptError> {
        let mark = self.held(receipt, now_ms)?;
        self.leave(receipt.offset, mark);
        if !buries {
            self.settle(receipt.offset);
            return Ok(());
        }
        // Nobody got it by this lease.
        let deliveries = mark.deliveries.saturating_sub(1);
        let mark = Mark { state: State::Dying, deliveries, until_ms: TOO_OLD_MS, ..mark };
        self.window.set_mark(receipt.offset, mark);
        self.enter(receipt.offset, mark);
        Ok(())
    }

    /// There is no dead-letter topic any more: who was delivered too often is delivered again, and
    /// who was too old is done with.
    pub(crate) fn raise(&mut self) {
        let departing = self.departures.call_off();
        let dying = std::mem::take(&mut self.dying);
        for at in departing.into_iter().chain(dying) {
            let Some(mark) = self.window.mark(at).filter(|mark| mark.state == State::Dying) else {
                continue;
            };
            if mark.until_ms == TOO_OLD_MS {
                self.settle(at);
            } else {
                let mark = Mark { state: State::Visible, ..mark };
                self.window.set_mark(at, mark);
                self.enter(at, mark);
            }
        }
    }

    /// Whether a record is to go to the dead-letter topic, or on its way there.
    pub(crate) fn is_dying(&self, at: Offset) -> bool {
        self.window.mark(at).is_some_and(|mark| mark.state == State::Dying)
    }

    /// Whether a record that is dying was too old to be handed out.
    pub(crate) fn is_too_old(&self, at: Offset) -> bool {
        let too_old = |mark: Mark| mark.state == State::Dying && mark.until_ms == TOO_OLD_MS;
        self.window.mark(at).is_some_and(too_old)
    }

    /// How many records before `to` may be leased now, some at most.
    pub(crate) fn visible_before(&self, to: Offset, count_max: usize) -> usize {
        let again = self.visible.range(..to).take(count_max).count();
        let fresh = usize::try_from(to.0.saturating_sub(self.fresh.0)).unwrap_or(usize::MAX);
        again.saturating_add(fresh).min(count_max)
    }
}
