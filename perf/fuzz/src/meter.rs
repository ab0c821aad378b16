//! Memory and processor time of this thread: what the limits of a target are judged by.
//!
//! Owns the process's allocator, which counts and hands on to the system's. Must never allocate
//! itself. Invariants: live bytes are those of this thread's allocations less its frees; the peak
//! is taken only while a measurement runs that was not put aside.
//!
//! What C libraries allocate for themselves is not seen (zstd does); their bounds are given to
//! them explicitly.

#![expect(unsafe_code, reason = "an allocator and a clock of the C library")]

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::time::Duration;

#[global_allocator]
static ALLOCATOR: Counting = Counting;

struct Counting;

thread_local! {
    static LIVE: Cell<isize> = const { Cell::new(0) };
    static PEAK: Cell<isize> = const { Cell::new(0) };
    /// What was live at the start, and what the check itself keeps.
    static BASE: Cell<isize> = const { Cell::new(0) };
    static ASIDE: Cell<bool> = const { Cell::new(false) };
    /// Time that was spent aside.
    static ASIDE_TIME: Cell<Duration> = const { Cell::new(Duration::ZERO) };
}

/// What one piece of work took.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Figures {
    /// Processor time.
    pub time: Duration,
    /// Most bytes held at once, beyond those held at the start.
    pub peak_bytes: usize,
}

/// Measures what `work` takes.
pub fn measure<T>(work: impl FnOnce() -> T) -> (T, Figures) {
    BASE.set(LIVE.get());
    PEAK.set(LIVE.get());
    // A measurement before may have ended in a panic.
    ASIDE.set(false);
    ASIDE_TIME.set(Duration::ZERO);
    let began = thread_time();
    let result = work();
    let time = thread_time().saturating_sub(began).saturating_sub(ASIDE_TIME.get());
    let peak_bytes = usize::try_from(PEAK.get() - BASE.get()).unwrap_or(0);
    (result, Figures { time, peak_bytes })
}

/// Does work of the check itself, whose memory and time do not count against the parser's limits.
/// What it leaves behind is to be kept until the measurement ends.
pub fn aside<T>(work: impl FnOnce() -> T) -> T {
    if ASIDE.replace(true) {
        return work();
    }
    let began = thread_time();
    let live = LIVE.get();
    let result = work();
    ASIDE.set(false);
    ASIDE_TIME.set(ASIDE_TIME.get() + thread_time().saturating_sub(began));
    // What the parser held may have been freed meanwhile; then nothing was left behind.
    let kept = (LIVE.get() - live).max(0);
    BASE.set(BASE.get() + kept);
    PEAK.set(PEAK.get() + kept);
    result
}

fn count(change: isize) {
    let live = LIVE.get() + change;
    LIVE.set(live);
    if live > PEAK.get() && !ASIDE.get() {
        PEAK.set(live);
    }
}

fn signed(size: usize) -> isize {
    isize::try_from(size).unwrap_or(isize::MAX)
}

// SAFETY: every call is handed on to the system's allocator as it came; counting touches nothing
// but plain numbers of this thread, which need no memory and are never destroyed.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count(signed(layout.size()));
        // SAFETY: the caller's promises are the system's.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        count(signed(layout.size()));
        // SAFETY: the caller's promises are the system's.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        count(-signed(layout.size()));
        // SAFETY: the caller's promises are the system's, which gave the memory.
        unsafe { System.dealloc(pointer, layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        count(signed(size) - signed(layout.size()));
        // SAFETY: the caller's promises are the system's, which gave the memory.
        unsafe { System.realloc(pointer, layout, size) }
    }
}

/// Processor time of this thread; other work on the machine does not count.
fn thread_time() -> Duration {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the clock exists on Linux, and writes one timespec to a place that holds one.
    let failed = unsafe { libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, &raw mut time) };
    assert_eq!(failed, 0, "every thread has a processor time");
    let seconds = u64::try_from(time.tv_sec).unwrap_or(0);
    Duration::new(seconds, u32::try_from(time.tv_nsec).unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_peak_is_what_was_held_at_once() {
        let ((), figures) = measure(|| {
            for size in [100_000, 300_000, 200_000] {
                drop(std::hint::black_box(vec![1_u8; size]));
            }
        });
        assert_eq!(figures.peak_bytes, 300_000);
    }

    #[test]
    fn growth_counts_and_what_lies_aside_does_not() {
        let (_kept, figures) = measure(|| {
            let kept = aside(|| {
                drop(std::hint::black_box(vec![1_u8; 900_000]));
                vec![1_u8; 500_000]
            });
            let mut grown = vec![1_u8; 1_000];
            grown.reserve_exact(9_000);
            drop(std::hint::black_box(grown));
            kept
        });
        assert_eq!(figures.peak_bytes, 10_000);
    }

    #[test]
    fn time_is_that_of_the_processor() {
        let busy = || {
            let began = thread_time();
            while thread_time().saturating_sub(began) < Duration::from_millis(30) {}
        };
        let idle = || std::thread::park_timeout(Duration::from_millis(50));
        assert!(measure(busy).1.time >= Duration::from_millis(30));
        assert!(measure(idle).1.time < Duration::from_millis(20));
        assert!(measure(|| aside(busy)).1.time < Duration::from_millis(20));
    }
}
