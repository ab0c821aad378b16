//! Received bytes of one connection, and how much room the next read gets. Pure: no socket here.
//!
//! - Nothing under way: no buffer at all; the first read then gets [`READ_SIZE_IDLE`] bytes.
//! - Small frames coming fast: chunks of [`READ_SIZE_BUSY`] bytes, many frames per read.
//! - A large frame: a buffer of exactly its size and the next header. Its payload is then never
//!   moved: it is received where the broker will read it, and the header that came along tells the
//!   size of the next buffer before a byte of the next payload is there.

use barrage_wire::{Frame, FrameDecoder, FrameError, FrameHeader};
use barrage_world::buggify;
use bytes::BytesMut;

/// Room for a read while nothing is under way, in bytes.
const READ_SIZE_IDLE: usize = 256;
/// Room for a read while small frames come in, in bytes.
const READ_SIZE_BUSY: usize = 64 * 1024;
/// A read of at least so many bytes says that more is to be expected.
const READ_SIZE_FULL: usize = 4096;
/// Frames from this size on get a buffer of their own, in bytes.
const FRAME_SIZE_LARGE: usize = 32 * 1024;
const _: () = assert!(FRAME_SIZE_LARGE <= READ_SIZE_BUSY);
const _: () = assert!(READ_SIZE_IDLE > FrameHeader::SIZE);

/// The receiving half of a connection.
pub(crate) struct Inbox {
    decoder: FrameDecoder,
    read_size: usize,
    last: Option<FrameHeader>,
}

impl Inbox {
    pub(crate) fn new(length_max: u32) -> Self {
        Self { decoder: FrameDecoder::new(length_max), read_size: READ_SIZE_IDLE, last: None }
    }

    /// Another limit, after the handshake.
    pub(crate) const fn set_length_max(&mut self, length_max: u32) {
        self.decoder.set_length_max(length_max);
    }

    /// Takes the frame at the front when it is whole.
    pub(crate) fn next_frame(&mut self) -> Result<Option<Frame>, FrameError> {
        let frame = self.decoder.next_frame()?;
        self.last = frame.as_ref().map(|frame| frame.header).or(self.last);
        if frame.as_ref().is_some_and(|frame| is_large(&frame.header)) {
            // What is left of a large frame's buffer is at most the next header. Moved out, the
            // payload's memory goes when the broker is done with it, not when the client sends on.
            let rest = self.decoder.buffer();
            if rest.len() <= FrameHeader::SIZE {
                *rest = BytesMut::from(&rest[..]);
            }
            // A large frame is likely followed by one: meet its header with a small read.
            self.read_size = READ_SIZE_IDLE;
        }
        Ok(frame)
    }

    /// The header of the frame at the front.
    pub(crate) fn header(&self) -> Result<Option<FrameHeader>, FrameError> {
        self.decoder.peek()
    }

    /// The header at the front, its length unchecked.
    pub(crate) fn front_header(&mut self) -> Option<FrameHeader> {
        FrameHeader::parse(self.decoder.buffer())
    }

    /// The header of the frame taken last.
    pub(crate) const fn last_header(&self) -> Option<FrameHeader> {
        self.last
    }

    /// Whether part of a frame is here.
    pub(crate) fn is_within_frame(&self) -> bool {
        self.decoder.buffered() > 0
    }

    /// Gives back the buffer's memory if nothing is in it: before waiting for bytes.
    pub(crate) fn release(&mut self) {
        self.decoder.release();
    }

    /// The buffer for the next read, with room for at least one byte.
    pub(crate) fn buffer(&mut self) -> Result<&mut BytesMut, FrameError> {
        let header = self.decoder.peek()?;
        let buffer = self.decoder.buffer();
        let spare = buffer.capacity() - buffer.len();
        let frame_size = header.map_or(FrameHeader::SIZE, |header| header.frame_size());
        let missing = frame_size.saturating_sub(buffer.len());
        let is_large = header.is_some_and(|header| is_large(&header));
        let enough = if is_large { missing } else { missing.max(self.read_size / 2) };
        if spare < enough {
            let size = match is_large {
                true => frame_size + FrameHeader::SIZE,
                false => self.read_size.max(frame_size + FrameHeader::SIZE),
            };
            // By hand instead of `reserve`, which would double the size: a limit is a limit.
            let mut exact = BytesMut::with_capacity(size);
            exact.extend_from_slice(buffer);
            *buffer = exact;
        }
        assert!(buffer.capacity() > buffer.len(), "a read needs room");
        Ok(buffer)
    }

    /// Takes note of a read of `count` bytes into a buffer that had room for `room`.
    pub(crate) fn received(&mut self, count: usize, room: usize) {
        let is_busy = count == room || count >= READ_SIZE_FULL;
        let in_bits = buggify("native-read-of-few-bytes", 2);
        self.read_size = if is_busy && !in_bits { READ_SIZE_BUSY } else { READ_SIZE_IDLE };
    }
}

/// Whether a frame gets a buffer of its own.
pub(crate) const fn is_large(header: &FrameHeader) -> bool {
    header.frame_size() >= FRAME_SIZE_LARGE
}

#[cfg(test)]
mod tests {
    use barrage_wire::Correlation;

    use super::*;

    /// Feeds `stream` through an inbox as a socket would that always has bytes, and returns the
    /// frames with how many payload bytes were moved.
    fn receive(stream: &[u8]) -> Vec<Frame> {
        let mut inbox = Inbox::new(16 << 20);
        let mut frames = Vec::new();
        let mut rest = stream;
        loop {
            while let Some(frame) = inbox.next_frame().unwrap() {
                frames.push(frame);
            }
            if rest.is_empty() {
                break;
            }
            let buffer = inbox.buffer().unwrap();
            let room = buffer.capacity() - buffer.len();
            let count = room.min(rest.len());
            buffer.extend_from_slice(&rest[..count]);
            assert!(buffer.capacity() <= (16 << 20) + 64);
            rest = &rest[count..];
            inbox.received(count, room);
        }
        assert!(!inbox.is_within_frame());
        frames
    }

    fn frame(correlation: u32, body: usize) -> BytesMut {
        let mut out = BytesMut::new();
        FrameHeader::new(16, 1, Correlation(correlation), body).encode(&mut out);
        out.extend((0..body).map(|at| (at % 251) as u8));
        out
    }

    #[test]
    fn frames_of_every_size_come_through_in_order() {
        let sizes = [0, 1, 243, 244, 245, 300, 4000, 32_000, 40_000, 100_000, 1 << 20, 3, 1 << 20];
        let mut stream = BytesMut::new();
        for (at, size) in sizes.into_iter().enumerate() {
            stream.extend_from_slice(&frame(at as u32, size));
        }
        let frames = receive(&stream);
        assert_eq!(frames.len(), sizes.len());
        for (at, (frame, size)) in frames.iter().zip(sizes).enumerate() {
            assert_eq!(frame.header.correlation, Correlation(at as u32));
            assert_eq!(frame.body.len(), size);
            assert!(frame.body.iter().enumerate().all(|(at, byte)| *byte == (at % 251) as u8));
        }
    }

    #[test]
    fn a_large_frame_is_received_where_it_stays() {
        let mut inbox = Inbox::new(16 << 20);
        let bytes = frame(1, 1 << 20);
        let head = inbox.buffer().unwrap();
        head.extend_from_slice(&bytes[..12]);
        let place = inbox.buffer().unwrap();
        assert_eq!(place.capacity(), bytes.len() + 12);
        place.extend_from_slice(&bytes[12..]);
        let at = place.as_ptr();
        let frame = inbox.next_frame().unwrap().unwrap();
        assert_eq!(frame.body.as_ptr(), at.wrapping_add(12));
    }

    #[test]
    fn an_idle_inbox_holds_little() {
        let mut inbox = Inbox::new(16 << 20);
        assert!(inbox.buffer().unwrap().capacity() <= READ_SIZE_IDLE);
        inbox.received(READ_SIZE_IDLE, READ_SIZE_IDLE);
        assert!(inbox.buffer().unwrap().capacity() >= READ_SIZE_BUSY);
        inbox.received(1, READ_SIZE_BUSY);
        inbox.release();
        assert_eq!(inbox.decoder.buffer().capacity(), 0);
        assert!(inbox.buffer().unwrap().capacity() <= READ_SIZE_IDLE);
    }

    #[test]
    fn a_claim_above_the_limit_reserves_nothing() {
        let mut inbox = Inbox::new(8192);
        inbox.buffer().unwrap().extend_from_slice(&u32::MAX.to_le_bytes());
        assert!(inbox.buffer().is_err());
        assert!(inbox.next_frame().is_err());
        assert!(inbox.decoder.buffer().capacity() <= READ_SIZE_IDLE);
    }
}
