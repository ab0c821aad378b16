//! I11: a delayed record is not had before it is due, and not at all once it is cancelled.
//!
//! Demands: no answer shows a delayed record before the earliest time that it may be due at, by the
//! clock of this history and what the brokers' may be ahead of it; none shows one at all whose
//! cancellation was answered with success. A change without an answer may have taken effect or
//! not, and may yet. That a delayed record comes at all is demanded by I1, and that it comes once
//! by I10.
//!
//! Owns: until when each delayed record waits. Cost: about 100 bytes for each of them.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::history::facts::{Facts, Moment};
use crate::history::ledger::{MessageId, MessageSet, ReadId};
use crate::history::name::{Call, Nanos};
use crate::history::verdict::{Report, Rule};

/// A delayed record.
#[derive(Debug)]
struct Delay {
    /// Times of which one holds, and since when each was known to have been set: changes that were
    /// under way side by side took effect in any order.
    dues: Vec<(Nanos, Moment)>,
    is_cancelled: bool,
    /// Changes that may take effect, or may have: the new times; none cancels.
    open: BTreeMap<Call, Option<Nanos>>,
}

impl Delay {
    fn earliest(&self) -> Nanos {
        let all = self.dues.iter().map(|(due, _)| due).chain(self.open.values().flatten());
        all.min().copied().unwrap_or(Nanos(0))
    }
}

/// See the module.
#[derive(Debug, Default)]
pub(crate) struct Delays {
    delays: BTreeMap<MessageId, Delay>,
    /// What brokers' clocks may be ahead, nanoseconds.
    ahead: u64,
}

/// A change that was asked for.
#[derive(Clone, Copy, Debug)]
pub(crate) struct OpenChange {
    call: Call,
    message: MessageId,
    begun: Moment,
}

impl Delays {
    /// Brokers' clocks may be ahead by so much.
    pub(crate) fn ahead(&mut self, by: Duration) {
        self.ahead = self.ahead.max(u64::try_from(by.as_nanos()).unwrap_or(u64::MAX));
    }

    /// A record is sent that is to be had from then on. Its first sending counts.
    pub(crate) fn sent(&mut self, message: MessageId, due: Nanos) {
        let dues = || vec![(due, 0)];
        let delay = || Delay { dues: dues(), is_cancelled: false, open: BTreeMap::new() };
        self.delays.entry(message).or_insert_with(delay);
    }

    /// Somebody begins to change it; nothing is asked of one that was never delayed.
    pub(crate) fn change(
        &mut self,
        (call, begun): (Call, Moment),
        message: MessageId,
        to: Option<Nanos>,
    ) -> Option<OpenChange> {
        self.delays.get_mut(&message)?.open.insert(call, to);
        Some(OpenChange { call, message, begun })
    }

    /// The change took effect.
    pub(crate) fn changed(
        &mut self,
        facts: &Facts,
        report: &mut Report,
        (moment, now): (Moment, Nanos),
        change: &OpenChange,
    ) {
        let Some(delay) = self.delays.get_mut(&change.message) else { return };
        match delay.open.remove(&change.call) {
            Some(Some(due)) => {
                // What was set before this began holds no more.
                delay.dues.retain(|(_, since)| *since >= change.begun);
                delay.dues.push((due, moment));
            }
            Some(None) => {
                delay.is_cancelled = true;
                if facts.ledger.message(change.message).first_read.is_some() {
                    report.add(Rule::I11, now, || {
                        let record = facts.tell(change.message);
                        format!("{record} was cancelled after it had come")
                    });
                }
            }
            None => {}
        }
    }

    /// The change took no effect.
    pub(crate) fn refused(&mut self, change: &OpenChange) {
        if let Some(delay) = self.delays.get_mut(&change.message) {
            delay.open.remove(&change.call);
        }
    }

    /// A record was shown to a reader.
    pub(crate) fn shown(
        &self,
        facts: &mut Facts,
        report: &mut Report,
        (now, read): (Nanos, ReadId),
        message: MessageId,
    ) {
        let Some(delay) = self.delays.get(&message) else { return };
        facts.counters.delays_compared += 1;
        let (earliest, latest) = (delay.earliest(), now.0.saturating_add(self.ahead));
        if delay.is_cancelled {
            report.add(Rule::I11, now, || {
                let (told, record) = (facts.tell_read(read), facts.tell(message));
                format!("{told} was shown what was cancelled: {record}")
            });
        } else if latest < earliest.0 {
            report.add(Rule::I11, now, || {
                let (told, record) = (facts.tell_read(read), facts.tell(message));
                format!("{told} was shown what is due at {earliest}: {record}")
            });
        }
    }

    /// Adds those that need not be anywhere.
    pub(crate) fn add_cancelled(&self, set: &mut MessageSet) {
        for (message, delay) in &self.delays {
            if delay.is_cancelled || delay.open.values().any(Option::is_none) {
                set.insert(*message);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use crate::history::script::check;
    use crate::history::verdict::Rule::{I1, I3, I10, I11};

    #[test]
    fn a_delayed_record_comes_in_its_time() {
        check(&[
            ("when it is due", "p send !5 a -> ok; wait 5; c read 0 -> 0:a", &[]),
            ("late", "p send !5 a -> ok; wait 50; c read 0 -> 0:a", &[]),
            (
                "the brokers' clocks are ahead",
                "ahead 3; p send !5 a -> ok; wait 2; c read 0 -> 0:a",
                &[],
            ),
            (
                "apart and in any order",
                "p send !5 a b -> ok; q send c -> 0; wait 5; c read 0 -> 0:c 1:b",
                &[],
            ),
            (
                "of a producer that sends others, too",
                "p send #7.0.0 a -> 0; p send #7.0.1 !5 b c -> ok; p send #7.0.3 d -> 1; wait 5; \
                 c read 0 -> 0:a 1:d 2:c 3:b",
                &[],
            ),
            (
                "sent again, the first time counts",
                "p send !5 a -> ?; wait 5; p send !5 a -> ok; c read 0 -> 0:a",
                &[],
            ),
            ("early", "p send !5 a -> ok; wait 4; c read 0 -> 0:a", &[I11]),
            ("early to a queue", "p send !5 a -> ok; wait 4; c take g 30 -> 0:a*1", &[I11]),
            (
                "earlier than the clocks are ahead",
                "ahead 3; p send !5 a -> ok; wait 1; c read 0 -> 0:a",
                &[I11],
            ),
            ("twice", "p send #7.0.0 !5 a -> ok; wait 5; c read 0 -> 0:a 1:a", &[I10]),
            ("never", "p send !5 a -> ok; wait 50; drain; c read 0 ->", &[I1]),
            ("elsewhere", "p send !5 a -> ok; wait 5; c read t/1 0 -> 0:a", &[I3]),
        ]);
    }

    #[test]
    fn a_delayed_record_is_moved_and_cancelled() {
        check(&[
            ("moved on", "p send !5 a -> ok; p delay a 9 -> ok; wait 9; c read 0 -> 0:a", &[]),
            ("moved nearer", "p send !50 a -> ok; p delay a 9 -> ok; wait 9; c read 0 -> 0:a", &[]),
            (
                "perhaps moved nearer",
                "p send !50 a -> ok; p delay a 9 -> ?; wait 9; c read 0 -> 0:a",
                &[],
            ),
            (
                "perhaps moved on",
                "p send !5 a -> ok; p delay a 9 -> ?; wait 5; c read 0 -> 0:a",
                &[],
            ),
            (
                "came too early to be moved",
                "p send !5 a -> ok; wait 5; p delay a 9 -> fail; c read 0 -> 0:a",
                &[],
            ),
            (
                "moved by two at a time",
                "p send !5 a -> ok; 1= p delay a 3; 2= q delay a 9; 2 -> ok; 1 -> ok; wait 4; \
                 c read 0 -> 0:a",
                &[],
            ),
            (
                "moved by two, and once more",
                "p send !5 a -> ok; 1= p delay a 3; 2= q delay a 9; 2 -> ok; 1 -> ok; \
                 p delay a 9 -> ok; wait 4; c read 0 -> 0:a",
                &[I11],
            ),
            ("cancelled", "p send !5 a -> ok; p delay a - -> ok; wait 9; drain; c read 0 ->", &[]),
            (
                "perhaps cancelled",
                "p send !5 a -> ok; p delay a - -> ?; wait 9; drain; c read 0 ->",
                &[],
            ),
            (
                "perhaps not cancelled",
                "p send !5 a -> ok; p delay a - -> ?; wait 9; c read 0 -> 0:a",
                &[],
            ),
            (
                "the move is forgotten",
                "p send !5 a -> ok; p delay a 9 -> ok; wait 5; c read 0 -> 0:a",
                &[I11],
            ),
            (
                "not moved nearer",
                "p send !50 a -> ok; p delay a 9 -> fail; wait 9; c read 0 -> 0:a",
                &[I11],
            ),
            (
                "cancelled, and comes",
                "p send !5 a -> ok; p delay a - -> ok; wait 9; c read 0 -> 0:a",
                &[I11],
            ),
            (
                "came, and is cancelled",
                "p send !5 a -> ok; wait 9; c read 0 -> 0:a; p delay a - -> ok",
                &[I11],
            ),
            (
                "not cancelled, and lost",
                "p send !5 a -> ok; p delay a - -> fail; wait 9; drain; c read 0 ->",
                &[I1],
            ),
        ]);
    }
}
