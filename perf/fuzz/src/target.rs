//! A fuzz target: what feeds bytes to parsers, and the limits it is judged by.
//!
//! Owns: the three limits (no panic, time, memory) and the judgement. Must never: forgive; a
//! target that needs more memory says how much and why, in its own file.

use std::time::Duration;

use crate::meter::{self, Figures};

/// An input may take this long at most.
pub const TIME_MAX: Duration = Duration::from_millis(100);
/// A parser may hold so much, whatever the input, ...
pub const MEMORY_BASE_BYTES: usize = 64 * 1024;
/// ... and so much for every byte of it.
pub const MEMORY_PER_INPUT_BYTE: usize = 4;

/// About as many bytes has a large input.
pub const LARGE_BYTES: usize = 1 << 20;

/// What became of an input.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It was something.
    Taken,
    /// It was nothing.
    Refused,
}

impl From<bool> for Verdict {
    fn from(taken: bool) -> Self {
        if taken { Self::Taken } else { Self::Refused }
    }
}

/// An input made by a writer of the format, named.
pub type Seed = (String, Vec<u8>);

/// A parser or a few that belong together.
#[derive(Clone, Copy)]
pub struct Target {
    /// Its name: that of its file, of its corpus and of its binary.
    pub name: &'static str,
    /// Longer inputs are not tried.
    pub input_bytes_max: usize,
    /// Feeds the input; panics when a promise of the parser is broken.
    pub run: fn(&[u8]) -> Verdict,
    /// Memory it may hold beyond the rule.
    pub memory_extra: fn(&[u8]) -> usize,
    /// Inputs it must take.
    pub seeds: fn() -> Vec<Seed>,
    /// Inputs of about [`LARGE_BYTES`], which it must take too: what a parser holds for every byte
    /// shows in large ones. They are not kept.
    pub large: fn() -> Vec<Seed>,
}

impl Target {
    /// Most bytes it may hold for this input.
    #[must_use]
    pub fn memory_max(&self, input: &[u8]) -> usize {
        let extra = (self.memory_extra)(input);
        MEMORY_BASE_BYTES + MEMORY_PER_INPUT_BYTE * input.len() + extra
    }

    /// Feeds the input and measures.
    ///
    /// # Panics
    /// When the parser panics, or takes more time or memory than it may.
    pub fn judge(&self, input: &[u8]) -> (Verdict, Figures) {
        let (verdict, figures) = meter::measure(|| (self.run)(input));
        let (name, size, max) = (self.name, input.len(), self.memory_max(input));
        assert!(
            figures.peak_bytes <= max,
            "{name}: {} bytes of memory for {size} bytes of input, at most {max} are allowed",
            figures.peak_bytes
        );
        assert!(
            figures.time < TIME_MAX,
            "{name}: {:?} for {size} bytes of input, at most {TIME_MAX:?} are allowed",
            figures.time
        );
        (verdict, figures)
    }
}

/// For targets that keep the rule.
#[cfg(not(sim))]
pub(crate) fn no_extra(_input: &[u8]) -> usize {
    0
}
