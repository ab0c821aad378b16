//! Connections between simulated nodes: slow, lossy and cut links, corrupt streams, restarts,
//! peers that do not read, and a group of three replicas over them.

#![cfg(sim)]
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests fail by panicking")]

mod bounds;
mod calls;
mod faults;
mod group;
mod node;
mod restart;
