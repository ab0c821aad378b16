//! Seeding: making a replica whole by copying another one, before it is opened.
//!
//! Owns: the order in which a copy becomes a replica, its retries and its progress.
//!
//! Must never: end before everything is durable; be opened before it has ended; forget a vote that
//! the replica gave. Whom it votes for until then stands in [`crate::ballot`].
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

mod copy;

use std::fmt;
use std::io;
use std::rc::Rc;
use std::time::Duration;

use barrage_commitlog::{self as commitlog, Checkpoint, CheckpointCopy, CommitLog};
use barrage_model::{LogId, LogIndex, NodeId};
use barrage_world as world;
use barrage_world::channel::watch;
use bytes::Bytes;
use futures_util::{StreamExt, stream};

use self::copy::Copy;
use crate::ballot::Ballot;
use crate::folder::{Content, Folder, FolderError};
use crate::format::rpc::{self, Answer, Request, Route, SeedAsk, SeedPiece, SeedPlan};
use crate::machine::read_head;
use crate::peers::{Call, Peers, Urgency};
use crate::vocabulary::{RaftVote, to_raft_vote};

/// Pieces asked for at once.
const ASKED_MAX: usize = 4;
/// A piece is a few MiB: what takes longer than this is asked for again.
const PIECE_DEADLINE: Duration = Duration::from_secs(10);
/// Between two attempts, growing from the one to the other.
const PAUSE_MIN: Duration = Duration::from_millis(100);
const PAUSE_MAX: Duration = Duration::from_secs(5);
/// Bytes of a checkpoint file, at most.
const CHECKPOINT_BYTES_MAX: u64 = 1 << 36;

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
    /// Gives the replica's vote until it is whole.
    pub ballot: Rc<Ballot>,
    /// For so long after a leader was heard of nobody else gets the vote: the longest time until
    /// a follower stands for election.
    pub patience: Duration,
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
    let (folder, ballot) = (&options.folder, &options.ballot);
    // An earlier call may have left it open: what it gives is in the marker before that is read.
    ballot.close().await;
    let marker = match (folder.marker().await?, folder.content().await?) {
        (Some(marker), _) => marker,
        (None, Content::Empty) => folder.begin().await?,
        (None, Content::Whole | Content::Incomplete) => return Err(SeedError::Whole),
    };
    ballot.open(options.node, folder.clone(), marker, options.patience);
    let mut copy = Copy::open(folder).await?;
    let mut asking = Asking { options, sources: &sources, hint: None, turn: 0 };
    let mut pause = PAUSE_MIN;
    loop {
        let Some(source) = asking.next(&sources()) else {
            world::sleep(PAUSE_MAX).await;
            continue;
        };
        let before = copy.next_index();
        let attempted = asking.attempt(source, &mut copy).await;
        if attempted.is_err() {
            ballot.reopen();
        }
        match attempted {
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
    async fn attempt(&self, source: NodeId, copy: &mut Copy) -> Result<(), Stop> {
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
            let own = self.options.ballot.close().await;
            return copy.complete(&plan, checkpoint, floor, own).await;
        }
    }

    /// Copies entries until all of a plan is here, and durable.
    async fn entries(&self, source: NodeId, copy: &mut Copy) -> Result<SeedPlan, Stop> {
        loop {
            let ask = SeedAsk::Plan { previous: copy.previous().await? };
            // Nothing was acknowledged since the newest vote.
            let own = self.options.ballot.vote().map_or_else(|| RaftVote::new(0, 0), to_raft_vote);
            let plan = match self.ask(source, own, ask).await? {
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
            answer => {
                self.options.ballot.hear();
                Ok(answer)
            }
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
