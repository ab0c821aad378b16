//! Replies of one connection that wait to be written. Pure: no socket here.
//!
//! Small replies are encoded one after the other into one piece of memory; batches of a fetch stay
//! the refcounted slices they are. [`Outbox::take`] hands out what one `sendmsg` should carry.

use std::collections::VecDeque;
use std::io::IoSlice;

use barrage_broker::FetchedBytes;
use barrage_wire::{Correlation, FetchReply, QueueReceiveReply, Response};
use barrage_world::buggify;
use bytes::BytesMut;

/// Bytes of one write at most. Enough to make the system call cheap, little enough that a slow
/// reader shows as a write that does not end.
const WRITE_BYTES_MAX: usize = 1024 * 1024;
/// Slices of one write at most; the kernel takes 1,024.
const WRITE_SLICES_MAX: usize = 256;
/// An encoded piece grows to about this size, in bytes.
const PIECE_BYTES: usize = 16 * 1024;
/// As [`WRITE_BYTES_MAX`], in the mood for little.
const WRITE_BYTES_FEW: usize = 700;

/// One run of bytes to be written.
pub(crate) enum Piece {
    Encoded(BytesMut),
    Fetched(FetchedBytes),
}

impl AsRef<[u8]> for Piece {
    fn as_ref(&self) -> &[u8] {
        match self {
            Self::Encoded(bytes) => bytes,
            Self::Fetched(bytes) => bytes.as_ref(),
        }
    }
}

/// The sending half of a connection.
#[derive(Default)]
pub(crate) struct Outbox {
    pieces: VecDeque<Piece>,
    bytes: usize,
}

impl Outbox {
    pub(crate) fn is_empty(&self) -> bool {
        self.pieces.is_empty()
    }

    /// Bytes waiting.
    #[cfg(test)]
    pub(crate) const fn bytes(&self) -> usize {
        self.bytes
    }

    /// Adds a reply; returns its size in bytes.
    pub(crate) fn push(&mut self, correlation: Correlation, response: &Response<'_>) -> usize {
        self.encode(|out| response.encode(correlation, out))
    }

    /// Adds a fetch reply whose batches are written from where they are; returns its size.
    pub(crate) fn push_fetched(
        &mut self,
        correlation: Correlation,
        head: &FetchReply<'_>,
        batches: Vec<FetchedBytes>,
    ) -> usize {
        self.push_batches(batches, |size, out| head.encode_head(correlation, size, out))
    }

    /// As [`Self::push_fetched`], for what was leased.
    pub(crate) fn push_received(
        &mut self,
        correlation: Correlation,
        head: &QueueReceiveReply<'_>,
        batches: Vec<FetchedBytes>,
    ) -> usize {
        self.push_batches(batches, |size, out| head.encode_head(correlation, size, out))
    }

    fn push_batches(
        &mut self,
        batches: Vec<FetchedBytes>,
        encode_head: impl FnOnce(usize, &mut BytesMut),
    ) -> usize {
        let batches_size = batches.iter().map(FetchedBytes::len).sum::<usize>();
        let head_size = self.encode(|out| encode_head(batches_size, out));
        self.bytes += batches_size;
        let filled = batches.into_iter().filter(|bytes| !bytes.is_empty());
        self.pieces.extend(filled.map(Piece::Fetched));
        head_size + batches_size
    }

    fn encode(&mut self, encode: impl FnOnce(&mut BytesMut)) -> usize {
        if let Some(Piece::Encoded(last)) = self.pieces.back_mut()
            && last.len() < PIECE_BYTES
        {
            let before = last.len();
            encode(last);
            let size = last.len() - before;
            self.bytes += size;
            return size;
        }
        let mut piece = BytesMut::new();
        encode(&mut piece);
        let size = piece.len();
        self.bytes += size;
        self.pieces.push_back(Piece::Encoded(piece));
        size
    }

    /// Takes the pieces of the next write, in order.
    pub(crate) fn take(&mut self) -> Vec<Piece> {
        let mut taken = Vec::new();
        let mut size = 0;
        while size < WRITE_BYTES_MAX && taken.len() < WRITE_SLICES_MAX {
            let Some(piece) = self.pieces.pop_front() else { break };
            size += piece.as_ref().len();
            taken.push(piece);
        }
        assert!(self.bytes >= size, "more bytes taken than were pushed");
        self.bytes -= size;
        taken
    }

    /// Drops everything, nobody will read it; returns how many bytes that was.
    pub(crate) fn clear(&mut self) -> usize {
        std::mem::take(self).bytes
    }
}

/// The writes for some pieces: slices of at most [`WRITE_BYTES_MAX`] bytes each, so that a write
/// that does not end means a reader that does not read, however large one batch is.
pub(crate) fn writes(pieces: &[Piece]) -> Vec<Vec<IoSlice<'_>>> {
    let mut writes = Vec::new();
    let mut write = Vec::new();
    let mut size = 0;
    let few = buggify("native-write-of-few-bytes", 2);
    let most = if few { WRITE_BYTES_FEW } else { WRITE_BYTES_MAX };
    for part in pieces.iter().flat_map(|piece| piece.as_ref().chunks(most)) {
        if size + part.len() > most && !write.is_empty() {
            writes.push(std::mem::take(&mut write));
            size = 0;
        }
        size += part.len();
        write.push(IoSlice::new(part));
    }
    if !write.is_empty() {
        writes.push(write);
    }
    writes
}

#[cfg(test)]
mod tests {
    use barrage_model::Offset;
    use bytes::Bytes;

    use super::*;

    fn drained(outbox: &mut Outbox) -> Vec<u8> {
        let mut all = Vec::new();
        while !outbox.is_empty() {
            let pieces = outbox.take();
            for write in writes(&pieces) {
                assert!(write.iter().map(|part| part.len()).sum::<usize>() <= WRITE_BYTES_MAX);
                write.iter().for_each(|part| all.extend_from_slice(part));
            }
        }
        assert_eq!(outbox.bytes(), 0);
        all
    }

    #[test]
    fn small_replies_share_one_piece() {
        let mut outbox = Outbox::default();
        for at in 0..100 {
            outbox.push(Correlation(at), &Response::Ping);
        }
        assert_eq!(outbox.take().len(), 1);
        assert!(outbox.is_empty());
    }

    #[test]
    fn replies_leave_in_order_and_whole() {
        let batches = vec![vec![7_u8; 3 << 20], vec![8_u8; 100], Vec::new()];
        let mut expected = BytesMut::new();
        let joined = batches.concat();
        let head =
            FetchReply { high_watermark: Offset(9), start_offset: Offset(1), batches: &joined };
        Response::Ping.encode(Correlation(1), &mut expected);
        Response::Fetch(head).encode(Correlation(2), &mut expected);
        Response::Ping.encode(Correlation(3), &mut expected);
        let mut outbox = Outbox::default();
        let mut size = outbox.push(Correlation(1), &Response::Ping);
        let fetched = batches.into_iter().map(|b| FetchedBytes::Crossed(Bytes::from(b))).collect();
        size += outbox.push_fetched(Correlation(2), &head, fetched);
        size += outbox.push(Correlation(3), &Response::Ping);
        assert_eq!(size, expected.len());
        assert_eq!(outbox.bytes(), expected.len());
        assert!(drained(&mut outbox) == expected[..], "the bytes differ");
    }
}
