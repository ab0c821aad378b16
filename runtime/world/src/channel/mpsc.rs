//! Mpsc: a queue from many tasks to one, bounded or not.
//!
//! Invariants: `queue.len() <= capacity`; values arrive in the order they entered; when the last
//! sender goes the receiver drains what is queued and then sees `None`; when the receiver goes,
//! queued values are dropped and every sender gets its value back.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::fmt;
use std::future::poll_fn;
use std::mem;
use std::rc::{Rc, Weak};
use std::task::{Context, Poll, Waker};

use super::event::Event;

/// The receiver is gone; the value comes back.
#[derive(Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("channel closed")]
pub struct SendError<T>(pub T);

impl<T> fmt::Debug for SendError<T> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("SendError")
    }
}

/// Why a value was not queued; it comes back.
#[derive(Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum TrySendError<T> {
    /// The queue holds as much as it may.
    #[error("channel full")]
    Full(T),
    /// The receiver is gone.
    #[error("channel closed")]
    Closed(T),
}

impl<T> fmt::Debug for TrySendError<T> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::Full(_) => "Full",
            Self::Closed(_) => "Closed",
        })
    }
}

/// Why there is nothing to receive.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum TryRecvError {
    /// Nothing is queued now.
    #[error("channel empty")]
    Empty,
    /// Nothing is queued and no sender is left.
    #[error("channel closed")]
    Closed,
}

struct Shared<T> {
    state: RefCell<State<T>>,
    space: Event,
}

struct State<T> {
    queue: VecDeque<T>,
    capacity: usize,
    receiver_waker: Option<Waker>,
    sender_count: usize,
    receiver_gone: bool,
}

/// A queue of at most `capacity` values.
#[must_use]
pub fn bounded<T>(capacity: usize) -> (Sender<T>, Receiver<T>) {
    assert!(capacity > 0, "a queue must hold at least one value");
    let shared = Rc::new(Shared {
        state: RefCell::new(State {
            queue: VecDeque::new(),
            capacity,
            receiver_waker: None,
            sender_count: 1,
            receiver_gone: false,
        }),
        space: Event::new(),
    });
    (Sender { shared: Rc::clone(&shared) }, Receiver { shared })
}

/// A queue without a bound of its own: only for values that are bounded elsewhere.
#[must_use]
pub fn unbounded<T>() -> (Sender<T>, Receiver<T>) {
    bounded(usize::MAX)
}

/// Puts values into the queue.
pub struct Sender<T> {
    shared: Rc<Shared<T>>,
}

impl<T> Sender<T> {
    /// Queues `value` when there is room.
    ///
    /// # Errors
    /// Gives the value back when the queue is full or the receiver is gone.
    pub fn try_send(&self, value: T) -> Result<(), TrySendError<T>> {
        let waker = {
            let mut state = self.shared.state.borrow_mut();
            if state.receiver_gone {
                return Err(TrySendError::Closed(value));
            }
            if state.queue.len() >= state.capacity {
                return Err(TrySendError::Full(value));
            }
            state.queue.push_back(value);
            state.receiver_waker.take()
        };
        if let Some(waker) = waker {
            waker.wake();
        }
        Ok(())
    }

    /// Queues `value`, waiting for room. A dropped future has not sent.
    ///
    /// # Errors
    /// Gives the value back when the receiver is gone.
    pub async fn send(&self, mut value: T) -> Result<(), SendError<T>> {
        loop {
            match self.try_send(value) {
                Ok(()) => return Ok(()),
                Err(TrySendError::Closed(value)) => return Err(SendError(value)),
                Err(TrySendError::Full(back)) => value = back,
            }
            // No await lies between the look above and this registration.
            self.shared.space.listen().await;
        }
    }

    /// A handle that does not keep the channel open.
    #[must_use]
    pub fn downgrade(&self) -> WeakSender<T> {
        WeakSender { shared: Rc::downgrade(&self.shared) }
    }

    /// Whether the receiver is gone.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        self.shared.state.borrow().receiver_gone
    }

    /// How many values are queued.
    #[must_use]
    pub fn len(&self) -> usize {
        self.shared.state.borrow().queue.len()
    }

    /// Whether nothing is queued.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl<T> Clone for Sender<T> {
    fn clone(&self) -> Self {
        self.shared.state.borrow_mut().sender_count += 1;
        Self { shared: Rc::clone(&self.shared) }
    }
}

impl<T> Drop for Sender<T> {
    fn drop(&mut self) {
        let waker = {
            let mut state = self.shared.state.borrow_mut();
            state.sender_count -= 1;
            if state.sender_count == 0 { state.receiver_waker.take() } else { None }
        };
        if let Some(waker) = waker {
            waker.wake();
        }
    }
}

impl<T> fmt::Debug for Sender<T> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("mpsc::Sender").field("len", &self.len()).finish()
    }
}

/// A sender that does not keep the channel open.
pub struct WeakSender<T> {
    shared: Weak<Shared<T>>,
}

impl<T> WeakSender<T> {
    /// A full sender, as long as another one exists.
    #[must_use]
    pub fn upgrade(&self) -> Option<Sender<T>> {
        let shared = self.shared.upgrade()?;
        {
            let mut state = shared.state.borrow_mut();
            if state.sender_count == 0 {
                return None;
            }
            state.sender_count += 1;
        }
        Some(Sender { shared })
    }
}

impl<T> Clone for WeakSender<T> {
    fn clone(&self) -> Self {
        Self { shared: Weak::clone(&self.shared) }
    }
}

impl<T> fmt::Debug for WeakSender<T> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("mpsc::WeakSender")
    }
}

/// Takes values out of the queue.
pub struct Receiver<T> {
    shared: Rc<Shared<T>>,
}

impl<T> Receiver<T> {
    /// The next value; `None` when the queue is empty and no sender is left. A dropped future
    /// has taken nothing.
    pub async fn recv(&mut self) -> Option<T> {
        poll_fn(|context| self.poll_recv(context)).await
    }

    /// The next value if one is queued.
    ///
    /// # Errors
    /// `Empty` or, when no sender is left, `Closed`.
    pub fn try_recv(&mut self) -> Result<T, TryRecvError> {
        let value = {
            let mut state = self.shared.state.borrow_mut();
            match state.queue.pop_front() {
                Some(value) => value,
                None if state.sender_count == 0 => return Err(TryRecvError::Closed),
                None => return Err(TryRecvError::Empty),
            }
        };
        self.shared.space.notify_one();
        Ok(value)
    }

    /// `recv` for hand-written futures.
    pub fn poll_recv(&mut self, context: &mut Context<'_>) -> Poll<Option<T>> {
        match self.try_recv() {
            Ok(value) => Poll::Ready(Some(value)),
            Err(TryRecvError::Closed) => Poll::Ready(None),
            Err(TryRecvError::Empty) => {
                let waker = context.waker().clone();
                let _old = self.shared.state.borrow_mut().receiver_waker.replace(waker);
                Poll::Pending
            }
        }
    }

    /// How many values are queued.
    #[must_use]
    pub fn len(&self) -> usize {
        self.shared.state.borrow().queue.len()
    }

    /// Whether nothing is queued.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl<T> Drop for Receiver<T> {
    fn drop(&mut self) {
        let (_queue, _waker) = {
            let mut state = self.shared.state.borrow_mut();
            state.receiver_gone = true;
            (mem::take(&mut state.queue), state.receiver_waker.take())
        };
        self.shared.space.notify_all();
    }
}

impl<T> fmt::Debug for Receiver<T> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("mpsc::Receiver").field("len", &self.len()).finish()
    }
}
