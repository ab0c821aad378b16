//! Frames that leave together. Pure.
//!
//! Headers and small bodies are copied into one run of bytes; larger bodies are written from
//! where they are.
//!
//! ```text
//!   | header body header body header | large body | header | large body | ...
//!     one piece                        refcounted    one piece
//! ```
//! Must never: copy a large body, reorder frames.

use std::io::IoSlice;

use barrage_raft::Pieces;
use barrage_world::buggify;
use bytes::{Bytes, BytesMut};

use crate::frame::Header;

/// Bodies up to so many bytes are copied: a slice more costs the kernel about as much.
const BODY_BYTES_COPIED_MAX: usize = 1024;
/// Bytes of one write at most: how finely it shows whether a connection moves.
const WRITE_BYTES_MAX: usize = 256 * 1024;
/// As [`WRITE_BYTES_MAX`], in the mood for little.
const WRITE_BYTES_FEW: usize = 700;
/// A batch takes no further frame beyond so many bytes.
const BATCH_BYTES_MAX: usize = 1024 * 1024;
/// A batch takes no further frame beyond so many pieces: a write's slices fit one system call.
const BATCH_PIECES_MAX: usize = 254;

enum Piece {
    Copied(BytesMut),
    Body(Bytes),
}

impl AsRef<[u8]> for Piece {
    fn as_ref(&self) -> &[u8] {
        match self {
            Self::Copied(bytes) => bytes,
            Self::Body(bytes) => bytes,
        }
    }
}

/// Frames in order.
#[derive(Default)]
pub(crate) struct Batch {
    pieces: Vec<Piece>,
    size: usize,
}

impl Batch {
    pub(crate) fn is_empty(&self) -> bool {
        self.pieces.is_empty()
    }

    /// Whether nothing more should be added.
    pub(crate) fn is_full(&self) -> bool {
        self.size >= BATCH_BYTES_MAX || self.pieces.len() >= BATCH_PIECES_MAX
    }

    pub(crate) fn push(&mut self, header: &Header, body: Pieces) {
        assert_eq!(header.body_size as usize, body.len(), "the header tells the size of the body");
        self.size += header.frame_size();
        self.copy(&header.encode());
        for piece in body.into_vec() {
            if piece.len() <= BODY_BYTES_COPIED_MAX {
                self.copy(&piece);
            } else {
                self.pieces.push(Piece::Body(piece));
            }
        }
    }

    fn copy(&mut self, bytes: &[u8]) {
        if let Some(Piece::Copied(last)) = self.pieces.last_mut() {
            last.extend_from_slice(bytes);
        } else {
            self.pieces.push(Piece::Copied(BytesMut::from(bytes)));
        }
    }

    /// What each write shall carry.
    pub(crate) fn writes(&self) -> Vec<Vec<IoSlice<'_>>> {
        let few = buggify("peer-write-of-few-bytes", 2);
        let most = if few { WRITE_BYTES_FEW } else { WRITE_BYTES_MAX };
        let mut writes = Vec::new();
        let mut write = Vec::new();
        let mut room = most;
        for piece in &self.pieces {
            let mut rest = piece.as_ref();
            while let Some((part, behind)) = rest.split_at_checked(room.min(rest.len()))
                && !part.is_empty()
            {
                write.push(IoSlice::new(part));
                room -= part.len();
                rest = behind;
                if room == 0 {
                    writes.push(std::mem::take(&mut write));
                    room = most;
                }
            }
        }
        if !write.is_empty() {
            writes.push(write);
        }
        writes
    }
}

#[cfg(test)]
mod tests {
    use barrage_model::NodeId;

    use super::*;
    use crate::frame::Kind;
    use crate::identity::{ClusterId, Identity};

    fn header(number: u64, body: &Bytes) -> Header {
        let sender = Identity { cluster: ClusterId(1), node: NodeId(2) };
        let body_size = body.len() as u32;
        Header { body_size, ..Header::new(Kind::Answer, sender, NodeId(3), number) }
    }

    fn batch(sizes: &[usize]) -> (Batch, Vec<u8>) {
        let (mut batch, mut expected) = (Batch::default(), Vec::new());
        for (number, size) in sizes.iter().enumerate() {
            let body = Bytes::from(vec![number as u8; *size]);
            let header = header(number as u64, &body);
            expected.extend_from_slice(&header.encode());
            expected.extend_from_slice(&body);
            batch.push(&header, body.into());
        }
        (batch, expected)
    }

    #[test]
    fn frames_leave_whole_and_in_order() {
        let sizes = [0, 5, 1024, 1025, 0, 3, 300_000, 70_000, 1, 600_000];
        let (batch, expected) = batch(&sizes);
        let writes = batch.writes();
        let size = |write: &Vec<IoSlice<'_>>| write.iter().map(|slice| slice.len()).sum::<usize>();
        assert!(writes.iter().all(|write| size(write) <= WRITE_BYTES_MAX));
        assert_eq!(writes.len(), expected.len().div_ceil(WRITE_BYTES_MAX));
        let written: Vec<u8> = writes.iter().flatten().flat_map(|slice| slice.to_vec()).collect();
        assert!(written == expected, "the bytes differ");
    }

    #[test]
    fn many_small_frames_are_one_slice() {
        let (batch, expected) = batch(&[20; 100]);
        let writes = batch.writes();
        assert_eq!(writes.len(), 1);
        assert_eq!(writes[0].len(), 1);
        assert_eq!(writes[0][0].len(), expected.len());
    }

    #[test]
    fn a_large_body_is_not_copied() {
        let body = Bytes::from(vec![1; 100_000]);
        let mut batch = Batch::default();
        batch.push(&header(1, &body), body.clone().into());
        let writes = batch.writes();
        assert_eq!(writes[0][1].as_ptr(), body.as_ptr());
    }

    #[test]
    fn a_batch_is_full_by_bytes_or_by_pieces() {
        let (large, _) = batch(&[BATCH_BYTES_MAX - 2 * Header::SIZE, 0]);
        assert!(large.is_full());
        let (small, _) = batch(&[2_000; BATCH_PIECES_MAX / 2]);
        assert!(small.is_full());
        assert!(!batch(&[2_000; BATCH_PIECES_MAX / 2 - 1]).0.is_full());
    }
}
