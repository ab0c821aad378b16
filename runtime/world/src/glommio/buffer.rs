//! Aligned memory for direct I/O, and refcounted slices of it.
//!
//! Owns the thread's pool of buffers. A `Buffer` is filled by one owner, frozen into a `Slice`,
//! written, shared without copying, and goes back to the pool when its last slice drops.
//!
//! ```text
//! pool -> Buffer (exclusive) --freeze--> Slice (shared, read-only) --last drop--> pool
//! ```
//!
//! Invariants: length and address are multiples of `BLOCK_SIZE`; a pooled buffer has exactly one
//! owner; the pool of a thread holds at most `bytes_max`, and what was not wanted for longest
//! leaves first: sizes that nobody asks for any more do not stay.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::ops::{Deref, DerefMut, Range};
use std::rc::Rc;

use ::glommio::io::{DmaBuffer, ReadResult};
use bytes::Bytes;

use crate::BLOCK_SIZE;

/// Memory a thread keeps for later buffers, beyond those in use, if nobody says otherwise.
pub(super) const POOL_BYTES_DEFAULT: usize = 64 << 20;

struct Pool {
    /// Free buffers by the order of their return.
    free: BTreeMap<u64, Rc<DmaBuffer>>,
    /// The same: exact size, order of return.
    by_len: BTreeSet<(usize, u64)>,
    bytes: usize,
    bytes_max: usize,
    returns: u64,
}

impl Default for Pool {
    fn default() -> Self {
        Self {
            free: BTreeMap::new(),
            by_len: BTreeSet::new(),
            bytes: 0,
            bytes_max: POOL_BYTES_DEFAULT,
            returns: 0,
        }
    }
}

impl Pool {
    /// The buffer of exactly `len` bytes that came back last: its memory is the warmest.
    fn take(&mut self, len: usize) -> Option<Rc<DmaBuffer>> {
        let key = *self.by_len.range((len, 0)..=(len, u64::MAX)).next_back()?;
        self.remove(key)
    }

    fn give(&mut self, memory: Rc<DmaBuffer>) {
        let len = memory.len();
        if len > self.bytes_max {
            return;
        }
        self.returns += 1;
        self.by_len.insert((len, self.returns));
        self.free.insert(self.returns, memory);
        self.bytes += len;
        self.shrink();
    }

    fn shrink(&mut self) {
        while self.bytes > self.bytes_max
            && let Some((&order, memory)) = self.free.first_key_value()
        {
            let key = (memory.len(), order);
            drop(self.remove(key));
        }
    }

    fn remove(&mut self, key: (usize, u64)) -> Option<Rc<DmaBuffer>> {
        let (len, order) = key;
        self.by_len.remove(&key);
        let memory = self.free.remove(&order)?;
        self.bytes -= len;
        Some(memory)
    }
}

thread_local! {
    static POOL: RefCell<Pool> = RefCell::default();
}

fn pool_take(len: usize) -> Option<Rc<DmaBuffer>> {
    POOL.try_with(|pool| pool.borrow_mut().take(len)).ok()?
}

/// How many bytes of free buffers this thread keeps from now on.
pub(super) fn keep_at_most(bytes: usize) {
    POOL.with_borrow_mut(|pool| {
        pool.bytes_max = bytes;
        pool.shrink();
    });
}

/// Keeps `memory` when nobody else holds it; else lets go of it.
fn pool_give(memory: Rc<DmaBuffer>) {
    if Rc::strong_count(&memory) != 1 {
        return;
    }
    // At the end of a thread the pool may be gone already: then the memory is simply freed.
    POOL.try_with(|pool| pool.borrow_mut().give(memory)).ok();
}

/// Aligned memory with one owner, to be filled and frozen.
pub struct Buffer {
    /// Never shared before `freeze`; `None` only while dropping.
    memory: Option<Rc<DmaBuffer>>,
}

impl Buffer {
    /// A buffer of `len` bytes, a positive multiple of `BLOCK_SIZE`. Its contents are whatever the
    /// last user left; a new one is zeroed.
    #[must_use]
    pub fn new(len: usize) -> Self {
        assert!(len > 0, "a buffer must not be empty");
        assert!(len.is_multiple_of(BLOCK_SIZE), "a buffer must be whole blocks, not {len} bytes");
        let memory = pool_take(len).unwrap_or_else(|| {
            let mut memory = ::glommio::allocate_dma_buffer_global(len);
            // Fresh memory is uninitialised until here.
            memory.as_bytes_mut().fill(0);
            Rc::new(memory)
        });
        debug_assert_eq!(memory.len(), len, "the pool is keyed by exact size");
        Self { memory: Some(memory) }
    }

    /// Makes the contents immutable and shareable.
    #[must_use]
    pub fn freeze(mut self) -> Slice {
        let len = self.len();
        let memory = match self.memory.take() {
            Some(memory) => Memory::Frozen(Frozen { memory: Some(memory) }),
            None => unreachable!("a buffer owns its memory until it is dropped"),
        };
        Slice { memory: Rc::new(memory), start: 0, end: len }
    }

    fn memory(&self) -> &DmaBuffer {
        match &self.memory {
            Some(memory) => memory,
            None => unreachable!("a buffer owns its memory until it is dropped"),
        }
    }
}

impl Deref for Buffer {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        self.memory().as_bytes()
    }
}

impl DerefMut for Buffer {
    fn deref_mut(&mut self) -> &mut [u8] {
        match self.memory.as_mut().and_then(Rc::get_mut) {
            Some(memory) => memory.as_bytes_mut(),
            None => unreachable!("a buffer is its memory's only owner"),
        }
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        if let Some(memory) = self.memory.take() {
            pool_give(memory);
        }
    }
}

impl fmt::Debug for Buffer {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "Buffer({} bytes)", self.len())
    }
}

enum Memory {
    Frozen(Frozen),
    Read(ReadResult),
    Heap(Vec<u8>),
}

/// A frozen buffer; its drop is what returns the memory to the pool.
struct Frozen {
    memory: Option<Rc<DmaBuffer>>,
}

impl Drop for Frozen {
    fn drop(&mut self) {
        if let Some(memory) = self.memory.take() {
            pool_give(memory);
        }
    }
}

impl Memory {
    fn bytes(&self) -> &[u8] {
        match self {
            Self::Frozen(frozen) => frozen.memory.as_deref().map_or(&[], DmaBuffer::as_bytes),
            Self::Read(result) => result,
            Self::Heap(bytes) => bytes,
        }
    }
}

/// Read-only bytes, shared without atomics on the core that made them. A slice keeps the whole
/// memory it points into alive: see [`Slice::held_bytes`].
#[derive(Clone)]
pub struct Slice {
    memory: Rc<Memory>,
    start: usize,
    end: usize,
}

impl Slice {
    /// The bytes `range` of this slice, sharing its memory.
    #[must_use]
    pub fn slice(&self, range: Range<usize>) -> Self {
        assert!(range.start <= range.end, "a range must not be reversed");
        assert!(range.end <= self.len(), "range {range:?} exceeds a slice of {}", self.len());
        Self {
            memory: Rc::clone(&self.memory),
            start: self.start + range.start,
            end: self.start + range.end,
        }
    }

    /// Copies the bytes: the one copy made when they leave their core.
    #[must_use]
    pub fn to_bytes(&self) -> Bytes {
        Bytes::copy_from_slice(self)
    }

    /// Bytes of memory kept alive by this slice.
    #[must_use]
    pub fn held_bytes(&self) -> usize {
        self.memory.bytes().len()
    }

    /// Whether both slices keep the same memory alive.
    #[must_use]
    pub fn shares_memory(&self, other: &Self) -> bool {
        Rc::ptr_eq(&self.memory, &other.memory)
    }

    pub(super) fn from_read(result: ReadResult) -> Self {
        let end = result.len();
        Self { memory: Rc::new(Memory::Read(result)), start: 0, end }
    }

    /// The aligned memory of a whole frozen buffer.
    pub(super) fn whole_buffer(&self) -> Option<Rc<DmaBuffer>> {
        match &*self.memory {
            Memory::Frozen(Frozen { memory: Some(memory) })
                if self.start == 0 && self.end == memory.len() =>
            {
                Some(Rc::clone(memory))
            }
            _ => None,
        }
    }
}

impl Deref for Slice {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match self.memory.bytes().get(self.start..self.end) {
            Some(bytes) => bytes,
            None => unreachable!("a slice lies within its memory"),
        }
    }
}

impl AsRef<[u8]> for Slice {
    fn as_ref(&self) -> &[u8] {
        self
    }
}

impl From<Vec<u8>> for Slice {
    fn from(bytes: Vec<u8>) -> Self {
        let end = bytes.len();
        Self { memory: Rc::new(Memory::Heap(bytes)), start: 0, end }
    }
}

impl fmt::Debug for Slice {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "Slice({} bytes)", self.len())
    }
}
