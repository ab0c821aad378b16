//! Event: lets tasks wait until somebody says that something happened.
//!
//! A listener is registered when `listen` is called, not when it is first polled, so the pattern
//! "look, listen, look again, wait" loses no wake-up. An event has no memory: a notification that
//! finds no listener is gone.
//!
//! ```text
//! waiting (id in the map) --notify--> notified (id gone from the map) --poll--> done
//!                                       dropped before poll: notify_one is passed on
//! ```

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::fmt;
use std::future::Future;
use std::mem;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

/// Wakes listeners, one or all. Clones are handles to the same event.
#[derive(Clone, Default)]
pub struct Event {
    state: Rc<RefCell<State>>,
}

#[derive(Default)]
struct State {
    next_id: u64,
    /// Ids below were notified by `notify_all`: their notification need not be passed on.
    all_below: u64,
    waiting: BTreeMap<u64, Option<Waker>>,
}

impl Event {
    /// An event with no listeners.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Registers a listener; await it to sleep until the next notification.
    pub fn listen(&self) -> Listener {
        let mut state = self.state.borrow_mut();
        let id = state.next_id;
        state.next_id += 1;
        state.waiting.insert(id, None);
        Listener { state: Rc::clone(&self.state), id, done: false }
    }

    /// Wakes the listener that has waited longest; nothing happens when there is none.
    pub fn notify_one(&self) {
        notify_one(&self.state);
    }

    /// Wakes every listener registered so far.
    pub fn notify_all(&self) {
        let woken = {
            let mut state = self.state.borrow_mut();
            state.all_below = state.next_id;
            mem::take(&mut state.waiting)
        };
        woken.into_values().flatten().for_each(Waker::wake);
    }

    /// How many listeners wait.
    #[must_use]
    pub fn listener_count(&self) -> usize {
        self.state.borrow().waiting.len()
    }
}

impl fmt::Debug for Event {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Event").field("listeners", &self.listener_count()).finish()
    }
}

fn notify_one(state: &RefCell<State>) {
    let woken = state.borrow_mut().waiting.pop_first();
    if let Some((_, Some(waker))) = woken {
        waker.wake();
    }
}

/// Future that is ready once its event was notified after [`Event::listen`].
#[must_use = "a listener does nothing unless awaited"]
pub struct Listener {
    state: Rc<RefCell<State>>,
    id: u64,
    done: bool,
}

impl Future for Listener {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        let replaced = {
            let mut state = self.state.borrow_mut();
            match state.waiting.get_mut(&self.id) {
                None => None,
                Some(Some(waker)) if waker.will_wake(context.waker()) => return Poll::Pending,
                Some(slot) => Some(slot.replace(context.waker().clone())),
            }
        };
        match replaced {
            Some(_old) => Poll::Pending,
            None => {
                self.done = true;
                Poll::Ready(())
            }
        }
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        if self.done {
            return;
        }
        let (removed, by_all) = {
            let mut state = self.state.borrow_mut();
            (state.waiting.remove(&self.id), self.id < state.all_below)
        };
        // Notified, but never looked: another listener must not sleep on because of that.
        if removed.is_none() && !by_all {
            notify_one(&self.state);
        }
    }
}

impl fmt::Debug for Listener {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Listener").field("done", &self.done).finish()
    }
}
