//! The queue of tasks that were woken, and the wakers that fill it.
//!
//! Owns which tasks are to be polled. Invariants: a task stands in the queue at most once; which
//! one is next follows from the seed; neither costs more when many tasks are ready.
//!
//! Wakers must be Send, hence the lock and the atomic; there is one thread.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Wake, Waker};

use super::rng::Rng;
use super::tasks::TaskKey;

#[derive(Default)]
pub(super) struct Ready {
    woken: Mutex<Vec<Arc<TaskWaker>>>,
}

/// Wakes one task.
pub(super) struct TaskWaker {
    task: TaskKey,
    ready: Arc<Ready>,
    /// From the wake until the poll begins.
    queued: AtomicBool,
}

impl Ready {
    pub(super) fn waker(self: &Arc<Self>, task: TaskKey) -> Arc<TaskWaker> {
        let queued = AtomicBool::new(false);
        Arc::new(TaskWaker { task, ready: Arc::clone(self), queued })
    }

    /// Takes out one of the tasks that were woken. It counts as queued until it is polled.
    pub(super) fn pick(&self, random: &mut Rng) -> Option<Arc<TaskWaker>> {
        let mut woken = self.woken.lock().unwrap_or_else(PoisonError::into_inner);
        if woken.is_empty() {
            return None;
        }
        let index = random.below(woken.len() as u64) as usize;
        Some(woken.swap_remove(index))
    }

    /// Puts back what was picked and not polled.
    pub(super) fn put_back(&self, waker: Arc<TaskWaker>) {
        let mut woken = self.woken.lock().unwrap_or_else(PoisonError::into_inner);
        woken.push(waker);
    }
}

impl TaskWaker {
    pub(super) fn task(&self) -> TaskKey {
        self.task
    }

    /// The poll begins: from here on a wake means another poll.
    pub(super) fn polled(self: Arc<Self>) -> Waker {
        self.queued.store(false, Ordering::Relaxed);
        Waker::from(self)
    }

    /// Whether this call is the one that queues it.
    fn queue(&self) -> bool {
        !self.queued.swap(true, Ordering::Relaxed)
    }
}

impl Wake for TaskWaker {
    fn wake(self: Arc<Self>) {
        if self.queue() {
            let ready = Arc::clone(&self.ready);
            ready.put_back(self);
        }
    }

    fn wake_by_ref(self: &Arc<Self>) {
        if self.queue() {
            self.ready.put_back(Arc::clone(self));
        }
    }
}
