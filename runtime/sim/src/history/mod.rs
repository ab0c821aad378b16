//! What clients did and saw, and the rules it must obey.
//!
//! A run, simulated or real, records a [`History`]: every call with its outcome, and what was
//! observed beside. The checker reads it once, from beginning to end, and gives a [`Verdict`].
//! It knows no broker, no protocol and no clock, so it judges a simulated replica, a cluster of
//! machines and any gateway by the same rules.
//!
//! ```text
//!   clients, replicas --events--> History --+--> Checker --> Verdict
//!                                           |       ^
//!                            lines of JSON <+-------+ check_lines
//! ```
//!
//! | rule | demands | file |
//! |---|---|---|
//! | I1 | no acknowledged record is lost, nor passed over by a stream group | `lost`, `unread` |
//! | I2 | nothing is read that was not sent, or that was refused | `phantom` |
//! | I3 | nothing is altered or misrouted | `intact` |
//! | I4 | one record per offset, for everybody | `agreement` |
//! | I5 | offsets grow, densely | `offsets` |
//! | I6 | order of producers, connections, readers and keys | `order`, `keys` |
//! | I7 | stored offsets do not fall; old generations commit nothing | `commits` |
//! | I7 | a partition of a stream group is one member's, for as long as was said | `shares` |
//! | I8 | an ack holds; an old receipt settles nothing | `deletion` |
//! | I9 | leases are exclusive; every record ends in one place | `leases` |
//! | I10 | what is sent again stands once; who is fenced appends nothing | `dedup` |
//! | I11 | a delayed record does not come early, nor after it was cancelled | `delays` |
//! | I13 | replicas agree, and remember | `replicas` |
//!
//! What a recorder owes: one clock and one order of events; an invocation recorded before anything
//! goes out and a completion after the answer came in; `fail` only where the call certainly took
//! no effect, `info` in every doubt; a value, hence a fingerprint, that no other message has; a
//! note of everything that retention may remove; and at the end, when every call is over,
//! [`Note::Drain`] followed by reads of every partition from its start. Without that note the
//! checker cannot know what should still be there: `Counters::drains` tells.
//!
//! Cost: linear in the events, times the logarithm of partitions, groups and pages. Ten million
//! records, each sent, acknowledged and read, take 0.5 GiB and about ten seconds as batches of a
//! hundred, 1.5 GiB and half a minute as batches of one; the room of each rule says what it keeps.
//! A history in memory takes 16 bytes per record more for each time it is sent or read;
//! [`check_lines`] holds one line at a time.

mod checker;
mod event;
mod facts;
mod format;
mod index;
mod ledger;
mod name;
mod recording;
mod rules;
mod slots;
mod verdict;

#[cfg(test)]
mod proof;
#[cfg(test)]
mod script;

pub use checker::{Checker, Options};
pub use event::{
    Answer, ChangeDelay, Claim, Claiming, CommitOffset, Event, Identity, MemberBeat, Note,
    Operation, Place, ReadFrom, ReadOut, SeenRecord, SendBatch, SentAt, SentRecord, SettleLease,
    Settlement, Sight, Stamp, TakeLease, Taken, Told, What,
};
pub use format::{ReadError, Reader, Writer};
pub use name::{Call, Fingerprint, Key, Name, Nanos, StateHash};
pub use recording::{History, check_lines};
pub use verdict::{Counters, Rule, Verdict, Violation};
