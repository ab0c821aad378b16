//! Who waits for new records, by partition: an apply wakes the readers of its partitions and nobody
//! else.
//!
//! Owns: one event per partition that somebody has waited for.
//! Must never: hold a borrow while a waker runs. Invariants: at most one event per open partition.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;

use barrage_model::PartitionKey;
use barrage_world::channel::Event;

/// The waiting readers of one shard; clones are the same.
#[derive(Clone, Debug, Default)]
pub(crate) struct Readers {
    events: Rc<RefCell<BTreeMap<PartitionKey, Event>>>,
}

impl Readers {
    /// The event of a partition; listen to it, look at the partition, then wait.
    pub(crate) fn event(&self, key: PartitionKey) -> Event {
        self.events.borrow_mut().entry(key).or_default().clone()
    }

    /// Wakes who waits for this partition.
    pub(crate) fn wake(&self, key: PartitionKey) {
        let event = self.events.borrow().get(&key).cloned();
        if let Some(event) = event {
            event.notify_all();
        }
    }

    /// Wakes who waits for a partition that is gone, and forgets it.
    pub(crate) fn forget(&self, key: PartitionKey) {
        let event = self.events.borrow_mut().remove(&key);
        if let Some(event) = event {
            event.notify_all();
        }
    }

    /// Wakes everybody: the shard stops serving.
    pub(crate) fn wake_all(&self) {
        let events: Vec<_> = self.events.borrow().values().cloned().collect();
        events.iter().for_each(Event::notify_all);
    }
}
