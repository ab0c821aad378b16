//! Watch: the latest value of something, and a wake-up when it changes.
//!
//! Invariant: the version grows with every change; a receiver has seen a change when its own
//! version equals the channel's. Values in between may be skipped. A `Ref` must not be held across
//! an await: `send` would find the value borrowed and panic.

use std::cell::{Cell, Ref, RefCell};
use std::fmt;
use std::rc::Rc;

use super::event::Event;
pub use super::oneshot::Closed;

/// No receiver is left; the value comes back.
#[derive(Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("channel closed")]
pub struct SendError<T>(pub T);

impl<T> fmt::Debug for SendError<T> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("SendError")
    }
}

struct Shared<T> {
    value: RefCell<T>,
    version: Cell<u64>,
    sender_count: Cell<usize>,
    receiver_count: Cell<usize>,
    changed: Event,
}

/// A watched value, starting as `initial`, which counts as seen.
#[must_use]
pub fn channel<T>(initial: T) -> (Sender<T>, Receiver<T>) {
    let shared = Rc::new(Shared {
        value: RefCell::new(initial),
        version: Cell::new(0),
        sender_count: Cell::new(1),
        receiver_count: Cell::new(1),
        changed: Event::new(),
    });
    (Sender { shared: Rc::clone(&shared) }, Receiver { shared, seen: 0 })
}

/// Changes the value.
pub struct Sender<T> {
    shared: Rc<Shared<T>>,
}

impl<T> Sender<T> {
    /// Replaces the value and wakes the receivers.
    ///
    /// # Errors
    /// Gives the value back, unchanged, when no receiver is left.
    pub fn send(&self, value: T) -> Result<(), SendError<T>> {
        if self.shared.receiver_count.get() == 0 {
            return Err(SendError(value));
        }
        let _old = self.shared.value.replace(value);
        self.announce();
        Ok(())
    }

    /// Replaces the value even when nobody watches.
    pub fn send_replace(&self, value: T) -> T {
        let old = self.shared.value.replace(value);
        self.announce();
        old
    }

    /// Lets `modify` change the value in place; receivers wake when it answers true.
    pub fn send_if_modified(&self, modify: impl FnOnce(&mut T) -> bool) -> bool {
        let modified = modify(&mut self.shared.value.borrow_mut());
        if modified {
            self.announce();
        }
        modified
    }

    /// The current value.
    pub fn borrow(&self) -> Ref<'_, T> {
        self.shared.value.borrow()
    }

    /// A new receiver, which has seen the current value.
    #[must_use]
    pub fn subscribe(&self) -> Receiver<T> {
        self.shared.receiver_count.update(|count| count + 1);
        Receiver { shared: Rc::clone(&self.shared), seen: self.shared.version.get() }
    }

    fn announce(&self) {
        self.shared.version.update(|version| version + 1);
        self.shared.changed.notify_all();
    }
}

impl<T> Clone for Sender<T> {
    fn clone(&self) -> Self {
        self.shared.sender_count.update(|count| count + 1);
        Self { shared: Rc::clone(&self.shared) }
    }
}

impl<T> Drop for Sender<T> {
    fn drop(&mut self) {
        self.shared.sender_count.update(|count| count - 1);
        if self.shared.sender_count.get() == 0 {
            self.shared.changed.notify_all();
        }
    }
}

impl<T> fmt::Debug for Sender<T> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("watch::Sender")
    }
}

/// Watches the value.
pub struct Receiver<T> {
    shared: Rc<Shared<T>>,
    seen: u64,
}

impl<T> Receiver<T> {
    /// Waits for a change this receiver has not seen, and marks it seen.
    ///
    /// # Errors
    /// `Closed` when every change was seen and no sender is left.
    pub async fn changed(&mut self) -> Result<(), Closed> {
        loop {
            let version = self.shared.version.get();
            if version != self.seen {
                self.seen = version;
                return Ok(());
            }
            if self.shared.sender_count.get() == 0 {
                return Err(Closed);
            }
            self.shared.changed.listen().await;
        }
    }

    /// The current value; does not mark it seen.
    pub fn borrow(&self) -> Ref<'_, T> {
        self.shared.value.borrow()
    }

    /// The current value, marked seen.
    pub fn borrow_and_update(&mut self) -> Ref<'_, T> {
        self.seen = self.shared.version.get();
        self.shared.value.borrow()
    }

    /// Waits until the value satisfies `condition`; looks at the current value first.
    ///
    /// # Errors
    /// `Closed` when no sender is left and the value does not satisfy it.
    pub async fn wait_for(&mut self, condition: impl Fn(&T) -> bool) -> Result<(), Closed> {
        loop {
            if condition(&self.borrow_and_update()) {
                return Ok(());
            }
            self.changed().await?;
        }
    }
}

impl<T> Clone for Receiver<T> {
    fn clone(&self) -> Self {
        self.shared.receiver_count.update(|count| count + 1);
        Self { shared: Rc::clone(&self.shared), seen: self.seen }
    }
}

impl<T> Drop for Receiver<T> {
    fn drop(&mut self) {
        self.shared.receiver_count.update(|count| count - 1);
    }
}

impl<T> fmt::Debug for Receiver<T> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("watch::Receiver").field("seen", &self.seen).finish()
    }
}
