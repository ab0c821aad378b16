//! The log of one shard, on direct I/O: append with group flush, recovery, read, retention.
//!
//! Owns: the disk format (`format`), the flusher, the index by offset, the tail cache.
//! Must never: look into a batch beyond its header, know what a command means, acknowledge before
//! the flush that covers it, rewrite a block that holds acknowledged bytes, or take damage for the
//! end of the log.

#![cfg_attr(
    test,
    allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test may panic")
)]

mod blocks;
mod cache;
mod checkpoint;
mod copy;
#[doc(hidden)]
pub mod counting;
mod crc;
mod entry;
mod error;
mod format;
#[doc(hidden)]
pub mod fuzzing;
mod index;
mod log;
mod mend;
mod options;
mod pieces;
mod places;
mod quarantine;
mod read;
mod recovery;
mod replay;
mod rewrite;
mod roll;
mod scan;
mod scrub;
mod seal;
mod segment;
mod slots;
mod spares;
mod state;
mod stats;
mod stretches;
mod verify;
mod writer;

#[cfg(test)]
mod tests;

pub use checkpoint::{Checkpoint, CheckpointCopy, CheckpointParts};
pub use copy::{CheckpointPiece, Link};
pub use entry::{Batch, Entry, EntryError, EntryKind, HardState, Run, Vote};
pub use error::{Damage, LogError, OpenError, ReadError};
pub use log::{CommitLog, Expiry, Ticket};
pub use options::{Floor, Options};
pub use pieces::Pieces;
pub use recovery::RecoveryReport;
pub use rewrite::{Pace, Rewritten, Wanted};
pub use scrub::Scrub;
pub use stats::LogStats;
pub use verify::{VerifiedPartition, VerifiedSegment, VerifyReport, verify};
