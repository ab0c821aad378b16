//! On how many voters' disks an entry is.
//!
//! Owns: the wait until every voter has flushed an entry, and what is known when it is over; which
//! entries members who are about to count still lack.
//!
//! Must never: say yes from what a replica knew before it lost its leadership; wait without end.

use std::collections::BTreeSet;

use barrage_model::LogIndex;
use barrage_world::{self as world, Instant, planted};
use openraft::async_runtime::WatchReceiver;
use openraft::{RaftMetrics, ServerState};

use crate::group::{Core, Group};
use crate::machine::Machine;
use crate::vocabulary::Types;

/// Not every voter is known to have flushed the entry. Committed entries stay: they are on a
/// majority.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("flushed by {have} of {want} voters")]
pub struct NotOnAll {
    /// Voters that are known to have it.
    pub have: usize,
    /// Voters of the newest configuration, of both while it changes.
    pub want: usize,
}

impl<M: Machine> Group<M> {
    /// Waits until every voter of the configuration has the entry at `index` on its disk, at most
    /// until `deadline`. For an entry that is committed: only then does its index name it.
    ///
    /// # Errors
    /// When the deadline has passed, or this replica does not lead or has stopped leading.
    pub async fn flushed_by_all(&self, index: LogIndex, deadline: Instant) -> Result<(), NotOnAll> {
        let left = deadline.saturating_duration_since(Instant::now());
        match world::timeout(left, self.core.flushed_by_all(index)).await {
            Ok(flushed) => flushed,
            Err(_) => copies(&self.core.metrics.borrow_watched(), index).on_all(),
        }
    }
}

impl Core {
    async fn flushed_by_all(&self, index: LogIndex) -> Result<(), NotOnAll> {
        let mut metrics = self.metrics.clone();
        let term = metrics.borrow_watched().current_term;
        loop {
            let (known, leads) = {
                let now = metrics.borrow_watched();
                let leads = now.running_state.is_ok()
                    && now.state == ServerState::Leader
                    && now.current_term == term;
                (copies(&now, index), leads && self.refusal().is_none())
            };
            if !leads {
                // Whoever leads now may have changed the voters: nobody here can say yes.
                return Err(known.as_error());
            }
            if known.on_all().is_ok() {
                return Ok(());
            }
            if metrics.changed().await.is_err() {
                return Err(known.as_error());
            }
        }
    }
}

impl Core {
    /// Whether every member that is near the end has the entry at `index`. What it lacks must stay:
    /// one that has to be copied anew does not count, and a leader whose majority does not count
    /// gives no copies, for ever.
    pub(crate) fn members_have(&self, index: LogIndex) -> bool {
        let metrics = self.metrics.borrow_watched();
        let applied = metrics.last_applied.as_ref().map_or(0, |id| id.index);
        let has = |matched: u64| matched >= index.0 || matched.saturating_add(NEAR) < applied;
        let members = metrics.replication.iter().flat_map(|members| members.values());
        members.flatten().all(|matched| has(matched.index))
    }
}

impl Core {
    /// How far the floor may go, whatever is wanted. Who does not lead does not know what others
    /// have, and keeps what it would wait for if it led: it may lead next, with a majority that
    /// needs the one who lacks that.
    pub(crate) fn floor_most(&self) -> LogIndex {
        let metrics = self.metrics.borrow_watched();
        let applied = metrics.last_applied.as_ref().map_or(0, |id| id.index);
        let knows = metrics.replication.is_some() || self.log.is_full();
        LogIndex(if knows { applied } else { applied.saturating_sub(NEAR) })
    }
}

/// Who lacks fewer entries is waited for. Larger than the lag with which a member may begin to
/// count, by what is committed until it does.
const NEAR: u64 = 256;

struct Copies {
    have: usize,
    want: usize,
}

impl Copies {
    fn as_error(&self) -> NotOnAll {
        NotOnAll { have: self.have, want: self.want }
    }

    fn on_all(&self) -> Result<(), NotOnAll> {
        // Wrong when planted: who asked for all copies gets a majority.
        let enough = match planted("raft-all-means-majority") {
            true => self.have * 2 > self.want,
            false => self.have == self.want,
        };
        if self.want > 0 && enough { Ok(()) } else { Err(self.as_error()) }
    }
}

/// What the leader knows of its voters, itself among them. Nothing when it does not lead.
fn copies(metrics: &RaftMetrics<Types>, index: LogIndex) -> Copies {
    let voters: BTreeSet<u64> = metrics.membership_config.membership().voter_ids().collect();
    let has = |node: &&u64| {
        let matched = metrics.replication.as_ref().and_then(|all| all.get(*node));
        matched.is_some_and(|id| id.as_ref().is_some_and(|id| id.index >= index.0))
    };
    Copies { have: voters.iter().filter(has).count(), want: voters.len() }
}
