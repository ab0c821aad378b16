//! Connections between nodes: how the replicas of a shard reach each other.
//!
//! [`Links`] is one core's way to all other nodes and implements [`barrage_raft::Peers`];
//! [`Acceptor`] serves the other nodes on one core and hands their requests to a [`Handler`];
//! [`Book`] says where nodes are found.
//!
//! ```text
//!  node A, core 1                                         node B, 4 cores
//!  groups --call--> Links                 ask once        port of first contact, every core
//!                   | Peer B ----------------------------> "ports of my cores are ..."
//!                   |  |- Lane core 2, urgent ===========> port of core 2 --> Acceptor -> Handler
//!                   |  `- Lane core 2, bulk   ===========>     "                 (Group::handle)
//! ```
//! A shard lies on core `shard % cores` of each node that carries it. Two connections lead to each
//! core of a peer, so that votes and heartbeats never queue behind entries and checkpoints; what
//! one connection holds on the other side never makes another one wait.
//!
//! Costs of a batch of n messages that are ready in one turn of the executor:
//! - sending side: one task for the writer (none when it runs already), one `sendmsg` per 256 KiB,
//!   one buffer for headers and small bodies; bodies above 1 KiB go out from where they are. Per
//!   message: the boxed future of the call and an entry of the table, no timer: one clock per peer
//!   sleeps until the earliest deadline.
//! - receiving side: one wake-up and one `recv` per 64 KiB of small messages, or two per large one
//!   (its header, its body in place); small bodies are copied out once. Per message: the handler's
//!   boxed future and, if it is not ready at its first poll, a task with a timer.
//! - answers leave as requests do: gathered per connection.
//!
//! Must never: look into a body (it has its own checksum), answer one call with the answer to
//! another, hold more than [`Options`] allow, connect without being asked to.

#![cfg_attr(test, allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests"))]

mod accept;
mod ask;
mod batch;
mod book;
mod contact;
mod frame;
mod handler;
mod identity;
mod inbox;
mod lane;
mod links;
mod options;
mod peer;
mod reach;
mod session;
mod traffic;

pub use crate::accept::Acceptor;
pub use crate::book::Book;
pub use crate::contact::{Contact, ContactError};
pub use crate::frame::{FrameError, Header, Kind, Refusal};
pub use crate::handler::{Handler, Reply};
pub use crate::identity::{ClusterId, Identity};
pub use crate::inbox::{Frame, Inbox};
pub use crate::links::Links;
pub use crate::options::Options;
pub use crate::traffic::Load;
