//! Received bytes of one connection, and how much room the next read gets. Pure.
//!
//! - Nothing under way: no buffer; the first read then gets [`READ_SIZE_IDLE`] bytes.
//! - Small frames: chunks of up to [`READ_SIZE_BUSY`] bytes. Their bodies are copied out, so that
//!   a body that is kept (entries are) holds its own bytes and not a chunk.
//! - A large frame: a buffer of its own, where the body stays.
//!
//! Must never: reserve what a header announces before it is checked.

use barrage_world::buggify;
use bytes::{Buf, Bytes, BytesMut};

use crate::frame::{FrameError, Header};

/// Room for a read while nothing is under way, in bytes.
const READ_SIZE_IDLE: usize = 512;
/// Room for a read while small frames come in, in bytes.
const READ_SIZE_BUSY: usize = 64 * 1024;
/// A read of at least so many bytes says that more is to be expected.
const READ_SIZE_FULL: usize = 4096;
/// Frames from this size on get a buffer of their own, in bytes.
const FRAME_SIZE_LARGE: usize = 32 * 1024;
const _: () = assert!(FRAME_SIZE_LARGE <= READ_SIZE_BUSY);
const _: () = assert!(READ_SIZE_IDLE > Header::SIZE);

/// A whole frame.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Frame {
    /// Its header.
    pub header: Header,
    /// What follows it.
    pub body: Bytes,
}

/// The receiving half of a connection: cuts the byte stream into frames.
#[derive(Debug)]
pub struct Inbox {
    buffer: BytesMut,
    /// The header at the front, once it was checked.
    front: Option<Header>,
    read_size: usize,
    body_size_max: u32,
}

impl Inbox {
    /// For bodies of at most `body_size_max` bytes.
    #[must_use]
    pub fn new(body_size_max: u32) -> Self {
        let buffer = BytesMut::new();
        Self { buffer, front: None, read_size: READ_SIZE_IDLE, body_size_max }
    }

    /// The header of the frame at the front, when it is there.
    ///
    /// # Errors
    /// When the stream cannot be read on.
    pub fn header(&mut self) -> Result<Option<Header>, FrameError> {
        if self.front.is_none() {
            self.front = Header::decode(&self.buffer, self.body_size_max)?;
        }
        Ok(self.front)
    }

    /// Takes the frame at the front when it is whole.
    ///
    /// # Errors
    /// When the stream cannot be read on.
    pub fn next_frame(&mut self) -> Result<Option<Frame>, FrameError> {
        let Some(header) = self.header()? else { return Ok(None) };
        if self.buffer.len() < header.frame_size() {
            return Ok(None);
        }
        self.front = None;
        if !is_large(&header) {
            let frame = self.buffer.get(Header::SIZE..header.frame_size()).unwrap_or_default();
            let body = Bytes::copy_from_slice(frame);
            self.buffer.advance(header.frame_size());
            return Ok(Some(Frame { header, body }));
        }
        let mut body = self.buffer.split_to(header.frame_size());
        body.advance(Header::SIZE);
        // What is left of a large frame's buffer is at most a header or so. Moved out, the body's
        // memory goes with the body.
        self.buffer = BytesMut::from(&self.buffer[..]);
        // A large frame is likely followed by one: meet its header with a small read.
        self.read_size = READ_SIZE_IDLE;
        Ok(Some(Frame { header, body: body.freeze() }))
    }

    /// Whether part of a frame is here.
    #[must_use]
    pub fn is_within_frame(&self) -> bool {
        !self.buffer.is_empty()
    }

    /// Gives the buffer back if nothing is in it: before waiting for bytes.
    pub fn release(&mut self) {
        if self.buffer.is_empty() {
            self.buffer = BytesMut::new();
        }
    }

    /// The buffer for the next read, with room for at least one byte.
    ///
    /// # Errors
    /// When the stream cannot be read on.
    pub fn buffer(&mut self) -> Result<&mut BytesMut, FrameError> {
        let header = self.header()?;
        let frame_size = header.map_or(Header::SIZE, |header| header.frame_size());
        let missing = frame_size.saturating_sub(self.buffer.len());
        let is_large = header.is_some_and(|header| is_large(&header));
        let enough = if is_large { missing } else { missing.max(self.read_size / 2) };
        let spare = self.buffer.capacity() - self.buffer.len();
        // The room of frames that were taken is used again where that needs no memory.
        if spare < enough && !self.buffer.try_reclaim(enough) {
            let size = match is_large {
                true => frame_size + Header::SIZE,
                false => self.read_size.max(frame_size + Header::SIZE),
            };
            // By hand instead of `reserve`, which would double the size: a limit is a limit.
            let mut exact = BytesMut::with_capacity(size);
            exact.extend_from_slice(&self.buffer);
            self.buffer = exact;
        }
        assert!(self.buffer.capacity() > self.buffer.len(), "a read needs room");
        Ok(&mut self.buffer)
    }

    /// Takes note of a read of `count` bytes into a buffer that had room for `room`.
    pub fn received(&mut self, count: usize, room: usize) {
        let is_busy = count == room || count >= READ_SIZE_FULL;
        let in_bits = buggify("peer-read-of-few-bytes", 2);
        self.read_size = if is_busy && !in_bits { READ_SIZE_BUSY } else { READ_SIZE_IDLE };
    }
}

/// Whether a frame gets a buffer of its own.
pub(crate) const fn is_large(header: &Header) -> bool {
    header.frame_size() >= FRAME_SIZE_LARGE
}

#[cfg(test)]
mod tests {
    use barrage_model::NodeId;

    use super::*;
    use crate::frame::Kind;
    use crate::identity::{ClusterId, Identity};

    const MAX: u32 = 4 << 20;

    fn frame(number: u64, size: usize) -> Vec<u8> {
        let sender = Identity { cluster: ClusterId(1), node: NodeId(2) };
        let header = Header::new(Kind::Request, sender, NodeId(3), number);
        let header = Header { body_size: size as u32, ..header };
        let body = (0..size).map(|at| (at % 251) as u8);
        header.encode().into_iter().chain(body).collect()
    }

    /// Feeds `stream` as a socket would that gives at most `step` bytes at once.
    fn receive(stream: &[u8], step: usize) -> Result<Vec<Frame>, FrameError> {
        let (mut inbox, mut frames, mut rest) = (Inbox::new(MAX), Vec::new(), stream);
        loop {
            while let Some(frame) = inbox.next_frame()? {
                frames.push(frame);
            }
            if rest.is_empty() {
                return Ok(frames);
            }
            if !inbox.is_within_frame() {
                inbox.release();
            }
            let buffer = inbox.buffer()?;
            let room = buffer.capacity() - buffer.len();
            let (part, behind) = rest.split_at(room.min(rest.len()).min(step));
            buffer.extend_from_slice(part);
            assert!(buffer.capacity() <= MAX as usize + 2 * Header::SIZE);
            inbox.received(part.len(), room);
            rest = behind;
        }
    }

    #[test]
    fn frames_come_out_whole_however_the_bytes_arrive() {
        let sizes = [0, 1, 448, 449, 4000, 32_000, 32_704, 40_000, 3, 1 << 20, 1 << 20, 0];
        let stream: Vec<u8> = (0..).zip(sizes).flat_map(|(n, size)| frame(n, size)).collect();
        for step in [1, 7, 63, 64, 65, 5000, usize::MAX] {
            let frames = receive(&stream, step).unwrap();
            assert_eq!(frames.len(), sizes.len());
            for ((number, size), frame) in (0..).zip(sizes).zip(frames) {
                assert_eq!((frame.header.number, frame.body.len()), (number, size));
                assert!(frame.body.iter().enumerate().all(|(at, byte)| *byte == (at % 251) as u8));
            }
        }
    }

    #[test]
    fn a_cut_stream_gives_what_is_whole_of_it() {
        let stream = [frame(0, 10), frame(1, 100)].concat();
        for size in 0..stream.len() {
            let count = receive(&stream[..size], usize::MAX).unwrap().len();
            assert_eq!(count, usize::from(size >= Header::SIZE + 10), "{size} bytes");
        }
    }

    #[test]
    fn a_large_body_is_received_where_it_stays() {
        let (mut inbox, bytes) = (Inbox::new(MAX), frame(1, 1 << 20));
        inbox.buffer().unwrap().extend_from_slice(&bytes[..Header::SIZE]);
        let place = inbox.buffer().unwrap();
        assert_eq!(place.capacity(), bytes.len() + Header::SIZE);
        place.extend_from_slice(&bytes[Header::SIZE..]);
        let at = place.as_ptr();
        let frame = inbox.next_frame().unwrap().unwrap();
        assert_eq!(frame.body.as_ptr(), at.wrapping_add(Header::SIZE));
    }

    #[test]
    fn a_claim_above_the_limit_reserves_nothing() {
        let mut inbox = Inbox::new(100);
        inbox.buffer().unwrap().extend_from_slice(&frame(1, 101)[..Header::SIZE]);
        assert_eq!(inbox.buffer(), Err(FrameError::TooLarge { size: 101, size_max: 100 }));
        assert_eq!(inbox.next_frame(), Err(FrameError::TooLarge { size: 101, size_max: 100 }));
        assert!(inbox.buffer.capacity() <= READ_SIZE_IDLE);
    }

    #[test]
    fn an_idle_inbox_holds_nothing() {
        let mut inbox = Inbox::new(MAX);
        inbox.buffer().unwrap().extend_from_slice(&frame(1, 3));
        inbox.received(READ_SIZE_IDLE, READ_SIZE_IDLE);
        assert!(inbox.next_frame().unwrap().is_some());
        assert!(inbox.buffer().unwrap().capacity() >= READ_SIZE_BUSY);
        inbox.release();
        assert_eq!(inbox.buffer.capacity(), 0);
    }
}
