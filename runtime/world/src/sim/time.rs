//! Virtual time. Owns the backend side of `crate::time`: what time it is and how to wait.
//!
//! Must never read a real clock. Time moves only in the executor; what the caller's machine shows
//! of it follows that machine's clock.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use super::executor::{self, Due, TimerKey};

pub(crate) fn now_ns() -> u64 {
    let world = executor::world();
    world.with_machine(|machine| machine.clock().local_ns(world.now_ns()))
}

pub(crate) fn unix_time_ms() -> i64 {
    let world = executor::world();
    world.with_machine(|machine| machine.clock().unix_ms(world.now_ns()))
}

pub(crate) fn sleep(duration: Duration) -> Sleep {
    let duration_ns = u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX);
    Sleep { deadline_ns: now_ns().saturating_add(duration_ns), stage: Stage::New }
}

/// Nothing is saved by waking up less often here.
pub(crate) const fn to_grid(duration: Duration) -> Duration {
    duration
}

/// A wait for a point of the machine's monotonic clock. Takes at least one turn, so a loop around
/// it never stops the run.
#[must_use = "futures do nothing unless polled"]
pub struct Sleep {
    deadline_ns: u64,
    stage: Stage,
}

enum Stage {
    New,
    Waiting(TimerKey),
    Over,
}

impl Future for Sleep {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        let world = executor::world();
        // When the clock's rate changes meanwhile, the executor wakes it to look again.
        let due_ns = world.with_machine(|machine| machine.clock().true_ns(self.deadline_ns));
        match self.stage {
            Stage::New => {}
            Stage::Waiting(key) if now_ns() >= self.deadline_ns => {
                world.timer_remove(key);
                self.stage = Stage::Over;
                return Poll::Ready(());
            }
            Stage::Waiting(key) => {
                if key.0 == due_ns && world.timer_wakes(key, context.waker()) {
                    return Poll::Pending;
                }
                world.timer_remove(key);
            }
            Stage::Over => return Poll::Ready(()),
        }
        let key = world.timer_add(due_ns, Due::Wake(context.waker().clone()));
        self.stage = Stage::Waiting(key);
        Poll::Pending
    }
}

impl Drop for Sleep {
    fn drop(&mut self) {
        if let (Stage::Waiting(key), Some(world)) = (&self.stage, executor::try_world()) {
            world.timer_remove(*key);
        }
    }
}

impl fmt::Debug for Sleep {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Sleep").field("deadline_ns", &self.deadline_ns).finish()
    }
}
