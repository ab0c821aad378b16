//! Consumer groups of kind `stream`: members share partitions, and an offset is kept for each.
//!
//! ```text
//!            the first member decides which way the group works, until the last one is gone
//!            +--> native:  the group itself gives partitions to members; they hand them over
//!   empty ---+             one by one, whoever keeps its own reads on
//!            +--> classic: members meet, one of them, the leader, makes an assignment whose
//!                          bytes the group does not read; everybody stops meanwhile
//!
//!   common to both: members and sessions, places of instances, generations, stored offsets
//! ```
//!
//! Pure: time comes in as milliseconds of the shard's lease clock, which stands still while nobody
//! leads; so an election ends no session, and every replica comes to the same state from the same
//! commands. A value is one group; a gateway translates its protocol to the calls of `stream`.
//! Broadcast is nothing of its own: each reader is the only member of a group named after it.
//!
//! A file is a noun:
//!
//! * `name`: texts that clients give themselves. `generation`: what fences those who are late.
//! * `roster`: members, their sessions, the places that instances keep.
//! * `partition_set`: partitions, sorted, shared.
//! * `assignment`: who gets which partition, as pure functions; `balance`: the sticky one's work.
//! * `handover`: the native way. `rebalance`: the classic way.
//! * `offsets`: how far the group has read.
//! * `stream`: the group; `saved`: what a checkpoint keeps of it; `refused`: why it says no.
//!
//! Must never: know a clock, a topic's name, or what is in metadata and assignments of clients.
//! Not here: commits inside of transactions; members of both ways in one group at a time.

pub(crate) mod assignment;
mod balance;
pub(crate) mod generation;
pub(crate) mod handover;
pub(crate) mod name;
pub(crate) mod offsets;
pub(crate) mod partition_set;
#[cfg(test)]
mod proof;
pub(crate) mod rebalance;
pub(crate) mod refused;
pub(crate) mod roster;
pub(crate) mod saved;
#[cfg(test)]
mod script;
pub(crate) mod stream;
