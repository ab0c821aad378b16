//! Connections between nodes.
#![cfg_attr(test, allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests"))]

mod contact;
mod frame;
mod identity;

pub use crate::contact::{Contact, ContactError};
pub use crate::frame::{FrameError, Header, Kind, Refusal};
pub use crate::identity::{ClusterId, Identity};
