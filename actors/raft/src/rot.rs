//! Damage that was met when entries were read, for another replica or to be applied.
//!
//! Owns: the first damage met, and telling who waits for it. Must never: be taken for the end of
//! the group: what is damaged here lies whole on other replicas, and one of them can lead.

use std::cell::RefCell;

use barrage_commitlog::ReadError;
use barrage_model::ShardId;
use barrage_world::channel::event::Event;

/// See the module.
pub(crate) struct Rot {
    shard: ShardId,
    met: RefCell<Option<String>>,
    news: Event,
}

impl Rot {
    pub(crate) fn new(shard: ShardId) -> Self {
        Self { shard, met: RefCell::default(), news: Event::new() }
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

    /// Which damage was met, if any was.
    pub(crate) fn found(&self) -> Option<String> {
        self.met.borrow().clone()
    }

    /// Waits until there is damage, and says which.
    pub(crate) async fn met(&self) -> String {
        loop {
            let news = self.news.listen();
            if let Some(damage) = self.found() {
                return damage;
            }
            news.await;
        }
    }
}
