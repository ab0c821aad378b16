//! Making a shard's partitions the ones that the catalog names, while this node leads it.
//!
//! Nothing half-done is remembered: the catalog says what should be, the shard's own state says
//! what is, and the difference is made up whenever the catalog or the leader changes.
//!
//! Owns: when it is compared. Must never: say that a shard agrees before the commands are applied.

use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use barrage_cluster::Catalog;
use barrage_model::Term;
use barrage_world::{planted, sleep};

use crate::core::Core;
use crate::shard::Shard;
use crate::shard::handle::first_of;
use crate::shard::machine::ShardMachine;
use crate::shard::reconcile::difference;

/// After a shard could not be made to agree (a full disk), the next attempt.
const RETRY: Duration = Duration::from_millis(500);

impl Core {
    /// Keeps a shard in agreement with this core's copy of the catalog, for ever.
    pub(crate) async fn keep_agreeing(self: Rc<Self>, shard: Shard) {
        let mut watch = self.catalog_watch();
        let mut agreed: Option<(Term, u64)> = None;
        while !shard.group().is_over() {
            let lead_changed = shard.group().lead_changed();
            let catalog = Arc::clone(&watch.borrow_and_update());
            let now = shard.group().leader_term().map(|term| (term, catalog.revision()));
            if let Some(wanted) = now
                && now != agreed
            {
                if planted("broker-agreed-before-applied") {
                    // Wrong: partitions are announced that are not open yet.
                    shard.set_agreed(wanted.1);
                    self.news.notify_all();
                }
                if agreed.map(|(term, _)| term) != Some(wanted.0) {
                    tracing::info!(shard = %shard.id(), term = wanted.0.0, "leads");
                }
                if agree(&shard, &catalog).await {
                    agreed = now;
                    shard.set_agreed(wanted.1);
                    self.news.notify_all();
                } else {
                    sleep(RETRY).await;
                }
                continue;
            }
            first_of(async { watch.changed().await.ok().unwrap_or_default() }, lead_changed).await;
        }
    }
}

async fn agree(shard: &Shard, catalog: &Catalog) -> bool {
    let id = shard.id();
    let compare =
        |machine: &ShardMachine| difference(machine.state(), machine.groups(), catalog, id);
    let wanted = shard.group().with_machine(compare);
    for key in &wanted.orphans {
        tracing::warn!(shard = %id, partition = %key, "unknown to the catalog, kept");
    }
    for command in wanted.commands {
        if let Err(error) = shard.command(command).await {
            tracing::warn!(shard = %id, %error, "could not follow the catalog yet");
            return false;
        }
    }
    true
}
