//! What answers the yardstick's frames: on each core one loop, no broker.
//!
//! Owns: receiving and checking. Must never: take a pass over the bytes beyond the CRC.
//! Invariants: a batch of at least [`DIRECT_MIN`] is received where it is written from.
//!
//! ```text
//! socket -> aligned buffer -> CRC32C -> write, at once -+-> written -> fdatasync -> answers
//!           (small batches: staged, copied together)    +-> more writes meanwhile
//! ```

use std::io;
use std::path::Path;
use std::rc::Rc;
use std::time::Duration;

use barrage_model::limits::BATCH_BYTES_MAX;
use barrage_world::net::Stream;
use barrage_world::{BLOCK_SIZE, Buffer, fatal, sleep, spawn};

use super::disk::{Disk, Reply};
use super::{HEAD_SIZE, decode_head};

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
    ready: impl FnOnce() -> io::Result<()>,
) -> io::Result<()> {
    let disk = Disk::prepare(folder).await?;
    // About one in three thousand wake-ups from another thread (here: of the accepting one) was
    // seen to be missed by a core that sleeps with nothing else to do; any event finds what it
    // left. A node has such events all the time, this server would wait for ever.
    drop(spawn(async {
        loop {
            sleep(LOOK_AGAIN_EVERY).await;
        }
    }));
    ready()?;
    loop {
        let (stream, _) = listener.accept().await?;
        stream.set_nodelay(true)?;
        let disk = Rc::clone(&disk);
        drop(spawn(async move {
            if let Err(error) = session(stream, &disk).await {
                fatal(&format!("bare session: {error}"));
            }
        }));
    }
}

/// Receives until the client closes.
async fn session(stream: Stream, disk: &Rc<Disk>) -> io::Result<()> {
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
        let (length, correlation) = stage.head();
        if !(CRC_COVERS_FROM..=BATCH_BYTES_MAX).contains(&length) {
            return Err(invalid(format!("a batch of {length} bytes")));
        }
        large = length >= DIRECT_MIN;
        if large {
            let buffer = receive_large(&stream, &mut stage, length).await?;
            let answers = correlation.to_le_bytes().to_vec();
            disk.submit(buffer.freeze(), Reply { stream: stream.clone(), answers });
        } else {
            while stage.len() < HEAD_SIZE + length {
                if stage.fill(&stream, STAGE_BYTES).await? == 0 {
                    return Err(io::ErrorKind::UnexpectedEof.into());
                }
            }
            let (buffer, answers) = stage.take_small()?;
            disk.submit(buffer.freeze(), Reply { stream: stream.clone(), answers });
        }
    }
}

/// Receives a batch straight into aligned memory, and the head behind it when it is there already.
async fn receive_large(stream: &Stream, stage: &mut Stage, length: usize) -> io::Result<Buffer> {
    let mut buffer = Buffer::new(round_up(length + HEAD_SIZE));
    stage.start += HEAD_SIZE;
    let mut have = stage.take_into(&mut buffer, length);
    while have < length {
        let room = buffer.get_mut(have..length + HEAD_SIZE).unwrap_or_default();
        let count = stream.read(room).await?;
        if count == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        have += count;
    }
    if have > length {
        stage.put(buffer.get(length..have).unwrap_or_default());
    }
    check_crc(buffer.get(..length).unwrap_or_default())?;
    if let Some(padding) = buffer.get_mut(length..) {
        padding.fill(0);
    }
    Ok(buffer)
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
    fn head(&self) -> (usize, u32) {
        let rest = self.bytes.get(self.start..).unwrap_or_default();
        rest.first_chunk().map_or((0, 0), decode_head)
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
    fn take_small(&mut self) -> io::Result<(Buffer, Vec<u8>)> {
        let mut answers = Vec::new();
        let mut end = self.start;
        loop {
            let rest = self.bytes.get(end..self.end).unwrap_or_default();
            let Some((head, rest)) = rest.split_first_chunk::<HEAD_SIZE>() else { break };
            let (length, correlation) = decode_head(head);
            let Some(batch) = rest.get(..length) else { break };
            check_crc(batch)?;
            answers.extend_from_slice(&correlation.to_le_bytes());
            end += HEAD_SIZE + length;
        }
        let length = end - self.start;
        let mut buffer = Buffer::new(round_up(length));
        self.take_into(&mut buffer, length);
        if let Some(padding) = buffer.get_mut(length..) {
            padding.fill(0);
        }
        Ok((buffer, answers))
    }
}
