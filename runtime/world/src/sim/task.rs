//! Tasks on the simulated executor: spawn, join, yield.
//!
//! Owns the join state of a task. Invariant: a handle always resolves, with None when the task
//! was dropped before its end. A panic in a task ends the whole run, with the seed printed.

use std::cell::RefCell;
use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

use super::executor;
use super::machine::Machine;

/// Seed of [`run_local`]; tests that want others call `sim::run`.
const LOCAL_SEED: u64 = 0xba44_a6e0;
/// `yield_if_needed` yields once in this many calls: often, because here every yield is a chance
/// for another order of events.
const YIELD_PERIOD: u64 = 4;

/// Runs `future` in a fresh world with a fixed seed.
pub fn run_local<F: Future>(future: F) -> F::Output {
    super::run(LOCAL_SEED, future)
}

/// Starts a task beside the current one. Dropping the handle detaches it.
pub fn spawn<F>(future: F) -> JoinHandle<F::Output>
where
    F: Future + 'static,
    F::Output: 'static,
{
    spawn_on(executor::world().machine(), future)
}

pub(super) fn spawn_on<F>(machine: Machine, future: F) -> JoinHandle<F::Output>
where
    F: Future + 'static,
    F::Output: 'static,
{
    let join = Rc::new(RefCell::new(Join { output: None, ended: false, waker: None }));
    let end = End { join: Rc::clone(&join) };
    let task = async move {
        let output = future.await;
        end.join.borrow_mut().output = Some(output);
        drop(end);
    };
    executor::world().spawn(machine, Box::pin(task));
    JoinHandle { join }
}

/// Lets the other ready tasks run.
pub async fn yield_now() {
    let mut yielded = false;
    std::future::poll_fn(|context| {
        if yielded {
            return Poll::Ready(());
        }
        yielded = true;
        context.waker().wake_by_ref();
        Poll::Pending
    })
    .await;
}

/// Yields when the task has run for long; here, by the seed.
pub async fn yield_if_needed() {
    let needed = executor::world().disk_random(|random| random.one_in(YIELD_PERIOD));
    if needed {
        yield_now().await;
    }
}

/// Ends the run: what cannot be survived must not be run past.
pub fn fatal(message: &str) -> ! {
    panic!("fatal: {message}");
}

/// The end of a task: `Some(output)`, or None when it was dropped before.
#[must_use = "a dropped handle detaches the task"]
pub struct JoinHandle<T> {
    join: Rc<RefCell<Join<T>>>,
}

struct Join<T> {
    output: Option<T>,
    ended: bool,
    waker: Option<Waker>,
}

/// Dropped with the task, however it ends.
struct End<T> {
    join: Rc<RefCell<Join<T>>>,
}

impl<T> Drop for End<T> {
    fn drop(&mut self) {
        let waker = {
            let mut join = self.join.borrow_mut();
            join.ended = true;
            join.waker.take()
        };
        if let Some(waker) = waker {
            waker.wake();
        }
    }
}

impl<T> Future for JoinHandle<T> {
    type Output = Option<T>;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<T>> {
        let mut join = self.join.borrow_mut();
        if join.ended {
            return Poll::Ready(join.output.take());
        }
        join.waker = Some(context.waker().clone());
        Poll::Pending
    }
}

impl<T> fmt::Debug for JoinHandle<T> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("JoinHandle")
    }
}
