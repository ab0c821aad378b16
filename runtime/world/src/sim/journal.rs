//! The journal of a run: what happened to it, in words, for whoever replays a seed.
//!
//! Owns the lines and their times. Must never change a run: nothing here draws a number, and a
//! line is only put into words when the journal is kept.

use std::cell::{Cell, RefCell};
use std::time::Duration;

use super::executor;

thread_local! {
    static KEPT: Cell<bool> = const { Cell::new(false) };
    static LINES: RefCell<Vec<(Duration, String)>> = const { RefCell::new(Vec::new()) };
}

/// Keeps a journal of the runs that follow on this thread, or stops keeping it. Begins a new one.
pub fn keep_journal(kept: bool) {
    KEPT.set(kept);
    LINES.take();
}

/// The lines written since the last call: each with the true time of its run.
#[must_use]
pub fn take_journal() -> Vec<(Duration, String)> {
    LINES.take()
}

/// Writes a line, if the journal is kept.
pub fn note(line: impl FnOnce() -> String) {
    if KEPT.get() {
        let at_ns = executor::try_world().map_or(0, |world| world.now_ns());
        LINES.with_borrow_mut(|lines| lines.push((Duration::from_nanos(at_ns), line())));
    }
}
