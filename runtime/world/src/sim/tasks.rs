//! The tasks of one run: their futures, and the machines they belong to.
//!
//! Owns the futures. Invariants: a number is given once; a key of a task that has gone finds
//! nothing, also when its slot holds another one.

use std::future::Future;
use std::pin::Pin;

use super::machine::Machine;

pub(super) type TaskFuture = Pin<Box<dyn Future<Output = ()>>>;

/// Names a task: its number, and where it lies.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct TaskKey {
    pub(super) number: u64,
    slot: usize,
}

/// The future that `run` was given; it lives on the stack of the run, not among the tasks.
pub(super) const MAIN_TASK: TaskKey = TaskKey { number: 0, slot: usize::MAX };

pub(super) struct Task {
    number: u64,
    /// None while it is being polled.
    future: Option<TaskFuture>,
    pub(super) machine: Machine,
}

#[derive(Default)]
pub(super) struct Tasks {
    slots: Vec<Option<Task>>,
    free: Vec<usize>,
    /// Numbers given so far; 0 is the main task's.
    count: u64,
}

impl Tasks {
    pub(super) fn add(&mut self, machine: Machine, future: TaskFuture) -> TaskKey {
        self.count += 1;
        let slot = self.free.pop().unwrap_or(self.slots.len());
        let task = Task { number: self.count, future: Some(future), machine };
        match self.slots.get_mut(slot) {
            Some(free) => {
                assert!(free.is_none(), "a slot is given to one task");
                *free = Some(task);
            }
            None => self.slots.push(Some(task)),
        }
        TaskKey { number: self.count, slot }
    }

    pub(super) fn len(&self) -> usize {
        self.slots.len() - self.free.len()
    }

    pub(super) fn get(&self, key: TaskKey) -> Option<&Task> {
        let task = self.slots.get(key.slot)?.as_ref();
        task.filter(|task| task.number == key.number)
    }

    /// Takes a future out to poll it.
    pub(super) fn take(&mut self, key: TaskKey) -> Option<(TaskFuture, Machine)> {
        let task = self.slots.get_mut(key.slot)?.as_mut()?;
        if task.number != key.number {
            return None;
        }
        Some((task.future.take()?, task.machine.clone()))
    }

    /// Puts a future back that goes on.
    pub(super) fn put_back(&mut self, key: TaskKey, future: TaskFuture) {
        let task = self.slots.get_mut(key.slot).and_then(Option::as_mut);
        if let Some(task) = task.filter(|task| task.number == key.number) {
            task.future = Some(future);
        }
    }

    /// Forgets a task whose future has ended or was taken out for good.
    pub(super) fn remove(&mut self, key: TaskKey) {
        if self.get(key).is_some() {
            drop(self.clear(key.slot));
        }
    }

    /// Takes the first task out, at or after `slot`, that is not being polled and that matches;
    /// with the slot to go on from.
    pub(super) fn take_matching(
        &mut self,
        slot: usize,
        matches: impl Fn(&Task) -> bool,
    ) -> Option<(Task, usize)> {
        let rest = self.slots.iter().enumerate().skip(slot);
        let found = rest
            .filter_map(|(slot, task)| task.as_ref().map(|task| (slot, task)))
            .find(|(_, task)| task.future.is_some() && matches(task))?;
        let slot = found.0;
        self.clear(slot).map(|task| (task, slot + 1))
    }

    fn clear(&mut self, slot: usize) -> Option<Task> {
        let task = self.slots.get_mut(slot)?.take()?;
        self.free.push(slot);
        Some(task)
    }
}
