//! Mutex: exclusive use of a value across await points, on one core.
//!
//! Invariant: the value is borrowed exactly while a guard lives; a released guard wakes one waiter.

use std::cell::{RefCell, RefMut};
use std::fmt;
use std::ops::{Deref, DerefMut};

use super::event::Event;

/// A value that one task at a time may use.
pub struct Mutex<T> {
    value: RefCell<T>,
    released: Event,
}

impl<T> Mutex<T> {
    /// An unlocked mutex.
    #[must_use]
    pub fn new(value: T) -> Self {
        Self { value: RefCell::new(value), released: Event::new() }
    }

    /// Waits for the value. A dropped future does not hold it.
    pub async fn lock(&self) -> MutexGuard<'_, T> {
        loop {
            if let Some(guard) = self.try_lock() {
                return guard;
            }
            self.released.listen().await;
        }
    }

    /// The value, when it is free.
    pub fn try_lock(&self) -> Option<MutexGuard<'_, T>> {
        let value = self.value.try_borrow_mut().ok()?;
        Some(MutexGuard { value, released: &self.released })
    }

    /// Gives the value back.
    pub fn into_inner(self) -> T {
        self.value.into_inner()
    }
}

impl<T> fmt::Debug for Mutex<T> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("Mutex")
    }
}

/// Exclusive use of the value while it lives.
pub struct MutexGuard<'a, T> {
    value: RefMut<'a, T>,
    released: &'a Event,
}

impl<T> Deref for MutexGuard<'_, T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.value
    }
}

impl<T> DerefMut for MutexGuard<'_, T> {
    fn deref_mut(&mut self) -> &mut T {
        &mut self.value
    }
}

impl<T> Drop for MutexGuard<'_, T> {
    fn drop(&mut self) {
        // The waiter runs in a later turn, when the borrow has ended.
        self.released.notify_one();
    }
}

impl<T> fmt::Debug for MutexGuard<'_, T> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("MutexGuard")
    }
}
