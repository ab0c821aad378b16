//! Every option of the client, its default and its check, in one place.

use std::time::Duration;

use barrage_model::batch::Compression;
use barrage_model::limits::{BATCH_BYTES_MAX, PRODUCER_SESSION_MS_MAX, PRODUCER_SESSION_MS_MIN};
use barrage_model::{Offset, PartitionId, Priorities, Retention, TopicOrder};
use barrage_wire::{Acks, Assignor};

use crate::error::ClientError;

/// How to reach a cluster.
#[derive(Clone, Debug)]
pub struct ClientOptions {
    /// `HOST:PORT` of any nodes; the first that answers tells the rest.
    pub servers: Vec<String>,
    /// Shown in the server's logs.
    pub client_name: String,
    /// For name, TCP and handshake together.
    pub connect_timeout: Duration,
    /// For the answer to one request; a connection that misses it is given up.
    pub request_timeout: Duration,
}

/// What a new topic is like.
#[derive(Clone, Copy, Debug, Default)]
pub struct TopicOptions {
    /// How many partitions; 0 takes the server's default.
    pub partitions: u32,
    /// How long records are kept; `None` takes the server's default.
    pub retention: Option<Retention>,
    /// How many levels of priority, not more than partitions. They stay as they are.
    pub priorities: Priorities,
    /// Who may write: anybody, or one producer at a time.
    pub order: TopicOrder,
}

/// Where a server listens unless told otherwise.
pub const SERVER_DEFAULT: &str = "127.0.0.1:7400";

impl Default for ClientOptions {
    fn default() -> Self {
        Self {
            servers: vec![SERVER_DEFAULT.to_owned()],
            client_name: concat!("barrage-client ", env!("CARGO_PKG_VERSION")).to_owned(),
            connect_timeout: Duration::from_secs(5),
            request_timeout: Duration::from_secs(10),
        }
    }
}

impl ClientOptions {
    /// The defaults with one server.
    #[must_use]
    pub fn server(server: impl Into<String>) -> Self {
        Self { servers: vec![server.into()], ..Self::default() }
    }

    pub(crate) fn check(&self) -> Result<(), ClientError> {
        if self.servers.is_empty() {
            return Err(invalid("servers", "needs at least one HOST:PORT"));
        }
        Ok(())
    }
}

/// What a producer does about another one that holds a topic whose order is global.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Rival {
    /// It is an error to come second.
    #[default]
    Refuse,
    /// Wait until that one is closed, or silent for its session: a stand-by.
    Wait,
    /// Take the topic over; that one writes nothing more.
    TakeOver,
}

/// How a producer batches and retries.
#[derive(Clone, Debug)]
pub struct ProducerOptions {
    /// When the server says yes.
    pub acks: Acks,
    /// How batches are compressed.
    pub compression: Compression,
    /// A batch is sent when it holds this many bytes before compression. A record larger than
    /// this travels alone.
    pub batch_bytes: usize,
    /// A batch is sent when its first record has waited this long.
    pub linger: Duration,
    /// Batches in flight per partition, 1 to 5: the server recognises repeats of the last five.
    pub in_flight_max: usize,
    /// Bytes of records without an outcome; `send` waits at this bound.
    pub buffer_bytes_max: usize,
    /// From a record's `send` until it is given up as failed or unknown.
    pub delivery_timeout: Duration,
    /// Pause before a batch is sent again; after the fifth it doubles, up to `retry_pause_max`.
    pub retry_pause_min: Duration,
    /// Longest pause before a batch is sent again.
    pub retry_pause_max: Duration,
    /// What to do about another producer that holds the topic, where its order is global. A call
    /// of `producer` that is dropped while it waits may leave the topic held for a session.
    pub rival: Rival,
    /// Where the order is global: not heard of for so long, another producer may take the topic;
    /// 6 s to 30 min.
    pub session: Duration,
}

impl ProducerOptions {
    /// The server remembers this many batches per producer and partition.
    pub const IN_FLIGHT_MAX: usize = 5;
    const SESSION_MIN: Duration = Duration::from_millis(PRODUCER_SESSION_MS_MIN as u64);
    const SESSION_MAX: Duration = Duration::from_millis(PRODUCER_SESSION_MS_MAX as u64);
}

impl Default for ProducerOptions {
    fn default() -> Self {
        Self {
            acks: Acks::Quorum,
            compression: Compression::None,
            batch_bytes: 256 * 1024,
            linger: Duration::from_millis(5),
            in_flight_max: Self::IN_FLIGHT_MAX,
            buffer_bytes_max: 32 * 1024 * 1024,
            delivery_timeout: Duration::from_secs(120),
            retry_pause_min: Duration::from_millis(10),
            // Shorter than an election, which is what is waited for most: with a second here
            // every failover ended at the next full second.
            retry_pause_max: Duration::from_millis(250),
            rival: Rival::Refuse,
            session: Duration::from_secs(10),
        }
    }
}

impl ProducerOptions {
    pub(crate) fn check(&self) -> Result<(), ClientError> {
        if !(1..=BATCH_BYTES_MAX / 2).contains(&self.batch_bytes) {
            let problem = format!("must be 1 to {} bytes", BATCH_BYTES_MAX / 2);
            return Err(invalid("batch_bytes", &problem));
        }
        if !(1..=Self::IN_FLIGHT_MAX).contains(&self.in_flight_max) {
            return Err(invalid("in_flight_max", "must be 1 to 5"));
        }
        if !(Self::SESSION_MIN..=Self::SESSION_MAX).contains(&self.session) {
            return Err(invalid("session", "must be 6 s to 30 min"));
        }
        if self.delivery_timeout.is_zero() {
            return Err(invalid("delivery_timeout", "must be above zero"));
        }
        Ok(())
    }
}

/// Where a consumer begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum From {
    /// At the first record there is.
    Start,
    /// After the last record there is now.
    End,
    /// At this offset; an error when it is out of range.
    Offset(Offset),
    /// At the first record enqueued at this time or later, in milliseconds since 1970.
    Time(i64),
}

/// What a consumer reads and how far ahead.
#[derive(Clone, Debug)]
pub struct ConsumerOptions {
    /// Which partitions; `None` means all.
    pub partitions: Option<Vec<PartitionId>>,
    /// Where to begin, in each of them.
    pub from: From,
    /// Stop where each partition ended when the consumer was opened.
    pub stop_at_end: bool,
    /// Bytes asked for at once, per partition.
    pub fetch_bytes_max: u32,
    /// How long the server holds an empty answer back.
    pub fetch_wait: Duration,
    /// Fetched answers that may wait to be read, over all partitions.
    pub prefetch_max: usize,
    /// How long to look for a lost server before giving up.
    pub reconnect_timeout: Duration,
}

impl Default for ConsumerOptions {
    fn default() -> Self {
        Self {
            partitions: None,
            from: From::Start,
            stop_at_end: false,
            fetch_bytes_max: 1024 * 1024,
            fetch_wait: Duration::from_millis(500),
            prefetch_max: 4,
            reconnect_timeout: Duration::from_secs(60),
        }
    }
}

impl ConsumerOptions {
    pub(crate) fn check(&self) -> Result<(), ClientError> {
        if self.fetch_bytes_max == 0 {
            return Err(invalid("fetch_bytes_max", "must be above zero"));
        }
        if self.prefetch_max == 0 {
            return Err(invalid("prefetch_max", "must be above zero"));
        }
        Ok(())
    }
}

/// How a queue group is received from.
#[derive(Clone, Copy, Debug)]
pub struct QueueOptions {
    /// Bytes of records that one receive gathers; the one that passes it is still given.
    pub bytes_max: u32,
}

impl Default for QueueOptions {
    fn default() -> Self {
        Self { bytes_max: 8 * 1024 * 1024 }
    }
}

impl QueueOptions {
    pub(crate) fn check(self) -> Result<(), ClientError> {
        if self.bytes_max == 0 {
            return Err(invalid("bytes_max", "must be above zero"));
        }
        Ok(())
    }
}

/// How a member of a stream group reads.
#[derive(Clone, Debug)]
pub struct StreamOptions {
    /// The place that it keeps: whoever comes next under this name takes over its partitions, and
    /// nothing is shared out anew. For members that are restarted under one name.
    pub instance: Option<String>,
    /// How it wants partitions shared out; the majority of the members decides.
    pub assignor: Assignor,
    /// Not heard of for so long it is gone, 6 s to 30 min.
    pub session: Duration,
    /// So long it may take to the next poll while it is to give up partitions, 1 s to 12 h.
    pub rebalance: Duration,
    /// Where it begins in partitions of which nothing is stored: start, end or time.
    pub from: From,
    /// How often what was handed out is stored; `None` leaves that to `commit`.
    pub commit_every: Option<Duration>,
    /// Bytes asked for at once, per partition.
    pub fetch_bytes_max: u32,
    /// How long the server holds an empty answer back.
    pub fetch_wait: Duration,
    /// Fetched answers that may wait to be read, over all partitions.
    pub prefetch_max: usize,
    /// How long to look for a lost server before a partition is given up as unreadable.
    pub reconnect_timeout: Duration,
}

impl Default for StreamOptions {
    fn default() -> Self {
        let ConsumerOptions {
            fetch_bytes_max, fetch_wait, prefetch_max, reconnect_timeout, ..
        } = ConsumerOptions::default();
        Self {
            instance: None,
            assignor: Assignor::Sticky,
            session: Duration::from_secs(45),
            rebalance: Duration::from_secs(5 * 60),
            from: From::Start,
            commit_every: Some(Duration::from_secs(1)),
            fetch_bytes_max,
            fetch_wait,
            prefetch_max,
            reconnect_timeout,
        }
    }
}

impl StreamOptions {
    pub(crate) fn check(&self) -> Result<(), ClientError> {
        if self.fetch_bytes_max == 0 {
            return Err(invalid("fetch_bytes_max", "must be above zero"));
        }
        if self.prefetch_max == 0 {
            return Err(invalid("prefetch_max", "must be above zero"));
        }
        if self.commit_every.is_some_and(|every| every.is_zero()) {
            return Err(invalid("commit_every", "must be above zero"));
        }
        match self.from {
            From::Offset(_) => Err(invalid("from", "must be start, end or a time")),
            _ => Ok(()),
        }
    }
}

fn invalid(name: &'static str, problem: &str) -> ClientError {
    ClientError::InvalidOption { name, problem: problem.to_owned() }
}
