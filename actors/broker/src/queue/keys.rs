//! Which records of a partition a group that is ordered by key may have now.
//!
//! ```text
//!   key a:  17 leased   <- 23 <- 40        23 waits until 17 is settled
//!   key b:  19 visible  <- 20              19 is ready
//!   no key: 21 visible                     21 is ready
//!                              looked at up to `scanned`
//! ```
//!
//! The leader's own, in no checkpoint: it follows from the backlog and the keys of the records, and
//! is found anew by looking at those that are not settled. Apply keeps it true, see [`Keys::note`].
//!
//! Owns: for each key, its records that are not settled, in order; the first ones that may be had.
//! Must never: offer a record while one before it with its key is not settled.
//! Invariants: every record before `scanned` that is not settled is in here. Two keys with one hash
//! are one key: their records wait for each other, and nothing else. A record costs about 60 bytes.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::hash::{DefaultHasher, Hasher};

use barrage_model::Offset;
use barrage_world::planted;

use super::backlog::{AHEAD_MAX, Backlog};
use super::records::{Seen, walk};

/// Records between two looks at the clock.
const RECORDS_PER_TURN: u64 = 16;

/// See the module.
#[derive(Debug)]
pub(crate) struct Keys {
    /// The first record that was not looked at.
    scanned: Offset,
    /// Hash of the key of each record that is not settled.
    known: BTreeMap<Offset, Option<u64>>,
    /// How often the backlog had been rewound when this was begun.
    rewinds: u32,
    waiting: BTreeMap<u64, VecDeque<Offset>>,
    ready: BTreeSet<Offset>,
}

/// The hash of a key.
pub(crate) fn hash(key: &[u8]) -> u64 {
    let mut hasher = DefaultHasher::new();
    hasher.write(key);
    hasher.finish()
}

impl Keys {
    /// Nothing was looked at yet.
    pub(crate) fn new(backlog: &Backlog) -> Self {
        let (known, waiting, ready) = (BTreeMap::new(), BTreeMap::new(), BTreeSet::new());
        let (scanned, rewinds) = (backlog.start(), backlog.rewinds());
        Self { scanned, rewinds, known, waiting, ready }
    }

    /// How often the backlog had been rewound when this was begun.
    pub(crate) fn rewinds(&self) -> u32 {
        self.rewinds
    }

    /// What is settled need not be looked at.
    pub(crate) fn pass_settled(&mut self, backlog: &Backlog) {
        self.scanned = backlog.next_unsettled(self.scanned);
    }

    /// The first record that was not looked at.
    pub(crate) fn scanned(&self) -> Offset {
        self.scanned
    }

    /// Whether no further record may be looked at before others are settled.
    pub(crate) fn is_full(&self) -> bool {
        self.known.len() as u64 >= AHEAD_MAX
    }

    /// Records that may be had now.
    pub(crate) fn ready_count(&self) -> usize {
        self.ready.len()
    }

    /// The next record has the key with this hash, or none.
    pub(crate) fn push(&mut self, at: Offset, key: Option<u64>, backlog: &Backlog) {
        assert!(at >= self.scanned, "records are looked at in order");
        self.scanned = Offset(at.0 + 1);
        if backlog.is_settled(at) {
            return;
        }
        // Wrong when planted: records of one key go side by side.
        let key = key.filter(|_| !planted("broker-keys-out-of-order"));
        self.known.insert(at, key);
        if let Some(key) = key {
            self.waiting.entry(key).or_default().push_back(at);
        }
        self.consider(at, key, backlog);
    }

    /// A record was settled, or may be had again, or was not leased after all.
    pub(crate) fn note(&mut self, at: Offset, backlog: &Backlog) {
        let Some(key) = self.known.get(&at).copied() else { return };
        if !backlog.is_settled(at) {
            return self.consider(at, key, backlog);
        }
        self.known.remove(&at);
        self.ready.remove(&at);
        let Some(key) = key else { return };
        let Entry::Occupied(mut entry) = self.waiting.entry(key) else { return };
        let chain = entry.get_mut();
        match chain.front() {
            Some(first) if *first == at => drop(chain.pop_front()),
            // Leased before the group was ordered.
            _ => drop(chain.binary_search(&at).ok().and_then(|place| chain.remove(place))),
        }
        match chain.front().copied() {
            Some(first) => self.consider(first, Some(key), backlog),
            None => drop(entry.remove()),
        }
    }

    /// Everything before the backlog's start is settled.
    pub(crate) fn follow_start(&mut self, backlog: &Backlog) {
        let start = backlog.start();
        self.scanned = self.scanned.max(start);
        while let Some((at, _)) = self.known.first_key_value().filter(|(at, _)| **at < start) {
            let at = *at;
            self.note(at, backlog);
        }
    }

    /// Takes the oldest before `to` that may be had: whoever does so leases them, or notes them
    /// again.
    pub(crate) fn take(&mut self, count_max: usize, to: Offset) -> Vec<Offset> {
        let mut taken = Vec::new();
        while taken.len() < count_max
            && self.ready.first().is_some_and(|at| *at < to)
            && let Some(at) = self.ready.pop_first()
        {
            taken.push(at);
        }
        taken
    }

    /// Takes the oldest before `to` that nobody has and nobody is handed: they leave, in their
    /// order, so that one is not waited for by those behind it with its key. Those behind one that
    /// somebody has stay.
    pub(crate) fn take_leaving(
        &mut self,
        count_max: usize,
        to: Offset,
        backlog: &Backlog,
    ) -> Vec<Offset> {
        let (mut taken, mut held) = (Vec::new(), BTreeSet::new());
        for (at, key) in self.known.range(..to) {
            if taken.len() >= count_max {
                break;
            }
            if key.is_some_and(|key| held.contains(&key)) {
                continue;
            }
            let first = key.and_then(|key| self.waiting.get(&key)?.front());
            let may_be_had = match first.is_none_or(|first| first == at) {
                // One that is not there any more is on its way into a lease.
                true => self.ready.remove(at),
                false => backlog.may_be_had(*at),
            };
            if may_be_had {
                taken.push(*at);
            } else if !backlog.is_dying(*at) {
                held.extend(*key);
            }
        }
        taken
    }

    fn consider(&mut self, at: Offset, key: Option<u64>, backlog: &Backlog) {
        let first = key.and_then(|key| self.waiting.get(&key)?.front());
        let is_first = first.is_none_or(|first| *first == at);
        match is_first && backlog.may_be_had(at) {
            true => drop(self.ready.insert(at)),
            false => drop(self.ready.remove(&at)),
        }
    }
}

/// Looks at the records of a batch, as far as there is room, and until it is late; answers whether
/// that was all of them. What cannot be opened has no key: whoever gets it finds out.
pub(crate) fn look(
    batch: &[u8],
    keys: &mut Keys,
    backlog: &Backlog,
    end: Offset,
    is_late: impl Fn() -> bool,
) -> bool {
    let mut turn = 0;
    walk(batch, keys.scanned(), end, |seen| match seen {
        Seen::Record(record) => {
            turn += 1;
            if keys.is_full() || (turn % RECORDS_PER_TURN == 0 && is_late()) {
                return false;
            }
            keys.push(record.offset, record.key.map(hash), backlog);
            true
        }
        Seen::Unknown(count) => {
            for _ in 0..count {
                if keys.is_full() {
                    return false;
                }
                keys.push(keys.scanned(), None, backlog);
            }
            true
        }
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests fail by panicking")]
    #![allow(clippy::indexing_slicing, reason = "tests fail by panicking")]

    use barrage_model::batch::{BatchBuilder, Compression, NewRecord, stamp};
    use barrage_model::group::Order;

    use super::*;
    use crate::queue::backlog::{Leased, Policy, Want};
    use crate::queue::dice::Dice;

    fn backlog() -> Backlog {
        let mut backlog = Backlog::new(Offset(0));
        backlog.set_ordered(true);
        backlog
    }

    fn lease(backlog: &mut Backlog, chosen: &[Offset], end: u64) -> Vec<Leased> {
        let (now_ms, log_time_ms, visibility_ms) = (0, 0, 1_000);
        let end = Offset(end);
        backlog
            .lease_chosen(&Want { now_ms, log_time_ms, end, count_max: 100, visibility_ms }, chosen)
    }

    fn offsets(numbers: &[u64]) -> Vec<Offset> {
        numbers.iter().copied().map(Offset).collect()
    }

    #[test]
    fn a_record_waits_for_those_before_it_with_its_key() {
        let mut backlog = backlog();
        let mut keys = Keys::new(&backlog);
        for (at, key) in
            [Some(1), Some(1), Some(2), None, None, Some(1), Some(2)].iter().enumerate()
        {
            keys.push(Offset(at as u64), *key, &backlog);
        }
        assert_eq!(keys.take(9, Offset(u64::MAX)), offsets(&[0, 2, 3, 4]));
        let leased = lease(&mut backlog, &offsets(&[0, 2, 3, 4]), 7);
        assert_eq!(leased.len(), 4);
        assert_eq!((backlog.fresh(), keys.ready_count()), (Offset(5), 0));
        for at in backlog.take_freed().unwrap() {
            keys.note(at, &backlog);
        }
        assert_eq!(keys.ready_count(), 0, "1 is visible and waits for 0");
        backlog.ack(leased[0].receipt, 0).unwrap();
        let policy = Policy { order: Order::Key, ..Policy::default() };
        backlog.nack(leased[1].receipt, None, 0, &policy).unwrap();
        for at in backlog.take_freed().unwrap() {
            keys.note(at, &backlog);
        }
        assert_eq!(keys.take(9, Offset(u64::MAX)), offsets(&[1, 2]), "2 comes back before 6");
        assert_eq!(lease(&mut backlog, &offsets(&[1, 2]), 7).len(), 2);
        backlog.rewind(Offset(1));
        assert_eq!(backlog.take_freed(), None);
        assert_eq!(backlog.take_freed(), Some(Vec::new()));
    }

    #[test]
    fn those_that_leave_do_not_wait_for_each_other() {
        let mut backlog = backlog();
        let mut keys = Keys::new(&backlog);
        for (at, key) in
            [Some(1), Some(1), Some(2), None, Some(2), Some(1), Some(2)].iter().enumerate()
        {
            keys.push(Offset(at as u64), *key, &backlog);
        }
        // Somebody is about to have the first of 2.
        let first = keys.take(2, Offset(u64::MAX));
        assert_eq!(first, offsets(&[0, 2]));
        keys.note(Offset(0), &backlog);
        assert_eq!(keys.take_leaving(2, Offset(6), &backlog), offsets(&[0, 1]));
        let leased = lease(&mut backlog, &offsets(&[0, 1]), 7);
        for one in &leased {
            backlog.expire(one.receipt, 0, true).unwrap();
        }
        for at in backlog.take_freed().unwrap() {
            keys.note(at, &backlog);
        }
        assert_eq!(keys.take(9, Offset(u64::MAX)), offsets(&[3]), "5 waits for those that die");
        keys.note(Offset(3), &backlog);
        assert_eq!(keys.take_leaving(9, Offset(5), &backlog), offsets(&[3]));
        keys.note(Offset(3), &backlog);
        assert_eq!(keys.take_leaving(9, Offset(9), &backlog), offsets(&[3, 5]));
    }

    /// Beside a list that is searched from end to end, with leases, acks, nacks, lost answers,
    /// retention and leaders that begin anew.
    #[test]
    fn it_does_what_a_list_does() {
        let policy = Policy { order: Order::Key, ..Policy::default() };
        for seed in 0..20 {
            let mut dice = Dice::new(seed);
            let mut backlog = backlog();
            let mut keys = Keys::new(&backlog);
            let all: Vec<Option<u64>> =
                (0..400).map(|_| Some(dice.below(6)).filter(|key| *key > 0)).collect();
            let mut held: Vec<Leased> = Vec::new();
            let (mut scanned, mut leases) = (0, 0);
            for _ in 0..4_000 {
                match dice.below(9) {
                    0 | 1 if scanned < all.len() => {
                        if dice.below(4) == 0 {
                            keys.pass_settled(&backlog);
                        }
                        if Offset(scanned as u64) >= keys.scanned() {
                            keys.push(Offset(scanned as u64), all[scanned], &backlog);
                        }
                        scanned += 1;
                    }
                    2 | 3 => {
                        let taken = keys.take(1 + dice.below(4) as usize, Offset(u64::MAX));
                        if dice.below(8) == 0 {
                            // It was never proposed.
                            taken.iter().for_each(|at| keys.note(*at, &backlog));
                        } else {
                            let leased = lease(&mut backlog, &taken, all.len() as u64);
                            assert_eq!(leased.len(), taken.len());
                            leases += leased.len();
                            held.extend(leased);
                        }
                    }
                    4 | 5 if !held.is_empty() => {
                        let one = held.swap_remove(dice.below(held.len() as u64) as usize);
                        backlog.ack(one.receipt, 0).ok();
                    }
                    6 if !held.is_empty() => {
                        let one = held.swap_remove(dice.below(held.len() as u64) as usize);
                        backlog.nack(one.receipt, None, 0, &policy).ok();
                    }
                    7 if dice.below(40) == 0 => {
                        backlog.skip_to(Offset(backlog.start().0 + dice.below(6)));
                        keys.follow_start(&backlog);
                        scanned = scanned.max(backlog.start().0 as usize);
                    }
                    8 if dice.below(60) == 0 => {
                        keys = Keys::new(&backlog);
                        scanned = backlog.start().0 as usize;
                    }
                    _ => {}
                }
                for at in backlog.take_freed().unwrap() {
                    keys.note(at, &backlog);
                }
                let is_first = |at: usize| {
                    let before =
                        (0..at).filter(|before| !backlog.is_settled(Offset(*before as u64)));
                    all[at].is_none() || before.into_iter().all(|before| all[before] != all[at])
                };
                let may = |at: &usize| {
                    let offset = Offset(*at as u64);
                    !backlog.is_settled(offset) && backlog.may_be_had(offset) && is_first(*at)
                };
                let want: Vec<Offset> =
                    (0..scanned).filter(may).map(|at| Offset(at as u64)).collect();
                assert_eq!(keys.ready.iter().copied().collect::<Vec<_>>(), want, "seed {seed}");
            }
            assert!(leases > 300, "{leases}");
        }
    }

    #[test]
    fn keys_are_read_from_batches_and_what_cannot_be_read_has_none() {
        let backlog = backlog();
        let mut builder = BatchBuilder::new(Compression::Lz4, 1000);
        for key in [Some("a"), Some("b"), None, Some("a")] {
            let key = key.map(str::as_bytes);
            builder.push(&NewRecord { key, timestamp_ms: 1000, ..Default::default() }).unwrap();
        }
        let mut bytes = builder.finish().unwrap();
        stamp(&mut bytes, Offset(2), 1);
        let mut keys = Keys { scanned: Offset(1), ..Keys::new(&backlog) };
        assert!(look(&bytes, &mut keys, &backlog, Offset(99), || false));
        assert_eq!(
            (keys.scanned(), keys.take(9, Offset(u64::MAX))),
            (Offset(6), offsets(&[1, 2, 3, 4]))
        );
        let last = bytes.len() - 1;
        bytes[last] ^= 1;
        let mut keys = Keys { scanned: Offset(3), ..Keys::new(&backlog) };
        assert!(look(&bytes, &mut keys, &backlog, Offset(5), || false));
        assert_eq!(keys.take(9, Offset(u64::MAX)), offsets(&[3, 4]), "as if they had no key");
    }
}
