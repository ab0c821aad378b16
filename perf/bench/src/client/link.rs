//! A connection that never blocks: what goes out, in order, and what has come.
//!
//! Owns: both queues and their bounds. Must never: copy a large batch (it is moved in and given
//! back when it is out), or let what waits grow beyond [`OUT_BYTES_MAX`].
//! Invariants: what was pushed first goes out first; `[start, end)` of the buffer is what has come
//! and was not taken.

use std::collections::VecDeque;
use std::io::{ErrorKind, IoSlice, Read as _, Write as _};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use barrage_model::limits::FRAME_BYTES_MAX;
use barrage_wire::FrameHeader;
use bytes::BytesMut;
use mio::net::TcpStream;

/// One connection.
#[derive(Debug)]
pub(crate) struct Link {
    pub stream: TcpStream,
    /// There may be something to read, or room to write: until the system says otherwise.
    pub readable: bool,
    pub writable: bool,
    out: VecDeque<Piece>,
    /// Bytes of the first piece that are out.
    written: usize,
    out_bytes: usize,
    buffer: Vec<u8>,
    start: usize,
    end: usize,
    heard: Instant,
}

#[derive(Debug)]
enum Piece {
    Bytes(BytesMut),
    Batch(Vec<u8>),
}

/// Beyond, nothing more is pushed; sending is late and counts as such.
const OUT_BYTES_MAX: usize = 16 << 20;
/// Batches below this are copied beside others, so that many go out at once.
const GATHER_MAX: usize = 16 << 10;
/// Small batches that are written together.
const GATHER_BYTES: usize = 128 << 10;
const BUFFER_BYTES: usize = 64 << 10;
/// Pieces of one write.
const SLICES: usize = 8;
/// Reads of one turn, so that others have theirs.
const READS_MAX: usize = 8;
/// A server that should answer and says nothing for so long is taken for dead.
const SILENCE_MAX: Duration = Duration::from_secs(30);

impl Link {
    /// Takes a connection after its handshake.
    pub(crate) fn new(stream: std::net::TcpStream) -> Result<Self> {
        stream.set_nodelay(true)?;
        stream.set_nonblocking(true)?;
        Ok(Self {
            stream: TcpStream::from_std(stream),
            readable: true,
            writable: true,
            out: VecDeque::new(),
            written: 0,
            out_bytes: 0,
            buffer: vec![0; BUFFER_BYTES],
            start: 0,
            end: 0,
            heard: Instant::now(),
        })
    }

    /// Whether more may be pushed.
    pub(crate) const fn has_room(&self) -> bool {
        self.out_bytes < OUT_BYTES_MAX
    }

    /// Whether so little waits that more may be gathered beside it.
    pub(crate) const fn gathers(&self) -> bool {
        self.out_bytes < GATHER_BYTES
    }

    /// Whether all that was pushed is out.
    pub(crate) fn is_out(&self) -> bool {
        self.out.is_empty()
    }

    /// Something that is encoded to the end of a buffer goes out.
    pub(crate) fn push(&mut self, encode: impl FnOnce(&mut BytesMut)) {
        let fits = |piece: &Piece| matches!(piece, Piece::Bytes(bytes) if bytes.len() < GATHER_MAX);
        if !self.out.back().is_some_and(fits) {
            self.out.push_back(Piece::Bytes(BytesMut::with_capacity(GATHER_MAX)));
        }
        if let Some(Piece::Bytes(bytes)) = self.out.back_mut() {
            let before = bytes.len();
            encode(bytes);
            self.out_bytes += bytes.len() - before;
        }
    }

    /// A batch goes out; a small one is copied and given back at once.
    pub(crate) fn push_batch(&mut self, batch: Vec<u8>) -> Option<Vec<u8>> {
        if batch.len() < GATHER_MAX {
            self.push(|out| out.extend_from_slice(&batch));
            return Some(batch);
        }
        self.out_bytes += batch.len();
        self.out.push_back(Piece::Batch(batch));
        None
    }

    /// Writes what the system takes; batches that are out go to `done`.
    pub(crate) fn flush(&mut self, done: &mut Vec<Vec<u8>>) -> Result<()> {
        while self.writable && !self.out.is_empty() {
            let mut slices = [IoSlice::new(&[]); SLICES];
            let mut skip = self.written;
            for (slice, piece) in slices.iter_mut().zip(&self.out) {
                *slice = IoSlice::new(piece.bytes().get(skip..).unwrap_or_default());
                skip = 0;
            }
            match self.stream.write_vectored(&slices) {
                Ok(0) => bail!("the server closed the connection"),
                Ok(count) => self.advance(count, done),
                Err(error) if error.kind() == ErrorKind::WouldBlock => self.writable = false,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error).context("cannot send"),
            }
        }
        Ok(())
    }

    fn advance(&mut self, count: usize, done: &mut Vec<Vec<u8>>) {
        self.out_bytes -= count;
        self.written += count;
        while let Some(first) = self.out.front() {
            let size = first.bytes().len();
            if self.written < size {
                break;
            }
            self.written -= size;
            if let Some(Piece::Batch(batch)) = self.out.pop_front() {
                done.push(batch);
            }
        }
    }

    /// Reads what has come, some of it at a time; when that was, if there was any.
    pub(crate) fn fill(&mut self) -> Result<Option<Instant>> {
        let mut came = None;
        for _ in 0..READS_MAX {
            self.make_room()?;
            let room = self.buffer.get_mut(self.end..).unwrap_or_default();
            match self.stream.read(room) {
                Ok(0) => bail!("the server closed the connection"),
                Ok(count) => {
                    self.end += count;
                    let now = Instant::now();
                    self.heard = now;
                    came = Some(now);
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    self.readable = false;
                    break;
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error).context("cannot receive"),
            }
        }
        Ok(came)
    }

    /// Room for the rest of the frame that has begun, or for a next one.
    fn make_room(&mut self) -> Result<()> {
        let come = self.buffer.get(self.start..self.end).unwrap_or_default();
        let needed = match FrameHeader::parse(come) {
            Some(header) => {
                ensure!(header.frame_size() >= FrameHeader::SIZE, "a malformed answer");
                ensure!(header.body_size() <= FRAME_BYTES_MAX, "an oversized answer");
                header.frame_size().max(BUFFER_BYTES)
            }
            None => BUFFER_BYTES,
        };
        if self.start > 0 && self.buffer.len() - self.start < needed {
            self.buffer.copy_within(self.start..self.end, 0);
            (self.start, self.end) = (0, self.end - self.start);
        }
        if self.buffer.len() < needed {
            self.buffer.resize(needed, 0);
        }
        if self.end == self.buffer.len() {
            // Whole frames that nobody has taken yet.
            self.buffer.resize(self.end + BUFFER_BYTES, 0);
        }
        Ok(())
    }

    /// The next whole frame: its header and body. It stays until [`Self::pass`].
    pub(crate) fn frame(&self) -> Option<(FrameHeader, &[u8])> {
        let come = self.buffer.get(self.start..self.end)?;
        let header = FrameHeader::parse(come)?;
        let frame = come.get(..header.frame_size())?;
        Some((header, frame.get(FrameHeader::SIZE..)?))
    }

    /// Goes past the frame that was looked at.
    pub(crate) fn pass(&mut self) {
        let size = self.frame().map_or(0, |(header, _)| header.frame_size());
        self.start += size;
        if self.start == self.end {
            (self.start, self.end) = (0, 0);
        }
    }

    /// Fails if nothing has come for too long where something should.
    pub(crate) fn check_heard(&self, now: Instant, since: Instant) -> Result<()> {
        let silence = now.saturating_duration_since(self.heard.max(since));
        ensure!(silence < SILENCE_MAX, "no answer within {SILENCE_MAX:?}");
        Ok(())
    }
}

impl Piece {
    fn bytes(&self) -> &[u8] {
        match self {
            Self::Bytes(bytes) => bytes,
            Self::Batch(batch) => batch,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, TcpStream};

    use barrage_wire::{Correlation, Response};

    use super::*;

    fn pair() -> (Link, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let stream = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        (Link::new(stream).unwrap(), listener.accept().unwrap().0)
    }

    #[test]
    fn what_is_pushed_goes_out_in_order_and_batches_come_back() {
        let (mut link, mut peer) = pair();
        let large = vec![7; 3 << 20];
        let mut done = Vec::new();
        let mut expected = Vec::new();
        for number in 0_u8..10 {
            link.push(|out| out.extend_from_slice(&[number; 5]));
            expected.extend([number; 5]);
            let small = vec![number; 100];
            assert_eq!(link.push_batch(small.clone()), Some(small), "copied");
            expected.extend([number; 100]);
            assert_eq!(link.push_batch(large.clone()), None, "moved");
            expected.extend(&large);
        }
        assert!(!link.has_room(), "30 MiB wait");
        let reader = std::thread::spawn(move || {
            let mut received = vec![0; expected.len()];
            peer.read_exact(&mut received).unwrap();
            received == expected
        });
        while !link.is_out() {
            link.writable = true;
            link.flush(&mut done).unwrap();
        }
        assert!(reader.join().unwrap());
        assert_eq!(done.len(), 10);
        assert!(done.iter().all(|batch| *batch == large) && link.has_room());
    }

    #[test]
    fn frames_are_taken_whole_whatever_their_size() {
        let (mut link, mut peer) = pair();
        let batches = vec![1; 1 << 20];
        let frame = |number: u32| {
            let mut out = BytesMut::new();
            let reply = match number % 3 {
                0 => Response::Ping,
                _ => Response::Fetch(barrage_wire::FetchReply {
                    high_watermark: barrage_model::Offset(u64::from(number)),
                    start_offset: barrage_model::Offset(0),
                    batches: batches.get(..number as usize * 20_000).unwrap(),
                }),
            };
            reply.encode(Correlation(number), &mut out);
            out
        };
        let sent: Vec<BytesMut> = (0..50).map(frame).collect();
        let sizes: Vec<usize> = sent.iter().map(|frame| frame.len()).collect();
        let writer = std::thread::spawn(move || {
            for frame in sent {
                peer.write_all(&frame).unwrap();
            }
            peer
        });
        let mut next = 0;
        while next < 50 {
            link.fill().unwrap();
            while let Some((header, body)) = link.frame() {
                assert_eq!(header.correlation, Correlation(next));
                assert_eq!(body.len() + FrameHeader::SIZE, sizes[next as usize]);
                Response::decode(&header, body).unwrap();
                link.pass();
                next += 1;
            }
        }
        drop(writer.join().unwrap());
        let closed = loop {
            match link.fill() {
                Ok(_) => {}
                Err(error) => break error.to_string(),
            }
        };
        assert!(closed.contains("closed"), "{closed}");
    }

    #[test]
    fn silence_is_noticed_where_an_answer_is_due() {
        let (link, _peer) = pair();
        let now = Instant::now();
        assert!(link.check_heard(now, now).is_ok());
        let late = now + SILENCE_MAX * 2;
        assert!(link.check_heard(late, now).is_err());
        assert!(link.check_heard(late, late).is_ok(), "it was asked just now");
    }
}
