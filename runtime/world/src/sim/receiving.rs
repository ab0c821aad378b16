//! The receiving half of one side of a stream.
//!
//! Owns the bytes that have arrived: those in order, and those that came ahead of others. Pure.
//!
//! Invariants: what is read is a prefix of what was sent; the room that was promised stays; at
//! most `bytes_max` wait to be read.

use std::collections::BTreeMap;

use bytes::{Buf, Bytes, BytesMut};

pub(super) struct Receiving {
    ready: BytesMut,
    /// The position behind `ready`.
    next: u64,
    ahead: BTreeMap<u64, Bytes>,
    /// Where the stream ends, as soon as that is known.
    end: Option<u64>,
    bytes_max: usize,
    /// The room that the other side knows of.
    advertised_end: u64,
    shut: bool,
}

impl Receiving {
    pub(super) fn new(bytes_max: usize) -> Self {
        Self {
            ready: BytesMut::new(),
            next: 0,
            ahead: BTreeMap::new(),
            end: None,
            bytes_max,
            advertised_end: 0,
            shut: false,
        }
    }

    /// Nothing more will be read, but for what is here.
    pub(super) fn shut(&mut self) {
        self.shut = true;
    }

    pub(super) fn has_bytes(&self) -> bool {
        !self.ready.is_empty()
    }

    /// Whether everything has arrived.
    pub(super) fn is_at_end(&self) -> bool {
        self.end == Some(self.next)
    }

    pub(super) fn is_readable(&self) -> bool {
        self.has_bytes() || self.is_at_end() || self.shut
    }

    /// At most `max` bytes; none at the end.
    pub(super) fn read(&mut self, max: usize) -> Bytes {
        let count = max.min(self.ready.len());
        self.ready.split_to(count).freeze()
    }

    fn window_end(&self) -> u64 {
        self.next + (self.bytes_max - self.ready.len().min(self.bytes_max)) as u64
    }

    /// What the other side is to know: what has arrived, and how far there is room.
    pub(super) fn advertise(&mut self) -> (u64, u64) {
        let window_end = self.window_end();
        assert!(window_end >= self.advertised_end, "room that was promised stays");
        self.advertised_end = window_end;
        (self.next + u64::from(self.is_at_end()), window_end)
    }

    /// Whether reads have made so much room that the other side should hear of it.
    pub(super) fn window_opened(&self) -> bool {
        let opened = self.window_end() - self.advertised_end;
        self.end.is_none() && opened * 2 >= self.bytes_max as u64
    }

    /// Takes bytes from position `at` on, and the end behind the `last`; whether they are news.
    pub(super) fn take(&mut self, at: u64, bytes: Bytes, last: bool) -> bool {
        let end = at + bytes.len() as u64;
        if end > self.window_end().max(self.advertised_end) {
            return false;
        }
        if last {
            assert!(self.end.is_none_or(|known| known == end), "a stream ends once");
            self.end = Some(end);
        }
        if end <= self.next {
            return false;
        }
        let longest = self.ahead.get(&at).map_or(0, Bytes::len);
        if bytes.len() > longest {
            self.ahead.insert(at, bytes);
        }
        self.put_in_order();
        true
    }

    fn put_in_order(&mut self) {
        while let Some(first) = self.ahead.first_entry()
            && *first.key() <= self.next
        {
            let (at, mut bytes) = first.remove_entry();
            let known = (self.next - at).min(bytes.len() as u64);
            bytes.advance(known as usize);
            self.next += bytes.len() as u64;
            self.ready.extend_from_slice(&bytes);
        }
    }
}
