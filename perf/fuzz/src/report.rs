//! One line of figures per target, for people.

use std::io::Write;
use std::time::Duration;

use barrage_fuzz::meter::Figures;

/// What a target showed.
#[derive(Clone, Debug)]
pub(crate) struct Row {
    pub(crate) target: String,
    /// Inputs fed.
    pub(crate) inputs: u64,
    /// Inputs that broke a promise.
    pub(crate) broken: u64,
    /// Processor time of the slowest.
    pub(crate) time: Duration,
    /// Most memory held.
    pub(crate) peak_bytes: usize,
    /// Most memory held, in thousandths of what was allowed for that input.
    pub(crate) share: usize,
}

impl Row {
    pub(crate) fn new(target: &str) -> Self {
        let (time, peak_bytes) = (Duration::ZERO, 0);
        Self { target: target.to_owned(), inputs: 0, broken: 0, time, peak_bytes, share: 0 }
    }

    /// Adds the figures of one input that was allowed so many bytes.
    pub(crate) fn add(&mut self, figures: Figures, allowed_bytes: usize) {
        self.inputs += 1;
        self.time = self.time.max(figures.time);
        self.peak_bytes = self.peak_bytes.max(figures.peak_bytes);
        self.share = self.share.max(figures.peak_bytes * 1000 / allowed_bytes.max(1));
    }
}

/// Prints the row.
pub(crate) fn line(row: &Row) {
    let Row { target, inputs, broken, time, peak_bytes, share } = row;
    let kib = peak_bytes.div_ceil(1024);
    let (whole, tenth) = (share / 10, share % 10);
    // Nobody is left to tell when stdout is gone.
    drop(writeln!(
        std::io::stdout(),
        "{target:<14} {inputs:>11} inputs {broken:>3} broken   slowest {:>9.3} ms   \
         peak {kib:>6} KiB, {whole:>3}.{tenth} % of what is allowed",
        time.as_secs_f64() * 1e3
    ));
}
