//! Index files of sealed segments: written once everything in the segment is applied.

use crate::format::index::{self as format, Cover, Row};
use crate::index::Runs;
use crate::log::Shared;
use crate::segment::Segment;
use crate::state::State;
use barrage_world::fs;
use std::rc::Rc;

/// Writes the index file of every sealed segment that lacks one. A failure costs nothing but a
/// scan at the next start, so it is only reported, once until it goes well again.
pub(crate) async fn write_indexes(log: &Rc<Shared>) {
    loop {
        let next = next_unindexed(&log.state.borrow());
        let Some(segment) = next else { return };
        let written = write_index(log, &segment).await;
        let rested = std::mem::replace(&mut log.state.borrow_mut().index_rests, written.is_err());
        let Err(error) = written else { continue };
        if !rested {
            let path = segment.index_path();
            tracing::warn!(path = %path.display(), %error, "cannot write an index file");
        }
        return;
    }
}

/// The oldest sealed segment without an index file, when apply has seen everything in it: entries
/// that are not committed may still be truncated, and only what apply accepted is indexed.
pub(crate) fn next_unindexed(state: &State) -> Option<Rc<Segment>> {
    let oldest = state.unindexed.front()?;
    (oldest.next_index() <= state.applied_next).then(|| oldest.clone())
}

async fn write_index(log: &Rc<Shared>, segment: &Rc<Segment>) -> std::io::Result<()> {
    let number = segment.number();
    let (bytes, stored) = {
        let state = log.state.borrow();
        let mut partitions = Vec::new();
        for (key, span) in state.index.spans_of(number) {
            let Runs::Memory(runs) = &span.runs else { continue };
            let row = Row {
                key,
                first: span.first,
                next: span.next,
                first_time_ms: span.first_time_ms,
                last_time_ms: span.last_time_ms,
                bytes: span.bytes,
                stored: crate::index::Stored { start: 0, count: 0, crc: 0 },
            };
            partitions.push((row, runs.as_ref().clone()));
        }
        let cover = cover(segment);
        let (bytes, stored) = format::encode(&cover, &partitions);
        let keys = partitions.iter().map(|(row, _)| row.key);
        (bytes, keys.zip(stored).collect::<Vec<_>>())
    };
    fs::write_atomic(&segment.index_path(), &bytes).await?;
    let mut state = log.state.borrow_mut();
    state.unindexed.retain(|waiting| waiting.number() != number);
    for (key, stored) in stored {
        state.index.store(key, number, stored);
    }
    Ok(())
}

/// What the index file of this segment must say it covers.
pub(crate) fn cover(segment: &Segment) -> Cover {
    Cover {
        shard: segment.header.shard,
        segment: segment.number(),
        salt: segment.header.salt,
        end: segment.end().unwrap_or(segment.header.position),
        next_index: segment.next_index(),
    }
}
