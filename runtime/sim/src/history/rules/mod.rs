//! The rules, one per file. Each says what it reads, what it demands, and shows in its tests a
//! history that passes and histories that do not.
//!
//! A new rule is: a word in `event.rs` where it must see something new, with its golden line; a
//! name and a title in `verdict.rs`; a file here, called by the checker; tables of histories that
//! keep and break it, in the language of `script.rs`; and in `proof`, a broker that keeps it and a
//! damage that breaks it.

pub(crate) mod agreement;
pub(crate) mod appended;
pub(crate) mod commits;
pub(crate) mod dedup;
pub(crate) mod delays;
pub(crate) mod deletion;
pub(crate) mod holders;
pub(crate) mod intact;
pub(crate) mod kept;
pub(crate) mod keys;
pub(crate) mod leases;
pub(crate) mod lost;
pub(crate) mod offsets;
pub(crate) mod order;
pub(crate) mod phantom;
pub(crate) mod replicas;
pub(crate) mod shares;
pub(crate) mod unread;
