//! A data shard: the pure state machine and the loop that proposes to it.
//!
//! ```text
//!            Shard (handle) --waiting--> proposer --Group::propose--> raft + log
//!                                         ^ projected State            |
//!            fetch <--wake-- Readers <--index, wake-- machine <--apply-+ real State
//! ```
//!
//! Pure, without a clock or I/O: `producers`, `holder`, `partition`, `decide`, `groups`, `streams`,
//! `machine::apply`, `entry`, `reconcile`.

pub(crate) mod alarms;
mod claims;
pub(crate) mod coordinate;
pub(crate) mod decide;
mod delayed;
pub(crate) mod entry;
pub(crate) mod expiry;
pub(crate) mod fetch;
pub(crate) mod groups;
pub(crate) mod handle;
pub(crate) mod holder;
pub(crate) mod machine;
pub(crate) mod order;
pub(crate) mod partition;
pub(crate) mod producers;
pub(crate) mod proposer;
pub(crate) mod readers;
pub(crate) mod receive;
mod reclaim;
pub(crate) mod reconcile;
pub(crate) mod release;
pub(crate) mod releases;
pub(crate) mod retention;
pub(crate) mod scrub;
pub(crate) mod sift;
pub(crate) mod streams;
pub(crate) mod waiting;
pub(crate) mod whole;

pub(crate) use handle::Shard;
