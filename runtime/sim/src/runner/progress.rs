//! How far a long run is: a bar on a terminal, now and then a line elsewhere.
//!
//! Owns what is shown on stderr while runs are made; the report is not its business.

use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};

/// How far the runs are.
pub(crate) struct Progress {
    bar: ProgressBar,
    began: Instant,
    shown: Instant,
    count: u64,
}

/// Without a terminal: this often is enough for whoever reads a log.
const LINE_EVERY: Duration = Duration::from_secs(20);

impl Progress {
    pub(crate) fn new(count: u64) -> Self {
        let bar = ProgressBar::new(count);
        let template = "{bar:30} {pos}/{len} runs, {msg}, {elapsed}, {eta} left";
        if let Ok(style) = ProgressStyle::with_template(template) {
            bar.set_style(style);
        }
        let now = Instant::now();
        Self { bar, began: now, shown: now, count }
    }

    pub(crate) fn show(&mut self, done: u64, violations: u64) {
        if !self.bar.is_hidden() {
            self.bar.set_message(format!("{violations} violations"));
            self.bar.set_position(done);
        } else if self.shown.elapsed() >= LINE_EVERY {
            self.shown = Instant::now();
            let seconds = self.began.elapsed().as_secs();
            eprintln!("{done}/{} runs, {violations} violations, {seconds} s", self.count);
        }
    }

    /// A run failed: told at once, the report comes when all have ended.
    pub(crate) fn failed(&self, failure: &str) {
        match self.bar.is_hidden() {
            false => self.bar.println(failure),
            true => eprintln!("{failure}"),
        }
    }

    pub(crate) fn end(self) {
        self.bar.finish_and_clear();
    }
}
