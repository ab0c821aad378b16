//! Whether something can be reached, and when to try again. Pure: times and chance come in.
//!
//! ```text
//!             call                    connected
//!   Unknown --------> Trying(hopeful) -------------------> Up
//!      ^                 |    failed                        | lost
//!      |                 v                                  v
//!      +-- nobody asks -- Resting{until} <--------------------+
//!                        |      ^ failed
//!              asked     v      |            connected
//!                      Trying(not hopeful) --------------> Up
//! ```
//! Calls wait for a try that may well succeed. After a failure they are refused at once, until
//! there is a connection again or nobody asked for a while: what was known is too old then.
//!
//! Invariants: a rest is between 3/4 and 5/4 of `retry_min` doubled with every failure, at most
//! `retry_max`; only an answer ends the series of failures, not a connection alone.

use std::time::Duration;

use crate::options::Options;

/// What is known.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum State {
    Unknown,
    Trying { hopeful: bool },
    Resting { asked: bool },
    Up,
}

/// What becomes of a call.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Verdict {
    /// It waits, or is sent.
    Queue,
    /// It waits, and a try begins now.
    QueueAndTry,
    /// It is refused.
    Refuse,
}

/// One thing to be reached.
#[derive(Debug)]
pub(crate) struct Reach {
    state: State,
    failure_count: u32,
    retry_min: Duration,
    retry_max: Duration,
}

impl Reach {
    pub(crate) const fn new(options: &Options) -> Self {
        let (retry_min, retry_max) = (options.retry_min, options.retry_max);
        Self { state: State::Unknown, failure_count: 0, retry_min, retry_max }
    }

    /// Somebody wants to send.
    pub(crate) fn handle_call(&mut self) -> Verdict {
        match self.state {
            State::Up | State::Trying { hopeful: true } => Verdict::Queue,
            State::Trying { hopeful: false } => Verdict::Refuse,
            State::Resting { .. } => {
                self.state = State::Resting { asked: true };
                Verdict::Refuse
            }
            State::Unknown => {
                self.state = State::Trying { hopeful: true };
                Verdict::QueueAndTry
            }
        }
    }

    /// A try succeeded.
    pub(crate) fn handle_connected(&mut self) {
        assert!(matches!(self.state, State::Trying { .. }), "nobody tried: {:?}", self.state);
        self.state = State::Up;
    }

    /// What was reached has answered.
    pub(crate) const fn handle_answer(&mut self) {
        self.failure_count = 0;
    }

    /// A try failed, or what was reached is lost: how long to rest.
    pub(crate) fn handle_failure(&mut self, random: u64) -> Duration {
        assert!(
            matches!(self.state, State::Trying { .. } | State::Up),
            "nothing to lose: {:?}",
            self.state
        );
        self.state = State::Resting { asked: false };
        let doublings = self.failure_count.min(DOUBLINGS_MAX);
        self.failure_count = self.failure_count.saturating_add(1);
        let rest = self.retry_min.saturating_mul(1 << doublings).min(self.retry_max);
        let permille =
            JITTER_PERMILLE.start + random % (JITTER_PERMILLE.end - JITTER_PERMILLE.start);
        // Below 1250.
        rest * (permille as u32) / 1000
    }

    /// The rest is over: whether to try again.
    pub(crate) fn handle_rested(&mut self) -> bool {
        assert!(matches!(self.state, State::Resting { .. }), "nobody rested: {:?}", self.state);
        let asked = self.state == State::Resting { asked: true };
        self.state = if asked { State::Trying { hopeful: false } } else { State::Unknown };
        asked
    }

    /// What was reached is not needed any more.
    pub(crate) fn handle_done(&mut self) {
        assert_eq!(self.state, State::Up, "nothing was reached");
        self.state = State::Unknown;
    }
}

/// Rests are multiplied with this many thousandths.
const JITTER_PERMILLE: std::ops::Range<u64> = 750..1250;
/// More doublings exceed every sensible `retry_max`.
const DOUBLINGS_MAX: u32 = 20;

#[cfg(test)]
mod tests {
    use super::*;

    fn reach() -> Reach {
        Reach::new(&Options::default())
    }

    #[test]
    fn calls_wait_for_the_first_try_and_are_refused_after_it_failed() {
        let mut reach = reach();
        assert_eq!(reach.handle_call(), Verdict::QueueAndTry);
        assert_eq!(reach.handle_call(), Verdict::Queue);
        reach.handle_failure(0);
        assert_eq!(reach.handle_call(), Verdict::Refuse);
        assert!(reach.handle_rested(), "somebody asked meanwhile");
        assert_eq!(reach.handle_call(), Verdict::Refuse);
        reach.handle_connected();
        assert_eq!(reach.handle_call(), Verdict::Queue);
        assert_eq!(reach.state, State::Up);
    }

    #[test]
    fn what_nobody_asks_for_is_not_tried() {
        let mut reach = reach();
        reach.handle_call();
        reach.handle_failure(0);
        assert!(!reach.handle_rested());
        assert_eq!(reach.handle_call(), Verdict::QueueAndTry);
    }

    #[test]
    fn rests_double_up_to_the_limit() {
        let mut reach = reach();
        let mut rests = Vec::new();
        reach.handle_call();
        for _ in 0..40 {
            rests.push(reach.handle_failure(250).as_millis());
            reach.handle_call();
            reach.handle_rested();
        }
        assert_eq!(rests[..7], [50, 100, 200, 400, 800, 1000, 1000]);
        assert_eq!(rests[39], 1000);
        reach.handle_connected();
        assert_eq!(reach.handle_failure(250).as_millis(), 1000, "it was of no use");
        reach.handle_call();
        reach.handle_rested();
        reach.handle_connected();
        reach.handle_answer();
        assert_eq!(reach.handle_failure(250).as_millis(), 50);
    }

    #[test]
    fn chance_takes_or_adds_a_quarter() {
        for (random, expected_us) in [(0, 37_500), (250, 50_000), (499, 62_450), (500, 37_500)] {
            let mut reach = reach();
            reach.handle_call();
            assert_eq!(reach.handle_failure(random).as_micros(), expected_us);
        }
    }
}
