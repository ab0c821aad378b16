//! Frames: how the byte stream of a connection is cut.
//!
//! ```text
//!  0        4        6        8        12
//!  | length | opcode | detail | correl | body ...            |
//!  |  u32   |  u16   |  u16   |  u32   | length - 8 bytes    |
//! ```
//! `length` counts what follows it. `detail` is the version of a request and the error code of a
//! reply (0 = fine). Invariant: a length is checked before a byte is reserved for it.

use bytes::{Buf, BufMut, Bytes, BytesMut};

/// Ties a reply to its request; chosen by the client, unique among its requests in flight.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Correlation(pub u32);

/// The 12 bytes in front of every body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FrameHeader {
    /// Bytes after the length field: 8 plus the body.
    pub length: u32,
    /// [`crate::Opcode`]; replies have bit 15 set.
    pub opcode: u16,
    /// Version (request) or [`crate::ErrorCode`] (reply).
    pub detail: u16,
    /// Which request this is, or answers.
    pub correlation: Correlation,
}

/// A whole frame.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frame {
    /// Its header.
    pub header: FrameHeader,
    /// What follows the header; shares memory with the receive buffer.
    pub body: Bytes,
}

/// Why a stream of frames cannot be read on: the connection has to be closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    /// A length below that of the fixed fields.
    #[error("frame length {length} is below {LENGTH_MIN}")]
    TooShort {
        /// The claim.
        length: u32,
    },
    /// A length above the limit in force.
    #[error("frame length {length} is above the limit of {length_max} bytes")]
    TooLarge {
        /// The claim.
        length: u32,
        /// The limit.
        length_max: u32,
    },
}

/// Bytes of the fixed fields that `length` counts.
const LENGTH_MIN: u32 = 8;
const _: () = assert!(LENGTH_MIN as usize + FrameHeader::LENGTH_FIELD == FrameHeader::SIZE);

impl FrameHeader {
    /// Bytes of a header.
    pub const SIZE: usize = 12;
    /// Bytes of the length field itself.
    pub const LENGTH_FIELD: usize = 4;

    /// The header of a frame with a body of `body_size` bytes.
    ///
    /// # Panics
    /// When the body does not fit a `u32`: such a frame cannot be sent.
    #[must_use]
    pub fn new(opcode: u16, detail: u16, correlation: Correlation, body_size: usize) -> Self {
        let length = u32::try_from(body_size).ok().and_then(|size| size.checked_add(LENGTH_MIN));
        assert!(length.is_some(), "a body of {body_size} bytes cannot be sent");
        Self { length: length.unwrap_or(u32::MAX), opcode, detail, correlation }
    }

    /// Reads a header; `None` until 12 bytes are there.
    #[must_use]
    pub fn parse(bytes: &[u8]) -> Option<Self> {
        let (length, rest) = bytes.split_first_chunk::<4>()?;
        let (opcode, rest) = rest.split_first_chunk::<2>()?;
        let (detail, rest) = rest.split_first_chunk::<2>()?;
        let (correlation, _) = rest.split_first_chunk::<4>()?;
        Some(Self {
            length: u32::from_le_bytes(*length),
            opcode: u16::from_le_bytes(*opcode),
            detail: u16::from_le_bytes(*detail),
            correlation: Correlation(u32::from_le_bytes(*correlation)),
        })
    }

    /// Appends the header.
    pub fn encode(&self, out: &mut BytesMut) {
        out.put_u32_le(self.length);
        out.put_u16_le(self.opcode);
        out.put_u16_le(self.detail);
        out.put_u32_le(self.correlation.0);
    }

    /// Checks the length against the limit in force.
    pub const fn check(&self, length_max: u32) -> Result<(), FrameError> {
        if self.length < LENGTH_MIN {
            return Err(FrameError::TooShort { length: self.length });
        }
        if self.length > length_max {
            return Err(FrameError::TooLarge { length: self.length, length_max });
        }
        Ok(())
    }

    /// Bytes of the whole frame, length field included.
    #[must_use]
    pub const fn frame_size(&self) -> usize {
        self.length as usize + Self::LENGTH_FIELD
    }

    /// Bytes of the body. The header must have been checked.
    #[must_use]
    pub const fn body_size(&self) -> usize {
        self.frame_size().saturating_sub(Self::SIZE)
    }
}

/// Starts a frame whose body size is not known yet; [`finish_frame`] sets it.
pub(crate) fn start_frame(
    opcode: u16,
    detail: u16,
    correlation: Correlation,
    out: &mut BytesMut,
) -> usize {
    let at = out.len();
    FrameHeader { length: 0, opcode, detail, correlation }.encode(out);
    at
}

/// Sets the length of the frame that starts at `at` and ends where `out` ends.
pub(crate) fn finish_frame(at: usize, out: &mut BytesMut) {
    let size = out.len() - at - FrameHeader::LENGTH_FIELD;
    let length = u32::try_from(size).unwrap_or(u32::MAX);
    assert!(length < u32::MAX, "a frame of {size} bytes cannot be sent");
    if let Some(field) = out.get_mut(at..at + FrameHeader::LENGTH_FIELD) {
        field.copy_from_slice(&length.to_le_bytes());
    }
}

/// Cuts a byte stream into frames without copying bodies.
///
/// Read into [`FrameDecoder::buffer`], then call [`FrameDecoder::next_frame`] until it says `None`.
/// After an error the stream has no known position any more: close the connection.
#[derive(Debug)]
pub struct FrameDecoder {
    buffer: BytesMut,
    length_max: u32,
}

impl FrameDecoder {
    /// Frames up to `length_max` (the value of the length field) are let through.
    #[must_use]
    pub fn new(length_max: u32) -> Self {
        Self { buffer: BytesMut::new(), length_max }
    }

    /// Where received bytes go: append, take nothing away.
    pub const fn buffer(&mut self) -> &mut BytesMut {
        &mut self.buffer
    }

    /// Appends received bytes.
    pub fn push(&mut self, bytes: &[u8]) {
        self.buffer.extend_from_slice(bytes);
    }

    /// Another limit from the next frame on.
    pub const fn set_length_max(&mut self, length_max: u32) {
        self.length_max = length_max;
    }

    /// Bytes received and not yet handed out.
    #[must_use]
    pub fn buffered(&self) -> usize {
        self.buffer.len()
    }

    /// Gives back the memory of an empty buffer, for connections that fell idle.
    pub fn release(&mut self) {
        if self.buffer.is_empty() {
            self.buffer = BytesMut::new();
        }
    }

    /// The checked header of the frame at the front, when its 12 bytes are there.
    pub fn peek(&self) -> Result<Option<FrameHeader>, FrameError> {
        // The length alone is judged as soon as it is there: a peer that sends only the claim of a
        // huge frame is told at once.
        if let Some(length) = self.buffer.first_chunk::<4>() {
            let length = u32::from_le_bytes(*length);
            let claim = FrameHeader { length, opcode: 0, detail: 0, correlation: Correlation(0) };
            claim.check(self.length_max)?;
        }
        Ok(FrameHeader::parse(&self.buffer))
    }

    /// How many bytes are missing until the frame at the front is whole; 0 when it is.
    pub fn missing(&self) -> Result<usize, FrameError> {
        let needed = self.peek()?.map_or(FrameHeader::SIZE, |header| header.frame_size());
        Ok(needed.saturating_sub(self.buffer.len()))
    }

    /// Takes the frame at the front when it is whole.
    pub fn next_frame(&mut self) -> Result<Option<Frame>, FrameError> {
        let Some(header) = self.peek()? else { return Ok(None) };
        if self.buffer.len() < header.frame_size() {
            return Ok(None);
        }
        let mut body = self.buffer.split_to(header.frame_size());
        body.advance(FrameHeader::SIZE);
        assert_eq!(body.len(), header.body_size());
        Ok(Some(Frame { header, body: body.freeze() }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn two_frames() -> BytesMut {
        let mut out = BytesMut::new();
        FrameHeader::new(2, 1, Correlation(7), 0).encode(&mut out);
        FrameHeader::new(16, 1, Correlation(8), 3).encode(&mut out);
        out.put_slice(b"abc");
        out
    }

    #[test]
    fn frames_come_out_whole_however_the_bytes_arrive() {
        let bytes = two_frames();
        for step in 1..=bytes.len() {
            let mut decoder = FrameDecoder::new(64);
            let mut frames = Vec::new();
            for piece in bytes.chunks(step) {
                decoder.push(piece);
                while let Some(frame) = decoder.next_frame().unwrap() {
                    frames.push(frame);
                }
            }
            assert_eq!(frames.len(), 2);
            assert_eq!(frames[0].header.correlation, Correlation(7));
            assert_eq!(&frames[1].body[..], b"abc");
            assert_eq!(decoder.buffered(), 0);
        }
    }

    #[test]
    fn missing_tells_how_much_to_read() {
        let mut decoder = FrameDecoder::new(1 << 20);
        assert_eq!(decoder.missing(), Ok(12));
        let mut head = BytesMut::new();
        FrameHeader::new(16, 1, Correlation(1), 1000).encode(&mut head);
        decoder.push(&head);
        assert_eq!(decoder.missing(), Ok(1000));
        decoder.push(&[0; 1000]);
        assert_eq!(decoder.missing(), Ok(0));
    }

    #[test]
    fn a_claim_is_refused_from_its_four_bytes_alone() {
        let mut decoder = FrameDecoder::new(64);
        decoder.push(&65_u32.to_le_bytes());
        let error = FrameError::TooLarge { length: 65, length_max: 64 };
        assert_eq!(decoder.next_frame(), Err(error));
        let mut decoder = FrameDecoder::new(64);
        decoder.push(&7_u32.to_le_bytes());
        assert_eq!(decoder.next_frame(), Err(FrameError::TooShort { length: 7 }));
    }
}
