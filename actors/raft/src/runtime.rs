//! The runtime openraft runs on: tasks, time, randomness and channels of `barrage_world`.
//!
//! Owns: `WorldRuntime` and its newtypes. Everything is !Send and lives on one core.
//! Must never: name an executor, a clock or a channel that is not the world's.
//! Invariants: a spawned task outlives its handle; randomness comes from the world's seed.

mod channels;

use std::convert::Infallible;
use std::fmt;
use std::future::Future;
use std::ops::{Add, AddAssign, Sub, SubAssign};
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use barrage_world as world;
use openraft::AsyncRuntime;
use openraft::async_runtime::instant;

use self::channels::{WorldMpsc, WorldMutex, WorldOneshot, WorldWatch};

/// Waits up to this long are for what is under way.
const GATHER_MAX: Duration = Duration::from_micros(100);

/// The world as openraft wants it.
#[derive(Debug)]
pub(crate) struct WorldRuntime;

impl AsyncRuntime for WorldRuntime {
    type JoinError = TaskLost;
    type JoinHandle<T: 'static> = TaskHandle<T>;
    type Sleep = world::time::Sleep;
    type Instant = WorldInstant;
    type TimeoutError = world::Elapsed;
    type Timeout<R, T: Future<Output = R>> = world::time::Timeout<T>;
    type ThreadLocalRng = WorldRandom;
    type Mpsc = WorldMpsc;
    type Watch = WorldWatch;
    type Oneshot = WorldOneshot;
    type Mutex<T: 'static> = WorldMutex<T>;

    fn spawn<T>(future: T) -> Self::JoinHandle<T::Output>
    where
        T: Future + 'static,
        T::Output: 'static,
    {
        TaskHandle(world::spawn(future))
    }

    fn sleep(duration: Duration) -> Self::Sleep {
        world::sleep(duration)
    }

    fn sleep_until(deadline: Self::Instant) -> Self::Sleep {
        let wait = deadline.0 - world::Instant::now();
        // Ticks, but for the pause in which completions gather: those of all groups of a core fall
        // together. They come as often, each later by the same time.
        if wait > GATHER_MAX { world::sleep_coarse(wait) } else { world::sleep(wait) }
    }

    fn timeout<R, F: Future<Output = R>>(duration: Duration, future: F) -> Self::Timeout<R, F> {
        world::timeout(duration, future)
    }

    fn timeout_at<R, F: Future<Output = R>>(
        deadline: Self::Instant,
        future: F,
    ) -> Self::Timeout<R, F> {
        world::timeout(deadline.0 - world::Instant::now(), future)
    }

    fn is_panic(_join_error: &Self::JoinError) -> bool {
        // Nothing cancels openraft's tasks: one that ends without a value has panicked.
        true
    }

    fn thread_rng() -> Self::ThreadLocalRng {
        WorldRandom
    }

    fn new(_threads: usize) -> Self {
        Self
    }

    fn block_on<F, T>(&mut self, future: F) -> T
    where
        F: Future<Output = T>,
    {
        world::run_local(future)
    }
}

/// A task ended without a value.
#[derive(Debug, thiserror::Error)]
#[error("task ended without a value")]
pub(crate) struct TaskLost;

/// A handle on a task. Dropping it lets the task run on.
pub(crate) struct TaskHandle<T>(world::JoinHandle<T>);

impl<T> Future for TaskHandle<T> {
    type Output = Result<T, TaskLost>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        Pin::new(&mut self.0).poll(context).map(|value| value.ok_or(TaskLost))
    }
}

impl<T> fmt::Debug for TaskHandle<T> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("TaskHandle")
    }
}

/// A point of the world's monotonic clock.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct WorldInstant(world::Instant);

impl Add<Duration> for WorldInstant {
    type Output = Self;

    fn add(self, duration: Duration) -> Self {
        Self(self.0 + duration)
    }
}

impl AddAssign<Duration> for WorldInstant {
    fn add_assign(&mut self, duration: Duration) {
        *self = *self + duration;
    }
}

impl Sub<Duration> for WorldInstant {
    type Output = Self;

    fn sub(self, duration: Duration) -> Self {
        Self(self.0 - duration)
    }
}

impl Sub<Self> for WorldInstant {
    type Output = Duration;

    fn sub(self, earlier: Self) -> Duration {
        self.0 - earlier.0
    }
}

impl SubAssign<Duration> for WorldInstant {
    fn sub_assign(&mut self, duration: Duration) {
        *self = *self - duration;
    }
}

impl instant::Instant for WorldInstant {
    fn now() -> Self {
        Self(world::Instant::now())
    }
}

/// The world's randomness as a generator.
#[derive(Debug)]
pub(crate) struct WorldRandom;

impl rand_core::TryRng for WorldRandom {
    type Error = Infallible;

    fn try_next_u32(&mut self) -> Result<u32, Infallible> {
        let mut bytes = [0; size_of::<u32>()];
        world::fill_random(&mut bytes);
        Ok(u32::from_le_bytes(bytes))
    }

    fn try_next_u64(&mut self) -> Result<u64, Infallible> {
        Ok(world::random_u64())
    }

    fn try_fill_bytes(&mut self, bytes: &mut [u8]) -> Result<(), Infallible> {
        world::fill_random(bytes);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn conforms_to_openraft() {
        openraft::testing::runtime::Suite::<WorldRuntime>::test_all();
    }
}
