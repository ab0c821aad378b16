//! Times at which something falls due: a wheel of wheels, 128 slots each.
//!
//! ```text
//!   level 0: slots of 1 ms    level 1: of 64 ms    level 2: of 4,096 ms    ...    level 10
//!   a timer lies in the lowest level of whose next 128 slots one holds its time; when now reaches
//!   the slot before that, it may move to a lower level, when now reaches the slot, it has to
//! ```
//!
//! So there is time to empty a slot, however many lie in it: who is due right at its beginning
//! does not wait for all the others to move.
//!
//! Owns: timers and the time up to which they were looked at. 16 bytes a timer; a timer moves at
//! most once per level, so one of a second costs three moves and one of twelve hours six.
//! Must never: do more moves at once than it was told; forget a timer.
//! Invariants: no timer in a slot is due before `now`; what is due at `now` or before is `ripe`. A
//! timer cannot be taken back: whoever gets it looks whether it still means something.

/// A slot of one level is as long as so many (a power of two) of the one below.
const DIGIT: u32 = 6;
/// Those of the slot that now is in, and of the next.
const SLOTS: usize = 2 << DIGIT;
const LEVELS: usize = u64::BITS.div_ceil(DIGIT) as usize;
/// Timers in one piece of memory.
const PIECE: usize = 1 << 10;

/// What falls due, and when, in milliseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Timer {
    due_ms: u64,
    item: u64,
}

/// Timers in no order. However many there are, it grows and shrinks by a piece: millions in one
/// would be copied when they have to move, which takes longer than anybody should wait.
#[derive(Debug, Default)]
struct Pile {
    /// All of them are full but the last, and none is empty.
    pieces: Vec<Vec<Timer>>,
}

impl Pile {
    fn is_empty(&self) -> bool {
        self.pieces.is_empty()
    }

    fn push(&mut self, timer: Timer) {
        match self.pieces.last_mut().filter(|last| last.len() < PIECE) {
            Some(last) => last.push(timer),
            None => self.pieces.push(vec![timer]),
        }
    }

    fn pop(&mut self) -> Option<Timer> {
        let last = self.pieces.last_mut()?;
        let timer = last.pop();
        if last.is_empty() {
            self.pieces.pop();
        }
        timer
    }
}

#[derive(Debug)]
struct Level {
    slots: [Pile; SLOTS],
    /// A bit for each slot that is not empty.
    taken: u128,
}

/// See the module.
#[derive(Debug, Default)]
pub(crate) struct Wheel {
    now_ms: u64,
    /// Levels are made when they are first needed.
    levels: [Option<Box<Level>>; LEVELS],
    ripe: Pile,
    count: usize,
}

/// A slot, and the time at which it begins.
#[derive(Clone, Copy)]
struct Place {
    level: usize,
    slot: usize,
    begins_ms: u64,
}

impl Wheel {
    /// A wheel that has looked at everything before `now_ms`.
    pub(crate) fn new(now_ms: u64) -> Self {
        Self { now_ms, ..Self::default() }
    }

    /// Timers that have not come out yet.
    pub(crate) fn len(&self) -> usize {
        self.count
    }

    /// Lets `item` come out when it is `due_ms`; at the next look, if that is over.
    pub(crate) fn insert(&mut self, item: u64, due_ms: u64) {
        self.count += 1;
        self.put(Timer { due_ms, item });
    }

    fn put(&mut self, timer: Timer) {
        if timer.due_ms <= self.now_ms {
            self.ripe.push(timer);
            return;
        }
        // Fewer bits in which it is ahead than this leave it fewer than `SLOTS` slots ahead.
        let ahead = u64::BITS - (timer.due_ms - self.now_ms).leading_zeros();
        let mut digit = ahead.saturating_sub(DIGIT + 1) / DIGIT;
        while (timer.due_ms >> (DIGIT * digit)) - (self.now_ms >> (DIGIT * digit)) >= SLOTS as u64 {
            digit += 1;
        }
        let slot = slot_at(timer.due_ms, digit);
        let level = self.levels.get_mut(digit as usize).map(Option::get_or_insert_default);
        let Some(timers) = level.and_then(|level| {
            level.taken |= 1 << slot;
            level.slots.get_mut(slot)
        }) else {
            unreachable!("there is a level for every digit and a slot for each of its values");
        };
        timers.push(timer);
    }

    /// Hands out items that are due at `now_ms`, at most `moves_max` moves of timers long; answers
    /// how many of these are left. The rest comes out with later calls.
    pub(crate) fn advance(
        &mut self,
        now_ms: u64,
        moves_max: usize,
        mut due: impl FnMut(u64),
    ) -> usize {
        let mut moves = moves_max;
        loop {
            if moves == 0 {
                return 0;
            }
            if let Some(timer) = self.ripe.pop() {
                moves -= 1;
                self.count -= 1;
                due(timer.item);
                continue;
            }
            let Some(place) = self.next().filter(|place| place.begins_ms <= now_ms) else { break };
            self.now_ms = self.now_ms.max(place.begins_ms);
            moves = self.empty(place, moves);
        }
        // Nothing lies between: all that is left begins later.
        self.now_ms = self.now_ms.max(now_ms);
        moves
    }

    /// Moves timers of slots that begin next, so many at most: then there is less to do when they
    /// begin. Answers how many of these moves are left.
    pub(crate) fn prepare(&mut self, moves_max: usize) -> usize {
        let mut moves = moves_max;
        while moves > 0 {
            let Some(place) = self.upcoming() else { break };
            moves = self.empty(place, moves);
        }
        moves
    }

    /// Whether there is anything to prepare.
    pub(crate) fn has_upcoming(&self) -> bool {
        self.upcoming().is_some()
    }

    /// A slot that begins next, of the lowest level of which it holds any timers.
    fn upcoming(&self) -> Option<Place> {
        let higher = (0_u32..).zip(&self.levels).skip(1);
        let mut upcoming = higher.filter_map(|(digit, level)| {
            let next = (self.now_ms >> (DIGIT * digit)) + 1;
            let slot = next as usize % SLOTS;
            let is_taken = level.as_ref()?.taken >> slot & 1 == 1;
            let begins_ms = next << (DIGIT * digit);
            is_taken.then_some(Place { level: digit as usize, slot, begins_ms })
        });
        upcoming.next()
    }

    /// Whether something that is due at `now_ms` has not come out.
    #[cfg(test)]
    pub(crate) fn is_behind(&self, now_ms: u64) -> bool {
        !self.ripe.is_empty() || self.next().is_some_and(|place| place.begins_ms <= now_ms)
    }

    /// A time at which it is worth looking again; never later than the first timer is due.
    pub(crate) fn next_ms(&self) -> Option<u64> {
        if !self.ripe.is_empty() {
            return Some(self.now_ms);
        }
        self.next().map(|place| place.begins_ms)
    }

    /// The slot that begins first.
    fn next(&self) -> Option<Place> {
        let taken = (0_u32..).zip(&self.levels).filter_map(|(digit, level)| {
            let now = self.now_ms >> (DIGIT * digit);
            let from_now_on = level.as_ref()?.taken.rotate_right((now % SLOTS as u64) as u32);
            let ahead = (from_now_on != 0).then(|| u64::from(from_now_on.trailing_zeros()))?;
            let slot = (now + ahead) as usize % SLOTS;
            let begins_ms = (now + ahead) << (DIGIT * digit);
            Some(Place { level: digit as usize, slot, begins_ms })
        });
        taken.min_by_key(|place| place.begins_ms)
    }

    /// Moves timers of a slot that has begun, or begins next, to where they belong now; answers how
    /// many moves are left.
    fn empty(&mut self, place: Place, mut moves: usize) -> usize {
        while moves > 0 {
            let level = self.levels.get_mut(place.level).and_then(Option::as_mut);
            let Some(level) = level else { unreachable!("a place is of a level that is there") };
            let timers = level.slots.get_mut(place.slot);
            let Some(timer) = timers.and_then(Pile::pop) else {
                level.taken &= !(1 << place.slot);
                // Memory of a burst goes back.
                if let Some(timers) = level.slots.get_mut(place.slot) {
                    *timers = Pile::default();
                }
                break;
            };
            moves -= 1;
            assert!(timer.due_ms >= place.begins_ms, "a timer lies in a slot of its time");
            self.put(timer);
        }
        moves
    }
}

impl Default for Level {
    fn default() -> Self {
        Self { slots: std::array::from_fn(|_| Pile::default()), taken: 0 }
    }
}

const fn slot_at(time_ms: u64, digit: u32) -> usize {
    ((time_ms >> (DIGIT * digit)) % SLOTS as u64) as usize
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::super::dice::Dice;
    use super::*;

    fn out(wheel: &mut Wheel, now_ms: u64, moves_max: usize) -> Vec<u64> {
        let mut out = Vec::new();
        wheel.advance(now_ms, moves_max, |item| out.push(item));
        out.sort_unstable();
        out
    }

    #[test]
    fn what_is_due_comes_out_and_nothing_else() {
        let mut wheel = Wheel::new(1_000);
        for (item, due_ms) in [(1, 1_001), (2, 1_064), (3, 5_000), (4, u64::MAX), (5, 10)] {
            wheel.insert(item, due_ms);
        }
        assert!(wheel.is_behind(1_000), "what is over is due at once");
        assert_eq!(out(&mut wheel, 1_000, 100), [5]);
        assert!(!wheel.is_behind(1_000));
        assert_eq!(wheel.next_ms(), Some(1_001));
        assert_eq!(out(&mut wheel, 1_001, 100), [1]);
        assert!(out(&mut wheel, 1_063, 100).is_empty());
        assert_eq!(out(&mut wheel, 4_999, 100), [2]);
        assert_eq!(out(&mut wheel, 5_000, 100), [3]);
        assert!(out(&mut wheel, 4_000, 100).is_empty(), "a clock that went back harms nothing");
        assert_eq!(wheel.len(), 1);
        assert_eq!(out(&mut wheel, u64::MAX, 100), [4]);
        assert_eq!((wheel.len(), wheel.next_ms()), (0, None));
    }

    /// A million at one moment: each look does what it was told, and nothing is lost between.
    #[test]
    fn work_is_done_in_pieces() {
        let mut wheel = Wheel::new(0);
        let due_ms = 3_600_001;
        (0..1_000_000).for_each(|item| wheel.insert(item, due_ms));
        let mut looks = 0;
        let mut seen = BTreeSet::new();
        while wheel.is_behind(due_ms) {
            let mut came = 0;
            wheel.advance(due_ms, 10_000, |item| {
                came += 1;
                assert!(seen.insert(item), "{item} came out twice");
            });
            assert!(came <= 10_000);
            looks += 1;
            // Others that come meanwhile are not lost in a slot that is half empty.
            if looks == 5 {
                wheel.insert(2_000_000, due_ms);
            }
        }
        assert_eq!(seen.len(), 1_000_001);
        assert!(looks > 100, "{looks}");
    }

    /// However many lie in a slot of minutes, who is due when it begins comes out then.
    #[test]
    fn a_slot_that_is_prepared_holds_nobody_up() {
        let slot_ms = 1 << (3 * DIGIT);
        let mut wheel = Wheel::new(5 * slot_ms + 1);
        for item in 0..50_000 {
            wheel.insert(item, 8 * slot_ms + item * slot_ms / 50_000);
        }
        for now_ms in (wheel.now_ms..8 * slot_ms + 1_000).step_by(10) {
            let came = out(&mut wheel, now_ms, 100);
            assert!(!wheel.is_behind(now_ms), "{now_ms} {came:?}");
            wheel.prepare(40);
            let next_began = (7 * slot_ms..7 * slot_ms + 10_000).contains(&now_ms);
            assert!(!next_began || wheel.has_upcoming(), "{now_ms}: it takes its time");
        }
        assert_eq!(wheel.len(), 49_809);
    }

    /// Beside a list that is searched from end to end.
    #[test]
    fn it_does_what_a_list_does() {
        let mut dice = Dice::new(1);
        let mut random = |below| dice.below(below);
        let mut wheel = Wheel::new(0);
        let mut list: Vec<(u64, u64)> = Vec::new();
        let (mut now_ms, mut item) = (0, 0);
        for _ in 0..20_000 {
            for _ in 0..random(4) {
                let ahead = random(10);
                let due_ms = now_ms + random(1 << (2 * ahead + 1));
                wheel.insert(item, due_ms);
                list.push((due_ms, item));
                item += 1;
            }
            now_ms += random(300);
            let moves_max = 1 + random(6) as usize;
            wheel.prepare(random(8) as usize);
            let mut came = out(&mut wheel, now_ms, moves_max);
            assert!(came.len() <= moves_max);
            for item in &came {
                let at = list.iter().position(|(_, other)| other == item);
                assert!(at.is_some(), "{item} was put in and is not out yet");
                let (due_ms, _) = list.swap_remove(at.unwrap_or(0));
                assert!(due_ms <= now_ms, "{item} came {} ms early", due_ms - now_ms);
            }
            if !wheel.is_behind(now_ms) {
                assert!(list.iter().all(|(due_ms, _)| *due_ms > now_ms));
                let first = list.iter().map(|(due_ms, _)| *due_ms).min();
                assert!(wheel.next_ms() <= first && wheel.next_ms().is_some() == first.is_some());
            }
            came.clear();
            assert_eq!(wheel.len(), list.len());
        }
        assert!(item > 20_000);
    }
}
