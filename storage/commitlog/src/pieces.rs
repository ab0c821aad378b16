//! Bytes in pieces, one behind the other, for a write that gathers them.
//!
//! ```text
//! copy copy copy | shared | copy copy | shared | shared | ...
//!   one piece                one piece
//! ```
//! Owns: what is copied together and what is sent from where it lies.
//!
//! Must never: copy a large part, reorder parts.

use bytes::{Bytes, BytesMut};

/// Parts smaller than this are copied: a slice more costs a system call about as much.
const SHARED_BYTES_MIN: usize = 4 * 1024;

/// Bytes that lie in several places. Small parts are copied together, large ones are shared.
#[derive(Clone, Debug, Default)]
pub struct Pieces {
    closed: Vec<Bytes>,
    open: BytesMut,
    len: usize,
}

impl Pieces {
    /// Bytes of all pieces.
    #[must_use]
    pub const fn len(&self) -> usize {
        self.len
    }

    /// Whether there are no bytes.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Adds a copy of `bytes`.
    pub fn copy(&mut self, bytes: &[u8]) {
        self.open.extend_from_slice(bytes);
        self.len += bytes.len();
    }

    /// Adds `bytes`: a copy when they are few, else they are shared.
    pub fn share(&mut self, bytes: Bytes) {
        if bytes.len() < SHARED_BYTES_MIN {
            self.copy(&bytes);
            return;
        }
        self.close();
        self.len += bytes.len();
        self.closed.push(bytes);
    }

    /// Adds all of `other` behind what is here.
    pub fn append(&mut self, other: Self) {
        for piece in other.into_vec() {
            self.share(piece);
        }
    }

    /// The pieces in order, none of them empty.
    #[must_use]
    pub fn into_vec(mut self) -> Vec<Bytes> {
        self.close();
        self.closed
    }

    /// All of it in one place; copied when there is more than one piece.
    #[must_use]
    pub fn into_bytes(mut self) -> Bytes {
        self.close();
        match self.closed.as_mut_slice() {
            [] => Bytes::new(),
            [one] => std::mem::take(one),
            several => several.concat().into(),
        }
    }

    fn close(&mut self) {
        if !self.open.is_empty() {
            self.closed.push(self.open.split().freeze());
        }
    }
}

impl From<Bytes> for Pieces {
    fn from(bytes: Bytes) -> Self {
        let len = bytes.len();
        let closed = if bytes.is_empty() { Vec::new() } else { vec![bytes] };
        Self { closed, open: BytesMut::new(), len }
    }
}

impl From<Vec<u8>> for Pieces {
    fn from(bytes: Vec<u8>) -> Self {
        Self::from(Bytes::from(bytes))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_stay_in_order_and_large_ones_where_they_are() {
        let large = Bytes::from(vec![7; SHARED_BYTES_MIN]);
        let mut pieces = Pieces::default();
        pieces.copy(b"ab");
        pieces.share(Bytes::from_static(b"cd"));
        pieces.share(large.clone());
        pieces.share(large.clone());
        pieces.copy(b"e");
        let mut expected = b"abcd".to_vec();
        expected.extend_from_slice(&large);
        expected.extend_from_slice(&large);
        expected.push(b'e');
        assert_eq!(pieces.len(), expected.len());
        assert_eq!(pieces.clone().into_bytes(), expected);
        let pieces = pieces.into_vec();
        let lens: Vec<usize> = pieces.iter().map(Bytes::len).collect();
        assert_eq!(lens, [4, SHARED_BYTES_MIN, SHARED_BYTES_MIN, 1]);
        assert_eq!(pieces[1].as_ptr(), large.as_ptr());
    }

    #[test]
    fn one_piece_is_given_as_it_is() {
        let bytes = Bytes::from(vec![1; 10]);
        let same = Pieces::from(bytes.clone()).into_bytes();
        assert_eq!(same.as_ptr(), bytes.as_ptr());
        assert!(Pieces::from(Bytes::new()).is_empty());
        assert!(Pieces::default().into_vec().is_empty());
        assert!(Pieces::default().into_bytes().is_empty());
    }
}
