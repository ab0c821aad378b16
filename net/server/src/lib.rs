//! What of the `barrage` binary is looked at from outside: the configuration of a node.
//!
//! Owns nothing else; starting, serving and stopping stay in the binary.

#![cfg_attr(test, allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests"))]

pub mod config;
