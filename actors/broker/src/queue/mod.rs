//! Queue groups: each record leased to one consumer at a time, and settled alone.
//!
//! ```text
//!   fresh --lease--> leased --ack--> settled
//!            ^          | nack, or its time is over
//!            |          v
//!            +------ delayed --due--> visible again (leased before what is fresh)
//! ```
//!
//! Pure: time comes in as milliseconds of the shard's log, so every replica comes to the same state
//! from the same commands. A file is a noun:
//!
//! * `departures`: records on their way to the dead-letter topic.
//! * `timers`: where a leader looks for what has fallen due.
//! * `wheel`: times at which something falls due, cheap for millions of them.
//! * `window`: what became of each record between the oldest that is not settled and the newest
//!   that was ever leased.
//! * `backlog`: one group's view of one partition; leases, settles, gives back.
//! * `delays`: records that are not in the partition yet, because it is not time.
//! * `filter`: which records a group wants.
//! * `keys`: which records a group that is ordered by key may have now.
//! * `records`: the records of a batch, as far as it can be opened.
//! * `selection`: which of those ahead a leader has found to be wanted.
//!
//! Must never: hold payload; do work that grows with the backlog, but for a rewind or a skip.

pub(crate) mod backlog;
pub(crate) mod delays;
pub(crate) mod departures;
#[cfg(test)]
pub(crate) mod dice;
pub(crate) mod filter;
pub(crate) mod keys;
pub(crate) mod records;
pub(crate) mod selection;
pub(crate) mod timers;
pub(crate) mod wheel;
pub(crate) mod window;
