//! What a client is told: its work before it begins, and orders and words on the way.
//!
//! Owns: both, and their form as lines of JSON between two processes of the same binary.
//! Must never: be kept; a task is read once, by a client that was started for it.
//! Invariants: times are microseconds since 1970, by the clock of the machine both run on.
//!
//! ```text
//!   parent                      client
//!          <------- ready ------         all connections are made
//!          --- start (a time) ->         every client begins then: warm-up, then what counts
//!          <------- built ------         with a backlog: its share of it lies there
//!          -- resume (a time) ->         consumers begin again
//!          <----- caught up ----
//!          -- finish (a time) ->         no more is sent
//!          <----- produced -----         all of it is answered
//!          ------- drain ------>         consumers read what is left
//!          <- done (what it did) -       the log is written
//! ```

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::dues::Spacing;
use crate::args::BatchShape;
use crate::hlog::About;
use crate::workload::keys::Keys;
use crate::workload::payload::Payload;

/// What a client is to do.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Task {
    pub about: About,
    /// As a list of cores is written.
    pub cores: String,
    /// Where the log goes.
    pub log: PathBuf,
    pub topics: Vec<Topic>,
    pub producers: Vec<ProducerTask>,
    pub consumers: Vec<ConsumerTask>,
    pub sending: Sending,
    /// Bytes of a fetch.
    pub fetch_bytes: u32,
    pub warm_up: Duration,
    pub backlog: Option<Backlog>,
}

/// A topic and who leads its partitions, in their order.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Topic {
    pub id: u64,
    pub leaders: Vec<SocketAddr>,
}

/// One producer, by its number among all of the run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ProducerTask {
    pub topic: usize,
    pub number: usize,
}

/// One consumer, with its share of a topic's partitions.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ConsumerTask {
    pub topic: usize,
    pub partitions: Vec<u32>,
}

/// How producers send.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Sending {
    pub record_size: usize,
    pub payload: Payload,
    pub keys: Keys,
    pub batch: BatchShape,
    /// Batches ahead of their answers; at a rate as many as the server allows.
    pub in_flight: usize,
    /// The same, if the user said so.
    pub in_flight_asked: Option<usize>,
    /// Between two records of a producer; none if it sends as fast as it can.
    pub spacing: Spacing,
    pub linger: Duration,
    /// Producers of the whole run, which take turns within a batch's time.
    pub producers_all: usize,
}

/// Consumers stop until so much lies there.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(crate) struct Backlog {
    /// What this client's producers add to it.
    pub records: u64,
    /// Consumers that are behind by no more than this have caught up.
    pub rest: u64,
}

/// What the parent says.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Order {
    Start { at_us: u64 },
    Resume { at_us: u64 },
    Finish { at_us: u64 },
    Drain,
}

/// What a client says.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Word {
    Ready,
    Built,
    CaughtUp,
    Produced,
    Done(Totals),
}

/// What a client did from start to end, warm-up and draining included.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Totals {
    /// Records that were acknowledged.
    pub published: u64,
    /// Records that came to consumers; each subscription counts.
    pub consumed: u64,
    /// Records that consumers did not come to within their time.
    pub left: u64,
    /// Batches that were acknowledged while it counted.
    pub batches: u64,
}

impl Totals {
    /// Adds what another did.
    pub(crate) fn add(&mut self, other: &Self) {
        self.published += other.published;
        self.consumed += other.consumed;
        self.left += other.left;
        self.batches += other.batches;
    }
}
