//! The native gateway: sockets on one side, a [`barrage_broker::Broker`] on the other.
//!
//! One [`Gateway`] per core. It listens, keeps a session per connection, translates requests and
//! gathers replies. Must never know storage or Raft, hold a lock, or trust a length: what a frame
//! claims is checked against the limits and the budgets before a byte is reserved for it.
//!
//! ```text
//!  socket --read--> Inbox --frame--> Session --translate--> Broker
//!  socket <-sendmsg- Outbox <-reply-- task per request <------+
//! ```
//! Invariants: a request taken up is answered once or its connection is closed; batches of one
//! connection for one partition are handed to the broker in the order they came; what one
//! connection does costs the others nothing but their fair share.

#![cfg_attr(test, allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests"))]

mod budget;
mod close;
mod cluster;
mod delay;
mod error;
mod gateway;
mod inbox;
mod options;
mod outbox;
mod queue;
mod session;
mod stream;
mod timing;
mod translate;
mod write;

pub use gateway::Gateway;
pub use options::Options;
