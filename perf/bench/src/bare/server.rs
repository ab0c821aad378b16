//! What answers the yardstick's frames: on each core one loop, no broker.
//!
//! Owns: receiving and checking. Must never: take a pass over the bytes beyond the CRC.
//! Invariants: a batch of at least [`DIRECT_MIN`] is received where it is written from.
//!
//! ```text
//! socket -> aligned buffer -> CRC32C -> write, at once -+-> written -> fdatasync -> answers
//!           (small batches: staged, copied together)    +-> more writes meanwhile
//! ```
//!
//! Of three nodes, the one that clients talk to hands what it received to `leader` instead; the two
//! others serve it as they would serve a client.

use std::io;
use std::net::SocketAddr;
use std::path::Path;
use std::rc::Rc;
use std::time::Duration;

use barrage_model::limits::BATCH_BYTES_MAX;
use barrage_world::net::Stream;
use barrage_world::{BLOCK_SIZE, Buffer, Slice, fatal, sleep, spawn};

use super::disk::{Disk, Held, Reply};
use super::leader::Leader;
use super::{HEAD_SIZE, Head};

/// Batches from here on are received into the buffer they are written from.
const DIRECT_MIN: usize = 32 << 10;
/// Where smaller ones are received; they are copied once.
const STAGE_BYTES: usize = 128 << 10;
const _: () = assert!(DIRECT_MIN + HEAD_SIZE < STAGE_BYTES);

/// How long a wake-up that was missed may stay unseen.
const LOOK_AGAIN_EVERY: Duration = Duration::from_millis(20);

/// Where the CRC lies in a batch, and where the bytes begin that it covers.
const CRC_AT: usize = 17;
const CRC_COVERS_FROM: usize = 21;

/// Bytes to be written as they are, checked.
pub(super) struct Received {
    pub slice: Slice,
    /// Of `slice`, without the padding.
    pub length: usize,
    /// Whether they are requests, with their heads.
    pub group: bool,
    pub answers: Vec<u8>,
}

/// Where received bytes go.
#[derive(Clone)]
enum Target {
    Disk(Rc<Disk>),
    Copies(Rc<Leader>),
}

/// Received bytes that no batch was made of yet: `bytes[start..end]`.
struct Stage {
    bytes: Vec<u8>,
    start: usize,
    end: usize,
}

fn invalid(reason: String) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, reason)
}

const fn round_up(len: usize) -> usize {
    len.div_ceil(BLOCK_SIZE) * BLOCK_SIZE
}

/// Serves one core's connections for ever.
pub(super) async fn serve(
    listener: barrage_world::net::Listener,
    folder: &Path,
    others: &[SocketAddr],
    ready: impl FnOnce() -> io::Result<()>,
) -> io::Result<()> {
    let disk = Disk::prepare(folder).await?;
    let target = match others {
        [] => Target::Disk(disk),
        others => Target::Copies(Leader::connect(disk, others).await?),
    };
    never_sleep_for_long();
    ready()?;
    loop {
        let (stream, _) = listener.accept().await?;
        stream.set_nodelay(true)?;
        let target = target.clone();
        drop(spawn(async move {
            if let Err(error) = session(stream, &target).await {
                fatal(&format!("bare session: {error}"));
            }
        }));
    }
}

/// About one in three thousand wake-ups from another thread (here: of the accepting one) was seen
/// to be missed by a core that sleeps with nothing else to do; any event finds what it left. A node
/// has such events all the time, a bare server would wait for ever.
pub(super) fn never_sleep_for_long() {
    drop(spawn(async {
        loop {
            sleep(LOOK_AGAIN_EVERY).await;
        }
    }));
}

/// Receives until the client closes.
async fn session(stream: Stream, target: &Target) -> io::Result<()> {
    let mut stage = Stage { bytes: vec![0; STAGE_BYTES], start: 0, end: 0 };
    let mut large = true;
    loop {
        // After a large batch only the next head is awaited, so that the batch behind it is
        // received where it belongs; after small ones whatever there is.
        while stage.len() < HEAD_SIZE {
            let limit = if large { HEAD_SIZE } else { STAGE_BYTES };
            if stage.fill(&stream, limit).await? == 0 {
                return Ok(());
            }
        }
        let head = stage.head();
        let length = head.length;
        if !(CRC_COVERS_FROM..=BATCH_BYTES_MAX).contains(&length) {
            return Err(invalid(format!("a batch of {length} bytes")));
        }
        large = length >= DIRECT_MIN;
        while !large && stage.len() < HEAD_SIZE + length {
            if stage.fill(&stream, STAGE_BYTES).await? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
        let received = match large || head.group {
            true => receive_alone(&stream, &mut stage, head).await?,
            false => stage.take_small()?,
        };
        target.submit(received, &stream).await;
    }
}

/// Receives a batch or group straight into aligned memory, and the head behind it when it is there
/// already and there is room.
async fn receive_alone(stream: &Stream, stage: &mut Stage, head: Head) -> io::Result<Received> {
    let Head { length, group, correlation } = head;
    // A group fills its blocks to the byte, as where it comes from: its copies are the same.
    let room_behind = if group { 0 } else { HEAD_SIZE };
    let mut buffer = Buffer::new(round_up(length + room_behind));
    let limit = buffer.len().min(length + HEAD_SIZE);
    stage.start += HEAD_SIZE;
    let mut have = stage.take_into(&mut buffer, length);
    while have < length {
        let room = buffer.get_mut(have..limit).unwrap_or_default();
        let count = stream.read(room).await?;
        if count == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        have += count;
    }
    if have > length {
        stage.put(buffer.get(length..have).unwrap_or_default());
    }
    let bytes = buffer.get(..length).unwrap_or_default();
    if group {
        check_group(bytes)?
    } else {
        check_crc(bytes)?
    }
    if let Some(padding) = buffer.get_mut(length..) {
        padding.fill(0);
    }
    let answers = correlation.to_le_bytes().to_vec();
    Ok(Received { slice: buffer.freeze(), length, group, answers })
}

impl Target {
    async fn submit(&self, received: Received, stream: &Stream) {
        match self {
            Self::Disk(disk) => {
                let reply = Reply { stream: stream.clone(), answers: received.answers };
                disk.submit(received.slice, Held::Answered(reply));
            }
            Self::Copies(leader) => leader.submit(received, stream).await,
        }
    }
}

/// The first whole request: its head, its batch, and what follows.
fn split_request(bytes: &[u8]) -> Option<(Head, &[u8], &[u8])> {
    let (head, rest) = bytes.split_first_chunk::<HEAD_SIZE>()?;
    let head = Head::decode(head);
    let (batch, rest) = rest.split_at_checked(head.length)?;
    (!head.group).then_some((head, batch, rest))
}

fn check_group(bytes: &[u8]) -> io::Result<()> {
    let mut rest = bytes;
    while let Some((_, batch, behind)) = split_request(rest) {
        check_crc(batch)?;
        rest = behind;
    }
    if rest.is_empty() { Ok(()) } else { Err(invalid("a group that ends within".to_owned())) }
}

fn check_crc(batch: &[u8]) -> io::Result<()> {
    let stored = batch.get(CRC_AT..).and_then(|rest| rest.first_chunk::<4>());
    let computed = batch.get(CRC_COVERS_FROM..).map(crc32c::crc32c);
    if stored.map(|bytes| u32::from_be_bytes(*bytes)) == computed {
        return Ok(());
    }
    Err(invalid("a batch with a wrong CRC".to_owned()))
}

impl Stage {
    const fn len(&self) -> usize {
        self.end - self.start
    }

    /// The head that `len` says is there.
    fn head(&self) -> Head {
        let rest = self.bytes.get(self.start..).unwrap_or_default();
        let nothing = Head { length: 0, group: false, correlation: 0 };
        rest.first_chunk().map_or(nothing, Head::decode)
    }

    /// Receives what there is, until `limit` bytes are held.
    async fn fill(&mut self, stream: &Stream, limit: usize) -> io::Result<usize> {
        self.bytes.copy_within(self.start..self.end, 0);
        self.end -= self.start;
        self.start = 0;
        let room = self.bytes.get_mut(self.end..limit).unwrap_or_default();
        let count = stream.read(room).await?;
        self.end += count;
        Ok(count)
    }

    /// Moves at most `most` bytes to the front of `buffer`.
    fn take_into(&mut self, buffer: &mut [u8], most: usize) -> usize {
        let count = self.len().min(most);
        let taken = self.bytes.get(self.start..self.start + count).unwrap_or_default();
        if let Some(front) = buffer.get_mut(..count) {
            front.copy_from_slice(taken);
        }
        self.start += count;
        count
    }

    /// Holds these bytes and no others.
    fn put(&mut self, bytes: &[u8]) {
        assert!(self.len() == 0, "bytes that follow come when all before are taken");
        self.start = 0;
        self.end = bytes.len();
        if let Some(front) = self.bytes.get_mut(..bytes.len()) {
            front.copy_from_slice(bytes);
        }
    }

    /// Takes all whole small batches, in one piece with their heads, and their answers.
    fn take_small(&mut self) -> io::Result<Received> {
        let mut answers = Vec::new();
        let mut rest = self.bytes.get(self.start..self.end).unwrap_or_default();
        while let Some((head, batch, behind)) = split_request(rest) {
            check_crc(batch)?;
            answers.extend_from_slice(&head.correlation.to_le_bytes());
            rest = behind;
        }
        let length = self.len() - rest.len();
        let mut buffer = Buffer::new(round_up(length));
        self.take_into(&mut buffer, length);
        if let Some(padding) = buffer.get_mut(length..) {
            padding.fill(0);
        }
        Ok(Received { slice: buffer.freeze(), length, group: true, answers })
    }
}
