//! The guard: no executor sleeps for ever while it has work.
//!
//! Owns what wakes an executor whatever becomes of its own wake-ups: timers on it, and one thread
//! per process beside it. Must never: wake an idle core more often than `LOOK_AROUND_EVERY`, or a
//! core that is at work.
//!
//! glommio 0.9.0 goes to sleep with tasks that are ready to run, about once in 3,000 wake-ups of a
//! core that other threads share. Its loop (`LocalExecutor::run`) is
//!
//! ```text
//! poll_io          takes completions, timers and foreign wake-ups: their tasks become ready;
//!                  arms the preemption timer in the latency ring
//! run_task_queues  false when nothing was run: "idle" --> spin_poll_io, then park, which sleeps
//! ```
//!
//! `run_task_queues` looks at `need_preempt` (a completion in the latency ring) before it runs the
//! first task. A thread that loses its processor for the length of the preemption timer between
//! the two finds the timer's completion there, runs nothing and calls itself idle although tasks
//! are ready. `spin_poll_io` takes that completion, which wakes nobody and so does not count;
//! `park` sees empty rings and sleeps in the main ring, linked to the latency ring. Neither a timer
//! nor a socket ends that sleep when the ready tasks are those which wait for them: their
//! completions were taken, and only the tasks, once run, would ask again. The rings are sound; any
//! event ends the sleep, and the tasks run then.
//!
//! So there is always another event, from two sides:
//!
//! - `look_around`, a task with several timers: one that fired in vain leaves the next. Each lost
//!   wake-up costs `LOOK_AROUND_EVERY` at most; `RUNGS` in a row end all timers.
//! - the guard thread, when a sleeping executor has not looked around for `LOOKS_IN_VAIN` looks: a
//!   signal, which ends the system call it sleeps in with EINTR (glommio takes that for an ordinary
//!   wake-up), repeated until the core looks around. A foreign wake-up through glommio's eventfd
//!   would do too, but not for an executor that slept before it ran its first task.

use std::fmt;
use std::fs;
use std::future::{Future, poll_fn};
use std::io;
use std::marker::PhantomData;
use std::mem;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::ptr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, Once, PoisonError};
use std::task::{Context, Poll};
use std::thread;
use std::time::{Duration, Instant};

use ::glommio::timer::Timer;

use super::time::to_grid;

/// A lost wake-up is made up for after this long, nearly always.
const LOOK_AROUND_EVERY: Duration = crate::time::COARSE;
/// Timers that wait at once.
const RUNGS: usize = 3;
/// How often the guard thread looks at the executors.
const LOOK_EVERY: Duration = Duration::from_millis(50);
/// An executor that slept through so many looks is woken; the second finds that it did not run
/// since the first. Looks are counted, not time, so that a process that was stopped as a whole
/// finds nothing wrong afterwards.
const LOOKS_IN_VAIN: u32 = 2;
/// Interrupts a sleep. Nobody sends it, and by default it is ignored.
const SIGNAL: libc::c_int = libc::SIGURG;
/// Looks between two lines in the log.
const LOOKS_PER_WARNING: u64 = 1200;

const _: () = assert!(LOOK_EVERY.as_millis() > 2 * LOOK_AROUND_EVERY.as_millis());

/// The executors that are watched, and the thread that watches them.
static GUARD: Guard = Guard { watch: Mutex::new(Watch::new()), changed: Condvar::new() };

struct Guard {
    watch: Mutex<Watch>,
    changed: Condvar,
}

struct Watch {
    executors: Vec<Arc<Executor>>,
    thread_runs: bool,
}

impl Watch {
    const fn new() -> Self {
        Self { executors: Vec::new(), thread_runs: false }
    }
}

impl Guard {
    fn watch(&self) -> MutexGuard<'_, Watch> {
        self.watch.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// An executor as the guard sees it.
struct Executor {
    name: String,
    /// How often it has looked around.
    beats: AtomicU64,
    thread: libc::pthread_t,
    /// Where the system tells about the thread.
    told_at: PathBuf,
    seen: Mutex<Seen>,
}

impl Executor {
    #[expect(unsafe_code, reason = "std does not name the calling thread to the system")]
    fn of_this_thread(name: &str) -> Self {
        let thread = fs::read_link("/proc/thread-self").unwrap_or_default();
        Self {
            name: name.to_owned(),
            beats: AtomicU64::new(0),
            // SAFETY: always succeeds.
            thread: unsafe { libc::pthread_self() },
            told_at: Path::new("/proc").join(thread),
            seen: Mutex::new(Seen::default()),
        }
    }

    /// Wakes the executor when it has slept through its timers; says whether it had.
    fn look(&self) -> bool {
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        let beats = self.beats.load(Ordering::Relaxed);
        if beats != seen.beats {
            *seen = Seen { beats, ..Seen::default() };
            return false;
        }
        let run = self.told("schedstat");
        seen.looks_in_vain = seen.looks_in_vain.saturating_add(1);
        let asleep = seen.looks_in_vain >= LOOKS_IN_VAIN && seen.run == run && self.sleeps();
        seen.run = run;
        if asleep {
            self.interrupt();
        }
        asleep
    }

    /// Whether the thread waits for an event, not for a processor. Without an answer from the
    /// system, yes: a wake-up too many is harmless.
    fn sleeps(&self) -> bool {
        // The state follows the name, which stands in parentheses and may contain some.
        self.told("stat").rsplit_once(") ").is_none_or(|(_, rest)| rest.starts_with('S'))
    }

    /// What the system tells about the thread; empty when it tells nothing.
    fn told(&self, file: &str) -> String {
        fs::read_to_string(self.told_at.join(file)).unwrap_or_default()
    }

    /// Ends the system call that the thread waits in.
    #[expect(unsafe_code, reason = "pthread_kill has no safe wrapper")]
    fn interrupt(&self) {
        // SAFETY: the thread has not ended: it takes its executor from the guard's list first
        // (`Watched` cannot leave it), and the guard, which alone calls this, holds the list.
        unsafe { libc::pthread_kill(self.thread, SIGNAL) };
    }
}

/// What the guard remembers from look to look.
#[derive(Default)]
struct Seen {
    beats: u64,
    looks_in_vain: u32,
    /// The system's words about how long the thread has run: one that ran since the last look is
    /// late, not asleep.
    run: String,
}

/// Lets `SIGNAL` interrupt and do nothing else.
#[expect(unsafe_code, reason = "sigaction has no safe wrapper")]
fn install_handler() {
    extern "C" fn nothing(_signal: libc::c_int) {}
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let handler: extern "C" fn(libc::c_int) = nothing;
        // SAFETY: all-zero is an action without flags (so system calls do not start anew) that
        // blocks no signals.
        let mut action: libc::sigaction = unsafe { mem::zeroed() };
        action.sa_sigaction = handler as libc::sighandler_t;
        // SAFETY: `action` is valid; the handler does nothing, which is safe at any point.
        let result = unsafe { libc::sigaction(SIGNAL, &raw const action, ptr::null_mut()) };
        assert!(result == 0, "the guard's signal cannot be handled");
    });
}

/// The calling thread's executor, watched until this is dropped on the same thread.
pub(super) struct Watched {
    executor: Arc<Executor>,
    /// Not `Send`: the thread lives as long as this.
    _thread: PhantomData<*const ()>,
}

impl Watched {
    /// Watches the executor that the calling thread is about to run.
    ///
    /// # Errors
    /// When the guard thread cannot be started.
    pub(super) fn new(name: &str) -> io::Result<Self> {
        install_handler();
        let executor = Arc::new(Executor::of_this_thread(name));
        let mut watch = GUARD.watch();
        if !watch.thread_runs {
            thread::Builder::new().name("guard".to_owned()).spawn(stand_guard)?;
            watch.thread_runs = true;
        }
        watch.executors.push(Arc::clone(&executor));
        Ok(Self { executor, _thread: PhantomData })
    }

    /// Runs `body` on the calling executor and keeps that from sleeping for ever meanwhile.
    pub(super) async fn guard<T>(&self, body: impl Future<Output = T>) -> T {
        let task = ::glommio::spawn_local(look_around(Arc::clone(&self.executor)));
        let output = body.await;
        task.cancel().await;
        output
    }
}

impl Drop for Watched {
    fn drop(&mut self) {
        GUARD.watch().executors.retain(|other| !Arc::ptr_eq(other, &self.executor));
        GUARD.changed.notify_one();
    }
}

impl fmt::Debug for Watched {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "Watched({})", self.executor.name)
    }
}

/// Beats every `LOOK_AROUND_EVERY`.
async fn look_around(executor: Arc<Executor>) {
    let mut ladder = Ladder::new();
    poll_fn(|context| {
        executor.beats.fetch_add(1, Ordering::Relaxed);
        ladder.climb(context);
        Poll::<()>::Pending
    })
    .await;
}

/// Timers `LOOK_AROUND_EVERY` apart.
struct Ladder {
    rungs: Vec<Timer>,
    /// When the last of them is due.
    last: Instant,
}

impl Ladder {
    fn new() -> Self {
        // On the lines where coarse waits end: no wake-up of its own then.
        let ahead = to_grid(LOOK_AROUND_EVERY) - LOOK_AROUND_EVERY;
        Self { rungs: Vec::with_capacity(RUNGS), last: Instant::now() + ahead }
    }

    /// Puts a timer at the end for each that has fired.
    fn climb(&mut self, context: &mut Context<'_>) {
        let now = Instant::now();
        self.rungs.retain_mut(|timer| Pin::new(timer).poll(context).is_pending());
        while self.rungs.len() < RUNGS {
            // After a stall that all of them fired in, the new ones stand apart again.
            self.last = self.last.max(now) + LOOK_AROUND_EVERY;
            let mut timer = Timer::new(self.last.saturating_duration_since(now));
            // A timer counts from its first poll on; one that is due by then would wake nobody.
            if Pin::new(&mut timer).poll(context).is_pending() {
                self.rungs.push(timer);
            }
        }
    }
}

/// The guard thread: looks until there is nobody to look at.
fn stand_guard() {
    let mut watch = GUARD.watch();
    let mut warnings = Warnings::default();
    while !watch.executors.is_empty() {
        let waited = GUARD.changed.wait_timeout(watch, LOOK_EVERY);
        let (back, timeout) = waited.unwrap_or_else(PoisonError::into_inner);
        watch = back;
        if !timeout.timed_out() {
            continue;
        }
        warnings.look(&look_at(&watch.executors));
    }
    watch.thread_runs = false;
}

/// The names of those that had to be woken.
fn look_at(executors: &[Arc<Executor>]) -> Vec<&str> {
    let asleep = executors.iter().filter(|executor| executor.look());
    asleep.map(|executor| executor.name.as_str()).collect()
}

/// Tells the operator now and then.
#[derive(Default)]
struct Warnings {
    woken_count: u64,
    looks_until_next: u64,
}

impl Warnings {
    fn look(&mut self, asleep: &[&str]) {
        self.looks_until_next = self.looks_until_next.saturating_sub(1);
        self.woken_count += asleep.len() as u64;
        if let (Some(name), 0) = (asleep.first(), self.looks_until_next) {
            let count = self.woken_count;
            tracing::warn!(core = name, count, "woke a core that slept past its timers");
            self.looks_until_next = LOOKS_PER_WARNING;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use ::glommio::LocalExecutor;

    use super::*;

    /// Far more than any of these takes.
    const PATIENCE: Duration = Duration::from_secs(20);

    #[test]
    fn an_executor_that_sleeps_without_timers_is_woken() {
        // Regression: a core slept on ready tasks, the one with its only timer among them, with
        // 24 MiB unread on its socket, until a debugger interrupted it.
        let (told, tell) = mpsc::channel();
        let (end, ended) = flume::bounded::<()>(1);
        let sleeper = thread::spawn(move || {
            let watched = Watched::new("sleeper").unwrap();
            LocalExecutor::default().run(async {
                told.send(watched.executor.told_at.join("status")).unwrap();
                ended.recv_async().await.unwrap();
            });
        });
        let status = tell.recv().unwrap();
        let sleeps = || -> u64 {
            let text = fs::read_to_string(&status).unwrap();
            let count = text.lines().find_map(|line| line.strip_prefix("voluntary_ctxt_switches:"));
            count.unwrap().trim().parse().unwrap()
        };
        let (began, first) = (Instant::now(), sleeps());
        while sleeps() < first + 10 {
            assert!(began.elapsed() < PATIENCE, "the executor sleeps for ever");
            thread::sleep(LOOK_EVERY);
        }
        end.send(()).unwrap();
        sleeper.join().unwrap();
    }

    #[test]
    fn a_timer_that_fired_in_vain_leaves_the_next() {
        LocalExecutor::default().run(async {
            let mut ladder = Ladder::new();
            let mut polls = 0;
            poll_fn(|context| {
                polls += 1;
                if polls == 1 {
                    ladder.climb(context);
                }
                if polls == 1 + RUNGS { Poll::Ready(()) } else { Poll::Pending }
            })
            .await;
        });
    }

    #[test]
    fn only_an_executor_that_sleeps_through_looks_is_woken() {
        let mut executor = Executor::of_this_thread("test");
        executor.beats.store(1, Ordering::Relaxed);
        assert!(!executor.look(), "it has looked around");
        assert!(!executor.look(), "the first look in vain");
        assert!(!executor.look(), "this thread runs");
        install_handler();
        executor.told_at = PathBuf::from("/nowhere");
        assert!(!executor.look(), "it ran since the last look");
        assert!(executor.look(), "asleep for all that is known");
        assert!(executor.look(), "the wake-up may have been lost too");
        executor.beats.store(2, Ordering::Relaxed);
        assert!(!executor.look());
    }

    #[test]
    fn one_line_tells_of_many_wake_ups() {
        let mut warnings = Warnings::default();
        for _ in 0..3 {
            warnings.look(&["core-0", "core-1"]);
        }
        assert_eq!((warnings.woken_count, warnings.looks_until_next), (6, LOOKS_PER_WARNING - 2));
    }
}
