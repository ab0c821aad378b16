//! What sends prepared batches for as long as somebody receives them: what a reader's way allows.
//!
//! Owns: the pieces, and sending them. Must never: look at what it sends, or wait for a request:
//! a node may do no better than a socket that is always full.
//!
//! ```text
//! piece  u32 LE length | u32 LE 0 | length bytes: whole record batches, as an answer to a fetch
//! ```

use std::io;
use std::sync::Arc;

use anyhow::{Result, ensure};
use barrage_world::net::{Listener, Stream};
use barrage_world::spawn;

use super::{HEAD_SIZE, Head};

/// What is sent, over and over, each piece in one call.
pub(crate) type Pieces = Arc<Vec<Vec<u8>>>;

/// Pieces of at most `piece_bytes` of whole batches, `total_bytes` together or a little less.
pub(crate) fn pieces(batch: &[u8], piece_bytes: usize, total_bytes: usize) -> Result<Pieces> {
    ensure!(!batch.is_empty(), "a batch has bytes");
    let batches = (piece_bytes / batch.len()).max(1);
    let length = batches * batch.len();
    let head = Head { length, group: false, correlation: 0 };
    let mut piece = Vec::with_capacity(HEAD_SIZE + length);
    piece.extend_from_slice(&head.encode());
    for _ in 0..batches {
        piece.extend_from_slice(batch);
    }
    let count = (total_bytes / piece.len()).max(1);
    // Each in memory of its own: records that are read are not in the processor's cache either.
    Ok(Arc::new(vec![piece; count]))
}

/// Serves one core's connections for ever.
pub(super) async fn serve(
    listener: Listener,
    pieces: Pieces,
    ready: impl FnOnce() -> io::Result<()>,
) -> io::Result<()> {
    super::server::never_sleep_for_long();
    ready()?;
    loop {
        let (stream, _) = listener.accept().await?;
        stream.set_nodelay(true)?;
        let pieces = Arc::clone(&pieces);
        // A reader that has seen enough closes: that is how a session ends.
        drop(spawn(async move { send(&stream, &pieces).await }));
    }
}

async fn send(stream: &Stream, pieces: &[Vec<u8>]) -> io::Result<()> {
    loop {
        for piece in pieces {
            stream.write_all(piece).await?;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_hold_whole_batches_within_their_size() {
        let check = |batch: usize, piece: usize, total: usize, count: usize, length: usize| {
            let pieces = pieces(&vec![7; batch], piece, total).unwrap();
            assert_eq!(pieces.len(), count, "{batch} {piece} {total}");
            for piece in pieces.iter() {
                assert_eq!(piece.len(), HEAD_SIZE + length);
                let head = Head::decode(piece[..HEAD_SIZE].try_into().unwrap());
                assert_eq!((head.length, head.group), (length, false));
            }
        };
        check(100, 1000, 10_080, 10, 1000);
        check(300, 1000, 1_000, 1, 900);
        // A batch is never cut, however small the piece.
        check(5_000, 1000, 1, 1, 5_000);
        assert!(pieces(&[], 1, 1).is_err());
    }
}
