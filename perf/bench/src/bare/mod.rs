//! The yardstick: receive, CRC32C, direct write, fdatasync, answer; nothing else.
//!
//! Owns: its two frames, told here, and the process that answers them (`server`).
//! Must never: do less than a durable broker must (it checks, writes and syncs), or more.
//!
//! ```text
//! request  u32 LE length | u32 LE correlation | length bytes: a record batch v2
//! answer   u32 LE correlation, after the batch is on disk
//! ```

mod disk;
mod segments;
mod server;

use std::fs;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use anyhow::{Context as _, Result};
use barrage_world::fatal;
use barrage_world::net::Listener;
use barrage_world::node::{self, CoreContext, CoreSet, NodeOptions};
use bytes::{BufMut as _, BytesMut};

use crate::affinity::CoreList;

/// Bytes before a batch.
pub(crate) const HEAD_SIZE: usize = 8;
/// Bytes of an answer.
pub(crate) const ANSWER_SIZE: usize = 4;

/// Appends the head of a request.
pub(crate) fn encode_head(correlation: u32, length: usize, out: &mut BytesMut) -> Result<()> {
    out.put_u32_le(u32::try_from(length).context("a batch is too long")?);
    out.put_u32_le(correlation);
    Ok(())
}

/// Reads the head of a request: length and correlation.
fn decode_head(head: &[u8; HEAD_SIZE]) -> (usize, u32) {
    let [a, b, c, d, e, f, g, h] = *head;
    (u32::from_le_bytes([a, b, c, d]) as usize, u32::from_le_bytes([e, f, g, h]))
}

/// Serves until killed, on each core for itself, and writes its address into `ready_file` when all
/// cores are ready.
pub(crate) fn serve(cores: &CoreList, data: &Path, ready_file: &Path) -> Result<()> {
    let cores = CoreSet::parse(&cores.flag())?;
    let listener = Listener::bind_exclusive(([127, 0, 0, 1], 0).into())?;
    let (data, ready_file) = (data.to_path_buf(), ready_file.to_path_buf());
    let unready = Arc::new(AtomicUsize::new(cores.count()));
    let body = move |core: CoreContext| {
        let (listener, unready, ready_file) =
            (listener.clone(), Arc::clone(&unready), ready_file.clone());
        let data = data.join(format!("core-{}", core.index));
        async move {
            let address = listener.local_addr();
            let ready = || match unready.fetch_sub(1, Ordering::Relaxed) {
                1 => write_ready(&ready_file, &address.to_string()),
                _ => Ok(()),
            };
            let served = match listener.on_core() {
                Ok(listener) => server::serve(listener, &data, ready).await,
                Err(error) => Err(error),
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
        assert_eq!(decode_head(out[..].try_into().unwrap()), (0x0102_0304, 7));
    }
}
