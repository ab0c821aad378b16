//! Why a connection ends: said once, in one log line.

use std::io;

use barrage_wire::{DecodeError, ErrorCode, ErrorReply, FrameError, RequestError};

/// The end of a connection.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CloseReason {
    #[error("closed by the client")]
    Client,
    #[error("the client closed within a frame")]
    Truncated,
    #[error("the first frame was not Hello but opcode {opcode}")]
    NoHello { opcode: u16 },
    #[error("bad handshake: {0}")]
    BadHello(RequestError),
    #[error("no common protocol version: the client speaks {version_min} to {version_max}")]
    Version { version_min: u16, version_max: u16 },
    #[error("Hello came twice")]
    HelloTwice,
    #[error("client name is {size} bytes long")]
    ClientName { size: usize },
    #[error("{0}")]
    Frame(#[from] FrameError),
    #[error("socket error: {0}")]
    Io(#[from] io::Error),
    #[error("no handshake in time")]
    HandshakeTimeout,
    #[error("idle for too long")]
    Idle,
    #[error("a frame did not arrive in time")]
    FrameTimeout,
    #[error("replies were not taken in time")]
    WriteTimeout,
    #[error("the server is stopping")]
    Stopping,
}

impl CloseReason {
    /// Whether an operator should see it: somebody does not speak the protocol or is in trouble.
    pub(crate) fn is_odd(&self) -> bool {
        match self {
            Self::Client | Self::Idle | Self::Stopping => false,
            Self::Io(error) => !matches!(
                error.kind(),
                io::ErrorKind::ConnectionReset
                    | io::ErrorKind::BrokenPipe
                    | io::ErrorKind::UnexpectedEof
            ),
            _ => true,
        }
    }

    /// The error reply to send before closing, if the peer can be expected to understand one.
    pub(crate) fn farewell(&self) -> Option<ErrorReply> {
        let code = match self {
            Self::Frame(FrameError::TooLarge { .. }) => ErrorCode::FrameTooLarge,
            Self::Frame(FrameError::TooShort { .. }) => ErrorCode::Malformed,
            Self::NoHello { .. } | Self::HelloTwice => ErrorCode::HandshakeRequired,
            Self::Version { .. } => ErrorCode::UnsupportedVersion,
            Self::ClientName { .. } => ErrorCode::InvalidArgument,
            Self::BadHello(RequestError::UnsupportedVersion { .. }) => {
                ErrorCode::UnsupportedVersion
            }
            Self::BadHello(RequestError::Malformed { error, .. }) => match error {
                // Not our protocol at all: bytes we would send could mean anything there.
                DecodeError::BadMagic { .. } => return None,
                _ => ErrorCode::Malformed,
            },
            _ => return None,
        };
        Some(ErrorReply::new(code, self.to_string()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_peers_of_the_protocol_get_a_farewell() {
        let error = FrameError::TooLarge { length: 9, length_max: 8 };
        let farewell = CloseReason::Frame(error).farewell().unwrap();
        assert_eq!(farewell.code, ErrorCode::FrameTooLarge);
        let malformed = RequestError::Malformed {
            opcode: barrage_wire::Opcode::Hello,
            error: DecodeError::BadMagic { found: 1 },
        };
        assert!(CloseReason::BadHello(malformed).farewell().is_none());
        assert!(CloseReason::Client.farewell().is_none());
    }
}
