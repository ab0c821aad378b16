//! Mailboxes: how an owned message crosses from one core to another.
//!
//! One bounded queue per direction, over flume; messages travel in `Vec`s, because one wake-up and
//! one lock per batch is what makes crossing cheap (13 M/s one by one, 140 M/s in Vecs of 64).
//! The bound counts messages, from the moment they are posted until the receiver takes them out.
//!
//! ```text
//! Outbox::post --gathers for one turn--> flume --> MailboxReceiver::recv -> Vec of all that waits
//! ```
//!
//! Invariants: order is kept per outbox; a message is delivered, or given back in `MailboxFull`.

use std::cell::{Cell, RefCell};
use std::fmt;
use std::mem;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::task::{spawn, yield_now};

/// One `recv` returns at most about this many messages, so that a flood does not own the core.
const RECV_MESSAGES_MAX: usize = 1024;

/// The mailbox has no room, or its core is gone: the messages come back.
#[derive(PartialEq, Eq, thiserror::Error)]
#[error("mailbox full")]
pub struct MailboxFull<T>(pub Vec<T>);

impl<T> fmt::Debug for MailboxFull<T> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "MailboxFull({} messages)", self.0.len())
    }
}

/// A mailbox for at most `capacity` messages.
#[must_use]
pub fn mailbox<T: Send>(capacity: usize) -> (MailboxSender<T>, MailboxReceiver<T>) {
    assert!(capacity > 0, "a mailbox must hold at least one message");
    // A Vec holds at least one message, so the queue of Vecs never fills before the counter does.
    let (queue, batches) = flume::bounded(capacity);
    let depth = Arc::new(AtomicUsize::new(0));
    let sender = MailboxSender { queue, depth: Arc::clone(&depth), capacity };
    (sender, MailboxReceiver { batches, depth })
}

/// The sending end; may be cloned and sent to any core. See [`MailboxSender::outbox`].
pub struct MailboxSender<T> {
    queue: flume::Sender<Vec<T>>,
    depth: Arc<AtomicUsize>,
    capacity: usize,
}

impl<T: Send + 'static> MailboxSender<T> {
    /// Sends a batch at once.
    ///
    /// # Errors
    /// Gives all messages back when they do not fit or the receiver is gone.
    pub fn try_send(&self, messages: Vec<T>) -> Result<(), MailboxFull<T>> {
        if messages.is_empty() {
            return Ok(());
        }
        if !self.reserve(messages.len()) {
            return Err(MailboxFull(messages));
        }
        self.send_reserved(messages)
    }

    /// A gathering end for the core that calls this.
    #[must_use]
    pub fn outbox(&self) -> Outbox<T> {
        Outbox {
            inner: Rc::new(Gather {
                sender: self.clone(),
                waiting: RefCell::new(Vec::new()),
                flush_spawned: Cell::new(false),
            }),
        }
    }

    /// Messages posted and not yet taken out.
    #[must_use]
    pub fn depth(&self) -> usize {
        self.depth.load(Ordering::Relaxed)
    }

    /// How many messages the mailbox holds at most.
    #[must_use]
    pub fn capacity(&self) -> usize {
        self.capacity
    }

    fn reserve(&self, count: usize) -> bool {
        let room = |depth: usize| depth.checked_add(count).filter(|sum| *sum <= self.capacity);
        self.depth.fetch_update(Ordering::AcqRel, Ordering::Relaxed, room).is_ok()
    }

    fn send_reserved(&self, messages: Vec<T>) -> Result<(), MailboxFull<T>> {
        let count = messages.len();
        self.queue.try_send(messages).map_err(|error| {
            self.depth.fetch_sub(count, Ordering::AcqRel);
            MailboxFull(error.into_inner())
        })
    }
}

impl<T> Clone for MailboxSender<T> {
    fn clone(&self) -> Self {
        Self { queue: self.queue.clone(), depth: Arc::clone(&self.depth), capacity: self.capacity }
    }
}

impl<T> fmt::Debug for MailboxSender<T> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("MailboxSender").field("capacity", &self.capacity).finish()
    }
}

/// Gathers what one core posts during a turn and sends it as one batch at the end of the turn.
pub struct Outbox<T> {
    inner: Rc<Gather<T>>,
}

struct Gather<T> {
    sender: MailboxSender<T>,
    waiting: RefCell<Vec<T>>,
    flush_spawned: Cell<bool>,
}

impl<T: Send + 'static> Outbox<T> {
    /// Posts one message; it leaves with the others of this turn.
    ///
    /// # Errors
    /// Gives the message back when the mailbox is full or its receiver is gone.
    pub fn post(&self, message: T) -> Result<(), MailboxFull<T>> {
        if self.inner.sender.queue.is_disconnected() || !self.inner.sender.reserve(1) {
            return Err(MailboxFull(vec![message]));
        }
        self.inner.waiting.borrow_mut().push(message);
        if !self.inner.flush_spawned.replace(true) {
            let gather = Rc::clone(&self.inner);
            drop(spawn(async move {
                yield_now().await;
                gather.flush();
            }));
        }
        Ok(())
    }

    /// Sends what was posted, without waiting for the end of the turn.
    pub fn flush(&self) {
        self.inner.flush();
    }

    /// Messages posted and not yet taken out, by all senders.
    #[must_use]
    pub fn depth(&self) -> usize {
        self.inner.sender.depth()
    }
}

impl<T: Send + 'static> Gather<T> {
    fn flush(&self) {
        self.flush_spawned.set(false);
        let messages = mem::take(&mut *self.waiting.borrow_mut());
        if messages.is_empty() {
            return;
        }
        // Room was reserved at `post`. A receiver that is gone means its core has ended, and with
        // it, by the panic policy, the process; what the messages asked for no longer matters.
        drop(self.sender.send_reserved(messages));
    }
}

impl<T> Clone for Outbox<T> {
    fn clone(&self) -> Self {
        Self { inner: Rc::clone(&self.inner) }
    }
}

impl<T> fmt::Debug for Outbox<T> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("Outbox")
    }
}

/// The receiving end: one per mailbox, sent to the core that reads it.
pub struct MailboxReceiver<T> {
    batches: flume::Receiver<Vec<T>>,
    depth: Arc<AtomicUsize>,
}

impl<T: Send> MailboxReceiver<T> {
    /// Waits for messages and takes all that wait, at most about a thousand; `None` when every
    /// sender is gone. A dropped future has taken nothing.
    pub async fn recv(&mut self) -> Option<Vec<T>> {
        let mut messages = self.batches.recv_async().await.ok()?;
        self.drain_into(&mut messages);
        Some(messages)
    }

    /// Takes what waits, without waiting for more.
    pub fn try_recv(&mut self) -> Vec<T> {
        let mut messages = Vec::new();
        self.drain_into(&mut messages);
        messages
    }

    /// Messages posted and not yet taken out.
    #[must_use]
    pub fn depth(&self) -> usize {
        self.depth.load(Ordering::Relaxed)
    }

    fn drain_into(&self, messages: &mut Vec<T>) {
        while messages.len() < RECV_MESSAGES_MAX {
            let Ok(mut more) = self.batches.try_recv() else { break };
            if messages.is_empty() {
                *messages = more;
            } else {
                messages.append(&mut more);
            }
        }
        self.depth.fetch_sub(messages.len(), Ordering::AcqRel);
    }
}

impl<T> fmt::Debug for MailboxReceiver<T> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("MailboxReceiver")
    }
}
