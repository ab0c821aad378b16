//! The handshake: the client says which protocol versions it speaks, the server picks one and
//! tells its limits. Nothing else is answered before.

use barrage_model::{CoreId, NodeId};
use bytes::BytesMut;

use crate::field::{DecodeError, Field, Reader, fields};

/// First four bytes of the Hello body: `BRGE` as text.
pub const HELLO_MAGIC: u32 = u32::from_le_bytes(*b"BRGE");
/// Oldest protocol version this build speaks.
pub const PROTOCOL_VERSION_MIN: u16 = 1;
/// Newest protocol version this build speaks.
pub const PROTOCOL_VERSION_MAX: u16 = 1;

/// The client's side of the handshake.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hello {
    /// Oldest version the client speaks.
    pub version_min: u16,
    /// Newest version the client speaks.
    pub version_max: u16,
    /// Who it is, for logs; at most 255 bytes.
    pub client_name: String,
}

impl Hello {
    /// Longest client name, in bytes.
    pub const CLIENT_NAME_BYTES_MAX: usize = 255;

    /// The handshake of this build.
    #[must_use]
    pub fn new(client_name: impl Into<String>) -> Self {
        Self {
            version_min: PROTOCOL_VERSION_MIN,
            version_max: PROTOCOL_VERSION_MAX,
            client_name: client_name.into(),
        }
    }

    /// The newest version both sides speak.
    #[must_use]
    pub fn version_agreed(&self) -> Option<u16> {
        let newest = self.version_max.min(PROTOCOL_VERSION_MAX);
        (newest >= self.version_min && newest >= PROTOCOL_VERSION_MIN).then_some(newest)
    }
}

impl Field for Hello {
    fn put(&self, out: &mut BytesMut) {
        HELLO_MAGIC.put(out);
        self.version_min.put(out);
        self.version_max.put(out);
        self.client_name.put(out);
    }

    fn take(reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let found: u32 = reader.take()?;
        if found != HELLO_MAGIC {
            return Err(DecodeError::BadMagic { found });
        }
        let (version_min, version_max) = (reader.take()?, reader.take()?);
        Ok(Self { version_min, version_max, client_name: reader.take()? })
    }

    fn size_min() -> usize {
        2 * size_of::<u32>() + 2 * size_of::<u16>()
    }
}

/// What a session may use at most.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SessionLimits {
    /// Largest value of a frame's length field, in bytes.
    pub frame_bytes_max: u32,
    /// Largest batch, in bytes.
    pub batch_bytes_max: u32,
    /// Requests without a reply; the server stops reading at this count.
    pub in_flight_requests_max: u32,
    /// Bytes of requests without a reply; the server stops reading there.
    pub in_flight_bytes_max: u32,
    /// A connection that sends nothing for this long and waits for nothing is closed.
    pub idle_timeout_ms: u32,
}
fields!(SessionLimits {
    frame_bytes_max,
    batch_bytes_max,
    in_flight_requests_max,
    in_flight_bytes_max,
    idle_timeout_ms,
});

/// The server's side of the handshake.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HelloReply {
    /// The protocol version from now on.
    pub version: u16,
    /// The node.
    pub node: NodeId,
    /// The core that serves this connection.
    pub core: CoreId,
    /// What this session may use.
    pub limits: SessionLimits,
    /// Name and version of the server, for people.
    pub server_name: String,
}
fields!(HelloReply { version, node, core, limits, server_name });

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_common_version_is_agreed() {
        let hello = |version_min, version_max| Hello {
            version_min,
            version_max,
            client_name: String::new(),
        };
        assert_eq!(hello(1, 1).version_agreed(), Some(1));
        assert_eq!(hello(1, 9).version_agreed(), Some(1));
        assert_eq!(hello(0, 1).version_agreed(), Some(1));
        assert_eq!(hello(2, 9).version_agreed(), None);
        assert_eq!(hello(0, 0).version_agreed(), None);
    }
}
