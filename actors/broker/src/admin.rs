//! What the catalog's core does: change the catalog, tell every core, wait until all shards agree.
//!
//! ```text
//!   create: propose CreateTopic -> tell all cores -> each opens its partitions
//!           -> all Agreed -> answer
//!   delete: propose DeleteTopic -> tell all cores -> each closes its partitions -> all Agreed
//!           -> propose ForgetTopic -> answer
//! ```
//!
//! Nothing half-done is remembered: the catalog says what should be, each shard's own state says
//! what is, and the difference is made up whenever a core takes a copy of the catalog, also after a
//! restart.
//!
//! Owns: that order. Must never: answer before every core agrees.
//! Invariants: a topic's tombstone goes only after every shard has closed its partitions.

use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use barrage_cluster::{Command, Reply as CatalogReply};
use barrage_model::{CoreId, NodeId};
use barrage_world::channel::oneshot;
use barrage_world::{planted, sleep, spawn};

use crate::api::AdminError;
use crate::core::Core;
use crate::message::{Admin, AdminReply, Reply, Request};

/// The first core: the catalog's.
pub(crate) const CATALOG_CORE: CoreId = CoreId(0);
/// While a core's mailbox is full it is told again after this.
const TELL_RETRY: Duration = Duration::from_millis(50);

impl Core {
    /// Carries out a request to the catalog; on the catalog's core only.
    pub(crate) async fn administer(
        self: &Rc<Self>,
        admin: Admin,
    ) -> Result<AdminReply, AdminError> {
        let catalog = self.catalog_shard.get().ok_or(AdminError::NotLeader)?;
        let command = match admin {
            Admin::Create(spec) => Command::CreateTopic {
                name: spec.name,
                partitions: spec.partitions,
                retention: spec.retention.unwrap_or(self.options.retention),
            },
            Admin::Alter { name, change } => Command::AlterTopic {
                name,
                partitions: change.partitions,
                retention: change.retention,
            },
            Admin::Delete { name } => Command::DeleteTopic { name },
            Admin::AllocateProducers { count } => Command::AllocateProducers { count },
        };
        match catalog.propose(&command).await? {
            CatalogReply::Topic(topic) => {
                let creates = matches!(command, Command::CreateTopic { .. });
                if creates && planted("broker-create-answers-early") {
                    // Wrong: the topic is there, its partitions are not yet open.
                    let core = Rc::clone(self);
                    drop(spawn(async move { core.publish().await }));
                    return Ok(AdminReply::Topic(topic));
                }
                self.publish().await;
                if matches!(command, Command::DeleteTopic { .. }) {
                    catalog.propose(&Command::ForgetTopic { topic: topic.id }).await?;
                }
                Ok(AdminReply::Topic(topic))
            }
            CatalogReply::Producers { first, count } => Ok(AdminReply::Producers { first, count }),
            other => Err(AdminError::Invalid { reason: format!("unexpected answer {other:?}") }),
        }
    }

    /// Founds the cluster, or finds it founded; then this node belongs to it.
    pub(crate) async fn found(&self, cluster: &str, node: NodeId) -> Result<(), AdminError> {
        let catalog = self.catalog_shard.get().ok_or(AdminError::NotLeader)?;
        if catalog.catalog().shards() == 0 {
            let shards = u32::from(self.options.cores);
            catalog.propose(&Command::Found { cluster: cluster.to_owned(), shards }).await?;
        }
        if catalog.catalog().nodes().get(node).is_none() {
            catalog.propose(&Command::RegisterNode { node }).await?;
        }
        Ok(())
    }

    /// Finishes deletions that a crash has interrupted.
    pub(crate) async fn finish_deletions(self: Rc<Self>) {
        let Some(catalog) = self.catalog_shard.get() else { return };
        let closing: Vec<_> = catalog.catalog().closing().collect();
        if closing.is_empty() {
            return;
        }
        self.publish().await;
        for (topic, _) in closing {
            if let Err(error) = catalog.propose(&Command::ForgetTopic { topic }).await {
                tracing::warn!(%topic, %error, "a deleted topic is not forgotten yet");
            }
        }
    }

    /// Tells every core the catalog as it is now; answers when all shards agree with it.
    pub(crate) async fn publish(&self) {
        let Some(shard) = self.catalog_shard.get() else { return };
        let view = Arc::new(shard.catalog());
        let revision = view.revision();
        self.set_catalog(Arc::clone(&view));
        // All are told in this turn, so that copies arrive everywhere in the order of revisions.
        let tell =
            |core| (core, self.router.request(core, Request::Catalog(Arc::clone(&view))).ok());
        let told: Vec<(CoreId, Option<oneshot::Receiver<Reply>>)> =
            self.router.others().map(tell).collect();
        for (core, answer) in told {
            self.hear(core, answer).await;
        }
        self.agreed(revision).await;
    }

    /// Waits until a core agrees, telling it again with the newest copy if its mailbox was full.
    async fn hear(&self, core: CoreId, mut answer: Option<oneshot::Receiver<Reply>>) {
        loop {
            if let Some(answer) = answer.take()
                && answer.await.is_ok()
            {
                return;
            }
            sleep(TELL_RETRY).await;
            answer = self.router.request(core, Request::Catalog(self.catalog())).ok();
        }
    }
}
