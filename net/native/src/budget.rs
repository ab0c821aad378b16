//! Budgets: how many requests and bytes may be under way, per connection and per core.
//!
//! A [`Budget`] counts and wakes; a [`Permit`] is a share of two budgets that goes back when it is
//! dropped. Invariant: a budget that is empty admits anything, so that one frame larger than the
//! budget passes alone instead of waiting for ever.

use std::cell::Cell;
use std::rc::Rc;

use barrage_world::channel::Event;

/// Requests and bytes under way, and how many may be.
pub(crate) struct Budget {
    requests: Cell<u64>,
    bytes: Cell<u64>,
    requests_max: u64,
    bytes_max: u64,
    room: Event,
}

impl Budget {
    pub(crate) fn new(requests_max: u64, bytes_max: u64) -> Rc<Self> {
        assert!(requests_max > 0, "a budget admits at least one request");
        Rc::new(Self {
            requests: Cell::new(0),
            bytes: Cell::new(0),
            requests_max,
            bytes_max,
            room: Event::new(),
        })
    }

    /// Whether a request of `bytes` bytes may start now.
    pub(crate) fn admits(&self, bytes: u64) -> bool {
        let requests = self.requests.get();
        requests == 0
            || (requests < self.requests_max
                && self.bytes.get().saturating_add(bytes) <= self.bytes_max)
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.requests.get() == 0
    }

    #[cfg(test)]
    pub(crate) fn bytes(&self) -> u64 {
        self.bytes.get()
    }

    /// Waits until a request of `bytes` bytes may start. Cancel-safe: nothing is taken.
    pub(crate) async fn admitted(&self, bytes: u64) {
        while !self.admits(bytes) {
            // Registered before the second look: a permit dropped in between is not missed.
            let room = self.room.listen();
            if self.admits(bytes) {
                return;
            }
            room.await;
        }
    }

    fn take(&self, bytes: u64) {
        self.requests.set(self.requests.get() + 1);
        self.bytes.set(self.bytes.get() + bytes);
    }

    fn give_back(&self, bytes: u64) {
        assert!(self.requests.get() > 0, "more permits given back than taken");
        assert!(self.bytes.get() >= bytes, "more bytes given back than taken");
        self.requests.set(self.requests.get() - 1);
        self.bytes.set(self.bytes.get() - bytes);
        // All, not one: the first waiter may need more than is free while the second fits.
        self.room.notify_all();
    }
}

/// A request's share of its connection's and its core's budget.
pub(crate) struct Permit {
    connection: Rc<Budget>,
    core: Rc<Budget>,
    bytes: u64,
}

impl Permit {
    /// Takes the share whether or not it is admitted: the caller has waited, or has the bytes
    /// already and counts them so that the next one waits.
    pub(crate) fn take(connection: &Rc<Budget>, core: &Rc<Budget>, bytes: u64) -> Self {
        connection.take(bytes);
        core.take(bytes);
        Self { connection: Rc::clone(connection), core: Rc::clone(core), bytes }
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.connection.give_back(self.bytes);
        self.core.give_back(self.bytes);
    }
}

/// Bytes of replies that clients have not taken yet, over all connections of a core.
pub(crate) struct Backlog {
    bytes: Cell<u64>,
    bytes_max: u64,
    shrunk: Event,
}

impl Backlog {
    pub(crate) fn new(bytes_max: u64) -> Self {
        Self { bytes: Cell::new(0), bytes_max, shrunk: Event::new() }
    }

    pub(crate) fn grow(&self, bytes: u64) {
        self.bytes.set(self.bytes.get() + bytes);
    }

    pub(crate) fn shrink(&self, bytes: u64) {
        assert!(self.bytes.get() >= bytes, "more bytes written than were waiting");
        self.bytes.set(self.bytes.get() - bytes);
        self.shrunk.notify_all();
    }

    /// Waits until more replies may be made. Cancel-safe.
    pub(crate) async fn below_limit(&self) {
        while self.bytes.get() >= self.bytes_max {
            self.shrunk.listen().await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_budget_admits_up_to_its_limits_and_one_giant_alone() {
        let (connection, core) = (Budget::new(2, 100), Budget::new(1000, 1000));
        assert!(connection.admits(5000));
        let giant = Permit::take(&connection, &core, 5000);
        assert!(!connection.admits(1));
        drop(giant);
        let first = Permit::take(&connection, &core, 60);
        assert!(connection.admits(40));
        assert!(!connection.admits(41));
        let second = Permit::take(&connection, &core, 1);
        assert!(!connection.admits(0));
        drop((first, second));
        assert!(connection.is_empty());
        assert_eq!(core.bytes(), 0);
    }
}
