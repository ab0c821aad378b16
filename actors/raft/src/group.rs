//! A group: one shard's Raft replica on one core, and the only handle the layers above see.
//!
//! Owns: opening (checkpoint, log, openraft, election), proposing, checkpoints and the raft floor,
//! the fatal event, shutting down.
//!
//! Must never: retry after a failed write, serve before its own term's first entry is applied.
//!
//! ```text
//! open: read checkpoint -> restore machine -> open log -> openraft re-applies what was committed
//!       -> initialize (empty) or elect -> own term's blank entry applied -> ready
//! ```
//!
//! A group with a single voter elects itself at once. Drop every clone after [`Group::shutdown`];
//! a group that is only dropped goes on until its executor ends.

use std::cell::{Cell, RefCell};
use std::collections::BTreeSet;
use std::future::IntoFuture;
use std::io;
use std::path::PathBuf;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use barrage_commitlog::{self as commitlog, CommitLog, Floor, RecoveryReport};
use barrage_model::{LogId, NodeId, ShardId, Term};
use barrage_world as world;
use barrage_world::channel::event::{Event, Listener};
use barrage_world::channel::{Mutex, oneshot, watch};
use barrage_world::planted;
use futures_util::FutureExt;
use openraft::async_runtime::{WatchReceiver, watch::Watch};
use openraft::errors::RaftError;
use openraft::{
    AsyncRuntime, Instant as _, Raft, RaftMetrics, RaftTypeConfig, ReadPolicy, ServerState,
};

use crate::barrier::Barrier;
use crate::folder;
use crate::format;
use crate::machine::{Adapter, Machine, RestoreError, restore};
use crate::network::Network;
use crate::peers::Peers;
use crate::proposal::{Proposal, ProposeError, Proposed, ReplySender};
use crate::rot::Rot;
use crate::source::Taker;
use crate::store::Store;
use crate::tasks;
use crate::timing::Timing;
use crate::vocabulary::{CommittedLeaderId, Types};

/// Largest command without records that is taken while the disk is full.
const RESERVED_COMMAND_BYTES_MAX: u64 = 64 * 1024;
/// From the start of openraft, when all known commits have been re-applied, to the first entry of
/// the own term: one vote and two appends.
const READY_TIMEOUT: Duration = Duration::from_secs(60);
/// How long retention waits for openraft to let entries go.
const PURGE_WAIT: Duration = Duration::from_millis(100);

type Metrics =
    <<<Types as RaftTypeConfig>::AsyncRuntime as AsyncRuntime>::Watch as Watch>::Receiver<
        RaftMetrics<Types>,
    >;

/// How to open a group.
pub struct GroupOptions<M> {
    /// This node: the voter's identity, never reused.
    pub node: NodeId,
    /// The shard the group replicates.
    pub shard: ShardId,
    /// The shard's directory.
    pub dir: PathBuf,
    /// The shard log's options. Their `floor` says what a late replica gets: the checkpoint, or
    /// every entry whose records are still there.
    pub log: commitlog::Options,
    /// Payload applied since the newest checkpoint that makes the next one due; every entry counts
    /// for 16 KiB more. A restart re-applies up to this much, after a damaged checkpoint twice.
    pub checkpoint_bytes: u64,
    /// Timers and windows.
    pub timing: Timing,
    /// The way to the other replicas.
    pub peers: Rc<dyn Peers>,
    /// The machine, empty.
    pub machine: M,
}

/// Why a group does not open.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The log cannot be opened.
    #[error(transparent)]
    Log(#[from] commitlog::OpenError),
    /// The directory or its checkpoint cannot be read.
    #[error("checkpoint cannot be read: {0}")]
    Read(io::Error),
    /// The checkpoint is not what this crate wrote.
    #[error("checkpoint is damaged: {0}")]
    Checkpoint(#[from] format::FormatError),
    /// The folder says that something is missing: the replica must be seeded first.
    #[error("replica is incomplete and must be seeded")]
    Incomplete,
    /// The machine does not understand its checkpoint.
    #[error(transparent)]
    Restore(#[from] RestoreError),
    /// Entries that the group needs cannot be read: those to be applied, and those that its terms
    /// and members are told by.
    #[error("log is damaged: {0}")]
    Damaged(String),
    /// openraft refused what it found.
    #[error("group cannot start: {0}")]
    Raft(String),
    /// The group does not become ready.
    #[error("group is not ready: {0}")]
    NotReady(String),
}

/// A handle on the group. Cloning shares it.
pub struct Group<M: Machine> {
    pub(crate) core: Rc<Core>,
    machine: Rc<RefCell<M>>,
}

impl<M: Machine> Clone for Group<M> {
    fn clone(&self) -> Self {
        Self { core: Rc::clone(&self.core), machine: Rc::clone(&self.machine) }
    }
}

/// All that does not depend on the machine's type.
pub(crate) struct Core {
    pub(crate) shard: ShardId,
    pub(crate) node: NodeId,
    pub(crate) raft: Raft<Types, Adapter>,
    pub(crate) metrics: Metrics,
    pub(crate) log: CommitLog,
    pub(crate) floor: Floor,
    recovery: RecoveryReport,
    pub(crate) adapter: Adapter,
    committed: watch::Receiver<Option<LogId>>,
    pub(crate) checkpoint_bytes: u64,
    /// A lead that no majority confirmed for so long may be over.
    pub(crate) confirmed_within: Duration,
    /// Held while a checkpoint is taken: one at a time.
    checkpointing: Mutex<()>,
    /// Held while members change.
    pub(crate) changing_members: Mutex<()>,
    /// Pieces being given to replicas that are copied.
    pub(crate) giving: Rc<Cell<u32>>,
    pub(crate) rot: Rc<Rot>,
    /// Replicas that are being copied and nearly whole.
    pub(crate) takers: RefCell<Vec<Taker>>,
    pub(crate) failure: RefCell<Option<String>>,
    died_of_damage: Cell<bool>,
    pub(crate) failed: Event,
    is_behind: Cell<bool>,
    pub(crate) behind: Event,
    pub(crate) lead_changed: Event,
    barrier: Barrier,
    pub(crate) closing: Cell<bool>,
}

impl<M: Machine> Group<M> {
    /// Opens a group whose only voter is this node, and waits until it leads and everything
    /// committed before is applied. Forms the group when it is new.
    pub async fn open_alone(options: GroupOptions<M>) -> Result<Self, OpenError> {
        let group = Self::open(options).await?;
        group.lead_if_alone(true).await?;
        Ok(group)
    }

    /// Opens this node's replica of a group. It follows, or stands for election, once the group
    /// is formed; a replica of a group that exists elsewhere only waits to be found.
    pub async fn open(options: GroupOptions<M>) -> Result<Self, OpenError> {
        let GroupOptions { node, shard, dir, log, checkpoint_bytes, timing, peers, mut machine } =
            options;
        if folder::is_marked(&dir).await.map_err(OpenError::Read)? {
            return Err(OpenError::Incomplete);
        }
        assert!(timing.is_sound(), "a follower must hear a heartbeat before it stands: {timing:?}");
        let floor = log.floor;
        let found = CommitLog::read_checkpoint(&dir, shard).await.map_err(OpenError::Read)?;
        let mut restored = None;
        if let Some(found) = &found {
            restored = Some(restore(&mut machine, found).await?);
        }
        let (log, recovery) = CommitLog::open(dir.clone(), log, found).await?;
        machine.attach(&log);
        let machine = Rc::new(RefCell::new(machine));
        let place = (dir, shard, floor);
        let adapter = Adapter::new(Rc::clone(&machine) as _, log.clone(), place, restored);
        let rot = Rc::new(Rot::new(shard));
        let store = Store::new(log.clone(), Rc::clone(&rot));
        let committed = store.committed_watch();
        let config = timing.raft_config().map_err(|error| OpenError::Raft(error.to_string()))?;
        // Nobody else can lead before the lease, and the shortest time after it, are over.
        let confirmed_within = timing.election_timeout_max + timing.election_timeout_min;
        let network = Network { peers, shard, node, timing, rot: Rc::clone(&rot) };
        let raft = match Raft::new(node.0, Arc::new(config), network, store, adapter.clone()).await
        {
            Ok(raft) => raft,
            Err(error) => {
                // Its files may be set aside next: nothing must write there any more.
                log.close().await;
                return Err(rot.blamed_for(OpenError::Raft(error.to_string())));
            }
        };
        let core = Rc::new(Core {
            shard,
            node,
            metrics: raft.metrics(),
            raft,
            log,
            floor,
            recovery,
            adapter,
            committed,
            checkpoint_bytes,
            confirmed_within,
            checkpointing: Mutex::new(()),
            changing_members: Mutex::new(()),
            giving: Rc::default(),
            rot,
            takers: RefCell::default(),
            failure: RefCell::new(None),
            died_of_damage: Cell::new(false),
            failed: Event::new(),
            is_behind: Cell::new(false),
            behind: Event::new(),
            lead_changed: Event::new(),
            barrier: Barrier::default(),
            closing: Cell::new(false),
        });
        drop(world::spawn(tasks::watch_raft(Rc::downgrade(&core))));
        drop(world::spawn(tasks::watch_log(Rc::downgrade(&core))));
        drop(world::spawn(tasks::keep_checkpoints(Rc::downgrade(&core))));
        Ok(Self { core, machine })
    }

    /// Where this node is the only voter, makes it lead at once and waits until it does and has
    /// applied everything committed before. With `form`, a group that is new is formed of this node
    /// first. Answers whether the node is alone.
    ///
    /// # Errors
    /// When openraft refuses, or the group does not become ready: then it is shut down.
    pub async fn lead_if_alone(&self, form: bool) -> Result<bool, OpenError> {
        let alone = self.lead_alone(form).await;
        if alone.is_err() {
            self.shutdown().await;
        }
        // It may have begun to follow meanwhile, and have met damage at once.
        alone.map_err(|error| self.core.rot.blamed_for(error))
    }

    async fn lead_alone(&self, form: bool) -> Result<bool, OpenError> {
        let refused = |error: String| OpenError::Raft(error);
        let node = self.core.node;
        let known = self.is_formed().await.map_err(|error| refused(error.to_string()))?;
        if known && self.status().voters != BTreeSet::from([node]) {
            return Ok(false);
        }
        if known {
            let elected = self.core.raft.trigger().elect(false).await;
            elected.map_err(|error| refused(error.to_string()))?;
        } else if form {
            let formed = self.form(&BTreeSet::from([node])).await;
            formed.map_err(|error| refused(error.to_string()))?;
        } else {
            return Ok(false);
        }
        let ready = |metrics: &RaftMetrics<Types>| leader_term(metrics).is_some();
        let wait = self.core.raft.wait(Some(READY_TIMEOUT));
        let waited = wait.metrics(ready, "leads and has applied").await;
        waited.map(|_| true).map_err(|error| OpenError::NotReady(error.to_string()))
    }

    /// Proposes in `term`: refused with `NotLeader` in any other. Proposals are ordered as the
    /// calls were, also when their futures are awaited later, in another order, or never.
    pub fn propose(&self, proposal: Proposal, term: Term) -> Proposed<M::Reply> {
        if let Some(error) = self.core.refusal() {
            return Proposed::refused(error);
        }
        // Small commands without records pass on a full disk: retention and deletion are what
        // frees it, and the log keeps a segment in reserve for them.
        let small = proposal.runs.is_empty() && proposal.size_bytes() <= RESERVED_COMMAND_BYTES_MAX;
        if !small && self.core.log.is_full() {
            return Proposed::refused(ProposeError::DiskFull);
        }
        if proposal.entry_bytes_max() > self.core.log.entry_bytes_max() as u64 {
            return Proposed::refused(ProposeError::TooLarge);
        }
        let (sender, receiver) = oneshot::channel();
        let write = self.core.raft.write(proposal).responder(ReplySender(sender));
        let write = match planted("raft-proposal-in-any-term") {
            // Wrong: a stamp outlives the term it was given in.
            true => write,
            false => write.with_leader(CommittedLeaderId::from(term.0)),
        };
        // The request is queued by the first poll, or the queue is full and nothing was queued.
        match write.into_future().now_or_never() {
            Some(Ok(())) => Proposed::waiting(receiver),
            Some(Err(_)) => Proposed::refused(ProposeError::Stopped),
            None => Proposed::refused(self.core.refusal().unwrap_or(ProposeError::Full)),
        }
    }

    /// Waits until this replica has applied everything that was committed when it was asked, and
    /// knows that it still led then: what is read afterwards is not stale.
    ///
    /// # Errors
    /// When it does not lead, a majority cannot be reached, or the group has stopped.
    pub async fn read_barrier(&self) -> Result<(), ProposeError> {
        if let Some(error) = self.core.refusal() {
            return Err(error);
        }
        if planted("raft-read-without-barrier") {
            // Wrong: a leader that was cut off answers from the past.
            return self.leader_term().map(drop).ok_or(ProposeError::NotLeader);
        }
        if self.leader_term().is_none() {
            return Err(ProposeError::NotLeader);
        }
        if self.is_only_voter() {
            // Nobody leads without its vote.
            return Ok(());
        }
        let round = async || {
            // openraft waits for ever where what it waits for was cut off by another leader.
            let asked = self.core.raft.ensure_linearizable(ReadPolicy::ReadIndex);
            let barrier = world::timeout(self.core.confirmed_within, asked).await;
            let Ok(barrier) = barrier else { return Err(ProposeError::NotLeader) };
            barrier.map(drop).map_err(|error| match error {
                RaftError::APIError(_) => ProposeError::NotLeader,
                RaftError::Fatal(_) => ProposeError::Stopped,
            })
        };
        self.core.barrier.pass(round).await
    }

    fn is_only_voter(&self) -> bool {
        let metrics = self.core.metrics.borrow_watched();
        metrics.membership_config.membership().voter_ids().eq([self.core.node.0])
    }

    /// The term this replica leads in and may propose in: its own first entry of that term is
    /// applied, so everything committed before it is, too. `None` when it does not lead.
    #[must_use]
    pub fn leader_term(&self) -> Option<Term> {
        if self.core.failure.borrow().is_some() || self.core.closing.get() {
            return None;
        }
        leader_term(&self.core.metrics.borrow_watched())
    }

    /// Follows [`Self::leader_term`]: told whenever this replica has come to lead, or leads no
    /// more.
    pub fn lead_changed(&self) -> Listener {
        self.core.lead_changed.listen()
    }

    /// Whether this replica leads and a majority said so lately: one that was cut off finds out,
    /// although nobody tells it. Until then somebody else may lead: what is read here was
    /// committed, and is perhaps not the newest; see [`Self::read_barrier`].
    #[must_use]
    pub fn leads_for_sure(&self) -> bool {
        if self.leader_term().is_none() {
            return false;
        }
        let acked = self.core.metrics.borrow_watched().last_quorum_acked;
        let elapsed = acked.map(|acked| acked.into_inner().elapsed());
        elapsed.is_some_and(|elapsed| elapsed < self.core.confirmed_within) || self.is_only_voter()
    }

    /// Whether the replica leads and has applied everything committed.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        self.leader_term().is_some()
    }

    /// Looks at the machine, between two applies.
    pub fn with_machine<T>(&self, look: impl FnOnce(&M) -> T) -> T {
        look(&self.machine.borrow())
    }

    /// Changes what the machine keeps beside its replicated state (waiting readers, handles).
    /// Must not touch anything that a checkpoint contains.
    pub fn with_machine_mut<T>(&self, change: impl FnOnce(&mut M) -> T) -> T {
        change(&mut self.machine.borrow_mut())
    }

    /// The shard this group replicates.
    #[must_use]
    pub fn shard(&self) -> ShardId {
        self.core.shard
    }

    /// The shard's log: reads by position, retention, statistics.
    #[must_use]
    pub fn log(&self) -> &CommitLog {
        &self.core.log
    }

    /// What opening the log found.
    #[must_use]
    pub fn recovery(&self) -> &RecoveryReport {
        &self.core.recovery
    }

    /// The last applied entry.
    #[must_use]
    pub fn applied(&self) -> Option<LogId> {
        self.core.adapter.applied()
    }

    /// Follows the last applied entry; changes once per applied batch.
    #[must_use]
    pub fn applied_watch(&self) -> watch::Receiver<Option<LogId>> {
        self.core.adapter.applied_watch()
    }

    /// Follows the last entry known to be committed.
    #[must_use]
    pub fn committed_watch(&self) -> watch::Receiver<Option<LogId>> {
        self.core.committed.clone()
    }

    /// Takes a checkpoint now and, when the raft floor follows them, moves it to the one before.
    /// Does nothing when nothing was applied since the newest one.
    pub async fn take_checkpoint(&self) -> io::Result<()> {
        self.core.take_checkpoint().await
    }

    /// Drops the oldest segments of which nothing is wanted any more. When the floor follows the
    /// records it moves first, behind what is dropped.
    ///
    /// # Errors
    /// When the disk refuses, or the group has stopped.
    pub async fn retain(&self) -> io::Result<()> {
        if self.core.floor == Floor::Records
            && let Some(released) = self.core.log.released_floor(self.core.floor_most()).await?
            && self.core.members_have(released.index)
            && self.core.takers_have(released.index)
        {
            let purging = self.core.raft.trigger().purge_log(released.index.0).await;
            purging.map_err(io::Error::other)?;
            // A leader purges nothing that it is just sending to a follower: what cannot go now
            // goes with the next call.
            let purged = |metrics: &RaftMetrics<Types>| {
                metrics.purged.as_ref().is_some_and(|id| id.index >= released.index.0)
            };
            let wait = self.core.raft.wait(Some(PURGE_WAIT));
            drop(wait.metrics(purged, "the floor has moved").await);
        }
        self.core.log.retain().await
    }

    /// Why the group is dead, if it is.
    #[must_use]
    pub fn failure(&self) -> Option<String> {
        self.core.failure.borrow().clone()
    }

    /// Whether the group is dead or closing: it will not lead or follow again.
    #[must_use]
    pub fn is_over(&self) -> bool {
        self.core.closing.get() || self.core.failure.borrow().is_some()
    }

    /// Waits until the group is dead (a failed write, openraft gone) and says why. The process
    /// must stop then: nothing more is acknowledged.
    pub async fn failed(&self) -> String {
        loop {
            let listener = self.core.failed.listen();
            if let Some(reason) = self.failure() {
                return reason;
            }
            listener.await;
        }
    }

    /// Waits until this replica is known to miss records that the leader's log does not go back to.
    /// It goes on as it is, without getting nearer: the caller shuts it down, marks its folder as
    /// incomplete, and has it seeded. Never with a floor that follows the checkpoints.
    pub async fn needs_seed(&self) {
        loop {
            let listener = self.core.behind.listen();
            if self.core.is_behind.get() {
                return;
            }
            listener.await;
        }
    }

    /// Whether the group is dead because a committed entry could not be read, on a disk that
    /// writes well: then others may make this copy good. Does not change once the group is dead.
    #[must_use]
    pub fn died_of_damage(&self) -> bool {
        self.core.died_of_damage.get()
    }

    /// Waits until the log was found damaged when entries were read, and says how.
    pub async fn damaged(&self) -> String {
        self.core.rot.met().await
    }

    /// Stops proposing and voting, takes a last checkpoint and closes the log. The caller has
    /// waited for its own proposals. A checkpoint that cannot be written costs only time at the
    /// next start.
    pub async fn shutdown(&self) {
        if self.core.closing.replace(true) {
            return;
        }
        drop(self.core.raft.shutdown().await);
        if self.core.failure.borrow().is_none()
            && let Err(error) = self.core.write_checkpoint().await
        {
            tracing::warn!(shard = %self.core.shard, %error, "no checkpoint at shutdown");
        }
        self.core.log.close().await;
    }
}

impl Core {
    /// Why nothing may be proposed now.
    pub(crate) fn refusal(&self) -> Option<ProposeError> {
        if self.closing.get() || self.failure.borrow().is_some() {
            return Some(ProposeError::Stopped);
        }
        None
    }

    pub(crate) fn fail(&self, reason: String) {
        if self.closing.get() || self.failure.borrow().is_some() {
            return;
        }
        tracing::error!(shard = %self.shard, %reason, "group has failed");
        // A disk that cannot be written is the node's end, whatever was met before.
        self.died_of_damage.set(self.rot.is_fatal() && self.log.poisoned().is_none());
        *self.failure.borrow_mut() = Some(reason);
        self.failed.notify_all();
    }

    /// The leader's log begins behind the end of this one.
    pub(crate) fn falls_behind(&self) {
        if !self.is_behind.replace(true) {
            tracing::warn!(shard = %self.shard, "replica is behind what the leader's log holds");
        }
        self.behind.notify_all();
    }

    pub(crate) async fn take_checkpoint(&self) -> io::Result<()> {
        if planted("raft-purge-before-checkpoint")
            && let Some(applied) = self.adapter.applied()
        {
            // Wrong: the log lets go of what no checkpoint holds yet.
            drop(self.log.set_floor(applied));
        }
        let before = self.adapter.checkpoint_id();
        if !self.write_checkpoint().await? {
            return Ok(());
        }
        // openraft learns of the new checkpoint and may forget what the one before it covers: if
        // the newest file is damaged, the older one and the log after it still give the state.
        let told = self.raft.trigger().snapshot().await;
        told.map_err(io::Error::other)?;
        if let Some(before) = before
            && self.floor == Floor::Checkpoint
        {
            let purged = self.raft.trigger().purge_log(before.index.0).await;
            purged.map_err(io::Error::other)?;
        }
        Ok(())
    }

    /// Whether a new checkpoint was written.
    async fn write_checkpoint(&self) -> io::Result<bool> {
        let _one = self.checkpointing.lock().await;
        if self.adapter.applied() == self.adapter.checkpoint_id() {
            return Ok(false);
        }
        let Some(capture) = self.adapter.capture().map_err(io::Error::other)? else {
            return Ok(false);
        };
        self.adapter.save(capture).await?;
        Ok(true)
    }
}

/// Its own first entry applied in the term it leads.
pub(crate) fn leader_term(metrics: &RaftMetrics<Types>) -> Option<Term> {
    let applied_term = metrics.last_applied.as_ref().map(|id| id.leader_id.term);
    let leads = metrics.running_state.is_ok() && metrics.state == ServerState::Leader;
    // Wrong when planted: what former leaders committed may not be applied here yet.
    let caught_up =
        applied_term == Some(metrics.current_term) || planted("raft-leads-before-caught-up");
    (leads && caught_up).then_some(Term(metrics.current_term))
}
