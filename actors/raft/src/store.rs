//! openraft's log store over the shard log.
//!
//! Owns: the order of completions (one task reports durable writes to openraft, in the order in
//! which they were appended; after one failure nothing is reported as durable again) and the
//! bounds of a read.
//!
//! Must never: report an entry before it is durable, wait for the disk in `append`, copy payload.
//!
//! The log keeps votes, truncations and entries in one durable order, so only what openraft
//! answers to others about (a vote) or cannot undo (a truncation) is waited for here.

use std::collections::VecDeque;
use std::fmt::Debug;
use std::io;
use std::ops::{Bound, Range, RangeBounds, RangeInclusive};
use std::rc::Rc;
use std::time::Duration;

use barrage_commitlog::{CommitLog, Entry, LogError, Ticket};
use barrage_model::LogId;
use barrage_world as world;
use barrage_world::channel::{mpsc, watch};
use barrage_world::planted;
use futures_util::{Stream, stream};
use openraft::storage::{IOFlushed, LogState, RaftLogReader, RaftLogStorage};

use crate::rot::Rot;
use crate::vocabulary::{
    RaftEntry, RaftLogId, RaftVote, Types, from_raft_entry, from_raft_log_id, from_raft_vote,
    to_raft_entry, to_raft_log_id, to_raft_vote,
};

/// Payload bytes read at once: for apply, and for one message to a follower.
const READ_BYTES_MAX: usize = 4 << 20;

/// What is damaged is looked at again no sooner: openraft asks at once for what it did not get.
const ROT_PAUSE: Duration = Duration::from_millis(100);

/// Reads entries. Cheap to clone: a handle on the log.
#[derive(Clone)]
pub(crate) struct Reader {
    log: CommitLog,
    rot: Rc<Rot>,
}

/// Writes entries and the hard state.
pub(crate) struct Store {
    log: CommitLog,
    rot: Rc<Rot>,
    completions: mpsc::Sender<Completion>,
    committed: watch::Sender<Option<LogId>>,
}

struct Completion {
    ticket: Ticket,
    flushed: IOFlushed<Types>,
}

impl Store {
    /// Starts the completion task; it ends when the store is dropped.
    pub(crate) fn new(log: CommitLog, rot: Rc<Rot>) -> Self {
        // Bounded by what openraft has in flight, which the proposers bound.
        let (completions, receiver) = mpsc::unbounded();
        drop(world::spawn(complete_in_order(receiver)));
        let (committed, _) = watch::channel(log.hard_state().committed);
        Self { log, rot, completions, committed }
    }

    /// Follows what openraft says is committed.
    pub(crate) fn committed_watch(&self) -> watch::Receiver<Option<LogId>> {
        self.committed.subscribe()
    }
}

/// openraft takes a completion as a watermark: everything before it is durable too. So this task
/// waits for the tickets one by one, in the order of the appends.
async fn complete_in_order(mut receiver: mpsc::Receiver<Completion>) {
    let mut failure: Option<LogError> = None;
    while let Some(Completion { ticket, flushed }) = receiver.recv().await {
        if failure.is_none() {
            failure = ticket.await.err();
        }
        flushed.io_completed(match &failure {
            None => Ok(()),
            Some(error) => Err(failed(error)),
        });
    }
}

impl RaftLogStorage<Types> for Store {
    type LogReader = Reader;

    async fn get_log_state(&mut self) -> io::Result<LogState<Types>> {
        let floor = self.log.hard_state().floor;
        // An empty log ends at its floor.
        let last = self.log.last_log_id().max(floor);
        Ok(LogState {
            last_purged_log_id: floor.map(to_raft_log_id),
            last_log_id: last.map(to_raft_log_id),
        })
    }

    async fn get_log_reader(&mut self) -> Reader {
        Reader { log: self.log.clone(), rot: Rc::clone(&self.rot) }
    }

    async fn save_vote(&mut self, vote: &RaftVote) -> io::Result<()> {
        let saved = self.log.save_vote(from_raft_vote(vote));
        if planted("raft-vote-not-awaited") {
            // Wrong: a vote is given that a power loss takes back.
            return Ok(());
        }
        saved.await.map_err(|error| failed(&error))
    }

    /// Called before every apply: memory only, the next flush group carries it.
    async fn save_committed(&mut self, committed: Option<RaftLogId>) -> io::Result<()> {
        let Some(id) = committed.as_ref().map(from_raft_log_id) else { return Ok(()) };
        self.log.set_committed(id);
        self.committed.send_replace(Some(id));
        Ok(())
    }

    async fn read_committed(&mut self) -> io::Result<Option<RaftLogId>> {
        Ok(self.log.hard_state().committed.map(to_raft_log_id))
    }

    async fn append<I>(&mut self, entries: I, flushed: IOFlushed<Types>) -> io::Result<()>
    where
        I: IntoIterator<Item = RaftEntry>,
    {
        let entries: Result<Vec<_>, _> = entries.into_iter().map(from_raft_entry).collect();
        let ticket = self.log.append(entries.map_err(io::Error::other)?);
        if planted("raft-ack-before-flush") {
            // Wrong: an entry counts towards the quorum before the disk has it.
            flushed.io_completed(Ok(()));
            return Ok(());
        }
        let completion = Completion { ticket, flushed };
        // The task lives as long as this sender; when its executor ends, so does everything here.
        self.completions.try_send(completion).map_err(|_| failed(&LogError::Closed))
    }

    async fn truncate_after(&mut self, last: Option<RaftLogId>) -> io::Result<()> {
        let last = last.as_ref().map(from_raft_log_id);
        self.log.truncate_after(last).await.map_err(|error| failed(&error))
    }

    async fn purge(&mut self, upto: RaftLogId) -> io::Result<()> {
        // Not waited for: the log drops no file before the floor is durable, and a failure poisons.
        drop(self.log.set_floor(from_raft_log_id(&upto)));
        Ok(())
    }
}

impl Reader {
    /// The part of `range` that the log has.
    fn clamp(&self, range: Range<u64>) -> Range<u64> {
        let (Some(first), Some(last)) = (self.log.first_log_id(), self.log.last_log_id()) else {
            return 0..0;
        };
        let floor_end = self.log.hard_state().floor.map_or(0, |floor| floor.index.0 + 1);
        let start = range.start.max(first.index.0).max(floor_end);
        start..range.end.min(last.index.0 + 1)
    }

    /// The first entries of `range`, at least one, about `READ_BYTES_MAX` of payload.
    async fn read_some(&self, range: Range<u64>) -> io::Result<Vec<RaftEntry>> {
        if range.is_empty() {
            return Ok(Vec::new());
        }
        let start = range.start;
        let entries = self.log.read_entries(range.clone(), READ_BYTES_MAX).await;
        let entries = entries.map_err(|error| {
            // What cannot be applied ends the group; that it was damage says what to do then.
            self.rot.note_fatal(&error);
            io::Error::other(error)
        })?;
        let converted = in_order(range, entries)?;
        if converted.is_empty() {
            return Err(io::Error::other(format!("hole in the log at {start}")));
        }
        Ok(converted)
    }
}

impl RaftLogReader<Types> for Reader {
    async fn try_get_log_entries<R: RangeBounds<u64> + Clone + Debug>(
        &mut self,
        range: R,
    ) -> io::Result<Vec<RaftEntry>> {
        let mut range = self.clamp(half_open(&range));
        let mut entries = Vec::new();
        while !range.is_empty() {
            let some = self.read_some(range.clone()).await?;
            range.start += some.len() as u64;
            entries.extend(some);
        }
        Ok(entries)
    }

    async fn read_vote(&mut self) -> io::Result<Option<RaftVote>> {
        Ok(self.log.hard_state().vote.map(to_raft_vote))
    }

    /// Asked at every start: the last entry of each term in `range`. The log knows where terms
    /// change; no entry is read.
    async fn get_key_log_ids(
        &mut self,
        range: RangeInclusive<RaftLogId>,
    ) -> io::Result<Vec<RaftLogId>> {
        let (first, last) = (from_raft_log_id(range.start()), from_raft_log_id(range.end()));
        let mut found: Vec<LogId> = vec![first];
        let here = self.log.last_of_terms().into_iter().filter(|id| id.index > first.index);
        for id in here.map(|id| id.min(last)).chain([last]) {
            match found.last_mut() {
                Some(newest) if newest.term == id.term => *newest = id,
                _ => found.push(id),
            }
        }
        Ok(found.into_iter().map(to_raft_log_id).collect())
    }

    /// What replication reads from: entries with their payload.
    ///
    /// The first one must be the one asked for: openraft sends whatever comes here right behind
    /// the entry before `start`. When the floor has passed `start` meanwhile there is nothing to
    /// send; openraft takes that for a heartbeat and looks again.
    async fn limited_get_log_entries(
        &mut self,
        start: u64,
        end: u64,
    ) -> io::Result<Vec<RaftEntry>> {
        let range = self.clamp(start..end);
        if planted("raft-hole-replicated") {
            // Wrong: what the floor has passed is left out, and the follower never knows.
            return self.read_some(range).await;
        }
        if range.start != start || range.is_empty() {
            return Ok(Vec::new());
        }
        let read = self.log.read_whole_entries(range.clone(), READ_BYTES_MAX).await;
        if self.clamp(start..end).start != start {
            // The floor has passed the entry while it was read, and its segment may be gone.
            return Ok(Vec::new());
        }
        match read {
            Ok(entries) => in_order(range, entries),
            // An error would be the end of the node. Others have the entry whole; the follower gets
            // it when one of them leads.
            Err(error) if self.rot.note(&error) => {
                world::sleep_coarse(ROT_PAUSE).await;
                Ok(Vec::new())
            }
            Err(error) => Err(io::Error::other(error)),
        }
    }

    /// What apply reads from: in pieces, so that a restart does not hold the whole range.
    async fn entries_stream<R>(&mut self, range: R) -> impl Stream<Item = io::Result<RaftEntry>>
    where
        R: RangeBounds<u64> + Clone + Debug,
    {
        let pieces = Pieces {
            reader: self.clone(),
            rest: self.clamp(half_open(&range)),
            ready: VecDeque::new(),
        };
        stream::try_unfold(pieces, |mut pieces| async move {
            let entry = pieces.next().await?;
            Ok(entry.map(|entry| (entry, pieces)))
        })
    }
}

/// Entries as openraft's, none left out.
fn in_order(range: Range<u64>, entries: Vec<Entry>) -> io::Result<Vec<RaftEntry>> {
    let mut converted = Vec::with_capacity(entries.len());
    for (expected, entry) in range.zip(entries) {
        if entry.id.index.0 != expected {
            let found = entry.id;
            return Err(io::Error::other(format!("hole in the log at {expected}: {found:?}")));
        }
        converted.push(to_raft_entry(entry).map_err(io::Error::other)?);
    }
    Ok(converted)
}

struct Pieces {
    reader: Reader,
    rest: Range<u64>,
    ready: VecDeque<RaftEntry>,
}

impl Pieces {
    async fn next(&mut self) -> io::Result<Option<RaftEntry>> {
        if self.ready.is_empty() && !self.rest.is_empty() {
            world::yield_if_needed().await;
            self.ready = self.reader.read_some(self.rest.clone()).await?.into();
            self.rest.start += self.ready.len() as u64;
        }
        Ok(self.ready.pop_front())
    }
}

fn half_open(range: &impl RangeBounds<u64>) -> Range<u64> {
    let start = match range.start_bound() {
        Bound::Included(start) => *start,
        Bound::Excluded(before) => before.saturating_add(1),
        Bound::Unbounded => 0,
    };
    let end = match range.end_bound() {
        Bound::Included(last) => last.saturating_add(1),
        Bound::Excluded(end) => *end,
        Bound::Unbounded => u64::MAX,
    };
    start..end
}

/// The log's errors stay on their core; openraft wants one that does not care.
fn failed(error: &LogError) -> io::Error {
    io::Error::other(error.to_string())
}
