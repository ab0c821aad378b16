//! Whether a replica's folder holds all that it must, and making it so.
//!
//! Owns: which folder that is, and whom a copy is asked of; the copying is the raft crate's.

use std::rc::Rc;

use barrage_model::NodeId;
use barrage_raft::{Content, Folder, OpenError, SeedError, SeedOptions, SeedProgress, seed};
use barrage_world::channel::watch;
use barrage_world::spawn;

use super::Shard;
use super::handle::ShardOptions;
use crate::replicas::Opening;
use crate::start::StartError;

impl ShardOptions {
    /// The replica's folder.
    pub(crate) fn folder(&self) -> Folder {
        Folder { dir: self.dir.clone(), log: self.log.clone() }
    }

    /// What lies in the folder.
    pub(crate) async fn content(&self) -> Result<Content, StartError> {
        let (dir, shard) = (self.dir.clone(), self.log.shard);
        self.folder().content().await.map_err(|source| {
            tracing::error!(%shard, %source, "a shard's folder cannot be read");
            StartError::Io { action: "look into", path: dir, source }
        })
    }

    /// Copies what is missing from the leader among `sources`; `opening` tells how much came. Goes
    /// on until that is done; nothing is lost when it is dropped before.
    pub(crate) async fn make_whole(
        &self,
        sources: impl Fn() -> Vec<NodeId>,
        opening: &Opening,
    ) -> Result<(), SeedError> {
        let (progress, mut told) = watch::channel(SeedProgress::default());
        let count = Rc::clone(&opening.bytes);
        drop(spawn(async move {
            while told.changed().await.is_ok() {
                count.set(told.borrow_and_update().bytes);
            }
        }));
        let (node, folder, peers) = (self.node, self.folder(), Rc::clone(&self.peers));
        let ballot = Rc::clone(&opening.ballot);
        let patience = self.timing.election_timeout_max;
        seed(&SeedOptions { node, folder, peers, progress, ballot, patience }, sources).await
    }
}

impl Shard {
    /// Whether nobody else could make this copy good.
    pub(crate) fn is_only_copy(&self) -> bool {
        let status = self.inner.group.status();
        status.voters.iter().all(|voter| *voter == status.node)
    }

    /// Whether the group here has died of damage that others can make good.
    pub(crate) fn died_of_damage(&self) -> bool {
        self.inner.group.died_of_damage() && !self.is_only_copy()
    }

    /// Whether a replica does not open because its log is damaged: then others may repair it.
    pub(crate) fn is_damage(error: &OpenError) -> bool {
        matches!(
            error,
            OpenError::Log(barrage_commitlog::OpenError::Damaged(_)) | OpenError::Damaged(_)
        )
    }
}
