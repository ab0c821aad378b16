//! Limits of a gateway: plain data with their units; defaults in one place.

use std::time::Duration;

use barrage_model::limits;
use barrage_wire::SessionLimits;

/// What connections may use and how long they may take. Counts and bytes are per core unless said.
#[derive(Clone, Debug)]
pub struct Options {
    /// Name and version, told to clients.
    pub server_name: String,
    /// Version of the software, for `Stats`.
    pub version: String,
    /// Connections of this core; more are turned away.
    pub connections_max: usize,
    /// A connection must have said Hello after this long.
    pub handshake_timeout: Duration,
    /// A connection that sends nothing and waits for nothing this long is closed.
    pub idle_timeout: Duration,
    /// A connection that does not take its replies for this long is closed.
    pub write_timeout: Duration,
    /// A frame that has begun must be complete after this long plus its size at
    /// [`Options::RECEIVE_BYTES_PER_S_MIN`].
    pub frame_timeout: Duration,
    /// How long a request may take that names no timeout.
    pub request_timeout: Duration,
    /// Largest frame, length field not counted, in bytes.
    pub frame_bytes_max: u32,
    /// Largest batch, in bytes.
    pub batch_bytes_max: u32,
    /// Requests of one connection without a reply.
    pub in_flight_requests_max: u32,
    /// Bytes of requests of one connection without a reply.
    pub in_flight_bytes_max: u32,
    /// Bytes of requests without a reply, over all connections of this core.
    pub receive_bytes_max: u64,
    /// Bytes of replies not yet taken by clients, over all connections of this core.
    pub reply_bytes_max: u64,
}

impl Options {
    /// The slowest sender that is tolerated within a frame.
    pub const RECEIVE_BYTES_PER_S_MIN: u64 = 16 * 1024;
    /// No request waits longer, whatever it asks for.
    pub const REQUEST_TIMEOUT_MAX: Duration = Duration::from_secs(300);
    /// Offsets of one peek at most.
    pub const PEEK_COUNT_MAX: usize = 10_000;
    /// Bytes of batches in one fetch reply at most, except that one batch always fits.
    pub const FETCH_BYTES_MAX: usize = limits::BATCH_BYTES_MAX;

    /// What the handshake tells a client.
    #[must_use]
    pub fn session_limits(&self) -> SessionLimits {
        SessionLimits {
            frame_bytes_max: self.frame_bytes_max,
            batch_bytes_max: self.batch_bytes_max,
            in_flight_requests_max: self.in_flight_requests_max,
            in_flight_bytes_max: self.in_flight_bytes_max,
            idle_timeout_ms: u32::try_from(self.idle_timeout.as_millis()).unwrap_or(u32::MAX),
        }
    }
}

impl Default for Options {
    fn default() -> Self {
        const MIB: u32 = 1024 * 1024;
        Self {
            server_name: format!("barrage {}", env!("CARGO_PKG_VERSION")),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            connections_max: 20_000,
            handshake_timeout: Duration::from_secs(5),
            idle_timeout: Duration::from_secs(600),
            write_timeout: Duration::from_secs(30),
            frame_timeout: Duration::from_secs(30),
            request_timeout: Duration::from_secs(30),
            frame_bytes_max: FRAME_BYTES_MAX,
            batch_bytes_max: BATCH_BYTES_MAX,
            in_flight_requests_max: 1024,
            in_flight_bytes_max: 32 * MIB,
            receive_bytes_max: u64::from(128 * MIB),
            reply_bytes_max: u64::from(128 * MIB),
        }
    }
}

const FRAME_BYTES_MAX: u32 = limits::FRAME_BYTES_MAX as u32;
const BATCH_BYTES_MAX: u32 = limits::BATCH_BYTES_MAX as u32;
const _: () = assert!(limits::BATCH_BYTES_MAX < limits::FRAME_BYTES_MAX);
const _: () = assert!(limits::FRAME_BYTES_MAX <= u32::MAX as usize);
