//! Real time: `CLOCK_MONOTONIC`, the wall clock and glommio's timers.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use ::glommio::timer::Timer;

/// Waits below this are one turn of the executor: a timer would cost a round trip to the kernel
/// and arrive later than asked anyway.
const TIMER_MIN: Duration = Duration::from_micros(50);
/// Longer waits end early; nobody sees it. Keeps the timer's arithmetic from overflowing.
const TIMER_MAX: Duration = Duration::from_secs(10 * 365 * 24 * 3600);
const GRID_NS: u64 = crate::time::COARSE.as_nanos() as u64;

thread_local! {
    /// Drawn, so that the cores of several nodes do not all do the same at the same moment: two
    /// replicas that stand for election together split the vote.
    static PHASE_NS: u64 = crate::random_u64() % GRID_NS;
}

const NANOSECONDS_PER_SECOND: u64 = 1_000_000_000;

#[expect(unsafe_code, reason = "std hides the number inside its Instant")]
pub(crate) fn now_ns() -> u64 {
    let mut now = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `now` is a valid timespec that the call fills in.
    let result = unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, &raw mut now) };
    assert!(result == 0, "the monotonic clock cannot be read");
    // The monotonic clock starts at boot: both parts are positive.
    now.tv_sec.cast_unsigned() * NANOSECONDS_PER_SECOND + now.tv_nsec.cast_unsigned()
}

pub(crate) fn unix_time_ms() -> i64 {
    match SystemTime::now().duration_since(UNIX_EPOCH) {
        Ok(since) => i64::try_from(since.as_millis()).unwrap_or(i64::MAX),
        // A clock before 1970 is a broken clock.
        Err(_) => 0,
    }
}

pub(crate) fn sleep(duration: Duration) -> Sleep {
    Sleep {
        stage: if duration < TIMER_MIN {
            Stage::Yield
        } else {
            Stage::Timer(Timer::new(duration.min(TIMER_MAX)))
        },
    }
}

/// Time to the first line of this core's grid at or after `duration` from now: waits that end
/// there end together, and the core wakes up once for all of them.
pub(crate) fn to_grid(duration: Duration) -> Duration {
    let end_ns = now_ns().saturating_add(u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX));
    let past_ns = end_ns.wrapping_sub(PHASE_NS.with(|phase| *phase)) % GRID_NS;
    let rest_ns = if past_ns == 0 { 0 } else { GRID_NS - past_ns };
    duration.saturating_add(Duration::from_nanos(rest_ns))
}

/// A wait for a point in time.
#[must_use = "futures do nothing unless polled"]
pub struct Sleep {
    stage: Stage,
}

enum Stage {
    Yield,
    Over,
    Timer(Timer),
}

impl Future for Sleep {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        match &mut self.stage {
            Stage::Timer(timer) => Pin::new(timer).poll(context).map(|_| ()),
            Stage::Over => Poll::Ready(()),
            Stage::Yield => {
                self.stage = Stage::Over;
                context.waker().wake_by_ref();
                Poll::Pending
            }
        }
    }
}

impl fmt::Debug for Sleep {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("Sleep")
    }
}
