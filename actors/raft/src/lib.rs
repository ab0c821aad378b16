//! Raft groups: openraft behind our own types. One group replicates one shard's log.
//!
//! Owns: the runtime openraft runs on (over `barrage_world`), the log store it writes to (over
//! `barrage_commitlog`), the adapter that applies committed entries to a [`Machine`], and
//! [`Group`], the only handle the layers above see.
//!
//! Must never: let a type of openraft leak upward, name an executor or a file, look into a batch.
//!
//! Invariants: the log completes strictly in order and one failure is final; apply is synchronous;
//! a proposal carries the term it was decided in and is refused in any other.

mod ballot;
mod barrier;
#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests fail by panicking")]
mod conformance;
mod copies;
mod folder;
mod format;
#[doc(hidden)]
pub mod fuzzing;
mod group;
mod machine;
mod membership;
mod network;
mod peers;
mod proposal;
mod rot;
mod runtime;
mod seed;
mod serve;
mod source;
mod store;
mod tasks;
mod timing;
mod vocabulary;

pub use barrage_commitlog::Pieces;

pub use crate::ballot::Ballot;
pub use crate::copies::NotOnAll;
pub use crate::folder::{Content, Folder, FolderError};
pub use crate::format::FormatError;
pub use crate::format::marker::Held;
pub use crate::group::{Group, GroupOptions, OpenError};
pub use crate::machine::{Applied, Machine, Parts, RestoreError, UnknownCommand};
pub use crate::membership::{MembershipError, Role, Status};
pub use crate::peers::{Answer, Call, NoPeers, PeerError, Peers, Urgency};
pub use crate::proposal::{Committed, Proposal, ProposeError, Proposed};
pub use crate::seed::{SeedError, SeedOptions, SeedProgress, seed};
pub use crate::serve::HandleError;
pub use crate::timing::Timing;
