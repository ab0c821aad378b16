//! One run of one scenario, whatever comes of it.
//!
//! Owns: what surrounds a run: the planted bug, the panic that is caught and becomes a violation,
//! and what the thread keeps between runs. Must never let one run change the next.

use std::cell::RefCell;
use std::panic::{self, AssertUnwindSafe};
use std::sync::Once;

use barrage_world::sim;

use super::outcome::Outcome;
use crate::scenario::Scenario;

/// A run that has ended.
#[derive(Clone, Debug)]
pub(crate) struct Run {
    pub(crate) scenario: &'static Scenario,
    pub(crate) seed: u64,
    pub(crate) outcome: Outcome,
    /// Whether the line of the planted bug was reached.
    pub(crate) planted_reached: bool,
}

/// Runs `seed` of `scenario`, with a planted bug or none.
pub(crate) fn run_once(scenario: &'static Scenario, seed: u64, planted: Option<&str>) -> Run {
    catch_messages();
    sim::plant(planted);
    sim::set_buggify(false);
    PANIC.set(Watch::Waiting);
    let ended = panic::catch_unwind(AssertUnwindSafe(|| (scenario.run)(seed)));
    let message = PANIC.replace(Watch::Off);
    let planted_reached = sim::planted_was_reached();
    let mut outcome = ended.unwrap_or_else(|_| {
        let Watch::Caught(message) = message else { return failed("a panic without a message") };
        failed(&message)
    });
    outcome.moods = sim::buggified();
    sim::plant(None);
    sim::set_buggify(false);
    Run { scenario, seed, outcome, planted_reached }
}

/// The outcome of a run that panicked: its trace as far as it came.
fn failed(message: &str) -> Outcome {
    let violations = vec![format!("panic: {message}")];
    Outcome { violations, trace_hash: sim::trace_hash(), ..Outcome::default() }
}

enum Watch {
    /// Panics of this thread are its own business.
    Off,
    Waiting,
    Caught(String),
}

thread_local! {
    static PANIC: RefCell<Watch> = const { RefCell::new(Watch::Off) };
}

/// Keeps the message of a panic within a run instead of printing it.
fn catch_messages() {
    static INSTALLED: Once = Once::new();
    INSTALLED.call_once(|| {
        let print = panic::take_hook();
        panic::set_hook(Box::new(move |info| {
            let caught = PANIC.with_borrow_mut(|watch| match watch {
                Watch::Off => false,
                Watch::Waiting => {
                    *watch = Watch::Caught(said(info));
                    true
                }
                // The first panic tells the story; what its unwinding met comes from it.
                Watch::Caught(_) => true,
            });
            if !caught || std::env::var_os("RUST_BACKTRACE").is_some() {
                print(info);
            }
        }));
    });
}

fn said(info: &panic::PanicHookInfo<'_>) -> String {
    let what = info.payload_as_str().unwrap_or("a panic that says nothing");
    match info.location() {
        Some(place) => format!("{what} ({}:{})", place.file(), place.line()),
        None => what.to_owned(),
    }
}
