//! Shard 0: this node's replica of the catalog, on the first core.
//!
//! Owns: proposing catalog commands. Must never: answer from anything but the applied catalog.
//! Invariants: a reply is sent after its command is durable and applied.

use std::path::PathBuf;
use std::rc::Rc;

use barrage_cluster::{Catalog, CatalogError, Command, Reply};
use barrage_commitlog::Options;
use barrage_model::NodeId;
use barrage_raft::{
    Applied, Group, GroupOptions, Machine, OpenError, Parts, Peers, Proposal, ProposeError,
    RestoreError, Timing, UnknownCommand,
};
use barrage_world::unix_time_ms;
use bytes::Bytes;

use crate::api::AdminError;

/// Commands applied between two checkpoints, in bytes, at most.
const CHECKPOINT_BYTES_MAX: u64 = 4 << 20;

/// The catalog under Raft.
pub(crate) struct CatalogMachine {
    catalog: Catalog,
    log_time_ms: i64,
}

impl Machine for CatalogMachine {
    type Reply = Reply;

    fn apply(&mut self, entry: &Applied<'_>) -> Result<Reply, UnknownCommand> {
        let reply = self.catalog.apply_bytes(entry.command, entry.log_time_ms);
        if let Reply::Refused(CatalogError::Unreadable(error)) = reply {
            return Err(UnknownCommand(error.to_string()));
        }
        self.log_time_ms = self.log_time_ms.max(entry.log_time_ms);
        Ok(reply)
    }

    fn checkpoint(&self) -> Parts {
        Parts::one(self.catalog.checkpoint())
    }

    fn restore(&mut self, bytes: &[u8]) -> Result<(), RestoreError> {
        self.catalog = Catalog::restore(bytes).map_err(|error| RestoreError(error.to_string()))?;
        Ok(())
    }
}

/// How to open the catalog's shard.
pub(crate) struct CatalogOptions {
    pub(crate) node: NodeId,
    pub(crate) dir: PathBuf,
    pub(crate) log: Options,
    pub(crate) checkpoint_bytes: u64,
    pub(crate) timing: Timing,
    pub(crate) peers: Rc<dyn Peers>,
}

/// The catalog's shard; clones are the same one.
#[derive(Clone)]
pub(crate) struct CatalogShard {
    group: Group<CatalogMachine>,
}

impl CatalogShard {
    /// Opens the replica. With `founding`, forms the group. A node that is the only voter leads
    /// when this returns.
    pub(crate) async fn open(options: CatalogOptions, founding: bool) -> Result<Self, OpenError> {
        let CatalogOptions { node, dir, log, checkpoint_bytes, timing, peers } = options;
        let machine = CatalogMachine { catalog: Catalog::new(), log_time_ms: 0 };
        let options = GroupOptions {
            node,
            shard: log.shard,
            dir,
            log,
            checkpoint_bytes: checkpoint_bytes.min(CHECKPOINT_BYTES_MAX),
            timing,
            peers,
            machine,
        };
        let group = Group::open(options).await?;
        group.lead_if_alone(founding).await?;
        Ok(Self { group })
    }

    /// The group under the shard.
    pub(crate) fn group(&self) -> &Group<CatalogMachine> {
        &self.group
    }

    /// The revision of the applied catalog.
    pub(crate) fn revision(&self) -> u64 {
        self.group.with_machine(|machine| machine.catalog.revision())
    }

    /// The applied catalog; topics are shared with it, not copied.
    pub(crate) fn catalog(&self) -> Catalog {
        self.group.with_machine(|machine| machine.catalog.clone())
    }

    /// Proposes a command and waits until it is applied.
    pub(crate) async fn propose(&self, command: &Command) -> Result<Reply, AdminError> {
        let term = self.group.leader_term().ok_or(AdminError::NotLeader)?;
        if self.group.log().is_full() && !frees_space(command) {
            return Err(AdminError::DiskFull);
        }
        let last_ms = self.group.with_machine(|machine| machine.log_time_ms);
        let proposal = Proposal {
            command: Bytes::from(command.encode()),
            runs: Vec::new(),
            log_time_ms: last_ms.max(unix_time_ms()),
        };
        match self.group.propose(proposal, term).await.map(|committed| committed.reply) {
            Ok(Reply::Refused(error)) => Err(admin_error(error)),
            Ok(reply) => Ok(reply),
            Err(ProposeError::NotLeader) => Err(AdminError::NotLeader),
            Err(ProposeError::Full) => Err(AdminError::QueueFull),
            Err(ProposeError::TooLarge) => {
                Err(AdminError::Invalid { reason: "the change is too large".to_owned() })
            }
            Err(ProposeError::DiskFull) => Err(AdminError::DiskFull),
            Err(ProposeError::Lost) => Err(AdminError::Timeout),
            Err(ProposeError::Stopped) if self.group.failure().is_some() => {
                Err(AdminError::Poisoned)
            }
            Err(ProposeError::Stopped) => Err(AdminError::ShuttingDown),
        }
    }

    /// Waits until the group has failed for good.
    pub(crate) async fn failed(&self) -> String {
        self.group.failed().await
    }

    /// Closes the shard with a checkpoint.
    pub(crate) async fn shutdown(&self) {
        self.group.shutdown().await;
    }
}

fn admin_error(error: CatalogError) -> AdminError {
    let reason = error.to_string();
    match error {
        CatalogError::TopicExists => AdminError::TopicExists,
        CatalogError::UnknownTopic => AdminError::UnknownTopic,
        CatalogError::GroupExists => AdminError::GroupExists,
        CatalogError::UnknownGroup => AdminError::UnknownGroup,
        CatalogError::Full | CatalogError::GroupsFull | CatalogError::StreamsFull => {
            AdminError::LimitReached { reason }
        }
        CatalogError::Settings(_)
        | CatalogError::NotQueue
        | CatalogError::PartitionCount { .. }
        | CatalogError::Priorities { .. }
        | CatalogError::GlobalOrder { .. }
        | CatalogError::GlobalDeadLetters
        | CatalogError::PartitionsShrink { .. }
        | CatalogError::ShardCount { .. }
        | CatalogError::NoShards
        | CatalogError::Node(_)
        | CatalogError::Unreadable(_) => AdminError::Invalid { reason },
    }
}

/// What is taken while the disk is full, on the space the log keeps in reserve.
fn frees_space(command: &Command) -> bool {
    match command {
        Command::AlterTopic { .. }
        | Command::DeleteGroup { .. }
        | Command::DeleteTopic { .. }
        | Command::ForgetTopic { .. }
        | Command::Leave { .. }
        | Command::Remove { .. }
        | Command::Assign { .. } => true,
        Command::Found { .. }
        | Command::RegisterNode { .. }
        | Command::CreateTopic { .. }
        | Command::CreateGroup { .. }
        | Command::AlterGroup { .. }
        | Command::CreateStream { .. }
        | Command::AllocateProducers { .. }
        | Command::Join { .. }
        | Command::Announce { .. }
        | Command::Stay { .. }
        | Command::SetCopies { .. }
        | Command::RaiseLevel { .. } => false,
    }
}
