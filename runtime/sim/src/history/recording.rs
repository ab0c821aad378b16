//! A history in memory: what a run appends to while it goes on.
//!
//! Owns: the events in their order, and the numbers of calls. Must never: judge, or reorder.

use std::io::{self, BufRead, Write};

use super::checker::{Checker, Options};
use super::event::{Answer, Event, Note, Operation, What};
use super::format::{ReadError, Reader, Writer};
use super::name::{Call, Name, Nanos};
use super::verdict::Verdict;

/// Events in the order in which they happened.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct History {
    events: Vec<Event>,
    next_call: u64,
}

impl History {
    /// A history without events.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// The events.
    #[must_use]
    pub fn events(&self) -> &[Event] {
        &self.events
    }

    /// A client begins a call. To be recorded before anything goes out.
    pub fn invoke(&mut self, at: Nanos, client: &Name, operation: Operation) -> Call {
        let call = Call(self.next_call);
        self.next_call += 1;
        self.push(at, What::Invoke { call, client: client.clone(), operation });
        call
    }

    /// The call was answered. To be recorded after the answer was received.
    pub fn ok(&mut self, at: Nanos, call: Call, answer: Answer) {
        self.push(at, What::Ok { call, answer });
    }

    /// The call certainly took no effect.
    pub fn fail(&mut self, at: Nanos, call: Call, reason: &str) {
        self.push(at, What::Fail { call, reason: reason.into() });
    }

    /// The call ended, and nobody knows whether it took effect.
    pub fn info(&mut self, at: Nanos, call: Call, reason: &str) {
        self.push(at, What::Info { call, reason: reason.into() });
    }

    /// Something was observed.
    pub fn note(&mut self, at: Nanos, note: Note) {
        self.push(at, What::Note(note));
    }

    /// Judges it.
    #[must_use]
    pub fn check(&self, options: &Options) -> Verdict {
        let mut checker = Checker::new(options);
        for event in &self.events {
            checker.observe(event);
        }
        checker.finish()
    }

    /// Writes it as lines.
    ///
    /// # Errors
    /// When writing fails.
    pub fn write(&self, out: impl Write) -> io::Result<()> {
        let mut writer = Writer::new(out)?;
        for event in &self.events {
            writer.event(event)?;
        }
        writer.finish().map(drop)
    }

    /// Reads lines. To judge a long file without holding it, see [`check_lines`].
    ///
    /// # Errors
    /// When reading fails or a line is no event.
    pub fn read(lines: impl BufRead) -> Result<Self, ReadError> {
        let mut history = Self::new();
        for event in Reader::new(lines)? {
            let event = event?;
            if let What::Invoke { call, .. } = event.what {
                history.next_call = history.next_call.max(call.0.saturating_add(1));
            }
            history.events.push(event);
        }
        Ok(history)
    }

    fn push(&mut self, at: Nanos, what: What) {
        self.events.push(Event { at, what });
    }
}

impl FromIterator<Event> for History {
    fn from_iter<I: IntoIterator<Item = Event>>(events: I) -> Self {
        let mut history = Self::new();
        for event in events {
            if let What::Invoke { call, .. } = event.what {
                history.next_call = history.next_call.max(call.0.saturating_add(1));
            }
            history.events.push(event);
        }
        history
    }
}

/// Judges the lines of a history file without holding them.
///
/// # Errors
/// When reading fails or a line is no event.
pub fn check_lines(lines: impl BufRead, options: &Options) -> Result<Verdict, ReadError> {
    let mut checker = Checker::new(options);
    for event in Reader::new(lines)? {
        checker.observe(&event?);
    }
    Ok(checker.finish())
}
