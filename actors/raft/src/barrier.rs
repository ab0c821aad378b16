//! Read barriers of a group, shared: who asks while a round is under way takes part in the next.
//!
//! Owns: which round an asker waits for. Must never: let a round that began before it was asked for
//! answer anybody.
//! Invariants: at most one round is under way; a round that was dropped is begun again by another
//! asker.

use std::cell::{Cell, RefCell};

use barrage_world::channel::event::Event;

use crate::proposal::ProposeError;

type Outcome = Result<(), ProposeError>;

/// See the module.
#[derive(Default)]
pub(crate) struct Barrier {
    begun: Cell<u64>,
    running: Cell<bool>,
    /// The newest round that ended, and how.
    last: RefCell<Option<(u64, Outcome)>>,
    ended: Event,
}

impl Barrier {
    /// Waits for a round that begins from now on.
    pub(crate) async fn pass(&self, round: impl AsyncFn() -> Outcome) -> Outcome {
        let wanted = self.begun.get() + 1;
        loop {
            let ended = self.ended.listen();
            let last = self.last.borrow().clone();
            if let Some((_, outcome)) = last.filter(|(number, _)| *number >= wanted) {
                return outcome;
            }
            if self.running.get() {
                ended.await;
                continue;
            }
            let turn = Turn::take(self);
            let outcome = round().await;
            *self.last.borrow_mut() = Some((turn.number, outcome.clone()));
            return outcome;
        }
    }
}

/// A round under way.
struct Turn<'a> {
    barrier: &'a Barrier,
    number: u64,
}

impl<'a> Turn<'a> {
    fn take(barrier: &'a Barrier) -> Self {
        let number = barrier.begun.get() + 1;
        barrier.begun.set(number);
        barrier.running.set(true);
        Self { barrier, number }
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        self.barrier.running.set(false);
        self.barrier.ended.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use std::future::Future;
    use std::pin::Pin;
    use std::task::{Context, Poll, Waker};

    use super::*;

    type Asked<'a> = Pin<Box<dyn Future<Output = Outcome> + 'a>>;

    /// Rounds that end when they are told to.
    #[derive(Default)]
    struct Rounds {
        barrier: Barrier,
        begun: Cell<u64>,
        may_end: Cell<u64>,
    }

    impl Rounds {
        fn ask(&self) -> Asked<'_> {
            Box::pin(self.barrier.pass(async || {
                self.begun.set(self.begun.get() + 1);
                let number = self.begun.get();
                std::future::poll_fn(|_| match self.may_end.get() >= number {
                    true => Poll::Ready(()),
                    false => Poll::Pending,
                })
                .await;
                if number == 3 { Err(ProposeError::NotLeader) } else { Ok(()) }
            }))
        }
    }

    fn poll(asked: &mut Asked<'_>) -> Poll<Outcome> {
        asked.as_mut().poll(&mut Context::from_waker(Waker::noop()))
    }

    #[test]
    fn who_comes_while_a_round_is_under_way_shares_the_next() {
        let rounds = Rounds::default();
        let (mut first, mut second, mut third) = (rounds.ask(), rounds.ask(), rounds.ask());
        assert!(poll(&mut first).is_pending());
        assert!(poll(&mut second).is_pending() && poll(&mut third).is_pending());
        assert_eq!(rounds.begun.get(), 1);
        rounds.may_end.set(1);
        assert_eq!(poll(&mut first), Poll::Ready(Ok(())));
        assert!(poll(&mut second).is_pending(), "it asked after the first round began");
        assert!(poll(&mut third).is_pending());
        rounds.may_end.set(2);
        assert_eq!(poll(&mut second), Poll::Ready(Ok(())));
        assert_eq!(poll(&mut third), Poll::Ready(Ok(())));
        assert_eq!(rounds.begun.get(), 2);
    }

    #[test]
    fn a_round_that_was_dropped_is_begun_again_and_failures_are_shared() {
        let rounds = Rounds::default();
        let (mut first, mut second, mut third) = (rounds.ask(), rounds.ask(), rounds.ask());
        assert!(poll(&mut first).is_pending());
        assert!(poll(&mut second).is_pending() && poll(&mut third).is_pending());
        drop(first);
        assert!(poll(&mut second).is_pending());
        drop(second);
        rounds.may_end.set(3);
        assert_eq!(poll(&mut third), Poll::Ready(Err(ProposeError::NotLeader)));
        rounds.may_end.set(4);
        assert_eq!(poll(&mut rounds.ask()), Poll::Ready(Ok(())));
    }
}
