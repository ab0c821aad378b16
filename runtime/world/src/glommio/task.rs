//! Tasks of one core: spawn, join, yield, and an executor for tests and tools.
//!
//! Invariant: a task stays on the core that spawned it and in the task queue of its spawner.
//! A panic in a task unwinds the executor; on a node's core that ends the process (see `node`).

use std::fmt;
use std::future::Future;
use std::io::{self, Write};
use std::pin::Pin;
use std::process;
use std::task::{Context, Poll};
use std::time::Duration;

use ::glommio::{LocalExecutorBuilder, Placement};

use super::guard::Watched;
use super::io_error;

/// Exit code of a process that ends because of a broken invariant, as after a Rust panic.
pub(super) const EXIT_CODE_PANIC: i32 = 101;
/// How long tasks may run before the executor looks at completions and foreign wake-ups.
pub(super) const PREEMPT_AFTER: Duration = Duration::from_millis(1);
/// Submission entries per ring.
pub(super) const RING_DEPTH: usize = 256;
/// Memory that an executor registers for small reads, in bytes. It is resident from the start;
/// reads that do not fit get ordinary memory.
pub(super) const IO_MEMORY: usize = 512 * 1024;

/// Runs `future` on an unpinned executor of this thread until it ends. For tests and tools.
///
/// # Panics
/// When the executor cannot be made (see `preflight` for the causes), and when a task panics.
pub fn run_local<F: Future>(future: F) -> F::Output {
    let builder = LocalExecutorBuilder::new(Placement::Unbound);
    match run_guarded("local", builder, future) {
        Ok(output) => output,
        Err(error) => panic!("cannot make an executor: {error}"),
    }
}

/// Runs `future` on an executor of this thread.
pub(super) fn run_guarded<F: Future>(
    name: &str,
    builder: LocalExecutorBuilder,
    future: F,
) -> io::Result<F::Output> {
    // Before the executor is made, which may pin this thread and with it those that it starts.
    let watched = Watched::new(name)?;
    let executor = builder
        .name(name)
        .ring_depth(RING_DEPTH)
        .io_memory(IO_MEMORY)
        .preempt_timer(PREEMPT_AFTER)
        .make()
        .map_err(io_error)?;
    let output = executor.run(watched.guard(future));
    drop(watched);
    Ok(output)
}

/// Starts a task beside the current one. Dropping the handle detaches it.
pub fn spawn<F>(future: F) -> JoinHandle<F::Output>
where
    F: Future + 'static,
    F::Output: 'static,
{
    JoinHandle { inner: ::glommio::spawn_local(future).detach() }
}

/// The end of a task: `Some(output)`, or `None` when it was cancelled or has panicked.
#[must_use = "a dropped handle detaches the task"]
pub struct JoinHandle<T> {
    inner: ::glommio::task::JoinHandle<T>,
}

impl<T> Future for JoinHandle<T> {
    type Output = Option<T>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<T>> {
        Pin::new(&mut self.inner).poll(context)
    }
}

impl<T> fmt::Debug for JoinHandle<T> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("JoinHandle")
    }
}

/// Lets the other ready tasks run.
pub async fn yield_now() {
    ::glommio::executor().yield_now().await;
}

/// Yields when the tasks of this turn have run for long or I/O has completed.
pub async fn yield_if_needed() {
    ::glommio::yield_if_needed().await;
}

/// Ends the process at once, saying why: for states that must not be run past.
pub fn fatal(message: &str) -> ! {
    tracing::error!("fatal: {message}");
    // The subscriber may filter or buffer; this line must come out.
    drop(writeln!(io::stderr(), "barrage: fatal: {message}"));
    process::exit(EXIT_CODE_PANIC)
}
