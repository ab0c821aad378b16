//! A port that is listened on, and the connections that wait to be accepted.
//!
//! Owns who gets which connection: each core in turn, as long as it has room. Invariant: a
//! connection waits in one place at a time, and is accepted once.
//!
//! ```text
//!   established --> backlog --in turn--> queue of a core --> accept
//! ```

use std::cell::RefCell;
use std::collections::VecDeque;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

use super::machine::Machine;
use super::socket::{SocketKey, add_waker};

pub(super) struct Listening {
    pub(super) owner: Machine,
    scope: Scope,
    backlog: VecDeque<SocketKey>,
    cores: Vec<Rc<CoreQueue>>,
    turn: usize,
}

/// By which addresses a listener is reached.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Scope {
    Any,
    Loopback,
    Outside,
}

/// Connections dealt to one core.
#[derive(Default)]
pub(super) struct CoreQueue {
    state: RefCell<CoreState>,
}

#[derive(Default)]
struct CoreState {
    accepted: VecDeque<SocketKey>,
    waiting: Vec<Waker>,
    closed: bool,
}

impl Listening {
    pub(super) fn new(owner: Machine, scope: Scope) -> Self {
        Self { owner, scope, backlog: VecDeque::new(), cores: Vec::new(), turn: 0 }
    }

    pub(super) fn hears(&self, loopback: bool) -> bool {
        match self.scope {
            Scope::Any => true,
            Scope::Loopback => loopback,
            Scope::Outside => !loopback,
        }
    }

    pub(super) fn is_full(&self) -> bool {
        self.backlog.len() >= BACKLOG_MAX
    }

    pub(super) fn add_core(&mut self) -> Rc<CoreQueue> {
        let queue = Rc::new(CoreQueue::default());
        self.cores.push(Rc::clone(&queue));
        self.deal();
        queue
    }

    pub(super) fn push(&mut self, key: SocketKey) {
        self.backlog.push_back(key);
        self.deal();
    }

    /// Gives what waits to the cores that have room, each in turn.
    pub(super) fn deal(&mut self) {
        while let Some(key) = self.backlog.front() {
            self.turn = self.turn.wrapping_add(1);
            let count = self.cores.len();
            let mut cores = self.cores.iter().cycle().skip(self.turn % count.max(1)).take(count);
            if !cores.any(|core| core.offer(*key)) {
                return;
            }
            self.backlog.pop_front();
        }
    }

    /// All that nobody has accepted.
    pub(super) fn into_unaccepted(self) -> Vec<SocketKey> {
        let queued = self.cores.iter().flat_map(|core| core.close());
        queued.chain(self.backlog).collect()
    }
}

impl CoreQueue {
    fn offer(&self, key: SocketKey) -> bool {
        let mut state = self.state.borrow_mut();
        if state.closed || state.accepted.len() >= ACCEPTED_MAX {
            return false;
        }
        state.accepted.push_back(key);
        state.waiting.drain(..).for_each(Waker::wake);
        true
    }

    pub(super) fn poll(&self, context: &Context<'_>) -> Poll<SocketKey> {
        let mut state = self.state.borrow_mut();
        if let Some(key) = state.accepted.pop_front() {
            return Poll::Ready(key);
        }
        add_waker(&mut state.waiting, context);
        Poll::Pending
    }

    /// Takes nothing more; answers what it had.
    pub(super) fn close(&self) -> Vec<SocketKey> {
        let mut state = self.state.borrow_mut();
        state.closed = true;
        state.accepted.drain(..).collect()
    }
}

/// Connections that wait for a core with room.
const BACKLOG_MAX: usize = 4096;
/// Connections that wait for one core to accept them.
const ACCEPTED_MAX: usize = 256;
