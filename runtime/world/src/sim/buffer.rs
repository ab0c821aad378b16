//! Buffers and slices in ordinary memory, with the rules of the real ones.
//!
//! Owns bytes. Invariants: a buffer's length is a multiple of 4096; a frozen buffer never changes;
//! a slice keeps the memory of its whole buffer.

use std::fmt;
use std::ops::{Deref, DerefMut, Range};
use std::rc::Rc;

use bytes::Bytes;

use super::executor;
use crate::BLOCK_SIZE;

/// What a reused buffer is full of: code that forgets to fill its padding is found.
const STALE_BYTE: u8 = 0xa5;

/// Memory to read into or to write from.
pub struct Buffer {
    bytes: Vec<u8>,
}

impl Buffer {
    /// A buffer of `len` bytes, a positive multiple of `BLOCK_SIZE`, with unspecified content.
    #[must_use]
    pub fn new(len: usize) -> Self {
        assert!(len > 0, "a buffer must not be empty");
        assert!(len.is_multiple_of(BLOCK_SIZE), "a buffer must be whole blocks, not {len} bytes");
        let reused =
            executor::try_world().is_some_and(|world| world.disk_random(|random| random.one_in(2)));
        let content = if reused { STALE_BYTE } else { 0 };
        Self { bytes: vec![content; len] }
    }

    /// Makes it immutable and shareable.
    #[must_use]
    pub fn freeze(self) -> Slice {
        let range = 0..self.bytes.len();
        Slice { memory: Rc::new(Memory { bytes: self.bytes, direct: true }), range }
    }
}

impl Deref for Buffer {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.bytes
    }
}

impl DerefMut for Buffer {
    fn deref_mut(&mut self) -> &mut [u8] {
        &mut self.bytes
    }
}

impl fmt::Debug for Buffer {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Buffer").field("len", &self.bytes.len()).finish()
    }
}

/// A part of frozen memory. Cloning shares it, on one core.
#[derive(Clone)]
pub struct Slice {
    memory: Rc<Memory>,
    range: Range<usize>,
}

struct Memory {
    bytes: Vec<u8>,
    /// Whether direct I/O may write from it.
    direct: bool,
}

impl Slice {
    /// A part of this slice; positions count from its start.
    #[must_use]
    pub fn slice(&self, range: Range<usize>) -> Self {
        assert!(range.start <= range.end, "a range must not be reversed");
        assert!(range.end <= self.len(), "range {range:?} exceeds a slice of {}", self.len());
        let start = self.range.start + range.start;
        let end = self.range.start + range.end;
        Self { memory: Rc::clone(&self.memory), range: start..end }
    }

    /// Memory kept alive by this slice.
    #[must_use]
    pub fn held_bytes(&self) -> usize {
        self.memory.bytes.len()
    }

    /// Copies the bytes, to cross to another core.
    #[must_use]
    pub fn to_bytes(&self) -> Bytes {
        Bytes::copy_from_slice(self)
    }

    /// Whether both slices keep the same memory alive.
    #[must_use]
    pub fn shares_memory(&self, other: &Self) -> bool {
        Rc::ptr_eq(&self.memory, &other.memory)
    }

    pub(super) fn is_whole_buffer(&self) -> bool {
        self.memory.direct && self.range.len() == self.memory.bytes.len()
    }
}

impl Deref for Slice {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        self.memory.bytes.get(self.range.clone()).unwrap_or_default()
    }
}

impl AsRef<[u8]> for Slice {
    fn as_ref(&self) -> &[u8] {
        self
    }
}

impl From<Vec<u8>> for Slice {
    fn from(bytes: Vec<u8>) -> Self {
        let range = 0..bytes.len();
        Self { memory: Rc::new(Memory { bytes, direct: false }), range }
    }
}

impl fmt::Debug for Slice {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Slice").field("len", &self.len()).finish()
    }
}
