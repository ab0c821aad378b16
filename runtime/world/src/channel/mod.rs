//! Channels between tasks of one core: oneshot, mpsc, watch, mutex, event.
//!
//! One implementation for both backends, on `Rc` and std wakers: nothing here is `Send`.
//! Invariants: every future may be dropped at any await point without losing a value or a wake-up;
//! no `RefCell` borrow is held while a waker is woken or dropped (either may run foreign code).

pub mod event;
pub mod mpsc;
pub mod mutex;
pub mod oneshot;
pub mod watch;

pub use event::Event;
pub use mutex::Mutex;

#[cfg(test)]
mod tests;
