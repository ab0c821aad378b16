//! Where cold entries lie: read from the entry table of their segment's index file, a window of
//! blocks at a time.
//!
//! Owns: the windows that were read lately. Must never: hand out a place that its block's checksum
//! does not cover, or keep more than a few windows.
//!
//! The table is derived from the log. When it is gone or rotten its file is written again (see
//! `mend.rs`) and read once more: only the log itself can be damaged.

use crate::error::ReadError;
use crate::format::BLOCK_BYTES;
use crate::format::table::{self, BLOCK_ROWS, Row};
use crate::log::Shared;
use crate::mend;
use crate::segment::{Segment, TablePlace};
use crate::slots::{Known, Place};
use barrage_world::{File, planted};
use std::collections::VecDeque;
use std::io;
use std::rc::Rc;

/// Blocks read at once: who asks for one entry mostly asks for those behind it.
const WINDOW_BLOCKS: u64 = 16;
/// Windows kept.
const WINDOWS_MAX: usize = 16;

/// Parts of entry tables that were read lately; bounded by count.
#[derive(Debug, Default)]
pub(crate) struct Places {
    recent: VecDeque<Window>,
}

/// Rows of one table, one after the other.
#[derive(Debug)]
struct Window {
    segment: (u64, u64),
    first: u64,
    rows: Vec<Row>,
}

impl Places {
    fn find(&self, segment: (u64, u64), index: u64) -> Option<Row> {
        self.recent.iter().filter(|window| window.segment == segment).find_map(|window| {
            window.rows.get(usize::try_from(index.checked_sub(window.first)?).ok()?).copied()
        })
    }

    fn keep(&mut self, window: Window) {
        if self.recent.len() >= WINDOWS_MAX {
            self.recent.pop_front();
        }
        self.recent.push_back(window);
    }

    /// Nothing of this segment is kept any more.
    pub(crate) fn forget(&mut self, segment: &Segment) {
        self.recent.retain(|window| window.segment != segment.identity());
    }
}

/// Where the cold entry at `index` lies, and in which segment. None when the floor has passed it.
/// The place is one in that segment: it may be rewritten meanwhile, and what was found is read
/// from what it was.
pub(crate) async fn find_cold(
    log: &Rc<Shared>,
    index: u64,
) -> Result<Option<(Rc<Segment>, Place)>, ReadError> {
    loop {
        let Some(segment) = cold_segment(log, index) else { return Ok(None) };
        match find_in(log, &segment, index).await {
            Ok(place) => return Ok(Some((segment, place))),
            // It was rewritten, or has gone: its index file went with it.
            Err(_) if !log.state.borrow().is_current(&segment) => {}
            Err(error) => return Err(error),
        }
    }
}

fn cold_segment(log: &Shared, index: u64) -> Option<Rc<Segment>> {
    let state = log.state.borrow();
    match state.slots.at(index)? {
        Known::Cold(number) => state.segments.get(&number).cloned(),
        Known::Placed(_) | Known::Entry(..) => None,
    }
}

/// Where the entry lies in this segment.
async fn find_in(log: &Rc<Shared>, segment: &Rc<Segment>, index: u64) -> Result<Place, ReadError> {
    let row = match planted("commitlog-row-of-next-entry") {
        // Wrong: another entry's row, whole and right as it is.
        true => index + 1,
        false => index,
    };
    let found = log.places.borrow().find(segment.identity(), row);
    let found = match found {
        Some(found) => found,
        None => match read_window(log, segment, row).await {
            Ok(found) => found,
            Err(source) => {
                let path = segment.index_path();
                if !log.state.borrow().is_current(segment) {
                    return Err(ReadError::Io { path, source });
                }
                tracing::warn!(path = %path.display(), error = %source, "entry table rebuilt");
                mend::write_again(log, segment).await?;
                let again = read_window(log, segment, row).await;
                again.map_err(|source| ReadError::Io { path, source })?
            }
        },
    };
    Ok(Place {
        position: segment.header.position + u64::from(found.offset),
        len: found.len,
        segment: segment.number(),
        header_hash: found.header_hash,
    })
}

/// Reads the row of `index` and what follows it, and keeps them.
async fn read_window(log: &Rc<Shared>, segment: &Segment, index: u64) -> io::Result<Row> {
    let place = segment.table().ok_or(io::ErrorKind::NotFound)?;
    let TablePlace { start, first, count } = place;
    let at = index.checked_sub(first).filter(|at| *at < u64::from(count));
    let block = at.ok_or(io::ErrorKind::InvalidData)? / BLOCK_ROWS as u64;
    let blocks = (u64::from(count).div_ceil(BLOCK_ROWS as u64) - block).min(WINDOW_BLOCKS);
    let file = File::open(&segment.index_path()).await?;
    let position = start + block * BLOCK_BYTES as u64;
    let bytes = file.read_at(position, blocks as usize * BLOCK_BYTES).await;
    file.close().await?;
    let first = first + block * BLOCK_ROWS as u64;
    let mut rows = Vec::with_capacity(blocks as usize * BLOCK_ROWS);
    for bytes in bytes?.chunks(BLOCK_BYTES) {
        let read = table::decode(segment.header.salt, first + rows.len() as u64, bytes);
        let invalid = |error| io::Error::new(io::ErrorKind::InvalidData, format!("{error}"));
        match read.map_err(invalid) {
            Ok(read) => rows.extend(read),
            // What is before it is whole; who asks for it or what follows comes back.
            Err(error) if rows.is_empty() => return Err(error),
            Err(_) => break,
        }
    }
    let skip = usize::try_from(index - first).map_err(|_| io::ErrorKind::InvalidData)?;
    let found = rows.get(skip).copied().ok_or(io::ErrorKind::InvalidData)?;
    if segment.table() == Some(place) {
        log.places.borrow_mut().keep(Window { segment: segment.identity(), first, rows });
    }
    Ok(found)
}
