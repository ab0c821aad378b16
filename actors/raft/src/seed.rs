//! Seeding: making a replica whole by copying another one, before it is opened.
//!
//! Owns: the order in which a copy becomes a replica, its retries and its progress.
//!
//! Must never: end before everything is durable; vote, or be opened, before it has ended; forget a
//! vote that the replica gave.
//!
//! ```text
//! lock the folder -> open what is there -+-> ask the leader for a plan
//!        ^                               |     follows what is here: entries, piece by piece
//!        |                               |     does not: cut off what is not committed,
//!        +-- start anew: remove all <----+               or start anew
//!                                              all of a plan is here: its checkpoint
//!        floor, committed, vote -> close the log -> remove `incomplete`
//! ```
//!
//! A crash at any point leaves a folder that says it is incomplete; what is in the log by then is
//! compared with the source and kept. Why a voter may be copied like this stands in
//! [`crate::source`].

use std::fmt;
use std::io;
use std::path::PathBuf;
use std::rc::Rc;
use std::time::Duration;

use barrage_commitlog::{
    self as commitlog, Checkpoint, CheckpointCopy, CommitLog, Entry, ReadError, Ticket, Vote,
};
use barrage_model::{LogId, LogIndex, NodeId, ShardId};
use barrage_world as world;
use barrage_world::channel::{oneshot, watch};
use barrage_world::fs;
use bytes::Bytes;
use futures_util::{StreamExt, stream};

use crate::folder::{Content, Folder, FolderError};
use crate::format::rpc::{self, Answer, Request, Route, SeedAsk, SeedPiece, SeedPlan};
use crate::machine::read_head;
use crate::peers::{Call, Peers, Urgency};
use crate::vocabulary::{RaftVote, from_raft_vote};

/// Pieces asked for at once.
const ASKED_MAX: usize = 4;
/// Pieces handed to the log and not durable yet.
const WRITING_MAX: usize = 4;
/// A piece is a few MiB: what takes longer than this is asked for again.
const PIECE_DEADLINE: Duration = Duration::from_secs(10);
/// Between two attempts, growing from the one to the other.
const PAUSE_MIN: Duration = Duration::from_millis(100);
const PAUSE_MAX: Duration = Duration::from_secs(5);
/// While an earlier seeding of the folder, whose future was dropped, closes its log.
const LOCK_PAUSE: Duration = Duration::from_millis(20);
/// Bytes of a checkpoint file, at most.
const CHECKPOINT_BYTES_MAX: u64 = 1 << 36;
/// Bytes of an entry's length field.
const LENGTH_SIZE: usize = 4;

/// How to seed a replica.
#[derive(Clone)]
pub struct SeedOptions {
    /// This node.
    pub node: NodeId,
    /// The replica's folder.
    pub folder: Folder,
    /// The way to the other replicas.
    pub peers: Rc<dyn Peers>,
    /// Is told how far it is.
    pub progress: watch::Sender<SeedProgress>,
}

/// How far a seeding is.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct SeedProgress {
    /// Bytes received in this attempt, of entries and of the checkpoint.
    pub bytes: u64,
    /// Entries that are here.
    pub entries: u64,
    /// Entries that the source had when it was last asked.
    pub of: u64,
}

/// Why a replica cannot be seeded. It stays incomplete.
#[derive(Debug, thiserror::Error)]
pub enum SeedError {
    /// The folder holds a replica that is whole.
    #[error("replica is whole")]
    Whole,
    /// The folder cannot be read or changed.
    #[error(transparent)]
    Folder(#[from] FolderError),
    /// The log cannot be opened.
    #[error(transparent)]
    Log(#[from] commitlog::OpenError),
    /// A write to the log failed: nothing more is known of it in this process.
    #[error("log of the copy has failed: {0}")]
    Failed(String),
    /// An entry does not fit a segment of this replica's log.
    #[error("entry {index} of {size} bytes is larger than a segment of this replica's log")]
    TooLarge {
        /// Which.
        index: LogIndex,
        /// Its bytes.
        size: usize,
    },
}

impl From<io::Error> for SeedError {
    fn from(error: io::Error) -> Self {
        Self::Folder(FolderError::Io(error))
    }
}

/// Makes the replica whole: copies the log, the checkpoint and the vote of the leader among
/// `sources`, which is asked again at every attempt. Goes on until it succeeds, also through the
/// loss of a source. Dropping the future stops it; the next call goes on where it was.
///
/// # Errors
/// When the folder is whole, or this disk or log cannot be used. A source is never the reason.
pub async fn seed(
    options: &SeedOptions,
    sources: impl Fn() -> Vec<NodeId>,
) -> Result<(), SeedError> {
    let folder = &options.folder;
    let marker = match (folder.marker().await?, folder.content().await?) {
        (Some(marker), _) => marker,
        (None, Content::Empty) => folder.begin().await?,
        (None, Content::Whole | Content::Incomplete) => return Err(SeedError::Whole),
    };
    let mut copy = Copy::open(folder).await?;
    let mut asking = Asking { options, sources: &sources, hint: None, turn: 0 };
    let mut pause = PAUSE_MIN;
    loop {
        let Some(source) = asking.next(&sources()) else {
            world::sleep(PAUSE_MAX).await;
            continue;
        };
        let before = copy.next_index();
        match asking.attempt(source, &mut copy, marker.vote).await {
            Ok(()) => break,
            Err(Stop::Over(error)) => return Err(error),
            Err(Stop::Elsewhere(leader)) => asking.hint = leader,
            Err(Stop::Later(reason)) => {
                tracing::debug!(shard = %folder.shard(), %source, reason, "seeding goes on later");
            }
            Err(Stop::Anew(reason)) => {
                tracing::warn!(shard = %folder.shard(), %source, reason, "seeding starts anew");
                copy = copy.empty(folder).await?;
            }
        }
        pause = if copy.next_index() > before { PAUSE_MIN } else { (pause * 2).min(PAUSE_MAX) };
        // Spread, so that the replicas of a node do not all ask at once.
        world::sleep(pause / 2 + pause.mul_f64(fraction() / 2.0)).await;
    }
    copy.close().await?;
    folder.finish().await?;
    tracing::info!(shard = %folder.shard(), "replica is whole");
    Ok(())
}

fn fraction() -> f64 {
    f64::from(u32::try_from(world::random_u64() >> 32).unwrap_or(0)) / f64::from(u32::MAX)
}

/// Why an attempt has ended early.
enum Stop {
    /// Another node leads, perhaps this one.
    Elsewhere(Option<NodeId>),
    Later(String),
    /// What is here cannot become a copy of the source.
    Anew(String),
    Over(SeedError),
}

impl Stop {
    fn later(reason: impl fmt::Display) -> Self {
        Self::Later(reason.to_string())
    }
}

/// The conversation with the sources.
struct Asking<'a> {
    options: &'a SeedOptions,
    sources: &'a dyn Fn() -> Vec<NodeId>,
    hint: Option<NodeId>,
    turn: usize,
}

impl Asking<'_> {
    /// Whom to ask: who is said to lead, else one after the other.
    fn next(&mut self, sources: &[NodeId]) -> Option<NodeId> {
        let others = || sources.iter().filter(|node| **node != self.options.node);
        let hint = self.hint.take().filter(|hint| others().any(|node| node == hint));
        let turn = self.turn % others().count().max(1);
        self.turn = turn + 1;
        hint.or_else(|| others().nth(turn).copied())
    }

    /// One attempt with one source, from what is here to the end.
    async fn attempt(
        &self,
        source: NodeId,
        copy: &mut Copy,
        own: Option<Vote>,
    ) -> Result<(), Stop> {
        loop {
            let plan = self.entries(source, copy).await?;
            let (checkpoint, floor) = match self.checkpoint(source, &plan, &copy.log).await? {
                Some((checkpoint, floor)) => {
                    if copy.next_index() <= checkpoint.id.index.0 {
                        // Taken behind the plan: its entries are there by now.
                        continue;
                    }
                    (Some(checkpoint), floor)
                }
                None => (None, None),
            };
            if checkpoint.is_none() && plan.floor.is_some() {
                return Err(Stop::later("the source has a floor and no checkpoint"));
            }
            return copy.complete(&plan, checkpoint, floor, own).await;
        }
    }

    /// Copies entries until all of a plan is here, and durable.
    async fn entries(&self, source: NodeId, copy: &mut Copy) -> Result<SeedPlan, Stop> {
        loop {
            let ask = SeedAsk::Plan { previous: copy.previous().await? };
            let plan = match self.ask(source, RaftVote::new(0, 0), ask).await? {
                Answer::SeedPlan(plan) => plan,
                other => return Err(unexpected(&other)),
            };
            copy.agree(&plan).await?;
            let end = plan.last.map_or(0, |last| last.index.0 + 1);
            self.options.progress.send_replace(copy.progress(end));
            let starts = std::iter::once(plan.start).chain(plan.ends.iter().copied());
            let pieces: Vec<_> = starts.zip(plan.ends.iter().copied()).collect();
            let asked = |(start, end)| {
                let ask = SeedAsk::Entries { start, end };
                async move { (start, end, self.ask(source, plan.vote, ask).await) }
            };
            // In order, a few on their way at once.
            let mut answers = stream::iter(pieces.into_iter().map(asked)).buffered(ASKED_MAX);
            while let Some((start, piece_end, answer)) = answers.next().await {
                match answer? {
                    Answer::SeedEntries(bytes) => {
                        copy.append(&plan, start, piece_end, &bytes).await?;
                    }
                    Answer::SeedDamaged => self.elsewhere(&plan, start, piece_end, copy).await?,
                    other => return Err(unexpected(&other)),
                }
                self.options.progress.send_replace(copy.progress(end));
            }
            drop(answers);
            copy.durable(&plan).await?;
            if copy.next_index() >= end {
                return Ok(plan);
            }
        }
    }

    /// Copies entries that the source cannot read from whoever can: in smaller and smaller pieces,
    /// so that copies which are damaged in different places make a whole one together.
    async fn elsewhere(
        &self,
        plan: &SeedPlan,
        start: LogIndex,
        end: LogIndex,
        copy: &mut Copy,
    ) -> Result<(), Stop> {
        let mut pieces = vec![(start, end)];
        while let Some((start, end)) = pieces.pop() {
            if let Some(bytes) = self.committed(plan, start, end).await {
                copy.append(plan, start, end, &bytes).await?;
                continue;
            }
            let middle = LogIndex(start.0.midpoint(end.0));
            if middle == start {
                return Err(Stop::Later(format!("entry {} is damaged everywhere", start.0)));
            }
            pieces.push((middle, end));
            pieces.push((start, middle));
        }
        Ok(())
    }

    /// The entries as the first one has them who knows that they are committed.
    async fn committed(&self, plan: &SeedPlan, start: LogIndex, end: LogIndex) -> Option<Bytes> {
        for node in (self.sources)().into_iter().filter(|node| *node != self.options.node) {
            let ask = SeedAsk::Committed { start, end };
            if let Ok(Answer::SeedEntries(bytes)) = self.ask(node, plan.vote, ask).await {
                return Some(bytes);
            }
        }
        None
    }

    /// The source's newest checkpoint, copied and checked, and the source's floor.
    async fn checkpoint(
        &self,
        source: NodeId,
        plan: &SeedPlan,
        log: &CommitLog,
    ) -> Result<Option<(Checkpoint, Option<LogId>)>, Stop> {
        let mut file: Option<CheckpointCopy> = None;
        let (mut index, mut floor) = (None, None);
        loop {
            let position = file.as_ref().map_or(0, CheckpointCopy::size);
            let ask = SeedAsk::Checkpoint { index, position };
            let SeedPiece { index: found, size, floor: now, bytes } =
                match self.ask(source, plan.vote, ask).await? {
                    Answer::SeedCheckpoint(piece) => piece,
                    other => return Err(unexpected(&other)),
                };
            let Some(found) = found else { return Ok(None) };
            if index.is_none() {
                (index, floor) = (Some(found), now);
            }
            let room = size.min(CHECKPOINT_BYTES_MAX).saturating_sub(position);
            if bytes.len() as u64 > room || bytes.is_empty() || index != Some(found) {
                return Err(Stop::later("the checkpoint's pieces do not fit"));
            }
            let file = match &mut file {
                Some(file) => file,
                None => file.insert(log.copy_checkpoint().await.map_err(Stop::later)?),
            };
            file.put(&bytes).await.map_err(Stop::later)?;
            let size_bytes = bytes.len() as u64;
            self.options.progress.send_if_modified(|progress| {
                progress.bytes = progress.bytes.saturating_add(size_bytes);
                true
            });
            if file.size() >= size {
                break;
            }
        }
        let Some(file) = file else { return Ok(None) };
        let found = file.end().await.map_err(Stop::later)?;
        read_head(&found).await.map_err(Stop::later)?;
        if floor.is_some_and(|floor| floor.index > found.id.index) {
            return Err(Stop::later("the checkpoint lies before the floor"));
        }
        Ok(Some((found, floor)))
    }

    async fn ask(&self, to: NodeId, vote: RaftVote, ask: SeedAsk) -> Result<Answer, Stop> {
        let shard = self.options.folder.shard();
        let route = Route { shard, from: self.options.node, to };
        let request = Request::Seed { vote, ask };
        let request = rpc::encode_request(route, &request).map_err(Stop::later)?;
        let deadline_in = PIECE_DEADLINE;
        let call = Call { to, shard, urgency: Urgency::Bulk, deadline_in, request };
        let answer = self.options.peers.call(call).await.map_err(Stop::later)?;
        match rpc::decode_answer(&answer).map_err(Stop::later)? {
            Answer::SeedElsewhere(leader) => Err(Stop::Elsewhere(leader)),
            Answer::Refused(reason) => Err(Stop::Later(reason)),
            answer => Ok(answer),
        }
    }
}

fn unexpected(answer: &Answer) -> Stop {
    match answer {
        Answer::SeedGone => Stop::later("it is not there any more"),
        Answer::SeedDamaged => Stop::later("it is damaged there"),
        other => Stop::Later(format!("unexpected answer: {other:?}")),
    }
}

/// The log that is being filled.
struct Copy {
    log: CommitLog,
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
    async fn open(folder: &Folder) -> Result<Self, SeedError> {
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
    async fn close(self) -> Result<(), SeedError> {
        let Self { log, keeper, .. } = self;
        drop(keeper.release);
        let ended = keeper.ended.await;
        match log.poisoned() {
            None if ended.is_some() => Ok(()),
            reason => Err(SeedError::Failed(reason.unwrap_or_default())),
        }
    }

    async fn empty(self, folder: &Folder) -> Result<Self, SeedError> {
        self.close().await?;
        CommitLog::remove_files(&folder.dir).await?;
        Self::open(folder).await
    }

    fn next_index(&self) -> u64 {
        self.log.last_log_id().map_or(0, |last| last.index.0 + 1)
    }

    fn progress(&self, end: u64) -> SeedProgress {
        let begin = self.log.hard_state().floor.or(self.begins_behind);
        let begin = begin.map_or(0, |floor| floor.index.0 + 1);
        SeedProgress {
            bytes: self.received,
            entries: self.next_index().saturating_sub(begin),
            of: end.saturating_sub(begin),
        }
    }

    /// The newest entry that is here, and what tells it from any other.
    async fn previous(&self) -> Result<Option<(LogId, u64)>, Stop> {
        let Some(last) = self.log.last_log_id() else { return Ok(None) };
        match self.log.fingerprint(last.index).await {
            Ok(fingerprint) => Ok(Some((last, fingerprint.unwrap_or(0)))),
            Err(error @ ReadError::Damaged(_)) => Err(Stop::Anew(error.to_string())),
            Err(error) => Err(Stop::later(error)),
        }
    }

    /// Makes what is here a beginning of the source's log, as a follower does whose end differs.
    async fn agree(&mut self, plan: &SeedPlan) -> Result<(), Stop> {
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
    async fn append(
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
    async fn durable(&mut self, plan: &SeedPlan) -> Result<(), Stop> {
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
    async fn complete(
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
