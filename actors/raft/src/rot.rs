//! Damage that was met when entries were read, for another replica or to be applied.
//!
//! Owns: the first damage met, whether it ends the group, and telling who waits for it; whether the
//! replica stands back because of it.
//! Must never: take damage met for another replica for the end of the group: what is damaged here
//! lies whole on others, and one of them can lead. What cannot be applied does end it.

use std::cell::{Cell, RefCell};

use barrage_commitlog::ReadError;
use barrage_model::ShardId;
use barrage_world::channel::event::Event;

use crate::group::OpenError;

/// See the module.
pub(crate) struct Rot {
    shard: ShardId,
    met: RefCell<Option<String>>,
    is_fatal: Cell<bool>,
    /// Nothing is sent as a leader meanwhile.
    stands_back: Cell<bool>,
    news: Event,
}

impl Rot {
    pub(crate) fn new(shard: ShardId) -> Self {
        let (met, is_fatal, stands_back) = (RefCell::default(), Cell::default(), Cell::default());
        Self { shard, met, is_fatal, stands_back, news: Event::new() }
    }

    /// Takes note of an error, if it is damage; answers whether it is.
    pub(crate) fn note(&self, error: &ReadError) -> bool {
        let ReadError::Damaged(damage) = error else { return false };
        if self.met.borrow().is_none() {
            let shard = self.shard;
            tracing::error!(%shard, %damage, "entries cannot be read");
            *self.met.borrow_mut() = Some(damage.to_string());
            self.news.notify_all();
        }
        true
    }

    /// Takes note of an error that ends the group.
    pub(crate) fn note_fatal(&self, error: &ReadError) {
        if self.note(error) {
            self.is_fatal.set(true);
        }
    }

    /// Whether this replica keeps silent as a leader, so that another one may lead.
    pub(crate) fn stands_back(&self) -> bool {
        self.stands_back.get()
    }

    pub(crate) fn set_stands_back(&self, stands_back: bool) {
        self.stands_back.set(stands_back);
    }

    /// Whether damage ends the group.
    pub(crate) fn is_fatal(&self) -> bool {
        self.is_fatal.get()
    }

    /// The damage that a group does not open for, or else what it says itself.
    pub(crate) fn blamed_for(&self, error: OpenError) -> OpenError {
        match self.met.borrow().clone() {
            Some(damage) if self.is_fatal() => OpenError::Damaged(damage),
            _ => error,
        }
    }

    /// Waits until there is damage, and says which.
    pub(crate) async fn met(&self) -> String {
        loop {
            let news = self.news.listen();
            if let Some(damage) = self.met.borrow().clone() {
                return damage;
            }
            news.await;
        }
    }
}
