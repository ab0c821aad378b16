//! How the memory budget is divided: the one place.
//!
//! ```text
//! budget = fixed + room;  room = 1/4 log cache + 1/8 requests + 1/8 replies + 1/8 buffers + slack
//! ```
//! - fixed: what an idle node takes (code, executors, tables), whatever the budget.
//! - log cache: the newest log bytes and read windows, over all shards.
//! - requests: frames of clients from their first byte to their answer. What waits to be proposed,
//!   and what is on its way to the disk, is held by these same bytes.
//! - replies: bytes that clients have not taken yet.
//! - buffers: aligned memory kept for the next write.
//! - slack: what the allocator keeps, indexes, checkpoints.
//!
//! Must never: measure or enforce; those who get a share do. Invariant: the shares never exceed
//! the budget.

/// What a node takes before it does anything, in bytes.
const FIXED: u64 = 48 << 20;
/// No more buffers are kept, however large the budget: reuse does not get better.
const BUFFERS_PER_CORE_MAX: u64 = 64 << 20;

/// The shares of the budget, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Shares {
    /// The whole budget of the process.
    pub(crate) budget: u64,
    /// Log bytes in memory, over all cores.
    pub(crate) cache: u64,
    /// Requests without an answer, over all cores.
    pub(crate) requests: u64,
    /// Replies not yet taken, over all cores.
    pub(crate) replies: u64,
    /// Buffers kept for later, per core.
    pub(crate) buffers_per_core: u64,
}

impl Shares {
    /// Divides `budget` among the uses of a node of `cores` cores.
    pub(crate) fn of(budget: u64, cores: usize) -> Self {
        let room = budget - FIXED.min(budget / 2);
        let cores = cores.max(1) as u64;
        Self {
            budget,
            cache: room / 4,
            requests: room / 8,
            replies: room / 8,
            buffers_per_core: (room / 8 / cores).min(BUFFERS_PER_CORE_MAX),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_shares_never_exceed_the_budget() {
        for budget_mib in [64, 96, 128, 256, 1024, 1 << 20] {
            for cores in [1, 2, 3, 64] {
                let budget = budget_mib << 20;
                let shares = Shares::of(budget, cores);
                let buffers = shares.buffers_per_core * cores as u64;
                let sum = shares.cache + shares.requests + shares.replies + buffers;
                assert_eq!(shares.budget, budget);
                assert!(sum + FIXED.min(budget / 2) <= budget, "{shares:?}");
                assert!(sum >= budget / 4 || shares.buffers_per_core == BUFFERS_PER_CORE_MAX);
            }
        }
    }
}
