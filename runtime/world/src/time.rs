//! Time: a monotonic instant, the wall clock in milliseconds, sleeping and deadlines.
//!
//! Owns `Instant` for both backends; the backend says what time it is and how to wait.
//! Invariant: `Instant` never goes backwards within a process; differences saturate at zero.

use std::fmt;
use std::future::Future;
use std::ops::{Add, AddAssign, Sub};
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use pin_project_lite::pin_project;

use crate::backend;
pub use crate::backend::time::Sleep;

/// A point of the monotonic clock, in nanoseconds since an arbitrary start.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct Instant(pub u64);

impl Instant {
    /// The current instant.
    #[must_use]
    pub fn now() -> Self {
        Self(backend::time::now_ns())
    }

    /// Time since this instant; zero when it lies in the future.
    #[must_use]
    pub fn elapsed(self) -> Duration {
        Self::now() - self
    }

    /// Time from `earlier` to this instant; zero when `earlier` is later.
    #[must_use]
    pub fn saturating_duration_since(self, earlier: Self) -> Duration {
        Duration::from_nanos(self.0.saturating_sub(earlier.0))
    }
}

impl Add<Duration> for Instant {
    type Output = Self;

    fn add(self, duration: Duration) -> Self {
        Self(self.0.saturating_add(nanoseconds(duration)))
    }
}

impl AddAssign<Duration> for Instant {
    fn add_assign(&mut self, duration: Duration) {
        *self = *self + duration;
    }
}

impl Sub<Duration> for Instant {
    type Output = Self;

    fn sub(self, duration: Duration) -> Self {
        Self(self.0.saturating_sub(nanoseconds(duration)))
    }
}

impl Sub for Instant {
    type Output = Duration;

    fn sub(self, earlier: Self) -> Duration {
        self.saturating_duration_since(earlier)
    }
}

/// Durations beyond 584 years count as 584 years.
fn nanoseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

/// Milliseconds since 1970-01-01 UTC by the wall clock, which may jump.
#[must_use]
pub fn unix_time_ms() -> i64 {
    backend::time::unix_time_ms()
}

/// Waits for `duration`. Very short waits (below 50 microseconds) are one turn of the executor.
pub fn sleep(duration: Duration) -> Sleep {
    backend::time::sleep(duration)
}

/// Waits until `deadline`; at once, after one turn, when it has passed.
pub fn sleep_until(deadline: Instant) -> Sleep {
    sleep(deadline - Instant::now())
}

/// How much later than asked a coarse wait may end.
pub const COARSE: Duration = Duration::from_millis(20);

/// Waits for `duration` and up to [`COARSE`] more, so that a core wakes up once for many waits:
/// what looks now and then and has no deadline of its own. An idle core costs what its wake-ups
/// cost.
pub fn sleep_coarse(duration: Duration) -> Sleep {
    backend::time::sleep(backend::time::to_grid(duration))
}

/// As [`timeout`], for what is waited for now and then: see [`sleep_coarse`].
pub fn timeout_coarse<F: Future>(duration: Duration, future: F) -> Timeout<F> {
    Timeout { future, sleep: sleep_coarse(duration) }
}

/// A deadline passed before the future was ready.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("deadline has elapsed")]
pub struct Elapsed;

/// Runs `future` for at most `duration`, then drops it and answers `Err(Elapsed)`.
pub fn timeout<F: Future>(duration: Duration, future: F) -> Timeout<F> {
    Timeout { future, sleep: sleep(duration) }
}

pin_project! {
    /// Future of [`timeout`]. The inner future is asked first, so a ready one never times out.
    #[must_use = "futures do nothing unless polled"]
    pub struct Timeout<F> {
        #[pin]
        future: F,
        sleep: Sleep,
    }
}

impl<F> fmt::Debug for Timeout<F> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Timeout").finish_non_exhaustive()
    }
}

impl<F: Future> Future for Timeout<F> {
    type Output = Result<F::Output, Elapsed>;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        if let Poll::Ready(output) = this.future.poll(context) {
            return Poll::Ready(Ok(output));
        }
        Pin::new(this.sleep).poll(context).map(|()| Err(Elapsed))
    }
}
