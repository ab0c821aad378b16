//! What became of each record of a partition for one group, from the oldest that is not settled on.
//!
//! ```text
//!   all settled | chunk of 1,024 | chunk | ... | never looked at
//!             start              each: whole (nothing but settled),
//!                                or a bit per settled record and a mark per record in between
//! ```
//!
//! Owns: settled bits and marks. A run of settled records costs nothing at the start, 1 entry of
//! the map per 1,024 records elsewhere; every second record settled costs 128 bytes per 1,024; a
//! mark costs 32 bytes. 10^8 records settled without a gap before them: 0 bytes. Behind one gap:
//! about 5 MiB. Every second one settled: about 20 MiB.
//! Must never: know time, or why a record is marked.
//! Invariants: a record is settled or marked or neither; nothing before `start` is either. A clone
//! shares chunks, so that a checkpoint of millions costs one pointer per 1,024.

use std::collections::BTreeMap;
use std::ops::Range;
use std::rc::Rc;

use barrage_model::Offset;

/// Records of a chunk.
pub(crate) const CHUNK: u64 = 1024;
/// Words of 64 settled bits in a chunk.
pub(crate) const WORDS: usize = (CHUNK / u64::BITS as u64) as usize;
const _: () = assert!(CHUNK <= u16::MAX as u64);

/// A record that is neither fresh nor settled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Mark {
    /// What it waits for.
    pub(crate) state: State,
    /// Times it was leased.
    pub(crate) deliveries: u16,
    /// Which lease it was.
    pub(crate) tag: u32,
    /// When it was first leased, milliseconds of log time.
    pub(crate) first_ms: u64,
    /// When its lease or its delay is over.
    pub(crate) until_ms: u64,
}

/// What a marked record waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum State {
    /// Somebody has it, until its time is over.
    Leased,
    /// Nobody has it before its time is over.
    Delayed,
    /// Anybody may have it.
    Visible,
    /// It was leased too often: it goes to the dead-letter topic.
    Dying,
}

const _: () = assert!(size_of::<(u16, Mark)>() == 32, "as the module says");

#[derive(Clone, Debug)]
enum Chunk {
    Whole,
    Part(Rc<Part>),
}

#[derive(Clone, Debug, Default)]
struct Part {
    settled: [u64; WORDS],
    settled_count: u16,
    /// By place in the chunk, ascending.
    marks: Vec<(u16, Mark)>,
}

/// A chunk as a checkpoint keeps it.
#[derive(Clone, Debug)]
pub(crate) struct SavedChunk {
    /// Which one: its first record is `CHUNK` times that.
    pub(crate) number: u64,
    /// A bit per settled record, the first one lowest; none where all are settled.
    pub(crate) settled: Option<[u64; WORDS]>,
    /// By place in the chunk, ascending.
    pub(crate) marks: Vec<(u16, Mark)>,
}

/// See the module.
#[derive(Clone, Debug)]
pub(crate) struct Window {
    start: Offset,
    chunks: BTreeMap<u64, Chunk>,
    settled: u64,
}

impl Window {
    /// Nothing is settled from `start` on, and everything before it.
    pub(crate) fn new(start: Offset) -> Self {
        Self { start, chunks: BTreeMap::new(), settled: 0 }
    }

    /// The numbers of chunks from `number` on.
    pub(crate) fn numbers_from(&self, number: u64) -> impl Iterator<Item = u64> {
        self.chunks.range(number..).map(|(number, _)| *number)
    }

    /// The chunks from `number` on, ascending.
    pub(crate) fn chunks_from(&self, number: u64) -> impl Iterator<Item = SavedChunk> {
        self.chunks.range(number..).map(|(number, chunk)| match chunk {
            Chunk::Whole => SavedChunk { number: *number, settled: None, marks: Vec::new() },
            Chunk::Part(part) => SavedChunk {
                number: *number,
                settled: Some(part.settled),
                marks: part.marks.clone(),
            },
        })
    }

    /// Adds a chunk behind all others of a window that is put together again, unless no window
    /// ever had it there.
    pub(crate) fn push(&mut self, chunk: SavedChunk) -> Option<()> {
        let SavedChunk { number, settled, marks } = chunk;
        let is_behind = self.chunks.last_key_value().is_none_or(|(last, _)| *last < number);
        if number < self.start.0 / CHUNK || number > u64::MAX / CHUNK - 1 || !is_behind {
            return None;
        }
        let chunk = match settled {
            None if marks.is_empty() => Chunk::Whole,
            None => return None,
            Some(settled) => {
                let settled_count = settled.iter().map(|word| word.count_ones() as u16).sum();
                let part = Part { settled, settled_count, marks };
                if !part.is_sound() || !self.may_begin_with(number, &part) {
                    return None;
                }
                Chunk::Part(Rc::new(part))
            }
        };
        if number == self.start.0 / CHUNK && matches!(chunk, Chunk::Whole) {
            return None;
        }
        self.settled += chunk.settled_in(range_of(number, self.start..Offset(u64::MAX)));
        self.chunks.insert(number, chunk);
        Some(())
    }

    /// Whether the chunk in which the window starts is settled up to there, and no further.
    fn may_begin_with(&self, number: u64, part: &Part) -> bool {
        let start = place(self.start);
        number != self.start.0 / CHUNK
            || (0..start).all(|at| part.is_settled(at))
                && !part.is_settled(start)
                && part.marks.first().is_none_or(|(at, _)| *at >= start)
    }

    /// One past the newest record that is settled or marked.
    pub(crate) fn end(&self) -> Offset {
        let Some((number, chunk)) = self.chunks.last_key_value() else { return self.start };
        let places = match chunk {
            Chunk::Whole => CHUNK,
            Chunk::Part(part) => {
                let settled = (0..CHUNK as u16).rev().find(|at| part.is_settled(*at));
                let marked = part.marks.last().map(|(at, _)| *at);
                settled.max(marked).map_or(0, |at| u64::from(at) + 1)
            }
        };
        self.start.max(Offset(number * CHUNK + places))
    }

    /// The oldest record that is not settled, or the first that was never looked at.
    pub(crate) fn start(&self) -> Offset {
        self.start
    }

    /// Settled records behind the oldest that is not.
    #[cfg(test)]
    pub(crate) fn settled_count(&self) -> u64 {
        self.settled
    }

    pub(crate) fn is_settled(&self, at: Offset) -> bool {
        if at < self.start {
            return true;
        }
        match self.chunks.get(&(at.0 / CHUNK)) {
            None => false,
            Some(Chunk::Whole) => true,
            Some(Chunk::Part(part)) => part.is_settled(place(at)),
        }
    }

    /// The first record from `at` on that is not settled.
    pub(crate) fn next_unsettled(&self, at: Offset) -> Offset {
        let mut at = at.max(self.start);
        loop {
            let number = at.0 / CHUNK;
            let open = match self.chunks.get(&number) {
                None => return at,
                Some(Chunk::Whole) => None,
                Some(Chunk::Part(part)) => {
                    (place(at)..CHUNK as u16).find(|place| !part.is_settled(*place))
                }
            };
            match open {
                Some(place) => return Offset(number * CHUNK + u64::from(place)),
                None => at = Offset((number + 1) * CHUNK),
            }
        }
    }

    pub(crate) fn mark(&self, at: Offset) -> Option<Mark> {
        match self.chunks.get(&(at.0 / CHUNK))? {
            Chunk::Part(part) => part.mark(place(at)).filter(|_| at >= self.start),
            Chunk::Whole => None,
        }
    }

    /// Marks a record that is not settled, or marks it anew.
    pub(crate) fn set_mark(&mut self, at: Offset, mark: Mark) {
        assert!(!self.is_settled(at), "what is settled is not marked");
        self.part_mut(at.0 / CHUNK).set_mark(place(at), mark);
    }

    /// Settles a record; its mark goes.
    pub(crate) fn settle(&mut self, at: Offset) {
        if self.is_settled(at) {
            return;
        }
        let number = at.0 / CHUNK;
        let part = self.part_mut(number);
        part.settle(place(at));
        let is_whole = u64::from(part.settled_count) == CHUNK;
        self.settled += 1;
        if is_whole {
            self.chunks.insert(number, Chunk::Whole);
        }
        if at == self.start {
            self.move_start();
        }
    }

    /// Settles records of which none is marked, at a cost that is mostly that of their chunks.
    pub(crate) fn settle_range(&mut self, range: Range<Offset>) {
        let range = range.start.max(self.start)..range.end;
        if range.is_empty() {
            return;
        }
        for number in range.start.0 / CHUNK..=(range.end.0 - 1) / CHUNK {
            let places = range_of(number, range.clone());
            match self.chunks.get(&number) {
                Some(Chunk::Whole) => continue,
                None if places.len() as u64 == CHUNK => {
                    self.chunks.insert(number, Chunk::Whole);
                    self.settled += CHUNK;
                    continue;
                }
                Some(Chunk::Part(_)) | None => {}
            }
            let part = self.part_mut(number);
            let before = part.settled_count;
            places.for_each(|at| part.settle(at));
            let more = part.settled_count - before;
            let is_whole = u64::from(part.settled_count) == CHUNK;
            self.settled += u64::from(more);
            if is_whole {
                self.chunks.insert(number, Chunk::Whole);
            }
        }
        if range.start == self.start {
            self.move_start();
        }
    }

    /// Settles everything before `to`; answers the marks that went.
    pub(crate) fn settle_before(&mut self, to: Offset, mut gone: impl FnMut(Mark)) {
        if to <= self.start {
            return;
        }
        let rest = self.chunks.split_off(&(to.0 / CHUNK));
        let before = std::mem::replace(&mut self.chunks, rest);
        for (number, chunk) in before {
            self.settled -= chunk.settled_in(range_of(number, self.start..to));
            chunk.marks().for_each(|(_, mark)| gone(*mark));
        }
        let number = to.0 / CHUNK;
        if let Some(chunk) = self.chunks.get_mut(&number) {
            self.settled -= chunk.settled_in(range_of(number, self.start..to));
            if let Chunk::Part(part) = chunk {
                let part = Rc::make_mut(part);
                let kept = part.marks.partition_point(|(at, _)| *at < place(to));
                part.marks.drain(..kept).for_each(|(_, mark)| gone(mark));
                // Bits before the start say nothing; all are set, so that a chunk can become whole.
                (0..place(to)).for_each(|at| part.set_bit(at));
            }
        }
        self.start = to;
        self.fill_before_start();
        self.move_start();
    }

    /// Forgets everything from `from` on: as if it had never been looked at. Answers the marks that
    /// went.
    pub(crate) fn forget_from(&mut self, from: Offset, mut gone: impl FnMut(Mark)) {
        let number = from.0 / CHUNK;
        let mut behind = self.chunks.split_off(&number);
        let first = behind.remove(&number);
        for (number, chunk) in behind {
            self.settled -= chunk.settled_in(range_of(number, self.start..Offset(u64::MAX)));
            chunk.marks().for_each(|(_, mark)| gone(*mark));
        }
        if let Some(chunk) = first {
            let lost = range_of(number, self.start.max(from)..Offset(u64::MAX));
            self.settled -= chunk.settled_in(lost);
            let mut part = match chunk {
                Chunk::Whole => Part::whole(),
                Chunk::Part(part) => Rc::unwrap_or_clone(part),
            };
            let kept = part.marks.partition_point(|(at, _)| *at < place(from));
            part.marks.drain(kept..).for_each(|(_, mark)| gone(mark));
            (place(from)..CHUNK as u16).for_each(|at| part.clear_bit(at));
            if !part.is_empty() {
                self.chunks.insert(number, Chunk::Part(Rc::new(part)));
            }
        }
        if from < self.start {
            self.start = from;
            assert_eq!(self.settled, 0, "nothing is left behind a start that went back");
            self.fill_before_start();
        }
    }

    /// How many of these records are marked. Costs a look at each chunk, not at each record.
    pub(crate) fn marked_in(&self, range: Range<Offset>) -> u64 {
        if range.is_empty() {
            return 0;
        }
        let chunks = self.chunks.range(range.start.0 / CHUNK..=(range.end.0 - 1) / CHUNK);
        let count = chunks.map(|(number, chunk)| {
            let marks = chunk.marks().as_slice();
            let before = |offset: Offset| {
                let place = offset.0.saturating_sub(number * CHUNK);
                marks.partition_point(|(at, _)| u64::from(*at) < place) as u64
            };
            before(range.end) - before(range.start)
        });
        count.sum()
    }

    /// How many of these records are settled. Costs a look at each chunk that is not settled whole.
    pub(crate) fn settled_in(&self, range: Range<Offset>) -> u64 {
        let before = range.end.min(self.start).0.saturating_sub(range.start.0);
        let range = range.start.max(self.start)..range.end;
        if range.is_empty() {
            return before;
        }
        let chunks = self.chunks.range(range.start.0 / CHUNK..=(range.end.0 - 1) / CHUNK);
        let settled =
            chunks.map(|(number, chunk)| chunk.settled_in(range_of(*number, range.clone())));
        before + settled.sum::<u64>()
    }

    /// Marked records from `from` on.
    pub(crate) fn marks_from(&self, from: Offset) -> impl Iterator<Item = (Offset, Mark)> {
        let chunks = self.chunks.range(from.0 / CHUNK..);
        let marks = chunks.flat_map(|(number, chunk)| {
            chunk.marks().map(move |(at, mark)| (Offset(number * CHUNK + u64::from(*at)), *mark))
        });
        marks.filter(move |(at, _)| *at >= from)
    }

    fn part_mut(&mut self, number: u64) -> &mut Part {
        let start = self.start;
        let chunk = self.chunks.entry(number).or_insert_with(|| {
            let mut part = Part::default();
            if number == start.0 / CHUNK {
                (0..place(start)).for_each(|at| part.set_bit(at));
            }
            Chunk::Part(Rc::new(part))
        });
        match chunk {
            Chunk::Part(part) => Rc::make_mut(part),
            Chunk::Whole => unreachable!("who changes a chunk has looked whether it is settled"),
        }
    }

    /// Sets the bits before the start in its chunk, where there is one.
    fn fill_before_start(&mut self) {
        let (number, end) = (self.start.0 / CHUNK, place(self.start));
        if let Some(Chunk::Part(part)) = self.chunks.get_mut(&number) {
            let part = Rc::make_mut(part);
            (0..end).for_each(|at| part.set_bit(at));
            if u64::from(part.settled_count) == CHUNK {
                self.chunks.insert(number, Chunk::Whole);
            }
        }
    }

    /// Moves the start over what is settled. What it passes was settled once: the work is paid for.
    fn move_start(&mut self) {
        loop {
            let number = self.start.0 / CHUNK;
            let end = match self.chunks.get(&number) {
                None => return,
                Some(Chunk::Whole) => CHUNK,
                Some(Chunk::Part(part)) => u64::from(part.first_unsettled(place(self.start))),
            };
            let to = number * CHUNK + end;
            self.settled -= to - self.start.0;
            self.start = Offset(to);
            if end < CHUNK {
                let is_empty = matches!(self.chunks.get(&number), Some(Chunk::Part(part))
                    if part.marks.is_empty() && u64::from(part.settled_count) == end);
                if is_empty {
                    self.chunks.remove(&number);
                }
                return;
            }
            self.chunks.remove(&number);
        }
    }
}

impl Chunk {
    fn marks(&self) -> std::slice::Iter<'_, (u16, Mark)> {
        match self {
            Self::Whole => [].iter(),
            Self::Part(part) => part.marks.iter(),
        }
    }

    fn settled_in(&self, range: Range<u16>) -> u64 {
        match self {
            Self::Whole => range.len() as u64,
            Self::Part(part) => part.settled_in(range),
        }
    }
}

impl Part {
    fn settled_in(&self, range: Range<u16>) -> u64 {
        let words = self.settled.iter().zip((0..).step_by(64));
        let count = words.map(|(word, first): (&u64, u16)| {
            // Bits of the word that lie in the range.
            let low = range.start.saturating_sub(first).min(64);
            let high = range.end.saturating_sub(first).min(64);
            let before = |bit: u16| u64::MAX.checked_shl(u32::from(bit)).map_or(u64::MAX, |it| !it);
            (word & before(high) & !before(low)).count_ones()
        });
        count.map(u64::from).sum()
    }

    fn whole() -> Self {
        Self { settled: [u64::MAX; WORDS], settled_count: CHUNK as u16, marks: Vec::new() }
    }

    /// Whether the marks lie in order, in the chunk, and on what is not settled.
    fn is_sound(&self) -> bool {
        let places = || self.marks.iter().map(|(at, _)| *at);
        places().is_sorted_by(|left, right| left < right)
            && places().all(|at| u64::from(at) < CHUNK && !self.is_settled(at))
            && u64::from(self.settled_count) < CHUNK
    }

    fn is_empty(&self) -> bool {
        self.settled_count == 0 && self.marks.is_empty()
    }

    fn is_settled(&self, at: u16) -> bool {
        let word = self.settled.get(usize::from(at) / 64);
        word.is_some_and(|word| word >> (at % 64) & 1 == 1)
    }

    fn set_bit(&mut self, at: u16) {
        if self.is_settled(at) {
            return;
        }
        if let Some(word) = self.settled.get_mut(usize::from(at) / 64) {
            *word |= 1 << (at % 64);
            self.settled_count += 1;
        }
    }

    fn clear_bit(&mut self, at: u16) {
        if !self.is_settled(at) {
            return;
        }
        if let Some(word) = self.settled.get_mut(usize::from(at) / 64) {
            *word &= !(1 << (at % 64));
            self.settled_count -= 1;
        }
    }

    fn find(&self, at: u16) -> Result<usize, usize> {
        // What is leased comes in order: it is the last mostly.
        match self.marks.last() {
            Some((last, _)) if *last < at => Err(self.marks.len()),
            _ => self.marks.binary_search_by_key(&at, |(at, _)| *at),
        }
    }

    fn mark(&self, at: u16) -> Option<Mark> {
        let found = self.find(at).ok()?;
        self.marks.get(found).map(|(_, mark)| *mark)
    }

    fn set_mark(&mut self, at: u16, mark: Mark) {
        match self.find(at) {
            Ok(found) => {
                if let Some((_, known)) = self.marks.get_mut(found) {
                    *known = mark;
                }
            }
            Err(before) => self.marks.insert(before, (at, mark)),
        }
    }

    fn settle(&mut self, at: u16) {
        if let Ok(found) = self.find(at) {
            self.marks.remove(found);
        }
        if self.marks.is_empty() {
            self.marks = Vec::new();
        }
        self.set_bit(at);
    }

    /// The first record from `at` on that is not settled; the end of the chunk if there is none.
    fn first_unsettled(&self, at: u16) -> u16 {
        let first = usize::from(at) / 64;
        let words = self.settled.iter().enumerate().skip(first);
        let mut open = words.filter_map(|(index, word)| {
            let passed = if index == first { (1_u64 << (at % 64)) - 1 } else { 0 };
            let open = !(word | passed);
            (open != 0).then(|| (index * 64) as u16 + open.trailing_zeros() as u16)
        });
        open.next().unwrap_or(CHUNK as u16)
    }
}

const fn place(at: Offset) -> u16 {
    (at.0 % CHUNK) as u16
}

/// The places of a chunk that lie in a range of offsets.
fn range_of(number: u64, range: Range<Offset>) -> Range<u16> {
    let base = number * CHUNK;
    let clamp = |at: Offset| at.0.saturating_sub(base).min(CHUNK) as u16;
    clamp(range.start)..clamp(range.end).max(clamp(range.start))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests fail by panicking")]

    use super::super::dice::Dice;
    use super::*;

    const MARK: Mark =
        Mark { state: State::Leased, deliveries: 1, tag: 7, first_ms: 5, until_ms: 9 };

    fn window(start: u64) -> Window {
        Window::new(Offset(start))
    }

    fn settle(window: &mut Window, range: Range<u64>) {
        range.for_each(|at| window.settle(Offset(at)));
    }

    #[test]
    fn the_next_record_that_is_not_settled() {
        let mut window = Window::new(Offset(5));
        assert_eq!(window.next_unsettled(Offset(0)), Offset(5));
        window.settle_range(Offset(6)..Offset(3 * CHUNK + 2));
        window.settle(Offset(3 * CHUNK + 3));
        let next = |at| window.next_unsettled(Offset(at)).0;
        assert_eq!([next(5), next(6), next(CHUNK)], [5, 3 * CHUNK + 2, 3 * CHUNK + 2]);
        assert_eq!([next(3 * CHUNK + 3), next(9 * CHUNK)], [3 * CHUNK + 4, 9 * CHUNK]);
    }

    #[test]
    fn what_is_settled_without_a_gap_costs_nothing() {
        let mut all = window(10);
        settle(&mut all, 10..5_000);
        assert_eq!((all.start(), all.settled_count(), all.chunks.len()), (Offset(5_000), 0, 0));
        assert!(all.is_settled(Offset(3)) && !all.is_settled(Offset(5_000)));
    }

    #[test]
    fn a_range_is_settled_like_its_records() {
        for (marked, range) in [(None, 10..5_000), (Some(10), 11..5_000), (Some(900), 1_024..3_072)]
        {
            let (mut one, mut other) = (window(10), window(10));
            for window in [&mut one, &mut other] {
                marked.into_iter().for_each(|at| window.set_mark(Offset(at), MARK));
            }
            one.settle_range(Offset(range.start)..Offset(range.end));
            settle(&mut other, range);
            assert_eq!((one.start(), one.end()), (other.start(), other.end()));
            assert_eq!(one.settled_count(), other.settled_count());
            assert_eq!(one.chunks.len(), other.chunks.len());
        }
    }

    #[test]
    fn a_gap_holds_the_start_and_whole_chunks_hold_no_bits() {
        let mut gap = window(0);
        settle(&mut gap, 1..10_000);
        assert_eq!((gap.start(), gap.settled_count()), (Offset(0), 9_999));
        let whole = gap.chunks.values().filter(|chunk| matches!(chunk, Chunk::Whole)).count();
        assert_eq!((whole, gap.chunks.len()), (8, 10));
        gap.settle(Offset(0));
        assert_eq!((gap.start(), gap.settled_count(), gap.chunks.len()), (Offset(10_000), 0, 0));
    }

    #[test]
    fn marks_come_and_go() {
        let mut marks = window(1_000);
        for at in [3_000, 1_500, 1_000, 1_023, 1_024] {
            marks.set_mark(Offset(at), MARK);
        }
        marks.set_mark(Offset(1_500), Mark { deliveries: 2, ..MARK });
        let found: Vec<u64> = marks.marks_from(Offset(1_001)).map(|(at, _)| at.0).collect();
        assert_eq!(found, [1_023, 1_024, 1_500, 3_000]);
        assert_eq!(marks.mark(Offset(1_500)).map(|mark| mark.deliveries), Some(2));
        marks.settle(Offset(1_500));
        assert_eq!(marks.mark(Offset(1_500)), None);
        let mut gone = 0;
        marks.settle_before(Offset(1_024), |_| gone += 1);
        assert_eq!((gone, marks.start()), (2, Offset(1_024)));
        marks.forget_from(Offset(1_200), |_| gone += 1);
        assert_eq!((gone, marks.settled_count()), (3, 0));
        assert_eq!(marks.marks_from(Offset(0)).count(), 1);
    }

    /// A checkpoint's clone stays as it was.
    #[test]
    fn a_clone_is_not_changed() {
        let mut live = window(0);
        settle(&mut live, 1..700);
        live.set_mark(Offset(0), MARK);
        let kept = live.clone();
        settle(&mut live, 0..2_000);
        assert_eq!((kept.start(), kept.settled_count()), (Offset(0), 699));
        assert_eq!(kept.mark(Offset(0)), Some(MARK));
        assert_eq!(live.start(), Offset(2_000));
    }

    /// Beside sets of offsets.
    #[test]
    fn it_does_what_sets_do() {
        use std::collections::{BTreeMap, BTreeSet};
        let mut dice = Dice::new(9);
        let mut random = |below| dice.below(below);
        let mut window = window(500);
        let (mut start, mut settled) = (500_u64, BTreeSet::new());
        let mut marks: BTreeMap<u64, Mark> = BTreeMap::new();
        for step in 0..30_000_u32 {
            let at = start + random(4_000);
            match random(1_000) {
                0..=3 => {
                    let to = start + random(1_500);
                    let mut gone = 0;
                    window.settle_before(Offset(to), |_| gone += 1);
                    settled.retain(|at| *at >= to);
                    let before = marks.len();
                    marks.retain(|at, _| *at >= to);
                    assert_eq!(gone, before - marks.len());
                    start = start.max(to);
                }
                4..=6 => {
                    let from = at.saturating_sub(random(3_000));
                    let mut gone = 0;
                    window.forget_from(Offset(from), |_| gone += 1);
                    settled.retain(|at| *at < from);
                    let before = marks.len();
                    marks.retain(|at, _| *at < from);
                    assert_eq!(gone, before - marks.len());
                    start = start.min(from);
                }
                7..=400 if !settled.contains(&at) => {
                    let mark = Mark { tag: step, ..MARK };
                    window.set_mark(Offset(at), mark);
                    marks.insert(at, mark);
                }
                401..=420 => {
                    let run = 1 + random(3_000);
                    let free = (at..at + run).take_while(|at| !marks.contains_key(at)).count();
                    let range = at..at + free as u64;
                    window.settle_range(Offset(range.start)..Offset(range.end));
                    settled.extend(range);
                }
                _ => {
                    let run = 1 + random(40);
                    for at in at..at + run {
                        window.settle(Offset(at));
                        settled.insert(at);
                        marks.remove(&at);
                    }
                }
            }
            while settled.remove(&start) {
                start += 1;
            }
            assert_eq!(window.start(), Offset(start), "step {step}");
            assert_eq!(window.settled_count(), settled.len() as u64, "step {step}");
            let at = start + random(5_000);
            assert_eq!(window.is_settled(Offset(at)), settled.contains(&at), "step {step}");
            let range = start.saturating_sub(at % 700)..at;
            let before = start - range.start;
            let count = settled.range(range.clone()).count() as u64;
            let range = Offset(range.start)..Offset(range.end);
            assert_eq!(window.settled_in(range.clone()), before + count, "step {step}");
            let count = marks.range(range.start.0..range.end.0).count() as u64;
            assert_eq!(window.marked_in(range), count, "step {step}");
            if step % 100 == 0 {
                let mut again = Window::new(window.start());
                assert!(window.chunks_from(0).all(|chunk| again.push(chunk).is_some()));
                window = again;
                let found = window.marks_from(Offset(0)).map(|(at, mark)| (at.0, mark));
                assert!(found.eq(marks.iter().map(|(at, mark)| (*at, *mark))), "step {step}");
            }
        }
    }
}
