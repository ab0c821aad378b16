//! What goes on now, for whoever waits for it: one line on stderr, on a terminal only.
//!
//! Must never: leave the line behind, or draw while something is measured: it changes when it is
//! told to, between measurements.

use std::io::{self, IsTerminal as _};

use indicatif::{ProgressBar, ProgressDrawTarget};

/// A line that goes when dropped.
#[derive(Debug)]
pub(crate) struct Progress(ProgressBar);

impl Progress {
    /// Says nothing yet.
    pub(crate) fn new() -> Self {
        let line = ProgressBar::new_spinner();
        if !io::stderr().is_terminal() {
            line.set_draw_target(ProgressDrawTarget::hidden());
        }
        Self(line)
    }

    /// Says what begins.
    pub(crate) fn say(&self, words: impl Into<String>) {
        self.0.set_message(words.into());
        self.0.tick();
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.0.finish_and_clear();
    }
}
