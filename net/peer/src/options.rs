//! Limits of the connections between nodes: plain data with their units; defaults in one place.

use std::time::Duration;

/// What connections between nodes may use and how long they may take. All nodes of a cluster
/// should use the same `body_bytes_max`: a larger body ends the connection.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Options {
    /// Largest body of a request or an answer, in bytes: the largest checkpoint and an envelope.
    pub body_bytes_max: u32,
    /// Frames of calls that wait to be sent, per connection, in bytes. One larger passes alone.
    pub queued_bytes_max: u64,
    /// Frames of calls sent and not answered, per connection, in bytes. One larger passes alone.
    pub in_flight_bytes_max: u64,
    /// Calls without an answer, per connection.
    pub calls_max: usize,
    /// Frames received whose answers are not written yet, and those answers, per connection, in
    /// bytes; then nothing more is read from it. One larger passes alone.
    pub serving_bytes_max: u64,
    /// Connections from other nodes, per core; more are turned away.
    pub connections_max: usize,
    /// How long connecting may take, or the answer at first contact.
    pub connect_timeout: Duration,
    /// The rest after the first failure; it doubles with every further one, ...
    pub retry_min: Duration,
    /// ... up to this. A quarter of it, more or less, is left to chance.
    pub retry_max: Duration,
    /// A connection on which the oldest answer is missing this long after its deadline, and on
    /// which nothing moved for as long, is closed and made anew.
    pub overdue_max: Duration,
    /// A connection of another node that does not go on within a frame, or does not take its
    /// answers, is closed after this long.
    pub stall_timeout: Duration,
    /// A connection of another node that sends nothing this long is closed.
    pub idle_timeout: Duration,
    /// After this long without traffic the kernel asks whether the other side is still there.
    pub keepalive: Duration,
}

impl Default for Options {
    fn default() -> Self {
        const MIB: u32 = 1024 * 1024;
        Self {
            body_bytes_max: 256 * MIB,
            queued_bytes_max: u64::from(64 * MIB),
            in_flight_bytes_max: u64::from(64 * MIB),
            calls_max: 4096,
            serving_bytes_max: u64::from(64 * MIB),
            connections_max: 4096,
            connect_timeout: Duration::from_millis(1_500),
            retry_min: Duration::from_millis(50),
            retry_max: Duration::from_secs(1),
            overdue_max: Duration::from_secs(3),
            stall_timeout: Duration::from_secs(15),
            idle_timeout: Duration::from_secs(600),
            keepalive: Duration::from_secs(10),
        }
    }
}
