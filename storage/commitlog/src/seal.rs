//! Index files of sealed segments: written once everything in the segment is applied. Then the
//! places of its entries leave memory.

use crate::format::index::{self as format, Contents, Cover, Entries, Row};
use crate::format::table::Row as EntryRow;
use crate::index::{Runs, Stored};
use crate::log::Shared;
use crate::segment::{Segment, TablePlace};
use crate::state::State;
use barrage_model::PartitionKey;
use barrage_world::{fs, planted};
use std::rc::Rc;

/// Writes the index file of every sealed segment that lacks one. A failure costs nothing but
/// memory and a scan at the next start, so it is only reported, once until it goes well again.
pub(crate) async fn write_indexes(log: &Rc<Shared>) {
    loop {
        let next = next_unindexed(&log.state.borrow());
        // Whoever closes the log does not wait for all of them on a slow disk: the next start reads
        // the segments instead.
        let Some(segment) = next.filter(|_| !log.is_over()) else { return };
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
    let last = oldest.next_index().checked_sub(1);
    // Apply may be ahead of this disk. What is applied in place of an entry that was cut off here
    // has its place behind the record that cut it off, so that this is known then.
    let settled = last.is_none_or(|last| !state.slots.waits_for_place(last));
    // Wrong when planted: what leaves memory may be cut off later.
    let applied = oldest.next_index() <= state.applied_next || planted("commitlog-cold-unapplied");
    (applied && settled).then(|| oldest.clone())
}

async fn write_index(log: &Rc<Shared>, segment: &Rc<Segment>) -> std::io::Result<()> {
    let number = segment.number();
    let index = Encoded::new(&log.state.borrow(), segment);
    fs::write_atomic(&segment.index_path(), &index.bytes).await?;
    log.state.borrow_mut().unindexed.retain(|waiting| waiting.number() != number);
    if !put_to_use(log, segment, index) {
        // Retention has let it go meanwhile.
        return fs::remove(&segment.index_path()).await;
    }
    // Durability: not before the file that tells where they lie is on the medium.
    log.state.borrow_mut().slots.let_go(segment.kept_index());
    Ok(())
}

/// An index file was written: from now on it is read. False when its segment is gone.
pub(crate) fn put_to_use(log: &Shared, segment: &Rc<Segment>, index: Encoded) -> bool {
    let mut state = log.state.borrow_mut();
    let here = state.is_current(segment);
    if here {
        index.put_to_use(&mut state, segment);
    }
    here
}

/// An index file that is to be written.
pub(crate) struct Encoded {
    pub(crate) bytes: Vec<u8>,
    pub(crate) stored: Vec<(PartitionKey, Stored)>,
    pub(crate) table: TablePlace,
}

impl Encoded {
    /// Of a sealed segment whose entries and runs are in memory.
    pub(crate) fn new(state: &State, segment: &Segment) -> Self {
        let mut partitions = Vec::new();
        for (key, span) in state.index.spans_of(segment.number()) {
            let Runs::Memory(runs) = &span.runs else { continue };
            partitions.push((row(key, &span), runs.as_ref().clone()));
        }
        let contents = Contents {
            cover: cover(state, segment),
            held: segment.held(),
            entries: entries(state, segment),
            partitions: Some(partitions).filter(|_| !state.incomplete),
        };
        Self::of(&contents)
    }

    pub(crate) fn of(contents: &Contents) -> Self {
        let format::Encoded { bytes, stored, table_start } = format::encode(contents);
        let keys = contents.partitions.iter().flatten().map(|(row, _)| row.key);
        let (first, count) = (contents.entries.first, contents.entries.rows.len() as u32);
        let table = TablePlace { start: table_start, first, count };
        Self { bytes, stored: keys.zip(stored).collect(), table }
    }

    /// The file is on the medium: from now on it is read where memory was.
    pub(crate) fn put_to_use(self, state: &mut State, segment: &Segment) {
        for (key, stored) in self.stored {
            state.index.store(key, segment.number(), stored);
        }
        segment.set_table(self.table);
    }
}

/// The directory's row of a span; where its runs lie is known when they are written.
pub(crate) fn row(key: PartitionKey, span: &crate::index::Span) -> Row {
    Row {
        key,
        first: span.first,
        next: span.next,
        first_time_ms: span.first_time_ms,
        last_time_ms: span.last_time_ms,
        bytes: span.bytes,
        stored: Stored { start: 0, count: 0, crc: 0 },
    }
}

/// Where the entries of a segment lie whose places are in memory.
fn entries(state: &State, segment: &Segment) -> Entries {
    let indexes = state.slots.indexes_in(segment.number());
    let row = |index: u64| {
        let place = state.slots.place_of(index);
        let place = place.unwrap_or_else(|| panic!("entry {index} has left memory before"));
        entry_row(segment, place.position, place.len, place.header_hash)
    };
    Entries {
        first: indexes.start,
        rows: indexes.clone().map(row).collect(),
        terms: state.slots.terms_in(indexes),
    }
}

/// The table's row of an entry at a log position.
pub(crate) fn entry_row(segment: &Segment, position: u64, len: u32, header_hash: u64) -> EntryRow {
    let offset = u32::try_from(position - segment.header.position);
    let offset = offset.unwrap_or_else(|_| panic!("a segment is at most 4 GiB: {position}"));
    EntryRow { offset, len, header_hash }
}

/// What the index file of this segment must say it covers.
pub(crate) fn cover(state: &State, segment: &Segment) -> Cover {
    let Some((_, next)) = state.segments.range(segment.number() + 1..).next() else {
        panic!("another segment follows a sealed one");
    };
    cover_before(segment, next)
}

/// As [`cover`], with the segment that follows.
pub(crate) fn cover_before(segment: &Segment, next: &Segment) -> Cover {
    Cover {
        shard: segment.header.shard,
        segment: segment.number(),
        salt: segment.header.salt,
        end: segment.end().unwrap_or(segment.header.position),
        next_hash: next.header.previous_hash,
        next_group: next.header.first_group,
    }
}
