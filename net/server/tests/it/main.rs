//! The whole node as a process: what its users and its enemies do to it.
//!
//! Everything goes through the binary's command line and its socket. Each test has a node of its
//! own, on free ports and in a folder of its own.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    reason = "tests stop at what they do not expect"
)]
#![expect(clippy::disallowed_methods, reason = "real processes take real time")]

mod bench;
mod cluster;
mod cores;
mod crash;
mod delay;
mod dlq;
mod filter_commands;
mod flags;
mod garbage;
mod idle;
mod node;
mod one_producer;
mod order;
mod peer;
mod pipeline;
mod priority;
mod queue;
mod queue_commands;
mod round_trip;
mod stop;
mod stream;
mod stream_commands;
mod workload;
