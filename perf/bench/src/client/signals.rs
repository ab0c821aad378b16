//! What the threads of a client tell each other.
//!
//! Owns: the orders that came, and what each thread says of itself. Must never: be locked; a thread
//! that loads looks here at every turn.
//! Invariants: a time is said once; 0 stands for one that was not said yet.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use super::clock::Clock;
use super::task::Order;

/// Shared by all threads of a client.
#[derive(Debug)]
pub(crate) struct Signals {
    clock: Clock,
    start_us: AtomicU64,
    resume_us: AtomicU64,
    finish_us: AtomicU64,
    drain: AtomicBool,
    /// Nobody waits for this client any more.
    given_up: AtomicBool,
    pub threads: Vec<ThreadSignals>,
}

/// What one thread says.
#[derive(Debug, Default)]
pub(crate) struct ThreadSignals {
    /// Records that were acknowledged since what counts began.
    pub published: AtomicU64,
    /// Records that its consumers are behind, [`UNKNOWN`] before all have asked.
    pub behind: AtomicU64,
    /// All that was sent is answered, and no more will be.
    pub produced: AtomicBool,
}

/// Behind by nobody knows how much.
pub(crate) const UNKNOWN: u64 = u64::MAX;

impl Signals {
    /// For so many threads.
    pub(crate) fn new(clock: Clock, threads: usize) -> Self {
        let mut list = Vec::new();
        list.resize_with(threads, ThreadSignals::default);
        Self {
            clock,
            start_us: AtomicU64::new(0),
            resume_us: AtomicU64::new(0),
            finish_us: AtomicU64::new(0),
            drain: AtomicBool::new(false),
            given_up: AtomicBool::new(false),
            threads: list,
        }
    }

    /// Takes an order.
    pub(crate) fn take(&self, order: Order) {
        match order {
            Order::Start { at_us } => self.start_us.store(at_us, Ordering::Release),
            Order::Resume { at_us } => self.resume_us.store(at_us, Ordering::Release),
            Order::Finish { at_us } => self.finish_us.store(at_us, Ordering::Release),
            Order::Drain => self.drain.store(true, Ordering::Release),
        }
    }

    /// Ends all threads.
    pub(crate) fn give_up(&self) {
        self.given_up.store(true, Ordering::Release);
    }

    pub(crate) fn is_given_up(&self) -> bool {
        self.given_up.load(Ordering::Acquire)
    }

    pub(crate) fn start(&self) -> Option<Instant> {
        self.time(&self.start_us)
    }

    pub(crate) fn resume(&self) -> Option<Instant> {
        self.time(&self.resume_us)
    }

    pub(crate) fn finish(&self) -> Option<Instant> {
        self.time(&self.finish_us)
    }

    pub(crate) fn drains(&self) -> bool {
        self.drain.load(Ordering::Acquire)
    }

    /// The clock of all threads.
    pub(crate) const fn clock(&self) -> &Clock {
        &self.clock
    }

    /// Records that all threads together have published since what counts began.
    pub(crate) fn published(&self) -> u64 {
        self.threads.iter().map(|thread| thread.published.load(Ordering::Relaxed)).sum()
    }

    /// Records that all consumers together are behind.
    pub(crate) fn behind(&self) -> u64 {
        let of = |thread: &ThreadSignals| thread.behind.load(Ordering::Relaxed);
        self.threads.iter().map(of).fold(0, u64::saturating_add)
    }

    pub(crate) fn all_produced(&self) -> bool {
        self.threads.iter().all(|thread| thread.produced.load(Ordering::Acquire))
    }

    fn time(&self, us: &AtomicU64) -> Option<Instant> {
        match us.load(Ordering::Acquire) {
            0 => None,
            us => Some(self.clock.instant(Duration::from_micros(us))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn orders_are_seen_and_threads_add_up() {
        let clock = Clock::now();
        let signals = Signals::new(clock, 2);
        assert_eq!((signals.start(), signals.finish(), signals.drains()), (None, None, false));
        let at = Instant::now() + Duration::from_secs(1);
        let at_us = u64::try_from(clock.since_1970(at).as_micros()).unwrap();
        signals.take(Order::Start { at_us });
        assert!(signals.start().is_some_and(|start| at - start < Duration::from_micros(2)));
        signals.take(Order::Drain);
        assert!(signals.drains() && signals.resume().is_none());
        signals.threads[0].published.store(3, Ordering::Relaxed);
        signals.threads[1].published.store(4, Ordering::Relaxed);
        signals.threads[1].behind.store(UNKNOWN, Ordering::Relaxed);
        assert_eq!((signals.published(), signals.behind()), (7, UNKNOWN));
        signals.threads[0].produced.store(true, Ordering::Relaxed);
        assert!(!signals.all_produced());
    }
}
