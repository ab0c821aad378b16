//! The bytes of one simulated file: what reads see, what is durable, and what lies between.
//!
//! Owns contents, sparse and copy-on-write, and the order of changes to them. Must never make a
//! change durable that a flush did not cover.
//!
//! ```text
//!   write issued ---> InFlight --(completes)--> Done, visible --(flush issued after)--> durable
//!                        |                        |
//!                        +--- a crash keeps any subset of their sectors ---+
//! ```

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::rc::Rc;

use super::buffer::Slice;
use crate::BLOCK_SIZE;

/// What a disk writes at once: a torn write ends on this boundary.
pub(super) const SECTOR_SIZE: u64 = 512;
const BLOCK_BYTES: u64 = BLOCK_SIZE as u64;

/// Bytes of a file; blocks that are absent are zero.
#[derive(Clone, Default)]
pub(super) struct Content {
    len: u64,
    blocks: BTreeMap<u64, Rc<[u8; BLOCK_SIZE]>>,
}

/// Identifies a change of one disk, in the order of issue.
pub(super) type ChangeId = u64;

#[derive(Clone)]
pub(super) struct Change {
    pub(super) id: ChangeId,
    pub(super) kind: ChangeKind,
    /// Number of completion; None while in flight.
    done: Option<u64>,
}

#[derive(Clone)]
pub(super) enum ChangeKind {
    Write { position: u64, data: Slice },
    SetLen(u64),
}

/// One file.
#[derive(Clone, Default)]
pub(super) struct FileData {
    pub(super) visible: Content,
    pub(super) durable: Content,
    /// Not yet durable, completed ones first, in the order of their completion.
    pending: Vec<Change>,
    done_count: u64,
    /// Sectors that cannot be read until they are written again.
    pub(super) unreadable: BTreeSet<u64>,
    pub(super) open_count: u64,
}

impl FileData {
    /// A file whose content is durable.
    pub(super) fn settled(content: Content, unreadable: BTreeSet<u64>) -> Self {
        let durable = content.clone();
        Self { visible: content, durable, unreadable, ..Self::default() }
    }

    /// A change begins: nobody sees it yet, a crash may keep it.
    pub(super) fn issue(&mut self, id: ChangeId, kind: ChangeKind) {
        self.pending.push(Change { id, kind, done: None });
    }

    /// A change completes: reads see it, the next flush makes it durable.
    pub(super) fn complete(&mut self, id: ChangeId) {
        let position = self.pending.iter().position(|change| change.id == id);
        let Some(mut change) = position.map(|position| self.pending.remove(position)) else {
            return;
        };
        match &change.kind {
            ChangeKind::Write { position, data } => {
                self.visible.write(*position, data);
                for (at, _) in pieces(*position, data, SECTOR_SIZE) {
                    self.unreadable.remove(&(at / SECTOR_SIZE));
                }
            }
            ChangeKind::SetLen(len) => self.visible.set_len(*len),
        }
        self.done_count += 1;
        change.done = Some(self.done_count);
        let first_in_flight = self.pending.partition_point(|other| other.done.is_some());
        let end = match &change.kind {
            ChangeKind::Write { position, data } => position + data.len() as u64,
            ChangeKind::SetLen(_) => 0,
        };
        self.pending.insert(first_in_flight, change);
        if end > self.visible.len {
            self.visible.set_len(end);
            self.done_count += 1;
            let grown = Change { id, kind: ChangeKind::SetLen(end), done: Some(self.done_count) };
            self.pending.insert(first_in_flight + 1, grown);
        }
    }

    /// Forgets a change that failed.
    pub(super) fn cancel(&mut self, id: ChangeId) {
        self.pending.retain(|change| change.id != id || change.done.is_some());
    }

    /// The number up to which completed changes are covered by a flush issued now.
    pub(super) fn flush_issue(&self) -> u64 {
        self.done_count
    }

    /// The flush succeeded: what it covers is durable. Of writes, those alone that touch `range`.
    pub(super) fn flush_complete(&mut self, covered: u64, range: &Range<u64>) {
        for change in self.take_covered(covered, range) {
            match &change.kind {
                ChangeKind::Write { position, data } => self.durable.write(*position, data),
                ChangeKind::SetLen(len) => self.durable.set_len(*len),
            }
        }
    }

    /// The flush failed: what it covered is dropped, though reads still see it, and the next
    /// flush knows nothing of it. So does Linux.
    pub(super) fn flush_fail(&mut self, covered: u64, range: &Range<u64>) {
        drop(self.take_covered(covered, range));
    }

    fn take_covered(&mut self, covered: u64, range: &Range<u64>) -> Vec<Change> {
        let touches = |change: &Change| match &change.kind {
            ChangeKind::Write { position, data } => {
                *position < range.end && range.start < position + data.len() as u64
            }
            ChangeKind::SetLen(_) => true,
        };
        let is_done = |change: &Change| change.done.is_some_and(|done| done <= covered);
        let is_covered = |change: &Change| is_done(change) && touches(change);
        let (taken, kept) = self.pending.drain(..).partition(is_covered);
        self.pending = kept;
        taken
    }

    /// Completes what is in flight, as a kernel does after the process has gone.
    pub(super) fn settle(&mut self) {
        let in_flight = self.pending.iter().filter(|change| change.done.is_none());
        let ids: Vec<ChangeId> = in_flight.map(|change| change.id).collect();
        for id in ids {
            self.complete(id);
        }
    }

    pub(super) fn pending(&self) -> &[Change] {
        &self.pending
    }

    /// Flips a bit on the medium and in what reads see.
    pub(super) fn flip_bit(&mut self, position: u64, bit: u32) {
        for content in [&mut self.visible, &mut self.durable] {
            if let Some(byte) = content.read(position, 1).first() {
                content.write(position, &[byte ^ (1 << bit)]);
            }
        }
    }

    pub(super) fn is_unreadable(&self, position: u64, len: u64) -> bool {
        let first = position / SECTOR_SIZE;
        let end = (position + len).div_ceil(SECTOR_SIZE);
        self.unreadable.range(first..end).next().is_some()
    }
}

impl Content {
    pub(super) fn len(&self) -> u64 {
        self.len
    }

    /// Overwrites bytes; the length stays, bytes beyond it wait for `set_len`.
    pub(super) fn write(&mut self, position: u64, data: &[u8]) {
        for (at, piece) in pieces(position, data, BLOCK_BYTES) {
            let number = at / BLOCK_BYTES;
            if let Ok(block) = <[u8; BLOCK_SIZE]>::try_from(piece) {
                if block.iter().all(|byte| *byte == 0) {
                    self.blocks.remove(&number);
                } else {
                    self.blocks.insert(number, Rc::new(block));
                }
                continue;
            }
            let block = self.blocks.entry(number).or_insert_with(|| Rc::new([0; BLOCK_SIZE]));
            let start = (at % BLOCK_BYTES) as usize;
            if let Some(target) = Rc::make_mut(block).get_mut(start..start + piece.len()) {
                target.copy_from_slice(piece);
            }
        }
    }

    /// Reads up to `len` bytes; fewer at the end of the file.
    pub(super) fn read(&self, position: u64, len: u64) -> Vec<u8> {
        let end = position.saturating_add(len).min(self.len);
        let mut bytes = vec![0; end.saturating_sub(position) as usize];
        let mut at = position;
        let mut rest = bytes.as_mut_slice();
        while !rest.is_empty() {
            let start = (at % BLOCK_BYTES) as usize;
            let (piece, after) = rest.split_at_mut((BLOCK_SIZE - start).min(rest.len()));
            let block = self.blocks.get(&(at / BLOCK_BYTES));
            if let Some(source) = block.and_then(|block| block.get(start..start + piece.len())) {
                piece.copy_from_slice(source);
            }
            at += piece.len() as u64;
            rest = after;
        }
        bytes
    }

    pub(super) fn set_len(&mut self, len: u64) {
        if len < self.len {
            self.cut(len);
        }
        self.len = len;
    }

    /// Forgets bytes at and after `len`.
    pub(super) fn cut(&mut self, len: u64) {
        drop(self.blocks.split_off(&len.div_ceil(BLOCK_BYTES)));
        let start = (len % BLOCK_BYTES) as usize;
        let Some(block) = self.blocks.get_mut(&(len / BLOCK_BYTES)) else {
            return;
        };
        if let Some(tail) = Rc::make_mut(block).get_mut(start..) {
            tail.fill(0);
        }
    }

    /// Blocks that are not zero, by number.
    pub(super) fn blocks(&self) -> impl Iterator<Item = (u64, &[u8; BLOCK_SIZE])> {
        self.blocks.iter().map(|(number, block)| (*number, &**block))
    }
}

/// Splits bytes at multiples of `unit` within the file.
pub(super) fn pieces(position: u64, data: &[u8], unit: u64) -> impl Iterator<Item = (u64, &[u8])> {
    let mut at = position;
    let mut rest = data;
    std::iter::from_fn(move || {
        if rest.is_empty() {
            return None;
        }
        let room = (unit - at % unit) as usize;
        let (piece, after) = rest.split_at(room.min(rest.len()));
        let start = at;
        at += piece.len() as u64;
        rest = after;
        Some((start, piece))
    })
}
