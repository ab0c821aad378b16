//! The log that a copy is filled into.
//!
//! Owns: what of it agrees with the source, what is durable, and who may open it. Must never: take
//! a piece that is not what was asked for.

use std::io;
use std::path::PathBuf;
use std::time::Duration;

use barrage_commitlog::{self as commitlog, Checkpoint, CommitLog, Entry, ReadError, Ticket, Vote};
use barrage_model::{LogId, LogIndex, ShardId};
use barrage_world as world;
use barrage_world::channel::oneshot;
use barrage_world::fs;
use bytes::Bytes;

use super::{SeedError, SeedProgress, Stop};
use crate::folder::Folder;
use crate::format::rpc::SeedPlan;
use crate::vocabulary::from_raft_vote;

/// Pieces handed to the log and not durable yet.
const WRITING_MAX: usize = 4;
/// While an earlier seeding of the folder, whose future was dropped, closes its log.
const LOCK_PAUSE: Duration = Duration::from_millis(20);
/// Bytes of an entry's length field.
const LENGTH_SIZE: usize = 4;

/// The log that is being filled.
pub(super) struct Copy {
    pub(super) log: CommitLog,
    shard: ShardId,
    /// Where the first entry goes when the log is empty.
    begins_behind: Option<LogId>,
    /// Hash of the newest entry's header in the source's log; 0 when it is not known.
    link: u64,
    received: u64,
    writing: Vec<Ticket>,
    keeper: Keeper,
}

/// Closes the log when it is let go of, and only then frees the folder. A task of its own, because
/// the future that holds the copy may be dropped at any time and nothing may write to the folder
/// while the next one reads it.
struct Keeper {
    release: oneshot::Sender<()>,
    ended: world::JoinHandle<()>,
}

/// Locks the folder, opens the log, and closes it when it is released. A lock that is waited for by
/// a future that is dropped may be got all the same, and held by nobody until the process ends; so
/// this is no part of such a future.
async fn keep(
    folder: Folder,
    opened: oneshot::Sender<Result<CommitLog, SeedError>>,
    released: oneshot::Receiver<()>,
) {
    let lock = loop {
        let locked = fs::lock_dir(&folder.dir).await;
        if opened.is_closed() {
            // Whoever wanted it is gone, and the replica may be open by now.
            return;
        }
        match locked {
            Ok(lock) => break lock,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                world::sleep(LOCK_PAUSE).await;
            }
            Err(error) => return drop(opened.send(Err(error.into()))),
        }
    };
    match open_copy(&folder).await {
        Ok(log) => {
            drop(opened.send(Ok(log.clone())));
            // Released or dropped: either way nobody uses the log any more.
            released.await.ok();
            log.close().await;
        }
        Err(error) => drop(opened.send(Err(error))),
    }
    drop(lock);
}

async fn open_copy(folder: &Folder) -> Result<CommitLog, SeedError> {
    let (dir, options): (PathBuf, _) = (folder.dir.clone(), folder.log.clone());
    match CommitLog::open_incomplete(dir.clone(), options.clone()).await {
        Err(error @ commitlog::OpenError::Damaged(_)) => {
            // A copy can be had again; what is damaged of it is not worth a question.
            tracing::warn!(shard = %folder.shard(), %error, "copy is damaged, removed");
            CommitLog::remove_files(&dir).await?;
            Ok(CommitLog::open_incomplete(dir, options).await?)
        }
        opened => Ok(opened?),
    }
}

impl Copy {
    pub(super) async fn open(folder: &Folder) -> Result<Self, SeedError> {
        let (release, released) = oneshot::channel();
        let (opened, opening) = oneshot::channel();
        let shard = folder.shard();
        let ended = world::spawn(keep(folder.clone(), opened, released));
        let log = match opening.await {
            Ok(log) => log?,
            Err(_) => return Err(SeedError::Failed("nobody keeps it".to_owned())),
        };
        let (keeper, writing) = (Keeper { release, ended }, Vec::new());
        Ok(Self { log, shard, begins_behind: None, link: 0, received: 0, writing, keeper })
    }

    /// Makes everything durable and closes the log.
    pub(super) async fn close(self) -> Result<(), SeedError> {
        let Self { log, keeper, .. } = self;
        drop(keeper.release);
        let ended = keeper.ended.await;
        match log.poisoned() {
            None if ended.is_some() => Ok(()),
            reason => Err(SeedError::Failed(reason.unwrap_or_default())),
        }
    }

    pub(super) async fn empty(self, folder: &Folder) -> Result<Self, SeedError> {
        self.close().await?;
        CommitLog::remove_files(&folder.dir).await?;
        Self::open(folder).await
    }

    pub(super) fn next_index(&self) -> u64 {
        self.log.last_log_id().map_or(0, |last| last.index.0 + 1)
    }

    pub(super) fn progress(&self, end: u64) -> SeedProgress {
        let begin = self.log.hard_state().floor.or(self.begins_behind);
        let begin = begin.map_or(0, |floor| floor.index.0 + 1);
        SeedProgress {
            bytes: self.received,
            entries: self.next_index().saturating_sub(begin),
            of: end.saturating_sub(begin),
        }
    }

    /// The newest entry that is here, and what tells it from any other.
    pub(super) async fn previous(&self) -> Result<Option<(LogId, u64)>, Stop> {
        let Some(last) = self.log.last_log_id() else { return Ok(None) };
        match self.log.fingerprint(last.index).await {
            Ok(fingerprint) => Ok(Some((last, fingerprint.unwrap_or(0)))),
            Err(error @ ReadError::Damaged(_)) => Err(Stop::Anew(error.to_string())),
            Err(error) => Err(Stop::later(error)),
        }
    }

    /// Makes what is here a beginning of the source's log, as a follower does whose end differs.
    pub(super) async fn agree(&mut self, plan: &SeedPlan) -> Result<(), Stop> {
        // The chain is that of one source: a log that began behind a floor has hashes of its own.
        // That the newest entry here is the source's too was told by its fingerprint.
        self.link = 0;
        let Some(last) = self.log.last_log_id() else {
            self.begins_behind = plan.floor;
            return Ok(());
        };
        if plan.follows && plan.start.0 == last.index.0 + 1 {
            return Ok(());
        }
        let gone = plan.floor.is_some_and(|floor| floor.index > last.index);
        let committed = self.log.hard_state().committed;
        match committed.filter(|id| !gone && self.log.log_id_at(id.index) == Some(*id)) {
            // What was committed is in the log of every later leader.
            Some(committed) if committed < last => {
                self.done(self.log.truncate_after(Some(committed))).await?;
                Err(Stop::later("the end was not committed and has been cut off"))
            }
            _ => Err(Stop::Anew(format!("the source does not have {last:?}"))),
        }
    }

    /// Checks a piece and appends it.
    pub(super) async fn append(
        &mut self,
        plan: &SeedPlan,
        start: LogIndex,
        end: LogIndex,
        bytes: &Bytes,
    ) -> Result<(), Stop> {
        let entries = self.decode(plan, start, end, bytes)?;
        if let Some(floor) = self.begins_behind.take() {
            let hash = entries.first().map_or(0, |(_, link)| link.previous);
            // Durable with the entries: the log is one order.
            drop(self.log.begin_behind(floor, hash));
        }
        self.link = entries.last().map_or(0, |(_, link)| link.own);
        self.received = self.received.saturating_add(bytes.len() as u64);
        let entries = entries.into_iter().map(|(entry, _)| entry).collect();
        self.writing.push(self.log.append(entries));
        while self.writing.len() >= WRITING_MAX {
            let ticket = self.writing.remove(0);
            self.done(ticket).await?;
        }
        Ok(())
    }

    /// The entries of a piece: those that were asked for, each whole, in the order and the terms of
    /// the leader's log, each linked to the one before it.
    fn decode(
        &self,
        plan: &SeedPlan,
        start: LogIndex,
        end: LogIndex,
        bytes: &Bytes,
    ) -> Result<Vec<(Entry, commitlog::Link)>, Stop> {
        let spoiled = |what: &str| Stop::Later(format!("a piece is spoiled: {what}"));
        let mut entries: Vec<(Entry, commitlog::Link)> = Vec::new();
        let (mut at, mut link) = (0, self.link);
        let mut term = self.log.last_log_id().or(self.begins_behind).map(|last| last.term);
        for index in start.0..end.0 {
            let rest = bytes.get(at..).ok_or_else(|| spoiled("it ends early"))?;
            let length =
                rest.first_chunk::<LENGTH_SIZE>().map(|length| u32::from_le_bytes(*length));
            let length = length.and_then(|length| usize::try_from(length).ok());
            let length = length.filter(|length| *length <= rest.len() - LENGTH_SIZE);
            let length = length.ok_or_else(|| spoiled("an entry's length"))?;
            let from = at + LENGTH_SIZE;
            at = from + length;
            let (entry, found) = Entry::decode_raw(&bytes.slice(from..at), self.shard)
                .map_err(|error| spoiled(&error.to_string()))?;
            if link != 0 && found.previous != 0 && link != found.previous {
                return Err(spoiled("the chain of entries is broken"));
            }
            let newest = plan.vote.leader_id.term;
            let terms = term.is_none_or(|term| term <= entry.id.term) && entry.id.term.0 <= newest;
            if entry.id.index.0 != index || !terms {
                return Err(spoiled("another entry than was asked for"));
            }
            if length > self.log.entry_bytes_max() {
                let (index, size) = (entry.id.index, length);
                return Err(Stop::Over(SeedError::TooLarge { index, size }));
            }
            (link, term) = (found.own, Some(entry.id.term));
            entries.push((entry, found));
        }
        if at != bytes.len() { Err(spoiled("it is too long")) } else { Ok(entries) }
    }

    /// Waits until all that was appended is durable, and remembers what of it is committed.
    pub(super) async fn durable(&mut self, plan: &SeedPlan) -> Result<(), Stop> {
        if let Some(floor) = self.begins_behind.take() {
            let begun = self.log.begin_behind(floor, 0);
            self.done(begun).await?;
        }
        for ticket in std::mem::take(&mut self.writing) {
            self.done(ticket).await?;
        }
        // All that is here is a beginning of the leader's log.
        let last = self.log.last_log_id();
        let here = plan.committed.zip(last).map(|(committed, last)| committed.min(last));
        if let Some(committed) = here.filter(|id| self.log.log_id_at(id.index) == Some(*id)) {
            self.log.set_committed(committed);
        }
        Ok(())
    }

    /// The last steps; all of it is durable when the log is closed.
    pub(super) async fn complete(
        &mut self,
        plan: &SeedPlan,
        checkpoint: Option<Checkpoint>,
        floor: Option<LogId>,
        own: Option<Vote>,
    ) -> Result<(), Stop> {
        if let Some(checkpoint) = &checkpoint {
            if self.log.log_id_at(checkpoint.id.index) != Some(checkpoint.id) {
                return Err(Stop::Anew(format!("{:?} is another entry here", checkpoint.id)));
            }
            self.log.adopt_checkpoint(checkpoint).await.map_err(Stop::later)?;
        }
        if let Some(floor) = floor.filter(|floor| self.log.hard_state().floor < Some(*floor)) {
            // The checkpoint may have forgotten what was refused up to here. Nothing up to the
            // floor is ever indexed, so it cannot be served.
            let raised = self.log.set_floor(floor);
            self.done(raised).await?;
        }
        let led = from_raft_vote(&plan.vote);
        // The newer vote. In the same term the leader's stands: it has won that term.
        let vote = own.filter(|own| own.term > led.term).unwrap_or(led);
        let saved = self.log.save_vote(vote);
        self.done(saved).await
    }

    async fn done(&self, ticket: Ticket) -> Result<(), Stop> {
        ticket.await.map_err(|error| Stop::Over(SeedError::Failed(error.to_string())))
    }
}
