//! The machine a group replicates, and the adapter through which openraft applies to it.
//!
//! Owns: the trait `Machine`, the group's applied state (position, membership, the newest durable
//! checkpoint), and the order of an apply: machine, then reply, then the watchers.
//!
//! Must never: read a clock, draw randomness or wait while it applies; hold a borrow across a wait.
//!
//! Invariants: the applied position only grows; a checkpoint never says more than what is applied;
//! every reply that openraft waits for is sent.

use std::any::Any;
use std::cell::RefCell;
use std::fmt;
use std::io;
use std::path::PathBuf;
use std::rc::Rc;

use barrage_commitlog::{Checkpoint, CheckpointParts, CommitLog, Floor, Run};
use barrage_model::{LogId, ShardId};
use barrage_world::channel::{Mutex, watch};
use barrage_world::planted;
use bytes::Bytes;
use futures_util::{Stream, TryStreamExt};
use openraft::storage::{EntryResponder, RaftSnapshotBuilder, RaftStateMachine};

use crate::format;
use crate::group::OpenError;
use crate::vocabulary::{
    Meta, RaftLogId, RaftPayload, Snapshot, StoredMembership, Types, from_raft_log_id,
    to_raft_log_id,
};

/// What an entry costs besides its payload when a restart re-applies it: about one read from the
/// disk. Keeps a log of many small entries from growing without a checkpoint.
const ENTRY_COST_BYTES: u64 = 16 << 10;

/// A replicated state machine: synchronous, deterministic, total over the commands it knows.
///
/// Two machines that apply the same entries in the same order give the same replies and the same
/// checkpoint, byte for byte: no clock, no randomness, no I/O, no hash-map order.
pub trait Machine: 'static {
    /// The answer to a command.
    type Reply: 'static;

    /// Called once, before anything is applied: a machine that indexes the log keeps the handle.
    fn attach(&mut self, log: &CommitLog) {
        let _ = log;
    }

    /// Applies a committed command. What cannot be done is an answer.
    ///
    /// # Errors
    /// A command that this build does not know: it changes nothing, and the replica stops. To skip
    /// it would make this state another one than that of the replicas that know it.
    fn apply(&mut self, entry: &Applied<'_>) -> Result<Self::Reply, UnknownCommand>;

    /// The whole state as it is now, in parts that are made one by one while it goes on changing.
    /// To ask for it is cheap, and so is each part: a core has other things to do in between.
    /// Versioned by the machine.
    fn checkpoint(&self) -> Parts;

    /// A checkpoint comes: its parts follow, in order. The state stays until the last one is here.
    fn begin_restore(&mut self) {}

    /// The next part that [`Machine::checkpoint`] wrote.
    ///
    /// # Errors
    /// What no machine of this kind ever wrote.
    fn restore(&mut self, part: &[u8]) -> Result<(), RestoreError>;

    /// All parts are here: the whole state is replaced by what they say.
    ///
    /// # Errors
    /// As [`Machine::restore`].
    fn end_restore(&mut self) -> Result<(), RestoreError> {
        Ok(())
    }
}

/// The parts of a checkpoint. Each is at most some 100 KiB where the state may be large.
pub struct Parts(Box<dyn Iterator<Item = Vec<u8>>>);

impl Parts {
    /// Parts that are made when they are asked for.
    pub fn new(parts: impl Iterator<Item = Vec<u8>> + 'static) -> Self {
        Self(Box::new(parts))
    }

    /// Of a state that is small.
    #[must_use]
    pub fn one(part: Vec<u8>) -> Self {
        Self::new(std::iter::once(part))
    }
}

impl Iterator for Parts {
    type Item = Vec<u8>;

    fn next(&mut self) -> Option<Vec<u8>> {
        self.0.next()
    }
}

impl fmt::Debug for Parts {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("Parts")
    }
}

/// A committed command on its way into the machine.
#[derive(Debug)]
pub struct Applied<'a> {
    /// Term and index of the entry.
    pub id: LogId,
    /// The leader's log time.
    pub log_time_ms: i64,
    /// The command's bytes.
    pub command: &'a [u8],
    /// What the entry carries beside the command. Payload may be absent: apply needs none.
    pub runs: &'a [Run],
}

/// A command of a build that is newer than this one, or of none.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error(
    "this build does not know a committed command: {0}; start the build that wrote it, or newer"
)]
pub struct UnknownCommand(pub String);

/// A checkpoint that the machine does not understand.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("checkpoint cannot be restored: {0}")]
pub struct RestoreError(pub String);

/// A machine's reply, its type erased on the way through openraft.
pub(crate) struct Reply(Option<Box<dyn Any>>);

impl Reply {
    /// The reply of an entry that no machine sees.
    const NONE: Self = Self(None);

    pub(crate) fn take<R: 'static>(self) -> R {
        match self.0.and_then(|reply| reply.downcast().ok()) {
            Some(reply) => *reply,
            None => unreachable!("a command is answered by the group's own machine"),
        }
    }
}

impl fmt::Debug for Reply {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("Reply")
    }
}

/// A machine without its reply type, so that openraft is compiled once for all machines.
pub(crate) trait ErasedMachine {
    /// As [`ErasedMachine::apply_answered`] when nobody waits: spares the allocation.
    fn apply_unanswered(&mut self, entry: &Applied<'_>) -> Result<Reply, UnknownCommand>;
    fn apply_answered(&mut self, entry: &Applied<'_>) -> Result<Reply, UnknownCommand>;
    fn checkpoint(&self) -> Parts;
    fn begin_restore(&mut self);
    fn restore(&mut self, part: &[u8]) -> Result<(), RestoreError>;
    fn end_restore(&mut self) -> Result<(), RestoreError>;
}

impl<M: Machine> ErasedMachine for M {
    fn apply_unanswered(&mut self, entry: &Applied<'_>) -> Result<Reply, UnknownCommand> {
        Machine::apply(self, entry).map(|_| Reply::NONE)
    }

    fn apply_answered(&mut self, entry: &Applied<'_>) -> Result<Reply, UnknownCommand> {
        Machine::apply(self, entry).map(|reply| Reply(Some(Box::new(reply))))
    }

    fn checkpoint(&self) -> Parts {
        Machine::checkpoint(self)
    }

    fn begin_restore(&mut self) {
        Machine::begin_restore(self);
    }

    fn restore(&mut self, part: &[u8]) -> Result<(), RestoreError> {
        Machine::restore(self, part)
    }

    fn end_restore(&mut self) -> Result<(), RestoreError> {
        Machine::end_restore(self)
    }
}

/// What the group has applied. One per group; the adapter and the group share it.
pub(crate) struct Progress {
    applied: Option<RaftLogId>,
    membership: StoredMembership,
    checkpoint: Option<Meta>,
    bytes_since_checkpoint: u64,
}

impl Progress {
    fn advance(&mut self, id: RaftLogId, changed: Option<StoredMembership>, cost_bytes: u64) {
        self.applied = Some(id);
        if let Some(membership) = changed {
            self.membership = membership;
        }
        self.bytes_since_checkpoint = self.bytes_since_checkpoint.saturating_add(cost_bytes);
    }
}

/// The adapter. Cloning shares it.
#[derive(Clone)]
pub(crate) struct Adapter {
    machine: Rc<RefCell<dyn ErasedMachine>>,
    progress: Rc<RefCell<Progress>>,
    applied: watch::Sender<Option<LogId>>,
    log: CommitLog,
    dir: PathBuf,
    shard: ShardId,
    floor: Floor,
    /// Held while a checkpoint file is written: one at a time, whoever wants it.
    saving: Rc<Mutex<()>>,
}

/// A checkpoint taken and not yet written: the parts of the machine are made while it is.
pub(crate) struct Capture {
    pub(crate) meta: Meta,
    /// Who votes.
    head: Vec<u8>,
    parts: Parts,
    cost_bytes: u64,
    /// It came from a peer.
    installed: bool,
}

impl Adapter {
    /// `restored` is the checkpoint the machine was restored from.
    pub(crate) fn new(
        machine: Rc<RefCell<dyn ErasedMachine>>,
        log: CommitLog,
        (dir, shard, floor): (PathBuf, ShardId, Floor),
        restored: Option<Meta>,
    ) -> Self {
        let id = restored.as_ref().and_then(|meta| meta.last_log_id);
        let membership = restored.as_ref().map(|meta| meta.last_membership.clone());
        let progress = Progress {
            applied: id,
            membership: membership.unwrap_or_default(),
            checkpoint: restored,
            bytes_since_checkpoint: 0,
        };
        let (applied, _) = watch::channel(id.as_ref().map(from_raft_log_id));
        let progress = Rc::new(RefCell::new(progress));
        let saving = Rc::new(Mutex::new(()));
        Self { machine, progress, applied, log, dir, shard, floor, saving }
    }

    pub(crate) fn applied(&self) -> Option<LogId> {
        *self.applied.borrow()
    }

    pub(crate) fn applied_watch(&self) -> watch::Receiver<Option<LogId>> {
        self.applied.subscribe()
    }

    pub(crate) fn bytes_since_checkpoint(&self) -> u64 {
        self.progress.borrow().bytes_since_checkpoint
    }

    /// Where the newest durable checkpoint stands.
    pub(crate) fn checkpoint_id(&self) -> Option<LogId> {
        let progress = self.progress.borrow();
        let id = progress.checkpoint.as_ref().and_then(|meta| meta.last_log_id.as_ref());
        id.map(from_raft_log_id)
    }

    /// The state as it is now, at one log index. `None` when nothing was ever applied.
    pub(crate) fn capture(&self) -> Result<Option<Capture>, format::FormatError> {
        let progress = self.progress.borrow();
        if progress.applied.is_none() {
            return Ok(None);
        }
        let parts = self.machine.borrow().checkpoint();
        let membership = match planted("raft-membership-not-in-checkpoint") {
            // Wrong: a replica that starts from the checkpoint does not know who votes.
            true => StoredMembership::default(),
            false => progress.membership.clone(),
        };
        let meta = Meta { last_log_id: progress.applied, last_membership: membership };
        let head = format::encode_checkpoint(&meta.last_membership, &[])?;
        let cost_bytes = progress.bytes_since_checkpoint;
        Ok(Some(Capture { meta, head, parts, cost_bytes, installed: false }))
    }

    /// Writes a capture; when it returns the checkpoint survives a crash.
    pub(crate) async fn save(&self, capture: Capture) -> io::Result<()> {
        let Capture { meta, head, parts, cost_bytes, installed } = capture;
        let Some(id) = meta.last_log_id else { return Ok(()) };
        let _one = self.saving.lock().await;
        let id = match planted("raft-checkpoint-ahead-of-state") {
            // Wrong: what was applied since the state was taken is claimed, too.
            true => self.progress.borrow().applied.unwrap_or(id),
            false => id,
        };
        let id = from_raft_log_id(&id);
        let parts = std::iter::once(head).chain(parts);
        match installed {
            true => self.log.install_checkpoint(id, parts).await?,
            false => self.log.write_checkpoint(id, parts).await?,
        }
        let mut progress = self.progress.borrow_mut();
        // Entries applied while the file was written count for the next one.
        progress.bytes_since_checkpoint =
            progress.bytes_since_checkpoint.saturating_sub(cost_bytes);
        let newest = progress.checkpoint.as_ref().and_then(|newest| newest.last_log_id);
        if newest < meta.last_log_id {
            progress.checkpoint = Some(meta);
        }
        Ok(())
    }

    fn apply_one(&self, (entry, responder): EntryResponder<Types>) -> io::Result<()> {
        let id = entry.log_id;
        let last = self.progress.borrow().applied;
        assert!(last.is_none_or(|last| last < id), "entries are applied in order");
        let mut cost_bytes = ENTRY_COST_BYTES;
        let mut membership = None;
        let reply = match entry.payload {
            RaftPayload::Blank => Reply::NONE,
            RaftPayload::Membership(changed) => {
                membership = Some(StoredMembership::new(Some(id), changed));
                Reply::NONE
            }
            RaftPayload::Normal(proposal) => {
                cost_bytes = cost_bytes.saturating_add(proposal.size_bytes());
                let applied = Applied {
                    id: from_raft_log_id(&id),
                    log_time_ms: proposal.log_time_ms,
                    command: &proposal.command,
                    runs: &proposal.runs,
                };
                let mut machine = self.machine.borrow_mut();
                let reply = match &responder {
                    Some(_) => machine.apply_answered(&applied),
                    None => machine.apply_unanswered(&applied),
                };
                reply.map_err(|unknown| io::Error::other(format!("entry {id}: {unknown}")))?
            }
        };
        self.progress.borrow_mut().advance(id, membership, cost_bytes);
        if let Some(responder) = responder {
            responder.send(reply);
        }
        Ok(())
    }

    /// Once per batch: waking a watcher per entry would cost more than the entry.
    fn announce(&self) {
        let applied = self.progress.borrow().applied.as_ref().map(from_raft_log_id);
        if let Some(applied) = applied {
            self.log.set_applied(applied);
        }
        self.applied.send_if_modified(|current| {
            let grown = *current < applied;
            *current = applied;
            grown
        });
    }
}

impl RaftStateMachine<Types> for Adapter {
    type SnapshotData = Bytes;
    type SnapshotBuilder = Builder;

    async fn applied_state(&mut self) -> io::Result<(Option<RaftLogId>, StoredMembership)> {
        let progress = self.progress.borrow();
        Ok((progress.applied, progress.membership.clone()))
    }

    async fn apply<S>(&mut self, mut entries: S) -> io::Result<()>
    where
        S: Stream<Item = Result<EntryResponder<Types>, io::Error>> + Unpin,
    {
        // A read error, or a command that is not known, ends the batch, and the group: what was
        // applied before it stays announced.
        let result = loop {
            let applied = match entries.try_next().await {
                Ok(Some(entry)) => self.apply_one(entry),
                Ok(None) => break Ok(()),
                Err(error) => Err(error),
            };
            if applied.is_err() {
                break applied;
            }
        };
        self.announce();
        result
    }

    async fn try_create_snapshot_builder(&mut self, force: bool) -> Option<Builder> {
        if force {
            return Some(Builder::Write(self.clone()));
        }
        // The group writes checkpoints on its own (a full disk must not end the group) and only
        // then tells openraft, which asks here what there is.
        let meta = self.progress.borrow().checkpoint.clone()?;
        Some(Builder::Written(meta))
    }

    async fn get_snapshot_builder(&mut self) -> Builder {
        Builder::Write(self.clone())
    }

    async fn install_snapshot(&mut self, meta: &Meta, snapshot: Bytes) -> io::Result<()> {
        let (membership, parts) = format::decode_checkpoint(&snapshot).map_err(io::Error::other)?;
        let head = format::encode_checkpoint(&membership, &[]).map_err(io::Error::other)?;
        // The file first: a crash in between restores the same checkpoint from it.
        let kept: Vec<Vec<u8>> = parts.iter().map(|part| part.to_vec()).collect();
        let capture = Capture {
            meta: meta.clone(),
            head,
            parts: Parts::new(kept.into_iter()),
            cost_bytes: 0,
            installed: true,
        };
        if !planted("raft-checkpoint-installed-in-memory") {
            self.save(capture).await?;
        }
        {
            // In one go: only a state that is small comes this way, see `Floor`.
            let mut machine = self.machine.borrow_mut();
            machine.begin_restore();
            for part in parts {
                machine.restore(part).map_err(io::Error::other)?;
            }
            machine.end_restore().map_err(io::Error::other)?;
        }
        {
            let mut progress = self.progress.borrow_mut();
            progress.applied = meta.last_log_id;
            progress.membership = meta.last_membership.clone();
            progress.bytes_since_checkpoint = 0;
        }
        self.announce();
        Ok(())
    }

    async fn get_current_snapshot(&mut self) -> io::Result<Option<Snapshot>> {
        let Some(meta) = self.progress.borrow().checkpoint.clone() else { return Ok(None) };
        if self.floor == Floor::Records {
            // Whoever gets it has to be copied as a whole, and only wants to know where it ends.
            let head = format::encode_checkpoint(&meta.last_membership, &[]);
            let snapshot = Bytes::from(head.map_err(io::Error::other)?);
            return Ok(Some(Snapshot { meta, snapshot }));
        }
        let Some(found) = CommitLog::read_checkpoint(&self.dir, self.shard).await? else {
            return Err(io::Error::other("the newest checkpoint is gone"));
        };
        // The file may be newer than the meta when it was just replaced; its own head says.
        let (membership, mut rest) = read_head(&found).await?;
        let mut parts = Vec::new();
        while let Some(part) = rest.next().await? {
            parts.push(part);
        }
        let bytes = format::encode_checkpoint(&membership, &parts).map_err(io::Error::other)?;
        let last_log_id = Some(to_raft_log_id(found.id));
        let found = Meta { last_log_id, last_membership: membership };
        if found.last_log_id < meta.last_log_id {
            return Err(io::Error::other("the newest checkpoint is damaged"));
        }
        Ok(Some(Snapshot { meta: found, snapshot: Bytes::from(bytes) }))
    }
}

/// The first part of a checkpoint: who votes. Behind it come those of the machine.
pub(crate) async fn read_head(
    checkpoint: &Checkpoint,
) -> io::Result<(StoredMembership, CheckpointParts)> {
    let mut parts = checkpoint.parts().await?;
    let head = parts.next().await?.unwrap_or_default();
    let (membership, _) = format::decode_checkpoint(&head)
        .map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))?;
    Ok((membership, parts))
}

/// Makes an empty machine what a checkpoint says.
pub(crate) async fn restore<M: Machine>(
    machine: &mut M,
    checkpoint: &Checkpoint,
) -> Result<Meta, OpenError> {
    let (last_membership, mut parts) = read_head(checkpoint).await.map_err(OpenError::Read)?;
    machine.begin_restore();
    while let Some(part) = parts.next().await.map_err(OpenError::Read)? {
        machine.restore(&part)?;
    }
    machine.end_restore()?;
    Ok(Meta { last_log_id: Some(to_raft_log_id(checkpoint.id)), last_membership })
}

/// Answers openraft's wish for a snapshot.
pub(crate) enum Builder {
    /// The group has written one: say which.
    Written(Meta),
    /// Write one now.
    Write(Adapter),
}

impl RaftSnapshotBuilder<Types> for Builder {
    type SnapshotData = Bytes;

    async fn build_snapshot(&mut self) -> io::Result<Snapshot> {
        let adapter = match self {
            // openraft looks at the meta only; the bytes are read when a peer needs them.
            Self::Written(meta) => {
                return Ok(Snapshot { meta: meta.clone(), snapshot: Bytes::new() });
            }
            Self::Write(adapter) => adapter,
        };
        let Some(capture) = adapter.capture().map_err(io::Error::other)? else {
            return Ok(Snapshot { meta: Meta::default(), snapshot: Bytes::new() });
        };
        adapter.save(capture).await?;
        let written = adapter.get_current_snapshot().await?;
        written.ok_or_else(|| io::Error::other("the checkpoint that was written is gone"))
    }
}
