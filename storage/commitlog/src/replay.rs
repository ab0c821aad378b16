//! Reading a log from its oldest segment to its end: groups, entries, truncations, floors.
//!
//! ```text
//!   segment 1 | segment 2 | segment 3 | segment 4 | segment 5
//!   by their index files, when all     read from end to end; what is sealed and can not change
//!   in them is covered by a checkpoint leaves memory on the way
//! ```
//!
//! Owns: which segments are known by their index files, and what is known of a log on the way.
//!
//! Must never: trust an index file that does not fit the headers around its segment, or a log in
//! which entries do not follow one another.

use crate::copy;
use crate::error::OpenError;
use crate::format::entry as entry_format;
use crate::format::group::{self, Truncate};
use crate::format::index::{self as index_format, Head, Table};
use crate::format::{BLOCK_BYTES, round_up_to_block};
use crate::index::{RunPlace, Span};
use crate::options::{Floor, Options};
use crate::recovery::{Opening, RecoveryReport};
use crate::scan::{Group, Scanner, Tail};
use crate::seal;
use crate::segment::{Segment, TablePlace};
use crate::slots::{Place, Slots};
use crate::state::State;
use barrage_model::{LogId, PartitionKey};
use barrage_world::{File, Slice, fs, planted};
use std::io;
use std::ops::Range;
use std::path::Path;
use std::rc::Rc;

/// Whether segments are taken from their index files.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum IndexFiles {
    Trusted,
    Passed,
}

/// A run of an applied entry: index of the entry, its segment, partition and place.
type FoundRun = (u64, u64, PartitionKey, RunPlace);

/// Replays groups into the state.
pub(crate) struct Replay {
    state: State,
    /// Index after what the state machine has seen.
    applied_next: u64,
    /// The floor as of the end of the log, once it was looked for.
    end_floor: Option<Option<LogId>>,
    /// Runs of applied entries, by entry index: a truncation takes back what it cuts off.
    found: Vec<FoundRun>,
    /// An entry was taken: no later one leaves a gap. Before that what came first may be gone with
    /// its segments; the oldest that is left may be without entries (`log` seed 704615).
    has_begun: bool,
    /// Everything before this log position is known to be on the medium.
    pub(crate) mark: u64,
    index_files: IndexFiles,
}

impl Replay {
    /// Nothing is read yet.
    pub(crate) fn new(
        options: &Options,
        opening: &Opening,
        segments: &[Rc<Segment>],
        index_files: IndexFiles,
    ) -> Self {
        let first = segments.first().map(|segment| segment.header);
        let hard = first.map_or_else(Default::default, |header| header.hard);
        let mark = segments.first().map_or(0, |segment| segment.log_start());
        let mut state = State::new(options.clone(), hard, mark);
        if let Some(floor) = hard.floor {
            state.slots.set_floor(floor);
        }
        let applied_next = opening.applied_next();
        if let Opening::Whole(Some(checkpoint)) = opening {
            // From the same reading of the file as the machine's state: were it read again and
            // found damaged, what apply had refused would be served.
            state.refused = checkpoint.refused.clone();
        }
        state.slots.set_applied(applied_next);
        state.incomplete = matches!(opening, Opening::Incomplete);
        Self {
            state,
            applied_next,
            end_floor: None,
            found: Vec::new(),
            has_begun: false,
            mark,
            index_files,
        }
    }

    /// Replays all segments; a prefix of them by their index files. Gives where the log ends and,
    /// if its end is torn, what lies behind.
    pub(crate) async fn segments(
        &mut self,
        segments: &[Rc<Segment>],
        report: &mut RecoveryReport,
    ) -> Result<(u64, Option<Tail>), OpenError> {
        // The newest header restates the floor: whole segments below it need not be read.
        let floor = segments.last().and_then(|newest| newest.header.hard.floor);
        let mut torn = None;
        let mut clean_end = self.mark;
        for (at, segment) in segments.iter().enumerate() {
            let next = segments.get(at + 1);
            let limit = next.map(|next| segment.limit(next)).transpose()?;
            segment_follows(segment, clean_end)?;
            self.state.segments.insert(segment.number(), segment.clone());
            if let Some(last) = segments.last() {
                self.let_go(last).await;
            }
            if let (Some(limit), Some(next)) = (limit, next) {
                segment.seal(limit);
                self.state.unindexed.push_back(segment.clone());
                // Only a prefix is skipped: a later segment may truncate what an earlier one holds.
                let prefix = report.scanned_segments == 0;
                let trusted = prefix && self.index_files == IndexFiles::Trusted;
                if trusted && let Some(head) = read_index(self, segment, next, floor).await {
                    self.take(segment, head, floor);
                    report.skipped_segments += 1;
                    self.state.unindexed.pop_back();
                    self.state.hard = next.header.hard;
                    clean_end = next.log_start();
                    continue;
                }
            }
            report.scanned_segments += 1;
            let (end, tail) = self.scan(segment, limit).await?;
            clean_end = segment.log_end().unwrap_or(end);
            torn = tail.filter(|tail| tail.torn);
        }
        Ok((clean_end, torn))
    }

    /// Replays one segment. Gives where it ends and, for the newest, what lies behind.
    async fn scan(
        &mut self,
        segment: &Rc<Segment>,
        limit: Option<u64>,
    ) -> Result<(u64, Option<Tail>), OpenError> {
        let mut scanner = Scanner::new(segment.clone(), limit);
        // Its header was written when all before it was on the medium.
        self.mark = self.mark.max(segment.log_start());
        self.state.hard = segment.header.hard;
        self.state.previous_hash = segment.header.previous_hash;
        self.state.group_number = segment.header.first_group.saturating_sub(1);
        self.state.previous_crc = 0;
        if let Some(floor) = self.state.hard.floor {
            self.state.slots.set_floor(floor);
        }
        let mut at = segment.header.position;
        let reason = loop {
            match scanner.group(at).await? {
                Ok(group) => {
                    self.group(segment, &group)?;
                    at = group.end();
                    (self.state.group_number, self.state.previous_crc) = scanner.chain();
                }
                Err(reason) => break reason,
            }
        };
        if limit == Some(at) {
            return Ok((at, None));
        }
        if limit.is_some() {
            // A later segment exists, and its header vouches for all of this one.
            return Err(segment.format_damage(at, reason).into());
        }
        let tail = scanner.probe(at).await?;
        // Wrong when planted: damage is taken for the end, and what lies behind it is lost.
        if at < tail.mark && !planted("commitlog-damage-taken-for-end") {
            return Err(segment.format_damage(at, reason).into());
        }
        Ok((at, Some(tail)))
    }

    /// Takes a segment as its index file tells of it. `floor` is what the newest header states.
    fn take(&mut self, segment: &Segment, head: Head, floor: Option<LogId>) {
        let slots = &mut self.state.slots;
        if let Some(floor) = floor {
            slots.set_floor(floor);
        }
        segment.holds_as_indexed(head.held);
        let Table { start, first, count, .. } = head.table;
        segment.set_table(TablePlace { start, first, count });
        let above = above_floor(&head, slots.floor().map_or(0, |floor| floor.index.0 + 1));
        // What was refused at or below a floor that follows the records may be forgotten; and
        // retention has let all of it go. Of an incomplete log nothing is served.
        let gone = self.state.options.floor == Floor::Records && above.is_empty();
        if !above.is_empty() {
            slots.push_cold(segment.number(), above, &head.table.terms, head.table.last_hash);
            self.has_begun = true;
        }
        let readable = !gone && !self.state.incomplete;
        for row in head.partitions.into_iter().flatten().filter(|_| readable) {
            self.state.index.add_span(row.key, Span::stored(segment.number(), &row));
        }
    }

    /// A long log is indexed while it is read, so that memory stays bounded: the oldest segments
    /// that were read, when nothing that follows can change what they hold. A failure leaves that
    /// to housekeeping. `last` is the newest segment of all.
    async fn let_go(&mut self, last: &Rc<Segment>) {
        let many = 2 * usize::try_from(self.state.options.segment_entries_max).unwrap_or(0);
        if self.index_files == IndexFiles::Passed || self.state.slots.count() <= many {
            return;
        }
        // Every group restates what was committed when it was written.
        let committed_next = self.state.hard.committed.map_or(0, |id| id.index.0 + 1);
        let settled_next = self.applied_next.min(committed_next);
        while let Some(oldest) = self.state.unindexed.front().cloned()
            && oldest.next_index() <= settled_next
        {
            if self.end_floor.is_none() {
                let Ok(hard) = copy::hard_state_at_end(last).await else { return };
                self.end_floor = Some(hard.floor);
            }
            let later = self.found.partition_point(|found| found.1 <= oldest.number());
            let later = self.found.split_off(later);
            let found = std::mem::replace(&mut self.found, later);
            self.add_found(found, self.end_floor.flatten());
            let index = seal::Encoded::new(&self.state, &oldest);
            if fs::write_atomic(&oldest.index_path(), &index.bytes).await.is_err() {
                return;
            }
            self.state.unindexed.pop_front();
            index.put_to_use(&mut self.state, &oldest);
            self.state.slots.let_go(oldest.kept_index());
        }
    }

    /// Everything is read: the runs that stayed are indexed.
    pub(crate) fn finish(mut self) -> State {
        let found = std::mem::take(&mut self.found);
        self.add_found(found, self.state.slots.floor());
        self.state
    }

    fn add_found(&mut self, found: Vec<FoundRun>, floor: Option<LogId>) {
        let readable_from = match self.state.options.floor {
            Floor::Checkpoint => 0,
            // What was refused at or below the floor may be forgotten, here and where this log was
            // copied from; and retention has let all of it go.
            Floor::Records => floor.map_or(0, |floor| floor.index.0 + 1),
        };
        for (index, segment, key, run) in found {
            if index >= readable_from {
                self.state.index.add(segment, key, run);
            }
        }
    }

    fn group(&mut self, segment: &Rc<Segment>, group: &Group) -> Result<(), OpenError> {
        if let Some(truncate) = group.header.truncate {
            self.truncate(segment, group, truncate)?;
        }
        if let Some(floor) = group.header.hard.floor {
            // Before the entries: after a checkpoint from a peer the floor lies behind the end of
            // the log, and the entries of this group follow the floor.
            self.state.slots.set_floor(floor);
        }
        self.mark = self.mark.max(group.header.synced_to);
        let mut at = group::HEADER_BYTES;
        let entries_end = at + group.header.entries_len as usize;
        while at < entries_end {
            at += self.entry(segment, group, at)?;
        }
        self.state.hard = group.header.hard;
        Ok(())
    }

    fn truncate(
        &mut self,
        segment: &Segment,
        group: &Group,
        truncate: Truncate,
    ) -> Result<(), OpenError> {
        match truncate {
            Truncate::All => {
                self.state.slots.truncate_after(None);
                self.found.clear();
            }
            Truncate::After(last) => {
                if self.state.slots.cold_next().is_some_and(|next| last.index.0 + 1 < next) {
                    let reason = format!("it cuts off what was applied, after {last:?}");
                    return Err(segment.damage(group.position, reason).into());
                }
                self.state.slots.truncate_after(Some(last));
                while self.found.last().is_some_and(|found| found.0 > last.index.0) {
                    self.found.pop();
                }
            }
        }
        self.state.cut(truncate);
        Ok(())
    }

    /// Takes the entry at `at` bytes into the group; gives its length.
    fn entry(
        &mut self,
        segment: &Rc<Segment>,
        group: &Group,
        at: usize,
    ) -> Result<usize, OpenError> {
        let position = group.position + at as u64;
        let entries_end = group::HEADER_BYTES + group.header.entries_len as usize;
        let bytes = group.bytes.get(at..entries_end).unwrap_or_default();
        let damaged = |reason: &dyn ToString| segment.damage(position, reason.to_string());
        let shard = self.state.options.shard;
        let header = entry_format::decode_header(bytes, shard).map_err(|e| damaged(&e))?;
        let head = entry_format::head(bytes);
        let len = header.len();
        if len > bytes.len() {
            return Err(damaged(&"the entry is longer than its group").into());
        }
        let floor_next = self.state.slots.floor().map_or(0, |floor| floor.index.0 + 1);
        let above_floor = header.id.index.0 >= floor_next;
        let next = self.state.slots.next_index();
        let begins =
            self.state.slots.is_empty() && header.id.index.0 >= self.state.slots.first_index();
        if above_floor && !self.has_begun && begins {
            // The floor as it is known here is older than the one that let the segments before go;
            // `whole` checks that the newest floor covers the gap.
            self.state.slots.begin_at(header.id.index.0);
        } else if above_floor && next.is_some_and(|next| header.id.index.0 != next) {
            let reason = format!("entry {:?} does not follow index {next:?}", header.id);
            return Err(damaged(&reason).into());
        }
        let expected = self.state.previous_hash;
        if expected != 0 && header.previous_hash != 0 && expected != header.previous_hash {
            return Err(damaged(&"the chain of entries is broken").into());
        }
        let header_hash = entry_format::header_hash(head);
        self.state.previous_hash = header_hash;
        let place = Place { position, len: len as u32, segment: segment.number(), header_hash };
        if above_floor {
            self.state.slots.push_placed(header.id, place);
            self.has_begun = true;
        }
        segment.holds(header.id.index.0);
        if header.id.index.0 < self.applied_next {
            let runs = entry_format::decode_runs(&header, bytes).map_err(|e| damaged(&e))?;
            for (number, (run, start)) in runs.into_iter().enumerate() {
                let index = header.id.index.0;
                if run.gone.is_some() || self.state.refused.contains(&(index, number as u32)) {
                    continue;
                }
                let start = position + start as u64;
                let place = RunPlace::new(&run, start, header.log_time_ms);
                self.found.push((index, segment.number(), run.key, place));
            }
        }
        Ok(len)
    }
}

/// What the index file of a segment tells, when all that is in it is covered by the checkpoint and
/// it fits the headers around it and the entries before it.
async fn read_index(
    replay: &Replay,
    segment: &Segment,
    next: &Segment,
    floor: Option<LogId>,
) -> Option<Head> {
    let path = segment.index_path();
    let bytes = read_head(&path).await.ok()?;
    let head = match index_format::decode(&bytes) {
        Ok(head) => head,
        Err(error) => {
            tracing::warn!(path = %path.display(), %error, "index file damaged, rebuilt");
            return None;
        }
    };
    // Wrong when planted: entries that apply needs are passed over.
    let needless =
        head.held.next <= replay.applied_next || planted("commitlog-index-trusted-over-log");
    let right = head.cover == seal::cover_before(segment, next)
        && needless
        && head.partitions.is_some()
        && follows(&head, segment, &replay.state.slots, floor);
    right.then_some(head)
}

/// Whether the entries of the segment that are part of the log are in its table, as far as they lie
/// above the floor, and follow those before them.
fn follows(head: &Head, segment: &Segment, slots: &Slots, floor: Option<LogId>) -> bool {
    let Head { held, table, .. } = head;
    let floor_next = floor.max(slots.floor()).map_or(0, |floor| floor.index.0 + 1);
    let begins_anywhere = floor_next == 0 && segment.log_start() == 0;
    let expected = match slots.next_index().filter(|_| !slots.is_empty()) {
        Some(next) => next.max(floor_next),
        None if begins_anywhere => held.low,
        None => floor_next,
    };
    let above = above_floor(head, floor_next);
    match above.is_empty() {
        true => held.kept <= expected,
        false => above.start == expected && table.next() == held.kept,
    }
}

fn above_floor(head: &Head, floor_next: u64) -> Range<u64> {
    let next = head.table.next();
    head.table.first.max(floor_next).min(next)..next
}

/// The head of an index file, and some of what follows it: neither the runs nor the entry table
/// is read before somebody asks.
async fn read_head(path: &Path) -> io::Result<Slice> {
    let file = File::open(path).await?;
    let block = file.read_at(0, BLOCK_BYTES).await?;
    let len = index_format::head_len(&block).unwrap_or(0);
    let head = match len <= BLOCK_BYTES {
        true => block,
        false => file.read_at(0, round_up_to_block(len)).await?,
    };
    file.close().await?;
    Ok(head)
}

fn segment_follows(segment: &Segment, end: u64) -> Result<(), OpenError> {
    if segment.log_start() == end {
        return Ok(());
    }
    let reason = format!("it begins at log position {}, not {end}", segment.log_start());
    Err(segment.damage(segment.header.position, reason).into())
}
