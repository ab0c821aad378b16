//! The yardstick: receive, CRC32C, direct write, fdatasync, answer; nothing else. With three nodes
//! one of them also forwards what it receives, and answers when two have it (`leader`). For
//! readers: sending what is prepared (`sender`), and reading a log's files (`scan`).
//!
//! Owns: its frames, told here, and the processes that answer them (`server`, `sender`).
//! Must never: do less than a durable broker must (it checks, writes and syncs), or more.
//!
//! ```text
//! request  u32 LE length | u32 LE correlation | length bytes: a record batch v2
//! group    the same with the length's highest bit set: the bytes are requests themselves, which
//!          are written as they are and answered together; only nodes send it to one another
//! answer   u32 LE correlation, after the bytes are on disk
//! ```

mod disk;
mod leader;
mod ledger;
pub(crate) mod scan;
mod segments;
pub(crate) mod sender;
mod server;

use std::fs;
use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use anyhow::{Result, ensure};
use barrage_model::limits::BATCH_BYTES_MAX;
use barrage_world::fatal;
use barrage_world::net::Listener;
use barrage_world::node::{self, CoreContext, CoreSet, NodeOptions};
use bytes::{BufMut as _, BytesMut};

use crate::affinity::CoreList;

/// Bytes before a batch.
pub(crate) const HEAD_SIZE: usize = 8;
/// Bytes of an answer.
pub(crate) const ANSWER_SIZE: usize = 4;

/// Set in a length that is a group's.
const GROUP_BIT: u32 = 1 << 31;
const _: () = assert!(BATCH_BYTES_MAX < GROUP_BIT as usize);

/// What goes before the bytes of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Head {
    length: usize,
    group: bool,
    correlation: u32,
}

/// How a bare server serves.
#[derive(Debug)]
pub(crate) struct Serving<'a> {
    pub cores: &'a CoreList,
    /// Receives the address, when all cores are ready.
    pub ready_file: &'a Path,
    pub role: Role,
}

/// What a bare server does with a connection.
#[derive(Clone, Debug)]
pub(crate) enum Role {
    /// Writes what comes to files in this folder. The bare servers everything is forwarded to:
    /// none, or two.
    Store { data: PathBuf, others: Vec<SocketAddr> },
    /// Sends these, whatever comes.
    Send(sender::Pieces),
}

/// Appends the head of a request.
pub(crate) fn encode_head(correlation: u32, length: usize, out: &mut BytesMut) -> Result<()> {
    ensure!(length < GROUP_BIT as usize, "a batch is too long");
    out.put_slice(&Head { length, group: false, correlation }.encode());
    Ok(())
}

/// The length that a head tells.
pub(crate) fn length_of(head: &[u8; HEAD_SIZE]) -> usize {
    Head::decode(head).length
}

impl Head {
    fn encode(self) -> [u8; HEAD_SIZE] {
        assert!(self.length < GROUP_BIT as usize, "a length leaves its highest bit free");
        // Below 2^31, asserted above.
        let length = self.length as u32 | if self.group { GROUP_BIT } else { 0 };
        let ([a, b, c, d], [e, f, g, h]) = (length.to_le_bytes(), self.correlation.to_le_bytes());
        [a, b, c, d, e, f, g, h]
    }

    fn decode(head: &[u8; HEAD_SIZE]) -> Self {
        let [a, b, c, d, e, f, g, h] = *head;
        let length = u32::from_le_bytes([a, b, c, d]);
        Self {
            length: (length & !GROUP_BIT) as usize,
            group: length & GROUP_BIT != 0,
            correlation: u32::from_le_bytes([e, f, g, h]),
        }
    }
}

/// Serves until killed, on each core for itself.
pub(crate) fn serve(serving: Serving<'_>) -> Result<()> {
    let cores = CoreSet::parse(&serving.cores.flag())?;
    let listener = Listener::bind_exclusive(([127, 0, 0, 1], 0).into())?;
    let (ready_file, role) = (serving.ready_file.to_path_buf(), serving.role);
    let unready = Arc::new(AtomicUsize::new(cores.count()));
    let body = move |core: CoreContext| {
        let (listener, unready) = (listener.clone(), Arc::clone(&unready));
        let (ready_file, role) = (ready_file.clone(), role.clone());
        async move {
            let address = listener.local_addr();
            let ready = || match unready.fetch_sub(1, Ordering::Relaxed) {
                1 => write_ready(&ready_file, &address.to_string()),
                _ => Ok(()),
            };
            let served = match (listener.on_core(), role) {
                (Ok(listener), Role::Store { data, others }) => {
                    let data = data.join(format!("core-{}", core.index));
                    server::serve(listener, &data, &others, ready).await
                }
                (Ok(listener), Role::Send(pieces)) => sender::serve(listener, pieces, ready).await,
                (Err(error), _) => Err(error),
            };
            if let Err(error) = served {
                fatal(&format!("bare server: {error}"));
            }
        }
    };
    node::start(&cores, NodeOptions::default(), body)?.join()?;
    Ok(())
}

/// Whole or not at all: the reader polls.
fn write_ready(path: &Path, address: &str) -> io::Result<()> {
    let unfinished = path.with_extension("part");
    fs::write(&unfinished, format!("{{\"listen\":\"{address}\"}}\n"))?;
    fs::rename(&unfinished, path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn heads_are_read_as_written() {
        let mut out = BytesMut::new();
        encode_head(7, 0x0102_0304, &mut out).unwrap();
        assert_eq!(&out[..], [4, 3, 2, 1, 7, 0, 0, 0]);
        let head = Head { length: 0x0102_0304, group: false, correlation: 7 };
        assert_eq!(Head::decode(out[..].try_into().unwrap()), head);
        let head = Head { group: true, ..head };
        assert_eq!(head.encode(), [4, 3, 2, 0x81, 7, 0, 0, 0]);
        assert_eq!(Head::decode(&head.encode()), head);
    }
}
