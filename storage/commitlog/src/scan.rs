//! Reads flush groups one after the other from a segment, and judges where they end.
//!
//! Used by recovery and by offline verification alike, so that both see the same log.

use crate::HardState;
use crate::error::{OpenError, ReadError};
use crate::format::group::{self, Header, Place};
use crate::format::{BLOCK_BYTES, FormatError, round_up_to_block};
use crate::segment::Segment;
use barrage_world::Slice;
use std::rc::Rc;

/// Bytes read at a time.
const WINDOW_BYTES: usize = 4 * 1024 * 1024;

/// One group, whole and checked.
pub(crate) struct Group {
    pub(crate) position: u64,
    pub(crate) header: Header,
    pub(crate) crc: u32,
    pub(crate) bytes: Slice,
}

impl Group {
    pub(crate) fn end(&self) -> u64 {
        self.position + u64::from(self.header.len)
    }
}

/// What lies behind the last good group of a segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Tail {
    /// Largest `synced_to` of any whole group of this segment behind the break.
    pub(crate) mark: u64,
    /// Log position behind the last bytes that look written.
    pub(crate) written_end: u64,
    /// Whether anything of this segment was found there.
    pub(crate) torn: bool,
}

/// Walks one segment.
pub(crate) struct Scanner {
    segment: Rc<Segment>,
    window: Option<(u64, Slice)>,
    limit: u64,
    number: u64,
    previous_crc: u32,
    /// Largest `synced_to` seen in good groups.
    pub(crate) mark: u64,
}

impl Scanner {
    /// A scanner at the segment's start. `limit` is where the data must end when that is known.
    pub(crate) fn new(segment: Rc<Segment>, limit: Option<u64>) -> Self {
        let limit = limit.unwrap_or_else(|| segment.capacity_end());
        let number = segment.header.first_group;
        let mark = segment.log_start();
        Self { segment, window: None, limit, number, previous_crc: 0, mark }
    }

    fn place(&self, position: u64) -> Place {
        let header = &self.segment.header;
        Place { shard: header.shard, segment: header.number, salt: header.salt, position }
    }

    /// The group at `position`, or why there is none.
    pub(crate) async fn group(
        &mut self,
        position: u64,
    ) -> Result<Result<Group, FormatError>, OpenError> {
        let found = self.read_group(position).await?;
        let Ok(group) = &found else { return Ok(found) };
        if group.header.number != self.number {
            return Ok(Err(FormatError::Elsewhere("group number")));
        }
        if group.header.previous_crc != self.previous_crc {
            return Ok(Err(FormatError::Elsewhere("previous group")));
        }
        self.number += 1;
        self.previous_crc = group.crc;
        self.mark = self.mark.max(group.header.synced_to);
        Ok(found)
    }

    /// Keeps no bytes until the next group is asked for.
    pub(crate) fn let_go(&mut self) {
        self.window = None;
    }

    /// Number and CRC of the last good group.
    pub(crate) fn chain(&self) -> (u64, u32) {
        (self.number - 1, self.previous_crc)
    }

    async fn read_group(&mut self, position: u64) -> Result<Result<Group, FormatError>, OpenError> {
        let place = self.place(position);
        if position + BLOCK_BYTES as u64 > self.limit {
            return Ok(Err(FormatError::Short));
        }
        let head = self.bytes(position, BLOCK_BYTES).await?;
        let len = match group::peek_len(&head, &place) {
            Ok(len) if position + len as u64 <= self.limit => len,
            Ok(_) => return Ok(Err(FormatError::Field("length"))),
            Err(error) => return Ok(Err(error)),
        };
        let bytes = self.bytes(position, len).await?;
        Ok(group::decode(&bytes, &place).map(|(header, crc)| Group {
            position,
            header,
            crc,
            bytes,
        }))
    }

    /// `len` bytes of log at `position`, through a window that moves forward.
    async fn bytes(&mut self, position: u64, len: usize) -> Result<Slice, OpenError> {
        if let Some((start, window)) = &self.window
            && position >= *start
        {
            let skip = usize::try_from(position - start).unwrap_or(usize::MAX);
            if skip.saturating_add(len) <= window.len() {
                return Ok(window.slice(skip..skip + len));
            }
        }
        let left = usize::try_from(self.segment.capacity_end() - position).unwrap_or(usize::MAX);
        let wanted = round_up_to_block(len.max(WINDOW_BYTES.min(left)));
        let window = self.segment.read(position, wanted).await.map_err(io_error)?;
        let found = window.slice(0..len);
        self.window = Some((position, window));
        Ok(found)
    }

    /// Probes every block behind a break at `position` for groups of this segment (rule T-1).
    pub(crate) async fn probe(&mut self, position: u64) -> Result<Tail, OpenError> {
        let mut tail = Tail { mark: self.mark, written_end: position, torn: false };
        let mut at = position;
        while at + BLOCK_BYTES as u64 <= self.segment.capacity_end() {
            let place = self.place(at);
            let head = self.bytes(at, BLOCK_BYTES).await?;
            if let Ok(len) = group::peek_len(&head, &place) {
                // A header of this segment: written by us, whether or not the rest arrived.
                tail.torn = true;
                let end = (at + len as u64).min(self.segment.capacity_end());
                tail.written_end = tail.written_end.max(end);
                if let Ok(group) = self.read_group(at).await? {
                    tail.mark = tail.mark.max(group.header.synced_to);
                }
            }
            at += BLOCK_BYTES as u64;
        }
        Ok(tail)
    }

    /// The hard state in the last whole group of this segment behind a break at `position`.
    pub(crate) async fn newest_hard_state(
        &mut self,
        position: u64,
    ) -> Result<Option<HardState>, OpenError> {
        let mut newest: Option<(u64, HardState)> = None;
        let mut at = position;
        while at + BLOCK_BYTES as u64 <= self.segment.capacity_end() {
            if let Ok(group) = self.read_group(at).await?
                && newest.is_none_or(|(number, _)| number < group.header.number)
            {
                newest = Some((group.header.number, group.header.hard));
            }
            at += BLOCK_BYTES as u64;
        }
        Ok(newest.map(|(_, hard)| hard))
    }
}

fn io_error(error: ReadError) -> OpenError {
    match error {
        ReadError::Damaged(damage) => OpenError::Damaged(damage),
        ReadError::Io { path, source } => OpenError::Io { action: "read", path, source },
        ReadError::NotFound { what } => OpenError::Io {
            action: "read",
            path: what.into(),
            source: std::io::ErrorKind::NotFound.into(),
        },
    }
}
