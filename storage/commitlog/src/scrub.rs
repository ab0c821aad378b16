//! Reading what nobody reads: sealed segments are checked byte by byte, a little at a time, so that
//! rot is found while other copies are whole.
//!
//! Owns: where a round stands. Must never: pass through the cache, or judge the active segment,
//! whose end only its writer knows.

use std::rc::Rc;

use crate::error::{OpenError, ReadError};
use crate::log::CommitLog;
use crate::scan::Scanner;
use crate::segment::Segment;

/// A round over all sealed segments, oldest first. Keeps no bytes between two steps.
#[derive(Default)]
pub struct Scrub {
    /// The segment under way and where to go on in it.
    under_way: Option<(Rc<Segment>, Scanner, u64)>,
    /// The next segment's number, at least.
    next: u64,
}

impl CommitLog {
    /// Checks about `bytes_max` bytes more; gives how many were checked. 0 ends a round, and the
    /// next step begins the next one.
    ///
    /// # Errors
    /// `Damaged` names the place; the step after it goes on behind that segment.
    pub async fn scrub(&self, scrub: &mut Scrub, bytes_max: u64) -> Result<u64, ReadError> {
        let mut checked = 0;
        while checked < bytes_max {
            let (segment, mut scanner, mut at) = match scrub.under_way.take() {
                Some(under_way) => under_way,
                None => match self.sealed_from(scrub.next) {
                    Some(segment) => {
                        scrub.next = segment.number() + 1;
                        let scanner = Scanner::new(Rc::clone(&segment), segment.end());
                        let at = segment.header.position;
                        (segment, scanner, at)
                    }
                    None => {
                        scrub.next = 0;
                        break;
                    }
                },
            };
            let end = segment.end().unwrap_or(at);
            while at < end && checked < bytes_max {
                let group = scanner.group(at).await.map_err(OpenError::into_read_error)?;
                let group = match group {
                    Ok(group) => group,
                    // It was rewritten meanwhile: what it was is no part of the log.
                    Err(_) if !self.shared.state.borrow().is_current(&segment) => break,
                    Err(reason) => return Err(segment.format_damage(at, reason).into()),
                };
                checked += group.end() - at;
                at = group.end();
            }
            if at < end && self.shared.state.borrow().is_current(&segment) {
                scanner.let_go();
                scrub.under_way = Some((segment, scanner, at));
            }
        }
        Ok(checked)
    }

    /// Bytes in sealed segments.
    pub fn sealed_bytes(&self) -> u64 {
        let state = self.shared.state.borrow();
        let sealed = state
            .segments
            .values()
            .filter_map(|segment| Some(segment.end()?.saturating_sub(segment.header.position)));
        sealed.sum()
    }

    /// The oldest sealed segment with this number or a later one.
    fn sealed_from(&self, number: u64) -> Option<Rc<Segment>> {
        let state = self.shared.state.borrow();
        let mut sealed = state.segments.range(number..).filter(|(_, s)| s.end().is_some());
        sealed.next().map(|(_, segment)| Rc::clone(segment))
    }
}
